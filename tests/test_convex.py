"""The scheme icnn, input-convex networks of Equinox and NNX, rules that find their parts, standardization, training."""

import functools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from flax import nnx
from scipy import stats

import initax as ix
from benchmarks.convex import METHODS, drawn, network, signals, train
from initax._math._positive_moments import ensemble, k_max, with_passthrough
from initax._math._positivity import POSITIVITY
from tests.tables import KEY

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())
LEAKY = functools.partial(jax.nn.leaky_relu, negative_slope=0.1)


def icnn(**arguments):
    return ("icnn", arguments)


# The scheme


def law_of(scheme, key, shape=(250, 400), **more):
    return np.asarray(ix.draw(scheme, key, shape, axes="o i", **more), np.float64).ravel()


@pytest.mark.parametrize("activation", ["relu", "softplus", LEAKY], ids=["relu", "softplus", "leaky"])
def test_each_part_has_the_law_of_its_budget(activation, key):
    """Positive weights are tested through their logarithm: a sample never sees the tail of a log-normal's variance."""
    shared = {"activation": activation, "variance": 2.0, "tau": 0.3, "k": 0.5, "input_square": 0.5}
    pair = with_passthrough(activation, 400, 2.0, 0.3, 0.5)
    single = ensemble(activation, 400, 2.0, 0.25)
    positive = np.log(law_of(icnn(part="positive", **shared), key))
    alone = np.log(law_of(icnn(part="alone", correlation=0.25, **shared), key))
    beside = law_of(icnn(part="passthrough", **shared), key)
    first = law_of(icnn(part="first", **shared), key)
    for values, law in (
        (positive, stats.norm(pair.log_mean, pair.log_std)),
        (alone, stats.norm(single.log_mean, single.log_std)),
        (beside, stats.norm(0, math.sqrt(0.3 * 2.0 / (400 * 0.5)))),
        (first, stats.norm(0, math.sqrt(2.0 / (400 * 0.5)))),
    ):
        assert stats.kstest(values, law.cdf).statistic < 2.693 / math.sqrt(values.size)
    biases = {
        part: np.asarray(ix.draw(icnn(part=part, **shared), key, (7,), role="bias", fan_in=400, fan_out=7))
        for part in ("first", "positive", "passthrough")
    }
    assert not biases["first"].any()
    assert not biases["passthrough"].any()
    np.testing.assert_allclose(biases["positive"], pair.bias_mean, rtol=3e-6)
    carried = ix.draw(icnn(part="passthrough", bias="own", **shared), key, (7,), role="bias", fan_in=3, fan_out=7)
    np.testing.assert_allclose(carried, pair.bias_mean, rtol=3e-6)


def test_the_budget_adds_up():
    """Mean zero and unit variance at the fixed point: both shares together, with the moments of the activation."""
    z = np.random.default_rng(3).standard_normal(4_000_000)
    phi = np.logaddexp(0, z)
    pair = with_passthrough("softplus", 50, 1.0, 0.4, 1.0)
    assert 50 * pair.weight_mean * phi.mean() + pair.bias_mean == pytest.approx(0, abs=4.9 * phi.std() / 2000)
    share = 50 * pair.weight_var * (phi**2).mean()
    assert share + 0.4 == pytest.approx(1, abs=4.9 * 0.6 * (phi**2).std() / (phi**2).mean() / 2000)


@pytest.mark.parametrize(
    "row", REFERENCE["icnn_passthrough"]["rows"], ids=lambda row: f"{row['activation']}-{row['tau']}"
)
def test_plans_have_the_numbers_of_the_reference(row):
    activation = {"leaky_relu_0.1": LEAKY, "celu+1": lambda x: jax.nn.celu(x) + 1}.get(
        row["activation"], row["activation"]
    )
    shared = {"activation": activation, "variance": row["q"], "tau": row["tau"], "k": row["k"]}

    def drawn_by(part, inputs):
        layer = eqx.filter_eval_shape(eqx.nn.Linear, inputs, 5, key=KEY)
        return ix.plan(layer, {"*": icnn(part=part, **shared)}).draws

    weight, bias = drawn_by("positive", row["fan_in"])
    assert weight.recipe.numbers == (pytest.approx(row["log_mean"], rel=1e-9), pytest.approx(row["log_std"], rel=1e-9))
    assert weight.std == pytest.approx(math.sqrt(row["weight_var"]), rel=1e-9)
    assert bias.recipe.numbers[0] == pytest.approx(row["bias_mean"], rel=1e-9)
    assert drawn_by("passthrough", row["x_size"])[0].std == pytest.approx(row["passthrough_std"], rel=1e-9)


def test_random_biases_take_their_share(key):
    scheme = icnn(activation="relu", part="alone", bias_noise=0.4, correlation=0.25)
    bias = np.asarray(ix.draw(scheme, key, (20_000,), role="bias", fan_in=64, fan_out=20_000))
    found = ensemble("relu", 64, 1.0, 0.25, 0.4)
    assert stats.kstest(bias, stats.norm(found.bias_mean, math.sqrt(0.4 * 0.75)).cdf).statistic < 2.693 / math.sqrt(
        bias.size
    )


def test_an_activation_is_stored_by_name_and_a_function_without_one_is_refused():
    model = ix.convex.FICNN(3, 1, [4], key=KEY)
    by_name, by_function = (ix.plan(model, {"*": icnn(activation=each)}) for each in ("softplus", jax.nn.softplus))
    assert by_name == by_function
    assert ix.Plan.from_json(by_function.to_json(), model) == by_name
    unnamed = icnn(activation=lambda x: jnp.maximum(x, 0))
    for scheme in (unnamed, ix.Scheme(unnamed, bias="zeros")):
        with pytest.raises(ix.PlanError) as error:
            ix.plan(model, {"*": scheme}).to_json()
        assert str(error.value) == (
            "rule \"*\": the function <lambda> among a scheme's arguments can't be stored.\n  use a name"
        )


def test_an_activation_may_be_a_module_that_holds_arrays():
    """It can't be hashed, which results are kept by."""
    by_module, by_slope = (
        icnn(activation=each, part="alone")
        for each in (eqx.nn.PReLU(0.25), functools.partial(jax.nn.leaky_relu, negative_slope=0.25))
    )
    weights = [ix.draw(each, KEY, (8, 5)) for each in (by_module, by_slope)]
    np.testing.assert_allclose(*weights, rtol=1e-5)


def test_convolutions_count_their_receptive_field_and_the_border_is_as_documented(key):
    """Zero padding takes inputs away but no bias: an edge has minus a third of the shift, a corner five ninths."""

    class Convex(eqx.Module):
        conv: eqx.nn.Conv2d

        def __call__(self, z):
            return self.conv(z)

    channels, images = 16, 300
    conv = eqx.filter_eval_shape(lambda: eqx.nn.Conv2d(channels, channels, 3, padding="SAME", key=KEY))
    layer = ix.reinit(conv, {"*": icnn(activation="relu", part="positive")}, key)
    expected = with_passthrough("relu", channels * 9)
    assert float(layer.bias.ravel()[0]) == pytest.approx(expected.bias_mean, rel=3e-6)
    # The mean over weights, which is what the statement is about: every weight at its mean.
    layer = eqx.tree_at(lambda each: each.weight, layer, jnp.full_like(layer.weight, expected.weight_mean))
    units = jax.nn.relu(jax.random.normal(key, (images, channels, 6, 6)))
    found = np.asarray(jax.vmap(Convex(layer))(units)).mean(axis=(0, 1))
    error = 4.9 / math.sqrt(images * 4)
    assert abs(found[1:-1, 1:-1].mean()) < error * 0.1
    edge, corner = expected.bias_mean / 3, expected.bias_mean * 5 / 9
    assert found[0, 1:-1].mean() == pytest.approx(edge, abs=error * 0.2)
    assert found[[0, 0, -1, -1], [0, -1, 0, -1]].mean() == pytest.approx(corner, abs=error * 0.2)


# Depth


@pytest.mark.parametrize("name", ["relu", "leaky relu", "softplus"])
@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.slow(one_in=6)
def test_thirty_layers_keep_mean_and_variance(name, width):
    """Median over five draws; single draws have rare large weights, as a log-normal does."""
    activation = {"leaky relu": LEAKY}.get(name, name)
    mean, variance = signals(network(activation, [width] * 30), METHODS["initax"], seeds=5, samples=128)
    assert len(mean) == 30
    assert -0.4 < mean.min() <= mean.max() < 0.3
    assert 0.4 < variance.min() <= variance.max() < 2.5


def test_other_draws_do_not_keep_them():
    model = network("relu", [64] * 30)
    for method in ("klax 0.2.0", "sign flipped", "He, clipped"):
        _, variance = signals(model, METHODS[method], seeds=3, samples=64)
        assert variance[-1] > 1e3, method


# Networks

NETWORKS: dict[str, dict[str, Any]] = {
    "ficnn": {},
    "ficnn-relu": {"activation": "relu"},
    "no-passthrough": {"use_passthrough": False},
    "non-decreasing": {"non_decreasing": True},
    "leaky-final": {"activation": LEAKY, "final_activation": jax.nn.softplus},
    **{f"positivity-{name}": {"positivity": name} for name in POSITIVITY if name not in ("sigmoid", "square")},
}


def build(kind, name, dtype=None):
    options = {"dtype": dtype, **NETWORKS[name]}
    if kind == "nnx":
        return ix.convex.nnx.FICNN(4, "scalar", [8, 8], rngs=KEY, **options)
    return ix.convex.FICNN(4, "scalar", [8, 8], key=KEY, **options)


def some_normals(*shape, dtype=jnp.float32):
    """Return normal numbers, for which nothing is compiled."""
    return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


def excess(function, inputs, dtype):
    """How far chords lie below the function, at most, and the scale rounding is to be judged by."""
    ts = np.linspace(0, 1, 9, dtype=dtype)

    def of_segment(a, b):
        values = jax.vmap(function)(ts[:, None] * a[None] + (1 - ts[:, None]) * b[None])
        chord = ts * values[-1] + (1 - ts) * values[0]
        return (values - chord)[1:-1].max(), jnp.abs(values[jnp.array([0, -1])]).max()

    below, scale = (np.asarray(each) for each in jax.jit(jax.vmap(of_segment))(*inputs))
    return float(below.max()), float(scale.max()) + 1


def check_convex(function, key, dtype, size=4, samples=200):
    inputs = 3 * some_normals(2, samples, size, dtype=dtype)
    worst, scale = excess(function, inputs, dtype)
    assert worst < 50 * float(jnp.finfo(dtype).eps) * scale


# Every network in the precision in which convexity is sharpest, and some in the one that is used.
TRIED = [("equinox", name, jnp.float64) for name in NETWORKS] + [
    (kind, name, dtype)
    for name in ("ficnn", "non-decreasing", "positivity-softplus")
    for kind, dtype in (("equinox", jnp.float32), ("nnx", jnp.float32), ("nnx", jnp.float64))
]


@pytest.mark.parametrize(
    ("kind", "name", "dtype"), TRIED, ids=[f"{kind}-{name}-{jnp.dtype(dtype)}" for kind, name, dtype in TRIED]
)
@pytest.mark.slow(one_in=5)
def test_a_network_is_convex_along_segments(kind, name, dtype, key, x64):
    model = build(kind, name, dtype)
    check_convex(model, key, dtype)
    gradients = jax.jit(jax.vmap(jax.grad(model)))(3 * some_normals(100, 4, dtype=dtype))
    if NETWORKS[name].get("non_decreasing"):
        assert float(gradients.min()) >= 0
    else:
        assert float(gradients.min()) < 0


@pytest.mark.parametrize("name", ["ficnn", "non-decreasing", "no-passthrough", "positivity-exp"])
def test_the_hessian_has_no_negative_eigenvalue(name, key, x64):
    model = build("equinox", name, jnp.float64)
    points = 2 * jax.random.normal(key, (50, 4), jnp.float64)
    eigenvalues = jnp.linalg.eigvalsh(jax.jit(jax.vmap(jax.hessian(model)))(points))
    assert float(eigenvalues.min()) > -1e-12 * float(eigenvalues.max())
    assert float(eigenvalues.max()) > 1e-6


def test_a_network_that_is_not_convex_would_be_caught(key):
    model = eqx.nn.MLP(4, "scalar", 8, 2, key=KEY)
    worst, scale = excess(model, 3 * some_normals(2, 200, 4), jnp.float32)
    assert worst > 1e-3 * scale


@pytest.mark.parametrize(
    ("positivity", "wide"),
    [("square", False), ("square", True), ("softplus", False), ("clip", False), ("exp", False)],
    ids=["square", "square-float64", "softplus", "clip", "exp"],
)
@pytest.mark.slow(one_in=5)
def test_a_network_is_convex_after_training_too(positivity, wide, key):
    dtype = jnp.float64 if wide else jnp.float32
    with jax.enable_x64(wide), jax.numpy_dtype_promotion("standard"):  # optax counts its steps in integers
        model = ix.convex.FICNN(8, "scalar", [16, 16], positivity=positivity, dtype=dtype, key=KEY)
        (error,), (trained,) = train([model], 150, rate=1e-2)
        assert error < 0.5
        both = zip(jax.tree.leaves(trained), jax.tree.leaves(model), strict=True)
        assert any(not np.array_equal(one, other) for one, other in both)
        check_convex(trained, key, dtype, size=8)
        points = jax.random.normal(key, (20, 8), dtype)
        eigenvalues = np.asarray(jnp.linalg.eigvalsh(jax.jit(jax.vmap(jax.hessian(trained)))(points)))
    assert eigenvalues.dtype == dtype
    assert eigenvalues.min() > -100 * jnp.finfo(dtype).eps * eigenvalues.max()


def test_an_nnx_network_learns_and_stays_convex(key):
    graph, state = nnx.split(ix.convex.nnx.FICNN(4, "scalar", [16, 16], rngs=KEY))
    x = jax.random.normal(key, (64, 4))

    @jax.jit
    def step(state):
        loss, gradients = jax.value_and_grad(lambda each: jnp.mean((nnx.merge(graph, each)(x) - (x**2).sum(1)) ** 2))(
            state
        )
        return jax.tree.map(lambda value, slope: value - 0.003 * slope, state, gradients), loss

    losses = []
    for _ in range(200):
        state, loss = step(state)
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 3
    check_convex(nnx.merge(graph, state), key, jnp.float32)


@pytest.mark.parametrize("kind", ["equinox", "nnx"])
@pytest.mark.parametrize("non_decreasing", [False, True])
@pytest.mark.slow(one_in=4)
def test_a_partial_network_is_convex_in_one_input_and_not_in_the_other(kind, non_decreasing, key):
    options: dict[str, Any] = {"non_decreasing": non_decreasing}
    model: Any
    if kind == "nnx":
        model = ix.convex.nnx.PICNN(4, 3, "scalar", [8, 8], rngs=KEY, **options)
    else:
        model = ix.convex.PICNN(4, 3, "scalar", [8, 8], key=KEY, **options)
    random = np.random.default_rng(0)  # gates at work, as after training
    model = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + random.normal(size=leaf.shape), "float32"), model)
    context = jnp.array([0.3, -1.0, 2.0])
    check_convex(lambda x: model(x, context), key, jnp.float32)
    gradients = jax.jit(jax.vmap(jax.grad(lambda x: model(x, context))))(3 * some_normals(100, 4))
    assert (float(gradients.min()) >= 0) == non_decreasing
    point = jnp.ones(4)
    worst, scale = excess(lambda u: model(point, u), 3 * some_normals(2, 300, 3), jnp.float32)
    assert worst > 1e-3 * scale


def test_a_partial_network_starts_as_a_full_one_of_unit_variance():
    totals = []
    forward = eqx.filter_jit(lambda each, x, u: jax.vmap(each)(x, u))
    for seed in range(20):
        model = ix.convex.PICNN(8, 8, 64, [64] * 4, activation="relu", key=jax.random.key(seed))
        found = forward(model, *jax.random.normal(jax.random.key(seed), (2, 64, 8)))
        totals.append([float(found.mean()), float(found.var())])
    mean, variance = np.median(np.array(totals), axis=0)
    assert -0.4 < mean < 0.3
    assert 0.4 < variance < 2.5


def test_rules_give_a_partial_network_what_it_begins_with():
    model = ix.convex.PICNN(4, 3, 2, [8, 8], key=KEY)
    rules = ix.convex.rules(model, "softplus")
    assert list(rules) == ["layers.0", "layers.1", "layers.2"]
    again = ix.reinit(model, rules, KEY)
    for one, other in zip(jax.tree.leaves(model), jax.tree.leaves(again), strict=True):
        assert np.array_equal(one, other)
    stds = {each.parameter.path: each.std for each in ix.plan(model, rules).draws}
    assert stds["layers.0.passthrough"] == pytest.approx(math.sqrt(1 / 2 / 4))
    assert stds["layers.0.context"] == pytest.approx(math.sqrt(1 / 2 / 3))
    assert stds["layers.1.context"] == pytest.approx(math.sqrt(1 / 4 / 8))


def test_nnx_rows_are_batches_and_rngs_are_taken():
    model = ix.convex.nnx.FICNN(3, 2, [8], rngs=nnx.Rngs(params=5))
    x = jnp.ones((4, 5, 3))
    assert model(x).shape == (4, 5, 2)
    assert bool(jnp.allclose(model(x)[0, 0], model(x[0, 0]), atol=1e-6))
    gradients = nnx.grad(lambda each: each(x).sum())(model)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients))


def test_scalar_sizes():
    model = ix.convex.FICNN("scalar", "scalar", [4], key=KEY)
    assert model(jnp.float32(0.3)).shape == ()
    assert ix.convex.nnx.FICNN("scalar", 2, [4], rngs=KEY)(jnp.ones(5)).shape == (5, 2)
    ensemble_of = eqx.filter_vmap(lambda key: ix.convex.FICNN(3, 1, [4], key=key))(jax.random.split(KEY, 3))
    plan = ix.plan(ensemble_of, ix.convex.rules(ensemble_of, "softplus"))
    assert [each.parameter.fan_in for each in plan.draws if each.parameter.role == "weight"] == [3, 4, 3]


# Rules


def positive(size, inputs, **options):
    layer = eqx.nn.Linear(inputs, size, key=KEY, **options)
    return eqx.tree_at(lambda each: each.weight, layer, paramax.Parameterize(jax.nn.softplus, layer.weight))


class Apart(eqx.Module):
    """A user's network whose passthroughs are layers of their own; `bias` says which of the two holds the bias."""

    hidden: list
    skips: list

    def __init__(self, bias):
        inputs = eqx.nn.Linear(3, 8, key=KEY)
        self.hidden = [positive(8, 8, use_bias=bias == "hidden"), positive(1, 8, use_bias=bias == "hidden")]
        self.skips = [inputs, *(eqx.nn.Linear(3, size, use_bias=bias == "skips", key=KEY) for size in (8, 1))]


class SkipsFirst(eqx.Module):
    """The same with the passthroughs in front."""

    skips: list
    hidden: list

    def __init__(self, bias):
        inner = Apart(bias)
        self.hidden, self.skips = inner.hidden, inner.skips


@pytest.mark.parametrize("network", [Apart, SkipsFirst])
@pytest.mark.parametrize("holder", ["hidden", "skips"])
def test_passthroughs_that_are_layers_of_their_own_are_found(holder, network, key):
    model = network(holder)
    rules = ix.convex.rules(model, "relu")
    parts = {path: arguments["part"] for path, (_, arguments) in rules.items()}
    assert parts == {
        "hidden.0": "positive",
        "hidden.1": "positive",
        "skips.0": "first",
        "skips.1": "passthrough",
        "skips.2": "passthrough",
    }
    new = paramax.unwrap(ix.reinit(model, rules, key))
    shift = -1 / math.sqrt(2 * math.pi)
    assert float(new.skips[0].bias[0]) == 0
    held = [getattr(new, holder)[place].bias for place in ((0, 1) if holder == "hidden" else (1, 2))]
    assert [float(each[0]) for each in held] == pytest.approx([shift, shift], rel=1e-5)


def test_an_encoder_in_front_has_no_part(key):
    encoder = eqx.nn.MLP(5, 3, 7, 1, key=KEY)
    model: dict[str, Any] = {"a_encoder": encoder, "convex": ix.convex.FICNN(3, 1, [8], key=KEY)}
    rules = ix.convex.rules(model, "softplus")
    assert list(rules) == ["convex.layers.0", "convex.layers.1"]
    assert ix.reinit(model, rules, key)["a_encoder"].layers[0].weight is encoder.layers[0].weight


def test_parts_can_be_told(key):
    """A network kept positive by a projection after each step shows nothing."""
    model = eqx.nn.MLP(4, 1, 16, 3, activation=jax.nn.softplus, key=KEY)
    for parts in ({"layers.*": "alone", "layers.0": "first"}, {"layers.[123]": "alone"}):
        rules = ix.convex.rules(model, "softplus", parts=parts)
        assert [arguments["part"] for _, arguments in rules.values()] == ["first", "alone", "alone", "alone"]
    new = ix.reinit(model, rules, key)
    assert all(float(layer.weight.min()) > 0 for layer in new.layers[1:])
    assert float(new.layers[0].weight.min()) < 0


# Without passthrough


@pytest.mark.parametrize("kind", ["equinox", "nnx"])
@pytest.mark.slow(one_in=2)
def test_standardized_layers_have_mean_zero_and_unit_variance_on_the_data(kind, key):
    options: dict[str, Any] = {"use_passthrough": False, "activation": "relu"}
    model: Any
    if kind == "nnx":
        model = ix.convex.nnx.FICNN(4, 1, [32] * 6, rngs=KEY, **options)
    else:
        model = ix.convex.FICNN(4, 1, [32] * 6, key=KEY, **options)
    x = jax.random.normal(key, (256, 4))

    @eqx.filter_jit
    def layers_of(model):
        return jax.vmap(model.pre_activations)(x)

    before, after = (list(map(np.asarray, layers_of(each))) for each in (model, ix.convex.standardize(model, x)))
    assert min(each.var(axis=0).mean() for each in before) < 0.3
    for each in after:
        assert each.mean() == pytest.approx(0, abs=1e-3)
        assert each.var(axis=0).mean() == pytest.approx(1, rel=1e-3)
    check_convex(lambda row: ix.convex.standardize(model, x)(row)[0], key, jnp.float32, samples=20)
    assert np.array_equal(before[-1], layers_of(model)[-1])


def test_deep_networks_without_passthrough_warn():
    with pytest.warns(ix.InitaxWarning) as caught:
        ix.convex.FICNN(3, 1, [4] * 11, use_passthrough=False, key=KEY)
    assert [str(each.message) for each in caught] == [
        "an input-convex network of 12 layers without passthrough forgets its input.\n"
        "  with positive weights alone its units agree ever more, and no initialization has trained it at 20 layers\n"
        "  use_passthrough=True shows every layer the input, and trains at any depth\n"
        "  or put a normalization between the layers"
    ]
    ix.convex.FICNN(3, 1, [4] * 30, key=KEY)
    ix.convex.FICNN(3, 1, [4] * 9, use_passthrough=False, key=KEY)


# Training, a small version of `python -m benchmarks.convex training`


@pytest.mark.slow
def test_a_deep_network_trains_and_others_draws_do_not():
    model, methods = network("softplus", [32] * 12), ("initax", "klax 0.2.0", "sign flipped", "zero bias")
    models = [each for method in methods for each in drawn(model, method, 2)]
    with jax.numpy_dtype_promotion("standard"):  # optax counts its steps in integers
        errors = dict(zip(methods, np.median(train(models, 400)[0].reshape(-1, 2), axis=1), strict=True))
    assert errors["initax"] < 0.3
    for method in methods[1:]:
        assert errors[method] > 10 * errors["initax"], errors


# Errors

ERRORS = {
    "correlation": (
        lambda: ix.schemes.icnn("relu", 1.0),
        "icnn: correlation must be strictly between 0 and 1, not 1.0.\n"
        "  units of a layer with positive weights agree: at 0 the weights vanish, at 1 so does their variance\n"
        '  write ("icnn", {"correlation": 0.5})',
    ),
    "correlation of hoedt": (
        lambda: ix.schemes.hoedt(correlation=-1.5),
        "hoedt: correlation must be strictly between 0 and 1, not -1.5.\n"
        "  units of a layer with positive weights agree: at 0 the weights vanish, at 1 so does their variance\n"
        '  write ("hoedt", {"correlation": 0.5})',
    ),
    "variance": (
        lambda: ix.schemes.hoedt(variance=0.0),
        'hoedt: variance must be positive, not 0.0.\n  write ("hoedt", {"variance": 1.0})',
    ),
    "tau": (
        lambda: ix.schemes.icnn("relu", tau=1),
        "icnn: tau must be strictly between 0 and 1, not 1.0.\n"
        "  it is the share of the variance that the passthrough brings\n"
        '  write ("icnn", {"tau": 0.5})',
    ),
    "k": (
        lambda: ix.convex.FICNN(3, 1, [4], activation="relu", k=1.3, key=KEY),
        "icnn: k must be below 1.222 for relu at tau=0.5, not 1.3.\n"
        "  from there on an error of mean or variance grows from layer to layer\n"
        "  write k=0.98, or a larger tau",
    ),
    "no k": (
        lambda: ix.draw(icnn(activation=lambda x: jax.nn.relu(x) ** 2, part="positive"), KEY, (4, 4)),
        "icnn: no k is stable for <lambda> at tau=0.5.\n"
        "  from there on an error of mean or variance grows from layer to layer\n"
        "  write a larger tau, 0.75",
    ),
    "an activation that falls": (
        lambda: ix.schemes.icnn("gelu"),
        "icnn: the activation gelu is not non-decreasing: it falls at -3.45, from -0.000748579 to -0.000763125.\n"
        "  convex and non-decreasing are: celu, elu, exp, leaky_relu, linear, relu, softplus, sparse_plus, squareplus\n"
        '  write ("icnn", {"activation": "softplus"})',
    ),
    "an activation that bends down": (
        lambda: ix.convex.FICNN(3, 1, [4], activation="relu6", key=KEY),
        "icnn: the activation relu6 is not convex: at 6 its slope falls from 1 to 0.\n"
        "  convex and non-decreasing are: celu, elu, exp, leaky_relu, linear, relu, softplus, sparse_plus, squareplus\n"
        '  write ("icnn", {"activation": "softplus"})',
    ),
    "no bias": (
        lambda: ix.plan({"a": positive(8, 8, use_bias=False)}, {"*": icnn(activation="relu", part="positive")}),
        'rule "*": icnn needs a bias beside "a.weight.args.0" of Linear, and there is none.\n'
        "  positive weights shift the mean by +0.3989; a bias has to take that off\n"
        '  build the layer with one, or say that another layer holds it: ("icnn", {"bias": "elsewhere"})',
    ),
    "a sigmoid that can't hold the sample": (
        lambda: ix.convex.FICNN(3, 1, [64, 64], positivity="sigmoid", key=KEY),
        "icnn(activation='softplus') gives weights above 1, which \"layers.1.weight\" can't hold (sigmoid).\n"
        "  expected: 3.4 of 4096 entries\n"
        "  use a map without an upper bound: softplus, exp, square",
    ),
    "an unknown part": (
        lambda: ix.plan(eqx.nn.MLP(3, 1, 4, 2, key=KEY), {"Linear": "icnn"}),
        'rule "Linear": icnn can\'t tell what "layers.0.weight" of Linear is: no weight beside it is known to be '
        "positive.\n"
        '  say it: ("icnn", {"part": "first"}), "positive" (with a passthrough), "alone" (without) or "passthrough"\n'
        "  or let it be found for a whole network: ix.convex.rules(model, activation)",
    ),
    "rules without a positive weight": (
        lambda: ix.convex.rules(eqx.nn.MLP(3, 1, 4, 1, key=KEY), "relu"),
        "no weight of the model is known to be positive, so there is no convex network in it.\n"
        '  layers: "layers.0", "layers.1"\n'
        "  say how the layer makes it so, ix.register_layer(..., positivity={...}),\n"
        '  or what its layers are: ix.convex.rules(..., parts={"first": "first", "hidden.*": "alone"})',
    ),
    "a pattern of parts that matches nothing": (
        lambda: ix.convex.rules(eqx.nn.MLP(3, 1, 4, 1, key=KEY), "relu", parts={"hidden.*": "alone"}),
        'parts: "hidden.*" matches no layer.\n  layers: "layers.0", "layers.1"',
    ),
    "a part that is none": (
        lambda: ix.convex.rules(eqx.nn.MLP(3, 1, 4, 1, key=KEY), "relu", parts={"*": "convex"}),
        'parts: "convex" is not a part of a convex network.\n  parts: auto, first, alone, positive, passthrough, none',
    ),
    "klax's name": (
        lambda: ix.draw("hoedt_bias", KEY, (3,), role="bias"),
        'no scheme is called "hoedt_bias".\n'
        '  in klax; here "hoedt" draws weight and bias together, the bias with the authors\' sign\n'
        f"  schemes: {', '.join(name for name in ix.schemes.names())}",
    ),
    "the authors' argument": (
        lambda: ix.schemes.get("hoedt", corr=0.5),
        'hoedt has no argument "corr".\n'
        "  arguments: variance, correlation, alpha, bias_noise, fans, bias\n"
        '  here it is called "correlation"',
    ),
    "a positivity map nobody knows": (
        lambda: ix.convex.FICNN(3, 1, [4], positivity="softplu", key=KEY),
        "no positivity map is called 'softplu'.\n"
        f"  maps: {', '.join(POSITIVITY)}\n"
        '  did you mean "softplus"?\n'
        '  for one of your own: ix.convex.register_positivity("name", forward, inverse=...)',
    ),
    "an inverse that is none": (
        lambda: ix.convex.register_positivity("test_wrong", jnp.exp, inverse=lambda weight: weight),
        'register_positivity("test_wrong"): forward(inverse(w)) is not w.\n'
        "  at w=0.0001 it is 1.0001\n"
        "  pass the inverse of the map: forward=jnp.exp, inverse=jnp.log",
    ),
    "a map with negative values": (
        lambda: ix.convex.register_positivity("test_same", lambda s: s + 0, inverse=lambda weight: weight),
        'register_positivity("test_same"): forward(-5) is -5, not positive.',
    ),
    "a map that is taken": (
        lambda: ix.convex.register_positivity("exp", jnp.exp, inverse=jnp.log),
        '"exp" is a positivity map of initax and keeps its meaning.\n  choose another name',
    ),
    "sizes": (
        lambda: ix.convex.FICNN(3, 1, [4, 0], key=KEY),
        "every size of a convex network must be positive: in_size=3, out_size=1, width_sizes=[4, 0].",
    ),
    "paths of different length": (
        lambda: ix.convex.PICNN(3, 2, 1, [4, 4], [5], key=KEY),
        "the context path has 1 layers, the convex path 2.\n"
        "  context_width_sizes=[5], width_sizes=[4, 4]\n"
        "  give one size of the context for every hidden layer",
    ),
    "a batch": (
        lambda: ix.convex.FICNN(3, 1, [4], key=KEY)(jnp.ones((5, 3))),
        "the input has shape (5, 3), and the network takes (3,).\n  for a batch write jax.vmap(model)(x)",
    ),
    "standardize of something else": (
        lambda: ix.convex.standardize(eqx.nn.MLP(3, 1, 4, 1, key=KEY), jnp.ones((5, 3))),
        "standardize takes an ix.convex.FICNN, not MLP.\n"
        "  for another network write its layers as one: "
        "ix.convex.FICNN(in_size, out_size, width_sizes, key=key)",
    ),
    "standardize on one sample": (
        lambda: ix.convex.standardize(ix.convex.FICNN(3, 1, [4], key=KEY), jnp.ones((1, 3))),
        "standardize needs a batch of inputs, not an array of shape (1, 3).",
    ),
    "standardize on equal samples": (
        lambda: ix.convex.standardize(ix.convex.FICNN(3, 1, [4], key=KEY), jnp.ones((5, 3))),
        "layer 0 gives the same output for every input, so that there is nothing to standardize.\n"
        "  draw the network anew, ix.convex.FICNN(...), or pass more inputs",
    ),
    "rules of no model": (
        lambda: ix.convex.rules("softplus"),
        "ix.convex.rules: missing a required argument: 'activation'.\n"
        '  write ix.convex.rules(model, "softplus"); further arguments go by name, correlation=0.5',
    ),
    "rules of no activation": (
        lambda: ix.convex.rules(ix.convex.FICNN(3, 1, [4], activation="relu", key=KEY)),
        "ix.convex.rules: missing a required argument: 'activation'.\n"
        '  write ix.convex.rules(model, "relu"); further arguments go by name, correlation=0.5',
    ),
    "rules with an argument of a network": (
        lambda: ix.convex.rules({"w": (3, 4)}, jax.nn.softplus, use_passthrough=True),
        'ix.convex.rules has no argument "use_passthrough".\n'
        "  arguments: model, activation, parts, correlation, variance, k, tau, input_square\n"
        '  write ix.convex.rules(model, "softplus"); further arguments go by name, correlation=0.5',
    ),
    "rules in another order": (
        lambda: ix.convex.rules("softplus", {"w": jnp.ones((3, 4))}),
        "ix.convex.rules takes model, activation in this order, and was given activation, model.\n"
        "  model is 'softplus' (str)\n"
        "  activation is an object of class dict\n"
        "  write ix.convex.rules(model, activation)",
    ),
    "k_max without a passthrough": (
        lambda: k_max("relu", 0.0),
        "k_max: tau must be strictly between 0 and 1, not 0.0.\n  write tau=0.5",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_read_as_they_should(name):
    call, text = ERRORS[name]
    with pytest.raises(ix.InitaxError) as error:
        call()
    assert str(error.value) == text


def test_the_networks_load_no_framework_before_they_are_asked_for():
    code = (
        "import sys, initax as ix; before = {'equinox', 'flax'} & set(sys.modules)\n"
        "ix.convex.rules, ix.convex.k_max, dir(ix.convex)\n"
        "assert not before and not {'equinox', 'flax'} & set(sys.modules)\n"
        "ix.convex.FICNN; assert 'equinox' in sys.modules and 'flax' not in sys.modules\n"
        "ix.convex.nnx.FICNN; assert 'flax' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_framework_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    monkeypatch.delitem(sys.modules, "initax.convex._equinox")
    monkeypatch.delattr(ix.convex, "FICNN", raising=False)
    with pytest.raises(ModuleNotFoundError) as error:
        ix.convex.FICNN  # noqa: B018
    assert str(error.value) == 'ix.convex.FICNN needs equinox.\n  pip install "initax[equinox]"'
