"""Residual sums of a forward pass: what is added to which stream, and how many of them there are.

A sum is residual if one of its operands, the shortcut, is an earlier value that is carried on, and the other, the
branch, is a function of that value through a weight. The shortcut may be moved, scaled and gated. A projection may be
on it where the branch is not linear, no sum lies in the branch, and others of the stream go before or come behind. So
they must where a parameter scales the shortcut, which a state space's feedthrough is and no stream.
What is concatenated is no sum, and positions that are added are no function of what they are added to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from initax._trace._flow_graph import Flow, Label, Node, reached
from initax._trace._uses import Place

CARRIED: tuple[Label, ...] = ("carry", "scale", "add")
"""What leaves a value one that is carried on."""
PROJECTED: tuple[Label, ...] = ("carry", "scale", "add", "norm", "linear", "weight")
"""The same, with projections, pooling and norms."""
STREAMING: tuple[Label, ...] = ("carry", "part", "join", "add", "scale", "norm", "gate", "linear", "function", "row")
"""What a stream goes through between two sums: all but weights."""


@dataclass(slots=True, kw_only=True, eq=False)
class Branch:
    """One residual sum.

    Attributes:
        sum: the sum.
        shortcut: the operand that is carried on.
        branch: the other one.
        fork: the value that both are made of.
        projected: whether a weight is on the shortcut.
        scaled: whether a parameter scales the shortcut.
        within: the branch it lies in.
        before: the sums of its stream that come right before.
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
        """How many branches it lies in."""
        return 0 if self.within is None else self.within.depth + 1

    @property
    def start(self) -> Node:
        """The value at which its stream comes in."""
        return self.fork if self.projected else self.shortcut


@dataclass(slots=True)
class _Past:
    """A value and those that it depends on, as bits, of those that may be forks or are sums.

    Attributes:
        every: all of them.
        weighed: those on the way from which there is a weight.
        curved: those on the way from which there is something that is not linear.
        bent: those on one way from which there are both.
        carried: those that it carries on.
        gated: the same, behind gates too.
        projected: those that it carries on, or projections of them.
    """

    every: int = 0
    weighed: int = 0
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
        bit = self._bit(node)
        reach = _Past(every=bit, carried=bit, gated=bit, projected=bit)
        if not node.inexact:
            return reach
        # As a highway's carry is, by what comes out of a weight.
        is_gated = any(self.past[gate.number].weighed for gate in node.by("gate"))
        is_plain = all(operand.plain for operand in node.inexact_operands)
        for operand, label in node.operands:
            # Nothing is carried from where a weight, a bias or a scale is used to where it is used again.
            if not operand.inexact or (operand.plain and not operand.contracted and not is_plain):
                continue
            past = self.past[operand.number]
            reach.every |= past.every
            reach.weighed |= past.every if label == "weight" else past.weighed
            is_curved = label in ("function", "gate", "mix")
            if label != "statistic":  # a norm leaves what is linear linear
                reach.curved |= past.every if is_curved else past.curved
                reach.bent |= past.bent | (past.weighed if is_curved else past.curved if label == "weight" else 0)
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
        branches = [one for one in branches if not (one.projected or one.scaled) or one.sum.number in linked]
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

        What both are made of since then is no shortcut, but for a gate.
        """
        shared = shortcut.gated & branch.every
        while shared:
            latest = 1 << (shared.bit_length() - 1)
            if latest & branch.weighed & ~branch.gated:
                return self.numbered[latest.bit_length() - 1]
            if latest & shortcut.carried:
                return None
            shared ^= latest
        return None

    def _projected(self, node: Node, by_bit: Mapping[int, Branch]) -> Branch | None:
        """The sum as one with a projection on its shortcut, and no other sum in its branch."""
        for shortcut, branch in _either(node):
            short, long = self.past[shortcut.number], self.past[branch.number]
            shared = short.projected & long.every & ~self._bit(shortcut)
            fork = self.numbered[shared.bit_length() - 1] if shared else None
            if fork is None or not self._bit(fork) & long.bent & ~short.bent & ~long.projected:
                continue
            candidate = Branch(sum=node, shortcut=shortcut, branch=branch, fork=fork, projected=True)
            # Weights on both ways are those of a recurrence. The end of a branch takes in what the fork became, while
            # what only gates it is another signal's.
            is_recurrent = _weights(branch, fork) & _weights(shortcut, fork)
            last = (operand for weight in _last_weights(branch, fork) for operand in weight.by("weight"))
            is_ended = any(_depends(operand, fork) for operand in last)
            if is_ended and not is_recurrent and not any(self._inside(candidate, by_bit)):
                return candidate
        return None

    def _uncrossed(self, branches: list[Branch]) -> list[Branch]:
        """The sums without those that cross others, where there is no stream of them."""
        by_bit = self._by_bit(branches)
        crossing = [
            (inner.sum.number, outer.sum.number)
            for outer in branches
            for inner in self._inside(outer, by_bit)
            if not self._depends(inner.fork, outer.fork)
        ]
        linked = self._linked(branches) if crossing else set()
        gone: set[int] = set()
        for pair in crossing:
            alone = set(pair) - linked
            if len(alone) == 1:
                gone |= alone
            elif alone and not alone & gone:
                gone.add(max(alone))
        return [branch for branch in branches if branch.sum.number not in gone]

    def _in_every_step(self, branches: list[Branch]) -> list[Branch]:
        """The sums of loops as the second step has them: what it adds to is what the first step left."""
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
        """The sums in front of which, or behind which, there is another one of their stream."""
        self._place(branches)
        return {one.sum.number for branch in branches if branch.before for one in (branch, *branch.before)}

    def _place(self, branches: Sequence[Branch]) -> None:
        """Note of each sum the innermost branch that it lies in, with its fork, and number it in its stream."""
        by_bit = self._by_bit(branches)
        for branch in branches:
            branch.within = None
        for outer in sorted(branches, key=lambda branch: (branch.fork.number, -branch.sum.number)):
            for inner in self._inside(outer, by_bit):
                if self._depends(inner.fork, outer.fork):
                    inner.within = outer
        number(self.flow, branches)

    def _by_bit(self, branches: Sequence[Branch]) -> dict[int, Branch]:
        return {self._bit(branch.sum): branch for branch in branches}

    def _inside(self, outer: Branch, by_bit: Mapping[int, Branch]) -> Iterable[Branch]:
        """The sums on the way from the fork of one to the end of its branch, of those that are given by their bits."""
        since = -1 << self._bit(outer.fork).bit_length()
        within = self.past[outer.branch.number].every & self.sum_bits & since
        while within:
            bit = within & -within
            within ^= bit
            inner = by_bit.get(bit)
            if inner is not None and inner.sum is not outer.sum and self._depends(inner.sum, outer.fork):
                yield inner

    def _depends(self, node: Node, on: Node) -> bool:
        """Whether a value is another one or depends on it; both are operands of sums, sums or forks."""
        return node is on or bool(self.past[node.number].every & self._bit(on))


def _either(node: Node) -> Iterable[tuple[Node, Node]]:
    (left, _), (right, _) = node.operands
    return ((left, right), (right, left))


def _since(node: Node, fork: Node) -> list[Node]:
    """The values that one is made of since a fork, itself included."""
    before = reached([node], lambda node: [operand for operand, _ in node.operands if operand.number > fork.number])
    return before if node.number > fork.number else []


def _is_scaled(node: Node, fork: Node) -> bool:
    """Whether a parameter scales a value that is carried on from a fork."""
    way = reached([node], lambda node: node.by(*CARRIED) if node.number > fork.number else ())
    return any(operand.plain for node in way if node.number > fork.number for operand in node.by("scale"))


def _depends(node: Node, fork: Node) -> bool:
    return node is fork or any(operand is fork for later in _since(node, fork) for operand, _ in later.operands)


def _weights(node: Node, fork: Node) -> set[int]:
    """The parameters of the weights that a value is made with since a fork."""
    contractions = (later for later in _since(node, fork) if later.by("weight"))
    return {param for node in contractions for operand, _ in node.operands if operand.plain for param in operand.params}


def _last_weights(node: Node, fork: Node) -> list[Node]:
    """The contractions with weights behind which a value is made with no further weight."""

    def before(node: Node) -> list[Node]:
        linear = [operand for operand, label in node.operands if label not in ("function", "statistic")]
        return [] if node.by("weight") else [operand for operand in linear if operand.number > fork.number]

    return [node for node in reached([node], before) if node.by("weight")]


def number(flow: Flow, branches: Sequence[Branch]) -> None:
    """Number the sums of each stream, and the streams: what is added side by side has one number."""
    by_sum = {branch.sum.number: branch for branch in branches}
    # Number of a value → the last sums of the stream it carries → how many branches the stream has there.
    depths: dict[int, dict[int, float]] = {}
    for node in flow.nodes:
        branch = by_sum.get(node.number)
        if branch is not None:
            reached_by = {by_sum[last]: depth for last, depth in depths.get(branch.start.number, {}).items()}
            before = {last: depth for last, depth in reached_by.items() if last.within is branch.within}
            branch.before = tuple(before)
            after = (depth + (last.fork is not branch.fork) for last, depth in before.items())
            branch.index = max(after, default=1)
            depths[node.number] = {node.number: branch.index}
            continue
        carried: dict[int, float] = {}
        for operand in node.by(*STREAMING):
            for last, depth in depths.get(operand.number, {}).items() if operand.inexact else ():
                carried[last] = max(depth, carried.get(last, 0))
        leaves = node.exit
        if leaves is not None and leaves.steps > 2:
            first = {by_sum[last].sum.place: depth for last, depth in depths.get(leaves.first.number, {}).items()}
            for last, depth in carried.items():
                added = depth - first.get(by_sum[last].sum.place, depth)
                carried[last] = depth + (leaves.steps - 2) * added if added else depth
        if carried:
            depths[node.number] = carried
    # Sums that follow each other are of one stream, and so is a sum in each step of a loop. Sum, place → first sum.
    streams: dict[int | Place, int] = {}
    for branch in branches:
        keys: list[int | Place] = [branch.sum.number, branch.sum.place, *(last.sum.number for last in branch.before)]
        joined = {streams[key] for key in keys if key in streams}
        first_sum = min(joined, default=branch.sum.number)
        streams |= dict.fromkeys(keys, first_sum)
        if len(joined) > 1:
            streams = {key: first_sum if stream in joined else stream for key, stream in streams.items()}
    order = list(dict.fromkeys(streams[branch.sum.number] for branch in branches))
    for branch in branches:
        branch.stream = order.index(streams[branch.sum.number])


def indices(branches: Sequence[Branch]) -> Mapping[Place, tuple[float, list[tuple[float, float]]]]:
    """Return for each place of a sum its first number, and for each loop around it how far apart and how many are."""
    by_place: dict[Place, dict[tuple[int, ...], Branch]] = {}
    for branch in branches:
        by_place.setdefault(branch.sum.place, {})[branch.sum.copy] = branch
    numbered = {}
    for place, copies in by_place.items():
        first = min(copies)
        start = copies[first].index
        strides = []
        for depth, step in enumerate(copies[first].sum.loops):
            later = copies.get((*first[:depth], 1, *first[depth + 1 :]))
            apart = later.index - start if later is not None and step.which == 0 else 0
            strides.append((apart, step.steps if apart else 1))
        numbered[place] = (start, strides)
    return numbered
