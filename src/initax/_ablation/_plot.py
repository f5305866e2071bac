"""The figure of an ablation: bands along curves, intervals of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from initax._ablation._summary import Summary
from initax._verbs._figures import draw_band, new_figure

COLORS = ("#444444", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colors, which stay apart for color-blind readers."""
STYLES = ("-", "--", "-.", ":")
"""A further turn of the colors gets the next style of line."""
LOGARITHMIC = 10.0
"""Positive means that span more than this factor are shown on a logarithmic axis."""


def draw_panels(panels: Mapping[str, Sequence[Summary]]) -> Any:
    """Return a figure with one panel for each metric.

    Raises:
        InitaxError: matplotlib is not installed.
    """
    figure = new_figure(4.5 * len(panels) + 1, 3.6)
    labelled = False
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (name, summaries) in zip(axes, panels.items(), strict=True):
        panel.set_title(name)
        curves = np.ndim(summaries[0].mean) == 1
        (_curves if curves else _points)(panel, summaries)
        if curves and not labelled:
            figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(summaries), 4))
            labelled = True
    return figure


def _curves(panel: Any, summaries: Sequence[Summary]) -> None:
    for index, summary in enumerate(summaries):
        steps = np.arange(1, np.size(summary.mean) + 1)
        color, style = COLORS[index % len(COLORS)], STYLES[index // len(COLORS) % len(STYLES)]
        line = {"color": color, "linestyle": style, "label": summary.scheme}
        draw_band(panel, steps, summary.low, summary.mean, summary.high, **line)
    panel.set_xlabel("entry")
    if _spans(summaries):
        panel.set_yscale("log")


def _points(panel: Any, summaries: Sequence[Summary]) -> None:
    for index, summary in enumerate(summaries):
        color = COLORS[index % len(COLORS)]
        if np.isfinite(summary.low):
            panel.plot([summary.low, summary.high], [index, index], color=color, linewidth=2)
        panel.plot([summary.mean], [index], "o", color=color)
    panel.set_yticks(range(len(summaries)), [summary.scheme for summary in summaries])
    panel.invert_yaxis()
    if _spans(summaries):
        panel.set_xscale("log")


def _spans(summaries: Sequence[Summary]) -> bool:
    """Whether means and intervals are positive, and too far apart for a linear axis."""
    numbers = [np.ravel(number) for summary in summaries for number in (summary.mean, summary.low, summary.high)]
    finite = np.concatenate(numbers)[np.isfinite(np.concatenate(numbers))]
    return bool(finite.size and finite.min() > 0 and finite.max() / finite.min() > LOGARITHMIC)
