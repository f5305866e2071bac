"""One of several processes that draw a model together: `python -m tests.process RANK COUNT PORT WHAT FILE`.

Writes what its shards hold, or the error it ended with, to a file: Gloo prints its own lines, in pieces.
"""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import initax as ix
from initax._drawing import _draw

DEVICES = 8


def model():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))

    def over(shape, *names):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*names)))

    return {
        "a": {"w": over((64, 32), "data", "model"), "b": over((32,), "model")},
        "c": {"w": over((64, 32), ("data", "model")), "b": over((32,))},
        "d": {"w": over((4, 8, 8), "data")},
    }


RULES = {"*": "he_normal", "c": "normal", "d": ix.Scheme("orthogonal", "normal", axes={"w": "stack i o"})}


def shards(new):
    """Path, place and bytes of every shard that this process holds."""
    for name, leaf in sorted((f"{layer}.{field}", leaf) for layer, own in new.items() for field, leaf in own.items()):
        for shard in leaf.addressable_shards:
            place = [part.indices(size)[:2] for part, size in zip(shard.index, leaf.shape, strict=True)]
            yield f"{name} {place} {np.asarray(shard.data).tobytes().hex()}"


def main(rank, count, port, what, file):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", count, rank, initialization_timeout=60)
    key, rules = jax.random.key(0), dict(RULES)
    if rank and what == "another key":
        key = jax.random.key(1)
    if rank and what == "another scheme":
        rules["a"] = "he_uniform"
    if rank and what == "another model":
        rules["d"] = None
    if rank and what == "dies":
        vars(_draw)["compile_together"] = lambda needs: os._exit(9)
    try:
        new = ix.reinit(model(), rules, key)
    except ix.DrawError as error:
        Path(file).write_text(f"DrawError: {error}")
        os._exit(3)  # a runtime that lost a process has nothing left to shut down
    Path(file).write_text("\n".join(shards(new)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
