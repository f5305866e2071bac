"""Ten architectures, each built of the layers of three frameworks, and the weights that end their residual branches.

An architecture is a function of `make`, which gives a layer by its name, and of inputs. The layers of a framework are
made the first time it runs, without arrays, and the same function is then the forward pass.
"""

from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

WIDTH, WIDE, HEADS, TOKENS, VOCABULARY = 8, 16, 2, 5, 20

# Layers, kind by kind: `make(name, kind, *sizes)` gives a function of one example, channels and features last.


def equinox_layer(kind, *sizes):
    key = jax.random.key(0)
    match kind:
        case "linear":
            return eqx.nn.Linear(*sizes, key=key)
        case "conv":
            inputs, outputs, window, stride = sizes
            return eqx.nn.Conv2d(inputs, outputs, window, stride, padding="SAME", use_bias=False, key=key)
        case "norm":
            return eqx.nn.LayerNorm(*sizes)
        case "table":
            return eqx.nn.Embedding(*sizes, key=key)
        case "attention":
            return eqx.nn.MultiheadAttention(HEADS, WIDTH, key=key)
        case "scale":
            return Scale(jnp.ones(*sizes))


def run_equinox(layer, x, *context):
    match layer:
        case eqx.nn.Conv2d():
            return jnp.moveaxis(layer(jnp.moveaxis(x, -1, 0)), 0, -1)
        case eqx.nn.MultiheadAttention():
            context = context[0] if context else x
            return layer(x, context, context)
        case Scale():
            return x * layer.gamma
        case eqx.nn.Embedding():
            return jax.vmap(layer)(x)
        case _:
            rows = jax.vmap(layer)(x.reshape(-1, x.shape[-1]))
            return rows.reshape(*x.shape[:-1], -1)


class Scale(eqx.Module):
    gamma: jax.Array


class EquinoxNet(eqx.Module):
    layers: dict

    def run(self, architecture, *inputs):
        return architecture(lambda name, *_: lambda *x: run_equinox(self.layers[name], *x), *inputs)


def equinox_net(architecture, *inputs):
    layers = {}

    def make(name, kind, *sizes):
        layers[name] = layers[name] if name in layers else equinox_layer(kind, *sizes)
        return lambda *x: run_equinox(layers[name], *x)

    def build():
        jax.eval_shape(lambda *x: architecture(make, *x), *inputs)
        return EquinoxNet(layers)

    model = eqx.filter_eval_shape(build)
    return model, {"inputs": inputs, "forward": lambda net, *x: net.run(architecture, *x)}


def nnx_layer(kind, *sizes):
    rngs = nnx.Rngs(0)
    match kind:
        case "linear":
            return nnx.Linear(*sizes, rngs=rngs)
        case "conv":
            inputs, outputs, window, stride = sizes
            return nnx.Conv(inputs, outputs, (window, window), stride, use_bias=False, rngs=rngs)
        case "norm":
            return nnx.LayerNorm(*sizes, rngs=rngs)
        case "table":
            return nnx.Embed(*sizes, rngs=rngs)
        case "attention":
            return nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        case "scale":
            return NnxScale(*sizes)


class NnxScale(nnx.Module):
    def __init__(self, width):
        self.gamma = nnx.Param(jnp.ones(width))

    def __call__(self, x):
        return x * self.gamma[...]


class NnxNet(nnx.Module):
    def __init__(self, architecture, inputs):
        layers = {}

        def make(name, kind, *sizes):
            if name not in layers:
                layers[name] = nnx_layer(kind, *sizes)
            return layers[name]

        architecture(make, *(jnp.zeros(each.shape, each.dtype) for each in inputs))
        self.layers = nnx.Dict(layers)

    def run(self, architecture, *inputs):
        return architecture(lambda name, *_: self.layers[name], *inputs)


def nnx_net(architecture, *inputs):
    model = nnx.eval_shape(lambda: NnxNet(architecture, inputs))
    return model, {"inputs": inputs, "forward": lambda net, *x: net.run(architecture, *x)}


class LinenScale(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("gamma", nn.initializers.ones, (x.shape[-1],))


def linen_layer(name, kind, *sizes):
    match kind:
        case "linear":
            return nn.Dense(sizes[1], name=name)
        case "conv":
            _, outputs, window, stride = sizes
            return nn.Conv(outputs, (window, window), stride, use_bias=False, name=name)
        case "norm":
            return nn.LayerNorm(name=name)
        case "table":
            return nn.Embed(*sizes, name=name)
        case "attention":
            return nn.MultiHeadDotProductAttention(HEADS, name=name)
        case "scale":
            return LinenScale(name=name)


class LinenNet(nn.Module):
    architecture: object

    @nn.compact
    def __call__(self, *inputs):
        return self.architecture(lambda name, *rest: linen_layer(name, *rest), *inputs)


def linen_net(architecture, *inputs):
    module = LinenNet(architecture)
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return variables, {"inputs": inputs, "module": module}


FRAMEWORKS = {"equinox": equinox_net, "nnx": nnx_net, "linen": linen_net}
LAST = {"equinox": "output_proj", "nnx": "out", "linen": "out"}
"""What the frameworks call the output projection of their attention."""


def mlp(make, at, x):
    return make(f"down{at}", "linear", WIDE, WIDTH)(jax.nn.gelu(make(f"up{at}", "linear", WIDTH, WIDE)(x)))


def normed(make, name, x):
    return make(name, "norm", WIDTH)(x)


def attend(make, at, x):
    q, k, v = (make(f"{name}{at}", "linear", WIDTH, WIDTH)(x) for name in "qkv")
    return make(f"o{at}", "linear", WIDTH, WIDTH)(jax.nn.softmax(q @ k.T) @ v)


def gpt2(make, tokens):
    x = make("tokens", "table", VOCABULARY, WIDTH)(tokens)
    x = x + make("positions", "table", TOKENS, WIDTH)(jnp.arange(TOKENS))
    for at in range(2):
        x = x + make(f"attention{at}", "attention")(normed(make, f"a{at}", x))
        x = x + mlp(make, at, normed(make, f"b{at}", x))
    return make("head", "linear", WIDTH, VOCABULARY)(normed(make, "norm", x))


def llama(make, tokens):
    x = make("tokens", "table", VOCABULARY, WIDTH)(tokens)
    for at in range(2):
        x = x + attend(make, at, normed(make, f"a{at}", x))
        h = normed(make, f"b{at}", x)
        gate, up = (make(f"{name}{at}", "linear", WIDTH, WIDE)(h) for name in ("gate", "up"))
        x = x + make(f"down{at}", "linear", WIDE, WIDTH)(jax.nn.silu(gate) * up)
    return make("head", "linear", WIDTH, VOCABULARY)(normed(make, "norm", x))


def vit(make, image):
    x = make("patches", "linear", 12, WIDTH)(image.reshape(TOKENS, 12))
    x = x + make("positions", "table", TOKENS, WIDTH)(jnp.arange(TOKENS))
    for at in range(2):
        x = x + make(f"attention{at}", "attention")(normed(make, f"a{at}", x))
        x = x + mlp(make, at, normed(make, f"b{at}", x))
    return make("head", "linear", WIDTH, 3)(x.mean(0))


def resnet(make, image):
    def conv(name, x, wide, window=3, stride=1):
        return make(name, "conv", x.shape[-1], wide, window, stride)(x)

    x = jax.nn.relu(conv("stem", image, 4))
    for at, (wide, stride) in enumerate(((4, 1), (8, 2), (8, 1))):
        h = jax.nn.relu(make(f"a{at}", "norm", wide)(conv(f"first{at}", x, wide, stride=stride)))
        h = make(f"b{at}", "norm", wide)(conv(f"second{at}", h, wide))
        shortcut = x if stride == 1 else make(f"c{at}", "norm", wide)(conv(f"project{at}", x, wide, 1, stride))
        x = jax.nn.relu(h + shortcut)
    return make("head", "linear", 8, 3)(x.mean((0, 1)))


def t5(make, source, target):
    table = make("tokens", "table", VOCABULARY, WIDTH)
    x = table(source)
    for at in range(2):
        x = x + make(f"encoder{at}", "attention")(normed(make, f"a{at}", x))
        x = x + mlp(make, at, normed(make, f"b{at}", x))
    memory, y = normed(make, "memory", x), table(target)
    for at in (2, 3):
        y = y + make(f"self{at}", "attention")(normed(make, f"a{at}", y))
        y = y + make(f"cross{at}", "attention")(normed(make, f"c{at}", y), memory)
        y = y + mlp(make, at, normed(make, f"b{at}", y))
    return make("head", "linear", WIDTH, VOCABULARY)(y)


def parallel(make, x):
    for at in range(2):
        h = normed(make, f"a{at}", x)
        x = x + attend(make, at, h) + mlp(make, at, h)
    return x


def post_norm(make, x):
    for at in range(2):
        x = normed(make, f"a{at}", x + make(f"attention{at}", "attention")(x))
        x = normed(make, f"b{at}", x + mlp(make, at, x))
    return x


def layer_scale(make, x):
    for at in range(2):
        x = x + make(f"s{at}", "scale", WIDTH)(attend(make, at, normed(make, f"a{at}", x)))
        x = x + make(f"t{at}", "scale", WIDTH)(mlp(make, at, normed(make, f"b{at}", x)))
    return x


def experts(make, x):
    for at in range(2):
        h = normed(make, f"a{at}", x)
        weights = jax.nn.softmax(make(f"router{at}", "linear", WIDTH, 2)(h))
        each = jnp.stack([mlp(make, f"_{at}_{number}", h) for number in range(2)])
        x = x + jnp.einsum("te,etd->td", weights, each)
    return x


def dense_u_net(make, image):
    """Nothing but concatenations: along a dense block, and across a U."""

    def conv(name, x, wide, stride=1):
        return jax.nn.relu(make(name, "conv", x.shape[-1], wide, 3, stride)(x))

    x = image
    for at in range(2):
        x = jnp.concatenate([x, conv(f"dense{at}", x, 4)], axis=-1)
    low = conv("low", x, 8, 2)
    high = jnp.repeat(jnp.repeat(low, 2, 0), 2, 1)
    return conv("out", jnp.concatenate([high, x], axis=-1), 3)


@dataclass(frozen=True)
class Network:
    """An architecture, its inputs, how many branches each stream has, and layer → the branch that its weight ends."""

    architecture: object
    inputs: tuple
    counts: tuple = ()
    ends: dict = field(default_factory=dict)


x = jax.ShapeDtypeStruct((TOKENS, WIDTH), jnp.float32)
tokens = jax.ShapeDtypeStruct((TOKENS,), jnp.int32)
image = jax.ShapeDtypeStruct((4, 4, 3), jnp.float32)

NETWORKS = {
    "gpt2": Network(gpt2, (tokens,), (4,), {"attention0": 1, "down0": 2, "attention1": 3, "down1": 4}),
    "llama": Network(llama, (tokens,), (4,), {"o0": 1, "down0": 2, "o1": 3, "down1": 4}),
    "vit": Network(
        vit,
        (jax.ShapeDtypeStruct((TOKENS, 2, 2, 3), jnp.float32),),
        (4,),
        {"attention0": 1, "down0": 2, "attention1": 3, "down1": 4},
    ),
    "resnet": Network(resnet, (image,), (3,), {"second0": 1, "second1": 2, "second2": 3}),
    "t5": Network(
        t5,
        (tokens, tokens),
        (4, 6),
        {
            "encoder0": 1, "down0": 2, "encoder1": 3, "down1": 4, "self2": 1, "cross2": 2, "down2": 3, "self3": 4,
            "cross3": 5, "down3": 6,
        },
    ),
    "parallel": Network(parallel, (x,), (2,), {"o0": 1, "down0": 1, "o1": 2, "down1": 2}),
    "post norm": Network(post_norm, (x,), (4,), {"attention0": 1, "down0": 2, "attention1": 3, "down1": 4}),
    "layer scale": Network(layer_scale, (x,), (4,), {"o0": 1, "down0": 2, "o1": 3, "down1": 4}),
    "experts": Network(experts, (x,), (2,), {"down_0_0": 1, "down_0_1": 1, "down_1_0": 2, "down_1_1": 2}),
    "dense u-net": Network(dense_u_net, (image,)),
}  # fmt: skip
