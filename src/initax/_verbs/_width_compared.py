"""Two forward passes of different widths, compared: which weights make up for numbers, and what is left."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from initax._model._reason import Why
from initax._model._survey import Traced
from initax._trace._width_changes import made_up_for, unmade
from initax._verbs._labels import never_trained
from initax._verbs._width_factors import Optimizer, Pair, WidthFactor, decided

Folds = Mapping[str, Sequence[tuple[float, str]]]
"""Path of a parameter → the factors of the forward pass that it takes over, each with what it is."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two forward passes side by side.

    Attributes:
        before: that of the base.
        after: that of the wide model.
        pairs: the arrays of both, by path.
        attention: whether products of two signals are to be divided by what they sum over.
    """

    before: Traced
    after: Traced
    pairs: Mapping[str, Pair]
    attention: bool

    def taken_over(self, folds: Folds, looked_up: Collection[int]) -> dict[str, float]:
        """Return weights that make up for what signals behind other functions were multiplied by, and by how much.

        Args:
            folds: the factors that are known already.
            looked_up: the parameters of which rows are looked up.
        """
        takers = [
            param
            for param, path in enumerate(self.after.paths)
            if (pair := self.pairs.get(path)) is not None and pair.word not in ("fixed", "tied", "input")
            if can_take(pair) and param not in looked_up
        ]
        found = made_up_for((self.before, self.after), self._changes(folds), takers, **self._options())
        return {self.after.paths[param]: times for param, times in found.items()}

    def notes(self, folds: Folds) -> list[str]:
        """Return what the forward pass multiplies by with the width, or sums over, and no factor makes up for.

        Args:
            folds: the factors that are known.
        """
        return unmade((self.before, self.after), self._changes(folds), **self._options())

    def _options(self) -> dict[str, Any]:
        ratios = [ratio for pair in self.pairs.values() for ratio in pair.grown.axes.values()]
        growth = max(ratios, key=lambda ratio: abs(math.log(ratio)), default=1.0)
        return {"growth": growth, "products": self.attention}

    def _changes(self, folds: Folds) -> dict[int, tuple[float, float] | None]:
        """What the learning rates under Adam, and the standard deviations, are multiplied with."""
        adam = Optimizer(name="adam")
        own = {path: decided(pair, folds.get(path, ()), adam, None) for path, pair in self.pairs.items()}
        rows = with_owners(own, self.pairs)
        of_paths = [(param, rows[path]) for param, path in enumerate(self.after.paths) if path in rows]
        return {
            param: None if row.use == "fixed" and row.grows else (row.learning_rate, row.std) for param, row in of_paths
        }


def can_take(pair: Pair) -> bool:
    """Return whether an array is drawn and trained, so that a factor of it does something.

    Args:
        pair: the array in both models.
    """
    reason = pair.parameter.excluded
    is_drawn = reason is None or reason.why is Why.TIED or pair.word in ("hidden", "output", "query")
    return is_drawn and not never_trained(pair.parameter)


def with_owners(rows: Mapping[str, WidthFactor], pairs: Mapping[str, Pair]) -> dict[str, WidthFactor]:
    """Return rows of which those of a tied array are its owner's.

    Args:
        rows: path → what the array needs.
        pairs: the arrays in both models, by path.
    """
    own = dict(rows)
    for path, pair in pairs.items():
        reason = pair.parameter.excluded
        owner = None if reason is None or reason.why is not Why.TIED else rows.get(reason.owner or "")
        if owner is not None:
            own[path] = replace(
                rows[path], use=owner.use, std=owner.std, learning_rate=owner.learning_rate, why=str(reason)
            )
    return own
