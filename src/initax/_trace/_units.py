"""Where the units of one weight go: through functions, norms, pooling and layout, to the weights that take them in.

The walk finds out what weights are; this follows, equation by equation, along which axes of a signal the units of one
weight lie. Where a unit can't be followed it raises an error with the line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initax._trace import _elementwise as elementwise
from initax._trace._contract import sides_of
from initax._trace._entries import Reader, coordinates, covers, step_numbers, stepped_factors, unit_numbers
from initax._trace._factors import Axis, Factor, Index, foreign, length, stands, unlike, without
from initax._trace._interpret import Walk, equation
from initax._trace._jaxpr import Place, line_of, shapes_of
from initax._trace._primitives import PRIMITIVES, row_of
from initax._trace._uses import CONTRACTIONS, Use, Uses, Value
from initax._trace._views import Stop, View, in_slot, rearranged

ADDED = {
    **dict.fromkeys(("add", "add_any", "sub"), "they are added to another signal"),
    "select_n": "they are chosen entry by entry from beside another signal",
}
"""Functions of two signals whose result holds the units and the other signal in the same entries."""

State = tuple[tuple[View, ...], Stop | None]
"""The units a value holds, and why it holds something that is made of several of them."""
IndexSum = tuple[tuple[int, int, int, int], ...]
"""Axes of a weight whose indices make an index along an axis of the signal: it is the sum of
`index // div % mod * times` over tuples `(axis, div, mod, times)`."""


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
        started: the equations in which the weight makes units.
        readers: equation → the weights that take in units there.
    """

    def __init__(self, param: int, shapes: Sequence[tuple[int, ...]], axes: Sequence[int]) -> None:
        super().__init__(Uses())
        self.param, self.shapes, self.axes = param, shapes, tuple(axes)
        self.shape = shapes[param]
        self.started: set[Place] = set()
        self.readers: dict[Place, list[Reader]] = {}

    def equation(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        """Return what the results of an equation hold, with units.

        Raises:
            LostError: the units can't be followed.
        """
        uses, line = self.uses, line_of(eqn)
        first = len(uses.all)
        results = equation(eqn, values, uses, line)
        if uses.goes_back:
            return results
        states: list[State] = [((), None)] * len(results)
        if any(value.units or value.mixed for value in values):
            if any(map(_has_outputs, uses.all[first:])):
                self._note_readers(eqn, values, line)
            else:
                states = _moved(eqn, values, line)
        pairs = zip(results, states, strict=True)
        moved = (replace(result, units=units, mixed=mixed) for result, (units, mixed) in pairs)
        return [self._with_new_units(result, first, line) for result in moved]

    def check_carried(self, values: Sequence[Value], line: str) -> None:
        """Raise where values that a loop carries, and changes, hold units.

        Raises:
            LostError: they do.
        """
        if any(value.units or value.mixed for value in values):
            raise LostError(Stop("they go round a loop", line))

    def _with_new_units(self, result: Value, first: int, line: str) -> Value:
        """A result with the units that the weight makes in an equation, whose uses are those from a number on."""
        units = []
        for view in result.outputs:
            use = self.uses.of(view)
            if not _has_outputs(use) or view.param != self.param or view.use < first:
                continue
            unit = View(param=self.param, axes=view.axes, batch=use.view.batch, fixed=use.view.fixed)
            loop_factors = [factor for _, factors in self._loops() for factor in factors]
            if list(stepped_factors(use.view)) != loop_factors or not covers(unit, self.shape, self.axes):
                raise LostError(Stop("a loop or a look-up takes parts of the weight one by one", line))
            units.append(unit)
            self.started.add(use.place)
        return replace(result, units=tuple(units), mixed=None) if units else result

    def _note_readers(self, eqn: Any, values: Sequence[Value], line: str) -> None:
        """Note the weights that take in units."""
        if len(values) != 2:
            raise LostError(Stop(_mixing(eqn.primitive.name), line))
        side = next(index for index, value in enumerate(values) if value.units or value.mixed)
        signal, weights = values[side], values[1 - side].weights
        if not signal.units:
            raise LostError(signal.mixed or Stop("", line))
        are_apart = all(_is_beside(weight, other) for weight, other in itertools.combinations(weights, 2))
        if not weights or not are_apart or not all(map(_is_plain, weights)):
            raise LostError(Stop("they meet a weight that is made of others, or looked up", line))
        sums = _index_sums(eqn, side)
        readers = [self._reader(sums, units, weight, line) for units in signal.units for weight in weights]
        self.readers[self.uses.place] = [reader for reader in readers if (reader.units >= 0).any()]

    def _reader(self, sums: Mapping[int, IndexSum], units: View, weight: View, line: str) -> Reader:
        """A weight that takes in units.

        Args:
            sums: axis of the signal → the sum of indices of the weight that is the index along it.
            units: the units in the signal.
            weight: the weight in the other operand.
            line: the line.
        """
        weight_axes = sorted({axis for unit_axis in units.marked for axis, *_ in sums.get(unit_axis, ())})
        entries = coordinates(weight, weight_axes, self.shapes[weight.param])
        if entries is None or not set(units.marked) <= sums.keys():
            raise LostError(Stop("the same entries of a weight take in several of them", line))
        indices, is_there = entries
        index = dict(zip(weight_axes, indices, strict=True))
        along = [
            sum(index[axis] // div % mod * times for axis, div, mod, times in sums[unit_axis])
            for unit_axis in units.marked
        ]
        numbers = unit_numbers(units, units.marked, self.shape, self.axes)[tuple(along)]
        if stepped_factors(units):
            numbers = np.where(numbers < 0, -1, numbers + self._step(weight, line))
        return Reader(param=weight.param, units=np.where(is_there, numbers, -1), fixed=weight.fixed)

    def _step(self, weight: View, line: str) -> Index:
        """What the steps of the loops around add to the numbers of the units, entry by entry of a weight."""
        added: Index = np.zeros([1] * len(self.shapes[weight.param]), np.intp)
        loop_factors: list[Factor] = []
        for place, unit_factors in self._loops():
            factors = self.uses.loops[place].get(weight.param, ())
            steps = coordinates(replace(weight, axes=(factors,), fixed=()), (0,), self.shapes[weight.param])
            if not factors or steps is None:
                raise LostError(Stop("the same entries of a weight take in several of them", line))
            added = added + step_numbers(steps[0][0], unit_factors, self.shape, self.axes)
            loop_factors += factors
        if tuple(loop_factors) != stepped_factors(weight):
            raise LostError(Stop("they meet a weight that another loop takes entries of", line))
        return added

    def _loops(self) -> list[tuple[Place, Axis]]:
        """The loops around the current equation that take entries of the followed weight, and the factors they take."""
        outer = (self.uses.place[:depth] for depth in range(1, len(self.uses.place)))
        pairs = ((place, self.uses.loops.get(place, {}).get(self.param, ())) for place in outer)
        return [(place, factors) for place, factors in pairs if factors]

    def finish(self, results: Sequence[Value]) -> list[Reader]:
        """Return the weights that take in units, once the walk is over.

        Args:
            results: the results of the forward pass.

        Raises:
            LostError: one of the weights takes in something else, too, or a unit can't be followed.
        """
        uses = [use for use in self.uses.all if use.param == self.param]
        if not uses:
            raise LostError(Stop("the forward pass does not use it"))
        for use in uses:
            if (use.stop and use.stop.hides) or use.through or use.place not in self.started:
                raise LostError(use.stop or Stop("what it puts out can't be followed", use.line))
        mixed = next((value.mixed for value in results if value.mixed), None)
        if mixed:
            raise LostError(mixed)
        readers = list(itertools.chain.from_iterable(self.readers.values()))
        if any(reader.param == self.param for reader in readers):
            raise LostError(Stop("it takes in its own outputs"))
        for use in self.uses.all:
            if use.place in self.readers or use.what == "bias":
                continue
            if any(reader.param == use.param and not unlike(reader.fixed, use.view.fixed) for reader in readers):
                raise LostError(Stop("a weight that takes them in takes in another signal too", use.line))
        for pair in itertools.combinations(self.readers.values(), 2):
            if any(itertools.starmap(_differ, itertools.product(*pair))):
                raise LostError(Stop("the same entries of a weight take in several of them"))
        return readers


def _has_outputs(use: Use) -> bool:
    """Whether a use makes outputs of a signal."""
    return use.what in CONTRACTIONS and not use.is_of_a_constant


def _differ(reader: Reader, other: Reader) -> bool:
    """Whether the same entries of a weight take in other units at another equation."""
    is_same = reader.param == other.param and not unlike(reader.fixed, other.fixed)
    return is_same and bool(np.any(reader.units != other.units))


def _is_plain(view: View) -> bool:
    """Whether the entries of a weight in an operand are its stored ones, up to layout and constant factors."""
    is_hidden = view.stop is not None and view.stop.hides
    return not (is_hidden or view.links or view.is_signal or view.times or view.normalized or view.shifted)


def _is_beside(weight: View, other: View) -> bool:
    """Whether two weights have no index in common along some axis."""
    pairs = zip(weight.axes, other.axes, strict=True)
    return any(not (stands(axis) & stands(other_axis)).any() for axis, other_axis in pairs)


def _index_sums(eqn: Any, signal: int) -> Mapping[int, IndexSum]:
    """Axis of the signal → the sum of indices of the weight that is the index along it, for all axes that have one.

    Args:
        eqn: the contraction.
        signal: which operand is the signal.
    """
    if eqn.primitive.name == "dot_general":
        summed, batched = eqn.params["dimension_numbers"]
        signal_axes, weight_axes = ((*summed[side], *batched[side]) for side in (signal, 1 - signal))
        sizes = eqn.invars[signal].aval.shape
        return {axis: ((other, 1, sizes[axis], 1),) for axis, other in zip(signal_axes, weight_axes, strict=True)}
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
    name, shapes, rule = eqn.primitive.name, shapes_of(eqn), row_of(eqn).units
    if rule in ("function", "product"):
        return [_entrywise(name, values, shapes[0], line, product=rule == "product")]
    if not any(value.units for value in values):
        return [((), next(value.mixed for value in values if value.mixed))] * len(shapes)
    lost: State = ((), Stop(_mixing(name), line))
    if rule is None or any(value.mixed for value in values):
        return [lost] * len(shapes)
    if rule == "join":
        return [_joined(values, eqn.params["dimension"], shapes[0], line)]
    if rule == "stack":
        axis = eqn.params["axis"] % len(shapes[0])
        return [_joined([_widened(value, axis) for value in values], axis, shapes[0], line)]
    if rule == "sort":
        is_along = any(eqn.params["dimension"] in view.marked for value in values for view in value.units)
        return [lost if is_along else _entrywise(name, values, shapes[0], line)] * len(shapes)
    if rule == "contraction":
        return [_contracted(eqn, values, shapes[0]) or lost]
    if any(value.units for value in values[1:]):
        return [lost] * len(shapes)
    if isinstance(rule, str):
        return [state or lost for state in _laid_out(eqn, values, line)]
    views = [_beside_altered(view, rule(eqn.params), shapes[0]) for view in values[0].units]
    return [(tuple(view for view in views if view), None) if all(views) else lost] * len(shapes)


def _beside_altered(view: View, altered: Iterable[int], shape: tuple[int, ...]) -> View | None:
    """Units in the result of an equation that alters some axes, or removes them; `None` where units lie along one.

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
    """Why units can't be followed through a primitive."""
    reasons = {"reduce_sum": "they are summed", "dot_general": "they are contracted with something that is no weight"}
    unknown = f"what {name} does with them is not known" if name not in PRIMITIVES else ""
    return reasons.get(name, unknown or f"{name} makes one thing of several of them")


def _entrywise(name: str, values: Sequence[Value], shape: tuple[int, ...], line: str, product: bool = False) -> State:
    """A function of several signals, entry by entry; a product is zero where the units are."""
    fitted = [_fitted(value, shape) for value in values]
    units = tuple(dict.fromkeys(view for views in fitted for view in views))
    if not units:
        return (), next(value.mixed for value in values if value.mixed)
    if not product:
        first = 1 if name == "select_n" else 0
        for value, views in zip(values[first:], fitted[first:], strict=True):
            if value.data and not views and not value.mixed:
                raise LostError(Stop(ADDED.get(name, f"{name} joins them with another signal"), line))
            if views and set(views) != set(units):
                raise LostError(Stop("several of them are added together", line))
    return units, None


def _fitted(value: Value, shape: tuple[int, ...]) -> tuple[View, ...]:
    """The units of an operand, broadcast to the shape of the result."""
    return elementwise.fitted(Value(shape=value.shape, outputs=value.units), shape).outputs


def _joined(values: Sequence[Value], axis: int, shape: tuple[int, ...], line: str) -> State:
    """Units of joined values. Where the axis is not one of the units, all values must hold the same ones."""
    units: list[View] = []
    offset = 0
    for value in values:
        for view in value.units:
            if axis in view.marked:
                units.append(in_slot(view, axis, offset, shape[axis]))
                continue
            layout = view.with_axis(axis, ())
            if any(other.data and all(unit.with_axis(axis, ()) != layout for unit in other.units) for other in values):
                raise LostError(Stop("they are joined with another signal along another axis", line))
            units.append(view.with_axis(axis, foreign(shape[axis])))
        offset += value.shape[axis]
    return tuple(dict.fromkeys(units)), None


def _widened(value: Value, axis: int) -> Value:
    """A value with a new axis of size one."""
    shape = (*value.shape[:axis], 1, *value.shape[axis:])
    units = (replace(view, axes=(*view.axes[:axis], foreign(1), *view.axes[axis:])) for view in value.units)
    return replace(value, shape=shape, units=tuple(units))


def _laid_out(eqn: Any, values: Sequence[Value], line: str) -> list[State | None]:
    """The units in the results of a reshape, a transpose or a slice; `None` for a result in which they are lost.

    They are moved as the walk moves the entries of a weight.
    """
    others = [Value(shape=value.shape, constant=value.constant) for value in values[1:]]
    units: list[list[View]] = [[] for _ in eqn.outvars]
    lost: set[int] = set()
    for view in values[0].units:
        results = equation(eqn, [Value(shape=values[0].shape, weights=(view,)), *others], Uses(), line)
        for index, result in enumerate(results):
            for weight in result.weights:
                if weight.stop or weight.is_signal or stepped_factors(weight) != stepped_factors(view):
                    lost.add(index)
                units[index].append(weight)
    return [None if index in lost else (tuple(views), None) for index, views in enumerate(units)]


def _contracted(eqn: Any, values: Sequence[Value], shape: tuple[int, ...]) -> State | None:
    """A contraction with a signal or a constant: of axes along which all is of one unit."""
    sides = sides_of(eqn, values)
    if any(set(view.marked) & set(side.summed) for side in sides for view in side.value.units):
        return None
    views = (rearranged(view, side.old_axes, shape) for side in sides for view in side.value.units)
    return tuple(dict.fromkeys(views)), None
