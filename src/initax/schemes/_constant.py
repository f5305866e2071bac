"""Constants: the same number everywhere, or given entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import SchemeError
from initax._math._axes import Axes
from initax._model._parameter import WEIGHT_ROLES, Layer, Parameter
from initax.schemes._initializer import Initializer, Kernel, Recipe, array_name, is_complex
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

    Those of a weight are in the canonical layout `(*receptive, in, out)`, so a vector has one entry for each output.

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
    try:
        fits = np.broadcast_shapes(entries.shape, target) == tuple(target)
    except ValueError:
        fits = False
    if not fits:
        layout = "" if axes is None else " in the layout (*receptive, in, out)"
        raise SchemeError(
            f"{scheme} has values of shape {entries.shape}, which do not broadcast to {array_name(parameter)}.",
            f"shape {tuple(target)}{layout}",
            "a vector has one value for each output; a number is the same for all",
        )
    return Recipe(FilledKernel(value, axes), (), 0.0)
