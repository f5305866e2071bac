"""Equinox: the table of its layers, and what its wrappers and shared nodes mean."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np

from initax._adapters._nodes import ARRAYS, Awaited, Node, Tie, leaves_below, once_a_class
from initax._adapters._shared_patterns import looked_up, numbered, of_stride, of_transposed_stride
from initax._adapters._spectral_norm import SpectralNormPreimage
from initax._model._constraint import weight_norm
from initax._model._declared import GRU_GATES, LSTM_GATES, Declaration, Field, bias, declare, row, weight
from initax._model._parameter import Constraint, DefaultSpec
from initax._model._reason import Reason, Why


def _size(features: Any) -> int:
    return 1 if features == "scalar" else int(features)


def _linear_sizes(module: Any) -> dict[str, int]:
    return {"i": _size(module.in_features), "o": _size(module.out_features)}


def _linear_default(module: Any) -> DefaultSpec:
    return ("uniform_fan_in", {"fan": max(_size(module.in_features), 1)})


def _conv_sizes(module: Any) -> dict[str, int]:
    groups = module.groups
    return {"g": groups, "o": module.out_channels // groups, "i": module.in_channels // groups}


def _recurrent_default(module: Any) -> DefaultSpec:
    return ("uniform_fan_in", {"fan": module.hidden_size})


def _cell(gates: tuple[str, ...], further: Mapping[str, Field] | None = None) -> Declaration:
    count = len(gates)
    shared: dict[str, Any] = {"default": _recurrent_default, "gates": gates}
    inner, hidden = ({"gate": count, "o": "hidden_size", "i": name} for name in ("input_size", "hidden_size"))
    return row(
        "RNNCell",
        further,
        weight_ih=weight("(gate o) i", sizes=inner, **shared),
        weight_hh=weight("(gate o) i", "recurrent", sizes=hidden, **shared),
        bias=bias("(gate o)", "weight_ih", sizes={"gate": count, "o": "hidden_size"}, **shared),
    )


def _norm(shape: Any) -> Declaration:
    """A norm's scale and bias, of the shape that a function of the module tells."""

    def sizes(module: Any) -> dict[str, int]:
        names = numbered("o", len(shape(module)))
        return dict(zip(names, shape(module), strict=True))

    def pattern(module: Any) -> str:
        return " ".join(sizes(module))

    scale = weight(pattern, "scale", sizes=sizes, default="ones")
    return row("Norm", weight=scale, bias=bias(pattern, None, sizes=sizes, default="zeros"))


def _conv(kind: str, effective: Any) -> Declaration:
    def default(module: Any) -> DefaultSpec:
        return ("uniform_fan_in", {"fan": module.in_channels // module.groups * math.prod(module.kernel_size)})

    def pattern(module: Any) -> str:
        return "(g o)" + " 1" * int(module.num_spatial_dims)

    further: dict[str, Any] = {"receptive": "kernel_size", "effective": effective}
    return row(
        kind,
        weight=weight("(g o) i ...", sizes=_conv_sizes, default=default, **further),
        bias=bias(pattern, "weight", sizes=_conv_sizes, default=default),
    )


LAYERS: dict[type, Declaration] = {
    eqx.nn.Linear: row(
        "Linear",
        weight=weight("o i", sizes=_linear_sizes, default=_linear_default),
        bias=bias("o", "weight", sizes=_linear_sizes, default=_linear_default),
    ),
    eqx.nn.Conv: _conv("Conv", of_stride),
    eqx.nn.ConvTranspose: _conv("ConvTranspose", of_transposed_stride),
    eqx.nn.Embedding: row(
        "Embedding",
        weight=weight(
            "o i",
            "embedding",
            sizes={"o": "num_embeddings", "i": "embedding_size"},
            default=("normal", {"stddev": 1.0}),
            effective=looked_up,
        ),
    ),
    eqx.nn.GRUCell: _cell(
        GRU_GATES, {"bias_n": bias("o", "weight_hh", sizes={"o": "hidden_size"}, default=_recurrent_default)}
    ),
    eqx.nn.LSTMCell: _cell(LSTM_GATES),
    eqx.nn.LayerNorm: _norm(lambda module: module.shape),
    eqx.nn.RMSNorm: _norm(lambda module: module.shape),
    eqx.nn.GroupNorm: _norm(lambda module: (module.channels,)),
    eqx.nn.BatchNorm: _norm(lambda module: (module.input_size,)),
    eqx.nn.PReLU: row("PReLU", negative_slope=weight("...", "scale", default=("constant", {"value": 0.25}))),
    eqx.nn.WeightNorm: row("WeightNorm", g=weight("...", "scale")),
}
"""Every class of `equinox.nn` that owns arrays: one row each. Subclasses inherit the row of the nearest base."""

for _cls, _row in LAYERS.items():
    declare(_cls, replace(_row, static=True))


def describe(node: Any) -> Node | None:
    """Return what a node is to Equinox, and what its wrappers and shared nodes mean for the arrays below."""
    describe_node = _describes(type(node))
    return None if describe_node is None else describe_node(node)


@once_a_class
def _describes(cls: type) -> Callable[[Any], Node] | None:
    """What describes the nodes of a class."""
    return next((describe for base, describe in SPECIAL.items() if issubclass(cls, base)), None)


STATE = Reason(
    Why.STATISTICS, "state", hint="take the state of a new model: _, state = eqx.nn.make_with_state(...)(...)"
)
NUMPY = Reason(Why.CONSTANT, "a NumPy array, which Equinox treats as a constant")


def _constant(array: Any, boxed: bool) -> Reason | None:
    return NUMPY if isinstance(array, np.ndarray) else None


MODULE = Node("module", constant=_constant)


def _weight_norm(node: Any) -> Node:
    shape = tuple(node.g.shape)
    constraint = weight_norm(tuple(axis for axis, size in enumerate(shape) if size == 1), "g")
    return Node("module", constraints={f"layer.{node.weight_name}": constraint})


def _state(node: Any) -> Node:
    structure: Any = jax.tree_util.tree_structure(node)
    markers = structure.node_data()[1]
    values, _ = jax.tree_util.tree_flatten(node, is_leaf=lambda child: child is not node)
    numbered = ((str(index), value) for index, value in enumerate(values))
    return Node("state", reason=STATE, states=dict(zip(markers, numbered, strict=True)))


def _spectral_norm(node: Any) -> Node:
    weight, index = f"layer.{node.weight_name}", node.uv_index

    def with_vectors(vectors: Any, *base: str) -> Constraint:
        stacks = len(vectors[0].shape) - 1
        shape = getattr(getattr(node.layer, node.weight_name), "shape", None)
        if shape is not None:
            expected = [(*shape[:stacks], size) for size in (shape[stacks], math.prod(shape[stacks + 1 :]))]
            if [tuple(vector.shape) for vector in vectors] != expected:
                return Constraint(
                    name="spectral norm",
                    warning="{weight} and the singular vectors that go with it are not stacked along their first axes, "
                    "and these are stale; stack them with out_axes=0",
                )
        preimage = SpectralNormPreimage(node.eps, stacks=tuple(range(stacks)))
        companions = tuple(".".join((*base, index)) for index in ("0", "1"))
        return Constraint(name="spectral norm", preimage=preimage, companions=companions)

    if isinstance(index.init, tuple):
        return Node("module", constraints={weight: with_vectors(index.init, "uv_index", "init")})
    otherwise = Constraint(
        name="spectral norm",
        warning="the singular vectors that go with {weight} are in the model's state and would be stale; "
        "write model, state = ix.reinit((model, state), ...)",
    )
    return Node("module", awaited={weight: Awaited(index.marker, with_vectors, otherwise)})


def _common(paths: list[str]) -> str:
    """The dotted path of what holds all of these."""
    parts = [path.split(".") for path in paths]
    shared = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))
    return ".".join([name for name, *_ in shared][: min(map(len, parts)) - 1])


class _Mark:
    """Stands for a leaf while `Shared` is asked what it ties to what."""

    def __init__(self, path: str | None, leaf: Any) -> None:
        self.path = path
        self.leaf = leaf


def _shared(node: Any) -> Node:
    if not callable(node.where) or not callable(node.get) or not jax.tree_util.tree_leaves(node.pytree):
        return MODULE  # a part of one, from `eqx.partition`: the functions, or the arrays, are in the other part
    marks = [_Mark(f"pytree.{path}", leaf) for path, leaf in leaves_below(node.pytree)]
    marked = jax.tree.unflatten(jax.tree.structure(node.pytree), marks)
    tied = jax.tree_util.tree_leaves(node.where(marked))
    try:
        sources = jax.tree_util.tree_leaves(node.get(marked))
    except Exception:  # `get` computes something, e.g. a transpose: what it returns has a shape but no path
        computed = jax.tree_util.tree_leaves(eqx.filter_eval_shape(node.get, node.pytree))
        sources = [_Mark(None, array) for array in computed]
    if not sources or not tied:
        return MODULE
    if len(tied) != len(sources):  # whole modules are tied: there is no array in their place to list
        owners = [source.path for source in sources]
        owner = None if None in owners else _common(owners)
        return Node("module", ties={tied[0].path: Tie(owner)} if len(tied) == 1 else {})
    return Node(
        "module",
        ties={
            placeholder.path: Tie(source.path, _shape(source.leaf))
            for placeholder, source in zip(tied, sources, strict=True)
            if isinstance(source, _Mark)
        },
    )


def _shape(leaf: Any) -> jax.ShapeDtypeStruct | None:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, ARRAYS) else None


SPECIAL: dict[type, Callable[[Any], Node]] = {
    eqx.nn.State: _state,
    eqx.nn.StateIndex: lambda node: Node("state"),
    eqx.nn.WeightNorm: _weight_norm,
    eqx.nn.SpectralNorm: _spectral_norm,
    eqx.nn.Shared: _shared,
    eqx.Module: lambda node: MODULE,
}
"""Classes → what describes their nodes: those that say something about arrays elsewhere, and all others."""
