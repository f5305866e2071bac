"""Where values go in a forward pass: a graph of its floating-point values, with what each equation does to them.

Loops are opened twice, as if two steps were written out: what holds between these two holds between any two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal as Number

from initax._trace._backward import carries_back
from initax._trace._flow_graph import Exit, Flow, Label, Loop, Node
from initax._trace._flow_rules import labelled, shared
from initax._trace._indices import scan_parts
from initax._trace._interpret import Interpreter
from initax._trace._loop_steps import steps_of
from initax._trace._primitives import UNKNOWN, row_of
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
        self.loops: tuple[Loop, ...] = ()
        self.goes_back = False

    def new(self, operands: Sequence[tuple[Node, Label]], place: Place, aval: Any, **facts: Any) -> Node:
        """Return a new value."""
        inexact = jnp.issubdtype(getattr(aval, "dtype", bool), np.inexact)
        node = Node(
            number=len(self.flow.nodes),
            operands=tuple(operands),
            place=place,
            inexact=bool(inexact),
            backward=self.goes_back or any(each.backward for each, _ in operands),
            **facts,
        )
        node.roots = node.roots or frozenset({node.number})
        self.flow.nodes.append(node)
        return node

    def literal(self, literal: Number) -> Node:
        """Return a constant."""
        return self.new((), (), literal.aval, constant=True)

    def constants(self, jaxpr: Any, numbers: Sequence[Any]) -> list[Node]:
        """Return constants."""
        return [self.new((), (), var.aval, constant=True) for var in jaxpr.constvars]

    def step(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Return the results of an equation; those of the backward part of a gradient are known as such."""
        around = self.goes_back
        self.goes_back = around or carries_back(eqn)
        results = super().step(eqn, values, at)
        self.goes_back = around
        return results

    def cond(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Return what either branch leaves."""
        branches = [self.call(each, values[1:], (*at, number)) for number, each in enumerate(eqn.params["branches"])]
        return [
            self._chosen(results, var, at)
            for results, var in zip(zip(*branches, strict=True), eqn.outvars, strict=True)
        ]

    def _chosen(self, cases: Sequence[Node], var: Any, at: Place) -> Node:
        facts = shared(cases)
        return self.new([(case, "carry") for case in cases], at, var.aval, **facts)

    def scan(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Open two steps of a scan."""
        consts, carries = scan_parts(eqn.params)
        body, length = eqn.params["jaxpr"], eqn.params["length"]
        invars = getattr(body, "jaxpr", body).invars
        carry = values[consts : consts + carries]
        if length == 0:
            return [*carry, *(self.new((), at, var.aval, constant=True) for var in eqn.outvars[carries:])]
        stacked = list(zip(values[consts + carries :], invars[consts + carries :], strict=True))

        def operands(carried: Sequence[Node]) -> list[Node]:
            rows = [self.new([(each, "row")], at, var.aval, **shared([each])) for each, var in stacked]
            return [*values[:consts], *carried, *rows]

        return self._twice(body, operands, carry, eqn.outvars, length, at)

    def while_loop(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Open two steps of a `while` loop."""
        tests, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carry = values[tests + consts :]
        given = values[tests : tests + consts]
        steps = steps_of(eqn)
        if steps == 0:
            return carry
        return self._twice(eqn.params["body_jaxpr"], lambda carried: [*given, *carried], carry, eqn.outvars, steps, at)

    def _twice(
        self, body: Any, operands: Any, carry: Sequence[Node], outvars: Any, steps: float, at: Place
    ) -> list[Node]:
        around, carries, opened = self.loops, len(carry), []
        for step in range(min(2, math.ceil(min(steps, 2)))):
            self.loops = (*around, Loop(at, step, steps))
            opened.append(self.call(body, operands(carry), at))
            carry = opened[-1][:carries]
        self.loops = around
        first, last = opened[0], opened[-1]
        results = []
        for place, var in enumerate(outvars):
            if place >= carries:
                own: list[tuple[Node, Label]] = [(each[place], "row") for each in opened]
                results.append(self.new(own, at, var.aval, **shared([each[place] for each in opened])))
                continue
            node = self.new([(last[place], "carry")], at, var.aval, **shared([last[place]]))
            self.flow.exits[node.number] = Exit(first[place], last[place], steps)
            results.append(node)
        return results

    def equation(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Return the results of any other equation."""
        inner = _one_jaxpr(eqn)
        if inner is not None:
            return self.call(inner, values, at)
        if all(value.constant for value in values):
            return [self.new((), at, var.aval, constant=True) for var in eqn.outvars]
        return [self._result(eqn, values, var, at) for var in eqn.outvars]

    def _result(self, eqn: Any, values: list[Node], var: Any, at: Place) -> Node:
        operands, facts = labelled(eqn, values, var)
        node = self.new(operands, at, var.aval, **facts)
        is_sum = [label for _, label in operands] == ["add", "add"]
        if is_sum and node.inexact and not node.backward:
            self.flow.sums.append(node)
            self.flow.loops[node.number] = self.loops
        return node


def _one_jaxpr(eqn: Any) -> Any:
    """The one jaxpr that an equation of a primitive without a row runs on its operands, as `shard_map` does."""
    if row_of(eqn) is not UNKNOWN:
        return None
    found = [value for value in eqn.params.values() if hasattr(getattr(value, "jaxpr", value), "eqns")]
    inner = getattr(found[0], "jaxpr", found[0]) if len(found) == 1 else None
    fits = inner is not None and (len(inner.invars), len(inner.outvars)) == (len(eqn.invars), len(eqn.outvars))
    alike = inner is not None and fits and all(hasattr(var.aval, "dtype") for var in (*inner.invars, *inner.outvars))
    return found[0] if alike and eqn.primitive.name != "pallas_call" else None
