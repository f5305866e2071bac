"""Which values hold entries of one variable: windows of a signal, or copies of one array of indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from initax._trace._uses import Uses, Value

MOVES = frozenset(
    ("slice", "dynamic_slice", "split", "pad", "concatenate", "reshape", "squeeze", "broadcast_in_dim", "transpose")
)
"""Primitives whose results hold entries of an operand, moved."""

INDEXING = frozenset(("lt", "add", "select_n", "convert_element_type"))
"""Primitives by which JAX replaces negative indices, which count from the end."""


def note_windows(eqn: Any, values: Sequence[Value], uses: Uses) -> None:
    """Note of which variable the results of an equation hold entries, where the equation only moves entries.

    Args:
        eqn: the equation.
        values: its operands, of which constants beside a signal, such as padding, are ignored.
        uses: the uses so far.
    """
    name = eqn.primitive.name
    if name in MOVES or (name in INDEXING and _is_of_numbers(eqn.outvars[0])):
        sources = {uses.whole(atom) for atom, value in zip(eqn.invars, values, strict=True) if value.data}
        whole = sources.pop() if len(sources) == 1 else None
        for var in eqn.outvars:
            uses.wholes[id(var)] = id(var) if whole is None else whole  # not what another call of the jaxpr noted


def _is_of_numbers(result: Any) -> bool:
    """Return whether a result is of integers or booleans."""
    return getattr(result.aval.dtype, "kind", "") in ("i", "u", "b")
