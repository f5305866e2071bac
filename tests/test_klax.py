"""klax's networks as they are: what is found in them, and that rules repair them. klax needs Python 3.12."""

import inspect
import math

import jax
import jax.numpy as jnp
import klax
import numpy as np
import pytest
from scipy import stats

import initax as ix
from initax._adapters._klax import ROWS
from initax._math._positive_moments import ensemble, with_passthrough
from initax.convex._klax_names import ANSWERS
from tests.tables import KEY

OPTIONS = {
    "passthrough": {},
    "no passthrough": {"use_passthrough": False},
    "non-decreasing": {"non_decreasing": True},
}


def positive_weight(layer):
    linear = layer.linear_y
    return (linear.weights[0] if hasattr(linear, "weights") else linear.weight).parameter


@pytest.mark.parametrize("name", OPTIONS)
def test_rules_repair_a_ficnn(name, key):
    model = klax.nn.FICNN(8, 1, [64, 64, 64], key=KEY, **OPTIONS[name])
    rules = ix.convex.rules(model, jax.nn.softplus)
    assert list(rules) == [f"layers.{place}.linear_y" for place in range(4)]
    new = ix.reinit(model, rules, key)
    assert jax.tree.structure(new) == jax.tree.structure(model)
    law = ensemble("softplus", 64) if name == "no passthrough" else with_passthrough("softplus", 64)
    weights = np.log(np.asarray(positive_weight(new.layers[1]), np.float64)).ravel()
    assert stats.kstest(weights, stats.norm(law.log_mean, law.log_std).cdf).statistic < 2.693 / math.sqrt(weights.size)
    for layer in new.layers[1:]:
        np.testing.assert_allclose(layer.linear_y.bias, law.bias_mean, rtol=3e-6)
    assert not np.any(new.layers[0].linear_y.bias)
    x = jax.random.normal(key, (256, 8))
    ours, theirs = (jax.vmap(klax.finalize(each))(x) for each in (new, model))
    if name != "non-decreasing":
        assert abs(float(ours.mean())) < 1.5
    assert abs(float(theirs.mean())) > 4


def test_thirty_layers_keep_mean_and_variance_where_klax_does_not(key):
    x, outputs = jax.random.normal(key, (128, 8)), []
    for seed in range(5):
        model = klax.nn.FICNN(8, 64, [64] * 30, key=jax.random.key(seed))
        new = ix.reinit(model, ix.convex.rules(model, "softplus"), jax.random.key(seed))
        found = jax.vmap(klax.finalize(new))(x)
        outputs.append((float(found.mean()), float(found.var())))
    mean, variance = np.median(np.array(outputs), axis=0)
    assert -0.4 < mean < 0.3
    assert 0.4 < variance < 2.5
    assert float(jax.vmap(klax.finalize(model))(x).mean()) > 1e6


@pytest.mark.parametrize("name", ["FICNN", "PICNN"])
def test_every_argument_of_klax_is_one_of_ours_or_answered(name):
    theirs, ours = (inspect.signature(getattr(each, name)).parameters for each in (klax.nn, ix.convex))
    assert set(theirs) - set(ours) <= set(ANSWERS)


def test_rules_find_the_convex_path_of_a_picnn(key):
    model = klax.nn.PICNN(8, 5, 1, [32, 32], key=KEY)
    rules = ix.convex.rules(model, "softplus")
    assert {path: arguments["part"] for path, (_, arguments) in rules.items()} == {
        "layers.0.linear_y": "first",
        "layers.1.linear_y": "auto",
        "layers.2.linear_y": "auto",
    }
    stds = {each.parameter.path: each.std for each in ix.plan(model, rules).draws}
    assert stds["layers.0.linear_y.weights.0"] == pytest.approx(math.sqrt(1 / 2 / 8))
    assert stds["layers.1.linear_y.weights.2"] == pytest.approx(math.sqrt(1 / 4 / 32))


def test_weights_behind_klax_wrappers_have_the_law_of_the_scheme(key):
    for wrap, scheme in (
        (klax.NonNegative, "hoedt"),
        (lambda array: klax.Parameterize(jax.nn.softplus, array), "hoedt"),
        (lambda array: klax.Parameterize(jnp.square, klax.NonNegative(array)), "hoedt"),
    ):
        layer = klax.nn.Linear(32, 32, jax.nn.initializers.ones, weight_wrap=wrap, key=KEY)
        plan = ix.plan({"a": layer}, {"Linear": scheme})
        plain = ix.draw(scheme, ix.parameter_key(key, plan.draws[0].parameter.path), (32, 32), axes="i o")
        np.testing.assert_allclose(klax.finalize(plan.draw(key))["a"].weight, plain, rtol=2e-5)
    with pytest.raises(ix.SchemeError, match="gives negative values"):
        ix.plan({"a": layer}, {"Linear": "he_normal"})


@pytest.mark.parametrize("sign", [1, -1])
def test_symmetric_weights_have_the_law_entry_by_entry(sign, key):
    wrap = klax.Symmetric if sign == 1 else klax.SkewSymmetric
    layer = klax.nn.Linear(200, 200, jax.nn.initializers.ones, weight_wrap=wrap, key=KEY)
    weight = klax.finalize(ix.reinit({"a": layer}, {"Linear": ("normal", {"stddev": 0.3})}, key))["a"].weight
    np.testing.assert_array_equal(weight, sign * weight.T)
    above = np.asarray(weight)[np.triu_indices(200, 1)]
    assert stats.kstest(above, stats.norm(scale=0.3).cdf).statistic < 2.693 / math.sqrt(above.size)


def test_what_is_frozen_stays(key):
    layer = klax.non_trainable(klax.nn.Linear(3, 4, jax.nn.initializers.ones, key=KEY))
    plan = ix.plan({"a": layer, "b": klax.nn.Linear(3, 4, jax.nn.initializers.ones, key=KEY)}, {"*": "he_normal"})
    assert {each.parameter.path for each in plan.draws} == {"b.weight", "b.bias"}


def test_initializers_of_klax_are_schemes(key):
    model = klax.nn.FICNN(8, 1, [16], key=KEY)
    scheme = (klax.hoedt_normal(), klax.hoedt_bias())
    new = ix.reinit(model, {"layers.1.linear_y": scheme}, key)
    assert float(positive_weight(new.layers[1]).min()) > 0


def test_every_class_of_klax_that_owns_a_weight_and_a_bias_has_a_row():
    annotated = {name for name, each in vars(klax.nn).items() if "bias" in getattr(each, "__annotations__", {})}
    assert annotated == set(ROWS)
