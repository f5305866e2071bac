"""The tables of an ablation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from initax._ablation._bootstrap import Numbers
from initax._ablation._run import Run
from initax._ablation._summary import Summary
from initax._errors import count, first_of, message
from initax._text import table

FAILURES = 12
"""Failed runs that are listed one by one."""


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


def failure_list(runs: Sequence[Run]) -> str:
    """Return the failed runs with the first line of each error, or nothing."""
    errors = [f"{run.scheme}, seed {run.seed}: {run.error.splitlines()[0]}" for run in runs if run.error]
    if not errors:
        return ""
    return message(f"failed: {count(len(errors), 'run')}", *first_of(errors, FAILURES))


def _last(number: Numbers) -> float:
    return float(np.ravel(number)[-1]) if np.size(number) else float("nan")


def _text(number: Numbers, sign: str = "") -> str:
    last = _last(number)
    return "" if sign and np.isnan(last) else f"{last:{sign}.4g}"


def _span(low: Numbers, high: Numbers, sign: str = "") -> str:
    return "" if np.isnan(_last(low)) else f"{_text(low, sign)} … {_text(high, sign)}"
