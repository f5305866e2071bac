"""Running statistics beside weights that are drawn, and vectors that are no norm's."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import initax as ix
from tests.tables import KEY


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.bn = nnx.BatchNorm(4, rngs=rngs)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.BatchNorm(use_running_average=True)(linen.Dense(4)(x))


X = jnp.ones((2, 3))


def used(tree):
    """A model after a while: every statistic is seven."""
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, 7), tree)


def trained_nnx():
    model = Nnx(nnx.Rngs(0))
    model.bn.mean, model.bn.var = nnx.BatchStat(jnp.full(4, 7.0)), nnx.BatchStat(jnp.full(4, 7.0))
    return model, {}


def trained_linen():
    variables = Linen().init(KEY, X)
    return {**variables, "batch_stats": used(variables["batch_stats"])}, {"module": Linen(), "inputs": X}


# name → the model, the rule that starts its statistics anew, and where these are
TRAINED = {
    "nnx": (trained_nnx, {"Norm": {"state": "default"}}, ("bn.mean", "bn.var")),
    "linen": (
        trained_linen,
        {"batch_stats.**": {"state": "default"}},
        ("batch_stats.BatchNorm_0.mean", "batch_stats.BatchNorm_0.var"),
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_statistics_that_stay_beside_drawn_weights_are_noted_with_the_rule(name):
    build, rule, paths = TRAINED[name]
    model, options = build()
    plan = ix.plan(model, {"Linear": "he_normal"}, **options)
    kept = {each.parameter.path: each.reason.why for each in plan.kept}
    assert {kept[path] for path in paths} == {ix.Why.STATISTICS}
    ((selector, _),) = rule.items()
    assert plan.notes == (
        f"running statistics stay as the old weights left them: {', '.join(paths)}\n"
        "  to start them anew say so in the rule that decides them: "
        f'{{"{selector}": {{"state": "default"}}}}',
    )


@pytest.mark.parametrize("name", TRAINED)
def test_statistics_start_anew_where_a_rule_says_so(name, key):
    build, rule, paths = TRAINED[name]
    model, options = build()
    plan = ix.plan(model, {"Linear": "he_normal", **rule}, **options)
    arrays = plan.arrays(key)
    assert [arrays[path].tolist() for path in paths] == [[0.0] * 4, [1.0] * 4]
    assert plan.notes == ()
    assert ix.Plan.from_json(plan.to_json(), model, **options) == plan


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("rules", [{"Norm": {"scale": "ones", "bias": "zeros"}}, {"Linear": ("he_normal", None)}])
def test_no_other_rule_touches_statistics(name, rules, key):
    build, _, paths = TRAINED[name]
    model, options = build()
    assert not set(paths) & set(ix.plan(model, rules, **options).arrays(key))


def test_no_word_is_lost_where_no_weight_is_drawn():
    model, _ = trained_nnx()
    assert ix.plan(model, {"Norm": {"scale": "ones", "bias": "zeros"}}).notes == ()


def test_the_state_of_equinox_is_noted_with_where_to_take_another_one():
    def build():
        return eqx.nn.Sequential([eqx.nn.Linear(3, 4, key=KEY), eqx.nn.BatchNorm(4, "batch", mode="batch")])

    plan = ix.plan(eqx.nn.make_with_state(build)(), {"Linear": "he_normal"})
    (note,) = plan.notes
    assert note.splitlines()[1:] == ["  take the state of a new model: _, state = eqx.nn.make_with_state(...)(...)"]


@pytest.mark.parametrize("value", ["zeros", "he_normal", ("constant", {"value": 1.0})])
def test_state_is_drawn_by_its_framework_or_not_at_all(value):
    with pytest.raises(ix.SchemeError) as caught:
        ix.Scheme(state=value)
    assert str(caught.value) == (
        f"{value!r} can't draw state.\n"
        '  running statistics start anew as their framework starts them, {"state": "default"}, or are kept: None'
    )


def test_a_file_says_it_too():
    assert ix.load_rules('[Norm]\nstate = "default"\nscale = "ones"\n') == {
        "Norm": {"state": "default", "scale": "ones"}
    }


class Mixer(eqx.Module):
    """The vectors of a state-space mixer, as in Mamba-2."""

    log_decay: jax.Array
    skip: jax.Array
    step_bias: jax.Array
    inner: eqx.nn.Linear
    outer: eqx.nn.Linear
    by: str = eqx.field(static=True)

    def __init__(self, by):
        self.log_decay, self.skip, self.step_bias = jnp.zeros(4), jnp.ones(4) * 2, jnp.ones(4) * 3
        first, second = jax.random.split(KEY)
        self.inner, self.outer = eqx.nn.Linear(4, 4, key=first), eqx.nn.Linear(4, 4, key=second)
        self.by = by

    def __call__(self, x):
        step = jax.nn.softplus(self.inner(x) + self.step_bias)
        decay = {"exp": jnp.exp, "softplus": jax.nn.softplus, "tanh": jnp.tanh}[self.by](self.log_decay)
        return self.outer(jnp.exp(-decay * step) * x + x * self.skip)


@pytest.mark.parametrize("by", ["exp", "softplus", "tanh"])
@pytest.mark.filterwarnings("ignore:rule .* it can't draw:initax.InitaxWarning")
def test_vectors_beside_one_to_which_a_function_is_applied_first_are_no_norms(by, key):
    model = Mixer(by)
    rules = {"*": "he_normal", "inner": {"weight": "he_normal", "scale": "ones", "bias": "zeros"}}
    plan = ix.plan(model, rules, inputs=jnp.ones(4))
    why = {each.parameter.path: each.reason.why for each in plan.kept}
    assert why == {
        "log_decay": ix.Why.TRANSFORMED,
        "skip": ix.Why.CONTRADICTED,
        "step_bias": ix.Why.CONTRADICTED,
    }
    assert not any(layer.kind == "Norm" for layer in ix.layers(model, inputs=jnp.ones(4)))
    with pytest.raises(ix.RuleError):
        ix.plan(model, {"Norm": {"scale": "ones", "bias": "zeros"}}, inputs=jnp.ones(4))
    np.testing.assert_array_equal(plan.draw(key).step_bias, model.step_bias)


def test_a_norm_written_by_hand_is_one():
    class Norm(eqx.Module):
        scale: jax.Array
        offset: jax.Array
        head: eqx.nn.Linear

        def __call__(self, x):
            y = (x - x.mean()) / jnp.sqrt(x.var() + 1e-5)
            return self.head(y * self.scale + self.offset)

    model = Norm(jnp.ones(4), jnp.zeros(4), eqx.nn.Linear(4, 2, key=KEY))
    layer = ix.layers(model, inputs=jnp.arange(4.0))[0]
    assert (layer.kind, layer["scale"].role, layer["offset"].role) == ("Norm", "scale", "bias")
