"""A model described before it exists, and born on eight devices: each draws its own shard and no more."""

import os

if "XLA_FLAGS" not in os.environ:  # eight simulated devices, where there is nothing better
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import initax as ix

devices = jax.device_count()
mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))


def make(key):
    return eqx.nn.MLP(512, 512, 2048, depth=3, key=key)


def placed(leaf):
    """The first axis of every array goes over the devices."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, PartitionSpec("data")))


# Shapes, types and shardings; no weight exists.
model = jax.tree.map(placed, eqx.filter_eval_shape(make, jax.random.key(0)))
rules = {"Linear": "he_normal", "layers.3": "orthogonal"}
plan = ix.plan(model, rules)
print(plan, end="\n\n")

# What each program will hold on one device: its shards, and for element-wise draws nothing beside them.
for paths, lowered in plan.lower().items():
    cost = lowered.compile().memory_analysis()
    held, beside = cost.output_size_in_bytes / 2**10, cost.temp_size_in_bytes / 2**10
    print(f"{', '.join(paths):<28} {held:7.1f} KiB a shard, {beside:9.1f} KiB beside it")

model = plan.draw(jax.random.key(1))
weight = model.layers[1].weight
print(f"\n{weight.shape} on {len(weight.devices())} devices, {weight.addressable_shards[0].data.shape} on each")

# The numbers are those of a single device.
alone = ix.reinit(make(jax.random.key(0)), rules, jax.random.key(1))
for one, other in zip(model.layers[:3], alone.layers[:3], strict=True):
    assert (jax.device_get(one.weight) == jax.device_get(other.weight)).all()
assert jnp.allclose(jax.device_get(model.layers[3].weight), alone.layers[3].weight, atol=1e-6)

# Where memory is short: old arrays go one by one, as soon as their successors are there.
model = ix.reinit(model, {"Linear": "he_uniform"}, jax.random.key(2), donate=True)
assert weight.is_deleted()
