"""Layer-sequential unit variance: the output of every weighted operation scaled to a variance, in one pass."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import InitaxError, with_line
from initax._model._parameter import Parameter
from initax._model._reason import Why
from initax._model._survey import Survey, Traced, parameters_by_path
from initax._planning._misuse import refuse_permuted
from initax._planning._rules import Rule, match
from initax._planning._selectors import read_selector
from initax._text import table
from initax._trace._coverage import shares
from initax._trace._factors import Factor
from initax._trace._jaxpr import Place
from initax._trace._replay import Player
from initax._trace._take_survey import called
from initax._trace._uses import CONTRACTIONS, Use, Uses
from initax._trace._views import Step
from initax._trace._walk import uses_of
from initax._verbs._finite import refuse_not_finite, widened

Model = TypeVar("Model")

Key = tuple[int, tuple[tuple[Factor, int], ...]]
"""A weight, and which entries of its batch axes are used alone: `w[0]`."""


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
        skipped: path of each other weight → why it was left alone.
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
        center: also set each bias of a calibrated weight so that every unit has mean zero.

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
    jobs, skipped = _jobs(surveyed, traced, uses, skip)
    shifts = _shifts(uses, {job.key[0] for job in jobs.values()}) if center else {}
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
    return surveyed.write(changed), LsuvReport(layers=layers, skipped={**skipped, **idle})


def _refuse_overflow(path: str, new: Any, old: Any) -> None:
    if bool(jnp.isfinite(new).all()) or not bool(jnp.isfinite(old).all()):
        return
    raise InitaxError(
        f'lsuv: "{path}", scaled so that its output has the target variance, does not fit {new.dtype}.',
        "scale the inputs, or calibrate in float32 and cast afterwards",
    )


Record = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]
"""Factor, whether it is known, standard deviation before, the same after, what is not finite."""

UNSEEN = -1.0
"""The standard deviation of an output that was never computed."""

FINITE, REACHED, BROKEN = 0, 1, 2
"""What is not finite at a weight: nothing, what reaches it, or its output alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """An equation that is changed: the output of a weight, which is scaled, or a sum with a bias, which is centered.

    Attributes:
        key: the weight or bias it belongs to.
        loops: the loops that each take one entry of it, outermost first.
        picks: where counters pick entries of it.
        factors: the parts of the stored axes that each of these loops, then each pick, and then each of the axes run
            over.
        axes: of a sum, the axes along which each entry has its own bias; `None` for a weight.
        sizes: their sizes.
    """

    key: Key
    loops: tuple[Place, ...]
    picks: tuple[Step, ...]
    factors: tuple[tuple[Factor, ...], ...]
    axes: tuple[int, ...] | None = None
    sizes: tuple[int, ...] = ()

    def blank(self) -> tuple[jax.Array, ...]:
        """Return the record of a weight or bias not yet changed, one for each entry that can be picked."""
        picked = _sizes(self.picks)
        if self.axes is not None:
            return jnp.zeros((*picked, *self.sizes), jnp.float32), jnp.zeros(picked, bool)
        ones = jnp.ones(picked, jnp.float32)
        return ones, jnp.zeros(picked, bool), UNSEEN * ones, ones, jnp.zeros(picked, jnp.int32)


def _sizes(picks: Sequence[Step]) -> tuple[int, ...]:
    return tuple(math.prod(factor.size for factor in pick.axis) for pick in picks)


def _jobs(survey: Survey, traced: Traced, uses: Uses, skip: Any) -> tuple[dict[Place, _Job], dict[str, str]]:
    """The equations to measure, and why the other weights are left alone."""
    parameters = parameters_by_path(survey)
    skipping = _selected(survey, skip)
    jobs: dict[Place, _Job] = {}
    skipped: dict[str, str] = {}
    sharing = Counter(use.place for use in uses.all if use.what in (*CONTRACTIONS, "scale"))
    uses_of_param: defaultdict[int, list[Use]] = defaultdict(list)
    for use in uses.all:
        uses_of_param[use.param].append(use)
    for param, path in enumerate(traced.paths):
        uses_of_weight = uses_of_param[param]
        if not any(use.what in CONTRACTIONS for use in uses_of_weight):
            continue
        reason = "skipped as asked" if path in skipping else _why_not(parameters[path], uses_of_weight, sharing, uses)
        if reason:
            skipped[path] = reason
            continue
        for use in uses_of_weight:
            loops, factors = _entry_factors(use, uses)
            jobs[use.place] = _Job(key=(param, use.view.fixed), loops=loops, picks=use.view.picks, factors=factors)
    return jobs, skipped


def _entry_factors(use: Use, uses: Uses) -> tuple[tuple[Place, ...], tuple[tuple[Factor, ...], ...]]:
    """The loops that take one entry of a parameter each, and the parts of its axes that they and the picks run over."""
    loops = _loops_of(use, uses)
    return loops, (*(uses.loops[loop][use.param] for loop in loops), *(pick.axis for pick in use.view.picks))


def _selected(survey: Survey, skip: Any) -> set[str]:
    """The paths of the arrays to leave alone."""
    selectors = skip if isinstance(skip, list | tuple | set) else [skip]
    rules = [Rule(read_selector(selector), None) for selector in selectors]
    return set(match(rules, survey.layers, survey.aliases).choices)


def _loops_of(use: Use, uses: Uses) -> tuple[Place, ...]:
    """The loops around a use that take one entry of the weight each step, outermost first."""
    around = [use.place[:depth] for depth in range(1, len(use.place))]
    return tuple(place for place in around if uses.loops.get(place, {}).get(use.param))


def _why_not(parameter: Parameter, uses_of_weight: Sequence[Use], sharing: Mapping[Place, int], uses: Uses) -> str:
    """Why a weight can't be calibrated; empty where it can."""
    if parameter.role == "state":
        return "state"
    if parameter.excluded is not None and parameter.excluded.why is Why.FROZEN:
        return parameter.excluded.text
    if parameter.constraint is not None and not parameter.constraint.scales:
        return f"behind {parameter.constraint.name}: only a weight stored as it is, or masked, can be multiplied"
    stops = [str(use.stop) for use in uses_of_weight if use.stop]
    loops = _loops_of(uses_of_weight[0], uses)
    least_share = functools.cache(lambda: min(shares(uses_of_weight).values()))
    faults: tuple[tuple[str, Callable[[Use], bool]], ...] = (
        ("it is normalized: its scale has no effect", lambda use: use.normalized),
        (stops[0] if stops else "", lambda use: bool(use.stop)),
        ("it is used as something else than a weight too", lambda use: use.what not in CONTRACTIONS),
        ("its operation is written out, or fed by constants", lambda use: not use.inside),
        ("it shares its operation with other parameters", lambda use: sharing[use.place] > 1),
        ("several loops run over its stack", lambda use: _loops_of(use, uses) != loops or _is_reentered(use, uses)),
        ("its entries are picked by the data", lambda use: bool(use.view.looked)),
        ("its entries are picked in a way that can't be followed", lambda use: not _is_known(use, uses)),
        ("parts of its inputs are summed over one by one", lambda use: least_share() < 1),
        ("its uses take different parts of it", lambda use: _parts(use) != _parts(uses_of_weight[0])),
    )
    return next((why for why, has_fault in faults if any(map(has_fault, uses_of_weight))), "")


def _is_known(use: Use, uses: Uses) -> bool:
    """Whether it is known which entry of each batch axis a use takes: by a loop, by a counter or always the same."""
    known = {*itertools.chain(*_entry_factors(use, uses)[1]), *(factor for factor, _ in use.view.fixed)}
    return not use.view.looked and all(factor in known for factor in use.view.batch)


def _parts(use: Use) -> tuple[Any, ...]:
    """The parts of the stored axes of which a use takes single entries."""
    unequal = tuple(slot for slot in use.view.slots if slot.partial)
    return tuple(pick.axis for pick in use.view.picks), frozenset(factor for factor, _ in use.view.fixed), unequal


def _is_reentered(use: Use, uses: Uses) -> bool:
    """Whether a loop around goes over the same stack again and again."""
    around = [use.place[:depth] for depth in range(1, len(use.place)) if use.place[:depth] in uses.loops]
    loops = _loops_of(use, uses)
    return tuple(around[: len(loops)]) != loops


def _shifts(uses: Uses, calibrated: set[int]) -> dict[Place, _Job]:
    """The sums with biases of calibrated weights."""
    shifts: dict[Place, _Job] = {}
    places: dict[int, set[Any]] = {}
    for use in uses.all:
        view = use.view
        if use.what != "bias" or use.stop or not calibrated & set(use.partners):
            continue
        axes = tuple(
            axis for axis, parts in enumerate(view.axes) if any(part.axis >= 0 and part.size > 1 for part in parts)
        )
        of_axes = tuple(view.axes[axis] for axis in axes)
        is_odd = any(factor.axis < 0 for parts in of_axes for factor in parts)
        if is_odd or _is_reentered(use, uses) or not _is_known(use, uses):
            continue
        loops, factors = _entry_factors(use, uses)
        places.setdefault(use.param, set()).add((loops, _parts(use)))
        shifts[use.place] = _Job(
            key=(use.param, view.fixed),
            loops=loops,
            picks=view.picks,
            factors=(*factors, *of_axes),
            axes=axes,
            sizes=tuple(math.prod(factor.size for factor in parts) for parts in of_axes),
        )
    return {place: shift for place, shift in shifts.items() if len(places[shift.key[0]]) == 1}


def _replayed(
    traced: Traced, changes: Mapping[Place, _Job], target: float, tolerance: float, values: Sequence[Any]
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
            state = {**state, _number(pick): jnp.clip(number, 0, _sizes([pick])[0] - 1)}
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
        change = _spread(player.state[key][0], job, array.shape, 0.0 if job.axes is not None else 1.0)
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


def _centered(output: Any, record: Any, shift: _Job) -> tuple[Any, Any]:
    change, known = record
    others = tuple(axis for axis in range(output.ndim) if axis not in (shift.axes or ()))
    mean = jnp.mean(output.astype(jnp.float32), axis=others)
    change = jnp.where(known, change, -jnp.where(jnp.isfinite(mean), mean, 0))
    wide = jnp.expand_dims(change, others)
    return output + wide.astype(output.dtype), (change, jnp.ones((), bool))


def _deviation(output: Any) -> jax.Array:
    """The standard deviation, computed so that squares of large or small outputs neither overflow nor underflow."""
    wide = widened(output)
    largest = jnp.max(jnp.abs(wide), initial=0)
    unit = jnp.where(largest > 0, largest, 1)
    small = wide / unit.astype(wide.dtype)
    return (unit * jnp.sqrt(jnp.mean(jnp.abs(small - jnp.mean(small)) ** 2))).astype(jnp.float32)


def _spread(change: jax.Array, job: _Job, shape: tuple[int, ...], neutral: float) -> jax.Array:
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
    jobs: Mapping[Place, _Job], state: Mapping[Key, Record], traced: Traced
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
