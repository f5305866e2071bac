"""The reports of `ix.signal_propagation`: statistics of every output, for one rule map or several."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from initax._errors import InitaxError, count, first_of, message, shown, with_line
from initax._text import table
from initax._verbs._figures import draw_band, new_figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """The output of one weighted operation, bias included; each number is an array with one entry per key.

    Attributes:
        path: the path of the weight; the step of a loop stands behind, `layers.w[2]`.
        mean: mean over examples, units and positions.
        std: standard deviation over the same.
        mean_square: mean of the square: the length of the signal.
        dead: fraction of units that are negative for every example, which a relu would never let through.
        saturated: fraction of entries beyond 3 in size.
        correlation: mean over pairs of examples of the cosine between their outputs; `nan` for one example, or where
            the examples can't be told from other axes.
        gradient_norm: norm of the loss's gradient for the weight; `nan` without a loss, and for a weight that several
            steps of a loop share.
        gradient_variance: variance of the entries of that gradient.
        ran: for each key, whether the operation ran: a branch may not be taken, and a `while` loop end before. Where it
            did not, the other numbers are `nan`.
    """

    path: str
    mean: np.ndarray
    std: np.ndarray
    mean_square: np.ndarray
    dead: np.ndarray
    saturated: np.ndarray
    correlation: np.ndarray
    gradient_norm: np.ndarray
    gradient_variance: np.ndarray
    ran: np.ndarray

    def median(self, number: str) -> float:
        """Return the median of a number over the keys with which the operation ran."""
        return float(np.median(getattr(self, number)[self.ran]))


def numbered(paths: Iterable[str]) -> list[str]:
    """Return paths, those that are there again with `#2`, `#3`, ... behind them."""
    times: Counter[str] = Counter()
    names = []
    for path in paths:
        times[path] += 1
        names.append(path if times[path] == 1 else f"{path}#{times[path]}")
    return names


NUMBERS = tuple(number.name for number in fields(Signal) if number.name not in ("path", "ran"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalReport:
    """What `ix.signal_propagation` measured: print it for a table of medians over keys.

    Attributes:
        signals: one per weighted operation, in the order of the forward pass, steps of a loop one by one.
        unmeasured: paths of weights none of whose operations was seen: they did not run, or are written out.
        without_gradient: paths of outputs whose weight has no gradient of its own: steps of a loop that share it, sums
            of several weights; all of them without a loss.

    The table names the first output that is not finite with some key.
    """

    signals: tuple[Signal, ...]
    unmeasured: tuple[str, ...] = ()
    without_gradient: tuple[str, ...] = ()

    @property
    def not_finite(self) -> tuple[str, ...]:
        """Paths of the outputs that are not finite with some key, in the order of the forward pass."""
        return tuple(signal.path for signal in self.signals if not np.isfinite(signal.mean_square[signal.ran]).all())

    def _by_path(self) -> dict[str, Signal]:
        """The signals by path; a weight used again has `#2` behind its path."""
        return dict(zip(numbered(signal.path for signal in self.signals), self.signals, strict=True))

    def to_dict(self) -> dict[str, dict[str, list[float]]]:
        """Return path → number → values, one per key; a weight used again has `#2` behind its path."""
        return {
            path: {name: np.asarray(getattr(signal, name), float).tolist() for name in NUMBERS}
            for path, signal in self._by_path().items()
        }

    def __str__(self) -> str:
        """Return the medians as a table; columns that hold nothing are left out."""
        shown = [name for name in NUMBERS if any(np.isfinite(getattr(signal, name)).any() for signal in self.signals)]
        rows = [(signal.path, *(f"{signal.median(name):.4g}" for name in shown)) for signal in self.signals]
        heads = [name.replace("_", " ") for name in shown]
        keys = self.signals[0].mean.size if self.signals else 0
        title = count(len(self.signals), "operation") + (f", medians over {keys} keys" if keys > 1 else "")
        whole = table(title, ("weight", *heads), rows) if rows else title
        return "\n\n".join([whole, *self.remarks()])

    def remarks(self) -> tuple[str, ...]:
        """Return the lines below the table: weights that were not measured, and outputs that are not finite."""
        lost = self.not_finite
        return (
            *([f"not measured: {', '.join(self.unmeasured)}"] if self.unmeasured else []),
            *([f"not finite: {lost[0]} first, of {len(lost)}"] if lost else []),
        )

    def medians(self) -> dict[str, dict[str, float]]:
        """Return path → number → median over the keys; a weight used again has `#2` behind its path."""
        return {path: {name: signal.median(name) for name in NUMBERS} for path, signal in self._by_path().items()}

    @with_line(
        "report.assert_healthy", "write report.assert_healthy(), or report.assert_healthy(mean_square=(0.1, 10.0))"
    )
    def assert_healthy(
        self,
        *,
        mean_square: tuple[float, float] = (0.1, 10.0),
        dead: float = 0.5,
        saturated: float = 0.5,
        correlation: float = 1.0,
        gradient_ratio: float = math.inf,
    ) -> None:
        """Raise unless every signal stays within bounds, in the median over keys. For use in tests.

        Args:
            mean_square: the least and the largest mean square.
            dead: the largest fraction of dead units.
            saturated: the largest fraction of saturated entries.
            correlation: the largest mean correlation between examples.
            gradient_ratio: the largest ratio between two gradient norms, of weights that have one; needs a loss.

        Raises:
            AssertionError: a number is out of bounds, or not finite; the message lists each.
            InitaxError: a bound is not a number, or `gradient_ratio` is given and no gradient was measured.

        Examples:
            >>> import equinox as eqx, jax, initax as ix
            >>> model = eqx.nn.MLP(16, 16, 64, depth=3, key=jax.random.key(0))
            >>> x = jax.random.normal(jax.random.key(1), (32, 16))
            >>> report = ix.signal_propagation(model, x, forward=lambda model, x: jax.vmap(model)(x))
            >>> report.assert_healthy(mean_square=(0.001, 10))
        """
        bounds = {
            "mean_square": _bounds("mean_square", mean_square),
            "dead": _bounds("dead", dead, least=0.0),
            "saturated": _bounds("saturated", saturated, least=0.0),
            "correlation": _bounds("correlation", correlation, least=-math.inf),
        }
        _bounds("gradient_ratio", gradient_ratio, least=0.0)
        wrong = []
        for signal in self.signals:
            for name, (low, high) in bounds.items():
                value = signal.median(name)
                if name == "correlation" and math.isnan(value):
                    continue
                if not low <= value <= high:
                    wrong.append(f"{signal.path}: {name} {value:.4g}, not in [{low:g}, {high:g}]")
        if math.isfinite(gradient_ratio):
            having = [signal for signal in self.signals if signal.path not in self.without_gradient]
            norms = [signal.median("gradient_norm") for signal in having]
            if not norms:
                raise InitaxError(
                    "assert_healthy: gradient_ratio compares gradients, and none was measured.",
                    "ix.signal_propagation(model, inputs, loss=lambda output: (output**2).mean())",
                )
            ratio = np.max(norms) / np.min(norms) if np.min(norms) != 0 else math.inf
            if not ratio <= gradient_ratio:
                wrong.append(f"gradient norms: largest over smallest {ratio:.4g}, not at most {gradient_ratio:g}")
        if wrong:
            raise AssertionError(message("the signal does not stay within bounds.", *first_of(wrong, 8)))

    @with_line("report.plot", "write report.plot(), which returns the figure")
    def plot(self) -> Any:
        """Return a matplotlib figure: mean square, correlation and gradient norm by depth, as bands over the keys.

        Raises:
            InitaxError: matplotlib is not installed.
        """
        return _figure({"": self})


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalComparison:
    """What `ix.signal_propagation` measured under several rule maps: print it for a table of medians side by side.

    Attributes:
        reports: name of each rule map → its report.
    """

    reports: Mapping[str, SignalReport]

    def __getitem__(self, name: str) -> SignalReport:
        """Return the report of one rule map."""
        return self.reports[name]

    def to_dict(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Return name of the rule map → path → number → values, one per key."""
        return {name: report.to_dict() for name, report in self.reports.items()}

    def __str__(self) -> str:
        """Return the medians side by side; numbers that were not measured are left out."""
        medians = {name: report.medians() for name, report in self.reports.items()}
        columns = [(number, name) for number in _measured(self.reports.values()) for name in medians]
        paths = list(dict.fromkeys(path for by_path in medians.values() for path in by_path))
        rows = [
            (path, *(f"{medians[name][path][number]:.4g}" if path in medians[name] else "" for number, name in columns))
            for path in paths
        ]
        keys = next((signal.mean.size for report in self.reports.values() for signal in report.signals), 0)
        title = (
            f"{count(len(paths), 'operation')}, {count(len(medians), 'rule map')}, medians over {count(keys, 'key')}"
        )
        shown = table(title, ("weight", *(f"{number.replace('_', ' ')}, {name}" for number, name in columns)), rows)
        below = [f"{name}: {line}" for name, report in self.reports.items() for line in report.remarks()]
        return "\n\n".join([shown, *below])

    def assert_healthy(self, **bounds: Any) -> None:
        """Raise unless the signals of every rule map stay within bounds, as `SignalReport.assert_healthy` takes them.

        Args:
            bounds: the bounds, by name.

        Raises:
            AssertionError: a number is out of bounds; the message names the rule map.
            InitaxError: a bound is not a number.
        """
        for name, report in self.reports.items():
            try:
                report.assert_healthy(**bounds)
            except AssertionError as error:
                raise AssertionError(f'rules "{name}": {error}') from None

    @with_line("comparison.plot", "write comparison.plot(), which returns the figure")
    def plot(self) -> Any:
        """Return a matplotlib figure: mean square, correlation and gradient norm by depth, a band for each rule map.

        Raises:
            InitaxError: matplotlib is not installed.
        """
        return _figure(self.reports)


PLOTTED = ("mean_square", "correlation", "gradient_norm")
"""The numbers that tell rule maps apart at a glance."""


def _measured(reports: Iterable[SignalReport]) -> list[str]:
    """The plotted statistics that were measured."""
    signals = [signal for report in reports for signal in report.signals]
    return [name for name in PLOTTED if any(np.isfinite(getattr(signal, name)).any() for signal in signals)]


def _figure(reports: Mapping[str, SignalReport]) -> Any:
    """A figure with a panel for each statistic and in it a band over the keys for each report."""
    shown = _measured(reports.values())
    figure = new_figure(4.5 * len(shown), 3.2)
    for panel, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        plotted: list[np.ndarray] = []
        for label, report in reports.items():
            values = [np.asarray(getattr(signal, name), float)[signal.ran] for signal in report.signals]
            # What is not finite has no place on an axis; the line ends there.
            values = [np.where(np.isfinite(numbers), numbers, np.nan) for numbers in values]
            low, middle, high = np.array([np.quantile(numbers, (0.1, 0.5, 0.9)) for numbers in values]).T
            draw_band(panel, np.arange(1, len(values) + 1), low, middle, high, label=label)
            plotted += values
        panel.set_xlabel("weighted operation")
        panel.set_title(name.replace("_", " "))
        if name != "correlation" and np.nanmin(np.concatenate(plotted)) > 0:
            panel.set_yscale("log")
        if len(reports) > 1:
            panel.legend()
    return figure


def _bounds(name: str, value: Any, *, least: float | None = None) -> tuple[float, float]:
    """Return the bounds of a number: two that are given, or the least and the one that is given.

    Raises:
        InitaxError: what is given are not two numbers, or not one where the least is known.
    """
    pair = value if isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value)) else None
    if least is None and pair is not None:
        return float(pair[0]), float(pair[1])
    if least is not None and _is_number(value):
        return least, float(value)
    what, meant = "one number, the largest", pair[1] if pair else 0.6
    if least is None:
        what, meant = "two numbers, the least and the largest", f"(0.1, {value if _is_number(value) else 10.0})"
    raise InitaxError(f"assert_healthy: {name} is {what}, not {shown(value)}.", f"assert_healthy({name}={meant})")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
