"""Hints for errors and notes: what a wrong call, rule or layer may have meant, and the line to write."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from initax._errors import count, did_you_mean, listing, meant, message, nearest, shown
from initax._model._kinds import KIND_OF
from initax._model._parameter import ROLES, UNDECLARED, WEIGHT_ROLES, Ancestor, Layer, Parameter
from initax._model._reason import Reason, Why
from initax._model._register import is_plain
from initax._model._residual import PARTS
from initax._planning._array_hints import arrays_meant, is_all_of, path_meant, roles_meant
from initax._planning._declaration_hints import declaration, guess_pattern, is_learned_input
from initax._planning._depth_rules import stream_lines
from initax._planning._records import Kept
from initax._planning._rule_file_hints import is_rule_file
from initax._planning._selectors import RESIDUAL, Selector, class_names, glob, is_glob, matches_one, selects_any
from initax._text import mapping_text, path_text, written
from initax.schemes._hints import ROLES_ELSEWHERE
from initax.schemes._scheme import WORDS, Scheme


def unmatched(
    selector: Selector,
    layers: Sequence[Layer],
    aliases: Mapping[str, str],
    corrected: Callable[..., str],
    *,
    of_scheme: bool = True,
) -> str:
    """Return the message for a selector that selects no layer and no array.

    Args:
        selector: the selector.
        layers: the layers of the model.
        aliases: path at which something is reached again → path of its owner.
        corrected: function from the selector that may be meant, and the role its value is for, to the line to write.
        of_scheme: whether its value is a scheme, or else a label.
    """
    value, name = selector.value, selector.text
    if selector.part:
        return _no_branch(selector, layers)
    is_path = isinstance(value, str) and len(name.split()) == 1 and (is_glob(name) or "." in name)
    head = f'selector "{name}" matches no layer{" and no array" if is_path else ""}.'
    kinds = Counter(layer.cls.__name__ for layer in layers)
    have = "layers: " + listing(f"{name} ({count})" for name, count in kinds.items())
    if not isinstance(value, str | type):
        return message(head, have)
    name = value.__name__ if isinstance(value, type) else name
    if name in aliases:
        return message(head, f'"{name}" is tied to "{aliases[name]}", which owns it; write "{aliases[name]}"')
    lines = _otherwise(value, name, layers, have, is_path=is_path)
    if lines:
        return message(head, *lines)
    known = (array for layer in layers for array in layer.parameters)
    arrays = dict.fromkeys(
        array.name for array in known if array.excluded is None or array.excluded.why is not Why.OPTIMIZER
    )
    words = list(_words(layers)) if isinstance(value, type) or name in ROLES else _words_and_paths(name, layers)
    near, close = _by_another_name(value, name, layers)
    if isinstance(value, type):
        close = close if near else nearest(name, words)
        line = corrected(_selecting(close[0], layers)) if close else ""
        return message(head, have, near or meant(close), line)
    if name in ROLES and name != "state":
        return message(
            head, have, near or did_you_mean(name, words), _of_role(name, layers, corrected, of_scheme=of_scheme)
        )
    if path := _path_hint(name, layers):
        return message(head, have, path)
    has = f"arrays: {listing(arrays)}" if is_path else ""
    if not near:
        close = _near(name, words, layers)
        near = meant(close) or _what_is_there(name, layers)
    is_meant = bool(close) and _numbers(name) == _numbers(close[0])
    line = corrected(_selecting(close[0], layers)) if is_meant else ""
    roles = [] if close or "." in name else roles_meant(name, layers)
    if roles and roles[0] not in (None, "state"):
        line = _of_role(str(roles[0]), layers, corrected, of_scheme=of_scheme)
    return message(head, have, has, near, line)


def _near(text: str, words: Sequence[str], layers: Sequence[Layer]) -> list[str]:
    """The selectors that a text may mean; where its end says what an array is called, that of such arrays alone."""
    if roles_meant(text, layers):
        return [selector for selector in [arrays_meant(text, layers)] if selector]
    if path := path_meant(text, layers) if "." in text else "":
        return [path]
    last = text.rpartition(".")[2]
    return [word for word in nearest(text, words) if "." not in text or nearest(last, [word.rpartition(".")[2]])]


def _what_is_there(text: str, layers: Sequence[Layer]) -> str:
    """The arrays of the layer that a path of an array leads to, else the paths of all layers."""
    module = text.rpartition(".")[0]
    names = dict.fromkeys(array.name for layer in layers if layer.path == module for array in layer.parameters)
    if module and names:
        return f'"{module}" has: {listing(names, 6)}'
    return f"paths: {listing((path_text(layer.path) for layer in layers), 6)}"


def _numbers(text: str) -> list[str]:
    """The numbers in a path: a path with others is of other layers."""
    return [part for part in text.split(".") if part.isdecimal()]


def _of_role(role: str, layers: Sequence[Layer], corrected: Callable[..., str], *, of_scheme: bool) -> str:
    """The line for a role that stands where a selector does."""
    if not of_scheme:
        selector = arrays_meant(role, layers)
        return corrected(selector) if is_all_of(role, selector, layers) else corrected("**", role)
    whole = f'"{role}": ...' if role == "weight" else f'"weight": ..., "{role}": ...'
    return f'"{role}" is a role of arrays, which a scheme speaks of: {{"*": {{{whole}}}}}'


def _selecting(word: str, layers: Sequence[Layer]) -> str:
    """A word that is near a selector as a selector itself: what is inside where it is the class of a container."""
    return word if " " in word or _selects_any_of(word, layers) or selects_any(word, layers) else f"{word} *"


def _otherwise(value: Any, name: str, layers: Sequence[Layer], have: str, *, is_path: bool) -> tuple[str, ...]:
    """The lines where it is clear what was meant: several selectors, a path as JAX writes it, a container, a stack."""
    if isinstance(value, str):
        if several := _several(name, layers):
            return have, several
        if len(name.split()) > 1:
            return have, _sequence_hint(name.split(), layers)
    inside = [layer for layer in layers if layer.path.startswith(f"{name}.") or _selects_any_of(name, layer.ancestors)]
    if inside:
        is_class = any(name in class_names(ancestor.cls) for layer in inside for ancestor in layer.ancestors)
        line = f'"{name} *"' if is_class else f'"{name}.**"'
        holds = f'"{name}" holds {count(len(inside), "layer")} but owns no array itself'
        return (f"{holds}; for all of them write {line}",)
    if isinstance(value, str) and (written := _written_otherwise(name, layers)):
        return have, written
    return _entry_of_a_stack(name, layers) if is_path else ()


def _several(text: str, layers: Sequence[Layer]) -> str:
    """The rules that several selectors in one text mean."""
    parts = [part for part in re.split(r"\s*[,|;]\s*|\s+(?:or|and)\s+", text.strip()) if part]
    if len(parts) < 2 or not all(_selects_any_of(part, layers) or selects_any(part, layers) for part in parts):
        return ""
    return f"each has a rule of its own: {mapping_text(dict.fromkeys(parts, '...'))}"


def _selects_any_of(word: str, modules: Iterable[Layer | Ancestor]) -> bool:
    """Whether one word selects a layer, or a module around one, by class, kind or path."""
    return any(matches_one(word, module.path, module.cls, getattr(module, "kind", "")) for module in modules)


def _written_otherwise(text: str, layers: Sequence[Layer]) -> str:
    """The path that is meant by one written as in Python, by JAX, or with slashes; or that a selector is no pattern."""
    if text.partition(":")[0] == RESIDUAL.rstrip(":"):
        return f"write {', '.join(f'{RESIDUAL}{part}' for part in PARTS)}"
    path = re.sub(r"\[['\"]?([\w-]+)['\"]?\]", r".\1", text).replace("/", ".").strip(".")
    path = re.sub(r"\.value$|^(?:model|self|params)\.", "", path)
    paths = selects_any(path, layers) if path and path != text else ()
    if paths:
        return _write(path, paths)
    if re.search(r"\\|^\^|\$$|\.\+", text):
        return 'a selector is a glob and not a regular expression: "blocks.*.attn", "**.bias"'
    return ""


def _write(selector: str, paths: Sequence[str]) -> str:
    """The line for a selector that selects these paths."""
    return f'write "{selector}", which selects {listing(paths, 3)}'


def _no_branch(selector: Selector, layers: Sequence[Layer]) -> str:
    """The message for a selector for arrays of residual branches that selects none."""
    arrays = [array for layer in layers for array in layer.parameters]
    known = [array.residual for array in arrays if array.residual is not None]
    if not known:
        return message(
            f'selector "{selector.text}" needs the forward pass, which tells what is added to a residual stream.',
            "say what the model is called on: inputs=..., or a survey, ix.survey(model, inputs=...)",
        )
    head = f'selector "{selector.text}" matches no array: {PARTS[selector.part]}.'
    streams = known[0].streams
    if not streams:
        return message(head, *stream_lines(known[0]), "name the arrays, or their layers")
    paths = [array.path for array in arrays if array.residual is not None and array.residual.part == selector.part]
    word = f"{RESIDUAL}{selector.part}"
    if paths and selector.text != word:
        return message(head, f"{word}: {listing(paths, 6)}", f'nothing of these is inside "{selector.text.split()[0]}"')
    ends = listing((path for stream in streams for path in stream.ends), 6)
    return message(head, f"weights that end a branch: {ends}")


def decided_later(rule: str, what: str, winners: Iterable[str]) -> str:
    """Return the message for a rule that later ones leave nothing.

    Args:
        rule: the rule.
        what: what it does not do, and what the others decide.
        winners: the others.
    """
    by = listing(f'"{winner}"' for winner in winners)
    return f'rule "{rule}" {what} is decided by {by}, which comes later; the last rule that matches wins'


def no_array(rule: str, key: str, names: Sequence[str], *, of_scheme: bool = True) -> str:
    """Return the message for a key that is neither a role nor an array of what the rule selects.

    Args:
        rule: the rule.
        key: the key.
        names: names of the arrays, within their layers.
        of_scheme: whether it is the key of a scheme, or else of a label by role.
    """
    nearby = nearest(key, names, len(names))
    known = ROLES_ELSEWHERE.get(key)
    return message(
        f'rule "{rule}": "{key}" is neither a role nor an array of what the rule selects.',
        f'an array "{key}" has the role "{known}"'
        if known
        else did_you_mean(key, (*names, *(WORDS if of_scheme else ROLES))),
        f"arrays: {listing([*nearby, *(name for name in names if name not in nearby)])}",
        f"roles: {listing(ROLES[:-1])}; also axes, sizes, base, or name with arguments"
        if of_scheme
        else f"roles: {listing(ROLES)}",
    )


def _words_and_paths(text: str, layers: Sequence[Layer]) -> list[str]:
    """What would select a layer or an array, with wildcards for indices where the text has any."""
    words = [*(array.path for layer in layers for array in layer.parameters), *_words(layers)]
    return [re.sub(r"(^|(?<=\.))\d+(?=\.|$)", "*", word) for word in words] if is_glob(text) else words


def _entry_of_a_stack(text: str, layers: Sequence[Layer]) -> tuple[str, ...]:
    """What to write for one entry of a stack of layers, which is drawn as a whole."""
    parts = text.split(".")
    for index, part in enumerate(parts):
        if index == 0 or not re.fullmatch(r"-?\d+|[*?]|\[.*\]", part):
            continue
        stack, whole = ".".join(parts[:index]), ".".join((*parts[:index], *parts[index + 1 :]))
        inside = re.compile(rf"{glob(stack).pattern}\.(\d+(?=\.|$))?.*")
        matches = [(inside.fullmatch(array.path), array) for layer in layers for array in layer.parameters]
        arrays = [array for match, array in matches if match]
        sizes = [array.shape[array.axes.stack_axis[0]] for array in arrays if array.axes and array.axes.stack_axis]
        if not sizes or any(match and match[1] for match, _ in matches):
            continue
        whole = whole if index < len(parts) - 1 else f"{whole}.**"
        paths = selects_any(whole, layers)
        factors = "..., ..." if sizes[0] > 1 else "..."
        return (
            f'"{stack}" is one stack of {count(sizes[0], "layer")}, and a rule decides all of them',
            _write(whole, paths) if paths else f"arrays: {listing((array.path for array in arrays), 6)}",
            f'for a factor per layer: ("scaled", {{"scheme": "he_normal", "factor": [{factors}]}}), {sizes[0]} numbers',
        )
    return ()


def _by_another_name(selector: Any, name: str, layers: Sequence[Layer]) -> tuple[str, list[str]]:
    """Say which kind is meant by a class, or a name, of another framework, and list what could be meant."""
    for word in filter(None, (name, KIND_OF.get(name, ""))):
        layer = next((layer for layer in layers if matches_one(word, layer.path, layer.cls, layer.kind)), None)
        if layer is None:
            continue
        if not isinstance(selector, type) or layer.cls.__module__ == "builtins":
            return f'did you mean the kind "{word}"?', [word]
        theirs, ours = _public_name(selector), _public_name(layer.cls)
        if word == name or theirs.split(".")[:2] != ours.split(".")[:2]:
            return f'it is {theirs}, and "{layer.path}" is {ours}; write "{word}"', []
    return "", []


def _public_name(cls: type) -> str:
    return f"{cls.__module__.partition('._')[0]}.{cls.__qualname__}".removeprefix("builtins.")


def _path_hint(text: str, layers: Sequence[Layer]) -> str:
    """The path that was meant: further inside the model, one level up, or with an index counted from the end."""
    path = _from_the_front(text, layers)
    inside = f"{path}*" if path.endswith(".*") else f"{path}.**"
    for pattern in (path, inside, f"**.{path}", f"**.{inside}"):
        paths = selects_any(pattern, layers)
        if paths:
            return _write(pattern, paths)
    return ""


def _from_the_front(text: str, layers: Sequence[Layer]) -> str:
    """The path, its last index counted from the front where it is counted from the end."""
    before, dot, index = text.rpartition(".")
    if not re.fullmatch(r"-\d+", index):
        return text
    front = rf"(?:.*\.)?{glob(before).pattern}\." if dot else ""
    last: dict[str, int] = {}
    for layer in layers:
        if match := re.fullmatch(rf"({front})(\d+)(?:\..*)?", layer.path):
            last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    counted = {largest + 1 + int(index) for largest in last.values()}
    return f"{before}{dot}{counted.pop()}" if len(counted) == 1 and min(counted) >= 0 else text


def _sequence_hint(tokens: Sequence[str], layers: Sequence[Layer]) -> str:
    """Say which word of a sequence is at fault."""
    modules: list[Layer | Ancestor] = [*layers, *(ancestor for layer in layers for ancestor in layer.ancestors)]
    arrays = selects_any(f"**.{tokens[-1]}", layers)
    for token in tokens:
        if not _selects_any_of(token, modules) and not (token is tokens[-1] and arrays):
            near = did_you_mean(token, _words(layers))
            return f'nothing in the model is "{token}"' + (f"; {near}" if near else "")
    if arrays and not _selects_any_of(tokens[-1], layers):
        return f'for arrays of that name write "{" ".join((*tokens[:-1], f"**.{tokens[-1]}"))}"'
    outer = " inside ".join(f'a "{token}"' for token in reversed(tokens))
    return f"each word names something, but there is no {outer[2:]}"


def _words(layers: Sequence[Layer]) -> Iterable[str]:
    """Words that would select something."""
    for layer in layers:
        yield layer.kind
        yield layer.path
        classes = [layer.cls, *(ancestor.cls for ancestor in layer.ancestors)]
        yield from (cls.__name__ for cls in classes if cls.__module__ != "builtins")


def no_mapping(rules: Any) -> str:
    """Return the message for something that is not a mapping and was to be rules."""
    head = f"rules must be a mapping from selectors to schemes, not {shown(rules)}."
    if isinstance(rules, str):
        every = f'for every layer write {{"*": "{rules}"}}'
        return message(head, f'write ix.load_rules("{rules}")' if is_rule_file(rules) else every)
    if isinstance(rules, Sequence) and all(isinstance(rule, Sequence) and len(rule) == 2 for rule in rules):
        return message(head, "write dict(rules)")
    return message(head, 'write {"Linear": "he_normal"}, or {"*": "he_normal"} for every layer')


def by_name(selector: Selector, hint: str) -> str:
    """Return what to pass where a selector that has the form of a class meets layers of which only names are known."""
    value = selector.value
    name = value.__name__ if isinstance(value, type) else selector.text
    words = name.split() if isinstance(value, str | type) else []
    of_class = bool(words) and all(word.isidentifier() and word[0].isupper() for word in words)
    return f"only names are known here, not classes; {hint}" if hint and of_class else ""


def no_layers(layers: Sequence[Layer], model: type) -> str:
    """Return the message for a model without a layer that initax knows."""
    arrays = [(layer, parameter) for layer in layers for parameter in layer.parameters]
    if not arrays:
        return message(
            f"the model holds no array: {model.__name__}.",
            "a model is an Equinox module, or a pytree of arrays, jax.ShapeDtypeStruct or shape tuples",
        )
    unknown = [layer for layer in layers if layer.kind == UNDECLARED]
    return message(
        f"the model holds no layer that initax knows: {model.__name__}.",
        *(array_text(layer, parameter, parameter.excluded) for layer, parameter in arrays[:6]),
        *(declaration(unknown[0]) if unknown else ()),
    )


def selector_of(layer: Layer) -> str:
    """Return what selects the layers of a kind that hold running statistics."""
    if layer.kind == "Norm":
        return layer.kind
    root, dot, _ = layer.path.partition(".")
    return f"{root}.**" if dot else root


def remedy(layer: Layer, parameter: Parameter, *, is_named: bool) -> tuple[str, ...]:
    """Return the lines that declare an array, or restate the axes of one that a rule names."""
    lines = declaration(layer)
    reason = parameter.excluded
    if not is_named or reason is None or reason.hint or is_plain(layer.cls):
        return lines
    pattern = guess_pattern(parameter, layer, layer.parameters)
    return (*lines, f'or restate its axes in the rule: ix.Scheme(..., axes="{pattern}")')


def instead(rule: str, rows: Sequence[Kept], paths: Collection[str], *, zeros: bool = False) -> str:
    """Return what to write in place of a rule that draws nothing.

    Args:
        rule: the rule.
        rows: what it keeps.
        paths: the paths of all arrays.
        zeros: whether its weights are zero.
    """
    if any(row.reason.why is Why.NORM for row in rows):
        if zeros:
            return f'write {{"{rule}": {{"scale": "zeros"}}}}; norms start with {{"scale": "ones", "bias": "zeros"}}'
        return f'write {{"{rule}": {{"scale": "ones", "bias": "zeros"}}}}, or "default"'
    learned = [row.parameter.name for row in rows if is_learned_input(row.parameter)]
    if learned:
        roles = mapping_text(dict.fromkeys(learned, '"embedding"'))
        return f"learned positions and tokens are no biases: ix.register_layer(..., roles={roles})"
    if any(row.reason.why is Why.FOLLOWS for row in rows):
        return f'for the layers inside write {{"{rule} *": ...}}'
    owners = [row.reason.owner for row in rows if row.reason.why is Why.TIED]
    known = [owner for owner in owners if owner is not None and owner in paths]
    return f'select the layer that owns it: "{known[0].rpartition(".")[0] or "*"}"' if known else ""


def cover(left: Iterable[tuple[Layer, Any, Any]], selected: Collection[str], drawn: Collection[str]) -> str:
    """Return the line for arrays that no rule covers, where `default="error"` asks for all of them.

    Args:
        left: the arrays, with their layers.
        selected: paths of kept arrays that a rule selects.
        drawn: paths of the arrays that are drawn.
    """
    layers = {layer.path: layer for layer, parameter, _ in left if parameter.path in selected}
    if not layers:
        return 'add a rule for them, or {"*": None} in front to keep what the others do not select'
    whole = [
        path for path, layer in layers.items() if path and not any(array.path in drawn for array in layer.parameters)
    ]
    rules = mapping_text(dict.fromkeys(whole, "None"))
    kept = f"keep them with rules behind the others: {rules}; or " if whole else ""
    return f"{kept}say what their axes are: ix.Scheme(..., axes=...), inputs=... or ix.register_layer(...)"


def no_row(path: Any, paths: Sequence[str]) -> str:
    """Return the message for what is not the path of an array of a plan and was to be one."""
    if not isinstance(path, str):
        line = "write plan.draws or plan.kept for all of them, in the order of the model"
        return message(f"plan[...] takes the path of an array, not {shown(path)}.", line)
    inside = [other for other in paths if other.startswith(f"{path}.")]
    near = did_you_mean(path, paths) or f"arrays: {listing(paths, 6)}"
    return message(f'the model has no array "{path}".', f"it holds: {listing(inside, 6)}" if inside else near)


def no_plan_to_compare(other: Any) -> str:
    """Return the message for something that is not a plan and was to be compared with one."""
    line = "plan.diff(ix.plan(model, rules))"
    if isinstance(other, str | bytes | Mapping):
        line = "read it first: plan.diff(ix.Plan.from_json(text, model))"
    return message(f"a plan is compared with another plan, not with {shown(other)}.", line)


def no_stored_plan(text: Any, error: Exception | None) -> str:
    """Return the message for something that is not a stored plan."""
    head = f"this is not a stored plan: {shown(text)}."
    if isinstance(text, os.PathLike) or (isinstance(text, str) and re.fullmatch(r"[^\n{}]+\.\w+", text)):
        line = f'ix.Plan.from_json(pathlib.Path("{os.fspath(text)}").read_text(), model)'
        return message(head, "from_json takes the text and not its path", line)
    if hasattr(text, "read"):
        return message(head, "from_json takes the text and not the file: ix.Plan.from_json(file.read(), model)")
    if isinstance(text, Mapping):
        return message(head, "from_json takes the text: ix.Plan.from_json(json.dumps(stored), model)")
    why = f"{type(error).__name__}: {error}" if isinstance(error, ValueError | KeyError) else ""
    return message(head, why, "from_json takes what plan.to_json() returned: ix.Plan.from_json(plan.to_json(), model)")


def array_text(layer: Layer, parameter: Parameter, reason: Reason | None = None) -> str:
    """Return an array as errors list it."""
    inside = f" of {layer.cls.__name__}"
    return f"{path_text(parameter.path)} {parameter.shape}{inside}" + (f": {reason}" if reason else "")


def alone(rule: str, scheme: Scheme, parameter: Parameter) -> str:
    """Return the line for a rule that names an array, and whose scheme speaks of one other role alone."""
    parts = [(role, part) for role, part in scheme.parts.items() if part is not None]
    if len(parts) != 1 or parts[0][0] not in WEIGHT_ROLES or parameter.role not in WEIGHT_ROLES:
        return ""
    role, part = parts[0]
    return f'it is a {parameter.role} here and no {role}: write {{"{rule}": {written(part.spec())}}}'


def without_gate(parameter: Parameter, gate: str, layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return the lines for an array without a gate: which layers of the model have it, and how a bias is set else.

    Args:
        parameter: the array.
        gate: the gate.
        layers: the layers of the model.
    """
    having = [layer for layer in layers if any(gate in array.gates for array in layer.parameters)]
    rules = mapping_text(dict.fromkeys((path_text(layer.path) for layer in having[:4]), "..."))
    line = f'for values of your own: {{"{parameter.path}": ("constant", {{"value": [...]}})}}'
    return (
        f"select what has one: {rules}" if having else f"no layer of this model has a {gate} gate",
        f"{line}, {count(parameter.shape[-1], 'number')}" if parameter.shape and parameter.path else "",
    )
