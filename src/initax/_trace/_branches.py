"""Residual sums of a forward pass: which values are added to which stream, and how many.

A sum is residual if one of its operands, the shortcut, is an earlier value that is carried on, and the other, the
branch, is a function of that value through a weight. The shortcut may be moved, scaled and gated. It may be projected
if the branch is not linear, holds no other sum, and the stream has other sums before or behind. The stream also needs
other sums where a parameter scales the shortcut; the feedthrough of a state space is such a sum without a stream.
Concatenations are not sums, and positions that are added are not a function of the value they are added to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from initax._trace._flow_graph import Flow, Label, Node, reached
from initax._trace._jaxpr import Place

CARRIED: tuple[Label, ...] = ("carry", "scale", "add")
"""Labels of operands that a result carries on."""
PROJECTED: tuple[Label, ...] = ("carry", "scale", "add", "norm", "linear", "weight")
"""The same, with projections, pooling and norms."""
STREAMING: tuple[Label, ...] = ("carry", "part", "join", "add", "scale", "norm", "gate", "linear", "function", "row")
"""Labels of operands by which a stream goes on from sum to sum: all but those of weights."""


@dataclass(slots=True, kw_only=True, eq=False)
class Branch:
    """One residual sum.

    Attributes:
        sum: the sum.
        shortcut: the operand that is carried on.
        branch: the other operand.
        fork: the value that both are made of.
        projected: whether a weight is on the shortcut.
        scaled: whether a parameter scales the shortcut.
        within: the innermost other branch that contains the sum.
        before: the previous sums of its stream.
        index: its number in the stream, from 1.
        stream: the number of the stream.
    """

    sum: Node
    shortcut: Node
    branch: Node
    fork: Node
    projected: bool = False
    scaled: bool = False
    within: Branch | None = None
    before: tuple[Branch, ...] = ()
    index: float = 0
    stream: int = -1

    @property
    def depth(self) -> int:
        """The number of branches that contain the sum."""
        return 0 if self.within is None else self.within.depth + 1

    @property
    def start(self) -> Node:
        """The value of its stream before the sum."""
        return self.fork if self.projected else self.shortcut


@dataclass(slots=True)
class _Past:
    """A value and those it depends on, as bits, of the values that may be forks or are sums.

    Attributes:
        every: all of them.
        weighted: those from which a path to the value goes through a weight.
        curved: those from which a path goes through a function that is not linear.
        bent: those from which one path goes through both.
        carried: those that the value carries on.
        gated: the same, through gates too.
        projected: those that it carries on, or projections of these.
    """

    every: int = 0
    weighted: int = 0
    curved: int = 0
    bent: int = 0
    carried: int = 0
    gated: int = 0
    projected: int = 0


class Search:
    """Finds the residual sums.

    Args:
        flow: the forward pass.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        readers = [0] * len(flow.nodes)
        for node in flow.nodes:
            for operand, _ in node.operands:
                readers[operand.number] += 1
        sums = {node.number for node in flow.sums}
        self.bits: dict[int, int] = {}
        self.numbered: list[Node] = []
        for node in flow.nodes:
            if node.inexact and not node.constant and (readers[node.number] > 1 or node.number in sums):
                self.bits[node.number] = 1 << len(self.numbered)
                self.numbered.append(node)
        self.sum_bits = sum(map(self._bit, flow.sums))
        self.past: dict[int, _Past] = {}
        kept = {operand.number for node in flow.sums for operand, _ in node.operands} | set(self.bits)
        for node in flow.nodes:
            self.past[node.number] = self._of(node)
            for operand, _ in node.operands:
                readers[operand.number] -= 1
                if not readers[operand.number] and operand.number not in kept:
                    self.past.pop(operand.number, None)

    def _bit(self, node: Node) -> int:
        return self.bits.get(node.number, 0)

    def _of(self, node: Node) -> _Past:
        """The past of a value, from those of its operands."""
        bit = self._bit(node)
        reach = _Past(every=bit, carried=bit, gated=bit, projected=bit)
        if not node.inexact:
            return reach
        # The gate of a highway network is the output of a weight.
        is_gated = any(self.past[gate.number].weighted for gate in node.by("gate"))
        is_plain = all(operand.plain for operand in node.inexact_operands)
        for operand, label in node.operands:
            # A parameter that is used twice is not a value that is carried from one use to the other.
            if not operand.inexact or (operand.plain and not operand.contracted and not is_plain):
                continue
            past = self.past[operand.number]
            reach.every |= past.every
            reach.weighted |= past.every if label == "weight" else past.weighted
            is_curved = label in ("function", "gate", "mix")
            if label != "statistic":  # a norm counts as linear
                reach.curved |= past.every if is_curved else past.curved
                reach.bent |= past.bent | (past.weighted if is_curved else past.curved if label == "weight" else 0)
            if label in CARRIED:
                reach.carried |= past.carried
            if label in CARRIED or (label == "gate" and is_gated):
                reach.gated |= past.gated
            if label in PROJECTED:
                reach.projected |= past.projected
        return reach

    def accepted(self) -> list[Branch]:
        """Return the residual sums, numbered along their streams."""
        branches = [branch for branch in map(self._carried, self.flow.sums) if branch is not None]
        branches = self._uncrossed(self._in_every_step(branches))
        by_bit = self._by_bit(branches)
        others = [node for node in self.flow.sums if self._bit(node) not in by_bit]
        projected = [branch for node in others if (branch := self._projected(node, by_bit)) is not None]
        branches = self._in_every_step([*branches, *projected])
        linked = self._linked(branches)
        branches = [
            branch for branch in branches if not (branch.projected or branch.scaled) or branch.sum.number in linked
        ]
        self._place(branches)
        return branches

    def _carried(self, node: Node) -> Branch | None:
        """The sum as one whose shortcut is carried on as it is."""
        candidates = []
        for shortcut, branch in _either(node):
            fork = self._fork(self.past[shortcut.number], self.past[branch.number])
            if fork is not None:
                scaled = _is_scaled(shortcut, fork)
                candidates.append(Branch(sum=node, shortcut=shortcut, branch=branch, fork=fork, scaled=scaled))
        return max(candidates, key=lambda candidate: candidate.fork.number, default=None)

    def _fork(self, shortcut: _Past, branch: _Past) -> Node | None:
        """The latest value that a shortcut carries and a branch is a function of through a weight.

        There is none if both are made of a later value, but for one behind a gate of the shortcut.
        """
        shared = shortcut.gated & branch.every
        while shared:
            latest = 1 << (shared.bit_length() - 1)
            if latest & branch.weighted & ~branch.gated:
                return self.numbered[latest.bit_length() - 1]
            if latest & shortcut.carried:
                return None
            shared ^= latest
        return None

    def _projected(self, node: Node, by_bit: Mapping[int, Branch]) -> Branch | None:
        """The sum as one with a projection on its shortcut, and no other sum in its branch."""
        for shortcut, branch in _either(node):
            of_shortcut, of_branch = self.past[shortcut.number], self.past[branch.number]
            common = of_shortcut.projected & of_branch.every & ~self._bit(shortcut)
            fork = self.numbered[common.bit_length() - 1] if common else None
            if fork is None or not self._bit(fork) & of_branch.bent & ~of_shortcut.bent & ~of_branch.projected:
                continue
            candidate = Branch(sum=node, shortcut=shortcut, branch=branch, fork=fork, projected=True)
            # A weight on both paths is one of a recurrence. The last weight of a branch has to take in a function of
            # the fork; a branch that the fork only gates is one of another signal.
            is_recurrent = _weights(branch, fork) & _weights(shortcut, fork)
            operands = (operand for last in _last_weights(branch, fork) for operand in last.by("weight"))
            is_ended = any(_is_made_of(operand, fork) for operand in operands)
            if is_ended and not is_recurrent and not any(self._inside(candidate, by_bit)):
                return candidate
        return None

    def _uncrossed(self, branches: list[Branch]) -> list[Branch]:
        """The sums without those that cross others, where they are not part of a stream."""
        by_bit = self._by_bit(branches)
        crossing = [
            (inner.sum.number, outer.sum.number)
            for outer in branches
            for inner in self._inside(outer, by_bit)
            if not self._depends(inner.fork, outer.fork)
        ]
        linked = self._linked(branches) if crossing else set()
        dropped: set[int] = set()
        for pair in crossing:
            unlinked = set(pair) - linked
            if len(unlinked) == 1:
                dropped |= unlinked
            elif unlinked and not unlinked & dropped:
                dropped.add(max(unlinked))
        return [branch for branch in branches if branch.sum.number not in dropped]

    def _in_every_step(self, branches: list[Branch]) -> list[Branch]:
        """The sums, with those of a loop's first step as the second has them, which adds to a result of the first."""
        copies = {(branch.sum.place, branch.sum.copy): branch for branch in branches}
        kept = {branch.sum.number: branch for branch in branches}
        for node in self.flow.sums:
            second = tuple(int(step.steps > 1) for step in node.loops)
            later = copies.get((node.place, second))
            if later is None:
                kept.pop(node.number, None)
            elif node.number not in kept and node.copy != second:
                left, right = (operand for operand, _ in node.operands)
                if later.sum.operands[0][0] is not later.shortcut:
                    left, right = right, left
                kept[node.number] = Branch(sum=node, shortcut=left, branch=right, fork=left)
        return list(kept.values())

    def _linked(self, branches: Sequence[Branch]) -> set[int]:
        """The numbers of the sums that are not the only ones of their stream."""
        self._place(branches)
        return {linked.sum.number for branch in branches if branch.before for linked in (branch, *branch.before)}

    def _place(self, branches: Sequence[Branch]) -> None:
        """Note of each sum the innermost branch that contains it and its fork, and number it in its stream."""
        by_bit = self._by_bit(branches)
        for branch in branches:
            branch.within = None
        for outer in sorted(branches, key=lambda branch: (branch.fork.number, -branch.sum.number)):
            for inner in self._inside(outer, by_bit):
                if self._depends(inner.fork, outer.fork):
                    inner.within = outer
        _number_sums(self.flow, branches)
        _number_streams(branches)

    def _by_bit(self, branches: Sequence[Branch]) -> dict[int, Branch]:
        return {self._bit(branch.sum): branch for branch in branches}

    def _inside(self, outer: Branch, by_bit: Mapping[int, Branch]) -> Iterable[Branch]:
        """The sums between the fork of a branch and its end.

        Args:
            outer: the branch.
            by_bit: the sums to choose from, by their bits.
        """
        later = -1 << self._bit(outer.fork).bit_length()
        sums = self.past[outer.branch.number].every & self.sum_bits & later
        while sums:
            bit = sums & -sums
            sums ^= bit
            inner = by_bit.get(bit)
            if inner is not None and inner.sum is not outer.sum and self._depends(inner.sum, outer.fork):
                yield inner

    def _depends(self, node: Node, on: Node) -> bool:
        """Whether a value is another one or depends on it; both are operands of sums, sums or forks."""
        return node is on or bool(self.past[node.number].every & self._bit(on))


def _either(node: Node) -> Iterable[tuple[Node, Node]]:
    """The operands of a sum in both orders."""
    (left, _), (right, _) = node.operands
    return ((left, right), (right, left))


def _since(node: Node, fork: Node) -> list[Node]:
    """A value and those it is made of, of the values after a fork."""
    later = reached([node], lambda node: [operand for operand, _ in node.operands if operand.number > fork.number])
    return later if node.number > fork.number else []


def _is_scaled(node: Node, fork: Node) -> bool:
    """Whether a parameter scales a value that is carried on from a fork."""
    carried = reached([node], lambda node: node.by(*CARRIED) if node.number > fork.number else ())
    return any(operand.plain for node in carried if node.number > fork.number for operand in node.by("scale"))


def _is_made_of(node: Node, fork: Node) -> bool:
    """Whether a value is a fork or depends on it."""
    return node is fork or any(operand is fork for later in _since(node, fork) for operand, _ in later.operands)


def _weights(node: Node, fork: Node) -> set[int]:
    """The parameters of the weights between a fork and a value."""
    contractions = (later for later in _since(node, fork) if later.by("weight"))
    return {param for node in contractions for operand, _ in node.operands if operand.plain for param in operand.params}


def _last_weights(node: Node, fork: Node) -> list[Node]:
    """The last contractions with weights between a fork and a value, in which the value is linear."""

    def before(node: Node) -> list[Node]:
        linear = [operand for operand, label in node.operands if label not in ("function", "statistic")]
        return [] if node.by("weight") else [operand for operand in linear if operand.number > fork.number]

    return [node for node in reached([node], before) if node.by("weight")]


def _number_sums(flow: Flow, branches: Sequence[Branch]) -> None:
    """Note of each sum the previous ones of its stream, and its number, which branches of one fork share."""
    by_sum = {branch.sum.number: branch for branch in branches}
    # Value → last sums of the streams it carries → the number of branches that the stream has there.
    counts: dict[int, dict[int, float]] = {}
    for node in flow.nodes:
        branch = by_sum.get(node.number)
        if branch is not None:
            last = {by_sum[number]: count for number, count in counts.get(branch.start.number, {}).items()}
            before = {other: count for other, count in last.items() if other.within is branch.within}
            branch.before = tuple(before)
            indices = (count + (other.fork is not branch.fork) for other, count in before.items())
            branch.index = max(indices, default=1)
            counts[node.number] = {node.number: branch.index}
            continue
        carried: dict[int, float] = {}
        for operand in node.by(*STREAMING):
            for number, count in counts.get(operand.number, {}).items() if operand.inexact else ():
                carried[number] = max(count, carried.get(number, 0))
        if node.exit is not None and node.exit.steps > 2:
            after_first = counts.get(node.exit.first.number, {}).items()
            first = {by_sum[number].sum.place: count for number, count in after_first}
            for number, count in carried.items():
                in_step = count - first.get(by_sum[number].sum.place, count)
                carried[number] = count + (node.exit.steps - 2) * in_step if in_step else count
        if carried:
            counts[node.number] = carried


def _number_streams(branches: Sequence[Branch]) -> None:
    """Number the streams: a sum and the previous ones are of one stream, and so is a sum in all steps of a loop."""
    # Sum, or place of a sum → the first sum of its stream.
    streams: dict[int | Place, int] = {}
    for branch in branches:
        keys: list[int | Place] = [branch.sum.number, branch.sum.place, *(other.sum.number for other in branch.before)]
        joined = {streams[key] for key in keys if key in streams}
        first = min(joined, default=branch.sum.number)
        streams |= dict.fromkeys(keys, first)
        if len(joined) > 1:
            streams = {key: first if stream in joined else stream for key, stream in streams.items()}
    order = list(dict.fromkeys(streams[branch.sum.number] for branch in branches))
    for branch in branches:
        branch.stream = order.index(streams[branch.sum.number])


Strided = tuple[float, list[tuple[float, float]]]
"""The first number of a sum, and for each loop around it the stride and the count of its numbers."""


def indices_of(branches: Sequence[Branch]) -> Mapping[Place, Strided]:
    """Return equation of a sum → the numbers of its copies in a stream."""
    by_place: dict[Place, dict[tuple[int, ...], Branch]] = {}
    for branch in branches:
        by_place.setdefault(branch.sum.place, {})[branch.sum.copy] = branch
    numbers = {}
    for place, copies in by_place.items():
        first = min(copies)
        start = copies[first].index
        strides = []
        for depth, step in enumerate(copies[first].sum.loops):
            second = copies.get((*first[:depth], 1, *first[depth + 1 :]))
            stride = second.index - start if second is not None and step.number == 0 else 0
            strides.append((stride, step.steps if stride else 1))
        numbers[place] = (start, strides)
    return numbers
