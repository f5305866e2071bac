"""What a value of the forward pass holds of a parameter: which axis of the value is which part of which stored axis.

A stored axis is read as a product of factors. A reshape splits and merges factors, a slice of equal parts fixes one, a
transpose moves them; so a merged axis `(gate o)` taken apart ten equations later is still known for what it was. Where
entries are moved, left out or joined in any other way, an axis is a slot: a list that says of each of its entries which
entry of a product of factors stands there, if any does. Nothing here knows an equation; this is arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from initax._model._reason import Why

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


def foreign(size: int) -> tuple[Factor, ...]:
    """Return an axis that belongs to no parameter."""
    return (Factor(FOREIGN, 1, size),)


@dataclass(frozen=True, slots=True)
class Slot(Factor):
    """An axis, or a part of one, whose entries are entries of a product of factors in any order, with gaps or repeats.

    Attributes:
        factors: the factors, outermost first; without any, their product has one entry.
        entries: for each entry of the axis the index along the product, -1 where something else stands; as bytes.
    """

    factors: tuple[Factor, ...]
    entries: bytes

    @property
    def index(self) -> Index:
        """The entries as an array."""
        return np.frombuffer(self.entries, np.intp)

    @property
    def known(self) -> Index:
        """The entries that are some, each once, in order."""
        return np.unique(self.index[self.index >= 0])

    @property
    def partial(self) -> bool:
        """Whether some entries of the product stand nowhere."""
        return len(self.known) < math.prod(factor.size for factor in self.factors)

    @property
    def repeats(self) -> bool:
        """Whether some entries stand at several places."""
        return len(self.known) < int(np.count_nonzero(self.index >= 0))


def slot(factors: tuple[Factor, ...], index: Index) -> Slot:
    """Return the slot of some factors along an axis."""
    return Slot(SLOT, 1, len(index), factors, np.ascontiguousarray(index, np.intp).tobytes())


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a parameter could not be followed further.

    Attributes:
        reason: what happened to it, in words.
        where: the line of the forward pass, where it is known.
        why: the kind of reason.
    """

    reason: str
    where: str = ""
    why: Why = Why.UNREADABLE

    @property
    def hides(self) -> bool:
        """Whether it hides what the entries of the parameter are; behind `stop_gradient` they are what they were."""
        return self.why is not Why.NOT_TRAINABLE

    def __str__(self) -> str:
        """Return the reason with its place."""
        return f"{self.reason} ({self.where})" if self.where else self.reason


@dataclass(frozen=True, slots=True)
class Link:
    """Factors of a parameter that were contracted with something that is not the signal.

    Attributes:
        number: which contraction; both sides share it. Constants are the other side of negative ones.
        factors: the factors that are gone.
        plain: the entries along them were added up, with no factor of their own.
    """

    number: int
    factors: tuple[Factor, ...]
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Pick:
    """Factors of which one entry was taken, by a number that is known when the equation runs.

    Attributes:
        factors: the factors, outermost first.
        at: the place of the equation.
        operand: which of its operands holds the number, clamped to what there is.
        entry: which entry of that operand it is.
    """

    factors: tuple[Factor, ...]
    at: tuple[int, ...]
    operand: int
    entry: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A parameter inside a value, or behind one as the weight whose outputs it holds.

    Attributes:
        param: which parameter.
        axes: the factors of each axis of the value, outermost first.
        batch: factors taken one entry at a time by constants, loop counters or a scan.
        looked: factors taken by indices that come with the data.
        tables: factors along which each look-up was in a table of its own.
        picked: the look-up was by many constant indices, which are no data but no single entry either.
        fixed: factors of which one entry was taken, and which.
        picks: those of `batch` that a loop counter picks, and where.
        links: contractions with other parameters or constants.
        scaled: it was multiplied with a constant; of outputs, with a signal or a norm's scale.
        times: other parameters it was multiplied with, entry by entry.
        normalized: it was divided by, or shifted by, a statistic of itself.
        shifted: a constant was added to it.
        imaginary: it was multiplied with the imaginary unit.
        paired: it is one of two real arrays that are a complex weight together.
        quantized: it was rounded past its gradient, which takes it for what it was.
        frozen: it stands behind `stop_gradient`, whatever happened before.
        stop: it went through something after which its stored entries are no weights.
        running: factors along which entries were added up one by one, which is `stop` unless all of them are summed.
        share: the share of its entries that masks of constants leave.
        use: for outputs, which use of the parameter made them.
    """

    param: int
    axes: tuple[tuple[Factor, ...], ...]
    batch: tuple[Factor, ...] = ()
    looked: tuple[Factor, ...] = ()
    tables: tuple[Factor, ...] = ()
    picked: bool = False
    fixed: tuple[tuple[Factor, int], ...] = ()
    picks: tuple[Pick, ...] = ()
    links: tuple[Link, ...] = ()
    scaled: bool = False
    times: frozenset[int] = frozenset()
    normalized: bool = False
    shifted: bool = False
    imaginary: bool = False
    paired: bool = False
    quantized: bool = False
    frozen: bool = False
    stop: Stop | None = None
    running: tuple[Factor, ...] = ()
    share: float = 1.0
    use: int = -1

    @property
    def own(self) -> tuple[Factor, ...]:
        """The factors of the parameter that are still axes of the value."""
        return tuple(factor for axis in self.axes for factor in self.opened(axis) if factor.axis != FOREIGN)

    def opened(self, axis: tuple[Factor, ...]) -> tuple[Factor, ...]:
        """Return the factors of an axis, with what stands in a slot in the place of the slot."""
        found: list[Factor] = []
        for factor in axis:
            found += factor.factors if isinstance(factor, Slot) else (factor,)
        return tuple(found)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots among its axes, and among what is looked up."""
        return tuple(factor for axis in (*self.axes, self.looked) for factor in axis if isinstance(factor, Slot))

    @property
    def fed_by_constant(self) -> bool:
        """Whether an axis was contracted with a constant."""
        return any(link.number < 0 and not link.plain for link in self.links)

    @property
    def added_up(self) -> tuple[Factor, ...]:
        """The factors along which its own entries were added up."""
        return tuple(factor for link in self.links if link.plain for factor in link.factors)

    def halted(self, stop: Stop) -> View:
        """Return the view with a reason why it can't be read; the first reason stays."""
        return replace(self, running=(), stop=self.stop or stop)


def whole(param: int, shape: Sequence[int]) -> View:
    """Return the view of a parameter as it is stored."""
    return View(param=param, axes=tuple((Factor(axis, 1, size),) for axis, size in enumerate(shape)))


def regroup(factors: Sequence[Factor], shape: Sequence[int]) -> tuple[tuple[Factor, ...], ...] | None:
    """Return the factors distributed over axes of these sizes, in row-major order, or `None` where they don't divide.

    Axes of size one have no factors to speak of; those there are go to axes of size one while there are such.
    """
    rest = list(factors)
    groups: list[tuple[Factor, ...]] = []
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


def joined(factors: Sequence[Factor]) -> tuple[Factor, ...]:
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


def reshaped(view: View, shape: Sequence[int]) -> View | None:
    """Return the view of the value reshaped, or `None` where an axis is cut in a way that can't be told."""
    if 0 in shape:
        return None
    axes: list[tuple[Factor, ...]] = []
    fixed: tuple[tuple[Factor, int], ...] = ()
    for old, new in _blocks([_length(axis) for axis in view.axes], shape):
        factors = [factor for at in old for factor in view.axes[at]]
        sizes = [shape[at] for at in new]
        found = regroup(factors, sizes)
        if found is None:
            split = _divided(factors, sizes)
            if split is None:
                return None
            found, more = split
            fixed += more
        axes += (axis or foreign(size) for axis, size in zip(found, sizes, strict=True))
    return _with_fixed(replace(view, axes=tuple(axes)), fixed)


def _length(axis: Sequence[Factor]) -> int:
    return math.prod(factor.size for factor in axis)


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The runs of axes, old and new, with equally many entries, as short as they can be."""
    blocks: list[tuple[list[int], list[int]]] = []
    left, right = 0, 0
    while left < len(old) or right < len(new):
        one, other = [left] if left < len(old) else [], [right] if right < len(new) else []
        left, right = left + len(one), right + len(other)
        while (a := math.prod(old[at] for at in one)) != (b := math.prod(new[at] for at in other)):
            if a < b:
                one.append(left)
                left += 1
            else:
                other.append(right)
                right += 1
        blocks.append((one, other))
    return blocks


def _with_fixed(view: View, fixed: tuple[tuple[Factor, int], ...]) -> View:
    """The view with one entry of some more factors taken."""
    gone = tuple(factor for factor, _ in fixed)
    return replace(view, fixed=view.fixed + fixed, batch=view.batch + gone) if fixed else view


def placed(view: View, axes: Sequence[int | None], shape: Sequence[int]) -> View:
    """Return the view with its axes rearranged: for each new axis the old one it was, `None` where it is new."""
    return replace(
        view,
        axes=tuple(foreign(size) if old is None else view.axes[old] for old, size in zip(axes, shape, strict=True)),
    )


def flat(axis: Sequence[Factor]) -> tuple[tuple[Factor, ...], Index]:
    """Return the factors of an axis and, for each of its entries, the index along their product."""
    index: Index = np.zeros(1, np.intp)
    own: list[Factor] = []
    for factor in axis:
        inside: tuple[Factor, ...] = (factor,) if factor.axis >= 0 else ()
        along: Index = np.arange(factor.size, dtype=np.intp) * (factor.axis >= 0)
        if isinstance(factor, Slot):
            inside, along = factor.factors, factor.index
        own += inside
        both = index[:, None] * math.prod(each.size for each in inside) + along
        index = np.where((index[:, None] < 0) | (along < 0), -1, both).ravel()
    return tuple(own), index


def stands(axis: Sequence[Factor]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return at which entries of an axis something of the parameter stands; one truth for all where at every one."""
    if not any(isinstance(factor, Slot) for factor in axis):
        return np.ones(1, bool)
    return flat(axis)[1] >= 0


def beside(one: tuple[Factor, ...], other: tuple[Factor, ...]) -> tuple[tuple[Factor, ...], tuple[Factor, ...]]:
    """Return the factors of two axes that stand beside each other, without the slot that both are in alike."""
    if len(one) != 1 or len(other) != 1 or not (isinstance(one[0], Slot) and isinstance(other[0], Slot)):
        return one, other
    alike = one[0].entries == other[0].entries
    return (one[0].factors, other[0].factors) if alike else (one, other)


def normal(
    factors: tuple[Factor, ...], index: Index
) -> tuple[tuple[Factor, ...], tuple[tuple[Factor, int], ...]] | None:
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
        found = _equal_part(factors, start, len(index), step, math.prod(factor.size for factor in factors))
        if found is not None:
            return found
    return (slot(factors, index),), ()


def _equal_part(
    factors: Sequence[Factor], start: int, size: int, stride: int, total: int
) -> tuple[tuple[Factor, ...], tuple[tuple[Factor, int], ...]] | None:
    """The factors left of an axis of which a slice takes one of equal parts, and those of which it takes one entry."""
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


def _divided(
    factors: Sequence[Factor], sizes: Sequence[int]
) -> tuple[tuple[tuple[Factor, ...], ...], tuple[tuple[Factor, int], ...]] | None:
    """Axes that become axes of other sizes, entry by entry; `None` where an entry is not told by one index for each."""
    if math.prod(sizes) > LARGEST:
        return None
    own, index = flat(factors)
    axes: list[tuple[Factor, ...]] = []
    fixed: tuple[tuple[Factor, int], ...] = ()
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


Listed = tuple[tuple[Factor, ...], Index]


def _pair(factors: tuple[Factor, ...], index: Index) -> tuple[Listed, Listed] | None:
    """Two axes of entries of a product of factors, as one part of the product for each axis."""
    here = index >= 0
    rows, columns = here.any(1), here.any(0)
    if not here.any() or (here != rows[:, None] & columns).any():
        return None
    total = math.prod(factor.size for factor in factors)
    tails = [math.prod(factor.size for factor in factors[at:]) for at in range(len(factors) + 1)]
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


def picked(view: View, axis: int, index: Index) -> View | None:
    """Return the view of the value with other entries along an axis; `None` where none of the parameter is left.

    Args:
        view: the view.
        axis: the axis.
        index: for each new entry which entry of the axis stands there, -1 for something else.
    """
    factors, before = flat(view.axes[axis])
    if all(factor.axis == FOREIGN for factor in view.axes[axis]) and (index >= 0).all():
        found: tuple[tuple[Factor, ...], tuple[tuple[Factor, int], ...]] | None = (foreign(len(index)), ())
    else:
        found = normal(factors, np.where(index < 0, -1, before[index]))
    if found is None:
        return None
    return _with_fixed(replace(view, axes=(*view.axes[:axis], found[0], *view.axes[axis + 1 :])), found[1])


def in_slot(view: View, axis: int, offset: int, total: int) -> View:
    """Return the view of a value joined with others along an axis, in which it begins at an offset."""
    size = _length(view.axes[axis])
    index: Index = np.full(total, -1, np.intp)
    index[offset : offset + size] = np.arange(size)
    found = picked(view, axis, index)
    assert found is not None
    return found


def digits(index: int, factors: Sequence[Factor]) -> list[int]:
    """Return the index along each factor of an index along their product."""
    found: list[int] = []
    for factor in reversed(factors):
        index, digit = divmod(index, factor.size)
        found.append(digit)
    return found[::-1]


def part(view: View, axis: int, start: int, size: int, stride: int) -> View | None:
    """Return the view of a slice of the value, or `None` where the slice is not one of equal parts of the axis."""
    if any(isinstance(factor, Slot) for factor in view.axes[axis]):
        return None
    found = _equal_part(view.axes[axis], start, size, stride, _length(view.axes[axis]))
    if found is None:
        return None
    return _with_fixed(replace(view, axes=(*view.axes[:axis], found[0], *view.axes[axis + 1 :])), found[1])


def merged(one: View, other: View, axis: int) -> View | None:
    """Return two views of one parameter as one, where they differ only in which entries stand along one axis."""
    if replace(one, axes=_without(one.axes, axis), fixed=(), batch=()) != replace(
        other, axes=_without(other.axes, axis), fixed=(), batch=()
    ):
        return None
    common = [each for each in one.fixed if each in other.fixed]
    left, right = (_framed(each, axis, common) for each in (one, other))
    if left is None or right is None or left[0] != right[0]:
        return None
    if ((left[1] >= 0) & (right[1] >= 0)).any() or left[2] != right[2]:
        return None
    found = normal(left[0], np.where(left[1] < 0, right[1], left[1]))
    assert found is not None
    view = replace(one, axes=(*one.axes[:axis], found[0], *one.axes[axis + 1 :]), fixed=tuple(common), batch=left[2])
    return _with_fixed(view, found[1])


def _without(axes: Sequence[tuple[Factor, ...]], axis: int) -> tuple[tuple[Factor, ...], ...]:
    return (*axes[:axis], *axes[axis + 1 :])


def _framed(
    view: View, axis: int, common: Sequence[tuple[Factor, int]]
) -> tuple[tuple[Factor, ...], Index, tuple[Factor, ...]] | None:
    """The factors of an axis and those of which one entry was taken, the index along all, and what else is gone."""
    own, index = flat(view.axes[axis])
    taken = [each for each in view.fixed if each not in common]
    pieces = [*own, *(factor for factor, _ in taken)]
    frame = joined(sorted(pieces, key=lambda factor: (factor.axis, -factor.inner)))
    if len({each.axis for each in frame}) < len(frame):
        return None
    inner = [math.prod(each.size for each in own[at + 1 :]) for at in range(len(own))]
    digit = {factor: index // step % factor.size for factor, step in zip(own, inner, strict=True)}
    digit |= {factor: np.full(len(index), which, np.intp) for factor, which in taken}
    result: Index = np.zeros(len(index), np.intp)
    for each in frame:
        result = result * each.size
        for factor, along in digit.items():
            if factor.axis == each.axis:
                result = result + along * (factor.inner // each.inner)
    batch = list(view.batch)
    for factor, _ in taken:
        batch.remove(factor)
    return frame, np.where(index < 0, -1, result), tuple(batch)
