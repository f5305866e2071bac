"""One complex weight in two real arrays: `re + 1j * im`, `lax.complex(re, im)`.

Each part has half of the variance of the weight, whatever axes they have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jax.extend.core import Literal

from initax._trace._uses import Uses, Value


def turned(eqn: Any, result: Value) -> Value:
    """Return the result of a product with its parameters noted as imaginary, where the other factor is like `1j`.

    Args:
        eqn: the equation.
        result: what its result holds.
    """
    numbers = [np.asarray(atom.val) for atom in eqn.invars if isinstance(atom, Literal)]
    if any(np.iscomplexobj(number) and number.real == 0 != number.imag for number in numbers):
        return imaginary(result)
    return result


def imaginary(value: Value) -> Value:
    """Return a value of which the parameters are imaginary parts."""
    return replace(value, weights=tuple(replace(view, imaginary=True) for view in value.weights))


def paired(left: Value, right: Value, uses: Uses) -> tuple[Value, Value]:
    """Return the operands of a sum with their parameters noted as parts of complex weights, where they are that.

    Args:
        left: the one.
        right: the other.
        uses: all uses.
    """
    kinds = [{view.imaginary for view in value.weights} for value in (left, right)]
    if sorted(map(sorted, kinds)) != [[False], [True]]:
        return left, right
    one, other = (
        replace(
            value,
            weights=tuple(replace(view, paired=view.param in uses.real, imaginary=False) for view in value.weights),
        )
        for value in (left, right)
    )
    return one, other
