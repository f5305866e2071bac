"""A plan as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import groupby

from initax._model._reason import Reason, Why
from initax._text import printed, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One drawn parameter, as text."""

    path: str
    kind: str
    shape: tuple[int, ...]
    axes: str
    known: str
    fan_in: str
    fan_out: str
    scheme: str
    std: str
    residual: str
    rule: str


@dataclass(frozen=True, slots=True)
class KeptRow:
    """One array that is kept."""

    path: str
    kind: str
    shape: tuple[int, ...]
    reason: Reason


DRAWN = ("parameter", "kind", "shape", "axes", "known", "fan_in", "fan_out", "scheme", "std", "residual", "rule")
KEPT = ("array", "kind", "shape", "why")
FEW = 3
"""Arrays of an optimizer's state that are listed one by one; of more there is one row."""


def render(drawn: Sequence[Row], kept: Sequence[KeptRow], notes: Sequence[str]) -> str:
    """Return the tables of what is drawn and what is kept, and the notes below them."""
    parts = []
    if drawn:
        rows = [
            tuple(str(cell) if cell != "" or place else "(model)" for place, cell in enumerate(astuple(row)))
            for row in drawn
        ]
        # How the axes are known is told where that is less than a declaration, branches where there are any.
        told = {"known": any(row.known for row in drawn), "residual": any(row.residual for row in drawn)}
        shown = [at for at, name in enumerate(DRAWN) if told.get(name, True)]
        cells = [tuple(row[at] for at in shown) for row in rows]
        parts.append(
            table(f"drawn: {len(drawn)}", [DRAWN[at] for at in shown], cells, right=("fan_in", "fan_out", "std"))
        )
    if kept:
        parts.append(table(f"kept: {len(kept)}", KEPT, _kept_rows(kept), right=()))
    if notes:
        from rich.text import Text

        parts.append(printed(Text("\n".join(f"note: {note}" for note in notes))))
    return "\n\n".join(parts)


def _kept_rows(kept: Sequence[KeptRow]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for optimizer, group in groupby(kept, key=lambda row: row.reason.why is Why.OPTIMIZER):
        found = list(group)
        if optimizer and len(found) > FEW:
            around = _around([each.path for each in found])
            rows.append((around, found[0].kind, f"{len(found)} arrays", found[0].reason.text))
        else:
            rows += [(each.path or "(model)", each.kind, str(each.shape), each.reason.text) for each in found]
    return rows


def _around(paths: Sequence[str]) -> str:
    """The part that dotted paths have in common, as a pattern."""
    shared: list[str] = []
    for names in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join((*shared, "*"))
