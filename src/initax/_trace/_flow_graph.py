"""The graph of the values of a forward pass: records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from initax._trace._jaxpr import Place

Label = Literal[
    "carry", "part", "join", "add", "scale", "norm", "gate", "linear", "mix", "weight", "function", "statistic", "row"
]
"""What becomes of an operand in a result.

- `carry`: the result holds its entries; `part`: less than half of them; `join`: all, joined with those of others.
- `add`: it is added to another operand.
- `scale`: it is multiplied with constants or parameters; `norm`: with a statistic of data; `gate`: with another signal.
- `linear`: its entries are summed; `mix`: it is contracted with another signal; `weight`: with a weight.
- `function`: the result is not linear in it; `statistic`: it is the statistic that another operand is multiplied with.
- `row`: each step of a loop takes a row of it; or the loop collects it as a row.
"""


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """One value of the forward pass.

    Attributes:
        number: its number, larger than those of its operands.
        operands: its operands and what becomes of them.
        place: its equation.
        inexact: whether it is of a floating-point type; gradients go through these alone.
        params: the parameters it is made of, where it is made of parameters and constants alone.
        plain: whether it is made of parameters and constants alone.
        looked: whether it holds entries that the data look up in a parameter.
        contracted: whether it is made of two parameters that were contracted with each other.
        constant: whether it is made of constants alone.
        zero: whether it is a constant of zeros.
        shifted: whether a constant other than zero is added.
        signs: whether it compares signals with each other, or with zero: any positive multiple of them gives the same.
        homogeneous: whether it is a function of which a positive multiple of the operands gives that multiple.
        statistic: whether it is a sum or a maximum over entries of a signal, or a function of these.
        roots: the values of which it is a function entry by entry.
        backward: whether it carries a cotangent.
        loops: the loops around its equation, outermost first.
        exit: for a carried value after a loop, where it comes from.
        line: gives the line of the forward pass that it comes from, `file.py:12`; empty where it is not known.
    """

    number: int
    operands: tuple[tuple[Node, Label], ...] = ()
    place: Place = ()
    inexact: bool = True
    params: frozenset[int] = frozenset()
    plain: bool = False
    looked: bool = False
    contracted: bool = False
    constant: bool = False
    zero: bool = False
    shifted: bool = False
    signs: bool = False
    homogeneous: bool = False
    statistic: bool = False
    roots: frozenset[int] = frozenset()
    backward: bool = False
    loops: tuple[Step, ...] = ()
    exit: Exit | None = None
    line: Callable[[], str] = str

    @property
    def copy(self) -> tuple[int, ...]:
        """In which of the two steps of each loop around it is."""
        return tuple(step.number for step in self.loops)

    def by(self, *labels: Label) -> list[Node]:
        """Return the operands with one of some labels."""
        return [operand for operand, label in self.operands if label in labels]

    @property
    def inexact_operands(self) -> list[Node]:
        """The operands through which gradients come."""
        return [operand for operand, _ in self.operands if operand.inexact]


class Exit(NamedTuple):
    """Where a carried value after a loop comes from: its value after the first step, and the number of steps.

    The number is infinity where it is not known.
    """

    first: Node
    steps: float


class Step(NamedTuple):
    """A step of a loop in the graph: its number, 0 or 1, and the number of steps of the loop."""

    number: int
    steps: float


@dataclass(slots=True)
class Flow:
    """The graph.

    Attributes:
        nodes: every value, operands before results.
        sums: the additions of two signals.
    """

    nodes: list[Node] = field(default_factory=list)
    sums: list[Node] = field(default_factory=list)


def reached(starts: Iterable[Node], onward: Callable[[Node], Iterable[Node]]) -> list[Node]:
    """Return some values and all that are reached from them, each once.

    Args:
        starts: the values to start from.
        onward: gives the next values of a value.
    """
    nodes: dict[int, Node] = {}
    todo = list(starts)
    while todo:
        node = todo.pop()
        if node.number not in nodes:
            nodes[node.number] = node
            todo += onward(node)
    return list(nodes.values())
