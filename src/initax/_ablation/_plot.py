"""The figure of an ablation: bands along curves, intervals of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from initax._errors import InitaxError

COLORS = ("#444444", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colors, which stay apart for color-blind readers."""
STYLES = ("-", "--", "-.", ":")
"""A further turn of the colors gets the next style of line."""
LOGARITHMIC = 10.0
"""Positive means that span more than this factor are shown on a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class Band:
    """A mean and its interval under one scheme."""

    scheme: str
    mean: Any
    low: Any
    high: Any


def draw_panels(panels: Mapping[str, Sequence[Band]]) -> Any:
    """Return a figure with one panel for each metric.

    Raises:
        InitaxError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InitaxError("plot() draws with matplotlib, which is missing.", "pip install initax[plot]") from error
    figure = Figure(figsize=(4.5 * len(panels) + 1, 3.6), layout="constrained")
    labelled = False
    for panel, (name, bands) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        panel.set_title(name)
        curves = np.ndim(bands[0].mean) == 1
        (_curves if curves else _points)(panel, bands)
        if curves and not labelled:
            figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(bands), 4))
            labelled = True
    return figure


def _curves(panel: Any, bands: Sequence[Band]) -> None:
    for index, band in enumerate(bands):
        steps = np.arange(1, len(band.mean) + 1)
        color, style = COLORS[index % len(COLORS)], STYLES[index // len(COLORS) % len(STYLES)]
        panel.fill_between(steps, band.low, band.high, color=color, alpha=0.2, linewidth=0)
        panel.plot(steps, band.mean, style, color=color, label=band.scheme)
    panel.set_xlabel("entry")
    if _spans(bands):
        panel.set_yscale("log")


def _points(panel: Any, bands: Sequence[Band]) -> None:
    for index, band in enumerate(bands):
        color = COLORS[index % len(COLORS)]
        if np.isfinite(band.low):
            panel.plot([band.low, band.high], [index, index], color=color, linewidth=2)
        panel.plot([band.mean], [index], "o", color=color)
    panel.set_yticks(range(len(bands)), [band.scheme for band in bands])
    panel.invert_yaxis()
    if _spans(bands):
        panel.set_xscale("log")


def _spans(bands: Sequence[Band]) -> bool:
    every = np.concatenate([np.ravel(each) for band in bands for each in (band.mean, band.low, band.high)])
    finite = every[np.isfinite(every)]
    return bool(finite.size and finite.min() > 0 and finite.max() / finite.min() > LOGARITHMIC)
