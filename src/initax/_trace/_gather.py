"""Look-ups: entries of a value that constants, loop counters or the data number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initax._trace._factors import FOREIGN, Factor, foreign, is_foreign, other_axes
from initax._trace._indices import Numbers, Series
from initax._trace._jaxpr import Place, shapes_of
from initax._trace._layout import cut, moved, pick, rearrange, reshape
from initax._trace._uses import Uses, Value
from initax._trace._views import Step, View, opened, rearranged


def entry(value: Value, axis: int, index: Value, place: Place, operand: int, by: int) -> Value:
    """Follow a look-up of one entry along an axis, by a loop counter or by the data; the axis stays, of size one.

    Args:
        value: the value.
        axis: the axis.
        index: the index of the entry.
        place: the equation.
        operand: which of its operands is the index.
        by: the variable of the index, see `Uses.whole`.
    """
    shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
    number = index.constant if isinstance(index.constant, Series) else None

    def move(view: View) -> View:
        factors, single = view.axes[axis], view.with_axis(axis, foreign(1))
        if index.data:
            looked = tuple(factor for factor in factors if factor.axis != FOREIGN)
            return replace(single, looked=view.looked + looked, before=len(view.fixed), by=by)
        is_stored = all(factor.axis >= 0 for factor in factors)
        return view.one_by_one(Step(factors, number, 0, place, operand if is_stored else -1), single.axes)

    result = moved(value, shape, move, value.stretched)
    return replace(result, data=value.data or index.data)


def gather(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value:
    """Follow a look-up of entries by an array of indices, which are known, or come with a loop or the data."""
    value, indices = values
    numbers = None if indices.data else indices.numbers
    result = None if numbers is None else _by_known_indices(value, numbers, eqn, uses, line)
    return result if result is not None else _by_unknown_indices(value, indices, eqn, uses, line)


def _window_axes(eqn: Any, rank: int) -> dict[int, int]:
    """Return axis of the result → axis of the operand that it is a window of."""
    numbers = eqn.params["dimension_numbers"]
    collapsed = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    windows = other_axes(rank, collapsed)
    return dict(zip(numbers.offset_dims, windows, strict=True))


def _by_known_indices(value: Value, indices: Numbers, eqn: Any, uses: Uses, line: str) -> Value | None:
    """Return a look-up by known indices; `None` where the result is not a product of axes."""
    numbers, sizes, shape = eqn.params["dimension_numbers"], eqn.params["slice_sizes"], shapes_of(eqn)[0]
    if numbers.operand_batching_dims or 0 in indices.shape:
        return None
    rows = indices.reshape(-1, indices.shape[-1])
    last = [value.shape[axis] - sizes[axis] for axis in numbers.start_index_map]
    is_inside = ((rows >= 0) & (rows <= last)).all(1)
    rows = np.clip(rows, 0, last)
    fills = "FILL" in str(eqn.params["mode"]) and not is_inside.all()
    windows = _window_axes(eqn, len(value.shape))
    if len(rows) == 1 and not fills:
        for axis, start in zip(numbers.start_index_map, rows[0], strict=True):
            value = cut(value, axis, int(start), sizes[axis], 1, uses, line)
        return rearrange(value, [windows.get(axis) for axis in range(len(shape))], shape)
    indexed = [axis for axis in numbers.start_index_map if sizes[axis] < value.shape[axis]]
    others = other_axes(len(value.shape), indexed)
    if not indexed or any(sizes[axis] != 1 for axis in indexed):
        return None
    if any(sizes[axis] != value.shape[axis] for axis in others):
        return None
    # The axes that are indexed become one in front, and then the axes of the indices.
    front, back = ([value.shape[axis] for axis in axes] for axes in (indexed, others))
    flat = np.ravel_multi_index([rows[:, numbers.start_index_map.index(axis)] for axis in indexed], front)
    result = rearrange(value, [*indexed, *others], [*front, *back])
    result = reshape(result, (math.prod(front), *back), line)
    result = pick(result, 0, len(rows), lambda: np.where(is_inside | (not fills), flat, -1), uses, line)
    result = reshape(result, (*indices.shape[:-1], *back), line)
    stopped = {view.param for view in value.weights if view.stop}
    if any(view.stop and view.param not in stopped for view in result.weights):
        return None
    index_axes = other_axes(len(shape), windows)
    old_axis = {axis: len(index_axes) + others.index(old) for axis, old in windows.items() if old in others}
    old_axis |= {axis: index for index, axis in enumerate(index_axes)}
    return rearrange(result, [old_axis.get(axis) for axis in range(len(shape))], shape)


def _by_unknown_indices(value: Value, indices: Value, eqn: Any, uses: Uses, line: str) -> Value:
    """Return a look-up by indices that come with the data or a loop, or that do not make a product of axes."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, rank = shapes_of(eqn)[0], len(value.shape)
    # Axis of the operand → axis of the indices, where row `i` of the indices looks up in entry `i` of the operand.
    paired = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    paired |= _counted(value, indices, eqn)
    index_axes = other_axes(len(shape), numbers.offset_dims)
    old_axis = _window_axes(eqn, rank) | {index_axes[index]: axis for axis, index in paired.items()}
    indexed = [axis for axis in range(rank) if sizes[axis] < value.shape[axis] and axis not in paired]
    is_several = math.prod(indices.shape[:-1]) > 1
    number = indices.constant if isinstance(indices.constant, Series) else None
    by_data = dict.fromkeys(indexed, indices.data)
    if indices.data and len(indices.columns) == len(numbers.start_index_map):
        columns = zip(numbers.start_index_map, indices.columns, strict=True)
        by_data |= {axis: column.data for axis, column in columns if axis in by_data}
    place, by = uses.place, uses.whole(eqn.invars[1])

    def move(view: View) -> View | None:
        looked: list[Factor] = []
        batch: list[Factor] = []
        steps: list[Step] = []
        for axis in indexed:
            factors = tuple(factor for factor in view.axes[axis] if factor.axis != FOREIGN)
            if factors and sizes[axis] != 1:
                return None
            looked += factors if by_data[axis] else ()
            batch += () if by_data[axis] else opened(factors)
            if factors and axis in numbers.start_index_map:
                column = numbers.start_index_map.index(axis)
                operand = -1 if is_several or factors != view.axes[axis] else 1
                steps.append(Step(view.axes[axis], number, column, place, operand))
        axes = (foreign(1) if index in indexed else axis for index, axis in enumerate(view.axes))
        # An axis of one entry that the look-up collapses is not an axis of the result, but still one of the parameter.
        row = rearranged(replace(view, axes=tuple(axes)), [old_axis.get(axis) for axis in range(len(shape))], shape)
        row = replace(row, batch=view.batch + tuple(batch))
        if not indices.data:
            is_picked = view.picked or (is_several and bool(batch))
            return replace(row, picked=is_picked, steps=view.steps + tuple(steps))
        tables = view.tables + view.along(*paired)
        return replace(row, looked=view.looked + tuple(looked), tables=tables, before=len(view.fixed), by=by)

    if indices.data or is_several:
        kept = tuple(view for view in value.outputs if all(is_foreign(view.axes[axis]) for axis in indexed))
        value = replace(value, outputs=kept, joined=(), products=())
    is_repeated = value.stretched.issuperset(indexed)  # all indices find the same
    result = moved(value, shape, move, (), "a gather takes windows of it", line)
    return replace(result, data=value.data or (indices.data and not is_repeated))


def _counted(value: Value, indices: Value, eqn: Any) -> dict[int, int]:
    """Return axes of which a look-up takes each entry in turn, `table[jnp.arange(n), rows]` → axis of the indices."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    index_axes: dict[int, int] = {}
    if len(indices.columns) != len(numbers.start_index_map):
        return index_axes
    for axis, column in zip(numbers.start_index_map, indices.columns, strict=True):
        known = column.numbers
        if known is None or axis not in numbers.collapsed_slice_dims or sizes[axis] == value.shape[axis]:
            continue
        for index_axis, size in enumerate(known.shape[:-1]):
            count = np.arange(size).reshape([-1 if index == index_axis else 1 for index in range(known.ndim)])
            if size == value.shape[axis] and index_axis not in index_axes.values() and bool((known == count).all()):
                index_axes[axis] = index_axis
                break
    return index_axes
