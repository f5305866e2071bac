"""How often a loop runs that counts: what its condition and its body say of the counter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jax.extend.core import Literal as Number

BOUNDS: dict[str, Any] = {
    "lt": lambda gap, step: math.ceil(gap / step),
    "le": lambda gap, step: math.floor(gap / step) + 1,
    "gt": lambda gap, step: math.ceil(gap / step),
    "ge": lambda gap, step: math.floor(gap / step) + 1,
    "ne": lambda gap, step: gap / step,
}
"""Comparison of a counter with its bound → how many steps of a length it takes to bridge a gap."""


def steps_of(eqn: Any) -> float:
    """Return how often a `while` loop runs that counts from one number to another, infinity where that is not known.

    Args:
        eqn: the loop's equation.
    """
    tests, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond, body = eqn.params["cond_jaxpr"].jaxpr, eqn.params["body_jaxpr"].jaxpr
    carried = eqn.invars[tests + consts :]
    if (
        len(cond.eqns) != 1
        or cond.eqns[0].primitive.name not in BOUNDS
        or cond.outvars[0] is not cond.eqns[0].outvars[0]
    ):
        return math.inf
    compared = cond.eqns[0]
    around = dict(zip(cond.invars, [*eqn.invars[:tests], *carried], strict=True))
    steps = {
        var: moved(body, body.invars[consts + place], body.outvars[place])
        for place, var in enumerate(cond.invars[tests:])
    }
    starts: list[float] = []
    moves: list[float] = []
    for atom in compared.invars:
        fixed = isinstance(atom, Number)
        start, move = atom if fixed else around[atom], 0.0 if fixed else steps.get(atom, 0.0)
        if move is None or not isinstance(start, Number) or np.ndim(start.val) > 0:
            return math.inf
        starts.append(float(start.val))
        moves.append(move)
    gap, step = starts[1] - starts[0], moves[0] - moves[1]
    if compared.primitive.name in ("gt", "ge"):
        gap, step = -gap, -step
    if gap < 0 or (gap == 0 and compared.primitive.name not in ("le", "ge")):
        return 0
    if step <= 0:
        return math.inf
    found = BOUNDS[compared.primitive.name](gap, step)
    return found if found == int(found) else math.inf


def moved(body: Any, start: Any, end: Any) -> float | None:
    """Return by what a step changes a number that a loop carries, `None` where that is not known.

    Args:
        body: the open jaxpr of the loop.
        start: the variable that holds it before the step.
        end: the variable that holds it after the step.
    """
    if end is start:
        return 0.0
    for eqn in body.eqns:
        if eqn.outvars[0] is not end or eqn.primitive.name not in ("add", "sub"):
            continue
        left, right = eqn.invars
        if left is start and isinstance(right, Number):
            return float(right.val) if eqn.primitive.name == "add" else -float(right.val)
        if right is start and isinstance(left, Number) and eqn.primitive.name == "add":
            return float(left.val)
    return None
