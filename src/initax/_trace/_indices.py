"""Constants that number entries evenly, `start::step`: before 0.10 JAX takes strided parts by a list of indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from initax._trace._uses import Value


def constant(number: Any) -> Value:
    """Return what a literal holds."""
    whole = np.shape(number) == () and np.issubdtype(np.asarray(number).dtype, np.integer)
    return Value(shape=tuple(np.shape(number)), steps=(int(number), 0) if whole else None)


def stepped(eqn: Any, values: Sequence[Value]) -> tuple[int, int] | None:
    """Return first number and step of an equation's result, where its entries are evenly spaced whole numbers.

    Args:
        eqn: an equation of constants only, which alters or rearranges them.
        values: what its operands hold.
    """
    name, known = eqn.primitive.name, [value.steps for value in values]
    if name == "iota":
        return (0, 1) if len(eqn.params["shape"]) == 1 else None
    if not known or any(each is None for each in known):
        return None
    first = known[0]
    assert first is not None
    if name == "broadcast_in_dim":
        return first if math.prod(eqn.params["shape"]) == math.prod(values[0].shape) or first[1] == 0 else None
    if name in ("add", "mul") and len(known) == 2:
        one, other = sorted((each for each in known if each is not None), key=lambda each: each[1] == 0)
        if other[1] == 0:
            by = other[0]
            return (one[0] + by, one[1]) if name == "add" else (one[0] * by, one[1] * by)
    return None
