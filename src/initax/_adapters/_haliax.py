"""Haliax: arrays name their axes, and modules say which of these are inputs and outputs. No class needs a row."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import haliax
from haliax.nn.normalization import LayerNormBase

from initax._adapters._nodes import Node
from initax._adapters._shared_patterns import looked_up, numbered, of_stride, of_transposed_stride
from initax._math._axis_names import STACK_NAMES
from initax._model._declared import Field
from initax._model._parameter import DefaultSpec

BIASES = frozenset({"bias", "b"})
"""Names of arrays over the outputs that are added to them; one of another name may be a scale."""


def describe(node: Any) -> Node | None:
    """Return that a named array is a box, from whose axes the module that holds it is read. A module is Equinox's."""
    return Node("box", value=node.array, holder=_module) if isinstance(node, haliax.NamedArray) else None


def _module(module: Any) -> Node | None:
    """What a module is whose arrays have named axes: its own attributes say which of them are inputs and outputs."""
    named = {name: value for name, value in vars(module).items() if isinstance(value, haliax.NamedArray)}
    arrays = {name: value for name, value in named.items() if hasattr(value.array, "shape")}
    if isinstance(module, LayerNormBase):
        return _norm(module, arrays)
    if isinstance(module, haliax.nn.Embedding):
        return _embedding(module, arrays)
    if isinstance(module, haliax.nn.Conv | haliax.nn.ConvTranspose):
        return _conv(module, arrays)
    return _linear(module, arrays)


def _names(spec: Any) -> tuple[str, ...]:
    """The names of one axis or of several."""
    if isinstance(spec, str):
        return (spec,)
    if isinstance(spec, haliax.Axis):
        return (spec.name,)
    return tuple(name for axis in spec for name in _names(axis)) if isinstance(spec, Iterable) else ()


def _sides(letter: str, spec: Any) -> dict[str, str]:
    """Names of Haliax → names of initax, which begin with a letter that says what the axis is."""
    names = _names(spec)
    return dict(zip(names, numbered(letter, len(names)), strict=True))


def _pattern(array: Any, sides: Mapping[str, str]) -> str:
    """The pattern of an array; axes that its module does not name are those of a stack."""
    stacks = iter(STACK_NAMES)
    written: list[str] = []
    for name in _names(array.axes):
        axis = sides[name] if name in sides else next(stacks, name)
        if axis != "..." or written[-1:] != ["..."]:
            written.append(axis)
    return " ".join(written)


def _fields(arrays: Mapping[str, Any], sides: Mapping[str, str], rows: Mapping[str, Any]) -> dict[str, Field]:
    """The rows of the arrays that a module has: the axes of each, and further fields by name."""
    return {name: Field(pattern=_pattern(arrays[name], sides), **row) for name, row in rows.items() if name in arrays}


def _linear(module: Any, arrays: Mapping[str, Any]) -> Node | None:
    """A module with axes `In` and `Out`, whichever class it is of, and one array that has all of both."""
    inputs, outputs = _sides("i", getattr(module, "In", None)), _sides("o", getattr(module, "Out", None))
    sides = {**inputs, **outputs, **_sides("expert", getattr(module, "Experts", None))}
    weights = [name for name, array in arrays.items() if {*inputs, *outputs} <= set(_names(array.axes))]
    if not inputs or not outputs or len(weights) != 1:  # of two weights, one may well lead back
        return None
    rows: dict[str, Any] = {weights[0]: {"role": "weight", "default": functools.partial(_default, "In", "Out")}}
    for name, array in arrays.items():
        axes = set(_names(array.axes))
        if name in BIASES and set(outputs) <= axes and not set(inputs) & axes:
            rows[name] = {"role": "bias", "of": weights[0], "default": "zeros"}
    return Node(kind="Linear", fields=_fields(arrays, sides, rows))


def _default(inputs: str, outputs: str, module: Any) -> DefaultSpec:
    """What Haliax draws: a normal cut at three deviations, scaled by the module's parametrization."""
    sides, reparam = (getattr(module, inputs), getattr(module, outputs)), getattr(module, "reparam", None)
    scale = 1 / math.sqrt(haliax.axis_size(sides[0])) if reparam is None else reparam.init_scale(*sides)
    return ("truncated_normal", {"stddev": float(scale), "lower": -3.0, "upper": 3.0})


def _embedding(module: Any, arrays: Mapping[str, Any]) -> Node:
    sides = _sides("o", module.Vocab) | _sides("i", module.Embed)
    row = {"role": "embedding", "default": functools.partial(_default, "Vocab", "Embed"), "effective": looked_up}
    return Node(kind="Embedding", fields=_fields(arrays, sides, {"weight": row}))


def _norm(module: Any, arrays: Mapping[str, Any]) -> Node:
    sides = _sides("o", module.axis)
    rows = {"weight": {"role": "scale", "default": "ones"}, "bias": {"role": "bias", "default": "zeros"}}
    return Node(kind="Norm", fields=_fields(arrays, sides, rows))


def _conv(module: Any, arrays: Mapping[str, Any]) -> Node:
    """A convolution, whose groups are merged with its outputs."""
    spatial: Sequence[str] = _names(module.Spatial)
    sides = {**dict.fromkeys(spatial, "..."), module.In.name: "i", module.Out.name: "(g o)"}
    shared: dict[str, Any] = {
        "sizes": {"g": module.groups, "o": module.Out.size // module.groups},
        "default": ("uniform_fan_in", {"fan": module.In.size // module.groups * math.prod(module.kernel_size)}),
    }
    is_transposed = isinstance(module, haliax.nn.ConvTranspose)
    rows = {
        "weight": {"role": "weight", "effective": of_transposed_stride if is_transposed else of_stride, **shared},
        "bias": {"role": "bias", "of": "weight", **shared},
    }
    return Node(kind="ConvTranspose" if is_transposed else "Conv", fields=_fields(arrays, sides, rows))
