"""Equations that only move entries: reshapes, transposes, broadcasts, slices, joins."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from initax._trace._contract import settle
from initax._trace._factors import LARGEST, Axis, Factor, Index, Slot, foreign, is_foreign, joined, other_axes
from initax._trace._jaxpr import shapes_of
from initax._trace._sums import note_mixed
from initax._trace._uses import Uses, Value
from initax._trace._views import Stop, View, in_slot, kept_whole, merged, part, picked, rearranged, reshaped, scaled


def moved(
    value: Value,
    shape: Sequence[int],
    move: Callable[[View], View | None],
    flat: Iterable[int] = (),
    reason: str = "",
    line: str = "",
) -> Value:
    """Return a value with its entries moved.

    Args:
        value: the value.
        shape: its new shape.
        move: gives the view in the new value; where that is `None`, parameters are halted and outputs are dropped.
        flat: the axes along which the new value is constant.
        reason: why parameters are halted.
        line: the line.
    """

    def moved_views(views: Sequence[View]) -> tuple[View, ...]:
        return tuple(filter(None, map(move, views)))

    return Value(
        shape=tuple(shape),
        data=value.data,
        inputless=value.inputless,
        weights=tuple(move(view) or view.lost(shape, Stop(reason, line)) for view in value.weights),
        outputs=moved_views(value.outputs),
        joined=moved_views(value.joined),
        products=moved_views(value.products),
        gates=moved_views(value.gates),
        stretched=frozenset(flat),
        behind=value.behind,
    )


def reshape(value: Value, shape: Sequence[int], line: str) -> Value:
    """Follow a reshape."""
    # A new axis is an old one if it has the same size, and the axes before it have as many entries.
    stretched = {(math.prod(value.shape[:axis]), value.shape[axis]) for axis in value.stretched}
    flat = [axis for axis in range(len(shape)) if (math.prod(shape[:axis]), shape[axis]) in stretched]
    return moved(value, shape, lambda view: reshaped(view, shape), flat, "a reshape cuts its axes unevenly", line)


def rearrange(value: Value, old_axes: Sequence[int | None], shape: Sequence[int]) -> Value:
    """Follow a transpose, a squeeze, or new axes: for each new axis the old one, `None` where it is broadcast."""
    flat = [axis for axis, old in enumerate(old_axes) if old is None or old in value.stretched]
    return moved(value, shape, lambda view: rearranged(view, old_axes, shape), flat)


def broadcast(value: Value, shape: Sequence[int], dimensions: Sequence[int]) -> Value:
    """Follow a broadcast: axes of size one that grow are foreign to every parameter."""
    old_axes: list[int | None] = [None] * len(shape)
    for old, new in enumerate(dimensions):
        if value.shape[old] == shape[new]:
            old_axes[new] = old
    return rearrange(value, old_axes, shape)


def cut(value: Value, axis: int, start: int, size: int, stride: int, uses: Uses, line: str) -> Value:
    """Follow a slice along one axis: one of several equal parts is an entry of a batch axis."""
    total = value.shape[axis]
    if size == total:
        return value
    stop = Stop(f"a slice takes entries {start} to {start + (size - 1) * stride + 1} of {total}, no equal part", line)

    def index() -> Index:
        return start + stride * np.arange(size, dtype=np.intp)

    return _chosen(value, axis, size, index, uses, stop, lambda view: part(view, axis, start, size, stride))


def pick(value: Value, axis: int, size: int, index: Callable[[], Index], uses: Uses, line: str) -> Value:
    """Follow entries that are moved along an axis.

    Args:
        value: the value.
        axis: the axis.
        size: its new size.
        index: gives for each new entry its old index, -1 for an entry of something else.
        uses: the uses so far.
        line: the line.
    """
    stop = Stop(f"its entries are moved along an axis of {value.shape[axis]}", line)
    return _chosen(value, axis, size, index, uses, stop)


def _chosen(
    value: Value,
    axis: int,
    size: int,
    index: Callable[[], Index],
    uses: Uses,
    stop: Stop,
    shortcut: Callable[[View], View | None] = lambda view: None,
) -> Value:
    """Return the chosen entries of a value along an axis, without parameters of which none is chosen.

    Args:
        value: the value.
        axis: the axis.
        size: how many entries are chosen.
        index: gives their indices.
        uses: the uses so far.
        stop: why parameters can't be followed along an axis that is too long to list.
        shortcut: gives a view without listing the entries, or `None`.
    """
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    is_too_long = max(size, value.shape[axis]) > LARGEST
    left_out = {view.use for view in value.outputs if not view.scaled}

    def chosen(views: Sequence[View]) -> tuple[View, ...]:
        results = []
        for view in views:
            result = shortcut(view)
            if result is None and not is_too_long:
                result = picked(view, axis, index())
            elif result is None and view.use < 0:
                result = view.lost(shape, stop)
            if result is None:
                continue
            left_out.discard(view.use)
            if view.use >= 0 and views is not value.joined:
                _note_chosen(view, result, axis, uses)
            results.append(result)
        return tuple(results)

    return Value(
        shape=shape,
        data=value.data,
        inputless=value.inputless,
        weights=chosen(value.weights),
        outputs=chosen(value.outputs),
        joined=chosen(value.joined),
        products=chosen(value.products),
        stretched=value.stretched,
        without=0 if is_too_long else sum(map(uses.bit, left_out)),
    )


def _note_chosen(before: View, after: View, axis: int, uses: Uses) -> None:
    """Note which entries of outputs are chosen: single entries of factors, or parts of unequal size."""
    use = uses.of(before)
    use.outputs.entries |= set(after.fixed) - set(before.fixed)
    if before.axes[axis] != after.axes[axis]:
        slots = (factor for factor in after.axes[axis] if isinstance(factor, Slot) and factor.partial)
        use.outputs.uneven |= {factor for slot in slots for factor in slot.factors}


def pad(value: Value, config: Sequence[tuple[int, int, int]], uses: Uses, line: str) -> Value:
    """Follow padding with a constant, before, behind and between the entries of each axis."""
    for axis, (low, high, between) in enumerate(config):
        if low or high or between:
            size = value.shape[axis]
            total = low + high + size + between * max(size - 1, 0)
            index = partial(_spread, low, total, size, between)
            value = replace(pick(value, axis, total, index, uses, line), stretched=value.stretched - {axis})
    return value


def _spread(low: int, total: int, size: int, between: int) -> Index:
    """Return, for each entry of a padded axis, its index before the padding, -1 for the padding."""
    return _written(total, low + (1 + between) * np.arange(size))


def _written(total: int, positions: Index) -> Index:
    """Return, for each entry of an axis, which of some entries is written there, -1 for none."""
    index: Index = np.full(total, -1, np.intp)
    is_inside = (positions >= 0) & (positions < total)
    index[positions[is_inside]] = np.flatnonzero(is_inside)
    return index


def tile(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value:
    """Follow a value that is repeated along its axes."""

    def move(view: View) -> View:
        axes = zip(eqn.params["reps"], view.axes, strict=True)
        return replace(view, axes=tuple(axis if n == 1 else joined((*foreign(n), *axis)) for n, axis in axes))

    return moved(values[0], shapes_of(eqn)[0], move, values[0].stretched)


def rev(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value:
    """Follow entries in reversed order."""
    value = values[0]
    for axis in eqn.params["dimensions"]:
        size = value.shape[axis]
        value = pick(value, axis, size, partial(np.arange, size - 1, -1, -1), uses, line)
    return value


def cumsum(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value | None:
    """Follow a running sum along an axis; a sum of all running sums holds every entry of a parameter."""
    value, axis = values[0], eqn.params["axis"]
    note_mixed(value.outputs, [axis], uses, line)
    if value.data:
        return None

    def move(view: View) -> View:
        if view.stop and not view.running:
            return view
        stopped = view.halted(Stop(f"{eqn.primitive.name} stands between it and the signal", line))
        return replace(stopped, running=view.running + view.along(axis))

    return value.with_weights(move)


def put(block: Value, starts: Sequence[int], shape: Sequence[int], uses: Uses, line: str) -> Value:
    """Return a value as a block of a larger one, which starts at some indices."""
    config = [(start, total - start - size, 0) for start, total, size in zip(starts, shape, block.shape, strict=True)]
    return pad(block, config, uses, line)


def write(under: Value, over: Value, starts: Sequence[int], uses: Uses, line: str, adds: bool = False) -> Value | None:
    """Follow a value of which a block is overwritten, or added to.

    Args:
        under: the value.
        over: the block.
        starts: the index along each axis at which the block starts.
        uses: the uses so far.
        line: the line.
        adds: whether the block is added to the value.
    """
    narrow = [axis for axis, total in enumerate(under.shape) if over.shape[axis] < total]
    if len(narrow) == 1:
        (axis,) = narrow
        return write_rows(under, over, axis, starts[axis] + np.arange(over.shape[axis]), uses, line, adds)
    if under.weights and not adds:
        return None if narrow else over
    return _beside([under, put(over, starts, under.shape, uses, line)], None, under.shape)


def write_rows(
    under: Value, over: Value, axis: int, rows: Index, uses: Uses, line: str, adds: bool = False
) -> Value | None:
    """Follow a value some of whose entries along an axis are overwritten, or added to.

    Args:
        under: the value.
        over: the entries, along the same axis.
        axis: the axis.
        rows: the index of each entry; those out of range are left out.
        uses: the uses so far.
        line: the line.
        adds: whether the entries are added to the value.
    """
    total = under.shape[axis]
    inside = rows[(rows >= 0) & (rows < total)]
    if total > LARGEST or len(np.unique(inside)) < len(inside):
        return None
    index = _written(total, rows)
    if under.weights and not adds:
        under = pick(under, axis, total, lambda: np.where(index < 0, np.arange(total), -1), uses, line)
    return _beside([under, pick(over, axis, total, lambda: index, uses, line)], axis, under.shape)


def scattered(over: Value, numbers: Any, shape: Sequence[int]) -> tuple[View, ...]:
    """Return the outputs in rows of a signal that are added up at unknown indices, such as messages at nodes.

    Args:
        over: the rows.
        numbers: the dimension numbers of the scatter.
        shape: the shape of the result.
    """
    if numbers.operand_batching_dims:
        return ()
    kept = other_axes(len(shape), numbers.inserted_window_dims)
    window = dict(zip(kept, numbers.update_window_dims, strict=True))
    if any(over.shape[index] != shape[axis] for axis, index in window.items()):
        return ()
    return scaled(kept_whole(over.outputs, [window.get(axis) for axis in range(len(shape))], shape))


def join(values: Sequence[Value], shape: Sequence[int], axis: int, uses: Uses, line: str) -> Value:
    """Follow a concatenation; parts of one output axis that are joined again are not gates."""
    note_rejoined([view for value in values for view in value.outputs if not is_foreign(view.axes[axis])], uses)
    if any(value.data for value in values):
        values = [settle(value, uses, line) for value in values]
    if not any(value.weights for value in values):
        return Value(
            shape=tuple(shape),
            data=any(value.data for value in values),
            columns=tuple(values) if axis == len(shape) - 1 and any(value.constant for value in values) else (),
            outputs=_outputs_in_all(values, shape, axis),
            joined=_joined_outputs(values, shape, axis),
        )
    blocks, offset = [], 0
    for value in values:
        blocks.append(put(value, [offset if index == axis else 0 for index in range(len(shape))], shape, uses, line))
        offset += value.shape[axis]
    return _beside(blocks, axis, shape).beside(*values)


def _outputs_in_all(values: Sequence[Value], shape: Sequence[int], axis: int) -> tuple[View, ...]:
    """Return the outputs that all joined signals hold, where the axis is one of the signal, such as tokens."""
    old_axes = [None if index == axis else index for index in range(len(shape))]
    outputs = [dict.fromkeys(scaled(kept_whole(value.outputs, old_axes, shape))) for value in values if value.data]
    common = [view for view in outputs[0] if all(view in others for others in outputs)] if outputs else []
    return tuple(sorted(common, key=lambda view: view.use))


def _joined_outputs(values: Sequence[Value], shape: Sequence[int], axis: int) -> tuple[View, ...]:
    """Return the outputs of parameters that are in several joined signals, at their offsets along the axis."""
    outputs = [(*value.outputs, *value.joined, *value.products) for value in values]
    count = collections.Counter(view.param for views in outputs for view in views)
    bent = {view.use for views in outputs for view in views if view.bent}  # not a sum if one of them is a function
    in_slots: list[View] = []
    offset = 0
    for value, views in zip(values, outputs, strict=True):
        repeated = (view for view in views if count[view.param] > 1 and value.shape[axis])
        marked = (replace(view, scaled=view.scaled or view.use in bent) for view in repeated)
        in_slots += (in_slot(view, axis, offset, shape[axis]) for view in marked)
        offset += value.shape[axis]
    return tuple(in_slots)


def _beside(values: Sequence[Value], axis: int | None, shape: Sequence[int]) -> Value:
    """Return the sum of values that have entries at different indices; parts of one parameter become one again."""
    views: list[View] = []
    for view in (view for value in values for view in value.weights):
        for index, other in enumerate(views):
            whole = None if axis is None or other.param != view.param else merged(other, view, axis)
            if whole is not None:
                views[index] = whole
                break
        else:
            views.append(view)
    return Value(shape=tuple(shape), weights=tuple(dict.fromkeys(views)), data=any(value.data for value in values))


def merged_parts(value: Value) -> list[View]:
    """Return the outputs that were joined along a new axis which a reshape has merged with an axis of theirs."""

    def is_merged(axis: Axis) -> bool:
        has_new = any(isinstance(factor, Slot) and not factor.factors for factor in axis)
        return has_new and any(factor.axis >= 0 for factor in axis)

    return [view for view in value.joined if any(map(is_merged, view.axes))]


def note_rejoined(views: Sequence[View], uses: Uses) -> None:
    """Note that all parts of one output axis are joined again, as rotated halves are.

    Gates that have gone through functions of their own stay gates.

    Args:
        views: outputs that are joined.
        uses: the uses so far.
    """
    entries_of: dict[tuple[int, Factor], set[tuple[int, int]]] = {}
    for view in views:
        for factor, digit in view.fixed if not (view.summed or view.bent) else ():
            entries_of.setdefault((view.param, factor), set()).add((view.use, digit))
    for (_, factor), entries_of_factor in entries_of.items():
        if 1 < len({digit for _, digit in entries_of_factor}) == factor.size:
            for use, _ in entries_of_factor:
                uses.all[use].outputs.rejoined.add(factor)
