"""Tables of text, for reports."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence

WIDTH = 240
"""Columns of a table that does not go to a terminal; there it is folded to the terminal's width."""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first column and a last one called `why` to the left, numbers to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        made.add_column(column, justify="left" if place == 0 or column == "why" else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    output = io.StringIO()
    Console(file=output, width=width, color_system=None, force_terminal=False).print(made)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip("\n")
