"""Texts for people: tables of plans and reports, paths, and mappings to paste."""

from __future__ import annotations

import ast
import io
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from initax._errors import listing

WIDTH = 240
"""Columns of a table that does not go to a terminal; there it is folded to the terminal's width."""


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] | None = None,
    optional: Collection[str] = (),
) -> str:
    """Return a table.

    Args:
        title: what stands above it.
        columns: heads of the columns.
        rows: the cells.
        right: columns of numbers; all but the first and one called `why` if left out.
        optional: columns that are left out where all cells are empty.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    numbers = [name for name in columns[1:] if name != "why"] if right is None else right
    shown = [index for index, name in enumerate(columns) if name not in optional or any(row[index] for row in rows)]
    whole = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index in shown:
        whole.add_column(columns[index], justify="right" if columns[index] in numbers else "left", overflow="fold")
    for row in rows:
        whole.add_row(*(Text(row[index]) for index in shown))
    return printed(whole)


def printed(shown: object) -> str:
    """Return what rich prints of an object, as plain text."""
    from rich.console import Console

    width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    output = io.StringIO()
    Console(file=output, width=width, color_system=None, force_terminal=False).print(shown)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip("\n")


def path_text(path: str) -> str:
    """Return the path of a layer or an array as it is printed; that of the model itself is empty."""
    return path or "(model)"


def mapping_text(entries: Mapping[Any, str]) -> str:
    """Return a mapping as one writes it, from its keys and the texts of its values: `{"w": "o i", "b": None}`."""
    return "{" + ", ".join(f'"{key}": {text}' for key, text in entries.items()) + "}"


def written(value: Any) -> str:
    """Return plain data as one writes it, and three dots for all else."""
    text = repr(value)
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return "..."
    return text if '"' in text else text.replace("'", '"')  # a text with an apostrophe is in double quotes already


def tally(values: Iterable[Any]) -> str:
    """Return how often each value is there: `hidden: 2, output: 1`."""
    return listing(f"{value}: {times}" for value, times in Counter(values).items())


def differing(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> list[Any]:
    """Return the keys under which two mappings do not hold the same, those of the old one first."""
    return [key for key in {**old, **new} if old.get(key) != new.get(key)]
