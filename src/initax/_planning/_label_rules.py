"""Rules whose values are not schemes: labels, masks and axes of arrays for an optimizer, by selectors and roles."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from initax._errors import RuleError, count, did_you_mean, listing, shown, warn
from initax._math._axes import parse
from initax._model._parameter import ROLES, Layer, Parameter
from initax._model._survey import Survey
from initax._planning._rules import Rule, match
from initax._planning._selectors import read_selector


@dataclass(frozen=True, slots=True)
class LabelRule:
    """A selector and what it says of the arrays it selects.

    Attributes:
        rule: the selector.
        values: role or name of an array → what is said of it; `""` for all others.
    """

    rule: Rule
    values: Mapping[str, Any]

    def value(self, parameter: Parameter) -> tuple[Any, bool] | None:
        """Return what it says of an array and whether it names it; `None` where it says nothing."""
        # A word for a role is one, whatever the array is called: the scale of a norm may be called "weight".
        named = parameter.name not in ROLES and parameter.name in self.values
        role = parameter.role or ""
        key = parameter.name if named else role if role in self.values else ""
        return (self.values[key], named) if key in self.values else None


@dataclass(frozen=True, slots=True)
class Said:
    """The value that the last matching rule gives an array.

    Attributes:
        value: what it says.
        rule: its selector.
        is_named: whether the rule names the array, by its path or as a key.
    """

    value: Any
    rule: str
    is_named: bool


@dataclass(frozen=True, slots=True)
class Kind:
    """Values that a verb takes.

    Attributes:
        words: what they are, for errors.
        one: what one of them is.
        example: rules to paste.
        check: function from a value to itself in a form of its own, or to `None` where it is none.
        hint: what to write in the place of a wrong one.
        keys: keys of a mapping that is a value and not one of roles and arrays.
    """

    words: str
    one: str
    example: str
    check: Callable[[Any], Any]
    hint: str
    keys: frozenset[str] = field(default_factory=frozenset)


def _truth(value: Any) -> bool | None:
    return bool(value) if isinstance(value, bool | np.bool_) else None


def _label(value: Any) -> Any:
    return value if isinstance(value, Hashable) and not callable(value) else None


def _matrix(value: Any) -> Any:
    if isinstance(value, str):
        return {"axes": _pattern(value), "sizes": {}}
    if isinstance(value, Mapping):
        axes, sizes = value.get("axes"), value.get("sizes", {})
        fits = isinstance(axes, str) and isinstance(sizes, Mapping) and set(value) <= {"axes", "sizes"}
        return {"axes": _pattern(axes), "sizes": dict(sizes)} if fits and isinstance(axes, str) else None
    return _truth(value)


def _pattern(text: str) -> str:
    parse(text)
    return text


USES = ("input", "hidden", "output", "query", "tied", "fixed")
"""Words for what a weight is to a network whose width grows."""


def _use(value: Any) -> Any:
    if isinstance(value, str) and value in USES:
        return value
    if isinstance(value, str) and len(value) > 2 and value.isidentifier():
        return None  # a word, and not the name of an axis
    return None if isinstance(value, bool | np.bool_) else _matrix(value)


KINDS = {
    "labels": Kind(
        words="labels",
        one="a label",
        example='{"*": "adam", "Linear": {"weight": "muon"}}',
        check=_label,
        hint='a label is a string, as the keys of optax.multi_transform: "adam"',
    ),
    "mask": Kind(
        words="true or false",
        one="true or false",
        example='{"*": True, "Norm": False, "**.bias": False}',
        check=_truth,
        hint="write True or False",
    ),
    "muon": Kind(
        words="true, false or axes",
        one="true, false or axes",
        example='{"head": False}',
        check=_matrix,
        hint='write True, False, or the axes of each matrix: "i head o", {"axes": "(head o) i", "sizes": {"head": 8}}',
        keys=frozenset({"axes", "sizes"}),
    ),
    "mup": Kind(
        words="words or axes",
        one="a word for a weight or axes",
        example='{"head": "output"}',
        check=_use,
        hint=f'write one of {listing(USES)}; or axes, "i o"',
        keys=frozenset({"axes", "sizes"}),
    ),
}
"""Kind of rules → what their values are."""


def is_rule_file(rules: Any) -> bool:
    """Return whether this is the path of a file with rules."""
    return isinstance(rules, os.PathLike) or (isinstance(rules, str) and rules.lower().endswith((".toml", ".json")))


def read_label_rules(of: str, rules: Any, verb: str = "") -> tuple[LabelRule, ...]:
    """Return rules whose values are not schemes, in order.

    Args:
        of: the kind of rules: a key of `KINDS`.
        rules: the mapping.
        verb: who asks, for errors; the kind itself if left out.

    Raises:
        RuleError: they are not a mapping, a selector is of no known kind, or a value is not of that kind.
        AxesError: a pattern is malformed.
    """
    kind = KINDS[of]
    if not isinstance(rules, Mapping) or not rules:
        head = f"{verb or of}: rules must be a mapping from selectors to {kind.words}, not {shown(rules)}."
        raise RuleError(head, f"write {kind.example}")
    return tuple(_read(kind, verb or of, selector, value) for selector, value in rules.items())


def _read(kind: Kind, verb: str, selector: Any, value: Any) -> LabelRule:
    if isinstance(selector, tuple) and len(selector) == 2 and all(isinstance(each, str | type) for each in selector):
        name = selector[0].__name__ if isinstance(selector[0], type) else selector[0]
        line = f'write {{"{name}": {{"{selector[1]}": {value!r}}}}}'
        raise RuleError(f"{verb}: a selector can't be a pair, {selector!r}.", line)
    keys = value if isinstance(value, Mapping) and not set(value) & kind.keys else ()
    rule = Rule(read_selector(selector), None, frozenset(map(str, keys)))
    if not isinstance(value, Mapping) or set(value) & kind.keys:
        return LabelRule(rule, {"": _checked(kind, verb, rule.text, "", value)})
    if not value:
        raise RuleError(f'{verb}: rule "{rule.text}" says nothing.', f"write {kind.example}")
    return LabelRule(rule, {str(key): _checked(kind, verb, rule.text, str(key), each) for key, each in value.items()})


def _checked(kind: Kind, verb: str, rule: str, key: str, value: Any) -> Any:
    found = kind.check(value)
    if found is None:
        at = f'rule "{rule}"' + (f', key "{key}"' if key else "")
        raise RuleError(f"{verb}: {at}: {shown(value)} is not {kind.one}.", kind.hint)
    return found


def decide_labels(rules: Sequence[LabelRule], found: Survey) -> dict[str, Said]:
    """Return what the last rule that matches says of each array of a model, by path.

    A rule that decides nothing, because later ones decide all that it selects, is warned of.

    Raises:
        RuleError: a selector matches nothing, or a key is neither a role nor an array of what its rule selects.
    """
    matching = match([each.rule for each in rules], found.layers, found.aliases, found.hint)
    parameters = {each.path: each for layer in found.layers for each in layer.parameters}
    decided: dict[str, Said] = {}
    spoken: list[list[str]] = []
    for each, selected in zip(rules, matching.selected, strict=True):
        _refuse_unknown_keys(each, [parameters[path] for path in selected])
        said = {path: each.value(parameters[path]) for path in selected}
        own = {
            path: Said(value[0], each.rule.text, selected[path] or value[1])
            for path, value in said.items()
            if value is not None
        }
        decided |= own
        spoken.append(list(own))
    for each, paths in zip(rules, spoken, strict=True):
        winners = dict.fromkeys(decided[path].rule for path in paths)
        if paths and each.rule.text not in winners:
            warn(
                f'rule "{each.rule.text}" decides nothing: every array it selects is decided by '
                + listing(f'"{winner}"' for winner in winners)
                + ", which comes later; the last rule that matches wins"
            )
    _warn_of_roles(rules, matching.selected, [each for path, each in parameters.items() if path not in decided])
    return decided


def _warn_of_roles(
    rules: Sequence[LabelRule], selected: Sequence[Mapping[str, bool]], silent: Sequence[Parameter]
) -> None:
    """Warn of arrays that rules select and leave out, because these go by roles and theirs are not known."""
    by_role = [at for at, each in enumerate(rules) if set(each.values) & set(ROLES)]
    left = [
        each.path
        for each in silent
        if each.role is None and (each.excluded is None or each.excluded.is_about_axes)
        if any(each.path in selected[at] for at in by_role)
    ]
    if left:
        text = rules[by_role[-1]].rule.text
        warn(
            f'rule "{text}" goes by roles, and those of {count(len(left), "array")} are not known: '
            + listing((path or "(model)" for path in left), 4),
            f'name them, {{"{left[0] or "*"}": ...}}; or say what the model is called on, inputs=...',
        )


def _refuse_unknown_keys(each: LabelRule, selected: Sequence[Parameter]) -> None:
    names = dict.fromkeys(parameter.name for parameter in selected)
    for key in each.values:
        if key and key not in ROLES and key not in names:
            raise RuleError(
                f'rule "{each.rule.text}": "{key}" is neither a role nor an array of what the rule selects.',
                did_you_mean(key, (*names, *ROLES)),
                f"arrays: {listing(names)}",
                f"roles: {listing(ROLES)}",
            )


def rows_of(found: Survey) -> list[tuple[Layer, Parameter]]:
    """Return the arrays of a model with their layers."""
    return [(layer, each) for layer in found.layers for each in layer.parameters]
