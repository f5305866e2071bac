"""Parts of stored axes, and axes that are products of them: the arithmetic of reshapes, slices and permutations.

A stored axis is read as a product of factors. A reshape splits and merges factors, a slice of equal parts fixes one, a
transpose moves them; so a merged axis `(gate o)` taken apart ten equations later is still known for what it was. Where
entries are moved, left out or joined in any other way, an axis is a slot: a list that says of each of its entries which
entry of a product of factors stands there, if any does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

FOREIGN = -1
"""The stored axis of a factor that belongs to no parameter: an axis of the signal, or one that was broadcast."""

SLOT = -2
"""The stored axis of a `Slot`."""

LARGEST = 1 << 22
"""Axes longer than this are not listed entry by entry."""

Index = np.ndarray[tuple[int, ...], np.dtype[np.intp]]
"""For each entry of an axis the entry of another that stands there, -1 where none does."""


@dataclass(frozen=True, slots=True, order=True)
class Factor:
    """A part of a stored axis: of index `n` along the axis, the digit `(n // inner) % size`.

    Attributes:
        axis: the stored axis, or `FOREIGN`.
        inner: the product of the sizes of all parts further in.
        size: how many entries it has.
    """

    axis: int
    inner: int
    size: int

    def split(self, inner: int) -> tuple[Factor, Factor]:
        """Return the outer and the inner part, the inner one of this size."""
        return Factor(self.axis, self.inner * inner, self.size // inner), Factor(self.axis, self.inner, inner)

    def is_inside(self, other: Factor) -> bool:
        """Whether another part of the same axis holds this one."""
        return self.axis == other.axis and self.inner >= other.inner and self.end <= other.end

    @property
    def end(self) -> int:
        """The product of the sizes of this part and of all parts further in."""
        return self.inner * self.size


Axis = tuple[Factor, ...]
"""An axis of a value: its factors, outermost first."""

Fixed = tuple[tuple[Factor, int], ...]
"""Factors of which one entry was taken, and which."""


def foreign(size: int) -> Axis:
    """Return an axis that belongs to no parameter."""
    return (Factor(FOREIGN, 1, size),)


def is_foreign(axis: Axis) -> bool:
    """Return whether an axis is one of the signal, or was broadcast."""
    return all(factor.axis == FOREIGN for factor in axis)


def without(axes: Sequence[Axis], *gone: int) -> tuple[Axis, ...]:
    """Return the axes that are left."""
    return tuple(axis for index, axis in enumerate(axes) if index not in gone)


@dataclass(frozen=True, slots=True)
class Slot(Factor):
    """An axis, or a part of one, whose entries are entries of a product of factors in any order, with gaps or repeats.

    Attributes:
        factors: the factors, outermost first; without any, their product has one entry.
        entries: for each entry of the axis the index along the product, -1 where something else stands; as bytes.
    """

    factors: Axis
    entries: bytes

    @property
    def index(self) -> Index:
        """The entries as an array."""
        return np.frombuffer(self.entries, np.intp)

    @property
    def known(self) -> Index:
        """The entries of the product that it holds, each once, in order."""
        return np.unique(self.index[self.index >= 0])

    @property
    def partial(self) -> bool:
        """Whether it lacks some entries of the product."""
        return len(self.known) < length(self.factors)

    @property
    def repeats(self) -> bool:
        """Whether it holds some entries more than once."""
        return len(self.known) < int(np.count_nonzero(self.index >= 0))


def slot(factors: Axis, index: Index) -> Slot:
    """Return the slot of some factors along an axis."""
    return Slot(SLOT, 1, len(index), factors, np.ascontiguousarray(index, np.intp).tobytes())


def regroup(factors: Sequence[Factor], shape: Sequence[int]) -> tuple[Axis, ...] | None:
    """Return the factors distributed over axes of these sizes, in row-major order, or `None` where they don't divide.

    Axes of size one have no factors to speak of; those there are go to axes of size one while there are such.
    """
    rest = list(factors)
    groups: list[Axis] = []
    for size in shape:
        group: list[Factor] = []
        left = size
        if size == 1 and rest and rest[0].size == 1:
            group.append(rest.pop(0))
        while left > 1:
            while rest and rest[0].size == 1:
                rest.pop(0)
            if not rest:
                return None
            first = rest.pop(0)
            if first.size <= left:
                if left % first.size:
                    return None
                group.append(first)
                left //= first.size
                continue
            if first.size % left or isinstance(first, Slot):
                return None
            outer, inner = first.split(first.size // left)
            group.append(outer)
            rest.insert(0, inner)
            left = 1
        groups.append(joined(group))
    return tuple(groups) if all(factor.size == 1 for factor in rest) else None


def joined(factors: Sequence[Factor]) -> Axis:
    """Return the factors with neighbors of one stored axis put together again."""
    result: list[Factor] = []
    for factor in factors:
        last = result[-1] if result else None
        if last and last.axis == factor.axis and factor.axis == FOREIGN:
            result[-1] = Factor(FOREIGN, 1, last.size * factor.size)
        elif last and last.axis == factor.axis >= 0 and last.inner == factor.inner * factor.size:
            result[-1] = Factor(factor.axis, factor.inner, last.size * factor.size)
        else:
            result.append(factor)
    return tuple(result)


def pieces_of(factor: Factor, among: Iterable[Factor]) -> list[Factor]:
    """Return the factors that one is split into among others, outermost first; itself where it is not split there."""
    inside = sorted((piece for piece in among if piece.is_inside(factor)), key=lambda piece: -piece.inner)
    return inside if length(inside) == factor.size else [factor]


def length(axis: Iterable[Factor]) -> int:
    """Return the number of entries of a product of factors."""
    return math.prod(factor.size for factor in axis)


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the shortest runs of old and new axes with equal numbers of entries."""
    blocks: list[tuple[list[int], list[int]]] = []
    left, right = 0, 0
    while left < len(old) or right < len(new):
        one, other = [left] if left < len(old) else [], [right] if right < len(new) else []
        left, right = left + len(one), right + len(other)
        while (a := math.prod(old[index] for index in one)) != (b := math.prod(new[index] for index in other)):
            if a < b:
                one.append(left)
                left += 1
            else:
                other.append(right)
                right += 1
        blocks.append((one, other))
    return blocks


def flat(axis: Sequence[Factor]) -> tuple[Axis, Index]:
    """Return the factors of an axis and, for each of its entries, the index along their product."""
    index: Index = np.zeros(1, np.intp)
    own: list[Factor] = []
    for factor in axis:
        inside: Axis = (factor,) if factor.axis >= 0 else ()
        along: Index = np.arange(factor.size, dtype=np.intp) * (factor.axis >= 0)
        if isinstance(factor, Slot):
            inside, along = factor.factors, factor.index
        own += inside
        both = index[:, None] * length(inside) + along
        index = np.where((index[:, None] < 0) | (along < 0), -1, both).ravel()
    return tuple(own), index


def stands(axis: Sequence[Factor]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return which entries of an axis belong to the parameter; an array of one where all do."""
    if not any(isinstance(factor, Slot) for factor in axis):
        return np.ones(1, bool)
    return flat(axis)[1] >= 0


def beside(one: Axis, other: Axis) -> tuple[Axis, Axis]:
    """Return the factors of two axes, opened where both are slots with the same entries."""
    if len(one) != 1 or len(other) != 1 or not (isinstance(one[0], Slot) and isinstance(other[0], Slot)):
        return one, other
    alike = one[0].entries == other[0].entries
    return (one[0].factors, other[0].factors) if alike else (one, other)


def normal(factors: Axis, index: Index) -> tuple[Axis, Fixed] | None:
    """Return an axis of these entries of a product of factors, and factors of which it holds one entry, and which.

    Equal parts are factors, everything else is a slot. `None` where the axis holds nothing of the product.
    """
    if not (index >= 0).any():
        return None
    start = int(index[0])
    if (index == start).all():
        gone = tuple(zip(factors, digits(start, factors), strict=True))
        return foreign(len(index)), gone
    step = int(index[1]) - start
    if step > 0 and start >= 0 and (np.diff(index) == step).all():
        found = equal_part(factors, start, len(index), step, length(factors))
        if found is not None:
            return found
    return (slot(factors, index),), ()


def equal_part(factors: Sequence[Factor], start: int, size: int, stride: int, total: int) -> tuple[Axis, Fixed] | None:
    """Return the factors that a slice of one equal part leaves, and those of which it takes one entry, and which."""
    if stride == 1:
        if size == 0 or total % size or start % size:
            return None
        cut, which, kept = (total // size, size), start // size, 1
    else:
        if total % stride or size != total // stride:
            return None
        cut, which, kept = (total // stride, stride), start % stride, 0
    groups = regroup(factors, cut)
    if groups is None:
        return None
    gone = [factor for factor in groups[1 - kept] if factor.size > 1 or factor.axis != FOREIGN]
    if any(isinstance(factor, Slot) for factor in gone):
        return None
    taken = tuple(
        (factor, digit) for factor, digit in zip(gone, digits(which, gone), strict=True) if factor.axis != FOREIGN
    )
    return groups[kept] or foreign(size), taken


def divided(factors: Sequence[Factor], sizes: Sequence[int]) -> tuple[tuple[Axis, ...], Fixed] | None:
    """Return an axis split into axes of other sizes, entry by entry; `None` where that is not a product of axes."""
    if math.prod(sizes) > LARGEST:
        return None
    own, index = flat(factors)
    axes: list[Axis] = []
    fixed: Fixed = ()
    for at, outer in enumerate(sizes):
        inner = math.prod(sizes[at + 1 :])
        pair = _pair(own, index.reshape(outer, inner))
        if pair is None:
            return None
        (left, rows), (own, index) = pair
        axis = normal(left, rows)
        if axis is None:
            return None
        axes.append(axis[0])
        fixed += axis[1]
    return tuple(axes), fixed


def _pair(factors: Axis, index: Index) -> tuple[tuple[Axis, Index], tuple[Axis, Index]] | None:
    """Return a matrix of entries of a product of factors as two axes, each a part of the product."""
    here = index >= 0
    rows, columns = here.any(1), here.any(0)
    if not here.any() or (here != rows[:, None] & columns).any():
        return None
    total = length(factors)
    tails = [length(factors[at:]) for at in range(len(factors) + 1)]
    first, second = int(rows.argmax()), int(columns.argmax())
    for inner in dict.fromkeys([index.shape[1], *tails]):
        if total % inner:
            continue
        groups = regroup(factors, (total // inner, inner))
        if groups is None:
            continue
        outer, own = np.where(here, index // inner, -1), np.where(here, index % inner, -1)
        down, across = outer[:, second], own[first]
        if (outer == np.where(here, down[:, None], -1)).all() and (own == np.where(here, across, -1)).all():
            return (groups[0], down), (groups[1], across)
    return None


Number = TypeVar("Number", int, Index)


def digits(index: Number, factors: Sequence[Factor]) -> list[Number]:
    """Return the index along each factor, outermost first, of an index along their product, or of several."""
    along: list[Number] = []
    for factor in reversed(factors):
        along.append(index % factor.size)
        index = index // factor.size
    return along[::-1]
