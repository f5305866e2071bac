"""Several rule maps with a name each, told from one: a rule map has selectors for keys, a scheme has roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from initax._errors import InitaxError, RuleError
from initax._model._survey import Survey, arrays_of
from initax._planning._plan import Plan, plan
from initax._planning._rules import match, read_rules
from initax._text import written
from initax.schemes._scheme import WORDS


def named_rules(verb: str, rules: Any, survey: Survey) -> dict[str, Any] | None:
    """Return the rule maps by name where `rules` is several, and `None` where it is one rule map.

    A mapping with roles for keys, or names of the model's arrays, is a scheme. Any other in which some key selects
    something in the model is a rule map.

    Args:
        verb: the function that was called, for an error.
        rules: what it was given.
        survey: the model.

    Raises:
        RuleError: some values are rule maps and others are schemes.
    """
    if not isinstance(rules, Mapping):
        return None
    maps = {
        name: value for name, value in rules.items() if isinstance(value, Mapping) and not _is_scheme(value, survey)
    }
    whole = next((name for name, rule_map in maps.items() if any(_selects(key, survey) for key in rule_map)), None)
    if whole is None:
        return None
    schemes = [name for name in rules if name not in maps]
    if not schemes:
        return {str(name): value for name, value in rules.items()}
    rule = schemes[0]
    line = f'rules={{{_shown(whole)}: {written(rules[whole])}, "other": {{{_shown(rule)}: {written(rules[rule])}}}}}'
    raise RuleError(
        f"{verb}: {_shown(whole)} has a rule map for its value, and {_shown(rule)} a scheme: rules are one rule "
        "map, or several with a name each.",
        line,
    )


def named_plans(word: str, survey: Survey, maps: Mapping[str, Any], default: Any = None) -> dict[str, Plan]:
    """Return the plan of each rule map by name; an error says which one it comes from.

    Args:
        word: what the maps are to the user, for an error.
        survey: the model.
        maps: name of each rule map → its rules; the name of the only one may be empty.
        default: as for `ix.plan`.
    """
    plans = {}
    for name, rules in maps.items():
        try:
            plans[name] = plan(survey, rules, default=default)
        except InitaxError as error:
            raise type(error)(f'{word} "{name}": {error}' if name else str(error)) from error
    return plans


def _shown(key: Any) -> str:
    return f'"{key}"' if isinstance(key, str) else repr(getattr(key, "__name__", key))


def _is_scheme(value: Mapping[Any, Any], survey: Survey) -> bool:
    if {"name", "base"} & set(value):
        return True
    names = {parameter.name for _, parameter in arrays_of(survey)}
    return set(value) <= names.union(WORDS)


def _selects(selector: Any, survey: Survey) -> bool:
    try:
        match(read_rules({selector: None}), survey.layers, survey.aliases)
    except InitaxError:
        return False
    return True
