"""One array alone: how a scheme draws a shape with its axes and role, with no model around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from initax._errors import AxesError, SchemeError, shown
from initax._math._axes import refuse_unsided, resolve
from initax._math._keys import is_typed
from initax._model._parameter import WEIGHT_ROLES, Fans, Layer, Parameter, Role
from initax.schemes._hints import no_role
from initax.schemes._initializer import Initializer, Recipe
from initax.schemes._scheme import Scheme, as_scheme


def alone(
    scheme: Any,
    shape: Any,
    dtype: Any = None,
    *,
    axes: str | None = None,
    sizes: Mapping[str, int] | None = None,
    role: Role = "weight",
    fan_in: float | None = None,
    fan_out: float | None = None,
) -> tuple[Recipe, tuple[int, ...], Any]:
    """Return how a scheme draws one array: its recipe, its shape and its type.

    Args:
        scheme: anything a rule accepts.
        shape: its shape.
        dtype: its type; JAX's default float if left out.
        axes: its axes; `"... i o"` for weights and `"o"` for a bias or scale of one axis if left out.
        sizes: sizes of named axes.
        role: which role of the scheme draws it.
        fan_in: for a bias, the fan_in of its weight.
        fan_out: for a bias, the fan_out of its weight.

    Raises:
        SchemeError: the scheme is unknown, has no initializer for the role, or can't serve the array.
        AxesError: the axes do not fit the shape.
    """
    weighs = role in WEIGHT_ROLES
    shape = _shape(shape)
    dtype = jnp.dtype(dtype) if dtype is not None else jnp.result_type(float)
    if not jnp.issubdtype(dtype, jnp.inexact):
        hint = "JAX has no complex type of half precision; draw jnp.complex64" if dtype.name == "complex32" else ""
        raise SchemeError(f"only floating and complex arrays are drawn, not {dtype.name}.", hint)
    chosen = as_scheme(scheme)
    part = chosen.part(role)
    is_vector = weighs and axes is None and len(shape) < 2
    without_axes = is_vector and isinstance(part, Initializer) and part.fits_bias
    pattern = axes or ("... i o" if weighs and not is_vector else "..." if len(shape) != 1 else "o")
    if is_vector and not without_axes:
        raise SchemeError(
            f"a weight of shape {shape} has no input and output axis.",
            'say what its axes are, axes="o"; or draw it as a bias, role="bias"',
        )
    resolved = resolve(pattern, shape, sizes)
    if weighs and not without_axes:
        refuse_unsided(pattern)
        fan_in = resolved.fan_in if fan_in is None else fan_in
        fan_out = resolved.fan_out if fan_out is None else fan_out
    if role == "bias" and fan_in is not None and fan_out is None:
        fan_out = math.nan  # no law of a bias asks for it
    fans = None if fan_in is None or fan_out is None else Fans((fan_in, fan_out), (fan_in, fan_out))
    parameter = Parameter(
        path="",
        name=role,
        role=role,
        shape=shape,
        dtype=dtype,
        axes=None if without_axes else resolved,
        fans=fans,
    )
    layer = Layer(path="", kind="Linear", cls=type(None), parameters=(parameter,))
    return drawn_part(chosen, role).recipe(parameter, layer), shape, dtype


def drawn_part(scheme: Scheme, role: Role) -> Initializer:
    """Return what draws the arrays of a role.

    Raises:
        SchemeError: nothing does.
    """
    part = scheme.part(role)
    if not isinstance(part, Initializer):
        raise SchemeError(no_role(scheme, role))
    return part


def _shape(shape: Any) -> tuple[int, ...]:
    """A shape as a tuple of whole numbers.

    Raises:
        AxesError: it is not a shape.
    """
    if isinstance(shape, int | np.integer) and not isinstance(shape, bool):
        raise AxesError(
            f"a shape is a tuple, not {shown(shape)}.",
            f'for a bias write ({shape},), role="bias"; for a weight both of its axes, inputs first: (4, {shape})',
        )
    if isinstance(shape, np.ndarray) and shape.ndim == 1 and np.issubdtype(shape.dtype, np.integer):
        shape = tuple(map(int, shape))
    if is_typed(shape):
        raise AxesError("a shape is a tuple, not a random key.", "the key stands in front of it: (key, shape, dtype)")
    if hasattr(shape, "shape"):
        raise AxesError(f"a shape is a tuple, not {shown(shape)}.", "write array.shape")
    if not isinstance(shape, tuple | list) or not all(
        isinstance(size, int | np.integer) and not isinstance(size, bool) and size >= 0 for size in shape
    ):
        raise AxesError(f"a shape is a tuple of whole numbers, not {shown(shape)}.", "write (4, 8)")
    return tuple(map(int, shape))
