"""Signal propagation: every number recomputed by other means."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import initax as ix
from tests.tables import KEY
from tests.traced import S

nn = eqx.nn
X = np.asarray(jax.random.normal(jax.random.key(3), (16, 6)))


def batched(model, x):
    return jax.vmap(model)(x)


def mean_square(y):
    return jnp.mean(y**2)


def mlp(**kwargs):
    return nn.MLP(6, 3, 8, depth=2, key=KEY, **kwargs)


def by_hand(layer, x):
    """The pre-activations of one layer and the numbers of the report, in NumPy."""
    y = x @ np.asarray(layer.weight).T + np.asarray(layer.bias)
    pairs = [
        np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other))
        for one, other in itertools.combinations(y, 2)
    ]
    return y, {
        "mean": y.mean(),
        "std": y.std(),
        "mean_square": (y**2).mean(),
        "dead": (y.max(0) < 0).mean(),
        "saturated": (np.abs(y) > 3).mean(),
        "correlation": np.mean(pairs),
    }


def test_every_number_is_what_numpy_says():
    model = ix.reinit(mlp(), {"*": ("normal", {"stddev": 1.0})}, jax.random.key(5))
    dying = model.layers[0].bias.at[:2].add(-9)
    model = eqx.tree_at(lambda each: each.layers[0].bias, model, dying)
    report = ix.signal_propagation(model, X, forward=batched, loss=mean_square)
    gradient = eqx.filter_grad(lambda each: mean_square(batched(each, X)))(model)
    x = X
    dead = 0
    for layer, slope, signal in zip(model.layers, gradient.layers, report.signals, strict=True):
        y, numbers = by_hand(layer, x)
        for name, value in numbers.items():
            assert float(getattr(signal, name)[0]) == pytest.approx(value, rel=1e-4, abs=1e-5), name
        assert float(signal.gradient_norm[0]) == pytest.approx(float(jnp.linalg.norm(slope.weight)), rel=1e-4)
        assert float(signal.gradient_variance[0]) == pytest.approx(float(jnp.var(slope.weight)), rel=1e-3)
        dead += numbers["dead"]
        x = np.maximum(y, 0)
    assert dead > 0
    assert [signal.path for signal in report.signals] == [f"layers.{at}.weight" for at in range(3)]


def test_steps_of_a_scan_are_measured_one_by_one_as_if_unrolled():
    params = {"a": jax.random.normal(KEY, (3, 6, 6)), "b": jax.random.normal(jax.random.key(1), (3, 6, 6))}

    def step(x, layer):
        return jnp.tanh(jnp.tanh(x @ layer["a"]) @ layer["b"]), None

    def unrolled(params, x):
        for at in range(3):
            x, _ = step(x, {name: array[at] for name, array in params.items()})
        return x

    scanned = ix.signal_propagation(params, X, forward=lambda p, x: lax.scan(step, x, p)[0], loss=mean_square)
    plain = ix.signal_propagation(params, X, forward=unrolled, loss=mean_square)
    order = [f"{name}[{at}]" for at in range(3) for name in "ab"]
    assert [signal.path for signal in scanned.signals] == order
    assert [signal.path for signal in plain.signals] == order
    for one, other in zip(scanned.to_dict().values(), plain.to_dict().values(), strict=True):
        for name in one:
            assert np.allclose(one[name], other[name], rtol=1e-3, atol=1e-6), name


def test_several_keys_at_once_equal_the_single_ones():
    rules, keys = {"*": "he_normal"}, jax.random.split(jax.random.key(9), 4)
    report = ix.signal_propagation(mlp(), X, forward=batched, loss=mean_square, rules=rules, keys=keys)
    for place, key in enumerate(keys):
        alone = ix.signal_propagation(ix.reinit(mlp(), rules, key), X, forward=batched, loss=mean_square)
        for one, other in zip(report.signals, alone.signals, strict=True):
            assert float(one.std[place]) == pytest.approx(float(other.std[0]), rel=1e-4)
            assert float(one.gradient_norm[place]) == pytest.approx(float(other.gradient_norm[0]), rel=1e-3)
    assert report.signals[0].std.shape == (4,)
    assert len(set(report.signals[0].std.tolist())) == 4


def test_channels_of_a_convolution_are_its_units():
    conv = nn.Conv2d(2, 4, 3, key=KEY)
    conv = eqx.tree_at(lambda each: each.bias, conv, jnp.array([-99.0, 0, 0, 0]).reshape(4, 1, 1))
    (signal,) = ix.signal_propagation(conv, np.ones((5, 2, 6, 6), np.float32), forward=batched).signals
    assert float(signal.dead[0]) >= 0.25
    assert float(signal.dead[0]) % 0.25 == 0
    assert float(signal.correlation[0]) == pytest.approx(1, abs=1e-5)


def chosen(x, n, w, v):
    """One step, in one of two branches."""
    return lax.cond(n % 2 == 0, lambda x: jnp.tanh(x @ w), lambda x: jnp.tanh(x @ v), x)


LOOPS = {
    "while": lambda p, x: lax.while_loop(
        lambda s: s[0] < 3 + jnp.sum(x > 99), lambda s: (s[0] + 1, jnp.tanh(s[1] @ p["w"])), (0, x)
    )[1],
    "a branch": lambda p, x: chosen(x, jnp.sum(x > 99), p["w"], p["v"]),
    "a branch in a scan": lambda p, x: lax.scan(lambda x, n: (chosen(x, n, p["w"], p["v"]), None), x, jnp.arange(3))[0],
    "a branch in a while": lambda p, x: lax.while_loop(
        lambda s: s[0] < 3, lambda s: (s[0] + 1, chosen(s[1], s[0], p["w"], p["v"])), (jnp.sum(x > 99), x)
    )[1],
    "a while in a scan": lambda p, x: lax.scan(
        lambda x, n: (
            lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, jnp.tanh(s[1] @ p["w"])), (jnp.sum(x > 99), x))[1],
            None,
        ),
        x,
        jnp.arange(3),
    )[0],
}
WRITTEN_OUT = {
    "while": {"w[0]": "w", "w[1]": "w", "w[2]": "w"},
    "a branch": {"w": "w"},
    "a branch in a scan": {"w[0]": "w", "v[1]": "v", "w[2]": "w"},
    "a branch in a while": {"w[0]": "w", "v[1]": "v", "w[2]": "w"},
    "a while in a scan": {"w[1, 0]": "w", "w[2, 0]": "w", "w[2, 1]": "w"},
}
"""For each model: what its rows are called → the weight of that step, in order; each step is tanh of a product."""


@pytest.mark.parametrize("name", LOOPS)
def test_loops_and_branches_are_measured_step_by_step_as_they_run(name):
    params = {"w": jax.random.normal(KEY, (6, 6)), "v": jax.random.normal(jax.random.key(1), (6, 6))}
    report = ix.signal_propagation(params, X, forward=LOOPS[name])
    assert [signal.path for signal in report.signals] == list(WRITTEN_OUT[name])
    assert report.unmeasured == (("v",) if name == "a branch" else ())
    x = X
    for signal, weight in zip(report.signals, WRITTEN_OUT[name].values(), strict=True):
        y = x @ np.asarray(params[weight])
        assert float(signal.mean_square[0]) == pytest.approx((y**2).mean(), rel=1e-4)
        assert float(signal.std[0]) == pytest.approx(y.std(), rel=1e-4)
        x = np.tanh(y)


def test_what_runs_with_some_keys_only_is_measured_with_those():
    def forward(p, x):
        positive = p["w"][0, 0] > 0
        x = lax.cond(positive, lambda x: x @ p["w"], lambda x: x @ p["v"], x)
        return lax.while_loop(lambda s: s[0] < jnp.where(positive, 3, 2), lambda s: (s[0] + 1, s[1] @ p["u"]), (0, x))[
            1
        ]

    params, keys = {name: jnp.eye(6) for name in "uvw"}, jax.random.split(KEY, 8)
    rules = {"*": "he_normal"}
    report = ix.signal_propagation(params, X, forward=forward, rules=rules, keys=keys)
    alone = [ix.reinit(params, rules, key, inputs=X, forward=forward) for key in keys]
    positive = np.array([float(each["w"][0, 0]) > 0 for each in alone])
    assert 0 < positive.sum() < 8
    rows = {signal.path: signal for signal in report.signals}
    assert list(rows) == ["v", "w", "u[0]", "u[1]", "u[2]"]
    for path, ran in {"v": ~positive, "w": positive, "u[0]": positive | True, "u[2]": positive}.items():
        assert np.array_equal(rows[path].ran, ran), path
        assert np.array_equal(np.isnan(rows[path].mean_square), ~ran), path
    for own, found in zip(alone, rows["w"].mean_square, strict=True):
        if float(own["w"][0, 0]) > 0:
            assert float(found) == pytest.approx(float(jnp.mean((X @ own["w"]) ** 2)), rel=1e-4)
    assert rows["w"].median("mean_square") == pytest.approx(float(np.median(rows["w"].mean_square[positive])))
    report.assert_healthy(mean_square=(0.01, 100), saturated=1)
    assert np.isfinite(report.plot().axes[0].lines[0].get_ydata()).all()


def test_what_never_runs_is_named():
    report = ix.signal_propagation(
        {"w": jnp.eye(6)},
        X,
        forward=lambda p, x: lax.while_loop(lambda s: s[0] < jnp.sum(x > 99), lambda s: (s[0], s[1] @ p["w"]), (0, x)),
    )
    assert report.signals == ()
    assert str(report) == "0 operations\n\nnot measured: w"


def test_a_weight_used_again_has_a_row_for_each_use():
    report = ix.signal_propagation({"w": jnp.eye(6)}, X, forward=lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"])
    assert list(report.to_dict()) == ["w", "w#2"]


def test_the_report_prints_medians():
    signs = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    report = ix.signal_propagation({"w": 2 * jnp.eye(2)}, signs, forward=lambda p, x: x @ p["w"])
    assert str(report) == (
        "1 operation\n\n"
        " weight   mean   std   mean square   dead   saturated   correlation\n"
        " ──────────────────────────────────────────────────────────────────\n"
        " w           0     2             4      0           0            -1"
    )


def test_healthy_is_what_stays_within_bounds():
    rules, keys = {"*": "he_normal"}, jax.random.split(jax.random.key(9), 8)
    good = ix.signal_propagation(nn.MLP(6, 3, 64, depth=6, key=KEY), X, forward=batched, rules=rules, keys=keys)
    good.assert_healthy(mean_square=(0.2, 5))
    signs = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    params = {"a": 4 * jnp.eye(2), "b": 0.001 * jnp.eye(2)}
    bad = ix.signal_propagation(params, signs, forward=lambda p, x: x @ p["a"] @ p["b"], loss=mean_square)
    with pytest.raises(AssertionError) as caught:
        bad.assert_healthy(gradient_ratio=100)
    assert str(caught.value) == (
        "the signal does not stay within bounds.\n"
        "  a: mean_square 16, not in [0.1, 10]\n"
        "  a: saturated 1, not in [0, 0.5]\n"
        "  b: mean_square 1.6e-05, not in [0.1, 10]\n"
        "  gradient norms: largest over smallest 4000, not at most 100"
    )


@pytest.mark.parametrize("names", ["wv", "vw"])
def test_gradients_that_steps_of_a_loop_share_are_not_compared(names):
    params = {"w": jnp.eye(2), "v": jnp.eye(2)}

    def forward(params, x):
        for name in names:
            x = x @ params[name] if name == "v" else lax.scan(lambda x, _: (x @ params["w"], None), x, length=2)[0]
        return x

    report = ix.signal_propagation(params, jnp.array([[1.0, -1.0], [-1.0, 1.0]]), forward=forward, loss=mean_square)
    assert report.without_gradient == ("w[0]", "w[1]")
    report.assert_healthy(gradient_ratio=1)


def test_not_a_number_is_not_healthy():
    report = ix.signal_propagation({"w": jnp.ones((2, 2))}, -jnp.ones((3, 2)), forward=lambda p, x: jnp.log(x) @ p["w"])
    with pytest.raises(AssertionError, match="w: mean_square nan"):
        report.assert_healthy()


def test_the_plot_has_a_panel_for_each_number_that_was_measured():
    keys = jax.random.split(KEY, 3)
    report = ix.signal_propagation(mlp(), X, forward=batched, loss=mean_square, rules={"*": "he_normal"}, keys=keys)
    figure = report.plot()
    assert [panel.get_title() for panel in figure.axes] == ["mean square", "correlation", "gradient norm"]
    line = figure.axes[0].lines[0].get_ydata()
    assert np.allclose(line, [np.median(signal.mean_square) for signal in report.signals])


def test_without_matplotlib_the_plot_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report = ix.signal_propagation({"w": jnp.eye(6)}, X, forward=lambda p, x: x @ p["w"])
    with pytest.raises(ix.InitaxError) as caught:
        report.plot()
    assert str(caught.value) == "plot() draws with matplotlib, which is missing.\n  pip install initax[plot]"


ERRORS = {
    "rules without keys": (
        lambda: ix.signal_propagation(mlp(), X, forward=batched, rules={"*": "zeros"}),
        "signal_propagation takes rules and keys together: the rules say what is drawn, the keys how often.\n"
        '  rules={"*": "he_normal"}, keys=jax.random.split(jax.random.key(0), 16)',
    ),
    "a seed for keys": (
        lambda: ix.signal_propagation(mlp(), X, forward=batched, rules={"*": "zeros"}, keys=3),
        "keys must be JAX random keys, not 3.\n  jax.random.split(jax.random.key(0), 16)",
    ),
    "abstract inputs": (
        lambda: ix.signal_propagation(mlp(), S(4, 6), forward=batched),
        "signal_propagation measures on real inputs; some are abstract.\n  pass arrays",
    ),
    "a loss behind a while loop": (
        lambda: ix.signal_propagation({"v": jnp.eye(6), "w": jnp.eye(6)}, X, forward=LOOPS["while"], loss=mean_square),
        "signal_propagation: JAX can't differentiate the loss: a loop of the forward pass has no fixed number of "
        "steps.\n  leave out loss=, or write the loop as jax.lax.scan",
    ),
    "no operation": (
        lambda: ix.signal_propagation({"w": jnp.ones((6, 6))}, X, forward=lambda p, x: x),
        "signal_propagation finds no contraction or convolution with a weight.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_to_write(name):
    run, text = ERRORS[name]
    with pytest.raises((ix.InitaxError, ix.KeyTypeError)) as caught:
        run()
    assert str(caught.value) == text
