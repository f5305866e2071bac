"""Tables of text, for plans and reports."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Collection, Sequence

WIDTH = 240
"""Columns of a table that does not go to a terminal; there it is folded to the terminal's width."""


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] | None = None
) -> str:
    """Return a table.

    Args:
        title: what stands above it.
        columns: heads of the columns.
        rows: the cells.
        right: columns of numbers; all but the first and one called `why` if left out.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    numbers = [name for name in columns[1:] if name != "why"] if right is None else right
    shown = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    return printed(shown)


def printed(shown: object) -> str:
    """Return what rich prints of an object, as plain text."""
    from rich.console import Console

    width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    output = io.StringIO()
    Console(file=output, width=width, color_system=None, force_terminal=False).print(shown)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip("\n")
