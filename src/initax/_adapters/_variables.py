"""Variables of Flax Linen as nested mappings, read without Flax.

What is passed may be the whole dict of collections, its `params` alone, or a train state that holds them. The paths are
the same for all three, `Dense_0.kernel`, so that the same key gives the same draws. Other collections are state. Where
such mappings stand inside something else, e.g. a list, they are read by their names there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.tree_util import DictKey, GetAttrKey, tree_flatten_with_path

from initax._adapters._facts import Facts
from initax._adapters._linen_names import Named, cell_of, is_automatic, named_layer
from initax._adapters._nodes import ARRAYS, entry_name, packages_of
from initax._adapters._plain import Arrays, of_array, unknown
from initax._errors import ModelError, listing
from initax._model._evidence import settled
from initax._model._parameter import UNDECLARED, Ancestor, Constraint, Layer, Parameter, new_layer
from initax._model._quick import maker
from initax._model._reason import OPTIMIZER_STATE, Reason, Why, state, undeclared
from initax._model._states import BOXES
from initax._model._survey import Survey

PARAMS = "params"
UNUSED = undeclared("the forward pass does not use it", Why.UNUSED)
NAMES = frozenset({"kernel", "embedding"})
"""Names that Flax gives its weights, by which a mapping of parameters is known."""
FROZEN = "flax.core"
"""Where a `FrozenDict` comes from, which is Linen's alone."""
NNX = "flax.nnx"
"""Where mappings come from that are not Linen's."""

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One leaf of the model.

    Attributes:
        collection: the collection it is in; `None` for what else a train state holds.
        names: the modules around it and its own name.
        path: its dotted path.
        leaf: the leaf.
        index: its place among the leaves.
    """

    collection: str | None
    names: Names
    path: str
    leaf: Any
    index: int


new_entry = maker(Entry)


@dataclass(frozen=True, slots=True)
class Variables:
    """A model taken apart.

    Attributes:
        entries: the leaves, in JAX's order.
        leaves: the same, bare.
        rebuild: function from new leaves to a model.
    """

    entries: tuple[Entry, ...]
    leaves: list[Any]
    rebuild: Callable[[list[Any]], Any]

    def collections(self) -> dict[str, dict[str, Any]]:
        """Return the collections as nested dicts of entries."""
        return nested((entry, entry.names) for entry in self.entries if entry.collection is not None)


def nested(entries: Iterable[tuple[Entry, Sequence[Any]]]) -> dict[str, dict[str, Any]]:
    """Return collections as nested dicts of entries.

    Args:
        entries: each entry of a collection, with the keys under which it stands there.
    """
    collections: dict[Any, dict[str, Any]] = {}
    for entry, (*around, last) in entries:
        inner = collections.setdefault(entry.collection, {})
        for key in around:
            inner = inner.setdefault(key, {})
        inner[last] = entry
    return collections


@dataclass(slots=True)
class Readings:
    """What a run of the module shows of its parameters; empty where there is no module to run.

    Attributes:
        owner: function from the names of a parameter to those of the module it belongs to; `None` where none was seen.
        classes: names of a module → its class.
        read: function from a module's names and its own arrays to its kind and its parameters.
        constraints: path of a weight → what stands between the stored arrays and the effective weight.
        notes: path of an array that is never drawn alone → why.
        hint: what to pass where names do not tell.
        order: names of modules in the order in which they were called.
    """

    owner: Callable[[Names], Names | None] = cell_of
    classes: Mapping[Names, type] = field(default_factory=dict)
    read: Callable[[Names, Arrays], tuple[str, tuple[Parameter, ...]]] | None = None
    constraints: Mapping[str, Constraint] = field(default_factory=dict)
    notes: Mapping[str, Reason] = field(default_factory=dict)
    hint: str = ""
    order: Sequence[Names] = ()


def are_variables(model: Any) -> bool:
    """Return whether a model looks like variables of Flax Linen, or a train state that holds some.

    A mapping of mappings is treated as parameters where names in it are Flax's, at whatever level: `kernel`, or
    `Dense_0`. One that holds lists, tuples or modules of another framework is not a Linen module's.
    """
    if _is_train_state(model):
        return True
    if not _is_mapping(model) or not model:
        return False
    return _is_mapping(model.get(PARAMS)) or (are_named(model) and not _holds_variables(model))


def are_named(node: Any) -> bool:
    """Return whether a node is a mapping of arrays alone whose names are Flax's.

    The arrays may be in boxes of Linen, or in Variables of NNX.
    """
    return (
        _is_mapping(node)
        and bool(node)
        and _holds_arrays_alone(node)
        and (FROZEN in packages_of(type(node)) or _names_are_flax(node))
    )


def _is_mapping(node: Any) -> bool:
    """Whether this is a mapping, but not a state of NNX, whose names are attributes."""
    return type(node) is dict or (isinstance(node, Mapping) and NNX not in packages_of(type(node)))


def _is_train_state(model: Any) -> bool:
    return hasattr(model, "apply_fn") and _is_mapping(getattr(model, PARAMS, None))


def _holds_arrays_alone(tree: Any) -> bool:
    return all(
        _holds_arrays_alone(child)
        if _is_mapping(child)
        else isinstance(child, ARRAYS)
        or hasattr(child, "replace_boxed")
        or _is_variable(child)
        or not _is_container(child)
        for child in tree.values()
    )


def _holds_variables(tree: Any) -> bool:
    return any(_holds_variables(child) if _is_mapping(child) else _is_variable(child) for child in tree.values())


def _is_variable(node: Any) -> bool:
    return NNX in packages_of(type(node)) and hasattr(node, "get_raw_value")


def _is_container(node: Any) -> bool:
    return bool(jax.tree_util.tree_leaves(node)) and not jax.tree_util.all_leaves([node])


def _names_are_flax(tree: Any) -> bool:
    for key, child in tree.items():
        *around, last = _names(key)
        if any(map(is_automatic, around)):
            return True
        is_module = _is_mapping(child)
        if is_module and all(name in BOXES for name in child):
            is_module = _is_mapping(child.get(next(iter(child), None)))
        if is_automatic(last) or _names_are_flax(child) if is_module else last in NAMES:
            return True
    return False


def unboxed(names: Names) -> Names:
    """Return names without that of a restored box around an array, which is not a name of the array."""
    return names[:-1] if len(names) > 1 and names[-1] in BOXES else names


def _names(key: Any) -> Names:
    """The names that a key stands for: several where the mapping was flattened."""
    return tuple(map(str, key)) if isinstance(key, tuple) and key else (str(key),)


def take_apart(model: Any) -> Variables:
    """Return the leaves of variables, each with its collection and names."""
    leaves, structure = tree_flatten_with_path(_boxes_with_shardings(model))
    tree: Any = structure
    whole = _is_mapping(model) and _is_mapping(model.get(PARAMS))
    is_train_state = _is_train_state(model)
    inner = is_train_state and _is_mapping(getattr(model, PARAMS).get(PARAMS))
    entries = []
    for index, (keys, leaf) in enumerate(leaves):
        collection: str | None = PARAMS
        rest = keys
        if is_train_state:
            field_name, rest = entry_name(keys[0]), keys[1:]
            collection = field_name if field_name in (PARAMS, "batch_stats") else None
            if collection == PARAMS and inner:
                collection, rest = entry_name(rest[0]), rest[1:]
        elif whole:
            collection, rest = entry_name(keys[0]), keys[1:]
        # A box around an array, e.g. `nn.Partitioned`, adds an attribute to the path, which is not a name.
        names: Names = ()
        for key in rest:
            if not isinstance(key, GetAttrKey):
                names += _names(key.key) if isinstance(key, DictKey) else (entry_name(key),)
        if collection is None or not names:
            collection, names = None, tuple(map(entry_name, keys))
        inside = ".".join(names).replace("/", ".")
        path = inside if collection in (PARAMS, None) else f"{collection}.{inside}"
        entries.append(new_entry(collection, unboxed(names), path, leaf, index))
    return Variables(tuple(entries), [leaf for _, leaf in leaves], tree.unflatten)


def _boxes_with_shardings(model: Any) -> Any:
    """The model with the abstract arrays in boxes, e.g. `nn.Partitioned`, given the shardings that the boxes name."""

    def with_sharding(node: Any) -> Any:
        if not _is_box(node):
            return node
        from initax._adapters._linen_boxes import box_with_sharding  # who has a box has Flax

        return box_with_sharding(node)

    return jax.tree.map(with_sharding, model, is_leaf=_is_box)


def _is_box(node: Any) -> bool:
    # One name first: this is asked of every array, and there is a box for few.
    return hasattr(node, "replace_boxed") and all(
        hasattr(node, name) for name in ("get_partition_spec", "value", "mesh")
    )


def survey_variables(variables: Variables, readings: Readings) -> Survey:
    """Return the layers of variables.

    Args:
        variables: what the user passed, taken apart.
        readings: what running the module told.

    Raises:
        ModelError: two arrays have the same dotted path.
    """
    places: dict[str, list[int]] = {}
    firsts: dict[int, str] = {}
    ties: dict[str, str] = {}
    for entry in variables.entries:
        if not isinstance(entry.leaf, ARRAYS):
            continue
        if entry.path in places:
            raise ModelError(f'two arrays have the path "{entry.path}".', "rename the collection or the module")
        places[entry.path] = [entry.index]
        if entry.collection == PARAMS and not isinstance(entry.leaf, jax.ShapeDtypeStruct):
            first = firsts.setdefault(id(entry.leaf), entry.path)
            if first != entry.path:
                places[first].append(entry.index)
                ties[entry.path] = first
    layers: Sequence[Layer] = _layers([entry for entry in variables.entries if entry.path in places], readings)
    if readings.read is None:
        readings.notes = _wrapped_notes(variables.entries)
        layers = settled(layers, ((entry.path, entry.leaf) for entry in variables.entries), readings.hint)
    facts = Facts(ties=ties, reasons=dict(readings.notes), constraints=dict(readings.constraints))
    return Survey(
        layers=tuple(facts.applied(layer) for layer in layers),
        places={path: tuple(indices) for path, indices in places.items()},
        aliases=dict(ties),
        leaves=variables.leaves,
        rebuild=variables.rebuild,
        notes=ungrouped(layers, "pass module= and inputs=") if readings.read is None else (),
    )


def read_by_name(root: Names, arrays: Arrays, hint: str, *, whole: bool) -> tuple[list[Layer], dict[str, Reason]]:
    """Return the layers of a mapping that stands inside something else, and why some of their arrays are kept.

    Args:
        root: the names around the mapping.
        arrays: its arrays by their paths.
        hint: what to pass where names do not tell.
        whole: whether it is the dict of collections.
    """
    entries = []
    for index, (path, leaf) in enumerate(arrays.values()):
        names = unboxed(tuple(path.split(".")))
        entries.append(Entry(names[len(root)] if whole else PARAMS, names, path, leaf, index))
    return _layers(entries, Readings(hint=hint)), _wrapped_notes(entries)


def _layers(entries: Iterable[Entry], readings: Readings) -> list[Layer]:
    """The layers that arrays belong to, in the order in which they are called, and what is state behind them."""
    owners: dict[Names, list[Entry]] = {}
    states: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.collection == PARAMS:
            owner = readings.owner(entry.names)
            owners.setdefault(entry.names[:-1] if owner is None else owner, []).append(entry)
        else:
            group = entry.names[0] if entry.collection is None else entry.path[: -len(entry.names[-1]) - 1]
            states.setdefault(group, []).append(entry)
    order = {names: index for index, names in enumerate(readings.order)}
    ordered = sorted(owners, key=lambda names: order.get(names, len(order)))
    known: Named = {}
    layers = [_layer(names, owners[names], readings, known) for names in ordered]
    return [*layers, *(_state_layer(group, entries) for group, entries in states.items())]


def _wrapped_notes(entries: Iterable[Entry]) -> dict[str, Reason]:
    reason = undeclared("another module wraps it, weight norm it may be")
    return dict.fromkeys(map(".".join, wrapped(entries)), reason)


def wrapped(entries: Iterable[Entry]) -> dict[Names, Entry]:
    """Return the names of the weights that a wrapper's arrays are named by, each with one of those arrays.

    The weight of `WeightNorm_0`'s `Dense_0/kernel/scale` is in a module beside the wrapper, or inside it where nothing
    is around the wrapper.
    """
    entries = list(entries)
    params = {entry.names for entry in entries if entry.collection == PARAMS}
    weights: dict[Names, Entry] = {}
    for entry in entries:
        *around, last = entry.names
        inside = tuple(last.split("/")[:-1])
        if entry.collection is not None and inside:
            candidates = ((*around, *inside), (*around[:-1], *inside))
            weights |= {names: entry for names in candidates if names in params}
    return weights


def ungrouped(layers: Sequence[Layer], line: str) -> tuple[str, ...]:
    """Return what names can't tell of convolutions, with the line that tells."""
    convolutions = (layer for layer in layers if layer.kind == "Conv")
    kernels = [array.path for layer in convolutions for array in layer.parameters if array.role == "weight"]
    if not kernels:
        return ()
    return (
        f"groups can't be told by name: fan_out of {listing(kernels[:2], 2)} is counted for one group; "
        f"where there are more, {line}",
    )


def _layer(names: Names, entries: list[Entry], readings: Readings, known: Named) -> Layer:
    depth = len(names)
    arrays: Arrays = {".".join(entry.names[depth:]): (entry.path, entry.leaf) for entry in entries}
    path = ".".join(names)
    around = tuple(
        Ancestor(".".join(names[:count]), readings.classes.get(names[:count], dict)) for count in range(depth)
    )
    if readings.read is None:
        return named_layer(path, names, arrays, around, readings.hint, known)
    if names not in readings.classes:
        return new_layer(path, UNDECLARED, dict, unknown(arrays, UNUSED), around)
    kind, parameters = readings.read(names, arrays)
    return new_layer(path, kind, readings.classes[names], parameters, around)


def _state_layer(group: str, entries: list[Entry]) -> Layer:
    collection = entries[0].collection
    reason = OPTIMIZER_STATE if group == "opt_state" else state()
    if collection:
        why = Why.STATISTICS if collection == "batch_stats" else Why.STATE
        reason = Reason(why, f"state: collection {collection}")
    return Layer(path=group, kind="State", cls=dict, parameters=tuple(_state(entry, reason) for entry in entries))


START = {"mean": "zeros", "var": "ones"}
"""Running statistics of `batch_stats` → what they start with."""


def _state(entry: Entry, reason: Reason) -> Parameter:
    """State is kept, but for running statistics that were never made: they take the value they start with."""
    start = START.get(entry.names[-1]) if entry.collection == "batch_stats" else None
    parameter = of_array(entry.path, entry.path, entry.leaf, reason, "state", default=start)
    starts = start is not None and isinstance(entry.leaf, jax.ShapeDtypeStruct)
    return replace(parameter, excluded=None) if starts else parameter
