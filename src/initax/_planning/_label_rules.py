"""Rules whose values are not schemes: labels, masks and axes of arrays for an optimizer, by selectors and roles."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from initax._errors import AxesError, RuleError, count, listing, shown, warn
from initax._math._axes import Axes, parse, resolve
from initax._model._parameter import ROLES, Parameter
from initax._model._survey import Survey, parameters_by_path
from initax._planning._hints import decided_later, no_array
from initax._planning._rules import Rule, match
from initax._planning._selectors import read_selector
from initax._text import path_text


@dataclass(frozen=True, slots=True)
class ArrayLabel:
    """The value that the last matching rule gives an array.

    Attributes:
        value: the value.
        rule: the selector of the rule.
        is_named: whether the rule names the array, by its path or as a key.
    """

    value: Any
    rule: str
    is_named: bool

    def axes(self, verb: str, parameter: Parameter) -> Axes:
        """Return the axes that the value, a pattern with sizes, gives an array.

        Args:
            verb: who asks, for errors.
            parameter: the array.

        Raises:
            AxesError: the pattern does not fit.
        """
        try:
            return resolve(self.value["axes"], parameter.shape, self.value["sizes"])
        except AxesError as error:
            raise AxesError(f'{verb}: rule "{self.rule}": {path_text(parameter.path)}: {error}') from None


@dataclass(frozen=True, slots=True)
class Kind:
    """Values that a verb takes.

    Attributes:
        words: what they are, for errors.
        word: what one of them is.
        example: rules to paste.
        check: function from a value to the form in which it is kept, or to `None` where it is not such a value.
        hint: what to write in the place of a wrong one.
        keys: keys of a mapping that is a value and not one of roles and arrays.
    """

    words: str
    word: str
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
        value = {"axes": value}
    if not isinstance(value, Mapping):
        return _truth(value)
    axes, sizes = value.get("axes"), value.get("sizes", {})
    if not isinstance(axes, str) or not isinstance(sizes, Mapping) or not set(value) <= {"axes", "sizes"}:
        return None
    parse(axes)
    return {"axes": axes, "sizes": dict(sizes)}


USES = ("input", "hidden", "output", "query", "tied", "fixed")
"""Words for what a weight is to a network whose width grows."""


def _use(value: Any) -> Any:
    if isinstance(value, str) and value in USES:
        return value
    if isinstance(value, str) and len(value) > 2 and value.isidentifier():
        return None  # a word, and not the name of an axis
    return None if isinstance(value, bool | np.bool_) else _matrix(value)


LABEL_KINDS = {
    "labels": Kind(
        words="labels",
        word="a label",
        example='{"*": "adam", "Linear": {"weight": "muon"}}',
        check=_label,
        hint='a label is a string, as the keys of optax.multi_transform: "adam"',
    ),
    "mask": Kind(
        words="true or false",
        word="true or false",
        example='{"*": True, "Norm": False, "**.bias": False}',
        check=_truth,
        hint="write True or False",
    ),
    "muon": Kind(
        words="true, false or axes",
        word="true, false or axes",
        example='{"head": False}',
        check=_matrix,
        hint='write True, False, or the axes of each matrix: "i head o", {"axes": "(head o) i", "sizes": {"head": 8}}',
        keys=frozenset({"axes", "sizes"}),
    ),
    "mup": Kind(
        words="words or axes",
        word="a word for a weight or axes",
        example='{"head": "output"}',
        check=_use,
        hint=f'write one of {listing(USES)}; or axes, "i o"',
        keys=frozenset({"axes", "sizes"}),
    ),
}
"""Kind of rules → what their values are."""


def read_label_rules(of: str, rules: Any, verb: str = "") -> tuple[Rule, ...]:
    """Return rules whose values are not schemes, in order.

    Args:
        of: the kind of rules: a key of `LABEL_KINDS`.
        rules: the mapping.
        verb: who asks, for errors; the kind itself if left out.

    Raises:
        RuleError: they are not a mapping, a selector is of no known kind, or a value is not of that kind.
        AxesError: a pattern is malformed.
    """
    kind = LABEL_KINDS[of]
    if not isinstance(rules, Mapping) or not rules:
        head = f"{verb or of}: rules must be a mapping from selectors to {kind.words}, not {shown(rules)}."
        raise RuleError(head, f"write {kind.example}")
    return tuple(_read(kind, verb or of, selector, value) for selector, value in rules.items())


def _read(kind: Kind, verb: str, selector: Any, value: Any) -> Rule:
    if isinstance(selector, tuple) and len(selector) == 2 and all(isinstance(part, str | type) for part in selector):
        name = selector[0].__name__ if isinstance(selector[0], type) else selector[0]
        line = f'write {{"{name}": {{"{selector[1]}": {value!r}}}}}'
        raise RuleError(f"{verb}: a selector can't be a pair, {selector!r}.", line)
    values = value if isinstance(value, Mapping) and not set(value) & kind.keys else {"": value}
    rule = Rule(read_selector(selector), None, {str(key): kind.check(part) for key, part in values.items()}, value)
    if not values:
        raise RuleError(f'{verb}: rule "{rule.text}" says nothing.', f"write {kind.example}")
    for key, part in values.items():
        if rule.labels[str(key)] is None:
            inside = f', key "{key}"' if key else ""
            raise RuleError(f'{verb}: rule "{rule.text}"{inside}: {shown(part)} is not {kind.word}.', kind.hint)
    return rule


def decide_labels(rules: Sequence[Rule], survey: Survey) -> dict[str, ArrayLabel]:
    """Return the label that the last matching rule gives each array of a model, by path.

    A rule that decides nothing, because later ones decide all that it selects, is warned of.

    Raises:
        RuleError: a selector matches nothing, or a key is neither a role nor an array of what its rule selects.
    """
    matching = match(rules, survey.layers, survey.aliases, survey.hint)
    arrays = parameters_by_path(survey)
    decided: dict[str, ArrayLabel] = {}
    labels_of: list[dict[str, ArrayLabel]] = []
    for rule, selected in zip(rules, matching.selected, strict=True):
        names = tuple(dict.fromkeys(arrays[path].name for path in selected))
        for key in rule.labels:
            if key not in ("", *ROLES, *names):
                raise RuleError(no_array(rule.text, key, names, of_scheme=False))
        labels = {path: _label_of(rule, arrays[path], is_named=is_named) for path, is_named in selected.items()}
        labels_of.append({path: label for path, label in labels.items() if label is not None})
        decided |= labels_of[-1]
    for rule, given in zip(rules, labels_of, strict=True):
        winners = dict.fromkeys(decided[path].rule for path in given)
        if given and rule.text not in winners:
            warn(decided_later(rule.text, "decides nothing: every array it selects", winners))
    _warn_of_roles(rules, matching.selected, [array for path, array in arrays.items() if path not in decided])
    return decided


def _label_of(rule: Rule, parameter: Parameter, *, is_named: bool) -> ArrayLabel | None:
    """The label that a rule gives an array that it selects, `None` where it gives none."""
    # A word for a role is one, whatever the array is called: the scale of a norm may be called "weight".
    is_key = parameter.name not in ROLES and parameter.name in rule.labels
    role = parameter.role or ""
    key = parameter.name if is_key else role if role in rule.labels else ""
    return ArrayLabel(rule.labels[key], rule.text, is_named or is_key) if key in rule.labels else None


def _warn_of_roles(
    rules: Sequence[Rule], selected: Sequence[Mapping[str, bool]], unlabelled: Sequence[Parameter]
) -> None:
    """Warn of arrays that rules select and leave out, because these go by roles and theirs are not known."""
    by_role = [index for index, rule in enumerate(rules) if set(rule.labels) & set(ROLES)]
    left = [
        array.path
        for array in unlabelled
        if array.role is None and (array.excluded is None or array.excluded.is_about_axes)
        if any(array.path in selected[index] for index in by_role)
    ]
    if left:
        text = rules[by_role[-1]].text
        warn(
            f'rule "{text}" goes by roles, and those of {count(len(left), "array")} are not known: '
            + listing(map(path_text, left), 4),
            f'name them, {{"{left[0] or "*"}": ...}}; or say what the model is called on, inputs=...',
        )
