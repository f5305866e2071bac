"""Equations that only move entries: reshapes, transposes, broadcasts, slices, look-ups, joins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from initax._trace._contract import settle
from initax._trace._uses import Place, Uses, Value
from initax._trace._views import (
    FOREIGN,
    Factor,
    Pick,
    Stop,
    View,
    beside_slot,
    foreign,
    in_slot,
    part,
    placed,
    reshaped,
)


def _each(
    value: Value, shape: Sequence[int], move: Callable[[View], View | None], stop: Stop, flat: frozenset[int]
) -> Value:
    """A value moved: weights that can't follow stop, outputs and products that can't are forgotten."""
    shape = tuple(shape)
    weights = []
    for view in value.weights:
        moved = move(view)
        lost = replace(view, axes=tuple(foreign(size)[:1] for size in shape))
        weights.append(lost.halted(stop) if moved is None else moved)
    outputs, products = (
        tuple(moved for view in views if (moved := move(view)) is not None) for views in (value.outputs, value.products)
    )
    return Value(
        shape=shape, data=value.data, weights=tuple(weights), outputs=outputs, products=products, stretched=flat
    )


def reshape(value: Value, shape: Sequence[int], where: str) -> Value:
    """Follow a reshape."""
    flat = frozenset(_kept_axes(value, shape))
    stop = Stop("a reshape cuts its axes unevenly", where)
    return _each(value, shape, lambda view: reshaped(view, shape), stop, flat)


def _kept_axes(value: Value, shape: Sequence[int]) -> list[int]:
    """Axes of the new shape that are a stretched axis of the old one."""
    before = {(math.prod(value.shape[:at]), value.shape[at]) for at in value.stretched}
    return [at for at in range(len(shape)) if (math.prod(shape[:at]), shape[at]) in before]


def rearrange(value: Value, places: Sequence[int | None], shape: Sequence[int]) -> Value:
    """Follow a transpose, a squeeze, or new axes: for each new axis the old one, `None` where it is broadcast."""
    flat = frozenset(at for at, old in enumerate(places) if old is None or old in value.stretched)
    return _each(value, shape, lambda view: placed(view, places, shape), Stop(""), flat)


def broadcast(value: Value, shape: Sequence[int], dimensions: Sequence[int]) -> Value:
    """Follow a broadcast: axes of size one that become larger belong to no parameter."""
    places: list[int | None] = [None] * len(shape)
    for old, new in enumerate(dimensions):
        if value.shape[old] == shape[new]:
            places[new] = old
    return rearrange(value, places, shape)


def cut(value: Value, axis: int, start: int, size: int, stride: int, uses: Uses, where: str) -> Value:
    """Follow a slice along one axis: one of equal parts is an entry of a batch axis."""
    total = value.shape[axis]
    if size == total:
        return value
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    value = replace(value, weights=tuple(view for view in value.weights if not beside_slot(view, axis, start, size)))
    stop = Stop(f"a slice takes entries {start} to {start + (size - 1) * stride + 1} of {total}, no equal part", where)

    def move(view: View) -> View | None:
        if all(factor.axis == FOREIGN for factor in view.axes[axis]):
            return replace(view, axes=(*view.axes[:axis], foreign(size), *view.axes[axis + 1 :]))
        if view.slot(axis) is not None and view.use >= 0:
            return part(view, axis, start, size, stride, total)
        found = part(view, axis, start, size, stride, total)
        if view.use >= 0:
            use = uses.found[view.use]
            if found is None:
                use.spoiled = True
            else:
                use.taken |= set(found.fixed) - set(view.fixed)
        return found

    return _each(value, shape, move, stop, value.stretched)


def entry(value: Value, axis: int, with_data: bool, at: Place, operand: int) -> Value:
    """Follow a look-up of one entry along an axis, by a loop counter or by the data; the axis stays, of size one.

    Args:
        value: what is looked up in.
        axis: the axis.
        with_data: whether the number of the entry comes with the data.
        at: the equation.
        operand: which of its operands is the number.
    """
    shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])

    def move(view: View) -> View:
        gone = tuple(factor for factor in view.axes[axis] if factor.axis != FOREIGN)
        own = replace(view, axes=(*view.axes[:axis], foreign(1), *view.axes[axis + 1 :]))
        if with_data:
            return replace(own, looked=own.looked + gone)
        picks = (Pick(gone, at, operand),) if gone == view.axes[axis] and view.slot(axis) is None else ()
        return replace(own, batch=own.batch + gone, picks=own.picks + picks)

    moved = _each(value, shape, move, Stop(""), value.stretched)
    return replace(moved, data=moved.data or with_data)


def strided(value: Value, indices: Value, eqn: Any, uses: Uses, where: str) -> Value | None:
    """Follow a look-up along one axis by evenly spaced constants, which is a slice; `None` for any other look-up."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = tuple(eqn.outvars[0].aval.shape)
    new = [axis for axis in range(len(shape)) if axis not in numbers.offset_dims]
    if indices.steps is None or len(numbers.start_index_map) != 1 or numbers.operand_batching_dims or len(new) != 1:
        return None
    (axis,), (start, step) = numbers.start_index_map, indices.steps
    rest = [each for each in range(len(value.shape)) if each != axis]
    number = shape[new[0]]
    whole = all(sizes[each] == value.shape[each] for each in rest) and sizes[axis] == 1
    if not whole or axis not in numbers.collapsed_slice_dims or number < 2:
        return None
    if step < 1 or start < 0 or start + step * (number - 1) >= value.shape[axis]:
        return None
    places = rest.copy()
    places.insert(new[0], axis)
    return rearrange(cut(value, axis, start, number, step, uses, where), places, shape)


def gather(value: Value, indices: Value, eqn: Any, at: Place, where: str) -> Value:
    """Follow a look-up of entries by an array of indices."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = tuple(eqn.outvars[0].aval.shape)
    paired = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
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
    stop = Stop("a gather takes windows of it", where)

    def move(view: View) -> View | None:
        taken: list[Factor] = []
        picks: list[Pick] = []
        for axis in single:
            own = tuple(factor for factor in view.axes[axis] if factor.axis != FOREIGN)
            if own and sizes[axis] != 1:
                return None
            taken += own
            if own == view.axes[axis] and view.slot(axis) is None and axis in numbers.start_index_map:
                picks.append(Pick(own, at, 1, numbers.start_index_map.index(axis)))
        one = replace(view, axes=tuple(foreign(1) if at in single else axis for at, axis in enumerate(view.axes)))
        # An axis of one entry that the look-up collapses is no axis of the result, but still one of the parameter.
        moved = placed(one, places, shape)
        if indices.data:
            return replace(moved, looked=moved.looked + tuple(taken))
        moved = replace(moved, batch=moved.batch + tuple(taken), picked=moved.picked or (many and bool(taken)))
        return moved if many else replace(moved, picks=moved.picks + tuple(picks))

    moved = _each(replace(value, outputs=(), products=()), shape, move, stop, frozenset())
    return replace(moved, data=moved.data or indices.data)


def join(values: Sequence[Value], shape: Sequence[int], axis: int, uses: Uses, where: str) -> Value:
    """Follow a concatenation. Parts of one output axis that come together again are no gates."""
    together(values, uses)
    if any(value.data for value in values):
        values = [settle(value, uses, where) for value in values]
    if not any(value.weights for value in values):
        return Value(shape=tuple(shape), data=any(value.data for value in values))
    views = []
    offset = 0
    for value in values:
        for view in value.weights:
            # Along the joined axis it is a part of something larger; along all others it is what it was.
            if all(factor.axis == FOREIGN for factor in view.axes[axis]):
                views.append(replace(view, axes=(*view.axes[:axis], foreign(shape[axis]), *view.axes[axis + 1 :])))
            else:
                views.append(in_slot(view, axis, offset, shape[axis]))
        offset += value.shape[axis]
    return Value(shape=tuple(shape), weights=tuple(views))


def together(values: Sequence[Value], uses: Uses) -> None:
    """Note that parts of one output axis came together again."""
    seen: dict[tuple[int, Factor], int] = {}
    for at, value in enumerate(values):
        for view in value.outputs:
            for factor, _ in view.fixed:
                if seen.setdefault((view.use, factor), at) != at:
                    uses.found[view.use].rejoined.add(factor)
