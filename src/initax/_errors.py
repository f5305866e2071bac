"""The exceptions initax raises, and the one builder of their messages.

Every message reads in the same order: what failed, the value that was seen, what exists instead (nearest first),
and a line to paste.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class InitaxError(Exception):
    """Base class of everything initax raises on purpose.

    Args:
        head: what failed.
        *lines: one fact a line: the value that was seen, what exists instead, what to write. Empty ones are dropped.
    """

    def __init__(self, head: str, *lines: str) -> None:
        super().__init__(message(head, *lines))


class AxesError(InitaxError, ValueError):
    """An axis pattern is malformed, or does not fit the array it is meant for."""


class ArgumentError(InitaxError, TypeError):
    """A call lacks an argument, or has one that the function does not take."""


class KeyTypeError(InitaxError, TypeError):
    """What was passed as a random key is not one JAX key."""


class SchemeError(InitaxError, ValueError):
    """A scheme is unknown, has wrong arguments, or cannot serve the parameter it was chosen for."""


class RuleError(InitaxError, ValueError):
    """The rules are malformed, select nothing, or leave something uncovered that must be covered."""


class ModelError(InitaxError, ValueError):
    """There is nothing in the model that initax knows how to initialize."""


class PlanError(InitaxError, ValueError):
    """A stored plan does not fit the model it is applied to, or cannot be stored."""


class DrawError(InitaxError, RuntimeError):
    """An array could not be drawn: no memory for it, or other processes that were to draw something else."""


class InitaxWarning(UserWarning):
    """Something was decided that the user may not have meant; the plan shows it too."""


def message(head: str, *lines: str) -> str:
    """Return one error text: the failure, then one indented line per fact. Empty lines are dropped."""
    return "\n".join([head, *(f"  {line}" for line in lines if line)])


def nearest(name: str, options: Iterable[str], count: int = 3) -> list[str]:
    """Return the options that look most like `name`, best first, else those that begin with it, ignoring case."""
    folded: dict[str, str] = {}
    for option in options:
        folded.setdefault(option.lower(), option)
    close = difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.6)
    if not close and len(name) > 1:
        close = [option for option in folded if option.startswith(name.lower())][:count]
    return [folded[option] for option in close]


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return a `did you mean ...` line, or nothing where no option is near."""
    return meant(nearest(name, options))


def meant(names: Sequence[str]) -> str:
    """Return the line that asks whether one of some names was meant, or nothing where there are none."""
    return "did you mean " + " or ".join(f'"{name}"' for name in names) + "?" if names else ""


def alternatives(kind: str, name: object, options: Iterable[str], limit: int = 12) -> tuple[str, str]:
    """Return the lines that say what exists in place of an unknown name: `maps: abs, exp`, `did you mean "exp"?`.

    Args:
        kind: what the options are, in the plural.
        name: the unknown name.
        options: the names that exist.
        limit: how many of them to list.
    """
    names = list(options)
    return f"{kind}: {listing(names, limit)}", did_you_mean(str(name), names)


def count(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural where it has to be."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_of(items: Iterable[str], limit: int = 4) -> list[str]:
    """Return the first items, one a line, and where there are more a line with the count of the rest."""
    items = list(items)
    return [*items[:limit], f"… {len(items) - limit} more"] if len(items) > limit else items


def warn(head: str, *lines: str) -> str:
    """Warn the user, on the line that called initax, and return the text."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "initax":
        level, frame = level + 1, frame.f_back
    text = message(head, *lines)
    warnings.warn(text, InitaxWarning, stacklevel=level)
    return text


def shown(value: object) -> str:
    """Return a value and its type, the value only where it is short: a model's text fills pages."""
    text = repr(value)
    short = len(text) <= 100 and "\n" not in text and " at 0x" not in text
    return f"{text} ({type(value).__name__})" if short else f"an object of class {type(value).__name__}"


def listing(items: Iterable[str], limit: int = 12) -> str:
    """Return the items joined by commas, cut after `limit` with the count of the rest."""
    items = list(items)
    shown = ", ".join(items[:limit])
    return f"{shown}, … ({len(items) - limit} more)" if len(items) > limit else shown


ARGUMENTS_ELSEWHERE = {
    **dict.fromkeys(("rng", "rngs", "seed", "prng", "prng_key", "random_key", "random_state"), ("key", "keys")),
    **dict.fromkeys(("seeds", "rng_keys"), ("keys",)),
    **dict.fromkeys(("input", "x", "xs", "data", "batch", "sample", "example", "args"), ("inputs",)),
    **dict.fromkeys(("apply", "apply_fn", "call", "fn", "function"), ("forward", "run")),
    **dict.fromkeys(("net", "network", "params", "variables", "tree", "pytree"), ("model", "opt_state")),
    **dict.fromkeys(("init", "initializer", "initializers", "rule"), ("rules", "scheme", "schemes")),
    **dict.fromkeys(("selector", "selectors", "where", "filter", "filter_spec"), ("rules", "layer")),
    **dict.fromkeys(("state", "optimizer_state", "optimizer", "opt"), ("opt_state",)),
    **dict.fromkeys(("units", "dead", "indices", "index"), ("mask",)),
    **dict.fromkeys(("linen", "linen_module"), ("module",)),
    **dict.fromkeys(("fresh_state", "new_state"), ("fresh",)),
    **dict.fromkeys(("name", "names"), ("schemes", "scheme")),
    **dict.fromkeys(("mode", "parallel", "method"), ("how",)),
    **dict.fromkeys(("file", "filename", "save", "output"), ("path",)),
}
"""Names of arguments in other packages → what they may be called here."""

NOT_ARGUMENTS = {
    "dtype": "an array keeps its type: cast the model, before or after",
    **dict.fromkeys(
        ("sharding", "shardings", "out_shardings", "device"), "an array stays where it is: place the model first"
    ),
}
"""Arguments in other packages that nothing here has → what to do."""


def with_line(
    name: str, line: str | Callable[[Sequence[Any], Mapping[str, Any]], str]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for functions whose call raises with the line to write where Python can't bind its arguments.

    Args:
        name: the function, as a user writes it.
        line: the line; or a function from the positional and the other arguments of such a call to it.
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except TypeError:
                signature = inspect.signature(function)
                try:
                    signature.bind(*args, **kwargs)
                except TypeError as error:
                    to_write = line if isinstance(line, str) else line(args, kwargs)
                    raise ArgumentError(*_unbound(name, signature, args, kwargs, error), to_write) from None
                raise

        return checked

    return decorated


def _unbound(
    name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any], error: TypeError
) -> list[str]:
    """Return what a call has that the function does not take, or lacks."""
    parameters = signature.parameters
    takes = [key for key in parameters if key not in ("self", "cls")]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = next((key for key in kwargs if key not in parameters and not open_ended), None)
    if unknown is None:
        return [f"{name}: {error}."]
    free = takes[len(args) - (len(parameters) - len(takes)) :]
    alias = next((key for key in ARGUMENTS_ELSEWHERE.get(unknown, ()) if key in free and key not in kwargs), None)
    hint = f'here it is called "{alias}"' if alias else NOT_ARGUMENTS.get(unknown) or did_you_mean(unknown, takes)
    return [f'{name} has no argument "{unknown}".', f"arguments: {listing(takes)}", hint]
