"""Where arrays live: the shardings that models state, whether they can be, and how a mesh splits stacks of matrices."""

from __future__ import annotations

import itertools
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from initax._errors import PlanError
from initax._math._axes import Axes


def placement(array: Any) -> Sharding | None:
    """Return an array's explicit sharding, or `None` where JAX placed it by default.

    A sharding over a mesh of names and sizes alone is one over the mesh around, where that has the same. Inside a
    transformation it is the one that the array's type states, which it does for explicit axes of a mesh.
    """
    if isinstance(array, jax.core.Tracer):
        stated = getattr(jax.typeof(array), "sharding", None)
        return stated if explicit_names(stated) else None
    if not getattr(array, "committed", True):
        return None
    sharding = getattr(array, "sharding", None)
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, AbstractMesh):
        mesh = mesh_around()
        if mesh is not None and dict(mesh.shape) == dict(sharding.mesh.shape):
            return NamedSharding(mesh, sharding.spec)
    return sharding if isinstance(sharding, Sharding) else None


def explicit_names(sharding: Any) -> tuple[str, ...]:
    """Return the axes of a mesh over which an array goes so that its type says so."""
    if not isinstance(sharding, NamedSharding):
        return ()
    kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
    named = (name for entry in sharding.spec for name in mesh_names(entry))
    return tuple(name for name in named if kinds[name] == AxisType.Explicit)


def stated_spec(sharding: Any, mesh: AbstractMesh) -> PartitionSpec:
    """Return what the type of an array says of its place on a mesh: the entries that name explicit axes of it."""
    if not explicit_names(sharding) or tuple(sharding.mesh.axis_names) != tuple(mesh.axis_names):
        return PartitionSpec()
    entries = (tuple(name for name in mesh_names(entry) if name in mesh.explicit_axes) for entry in sharding.spec)
    return PartitionSpec(*(names or None for names in entries))


def varying_like(array: Any, old: Any) -> Any:
    """Return an array whose type says, inside a `shard_map`, that it varies over the axes over which another does.

    Args:
        array: the array.
        old: the one whose place it takes; nothing is asked of one that is not a tracer.
    """
    if not isinstance(old, jax.core.Tracer):
        return array
    missing = tuple(sorted(_varying(old) - _varying(array)))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def _varying(array: Any) -> frozenset[str]:
    kind = jax.typeof(array)
    axes = getattr(kind, "vma", None)  # a part of the type's `mat` since JAX 0.12
    return frozenset(getattr(getattr(kind, "mat", None), "varying", ()) if axes is None else axes)


def mesh_around() -> Mesh | None:
    """Return the mesh of `jax.set_mesh` around the call, if there is one with devices."""
    try:
        mesh = jax.sharding.get_mesh()
    except ValueError:  # inside jit
        return None
    return mesh if isinstance(mesh, Mesh) and not mesh.empty else None


def with_named_sharding(array: Any, spec: PartitionSpec, mesh: Any) -> Any:
    """Return an abstract array with the sharding that its framework's metadata name; any other array as it is.

    Args:
        array: the array.
        spec: which axis of it goes over which axes of the mesh.
        mesh: the mesh named with it, if one is; else the one around is meant.
    """
    mesh = mesh if isinstance(mesh, Mesh) and not mesh.empty else mesh_around()
    has_sharding = isinstance(getattr(array, "sharding", None), NamedSharding)
    if not isinstance(array, jax.ShapeDtypeStruct) or has_sharding or mesh is None:
        return array
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=NamedSharding(mesh, spec))


def no_mesh() -> AbstractContextManager[Any]:
    """Return a context in which no mesh is around.

    Under a mesh of explicit axes every intermediate array of a program without shardings of its own is whole on every
    device; what is drawn for a device is then cut out of it.
    """
    if mesh_around() is None:
        return nullcontext()
    return jax.set_mesh(Mesh(np.empty((), dtype=object), ()))


def mesh_names(entry: Any) -> tuple[str, ...]:
    """Return the axes of a mesh that an entry of a `PartitionSpec` names: none, one or several."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def refuse_undivided(path: str, shape: tuple[int, ...], sharding: Sharding | None) -> None:
    """Raise where an array can't have its sharding.

    Raises:
        PlanError: the mesh does not divide an axis, or has no devices.
    """
    if sharding is None:
        return
    name = f'"{path}"' if path else "the array"
    mesh = getattr(sharding, "mesh", None)
    if isinstance(mesh, AbstractMesh):
        raise PlanError(
            f"{name} is to be sharded over the mesh {dict(mesh.shape)}, which has no devices.",
            "with jax.set_mesh(jax.make_mesh(...)): model = plan.draw(key)",
        )
    try:
        sharding.shard_shape(shape)
    except ValueError as error:
        raise PlanError(
            f"{name} {shape} can't be sharded as it is said to be.",
            *_undivided_axes(shape, sharding),
            str(error).split("\n", maxsplit=1)[0] if not isinstance(sharding, NamedSharding) else "",
            "leave the axis whole, PartitionSpec(..., None), or take a mesh or a size that fits",
        ) from error


def _undivided_axes(shape: tuple[int, ...], sharding: Sharding) -> list[str]:
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


def folded(shape: tuple[int, ...], sharding: Sharding | None) -> tuple[tuple[int, ...], Sharding | None]:
    """Return a shape of fewer axes with the same entries in each place: an axis that is whole goes with the one before.

    Args:
        shape: the shape of an array.
        sharding: where it lives; `None` is one device.

    Examples:
        >>> mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
        >>> folded((64, 32, 3, 3), sharding)[0], folded((64, 32, 3, 3), None)[0]
        ((64, 288), (18432,))
    """
    if not isinstance(sharding, NamedSharding):
        whole = sharding is None or len(sharding.device_set) == 1
        return ((math.prod(shape),) if whole else shape), sharding
    if explicit_names(sharding):
        return shape, sharding  # their type would have to say so of what is in between
    sizes: list[int] = []
    entries: list[Any] = []
    for size, entry in itertools.zip_longest(shape, sharding.spec):
        if sizes and not mesh_names(entry):
            sizes[-1] *= size
        else:
            sizes.append(size)
            entries.append(entry)
    spec = PartitionSpec(*entries)
    return tuple(sizes), NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)


MeshAxes = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """How a stack of matrices `(*batch, rows, columns)` lies on a mesh.

    Attributes:
        mesh: the mesh.
        batch: the mesh axes along each batch axis.
        matrix: the mesh axes that split every matrix, whichever way.
        stored: the partition of the stored array.
    """

    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh
    batch: tuple[MeshAxes, ...]
    matrix: MeshAxes
    stored: PartitionSpec

    @property
    def devices(self) -> int:
        """Number of devices that share one matrix."""
        return math.prod(self.mesh.shape[name] for name in self.matrix)

    def spec(self, *matrix: MeshAxes | None) -> PartitionSpec:
        """Return the partition of a stack whose last two axes are split as told."""
        return PartitionSpec(*(names or None for names in self.batch), *matrix)

    def constrain(self, stack: jax.Array, *matrix: MeshAxes | None) -> jax.Array:
        """Return the stack, which the compiler is told to split so."""
        return jax.lax.with_sharding_constraint(stack, NamedSharding(self.mesh, self.spec(*matrix)))


def split_of(axes: Axes, sharding: jax.sharding.Sharding | None) -> Split | None:
    """Return how an array's matrices lie on the mesh of its sharding; `None` where no axis is split.

    A merged axis such as `(g o)` is split from its front: mesh axes go to the groups as long as they divide them, and
    what is left splits the matrices.

    Examples:
        >>> from initax._math._axes import resolve
        >>> mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
        >>> sharding = NamedSharding(mesh, PartitionSpec(("data", "model")))
        >>> split = split_of(resolve("(g o) i", (64, 16), {"g": 4}), sharding)
        >>> split.batch, split.matrix, split.devices
        ((('data',),), ('model',), 2)
    """
    if not isinstance(sharding, NamedSharding) or all(entry is None for entry in sharding.spec):
        return None
    # The draw's own arrays have no sharding in their types, whatever the mesh asks of the user's.
    mesh = sharding.mesh.update(axis_types=(AxisType.Auto,) * len(sharding.mesh.axis_names))
    sizes = dict(zip(axes.names, axes.split, strict=True))
    batch: dict[str, MeshAxes] = {axes.names[axis]: () for axis in axes.batch_axis}
    matrix: set[str] = set()
    for names, entry in zip(axes.stored_names, sharding.spec, strict=False):
        left = list(mesh_names(entry))
        for name in names:
            remaining = sizes[name]
            while name in batch and left and remaining % mesh.shape[left[0]] == 0:
                remaining //= mesh.shape[left[0]]
                batch[name] = (*batch[name], left.pop(0))
            if remaining > 1:
                break
        matrix.update(left)
    # In the order of the mesh, in which devices are counted along several axes.
    return Split(mesh, tuple(batch.values()), tuple(name for name in mesh.axis_names if name in matrix), sharding.spec)
