"""Any pytree: finds modules of declared classes, framework modules and plain containers of arrays, and writes back.

One walk, in the order in which JAX flattens the tree, so that every array is known by its leaf index. What a node is,
its framework's adapter says: a `Node`, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, tree_flatten_with_path

from initax._adapters._facts import Facts
from initax._adapters._nodes import ARRAYS, MODULE, Node, absolute, entry_name, join
from initax._adapters._plain import Own, plain_layer, plain_layers, unknown
from initax._adapters._variables import are_named, read_by_name, ungrouped
from initax._errors import ModelError, listing, message
from initax._model._declared import declared_parameters
from initax._model._evidence import settled
from initax._model._parameter import UNDECLARED, Ancestor, Declaration, Layer, Parameter, declaration_of
from initax._model._reason import Reason, Why, follows, state, undeclared
from initax._model._states import BOXES
from initax._model._survey import Survey

Describe = Callable[[Any], Node | None]
"""Function from a node to what its framework says of it, or nothing."""

Children = Sequence[tuple[str, Any]]
"""Children of a node by name; what names them may name two alike."""


@dataclass(slots=True)
class Walk:
    """The state of one walk.

    Attributes:
        is_shape: whether a node is a shape that stands for an array.
        describe: what the frameworks say of a node.
        layers: the layers found so far.
        leaves: the leaves seen so far; their number is the next leaf's index.
        indices: path of each leaf, reached again or not → its index.
        places: path of each array → leaf indices that hold it.
        same: path of an array that another path holds, too → that path, where nothing but the object ties them.
        owners: identity of each array → path at which it was first seen.
        facts: what the nodes said of arrays.
        boxed: paths of the arrays in boxes.
        leaf_types: types that JAX was seen to take for leaves.
        active: identities of the opened nodes around the one that is visited; graphs may have cycles.
        messages: what could not be told, for the plan.
        hint: what to pass for classes where names are all that was read.
        rebuilt: identity of each object that its adapter writes back → what the adapter said of it.
        rebuild_model: how an adapter wants the whole model written back.
    """

    is_shape: Callable[[Any], bool]
    describe: Describe
    layers: list[Layer] = field(default_factory=list)
    leaves: list[Any] = field(default_factory=list)
    indices: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[int]] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    boxed: set[str] = field(default_factory=set)
    leaf_types: set[type] = field(default_factory=set)
    active: set[int] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    hint: str = ""
    rebuilt: dict[int, Node] = field(default_factory=dict)
    rebuild_model: Callable[[Any, Mapping[str, Any]], Any] | None = None

    def leaf_at(self, path: str) -> Any:
        """Return the leaf at a path."""
        return self.leaves[self.indices[path]]


@dataclass(frozen=True, slots=True)
class Holder:
    """What holds an array.

    Attributes:
        path: its path.
        own: the arrays it holds.
        asked: what the boxes of these arrays say of modules that hold them.
    """

    path: str
    own: Own
    asked: list[Describe] = field(default_factory=list)


def survey(model: Any, describe: Describe, flat: tuple[list[Any], Any], root: Node | None = None) -> Survey:
    """Return the layers of a pytree and the means to write it back.

    Args:
        model: the pytree.
        describe: what the frameworks say of a node.
        flat: its leaves and its structure, as JAX flattens it.
        root: what is said of the whole, where that is more than its own framework says of it.

    Raises:
        ModelError: two arrays have the same dotted path, or an adapter does not say how to write its nodes back.
    """
    is_shape = _shape_leaves(flat[0])
    walk = Walk(is_shape=is_shape, describe=describe)
    _visit(model, "", (), None, walk, said=root)
    walk.facts.complete()
    by_path = ((path, walk.leaves[index]) for path, index in walk.indices.items())
    return Survey(
        layers=tuple(walk.facts.applied(layer, walk.leaf_at) for layer in settled(walk.layers, by_path, walk.hint)),
        places={path: tuple(places) for path, places in walk.places.items()},
        aliases=walk.facts.aliases,
        leaves=walk.leaves,
        rebuild=_rebuild(model, flat, walk),
        notes=(*walk.messages, *_tied_by_object(walk)),
        streams={path: stream for path, stream in walk.facts.streams.items() if path not in walk.facts.ties},
        hint=walk.hint,
    )


def _tied_by_object(walk: Walk) -> tuple[str, ...]:
    """Return a note on arrays that are tied because they are one object, which may be an accident."""
    if not walk.same:
        return ()
    pairs = [f"{path} is {owner}" for path, owner in walk.same.items()]
    return (
        message(
            f"tied, because one array stands at several paths: {listing(pairs, 3)}",
            "to untie: jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf, model)",
        ),
    )


def _rebuild(model: Any, flat: tuple[list[Any], Any], walk: Walk) -> Callable[[list[Any]], Any]:
    """How new leaves, in the order of the walk, become a new model."""
    whole = walk.rebuild_model
    if whole is not None:
        return lambda leaves: whole(model, {path: leaves[index] for path, index in walk.indices.items()})
    if not walk.rebuilt:
        if walk.is_shape is not _never:
            flat = jax.tree_util.tree_flatten(model, is_leaf=walk.is_shape)
        leaves, structure = flat
        _refuse_other_leaves(leaves, walk)
        unflatten: Callable[[list[Any]], Any] = structure.unflatten
        return unflatten
    seen: list[Any] = []

    def as_it_is(leaf: Any) -> Any:
        seen.append(leaf)
        return leaf

    _rebuilt(model, walk, as_it_is)
    _refuse_other_leaves(seen, walk)

    def rebuild(leaves: list[Any]) -> Any:
        following = iter(leaves)
        return _rebuilt(model, walk, lambda leaf: next(following))

    return rebuild


def _rebuilt(tree: Any, walk: Walk, new: Callable[[Any], Any]) -> Any:
    """A tree with each leaf, in the order of the walk, given to a function, and objects made anew by their adapters."""

    def is_leaf(node: Any) -> bool:
        return id(node) in walk.rebuilt or walk.is_shape(node)

    def one(node: Any) -> Any:
        said = walk.rebuilt.get(id(node))
        if said is None or said.rebuild is None:
            return new(node)
        if said.form == "box":
            return said.rebuild(_rebuilt(said.value, walk, new))
        return said.rebuild({name: _rebuilt(child, walk, new) for name, child in (said.children or {}).items()})

    return jax.tree_util.tree_map(one, tree, is_leaf=is_leaf)


def _refuse_other_leaves(leaves: list[Any], walk: Walk) -> None:
    """Raise where writing leaves back in the order of the walk would put them elsewhere."""
    same = (old is new or isinstance(new, jax.ShapeDtypeStruct) for old, new in zip(leaves, walk.leaves, strict=False))
    if len(leaves) != len(walk.leaves) or not all(same):
        raise ModelError(
            "an adapter describes a node otherwise than JAX flattens it, and does not say how to write it back.",
            f"leaves of the model: {len(leaves)} as JAX flattens it, {len(walk.leaves)} as its nodes are described",
            "give the node a rebuild: ix.Node(..., children=children, rebuild=lambda new: type(node)(**new))",
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


def _children(node: Any, walk: Walk) -> tuple[Children, Any] | None:
    """The node's children by name, and its own structure; `None` for a leaf."""
    if type(node) in walk.leaf_types or walk.is_shape(node):
        return None
    found, structure = tree_flatten_with_path(node, is_leaf=lambda each: each is not node)
    if len(found) == 1 and not found[0][0]:
        walk.leaf_types.add(type(node))
        return None
    return [(entry_name(path[0]), child) for path, child in found], structure


def _visit(  # noqa: PLR0912  one walk, one kind of node a branch
    node: Any,
    path: str,
    ancestors: tuple[Ancestor, ...],
    owner: Holder | None,
    walk: Walk,
    container: Holder | None = None,
    *,
    absorbed: bool = False,
    said: Node | None = None,
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
        said: what is said of it, where its framework is not to be asked.
    """
    if node is None:
        return
    cls = type(node)
    if cls in walk.leaf_types:
        _leaf(node, path, owner or container, walk)
        return
    said = said or (node if cls is Node else walk.describe(node))
    form = None if said is None else said.form
    if said is not None and form == "wrapper" and owner is None and container is None:
        said, form = MODULE, "module"
    if said is not None:
        walk.facts.enter(said, path, cls)
        walk.rebuild_model = said.rebuild_model or walk.rebuild_model
        if said.rebuild is not None:
            walk.rebuilt[id(node)] = said
    if said is not None and form == "unread":
        _keep_below(node, path, ancestors, walk, said.reason or undeclared(), kind=UNDECLARED)
        return
    if said is not None and form == "box":
        _boxed(said, path, ancestors, owner, walk, container)
        return
    structure = None
    if said is not None and said.children is not None:
        if id(node) in walk.active:
            return
        children: Children = tuple(said.children.items())
    else:
        found = _children(node, walk)
        if found is None:
            _leaf(node, path, owner or container, walk)
            return
        children, structure = found
    holder = owner or container
    if said is not None and form == "wrapper" and holder is not None:
        _wrapped(node, said, path, holder, ancestors, walk)
        return
    if said is not None and form == "state":
        _keep_below(node, path, ancestors, walk, said.reason or state())
        return
    is_module = form == "module" or declaration_of(cls) is not None
    hint = APART if said is None or said.hint is None else said.hint
    if form == "named":
        _named(node, children, path, ancestors, walk, hint)
    elif not is_module and len(children) == 1 and children[0][0] in BOXES and isinstance(children[0][1], ARRAYS):
        # A box that a checkpoint was restored without: the array goes by the box's name.
        _leaf(children[0][1], join(path, children[0][0]), holder, walk, name=path)
    elif not is_module and owner is None and are_named(node):
        _named(node, children, path, ancestors, walk, hint)
    elif not is_module and owner is None:
        _container(node, children, path, ancestors, walk)
    elif not is_module or absorbed:
        for name, child in children:
            _visit(child, join(path, name), ancestors, owner, walk)
    else:
        _module(node, said or MODULE, children, structure, path, ancestors, walk)


def _module(
    node: Any,
    said: Node,
    children: Children,
    structure: Any,
    path: str,
    ancestors: tuple[Ancestor, ...],
    walk: Walk,
) -> None:
    """A module: a layer, if it owns arrays, with the layers inside it behind."""
    cls = said.cls or type(node)
    if said.cls is not None and said.cls is not type(node) and not isinstance(node, Node):
        ancestors = (*ancestors, Ancestor(path, type(node)))
    holder = Holder(path, {})
    around = (*ancestors, Ancestor(path, cls))
    place = len(walk.layers)
    declared = declaration_of(cls, inherited=False) or said.declaration or declaration_of(cls)
    inside = {name.partition(".")[0] for name in declared.fields if "." in name} if declared else set()
    walk.active.add(id(node))
    for name, child in children:
        _visit(child, join(path, name), around, holder, walk, absorbed=name in inside)
    walk.active.discard(id(node))
    if not holder.own:
        return
    if declared is None:
        declared = next((found for ask in holder.asked if (found := _asked(ask, node)) is not None), None)
        if declared is not None:
            walk.facts.declarations[path] = declared
    elif declared is not declaration_of(cls):
        walk.facts.declarations[path] = declared
    if declared is not None:
        module = node if said.module is None else said.module
        parameters = declared_parameters(module, declared, holder.own, structure, said.stacks)
    else:
        parameters = unknown(holder.own, undeclared())
    if said.constant is not None:
        constant = said.constant
        parameters = tuple(_unless_constant(each, holder.own[each.name][1], constant, walk) for each in parameters)
    kind = declared.kind if declared is not None else UNDECLARED
    if kind == UNDECLARED and all(where in walk.facts.states for where, _ in holder.own.values()):
        kind = "State"
    walk.layers.insert(place, Layer(path=path, kind=kind, cls=cls, parameters=parameters, ancestors=ancestors))


def _unless_constant(
    parameter: Parameter, array: Any, constant: Callable[[Any, bool], Reason | None], walk: Walk
) -> Parameter:
    """An array of a module, as a constant where nobody declared it and its framework takes it for one."""
    if parameter.excluded is None or parameter.excluded.why is not Why.UNDECLARED:
        return parameter
    reason = constant(array, parameter.path in walk.boxed)
    return parameter if reason is None else replace(parameter, excluded=reason)


def _asked(ask: Describe, module: Any) -> Declaration | None:
    """How a module is read by what the box of one of its arrays says of it."""
    said = ask(module)
    return None if said is None else said.declaration


def _boxed(
    said: Node,
    path: str,
    ancestors: tuple[Ancestor, ...],
    owner: Holder | None,
    walk: Walk,
    container: Holder | None,
) -> None:
    """A box around one value: an array, or a tree of them."""
    value = said.value
    if owner is not None and said.holder is not None and said.holder not in owner.asked:
        owner.asked.append(said.holder)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        walk.boxed.add(path)
        if said.reason is not None:
            walk.facts.keep(path, said.reason)
        _leaf(value, path, owner or container, walk, identity=said.identity)
        return
    before = set(walk.places)
    _visit(value, path, ancestors, owner, walk, container)
    inside = walk.places.keys() - before
    walk.boxed |= inside
    if said.reason is not None:
        for each in inside:
            walk.facts.keep(each, said.reason)


def _leaf(
    leaf: Any,
    path: str,
    holder: Holder | None,
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
        holder: what holds it; `None` where the model is a single array.
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
    if path in walk.facts.placeholders and holder is not None:
        holder.own[_within(holder.path, path)] = (path, walk.facts.placeholders[path])
        return
    if not isinstance(leaf, ARRAYS) and identity is None:
        return
    if path in walk.places:
        raise ModelError(
            f'two arrays have the path "{path}".',
            "a mapping key that holds a dot reads like a nested one; rename one of them",
        )
    walk.places[path] = [index]
    # Frameworks with boxes tie boxes: two that hold one array are two parameters.
    is_tied_by_box = is_state or identity is not None or isinstance(leaf, jax.ShapeDtypeStruct)
    concrete = [] if is_tied_by_box else [id(leaf)]
    firsts = [walk.owners.setdefault(each, path) for each in (identity, *concrete) if each is not None]
    first = next((each for each in firsts if each != path), path)
    if first != path:
        walk.places[first].append(index)
        walk.facts.aliases[path] = first
        walk.facts.ties[path] = first
        if concrete:
            walk.same[path] = first
    if holder is None:  # the model is a single array
        walk.layers.append(plain_layer("", type(leaf), {"": (path, leaf)}, (), "", None))
        return
    holder.own[_within(holder.path, name or path)] = (path, leaf)


def _wrapped(node: Any, said: Node, path: str, holder: Holder, ancestors: tuple[Ancestor, ...], walk: Walk) -> None:
    """A wrapper in an array's place: the array it stands for belongs to the holder, under the wrapper's own name."""
    main = absolute(path, said.array or "")
    others = Holder(path, {})
    for entries, leaf in tree_flatten_with_path(node)[0]:
        below = join(path, ".".join(map(entry_name, entries)))
        _leaf(leaf, below, holder if below == main else others, walk)
        name = _within(holder.path, below)
        if below == main and name in holder.own:
            holder.own[_within(holder.path, path)] = holder.own.pop(name)
    if others.own:
        found = unknown(others.own, said.reason or follows(main))
        parameters = tuple(replace(each, role="scale") for each in found)
        walk.layers.append(Layer(path=path, kind="Wrapper", cls=type(node), parameters=parameters, ancestors=ancestors))


def _within(base: str, path: str) -> str:
    return path[len(base) + 1 :] if base else path


def _keep_below(
    node: Any, path: str, ancestors: tuple[Ancestor, ...], walk: Walk, reason: Reason, *, kind: str = "State"
) -> None:
    """State, or what can't be read: every array below is listed and left alone, be it tied to a weight or not."""
    holder = Holder(path, {})
    for entries, leaf in tree_flatten_with_path(node)[0]:
        # A box in what can't be read, a Variable say, is one attribute more, which is no name.
        names = [each for each in entries if kind == "State" or not isinstance(each, GetAttrKey)]
        _leaf(leaf, join(path, ".".join(map(entry_name, names))), holder, walk, is_state=True)
    if holder.own:
        parameters = unknown(holder.own, reason)
        if kind == "State":
            parameters = tuple(replace(each, role="state") for each in parameters)
        walk.layers.append(Layer(path=path, kind=kind, cls=type(node), parameters=parameters, ancestors=ancestors))


def _container(node: Any, children: Children, path: str, ancestors: tuple[Ancestor, ...], walk: Walk) -> None:
    """A plain container outside any module: its arrays are weights and biases of the container, or of each other."""
    holder = Holder(path, {})
    place = len(walk.layers)
    around = (*ancestors, Ancestor(path, type(node)))
    for name, child in children:
        _visit(child, join(path, name), around, None, walk, container=holder)
    walk.layers[place:place] = plain_layers(path, type(node), holder.own, ancestors)


APART = "pass each model by itself, its Linen module with module= and inputs=, or the NNX module instead of its arrays"


def _named(node: Any, children: Children, path: str, ancestors: tuple[Ancestor, ...], walk: Walk, hint: str) -> None:
    """A mapping with Flax's names inside something else, a list say: read by its names, as it is by itself."""
    holder = Holder("", {})
    place = len(walk.layers)
    for name, child in children:
        _visit(child, join(path, name), ancestors, holder, walk)
    root = tuple(path.split(".")) if path else ()
    is_whole = isinstance(node, Mapping) and hasattr(node.get("params"), "items")
    layers, reasons = read_by_name(root, holder.own, hint, whole=is_whole)
    around = {each.path: each for each in (*ancestors, Ancestor(path, type(node)))}
    walk.layers[place:place] = [
        replace(layer, ancestors=tuple(around.get(each.path, each) for each in layer.ancestors)) for layer in layers
    ]
    walk.facts.reasons |= reasons
    walk.messages += ungrouped(layers, hint)
    walk.hint = hint
