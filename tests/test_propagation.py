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


def test_operations_in_a_while_loop_are_named_as_not_measured():
    def forward(p, x):
        return lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] @ p["loop"]), (0, x @ p["w"]))[1]

    report = ix.signal_propagation({"loop": jnp.eye(6), "w": jnp.eye(6)}, X, forward=forward)
    assert [signal.path for signal in report.signals] == ["w"]
    assert report.unmeasured == ("loop",)
    assert str(report).endswith("not measured: loop")


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


def test_not_a_number_is_not_healthy():
    report = ix.signal_propagation({"w": jnp.full((2, 2), jnp.nan)}, jnp.ones((3, 2)), forward=lambda p, x: x @ p["w"])
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
