"""Where values go in a forward pass: a graph of its floating-point values, with what each equation does to them.

Loops are opened twice, as if two steps were written out: what holds between these two holds between any two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from initax._trace._backward import carries_back
from initax._trace._flow_graph import Exit, Flow, Label, Node, Step
from initax._trace._flow_rules import shared
from initax._trace._interpret import Interpreter
from initax._trace._loops import loop_of, steps_of
from initax._trace._primitives import row_of
from initax._trace._uses import Place


def flow_of(closed: Any, arrays: int) -> Flow:
    """Return the graph of a forward pass.

    Args:
        closed: its closed jaxpr.
        arrays: how many of its arguments are parameters; the rest are constants and inputs.
    """
    walk = _Flowing()
    operands = [
        walk.new((), (), var.aval, plain=index < arrays, params=frozenset({index} if index < arrays else ()))
        for index, var in enumerate(closed.jaxpr.invars)
    ]
    walk.call(closed, operands, ())
    return walk.flow


class _Flowing(Interpreter[Node]):
    """Makes the graph, equation by equation."""

    def __init__(self) -> None:
        self.flow = Flow()
        self.loops: tuple[Step, ...] = ()
        self.goes_back = False

    def new(self, operands: Sequence[tuple[Node, Label]], place: Place, aval: Any, **facts: Any) -> Node:
        """Return a new value."""
        inexact = jnp.issubdtype(getattr(aval, "dtype", bool), np.inexact)
        node = Node(
            number=len(self.flow.nodes),
            operands=tuple(operands),
            place=place,
            inexact=bool(inexact),
            backward=self.goes_back or any(operand.backward for operand, _ in operands),
            loops=self.loops,
            **facts,
        )
        node.roots = node.roots or frozenset({node.number})
        self.flow.nodes.append(node)
        return node

    def constant(self, atom: Any, number: Any) -> Node:
        """Return a constant."""
        return self.new((), (), atom.aval, constant=True)

    def step(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Return the results of an equation; those of the backward part of a gradient are known as such."""
        around = self.goes_back
        self.goes_back = around or carries_back(eqn)
        results = super().step(eqn, values, at)
        self.goes_back = around
        return results

    def cond(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Return what either branch leaves."""
        pairs = zip(self.cases(eqn, values, at), eqn.outvars, strict=True)
        return [self.new([(case, "carry") for case in cases], at, var.aval, **shared(cases)) for cases, var in pairs]

    def scan(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Open two steps of a scan."""
        return self._loop(eqn, values, eqn.params["length"], at)

    def while_loop(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Open two steps of a `while` loop."""
        return self._loop(eqn, values, steps_of(eqn), at)

    def _loop(self, eqn: Any, values: list[Node], steps: float, at: Place) -> list[Node]:
        """Open two steps of a loop, or the one that there is."""
        body, fixed, carry, stacked = loop_of(eqn, values)
        if steps == 0:
            return [*carry, *(self.new((), at, var.aval, constant=True) for var in eqn.outvars[len(carry) :])]
        row_vars = getattr(body, "jaxpr", body).invars[len(values) - len(stacked) :] if stacked else ()
        around, opened = self.loops, []
        for which in range(2 if steps > 1 else 1):
            self.loops = (*around, Step(which, steps))
            rows = [
                self.new([(whole, "row")], at, var.aval, **shared([whole]))
                for whole, var in zip(stacked, row_vars, strict=True)
            ]
            opened.append(self.call(body, [*fixed, *carry, *rows], at))
            carry = opened[-1][: len(carry)]
        self.loops = around
        results = []
        for place, var in enumerate(eqn.outvars):
            copies = [results_of_step[place] for results_of_step in opened]
            if place < len(carry):
                facts = {"exit": Exit(copies[0], steps), **shared(copies[-1:])}
                results.append(self.new([(copies[-1], "carry")], at, var.aval, **facts))
            else:
                results.append(self.new([(copy, "row") for copy in copies], at, var.aval, **shared(copies)))
        return results

    def equation(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Return the results of any other equation."""
        if all(value.constant for value in values):
            return [self.new((), at, var.aval, constant=True) for var in eqn.outvars]
        return [self._result(eqn, values, var, at) for var in eqn.outvars]

    def _result(self, eqn: Any, values: list[Node], var: Any, at: Place) -> Node:
        operands, facts = row_of(eqn).flow(eqn, values, var, shared(values))
        node = self.new(operands, at, var.aval, **facts)
        is_sum = [label for _, label in operands] == ["add", "add"]
        if is_sum and node.inexact and not node.backward:
            self.flow.sums.append(node)
        return node
