"""Models nobody declared: functions of a mapping of arrays, and what each array is, written down by hand.

A row says for each array the role, the fans and the number of batch entries that follow from the mathematics of the
model; `None` for the fans of a bias or scale, and a string for a reason why the axes can't be told.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

f32 = jnp.float32


def S(*shape, dtype=f32):
    return jax.ShapeDtypeStruct(shape, dtype)


def tokens(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


@dataclass(frozen=True)
class Model:
    """A function of arrays and inputs, the shapes of both, and name → (role, fan_in, fan_out, batch entries)."""

    name: str
    forward: Callable[..., Any]
    arrays: dict[str, Any]
    inputs: tuple[Any, ...]
    expected: dict[str, tuple | str]


def permuted(p, x):
    h = jnp.einsum("bti,hoi->bhto", x, p["w"])
    return jnp.einsum("bhto,doh->btd", jax.nn.relu(h), p["v"]) + p["b"]


def attention(p, x):
    qkv = jnp.einsum("ti,chdi->cthd", x, p["qkv"])
    q, k, v = qkv[0], qkv[1], qkv[2]
    weights = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k) / 2.0, axis=-1)
    mixed = jnp.einsum("hts,shd->thd", weights, v)
    return mixed.reshape(x.shape[0], -1) @ p["out"]


def packed_attention(p, x):
    q, k, v = jnp.split(x @ p["qkv"] + p["b"], 3, axis=-1)
    return jax.nn.softmax(q @ k.T, axis=-1) @ v


def split_weight(p, x):
    wq, wk, wv = jnp.split(p["qkv"], 3, axis=1)
    return jax.nn.softmax((x @ wq) @ (x @ wk).T, axis=-1) @ (x @ wv)


def rotary(p, x):
    def turn(z):
        left, right = jnp.split(z, 2, axis=-1)
        angle = jnp.arange(z.shape[0], dtype=f32)[:, None]
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)

    return jax.nn.softmax(turn(x @ p["q"]) @ turn(x @ p["k"]).T, axis=-1)


def experts_each(p, x):
    h = jax.nn.gelu(jnp.einsum("eti,eih->eth", x, p["up"]) + p["b"][:, None, :])
    return jnp.einsum("eth,eho->eto", h, p["down"])


def experts_dense(p, x):
    gate = jax.nn.softmax(x @ p["router"], axis=-1)
    h = jax.nn.gelu(jnp.einsum("ti,eih->teh", x, p["up"]))
    return jnp.einsum("te,teo->to", gate, jnp.einsum("teh,eho->teo", h, p["down"]))


def experts_picked(p, x):
    which = jnp.argmax(x @ p["router"], axis=-1)
    return jnp.einsum("ti,tio->to", x, p["w"][which])


def low_rank(p, x):
    return (p["b"] @ p["a"]) @ x


def low_rank_after(p, x):
    return p["b"] @ (p["a"] @ x)


def lora(p, x):
    return (p["w"] + 2.0 * (p["b"] @ p["a"])) @ x


def spectral(p, x):
    modes = 5
    spectrum = jnp.fft.rfft(x, axis=-1)[..., :modes]
    weight = lax.complex(p["real"], p["imag"])
    mixed = jnp.einsum("bix,iox->box", spectrum, weight)
    full = jnp.zeros((x.shape[0], mixed.shape[1], x.shape[-1] // 2 + 1), mixed.dtype).at[..., :modes].set(mixed)
    return jnp.fft.irfft(full, n=x.shape[-1], axis=-1) + jnp.einsum("bix,io->box", x, p["skip"])


def spectral_2d(p, x):
    spectrum = jnp.fft.rfft2(x)[:, :4, :3]
    return jnp.fft.irfft2(jnp.einsum("iyx,ioyx->oyx", spectrum, p["w"]), s=(8, 8))


def lstm(p, xs):
    def step(state, x):
        h, c = state
        gates = x @ p["wx"] + h @ p["wh"] + p["b"]
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    zero = jnp.zeros(p["wh"].shape[0])
    (h, _), _ = lax.scan(step, (zero, zero), xs)
    return h


def lstm_unrolled(p, xs):
    h = c = jnp.zeros(p["wh"].shape[0])
    for t in range(xs.shape[0]):
        z = (p["wx"] @ xs[t] + p["wh"].T @ h + p["b"]).reshape(4, -1)
        c = jax.nn.sigmoid(z[1]) * c + jax.nn.sigmoid(z[0]) * jnp.tanh(z[2])
        h = jax.nn.sigmoid(z[3]) * jnp.tanh(c)
    return h


def normed(x, scale):
    return x * lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def block(p, x):
    h = normed(x, p["norm1"])
    q, k, v = jnp.moveaxis((h @ p["qkv"]).reshape(x.shape[0], 3, 2, -1), 1, 0)
    weights = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k), axis=-1)
    x = x + jnp.einsum("hts,shd->thd", weights, v).reshape(x.shape) @ p["proj"]
    h = normed(x, p["norm2"])
    return x + jax.nn.gelu(h @ p["up"] + p["up_b"]) @ p["down"] + p["down_b"]


def transformer(p, ids):
    layers = {name: array for name, array in p.items() if name not in ("table", "final")}
    x = p["table"][ids]
    x, _ = lax.scan(lambda x, layer: (jax.checkpoint(block)(layer, x), None), x, layers)
    return normed(x, p["final"]) @ p["table"].T


def unet(p, x):
    def conv(x, w, stride=1):
        return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def up(x, w):
        return lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    first = jax.nn.relu(conv(x, p["enc1"]) + p["enc1_b"])
    second = jax.nn.relu(conv(first, p["enc2"], 2))
    back = up(second, p["up"]) + p["up_b"]
    return conv(jnp.concatenate([first, back], axis=-1), p["dec"])


def twice(p, x):
    return jax.nn.relu(x @ p["w"]) @ p["w"]


def autoencoder(p, x):
    return jax.nn.relu(x @ p["w"]) @ p["w"].T


def stack_by_hand(p, x):
    for layer in range(p["w"].shape[0]):
        x = jax.nn.relu(p["w"][layer] @ x)
    return x


def stack_by_fori(p, x):
    return lax.fori_loop(0, p["w"].shape[0], lambda at, x: jax.nn.relu(p["w"][at] @ x), x)


def while_shared(p, x):
    def body(state):
        step, x = state
        return step + 1, jnp.tanh(p["w"] @ x)

    return lax.while_loop(lambda state: state[0] < 3, body, (0, x))[1]


def branches(p, x):
    return lax.cond(x[0] > 0, lambda x: p["a"] @ x, lambda x: x @ p["b"], x)


def weight_norm(p, x):
    v = p["v"]
    return (p["g"][:, None] * v / jnp.linalg.norm(v, axis=1, keepdims=True)) @ x


def scaled_kernel(p, x):
    return x @ (p["kernel"] * p["scale"])


def state_space(p, xs):
    a = -jnp.exp(p["a_log"])

    def step(h, x):
        h = jnp.exp(a) * h + (p["b"] @ x)
        return h, p["c"] @ h + p["d"] * x

    return lax.scan(step, jnp.zeros(p["a_log"].shape[0]), xs)[1]


def glu(p, x):
    value, gate = jnp.split(x @ p["w"] + p["b"], 2, axis=-1)
    return (value * jax.nn.sigmoid(gate)) @ p["v"]


def by_product(p, x):
    return jnp.sum(p["w"] * x[None, :], axis=1) + p["b"]


def depthwise(p, x):
    y = lax.conv_general_dilated(
        x, p["dw"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )
    return jnp.einsum("bhwi,oi->bhwo", y, p["pw"])


def mixer(p, x):
    x = x + p["tok2"] @ jax.nn.gelu(p["tok1"] @ x)
    return x + jax.nn.gelu(x @ p["ch1"]) @ p["ch2"]


def positions(p, ids):
    return (p["table"][ids] + p["pos"][: ids.shape[0]]) @ p["w"]


def vit_patches(p, image):
    patches = image.reshape(2, 4, 2, 4, 3).transpose(0, 2, 1, 3, 4).reshape(4, 48)
    x = patches @ p["patch"].reshape(48, 7) + p["b"]
    return jnp.concatenate([p["cls"][None], x])


def masked(p, x):
    mask = jnp.tril(jnp.ones((5, 5)))
    return jnp.where(mask > 0, p["w"], 0.0) @ x + (p["v"] * mask) @ x


def softplus_weight(p, x):
    return jax.nn.softplus(p["w"]) @ x + p["b"]


def hadamard(p, x):
    return (p["w"] * p["m"]) @ x


def learned_queries(p, x):
    return (p["tokens"] @ p["wq"]) @ (x @ p["wk"]).T


def half_precision(p, x):
    return (p["w"].astype(jnp.bfloat16) @ x.astype(jnp.bfloat16)).astype(f32) + p["b"]


def vmapped(p, x):
    return jax.vmap(lambda w, b, x: jnp.tanh(w @ x + b))(p["w"], p["b"], x)


def regularized(p, x):
    return jnp.mean((x @ p["w"]) ** 2) + 1e-3 * jnp.sum(p["w"] ** 2)


def graph(p, x, adjacency):
    return adjacency @ (x @ p["self"]) + jnp.einsum(
        "nm,rnm,mi,rio->no", adjacency, adjacency[None] * 2.0, x, p["rel"][:1]
    )


def custom_gradient(p, x):
    @jax.custom_vjp
    def straight(w, x):
        return w @ x

    straight.defvjp(lambda w, x: (w @ x, (w, x)), lambda kept, g: (jnp.outer(g, kept[1]), kept[0].T @ g))
    return straight(p["w"], x)


def interleaved(p, x):
    z = x @ p["w"]
    return jnp.tanh(z[..., 0::2]) * jnp.exp(z[..., 1::2])


def uneven(p, x):
    z = x @ p["w"]
    return jnp.tanh(z[:, :2]) @ jnp.ones((2, 5)) + jnp.exp(z[:, 2:7])


def joined(p, x):
    q, k, v = jnp.split(
        x @ jnp.concatenate([p["q"], p["k"], p["v"]], axis=1) + jnp.concatenate([p["qb"], p["kb"], p["vb"]]), 3, axis=1
    )
    return jax.nn.softmax(q @ k.T, axis=-1) @ v


def stacked_before(p, x):
    return jnp.einsum("soi,si->so", jnp.stack([p["q"], p["k"]]), x)


def stacked_for_a_scan(p, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, jnp.stack([p["first"], p["second"]]))[0]


def diagonal(p, x):
    return jnp.where(jnp.eye(5) > 0, p["d"][:, None], 0.0) @ x + jnp.where(jnp.eye(5) > 0, p["e"][None, :], 0.0) @ x


def repeated(p, x):
    return jnp.repeat(p["w"][:, :, None], 3, axis=2).reshape(5, 21) @ x


def halves(p, x, h):
    return jnp.tanh(p["w"][:, :4] @ x + p["w"][:, 4:] @ h)


def symmetric(p, x):
    return (p["w"] + p["w"].T) @ x


def batch_norm(p, x):
    mean = 0.9 * p["mean"] + 0.1 * x.mean(0)
    var = 0.9 * p["var"] + 0.1 * x.var(0)
    return ((x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * p["gamma"] + p["beta"]) @ p["w"], mean, var


def convolution_and_norm(p, x):
    x = jnp.einsum("bti,io->bto", x, p["w"])
    x = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    return (x * p["scale"] + p["shift"]) @ p["v"] + p["b"]


def quantized(p, x):
    w = p["w"] + lax.stop_gradient(jnp.round(p["w"] * 8) / 8 - p["w"])
    return w @ x


def codebook(p, x):
    distance = jnp.sum((x[:, None] - p["codes"][None]) ** 2, axis=-1)
    return x + lax.stop_gradient(p["codes"][jnp.argmin(distance, axis=-1)] - x)


def hyper(p, x):
    return (p["base"] + jnp.outer(x[:5], x)) @ x


def one_input(p, x):
    return x[..., None] * p["w"]


def constant_in_front(p, x):
    return x @ (jnp.arange(24.0).reshape(4, 6) @ p["w"])


def ragged(p, x):
    return lax.ragged_dot(x, p["w"], jnp.array([2, 3], jnp.int32))


def returned(p, x):
    return x @ p["w"], p["log_std"]


def own_sum(p, x):
    return x @ p["w"].sum(0)


def counts_down(p, x):
    return lax.while_loop(lambda s: s[0] > 0, lambda s: (-1 + s[0], s[1] @ p["w"][s[0] - 1]), (3, x))[1]


def windows_picked(p, x):
    windows = jax.vmap(lambda start: lax.dynamic_slice(p["w"], (0, start), (4, 2)))(jnp.arange(3) * 2)
    return jnp.einsum("ti,nio->tno", x, windows)


def picked_in_a_loop(p, x):
    _, members = lax.scan(lambda _, index: (None, p["w"][index]), None, jnp.array([2, 2, 1]))
    return jnp.einsum("ti,sio->to", x, members)


def scaled_in_a_loop(p, x):
    return lax.scan(lambda total, scale: (total + x * scale, None), jnp.zeros_like(x), p["s"])[0]


def rolled(p, x):
    return sum(p["s"][step] * jnp.roll(x, step, 0) for step in range(3)).sum(-1)


def grouped_batch(p, x):
    numbers = ("NCH", "OIH", "NCH")
    return lax.conv_general_dilated(x, p["w"], (1,), "SAME", dimension_numbers=numbers, batch_group_count=2)


def uneven_groups(p, x):
    kernel, numbers = p["w"].reshape(12, 4, 3), ("NCH", "OIH", "NCH")
    return lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=numbers, feature_group_count=2)


W, B, E, N = "weight", "bias", "embedding", "scale"
NO_WEIGHT_BESIDE = (
    "it is contracted with another parameter, with no weight beside them; which comes first can't be told "
    "(traced.py:LINE)"
)

MODELS = (
    Model("permuted einsum", permuted, {"w": S(3, 5, 7), "v": S(11, 5, 3), "b": S(11)}, (S(2, 4, 7),),
          {"w": (W, 7, 15, 1), "v": (W, 15, 11, 1), "b": (B, None, None, 1)}),
    Model("attention of one kernel", attention, {"qkv": S(3, 2, 5, 7), "out": S(10, 7)}, (S(4, 7),),
          {"qkv": (W, 7, 10, 3), "out": (W, 10, 7, 1)}),
    Model("packed q, k, v", packed_attention, {"qkv": S(7, 15), "b": S(15)}, (S(4, 7),),
          {"qkv": (W, 7, 5, 3), "b": (B, None, None, 3)}),
    Model("a kernel split before use", split_weight, {"qkv": S(7, 15)}, (S(4, 7),), {"qkv": (W, 7, 5, 3)}),
    Model("rotary halves are no gates", rotary, {"q": S(7, 6), "k": S(7, 6)}, (S(4, 7),),
          {"q": (W, 7, 6, 1), "k": (W, 7, 6, 1)}),
    Model("stacked experts", experts_each, {"up": S(3, 7, 5), "b": S(3, 5), "down": S(3, 5, 2)}, (S(3, 4, 7),),
          {"up": (W, 7, 5, 3), "b": (B, None, None, 3), "down": (W, 5, 2, 3)}),
    Model("mixture of experts", experts_dense, {"router": S(7, 3), "up": S(3, 7, 5), "down": S(3, 5, 2)}, (S(4, 7),),
          {"router": (W, 7, 3, 1), "up": (W, 7, 5, 3), "down": (W, 5, 2, 3)}),
    Model("experts picked by the router", experts_picked, {"router": S(7, 3), "w": S(3, 7, 5)}, (S(4, 7),),
          {"router": (W, 7, 3, 1), "w": (W, 7, 5, 3)}),
    Model("low rank, factors first", low_rank, {"a": S(2, 7), "b": S(5, 2)}, (S(7),),
          {"a": NO_WEIGHT_BESIDE, "b": NO_WEIGHT_BESIDE}),
    Model("the weight of one input", lambda p, x: x[..., None] * p["w"], {"w": S(7)}, (S(5),),
          {"w": "it is multiplied with a signal that is the same along it: the weight of one input, or a scale "
           "(traced.py:LINE)"}),
    Model("a constant matrix in front", lambda p, x: x @ (jnp.arange(24.0).reshape(4, 6) @ p["w"]), {"w": S(6, 3)},
          (S(5, 4),), {"w": (W, 6, 3, 1)}),
    Model("a sum over its own axis", lambda p, x: x @ p["w"].sum(0), {"w": S(2, 4)}, (S(5, 4),), {"w": (W, 8, 1, 1)}),
    Model("low rank, one by one", low_rank_after, {"a": S(2, 7), "b": S(5, 2)}, (S(7),),
          {"a": (W, 7, 2, 1), "b": (W, 2, 5, 1)}),
    Model("adapter beside a weight", lora, {"w": S(5, 7), "a": S(2, 7), "b": S(5, 2)}, (S(7),),
          {"w": (W, 7, 5, 1), "a": (W, 7, 2, 1), "b": (W, 2, 5, 1)}),
    Model("spectral convolution", spectral, {"real": S(3, 7, 5), "imag": S(3, 7, 5), "skip": S(3, 7)}, (S(2, 3, 16),),
          {"real": (W, 3, 7, 5), "imag": (W, 3, 7, 5), "skip": (W, 3, 7, 1)}),
    Model("spectral convolution, complex", spectral_2d, {"w": S(3, 7, 4, 3, dtype=jnp.complex64)}, (S(3, 8, 8),),
          {"w": (W, 3, 7, 12)}),
    Model("LSTM in a scan", lstm, {"wx": S(3, 20), "wh": S(5, 20), "b": S(20)}, (S(6, 3),),
          {"wx": (W, 3, 5, 4), "wh": (W, 5, 5, 4), "b": (B, None, None, 4)}),
    Model("LSTM unrolled, transposed", lstm_unrolled, {"wx": S(20, 3), "wh": S(5, 20), "b": S(20)}, (S(3, 3),),
          {"wx": (W, 3, 5, 4), "wh": (W, 5, 5, 4), "b": (B, None, None, 4)}),
    Model("scanned transformer, tied", transformer,
          {"table": S(17, 6), "final": S(6), "norm1": S(4, 6), "qkv": S(4, 6, 18), "proj": S(4, 6, 6), "norm2": S(4, 6),
           "up": S(4, 6, 24), "up_b": S(4, 24), "down": S(4, 24, 6), "down_b": S(4, 6)}, (tokens(5),),
          {"table": (E, 6, 17, 1), "final": (N, None, None, 1), "norm1": (N, None, None, 4), "qkv": (W, 6, 6, 12),
           "proj": (W, 6, 6, 4), "norm2": (N, None, None, 4), "up": (W, 6, 24, 4), "up_b": (B, None, None, 4),
           "down": (W, 24, 6, 4), "down_b": (B, None, None, 4)}),
    Model("U-Net", unet, {"enc1": S(3, 3, 2, 5), "enc1_b": S(5), "enc2": S(3, 3, 5, 7), "up": S(4, 4, 7, 5),
                          "up_b": S(5),
                          "dec": S(3, 3, 10, 3)}, (S(1, 8, 8, 2),),
          {"enc1": (W, 18, 45, 1), "enc1_b": (B, None, None, 1), "enc2": (W, 45, 63, 1), "up": (W, 112, 80, 1),
           "up_b": (B, None, None, 1), "dec": (W, 90, 27, 1)}),
    Model("one weight twice", twice, {"w": S(5, 5)}, (S(4, 5),), {"w": (W, 5, 5, 1)}),
    Model("a weight and its transpose", autoencoder, {"w": S(7, 5)}, (S(4, 7),),
          {"w": "its uses disagree: axis 0 is an input (traced.py:LINE), an output (traced.py:LINE)"}),
    Model("stack indexed by hand", stack_by_hand, {"w": S(3, 5, 5)}, (S(5),), {"w": (W, 5, 5, 3)}),
    Model("stack indexed by a counter", stack_by_fori, {"w": S(3, 5, 5)}, (S(5),), {"w": (W, 5, 5, 3)}),
    Model("one weight in a while loop", while_shared, {"w": S(5, 5)}, (S(5),), {"w": (W, 5, 5, 1)}),
    Model("branches", branches, {"a": S(5, 7), "b": S(7, 5)}, (S(7),), {"a": (W, 7, 5, 1), "b": (W, 7, 5, 1)}),
    Model("weight norm by hand", weight_norm, {"v": S(5, 7), "g": S(5)}, (S(7),),
          {"v": (W, 7, 5, 1), "g": (N, None, None, 1)}),
    Model("scaled kernel", scaled_kernel, {"kernel": S(7, 5), "scale": S(5)}, (S(4, 7),),
          {"kernel": (W, 7, 5, 1), "scale": (N, None, None, 1)}),
    Model("state space", state_space, {"a_log": S(5), "b": S(5, 3), "c": S(3, 5), "d": S(3)}, (S(6, 3),),
          {"a_log": "exp stands between it and the signal (traced.py:LINE)", "b": (W, 3, 5, 1), "c": (W, 5, 3, 1),
           "d": (N, None, None, 1)}),
    Model("gated linear unit", glu, {"w": S(7, 10), "b": S(10), "v": S(5, 3)}, (S(4, 7),),
          {"w": (W, 7, 5, 2), "b": (B, None, None, 2), "v": (W, 5, 3, 1)}),
    Model("product and sum", by_product, {"w": S(5, 7), "b": S(5)}, (S(7),),
          {"w": (W, 7, 5, 1), "b": (B, None, None, 1)}),
    Model("depthwise separable", depthwise, {"dw": S(3, 3, 1, 7), "pw": S(5, 7)}, (S(1, 6, 6, 7),),
          {"dw": (W, 9, 9, 7), "pw": (W, 7, 5, 1)}),
    Model("mixer over both axes", mixer, {"tok1": S(11, 4), "tok2": S(4, 11), "ch1": S(7, 13), "ch2": S(13, 7)},
          (S(4, 7),),
          {"tok1": (W, 4, 11, 1), "tok2": (W, 11, 4, 1), "ch1": (W, 7, 13, 1), "ch2": (W, 13, 7, 1)}),
    Model("learned positions", positions, {"table": S(17, 7), "pos": S(9, 7), "w": S(7, 5)}, (tokens(4),),
          {"table": (E, 7, 17, 1),
           "pos": "it is added to the signal along 2 axes that are no outputs of a weight (traced.py:LINE)",
           "w": (W, 7, 5, 1)}),
    Model("patches of an image", vit_patches, {"patch": S(4, 4, 3, 7), "b": S(7), "cls": S(7)}, (S(8, 8, 3),),
          {"patch": (W, 48, 7, 1), "b": (B, None, None, 1),
           "cls": "it is a signal itself, no weight of one (traced.py:LINE)"}),
    Model("masked by constants", masked, {"w": S(5, 5), "v": S(5, 5)}, (S(5),), {"w": (W, 5, 5, 1), "v": (W, 5, 5, 1)}),
    Model("weight behind a softplus", softplus_weight, {"w": S(5, 7), "b": S(5)}, (S(7),),
          {"w": "max stands between it and the signal (traced.py:LINE)", "b": (B, None, None, 1)}),
    Model("two equal matrices multiplied", hadamard, {"w": S(5, 7), "m": S(5, 7)}, (S(7),),
          dict.fromkeys("wm", "it is multiplied entry by entry with another parameter; which is the weight can't be "
                        "told (traced.py:LINE)")),
    Model("learned queries", learned_queries, {"tokens": S(3, 7), "wq": S(7, 5), "wk": S(11, 5)}, (S(4, 11),),
          {"tokens": NO_WEIGHT_BESIDE,
           "wq": NO_WEIGHT_BESIDE, "wk": (W, 11, 5, 1)}),
    Model("half precision", half_precision, {"w": S(5, 7), "b": S(5)}, (S(7),),
          {"w": (W, 7, 5, 1), "b": (B, None, None, 1)}),
    Model("vmapped weights", vmapped, {"w": S(3, 5, 7), "b": S(3, 5)}, (S(3, 7),),
          {"w": (W, 7, 5, 3), "b": (B, None, None, 3)}),
    Model("a regularized loss", regularized, {"w": S(7, 5)}, (S(4, 7),), {"w": (W, 7, 5, 1)}),
    Model("graph network", graph, {"self": S(7, 5), "rel": S(1, 7, 5)}, (S(4, 7), S(4, 4)),
          {"self": (W, 7, 5, 1), "rel": (W, 7, 5, 1)}),
    Model("own gradient", custom_gradient, {"w": S(5, 7)}, (S(7),), {"w": (W, 7, 5, 1)}),
    Model("interleaved parts", interleaved, {"w": S(7, 10)}, (S(4, 7),), {"w": (W, 7, 5, 2)}),
    Model("weights stacked before use", stacked_before, {"q": S(5, 4), "k": S(5, 4)}, (S(2, 4),),
          {"q": (W, 4, 5, 1), "k": (W, 4, 5, 1)}),
    Model("weights stacked for a scan", stacked_for_a_scan, {"first": S(4, 4), "second": S(4, 4)}, (S(3, 4),),
          {"first": (W, 4, 4, 1), "second": (W, 4, 4, 1)}),
    Model("weights joined before use", joined,
          {**{name: S(7, 5) for name in "qkv"}, **{name: S(5) for name in ("qb", "kb", "vb")}}, (S(4, 7),),
          {**dict.fromkeys("qkv", (W, 7, 5, 1)), **dict.fromkeys(("qb", "kb", "vb"), (B, None, None, 1))}),
    Model("a diagonal is no weight", diagonal, {"d": S(5), "e": S(5)}, (S(5),),
          {"d": "no axis of it is summed over (traced.py:LINE)",
           "e": "it is the same for every output (traced.py:LINE)"}),
    Model("a repeated weight", repeated, {"w": S(5, 7)}, (S(21),),
          {"w": "it is repeated along what is summed over (traced.py:LINE)"}),
    Model("two halves of the inputs", halves, {"w": S(5, 8)}, (S(4), S(4)), {"w": (W, 8, 5, 1)}),
    Model("a symmetric weight", symmetric, {"w": S(5, 5)}, (S(5),),
          {"w": "its uses disagree: axis 0 is an output (traced.py:LINE), an input (traced.py:LINE)"}),
    Model("batch norm with running statistics", batch_norm,
          {**{name: S(7) for name in ("mean", "var", "gamma", "beta")}, "w": S(7, 5)}, (S(4, 7),),
          {**dict.fromkeys(("mean", "var"), "it is scaled and mixed with the signal, as a running mean would be "
                           "(traced.py:LINE)"),
           "gamma": (N, None, None, 1), "beta": (B, None, None, 1), "w": (W, 7, 5, 1)}),
    Model("a norm right behind a weight", convolution_and_norm,
          {"w": S(7, 5), "scale": S(5), "shift": S(5), "v": S(5, 3), "b": S(3)}, (S(2, 4, 7),),
          {"w": (W, 7, 5, 1), "scale": (N, None, None, 1), "shift": (B, None, None, 1), "v": (W, 5, 3, 1),
           "b": (B, None, None, 1)}),
    Model("quantized on the way", quantized, {"w": S(5, 7)}, (S(7),), {"w": (W, 7, 5, 1)}),
    Model("a codebook", codebook, {"codes": S(11, 7)}, (S(4, 7),),
          {"codes": "it is subtracted, as a running mean would be (traced.py:LINE)"}),
    Model("a weight with a change from the data", hyper, {"base": S(5, 7)}, (S(7),),
          {"base": "it is added to the signal along 2 axes that are no outputs of a weight (traced.py:LINE)"}),
    Model("a loop that counts down", counts_down, {"w": S(3, 4, 4)}, (S(5, 4),), {"w": (W, 4, 4, 3)}),
    Model("a bias added to a weight", lambda p, x: x @ (p["w"] + p["b"]), {"w": S(4, 6), "b": S(6)}, (S(5, 4),),
          {"w": (W, 4, 6, 1), "b": "no axis of it is summed over (traced.py:LINE)"}),
    Model("a column added to a weight", lambda p, x: x @ (p["w"] + p["c"]), {"w": S(4, 6), "c": S(4, 1)}, (S(5, 4),),
          {"w": (W, 4, 6, 1), "c": "it is the same for every output (traced.py:LINE)"}),
    Model("a weight added to a part of another", lambda p, x: x @ p["w"].at[:, 2:4].add(p["v"]),
          {"w": S(4, 6), "v": S(4, 2)}, (S(5, 4),),
          dict.fromkeys("wv", "scatter-add stands between it and the signal (traced.py:LINE)")),
    Model("padded with a parameter", lambda p, x: x @ lax.pad(p["w"], p["edge"], ((0, 0, 0), (1, 1, 0))),
          {"w": S(4, 6), "edge": S()}, (S(5, 4),),
          dict.fromkeys(("w", "edge"), "pad stands between it and the signal (traced.py:LINE)")),
    Model("windows at constant places", windows_picked, {"w": S(4, 6)}, (S(5, 4),),
          {"w": "a gather takes windows of it (traced.py:LINE)"}),
    Model("entries picked in a loop", picked_in_a_loop, {"w": S(3, 4, 6)}, (S(5, 4),),
          {"w": "a loop collects it (traced.py:LINE)"}),
    Model("scales in a loop", scaled_in_a_loop, {"s": S(3, 4)}, (S(5, 4),),
          {"s": "its products with the signal are added up: a scale or a weight (traced.py:LINE)"}),
    Model("a depthwise convolution summed over channels", rolled, {"s": S(3, 4)}, (S(5, 4),),
          {"s": "it scales the signal, which is then summed: a scale or a weight (traced.py:LINE)"}),
    Model("a convolution that groups the batch", grouped_batch, {"w": S(8, 4, 3)}, (S(4, 4, 9),),
          {"w": "its convolution groups the batch (traced.py:LINE)"}),
    Model("groups that cut an axis", uneven_groups, {"w": S(3, 4, 4, 3)}, (S(1, 8, 9),),
          {"w": "the groups of its convolution cut an axis unevenly (traced.py:LINE)"}),
    Model("uneven parts are no gates", uneven, {"w": S(7, 9)}, (S(4, 7),), {"w": (W, 7, 9, 1)}),
)  # fmt: skip
"""Every row is a model nobody declared."""
