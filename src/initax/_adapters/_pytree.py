"""Any pytree: finds modules of declared classes, framework modules and plain containers of arrays, and writes back.

One walk, in the order in which JAX flattens the tree, so that every array is known by its leaf index.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey, tree_flatten_with_path

from initax._adapters._wrappers import Opened, opened
from initax._axes import resolve
from initax._errors import ModelError, message
from initax._layer import (
    UNDECLARED,
    Ancestor,
    Constraint,
    Layer,
    Parameter,
    declaration_of,
    declared_parameters,
    placement,
    why_not_drawable,
)

PLAIN_PATTERN = "... i o"
"""How plain containers are read unless a rule restates the axes: receptive field, inputs, outputs."""


@dataclass(slots=True)
class Survey:
    """What one walk over a model found.

    Attributes:
        layers: the layers, in traversal order.
        places: path of each drawable parameter → leaf indices that hold its array.
        aliases: path at which a layer or array is reached again → path of its owner.
        leaves: the leaves of the model, as JAX flattens it.
        rebuild: function from new leaves to a model.
    """

    layers: tuple[Layer, ...]
    places: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str]
    leaves: list[Any]
    rebuild: Callable[[list[Any]], Any]

    def write(self, arrays: Mapping[str, Any]) -> Any:
        """Return the model with the arrays at these paths replaced; every other leaf is the same object."""
        leaves = list(self.leaves)
        for path, array in arrays.items():
            for place in self.places[path]:
                old = self.leaves[place]
                is_numpy = isinstance(old, np.ndarray) and not isinstance(array, jax.core.Tracer)
                leaves[place] = np.asarray(array, old.dtype) if is_numpy else array
        return self.rebuild(leaves)


Describe = Callable[[Any, "Walk", str], Literal["module", "state"] | None]
"""An adapter's view of a node: a module of its framework, state to be left alone, or neither. It may leave constraints,
ties and notes in the walk."""

ARRAYS = (jax.Array, np.ndarray, jax.ShapeDtypeStruct)


@dataclass(slots=True)
class Walk:
    """The state of one walk.

    Attributes:
        is_shape: whether a node is a shape that stands for an array.
        describers: the adapters of the frameworks at hand.
        layers: the layers found so far.
        leaves: the leaves seen so far; their number is the next leaf's index.
        places: path of each array → leaf indices that hold it.
        owners: identity of each array → path at which it was first seen.
        aliases: path reached again → path of its owner.
        constraints: path of a weight → what stands between the stored arrays and the effective weight.
        ties: path of an array that another one owns → what owns it.
        placeholders: path at which a framework left something in place of a tied array → that array's shape and type.
        states: an adapter's own name for a state → path and value.
        notes: path of an array that is never drawn by itself → why.
        late: what an adapter can only know at the end.
        leaf_types: types that JAX was seen to take for leaves.
    """

    is_shape: Callable[[Any], bool]
    describers: tuple[Describe, ...]
    layers: list[Layer] = field(default_factory=list)
    leaves: list[Any] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    constraints: dict[str, Constraint] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    placeholders: dict[str, jax.ShapeDtypeStruct] = field(default_factory=dict)
    states: dict[Any, tuple[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    late: list[Callable[[], None]] = field(default_factory=list)
    leaf_types: set[type] = field(default_factory=set)


Own = dict[str, tuple[str, Any]]
"""Arrays a module owns: name within it → (path, array)."""


def survey(model: Any, describers: tuple[Describe, ...]) -> Survey:
    """Return the layers of a pytree and the means to write it back.

    Raises:
        ModelError: two arrays have the same dotted path.
    """
    is_shape = _shape_leaves(model)
    walk = Walk(is_shape=is_shape, describers=describers)
    _visit(model, "", (), None, walk)
    for finish in walk.late:
        finish()
    structure: Any = jax.tree_util.tree_structure(model, is_leaf=is_shape)
    return Survey(
        layers=tuple(_finished(layer, walk) for layer in walk.layers),
        places={path: tuple(places) for path, places in walk.places.items()},
        aliases=walk.aliases,
        leaves=walk.leaves,
        rebuild=structure.unflatten,
    )


def _shape_leaves(model: Any) -> Callable[[Any], bool]:
    """Shapes written as tuples count as arrays in a tree that holds nothing but numbers: `{"w": (256, 10)}`."""
    leaves = jax.tree_util.tree_leaves(model)
    if leaves and all(type(leaf) is int for leaf in leaves):
        return _is_shape
    return _never


def _never(node: Any) -> bool:
    return False


def _is_shape(node: Any) -> bool:
    return type(node) is tuple and bool(node) and all(type(each) is int for each in node)


def _children(node: Any, walk: Walk) -> tuple[list[tuple[str, Any]], Any] | None:
    """The node's children by name, and its own structure; `None` for a leaf."""
    if type(node) in walk.leaf_types or walk.is_shape(node):
        return None
    found, structure = tree_flatten_with_path(node, is_leaf=lambda each: each is not node)
    if len(found) == 1 and not found[0][0]:
        walk.leaf_types.add(type(node))
        return None
    return [(entry_name(path[0]), child) for path, child in found], structure


def entry_name(entry: Any) -> str:
    """Return the part of a dotted path that a JAX key entry stands for."""
    match entry:
        case GetAttrKey():
            return str(entry.name)
        case SequenceKey():
            return str(entry.idx)
        case DictKey() | FlattenedIndexKey():
            return str(entry.key)
    return str(entry)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


UNREAD = {"flax.nnx": "for its arrays as a plain pytree write nnx.to_pure_dict(nnx.state(model)), and restate axes"}
"""Frameworks whose modules are pytrees that look plain and are not → what to do instead."""


_PACKAGES: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()


def _packages(cls: type) -> frozenset[str]:
    """The packages that a class and its bases come from, two levels deep."""
    if cls not in _PACKAGES:
        parts = [base.__module__.split(".") for base in cls.__mro__]
        _PACKAGES[cls] = frozenset(".".join(names[:depth]) for names in parts for depth in (1, 2))
    return _PACKAGES[cls]


Holder = tuple[str, Own]
"""The path of what holds an array, and the arrays it holds."""


def _visit(  # noqa: PLR0912  one walk, one kind of node a branch
    node: Any,
    path: str,
    ancestors: tuple[Ancestor, ...],
    owner: Holder | None,
    walk: Walk,
    container: Holder | None = None,
) -> None:
    """Walk a node.

    Args:
        node: the node.
        path: its path.
        ancestors: the modules and containers around it.
        owner: the nearest module around, to which all loose arrays below belong.
        walk: the walk.
        container: outside any module, the container around, to which the node belongs if it is an array.
    """
    if node is None:
        return
    found = _children(node, walk)
    if found is None:
        _leaf(node, path, owner or container, walk)
        return
    if _stands_for_an_array(node, path, ancestors, owner or container, walk):
        return
    children, structure = found
    cls = type(node)
    packages = _packages(cls)
    if "optax" in packages:
        _keep_below(node, path, ancestors, walk, "optimizer state")
        return
    for package in packages & UNREAD.keys():
        raise ModelError(
            message(
                f"{path or 'the model'} is of {package} ({cls.__name__}), which this version of initax can't read.",
                f"as a plain pytree its axes would be guessed wrong; {UNREAD[package]}",
            )
        )
    declared = declaration_of(cls)
    views = [describe(node, walk, path) for describe in walk.describers]
    if "state" in views:
        _keep_below(node, path, ancestors, walk, "state")
        return
    is_module = "module" in views or declared is not None
    if not is_module and owner is None:
        _container(node, children, path, ancestors, walk)
        return
    if not is_module:
        for name, child in children:
            _visit(child, _join(path, name), ancestors, owner, walk)
        return
    own: Own = {}
    around = (*ancestors, Ancestor(path, cls))
    place = len(walk.layers)
    for name, child in children:
        _visit(child, _join(path, name), around, (path, own), walk)
    if own:
        if declared is not None:
            layer = Layer(
                path=path,
                kind=declared.kind,
                cls=cls,
                parameters=declared_parameters(node, declared, own, structure),
                ancestors=ancestors,
            )
        else:
            layer = Layer(
                path=path, kind=UNDECLARED, cls=cls, parameters=_unknown(own, "undeclared"), ancestors=ancestors
            )
        walk.layers.insert(place, layer)


def _leaf(leaf: Any, path: str, owner: Holder | None, walk: Walk, *, is_state: bool = False) -> None:
    index = len(walk.leaves)
    walk.leaves.append(leaf)
    if walk.is_shape(leaf):
        leaf = jax.ShapeDtypeStruct(leaf, jnp.result_type(float))
    if path in walk.placeholders and owner is not None:
        owner[1][_within(owner[0], path)] = (path, walk.placeholders[path])
        return
    if not isinstance(leaf, ARRAYS):
        return
    if path in walk.places:
        raise ModelError(
            message(
                f'two arrays have the path "{path}".',
                "a mapping key that holds a dot reads like a nested one; rename one of them",
            )
        )
    walk.places[path] = [index]
    if not (is_state or isinstance(leaf, jax.ShapeDtypeStruct)):
        first = walk.owners.setdefault(id(leaf), path)
        if first != path:
            walk.places[first].append(index)
            walk.aliases[path] = first
            walk.ties[path] = first
    if owner is None:  # the model is a single array
        walk.layers.append(_plain_layer("", type(leaf), {"": (path, leaf)}, (), "", None))
        return
    owner[1][_within(owner[0], path)] = (path, leaf)


def _stands_for_an_array(
    node: Any, path: str, ancestors: tuple[Ancestor, ...], holder: Holder | None, walk: Walk
) -> bool:
    """Whether a node is a wrapper in an array's place, which is then read; one around a module leaves notes only."""
    wrapper = opened(node)
    if wrapper is None or holder is None:
        return False
    if wrapper.array is not None:
        _wrapped(node, path, wrapper, wrapper.array, holder, ancestors, walk)
        return True
    below = [_join(path, ".".join(map(entry_name, entries))) for entries, _ in tree_flatten_with_path(node)[0]]
    walk.notes |= dict.fromkeys(below, wrapper.kept or f"inside {type(node).__name__}")
    return False


def _wrapped(
    node: Any,
    path: str,
    wrapper: Opened,
    array: str,
    holder: Holder,
    ancestors: tuple[Ancestor, ...],
    walk: Walk,
) -> None:
    """A wrapper in an array's place: the array it stands for belongs to the holder, under the wrapper's own name."""
    main = _join(path, array)
    others: Own = {}
    for entries, leaf in tree_flatten_with_path(node)[0]:
        below = _join(path, ".".join(map(entry_name, entries)))
        _leaf(leaf, below, holder if below == main else (path, others), walk)
        name = _within(holder[0], below)
        if below == main and name in holder[1]:
            holder[1][_within(holder[0], path)] = holder[1].pop(name)
    if wrapper.kept is not None:
        walk.notes[main] = wrapper.kept
    else:
        walk.constraints[main] = wrapper.constraint(path)
    if others:
        reason = wrapper.kept or f"set with {main}"
        parameters = tuple(replace(each, role="scale") for each in _unknown(others, reason))
        walk.layers.append(Layer(path=path, kind="Wrapper", cls=type(node), parameters=parameters, ancestors=ancestors))


def _within(base: str, path: str) -> str:
    return path[len(base) + 1 :] if base else path


def _unknown(own: Own, reason: str | None) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(
            path=path,
            name=name,
            role=None,
            shape=tuple(array.shape),
            dtype=array.dtype,
            sharding=placement(array),
            kept=why_not_drawable(tuple(array.shape), array.dtype) or reason,
        )
        for name, (path, array) in own.items()
    )


def _keep_below(node: Any, path: str, ancestors: tuple[Ancestor, ...], walk: Walk, reason: str) -> None:
    """State of one kind or another: every array below is listed and left alone, be it tied to a weight or not."""
    own: Own = {}
    for entries, leaf in tree_flatten_with_path(node)[0]:
        _leaf(leaf, _join(path, ".".join(map(entry_name, entries))), (path, own), walk, is_state=True)
    if own:
        parameters = tuple(replace(each, role="state") for each in _unknown(own, reason))
        walk.layers.append(Layer(path=path, kind="State", cls=type(node), parameters=parameters, ancestors=ancestors))


def _container(
    node: Any, children: list[tuple[str, Any]], path: str, ancestors: tuple[Ancestor, ...], walk: Walk
) -> None:
    """A plain container outside any module: its arrays are weights and biases of the container, or of each other."""
    own: Own = {}
    place = len(walk.layers)
    around = (*ancestors, Ancestor(path, type(node)))
    for name, child in children:
        _visit(child, _join(path, name), around, None, walk, container=(path, own))
    walk.layers[place:place] = _plain_layers(path, type(node), own, ancestors)


def _plain_layers(path: str, cls: type, own: Own, ancestors: tuple[Ancestor, ...]) -> list[Layer]:
    floats = {name: entry for name, entry in own.items() if jnp.issubdtype(entry[1].dtype, np.inexact)}
    weights = {name: entry for name, entry in floats.items() if len(entry[1].shape) >= 2}
    left = {name: entry for name, entry in own.items() if name not in weights}
    if not weights and any(name.lower() in SCALES for name in left):
        parameters = tuple(
            replace(each, role="scale" if each.name.lower() in SCALES else "bias") for each in _unknown(left, None)
        )
        return [Layer(path=path, kind="Norm", cls=cls, parameters=parameters, ancestors=ancestors)]
    layers = []
    order = list(own)
    alone = len(weights) == 1
    for name, entry in weights.items():
        vectors = [each for each in left if each in floats and _may_be_bias(each)]
        bias = vectors[0] if alone and len(vectors) == 1 else _partner(name, vectors, order)
        group: Own = {name: entry} | ({bias: left.pop(bias)} if bias is not None else {})
        where = (path, ancestors) if alone else (_join(path, name), (*ancestors, Ancestor(path, cls)))
        layers.append(_plain_layer(where[0], cls, group, where[1], name, bias))
    if left:
        why = "undeclared: which weight it goes with can't be told" if weights else "undeclared: no weight beside it"
        layers.append(Layer(path=path, kind=UNDECLARED, cls=cls, parameters=_unknown(left, why), ancestors=ancestors))
    return layers


SCALES = frozenset({"scale", "gamma"})
"""Names that make a container of vectors a norm."""

BIAS_OF = {"weights": "biases", "weight": "bias", "kernel": "bias", "w": "b", "W": "b"}
"""What a weight's name becomes in the name of its bias, tried in this order."""


def _may_be_bias(name: str) -> bool:
    """Whether a vector may be a bias by its name: a place in a list, `b`, `b_y`, `bias`, `beta`, `fc1_bias`, `offset`.

    A vector of another name beside a matrix (the `D` of a state-space model, a `log_scale`) is not to be zeroed.
    """
    lower = name.lower()
    return name.isdecimal() or lower.startswith("b") or "bias" in lower or lower in ("offset", "intercept")


def _partner(weight: str, vectors: list[str], order: list[str]) -> str | None:
    """The vector that is a weight's bias: by name (`w1` and `b1`), or in a list by standing right behind it."""
    for own, other in BIAS_OF.items():
        if own in weight and weight.replace(own, other, 1) in vectors:
            return weight.replace(own, other, 1)
    if weight.isdecimal():
        behind = order[order.index(weight) + 1 : order.index(weight) + 2]
        return behind[0] if behind and behind[0] in vectors else None
    return None


def _plain_layer(
    path: str, cls: type, own: Own, ancestors: tuple[Ancestor, ...], weight: str, bias: str | None
) -> Layer:
    weight_shape = tuple(own[weight][1].shape)
    if len(weight_shape) < 2:
        return Layer(
            path=path,
            kind=UNDECLARED,
            cls=cls,
            parameters=_unknown(own, "undeclared: not a matrix"),
            ancestors=ancestors,
        )
    axes = resolve(PLAIN_PATTERN, weight_shape)
    problem = None
    if bias is not None and tuple(own[bias][1].shape) not in ((weight_shape[-1],), ()):
        size = tuple(own[bias][1].shape)
        problem = f'undeclared: {bias} {size} does not fit {weight} {weight_shape} read as "{PLAIN_PATTERN}"'
    parameters = []
    for name, (where, array) in own.items():
        shape = tuple(array.shape)
        is_weight = name == weight
        kept = why_not_drawable(shape, array.dtype) or problem
        parameters.append(
            Parameter(
                path=where,
                name=name,
                role="weight" if is_weight else "bias",
                shape=shape,
                dtype=array.dtype,
                axes=axes if is_weight else resolve("o", shape) if shape else None,
                fan_in=axes.fan_in,
                fan_out=axes.fan_out,
                effective_fan_in=axes.fan_in,
                effective_fan_out=axes.fan_out,
                sharding=placement(array),
                kept=kept,
            )
        )
    kind = "Linear" if len(weight_shape) == 2 else "Conv"
    return Layer(path=path, kind=kind, cls=cls, parameters=tuple(parameters), ancestors=ancestors)


def _finished(layer: Layer, walk: Walk) -> Layer:
    """Add what only the whole walk knows: ties, constraints, notes of the adapters."""
    if not any(
        each.path in walk.ties or each.path in walk.constraints or each.path in walk.notes for each in layer.parameters
    ):
        return layer
    return replace(layer, parameters=tuple(_noted(each, walk) for each in layer.parameters))


def _noted(parameter: Parameter, walk: Walk) -> Parameter:
    path = parameter.path
    if path in walk.ties:
        return replace(parameter, kept=f"tied to {walk.ties[path]}")
    if path in walk.notes:
        return replace(parameter, kept=walk.notes[path])
    return replace(parameter, constraint=walk.constraints.get(path) or parameter.constraint)
