"""Selectors: what a class, a name, a path, a sequence of names or a function selects, layers and single arrays."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from initax._errors import RuleError, did_you_mean, listing
from initax._model._parameter import WEIGHT_ROLES, Ancestor, Layer, Parameter
from initax._model._residual import PARTS

EVERY = "*"
RESIDUAL = "residual:"
"""Beginning of the words for arrays that a forward pass tells: `residual:end`."""

Word = Callable[[str, type, str], bool]
"""Function from the path, the class and the kind of a module to whether a word selects it."""


@dataclass(frozen=True, slots=True)
class Selector:
    """What a rule is for.

    Attributes:
        value: as the user wrote it.
        text: how it is shown.
        matches: whether it selects a layer.
        names: whether its path is that of an array; `None` where it is not a path.
        ends_open: its path ends in nothing but wildcards, `layers.*`: it selects layers, and where there are none all
            arrays at such paths, as if their layers were selected.
        part: for arrays of residual branches, which ones: a key of `PARTS`; they too are selected as if their layers
            were.
    """

    value: Any
    text: str
    matches: Callable[[Layer], bool]
    names: Callable[[Layer, Parameter], bool] | None = None
    ends_open: bool = False
    part: str = ""


def read_selector(value: Any) -> Selector:
    """Return a selector as it is written in a rule map.

    Raises:
        RuleError: it is of no known kind.
    """
    if isinstance(value, type):
        return Selector(value, value.__qualname__, lambda layer: issubclass(layer.cls, value))
    if isinstance(value, str) and value.strip():
        tokens = value.split()
        words = tuple(map(_word, tokens))
        if tokens[-1].startswith(RESIDUAL):
            part = _part(tokens[-1])
            names = functools.partial(_names_part, words[:-1], part)
            return Selector(value, value, lambda layer: False, names, ends_open=True, part=part)
        return Selector(
            value,
            value,
            functools.partial(_matches_words, words),
            None if tokens[-1] == EVERY else functools.partial(_names_path, words[:-1], _names_one(tokens[-1])),
            not tokens[-1].rpartition(".")[2].strip("*?"),
        )
    if callable(value):
        return Selector(value, getattr(value, "__name__", repr(value)), lambda layer: bool(value(layer)))
    raise RuleError(
        f"a selector can't be {value!r} ({type(value).__name__}).",
        'it is a class (eqx.nn.Linear), a name ("Linear"), a path ("layers.*.attn"), names in sequence for nesting',
        '("MultiheadAttention Linear"), or a function of a layer',
    )


def _matches_words(words: tuple[Word, ...], layer: Layer) -> bool:
    is_selected = words[-1](layer.path, layer.cls, layer.kind)
    return is_selected and (len(words) == 1 or _select_in_order(words[:-1], layer.ancestors))


def _names_path(words: tuple[Word, ...], is_it: Callable[[str], Any], layer: Layer, parameter: Parameter) -> bool:
    return bool(is_it(parameter.path)) and (not words or _select_in_order(words, (*layer.ancestors, layer)))


def _select_in_order(words: Iterable[Word], modules: Iterable[Ancestor | Layer]) -> bool:
    """Whether words select, one after the other, some of these modules."""
    left = iter(modules)
    return all(any(word(module.path, module.cls, getattr(module, "kind", "")) for module in left) for word in words)


def _part(token: str) -> str:
    part = token.removeprefix(RESIDUAL)
    if part not in PARTS:
        words = [f"{RESIDUAL}{part}" for part in PARTS]
        raise RuleError(
            f'"{token}" selects nothing: it is one of {listing(words)}.',
            did_you_mean(token, words[:1]),
            *(f"{word}: {what}" for word, what in zip(words, PARTS.values(), strict=True)),
        )
    return part


def _names_part(words: tuple[Word, ...], part: str, layer: Layer, parameter: Parameter) -> bool:
    """Whether an array is of a part of a residual branch, inside of what the words in front select."""
    parts = (part, "scores") if part == "inner" else (part,)
    is_of_part = parameter.residual is not None and parameter.residual.part in parts
    return is_of_part and _select_in_order(words, (*layer.ancestors, layer))


def is_beside_weights(layer: Layer, parameter: Parameter) -> bool:
    """Return whether an array of a branch is neither a weight nor the bias of one: a scale, or what a norm has."""
    if parameter.role == "bias":
        return layer.kind == "Norm"
    return parameter.role is not None and parameter.role not in WEIGHT_ROLES


def matches_one(token: str, path: str, cls: type, kind: str) -> bool:
    """Return whether one word selects a module."""
    return _word(token)(path, cls, kind)


def _word(token: str) -> Word:
    """Return the function that tells whether one word selects a module of a path, a class and a kind."""
    if token == EVERY:
        return lambda path, cls, kind: True
    if is_glob(token) or "." in token:
        return lambda path, cls, kind: glob(token).fullmatch(path) is not None
    return lambda path, cls, kind: token in (kind, path) or token in class_names(cls)


def _names_one(token: str) -> Callable[[str], Any]:
    """Return the function that tells whether a path is the one that a word is for."""
    return (lambda path: glob(token).fullmatch(path)) if is_glob(token) else functools.partial(operator.eq, token)


def is_glob(token: str) -> bool:
    """Return whether a word has wildcards."""
    return "*" in token or "?" in token or "[" in token


def selects_any(pattern: str, layers: Sequence[Layer]) -> list[str]:
    """Return the paths of the layers, else of the arrays, that a path or glob is for."""
    path = glob(pattern)
    paths = [layer.path for layer in layers if path.fullmatch(layer.path)]
    return paths or [array.path for layer in layers for array in layer.parameters if path.fullmatch(array.path)]


@functools.lru_cache(maxsize=4096)
def class_names(cls: type) -> frozenset[str]:
    """Return the names of a class and its bases."""
    return frozenset(base.__name__ for base in cls.__mro__ if base is not object)


@functools.lru_cache(maxsize=1024)
def glob(pattern: str) -> re.Pattern[str]:
    """Return a path glob, compiled: `*` and `?` stay within one part of the path, `**` crosses dots."""
    tokens = re.findall(r"\*\*\.|\.\*\*$|\*\*|\*|\?|\[[^\]]*\]|.", pattern)
    return re.compile("".join(WILDCARDS.get(token) or _one_of(token) or re.escape(token) for token in tokens))


WILDCARDS = {"**.": r"(?:.*\.)?", ".**": r"\..*", "**": ".*", "*": r"[^.]*", "?": r"[^.]"}


def _one_of(token: str) -> str:
    """One of some characters, `[ab]`, or none of them, `[!ab]`; empty for any other token."""
    return f"[{token[1:-1].replace('!', '^', 1)}]" if len(token) > 2 and token[0] == "[" else ""
