"""One metric under one scheme over the seeds: mean, interval, and difference from the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from initax._ablation._bootstrap import Numbers, interval


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


def summarize(
    metric: str,
    values: Mapping[str, np.ndarray],
    has: Mapping[str, np.ndarray],
    failed: Mapping[str, int],
    baseline: str,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[Summary, ...]:
    """Return the summary of each scheme.

    Args:
        metric: name of the metric.
        values: scheme → numbers, shape `(seeds, ...)`.
        has: scheme → whether each seed has the metric, shape `(seeds,)`.
        failed: scheme → how many runs failed.
        baseline: the scheme that differences are taken from.
        confidence: how often intervals hold the true mean.
        resamples: number of resamples.
        seed: seed of the resampling.
    """

    def ends(numbers: np.ndarray) -> tuple[Numbers, Numbers]:
        return interval(numbers, confidence=confidence, resamples=resamples, seed=seed)

    summaries = []
    for name, array in values.items():
        numbers, both = array[has[name]], has[name] & has[baseline]
        with np.errstate(invalid="ignore"):  # the difference of two infinities is not a number
            apart = array[both] - values[baseline][both]
        (low, high), (apart_low, apart_high) = ends(numbers), ends(apart)
        summaries.append(
            Summary(
                metric=metric,
                scheme=name,
                runs=len(numbers),
                failed=failed[name],
                diverged=sum(not np.isfinite(number).all() for number in numbers),
                mean=_mean(numbers),
                low=low,
                high=high,
                difference=_mean(apart),
                difference_low=apart_low,
                difference_high=apart_high,
            )
        )
    return tuple(summaries)


def _mean(values: np.ndarray) -> Numbers:
    if not len(values):
        return np.full(values.shape[1:], np.nan)[()]
    with np.errstate(invalid="ignore"):
        mean: Numbers = values.mean(axis=0)
    return mean
