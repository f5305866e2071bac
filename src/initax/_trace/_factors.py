"""Parts of stored axes, and axes that are products of them: the arithmetic of reshapes, slices and permutations.

A stored axis is read as a product of factors. A reshape splits and merges factors, a slice of equal parts takes one
entry of a factor, a transpose moves them. So the gates of a merged axis `(gate o)` are still known when it is split ten
equations later. Where entries are moved, left out or joined in any other way, an axis is a slot: a list that gives for
each of its entries the index along a product of factors, or -1 for an entry of something else.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
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
"""For each entry of an axis its index along another one, -1 for an entry of something else."""

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
"""For each entry of an axis whether a condition holds."""


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


def unlike(fixed: Fixed, other: Fixed) -> list[Factor]:
    """Return the factors of which two parts of a parameter hold different entries."""
    digits_of = dict(other)
    return [factor for factor, digit in fixed if digits_of.get(factor, digit) != digit]


def foreign(size: int) -> Axis:
    """Return an axis that belongs to no parameter."""
    return (Factor(FOREIGN, 1, size),)


def is_foreign(axis: Axis) -> bool:
    """Return whether an axis is one of the signal, or was broadcast."""
    return all(factor.axis == FOREIGN for factor in axis)


def other_axes(rank: int, axes: Container[int]) -> list[int]:
    """Return the axes of an array without some of them."""
    return [axis for axis in range(rank) if axis not in axes]


def without(axes: Sequence[Axis], *removed: int) -> tuple[Axis, ...]:
    """Return the axes without some of them."""
    return tuple(axis for index, axis in enumerate(axes) if index not in removed)


@dataclass(frozen=True, slots=True)
class Slot(Factor):
    """An axis, or a part of one, whose entries are entries of a product of factors in any order, with gaps or repeats.

    Attributes:
        factors: the factors, outermost first; without any, their product has one entry.
        entries: for each entry of the axis the index along the product, -1 for an entry of something else; as bytes.
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

    Factors of size one go to axes of size one, or are left out.
    """
    remaining = list(factors)
    groups: list[Axis] = []
    for size in shape:
        group: list[Factor] = []
        size_left = size
        if size == 1 and remaining and remaining[0].size == 1:
            group.append(remaining.pop(0))
        while size_left > 1:
            while remaining and remaining[0].size == 1:
                remaining.pop(0)
            if not remaining:
                return None
            first = remaining.pop(0)
            if first.size <= size_left:
                if size_left % first.size:
                    return None
                group.append(first)
                size_left //= first.size
                continue
            if first.size % size_left or isinstance(first, Slot):
                return None
            outer, inner = first.split(first.size // size_left)
            group.append(outer)
            remaining.insert(0, inner)
            size_left = 1
        groups.append(joined(group))
    return tuple(groups) if all(factor.size == 1 for factor in remaining) else None


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
    """Return the factors among others that a factor is split into, outermost first; itself where it is not split."""
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
        old_run, new_run = [left] if left < len(old) else [], [right] if right < len(new) else []
        left, right = left + len(old_run), right + len(new_run)
        while (a := math.prod(old[index] for index in old_run)) != (b := math.prod(new[index] for index in new_run)):
            if a < b:
                old_run.append(left)
                left += 1
            else:
                new_run.append(right)
                right += 1
        blocks.append((old_run, new_run))
    return blocks


def flat(axis: Sequence[Factor]) -> tuple[Axis, Index]:
    """Return the factors of an axis and, for each of its entries, the index along their product."""
    index: Index = np.zeros(1, np.intp)
    factors: list[Factor] = []
    for factor in axis:
        inner: Axis = (factor,) if factor.axis >= 0 else ()
        inner_index: Index = np.arange(factor.size, dtype=np.intp) * (factor.axis >= 0)
        if isinstance(factor, Slot):
            inner, inner_index = factor.factors, factor.index
        factors += inner
        joint_index = index[:, None] * length(inner) + inner_index
        index = np.where((index[:, None] < 0) | (inner_index < 0), -1, joint_index).ravel()
    return tuple(factors), index


def stands(axis: Sequence[Factor]) -> Mask:
    """Return which entries of an axis belong to the parameter; an array of one entry where all do."""
    if not any(isinstance(factor, Slot) for factor in axis):
        return np.ones(1, bool)
    return flat(axis)[1] >= 0


def beside(left: Axis, right: Axis) -> tuple[Axis, Axis]:
    """Return two axes; where both are slots with the same entries, the factors in these."""
    if len(left) != 1 or len(right) != 1 or not (isinstance(left[0], Slot) and isinstance(right[0], Slot)):
        return left, right
    are_alike = left[0].entries == right[0].entries
    return (left[0].factors, right[0].factors) if are_alike else (left, right)


def normal(factors: Axis, index: Index) -> tuple[Axis, Fixed] | None:
    """Return an axis of these entries of a product of factors, and the factors of which it holds one entry, and which.

    Equal parts of the product are factors, everything else is a slot. `None` where the axis holds none of its entries.
    """
    if not (index >= 0).any():
        return None
    start = int(index[0])
    if (index == start).all():
        entries = tuple(zip(factors, digits(start, factors), strict=True))
        return foreign(len(index)), entries
    step = int(index[1]) - start
    if step > 0 and start >= 0 and (np.diff(index) == step).all():
        part = equal_part(factors, start, len(index), step, length(factors))
        if part is not None:
            return part
    return (slot(factors, index),), ()


def equal_part(factors: Sequence[Factor], start: int, size: int, stride: int, total: int) -> tuple[Axis, Fixed] | None:
    """Return the factors that a slice leaves, and those of which it takes one entry, and which.

    `None` where the slice is not one of equal parts of the axis.
    """
    if stride == 1:
        if size == 0 or total % size or start % size:
            return None
        sizes, entry, kept = (total // size, size), start // size, 1
    else:
        if total % stride or size != total // stride:
            return None
        sizes, entry, kept = (total // stride, stride), start % stride, 0
    groups = regroup(factors, sizes)
    if groups is None:
        return None
    dropped = [factor for factor in groups[1 - kept] if factor.size > 1 or factor.axis != FOREIGN]
    if any(isinstance(factor, Slot) for factor in dropped):
        return None
    pairs = zip(dropped, digits(entry, dropped), strict=True)
    return groups[kept] or foreign(size), tuple((factor, digit) for factor, digit in pairs if factor.axis != FOREIGN)


def divided(factors: Sequence[Factor], sizes: Sequence[int]) -> tuple[tuple[Axis, ...], Fixed] | None:
    """Return an axis split into axes of these sizes, entry by entry; `None` where the entries are not a product."""
    if math.prod(sizes) > LARGEST:
        return None
    inner_factors, index = flat(factors)
    axes: list[Axis] = []
    fixed: Fixed = ()
    for position, size in enumerate(sizes):
        pair = _pair(inner_factors, index.reshape(size, math.prod(sizes[position + 1 :])))
        if pair is None:
            return None
        outer, (inner_factors, index) = pair
        axis = normal(*outer)
        if axis is None:
            return None
        axes.append(axis[0])
        fixed += axis[1]
    return tuple(axes), fixed


def _pair(factors: Axis, index: Index) -> tuple[tuple[Axis, Index], tuple[Axis, Index]] | None:
    """Return a matrix of entries of a product of factors as two axes, each of entries of a part of the product."""
    known = index >= 0
    rows, columns = known.any(1), known.any(0)
    if not known.any() or (known != rows[:, None] & columns).any():
        return None
    total = length(factors)
    inner_sizes = [length(factors[start:]) for start in range(len(factors) + 1)]
    row, column = int(rows.argmax()), int(columns.argmax())
    for inner in dict.fromkeys([index.shape[1], *inner_sizes]):
        if total % inner:
            continue
        groups = regroup(factors, (total // inner, inner))
        if groups is None:
            continue
        of_rows, of_columns = np.where(known, index // inner, -1), np.where(known, index % inner, -1)
        down, across = of_rows[:, column], of_columns[row]
        if (of_rows == np.where(known, down[:, None], -1)).all() and (of_columns == np.where(known, across, -1)).all():
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
