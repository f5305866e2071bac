"""Equations that only move entries: reshapes, transposes, broadcasts, slices, look-ups, joins."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from initax._trace._contract import settle
from initax._trace._factors import FOREIGN, LARGEST, Factor, Index, Slot, foreign, is_foreign, joined
from initax._trace._indices import Numbers, Series, shapes_of
from initax._trace._sums import mixed
from initax._trace._uses import Place, Uses, Value
from initax._trace._views import (
    Step,
    Stop,
    View,
    in_place,
    in_slot,
    merged,
    opened,
    part,
    picked,
    placed,
    reshaped,
    scaled,
)


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
        move: gives what a view is then; where that is `None`, parameters are halted and outputs are dropped.
        flat: the axes along which the new value is constant.
        reason: why parameters are halted.
        line: the line.
    """
    weights = (move(view) or view.lost(shape, Stop(reason, line)) for view in value.weights)
    outputs, beside, products, gates = (
        tuple(filter(None, map(move, views))) for views in (value.outputs, value.joined, value.products, value.gates)
    )
    return Value(
        shape=tuple(shape),
        data=value.data,
        inputless=value.inputless,
        weights=tuple(weights),
        outputs=outputs,
        joined=beside,
        products=products,
        gates=gates,
        stretched=frozenset(flat),
        behind=value.behind,
    )


def reshape(value: Value, shape: Sequence[int], line: str) -> Value:
    """Follow a reshape."""
    # An axis of the new shape is one of the old where it is as long, and has as many entries in front of it.
    before = {(math.prod(value.shape[:index]), value.shape[index]) for index in value.stretched}
    flat = [index for index in range(len(shape)) if (math.prod(shape[:index]), shape[index]) in before]
    return moved(value, shape, lambda view: reshaped(view, shape), flat, "a reshape cuts its axes unevenly", line)


def rearrange(value: Value, places: Sequence[int | None], shape: Sequence[int]) -> Value:
    """Follow a transpose, a squeeze, or new axes: for each new axis the old one, `None` where it is broadcast."""
    flat = [index for index, old in enumerate(places) if old is None or old in value.stretched]
    return moved(value, shape, lambda view: placed(view, places, shape), flat)


def broadcast(value: Value, shape: Sequence[int], dimensions: Sequence[int]) -> Value:
    """Follow a broadcast: axes of size one that grow do not belong to a parameter any more."""
    places: list[int | None] = [None] * len(shape)
    for old, new in enumerate(dimensions):
        if value.shape[old] == shape[new]:
            places[new] = old
    return rearrange(value, places, shape)


def cut(value: Value, axis: int, start: int, size: int, stride: int, uses: Uses, line: str) -> Value:
    """Follow a slice along one axis: one of equal parts is an entry of a batch axis."""
    total = value.shape[axis]
    if size == total:
        return value
    stop = Stop(f"a slice takes entries {start} to {start + (size - 1) * stride + 1} of {total}, no equal part", line)

    def index() -> Index:
        return start + stride * np.arange(size, dtype=np.intp)

    return _chosen(value, axis, size, index, uses, stop, lambda view: part(view, axis, start, size, stride))


def pick(value: Value, axis: int, size: int, index: Callable[[], Index], uses: Uses, line: str) -> Value:
    """Follow entries that are put elsewhere along an axis.

    Args:
        value: the value.
        axis: the axis.
        size: its new size.
        index: gives for each new entry which one of the axis stands there, -1 for something else.
        uses: where uses are entered.
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
    first: Callable[[View], View | None] = lambda view: None,
) -> Value:
    """Return the chosen entries of a value along an axis, without parameters of which none is chosen.

    Args:
        value: the value.
        axis: the axis.
        size: how many entries are chosen.
        index: gives their numbers.
        uses: where uses are entered.
        stop: why it can't be followed along an axis that is too long to list.
        first: what is tried before the entries are listed.
    """
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    too_long = max(size, value.shape[axis]) > LARGEST
    left_out = {view.use for view in value.outputs if not view.scaled}

    def chosen(views: Sequence[View]) -> tuple[View, ...]:
        found = []
        for view in views:
            after = first(view)
            if after is None and not too_long:
                after = picked(view, axis, index())
            elif after is None and view.use < 0:
                after = view.lost(shape, stop)
            if after is None:
                continue
            left_out.discard(view.use)
            if view.use >= 0 and views is not value.joined:
                _taken(view, after, axis, uses)
            found.append(after)
        return tuple(found)

    return Value(
        shape=shape,
        data=value.data,
        inputless=value.inputless,
        weights=chosen(value.weights),
        outputs=chosen(value.outputs),
        joined=chosen(value.joined),
        products=chosen(value.products),
        stretched=value.stretched,
        without=0 if too_long else sum(map(uses.bit, left_out)),
    )


def _taken(before: View, after: View, axis: int, uses: Uses) -> None:
    """Note which entries of outputs are chosen: single entries of factors, or parts of unequal size."""
    use = uses.found[before.use]
    use.outputs.entries |= set(after.fixed) - set(before.fixed)
    if before.axes[axis] != after.axes[axis]:
        slots = (factor for factor in after.axes[axis] if isinstance(factor, Slot) and factor.partial)
        use.outputs.uneven |= {factor for slot in slots for factor in slot.factors}


def entry(value: Value, axis: int, which: Value, at: Place, operand: int, by: int) -> Value:
    """Follow a look-up of one entry along an axis, by a loop counter or by the data; the axis stays, of size one.

    Args:
        value: what is looked up in.
        axis: the axis.
        which: the number of the entry.
        at: the equation.
        operand: which of its operands is the number.
        by: the number, see `Uses.whole`.
    """
    shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
    number = which.constant if isinstance(which.constant, Series) else None

    def move(view: View) -> View:
        whole, one = view.axes[axis], view.with_axis(axis, foreign(1))
        if which.data:
            looked = tuple(factor for factor in whole if factor.axis != FOREIGN)
            return replace(one, looked=view.looked + looked, before=len(view.fixed), by=by)
        is_whole = all(factor.axis >= 0 for factor in whole)
        return view.one_by_one(Step(whole, number, 0, at, operand if is_whole else -1), one.axes)

    found = moved(value, shape, move, value.stretched)
    return replace(found, data=value.data or which.data)


def gather(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value:
    """Follow a look-up of entries by an array of indices: constants pick entries, the data looks them up."""
    value, indices = values
    number = None if indices.data else indices.numbers
    found = None if number is None else _gathered(value, number, eqn, uses, line)
    return found if found is not None else _looked_up(value, indices, eqn, uses, line)


def _gathered(value: Value, indices: Numbers, eqn: Any, uses: Uses, line: str) -> Value | None:
    """Return a look-up by known indices; `None` where the result is not a product of axes."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = shapes_of(eqn)[0]
    if numbers.operand_batching_dims or 0 in indices.shape:
        return None
    rows = indices.reshape(-1, indices.shape[-1])
    last = [value.shape[axis] - sizes[axis] for axis in numbers.start_index_map]
    inside = ((rows >= 0) & (rows <= last)).all(1)
    rows = np.clip(rows, 0, last)
    fills = "FILL" in str(eqn.params["mode"]) and not inside.all()
    rest = [axis for axis in range(len(value.shape)) if axis not in numbers.collapsed_slice_dims]
    places: list[int | None] = [None] * len(shape)
    if len(rows) == 1 and not fills:
        for axis, start in zip(numbers.start_index_map, rows[0], strict=True):
            value = cut(value, axis, int(start), sizes[axis], 1, uses, line)
        for own, axis in zip(numbers.offset_dims, rest, strict=True):
            places[own] = axis
        return rearrange(value, places, shape)
    single = [axis for axis in numbers.start_index_map if sizes[axis] < value.shape[axis]]
    if not single or any(sizes[axis] != 1 for axis in single):
        return None
    others = [axis for axis in range(len(value.shape)) if axis not in single]
    if any(sizes[axis] != value.shape[axis] for axis in others):
        return None
    # The axes that are picked from become one, in front, and then what the indices are.
    front = [value.shape[axis] for axis in single]
    columns = [rows[:, numbers.start_index_map.index(axis)] for axis in single]
    flat = np.ravel_multi_index(columns, front)
    found = rearrange(value, [*single, *others], [value.shape[axis] for axis in (*single, *others)])
    found = reshape(found, (math.prod(front), *found.shape[len(front) :]), line)
    found = pick(found, 0, len(rows), lambda: np.where(inside | (not fills), flat, -1), uses, line)
    around = indices.shape[:-1]
    found = reshape(found, (*around, *found.shape[1:]), line)
    before = {view.param for view in value.weights if view.stop}
    if any(view.stop and view.param not in before for view in found.weights):
        return None
    for own, axis in zip(numbers.offset_dims, rest, strict=True):
        places[own] = None if axis in single else len(around) + others.index(axis)
    new = [axis for axis in range(len(shape)) if axis not in numbers.offset_dims]
    for index, axis in enumerate(new):
        places[axis] = index
    return rearrange(found, places, shape)


def _looked_up(value: Value, indices: Value, eqn: Any, uses: Uses, line: str) -> Value:
    """Return a look-up by indices that come with the data or a loop, or that do not make a product of axes."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = shapes_of(eqn)[0]
    paired = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    paired |= _numbered(value, indices, eqn)
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    rest = [axis for axis in range(len(value.shape)) if axis not in gone]
    around = [each for each in range(len(shape)) if each not in numbers.offset_dims]
    places: list[int | None] = [None] * len(shape)
    for own, axis in zip(numbers.offset_dims, rest, strict=True):
        places[own] = axis
    for axis, which in paired.items():
        places[around[which]] = axis
    whole = {axis for axis in range(len(value.shape)) if sizes[axis] == value.shape[axis] or axis in paired}
    single = [axis for axis in range(len(value.shape)) if axis not in whole]
    many = math.prod(indices.shape[:-1]) > 1
    number = indices.constant if isinstance(indices.constant, Series) else None
    at, by = uses.at, uses.whole(eqn.invars[1])
    by_data = dict.fromkeys(single, indices.data)
    if indices.data and len(indices.columns) == len(numbers.start_index_map):
        columns = zip(numbers.start_index_map, indices.columns, strict=True)
        by_data |= {axis: column.data for axis, column in columns if axis in by_data}

    def move(view: View) -> View | None:
        taken: list[Factor] = []
        members: list[Factor] = []
        steps: list[Step] = []
        for axis in single:
            own = tuple(factor for factor in view.axes[axis] if factor.axis != FOREIGN)
            if own and sizes[axis] != 1:
                return None
            taken += own if by_data[axis] else () if indices.data else opened(own)
            members += opened(own) if indices.data and not by_data[axis] else ()
            if own and axis in numbers.start_index_map:
                column = numbers.start_index_map.index(axis)
                operand = -1 if many or own != view.axes[axis] else 1
                steps.append(Step(view.axes[axis], number, column, at, operand))
        one = replace(view, axes=tuple(foreign(1) if at in single else axis for at, axis in enumerate(view.axes)))
        # An axis of one entry that the look-up collapses is no axis of the result, but still one of the parameter.
        one = placed(one, places, shape)
        if indices.data:
            return replace(
                one,
                batch=view.batch + tuple(members),
                looked=view.looked + tuple(taken),
                tables=view.tables + tuple(factor for axis in paired for factor in view.along(axis)),
                before=len(view.fixed),
                by=by,
            )
        return replace(
            one,
            batch=view.batch + tuple(taken),
            picked=view.picked or (many and bool(taken)),
            steps=view.steps + tuple(steps),
        )

    held = value
    if indices.data or many:
        kept = tuple(view for view in value.outputs if all(is_foreign(view.axes[axis]) for axis in single))
        held = replace(value, outputs=kept, joined=(), products=())
    is_repeated = value.stretched.issuperset(single)  # whatever the indices are, they find the same
    found = moved(held, shape, move, (), "a gather takes windows of it", line)
    return replace(found, data=value.data or (indices.data and not is_repeated))


def _numbered(value: Value, indices: Value, eqn: Any) -> dict[int, int]:
    """Return axes of which a look-up takes each entry in turn, `table[jnp.arange(n), rows]` → axis of the indices."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    found: dict[int, int] = {}
    if len(indices.columns) != len(numbers.start_index_map):
        return found
    for axis, column in zip(numbers.start_index_map, indices.columns, strict=True):
        known = column.numbers
        if known is None or axis not in numbers.collapsed_slice_dims or sizes[axis] == value.shape[axis]:
            continue
        for which, size in enumerate(known.shape[:-1]):
            each = np.arange(size).reshape([-1 if index == which else 1 for index in range(known.ndim)])
            if size == value.shape[axis] and which not in found.values() and bool((known == each).all()):
                found[axis] = which
                break
    return found


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
    index: Index = np.full(total, -1, np.intp)
    places = low + (1 + between) * np.arange(size)
    inside = (places >= 0) & (places < total)
    index[places[inside]] = np.flatnonzero(inside)
    return index


def tile(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value:
    """Follow a value that is repeated along its axes."""

    def move(view: View) -> View:
        pairs = zip(eqn.params["reps"], view.axes, strict=True)
        return replace(view, axes=tuple(axis if n == 1 else joined((*foreign(n), *axis)) for n, axis in pairs))

    return moved(values[0], shapes_of(eqn)[0], move, values[0].stretched)


def rev(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value:
    """Follow entries in reversed order."""
    value = values[0]
    for axis in eqn.params["dimensions"]:
        size = value.shape[axis]
        value = pick(value, axis, size, partial(np.arange, size - 1, -1, -1), uses, line)
    return value


def cumsum(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value | None:
    """Follow a running sum along an axis: all entries of a parameter are in a sum over that axis."""
    value, axis = values[0], eqn.params["axis"]
    mixed(value.outputs, [axis], uses, line)
    if value.data:
        return None

    def move(view: View) -> View:
        if view.stop and not view.running:
            return view
        stopped = view.halted(Stop(f"{eqn.primitive.name} stands between it and the signal", line))
        return replace(stopped, running=view.running + view.along(axis))

    return replace(value, weights=tuple(map(move, value.weights)))


def put(over: Value, starts: Sequence[int], shape: Sequence[int], uses: Uses, line: str) -> Value:
    """Return a value as a block of a larger one, which begins at a place."""
    config = [(start, total - start - size, 0) for start, total, size in zip(starts, shape, over.shape, strict=True)]
    return pad(over, config, uses, line)


def write(under: Value, over: Value, starts: Sequence[int], uses: Uses, line: str, adds: bool = False) -> Value | None:
    """Follow a value of which a block is overwritten, or added to.

    Args:
        under: what is written over.
        over: the block.
        starts: where in each axis it begins.
        uses: where uses are entered.
        line: the line.
        adds: whether it is added to what is there.
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
        under: what is written over.
        over: what is written, with the entries along the same axis.
        axis: the axis.
        rows: the place of each entry; places outside are left out.
        uses: where uses are entered.
        line: the line.
        adds: whether they are added to what is there.
    """
    total = under.shape[axis]
    inside = (rows >= 0) & (rows < total)
    if total > LARGEST or len(np.unique(rows[inside])) < int(inside.sum()):
        return None
    index: Index = np.full(total, -1, np.intp)
    index[rows[inside]] = np.flatnonzero(inside)
    left = under
    if under.weights and not adds:
        left = pick(under, axis, total, lambda: np.where(index < 0, np.arange(total), -1), uses, line)
    return _beside([left, pick(over, axis, total, lambda: index, uses, line)], axis, under.shape)


def scattered(over: Value, numbers: Any, shape: Sequence[int]) -> tuple[View, ...]:
    """Return the outputs in rows of a signal that are added up in places that are not known, as messages at nodes.

    Args:
        over: the rows.
        numbers: the dimension numbers of the scatter.
        shape: the shape of the result.
    """
    if numbers.operand_batching_dims:
        return ()
    kept = [axis for axis in range(len(shape)) if axis not in numbers.inserted_window_dims]
    window = dict(zip(kept, numbers.update_window_dims, strict=True))
    if any(over.shape[index] != shape[axis] for axis, index in window.items()):
        return ()
    return scaled(in_place(over.outputs, [window.get(axis) for axis in range(len(shape))], shape))


def join(values: Sequence[Value], shape: Sequence[int], axis: int, uses: Uses, line: str) -> Value:
    """Follow a concatenation; parts of one output axis that come together again are not gates."""
    together([view for value in values for view in value.outputs if not is_foreign(view.axes[axis])], uses)
    if any(value.data for value in values):
        values = [settle(value, uses, line) for value in values]
    if not any(value.weights for value in values):
        return Value(
            shape=tuple(shape),
            data=any(value.data for value in values),
            columns=tuple(values) if axis == len(shape) - 1 and any(value.constant for value in values) else (),
            outputs=_outputs_of_all(values, shape, axis),
            joined=_outputs_beside(values, shape, axis),
        )
    apart, offset = [], 0
    for value in values:
        apart.append(put(value, [offset if index == axis else 0 for index in range(len(shape))], shape, uses, line))
        offset += value.shape[axis]
    return _beside(apart, axis, shape)


def _outputs_of_all(values: Sequence[Value], shape: Sequence[int], axis: int) -> tuple[View, ...]:
    """Return the outputs that all signals hold which are joined along an axis of the signal, such as tokens."""
    places = [None if index == axis else index for index in range(len(shape))]
    held = [set(scaled(in_place(value.outputs, places, shape))) for value in values if value.data]
    common = set.intersection(*held) if held else set()
    return tuple(sorted(common, key=lambda view: view.use))


def _outputs_beside(values: Sequence[Value], shape: Sequence[int], axis: int) -> tuple[View, ...]:
    """Return outputs of one parameter that several signals hold, with their places where these are joined."""
    held = [(*value.outputs, *value.joined, *value.products) for value in values]
    count = collections.Counter(view.param for views in held for view in views)
    functions = {view.use for views in held for view in views if view.bent}  # beside functions of them they are no sums
    found, offset = [], 0
    for value, views in zip(values, held, strict=True):
        twice = [view for view in views if count[view.param] > 1 and value.shape[axis]]
        apart = (replace(view, scaled=view.scaled or view.use in functions) for view in twice)
        found += [in_slot(view, axis, offset, shape[axis]) for view in apart]
        offset += value.shape[axis]
    return tuple(found)


def _beside(values: Sequence[Value], axis: int | None, shape: Sequence[int]) -> Value:
    """Return the sum of values that have entries in different places; parts of one parameter become one again."""
    views: list[View] = []
    for view in (view for value in values for view in value.weights):
        for index, other in enumerate(views):
            both = None if axis is None or other.param != view.param else merged(other, view, axis)
            if both is not None:
                views[index] = both
                break
        else:
            views.append(view)
    return Value(shape=tuple(shape), weights=tuple(dict.fromkeys(views)), data=any(value.data for value in values))


def merged_parts(value: Value) -> list[View]:
    """Return the outputs that were joined along a new axis which is a part of one of theirs now, by a reshape."""
    return [
        view
        for view in value.joined
        if any(
            any(isinstance(factor, Slot) and not factor.factors for factor in axis)
            and any(factor.axis >= 0 for factor in axis)
            for axis in view.axes
        )
    ]


def together(views: Sequence[View], uses: Uses) -> None:
    """Note that all parts of one output axis came together again, as halves do that are rotated.

    Gates that have gone through functions of their own stay gates.

    Args:
        views: outputs that stand beside each other now.
        uses: the uses so far.
    """
    seen: dict[tuple[int, Factor], set[tuple[int, int]]] = {}
    for view in views:
        for factor, digit in view.fixed if not (view.summed or view.bent) else ():
            seen.setdefault((view.param, factor), set()).add((view.use, digit))
    for (_, factor), taken in seen.items():
        if 1 < len({digit for _, digit in taken}) == factor.size:
            for use, _ in taken:
                uses.found[use].outputs.rejoined.add(factor)
