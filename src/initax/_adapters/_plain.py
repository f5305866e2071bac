"""Plain containers: what a mapping or list of arrays outside any module is taken for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from initax._math._axes import resolve
from initax._math._sharding import placement
from initax._model._parameter import (
    UNDECLARED,
    Ancestor,
    Evidence,
    Fans,
    Layer,
    Parameter,
    declaration_of,
    why_not_drawable,
)
from initax._model._reason import Reason, Why, undeclared

PLAIN_PATTERN = "... i o"
"""How plain containers are read unless a rule restates the axes: receptive field, inputs, outputs."""


Own = dict[str, tuple[str, Any]]
"""Arrays a module owns: name within it → (path, array)."""


def join(path: str, name: str) -> str:
    """Return a dotted path with one more name."""
    return f"{path}.{name}" if path else name


def unknown(own: Own, reason: Reason | None) -> tuple[Parameter, ...]:
    """Return arrays of which nothing is known but the reason why they are kept."""
    return tuple(
        Parameter(
            path=path,
            name=name,
            role=None,
            shape=tuple(array.shape),
            dtype=array.dtype,
            sharding=placement(array),
            excluded=why_not_drawable(tuple(array.shape), array.dtype) or reason,
        )
        for name, (path, array) in own.items()
    )


def plain_layers(path: str, cls: type, own: Own, ancestors: tuple[Ancestor, ...]) -> list[Layer]:
    """Return the layers that the arrays of one container make."""
    floats = {name: entry for name, entry in own.items() if jnp.issubdtype(entry[1].dtype, np.inexact)}
    weights = {
        name: entry for name, entry in floats.items() if len(entry[1].shape) >= 2 and not _is_wide_bias(name, floats)
    }
    left = {name: entry for name, entry in own.items() if name not in weights}
    if not weights and any(name.lower() in SCALES for name in left):
        parameters = tuple(
            replace(each, role="scale" if each.name.lower() in SCALES else "bias") for each in unknown(left, None)
        )
        return [Layer(path=path, kind="Norm", cls=cls, parameters=parameters, ancestors=ancestors)]
    layers = []
    order = list(own)
    alone = len(weights) == 1
    for name, entry in weights.items():
        vectors = [each for each in left if each in floats and _may_be_bias(each)]
        bias = vectors[0] if alone and len(vectors) == 1 else _partner(name, vectors, order)
        group: Own = {name: entry} | ({bias: left.pop(bias)} if bias is not None else {})
        where = (path, ancestors) if alone else (join(path, name), (*ancestors, Ancestor(path, cls)))
        layers.append(plain_layer(where[0], cls, group, where[1], name, bias))
    if left:
        reason = undeclared("which weight it goes with can't be told" if weights else "no weight beside it")
        layers.append(Layer(path=path, kind=UNDECLARED, cls=cls, parameters=unknown(left, reason), ancestors=ancestors))
    return layers


SCALES = frozenset({"scale", "gamma"})
"""Names that make a container of vectors a norm."""

BIAS_OF = {"weights": "biases", "weight": "bias", "kernel": "bias", "w": "b", "W": "b"}
"""What a weight's name becomes in the name of its bias, tried in this order."""


def _may_be_bias(name: str) -> bool:
    """Whether a vector may be a bias by its name: a place in a list, `b`, `b_y`, `bias`, `beta`, `fc1_bias`, `offset`.

    A vector of another name beside a matrix (the `D` of a state-space model, a `log_scale`) is not to be zeroed.
    """
    lower = name.rpartition(".")[2].lower()
    return name.isdecimal() or lower.startswith("b") or "bias" in lower or lower in ("offset", "intercept")


def _is_wide_bias(name: str, own: Own) -> bool:
    """Whether an array of several axes is a bias nevertheless: of heads, `(heads, features)`, or of stacked layers.

    By its name, or as what would be the name of the bias of a weight that has more axes.
    """
    if "bias" in name.lower():
        return True
    rank = len(own[name][1].shape)
    return any(
        part in other and other.replace(part, bias, 1) == name and rank < len(entry[1].shape)
        for other, entry in own.items()
        for part, bias in BIAS_OF.items()
    )


def _partner(weight: str, vectors: list[str], order: list[str]) -> str | None:
    """The vector that is a weight's bias: by name (`w1` and `b1`), or in a list by standing right behind it."""
    for own, other in BIAS_OF.items():
        if own in weight and weight.replace(own, other, 1) in vectors:
            return weight.replace(own, other, 1)
    if weight.isdecimal():
        behind = order[order.index(weight) + 1 : order.index(weight) + 2]
        return behind[0] if behind and behind[0] in vectors else None
    return None


UNSPLIT = undeclared(
    "names of Flax that are joined do not tell its axes",
    hint='take the names apart: flax.traverse_util.unflatten_dict(params, sep="/")',
)
"""Why a weight is kept whose name holds those of the modules around it."""

JOINED = re.compile(r"[./](kernel|embedding)$")
"""Names of Flax's weights with the names of the modules around them."""


def doubted(layers: Sequence[Layer]) -> list[Layer]:
    """Return layers where no weight is read as `... i o` that may well be stored the other way round.

    The bias of one weight tells for all without one: PyTorch, Equinox and those who follow them keep outputs first
    throughout. So does a name like `conv1.weight`, which is a path of theirs. One like `query/kernel` is a path of
    Flax's, whose axes are told by the names once they are apart.
    """
    told = next((found for layer in layers if (found := _told_by_bias(layer))), None)
    return [
        replace(layer, parameters=tuple(_doubted(each, layer, told) for each in layer.parameters)) for layer in layers
    ]


def _told_by_bias(layer: Layer) -> str | None:
    """The path of the layer's weight, if its bias fits what would be the inputs of the way it is read, and no other."""
    if not _is_plain(layer) or len(layer.parameters) != 2:
        return None
    weight, bias = sorted(layer.parameters, key=lambda each: each.role == "bias")
    fits = bias.role == "bias" and bias.shape == weight.shape[:1] != weight.shape[-1:]
    return weight.path if fits else None


def _doubted(weight: Parameter, layer: Layer, told: str | None) -> Parameter:
    if weight.excluded is not None or weight.role != "weight" or not _is_plain(layer):
        return weight
    if JOINED.search(weight.name):
        return replace(weight, excluded=UNSPLIT)
    if len(layer.parameters) > 1:
        return weight
    if len(weight.shape) == 2 and weight.shape[0] == weight.shape[1]:
        return weight
    if weight.name.endswith(".weight"):
        reason = f"a weight that PyTorch or a path calls {weight.name} has its outputs first"
    elif told is not None:
        reason = f"{told} has its outputs first, by its bias, so this one may, too"
    else:
        return weight
    hint = f'say what the axes are, in stored order: ix.Scheme(..., axes={{"{weight.name}": "o i ..."}})'
    return replace(weight, excluded=undeclared(reason, Why.CONTRADICTED, hint))


def _is_plain(layer: Layer) -> bool:
    """Whether it is a weight of a plain container, as `plain_layer` makes it."""
    return any(each.axes is not None and each.axes.pattern == PLAIN_PATTERN for each in layer.parameters) and (
        declaration_of(layer.cls) is None
    )


def plain_layer(
    path: str, cls: type, own: Own, ancestors: tuple[Ancestor, ...], weight: str, bias: str | None
) -> Layer:
    """Return the layer that a weight and its bias make."""
    weight_shape = tuple(own[weight][1].shape)
    if len(weight_shape) < 2:
        return Layer(
            path=path,
            kind=UNDECLARED,
            cls=cls,
            parameters=unknown(own, undeclared("not a matrix")),
            ancestors=ancestors,
        )
    axes = resolve(PLAIN_PATTERN, weight_shape)
    problem = None
    if bias is not None and tuple(own[bias][1].shape) not in ((weight_shape[-1],), ()):
        size = tuple(own[bias][1].shape)
        detail = f'{bias} {size} does not fit {weight} {weight_shape} read as "{PLAIN_PATTERN}"'
        problem = undeclared(detail, Why.CONTRADICTED)
    parameters = []
    for name, (where, array) in own.items():
        shape = tuple(array.shape)
        is_weight = name == weight
        excluded = why_not_drawable(shape, array.dtype) or problem
        parameters.append(
            Parameter(
                path=where,
                name=name,
                role="weight" if is_weight else "bias",
                shape=shape,
                dtype=array.dtype,
                axes=axes if is_weight else resolve("o", shape) if len(shape) == 1 else None,
                fans=Fans.of(axes),
                evidence=Evidence.GUESSED,
                sharding=placement(array),
                excluded=excluded,
            )
        )
    kind = "Linear" if len(weight_shape) == 2 else "Conv"
    return Layer(path=path, kind=kind, cls=cls, parameters=tuple(parameters), ancestors=ancestors)
