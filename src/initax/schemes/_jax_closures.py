"""What an initializer of `jax.nn.initializers` closes over: axes of its own, and the law of its entries.

Such an initializer is a closure `init` of a factory, e.g. `variance_scaling(...)`; `he_normal` and the like are the
same closure with other numbers. Nothing is known of other functions.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from initax.schemes._initializer import averages

MODULES = ("jax._src.nn.initializers", "jax.nn.initializers")
"""Module in which JAX's initializers are defined, by their `__module__`."""

DEFAULTS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "variance_scaling": {"in_axis": (-2,), "out_axis": (-1,), "batch_axis": ()},
    "orthogonal": {"column_axis": (-1,)},
}
"""Factory → its arguments that name axes of the array, and their defaults. The `column_axis` of `delta_orthogonal` is
one of a square matrix, and no axis of the array."""


OwnAxes = Mapping[str, tuple[int, ...]]
"""Argument of an initializer's factory → the axes that it was given."""


def fit(assumed: OwnAxes, rank: int) -> bool:
    """Return whether an array of that rank has all these axes, and where there are batch axes none is named twice.

    Without batch axes one may be: Flax's own initializer of embeddings has `in_axis=-2, out_axis=0`.
    """
    named = [axis for axes in assumed.values() for axis in axes]
    if any(not -rank <= axis < rank for axis in named):
        return False
    return not assumed.get("batch_axis") or len({axis % rank for axis in named}) == len(named)


def own_axes(function: Any) -> OwnAxes | None:
    """Return the axes that one of JAX's initializers was made with, `None` where these are the defaults.

    Args:
        function: an initializer, also behind `functools.partial` or a wrapper that names it in `__wrapped__`; nothing
            is known of other functions.
    """
    factory, cells = _looked_into(_inside(function))
    defaults = DEFAULTS.get(factory)
    if defaults is None:
        return None
    try:
        axes = {name: _tuple(cells[name]) for name in defaults}
    except (KeyError, TypeError, ValueError):
        return None
    return axes if axes != defaults else None


def moments(function: Any, shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Return mean and mean square of an entry that one of JAX's initializers draws, `None` where it is another.

    Args:
        function: the initializer; a wrapper around one may change what it draws, so that nothing is known of it.
        shape: the shape that it is called with.
    """
    factory, cells = _looked_into(function)
    try:
        match factory:
            case "zeros" | "ones":
                value = float(factory == "ones")
                return value, value
            case "constant":
                value = float(cells["value"])
                return value, value**2
            case "normal":
                return 0.0, float(cells["stddev"]) ** 2
            case "uniform":
                scale = float(cells["scale"])
                return scale / 2, scale**2 / 3
            case "variance_scaling":
                return 0.0, _variance(cells, shape)
            case "orthogonal":
                columns = shape[int(cells["column_axis"])]
                return 0.0, float(cells["scale"]) ** 2 / max(columns, math.prod(shape) // columns)
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, jax.errors.ConcretizationTypeError):
        return None
    return None


def _inside(function: Any) -> Any:
    """What wrappers are around: partials, and those that name it."""
    if isinstance(function, functools.partial):
        return _inside(function.func)
    return _inside(function.__wrapped__) if hasattr(function, "__wrapped__") else function


def _looked_into(function: Any) -> tuple[str, Mapping[str, Any]]:
    """The name of the factory, and what the closure that it returned holds; no name for other functions than JAX's."""
    if isinstance(function, functools.partial):
        plain = not function.args and set(function.keywords) <= {"dtype", "out_sharding"}
        return _looked_into(function.func) if plain else ("", {})
    if not inspect.isfunction(function) or function.__globals__.get("__name__") not in MODULES:
        return "", {}
    cells = (cell.cell_contents for cell in function.__closure__ or ())
    return function.__qualname__.split(".<locals>")[0], dict(zip(function.__code__.co_freevars, cells, strict=True))


def _tuple(axes: int | Sequence[int]) -> tuple[int, ...]:
    return (int(axes),) if not isinstance(axes, Sequence) else tuple(map(int, axes))


def _variance(cells: Mapping[str, Any], shape: tuple[int, ...]) -> float:
    """The variance by JAX's formula, in which an axis that is both input and output counts twice."""
    inputs, outputs, batch = (
        math.prod(shape[axis] for axis in _tuple(cells[name])) for name in ("in_axis", "out_axis", "batch_axis")
    )
    receptive = math.prod(shape) / inputs / outputs / batch
    return float(cells["scale"]) / averages(inputs * receptive, outputs * receptive)[cells["mode"]]
