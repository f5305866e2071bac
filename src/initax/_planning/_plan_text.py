"""A plan as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, takewhile

from initax._model._parameter import Evidence, Parameter, leading_cells
from initax._model._reason import Why
from initax._model._survey import fan_text
from initax._planning._records import Draw, Kept
from initax._text import path_text, printed, table


def _known(parameter: Parameter) -> str:
    """Return how the axes of a parameter are known, where that is less than a declaration."""
    evidence = parameter.evidence
    return "" if evidence in (None, Evidence.RESTATED, Evidence.DECLARED) else str(evidence)


COLUMNS: dict[str, Callable[[Draw], str]] = {
    "parameter": lambda draw: path_text(draw.parameter.path),
    "kind": lambda draw: draw.kind,
    "shape": lambda draw: str(draw.parameter.shape),
    "axes": lambda draw: draw.parameter.axes.pattern if draw.parameter.axes else "",
    "known": lambda draw: _known(draw.parameter),
    "fan_in": lambda draw: fan_text(draw.parameter.fan_in, draw.parameter.effective_fan_in),
    "fan_out": lambda draw: fan_text(draw.parameter.fan_out, draw.parameter.effective_fan_out),
    "scheme": lambda draw: draw.how,
    "std": lambda draw: "" if draw.std is None else f"{draw.std:.4g}",
    "residual": lambda draw: str(draw.parameter.residual or ""),
    "rule": lambda draw: draw.rule,
}
"""The table of what is drawn: a column is one row here, its head and the function from a draw to the cell."""
NUMBERS = ("fan_in", "fan_out", "std")
"""Columns whose cells are aligned at their right."""
OPTIONAL = ("known", "residual")
"""Columns that are left out where all cells are empty."""
KEPT = ("array", "kind", "shape", "why")
FEW = 3
"""Arrays of an optimizer's state that are listed one by one; of more there is one row."""


def render(draws: Sequence[Draw], kept: Sequence[Kept], notes: Sequence[str]) -> str:
    """Return the tables of what is drawn and what is kept, and the notes below them."""
    parts = []
    if draws:
        rows = [[text(draw) for text in COLUMNS.values()] for draw in draws]
        parts.append(table(f"drawn: {len(draws)}", tuple(COLUMNS), rows, right=NUMBERS, optional=OPTIONAL))
    if kept:
        parts.append(table(f"kept: {len(kept)}", KEPT, _kept_rows(kept), right=()))
    if notes:
        from rich.text import Text

        parts.append(printed(Text("\n".join(f"note: {note}" for note in notes))))
    return "\n\n".join(parts)


def _kept_rows(kept: Sequence[Kept]) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = []
    for is_optimizer, group in groupby(kept, key=lambda row: row.reason.why is Why.OPTIMIZER):
        rows = list(group)
        if is_optimizer and len(rows) > FEW:
            around = _around([row.parameter.path for row in rows])
            cells.append((around, rows[0].kind, f"{len(rows)} arrays", rows[0].reason.text))
            continue
        for row in rows:
            path, kind, _, shape, _ = leading_cells(row.parameter, row.kind)
            cells.append((path, kind, shape, row.reason.text))
    return cells


def _around(paths: Sequence[str]) -> str:
    """The part that dotted paths have in common, as a pattern."""
    levels = zip(*(path.split(".") for path in paths), strict=False)
    shared = takewhile(lambda names: len(set(names)) == 1, levels)
    return ".".join([*(names[0] for names in shared), "*"])
