"""A plan as a table for people."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One drawn parameter, as text."""

    path: str
    kind: str
    shape: tuple[int, ...]
    axes: str
    fan_in: str
    fan_out: str
    scheme: str
    std: str
    rule: str


WIDTH = 240
"""Columns of a table that does not go to a terminal; there it is folded to the terminal's width."""


def render(drawn: Sequence[Row], kept: Sequence[tuple[str, str, tuple[int, ...], str]], notes: Sequence[str]) -> str:
    """Return the tables of what is drawn and what is kept, and the notes below them."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        made = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            made.add_column(
                column, justify="right" if column in ("fan_in", "fan_out", "std") else "left", overflow="fold"
            )
        for row in rows:
            made.add_row(*(Text(cell) for cell in row))
        return made

    width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    if drawn:
        columns = ("parameter", "kind", "shape", "axes", "fan_in", "fan_out", "scheme", "std", "rule")
        rows = [
            tuple(str(cell) if cell != "" or place else "(model)" for place, cell in enumerate(astuple(row)))
            for row in drawn
        ]
        console.print(table(f"drawn: {len(drawn)}", columns, rows))
    if kept:
        rows = [(path or "(model)", kind, str(shape), reason) for path, kind, shape, reason in kept]
        console.print(table(f"kept: {len(kept)}", ("array", "kind", "shape", "why"), rows))
    for note in notes:
        console.print(Text(f"note: {note}"))
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip("\n")
