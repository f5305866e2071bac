"""Where the units of one weight go: through functions, norms, pooling and layout, to the weights that take them in.

The walk tells what weights are; this tells, equation by equation, along which axes of a signal the units of the one
weight that is followed lie. Nothing may be lost on the way: what can't be followed is an error, with the line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initax._trace import _elementwise as elementwise
from initax._trace._contract import sides_of
from initax._trace._entries import (
    Reader,
    Whole,
    apart,
    coordinates,
    covers,
    step_numbers,
    steps_of,
    unit_numbers,
)
from initax._trace._factors import Axis, Factor, foreign, length, stands, without
from initax._trace._indices import shapes_of
from initax._trace._interpret import Walk, equation, line_of
from initax._trace._primitives import PRIMITIVES, row_of
from initax._trace._uses import CONTRACTIONS, Place, Uses, Value
from initax._trace._views import Stop, View, in_slot, placed

ADDED = {
    **dict.fromkeys(("add", "add_any", "sub"), "they are added to another signal"),
    "select_n": "they are chosen entry by entry from beside another signal",
}
"""Functions of two signals after which what takes in the units takes in the other too."""

State = tuple[tuple[View, ...], Stop | None]
"""The units a value holds, and why it holds something that is made of several of them."""
Pairs = tuple[tuple[int, int, int, int], ...]
"""Axes of a weight, and how an index along the signal's axis is made of theirs: `index // div % mod * times`."""


class LostError(Exception):
    """The units can't be followed.

    Args:
        stop: why, and where.
    """

    def __init__(self, stop: Stop) -> None:
        super().__init__(str(stop))


class Following(Walk):
    """Finds every use of the parameters, and what takes in the units of one.

    Args:
        param: the weight whose units are followed.
        shapes: stored shapes of all parameters.
        axes: its output axes, in stored order.

    Attributes:
        started: places where units come out of it.
        readers: place of an equation → the weights that take in units there.
    """

    def __init__(self, param: int, shapes: Sequence[tuple[int, ...]], axes: Sequence[int]) -> None:
        super().__init__(Uses())
        self.param, self.shapes, self.axes = param, shapes, tuple(axes)
        self.shape = shapes[param]
        self.started: set[Place] = set()
        self.readers: dict[Place, list[Reader]] = {}

    def equation(self, eqn: Any, values: list[Value], at: Place) -> list[Value]:
        """Return what the results of an equation hold, with units.

        Raises:
            LostError: the units can't be followed.
        """
        uses, line = self.uses, line_of(eqn)
        first = len(uses.found)
        results = equation(eqn, values, uses, line)
        if uses.goes_back:
            return results
        fresh = [use for use in uses.found[first:] if use.what in CONTRACTIONS and not use.is_of_a_constant]
        moved: list[State] = [((), None)] * len(results)
        if any(value.units or value.mixed for value in values):
            if fresh:
                self._taken_in(eqn, values, line)
            else:
                moved = _moved(eqn, values, line)
        followed = (
            replace(result, units=units, mixed=mixed) for result, (units, mixed) in zip(results, moved, strict=True)
        )
        return [self._started(result, first, line) for result in followed]

    def go_round(self, values: Sequence[Value], line: str) -> None:
        """Raise where values that a loop carries, and changes, hold units.

        Raises:
            LostError: they do.
        """
        if any(value.units or value.mixed for value in values):
            raise LostError(Stop("they go round a loop", line))

    def _started(self, result: Value, first: int, line: str) -> Value:
        """A result in which units come out of the weight."""
        uses, views = self.uses, []
        for view in result.outputs:
            use = uses.found[view.use]
            is_weight = use.what in CONTRACTIONS and not use.is_of_a_constant
            if not is_weight or view.param != self.param or view.use < first:
                continue
            weight = use.view
            unit = View(param=self.param, axes=view.axes, batch=weight.batch, fixed=weight.fixed)
            loops = [factor for _, factors in self._loops() for factor in factors]
            if list(steps_of(weight)) != loops or not covers(unit, self.shape, self.axes):
                raise LostError(Stop("a loop or a look-up takes parts of the weight one by one", line))
            views.append(unit)
            self.started.add(use.at)
        return replace(result, units=tuple(views), mixed=None) if views else result

    def _taken_in(self, eqn: Any, values: Sequence[Value], line: str) -> None:
        """Enter the weights that take in units."""
        if len(values) != 2:
            raise LostError(Stop(_mixing(eqn.primitive.name), line))
        signal = next(place for place, value in enumerate(values) if value.units or value.mixed)
        value, other = values[signal], values[1 - signal]
        if not value.units:
            raise LostError(value.mixed or Stop("", line))
        weights = other.weights
        beside = all(_is_beside(one, other) for one, other in itertools.combinations(weights, 2))
        if not weights or not beside or not all(map(_is_plain, weights)):
            raise LostError(Stop("they meet a weight that is made of others, or looked up", line))
        pairs = _pairs(eqn, signal)
        readers = [self._reader(pairs, units, weight, line) for units in value.units for weight in weights]
        self.readers[self.uses.at] = [reader for reader in readers if (reader.units >= 0).any()]

    def _reader(self, pairs: Mapping[int, Pairs], units: View, weight: View, line: str) -> Reader:
        along = units.marked
        asked = sorted({axis for unit_axis in along for axis, *_ in pairs.get(unit_axis, ())})
        entries = coordinates(weight, asked, self.shapes[weight.param])
        if entries is None or not set(along) <= pairs.keys():
            raise LostError(Stop("the same entries of a weight take in several of them", line))
        indices, is_there = entries
        index = dict(zip(asked, indices, strict=True))
        taken = unit_numbers(units, along, self.shape, self.axes)[
            tuple(sum(index[axis] // div % mod * times for axis, div, mod, times in pairs[one]) for one in along)
        ]
        if steps_of(units):
            taken = np.where(taken < 0, -1, taken + self._step(weight, line))
        return Reader(param=weight.param, units=np.where(is_there, taken, -1), fixed=weight.fixed)

    def _step(self, weight: View, line: str) -> Whole:
        """What the steps of the loops around add to the numbers of the units, entry by entry of a weight."""
        added: Whole = np.zeros([1] * len(self.shapes[weight.param]), np.intp)
        taken: list[Factor] = []
        for place, factors in self._loops():
            theirs = self.uses.loops[place].get(weight.param, ())
            steps = coordinates(replace(weight, axes=(theirs,), fixed=()), (0,), self.shapes[weight.param])
            if not theirs or steps is None:
                raise LostError(Stop("the same entries of a weight take in several of them", line))
            added = added + step_numbers(steps[0][0], factors, self.shape, self.axes)
            taken += theirs
        if tuple(taken) != steps_of(weight):
            raise LostError(Stop("they meet a weight that another loop takes entries of", line))
        return added

    def _loops(self) -> list[tuple[Place, Axis]]:
        """The loops around the equation the walk is at that take entries of the weight, and the factors they take."""
        around = (self.uses.at[:end] for end in range(1, len(self.uses.at)))
        every = ((place, self.uses.loops.get(place, {}).get(self.param, ())) for place in around)
        return [(place, factors) for place, factors in every if factors]

    def finish(self, results: Sequence[Value]) -> list[Reader]:
        """Return the weights that take in units, once the walk is over.

        Args:
            results: what the forward pass returns.

        Raises:
            LostError: one of them does something else as well, or units went where they can't be followed.
        """
        uses_of_it = [use for use in self.uses.found if use.param == self.param]
        if not uses_of_it:
            raise LostError(Stop("the forward pass does not use it"))
        for use in uses_of_it:
            if (use.stop and use.stop.hides) or use.through or use.at not in self.started:
                raise LostError(use.stop or Stop("what it puts out can't be followed", use.line))
        mixed = next((value.mixed for value in results if value.mixed), None)
        if mixed:
            raise LostError(mixed)
        readers = [reader for readers_there in self.readers.values() for reader in readers_there]
        if any(reader.param == self.param for reader in readers):
            raise LostError(Stop("it takes in its own outputs"))
        for use in self.uses.found:
            if use.at in self.readers or use.what == "bias":
                continue
            if any(reader.param == use.param and not apart(reader.fixed, use.view.fixed) for reader in readers):
                raise LostError(Stop("a weight that takes them in takes in another signal too", use.line))
        for one, other in itertools.combinations(self.readers.values(), 2):
            if _differ(one, other):
                raise LostError(Stop("the same entries of a weight take in several of them"))
        return readers


def _differ(one: Sequence[Reader], other: Sequence[Reader]) -> bool:
    """Whether what one place and another read of a weight's entries is not the same."""
    pairs = [(a, b) for a in one for b in other if a.param == b.param and not apart(a.fixed, b.fixed)]
    return any(bool(np.any(a.units != b.units)) for a, b in pairs)


def _is_plain(view: View) -> bool:
    """Whether the entries of a weight in an operand are its stored ones, up to layout and constants."""
    is_hidden = view.stop is not None and view.stop.hides
    return not (is_hidden or view.links or view.is_signal or view.times or view.normalized or view.shifted)


def _is_beside(one: View, other: View) -> bool:
    """Whether two weights stand beside each other along an axis, with nothing of one where the other is."""
    pairs = zip(one.axes, other.axes, strict=True)
    return any(not (stands(mine) & stands(theirs)).any() for mine, theirs in pairs)


def _pairs(eqn: Any, signal: int) -> Mapping[int, Pairs]:
    """For each axis of the signal that meets axes of the weight: which, and how an index along it is made of theirs."""
    if eqn.primitive.name == "dot_general":
        summed, batched = eqn.params["dimension_numbers"]
        mine, theirs = ((*summed[side], *batched[side]) for side in (signal, 1 - signal))
        sizes = eqn.invars[signal].aval.shape
        return {own: ((other, 1, sizes[own], 1),) for own, other in zip(mine, theirs, strict=True)}
    if signal != 0 or eqn.params["batch_group_count"] > 1:
        return {}
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    out_axis, in_axis = numbers.rhs_spec[:2]
    kernel = eqn.invars[1].aval.shape
    inputs = (in_axis, 1, kernel[in_axis], 1)
    group = (out_axis, kernel[out_axis] // groups, groups, kernel[in_axis])
    return {numbers.lhs_spec[1]: (inputs,) if groups == 1 else (group, inputs)}


def _moved(eqn: Any, values: Sequence[Value], line: str) -> list[State]:
    """What the results of an equation without weights hold of the units."""
    name, shapes, how = eqn.primitive.name, shapes_of(eqn), row_of(eqn).units
    if how in ("function", "product"):
        return [_joined(name, values, shapes[0], line, alone=how == "product")]
    if not any(value.units for value in values):
        return [((), next(value.mixed for value in values if value.mixed))] * len(shapes)
    lost: State = ((), Stop(_mixing(name), line))
    if how is None or any(value.mixed for value in values):
        return [lost] * len(shapes)
    if how == "join":
        return [_beside(values, eqn.params["dimension"], shapes[0], line)]
    if how == "stack":
        axis = eqn.params["axis"] % len(shapes[0])
        return [_beside([_widened(value, axis) for value in values], axis, shapes[0], line)]
    if how == "sort":
        is_along = any(eqn.params["dimension"] in view.marked for value in values for view in value.units)
        return [lost if is_along else _joined(name, values, shapes[0], line)] * len(shapes)
    if how == "contraction":
        return [_contracted(eqn, values, shapes[0]) or lost]
    if any(value.units for value in values[1:]):
        return [lost] * len(shapes)
    if isinstance(how, str):
        return [state or lost for state in _laid(eqn, values, line)]
    views = [_beside_altered(view, how(eqn.params), shapes[0]) for view in values[0].units]
    return [(tuple(view for view in views if view), None) if all(views) else lost] * len(shapes)


def _beside_altered(view: View, altered: Iterable[int], shape: tuple[int, ...]) -> View | None:
    """Units in the result of an equation that alters some axes, or leaves them out; `None` where units lie along one.

    Args:
        view: the units in its operand.
        altered: the axes.
        shape: the shape of its result.
    """
    axes = {axis % len(view.axes) for axis in altered}
    if axes & set(view.marked):
        return None
    if len(shape) < len(view.axes):
        return replace(view, axes=without(view.axes, *axes))
    pairs = zip(view.axes, shape, strict=True)
    return replace(view, axes=tuple(factors if length(factors) == size else foreign(size) for factors, size in pairs))


def _mixing(name: str) -> str:
    words = {"reduce_sum": "they are summed", "dot_general": "they are contracted with something that is no weight"}
    unknown = f"what {name} does with them is not known" if name not in PRIMITIVES else ""
    return words.get(name, unknown or f"{name} makes one thing of several of them")


def _joined(name: str, values: Sequence[Value], shape: tuple[int, ...], line: str, alone: bool = False) -> State:
    """A function of several signals, entry by entry; `alone` if nothing is left of it where the units are cut off."""
    fitted = [_fitted(value, shape) for value in values]
    units = tuple(dict.fromkeys(view for views in fitted for view in views))
    if not units:
        return (), next(value.mixed for value in values if value.mixed)
    if not alone:
        first = 1 if name == "select_n" else 0
        for value, views in zip(values[first:], fitted[first:], strict=True):
            if value.data and not views and not value.mixed:
                raise LostError(Stop(ADDED.get(name, f"{name} joins them with another signal"), line))
            if views and set(views) != set(units):
                raise LostError(Stop("several of them are added together", line))
    return units, None


def _fitted(value: Value, shape: tuple[int, ...]) -> tuple[View, ...]:
    return elementwise.fitted(Value(shape=value.shape, outputs=value.units), shape).outputs


def _beside(values: Sequence[Value], axis: int, shape: tuple[int, ...], line: str) -> State:
    """Units beside something else along an axis. Along any axis but their own, all must be the same units."""
    units: list[View] = []
    offset = 0
    for value in values:
        for view in value.units:
            if axis in view.marked:
                units.append(in_slot(view, axis, offset, shape[axis]))
                continue
            alone = view.with_axis(axis, ())
            if any(other.data and all(unit.with_axis(axis, ()) != alone for unit in other.units) for other in values):
                raise LostError(Stop("they are joined with another signal along another axis", line))
            units.append(view.with_axis(axis, foreign(shape[axis])))
        offset += value.shape[axis]
    return tuple(dict.fromkeys(units)), None


def _widened(value: Value, axis: int) -> Value:
    """A value with a new axis of size one."""
    shape = (*value.shape[:axis], 1, *value.shape[axis:])
    units = (replace(view, axes=(*view.axes[:axis], foreign(1), *view.axes[axis:])) for view in value.units)
    return replace(value, shape=shape, units=tuple(units))


def _laid(eqn: Any, values: Sequence[Value], line: str) -> list[State | None]:
    """A reshape, a transpose, a slice: as the walk lays out a weight, so lie the units."""
    blank = [Value(shape=value.shape, constant=value.constant) for value in values[1:]]
    units: list[list[View]] = [[] for _ in eqn.outvars]
    lost = [False] * len(eqn.outvars)
    for view in values[0].units:
        moved = equation(eqn, [Value(shape=values[0].shape, weights=(view,)), *blank], Uses(), line)
        for place, result in enumerate(moved):
            clear = [weight for weight in result.weights if not (weight.stop or weight.is_signal)]
            clear = [weight for weight in clear if steps_of(weight) == steps_of(view)]
            units[place] += clear
            lost[place] = lost[place] or len(clear) < len(result.weights)
    return [None if gone else (tuple(views), None) for views, gone in zip(units, lost, strict=True)]


def _contracted(eqn: Any, values: Sequence[Value], shape: tuple[int, ...]) -> State | None:
    """A contraction with a signal or a constant: of axes along which all is of one unit."""
    sides = sides_of(eqn, values)
    if any(set(view.marked) & set(side.summed) for side in sides for view in side.value.units):
        return None
    views = (placed(view, side.places, shape) for side in sides for view in side.value.units)
    return tuple(dict.fromkeys(views)), None
