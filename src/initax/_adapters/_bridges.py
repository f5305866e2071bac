"""Flax's bridges: a Linen module inside an NNX one (`ToNNX`), and an NNX module inside a Linen one (`ToLinen`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flax import nnx
from flax.nnx import bridge

from initax._adapters import _linen, _linen_run, _nnx
from initax._adapters import survey as survey_model
from initax._adapters._nodes import Call, Node
from initax._adapters._variables import PARAMS, UNUSED, Entry, Names, Variables
from initax._model._parameter import Constraint, declaration_of
from initax._model._reason import Reason, follows, undeclared

HINT = "pass what the model is called on: inputs=x"


def describe(node: Any) -> Node | None:
    """Return what a Linen module inside an NNX one is, as far as its class or the names of its variables tell."""
    if not isinstance(node, bridge.ToNNX):
        return None
    record = _linen_run.Record()
    if declaration_of(type(node.to_nnx__module)) is None:
        return Node("named", children=_children(node), hint=HINT, rebuild_model=_nnx.rebuild)
    record.modules[()], record.calls[()] = node.to_nnx__module, ((), {})
    record.shapes |= {entry.names: tuple(entry.leaf.shape) for entry in _entries(node) if entry.collection == PARAMS}
    return _node(node, record)


def survey(model: Any, call: Call) -> Node | None:
    """Return what running a Linen module inside an NNX one tells, where it is known what it is called on."""
    if not isinstance(model, bridge.ToNNX) or call.module is not None or call.inputs is None:
        return None
    variables = Variables(tuple(_entries(model)), [], lambda leaves: None)
    if not variables.entries:
        return None
    record = _linen_run.run(model.to_nnx__module, variables.collections(), call.inputs, call.forward)
    return _node(model, record)


def _children(node: Any) -> dict[str, Any]:
    return {name: child for name, child in vars(node).items() if not name.startswith("_pytree__")}


def _entries(node: Any) -> Iterator[Entry]:
    """The variables in the attributes, each with its collection and its names there."""

    def below(names: Names, value: Any) -> Iterator[tuple[Names, Any]]:
        if isinstance(value, Mapping):
            for name, child in value.items():
                yield from below((*names, str(name)), child)
        elif isinstance(value, nnx.Variable):
            yield names, value

    attributes = {name: child for name, child in _children(node).items() if not name.startswith("to_nnx__")}
    for index, (names, variable) in enumerate(below((), attributes)):
        collection = nnx.variable_name_from_type(type(variable))
        yield Entry(collection, names, ".".join(names), variable.get_raw_value(), index)


def _node(node: Any, record: _linen_run.Record) -> Node:
    """A Linen module as its own adapter reads it, with the modules inside it."""
    entries = tuple(_entries(node))
    constraints, _ = _linen.wrappers(record, Variables(entries, [], lambda leaves: None))
    unused = {
        entry.path: UNUSED for entry in entries if entry.collection == PARAMS and entry.names not in record.shapes
    }
    children = {name: _inside((name,), child, record) for name, child in _children(node).items()}
    return _module((), children, record, constraints=constraints, reasons=unused, rebuild_model=_nnx.rebuild)


def _inside(names: Names, value: Any, record: _linen_run.Record) -> Any:
    if not isinstance(value, Mapping):
        return value
    children = {str(name): _inside((*names, str(name)), child, record) for name, child in value.items()}
    return _module(names, children, record) if names in record.modules else Node("container", children=children)


def _module(names: Names, children: Mapping[str, Any], record: _linen_run.Record, **further: Any) -> Node:
    """The module of these names as it was called, its arrays read as its row of the table says."""
    module = record.modules[names]
    declared = declaration_of(type(module))
    if declared is None:
        return Node("module", cls=type(module), children=children, **further)
    depth = len(names)
    inside = {key: ".".join(key[depth:]) for key in record.shapes if key[:depth] == names}
    seen = _linen.Seen(module, {name: record.shapes[key] for key, name in inside.items()}, record.calls[names])
    return Node(
        "module",
        kind=declared.kind,
        fields=declared.fields,
        children=children,
        module=seen,
        cls=type(module),
        stacks={name: record.stacks[key] for key, name in inside.items() if key in record.stacks},
        **further,
    )


def open_wrappers(record: _linen_run.Record, variables: Variables) -> _linen.Notes:
    """Put the modules inside of every `ToLinen` into the record of a run, as if they had been called themselves.

    Args:
        record: what a run saw.
        variables: the variables it was run with.

    Returns:
        Constraints of weights by their paths, and why arrays are kept.
    """
    path_at = {entry.names: entry.path for entry in variables.entries}
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
                    modules[(*around, *names)] = record.inside[(*around, *names)] = objects[names]
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
