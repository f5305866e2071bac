"""Errors for misplaced arguments: another order, a plan in place of rules or model, a flattened state dict.

Each check answers with what was seen and the line that was meant. None of them stands in the way of a call that works.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._adapters import is_key_source
from initax._adapters._nodes import ARRAYS, holds_arrays
from initax._errors import (
    AxesError,
    InitaxError,
    KeyTypeError,
    ModelError,
    PlanError,
    RuleError,
    SchemeError,
    listing,
    shown,
)
from initax._math._keys import is_typed
from initax._text import mapping_text
from initax.schemes._initializer import Initializer
from initax.schemes._scheme import WORDS, Scheme


def is_key(value: Any) -> bool:
    """Return whether a value may be meant as a random key: a key, a legacy one, a seed, an `nnx.Rngs`."""
    legacy = isinstance(value, jax.Array | np.ndarray) and value.dtype == np.uint32
    seed = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_typed(value) or legacy or seed or is_key_source(value)


def _are_keys(value: Any) -> bool:
    return is_key(value) or (isinstance(value, list | tuple) and bool(value) and all(map(is_key, value)))


def _is_scheme(value: Any) -> bool:
    """Whether a value reads as a scheme by its form, be its words right or wrong."""
    match value:
        case str() | Scheme() | Initializer():
            return True
        case [first, _]:
            return (first is None or _is_scheme(first)) and not holds_arrays(value)
        case Mapping():
            return bool(value) and {"name", "base", *WORDS} >= set(map(str, value))
    return _is_function(value)


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not holds_arrays(value)


def _are_rules(value: Any) -> bool:
    """Whether every value of a mapping is a scheme, or keeps, and not all of them keep."""
    schemes = [scheme for scheme in value.values() if scheme is not None] if isinstance(value, Mapping) else []
    return bool(schemes) and all(map(_is_scheme, schemes))


def _are_maps_of_rules(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(_are_rules(scheme) for scheme in value.values())


def _may_be_model(value: Any) -> bool:
    """Whether it is none of the other arguments."""
    if value is None or isinstance(value, str | Scheme | Initializer) or is_key(value):
        return False
    return not _are_rules(value) and not _are_maps_of_rules(value)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(size, int | np.integer) for size in value)


def _is_type(value: Any) -> bool:
    if not isinstance(value, str | type | np.dtype) and not hasattr(value, "dtype"):
        return False
    try:
        return not isinstance(value, ARRAYS) and jnp.dtype(value) is not None
    except TypeError:
        return False


def _is_learning_rate(value: Any) -> bool:
    """Whether it is a number or a schedule."""
    if isinstance(value, (int, float, *ARRAYS)):
        return jnp.ndim(value) == 0
    return callable(value) and not holds_arrays(value)


def _holds_arrays(value: Any) -> bool:
    """Whether there is an array in it; JAX sorts the keys of a mapping, and those of rules may be of several types."""
    return any(map(holds_arrays, value.values() if isinstance(value, Mapping) else [value]))


Looks = Mapping[str, tuple[Callable[[Any], bool], type[InitaxError]]]
"""Name of an argument → whether a value looks like one, and the error where it stands elsewhere: the first one's."""

ARGUMENTS: Looks = {
    "key": (is_key, KeyTypeError),
    "keys": (_are_keys, KeyTypeError),
    "rules": (_are_rules, RuleError),
    "schemes": (_are_maps_of_rules, RuleError),
    "text": (lambda value: isinstance(value, str), PlanError),
    "scheme": (_is_scheme, SchemeError),
    "shape": (_is_shape, AxesError),
    "model": (_may_be_model, ModelError),
    "inputs": (lambda value: not (callable(value) and holds_arrays(value)), ModelError),
    "dtype": (_is_type, ModelError),
    "layer": (lambda value: isinstance(value, str), ModelError),
    "mask": (lambda value: not is_key(value) and not isinstance(value, str) and not callable(value), ModelError),
    "run": (_is_function, ModelError),
    "learning_rate": (_is_learning_rate, ModelError),
    "activation": (lambda value: isinstance(value, str) or _is_function(value), ModelError),
}

LABEL_ARGUMENTS: Looks = {
    "rules": (lambda value: not _holds_arrays(value), RuleError),
    "model": (_holds_arrays, ModelError),
}
"""The same where the values of rules are not schemes."""


def refuse_permuted(verb: str, looks: Looks = ARGUMENTS, /, **arguments: Any) -> None:
    """Raise where the arguments of a verb stand in another order than it takes them in.

    Args:
        verb: the function, as a user writes it.
        looks: what its arguments look like.
        **arguments: its arguments in its order, by name.

    Raises:
        InitaxError: the arguments are permuted; its class fits the first one that is misplaced.
    """
    names = tuple(arguments)
    if all(looks[name][0](value) for name, value in arguments.items()):
        return
    fits = {name: [looks[name][0](value) for value in arguments.values()] for name in names}
    for order in itertools.permutations(names):
        if not all(fits[name][index] for index, name in enumerate(order)):
            continue
        moved = [name for name, meant in zip(names, order, strict=True) if name != meant]
        error = next(error for name, (_, error) in looks.items() if name in moved)
        raise error(
            f"{verb} takes {listing(names)} in this order, and was given {listing(order)}.",
            *(f"{name} is {shown(arguments[name])}" for name in moved),
            f"write {verb}({', '.join(names)})",
        )


def refuse_no_rules(model: Any, rules: Any, default: Any) -> None:
    """Raise where there is no rule and nothing else that would draw, or a plan in place of the rules or the model.

    Raises:
        RuleError: there is no rule, or a plan in its place.
        ModelError: the model is a plan.
    """
    if _is_plan(rules):
        raise RuleError(f"the rules are a plan already: {shown(rules)}.", "write plan.draw(key)")
    if _is_plan(model):
        raise ModelError(f"the model is a plan: {shown(model)}.", "write model = plan.draw(key)")
    if isinstance(rules, Mapping) and not rules and default is None:
        raise RuleError(
            "the rules are empty, so nothing would be drawn.",
            'write {"*": "he_normal"} for every layer, or {"*": None} to keep the model as it is',
        )


def _is_plan(value: Any) -> bool:
    return all(hasattr(type(value), name) for name in ("diff", "lower", "to_json"))


NAMED_BY_PATH = re.compile(r".+\.(weight|kernel|embedding)")
"""Names of weights in a flattened mapping."""


def refuse_flattened(model: Any, schemes: Iterable[Scheme | None]) -> None:
    """Raise where the model is a flattened state dict, and no rule says in which order its axes are.

    Weights that PyTorch stores have their outputs first; those of Flax are known by the names of their modules, once
    these are apart. Square matrices alone tell nothing, and are drawn.

    Raises:
        ModelError: the model is a flattened state dict.
    """
    chosen = [scheme for scheme in schemes if scheme is not None]
    if not isinstance(model, Mapping) or not chosen or any(scheme.axes for scheme in chosen):
        return
    if not all(isinstance(name, str) and isinstance(array, ARRAYS) for name, array in model.items()):
        return
    weights = {name: tuple(array.shape) for name, array in model.items() if NAMED_BY_PATH.fullmatch(name)}
    torch = {name: shape for name, shape in weights.items() if name.endswith(".weight") and len(shape) > 1}
    flax = [name for name, shape in weights.items() if not name.endswith(".weight") and len(shape) > 1]
    if not flax and all(len(shape) == 2 and shape[0] == shape[1] for shape in torch.values()):
        return
    head = f"the model is a flattened state dict, {len(model)} arrays under names with dots: {listing(model, 3)}."
    if flax:
        raise ModelError(head, 'take the names apart: flax.traverse_util.unflatten_dict(params, sep=".")')
    kinds = dict.fromkeys("Linear" if len(shape) == 2 else "Conv" for shape in sorted(torch.values(), key=len))
    line = mapping_text(dict.fromkeys(kinds, 'ix.Scheme("he_normal", axes="o i ...")'))
    raise ModelError(head, "PyTorch's have their outputs first, and a rule has to say so", f"write {line}")
