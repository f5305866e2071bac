"""Which axes of a mesh split an array's batch entries, and which split each entry's matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from initax._math._axes import RECEPTIVE, Axes, parse
from initax._math._sharding import mesh_names

MeshAxes = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """How a stack of matrices `(*batch, rows, columns)` lies on a mesh.

    Attributes:
        mesh: the mesh.
        batch: the mesh axes along each batch axis.
        matrix: the mesh axes that split every matrix, whichever way.
        home: the partition of the stored array.
    """

    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh
    batch: tuple[MeshAxes, ...]
    matrix: MeshAxes
    home: PartitionSpec

    @property
    def devices(self) -> int:
        """Number of devices that share one matrix."""
        return math.prod(self.mesh.shape[name] for name in self.matrix)

    def spec(self, *matrix: MeshAxes | None) -> PartitionSpec:
        """Return the partition of a stack whose last two axes are split as told."""
        return PartitionSpec(*(names or None for names in self.batch), *matrix)

    def constrain(self, stack: jax.Array, *matrix: MeshAxes | None) -> jax.Array:
        """Return the stack, which the compiler is told to split so."""
        placed: jax.Array = jax.lax.with_sharding_constraint(stack, NamedSharding(self.mesh, self.spec(*matrix)))
        return placed


def split_of(axes: Axes, sharding: jax.sharding.Sharding | None) -> Split | None:
    """Return how an array's matrices lie on the mesh of its sharding; `None` where no axis is split.

    A merged axis such as `(g o)` is split from its front: mesh axes go to the groups as long as they divide them, and
    what is left splits the matrices.

    Examples:
        >>> from initax._math._axes import resolve
        >>> mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
        >>> home = NamedSharding(mesh, PartitionSpec(("data", "model")))
        >>> split = split_of(resolve("(g o) i", (64, 16), {"g": 4}), home)
        >>> split.batch, split.matrix, split.devices
        ((('data',),), ('model',), 2)
    """
    if not isinstance(sharding, NamedSharding) or all(entry is None for entry in sharding.spec):
        return None
    # The draw's own arrays have no sharding in their types, whatever the mesh asks of the user's.
    mesh = sharding.mesh.update(axis_types=(AxisType.Auto,) * len(sharding.mesh.axis_names))
    sizes = dict(zip(axes.names, axes.split, strict=True))
    batch: dict[str, MeshAxes] = {axes.names[place]: () for place in axes.batch_axis}
    matrix: set[str] = set()
    for names, entry in zip(_stored(axes), sharding.spec, strict=False):
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


def _stored(axes: Axes) -> Iterator[tuple[str, ...]]:
    """Yield the names merged in each axis of the stored array."""
    for names in parse(axes.pattern):
        yield from [names] * (len(axes.receptive_axis) if names == (RECEPTIVE,) else 1)
