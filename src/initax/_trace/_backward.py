"""Gradients inside the forward pass: which equations carry a cotangent back, in energies and forces for example.

A weight is contracted over its outputs there. That says nothing of what it is: the forward part does.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from initax._trace._contract import settle
from initax._trace._uses import Uses, Value


def carries_back(eqn: Any) -> bool:
    """Return whether an equation is of the transposed part of a gradient.

    JAX names the transformations an equation came through; those of a cotangent are `transpose(jvp(...))`. A linear
    function that is transposed on its own, by `jax.linear_transpose`, is a forward pass like any other, and so is what
    is computed again for a cotangent.
    """
    frames = list(eqn.source_info.name_stack.stack)
    names = [getattr(frame, "name", "") for frame in frames if type(frame).__name__ == "Transform"]
    return "transpose" in names and "jvp" in names[names.index("transpose") :]


def cotangents(eqn: Any, results: list[Value], uses: Uses, line: str) -> list[Value]:
    """Return the results of such an equation: signals, in which no weight's outputs are known.

    Args:
        eqn: the equation.
        results: what it leaves.
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
