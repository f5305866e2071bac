"""The program of a `shard_map` on whole arrays: every mesh axis becomes an axis of the arrays that are split over it.

Each device runs the same program on its part. Under `jax.vmap` over the mesh axes this is one program for all parts, in
which a sum over devices is a sum over an axis. So the passes over a forward pass need no rules for devices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from initax._trace._jaxpr import array_of, evaluated, interpret, open_jaxpr
from initax._trace._loops import loop_of

SUMS = frozenset({"psum", "psum2", "psum_invariant", "unreduced_psum"})
"""Sums over devices."""
CASTS = frozenset({"pvary", "pcast", "pbroadcast", "reduced_vary_cast", "vary_unreduced_cast"})
"""Changes of the type alone, which holds the mesh axes over which a value varies."""
GATHERS = frozenset({"all_gather", "all_gather_invariant", "all_gather_reduced"})
"""Concatenations of the parts of all devices."""
CALLS = frozenset({"jit", "pjit", "closed_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"})
"""Calls of a jaxpr."""


@functools.lru_cache(maxsize=64)
def on_whole_arrays(eqn: Any) -> Any:
    """Return a closed jaxpr that does to whole arrays what a `shard_map` does; `None` where it can't be written so.

    Args:
        eqn: the equation of the `shard_map`.
    """
    operands = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in eqn.invars]
    try:
        closed = jax.make_jaxpr(functools.partial(_run_whole, eqn))(*operands)
    except Exception:  # a primitive is not known here, or not allowed outside of a shard_map
        return None
    equations = [inner.replace(source_info=eqn.source_info) for inner in closed.jaxpr.eqns]
    return closed.replace(jaxpr=closed.jaxpr.replace(eqns=equations))


def _run_whole(eqn: Any, *operands: Any) -> tuple[Any, ...]:
    """Return the results of a `shard_map` on whole arrays."""
    params = eqn.params
    manual = params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"]
    mesh = [(name, size) for name, size in params["mesh"].shape.items() if name in manual]
    sizes = dict(mesh)
    pairs = list(zip(operands, params["in_specs"], strict=True))
    parts = [_split(x, spec, sizes) for x, spec in pairs]
    mesh_axes = [{name for names in _axes(spec, x.ndim) for name in names} for x, spec in pairs]

    def run(*values: Any) -> tuple[Any, ...]:
        return tuple(_evaluated(params["jaxpr"], values))

    mapped: Callable[..., tuple[Any, ...]] = run
    for name, size in reversed(mesh):
        in_axes = tuple(0 if name in names else None for names in mesh_axes)
        mapped = jax.vmap(mapped, in_axes=in_axes, out_axes=0, axis_name=name, axis_size=size)
    results = mapped(*parts)
    return tuple(_joined(y, spec, sizes) for y, spec in zip(results, params["out_specs"], strict=True))


def _axes(spec: Any, rank: int) -> list[tuple[Any, ...]]:
    """Return the mesh axes that split each axis of an array."""
    named = [() if names is None else names if isinstance(names, tuple) else (names,) for names in spec]
    return [*named, *[()] * (rank - len(named))]


def _split(x: Any, spec: Any, sizes: dict[Any, int]) -> Any:
    """Return an array with the mesh axes that split it in front, in the order of the mesh."""
    shape: list[int] = []
    axis_of: dict[Any, int] = {}
    for size, names in zip(x.shape, _axes(spec, x.ndim), strict=True):
        for name in names:
            axis_of[name] = len(shape)
            shape.append(sizes[name])
        shape.append(size // math.prod(sizes[name] for name in names))
    front = [axis_of[name] for name in sizes if name in axis_of]
    others = [axis for axis in range(len(shape)) if axis not in front]
    return jnp.transpose(jnp.reshape(x, shape), (*front, *others)) if front else x


def _joined(y: Any, spec: Any, sizes: dict[Any, int]) -> Any:
    """Return the whole array of a result with all mesh axes in front; those that do not split it are left out."""
    split = _axes(spec, y.ndim - len(sizes))
    splitting = {name for names in split for name in names}
    front = [name for name in sizes if name in splitting]
    y = y[tuple(slice(None) if name in splitting else 0 for name in sizes)]
    order: list[int] = []
    shape: list[int] = []
    for axis, names in enumerate(split):
        order += [*(front.index(name) for name in names), len(front) + axis]
        shape.append(math.prod(sizes[name] for name in names) * y.shape[len(front) + axis])
    return jnp.reshape(jnp.transpose(y, order), shape) if splitting else y


def _evaluated(inner: Any, values: Sequence[Any]) -> list[Any]:
    """Return the results of a jaxpr, closed or open, on all devices, without the mesh axes that values vary over."""
    return interpret(inner, values, array_of, lambda _, eqn, operands: _on_all_devices(eqn, operands))


def _on_all_devices(eqn: Any, values: list[Any]) -> list[Any]:
    """Return the results of an equation on all devices."""
    name, params = eqn.primitive.name, eqn.params
    if name in CASTS:
        return values
    if name in SUMS and params.get("axis_index_groups") is None:
        return [_summed(value, params["axes"]) for value in values]
    if name in GATHERS and params.get("axis_index_groups") is None:
        dimension = params["all_gather_dimension"]
        return [lax.all_gather(x, params["axis_name"], axis=dimension, tiled=params["tiled"]) for x in values]
    if name == "shard_map":
        return list(_run_whole(eqn, *values))
    if not any(map(_depends_on_devices, _inner(params))):
        return evaluated(eqn, values, in_context=False)
    if name in CALLS:
        (inner,) = _inner(params)
        return _evaluated(inner, values)
    if name == "scan":
        return _scanned(eqn, values)
    if name == "cond":
        branches = [lambda *operands, branch=branch: _evaluated(branch, operands) for branch in params["branches"]]
        return list(lax.switch(jnp.asarray(values[0], jnp.int32), branches, *values[1:]))
    if name == "while":
        return _looped(eqn, values)
    raise NotImplementedError(name)


def _summed(value: Any, axes: Sequence[Any]) -> Any:
    """Return a sum over mesh axes, and over axes of the array, which are numbers."""
    named = [axis for axis in axes if not isinstance(axis, int)]
    value = jnp.sum(value, [axis for axis in axes if isinstance(axis, int)]) if len(named) < len(axes) else value
    for axis in named:
        value = jnp.sum(lax.all_gather(value, axis), 0)
    return value


def _scanned(eqn: Any, values: list[Any]) -> list[Any]:
    """Return the results of a scan on all devices."""
    body, fixed, carry, rows = loop_of(eqn, values)
    carries = len(carry)

    def step(carry: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
        results = _evaluated(body, [*fixed, *carry, *row])
        return results[:carries], results[carries:]

    carry, collected = lax.scan(step, carry, rows, length=eqn.params["length"], reverse=eqn.params["reverse"])
    return [*carry, *collected]


def _looped(eqn: Any, values: list[Any]) -> list[Any]:
    """Return the results of a `while` loop on all devices."""
    body, fixed, first, _ = loop_of(eqn, values)
    test, asked = eqn.params["cond_jaxpr"], values[: eqn.params["cond_nconsts"]]
    return lax.while_loop(
        lambda carry: _evaluated(test, [*asked, *carry])[0], lambda carry: _evaluated(body, [*fixed, *carry]), first
    )


def _inner(params: Any) -> list[Any]:
    """Return the jaxprs among the parameters of an equation."""
    lists = (value if isinstance(value, tuple | list) else [value] for value in params.values())
    return [value for values in lists for value in values if hasattr(open_jaxpr(value), "eqns")]


def _depends_on_devices(inner: Any) -> bool:
    """Return whether a jaxpr holds collectives, or types with mesh axes."""
    names = CASTS | SUMS | GATHERS | {"shard_map"}
    equations = open_jaxpr(inner).eqns
    return any(eqn.primitive.name in names or any(map(_depends_on_devices, _inner(eqn.params))) for eqn in equations)
