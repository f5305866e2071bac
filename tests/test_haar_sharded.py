"""Orthogonal draws of parameters that live on a mesh: no communication, or no device with a whole matrix."""

import contextlib
import math
import re
from typing import get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import initax as ix
from initax._math._axes import resolve
from initax._math._sharding import split_of
from initax.schemes import _structured
from tests.tables import KEY

COLLECTIVES = re.compile(r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\(")
ARRAYS = re.compile(r"[a-z]+\d+\[([\d,]+)\]")


def mesh(*shape):
    return Mesh(np.array(jax.devices()).reshape(shape), ("data", "model")[: len(shape)])


def compiled(pattern, shape, home, sizes=None, method="auto", dtype=jnp.float32):
    """What draws one array that lives at `home`, from its key."""
    scheme = ix.Scheme(("orthogonal", {"method": method}), axes=pattern, sizes=sizes or {})
    model = {"w": jax.ShapeDtypeStruct(shape, dtype, sharding=home)}
    recipe = ix.plan(model, {"*": scheme}).draws[0].recipe
    draw = jax.jit(lambda key: recipe.kernel(key, recipe.numbers, shape, dtype), out_shardings=home)
    return draw.lower(KEY).compile()


def at_home(pattern, shape, sizes=None, method="auto", dtype=jnp.float32):
    """The same where it lives nowhere."""
    drawn = ix.draw(("orthogonal", {"method": method}), KEY, shape, dtype, axes=pattern, sizes=sizes)
    return np.asarray(drawn)


BATCHES = {
    "stack": ("stack o i", (8, 12, 20), ("data",), None),
    "stack-both": ("stack o i", (8, 64, 40), (("data", "model"),), None),
    "inner-of-two": ("stack head o i", (2, 4, 48, 40), (None, "data"), None),
    "groups": ("(g o) i ...", (8 * 16, 6, 3), ("data",), {"g": 8}),
    "gates": ("i (gate o)", (16, 4 * 40), (None, "data"), {"gate": 4}),
}


@pytest.mark.parametrize(("pattern", "shape", "spec", "sizes"), BATCHES.values(), ids=BATCHES)
@pytest.mark.slow(one_in=5)
def test_batch_axes_are_split_without_communication(pattern, shape, spec, sizes):
    home = NamedSharding(mesh(4, 2), PartitionSpec(*spec))
    draw = compiled(pattern, shape, home, sizes)
    assert not COLLECTIVES.search(draw.as_text())
    drawn = draw(KEY)
    assert drawn.sharding == home
    np.testing.assert_allclose(drawn, at_home(pattern, shape, sizes), atol=1e-6)


MATRICES = {
    "rows": ("o i", (64, 48), (("data", "model"), None)),
    "columns": ("o i", (64, 48), (None, "data")),
    "both": ("i o", (64, 48), ("model", "data")),
    "stacked": ("stack o i", (4, 64, 48), ("data", "model", None)),
}


@pytest.mark.parametrize(("pattern", "shape", "spec"), MATRICES.values(), ids=MATRICES)
@pytest.mark.slow(one_in=4)
def test_a_matrix_is_drawn_whole_where_a_part_of_it_lives(pattern, shape, spec):
    home = NamedSharding(mesh(4, 2), PartitionSpec(*spec))
    draw = compiled(pattern, shape, home)
    assert not COLLECTIVES.search(draw.as_text())
    drawn = draw(KEY)
    assert drawn.sharding == home
    np.testing.assert_allclose(drawn, at_home(pattern, shape), atol=1e-6)


POLAR = {
    "1-D-rows": ("o i", (128, 128), (8,), ("data", None)),
    "1-D-columns": ("o i", (128, 128), (8,), (None, "data")),
    "2-D": ("o i", (128, 64), (4, 2), ("data", "model")),
    "2-D-turned": ("o i", (128, 128), (4, 2), ("model", "data")),
    "2-D-uneven": ("i o", (100, 60), (4, 2), ("data", "model")),
    "half-the-mesh": ("i o", (64, 128), (4, 2), ("data", None)),
    "stacked": ("stack o i", (4, 64, 64), (4, 2), ("data", "model")),
}


@pytest.mark.parametrize(("pattern", "shape", "devices", "spec"), POLAR.values(), ids=POLAR)
@pytest.mark.slow(one_in=7)
def test_a_polar_factor_is_made_by_devices_that_never_hold_it(pattern, shape, devices, spec):
    home = NamedSharding(mesh(*devices), PartitionSpec(*spec))
    draw = compiled(pattern, shape, home, method="polar")
    drawn = draw(KEY)
    assert drawn.sharding == home
    np.testing.assert_allclose(drawn, at_home(pattern, shape, method="polar"), atol=1e-6)
    shard = drawn.addressable_shards[0].data.size
    largest = max(math.prod(map(int, sizes.split(","))) for sizes in ARRAYS.findall(draw.as_text()))
    assert largest <= 1.2 * shard, "padding, at most"
    assert COLLECTIVES.search(draw.as_text()), "devices do talk, and the search would see it"
    assert draw.memory_analysis().temp_size_in_bytes <= 10 * 4 * shard


def test_a_unitary_polar_factor_is_made_by_all_devices():
    home = NamedSharding(mesh(8), PartitionSpec("data"))
    drawn = compiled("o i", (64, 64), home, method="polar", dtype=jnp.complex64)(KEY)
    np.testing.assert_allclose(drawn, at_home("o i", (64, 64), method="polar", dtype=jnp.complex64), atol=1e-6)


def test_reinit_draws_polar_factors_where_they_live(key):
    model = eqx.nn.Linear(64, 64, key=KEY)
    home = NamedSharding(mesh(4, 2), PartitionSpec("data", "model"))
    spread = eqx.tree_at(lambda each: each.weight, model, jax.device_put(model.weight, home))
    rules = {"*": ("orthogonal", {"method": "polar"})}
    new = ix.reinit(spread, rules, key)
    assert new.weight.sharding == home
    np.testing.assert_allclose(new.weight, ix.reinit(model, rules, key).weight, atol=1e-6)


@pytest.mark.parametrize("method", ["householder", "polar"])
def test_where_an_array_lives_means_nothing_inside_somebody_elses_shard_map(method, key):
    home = NamedSharding(mesh(8), PartitionSpec("data"))
    model = {"w": jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=home)}
    rules = {"*": ix.Scheme(("orthogonal", {"method": method}), axes="o i")}
    everywhere = jax.jit(
        jax.shard_map(
            lambda each: ix.reinit(model, rules, each)["w"][None],
            mesh=home.mesh,
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec("data"),
            check_vma=False,
        )
    )(key)
    alone = ix.reinit({"w": jnp.ones((16, 8))}, rules, key)["w"]
    for shard in everywhere:
        np.testing.assert_allclose(shard, alone, atol=1e-6)


@pytest.mark.parametrize("is_set", [False, True], ids=["named", "set"])
@pytest.mark.parametrize("method", ["householder", "polar"])
def test_a_mesh_that_wants_shardings_in_types_changes_nothing(method, is_set, key):
    """Explicit axes, which `jax.make_mesh` gives unless told otherwise; alone, and as the context of everything."""
    explicit = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit, AxisType.Explicit))
    home = NamedSharding(explicit, PartitionSpec("data", "model"))
    model = {"w": jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=home)}
    rules = {"*": ix.Scheme(("orthogonal", {"method": method}), axes="o i")}
    with jax.set_mesh(explicit) if is_set else contextlib.nullcontext():
        drawn = ix.reinit(model, rules, key)["w"]
    assert drawn.sharding == home
    np.testing.assert_allclose(drawn, ix.reinit({"w": jnp.ones((16, 8))}, rules, key)["w"], atol=1e-6)


# Which method


@pytest.mark.parametrize("sharded", [False, True], ids=["alone", "sharded"])
@pytest.mark.parametrize(
    ("shape", "is_polar"), [((2**14, 2**14), False), ((2**14, 2**14 + 8), True), ((8, 2**14, 2**14), False)]
)
def test_a_matrix_of_a_gibibyte_is_the_largest_for_one_device(shape, is_polar, sharded):
    home = NamedSharding(mesh(8), PartitionSpec(*[None] * (len(shape) - 1), "data")) if sharded else None
    model = {"w": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=home)}
    pattern = "o i" if len(shape) == 2 else "stack o i"
    draw = ix.plan(model, {"*": ix.Scheme("orthogonal", axes=pattern)}).draws[0]
    assert draw.recipe.kernel.is_polar == is_polar


def test_auto_is_one_of_the_two(key, monkeypatch):
    drawn = {
        method: ix.draw(("orthogonal", {"method": method}), key, (8, 5)) for method in get_args(_structured.Method)
    }
    assert np.array_equal(drawn["auto"], drawn["householder"])
    assert not np.allclose(drawn["auto"], drawn["polar"])
    monkeypatch.setattr(_structured, "LARGEST", 39)
    assert np.array_equal(ix.draw("orthogonal", key, (8, 5)), drawn["polar"])


SPLITS = {
    "plain": ("o i", (64, 16), ("data", None), None, ((), ("data",))),
    "stack": ("stack o i", (8, 6, 4), ("data", "model"), None, ((("data",),), ("model",))),
    "groups-first": ("(g o) i", (64, 16), (("data", "model"),), {"g": 8}, ((("data", "model"),), ())),
    "groups-in-part": ("(g o) i", (64, 16), (("data", "model"),), {"g": 4}, ((("data",),), ("model",))),
    "too-few-groups": ("(g o) i", (64, 16), (("data", "model"),), {"g": 2}, (((),), ("data", "model"))),
    "outputs-first": ("(o g) i", (64, 16), ("data",), {"g": 4}, (((),), ("data",))),
    "receptive": ("o i ...", (8, 8, 3, 3), (None, "model"), None, ((), ("model",))),
    "order-of-the-mesh": ("o i", (64, 16), ("model", "data"), None, ((), ("data", "model"))),
}


@pytest.mark.parametrize(("pattern", "shape", "spec", "sizes", "expected"), SPLITS.values(), ids=SPLITS)
def test_mesh_axes_go_to_batch_entries_first(pattern, shape, spec, sizes, expected):
    split = split_of(resolve(pattern, shape, sizes), NamedSharding(mesh(4, 2), PartitionSpec(*spec)))
    assert (split.batch, split.matrix) == expected


def test_what_is_not_split_has_no_split():
    axes = resolve("o i", (8, 8))
    assert split_of(axes, None) is None
    assert split_of(axes, jax.sharding.SingleDeviceSharding(jax.devices()[0])) is None
    assert split_of(axes, NamedSharding(mesh(8), PartitionSpec(None, None))) is None
