"""Weights that are rounded before they are combined with the signal.

The gradient of rounding, of a sign and of a cast to integers is zero. So weights are only trained through these in a
function with a custom gradient, and there they are read as if they were not rounded.
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
"""Calls of a function with a custom gradient."""


def cast(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value:
    """Follow a cast to another type; behind a cast to integers a weight can't be read."""
    dtype = eqn.params["new_dtype"]
    if jnp.issubdtype(dtype, jnp.inexact):
        return values[0]
    name = f"a cast to {np.dtype(dtype).name}"
    return rounded(eqn, values, uses, line) or nonlinear(name, values, values[0].shape, uses, line)


def rounded(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value | None:
    """Follow rounding, and a sign: within a function with a custom gradient a weight stays a weight."""
    value = values[0]
    if not uses.own_gradient or not value.weights or value.data or value.fed_by_constant:
        return None
    return value.with_weights(lambda view: replace(view, quantized=True))


def clipped(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value | None:
    """Follow constant bounds: a weight that was rounded before stays one."""
    bounded = [value for value in values if value.weights or value.data]
    if len(bounded) != 1 or bounded[0].data or not all(view.quantized and not view.stop for view in bounded[0].weights):
        return None
    return bounded[0]
