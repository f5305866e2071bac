"""The scheme `scaled` with a factor for each layer of a stack."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initax as ix
from tests.tables import KEY, compilations, filled

FACTORS = [(2 * layer) ** -0.5 for layer in range(1, 5)]


def stack(make=lambda key: eqx.nn.Linear(7, 5, key=key), *counts):
    """A stack of 4 layers, or of stacks."""
    for _ in counts or (4,):
        make = eqx.filter_vmap(make)
    return filled(eqx.filter_eval_shape(make, jax.random.split(KEY, counts or (4,))))


@nnx.split_rngs(splits=4)
@nnx.vmap(in_axes=(0,), out_axes=nnx.StateAxes({nnx.Param: 1, ...: 0}))
def stacked_inside(rngs):
    return nnx.Linear(7, 5, rngs=rngs)


def by_layer(scheme, factors=FACTORS):
    return ("scaled", {"scheme": scheme, "factor": factors})


MODELS = {
    "eqx.Linear": (stack, "weight", 0, {}),
    "eqx.Conv2d": (lambda: stack(lambda key: eqx.nn.Conv2d(4, 6, 3, groups=2, key=key)), "weight", 0, {}),
    "eqx.LSTMCell": (lambda: stack(lambda key: eqx.nn.LSTMCell(3, 5, key=key)), "weight_hh", 0, {}),
    "twice": (lambda: stack(lambda key: eqx.nn.Linear(3, 2, key=key), 4, 6), "weight", 0, {}),
    "nnx.Linear": (lambda: filled(nnx.eval_shape(lambda: stacked_inside(nnx.Rngs(0)))), "kernel", 1, {}),
    "a rule's own axes": (lambda: {"w": jnp.zeros((7, 4, 5))}, "w", 1, {"axes": "i layer o"}),
}  # fmt: skip
"""A model, a weight, the axis of its layers, and what the rule restates."""

SCHEMES = {
    "he_normal": "he_normal",
    "uniform": "glorot_uniform",
    "orthogonal": "orthogonal",
    "ones": "ones",
    "scaled": ("scaled", {"scheme": "he_normal", "factor": 3.0}),
    "twice by layer": by_layer("he_normal", [1.0, 2.0, 3.0, 4.0]),
    "a callable": jax.nn.initializers.he_normal(),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow(one_in=7)
def test_each_layer_is_the_unscaled_draw_times_its_factor(name, scheme):
    make, path, axis, restated = MODELS[name]
    model = make()
    plain, scaled = (
        np.asarray(ix.plan(model, {"*": ix.Scheme(each, **restated)}).arrays(KEY)[path])
        for each in (SCHEMES[scheme], by_layer(SCHEMES[scheme]))
    )
    for layer, factor in enumerate(FACTORS):
        expected = np.take(plain, layer, axis) * np.float32(factor)
        np.testing.assert_array_equal(np.take(scaled, layer, axis), expected)


def test_each_layer_has_its_own_deviation_and_the_plan_that_of_all():
    model = stack(lambda key: eqx.nn.Linear(60, 50, key=key))
    plan = ix.plan(model, {"*": by_layer("lecun_normal")})
    weight = np.asarray(plan.arrays(KEY)["weight"], np.float64)
    error = 4 / np.sqrt(2 * 60 * 50)  # of a standard deviation, relative, four times
    for layer, factor in zip(weight, FACTORS, strict=True):
        assert np.std(layer) * 60**0.5 == pytest.approx(factor, rel=error)
    draw = plan.draws[0]
    assert draw.std == pytest.approx((np.mean(np.square(FACTORS)) / 60) ** 0.5)
    assert np.std(weight) == pytest.approx(draw.std, rel=error)
    assert str(draw.initializer) == "scaled(lecun_normal, [0.707107, 0.5, 0.408248, 0.353553])"
    assert "scaled(lecun_normal, [0.707107, 0.5, 0.408248, 0.353553])" in str(plan)


def test_it_is_plain_data_and_comes_back(tmp_path):
    model = stack()
    plan = ix.plan(model, {"*": by_layer("he_normal")})
    assert ix.Plan.from_json(plan.to_json(), model) == plan
    scheme = ix.schemes.scaled("he_normal", FACTORS)
    again = ix.Scheme(json.loads(json.dumps(scheme.spec())))
    assert again == scheme
    assert again != ix.schemes.scaled("he_normal", FACTORS[::-1])
    file = tmp_path / "rules.toml"
    file.write_text('Linear = ["scaled", {scheme = "he_normal", factor = [1, 0.5, 0.25, 0.125]}]\n')
    rules = ix.load_rules(file)
    assert ix.plan(model, rules) == ix.plan(model, {"Linear": by_layer("he_normal", (1.0, 0.5, 0.25, 0.125))})


@pytest.mark.parametrize("write", [tuple, np.array, jnp.array], ids=["tuple", "numpy", "jax"])
def test_numbers_may_be_written_in_several_ways(write):
    factors = [1.0, 0.5, 0.25, 0.125]
    assert ix.schemes.scaled("he_normal", write(factors)) == ix.schemes.scaled("he_normal", factors)


def test_other_factors_need_no_new_program():
    model = stack(lambda key: eqx.nn.Linear(11, 3, key=key))
    ix.plan(model, {"*": by_layer("he_normal")}).arrays(KEY)
    assert compilations(lambda: ix.plan(model, {"*": by_layer("he_normal", [4, 3, 2, 1])}).arrays(KEY)) == 0


def test_eager_and_jitted_draws_agree_also_for_many_stacks():
    models = [stack(), stack(), stack(lambda key: eqx.nn.Linear(5, 7, key=key))]
    plan = ix.plan(models, {"0": by_layer("he_normal"), "1": by_layer("he_normal", [1, 2, 3, 4]), "2": "he_normal"})
    eager, jitted = plan.arrays(KEY), jax.jit(plan.arrays)(KEY)
    for path, array in eager.items():
        np.testing.assert_array_equal(array, jitted[path])


def test_behind_a_constraint_the_lowest_entry_of_any_layer_counts():
    kernel = ix.plan(stack(), {"*": by_layer("ones", [0.5, 0.1, 2.0, 1.0])}).draws[0].recipe
    assert kernel.kernel.lowest(kernel.numbers) == 0.1
    assert kernel.kernel.above(kernel.numbers, 0.4) == 0.75
    negative = ix.plan(stack(), {"*": by_layer("ones", [0.5, -0.1, 2.0, 1.0])}).draws[0].recipe
    assert negative.kernel.lowest(negative.numbers) == -np.inf


def refused(model, factors):
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(model, {"Linear": by_layer("he_normal", factors)})
    return str(caught.value)


def test_another_number_of_factors_than_layers_is_an_error_with_both():
    assert refused(stack(), [0.5, 2.0]) == (
        'rule "Linear": scaled has 2 factors; "weight" is a stack of 4.\n'
        '  shape (4, 5, 7), axes "stack o i": one factor for each entry of axis 0\n'
        '  write "factor": [0.5, ...] with 4 numbers, or one number'
    )


def test_factors_for_what_is_no_stack_are_an_error():
    assert refused({"head": eqx.nn.Linear(3, 2, key=KEY)}, [0.5, 2.0, 1.0]) == (
        'rule "Linear": scaled has 3 factors, one for each layer of a stack; "head.weight" is not a stack.\n'
        '  shape (2, 3), axes "o i"\n'
        '  write one number, ("scaled", {"scheme": ..., "factor": 0.5}), or select the stack alone'
    )


@pytest.mark.parametrize(
    ("factors", "text"),
    [
        ([], "scaled: factor must be a number, not []."),
        ([1.0, "a"], "scaled: each factor must be a number, not 'a'."),
        ([1.0, float("nan")], "scaled: each factor must be a finite number, not nan."),
        (np.ones((2, 2)), f"scaled: factor must be a number, not {np.ones((2, 2))!r}."),
    ],
)
def test_factors_that_are_none_are_errors(factors, text):
    with pytest.raises(ix.SchemeError) as caught:
        ix.schemes.scaled("he_normal", factors)
    assert str(caught.value) == text
