"""A bar on the standard error stream, for work one waits for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Step = Callable[[str, int], None]
"""Takes what is being worked on, and by how much the work advanced."""


@contextlib.contextmanager
def bar(total: int, *, shown: bool) -> Iterator[Step]:
    """Give the function that moves the bar; where none is shown it does nothing."""
    if not shown:
        yield lambda what, by: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bars:
        task = bars.add_task("", total=total)
        yield lambda what, by: bars.update(task, description=what, advance=by)
