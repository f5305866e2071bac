"""The models of an ablation: one per scheme and seed, of the same structure."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._adapters import survey as survey_model
from initax._errors import ModelError, SchemeError, listing
from initax._model._survey import Survey
from initax._planning._plan import Plan
from initax._planning._records import Draw, Kept
from initax._planning._rules import read_rules
from initax._text import differing, path_text
from initax._trace._take_survey import survey
from initax._verbs._named_rules import named_plans
from initax.schemes._callables import CallingKernel
from initax.schemes._initializer import Kernel

Arrays = dict[str, Any]
"""Path → array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of an ablation, made when they are asked for.

    Attributes:
        keys: one typed key for each seed.
        plans: name of each scheme → its plan.
        write: function from every array to a model.
        base: function from a seed's index to the arrays of the model that is re-initialized.
        varying: paths of arrays that differ from seed to seed under some scheme.
    """

    keys: jax.Array
    plans: Mapping[str, Plan]
    write: Callable[[Mapping[str, Any]], Any]
    base: Callable[[int], Arrays]
    varying: frozenset[str]

    def arrays(self, scheme: str, seed: int) -> Arrays:
        """Return every array of one model."""
        return self.base(seed) | self.plans[scheme].arrays(self.keys[seed])


def models_of(
    model: Any, schemes: Mapping[str, Any], keys: jax.Array, call: Mapping[str, Any], default: Any, cache: int
) -> Models:
    """Return the models of an ablation; every decision is made here, and nothing is drawn.

    Args:
        model: a model, or a function from a key to one.
        schemes: name → rules.
        keys: one typed key for each seed.
        call: `inputs`, `forward` and `module`, as for `ix.plan`.
        default: as for `ix.plan`.
        cache: of how many seeds to keep the model that a function makes.

    Raises:
        InitaxError: what `ix.plan` raises, with the scheme's name in front; or an array would stay that is abstract; or
            the function makes models of different shapes for different keys.
    """
    build: Callable[[Any], Any] | None = model if is_builder(model) else None
    skeleton = model if build is None else _first(build, keys[0])
    surveyed = survey(skeleton, **call)
    plans = named_plans("scheme", surveyed, schemes, default)
    arrays = _arrays(surveyed)
    drawn = {draw.parameter.path for plan in plans.values() for draw in plan.draws}
    _refuse_abstract(arrays, plans)

    @functools.lru_cache(maxsize=cache)
    def built(seed: int) -> Arrays:
        return arrays if build is None or seed == 0 else _arrays(survey_model(build(keys[seed]), **call))

    for seed in range(1, len(keys)) if build is not None else ():
        _refuse_changed(arrays, built(seed), seed)
    return Models(
        keys=keys,
        plans=plans,
        write=surveyed.write,
        base=built,
        varying=frozenset(arrays if build is not None else drawn),
    )


def _first(build: Callable[[Any], Any], key: Any) -> Any:
    """The model of the first key.

    Raises:
        ModelError: it is a class that a key alone does not make.
    """
    try:
        return build(key)
    except TypeError as error:
        if not isinstance(build, type):
            raise
        name = build.__name__
        raise ModelError(
            f"the model is the class {name}, and {name}(key) fails: {error}",
            f"write model = {name}(...), or lambda key: {name}(..., key=key)",
        ) from error


def is_builder(model: Any) -> bool:
    """Whether this is a function that makes a model: something to call that JAX does not treat as a tree."""
    leaves = jax.tree_util.tree_leaves(model)
    return callable(model) and len(leaves) == 1 and leaves[0] is model


def _arrays(survey: Survey) -> Arrays:
    return {path: survey.at(path) for path in survey.places}


def _refuse_abstract(arrays: Arrays, plans: Mapping[str, Plan]) -> None:
    shapes = [path for path, array in arrays.items() if not isinstance(array, jax.Array | np.ndarray)]
    for name, plan in plans.items():
        drawn = {draw.parameter.path for draw in plan.draws}
        missing = [path for path in shapes if path not in drawn]
        if missing:
            raise ModelError(
                f'scheme "{name}" draws no {path_text(missing[0])}, and the model has only its shape.',
                f"without arrays: {listing(missing)}",
                "draw them too, or pass a function that makes the model: ix.ablate(lambda key: ..., ...)",
            )


def _refuse_changed(arrays_of_first: Arrays, arrays_of_seed: Arrays, seed: int) -> None:
    """Raise where a seed's model has other arrays than the first one."""
    old, new = (
        {path: f"{array.dtype}{list(array.shape)}" for path, array in arrays.items()}
        for arrays in (arrays_of_first, arrays_of_seed)
    )
    for path in differing(old, new):
        raise ModelError(
            "the function that makes the model makes another one for another key.",
            f"{path_text(path)}: {old.get(path, 'none')} for key 0, {new.get(path, 'none')} for key {seed}",
        )


STORED = ("shape", "dtype", "axes", "initializer", "rule", "std", "kept")
"""Entries of a plan's rows that a file of runs holds."""

LONGEST = 60
"""Length of a scheme's text up to which the text in a plan shows all of it."""

SAMPLES, SUMS = 8, 3
"""How many entries stand for an array that a function draws, and how many weighted sums over all of its entries."""


def plan_data(name: str, rules: Mapping[Any, Any], models: Models) -> dict[str, Any]:
    """Return a scheme's plan as plain data: rules, every decision, and a fingerprint of both.

    What a function draws has no name that outlives the process, and a name of the user's may stand for another scheme
    the next time. Where the text of a decision does not tell what is drawn, the arrays are drawn once, under the first
    key, and a few numbers of each stand for it.
    """
    plan = models.plans[name]
    specs = []
    for rule in read_rules(rules):
        try:
            spec = None if rule.scheme is None else rule.scheme.spec()
        except SchemeError:
            spec = str(rule.scheme)
        specs.append([rule.text, spec])
    untold = [draw.parameter.path for draw in plan.draws if not _is_told(draw)]
    measured = plan.arrays(models.keys[0]) if untold else {}
    decisions: dict[str, Any] = {}
    for row in (*map(Draw.to_dict, plan.draws), *map(Kept.to_dict, plan.kept)):
        decisions[row["path"]] = {name: row[name] for name in STORED if name in row}
    for draw in plan.draws:
        path, std = draw.parameter.path, draw.std
        decisions[path]["std"] = None if std is None else float(f"{std:.9g}")
    for path in untold:
        if decisions[path]["std"] is None:
            decisions[path]["std"] = f"{jnp.std(measured[path]):.3g}"
        decisions[path]["drawn"] = _samples(np.ravel(measured[path]))
    content = {"rules": specs, "decisions": decisions}
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()
    return {"fingerprint": digest, **content}


def _is_told(draw: Draw) -> bool:
    """Whether the text of a decision tells what is drawn: no function draws it, and no list in it is cut short."""
    if draw.initializer is None or draw.recipe is None:
        return True  # it is set with another array
    try:
        text = json.dumps(draw.initializer.spec())
    except SchemeError:
        return False
    kernel = draw.recipe.kernel
    return (kernel.random or len(text) <= LONGEST) and not _calls(kernel)


def _calls(kernel: Kernel) -> bool:
    """Whether a kernel, or one inside it, calls a function of the user's or of a framework."""
    inner = (getattr(kernel, field.name) for field in fields(kernel))
    return isinstance(kernel, CallingKernel) or any(_calls(part) for part in inner if isinstance(part, Kernel))


def _samples(entries: np.ndarray) -> list[str]:
    """Return some of an array's entries and some weighted sums over all of them, to four digits."""
    parts = [entries.real, entries.imag] if np.iscomplexobj(entries) else [entries]
    numbers = np.concatenate(parts).astype(float)
    if not numbers.size:
        return []
    chosen = numbers[np.unique(np.linspace(0, numbers.size - 1, SAMPLES).astype(int))]
    root = math.sqrt(numbers.size)
    phase = math.sqrt(2) * np.arange(numbers.size) / root
    sums = [np.cos((2 * wave + 1) * phase) @ numbers / root for wave in range(SUMS)]
    return [f"{number:.4g}" for number in (*chosen, *sums)]
