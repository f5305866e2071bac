"""Weights of zero mean over the inputs of each output: their law, and what it does to a deep network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import initax as ix
from initax._math._axes import resolve
from tests.tables import KEY

LAYOUTS = {
    "matrix": ((400, 300), None, {}),
    "outputs first": ((300, 400), "o i", {}),
    "gates": ((64, 4 * 128), "i (gate o)", {"gate": 4}),
    "groups": ((4 * 64, 32, 3, 3), "(g o) i ...", {"g": 4}),
    "convolution": ((3, 3, 16, 64), None, {}),
    "stack": ((5, 64, 128), "stack i o", {}),
    "heads": ((64, 8, 16), "i o1 o2", {}),
}
SCHEMES = ("he_normal", "glorot_uniform", ("normal", {"stddev": 0.02}))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.slow(one_in=5)
def test_each_output_has_mean_zero_and_the_variance_stays(name, scheme):
    shape, pattern, sizes = LAYOUTS[name]
    axes = resolve(pattern or "... i o", shape, sizes)
    plain, made = (
        np.asarray(ix.draw(each, KEY, shape, axes=pattern, sizes=sizes), np.float64)
        for each in (scheme, ("centered", {"scheme": scheme}))
    )
    stored = np.asarray(axes.to_canonical(made))
    rows = stored.reshape(axes.batch_size, -1, stored.shape[-1])
    assert np.abs(rows.mean(1)).max() < 1e-5 * plain.std()
    # The estimate of a variance from n entries of a normal is off by sqrt(2 / n) in one standard deviation.
    assert abs(made.var() / plain.var() - 1) < 4 * np.sqrt(2 / plain.size) + 1 / plain.size**0.5


def test_few_inputs_show_that_the_lost_degree_of_freedom_is_made_up_for():
    """With eight inputs the mean takes an eighth of the variance off."""
    made = np.asarray(ix.draw(("centered", {"scheme": ("normal", {"stddev": 1.0})}), KEY, (8, 50_000)))
    assert abs(made.var() - 1) < 4 * np.sqrt(2 / (7 * 50_000))


def test_biases_scales_and_embeddings_are_as_they_were():
    scheme = ix.schemes.centered(ix.Scheme("he_normal", bias=("normal", {"stddev": 1.0})))
    assert [str(scheme.parts[role]) for role in ("weight", "recurrent", "bias", "embedding")] == [
        "centered(he_normal)",
        "centered(he_normal)",
        "normal(stddev=1)",
        "he_normal",
    ]


@pytest.mark.parametrize("rule", [("centered", {"scheme": "he_normal"}), ("auto", {"center": True})], ids=str)
def test_it_is_plain_data(rule):
    model = eqx.nn.MLP(8, 8, 16, depth=2, key=KEY)
    x = jax.ShapeDtypeStruct((8,), "float32")
    plan = ix.plan(model, {"*": rule}, inputs=x)
    assert ix.Plan.from_json(plan.to_json(), model, inputs=x) == plan


def test_auto_with_centered_weights_keeps_its_name_beside_another_bias():
    model = eqx.nn.MLP(8, 8, 16, depth=1, key=KEY)
    x = jax.ShapeDtypeStruct((8,), "float32")
    plan = ix.plan(model, {"*": (("auto", {"center": True}), "ones")}, inputs=x)
    assert str(plan.draws[0].initializer) == "auto(center=True)"
    assert ix.Plan.from_json(plan.to_json(), model, inputs=x) == plan


ACTIVATIONS = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "tanh": jnp.tanh}


def deep(activation, width=256, depth=30):
    shapes = (jax.ShapeDtypeStruct((width, width), "float32"), jax.ShapeDtypeStruct((width,), "float32"))

    def forward(model, x):
        for place, (w, b) in enumerate(model):
            x = (activation(x) if place else x) @ w + b[None, :]
        return x

    return [shapes] * depth, forward


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.slow(one_in=3)
def test_thirty_layers_keep_their_length_and_tell_examples_apart(name):
    model, forward = deep(ACTIVATIONS[name])
    x = jax.random.normal(jax.random.key(1), (64, 256))
    plan = ix.plan(ix.survey(model, inputs=x, forward=forward), {"*": ("auto", {"center": True})})
    run = jax.jit(forward)
    outputs = [np.asarray(run(plan.draw(jax.random.key(draw)), x)) for draw in range(5)]
    assert 0.7 < np.median([np.mean(each**2) for each in outputs]) < 1.4
    rows = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in outputs]
    correlations = [(each @ each.T - np.eye(64)).sum() / (64 * 63) for each in rows]
    assert abs(np.mean(correlations)) < 0.05


def test_auto_divides_by_the_variance_of_what_reaches_a_weight():
    """Behind a relu that is 1/2 - 1/(2 pi), where the mean square is 1/2; behind another rule's weights likewise."""
    model, forward = deep(jax.nn.relu, depth=3)
    x = jax.ShapeDtypeStruct((4, 256), "float32")
    survey = ix.survey(model, inputs=x, forward=forward)
    plan = ix.plan(survey, {"*": ("auto", {"center": True})})
    reach = [each.parameter.input_second_moment for each in plan.draws if each.parameter.role == "weight"]
    np.testing.assert_allclose(reach, [1, 0.5 - 0.5 / np.pi, 0.5 - 0.5 / np.pi], rtol=1e-4)
    rules = {"*": "auto", "1": ("centered", {"scheme": ("normal", {"stddev": (2 / 256) ** 0.5})})}
    draws = ix.plan(survey, rules).draws
    reach = [each.parameter.input_second_moment for each in draws if each.parameter.role == "weight"]
    np.testing.assert_allclose(reach[2], 0.5 * 2 * (0.5 - 0.5 / np.pi), rtol=1e-4)


ERRORS = {
    "few inputs": (
        eqx.nn.Linear(4, 8, key=KEY),
        '"weight": one output has 4 inputs, fewer than 8.\n  shape (8, 4), axes "o i"',
    ),
    "depthwise": (
        eqx.nn.Conv1d(8, 8, 9, groups=8, key=KEY),
        '"weight": it is depthwise: its mean is the channel itself.\n  shape (8, 1, 9), axes "(g o) i ..."',
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_it_can_not_serve_is_refused(name):
    model, text = ERRORS[name]
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(model, {"*": ("centered", {"scheme": "he_normal"})})
    assert str(caught.value) == (
        f'rule "*": centered can\'t serve {text}\n  for it write a rule of its own: {{"weight": "he_normal"}}'
    )


CONSTANT = {
    "zeros": (("centered", {"scheme": "zeros"}), "zeros"),
    "ones": (("centered", {"scheme": "ones"}), "ones"),
    "a number": (("centered", {"scheme": ("constant", {"value": 0.5})}), "constant(value=0.5)"),
    "a number for each output": (
        ("centered", {"scheme": ("constant", {"value": [1.0, 2.0, 3.0]})}),
        "constant(value=[1.0, 2.0, 3.0])",
    ),
    "nothing of something": (
        ("centered", {"scheme": ("scaled", {"scheme": "he_normal", "factor": 0})}),
        "scaled(he_normal, 0)",
    ),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_of_a_constant_nothing_would_be_left(name):
    scheme, shown = CONSTANT[name]
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(eqx.nn.Linear(16, 3, key=KEY), {"*": scheme})
    assert str(caught.value) == (
        f'rule "*": centered can\'t serve "weight": {shown} gives each output equal weights, and less their mean '
        "these are zero.\n"
        '  shape (3, 16), axes "o i"\n'
        '  for it write a rule of its own: {"weight": "zeros"}'
    )


def test_what_a_framework_starts_with_zeros_stays_zero_under_default():
    module = nn.Sequential([nn.Dense(8), nn.Dense(8, kernel_init=nn.initializers.zeros)])
    x = jnp.ones((1, 16))
    rules = {"*": ("centered", {"scheme": "default"})}
    drawn = ix.plan(module.init(KEY, x), rules, module=module, inputs=x).arrays(KEY)
    assert (drawn["layers_1.kernel"] == 0).all()
    np.testing.assert_allclose(drawn["layers_0.kernel"].mean(0), 0, atol=1e-7)


@pytest.mark.parametrize("scheme", ["identity", "zero_init"])
def test_a_matrix_without_chance_is_centered(scheme):
    weight = ix.draw(("centered", {"scheme": scheme}), KEY, (16, 16))
    np.testing.assert_allclose(weight.mean(0), 0, atol=1e-7)
    assert float(jnp.abs(weight).max()) > 0.5


def test_positive_weights_are_refused():
    model = ix.convex.FICNN(8, 1, [16, 16], key=KEY)
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(model, {"*": ("centered", {"scheme": "he_normal"})})
    assert str(caught.value) == (
        'rule "*": centered can\'t serve "layers.1.weight": '
        "it is stored behind square, and its mean may have to stay.\n"
        '  shape (16, 16), axes "o i"\n'
        '  for it write a rule of its own: {"layers.1.weight": "he_normal"}'
    )
