"""Flax's bridges: a Linen module inside an NNX one (`ToNNX`), and an NNX module inside a Linen one (`ToLinen`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flax import nnx
from flax.nnx import bridge

from initax._adapters import _linen, _linen_run, _nnx
from initax._adapters import survey as survey_model
from initax._adapters._nodes import Call, Node
from initax._adapters._variables import PARAMS, Entry, Names, Readings, nested
from initax._model._declared import declaration_of
from initax._model._parameter import Constraint
from initax._model._reason import Reason, follows, undeclared


def describe(node: Any) -> Node | None:
    """Return what a Linen module inside an NNX one is, as far as its class or the names of its variables tell."""
    if not isinstance(node, bridge.ToNNX):
        return None
    if declaration_of(type(node.to_nnx__module)) is None:
        return _node(node, Readings(hint="pass what the model is called on: inputs=x"))
    record, entries = _linen_run.Record(), _entries(node)
    record.modules[()], record.calls[()] = node.to_nnx__module, ((), {})
    record.shapes |= {entry.names: tuple(entry.leaf.shape) for entry in entries if entry.collection == PARAMS}
    return _node(node, _linen.readings(record, entries))


def survey(model: Any, call: Call) -> Node | None:
    """Return what running a Linen module inside an NNX one tells, where it is known what it is called on."""
    if not isinstance(model, bridge.ToNNX) or call.module is not None or call.inputs is None:
        return None
    entries = _entries(model)
    if not entries:
        return None
    collections = nested((entry, entry.names) for entry in entries)
    record = _linen_run.run(model.to_nnx__module, collections, call.inputs, call.forward)
    return _node(model, _linen.readings(record, entries))


def _node(node: Any, readings: Readings) -> Node:
    children, constraints = _nnx.children_of(node), readings.constraints
    return Node("named", children=children, readings=readings, constraints=constraints, rebuild_model=_nnx.rebuild)


def _entries(node: Any) -> list[Entry]:
    """The variables in the attributes, each with its collection and its names there."""
    flat = ((tuple(map(str, names)), box) for names, box in nnx.to_flat_state(nnx.state(node)))
    return [
        Entry(nnx.variable_name_from_type(type(box)), names, ".".join(names), box.get_raw_value(), index)
        for index, (names, box) in enumerate(flat)
        if not names[0].startswith("to_nnx__")
    ]


def open_wrappers(record: _linen_run.Record, entries: Sequence[Entry]) -> _linen.Notes:
    """Put the modules inside of every `ToLinen` into the record of a run, as if they had been called themselves.

    Args:
        record: what a run saw.
        entries: the variables it was run with.

    Returns:
        Constraints of weights by their paths, and why arrays are kept.
    """
    path_at = {entry.names: entry.path for entry in entries}
    constraints: dict[str, Constraint] = {}
    reasons: dict[str, Reason] = {}
    modules: dict[Names, Any] = {}
    for around, module in record.modules.items():
        modules[around] = module
        if not isinstance(module, bridge.ToLinen):
            continue
        whole = _made(module)
        objects = {tuple(map(str, names)): node for names, node in nnx.iter_graph(whole)}
        for layer in survey_model(whole).layers:
            for module_path in (*(ancestor.path for ancestor in layer.ancestors), layer.path):
                names = _names(module_path)
                if isinstance(objects.get(names), nnx.Module):
                    modules[(*around, *names)] = objects[names]
            for parameter in layer.parameters:
                path = path_at.get((*around, *_names(parameter.path)))
                constraint = parameter.constraint
                if path is None or constraint is None:
                    continue
                companions = [path_at.get((*around, *_names(companion))) for companion in constraint.companions]
                if None in companions:
                    reasons[path] = undeclared(f"behind {constraint.name}, whose other arrays are not here")
                else:
                    constraints[path] = replace(constraint, companions=tuple(map(str, companions)))
                    reasons |= dict.fromkeys(constraints[path].companions, follows(path))
    record.modules = modules
    return constraints, reasons


def _names(path: str) -> Names:
    return tuple(path.split(".")) if path else ()


def _made(wrapper: Any) -> Any:
    """The module in a `ToLinen`, made abstractly."""

    def make() -> Any:
        keys = {} if wrapper.skip_rng else {"rngs": nnx.Rngs(0)}
        return wrapper.nnx_class(*wrapper.args, **{**wrapper.kwargs, **keys})

    return nnx.eval_shape(make)
