"""Gradients inside the forward pass, for example of an energy by positions: which equations carry a cotangent back.

These contract a weight over its outputs. So its axes are read from the forward equations alone.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from initax._trace._contract import settle
from initax._trace._uses import Uses, Value


def carries_back(eqn: Any) -> bool:
    """Return whether an equation is of the transposed part of a gradient.

    JAX names the transformations an equation came through; those of a cotangent are `transpose(jvp(...))`. A transpose
    without a derivative, by `jax.linear_transpose`, is part of the forward pass, and so is what is recomputed for a
    cotangent.
    """
    frames = list(eqn.source_info.name_stack.stack)
    names = [getattr(frame, "name", "") for frame in frames if type(frame).__name__ == "Transform"]
    return "transpose" in names and "jvp" in names[names.index("transpose") :]


def cotangents(eqn: Any, results: list[Value], uses: Uses, line: str) -> list[Value]:
    """Return the results of an equation that carries a cotangent back: signals without outputs of weights.

    Args:
        eqn: the equation.
        results: its results.
        uses: where uses are entered.
        line: its line.
    """
    signals = []
    for result, var in zip(results, eqn.outvars, strict=True):
        value = settle(result, uses, line) if result.fed_by_constant else result
        is_first = not value.weights and jnp.issubdtype(getattr(var.aval, "dtype", bool), jnp.inexact)
        signals.append(
            Value(shape=value.shape, data=value.data or is_first, weights=value.weights, constant=value.constant)
        )
    return signals
