"""Flax Linen: the table of its modules, and variables read by running the module they belong to."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.nn import initializers
from jax.tree_util import DictKey

from initax._adapters._linen_run import Record, apply, run
from initax._adapters._nodes import Call, carried_module, packages_of
from initax._adapters._plain import Arrays, unknown
from initax._adapters._shared_patterns import (
    as_tuple,
    einsum_patterns,
    flax_weight_norm,
    general_pattern,
    kernel_size,
    looked_up,
    numbered,
    of_flax_conv,
    of_flax_transposed,
    per_axis,
)
from initax._adapters._spectral_norm import FlaxSpectralNormPreimage
from initax._adapters._variables import (
    PARAMS,
    UNUSED,
    Entry,
    Names,
    Readings,
    are_variables,
    nested,
    survey_variables,
    take_apart,
)
from initax._errors import ModelError
from initax._math._axes import Axes
from initax._model._declared import (
    GRU_GATES,
    LSTM_GATES,
    NOBODYS,
    Declaration,
    Field,
    bias,
    declaration_of,
    declare,
    declared_parameters,
    row,
    weight,
)
from initax._model._parameter import Constraint, DefaultSpec, FrameworkInit, Parameter
from initax._model._reason import Reason, follows, undeclared
from initax._model._survey import Survey

BRIDGE = "flax.nnx.bridge"
"""Where a module of Linen comes from that holds one of NNX."""
BRIDGES = "initax._adapters._bridges"
"""What knows it, loaded where there is one."""

MGU_GATES = ("forget", "new")
CONV_GATES: dict[str, Any] = {"sizes": {"gate": 4}, "gates": ("input", "cell", "forget", "output")}
"""Gates of `ConvLSTMCell`, which are not in the order of the others."""


class Seen:
    """A module as it was called: its own fields, its parameters' shapes inside it, and the call's arguments."""

    def __init__(self, module: Any, shapes: Mapping[str, tuple[int, ...]], call: tuple[Any, Any]) -> None:
        self.module = module
        self.shapes = shapes
        self.args, self.kwargs = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def _own(attribute: str, name: str, flat: Callable[[Seen], tuple[int, ...]] | None = None) -> Any:
    """The default of an array: the module's own initializer, called with the shape the module calls it with."""

    def default(seen: Seen) -> DefaultSpec:
        init = getattr(seen, attribute)
        if init in (initializers.zeros, initializers.ones):
            return str(init.__name__)
        shape = flat(seen) if flat is not None else seen.shapes[name]
        return FrameworkInit(function=init, shape=shape)

    return default


def _counts(seen: Seen) -> tuple[int, int, int]:
    return len(as_tuple(seen.batch_dims)), len(as_tuple(seen.axis)), len(as_tuple(seen.features))


def _flat(seen: Seen) -> tuple[int, ...]:
    shape, outputs = seen.shapes["kernel"], _counts(seen)[2]
    return math.prod(shape[:-outputs]), math.prod(shape[-outputs:])


def _flat_bias(seen: Seen) -> tuple[int, ...]:
    return (math.prod(seen.shapes["bias"]),)


def _general_bias_pattern(seen: Seen) -> str:
    batch, _, outputs = _counts(seen)
    return general_pattern(batch, 0, outputs)


def _equation(seen: Seen) -> str:
    equation = seen.args[1] if len(seen.args) > 1 else seen.kwargs.get("einsum_str")
    return str(equation or seen.module.einsum_str)


def _local(seen: Seen, axes: Axes) -> tuple[float, float]:
    """Each position has a kernel of its own, which holds the taps among the inputs."""
    window = kernel_size(seen)
    return axes.fan_in, axes.fan_out * math.prod(window) / math.prod(per_axis(seen.strides, len(window)))


def _local_nominal(seen: Seen, axes: Axes) -> tuple[float, float]:
    """Each input reaches the outputs of as many positions as a window has taps, as in any convolution."""
    return axes.fan_in, axes.fan_out * math.prod(kernel_size(seen))


def _positions(seen: Seen) -> list[str]:
    return numbered("p", len(kernel_size(seen)))


def _weight(pattern: str | Callable[[Any], str], name: str = "kernel", **further: Any) -> Field:
    return weight(pattern, **{"default": _own(f"{name}_init", name), **further})


def _bias(pattern: str | Callable[[Any], str] = "o", **further: Any) -> Field:
    return bias(pattern, "kernel", **{"default": _own("bias_init", "bias"), **further})


def _outputs(name: str) -> Callable[[Any], str]:
    return lambda seen: " ".join(numbered("o", len(seen.shapes[name])))


NORM = row(
    "Norm",
    scale=weight(_outputs("scale"), "scale", default=_own("scale_init", "scale")),
    bias=bias(_outputs("bias"), None, default=_own("bias_init", "bias")),
)


def _cell(gates: Mapping[str, tuple[str, str]], *, inner: Mapping[str, str], hidden: Mapping[str, str]) -> Declaration:
    """A cell whose gates are modules of their own.

    Args:
        gates: gate → names of its input module and its hidden one; a cell without gates has one, called "".
        inner: gates whose input module has a bias → the cell's field with its initializer.
        hidden: the same for hidden modules.
    """
    fields: dict[str, Field] = {}
    for gate, names in gates.items():
        shared: dict[str, Any] = {"gates": (gate,) if gate else ()}
        kernel, recurrent = (f"{name}.kernel" for name in names)
        fields |= {
            kernel: weight("i o", default=_own("kernel_init", kernel), **shared),
            recurrent: weight("i o", "recurrent", default=_own("recurrent_kernel_init", recurrent), **shared),
        }
        # A bias that serves both sides has the fans of the input side, as in the other frameworks.
        for name, init, of in (
            (names[0], inner.get(gate), kernel),
            (names[1], hidden.get(gate), recurrent if gate in inner else kernel),
        ):
            if init is not None:
                fields[f"{name}.bias"] = bias("o", of, default=_own(init, f"{name}.bias"), **shared)
    return row("RNNCell", fields)


def _lettered(gates: tuple[str, ...], letters: str) -> dict[str, tuple[str, str]]:
    return {gate: (f"i{letter}", f"h{letter}") for gate, letter in zip(gates, letters, strict=True)}


LSTM = _cell(_lettered(LSTM_GATES, "ifgo"), inner={}, hidden=dict.fromkeys(LSTM_GATES, "bias_init"))
LAYERS: dict[type, Declaration] = {
    nn.Dense: row("Linear", kernel=_weight("i o"), bias=_bias()),
    nn.DenseGeneral: row(
        "Linear",
        kernel=_weight(lambda seen: general_pattern(*_counts(seen)), default=_own("kernel_init", "kernel", _flat)),
        bias=_bias(_general_bias_pattern, default=_own("bias_init", "bias", _flat_bias)),
    ),
    nn.Einsum: row(
        "Linear",
        kernel=_weight(lambda seen: einsum_patterns(_equation(seen))[0]),
        bias=_bias(lambda seen: einsum_patterns(_equation(seen))[1]),
    ),
    nn.Conv: row(
        "Conv",
        kernel=_weight("... i (g o)", sizes={"g": "feature_group_count"}, effective=of_flax_conv),
        bias=_bias("(g o)", sizes={"g": "feature_group_count"}),
    ),
    nn.ConvLocal: row(
        "ConvLocal",
        kernel=_weight(lambda seen: " ".join([*_positions(seen), "i", "o"]), effective=_local, nominal=_local_nominal),
        bias=_bias(lambda seen: " ".join([*_positions(seen), "o"])),
    ),
    nn.ConvTranspose: row(
        "ConvTranspose",
        kernel=_weight(lambda seen: "... o i" if seen.transpose_kernel else "... i o", effective=of_flax_transposed),
        bias=_bias(),
    ),
    nn.Embed: row("Embedding", embedding=_weight("o i", "embedding", role="embedding", effective=looked_up)),
    nn.LSTMCell: LSTM,
    nn.OptimizedLSTMCell: LSTM,
    nn.GRUCell: _cell(
        _lettered(GRU_GATES, "rzn"), inner=dict.fromkeys(GRU_GATES, "bias_init"), hidden={"new": "bias_init"}
    ),
    nn.MGUCell: _cell(
        _lettered(MGU_GATES, "fn"),
        inner={"forget": "forget_bias_init", "new": "activation_bias_init"},
        hidden={"new": "activation_bias_init"},
    ),
    nn.SimpleCell: _cell({"": ("i", "h")}, inner={"": "bias_init"}, hidden={}),
    nn.ConvLSTMCell: row(
        "RNNCell",
        {
            "ih.kernel": weight("... i (gate o)", default="lecun_normal", **CONV_GATES),
            "ih.bias": bias("(gate o)", "ih.kernel", default="zeros", **CONV_GATES),
            "hh.kernel": weight("... i (gate o)", "recurrent", default="lecun_normal", **CONV_GATES),
            "hh.bias": bias("(gate o)", "hh.kernel", default="zeros", **CONV_GATES),
        },
    ),
    **dict.fromkeys((nn.BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm), NORM),
    nn.WeightNorm: row("WeightNorm"),
    nn.PReLU: row(
        "PReLU",
        negative_slope=weight(
            "...", "scale", default=lambda seen: ("constant", {"value": float(seen.negative_slope_init)})
        ),
    ),
}
"""Every class of `flax.linen` that owns parameters: one row each. Subclasses inherit the row of the nearest base."""

for _cls, _row in LAYERS.items():
    declare(_cls, _row)


def survey(model: Any, call: Call) -> Survey | None:
    """Return what initax finds in the variables of a Linen module; nothing where there is no such module.

    Args:
        model: the variables: all collections, `params` alone, or a train state.
        call: the module, what it is called on, and how, where a plain call is not it. A train state that is given with
            inputs carries its module.

    Raises:
        ModelError: the model is a module, `module` is none, there are no variables or inputs, or they do not fit.
    """
    module, inputs, forward = call.module, call.inputs, call.forward
    line = "variables = {}(...).init(key, x); ix.reinit(variables, rules, key, module=module, inputs=x)"
    if module is None:
        if isinstance(model, nn.Module):
            name = type(model).__name__
            raise ModelError(f"a Linen module holds no arrays: {name}.", line.format(name))
        module = None if inputs is None else carried_module(model)
        if not isinstance(module, nn.Module):
            return None
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"module= takes a flax.linen module, not {module!r} ({type(module).__name__}).",
            f"make an instance: module={module.__name__}(...)" if isinstance(module, type) else "",
        )
    name = type(module).__name__
    if not isinstance(model, Mapping) and not are_variables(model):
        raise ModelError(f"module={name} goes with its variables, not with {type(model).__name__}.", line.format(name))
    if inputs is None:
        raise ModelError(
            f"module={name} needs inputs=, what the module is called on.",
            "shapes will do: inputs=jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)",
        )
    entries, rebuild = take_apart(model)
    record = run(module, _collections(model, entries), inputs, forward)
    surveyed = survey_variables(entries, rebuild, readings(record, entries))
    surveyed.call = functools.partial(_call, module, forward)
    return surveyed


def readings(record: Record, entries: Sequence[Entry]) -> Readings:
    """Return what a run of a module shows of its parameters."""
    constraints, notes = _wrappers(record, entries)
    if any(BRIDGE in packages_of(type(inside)) for inside in record.modules.values()):
        further, why = importlib.import_module(BRIDGES).open_wrappers(record, entries)
        constraints, notes = constraints | further, notes | why
    return Readings(
        owner=functools.partial(_owner, record),
        classes={names: type(module) for names, module in record.modules.items()},
        read=functools.partial(_read, record),
        constraints=constraints,
        notes=notes,
    )


def _call(module: Any, forward: Callable[..., Any] | None, model: Any, *inputs: Any) -> Any:
    """Call the module with variables in whatever form they were passed."""
    variables = jax.tree_util.tree_map(lambda entry: entry.leaf, _collections(model, take_apart(model)[0]))
    return apply(module, variables, inputs, forward)[0]


def _collections(model: Any, entries: Sequence[Entry]) -> dict[str, Any]:
    """The collections as nested dicts of entries, by the very keys of the model unless that is flattened.

    A module of NNX inside one of Linen's has keys that are not names: numbers and tuples.
    """

    def keys_of(path: Sequence[Any], entry: Entry) -> Sequence[Any]:
        keys = [key.key for key in path if isinstance(key, DictKey)]
        lengths = [len(key) if isinstance(key, tuple) else 1 for key in keys]
        while sum(lengths) > len(entry.names):  # the name of the collection stands in front
            keys, lengths = keys[1:], lengths[1:]
        return entry.names if isinstance(keys[0], tuple) else keys

    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    pairs = zip(leaves, entries, strict=True)
    return nested((entry, keys_of(path, entry)) for (path, _), entry in pairs if entry.collection is not None)


def _owner(record: Record, names: Names) -> Names | None:
    for count in range(len(names)):
        module = record.modules.get(names[:count])
        declared = declaration_of(type(module))
        if declared is not None and len(names) - count > 1 and ".".join(names[count:]) in declared.fields:
            return names[:count]
    return next((names[:count] for count in range(len(names), -1, -1) if names[:count] in record.modules), None)


def _read(record: Record, names: Names, arrays: Arrays) -> tuple[str, tuple[Parameter, ...]]:
    module = record.modules[names]
    declared = declaration_of(type(module)) or NOBODYS
    inside = {name: (*names, *name.split(".")) for name in arrays}
    mapped = {name: arrays[name] for name, key in inside.items() if key in record.mapped}
    shapes = {name: record.shapes[key] for name, key in inside.items() if key in record.shapes and name not in mapped}
    stacks = {name: record.stacks[key] for name, key in inside.items() if key in record.stacks}
    order = [*declared.fields, *arrays]
    known = {name: arrays[name] for name in sorted(arrays, key=order.index) if name in shapes}
    seen = Seen(module, shapes, record.calls[names]) if names in record.calls else module
    parameters = declared_parameters(seen, declared, known, stacks)
    rest = {name: entry for name, entry in arrays.items() if name not in known and name not in mapped}
    # What a module sees after `nn.map_variables` tells nothing of the axes that are stored; the forward pass does.
    return declared.kind, (*parameters, *unknown(mapped, undeclared()), *unknown(rest, UNUSED))


Notes = tuple[dict[str, Constraint], dict[str, Reason]]


def _wrappers(record: Record, entries: Sequence[Entry]) -> Notes:
    """Return what weight norm and spectral norm mean for the arrays of layers they wrap, which stand beside them."""
    constraints: dict[str, Constraint] = {}
    notes: dict[str, Reason] = {}
    by_names = {(entry.collection, *entry.names): entry for entry in entries}
    for names, module in record.modules.items():
        if not isinstance(module, nn.WeightNorm | nn.SpectralNorm):
            continue
        name = str(module.layer_instance.name)
        inside = (*names, name) if (*names, name) in record.modules else (*names[:-1], name)
        for entry in entries:
            if entry.collection != PARAMS or entry.names[: len(inside)] != inside:
                continue
            text = "/".join((inside[-1], *entry.names[len(inside) :]))
            if isinstance(module, nn.WeightNorm):
                constraint = _weight_norm(module, entry, by_names.get((PARAMS, *names, f"{text}/scale")), record)
            else:
                keys = [(module.collection_name, *names, f"{text}/{name}") for name in ("u", "sigma")]
                constraint = _spectral_norm(module, entry, list(map(by_names.get, keys)), record)
            if constraint is not None:
                constraints[entry.path] = constraint.at(entry.path)
                notes |= dict.fromkeys(constraint.companions, follows(entry.path))
    return constraints, notes


def _weight_norm(module: Any, entry: Any, scale: Any, record: Record) -> Constraint | None:
    text = "/".join(entry.names)
    if module.variable_filter and not any(part in text for part in module.variable_filter):
        return None
    magnitude = None if scale is None else (scale.path, record.stacks.get(scale.names, ()))
    return flax_weight_norm(entry.leaf.shape, module.feature_axes, record.stacks.get(entry.names, ()), magnitude)


def _spectral_norm(module: Any, entry: Any, stored: list[Any], record: Record) -> Constraint | None:
    shape = tuple(entry.leaf.shape)
    stacks = record.stacks.get(entry.names, ())
    if len(shape) - len(stacks) <= 1 or module.n_steps < 1:
        return None
    if None in stored:
        return Constraint(
            name="spectral norm",
            warning="the singular vectors that go with {weight} are in the collection "
            f'"{module.collection_name}" and would be stale; pass all variables, not params alone',
        )
    *_, outputs = (size for axis, size in enumerate(shape) if axis not in stacks)
    if tuple(stored[0].leaf.shape) != (*(shape[axis] for axis in stacks), 1, outputs):
        return Constraint(
            name="spectral norm",
            warning="the singular vectors that go with {weight} are not stacked along their first axes, and are stale; "
            "call the module with update_stats=True before it is used",
        )
    preimage = FlaxSpectralNormPreimage(module.epsilon, stacks=tuple(stacks))
    return Constraint(name="spectral norm", preimage=preimage, companions=tuple(entry.path for entry in stored))
