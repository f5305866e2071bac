"""Where arrays live: the shardings that models state, in whichever way, and whether they can be."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

from initax._errors import PlanError, message


def placement(array: Any) -> Sharding | None:
    """Return where an array must stay: its sharding, unless JAX merely put it on the default device.

    A sharding over a mesh of names and sizes alone is one over the mesh around, where that has the same.
    """
    if isinstance(array, jax.core.Tracer) or not getattr(array, "committed", True):
        return None
    sharding = getattr(array, "sharding", None)
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, AbstractMesh):
        around = mesh_around()
        if around is not None and dict(around.shape) == dict(sharding.mesh.shape):
            return NamedSharding(around, sharding.spec)
    return sharding if isinstance(sharding, Sharding) else None


def mesh_around() -> Mesh | None:
    """Return the mesh of `jax.set_mesh` around the call, if there is one with devices."""
    try:
        mesh = jax.sharding.get_mesh()
    except ValueError:  # inside jit
        return None
    return mesh if isinstance(mesh, Mesh) and not mesh.empty else None


def at_home(array: Any, spec: PartitionSpec, mesh: Any) -> Any:
    """Return an abstract array with the sharding that its framework's metadata name; any other array as it is.

    Args:
        array: the array.
        spec: which axis of it goes over which axes of the mesh.
        mesh: the mesh named with it, if one is; else the one around is meant.
    """
    where = mesh if isinstance(mesh, Mesh) and not mesh.empty else mesh_around()
    named = not isinstance(getattr(array, "sharding", None), NamedSharding)
    if not isinstance(array, jax.ShapeDtypeStruct) or not named or where is None:
        return array
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=NamedSharding(where, spec))


def no_mesh() -> AbstractContextManager[Any]:
    """Return a context in which no mesh is around.

    Under a mesh of explicit axes every intermediate array of a program without shardings of its own is whole on every
    device; what is drawn for a device is then cut out of it.
    """
    if mesh_around() is None:
        return nullcontext()
    away: AbstractContextManager[Any] = jax.set_mesh(Mesh(np.empty((), dtype=object), ()))
    return away


def mesh_names(entry: Any) -> tuple[str, ...]:
    """Return the axes of a mesh that an entry of a `PartitionSpec` names: none, one or several."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def refuse_misfit(path: str, shape: tuple[int, ...], sharding: Sharding | None) -> None:
    """Raise where an array can't be sharded as it is said to be.

    Raises:
        PlanError: the mesh does not divide an axis, or has no devices.
    """
    if sharding is None:
        return
    where = f'"{path}"' if path else "the array"
    mesh = getattr(sharding, "mesh", None)
    if isinstance(mesh, AbstractMesh):
        raise PlanError(
            message(
                f"{where} is to be sharded over the mesh {dict(mesh.shape)}, which has no devices.",
                "with jax.set_mesh(jax.make_mesh(...)): model = plan.draw(key)",
            )
        )
    try:
        sharding.shard_shape(shape)
    except ValueError as error:
        raise PlanError(
            message(
                f"{where} {shape} can't be sharded as it is said to be.",
                *_undivided(shape, sharding),
                str(error).split("\n", maxsplit=1)[0] if not isinstance(sharding, NamedSharding) else "",
                "leave the axis whole, PartitionSpec(..., None), or take a mesh or a size that fits",
            )
        ) from error


def _undivided(shape: tuple[int, ...], sharding: Sharding) -> list[str]:
    """One line for each axis that the mesh does not divide."""
    if not isinstance(sharding, NamedSharding):
        return []
    if len(sharding.spec) > len(shape):
        return [f"{sharding.spec} names {len(sharding.spec)} axes, and it has {len(shape)}"]
    lines = []
    for axis, spread in enumerate(map(mesh_names, sharding.spec)):
        parts = math.prod(sharding.mesh.shape[name] for name in spread)
        if shape[axis] % parts:
            over = ", ".join(f'"{name}"' for name in spread)
            lines.append(f"axis {axis} has {shape[axis]} entries, and the mesh {parts} parts along {over}")
    return lines
