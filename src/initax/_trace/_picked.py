"""Rows that the data look up: of an embedding, or of a stack whose members the data pick."""

from __future__ import annotations

from collections.abc import Sequence

from initax._trace._uses import CONTRACTIONS, Use, parts_of
from initax._trace._views import opened

CHANGED_FIRST = "the data pick a matrix of it that is changed before it meets the signal: a member of a stack or a row"
WITH_MEMBERS = "the data pick a row of it and a member of a weight by one number; what the row is can't be told"


def tell_members(uses: Sequence[Use]) -> None:
    """Tell members of a stack from rows of an embedding, once all uses are known.

    Rows that are looked up by the same number as a member of a weight are a bias or a scale of that member. Matrices
    that are looked up and changed before the signal, such as normalized weights, may be members or rows.

    Args:
        uses: all uses; those of members are changed.
    """
    looked_up = [use for use in uses if use.view.by]
    of_weights = {use.view.by for use in looked_up if use.what in CONTRACTIONS or _is_changed(use)}
    for use in looked_up:
        view, is_bias = use.view, use.met_as == "bias"
        if use.what != "embedding" or use.stop is not None:
            continue
        if _is_changed(use):
            use.halt(CHANGED_FIRST, use.line)
        elif view.by in of_weights and use.met_as in ("bias", "scale"):
            use.what = "bias" if is_bias else "scale"
            batch = (*view.batch, *opened(view.looked), *view.tables)
            use.parts = parts_of(("out" if is_bias else "along", view.factors), ("batch", batch))
        elif view.by in of_weights:
            use.halt(WITH_MEMBERS, use.line)


def _is_changed(use: Use) -> bool:
    """Return whether a use is of a matrix that is looked up, and combined with something before it is contracted."""
    is_matrix = sum(factor.size > 1 for factor in use.view.factors) > 1
    return use.what == "embedding" and is_matrix and use.met_as in ("scale", "factor")
