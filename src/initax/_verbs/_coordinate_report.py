"""What `ix.coordinate_check` returns: how far every output moved at every width, and whether that is flat."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from initax._errors import InitaxError, count, first_of, message, with_line
from initax._text import table
from initax._verbs._figures import draw_band, new_figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinate:
    """How far the output of one weighted operation moved.

    Attributes:
        path: the path of the weight.
        change: mean size of the change of an entry, of shape (widths, keys).
        is_product: whether it is a product of two signals, attention's logits: these start as width^-1/2 where they are
            divided by the width, and may fall at first.
        slope: the slope of its logarithm against that of the width, by least squares over all widths and keys; `nan`
            where an output did not move or is not finite.
    """

    path: str
    change: np.ndarray
    slope: float
    is_product: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateCheck:
    """How far outputs move in a few steps at several widths: print it for a table.

    Attributes:
        widths: the widths.
        steps: how many steps were taken.
        layers: one `ix.Coordinate` for each weighted operation, in the order of the forward pass.
    """

    widths: tuple[int, ...]
    steps: int
    layers: tuple[Coordinate, ...]

    @classmethod
    def of(
        cls, widths: Sequence[int], steps: int, changes: Mapping[str, np.ndarray], products: Collection[str] = ()
    ) -> CoordinateCheck:
        """Return the check of some changes.

        Args:
            widths: the widths.
            steps: how many steps were taken.
            changes: path → changes, of shape (widths, keys).
            products: paths of products of two signals.
        """
        layers = (
            Coordinate(path=path, change=change, slope=_slope(widths, change), is_product=path in products)
            for path, change in changes.items()
        )
        return cls(widths=tuple(widths), steps=steps, layers=tuple(layers))

    @property
    def slopes(self) -> dict[str, float]:
        """Path of each weight → slope."""
        return {layer.path: layer.slope for layer in self.layers}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        layers = {
            layer.path: {"change": layer.change.tolist(), "slope": layer.slope, "is_product": layer.is_product}
            for layer in self.layers
        }
        return {"widths": list(self.widths), "steps": self.steps, "layers": layers}

    def __str__(self) -> str:
        """Return a table: at each width the mean change of an entry, its median over the keys; and the slope."""
        rows = [
            (layer.path, *(f"{change:.3g}" for change in np.median(layer.change, axis=1)), f"{layer.slope:+.2f}")
            for layer in self.layers
        ]
        keys = self.layers[0].change.shape[1] if self.layers else 0
        title = f"{count(self.steps, 'step')}, {count(keys, 'key')}"
        return table(title, ("weight", *(str(width) for width in self.widths), "slope"), rows)

    def __repr__(self) -> str:
        """Return it in one line, with the steepest slope."""
        steepest = max((layer.slope for layer in self.layers), key=abs, default=math.nan)
        return f"CoordinateCheck({count(len(self.layers), 'operation')}, steepest slope {steepest:+.2f})"

    @with_line("check.assert_flat", "write check.assert_flat(), or check.assert_flat(tolerance=0.1)")
    def assert_flat(self, *, tolerance: float = 0.1) -> None:
        """Raise unless every output moves as far at every width. For use in tests.

        Attention's logits, which start as width^-1/2, must not move further at larger widths, and may move less.

        Args:
            tolerance: the largest slope, up or down: .1 is a change by a quarter over ten times the width.

        Raises:
            AssertionError: a slope is larger, or not finite; the message lists each.
            InitaxError: the tolerance is not a positive number.
        """
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float | np.number) or not tolerance > 0:
            raise InitaxError(
                f"assert_flat: tolerance is a positive number, not {tolerance!r}.", "assert_flat(tolerance=0.1)"
            )
        wrong = [
            f"{layer.path}: slope {layer.slope:+.2f}, not within {tolerance:g}"
            for layer in self.layers
            if not (layer.slope if layer.is_product else abs(layer.slope)) <= tolerance
        ]
        if wrong:
            raise AssertionError(message("outputs do not move alike at every width.", *first_of(wrong, 8)))

    @with_line("check.plot", "write check.plot(), which returns the figure")
    def plot(self) -> Any:
        """Return a matplotlib figure: a line for each operation, which is flat where the width does not count.

        Raises:
            InitaxError: matplotlib is not installed.
        """
        figure = new_figure(6.4, 4.2)
        panel = figure.subplots()
        for layer in self.layers:
            low, middle, high = np.quantile(layer.change, (0, 0.5, 1), axis=1)
            draw_band(panel, self.widths, low, middle, high, marker="o", label=f"{layer.path} {layer.slope:+.2f}")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(self.widths, [str(width) for width in self.widths])
        panel.set_xlabel("width")
        panel.set_ylabel(f"mean |change| after {count(self.steps, 'step')}")
        panel.legend(fontsize="x-small", title="slope", title_fontsize="x-small")
        return figure


def _slope(widths: Sequence[int], change: np.ndarray) -> float:
    if not np.isfinite(change).all() or not (change > 0).all():
        return math.nan
    x = np.repeat(np.log(np.asarray(widths, float)), change.shape[1])
    return float(np.polyfit(x, np.log(change).ravel(), 1)[0])
