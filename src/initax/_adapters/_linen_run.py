"""Running a Linen module abstractly: which modules there are, and what shape each parameter has inside its own.

Nothing is computed. Every parameter is put into a box of ours, of the kind that Flax's lifted transforms
tell of the axes they add and remove; so a stack axis is known by its place, not guessed from sizes. A module that reads
its own variables finds arrays in them, as it does in Flax.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import jax
from flax import linen as nn
from flax.core import DenyList
from flax.core.meta import AxisMetadata
from jax.tree_util import DictKey

from initax._adapters._variables import PARAMS, Entry, Names, wrapped
from initax._errors import ModelError, listing, message

LIFTS = "flax.core."
"""Where Flax's lifted transforms are."""


@dataclass(slots=True, eq=False)
class Record:
    """What one run showed. Compared by identity, so that no cached `jit` is used for this run.

    Attributes:
        modules: names of each module → the module as it was called.
        calls: names of each module of Linen → arguments of its first call.
        shapes: names of each parameter → its shape inside its own module.
        removed: names of each parameter → the axes that lifted transforms took away before, one after the other.
        stacks: names of each parameter → the same axes, counted in the stored array.
        mapped: names of each parameter that `nn.map_variables` made something else of before its module saw it.
    """

    modules: dict[Names, Any] = field(default_factory=dict)
    calls: dict[Names, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    shapes: dict[Names, tuple[int, ...]] = field(default_factory=dict)
    removed: dict[Names, tuple[int, ...]] = field(default_factory=dict)
    stacks: dict[Names, tuple[int, ...]] = field(default_factory=dict)
    mapped: set[Names] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Origin:
    """The identity of an array in a box that was taken apart; any two are equal.

    It is a part of the box's structure, by which JAX compares and caches.
    """

    identity: int = field(compare=False)


def _is_mapping() -> bool:
    """Whether the function of `nn.map_variables` is running: Flax's own frame nearest to here is the one calling it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(LIFTS):
            return "map_in_fn" in frame.f_code.co_freevars
        frame = frame.f_back
    return False


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
        # Spectral norm treats every key on the way to a weight as one of a dict.
        origin = _Origin(id(self.value))
        return ((DictKey("value"), self.value),), (self.names, self.rank, self.removed, self.record, origin)

    @classmethod
    def tree_unflatten(cls, rest: Any, children: Any) -> _Box:
        (value,), (*fields, origin) = children, rest
        box = cls(value, *fields)
        if id(value) != origin.identity and _is_mapping():
            box.record.mapped.add(box.names)
        return box

    def opened(self) -> Any:
        """The array, for what computes with the box itself."""
        if not _is_mapping():
            return self.unbox()
        self.record.mapped.add(self.names)
        return self.value

    def __jax_array__(self) -> Any:
        return self.opened()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.value if name in ("shape", "dtype", "ndim", "size") else self.opened(), name)


def _operation(name: str) -> Callable[..., Any]:
    def operation(box: _Box, *others: Any) -> Any:
        return getattr(box.opened(), name)(*others)

    return operation


# Functions of `nn.map_variables` get the variables as Flax keeps them, and may compute with one.
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(_Box, f"__{_name}__", _operation(f"__{_name}__"))
    setattr(_Box, f"__r{_name}__", _operation(f"__r{_name}__"))
for _name in ("neg", "abs", "getitem", "len", "iter"):
    setattr(_Box, f"__{_name}__", _operation(f"__{_name}__"))


def _places(rank: int, removed: Sequence[int]) -> tuple[int, ...]:
    """The axes of the stored array that were removed one after the other."""
    left = list(range(rank))
    return tuple(sorted(left.pop(index) for index in removed))


def _of_sizes(shape: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The first axes of these sizes."""
    choices = itertools.combinations(range(len(shape)), len(sizes))
    fitting = (axes for axes in choices if tuple(shape[axis] for axis in axes) == sizes)
    return next(fitting, tuple(range(len(sizes))))


def _reading_arrays(scope: Any) -> None:
    """Let what reads the variables of a module find arrays, not boxes."""
    if "get_variable" in vars(scope):
        return
    variables, get_variable = scope.variables, scope.get_variable
    scope.variables = lambda: _unboxed(variables())
    scope.get_variable = lambda *args, **kwargs: _unboxed(get_variable(*args, **kwargs))


def _unboxed(tree: Any) -> Any:
    """Return variables with our boxes opened, and those of others as they are."""

    def opened(node: Any) -> Any:
        return node.unbox() if isinstance(node, _Box) else node

    return jax.tree_util.tree_map(opened, tree, is_leaf=lambda node: isinstance(node, AxisMetadata))


def apply(module: Any, variables: Any, inputs: Sequence[Any], forward: Callable[..., Any] | None) -> tuple[Any, Any]:
    """Return what a module gives on inputs, and its collections afterwards; a missing parameter is an error."""
    key = jax.random.key(0)  # every stream of random numbers falls back on this one
    return module.apply(variables, *inputs, rngs={"params": key}, mutable=DenyList(PARAMS), method=forward)


def run(
    module: Any, collections: Mapping[str, Mapping[str, Any]], inputs: Any, forward: Callable[..., Any] | None
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
    arrays = [_abstract(leaf) if _is_array(leaf) else None for leaf in flat]
    # The wrappers name their arrays by the weight's path with every key of the tree on the way, and a box would be one
    # more. So these weights are left bare.
    bare = wrapped(jax.tree_util.tree_leaves(dict(collections)))
    boxed = {
        name: jax.tree_util.tree_map(lambda entry: _boxed(entry, record, bare), tree)
        for name, tree in collections.items()
    }

    def call(variables: Any, traced: list[Any]) -> Any:
        leaves = [leaf if array is None else array for leaf, array in zip(flat, traced, strict=True)]
        restored = jax.tree_util.tree_unflatten(structure, leaves)
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
            _reading_arrays(seen.scope)
        return following(*args, **kwargs)

    try:
        with nn.intercept_methods(watch):
            jax.eval_shape(call, boxed, arrays)
    except Exception as error:
        raise ModelError(_failed(module, collections, arguments, error)) from error
    for entry in jax.tree_util.tree_leaves(collections.get(PARAMS, {})):
        companion = bare.get(entry.names)
        if companion is not None:
            shape = tuple(entry.leaf.shape)
            # What goes with the weight went through the same transforms, and so did a bias beside it.
            beside = [companion.names, *(names for names in record.removed if names[:-1] == entry.names[:-1])]
            removed = next((record.removed[names] for names in beside if names in record.removed), None)
            places = _of_sizes(shape, companion.leaf.shape[:-2]) if removed is None else _places(len(shape), removed)
            record.stacks[entry.names] = places
            record.shapes[entry.names] = tuple(
                size for axis, size in enumerate(shape) if axis not in record.stacks[entry.names]
            )
    return record


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _abstract(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(array.shape), array.dtype)


def _boxed(entry: Entry, record: Record, bare: Mapping[Names, Entry]) -> Any:
    leaf = entry.leaf
    if not _is_array(leaf):
        return leaf
    shaped = _abstract(leaf)
    if entry.collection != PARAMS or entry.names in bare:
        return shaped
    return _Box(value=shaped, names=entry.names, rank=len(shaped.shape), removed=(), record=record)


def _failed(module: Any, collections: Mapping[str, Any], arguments: tuple[Any, ...], error: Exception) -> str:
    name = type(module).__name__
    shapes = ", ".join(map(_shown, arguments))
    first = str(error).strip().split("\n")[0]
    return message(
        f"{name} can't be called on these inputs with these variables: {type(error).__name__}: {first}",
        f"inputs: {shapes or 'none'}",
        f"params: {listing(map(str, collections.get(PARAMS, {}))) or 'none'}",
        f"initialize it first: variables = {name}(...).init(key, *inputs)"
        if not collections.get(PARAMS)
        else "are the variables this module's, and the inputs what it is called on? "
        "for another call write forward=lambda module, x: module(x, train=False)",
    )


def _shown(argument: Any) -> str:
    if hasattr(argument, "shape"):
        return f"{getattr(argument, 'dtype', '')}{list(argument.shape)}"
    return repr(argument) if isinstance(argument, bool | int | float | str) else type(argument).__name__
