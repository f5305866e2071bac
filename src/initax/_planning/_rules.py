"""Rules: selectors and the schemes they choose. The last rule that matches an array wins."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from initax._errors import RuleError, SchemeError
from initax._model._parameter import ROLES, WEIGHT_ROLES, Layer, Parameter
from initax._planning._hints import by_name, no_array, no_mapping, unmatched
from initax._planning._selectors import Selector, is_beside_weights, read_selector
from initax._text import mapping_text, written
from initax.schemes._scheme import Scheme, as_scheme


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One selector and its scheme; equal to itself alone.

    Attributes:
        selector: the selector.
        scheme: what it draws; `None` keeps what is selected.
        labels: where it has labels for arrays and no scheme, role or name of an array → its label; `""` for all others.
        value: what the user wrote beside the selector; an ellipsis where a selector stands alone.
    """

    selector: Selector
    scheme: Scheme | None
    labels: Mapping[str, Any] = field(default_factory=dict)
    value: Any = ...

    @property
    def text(self) -> str:
        """How the selector is shown."""
        return self.selector.text

    def is_for(self, layer: Layer, parameter: Parameter) -> bool:
        """Return whether it is for an array of a residual branch, by the array's role.

        Scales, and the arrays of a norm, stay with earlier rules unless it has the key `scale`.
        """
        keys = self.labels if self.scheme is None else self.scheme.parts
        roles, role = set(keys) & set(ROLES), parameter.role or "weight"
        if is_beside_weights(layer, parameter):
            return {"scale", role} <= roles
        return not roles or bool(roles & {*WEIGHT_ROLES, *(["bias"] if role == "bias" else [])})


def rule_text(rule: Rule | None) -> str:
    """Return the rule that chose a scheme as errors and plans show it; without one the scheme is that of `default=`."""
    return "default=" if rule is None else rule.selector.text


def read_rules(rules: Any) -> tuple[Rule, ...]:
    """Return a rule map as rules, in order.

    Raises:
        RuleError: it is not a mapping, or a selector is of no known kind.
        SchemeError: a scheme is unknown or malformed.
    """
    if not isinstance(rules, Mapping):
        raise RuleError(no_mapping(rules))
    return tuple(_read(selector, scheme) for selector, scheme in rules.items())


def _read(value: Any, scheme: Any) -> Rule:
    selector = read_selector(value)
    try:
        return Rule(selector, None if scheme is None else as_scheme(scheme), value=scheme)
    except SchemeError as error:
        raise type(error)(f'rule "{selector.text}": {error}') from None


@dataclass(frozen=True, slots=True)
class Choice:
    """The rule that decides an array.

    Attributes:
        rule: the rule.
        is_named: it names this array, by its path or in its scheme; else it selects the layer, and the array's role
            says what is drawn.
    """

    rule: Rule
    is_named: bool


@dataclass(frozen=True, slots=True)
class Matching:
    """Which rule decides each array.

    Attributes:
        choices: path of an array → the rule that decides it; those that no rule selects are left out.
        selected: for each rule, path of an array that it selects → whether it names it; in order.
        shadowed: rules that select arrays and decide none, with the rules that do.
    """

    choices: Mapping[str, Choice]
    selected: tuple[Mapping[str, bool], ...]
    shadowed: tuple[tuple[Rule, tuple[Rule, ...]], ...]


def match(rules: Sequence[Rule], layers: Sequence[Layer], aliases: Mapping[str, str], hint: str = "") -> Matching:
    """Return which rule decides each array: the last one that matches.

    Args:
        rules: the rules, in order.
        layers: the layers.
        aliases: path at which a layer is reached again → path at which it is listed.
        hint: where only names are known of the layers and not their classes, what to pass for these.

    Raises:
        RuleError: a rule selects nothing, or a predicate fails.
        SchemeError: a scheme names an array that nothing it is chosen for has.
    """
    choices: dict[str, Choice] = {}
    selected = tuple(_selected(rule, rules, layers, aliases, hint) for rule in rules)
    for rule, arrays in zip(rules, selected, strict=True):
        whole, single = Choice(rule, is_named=False), Choice(rule, is_named=True)
        choices |= {path: single if is_named else whole for path, is_named in arrays.items()}
    shadowed = []
    for rule, arrays in zip(rules, selected, strict=True):
        deciding = dict.fromkeys(choices[path].rule for path in arrays)
        if arrays and rule not in deciding:
            shadowed.append((rule, tuple(deciding)))
    return Matching(choices, selected, tuple(shadowed))


def _selected(
    rule: Rule, rules: Sequence[Rule], layers: Sequence[Layer], aliases: Mapping[str, str], hint: str
) -> dict[str, bool]:
    """The arrays that one of some rules selects, each with whether it names it."""
    names, ends_open = rule.selector.names, rule.selector.ends_open
    is_for_arrays = rule.scheme is not None and not rule.scheme.parts and bool(rule.scheme.arrays)
    whole = [layer for layer in layers if _applies(rule, layer) or (is_for_arrays and _owns(rule, layer))]
    selected = {array.path: False for layer in whole for array in layer.parameters}
    in_part = []
    if names is not None and not (ends_open and whole):
        for layer in layers:
            named = [array for array in layer.parameters if names(layer, array)]
            if rule.selector.part:
                named = [array for array in named if rule.is_for(layer, array)]
            if named:
                selected |= {array.path: not ends_open for array in named}
                in_part.append(layer)
    if not whole and not in_part:
        corrected = functools.partial(_corrected, rule, rules)
        text = unmatched(rule.selector, layers, aliases, corrected, of_scheme=not rule.labels)
        raise RuleError(text, by_name(rule.selector, hint))
    return decided_arrays(rule.text, rule.scheme, [*whole, *in_part], selected)


LONGEST = 100
"""Characters of the rules that an error shows; of longer ones it shows the wrong one alone."""


def _corrected(wrong: Rule, rules: Sequence[Rule], selector: str, role: str = "") -> str:
    """The line with the rules as they were written, and another selector for one of them; nothing for `skip=`.

    Its value is for one role where one is given, unless it speaks of roles itself.
    """
    if wrong.value is ...:
        return ""
    value = written({role: wrong.value} if role and not isinstance(wrong.value, Mapping) else wrong.value)
    entries = {
        selector if rule is wrong else rule.text: value if rule is wrong else written(rule.value) for rule in rules
    }
    line, can_be_written = mapping_text(entries), all(isinstance(rule.selector.value, str | type) for rule in rules)
    if len(entries) == len(rules) and len(line) <= LONGEST and can_be_written:
        return f"write {line}"
    return f"write {mapping_text({selector: value})} in its place"


def _owns(rule: Rule, layer: Layer) -> bool:
    """Whether a rule for single arrays selects the container of an array that is a layer of its own."""
    if not layer.ancestors:
        return False
    container = layer.ancestors[-1]
    is_array = [array.path for array in layer.parameters] == [layer.path]
    if not is_array or container.path != layer.path.rpartition(".")[0]:
        return False
    owner = Layer(path=container.path, kind="", cls=container.cls, parameters=(), ancestors=layer.ancestors[:-1])
    return isinstance(rule.selector.value, str | type) and rule.selector.matches(owner)


def decided_arrays(
    text: str, scheme: Scheme | None, layers: Sequence[Layer], selected: Mapping[str, bool]
) -> dict[str, bool]:
    """Return the selected arrays that a scheme decides: all of them, or those that it names.

    Args:
        text: the rule, for errors.
        scheme: its scheme.
        layers: the layers that are selected, in whole or in part.
        selected: path of each array that is selected → whether the selector names it.

    Raises:
        SchemeError: the scheme names an array that is not among them.
    """
    if scheme is None or not scheme.arrays:
        return dict(selected)
    arrays = [array for layer in layers for array in layer.parameters if array.path in selected]
    names = dict.fromkeys(array.name for array in arrays)
    for key in scheme.arrays:
        if key not in names:
            raise SchemeError(no_array(text, key, tuple(names)))
    by_key = {array.path: True for array in arrays if array.name in scheme.arrays}
    return {**selected, **by_key} if scheme.parts else by_key


def _applies(rule: Rule, layer: Layer) -> bool:
    try:
        return rule.selector.matches(layer)
    except Exception as error:
        raise RuleError(
            f'the selector {rule.text} failed on layer "{layer.path}": {type(error).__name__}: {error}',
            "a selector function takes an ix.Layer and returns whether it is selected",
        ) from error
