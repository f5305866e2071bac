"""Where `ix.lsuv` measures and changes the forward pass, and why it leaves other weights and biases alone."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._model._parameter import Parameter
from initax._model._reason import Why
from initax._model._survey import Survey, Traced, parameters_by_path
from initax._planning._rules import Rule, match
from initax._planning._selectors import read_selector
from initax._trace._coverage import shares
from initax._trace._factors import Axis, Factor, flat, is_foreign, length
from initax._trace._jaxpr import Place
from initax._trace._uses import CONTRACTIONS, Use, Uses, by_parameter
from initax._trace._views import Step

Key = tuple[int, tuple[tuple[Factor, int], ...]]
"""A weight, and which entries of its batch axes are used alone: `w[0]`."""

UNSEEN = -1.0
"""The standard deviation of an output that was never computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An equation that is changed: the output of a weight, which is scaled, or a sum with a bias, which is centered.

    Attributes:
        key: the weight or bias it belongs to.
        loops: the loops that each take one entry of it, outermost first.
        picks: where counters pick entries of it.
        factors: the parts of the stored axes that each of these loops, then each pick, and then each of the axes run
            over.
        axes: of a sum, the axes along which each entry has its own bias; `None` for a weight.
        sizes: their sizes.
        orders: of a sum, for each of these axes the place along it of each entry of the bias, `None` for its own.
        factor: of a sum, what the bias is multiplied with before it is added.
    """

    key: Key
    loops: tuple[Place, ...]
    picks: tuple[Step, ...]
    factors: tuple[tuple[Factor, ...], ...]
    axes: tuple[int, ...] | None = None
    sizes: tuple[int, ...] = ()
    orders: tuple[tuple[int, ...] | None, ...] = ()
    factor: float = 1.0

    def blank(self) -> tuple[jax.Array, ...]:
        """Return the record of a weight or bias not yet changed, one for each entry that can be picked."""
        picked = sizes_of(self.picks)
        if self.axes is not None:
            return jnp.zeros((*picked, *self.sizes), jnp.float32), jnp.zeros(picked, bool)
        ones = jnp.ones(picked, jnp.float32)
        return ones, jnp.zeros(picked, bool), UNSEEN * ones, ones, jnp.zeros(picked, jnp.int32)


def sizes_of(picks: Sequence[Step]) -> tuple[int, ...]:
    """Return how many entries each of some counters picks from."""
    return tuple(math.prod(factor.size for factor in pick.axis) for pick in picks)


def jobs_of(survey: Survey, traced: Traced, uses: Uses, skip: Any) -> tuple[dict[Place, Job], dict[str, str]]:
    """The equations to measure, and why the other weights are left alone."""
    parameters = parameters_by_path(survey)
    skipping = _selected(survey, skip)
    jobs: dict[Place, Job] = {}
    skipped: dict[str, str] = {}
    sharing = Counter(use.place for use in uses.all if use.what in (*CONTRACTIONS, "scale"))
    uses_of_param = by_parameter(uses.all)
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
            jobs[use.place] = Job(key=(param, use.view.fixed), loops=loops, picks=use.view.picks, factors=factors)
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


MULTIPLIED = "weight stored as it is, or masked, can be multiplied"
"""What can be calibrated, in the reason why other weights are not."""


def _why_held(parameter: Parameter) -> str:
    """Why an array can't be changed, whatever it is used for; empty where it can."""
    if parameter.role == "state":
        return "state"
    if parameter.excluded is not None and parameter.excluded.why is Why.FROZEN:
        return parameter.excluded.text
    if parameter.constraint is not None and not parameter.constraint.scales:
        needed = "bias stored as it is can be set" if parameter.role == "bias" else MULTIPLIED
        return f"behind {parameter.constraint.name}: only a {needed}"
    return ""


def _why_not(parameter: Parameter, uses_of_weight: Sequence[Use], sharing: Mapping[Place, int], uses: Uses) -> str:
    """Why a weight can't be calibrated; empty where it can."""
    if held := _why_held(parameter):
        return held
    stops = [str(use.stop) for use in uses_of_weight if use.stop]
    loops = _loops_of(uses_of_weight[0], uses)
    least_share = functools.cache(lambda: min(shares(uses_of_weight).values()))
    faults: tuple[tuple[str, Callable[[Use], bool]], ...] = (
        ("it is normalized: its scale has no effect", lambda use: use.normalized),
        (stops[0] if stops else "", lambda use: bool(use.stop)),
        ("it is used as something else than a weight too", lambda use: use.what not in CONTRACTIONS),
        (
            "constants are added to it, or stand among its entries, where it is used: a factor would not reach them",
            lambda use: use.view.offset,
        ),
        ("it is rounded where it is used: a factor would not go through", lambda use: use.view.quantized),
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


def shifts_of(
    survey: Survey, traced: Traced, uses: Uses, calibrated: set[int], skip: Any
) -> tuple[dict[Place, Job], dict[str, str]]:
    """The sums with biases of calibrated weights, and why others of these are left alone."""
    parameters, skipping = parameters_by_path(survey), _selected(survey, skip)
    uses_of_param = by_parameter(uses.all)
    shifts: dict[Place, Job] = {}
    fixed: dict[str, str] = {}
    for param, path in enumerate(traced.paths):
        uses_of_bias = [use for use in uses_of_param[param] if use.what == "bias"]
        if not uses_of_bias or parameters[path].role not in ("bias", None):
            continue
        partners = {partner for use in uses_of_bias for partner in use.partners}
        if partners and not partners & calibrated:
            continue
        asked = "skipped as asked" if path in skipping else ""
        reason = asked or _why_held(parameters[path]) or _why_not_centered(uses_of_param[param], uses, calibrated)
        if reason:
            fixed[path] = reason
        else:
            shifts |= {use.place: _shift(use, uses) for use in uses_of_bias}
    return shifts, fixed


def _why_not_centered(uses_of_bias: Sequence[Use], uses: Uses, calibrated: set[int]) -> str:
    """Why a bias can't be set so that units have mean zero; empty where it can."""
    first, added_to = uses_of_bias[0], Counter(weight.number for use in uses_of_bias for weight in use.biased)
    stops = [str(use.stop) for use in uses_of_bias if use.stop]
    loops = _loops_of(first, uses)
    faults: tuple[tuple[str, Callable[[Use], bool]], ...] = (
        (stops[0] if stops else "", lambda use: bool(use.stop)),
        ("it is used as something else than a bias too", lambda use: use.what != "bias"),
        (
            "it is added to what is not the output of a calibrated weight as it is",
            lambda use: not calibrated & set(use.partners),
        ),
        (
            "it is added to the same output several times",
            lambda use: any(added_to[weight.number] > 1 for weight in use.biased),
        ),
        ("it is multiplied with what is not one known number", lambda use: use.view.factor is None),
        ("it is rounded where it is used", lambda use: use.view.quantized),
        (
            "its entries are repeated along the outputs, or stand beside others",
            lambda use: any(_order(parts) is None for parts in use.view.axes),
        ),
        ("several loops run over its stack", lambda use: _loops_of(use, uses) != loops or _is_reentered(use, uses)),
        ("its entries are picked in a way that can't be followed", lambda use: not _is_known(use, uses)),
        ("its uses take different parts of it", lambda use: _parts(use) != _parts(first)),
        ("its uses multiply it with different numbers", lambda use: use.view.factor != first.view.factor),
    )
    return next((why for why, has_fault in faults if any(map(has_fault, uses_of_bias))), "")


def _order(parts: Axis) -> tuple[Axis, tuple[int, ...] | None] | None:
    """The factors of a bias along an axis of the output and the place of each of their entries along it.

    The places are `None` where the entries are in their own order, and the result where they are no permutation.
    """
    if all(factor.axis >= 0 for factor in parts) or is_foreign(parts):
        return parts, None
    factors, index = flat(parts)
    if sorted(index) != list(range(length(factors))):
        return None
    return factors, tuple(map(int, np.argsort(index)))


def _shift(use: Use, uses: Uses) -> Job:
    """The sum with a bias."""
    view = use.view
    axes = tuple(axis for axis, parts in enumerate(view.axes) if not is_foreign(parts) and length(parts) > 1)
    orders = [order for axis in axes if (order := _order(view.axes[axis])) is not None]
    loops, factors = _entry_factors(use, uses)
    of_axes = tuple(parts for parts, _ in orders)
    return Job(
        key=(use.param, view.fixed),
        loops=loops,
        picks=view.picks,
        factors=(*factors, *of_axes),
        axes=axes,
        sizes=tuple(map(length, of_axes)),
        orders=tuple(places for _, places in orders),
        factor=view.factor or 1.0,
    )
