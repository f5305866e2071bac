"""Rules of single equations: what an equation does to the parameters and signals in its operands.

A rule returns the results, or `None` where it can't tell. The table in `_primitives.py` has the rule of each primitive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initax._trace import _elementwise as elementwise
from initax._trace import _layout as layout
from initax._trace._factors import foreign, is_foreign, other_axes, without
from initax._trace._gather import entry
from initax._trace._indices import Constant, Series
from initax._trace._jaxpr import shapes_of
from initax._trace._pairs import imaginary, paired, turned
from initax._trace._sums import SHARED, joined_summed, note_mixed, note_shared, summed, summed_product, taken_steps
from initax._trace._uses import Uses, Value
from initax._trace._views import Link, Stop, View, kept_whole, multiplied, written_axis

Values = Sequence[Value]


def keep(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a function, entry by entry, that leaves a weight a weight."""
    value = replace(values[0], columns=()) if values[0].columns else values[0]
    return replace(value, weights=multiplied(value.weights, -1.0)) if eqn.primitive.name == "neg" else value


def reshape(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a reshape."""
    order = eqn.params["dimensions"] or range(len(values[0].shape))
    transposed = layout.rearrange(values[0], order, [values[0].shape[axis] for axis in order])
    result = layout.reshape(transposed, shapes_of(eqn)[0], line)
    layout.note_rejoined(layout.merged_parts(result), uses)
    return result


def transpose(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a transpose."""
    return layout.rearrange(values[0], eqn.params["permutation"], shapes_of(eqn)[0])


def squeeze(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a value without some axes of size one."""
    old_axes = other_axes(len(values[0].shape), eqn.params["dimensions"])
    return layout.rearrange(values[0], old_axes, shapes_of(eqn)[0])


def broadcast_in_dim(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a broadcast."""
    return layout.broadcast(values[0], shapes_of(eqn)[0], eqn.params["broadcast_dimensions"])


def concatenate(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a concatenation."""
    return layout.join(values, shapes_of(eqn)[0], eqn.params["dimension"], uses, line)


def stack(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow values that are stacked along a new axis: a concatenation of axes of size one."""
    shape, axis = shapes_of(eqn)[0], eqn.params["axis"] % (len(values[0].shape) + 1)
    old_axes = [*range(axis), None, *range(axis, len(shape) - 1)]
    rows = [layout.rearrange(value, old_axes, (*shape[:axis], 1, *shape[axis + 1 :])) for value in values]
    return layout.join(rows, shape, axis, uses, line)


def add(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a sum or a difference."""
    if any(map(uses.is_shared, eqn.invars)):
        note_shared(values[0], values[1], uses, line)
    left, right = paired(values[0], values[1], uses)
    return elementwise.added(eqn.primitive.name, left, right, shapes_of(eqn)[0], uses, line)


def mul(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a product."""
    first = len(uses.all)
    result = elementwise.multiplied(values[0], values[1], shapes_of(eqn)[0], uses, line)
    for use in uses.all[first:]:
        use.signal = uses.whole(eqn.invars[1 if values[0].weights else 0])
    return turned(eqn, result)


def complex_of(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a real and an imaginary part that become complex."""
    layout.note_rejoined([view for value in values for view in value.outputs], uses)
    return add(eqn, [values[0], imaginary(values[1])], uses, line)


def cut(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a slice."""
    value = values[0]
    strides = eqn.params["strides"] or [1] * len(value.shape)
    shape = shapes_of(eqn)[0]
    for axis, (start, stride) in enumerate(zip(eqn.params["start_indices"], strides, strict=True)):
        value = layout.cut(value, axis, int(start), shape[axis], int(stride), uses, line)
    return value


def split(eqn: Any, values: Values, uses: Uses, line: str) -> list[Value]:
    """Follow a split along an axis."""
    value = values[0]
    axis, start, results = eqn.params["axis"], 0, []
    for size in map(int, eqn.params["sizes"]):
        results.append(layout.cut(value, axis, start, size, 1, uses, line))
        start += size
    return results


def unstack(eqn: Any, values: Values, uses: Uses, line: str) -> list[Value]:
    """Follow entries along an axis that become values of their own; JAX has a primitive for it from 0.12 on."""
    value = values[0]
    axis = eqn.params["axis"] % len(value.shape)
    shape = (*value.shape[:axis], *value.shape[axis + 1 :])
    old_axes = other_axes(len(value.shape), (axis,))
    entries = (layout.cut(value, axis, start, 1, 1, uses, line) for start in range(value.shape[axis]))
    return [layout.rearrange(entry, old_axes, shape) for entry in entries]


def dynamic_slice(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a slice at an index that is computed."""
    value, starts = values[0], values[1:]
    for axis, size in enumerate(eqn.params["slice_sizes"]):
        if size == value.shape[axis]:
            continue
        start = starts[axis].numbers
        if start is not None:
            first = min(max(int(start), 0), value.shape[axis] - size)
            value = layout.cut(value, axis, first, size, 1, uses, line)
        elif size == 1:
            value = entry(value, axis, starts[axis], uses.place, 1 + axis, uses.whole(eqn.invars[1 + axis]))
        else:
            value = _window(value, axis, size, line)
    return value


def _window(value: Value, axis: int, size: int, line: str) -> Value:
    """Return a window of an axis at an unknown index."""

    def move(view: View) -> View | None:
        return view.with_axis(axis, foreign(size)) if is_foreign(view.axes[axis]) else None

    without_outputs = Value(shape=value.shape, data=value.data, weights=value.weights)
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    return layout.moved(without_outputs, shape, move, (), "a window at a changing place is taken of it", line)


def dynamic_update_slice(eqn: Any, values: Values, uses: Uses, line: str) -> Value | None:
    """Follow a value of which a block is overwritten."""
    under, over, *starts = values
    known = [int(start.numbers) for start in starts if start.numbers is not None]
    if len(known) < len(starts) or any(start.data for start in starts) or not _is_parameter(*values):
        changing = {axis: start.constant for axis, start in enumerate(starts) if start.numbers is None}
        return _with_step_rows(under, over, changing, uses) or _overwritten(eqn, values, uses)
    last = [total - size for total, size in zip(under.shape, over.shape, strict=True)]
    clamped = [min(max(start, 0), end) for start, end in zip(known, last, strict=True)]
    return _written(under, over, layout.write(under, over, clamped, uses, line))


def scatter(eqn: Any, values: Values, uses: Uses, line: str) -> Value | None:
    """Follow a value some of whose entries are overwritten, or added to."""
    under, indices, over = values
    adds, numbers = eqn.primitive.name == "scatter-add", eqn.params["dimension_numbers"]
    axes, inserted = numbers.scatter_dims_to_operand_dims, numbers.inserted_window_dims
    batched = numbers.operand_batching_dims
    kept = other_axes(len(under.shape), (*inserted, *batched))
    window = dict(zip(kept, numbers.update_window_dims, strict=True))
    block = None
    if math.prod(indices.shape[:-1]) == 1 and not batched:
        old_axes = [window.get(axis) for axis in range(len(under.shape))]
        block = layout.rearrange(over, old_axes, [1 if axis is None else over.shape[axis] for axis in old_axes])
    number = None if indices.data else indices.numbers
    has_outputs = under.outputs or under.joined or over.outputs or over.joined
    if number is None and not adds and has_outputs:
        written = block and _with_step_rows(under, block, dict.fromkeys(axes, indices.constant), uses)
        return written or _overwritten(eqn, (under, over), uses)
    has_weights = bool(under.weights or over.weights)
    if number is None or not (_is_parameter(under, over) or (has_outputs and not has_weights)):
        return _overwritten(eqn, (under, over), uses)
    if batched or (adds and under.weights and over.weights):
        return None
    rows = number.reshape(math.prod(number.shape[:-1]), number.shape[-1])
    if block is not None:
        starts = [int(rows[0][axes.index(axis)]) if axis in axes else 0 for axis in range(len(under.shape))]
        sizes = zip(starts, under.shape, block.shape, strict=True)
        if not all(0 <= start <= total - size for start, total, size in sizes):
            return None
        write = layout.write if has_weights else _with_block
        return _written(under, over, write(under, block, starts, uses, line, adds))
    if not has_weights:
        note_mixed(over.outputs if adds else (), range(len(over.shape)), uses, line)
        return _overwritten(eqn, (under, over), uses)
    row_axes = other_axes(len(over.shape), numbers.update_window_dims)
    if len(axes) != 1 or axes != inserted or len(row_axes) != 1:
        return None
    if any(over.shape[index] != under.shape[axis] for axis, index in window.items()):
        return None
    order = [row_axes[0] if axis in axes else window[axis] for axis in range(len(under.shape))]
    block = layout.rearrange(over, order, [over.shape[axis] for axis in order])
    written = layout.write_rows(under, block, axes[0], rows[:, 0].astype(np.intp), uses, line, adds)
    return _written(under, over, written)


def _written(under: Value, over: Value, result: Value | None) -> Value | None:
    """Return a value into which another is written, with its parameters marked where either is a constant."""
    return None if result is None else result.beside(under, over)


def _with_step_rows(under: Value, row: Value, indices: Mapping[int, Constant | None], uses: Uses) -> Value | None:
    """Return a signal of which each step of a loop overwrites one entry along an axis; `None` where that is not so.

    Args:
        under: the signal.
        row: the entry.
        indices: axis → the index of the entry, for the axes along which it is not known.
        uses: the uses so far.
    """
    (axis, index), *others = indices.items() or [(0, None)]
    if others or under.weights or row.weights or not isinstance(index, Series) or row.shape[axis] != 1:
        return None
    views = []
    for view in (*row.outputs, *row.joined):
        steps = [step for step in taken_steps(view, uses, index.loop) if step.loop is not None]
        factors = written_axis(index, steps[0], under.shape[axis]) if len(steps) == 1 else None
        if factors is not None:
            views.append(view.with_axis(axis, factors))
    return Value(shape=under.shape, data=True, joined=(*under.joined, *views)) if views else None


def _with_block(under: Value, block: Value, starts: Sequence[int], uses: Uses, line: str, adds: bool) -> Value:
    """Return a signal of which a block is overwritten, or added to, at known indices."""
    over = layout.put(block, starts, under.shape, uses, line)
    if adds:
        return elementwise.added("add", under, over, under.shape, uses, line)
    layout.note_rejoined((*under.outputs, *over.outputs), uses)
    views = (*under.outputs, *under.joined, *over.outputs, *over.joined)
    return Value(shape=under.shape, data=True, joined=tuple(dict.fromkeys(views)))


def _is_parameter(*values: Value) -> bool:
    """Return whether some values hold parameters, and no signal."""
    return any(value.weights for value in values) and not any(value.data for value in values)


def _overwritten(eqn: Any, values: Values, uses: Uses) -> Value | None:
    """Return a value some of whose entries are overwritten, or added to, at unknown indices.

    Args:
        eqn: the equation.
        values: the value, the entries, and the indices where they may be signals.
        uses: the uses so far.
    """
    under, over, *_ = values
    layout.note_rejoined((*under.outputs, *over.outputs), uses)
    if any(value.weights for value in values):
        return None
    shape, outputs = shapes_of(eqn)[0], tuple[View, ...]()
    if eqn.primitive.name == "scatter-add" and not under.data:
        outputs = layout.scattered(over, eqn.params["dimension_numbers"], shape)
    return Value(shape=shape, data=any(value.data for value in values), outputs=outputs)


def pad(eqn: Any, values: Values, uses: Uses, line: str) -> Value | None:
    """Follow padding."""
    if values[1].data or values[1].weights:
        return None
    return layout.pad(values[0], eqn.params["padding_config"], uses, line).beside(values[1])


def select(eqn: Any, values: Values, uses: Uses, line: str) -> Value | None:
    """Follow a choice between values, entry by entry; a constant mask leaves a weight a weight."""
    shape = shapes_of(eqn)[0]
    which, *cases = (elementwise.fitted(value, shape) for value in values)
    weighted = [case for case in cases if case.weights]
    if not weighted:
        return None if which.weights else elementwise.chosen(which, cases, shape)
    if which.data and not which.weights and not all(case.looked for case in weighted):
        stop = Stop("the data choose between it and something else", line)
        stopped = [elementwise.halted(case, stop) for case in cases]
        return elementwise.nonlinear("select_n", [*stopped, which], shape, uses, line)
    if which.weights or any(case.data and not case.weights for case in cases):
        return None
    views = tuple(dict.fromkeys(view for case in weighted for view in case.weights))
    mask = which.constant.number if which.constant is not None else None
    if mask is not None and len(cases) == 2 and len(weighted) == 1:
        is_second = cases[1] is weighted[0]
        views = tuple(elementwise.masked(view, np.asarray(mask, bool) == is_second) for view in views)
    chosen = Value(shape=shape, data=any(case.data for case in weighted), weights=multiplied(views, None))
    return chosen.beside(*cases)


def reduce_sum(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a sum over axes; after a product with the signal it makes a contraction of it."""
    value, axes, shape = values[0], eqn.params["axes"], shapes_of(eqn)[0]
    kept = other_axes(len(value.shape), axes)
    if all(value.shape[axis] == 1 for axis in axes):
        return layout.rearrange(value, kept, shape)
    if value.weights:
        return _sum_of_parameters(value, axes, shape, uses, line)
    if uses.is_centered(eqn.invars[0]) and not any(uses.of(view).is_summed_later for view in value.outputs):
        value = replace(value, outputs=(), joined=(), products=())  # the mean of a norm
    elif uses.is_shared(eqn.invars[0]):
        note_mixed(value.outputs, axes, uses, line, SHARED)
    joined, whole = joined_summed(value.joined, axes, uses, line)
    outputs = [
        *(summed_product(view, axes, uses, line) for view in value.products),
        *(summed(view, axes, uses, line) for view in value.outputs),
        *whole,
    ]
    return Value(
        shape=shape,
        data=value.data,
        outputs=tuple(filter(None, outputs)),
        joined=tuple(joined),
        products=kept_whole(value.products, kept, shape),
        stretched=frozenset(axis for axis, old in enumerate(kept) if old in value.stretched),
    )


def _sum_of_parameters(value: Value, axes: Sequence[int], shape: tuple[int, ...], uses: Uses, line: str) -> Value:
    """Return parameters summed over axes, as a contraction with ones where they can be read so."""

    def is_plain(view: View) -> bool:
        factors = [factor for axis in axes for factor in view.axes[axis] if factor.size > 1]
        is_whole = all(factor.axis >= 0 for factor in factors)
        return is_whole and not (view.links or view.stop or view.running or view.looked or view.picked)

    def summed_view(view: View, links: tuple[Link, ...]) -> View:
        return replace(view, axes=without(view.axes, *axes), links=links)

    if not value.data and all(map(is_plain, value.weights)):
        number = -next(uses.links)
        views = []
        for view in value.weights:
            link = Link(number, tuple(factor for axis in axes for factor in view.axes[axis]), plain=True)
            views.append(summed_view(view, (*view.links, link)))
        return Value(shape=shape, weights=tuple(views))
    # Parameters that were contracted with a constant are not a signal here: the links are left out.
    smaller = replace(value.with_weights(lambda view: summed_view(view, ())), shape=shape)
    return elementwise.nonlinear("a sum over its axes", [smaller], shape, uses, line)


def psum(eqn: Any, values: Values, uses: Uses, line: str) -> Value | None:
    """Follow a sum over an axis that `vmap` names, which is an axis of the operand."""
    whole = all(isinstance(axis, int) for axis in eqn.params["axes"]) and not eqn.params.get("axis_index_groups")
    return reduce_sum(eqn, values, uses, line) if whole and len(values) == 1 else None


def pooled(eqn: Any, values: Values, uses: Uses, line: str) -> None:
    """Follow sums over windows."""
    wide = [axis for axis, size in enumerate(eqn.params["window_dimensions"]) if size > 1]
    note_mixed(values[0].outputs, wide, uses, line)
