"""A plan as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from initax._model._parameter import Evidence, Parameter
from initax._model._reason import Why
from initax._model._survey import fan_text
from initax._planning._records import Draw, Kept
from initax._text import printed, table


def _known(parameter: Parameter) -> str:
    """Return how the axes of a parameter are known, where that is less than a declaration."""
    evidence = parameter.evidence
    return "" if evidence in (None, Evidence.RESTATED, Evidence.DECLARED) else str(evidence)


DRAWN: dict[str, Callable[[Draw], str]] = {
    "parameter": lambda draw: draw.parameter.path or "(model)",
    "kind": lambda draw: draw.kind,
    "shape": lambda draw: str(draw.parameter.shape),
    "axes": lambda draw: draw.parameter.axes.pattern if draw.parameter.axes else "",
    "known": lambda draw: _known(draw.parameter),
    "fan_in": lambda draw: fan_text(draw.parameter.fan_in, draw.parameter.effective_fan_in),
    "fan_out": lambda draw: fan_text(draw.parameter.fan_out, draw.parameter.effective_fan_out),
    "scheme": lambda draw: draw.how,
    "std": lambda draw: "" if draw.std is None else f"{draw.std:.4g}",
    "rule": lambda draw: draw.rule,
}
"""Columns of what is drawn → function from a row to its cell."""
KEPT = ("array", "kind", "shape", "why")
FEW = 3
"""Largest number of arrays of an optimizer's state that are listed one by one; of more there is one row."""


def render(drawn: Sequence[Draw], kept: Sequence[Kept], notes: Sequence[str]) -> str:
    """Return the tables of what is drawn and what is kept, and the notes below them."""
    parts = []
    if drawn:
        cells = {name: [cell(draw) for draw in drawn] for name, cell in DRAWN.items()}
        if not any(cells["known"]):
            del cells["known"]
        rows = list(zip(*cells.values(), strict=True))
        parts.append(table(f"drawn: {len(drawn)}", list(cells), rows, right=("fan_in", "fan_out", "std")))
    if kept:
        parts.append(table(f"kept: {len(kept)}", KEPT, _kept_rows(kept), right=()))
    if notes:
        from rich.text import Text

        parts.append(printed(Text("\n".join(f"note: {note}" for note in notes))))
    return "\n\n".join(parts)


def _kept_rows(kept: Sequence[Kept]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for optimizer, group in groupby(kept, key=lambda row: row.reason.why is Why.OPTIMIZER):
        found = [(each.parameter.path, each.kind, str(each.parameter.shape), each.reason.text) for each in group]
        if optimizer and len(found) > FEW:
            _, kind, _, text = found[0]
            rows.append((_around([path for path, *_ in found]), kind, f"{len(found)} arrays", text))
        else:
            rows += [(path or "(model)", *cells) for path, *cells in found]
    return rows


def _around(paths: Sequence[str]) -> str:
    """The part that dotted paths have in common, as a pattern."""
    shared: list[str] = []
    for names in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join((*shared, "*"))
