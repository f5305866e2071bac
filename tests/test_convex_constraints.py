"""Behind a positivity map the effective weight has the scheme's law, and the stored one is its inverse image."""

import json
import math
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from scipy import stats

import initax as ix
from initax._math._positivity import POSITIVITY
from initax.schemes._kernels import (
    HalfNormalKernel,
    IntervalKernel,
    LogNormalKernel,
    TruncatedNormalKernel,
    UniformKernel,
)
from tests.tables import KEY

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())["positivity_inverse"]
LINES = (
    '  for positive weights: "hoedt", ("icnn", {"activation": ...}), ("constant", {"value": ...}), ("uniform", ...)\n'
    "  for a whole input-convex network: ix.convex.rules(model, activation)"
)


def behind(function):
    return lambda array: paramax.Parameterize(function, array)


def linear(wrap, size=64):
    layer = eqx.nn.Linear(size, size, key=KEY)
    return eqx.tree_at(lambda each: each.weight, layer, wrap(layer.weight))


def softplus_of(array):
    return behind(jax.nn.softplus)(array)


WRAPPED = {
    "softplus": softplus_of,
    "exp": behind(jnp.exp),
    "square": behind(jnp.square),
    "abs": behind(jnp.abs),
    "relu": behind(jax.nn.relu),
    "square of exp": lambda array: behind(jnp.square)(behind(jnp.exp)(array)),
    "weight norm": paramax.WeightNormalization,
    "weight norm of softplus": lambda array: paramax.WeightNormalization(softplus_of(array)),
}


@pytest.mark.parametrize("name", ["softplus", "exp", "square", "abs", "relu"])
def test_inverse_images_are_the_reference(name, x64):
    weights = jnp.asarray(REFERENCE["w"], jnp.float64)
    np.testing.assert_allclose(POSITIVITY[name].inverse(weights), REFERENCE[name], rtol=1e-9)


@pytest.mark.parametrize("name", POSITIVITY)
def test_every_map_and_its_inverse_agree_in_float32_at_the_smallest_weights(name):
    each = POSITIVITY[name]
    least = 1e-12 if name != "square" else 1e-18
    weights = jnp.geomspace(least, min(each.most, 1e4) * 0.999, 4001, dtype=jnp.float32)
    back = each.forward(each.inverse(weights))
    assert bool(jnp.isfinite(each.inverse(weights)).all())
    # Near its bound a sigmoid keeps what one minus the weight keeps of seven digits.
    tolerance = 2e-6 if name != "sigmoid" else 4e-6
    np.testing.assert_allclose(back, weights, rtol=tolerance)


def test_the_obvious_inverse_of_softplus_would_not_do():
    weights = jnp.float32(3e-8)
    assert float(jnp.log(jnp.exp(weights) - 1)) == -math.inf
    assert float(POSITIVITY["softplus"].inverse(weights)) == pytest.approx(math.log(3e-8), rel=1e-6)


@pytest.mark.parametrize("name", WRAPPED)
def test_the_effective_weight_has_the_law_of_the_scheme(name, key):
    new = ix.reinit({"a": linear(WRAPPED[name])}, {"Linear": "hoedt"}, key)["a"]
    stored = jax.tree.leaves(eqx.filter(new.weight, eqx.is_array))[0]
    plain = ix.draw("hoedt", ix.parameter_key(key, drawn_path(new)), stored.shape, axes="o i")
    effective = paramax.unwrap(new).weight
    np.testing.assert_allclose(effective, plain, rtol=2e-5)
    assert (jax.tree.structure(new.weight)) == jax.tree.structure(linear(WRAPPED[name]).weight)
    constants = ix.plan({"a": linear(WRAPPED[name])}, {"Linear": "hoedt"}).draws[0].recipe.numbers
    z = (np.log(np.asarray(effective, np.float64)) - constants[0]) / constants[1]
    assert stats.kstest(z.ravel(), stats.norm.cdf).statistic < 2.693 / math.sqrt(z.size)
    assert float(new.bias[0]) < 0


def drawn_path(layer):
    return ix.plan({"a": layer}, {"Linear": "hoedt"}).draws[0].parameter.path


def test_weight_normalization_takes_schemes_of_any_sign(key):
    new = ix.reinit({"a": linear(paramax.WeightNormalization)}, {"Linear": "he_normal"}, key)
    plain = ix.draw("he_normal", ix.parameter_key(key, "a.weight.weight"), (64, 64), axes="o i")
    np.testing.assert_allclose(paramax.unwrap(new)["a"].weight, plain, rtol=2e-5, atol=1e-7)


def test_behind_a_mask_a_weight_is_drawn_whole_and_its_effective_fans_are_what_is_let_through(key):
    mask = jnp.tri(64, dtype=bool)
    model = {"a": linear(lambda weight: paramax.Parameterize(jnp.where, mask, weight, 0))}
    (drawn,) = (each for each in ix.plan(model, {"Linear": "he_normal"}).draws if each.parameter.role == "weight")
    assert (drawn.parameter.fan_in, drawn.parameter.effective_fan_in) == (64, 32.5)
    new = ix.reinit(model, {"Linear": "he_normal"}, key)["a"]
    plain = ix.draw("he_normal", ix.parameter_key(key, "a.weight.args.1"), (64, 64), axes="o i")
    np.testing.assert_array_equal(new.weight.args[1], plain)
    np.testing.assert_array_equal(new.weight.args[0], mask)
    np.testing.assert_array_equal(paramax.unwrap(new).weight, jnp.where(mask, plain, 0))
    effective = {"Linear": ("he_normal", {"fans": "effective"})}
    jitted = jax.jit(lambda key: ix.reinit(model, effective, key)["a"].weight.args[1])(key)
    np.testing.assert_array_equal(jitted, ix.reinit(model, effective, key)["a"].weight.args[1])


def test_a_map_of_ones_own_is_registered_with_its_inverse(key):
    def cube(stored):
        return jnp.abs(stored) ** 3

    model = {"a": linear(behind(cube))}
    with pytest.raises(ix.RuleError) as error:
        ix.plan(model, {"a": ix.Scheme("hoedt", bias=None)})
    assert "behind Parameterize(cube), whose inverse is not known" in str(error.value)
    ix.convex.register_positivity("test_cube", cube, inverse=lambda weight: weight ** (1 / 3))
    new = ix.reinit(model, {"*": "hoedt"}, key)
    plain = ix.draw("hoedt", ix.parameter_key(key, "a.weight.args.0"), (64, 64), axes="o i")
    np.testing.assert_allclose(paramax.unwrap(new)["a"].weight, plain, rtol=2e-5)


def test_a_layer_that_maps_its_own_weight_is_declared_with_the_map(key):
    class Own(eqx.Module):
        raw: jax.Array
        bias: jax.Array

        def __call__(self, x):
            return jax.nn.softplus(self.raw) @ x + self.bias

    ix.register_layer(Own, kind="Linear", raw="o i", bias="o", positivity={"raw": "softplus"})
    model = Own(jnp.zeros((30, 20)), jnp.zeros(30))
    new = ix.reinit(model, {"*": ("icnn", {"activation": "softplus"})}, key)
    scheme = ix.schemes.icnn("softplus", part="alone")
    plain = ix.draw(scheme, ix.parameter_key(key, "raw"), (30, 20), axes="o i")
    np.testing.assert_allclose(jax.nn.softplus(new.raw), plain, rtol=2e-6)
    expected = ix.draw(scheme, key, (30,), role="bias", fan_in=20, fan_out=30)
    np.testing.assert_array_equal(new.bias, expected)


def test_what_is_frozen_stays(key):
    frozen, whole = linear(paramax.NonTrainable), paramax.NonTrainable(eqx.nn.Linear(3, 2, key=KEY))
    model = {"a": frozen, "b": whole, "c": eqx.nn.Linear(3, 2, key=KEY)}
    plan = ix.plan(model, {"*": "he_normal"})
    assert {each.parameter.path for each in plan.draws} == {"c.weight", "c.bias"}
    assert {each.parameter.path: each.reason.text for each in plan.kept} == {
        "a.weight.tree": "frozen by NonTrainable",
        "a.bias": "its weight is not drawn",
        "b.tree.weight": "frozen by NonTrainable",
        "b.tree.bias": "frozen by NonTrainable",
    }
    new = plan.draw(key)
    assert new["a"].weight.tree is frozen.weight.tree
    assert new["b"].tree.weight is whole.tree.weight


def test_stacked_wrappers_are_read_per_member(key):
    stack = eqx.filter_vmap(lambda each: linear(softplus_of, 16))(jax.random.split(KEY, 3))
    plan = ix.plan(stack, {"*": "hoedt"})
    assert plan.draws[0].parameter.fan_in == 16
    effective = paramax.unwrap(plan.draw(key)).weight
    assert effective.shape == (3, 16, 16)
    assert float(effective.min()) > 0


ERRORS = {
    "negative values": (
        lambda: ix.plan({"a": linear(softplus_of)}, {"*": "he_normal"}),
        'rule "*": he_normal gives negative values, and "a.weight.args.0" is positive (softplus).\n' + LINES,
    ),
    "a negative constant": (
        lambda: ix.plan({"a": linear(softplus_of)}, {"*": ("constant", {"value": -0.5})}),
        'rule "*": constant(value=-0.5) gives negative values, and "a.weight.args.0" is positive (softplus).\n' + LINES,
    ),
    "zeros where there is no zero": (
        lambda: ix.plan({"a": linear(behind(jnp.exp))}, {"*": "zeros"}),
        'rule "*": zeros gives zeros, and "a.weight.args.0" is never zero (exp).\n' + LINES,
    ),
    "an initializer with negative values": (
        lambda: ix.plan({"a": linear(softplus_of)}, {"*": jax.nn.initializers.he_normal()}),
        'rule "*": variance_scaling gives negative values, and "a.weight.args.0" is positive (softplus).\n' + LINES,
    ),
    "a bounded map": (
        lambda: ix.plan({"a": linear(behind(jax.nn.sigmoid))}, {"*": "hoedt"}),
        'rule "*": hoedt gives weights above 1, which "a.weight.args.0" can\'t hold (sigmoid).\n'
        "  expected: 7.23 of 4096 entries\n"
        "  use a map without an upper bound: softplus, exp, square",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_does_not_fit_behind_a_map_is_an_error_in_whole(name):
    call, text = ERRORS[name]
    with pytest.raises(ix.SchemeError) as error:
        call()
    assert str(error.value) == text


def test_positive_schemes_fit():
    model = {"a": linear(behind(jnp.square))}
    for scheme in ("zeros", "ones", "uniform", "identity", ("scaled", {"scheme": "ones", "factor": 0.2})):
        assert len(ix.plan(model, {"*": scheme})) == 2
    below_one = [
        ("constant", {"value": 0.3}),
        ("uniform", {"lower": 0.0, "upper": 1.0}),
        ("truncated_normal", {"stddev": 0.4, "lower": 0.5, "upper": 2.0}),
        jax.nn.initializers.uniform(0.5),
    ]
    for each in below_one:
        assert len(ix.plan({"a": linear(behind(jax.nn.sigmoid))}, {"*": each})) == 2


SHARES = [
    (TruncatedNormalKernel(0.0, 2.0), (0.5,), stats.truncnorm(0, 2, scale=0.5)),
    (TruncatedNormalKernel(1.0, math.inf), (0.5, 0.1), stats.truncnorm(1, math.inf, loc=0.1, scale=0.5)),
    (IntervalKernel(), (0.1, 0.6), stats.uniform(0.1, 0.5)),
    (UniformKernel(0.0), (0.8,), stats.uniform(0, 0.8)),
    (HalfNormalKernel(), (0.5,), stats.halfnorm(scale=0.5)),
    (LogNormalKernel(), (-1.0, 0.5), stats.lognorm(0.5, scale=math.exp(-1))),
]


@pytest.mark.parametrize(("kernel", "numbers", "law"), SHARES, ids=lambda part: type(part).__name__)
def test_the_share_beyond_a_bound_is_that_of_the_law(kernel, numbers, law):
    for bound in (0.05, 0.3, 0.7, 5.0):
        assert kernel.above(numbers, bound) == pytest.approx(law.sf(bound), abs=1e-12)
    assert kernel.lowest(numbers) == pytest.approx(law.support()[0])
    assert kernel.mean(numbers) == pytest.approx(law.mean())


def test_what_has_no_spread_is_beyond_a_bound_or_is_not():
    for kernel, numbers in ((TruncatedNormalKernel(), (0.0, 0.7)), (LogNormalKernel(), (math.log(0.7), 0.0))):
        assert [kernel.above(numbers, bound) for bound in (0.6, 0.8)] == [1.0, 0.0]


class Doubled(paramax.AbstractUnwrappable):
    """A wrapper that nobody described."""

    half: jax.Array

    def unwrap(self):
        return self.half * 2


KEPT = {
    "a wrapper of one's own": (Doubled, "undeclared: behind Doubled, whose inverse is not known"),
    "a map that is not positive near zero": (
        lambda weight: softplus_of(behind(jnp.exp)(weight)),
        "undeclared: behind softplus of exp, which can't be near zero",
    ),
    "a mask of numbers": (
        lambda weight: paramax.Parameterize(jnp.where, jnp.ones(weight.shape), weight, 0),
        "undeclared: behind Parameterize(where), whose inverse is not known; "
        'ix.convex.register_positivity("where", where, inverse=...)',
    ),
    "a norm whose scale is frozen": (
        lambda weight: eqx.tree_at(
            lambda norm: norm.scale,
            paramax.WeightNormalization(weight),
            paramax.NonTrainable(jnp.ones((len(weight), 1))),
        ),
        "its scale is kept: frozen by NonTrainable",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_behind_no_known_map_is_kept_with_the_reason(name):
    wrap, reason = KEPT[name]
    assert str(ix.layers(linear(wrap))[0]["weight"].excluded) == reason


def test_vectors_of_a_spectral_norm_that_are_not_stacked_in_front_keep_their_shapes(key):
    def make(start):
        return eqx.nn.SpectralNorm(eqx.nn.Linear(5, 3, use_bias=False, key=start), "weight", key=start)

    stack = eqx.filter_vmap(make, out_axes=eqx.if_array(1))(jax.random.split(KEY, 2))
    with pytest.warns(ix.InitaxWarning, match="are not stacked along their first axes"):
        plan = ix.plan(stack, {"Linear": "he_normal"})
    assert [row.parameter.path for row in plan.draws] == ["layer.weight"]
