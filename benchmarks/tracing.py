"""What it costs to read a deep transformer nobody declared off its forward pass: `python -m benchmarks.tracing`.

48 blocks of width 3,072, raw arrays in einsums, abstract: its weights are never made.
"""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

import initax as ix

DEPTH, WIDTH, HEADS, LENGTH, TIMES = 48, 3072, 24, 16, 3


def forward(blocks: list[dict[str, Any]], x: jax.Array) -> jax.Array:
    """Return the residual stream behind all blocks."""
    for block in blocks:
        query, key, value = (jnp.einsum("td,dhk->htk", x, block[name]) for name in ("query", "key", "value"))
        scores = jax.nn.softmax(query @ jnp.swapaxes(key, -1, -2) / (WIDTH // HEADS) ** 0.5)
        x = x + jnp.einsum("htk,hkd->td", scores @ value, block["out"])
        x = x + jax.nn.gelu(x @ block["up"]) @ block["down"]
    return x


def seconds(call: Callable[[], Any]) -> float:
    """Return the median time of a call."""
    taken = []
    for _ in range(TIMES):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)


def main() -> None:
    """Print parameters, seconds and memory."""

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    split = dict.fromkeys(("query", "key", "value"), array(WIDTH, HEADS, WIDTH // HEADS))
    rest = {"out": array(HEADS, WIDTH // HEADS, WIDTH), "up": array(WIDTH, 4 * WIDTH), "down": array(4 * WIDTH, WIDTH)}
    model, inputs = [split | rest for _ in range(DEPTH)], array(LENGTH, WIDTH)
    count = sum(leaf.size for leaf in jax.tree.leaves(model))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    layers = seconds(lambda: ix.layers(model, inputs=inputs, forward=forward))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ix.InitaxWarning)  # auto can't tell what attention makes of a signal
        plan = seconds(lambda: ix.plan(model, {"*": "auto"}, inputs=inputs, forward=forward))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{count / 1e9:.1f} billion parameters: layers {layers:.1f} s, plan with auto {plan:.1f} s, {grown:.0f} MiB")


if __name__ == "__main__":
    main()
