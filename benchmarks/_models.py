"""The models to be re-initialized, built without drawing or compiling anything. One case = one row of `CASES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model and what is said about it.

    Attributes:
        text: one line that describes the full size.
        build: the model, at toy size or full size.
    """

    text: str
    build: Callable[[bool], Any]


def transformer(quick: bool) -> Any:
    """Return a transformer's blocks: 12 of width 768, or at toy size 2 of width 32."""
    import equinox as eqx
    import jax

    depth, width, heads = (2, 32, 4) if quick else (12, 768, 12)

    class Block(eqx.Module):
        attention: eqx.nn.MultiheadAttention
        attention_norm: eqx.nn.LayerNorm
        up: eqx.nn.Linear
        down: eqx.nn.Linear
        feed_forward_norm: eqx.nn.LayerNorm

    def block() -> Block:
        key = jax.random.key(0)
        biases = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        return Block(
            attention=eqx.nn.MultiheadAttention(heads, width, key=key, **biases),
            attention_norm=eqx.nn.LayerNorm(width),
            up=eqx.nn.Linear(width, 4 * width, key=key),
            down=eqx.nn.Linear(4 * width, width, key=key),
            feed_forward_norm=eqx.nn.LayerNorm(width),
        )

    abstract = eqx.filter_eval_shape(block)
    return [_filled(abstract) for _ in range(depth)]


def linears(quick: bool) -> Any:
    """Return 1,000 Linear layers of 64 × 64, or at toy size 20 of 8 × 8."""
    import equinox as eqx
    import jax

    count, width = (20, 8) if quick else (1000, 64)
    abstract = eqx.filter_eval_shape(lambda: eqx.nn.Linear(width, width, key=jax.random.key(0)))
    return [_filled(abstract) for _ in range(count)]


def _filled(abstract: Any) -> Any:
    """Return the module with an array of its own at every place. Not zeros, which would take no memory yet."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    def fill(leaf: Any) -> Any:
        return jnp.asarray(np.full(leaf.shape, 0.5, leaf.dtype)) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf

    return jax.tree.map(fill, abstract)


CASES = {
    "transformer": Case(
        text="12 blocks of width 768: attention (4 biased projections 768 → 768), two LayerNorms, "
        "feed-forward 768 → 3072 → 768; 72 Linears, 85 million parameters",
        build=transformer,
    ),
    "linears": Case(text="a list of 1,000 Linears 64 → 64", build=linears),
}
