"""Equinox: the table of its layers, and what its wrappers and shared nodes mean."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import jax

from initax._adapters._constraints import SpectralNormPreimage, WeightNormPreimage, unchanged
from initax._adapters._nodes import entry_name
from initax._adapters._pytree import Walk
from initax._adapters._shared_patterns import looked_up
from initax._math._axes import Axes
from initax._model._parameter import GRU_GATES, LSTM_GATES, Constraint, Declaration, DefaultSpec, Field, declare
from initax._model._reason import follows


def _size(features: Any) -> int:
    return 1 if features == "scalar" else int(features)


def _linear_sizes(module: Any) -> dict[str, int]:
    return {"i": _size(module.in_features), "o": _size(module.out_features)}


def _linear_default(module: Any) -> DefaultSpec:
    return ("uniform_fan_in", {"fan": max(_size(module.in_features), 1)})


def _conv_sizes(module: Any) -> dict[str, int]:
    groups = module.groups
    return {"g": groups, "o": module.out_channels // groups, "i": module.in_channels // groups}


def _conv_bias_sizes(module: Any) -> dict[str, int]:
    return {"g": module.groups, "o": module.out_channels // module.groups}


def _conv_bias_pattern(module: Any) -> str:
    return "(g o)" + " 1" * int(module.num_spatial_dims)


def _strided(module: Any, axes: Axes) -> tuple[float, float]:
    """A stride skips outputs: each input reaches 1/stride of the kernel's."""
    return axes.fan_in, axes.fan_out / math.prod(module.stride)


def _transposed(module: Any, axes: Axes) -> tuple[float, float]:
    """A transposed convolution's stride spreads the inputs: each output sees 1/stride of the kernel."""
    return axes.fan_in / math.prod(module.stride), axes.fan_out


def _recurrent_sizes(inputs: str) -> dict[str, int | str]:
    return {"o": "hidden_size", "i": inputs}


def _recurrent_default(module: Any) -> DefaultSpec:
    return ("uniform_fan_in", {"fan": module.hidden_size})


def _cell(gates: tuple[str, ...], further: dict[str, Field]) -> Declaration:
    count = len(gates)
    shared: dict[str, Any] = {"default": _recurrent_default, "gates": gates}
    return Declaration(
        kind="RNNCell",
        fields={
            "weight_ih": Field(
                pattern="(gate o) i", role="weight", sizes={"gate": count, **_recurrent_sizes("input_size")}, **shared
            ),
            "weight_hh": Field(
                pattern="(gate o) i",
                role="recurrent",
                sizes={"gate": count, **_recurrent_sizes("hidden_size")},
                **shared,
            ),
            "bias": Field(
                pattern="(gate o)", role="bias", sizes={"gate": count, "o": "hidden_size"}, of="weight_ih", **shared
            ),
        }
        | further,
    )


def _norm(shape: Any) -> Declaration:
    """A norm's scale and bias, of the shape that a function of the module tells."""

    def sizes(module: Any) -> dict[str, int]:
        own = shape(module)
        return {"o": own[0]} if len(own) == 1 else {f"o{axis}": size for axis, size in enumerate(own)}

    def pattern(module: Any) -> str:
        return " ".join(sizes(module))

    return Declaration(
        kind="Norm",
        fields={
            "weight": Field(pattern=pattern, role="scale", sizes=sizes, default="ones"),
            "bias": Field(pattern=pattern, role="bias", sizes=sizes, default="zeros"),
        },
    )


def _conv(kind: str, effective: Any) -> Declaration:
    def default(module: Any) -> DefaultSpec:
        return ("uniform_fan_in", {"fan": module.in_channels // module.groups * math.prod(module.kernel_size)})

    return Declaration(
        kind=kind,
        fields={
            "weight": Field(
                pattern="(g o) i ...",
                role="weight",
                sizes=_conv_sizes,
                receptive="kernel_size",
                default=default,
                effective=effective,
            ),
            "bias": Field(
                pattern=_conv_bias_pattern, role="bias", sizes=_conv_bias_sizes, of="weight", default=default
            ),
        },
    )


LAYERS: dict[type, Declaration] = {
    eqx.nn.Linear: Declaration(
        kind="Linear",
        fields={
            "weight": Field(pattern="o i", role="weight", sizes=_linear_sizes, default=_linear_default),
            "bias": Field(
                pattern="o",
                role="bias",
                sizes=lambda module: {"o": _size(module.out_features)},
                of="weight",
                default=_linear_default,
            ),
        },
    ),
    eqx.nn.Conv: _conv("Conv", _strided),
    eqx.nn.ConvTranspose: _conv("ConvTranspose", _transposed),
    eqx.nn.Embedding: Declaration(
        kind="Embedding",
        fields={
            "weight": Field(
                pattern="o i",
                role="embedding",
                sizes={"o": "num_embeddings", "i": "embedding_size"},
                default=("normal", {"stddev": 1.0}),
                effective=looked_up,
            )
        },
    ),
    eqx.nn.GRUCell: _cell(
        GRU_GATES,
        {
            "bias_n": Field(
                pattern="o", role="bias", sizes={"o": "hidden_size"}, of="weight_hh", default=_recurrent_default
            )
        },
    ),
    eqx.nn.LSTMCell: _cell(LSTM_GATES, {}),
    eqx.nn.LayerNorm: _norm(lambda module: module.shape),
    eqx.nn.RMSNorm: _norm(lambda module: module.shape),
    eqx.nn.GroupNorm: _norm(lambda module: (module.channels,)),
    eqx.nn.BatchNorm: _norm(lambda module: (module.input_size,)),
    eqx.nn.PReLU: Declaration(
        kind="PReLU",
        fields={"negative_slope": Field(pattern="...", role="scale", default=("constant", {"value": 0.25}))},
    ),
    eqx.nn.WeightNorm: Declaration(kind="WeightNorm", fields={"g": Field(pattern="...", role="scale")}),
}
"""Every class of `equinox.nn` that owns arrays: one row each. Subclasses inherit the row of the nearest base."""

for _cls, _row in LAYERS.items():
    declare(_cls, replace(_row, static=True))


def describe(node: Any, walk: Walk, path: str) -> Literal["module", "state"] | None:
    """Return what a node is to Equinox, and note what its wrappers and shared nodes mean for the arrays below."""
    view, note = _VIEWS.get(type(node)) or _view(type(node))
    if note is not None:
        note(node, walk, path)
    return view


View = tuple[Literal["module", "state"] | None, Callable[[Any, Walk, str], None] | None]
_VIEWS: weakref.WeakKeyDictionary[type, View] = weakref.WeakKeyDictionary()
"""What each class was found to be; an `isinstance` check on an Equinox module costs more than all else here."""


def _view(cls: type) -> View:
    found: View = next((view for special, view in SPECIAL.items() if issubclass(cls, special)), (None, None))
    _VIEWS[cls] = ("module", None) if found[0] is None and issubclass(cls, eqx.Module) else found
    return _VIEWS[cls]


def _dotted(path: str, *names: str) -> str:
    return ".".join([path, *names] if path else names)


def _weight_norm(node: Any, walk: Walk, path: str) -> None:
    weight = _dotted(path, "layer", node.weight_name)
    magnitude = _dotted(path, "g")
    walk.constraints[weight] = Constraint(
        name="weight norm",
        preimage=WeightNormPreimage(_single_axes(node.g.shape), tuple(node.g.shape)),
        companions=(magnitude,),
    )
    walk.notes[magnitude] = follows(weight)


def _single_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis, size in enumerate(shape) if size == 1)


def _note_state(node: Any, walk: Walk, path: str) -> None:
    structure: Any = jax.tree_util.tree_structure(node)
    markers = structure.node_data()[1]
    values, _ = jax.tree_util.tree_flatten(node, is_leaf=lambda each: each is not node)
    for place, (marker, value) in enumerate(zip(markers, values, strict=True)):
        walk.states[marker] = (_dotted(path, str(place)), value)


def _spectral_norm(node: Any, walk: Walk, path: str) -> None:
    weight = _dotted(path, "layer", node.weight_name)
    index = node.uv_index

    def finish() -> None:
        own = (_dotted(path, "uv_index", "init"), index.init) if isinstance(index.init, tuple) else None
        found = own or walk.states.get(index.marker)
        if found is None:
            walk.constraints[weight] = Constraint(
                name="spectral norm",
                preimage=unchanged,
                warning=f"the singular vectors that go with {weight} are in the model's state and would be stale; "
                "write model, state = ix.reinit((model, state), ...)",
            )
            return
        below, (left, _) = found
        companions = (f"{below}.0", f"{below}.1")
        preimage = SpectralNormPreimage(node.eps, stacks=len(left.shape) - 1)
        walk.constraints[weight] = Constraint(name="spectral norm", preimage=preimage, companions=companions)
        walk.notes |= dict.fromkeys(companions, follows(weight))

    walk.late.append(finish)


def _common(paths: list[str]) -> str:
    """The dotted path all of these begin with."""
    parts = [path.split(".") for path in paths]
    same = [names[0] for names in zip(*parts, strict=False) if len(set(names)) == 1]
    return ".".join(same[: min(map(len, parts)) - 1])


class _Mark:
    """Stands for a leaf while `Shared` is asked what it ties to what."""

    def __init__(self, path: str, leaf: Any) -> None:
        self.path = path
        self.leaf = leaf


def _shared(node: Any, walk: Walk, path: str) -> None:
    treedef: Any
    found, treedef = jax.tree_util.tree_flatten_with_path(node.pytree)
    marks = [_Mark(_dotted(path, "pytree", *map(entry_name, entries)), leaf) for entries, leaf in found]
    marked = treedef.unflatten(marks)
    tied = jax.tree_util.tree_leaves(node.where(marked))
    try:
        sources = jax.tree_util.tree_leaves(node.get(marked))
    except Exception:  # `get` computes something, a transpose say: what it returns has a shape but no path
        shapes = jax.tree_util.tree_leaves(eqx.filter_eval_shape(node.get, node.pytree))
        sources = [_Mark(f"what Shared at {path or '(model)'} computes", shape) for shape in shapes]
    if len(tied) != len(sources):  # whole modules are tied: there is no array in their place to list
        if len(tied) == 1:
            walk.aliases[tied[0].path] = _common([source.path for source in sources])
        return
    for placeholder, source in zip(tied, sources, strict=True):
        if not isinstance(source, _Mark):
            continue
        walk.aliases[placeholder.path] = source.path
        if eqx.is_array_like(source.leaf) or isinstance(source.leaf, jax.ShapeDtypeStruct):
            walk.ties[placeholder.path] = source.path
            walk.placeholders[placeholder.path] = jax.ShapeDtypeStruct(source.leaf.shape, source.leaf.dtype)


SPECIAL: dict[type, View] = {
    eqx.nn.State: ("state", _note_state),
    eqx.nn.StateIndex: ("state", None),
    eqx.nn.WeightNorm: ("module", _weight_norm),
    eqx.nn.SpectralNorm: ("module", _spectral_norm),
    eqx.nn.Shared: ("module", _shared),
}
"""Classes that say something about arrays elsewhere: what they are, and what to note of them."""
