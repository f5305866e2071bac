"""Which entries of an array a signal holds and in which order, by strides as in NumPy; of which two the same entry is.

Two parts of one array are different entries, and the same part taken twice is the same. An axis that was merged from
others has several digits, each with a stride of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from initax._trace._indices import Constant

Axis = tuple[tuple[int, int], ...]
"""The size and the stride of each digit, outermost first; none where the axis has one entry."""

Indices = Sequence[Constant | None]
"""The indices by which entries are taken, `None` for one that the data decide."""

MANY = 2**20
"""Number of positions above which entries that two arrangements have in common are too rare to matter."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """An array whose entries are those of another one.

    Attributes:
        offset: place in the other array, in row-major order, of the first entry.
        axes: the digits of each axis.
    """

    offset: int
    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(map(_length, self.axes))


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of an array of independent numbers of one distribution.

    Attributes:
        array: the number of that array.
        size: how many entries it has.
        arrangement: which of its entries stand where; where that is not known, a number that stands for it.
    """

    array: int
    size: int
    arrangement: Arrangement | int

    def moved(self, eqn: Any, indices: Indices, unknown: int) -> list[Entries]:
        """Return the entries in the results of an equation that moves entries or leaves some out.

        Args:
            eqn: the equation.
            indices: its operands behind the first.
            unknown: a number that stands for what is not known; the next ones stand for that of the next results.
        """
        found: Sequence[Arrangement | None] = [None] * len(eqn.outvars)
        rule = RULES.get(eqn.primitive.name)
        if rule is not None and isinstance(self.arrangement, Arrangement) and all(self.arrangement.shape):
            found = rule(self.arrangement, eqn, indices)
        return [
            replace(self, arrangement=unknown + number if each is None else each) for number, each in enumerate(found)
        ]

    def row(self, number: int, unknown: int) -> Entries:
        """Return an entry along the first axis."""
        first = _cut_first(self.arrangement, number) if isinstance(self.arrangement, Arrangement) else None
        return replace(self, arrangement=unknown if first is None else first)

    @property
    def first_stride(self) -> int | None:
        """The stride along the first axis, `None` where it has several or none that is known."""
        if not isinstance(self.arrangement, Arrangement) or not self.arrangement.axes:
            return None
        first = self.arrangement.axes[0]
        return None if len(first) > 1 else sum(stride for _, stride in first)

    def stacked(self, count: int, stride: int, offset: int, unknown: int) -> Entries:
        """Return as many of it along a new first axis.

        Args:
            count: how many.
            stride: from each to the next.
            offset: what is added to the place of the first entry.
            unknown: a number that stands for the arrangement where that of the entries is not known.
        """
        if not isinstance(self.arrangement, Arrangement):
            return replace(self, arrangement=unknown)
        axes = (_merged([(count, stride)]), *self.arrangement.axes)
        return replace(self, arrangement=Arrangement(self.arrangement.offset + offset, axes))

    def over(self, shape: Sequence[int]) -> Entries:
        """Return it repeated along axes of one entry, and a scalar along all, so that it has a shape."""
        if not isinstance(self.arrangement, Arrangement):
            return self
        axes = self.arrangement.axes or ((),) * len(shape)
        repeated = tuple(axis or _merged([(size, 0)]) for axis, size in zip(axes, shape, strict=True))
        return replace(self, arrangement=replace(self.arrangement, axes=repeated))

    def in_common(self, other: Entries) -> float | None:
        """Return the share of the positions at which both hold the same entry, `None` where that is not known."""
        if self.array != other.array:
            return 0.0
        one, two = self.arrangement, other.arrangement
        if isinstance(one, Arrangement) and isinstance(two, Arrangement):
            return _in_common(one, two)
        return 1.0 if one == two else None


def whole(array: int, shape: Sequence[int]) -> Entries:
    """Return all entries of an array in their order."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    axes = tuple(_merged([digit]) for digit in zip(shape, strides, strict=True))
    return Entries(array, math.prod(shape), Arrangement(0, axes))


def _length(axis: Iterable[tuple[int, int]]) -> int:
    return math.prod(size for size, _ in axis)


def _merged(digits: Iterable[tuple[int, int]]) -> Axis:
    """Return the fewest digits that stand for the same entries."""
    merged: list[tuple[int, int]] = []
    for size, stride in digits:
        if merged and merged[-1][1] == stride * size:
            merged[-1] = (merged[-1][0] * size, stride)
        elif size != 1:
            merged.append((size, stride))
    return tuple(merged)


def _cut(axis: Axis, start: int, step: int, count: int) -> tuple[int, Axis] | None:
    """Return by how much the first entry moves if some entries of an axis are taken, and their digits."""
    if not axis:
        return 0, ()
    *outer, (size, stride) = axis
    if not outer:
        return start * stride, _merged([(count, step * stride)])
    rest, place = divmod(start, size)
    if count == 1 or (start + (count - 1) * step) // size == rest:  # all in one entry of the outer digits
        found, inner = _cut(tuple(outer), rest, 1, 1), [(count, step * stride)]
    elif step % size == 0:
        found, inner = _cut(tuple(outer), rest, step // size, count), []
    elif size % step == 0 and place < step and count % (size // step) == 0:
        found, inner = _cut(tuple(outer), rest, 1, count // (size // step)), [(size // step, step * stride)]
    else:
        return None
    return None if found is None else (found[0] + place * stride, _merged([*found[1], *inner]))


def _cut_all(arrangement: Arrangement, cuts: Iterable[tuple[int, int, int]]) -> Arrangement | None:
    """Return what is left of an array if of each axis some entries are taken: the first, the step and how many."""
    offset, axes = arrangement.offset, []
    for axis, (start, step, count) in zip(arrangement.axes, cuts, strict=True):
        cut = _cut(axis, start, step, count) if count > 0 else None
        if cut is None:
            return None
        offset += cut[0]
        axes.append(cut[1])
    return Arrangement(offset, tuple(axes))


def _cut_along(arrangement: Arrangement, along: int, start: int, count: int) -> Arrangement | None:
    """Return entries that follow each other along one axis."""
    cuts = [(0, 1, size) for size in arrangement.shape]
    cuts[along] = (start, 1, count)
    return _cut_all(arrangement, cuts)


def _without(arrangement: Arrangement | None, dropped: Iterable[int]) -> Arrangement | None:
    """Return an array without some axes of one entry."""
    if arrangement is None:
        return None
    gone = {axis % len(arrangement.axes) for axis in dropped}
    return replace(arrangement, axes=tuple(axis for at, axis in enumerate(arrangement.axes) if at not in gone))


def _cut_first(arrangement: Arrangement, number: int) -> Arrangement | None:
    return _without(_cut_along(arrangement, 0, number, 1), [0]) if arrangement.axes else None


def _reshaped(arrangement: Arrangement, shape: Sequence[int]) -> Arrangement | None:
    digits = list(_merged(digit for axis in arrangement.axes for digit in axis))
    axes: list[Axis] = []
    for size in reversed(shape):
        left, axis = size, list[tuple[int, int]]()
        while left > 1:
            inner, stride = digits.pop()
            part = min(inner, left)
            if left % part or inner % part:
                return None
            axis.insert(0, (part, stride))
            left //= part
            if inner > part:
                digits.append((inner // part, stride * part))
        axes.insert(0, _merged(axis))
    return replace(arrangement, axes=tuple(axes))


def _in_common(one: Arrangement, two: Arrangement) -> float | None:
    """Return the share of the positions at which two arrangements of one array have the same entry."""
    if one.shape != two.shape:
        return None
    places = np.array([one.offset - two.offset])
    for first, second in zip(one.axes, two.axes, strict=True):
        changes = _changes(first, second)
        if changes is None:
            return None
        for size, change in changes:
            if change:
                # For given other digits at most one entry of a digit is the same in both.
                if places.size * size > MANY:
                    return 0.0
                places = np.add.outer(places, change * np.arange(size)).ravel()
    return float(np.mean(places == 0))


def _changes(one: Axis, two: Axis) -> list[tuple[int, int]] | None:
    """Return sizes of digits that two axes have in common and the differences of their strides; `None` for no such."""
    first, second, changes = list(one), list(two), []
    while first and second:
        (size, stride), (other, other_stride) = first.pop(), second.pop()
        part = min(size, other)
        if size % part or other % part:
            return None
        changes.append((part, stride - other_stride))
        if size > part:
            first.append((size // part, stride * part))
        if other > part:
            second.append((other // part, other_stride * part))
    return changes


Moved = list[Arrangement | None]


def _same(arrangement: Arrangement, eqn: Any, indices: Indices) -> Moved:
    return [arrangement]


def _reshape(arrangement: Arrangement, eqn: Any, indices: Indices) -> Moved:
    is_permuted = eqn.params["dimensions"] is not None
    return [None if is_permuted else _reshaped(arrangement, eqn.params["new_sizes"])]


def _squeeze(arrangement: Arrangement, eqn: Any, indices: Indices) -> Moved:
    return [_without(arrangement, eqn.params["dimensions"])]


def _transpose(arrangement: Arrangement, eqn: Any, indices: Indices) -> Moved:
    return [replace(arrangement, axes=tuple(arrangement.axes[axis] for axis in eqn.params["permutation"]))]


def _broadcast(arrangement: Arrangement, eqn: Any, indices: Indices) -> Moved:
    axes = [_merged([(size, 0)]) for size in eqn.params["shape"]]
    for axis, place in zip(arrangement.axes, eqn.params["broadcast_dimensions"], strict=True):
        axes[place] = axis or axes[place]
    return [replace(arrangement, axes=tuple(axes))]


def _slice(arrangement: Arrangement, eqn: Any, indices: Indices) -> Moved:
    first, steps = eqn.params["start_indices"], eqn.params["strides"] or (1,) * len(arrangement.axes)
    return [_cut_all(arrangement, zip(first, steps, eqn.outvars[0].aval.shape, strict=True))]


def _dynamic_slice(arrangement: Arrangement, eqn: Any, indices: Indices) -> Moved:
    cuts = []
    for index, total, size in zip(indices, arrangement.shape, eqn.params["slice_sizes"], strict=True):
        start = index.number if index is not None and total > size else None
        if start is None and total > size:
            return [None]
        cuts.append((0 if start is None else min(max(int(start), 0), total - size), 1, size))
    return [_cut_all(arrangement, cuts)]


def _gather(arrangement: Arrangement, eqn: Any, indices: Indices) -> Moved:
    """One slice, or entries along one axis with a constant step from each to the next."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    index = indices[0].number if indices[0] is not None else None
    if index is None or index.size == 0 or numbers.operand_batching_dims:
        return [None]
    starts, picked = index.reshape(-1, index.shape[-1]), numbers.start_index_map
    if len(starts) > 1 and (index.ndim > 2 or len(picked) > 1 or picked != numbers.collapsed_slice_dims):
        return [None]
    cuts = [(0, 1, size) for size in sizes]
    for axis, places in zip(picked, starts.T.astype(int), strict=True):
        steps = set(np.diff(places).tolist()) or {1}
        is_within = places.min() >= 0 and places.max() <= arrangement.shape[axis] - sizes[axis]
        if not is_within or len(steps) > 1 or 0 in steps:
            return [None]
        cuts[axis] = (int(places[0]), *steps, len(places) * sizes[axis])
    cut = _cut_all(arrangement, cuts)
    if cut is None:
        return [None]
    kept = iter(axis for at, axis in enumerate(cut.axes) if at not in numbers.collapsed_slice_dims)
    new = cut.axes[picked[0]] if len(starts) > 1 else ()
    rank = len(eqn.outvars[0].aval.shape)
    return [replace(cut, axes=tuple(next(kept) if at in numbers.offset_dims else new for at in range(rank)))]


def _split(arrangement: Arrangement, eqn: Any, indices: Indices) -> Moved:
    sizes, axis = [int(size) for size in eqn.params["sizes"]], eqn.params["axis"]
    return [_cut_along(arrangement, axis, sum(sizes[:at]), size) for at, size in enumerate(sizes)]


def _unstack(arrangement: Arrangement, eqn: Any, indices: Indices) -> Moved:
    axis = eqn.params["axis"]
    return [_without(_cut_along(arrangement, axis, at, 1), [axis]) for at in range(len(eqn.outvars))]


RULES: Mapping[str, Callable[[Arrangement, Any, Indices], Moved]] = {
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "split": _split,
    "unstack": _unstack,
    "reduce_precision": _same,
}
"""Primitive → which entries its results hold; behind any other that moves entries that is not known."""
