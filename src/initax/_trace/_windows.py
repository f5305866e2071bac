"""Which values are windows of one signal, or one array of indices: entries of a variable in other places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from initax._trace._uses import Uses, Value

MOVES = frozenset(
    ("slice", "dynamic_slice", "split", "pad", "concatenate", "reshape", "squeeze", "broadcast_in_dim", "transpose")
)
"""Primitives whose results hold entries of an operand in other places."""

INDEXING = frozenset(("lt", "add", "select_n", "convert_element_type"))
"""Primitives by which JAX turns indices that count from the end into others."""


def note_windows(eqn: Any, values: Sequence[Value], uses: Uses) -> None:
    """Note of which variable the results of an equation hold entries, where it does no more than move them.

    Args:
        eqn: the equation.
        values: its operands; constants beside a signal, such as padding, do not count.
        uses: where it is noted.
    """
    name = eqn.primitive.name
    if name in MOVES or (name in INDEXING and _is_of_numbers(eqn.outvars[0])):
        found = {uses.whole(atom) for atom, value in zip(eqn.invars, values, strict=True) if value.data}
        whole = found.pop() if len(found) == 1 else None
        for var in eqn.outvars:
            uses.wholes[id(var)] = id(var) if whole is None else whole  # another call of the jaxpr may have said more


def _is_of_numbers(result: Any) -> bool:
    """Return whether a result is of whole numbers, or of truth values."""
    return getattr(result.aval.dtype, "kind", "") in ("i", "u", "b")
