"""Layer-sequential unit variance: the output of every weighted operation scaled to a variance, in one pass."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import InitaxError, with_line
from initax._model._survey import Traced
from initax._planning._misuse import refuse_permuted
from initax._text import table
from initax._trace._factors import Factor
from initax._trace._jaxpr import Place
from initax._trace._replay import Player
from initax._trace._take_survey import called
from initax._trace._views import Step
from initax._trace._walk import uses_of
from initax._verbs._finite import refuse_not_finite, widened
from initax._verbs._lsuv_jobs import UNSEEN, Job, Key, jobs_of, shifts_of, sizes_of

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """The calibration of one weight.

    Attributes:
        path: its path; entries used alone have them behind, `layers.w[2]`.
        before: variance of its output before, one number per entry where a loop runs over a stack or picks entries;
            `nan` for entries it never comes to.
        after: the same afterwards.
        factor: what the weight was multiplied with.
    """

    path: str
    before: np.ndarray
    after: np.ndarray
    factor: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class LsuvReport:
    """The calibration of a model by `ix.lsuv`; print it for a table.

    Attributes:
        layers: the calibrated weights, in the order of the forward pass.
        skipped: path of each other weight → why it was left alone; with `center=True` also of each bias that could
            not be set, but for those of weights that are left alone themselves.
    """

    layers: tuple[Calibrated, ...]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        """Return the report as a table."""
        rows = [(weight.path, *map(_span, (weight.before, weight.after, weight.factor))) for weight in self.layers]
        shown = table(f"calibrated: {len(rows)}", ("weight", "before", "after", "factor"), rows)
        if not self.skipped:
            return shown
        left = list(self.skipped.items())
        return f"{shown}\n\n{table(f'left alone: {len(left)}', ('weight', 'why'), left)}"


def _span(values: np.ndarray) -> str:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return f"{low:.4g}" if values.size == 1 else f"{low:.4g} … {high:.4g}"


@with_line("ix.lsuv", "write model, report = ix.lsuv(model, inputs)")
def lsuv(
    model: Model,
    inputs: Any = None,
    *,
    forward: Callable[..., Any] | None = None,
    module: Any = None,
    target: float = 1.0,
    tolerance: float = 0.0,
    skip: Any = (),
    center: bool = False,
) -> tuple[Model, LsuvReport]:
    """Return the model with every weight scaled so that its output has a given variance, and a report.

    The forward pass is evaluated once, on real inputs: at each contraction or convolution with a weight the variance
    of the output, before the bias, is measured over examples, units and positions, and the weight divided by its root
    before the pass goes on. Each step of a scan calibrates its own entry of a stack, and so does each step of a loop
    that picks entries by its counter; a weight used again keeps the factor of its first use whose output is not zero:
    a recurrent weight that of the second step, where the first state is zeros. Norms, biases, residual branches and
    embeddings stay as they are.

    Args:
        model: an Equinox or NNX module, Linen variables, or any pytree of arrays.
        inputs: a tuple of what the model is called on, a whole batch; one array alone will do. A survey knows its own.
        forward: function of the model and the inputs, e.g. `lambda model, x: jax.vmap(model)(x)`; a plain call if left
            out.
        module: where the model is variables of Flax Linen, the module they belong to.
        target: the variance wanted.
        tolerance: a weight whose output is this close already, relative to the target, is left as it is.
        skip: selectors of layers and arrays to leave alone, as in a rule: a class, a name, a path, a function, or a
            list of several.
        center: also set each bias of a calibrated weight so that every unit has mean zero, where it is added to the
            output as it is, in another order, or times a number that is known.

    A weight whose output, or what reaches it, is not finite is left alone, and the report names the first.

    Raises:
        InitaxError: the target is not positive, there is no weight to calibrate, the inputs or the model hold nan or
            inf, or a scaled weight is too large for its type.
        RuleError: a selector of `skip` selects nothing.
        ModelError: the model can't be called, or the call fails.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> model = eqx.nn.MLP(8, 8, 32, depth=3, key=jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (256, 8))
        >>> model, report = ix.lsuv(model, x, forward=lambda model, x: jax.vmap(model)(x))
        >>> [round(float(layer.after), 3) for layer in report.layers]
        [1.0, 1.0, 1.0, 1.0]

    References:
        Mishkin & Matas 2016, arXiv 1511.06422, algorithm 1. There each layer is measured in a forward pass of its own,
        several times; before its bias an output is linear in its weight, and once is exact.
    """
    refuse_permuted("ix.lsuv", model=model, inputs=inputs)
    if not hasattr(target, "__float__") or not target > 0:
        raise InitaxError(f"lsuv: target is a variance and must be positive, not {target!r}.")
    if not hasattr(tolerance, "__float__") or not tolerance >= 0:
        raise InitaxError(f"lsuv: tolerance is a share of the target and must be at least 0, not {tolerance!r}.")
    surveyed, traced, values = called(model, inputs, forward, module)
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in values):
        raise InitaxError("lsuv measures on real inputs and weights; some are abstract.", "pass arrays")
    uses = uses_of(traced.closed, len(traced.paths), traced.constants)
    jobs, skipped = jobs_of(surveyed, traced, uses, skip)
    shifts, fixed = (
        shifts_of(surveyed, traced, uses, {job.key[0] for job in jobs.values()}, skip) if center else ({}, {})
    )
    if not jobs:
        lines = (f"{path}: {reason}" for path, reason in list(skipped.items())[:8])
        raise InitaxError("lsuv finds no weight to calibrate.", *lines)
    replay = functools.partial(_replayed, traced, {**jobs, **shifts}, float(target), float(tolerance))
    new, state = jax.jit(replay)(values)
    if any(np.any(np.asarray(record[4])) for record in state.values()):
        refuse_not_finite("lsuv", surveyed, surveyed.inputs if inputs is None else inputs)
    layers, idle = _rows(jobs, state, traced)
    scaled = {key[0] for key, record in state.items() if np.any(np.asarray(record[0]) != 1)}
    centered = {shift.key[0] for shift in shifts.values()}
    changed = {path: new[param] for param, path in enumerate(traced.paths) if param in scaled | centered}
    for path, array in changed.items():
        _refuse_overflow(path, array, surveyed.at(path))
    return surveyed.write(changed), LsuvReport(layers=layers, skipped={**skipped, **idle, **fixed})


def _refuse_overflow(path: str, new: Any, old: Any) -> None:
    if bool(jnp.isfinite(new).all()) or not bool(jnp.isfinite(old).all()):
        return
    raise InitaxError(
        f'lsuv: "{path}", scaled so that its output has the target variance, does not fit {new.dtype}.',
        "scale the inputs, or calibrate in float32 and cast afterwards",
    )


Record = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]
"""Factor, whether it is known, standard deviation before, the same after, what is not finite."""

FINITE, REACHED, BROKEN = 0, 1, 2
"""What is not finite at a weight: nothing, what reaches it, or its output alone."""


def _replayed(
    traced: Traced, changes: Mapping[Place, Job], target: float, tolerance: float, values: Sequence[Any]
) -> tuple[dict[int, Any], dict[Key, Record]]:
    """Evaluate the forward pass with hooks, and return the new arrays and what was measured."""
    blank: dict[Any, Any] = {job.key: job.blank() for job in changes.values()}
    fresh: dict[Place, dict[Any, Any]] = {}
    for job in changes.values():
        for loop in job.loops:
            fresh.setdefault(loop, {})[job.key] = blank[job.key]
    picks_at: defaultdict[Place, list[Step]] = defaultdict(list)
    for pick in {pick for job in changes.values() for pick in job.picks}:
        picks_at[pick.place].append(pick)
    numbers = {_number(pick): jnp.zeros((), jnp.int32) for picks in picks_at.values() for pick in picks}

    def hook(
        place: Place, operands: Sequence[Any], output: Any, state: dict[Any, Any]
    ) -> tuple[Any, dict[Any, Any], None]:
        for pick in picks_at[place]:
            number = jnp.ravel(operands[pick.operand])[pick.column].astype(jnp.int32)
            state = {**state, _number(pick): jnp.clip(number, 0, sizes_of([pick])[0] - 1)}
        job = changes.get(place)
        if job is None:
            return output, state, None
        entry = tuple(state[_number(pick)] for pick in job.picks)
        kept = state[job.key]
        record = tuple(numbers[entry] for numbers in kept) if entry else kept
        if job.axes is not None:
            output, record = _centered(output, record, job)
        else:
            output, record = _measured(operands, output, record, target, tolerance)
        if entry:
            record = tuple(old.at[entry].set(new) for old, new in zip(kept, record, strict=True))
        return output, {**state, job.key: record}, None

    player = Player(hook, {*changes, *picks_at}, fresh, {**blank, **numbers})
    player.play(traced.closed, list(values))
    new: dict[int, Any] = {}
    for key, job in {job.key: job for job in changes.values()}.items():
        array = new.get(key[0], values[key[0]])
        wide = widened(array)
        change = _spread(_stored(player.state[key][0], job), job, array.shape, 0.0 if job.axes is not None else 1.0)
        changed = wide + change if job.axes is not None else wide * change.astype(wide.dtype)
        new[key[0]] = changed.astype(array.dtype)
    return new, {job.key: player.state[job.key] for job in changes.values() if job.axes is None}


def _number(pick: Step) -> tuple[int, tuple[int, ...]]:
    """The key of the state under which it is kept which entry was picked last; no parameter has a number below zero."""
    return -1, (*pick.place, pick.operand, pick.column)


def _measured(operands: Sequence[Any], output: Any, record: Any, target: float, tolerance: float) -> tuple[Any, Record]:
    factor, known, before, after, fault = record
    new_fault = jnp.where(_is_finite(operands), jnp.where(_is_finite([output]), FINITE, BROKEN), REACHED)
    fault = jnp.where(fault == FINITE, new_fault, fault)
    deviation = _deviation(output)
    goal = math.sqrt(target)
    is_off = (jnp.abs((deviation / goal) ** 2 - 1) > tolerance) & (deviation > 0) & (fault == FINITE)
    new = jnp.where(is_off, goal / jnp.where(is_off, deviation, 1), 1).astype(jnp.float32)
    factor = jnp.where(known, factor, jnp.where(jnp.isfinite(new), new, 1))
    scaled = output * factor.astype(output.dtype)
    # Any factor leaves an output of zeros as it is, so a later use decides.
    seen = known | (jnp.any(output != 0) & (fault == FINITE))
    after = jnp.where(known, after, _deviation(scaled))
    return scaled, (factor, seen, jnp.where(known, before, deviation), after, fault)


def _is_finite(arrays: Sequence[Any]) -> jax.Array:
    numbers = [array for array in arrays if jnp.issubdtype(array.dtype, np.inexact)]
    return jnp.asarray([jnp.isfinite(array).all() for array in numbers]).all() if numbers else jnp.ones((), bool)


def _centered(output: Any, record: Any, shift: Job) -> tuple[Any, Any]:
    change, known = record
    others = tuple(axis for axis in range(output.ndim) if axis not in (shift.axes or ()))
    mean = jnp.mean(output.astype(jnp.float32), axis=others)
    change = jnp.where(known, change, -jnp.where(jnp.isfinite(mean), mean, 0))
    wide = jnp.expand_dims(change, others)
    return output + wide.astype(output.dtype), (change, jnp.ones((), bool))


def _stored(change: jax.Array, job: Job) -> jax.Array:
    """The change of a bias, from what is added to the outputs; that of a weight as it is."""
    for axis, places in enumerate(job.orders, len(job.factors) - len(job.orders)):
        if places is not None:
            change = jnp.take(change, np.array(places), axis)
    return change / job.factor


def _deviation(output: Any) -> jax.Array:
    """The standard deviation, computed so that squares of large or small outputs neither overflow nor underflow."""
    wide = widened(output)
    largest = jnp.max(jnp.abs(wide), initial=0)
    unit = jnp.where(largest > 0, largest, 1)
    small = wide / unit.astype(wide.dtype)
    return (unit * jnp.sqrt(jnp.mean(jnp.abs(small - jnp.mean(small)) ** 2))).astype(jnp.float32)


def _spread(change: jax.Array, job: Job, shape: tuple[int, ...], neutral: float) -> jax.Array:
    """The change of each stored entry, from the digits of its indices."""
    indices = []
    for factors in job.factors:
        index = jnp.zeros((1,) * len(shape), jnp.int32)
        for factor in factors:
            index = index * factor.size + _digit(shape, factor)
        indices.append(jnp.broadcast_to(index, shape))
    full = change[tuple(indices)] if indices else jnp.broadcast_to(change, shape)
    for factor, digit in job.key[1]:
        full = jnp.where(_digit(shape, factor) == digit, full, neutral)
    return full


def _digit(shape: Sequence[int], factor: Factor) -> jax.Array:
    index = jnp.arange(shape[factor.axis], dtype=jnp.int32) // factor.inner % factor.size
    return index.reshape([-1 if axis == factor.axis else 1 for axis in range(len(shape))])


def _rows(
    jobs: Mapping[Place, Job], state: Mapping[Key, Record], traced: Traced
) -> tuple[tuple[Calibrated, ...], dict[str, str]]:
    """The calibrated weights, and the paths of weights and entries whose factor could not be told, with the reason."""
    rows: dict[Key, Calibrated] = {}
    idle: dict[str, str] = {}
    first: str | None = None
    for key in dict.fromkeys(jobs[place].key for place in sorted(jobs)):
        factor, known, before, after, fault = map(np.asarray, state[key])
        path = traced.paths[key[0]] + _alone(digit for _, digit in key[1])
        unseen = "it did not run on these inputs"
        constant = np.where(before == 0, "its output is one number, without variance, on these inputs", "")
        of_seen = np.where(known, constant, "its output is zero on these inputs")
        reasons = np.where(before == UNSEEN, unseen, of_seen).astype(object)
        for entry, code in np.ndenumerate(fault):
            if code != FINITE and not known[entry]:
                reasons[entry] = _why_lost(int(code), first)
            if code != FINITE:
                first = first or path + _alone(entry)
        known = reasons == ""
        if not known.any() and len(set(reasons.flat)) == 1:
            idle[path] = str(reasons.flat[0])
            continue
        idle |= {path + _alone(map(int, entry)): str(reasons[tuple(entry)]) for entry in np.argwhere(~known)}
        if not known.any():
            continue
        before, after = (np.where(known, std.astype(float) ** 2, np.nan) for std in (before, after))
        rows[key] = Calibrated(path=path, before=before, after=after, factor=factor)
    return tuple(rows.values()), idle


def _why_lost(code: int, first: str | None) -> str:
    """Why nothing was measured where something is not finite: after the first such weight, all behind it is lost."""
    what = "what reaches it" if code == REACHED else "its output"
    return f"{what} is not finite, " + ("here first" if first is None else f"first at {first}")


def _alone(entry: Iterable[int]) -> str:
    inside = ", ".join(map(str, entry))
    return f"[{inside}]" if inside else ""
