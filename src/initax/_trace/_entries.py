"""Which entries of an array belong to which unit of another: digits of factors, worked out with whole numbers.

A unit is an entry along the output axes of a weight. What a signal's axis holds of those axes is known by its factors,
and so is what a second weight's axis holds of its own; an index along the axis they share joins the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from initax._trace._factors import FOREIGN, Factor, Slot, digits, length
from initax._trace._views import View

Whole = np.ndarray[tuple[int, ...], np.dtype[np.intp]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A weight that takes in units.

    Attributes:
        param: which parameter.
        units: for each entry of it the number of the unit it is multiplied with, -1 for none; it broadcasts to the
            stored shape.
        fixed: the parts of its stored axes of which it uses one entry here, and which.
    """

    param: int
    units: Whole
    fixed: tuple[tuple[Factor, int], ...] = ()


def covers(view: View, shape: Sequence[int], axes: Sequence[int]) -> bool:
    """Return whether a view of outputs distinguishes all entries along some stored axes.

    Args:
        view: the outputs, in a signal.
        shape: the stored shape of the weight that made them.
        axes: stored axes of it.
    """
    held = set(view.own) | set(view.batch)
    known = math.prod(factor.size for factor in held if factor.axis in axes)
    whole = known == math.prod(shape[axis] for axis in axes) and not any(slot.partial for slot in view.slots)
    return whole and all(factor.axis in axes for factor in held)


def marked(view: View) -> tuple[int, ...]:
    """Return the axes of a signal along which it holds different units, or something beside them."""
    return tuple(
        index
        for index, axis in enumerate(view.axes)
        if any(factor.axis != FOREIGN and factor.size > 1 for factor in axis)
    )


def unit_numbers(view: View, along: Sequence[int], shape: Sequence[int], axes: Sequence[int]) -> Whole:
    """Return the number of the unit at each index along some axes of a signal, -1 where there is none.

    Args:
        view: the outputs, in the signal.
        along: axes of the signal, all that `marked` gives.
        shape: the stored shape of the weight that made them.
        axes: its output axes, in stored order; the last one counts fastest.
    """
    stride = _strides(shape, axes)
    numbers: Whole = np.full(
        [1] * len(along), sum(digit * f.inner * stride[f.axis] for f, digit in view.fixed), np.intp
    )
    missing = np.zeros([1] * len(along), bool)
    for place, axis in enumerate(along):
        lengthwise = [-1 if index == place else 1 for index in range(len(along))]
        factors = view.axes[axis]
        for factor, digit in zip(factors, digits(np.arange(length(factors)), factors), strict=True):
            inside = [(factor, digit)]
            if isinstance(factor, Slot):
                here = factor.index[digit]
                missing = missing | (here < 0).reshape(lengthwise)
                inside = list(zip(factor.factors, digits(here, factor.factors), strict=True))
            for each, own in inside:
                if each.axis != FOREIGN:
                    numbers = numbers + (own * each.inner * stride[each.axis]).reshape(lengthwise)
    return np.where(missing, -1, numbers)


def steps_of(view: View) -> tuple[Factor, ...]:
    """Return the factors of which a loop around takes one entry at a time, outermost first."""
    fixed = [factor for factor, _ in view.fixed]
    return tuple(factor for factor in view.batch if factor not in fixed)


def step_numbers(index: Whole, factors: Sequence[Factor], shape: Sequence[int], axes: Sequence[int]) -> Whole:
    """Return what a loop's step adds to the number of a unit.

    Args:
        index: numbers of steps.
        factors: what the loop takes of the weight's stored axes.
        shape: the stored shape of the weight.
        axes: its output axes, in stored order; the last one counts fastest.
    """
    stride = _strides(shape, axes)
    added: Whole = np.zeros_like(index)
    for factor, digit in zip(factors, digits(index, factors), strict=True):
        added += digit * factor.inner * stride[factor.axis]
    return added


def _strides(shape: Sequence[int], axes: Sequence[int]) -> dict[int, int]:
    return {axis: math.prod(shape[each] for each in axes[place + 1 :]) for place, axis in enumerate(axes)}


def coordinates(view: View, axes: Sequence[int], shape: Sequence[int]) -> tuple[list[Whole], np.ndarray] | None:
    """Return, for each stored entry of a weight, its index along some axes of the operand; `None` where there is none.

    Args:
        view: the weight as the operand holds it.
        axes: axes of the operand.
        shape: the weight's stored shape.

    Returns:
        For each axis the indices, and which entries are in the operand at all; all broadcast to the stored shape.
    """
    factors = [view.axes[axis] for axis in axes]
    if any(f.axis == FOREIGN and f.size > 1 for each in factors for f in each):
        return None
    if any(isinstance(f, Slot) and f.repeats for each in factors for f in each):
        return None
    alone = [[-1 if at == axis else 1 for at in range(len(shape))] for axis in range(len(shape))]
    grid = [np.arange(size).reshape(alone[axis]) for axis, size in enumerate(shape)]

    def digit(factor: Factor) -> Whole:
        own: Whole = grid[factor.axis] // factor.inner % factor.size
        return own

    def place(slot: Slot) -> Whole:
        """Return the place of each stored entry in a slot, -1 where it is not in it."""
        number: Whole = np.zeros([1] * len(shape), np.intp)
        for factor in slot.factors:
            number = number * factor.size + digit(factor)
        known = np.flatnonzero(slot.index >= 0)
        back: Whole = np.full(math.prod(factor.size for factor in slot.factors), -1, np.intp)
        back[slot.index[known]] = known
        there: Whole = back[number]
        return there

    found = []
    for each in factors:
        index: Whole = np.zeros([1] * len(shape), np.intp)
        for factor in each:
            own = place(factor) if isinstance(factor, Slot) else digit(factor) if factor.axis != FOREIGN else 0
            index = index * factor.size + own
        found.append(index)
    inside = np.ones([1] * len(shape), bool)
    for slot in view.slots:
        inside = inside & (place(slot) >= 0)
    for factor, at in view.fixed:
        inside = inside & (digit(factor) == at)
    return found, inside


def apart(one: Sequence[tuple[Factor, int]], other: Sequence[tuple[Factor, int]]) -> bool:
    """Return whether two uses of one parameter take different entries of it."""
    taken: Mapping[Factor, int] = dict(one)
    return any(taken.get(factor, digit) != digit for factor, digit in other)
