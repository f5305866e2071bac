"""The layers of Flax NNX and Linen that the laws are held against, and the same layer in three frameworks."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import initax as ix
from tests.tables import KEY, Built, Case

MASK = jnp.asarray(np.arange(3 * 3 * 3 * 5).reshape(3, 3, 3, 5) % 4 != 0, jnp.float32)


def of_nnx(cls, *args, **kwargs):
    """Return a function that makes an NNX layer; `abstract=True` with shapes in place of arrays."""

    def make(abstract=False):
        def layer():
            return cls(*args, **kwargs, rngs=nnx.Rngs(0))

        return Built(nnx.eval_shape(layer) if abstract else layer(), lambda model, x: model(x))

    return make


def of_linen(module, shape, dtype=jnp.float32, forward=None):
    """Return a function that makes the variables of a Linen module; `abstract=True` with shapes in place of arrays."""

    @functools.cache
    def make(abstract=False):
        def variables(key):
            return module.init(key, jnp.zeros(shape, dtype), method=forward)

        made = (jax.eval_shape if abstract else _compiled_and_called)(variables, jax.random.key(0))
        options = {"module": module, "inputs": jax.ShapeDtypeStruct(shape, dtype), "forward": forward}
        return Built(made, lambda model, x: module.apply(model, x, method=forward), options)

    return make


def _compiled_and_called(function, *arguments):
    return jax.jit(function)(*arguments)


def flax_case(name, make, input):
    return Case(name, make, input, functools.partial(make, abstract=True))


def of_equinox(cls, *args, **kwargs):
    """Return a function that makes an Equinox layer; `abstract=True` with shapes in place of arrays."""

    def make(abstract=False):
        def layer():
            return cls(*args, **kwargs, key=KEY)

        return Built(eqx.filter_eval_shape(layer) if abstract else layer(), lambda model, x: model(x))

    return make


def nnx_case(name, cls, *args, input, **kwargs):
    return flax_case(f"nnx-{name}", of_nnx(cls, *args, **kwargs), input)


def linen_case(name, module, input):
    return flax_case(f"linen-{name}", of_linen(module, input), input)


SPREAD: dict[str, Any] = {"strides": (2, 1), "kernel_dilation": (1, 2), "padding": "CIRCULAR"}
# Prime sizes, so that no two axes can be confused; circular padding, so that every position is alike.
NNX_WEIGHTED = (
    nnx_case("linear", nnx.Linear, 7, 5, input=(7,)),
    nnx_case("linear-nobias", nnx.Linear, 7, 5, use_bias=False, input=(7,)),
    nnx_case("lora-linear", nnx.LoRALinear, 7, 5, lora_rank=2, input=(7,)),
    nnx_case("general", nnx.LinearGeneral, 7, (5, 3), input=(7,)),
    nnx_case("general-many", nnx.LinearGeneral, (2, 3), (5, 7), axis=(-2, -1), input=(2, 3)),
    nnx_case("general-first", nnx.LinearGeneral, 3, 5, axis=0, input=(3, 2)),
    nnx_case("general-batch", nnx.LinearGeneral, (2, 3), (5, 7), axis=(-2, -1), batch_axis={0: 11}, input=(11, 2, 3)),
    nnx_case("einsum-out-in-out", nnx.Einsum, "ld,hdk->lhk", (3, 7, 5), (3, 5), input=(2, 7)),
    nnx_case("einsum-batch-in-out", nnx.Einsum, "bld,bdk->blk", (3, 7, 11), None, input=(3, 2, 7)),
    nnx_case("einsum-in-in-out", nnx.Einsum, "hd,hdk->k", (3, 7, 11), (11,), input=(3, 7)),
    nnx_case("einsum-ellipsis", nnx.Einsum, "...d,dk->...k", (7, 11), (11,), input=(2, 7)),
    nnx_case("conv1d", nnx.Conv, 3, 5, 3, padding="CIRCULAR", input=(12, 3)),
    nnx_case("conv2d", nnx.Conv, 3, 5, (3, 2), **SPREAD, input=(8, 8, 3)),
    nnx_case("conv2d-groups", nnx.Conv, 6, 15, (3, 3), feature_group_count=3, padding="CIRCULAR", input=(6, 6, 6)),
    nnx_case("conv2d-depthwise", nnx.Conv, 5, 10, (3, 3), feature_group_count=5, padding="CIRCULAR", input=(6, 6, 5)),
    nnx_case("conv2d-mask", nnx.Conv, 3, 5, (3, 3), mask=MASK, padding="CIRCULAR", input=(6, 6, 3)),
    nnx_case("transpose1d", nnx.ConvTranspose, 3, 5, 3, padding="CIRCULAR", input=(12, 3)),
    nnx_case("transpose2d", nnx.ConvTranspose, 3, 5, (4, 4), strides=(2, 2), padding="CIRCULAR", input=(6, 6, 3)),
    nnx_case(
        "transpose2d-transposed",
        nnx.ConvTranspose, 3, 5, (4, 4), strides=(2, 2), padding="CIRCULAR", transpose_kernel=True, input=(6, 6, 3),
    ),
)  # fmt: skip
LINEN_WEIGHTED = (
    linen_case("dense", nn.Dense(5), (7,)),
    linen_case("dense-nobias", nn.Dense(5, use_bias=False), (7,)),
    linen_case("general", nn.DenseGeneral((5, 3)), (7,)),
    linen_case("general-many", nn.DenseGeneral((5, 7), axis=(-2, -1)), (2, 3)),
    linen_case("general-batch", nn.DenseGeneral((5, 7), axis=(-2, -1), batch_dims=(0,)), (11, 2, 3)),
    linen_case("einsum-out-in-out", nn.Einsum((3, 7, 5), "ld,hdk->lhk"), (2, 7)),
    linen_case("einsum-batch-in-out", nn.Einsum((3, 7, 11), "bld,bdk->blk", use_bias=False), (3, 2, 7)),
    linen_case("einsum-in-in-out", nn.Einsum((3, 7, 11), "hd,hdk->k"), (3, 7)),
    linen_case("conv1d", nn.Conv(5, (3,), padding="CIRCULAR"), (12, 3)),
    linen_case("conv2d", nn.Conv(5, (3, 2), **SPREAD), (8, 8, 3)),
    linen_case("conv2d-groups", nn.Conv(15, (3, 3), feature_group_count=3, padding="CIRCULAR"), (6, 6, 6)),
    linen_case("conv2d-mask", nn.Conv(5, (3, 3), mask=MASK, padding="CIRCULAR"), (6, 6, 3)),
    linen_case("local", nn.ConvLocal(5, (3,), padding="CIRCULAR"), (6, 2)),
    linen_case("local2d-stride", nn.ConvLocal(3, (3, 2), strides=(2, 1), padding="CIRCULAR"), (6, 4, 2)),
    linen_case("transpose1d", nn.ConvTranspose(5, (3,), padding="CIRCULAR"), (12, 3)),
    linen_case("transpose2d", nn.ConvTranspose(5, (4, 4), strides=(2, 2), padding="CIRCULAR"), (6, 6, 3)),
    linen_case(
        "transpose2d-transposed",
        nn.ConvTranspose(5, (4, 4), strides=(2, 2), padding="CIRCULAR", transpose_kernel=True),
        (6, 6, 3),
    ),
)
FLAX_WEIGHTED = NNX_WEIGHTED + LINEN_WEIGHTED


class Fused(nn.Module):
    """Layers that only Linen's lifted transforms make: scanned, vectorized, checkpointed, compiled."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(5)(x)
        scanned = nn.scan(Residual, variable_axes={"params": 1}, split_rngs={"params": True}, length=5)
        x, _ = scanned(name="layers")(x, None)
        spread = nn.vmap(
            nn.remat(nn.Dense), variable_axes={"params": 2}, split_rngs={"params": True}, in_axes=None, axis_size=5
        )
        x = spread(5, use_bias=False, name="heads")(x).mean(0)
        return nn.jit(nn.Dense)(3, name="out")(x)


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(5, name="inner")(x), None


def rnn(cell):
    return of_nnx(lambda rngs: nnx.RNN(cell(rngs)))


def wrap(cls):
    return of_nnx(lambda rngs: cls(nnx.Linear(7, 5, rngs=rngs), rngs=rngs))


def both_ways(rngs):
    return nnx.Bidirectional(nnx.RNN(nnx.GRUCell(3, 5, rngs=rngs)), nnx.RNN(nnx.GRUCell(3, 5, rngs=rngs)))


def in_sequence(rngs):
    return nnx.Sequential(nnx.Linear(7, 5, rngs=rngs), nnx.relu, nnx.Linear(5, 3, rngs=rngs))


GROUPED: dict[str, Any] = {"use_bias": False, "normalize_qk": True, "decode": False}
if "num_kv_heads" in inspect.signature(nnx.MultiHeadAttention).parameters:  # newer versions of Flax
    GROUPED["num_kv_heads"] = 2
NNX_OTHERS = (
    flax_case("nnx-embed", of_nnx(nnx.Embed, 11, 5), ()),
    flax_case("nnx-attention", of_nnx(nnx.MultiHeadAttention, 2, 6, qkv_features=8, decode=False), (3, 6)),
    flax_case("nnx-attention-grouped", of_nnx(nnx.MultiHeadAttention, 4, 8, **GROUPED), (3, 8)),
    flax_case("nnx-lstm", rnn(lambda rngs: nnx.LSTMCell(3, 5, rngs=rngs)), (2, 3)),
    flax_case("nnx-lstm-optimized", rnn(lambda rngs: nnx.OptimizedLSTMCell(3, 5, rngs=rngs)), (2, 3)),
    flax_case("nnx-gru", rnn(lambda rngs: nnx.GRUCell(3, 5, rngs=rngs)), (2, 3)),
    flax_case("nnx-simple", rnn(lambda rngs: nnx.SimpleCell(3, 5, rngs=rngs)), (2, 3)),
    flax_case("nnx-bidirectional", of_nnx(both_ways), (2, 3)),
    flax_case("nnx-lora", of_nnx(nnx.LoRA, 7, 2, 5), (7,)),
    flax_case("nnx-batchnorm", of_nnx(nnx.BatchNorm, 5), (2, 5)),
    flax_case("nnx-layernorm", of_nnx(nnx.LayerNorm, 5), (2, 5)),
    flax_case("nnx-rmsnorm", of_nnx(nnx.RMSNorm, 5), (2, 5)),
    flax_case("nnx-groupnorm", of_nnx(nnx.GroupNorm, 6, num_groups=2), (2, 6)),
    flax_case("nnx-instancenorm", of_nnx(nnx.InstanceNorm, 5), (2, 3, 5)),
    flax_case("nnx-weightnorm", wrap(nnx.WeightNorm), (7,)),
    flax_case("nnx-spectralnorm", wrap(nnx.SpectralNorm), (7,)),
    flax_case("nnx-prelu", of_nnx(lambda rngs: nnx.PReLU()), (5,)),
    flax_case("nnx-sequential", of_nnx(in_sequence), (7,)),
    flax_case("nnx-dict", of_nnx(lambda rngs: Held(rngs)), (7,)),
)
LAST = {"reduction_axes": (-2, -1), "feature_axes": (-2, -1)}
LINEN_OTHERS = (
    flax_case("linen-embed", of_linen(nn.Embed(11, 5), (2,), jnp.int32), ()),
    flax_case("linen-attention", of_linen(nn.MultiHeadDotProductAttention(2, qkv_features=8), (3, 6)), (3, 6)),
    flax_case("linen-self-attention", of_linen(nn.SelfAttention(2, use_bias=False), (3, 6)), (3, 6)),
    flax_case("linen-lstm", of_linen(nn.RNN(nn.LSTMCell(5)), (2, 3)), (2, 3)),
    flax_case("linen-lstm-optimized", of_linen(nn.RNN(nn.OptimizedLSTMCell(5)), (2, 3)), (2, 3)),
    flax_case("linen-gru", of_linen(nn.RNN(nn.GRUCell(5)), (2, 3)), (2, 3)),
    flax_case("linen-mgu", of_linen(nn.RNN(nn.MGUCell(5)), (2, 3)), (2, 3)),
    flax_case("linen-simple", of_linen(nn.RNN(nn.SimpleCell(5)), (2, 3)), (2, 3)),
    flax_case("linen-conv-lstm", of_linen(nn.RNN(nn.ConvLSTMCell(5, (3, 3))), (1, 2, 4, 4, 3)), (1, 2, 4, 4, 3)),
    flax_case("linen-batchnorm", of_linen(nn.BatchNorm(use_running_average=True), (2, 5)), (2, 5)),
    flax_case("linen-layernorm", of_linen(nn.LayerNorm(), (2, 5)), (2, 5)),
    flax_case("linen-layernorm-2d", of_linen(nn.LayerNorm(**LAST), (2, 3, 5)), (2, 3, 5)),
    flax_case("linen-rmsnorm", of_linen(nn.RMSNorm(), (2, 5)), (2, 5)),
    flax_case("linen-groupnorm", of_linen(nn.GroupNorm(num_groups=2), (2, 6)), (2, 6)),
    flax_case("linen-instancenorm", of_linen(nn.InstanceNorm(), (2, 3, 5)), (2, 3, 5)),
    flax_case("linen-weightnorm", of_linen(nn.WeightNorm(nn.Dense(5)), (7,)), (7,)),
    flax_case(
        "linen-spectralnorm",
        of_linen(nn.SpectralNorm(nn.Dense(5)), (7,), forward=lambda module, x: module(x, update_stats=False)),
        (7,),
    ),
    flax_case("linen-prelu", of_linen(nn.PReLU(), (5,)), (5,)),
    flax_case("linen-sequential", of_linen(nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(3)]), (7,)), (7,)),
    flax_case("linen-lifted", of_linen(Fused(), (7,)), (7,)),
)  # fmt: skip
FLAX_EVERY = FLAX_WEIGHTED + NNX_OTHERS + LINEN_OTHERS


class Held(nnx.Module):
    """Layers in NNX's own containers."""

    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Linear(7, 7, rngs=rngs) for _ in range(2)])
        self.heads = nnx.Dict(one=nnx.Linear(7, 3, rngs=rngs))

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.heads["one"](x)


def named(model):
    """Leaves by the path that a plan gives them, whatever the framework."""
    if isinstance(model, nnx.Pytree):
        flat = nnx.to_flat_state(nnx.state(model))
        pairs = [(path, each.get_raw_value() if isinstance(each, nnx.Variable) else each) for path, each in flat]
    else:
        found, _ = jax.tree_util.tree_flatten_with_path(model)
        pairs = [(tuple(map(word, path)), leaf) for path, leaf in found]
    words = [(each for part in path for each in (part if isinstance(part, tuple) else (part,))) for path, _ in pairs]
    names = [".".join(map(str, each)).removeprefix("params.").replace("/", ".") for each in words]
    return dict(zip(names, (leaf for _, leaf in pairs), strict=True))


def word(entry):
    return next(getattr(entry, each) for each in ("name", "key", "idx") if hasattr(entry, each))


def weights(built, rules=None):
    """Return what a plan says of the weights of a model, free of names and layout."""
    plan = ix.plan(built.model, rules or {"*": "he_normal"}, **built.options)
    return sorted(
        {
            (
                each.kind,
                each.parameter.role,
                each.parameter.fan_in,
                each.parameter.fan_out,
                each.parameter.effective_fan_in,
                each.parameter.effective_fan_out,
                str(each.initializer),
                round(each.std, 9),
            )
            for each in plan.draws
            if each.parameter.role in ("weight", "recurrent", "embedding")
        }
    )


@dataclass(frozen=True)
class Same:
    """The same layer in three frameworks."""

    name: str
    equinox: Callable[[], Built]
    nnx: Callable[[], Built]
    linen: Callable[[], Built]


def spread(rank):
    return {"kernel_size": (3,) * rank, "strides": (2,) * rank}


SAME = (
    Same("linear", of_equinox(eqx.nn.Linear, 7, 5), of_nnx(nnx.Linear, 7, 5), of_linen(nn.Dense(5), (7,))),
    Same(
        "conv2d",
        of_equinox(eqx.nn.Conv2d, 6, 15, 3, stride=2, groups=3),
        of_nnx(nnx.Conv, 6, 15, feature_group_count=3, **spread(2)),
        of_linen(nn.Conv(15, feature_group_count=3, **spread(2)), (8, 8, 6)),
    ),
    Same(
        "transpose2d",
        of_equinox(eqx.nn.ConvTranspose2d, 3, 5, 3, stride=2),
        of_nnx(nnx.ConvTranspose, 3, 5, **spread(2)),
        of_linen(nn.ConvTranspose(5, **spread(2)), (8, 8, 3)),
    ),
    Same(
        "transpose2d-transposed",
        of_equinox(eqx.nn.ConvTranspose2d, 3, 5, 3, stride=2),
        of_nnx(nnx.ConvTranspose, 3, 5, transpose_kernel=True, **spread(2)),
        of_linen(nn.ConvTranspose(5, transpose_kernel=True, **spread(2)), (8, 8, 3)),
    ),
    Same(
        "embedding",
        of_equinox(eqx.nn.Embedding, 11, 5),
        of_nnx(nnx.Embed, 11, 5),
        of_linen(nn.Embed(11, 5), (2,), jnp.int32),
    ),
    Same(
        "attention",
        of_equinox(eqx.nn.MultiheadAttention, 2, 6),
        of_nnx(nnx.MultiHeadAttention, 2, 6),
        of_linen(nn.MultiHeadDotProductAttention(2), (3, 6)),
    ),
    Same(
        "attention-wider",
        of_equinox(eqx.nn.MultiheadAttention, 2, 6, qk_size=4, vo_size=4),
        of_nnx(nnx.MultiHeadAttention, 2, 6, qkv_features=8),
        of_linen(nn.MultiHeadDotProductAttention(2, qkv_features=8), (3, 6)),
    ),
    Same(
        "lstm",
        of_equinox(eqx.nn.LSTMCell, 3, 5),
        of_nnx(nnx.LSTMCell, 3, 5),
        of_linen(nn.RNN(nn.LSTMCell(5)), (2, 3)),
    ),
    Same(
        "lstm-optimized",
        of_equinox(eqx.nn.LSTMCell, 3, 5),
        of_nnx(nnx.OptimizedLSTMCell, 3, 5),
        of_linen(nn.RNN(nn.OptimizedLSTMCell(5)), (2, 3)),
    ),
    Same(
        "gru",
        of_equinox(eqx.nn.GRUCell, 3, 5),
        of_nnx(nnx.GRUCell, 3, 5),
        of_linen(nn.RNN(nn.GRUCell(5)), (2, 3)),
    ),
    Same(
        "weightnorm",
        of_equinox(lambda key: eqx.nn.WeightNorm(eqx.nn.Linear(7, 5, key=key))),
        of_nnx(lambda rngs: nnx.WeightNorm(nnx.Linear(7, 5, rngs=rngs), rngs=rngs)),
        of_linen(nn.WeightNorm(nn.Dense(5)), (7,)),
    ),
)
