"""Adapters read a framework's model as layers, and write arrays back. Nothing else in initax names a framework.

An adapter is loaded when a model holds something of its framework: nobody pays for what they don't use. It is a module
with some of three functions:

- `describe(node) -> Node | None`: what a node of a model is, and what its framework says of the arrays below;
- `parameters(model) -> Any`: what an optimizer is given of a whole model, where that is not the model itself;
- `survey(model, call) -> Survey | Node | None`: what a whole model is, where its nodes alone do not tell: all that is
  in it, for arrays that stand apart from their modules, or what running it tells of its root.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._adapters._foreign_models import refuse_closed, refuse_foreign
from initax._adapters._nodes import ARRAYS, Call, Node, carried_module, packages_of
from initax._adapters._pytree import Describe
from initax._adapters._pytree import survey as _walk
from initax._adapters._variables import PARAMS, Readings, are_variables, survey_variables, take_apart
from initax._errors import InitaxError, with_line
from initax._math._keys import as_key
from initax._model._survey import Survey

ADAPTERS = {
    "equinox": "initax._adapters._equinox",
    "flax.core": "initax._adapters._linen_boxes",
    "flax.linen": "initax._adapters._linen",
    "flax.nnx": "initax._adapters._nnx",
    "flax.nnx.bridge": "initax._adapters._bridges",
    "haliax": "initax._adapters._haliax",
    "klax": "initax._adapters._klax",
    "optax": "initax._adapters._optax",
    "paramax": "initax._adapters._wrappers",
}
"""Package that a node's class, or one of its bases, comes from → the module that knows such nodes."""

KEYS = "flax.nnx"
"""The framework that has sources of random keys of its own."""

LINEN = "flax.linen"
"""The framework whose modules stand apart from their variables and are named by `module=`."""

_REGISTERED: dict[str, Describe] = {}
"""What users registered: package → function from a node to what it is."""


@with_line("ix.register_adapter", 'write ix.register_adapter("mylib", describe)')
def register_adapter(package: str, describe: Callable[[Any], Node | None]) -> None:
    """Make the objects of a package known to initax: modules and arrays of a framework of your own.

    Args:
        package: the package, or a module in it, that the objects' classes come from: `"mylib"`, `"mylib.layers"`. It
            counts for classes of others that inherit from these. The nearest base is asked first, and what is
            registered is asked before what initax has.
        describe: function from an object to an `ix.Node` that says what it is, or to `None` where it can't tell.

    Raises:
        InitaxError: `package` is not a package's name, or `describe` can't be called.

    Examples:
        >>> import jax.numpy as jnp, initax as ix
        >>> class Tensor:
        ...     def __init__(self, data, dims):
        ...         self.data, self.dims = data, dims
        >>> class Affine:
        ...     def __init__(self, w, b):
        ...         self.w, self.b = w, b
        >>> def describe(node):
        ...     if isinstance(node, Tensor):
        ...         return ix.Node("box", value=node.data, rebuild=lambda data: Tensor(data, node.dims))
        ...     if isinstance(node, Affine):
        ...         w, b = ix.Field(pattern="i o", role="weight"), ix.Field(pattern="o", role="bias", of="w")
        ...         return ix.Node(
        ...             "module",
        ...             kind="Linear",
        ...             fields={"w": w, "b": b},
        ...             children={"w": node.w, "b": node.b},
        ...             rebuild=lambda new: Affine(**new),
        ...         )
        >>> ix.register_adapter(Tensor.__module__, describe)
        >>> model = [Affine(Tensor(jnp.ones((8, 3)), "io"), Tensor(jnp.ones(3), "o"))]
        >>> [(draw.parameter.path, draw.parameter.fan_in) for draw in ix.plan(model, {"Linear": "he_normal"}).draws]
        [('0.w', 8), ('0.b', 8)]
    """
    if not isinstance(package, str) or not all(name.isidentifier() for name in package.split(".")):
        raise InitaxError(
            f"register_adapter takes the name of a package, not {package!r}.", 'ix.register_adapter("mylib", describe)'
        )
    if not callable(describe):
        raise InitaxError(
            f'register_adapter("{package}") takes a function from an object to an ix.Node, not {describe!r}.',
            f'ix.register_adapter("{package}", describe)',
        )
    _REGISTERED[package] = describe
    _described_by.cache_clear()


def key_of(source: Any) -> Any:
    """Return the next random key of a framework's source of keys; anything else unchanged."""
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
    adapter = _load(KEYS)
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
            was passed is not a model.
    """
    describe = _describer()
    flat = jax.tree_util.tree_flatten(model)
    registered = (_REGISTERED[package] for package in packages_of(type(model)) if package in _REGISTERED)
    if all(describe_model(model) is None for describe_model in registered):
        refuse_foreign(model, flat[0])
        if len(flat[0]) == 1 and flat[0][0] is model and describe(model) is None:
            refuse_closed(model)
    call = Call(module, inputs, forward)
    for adapter in _claiming(model, call):
        claimed: Survey | Node | None = adapter.survey(model, call)
        if claimed is not None:
            return _walk(model, describe, flat, claimed) if isinstance(claimed, Node) else claimed
    if are_variables(model):
        hint = "pass the Linen module and what it is called on: module=module, inputs=x"
        if LINEN in packages_of(type(carried_module(model))):
            hint = "pass what the Linen module is called on: inputs=x"
        named = survey_variables(*take_apart(model), Readings(hint=hint))
        named.hint = hint
        return named
    return _walk(model, describe, flat)


def parameters_of(model: Any) -> Any:
    """Return the parameters of a model as its framework passes them to an optimizer.

    For a train state and for a dict of collections these are the parameters, for NNX an `nnx.State` of them; elsewhere
    the model itself, with its floating arrays alone.
    """
    if are_variables(model):
        inner = model.get(PARAMS) if isinstance(model, Mapping) else getattr(model, PARAMS)
        return model if inner is None else inner
    for package in packages_of(type(model)):
        adapter: Any = _load(package) if package in ADAPTERS else None
        if hasattr(adapter, "parameters"):
            return adapter.parameters(model)

    def is_floating(leaf: Any) -> bool:
        return isinstance(leaf, ARRAYS) and bool(jnp.issubdtype(leaf.dtype, np.inexact))

    return jax.tree.map(lambda leaf: leaf if is_floating(leaf) else None, model)


def _claiming(model: Any, call: Call) -> list[Any]:
    """The adapters that may read a whole model: those of its class, of its module, and of the module it carries."""
    sources = (model, call.module, carried_module(model))
    names = dict.fromkeys(name for source in sources for name in packages_of(type(source)))
    if call.module is not None:
        names[LINEN] = None
    adapters = [_load(package) for package in names if package in ADAPTERS]
    return [adapter for adapter in adapters if hasattr(adapter, "survey")]


def _load(package: str) -> Any:
    return importlib.import_module(ADAPTERS[package])


def _describer() -> Describe:
    """Return the function from a node to its description by the nearest framework that knows it."""
    by_class: dict[type, tuple[Describe, ...]] = {}

    def describe(node: Any) -> Node | None:
        cls = type(node)
        if cls not in by_class:
            by_class[cls] = _described_by(packages_of(cls))
        for describe_node in by_class[cls]:
            description = describe_node(node)
            if description is not None:
                return description
        return None

    return describe


@functools.lru_cache(maxsize=4096)
def _described_by(packages: tuple[str, ...]) -> tuple[Describe, ...]:
    registered = [_REGISTERED[package] for package in packages if package in _REGISTERED]
    loaded = [_load(package) for package in packages if package in ADAPTERS]
    return (*registered, *(adapter.describe for adapter in loaded if hasattr(adapter, "describe")))
