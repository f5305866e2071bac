"""Which entries of an array belong to which unit of another: digits of factors, worked out with whole numbers.

A unit is an entry along the output axes of a weight. What a signal's axis holds of those axes is known by its factors,
and so is what a second weight's axis holds of its own; an index along the axis they share joins the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from initax._trace._factors import FOREIGN, Axis, Factor, Fixed, Slot, digits, flat, length
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
    fixed: Fixed = ()


def covers(view: View, shape: Sequence[int], axes: Sequence[int]) -> bool:
    """Return whether a view of outputs distinguishes all entries along some stored axes.

    Args:
        view: the outputs, in a signal.
        shape: the stored shape of the weight that made them.
        axes: stored axes of it.
    """
    held = set(view.own) | set(view.batch)
    known = length(factor for factor in held if factor.axis in axes)
    whole = known == math.prod(shape[axis] for axis in axes) and not any(slot.partial for slot in view.slots)
    return whole and all(factor.axis in axes for factor in held)


def unit_numbers(view: View, along: Sequence[int], shape: Sequence[int], axes: Sequence[int]) -> Whole:
    """Return the number of the unit at each index along some axes of a signal, -1 where there is none.

    Args:
        view: the outputs, in the signal.
        along: axes of the signal, all that are marked.
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
        factors, here = flat(view.axes[axis])
        missing = missing | (here < 0).reshape(lengthwise)
        for factor, digit in zip(factors, digits(here, factors), strict=True):
            numbers = numbers + (digit * factor.inner * stride[factor.axis]).reshape(lengthwise)
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
        return grid[factor.axis] // factor.inner % factor.size

    def place(axis: Axis) -> Whole:
        """Return the index of each stored entry along an axis, -1 where it is not there."""
        own, index = flat(axis)
        number: Whole = np.zeros([1] * len(shape), np.intp)
        for factor in own:
            number = number * factor.size + digit(factor)
        known = np.flatnonzero(index >= 0)
        back: Whole = np.full(length(own), -1, np.intp)
        back[index[known]] = known
        return back[number]

    inside = np.ones([1] * len(shape), bool)
    for slot in view.slots:
        inside = inside & (place((slot,)) >= 0)
    for factor, at in view.fixed:
        inside = inside & (digit(factor) == at)
    return list(map(place, factors)), inside


def apart(one: Sequence[tuple[Factor, int]], other: Sequence[tuple[Factor, int]]) -> bool:
    """Return whether two uses of one parameter take different entries of it."""
    taken: Mapping[Factor, int] = dict(one)
    return any(taken.get(factor, digit) != digit for factor, digit in other)
