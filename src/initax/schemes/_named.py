"""`@scheme("normal")` over a typed function: its name, defaults, checks of arguments and printing come from there.

The function returns the parts of the scheme, an initializer for each role. An argument's type says how it is checked.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, ParamSpec, Union, get_args, get_origin, get_type_hints

from initax._errors import ArgumentError, SchemeError, listing
from initax.schemes._hints import parameters_of, unknown_argument
from initax.schemes._initializer import Args, choice, entries, gain_number, number, positive_number
from initax.schemes._scheme import Parts, Scheme, add_to_registry, as_scheme

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Check:
    """Marks a type of arguments with what checks them.

    Attributes:
        of: from the scheme's name, the argument's name and its value to the value that is meant; raises a
            `SchemeError` where there is none.
    """

    of: Callable[[str, str, Any], Any]


Number = Annotated[float, Check(number)]
NonNegative = Annotated[float, Check(functools.partial(number, least=0.0))]
Positive = Annotated[float, Check(positive_number)]
Share = Annotated[float, Check(functools.partial(number, least=0.0, most=1.0))]
Values = Annotated[Any, Check(entries)]
"""A number or an array of numbers."""
Gain = Annotated[Any, Check(lambda scheme, _, value: gain_number(scheme, value))]
"""A number, or an activation or its name, whose exact gain it is."""
SchemeLike = Annotated[Any, Check(lambda _scheme, _name, value: as_scheme(value))]
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
                raise ArgumentError(
                    f"ix.schemes.{function.__name__}: {error}.", *_how(names[0], factory, args)
                ) from None
            call.apply_defaults()
            types = _types(function)
            values = {key: _checked(names[0], key, value, types[key]) for key, value in call.arguments.items()}
            parts = function(**values)  # type: ignore[call-arg]
            if isinstance(parts, Scheme) and parts.is_named:
                return parts
            changed = tuple(pair for pair in values.items() if pair[1] != signature.parameters[pair[0]].default)
            return _named(parts, names[0], changed)

        for name in names:
            add_to_registry(name, factory)
        return factory

    return registered


def _how(name: str, factory: Callable[..., Any], args: tuple[Any, ...]) -> list[str]:
    """Return how the function of a scheme is called, where Python can't bind its arguments."""
    alone = f'a single array is drawn by ix.draw("{name}", key, shape)'
    parameters = parameters_of(factory)
    return [
        f"arguments: {listing(parameters)}" if parameters else "it has none",
        alone if any(hasattr(value, "dtype") or isinstance(value, tuple) for value in args) else "",
    ]


def _named(parts: Parts | Scheme, name: str, args: Args) -> Scheme:
    """A scheme under its name, and its initializers, where they have no other."""
    if isinstance(parts, Scheme):
        return parts.called(name, dict(args))
    named = {
        role: replace(part, name=name, args=args) if part is not None and not part.name else part
        for role, part in parts.items()
    }
    return Scheme.of(named, name, dict(args))


@functools.cache
def _types(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Type of each argument, with the marks that check it."""
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
    checks = [mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Check)]
    return checks[0].of(scheme, name, value) if checks else value
