"""A bar on the standard error stream, for work one waits for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Step = Callable[[str, int], None]
"""Takes what is being worked on, and by how much the work advanced."""


@contextlib.contextmanager
def bar(total: int, *, shown: bool, done: int = 0, counted: bool = False) -> Iterator[Step]:
    """Give the function that moves the bar; where none is shown it does nothing.

    Args:
        total: how much there is to do.
        shown: whether there is a bar.
        done: how much of it is done already.
        counted: whether to show the number beside the share.
    """
    if not shown:
        yield lambda what, by: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), *([MofNCompleteColumn()] if counted else []))
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("", total=total, completed=done)
        yield lambda what, by: bars.update(task, description=what, advance=by)
