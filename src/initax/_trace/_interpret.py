"""The walk over the equations of a forward pass, which finds every use of the parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initax._model._reason import Why
from initax._trace._backward import carries_back, cotangents
from initax._trace._contract import settle
from initax._trace._elementwise import halted, nonlinear
from initax._trace._factors import FOREIGN, LARGEST, Axis, Index, foreign, length, normal, slot
from initax._trace._indices import Series, computed, constant_of
from initax._trace._interpreter import Interpreter
from initax._trace._jaxpr import Place, line_of, open_jaxpr, shapes_of
from initax._trace._layout import moved
from initax._trace._loops import Loop, loop_of, steps_of
from initax._trace._primitives import UNKNOWN, altered_axes, called, row_of
from initax._trace._quantized import OWN_GRADIENT
from initax._trace._sums import accumulated, after_loop, taken_steps
from initax._trace._uses import Uses, Value, parts_of
from initax._trace._views import CHANGED, Step, Stop, View, multiplied, scaled
from initax._trace._windows import note_windows


def equation(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> list[Value]:
    """Return what the results of an equation hold of parameters and signals, by the rule in the row of its primitive.

    Args:
        eqn: the equation.
        values: what its operands hold.
        uses: where uses are entered.
        line: its line.
    """
    rule, shapes = row_of(eqn).read, shapes_of(eqn)
    read = rule(eqn, values, uses, line) if rule is not None else None
    results = [read] if isinstance(read, Value) else read
    if results is not None and [result.shape for result in results] == shapes:
        return results
    return _unread(eqn, values, shapes, uses, line)


def _unread(eqn: Any, values: Sequence[Value], shapes: Sequence[tuple[int, ...]], uses: Uses, line: str) -> list[Value]:
    """Return the results of an equation without a rule: parameters are halted, and the reason names the primitive."""
    name, has_reference = eqn.primitive.name, _has_reference(eqn)
    if (row_of(eqn) is UNKNOWN or row_of(eqn).calls) and (has_reference or any(value.data for value in values)):
        stop = Stop(f"{name} stands between it and the signal", line)
        values = [settle(halted(value, stop), uses, line) for value in values]
    ordered = [*values[1:], values[0]] if name == "select_n" else values  # the reasons of the cases come first
    results = [nonlinear(name, ordered, shape, uses, line, altered_axes(eqn)) for shape in shapes]
    return [replace(result, data=True) for result in results] if has_reference else results


def _has_reference(eqn: Any) -> bool:
    """Return whether an equation reads or changes a reference, whose contents are not followed."""
    return any(hasattr(atom.aval, "inner_aval") for atom in eqn.invars)


def readers_in(jaxpr: Any) -> defaultdict[int, list[str]]:
    """Return the primitives that read each variable of a jaxpr, by its `id`; results are read by `return`."""
    readers: defaultdict[int, list[str]] = defaultdict(list)
    for eqn in jaxpr.eqns:
        for atom in eqn.invars:
            readers[id(atom)].append(eqn.primitive.name)
    for atom in jaxpr.outvars:
        readers[id(atom)].append("return")
    return readers


class Walk(Interpreter[Value]):
    """Finds every use of the parameters in a forward pass.

    Args:
        uses: where uses are entered.
    """

    def __init__(self, uses: Uses) -> None:
        self.uses = uses

    def constant(self, atom: Any, number: Any) -> Value:
        """Return what a constant holds."""
        return Value(shape=tuple(atom.aval.shape), constant=constant_of(atom, number))

    def call(self, inner: Any, values: Sequence[Value], place: Place) -> list[Value]:
        """Return what the results of a jaxpr hold."""
        outer_readers, self.uses.readers = self.uses.readers, readers_in(open_jaxpr(inner))
        results = super().call(inner, values, place)
        self.uses.place, self.uses.readers = place, outer_readers
        return results

    def step(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        """Return what the results of an equation hold; those with a cotangent have no outputs."""
        uses = self.uses
        outer = uses.goes_back, uses.own_gradient
        uses.place, uses.goes_back = place, uses.goes_back or carries_back(eqn)
        uses.own_gradient = uses.own_gradient or eqn.primitive.name in OWN_GRADIENT
        first = len(uses.all)
        results = self._followed(eqn, values, place)
        results = uses.with_dependencies(first, values, results)
        note_windows(eqn, values, uses)
        if uses.goes_back:
            results = cotangents(eqn, results, uses, line_of(eqn))
        uses.goes_back, uses.own_gradient = outer
        return results

    def _followed(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        """Return what the results of an equation hold; constants are not evaluated yet."""
        inner = called(eqn)
        if inner is not None:
            return self._of_call(eqn, open_jaxpr(inner), values, place)
        if any(value.data or value.weights for value in values) or _has_reference(eqn):
            return super().step(eqn, values, place)
        operands = [value.constant for value in values if value.constant is not None]
        is_known = len(operands) == len(values) and row_of(eqn).control is None
        return [
            Value(shape=shape, constant=computed(eqn, operands, index) if is_known else None)
            for index, shape in enumerate(shapes_of(eqn))
        ]

    def _of_call(self, eqn: Any, jaxpr: Any, values: list[Value], place: Place) -> list[Value]:
        """Return what the results of a call hold, and note that its variables hold what those of its jaxpr do."""
        wholes = self.uses.wholes
        wholes |= {id(var): self.uses.whole(atom) for var, atom in zip(jaxpr.invars, eqn.invars, strict=True)}
        results = super().step(eqn, values, place)
        wholes |= {id(var): self.uses.whole(atom) for var, atom in zip(eqn.outvars, jaxpr.outvars, strict=True)}
        return results

    def handed_on(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        """Return the operands as results; parameters behind `stop_gradient` are not trained through them."""
        if eqn.primitive.name == "stop_gradient":
            values = [_frozen(value, line_of(eqn)) for value in values]
        return [replace(value, shape=shape) for value, shape in zip(values, shapes_of(eqn), strict=True)]

    def equation(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        """Return what the results of an equation hold."""
        line = line_of(eqn) if any(value.weights for value in values) else ""
        return equation(eqn, values, self.uses, line)

    def check_carried(self, values: Sequence[Value], line: str) -> None:
        """Raise where values that a loop carries, and changes, can't be followed; the walk follows all of them."""

    def scan(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        """Follow a scan: each step takes one entry along the first axis of its rows."""
        uses, line, count = self.uses, line_of(eqn), eqn.params["length"]
        loop, steps = loop_of(eqn, values), Series(place, lambda: np.arange(count))
        rows = [settle(value, uses, line) if _is_looked_up_along_rows(value) else value for value in loop.rows]
        uses.loops[place] = {
            view.param: tuple(factor for factor in view.axes[0] if factor.axis != FOREIGN)
            for value in rows
            for view in value.weights
        }
        loop = loop._replace(rows=[_row(value, steps) for value in rows])
        order = np.arange(count)[:: -1 if eqn.params["reverse"] else 1] if count <= LARGEST else None
        carry, results = self._loop(loop, order, place, line)
        data = any(value.data or value.weights for value in (*carry, *loop.rows))
        readers, carries = readers_in(loop.jaxpr), len(carry)
        collected = zip(loop.jaxpr.outvars[carries:], results[carries:], shapes_of(eqn)[carries:], strict=True)
        results[carries:] = (
            _collected(value, shape, data, uses, line, is_shared=len(readers[id(var)]) > 1)
            for var, value, shape in collected
        )
        return results

    def while_loop(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        """Follow a `while` loop."""
        loop = loop_of(eqn, values)
        self.uses.loops[place] = {}
        self.uses.whiles.add(place)
        count = steps_of(eqn)
        _, results = self._loop(loop, np.arange(int(count)) if count <= LARGEST else None, place, line_of(eqn))
        return results

    def cond(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        """Follow every branch."""
        results = self.cases(eqn, values, place)
        self.uses.place = place
        pairs = zip(results, shapes_of(eqn), strict=True)
        return [_of_branches(cases, values[0], shape, self.uses, line_of(eqn)) for cases, shape in pairs]

    def _loop(self, loop: Loop[Value], steps: Index | None, place: Place, line: str) -> tuple[list[Value], list[Value]]:
        """Follow the body of a loop until its carried values no longer change from constant to parameter to signal.

        A value that each step hands on stays as it is, a counter stays a constant, any other becomes a signal.

        Args:
            loop: its operands, with one entry of its rows.
            steps: the numbers of its steps in the order of its results, `None` where they are not known.
            place: its place.
            line: its line.

        Returns:
            The carried values before a step, and the results of the loop; those it collects are of one step.
        """
        uses, count, handed_on = self.uses, len(loop.carry), loop.handed_on
        changes = zip(loop.changes, loop.carry, strict=True)
        counters = [_counter(change, start, steps, place) for change, start in changes]
        signals = [value.data for value in (*loop.fixed, *loop.carry, *loop.rows)]
        state = [
            replace(value, data=True) if is_signal and not same and not value.weights else value
            for value, is_signal, same in zip(loop.carry, loop.changed_by(signals), handed_on, strict=True)
        ]
        first = len(uses.all)
        is_settled = False
        while not is_settled:
            del uses.all[first:]
            before = [
                value if same else _before_step(value, counter, uses, place, line)
                for value, same, counter in zip(state, handed_on, counters, strict=True)
            ]
            results = self.call(loop.body, [*loop.fixed, *before, *loop.rows], place)
            changing = [index for index, same in enumerate(handed_on) if not same]
            self.check_carried([values[index] for values in (state, results) for index in changing], line)
            is_settled = True
            for index in changing:
                old, new = before[index], results[index]
                if old.data or not (new.data or new.weights):
                    continue
                if new.data or new.is_signal:
                    state[index] = replace(state[index], data=True, weights=())
                    is_settled = False
                else:
                    state[index] = _changed(new, line)
                    is_settled &= bool(old.weights)
        sums = accumulated(loop, results, uses, line)
        carried = [
            old if same else replace(total, data=new.data or old.data, weights=old.weights)
            for old, new, same, total in zip(before, results[:count], handed_on, sums, strict=True)
        ]
        changed = {view.param for value in before if not value.data for view in value.weights if view.is_changed}
        collected = [
            _changed(value, line) if any(view.param in changed for view in value.weights) else value
            for value in results[count:]
        ]
        return before, [*carried, *collected]


def _frozen(value: Value, line: str) -> Value:
    """Return a value with its parameters marked as behind `stop_gradient`."""
    stop = Stop("stop_gradient stands between it and the signal", line, Why.NOT_TRAINABLE)
    return value.with_weights(lambda view: replace(view.halted(stop), frozen=True))


def _changed(value: Value, line: str) -> Value:
    """Return a carried value whose parameters a loop changes from step to step, starting with a constant."""
    stop = Stop(CHANGED, line)
    return Value(shape=value.shape, weights=tuple(view.lost(value.shape, stop) for view in value.weights))


def _counter(change: float | None, start: Value, steps: Index | None, place: Place) -> Series | None:
    """Return a number that a loop carries and changes by the same amount in each step; `None` for anything else.

    Args:
        change: the amount, `None` where it is not known.
        start: the number before the first step.
        steps: the numbers of the steps.
        place: the loop.
    """
    first = start.constant
    if first is None or isinstance(first, Series) or start.shape or steps is None or change is None:
        return None

    def numbers() -> Any:
        return None if first.number is None else first.number + (steps * change).astype(first.number.dtype)

    return Series(place, numbers)


def _is_looked_up_along_rows(value: Value) -> bool:
    """Return whether a value holds rows of an embedding that lie along its first axis, too."""
    return value.looked and any(0 in view.marked for view in value.weights)


def _row(value: Value, steps: Series) -> Value:
    """Return the entry along the first axis of an operand that a step of a scan takes.

    Args:
        value: the operand.
        steps: the index of the entry at each step.
    """
    constant = value.constant
    series = None if constant is None or isinstance(constant, Series) else Series(steps.loop, lambda: constant.number)

    def move(view: View) -> View:
        return view.one_by_one(Step(view.axes[0], steps, 0, steps.loop), view.axes[1:])

    return replace(
        moved(value, value.shape[1:], move, (index - 1 for index in value.stretched if index)),
        inputless=False,
        gates=(),
        behind=0,
        constant=series,
        units=tuple(replace(view, axes=view.axes[1:]) for view in value.units if 0 not in view.marked),
        mixed=Stop("a loop takes them one by one") if any(0 in view.marked for view in value.units) else value.mixed,
    )


def _collected(value: Value, shape: tuple[int, ...], data: bool, uses: Uses, line: str, *, is_shared: bool) -> Value:
    """Return the values that a loop collects of its steps.

    Args:
        value: the value of one step.
        shape: the shape of the result.
        data: whether the loop holds a signal, so that the result is one.
        uses: the uses so far.
        line: the line.
        is_shared: whether the step uses the value elsewhere, too; then a sum over all steps is not its only use.
    """
    if value.weights and not value.data:
        stop = Stop("a loop collects it", line)
        views = (_restacked(view, uses, shape[0]) or view.lost(shape, stop) for view in value.weights)
        return Value(shape=shape, weights=tuple(views))
    value = settle(value, uses, line)

    def collected(view: View) -> View:
        axis = foreign(shape[0]) if is_shared else _axis_of_steps(view, uses, shape[0])
        return replace(after_loop(view, uses), axes=(axis, *view.axes))

    outputs = tuple(map(collected, value.outputs))
    units = tuple(
        _with_axis_of_steps(view, uses.loops[uses.place].get(view.param, ()), shape[0]) for view in value.units
    )
    return Value(shape=shape, data=value.data or data, outputs=outputs, units=units, mixed=value.mixed)


def _axis_of_steps(output: View, uses: Uses, count: int) -> Axis:
    """Return the axis along which a loop collects outputs: the entries of the weight that made each.

    Args:
        output: the outputs of one step.
        uses: the uses so far.
        count: how many steps there are.
    """
    steps = [step for step in taken_steps(output, uses, uses.place) if length(step.factors) > 1]
    if not steps:
        return foreign(count)
    entries = steps[0].entries()
    axis = None if entries is None or len(entries) != count else normal(steps[0].factors, entries)
    if axis is None or len(steps) > 1:
        return (slot(steps[0].factors, np.zeros(count, np.intp)),)  # the order of the entries is not known
    return axis[0]


def _restacked(view: View, uses: Uses, count: int) -> View | None:
    """Return a parameter whose entries a loop collects step by step; `None` where it collects something else."""
    factors, fixed = uses.loops[uses.place].get(view.param, ()), {factor for factor, _ in view.fixed}
    is_counted = any(step.operand >= 0 and step.is_in(uses.place) for step in view.steps)
    if is_counted or not set(factors) <= set(view.batch) - fixed:
        return None
    return _with_axis_of_steps(view, factors, count)


def _with_axis_of_steps(view: View, factors: Axis, count: int) -> View:
    """Return a view collected over the steps of a loop: the factors of which each step took one entry are an axis."""
    if not set(factors) <= set(view.batch):
        return replace(view, axes=(foreign(count), *view.axes))
    batch = tuple(factor for factor in view.batch if factor not in factors)
    return replace(view, axes=(factors or foreign(count), *view.axes), batch=batch)


def _before_step(value: Value, counter: Series | None, uses: Uses, place: Place, line: str) -> Value:
    """Return a carried value that changes, before a step: a counter, a signal, or parameters that the loop changes.

    Args:
        value: the value before the first step, or as other steps left it.
        counter: its numbers, where it is a counter.
        uses: where uses are entered.
        place: the loop.
        line: its line.
    """
    signal = _as_state(value, uses, line)
    behind = uses.loop_bit(place) if signal.data else 0
    return replace(signal, constant=None if value.data else counter, behind=behind)


def _as_state(value: Value, uses: Uses, line: str) -> Value:
    """Return a carried value that changes, as a signal; a parameter that it starts with is entered as a state."""
    if value.is_signal:
        return replace(settle(value, uses, line), inputless=False, outputs=())
    for view in value.weights:
        stop = view.stop or Stop("it is the first value of a loop's state", line)
        uses.enter(view, "other", line, parts_of(("out", view.factors)), stop=stop)
    return Value(shape=value.shape, data=value.data or bool(value.weights))


def _of_branches(cases: Sequence[Value], which: Value, shape: tuple[int, ...], uses: Uses, line: str) -> Value:
    """Return a result of a `cond`.

    Args:
        cases: the result of each branch.
        which: the number of the branch.
        shape: the shape of the result.
        uses: where uses are entered.
        line: the line.
    """
    if any(case.data for case in cases):
        cases = [settle(case, uses, line) for case in cases]
    weights = multiplied(dict.fromkeys(view for case in cases for view in case.weights), None)
    outputs = tuple(dict.fromkeys(scaled(view for case in cases for view in case.outputs)))
    data = any(case.data for case in cases) or (which.data and not weights)
    units = cases[0].units
    mixed = next((case.mixed for case in (which, *cases) if case.mixed), None)
    if which.units or any(set(case.units) != set(units) for case in cases):
        units, mixed = (), Stop("a branch of them goes one way, another goes another", line)
    result = Value(shape=shape, data=data, weights=weights, outputs=outputs, units=units, mixed=mixed)
    return result.beside(*cases)
