"""Variables of Flax Linen as nested mappings, read without Flax.

What is passed may be the whole dict of collections, its `params` alone, or a train state that holds them. The paths are
the same for all three, `Dense_0.kernel`, so that the same key gives the same draws. Other collections are state. Where
such mappings stand inside something else, e.g. a list, they are read by their names there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.tree_util import DictKey, GetAttrKey, tree_flatten_with_path

from initax._adapters._facts import Facts, kept_state
from initax._adapters._linen_names import Named, cell_of, is_automatic, read_by_name
from initax._adapters._nodes import ARRAYS, absolute, entry_name, packages_of
from initax._adapters._plain import Arrays, of_array, unknown
from initax._errors import listing
from initax._model._evidence import settled
from initax._model._parameter import UNDECLARED, Ancestor, Constraint, Layer, Parameter, new_layer
from initax._model._quick import maker
from initax._model._reason import OPTIMIZER_STATE, Reason, Why, state, undeclared
from initax._model._states import BOXES, unboxed
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


@dataclass(frozen=True, slots=True)
class Readings:
    """What a run of the module shows of its parameters; empty where there is no module to run.

    Attributes:
        owner: function from the names of a parameter to those of the module it belongs to; `None` where none was seen.
        classes: names of each module → its class, in the order in which they were called.
        read: function from a module's names and its own arrays to its kind and its parameters.
        constraints: path of a weight → what stands between the stored arrays and the effective weight.
        notes: path of an array that is never drawn alone → why.
        hint: what to pass where names do not tell.
    """

    owner: Callable[[Names], Names | None] = cell_of
    classes: Mapping[Names, type] = field(default_factory=dict)
    read: Callable[[Names, Arrays], tuple[str, tuple[Parameter, ...]]] | None = None
    constraints: Mapping[str, Constraint] = field(default_factory=dict)
    notes: Mapping[str, Reason] = field(default_factory=dict)
    hint: str = ""


def are_variables(model: Any) -> bool:
    """Return whether a model looks like variables of Flax Linen, or a train state that holds some.

    A mapping of mappings is treated as parameters where names in it are Flax's, at whatever level: `kernel`, or
    `Dense_0`. One that holds lists, tuples or modules of another framework is not a Linen module's.
    """
    if _is_train_state(model):
        return True
    if not _is_mapping(model) or not model:
        return False
    return _is_mapping(model.get(PARAMS)) or (are_named(model) and not any(map(_is_variable, _values(model))))


def are_named(node: Any) -> bool:
    """Return whether a node is a mapping of arrays alone whose names are Flax's.

    The arrays may be in boxes of Linen, or in Variables of NNX.
    """
    return (
        _is_mapping(node)
        and bool(node)
        and not any(map(_is_container, _values(node)))
        and (FROZEN in packages_of(type(node)) or _names_are_flax(node))
    )


def _is_mapping(node: Any) -> bool:
    """Whether this is a mapping, but not a state of NNX, whose names are attributes."""
    return type(node) is dict or (isinstance(node, Mapping) and NNX not in packages_of(type(node)))


def _is_train_state(model: Any) -> bool:
    return hasattr(model, "apply_fn") and _is_mapping(getattr(model, PARAMS, None))


def _values(tree: Any) -> Iterator[Any]:
    """What is in a mapping, and in the mappings in it."""
    for child in tree.values():
        yield from _values(child) if _is_mapping(child) else (child,)


def _is_variable(node: Any) -> bool:
    return NNX in packages_of(type(node)) and hasattr(node, "get_raw_value")


def _is_container(node: Any) -> bool:
    """Whether JAX looks for arrays in something that is not a box around one."""
    if isinstance(node, ARRAYS) or hasattr(node, "replace_boxed") or _is_variable(node):
        return False
    return bool(jax.tree.leaves(node)) and not jax.tree_util.all_leaves([node])


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


def _names(key: Any) -> Names:
    """The names that a key stands for: several where the mapping was flattened."""
    return tuple(map(str, key)) if isinstance(key, tuple) and key else (str(key),)


def take_apart(model: Any) -> tuple[list[Entry], Callable[[list[Any]], Any]]:
    """Return the leaves of variables, in JAX's order, and a function from new leaves to a model."""
    leaves, structure = tree_flatten_with_path(_boxes_with_shardings(model))
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
    return entries, lambda new: jax.tree.unflatten(structure, new)


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


def survey_variables(entries: Sequence[Entry], rebuild: Callable[[list[Any]], Any], readings: Readings) -> Survey:
    """Return the layers of variables.

    Args:
        entries: what the user passed, taken apart.
        rebuild: function from new leaves to a model.
        readings: what running the module told.

    Raises:
        ModelError: two arrays have the same dotted path.
    """
    facts = Facts(reasons=dict(readings.notes), constraints=dict(readings.constraints))
    arrays = [entry for entry in entries if isinstance(entry.leaf, ARRAYS)]
    for entry in arrays:
        may_be_tied = entry.collection == PARAMS and not isinstance(entry.leaf, jax.ShapeDtypeStruct)
        identity = id(entry.leaf) if may_be_tied else None
        facts.enter(entry.path, entry.index, identity, "rename the collection or the module")
    layers: Sequence[Layer] = _layers(arrays, readings)
    if readings.read is None:
        facts.reasons = _wrapped_notes(entries)
        layers = settled(layers, ((entry.path, entry.leaf) for entry in entries), readings.hint)
    return Survey(
        layers=tuple(facts.applied(layer) for layer in layers),
        places=facts.places,
        aliases=facts.aliases,
        leaves=[entry.leaf for entry in entries],
        rebuild=rebuild,
        notes=ungrouped(layers, "pass module= and inputs=") if readings.read is None else (),
    )


def read_inside(
    around: Sequence[Ancestor], arrays: Arrays, readings: Readings, *, whole: bool
) -> tuple[list[Layer], dict[str, Reason]]:
    """Return the layers of a mapping that stands inside something else, and why some of their arrays are kept.

    Args:
        around: what is around the mapping, and last the mapping itself, or the object whose attributes it is.
        arrays: its arrays by their paths.
        readings: what running the module told, if there is one.
        whole: whether it is the dict of collections.
    """
    base = around[-1].path
    root = tuple(filter(None, base.split(".")))
    entries = []
    for index, (path, leaf) in enumerate(arrays.values()):
        names = unboxed(tuple(path.split(".")))
        collection = names[len(root)] if whole else PARAMS
        entries.append(Entry(collection, names[len(root) :] if readings.read else names, path, leaf, index))
    layers = _layers(entries, readings)
    if readings.read is None:
        known = {ancestor.path: ancestor for ancestor in around}
        return [
            replace(layer, ancestors=tuple(known.get(ancestor.path, ancestor) for ancestor in layer.ancestors))
            for layer in layers
        ], _wrapped_notes(entries)
    return [
        replace(
            layer,
            path=absolute(base, layer.path),
            ancestors=(
                *around,
                *(Ancestor(absolute(base, ancestor.path), ancestor.cls) for ancestor in layer.ancestors),
            ),
        )
        for layer in layers
    ], {}


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
    order = {names: index for index, names in enumerate(readings.classes)}
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
    around = tuple(
        Ancestor(".".join(names[:count]), readings.classes.get(names[:count], dict)) for count in range(depth)
    )
    if readings.read is None:
        kind, parameters = read_by_name(names, arrays, readings.hint, known)
    elif names in readings.classes:
        kind, parameters = readings.read(names, arrays)
    else:
        kind, parameters = UNDECLARED, unknown(arrays, UNUSED)
    return new_layer(".".join(names), kind, readings.classes.get(names, dict), parameters, around)


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
    start = START.get(entry.names[-1]) if entry.collection == "batch_stats" else None
    return kept_state(of_array(entry.path, entry.path, entry.leaf, reason, default=start), entry.leaf)
