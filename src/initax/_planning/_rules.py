"""Rules: selectors and the schemes they choose. The last rule that matches a layer wins."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from initax._errors import RuleError, SchemeError, count, did_you_mean, listing, message, shown
from initax._model._parameter import ROLES, Ancestor, Layer
from initax.schemes._scheme import Scheme, as_scheme

EVERY = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """One selector and its scheme.

    Attributes:
        selector: as the user wrote it.
        text: how it is shown.
        scheme: what it draws; `None` keeps the layer.
        matches: whether it selects a layer.
    """

    selector: Any
    text: str
    scheme: Scheme | None
    matches: Callable[[Layer], bool]


def read_rules(rules: Any) -> tuple[Rule, ...]:
    """Return a rule map as rules, in order.

    Raises:
        RuleError: it is no mapping, or a selector is of no known kind.
        SchemeError: a scheme is unknown or malformed.
    """
    if not isinstance(rules, Mapping):
        raise RuleError(_no_mapping(rules))
    return tuple(_read(selector, scheme) for selector, scheme in rules.items())


def _no_mapping(rules: Any) -> str:
    head = f"rules must be a mapping from selectors to schemes, not {shown(rules)}."
    if isinstance(rules, str):
        is_file = rules.lower().endswith((".toml", ".json"))
        return message(
            head, f'write ix.load_rules("{rules}")' if is_file else f'for every layer write {{"*": "{rules}"}}'
        )
    if isinstance(rules, Sequence) and all(isinstance(each, Sequence) and len(each) == 2 for each in rules):
        return message(head, "write dict(rules)")
    return message(head, 'write {"Linear": "he_normal"}, or {"*": "he_normal"} for every layer')


def _read(selector: Any, value: Any) -> Rule:
    text, matches = _selector(selector)
    try:
        scheme = None if value is None else as_scheme(value)
    except SchemeError as error:
        raise type(error)(f'rule "{text}": {error}') from None
    return Rule(selector, text, scheme, matches)


def _selector(selector: Any) -> tuple[str, Callable[[Layer], bool]]:
    if isinstance(selector, type):
        return selector.__qualname__, lambda layer: issubclass(layer.cls, selector)
    if isinstance(selector, str) and selector.strip():
        tokens = tuple(selector.split())
        return selector, functools.partial(_matches_tokens, tokens)
    if callable(selector):
        name = getattr(selector, "__name__", repr(selector))
        return name, lambda layer: bool(selector(layer))
    raise RuleError(
        message(
            f"a selector can't be {selector!r} ({type(selector).__name__}).",
            'it is a class (eqx.nn.Linear), a name ("Linear"), a path ("layers.*.attn"), names in sequence for nesting',
            '("MultiheadAttention Linear"), or a function of a layer',
        )
    )


def _matches_tokens(tokens: tuple[str, ...], layer: Layer) -> bool:
    if not _matches_one(tokens[-1], layer.path, layer.cls, layer.kind):
        return False
    around = iter(layer.ancestors)
    return all(any(_matches_one(token, each.path, each.cls, "") for each in around) for token in tokens[:-1])


def _matches_one(token: str, path: str, cls: type, kind: str) -> bool:
    if token == EVERY:
        return True
    if "." in token or "*" in token or "?" in token or "[" in token:
        return _glob(token).fullmatch(path) is not None
    return token in (kind, path) or token in _class_names(cls)


@functools.lru_cache(maxsize=4096)
def _class_names(cls: type) -> frozenset[str]:
    return frozenset(base.__name__ for base in cls.__mro__ if base is not object)


@functools.lru_cache(maxsize=1024)
def _glob(pattern: str) -> re.Pattern[str]:
    """Compile a path glob: `*` and `?` stay within one part of the path, `**` crosses dots."""
    parts: list[str] = []
    for token in re.findall(r"\*\*\.|\.\*\*$|\*\*|\*|\?|\[[^\]]*\]|.", pattern):
        match token:
            case "**.":
                parts.append(r"(?:.*\.)?")
            case ".**":
                parts.append(r"\..*")
            case "**":
                parts.append(".*")
            case "*":
                parts.append(r"[^.]*")
            case "?":
                parts.append(r"[^.]")
            case _ if token.startswith("["):
                parts.append("[" + token[1:-1].replace("!", "^", 1) + "]" if len(token) > 2 else re.escape(token))
            case _:
                parts.append(re.escape(token))
    return re.compile("".join(parts))


@dataclass(frozen=True, slots=True)
class Matching:
    """Which rule decides each layer.

    Attributes:
        winners: the deciding rule of each layer, `None` where no rule selects it.
        shadowed: rules that select layers and decide none, with the rules that do.
    """

    winners: tuple[Rule | None, ...]
    shadowed: tuple[tuple[Rule, tuple[Rule, ...]], ...]


def match(rules: Sequence[Rule], layers: Sequence[Layer], aliases: Mapping[str, str], hint: str = "") -> Matching:
    """Return which rule decides each layer: the last one that matches.

    Args:
        rules: the rules, in order.
        layers: the layers.
        aliases: path at which a layer is reached again → path at which it is listed.
        hint: where only names are known of the layers and not their classes, what to pass for these.

    Raises:
        RuleError: a rule selects no layer, or a predicate fails.
    """
    winners: list[Rule | None] = [None] * len(layers)
    selected: dict[int, list[int]] = {}
    for place, rule in enumerate(rules):
        found = [index for index, layer in enumerate(layers) if _applies(rule, layer)]
        if not found:
            raise RuleError(message(_unmatched(rule, layers, aliases), _by_name(rule, hint)))
        selected[place] = found
        for index in found:
            winners[index] = rule
    shadowed = []
    for place, rule in enumerate(rules):
        deciding = [winners[index] for index in selected[place]]
        if all(winner is not rule for winner in deciding):
            unique = {id(winner): winner for winner in deciding if winner is not None}
            shadowed.append((rule, tuple(unique.values())))
    return Matching(tuple(winners), tuple(shadowed))


def _applies(rule: Rule, layer: Layer) -> bool:
    try:
        return rule.matches(layer)
    except Exception as error:
        raise RuleError(
            message(
                f'the selector {rule.text} failed on layer "{layer.path}": {type(error).__name__}: {error}',
                "a selector function takes an ix.Layer and returns whether it is selected",
            )
        ) from error


def _by_name(rule: Rule, hint: str) -> str:
    """What to pass where a selector that has the form of a class meets layers of which only names are known."""
    name = rule.selector.__name__ if isinstance(rule.selector, type) else rule.text
    words = name.split() if isinstance(rule.selector, str | type) else []
    of_class = bool(words) and all(word.isidentifier() and word[0].isupper() for word in words)
    return f"only names are known here, not classes; {hint}" if hint and of_class else ""


def _unmatched(rule: Rule, layers: Sequence[Layer], aliases: Mapping[str, str]) -> str:
    head = f'selector "{rule.text}" matches no layer.'
    kinds = Counter(layer.cls.__name__ for layer in layers)
    have = "layers: " + listing(f"{name} ({count})" for name, count in kinds.items())
    if not isinstance(rule.selector, str | type):
        return message(head, have)
    wanted = rule.selector.__name__ if isinstance(rule.selector, type) else rule.text
    for parameter in (each for layer in layers for each in layer.parameters):
        if wanted == parameter.path:
            owner = parameter.path.removesuffix(parameter.name).removesuffix(".") or _root(layers)
            role = parameter.role or "weight"
            line = f'{{"{owner}": ix.Scheme(weight=None, {role}=...)}}' if role == "bias" else f'{{"{owner}": ...}}'
            return message(head, f'"{wanted}" is a parameter of layer "{owner}"; select the layer: {line}')
    if wanted in aliases:
        return message(head, f'"{wanted}" is tied to "{aliases[wanted]}", which owns it; write "{aliases[wanted]}"')
    if isinstance(rule.selector, str) and len(rule.text.split()) > 1:
        return message(head, have, _sequence_hint(rule.text.split(), layers))
    inside = [layer for layer in layers if _is_inside(wanted, layer)]
    if inside:
        line = (
            f'"{wanted} *"' if any(wanted in _class_names(each.cls) for each in _around(inside)) else f'"{wanted}.**"'
        )
        holds = f'"{wanted}" holds {count(len(inside), "layer")} but owns no array itself'
        return message(head, f"{holds}; for all of them write {line}")
    near = _by_another_name(rule.selector, wanted, layers) or did_you_mean(wanted, _words(layers))
    if isinstance(rule.selector, type):
        return message(head, have, near)
    meant = _path_hint(wanted, layers)
    if meant:
        return message(head, have, meant)
    arrays = _array_hint(wanted, layers)
    if not near and not arrays and ("." in wanted or "*" in wanted):
        near = f"paths: {listing((layer.path or '(model)' for layer in layers), 6)}"
    return message(head, have, near, arrays)


KINDS_ELSEWHERE = {
    "Dense": "Linear",
    "DenseGeneral": "Linear",
    "LinearGeneral": "Linear",
    "Embed": "Embedding",
    "Conv1d": "Conv",
    "Conv2d": "Conv",
    "Conv3d": "Conv",
    "ConvTranspose1d": "ConvTranspose",
    "ConvTranspose2d": "ConvTranspose",
    "ConvTranspose3d": "ConvTranspose",
    "BatchNorm": "Norm",
    "GroupNorm": "Norm",
    "InstanceNorm": "Norm",
    "LayerNorm": "Norm",
    "RMSNorm": "Norm",
    "GRUCell": "RNNCell",
    "LSTMCell": "RNNCell",
    "OptimizedLSTMCell": "RNNCell",
    "SimpleCell": "RNNCell",
}
"""Classes of one framework → the kind that selects what another has in their place."""


def _by_another_name(selector: Any, wanted: str, layers: Sequence[Layer]) -> str:
    """Say which name selects the layers that are meant by a class, or by a name, of another framework."""
    for word in (wanted, KINDS_ELSEWHERE.get(wanted, "")):
        found = next((each for each in layers if word and _matches_one(word, each.path, each.cls, each.kind)), None)
        if found is None:
            continue
        if not isinstance(selector, type) or found.cls.__module__ == "builtins":
            return f'did you mean the kind "{word}"?'
        theirs, ours = _public_name(selector), _public_name(found.cls)
        if word == wanted or theirs.split(".")[:2] != ours.split(".")[:2]:
            return f'it is {theirs}, and "{found.path}" is {ours}; write "{word}"'
    return ""


def _public_name(cls: type) -> str:
    return f"{cls.__module__.partition('._')[0]}.{cls.__qualname__}".removeprefix("builtins.")


def _root(layers: Sequence[Layer]) -> str:
    """A word for the layer that the whole model is: its path is empty."""
    name = next((layer.cls.__name__ for layer in layers if not layer.path), EVERY)
    return name if sum(_matches_one(name, each.path, each.cls, each.kind) for each in layers) == 1 else EVERY


def _is_inside(name: str, layer: Layer) -> bool:
    return layer.path.startswith(f"{name}.") or any(
        _matches_one(name, each.path, each.cls, "") for each in layer.ancestors
    )


def _around(layers: Sequence[Layer]) -> Iterable[Ancestor]:
    return (each for layer in layers for each in layer.ancestors)


def _path_hint(text: str, layers: Sequence[Layer]) -> str:
    """The path that was meant: further inside the model, one level up, or with an index counted from the end."""
    path = _from_the_front(text, layers)
    inside = f"{path}*" if path.endswith(".*") else f"{path}.**"
    for each in (path, inside, f"**.{path}", f"**.{inside}"):
        found = [layer.path for layer in layers if _glob(each).fullmatch(layer.path)]
        if found:
            return f'write "{each}", which selects {listing(found, 3)}'
    return ""


def _from_the_front(text: str, layers: Sequence[Layer]) -> str:
    """The path, its last index counted from the front where it is counted from the end."""
    before, dot, index = text.rpartition(".")
    if not re.fullmatch(r"-\d+", index):
        return text
    around = rf"(?:.*\.)?{_glob(before).pattern}\." if dot else ""
    last: dict[str, int] = {}
    for layer in layers:
        if found := re.fullmatch(rf"({around})(\d+)(?:\..*)?", layer.path):
            last[found[1]] = max(last.get(found[1], 0), int(found[2]))
    places = {each + 1 + int(index) for each in last.values()}
    place = places.pop() if len(places) == 1 else -1
    return f"{before}{dot}{place}" if place >= 0 else text


def _array_hint(text: str, layers: Sequence[Layer]) -> str:
    """What to select in place of arrays, or of their role."""
    if text in ROLES and text != "state":
        whole = f'"{text}": ...' if text == "weight" else f'"weight": ..., "{text}": ...'
        return f'"{text}" is a role of arrays, which a scheme speaks of: {{"*": {{{whole}}}}}'
    path = _glob(f"**.{text}")
    owners = [layer for layer in layers if any(path.fullmatch(each.path) for each in layer.parameters)]
    names = list(dict.fromkeys(f'"{each.cls.__name__}"' for each in owners))
    if not owners:
        return ""
    return f'"{text}" names arrays, and a selector selects layers: ' + " or ".join(names[:3])


def _sequence_hint(tokens: Sequence[str], layers: Sequence[Layer]) -> str:
    """Say which word of a sequence is at fault."""
    for token in tokens:
        modules = any(_matches_one(token, each.path, each.cls, "") for each in _around(layers))
        if not modules and not any(_matches_one(token, each.path, each.cls, each.kind) for each in layers):
            near = did_you_mean(token, _words(layers))
            return f'nothing in the model is "{token}"' + (f"; {near}" if near else "")
    outer = " inside ".join(f'a "{token}"' for token in reversed(tokens))
    return f"each word names something, but there is no {outer[2:]}"


def _words(layers: Sequence[Layer]) -> Iterable[str]:
    """Words that would select something."""
    for layer in layers:
        yield layer.cls.__name__
        yield layer.kind
        yield layer.path
        yield from (each.cls.__name__ for each in layer.ancestors)
