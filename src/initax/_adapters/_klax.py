"""klax: the table of its layers that own arrays. What it puts around a weight is read by class name, in `_wrappers`."""

from __future__ import annotations

import sys
from typing import Any, Literal

from initax._adapters._pytree import Walk
from initax._model._parameter import Declaration, Field, declare

MOST_INPUTS = 16
"""Inputs of an `InputSplitLinear` that are known; it has one weight for each."""

KLAX: Any = sys.modules.get("klax")
"""klax, if the user has loaded it: it needs a newer Python than initax, and is never loaded from here."""

ROWS = {
    "Linear": Declaration(
        kind="Linear",
        fields={
            "weight": Field(pattern="i o", role="weight"),
            "bias": Field(pattern="o", role="bias", of="weight"),
        },
    ),
    "InputSplitLinear": Declaration(
        kind="Linear",
        fields={f"weights.{place}": Field(pattern="i o", role="weight") for place in range(MOST_INPUTS)}
        | {"bias": Field(pattern="o", role="bias", of="weights.0")},
    ),
}
"""Classes of `klax.nn` with weights and biases: one row each."""

if KLAX is not None:
    for _name, _row in ROWS.items():
        declare(getattr(KLAX.nn, _name), _row)


def describe(node: Any, walk: Walk, path: str) -> Literal["module", "state"] | None:
    """Return nothing: klax's modules are Equinox modules, and the adapter for those says so."""
    return None
