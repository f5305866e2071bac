"""The scheme `auto`: lengths followed along the forward pass, held against closed forms and against measurement."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import initax as ix
from initax._trace._second_moments import Lengths, Numbered
from initax._trace._uses import Uses
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


UP, PACKED, GATES, STACK, CONV = (
    {"up": (48, 48)},
    {"packed": (48, 96)},
    {"gates": (48, 192)},
    {"stack": (3, 48, 48)},
    {"conv": (3, 48, 96)},
)


def gated(h):
    gate, value = jnp.split(h, 2, axis=-1)
    return jax.nn.silu(gate) * value


def lstm(p, x):
    i, _, g, o = jnp.split(x @ p["gates"], 4, axis=-1)
    return jax.nn.sigmoid(o) * jnp.tanh(jax.nn.sigmoid(i) * jnp.tanh(g))


def half(h, at):
    return h[:, 48 * at : 48 * at + 48]


def convolved(p, x):
    h = lax.conv_general_dilated(x.reshape(2, 16, 48), p["conv"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    return gated(h)[:, 1:-1].reshape(-1, 48)


def repeated(p, x):
    h = jnp.broadcast_to((x @ p["up"])[:, None], (32, 2, 48))
    return h[:, 0] * h[:, 1]


def scanned(p, x):
    first = jax.nn.relu(x @ p["up"])
    return lambda: lax.scan(lambda x, w: (jax.nn.relu(x @ w), x @ w), first, p["stack"])


def with_(shapes, function):
    """A case in which a function is applied to the outputs of a weight."""
    ((name, _),) = shapes.items()
    return shapes, lambda p, x: function(x @ p[name])


relu = jax.nn.relu
PARTS = {
    "a packed gate": with_(PACKED, gated),
    "a packed gate of a convolution": (CONV, convolved),
    "the gates of an LSTM": (GATES, lstm),
    "halves, multiplied": with_(PACKED, lambda h: half(h, 0) * half(h, 1)),
    "halves, added up": with_(PACKED, lambda h: half(h, 0) + half(h, 1)),
    "halves, subtracted": with_(PACKED, lambda h: half(h, 0) - relu(half(h, 1))),
    "the larger half": with_(PACKED, lambda h: jnp.maximum(half(h, 0), half(h, 1))),
    "a half where the other is positive": with_(PACKED, lambda h: jnp.where(half(h, 0) > 0, half(h, 1), 0)),
    "one half twice": with_(PACKED, lambda h: half(h, 1) * relu(half(h, 1))),
    "every other unit": with_(PACKED, lambda h: h[:, ::2] * h[:, 1::2]),
    "every other unit twice": with_(PACKED, lambda h: h.reshape(-1, 48, 2)[..., 0] + h[:, ::2]),
    "parts of a reshaped signal": with_(PACKED, lambda h: h.reshape(-1, 2, 48)[:, 0] + h.reshape(-1, 2, 48)[:, 1]),
    "an unstacked signal": with_(PACKED, lambda h: jnp.multiply(*jnp.unstack(h.reshape(-1, 2, 48), axis=1))),
    "taken parts": with_(PACKED, lambda h: jnp.take(h.reshape(-1, 2, 48), 0, 1) * jnp.take(h.reshape(-1, 2, 48), 1, 1)),
    "a dynamic slice": with_(PACKED, lambda h: lax.dynamic_slice_in_dim(h, 0, 48, 1) * half(h, 1)),
    "a dynamic slice twice": with_(PACKED, lambda h: lax.dynamic_slice_in_dim(h, 48, 48, 1) * half(h, 1)),
    "halves of the tokens": with_(UP, lambda h: h[:16] * h[16:]),
    "neighbours": with_(UP, lambda h: h[:, 1:] * h[:, :-1]),
    "halves of a function": with_(UP, lambda h: relu(h)[:, :24] + relu(h)[:, 24:]),
    "a function of a half": with_(UP, lambda h: relu(h[:, :24]) + relu(h)[:, :24]),
    "halves of a flat signal": with_(UP, lambda h: (h.ravel()[:768] * h.ravel()[768:]).reshape(-1, 48)),
    "flat and back": with_(UP, lambda h: h.ravel().reshape(32, 48) + relu(h)),
    "halves of the heads": with_(UP, lambda h: jnp.multiply(*jnp.split(h.reshape(32, 4, 12), 2, 1)).reshape(32, 24)),
    "shuffled units": with_(UP, lambda h: h * h.reshape(32, 2, 24).swapaxes(1, 2).reshape(32, 48)),
    "a transposed signal": with_(UP, lambda h: (h.T[:24] + h.T[24:]).T),
    "a sum with the transpose": with_(UP, lambda h: h[:8, :8] + h[:8, :8].T),
    "all pairs of tokens": with_(UP, lambda h: (h[None, :4] + h[:4, None]).reshape(16, 48)),
    "a repeated signal": (UP, repeated),
    "halves of the input": ({}, lambda p, x: x[:, :24] * relu(x[:, 24:])),
    "one half of the input twice": ({}, lambda p, x: x[:, :24] * relu(x[:, :24])),
    "a layer called twice": (UP, lambda p, x: x @ p["up"] + relu(x @ p["up"])),
    "a layer called twice, multiplied": (UP, lambda p, x: relu(x @ p["up"]) * relu(x @ p["up"] + 1)),
    "parts of a weight": (PACKED, lambda p, x: relu(x @ p["packed"][:, :48]) * relu(x @ p["packed"][:, 48:])),
    "one part of a weight twice": (PACKED, lambda p, x: x @ p["packed"][:, :48] + relu(x @ p["packed"][:, :48])),
    "a map over tokens": (UP, lambda p, x: x @ p["up"] + lax.map(relu, x @ p["up"])),
    "a map over tokens from the last": (
        {}, lambda p, x: x + lax.scan(lambda c, row: (c, relu(row)), 0.0, x, reverse=True)[1]
    ),
    "a loop called twice": (UP | STACK, lambda p, x: scanned(p, x)()[0] + jnp.sign(scanned(p, x)()[0])),
    "the steps of a loop called twice": (
        UP | STACK, lambda p, x: (scanned(p, x)()[1] + relu(scanned(p, x)()[1])).reshape(-1, 48)
    ),
    "a stack of layers on one input": (
        STACK, lambda p, x: sum(relu(x @ p["stack"][at]) for at in range(3))
    ),
}  # fmt: skip
"""Programs in which parts of one signal, or equal signals, meet: shapes of weights, and what is measured."""


def parts_of(params, x):
    return {name: function(params[name], x) for name, (_, function) in PARTS.items()}


@pytest.fixture(scope="module")
def measured():
    """Mean square of what each program of `PARTS` gives: what `auto` says, the mean over draws, and its error."""
    x = S(32, 48)
    params = {name: {weight: S(*shape) for weight, shape in shapes.items()} for name, (shapes, _) in PARTS.items()}
    for name, result in jax.eval_shape(parts_of, params, x).items():
        params[name]["out"] = S(result.shape[-1], 3)
    plan = ix.plan(
        params,
        {"*": "auto"},
        inputs=x,
        forward=lambda p, x: {name: result @ p[name]["out"] for name, result in parts_of(p, x).items()},
    )
    assert not any("auto can't tell" in note for note in plan.notes), plan.notes

    @jax.jit
    @jax.vmap
    def squares(key):
        drawn, x = plan.arrays(key), jax.random.normal(key, (32, 48))
        model = {name: {weight: drawn[f"{name}.{weight}"] for weight in PARTS[name][0]} for name in PARTS}
        return {name: jnp.mean(jnp.square(result)) for name, result in parts_of(model, x).items()}

    found = {draw.parameter.path: draw.parameter.input_second_moment for draw in plan.draws}
    over_draws = squares(jax.random.split(KEY, 200))
    return {
        name: (found[f"{name}.out"], float(np.mean(each)), float(np.std(each)) / len(each) ** 0.5)
        for name, each in ((name, np.asarray(each)) for name, each in over_draws.items())
    }


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_signal_are_independent_and_equal_signals_are_the_same(name, measured):
    """A width of 48 adds some per cent to fourth moments."""
    expected, mean, error = measured[name]
    assert expected == pytest.approx(mean, abs=4 * error + 0.05 * mean)


@pytest.mark.parametrize(
    "function",
    [lambda h, i, j: h[:, i] * h[:, j], lambda h, i, j: h[:, i] + h, lambda h, i, j: h[i] - h[:6]],
    ids=["two that the data pick", "one of them", "one token"],
)
def test_where_the_data_pick_the_parts_it_is_not_known_whether_they_are_the_same(function):
    with pytest.warns(ix.InitaxWarning, match="auto can't tell what reaches 1 weight and uses gain 1: b"):
        ix.plan(
            {"a": S(6, 6), "b": S(6, 6)},
            {"*": "auto"},
            inputs=(S(8, 6), S(6, dtype="int32"), S(6, dtype="int32")),
            forward=lambda p, x, i, j: function(x @ p["a"], i, j) @ p["b"],
        )


VIEWS = {
    "half": lambda h: h[:4],
    "other half": lambda h: h[4:],
    "turned": lambda h: h[:, :4].T,
    "turned again": lambda h: h.T[:4, :4].reshape(4, 4),
    "merged": lambda h: h.swapaxes(0, 1).reshape(-1),
    "cut after merging": lambda h: h.swapaxes(0, 1).reshape(-1)[16:32].reshape(4, 4),
    "every third": lambda h: h.reshape(-1)[2::3],
    "every other after merging": lambda h: h[:, 1:5].reshape(-1)[::2].reshape(4, 4),
    "every eighth after merging": lambda h: h[:, 1:5].reshape(-1)[3::8],
    "within one row after merging": lambda h: h[:, 1:5].reshape(-1)[5:8],
    "one": lambda h: h[2, 3],
    "repeated": lambda h: jnp.broadcast_to(h[None, :4, 4:5], (2, 4, 3)),
    "cut of repeated": lambda h: jnp.broadcast_to(h[:4, None, 1], (4, 4)),
    "split": lambda h: jnp.split(h.reshape(4, 2, 6), 3, axis=2)[1],
    "unstacked": lambda h: jnp.unstack(h, axis=1)[5],
    "taken": lambda h: jnp.take(h, -2, axis=1),
    "taken by a step": lambda h: h[:, np.array([4, 2, 0])].T,
    "every other": lambda h: h.T[::2],
    "inserted": lambda h: h[2:6, None, 1:5].reshape(4, 4),
    "dynamic": lambda h: lax.dynamic_slice(h, (7, 1), (4, 4)),
}


def test_an_arrangement_holds_what_jax_moves_there():
    """The places that JAX moves, and those that the strides of an arrangement say; how many two have in common."""

    def views(h):
        return {name: view(h) for name, view in VIEWS.items()}

    indices = np.arange(48).reshape(8, 6)
    moved = jax.tree.map(np.asarray, jax.jit(views)(indices))
    lengths = Lengths(Uses(), {})
    closed = jax.make_jaxpr(views)(S(8, 6))
    results = lengths.call(closed, [Numbered(0, lengths.normal(0.0, 1.0, closed.jaxpr.invars[0]))], ())
    found = {name: each.known.of for name, each in zip(sorted(VIEWS), results, strict=True)}
    for name, of in found.items():
        places = np.array(of.arrangement.offset)
        for size, stride in itertools.chain(*of.arrangement.axes):
            places = np.add.outer(places, stride * np.arange(size))
        assert np.array_equal(places.reshape(of.arrangement.shape), moved[name]), name
    for one, two in itertools.combinations(VIEWS, 2):
        if moved[one].shape == moved[two].shape:
            assert found[one].in_common(found[two]) == np.mean(moved[one] == moved[two]), (one, two)


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
