"""Element-wise draws in rows, in vectors and in the memory of old arrays have the bits of JAX's draws of each array."""

import functools
import importlib
import math
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

import initax as ix
from initax._drawing import _draw, _program, _rows
from initax._drawing._job import Job
from initax._drawing._program import Program
from initax._drawing._rows import Size
from initax._math import _threefry
from initax.schemes._initializer import Kernel
from initax.schemes._kernels import (
    ComplexTruncatedNormalKernel,
    DiskKernel,
    Full,
    HalfNormalKernel,
    IntervalKernel,
    LogNormalKernel,
    NormalKernel,
    TruncatedNormalKernel,
    UniformKernel,
)
from initax.schemes._shrink import ShrinkPerturbKernel
from tests.tables import compilations

SHAPES = {"a": (5, 7), "b": (3, 3, 3, 3), "c": (1, 1), "d": (70,), "e": (), "f": (5, 7), "g": (13, 11), "h": (2, 2)}
REAL = {
    "normal": (NormalKernel(), (0.5,)),
    "normal with a mean": (NormalKernel(), (0.5, 0.25)),
    "truncated normal": (TruncatedNormalKernel(), (2.0,)),
    "uniform": (UniformKernel(), (0.3,)),
    "interval": (IntervalKernel(), (-1.0, 2.0)),
    "log-normal": (LogNormalKernel(), (0.1, 0.2)),
    "half-normal": (HalfNormalKernel(), (0.5,)),
}
COMPLEX = {
    "normal": (NormalKernel(), (0.5, 0.25, 1.0)),
    "truncated normal": (ComplexTruncatedNormalKernel(), (2.0,)),
    "uniform": (UniformKernel(), (0.3,)),
    "disk": (DiskKernel(), (0.3,)),
}
CASES = [(name, kernel, "float32") for name, kernel in REAL.items()]
CASES += [("normal", REAL["normal"], dtype) for dtype in ("bfloat16", "float16")]
CASES += [(name, kernel, "complex64") for name, kernel in COMPLEX.items()]


def test_every_kernel_that_draws_entry_by_entry_is_here():
    for module in pkgutil.iter_modules(ix.schemes.__path__, "initax.schemes."):
        importlib.import_module(module.name)
    here = {type(kernel).__name__ for kernel, _ in (*REAL.values(), *COMPLEX.values())}
    missing = entrywise(Kernel) - here - {"Kernel", "_Between"}
    assert not missing, f"add to REAL or COMPLEX, with numbers of a recipe: {missing}"


def entrywise(kernel):
    """Return the names of a class of kernels and its subclasses that draw entry by entry."""
    names = {kernel.__name__} if kernel.elementwise is True and kernel.random else set()
    return names.union(*map(entrywise, kernel.__subclasses__()))


@pytest.fixture
def tiny(monkeypatch):
    """Make rows and calls so small that arrays of a few entries span several."""
    for name, size in {"LONG": Size(4, 16, 4), "LONGER": Size(8, 16, 4), "SHORT": Size(4, 4, 4)}.items():
        monkeypatch.setattr(_rows, name, size)
    for name, number in {
        "FEW_MAX": 0,
        "LONGER_MIN": 200,
        "SHORT_MAX": 36,
        "MIN_SHORT": 3,
        "MAX_OUTPUTS": 3,
        "MAX_TOGETHER": 100,
    }.items():
        monkeypatch.setattr(_rows, name, number)


def jobs_of(kernel, numbers, dtype, shapes=SHAPES, old=None):
    return [
        Job(
            (path,),
            Program(kernel, shape, jnp.dtype(dtype)),
            numbers,
            old=old[path] if old and kernel.sees_old else None,
            free=(old[path],) if old else (),
        )
        for path, shape in shapes.items()
    ]


@pytest.mark.parametrize(("name", "recipe", "dtype"), CASES, ids=lambda each: each if isinstance(each, str) else "")
@pytest.mark.slow(one_in=5)
def test_arrays_put_together_from_rows_are_those_drawn_alone(name, recipe, dtype, key, tiny):
    kernel, numbers = recipe
    drawn = _draw.draw(jobs_of(kernel, numbers, dtype), key)
    programs = {path: Program(kernel, shape, jnp.dtype(dtype)) for path, shape in SHAPES.items()}

    @jax.jit
    def alone(keys):
        return {path: each(keys[path], each.numbers(numbers))[0] for path, each in programs.items()}

    for path, expected in alone({path: ix.parameter_key(key, path) for path in SHAPES}).items():
        assert drawn[path].shape == SHAPES[path]
        assert drawn[path].dtype == dtype
        assert np.array_equal(drawn[path], expected)


def each_by_jax(sampler, key, dtype="float32"):
    """What a sampler of JAX draws for each of the arrays, in one program."""
    keys = {path: ix.parameter_key(key, path) for path in SHAPES}
    return jax.jit(lambda keys: {path: sampler(keys[path], shape, dtype) for path, shape in SHAPES.items()})(keys)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.slow(one_in=2)
def test_arrays_put_together_from_rows_are_those_of_jax(dtype, key, tiny, x64):
    normal = _draw.draw(jobs_of(NormalKernel(), (0.5,), dtype), key)
    uniform = _draw.draw(jobs_of(IntervalKernel(), (0.0, 1.0), dtype), key)
    for drawn, sampler in ((normal, jax.nn.initializers.normal(0.5)), (uniform, jax.random.uniform)):
        for path, theirs in each_by_jax(sampler, key, dtype).items():
            assert np.array_equal(drawn[path], theirs)


def test_rows_of_arrays_with_other_numbers_are_scaled_each_with_its_own(key, tiny):
    jobs = [Job((str(size),), Program(NormalKernel(), (size,), jnp.dtype("float32")), (size,)) for size in range(1, 40)]
    drawn = _draw.draw(jobs, key)
    for size in range(1, 40):
        unit = np.asarray(jax.random.normal(ix.parameter_key(key, str(size)), (39,)))
        np.testing.assert_allclose(drawn[str(size)], size * unit[:size], rtol=1e-6)  # JAX counts entries from the first


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_equal_arrays_of_one_kernel_may_have_another_number_of_numbers(wrap, key):
    model = {name: jnp.ones((4, 4)) for name in "abcd"}
    rules = {"*": ("normal", {"stddev": 0.1, "mean": 0.5}), "b": ("normal", {"stddev": 0.1})}
    drawn = wrap(lambda model: ix.reinit(model, rules, key))(model)
    for name, array in drawn.items():
        unit = 0.1 * jax.random.normal(ix.parameter_key(key, name), (4, 4))
        np.testing.assert_allclose(array, unit + (0.0 if name == "b" else 0.5), atol=1e-6)


def test_rows_begin_at_places_beyond_one_word():
    key = np.array([[3, 5]], np.uint32)
    (data,) = _threefry.placed(key, np.array([7 * 2**32 + 4096]))
    bits = jax.random.bits(jax.random.wrap_key_data(jnp.asarray(data), impl=_threefry.PLACED), (9,))
    with np.errstate(over="ignore"):
        low = np.arange(4096, 4105, dtype=np.uint32)
        first, second = _threefry.hash_words((key[0, 0], key[0, 1]), (np.full(9, 7, np.uint32), low))
    assert np.array_equal(bits, first ^ second)


def test_the_number_of_programs_does_not_grow_with_shapes(key):
    def call(count):
        _rows._drawer.cache_clear()
        shapes = {str(size): (size, 3, 3, 3) for size in range(5, 5 + count)}
        return compilations(lambda: _draw.draw(jobs_of(NormalKernel(), (1.0,), "float32", shapes), key))

    assert call(2) == call(30) == 2


@pytest.mark.parametrize("most", [10, 2**22], ids=["alone", "in rows"])
def test_without_the_width_of_vectors_a_compiler_draws_the_same(most, key, monkeypatch):
    monkeypatch.setattr(_rows, "MAX_ENTRIES", most)
    wide = _draw.draw(jobs_of(NormalKernel(), (0.5,), "float32"), key)
    monkeypatch.setattr(_program, "WIDE", {"no_such_option": 512})
    for cache in (_rows._drawer, _program.sampler):
        cache.cache_clear()
    plain = _draw.draw(jobs_of(NormalKernel(), (0.5,), "float32"), key)
    monkeypatch.undo()
    for cache in (_rows._drawer, _program.sampler):
        cache.cache_clear()
    assert all(np.array_equal(wide[path], plain[path]) for path in SHAPES)


def test_one_array_is_drawn_inside_jit_as_outside(key):
    def draw(key):
        return ix.draw("he_normal", key, (30, 20), axes="i o")

    assert np.array_equal(jax.jit(draw)(key), draw(key))
    assert np.array_equal(jax.vmap(draw)(key[None])[0], draw(key))


def test_an_array_with_a_program_of_its_own_is_drawn_as_a_vector_with_the_bits_of_jax(key, monkeypatch):
    monkeypatch.setattr(_rows, "MAX_ENTRIES", 10)
    drawn = _draw.draw(jobs_of(NormalKernel(), (0.5,), "float32"), key)
    for path, theirs in each_by_jax(jax.nn.initializers.normal(0.5), key).items():
        assert np.array_equal(drawn[path], theirs)


@pytest.mark.parametrize("spec", [("data",), (None, "data"), (None, "data", None, "model"), ("data", "model")], ids=str)
def test_sharded_arrays_drawn_in_fewer_axes_have_the_bits_and_the_place_they_had(spec, key):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    home = NamedSharding(mesh, PartitionSpec(*spec))
    program = Program(NormalKernel(), (8, 16, 3, 4), jnp.dtype("float32"), (home,))
    drawn = _draw.draw([Job(("w",), program, (0.5,))], key)["w"]
    assert drawn.sharding == home
    theirs = jax.nn.initializers.normal(0.5)(ix.parameter_key(key, "w"), (8, 16, 3, 4), jnp.float32)
    assert np.array_equal(drawn, theirs)


@pytest.mark.parametrize("home", ["device", "mesh of one"])
def test_arrays_committed_to_one_device_stay_there(home, key):
    device = jax.devices()[3]
    mesh = jax.sharding.Mesh(np.array([device]), ("data",))
    where = SingleDeviceSharding(device) if home == "device" else NamedSharding(mesh, PartitionSpec(None, "data"))
    model = jax.device_put({"w": jnp.ones((64, 65)), "v": jnp.ones((64, 65))}, where)
    drawn = ix.reinit(model, {"*": "he_normal"}, key, donate=True)
    assert drawn["w"].sharding == where
    assert np.array_equal(drawn["w"], ix.reinit({"w": (64, 65)}, {"*": "he_normal"}, key)["w"])
    assert model["w"].is_deleted()


# In the memory of old arrays

LARGE = {"w": (128, 33, 3, 3), "v": (500, 70), "u": (40_000,)}
GIVEN = {
    "rows": (NormalKernel(), (0.5,), 1 << 22),
    "a program of its own": (NormalKernel(), (0.5,), 10),
    "constants": (Full(), (0.5,), 10),
    "what is stored": (ShrinkPerturbKernel(NormalKernel()), (0.5, 0.5, 0.5), 10),
}


@pytest.mark.parametrize("case", GIVEN)
def test_new_arrays_take_the_memory_of_old_ones_that_are_given_up(case, key, monkeypatch):
    kernel, numbers, most = GIVEN[case]
    monkeypatch.setattr(_rows, "MAX_ENTRIES", most)

    def old():
        return {name: jnp.arange(float(np.prod(shape))).reshape(shape) + 1.0 for name, shape in LARGE.items()}

    plain = _draw.draw(jobs_of(kernel, numbers, "float32", LARGE), key) if not kernel.sees_old else None
    given = old()
    places = {name: array.unsafe_buffer_pointer() for name, array in given.items()}
    new = _draw.draw(jobs_of(kernel, numbers, "float32", LARGE, given), key)
    assert {name: array.unsafe_buffer_pointer() for name, array in new.items()} == places
    assert all(array.is_deleted() for array in given.values())
    assert plain is None or all(np.array_equal(new[name], plain[name]) for name in new)


def test_a_matrix_takes_the_memory_of_the_old_one_whatever_draws_it(key):
    model = {"w": jnp.ones((256, 128))}
    place = model["w"].unsafe_buffer_pointer()
    assert ix.reinit(model, {"*": "orthogonal"}, key, donate=True)["w"].unsafe_buffer_pointer() == place


def test_what_the_host_lent_is_not_written_over(key):
    host = np.ones((300, 300), np.float32)
    model = {"w": jnp.asarray(host), "v": jax.device_put(host)}
    ix.reinit(model, {"*": "he_normal"}, key, donate=True)
    assert (host == 1).all()


def test_an_old_array_elsewhere_is_let_go_and_one_of_a_weak_type_taken(key):
    with jax.default_device(jax.devices()[2]):
        elsewhere = jnp.ones((64, 65))
    model = {"w": elsewhere, "weak": jnp.broadcast_to(jnp.asarray(1.0), (64, 64))}
    new = ix.reinit(model, {"*": "he_normal"}, key, donate=True)
    assert all(array.is_deleted() for array in model.values())
    assert np.array_equal(new["w"], ix.reinit({"w": (64, 65)}, {"*": "he_normal"}, key)["w"])


@functools.cache
def he_normal_alone(seed, shapes):
    """What `he_normal` draws for arrays of these paths and shapes, each from the first entries of its own key."""
    recipes = {each.parameter.path: each.recipe for each in ix.plan(dict(shapes), {"*": "he_normal"}).draws}
    longest = max(math.prod(shape) for _, shape in shapes)
    program = Program(recipes[shapes[0][0]].kernel, (longest,), jnp.dtype("float32"))
    keys = jnp.stack([ix.parameter_key(jax.random.key(seed), path) for path, _ in shapes])
    rows = (program.numbers(recipes[path].numbers) for path, _ in shapes)
    numbers = tuple(map(np.array, zip(*rows, strict=True)))
    entries = np.asarray(jax.jit(jax.vmap(lambda key, numbers: program(key, numbers)[0]))(keys, numbers))
    return {path: row[: math.prod(shape)].reshape(shape) for row, (path, shape) in zip(entries, shapes, strict=True)}


@pytest.mark.parametrize("count", [3, 40], ids=["with what is drawn", "apart"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_constants_of_a_small_model_cost_no_program_and_keep_their_type(count, dtype, key):
    shapes = {str(layer): (3 + layer, 5) for layer in range(count)}
    model = {
        layer: {"w": jnp.asarray(np.ones(shape, np.float32)), "b": jnp.ones(5, dtype)}
        for layer, shape in shapes.items()
    }
    alone = he_normal_alone(20261121, tuple((f"{layer}.w", shape) for layer, shape in shapes.items()))

    def call(value, donate=False):
        rules = {"*": ("he_normal", ("constant", {"value": value}))}
        return ix.reinit(jax.tree.map(jnp.copy, model), rules, key, donate=donate)

    _rows._drawer.cache_clear()
    _rows._assembler.cache_clear()
    jax.tree.map(jnp.copy, model)
    assert compilations(lambda: call(0.0)) <= 2 + (count > _rows.MAX_OUTPUTS)
    assert compilations(lambda: call(0.3)) == 0
    for drawn in (call(0.3), call(0.3, donate=True)):
        for layer in drawn.values():
            assert layer["b"].dtype == dtype
            assert np.array_equal(layer["b"], np.full(5, 0.3, dtype))
        assert all(np.array_equal(layer["w"], alone[f"{name}.w"]) for name, layer in drawn.items())


def test_many_constants_are_filled_several_at_a_time(key):
    count = _draw.MANY_EQUAL + 3
    model = [jnp.zeros((2, 2)) for _ in range(count)]
    rules = {"*": ("constant", {"value": 0.5}), "3": "ones"}
    assert compilations(lambda: ix.reinit(model, rules, key)) == 2
    new = ix.reinit(model, rules, key)
    assert [float(each.sum()) for each in new] == [4.0 if place == 3 else 2.0 for place in range(count)]
