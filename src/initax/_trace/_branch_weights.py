"""What is in a residual branch: its last weights, the other weights, and the scales and biases behind the last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from initax._trace._branches import Branch
from initax._trace._flow_graph import Label, Node, reached

LINEAR: tuple[Label, ...] = ("carry", "part", "join", "add", "scale", "norm", "linear", "row")
"""Labels of operands in which a result is linear; a norm counts as linear here, and is noted."""


@dataclass(slots=True, kw_only=True)
class Contents:
    """What is in a branch; parameters by number.

    Attributes:
        branch: the branch.
        ends: the last weights, in which the branch is linear.
        vectors: scales and biases between these and the sum.
        inner: the other weights between the fork and the sum.
        beside: weights of other signals: keys and values of another stream, a condition.
        scores: those of `inner` and `beside` that only make weights of averages, such as queries and keys.
        biases: bias → the weights to whose outputs it is added.
        normalized: ends behind which there is a norm.
        layers: the largest number of weights on a path from the fork to the sum.
        reads: residual sums that the branch depends on, other than by the fork.
        bent: ends, and scales behind these, with a function such as ReLU before the sum: positive multiples go through.
        unended: functions and products that are added and of which no weight is the end, each with the last weights.
    """

    branch: Branch
    ends: set[int] = field(default_factory=set)
    vectors: set[int] = field(default_factory=set)
    inner: set[int] = field(default_factory=set)
    beside: set[int] = field(default_factory=set)
    scores: set[int] = field(default_factory=set)
    biases: dict[int, set[int]] = field(default_factory=dict)
    normalized: set[int] = field(default_factory=set)
    layers: int = 0
    reads: list[Branch] = field(default_factory=list)
    bent: set[int] = field(default_factory=set)
    unended: list[tuple[Node, frozenset[int]]] = field(default_factory=list)


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
        visited = reached([branch.branch], self._before)
        self.nodes = {node.number: node for node in visited if not self._is_another_sum(node)}
        self.last: dict[int, frozenset[int]] = {}
        self.bent: set[int] = set()
        self.homogeneous: set[int] = set()
        for number in sorted(self.nodes):
            self._note_last(self.nodes[number])
        pairs = map(self.weight_of, self.nodes.values())
        signals = [pair[1] for pair in pairs if pair is not None and pair[1].number not in self.forked]
        self.outside = [*filter(self._is_another_sum, visited), *signals]

    def _forked(self) -> set[int]:
        """The numbers of the values that depend on the fork."""
        start = self.fork.number
        later = reached([self.branch.branch], lambda node: node.inexact_operands if node.number > start else ())
        forked = {start}
        for node in sorted(later, key=lambda node: node.number):
            if node.number > start and any(operand.number in forked for operand, _ in node.operands):
                forked.add(node.number)
        return forked

    def _is_another_sum(self, node: Node) -> bool:
        return node.number in self.by_sum and node.number not in self.forked

    def _is_vector(self, node: Node) -> bool:
        """Whether a value is made of parameters alone, and not of the fork, which may be learned queries."""
        return node.plain and node.number not in self.forked

    def weight_of(self, node: Node) -> tuple[Node, Node] | None:
        """Return the weight and the signal of a contraction with a weight, `None` for any other value."""
        if len(node.operands) != 2 or not node.by("weight"):
            return None
        (left, _), (right, _) = node.operands
        pairs = [pair for pair in ((left, right), (right, left)) if self._is_vector(pair[0])]
        return min(pairs, key=lambda pair: pair[0].looked and not pair[1].looked, default=None)

    def _before(self, node: Node) -> list[Node]:
        """The operands that may lead back to the fork; those of another signal end at its first weight."""
        pair = self.weight_of(node)
        if self._is_another_sum(node) or (pair is not None and pair[1].number not in self.forked):
            return []
        operands = (operand for operand in node.inexact_operands if not self._is_vector(operand))
        return [operand for operand in operands if operand is not self.fork]

    def _note_last(self, node: Node) -> None:
        """Note the last contractions with weights in which a value is linear, but for functions such as ReLU.

        `bent` are the values with such a function behind the weights, `homogeneous` those that are multiplied by a
        positive number if these weights, and the biases behind them, are.
        """
        if self.weight_of(node) is not None:
            self.last[node.number] = frozenset({node.number})
            self.homogeneous.add(node.number)
            return
        operands = self._through(node)
        self.last[node.number] = frozenset[int]().union(*map(self._last_of, operands))
        if node.homogeneous or any(operand.number in self.bent for operand in operands):
            self.bent.add(node.number)
        is_made_of_these = all(operand.number in self.homogeneous or operand.plain for operand in operands)
        if operands and is_made_of_these and not node.shifted:
            self.homogeneous.add(node.number)

    def _through(self, node: Node) -> list[Node]:
        """The operands with the last weights of a value that is not one's output itself."""
        if node.homogeneous:
            operands = [operand for operand, _ in node.operands if operand.inexact and not operand.constant]
            scaled = [*operands, *(signal for which, _ in node.operands for signal in _compared(which))]
            is_homogeneous = all(operand.number in self.homogeneous and self._last_of(operand) for operand in scaled)
            return operands if is_homogeneous else []
        if not node.by("gate", "mix", "weight"):
            return node.by(*LINEAR)
        factors = self._factors([operand for operand, label in node.operands if label != "function"])
        # In a product of two signals, only one of which is a function of the fork, that one ends the branch.
        if len(factors) == 2:
            factors = [operand for operand in factors if operand.number in self.forked]
        return factors if len(factors) == 1 else []

    def _factors(self, operands: Iterable[Node]) -> list[Node]:
        """The factors of a product that are linear in weights; those behind a ReLU only where there are no others."""
        factors = [operand for operand in operands if self._last_of(operand)]
        return [operand for operand in factors if operand.number not in self.bent] or factors

    def _last_of(self, operand: Node) -> frozenset[int]:
        return self.last.get(operand.number, frozenset())

    def contents(self) -> Contents:
        """Return what is in the branch."""
        contents = Contents(branch=self.branch)
        ends = self._last_of(self.branch.branch)
        contents.ends = self._params(ends)
        self._note_tail(ends, contents)
        passed = self._passed()
        for number in sorted(self.nodes):
            node = self.nodes[number]
            pair = self.weight_of(node)
            if pair is not None:
                params = self._params([number])
                (contents.inner if pair[1].number in self.forked else contents.beside).update(params)
                if number not in passed:
                    contents.scores |= params
            for vector in self._vectors(node, "add"):
                last = frozenset[int]().union(*(self._last_of(operand) for operand, _ in node.operands))
                weights = self._params(last)
                if weights:
                    contents.biases.setdefault(vector, set()).update(weights)
        contents.scores -= self._params(passed)
        contents.unended = self._unended()
        contents.layers = self._layers()
        contents.inner -= contents.ends
        contents.beside -= contents.ends | contents.inner
        contents.scores -= contents.ends
        upstream = reached(self.outside, lambda node: () if node.number in self.by_sum else node.inexact_operands)
        contents.reads = [self.by_sum[node.number] for node in upstream if node.number in self.by_sum]
        return contents

    def _layers(self) -> int:
        """The largest number of weights on a path from the fork to the sum."""
        depth: dict[int, int] = {self.fork.number: 0}
        for number, node in sorted(self.nodes.items()):
            before = [depth[operand.number] for operand in self._main(node) if operand.number in depth]
            if before:
                depth[number] = max(before) + (self.weight_of(node) is not None)
        return depth.get(self.branch.branch.number, 0)

    def _params(self, contractions: Iterable[int]) -> set[int]:
        """The parameters of the weights of some contractions; of a weight `w + b @ a` that is `w`."""
        pairs = (self.weight_of(self.nodes[number]) for number in contractions if number in self.nodes)
        return set[int]().union(*(_linear_params(pair[0]) for pair in pairs if pair is not None))

    def _vectors(self, node: Node, *labels: Label) -> set[int]:
        """The parameters that an equation adds to a signal, or multiplies it with."""
        vectors = [operand for operand in node.by(*labels) if self._is_vector(operand)]
        return set[int]().union(*(vector.params for vector in vectors)) if len(vectors) < len(node.operands) else set()

    def _note_tail(self, ends: frozenset[int], contents: Contents) -> None:
        """Note the scales, biases and norms between the ends and the sum."""

        def before(node: Node) -> list[Node]:
            operands = [operand for operand, _ in node.operands if node.number not in ends]
            return [operand for operand in operands if self._last_of(operand) & self._last_of(node)]

        tail = reached([self.branch.branch], before)
        # The slope of a PReLU is a scale of one half of a function.
        choices = [node.by("function") for node in tail if node.homogeneous]
        slopes = {half.number for halves in choices for half in halves if {*half.by("scale")} & {*halves}}
        for node in tail:
            if node.number not in ends:
                contents.vectors |= self._vectors(node, "add")
                contents.vectors |= self._vectors(node, "scale") if node.number not in slopes else set()
                if node.homogeneous:
                    contents.bent |= self._params(self._last_of(node))
                    for earlier in reached([node], before):
                        contents.bent |= self._vectors(earlier, "scale") if earlier.number not in slopes else set()
                if node.by("norm"):
                    contents.normalized |= self._params(self._last_of(node))
                    contents.vectors |= self._scales_of_statistics(node)

    def _unended(self) -> list[tuple[Node, frozenset[int]]]:
        """What the branch adds that goes through a weight and of which no weight is the end."""

        def before(node: Node) -> list[Node]:
            is_open = node.number in self.forked and node is not self.fork and self.weight_of(node) is None
            return self._through(node) if is_open else []

        def earlier(node: Node) -> list[Node]:
            is_later = node.number in self.nodes and self.weight_of(node) is None
            return [operand for operand, _ in node.operands if is_later and operand.number in self.forked]

        found = []
        for node in reached([self.branch.branch], before):
            is_open = node.number in self.forked and node is not self.fork and self.weight_of(node) is None
            if is_open and node.inexact and not self._through(node):
                weights = self._params(last.number for last in reached([node], earlier) if self.weight_of(last))
                found += [(node, frozenset(weights))] if weights else []
        return sorted(found, key=lambda pair: pair[0].number)

    def _scales_of_statistics(self, node: Node) -> set[int]:
        """The scales that a norm multiplies its statistic with before its signal, as in Flax."""

        def factors(statistic: Node) -> list[Node]:
            return [operand for operand in statistic.by("scale", "carry") if not operand.plain]

        statistics = reached(node.by("statistic"), factors)
        return set[int]().union(*(self._vectors(statistic, "scale") for statistic in statistics))

    def _passed(self) -> set[int]:
        """The contractions with weights that make more than the weights of an average."""
        upstream = reached(
            [self.branch.branch], lambda node: self._main(node, gates=False) if node.number in self.nodes else ()
        )
        return {node.number for node in upstream if node.number in self.nodes and self.weight_of(node) is not None}

    def _main(self, node: Node, gates: bool = True) -> list[Node]:
        """The operands, of a product only the one that is linear in weights if the other weights or gates it."""
        operands = [operand for operand, _ in node.operands]
        linear = self._factors(operands)
        is_product = bool(node.by("mix", "weight")) and self.weight_of(node) is None
        return linear if (is_product or (gates and node.by("gate"))) and len(linear) == 1 else operands


def _compared(which: Node) -> list[Node]:
    """The signals that are compared with each other, or with zero, to choose by."""
    while which.signs and len(which.operands) == 1 and which.by("carry"):
        which = which.operands[0][0]
    return [operand for operand, _ in which.operands if not operand.constant] if which.signs else []


def _linear_params(weight: Node) -> set[int]:
    """The parameters that are added up to a weight as they are: of `w + b @ a` that is `w`; all if there are none."""

    def is_scaled(node: Node) -> bool:
        return len(node.operands) == 2 == len(node.by("scale"))

    def before(node: Node) -> list[Node]:
        linear = [operand for operand, label in node.operands if label not in ("weight", "function", "statistic")]
        return [] if is_scaled(node) else [operand for operand in linear if operand.inexact]

    ends = (node.params for node in reached([weight], before) if not node.operands or is_scaled(node))
    return set[int]().union(*ends) or set(weight.params)
