"""Flax NNX: the table of its layers, what its Variables mean, and how a new module is made of an old one."""

from __future__ import annotations

import functools
import itertools
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jax.tree_util import tree_flatten_with_path

from initax._adapters._nodes import NOTHING, Form, Node, entry_name, join, leaves_below, once_a_class
from initax._adapters._shared_patterns import (
    as_tuple,
    einsum_patterns,
    flax_weight_norm,
    general_pattern,
    looked_up,
    of_flax_conv,
    of_flax_transposed,
)
from initax._adapters._spectral_norm import FlaxSpectralNormPreimage
from initax._errors import AxesError, KeyTypeError
from initax._math._axes import fit
from initax._math._keys import as_key, parameter_key
from initax._math._sharding import with_named_sharding
from initax._model._declared import (
    GRU_GATES,
    LSTM_GATES,
    Declaration,
    Field,
    bias,
    declaration_of,
    declare,
    row,
    weight,
)
from initax._model._parameter import Constraint, DefaultSpec, FrameworkInit
from initax._model._quick import copier
from initax._model._reason import OPTIMIZER_STATE, Reason, Why, state, undeclared

LECUN: DefaultSpec = "lecun_normal"
LINEAR = {"i": "in_features", "o": "out_features"}
CELL = {"i": "in_features", "o": "hidden_features"}
MASK = weight("...", "state")
FLAT = undeclared("a state of NNX does not tell its axes", hint="pass the module itself, or nnx.merge(graphdef, state)")
LORA_B = Reason(Why.RESERVED, "LoRA's zero matrix: drawn, the adapter would not start at zero")


def _general_sizes(module: Any) -> dict[str, int]:
    names = _general_pattern(module).split()
    return dict(zip(names, (*module.batch_axis.values(), *module.in_features, *module.out_features), strict=True))


def _general_pattern(module: Any) -> str:
    return general_pattern(len(module.batch_axis), len(module.in_features), len(module.out_features))


def _general_bias_pattern(module: Any) -> str:
    return general_pattern(len(module.batch_axis), 0, len(module.out_features))


def _general_default(module: Any) -> DefaultSpec:
    """Flax flattens the kernel before it draws, and takes the batch axes for inputs."""
    inputs = math.prod((*module.batch_axis.values(), *module.in_features))
    return _drawn_as((inputs, math.prod(module.out_features)))


def _drawn_as(shape: Iterable[int]) -> FrameworkInit:
    return FrameworkInit(function=initializers.lecun_normal(), shape=tuple(shape))


def _einsum_patterns(module: Any) -> tuple[str, str]:
    return einsum_patterns(module.einsum_str) if module.einsum_str else ("", "")


def _einsum_sizes(module: Any) -> dict[str, int]:
    return dict(zip(_einsum_patterns(module)[0].split(), module.kernel_shape, strict=True))


def _lora_rank(module: Any, axis: str) -> dict[str, int]:
    """Return the size of the axis that both matrices of an adapter have, whatever axes a stack adds to them."""
    first, second = (tuple(variable.get_raw_value().shape) for variable in (module.lora_a, module.lora_b))
    if len(first) != len(second):
        return {}
    for stacks in itertools.combinations(range(len(first)), len(first) - 2):
        shapes = [[size for axis, size in enumerate(shape) if axis not in stacks] for shape in (first, second)]
        rank = shapes[0][1]
        if shapes == [[module.in_features, rank], [rank, module.out_features]]:
            return {axis: rank}
    return {}


def _lora_a_sizes(module: Any) -> dict[str, int]:
    return {"i": module.in_features, **_lora_rank(module, "o")}


def _lora_b_sizes(module: Any) -> dict[str, int]:
    return {"o": module.out_features, **_lora_rank(module, "i")}


def _conv_sizes(module: Any) -> dict[str, int]:
    groups = module.feature_group_count
    return {"g": groups, "o": module.out_features // groups, "i": module.in_features // groups}


def _transposed_default(module: Any) -> DefaultSpec:
    """Flax draws a transposed kernel `(*k, out, in)` as if it were `(*k, in, out)`."""
    features = (module.out_features, module.in_features)
    shape = features if module.transpose_kernel else features[::-1]
    return _drawn_as((*module.kernel_size, *shape))


def _norm_sizes(module: Any) -> dict[str, int]:
    is_grouped = isinstance(module, nnx.GroupNorm)
    return {"o": module.num_groups * module.group_size if is_grouped else module.num_features}


NORM = row(
    "Norm",
    scale=weight("o", "scale", sizes=_norm_sizes, default="ones"),
    bias=bias("o", None, sizes=_norm_sizes, default="zeros"),
    mean=weight("o", "state", sizes=_norm_sizes, default="zeros"),
    var=weight("o", "state", sizes=_norm_sizes, default="ones"),
)


def _bias(pattern: Any, sizes: Any) -> Field:
    return bias(pattern, "kernel", sizes=sizes, default="zeros")


def _packed(gates: tuple[str, ...], *, biased: str) -> Declaration:
    """A cell with kernels `(in, gates * hidden)`; Flax draws them whole, so that no gate's own matrix is orthogonal."""
    sizes: dict[str, Any] = {"gate": len(gates), **CELL}
    across = {**sizes, "i": "hidden_features"}

    def whole(module: Any) -> DefaultSpec:
        hidden = module.hidden_features
        return FrameworkInit(function=initializers.orthogonal(), shape=(hidden, len(gates) * hidden))

    return row(
        "RNNCell",
        {
            "dense_i.kernel": weight("i (gate o)", sizes=sizes, default=LECUN, gates=gates),
            "dense_h.kernel": weight("i (gate o)", "recurrent", sizes=across, default=whole, gates=gates),
            f"{biased}.bias": bias("(gate o)", "dense_i.kernel", sizes=sizes, default="zeros", gates=gates),
        },
    )


def _single(inner: str, hidden: str, *, biased: str, gates: tuple[str, ...] = ()) -> dict[str, Field]:
    """The arrays of a cell, or of one of its gates, in a module for the input and one for the hidden state."""
    across = {**CELL, "i": "hidden_features"}
    return {
        f"{inner}.kernel": weight("i o", sizes=CELL, default=LECUN, gates=gates),
        f"{hidden}.kernel": weight("i o", "recurrent", sizes=across, default="orthogonal", gates=gates),
        f"{biased}.bias": bias("o", f"{inner}.kernel", sizes=CELL, default="zeros", gates=gates),
    }


def _lstm() -> Declaration:
    names = zip(LSTM_GATES, ("ii", "if_", "ig", "io"), ("hi", "hf", "hg", "ho"), strict=True)
    gates = [_single(inner, hidden, biased=hidden, gates=(gate,)) for gate, inner, hidden in names]
    return row("RNNCell", {name: row for fields in gates for name, row in fields.items()})


LAYERS: dict[type, Declaration] = {
    nnx.Linear: row("Linear", kernel=weight("i o", sizes=LINEAR, default=LECUN), bias=_bias("o", LINEAR)),
    nnx.LinearGeneral: row(
        "Linear",
        kernel=weight(_general_pattern, sizes=_general_sizes, default=_general_default),
        bias=_bias(_general_bias_pattern, _general_sizes),
    ),
    nnx.Einsum: row(
        "Linear",
        kernel=weight(
            lambda module: _einsum_patterns(module)[0],
            sizes=_einsum_sizes,
            default=lambda module: _drawn_as(module.kernel_shape),
        ),
        bias=_bias(lambda module: _einsum_patterns(module)[1], _einsum_sizes),
    ),
    nnx.Conv: row(
        "Conv",
        kernel=weight("... i (g o)", sizes=_conv_sizes, default=LECUN, receptive="kernel_size", effective=of_flax_conv),
        bias=_bias("(g o)", _conv_sizes),
        mask=MASK,
    ),
    nnx.ConvTranspose: row(
        "ConvTranspose",
        kernel=weight(
            lambda module: "... o i" if module.transpose_kernel else "... i o",
            sizes=LINEAR,
            receptive="kernel_size",
            default=_transposed_default,
            effective=of_flax_transposed,
        ),
        bias=_bias("o", LINEAR),
        mask=MASK,
    ),
    nnx.Embed: row(
        "Embedding",
        embedding=weight(
            "o i",
            "embedding",
            sizes={"o": "num_embeddings", "i": "features"},
            default=("variance_scaling", {"distribution": "normal"}),
            effective=looked_up,
        ),
    ),
    nnx.LSTMCell: _lstm(),
    nnx.OptimizedLSTMCell: _packed(LSTM_GATES, biased="dense_h"),
    nnx.GRUCell: _packed(GRU_GATES, biased="dense_i"),
    nnx.SimpleCell: row("RNNCell", _single("dense_i", "dense_h", biased="dense_i")),
    nnx.LoRA: row(
        "LoRA",
        lora_a=weight("i o", sizes=_lora_a_sizes, default="he_uniform"),
        lora_b=weight("i o", sizes=_lora_b_sizes, default="zeros", reserved=LORA_B),
    ),
    **dict.fromkeys((nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm, nnx.InstanceNorm), NORM),
    nnx.WeightNorm: row("WeightNorm"),
    nnx.PReLU: row("PReLU", negative_slope=weight("...", "scale", default=("constant", {"value": 0.01}))),
}
"""Every class of `flax.nnx` that owns parameters: one row each. Subclasses inherit the row of the nearest base."""

for _cls, _row in LAYERS.items():
    declare(_cls, replace(_row, static=True))

STATE: tuple[tuple[type, Reason | None], ...] = (
    (nnx.BatchStat, Reason(Why.STATISTICS, "running statistics")),
    (nnx.Cache, state("a cache")),
    (nnx.RngState, state("random state")),
    (nnx.optimizer.OptState, OPTIMIZER_STATE),
    (nnx.Intermediate, state("an intermediate value")),
    (nnx.Param, None),
)
"""Types of Variables → what those hold that hold no parameters; the first counts."""


new_box = copier(Node, "value", "identity", "reason", "streams")
new_module = copier(Node, "form", "children", "constraints", "structure")
"""Functions from `BOX` and `MODULE`, and the fields that differ, to the description of one Variable or one module."""


def describe(node: Any) -> Node | None:
    """Return a module's children by name, or the value in a Variable, and what wrappers mean for what they wrap.

    NNX modules are graphs and need not be pytrees; their own attributes tell more than the way JAX flattens them.
    """
    cls = type(node)
    form = _form(cls)
    if form == "box" or (form is None and isinstance(node, nnx.Variable)):
        value = _value(node)
        starts = isinstance(value, jax.ShapeDtypeStruct) and isinstance(node, nnx.RngState)
        reason = None if cls is nnx.Param else _why_no_parameter(node)
        return new_box(
            BOX, value, id(node), reason, {"": functools.partial(_started, node, value)} if starts else NOTHING
        )
    if form == "unread":
        return Node("unread", reason=FLAT)
    if form is None:
        return None
    children = children_of(node)
    constraints: Mapping[str, Constraint] = NOTHING
    if issubclass(cls, nnx.WeightNorm):
        constraints = _weight_norm(node)
    if issubclass(cls, nnx.SpectralNorm):
        constraints = _spectral_norm(node)
    return new_module(MODULE, form, children, constraints, _structure(children) if form == "module" else None)


def children_of(node: Any) -> dict[str, Any]:
    """Return the attributes of a module without what NNX itself keeps there."""
    return {str(name): child for name, child in vars(node).items() if not str(name).startswith("_pytree__")}


@once_a_class
def _form(cls: type) -> Form | None:
    """What the objects of a class are."""
    return next((form for bases, form in FORMS if issubclass(cls, bases)), None)


FORMS: tuple[tuple[tuple[type, ...], Form], ...] = (
    ((nnx.Variable,), "box"),
    ((nnx.State, nnx.FlatState), "unread"),
    ((nnx.List, nnx.Dict), "container"),
    ((nnx.Pytree,), "module"),
)
"""Classes → what their objects are; the first counts."""

STATIC = frozenset({bool, int, float, str, tuple, type(None), types.FunctionType})
"""Types of attributes that hold neither arrays nor modules, as most do."""


def _structure(children: Mapping[str, Any]) -> Any:
    """What a module is apart from the arrays and the modules in it; `None` where a mask's entries matter, too."""
    if children.get("mask") is not None:
        return None
    return tuple([(name, child) for name, child in children.items() if type(child) in STATIC or not _form(type(child))])


def parameters(model: Any) -> Any:
    """Return what an `nnx.Optimizer` trains of a module: the state of its Params."""
    return nnx.state(model, nnx.Param) if isinstance(model, nnx.Pytree) else model


def _why_no_parameter(variable: Any) -> Reason | None:
    """Return why an optimizer leaves a Variable alone: it trains those that are an `nnx.Param`."""
    other = Reason(Why.NOT_TRAINABLE, f"a Variable of type {type(variable).__name__}, which is not an nnx.Param")
    return next((reason for cls, reason in STATE if isinstance(variable, cls)), other)


RAW = Reason(Why.CONSTANT, "an array in no Variable, which NNX treats as a constant")


def _constant(array: Any, boxed: bool) -> Reason | None:
    return None if boxed else RAW


def _started(variable: Any, value: jax.ShapeDtypeStruct, path: str, key: jax.Array) -> jax.Array:
    """The start of a stream of random keys: nothing counted yet, and a key that depends on the user's and the path."""
    if not isinstance(variable, nnx.RngKey):
        return jnp.zeros(value.shape, value.dtype)
    start = parameter_key(as_key(key), path)
    if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jax.random.bits(start, value.shape, jnp.uint32).astype(value.dtype)
    if value.dtype != start.dtype:
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), value.dtype))
        start = jax.random.wrap_key_data(jax.random.bits(start, data.shape, data.dtype), impl=_implementation(value))
    return jax.random.split(start, value.shape) if value.shape else start


def _implementation(keys: jax.ShapeDtypeStruct) -> Any:
    """The implementation of abstract keys, which JAX tells of arrays and tracers only."""
    implementations: list[Any] = []
    jax.eval_shape(lambda traced: implementations.append(jax.random.key_impl(traced)), keys)
    return implementations[0]


def _value(variable: Any) -> Any:
    """The value in a Variable; an abstract one with the sharding that its metadata name."""
    raw = variable.get_raw_value()
    if not isinstance(raw, jax.ShapeDtypeStruct):
        return raw
    spec = nnx.get_partition_spec(variable).get_raw_value()
    return (
        raw
        if spec is None or all(names is None for names in spec)
        else with_named_sharding(raw, spec, variable.get_metadata().get("mesh"))
    )


def _dotted(names: tuple[Any, ...]) -> str:
    return ".".join(_dotted(name) if isinstance(name, tuple) else str(name) for name in names)


def _weight_norm(node: Any) -> dict[str, Constraint]:
    """An effective weight is a direction times a scale: the one is in the layer inside, the other here."""
    constraints: dict[str, Constraint] = {}
    for names, variable in nnx.to_flat_state(nnx.state(node.layer_instance, nnx.Param)):
        weight = f"layer_instance.{_dotted(names)}"
        if not node.variable_filter(names, variable):
            continue
        scale = node.scales.get(names) if node.use_scale else None
        # The wrapper counts axes in its own layer.
        number = len(scale.shape) - len(as_tuple(node.feature_axes)) if scale is not None else 0
        stacks, magnitude = _stack_axis(node.layer_instance, names, variable.shape, number), None
        if scale is not None:  # its stack axes stand where those of the weight do, as far as it has so many axes
            last = len(scale.shape) - number
            magnitude = f"scales.{_dotted(names)}", [min(axis, last + index) for index, axis in enumerate(stacks)]
        constraints[weight] = flax_weight_norm(variable.shape, node.feature_axes, stacks, magnitude)
    return constraints


def _stack_axis(layer: Any, names: Sequence[Any], shape: tuple[int, ...], number: int) -> tuple[int, ...]:
    """The stack axes of an array in a wrapped layer: where the layer's own sizes leave them, or in front."""
    in_front = tuple(range(number))
    declared = declaration_of(type(layer))
    cell = declared.fields.get(_dotted(tuple(names))) if declared is not None else None
    if cell is None:
        return in_front
    try:
        axes = fit(cell.pattern_of(layer), tuple(shape), cell.sizes_of(layer), cell.receptive_of(layer)).stack_axis
    except AxesError:
        return in_front
    return axes if len(axes) == number else in_front


def _spectral_norm(node: Any) -> dict[str, Constraint]:
    """The singular vectors and value that go with a weight must change with it."""
    constraints: dict[str, Constraint] = {}
    stored: Mapping[Any, Any] = node.batch_stats
    weights = dict(nnx.to_flat_state(nnx.state(node.layer_instance, nnx.Param)))
    for names in [path[:-1] for path in stored if path[-1] == "u"]:
        companions = tuple(f"batch_stats.{_dotted((*names, name))}" for name in ("u", "sigma"))
        number = len(tuple(stored[(*names, "u")].shape)) - 2
        stacks = _stack_axis(node.layer_instance, names, weights[names].shape, number)
        preimage = FlaxSpectralNormPreimage(node.epsilon, stacks=stacks)
        constraints[f"layer_instance.{_dotted(names)}"] = Constraint(
            name="spectral norm", preimage=preimage, companions=companions
        )
    return constraints


def rebuild(model: Any, leaves: Mapping[str, Any]) -> Any:
    """Return a new graph with new Variables that hold these leaves; the old one is left as it was.

    What is reached once alone is a tree, which JAX takes apart and puts together three times as fast as Flax a graph.
    """
    seen: set[int] = set()
    again: list[int] = []

    def is_leaf(node: Any) -> bool:
        form = _form(type(node))
        if form is not None:
            (again.append if id(node) in seen else seen.add)(id(node))
        return form == "box" or bool(again)

    old, structure = tree_flatten_with_path(model, is_leaf=is_leaf)
    if not again and all(_is_leaf_of_graphs(leaf) for _, leaf in old):
        new = [_renewed(leaf, ".".join(map(entry_name, entries)), leaves) for entries, leaf in old]
        return jax.tree_util.tree_unflatten(structure, new)
    graph, state = nnx.split(model)
    flat = [(names, _renewed(value, _dotted(names), leaves)) for names, value in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def _is_leaf_of_graphs(leaf: Any) -> bool:
    """Whether what JAX does not open is a leaf to Flax, too: an object that is no pytree may be a node of a graph."""
    form = _form(type(leaf))
    return form == "box" or (form is None and not isinstance(leaf, nnx.Variable))


def _renewed(value: Any, path: str, leaves: Mapping[str, Any]) -> Any:
    if not isinstance(value, nnx.Variable):
        return leaves.get(path, value)
    raw = value.get_raw_value()
    if path in leaves:
        new = leaves[path]
        return value.copy() if new is raw else value.copy(new)
    below = [leaves.get(join(path, name), leaf) for name, leaf in leaves_below(raw)]
    return value.copy(jax.tree.unflatten(jax.tree.structure(raw), below))


BOX = Node("box", rebuild_model=rebuild)
MODULE = Node("module", constant=_constant, rebuild_model=rebuild)


def gives_keys(source: Any) -> bool:
    """Return whether this is a source of random keys: an `nnx.Rngs` or one of its streams."""
    return isinstance(source, nnx.Rngs | nnx.RngStream)


def key_of(source: Any) -> jax.Array:
    """Return a new key from an `nnx.Rngs` (its stream `params`) or one of its streams.

    Raises:
        KeyTypeError: the Rngs has neither a stream `params` nor a default one.
    """
    if isinstance(source, nnx.RngStream):
        return jnp.asarray(source())
    try:
        return jnp.asarray(source.params())
    except (AttributeError, KeyError, ValueError) as error:
        raise KeyTypeError(
            "the nnx.Rngs has no stream for parameters.", "write nnx.Rngs(0), or nnx.Rngs(params=0)"
        ) from error
