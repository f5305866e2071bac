"""The result of an ablation: runs, means with intervals, paired differences, a table and a figure."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._ablation._bootstrap import RESAMPLES, interval
from initax._ablation._file import read_file
from initax._ablation._plot import draw_panels
from initax._ablation._run import Run, failure_list
from initax._ablation._summary import Summary, mean_of, metric_table
from initax._errors import InitaxError, alternatives, listing, with_line


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ablation:
    """The same experiment under several rule maps: print it for tables, `plot()` it, take its runs.

    Attributes:
        runs: every run, scheme by scheme and seed by seed.
        plans: name of each scheme → its rules, every decision they led to, and a fingerprint of both; plain data.
        keys: the keys, one for each seed.
        baseline: the scheme that differences are taken from.
    """

    runs: tuple[Run, ...]
    plans: Mapping[str, Mapping[str, Any]]
    keys: jax.Array
    baseline: str

    @classmethod
    @with_line("ix.Ablation.load", 'write ix.Ablation.load("runs.jsonl")')
    def load(cls, path: str | os.PathLike[str], *, baseline: str | None = None) -> Ablation:
        """Return what a file holds so far, without the model and the code it came from.

        Args:
            path: the file that `ix.ablate` wrote.
            baseline: the scheme that differences are taken from; the first one if left out.

        Raises:
            InitaxError: the file is not an ablation's, or damaged, or there is no such baseline.
            FileNotFoundError: there is no such file.
        """
        header, runs = read_file(path)
        data = jnp.array(header["keys"]["data"], jnp.uint32)
        keys = jax.random.wrap_key_data(data, impl=header["keys"]["implementation"])
        return cls.of(runs, header["schemes"], keys, baseline)

    @classmethod
    def of(
        cls, runs: Sequence[Run], plans: Mapping[str, Mapping[str, Any]], keys: jax.Array, baseline: str | None
    ) -> Ablation:
        """Return runs in order, with a baseline that exists."""
        names = list(plans)
        chosen = names[0] if baseline is None else check_baseline(baseline, names)
        ordered = sorted(runs, key=lambda run: (names.index(run.scheme), run.seed))
        return cls(runs=tuple(ordered), plans=plans, keys=keys, baseline=chosen)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, in the order of their first run."""
        return tuple(dict.fromkeys(name for run in self.runs for name in run.metrics))

    @with_line("ablation.values", 'write ablation.values("loss")')
    def values(self, metric: str) -> dict[str, np.ndarray]:
        """Return a metric of every scheme, each an array of shape `(seeds, ...)`.

        Args:
            metric: its name.

        Returns:
            Name of the scheme → numbers; `nan` for runs that failed, did not return it, or are still to come.

        Raises:
            InitaxError: no run has this metric, or runs have it in different shapes.
        """
        if metric not in self.metrics:
            lines = alternatives("metrics", metric, self.metrics) if self.metrics else ("every run failed",)
            raise InitaxError(f'no run has a metric "{metric}".', *lines)
        having = [run for run in self.runs if metric in run.metrics]
        shapes = list(dict.fromkeys(np.shape(run.metrics[metric]) for run in having))
        if len(shapes) > 1:
            raise InitaxError(f'runs have the metric "{metric}" in different shapes: {listing(map(str, shapes))}.')
        values = {name: np.full((len(self.keys), *shapes[0]), np.nan) for name in self.plans}
        for run in having:
            values[run.scheme][run.seed] = run.metrics[metric]
        return values

    @with_line("ablation.summary", 'write ablation.summary("loss")')
    def summary(
        self, metric: str, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
    ) -> tuple[Summary, ...]:
        """Return a metric's mean, its interval and the paired difference from the baseline, scheme by scheme.

        Intervals are bootstrapped over seeds (BCa). The same resamples serve every scheme and entry.

        Args:
            metric: its name.
            confidence: how often such intervals hold the true mean.
            resamples: number of resamples.
            seed: seed of the resampling, so that the same runs give the same intervals.

        Raises:
            InitaxError: no run has this metric, or runs have it in different shapes; `confidence` is not between 0
                and 1.
        """
        if not 0 < confidence < 1:
            raise InitaxError(f"confidence must be strictly between 0 and 1, not {confidence!r}.")
        values, has = self.values(metric), {name: np.zeros(len(self.keys), bool) for name in self.plans}
        for run in self.runs:
            has[run.scheme][run.seed] = metric in run.metrics
        ends = functools.partial(interval, confidence=confidence, resamples=resamples, seed=seed)
        summaries = []
        for name, array in values.items():
            numbers, paired = array[has[name]], has[name] & has[self.baseline]
            with np.errstate(invalid="ignore"):  # the difference of two infinities is not a number
                differences = array[paired] - values[self.baseline][paired]
            (low, high), (difference_low, difference_high) = ends(numbers), ends(differences)
            summaries.append(
                Summary(
                    metric=metric,
                    scheme=name,
                    runs=len(numbers),
                    failed=sum(run.scheme == name and run.error is not None for run in self.runs),
                    diverged=sum(not np.isfinite(number).all() for number in numbers),
                    mean=mean_of(numbers),
                    low=low,
                    high=high,
                    difference=mean_of(differences),
                    difference_low=difference_low,
                    difference_high=difference_high,
                )
            )
        return tuple(summaries)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each metric that is a number in every run, or a curve of the same length in every run."""
        shapes: dict[str, set[tuple[int, ...]]] = {name: set() for name in self.metrics}
        for run in self.runs:
            for name, value in run.metrics.items():
                shapes[name].add(np.shape(value))
        return {name: min(of_runs) for name, of_runs in shapes.items() if len(of_runs) == 1 and len(min(of_runs)) < 2}

    def __str__(self) -> str:
        """Return a table of every metric that is a number or a curve, and what failed."""
        shown = self._shapes()
        tables = [
            metric_table(name + (f", last of {shape[0]}" if shape else ""), self.summary(name), self.baseline)
            for name, shape in shown.items()
        ]
        left = [name for name in self.metrics if name not in shown]
        parts = (*tables, f"not in a table: {listing(left)}" if left else "", failure_list(self.runs))
        return "\n\n".join(part for part in parts if part)

    @with_line("ablation.plot", "write ablation.plot()")
    def plot(self, metrics: Sequence[str] | str | None = None, *, confidence: float = 0.95) -> Any:
        """Return a matplotlib figure with a panel for each metric: means with intervals, as bands along a curve.

        Args:
            metrics: which ones; every number and curve if left out.
            confidence: how often such intervals hold the true mean.

        Raises:
            InitaxError: a metric is neither a number nor a curve, there is none, or matplotlib is not installed.
        """
        panels: dict[str, tuple[Summary, ...]] = {}
        for name in [metrics] if isinstance(metrics, str) else self._shapes() if metrics is None else metrics:
            panels[name] = self.summary(name, confidence=confidence)
            if (rank := np.ndim(panels[name][0].mean)) > 1:
                raise InitaxError(f'"{name}" has {rank} axes; plot() shows numbers and curves.')
        if not panels:
            raise InitaxError("plot() finds no metric to show: every run failed, or returned larger arrays.")
        return draw_panels(panels)


def check_baseline(name: str, schemes: Collection[str]) -> str:
    """Return the name of the scheme that differences are taken from.

    Raises:
        InitaxError: there is no scheme of that name.
    """
    if name in schemes:
        return name
    raise InitaxError(f'baseline: no scheme is called "{name}".', *alternatives("schemes", name, schemes))
