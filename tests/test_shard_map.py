"""Programs that devices run on their parts, read as the same programs on whole arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import initax as ix
from initax._trace._primitives import called
from initax._trace._walk import readings
from tests.tables import KEY

MESH = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
ROWS = P("data", None)


def S(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def mlp(x, w, b, v, c):
    return lax.psum(jax.nn.relu(x @ w + b) @ v, "model") + c


def whole_mlp(x, w, b, v, c):
    return jax.nn.relu(x @ w + b) @ v + c


def recurrent(x, layers):
    def step(h, w):
        own = lax.axis_index("model") * 3 + jnp.arange(3)
        return jnp.tanh(lax.psum(h[:, own] @ w, "model")), None

    return lax.scan(step, x, layers)[0]


def whole_recurrent(x, layers):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, layers)[0]


def gathered(x, w):
    return jnp.tanh(x @ lax.all_gather(w, "data", axis=0, tiled=True))


def experts(x, w):
    own = lax.all_to_all(x, "data", 0, 1, tiled=True)
    return lax.all_to_all(jnp.einsum("eti,eio->eto", own, w), "data", 1, 0, tiled=True)


def branched(x, w):
    first = lax.axis_index("data") < 2
    return lax.cond(first, lambda x: lax.psum(2 * x @ w, "model"), lambda x: lax.psum(x @ (2 * w), "model"), x)


def counted(x, w):
    return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, lax.pmean(x @ w, "data")), (0, 0 * x))[1]


def inside(x, w):
    return jax.jit(lambda x: lax.psum_scatter(x @ w, "model", scatter_dimension=1, tiled=True))(x)


def one_each(x, w):
    return jnp.tanh(x @ w[0])


def whole_one_each(x, w):
    return jnp.tanh(jnp.einsum("dti,dio->dto", x.reshape(4, 2, 3), w)).reshape(8, 5)


PROGRAMS = {
    "a hidden layer split over devices": (
        mlp, whole_mlp, (S(8, 3), S(3, 6), S(6), S(6, 5), S(5)),
        (ROWS, P(None, "model"), P("model"), P("model", None), P()), ROWS, ["i o", "o", "i o", "o"],
    ),
    "layers in a scan, their inputs split": (
        recurrent, whole_recurrent, (S(8, 6), S(4, 6, 6)), (ROWS, P(None, "model", None)), ROWS, ["stack i o"],
    ),
    "a weight that is gathered before it is used": (
        gathered, lambda x, w: jnp.tanh(x @ w), (S(8, 8), S(8, 5)), (ROWS, ROWS), ROWS, ["i o"],
    ),
    "experts on devices of their own": (
        experts, lambda x, w: jnp.einsum("eti,eio->eto", x, w), (S(4, 16, 3), S(4, 3, 5)),
        (P(None, "data", None), P("data", None, None)), P(None, "data", None), ["stack i o"],
    ),
    "branches": (
        branched, lambda x, w: 2 * x @ w, (S(3, 4), S(4, 5)), (P(None, "model"), P("model", None)), P(), ["i o"],
    ),
    "a loop": (
        counted, lambda x, w: (x @ w).reshape(4, 2, 3).mean(0), (S(8, 3), S(3, 3)), (ROWS, P()), P(), ["i o"],
    ),
    "a sum whose parts stay on their devices": (
        inside, lambda x, w: x @ w, (S(8, 4), S(4, 6)), (P("data", "model"), P("model", None)), P("data", "model"),
        ["i o"],
    ),
    "two mesh axes for one axis": (
        lambda x, w: lax.psum(x @ w, ("data", "model")), lambda x, w: x @ w, (S(3, 16), S(16, 5)),
        (P(None, ("data", "model")), P(("data", "model"), None)), P(), ["i o"],
    ),
    "one layer on each device": (
        one_each, whole_one_each, (S(8, 3), S(4, 3, 5)), (ROWS, P("data", None, None)), ROWS, ["stack i o"],
    ),
}  # fmt: skip
"""What devices do, the same on whole arrays, shapes, how operands and result are split, how weights are read."""


def split(name, check_vma):
    devices, _, _, in_specs, out_specs, _ = PROGRAMS[name]
    return jax.shard_map(devices, mesh=MESH, in_specs=in_specs, out_specs=out_specs, check_vma=check_vma)


def patterns(function, shapes):
    arrays = {str(at): shape for at, shape in enumerate(shapes[1:])}
    found = readings(lambda p, x: function(x, *p.values()), arrays, [shapes[0]])
    return [found[name].pattern or found[name].reason for name in arrays]


@pytest.fixture(autouse=True)
def as_users_write():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_split_over_devices_is_read_as_the_whole_one(name):
    _, whole, shapes, _, _, expected = PROGRAMS[name]
    assert patterns(whole, shapes) == expected
    assert patterns(split(name, False), shapes) == expected


@pytest.mark.parametrize("name", ["a hidden layer split over devices", "layers in a scan, their inputs split"])
def test_types_of_what_varies_over_devices_are_no_hindrance(name):
    _, _, shapes, _, _, expected = PROGRAMS[name]
    assert patterns(split(name, True), shapes) == expected


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.slow(one_in=4)
def test_the_program_on_whole_arrays_does_what_the_devices_do(name):
    _, whole, shapes, *_ = PROGRAMS[name]
    values = [jax.random.normal(jax.random.fold_in(KEY, at), each.shape) for at, each in enumerate(shapes)]
    (eqn,) = jax.make_jaxpr(split(name, False))(*values).eqns
    closed = called(eqn)
    (found,) = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *values)
    np.testing.assert_allclose(found, whole(*values), atol=1e-5)


def test_auto_and_lsuv_see_through_it(key):
    function = split("a hidden layer split over devices", False)
    params = {"w": jnp.ones((3, 6)), "b": jnp.ones(6), "v": jnp.ones((6, 5)), "c": jnp.ones(5)}
    x = jax.random.normal(key, (8, 3))
    ways = [lambda p, x, run=run: run(x, *(p[name] for name in "wbvc")) for run in (function, whole_mlp)]
    plans = [ix.plan(params, {"*": "auto"}, inputs=x, forward=way) for way in ways]
    first, second = ({draw.parameter.path: draw.std for draw in plan.draws} for plan in plans)
    assert first == pytest.approx(second)
    new = ix.reinit(params, {"*": "he_normal"}, key, inputs=x, forward=ways[0])
    one, other = (ix.lsuv(new, x, forward=way)[0] for way in ways)
    np.testing.assert_allclose(one["w"], other["w"], rtol=1e-4)
    # What each device sums over is measured on its own, as every part of an input axis is.
    ratio = one["v"] / other["v"]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
    assert 0.4 < float(ratio[0, 0]) < 2.5


def test_what_can_not_be_written_for_whole_arrays_is_kept_by_name():
    def body(x, w):
        return lax.psum(x @ w, "model", axis_index_groups=[[0], [1]])

    function = jax.shard_map(body, mesh=MESH, in_specs=(ROWS, P()), out_specs=ROWS, check_vma=False)
    found = readings(lambda p, x: function(x, p["w"]), {"w": S(3, 5)}, [S(8, 3)])["w"]
    assert found.pattern is None
    assert str(found.reason).startswith("shard_map stands between it and the signal")
