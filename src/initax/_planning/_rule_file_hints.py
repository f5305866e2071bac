"""Hints for errors about files of rules: what a source or a line may have meant, and what to write."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from initax._errors import message, shown
from initax.schemes._scheme import WORDS


def is_rule_file(rules: Any) -> bool:
    """Return whether this is the path of a file with rules."""
    return isinstance(rules, os.PathLike) or (isinstance(rules, str) and rules.lower().endswith((".toml", ".json")))


def no_source_of_rules(source: Any) -> str:
    """Return the message for something that is neither a path nor a text and was to hold rules."""
    head = f"rules are loaded from the path of a file .toml or .json, or from a text, not from {shown(source)}."
    name = getattr(source, "name", None)
    if hasattr(source, "read"):
        read = "file.read().decode()" if "b" in str(getattr(source, "mode", "")) else "file.read()"
        return message(
            f"rules are loaded from the path of a file or from a text, not from an open file: {type(source).__name__}.",
            f'ix.load_rules("{name}")' if is_rule_file(name) else f"ix.load_rules({read})",
        )
    if isinstance(source, bytes | bytearray):
        return message(head, "ix.load_rules(source.decode())")
    if isinstance(source, Mapping):
        return message(head, "a mapping is rules already: ix.reinit(model, rules, key)")
    return message(head, 'ix.load_rules("rules.toml")')


def no_text_of_rules(text: str) -> str:
    """Return the message for a text without any rule in it, which may be a word or another file's name."""
    head = f"rules are loaded from a file .toml or .json, or from a text, not from {text!r}."
    return message(head, 'ix.load_rules("rules.toml")')


def quoted(line: str) -> str:
    """Return a line of TOML with quotes around its selector and its scheme's name, where that makes it one."""
    key, _, value = (part.strip() for part in line.partition("="))
    selector = key if key[:1] in "\"'" or re.fullmatch(r"[\w-]+", key) else f'"{key}"'
    scheme = f'"{value}"' if re.fullmatch(r"[A-Za-z]\w*", value) else value
    try:
        tomllib.loads(f"{selector} = {scheme}")
    except tomllib.TOMLDecodeError:
        return ""
    return f"write {selector} = {scheme}" if (selector, scheme) != (key, value) else ""


def unquoted(selector: str, value: Any, *, is_json: bool) -> str:
    """Return what to write where tables stand in tables: around all rules, or, in TOML, for a path without quotes."""
    keys = [selector]
    while isinstance(value, Mapping) and value and not {"base", "name", *WORDS} & set(value):
        key, value = next(iter(value.items()))
        keys.append(key)
    if len(keys) > 1 and selector == "rules":
        return "rules stand at the top, with no table [rules] around them"
    # One name of an array may stand in a table; an index, or a name in a name, is the rest of a path.
    is_path = len(keys) > 2 or (len(keys) > 1 and keys[1].isdigit())
    return f'a path is written with quotes: "{".".join(keys)}"' if is_path and not is_json else ""
