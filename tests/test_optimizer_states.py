"""Every optimizer of optax: what its state remembers of a redrawn parameter is as at the start, or asked for."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import initax as ix
from tests.tables import KEY

ADAM = optax.adam(1e-2)
HEAD_ALONE = {"first": False, "head": True}
PARTS = {"adam": ADAM, "sgd": optax.sgd(0.1, 0.9)}
LABELS = {"first": "adam", "head": "sgd"}


def loss(params, obj_fn=None):
    """Half of optax hands on what it is given, and the other half refuses what nobody takes."""
    del obj_fn
    return 0.1 * sum(jnp.sum((leaf - 0.5) ** 2) for leaf in jax.tree.leaves(params))


def every_second(step):
    return step % 2 == 0


def matrices_alone(params):
    return jax.tree.map(lambda leaf: contrib.MuonDimensionNumbers() if leaf.ndim == 2 else None, params)


def lookahead(make):
    """Its updates are for two copies of the parameters."""
    made = make(ADAM, 2, 0.5)

    def update(updates, state, params):
        both, state = made.update(updates, state, optax.LookaheadParams.init_synced(params))
        return both.fast, state

    return optax.GradientTransformation(lambda params: made.init(optax.LookaheadParams.init_synced(params)), update)


def of_each_example(made):
    """Its gradients have an axis of examples."""

    def update(updates, state, params):
        return made.update(jax.tree.map(lambda leaf: leaf[None], updates), state, params)

    return optax.GradientTransformation(made.init, update)


# Optimizers of optax that do not come without arguments, or with a learning rate alone.
ARGUMENTS = {
    "adaptive_grad_clip": lambda make: make(0.1),
    "add_noise": lambda make: make(0.1, 0.5, key=0),
    "apply_if_finite": lambda make: make(ADAM, 2),
    "chain": lambda make: make(optax.clip(1.0), ADAM, optax.trace(0.9)),
    "clip": lambda make: make(1.0),
    "clip_by_block_rms": lambda make: make(1.0),
    "clip_by_global_norm": lambda make: make(1.0),
    "conditionally_mask": lambda make: make(ADAM, every_second),
    "conditionally_transform": lambda make: make(ADAM, every_second),
    "differentially_private_aggregate": lambda make: of_each_example(make(1.0, 0.1, key=0)),
    "dpsgd": lambda make: of_each_example(make(1e-2, 1.0, 0.1, seed=0, momentum=0.9)),
    "ema": lambda make: make(0.9),
    "flatten": lambda make: make(ADAM),
    "freeze": lambda make: make({"first": True, "head": False}),
    "inject_hyperparams": lambda make: make(optax.adam)(learning_rate=optax.cosine_decay_schedule(1e-2, 9)),
    "inject_stateful_hyperparams": lambda make: make(optax.adam)(learning_rate=1e-2),
    "lookahead": lookahead,
    "masked": lambda make: make(ADAM, HEAD_ALONE),
    "measure_with_ema": lambda make: optax.chain(optax.monitor({"loss": make(loss, 0.9)}), optax.adagrad(1e-2)),
    "mechanize": lambda make: make(ADAM),
    "monitor": lambda make: make({"loss": loss}),
    "multi_transform": lambda make: make(PARTS, LABELS),
    "named_chain": lambda make: make(("head", ADAM), ("w", optax.trace(0.9))),
    "noisy_sgd": lambda make: make(1e-2, key=0),
    "partition": lambda make: make(PARTS, LABELS),
    "sam": lambda make: make(ADAM, optax.sgd(0.1)),
    "scale": lambda make: make(0.1),
    "scale_by_backtracking_linesearch": lambda make: make(3, store_grad=True),
    "scale_by_muon": lambda make: optax.masked(
        make(weight_dimension_numbers=matrices_alone), lambda params: jax.tree.map(lambda leaf: leaf.ndim == 2, params)
    ),
    "scale_by_schedule": lambda make: make(optax.cosine_decay_schedule(1e-2, 9)),
    "scale_by_zoom_linesearch": lambda make: make(3),
    "schedule_free": lambda make: make(ADAM, 1e-2),
    "selective_transform": lambda make: make(ADAM, freeze_mask={"first": True, "head": False}),
    "snapshot": lambda make: make("loss", loss),
    "split_real_and_imaginary": lambda make: make(ADAM),
    "stateless": lambda make: make(lambda updates, _: updates),
    "stateless_with_tree_map": lambda make: make(lambda update, _: update),
    "trace": lambda make: make(0.9),
    "with_extra_args_support": lambda make: make(ADAM),
}

NO_OPTIMIZERS = {
    "matrix_inverse_pth_root", "schedule_free_eval_params", "sigmoid_binary_cross_entropy", "update_infinity_moment",
    "update_moment", "update_moment_per_elem_norm",
}  # fmt: skip
"""Functions without annotations that make something else."""

MORE = {
    "accumulated gradients": optax.MultiSteps(ADAM, 3).gradient_transformation(),
    "one array for each axis": optax.adafactor(1e-3, min_dim_size_to_factor=2),
    "moments of another dtype": optax.lion(1e-3, mu_dtype=jnp.bfloat16),
    "wrappers in wrappers": optax.chain(
        optax.masked(optax.inject_hyperparams(optax.sm3)(learning_rate=1e-2), HEAD_ALONE),
        optax.apply_if_finite(optax.MultiSteps(optax.novograd(1e-2), 2).gradient_transformation(), 2),
    ),
    "a start that an argument sets": optax.rmsprop(1e-2, initial_scale=1.0),
    "the same with a count": optax.rmsprop(1e-2, initial_scale=1.0, centered=True, bias_correction=True),
    "of the other parameters alone": optax.multi_transform(
        {"a": optax.rprop(1e-2), "b": ADAM}, {"first": "a", "head": "b"}
    ),
}

STARTS_UNKNOWN = {
    "adagrad", "cocob", "dog", "dowg", "galore", "lbfgs", "madgrad", "measure_with_ema", "mechanize", "prodigy",
    "rmsprop", "rprop", "sam", "scale_by_backtracking_linesearch", "scale_by_cocob",
    "scale_by_distance_over_gradients", "scale_by_galore", "scale_by_lbfgs", "scale_by_madgrad", "scale_by_rms",
    "scale_by_rprop", "scale_by_rss", "scale_by_stddev", "scale_by_zoom_linesearch", "schedule_free",
    "schedule_free_adamw", "schedule_free_sgd", "a start that an argument sets", "the same with a count",
}  # fmt: skip

BELONGS_TO_NO_PARAMETER = {
    "adaptive_grad_clip", "add_decayed_weights", "add_noise", "centralize", "clip", "clip_by_block_rms",
    "clip_by_global_norm", "differentially_private_aggregate", "flatten", "freeze", "fromage", "identity",
    "hutchinson_estimator_diag_hessian", "keep_params_nonnegative", "monitor", "noisy_sgd",
    "normalize", "normalize_by_update_norm", "polyak_sgd", "reduce_on_plateau", "scale", "scale_by_learning_rate",
    "scale_by_param_block_norm", "scale_by_param_block_rms", "scale_by_polyak", "scale_by_schedule", "scale_by_sign",
    "scale_by_trust_ratio", "set_to_zero", "sgd", "sign_sgd", "snapshot", "stateless", "stateless_with_tree_map",
}  # fmt: skip
"""States without an array below a parameter's path; `flatten` makes one array of all of them."""

STARTS_NEAR_ZERO = {"yogi": 1e-6, "scale_by_yogi": 1e-6}
"""Yogi's moments are in Adam's state, so that where they start can't be told: zero for the one in the paper."""


def makers():
    """Every public function of optax that makes an optimizer, or may, by name."""
    found = {}
    for module in (optax, contrib):
        for name, make in vars(module).items():
            if name.startswith("_") or name in NO_OPTIMIZERS or not inspect.isfunction(make):
                continue
            made = inspect.signature(make).return_annotation
            if made is inspect.Signature.empty or "GradientTransformation" in str(made):
                found[name] = make
    return found


def built(name, make):
    needed = [each.name for each in inspect.signature(make).parameters.values() if each.default is each.empty]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what is to go is still there
        if name in ARGUMENTS:
            return ARGUMENTS[name](make)
        return make(learning_rate=1e-2) if needed == ["learning_rate"] else make() if not needed else None


OPTIMIZERS = {name: built(name, make) for name, make in makers().items()} | MORE

pytestmark = pytest.mark.usefixtures("optax_promotes")


def model():
    return {"first": {"w": jnp.ones((3, 3)), "b": jnp.ones(3)}, "head": {"w": jnp.ones((3, 3)), "b": jnp.ones(3)}}


def used(optimizer, params):
    """A state of the form that an update leaves, in which nothing is as at the start by chance."""
    taken = inspect.signature(optimizer.update).parameters.values()
    takes_all = any(each.kind is each.VAR_KEYWORD for each in taken)
    given = {"value": jnp.float32(0.5), "grad": params, "value_fn": loss, "obj_fn": loss}
    extra = {name: given[name] for name in given if takes_all or name in {each.name for each in taken}}
    state = jax.eval_shape(lambda: optimizer.update(params, optimizer.init(params), params, **extra)[1])
    numbers = np.random.default_rng(0)

    def filled(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return KEY if is_key else jnp.asarray((2 + numbers.random(leaf.shape)).astype(leaf.dtype))

    return jax.tree.map(filled, state)


def named(state):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def check(before, after, drawn):
    """Hold a state against the one before it, and what is drawn against `drawn(path, leaf)`."""
    assert jax.tree.structure(before) == jax.tree.structure(after)
    after = named(after)
    for path, leaf in named(before).items():
        if "['head']['" in path:
            drawn(path, after[path])
        else:
            assert after[path] is leaf, path


def test_every_optimizer_of_optax_is_tried():
    """A new one, and one that is gone, has to be named above."""
    assert [name for name, optimizer in OPTIMIZERS.items() if optimizer is None] == []
    newest = {"measure_with_ema", "monitor"}  # optax 0.2.7
    assert ARGUMENTS.keys() - OPTIMIZERS.keys() <= newest


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_drawn_is_as_at_the_start_or_asked_for(name):
    optimizer, params = OPTIMIZERS[name], model()
    before, plan = used(optimizer, params), ix.plan(params, {"head": "he_normal"})
    start = optimizer.init(plan.draw(KEY))
    if name in BELONGS_TO_NO_PARAMETER:
        with pytest.raises(ix.PlanError, match=r"^no array of the optimizer's state belongs to what is drawn"):
            ix.reset_optimizer(before, plan, fresh=start)
        return

    def is_fresh(path, leaf):
        assert leaf is named(start)[path]

    check(before, ix.reset_optimizer(before, plan, fresh=start), is_fresh)
    if name in STARTS_UNKNOWN:
        with pytest.raises(ix.PlanError, match=r"write ix.reset_optimizer\(opt_state, plan, fresh=optimizer.init\("):
            ix.reset_optimizer(before, plan)
        return

    moved = []

    def is_equal(path, leaf):
        fresh = named(start)[path]
        moved.append(not np.array_equal(named(before)[path], fresh))
        assert leaf.dtype == fresh.dtype
        np.testing.assert_allclose(leaf, fresh, rtol=0, atol=STARTS_NEAR_ZERO.get(name, 0), err_msg=path)

    check(before, ix.reset_optimizer(before, plan), is_equal)
    assert any(moved) or name == "zero_nans"
