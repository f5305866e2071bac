"""Models over many devices, and models that barely fit: what is drawn where, at what cost, and what goes wrong."""

import gc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import initax as ix
from initax._drawing import _draw, _rows
from initax._drawing._program import Compiled, compile_together, constant_program, sampler
from initax.schemes._kernels import Full
from tests.tables import KEY, compilations


def mesh_of(*sizes, types=AxisType.Auto):
    names = ("data", "model", "stage")[: len(sizes)]
    return jax.make_mesh(sizes, names, devices=jax.devices()[: int(np.prod(sizes))], axis_types=(types,) * len(sizes))


MESHES = {
    "1": (mesh_of(1), PartitionSpec("data")),
    "2": (mesh_of(2), PartitionSpec("data")),
    "4 along the outputs": (mesh_of(4), PartitionSpec(None, "data")),
    "8": (mesh_of(8), PartitionSpec("data")),
    "4x2": (mesh_of(4, 2), PartitionSpec("data", "model")),
    "2x4 on one axis": (mesh_of(2, 4), PartitionSpec(None, ("model", "data"))),
    "2x4, one replicated": (mesh_of(2, 4), PartitionSpec("model")),
    "2x2x2": (mesh_of(2, 2, 2), PartitionSpec(("stage", "data"), "model")),
    "4x2 explicit": (mesh_of(4, 2, types=AxisType.Explicit), PartitionSpec("data", "model")),
}
HOEDT = ("hoedt", {"bias": "elsewhere"})
ELEMENTWISE = ["he_normal", "glorot_uniform", ("normal", {"mean": 0.5}), ("constant", {"value": 0.2}), HOEDT]
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")


def over(mesh, spec, shape=(256, 512), dtype=jnp.float32):
    return {"w": jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))}


def shown(scheme):
    return scheme if isinstance(scheme, str) else scheme[0]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("scheme", ELEMENTWISE, ids=shown)
@pytest.mark.slow(one_in=7)
def test_no_bit_depends_on_the_mesh(scheme, mesh, key):
    plain = ix.reinit({"w": (256, 512)}, {"*": scheme}, key)["w"]
    model = over(*MESHES[mesh])
    drawn = ix.reinit(model, {"*": scheme}, key)["w"]
    assert drawn.sharding == model["w"].sharding
    assert np.array_equal(drawn, plain)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scheme", ["he_normal", "glorot_uniform", ("normal", {"mean": 0.5}), HOEDT], ids=shown)
@pytest.mark.slow(one_in=7)
def test_no_device_holds_more_than_its_shard_and_no_word_is_passed(scheme, dtype, mesh):
    where, spec = MESHES[mesh]
    ((_, lowered),) = ix.plan(over(where, spec, dtype=dtype), {"*": scheme}).lower().items()
    compiled = lowered.compile()
    assert not [word for word in COLLECTIVES if word in compiled.as_text()]
    shard = np.prod(NamedSharding(where, spec).shard_shape((256, 512))) * jnp.dtype(dtype).itemsize
    cost = compiled.memory_analysis()
    assert shard <= cost.output_size_in_bytes + cost.temp_size_in_bytes <= 1.05 * shard


def test_under_an_explicit_mesh_around_a_draw_is_still_made_of_shards(key):
    mesh, spec = MESHES["4x2 explicit"]
    with jax.set_mesh(mesh):
        plan = ix.plan(over(mesh, spec), {"*": "he_normal"})
        ((_, lowered),) = plan.lower().items()
        drawn = plan.draw(key)["w"]
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 1024
    assert drawn.sharding == NamedSharding(mesh, spec)


# What frameworks say of meshes

MESH = mesh_of(4, 2)
SPEC = PartitionSpec("data", "model")


def nnx_linear(mesh):
    init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("data", "model"), mesh=mesh)
    return lambda: nnx.Linear(16, 8, kernel_init=init, use_bias=False, rngs=nnx.Rngs(0))


def linen_dense(init):
    module = nn.Dense(8, kernel_init=init, use_bias=False)
    return module, jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 16), jnp.float32))


RULES = (("embed", "data"), ("mlp", "model"))
LECUN = nn.initializers.lecun_normal()
BOXES = {
    "partitioned": lambda mesh: nn.with_partitioning(LECUN, ("data", "model"), mesh=mesh),
    "logically partitioned": lambda mesh: nn.with_logical_partitioning(LECUN, ("embed", "mlp"), mesh=mesh, rules=RULES),
}


@pytest.mark.parametrize("where", ["named", "around"])
def test_an_abstract_nnx_module_is_born_sharded(where, key):
    with jax.set_mesh(MESH):
        around = nnx.eval_shape(nnx_linear(None))
    model = nnx.eval_shape(nnx_linear(MESH)) if where == "named" else around
    with jax.set_mesh(MESH if where == "around" else Mesh(np.empty((), object), ())):
        new = ix.reinit(model, {"*": "he_normal"}, key)
    drawn = new.kernel.get_value()
    assert drawn.sharding == NamedSharding(MESH, SPEC)
    assert nnx.get_partition_spec(new.kernel).get_raw_value() == SPEC
    assert np.array_equal(drawn, ix.reinit({"kernel": (16, 8)}, {"*": "he_normal"}, key)["kernel"])


@pytest.mark.parametrize("with_module", [False, True], ids=["by names", "by module"])
@pytest.mark.parametrize("where", ["named", "around"])
@pytest.mark.parametrize("box", BOXES)
def test_abstract_linen_variables_in_boxes_are_born_sharded(box, where, with_module, key):
    module, variables = linen_dense(BOXES[box](MESH if where == "named" else None))
    told = {"module": module, "inputs": jnp.ones((2, 16))} if with_module else {}
    with jax.set_mesh(MESH if where == "around" else Mesh(np.empty((), object), ())):
        new = ix.reinit(variables, {"*": "he_normal"}, key, **told)
    kernel = new["params"]["kernel"]
    assert isinstance(kernel, nn.Partitioned)
    assert kernel.value.sharding == NamedSharding(MESH, SPEC)


def test_without_a_mesh_boxes_say_nothing(key):
    _, variables = linen_dense(BOXES["partitioned"](None))
    new = ix.reinit(variables, {"*": "he_normal"}, key)
    assert new["params"]["kernel"].value.devices() == {jax.devices()[0]}


# What goes wrong


def test_a_mesh_that_does_not_divide_an_axis_is_refused_by_name(key):
    model = {"b": {"w": over(MESH, SPEC, (6, 9))["w"]}, "a": {"w": (4, 4)}}
    model["a"]["w"] = over(MESH, SPEC, (8, 8))["w"]
    with pytest.raises(ix.PlanError) as caught:
        ix.reinit(model, {"*": "he_normal"}, key)
    assert str(caught.value) == (
        '"b.w" (6, 9) can\'t be sharded as it is said to be.\n'
        '  axis 0 has 6 entries, and the mesh 4 parts along "data"\n'
        '  axis 1 has 9 entries, and the mesh 2 parts along "model"\n'
        "  leave the axis whole, PartitionSpec(..., None), or take a mesh or a size that fits"
    )


def test_a_mesh_without_devices_says_what_to_write(key):
    model = over(MESH.abstract_mesh, SPEC, (8, 8))
    plan = ix.plan(model, {"*": "he_normal"})
    with pytest.raises(ix.PlanError) as caught:
        plan.draw(key)
    assert str(caught.value) == (
        "\"w\" is to be sharded over the mesh {'data': 4, 'model': 2}, which has no devices.\n"
        "  with jax.set_mesh(jax.make_mesh(...)): model = plan.draw(key)"
    )
    with jax.set_mesh(MESH):
        assert ix.reinit(model, {"*": "he_normal"}, key)["w"].sharding == NamedSharding(MESH, SPEC)


@pytest.mark.parametrize("scheme", ["he_normal", "zeros"])
def test_out_of_memory_names_the_parameter_and_leaves_the_model(scheme, key):
    model: dict[str, Any] = {
        "small": jnp.ones((8, 8)),
        "huge": {"w": jax.ShapeDtypeStruct((2**20, 2**17), jnp.float32)},
    }
    with pytest.raises(ix.DrawError) as caught:
        ix.reinit(model, {"*": scheme}, key)
    assert str(caught.value) == (
        'there is not enough memory to draw "huge.w": 524,288.0 MiB as float32 of shape (1048576, 131072).\n'
        "  to give up old arrays one by one write donate=True; to draw shard by shard, a model with shardings"
    )
    assert float(model["small"].sum()) == 64


# Memory that the old model gives back


def test_donation_needs_memory_for_the_model_and_its_largest_array(key, monkeypatch):
    sizes = [40, 1000, 40, 700, 1000]
    model = [eqx.nn.Linear(size, size, key=KEY) for size in sizes]
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_array))
    before = sum(each.nbytes for each in arrays)
    others = settled_bytes() - before
    seen = []
    real = _draw._await

    def spied(job, drawn):
        real(job, drawn)
        seen.append(live_bytes() - others)

    monkeypatch.setattr(_draw, "_await", spied)
    plain = ix.reinit(model, {"*": "he_normal"}, key)
    assert live_bytes() - others >= 2 * before
    del plain
    new = ix.reinit(model, {"*": "he_normal"}, key, donate=True)
    one_call = _rows.LONGER.rows * _rows.LONGER.entries * 4
    # The calls that an array's rows are from may begin before it and end behind it.
    assert max(seen) <= before + max(each.nbytes for each in arrays) + 2 * one_call
    assert all(each.is_deleted() for each in arrays)
    assert [each.weight.shape[0] for each in new] == sizes


def test_constants_from_the_host_are_made_one_by_one(key, monkeypatch):
    model = [jnp.ones((2, 2)) for _ in range(6)]
    gone = []
    real = Full.on_host

    def spied(kernel, *arguments):
        gone.append(sum(each.is_deleted() for each in model))
        return real(kernel, *arguments)

    monkeypatch.setattr(Full, "on_host", spied)
    ix.reinit(model, {"*": "zeros"}, key, donate=True)
    assert gone == list(range(6))


def test_donation_needs_memory_for_a_few_arrays_where_small_ones_are_drawn_together(key, monkeypatch):
    model = [jnp.ones((16, 16)) for _ in range(5 * _rows.MIN_SHORT)]
    before = sum(each.nbytes for each in model)
    others = settled_bytes() - before
    seen = []
    real = Compiled.__call__

    def spied(compiled, *arguments):
        made = real(compiled, *arguments)
        seen.append(live_bytes() - others)
        return made

    monkeypatch.setattr(Compiled, "__call__", spied)
    ix.reinit(model, {"*": "he_normal"}, key, donate=True)
    assert max(seen) <= before + (_rows.SHORT.rows + _rows.MAX_OUTPUTS) * model[0].nbytes
    assert all(each.is_deleted() for each in model)


def settled_bytes():
    """What is live once errors of finished tests have let their arrays go, which JAX 0.12 counts at 512 GiB each."""
    gc.collect()
    return live_bytes()


def live_bytes():
    return sum(each.nbytes for each in jax.live_arrays() if not jnp.issubdtype(each.dtype, jax.dtypes.prng_key))


def test_donation_spares_what_stays_anywhere_in_the_model(key):
    shared, tied, host = jnp.ones((4, 4)), jnp.ones((4, 4)), np.ones((4, 4), np.float32)
    model: dict[str, Any] = {"a": shared, "kept": jnp.ones((4, 4)), "copy": {"b": tied}, "again": (tied,), "host": host}
    new = ix.reinit(model | {"state": eqx.nn.State}, {"*": "he_normal", "kept": None}, key, donate=True)
    assert not model["kept"].is_deleted()
    assert new["kept"] is model["kept"]
    assert shared.is_deleted()
    assert tied.is_deleted()
    assert new["again"][0] is new["copy"]["b"]
    assert host.sum() == 16
    assert isinstance(new["host"], np.ndarray)


def test_donation_spares_an_array_that_two_paths_hold_and_one_keeps(key):
    both = jnp.ones((4, 4))
    new = ix.reinit({"a": both}, {"*": "he_normal"}, key, donate=True)
    assert both.is_deleted()
    assert not new["a"].is_deleted()


# Compilation


@pytest.mark.parametrize("context", ["plain", "x64", "another device"])
def test_what_is_compiled_ahead_is_not_compiled_again(context, key):
    model = {"a": (31, 17), "b": (31, 17), "conv": (5, 7, 16), "d": (17, 31)}

    def call():
        with (
            jax.enable_x64(context == "x64"),
            jax.default_device(jax.devices()[3] if context == "another device" else None),
        ):
            ix.reinit(
                {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in model.items()},
                {"*": "he_normal"},
                key,
            )

    jax.clear_caches()
    for cache in (sampler, constant_program, _rows._drawer, _rows._assembler):
        cache.cache_clear()
    first = compilations(call)
    assert first <= 4
    assert compilations(call) == 0


def test_the_number_of_programs_does_not_grow_with_depth(key):
    def call(depth):
        model = [eqx.nn.Linear(37, 41, key=KEY) for _ in range(depth)] + [eqx.nn.Linear(41, 37, key=KEY)]
        _rows._drawer.cache_clear()
        return compilations(lambda: ix.reinit(model, {"*": "he_normal"}, key))

    call(1)
    assert call(3) == call(30)


def test_programs_are_lowered_by_the_paths_that_share_them():
    model = [eqx.nn.Linear(3, 3, key=KEY) for _ in range(3)]
    plan = ix.plan(model, {"*": ("he_normal", None), "2": ("he_uniform", None)})
    assert list(plan.lower()) == [("0.weight", "1.weight"), ("2.weight",)]


def test_nothing_to_compile_is_no_work():
    compile_together([])


def test_progress_goes_to_the_error_stream_and_changes_nothing(key, capsys):
    model = [eqx.nn.Linear(3, 3, key=KEY) for _ in range(3)]
    plain = ix.reinit(model, {"*": "he_normal"}, key)
    assert capsys.readouterr() == ("", "")
    new = ix.reinit(model, {"*": "he_normal"}, key, progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "100%" in printed.err
    assert eqx.tree_equal(new, plain)
