"""Weights behind a mask: effective fans are what it lets through, and where nobody knows that, no scheme guesses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from flax import nnx

import initax as ix
from tests.tables import KEY

MASK = jnp.tri(64, dtype=bool)
TAPS = jnp.asarray(np.arange(3 * 3 * 3 * 5).reshape(3, 3, 3, 5) % 4 != 0, jnp.float32)
EFFECTIVE = {
    "he_normal": ("he_normal", {"fans": "effective"}),
    "siren": ("siren", {"fans": "effective"}),
    "icnn": ("icnn", {"fans": "effective", "part": "first", "activation": "relu"}),
    "auto": "auto",
}


def masked(layer):
    return eqx.tree_at(lambda each: each.weight, layer, paramax.Parameterize(jnp.where, MASK, layer.weight, 0))


def model():
    return {"a": masked(eqx.nn.Linear(64, 64, key=KEY))}


def forward(model, x):
    return paramax.unwrap(model)["a"](x)


def told(name):
    """What `auto` asks for, so that it does not warn."""
    return {"inputs": jax.ShapeDtypeStruct((64,), "float32"), "forward": forward} if name == "auto" else {}


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, eqx.filter(one, eqx.is_array), eqx.filter(other, eqx.is_array))


def text(name, path, shape, fans):
    return (
        f"{name} needs the effective fans of {path}, and what its mask lets through is not known here: the mask is "
        "traced or abstract.\n"
        f"  shape {shape}, nominal fan_in {fans[0]}, fan_out {fans[1]}\n"
        "  plan where it is an array, outside jax.jit: plan = ix.plan(model, ...); then inside: plan.draw(key)"
    )


@pytest.mark.parametrize("name", EFFECTIVE)
def test_a_traced_or_abstract_mask_is_no_full_one(name, key):
    rules, options = {"Linear": EFFECTIVE[name]}, told(name)
    expected = 'rule "Linear": ' + text(name, '"a.weight.args.1"', (64, 64), (64, 64))
    with pytest.raises(ix.SchemeError) as traced:
        eqx.filter_jit(lambda model, key: ix.reinit(model, rules, key, **options))(model(), key)
    with pytest.raises(ix.SchemeError) as abstract:
        ix.plan(eqx.filter_eval_shape(model), rules, **options)
    assert str(traced.value) == str(abstract.value) == expected


@pytest.mark.parametrize("name", EFFECTIVE)
def test_a_plan_made_outside_jit_draws_inside_what_it_draws_outside(name, key):
    built, rules = model(), {"Linear": EFFECTIVE[name]}
    plan = ix.plan(built, rules, **told(name))
    eager = ix.reinit(built, rules, key, **told(name))
    assert_same(eqx.filter_jit(plan.draw)(key), eager)
    assert_same(eqx.filter_jit(lambda key: ix.reinit(built, rules, key, **told(name)))(key), eager)


def test_what_needs_no_effective_fans_is_drawn_in_jit_as_outside(key):
    rules = {"Linear": "he_normal"}
    jitted = eqx.filter_jit(lambda model, key: ix.reinit(model, rules, key))(model(), key)
    assert_same(jitted, ix.reinit(model(), rules, key))


def test_a_plan_says_that_it_does_not_know():
    shown = [str(ix.plan(each, {"Linear": "he_normal"})) for each in (model(), eqx.filter_eval_shape(model))]
    assert [each.count("64 (≈32.5)") for each in shown] == [4, 0]
    assert [each.count("64 (≈?)") for each in shown] == [0, 4]


def test_a_bias_has_the_effective_fans_of_its_masked_weight():
    plan = ix.plan(model(), {"Linear": ("uniform_fan_in", {"fans": "effective"})})
    assert [draw.std for draw in plan.draws] == pytest.approx([(1 / (3 * 32.5)) ** 0.5] * 2)


def test_a_mask_counts_in_a_layer_read_off_the_trace():
    class Own(eqx.Module):
        kernel: jax.Array
        shift: jax.Array

        def __call__(self, x):
            return self.kernel @ x + self.shift

    def build():
        kernel = paramax.Parameterize(jnp.where, MASK, jnp.ones((64, 64)), 0)
        return Own(kernel, jnp.ones(64))

    options = {"inputs": jnp.ones(64), "forward": lambda model, x: paramax.unwrap(model)(x)}
    plan = ix.plan(build(), {"*": EFFECTIVE["he_normal"]}, **options)
    assert [draw.parameter.effective_fan_in for draw in plan.draws] == [32.5, 32.5]
    with pytest.raises(ix.SchemeError) as error:
        ix.plan(eqx.filter_eval_shape(build), {"*": EFFECTIVE["he_normal"]}, **options)
    assert str(error.value) == 'rule "*": ' + text("he_normal", '"kernel.args.1"', (64, 64), (64, 64))


def test_restated_axes_keep_what_masks_and_strides_leave():
    scheme = ix.Scheme(EFFECTIVE["he_normal"], axes={"weight": "i o"})
    plan = ix.plan(model(), {"Linear": scheme})
    assert [draw.parameter.effective_fan_in for draw in plan.draws] == [32.5, 32.5]
    with pytest.raises(ix.SchemeError) as error:
        ix.plan(eqx.filter_eval_shape(model), {"Linear": scheme})
    assert str(error.value) == 'rule "Linear": ' + text("he_normal", '"a.weight.args.1"', (64, 64), (64, 64))
    conv = eqx.nn.Conv2d(3, 8, 3, stride=2, key=KEY)
    strided = ix.plan(conv, {"*": ix.Scheme("he_normal", axes={"weight": "o i ..."})}).draws[0].parameter
    assert (strided.effective_fan_in, strided.effective_fan_out) == (27, 18)


@pytest.mark.parametrize("cls", [nnx.Conv, nnx.ConvTranspose])
def test_the_mask_of_a_flax_convolution_that_is_traced_or_abstract(cls, key):
    def build():
        return cls(3, 5, (3, 3), mask=TAPS, rngs=nnx.Rngs(0))

    def jitted(scheme):
        graph, state = nnx.split(build())
        return jax.jit(lambda state: nnx.state(ix.reinit(nnx.merge(graph, state), {"*": scheme}, key)))(state)

    expected = 'rule "*": ' + text("he_normal", '"kernel"', (3, 3, 3, 5), (27, 45))
    with pytest.raises(ix.SchemeError) as traced:
        jitted(EFFECTIVE["he_normal"])
    with pytest.raises(ix.SchemeError) as abstract:
        ix.plan(nnx.eval_shape(build), {"*": EFFECTIVE["he_normal"]})
    assert str(traced.value) == str(abstract.value) == expected
    eager = ix.reinit(build(), {"*": "he_normal"}, key)
    np.testing.assert_array_equal(jitted("he_normal")["kernel"][...], eager.kernel[...])
