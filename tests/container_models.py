"""Models as containers of `Leaf`s, which know what they are: what Flax, Haiku, stax, Keras, PyTorch and hands write.

A leaf says the role and the fans that the array has in the model it comes from, counted as JAX counts: per entry of a
stack, with the window. Where plain containers have a written convention that no evidence contradicts (two axes are
inputs and outputs, the gates of a merged kernel are outputs), what it reads is allowed beside the truth.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

SIZES = (3, 5, 7, 8, 11, 16, 24, 32, 64)
DEPTHS = (12, 20, 24, 48)
"""Sizes of stacks that nothing but their axes tells of: too long for a window."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Leaf:
    """One array and the truth about it.

    Attributes:
        shape: its shape.
        role: weight, embedding, bias, scale, state or other.
        kind: whose array it is, in words; what is wrong is grouped by it.
        fan_in: inputs of one output; a bias has its weight's; `None` where it is not checked.
        fan_out: outputs of one input.
        also: other readings, role and fans, that a written convention allows.
        grouped: fan_out of one group, where names can't tell the groups and the plan has to say so.
        start: the initializer that running statistics start with.
        dtype: its type.
    """

    shape: tuple[int, ...]
    role: str
    kind: str
    fan_in: float | None = None
    fan_out: float | None = None
    also: tuple[tuple[str, float | None, float | None], ...] = ()
    grouped: float | None = None
    start: str | None = None
    dtype: Any = jnp.float32

    def stacked(self, depth: int, axis: int = 0) -> "Leaf":
        """Return the leaf of a stack of such arrays."""
        shape = (*self.shape[:axis], depth, *self.shape[axis:])
        return dataclasses.replace(self, shape=shape, kind=f"stacked {self.kind}", also=())

    def as_state(self, kind: str) -> "Leaf":
        """Return a copy of the array that is no parameter."""
        return Leaf(shape=self.shape, role="state", kind=kind, dtype=self.dtype)


class Model(NamedTuple):
    """A model: its parameters, and the statistics kept beside them."""

    params: Any
    stats: Any = None


def weight(kind, shape, fan_in, fan_out, *also, **kwargs):
    return Leaf(shape=shape, role="weight", kind=kind, fan_in=fan_in, fan_out=fan_out, also=also, **kwargs)


def matrix(kind, i, o, *, merged=1):
    """A matrix stored (in, out); its gates, or the three of an attention, may be counted as outputs."""
    return weight(kind, (i, o), i, o // merged, ("weight", i, o))


def reversed_matrix(kind, i, o, *, told, merged=1):
    """A matrix stored (out, in); where nothing tells, two axes are inputs and outputs."""
    merge = ("weight", i, o)
    return weight(kind, (o, i), i, o // merged, merge, *([] if told else [("weight", o, i)]))


def table(kind, vocabulary, features, *, told=True):
    return Leaf(
        shape=(vocabulary, features),
        role="embedding",
        kind=kind,
        fan_in=features,
        fan_out=vocabulary,
        also=() if told else (("weight", vocabulary, features),),
    )


def conv(kind, window, i, o, *, groups=1, order="hwio"):
    """A convolution's kernel; in plain containers a group's outputs can't be told from all."""
    taps = math.prod(window)
    shape = (*window, i // groups, o) if order == "hwio" else (o, i // groups, *window)
    fan_in = taps * i // groups
    return weight(kind, shape, fan_in, taps * o // groups, ("weight", fan_in, taps * o))


def bias(kind, shape, fan_in=None):
    return Leaf(shape=shape, role="bias", kind=kind, fan_in=fan_in)


def scale(kind, shape):
    return Leaf(shape=shape, role="scale", kind=kind)


def state(kind, shape, start=None, dtype=jnp.float32):
    return Leaf(shape=shape, role="state", kind=kind, start=start, dtype=dtype)


def other(kind, shape):
    return Leaf(shape=shape, role="other", kind=kind)


def is_leaf(node):
    return isinstance(node, Leaf)


def map_leaves(function, tree):
    return jax.tree.map(function, tree, is_leaf=is_leaf)


def two(rng, *, square=0.15):
    """Two sizes, which differ most of the time."""
    first = rng.choice(SIZES)
    return (first, first) if rng.random() < square else (first, rng.choice([each for each in SIZES if each != first]))


def few(rng):
    """Two sizes out of few, so that what Flax makes of them is made once."""
    return pick(rng, ((7, 5), (5, 7), (3, 16), (24, 8), (8, 8), (64, 32)))


def chain(rng, depth):
    """Sizes of the layers of a perceptron."""
    sizes = [rng.choice(SIZES) for _ in range(depth + 1)]
    return list(itertools.pairwise(sizes))


def pick(rng, options):
    return options[rng.randrange(len(options))]


# Flax Linen


class Row(NamedTuple):
    """A Linen module: how it is made from two sizes, what it is called on, and what its arrays are."""

    module: Callable[[int, int], nn.Module]
    inputs: Callable[[int, int], tuple[Any, ...]]
    read: Callable[[tuple[str, ...], tuple[int, ...], int, int], Leaf]


def floats(*shapes):
    return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)


def reading(kind, fans, **kwargs):
    """Read a kernel with the fans that its sizes tell, and a bias with the kernel's."""

    def read(names, shape, i, o):
        fan_in, fan_out, *rest = fans(i, o)
        if names[-1] == "bias":
            return bias(f"{kind} bias", shape, fan_in)
        return weight(f"{kind} kernel", shape, fan_in, fan_out, grouped=rest[0] if rest else None, **kwargs)

    return read


def read_norm(names, shape, i, o):
    return bias("norm bias", shape) if names[-1] == "bias" else scale("norm scale", shape)


def read_slope(names, shape, i, o):
    return scale("PReLU slope", shape)


def read_table(names, shape, i, o):
    return table("Embed table", *shape)


def read_cell(names, shape, i, o):
    if names[-1] == "bias":
        return bias("cell bias", shape)
    return weight("cell kernel", shape, o if names[-2].startswith("h") else i, o)


def read_conv_cell(names, shape, i, o):
    if names[-1] == "bias":
        return bias("convolutional cell bias", shape)
    return weight("convolutional cell kernel", shape, 9 * (o if names[-2] == "hh" else i), 9 * o)


def read_attention(names, shape, i, o):
    if names[-1] == "bias":
        return bias("attention bias", shape, i if names[-2] != "out" else o)
    if names[-2] == "out":
        return weight("attention out kernel", shape, o, i)
    return weight("attention kernel", shape, i, o)


def carried(cls):
    return Row(lambda i, o: cls(o), lambda i, o: (floats((o,), (o,)), *floats((i,))), read_cell)


def cell(cls):
    return Row(lambda i, o: cls(o), lambda i, o: floats((o,), (i,)), read_cell)


def image(i, o):
    return floats((1, 8, 8, i))


def norm(make):
    return Row(lambda i, o: make(), lambda i, o: floats((2, 4, 4, i)), read_norm)


LINEN = {
    "Dense": Row(lambda i, o: nn.Dense(o), lambda i, o: floats((2, i)), reading("Dense", lambda i, o: (i, o))),
    "Dense bare": Row(
        lambda i, o: nn.Dense(o, use_bias=False), lambda i, o: floats((2, i)), reading("Dense", lambda i, o: (i, o))
    ),
    "DenseGeneral": Row(
        lambda i, o: nn.DenseGeneral((2, o)),
        lambda i, o: floats((3, i)),
        reading("DenseGeneral", lambda i, o: (i, 2 * o)),
    ),
    "DenseGeneral of two": Row(
        lambda i, o: nn.DenseGeneral(o, axis=(-2, -1)),
        lambda i, o: floats((3, 4, i)),
        reading("DenseGeneral of two axes", lambda i, o: (4 * i, o)),
    ),
    "DenseGeneral batched": Row(
        lambda i, o: nn.DenseGeneral(o, batch_dims=(0,)),
        lambda i, o: floats((4, 3, i)),
        reading("batched DenseGeneral", lambda i, o: (i, o)),
    ),
    "Conv": Row(lambda i, o: nn.Conv(o, (3, 3)), image, reading("Conv", lambda i, o: (9 * i, 9 * o))),
    "Conv bare": Row(
        lambda i, o: nn.Conv(o, (3, 3), use_bias=False), image, reading("Conv", lambda i, o: (9 * i, 9 * o))
    ),
    "Conv 1d": Row(
        lambda i, o: nn.Conv(o, (5,)), lambda i, o: floats((1, 8, i)), reading("Conv", lambda i, o: (5 * i, 5 * o))
    ),
    "Conv grouped": Row(
        lambda i, o: nn.Conv(2 * o, (3, 3), feature_group_count=2),
        lambda i, o: floats((1, 8, 8, 2 * i)),
        reading("grouped Conv", lambda i, o: (9 * i, 9 * o, 18 * o)),
    ),
    "Conv depthwise": Row(
        lambda i, o: nn.Conv(i, (3, 3), feature_group_count=i),
        image,
        reading("grouped Conv", lambda i, o: (9, 9, 9 * i)),
    ),
    "ConvTranspose": Row(
        lambda i, o: nn.ConvTranspose(o, (3, 3)), image, reading("ConvTranspose", lambda i, o: (9 * i, 9 * o))
    ),
    "ConvTranspose of a transposed kernel": Row(
        lambda i, o: nn.ConvTranspose(o, (3, 3), transpose_kernel=True),
        image,
        reading("ConvTranspose of a transposed kernel", lambda i, o: (9 * i, 9 * o)),
    ),
    "ConvLocal": Row(
        lambda i, o: nn.ConvLocal(o, (3,)),
        lambda i, o: floats((1, 8, i)),
        reading("ConvLocal", lambda i, o: (3 * i, 3 * o)),
    ),
    "Embed": Row(lambda i, o: nn.Embed(10 * i, o), lambda i, o: (jax.ShapeDtypeStruct((2,), jnp.int32),), read_table),
    "Einsum outputs first": Row(
        lambda i, o: nn.Einsum((o, i), "...i,oi->...o"),
        lambda i, o: floats((2, i)),
        reading("Einsum (out, in)", lambda i, o: (i, o)),
    ),
    "Einsum bare, outputs first": Row(
        lambda i, o: nn.Einsum((o, i), "...i,oi->...o", use_bias=False),
        lambda i, o: floats((2, i)),
        reading("Einsum (out, in) without a bias", lambda i, o: (i, o)),
    ),
    "Einsum of heads": Row(
        lambda i, o: nn.Einsum((2, i, o), "...ti,hio->...hto"),
        lambda i, o: floats((3, i)),
        reading("Einsum of heads", lambda i, o: (i, 2 * o)),
    ),
    "LSTMCell": carried(nn.LSTMCell),
    "OptimizedLSTMCell": carried(nn.OptimizedLSTMCell),
    "GRUCell": cell(nn.GRUCell),
    "MGUCell": cell(nn.MGUCell),
    "SimpleCell": cell(nn.SimpleCell),
    "ConvLSTMCell": Row(
        lambda i, o: nn.ConvLSTMCell(o, (3, 3)),
        lambda i, o: (floats((1, 8, 8, o), (1, 8, 8, o)), *floats((1, 8, 8, i))),
        read_conv_cell,
    ),
    "MultiHeadDotProductAttention": Row(
        lambda i, o: nn.MultiHeadDotProductAttention(2, qkv_features=2 * o),
        lambda i, o: floats((1, 3, i)),
        lambda names, shape, i, o: read_attention(names, shape, i, 2 * o),
    ),
    "LayerNorm": norm(nn.LayerNorm),
    "LayerNorm of two": norm(lambda: nn.LayerNorm(reduction_axes=(-2, -1), feature_axes=(-2, -1))),
    "RMSNorm": norm(nn.RMSNorm),
    "BatchNorm": norm(lambda: nn.BatchNorm(use_running_average=True)),
    "GroupNorm": norm(lambda: nn.GroupNorm(num_groups=None, group_size=1)),
    "InstanceNorm": norm(nn.InstanceNorm),
    "PReLU": Row(lambda i, o: nn.PReLU(), lambda i, o: floats((2, i)), read_slope),
}
"""Linen's modules; the names up to the first space are their classes'."""

CUSTOM = ("encoder", "in_proj", "c_attn", "head", "query", "out", "mlp", "w_in", "gate_proj", "attn", "backbone", "l1")
"""What people call modules."""


@functools.cache
def linen_variables(name: str, i: int, o: int) -> Any:
    """Return the abstract variables of a Linen module."""
    row = LINEN[name]
    return jax.eval_shape(row.module(i, o).init, jax.random.key(0), *row.inputs(i, o))


def names_of(path):
    return tuple(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry)))) for entry in path)


STARTS = {"mean": "zeros", "var": "ones"}


def linen_piece(name: str, i: int, o: int) -> tuple[Any, Any]:
    """Return parameters and statistics of one Linen module as leaves."""
    variables = linen_variables(name, i, o)
    read = LINEN[name].read
    params = jax.tree_util.tree_map_with_path(
        lambda path, array: dataclasses.replace(
            read(names_of(path), array.shape, i, o), kind=f"Linen {read(names_of(path), array.shape, i, o).kind}"
        ),
        variables["params"],
    )
    stats = jax.tree_util.tree_map_with_path(
        lambda path, array: state("batch statistics", array.shape, STARTS.get(names_of(path)[-1])),
        variables.get("batch_stats", {}),
    )
    return params, stats


def put(tree, names, child):
    """Put a subtree at its place in nested dicts."""
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
    tree[names[-1]] = child


def unlabelled(tree):
    """Linen arrays under a name of the user's: a matrix called kernel is read as Flax stores most."""

    def told_less(leaf):
        if leaf.kind == "Linen Einsum (out, in) without a bias kernel":
            return dataclasses.replace(leaf, also=(("weight", leaf.fan_out, leaf.fan_in),))
        return leaf

    return map_leaves(told_less, tree)


def linen(rng: Random, size: int) -> Model:
    """Modules of Linen under their automatic names or under names of the user's, some inside others."""
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    custom = list(CUSTOM)
    rng.shuffle(custom)
    inside = ("Encoder_0",) if rng.random() < 0.3 else ("trunk",) if rng.random() < 0.2 else ()
    for count in range(size):
        name = pick(rng, tuple(LINEN))
        piece, running = linen_piece(name, *few(rng))
        automatic = rng.random() < 0.7
        names = (*inside, f"{name.partition(' ')[0]}_{count}" if automatic else custom[count])
        put(params, names, piece if automatic else unlabelled(piece))
        if running:
            put(stats, names, running)
    return Model(params, stats or None)


LIFTED = ("Dense", "Dense bare", "Conv", "Conv bare", "Conv 1d", "LayerNorm", "RMSNorm", "Embed", "LSTMCell", "GRUCell",
          "MultiHeadDotProductAttention", "DenseGeneral")  # fmt: skip


class Lifted(nn.Module):
    """One module of the table, over and over: by `nn.vmap`, or by `nn.scan` inside a block."""

    row: str
    i: int
    o: int
    depth: int
    axis: int
    scanned: bool

    @nn.compact
    def __call__(self, *inputs):
        row = LINEN[self.row]
        split = {"params": True}
        if not self.scanned:
            inner = row.module(self.i, self.o)
            settings = {name: getattr(inner, name) for name in inner.__dataclass_fields__ if name not in OWN}
            cls = nn.vmap(
                type(inner), variable_axes={"params": self.axis}, split_rngs=split, in_axes=None, axis_size=self.depth
            )
            return cls(**settings)(*inputs)
        return nn.scan(
            Block, variable_axes={"params": self.axis}, split_rngs=split, length=self.depth, in_axes=nn.broadcast
        )(self.row, self.i, self.o)(None, inputs)


OWN = frozenset({"parent", "name"})


class Block(nn.Module):
    """One module of the table as the body of a scan."""

    row: str
    i: int
    o: int

    @nn.compact
    def __call__(self, carry, inputs):
        LINEN[self.row].module(self.i, self.o)(*inputs)
        return carry, None


@functools.cache
def lifted_params(row: str, i: int, o: int, depth: int, axis: int, scanned: bool) -> Any:
    module = Lifted(row, i, o, depth, axis, scanned)
    return jax.eval_shape(module.init, jax.random.key(0), *LINEN[row].inputs(i, o))["params"]


def lifted(rng: Random, size: int) -> Model:
    """Stacks of Linen's modules, as `nn.scan` and `nn.vmap` make them."""
    params: dict[str, Any] = {}
    for count in range(size):
        row, (i, o) = pick(rng, LIFTED), pick(rng, ((7, 5), (3, 16), (8, 8)))
        scanned = rng.random() < 0.5
        axis = 1 if rng.random() < 0.2 and row.startswith("Dense") and row != "DenseGeneral" else 0
        depth = pick(rng, (3, 6, 12))
        # A bias has one axis, so that a stack along axis 1 stands last in it, and in an embedding in the middle.
        shapes = lifted_params(row, i, o, depth, axis, scanned)
        plain = {
            names_of(path)[-2:]: leaf
            for path, leaf in jax.tree_util.tree_flatten_with_path({"one": linen_piece(row, i, o)[0]}, is_leaf=is_leaf)[
                0
            ]
        }

        def read(path, array, plain=plain, depth=depth, axis=axis, row=row):
            names = names_of(path)
            leaf = next(
                leaf for known, leaf in plain.items() if known[-1] == names[-1] and known[0] in ("one", names[-2])
            )
            stacked = leaf.stacked(depth, axis)
            assert stacked.shape == array.shape
            if row == "Conv bare":  # a convolution of one more axis, for all that its name and shape tell
                return dataclasses.replace(stacked, also=(("weight", leaf.fan_in * depth, leaf.fan_out * depth),))
            return stacked

        (name, piece), *_ = jax.tree_util.tree_map_with_path(read, shapes).items()
        put(params, (f"{name.rpartition('_')[0]}_{count}" if rng.random() < 0.7 else f"layers{count}",), piece)
    return Model(params)


# Flax NNX


def nnx_reading(kind, fans):
    read = reading(kind, fans)
    return lambda names, shape, i, o: read(names, shape, i, o)


def nnx_norm(names, shape, i, o):
    if names[-1] in STARTS:
        return state("NNX batch statistics", shape, STARTS[names[-1]])
    return read_norm(names, shape, i, o)


def nnx_packed(gates):
    def read(names, shape, i, o):
        if names[-1] == "bias":
            return bias("packed cell bias", shape)
        fan_in = i if names[-2] == "dense_i" else o
        return weight("packed cell kernel", shape, fan_in, o, ("weight", fan_in, gates * o))

    return read


def nnx_lora(names, shape, i, o):
    if names[-1] == "lora_a":
        return weight("LoRA a", shape, i, 2)
    if names[-1] == "lora_b":  # zero, or the update is no longer zero at the start
        return other("LoRA b", shape)
    return reading("LoRALinear", lambda i, o: (i, o))(names, shape, i, o)


def nnx_random(names, shape, i, o):
    return state("random state", shape, dtype=jnp.uint32)


NNX: dict[str, tuple[Callable[[int, int, nnx.Rngs], Any], Callable[..., Leaf]]] = {
    "linear": (lambda i, o, r: nnx.Linear(i, o, rngs=r), nnx_reading("Linear", lambda i, o: (i, o))),
    "proj": (lambda i, o, r: nnx.Linear(i, o, use_bias=False, rngs=r), nnx_reading("Linear", lambda i, o: (i, o))),
    "general": (
        lambda i, o, r: nnx.LinearGeneral(i, (2, o), rngs=r),
        nnx_reading("LinearGeneral", lambda i, o: (i, 2 * o)),
    ),
    "merge": (
        lambda i, o, r: nnx.LinearGeneral((4, i), o, axis=(-2, -1), rngs=r),
        nnx_reading("LinearGeneral of two axes", lambda i, o: (4 * i, o)),
    ),
    "conv": (lambda i, o, r: nnx.Conv(i, o, (3, 3), rngs=r), nnx_reading("Conv", lambda i, o: (9 * i, 9 * o))),
    "up": (
        lambda i, o, r: nnx.ConvTranspose(i, o, (3, 3), rngs=r),
        nnx_reading("ConvTranspose", lambda i, o: (9 * i, 9 * o)),
    ),
    "up_t": (
        lambda i, o, r: nnx.ConvTranspose(i, o, (3, 3), transpose_kernel=True, rngs=r),
        nnx_reading("ConvTranspose of a transposed kernel", lambda i, o: (9 * i, 9 * o)),
    ),
    "embed": (lambda i, o, r: nnx.Embed(10 * i, o, rngs=r), read_table),
    "einsum": (
        lambda i, o, r: nnx.Einsum("...i,oi->...o", (o, i), (o,), rngs=r),
        nnx_reading("Einsum (out, in)", lambda i, o: (i, o)),
    ),
    "attn": (
        lambda i, o, r: nnx.MultiHeadAttention(2, i, 2 * o, decode=False, rngs=r),
        lambda names, shape, i, o: read_attention(names, shape, i, 2 * o),
    ),
    "lstm": (lambda i, o, r: nnx.LSTMCell(i, o, rngs=r), read_cell),
    "lstm_packed": (lambda i, o, r: nnx.OptimizedLSTMCell(i, o, rngs=r), nnx_packed(4)),
    "gru": (lambda i, o, r: nnx.GRUCell(i, o, rngs=r), nnx_packed(3)),
    "norm": (lambda i, o, r: nnx.LayerNorm(i, rngs=r), nnx_norm),
    "rms": (lambda i, o, r: nnx.RMSNorm(i, rngs=r), nnx_norm),
    "bn": (lambda i, o, r: nnx.BatchNorm(i, rngs=r), nnx_norm),
    "drop": (lambda i, o, r: nnx.Dropout(0.1, rngs=r), nnx_random),
    "lora": (lambda i, o, r: nnx.LoRALinear(i, o, lora_rank=2, rngs=r), nnx_lora),
}
"""NNX's modules, each under a name an attribute may have: how it is made, and what its arrays are."""


@functools.cache
def nnx_arrays(name: str, i: int, o: int, depth: int) -> Any:
    """Return the pure dict of an abstract NNX module, or of a stack of them."""
    make = NNX[name][0]
    if not depth:
        return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: make(i, o, nnx.Rngs(0)))))
    many = nnx.vmap(lambda key: make(i, o, nnx.Rngs(key)), in_axes=0, out_axes=0)
    keys = jax.random.split(jax.random.key(0), depth)
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: many(keys))))


def nnx_piece(name: str, i: int, o: int, depth: int = 0) -> Any:
    """Return the pure dict of an NNX module as leaves."""

    def read(path, array):
        shape = array.shape[1:] if depth else array.shape
        leaf = NNX[name][1](names_of(path), shape, i, o)
        leaf = dataclasses.replace(leaf, kind=leaf.kind if leaf.role == "state" else f"NNX {leaf.kind}")
        return dataclasses.replace(leaf.stacked(depth) if depth else leaf, dtype=array.dtype)

    return jax.tree_util.tree_map_with_path(read, nnx_arrays(name, i, o, depth))


def nnx_dict(rng: Random, size: int) -> Model:
    """A pure dict of an NNX model: attributes, and lists of modules with numbers for keys."""
    params: dict[Any, Any] = {}
    for count in range(size):
        name = pick(rng, tuple(NNX))
        stack = rng.random() < 0.1 and name in ("linear", "proj", "norm", "embed")
        piece = nnx_piece(name, *few(rng), pick(rng, (4, 12)) if stack else 0)
        if rng.random() < 0.3:
            params.setdefault("blocks", {})[count] = {name: piece} if rng.random() < 0.5 else piece
        else:
            params[f"{name}{count}" if name in params or rng.random() < 0.3 else name] = piece
    return Model(params)


def nnx_raw(rng: Random, size: int) -> Model:
    """The same restored raw: every array is the value of its variable."""
    return Model(map_leaves(lambda leaf: {"value": leaf}, nnx_dict(rng, size).params))


# Haiku


def haiku(rng: Random, size: int) -> Model:
    """Modules of Haiku in two levels, as it names them."""
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    around = pick(rng, ("", "mlp/~/", "net/", "transformer/block_0/~/"))
    for count in range(size):
        i, o = two(rng)
        end = f"_{count}" if count else ""
        match pick(
            rng,
            ("linear", "linear", "bare", "conv", "conv1d", "transpose", "norm", "bn", "embed", "lstm", "gru", "mha"),
        ):
            case "linear":
                params[f"{around}linear{end}"] = {"w": matrix("Haiku linear w", i, o), "b": bias("Haiku b", (o,), i)}
            case "bare":
                params[f"{around}linear{end}"] = {"w": matrix("Haiku linear w", i, o)}
            case "conv":
                w = conv("Haiku conv w", (3, 3), i, o)
                params[f"{around}conv2_d{end}"] = {"w": w, "b": bias("Haiku b", (o,), 9 * i)}
            case "conv1d":
                w = conv("Haiku conv w", (5,), i, o)
                params[f"{around}conv1_d{end}"] = {"w": w, "b": bias("Haiku b", (o,), 5 * i)}
            case "transpose":
                w = weight("Haiku conv transpose w", (3, 3, o, i), 9 * i, 9 * o)
                params[f"{around}conv2_d_transpose{end}"] = {"w": w, "b": bias("Haiku b", (o,), 9 * i)}
            case "norm":
                params[f"{around}layer_norm{end}"] = {
                    "scale": scale("Haiku scale", (o,)),
                    "offset": bias("Haiku offset", (o,)),
                }
            case "bn":
                name, shape = f"{around}batch_norm{end}", (1, 1, 1, o)
                params[name] = {
                    "scale": scale("Haiku scale (1, 1, 1, c)", shape),
                    "offset": bias("Haiku offset (1, 1, 1, c)", shape),
                }
                for which in ("mean", "var"):
                    stats[f"{name}/~/{which}_ema"] = {
                        "average": state("Haiku batch statistics", shape),
                        "hidden": state("Haiku batch statistics", shape),
                        "counter": state("count", (), dtype=jnp.int32),
                    }
            case "embed":
                params[f"{around}embed{end}"] = {"embeddings": table("Haiku embeddings", 10 * i, o)}
            case "lstm":
                w = matrix("Haiku LSTM w", i + o, 4 * o, merged=4)
                params[f"{around}lstm{end}/linear"] = {"w": w, "b": bias("Haiku b", (4 * o,), i + o)}
            case "gru":
                params[f"{around}gru{end}"] = {
                    "w_i": matrix("Haiku GRU w", i, 3 * o, merged=3),
                    "w_h": matrix("Haiku GRU w", o, 3 * o, merged=3),
                    "b": bias("Haiku GRU b", (3 * o,)),
                }
            case "mha":
                for which in ("query", "key", "value", "linear"):
                    a, b = (i, 2 * o) if which != "linear" else (2 * o, i)
                    w = matrix("Haiku attention w", a, b)
                    name = f"{around}multi_head_attention{end}/{which}"
                    params[name] = {"w": w, "b": bias("Haiku b", (b,), a)}
    return Model(params, stats or None)


# Lists


def pairs(rng: Random, size: int) -> Model:
    """Lists of pairs, as in stax and in JAX's examples: (in, out) in one of these, (out, in) in the other."""
    layers: list[Any] = []
    first = rng.random() < 0.35
    together = tuple if rng.random() < 0.8 else list
    biased = rng.random() < 0.9
    for i, o in chain(rng, size):
        w = reversed_matrix("W (out, in) of a pair", i, o, told=True) if first else matrix("W of a pair", i, o)
        layers.append(together([w, bias("b of a pair", (o,), i)]) if biased or not layers else (w,))
        if rng.random() < 0.2:
            layers.append(())
    if first and not any(len(each) > 1 and each[0].shape[0] != each[0].shape[1] for each in layers):
        w = reversed_matrix("W (out, in) of a pair", 5, 7, told=True)
        layers.append(together([w, bias("b of a pair", (7,), 5)]))
    return Model(layers)


def stax(rng: Random, size: int) -> Model:
    """What stax makes: convolutions with biases of as many axes, (beta, gamma) of its batch norm, empty tuples."""
    layers: list[Any] = []
    for i, o in chain(rng, size):
        match pick(rng, ("conv", "dense", "bn", "relu")):
            case "conv":
                w = conv("stax W", (3, 3), i, o)
                layers.append((w, bias("stax b (1, 1, 1, c)", (1, 1, 1, o), 9 * i)))
            case "bn":
                layers.append((bias("stax beta", (i,)), scale("stax gamma", (i,))))
            case "relu":
                layers.append(())
            case _:
                layers.append((matrix("stax W", i, o), bias("stax b", (o,), i)))
    return Model([*layers, (matrix("stax W", 8, 3), bias("stax b", (3,), 8))])


def keras(rng: Random, size: int) -> Model:
    """Flat lists of arrays, as Keras on JAX keeps them: trainable ones, and statistics apart."""
    arrays: list[Any] = []
    stats: list[Any] = []
    for i, o in chain(rng, size):
        match pick(
            rng, ("conv-bn", "dense-bn", "conv", "dense", "bare-bn", "embed", "lstm", "norm", "separable", "mha")
        ):
            case "conv-bn":
                arrays += [conv("Keras K before gamma", (3, 3), i, o)]
                arrays += [scale("Keras gamma", (o,)), bias("Keras beta", (o,))]
                stats += [state("Keras moving statistics", (o,)) for _ in range(2)]
            case "dense-bn":
                arrays += [matrix("Keras W", i, o), bias("Keras b", (o,), i)]
                arrays += [scale("Keras gamma behind b", (o,)), bias("Keras beta", (o,))]
                stats += [state("Keras moving statistics", (o,)) for _ in range(2)]
            case "bare-bn":
                arrays += [matrix("Keras W before gamma", i, o), scale("Keras gamma", (o,)), bias("Keras beta", (o,))]
            case "conv":
                arrays += [conv("Keras K", (3, 3), i, o), bias("Keras b", (o,), 9 * i)]
            case "embed":
                arrays += [table("Keras embeddings", 10 * i, o, told=False)]
            case "lstm":
                arrays += [
                    matrix("Keras LSTM W", i, 4 * o, merged=4),
                    matrix("Keras LSTM U", o, 4 * o, merged=4),
                    bias("Keras LSTM b", (4 * o,)),
                ]
            case "norm":
                arrays += [scale("Keras gamma", (i,)), bias("Keras beta", (i,))]
            case "separable":
                arrays += [
                    # Without a name it is a convolution from i to two channels, for all that its shape tells.
                    weight("Keras depthwise K", (3, 3, i, 2), 9, 18, ("weight", 9 * i, 18)),
                    conv("Keras K", (1, 1), 2 * i, o),
                    bias("Keras b", (o,), 2 * i),
                ]
            case "mha":
                for _ in range(3):
                    arrays += [weight("Keras attention (d, heads, k)", (64, 4, o), 64, 4 * o)]
                    arrays += [bias("Keras attention bias (heads, k)", (4, o), 64)]
                # With a bias behind it, it is a convolution of window 4, for all that its shape tells.
                arrays += [weight("Keras attention (heads, k, d)", (4, o, 64), 4 * o, 64, ("weight", 4 * o, 256))]
                arrays += [bias("Keras attention bias", (64,), 4 * o)]
            case _:
                arrays += [matrix("Keras W", i, o), bias("Keras b", (o,), i)]
    arrays += [matrix("Keras W", 8, 3), bias("Keras b", (3,), 8)]
    return Model(arrays, stats or None)


# Written by hand


def mlp(rng: Random, size: int) -> Model:
    """Dicts of W1 and b1, nested or not, wide biases among them, stored either way."""
    style = pick(rng, ("W1", "w_0", "fc_w", "nested", "words", "list"))
    first = rng.random() < 0.3
    biases = pick(rng, ("vector", "vector", "vector", "wide", "none"))
    params: dict[str, Any] = {}
    layers: list[Any] = []
    every = chain(rng, size)
    told = biases != "none" and any(i != o for i, o in every)
    for count, (i, o) in enumerate(every, 1):
        w = reversed_matrix("hand-written W (out, in)", i, o, told=told) if first else matrix("hand-written W", i, o)
        shape = (o,) if biases == "vector" else (o, 1) if first else (1, o)
        b = bias(f"hand-written b {'(n,)' if biases == 'vector' else '(n, 1)' if first else '(1, n)'}", shape, i)
        names = {
            "W1": (f"W{count}", f"b{count}"),
            "w_0": (f"w_{count}", f"b_{count}"),
            "fc_w": (f"fc{count}_w", f"fc{count}_b"),
            "words": (f"layer{count}_weights", f"layer{count}_biases"),
        }.get(style, ("w", "b"))
        own = {names[0]: w} | ({names[1]: b} if biases != "none" else {})
        if style == "nested":
            params[f"layer{count}"] = own
        elif style == "list":
            layers.append(own)
        else:
            params |= own
    extra = pick(rng, ("", "", "log_std", "temperature", "D"))
    if extra and style != "list":
        params[extra] = other(f"loose {extra}", () if extra == "temperature" else (every[-1][1],))
    return Model(layers or params)


def rnn(rng: Random, size: int) -> Model:
    """Recurrent nets as people write them, stored either way."""
    i, o = two(rng, square=0)
    y = pick(rng, tuple(each for each in SIZES if each not in (i, o)))
    first = rng.random() < 0.4
    kind = "hand-written RNN" + (" (out, in)" if first else "")

    def w(a, b, merged=1):
        return reversed_matrix(kind, a, b, told=True, merged=merged) if first else matrix(kind, a, b, merged=merged)

    head = {"Why": w(o, y), "by": bias("RNN by", (y,), o)}
    match pick(rng, ("elman", "packed", "gates")):
        case "elman":
            return Model({"Wxh": w(i, o), "Whh": w(o, o), "bh": bias("RNN bh", (o,))} | head)
        case "packed":
            own = {"Wx": w(i, 4 * o, 4), "Wh": w(o, 4 * o, 4), "b": bias("RNN b", (4 * o,))}
            return Model({"cell": own, "head": {"W": w(o, y), "b": bias("RNN by", (y,), o)}})
    gates: dict[str, Any] = {}
    for gate in "fioc":
        gates |= {f"W{gate}": w(i, o), f"U{gate}": w(o, o), f"b{gate}": bias("RNN b of a gate", (o,))}
    return Model(gates | head)


def torch(rng: Random, size: int) -> Model:
    """State dicts of PyTorch, flat or nested: outputs first, transposed convolutions inputs first."""
    params: dict[str, Any] = {}
    nested = rng.random() < 0.3
    for count in range(size + nested):
        i, o = two(rng)
        own: dict[str, Any] = {}
        kinds = ("fc", "fc", "bare", "conv", "up", "bn", "norm", "emb", "lstm", "mha")
        # Names that are apart are not PyTorch's alone: the bias of one layer tells how all are stored.
        told = count == size
        i, o = (7, 10) if told else (i, o)
        match kind := "fc" if told else pick(rng, kinds):
            case "fc" | "bare":
                own = {"weight": reversed_matrix("PyTorch Linear weight", i, o, told=True)}
                own |= {"bias": bias("PyTorch bias", (o,), i)} if kind == "fc" else {}
            case "conv":
                w = conv("PyTorch Conv2d weight", (3, 3), i, o, order="oihw")
                own = {"weight": w} | ({"bias": bias("PyTorch bias", (o,), 9 * i)} if rng.random() < 0.5 else {})
            case "up":
                w = weight("PyTorch ConvTranspose2d weight", (i, o, 3, 3), 9 * i, 9 * o)
                own = {"weight": w, "bias": bias("PyTorch bias", (o,), 9 * i)}
            case "bn":
                own = {
                    "weight": scale("PyTorch norm weight", (o,)),
                    "bias": bias("PyTorch norm bias", (o,)),
                    "running_mean": state("PyTorch running statistics", (o,)),
                    "running_var": state("PyTorch running statistics", (o,)),
                    "num_batches_tracked": state("count", (), dtype=jnp.int32),
                }
            case "norm":
                own = {"weight": scale("PyTorch norm weight", (o,)), "bias": bias("PyTorch norm bias", (o,))}
            case "emb":
                own = {"weight": table("PyTorch Embedding weight", 10 * i, o)}
            case "lstm":
                for which, a in (("ih", i), ("hh", o)):
                    own[f"weight_{which}_l0"] = reversed_matrix("PyTorch LSTM weight", a, 4 * o, told=True, merged=4)
                    own[f"bias_{which}_l0"] = bias("PyTorch LSTM bias", (4 * o,), a)
            case "mha":
                own = {
                    "in_proj_weight": reversed_matrix("PyTorch in_proj_weight", i, 3 * i, told=True, merged=3),
                    "in_proj_bias": bias("PyTorch bias", (3 * i,), i),
                    "out_proj.weight": reversed_matrix("PyTorch Linear weight", i, i, told=True),
                    "out_proj.bias": bias("PyTorch bias", (i,), i),
                }
                if rng.random() < 0.5:
                    own["inv_freq"] = state("PyTorch buffer inv_freq", (4,))
                    own["mask"] = state("PyTorch buffer mask", (1, 1, 64, 64))
        module = f"{kind}{count}"
        if nested:
            params[module] = {}
            for name, leaf in own.items():
                put(params[module], name.split("."), leaf)
        else:
            params |= {f"{module}.{name}": leaf for name, leaf in own.items()}
    return Model(params)


def transformer(rng: Random, size: int) -> Model:
    """Blocks of a transformer as in nanoGPT and in the papers' code: matrices, or axes of heads."""
    d, h, k = pick(rng, ((64, 4, 16), (128, 4, 32), (512, 8, 64), (96, 8, 8)))
    style = pick(rng, ("matrices", "heads", "heads first", "gpt"))
    biased = rng.random() < 0.4
    blocks = []
    for _ in range(size):
        ln = {"g": scale("norm g", (d,)), "b": bias("norm b", (d,))}
        if rng.random() < 0.5:
            ln = {"scale": scale("norm scale", (d,)), "bias": bias("norm bias", (d,))}
        up = {"w1": matrix("w1 of a block", d, 4 * d), "w2": matrix("w2 of a block", 4 * d, d)}
        if biased:
            up |= {"b1": bias("b1 of a block", (4 * d,), d), "b2": bias("b2 of a block", (d,), 4 * d)}
        match style:
            case "gpt":
                attn: Any = {
                    "c_attn": {
                        "w": matrix("c_attn w", d, 3 * d, merged=3),
                        "b": bias("c_attn b", (3 * d,), d),
                    },
                    "c_proj": {"w": matrix("c_proj w", d, d), "b": bias("c_proj b", (d,), d)},
                }
            case "matrices":
                attn = {name: matrix("wq of a block", d, d) for name in ("wq", "wk", "wv", "wo")}
            case "heads":
                attn = {name: weight("wq (d, heads, k)", (d, h, k), d, h * k) for name in ("wq", "wk", "wv")}
                attn["wo"] = weight("wo (heads, k, d)", (h, k, d), h * k, d)
                if biased:
                    attn |= {name: bias("bq (heads, k)", (h, k), d) for name in ("bq", "bk", "bv")}
                    attn["bo"] = bias("bo", (d,), h * k)
            case _:
                attn = {name: weight("wq (heads, d, k)", (h, d, k), d, h * k) for name in ("wq", "wk", "wv")}
                attn["wo"] = weight("wo (heads, k, d)", (h, k, d), h * k, d)
        flat = style != "gpt" and rng.random() < 0.4
        blocks.append(attn | up | {"ln": ln} if flat else {"attn": attn, "mlp": up, "ln1": ln})
    model: dict[str, Any] = {"blocks": blocks if rng.random() < 0.5 else {f"block{n}": b for n, b in enumerate(blocks)}}
    match pick(rng, ("gpt", "words", "none")):
        case "gpt":
            model |= {"wte": table("wte", 1000, d), "wpe": table("wpe", 256, d)}
        case "words":
            model |= {"tok_emb": table("tok_emb", 1000, d), "pos_embedding": table("pos_embedding", 256, d)}
    return Model(model)


def stacks(rng: Random, size: int) -> Model:
    """Layers stacked along their first axis, as one scans over them; a bias or a norm beside them, or a long stack."""
    model: dict[str, Any] = {}
    for count in range(size):
        i, o = two(rng)
        told = rng.random() < 0.6
        first = rng.random() < 0.3
        depth = pick(rng, (2, 3, 4, 6)) if told else pick(rng, DEPTHS)
        beside = pick(rng, ("b", "scale")) if told else ""
        kind = f"w of a {'' if told else 'long '}stack (depth, {'out, in' if first else 'in, out'})"
        kind += ", a norm's scale beside it" if beside == "scale" else ""
        # Only a bias tells inputs from outputs: without one, two axes of an entry are inputs and outputs.
        w = reversed_matrix(kind, i, o, told=beside == "b") if first else matrix(kind, i, o)
        own = {"w": dataclasses.replace(w.stacked(depth), kind=kind, also=w.also)}
        if beside == "b":
            own["b"] = bias("b of a stack (depth, out)", (depth, o), i)
        elif beside:
            own["scale"] = scale("scale of a stack (depth, n)", (depth, i))
        if rng.random() < 0.5:
            model[f"stack{count}"] = own
        else:
            model |= {f"{name}{count}": leaf for name, leaf in own.items()}
    return Model(model)


def convs(rng: Random, size: int) -> Model:
    """Convolutions by hand: windows first or last, groups, biases of one axis and of more."""
    model: dict[str, Any] = {}
    for count in range(size):
        i, o = two(rng, square=0.05)
        match pick(rng, ("hwio", "hwio", "bare", "oihw", "chw", "1d", "1d first", "depthwise", "grouped")):
            case "hwio":
                own = {"w": conv("conv w", (3, 3), i, o), "b": bias("conv b", (o,), 9 * i)}
            case "bare":
                own = {"w": conv("conv w", (3, 3), i, o)}
            case "oihw":
                own = {
                    "w": conv("conv w (out, in, h, w)", (3, 3), i, o, order="oihw"),
                    "b": bias("conv b", (o,), 9 * i),
                }
            case "chw":
                w = conv("conv w (out, in, h, w)", (3, 3), i, o, order="oihw")
                own = {"w": w, "b": bias("conv b (c, 1, 1)", (o, 1, 1), 9 * i)}
            case "1d":
                own = {"w": conv("conv w", (5,), i, o), "b": bias("conv b", (o,), 5 * i)}
            case "1d first":
                own = {"w": conv("conv w (out, in, w)", (5,), i, o, order="oihw"), "b": bias("conv b", (o,), 5 * i)}
            case "depthwise":
                own = {"w": conv("depthwise conv w", (3, 3), o, o, groups=o), "b": bias("conv b", (o,), 9)}
            case _:
                own = {
                    "w": conv("grouped conv w", (3, 3), 2 * i, 2 * o, groups=2),
                    "b": bias("conv b", (2 * o,), 9 * i),
                }
        if rng.random() < 0.7:
            model[f"conv{count}"] = own
        else:
            model |= {f"conv{count}_{name}": leaf for name, leaf in own.items()}
    return Model(model)


@flax.struct.dataclass
class Affine:
    """A weight and a bias, as a dataclass of Flax."""

    w: Any
    b: Any


@flax.struct.dataclass
class Named:
    """The same with Flax's names."""

    kernel: Any
    bias: Any


@functools.partial(jax.tree_util.register_dataclass, data_fields=["q", "k", "v", "o"], meta_fields=[])
@dataclasses.dataclass
class Heads:
    """Projections of an attention, as a dataclass registered with JAX."""

    q: Any
    k: Any
    v: Any
    o: Any


@functools.partial(jax.tree_util.register_dataclass, data_fields=["scale", "offset"], meta_fields=[])
@dataclasses.dataclass
class Norm:
    """Scale and offset."""

    scale: Any
    offset: Any


class Gated(NamedTuple):
    """A weight and a scale."""

    w: Any
    scale: Any


def dataclass_trees(rng: Random, size: int) -> Model:
    """Dataclasses of Flax, dataclasses registered with JAX and named tuples."""
    layers: list[Any] = []
    for _ in range(size):
        i, o = two(rng)
        match pick(rng, ("affine", "named", "heads", "norm", "gated")):
            case "affine":
                layers.append(Affine(matrix("dataclass w", i, o), bias("dataclass b", (o,), i)))
            case "named":
                layers.append(Named(matrix("dataclass kernel", i, o), bias("dataclass bias", (o,), i)))
            case "heads":
                parts = [weight("dataclass q (d, heads, k)", (64, 4, o), 64, 4 * o) for _ in range(3)]
                layers.append(Heads(*parts, weight("dataclass o (heads, k, d)", (4, o, 64), 4 * o, 64)))
            case "norm":
                layers.append(Norm(scale("dataclass scale", (o,)), bias("dataclass offset", (o,))))
            case _:
                layers.append(Gated(matrix("named tuple w", i, o), scale("named tuple scale", (o,))))
    return Model(layers if rng.random() < 0.6 else {f"layer{n}": layer for n, layer in enumerate(layers)})


FAMILIES: dict[str, Callable[[Random, int], Model]] = {
    "linen": linen,
    "lifted": lifted,
    "nnx": nnx_dict,
    "nnx-raw": nnx_raw,
    "haiku": haiku,
    "pairs": pairs,
    "stax": stax,
    "keras": keras,
    "mlp": mlp,
    "rnn": rnn,
    "torch": torch,
    "transformer": transformer,
    "stacks": stacks,
    "convs": convs,
    "dataclasses": dataclass_trees,
}
"""Families of models: name → function that makes one of so many pieces at random."""
