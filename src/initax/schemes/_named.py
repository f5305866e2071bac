"""`@scheme("normal")` over a typed function: its name, defaults, checks of arguments and printing come from there.

The function returns the parts of the scheme, an initializer for each role. An argument's type says how it is checked:
it is annotated with a function from the names of scheme and argument and the value that was given to the one meant.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, ParamSpec, Union, get_args, get_origin, get_type_hints

from initax._errors import ArgumentError, SchemeError, listing
from initax.schemes._hints import parameters_of, unknown_argument
from initax.schemes._initializer import Args, choice, entries, gain_number, number, positive_number
from initax.schemes._scheme import NAMED, Parts, Scheme, as_scheme

P = ParamSpec("P")


Number = Annotated[float, number]
NonNegative = Annotated[float, functools.partial(number, least=0.0)]
Positive = Annotated[float, positive_number]
Share = Annotated[float, functools.partial(number, least=0.0, most=1.0)]
Values = Annotated[Any, entries]
"""A number or an array of numbers."""
Gain = Annotated[Any, gain_number]
"""A number, or an activation or its name, whose exact gain it is."""
SchemeLike = Annotated[Any, lambda _scheme, _name, value: as_scheme(value)]
"""Anything a rule accepts."""


def scheme(*names: str) -> Callable[[Callable[P, Parts | Scheme]], Callable[P, Scheme]]:
    """Register a function as the scheme of these names; the first one is printed.

    Args:
        *names: the names.
    """

    def registered(function: Callable[P, Parts | Scheme]) -> Callable[P, Scheme]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def factory(*args: P.args, **kwargs: P.kwargs) -> Scheme:
            for argument, value in kwargs.items():
                if argument not in signature.parameters:
                    raise SchemeError(unknown_argument(names[0], factory, argument, value))
            try:
                call = signature.bind(*args, **kwargs)
            except TypeError as error:
                listed = f"arguments: {listing(parameters_of(factory))}" if signature.parameters else "it has none"
                is_called = any(hasattr(value, "dtype") or isinstance(value, tuple) for value in args)
                line = f'a single array is drawn by ix.draw("{names[0]}", key, shape)' if is_called else ""
                raise ArgumentError(f"ix.schemes.{function.__name__}: {error}.", listed, line) from None
            call.apply_defaults()
            types = _types(function)
            values = {key: _checked(names[0], key, value, types[key]) for key, value in call.arguments.items()}
            parts = function(**values)  # type: ignore[call-arg]
            if isinstance(parts, Scheme) and parts.is_named:
                return parts
            changed = tuple(pair for pair in values.items() if pair[1] != signature.parameters[pair[0]].default)
            return _named(parts, names[0], changed)

        for name in names:
            NAMED[name] = factory
        return factory

    return registered


def _named(parts: Parts | Scheme, name: str, args: Args) -> Scheme:
    """A scheme under its name, and its initializers, where they have no other."""
    if not isinstance(parts, Scheme):
        named = {
            role: replace(part, name=name, args=args) if part is not None and not part.name else part
            for role, part in parts.items()
        }
        parts = Scheme.of(named)
    return parts.called(name, dict(args))


@functools.cache
def _types(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Type of each argument, with what checks it."""
    return get_type_hints(function, include_extras=True)


def _checked(scheme: str, name: str, value: Any, annotation: Any) -> Any:
    """A value as its type has it."""
    if get_origin(annotation) in (Union, types.UnionType):
        options = [option for option in get_args(annotation) if option is not types.NoneType]
        if value is None or len(options) > 1:
            return value
        annotation = options[0]
    if get_origin(annotation) is Literal:
        return choice(scheme, name, value, get_args(annotation))
    if annotation is bool and not isinstance(value, bool):
        raise SchemeError(f"{scheme}: {name} must be True or False, not {value!r}.")
    check, *_ = getattr(annotation, "__metadata__", (None,))
    return value if check is None else check(scheme, name, value)
