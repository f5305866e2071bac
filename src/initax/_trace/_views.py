"""What a value of the forward pass holds of a parameter: which axis of the value is which part of which stored axis.

No primitive is named here; the arithmetic of axes is in `_factors`.
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
from initax._trace._jaxpr import Place


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
        """Whether the stored entries can't be seen; behind `stop_gradient` they can."""
        return self.why is not Why.NOT_TRAINABLE

    def __str__(self) -> str:
        """Return the reason with its line."""
        return f"{self.reason} ({self.line})" if self.line else self.reason


def first_stop(line: str, *reasons: tuple[object, str]) -> Stop | None:
    """Return the first of some reasons whose condition holds, `None` where none does.

    Args:
        line: the line of the forward pass.
        reasons: pairs of a condition and a reason.
    """
    return next((Stop(reason, line) for holds, reason in reasons if holds), None)


CHANGED = "a loop changes it from step to step"
"""Why a parameter can't be followed that is part of a loop's state, where the state is not a signal."""


@dataclass(frozen=True, slots=True)
class Link:
    """Factors of a parameter that were contracted with another parameter or a constant.

    Attributes:
        number: the number of the contraction, which both parameters share; a constant's is negative.
        factors: the factors that were summed over.
        plain: the entries along them were just added up.
    """

    number: int
    factors: Axis
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """An axis of which each step of a loop takes one entry.

    Attributes:
        axis: the factors of the axis, outermost first.
        number: the index of the entry at each step, where that depends on nothing but the step.
        column: which entry of that number is the index.
        place: the equation that takes the entry; for a scan over the axis, the loop.
        operand: which operand of the equation holds the index, which is clamped to the axis; -1 for a scan, for several
            indices, and for an axis that is not of the parameter alone.
    """

    axis: Axis
    number: Series | None = field(compare=False)
    column: int
    place: Place
    operand: int = -1

    @property
    def loop(self) -> Place | None:
        """The loop, `None` where it is not known."""
        return None if self.number is None else self.number.loop

    @property
    def factors(self) -> Axis:
        """The factors of the parameter."""
        return flat(self.axis)[0]

    def is_in(self, loop: Place) -> bool:
        """Return whether the equation is a loop, or in it."""
        return self.place[: len(loop)] == loop

    def entries(self) -> Index | None:
        """Return which entry of the product of the factors each step takes, `None` where that is not known."""
        indices = self.number.indices(self.column, length(self.axis)) if self.number is not None else None
        return None if indices is None else flat(self.axis)[1][indices]


def written_axis(number: Series, step: Step, size: int) -> Axis | None:
    """Return an axis into which each step of a loop writes what it made of one entry; `None` where it is not known.

    Args:
        number: the index along the axis at each step.
        step: which entry each step takes.
        size: the size of the axis.
    """
    positions, entries = number.indices(0, size), step.entries()
    if positions is None or entries is None or not len(positions) == len(entries) == len(np.unique(positions)):
        return None
    index: Index = np.full(size, -1, np.intp)
    index[positions] = entries
    written = normal(step.factors, index)
    return written[0] if written is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A parameter inside a value; or the outputs of a use of a parameter, which lie along some of its factors.

    Of the attributes the first group is of both, the second of outputs alone, the third of parameters alone.

    Attributes:
        param: the number of the parameter.
        axes: the factors of each axis of the value, outermost first.
        batch: factors of which constants, loop counters or a scan take one entry at a time.
        fixed: factors of which one entry was taken, and which.
        steps: the axes that loops go through entry by entry; their factors are in `batch`.
        looked: factors along which the data look up entries.
        scaled: a parameter was multiplied with a constant, outputs with a signal or a norm's scale.

        use: for outputs, the number of the use that made them.
        summed: for outputs, they were contracted with another signal.
        bent: for outputs, they went through a function entry by entry.

        tables: factors along which each look-up was in a table of its own.
        before: how many of `fixed` were taken before the look-up.
        by: the variable of the indices of the look-up, see `Uses.whole`.
        picked: several entries were looked up by constant indices.
        links: contractions with other parameters or constants.
        times: other parameters it was multiplied with, entry by entry.
        normalized: it was divided by, or shifted by, a statistic of itself.
        shifted: a constant was added to it.
        offset: constants other than zero were added to it, or stand among its entries.
        factor: the number that all of its entries were multiplied with, `None` where that is not known.
        imaginary: it was multiplied with the imaginary unit.
        paired: it is one of two real arrays that are a complex weight together.
        quantized: it was rounded in a function whose gradient skips the rounding.
        frozen: it is behind `stop_gradient`.
        stop: why its stored entries can't be read as weights any more.
        running: factors along which running sums were taken, which is a `stop` unless the sums are summed over, too.
        share: the share of its entries that constant masks keep.
    """

    param: int
    axes: tuple[Axis, ...]
    batch: Axis = ()
    fixed: Fixed = ()
    steps: tuple[Step, ...] = ()
    looked: Axis = ()
    scaled: bool = False
    use: int = -1
    summed: bool = False
    bent: bool = False
    tables: Axis = ()
    before: int = 0
    by: int = 0
    picked: bool = False
    links: tuple[Link, ...] = ()
    times: frozenset[int] = frozenset()
    normalized: bool = False
    shifted: bool = False
    offset: bool = False
    factor: float | None = field(default=1.0, compare=False)
    imaginary: bool = False
    paired: bool = False
    quantized: bool = False
    frozen: bool = False
    stop: Stop | None = None
    running: Axis = ()
    share: float = 1.0

    @property
    def factors(self) -> Axis:
        """The factors of the parameter along all axes of the value."""
        return tuple(factor for axis in self.axes for factor in opened(axis) if factor.axis != FOREIGN)

    def along(self, *axes: int) -> Axis:
        """Return the factors of the parameter along some axes of the value."""
        return tuple(factor for axis in axes for factor in opened(self.axes[axis]) if factor.axis != FOREIGN)

    @property
    def marked(self) -> tuple[int, ...]:
        """The axes of the value along which there are different entries of the parameter, or other things beside it."""
        return tuple(
            index
            for index, axis in enumerate(self.axes)
            if any(factor.axis != FOREIGN and factor.size > 1 for factor in axis)
        )

    @property
    def picks(self) -> tuple[Step, ...]:
        """The steps whose index is an operand of an equation, and counts along stored axes."""
        steps = (step for step in self.steps if step.operand >= 0)
        return tuple(step for step in steps if all(factor.axis >= 0 for factor in step.axis))

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots among its axes, the factors that are looked up, and the axes that loops go through."""
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
        """Whether it is a signal already: rows of an embedding, or the outputs of a weight for a constant."""
        return bool(self.looked or self.picked or self.fed_by_constant)

    @property
    def added_up(self) -> Axis:
        """The factors along which its own entries were added up."""
        return tuple(factor for link in self.links if link.plain for factor in link.factors)

    def with_axis(self, axis: int, factors: Axis) -> View:
        """Return the view with other factors along an axis of the value."""
        return replace(self, axes=(*self.axes[:axis], factors, *self.axes[axis + 1 :]))

    def one_by_one(self, step: Step, axes: tuple[Axis, ...]) -> View:
        """Return the view of one entry along an axis, which each step of a loop takes.

        Args:
            step: the axis, and which entry it is.
            axes: the axes of the entry.
        """
        factors = tuple(factor for factor in opened(step.axis) if factor.axis != FOREIGN)
        steps = (*self.steps, step) if factors else self.steps
        return replace(self, axes=axes, batch=self.batch + factors, steps=steps)

    @property
    def is_changed(self) -> bool:
        """Whether a loop changed the parameter from step to step."""
        return self.stop is not None and self.stop.reason == CHANGED

    def halted(self, stop: Stop) -> View:
        """Return the view with a reason why it can't be read; the first reason stays."""
        return replace(self, running=(), stop=self.stop or stop)

    def lost(self, shape: Sequence[int], stop: Stop) -> View:
        """Return the view with a reason why it can't be read, in a value in which its axes are not known."""
        return replace(self.halted(stop), axes=tuple(map(foreign, shape)))


def opened(axis: Axis) -> Axis:
    """Return the factors of an axis, with each slot replaced by its factors."""
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
        groups = regroup(factors, sizes)
        if groups is None:
            split = divided(factors, sizes)
            if split is None:
                return None
            groups, taken = split
            fixed += taken
        axes += (axis or foreign(size) for axis, size in zip(groups, sizes, strict=True))
    return _with_fixed(replace(view, axes=tuple(axes)), fixed)


def _with_fixed(view: View, fixed: Fixed) -> View:
    """Return the view with one entry of some more factors taken."""
    factors = tuple(factor for factor, _ in fixed)
    return replace(view, fixed=view.fixed + fixed, batch=view.batch + factors) if fixed else view


def _with_entries(view: View, axis: int, entries: tuple[Axis, Fixed] | None) -> View | None:
    """Return the view with other entries along an axis, and with one entry of some factors taken."""
    return None if entries is None else _with_fixed(view.with_axis(axis, entries[0]), entries[1])


def rearranged(view: View, old_axes: Sequence[int | None], shape: Sequence[int]) -> View:
    """Return the view with its axes in another order.

    Args:
        view: the view.
        old_axes: for each axis of the new value the axis that it was, `None` where it is new.
        shape: the shape of the new value.
    """
    pairs = zip(old_axes, shape, strict=True)
    return replace(view, axes=tuple(foreign(size) if old is None else view.axes[old] for old, size in pairs))


def kept_whole(views: Sequence[View], old_axes: Sequence[int | None], shape: Sequence[int]) -> tuple[View, ...]:
    """Return the views in the result of an equation that keeps some axes, of those that lie along these axes alone.

    Args:
        views: the views of its operand.
        old_axes: for each axis of its result the axis that it was, `None` where it is new.
        shape: the shape of its result.
    """
    return tuple(rearranged(view, old_axes, shape) for view in views if set(view.marked) <= set(old_axes))


def scaled(views: Iterable[View]) -> tuple[View, ...]:
    """Return views marked as scaled: a bias that is added to outputs now does not belong to their weight."""
    return tuple(replace(view, scaled=True) for view in views)


def multiplied(views: Iterable[View], factor: float | None) -> tuple[View, ...]:
    """Return views multiplied with a number, `None` for one that is not known."""
    return tuple(
        replace(view, factor=None if factor is None or view.factor is None else view.factor * factor) for view in views
    )


def picked(view: View, axis: int, index: Index) -> View | None:
    """Return the view of the value with other entries along an axis; `None` where none of the parameter is left.

    Args:
        view: the view.
        axis: the axis.
        index: for each new entry its old index along the axis, -1 for an entry of something else.
    """
    factors, old_index = flat(view.axes[axis])
    if not len(old_index):
        return None
    if is_foreign(view.axes[axis]) and (index >= 0).all():
        return view.with_axis(axis, foreign(len(index)))
    return _with_entries(view, axis, normal(factors, np.where(index < 0, -1, old_index[index])))


def in_slot(view: View, axis: int, offset: int, total: int) -> View:
    """Return the view of a value that starts at an offset of a longer axis, beside other values."""
    size = length(view.axes[axis])
    index: Index = np.full(total, -1, np.intp)
    index[offset : offset + size] = np.arange(size)
    result = picked(view, axis, index)
    assert result is not None
    return result


def part(view: View, axis: int, start: int, size: int, stride: int) -> View | None:
    """Return the view of a slice of the value, or `None` where the slice is not one of equal parts of the axis."""
    if any(isinstance(factor, Slot) for factor in view.axes[axis]):
        return None
    return _with_entries(view, axis, equal_part(view.axes[axis], start, size, stride, length(view.axes[axis])))


def merged(left: View, right: View, axis: int) -> View | None:
    """Return two views of one parameter as one, `None` unless they differ only in their entries along one axis."""
    without_axis = [replace(view.with_axis(axis, ()), fixed=(), batch=(), offset=False) for view in (left, right)]
    if without_axis[0] != without_axis[1]:
        return None
    common = [entry for entry in left.fixed if entry in right.fixed]
    left_axis, right_axis = (_along_whole_factors(view, axis, common) for view in (left, right))
    if left_axis is None or right_axis is None:
        return None
    (factors, index, batch), (right_factors, right_index, right_batch) = left_axis, right_axis
    if factors != right_factors or batch != right_batch or ((index >= 0) & (right_index >= 0)).any():
        return None
    entries = normal(factors, np.where(index < 0, right_index, index))
    offset, factor = left.offset or right.offset, left.factor if left.factor == right.factor else None
    whole = replace(left, fixed=tuple(common), batch=batch, offset=offset, factor=factor)
    return _with_entries(whole, axis, entries)


def _along_whole_factors(
    view: View, axis: int, common: Sequence[tuple[Factor, int]]
) -> tuple[Axis, Index, Axis] | None:
    """Return an axis of a view as an axis of larger factors, of parts of which the view took one entry before.

    Args:
        view: the view.
        axis: the axis of the value.
        common: entries that the view took of factors that stay as they are.

    Returns:
        The factors, the index of each entry of the axis along their product, and the other batch factors; `None` where
        the factors of a stored axis don't fit together.
    """
    factors, index = flat(view.axes[axis])
    taken = [entry for entry in view.fixed if entry not in common]
    pieces = [*factors, *(factor for factor, _ in taken)]
    wholes = joined(sorted(pieces, key=lambda factor: (factor.axis, -factor.inner)))
    if len({whole.axis for whole in wholes}) < len(wholes):
        return None
    digit = dict(zip(factors, digits(index, factors), strict=True))
    digit |= {factor: np.full(len(index), entry, np.intp) for factor, entry in taken}
    result: Index = np.zeros(len(index), np.intp)
    for whole in wholes:
        result = result * whole.size
        for factor, along in digit.items():
            if factor.axis == whole.axis:
                result = result + along * (factor.inner // whole.inner)
    batch = list(view.batch)
    for factor, _ in taken:
        batch.remove(factor)
    return wholes, np.where(index < 0, -1, result), tuple(batch)
