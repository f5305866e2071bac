"""Rules with a depth factor, held against the residual branches of the forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from initax._errors import count, first_of, listing, message
from initax._model._parameter import WEIGHT_ROLES, Parameter
from initax._model._residual import Residual, unended_texts
from initax._planning._selectors import RESIDUAL
from initax._text import path_text
from initax.schemes._depth import ENDS, parts_of

END = f"{RESIDUAL}end"
FEW = 4
"""Paths that a note shows."""


def recipe_of(initializer: Any) -> str:
    """Return the recipe of the depth factor that an initializer has, or one inside of it; nothing where none has."""
    while initializer is not None:
        recipe = getattr(initializer, "depth_recipe", "")
        if recipe:
            return str(recipe)
        initializer = getattr(initializer, "inner", None)
    return ""


def misplaced(draws: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Return what to warn of, and what to note, where depth factors multiply what their recipes are not for.

    Args:
        draws: the rows of a plan; those of which no forward pass is known are passed over.
    """
    rules: dict[tuple[str, str], list[Parameter]] = {}
    for draw in draws:
        if draw.parameter.residual is None or draw.parameter.role not in WEIGHT_ROLES:
            continue
        recipe = recipe_of(draw.initializer)
        if recipe:
            rules.setdefault((draw.rule, recipe), []).append(draw.parameter)
    warnings, notes = [], []
    for (rule, recipe), weights in rules.items():
        astray = [array for array in weights if not _fits(array, recipe)]
        if len(astray) == len(weights):
            warnings.append(_misses(rule, recipe, weights))
        elif astray and parts_of(recipe) == ENDS:
            head = f'rule "{rule}": the depth factor "{recipe}" multiplies {count(len(astray), "weight")}'
            notes.append(f"{head} that end no residual branch: {_paths(astray)}")
        normalized = [array for array in weights if array.residual is not None and array.residual.normalized]
        if normalized:
            head = (
                f'rule "{rule}": a norm stands between {count(len(normalized), "weight")} and the stream, so that the '
                f'depth factor "{recipe}" does not change what is added: {_paths(normalized)}'
            )
            line = 'the scale of the norm does: {"residual:end": {"scale": ("constant", {"value": ...})}}'
            notes.append(message(head, line))
    return warnings, notes + _unreached(draws) + _lost_gradients(draws)


def stream_lines(residual: Residual) -> list[str]:
    """Return the lines that say why no weight ends a branch."""
    if not residual.unended:
        return ["the forward pass adds to no residual stream"]
    return ["what it adds to a residual stream is a multiple of no weight:", *first_of(unended_texts(residual.unended))]


def _unreached(draws: Sequence[Any]) -> list[str]:
    """Notes on rules for ends of branches where some branches have none."""
    notes: dict[str, None] = {}
    for draw in draws:
        residual = draw.parameter.residual
        is_for_ends = END in draw.rule or parts_of(recipe_of(draw.initializer)) == ENDS
        if residual is not None and is_for_ends and residual.part == "end" and residual.without_end:
            head = f'rule "{draw.rule}" does not reach what is a multiple of no weight, and is added to a stream:'
            notes[message(head, *first_of(residual.without_end))] = None
    return list(notes)


def _lost_gradients(draws: Iterable[Any]) -> list[str]:
    """Notes on zeros whose gradient a function such as ReLU does not let through."""
    rules: dict[str, list[Parameter]] = {}
    for draw in draws:
        residual = draw.parameter.residual
        is_zero = draw.std == 0 and draw.parameter.role in (*WEIGHT_ROLES, "scale")
        if residual is not None and is_zero and residual.part == "end" and residual.bent:
            rules.setdefault(draw.rule, []).append(draw.parameter)
    return [
        message(
            f'rule "{rule}": a function such as ReLU stands between {count(len(weights), "array")} and the stream, '
            f"through which zeros may have no gradient, and stay zero: {_paths(weights)}",
            'draw them small instead: {"residual:end": ("normal", {"stddev": 1e-3})}',
        )
        for rule, weights in rules.items()
    ]


def _fits(parameter: Parameter, recipe: str) -> bool:
    is_table = parameter.role == "embedding" and recipe.startswith("t_fixup")
    return is_table or (parameter.residual is not None and parameter.residual.part in parts_of(recipe))


def _misses(rule: str, recipe: str, weights: Sequence[Parameter]) -> str:
    residual = weights[0].residual or Residual(streams=())
    is_for_ends = parts_of(recipe) == ENDS
    what = "that end a residual branch" if is_for_ends else "in residual branches"
    ends = [path for stream in residual.streams for path in stream.ends]
    return message(
        f'rule "{rule}": the depth factor "{recipe}" is for weights {what}, and the rule draws none of these.',
        f"it draws {_paths(weights)}",
        *([f"weights that end a branch: {listing(ends, FEW)}"] if ends else stream_lines(residual)),
        'write {"residual:end": ...}' if ends and is_for_ends else "",
    )


def _paths(weights: Sequence[Parameter]) -> str:
    return listing((path_text(array.path) for array in weights), FEW)
