"""Measured on data that is not finite, or made so by the model: it is said, and no such weight is called calibrated."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initax as ix
from tests.tables import KEY

X = jax.random.normal(jax.random.key(3), (16, 6))
LEAVE_OUT = "leave these examples out: x[jnp.isfinite(x).reshape(len(x), -1).all(axis=1)]"
KEYS = jax.random.split(KEY, 2)


class Two(linen.Module):
    function: object = linen.relu

    @linen.compact
    def __call__(self, x):
        for at in range(3):
            x = self.function(linen.Dense(6, name=f"d{at}")(x))
        return x


def chain(function, layers):
    def forward(model, x):
        for layer in layers(model):
            x = function(layer(x))
        return x

    return forward


def equinox(function=jax.nn.relu):
    model = [eqx.nn.Linear(6, 6, key=key) for key in jax.random.split(KEY, 3)]
    return model, chain(function, lambda model: map(jax.vmap, model)), {}, "{}.weight"


def nnx_list(function=jax.nn.relu):
    rngs = nnx.Rngs(0)
    model = nnx.List([nnx.Linear(6, 6, rngs=rngs) for _ in range(3)])
    return model, chain(function, lambda model: model), {}, "{}.kernel"


def of_linen(function=jax.nn.relu):
    module = Two(function)
    return module.init(KEY, X), None, {"module": module}, "d{}.kernel"


def pytree(function=jax.nn.relu):
    model = [{"w": jnp.eye(6)} for _ in range(3)]
    layers = lambda model: [lambda x, w=each["w"]: x @ w for each in model]  # noqa: E731
    return model, chain(function, layers), {}, "{}.w"


FRAMEWORKS = {"equinox": equinox, "nnx": nnx_list, "linen": of_linen, "pytree": pytree}
frameworks = pytest.mark.parametrize("make", FRAMEWORKS.values(), ids=FRAMEWORKS)


def calibrate(model, x, forward, options):
    return ix.lsuv(model, x, forward=forward, **options)[1]


def propagate(model, x, forward, options):
    return ix.signal_propagation(model, x, forward=forward, **options)


def propagate_drawn(model, x, forward, options):
    return ix.signal_propagation(model, x, forward=forward, rules={"*": "he_normal"}, keys=KEYS, **options)


VERBS = {"lsuv": calibrate, "signal_propagation": propagate, "signal_propagation-rules": propagate_drawn}


@frameworks
@pytest.mark.parametrize("name", VERBS)
@pytest.mark.slow(one_in=5)
def test_inputs_that_are_not_finite_are_an_error(name, make):
    model, forward, options, _ = make()
    with pytest.raises(ix.InitaxError) as caught:
        VERBS[name](model, X.at[3, 5].set(jnp.nan).at[7].set(jnp.inf), forward, options)
    assert str(caught.value) == (
        f"{name.partition('-')[0]} measures on data that is not finite.\n"
        "  inputs float32[16, 6]: 7 of 96 entries, the first nan at [3, 5]\n"
        f"  {LEAVE_OUT}"
    )


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_the_leaf_and_the_place_are_named(value):
    inputs = ({"a": X, "b": X.at[2, 1].set(value)}, 1.0)
    with pytest.raises(ix.InitaxError) as caught:
        ix.lsuv({"w": jnp.eye(6)}, inputs, forward=lambda p, x, s: (x["a"] + x["b"]) @ p["w"] * s)
    assert str(caught.value) == (
        "lsuv measures on data that is not finite.\n"
        f"  inputs[0]['b'] float32[16, 6]: 1 of 96 entries, the first {value} at [2, 1]\n"
        f"  {LEAVE_OUT}"
    )


@frameworks
@pytest.mark.parametrize("name", ["lsuv", "signal_propagation"])
def test_weights_that_are_not_finite_are_an_error(name, make):
    model, forward, options, path = make()
    broken = ix.survey(model, inputs=X, forward=forward, **options)
    weight = broken.at(path.format(1))
    model = broken.write({path.format(1): jnp.asarray(weight).at[4, 2].set(jnp.inf)})
    with pytest.raises(ix.InitaxError) as caught:
        VERBS[name](model, X, forward, options)
    assert str(caught.value) == (
        f"{name} measures on data that is not finite.\n"
        f"  {path.format(1)} float32[6, 6]: 1 of 36 entries, the first inf at [4, 2]\n"
        f'  draw it anew: ix.reinit(model, {{"{path.format(1)}": "he_normal"}}, key)'
    )


def test_weights_that_are_drawn_may_be_anything_before():
    model = [{"w": jnp.full((6, 6), jnp.nan)}]
    _, forward, options, _ = pytree()
    assert propagate_drawn(model, X, forward, options).not_finite == ()


def overflow(x):
    """A function that is beyond float32 for most numbers."""
    return jnp.exp(1000 + x)


@frameworks
def test_what_becomes_not_finite_inside_is_left_alone_and_the_first_is_named(make):
    model, forward, options, path = make(overflow)
    new, report = ix.lsuv(model, X, forward=forward, center=True, **options)
    assert [layer.path for layer in report.layers] == [path.format(0)]
    assert report.skipped == {
        path.format(1): "what reaches it is not finite, here first",
        path.format(2): f"what reaches it is not finite, first at {path.format(1)}",
    }
    signals = ix.signal_propagation(model, X, forward=forward, **options)
    assert signals.not_finite == (path.format(1), path.format(2))
    assert str(signals).endswith(f"\n\nnot finite: {path.format(1)} first, of 2")
    leaves = [leaf for leaf in jax.tree.leaves(new) if isinstance(leaf, jax.Array)]
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)


def test_an_output_that_overflows_its_type_is_not_calibrated():
    weights = {"a": jnp.eye(6, dtype=jnp.float16), "b": jnp.full((6, 6), 6e4, jnp.float16)}
    x = 10 * jnp.ones((4, 6), jnp.float16) * jnp.arange(1, 5, dtype=jnp.float16)[:, None]
    _, report = ix.lsuv(weights, x, forward=lambda p, x: x @ p["a"] @ p["b"], skip="a")
    assert report.layers == ()
    assert report.skipped == {"a": "skipped as asked", "b": "its output is not finite, here first"}
    assert "calibrated: 0" in str(report)


def test_entries_of_a_stack_are_named_one_by_one():
    def forward(params, x):
        return jax.lax.scan(lambda x, w: (jnp.exp(jnp.exp(x @ w)), None), x, params["w"])[0]

    _, report = ix.lsuv({"w": jnp.stack([jnp.eye(6)] * 4)}, X, forward=forward)
    (row,) = report.layers
    assert np.isfinite(row.after).tolist() == [True, True, False, False]
    assert report.skipped == {
        "w[2]": "what reaches it is not finite, here first",
        "w[3]": "what reaches it is not finite, first at w[2]",
    }


def test_infinities_that_reach_no_weight_are_no_fault():
    mask = jnp.where(jnp.tri(6, dtype=bool), 0, -jnp.inf)

    def forward(params, x, mask):
        return jax.nn.softmax(x @ params["a"] + mask[2:3]) @ params["b"]

    params = {"a": jnp.eye(6), "b": jnp.eye(6)}
    _, report = ix.lsuv(params, (X, mask), forward=forward)
    assert [layer.path for layer in report.layers] == ["a", "b"]
    assert ix.signal_propagation(params, (X, mask), forward=forward).not_finite == ()


def test_integers_are_data():
    params = {"table": jax.random.normal(KEY, (10, 6)), "w": jnp.eye(6)}
    forward = lambda p, ids: p["table"][ids] @ p["w"]  # noqa: E731
    _, report = ix.lsuv(params, jnp.arange(8), forward=forward)
    assert [layer.path for layer in report.layers] == ["w"]
    assert float(report.layers[0].after) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_outputs_whose_squares_are_no_numbers_are_calibrated_all_the_same(size):
    new, report = ix.lsuv({"w": jnp.eye(6)}, size * X, forward=lambda p, x: x @ p["w"])
    assert float(report.layers[0].before) == pytest.approx(size**2 * float(jnp.var(X)), rel=1e-4)
    assert float(jnp.var(size * X @ new["w"])) == pytest.approx(1, rel=1e-4)


def test_a_factor_beyond_the_type_of_a_weight_is_an_error():
    w = jnp.full((6, 6), 100, jnp.float16)
    x = jnp.full((4, 6), 1e-7, jnp.float16) * jnp.arange(1, 5, dtype=jnp.float16)[:, None]
    with pytest.raises(ix.InitaxError) as caught:
        ix.lsuv({"w": w}, x, forward=lambda p, x: x @ p["w"])
    assert str(caught.value) == (
        'lsuv: "w", scaled so that its output has the target variance, does not fit float16.\n'
        "  scale the inputs, or calibrate in float32 and cast afterwards"
    )
