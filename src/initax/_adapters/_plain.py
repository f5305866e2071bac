"""Layers of plain containers, guessed from names and shapes of arrays outside any module."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from initax._adapters._nodes import join
from initax._math._axes import Axes, resolve
from initax._math._sharding import placement
from initax._model._evidence import TABLES, may_be_bias
from initax._model._parameter import UNDECLARED, Ancestor, Evidence, Fans, Layer, Parameter, Role, new_layer
from initax._model._reason import Reason, undeclared, why_not_drawable

PLAIN_PATTERN = "... i o"
"""How a weight in a plain container is read unless a rule restates the axes: receptive field, inputs, outputs."""

Arrays = dict[str, tuple[str, Any]]
"""Arrays a module owns: name within it → (path, array)."""


def of_array(
    path: str, name: str, array: Any, reason: Reason | None, role: Role | None = None, **further: Any
) -> Parameter:
    """Return the parameter that an array is.

    Args:
        path: its path.
        name: its name in its layer.
        array: the array.
        reason: why it is kept, where nothing about the array itself says so.
        role: its role.
        **further: further fields of the parameter.
    """
    shape = tuple(array.shape)
    excluded = why_not_drawable(shape, array.dtype) or reason
    return Parameter(
        path=path,
        name=name,
        role=role,
        shape=shape,
        dtype=array.dtype,
        sharding=placement(array),
        excluded=excluded,
        **further,
    )


def unknown(arrays: Arrays, reason: Reason | None, role: Role | None = None) -> tuple[Parameter, ...]:
    """Return arrays whose axes are not known, and the reason why they are kept."""
    return tuple(of_array(path, name, array, reason, role) for name, (path, array) in arrays.items())


class _Container:
    """The arrays of one container, with lookups over all of them.

    Attributes:
        arrays: the arrays.
        order: their names in order; a list that became a mapping has numbers sorted as words.
        places: name → its place in that order.
        ranks: name that the bias of a weight here would have → the most axes of such a weight.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.order = sorted(arrays, key=int) if all(name.isdecimal() for name in arrays) else list(arrays)
        self.places = {name: index for index, name in enumerate(self.order)}
        self.ranks: dict[str, int] = {}
        for name, (_, array) in arrays.items():
            for bias_name in _bias_names(name):
                self.ranks[bias_name] = max(self.ranks.get(bias_name, 0), len(array.shape))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return tuple(self.arrays[name][1].shape)


def plain_layers(path: str, cls: type, arrays: Arrays, ancestors: tuple[Ancestor, ...]) -> list[Layer]:
    """Return the layers that the arrays of one container suggest: each weight, with its bias where names tell it."""
    floats = {name: entry for name, entry in arrays.items() if jnp.issubdtype(entry[1].dtype, np.inexact)}
    inexact, container = _Container(floats), _Container(arrays)
    weights = {
        name: None for name, entry in floats.items() if len(entry[1].shape) > 1 and not _is_no_weight(name, inexact)
    }
    left = {name: entry for name, entry in arrays.items() if name not in weights}
    scales = [name for name in left if name.lower() in SCALES]
    if not weights and scales:
        return [new_layer(path, "Norm", cls, tuple(map(_norm_parameter, unknown(left, None))), ancestors)]
    # Beside a norm's scale a bias may be the norm's.
    vectors = {} if scales else {name: None for name in left if name in floats and may_be_bias(name)}
    layers = []
    alone = len(weights) == 1
    for name in weights:
        only = next((vector for vector in vectors if "." not in vector), None) if alone and len(vectors) == 1 else None
        bias = only or _partner(name, vectors) or _row_behind(name, left, container)
        group: Arrays = {name: arrays[name]}
        if bias is not None:
            group[bias] = left.pop(bias)
            vectors.pop(bias, None)
        inside, around = (path, ancestors) if alone else (join(path, name), (*ancestors, Ancestor(path, cls)))
        layers.append(plain_layer(inside, cls, group, around, name, bias))
    if left:
        detail = "a bias or a scale, and of which weight, can't be told" if weights else "no weight beside it"
        layers.append(new_layer(path, UNDECLARED, cls, unknown(left, undeclared(detail)), ancestors))
    return layers


SCALES = frozenset({"scale", "gamma"})
"""Names that make a container of vectors a norm."""

BIAS_OF = {"weights": "biases", "weight": "bias", "kernel": "bias", "w": "b", "W": "b"}
"""What a weight's name becomes in the name of its bias, tried in this order."""


def _norm_parameter(array: Parameter) -> Parameter:
    """Return an array beside a norm's scale as what its name says."""
    if array.excluded is not None:
        return array
    is_scale = array.name.lower() in SCALES
    if is_scale or may_be_bias(array.name):
        return replace(array, role="scale" if is_scale else "bias", evidence=Evidence.NAMED)
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


def _row_behind(weight: str, left: Arrays, container: _Container) -> str | None:
    """Return the row without a name that is added to a weight's outputs: the only one behind it of as many axes."""
    index = container.places[weight]
    behind = container.order[index + 1 : index + 3] if weight.isdecimal() else []
    shape = container.shape(weight)
    row = (*(1,) * (len(shape) - 1), shape[-1])
    rows = [name for name in behind if name in left and container.shape(name) == row != shape]
    return rows[0] if rows and rows == behind[:1] else None


def _partner(weight: str, vectors: Collection[str]) -> str | None:
    """Return the vector that is a weight's bias by its name: `w1` and `b1`."""
    return next((name for name in _bias_names(weight) if name in vectors), None)


def _bias_names(weight: str) -> Iterator[str]:
    """Yield the names that the bias of a weight may have."""
    return (weight.replace(part, bias, 1) for part, bias in BIAS_OF.items() if part in weight)


JOINED = re.compile(r"[./](kernel|embedding)$")
"""Names of Flax's weights with the names of the modules around them."""

UNSPLIT = undeclared(
    "names of Flax that are joined do not tell its axes",
    hint='take the names apart: flax.traverse_util.unflatten_dict(params, sep="/")',
)
"""Why a weight is kept whose name holds those of the modules around it."""


def plain_layer(
    path: str, cls: type, arrays: Arrays, ancestors: tuple[Ancestor, ...], weight: str, bias: str | None
) -> Layer:
    """Return the layer that a weight and its bias make, as their names and shapes suggest."""
    shape = tuple(arrays[weight][1].shape)
    if len(shape) < 2:
        return new_layer(path, UNDECLARED, cls, unknown(arrays, undeclared("not a matrix")), ancestors)
    is_table = len(shape) == 2 and TABLES.search(weight) is not None and bias is None
    axes = resolve("o i" if is_table else PLAIN_PATTERN, shape)
    role: Role = "embedding" if is_table else "weight"
    fans = Fans((axes.fan_in, axes.fan_out), (1, axes.fan_in)) if is_table else Fans.of(axes)
    reason = UNSPLIT if JOINED.search(weight) else None
    known: dict[str, Any] = {"fans": fans, "evidence": Evidence.NAMED if is_table else Evidence.GUESSED}
    parameters = tuple(
        of_array(array_path, name, array, reason, role, axes=axes, **known)
        if name == weight
        else of_array(array_path, name, array, reason, "bias", axes=_bias_axes(array.shape), **known)
        for name, (array_path, array) in arrays.items()
    )
    kind = "Embedding" if is_table else "Linear" if len(shape) == 2 else "Conv"
    return new_layer(path, kind, cls, parameters, ancestors)


def _bias_axes(shape: Sequence[int]) -> Axes | None:
    """Return the axes of a bias: one axis of outputs, behind axes of size 1."""
    shape = tuple(shape)
    return resolve(" ".join([*["1"] * (len(shape) - 1), "o"]), shape) if shape and set(shape[:-1]) <= {1} else None
