"""One metric under one scheme over the seeds: mean, interval, difference from the baseline, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from initax._ablation._bootstrap import Numbers
from initax._text import table


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One metric under one scheme, over the seeds. Numbers have the metric's shape.

    Attributes:
        metric: name of the metric.
        scheme: name of the scheme.
        runs: how many runs have the metric.
        failed: how many runs failed, and are in no number here.
        diverged: how many of the runs have an entry that is not finite, which makes the mean of that entry so too.
        mean: mean over the runs.
        low: lower end of the bootstrap interval of the mean; `nan` with less than two runs or where one diverged.
        high: its upper end.
        difference: mean over seeds of this scheme's number less the baseline's; over seeds where both have one.
        difference_low: lower end of the bootstrap interval of the mean difference.
        difference_high: its upper end.
    """

    metric: str
    scheme: str
    runs: int
    failed: int
    diverged: int
    mean: Numbers
    low: Numbers
    high: Numbers
    difference: Numbers
    difference_low: Numbers
    difference_high: Numbers


def mean_of(values: np.ndarray) -> Numbers:
    """Return the mean over runs, `nan` where there are none."""
    if not len(values):
        return np.full(values.shape[1:], np.nan)[()]
    with np.errstate(invalid="ignore"):
        return values.mean(axis=0)


def metric_table(title: str, summaries: Sequence[Summary], baseline: str) -> str:
    """Return a table of one metric, a row for each scheme; of a curve the last entry."""
    rows = [
        (
            summary.scheme,
            f"{summary.runs}" + (f" ({summary.diverged} diverged)" if summary.diverged else ""),
            _text(summary.mean),
            _span(summary.low, summary.high),
            "" if summary.scheme == baseline else _text(summary.difference, "+"),
            "" if summary.scheme == baseline else _span(summary.difference_low, summary.difference_high, "+"),
        )
        for summary in summaries
    ]
    heads = ("scheme", "runs", "mean", "95 % interval", f"difference from {baseline}", "95 % interval")
    return table(title, heads, rows)


def _last(number: Numbers) -> float:
    return float(np.ravel(number)[-1]) if np.size(number) else float("nan")


def _text(number: Numbers, sign: str = "") -> str:
    last = _last(number)
    return "" if sign and np.isnan(last) else f"{last:{sign}.4g}"


def _span(low: Numbers, high: Numbers, sign: str = "") -> str:
    return "" if np.isnan(_last(low)) else f"{_text(low, sign)} … {_text(high, sign)}"
