"""Input-convex networks of Equinox and NNX under `reinit`, their default positivity map, and klax's arguments."""

import inspect
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

import initax as ix
from initax._math._positive_moments import ensemble, with_passthrough
from initax._math._positivity import POSITIVITY
from tests.tables import KEY
from tests.test_convex import NETWORKS, build, check_convex


def arrays_of(model):
    """Every parameter by path, as stored; the paths are those of a plan."""
    if isinstance(model, nnx.Module):
        return {".".join(map(str, names)): np.asarray(each[...]) for names, each in nnx.to_flat_state(nnx.state(model))}
    paths = jax.tree_util.tree_flatten_with_path(model)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(each) for path, each in paths}


@pytest.mark.parametrize("name", ["ficnn", "ficnn-relu", "no-passthrough", "non-decreasing", "positivity-softplus"])
@pytest.mark.parametrize("kind", ["equinox", "nnx"])
def test_reinit_under_rules_gives_the_draw_a_network_begins_with(kind, name):
    model = build(kind, name)
    rules = ix.convex.rules(model, NETWORKS[name].get("activation", "softplus"))
    before = arrays_of(model)
    again, other = ix.reinit(model, rules, KEY), ix.reinit(model, rules, jax.random.key(5))
    assert type(again) is type(other) is type(model)
    for path, array in arrays_of(again).items():
        np.testing.assert_array_equal(array, before[path])
    changed = {path for path, array in arrays_of(other).items() if not np.array_equal(array, before[path])}
    assert changed == {path for path in before if not path.endswith(".bias")}  # a bias of icnn is a constant
    for path, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, before[path])


@pytest.mark.parametrize("name", ["ficnn", "no-passthrough", "non-decreasing", "positivity-softplus"])
def test_plans_of_nnx_and_equinox_networks_have_the_same_rows(name):
    one, other = (build(kind, name) for kind in ("equinox", "nnx"))
    rules = ix.convex.rules(one, "softplus")
    assert ix.convex.rules(other, "softplus") == rules

    def rows(model):
        plan = ix.plan(model, rules)
        assert not plan.kept
        return {
            each.parameter.path: (
                each.parameter.fan_in,
                each.parameter.fan_out,
                each.std,
                each.recipe.numbers,
                each.parameter.constraint and each.parameter.constraint.name,
                each.rule,
            )
            for each in plan.draws
        }

    assert rows(one) == rows(other)
    transposed = {path: array.T.shape for path, array in arrays_of(other).items()}
    assert transposed == {path: array.shape for path, array in arrays_of(one).items()}


@pytest.mark.parametrize("part", ["positive", "alone"])
def test_a_redrawn_nnx_network_has_the_law_of_the_scheme(part, key):
    options = {"use_passthrough": part == "positive", "activation": "relu"}
    model = ix.convex.nnx.FICNN(8, 1, [128, 128], rngs=nnx.Rngs(0), **options)
    new = ix.reinit(model, ix.convex.rules(model, "relu"), nnx.Rngs(3))
    law = with_passthrough("relu", 128) if part == "positive" else ensemble("relu", 128)
    layer = new.layers[1]
    logarithms = np.log(np.square(np.asarray(layer.weight[...], np.float64))).ravel()
    found = stats.kstest(logarithms, stats.norm(law.log_mean, law.log_std).cdf).statistic
    assert found < 2.693 / math.sqrt(logarithms.size)
    np.testing.assert_allclose(layer.bias[...], law.bias_mean, rtol=3e-6)
    rows = [new.layers[0].passthrough[...] * math.sqrt(8)]
    rows += [layer.passthrough[...] * math.sqrt(16)] if part == "positive" else []
    for values in (np.asarray(each).ravel() for each in rows):
        assert stats.kstest(values, stats.norm.cdf).statistic < 2.693 / math.sqrt(values.size)
    check_convex(lambda row: new(row)[0], key, jnp.float32, size=8)


def test_partial_networks_of_both_frameworks_are_redrawn_alike():
    one = ix.convex.PICNN(4, 3, 2, [8, 8], key=KEY)
    other = ix.convex.nnx.PICNN(4, 3, 2, [8, 8], rngs=KEY)
    rules = ix.convex.rules(other, "softplus")
    assert rules == ix.convex.rules(one, "softplus")
    before = arrays_of(other)
    scale = ix.gain("softplus") ** 2
    context = {"context_layers.*": ("variance_scaling", {"scale": scale, "distribution": "normal"})}
    gates = {"gates.*": ("zeros", ("constant", {"value": 1.0})), "input_gates.*": ("zeros", "ones")}
    again = ix.reinit(other, rules | context | gates, KEY)
    for path, array in arrays_of(again).items():
        np.testing.assert_array_equal(array, before[path])
    plans = [ix.plan(model, rules) for model in (one, other)]
    numbers = [{each.parameter.path: each.std for each in plan.draws} for plan in plans]
    assert numbers[0] == numbers[1]
    kept = [{each.parameter.path.replace("kernel", "weight") for each in plan.kept} for plan in plans]
    assert kept[0] == kept[1]
    redrawn = ix.reinit(other, rules, jax.random.key(9))
    for path, array in arrays_of(redrawn).items():
        drawn = path.startswith("layers.") and not path.endswith("bias")
        assert np.array_equal(array, before[path]) != drawn, path
    for path, array in arrays_of(other).items():
        np.testing.assert_array_equal(array, before[path])
    check_convex(lambda x: redrawn(x, jnp.ones(3))[0], KEY, jnp.float32)


# The default map


def test_square_is_the_default_everywhere():
    networks = (ix.convex.FICNN, ix.convex.PICNN, ix.convex.nnx.FICNN, ix.convex.nnx.PICNN)
    assert {inspect.signature(each.__init__).parameters["positivity"].default for each in networks} == {"square"}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("non_decreasing", [False, True])
@pytest.mark.slow(one_in=6)
def test_no_weight_behind_a_square_starts_without_a_slope(non_decreasing, dtype):
    """At zero a square has no slope. The smallest weights of a wide layer are 1e-10, and zero in float16, but not the
    roots that are stored."""
    model = ix.convex.FICNN(8, 1, [1024, 1024], dtype=dtype, non_decreasing=non_decreasing, key=KEY)
    stored = [layer.weight for layer in model.layers[1:]]
    stored += [layer.passthrough for layer in model.layers] if non_decreasing else []
    for each in stored:
        assert each.dtype == dtype
        assert float(each.min()) > 0
        assert bool(jnp.isfinite(each).all())
        slopes = jax.grad(lambda array: POSITIVITY["square"].forward(array).astype(jnp.float32).sum())(each)
        assert float(slopes.min()) > 0


def test_a_stored_zero_under_a_square_gives_no_nan(key):
    """It stays zero in training, and standardization and another draw take it as it is."""
    model = ix.convex.FICNN(4, "scalar", [8], use_passthrough=False, key=KEY)
    model = eqx.tree_at(lambda each: each.layers[1].weight, model, model.layers[1].weight.at[0, 3].set(0.0))
    x = jax.random.normal(key, (32, 4))
    slopes = eqx.filter_grad(lambda each: jax.vmap(each)(x).sum())(model).layers[1].weight
    assert bool(jnp.isfinite(slopes).all())
    assert [int(at) for at in np.flatnonzero(np.asarray(slopes) == 0)] == [3]
    scaled = ix.convex.standardize(model, x).layers[1].weight
    assert bool(jnp.isfinite(scaled).all())
    assert float(scaled[0, 3]) == 0
    new = ix.reinit(model, ix.convex.rules(model, "softplus"), key)
    assert float(new.layers[1].weight.min()) > 0


# Arguments of klax's networks

KLAX = {
    "FICNN-constrained_bias_init": (
        'FICNN has no argument "constrained_bias_init", which klax\'s has.\n'
        "  weights and biases of all layers are drawn together, by icnn for the activation\n"
        "  leave it out; for another draw write ix.reinit(model, rules, key) afterwards"
    ),
    "FICNN-use_final_bias": (
        'FICNN has no argument "use_final_bias", which klax\'s has.\n'
        "  positive weights shift the mean, and the bias of each layer takes that off\n"
        "  leave it out"
    ),
    "PICNN-interconnect_weight_init": (
        'PICNN has no argument "interconnect_weight_init", which klax\'s has.\n'
        "  gates are relu of a linear function of the context, and start open\n"
        "  leave it out"
    ),
    "PICNN-use_passthrough": (
        'PICNN has no argument "use_passthrough", which klax\'s has.\n'
        "  every layer sees the input, which is what lets deep networks train\n"
        "  leave it out"
    ),
    "PICNN-activation_u": (
        'PICNN has no argument "activation_u", which klax\'s has.\n  here it is called "context_activation"'
    ),
    "PICNN-final_activation_y": (
        'PICNN has no argument "final_activation_y", which klax\'s has.\n'
        "  the output is not activated; apply a convex, non-decreasing function to it yourself"
    ),
}


@pytest.mark.parametrize("case", KLAX)
@pytest.mark.parametrize("kind", ["equinox", "nnx"])
def test_arguments_of_klax_are_answered(kind, case):
    network, argument = case.split("-")
    module, random = (ix.convex, {"key": KEY}) if kind == "equinox" else (ix.convex.nnx, {"rngs": KEY})
    sizes = (3, 1, [4]) if network == "FICNN" else (3, 2, 1, [4])
    with pytest.raises(ix.ModelError) as error:
        getattr(module, network)(*sizes, **{argument: None}, **random)
    assert str(error.value) == KLAX[case]


def test_any_other_argument_is_named():
    with pytest.raises(ix.ArgumentError, match="unexpected keyword argument 'activations'"):
        ix.convex.FICNN(3, 1, [4], activations="relu", key=KEY)
