"""`shrink_perturb`: what is stored is a sum of the old array and of what the other scheme draws under the same key."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import initax as ix
from initax._adapters import survey
from tests.tables import KEY, SMALL_SCHEMES, arrays, filled, scheme_id

MODELS = {
    "linear": lambda: eqx.nn.Linear(7, 5, key=KEY),
    "conv": lambda: eqx.nn.Conv2d(4, 6, 3, groups=2, key=KEY),
    "lstm": lambda: eqx.nn.LSTMCell(5, 7, key=KEY),
    "three alike": lambda: [eqx.nn.Linear(6, 6, key=key) for key in jax.random.split(KEY, 3)],
    "stack": lambda: eqx.filter_vmap(lambda key: eqx.nn.Linear(5, 7, key=key))(jax.random.split(KEY, 3)),
    "norm": lambda: (eqx.nn.LayerNorm(5), eqx.nn.Linear(5, 5, key=KEY)),
    "nnx": lambda: nnx.Linear(7, 5, rngs=nnx.Rngs(0)),
}


def filled_model(name):
    """A model of the table with normal numbers in it, for which nothing is compiled."""
    return filled((nnx.eval_shape if name == "nnx" else eqx.filter_eval_shape)(MODELS[name]))


def by_path(model):
    """Every array of a model that a layer owns."""
    found = survey(model)
    return {each.path: np.asarray(found.at(each.path)) for layer in found.layers for each in layer.parameters}


EACH = [("conv", scheme) for scheme in SMALL_SCHEMES] + [
    (model, scheme) for model in MODELS if model != "conv" for scheme in ("default", "he_normal", "zeros")
]
"""Every scheme with one model, and every model with three schemes."""


@pytest.mark.parametrize(("model", "scheme"), EACH, ids=scheme_id)
@pytest.mark.slow(one_in=7)
def test_each_array_is_the_sum_of_the_old_one_and_the_drawn_one(model, scheme, key):
    old = filled_model(model)
    kept = {parameter.path for parameter, _ in ix.plan(old, {"*": scheme}).kept}
    drawn = by_path(ix.reinit(old, {"*": scheme}, key))
    mixed = by_path(ix.reinit(old, {"*": ix.schemes.shrink_perturb(0.4, scheme, 0.3)}, key))
    assert len(kept) < len(mixed)
    for path, was in by_path(old).items():
        expected = was if path in kept else 0.4 * was + 0.3 * drawn[path]
        np.testing.assert_allclose(mixed[path], expected, rtol=2e-6, atol=1e-7)


def test_numpy_arrays_are_seen_and_stay_numpy(key):
    old = {"w": np.full((4, 3), 2.0, np.float32), "b": np.ones(3, np.float32)}
    new = ix.reinit(old, {"*": ix.schemes.shrink_perturb(0.5, "ones", 3.0)}, key)
    assert isinstance(new["w"], np.ndarray)
    assert new["w"].tolist() == [[4.0] * 3] * 4
    assert new["b"].tolist() == [0.5] * 3


def test_half_precision_is_the_float32_sum_cast_once(key):
    old = jax.random.normal(KEY, (40, 30)).astype(jnp.bfloat16)
    new = ix.reinit({"w": old}, {"*": ix.schemes.shrink_perturb(0.9, "he_normal", 0.1)}, key)["w"]
    drawn = ix.reinit({"w": jnp.zeros((40, 30))}, {"*": ix.schemes.scaled("he_normal", 0.1)}, key)["w"]
    assert new.dtype == jnp.bfloat16
    assert np.array_equal(new, (jnp.float32(0.9) * old.astype(jnp.float32) + drawn).astype(jnp.bfloat16))


def test_inside_jit_it_sees_the_traced_values(key):
    model = filled_model("three alike")
    rules = {"*": ix.schemes.shrink_perturb(0.4, "he_normal")}
    eager = ix.reinit(model, rules, key)
    jitted = eqx.filter_jit(lambda model, key: ix.reinit(model, rules, key))(model, key)
    for one, other in zip(arrays(eager), arrays(jitted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
    doubled = jax.tree.map(lambda leaf: leaf * 2 if eqx.is_array(leaf) else leaf, model)
    again = eqx.filter_jit(lambda model, key: ix.reinit(model, rules, key))(doubled, key)
    for one, other, old in zip(arrays(again), arrays(eager), arrays(model), strict=True):
        np.testing.assert_allclose(one - other, 0.4 * old, rtol=1e-5, atol=1e-6)


def test_on_a_mesh_and_with_donation_it_is_the_same(key):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    home = NamedSharding(mesh, PartitionSpec("data", "model"))
    old = jax.random.normal(KEY, (16, 8))
    rules = {"*": ix.schemes.shrink_perturb(0.4, "he_normal")}
    plain = ix.reinit({"w": old}, rules, key)["w"]
    spread = jax.device_put(old, home)
    new = ix.reinit({"w": spread}, rules, key, donate=True)["w"]
    assert spread.is_deleted()
    assert new.sharding == home
    assert np.array_equal(new, plain)


def test_a_plan_of_it_survives_json():
    model = filled_model("linear")
    plan = ix.plan(model, {"*": ix.schemes.shrink_perturb(0.4, ("orthogonal", {"gain": 2.0}), 0.5)})
    assert ix.Plan.from_json(plan.to_json(), model) == plan
    assert str(plan.draws[0].initializer) == "shrink_perturb(0.4, orthogonal(gain=2), 0.5)"


def test_an_abstract_model_has_nothing_to_shrink(key):
    plan = ix.plan({"w": (4, 3)}, {"*": ix.schemes.shrink_perturb(0.4, "he_normal")})
    with pytest.raises(ix.PlanError) as caught:
        plan.draw(key)
    assert str(caught.value) == (
        'shrink_perturb(0.4, he_normal, 1) keeps a part of what "w" holds, and the model is abstract.\n'
        "  draw the model first, then call it on what comes back"
    )


def test_behind_a_constraint_it_is_refused():
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(eqx.nn.WeightNorm(eqx.nn.Linear(3, 2, key=KEY)), {"*": ix.schemes.shrink_perturb(0.4, "he_normal")})
    assert str(caught.value) == (
        'rule "*": shrink_perturb adds to what is stored; "layer.weight" is stored behind weight norm.\n'
        "  the sum would not be the effective weight's\n"
        "  draw it anew, or keep it"
    )


def test_auto_is_refused():
    with pytest.raises(ix.SchemeError, match="shrink_perturb can't add to what auto draws"):
        ix.schemes.shrink_perturb(0.4, "auto")


@pytest.mark.parametrize("outer", ["scaled", "shrink_perturb"])
def test_what_keeps_a_part_can_not_be_changed_by_another_scheme(outer):
    inner = ix.schemes.shrink_perturb(0.4, "he_normal")
    scheme = ix.schemes.scaled(inner, 0.5) if outer == "scaled" else ix.schemes.shrink_perturb(0.4, inner)
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(eqx.nn.Linear(3, 2, key=KEY), {"*": scheme})
    assert str(caught.value) == (
        f'rule "*": {outer} can\'t take a scheme that keeps a part of what "weight" holds.\n'
        '  write it the other way around: ("shrink_perturb", {"shrink": ..., "scheme": ("scaled", ...)})'
    )
