"""Odd programs: what lsuv, signal_propagation and auto do not measure they name, and no traceback is ours."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import initax as ix

PartitionSpec = jax.sharding.PartitionSpec


def N(*shape):
    return jnp.asarray(np.random.default_rng([7, *shape]).normal(size=shape), jnp.float32)


X = N(8, 6)


def steps(p, x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1] @ p["w"])), (0, x))[1]


def entries(p, x):
    def step(s):
        return s[0] + 1, jnp.tanh(s[1] @ lax.dynamic_index_in_dim(p["w"], s[0], keepdims=False))

    return lax.while_loop(lambda s: s[0] < 3, step, (0, x))[1]


@jax.custom_vjp
def own_vjp(x, w):
    return x @ w


own_vjp.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))


@jax.custom_jvp
def own_jvp(x, w):
    return x @ w


own_jvp.defjvp(lambda p, t: (p[0] @ p[1], t[0] @ p[1] + p[0] @ t[1]))

PROGRAMS = {
    "vmap stack": ({"w": N(3, 6, 6)}, lambda p, x: jax.vmap(lambda w: jnp.tanh(x @ w))(p["w"]).sum(0)),
    "ensemble": ({"w": N(3, 6, 6), "v": N(3, 6, 6)}, lambda p, x: jax.vmap(lambda q: jnp.tanh(x @ q["w"]) @ q["v"])(p)),
    "vmap in loop": (
        {"w": N(4, 3, 6, 6)},
        lambda p, x: lax.scan(
            lambda c, w: (jax.vmap(lambda w, c: jnp.tanh(c @ w))(w, c), None), jnp.stack([x] * 3), p["w"]
        )[0],
    ),
    "cond": ({"w": N(6, 6), "v": N(6, 6)}, lambda p, x: lax.cond(x.sum() > 0, lambda: x @ p["w"], lambda: x @ p["v"])),
    "cond both": ({"w": N(6, 6)}, lambda p, x: lax.cond(x.sum() > 0, lambda: x @ p["w"], lambda: jnp.tanh(x @ p["w"]))),
    "cond stack": (
        {"w": N(3, 6, 6)},
        lambda p, x: lax.scan(
            lambda c, w: (lax.cond(c.sum() > 0, lambda: jnp.tanh(c @ w), lambda: c), None), x, p["w"]
        )[0],
    ),
    "cond choosing weight": (
        {"w": N(6, 6), "v": N(6, 6)},
        lambda p, x: x @ lax.cond(x.sum() > 0, lambda: p["w"], lambda: p["v"]),
    ),
    "switch": (
        {"w": N(3, 6, 6)},
        lambda p, x: lax.switch(
            jnp.int32(x.sum() > 0), [lambda: x @ p["w"][0], lambda: x @ p["w"][1], lambda: x @ p["w"][2]]
        ),
    ),
    "while": ({"w": N(6, 6)}, steps),
    "while stack": ({"w": N(3, 6, 6)}, entries),
    "fori": ({"w": N(3, 6, 6)}, lambda p, x: lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c @ p["w"][i]), x)),
    "fori rev": ({"w": N(3, 6, 6)}, lambda p, x: lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c @ p["w"][2 - i]), x)),
    "while in while": (
        {"w": N(6, 6)},
        lambda p, x: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, steps(p, s[1])), (0, x))[1],
    ),
    "cond in while cond": (
        {"w": N(6, 6)},
        lambda p, x: lax.while_loop(lambda s: jnp.tanh(s @ p["w"]).sum() < 3, lambda s: s + 1.0, x),
    ),
    "remat": (
        {"w": N(6, 6), "v": N(6, 6)},
        lambda p, x: jax.checkpoint(lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"])(p, x),
    ),
    "remat scan": (
        {"w": N(3, 6, 6)},
        lambda p, x: lax.scan(jax.checkpoint(lambda c, w: (jnp.tanh(c @ w), None)), x, p["w"])[0],
    ),
    "joined": ({"w": N(6, 6), "v": N(6, 6)}, lambda p, x: x @ jnp.concatenate([p["w"], p["v"]], 1)),
    "joined in": (
        {"w": N(6, 6), "v": N(6, 6)},
        lambda p, x: jnp.concatenate([x, x], 1) @ jnp.concatenate([p["w"], p["v"]], 0),
    ),
    "stacked then scan": (
        {"w": N(6, 6), "v": N(6, 6)},
        lambda p, x: lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, jnp.stack([p["w"], p["v"]]))[0],
    ),
    "stacked then vmap": (
        {"w": N(6, 6), "v": N(6, 6)},
        lambda p, x: jax.vmap(lambda w: x @ w)(jnp.stack([p["w"], p["v"]])),
    ),
    "twice": ({"w": N(6, 6)}, lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"]),
    "tied T": ({"w": N(6, 4)}, lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T),
    "w@v": ({"w": N(6, 6), "v": N(6, 6)}, lambda p, x: x @ (p["w"] @ p["v"])),
    "x@w+x@v": ({"w": N(6, 6), "v": N(6, 6)}, lambda p, x: x @ (p["w"] + p["v"])),
    "custom_vjp": ({"w": N(6, 6)}, lambda p, x: own_vjp(x, p["w"])),
    "custom_jvp": ({"w": N(6, 6)}, lambda p, x: own_jvp(x, p["w"])),
    "jit": ({"w": N(6, 6)}, lambda p, x: jax.jit(lambda w: jax.jit(lambda w: x @ w)(w))(p["w"])),
    "grad in": (
        {
            "w": N(6, 6),
            "v": N(
                6,
            ),
        },
        lambda p, x: jax.vmap(jax.grad(lambda x: jnp.tanh(x @ p["w"]) @ p["v"]))(x),
    ),
    "jvp in": ({"w": N(6, 6)}, lambda p, x: jax.jvp(lambda x: jnp.tanh(x @ p["w"]), (x,), (x,))[1]),
    "linear solve": ({"w": N(6, 6)}, lambda p, x: jnp.linalg.solve(p["w"] + 6 * jnp.eye(6), x.T)),
    "expm": ({"w": N(6, 6)}, lambda p, x: x @ jax.scipy.linalg.expm(p["w"] * 0.1)),
    "lookup": ({"t": N(10, 6), "w": N(6, 6)}, lambda p, x: p["t"][jnp.arange(8)] @ p["w"]),
    "lookup attend": ({"t": N(10, 6)}, lambda p, x: jnp.tanh(p["t"][jnp.arange(8)]) @ p["t"].T),
    "map": ({"w": N(6, 6)}, lambda p, x: lax.map(lambda r: jnp.tanh(r @ p["w"]), x)),
    "assoc": ({"w": N(6, 6)}, lambda p, x: lax.associative_scan(jnp.add, x @ p["w"])),
    "conv": (
        {"w": N(4, 6, 3)},
        lambda p, x: lax.conv_general_dilated(x[None].transpose(0, 2, 1), p["w"], (1,), "SAME"),
    ),
    "complex": ({"w": lax.complex(N(6, 6), N(6, 6))}, lambda p, x: x.astype(jnp.complex64) @ p["w"]),
    "fft": ({"w": N(6, 6)}, lambda p, x: jnp.fft.fft(x @ p["w"]).real),
    "int w": ({"w": N(6, 6), "q": jnp.ones((6, 6), jnp.int8)}, lambda p, x: x @ p["w"] @ p["q"].astype(jnp.float32)),
    "random inside": (
        {"w": N(6, 6)},
        lambda p, x: (x * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape)) @ p["w"],
    ),
    "empty": ({"w": N(6, 6), "v": N(0, 6)}, lambda p, x: x @ p["w"]),
    "no examples": ({"w": N(6, 6)}, lambda p, x: x[:0] @ p["w"]),
    "scan length0": (
        {"w": N(6, 6), "v": N(6, 6)},
        lambda p, x: lax.scan(lambda c, _: (c @ p["w"], None), x, None, length=0)[0] @ p["v"],
    ),
    "scan xs none": (
        {"w": N(6, 6)},
        lambda p, x: lax.scan(lambda c, _: (jnp.tanh(c @ p["w"]), None), x, None, length=3)[0],
    ),
    "scan reverse": (
        {"w": N(3, 6, 6)},
        lambda p, x: lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, p["w"], reverse=True)[0],
    ),
    "scan unroll": (
        {"w": N(4, 6, 6)},
        lambda p, x: lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, p["w"], unroll=2)[0],
    ),
    "scan over x, w const": (
        {"w": N(6, 6)},
        lambda p, x: lax.scan(lambda c, r: (jnp.tanh(r @ p["w"]), c), jnp.zeros(6), x)[1],
    ),
    "carry weight": (
        {"w": N(6, 6)},
        lambda p, x: lax.scan(lambda c, r: ((c[0] * 0.9, jnp.tanh(c[1] @ c[0])), None), (p["w"], x), None, length=3)[0][
            1
        ],
    ),
    "print": ({"w": N(6, 6)}, lambda p, x: (jax.debug.callback(lambda v: None, x), x @ p["w"])[1]),
    "pure_callback": (
        {"w": N(6, 6)},
        lambda p, x: jax.pure_callback(lambda v: v, jax.ShapeDtypeStruct(x.shape, x.dtype), x) @ p["w"],
    ),
    "shard_map": (
        {"w": N(6, 6)},
        lambda p, x: jax.shard_map(
            lambda x, w: x @ w,
            mesh=jax.make_mesh((1,), ("a",)),
            in_specs=(PartitionSpec("a"), PartitionSpec()),
            out_specs=PartitionSpec("a"),
        )(x, p["w"]),
    ),
    "custom root": (
        {"w": N(6, 6)},
        lambda p, x: lax.custom_root(
            lambda y: y - jnp.tanh(x @ p["w"]), x, lambda f, y0: jnp.tanh(x @ p["w"]), lambda g, y: y
        ),
    ),
}


def weights(params):
    """Names of what may be a weight."""
    return {
        name
        for name, array in params.items()
        if array.size and array.ndim > 1 and jnp.issubdtype(array.dtype, jnp.inexact)
    }


def bare(path):
    return path.partition("[")[0].partition("#")[0]


def calibrated(params, forward):
    _, report = ix.lsuv(params, X, forward=forward)
    assert str(report)
    return {bare(layer.path) for layer in report.layers} | set(map(bare, report.skipped))


def propagated(params, forward):
    report = ix.signal_propagation(params, X, forward=forward)
    assert str(report)
    return {bare(path) for each in report.signals for path in each.path.split(" + ")} | set(report.unmeasured)


def planned(params, forward):
    plan = ix.plan(params, {"*": "auto"}, inputs=X, forward=forward)
    rows: list[Any] = [*plan.draws, *plan.kept]
    return {each.parameter.path for each in rows}


@pytest.mark.parametrize("verb", [calibrated, propagated, planned], ids=lambda verb: verb.__name__)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.slow(one_in=7)
def test_every_weight_is_measured_or_named(name, verb):
    params, forward = PROGRAMS[name]
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore", ix.InitaxWarning)
        try:
            named = verb(params, forward)
        except ix.InitaxError as error:
            named = {path for path in params if path in str(error) or "finds no" in str(error)}
    assert weights(params) <= named


def test_what_a_loop_of_no_steps_carries_reaches_what_is_behind_it():
    params, forward = PROGRAMS["scan length0"]
    plan = ix.plan({"v": params["v"]}, {"*": "auto"}, inputs=X, forward=lambda p, x: forward({**params, **p}, x))
    assert [each.parameter.input_second_moment for each in plan.draws] == [pytest.approx(1)]


def test_without_examples_nothing_is_measured():
    params, forward = PROGRAMS["no examples"]
    report = ix.signal_propagation(params, X, forward=forward)
    assert (report.signals, report.unmeasured) == ((), ("w",))
