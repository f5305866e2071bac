"""The walk over a jaxpr: every equation is asked what it does to the parameters and signals in its operands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import Literal

from initax._model._reason import Why
from initax._trace._backward import carries_back, cotangents
from initax._trace._contract import settle
from initax._trace._entries import marked
from initax._trace._equations import equation, shapes_of
from initax._trace._indices import constant, stepped
from initax._trace._uses import Part, Use, Uses, Value, assign
from initax._trace._views import FOREIGN, Factor, Stop, View, foreign

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_lin": "jaxpr",
    "nnx_call": "jaxpr",
}
"""Equations that call another jaxpr with the same operands → the parameter that holds it."""

SAME = frozenset(
    {"stop_gradient", "sharding_constraint", "optimization_barrier", "device_put", "pvary", "copy_p", "name"}
    | {"layout_constraint", "mesh_cast", "reshard", "pcast", "shard_alike"}
)
"""Equations that hand their operands through."""

JAX_ROOT = str(Path(jax.__file__).parent)
OWN_ROOT = str(Path(__file__).parent.parent)


def line_of(eqn: Any) -> str:
    """Return the line of the forward pass an equation comes from, `file.py:12`, or nothing where it is not known."""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if not frame.file_name.startswith((JAX_ROOT, OWN_ROOT, "<")):
            return f"{Path(frame.file_name).name}:{frame.line_num}"
    return ""


def walk(jaxpr: Any, consts: Sequence[Value], operands: Sequence[Value], uses: Uses) -> list[Value]:
    """Follow every equation of a jaxpr and return what its results hold.

    Args:
        jaxpr: an open jaxpr.
        consts: what its constants hold.
        operands: what its arguments hold.
        uses: where uses are entered.
    """
    known: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= zip(jaxpr.invars, operands, strict=True)

    def read(atom: Any) -> Value:
        return constant(atom.val) if isinstance(atom, Literal) else known[atom]

    around, goes_back = uses.at, uses.goes_back
    for place, eqn in enumerate(jaxpr.eqns):
        uses.at = (*around, place)
        uses.goes_back = goes_back or carries_back(eqn)
        results = _step(eqn, [read(atom) for atom in eqn.invars], uses)
        if uses.goes_back:
            results = cotangents(eqn, results, uses, line_of(eqn))
        known |= zip(eqn.outvars, results, strict=True)
    uses.at, uses.goes_back = around, goes_back
    return [read(atom) for atom in jaxpr.outvars]


def _step(eqn: Any, values: list[Value], uses: Uses) -> list[Value]:
    name = eqn.primitive.name
    if not any(value.data or value.weights for value in values):
        return [Value(shape=shape, steps=stepped(eqn, values)) for shape in shapes_of(eqn)]
    if name in CALLS and CALLS[name] in eqn.params:
        return _call(eqn.params[CALLS[name]], values, uses)
    if name == "stop_gradient":
        values = [value if value.data else _frozen(value, line_of(eqn)) for value in values]
    if name in SAME:
        return [replace(value, shape=shape) for value, shape in zip(values, shapes_of(eqn), strict=True)]
    control = {"scan": _scan, "while": _while, "cond": _cond}.get(name)
    if control is not None:
        return control(eqn, values, uses)
    where = line_of(eqn) if uses.follow is not None or any(value.weights for value in values) else ""
    first = len(uses.found)
    results = equation(eqn, values, uses, where)
    if uses.follow is None or uses.goes_back:
        return results
    return uses.follow.after(eqn, values, results, uses, first, where)


def _frozen(value: Value, where: str) -> Value:
    """Return parameters behind `stop_gradient`, where no gradient reaches them by this way."""
    stop = Stop("stop_gradient stands between it and the signal", where, Why.NOT_TRAINABLE)
    return replace(value, weights=tuple(view.halted(stop) for view in value.weights))


def _call(inner: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    jaxpr = getattr(inner, "jaxpr", inner)
    consts = [Value(shape=tuple(var.aval.shape)) for var in jaxpr.constvars]
    return walk(jaxpr, consts, values, uses)


def scan_parts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many operands of a scan are constants, and how many are carried from step to step."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carried, _ = params["ft_in"].unpack()  # from JAX 0.12 on
    return len(list(constants)), len(list(carried))


def _scan(eqn: Any, values: list[Value], uses: Uses) -> list[Value]:
    params = eqn.params
    consts, carries = scan_parts(params)
    first, carry, stacked = values[:consts], values[consts : consts + carries], values[consts + carries :]
    rows = [_row(value) for value in stacked]
    uses.loops[uses.at] = {
        view.param: tuple(factor for factor in view.axes[0] if factor.axis != FOREIGN)
        for value in stacked
        for view in value.weights
    }
    body = params["jaxpr"]
    carry, results = _loop(body, first, carry, rows, uses, line_of(eqn))
    shapes = shapes_of(eqn)
    data = any(value.data or value.weights for value in (*carry, *rows))
    collected = [
        _collected(value, shape, data, uses, line_of(eqn))
        for value, shape in zip(results[carries:], shapes[carries:], strict=True)
    ]
    return [*results[:carries], *collected]


def _row(value: Value) -> Value:
    """What one step of a scan sees of an operand: the first axis of a parameter is a stack."""

    def move(view: View) -> View:
        gone = tuple(factor for factor in view.axes[0] if factor.axis != FOREIGN)
        return replace(view, axes=view.axes[1:], batch=view.batch + gone)

    outputs = tuple(
        replace(view, axes=view.axes[1:])
        for view in value.outputs
        if all(factor.axis == FOREIGN for factor in view.axes[0])
    )
    return Value(
        shape=value.shape[1:],
        data=value.data,
        weights=tuple(map(move, value.weights)),
        outputs=outputs,
        stretched=frozenset(at - 1 for at in value.stretched if at),
        units=tuple(replace(view, axes=view.axes[1:]) for view in value.units if 0 not in marked(view)),
        mixed=Stop("a loop takes them one by one") if any(0 in marked(view) for view in value.units) else value.mixed,
    )


def _collected(value: Value, shape: tuple[int, ...], data: bool, uses: Uses, where: str) -> Value:
    if value.weights and not value.data:
        stop = Stop("a loop collects it", where)
        views = tuple(
            replace(view.halted(stop), axes=tuple((Factor(FOREIGN, 1, size),) for size in shape))
            for view in value.weights
        )
        return Value(shape=shape, weights=views)
    value = settle(value, uses, where)
    outputs = tuple(replace(view, axes=(foreign(shape[0]), *view.axes)) for view in value.outputs)
    units = tuple(_unstepped(view, uses.loops[uses.at].get(view.param, ()), shape[0]) for view in value.units)
    return Value(shape=shape, data=value.data or data, outputs=outputs, units=units, mixed=value.mixed)


def _unstepped(view: View, taken: tuple[Factor, ...], steps: int) -> View:
    """Units of all steps of a loop, collected: the entries it took one by one are an axis again."""
    if not set(taken) <= set(view.batch):
        return replace(view, axes=(foreign(steps), *view.axes))
    left = tuple(factor for factor in view.batch if factor not in taken)
    return replace(view, axes=(taken or foreign(steps), *view.axes), batch=left)


def _loop(
    body: Any, consts: Sequence[Value], carry: Sequence[Value], rows: Sequence[Value], uses: Uses, where: str
) -> tuple[list[Value], list[Value]]:
    """Follow the body of a loop until what it carries stays what it is.

    What is handed on unchanged stays what it was, counters stay constants, everything else becomes a signal.
    """
    jaxpr = getattr(body, "jaxpr", body)
    start = len(consts)
    own = jaxpr.invars[start : start + len(carry)]
    fixed = [jaxpr.outvars[at] is var for at, var in enumerate(own)]
    state = list(carry)
    mark = uses.mark()
    while True:
        uses.forget(mark)
        entered = [value if same else _started(value, uses, where) for value, same in zip(state, fixed, strict=True)]
        results = _call(body, [*consts, *entered, *rows], uses)
        if uses.follow is not None:
            moving = [at for at, same in enumerate(fixed) if not same]
            uses.follow.round_a_loop([each[at] for each in (state, results) for at in moving], where)
        changed = False
        for at, (before, after) in enumerate(zip(entered, results[: len(carry)], strict=True)):
            if not fixed[at] and not before.data and (after.data or after.weights):
                state[at] = replace(state[at], data=True)
                changed = True
        if not changed:
            break
    handed = [
        before if same else Value(shape=before.shape, data=after.data or before.data)
        for before, after, same in zip(entered, results[: len(carry)], fixed, strict=True)
    ]
    return entered, [*handed, *results[len(carry) :]]


def _started(value: Value, uses: Uses, where: str) -> Value:
    """A carried value that changes: what a parameter starts is a state, which the walk takes for a signal."""
    if value.looked or any(view.fed_by_constant for view in value.weights):
        return replace(settle(value, uses, where), outputs=())
    if value.weights:
        for view in value.weights:
            parts: dict[Factor, Part] = {}
            assign(parts, view.own, "out")
            stop = view.stop or Stop("it is the first value of a loop's state", where)
            uses.add(Use(param=view.param, what="other", where=where, parts=parts, stop=stop))
        return Value(shape=value.shape, data=True)
    return Value(shape=value.shape, data=value.data)


def _while(eqn: Any, values: list[Value], uses: Uses) -> list[Value]:
    tests, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    carry = values[tests + consts :]
    uses.loops[uses.at] = {}
    uses.whiles.add(uses.at)
    _, results = _loop(eqn.params["body_jaxpr"], values[tests : tests + consts], carry, [], uses, line_of(eqn))
    return results


def _cond(eqn: Any, values: list[Value], uses: Uses) -> list[Value]:
    which, operands = values[0], values[1:]
    around, branches = uses.at, []
    for place, branch in enumerate(eqn.params["branches"]):
        uses.at = (*around, place)
        branches.append(_call(branch, operands, uses))
    uses.at = around
    return [
        _either([results[at] for results in branches], which, shape, uses, line_of(eqn))
        for at, shape in enumerate(shapes_of(eqn))
    ]


def _either(cases: Sequence[Value], which: Value, shape: tuple[int, ...], uses: Uses, where: str) -> Value:
    if any(case.data for case in cases):
        cases = [settle(case, uses, where) for case in cases]
    weights = tuple(dict.fromkeys(view for case in cases for view in case.weights))
    outputs = tuple(dict.fromkeys(view for case in cases for view in case.outputs))
    data = any(case.data for case in cases) or (which.data and not weights)
    units = cases[0].units
    mixed = next((case.mixed for case in (which, *cases) if case.mixed), None)
    if which.units or any(set(case.units) != set(units) for case in cases):
        units, mixed = (), Stop("a branch of them goes one way, another goes another", where)
    return Value(shape=shape, data=data, weights=weights, outputs=outputs, units=units, mixed=mixed)
