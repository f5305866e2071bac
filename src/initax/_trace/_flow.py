"""Where values go in a forward pass: a graph of its values, with what each equation does to its operands.

Two steps of each loop are in the graph, as if they were written out: any two steps are related as these are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._trace._backward import carries_back
from initax._trace._flow_graph import Exit, Flow, Label, Node, Step
from initax._trace._flow_rules import made_of, moved
from initax._trace._interpreter import Interpreter
from initax._trace._jaxpr import Place, line_of
from initax._trace._loops import loop_of, steps_of
from initax._trace._primitives import row_of


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
        self.eqns: tuple[Any, ...] = ()

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
        return self.new((), (), atom.aval, constant=True, zero=_is_zero(number))

    def step(self, eqn: Any, values: list[Node], place: Place) -> list[Node]:
        """Return the results of an equation; those of the backward part of a gradient are marked."""
        was_backward = self.goes_back
        self.goes_back = was_backward or carries_back(eqn)
        outer_eqns, self.eqns = self.eqns, (*self.eqns, eqn)
        results = super().step(eqn, values, place)
        self.goes_back, self.eqns = was_backward, outer_eqns
        return results

    def cond(self, eqn: Any, values: list[Node], place: Place) -> list[Node]:
        """Return the results of a branch, which carry those of either case."""
        pairs = zip(self.cases(eqn, values, place), eqn.outvars, strict=True)
        return [
            self.new([(case, "carry") for case in cases], place, var.aval, **made_of(cases)) for cases, var in pairs
        ]

    def scan(self, eqn: Any, values: list[Node], place: Place) -> list[Node]:
        """Add two steps of a scan."""
        return self._loop(eqn, values, eqn.params["length"], place)

    def while_loop(self, eqn: Any, values: list[Node], place: Place) -> list[Node]:
        """Add two steps of a `while` loop."""
        return self._loop(eqn, values, steps_of(eqn), place)

    def _loop(self, eqn: Any, values: list[Node], steps: float, place: Place) -> list[Node]:
        """Add two steps of a loop, or the only one."""
        loop = loop_of(eqn, values)
        body, fixed, carry, stacked = loop
        if steps == 0:
            return [*carry, *(self.new((), place, var.aval, constant=True) for var in eqn.outvars[len(carry) :])]
        row_vars = loop.jaxpr.invars[len(values) - len(stacked) :] if stacked else ()
        outer_loops, results_of_steps = self.loops, []
        for number in range(2 if steps > 1 else 1):
            self.loops = (*outer_loops, Step(number, steps))
            rows = [
                self.new([(array, "row")], place, var.aval, **made_of([array]))
                for array, var in zip(stacked, row_vars, strict=True)
            ]
            results_of_steps.append(self.call(body, [*fixed, *carry, *rows], place))
            carry = results_of_steps[-1][: len(carry)]
        self.loops = outer_loops
        results = []
        for index, (var, copies) in enumerate(zip(eqn.outvars, zip(*results_of_steps, strict=True), strict=True)):
            if index < len(carry):
                facts = {"exit": Exit(copies[0], steps), **made_of(copies[-1:])}
                results.append(self.new([(copies[-1], "carry")], place, var.aval, **facts))
            else:
                results.append(self.new([(copy, "row") for copy in copies], place, var.aval, **made_of(copies)))
        return results

    def equation(self, eqn: Any, values: list[Node], place: Place) -> list[Node]:
        """Return the results of any other equation."""
        if all(value.constant for value in values):
            is_zero = row_of(eqn).flow is moved and all(value.zero for value in values)
            return [self.new((), place, var.aval, constant=True, zero=is_zero) for var in eqn.outvars]
        return [self._result(eqn, values, var, place) for var in eqn.outvars]

    def _result(self, eqn: Any, values: list[Node], var: Any, place: Place) -> Node:
        """Return a result of an equation, and note it where it is a sum."""
        operands, facts = row_of(eqn).flow(eqn, values, var, made_of(values))
        node = self.new(operands, place, var.aval, line=functools.partial(_line, self.eqns), **facts)
        is_sum = [label for _, label in operands] == ["add", "add"]
        if is_sum and node.inexact and not node.backward:
            self.flow.sums.append(node)
        return node


def _line(eqns: Sequence[Any]) -> str:
    """The line of an equation; of a function that JAX has traced before, such as `jax.nn.silu`, that of its call."""
    return next(filter(None, map(line_of, reversed(eqns))), "")


def _is_zero(number: Any) -> bool:
    """Whether a literal or a constant is known to be zero."""
    return number is not None and not isinstance(number, jax.Array) and not np.any(np.asarray(number))
