"""Calibration on data: variances are measured here by other means than the walk over the jaxpr."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from flax import nnx
from jax import lax

import initax as ix
from tests.tables import KEY
from tests.traced import S

nn = eqx.nn
X = jax.random.normal(jax.random.key(3), (128, 32))


class Deep(eqx.Module):
    """Fifty layers and a loop over them, written so that every pre-activation can be had."""

    layers: list
    residual: bool = eqx.field(static=True)

    def pre_activations(self, x):
        found = []
        for layer in self.layers:
            found.append(layer.weight @ x)
            step = jax.nn.relu(found[-1] + layer.bias)
            x = x + step if self.residual else step
        return found

    def __call__(self, x):
        return self.pre_activations(x)[-1]


def deep(residual, depth=50, width=32):
    keys = jax.random.split(KEY, depth)
    return Deep([nn.Linear(width, width, key=key) for key in keys], residual)


def batched(model, x):
    return jax.vmap(model)(x)


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.slow(one_in=2)
def test_every_output_of_fifty_layers_has_the_target_variance(residual):
    model, report = ix.lsuv(deep(residual), X, forward=batched)
    assert len(report.layers) == 50
    for each in jax.vmap(model.pre_activations)(X):
        assert abs(float(jnp.var(each)) - 1) < 0.01
    assert [row.path for row in report.layers] == [f"layers.{at}.weight" for at in range(50)]


def test_the_report_says_what_was_measured_and_done():
    before = deep(False, depth=3)
    after, report = ix.lsuv(before, X, forward=batched, target=0.5)
    first = before.layers[0]
    row = report.layers[0]
    assert float(row.before) == pytest.approx(float(jnp.var(X @ first.weight.T)), rel=1e-4)
    assert float(row.factor) == pytest.approx((0.5 / float(row.before)) ** 0.5, rel=1e-5)
    assert np.allclose(after.layers[0].weight, first.weight * row.factor, rtol=1e-6)
    assert float(row.after) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("skip", ["layers.1", "layers.1.weight", "**.1.weight", ["layers.1.bias", "layers.1.weight"]])
def test_everything_else_is_the_same_object(skip):
    before = deep(False, depth=3)
    after, _ = ix.lsuv(before, X, forward=batched, skip=skip)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert all(old.bias is new.bias for old, new in zip(before.layers, after.layers, strict=True))
    assert after.layers[1].weight is before.layers[1].weight
    assert after.layers[0].weight is not before.layers[0].weight


def test_each_layer_of_a_scanned_stack_is_calibrated_on_its_own():
    def forward(params, x):
        def step(x, layer):
            out = x @ layer["w"]
            return jax.nn.relu(out + layer["b"]), out

        return lax.scan(step, x, params)[1]

    params = {"w": jax.random.normal(KEY, (20, 32, 32)), "b": jnp.zeros((20, 32))}
    with jax.numpy_rank_promotion("allow"):
        new, report = ix.lsuv(params, X, forward=forward)
        outputs = forward(new, X)
    assert report.layers[0].factor.shape == (20,)
    assert np.allclose(jnp.var(outputs, axis=(1, 2)), 1, atol=0.01)
    assert np.unique(report.layers[0].factor).size == 20


def test_a_stack_indexed_by_hand_is_calibrated_entry_by_entry():
    def forward(params, x):
        outputs = []
        for layer in range(4):
            outputs.append(x @ params["w"][layer])
            x = jnp.tanh(outputs[-1])
        return outputs

    params = {"w": 3 * jax.random.normal(KEY, (4, 32, 32))}
    new, report = ix.lsuv(params, X, forward=forward)
    assert [row.path for row in report.layers] == ["w[0]", "w[1]", "w[2]", "w[3]"]
    assert np.allclose([jnp.var(each) for each in forward(new, X)], 1, atol=0.01)


def test_a_nested_scan_calibrates_every_entry():
    def forward(params, x):
        def inner(x, w):
            return jnp.tanh(x @ w), x @ w

        def outer(x, w):
            return lax.scan(inner, x, w)

        return lax.scan(outer, x, params["w"].reshape(2, 3, 32, 32))[1]

    new, report = ix.lsuv({"w": jax.random.normal(KEY, (6, 32, 32))}, X, forward=forward)
    assert report.layers[0].factor.shape == (2, 3)
    assert np.allclose(jnp.var(forward(new, X), axis=(2, 3)), 1, atol=0.01)


def layer_of(p, i, x):
    return jnp.tanh(x @ p["w"][i] + p["b"][i])


STACKS = {
    "a counter": lambda p, x: lax.fori_loop(0, 4, lambda i, x: layer_of(p, i, x), x),
    "a counter with no fixed end": lambda p, x: lax.fori_loop(
        0, 4 + jnp.sum(x > 99), lambda i, x: layer_of(p, i, x), x
    ),
    "a counter going down": lambda p, x: lax.fori_loop(0, 4, lambda i, x: layer_of(p, 3 - i, x), x),
    "dynamic_index_in_dim": lambda p, x: lax.fori_loop(
        0,
        4,
        lambda i, x: jnp.tanh(x @ lax.dynamic_index_in_dim(p["w"], i, keepdims=False) + p["b"][i]),
        x,
    ),
    "a scan over numbers": lambda p, x: lax.scan(lambda x, i: (layer_of(p, i, x), None), x, jnp.arange(4))[0],
    "twice over": lambda p, x: lax.fori_loop(0, 8, lambda i, x: layer_of(p, i % 4, x), x),
    "a layer inside jit": lambda p, x: lax.fori_loop(
        0, 4, lambda i, x: jax.jit(lambda w, b, x: jnp.tanh(x @ w + b))(p["w"][i], p["b"][i], x), x
    ),
    "two counters": lambda p, x: lax.fori_loop(
        0,
        2,
        lambda i, x: lax.fori_loop(
            0, 2, lambda j, x: jnp.tanh(x @ p["w"].reshape(2, 2, 32, 32)[i, j] + p["b"].reshape(2, 2, 32)[i, j]), x
        ),
        x,
    ),
    "a scan, and a counter in it": lambda p, x: lax.scan(
        lambda x, row: (lax.fori_loop(0, 2, lambda j, x: jnp.tanh(x @ row[0][j] + row[1][j]), x), None),
        x,
        (p["w"].reshape(2, 2, 32, 32), p["b"].reshape(2, 2, 32)),
    )[0],
}
"""Loops over one stack of four layers, that pick each one's weight and bias by a counter."""
DOWN = ("a counter going down",)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.slow(one_in=4)
def test_weights_picked_by_a_loop_counter_are_calibrated_entry_by_entry(name):
    params = {"w": 3 * jax.random.normal(KEY, (4, 32, 32)), "b": jnp.ones((4, 32))}
    with jax.numpy_rank_promotion("allow"):
        new, report = ix.lsuv(params, X, forward=STACKS[name], center=True)
        x = X
        for layer in reversed(range(4)) if name in DOWN else range(4):
            outputs = x @ new["w"][layer]
            assert float(jnp.var(outputs)) == pytest.approx(1, abs=0.01)
            assert float(jnp.max(jnp.abs(jnp.mean(outputs + new["b"][layer], 0)))) < 1e-4
            x = layer_of(new, layer, x)
    assert report.layers[0].factor.size == 4
    assert report.skipped == {}


def test_entries_a_counter_never_comes_to_are_left_alone_and_named():
    params = {"w": 3 * jax.random.normal(KEY, (4, 32, 32))}
    new, report = ix.lsuv(params, X, forward=lambda p, x: lax.fori_loop(1, 3, lambda i, x: jnp.tanh(x @ p["w"][i]), x))
    assert report.skipped == {"w[0]": "it did not run on these inputs", "w[3]": "it did not run on these inputs"}
    assert np.array_equal(np.isnan(report.layers[0].before), [True, False, False, True])
    assert "nan" not in str(report)
    assert np.array_equal(new["w"][0], params["w"][0])
    assert np.array_equal(new["w"][3], params["w"][3])
    assert float(jnp.var(X @ new["w"][1])) == pytest.approx(1, abs=0.01)


PICKED = {
    "its entries are picked by the data": lambda p, x: x @ p["w"][jnp.argmax(x[0]) % 4],
    "rows of it are picked by constant indices": lambda p, x: jnp.einsum(
        "mnbi,mnio->mnbo", x.reshape(2, 2, 32, 32), p["w"][jnp.array([[2, 0], [3, 0]])]
    ).reshape(128, 32),
    "parts of its inputs are summed over one by one": lambda p, x: jnp.tanh(
        x[:, :20] @ p["w"][0, :20] + x[:, 20:] @ p["w"][0, 20:]
    ),
}


@pytest.mark.parametrize("reason", PICKED)
def test_entries_picked_otherwise_are_left_alone_with_a_reason(reason):
    params = {"w": jax.random.normal(KEY, (4, 32, 32)), "last": jnp.ones((32, 4))}
    new, report = ix.lsuv(params, X, forward=lambda p, x: PICKED[reason](p, x) @ p["last"])
    assert {path: why.partition(" (")[0] for path, why in report.skipped.items()} == {"w": reason}
    assert new["w"] is params["w"]


def test_a_stack_in_a_constant_order_is_calibrated_as_one():
    def forward(params, x):
        return jnp.einsum("nbi,nio->nbo", x.reshape(4, 32, 32), params["w"][jnp.array([2, 0, 3, 1])])

    new, report = ix.lsuv({"w": jax.random.normal(KEY, (4, 32, 32))}, X, forward=forward)
    assert [layer.path for layer in report.layers] == ["w"]
    assert float(jnp.var(forward(new, X))) == pytest.approx(1, rel=1e-4)


def test_a_stack_used_in_two_ways_is_left_alone():
    def forward(p, x):
        x = lax.fori_loop(0, 4, lambda i, x: jnp.tanh(x @ p["w"][i]), x)
        return x @ p["w"][0] @ p["last"]

    params = {"w": jax.random.normal(KEY, (4, 32, 32)), "last": jnp.ones((32, 4))}
    _, report = ix.lsuv(params, X, forward=forward)
    assert report.skipped == {"w": "its uses take different parts of it"}


@pytest.mark.parametrize("loop", ["unrolled", "scan", "while"])
def test_a_tied_weight_keeps_the_factor_of_its_first_use(loop):
    def forward(params, x):
        if loop == "unrolled":
            for _ in range(3):
                x = jnp.tanh(x @ params["w"])
            return x
        if loop == "scan":
            return lax.scan(lambda x, _: (jnp.tanh(x @ params["w"]), None), x, None, length=3)[0]
        return lax.while_loop(
            lambda state: state[0] < 3, lambda state: (state[0] + 1, jnp.tanh(state[1] @ params["w"])), (0, x)
        )[1]

    params = {"w": jax.random.normal(KEY, (32, 32))}
    new, report = ix.lsuv(params, X, forward=forward)
    factor = 1 / float(jnp.std(X @ params["w"]))
    assert float(report.layers[0].factor) == pytest.approx(factor, rel=1e-4)
    assert np.allclose(new["w"], params["w"] * factor, rtol=1e-4)


@pytest.mark.parametrize("loop", ["unrolled", "scan", "while"])
def test_a_recurrent_weight_is_calibrated_where_its_input_is_no_longer_zero(loop):
    steps = jax.random.normal(KEY, (4, 128, 32))

    def forward(params, steps):
        def step(state, x):
            return jnp.tanh(x @ params["i"] + state @ params["h"])

        state = 0 * steps[0]
        if loop == "unrolled":
            for x in steps:
                state = step(state, x)
            return state
        if loop == "scan":
            return lax.scan(lambda state, x: (step(state, x), None), state, steps)[0]
        return lax.while_loop(
            lambda held: held[0] < 4, lambda held: (held[0] + 1, step(held[1], steps[held[0]])), (0, state)
        )[1]

    params = {name: jax.random.normal(key, (32, 32)) for name, key in zip("ih", jax.random.split(KEY), strict=True)}
    new, report = ix.lsuv(params, steps, forward=forward)
    state = jnp.tanh(steps[0] @ new["i"])
    assert {row.path for row in report.layers} == {"i", "h"}
    assert report.skipped == {}
    assert float(jnp.var(state @ new["h"])) == pytest.approx(1, abs=0.01)
    before = next(row.before for row in report.layers if row.path == "h")
    assert float(before) == pytest.approx(float(jnp.var(state @ params["h"])), rel=1e-3)


def test_the_recurrent_weight_of_an_lstm_is_calibrated():
    cell = nnx.RNN(nnx.OptimizedLSTMCell(3, 8, rngs=nnx.Rngs(0)))
    _, report = ix.lsuv(cell, jax.random.normal(KEY, (16, 5, 3)))
    assert [row.path for row in report.layers] == ["cell.dense_i.kernel", "cell.dense_h.kernel"]
    assert [round(float(row.after), 4) for row in report.layers] == [1, 1]
    assert report.skipped == {}


def test_a_weight_whose_output_never_varies_is_left_alone():
    def forward(params, x):
        return x @ params["zero"] + (0 * x) @ params["unreached"] + x[:1] @ params["gate"] + x @ params["w"]

    params = {
        "zero": jnp.zeros((32, 1)),
        "unreached": jnp.ones((32, 1)),
        "gate": jnp.ones((32, 1)),
        "w": jax.random.normal(KEY, (32, 1)),
    }
    with jax.numpy_rank_promotion("allow"):
        new, report = ix.lsuv(params, X, forward=forward)
    assert [row.path for row in report.layers] == ["w"]
    assert report.skipped == {
        "zero": "its output is zero on these inputs",
        "unreached": "its output is zero on these inputs",
        "gate": "its output is one number, without variance, on these inputs",
    }
    assert all(new[name] is params[name] for name in ("zero", "unreached", "gate"))


def test_entries_of_a_stack_each_say_why_they_are_left_alone():
    weights = jax.random.normal(KEY, (4, 32, 32)).at[2].set(0)
    _, report = ix.lsuv(
        {"w": weights}, X, forward=lambda p, x: lax.fori_loop(1, 4, lambda i, x: x + jnp.tanh(x @ p["w"][i]), x)
    )
    assert report.skipped == {
        "w[0]": "it did not run on these inputs",
        "w[2]": "its output is zero on these inputs",
    }
    assert np.array_equal(np.isnan(report.layers[0].before), [True, False, True, False])


def test_branches_are_calibrated_as_they_run():
    def forward(params, x):
        return lax.cond(jnp.sum(x) > 1e9, lambda x: x @ params["a"], lambda x: x @ params["b"], x)

    params = {"a": jnp.ones((32, 32)), "b": 2 * jax.random.normal(KEY, (32, 32))}
    new, report = ix.lsuv(params, X, forward=forward)
    assert float(jnp.var(forward(new, X))) == pytest.approx(1, abs=0.01)
    assert np.array_equal(new["a"], params["a"])
    assert [row.path for row in report.layers] == ["b"]
    assert report.skipped == {"a": "it did not run on these inputs"}


def test_norms_convolutions_and_jitted_parts_are_played_as_they_are():
    keys = iter(jax.random.split(KEY, 4))
    net = nn.Sequential(
        [
            nn.Conv2d(3, 8, 3, key=next(keys)),
            nn.GroupNorm(2, 8),
            nn.Lambda(jax.jit(jax.nn.gelu)),
            nn.ConvTranspose2d(8, 4, 4, stride=2, key=next(keys)),
        ]
    )
    images = jax.random.normal(KEY, (8, 3, 10, 10))
    new, report = ix.lsuv(net, images, forward=batched)
    layers: list[Any] = list(new)
    first = jax.vmap(layers[0])(images) - layers[0].bias[None]
    last = jax.vmap(new)(images) - layers[3].bias[None]
    assert float(jnp.var(first)) == pytest.approx(1, abs=0.01)
    assert float(jnp.var(last)) == pytest.approx(1, abs=0.01)
    assert layers[1].weight is list(net)[1].weight
    assert report.skipped == {}


def test_centering_gives_every_unit_mean_zero():
    def forward(params, x):
        hidden = jnp.tanh(x @ params["w1"] + params["b1"])
        return hidden @ params["w2"] + params["b2"]

    shifted = X + 2
    weights = jax.random.split(KEY)
    params = {
        "w1": jax.random.normal(weights[0], (32, 16)),
        "b1": jnp.ones(16),
        "w2": jax.random.normal(weights[1], (16, 4)),
        "b2": jnp.zeros(4),
    }
    with jax.numpy_rank_promotion("allow"):
        new, _ = ix.lsuv(params, shifted, forward=forward, center=True)
        first = shifted @ new["w1"] + new["b1"]
        last = forward(new, shifted)
    assert float(jnp.max(jnp.abs(jnp.mean(first, 0)))) < 1e-4
    assert float(jnp.max(jnp.abs(jnp.mean(last, 0)))) < 1e-4
    assert float(jnp.var(shifted @ new["w1"])) == pytest.approx(1, abs=0.01)


def test_centering_reaches_stacks_and_convolutions():
    keys = jax.random.split(KEY, 2)
    scanned = nn.MLP(32, 32, 32, depth=4, scan=True, key=keys[0])
    new, _ = ix.lsuv(scanned, X, forward=batched, center=True)
    first, middle = new.layers[0], new.layers[1]
    hidden = jax.nn.relu(X @ first.weight.T + first.bias[None])
    outputs = hidden @ middle.weight[0].T + middle.bias[0][None]
    assert float(jnp.max(jnp.abs(jnp.mean(outputs, 0)))) < 1e-4
    conv = nn.Conv2d(3, 8, 3, key=keys[1])
    images = jax.random.normal(KEY, (8, 3, 10, 10)) + 1
    conv, _ = ix.lsuv(conv, images, forward=batched, center=True)
    assert float(jnp.max(jnp.abs(jnp.mean(jax.vmap(conv)(images), (0, 2, 3))))) < 1e-4


MOVED: dict[str, Callable[[Any], Any]] = {
    "twice": lambda c: 2 * c,
    "a third": lambda c: c / 3,
    "minus": lambda c: -c,
    "a number minus it": lambda c: 1 - 2 * c,
    "reversed": lambda c: c[::-1],
    "rolled, twice": lambda c: 2 * jnp.roll(c, 3),
    "transposed": lambda c: c.reshape(2, 8).T.reshape(16),
}
HELD: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a scale between": (
        lambda y, p: y * p["g"] + p["c"],
        "it is added to what is not the output of a calibrated weight as it is",
    ),
    "subtracted": (lambda y, p: y - p["c"], "it is subtracted, as a running mean would be"),
    "numbers": (lambda y, p: y + p["c"] * np.arange(16.0), "it is multiplied with what is not one known number"),
    "a mask": (
        lambda y, p: y + jnp.where(np.arange(16) > 3, p["c"], 0),
        "it is multiplied with what is not one known number",
    ),
    "two signs": (lambda y, p: y + (p["c"] - 3 * p["c"]), "it is added to the same output several times"),
    "repeated": (
        lambda y, p: y + jnp.tile(p["c"][:8], 2),
        "its entries are repeated along the outputs, or stand beside others",
    ),
    "added twice": (lambda y, p: y + p["c"] + p["c"], "it is added to the same output several times"),
}


def biased(change):
    """A layer with a bias that is changed on its way, and its arrays."""
    params = {"w": np.asarray(jax.random.normal(KEY, (32, 16))), "c": np.arange(16, dtype=np.float32)}
    params["g"] = np.full(16, 2, np.float32)
    return params, lambda p, x: change(x @ p["w"], p)


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.slow(one_in=3)
def test_centering_goes_through_known_numbers_and_orders(name):
    params, forward = biased(lambda y, p: y + MOVED[name](p["c"]) + 0 * p["g"])
    with jax.numpy_rank_promotion("allow"):
        new, report = ix.lsuv(params, X + 2, forward=forward, center=True)
        assert "c" not in report.skipped
        assert float(jnp.max(jnp.abs(jnp.mean(forward(new, X + 2), 0)))) < 1e-4


@pytest.mark.parametrize("name", HELD)
@pytest.mark.slow(one_in=3)
def test_a_bias_that_can_not_be_set_is_left_alone_with_a_reason(name):
    change, reason = HELD[name]
    params, forward = biased(change)
    with jax.numpy_rank_promotion("allow"):
        new, report = ix.lsuv(params, X, forward=forward, center=True)
        assert "c" not in ix.lsuv(params, X, forward=forward)[1].skipped
    assert new["c"] is params["c"]
    assert report.skipped["c"].startswith(reason)


def test_a_bias_that_is_skipped_or_frozen_is_not_set():
    with jax.numpy_rank_promotion("allow"):
        params, forward = biased(lambda y, p: y + p["c"] + 0 * p["g"])
        new, report = ix.lsuv(params, X + 2, forward=forward, center=True, skip="c")
        assert new["c"] is params["c"]
        assert report.skipped["c"] == "skipped as asked"
    layer = nn.Linear(32, 16, key=KEY)
    frozen = eqx.tree_at(lambda layer: layer.bias, layer, replace_fn=paramax.NonTrainable)
    new, report = ix.lsuv(frozen, X + 2, forward=lambda model, x: batched(paramax.unwrap(model), x), center=True)
    assert np.array_equal(new.bias.tree, layer.bias)
    assert any("bias" in path for path in report.skipped)


def test_a_tolerance_leaves_what_is_close():
    model = deep(False, depth=1)
    variance = float(jnp.var(X @ model.layers[0].weight.T))
    kept, near = ix.lsuv(model, X, forward=batched, target=variance * 1.05, tolerance=0.1)
    _, far = ix.lsuv(model, X, forward=batched, target=variance * 1.25, tolerance=0.1)
    assert float(near.layers[0].factor) == 1
    assert kept.layers[0].weight is model.layers[0].weight
    assert float(far.layers[0].factor) == pytest.approx(1.25**0.5, rel=1e-4)


def test_low_precision_is_measured_in_float32():
    params = {"w": jax.random.normal(KEY, (32, 32), jnp.bfloat16)}
    new, _ = ix.lsuv(params, X.astype(jnp.bfloat16), forward=lambda p, x: x @ p["w"])
    assert new["w"].dtype == jnp.bfloat16
    assert float(jnp.var((X.astype(jnp.bfloat16) @ new["w"]).astype(jnp.float32))) == pytest.approx(1, abs=0.01)


def test_what_has_no_one_weight_is_left_alone_with_a_reason():
    def forward(params, x):
        low = x @ (params["w"] + params["b"] @ params["a"])
        return low @ jnp.exp(params["e"]) @ params["t"] + params["t"][0] * low @ params["t"]

    params = {
        **{name: jax.random.normal(KEY, shape) for name, shape in {"w": (32, 8), "a": (2, 8), "b": (32, 2)}.items()},
        "e": jnp.zeros((8, 8)),
        "t": jax.random.normal(KEY, (8, 8)),
        "last": jnp.ones((8, 8)),
    }
    with jax.numpy_rank_promotion("allow"):
        new, report = ix.lsuv(params, X, forward=lambda p, x: forward(p, x) @ p["last"])
    assert [row.path for row in report.layers] == ["last"]
    assert {path: reason.partition(" (")[0] for path, reason in report.skipped.items()} == {
        "a": "it shares its operation with other parameters",
        "b": "it shares its operation with other parameters",
        "e": "exp stands between it and the signal",
        "t": "it is used as something else than a weight too",
        "w": "it shares its operation with other parameters",
    }
    assert new["w"] is params["w"]


def test_the_report_prints_as_a_table():
    _, report = ix.lsuv(
        {"a": jnp.eye(2), "b": 2 * jnp.eye(2)},
        jnp.array([[1.0, -1.0], [-1.0, 1.0]]),
        forward=lambda p, x: x @ p["a"] @ p["b"],
        skip="a",
    )
    assert str(report) == (
        "calibrated: 1\n\n"
        " weight   before   after   factor\n"
        " ────────────────────────────────\n"
        " b             4       1      0.5\n\n"
        "left alone: 1\n\n"
        " weight   why\n"
        " ─────────────────────────\n"
        " a        skipped as asked"
    )


ERRORS = {
    "a target of zero": (
        lambda: ix.lsuv(deep(False, 1), X, forward=batched, target=0.0),
        ix.InitaxError,
        "lsuv: target is a variance and must be positive, not 0.0.",
    ),
    "abstract inputs": (
        lambda: ix.lsuv(deep(False, 1), S(4, 32), forward=batched),
        ix.InitaxError,
        "lsuv measures on real inputs and weights; some are abstract.\n  pass arrays",
    ),
    "nothing to calibrate": (
        lambda: ix.lsuv({"w": jnp.ones((3, 3))}, jnp.ones(3), forward=lambda p, x: (p["w"] + p["w"].T) @ x),
        ix.InitaxError,
        "lsuv finds no weight to calibrate.\n  w: it shares its operation with other parameters",
    ),
    "a selector of nothing": (
        lambda: ix.lsuv(deep(False, 1), X, forward=batched, skip="Linaer"),
        ix.RuleError,
        'selector "Linaer" matches no layer.\n  layers: Linear (1)\n  did you mean "Linear"?',
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_is_wrong(name):
    run, kind, text = ERRORS[name]
    with pytest.raises(kind) as caught:
        run()
    assert str(caught.value) == text


MASK = jnp.tri(32, dtype=bool)
BEHIND: dict[str, Callable[[Any], Any]] = {
    "softplus": lambda weight: paramax.Parameterize(jax.nn.softplus, weight),
    "abs": lambda weight: paramax.Parameterize(jnp.abs, weight),
    "mask of softplus": lambda weight: paramax.Parameterize(jnp.where, MASK, BEHIND["softplus"](weight), 0),
    "weight norm": paramax.WeightNormalization,
}


def wrapped(wrap):
    first, second = (nn.Linear(32, 32, key=key) for key in jax.random.split(KEY))
    return [first, eqx.tree_at(lambda layer: layer.weight, second, wrap(second.weight))]


def unwrapped(model, x):
    first, second = paramax.unwrap(model)
    return jax.vmap(lambda x: second(first(x)))(x)


@pytest.mark.parametrize("name", BEHIND)
def test_a_weight_behind_a_map_is_left_alone_and_the_map_is_named(name):
    before = wrapped(BEHIND[name])
    after, report = ix.lsuv(before, X, forward=unwrapped)
    (reason,) = report.skipped.values()
    assert reason == f"behind {name}: only a weight stored as it is, or masked, can be multiplied"
    assert [layer.path for layer in report.layers] == ["0.weight"]
    assert eqx.tree_equal(after[1], before[1])


EYE = np.eye(32, dtype=np.float32)
AFFINE: dict[str, Callable[[Any], Any]] = {
    "a sum": lambda w: w + 3 * EYE,
    "a difference": lambda w: EYE - w,
    "a choice": lambda w: jnp.where(EYE > 0, 9.0, w),
    "a join": lambda w: jnp.concatenate([w[:, :16], jnp.ones((32, 16))], 1),
    "padding": lambda w: jnp.pad(w[:, :16], ((0, 0), (0, 16)), constant_values=2),
    "a block": lambda w: jnp.asarray(w).at[:, :8].set(3.0),
    "a branch": lambda w: lax.cond(w.shape[0] > 8, lambda: w, lambda: jnp.full(w.shape, 2.0)),
}
LINEAR: dict[str, Callable[[Any], Any]] = {
    "zeros": lambda w: w + jnp.zeros((2000, 2000))[:32, :32],
    "a mask": lambda w: jnp.where(EYE > 0, 0.0, w),
    "a triangle": jnp.tril,
    "a number": lambda w: w / 8,
    "minus": lambda w: -w,
    "padding": lambda w: jnp.pad(w[:, :16], ((0, 0), (0, 16))),
}


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.slow(one_in=3)
def test_a_weight_beside_constants_is_left_alone(name):
    """A factor of the weight is none of the output, which is checked by the outputs of twice the weight."""
    params = {"w": np.asarray(jax.random.normal(KEY, (32, 32))), "last": np.ones((32, 4), np.float32)}
    if name != "a branch":
        twice = AFFINE[name](2 * params["w"])
        assert not np.allclose(twice, 2 * AFFINE[name](params["w"]))
    new, report = ix.lsuv(params, X, forward=lambda p, x: x @ AFFINE[name](p["w"]) @ p["last"])
    assert new["w"] is params["w"]
    assert list(report.skipped) == ["w"]
    assert "constants are added to it, or stand among its entries" in report.skipped["w"]


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.slow(one_in=3)
def test_a_weight_beside_zeros_is_calibrated(name):
    params = {"w": np.asarray(jax.random.normal(KEY, (32, 32)))}
    new, report = ix.lsuv(params, X, forward=lambda p, x: x @ LINEAR[name](p["w"]))
    assert report.skipped == {}
    assert float(jnp.var(X @ LINEAR[name](new["w"]))) == pytest.approx(1, rel=1e-4)


def test_a_weight_that_is_rounded_is_left_alone():
    @jax.custom_jvp
    def rounded(w):
        return jnp.round(w)

    rounded.defjvp(lambda primals, tangents: (rounded(*primals), tangents[0]))
    params = {"w": np.asarray(jax.random.normal(KEY, (32, 32))), "last": np.ones((32, 4), np.float32)}
    new, report = ix.lsuv(params, X, forward=lambda p, x: x @ rounded(p["w"]) @ p["last"])
    assert report.skipped == {"w": "it is rounded where it is used: a factor would not go through"}
    assert new["w"] is params["w"]


def test_a_masked_weight_is_scaled_and_keeps_its_mask():
    before = wrapped(lambda weight: paramax.Parameterize(jnp.where, MASK, weight, 0))
    after, report = ix.lsuv(before, X, forward=unwrapped)
    assert [layer.path for layer in report.layers] == ["0.weight", "1.weight.args.1"]
    assert report.skipped == {}
    np.testing.assert_array_equal(after[1].weight.args[0], MASK)
    hidden = jax.vmap(after[0])(X)
    assert float(jnp.var(hidden @ paramax.unwrap(after)[1].weight.T)) == pytest.approx(1, abs=1e-5)


def test_a_frozen_weight_is_left_alone():
    before = wrapped(paramax.NonTrainable)
    after, report = ix.lsuv(before, X, forward=unwrapped)
    assert report.skipped == {"1.weight.tree": "frozen by NonTrainable"}
    assert after[1].weight.tree is before[1].weight.tree


def test_a_weight_normalized_by_the_forward_pass_itself_is_left_alone():
    def normalized(model, x):
        return x @ (model["v"] / jnp.linalg.norm(model["v"], axis=0, keepdims=True)) @ model["w"]

    model = {"v": jnp.ones((32, 16)), "w": jnp.ones((16, 8))}
    _, report = ix.lsuv(model, X, forward=normalized)
    assert report.skipped == {"v": "it is normalized: its scale has no effect"}
