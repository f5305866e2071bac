"""The second step of a plan with `auto`: the second moment of each weight's input, estimated along the forward pass.

The first step decides every row as if a signal of length one reached each weight. That gives the law of every array
that is drawn, `auto`'s or not, and with these laws the trace tells what really reaches the weights.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np

from initax._errors import count, listing, message, warn
from initax._model._parameter import WEIGHT_ROLES, Parameter
from initax._model._survey import Survey, Traced, arrays_of, parameters_by_path
from initax._planning._records import Decisions, Draw
from initax._text import path_text
from initax._trace._second_moments import NUDGE, Law, Lengths
from initax._trace._walk import uses_of

PASSES = 12
"""Passes along the forward pass in which the scale of tables has to be found that are looked up and read out."""

STEEP = 1.5
"""Slope of the length map above which a function is unstable; of those in use the steepest is silu's, 1.17."""

GROWTH = 2.5
"""Growth of a deviation along the forward pass that is told. One function of slope 2 between norms has less."""

CLOSE = 0.002
"""Relative difference of a variance from one pass to the next, below which it is found."""


def with_input_moments(decisions: Decisions, survey: Survey, traced: Traced | None) -> Decisions:
    """Return the decisions with what `auto` draws scaled by what reaches it, and notes of what it does not know.

    Args:
        decisions: what was decided without knowing what reaches the weights.
        survey: the model.
        traced: its forward pass, where there is one.
    """
    drawn = {draw.parameter.path: draw for draw in decisions.draws}
    followed = _followed(drawn, survey, traced) if traced is not None else Followed()
    layers = {array.path: layer for layer, array in arrays_of(survey)}
    draws, unknown = [], []
    for draw in decisions.draws:
        if draw.initializer is None or not draw.initializer.needs_input_second_moment:
            draws.append(draw)
            continue
        moment = followed.input_second_moment.get(draw.parameter.path)
        parameter = replace(draw.parameter, input_second_moment=moment)
        if moment is None and (parameter.role != "embedding" or parameter.path in followed.input_second_moment):
            unknown.append(parameter.path)
        # A table that a signal of unknown length reaches is an output layer all the same.
        scaled = replace(parameter, input_second_moment=1.0) if parameter.path in unknown else parameter
        recipe = draw.initializer.recipe(scaled, layers[parameter.path])
        draws.append(replace(draw, parameter=parameter, recipe=recipe))
    notes = (*decisions.notes, *_notes(unknown, followed, traced))
    return replace(decisions, draws=tuple(draws), notes=notes)


@dataclass(frozen=True, slots=True)
class Followed:
    """The result of following the forward pass.

    Attributes:
        input_second_moment: path → mean square of the signal that reaches a weight, `None` where that is not known.
        assumed: paths of the arrays whose laws had to be assumed for it.
        slopes: path → slope of the length map in front of a weight, where deviations of the length grow.
    """

    input_second_moment: Mapping[str, float | None] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    slopes: Mapping[str, float] = field(default_factory=dict)


def _followed(drawn: Mapping[str, Draw], survey: Survey, traced: Traced) -> Followed:
    paths, of_call = traced.paths, (traced.closed, len(traced.paths), traced.constants)
    known = parameters_by_path(survey)
    norms = {array.path for layer, array in arrays_of(survey) if layer.kind == "Norm"}
    # A rule may restate axes, so that a row of the plan knows more of an array than the survey.
    parameters = [drawn[path].parameter if path in drawn else known[path] for path in paths]
    all_laws = (_law(array, drawn.get(array.path), array.path in norms) for array in parameters)
    laws = {index: law for index, law in enumerate(all_laws) if law is not None}
    tables = frozenset(index for index, array in enumerate(parameters) if array.role == "embedding")
    uses = uses_of(*of_call)
    searches: defaultdict[int, _Search] = defaultdict(_Search)
    for _ in range(PASSES):
        lengths = Lengths(uses, laws, tables)
        input_second_moment = lengths.of(*of_call)
        if not _found_closer(laws, searches, {index: input_second_moment.get(index) for index in lengths.looked}):
            break
    scaled = {
        index for index, law in laws.items() if law.length is not None and input_second_moment.get(index) is not None
    }
    leaning = frozenset[int]().union(*(lengths.leaning.get(index, frozenset()) for index in scaled))
    steep = {index: slope for index, slope in sorted(lengths.slopes.items()) if index in scaled and slope > STEEP}
    if steep:
        nudged = Lengths(uses, laws, tables, input_second_moment).of(*of_call)
        growth = max(_growth(input_second_moment[index], nudged.get(index)) for index in steep)
        steep = steep if growth > GROWTH else {}
    return Followed(
        {paths[index]: length for index, length in input_second_moment.items()},
        tuple(paths[index] for index in sorted(leaning)),
        {paths[index]: slope for index, slope in steep.items()},
    )


def _found_closer(laws: dict[int, Law], searches: Mapping[int, _Search], lengths: Mapping[int, float | None]) -> bool:
    """Replace the laws of tables that are looked up by closer ones; return whether any of them still moves.

    Args:
        laws: the laws of all arrays, by the numbers of these.
        searches: the search for the variance of each table.
        lengths: the mean square of what reached each table when it was read out.
    """
    is_moving = False
    for index, length in lengths.items():
        law = laws.get(index)
        if law is None or law.length is None or law.inputs is None or length is None:
            continue
        square = law.length / (law.inputs * length)
        is_moving = is_moving or abs(square / law.square - 1) > CLOSE
        laws[index] = replace(law, square=searches[index].next(law.square, square))
    return is_moving


def _growth(length: float | None, nudged: float | None) -> float:
    """Growth factor of a deviation of the second moment; infinite where the length is not finite any more."""
    if length is None or nudged is None:
        return math.inf
    return math.log(nudged / length) / math.log1p(NUDGE)


class _Search:
    """A search for the variance of a table, by secants in logarithms.

    What a table gives when it is looked up is part of what reaches it when it is read out.
    """

    def __init__(self) -> None:
        self.before: tuple[float, float] | None = None

    def next(self, square: float, target: float) -> float:
        """Return the variance to try next.

        Args:
            square: the variance that was tried.
            target: the one that what then reached the table asks for.
        """
        tried, gap = math.log(square), math.log(target / square)
        slope = -2.0
        if self.before is not None and self.before[0] != tried:
            slope = min((gap - self.before[1]) / (tried - self.before[0]), -0.5)
        self.before = tried, gap
        return math.exp(tried - gap / slope)


def _law(parameter: Parameter, draw: Draw | None, is_norm: bool) -> Law | None:
    """What the plan knows of an array; `None` where that is nothing. Norms are taken to do what norms do."""
    is_real = jnp.issubdtype(parameter.dtype, np.floating)
    recipe = draw.recipe if draw is not None and is_real else None
    moments = recipe.moments if recipe is not None else None
    if parameter.role in WEIGHT_ROLES:
        inputs = parameter.fan_in if parameter.role == "embedding" else parameter.effective_fan_in
        initializer = None if draw is None else draw.initializer
        if initializer is None or recipe is None or inputs is None or parameter.effective_fan_in is None:
            return None
        of_weight = functools.partial(Law, inputs=inputs, centered=initializer.centers)
        if initializer.needs_input_second_moment and recipe.std:
            return of_weight(mean=0.0, square=recipe.std**2, length=recipe.std**2 * parameter.effective_fan_in)
        return None if moments is None else of_weight(mean=moments[0], square=moments[1])
    if moments is not None and parameter.role in ("bias", "scale") and parameter.constraint is None:
        return Law(mean=moments[0], square=moments[1])
    value = _taken(parameter)
    return None if value is None else Law(mean=value, square=value**2, assumed=not is_norm)


def _taken(parameter: Parameter) -> float | None:
    """The value that a bias or a scale is taken to have of which nothing is known; `None` for all else."""
    if parameter.role == "bias":
        return 0.0
    if parameter.role != "scale":
        return None
    default = parameter.default
    if isinstance(default, tuple):
        return float(default[1].get("value", 1.0)) if default[0] == "constant" else None
    return 1.0


def _notes(unknown: Sequence[str], followed: Followed, traced: Traced | None) -> Iterator[str]:
    """Yield what `auto` can't do, with a warning, and what it assumes."""
    if unknown:
        yield warn(
            f"auto can't tell what reaches {count(len(unknown), 'weight')} and uses gain 1: "
            + listing(map(path_text, unknown), 6),
            "say what the model is called on, inputs=..."
            if traced is None
            else "ix.signal_propagation measures how far they are off, ix.lsuv sets them on data",
        )
    if followed.assumed:
        yield message(
            f"auto assumes what it does not know of {count(len(followed.assumed), 'array')} on the way to what it "
            f"scales: {listing(map(path_text, followed.assumed), 6)}",
            "weights give length one, biases are zero and scales are one; a plan sees no values",
        )
    if slopes := followed.slopes:
        share = math.ceil(round(100 * (1 - 1 / max(slopes.values())), 3)) / 100
        yield warn(
            f"auto can't keep the length of the signal behind {count(len(slopes), 'function')}, and what is off grows "
            "from layer to layer: 1 % too much in front becomes "
            + listing((f"{slope:.2g} % at {path_text(path)}" for path, slope in slopes.items()), 6),
            "put a norm in front of each, or where layers have biases write "
            f'{{"*": ("auto", {{"bias_share": {share:g}}})}}',
        )
