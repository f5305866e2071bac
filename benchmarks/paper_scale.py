"""Plan and lower the initialization of decoders nobody could hold here: `python -m benchmarks.paper_scale [--write]`.

Nothing is drawn: the models are shapes, types and shardings over 256 simulated devices.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DEVICES = 256
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"

import equinox as eqx  # noqa: E402  the number of devices is read when JAX is loaded
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import initax as ix  # noqa: E402
from benchmarks._written import write  # noqa: E402

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A decoder in the manner of Llama.

    Attributes:
        layers: number of blocks.
        width: features of the residual stream.
        hidden: features inside the feed-forward.
        kv: features of keys and of values.
        vocabulary: number of tokens.
    """

    layers: int
    width: int
    hidden: int
    kv: int
    vocabulary: int


SIZES = {
    "7 B": Size(layers=32, width=4096, hidden=11008, kv=4096, vocabulary=32000),
    "70 B": Size(layers=80, width=8192, hidden=28672, kv=1024, vocabulary=128256),
    "405 B": Size(layers=126, width=16384, hidden=53248, kv=1024, vocabulary=128256),
}


class Block(eqx.Module):
    """Attention and a gated feed-forward, each behind a norm."""

    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    gate: eqx.nn.Linear
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    norms: tuple[eqx.nn.RMSNorm, eqx.nn.RMSNorm]

    def __init__(self, size: Size, key: jax.Array) -> None:
        def linear(inputs: int, outputs: int) -> eqx.nn.Linear:
            return eqx.nn.Linear(inputs, outputs, use_bias=False, dtype=jnp.bfloat16, key=key)

        self.query, self.out = linear(size.width, size.width), linear(size.width, size.width)
        self.key, self.value = linear(size.width, size.kv), linear(size.width, size.kv)
        self.gate, self.up = linear(size.width, size.hidden), linear(size.width, size.hidden)
        self.down = linear(size.hidden, size.width)
        self.norms = (eqx.nn.RMSNorm(size.width), eqx.nn.RMSNorm(size.width))


class Decoder(eqx.Module):
    """Embedding, blocks, norm and head."""

    embedding: eqx.nn.Embedding
    blocks: list[Block]
    norm: eqx.nn.RMSNorm
    head: eqx.nn.Linear

    def __init__(self, size: Size, key: jax.Array) -> None:
        self.embedding = eqx.nn.Embedding(size.vocabulary, size.width, dtype=jnp.bfloat16, key=key)
        self.blocks = [Block(size, key) for _ in range(size.layers)]
        self.norm = eqx.nn.RMSNorm(size.width)
        self.head = eqx.nn.Linear(size.width, size.vocabulary, use_bias=False, dtype=jnp.bfloat16, key=key)


def abstract(size: Size, mesh: Mesh) -> Decoder:
    """Return a decoder of shapes, with every matrix over both axes of the mesh."""

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        spec = PartitionSpec("model", "data") if len(leaf.shape) == 2 else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(placed, eqx.filter_eval_shape(Decoder, size, jax.random.key(0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What initializing one model takes."""

    name: str
    parameters: int
    plan: float
    programs: int
    lowering: float
    compiling: float
    per_device: int
    largest: int
    beside: int
    collectives: int

    def cells(self) -> tuple[str, ...]:
        """Return it as text."""
        return (
            self.name,
            f"{self.parameters / 1e9:,.1f} × 10⁹",
            f"{self.plan:.2f} s",
            str(self.programs),
            f"{self.lowering:.2f} s",
            f"{self.compiling:.2f} s",
            f"{self.per_device / 2**20:,.0f} MiB",
            f"{self.largest / 2**20:,.1f} MiB",
            f"{self.beside / 2**10:,.1f} KiB",
            str(self.collectives),
        )


HEADS = (
    "decoder", "parameters", "`ix.plan`", "programs", "lowering", "compiling", "arrays per device",
    "largest array's shard", "largest temporary", "collectives",
)  # fmt: skip


def measure(name: str, size: Size, mesh: Mesh) -> Row:
    """Return what initializing a decoder takes."""
    model = abstract(size, mesh)
    residual = ix.schemes.scaled(("normal", {"stddev": 0.02}), (2 * size.layers) ** -0.5)
    rules = {"*": ("normal", {"stddev": 0.02}), "blocks.*.out": residual, "blocks.*.down": residual}
    start = time.perf_counter()
    plan = ix.plan(model, rules, default="error")
    planned = time.perf_counter()
    programs = plan.lower()
    lowered = time.perf_counter()
    compiled = {paths: program.compile() for paths, program in programs.items()}
    done = time.perf_counter()
    costs = {paths: each.memory_analysis() for paths, each in compiled.items()}
    return Row(
        name=name,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.ShapeDtypeStruct)),
        plan=planned - start,
        programs=len(programs),
        lowering=lowered - planned,
        compiling=done - lowered,
        per_device=sum(len(paths) * cost.output_size_in_bytes for paths, cost in costs.items()),
        largest=max(cost.output_size_in_bytes for cost in costs.values()),
        beside=max(cost.temp_size_in_bytes for cost in costs.values()),
        collectives=sum(each.as_text().count(f"{word}(") for each in compiled.values() for word in COLLECTIVES),
    )


def markdown(rows: list[Row]) -> Iterator[str]:
    """Return the table of the page."""
    yield "| " + " | ".join(HEADS) + " |"
    yield "| --- |" + " ---: |" * (len(HEADS) - 1)
    for row in rows:
        yield "| " + " | ".join(row.cells()) + " |"


def main() -> None:
    """Measure every size; print the table and, if asked, write it into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper_scale", description=__doc__)
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--write", action="store_true", help="write the table into docs/scale.md")
    arguments = parser.parse_args()
    mesh = jax.make_mesh((16, 16), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    rows = [measure(name, size, mesh) for name, size in SIZES.items() if arguments.size in (name, "all")]
    table = Table(*HEADS)
    for row in rows:
        table.add_row(*row.cells())
    Console(width=200).print(table)
    if arguments.write:
        write("scale", "paper_scale", "\n".join(markdown(rows)))


if __name__ == "__main__":
    main()
