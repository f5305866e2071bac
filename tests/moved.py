"""Models that put the entries of their arrays elsewhere before these meet the signal, and how each array is read.

Every output is linear in each array, with nothing mixed after the array has met the signal: the entries of a weight
that one output depends on, counted with a Jacobian, are the fan_in.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.traced import Model, S, tokens

NHWC = ("NHWC", "HWIO", "NHWC")


def haiku_gru(p, x, h):
    w_z, w_a = jnp.split(p["w_h"], [10], axis=1)
    b_z, b_a = jnp.split(p["b"], [10])
    gates = x @ p["w_i"][:, :10] + h @ w_z + b_z
    z, r = jnp.split(gates, 2)
    return z, r, x @ p["w_i"][:, 10:] + h @ w_a + b_a


def grouped_queries(p, x):
    q, k, v = jnp.split(p["qkv"], [8, 12], axis=1)
    return (x @ q).reshape(-1, 4, 2), x @ k, x @ v


def grouped_queries_after(p, x):
    return tuple(jnp.split(x @ p["qkv"] + p["b"], [8, 12], axis=1))


def joined_unevenly(p, x):
    y = x @ jnp.concatenate([p["q"], p["kv"]], axis=1) + jnp.concatenate([p["qb"], p["kvb"]])
    return tuple(jnp.split(y, [3, 7], axis=1))


def convolved(x, w, groups=1):
    return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=NHWC, feature_group_count=groups)


def layers_of_halves(p, x, h):
    return tuple(x @ p["w"][layer, :3] + h @ p["w"][layer, 3:] for layer in range(2))


def fourier(p, x):
    modes = jnp.einsum("bixy,ioxy->boxy", jnp.fft.rfft2(x)[..., :4, :3], p["w"])
    return jnp.real(modes), jnp.imag(modes)


def sum_of_parts(w, x):
    return x[:, :1] @ w[:1] + x[:, 1:] @ w[1:]


def edges(p, x):
    return jnp.einsum("ej,bej->be", p["w"], x)


def members(p, x, count=3):
    return [x[k] @ p["w"][k] for k in range(count)]


def between_zeros(p, x, which):
    padded = (jnp.pad(each, ((1, 1), (0, 0), (0, 0))) for each in (x, p["w"]))
    y = jax.vmap(jnp.matmul)(*padded)
    return sum(y[k] for k in which)


def rows_added_up(w):
    return lax.scan(lambda sum_, row: (sum_ + row, sum_ + row), jnp.zeros(w.shape[1]), w)


def by_windows(p, x, count=4):
    return sum(x[:, k : k + 6] * p["w"][k] for k in range(count))


behind = jax.jit(lambda first, x: jnp.concatenate([first, x], 1))


def behind_another(p, x, first):
    """Both sums call one jaxpr; what it joins is of one signal the first time, and of two the second time."""
    return behind(jnp.zeros_like(first), x) * p["w"][0] + behind(first, x) * p["w"][1]


def by_rolls(p, x):
    return sum(jnp.roll(x, k, 1) * p["w"][:, k] for k in range(4))


def times_itself(w):
    return w * w


def added_in_place(p, x):
    sums = jnp.zeros((2, 5, 2))
    for k in range(3):
        sums = sums.at[1].add(x[k] @ p["w"][k])
    return sums


def put_in_place(p, x):
    every = jnp.zeros((3, 5, 2))
    for k in range(3):
        every = every.at[k].set(x[k] @ p["w"][k])
    return every


def put_in_by_a_loop(p, x):
    return lax.fori_loop(0, 3, lambda k, every: every.at[k].set(x[k] @ p["w"][k]), jnp.zeros((3, 5, 2)))


def neighbors_added_up(p, x):
    y = jax.vmap(jnp.matmul)(x, p["w"])
    return y + jnp.roll(y, 1, 0)


def by_counter(p, x, count, which=lambda n: n):
    return lax.fori_loop(0, count, lambda n, sum_: sum_ + x[n] @ p["w"][which(n)], jnp.zeros((5, 2)))


def by_two_counters(p, x):
    def of_one(n):
        return lax.fori_loop(0, 2, lambda k, sum_: sum_ + x[n, k] @ p["w"][n, k], jnp.zeros((5, 3)))

    return lax.fori_loop(0, 3, lambda n, sum_: sum_ + of_one(n), jnp.zeros((5, 3)))


STACK = {"w": S(3, 4, 2)}
SIGNALS = (S(3, 5, 4),)
SOME = {"w": "outputs of some of its entries are added up, of others they are not (moved.py:LINE)"}
DIFFERENT = {"w": "outputs of different entries of it are added up (moved.py:LINE)"}

MOVED = (
    # Outputs of the members of a stack that are added up: one weight, however it is written.
    Model("collected by a loop", lambda p, x: lax.map(lambda m: m[0] @ m[1], (x, p["w"])), STACK, SIGNALS,
          {"w": "stack i o"}),
    Model("collected by a loop and added up", lambda p, x: lax.map(lambda m: m[0] @ m[1], (x, p["w"])).sum(0),
          STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("collected by a counter and added up",
          lambda p, x: lax.map(lambda n: x[n] @ p["w"][n], jnp.arange(3)).mean(0), STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("added up by a loop over outputs", lambda p, x: lax.scan(
          lambda sum_, y: (sum_ + y, None), jnp.zeros((5, 2)), jax.vmap(jnp.matmul)(x, p["w"]))[0],
          STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("added up by a counter", lambda p, x: by_counter(p, x, 3), STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("added up backwards", lambda p, x: by_counter(p, x, 3, lambda n: 2 - n), STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("added up by two counters", by_two_counters, {"w": S(3, 2, 4, 3)}, (S(3, 2, 5, 4),), {"w": "i1 i2 i3 o"}),
    Model("stacked and added up", lambda p, x: jnp.stack(members(p, x), 1).sum(1), STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("stacked and added up by a loop", lambda p, x: lax.scan(
          lambda sum_, y: (sum_ + y, None), jnp.zeros((5, 2)), jnp.stack(members(p, x)))[0],
          STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("joined and added up", lambda p, x: jnp.concatenate(members(p, x), 1).reshape(5, 3, 2).sum(1),
          STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("taken out and added up", lambda p, x: sum(jax.vmap(jnp.matmul)(x, p["w"])[k] for k in range(3)),
          STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("permuted, and added up by a loop", lambda p, x: lax.scan(
          lambda sum_, m: (sum_ + m[0] @ m[1], None), jnp.zeros((5, 2)), (x, p["w"][jnp.array([2, 0, 1])]))[0],
          STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("added up in one place", added_in_place, STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("added up in one place by a loop", lambda p, x: lax.fori_loop(
          0, 3, lambda k, sum_: sum_.at[1].add(x[k] @ p["w"][k]), jnp.zeros((2, 5, 2))),
          STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("taken out between zeros and added up", lambda p, x: between_zeros(p, x, range(5)), STACK, SIGNALS,
          {"w": "i1 i2 o"}),
    Model("some taken out between zeros and added up", lambda p, x: between_zeros(p, x, range(3)), STACK, SIGNALS,
          SOME),
    Model("put into an array and added up", lambda p, x: put_in_place(p, x).sum(0), STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("put into an array", put_in_place, STACK, SIGNALS, {"w": "stack i o"}),
    Model("put into an array by a loop", put_in_by_a_loop, STACK, SIGNALS, {"w": "stack i o"}),
    Model("put into an array by a loop and added up", lambda p, x: put_in_by_a_loop(p, x).sum(0), STACK, SIGNALS,
          {"w": "i1 i2 o"}),
    Model("put into an array by a loop, and some added up", lambda p, x: put_in_by_a_loop(p, x)[1:].sum(0),
          STACK, SIGNALS, DIFFERENT),
    Model("added up over a named axis", lambda p, x: jax.vmap(
          lambda x, w: lax.psum(x @ w, "members"), axis_name="members")(x, p["w"]), STACK, SIGNALS, {"w": "i1 i2 o"}),
    Model("weighed by constants and added up", lambda p, x: jnp.tensordot(
          jnp.array([0.2, 0.5, 0.3]), jax.vmap(jnp.matmul)(x, p["w"]), 1), STACK, SIGNALS, DIFFERENT),
    Model("added up one by one", lambda p, x: jnp.cumsum(jax.vmap(jnp.matmul)(x, p["w"]), 0),
          STACK, SIGNALS, DIFFERENT),
    Model("added up as a tree", lambda p, x: lax.associative_scan(jnp.add, jax.vmap(jnp.matmul)(x, p["w"])),
          {"w": S(4, 4, 2)}, (S(4, 5, 4),), DIFFERENT),
    Model("added up in two segments", lambda p, x: jax.ops.segment_sum(
          jax.vmap(jnp.matmul)(x, p["w"]), jnp.array([0, 0, 1]), 2), STACK, SIGNALS, DIFFERENT),
    Model("added up in the stored array", lambda p, x: x @ (p["w"][0] + p["w"][1] + p["w"][2]), STACK, (S(5, 4),),
          {"w": "i1 i2 o"}),
    Model("a difference of stored arrays", lambda p, x: x @ (p["w"][0] - p["w"][1]), {"w": S(2, 4, 2)}, (S(5, 4),),
          {"w": "i1 i2 o"}),
    Model("neighbors added up", neighbors_added_up, STACK, SIGNALS, DIFFERENT),
    Model("a decaying sum", lambda p, x: lax.scan(
          lambda sum_, m: (0.9 * sum_ + m[0] @ m[1], None), jnp.zeros((5, 2)), (x, p["w"]))[0],
          STACK, SIGNALS, DIFFERENT),
    Model("groups of channels added up by a loop", lambda p, x: lax.scan(
          lambda sum_, y: (sum_ + y, None), jnp.zeros((6, 6)), jnp.moveaxis(convolved(x, p["w"], 2)[0], -1, 0))[0],
          {"w": S(3, 3, 2, 4)}, (S(1, 8, 8, 4),), DIFFERENT),
    Model("some added up by a counter", lambda p, x: by_counter(p, x, 2), STACK, SIGNALS, SOME),
    Model("one added up twice by a counter", lambda p, x: by_counter(p, x, 3, lambda n: n // 2), STACK, SIGNALS, SOME),
    Model("some stacked and added up", lambda p, x: jnp.stack(members(p, x, 2)).sum(0), STACK, SIGNALS, SOME),
    Model("some taken out and added up", lambda p, x: sum(jax.vmap(jnp.matmul)(x, p["w"])[k] for k in range(2)),
          STACK, SIGNALS, SOME),
    Model("sums on the way of a loop", lambda p, x: lax.scan(
          lambda sum_, m: (sum_ + m[0] @ m[1], sum_), jnp.zeros((5, 2)), (x, p["w"]))[1], STACK, SIGNALS, DIFFERENT),
    Model("some added up by a loop", lambda p, x: lax.scan(
          lambda sum_, m: (sum_ + m[0] @ m[1], None), jnp.zeros((5, 2)), (x[1:], p["w"][1:]))[0], STACK, SIGNALS,
          {"w": "outputs of some of its entries are added up, of others they are not (moved.py:LINE)"}),
    Model("a sum over its axis, weighed by a signal", lambda p, x, y: jnp.einsum("ab,autb,au->tu", p["w"].sum(2), x, y),
          {"w": S(4, 2, 3)}, (S(4, 2, 5, 2), S(4, 2)), {"w": "no axis of it is summed over (moved.py:LINE)"}),
    Model("single entries of looked-up rows", lambda p, x: sum(p["w"][:, x][k] for k in range(3)), {"w": S(3, 7)},
          (tokens(5),), {"w": "single entries of its rows are looked up (moved.py:LINE)"}),
    Model("cells of haiku", haiku_gru, {"w_i": S(4, 15), "w_h": S(5, 15), "b": S(15)}, (S(4), S(5)),
          {"w_i": "i o", "w_h": "i o", "b": "o"}),
    Model("grouped queries", grouped_queries, {"qkv": S(6, 16)}, (S(3, 6),), {"qkv": "i o"}),
    Model("grouped queries of outputs", grouped_queries_after, {"qkv": S(6, 16), "b": S(16)}, (S(3, 6),),
          {"qkv": "i o", "b": "o"}),
    Model("joined in unequal parts", joined_unevenly, {"q": S(4, 3), "kv": S(4, 8), "qb": S(3), "kvb": S(8)},
          (S(2, 4),), {"q": "i o", "kv": "i (group o)", "qb": "o", "kvb": "(group o)"}),
    Model("joined along inputs", lambda p, x: x @ jnp.concatenate([p["a"], p["b"]]), {"a": S(4, 3), "b": S(5, 3)},
          (S(2, 9),), {"a": "i o", "b": "i o"}),
    Model("outputs in another order", lambda p, x: x @ p["w"][:, jnp.array([2, 0, 1, 3])], {"w": S(3, 4)}, (S(2, 3),),
          {"w": "i o"}),
    Model("inputs in another order", lambda p, x: x @ jnp.take(p["w"], np.array([2, 0, 1]), axis=0), {"w": S(3, 4)},
          (S(2, 3),), {"w": "i o"}),
    Model("rolled outputs", lambda p, x: jnp.einsum("c,abc->ab", x, jnp.roll(p["w"], 1, 0)), {"w": S(2, 3, 4)}, (S(4),),
          {"w": "o1 o2 i"}),
    Model("rolled inputs", lambda p, x: x @ jnp.roll(p["w"], 1, 0), {"w": S(3, 2)}, (S(4, 3),), {"w": "i o"}),
    Model("stacked rows", lambda p, x: x @ jnp.stack([p["w"][1], p["w"][0]]), {"w": S(2, 3)}, (S(4, 2),), {"w": "i o"}),
    Model("a flipped kernel", lambda p, x: convolved(x, p["w"][::-1, ::-1]), {"w": S(2, 3, 4, 5)}, (S(1, 4, 4, 4),),
          {"w": "... i o"}),
    Model("a kernel with holes", lambda p, x: convolved(x, lax.pad(p["w"], 0.0, ((1, 0, 1), *((0, 0, 0),) * 3))),
          {"w": S(2, 3, 4, 5)}, (S(1, 5, 4, 4),), {"w": "... i o"}),
    Model("joined groups", lambda p, x: convolved(x, jnp.concatenate([p["a"], p["b"]], -1), 4),
          {"a": S(2, 3, 1, 2), "b": S(2, 3, 1, 2)}, (S(1, 4, 4, 4),), {"a": "... i stack", "b": "... i stack"}),
    Model("padded inputs", lambda p, x: x @ jnp.pad(p["w"], ((1, 2), (0, 0))), {"w": S(3, 4)}, (S(2, 6),),
          {"w": "i o"}),
    Model("set in a block of zeros", lambda p, x: x @ jnp.zeros((5, 4)).at[1:4].set(p["w"]), {"w": S(3, 4)},
          (S(2, 5),), {"w": "i o"}),
    Model("set in rows of zeros", lambda p, x: x @ jnp.zeros((5, 4)).at[jnp.array([3, 0, 1])].set(p["w"]),
          {"w": S(3, 4)}, (S(2, 5),), {"w": "i o"}),
    Model("added to zeros", lambda p, x: x @ jnp.zeros((5, 4)).at[1:4].add(p["w"]), {"w": S(3, 4)}, (S(2, 5),),
          {"w": "i o"}),
    Model("written over zeros", lambda p, x: x @ lax.dynamic_update_slice(jnp.zeros((5, 4)), p["w"], (1, 0)),
          {"w": S(3, 4)}, (S(2, 5),), {"w": "i o"}),
    Model("one row over another array", lambda p, x: x @ p["w"].at[2].set(p["row"]), {"w": S(3, 4), "row": S(4)},
          (S(2, 3),),
          {"w": "entry 2 of its axis 0, over which it is summed, is not used (moved.py:LINE)",
           "row": "no axis of it is summed over (moved.py:LINE)"}),
    Model("a running sum of inputs", lambda p, x: x @ jnp.cumsum(p["w"], 0), {"w": S(3, 4)}, (S(2, 3),), {"w": "i o"}),
    Model("a running sum of outputs", lambda p, x: x @ jnp.cumsum(p["w"], 1), {"w": S(3, 4)}, (S(2, 3),),
          {"w": "cumsum stands between it and the signal (moved.py:LINE)"}),
    Model("a running sum that is squared", lambda p, x: x @ jnp.cumsum(p["w"], 0) ** 2 + x @ jnp.cumsum(p["w"], 0),
          {"w": S(3, 4)}, (S(2, 3),), {"w": "cumsum stands between it and the signal (moved.py:LINE)"}),
    Model("a running sum times itself", lambda p, x: x @ times_itself(jnp.cumsum(p["w"], 0)),
          {"w": S(3, 4)}, (S(2, 3),), {"w": "cumsum stands between it and the signal (moved.py:LINE)"}),
    Model("a running sum by a loop", lambda p, x: x @ rows_added_up(p["w"])[1],
          {"w": S(3, 4)}, (S(2, 3),), {"w": "a loop changes it from step to step (moved.py:LINE)"}),
    Model("rows added up by a loop", lambda p, x: x @ rows_added_up(p["w"])[0],
          {"w": S(3, 4)}, (S(2, 4),), {"w": "a loop changes it from step to step (moved.py:LINE)"}),
    Model("rows multiplied by a loop", lambda p, x: x * lax.fori_loop(0, 3, lambda k, c: c * p["w"][k], jnp.ones(4)),
          {"w": S(3, 4)}, (S(2, 4),), {"w": "a loop changes it from step to step (moved.py:LINE)"}),
    Model("a look-up in copies of one row", lambda p, x: p["w"] + jnp.broadcast_to(p["w"], (5, 4))[x],
          {"w": S(4)}, (tokens(3),), {"w": "the forward pass returns it, and no signal meets it"}),
    Model("a convolution by windows", by_windows, {"w": S(4, 6)}, (S(2, 9, 6),), {"w": "... stack"}),
    Model("a convolution by rolls", by_rolls, {"w": S(6, 4)}, (S(2, 9, 6),), {"w": "stack ..."}),
    Model("some windows of a convolution", lambda p, x: by_windows(p, x, 3), {"w": S(4, 6)}, (S(2, 9, 6),), SOME),
    Model("scales of a signal and of two that are joined", behind_another, {"w": S(2, 6)}, (S(2, 8, 6), S(2, 1, 6)),
          {"w": "its products with the signal are added up: a scale or a weight (moved.py:LINE)"}),
    Model("scales of two signals", lambda p, x: x * p["w"][0] + jnp.tanh(x) * p["w"][1], {"w": S(2, 6)}, (S(9, 6),),
          {"w": "its products with the signal are added up: a scale or a weight (moved.py:LINE)"}),
    Model("tiled outputs", lambda p, x: x @ jnp.tile(p["w"], (1, 2)), {"w": S(3, 4)}, (S(2, 3),), {"w": "i o"}),
    Model("repeated outputs", lambda p, x: x @ jnp.repeat(p["w"], 2, axis=1), {"w": S(3, 4)}, (S(2, 3),), {"w": "i o"}),
    Model("a table for each", lambda p, x: jax.vmap(lambda e, j: e[j])(p["w"], x), {"w": S(2, 9, 4)}, (tokens(2, 3),),
          {"w": "stack o i"}),
    Model("a table for each, by number", lambda p, x: p["w"][jnp.arange(2), x], {"w": S(2, 9, 4)}, (tokens(2),),
          {"w": "stack o i"}),
    Model("a table for each, in rows", lambda p, x: p["w"][jnp.arange(2)[:, None], x], {"w": S(2, 9, 4)},
          (tokens(2, 3),), {"w": "stack o i"}),
    Model("a table behind a row of zeros", lambda p, x: jnp.pad(p["w"], ((1, 0), (0, 0)))[x], {"w": S(9, 4)},
          (tokens(3),), {"w": "o i"}),
    Model("unequal parts that are added up", lambda p, x, h: p["w"][:, :3] @ x + p["w"][:, 3:] @ h, {"w": S(5, 8)},
          (S(3), S(5)), {"w": "o i"}),
    Model("parts in each layer", layers_of_halves, {"w": S(2, 8, 5)}, (S(3), S(5)), {"w": "stack i o"}),
    Model("parts that are not added up", lambda p, x, h: (x @ p["w"][:3], h @ p["w"][3:]), {"w": S(8, 5)}, (S(3), S(5)),
          {"w": "parts of it along an input axis are used one by one (moved.py:LINE)"}),
    Model("some of the inputs", lambda p, x: x @ p["w"][:3], {"w": S(8, 5)}, (S(3),),
          {"w": "entries 3 to 7 of its axis 0, over which it is summed, are not used (moved.py:LINE)"}),
    Model("parts of unlike roles", lambda p, x: x @ p["w"][:12].reshape(4, 3) + p["w"][12:], {"w": S(15)}, (S(2, 4),),
          {"w": "its parts disagree: it is a weight (moved.py:LINE), a bias (moved.py:LINE)"}),
    Model("windows that overlap", lambda p, x: p["w"][:-1] @ x[:5] + p["w"][1:] @ x[5:], {"w": S(9, 5)}, (S(10),),
          {"w": "outputs of different entries of it are added up (moved.py:LINE)"}),
    Model("a diagonal", lambda p, x: x @ p["w"][jnp.arange(4), jnp.arange(4)], {"w": S(4, 4)}, (S(3, 4),),
          {"w": "4 of the 16 entries of its axes 0 and 1 are picked one by one (moved.py:LINE)"}),
    Model("a triangle", lambda p, x: x @ jnp.zeros((4, 4)).at[jnp.triu_indices(4)].set(p["w"]), {"w": S(10)},
          (S(3, 4),), {"w": "scatter stands between it and the signal (moved.py:LINE)"}),
    Model("transposed one by one", lambda p, x: jnp.einsum("ti,soi->tso", x, lax.map(jnp.transpose, p["w"])),
          {"w": S(3, 2, 4)}, (S(5, 2),), {"w": "o1 i o2"}),
    Model("parts of an axis of inputs and outputs", lambda p, x: sum_of_parts(p["w"].sum(1).reshape(3, 2), x),
          {"w": S(6, 5)}, (S(4, 3),),
          {"w": "parts of its axis 0, which is not only an input, are used one by one (moved.py:LINE)"}),
    Model("edges of a network, added up for each node", lambda p, x: edges(p, x).reshape(2, 5, 3).sum(2),
          {"w": S(15, 7)}, (S(2, 15, 7),), {"w": "(group i1) i2"}),
    Model("edges with the nodes inside, added up", lambda p, x: edges(p, x).reshape(2, 3, 5).sum(1),
          {"w": S(15, 7)}, (S(2, 15, 7),), {"w": "(i1 group) i2"}),
    Model("edges in the middle, added up", lambda p, x: edges(p, x).reshape(2, 2, 3, 2).sum(2),
          {"w": S(12, 7)}, (S(2, 12, 7),), {"w": "(group i1 group2) i2"}),
    Model("modes of a Fourier transform", fourier, {"w": S(3, 7, 4, 3)}, (S(2, 3, 8, 8),), {"w": "i o stack stack2"}),
)  # fmt: skip
"""Every row moves entries in another way; what is no pattern is the reason why the array can't be read."""
