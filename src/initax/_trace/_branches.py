"""Residual sums of a forward pass: what is added to which stream, and how many of them there are.

A sum is residual if one of its operands, the shortcut, is an earlier value that is carried on, and the other, the
branch, is a function of that value through a weight. The shortcut may be moved, scaled and gated. A projection may be
on it where the branch is not linear, no sum lies in the branch, and others of the stream go before or come behind. So
they must where a parameter scales the shortcut, which a state space's feedthrough is and no stream.
What is concatenated is no sum, and positions that are added are no function of what they are added to.
"""

from __future__ import annotations

import functools
import operator
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
    """The values that one depends on, as bits, of those that may be forks or are sums.

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
        self.past: dict[int, _Past] = {}
        self.every_bit: tuple[Mapping[int, Branch], int] = ({}, 0)
        kept = {operand.number for node in flow.sums for operand, _ in node.operands} | set(self.bits)
        for node in flow.nodes:
            self.past[node.number] = self._of(node)
            for operand, _ in node.operands:
                readers[operand.number] -= 1
                if not readers[operand.number] and operand.number not in kept:
                    self.past.pop(operand.number, None)

    def _of(self, node: Node) -> _Past:
        found = _Past()
        if not node.inexact:
            return found
        gates = [self.past[operand.number] for operand, label in node.operands if label == "gate"]
        is_gated = any(past.weighed for past in gates)  # as a highway's carry is, by what comes out of a weight
        is_plain = all(operand.plain for operand, _ in node.operands if operand.inexact)
        for operand, label in node.operands:
            # Nothing is carried from where a weight, a bias or a scale is used to where it is used again.
            if not operand.inexact or (operand.plain and not operand.contracted and not is_plain):
                continue
            past = self.past[operand.number]
            every = past.every | self.bits.get(operand.number, 0)
            found.every |= every
            found.weighed |= every if label == "weight" else past.weighed
            is_curved = label in ("function", "gate", "mix")
            if label != "statistic":  # a norm leaves what is linear linear
                found.curved |= every if is_curved else past.curved
                found.bent |= past.bent | (past.weighed if is_curved else past.curved if label == "weight" else 0)
            own = self.bits.get(operand.number, 0)
            if label in CARRIED:
                found.carried |= past.carried | own
            if label in CARRIED or (label == "gate" and is_gated):
                found.gated |= past.gated | own
            if label in PROJECTED:
                found.projected |= past.projected | own
        return found

    def _fork(self, shortcut: _Past, own: int, branch: _Past, other: int) -> Node | None:
        """The latest value that a shortcut carries and a branch is a function of through a weight.

        What both are made of since then is no shortcut, but for a gate.
        """
        carried, shared = shortcut.carried | own, (shortcut.gated | own) & (branch.every | other)
        while shared:
            latest = 1 << (shared.bit_length() - 1)
            if latest & branch.weighed & ~(branch.gated | other):
                return self.numbered[latest.bit_length() - 1]
            if latest & carried:
                return None
            shared ^= latest
        return None

    def _own(self, node: Node) -> int:
        return self.bits.get(node.number, 0)

    def depends(self, node: Node, on: Node) -> bool:
        """Return whether a value is another one or depends on it; both are operands of sums, sums or forks."""
        return node is on or bool(self.past[node.number].every & self._own(on))

    def accepted(self) -> list[Branch]:
        """Return the residual sums, in the order of the forward pass, numbered along their streams."""
        found = [each for each in map(self._carried, self.flow.sums) if each is not None]
        found = self._uncrossed(self._in_every_step(found))
        known = {each.sum.number for each in found}
        by_bit = self._by_bit(found)
        projected = [self._projected(node, by_bit) for node in self.flow.sums if node.number not in known]
        found = self._in_every_step([*found, *(each for each in projected if each is not None)])
        linked = self._linked(found)
        found = [each for each in found if not (each.projected or each.scaled) or each.sum.number in linked]
        self.nest(found)
        number(self.flow, found)
        return found

    def _linked(self, found: Sequence[Branch]) -> set[int]:
        """The sums in front of which, or behind which, there is another one of their stream."""
        self.nest(found)
        number(self.flow, found)
        return {each.sum.number for one in found if one.before for each in (one, *one.before)}

    def _uncrossed(self, found: list[Branch]) -> list[Branch]:
        """The sums without those that cross others, where there is no stream of them."""
        by_bit = self._by_bit(found)
        crossing = [
            (inner, outer)
            for outer in found
            for inner in self._inside(outer, by_bit)
            if not self.depends(inner.fork, outer.fork)
        ]
        if not crossing:
            return found
        linked = self._linked(found)
        gone: set[int] = set()
        for one, other in crossing:
            numbers = {one.sum.number, other.sum.number}
            alone = numbers - linked
            gone |= {max(alone)} if alone == numbers and not numbers & gone else alone if len(alone) == 1 else set()
        return [each for each in found if each.sum.number not in gone]

    def _carried(self, node: Node) -> Branch | None:
        """The sum as one whose shortcut is carried on as it is."""
        found = []
        for shortcut, branch in _either(node):
            own, other = self.past[shortcut.number], self.past[branch.number]
            fork = self._fork(own, self._own(shortcut), other, self._own(branch))
            if fork is not None:
                scaled = _is_scaled(shortcut, fork)
                found.append(Branch(sum=node, shortcut=shortcut, branch=branch, fork=fork, scaled=scaled))
        return max(found, key=lambda each: each.fork.number, default=None)

    def _projected(self, node: Node, by_bit: Mapping[int, Branch]) -> Branch | None:
        """The sum as one with a projection on its shortcut, and no other sum in its branch."""
        for shortcut, branch in _either(node):
            own, other = self.past[shortcut.number], self.past[branch.number]
            shared = own.projected & (other.every | self._own(branch))
            fork = self.numbered[shared.bit_length() - 1] if shared else None
            if fork is None or not self._own(fork) & other.bent & ~own.bent & ~other.projected:
                continue
            candidate = Branch(sum=node, shortcut=shortcut, branch=branch, fork=fork, projected=True)
            inside, beside = _weights(branch, fork), _weights(shortcut, fork)
            # Weights on both ways are those of a recurrence. The end of a branch takes in what the fork became, while
            # what only gates it is another signal's.
            last = [weight for weight in _last_weights(branch, fork) if self._takes_in(weight, fork)]
            if last and not inside & beside and not any(self._inside(candidate, by_bit)):
                return candidate
        return None

    def _takes_in(self, weight: Node, fork: Node) -> bool:
        return any(_depends(operand, fork) for operand, label in weight.operands if label == "weight")

    def _inside(self, outer: Branch, found: Mapping[int, Branch]) -> Iterable[Branch]:
        """The sums on the way from the fork of one to the end of its branch; `found` has them by their bits."""
        fork = self._own(outer.fork)
        within = (self.past[outer.branch.number].every | self._own(outer.branch)) & self._bits_of(found)
        within &= -1 << fork.bit_length()  # what comes later than the fork
        while within:
            bit = within & -within
            within ^= bit
            inner = found[bit]
            if inner.sum is not outer.sum and self.depends(inner.sum, outer.fork):
                yield inner

    def _bits_of(self, found: Mapping[int, Branch]) -> int:
        if self.every_bit[0] is not found:
            self.every_bit = (found, functools.reduce(operator.or_, found, 0))
        return self.every_bit[1]

    def _by_bit(self, found: Sequence[Branch]) -> dict[int, Branch]:
        return {self._own(each.sum): each for each in found}

    def _in_every_step(self, found: list[Branch]) -> list[Branch]:
        """The sums of loops as the second step has them: what it adds to is what the first step left."""
        copies = {(branch.sum.place, branch.sum.copy): branch for branch in found}
        kept = {branch.sum.number: branch for branch in found}
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

    def nest(self, found: Sequence[Branch]) -> None:
        """Note of each sum the innermost branch that it lies in, with its fork."""
        by_bit = self._by_bit(found)
        for each in found:
            each.within = None
        for outer in sorted(found, key=lambda each: (each.fork.number, -each.sum.number)):
            for inner in self._inside(outer, by_bit):
                if self.depends(inner.fork, outer.fork):
                    inner.within = outer


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


def number(flow: Flow, found: Sequence[Branch]) -> None:
    """Number the sums of each stream, and the streams: what is added side by side has one number."""
    by_sum = {each.sum.number: each for each in found}
    # Number of a value → the last sums of the stream it carries → how many branches the stream has there.
    depths: dict[int, dict[int, float]] = {}
    for node in flow.nodes:
        each = by_sum.get(node.number)
        if each is not None:
            reached = depths.get(each.start.number, {})
            own = {by_sum[index]: depth for index, depth in reached.items() if by_sum[index].within is each.within}
            each.before = tuple(own)
            each.index = max((depth + (before.fork is not each.fork) for before, depth in own.items()), default=1)
            depths[node.number] = {node.number: each.index}
            continue
        carried: dict[int, float] = {}
        for operand, label in node.operands:
            if label in STREAMING and operand.inexact:
                for index, depth in depths.get(operand.number, {}).items():
                    carried[index] = max(depth, carried.get(index, 0))
        leaves = node.exit
        if leaves is not None and leaves.steps > 2:
            first = {by_sum[index].sum.place: depth for index, depth in depths.get(leaves.first.number, {}).items()}
            for index, depth in carried.items():
                added = depth - first.get(by_sum[index].sum.place, depth)
                carried[index] = depth + (leaves.steps - 2) * added if added else depth
        if carried:
            depths[node.number] = carried
    _name_streams(found)


def _name_streams(found: Sequence[Branch]) -> None:
    """Number the streams: sums that follow each other are of one, and so is a sum in each step of a loop."""
    parents = {each.sum.number: each.sum.number for each in found}

    def root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    places: dict[Place, int] = {}
    for each in found:
        for other in (places.setdefault(each.sum.place, each.sum.number), *(one.sum.number for one in each.before)):
            low, high = sorted((root(each.sum.number), root(other)))
            parents[high] = low
    roots = list(dict.fromkeys(root(each.sum.number) for each in found))
    for each in found:
        each.stream = roots.index(root(each.sum.number))


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
