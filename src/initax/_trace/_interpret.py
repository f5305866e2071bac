"""Interpreters of a jaxpr: what they share, and the walk, which finds every use of the parameters.

The second moments and the replay are interpreters too; units are followed by a walk that knows more of each value.
"""

from __future__ import annotations

import abc
import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jax.extend.core import Literal

from initax._model._reason import Why
from initax._trace._backward import carries_back, cotangents
from initax._trace._contract import settle
from initax._trace._elementwise import halted, nonlinear
from initax._trace._factors import FOREIGN, LARGEST, Factor, Index, foreign, length, normal, slot
from initax._trace._indices import Series, after, constant_of, shapes_of
from initax._trace._layout import moved
from initax._trace._loops import Loop, loop_of, steps_of
from initax._trace._primitives import UNKNOWN, called, row_of
from initax._trace._quantized import OWN_GRADIENT
from initax._trace._sums import accumulated, after_loop, taken_steps
from initax._trace._uses import Place, Uses, Value, parts_of
from initax._trace._views import CHANGED, Step, Stop, View, scaled
from initax._trace._windows import note_windows

T = TypeVar("T")
"""What a pass knows of one value."""

JAX_ROOT = str(Path(jax.__file__).parent)
OWN_ROOT = str(Path(__file__).parent.parent)


def line_of(eqn: Any) -> str:
    """Return the line of the forward pass an equation comes from, `file.py:12`, or nothing where it is not known."""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if not frame.file_name.startswith((JAX_ROOT, OWN_ROOT, contextlib.__file__, "<")):
            return f"{Path(frame.file_name).name}:{frame.line_num}"
    return ""


class Interpreter(abc.ABC, Generic[T]):
    """Goes through a jaxpr equation by equation, from what its operands hold to what its results hold.

    A call is opened. What a pass does at a loop, a branch or any other equation is its own; a loop and a branch are
    equations like any other where it says nothing of them.
    """

    @abc.abstractmethod
    def constant(self, atom: Any, number: Any) -> T:
        """Return what a number written into a jaxpr holds, or a constant of one.

        Args:
            atom: the literal, or the variable of the constant.
            number: what it is; `None` for a constant of an open jaxpr.
        """

    @abc.abstractmethod
    def equation(self, eqn: Any, values: list[T], at: Place) -> list[T]:
        """Return what the results of an equation hold."""

    def scan(self, eqn: Any, values: list[T], at: Place) -> list[T]:
        """Return what the results of a scan hold."""
        return self.equation(eqn, values, at)

    def while_loop(self, eqn: Any, values: list[T], at: Place) -> list[T]:
        """Return what the results of a `while` loop hold."""
        return self.equation(eqn, values, at)

    def cond(self, eqn: Any, values: list[T], at: Place) -> list[T]:
        """Return what the results of a branch hold."""
        return self.equation(eqn, values, at)

    def handed_on(self, eqn: Any, values: list[T], at: Place) -> list[T]:
        """Return what the results of an equation hold whose results are its operands."""
        return values

    def cases(self, eqn: Any, values: Sequence[T], at: Place) -> list[tuple[T, ...]]:
        """Return what each branch of a `cond` leaves, for each of its results."""
        branches = enumerate(eqn.params["branches"])
        return list(zip(*(self.call(branch, values[1:], (*at, number)) for number, branch in branches), strict=True))

    def call(self, inner: Any, values: Sequence[T], at: Place) -> list[T]:
        """Return what the results of a jaxpr hold, closed or open.

        Args:
            inner: the jaxpr.
            values: what its arguments hold.
            at: the equation that holds it.
        """
        jaxpr = getattr(inner, "jaxpr", inner)
        numbers = getattr(inner, "consts", ()) or [None] * len(jaxpr.constvars)
        known = {var: self.constant(var, number) for var, number in zip(jaxpr.constvars, numbers, strict=True)}
        known |= zip(jaxpr.invars, values, strict=True)

        def read(atom: Any) -> T:
            return self.constant(atom, atom.val) if isinstance(atom, Literal) else known[atom]

        for number, eqn in enumerate(jaxpr.eqns):
            results = self.step(eqn, [read(atom) for atom in eqn.invars], (*at, number))
            known |= zip(eqn.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def step(self, eqn: Any, values: list[T], at: Place) -> list[T]:
        """Return what the results of an equation hold.

        Args:
            eqn: the equation.
            values: what its operands hold.
            at: where it stands.
        """
        row, inner = row_of(eqn), called(eqn)
        if inner is not None:
            return self.call(inner, values, at)
        if row.hands_on and len(values) == len(eqn.outvars):
            return self.handed_on(eqn, values, at)
        match row.control:
            case "scan":
                return self.scan(eqn, values, at)
            case "while":
                return self.while_loop(eqn, values, at)
            case "cond":
                return self.cond(eqn, values, at)
        return self.equation(eqn, values, at)


def equation(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> list[Value]:
    """Return what the results of a single equation hold of parameters and signals, by the rule of its row.

    Args:
        eqn: the equation.
        values: what its operands hold.
        uses: where uses are entered.
        line: its line.
    """
    rule, shapes = row_of(eqn).read, shapes_of(eqn)
    found = rule(eqn, values, uses, line) if rule is not None else None
    results = [found] if isinstance(found, Value) else found
    if results is not None and [result.shape for result in results] == shapes:
        return results
    return _unread(eqn, values, shapes, uses, line)


def _unread(eqn: Any, values: Sequence[Value], shapes: Sequence[tuple[int, ...]], uses: Uses, line: str) -> list[Value]:
    """Return the results of an equation without a rule: parameters stop there, and the reason names the primitive."""
    name, changes = eqn.primitive.name, _is_mutation(eqn)
    if (row_of(eqn) is UNKNOWN or row_of(eqn).calls) and (changes or any(value.data for value in values)):
        stop = Stop(f"{name} stands between it and the signal", line)
        values = [settle(halted(value, stop), uses, line) for value in values]
    ordered = [*values[1:], values[0]] if name == "select_n" else values  # what is chosen says more than the condition
    found = [nonlinear(name, ordered, shape, uses, line, _altered(eqn)) for shape in shapes]
    return [replace(each, data=True) for each in found] if changes else found


def _altered(eqn: Any) -> list[int] | None:
    """Return the axes along which an equation mixes entries, none for a function entry by entry; `None` if unknown."""
    units = row_of(eqn).units
    if callable(units):
        rank = len(eqn.outvars[0].aval.shape)
        return [axis % rank for axis in units(eqn.params)] if rank else []
    return [] if units in ("function", "product") else None


def _is_mutation(eqn: Any) -> bool:
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

    def call(self, inner: Any, values: Sequence[Value], at: Place) -> list[Value]:
        """Return what the results of a jaxpr hold."""
        around, self.uses.readers = self.uses.readers, readers_in(getattr(inner, "jaxpr", inner))
        results = super().call(inner, values, at)
        self.uses.at, self.uses.readers = at, around
        return results

    def step(self, eqn: Any, values: list[Value], at: Place) -> list[Value]:
        """Return what the results of an equation hold; a cotangent that it carries back is noted as one."""
        uses = self.uses
        around = uses.goes_back, uses.own_gradient
        uses.at, uses.goes_back = at, uses.goes_back or carries_back(eqn)
        uses.own_gradient = uses.own_gradient or eqn.primitive.name in OWN_GRADIENT
        first = len(uses.found)
        results = self._followed(eqn, values, at)
        results = uses.after(first, values, results)
        note_windows(eqn, values, uses)
        if uses.goes_back:
            results = cotangents(eqn, results, uses, line_of(eqn))
        uses.goes_back, uses.own_gradient = around
        return results

    def _followed(self, eqn: Any, values: list[Value], at: Place) -> list[Value]:
        """Return what the results of an equation hold; constants are worked out only where they are needed."""
        inner = called(eqn)
        if inner is not None:
            return self._opened(eqn, getattr(inner, "jaxpr", inner), values, at)
        if any(value.data or value.weights for value in values) or _is_mutation(eqn):
            return super().step(eqn, values, at)
        operands = [value.constant for value in values if value.constant is not None]
        plain = len(operands) == len(values) and row_of(eqn).control is None
        constants = [after(eqn, operands, place) if plain else None for place in range(len(eqn.outvars))]
        return [Value(shape=shape, constant=each) for shape, each in zip(shapes_of(eqn), constants, strict=True)]

    def _opened(self, eqn: Any, jaxpr: Any, values: list[Value], at: Place) -> list[Value]:
        """Return what the results of a call hold, whose variables are those of the jaxpr that it calls."""
        wholes = self.uses.wholes
        wholes |= {id(var): self.uses.whole(atom) for var, atom in zip(jaxpr.invars, eqn.invars, strict=True)}
        results = super().step(eqn, values, at)
        wholes |= {id(var): self.uses.whole(atom) for var, atom in zip(eqn.outvars, jaxpr.outvars, strict=True)}
        return results

    def handed_on(self, eqn: Any, values: list[Value], at: Place) -> list[Value]:
        """Return operands as results; behind `stop_gradient` no gradient reaches a parameter by this way."""
        if eqn.primitive.name == "stop_gradient":
            values = [_frozen(value, line_of(eqn)) for value in values]
        return [replace(value, shape=shape) for value, shape in zip(values, shapes_of(eqn), strict=True)]

    def equation(self, eqn: Any, values: list[Value], at: Place) -> list[Value]:
        """Return what the results of an equation hold."""
        line = line_of(eqn) if any(value.weights for value in values) else ""
        return equation(eqn, values, self.uses, line)

    def go_round(self, values: Sequence[Value], line: str) -> None:
        """Take note of values that a loop carries, and changes: before a step and after it."""

    def scan(self, eqn: Any, values: list[Value], at: Place) -> list[Value]:
        """Follow a scan: each step takes one entry of what it runs over."""
        uses = self.uses
        loop, steps = loop_of(eqn, values), Series(at, lambda: np.arange(eqn.params["length"]))
        carries = len(loop.carry)
        stacked = [settle(value, uses, line_of(eqn)) if _is_cut_row(value) else value for value in loop.rows]
        loop = loop._replace(rows=[_row(value, steps) for value in stacked])
        uses.loops[at] = {
            view.param: tuple(factor for factor in view.axes[0] if factor.axis != FOREIGN)
            for value in stacked
            for view in value.weights
        }
        count, direction = eqn.params["length"], -1 if eqn.params["reverse"] else 1
        order = np.arange(count)[::direction] if count <= LARGEST else None
        carry, results = self._loop(loop, order, at, line_of(eqn))
        shapes = shapes_of(eqn)
        data = any(value.data or value.weights for value in (*carry, *loop.rows))
        readers = readers_in(loop.jaxpr)
        collected = [
            _collected(value, shape, data, uses, line_of(eqn), is_shared=len(readers[id(var)]) > 1)
            for var, value, shape in zip(loop.jaxpr.outvars[carries:], results[carries:], shapes[carries:], strict=True)
        ]
        return [*results[:carries], *collected]

    def while_loop(self, eqn: Any, values: list[Value], at: Place) -> list[Value]:
        """Follow a `while` loop."""
        loop = loop_of(eqn, values)
        self.uses.loops[at] = {}
        self.uses.whiles.add(at)
        number = steps_of(eqn)
        _, results = self._loop(loop, np.arange(int(number)) if number <= LARGEST else None, at, line_of(eqn))
        return results

    def cond(self, eqn: Any, values: list[Value], at: Place) -> list[Value]:
        """Follow every branch."""
        every = self.cases(eqn, values, at)
        self.uses.at = at
        pairs = zip(every, shapes_of(eqn), strict=True)
        return [_either(cases, values[0], shape, self.uses, line_of(eqn)) for cases, shape in pairs]

    def _loop(self, loop: Loop[Value], steps: Index | None, at: Place, line: str) -> tuple[list[Value], list[Value]]:
        """Follow the body of a loop until what it carries no longer changes in kind.

        What is handed on unchanged stays what it was, counters stay constants, everything else becomes a signal.

        Args:
            loop: its operands; of what it runs over, what a step sees.
            steps: the numbers of its steps in the order of its results, `None` where they are not known.
            at: its place.
            line: its line.
        """
        uses = self.uses
        carry, fixed = loop.carry, loop.handed_on
        counters = [_counter(change, value, steps, at) for change, value in zip(loop.changes, carry, strict=True)]
        signals = [value.data for value in (*loop.fixed, *carry, *loop.rows)]
        state = [
            replace(value, data=True) if changed and not same and not value.weights else value
            for value, changed, same in zip(carry, loop.changed_by(signals), fixed, strict=True)
        ]
        first = len(uses.found)
        while True:
            del uses.found[first:]
            entered = [
                value if same else _entered(value, counter, uses, at, line)
                for value, same, counter in zip(state, fixed, counters, strict=True)
            ]
            results = self.call(loop.body, [*loop.fixed, *entered, *loop.rows], at)
            moving = [place for place, same in enumerate(fixed) if not same]
            self.go_round([each[place] for each in (state, results) for place in moving], line)
            changed = False
            for place, (before, left) in enumerate(zip(entered, results[: len(carry)], strict=True)):
                if fixed[place] or before.data or not (left.data or left.weights):
                    continue
                changed |= left.data or left.is_signal or not before.weights
                if left.data or left.is_signal:
                    state[place] = replace(state[place], data=True, weights=())
                else:
                    state[place] = _changed(left, line)
            if not changed:
                break
        sums = accumulated(loop.jaxpr, len(loop.fixed), carry, results, uses, line)
        handed = [
            before if same else replace(after, data=left.data or before.data, weights=before.weights)
            for before, left, same, after in zip(entered, results[: len(carry)], fixed, sums, strict=True)
        ]
        summed = {view.param for value in entered if not value.data for view in value.weights if view.is_changed}
        collected = [
            _changed(value, line) if any(view.param in summed for view in value.weights) else value
            for value in results[len(carry) :]
        ]
        return entered, [*handed, *collected]


def _frozen(value: Value, line: str) -> Value:
    """Return parameters behind `stop_gradient`, where no gradient reaches them by this way."""
    stop = Stop("stop_gradient stands between it and the signal", line, Why.NOT_TRAINABLE)
    return replace(value, weights=tuple(replace(view.halted(stop), frozen=True) for view in value.weights))


def _changed(value: Value, line: str) -> Value:
    """Return what a loop makes of parameters from step to step, starting with a constant."""
    stop = Stop(CHANGED, line)
    return Value(shape=value.shape, weights=tuple(view.lost(value.shape, stop) for view in value.weights))


def _counter(change: float | None, start: Value, steps: Index | None, at: Place) -> Series | None:
    """Return a number that a loop carries and changes by the same amount in each step; `None` for anything else.

    Args:
        change: the amount, where it is one.
        start: what it is before the first step.
        steps: the numbers of the steps.
        at: the place of the loop.
    """
    first = start.constant
    if first is None or isinstance(first, Series) or start.shape or steps is None or change is None:
        return None

    def numbers() -> Any:
        return None if first.number is None else first.number + (steps * change).astype(first.number.dtype)

    return Series(at, numbers)


def _is_cut_row(value: Value) -> bool:
    """Return whether a loop over a value takes the rows apart that were looked up."""
    return value.looked and any(0 in view.marked for view in value.weights)


def _row(value: Value, steps: Series) -> Value:
    """Return what one step of a scan sees of an operand: one entry along the first axis, a batch axis.

    Args:
        value: the operand.
        steps: the numbers of the entries.
    """
    held = value.constant

    def move(view: View) -> View:
        return view.one_by_one(Step(view.axes[0], steps, 0, steps.loop), view.axes[1:])

    return replace(
        moved(value, value.shape[1:], move, (index - 1 for index in value.stretched if index)),
        inputless=False,
        gates=(),
        behind=0,
        constant=None if held is None or isinstance(held, Series) else Series(steps.loop, lambda: held.number),
        units=tuple(replace(view, axes=view.axes[1:]) for view in value.units if 0 not in view.marked),
        mixed=Stop("a loop takes them one by one") if any(0 in view.marked for view in value.units) else value.mixed,
    )


def _collected(value: Value, shape: tuple[int, ...], data: bool, uses: Uses, line: str, *, is_shared: bool) -> Value:
    """Return what a loop collects of its steps.

    Args:
        value: what one step leaves.
        shape: the shape of the result.
        data: whether it is a signal for another reason.
        uses: the uses so far.
        line: the line.
        is_shared: the step uses it elsewhere, too; a sum of all of them is not what it is for.
    """
    if value.weights and not value.data:
        stop = Stop("a loop collects it", line)
        views = (_restacked(view, uses, shape[0]) or view.lost(shape, stop) for view in value.weights)
        return Value(shape=shape, weights=tuple(views))
    value = settle(value, uses, line)
    axes = [foreign(shape[0]) if is_shared else _steps(view, uses, shape[0]) for view in value.outputs]
    outputs = tuple(
        replace(after_loop(view, uses), axes=(axis, *view.axes)) for axis, view in zip(axes, value.outputs, strict=True)
    )
    units = tuple(_unstepped(view, uses.loops[uses.at].get(view.param, ()), shape[0]) for view in value.units)
    return Value(shape=shape, data=value.data or data, outputs=outputs, units=units, mixed=value.mixed)


def _steps(output: View, uses: Uses, count: int) -> tuple[Factor, ...]:
    """Return what outputs that a loop collects hold along its steps: the entries of the weight that made each.

    Args:
        output: the outputs of one step.
        uses: the uses so far.
        count: how many steps there are.
    """
    found = [step for step in taken_steps(output, uses, uses.at) if length(step.factors) > 1]
    if not found:
        return foreign(count)
    entries = found[0].entries()
    axis = None if entries is None or len(entries) != count else normal(found[0].factors, entries)
    if axis is None or len(found) > 1:
        return (slot(found[0].factors, np.zeros(count, np.intp)),)  # which of them is not known
    return axis[0]


def _restacked(view: View, uses: Uses, steps: int) -> View | None:
    """Return a parameter whose entries a loop collects step by step; `None` where it collects something else."""
    taken, fixed = uses.loops[uses.at].get(view.param, ()), {factor for factor, _ in view.fixed}
    counted = any(step.operand >= 0 and step.at[: len(uses.at)] == uses.at for step in view.steps)
    if counted or not set(taken) <= set(view.batch) - fixed:
        return None
    return _unstepped(view, taken, steps)


def _unstepped(view: View, taken: tuple[Factor, ...], steps: int) -> View:
    """Return a view collected over the steps of a loop: the entries that it took one by one are an axis again."""
    if not set(taken) <= set(view.batch):
        return replace(view, axes=(foreign(steps), *view.axes))
    left = tuple(factor for factor in view.batch if factor not in taken)
    return replace(view, axes=(taken or foreign(steps), *view.axes), batch=left)


def _entered(value: Value, counter: Series | None, uses: Uses, at: Place, line: str) -> Value:
    """Return a carried value that changes as a step sees it: a counter, a signal, or what a loop makes of parameters.

    Args:
        value: what it is before the first step, or what other steps left.
        counter: its numbers, where it is one.
        uses: where uses are entered.
        at: the place of the loop.
        line: its line.
    """
    started = _started(value, uses, line)
    behind = uses.loop_bit(at) if started.data else 0
    return replace(started, constant=None if value.data else counter, behind=behind)


def _started(value: Value, uses: Uses, line: str) -> Value:
    """Return a carried value that changes, as a signal; a parameter that starts it is a state."""
    if value.is_signal:
        return replace(settle(value, uses, line), inputless=False, outputs=())
    if value.weights:
        for view in value.weights:
            stop = view.stop or Stop("it is the first value of a loop's state", line)
            uses.enter(view, "other", line, parts_of(("out", view.own)), stop=stop)
        return Value(shape=value.shape, data=True)
    return Value(shape=value.shape, data=value.data)


def _either(cases: Sequence[Value], which: Value, shape: tuple[int, ...], uses: Uses, line: str) -> Value:
    if any(case.data for case in cases):
        cases = [settle(case, uses, line) for case in cases]
    weights = tuple(dict.fromkeys(view for case in cases for view in case.weights))
    outputs = tuple(dict.fromkeys(scaled(view for case in cases for view in case.outputs)))
    data = any(case.data for case in cases) or (which.data and not weights)
    units = cases[0].units
    mixed = next((case.mixed for case in (which, *cases) if case.mixed), None)
    if which.units or any(set(case.units) != set(units) for case in cases):
        units, mixed = (), Stop("a branch of them goes one way, another goes another", line)
    return Value(shape=shape, data=data, weights=weights, outputs=outputs, units=units, mixed=mixed)
