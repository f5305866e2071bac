"""What a benchmarked model is made of, in the same words for every peer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One weighted layer, stored as Equinox and PyTorch do: `(stack, out, in, *receptive)`.

    Attributes:
        stack: number of layers in a stack; `None` where it is none.
        outputs: outputs of one.
        inputs: inputs of one.
        kernel: sizes of the receptive field; empty for a Linear.
        biased: whether it has a bias.
    """

    stack: int | None
    outputs: int
    inputs: int
    kernel: tuple[int, ...]
    biased: bool

    @property
    def fan_in(self) -> int:
        """Inputs of one output."""
        return self.inputs * math.prod(self.kernel)

    @property
    def entries(self) -> int:
        """Entries of the weight."""
        return (self.stack or 1) * self.outputs * self.fan_in


def layers_of(model: Any) -> list[Any]:
    """Return the Linear and Conv modules of an Equinox model."""
    import equinox as eqx
    import jax

    def is_layer(node: Any) -> bool:
        return isinstance(node, eqx.nn.Linear | eqx.nn.Conv)

    return [node for node in jax.tree.leaves(model, is_leaf=is_layer) if is_layer(node)]


def weights_of(model: Any) -> list[Any]:
    """Return their weights."""
    return [layer.weight for layer in layers_of(model)]


def biases_of(model: Any) -> list[Any]:
    """Return their biases."""
    return [layer.bias for layer in layers_of(model) if layer.bias is not None]


def shapes_of(model: Any) -> list[Shape]:
    """Return what they are made of."""
    return [_shape(layer) for layer in layers_of(model)]


def _shape(layer: Any) -> Shape:
    import equinox as eqx

    kernel = tuple(layer.kernel_size) if isinstance(layer, eqx.nn.Conv) else ()
    stacked = layer.weight.ndim - len(kernel) - 2
    first = layer.weight.shape[stacked:]
    return Shape(
        stack=layer.weight.shape[0] if stacked else None,
        outputs=first[0],
        inputs=first[1],
        kernel=kernel,
        biased=layer.bias is not None,
    )
