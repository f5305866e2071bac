"""What is in a residual branch: the weights that end it, the others, and what stands between them and the stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from initax._trace._branches import Branch
from initax._trace._flow_graph import Label, Node

LINEAR: tuple[Label, ...] = ("carry", "part", "join", "add", "scale", "norm", "linear", "row")
"""What a weight's output goes through and stays linear in the weight; a norm is let through, and noted."""


@dataclass(slots=True, kw_only=True)
class Contents:
    """What is in a branch; parameters by number.

    Attributes:
        ends: weights in which it is linear, with no weight behind them.
        vectors: scales and biases between these and the sum.
        inner: the other weights that the signal passes.
        beside: weights that take in other signals first: keys and values of another stream, a condition.
        scores: those of both of which nothing but the weights of averages are made.
        biases: bias → the inner weights it goes with.
        normalized: ends behind which a norm stands.
        layers: most weights on a way from the fork to the sum.
        reads: sums of other streams that are read.
    """

    ends: set[int] = field(default_factory=set)
    vectors: set[int] = field(default_factory=set)
    inner: set[int] = field(default_factory=set)
    beside: set[int] = field(default_factory=set)
    scores: set[int] = field(default_factory=set)
    biases: dict[int, set[int]] = field(default_factory=dict)
    normalized: set[int] = field(default_factory=set)
    layers: int = 0
    reads: set[int] = field(default_factory=set)


class Inside:
    """The values between the fork and the sum of a branch.

    Args:
        branch: the branch.
        by_sum: all residual sums, by the number of the sum.
    """

    def __init__(self, branch: Branch, by_sum: Mapping[int, Branch]) -> None:
        self.branch = branch
        self.fork = branch.fork
        self.by_sum = by_sum
        self.forked = self._forked()
        self.visited: list[Node] = []
        self.outside: list[Node] = []
        self._visit()
        self.last: dict[int, frozenset[int]] = {}
        self.nodes = {node.number: node for node in self.visited}
        for node in self.visited:
            self.last[node.number] = self._last(node)

    def _forked(self) -> set[int]:
        """The numbers of the values that depend on the fork."""
        todo, seen, later = [self.branch.branch], {self.branch.branch.number}, []
        while todo:
            node = todo.pop()
            if node.number <= self.fork.number:
                continue
            later.append(node)
            for operand, _ in node.operands:
                if operand.number not in seen and operand.inexact:
                    seen.add(operand.number)
                    todo.append(operand)
        found = {self.fork.number}
        for node in sorted(later, key=lambda each: each.number):
            if any(operand.number in found for operand, _ in node.operands):
                found.add(node.number)
        return found

    def weight_of(self, node: Node) -> tuple[Node, Node] | None:
        """Return the weight and the signal of a contraction, `None` where it is none of a weight."""
        if len(node.operands) != 2 or "weight" not in (label for _, label in node.operands):
            return None
        (left, _), (right, _) = node.operands
        pairs = [pair for pair in ((left, right), (right, left)) if pair[0].plain and pair[0].number not in self.forked]
        return min(pairs, key=lambda pair: pair[0].looked and not pair[1].looked, default=None)

    def _visit(self) -> None:
        """Go back from the sum to the fork; on other ways no further than to the first weight."""
        todo, seen = [self.branch.branch], {self.branch.branch.number, self.fork.number}
        while todo:
            node = todo.pop()
            sum_ = self.by_sum.get(node.number)
            if sum_ is not None and node.number not in self.forked:
                self.outside.append(node)
                continue
            self.visited.append(node)
            pair = self.weight_of(node)
            if pair is not None and pair[1].number not in self.forked:
                self.outside.append(pair[1])
                continue
            for operand, _ in node.operands:
                is_vector = operand.plain and operand.number not in self.forked
                if operand.number not in seen and operand.inexact and not is_vector:
                    seen.add(operand.number)
                    todo.append(operand)
        self.visited.sort(key=lambda each: each.number)

    def _last(self, node: Node) -> frozenset[int]:
        """The contractions with weights in which a value is linear."""
        if self.weight_of(node) is not None:
            return frozenset({node.number})
        held = [(operand, self.last.get(operand.number, frozenset())) for operand, _ in node.operands]
        labels = {label for _, label in node.operands}
        if labels & {"gate", "mix", "weight"}:
            return self._product(node)
        found = (last for (_, last), (_, label) in zip(held, node.operands, strict=True) if label in LINEAR)
        return frozenset[int]().union(*found)

    def _product(self, node: Node) -> frozenset[int]:
        """The same for a product of two signals: of one that is no function of the fork nothing ends the branch."""
        pairs = [operand for operand, label in node.operands if label != "function"]
        held = [(operand, self.last.get(operand.number, frozenset())) for operand in pairs]
        held = [each for each in held if each[1]]
        if len(held) == 2:
            held = [each for each in held if each[0].number in self.forked]
        return held[0][1] if len(held) == 1 else frozenset()

    def contents(self) -> Contents:
        """Return what is in the branch."""
        found = Contents()
        ends = self.last.get(self.branch.branch.number, frozenset())
        found.ends = self._params(ends)
        self._tail(ends, found)
        passed = self._passed()
        depth: dict[int, int] = {self.fork.number: 0}
        for node in self.visited:
            pair = self.weight_of(node)
            if pair is not None:
                own = self._params([node.number])
                (found.inner if pair[1].number in self.forked else found.beside).update(own)
                if node.number not in passed:
                    found.scores |= own
            before = [depth[operand.number] for operand in self._main(node) if operand.number in depth]
            if before:
                depth[node.number] = max(before) + (pair is not None)
            for vector in self._vectors(node, "add"):
                weights = self._params(
                    frozenset().union(*(self.last.get(index.number, frozenset()) for index, _ in node.operands))
                )
                if weights:
                    found.biases.setdefault(vector, set()).update(weights)
        found.scores -= self._params(index for index in passed)
        found.layers = depth.get(self.branch.branch.number, 0)
        found.inner -= found.ends
        found.beside -= found.ends | found.inner
        found.scores -= found.ends
        found.reads = self._read()
        return found

    def _params(self, contractions: Iterable[int]) -> set[int]:
        """The parameters of the weights of some contractions, of a sum of weights those that are added as they are."""
        found: set[int] = set()
        for index in contractions:
            pair = self.weight_of(self.nodes[index]) if index in self.nodes else None
            if pair is not None:
                found |= _linear_params(pair[0])
        return found

    def _vectors(self, node: Node, label: Label) -> set[int]:
        """The parameters that an equation adds to a signal, or multiplies it with."""
        own = [operand for operand, how in node.operands if how == label and operand.plain]
        own = [operand for operand in own if operand.number not in self.forked]
        return set().union(*(operand.params for operand in own)) if len(own) < len(node.operands) else set()

    def _tail(self, ends: frozenset[int], found: Contents) -> None:
        """Note what stands between the ends and the sum."""
        todo, seen = [self.branch.branch], {self.branch.branch.number}
        while todo:
            node = todo.pop()
            if node.number in ends:
                continue
            found.vectors |= self._vectors(node, "add") | self._vectors(node, "scale")
            if any(label == "norm" for _, label in node.operands):
                found.normalized |= self._params(self.last[node.number])
            for operand, _ in node.operands:
                if operand.number not in seen and self.last.get(operand.number, frozenset()) & self.last[node.number]:
                    seen.add(operand.number)
                    todo.append(operand)

    def _passed(self) -> set[int]:
        """The contractions with weights that the signal passes: not those of which only an average's weights are."""
        todo, seen, found = [self.branch.branch], {self.branch.branch.number, self.fork.number}, set[int]()
        while todo:
            node = todo.pop()
            if node.number not in self.nodes:
                continue
            if self.weight_of(node) is not None:
                found.add(node.number)
            for operand in self._main(node, gates=False):
                if operand.number not in seen:
                    seen.add(operand.number)
                    todo.append(operand)
        return found

    def _main(self, node: Node, gates: bool = True) -> list[Node]:
        """The operands without those by which a product only weighs or gates what comes out of a weight."""
        operands = [operand for operand, _ in node.operands]
        held = [operand for operand in operands if self.last.get(operand.number)]
        labels = {label for _, label in node.operands}
        is_product = bool(labels & {"mix", "weight"}) and self.weight_of(node) is None
        return held if (is_product or (gates and "gate" in labels)) and len(held) == 1 else operands

    def _read(self) -> set[int]:
        """The residual sums that reach the branch by other ways than from the fork."""
        todo, seen, found = list(self.outside), {node.number for node in self.outside}, set[int]()
        while todo:
            node = todo.pop()
            if node.number in self.by_sum:
                found.add(node.number)
                continue
            for operand, _ in node.operands:
                if operand.number not in seen and operand.inexact:
                    seen.add(operand.number)
                    todo.append(operand)
        return found


def _linear_params(weight: Node) -> set[int]:
    """The parameters in which a weight is linear by itself: of `w + b @ a` that is `w`; all where there is none."""
    todo, found = [weight], set[int]()
    while todo:
        node = todo.pop()
        if not node.operands:
            found |= node.params
        linear = [operand for operand, label in node.operands if label not in ("weight", "function", "statistic")]
        scaled = len(node.operands) == 2 and all(label == "scale" for _, label in node.operands)
        todo += [operand for operand in linear if operand.inexact] if not scaled else []
        if scaled:
            found |= node.params
    return found or set(weight.params)
