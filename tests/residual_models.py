"""Models with residual streams, and models that look as if they had one; which weights end which branch, by hand.

A row says how many branches each stream has, and for each weight that ends some of them which these are. `scores` are
the weights of which nothing but attention's scores are made.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

f32 = jnp.float32
WIDTH, WIDE, LENGTH = 8, 12, 5


def S(*shape, dtype=f32):
    return jax.ShapeDtypeStruct(shape, dtype)


def square(*names):
    return {name: S(WIDTH, WIDTH) for name in names}


def stacked(arrays, depth):
    return {name: S(depth, *each.shape) for name, each in arrays.items()}


@dataclass(frozen=True)
class Model:
    """A forward pass, its arrays and inputs, and what is to be found.

    Attributes:
        name: its name.
        forward: function of the arrays and the inputs.
        arrays: name → shape.
        inputs: the inputs.
        counts: how many branches each stream has.
        ends: weight → the branches that it ends.
        scores: names of the weights of attention scores.
        layers: weight → how many weights are in its branch, where that is said.
    """

    name: str
    forward: Callable[..., Any]
    arrays: dict[str, Any]
    inputs: tuple[Any, ...]
    counts: tuple[int | None, ...] = ()
    ends: dict[str, tuple[int, ...]] = field(default_factory=dict)
    scores: frozenset[str] = frozenset()
    layers: dict[str, int] = field(default_factory=dict)


def norm(x, axis=-1):
    mean = x.mean(axis, keepdims=True)
    return (x - mean) * lax.rsqrt(((x - mean) ** 2).mean(axis, keepdims=True) + 1e-5)


def rms(x):
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def attend(q, k, v, causal=False):
    scores = q @ k.T / len(q) ** 0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape, bool)), scores, -jnp.inf)
    return jax.nn.softmax(scores) @ v


def attention(p, x, context=None):
    context = x if context is None else context
    return attend(x @ p["q"], context @ p["k"], context @ p["v"]) @ p["o"]


def feed_forward(p, x):
    return jax.nn.gelu(x @ p["up"] + p["bias"]) @ p["down"]


BLOCK = {**square("q", "k", "v", "o"), "up": S(WIDTH, WIDE), "bias": S(WIDE), "down": S(WIDE, WIDTH)}
SCORES = frozenset({"q", "k"})


def block(p, x):
    x = x + attention(p, norm(x))
    return x + feed_forward(p, norm(x))


def prefixed(prefix, arrays):
    return {f"{prefix}{name}": each for name, each in arrays.items()}


def part(p, prefix):
    return {name.removeprefix(prefix): each for name, each in p.items() if name.startswith(prefix)}


def gpt2(p, tokens):
    x = p["table"][tokens] + p["positions"][jnp.arange(len(tokens))]
    for layer in range(2):
        own = part(p, f"{layer}.")
        h = norm(x) * own["g"] + own["b"]
        q, k, v = jnp.split(h @ own["qkv"] + own["qkv_bias"], 3, axis=-1)
        x = x + attend(q, k, v, causal=True) @ own["o"] + own["o_bias"]
        x = x + feed_forward(own, norm(x)) + own["down_bias"]
    return norm(x) @ p["table"].T


GPT2_BLOCK = {
    "g": S(WIDTH), "b": S(WIDTH), "qkv": S(WIDTH, 3 * WIDTH), "qkv_bias": S(3 * WIDTH), "o": S(WIDTH, WIDTH),
    "o_bias": S(WIDTH), "up": S(WIDTH, WIDE), "bias": S(WIDE), "down": S(WIDE, WIDTH), "down_bias": S(WIDTH),
}  # fmt: skip


def llama(p, tokens):
    def turn(z):
        left, right = jnp.split(z, 2, axis=-1)
        angle = jnp.arange(z.shape[0], dtype=f32)[:, None]
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)

    def step(x, own):
        h = rms(x) * own["g1"]
        x = x + attend(turn(h @ own["q"]), turn(h @ own["k"]), h @ own["v"]) @ own["o"]
        h = rms(x) * own["g2"]
        return x + (jax.nn.silu(h @ own["gate"]) * (h @ own["up"])) @ own["down"], None

    x, _ = lax.scan(jax.checkpoint(step), p["table"][tokens], part(p, "layers."))
    return rms(x) @ p["head"]


LLAMA = {
    "g1": S(WIDTH), "g2": S(WIDTH), **square("q", "k", "v", "o"), "gate": S(WIDTH, WIDE), "up": S(WIDTH, WIDE),
    "down": S(WIDE, WIDTH),
}  # fmt: skip


def vit(p, image):
    patches = image.reshape(4, 12)
    x = jnp.concatenate([p["cls"], patches @ p["embed"]]) + p["positions"]
    for layer in range(2):
        own = part(p, f"{layer}.")
        x = x + attention(own, norm(x)) * own["gamma1"]
        x = x + feed_forward(own, norm(x)) * own["gamma2"]
    return norm(x)[0] @ p["head"]


def post_norm(p, x):
    for layer in range(2):
        own = part(p, f"{layer}.")
        x = norm(2.0 * x + attention(own, x))
        x = norm(2.0 * x + feed_forward(own, x))
    return x


def norms_at_the_end(p, x):
    for layer in range(2):
        own = part(p, f"{layer}.")
        x = x + rms(attention(own, rms(x))) * own["g1"]
        x = x + rms(feed_forward(own, rms(x))) * own["g2"]
    return x


def parallel(p, x):
    for layer in range(3):
        own = part(p, f"{layer}.")
        h = norm(x)
        x = x + attention(own, h) + feed_forward(own, h)
    return x


def parallel_of_one_input(p, x):
    """As PaLM fuses them: one weight in front, one sum of both behind."""
    h = norm(x)
    return x + (attention(p, h) + feed_forward(p, h))


def encoder_decoder(p, source, target):
    x = source @ p["source"]
    for layer in range(2):
        x = block(part(p, f"encoder.{layer}."), x)
    memory = norm(x)
    y = p["table"][target]
    for layer in range(3):
        own = part(p, f"decoder.{layer}.")
        y = y + attention(own, norm(y))
        y = y + attention(part(own, "cross_"), norm(y), memory)
        y = y + feed_forward(own, norm(y))
    return y @ p["head"]


def conv(x, w, stride=1):
    return lax.conv_general_dilated(x[None], w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


def resnet(p, image):
    """Basic blocks; the second stage has a projection and a stride."""
    x = jax.nn.relu(conv(image, p["stem"]))
    for name, stride in (("a", 1), ("b", 1), ("c", 2), ("d", 1)):
        own = part(p, f"{name}.")
        h = jax.nn.relu(norm(conv(x, own["conv1"], stride), (0, 1)))
        h = norm(conv(h, own["conv2"]), (0, 1)) * own["scale"]
        shortcut = norm(conv(x, own["project"], stride), (0, 1)) if "project" in own else x
        x = jax.nn.relu(shortcut + h)
    return x.mean((0, 1)) @ p["head"]


def basic(wide_in, wide_out, project=False):
    arrays = {"conv1": S(3, 3, wide_in, wide_out), "conv2": S(3, 3, wide_out, wide_out), "scale": S(wide_out)}
    return arrays | ({"project": S(1, 1, wide_in, wide_out)} if project else {})


def bottleneck(p, image):
    """Every block has a projection on the first shortcut of its stage; norms keep running statistics."""
    x = image
    for name in ("a", "b", "c"):
        own = part(p, f"{name}.")

        def fixed_norm(h, own=own):
            return h / jnp.sqrt(2.0) * own["scale"] + own["shift"]

        h = jax.nn.relu(conv(x, own["conv1"]))
        h = jax.nn.relu(conv(h, own["conv2"]))
        h = fixed_norm(conv(h, own["conv3"]))
        x = jax.nn.relu(h + (conv(x, own["project"]) if "project" in own else x))
    return x


def narrow(wide, project=False):
    arrays = {
        "conv1": S(1, 1, wide if not project else 3, 4), "conv2": S(3, 3, 4, 4), "conv3": S(1, 1, 4, wide),
        "scale": S(wide), "shift": S(wide),
    }  # fmt: skip
    return arrays | ({"project": S(1, 1, 3, wide)} if project else {})


def padded_shortcut(p, image):
    """The shortcut skips entries and is padded with zeros, as in the first paper's option A."""
    x = conv(image, p["stem"])
    h = conv(jax.nn.relu(conv(x, p["conv1"], 2)), p["conv2"])
    return jnp.pad(x[::2, ::2], ((0, 0), (0, 0), (0, 4))) + h


def densenet(p, image):
    x = image
    for name in ("a", "b", "c"):
        x = jnp.concatenate([x, jax.nn.relu(conv(x, p[name]))], axis=-1)
    return x.mean((0, 1)) @ p["head"]


def unet(p, image):
    first = jax.nn.relu(conv(image, p["in"]))
    low = jax.nn.relu(conv(first, p["down"], 2))
    high = jnp.repeat(jnp.repeat(low, 2, 0), 2, 1)
    return conv(jnp.concatenate([high, first], -1), p["out"])


def unet_of_residual_blocks(p, image):
    """One block at each resolution. The stream of the first goes on behind the concatenation, with a projection."""

    def residual(own, x):
        h = conv(jax.nn.silu(conv(jax.nn.silu(x), own["conv1"])), own["conv2"])
        return (conv(x, own["project"]) if "project" in own else x) + h

    first = residual(part(p, "first."), conv(image, p["in"]))
    low = conv(first, p["down"], 2)
    low = residual(part(p, "low2."), residual(part(p, "low1."), low))
    high = conv(jnp.repeat(jnp.repeat(low, 2, 0), 2, 1), p["up"])
    last = residual(part(p, "last."), jnp.concatenate([high, first], -1))
    return conv(jax.nn.silu(last), p["out"])


def residual_in_residual(p, image):
    """As for super-resolution: blocks inside one long branch, which a convolution ends."""
    start = conv(image, p["head"])
    x = start
    for name in ("a", "b", "c"):
        x = x + 0.1 * conv(jax.nn.relu(conv(x, p[f"{name}1"])), p[f"{name}2"])
    return conv(start + conv(x, p["body"]), p["tail"])


def transformer_in_transformer(p, x):
    """Each step of the outer stream runs a stream of narrower tokens, and adds what it gives."""
    for layer in range(2):
        own = part(p, f"{layer}.")
        inner = x @ own["narrow"]
        for step in range(3):
            inner = inner + jax.nn.relu(inner @ own["u"]) @ own[f"w{step}"]
        x = x + inner @ own["widen"]
    return x


def highway(p, x):
    for layer in range(2):
        own = part(p, f"{layer}.")
        gate = jax.nn.sigmoid(x @ own["gate"])
        x = gate * (x @ own["transform"]) + (1 - gate) * x
    return x


def ts_mixer(p, x):
    """Chen et al. 2023: ReLU behind the weight over time, and a feed-forward part."""
    for layer in range(2):
        own = part(p, f"{layer}.")
        x = x + jax.nn.relu(own["time"] @ norm(x) + own["bias"][:, None])
        x = x + jax.nn.relu(norm(x) @ own["up"]) @ own["down"]
    return x


TS_MIXER = {"time": S(LENGTH, LENGTH), "bias": S(LENGTH), "up": S(WIDTH, WIDE), "down": S(WIDE, WIDTH)}


def many_ends(p, x):
    """Functions of which a positive multiple gives that multiple, with scales and biases before and behind them."""
    h = norm(x) @ p["a"] + p["a_bias"]
    x = x + p["gamma"] * jnp.where(h >= 0, h, p["slope"] * h)
    x = x - abs(norm(x) @ p["b"]) + jax.nn.leaky_relu(norm(x) @ p["b"])
    x = x + lax.reduce_window(norm(x) @ p["c"] + p["c_bias"], -jnp.inf, lax.max, (3, 1), (1, 1), "SAME")
    x = x + jax.nn.relu(norm(x) @ p["d"] + p["d_bias"]).max(0)
    return x + jnp.where(norm(x) @ p["e"] > 0, norm(x) @ p["e"], 0).mean(0)


MANY_ENDS = {
    **square("a", "b", "c", "d", "e"),
    **{name: S(WIDTH) for name in ("a_bias", "c_bias", "d_bias", "gamma", "slope")},
}


def half_ended(p, x):
    """Branches that end in a function that no positive multiple goes through, between others."""
    for _ in range(2):
        x = x + jax.nn.relu(norm(x) @ p["a"] + 1)
        x = x + jax.nn.softplus(x) @ p["b"] + p["c"]
    return x


def experts(p, x):
    """Experts whose outputs are weighed by a router, beside one that all tokens pass."""
    for layer in range(2):
        own = part(p, f"{layer}.")
        h = rms(x)
        weights, which = lax.top_k(jax.nn.softmax(h @ own["router"]), 2)
        up, down = own["up"][which], own["down"][which]
        each = jnp.einsum("tkh,tkho->tko", jax.nn.silu(jnp.einsum("ti,tkih->tkh", h, up)), down)
        routed = jnp.einsum("tk,tko->to", weights, each)
        x = x + routed + jax.nn.silu(h @ own["shared_up"]) @ own["shared_down"]
    return x


def sorted_experts(p, x):
    """Tokens sorted by expert, a product with ragged groups, and sums of what belongs to one token."""
    which = jnp.argmax(x @ p["router"], axis=-1)
    order = jnp.argsort(which)
    sizes = jnp.bincount(which, length=3)
    h = jax.nn.relu(lax.ragged_dot(x[order], p["up"], sizes))
    out = lax.ragged_dot(h, p["down"], sizes)
    return x + jnp.zeros_like(x).at[order].add(out)


def dropped(p, x, key):
    """Dropout and stochastic depth in the branch, masks and a choice around it."""
    h = jax.nn.relu(norm(x) @ p["up"]) @ p["down"]
    h = jnp.where(jax.random.bernoulli(key, 0.9, h.shape), h / 0.9, 0)
    x = jnp.where(jnp.arange(LENGTH)[:, None] < 3, x + h.reshape(-1).reshape(h.shape), x)
    return lax.cond(
        jax.random.bernoulli(key, 0.999), lambda z: z + jax.nn.relu(z @ p["up2"]) @ p["down2"], lambda z: z, x
    )


def squeezed(p, image):
    """A gate from the mean of what comes out of the last convolution stands behind it."""
    for name in ("a", "b"):
        own = part(p, f"{name}.")
        h = conv(jax.nn.silu(conv(image, own["conv1"])), own["conv2"])
        gate = jax.nn.sigmoid(jax.nn.relu(h.mean((0, 1)) @ own["squeeze"]) @ own["excite"])
        image = image + h * gate
    return image


def modulated(p, x, c):
    """Scales, shifts and gates that a condition gives, as in a diffusion transformer."""
    c = jax.nn.silu(c @ p["embed"])
    for layer in range(2):
        own = part(p, f"{layer}.")
        shift, scale, gate = jnp.split(c @ own["modulate"], 3, axis=-1)
        x = x + gate * feed_forward(own, norm(x) * (1 + scale) + shift)
    return x


def reversible(p, x, y):
    def step(carry, own):
        x, y = carry
        x = x + jax.nn.relu(y @ own["f1"]) @ own["f2"]
        y = y + jax.nn.relu(x @ own["g1"]) @ own["g2"]
        return (x, y), None

    return lax.scan(step, (x, y), p)[0]


def shared_blocks(p, x):
    return lax.fori_loop(0, 6, lambda _, x: block(p, x), x)


def unknown_length(p, x, steps):
    return lax.while_loop(lambda c: c[0] < steps, lambda c: (c[0] + 1, block(p, c[1])), (0, x))[1]


def counted(p, x):
    return lax.while_loop(lambda c: c[0] < 7, lambda c: (c[0] + 2, block(p, c[1])), (0, x))[1]


def scan_of_scans(p, x):
    def outer(x, own):
        x, _ = lax.scan(lambda x, each: (block(each, x), None), x, part(own, "local."))
        return x + attention(part(own, "global."), norm(x)), None

    return lax.scan(outer, x, p)[0]


def ensemble(p, x):
    return jax.vmap(lambda own: block(own, block(own, x)))(p)


def queries(p, x):
    """Learned queries that read an input: the stream starts as a parameter."""
    latents = p["latents"]
    for layer in range(2):
        own = part(p, f"{layer}.")
        latents = latents + attention(own, norm(latents), x)
        latents = latents + feed_forward(own, norm(latents))
    return latents


def values_of_the_first_layer(p, x):
    """Values of later layers are mixed with those of the first: that crosses the stream and is no stream."""
    first = None
    for layer in range(3):
        own = part(p, f"{layer}.")
        h = norm(x)
        v = h @ own["v"]
        first = v if first is None else first
        v = 0.5 * v + 0.5 * first
        x = x + attend(h @ own["q"], h @ own["k"], v) @ own["o"]
        x = x + feed_forward(own, norm(x))
    return x


def long_skip(p, x):
    """What came in is added to what comes out: both carry it, and nothing is a branch there."""
    return x + block(part(p, "1."), block(part(p, "0."), x))


def interpolated(p, x):
    for layer in range(2):
        own = part(p, f"{layer}.")
        x = rms(x + 0.3 * (rms(feed_forward(own, x)) - x))
    return x


def routed_tokens(p, x):
    """A block works on some tokens, and adds to those."""
    which = jnp.argsort(jnp.sum(x @ p["router"], -1))[:3]
    return x.at[which].add(feed_forward(p, norm(x)[which]))


def no_output_weight(p, x):
    return x + attend(x @ p["q"], x @ p["k"], x @ p["v"])


def two_towers(p, x, y):
    for layer in range(2):
        x = block(part(p, f"x{layer}."), x)
    for layer in range(3):
        y = block(part(p, f"y{layer}."), y)
    return (x.mean(0) @ p["px"]) @ (y.mean(0) @ p["py"])


def image_and_text(p, image, tokens):
    """A vision model whose outputs a projection hands to a language model: two streams."""
    x = image
    for layer in range(2):
        x = block(part(p, f"x{layer}."), x)
    y = jnp.concatenate([norm(x) @ p["project"], p["table"][tokens]])
    for layer in range(3):
        y = block(part(p, f"y{layer}."), y)
    return y


def gnn(p, x, senders, receivers):
    for layer in range(2):
        own = part(p, f"{layer}.")
        messages = jax.nn.relu(x[senders] @ own["message"])
        x = x + jax.ops.segment_sum(messages, receivers, LENGTH) @ own["update"]
    return x


def residual_recurrence(p, x):
    """Layers of a recurrence over time, each added to what goes in."""
    for layer in range(2):
        own = part(p, f"{layer}.")

        def step(h, row, own=own):
            h = jnp.tanh(row @ own["i"] + h @ own["h"])
            return h, row + h @ own["o"]

        _, x = lax.scan(step, jnp.zeros(WIDTH), x)
    return x


def adapters(p, x):
    """Low-rank weights beside the others, once added to the weight and once to its output."""
    h = jax.nn.relu(norm(x) @ p["up"])
    x = x + h @ (p["down"] + p["a"] @ p["b"])
    h = jax.nn.relu(norm(x) @ p["up2"])
    return x + (h @ p["down2"] + (h @ p["a2"]) @ p["b2"])


def fixup(p, x):
    h = jax.nn.relu((x + p["s1"]) @ p["up"] + p["s2"])
    return jax.nn.relu(x + (h + p["s3"]) @ p["down"] * p["m"] + p["s4"])


def in_parts(p, x):
    """A function of blocks of rows, one after the other, and sums inside of what is computed again."""
    ffn = jax.checkpoint(lambda z: jax.nn.gelu(z @ p["up"]) @ p["down"])
    return x + lax.map(ffn, norm(x).reshape(LENGTH, 1, WIDTH)).reshape(x.shape)


# What has no residual stream.


def plain_mlp(p, x):
    for name in ("a", "b", "c"):
        x = jax.nn.gelu(x @ p[name] + p["shared"])
    return x


def lstm(p, x):
    def step(carry, row):
        h, c = carry
        i, f, g, o = jnp.split(row @ p["i"] + h @ p["h"] + p["b"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    return lax.scan(step, (jnp.zeros(WIDTH), jnp.zeros(WIDTH)), x)[0][0]


def gru_written_out(p, x):
    h = jnp.zeros(WIDTH)
    for row in x:
        rx, zx, nx = jnp.split(row @ p["i"], 3, axis=-1)
        rh, zh, nh = jnp.split(h @ p["h"], 3, axis=-1)
        z = jax.nn.sigmoid(zx + zh)
        h = (1 - z) * jnp.tanh(nx + jax.nn.sigmoid(rx + rh) * nh) + z * h
    return h


def recurrence_of_one_input(p, x):
    h = jnp.zeros((LENGTH, WIDTH))
    for _ in range(4):
        h = jnp.tanh(x @ p["i"] + h @ p["h"] + p["b"])
    return h


def wide_and_deep(p, x):
    return x @ p["wide"] + jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]


def gated_unit(p, x):
    left, right = jnp.split(x @ p["a"], 2, axis=-1)
    return (jax.nn.sigmoid(left) * right) @ p["b"]


def sampled(p, x, noise):
    h = jax.nn.relu(x @ p["a"])
    return (h @ p["mean"] + jnp.exp(h @ p["std"]) * noise) @ p["out"]


def relative(p, x):
    q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
    return jax.nn.softmax(q @ k.T + q @ p["r"].T + p["bias"]) @ v @ p["o"]


def pyramid(p, image):
    a = jax.nn.relu(conv(image, p["a"]))
    b = jax.nn.relu(conv(a, p["b"], 2))
    c = jax.nn.relu(conv(b, p["c"], 2))
    c = conv(c, p["lc"])
    b = conv(b, p["lb"]) + jnp.repeat(jnp.repeat(c, 2, 0), 2, 1)
    return conv(a, p["la"]) + jnp.repeat(jnp.repeat(b, 2, 0), 2, 1)


def state_space(p, x):
    """A recurrence over time and a feedthrough: one sum, whose shortcut a parameter scales."""

    def step(h, row):
        h = jax.nn.sigmoid(p["a"]) * h + row @ p["b"]
        return h, h @ p["c"] + row * p["d"]

    return lax.scan(step, jnp.zeros(WIDTH), x)[1]


def a_gradient(p, x):
    """The forces of an energy: the gradient of a sum of two weights' outputs has sums of its own."""
    return jax.grad(lambda z: jnp.sum(jnp.tanh(jnp.tanh(z @ p["a"]) @ p["b"])))(x)


def layers(count, arrays):
    return {f"{layer}.{name}": each for layer in range(count) for name, each in arrays.items()}


def of_layers(count, arrays, ends, start=1):
    """Ends of blocks that stand one behind another, in the order in which each adds them."""
    rows = {}
    for layer in range(count):
        for at, name in enumerate(ends):
            rows[f"{layer}.{name}"] = (start + layer * len(ends) + at,)
    return rows


def scores_of(*prefixes):
    return frozenset(f"{prefix}{name}" for prefix in prefixes for name in SCORES)


x = S(LENGTH, WIDTH)
tokens = S(LENGTH, dtype=jnp.int32)
key = jax.eval_shape(lambda: jax.random.key(0))
ODD, EVEN = (1, 3, 5, 7, 9, 11), (2, 4, 6, 8, 10, 12)
cross = prefixed("cross_", square("q", "k", "v", "o"))
FFN = {name: BLOCK[name] for name in ("up", "bias", "down")}

MODELS = [
    Model("ts mixer", ts_mixer, layers(2, TS_MIXER), (x,), (4,), of_layers(2, TS_MIXER, ("time", "down"))),
    Model(
        "functions behind the ends",
        many_ends,
        MANY_ENDS,
        (x,),
        (5,),
        {name: (at,) for at, name in enumerate("abcde", 1)},
    ),
    Model("half of the ends", half_ended, square("a", "b") | {"c": S(WIDTH)}, (x,), (4,), {"b": (2, 4)}),
    Model("block", block, BLOCK, (x,), (2,), {"o": (1,), "down": (2,)}, SCORES, {"o": 2, "up": 2}),
    Model(
        "gpt2",
        gpt2,
        {"table": S(30, WIDTH), "positions": S(9, WIDTH), **layers(2, GPT2_BLOCK)},
        (tokens,),
        (4,),
        of_layers(2, GPT2_BLOCK, ("o", "down")),
    ),
    Model(
        "llama, scanned and computed again",
        llama,
        {"table": S(30, WIDTH), "head": S(WIDTH, 30), **prefixed("layers.", stacked(LLAMA, 6))},
        (tokens,),
        (12,),
        {"layers.o": ODD, "layers.down": EVEN},
        scores_of("layers."),
    ),
    Model(
        "vit with layer scale",
        vit,
        {
            "cls": S(1, WIDTH),
            "embed": S(12, WIDTH),
            "positions": S(5, WIDTH),
            "head": S(WIDTH, 3),
            **layers(2, BLOCK | {"gamma1": S(WIDTH), "gamma2": S(WIDTH)}),
        },
        (S(4, 4, 3),),
        (4,),
        of_layers(2, BLOCK, ("o", "down")),
        scores_of("0.", "1."),
    ),
    Model(
        "post norm", post_norm, layers(2, BLOCK), (x,), (4,), of_layers(2, BLOCK, ("o", "down")), scores_of("0.", "1.")
    ),
    Model(
        "norms at the end",
        norms_at_the_end,
        layers(2, BLOCK | {"g1": S(WIDTH), "g2": S(WIDTH)}),
        (x,),
        (4,),
        of_layers(2, BLOCK, ("o", "down")),
        scores_of("0.", "1."),
    ),
    Model(
        "parallel",
        parallel,
        layers(3, BLOCK),
        (x,),
        (3,),
        {f"{layer}.{name}": (layer + 1,) for layer in range(3) for name in ("o", "down")},
        scores_of("0.", "1.", "2."),
    ),
    Model("parallel, one sum", parallel_of_one_input, BLOCK, (x,), (1,), {"o": (1,), "down": (1,)}, SCORES),
    Model(
        "encoder and decoder",
        encoder_decoder,
        {
            "source": S(WIDTH, WIDTH),
            "table": S(30, WIDTH),
            "head": S(WIDTH, 30),
            **prefixed("encoder.", layers(2, BLOCK)),
            **prefixed("decoder.", layers(3, BLOCK | cross)),
        },
        (x, tokens),
        (4, 9),
        prefixed("encoder.", of_layers(2, BLOCK, ("o", "down")))
        | prefixed("decoder.", of_layers(3, BLOCK, ("o", "cross_o", "down"))),
        scores_of("encoder.0.", "encoder.1.", *(f"decoder.{at}.{name}" for at in range(3) for name in ("", "cross_"))),
    ),
    Model(
        "resnet",
        resnet,
        {
            "stem": S(3, 3, 3, 4),
            "head": S(8, 3),
            **prefixed("a.", basic(4, 4)),
            **prefixed("b.", basic(4, 4)),
            **prefixed("c.", basic(4, 8, project=True)),
            **prefixed("d.", basic(8, 8)),
        },
        (S(8, 8, 3),),
        (4,),
        {"a.conv2": (1,), "b.conv2": (2,), "c.conv2": (3,), "d.conv2": (4,)},
        layers={"a.conv1": 2, "c.conv2": 2},
    ),
    Model(
        "bottlenecks",
        bottleneck,
        {
            **prefixed("a.", narrow(6, project=True)),
            **prefixed("b.", narrow(6)),
            **prefixed("c.", narrow(6)),
        },
        (S(4, 4, 3),),
        (3,),
        {"a.conv3": (1,), "b.conv3": (2,), "c.conv3": (3,)},
        layers={"b.conv1": 3, "a.conv3": 3},
    ),
    Model(
        "padded shortcut",
        padded_shortcut,
        {"stem": S(3, 3, 3, 4), "conv1": S(3, 3, 4, 8), "conv2": S(3, 3, 8, 8)},
        (S(8, 8, 3),),
        (1,),
        {"conv2": (1,)},
    ),
    Model(
        "u-net of residual blocks",
        unet_of_residual_blocks,
        {
            "in": S(3, 3, 3, 4),
            "down": S(3, 3, 4, 8),
            "up": S(3, 3, 8, 4),
            "out": S(3, 3, 4, 3),
            **{
                f"{name}.conv{at}": S(3, 3, wide, wide)
                for name, wide in (("first", 4), ("low1", 8), ("low2", 8))
                for at in (1, 2)
            },
            "last.conv1": S(3, 3, 8, 4),
            "last.conv2": S(3, 3, 4, 4),
            "last.project": S(1, 1, 8, 4),
        },
        (S(8, 8, 3),),
        (2, 2),
        {"first.conv2": (1,), "last.conv2": (2,), "low1.conv2": (1,), "low2.conv2": (2,)},
    ),
    Model(
        "residual in residual",
        residual_in_residual,
        {
            "head": S(3, 3, 3, 4),
            "body": S(3, 3, 4, 4),
            "tail": S(3, 3, 4, 3),
            **{f"{name}{at}": S(3, 3, 4, 4) for name in "abc" for at in (1, 2)},
        },
        (S(4, 4, 3),),
        (3, 1),
        {"a2": (1,), "b2": (2,), "c2": (3,), "body": (1,)},
    ),
    Model(
        "transformer in transformer",
        transformer_in_transformer,
        layers(
            2, {"narrow": S(WIDTH, 4), "u": S(4, 6), "w0": S(6, 4), "w1": S(6, 4), "w2": S(6, 4), "widen": S(4, WIDTH)}
        ),
        (x,),
        (3, 2, 3),
        {f"{layer}.w{step}": (step + 1,) for layer in range(2) for step in range(3)}
        | {"0.widen": (1,), "1.widen": (2,)},
    ),
    Model(
        "highway",
        highway,
        layers(2, square("gate", "transform")),
        (x,),
        (2,),
        {"0.transform": (1,), "1.transform": (2,)},
    ),
    Model(
        "experts",
        experts,
        layers(
            2,
            {
                "router": S(WIDTH, 3),
                "up": S(3, WIDTH, 6),
                "down": S(3, 6, WIDTH),
                "shared_up": S(WIDTH, 6),
                "shared_down": S(6, WIDTH),
            },
        ),
        (x,),
        (2,),
        {f"{at}.{name}": (at + 1,) for at in range(2) for name in ("down", "shared_down")},
        frozenset({"0.router", "1.router"}),
    ),
    Model(
        "sorted experts",
        sorted_experts,
        {"router": S(WIDTH, 3), "up": S(3, WIDTH, 6), "down": S(3, 6, WIDTH)},
        (x,),
        (1,),
        {"down": (1,)},
    ),
    Model(
        "dropout, masks and a choice",
        dropped,
        {"up": S(WIDTH, WIDE), "down": S(WIDE, WIDTH), "up2": S(WIDTH, WIDE), "down2": S(WIDE, WIDTH)},
        (x, key),
        (2,),
        {"down": (1,), "down2": (2,)},
    ),
    Model(
        "squeezed",
        squeezed,
        prefixed("a.", {"conv1": S(3, 3, 4, 4), "conv2": S(3, 3, 4, 4), "squeeze": S(4, 2), "excite": S(2, 4)})
        | prefixed("b.", {"conv1": S(3, 3, 4, 4), "conv2": S(3, 3, 4, 4), "squeeze": S(4, 2), "excite": S(2, 4)}),
        (S(4, 4, 4),),
        (2,),
        {"a.conv2": (1,), "b.conv2": (2,)},
    ),
    Model(
        "modulated",
        modulated,
        {"embed": S(3, WIDTH), **layers(2, FFN | {"modulate": S(WIDTH, 3 * WIDTH)})},
        (x, S(3)),
        (2,),
        {"0.down": (1,), "1.down": (2,)},
    ),
    Model(
        "reversible",
        reversible,
        stacked(square("f1", "f2", "g1", "g2"), 3),
        (x, x),
        (3, 3),
        {"f2": (1, 2, 3), "g2": (1, 2, 3)},
    ),
    Model("shared blocks", shared_blocks, BLOCK, (x,), (12,), {"o": ODD, "down": EVEN}, SCORES),
    Model("counted", counted, BLOCK, (x,), (8,), {"o": ODD[:4], "down": EVEN[:4]}, SCORES),
    Model("unknown length", unknown_length, BLOCK, (x, S(dtype=jnp.int32)), (None,), {"o": (1,), "down": (2,)}, SCORES),
    Model(
        "scan of scans",
        scan_of_scans,
        prefixed("local.", stacked(stacked(BLOCK, 2), 3)) | prefixed("global.", stacked(square("q", "k", "v", "o"), 3)),
        (x,),
        (15,),
        {"local.o": (1, 3, 6, 8, 11, 13), "local.down": (2, 4, 7, 9, 12, 14), "global.o": (5, 10, 15)},
        scores_of("local.", "global."),
    ),
    Model("ensemble", ensemble, stacked(BLOCK, 3), (x,), (4,), {"o": (1, 3), "down": (2, 4)}, SCORES),
    Model(
        "queries",
        queries,
        {"latents": S(3, WIDTH), **layers(2, BLOCK)},
        (x,),
        (4,),
        of_layers(2, BLOCK, ("o", "down")),
        scores_of("0.", "1."),
    ),
    Model(
        "values of the first layer",
        values_of_the_first_layer,
        layers(3, BLOCK),
        (x,),
        (6,),
        of_layers(3, BLOCK, ("o", "down")),
        scores_of("0.", "1.", "2."),
    ),
    Model(
        "long skip", long_skip, layers(2, BLOCK), (x,), (4,), of_layers(2, BLOCK, ("o", "down")), scores_of("0.", "1.")
    ),
    Model("interpolated", interpolated, layers(2, FFN), (x,), (2,), {"0.down": (1,), "1.down": (2,)}),
    Model("routed tokens", routed_tokens, FFN | {"router": S(WIDTH, 1)}, (x,), (1,), {"down": (1,)}),
    Model("no output weight", no_output_weight, square("q", "k", "v"), (x,), (1,), {"v": (1,)}, SCORES),
    Model(
        "two towers",
        two_towers,
        prefixed("x", layers(2, BLOCK)) | prefixed("y", layers(3, BLOCK)) | square("px", "py"),
        (x, x),
        (4, 6),
        prefixed("x", of_layers(2, BLOCK, ("o", "down"))) | prefixed("y", of_layers(3, BLOCK, ("o", "down"))),
        scores_of("x0.", "x1.", "y0.", "y1.", "y2."),
    ),
    Model(
        "image and text",
        image_and_text,
        prefixed("x", layers(2, BLOCK)) | prefixed("y", layers(3, BLOCK)) | square("project") | {"table": S(30, WIDTH)},
        (x, tokens),
        (4, 6),
        prefixed("x", of_layers(2, BLOCK, ("o", "down"))) | prefixed("y", of_layers(3, BLOCK, ("o", "down"))),
        scores_of("x0.", "x1.", "y0.", "y1.", "y2."),
    ),
    Model(
        "graph",
        gnn,
        layers(2, square("message", "update")),
        (x, S(7, dtype=jnp.int32), S(7, dtype=jnp.int32)),
        (2,),
        {"0.update": (1,), "1.update": (2,)},
    ),
    Model(
        "residual recurrence",
        residual_recurrence,
        layers(2, square("i", "h", "o")),
        (x,),
        (2,),
        {"0.o": (1,), "1.o": (2,)},
    ),
    Model(
        "adapters",
        adapters,
        {
            "up": S(WIDTH, WIDE),
            "down": S(WIDE, WIDTH),
            "a": S(WIDE, 2),
            "b": S(2, WIDTH),
            "up2": S(WIDTH, WIDE),
            "down2": S(WIDE, WIDTH),
            "a2": S(WIDE, 2),
            "b2": S(2, WIDTH),
        },
        (x,),
        (2,),
        {"down": (1,), "down2": (2,), "b2": (2,)},
    ),
    Model(
        "fixup",
        fixup,
        {"up": S(WIDTH, WIDE), "down": S(WIDE, WIDTH), "m": S(), **{f"s{at}": S() for at in range(1, 5)}},
        (x,),
        (1,),
        {"down": (1,)},
    ),
    Model("in parts", in_parts, FFN, (x,), (1,), {"down": (1,)}),
    Model(
        "dense net",
        densenet,
        {"a": S(3, 3, 3, 4), "b": S(3, 3, 7, 4), "c": S(3, 3, 11, 4), "head": S(15, 3)},
        (S(4, 4, 3),),
    ),
    Model("u-net", unet, {"in": S(3, 3, 3, 4), "down": S(3, 3, 4, 4), "out": S(3, 3, 8, 3)}, (S(4, 4, 3),)),
    Model("plain mlp with one bias", plain_mlp, square("a", "b", "c") | {"shared": S(WIDTH)}, (x,)),
    Model("lstm", lstm, {"i": S(WIDTH, 4 * WIDTH), "h": S(WIDTH, 4 * WIDTH), "b": S(4 * WIDTH)}, (x,)),
    Model("gru written out", gru_written_out, {"i": S(WIDTH, 3 * WIDTH), "h": S(WIDTH, 3 * WIDTH)}, (x,)),
    Model("recurrence of one input", recurrence_of_one_input, square("i", "h") | {"b": S(WIDTH)}, (x,)),
    Model("wide and deep", wide_and_deep, square("wide", "a", "b", "c"), (x,)),
    Model("gated unit", gated_unit, {"a": S(WIDTH, 2 * WIDTH), "b": S(WIDTH, WIDTH)}, (x,)),
    Model("sampled", sampled, square("a", "mean", "std", "out"), (x, x)),
    Model(
        "relative positions",
        relative,
        square("q", "k", "v", "o") | {"r": S(LENGTH, WIDTH), "bias": S(LENGTH, LENGTH)},
        (x,),
    ),
    Model(
        "pyramid",
        pyramid,
        {name: S(3, 3, 4, 4) for name in ("a", "b", "c", "la", "lb", "lc")},
        (S(8, 8, 4),),
    ),
    Model("state space", state_space, square("b", "c") | {"a": S(WIDTH), "d": S(WIDTH)}, (x,)),
    Model("a gradient", a_gradient, square("a", "b"), (x,)),
]
