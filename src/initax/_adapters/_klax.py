"""klax: the table of its layers that own arrays. What it puts around a weight is read by class name, in `_wrappers`."""

from __future__ import annotations

from typing import Any, Literal

import klax

from initax._adapters._pytree import Walk
from initax._layer import Declaration, Field, declare

MOST_INPUTS = 16
"""Inputs of an `InputSplitLinear` that are known; it has one weight for each."""

LAYERS: dict[type, Declaration] = {
    klax.nn.Linear: Declaration(
        kind="Linear",
        fields={
            "weight": Field(pattern="i o", role="weight"),
            "bias": Field(pattern="o", role="bias", of="weight"),
        },
    ),
    klax.nn.InputSplitLinear: Declaration(
        kind="Linear",
        fields={f"weights.{place}": Field(pattern="i o", role="weight") for place in range(MOST_INPUTS)}
        | {"bias": Field(pattern="o", role="bias", of="weights.0")},
    ),
}
"""Classes of `klax.nn` with weights and biases: one row each."""

for _cls, _row in LAYERS.items():
    declare(_cls, _row)


def describe(node: Any, walk: Walk, path: str) -> Literal["module", "state"] | None:
    """Return nothing: klax's modules are Equinox modules, and the adapter for those says so."""
    return None
