"""One metric under one scheme over the seeds: mean, interval, and difference from the baseline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from initax._ablation._bootstrap import Numbers


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
        mean: Numbers = values.mean(axis=0)
    return mean
