"""Running a Linen module abstractly: which modules there are, and what shape each parameter has inside its own.

Nothing is computed. Every parameter is put into a box of ours, of the kind that Flax's lifted transforms
tell of the axes they add and remove; so a stack axis is known by its place, not guessed from sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from flax import linen as nn
from flax.core import DenyList
from flax.core.meta import AxisMetadata
from jax.tree_util import DictKey

from initax._adapters._variables import PARAMS, Entry, Names, wrapped
from initax._errors import ModelError, listing, message


@dataclass(slots=True, eq=False)
class Record:
    """What one run saw. Compared by identity, so that no cached `jit` is taken for this run.

    Attributes:
        modules: names of each module → the module as it was called.
        calls: names of each module → arguments of its first call.
        shapes: names of each parameter → its shape inside its own module.
        removed: names of each parameter → the axes that lifted transforms took away before, one after the other.
        stacks: names of each parameter → the same axes, counted in the stored array.
        inside: names of each module that another framework made, inside one of Linen's → that module.
    """

    modules: dict[Names, Any] = field(default_factory=dict)
    calls: dict[Names, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    shapes: dict[Names, tuple[int, ...]] = field(default_factory=dict)
    removed: dict[Names, tuple[int, ...]] = field(default_factory=dict)
    stacks: dict[Names, tuple[int, ...]] = field(default_factory=dict)
    inside: dict[Names, Any] = field(default_factory=dict)


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, slots=True)
class _Box(AxisMetadata[Any]):
    value: Any
    names: Names
    rank: int
    removed: tuple[int, ...]
    record: Record

    def unbox(self) -> Any:
        shape = tuple(self.value.shape)
        if len(shape) <= len(self.record.shapes.get(self.names, shape)):
            self.record.shapes[self.names] = shape
            self.record.removed[self.names] = self.removed
            self.record.stacks[self.names] = _places(self.rank, self.removed)
        return self.value

    def replace_boxed(self, val: Any) -> _Box:
        return replace(self, value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> _Box:
        return replace(self, removed=self.removed[:-1])

    def remove_axis(self, index: int, params: dict[Any, Any]) -> _Box:
        return replace(self, removed=(*self.removed, index))

    def tree_flatten_with_keys(self) -> Any:
        # Spectral norm takes every key on the way to a weight for one of a dict.
        return ((DictKey("value"), self.value),), (self.names, self.rank, self.removed, self.record)

    @classmethod
    def tree_unflatten(cls, rest: Any, children: Any) -> _Box:
        return cls(*children, *rest)


def _places(rank: int, removed: Sequence[int]) -> tuple[int, ...]:
    """The axes of the stored array that were removed one after the other."""
    left = list(range(rank))
    return tuple(sorted(left.pop(index) for index in removed))


def apply(module: Any, variables: Any, inputs: Sequence[Any], forward: Callable[..., Any] | None) -> tuple[Any, Any]:
    """Return what a module gives on inputs, and its collections afterwards; a missing parameter is an error."""
    key = jax.random.key(0)  # every stream of random numbers falls back on this one
    result: tuple[Any, Any] = module.apply(
        variables, *inputs, rngs={"params": key}, mutable=DenyList(PARAMS), method=forward
    )
    return result


def run(
    module: Any,
    collections: Mapping[str, Mapping[str, Any]],
    inputs: Any,
    forward: Callable[..., Any] | None,
) -> Record:
    """Return what calling the module abstractly shows.

    Args:
        module: the Linen module.
        collections: collections of entries, as nested dicts.
        inputs: what it is called on: a tuple of arguments, or one argument.
        forward: function of the bound module and the inputs, where a plain call is not it.

    Raises:
        ModelError: the module can't be called on these inputs with these variables.
    """
    record = Record()
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    flat, structure = jax.tree_util.tree_flatten(arguments)
    is_array = [hasattr(each, "shape") and hasattr(each, "dtype") for each in flat]
    arrays = [_abstract(each) for each, array in zip(flat, is_array, strict=True) if array]
    # The wrappers name their arrays by the weight's path with every key of the tree on the way, and a box would be one
    # more. So these weights are left bare.
    bare = wrapped(jax.tree_util.tree_leaves(dict(collections)))
    boxed = {
        name: jax.tree_util.tree_map(lambda entry: _boxed(entry, record, bare), tree)
        for name, tree in collections.items()
    }

    def call(variables: Any, traced: list[Any]) -> Any:
        following = iter(traced)
        given = [next(following) if array else each for each, array in zip(flat, is_array, strict=True)]
        restored = jax.tree_util.tree_unflatten(structure, given)
        return apply(module, variables, restored, forward)[1]

    def watch(
        following: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        seen = context.module
        if seen.scope is not None:
            record.modules.setdefault(seen.path, seen)
            record.calls.setdefault(seen.path, (args, kwargs))
        return following(*args, **kwargs)

    try:
        with nn.intercept_methods(watch):
            jax.eval_shape(call, boxed, arrays)
    except Exception as error:
        raise ModelError(_failed(module, collections, arguments, error)) from error
    for entry in jax.tree_util.tree_leaves(collections.get(PARAMS, {})):
        companion = bare.get(entry.names)
        if companion is not None:
            rank = len(entry.leaf.shape)
            # What goes with the weight went through the same transforms; running statistics are stacked in front.
            removed = record.removed.get(companion.names, (0,) * max(len(companion.leaf.shape) - 2, 0))
            record.stacks[entry.names] = _places(rank, removed)
            record.shapes[entry.names] = tuple(
                size for axis, size in enumerate(entry.leaf.shape) if axis not in record.stacks[entry.names]
            )
    return record


def _abstract(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(array.shape), array.dtype)


def _boxed(entry: Entry, record: Record, bare: Mapping[Names, Entry]) -> Any:
    leaf = entry.leaf
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        return leaf
    shaped = _abstract(leaf)
    if entry.collection != PARAMS or entry.names in bare:
        return shaped
    return _Box(value=shaped, names=entry.names, rank=len(shaped.shape), removed=(), record=record)


def _failed(module: Any, collections: Mapping[str, Any], arguments: tuple[Any, ...], error: Exception) -> str:
    name = type(module).__name__
    shapes = ", ".join(_shown(each) for each in arguments)
    first = str(error).strip().split("\n")[0]
    missing = not collections.get(PARAMS)
    return message(
        f"{name} can't be called on these inputs with these variables: {type(error).__name__}: {first}",
        f"inputs: {shapes or 'none'}",
        f"params: {listing(map(str, collections.get(PARAMS, {}))) or 'none'}",
        f"initialize it first: variables = {name}(...).init(key, *inputs)"
        if missing
        else "are the variables this module's, and the inputs what it is called on? "
        "for another call write forward=lambda module, x: module(x, train=False)",
    )


def _shown(argument: Any) -> str:
    if hasattr(argument, "shape"):
        return f"{getattr(argument, 'dtype', '')}{list(argument.shape)}"
    return repr(argument) if isinstance(argument, bool | int | float | str) else type(argument).__name__
