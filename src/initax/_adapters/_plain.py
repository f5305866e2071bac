"""Layers of plain containers, guessed from names and shapes of arrays outside any module."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from initax._adapters._nodes import join
from initax._math._axes import resolve
from initax._math._sharding import placement
from initax._model._evidence import TABLES, may_be_bias
from initax._model._parameter import UNDECLARED, Ancestor, Evidence, Fans, Layer, Parameter, Role, why_not_drawable
from initax._model._reason import Reason, undeclared

PLAIN_PATTERN = "... i o"
"""How a weight in a plain container is read unless a rule restates the axes: receptive field, inputs, outputs."""

Own = dict[str, tuple[str, Any]]
"""Arrays a module owns: name within it → (path, array)."""


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


@dataclass(frozen=True, slots=True)
class _Container:
    """The arrays of one container, with lookups over all of them.

    Attributes:
        own: the arrays.
        order: their names in order; a list that became a mapping has numbers sorted as words.
        places: name → its place in that order.
        ranks: name that the bias of a weight here would have → the most axes of such a weight.
    """

    own: Own
    order: list[str]
    places: dict[str, int]
    ranks: dict[str, int]

    @classmethod
    def of(cls, own: Own) -> _Container:
        """Return arrays side by side."""
        order = sorted(own, key=int) if all(name.isdecimal() for name in own) else list(own)
        ranks: dict[str, int] = {}
        for name, (_, array) in own.items():
            for part, bias in BIAS_OF.items():
                if part in name:
                    other = name.replace(part, bias, 1)
                    ranks[other] = max(ranks.get(other, 0), len(array.shape))
        return cls(own, order, {name: index for index, name in enumerate(order)}, ranks)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return tuple(self.own[name][1].shape)


def plain_layers(path: str, cls: type, own: Own, ancestors: tuple[Ancestor, ...]) -> list[Layer]:
    """Return the layers that the arrays of one container suggest: each weight, with its bias where names tell it."""
    floats = {name: entry for name, entry in own.items() if jnp.issubdtype(entry[1].dtype, np.inexact)}
    inexact, every = _Container.of(floats), _Container.of(own)
    weights = {
        name: None for name, entry in floats.items() if len(entry[1].shape) > 1 and not _is_no_weight(name, inexact)
    }
    left = {name: entry for name, entry in own.items() if name not in weights}
    scales = [name for name in left if name.lower() in SCALES]
    if not weights and scales:
        parameters = tuple(_norm_parameter(each) for each in unknown(left, None))
        return [Layer(path=path, kind="Norm", cls=cls, parameters=parameters, ancestors=ancestors)]
    # Beside a norm's scale a bias may be the norm's.
    vectors = {} if scales else {name: None for name in left if name in floats and may_be_bias(name)}
    layers = []
    alone = len(weights) == 1
    for name in weights:
        only = next((each for each in vectors if "." not in each), None) if alone and len(vectors) == 1 else None
        bias = only or _partner(name, vectors) or _row_behind(name, left, every)
        group: Own = {name: own[name]}
        if bias is not None:
            group[bias] = left.pop(bias)
            vectors.pop(bias, None)
        where = (path, ancestors) if alone else (join(path, name), (*ancestors, Ancestor(path, cls)))
        layers.append(plain_layer(where[0], cls, group, where[1], name, bias))
    if left:
        detail = "a bias or a scale, and of which weight, can't be told" if weights else "no weight beside it"
        parameters = unknown(left, undeclared(detail))
        layers.append(Layer(path=path, kind=UNDECLARED, cls=cls, parameters=parameters, ancestors=ancestors))
    return layers


SCALES = frozenset({"scale", "gamma"})
"""Names that make a container of vectors a norm."""

BIAS_OF = {"weights": "biases", "weight": "bias", "kernel": "bias", "w": "b", "W": "b"}
"""What a weight's name becomes in the name of its bias, tried in this order."""


def _norm_parameter(array: Parameter) -> Parameter:
    """Return an array beside a norm's scale as what its name says."""
    if array.excluded is not None:
        return array
    if array.name.lower() in SCALES:
        return replace(array, role="scale", evidence=Evidence.NAMED)
    if may_be_bias(array.name):
        return replace(array, role="bias", evidence=Evidence.NAMED)
    return replace(array, excluded=undeclared("beside a norm's scale, and neither scale nor bias by its name"))


def _is_no_weight(name: str, container: _Container) -> bool:
    """Return whether an array of several axes is not a weight: a scale, or a bias of heads or stacked layers, or a row.

    By its name, or as what would be the name of the bias of a weight, or without a name as what goes with the array in
    front of it.
    """
    lower = name.rpartition(".")[2].lower()
    if any(word in lower for word in ("bias", "offset", "beta", *SCALES)):
        return True
    shape = container.shape(name)
    is_row = sum(size != 1 for size in shape) <= 1
    if is_row and may_be_bias(name):
        return True
    if name.isdecimal():
        return _goes_with_the_one_before(name, shape, container)
    return name in container.ranks and (is_row or len(shape) < container.ranks[name])


def _goes_with_the_one_before(name: str, shape: tuple[int, ...], container: _Container) -> bool:
    """Return whether an array without a name has the outputs of the one before it: its last axes, a row, a column."""
    index = container.places[name]
    before = container.shape(container.order[index - 1]) if index else ()
    if len(before) > len(shape):
        return shape in (before[-len(shape) :], (*before[: len(shape) - 1], before[-1]))
    if len(before) != len(shape):
        return False
    return shape == (*(1,) * (len(shape) - 1), before[-1]) or shape == (before[0], *(1,) * (len(shape) - 1))


def _row_behind(weight: str, left: Own, container: _Container) -> str | None:
    """Return the row without a name that is added to a weight's outputs: the only one behind it of as many axes."""
    index = container.places[weight]
    behind = container.order[index + 1 : index + 3] if weight.isdecimal() else []
    shape = container.shape(weight)
    row = (*(1,) * (len(shape) - 1), shape[-1])
    rows = [name for name in behind if name in left and container.shape(name) == row != shape]
    return rows[0] if rows and rows == behind[:1] else None


def _partner(weight: str, vectors: Collection[str]) -> str | None:
    """Return the vector that is a weight's bias by its name: `w1` and `b1`."""
    for own, other in BIAS_OF.items():
        if own in weight and weight.replace(own, other, 1) in vectors:
            return weight.replace(own, other, 1)
    return None


JOINED = re.compile(r"[./](kernel|embedding)$")
"""Names of Flax's weights with the names of the modules around them."""

UNSPLIT = undeclared(
    "names of Flax that are joined do not tell its axes",
    hint='take the names apart: flax.traverse_util.unflatten_dict(params, sep="/")',
)
"""Why a weight is kept whose name holds those of the modules around it."""


def plain_layer(
    path: str, cls: type, own: Own, ancestors: tuple[Ancestor, ...], weight: str, bias: str | None
) -> Layer:
    """Return the layer that a weight and its bias make, as their names and shapes suggest."""
    shape = tuple(own[weight][1].shape)
    if len(shape) < 2:
        parameters = unknown(own, undeclared("not a matrix"))
        return Layer(path=path, kind=UNDECLARED, cls=cls, parameters=parameters, ancestors=ancestors)
    is_table = len(shape) == 2 and TABLES.search(weight) is not None and bias is None
    axes = resolve("o i" if is_table else PLAIN_PATTERN, shape)
    role: Role = "embedding" if is_table else "weight"
    fans = Fans((axes.fan_in, axes.fan_out), (1, axes.fan_in)) if is_table else Fans.of(axes)
    reason = UNSPLIT if JOINED.search(weight) else None
    parameters = tuple(
        Parameter(
            path=where,
            name=name,
            role=role if name == weight else "bias",
            shape=tuple(array.shape),
            dtype=array.dtype,
            axes=axes if name == weight else _bias_axes(tuple(array.shape)),
            fans=fans,
            evidence=Evidence.NAMED if is_table else Evidence.GUESSED,
            sharding=placement(array),
            excluded=why_not_drawable(tuple(array.shape), array.dtype) or reason,
        )
        for name, (where, array) in own.items()
    )
    kind = "Embedding" if is_table else "Linear" if len(shape) == 2 else "Conv"
    return Layer(path=path, kind=kind, cls=cls, parameters=parameters, ancestors=ancestors)


def _bias_axes(shape: tuple[int, ...]) -> Any:
    """Return the axes of a bias: one axis of outputs, behind axes of size 1."""
    return resolve(" ".join([*["1"] * (len(shape) - 1), "o"]), shape) if shape and set(shape[:-1]) <= {1} else None
