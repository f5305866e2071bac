"""Names of axes in a pattern: which are inputs, outputs, batch axes and the receptive field."""

from __future__ import annotations

import re
from collections.abc import Iterable

Groups = tuple[tuple[str, ...], ...]
"""The axes of a pattern, each a tuple of the names merged in it."""

RECEPTIVE = "..."
STACK_NAMES = ("stack", "stack2", "stack3", "stack4")
"""Names of the axes that `vmap` or a scan adds to a layer's own."""
RESERVED = frozenset({"h", "w", "d", "k", "kh", "kw", "kd", "height", "width", "depth", "kernel", "spatial"})
"""Names people give to the axes of a receptive field. As batch axes they would silently shrink every fan."""
SIDED = re.compile(r"(i|in|inputs?|o|out|outputs?)(\d*|_\w+)")
"""Names of inputs and outputs: `i`, `i1`, `in`, `in_features`, `outputs`, but not `instance` or `order`."""
SIDED_LATE = re.compile(r"(?:\w*_|[cdn])(i(?:n|nputs?)|o(?:ut|utputs?))\d*")
"""Names of inputs and outputs that begin with other letters: `d_in`, `c_out`. Patterns go by the first letter."""


def meaning(name: str) -> str:
    """Return what an axis is by its name: `"in"`, `"out"`, `"batch"` or `"receptive"`."""
    if name == RECEPTIVE:
        return "receptive"
    return {"i": "in", "o": "out"}.get(name[0], "batch")


def late_side(name: str) -> str:
    """Return the letter that a name should begin with, where it says only later that it is an input or an output."""
    match = SIDED_LATE.fullmatch(name)
    return match[1][0] if match and meaning(name) == "batch" else ""


def written(groups: Iterable[tuple[str, ...]]) -> str:
    """Return axes as a pattern."""
    return " ".join(group[0] if len(group) == 1 else f"({' '.join(group)})" if group else "1" for group in groups)
