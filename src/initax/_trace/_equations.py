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
from initax._trace._contract import convolution, dot_general
from initax._trace._entries import marked
from initax._trace._factors import FOREIGN, Factor
from initax._trace._indices import Constant, Series
from initax._trace._pairs import imaginary, paired, turned
from initax._trace._sums import SHARED, joined_summed, mixed, shared, summed, summed_product, taken_steps
from initax._trace._uses import Uses, Value
from initax._trace._views import Link, Stop, View, entries_at

Values = Sequence[Value]


def shapes_of(eqn: Any) -> list[tuple[int, ...]]:
    """Return the shapes of an equation's results."""
    return [tuple(getattr(var.aval, "shape", ())) for var in eqn.outvars]


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


def rev(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow entries in reversed order."""
    return layout.turn(values[0], eqn.params["dimensions"], uses, line)


def tile(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow entries that are repeated."""
    return layout.tile(values[0], eqn.params["reps"], shapes_of(eqn)[0])


def cumsum(eqn: Any, values: Values, uses: Uses, line: str) -> Value | None:
    """Follow a running sum."""
    mixed(values[0].outputs, [eqn.params["axis"]], uses, line)
    return layout.running(values[0], eqn.params["axis"], eqn.primitive.name, line)


def gather(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a look-up by an array of indices."""
    return layout.gather(values[0], values[1], eqn, uses, line)


def concatenate(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a concatenation."""
    return layout.join(values, shapes_of(eqn)[0], eqn.params["dimension"], uses, line)


def stack(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow values that are stacked along a new axis: a concatenation of axes of size one."""
    shape, axis = shapes_of(eqn)[0], eqn.params["axis"] % (len(values[0].shape) + 1)
    places = [*range(axis), None, *range(axis, len(shape) - 1)]
    rows = [layout.rearrange(value, places, (*shape[:axis], 1, *shape[axis + 1 :])) for value in values]
    return layout.join(rows, shape, axis, uses, line)


def contract(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a contraction."""
    return dot_general(values[0], values[1], eqn, uses, line)


def convolve(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a convolution."""
    return convolution(values[0], values[1], eqn, uses, line)


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


def div(eqn: Any, values: Values, uses: Uses, line: str) -> Value:
    """Follow a quotient."""
    return elementwise.divided(values[0], values[1], shapes_of(eqn)[0], uses, line)


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
            value = _lost(value, axis, size, line)
    return value


def _lost(value: Value, axis: int, size: int, line: str) -> Value:
    """Return a window of an axis at a place that is not known."""
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    stop = Stop("a window at a changing place is taken of it", line)
    views = tuple(
        replace(view, axes=(*view.axes[:axis], (Factor(FOREIGN, 1, size),), *view.axes[axis + 1 :]))
        if all(factor.axis == FOREIGN for factor in view.axes[axis])
        else replace(view.halted(stop), axes=tuple((Factor(FOREIGN, 1, each),) for each in shape))
        for view in value.weights
    )
    return Value(shape=shape, data=value.data, weights=views)


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
    adds = eqn.primitive.name == "scatter-add"
    number = None if indices.data else indices.numbers
    holds = under.outputs or under.joined or over.outputs or over.joined
    if number is None and not adds and holds:
        numbers = eqn.params["dimension_numbers"]
        places = [None if axis in numbers.inserted_window_dims else 0 for axis in range(len(under.shape))]
        window = iter(numbers.update_window_dims)
        places = [None if place is None else next(window) for place in places]
        block = layout.rearrange(over, places, [1 if index is None else over.shape[index] for index in places])
        where = dict.fromkeys(numbers.scatter_dims_to_operand_dims, indices.constant)
        one = math.prod(indices.shape[:-1]) == 1
        return (one and _put_in(under, block, where, uses)) or _overwritten(eqn, (under, over), uses)
    if number is None or not (_readable((under, over)) or (holds and not under.weights and not over.weights)):
        return _overwritten(eqn, (under, over), uses)
    if adds and under.weights and over.weights:
        return None
    numbers = eqn.params["dimension_numbers"]
    axes, gone = numbers.scatter_dims_to_operand_dims, numbers.inserted_window_dims
    if numbers.operand_batching_dims:
        return None
    rows = number.reshape(math.prod(number.shape[:-1]), number.shape[-1])
    kept = [axis for axis in range(len(under.shape)) if axis not in gone]
    window = dict(zip(kept, numbers.update_window_dims, strict=True))
    if len(rows) == 1:
        places = [window.get(axis) for axis in range(len(under.shape))]
        block = layout.rearrange(over, places, [1 if index is None else over.shape[index] for index in places])
        starts = [int(rows[0][axes.index(axis)]) if axis in axes else 0 for axis in range(len(under.shape))]
        fits = all(
            0 <= start <= total - size for start, total, size in zip(starts, under.shape, block.shape, strict=True)
        )
        if fits and not under.weights and not over.weights:
            return _placed(eqn, under, block, starts, uses, line)
        return layout.write(under, block, starts, uses, line, adds) if fits else None
    if not under.weights and not over.weights:
        mixed(over.outputs if adds else (), range(len(over.shape)), uses, line)
        return _overwritten(eqn, (under, over), uses)
    around = [index for index in range(len(over.shape)) if index not in numbers.update_window_dims]
    if len(axes) != 1 or axes != gone or len(around) != 1:
        return None
    places = [around[0] if axis in axes else window[axis] for axis in range(len(under.shape))]
    shape = [over.shape[index] for index in places if index is not None]
    if any(shape[axis] != under.shape[axis] for axis in kept):
        return None
    block = layout.rearrange(over, places, shape)
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
            views.append(replace(view, axes=(*view.axes[:axis], held, *view.axes[axis + 1 :])))
    return Value(shape=under.shape, data=True, joined=(*under.joined, *views)) if views else None


def _placed(eqn: Any, under: Value, block: Value, starts: Sequence[int], uses: Uses, line: str) -> Value:
    """Return a signal of which a block is overwritten, or added to, at a known place."""
    config = [
        (start, total - start - size, 0) for start, total, size in zip(starts, under.shape, block.shape, strict=True)
    ]
    over = layout.pad(block, config, uses, line)
    if eqn.primitive.name == "scatter-add":
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
        if which.weights:
            return None
        return elementwise.chosen(which, cases, shape)
    plain = not which.weights and all(case.weights or not case.data for case in cases)
    if which.data and not which.weights and not all(case.looked for case in held):
        stop = Stop("the data choose between it and something else", line)
        stopped = [elementwise.halted(case, stop) for case in cases]
        return elementwise.nonlinear("select_n", [*stopped, which], shape, uses, line)
    if not plain:
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
            number = -uses.link()
            sums = (
                replace(
                    view,
                    axes=_without(view.axes, axes),
                    links=(*view.links, Link(number, tuple(f for index in axes for f in view.axes[index]), plain=True)),
                )
                for view in value.weights
            )
            return Value(shape=shape, weights=tuple(sums))
        # Of a constant's outputs, too, it is a sum: what is contracted with a constant is no signal by that.
        views = (replace(view, axes=_without(view.axes, axes), links=()) for view in value.weights)
        smaller = replace(value, shape=shape, weights=tuple(views))
        return elementwise.nonlinear("a sum over its axes", [smaller], shape, uses, line)
    rest = [index for index in range(len(value.shape)) if index not in axes]
    if uses.is_centered(eqn.invars[0]) and not any(uses.found[view.use].is_summed_later for view in value.outputs):
        value = replace(value, outputs=(), joined=(), products=())  # the mean of a norm
    elif uses.is_shared(eqn.invars[0]):
        mixed(value.outputs, axes, uses, line, SHARED)
    apart, together = joined_summed(value.joined, axes, rest, uses, line)
    outputs = [
        *(summed_product(view, axes, rest, uses, line) for view in value.products),
        *(summed(view, axes, rest, uses, line) for view in value.outputs),
        *together,
    ]
    found = tuple(filter(None, outputs))
    products = tuple(
        replace(view, axes=_without(view.axes, axes)) for view in value.products if not set(axes) & set(marked(view))
    )
    flat = frozenset(index for index, old in enumerate(rest) if old in value.stretched)
    return Value(shape=shape, data=value.data, outputs=found, joined=tuple(apart), products=products, stretched=flat)


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


def _without(every: Sequence[Any], gone: Sequence[int]) -> tuple[Any, ...]:
    return tuple(each for index, each in enumerate(every) if index not in gone)
