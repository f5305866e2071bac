"""Constants: the same number everywhere, or given entries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import SchemeError
from initax._math._axes import Axes
from initax._model._parameter import WEIGHT_ROLES, Layer, Parameter
from initax.schemes._initializer import Initializer, Kernel, Recipe, array_name, is_complex, nested
from initax.schemes._kernels import Full

Entries = float | complex | tuple["Entries", ...]
"""A number, or the entries of an array, nested as its axes are."""


@dataclass(frozen=True, slots=True)
class FilledKernel(Kernel):
    """Given entries, broadcast to the array.

    Attributes:
        values: the entries.
        axes: the axes of a weight, whose entries are given in the canonical layout `(*receptive, in, out)`.
    """

    values: Entries
    axes: Axes | None = None
    elementwise: ClassVar[bool] = False
    random: ClassVar[bool] = False

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        entries = jnp.asarray(np.asarray(self.values).astype(dtype))
        if self.axes is None:
            return jnp.broadcast_to(entries, shape)
        canonical = (self.axes.batch_size, *self.axes.canonical_shape)
        return self.axes.from_canonical(jnp.broadcast_to(entries, canonical))


@dataclass(frozen=True, slots=True)
class Constant(Initializer):
    """Every entry `value`, or the entries of an array, which is broadcast."""

    value: Entries = 0.0
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if isinstance(self.value, float):
            return Recipe(Full(), (self.value,), 0.0)
        return filled(self.name, self.value, parameter)


ZEROS = Constant(name="zeros")
"""What biases get unless a scheme has another initializer for them."""


def filled(scheme: str, value: Entries, parameter: Parameter) -> Recipe:
    """Return the recipe that fills an array with entries, broadcast as NumPy does.

    Those of a weight are in the canonical layout `(*receptive, in, out)`, so a vector has one entry for each output. A
    vector for a bias has one, too, in whatever axes these are stored, and is the same for all entries of a stack.

    Raises:
        SchemeError: they do not broadcast to the array, or are complex where it is real.
    """
    entries = np.asarray(value)
    axes = parameter.axes if parameter.role in WEIGHT_ROLES else None
    target = parameter.shape if axes is None else axes.canonical_shape
    if np.iscomplexobj(entries) and not is_complex(parameter.dtype):
        raise SchemeError(
            f"{scheme} has complex values, and {array_name(parameter)} is {np.dtype(parameter.dtype).name}.",
            "a real array takes real values",
        )
    placed = _along_outputs(entries, parameter) if entries.ndim == 1 and axes is None else entries
    if placed is None or not _fits(placed.shape, target):
        layout = "" if axes is None else " in the layout (*receptive, in, out)"
        raise SchemeError(
            f"{scheme} has values of shape {entries.shape}, which do not broadcast to {array_name(parameter)}.",
            f"shape {tuple(target)}{layout}",
            "a vector has one value for each output; a number is the same for all",
        )
    return Recipe(FilledKernel(nested(placed.tolist()), axes), (), 0.0)


def _fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array broadcasts to a shape."""
    try:
        return np.broadcast_shapes(shape, target) == tuple(target)
    except ValueError:
        return False


def _along_outputs(vector: np.ndarray, parameter: Parameter) -> np.ndarray | None:
    """Return a vector for a bias with its entries along the axes that hold outputs; `None` where it does not fit."""
    axes = parameter.axes
    if axes is None or not axes.out_axis:
        return vector
    outputs = [size for axis, size in enumerate(parameter.shape) if axis not in axes.entry_axis]
    stored = [1 if axis in axes.entry_axis else size for axis, size in enumerate(parameter.shape)]
    if vector.size == math.prod(outputs):
        return vector.reshape(stored)
    return np.broadcast_to(vector, outputs).reshape(stored) if _fits(vector.shape, tuple(outputs)) else None
