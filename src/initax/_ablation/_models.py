"""The models of an ablation: one per scheme and seed, of the same structure."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


def plan_data(name: str, rules: Mapping[Any, Any], models: Models) -> dict[str, Any]:
    """Return a scheme's plan as plain data: rules, every decision, and a fingerprint of both.

    What a function draws has no name that outlives the process. Its arrays are drawn once, under the first key, and
    their standard deviations stand for it, to three digits.
    """
    plan = models.plans[name]
    specs, callables = [], False
    for rule in read_rules(rules):
        try:
            spec = None if rule.scheme is None else rule.scheme.spec()
        except SchemeError:
            spec, callables = str(rule.scheme), True
        specs.append([rule.text, spec])
    measured = plan.arrays(models.keys[0]) if callables else {}
    decisions: dict[str, Any] = {}
    for row in (*map(Draw.to_dict, plan.draws), *map(Kept.to_dict, plan.kept)):
        decisions[row["path"]] = {name: row[name] for name in STORED if name in row}
    for draw in plan.draws:
        path, std = draw.parameter.path, draw.std
        known = None if std is None else float(f"{std:.9g}")
        decisions[path]["std"] = f"{jnp.std(measured[path]):.3g}" if std is None and path in measured else known
    content = {"rules": specs, "decisions": decisions}
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()
    return {"fingerprint": digest, **content}
