"""The models to be re-initialized, built without drawing or compiling anything. One case = one row of `CASES`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CALLS = 7
"""Later calls that are timed of most cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model and what is said about it.

    Attributes:
        text: one line that describes the full size.
        build: the model, at toy size or full size.
        calls: later calls that are timed.
    """

    text: str
    build: Callable[[bool], Any]
    calls: int = CALLS


def transformer(quick: bool, *, depth: int, width: int) -> Any:
    """Return a transformer's blocks, or at toy size 2 of width 32."""
    block = _block(quick, width)
    return [_filled(block) for _ in range(2 if quick else depth)]


def scanned(quick: bool) -> Any:
    """Return the same 12 blocks of width 768 as one block of stacked arrays, for a scan."""
    import jax

    block = _block(quick, 768)
    depth = 2 if quick else 12

    def stacked(leaf: Any) -> Any:
        is_array = isinstance(leaf, jax.ShapeDtypeStruct)
        return jax.ShapeDtypeStruct((depth, *leaf.shape), leaf.dtype) if is_array else leaf

    return _filled(jax.tree.map(stacked, block))


def _block(quick: bool, width: int) -> Any:
    import equinox as eqx
    import jax

    width = 32 if quick else width
    heads = 4 if quick else width // 64

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

    return eqx.filter_eval_shape(block)


def resnet(quick: bool) -> Any:
    """Return ResNet-50's convolutions and its head, or at toy size those of its first stage."""
    import equinox as eqx
    import jax

    key = jax.random.key(0)

    def conv(inputs: int, outputs: int, kernel: int) -> Any:
        return eqx.nn.Conv2d(inputs, outputs, kernel, use_bias=False, key=key)

    def layers() -> list[Any]:
        made, inputs = [conv(3, 64, 7)], 64
        for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3))[: 1 if quick else 4]:
            for place in range(depth):
                made += [conv(inputs, width, 1), conv(width, width, 3), conv(width, 4 * width, 1)]
                made += [conv(inputs, 4 * width, 1)] if place == 0 else []
                inputs = 4 * width
        return [*made, eqx.nn.Linear(inputs, 1000, key=key)]

    return _filled(eqx.filter_eval_shape(layers))


def lenet(quick: bool) -> Any:
    """Return LeNet-5's convolutions and Linears, for images of 28 × 28, or at toy size narrower ones."""
    import equinox as eqx
    import jax

    key = jax.random.key(0)
    width = 1 if quick else 4

    def layers() -> list[Any]:
        convolutions = [eqx.nn.Conv2d(1, 6, 5, key=key), eqx.nn.Conv2d(6, 16, 5, key=key)]
        sizes = [100 * width, 30 * width, 21 * width, 10]
        return [*convolutions, *(eqx.nn.Linear(*pair, key=key) for pair in itertools.pairwise(sizes))]

    return _filled(eqx.filter_eval_shape(layers))


def mlp(quick: bool) -> Any:
    """Return the README's MLP."""
    import equinox as eqx
    import jax

    width = 16 if quick else 128
    return _filled(eqx.filter_eval_shape(lambda: eqx.nn.MLP(64, 10, width, 2, key=jax.random.key(0))))


def vit(quick: bool) -> Any:
    """Return ViT-S/16: patches by a convolution, 12 blocks of width 384, and a head; or at toy size 2 blocks of 32."""
    import equinox as eqx
    import jax

    key = jax.random.key(0)
    width = 32 if quick else 384

    def ends() -> list[Any]:
        return [eqx.nn.Conv2d(3, width, 16, stride=16, key=key), eqx.nn.Linear(width, 1000, key=key)]

    patches, head = _filled(eqx.filter_eval_shape(ends))
    return [patches, *transformer(quick, depth=12, width=width), head]


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


_BLOCK = "attention (4 biased projections {0} → {0}), two LayerNorms, feed-forward {0} → {1} → {0}"

CASES = {
    "transformer": Case(
        text=f"12 blocks of width 768: {_BLOCK.format(768, 3072)}; 72 Linears, 85 million parameters",
        build=functools.partial(transformer, depth=12, width=768),
    ),
    "deep transformer": Case(
        text=f"48 blocks of width 1,024: {_BLOCK.format('1,024', '4,096')}; 288 Linears, 604 million parameters",
        build=functools.partial(transformer, depth=48, width=1024),
        calls=3,
    ),
    "resnet": Case(
        text="the 53 convolutions of ResNet-50, without biases, and its head; 25 million parameters", build=resnet
    ),
    "vit": Case(
        text="ViT-S/16: a convolution of patches, 12 blocks of width 384, a head; 22 million parameters", build=vit
    ),
    "lenet": Case(text="LeNet-5: 2 convolutions and 3 Linears, 62 thousand parameters", build=lenet, calls=31),
    "mlp": Case(text="the README's MLP: 3 Linears, 26 thousand parameters", build=mlp, calls=31),
    "linears": Case(text="a list of 1,000 Linears 64 → 64", build=linears),
    "scanned": Case(
        text="the 12 blocks of width 768 as one block of stacked arrays; 6 Linears, 85 million parameters",
        build=scanned,
    ),
}
