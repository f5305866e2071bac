"""Rules of single equations: what one does to the parameters and signals in its operands.

A rule returns what the results hold, or `None` where it can't tell. The table in `_primitives.py` says which primitive
goes by which rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initax._trace import _elementwise as elementwise
from initax._trace import _layout as layout
from initax._trace._factors import foreign, is_foreign, without
from initax._trace._indices import Constant, Series, shapes_of
from initax._trace._pairs import imaginary, paired, turned
from initax._trace._sums import SHARED, joined_summed, mixed, shared, summed, summed_product, taken_steps
from initax._trace._uses import Uses, Value
from initax._trace._views import Link, Stop, View, entries_at, in_place

Values = Sequence[Value]


def keep(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a function, entry by entry, behind which a weight is still a weight."""
    return replace(values[0], columns=()) if values[0].columns else values[0]


def reshape(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a reshape."""
    order = eqn.params["dimensions"] or range(len(values[0].shape))
    turned = layout.rearrange(values[0], order, [values[0].shape[axis] for axis in order])
    result = layout.reshape(turned, shapes_of(eqn)[0], line)
    layout.together(layout.merged_parts(result), uses)
    return result


def transpose(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a transpose."""
    return layout.rearrange(values[0], eqn.params["permutation"], shapes_of(eqn)[0])


def squeeze(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow axes of size one that go."""
    places = [axis for axis in range(len(values[0].shape)) if axis not in eqn.params["dimensions"]]
    return layout.rearrange(values[0], places, shapes_of(eqn)[0])


def broadcast_in_dim(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a broadcast."""
    return layout.broadcast(values[0], shapes_of(eqn)[0], eqn.params["broadcast_dimensions"])


def concatenate(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a concatenation."""
    return layout.join(values, shapes_of(eqn)[0], eqn.params["dimension"], uses, line)


def stack(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow values that are stacked along a new axis: a concatenation of axes of size one."""
    shape, axis = shapes_of(eqn)[0], eqn.params["axis"] % (len(values[0].shape) + 1)
    places = [*range(axis), None, *range(axis, len(shape) - 1)]
    rows = [layout.rearrange(value, places, (*shape[:axis], 1, *shape[axis + 1 :])) for value in values]
    return layout.join(rows, shape, axis, uses, line)


def add(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a sum or a difference."""
    if any(map(uses.is_shared, eqn.invars)):
        shared(values[0], values[1], uses, line)
    left, right = paired(values[0], values[1], uses)
    return elementwise.added(eqn.primitive.name, left, right, shapes_of(eqn)[0], uses, line)


def mul(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a product."""
    first = len(uses.found)
    result = elementwise.multiplied(values[0], values[1], shapes_of(eqn)[0], uses, line)
    for use in uses.found[first:]:
        use.signal = uses.whole(eqn.invars[1 if values[0].weights else 0])
    return turned(eqn, result)


def complex_of(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a real and an imaginary part that become complex."""
    layout.together([view for value in values for view in value.outputs], uses)
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
    places = [each for each in range(len(value.shape)) if each != axis]
    entries = (layout.cut(value, axis, start, 1, 1, uses, line) for start in range(value.shape[axis]))
    return [layout.rearrange(entry, places, shape) for entry in entries]


def dynamic_slice(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a slice at a place that is worked out."""
    value, starts = values[0], values[1:]
    for axis, size in enumerate(eqn.params["slice_sizes"]):
        if size == value.shape[axis]:
            continue
        start = starts[axis].numbers
        if start is not None:
            first = min(max(int(start), 0), value.shape[axis] - size)
            value = layout.cut(value, axis, first, size, 1, uses, line)
        elif size == 1:
            value = layout.entry(value, axis, starts[axis], uses.at, 1 + axis, uses.whole(eqn.invars[1 + axis]))
        else:
            value = _window(value, axis, size, line)
    return value


def _window(value: Value, axis: int, size: int, line: str) -> Value:
    """Return a window of an axis at a place that is not known."""

    def move(view: View) -> View | None:
        return view.with_axis(axis, foreign(size)) if is_foreign(view.axes[axis]) else None

    held = Value(shape=value.shape, data=value.data, weights=value.weights)
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    return layout.moved(held, shape, move, (), "a window at a changing place is taken of it", line)


def dynamic_update_slice(eqn: Any, values: Values, uses: Uses, line: str) -> Value | None:
    """Follow a value of which a block is overwritten."""
    under, over, *starts = values
    numbers = [start.numbers for start in starts]
    found = [int(number) for number in numbers if number is not None]
    if len(found) < len(starts) or any(start.data for start in starts) or not _readable(values):
        where = {axis: start.constant for axis, start in enumerate(starts) if start.numbers is None}
        return _put_in(under, over, where, uses) or _overwritten(eqn, values, uses)
    last = [total - size for total, size in zip(under.shape, over.shape, strict=True)]
    first = [min(max(start, 0), most) for start, most in zip(found, last, strict=True)]
    return layout.write(under, over, first, uses, line)


def scatter(eqn: Any, values: Values, uses: Uses, line: str) -> Value | None:
    """Follow a value some of whose entries are overwritten, or added to."""
    under, indices, over = values
    adds, numbers = eqn.primitive.name == "scatter-add", eqn.params["dimension_numbers"]
    axes, gone = numbers.scatter_dims_to_operand_dims, numbers.inserted_window_dims
    batched = numbers.operand_batching_dims
    kept = [axis for axis in range(len(under.shape)) if axis not in (*gone, *batched)]
    window = dict(zip(kept, numbers.update_window_dims, strict=True))
    block = None
    if math.prod(indices.shape[:-1]) == 1 and not batched:
        places = [window.get(axis) for axis in range(len(under.shape))]
        block = layout.rearrange(over, places, [1 if index is None else over.shape[index] for index in places])
    number = None if indices.data else indices.numbers
    holds = under.outputs or under.joined or over.outputs or over.joined
    if number is None and not adds and holds:
        found = block and _put_in(under, block, dict.fromkeys(axes, indices.constant), uses)
        return found or _overwritten(eqn, (under, over), uses)
    no_weights = not under.weights and not over.weights
    if number is None or not (_readable((under, over)) or (holds and no_weights)):
        return _overwritten(eqn, (under, over), uses)
    if batched or (adds and under.weights and over.weights):
        return None
    rows = number.reshape(math.prod(number.shape[:-1]), number.shape[-1])
    if block is not None:
        starts = [int(rows[0][axes.index(axis)]) if axis in axes else 0 for axis in range(len(under.shape))]
        sizes = zip(starts, under.shape, block.shape, strict=True)
        if not all(0 <= start <= total - size for start, total, size in sizes):
            return None
        write = _placed if no_weights else layout.write
        return write(under, block, starts, uses, line, adds)
    if no_weights:
        mixed(over.outputs if adds else (), range(len(over.shape)), uses, line)
        return _overwritten(eqn, (under, over), uses)
    around = [index for index in range(len(over.shape)) if index not in numbers.update_window_dims]
    if len(axes) != 1 or axes != gone or len(around) != 1:
        return None
    if any(over.shape[index] != under.shape[axis] for axis, index in window.items()):
        return None
    order = [around[0] if axis in axes else window[axis] for axis in range(len(under.shape))]
    block = layout.rearrange(over, order, [over.shape[index] for index in order])
    return layout.write_rows(under, block, axes[0], rows[:, 0].astype(np.intp), uses, line, adds)


def _put_in(under: Value, over: Value, where: Mapping[int, Constant | None], uses: Uses) -> Value | None:
    """Return a signal of which each step of a loop overwrites one entry along an axis; `None` where that is not so.

    Args:
        under: the signal.
        over: the entry.
        where: axis → the number of the entry, for the axes where it changes.
        uses: the uses so far.
    """
    (axis, number), *others = where.items() or [(0, None)]
    if others or under.weights or over.weights or not isinstance(number, Series) or over.shape[axis] != 1:
        return None
    views = []
    for view in (*over.outputs, *over.joined):
        steps = [step for step in taken_steps(view, uses, number.loop) if step.loop is not None]
        held = entries_at(number, steps[0], under.shape[axis]) if len(steps) == 1 else None
        if held is not None:
            views.append(view.with_axis(axis, held))
    return Value(shape=under.shape, data=True, joined=(*under.joined, *views)) if views else None


def _placed(under: Value, block: Value, starts: Sequence[int], uses: Uses, line: str, adds: bool) -> Value:
    """Return a signal of which a block is overwritten, or added to, at a known place."""
    over = layout.put(block, starts, under.shape, uses, line)
    if adds:
        return elementwise.added("add", under, over, under.shape, uses, line)
    layout.together((*under.outputs, *over.outputs), uses)
    views = (*under.outputs, *under.joined, *over.outputs, *over.joined)
    return Value(shape=under.shape, data=True, joined=tuple(dict.fromkeys(views)))


def _readable(values: Values) -> bool:
    """Return whether some values hold parameters, and none is a signal."""
    return any(value.weights for value in values) and not any(value.data for value in values)


def _overwritten(eqn: Any, values: Values, uses: Uses) -> Value | None:
    """Return a value some of whose entries are overwritten at places that are not known."""
    layout.together([view for value in values[:2] for view in value.outputs], uses)
    if any(value.weights for value in values):
        return None
    shape, found = shapes_of(eqn)[0], tuple[View, ...]()
    if eqn.primitive.name == "scatter-add" and not values[0].data:
        found = layout.scattered(values[1], eqn.params["dimension_numbers"], shape)
    return Value(shape=shape, data=any(value.data for value in values), outputs=found)


def pad(eqn: Any, values: Values, uses: Uses, line: str) -> Value | None:
    """Follow padding."""
    if values[1].data or values[1].weights:
        return None
    return layout.pad(values[0], eqn.params["padding_config"], uses, line)


def select(eqn: Any, values: Values, uses: Uses, line: str) -> Value | None:
    """Follow a choice between values, entry by entry; a constant mask leaves a weight a weight."""
    shape = shapes_of(eqn)[0]
    which, *cases = (elementwise.fitted(value, shape) for value in values)
    held = [case for case in cases if case.weights]
    if not held:
        return None if which.weights else elementwise.chosen(which, cases, shape)
    if which.data and not which.weights and not all(case.looked for case in held):
        stop = Stop("the data choose between it and something else", line)
        stopped = [elementwise.halted(case, stop) for case in cases]
        return elementwise.nonlinear("select_n", [*stopped, which], shape, uses, line)
    if which.weights or any(case.data and not case.weights for case in cases):
        return None
    views = tuple(dict.fromkeys(view for case in held for view in case.weights))
    chosen = which.constant.number if which.constant is not None else None
    if chosen is not None and len(cases) == 2 and len(held) == 1:
        is_second = cases[1] is held[0]
        views = tuple(elementwise.masked(view, np.asarray(chosen, bool) == is_second) for view in views)
    return Value(shape=shape, data=any(case.data for case in held), weights=views)


def reduce_sum(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a sum over axes; after a product with the signal it is a contraction, written out."""
    value, axes, shape = values[0], eqn.params["axes"], shapes_of(eqn)[0]
    if all(value.shape[axis] == 1 for axis in axes):
        return layout.rearrange(value, [axis for axis in range(len(value.shape)) if axis not in axes], shape)
    if value.weights:
        if not value.data and all(_is_plain_sum(view, axes) for view in value.weights):
            number = -next(uses.links)
            gone = (tuple(factor for axis in axes for factor in view.axes[axis]) for view in value.weights)
            sums = (
                replace(view, axes=without(view.axes, *axes), links=(*view.links, Link(number, factors, plain=True)))
                for view, factors in zip(value.weights, gone, strict=True)
            )
            return Value(shape=shape, weights=tuple(sums))
        # Of a constant's outputs, too, it is a sum: what is contracted with a constant is no signal by that.
        views = (replace(view, axes=without(view.axes, *axes), links=()) for view in value.weights)
        smaller = replace(value, shape=shape, weights=tuple(views))
        return elementwise.nonlinear("a sum over its axes", [smaller], shape, uses, line)
    rest = [index for index in range(len(value.shape)) if index not in axes]
    if uses.is_centered(eqn.invars[0]) and not any(uses.found[view.use].is_summed_later for view in value.outputs):
        value = replace(value, outputs=(), joined=(), products=())  # the mean of a norm
    elif uses.is_shared(eqn.invars[0]):
        mixed(value.outputs, axes, uses, line, SHARED)
    apart, together = joined_summed(value.joined, axes, uses, line)
    outputs = [
        *(summed_product(view, axes, uses, line) for view in value.products),
        *(summed(view, axes, uses, line) for view in value.outputs),
        *together,
    ]
    return Value(
        shape=shape,
        data=value.data,
        outputs=tuple(filter(None, outputs)),
        joined=tuple(apart),
        products=in_place(value.products, rest, shape),
        stretched=frozenset(index for index, old in enumerate(rest) if old in value.stretched),
    )


def psum(eqn: Any, values: Values, uses: Uses, line: str) -> Value | None:
    """Follow a sum over an axis that `vmap` names, which is an axis of the operand."""
    whole = all(isinstance(axis, int) for axis in eqn.params["axes"]) and not eqn.params.get("axis_index_groups")
    return reduce_sum(eqn, values, uses, line) if whole and len(values) == 1 else None


def pooled(eqn: Any, values: Values, uses: Uses, line: str) -> None:
    """Follow sums over windows."""
    wide = [axis for axis, size in enumerate(eqn.params["window_dimensions"]) if size > 1]
    mixed(values[0].outputs, wide, uses, line)


def _is_plain_sum(view: View, axes: Sequence[int]) -> bool:
    """Return whether a sum adds up all entries of stored axes, each once."""
    gone = [factor for index in axes for factor in view.axes[index] if factor.size > 1]
    whole = all(factor.axis >= 0 for factor in gone)
    return whole and not (view.links or view.stop or view.running or view.looked or view.picked)
