"""Bootstrap intervals of a mean, for every entry of an array at once."""

from __future__ import annotations

import math

import numpy as np

RESAMPLES = 9999
"""Resamples of the bootstrap; with 9999 the ends of a 95 % interval are themselves known to some 2 % of its width."""
ENTRIES = 256
"""Entries resampled at a time, which bounds the memory."""

Numbers = np.ndarray | np.float64


def interval(
    values: np.ndarray, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Numbers, Numbers]:
    """Return the ends of the BCa bootstrap interval of the mean over the first axis.

    Every entry sees the same resamples, so that a band over a curve is that of whole curves.

    Args:
        values: shape `(seeds, ...)`.
        confidence: how often such intervals hold the true mean, strictly between 0 and 1.
        resamples: number of resamples.
        seed: seed of the resampling.

    Returns:
        Both ends, each of shape `values.shape[1:]`; `nan` where a value is not finite, or with less than two seeds.

    Examples:
        >>> low, high = interval(np.arange(10.0))
        >>> bool(low < 4.5 < high)
        True

    References:
        Efron 1987, Better bootstrap confidence intervals, eq. 2.3, and 6.6 for the acceleration.
    """
    number, shape = values.shape[0], values.shape[1:]
    columns = np.asarray(values, np.float64).reshape(number, math.prod(shape))
    ends = np.full((2, columns.shape[1]), np.nan)
    if number > 1:
        weights = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), resamples) / number
        finite = np.flatnonzero(np.isfinite(columns).all(axis=0))
        for start in range(0, finite.size, ENTRIES):
            block = finite[start : start + ENTRIES]
            ends[:, block] = _ends(columns[:, block], weights, confidence)
    low, high = ends.reshape(2, *shape)
    return low[()], high[()]


def _ends(columns: np.ndarray, weights: np.ndarray, confidence: float) -> np.ndarray:
    from statistics import NormalDist  # an import of some milliseconds that few need

    mean = columns.mean(axis=0)
    deviations = columns - mean
    scale = np.abs(deviations).max(axis=0)
    unit = deviations / np.where(scale > 0, scale, 1)
    means = np.sort(weights @ unit, axis=0)
    close = 1e-12  # sums of the same numbers in another order are the same mean
    below = ((means < -close).mean(axis=0) + (means <= close).mean(axis=0)) / 2
    center = np.array(list(map(NormalDist().inv_cdf, np.clip(below, 1e-9, 1 - 1e-9))))
    square = (unit**2).sum(axis=0)
    acceleration = (unit**3).sum(axis=0) / (6 * np.where(square > 0, square, 1) ** 1.5)
    outside = NormalDist().inv_cdf((1 - confidence) / 2)
    ends = []
    for normal in (outside, -outside):
        moved = center + normal
        level = np.array(list(map(NormalDist().cdf, center + moved / (1 - acceleration * moved))))
        rank = level * (len(means) - 1)
        under = np.floor(rank).astype(int)
        over = np.minimum(under + 1, len(means) - 1)
        lower, upper = (np.take_along_axis(means, index[None], axis=0)[0] for index in (under, over))
        ends.append(mean + scale * (lower + (rank - under) * (upper - lower)))
    return np.array(ends)
