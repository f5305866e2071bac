"""Patterns and fans that the tables of several frameworks share, as functions of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from initax._math._axes import Axes
from initax._model._constraint import Constraint, share_of, weight_norm

FanPair = tuple[float, float] | tuple[None, None]


def numbered(letter: str, count: int) -> list[str]:
    """Return `count` axis names: the letter alone where there is one, numbered from 1 otherwise."""
    return [letter] if count == 1 else [f"{letter}{index}" for index in range(1, count + 1)]


def general_pattern(batch: int, inputs: int, outputs: int) -> str:
    """Return the pattern of a kernel `(*batch, *inputs, *outputs)`, or of its bias where there are no inputs.

    Examples:
        >>> general_pattern(1, 1, 2)
        'b i o1 o2'
    """
    return " ".join(numbered("b", batch) + numbered("i", inputs) + numbered("o", outputs))


def einsum_patterns(equation: str) -> tuple[str, str]:
    """Return the patterns of the kernel and the bias of an einsum layer, whose second operand is the kernel.

    An index of the kernel that the inputs have too and the outputs lack is summed over: an input. One the outputs have
    alone is an output, one that both have is a batch axis, and one that neither has is summed over as well.

    Examples:
        >>> einsum_patterns("bld,hdk->blhk")
        ('o1 i o2', 'o1 o2')
    """
    operands, result = equation.replace(" ", "").replace("...", "").split("->")
    inputs, kernel = operands.split(",")
    sides = {index: "b" if index in inputs and index in result else "o" if index in result else "i" for index in kernel}
    named: dict[str, str] = {}
    for side in "bio":
        members = [index for index in kernel if sides[index] == side]
        named |= dict(zip(members, numbered(side, len(members)), strict=True))
    bias = [named[index] for index in result if index in named]
    return " ".join(named[index] for index in kernel), " ".join(bias)


def as_tuple(value: int | Sequence[int] | None) -> tuple[int, ...]:
    """Return axes that Flax takes as one number or several; `None` is none."""
    return (value,) if isinstance(value, int) else tuple(value or ())


def flax_weight_norm(
    shape: Sequence[int], features: Any, stacks: Sequence[int], scale: tuple[str, Sequence[int]] | None
) -> Constraint:
    """Return the constraint of a weight under weight norm of Flax.

    Args:
        shape: shape of the weight.
        features: axes that have a norm of their own, as Flax takes them, counted without those of a stack.
        stacks: axes of a stack.
        scale: path of the magnitudes, and which of their axes are those of the stack; `None` where every norm is 1.
    """
    layer_axes = [axis for axis in range(len(shape)) if axis not in stacks]
    own = {layer_axes[axis] for axis in as_tuple(features)}
    reduced = tuple(axis for axis in layer_axes if axis not in own)
    if scale is None:
        return weight_norm(reduced, None)
    path, stacks_of_scale = scale
    left = [axis for axis in range(len(shape)) if axis not in reduced]
    of_stack, of_layer = (
        iter([index for index, axis in enumerate(left) if (axis in stacks) == is_stack]) for is_stack in (True, False)
    )
    order = tuple(next(of_stack if axis in stacks_of_scale else of_layer) for axis in range(len(left)))
    return weight_norm(reduced, path, order)


def per_axis(value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Return a stride or dilation for each spatial axis; `None` is one everywhere."""
    if value is None or isinstance(value, int):
        return (value or 1,) * rank
    return tuple(value)


def conv_effective(axes: Axes, strides: Sequence[int], input_dilation: Sequence[int], mask: Any) -> FanPair:
    """Return the effective fans of a convolution.

    A stride skips outputs: each input reaches `1 / stride` of the kernel's. Spread inputs leave `1 / dilation` of the
    taps something to multiply; the stride of a transposed convolution spreads them. A mask takes taps away; how many is
    not known where it is traced or abstract.
    """
    kept = 1.0 if mask is None else share_of(mask)
    if kept is None:
        return None, None
    return axes.fan_in * kept / math.prod(input_dilation), axes.fan_out * kept / math.prod(strides)


def of_stride(module: Any, axes: Axes) -> FanPair:
    """Return the effective fans of a convolution of Equinox or Haliax, with a stride for each axis."""
    return conv_effective(axes, module.stride, (), None)


def of_transposed_stride(module: Any, axes: Axes) -> FanPair:
    """Return the same of a transposed convolution."""
    return conv_effective(axes, (), module.stride, None)


def kernel_size(module: Any) -> tuple[int, ...]:
    """Return the sizes of the window of a convolution of Flax."""
    return per_axis(module.kernel_size, 1)


def of_flax_conv(module: Any, axes: Axes) -> FanPair:
    """Return the effective fans of a convolution of Flax."""
    rank = len(kernel_size(module))
    return conv_effective(axes, per_axis(module.strides, rank), per_axis(module.input_dilation, rank), module.mask)


def of_flax_transposed(module: Any, axes: Axes) -> FanPair:
    """Return the same of a transposed convolution."""
    return conv_effective(axes, (), per_axis(module.strides, len(kernel_size(module))), module.mask)


def looked_up(module: Any, axes: Axes) -> FanPair:
    """A look-up sums over the one row it takes."""
    return 1, axes.fan_in
