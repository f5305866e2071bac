"""Any pytree: finds modules of declared classes, framework modules and plain containers of arrays, and writes back.

One walk, in the order in which JAX flattens the tree, so that every array is known by its leaf index. What a node is,
its framework's adapter says: a `Node`, or nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, default_registry, tree_flatten_with_path

from initax._adapters._facts import Facts
from initax._adapters._nodes import ARRAYS, MODULE, Node, absolute, entry_name, join, leaves_below
from initax._adapters._plain import Arrays, plain_layer, plain_layers, unknown
from initax._adapters._variables import Readings, are_named, read_inside, ungrouped
from initax._errors import ModelError, listing, message
from initax._model._declared import NOBODYS, declaration_of, declared_parameters
from initax._model._evidence import settled
from initax._model._parameter import UNDECLARED, Ancestor, Layer, Parameter, new_layer
from initax._model._reason import Reason, Why, follows, state, undeclared
from initax._model._states import BOXES
from initax._model._survey import Survey

Describe = Callable[[Any], Node | None]
"""Function from a node to its description by its framework, or to `None`."""

Children = Sequence[tuple[str, Any]]
"""Children of a node by name; what names them may name two alike."""

Ancestors = tuple[Ancestor, ...]
"""The modules and containers around a node, outermost first."""

PLAIN = Node("container")
"""The description of a node that no framework knows."""


@dataclass(slots=True)
class Walk:
    """The state of one walk.

    Attributes:
        has_shapes: whether tuples of numbers stand for arrays of these shapes.
        describe: function from a node to its description by its framework.
        layers: the layers found so far.
        leaves: the leaves seen so far; their number is the next leaf's index.
        indices: path of each leaf, reached again or not → its index.
        same: path of an array that another path holds, too → that path, where nothing but the object ties them.
        facts: what the nodes state about arrays.
        boxed: paths of the arrays in boxes.
        leaf_types: types that JAX was seen to treat as leaves.
        names: structure of a node → the names of its children; a model has many nodes and few that differ.
        readings: structure and shapes of a module → its parameters, without their paths.
        active: identities of the opened nodes around the one that is visited; graphs may have cycles.
        messages: what could not be told, for the plan.
        hint: what to pass for classes where names are all that was read.
        rebuilt: identity of each object that its adapter writes back → its description.
        rebuild_model: how an adapter wants the whole model written back.
    """

    has_shapes: bool
    describe: Describe
    layers: list[Layer] = field(default_factory=list)
    leaves: list[Any] = field(default_factory=list)
    indices: dict[str, int] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    boxed: set[str] = field(default_factory=set)
    leaf_types: set[type] = field(default_factory=set)
    names: dict[Any, tuple[str, ...]] = field(default_factory=dict)
    readings: dict[Any, tuple[Parameter, ...]] = field(default_factory=dict)
    active: set[int | None] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    hint: str = ""
    rebuilt: dict[int, Node] = field(default_factory=dict)
    rebuild_model: Callable[[Any, Mapping[str, Any]], Any] | None = None

    def leaf_at(self, path: str) -> Any:
        """Return the leaf at a path."""
        return self.leaves[self.indices[path]]

    def tied_by_object(self) -> tuple[str, ...]:
        """Return a note on arrays that are tied because they are one object, which may be an accident."""
        if not self.same:
            return ()
        pairs = [f"{path} is {owner}" for path, owner in self.same.items()]
        return (
            message(
                f"tied, because one array stands at several paths: {listing(pairs, 3)}",
                "to untie: jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf, model)",
            ),
        )

    def rebuilding(self, model: Any, flat: tuple[list[Any], Any]) -> Callable[[list[Any]], Any]:
        """How new leaves, in the order of the walk, become a new model."""
        whole = self.rebuild_model
        if whole is not None:
            return lambda leaves: whole(model, {path: leaves[index] for path, index in self.indices.items()})
        if not self.rebuilt:
            if self.has_shapes:
                flat = jax.tree_util.tree_flatten(model, is_leaf=_is_shape)
            leaves, structure = flat
            self._refuse_other_leaves(leaves)
            return structure.unflatten
        seen: list[Any] = []

        def as_it_is(leaf: Any) -> Any:
            seen.append(leaf)
            return leaf

        self._rebuilt(model, as_it_is)
        self._refuse_other_leaves(seen)

        def rebuild(leaves: list[Any]) -> Any:
            following = iter(leaves)
            return self._rebuilt(model, lambda leaf: next(following))

        return rebuild

    def _rebuilt(self, tree: Any, new: Callable[[Any], Any]) -> Any:
        """A tree with a function called on each leaf, in the order of the walk, and objects rebuilt by adapters."""

        def is_leaf(node: Any) -> bool:
            return id(node) in self.rebuilt or (self.has_shapes and _is_shape(node))

        def rebuilt(node: Any) -> Any:
            described = self.rebuilt.get(id(node))
            if described is None or described.rebuild is None:
                return new(node)
            if described.form == "box":
                return described.rebuild(self._rebuilt(described.value, new))
            children = described.children or {}
            return described.rebuild({name: self._rebuilt(child, new) for name, child in children.items()})

        return jax.tree_util.tree_map(rebuilt, tree, is_leaf=is_leaf)

    def _refuse_other_leaves(self, leaves: list[Any]) -> None:
        """Raise where writing leaves back in the order of the walk would put them elsewhere."""
        same = (
            old is new or isinstance(new, jax.ShapeDtypeStruct) for old, new in zip(leaves, self.leaves, strict=False)
        )
        if len(leaves) != len(self.leaves) or not all(same):
            raise ModelError(
                "an adapter describes a node otherwise than JAX flattens it, and does not say how to write it back.",
                f"leaves of the model: {len(leaves)} as JAX flattens it, {len(self.leaves)} as its nodes are described",
                "give the node a rebuild: ix.Node(..., children=children, rebuild=lambda new: type(node)(**new))",
            )

    def _children(self, node: Any) -> tuple[Children, Any] | None:
        """The children by name, and what nodes with the same names and static fields share; `None` for a leaf."""
        cls = type(node)
        if self.has_shapes and _is_shape(node):
            return None
        flattened = default_registry.flatten_one_level(node)
        if flattened is None:
            self.leaf_types.add(cls)
            return None
        children = tuple(flattened[0])
        structure: Any = (cls, flattened[1], len(children))
        names = None
        try:
            names = self.names.get(structure)
        except (TypeError, ValueError):  # a static field that can't be hashed or compared, e.g. a list or an array
            structure = None
        if names is None:
            named, _ = tree_flatten_with_path(node, is_leaf=lambda child: child is not node)
            names = tuple(entry_name(path[0]) for path, _ in named)
            if structure is not None:
                self.names[structure] = names
        return list(zip(names, children, strict=True)), structure

    def visit(  # noqa: PLR0912  one walk, one kind of node a branch
        self,
        node: Any,
        path: str,
        ancestors: Ancestors,
        owner: Holder | None,
        container: Holder | None = None,
        *,
        absorbed: bool = False,
        described: Node | None = None,
    ) -> None:
        """Walk a node.

        Args:
            node: the node.
            path: its path.
            ancestors: the modules and containers around it.
            owner: the nearest module around, to which all loose arrays below belong.
            container: outside any module, the container around, to which the node belongs if it is an array.
            absorbed: whether the module around declares this node's arrays as its own.
            described: its description, where its framework is not to be asked.
        """
        if node is None:
            return
        cls = type(node)
        if cls in self.leaf_types:
            self._leaf(node, path, owner or container)
            return
        described = described or self.describe(node) or PLAIN
        holder = owner or container
        if described.form == "wrapper" and holder is None:
            described = MODULE
        if described is not PLAIN:
            self.facts.add(described, path, cls)
            self.rebuild_model = described.rebuild_model or self.rebuild_model
            if described.rebuild is not None:
                self.rebuilt[id(node)] = described
        if described.form == "unread":
            self._keep_below(node, path, ancestors, described.reason or undeclared(), kind=UNDECLARED)
            return
        if described.form == "box":
            self._boxed(described, path, ancestors, owner, container)
            return
        if described.children is not None:
            if id(node) in self.active:
                return
            children: Children = tuple(described.children.items())
            structure = None if described.structure is None else (cls, described.structure)
        else:
            flattened = self._children(node)
            if flattened is None:
                self._leaf(node, path, holder)
                return
            children, structure = flattened
        if described.form == "wrapper" and holder is not None:
            self._wrapped(node, described, path, holder, ancestors)
            return
        if described.form == "state":
            self._keep_below(node, path, ancestors, described.reason or state())
            return
        is_module = described.form == "module" or declaration_of(cls) is not None
        if described.form == "named":
            self._named(node, children, path, ancestors, described.readings or APART)
        elif not is_module and len(children) == 1 and children[0][0] in BOXES and isinstance(children[0][1], ARRAYS):
            # A box that a checkpoint was restored without: the array goes by the box's name.
            self._leaf(children[0][1], join(path, children[0][0]), holder, name=path)
        elif not is_module and owner is None and are_named(node):
            self._named(node, children, path, ancestors, APART)
        elif not is_module and owner is None:
            self._container(node, children, path, ancestors)
        elif not is_module or absorbed:
            for name, child in children:
                self.visit(child, join(path, name), ancestors, owner)
        else:
            self._module(node, described, children, structure, path, ancestors)

    def _module(
        self, node: Any, described: Node, children: Children, structure: Any, path: str, ancestors: Ancestors
    ) -> None:
        """A module: a layer, if it owns arrays, with the layers inside it behind."""
        cls = type(node)
        holder = Holder(path, {})
        inner = (*ancestors, Ancestor(path, cls))
        index = len(self.layers)
        declared = declaration_of(cls, inherited=False) or described.declaration or declaration_of(cls)
        inside = declared.inside if declared is not None else ()
        mark = None if described.children is None else id(node)  # what JAX flattens is a tree
        self.active.add(mark)
        for name, child in children:
            if type(child) in self.leaf_types:
                self._leaf(child, join(path, name), holder)
            else:
                self.visit(child, join(path, name), inner, holder, absorbed=name in inside)
        self.active.discard(mark)
        if not holder.arrays:
            return
        if declared is None:
            descriptions = filter(None, (describe(node) for describe in holder.described_by))
            declared = next(filter(None, (description.declaration for description in descriptions)), NOBODYS)
        if declared is not NOBODYS and declared is not declaration_of(cls):
            self.facts.declarations[path] = declared
        parameters = declared_parameters(node, declared, holder.arrays, {}, structure, self.readings)
        constant = described.constant
        if constant is not None and any(array.excluded is not None for array in parameters):
            parameters = tuple(self._unless_constant(array, holder, constant) for array in parameters)
        kind = declared.kind
        if kind == UNDECLARED and all(array_path in self.facts.states for array_path, _ in holder.arrays.values()):
            kind = "State"
        self.layers.insert(index, new_layer(path, kind, cls, parameters, ancestors))

    def _unless_constant(
        self, parameter: Parameter, holder: Holder, constant: Callable[[Any, bool], Reason | None]
    ) -> Parameter:
        """An array of a module, as a constant where nobody declared it and its framework treats it as one."""
        if parameter.excluded is None or parameter.excluded.why is not Why.UNDECLARED:
            return parameter
        reason = constant(holder.arrays[parameter.name][1], parameter.path in self.boxed)
        return parameter if reason is None else replace(parameter, excluded=reason)

    def _boxed(
        self, described: Node, path: str, ancestors: Ancestors, owner: Holder | None, container: Holder | None
    ) -> None:
        """A box around one value: an array, or a tree of them."""
        value = described.value
        if owner is not None and described.holder is not None and described.holder not in owner.described_by:
            owner.described_by.append(described.holder)
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            self.boxed.add(path)
            self.facts.keep(path, described.reason)
            self._leaf(value, path, owner or container, identity=described.identity)
            return
        before = len(self.facts.places)
        self.visit(value, path, ancestors, owner, container)
        for inside in list(itertools.islice(self.facts.places, before, None)):
            self.boxed.add(inside)
            self.facts.keep(inside, described.reason)

    def _leaf(
        self,
        leaf: Any,
        path: str,
        holder: Holder | None,
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
            is_state: whether it is state, which a weight is not tied to.
            identity: what makes it the same as another one, where that is not the array.
            name: the path it goes by in what holds it, where that is not its own.
        """
        index = len(self.leaves)
        self.leaves.append(leaf)
        self.indices[path] = index
        if self.has_shapes and _is_shape(leaf):
            leaf = jax.ShapeDtypeStruct(leaf, jnp.result_type(float))
        if path in self.facts.placeholders and holder is not None:
            holder.arrays[_within(holder.path, name or path)] = (path, self.facts.placeholders[path])
            return
        if not isinstance(leaf, ARRAYS) and identity is None:
            return
        # Frameworks with boxes tie boxes: two that hold one array are two parameters.
        is_tied_by_box = identity is not None
        if identity is None and not is_state and not isinstance(leaf, jax.ShapeDtypeStruct):
            identity = id(leaf)
        self.facts.enter(
            path, index, identity, "a mapping key that holds a dot reads like a nested one; rename one of them"
        )
        if path in self.facts.ties and not is_tied_by_box:
            self.same[path] = self.facts.ties[path]
        if holder is None:  # the model is a single array
            self.layers.append(plain_layer("", type(leaf), {"": (path, leaf)}, (), "", None))
            return
        holder.arrays[_within(holder.path, name or path)] = (path, leaf)

    def _wrapped(self, node: Any, described: Node, path: str, holder: Holder, ancestors: Ancestors) -> None:
        """A wrapper in an array's place: the array it stands for belongs to the holder, under the wrapper's name."""
        main = absolute(path, described.array or "")
        others = Holder(path, {})
        for name, leaf in leaves_below(node):
            below = join(path, name)
            self._leaf(leaf, below, holder if below == main else others, name=path if below == main else below)
        if others.arrays:
            parameters = unknown(others.arrays, described.reason or follows(main), "scale")
            self.layers.append(new_layer(path, "Wrapper", type(node), parameters, ancestors))

    def _keep_below(self, node: Any, path: str, ancestors: Ancestors, reason: Reason, *, kind: str = "State") -> None:
        """State, or what can't be read: every array below is listed and left alone, be it tied to a weight or not."""
        holder = Holder(path, {})
        for entries, leaf in tree_flatten_with_path(node)[0]:
            # A box in what can't be read, e.g. a Variable, adds an attribute to the path, which is not a name.
            names = [entry for entry in entries if kind == "State" or not isinstance(entry, GetAttrKey)]
            self._leaf(leaf, join(path, ".".join(map(entry_name, names))), holder, is_state=True)
        if holder.arrays:
            parameters = unknown(holder.arrays, reason, "state" if kind == "State" else None)
            self.layers.append(new_layer(path, kind, type(node), parameters, ancestors))

    def _container(self, node: Any, children: Children, path: str, ancestors: Ancestors) -> None:
        """A plain container outside any module: its arrays are its weights and biases, or those of each other."""
        holder = Holder(path, {})
        index = len(self.layers)
        inner = (*ancestors, Ancestor(path, type(node)))
        for name, child in children:
            self.visit(child, join(path, name), inner, None, container=holder)
        self.layers[index:index] = plain_layers(path, type(node), holder.arrays, ancestors)

    def _named(self, node: Any, children: Children, path: str, ancestors: Ancestors, readings: Readings) -> None:
        """Variables of Linen inside something else, e.g. a list: read as they would be alone."""
        holder = Holder("", {})
        index = len(self.layers)
        for name, child in children:
            self.visit(child, join(path, name), ancestors, holder)
        is_whole = isinstance(node, Mapping) and hasattr(node.get("params"), "items")
        around = (*ancestors, Ancestor(path, type(node)))
        layers, reasons = read_inside(around, holder.arrays, readings, whole=is_whole)
        self.layers[index:index] = layers
        self.facts.reasons |= reasons
        if readings.read is None:
            self.messages += ungrouped(layers, readings.hint)
            self.hint = readings.hint


@dataclass(frozen=True, slots=True)
class Holder:
    """What holds an array.

    Attributes:
        path: its path.
        arrays: the arrays it holds.
        described_by: what describes a module by the boxes of arrays that it holds.
    """

    path: str
    arrays: Arrays
    described_by: list[Describe] = field(default_factory=list)


def survey(model: Any, describe: Describe, flat: tuple[list[Any], Any], root: Node | None = None) -> Survey:
    """Return the layers of a pytree and the means to write it back.

    Args:
        model: the pytree.
        describe: function from a node to its description by its framework.
        flat: its leaves and its structure, as JAX flattens it.
        root: the description of the whole, where its own framework does not give it.

    Raises:
        ModelError: two arrays have the same dotted path, or an adapter does not say how to write its nodes back.
    """
    # Shapes written as tuples count as arrays in a tree that holds nothing but numbers: {"w": (256, 10)}.
    has_shapes = bool(flat[0]) and all(type(leaf) is int for leaf in flat[0])
    walk = Walk(has_shapes=has_shapes, describe=describe)
    walk.visit(model, "", (), None, described=root)
    walk.facts.complete()
    by_path = ((path, walk.leaves[index]) for path, index in walk.indices.items())
    return Survey(
        layers=tuple(walk.facts.applied(layer, walk.leaf_at) for layer in settled(walk.layers, by_path, walk.hint)),
        places=walk.facts.places,
        aliases=walk.facts.aliases,
        leaves=walk.leaves,
        rebuild=walk.rebuilding(model, flat),
        notes=(*walk.messages, *walk.tied_by_object()),
        streams={path: stream for path, stream in walk.facts.streams.items() if path not in walk.facts.ties},
        hint=walk.hint,
    )


def _is_shape(node: Any) -> bool:
    return type(node) is tuple and bool(node) and all(type(size) is int for size in node)


def _within(base: str, path: str) -> str:
    return path[len(base) + 1 :] if base else path


APART = Readings(
    hint="pass each model alone, its Linen module with module= and inputs=, or the NNX module instead of its arrays"
)
