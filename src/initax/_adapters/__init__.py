"""Adapters: a model of some framework → layers, and new arrays → a model. Nothing else in initax names a framework.

An adapter is loaded when a model holds something of its framework: nobody pays for what they don't use.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from initax._adapters._foreign_models import refuse_foreign
from initax._adapters._nodes import packages_of
from initax._adapters._pytree import Adapter
from initax._adapters._pytree import survey as _survey
from initax._adapters._variables import Readings, are_variables, survey_variables, take_apart
from initax._errors import ModelError, message
from initax._math._keys import as_key
from initax._model._survey import Survey

ADAPTERS = {
    "equinox": "initax._adapters._equinox",
    "flax.core": "initax._adapters._linen_boxes",
    "flax.nnx": "initax._adapters._nnx",
    "klax": "initax._adapters._klax",
}
"""Package that a node's class, or one of its bases, comes from → the module that describes such nodes."""

KEYS = "flax.nnx"
"""The framework that has sources of random keys of its own."""

LINEN = "initax._adapters._linen"
"""Linen's modules are no nodes: they stand apart from their variables and are named by `module=`."""


def key_of(source: Any) -> Any:
    """Return the random key that a framework's own source of keys gives next; anything else as it is."""
    adapter = _source_of(source)
    return source if adapter is None else adapter.key_of(source)


def is_key_source(source: Any) -> bool:
    """Return whether this is a framework's own source of random keys."""
    return _source_of(source) is not None


def check_key(source: Any) -> None:
    """Raise if `source` is neither a JAX key nor a framework's source of keys. Nothing is taken from a source.

    Raises:
        KeyTypeError: it is neither.
    """
    if _source_of(source) is None:
        as_key(source)


def _source_of(source: Any) -> Any:
    """The adapter whose framework calls this a source of random keys, or `None`."""
    if KEYS not in packages_of(type(source)):
        return None
    adapter = importlib.import_module(ADAPTERS[KEYS])
    return adapter if adapter.gives_keys(source) else None


def survey(model: Any, *, module: Any = None, inputs: Any = None, forward: Callable[..., Any] | None = None) -> Survey:
    """Return what initax finds in a model: its layers, and how to write arrays back.

    Args:
        model: the model.
        module: where the model is variables of a module that stands apart from them, that module.
        inputs: what the module is called on.
        forward: how it is called, where a plain call is not it.

    Raises:
        ModelError: two arrays have the same dotted path, the module does not go with the model and the inputs, or what
            was passed is no model.
    """
    refuse_foreign(model)
    if module is not None or (inputs is not None and hasattr(model, "apply_fn")):
        linen = importlib.import_module(LINEN)
        module = linen.module_of(model) if module is None else module
        if module is not None:
            found: Survey = linen.survey(model, module, inputs, forward)
            return found
    if are_variables(model):
        hint = _how_to_tell(model)
        named = survey_variables(take_apart(model), Readings(hint=hint))
        named.hint = hint
        return named
    _refuse_module(model)
    return _survey(model, _adapters_of)


def _how_to_tell(model: Any) -> str:
    """Return what to pass so that classes are known, too: a train state carries its module."""
    carried = getattr(getattr(model, "apply_fn", None), "__self__", None)
    if "flax.linen" in packages_of(type(carried)):
        return "pass what the Linen module is called on: inputs=x"
    return "pass the Linen module and what it is called on: module=module, inputs=x"


def _refuse_module(model: Any) -> None:
    """Raise where the model is a module that holds no arrays itself."""
    if "flax.linen" in packages_of(type(model)):
        name = type(model).__name__
        raise ModelError(
            message(
                f"a Linen module holds no arrays: {name}.",
                f"variables = {name}(...).init(key, x); ix.reinit(variables, rules, key, module=module, inputs=x)",
            )
        )


@functools.lru_cache(maxsize=4096)
def _adapters_of(packages: frozenset[str]) -> tuple[Adapter, ...]:
    found: list[Any] = [importlib.import_module(name) for package, name in ADAPTERS.items() if package in packages]
    return tuple(found)
