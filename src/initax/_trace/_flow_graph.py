"""The graph of the values of a forward pass: records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from initax._trace._uses import Place

Label = Literal[
    "carry", "part", "join", "add", "scale", "norm", "gate", "linear", "mix", "weight", "function", "statistic", "row"
]
"""What becomes of an operand in a result.

- `carry`: its entries are there, moved at most; `part`: less than half of them; `join`: among those of others.
- `add`: it is added to something.
- `scale`: it is multiplied with constants or parameters; `norm`: with a statistic of data; `gate`: with another signal.
- `linear`: sums of its entries; `mix`: contracted with another signal; `weight`: with a weight.
- `function`: anything that is not linear; `statistic`: it is a statistic that another operand is multiplied with.
- `row`: what a loop runs over, or collects.
"""


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """One floating-point value of the forward pass, or one of whole numbers or truth values.

    Attributes:
        number: its number, larger than those of its operands.
        operands: its operands and what becomes of them.
        place: where its equation stands.
        inexact: whether it is of a floating-point type: of others no gradient comes.
        params: the parameters it is made of, where it is made of nothing else.
        plain: whether it is made of parameters and constants alone.
        looked: whether entries of a parameter were taken that data decide.
        contracted: whether two parameters were contracted with each other to make it.
        constant: whether it is made of constants alone.
        statistic: whether it is a sum or a maximum over entries of a signal, or a function of such.
        roots: the values of which it is a function entry by entry.
        backward: whether it carries a cotangent.
        loops: the loops around its equation, outermost first.
        exit: for a value that a loop leaves of what it carries, what it is.
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
    statistic: bool = False
    roots: frozenset[int] = frozenset()
    backward: bool = False
    loops: tuple[Step, ...] = ()
    exit: Exit | None = None

    @property
    def copy(self) -> tuple[int, ...]:
        """In which step of each loop around it that is opened it stands."""
        return tuple(step.which for step in self.loops)

    def by(self, *labels: Label) -> list[Node]:
        """Return the operands of which one of these things becomes in it."""
        return [operand for operand, label in self.operands if label in labels]

    @property
    def inexact_operands(self) -> list[Node]:
        """The operands through which gradients come."""
        return [operand for operand, _ in self.operands if operand.inexact]


class Exit(NamedTuple):
    """What a loop leaves of what it carries: the value behind the first step, and how many steps there are.

    These are infinitely many where that is not known.
    """

    first: Node
    steps: float


class Step(NamedTuple):
    """Where in a loop an equation stands: in which of the two steps that are opened, and how many there are."""

    which: int
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
    """Return some values and all that one comes to from them, each once.

    Args:
        starts: the values to start from.
        onward: the values that come next after one.
    """
    nodes: dict[int, Node] = {}
    todo = list(starts)
    while todo:
        node = todo.pop()
        if node.number not in nodes:
            nodes[node.number] = node
            todo += onward(node)
    return list(nodes.values())
