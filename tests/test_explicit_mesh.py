"""Arrays whose types say where they live: inside a transformation what is drawn has the type of what was there."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import initax as ix
from tests.tables import KEY

FLAGS = jnp.ones((), bool)


def mesh(*kinds):
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=kinds or (AxisType.Explicit,) * 2)


def placed(model, over):
    """The model with its matrices over both axes of a mesh, its vectors over the second and stacks over the first."""
    specs = {0: (), 1: ("b",), 2: ("a", "b"), 3: ("a", None, "b"), 4: ("a", "b")}

    def put(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        return jax.device_put(leaf, NamedSharding(over, PartitionSpec(*specs[leaf.ndim])))

    return jax.tree.map(put, model)


def types(tree):
    return [jax.typeof(leaf) for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array | jax.core.Tracer)]


def dense():
    return {"dense": {"kernel": jnp.ones((8, 16)), "bias": jnp.ones(16)}}


def equal_rows():
    return [eqx.nn.Linear(16, 8, key=KEY) for _ in range(3)]


def stack():
    return eqx.filter_vmap(lambda key: eqx.nn.Linear(16, 8, key=key))(jax.random.split(KEY, 4))


MODELS = {
    "dict": dense,
    "eqx-rows": equal_rows,
    "eqx-stack": stack,
    "eqx-conv": lambda: eqx.nn.Conv2d(4, 8, 3, use_bias=False, key=KEY),
    "nnx": lambda: nnx.Linear(8, 16, rngs=nnx.Rngs(0)),
    "linen": lambda: {"params": {"Dense_0": nn.Dense(16).init(KEY, jnp.ones((1, 8)))["params"]}},
}


def drawn(rules):
    def redraw(model, key):
        new = ix.reinit(model, rules, key)
        assert types(new) == types(model)
        return new

    return redraw


def once(redraw, model):
    return jax.jit(lambda leaves: redraw(leaves, KEY))(model)


def either(redraw, model):
    return jax.jit(lambda model, flag: jax.lax.cond(flag, lambda: redraw(model, KEY), lambda: model))(model, FLAGS)


def again_and_again(redraw, model):
    keys = jnp.stack([jax.random.key(1), KEY])
    return jax.lax.scan(lambda model, key: (redraw(model, key), None), model, keys)[0]


def for_each_key(redraw, model):
    many = jax.jit(jax.vmap(redraw, in_axes=(None, 0)))(model, jnp.stack([KEY, jax.random.key(1)]))
    return jax.tree.map(lambda leaf: leaf[0], many)


def without_jit(redraw, model):
    many = jax.vmap(lambda key: redraw(model, key))(jnp.stack([KEY, jax.random.key(1)]))
    return jax.tree.map(lambda leaf: leaf[0], many)


WAYS = {each.__name__: each for each in (once, either, again_and_again, for_each_key, without_jit)}
SCHEMES = {
    "he_normal": "he_normal",
    "orthogonal": "orthogonal",
    "polar": ("orthogonal", {"method": "polar"}),
    "constant": (("constant", {"value": 0.5}), "zeros"),
    "sees-old": ix.schemes.shrink_perturb(0.5, "he_normal", 0.1),
}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.slow(one_in=6)
def test_what_is_drawn_has_the_type_and_the_bits_of_what_was_there(way, scheme):
    rules, model = {"*": scheme}, dense()
    over = mesh()
    with jax.set_mesh(over):
        new = way(drawn(rules), placed(model, over))
    assert [leaf.sharding.spec for leaf in jax.tree.leaves(new)] == [PartitionSpec("b"), PartitionSpec("a", "b")]
    start = ix.reinit(model, rules, jax.random.key(1)) if way is again_and_again else model
    for own, plain in zip(jax.tree.leaves(new), jax.tree.leaves(ix.reinit(start, rules, KEY)), strict=True):
        np.testing.assert_allclose(own, plain, atol=4e-6)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.slow(one_in=3)
def test_models_of_every_framework_keep_their_types(make):
    over, model = mesh(), make()
    with jax.set_mesh(over):
        spread = placed(model, over)
        leaves, structure = jax.tree.flatten(spread)
        arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]

        def redraw(arrays):
            following = iter(arrays)
            whole = [next(following) if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
            return [
                leaf
                for leaf in jax.tree.leaves(drawn({"*": "he_normal"})(jax.tree.unflatten(structure, whole), KEY))
                if isinstance(leaf, jax.Array)
            ]

        new = jax.jit(redraw)(arrays)
    assert types(new) == types(arrays)


def test_a_type_is_kept_where_no_mesh_is_set():
    spread = placed(dense(), mesh())
    new = once(drawn({"*": "he_normal"}), spread)
    assert types(new) == types(spread)
    np.testing.assert_array_equal(
        new["dense"]["kernel"], ix.reinit(dense(), {"*": "he_normal"}, KEY)["dense"]["kernel"]
    )


def test_eval_shape_tells_the_types():
    over = mesh()
    with jax.set_mesh(over):
        spread = placed(dense(), over)
        found = jax.eval_shape(drawn({"*": "he_normal"}), spread, KEY)
    assert [each.sharding.spec for each in jax.tree.leaves(found)] == [PartitionSpec("b"), PartitionSpec("a", "b")]


def test_a_model_that_is_closed_over_keeps_its_types():
    over = mesh()
    with jax.set_mesh(over):
        spread = placed(dense(), over)
        new = jax.jit(lambda key: drawn({"*": "he_normal"})(spread, key))(KEY)
    assert types(new) == types(spread)


def test_only_axes_that_are_explicit_are_kept():
    over = mesh(AxisType.Explicit, AxisType.Auto)
    with jax.set_mesh(over):
        spread = placed(dense(), over)
        new = once(drawn({"*": "he_normal"}), spread)
    assert types(new) == types(spread)


@pytest.mark.parametrize("names", [{"a", "b"}, {"a"}], ids=["all", "one"])
def test_inside_shard_map_what_is_drawn_varies_as_what_was_there(names):
    over, rules = mesh(), {"*": "he_normal"}
    columns = ("b",) if "b" in names else ()
    specs = {"dense": {"kernel": PartitionSpec("a", *columns), "bias": PartitionSpec(*columns)}}
    with jax.set_mesh(over):
        spread = placed(dense(), over)

        def local(model, key):
            new = drawn(rules)(model, key)
            return jax.lax.cond(FLAGS, lambda: new, lambda: model)

        new = jax.jit(jax.shard_map(local, in_specs=(specs, PartitionSpec()), out_specs=specs, axis_names=names))(
            spread, KEY
        )
    width = 8 if columns else 16
    own = ix.reinit({"dense": {"kernel": jnp.ones((2, width)), "bias": jnp.ones(width)}}, rules, KEY)
    np.testing.assert_array_equal(np.asarray(new["dense"]["kernel"])[:2, :width], own["dense"]["kernel"])


def test_each_device_draws_its_own_part():
    over = mesh()
    with jax.set_mesh(over):
        spread = placed({"dense": {"kernel": jnp.ones((256, 512)), "bias": jnp.ones(512)}}, over)
        compiled = jax.jit(lambda model: ix.reinit(model, {"*": "he_normal"}, KEY)).lower(spread).compile()
    assert "f32[64,256]" in compiled.as_text()
    assert "f32[256,512]" not in compiled.as_text()
