"""Calls whose arguments Python can't bind: the error says the line to write."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from initax._errors import ModelError

P = ParamSpec("P")
R = TypeVar("R")


def with_line(
    name: str, line: Callable[[Sequence[Any], Mapping[str, Any]], str]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for functions whose call raises with the line to write where Python can't bind its arguments.

    Args:
        name: the function, as a user writes it.
        line: from the positional and the other arguments of such a call to the line.
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise ModelError(f"{name}: {error}.", line(args, kwargs)) from None
            return function(*args, **kwargs)

        return checked

    return decorated
