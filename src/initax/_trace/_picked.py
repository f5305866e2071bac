"""Rows that the data look up: of an embedding, or of a stack whose members the data pick."""

from __future__ import annotations

from collections.abc import Sequence

from initax._trace._uses import CONTRACTIONS, Part, Use, assign
from initax._trace._views import Stop, View

CHANGED_FIRST = "the data pick a matrix of it that is changed before it meets the signal: a member of a stack or a row"
WITH_MEMBERS = "the data pick a row of it and a member of a weight by one number; what the row is can't be told"


def tell_members(uses: Sequence[Use]) -> None:
    """Tell members of a stack from rows of an embedding, once all uses are known.

    What one number picks beside the members of a weight is a member, too: a bias or a scale. Matrices that are picked
    and changed before they meet the signal, such as weights with a norm of their own, may be members.

    Args:
        uses: all uses; those of members are changed.
    """
    looked_up = [(use, use.view) for use in uses if use.view is not None and use.view.by]
    of_weights = {view.by for use, view in looked_up if use.what in CONTRACTIONS or _is_changed(use, view)}
    for use, view in looked_up:
        if use.what != "embedding" or use.stop is not None:
            continue
        if _is_changed(use, view):
            use.stop = Stop(CHANGED_FIRST, use.line)
        elif view.by in of_weights and use.met_as in ("bias", "scale"):
            _as_member(use, view)
        elif view.by in of_weights:
            use.stop = Stop(WITH_MEMBERS, use.line)


def _is_changed(use: Use, view: View) -> bool:
    """Return whether what is looked up has several axes, and is combined with something before it is contracted."""
    is_matrix = sum(factor.size > 1 for factor in view.own) > 1
    return use.what == "embedding" and is_matrix and use.met_as in ("scale", "factor")


def _as_member(use: Use, view: View) -> None:
    """Make a look-up the bias or the scale of a member."""
    part: Part = "out" if use.met_as == "bias" else "along"
    use.what = "bias" if use.met_as == "bias" else "scale"
    use.parts = {}
    assign(use.parts, view.own, part)
    assign(use.parts, (*view.batch, *view.opened(view.looked), *view.tables), "batch")
