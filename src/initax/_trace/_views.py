"""What a value of the forward pass holds of a parameter: which axis of the value is which part of which stored axis.

Nothing here knows an equation; the arithmetic of axes is that of `_factors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from initax._model._reason import Why
from initax._trace._factors import (
    FOREIGN,
    Axis,
    Factor,
    Fixed,
    Index,
    Slot,
    blocks,
    digits,
    divided,
    equal_part,
    flat,
    foreign,
    is_foreign,
    joined,
    length,
    normal,
    regroup,
)
from initax._trace._indices import Series


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a parameter could not be followed further.

    Attributes:
        reason: what happened to it, in words.
        line: the line of the forward pass, where it is known.
        why: the kind of reason.
    """

    reason: str
    line: str = ""
    why: Why = Why.UNREADABLE

    @property
    def hides(self) -> bool:
        """Whether the entries of the parameter are hidden; behind `stop_gradient` they are what they were."""
        return self.why is not Why.NOT_TRAINABLE

    def __str__(self) -> str:
        """Return the reason with its place."""
        return f"{self.reason} ({self.line})" if self.line else self.reason


def first_stop(line: str, *reasons: tuple[object, str]) -> Stop | None:
    """Return the first reason that holds, of pairs of whether it does and the words; `None` where none does."""
    return next((Stop(reason, line) for holds, reason in reasons if holds), None)


CHANGED = "a loop changes it from step to step"
"""Why a parameter can't be followed that is in the state of a loop in which there is no signal."""


@dataclass(frozen=True, slots=True)
class Link:
    """Factors of a parameter that were contracted with something that is not the signal.

    Attributes:
        number: which contraction; both sides share it. Constants are the other side of negative ones.
        factors: the factors that are gone.
        plain: the entries along them were added up, with no factor of their own.
    """

    number: int
    factors: Axis
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """An axis of which each step of a loop takes one entry.

    Attributes:
        axis: the factors of the axis, outermost first.
        number: which entry it is, where that depends on nothing but the step.
        column: which entry of that number it is.
        at: the place of the equation, or of the loop where it runs over the axis.
        operand: which operand of the equation holds the number, clamped to what there is; -1 for a scan, for many
            numbers, and for an axis that is not of the parameter alone.
    """

    axis: Axis
    number: Series | None = field(compare=False)
    column: int
    at: tuple[int, ...]
    operand: int = -1

    @property
    def loop(self) -> tuple[int, ...] | None:
        """The place of the loop, `None` where it is not known."""
        return None if self.number is None else self.number.loop

    @property
    def factors(self) -> Axis:
        """The factors of the parameter."""
        return flat(self.axis)[0]

    def entries(self) -> Index | None:
        """Return which entry of the product of the factors each step takes, `None` where that is not known."""
        taken = self.number.indices(self.column, length(self.axis)) if self.number is not None else None
        return None if taken is None else flat(self.axis)[1][taken]


def entries_at(number: Series, step: Step, size: int) -> Axis | None:
    """Return an axis into which each step of a loop puts what it made of an entry; `None` where it is not known.

    Args:
        number: the place along the axis at each step.
        step: which entry each step takes.
        size: the size of the axis.
    """
    places, entries = number.indices(0, size), step.entries()
    if places is None or entries is None or len(places) != len(entries) or len(np.unique(places)) < len(places):
        return None
    index: Index = np.full(size, -1, np.intp)
    index[places] = entries
    found = normal(step.factors, index)
    return found[0] if found is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A parameter inside a value, or behind one as the weight whose outputs it holds.

    Attributes:
        param: which parameter.
        axes: the factors of each axis of the value, outermost first.
        batch: factors taken one entry at a time by constants, loop counters or a scan.
        looked: factors taken by indices that come with the data.
        tables: factors along which each look-up was in a table of its own.
        before: how many of `fixed` were taken before the look-up.
        by: the indices that come with the data, see `Uses.whole`.
        picked: the look-up was by many constant indices, which are no data but no single entry either.
        fixed: factors of which one entry was taken, and which.
        steps: the axes that loops go through entry by entry; their factors are in `batch`.
        links: contractions with other parameters or constants.
        scaled: it was multiplied with a constant; of outputs, with a signal or a norm's scale.
        summed: of outputs, they were added up along axes of the signal, weighed by another one.
        bent: of outputs, they went through a function entry by entry.
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
    axes: tuple[Axis, ...]
    batch: Axis = ()
    looked: Axis = ()
    tables: Axis = ()
    before: int = 0
    by: int = 0
    picked: bool = False
    fixed: Fixed = ()
    steps: tuple[Step, ...] = ()
    links: tuple[Link, ...] = ()
    scaled: bool = False
    summed: bool = False
    bent: bool = False
    times: frozenset[int] = frozenset()
    normalized: bool = False
    shifted: bool = False
    imaginary: bool = False
    paired: bool = False
    quantized: bool = False
    frozen: bool = False
    stop: Stop | None = None
    running: Axis = ()
    share: float = 1.0
    use: int = -1

    @property
    def own(self) -> Axis:
        """The factors of the parameter that are still axes of the value."""
        return tuple(factor for axis in self.axes for factor in opened(axis) if factor.axis != FOREIGN)

    def along(self, axis: int) -> Axis:
        """Return the factors of the parameter along an axis of the value."""
        return tuple(factor for factor in opened(self.axes[axis]) if factor.axis != FOREIGN)

    @property
    def marked(self) -> tuple[int, ...]:
        """The axes of the value along which it holds different entries of the parameter, or something beside them."""
        return tuple(
            index
            for index, axis in enumerate(self.axes)
            if any(factor.axis != FOREIGN and factor.size > 1 for factor in axis)
        )

    @property
    def picks(self) -> tuple[Step, ...]:
        """The steps that go by a number which an equation takes in, and which is an index along stored axes."""
        steps = (step for step in self.steps if step.operand >= 0)
        return tuple(step for step in steps if all(factor.axis >= 0 for factor in step.axis))

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots among its axes, among what is looked up, and among what a loop goes through."""
        axes = (*(step.axis for step in self.steps), *self.axes, self.looked)
        return tuple(factor for axis in axes for factor in axis if isinstance(factor, Slot))

    @property
    def fed_by_constant(self) -> bool:
        """Whether an axis was contracted with a constant."""
        return any(link.number < 0 and not link.plain for link in self.links)

    @property
    def is_linked(self) -> bool:
        """Whether it was contracted with another parameter."""
        return any(link.number > 0 for link in self.links)

    @property
    def is_signal(self) -> bool:
        """Whether it is a signal already: looked up in a parameter, or what comes out of a weight with a constant."""
        return bool(self.looked or self.picked or self.fed_by_constant)

    @property
    def added_up(self) -> Axis:
        """The factors along which its own entries were added up."""
        return tuple(factor for link in self.links if link.plain for factor in link.factors)

    def with_axis(self, axis: int, factors: Axis) -> View:
        """Return the view with other factors along an axis of the value."""
        return replace(self, axes=(*self.axes[:axis], factors, *self.axes[axis + 1 :]))

    def one_by_one(self, step: Step, axes: tuple[Axis, ...]) -> View:
        """Return the view of one entry along an axis at a time, by a loop.

        Args:
            step: the axis, and which entry it is.
            axes: the axes of the entry.
        """
        gone = tuple(factor for factor in opened(step.axis) if factor.axis != FOREIGN)
        return replace(self, axes=axes, batch=self.batch + gone, steps=(*self.steps, step) if gone else self.steps)

    @property
    def is_changed(self) -> bool:
        """Whether it is what a loop made of a parameter from step to step."""
        return self.stop is not None and self.stop.reason == CHANGED

    def halted(self, stop: Stop) -> View:
        """Return the view with a reason why it can't be read; the first reason stays."""
        return replace(self, running=(), stop=self.stop or stop)

    def lost(self, shape: Sequence[int], stop: Stop) -> View:
        """Return a view with a reason why it can't be read, in a value in which its axes are not known."""
        return replace(self.halted(stop), axes=tuple(map(foreign, shape)))


def opened(axis: Axis) -> Axis:
    """Return the factors of an axis, with what stands in a slot in the place of the slot."""
    return tuple(part for factor in axis for part in (factor.factors if isinstance(factor, Slot) else (factor,)))


def whole(param: int, shape: Sequence[int]) -> View:
    """Return the view of a parameter as it is stored."""
    return View(param=param, axes=tuple((Factor(axis, 1, size),) for axis, size in enumerate(shape)))


def reshaped(view: View, shape: Sequence[int]) -> View | None:
    """Return the view of the value reshaped, or `None` where an axis is cut in a way that can't be told."""
    if 0 in shape:
        return None
    axes: list[Axis] = []
    fixed: Fixed = ()
    for old, new in blocks([length(axis) for axis in view.axes], shape):
        factors = [factor for index in old for factor in view.axes[index]]
        sizes = [shape[index] for index in new]
        found = regroup(factors, sizes)
        if found is None:
            split = divided(factors, sizes)
            if split is None:
                return None
            found, more = split
            fixed += more
        axes += (axis or foreign(size) for axis, size in zip(found, sizes, strict=True))
    return _with_fixed(replace(view, axes=tuple(axes)), fixed)


def _with_fixed(view: View, fixed: Fixed) -> View:
    """Return the view with one entry of some more factors taken."""
    gone = tuple(factor for factor, _ in fixed)
    return replace(view, fixed=view.fixed + fixed, batch=view.batch + gone) if fixed else view


def _with_entries(view: View, axis: int, entries: tuple[Axis, Fixed] | None) -> View | None:
    """Return the view with some entries along an axis, and of other factors one."""
    return None if entries is None else _with_fixed(view.with_axis(axis, entries[0]), entries[1])


def placed(view: View, axes: Sequence[int | None], shape: Sequence[int]) -> View:
    """Return the view with its axes rearranged: for each new axis the old one it was, `None` where it is new."""
    return replace(
        view,
        axes=tuple(foreign(size) if old is None else view.axes[old] for old, size in zip(axes, shape, strict=True)),
    )


def in_place(views: Sequence[View], places: Sequence[int | None], shape: Sequence[int]) -> tuple[View, ...]:
    """Return the views that an equation leaves as they are along the axes that it keeps.

    Args:
        views: the views of its operand; those with entries of the parameter along an axis that goes are left out.
        places: for each axis of its result the axis that it was, `None` where it is new.
        shape: the shape of its result.
    """
    return tuple(placed(view, places, shape) for view in views if set(view.marked) <= set(places))


def scaled(views: Iterable[View]) -> tuple[View, ...]:
    """Return views marked as scaled: a bias that is added to outputs now does not belong to their weight."""
    return tuple(replace(view, scaled=True) for view in views)


def picked(view: View, axis: int, index: Index) -> View | None:
    """Return the view of the value with other entries along an axis; `None` where none of the parameter is left.

    Args:
        view: the view.
        axis: the axis.
        index: for each new entry which entry of the axis stands there, -1 for something else.
    """
    factors, before = flat(view.axes[axis])
    if not len(before):
        return None
    if is_foreign(view.axes[axis]) and (index >= 0).all():
        return view.with_axis(axis, foreign(len(index)))
    return _with_entries(view, axis, normal(factors, np.where(index < 0, -1, before[index])))


def in_slot(view: View, axis: int, offset: int, total: int) -> View:
    """Return the view of a value joined with others along an axis, in which it begins at an offset."""
    size = length(view.axes[axis])
    index: Index = np.full(total, -1, np.intp)
    index[offset : offset + size] = np.arange(size)
    found = picked(view, axis, index)
    assert found is not None
    return found


def part(view: View, axis: int, start: int, size: int, stride: int) -> View | None:
    """Return the view of a slice of the value, or `None` where the slice is not one of equal parts of the axis."""
    if any(isinstance(factor, Slot) for factor in view.axes[axis]):
        return None
    return _with_entries(view, axis, equal_part(view.axes[axis], start, size, stride, length(view.axes[axis])))


def merged(one: View, other: View, axis: int) -> View | None:
    """Return two views of one parameter as one, where they differ only in which entries stand along one axis."""
    alone = [replace(view.with_axis(axis, ()), fixed=(), batch=()) for view in (one, other)]
    if alone[0] != alone[1]:
        return None
    common = [each for each in one.fixed if each in other.fixed]
    left, right = (_framed(each, axis, common) for each in (one, other))
    if left is None or right is None or left[0] != right[0]:
        return None
    if ((left[1] >= 0) & (right[1] >= 0)).any() or left[2] != right[2]:
        return None
    entries = normal(left[0], np.where(left[1] < 0, right[1], left[1]))
    return _with_entries(replace(one, fixed=tuple(common), batch=left[2]), axis, entries)


def _framed(view: View, axis: int, common: Sequence[tuple[Factor, int]]) -> tuple[Axis, Index, Axis] | None:
    """Return an axis with factors of which one entry was taken, the index along all, and the other batch factors."""
    own, index = flat(view.axes[axis])
    taken = [each for each in view.fixed if each not in common]
    pieces = [*own, *(factor for factor, _ in taken)]
    frame = joined(sorted(pieces, key=lambda factor: (factor.axis, -factor.inner)))
    if len({each.axis for each in frame}) < len(frame):
        return None
    digit = dict(zip(own, digits(index, own), strict=True))
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
