"""The optimizer's state after a reset, leaf by leaf: forgotten where the plan draws, the same object elsewhere."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import initax as ix
from tests.tables import KEY

SCHEDULE = optax.cosine_decay_schedule(1e-3, 100)
LABELS = {"first": "adam", "head": "sgd"}
# Optimizer → how many arrays its state holds of each redrawn parameter, by the layer's place.
OPTIMIZERS = {
    "adam": (optax.adam(1e-3), 2),
    "adamw": (optax.adamw(1e-3), 2),
    "amsgrad": (optax.amsgrad(1e-3), 3),
    "sgd with momentum": (optax.sgd(1e-2, momentum=0.9), 1),
    "lion": (optax.lion(1e-3), 1),
    "adafactor": (optax.adafactor(1e-3, min_dim_size_to_factor=2), 3),
    "clipping and a schedule": (optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(SCHEDULE)), 2),
    "several steps": (optax.MultiSteps(optax.adam(1e-3), 2), 3),
    "injected hyperparameters": (optax.inject_hyperparams(optax.adam)(learning_rate=1e-3), 2),
    "masked": (optax.masked(optax.adam(1e-3), {"first": False, "head": True}), 2),
    "labelled": (optax.multi_transform({"adam": optax.adam(1e-3), "sgd": optax.sgd(0.1, 0.9)}, LABELS), 1),
    "exponential average": (optax.chain(optax.ema(0.9), optax.adam(1e-3)), 3),
}

pytestmark = pytest.mark.usefixtures("optax_promotes")


def model():
    return {"first": {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}, "head": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}}


def used(optimizer, params):
    """A state after two updates, so that nothing in it is zero by chance."""
    state = optimizer.init(params)
    for seed in (1, 2):
        grads = jax.tree.map(lambda leaf, seed=seed: seed + jnp.ones_like(leaf), params)
        _, state = optimizer.update(grads, state, params)
    return state


def named(state):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def changed(before, after):
    """Paths of the arrays that are no longer the same; whatever they are now is zero."""
    after = named(after)
    new = {path for path, leaf in named(before).items() if after[path] is not leaf}
    assert not any(np.any(after[path]) for path in new)
    return new


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.slow(one_in=5)
def test_only_what_belongs_to_redrawn_parameters_is_forgotten(name):
    optimizer, moments = OPTIMIZERS[name]
    params = model()
    before = used(optimizer, params)
    after = ix.reset_optimizer(before, ix.plan(params, {"head": "he_normal"}))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    old, new, start = named(before), named(after), named(optimizer.init(params))
    changed = [path for path in old if new[path] is not old[path]]
    assert len(changed) == 2 * moments
    for path in old:
        if "['head']" in path:
            assert path in changed
            assert np.array_equal(new[path], start[path])
            assert new[path].dtype == old[path].dtype
        else:
            assert new[path] is old[path], path


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.slow(one_in=4)
def test_counts_start_over_where_that_is_asked_for(name):
    optimizer, _ = OPTIMIZERS[name]
    params = model()
    before = used(optimizer, params)
    after = ix.reset_optimizer(before, ix.plan(params, {"*": "he_normal"}), counts="reset")
    for path, leaf in named(after).items():
        np.testing.assert_array_equal(leaf, named(optimizer.init(params))[path], err_msg=path)


def test_training_goes_on_as_from_the_start_for_what_was_reset():
    """Adam with every count and moment reset gives the updates of a new one; the other layer's are undisturbed."""
    optimizer, params = optax.adam(1e-2), model()
    state = used(optimizer, params)
    grads = jax.tree.map(jnp.ones_like, params)
    reset = ix.reset_optimizer(state, ix.plan(params, {"head": "he_normal"}))
    updates, _ = optimizer.update(grads, reset, params)
    undisturbed, _ = optimizer.update(grads, state, params)
    assert np.array_equal(updates["first"]["w"], undisturbed["first"]["w"])
    assert not np.array_equal(updates["head"]["w"], undisturbed["head"]["w"])
    whole = ix.reset_optimizer(state, ix.plan(params, {"*": "he_normal"}), counts="reset")
    updates, _ = optimizer.update(grads, whole, params)
    new, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["head"]["w"], new["head"]["w"])


# What is not known to start at zero


def test_what_may_start_anywhere_needs_the_state_it_starts_from():
    params = model()
    state = optax.chain(optax.trace(0.9), optax.rmsprop(1e-3)).init(params)
    with pytest.raises(ix.PlanError) as caught:
        ix.reset_optimizer(state, ix.plan(params, {"head": "he_normal"}))
    assert str(caught.value) == (
        "what belongs to what is drawn is not known to start at zero.\n"
        "  in the state: 1.0.nu.head.b, 1.0.nu.head.w\n"
        "  write ix.reset_optimizer(opt_state, plan, fresh=optimizer.init(new_params))"
    )


class Averages(NamedTuple):
    """A state that is not optax's, with a class's name that is."""

    mean: Any
    count: jax.Array  # type: ignore[assignment]  # a tuple has a method of that name, as states of optax have


def test_states_that_are_not_optaxs_are_asked_for():
    params = {"a": jnp.ones((3, 3)), "b": jnp.ones((3, 2))}
    plan, count = ix.plan(params, {"b": "he_normal"}), jnp.array(2)
    state = Averages({name: [leaf[:, 0], leaf[0]] for name, leaf in params.items()}, count)
    with pytest.raises(ix.PlanError, match=r"in the state: 0.mean.b.0, 0.mean.b.1\n"):
        ix.reset_optimizer((state, optax.trace(0.9).init(params)), plan)
    fresh = Averages(jax.tree.map(jnp.zeros_like, state.mean), jnp.array(0))
    after = ix.reset_optimizer(state, plan, fresh=fresh)
    assert changed(state, after) == {".mean['b'][0]", ".mean['b'][1]"}
    namesake = type("TraceState", (Averages,), {})(params, count)
    with pytest.raises(ix.PlanError, match=r"in the state: mean.b\n"):
        ix.reset_optimizer(namesake, plan)


def test_the_optimizer_of_nnx_takes_a_fresh_one():
    net = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.adagrad(1e-3), wrt=nnx.Param)
    optimizer.update(net, jax.tree.map(jnp.ones_like, nnx.state(net, nnx.Param)))
    plan = ix.plan(net, {"*": {"weight": "he_normal", "bias": None}})
    with pytest.raises(ix.PlanError) as caught:
        ix.reset_optimizer(optimizer, plan)
    line = "fresh=nnx.Optimizer(new_model, optimizer.tx, wrt=optimizer.wrt)"
    assert str(caught.value).endswith(f"  write ix.reset_optimizer(opt_state, plan, {line})")
    fresh = nnx.Optimizer(plan.draw(KEY), optimizer.tx, wrt=optimizer.wrt)
    sums, before = (
        each.opt_state[0].sum_of_squares for each in (ix.reset_optimizer(optimizer, plan, fresh=fresh), optimizer)
    )
    np.testing.assert_array_equal(sums["kernel"].get_value(), jnp.full((4, 3), 0.1))
    assert sums["bias"].get_value() is before["bias"].get_value()


def test_a_state_of_another_optimizer_is_no_fresh_one():
    params = model()
    with pytest.raises(ix.PlanError) as caught:
        ix.reset_optimizer(
            optax.adam(1e-3).init(params), ix.plan(params, {"*": "zeros"}), fresh=optax.sgd(0.1, 0.9).init(params)
        )
    assert str(caught.value) == (
        "fresh is not a state of the same optimizer and parameters.\n"
        "  the state has 9 arrays, fresh has 4\n"
        "  write fresh=optimizer.init(params) with the optimizer and the parameters that the state is for"
    )


def test_a_state_of_other_shapes_is_no_fresh_one():
    params, optimizer = {"w": jnp.ones((3, 2))}, optax.adagrad(1e-3)
    with pytest.raises(ix.PlanError, match="fresh is not a state of the same optimizer and parameters"):
        ix.reset_optimizer(
            optimizer.init(params), ix.plan(params, {"*": "zeros"}), fresh=optimizer.init({"w": jnp.ones((3, 5))})
        )


# What belongs to a parameter


@pytest.mark.parametrize("which", [0, 1])
def test_numbers_of_axes_and_of_a_chain_are_no_parameters_numbers(which):
    params = [jnp.ones((3, 3)), jnp.ones((3, 2))]
    optimizer = optax.chain(optax.sm3(1e-2), optax.scale_by_novograd())
    before = used(optimizer, params)
    after = ix.reset_optimizer(before, ix.plan(params, {str(which): "he_normal"}))
    axes = {f"[0][0].mu[{which}][{axis}]" for axis in (0, 1)}
    assert changed(before, after) == axes | {f"[0][0].nu[{which}]", f"[1].mu[{which}]", f"[1].nu[{which}]"}


def test_hyperparameters_are_no_parameters():
    params = {"b1": jnp.ones((3, 3))}
    before = used(optax.inject_hyperparams(optax.adam)(learning_rate=1e-2), params)
    after = ix.reset_optimizer(before, ix.plan(params, {"*": "zeros"}))
    assert changed(before, after) == {".inner_state[0].mu['b1']", ".inner_state[0].nu['b1']"}
    factored = optax.inject_hyperparams(optax.adafactor)(learning_rate=1e-2)
    before = factored.init(params)
    after = ix.reset_optimizer(before, ix.plan(params, {"*": "zeros"}), counts="reset")
    assert int(after.hyperparams["min_dim_size_to_factor"]) == 128


def test_a_complex_parameter_is_two_arrays():
    params = {"a": jnp.ones((2, 2), complex), "b": jnp.ones((2, 2), complex)}
    before = used(optax.contrib.split_real_and_imaginary(optax.sgd(0.1, 0.9)), params)
    after = ix.reset_optimizer(before, ix.plan(params, {"a": "he_normal"}))
    real = {path for path in named(before) if "['a']" in path}
    assert len(real) == 2
    assert changed(before, after) <= real
    assert {path for path in real if np.any(named(after)[path])} == set()


# Frameworks


class Net(eqx.Module):
    layers: list
    tied: eqx.nn.Linear

    def __init__(self, key):
        first = eqx.nn.Linear(3, 3, key=key)
        self.layers = [first, eqx.nn.Linear(3, 2, key=key)]
        self.tied = first


def test_equinox_and_what_is_tied():
    net = Net(KEY)
    params = eqx.filter(net, eqx.is_array)
    state = used(optax.adam(1e-3), params)
    after = ix.reset_optimizer(state, ix.plan(net, {"layers.0": "he_normal"}))
    for moments, old in ((after[0].mu, state[0].mu), (after[0].nu, state[0].nu)):
        assert not moments.tied.weight.any()
        assert not moments.layers[0].weight.any()
        assert moments.layers[1].weight is old.layers[1].weight
    assert after[0].count is state[0].count


def test_the_optimizer_of_nnx_comes_back_as_a_new_one():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first, self.head = nnx.Linear(4, 3, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)

    net = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.adam(1e-3), wrt=nnx.Param)
    grads = jax.tree.map(jnp.ones_like, nnx.state(net, nnx.Param))
    optimizer.update(net, grads)
    after = ix.reset_optimizer(optimizer, ix.plan(net, {"head": "he_normal"}))
    assert isinstance(after, nnx.Optimizer)
    old, new = optimizer.opt_state[0], after.opt_state[0]
    assert not new.mu["head"]["kernel"].get_value().any()
    assert old.mu["head"]["kernel"].get_value().any()
    assert new.mu["first"]["kernel"].get_value() is old.mu["first"]["kernel"].get_value()
    assert int(new.count.get_value()) == 1
    after.update(net, grads)
    assert int(after.step.get_value()) == 2


@pytest.mark.parametrize("whole", [True, False], ids=["variables", "params"])
def test_a_train_state_of_linen(whole):
    module = nn.Sequential([nn.Dense(3), nn.Dense(2)])
    variables = module.init(KEY, jnp.ones((1, 4)))
    params = variables if whole else variables["params"]
    state = TrainState.create(apply_fn=module.apply, params=params, tx=optax.adam(1e-3))
    state = state.apply_gradients(grads=jax.tree.map(jnp.ones_like, params))
    after = ix.reset_optimizer(state, ix.plan(variables, {"layers_1": "he_normal"}))
    assert after.params is state.params

    def mu(each):
        found = each.opt_state[0].mu
        return found["params"] if whole else found

    assert not mu(after)["layers_1"]["kernel"].any()
    assert mu(after)["layers_0"]["kernel"] is mu(state)["layers_0"]["kernel"]
    again = ix.reset_optimizer(state, ix.plan(state, {"layers_1": "he_normal"}))
    assert jax.tree.all(jax.tree.map(np.array_equal, again.opt_state, after.opt_state))


def test_a_model_of_one_array():
    params = jnp.ones((4, 3))
    state = used(optax.adam(1e-3), params)
    after = ix.reset_optimizer(state, ix.plan(params, {"*": "he_normal"}))
    assert not after[0].mu.any()
    assert int(after[0].count) == 2
    norms = used(optax.novograd(1e-3), params)
    assert not ix.reset_optimizer(norms, ix.plan(params, {"*": "he_normal"}))[0].nu.any()
    injected = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3).init(params)
    kept = ix.reset_optimizer(injected, ix.plan(params, {"*": "he_normal"}))
    assert kept.hyperparams["learning_rate"] is injected.hyperparams["learning_rate"]


def test_names_that_end_alike_are_told_apart():
    params = {"head": {"w": jnp.ones((3, 2))}, "deep": {"head": {"w": jnp.ones((3, 2))}}}
    state = used(optax.adam(1e-3), params)
    after = ix.reset_optimizer(state, ix.plan(params, {"head": "he_normal"}))
    assert not after[0].mu["head"]["w"].any()
    assert after[0].mu["deep"]["head"]["w"] is state[0].mu["deep"]["head"]["w"]


# Inside a step, and on a mesh


def test_a_layer_and_its_moments_are_reset_inside_a_jitted_step(key):
    optimizer = optax.adam(1e-2)
    net = eqx.nn.MLP(3, 1, 8, depth=2, key=KEY)
    state = used(optimizer, eqx.filter(net, eqx.is_array))
    rules = {"layers.2": "he_normal"}

    @eqx.filter_jit
    def step(net, state, key):
        return ix.reinit(net, rules, key), ix.reset_optimizer(state, ix.plan(net, rules))

    new, after = step(net, state, key)
    eager = ix.reinit(net, rules, key)
    assert np.array_equal(new.layers[2].weight, eager.layers[2].weight)
    assert np.array_equal(new.layers[0].weight, net.layers[0].weight)
    assert not after[0].mu.layers[2].weight.any()
    assert np.array_equal(after[0].mu.layers[0].weight, state[0].mu.layers[0].weight)


def test_a_reset_may_be_a_branch_of_a_jitted_step(key):
    plan = ix.plan(model(), {"head": "he_normal"})
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, key, now):
        def reset():
            return ix.plan(params, {"head": "he_normal"}).draw(key), ix.reset_optimizer(state, plan)

        return jax.lax.cond(now, reset, lambda: (params, state))

    params = model()
    state = used(optimizer, params)
    new, after = step(params, state, key, True)
    assert np.array_equal(new["head"]["w"], plan.draw(key)["head"]["w"])
    assert not after[0].nu["head"]["w"].any()
    same, kept = step(params, state, key, False)
    assert np.array_equal(same["head"]["w"], params["head"]["w"])
    assert np.array_equal(kept[0].nu["head"]["w"], state[0].nu["head"]["w"])


def test_moments_stay_where_they_live():
    home = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    params = {"w": jax.device_put(jnp.ones((8, 3)), home)}
    state = optax.adam(1e-3).init(params)
    state = jax.tree.map(lambda leaf: jax.device_put(leaf, home) if leaf.ndim else leaf, state)
    after = ix.reset_optimizer(state, ix.plan(params, {"*": "he_normal"}))
    assert after[0].mu["w"].sharding == home


# Errors


def test_a_state_of_another_model_is_refused():
    params = model()
    state = optax.adam(1e-3).init({"x": jnp.ones(3)})
    with pytest.raises(ix.PlanError) as caught:
        ix.reset_optimizer(state, ix.plan(params, {"head": "he_normal"}))
    assert str(caught.value) == (
        "no array of the optimizer's state belongs to what is drawn.\n"
        "  drawn: head.w, head.b\n"
        "  the state holds: 0.count, 0.mu.x, 0.nu.x\n"
        "  pass the state of this model's optimizer: optimizer.init(eqx.filter(model, eqx.is_array)), an "
        "nnx.Optimizer, a TrainState"
    )


def test_counts_are_kept_or_reset():
    params = model()
    with pytest.raises(ix.PlanError, match='counts must be "keep" or "reset", not \'zero\''):
        ix.reset_optimizer(optax.adam(1e-3).init(params), ix.plan(params, {"*": "zeros"}), counts="zero")


def test_what_is_no_plan_is_refused():
    model = eqx.nn.MLP(2, 1, 4, depth=1, key=KEY)
    state = optax.adam(1e-3).init(eqx.filter(model, eqx.is_array))
    plan = ix.plan(model, {"layers.1": "default"})

    def refusal(*args):
        with pytest.raises(ix.PlanError) as caught:
            ix.reset_optimizer(*args)
        return str(caught.value)

    assert refusal(state, "layers.1") == (
        "plan must be what ix.plan returns, not 'layers.1'.\n"
        '  write ix.reset_optimizer(opt_state, ix.plan(model, {"layers.1": "default"}))'
    )
    assert refusal(state, {"layers.1": "zeros"}) == (
        "plan must be what ix.plan returns, not a dict.\n  write ix.reset_optimizer(opt_state, ix.plan(model, rules))"
    )
    assert refusal(plan, state) == (
        "plan must be what ix.plan returns, not a tuple.\n  the state comes first: ix.reset_optimizer(opt_state, plan)"
    )


@pytest.mark.parametrize("name", ["adam", "adafactor", "clipping and a schedule", "injected hyperparameters"])
def test_a_new_layer_of_another_size_takes_its_part_of_a_fresh_state(name):
    optimizer, params = OPTIMIZERS[name][0], model()
    state = optimizer.init(params)
    grown = params | {"head": {"w": jnp.ones((3, 5)), "b": jnp.ones(5)}}
    plan = ix.plan(grown, {"head": "he_normal"})
    with pytest.raises(ix.PlanError) as caught:
        ix.reset_optimizer(state, plan)
    head, _, line = str(caught.value).split("\n")
    assert head == "what belongs to what is drawn is for parameters of other sizes."
    assert line == "  write ix.reset_optimizer(opt_state, plan, fresh=optimizer.init(new_params))"
    fresh = optimizer.init(grown)
    after = ix.reset_optimizer(state, plan, fresh=fresh)
    assert jax.tree.structure(after) == jax.tree.structure(fresh)
    for path, leaf in named(after).items():
        assert leaf is (named(fresh) if "['head']" in path else named(state))[path]


def test_modules_in_a_state_get_the_sizes_of_the_new_layer():
    network = eqx.nn.MLP(4, 3, 6, depth=1, key=KEY)
    optimizer = optax.adam(1e-3)
    state = optimizer.init(eqx.filter(network, eqx.is_array))
    network = eqx.tree_at(lambda each: each.layers[-1], network, eqx.nn.Linear(6, 5, key=KEY))
    fresh = optimizer.init(eqx.filter(network, eqx.is_array))
    after: Any = ix.reset_optimizer(state, ix.plan(network, {"layers.1": "zeros"}), fresh=fresh)
    assert jax.tree.structure(after) == jax.tree.structure(fresh)
    assert after[0].mu.layers[1].weight.shape == (5, 6)
    assert after[0].mu.layers[0].weight is state[0].mu.layers[0].weight  # type: ignore[attr-defined]
