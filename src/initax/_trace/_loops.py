"""Loops of a jaxpr: their operands, and the number of steps of a `while` loop that counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from jax.extend.core import Literal

from initax._trace._jaxpr import open_jaxpr

T = TypeVar("T")


class Loop(NamedTuple, Generic[T]):
    """The operands of a scan or of a `while` loop.

    Attributes:
        body: the closed jaxpr of a step; its arguments are the operands below, in this order.
        fixed: the operands that are the same in each step.
        carry: the carried values before the first step.
        rows: the arrays of which each step of a scan takes one entry along the first axis.
    """

    body: Any
    fixed: list[T]
    carry: list[T]
    rows: list[T]

    @property
    def jaxpr(self) -> Any:
        """The open jaxpr of a step."""
        return open_jaxpr(self.body)

    @property
    def carried_vars(self) -> list[tuple[Any, Any]]:
        """The variables of a step that hold each carried value before and after it."""
        first, carries = len(self.fixed), len(self.carry)
        return list(zip(self.jaxpr.invars[first : first + carries], self.jaxpr.outvars[:carries], strict=True))

    @property
    def handed_on(self) -> list[bool]:
        """Which of the carried values each step hands on unchanged."""
        return [before is after for before, after in self.carried_vars]

    @property
    def changes(self) -> list[float | None]:
        """The number that a step adds to each carried value, `None` where that is not known."""
        return [_change(self.jaxpr, before, after) for before, after in self.carried_vars]

    def changed_by(self, is_signal: Sequence[bool]) -> list[bool]:
        """Return which of the carried values depend on a signal before the first step, or after some step.

        Args:
            is_signal: which operands are signals before the first step: fixed ones, carried ones, rows.
        """
        signals = {var for var, signal in zip(self.jaxpr.invars, is_signal, strict=True) if signal}

        def depends(atom: Any) -> bool:
            return not isinstance(atom, Literal) and atom in signals

        while True:
            for eqn in self.jaxpr.eqns:
                if any(map(depends, eqn.invars)):
                    signals |= set(eqn.outvars)
            new = {before for before, after in self.carried_vars if depends(after)} - signals
            if not new:
                return [before in signals for before, _ in self.carried_vars]
            signals |= new


def loop_of(eqn: Any, values: Sequence[T]) -> Loop[T]:
    """Return the operands of a scan or of a `while` loop, without those of a `while` loop's condition alone.

    Args:
        eqn: the equation.
        values: its operands.
    """
    if eqn.primitive.name == "while":
        body, tests = eqn.params["body_jaxpr"], eqn.params["cond_nconsts"]
        fixed, carries = eqn.params["body_nconsts"], len(eqn.outvars)
    else:
        body, tests = eqn.params["jaxpr"], 0
        fixed, carries = _scan_parts(eqn.params)
    end = tests + fixed
    return Loop(body, list(values[tests:end]), list(values[end : end + carries]), list(values[end + carries :]))


def _scan_parts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many operands of a scan are constants, and how many are carried from step to step."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carried, _ = params["ft_in"].unpack()  # from JAX 0.12 on
    return len(list(constants)), len(list(carried))


def steps_of(eqn: Any) -> float:
    """Return the number of steps of a `while` loop that counts up or down to a number, infinity for any other one.

    Args:
        eqn: the loop's equation.
    """
    cond, loop = eqn.params["cond_jaxpr"].jaxpr, loop_of(eqn, eqn.invars)
    tests = len(cond.invars) - len(loop.carry)
    compared = cond.eqns[0] if len(cond.eqns) == 1 else None
    if compared is None or cond.outvars[0] is not compared.outvars[0]:
        return math.inf
    starts = dict(zip(cond.invars, [*eqn.invars[:tests], *loop.carry], strict=True))
    changes = dict(zip(cond.invars[tests:], loop.changes, strict=True))
    gap = step = 0.0  # the second operand of the comparison minus the first, and by how much a step makes it smaller
    for atom, sign in zip(compared.invars, (-1, 1), strict=True):
        start, change = (atom, 0.0) if isinstance(atom, Literal) else (starts[atom], changes.get(atom, 0.0))
        if change is None or not isinstance(start, Literal) or np.ndim(start.val) > 0:
            return math.inf
        gap, step = gap + sign * float(start.val), step - sign * change
    name = compared.primitive.name
    if name in ("gt", "ge") or (name == "ne" and gap < 0):
        gap, step = -gap, -step
    if gap < 0 or (gap == 0 and name not in ("le", "ge")):
        return 0
    if step <= 0:
        return math.inf
    steps = gap / step
    counts = {"lt": math.ceil(steps), "le": math.floor(steps) + 1, "ne": steps if steps.is_integer() else math.inf}
    return counts.get({"gt": "lt", "ge": "le"}.get(name, name), math.inf)


def _change(body: Any, start: Any, end: Any) -> float | None:
    """Return the number that a step adds to a carried value, `None` where that is not known.

    Args:
        body: the jaxpr of the step.
        start: the variable of the value before the step.
        end: the variable of the value after it.
    """
    if end is start:
        return 0.0
    eqn = next((eqn for eqn in body.eqns if eqn.outvars[0] is end and eqn.primitive.name in ("add", "sub")), None)
    if eqn is None:
        return None
    left, right = eqn.invars
    if left is start and isinstance(right, Literal):
        return float(right.val) if eqn.primitive.name == "add" else -float(right.val)
    if right is start and isinstance(left, Literal) and eqn.primitive.name == "add":
        return float(left.val)
    return None
