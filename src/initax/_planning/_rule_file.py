"""Rules from a TOML or JSON file, with the same meaning as in Python."""

from __future__ import annotations

import bisect
import json
import operator
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from initax._errors import InitaxError, RuleError, SchemeError, listing, with_line
from initax._planning._label_rules import LABEL_KINDS, read_label_rules
from initax._planning._rule_file_hints import no_source_of_rules, no_text_of_rules, quoted, unquoted
from initax._planning._rules import read_rules
from initax.schemes._hints import unknown_role

Keys = tuple[str, ...]


@with_line("ix.load_rules", 'write ix.load_rules("rules.toml")')
def load_rules(source: str | os.PathLike[str], *, of: str = "schemes") -> dict[str, Any]:
    """Return the rules that a TOML or JSON file holds, or a text in one of these formats.

    Each key of the file is a selector: a name, a path, names in sequence. Its value is what a rule of Python says, with
    a list for a pair and `"keep"`, or JSON's `null`, for `None`. The last rule that matches an array decides it, so the
    order of the file counts; in TOML, tables come last.

    Args:
        source: path of a file whose name ends in `.toml` or `.json`; or the text itself.
        of: what the values are: `"schemes"`; or `"mask"`, `"labels"`, `"muon"` or `"mup"`, as `ix.mask`, `ix.labels`,
            `ix.muon` and `ix.mup` take them. These verbs take the path of such a file, too.

    Returns:
        The rules as a mapping of plain data, in the order of the file; `loaded | {"head": "zeros"}` adds another.

    Raises:
        RuleError: the text is not TOML or JSON, or holds no rules, or one twice, or values of another kind; the message
            says in which line.
        SchemeError: a scheme is unknown or malformed; the message says in which line, and under which key.
        AxesError: a restated pattern is malformed; the message says in which line.
        FileNotFoundError: there is no such file.

    Examples:
        >>> import initax as ix
        >>> ix.load_rules('''
        ... "*" = "glorot_uniform"
        ... Embedding = ["normal", { stddev = 0.02 }]
        ... head = "keep"
        ... ''')
        {'*': 'glorot_uniform', 'Embedding': ['normal', {'stddev': 0.02}], 'head': None}
    """
    if of not in ("schemes", *LABEL_KINDS):
        raise RuleError(f"load_rules: of must be one of {listing(('schemes', *LABEL_KINDS))}, not {of!r}.")
    name, text, is_json = _opened(source)
    stored = _parsed(text, name, is_json)
    if not isinstance(stored, dict) or not stored:
        raise RuleError(f"{name} holds no rules.", '{"Linear": "he_normal"}' if is_json else '"Linear" = "he_normal"')
    rules = {selector: _with_none(value) if of == "schemes" else value for selector, value in stored.items()}
    for selector, value in rules.items():
        hint = unquoted(selector, value, is_json=is_json)
        try:
            if of != "schemes":
                read_label_rules(of, {selector: value})
                continue
            if hint:  # a table is not a scheme but the rest of a path without quotes, or all rules in one table
                raise SchemeError(unknown_role(next(iter(value))))
            read_rules({selector: value})
        except InitaxError as error:
            rule = f'rule "{selector}": '
            text_of_error = str(error).removeprefix(f"{of}: ").removeprefix(rule)
            lines = dict(reversed(list(_json_keys(text)))) if is_json else _toml_lines(text)
            keys = _at_fault((selector,), value, text_of_error)
            known = next(keys[:depth] for depth in range(len(keys), 0, -1) if keys[:depth] in lines)
            inside = f', key "{".".join(keys[1:])}"' if len(keys) > 1 else ""
            raise type(error)(f"{name}, line {lines[known]}{inside}: {rule}{text_of_error}", hint) from error
    return rules


def _opened(source: str | os.PathLike[str]) -> tuple[str, str, bool]:
    """The name of the source for errors, its text, and whether it is JSON."""
    if isinstance(source, str) and ("\n" in source or not re.search(r"\.(toml|json)$", source, re.IGNORECASE)):
        is_json = source.lstrip().startswith("{")
        if not is_json and "=" not in source and source.strip():
            raise RuleError(no_text_of_rules(source))
        return "the text", source, is_json
    if not isinstance(source, str | os.PathLike):
        raise RuleError(no_source_of_rules(source))
    path = Path(source)
    if path.suffix.lower() not in (".toml", ".json"):
        raise RuleError(f"rules are loaded from a file .toml or .json, not {str(path)!r}.")
    return str(path), path.read_text("utf-8"), path.suffix.lower() == ".json"


def _parsed(text: str, name: str, is_json: bool) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once) if is_json else tomllib.loads(text)
    except json.JSONDecodeError as error:
        line, why = error.lineno, error.msg
    except tomllib.TOMLDecodeError as error:
        position = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(position[1]) if position else text.count("\n") + 1
        why = str(error).partition(" (at ")[0]
    except KeyError as error:
        line = [number for keys, number in _json_keys(text) if keys[-1] == error.args[0]][-1]
        why = f'"{error.args[0]}" stands there twice'
    rows = text.splitlines()
    row = rows[line - 1].strip() if line <= len(rows) else ""
    head = f"{name}, line {line}: this is not {'JSON' if is_json else 'TOML'}: {why}."
    raise RuleError(head, row, "" if is_json else quoted(row))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyError(next(key for key in keys if keys.count(key) > 1))
    return table


def _with_none(value: Any) -> Any:
    """The value, with `None` where something is to be kept: the rule's, a half of a pair, a role or an array."""
    match value:
        case "keep":
            return None
        case [weight, bias] if not (isinstance(weight, str) and isinstance(bias, Mapping)):
            return [_with_none(weight), _with_none(bias)]
        case Mapping() if "name" not in value:
            return {key: part if key in ("axes", "sizes") else _with_none(part) for key, part in value.items()}
    return value


def _at_fault(keys: Keys, value: Any, error: str) -> Keys:
    """The innermost key whose name or text is in the first line of an error, else the rule's own."""
    words = set(re.findall(r"[^\s\"',;:()]+", error.splitlines()[0]))
    fitting = [
        (len(inner), inner[-1] in words, inner)
        for inner, text in _inside(keys, value)
        if inner[-1] in words or text in words
    ]
    return max(fitting, key=operator.itemgetter(0, 1))[2] if fitting else keys


def _inside(keys: Keys, value: Any) -> Iterator[tuple[Keys, str]]:
    """Every key inside a value, with the text that stands there."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            first = inner[0] if isinstance(inner, list) and inner else inner
            yield (*keys, key), first if isinstance(first, str) else ""
            yield from _inside((*keys, key), inner)
    if isinstance(value, list):
        for inner in value:
            yield from _inside(keys, inner)


def _toml_lines(text: str) -> dict[Keys, int]:
    """The line of every key: that behind the longest beginning of the text that is TOML and lacks the key."""
    rows, lines, last = text.splitlines(), dict[Keys, int](), 0
    for number in range(1, len(rows) + 1):
        try:
            stored = tomllib.loads("\n".join(rows[:number]))
        except tomllib.TOMLDecodeError:
            continue
        for keys, _ in _inside((), stored):
            lines.setdefault(keys, last + 1)
        last = number
    return lines


def _json_keys(text: str) -> Iterator[tuple[Keys, int]]:
    """Every key of a text that is JSON, with the keys around it and its line."""
    starts = [0, *(newline.end() for newline in re.finditer("\n", text))]
    around: list[str | None] = []
    last: str | None = None
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"(\s*:)?|[][{}]', text):
        if token[0] in "{[":
            around.append(last)
            last = None
        elif token[0] in "}]":
            around.pop()
            last = None
        elif token[1]:
            last = json.loads(token[0][: -len(token[1])])
            outer = tuple(key for key in around if key is not None)
            yield (*outer, str(last)), bisect.bisect_right(starts, token.start())
