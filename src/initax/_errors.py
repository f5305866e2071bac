"""The exceptions initax raises, and the one builder of their messages.

Every message reads in the same order: what failed, the value that was seen, what exists instead (nearest first),
and a line to paste.
"""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable


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
    found = difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.6)
    if not found and len(name) > 1:
        found = [each for each in folded if each.startswith(name.lower())][:count]
    return [folded[each] for each in found]


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return a `did you mean ...` line, or nothing where no option is near."""
    found = nearest(name, options)
    return "did you mean " + " or ".join(f'"{each}"' for each in found) + "?" if found else ""


def count(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural where it has to be."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_of(items: Iterable[str], limit: int = 4) -> list[str]:
    """Return the first items, one a line, and where there are more a line with the count of the rest."""
    every = list(items)
    return [*every[:limit], f"… {len(every) - limit} more"] if len(every) > limit else every


def warn(head: str, *lines: str) -> None:
    """Warn the user, on the line that called initax."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "initax":
        level, frame = level + 1, frame.f_back
    warnings.warn(message(head, *lines), InitaxWarning, stacklevel=level)


def shown(value: object) -> str:
    """Return a value and its type, the value only where it is short: a model's text fills pages."""
    text = repr(value)
    short = len(text) <= 100 and "\n" not in text and " at 0x" not in text
    return f"{text} ({type(value).__name__})" if short else f"an object of class {type(value).__name__}"


def listing(items: Iterable[str], limit: int = 12) -> str:
    """Return the items joined by commas, cut after `limit` with the count of the rest."""
    every = list(items)
    shown = ", ".join(every[:limit])
    return f"{shown}, … ({len(every) - limit} more)" if len(every) > limit else shown
