"""`Node`, an adapter's description of one object in a model, and functions on paths and packages."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey, tree_flatten_with_path

from initax._model._declared import Declaration, Field
from initax._model._parameter import UNDECLARED, Constraint
from initax._model._reason import Reason

ARRAYS = (jax.Array, np.ndarray, jax.ShapeDtypeStruct)

Form = Literal["module", "container", "named", "box", "wrapper", "state", "unread"]

Answer = TypeVar("Answer")

NOTHING: Mapping[Any, Any] = MappingProxyType({})


def _nothing() -> Mapping[Any, Any]:
    return NOTHING


@dataclass(frozen=True, slots=True)
class Tie:
    """An array, or a whole module, that another path owns.

    Attributes:
        owner: path of the owner below the node; `None` where the node computes it from others.
        array: shape and type of the array, where the framework left something else in its place; `None` for a module.
    """

    owner: str | None
    array: jax.ShapeDtypeStruct | None = None


@dataclass(frozen=True, slots=True)
class Awaited:
    """A constraint whose companions are in a state elsewhere in the model.

    Attributes:
        marker: the framework's own name for the state.
        constraint: function from the value in the state to the constraint; companions are paths below that value.
        otherwise: the constraint where the model does not hold the state.
    """

    marker: Any
    constraint: Callable[[Any], Constraint]
    otherwise: Constraint


@dataclass(frozen=True, slots=True)
class Node:
    """An adapter's description of one object in a model. Paths are relative to the node; `""` is the node itself.

    Attributes:
        form: a `"module"` owns arrays; a `"container"` passes those below on to what holds it; a `"named"` mapping has
            names of Flax by which it is read; a `"box"` stands for the value it holds; a `"wrapper"` stands for an
            array computed from those below; a `"state"` is never drawn; what is `"unread"` can't be read at all.
        kind: of a module, the kind of layer: `"Linear"`, …
        fields: of a module, how its arrays are read, by name, where the class is not declared: axes, role, sizes.
        children: the children by name, where JAX does not flatten the node or flattens it otherwise.
        value: of a box, what it holds: an array, or a tree of them.
        identity: of a box, what makes two boxes the same one; without it, two are the same that hold the same array.
        array: of a wrapper, the path of the array that stands for it.
        reason: of a state, a box or what is unread, why no array below is drawn.
        reasons: path of an array below → why it is never drawn alone.
        constraints: path of a weight below → what stands between the stored arrays and the effective weight. Companions
            are paths below the node, too, and `"{weight}"` in a warning becomes the weight's path.
        ties: path below → what owns what stands there.
        states: the framework's own name for a state → path below, and the value there.
        constant: of a module, function from an array that it holds, and whether that is in a box, to why it is a
            constant where nobody declares it; `None` where it is none.
        awaited: path of a weight below → a constraint that needs a state which may be anywhere in the model.
        streams: path of random state below that was never made → function from its full path and the user's key to it.
        holder: of a box, function from the module that holds it to what that is, where nobody else says.
        structure: of a module whose children are given, a hashable value, equal for those of its class whose arrays of
            equal shapes read alike: one of them is read for all. `None` where each is to be read.
        readings: of a named mapping, what is known of it beside its names.
        rebuild: function from new children by name, or from the new value of a box, to a new node. Without it, JAX
            flattens the node as the children say, and unflattens it.
        rebuild_model: function from the whole model and its new leaves by path to a new model, where modules are
            graphs; it stands in for every `rebuild`.
    """

    form: Form = "module"
    kind: str | None = None
    fields: Mapping[str, Field] = field(default_factory=_nothing)
    children: Mapping[str, Any] | None = None
    value: Any = None
    identity: int | None = None
    array: str | None = None
    reason: Reason | None = None
    reasons: Mapping[str, Reason] = field(default_factory=_nothing)
    constraints: Mapping[str, Constraint] = field(default_factory=_nothing)
    ties: Mapping[str, Tie] = field(default_factory=_nothing)
    states: Mapping[Any, tuple[str, Any]] = field(default_factory=_nothing)
    constant: Callable[[Any, bool], Reason | None] | None = None
    awaited: Mapping[str, Awaited] = field(default_factory=_nothing)
    streams: Mapping[str, Callable[[str, jax.Array], Any]] = field(default_factory=_nothing)
    holder: Callable[[Any], Node | None] | None = None
    structure: Any = None
    readings: Any = None
    rebuild: Callable[[Any], Any] | None = None
    rebuild_model: Callable[[Any, Mapping[str, Any]], Any] | None = None

    @property
    def declaration(self) -> Declaration | None:
        """The row that the fields make; `None` where there are none."""
        if not self.fields:
            return None
        return Declaration(kind=self.kind or UNDECLARED, fields=self.fields, static=self.structure is not None)


MODULE = Node("module")
"""A module of which there is nothing more to say."""


@dataclass(frozen=True, slots=True)
class Call:
    """How a model is called, where it can't tell itself.

    Attributes:
        module: the module that stands apart from the model's arrays.
        inputs: what it is called on.
        forward: how it is called, where a plain call is not it.
    """

    module: Any = None
    inputs: Any = None
    forward: Callable[..., Any] | None = None


def entry_name(entry: Any) -> str:
    """Return the part of a dotted path that a JAX key entry stands for."""
    match entry:
        case GetAttrKey():
            return str(entry.name)
        case SequenceKey():
            return str(entry.idx)
        case DictKey() | FlattenedIndexKey():
            return ".".join(map(str, entry.key)) if isinstance(entry.key, tuple) else str(entry.key)
    return str(entry)


def join(path: str, name: str) -> str:
    """Return a dotted path with one more name."""
    return f"{path}.{name}" if path else name


def absolute(path: str, below: str) -> str:
    """Return the full path of what is below a node; `""` below it is the node itself."""
    return join(path, below) if below else path


def holds_arrays(tree: Any) -> bool:
    """Return whether JAX sees an array in a tree."""
    return any(isinstance(leaf, ARRAYS) for leaf in jax.tree_util.tree_leaves(tree))


def once_a_class(ask: Callable[[type], Answer]) -> Callable[[type], Answer]:
    """Return the function with its answer kept for each class: `isinstance` on a framework's modules is slow."""
    answers: weakref.WeakKeyDictionary[type, Answer] = weakref.WeakKeyDictionary()

    @functools.wraps(ask)
    def answer(cls: type) -> Answer:
        try:
            return answers[cls]
        except KeyError:
            return answers.setdefault(cls, ask(cls))

    return answer


@once_a_class
def packages_of(cls: type) -> tuple[str, ...]:
    """Return the packages and modules that a class and its bases come from, the nearest first."""
    modules = [base.__module__.split(".") for base in cls.__mro__]
    names = (".".join(module[:depth]) for module in modules for depth in range(len(module), 0, -1))
    return tuple(dict.fromkeys(names))


def leaves_below(node: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a node as JAX flattens it, each with its dotted path from there."""
    return [(".".join(map(entry_name, entries)), leaf) for entries, leaf in tree_flatten_with_path(node)[0]]


def carried_module(model: Any) -> Any:
    """Return the module whose `apply` a train state carries, or `None`."""
    return getattr(getattr(model, "apply_fn", None), "__self__", None)
