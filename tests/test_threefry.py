"""The fused Threefry has the bits of JAX's own, counter by counter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initax as ix
from initax._math import _threefry
from initax._math._keys import fold_paths, fold_paths_on_host

SHAPES = [(), (1,), (7,), (3, 4, 5), (0, 2), (2, 1, 129)]


@pytest.fixture
def both(key):
    return key, jax.random.wrap_key_data(jax.random.key_data(key), impl=_threefry.FUSED)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.slow(one_in=5)
def test_bits_are_those_of_jax(width, shape, both, x64):
    theirs, ours = jax.jit(lambda keys: [jax.random.bits(key, shape, f"uint{width}") for key in keys])(both)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


SAMPLERS = {
    "normal": lambda key: jax.random.normal(key, (33, 65)),
    "truncated_normal": lambda key: jax.random.truncated_normal(key, -2.0, 2.0, (33, 65)),
    "uniform": lambda key: jax.random.uniform(key, (33, 65), minval=-1.0),
    "complex normal": lambda key: jax.random.normal(key, (33, 65), jnp.complex64),
    "bfloat16": lambda key: jax.random.normal(key, (33, 65), jnp.bfloat16),
    "gamma": lambda key: jax.random.gamma(key, 2.0, (33,)),
    "permutation": lambda key: jax.random.permutation(key, 33),
    "orthogonal": lambda key: jax.random.orthogonal(key, 9),
    "a key folded and split": lambda key: jax.random.normal(jax.random.split(jax.random.fold_in(key, 3), 4)[2], (5,)),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.slow(one_in=4)
def test_samplers_of_jax_draw_the_same_from_both(name, both):
    theirs, ours = (jax.jit(SAMPLERS[name])(key) for key in both)
    assert np.array_equal(ours, theirs)


def test_a_key_is_folded_and_split_and_drawn_from_without_jit(both):
    """One sampler is enough: those of JAX are jitted themselves."""
    theirs, ours = map(SAMPLERS["a key folded and split"], both)
    assert np.array_equal(ours, theirs)


def test_under_vmap_over_keys_the_draws_are_those_of_each(both):
    keys = jax.random.split(both[1], 5)
    many = jax.vmap(lambda key: jax.random.normal(key, (3, 4)))(keys)
    for key, one in zip(keys, many, strict=True):
        assert np.array_equal(jax.random.normal(key, (3, 4)), one)


LARGE = [(2**18, 2**10, 2**9), (3, 2**20, 2**14), (2**31, 2**31), (5, 2**32 - 1), (2**20, 3, 2**13)]


@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_places_in_arrays_too_large_for_one_word_are_right(shape):
    index = np.random.default_rng(0).integers(0, shape, (50, len(shape)))
    with np.errstate(over="ignore"):
        high, low = _threefry.place_of(list(index.T.astype(np.uint32)), shape)
    expected = []
    for row in index.tolist():
        place = 0
        for each, size in zip(row, shape, strict=True):
            place = place * size + each
        expected.append(place)
    assert max(expected) > 2**32
    assert [upper * 2**32 + lower for upper, lower in zip(high.tolist(), low.tolist(), strict=True)] == expected


def test_an_axis_too_long_for_a_word_is_refused():
    with pytest.raises(OverflowError, match="an axis of 4294967296 entries"):
        _threefry.counters((2**32,))


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("count", [0, _threefry.FEW], ids=["few", "many"])
def test_keys_of_paths_are_the_same_on_the_host(count, implementation):
    key = jax.random.key(5, impl=implementation)
    paths = ["", "a", "layers.0.weight", "é.ß", *map(str, range(count))]
    expected = np.asarray(jax.random.key_data(fold_paths(key, paths)))[: len(paths)]
    assert np.array_equal(fold_paths_on_host(key, paths), expected)
    single = [np.asarray(jax.random.key_data(ix.parameter_key(key, path))) for path in paths]
    assert np.array_equal(expected, single)


def test_a_draw_needs_no_memory_beside_what_it_draws():
    (lowered,) = ix.plan({"w": (512, 2048)}, {"*": "he_normal"}).lower().values()
    cost = lowered.compile().memory_analysis()
    assert cost.output_size_in_bytes == pytest.approx(512 * 2048 * 4, abs=64)
    assert cost.temp_size_in_bytes < 1024


def test_a_callable_gets_a_key_of_the_kind_the_user_has(key):
    seen = []

    def initializer(key, shape, dtype):
        seen.append(str(jax.random.key_impl(key)))
        return jax.random.normal(key, shape, dtype) + 0 * jax.random.normal(jax.random.key(0), shape, dtype)

    drawn = ix.draw(initializer, key, (4, 3))
    assert set(seen) == {"threefry2x32"}
    # Compiled as a whole, as initax compiles it: eager calls may differ in the last place.
    assert np.array_equal(drawn, jax.jit(initializer, static_argnums=(1, 2))(key, (4, 3), jnp.float32))


def test_without_partitionable_threefry_the_bits_are_still_those_of_jax(key):
    with jax.threefry_partitionable(False):
        ours = ix.draw("normal", key, (16, 33))
        theirs = jax.nn.initializers.normal(0.01)(key, (16, 33))
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours, ix.draw("normal", key, (16, 33)))
