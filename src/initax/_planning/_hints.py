"""What was meant by a selector that matches nothing, or by a key that is no array. Only errors ask for it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from initax._errors import count, did_you_mean, listing, message, nearest
from initax._model._parameter import ROLES, Ancestor, Layer
from initax._model._residual import PARTS
from initax._planning._selectors import RESIDUAL, Selector, class_names, glob, is_glob, matches_one, selects_any
from initax.schemes._aliases import ROLES_ELSEWHERE
from initax.schemes._scheme import WORDS


def unmatched(selector: Selector, layers: Sequence[Layer], aliases: Mapping[str, str]) -> str:
    """Return what to say of a selector that selects no layer and no array."""
    value, wanted = selector.value, selector.text
    if selector.part:
        return _no_branch(selector, layers)
    is_path = isinstance(value, str) and len(wanted.split()) == 1 and (is_glob(wanted) or "." in wanted)
    head = f'selector "{wanted}" matches no layer{" and no array" if is_path else ""}.'
    kinds = Counter(layer.cls.__name__ for layer in layers)
    have = "layers: " + listing(f"{name} ({count})" for name, count in kinds.items())
    if not isinstance(value, str | type):
        return message(head, have)
    if isinstance(value, type):
        wanted = value.__name__
    if wanted in aliases:
        return message(head, f'"{wanted}" is tied to "{aliases[wanted]}", which owns it; write "{aliases[wanted]}"')
    if isinstance(value, str) and len(wanted.split()) > 1:
        return message(head, have, _sequence_hint(wanted.split(), layers))
    inside = [layer for layer in layers if _is_inside(wanted, layer)]
    if inside:
        line = f'"{wanted} *"' if any(wanted in class_names(each.cls) for each in _around(inside)) else f'"{wanted}.**"'
        holds = f'"{wanted}" holds {count(len(inside), "layer")} but owns no array itself'
        return message(head, f"{holds}; for all of them write {line}")
    entries = _entry_of_a_stack(wanted, layers) if is_path else ()
    if entries:
        return message(head, *entries)
    arrays = dict.fromkeys(each.name for layer in layers for each in layer.parameters)
    words = list(_words(layers)) if isinstance(value, type) or wanted in ROLES else _words_and_paths(wanted, layers)
    near = _by_another_name(value, wanted, layers) or did_you_mean(wanted, words)
    if isinstance(value, type):
        return message(head, have, near)
    if wanted in ROLES and wanted != "state":
        whole = f'"{wanted}": ...' if wanted == "weight" else f'"weight": ..., "{wanted}": ...'
        role = f'"{wanted}" is a role of arrays, which a scheme speaks of: {{"*": {{{whole}}}}}'
        return message(head, have, near, role)
    meant = _path_hint(wanted, layers)
    if meant:
        return message(head, have, meant)
    alike = [f'"**.{name}"' for name in nearest(wanted, arrays)]
    if not near and alike:
        near = f"did you mean {' or '.join(alike)}?"
    if not near and is_path:
        near = f"paths: {listing((layer.path or '(model)' for layer in layers), 6)}"
    return message(head, have, f"arrays: {listing(arrays)}" if is_path else "", near)


def _no_branch(selector: Selector, layers: Sequence[Layer]) -> str:
    """What to say of a selector for arrays of residual branches that selects none."""
    arrays = [each for layer in layers for each in layer.parameters]
    known = [each.residual for each in arrays if each.residual is not None]
    if not known:
        return message(
            f'selector "{selector.text}" needs the forward pass, which tells what is added to a residual stream.',
            "say what the model is called on: inputs=..., or a survey, ix.survey(model, inputs=...)",
        )
    head = f'selector "{selector.text}" matches no array: {PARTS[selector.part]}.'
    streams = known[0].streams
    if not streams:
        return message(head, "the forward pass adds to no residual stream", "name the arrays, or their layers")
    found = [each.path for each in arrays if each.residual is not None and each.residual.part == selector.part]
    word = f"{RESIDUAL}{selector.part}"
    if found and selector.text != word:
        return message(head, f"{word}: {listing(found, 6)}", f'nothing of these is inside "{selector.text.split()[0]}"')
    ends = listing((path for stream in streams for path in stream.ends), 6)
    return message(head, f"weights that end a branch: {ends}")


def no_array(rule: str, key: str, names: Sequence[str]) -> str:
    """Return what to say of a key of a scheme that is no role, and no array of what the rule selects.

    Args:
        rule: the rule.
        key: the key.
        names: names of the arrays, within their layers.
    """
    nearby = nearest(key, names, len(names))
    known = ROLES_ELSEWHERE.get(key)
    return message(
        f'rule "{rule}": "{key}" is neither a role nor an array of what the rule selects.',
        f'an array "{key}" has the role "{known}"' if known else did_you_mean(key, (*names, *WORDS)),
        f"arrays: {listing([*nearby, *(each for each in names if each not in nearby)])}",
        f"roles: {listing(ROLES[:-1])}; also axes, sizes, base, or name with arguments",
    )


def _words_and_paths(text: str, layers: Sequence[Layer]) -> list[str]:
    """What would select a layer or an array, with wildcards for indices where the text has any."""
    words = [*(each.path for layer in layers for each in layer.parameters), *_words(layers)]
    return [re.sub(r"(^|(?<=\.))\d+(?=\.|$)", "*", word) for word in words] if is_glob(text) else words


def _entry_of_a_stack(text: str, layers: Sequence[Layer]) -> tuple[str, ...]:
    """What to write for one entry of a stack of layers, which is drawn as a whole."""
    parts = text.split(".")
    for place, part in enumerate(parts):
        if place == 0 or not re.fullmatch(r"-?\d+|[*?]|\[.*\]", part):
            continue
        around, whole = ".".join(parts[:place]), ".".join((*parts[:place], *parts[place + 1 :]))
        inside = re.compile(rf"{glob(around).pattern}\.(\d+(?=\.|$))?.*")
        at = [(inside.fullmatch(each.path), each) for layer in layers for each in layer.parameters]
        arrays = [each for path, each in at if path]
        sizes = [each.shape[each.axes.stack_axis[0]] for each in arrays if each.axes and each.axes.stack_axis]
        if not sizes or any(path and path[1] for path, _ in at):
            continue
        whole = whole if place < len(parts) - 1 else f"{whole}.**"
        found = selects_any(whole, layers)
        factors = ", ".join(["...", *(["..."] if sizes[0] > 1 else [])])
        return (
            f'"{around}" is one stack of {count(sizes[0], "layer")}, and a rule decides all of them',
            f'write "{whole}", which selects {listing(found, 3)}'
            if found
            else f"arrays: {listing((each.path for each in arrays), 6)}",
            f'for a factor per layer: ("scaled", {{"scheme": "he_normal", "factor": [{factors}]}}), {sizes[0]} numbers',
        )
    return ()


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
        found = next((each for each in layers if word and matches_one(word, each.path, each.cls, each.kind)), None)
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


def _is_inside(name: str, layer: Layer) -> bool:
    return layer.path.startswith(f"{name}.") or any(
        matches_one(name, each.path, each.cls, "") for each in layer.ancestors
    )


def _around(layers: Sequence[Layer]) -> Iterable[Ancestor]:
    return (each for layer in layers for each in layer.ancestors)


def _path_hint(text: str, layers: Sequence[Layer]) -> str:
    """The path that was meant: further inside the model, one level up, or with an index counted from the end."""
    path = _from_the_front(text, layers)
    inside = f"{path}*" if path.endswith(".*") else f"{path}.**"
    for each in (path, inside, f"**.{path}", f"**.{inside}"):
        found = selects_any(each, layers)
        if found:
            return f'write "{each}", which selects {listing(found, 3)}'
    return ""


def _from_the_front(text: str, layers: Sequence[Layer]) -> str:
    """The path, its last index counted from the front where it is counted from the end."""
    before, dot, index = text.rpartition(".")
    if not re.fullmatch(r"-\d+", index):
        return text
    around = rf"(?:.*\.)?{glob(before).pattern}\." if dot else ""
    last: dict[str, int] = {}
    for layer in layers:
        if found := re.fullmatch(rf"({around})(\d+)(?:\..*)?", layer.path):
            last[found[1]] = max(last.get(found[1], 0), int(found[2]))
    places = {each + 1 + int(index) for each in last.values()}
    place = places.pop() if len(places) == 1 else -1
    return f"{before}{dot}{place}" if place >= 0 else text


def _sequence_hint(tokens: Sequence[str], layers: Sequence[Layer]) -> str:
    """Say which word of a sequence is at fault."""
    for token in tokens:
        modules = any(matches_one(token, each.path, each.cls, "") for each in _around(layers))
        last = token is tokens[-1] and bool(selects_any(f"**.{token}", layers))
        if not modules and not last and not any(matches_one(token, each.path, each.cls, each.kind) for each in layers):
            near = did_you_mean(token, _words(layers))
            return f'nothing in the model is "{token}"' + (f"; {near}" if near else "")
    arrays = selects_any(f"**.{tokens[-1]}", layers)
    if arrays and not any(matches_one(tokens[-1], each.path, each.cls, each.kind) for each in layers):
        return f'for arrays of that name write "{" ".join((*tokens[:-1], f"**.{tokens[-1]}"))}"'
    outer = " inside ".join(f'a "{token}"' for token in reversed(tokens))
    return f"each word names something, but there is no {outer[2:]}"


def _words(layers: Sequence[Layer]) -> Iterable[str]:
    """Words that would select something."""
    for layer in layers:
        yield layer.cls.__name__
        yield layer.kind
        yield layer.path
        yield from (each.cls.__name__ for each in layer.ancestors)
