"""Initializers made with axes of their own, held against calling them by hand on the shape that is stored."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initax as ix
from tests.tables import KEY

init = jax.nn.initializers
RNGS = functools.partial(nnx.Rngs, 0)


def stack(make, count=3):
    return eqx.filter_vmap(lambda key: make(key))(jax.random.split(KEY, count))


@nnx.split_rngs(splits=3)
@nnx.vmap(in_axes=(0,), out_axes=0)
def stacked(rngs):
    return nnx.Linear(7, 5, rngs=rngs)


@nnx.split_rngs(splits=3)
@nnx.vmap(in_axes=(0,), out_axes=nnx.StateAxes({nnx.Param: 1, ...: 0}))
def stacked_inside(rngs):
    return nnx.Linear(7, 5, rngs=rngs)


def linen(module, x):
    return jax.eval_shape(module.init, KEY, x)["params"]


X = jnp.ones((2, 8, 8, 6))
# Sizes are primes or products of few, so that no two axes can be confused.
LAYERS = {
    "eqx.Linear": (lambda: eqx.nn.Linear(7, 5, key=KEY), "weight", ()),
    "eqx.Embedding": (lambda: eqx.nn.Embedding(11, 5, key=KEY), "weight", ()),
    "eqx.Conv2d": (lambda: eqx.nn.Conv2d(6, 15, (3, 2), groups=3, key=KEY), "weight", ()),
    "eqx.ConvTranspose2d": (lambda: eqx.nn.ConvTranspose2d(3, 5, (3, 2), key=KEY), "weight", ()),
    "eqx.LSTMCell": (lambda: eqx.nn.LSTMCell(3, 5, key=KEY), "weight_ih", ()),
    "eqx stack": (lambda: stack(lambda key: eqx.nn.Linear(7, 5, key=key)), "weight", (0,)),
    "nnx.Linear": (lambda: nnx.Linear(7, 5, rngs=RNGS()), "kernel", ()),
    "nnx.LinearGeneral": (lambda: nnx.LinearGeneral((2, 3), (4, 5), axis=(-2, -1), rngs=RNGS()), "kernel", ()),
    "nnx.Embed": (lambda: nnx.Embed(11, 5, rngs=RNGS()), "embedding", ()),
    "nnx.Conv": (lambda: nnx.Conv(6, 15, (3, 2), feature_group_count=3, rngs=RNGS()), "kernel", ()),
    "nnx stack": (lambda: stacked(RNGS()), "kernel", (0,)),
    "nnx stack inside": (lambda: stacked_inside(RNGS()), "kernel", (1,)),
    "nn.Dense": (lambda: {"Dense_0": linen(nn.Dense(5), jnp.ones((2, 7)))}, "Dense_0.kernel", ()),
    "nn.Conv": (lambda: {"Conv_0": linen(nn.Conv(15, (3, 2), feature_group_count=1), X)}, "Conv_0.kernel", ()),
    "nn.Embed": (lambda: {"Embed_0": linen(nn.Embed(11, 5), jnp.ones((2,), int))}, "Embed_0.embedding", ()),
    "an array": (lambda: {"w": jnp.zeros((7, 5))}, "w", ()),
}
"""A layer, one of its weights, and the axes of a stack."""

OWN = {
    "variance_scaling": init.variance_scaling(1.0, "fan_in", "normal", out_axis=0),
    "both": init.variance_scaling(2.0, "fan_avg", "truncated_normal", in_axis=1, out_axis=0),
    "from behind": init.variance_scaling(1.0, "fan_geo_avg", "uniform", in_axis=-1, out_axis=-2),
    "several": init.variance_scaling(1.0, "fan_out", "normal", in_axis=(0,), out_axis=[1, -1]),
    "batch": init.variance_scaling(1.0, "fan_in", "normal", in_axis=1, out_axis=(), batch_axis=0),
    "he_normal": init.he_normal(in_axis=-1, out_axis=0),
    "he_uniform": init.he_uniform(in_axis=-1, out_axis=0),
    "kaiming_normal": init.kaiming_normal(in_axis=1, out_axis=0),
    "glorot_normal": init.glorot_normal(in_axis=1, out_axis=()),
    "glorot_uniform": init.glorot_uniform(in_axis=0, out_axis=1),
    "xavier_uniform": init.xavier_uniform(in_axis=0, out_axis=0),
    "lecun_normal": init.lecun_normal(in_axis=(0, 1), out_axis=-1),
    "lecun_uniform": init.lecun_uniform(in_axis=0),
    "orthogonal": init.orthogonal(2.0, column_axis=0),
    "a partial": functools.partial(init.he_normal(in_axis=1, out_axis=0), out_sharding=None),
    "nnx.with_partitioning": nnx.with_partitioning(init.he_normal(in_axis=1, out_axis=0), (None, None)),
    "nnx.with_metadata": nnx.with_metadata(init.he_normal(in_axis=1, out_axis=0), note=1),
    "nn.with_partitioning": nn.with_partitioning(init.he_normal(in_axis=1, out_axis=0), (None, None)),
    "nn.with_logical_partitioning": nn.with_logical_partitioning(
        init.he_normal(in_axis=1, out_axis=0), ("model", "data")
    ),
}


def opened(made):
    """What Flax's metadata is around."""
    return getattr(made, "raw_value", getattr(made, "value", made)) if not isinstance(made, jax.Array) else made


def by_hand(own, key, shape, axes):
    """An initializer called once per entry of a stack, with the shape of one entry."""
    if not axes:
        return opened(own(key, shape, jnp.float32))
    (axis,) = axes
    entry = shape[:axis] + shape[axis + 1 :]
    keys = jax.random.split(key, shape[axis])
    return jnp.stack([opened(own(each, entry, jnp.float32)) for each in keys], axis)


@functools.cache
def abstract(layer):
    """A layer of the table without its numbers."""
    make = LAYERS[layer][0]
    shapes_of = {"eqx": eqx.filter_eval_shape, "nnx": nnx.eval_shape}.get(layer[:3])
    return shapes_of(make) if shapes_of else make()


def drawn(model, scheme, name, **options):
    return ix.plan(model, {"*": (scheme, None)}, **options).arrays(KEY)[name]


EVERY = ("eqx.Linear", "nnx stack inside")
"""Layers with which every initializer is tried."""
SOME = ("variance_scaling", "orthogonal", "nnx.with_partitioning")
"""Initializers that are tried with every layer."""


@pytest.mark.parametrize(
    ("layer", "own"), [(layer, own) for layer in LAYERS for own in OWN if layer in EVERY or own in SOME]
)
@pytest.mark.slow(one_in=7)
def test_axes_of_its_own_count_in_the_layout_that_is_stored(layer, own):
    _, name, axes = LAYERS[layer]
    found = drawn(abstract(layer), OWN[own], name)
    expected = by_hand(OWN[own], ix.parameter_key(KEY, name), found.shape, axes)
    assert np.std(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "own",
    [
        init.he_normal(in_axis=-1, out_axis=-2, batch_axis=0),
        init.he_normal(in_axis=2, out_axis=1, batch_axis=0),
        init.he_normal(in_axis=-1, out_axis=1, batch_axis=(0,)),
        init.he_normal(in_axis=2, out_axis=1, batch_axis=-3),
    ],
)
def test_axes_of_a_whole_stack_are_seen_with_the_whole_stack(own):
    """One entry has no such axes, or its inputs would be a batch axis."""
    found = drawn(abstract("eqx stack"), own, "weight")
    np.testing.assert_array_equal(found, own(ix.parameter_key(KEY, "weight"), (3, 5, 7)))
    assert np.std(found) == pytest.approx((2 / 7) ** 0.5, rel=0.2)


def test_flax_s_own_initializer_of_embeddings_means_the_features():
    scheme = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    model = ix.reinit(nnx.Embed(4000, 10, rngs=RNGS()), {"Embed": scheme}, KEY)
    assert float(jnp.std(model.embedding[...])) == pytest.approx(10**-0.5, rel=0.02)


DEFAULTS = {
    "left out": init.he_normal(),
    "written out": init.he_normal(in_axis=-2, out_axis=-1, batch_axis=()),
    "in tuples": init.he_normal(in_axis=(-2,), out_axis=[-1], batch_axis=[]),
    "orthogonal": init.orthogonal(column_axis=-1),
    "in metadata": nn.with_partitioning(init.he_normal(), (None, None)),
    "no axes at all": init.normal(0.1),
    "not JAX's": lambda key, shape, dtype, out_axis=0: init.he_normal()(key, shape, dtype),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_axes_are_those_of_the_canonical_layout(name):
    own = DEFAULTS[name]
    found = drawn(LAYERS["eqx.Linear"][0](), own, "weight")
    expected = opened(own(ix.parameter_key(KEY, "weight"), (7, 5), jnp.float32)).T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("column_axis", [-1, 0])
def test_the_columns_of_delta_orthogonal_are_no_axis_of_the_array(column_axis):
    own = init.delta_orthogonal(column_axis=column_axis)
    conv = eqx.nn.Conv2d(3, 5, 3, key=KEY)
    canonical = own(ix.parameter_key(KEY, "weight"), (3, 3, 3, 5))
    np.testing.assert_allclose(drawn(conv, own, "weight"), np.transpose(canonical, (3, 2, 0, 1)), rtol=1e-5, atol=1e-6)


def test_axes_that_the_array_has_not_are_an_error_that_shows_the_stored_shape():
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(eqx.nn.Linear(7, 5, key=KEY), {"*": init.he_normal(in_axis=2, out_axis=0)})
    assert str(caught.value) == (
        'rule "*": the initializer variance_scaling fails on "weight": IndexError: tuple index out of range\n'
        "  it was called with shape (5, 7) and type float32\n"
        "  an initializer takes (key, shape, dtype), and fan_in if it names it"
    )


def test_it_is_jitted_like_any_other():
    make, name, _ = LAYERS["nnx stack inside"]
    model = ix.plan(make(), {"*": (OWN["he_normal"], None)})
    np.testing.assert_allclose(jax.jit(model.arrays)(KEY)[name], model.arrays(KEY)[name], rtol=1e-6)
