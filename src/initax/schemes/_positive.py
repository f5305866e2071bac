"""Checks before a draw whether what an initializer gives fits behind a constraint."""

from __future__ import annotations

import math

import numpy as np

from initax._errors import SchemeError
from initax._model._constraint import COMPLEX_PART
from initax._model._parameter import Constraint, Parameter
from initax.schemes._initializer import Initializer, Recipe, array_name

EXPECTED = 1e-3
"""Entries of an array that may be expected beyond a map's upper bound: one draw in a thousand has one, and is cut."""


def refuse_unfitting(initializer: Initializer, recipe: Recipe, parameter: Parameter, constraint: Constraint) -> None:
    """Raise where a draw could have values outside the range of the constraint's map, or is no random one of a part.

    Raises:
        SchemeError: entries can be negative, or zero where the map has no zero, or beyond the map's upper bound; or the
            array is one part of a complex weight, of which random numbers alone have a half of a variance.
    """
    if constraint is COMPLEX_PART and not recipe.kernel.random and any(map(np.any, recipe.numbers)):
        pattern = parameter.axes.pattern if parameter.axes else ""
        raise SchemeError(
            f"{initializer} says the values of a whole weight, and {array_name(parameter)} is the real or imaginary "
            "part of a complex one.",
            'for both parts: ("variance_scaling", {"distribution": "normal"}), ("normal", {"stddev": ...})',
            f'for this array as if it were the weight: {{"{parameter.path}": ix.Scheme(..., axes="{pattern}")}}',
        )
    if not constraint.positive:
        return
    lowest, wrong = recipe.kernel.lowest(recipe.numbers), ""
    if lowest < 0:
        wrong = f"{initializer} gives negative values, and {array_name(parameter)} is positive"
    elif lowest == 0 and not constraint.reaches_zero and not recipe.kernel.random:
        wrong = f"{initializer} gives zeros, and {array_name(parameter)} is never zero"
    if wrong:
        raise SchemeError(
            f"{wrong} ({constraint.name}).",
            'for positive weights: "hoedt", ("icnn", {"activation": ...}), ("constant", {"value": ...}), '
            '("uniform", ...)',
            "for a whole input-convex network: ix.convex.rules(model, activation)",
        )
    if math.isinf(constraint.most):
        return
    share = recipe.kernel.above(recipe.numbers, constraint.most)
    expected = share * math.prod(parameter.shape)
    if expected > EXPECTED:
        raise SchemeError(
            f"{initializer} gives weights above {constraint.most:g}, which {array_name(parameter)} can't hold "
            f"({constraint.name}).",
            f"expected: {expected:.3g} of {math.prod(parameter.shape)} entries",
            "use a map without an upper bound: softplus, exp, square",
        )
