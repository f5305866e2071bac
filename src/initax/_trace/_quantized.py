"""Weights that are rounded on their way to the signal.

Nothing goes back through rounding, a sign or a cast to whole numbers, so that what stands before them can't be trained
by gradients, unless the function around them has a gradient of its own: then the weight is what that gradient changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from initax._trace._elementwise import nonlinear
from initax._trace._uses import Uses, Value

OWN_GRADIENT = frozenset({"custom_jvp_call", "custom_vjp_call"})
"""Calls of a function that has a gradient of its own."""


def cast(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value:
    """Follow a cast to another type; behind a cast to integers a weight can't be read."""
    dtype = eqn.params["new_dtype"]
    if jnp.issubdtype(dtype, jnp.inexact):
        return values[0]
    name = f"a cast to {np.dtype(dtype).name}"
    return rounded(eqn, values, uses, line) or nonlinear(name, values, values[0].shape, uses, line)


def rounded(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value | None:
    """Follow rounding, and a sign: within a function with a gradient of its own a weight stays a weight."""
    value = values[0]
    if not uses.own_gradient or not value.weights or value.data or value.fed_by_constant:
        return None
    return replace(value, weights=tuple(replace(view, quantized=True) for view in value.weights))


def clipped(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value | None:
    """Follow bounds that are constants: what is rounded already stays what it is, of few values."""
    held = [value for value in values if value.weights or value.data]
    if len(held) != 1 or held[0].data or not all(view.quantized and not view.stop for view in held[0].weights):
        return None
    return held[0]
