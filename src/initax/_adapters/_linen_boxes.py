"""Flax Linen's boxes around arrays that say over which axes of a mesh they go."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn
from flax.linen.spmd import logical_to_mesh_axes

from initax._adapters._nodes import Node
from initax._math._sharding import mesh_around, mesh_names, with_named_sharding


def describe(node: Any) -> Node | None:
    """Return what is in a box, which goes by the box's name."""
    return Node("box", value=box_with_sharding(node).value) if isinstance(node, nn.Partitioned) else None


def box_with_sharding(box: Any) -> Any:
    """Return a box with its abstract array given the sharding that its names mean, where there is a mesh for it.

    Args:
        box: an `nn.Partitioned`, or an `nn.LogicallyPartitioned`, whose names its rules or those around translate.
    """
    mesh = box.mesh if isinstance(box.mesh, jax.sharding.Mesh) else mesh_around()
    if mesh is None or not isinstance(box.value, jax.ShapeDtypeStruct):
        return box
    spec = box.get_partition_spec()
    if isinstance(box, nn.LogicallyPartitioned):
        spec = logical_to_mesh_axes(spec, box.rules or nn.get_logical_axis_rules())
    named = {name for entry in spec for name in mesh_names(entry)}
    return box.replace_boxed(with_named_sharding(box.value, spec, mesh)) if named <= set(mesh.axis_names) else box
