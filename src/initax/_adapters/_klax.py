"""klax: the table of its layers that own arrays. What it puts around a weight, `_wrappers` reads by class name."""

from __future__ import annotations

import sys
from typing import Any

from initax._adapters._wrappers import describe as describe  # noqa: PLC0414  klax has wrappers, too
from initax._model._declared import bias, declare, row, weight

MOST_INPUTS = 16
"""Largest number of inputs of an `InputSplitLinear` that is known; it has one weight for each."""

KLAX: Any = sys.modules.get("klax")
"""klax, if the user has loaded it: it needs a newer Python than initax, and is never loaded from here."""

ROWS = {
    "Linear": row("Linear", weight=weight("i o"), bias=bias("o", "weight")),
    "InputSplitLinear": row(
        "Linear", {f"weights.{index}": weight("i o") for index in range(MOST_INPUTS)}, bias=bias("o", "weights.0")
    ),
}
"""Classes of `klax.nn` with weights and biases: one row each."""

if KLAX is not None:
    for _name, _row in ROWS.items():
        declare(getattr(KLAX.nn, _name), _row)
