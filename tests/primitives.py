"""Every primitive of the installed JAX, and a small program that uses it: operands, and a function of them."""

import contextlib
import functools
import importlib
import pkgutil
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive

KERNELS = ("cudnn", "export", "mosaic", "pallas", "test", "thunky", "tools", "tpu", "triton")
"""Parts of JAX whose primitives stand inside kernels and programs that were compiled before, or that test JAX."""


@functools.cache
def primitives():
    """Return name → primitive, of all that JAX defines outside of kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.walk_packages(jax._src.__path__, "jax._src."):
            if not any(part in module.name for part in KERNELS):
                with contextlib.suppress(ImportError):
                    importlib.import_module(module.name)
    found: dict[str, Primitive] = {}
    for name, loaded in sorted(sys.modules.items()):
        if name.startswith("jax._src.") and not any(part in name for part in KERNELS):
            found |= {each.name: each for each in vars(loaded).values() if isinstance(each, Primitive)}
    return found


def of(*shape, dtype="float32"):
    """Return an abstract operand."""
    return jax.ShapeDtypeStruct(shape, dtype)


M, V, K = of(4, 4), of(4), of(2, dtype="uint32")


def key(data):
    return jax.random.wrap_key_data(data)


def split_over_devices(function, whole=False, check=False):
    def program(x):
        mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
        specs = jax.P("i"), jax.P() if whole else jax.P("i")
        return jax.shard_map(function, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=check)(x)

    return program


def product_over_devices(x, w):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (jax.P("i"), jax.P())
    return jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)(x, w)


def with_rule(x, y):
    @jax.custom_vjp
    def product(x, y):
        return x @ y

    product.defvjp(lambda x, y: (x @ y, (x, y)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))
    return product(x, y)


def with_tangent(x, y):
    @jax.custom_jvp
    def product(x, y):
        return x @ y

    product.defjvp(lambda x, t: (x[0] @ x[1], t[0] @ x[1] + x[0] @ t[1]))
    return product(x, y)


def with_batching(x, y):
    product = jax.custom_batching.custom_vmap(lambda x, y: x @ y)
    product.def_vmap(lambda size, batched, x, y: (x @ y, True))
    return product(x, y)


def with_partitions(x, y):
    from jax.experimental.custom_partitioning import custom_partitioning

    product = custom_partitioning(lambda x, y: x @ y)
    product.def_partition(
        infer_sharding_from_operands=None, partition=None, sharding_rule="i j, j k -> i k", propagate_user_sharding=None
    )
    return product(x, y)


def called(name):
    """Calls that JAX makes only inside of transformations."""

    def program(x, y):
        closed = jax.make_jaxpr(lambda x, y: x @ y)(x, y)
        inner = closed if name == "closed_call" else closed.jaxpr
        functions, params = primitives()[name].get_bind_params({"call_jaxpr": inner})
        return primitives()[name].bind(*functions, x, y, **params)

    return program


def reference(change):
    def program(x, y):
        cell = jax.new_ref(x)
        change(cell, y)
        return jax.ref.get(cell, ...) if hasattr(jax, "ref") else cell[...]

    return program


def solved(x, y):
    return lax.custom_linear_solve(lambda v: x @ v, y, lambda _, b: b, lambda _, b: b)


def metadata(x):
    from jax.experimental.xla_metadata import set_xla_metadata

    return set_xla_metadata(x, kept="yes")


def checked(x):
    from jax.experimental import checkify

    checkify.check(jnp.all(x > 0), "positive")
    return x


def metadata_of_a_call(x, y):
    from jax._src.xla_metadata import xla_metadata_call

    return xla_metadata_call(lambda x, y: x @ y, kept="yes")(x, y)


def computed_on_host(x, y):
    from jax._src import compute_on

    on = getattr(compute_on, "compute_on2", compute_on.compute_on)
    return on(lambda x, y: x @ y, compute_type="device_host", out_memory_spaces=jax.memory.Space.Device)(x, y)


def all_gather_invariant(x, axis):
    from jax._src.lax import parallel

    gathered = getattr(parallel, "all_gather_invariant", functools.partial(lax.all_gather, to="invarying"))
    return gathered(x, axis)


def pinned(x):
    from jax._src.state import primitives as states

    return states.unpin(states.pin(x))


def with_buffers(x):
    from jax.experimental.buffer_callback import buffer_callback

    return buffer_callback(lambda context, out, x: None, M)(x)


def without_dead_code(x, y):
    from jax.experimental.custom_dce import custom_dce

    product = custom_dce(lambda x, y: [x @ y])
    product.def_dce(lambda used, x, y: [x @ y if used[0] else None])
    return product(x, y)[0]


def resharded(x):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    return jax.sharding.reshard(x, jax.sharding.NamedSharding(mesh, jax.P()))


def with_state(x, y):
    from jax._src.state.discharge import run_state

    def change(cells):
        cells[0][...] = cells[0][...] @ cells[1][...]

    return run_state(change)((x, y))


def scaled_dot(x, y, first, second):
    from jax._src.lax.scaled_dot import scaled_dot

    numbers = (((1,), (1,)), ((), ()))
    return scaled_dot(x, y, lhs_scale=first, rhs_scale=second, dimension_numbers=numbers)


def select_and_scatter(x, y):
    from jax._src.lax.windowed_reductions import _select_and_scatter

    return _select_and_scatter(x, lax.ge, (2, 2), (2, 2), ((0, 0), (0, 0)), y, np.float32(0), lambda a, b: a * b + a)


def ragged(x, y):
    return lax.ragged_dot(x, y, jnp.array([2, 2], jnp.int32))


def window(x, computation):
    return lax.reduce_window(x, 0.0, computation, (2, 2), (1, 1), "VALID")


def scattered(scatter):
    numbers = lax.ScatterDimensionNumbers((1,), (0,), (0,))
    return lambda x, at, y: scatter(x, at[:, None], y, numbers)


def gathered(x, at):
    return x[at]


I = of(4, dtype="int32")

BUILDERS = {
    "addupdate": (reference(lambda cell, y: cell.addupdate(y)), M, M),
    "all_gather_invariant": (split_over_devices(lambda x: all_gather_invariant(x, "i"), whole=True, check=True), M),
    "after_all": (lambda x: (lax.after_all(lax.create_token(x)), x)[1], M),
    "all_gather": (split_over_devices(lambda x: lax.all_gather(x, "i")), M),
    "all_to_all": (split_over_devices(lambda x: lax.all_to_all(x, "i", 0, 0, tiled=True)), M),
    "approx_top_k": (lambda x: lax.approx_max_k(x, 2), M),
    "argmax": (lambda x: lax.argmax(x, 0, jnp.int32), M),
    "argmin": (lambda x: lax.argmin(x, 1, jnp.int32), M),
    "axis_index": (split_over_devices(lambda x: x * lax.axis_index("i").astype(x.dtype)), M),
    "bitcast_convert_type": (lambda x: lax.bitcast_convert_type(x, jnp.int32), M),
    "broadcast_in_dim": (lambda x: lax.broadcast_in_dim(x, (3, 4, 2), (1,)), V),
    "broadcast_to": (lambda x: primitives()["broadcast_to"].bind(x, shape=(3, 4)), V),
    "buffer_callback": (with_buffers, M),
    "call": (called("call"), M, M),
    "check": (checked, M),
    "cholesky_update": (lax.linalg.cholesky_update, M, V),
    "closed_call": (called("closed_call"), M, M),
    "composite": (lax.composite(lambda x, y: x @ y, name="initax.product"), M, M),
    "compute_on": (computed_on_host, M, M),
    "concatenate": (lambda x, y: lax.concatenate([x, y], 0), M, M),
    "cond": (lambda which, x, y: lax.cond(which, lambda x, y: x @ y, lambda x, y: y, x, y), of(dtype="bool"), M, M),
    "conv_general_dilated": (lambda x, y: lax.conv(x, y, (1, 1), "SAME"), of(2, 3, 4, 4), of(5, 3, 2, 2)),
    "convert_element_type": (lambda x: x.astype(jnp.bfloat16), M),
    "cumlogsumexp": (lambda x: lax.cumlogsumexp(x, 1), M),
    "cummax": (lambda x: lax.cummax(x, 0), M),
    "cummin": (lambda x: lax.cummin(x, 0), M),
    "cumprod": (lambda x: lax.cumprod(x, 1), M),
    "cumsum": (lambda x: lax.cumsum(x, 0), M),
    "create_token": (lambda x: (lax.create_token(x), x)[1], M),
    "custom_dce_call": (without_dead_code, M, M),
    "custom_jvp_call": (with_tangent, M, M),
    "custom_linear_solve": (solved, M, V),
    "custom_partitioning": (with_partitions, M, M),
    "custom_vjp_call": (with_rule, M, M),
    "custom_vmap_call": (with_batching, M, M),
    "dce_sink": (lambda x: (primitives()["dce_sink"].bind(x), x)[1], M),
    "debug_callback": (lambda x: (jax.debug.callback(lambda x: None, x), x)[1], M),
    "debug_print": (lambda x: (jax.debug.print("{}", x), x)[1], M),
    "device_put": (lambda x: jax.device_put(x, jax.devices()[0]), M),
    "dot_general": (lambda x, y: lax.dot(x, y), M, M),
    "dynamic_slice": (lambda x, at: lax.dynamic_slice(x, (at, at), (2, 1)), M, of(dtype="int32")),
    "dynamic_update_slice": (lambda x, y, at: lax.dynamic_update_slice(x, y, (at,)), V, of(2), of(dtype="int32")),
    "eig": (lambda x: jnp.linalg.eig(x), M),
    "eigh": (lambda x: lax.linalg.eigh(x), M),
    "ffi_call": (lambda x: jax.ffi.ffi_call("initax_nothing", M)(x), M),
    "fft": (lambda x: jnp.fft.rfft(x), M),
    "freeze": (lambda x: jax.freeze(jax.new_ref(x)), M),
    "gather": (gathered, M, I),
    "geqp3": (lambda x: primitives()["geqp3"].bind(x, jnp.zeros(4, jnp.int32), use_magma=None), M),
    "get": (lambda x: jax.new_ref(x)[...], M),
    "householder_product": (lax.linalg.householder_product, M, V),
    "integer_pow": (lambda x: x**3, M),
    "io_callback": (lambda x: jax.experimental.io_callback(np.asarray, M, x), M),
    "iota": (lambda x: x * lax.iota(jnp.float32, 4)[None], M),
    "jit": (jax.jit(lambda x, y: x @ y), M, M),
    "linear_call": (
        lambda x, y: jax.custom_derivatives.linear_call(lambda x, y: x @ y, lambda x, z: x.T @ z, x, y),
        M,
        M,
    ),
    "lu_pivots_to_permutation": (lambda at: lax.linalg.lu_pivots_to_permutation(at, 4), I),
    "name": (lambda x: checkpoint_name(x, "kept"), M),
    "new_ref": (lambda x: jax.new_ref(x)[...], M),
    "optimization_barrier": (lambda x, y: lax.optimization_barrier((x, y)), M, V),
    "ormqr": (lambda x, y, z: primitives()["ormqr"].bind(x, y, z, left=True, transpose=False), M, V, M),
    "pad": (lambda x: lax.pad(x, jnp.float32(0), ((1, 0, 0), (0, 2, 1))), M),
    "pbroadcast": (split_over_devices(lambda x: lax.pbroadcast(x, "i", 0)), M),
    "philox4x32": (lambda x: primitives()["philox4x32"].bind(*[x] * 6), of(4, dtype="uint32")),
    "pin": (pinned, M),
    "pmax": (split_over_devices(lambda x: lax.pmax(x, "i")), M),
    "pmin": (split_over_devices(lambda x: lax.pmin(x, "i")), M),
    "ppermute": (split_over_devices(lambda x: lax.ppermute(x, "i", [(0, 0)])), M),
    "psum": (split_over_devices(lambda x: lax.psum(x, "i")), M),
    "psum_invariant": (split_over_devices(lambda x: lax.psum(x, "i"), whole=True, check=True), M),
    "pure_callback": (lambda x: jax.pure_callback(np.asarray, M, x), M),
    "pvary": (split_over_devices(lambda x: x * lax.pcast(jnp.ones((4, 4)), "i", to="varying"), check=True), M),
    "qr": (lambda x: jnp.linalg.qr(x), of(4, 3)),
    "ragged_dot_general": (ragged, M, of(2, 4, 3)),
    "random_bits": (lambda data: jax.random.bits(key(data), (4,)), K),
    "random_clone": (lambda data: jax.random.key_data(jax.random.clone(key(data))), K),
    "random_fold_in": (lambda data, at: jax.random.key_data(jax.random.fold_in(key(data), at)), K, of(dtype="uint32")),
    "random_gamma": (lambda data, x: jax.random.gamma(key(data), x), K, M),
    "random_seed": (lambda at: jax.random.key_data(jax.random.key(at)), of(dtype="uint32")),
    "random_split": (lambda data: jax.random.key_data(jax.random.split(key(data))), K),
    "random_unwrap": (lambda data: jax.random.key_data(key(data)), K),
    "random_wrap": (lambda data: jax.random.key_data(key(data)), K),
    "reduce": (lambda x: lax.reduce(x, jnp.float32(0), lambda a, b: a * b + a, (0,)), M),
    "reduce_and": (lambda x: jnp.all(x, 0), of(4, 4, dtype="bool")),
    "reduce_max": (lambda x: x.max(0), M),
    "reduce_min": (lambda x: x.min(1), M),
    "reduce_or": (lambda x: jnp.any(x, 0), of(4, 4, dtype="bool")),
    "reduce_precision": (lambda x: lax.reduce_precision(x, 5, 10), M),
    "reduce_prod": (lambda x: x.prod(0), M),
    "reduce_scatter": (split_over_devices(lambda x: lax.psum_scatter(x, "i", tiled=True)), M),
    "reduce_sum": (lambda x: x.sum(0), M),
    "reduce_window": (lambda x: window(x, lambda a, b: a * b + a), M),
    "reduce_window_max": (
        lambda x: lax.reduce_window(x, -np.inf, lax.max, (2, 2), (1, 1), "VALID"),
        M,
    ),
    "reduce_window_min": (lambda x: lax.reduce_window(x, np.inf, lax.min, (2, 2), (2, 1), "SAME"), M),
    "reduce_window_sum": (lambda x: window(x, lax.add), M),
    "reduce_xor": (lambda x: lax.reduce(x, np.int32(0), lax.bitwise_xor, (1,)), of(4, 4, dtype="int32")),
    "remat2": (jax.checkpoint(lambda x, y: x @ y), M, M),
    "reshard": (resharded, M),
    "reshape": (lambda x: x.reshape(2, 8), M),
    "rev": (lambda x: lax.rev(x, (0,)), M),
    "rng_bit_generator": (lambda x: lax.rng_bit_generator(x, (4,)), of(4, dtype="uint32")),
    "rng_uniform": (lambda x, y: lax.rng_uniform(x, y, (4,)), of(), of()),
    "run_state": (with_state, M, M),
    "scaled_dot": (scaled_dot, *[of(4, 32, dtype="float8_e4m3fn")] * 2, *[of(4, 1, dtype="float8_e8m0fnu")] * 2),
    "scan": (lambda x, y: lax.scan(lambda c, row: (c @ y, c @ row), x, y), M, M),
    "scatter": (scattered(lax.scatter), M, I, M),
    "scatter-add": (scattered(lax.scatter_add), M, I, M),
    "scatter-max": (scattered(lax.scatter_max), M, I, M),
    "scatter-min": (scattered(lax.scatter_min), M, I, M),
    "scatter-mul": (scattered(lax.scatter_mul), M, I, M),
    "scatter-sub": (scattered(getattr(lax, "scatter_sub", None)), M, I, M),
    "schur": (lambda x: lax.linalg.schur(x), M),
    "select_and_scatter": (select_and_scatter, M, of(2, 2)),
    "select_and_scatter_add": (
        lambda x, y: jax.vjp(lambda y: lax.reduce_window(y, -np.inf, lax.max, (2, 2), (2, 2), "VALID"), y)[1](x),
        of(2, 2),
        M,
    ),
    "select_and_gather_add": (
        lambda x, y: jax.jvp(lambda y: lax.reduce_window(y, -np.inf, lax.max, (2, 2), (2, 2), "VALID"), (x,), (y,)),
        M,
        M,
    ),
    "select_n": (lambda which, x, y: lax.select_n(which, x, y), of(4, 4, dtype="bool"), M, M),
    "shard_map": (product_over_devices, M, M),
    "sharding_constraint": (
        lambda x: lax.with_sharding_constraint(x, jax.sharding.SingleDeviceSharding(jax.devices()[0])),
        M,
    ),
    "slice": (lambda x: lax.slice(x, (1, 0), (3, 4), (1, 2)), M),
    "sort": (lambda x, y: lax.sort((x, y), num_keys=1), M, M),
    "split": (lambda x: jnp.split(x, 2), M),
    "squeeze": (lambda x: lax.squeeze(x, (1,)), of(4, 1)),
    "stack": (lambda x, y: jnp.stack([x, y], 1), M, M),
    "svd": (lambda x: jnp.linalg.svd(x, full_matrices=False), of(4, 3)),
    "swap": (reference(lambda cell, y: cell.__setitem__(..., y)), M, M),
    "threefry4x32": (lambda x: primitives()["threefry4x32"].bind(*[x] * 8), of(4, dtype="uint32")),
    "tile": (lambda x: jnp.tile(x, (2, 1)), M),
    "top_k": (lambda x: lax.top_k(x, 2), M),
    "transpose": (lambda x: x.T, M),
    "triangular_solve": (lambda x, y: lax.linalg.triangular_solve(x, y), M, M),
    "tridiagonal_solve": (lax.linalg.tridiagonal_solve, V, V, V, M),
    "unpin": (pinned, M),
    "unstack": (lambda x: [*jnp.unstack(x)], M),
    "while": (
        lambda x, y: lax.while_loop(lambda held: held[0].sum() < 1, lambda held: (held[0] @ y, held[1]), (x, y)),
        M,
        M,
    ),
    "xla_metadata_call": (metadata_of_a_call, M, M),
    "xla_metadata_value": (metadata, M),
}
"""Primitive → a program that uses it, and its operands. All others are bound as they are."""


def holds(jaxpr, name):
    """Return whether a jaxpr has an equation of a primitive, in itself or in a jaxpr that an equation holds."""
    return any(eqn.primitive.name == name or holds_one(eqn, name) for eqn in jaxpr.eqns)


def holds_one(eqn, name):
    """Return whether an equation holds a jaxpr that has an equation of a primitive."""

    def is_jaxpr(each):
        return hasattr(getattr(each, "jaxpr", each), "eqns")

    inner = jax.tree_util.tree_leaves(eqn.params, is_leaf=is_jaxpr)
    return any(holds(getattr(each, "jaxpr", each), name) for each in inner if is_jaxpr(each))


@functools.cache
def built(name):
    """Return a program that uses a primitive, and its operands; `None` where none is known."""
    if name in BUILDERS:
        candidates = [BUILDERS[name]]
    else:
        functions = (vars(lax).get(name), primitives()[name].bind)
        types = ("float32", "int32", "uint32", "complex64")
        candidates = [
            (function, *[of(4, 4, dtype=dtype)] * count)
            for function in functions
            for count in (1, 2, 3)
            for dtype in types
        ]
    for program, *operands in candidates:
        try:
            jaxpr = jax.make_jaxpr(program)(*operands).jaxpr
        except Exception:  # whatever JAX says to operands that it does not take
            continue
        if holds(jaxpr, name):
            return program, *operands
    return None


UNBUILT = {
    name: reason
    for reason, names in {
        "one half of a collective, or one that takes several devices": """
            all_gather_done all_gather_reduced_start all_gather_start all_to_all_done all_to_all_start
            pbroadcast_dynamic ppermute_done ppermute_start precv psend psum_done psum_invariant_start
            ragged_all_to_all reduce_scatter_done reduce_scatter_start
        """,
        "stands among explicit meshes and their kinds of axes only": """
            all_gather_reduced pgather preduced reduced_vary_cast reduced_vary_cast_p relayout unreduced_pmax
            unreduced_pmin unreduced_psum unreduced_reduce_scatter vary_unreduced_cast vary_unreduced_cast_p
            with_memory_space_constraint xla_pmap
        """,
        "JAX makes it while it transforms a program, and no function makes it alone": """
            custom_jvp_call_jaxpr custom_lin custom_transpose_call dce_sential eval_jaxpr from_edtype full_to_shard
            program_order remat_opt shard_to_full stage to_edtype unreachable zeros_like
        """,
        "works on what is no array": """
            box_get box_set call_hi_primitive call_hi_primitive_linearized create_linear empty_ref new_box
        """,
        "has no operand": "empty empty2 iota_2x32_shape",
    }.items()
    for name in names.split()
}
"""Primitive → why no program here uses it."""


def use(function, values):
    """Call a program, so that the line of what it does is in this file."""
    return function(*values)
