"""Figures of matplotlib, loaded where one is asked for."""

from __future__ import annotations

from typing import Any

from initax._errors import InitaxError


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of a size in inches.

    Raises:
        InitaxError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InitaxError("plot() draws with matplotlib, which is missing.", "pip install initax[plot]") from error
    return Figure(figsize=(width, height), layout="constrained")


def draw_band(panel: Any, x: Any, low: Any, middle: Any, high: Any, **style: Any) -> None:
    """Draw a line, and a band of its color between two others."""
    (line,) = panel.plot(x, middle, **style)
    panel.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
