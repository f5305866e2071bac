"""Which entries of an array belong to which unit of another, by the digits of factors.

A unit is an entry along the output axes of a weight. The factors of a signal's axis say which units lie along it, and
those of a second weight's axis which of its entries do; an index along their common axis relates the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from initax._trace._factors import FOREIGN, Axis, Factor, Fixed, Index, Slot, digits, flat, length
from initax._trace._views import View


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
    units: Index
    fixed: Fixed = ()


def covers(view: View, shape: Sequence[int], axes: Sequence[int]) -> bool:
    """Return whether a view of outputs distinguishes all entries along some stored axes.

    Args:
        view: the outputs, in a signal.
        shape: the stored shape of the weight that made them.
        axes: stored axes of it.
    """
    factors = set(view.factors) | set(view.batch)
    known = length(factor for factor in factors if factor.axis in axes)
    whole = known == math.prod(shape[axis] for axis in axes) and not any(slot.partial for slot in view.slots)
    return whole and all(factor.axis in axes for factor in factors)


def unit_numbers(view: View, along: Sequence[int], shape: Sequence[int], axes: Sequence[int]) -> Index:
    """Return the number of the unit at each index along some axes of a signal, -1 where there is none.

    Args:
        view: the outputs, in the signal.
        along: axes of the signal, all that are marked.
        shape: the stored shape of the weight that made them.
        axes: its output axes, in stored order; the last one counts fastest.
    """
    stride = _strides(shape, axes)
    numbers: Index = np.full(
        [1] * len(along), sum(digit * f.inner * stride[f.axis] for f, digit in view.fixed), np.intp
    )
    missing = np.zeros([1] * len(along), bool)
    for index, axis in enumerate(along):
        lengthwise = [-1 if dimension == index else 1 for dimension in range(len(along))]
        factors, entries = flat(view.axes[axis])
        missing = missing | (entries < 0).reshape(lengthwise)
        numbers = numbers + _numbers(factors, entries, stride).reshape(lengthwise)
    return np.where(missing, -1, numbers)


def stepped_factors(view: View) -> tuple[Factor, ...]:
    """Return the factors of which each step of a loop takes one entry, outermost first."""
    fixed = [factor for factor, _ in view.fixed]
    return tuple(factor for factor in view.batch if factor not in fixed)


def step_numbers(index: Index, factors: Sequence[Factor], shape: Sequence[int], axes: Sequence[int]) -> Index:
    """Return what a loop's step adds to the number of a unit.

    Args:
        index: numbers of steps.
        factors: the factors of the weight of which each step takes one entry.
        shape: the stored shape of the weight.
        axes: its output axes, in stored order; the last one counts fastest.
    """
    return _numbers(factors, index, _strides(shape, axes))


def _numbers(factors: Sequence[Factor], index: Index, stride: Mapping[int, int]) -> Index:
    """Return what each entry along a product of factors adds to the number of a unit."""
    pairs = zip(factors, digits(index, factors), strict=True)
    return sum((digit * factor.inner * stride[factor.axis] for factor, digit in pairs), np.zeros_like(index))


def _strides(shape: Sequence[int], axes: Sequence[int]) -> dict[int, int]:
    return {axis: math.prod(shape[inner] for inner in axes[index + 1 :]) for index, axis in enumerate(axes)}


def coordinates(view: View, axes: Sequence[int], shape: Sequence[int]) -> tuple[list[Index], np.ndarray] | None:
    """Return, for each stored entry of a weight, its index along some axes of the operand; `None` where there is none.

    Args:
        view: the weight in the operand.
        axes: axes of the operand.
        shape: the weight's stored shape.

    Returns:
        For each axis the indices, and which entries are in the operand at all; all broadcast to the stored shape.
    """
    factors = [factor for axis in axes for factor in view.axes[axis]]
    if any(factor.axis == FOREIGN and factor.size > 1 for factor in factors):
        return None
    if any(isinstance(factor, Slot) and factor.repeats for factor in factors):
        return None
    grid = np.indices(shape, np.intp, sparse=True)

    def digit(factor: Factor) -> Index:
        return grid[factor.axis] // factor.inner % factor.size

    def indices(axis: Axis) -> Index:
        """Return the index along an axis of each stored entry, -1 for those that are not there."""
        inner, index = flat(axis)
        number: Index = np.zeros([1] * len(shape), np.intp)
        for factor in inner:
            number = number * factor.size + digit(factor)
        known = np.flatnonzero(index >= 0)
        inverse: Index = np.full(length(inner), -1, np.intp)
        inverse[index[known]] = known
        return inverse[number]

    is_there = np.ones([1] * len(shape), bool)
    for slot in view.slots:
        is_there = is_there & (indices((slot,)) >= 0)
    for factor, entry in view.fixed:
        is_there = is_there & (digit(factor) == entry)
    return [indices(view.axes[axis]) for axis in axes], is_there
