"""The scheme `auto`: lengths followed along the forward pass, held against closed forms and against measurement."""

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
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
}


def batched(model, x):
    return jax.vmap(model)(x)


def reach(model, inputs, forward=None):
    plan = ix.plan(model, {"*": "auto"}, inputs=inputs, forward=forward)
    weights = [each.parameter for each in plan.draws if each.parameter.role == "weight"]
    return {each.path: each.input_second_moment for each in weights}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_behind_an_activation_the_length_is_its_second_moment(name):
    model = nn.MLP(5, 3, 7, depth=2, activation=ACTIVATIONS[name], key=KEY)
    found = reach(model, S(5))
    assert found["layers.0.weight"] == pytest.approx(1, rel=1e-6)
    for at in (1, 2):
        assert found[f"layers.{at}.weight"] == pytest.approx(ix.gain(ACTIVATIONS[name]) ** -2, rel=1e-5)


CASES = {
    "a residual sum": (lambda p, x: (x + jax.nn.relu(x @ p["a"])) @ p["b"], 1.5),
    "a product": (lambda p, x: (x * jax.nn.relu(x @ p["a"])) @ p["b"], 0.5),
    "a constant factor": (lambda p, x: (3 * (x @ p["a"])) @ p["b"], 9.0),
    "a function of itself": (lambda p, x: jnp.square(x @ p["a"]) @ p["b"], 3.0),
    "a logarithm to base two": (lambda p, x: jnp.log2(jnp.exp2(x @ p["a"])) @ p["b"], 1.0),
    "a mean": (lambda p, x: ((x @ p["a"]).reshape(-1, 4, 6).mean(1)) @ p["b"], 0.25),
    "a concatenation": (lambda p, x: jnp.concatenate([jax.nn.relu(x @ p["a"]), x], 1)[:, :6] @ p["b"], 0.75),
    "unequal parts, added up": (lambda p, x: (x[:, :4] @ p["a"][:4] + x[:, 4:] @ p["a"][4:]) @ p["b"], 1.0),
    "equal parts, added up": (lambda p, x: (x[:, :3] @ p["a"][:3] + x[:, 3:] @ p["a"][3:]) @ p["b"], 1.0),
    "a stack, added up": (
        lambda p, x: jnp.einsum("tei,eio->teo", x.reshape(8, 3, 2), p["a"].reshape(3, 2, 6)).sum(1) @ p["b"], 1.0
    ),
    "a stack": (lambda p, x: jnp.stack([jax.nn.relu(x @ p["a"]), x], 1)[:, 0] @ p["b"], 0.75),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_lengths_are_what_the_closed_form_says(name):
    forward, expected = CASES[name]
    found = reach({"a": S(6, 6), "b": S(6, 6)}, S(8, 6), forward)
    assert found["b"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("window", "expected"), [(2, (1.029375, 0.491715)), (3, (1.485013, 0.357353))])
def test_a_max_pooling_is_the_largest_of_independent_normals(window, expected):
    """Of four and of nine standard normals: mean and variance as tabulated for AutoInit."""
    mean, variance = expected

    def forward(p, x):
        y = jnp.einsum("bhwi,io->bhwo", x, p["a"])
        pooled = lax.reduce_window(y, -jnp.inf, lax.max, (1, window, window, 1), (1, window, window, 1), "VALID")
        return jnp.einsum("bhwi,io->bhwo", pooled, p["b"])

    found = reach({"a": S(6, 6), "b": S(6, 6)}, S(2, 6, 6, 6), forward)
    assert found["b"] == pytest.approx(mean**2 + variance, rel=2e-3)


def centered(x):
    return x - x.mean(-1, keepdims=True)


NORMS = {
    "layer norm": (lambda x: nn.LayerNorm(x.shape[-1])(x), 1.0),
    "by jnp.var": (lambda x: centered(x) / jnp.sqrt(x.var(-1, keepdims=True)), 1.0),
    "by jnp.std": (lambda x: centered(x) / x.std(-1, keepdims=True), 1.0),
    "by rsqrt": (lambda x: centered(x) * lax.rsqrt(jnp.square(centered(x)).mean(-1, keepdims=True)), 1.0),
    "root mean square": (lambda x: x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True)), 1.0),
    "unit length": (lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), 1 / 16),
}


@pytest.mark.parametrize("name", NORMS)
def test_behind_a_norm_the_length_is_that_of_the_norm(name):
    norm, expected = NORMS[name]
    found = reach({"a": S(6, 16), "b": S(16, 6)}, S(6), lambda p, x: norm(3 * (x @ p["a"])) @ p["b"])
    assert found["b"] == pytest.approx(expected, rel=1e-3)


def test_a_steady_scan_has_one_length_and_another_none():
    def forward(p, x):
        x = jax.nn.relu(x @ p["first"])
        x, _ = lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, p["steady"])
        x, _ = lax.scan(lambda x, w: (x + x @ w, None), x, p["growing"])
        return x

    params = {"first": S(6, 6), "steady": S(5, 6, 6), "growing": S(5, 6, 6)}
    with pytest.warns(ix.InitaxWarning) as caught:
        plan = ix.plan(params, {"*": "auto"}, inputs=S(8, 6), forward=forward)
    found = {each.parameter.path: each.parameter.input_second_moment for each in plan.draws}
    assert found["steady"] == pytest.approx(0.5, rel=1e-5)
    assert found["growing"] is None
    text = (
        "auto can't tell what reaches 1 weight and uses gain 1: growing\n"
        "  ix.signal_propagation measures how far they are off, ix.lsuv sets them on data"
    )
    assert [str(each.message) for each in caught] == [text]
    assert plan.notes == (text,)


def test_without_inputs_auto_says_that_it_is_blind():
    with pytest.warns(ix.InitaxWarning) as caught:
        plan = ix.plan(nn.Linear(4, 3, key=KEY), {"*": "auto"})
    assert plan.draws[0].std == pytest.approx(0.5)
    assert [str(each.message) for each in caught] == [
        "auto can't tell what reaches 1 weight and uses gain 1: weight\n  say what the model is called on, inputs=..."
    ]


def test_behind_attention_it_says_so():
    def forward(p, x):
        weights = jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).T)
        return (weights @ x) @ p["out"]

    with pytest.warns(ix.InitaxWarning, match="auto can't tell what reaches 1 weight and uses gain 1: out"):
        ix.plan({name: S(6, 6) for name in ("q", "k", "out")}, {"*": "auto"}, inputs=S(8, 6), forward=forward)


# A deviation of the length grows by the slope of the length map each layer. Where the slope is above one (gelu 1.14,
# silu 1.17) what begins as chance outgrows any bound; a share of the variance in the biases brings it below.
SHARES = {"relu": 0.0, "tanh": 0.0, "softplus": 0.0, "gelu": 0.3, "silu": 0.3}
BANDS = {"relu": (0.3, 3), "tanh": (0.9, 1.1), "softplus": (0.75, 1.35), "gelu": (0.7, 1.4), "silu": (0.7, 1.4)}
"""What 90 of 100 draws stay in at width 512, in the last of 30 layers."""


def squares_of(name, share, depth, width, draws=20):
    """Mean square of the pre-activations, by draw and layer."""
    model = nn.MLP(width, width, width, depth=depth - 1, activation=ACTIVATIONS[name], key=KEY)
    x = jax.random.normal(jax.random.key(1), (64, width))
    plan = ix.plan(model, {"*": ("auto", {"bias_share": share})}, inputs=S(width))

    @eqx.filter_jit
    def squares(model, x):
        found = []
        for layer in model.layers:
            y = x @ layer.weight.T + layer.bias[None]
            found.append(jnp.mean(y**2))
            x = model.activation(y)
        return jnp.stack(found)

    return np.array([squares(plan.draw(key), x) for key in jax.random.split(jax.random.key(2), draws)])


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.slow(one_in=5)
def test_the_second_moment_holds_through_thirty_layers(name):
    """The geometric mean over draws stays within [0.5, 2] in every layer, and most draws in a band of their own."""
    each = squares_of(name, SHARES[name], depth=30, width=512)
    middle = np.exp(np.mean(np.log(each), axis=0))
    assert middle.shape == (30,)
    assert np.all((middle > 0.5) & (middle < 2)), middle
    low, high = BANDS[name]
    assert np.mean((each[:, -1] > low) & (each[:, -1] < high)) >= 0.9, each[:, -1]


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_without_a_share_of_the_biases_it_would_not(name):
    assert np.median(squares_of(name, 0.0, depth=30, width=128, draws=8)[:, -1]) > 3


def test_a_layer_without_bias_has_all_the_variance_in_its_weight():
    layers = {"with": nn.Linear(8, 8, key=KEY), "without": nn.Linear(8, 8, use_bias=False, key=KEY)}

    def forward(p, x):
        return p["without"](p["with"](x))

    plan = ix.plan(layers, {"*": ("auto", {"bias_share": 0.36})}, inputs=S(8), forward=forward)
    found = {draw.parameter.path: draw.std**2 for draw in plan.draws}
    assert found == pytest.approx({"with.weight": 0.64 / 8, "with.bias": 0.36, "without.weight": 1 / 8})
    assert str(plan.draws[0].initializer) == "auto(bias_share=0.36)"
    half = ix.plan(layers, {"*": ix.schemes.scaled(("auto", {"bias_share": 0.36}), 0.5)}, inputs=S(8), forward=forward)
    assert half.draws[0].std == pytest.approx(plan.draws[0].std / 2)


def test_a_share_is_between_nothing_and_all():
    with pytest.raises(ix.SchemeError, match=r"auto: bias_share must be between 0 and 1, not 1\.5"):
        ix.schemes.auto(bias_share=1.5)


def test_a_share_leaves_something_to_the_weights():
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(eqx.nn.Linear(3, 4, key=KEY), {"*": ("auto", {"bias_share": 1.0})}, inputs=S(3))
    assert str(caught.value) == (
        'rule "*": auto: a bias_share of one leaves weights of zero, through which no signal passes.\n'
        '  to keep the length of a deep network: ("auto", {"bias_share": 0.3})'
    )


@pytest.mark.parametrize(("name", "slope"), [("relu", 1.0), ("tanh", 0.46), ("gelu", 1.14), ("silu", 1.17)])
def test_where_length_one_is_no_stable_point_no_scale_helps(name, slope):
    """The slope of the length map at one, by quadrature: above one for gelu and silu, as the documentation says."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()

    def square(variance):
        return weights @ np.asarray(ACTIVATIONS[name](np.sqrt(variance) * nodes), np.float64) ** 2

    step = 0.01
    found = (np.log(square(1 + step)) - np.log(square(1 - step))) / (np.log(1 + step) - np.log(1 - step))
    assert found == pytest.approx(slope, abs=0.01)


class Residual(eqx.Module):
    """A residual convolutional network without norms."""

    blocks: list

    def __call__(self, x):
        for block in self.blocks:
            x = x + block(jax.nn.relu(x))
        return x


@pytest.mark.slow
def test_the_second_moment_holds_in_a_residual_network_without_norms():
    keys = jax.random.split(KEY, 30)
    convs = [nn.Conv2d(12, 12, 3, padding="SAME", padding_mode="CIRCULAR", key=key) for key in keys]
    plan = ix.plan(Residual(convs), {"*": "auto"}, inputs=S(12, 6, 6))
    found = [each.parameter.input_second_moment for each in plan.draws if each.parameter.role == "weight"]
    assert np.allclose(found, [(1 + depth) / 2 for depth in range(30)], rtol=1e-4)
    x = jax.random.normal(jax.random.key(1), (16, 12, 6, 6))
    report = ix.signal_propagation(plan.draw(jax.random.key(2)), x, forward=batched)
    squares = np.array([float(each.mean_square[0]) for each in report.signals])
    assert np.all((squares > 0.5) & (squares < 2)), squares
