"""The interpreter of a jaxpr that the walk, the graph of values, the second moments and the replay have in common."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from initax._trace._jaxpr import Place, interpret
from initax._trace._primitives import called, row_of

T = TypeVar("T")
"""What a pass knows of one value."""


class Interpreter(abc.ABC, Generic[T]):
    """Goes through a jaxpr equation by equation, from what its operands hold to what its results hold.

    A call is followed into the jaxpr that it calls. A pass defines `constant` and `equation`; loops and branches are
    equations as well, unless it defines `scan`, `while_loop` or `cond`.
    """

    @abc.abstractmethod
    def constant(self, atom: Any, number: Any) -> T:
        """Return what a literal or a constant of a jaxpr holds.

        Args:
            atom: the literal, or the variable of the constant.
            number: its number; `None` for a constant of an open jaxpr.
        """

    @abc.abstractmethod
    def equation(self, eqn: Any, values: list[T], place: Place) -> list[T]:
        """Return what the results of an equation hold."""

    def scan(self, eqn: Any, values: list[T], place: Place) -> list[T]:
        """Return what the results of a scan hold."""
        return self.equation(eqn, values, place)

    def while_loop(self, eqn: Any, values: list[T], place: Place) -> list[T]:
        """Return what the results of a `while` loop hold."""
        return self.equation(eqn, values, place)

    def cond(self, eqn: Any, values: list[T], place: Place) -> list[T]:
        """Return what the results of a branch hold."""
        return self.equation(eqn, values, place)

    def handed_on(self, eqn: Any, values: list[T], place: Place) -> list[T]:
        """Return what the results of an equation hold whose results are its operands."""
        return values

    def cases(self, eqn: Any, values: Sequence[T], place: Place) -> list[tuple[T, ...]]:
        """Return for each result of a `cond` what it holds in each branch."""
        branches = enumerate(eqn.params["branches"])
        return list(zip(*(self.call(branch, values[1:], (*place, number)) for number, branch in branches), strict=True))

    def call(self, inner: Any, values: Sequence[T], place: Place) -> list[T]:
        """Return what the results of a jaxpr hold, closed or open.

        Args:
            inner: the jaxpr.
            values: what its arguments hold.
            place: the equation that it is a parameter of.
        """

        def step(number: int, eqn: Any, operands: list[T]) -> list[T]:
            return self.step(eqn, operands, (*place, number))

        return interpret(inner, values, self.constant, step)

    def step(self, eqn: Any, values: list[T], place: Place) -> list[T]:
        """Return what the results of an equation hold.

        Args:
            eqn: the equation.
            values: what its operands hold.
            place: its place.
        """
        row, inner = row_of(eqn), called(eqn)
        if inner is not None:
            return self.call(inner, values, place)
        if row.hands_on and len(values) == len(eqn.outvars):
            return self.handed_on(eqn, values, place)
        match row.control:
            case "scan":
                return self.scan(eqn, values, place)
            case "while":
                return self.while_loop(eqn, values, place)
            case "cond":
                return self.cond(eqn, values, place)
        return self.equation(eqn, values, place)
