"""One complex weight in two real arrays: `re + 1j * im`, `lax.complex(re, im)`.

Each part has half of the variance of the weight.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jax.extend.core import Literal

from initax._trace._uses import Uses, Value
from initax._trace._views import View


def turned(eqn: Any, result: Value) -> Value:
    """Return the result of a product, with its parameters marked as imaginary where a factor is a number like `1j`.

    Args:
        eqn: the equation.
        result: its result.
    """
    numbers = [np.asarray(atom.val) for atom in eqn.invars if isinstance(atom, Literal)]
    if any(np.iscomplexobj(number) and number.real == 0 != number.imag for number in numbers):
        return imaginary(result)
    return result


def imaginary(value: Value) -> Value:
    """Return a value with its parameters marked as imaginary parts."""
    return value.with_weights(lambda view: replace(view, imaginary=True))


def paired(left: Value, right: Value, uses: Uses) -> tuple[Value, Value]:
    """Return the operands of a sum, with their parameters marked as paired where one is real, the other imaginary.

    Args:
        left: one operand.
        right: the other.
        uses: the uses so far.
    """
    parts = [{view.imaginary for view in value.weights} for value in (left, right)]
    if parts not in ([{False}, {True}], [{True}, {False}]):
        return left, right

    def marked(view: View) -> View:
        return replace(view, paired=view.param in uses.real, imaginary=False)

    return left.with_weights(marked), right.with_weights(marked)
