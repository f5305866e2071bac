"""Any pytree: finds modules of declared classes, framework modules and plain containers of arrays, and writes back.

One walk, in the order in which JAX flattens the tree, so that every array is known by its leaf index.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, tree_flatten_with_path

from initax._adapters._nodes import ARRAYS, Opened, entry_name, packages_of
from initax._adapters._plain import Own, join, plain_layer, plain_layers, unknown
from initax._adapters._variables import are_named, read_by_name, ungrouped
from initax._adapters._wrappers import Wrapped, unwrap
from initax._errors import ModelError, message
from initax._model._declared import declared_parameters
from initax._model._evidence import settled
from initax._model._parameter import (
    FROM_KEY,
    UNDECLARED,
    WEIGHT_ROLES,
    Ancestor,
    Constraint,
    Declaration,
    Layer,
    Parameter,
    declaration_of,
)
from initax._model._reason import OPTIMIZER_STATE, Reason, Why, follows, state, tied, undeclared
from initax._model._states import BOXES
from initax._model._survey import Stream, Survey


class Adapter(Protocol):
    """What a framework's adapter does for the walk."""

    def describe(self, node: Any, walk: Walk, path: str) -> Literal["module", "state"] | Opened | None:
        """Return what a node is: a module of the framework, state to be left alone, opened otherwise, or nothing.

        It may leave constraints, ties and notes in the walk, and say how the model is written back.
        """


AdaptersOf = Callable[[frozenset[str]], tuple[Adapter, ...]]
"""Function from the packages that a class comes from to the adapters that know it."""


@dataclass(slots=True)
class Walk:
    """The state of one walk.

    Attributes:
        is_shape: whether a node is a shape that stands for an array.
        adapters_of: which adapters know a class.
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
        indices: path of each leaf, reached again or not → its index.
        state_at: path of an array that its framework calls state → why it is kept.
        streams: path of random state that was never made → function from the user's key to it.
        active: identities of the opened nodes around the one that is visited; graphs may have cycles.
        messages: what could not be told, for the plan.
        hint: what to pass for classes where names are all that was read.
        rebuild: how an adapter wants the model written back, from the leaves in the order of the walk.
    """

    is_shape: Callable[[Any], bool]
    adapters_of: AdaptersOf
    layers: list[Layer] = field(default_factory=list)
    leaves: list[Any] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    constraints: dict[str, Constraint] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    placeholders: dict[str, jax.ShapeDtypeStruct] = field(default_factory=dict)
    states: dict[Any, tuple[str, Any]] = field(default_factory=dict)
    notes: dict[str, Reason] = field(default_factory=dict)
    late: list[Callable[[], None]] = field(default_factory=list)
    leaf_types: set[type] = field(default_factory=set)
    indices: dict[str, int] = field(default_factory=dict)
    state_at: dict[str, Reason] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    active: set[int] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    hint: str = ""
    rebuild: Callable[[Any, Walk, list[Any]], Any] | None = None


def survey(model: Any, adapters_of: AdaptersOf) -> Survey:
    """Return the layers of a pytree and the means to write it back.

    Raises:
        ModelError: two arrays have the same dotted path.
    """
    leaves, structure = jax.tree_util.tree_flatten(model)
    is_shape = _shape_leaves(leaves)
    walk = Walk(is_shape=is_shape, adapters_of=adapters_of)
    _visit(model, "", (), None, walk)
    for finish in walk.late:
        finish()
    if walk.rebuild is not None:
        rebuild: Callable[[list[Any]], Any] = functools.partial(walk.rebuild, model, walk)
    else:
        shaped: Any = structure if is_shape is _never else jax.tree_util.tree_structure(model, is_leaf=is_shape)
        rebuild = shaped.unflatten
    by_path = {path: walk.leaves[index] for path, index in walk.indices.items()}
    return Survey(
        layers=tuple(_finished(layer, walk) for layer in settled(walk.layers, by_path, walk.hint)),
        places={path: tuple(places) for path, places in walk.places.items()},
        aliases=walk.aliases,
        leaves=walk.leaves,
        rebuild=rebuild,
        notes=tuple(walk.messages),
        streams={path: stream for path, stream in walk.streams.items() if path not in walk.ties},
        hint=walk.hint,
    )


def _shape_leaves(leaves: list[Any]) -> Callable[[Any], bool]:
    """Shapes written as tuples count as arrays in a tree that holds nothing but numbers: `{"w": (256, 10)}`."""
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


Holder = tuple[str, Own]
"""The path of what holds an array, and the arrays it holds."""


def _visit(  # noqa: PLR0912  one walk, one kind of node a branch
    node: Any,
    path: str,
    ancestors: tuple[Ancestor, ...],
    owner: Holder | None,
    walk: Walk,
    container: Holder | None = None,
    *,
    absorbed: bool = False,
) -> None:
    """Walk a node.

    Args:
        node: the node.
        path: its path.
        ancestors: the modules and containers around it.
        owner: the nearest module around, to which all loose arrays below belong.
        walk: the walk.
        container: outside any module, the container around, to which the node belongs if it is an array.
        absorbed: whether the module around declares this node's arrays as its own.
    """
    if node is None:
        return
    cls = type(node)
    if cls in walk.leaf_types:
        _leaf(node, path, owner or container, walk)
        return
    packages = packages_of(cls)
    views = [adapter.describe(node, walk, path) for adapter in walk.adapters_of(packages)]
    opened = next((view for view in views if isinstance(view, Opened)), None)
    if opened is not None and opened.unread is not None:
        _keep_below(node, path, ancestors, walk, opened.unread, kind=UNDECLARED)
        return
    if opened is not None and opened.children is None:
        _boxed(opened, path, ancestors, owner, walk, container)
        return
    if opened is not None and id(node) in walk.active:
        return
    structure = None
    if opened is not None and opened.children is not None:
        children: Sequence[tuple[str, Any]] = opened.children
    else:
        found = _children(node, walk)
        if found is None:
            _leaf(node, path, owner or container, walk)
            return
        if _stands_for_an_array(node, path, ancestors, owner or container, walk):
            return
        children, structure = found
    if "optax" in packages or "state" in views:
        _keep_below(node, path, ancestors, walk, OPTIMIZER_STATE if "optax" in packages else state())
        return
    declared = declaration_of(cls)
    is_module = "module" in views or declared is not None or (opened is not None and opened.is_module)
    if not is_module and len(children) == 1 and children[0][0] in BOXES and isinstance(children[0][1], ARRAYS):
        # A box that a checkpoint was restored without: the array goes by the box's name.
        _leaf(children[0][1], join(path, children[0][0]), owner or container, walk, name=path)
    elif not is_module and owner is None and are_named(node):
        _named(node, children, path, ancestors, walk)
    elif not is_module and owner is None:
        _container(node, children, path, ancestors, walk)
    elif not is_module or absorbed:
        for name, child in children:
            _visit(child, join(path, name), ancestors, owner, walk)
    else:
        _module(node, children, structure, declared, path, ancestors, walk)


def _module(
    node: Any,
    children: Sequence[tuple[str, Any]],
    structure: Any,
    declared: Declaration | None,
    path: str,
    ancestors: tuple[Ancestor, ...],
    walk: Walk,
) -> None:
    """A module: a layer, if it owns arrays, with the layers inside it behind."""
    own: Own = {}
    cls = type(node)
    around = (*ancestors, Ancestor(path, cls))
    place = len(walk.layers)
    inside = {name.partition(".")[0] for name in declared.fields if "." in name} if declared else set()
    walk.active.add(id(node))
    for name, child in children:
        _visit(child, join(path, name), around, (path, own), walk, absorbed=name in inside)
    walk.active.discard(id(node))
    if not own:
        return
    if declared is not None:
        parameters = declared_parameters(node, declared, own, structure)
    else:
        parameters = unknown(own, undeclared())
    kind = declared.kind if declared is not None else UNDECLARED
    if kind == UNDECLARED and all(where in walk.state_at for where, _ in own.values()):
        kind = "State"
    walk.layers.insert(place, Layer(path=path, kind=kind, cls=cls, parameters=parameters, ancestors=ancestors))


def _boxed(
    opened: Opened,
    path: str,
    ancestors: tuple[Ancestor, ...],
    owner: Holder | None,
    walk: Walk,
    container: Holder | None,
) -> None:
    """A box around one value: an array, or a tree of them."""
    value = opened.leaf
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        if opened.state is not None:
            walk.state_at[path] = opened.state
        _leaf(value, path, owner or container, walk, identity=opened.identity)
        return
    before = set(walk.places)
    _visit(value, path, ancestors, owner, walk, container)
    if opened.state is not None:
        walk.state_at |= dict.fromkeys(walk.places.keys() - before, opened.state)


def _leaf(
    leaf: Any,
    path: str,
    owner: Holder | None,
    walk: Walk,
    *,
    is_state: bool = False,
    identity: int | None = None,
    name: str | None = None,
) -> None:
    """Enter a leaf of the model, and the array that it is, if it is one, into what holds it.

    Args:
        leaf: the leaf.
        path: its path.
        owner: what holds it; `None` where the model is a single array.
        walk: the walk.
        is_state: whether it is state, which a weight is not tied to.
        identity: what makes it the same as another one, where that is not the array.
        name: the path it goes by in what holds it, where that is not its own.
    """
    index = len(walk.leaves)
    walk.leaves.append(leaf)
    walk.indices[path] = index
    if walk.is_shape(leaf):
        leaf = jax.ShapeDtypeStruct(leaf, jnp.result_type(float))
    if path in walk.placeholders and owner is not None:
        owner[1][_within(owner[0], path)] = (path, walk.placeholders[path])
        return
    if not isinstance(leaf, ARRAYS) and identity is None:
        return
    if path in walk.places:
        raise ModelError(
            message(
                f'two arrays have the path "{path}".',
                "a mapping key that holds a dot reads like a nested one; rename one of them",
            )
        )
    walk.places[path] = [index]
    concrete = [] if is_state or isinstance(leaf, jax.ShapeDtypeStruct) else [id(leaf)]
    firsts = [walk.owners.setdefault(each, path) for each in (identity, *concrete) if each is not None]
    first = next((each for each in firsts if each != path), path)
    if first != path:
        walk.places[first].append(index)
        walk.aliases[path] = first
        walk.ties[path] = first
    if owner is None:  # the model is a single array
        walk.layers.append(plain_layer("", type(leaf), {"": (path, leaf)}, (), "", None))
        return
    owner[1][_within(owner[0], name or path)] = (path, leaf)


def _stands_for_an_array(
    node: Any, path: str, ancestors: tuple[Ancestor, ...], holder: Holder | None, walk: Walk
) -> bool:
    """Whether a node is a wrapper in an array's place, which is then read; one around a module leaves notes only."""
    wrapper = unwrap(node)
    if wrapper is None or holder is None:
        return False
    if wrapper.array is not None:
        _wrapped(node, path, wrapper, wrapper.array, holder, ancestors, walk)
        return True
    below = [join(path, ".".join(map(entry_name, entries))) for entries, _ in tree_flatten_with_path(node)[0]]
    walk.notes |= dict.fromkeys(below, wrapper.kept or Reason(Why.FROZEN, f"inside {type(node).__name__}"))
    return False


def _wrapped(
    node: Any,
    path: str,
    wrapper: Wrapped,
    array: str,
    holder: Holder,
    ancestors: tuple[Ancestor, ...],
    walk: Walk,
) -> None:
    """A wrapper in an array's place: the array it stands for belongs to the holder, under the wrapper's own name."""
    main = join(path, array)
    others: Own = {}
    for entries, leaf in tree_flatten_with_path(node)[0]:
        below = join(path, ".".join(map(entry_name, entries)))
        _leaf(leaf, below, holder if below == main else (path, others), walk)
        name = _within(holder[0], below)
        if below == main and name in holder[1]:
            holder[1][_within(holder[0], path)] = holder[1].pop(name)
    if wrapper.kept is not None:
        walk.notes[main] = wrapper.kept
    else:
        walk.constraints[main] = wrapper.constraint(path)
    if others:
        reason = wrapper.kept or follows(main)
        parameters = tuple(replace(each, role="scale") for each in unknown(others, reason))
        walk.layers.append(Layer(path=path, kind="Wrapper", cls=type(node), parameters=parameters, ancestors=ancestors))


def _within(base: str, path: str) -> str:
    return path[len(base) + 1 :] if base else path


def _keep_below(
    node: Any, path: str, ancestors: tuple[Ancestor, ...], walk: Walk, reason: Reason, *, kind: str = "State"
) -> None:
    """State, or what can't be read: every array below is listed and left alone, be it tied to a weight or not."""
    own: Own = {}
    for entries, leaf in tree_flatten_with_path(node)[0]:
        # A box in what can't be read, a Variable say, is one attribute more, which is no name.
        names = [each for each in entries if kind == "State" or not isinstance(each, GetAttrKey)]
        _leaf(leaf, join(path, ".".join(map(entry_name, names))), (path, own), walk, is_state=True)
    if own:
        parameters = unknown(own, reason)
        if kind == "State":
            parameters = tuple(replace(each, role="state") for each in parameters)
        walk.layers.append(Layer(path=path, kind=kind, cls=type(node), parameters=parameters, ancestors=ancestors))


def _container(
    node: Any, children: Sequence[tuple[str, Any]], path: str, ancestors: tuple[Ancestor, ...], walk: Walk
) -> None:
    """A plain container outside any module: its arrays are weights and biases of the container, or of each other."""
    own: Own = {}
    place = len(walk.layers)
    around = (*ancestors, Ancestor(path, type(node)))
    for name, child in children:
        _visit(child, join(path, name), around, None, walk, container=(path, own))
    walk.layers[place:place] = plain_layers(path, type(node), own, ancestors)


APART = "pass each model by itself, its Linen module with module= and inputs=, or the NNX module instead of its arrays"


def _named(
    node: Any, children: Sequence[tuple[str, Any]], path: str, ancestors: tuple[Ancestor, ...], walk: Walk
) -> None:
    """A mapping with Flax's names inside something else, a list say: read by its names, as it is by itself."""
    own: Own = {}
    place = len(walk.layers)
    for name, child in children:
        _visit(child, join(path, name), ancestors, ("", own), walk)
    root = tuple(path.split(".")) if path else ()
    layers, notes = read_by_name(root, own, APART, whole=hasattr(node.get("params"), "items"))
    walk.layers[place:place] = layers
    walk.notes |= notes
    walk.messages += ungrouped(layers, APART)
    walk.hint = APART


def _finished(layer: Layer, walk: Walk) -> Layer:
    """Add what only the whole walk knows: ties, constraints, notes of the adapters."""
    if not any(
        each.path in walk.ties or each.path in walk.constraints or each.path in walk.notes or each.path in walk.state_at
        for each in layer.parameters
    ):
        return layer
    noted = (_noted(each, walk) for each in layer.parameters)
    return replace(layer, parameters=tuple(_behind_mask(each, layer, walk) for each in noted))


def _noted(parameter: Parameter, walk: Walk) -> Parameter:
    path = parameter.path
    if path in walk.ties:
        return replace(parameter, excluded=tied(walk.ties[path]))
    if path in walk.streams:
        return replace(parameter, role="state", default=FROM_KEY, excluded=None)
    if path in walk.state_at and path not in walk.notes:
        # State that was never made takes the value its framework starts it with, once a rule selects its layer.
        made = not isinstance(walk.leaves[walk.indices[path]], jax.ShapeDtypeStruct)
        born = not made and parameter.default is not None
        return replace(parameter, role="state", excluded=None if born else walk.state_at[path])
    if path in walk.notes:
        return replace(parameter, excluded=walk.notes[path])
    return replace(parameter, constraint=walk.constraints.get(path) or parameter.constraint)


def _behind_mask(parameter: Parameter, layer: Layer, walk: Walk) -> Parameter:
    """The parameter with the effective fans that a mask leaves its weight; a bias has its weight's."""
    weight = parameter.name if parameter.role in WEIGHT_ROLES else _weight_beside(parameter, layer)
    mask = next((walk.constraints.get(each.path) for each in layer.parameters if each.name == weight), None)
    if mask is None or mask.share == 1 or parameter.fans is None:
        return parameter
    return replace(parameter, fans=parameter.fans.masked(mask))


def _weight_beside(bias: Parameter, layer: Layer) -> str | None:
    """The name of the weight that a bias goes with, as it is declared, or as there is only one."""
    declaration = declaration_of(layer.cls)
    if declaration is not None:
        row = declaration.fields.get(bias.name)
        return row.of if row is not None else None
    weights = [each.name for each in layer.parameters if each.role in WEIGHT_ROLES]
    return weights[0] if len(weights) == 1 else None
