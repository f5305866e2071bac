"""Errors for calls of networks whose arguments do not fit, with the call that may be meant."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from initax._errors import ArgumentError, ModelError, shown
from initax._math._keys import is_typed
from initax.convex._klax_names import ANSWERS

EXAMPLES = {"key": "jax.random.key(0)", "rngs": "nnx.Rngs(0)", "width_sizes": "[64, 64]"}
"""What stands in a line for an argument that is missing."""


def checked_arguments(
    cls: type, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call of a network by name, those left out included.

    Args:
        cls: the network.
        signature: the signature of its `__init__`.
        args: the positional arguments of the call.
        kwargs: those given by name.

    Raises:
        ArgumentError: the call lacks an argument, or has one too many.
        ModelError: an argument is one of klax's, or sizes of the hidden layers are not a list.
    """
    for name in kwargs:
        if name in ANSWERS and name not in signature.parameters:
            raise ModelError(f'{cls.__name__} has no argument "{name}", which klax\'s has.', *ANSWERS[name])
    try:
        bound = signature.bind(None, *args, **kwargs)
    except TypeError as error:
        raise ArgumentError(f"{cls.__name__}: {error}.", _meant(cls, signature, args, kwargs)) from None
    for name in ("width_sizes", "context_width_sizes"):
        sizes = bound.arguments.get(name)
        if not isinstance(sizes, Sequence | None) or isinstance(sizes, str):
            head = f"{cls.__name__}: {name} is a list, one size for each hidden layer, not {shown(sizes)}."
            raise ModelError(head, _meant(cls, signature, args, kwargs))
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "self"}


def _meant(cls: type, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The line with every argument that there must be, in its place."""
    parameters = list(signature.parameters.values())[1:]
    positional = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    values = dict(zip(positional, args, strict=False)) | dict(kwargs)
    beyond = [value for value in args[len(positional) :] if not is_typed(value)]
    if _is_size(values.get("width_sizes")):
        values["width_sizes"] = [values["width_sizes"], *filter(_is_size, beyond)]
    if _is_size(values.get("context_width_sizes")):
        values["context_width_sizes"] = [values["context_width_sizes"]]
    parts = []
    for parameter in parameters:
        name = parameter.name
        if name not in values and parameter.default is not parameter.empty:
            continue
        is_plain = name in values and isinstance(values[name], int | float | str | list | tuple)
        text = repr(values[name]) if is_plain else EXAMPLES.get(name, "..." if name in values else "1")
        parts.append(text if name in positional and name != "context_width_sizes" else f"{name}={text}")
    package = "ix.convex.nnx" if "rngs" in signature.parameters else "ix.convex"
    return f"write {package}.{cls.__name__}({', '.join(parts)})"


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
