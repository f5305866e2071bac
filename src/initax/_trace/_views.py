"""What a value of the forward pass holds of a parameter: which axis of the value is which part of which stored axis.

A stored axis is read as a product of factors. A reshape splits and merges factors, a slice fixes one, a transpose moves
them; so a merged axis `(gate o)` that is taken apart ten equations later is still known for what it was. Nothing here
knows an equation; this is arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from initax._model._reason import Why

FOREIGN = -1
"""The stored axis of a factor that belongs to no parameter: an axis of the signal, or one that was broadcast."""

SLOT = -2
"""The stored axis of a factor that is an axis of several things joined, with the parameter in one slot of it; a second
such axis of a view has the next number down."""


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


def foreign(size: int) -> tuple[Factor, ...]:
    """Return an axis that belongs to no parameter."""
    return (Factor(FOREIGN, 1, size),)


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
    """

    number: int
    factors: tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where in a joined axis a parameter stands.

    Attributes:
        offset: its first entry.
        factors: what its part of the axis is.
    """

    offset: int
    factors: tuple[Factor, ...]


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
        picked: the look-up was by many constant indices, which are no data but no single entry either.
        fixed: factors of which one entry was taken, and which.
        picks: those of `batch` that a loop counter picks, and where.
        links: contractions with other parameters or constants.
        slots: where the parameter stands in joined axes, by the number of the axis's factor.
        scaled: it was multiplied with a constant; of outputs, with a signal or a norm's scale.
        times: other parameters it was multiplied with, entry by entry.
        normalized: it was divided by, or shifted by, a statistic of itself.
        shifted: a constant was added to it.
        imaginary: it was multiplied with the imaginary unit.
        paired: it is one of two real arrays that are a complex weight together.
        quantized: it was rounded past its gradient, which takes it for what it was.
        frozen: it stands behind `stop_gradient`, whatever happened before.
        stop: it went through something after which its stored entries are no weights.
        use: for outputs, which use of the parameter made them.
    """

    param: int
    axes: tuple[tuple[Factor, ...], ...]
    batch: tuple[Factor, ...] = ()
    looked: tuple[Factor, ...] = ()
    picked: bool = False
    fixed: tuple[tuple[Factor, int], ...] = ()
    picks: tuple[Pick, ...] = ()
    links: tuple[Link, ...] = ()
    slots: tuple[Slot, ...] = ()
    scaled: bool = False
    times: frozenset[int] = frozenset()
    normalized: bool = False
    shifted: bool = False
    imaginary: bool = False
    paired: bool = False
    quantized: bool = False
    frozen: bool = False
    stop: Stop | None = None
    use: int = -1

    @property
    def own(self) -> tuple[Factor, ...]:
        """The factors of the parameter that are still axes of the value."""
        return tuple(factor for axis in self.axes for factor in self.opened(axis) if factor.axis != FOREIGN)

    def opened(self, axis: tuple[Factor, ...]) -> tuple[Factor, ...]:
        """Return the factors of an axis, with what stands in a slot in the place of the slot."""
        found: list[Factor] = []
        for factor in axis:
            found += self.slots[SLOT - factor.axis].factors if factor.axis <= SLOT else (factor,)
        return tuple(found)

    def slot(self, axis: int) -> Slot | None:
        """Return the slot in which the parameter stands along an axis of the value, if it does."""
        return next((self.slots[SLOT - factor.axis] for factor in self.axes[axis] if factor.axis <= SLOT), None)

    @property
    def fed_by_constant(self) -> bool:
        """Whether an axis was contracted with a constant."""
        return any(link.number < 0 for link in self.links)

    def halted(self, stop: Stop) -> View:
        """Return the view with a reason why it can't be read; the first reason stays."""
        return self if self.stop else replace(self, stop=stop)


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
            if first.size % left:
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
        elif last and last.axis == factor.axis and last.inner == factor.inner * factor.size:
            result[-1] = Factor(factor.axis, factor.inner, last.size * factor.size)
        else:
            result.append(factor)
    return tuple(result)


def reshaped(view: View, shape: Sequence[int]) -> View | None:
    """Return the view of the value reshaped, or `None` where an axis is cut unevenly."""
    if 0 in shape:
        return None
    axes = regroup([factor for axis in view.axes for factor in axis], shape)
    if axes is None:
        return None
    before = {factor for axis in view.axes for factor in axis if factor.axis <= SLOT}
    if before != {factor for axis in axes for factor in axis if factor.axis <= SLOT}:
        return None
    return replace(view, axes=tuple(axis or foreign(size) for axis, size in zip(axes, shape, strict=True)))


def placed(view: View, axes: Sequence[int | None], shape: Sequence[int]) -> View:
    """Return the view with its axes rearranged: for each new axis the old one it was, `None` where it is new."""
    return replace(
        view,
        axes=tuple(foreign(size) if old is None else view.axes[old] for old, size in zip(axes, shape, strict=True)),
    )


def in_slot(view: View, axis: int, offset: int, total: int) -> View:
    """Return the view of a value joined with others along an axis, of which it is one slot."""
    slot = Slot(offset, view.opened(view.axes[axis]))
    factor = Factor(SLOT - len(view.slots), 1, total)
    return replace(view, axes=(*view.axes[:axis], (factor,), *view.axes[axis + 1 :]), slots=(*view.slots, slot))


def beside_slot(view: View, axis: int, start: int, size: int) -> bool:
    """Whether a slice of a joined axis holds nothing of the parameter."""
    slot = view.slot(axis)
    if slot is None:
        return False
    return start + size <= slot.offset or start >= slot.offset + math.prod(factor.size for factor in slot.factors)


def digits(index: int, factors: Sequence[Factor]) -> list[int]:
    """Return the index along each factor of an index along their product."""
    found: list[int] = []
    for factor in reversed(factors):
        index, digit = divmod(index, factor.size)
        found.append(digit)
    return found[::-1]


def part(view: View, axis: int, start: int, size: int, stride: int, total: int) -> View | None:
    """Return the view of a slice of the value, or `None` where the slice is not one of equal parts of the axis."""
    slot = view.slot(axis)
    if slot is not None:
        exact = stride == 1 and (start, size) == (slot.offset, math.prod(factor.size for factor in slot.factors))
        return replace(view, axes=(*view.axes[:axis], slot.factors, *view.axes[axis + 1 :])) if exact else None
    if stride == 1:
        if size == 0 or total % size or start % size:
            return None
        cut, which, kept = (total // size, size), start // size, 1
    else:
        if total % stride or size != total // stride:
            return None
        cut, which, kept = (total // stride, stride), start % stride, 0
    groups = regroup(view.axes[axis], cut)
    if groups is None:
        return None
    gone = [factor for factor in groups[1 - kept] if factor.size > 1 or factor.axis != FOREIGN]
    taken = tuple(
        (factor, digit) for factor, digit in zip(gone, digits(which, gone), strict=True) if factor.axis != FOREIGN
    )
    own = groups[kept] or foreign(size)
    axes = (*view.axes[:axis], own, *view.axes[axis + 1 :])
    return replace(view, axes=axes, fixed=view.fixed + taken, batch=view.batch + tuple(factor for factor, _ in taken))
