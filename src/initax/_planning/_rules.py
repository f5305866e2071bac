"""Rules: selectors and the schemes they choose. The last rule that matches an array wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from initax._errors import RuleError, SchemeError, message, shown
from initax._model._parameter import Layer, Parameter
from initax._planning._hints import no_array, unmatched
from initax._planning._selectors import Selector, is_beside_weights, read_selector
from initax.schemes._scheme import Scheme, as_scheme


@dataclass(frozen=True, slots=True)
class Rule:
    """One selector and its scheme.

    Attributes:
        selector: the selector.
        scheme: what it draws; `None` keeps what is selected.
        roles: the roles that it speaks of, where it has no scheme.
    """

    selector: Selector
    scheme: Scheme | None
    roles: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        """How the selector is shown."""
        return self.selector.text

    def is_for(self, layer: Layer, parameter: Parameter) -> bool:
        """Return whether it is for an array of a residual branch: scales are selected where it speaks of scales alone.

        What a norm has stays with the rules before it where it says nothing of it.
        """
        roles = self.roles if self.scheme is None else frozenset(self.scheme.parts)
        role = parameter.role or "weight"
        if is_beside_weights(layer, parameter):
            return "scale" in roles and role in roles
        return not roles or not roles <= {"scale"}


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


def _read(value: Any, scheme: Any) -> Rule:
    selector = read_selector(value)
    try:
        return Rule(selector, None if scheme is None else as_scheme(scheme))
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
        reach: for each rule, path of an array that it selects → whether it names it; in order.
        shadowed: rules that select arrays and decide none, with the rules that do.
    """

    choices: Mapping[str, Choice]
    reach: tuple[Mapping[str, bool], ...]
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
        SchemeError: a scheme speaks of an array that nothing it is chosen for has.
    """
    choices: dict[str, Choice] = {}
    reach = tuple(_reach(rule, layers, aliases, hint) for rule in rules)
    for rule, found in zip(rules, reach, strict=True):
        whole, single = Choice(rule, is_named=False), Choice(rule, is_named=True)
        choices |= {path: single if is_named else whole for path, is_named in found.items()}
    shadowed = []
    for rule, found in zip(rules, reach, strict=True):
        deciding = {id(choices[path].rule): choices[path].rule for path in found}
        if found and id(rule) not in deciding:
            shadowed.append((rule, tuple(deciding.values())))
    return Matching(choices, reach, tuple(shadowed))


def _reach(rule: Rule, layers: Sequence[Layer], aliases: Mapping[str, str], hint: str) -> dict[str, bool]:
    """The arrays that a rule selects, each with whether it names it."""
    names, ends_open = rule.selector.names, rule.selector.ends_open
    whole = [layer for layer in layers if _applies(rule, layer) or _owns(rule, layer)]
    found = {each.path: False for layer in whole for each in layer.parameters}
    own = list(whole)
    if names is not None and not (ends_open and whole):
        for layer in layers:
            named = [each for each in layer.parameters if names(layer, each)]
            if rule.selector.part:
                named = [each for each in named if rule.is_for(layer, each)]
            arrays = {each.path: not ends_open for each in named}
            if arrays:
                found |= arrays
                own.append(layer)
    if not own:
        raise RuleError(message(unmatched(rule.selector, layers, aliases), _by_name(rule, hint)))
    return said(rule.text, rule.scheme, own, found)


def _owns(rule: Rule, layer: Layer) -> bool:
    """Whether a rule that speaks of arrays alone selects the container of an array that is a layer by itself."""
    if rule.scheme is None or rule.scheme.parts or not rule.scheme.arrays or not layer.ancestors:
        return False
    container, array = layer.ancestors[-1], layer.path.rpartition(".")
    if container.path != array[0] or [each.path for each in layer.parameters] != [layer.path]:
        return False
    around = Layer(path=container.path, kind="", cls=container.cls, parameters=(), ancestors=layer.ancestors[:-1])
    return isinstance(rule.selector.value, str | type) and rule.selector.matches(around)


def said(text: str, scheme: Scheme | None, layers: Sequence[Layer], found: Mapping[str, bool]) -> dict[str, bool]:
    """Return the arrays, of those that are selected, of which a scheme says something.

    Args:
        text: the rule, for errors.
        scheme: its scheme.
        layers: the layers that are selected, in whole or in part.
        found: path of each array that is selected → whether the selector names it.

    Raises:
        SchemeError: the scheme speaks of an array that is not among them.
    """
    if scheme is None or not scheme.arrays:
        return dict(found)
    arrays = [each for layer in layers for each in layer.parameters if each.path in found]
    names = dict.fromkeys(each.name for each in arrays)
    for key in scheme.arrays:
        if key not in names:
            raise SchemeError(no_array(text, key, tuple(names)))
    by_key = {each.path: True for each in arrays if each.name in scheme.arrays}
    return {**found, **by_key} if scheme.parts else by_key


def _applies(rule: Rule, layer: Layer) -> bool:
    try:
        return rule.selector.matches(layer)
    except Exception as error:
        raise RuleError(
            message(
                f'the selector {rule.text} failed on layer "{layer.path}": {type(error).__name__}: {error}',
                "a selector function takes an ix.Layer and returns whether it is selected",
            )
        ) from error


def _by_name(rule: Rule, hint: str) -> str:
    """What to pass where a selector that has the form of a class meets layers of which only names are known."""
    value = rule.selector.value
    name = value.__name__ if isinstance(value, type) else rule.text
    words = name.split() if isinstance(value, str | type) else []
    of_class = bool(words) and all(word.isidentifier() and word[0].isupper() for word in words)
    return f"only names are known here, not classes; {hint}" if hint and of_class else ""
