"""Rules of single equations: what one does to the parameters and signals in its operands.

A rule returns what the results hold, or `None` where it can't tell. The table in `_primitives.py` says which primitive
goes by which rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jax.extend.core import Literal

from initax._trace import _elementwise as elementwise
from initax._trace import _layout as layout
from initax._trace._contract import convolution, dot_general
from initax._trace._pairs import imaginary, paired, turned
from initax._trace._uses import Part, Uses, Value, assign
from initax._trace._views import FOREIGN, Factor, Stop

Values = Sequence[Value]


def shapes_of(eqn: Any) -> list[tuple[int, ...]]:
    """Return the shapes of an equation's results."""
    return [tuple(getattr(var.aval, "shape", ())) for var in eqn.outvars]


def keep(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """A function of one value, entry by entry, that leaves a weight a weight."""
    return values[0]


def reshape(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a reshape."""
    order = eqn.params["dimensions"] or range(len(values[0].shape))
    turned = layout.rearrange(values[0], order, [values[0].shape[axis] for axis in order])
    return layout.reshape(turned, shapes_of(eqn)[0], where)


def transpose(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a transpose."""
    return layout.rearrange(values[0], eqn.params["permutation"], shapes_of(eqn)[0])


def squeeze(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow axes of size one that go."""
    places = [axis for axis in range(len(values[0].shape)) if axis not in eqn.params["dimensions"]]
    return layout.rearrange(values[0], places, shapes_of(eqn)[0])


def broadcast_in_dim(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a broadcast."""
    return layout.broadcast(values[0], shapes_of(eqn)[0], eqn.params["broadcast_dimensions"])


def rev(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow entries in reversed order, which are the same entries."""
    return values[0]


def gather(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a look-up by an array of indices."""
    found = layout.strided(values[0], values[1], eqn, uses, where)
    return found if found is not None else layout.gather(values[0], values[1], eqn, uses.at, where)


def concatenate(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a concatenation."""
    return layout.join(values, shapes_of(eqn)[0], eqn.params["dimension"], uses, where)


def stack(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow values that are stacked along a new axis: a concatenation of axes of size one."""
    shape, axis = shapes_of(eqn)[0], eqn.params["axis"] % (len(values[0].shape) + 1)
    places = [*range(axis), None, *range(axis, len(shape) - 1)]
    rows = [layout.rearrange(value, places, (*shape[:axis], 1, *shape[axis + 1 :])) for value in values]
    return layout.join(rows, shape, axis, uses, where)


def contract(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a contraction."""
    return dot_general(values[0], values[1], eqn, uses, where)


def convolve(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a convolution."""
    return convolution(values[0], values[1], eqn, uses, where)


def add(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a sum or a difference."""
    left, right = paired(values[0], values[1], uses)
    return elementwise.added(eqn.primitive.name, left, right, shapes_of(eqn)[0], uses, where)


def mul(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a product."""
    return turned(eqn, elementwise.multiplied(values[0], values[1], shapes_of(eqn)[0], uses, where))


def div(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a quotient."""
    return elementwise.divided(values[0], values[1], shapes_of(eqn)[0], uses, where)


def complex_of(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a real and an imaginary part that become complex."""
    layout.together(values, uses)
    return add(eqn, [values[0], imaginary(values[1])], uses, where)


def cut(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a slice."""
    value = values[0]
    strides = eqn.params["strides"] or [1] * len(value.shape)
    shape = shapes_of(eqn)[0]
    for axis, (start, stride) in enumerate(zip(eqn.params["start_indices"], strides, strict=True)):
        value = layout.cut(value, axis, int(start), shape[axis], int(stride), uses, where)
    return value


def split(eqn: Any, values: Values, uses: Uses, where: str) -> list[Value]:
    """Follow a split along an axis."""
    value = values[0]
    axis, start, results = eqn.params["axis"], 0, []
    for size in map(int, eqn.params["sizes"]):
        results.append(layout.cut(value, axis, start, size, 1, uses, where))
        start += size
    return results


def unstack(eqn: Any, values: Values, uses: Uses, where: str) -> list[Value]:
    """Entries along an axis, each alone; JAX has a primitive for it from 0.12 on."""
    value = values[0]
    axis = eqn.params["axis"] % len(value.shape)
    shape = (*value.shape[:axis], *value.shape[axis + 1 :])
    places = [each for each in range(len(value.shape)) if each != axis]
    entries = (layout.cut(value, axis, start, 1, 1, uses, where) for start in range(value.shape[axis]))
    return [layout.rearrange(entry, places, shape) for entry in entries]


def dynamic_slice(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """Follow a slice at a place that is worked out."""
    value, starts = values[0], values[1:]
    for axis, size in enumerate(eqn.params["slice_sizes"]):
        if size == value.shape[axis]:
            continue
        start = eqn.invars[1 + axis]
        if isinstance(start, Literal):
            value = layout.cut(value, axis, int(start.val), size, 1, uses, where)
        elif size == 1:
            value = layout.entry(replace(value, outputs=()), axis, starts[axis].data, uses.at, 1 + axis)
        else:
            value = _lost(value, axis, size, where)
    return value


def _lost(value: Value, axis: int, size: int, where: str) -> Value:
    """A window of an axis at a place that is not known."""
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    stop = Stop("a window at a changing place is taken of it", where)
    views = tuple(
        replace(view, axes=(*view.axes[:axis], (Factor(FOREIGN, 1, size),), *view.axes[axis + 1 :]))
        if all(factor.axis == FOREIGN for factor in view.axes[axis])
        else replace(view.halted(stop), axes=tuple((Factor(FOREIGN, 1, each),) for each in shape))
        for view in value.weights
    )
    return Value(shape=shape, data=value.data, weights=views)


def overwrite(eqn: Any, values: Values, uses: Uses, where: str) -> Value | None:
    """Follow a value of which some entries are overwritten."""
    layout.together(values[:2], uses)
    if any(value.weights for value in values):
        return None
    return Value(shape=shapes_of(eqn)[0], data=any(value.data for value in values))


def pad(eqn: Any, values: Values, uses: Uses, where: str) -> Value | None:
    """Follow padding."""
    changed = [axis for axis, each in enumerate(eqn.params["padding_config"]) if any(each)]
    if not changed:
        return values[0]
    if values[0].weights:
        return None
    kept = [view for view in values[0].outputs if all(f.axis == FOREIGN for at in changed for f in view.axes[at])]
    places: list[int | None] = [None if at in changed else at for at in range(len(values[0].shape))]
    padded = layout.rearrange(replace(values[0], outputs=tuple(kept), products=()), places, shapes_of(eqn)[0])
    return replace(padded, stretched=frozenset())


def select(eqn: Any, values: Values, uses: Uses, where: str) -> Value | None:
    """A choice between values, entry by entry: a mask of constants leaves a weight a weight."""
    shape = shapes_of(eqn)[0]
    which, *cases = (elementwise.fitted(value, shape) for value in values)
    held = [case for case in cases if case.weights]
    if not held:
        if which.weights:
            return None
        joined = elementwise.added("add", cases[0], cases[-1], shape, uses, where)
        return replace(joined, data=joined.data or which.data, stretched=frozenset())
    plain = not which.weights and all(case.weights or not case.data for case in cases)
    if not plain or (which.data and not all(case.looked for case in held)):
        return None
    views = tuple(dict.fromkeys(view for case in held for view in case.weights))
    return Value(shape=shape, data=any(case.data for case in held), weights=views)


def reduce_sum(eqn: Any, values: Values, uses: Uses, where: str) -> Value:
    """A sum over axes: after a product with the signal it is a contraction, written out."""
    value, axes, shape = values[0], eqn.params["axes"], shapes_of(eqn)[0]
    if value.weights:
        views = (replace(view, axes=_without(view.axes, axes)) for view in value.weights)
        smaller = replace(value, shape=shape, weights=tuple(views))
        return elementwise.nonlinear("a sum over its axes", [smaller], shape, uses, where)
    rest = [at for at in range(len(value.shape)) if at not in axes]
    outputs = []
    for view in value.products:
        use = uses.found[view.use]
        summed = [factor for axis in axes for factor in view.axes[axis] if factor.axis != FOREIGN and factor.size > 1]
        if not summed or use.what != "scale":
            continue
        kept = [factor for at in rest for factor in view.axes[at] if factor.axis != FOREIGN and factor.size > 1]
        if any(use.parts.get(factor) == "out" for factor in kept):
            assign(use.parts, summed, "in")
            use.parts = {factor: _of_weight(part) for factor, part in use.parts.items()}
            use.what = "weight"
            outputs.append(replace(view, axes=tuple(view.axes[at] for at in rest)))
        else:
            use.stop = use.stop or Stop("it scales the signal, which is then summed: a scale or a weight", where)
    flat = frozenset(at for at, old in enumerate(rest) if old in value.stretched)
    return Value(shape=shape, data=value.data, outputs=tuple(outputs), stretched=flat)


def _without(every: Sequence[Any], gone: Sequence[int]) -> tuple[Any, ...]:
    return tuple(each for at, each in enumerate(every) if at not in gone)


def _of_weight(part: Part) -> Part:
    return "batch" if part == "along" else part
