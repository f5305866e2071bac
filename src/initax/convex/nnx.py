"""Input-convex networks as Flax NNX modules: the same networks as those of Equinox, under the same names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from initax._errors import ModelError
from initax._math._gaussian import Activation
from initax._math._positivity import positivity as positivity_of
from initax._model._declared import declare
from initax.convex._network import (
    Framework,
    Size,
    built,
    declaration,
    fully_convex,
    output_of,
    partial_output,
    partially_convex,
    pre_activations,
)


class ConvexLinear(nnx.Module):
    """`z map(weight) + x passthrough + u context + bias`, convex in `z` and `x` together; weights are (in, out)."""

    def __init__(
        self, weight: Any, passthrough: Any, context: Any, bias: Any, *, positivity: str, non_decreasing: bool
    ) -> None:
        arrays = (None if array is None else nnx.Param(array) for array in (weight, passthrough, context))
        self.weight, self.passthrough, self.context = arrays
        self.bias = nnx.Param(bias)
        self.positivity, self.non_decreasing = positivity, non_decreasing

    def __call__(self, z: Any, x: Any, u: Any = None) -> Any:
        """Return the pre-activations.

        Args:
            z: activations of the layer before, shape (..., hidden); `None` in the first layer.
            x: the network's input, shape (..., inputs).
            u: the context, shape (..., context).
        """
        mapping = positivity_of(self.positivity).forward
        total = 0.0
        if self.weight is not None:
            total = total + z @ mapping(self.weight[...])
        if self.passthrough is not None:
            weight = self.passthrough[...]
            total = total + x @ (mapping(weight) if self.non_decreasing else weight)
        if self.context is not None:
            total = total + u @ self.context[...]
        return total + jnp.reshape(self.bias[...], (1,) * (jnp.ndim(total) - 1) + (-1,))


def _linear(inputs: int, outputs: int, dtype: Any) -> Any:
    param_dtype = dtype or jnp.result_type(float)
    return nnx.eval_shape(lambda: nnx.Linear(inputs, outputs, param_dtype=param_dtype, rngs=nnx.Rngs(0)))


NNX = Framework(pattern="i o", layer=ConvexLinear, linear=_linear, listed=nnx.List)
declare(ConvexLinear, declaration(NNX.pattern))


def _rows(x: Any, size: Size, what: str) -> Any:
    x = jnp.asarray(x)
    if size == "scalar":
        return x[..., None]
    if x.ndim < 1 or x.shape[-1] != size:
        raise ModelError(f"{what} has shape {x.shape}, and the network takes (..., {size}).")
    return x


class FICNN(nnx.Module):
    """A fully input-convex network as an NNX module; see `ix.convex.FICNN` for what it is and what the arguments mean.

    Leading axes of the input are batches, as everywhere in NNX.

    Args:
        in_size: size of the input, or `"scalar"`.
        out_size: size of the output, or `"scalar"`.
        width_sizes: sizes of the hidden layers.
        use_passthrough: every layer sees the input.
        non_decreasing: the weights on the input are positive too.
        activation: a convex, non-decreasing function, or its name.
        final_activation: convex and non-decreasing, too; applied to the output.
        positivity: how weights are kept positive, `"square"` unless you choose another map.
        correlation: correlation between units where there is no passthrough.
        k: sum of a unit's positive weights.
        tau: share of the variance that the passthrough brings.
        input_square: mean square of the inputs.
        dtype: type of the arrays.
        rngs: `nnx.Rngs`, whose stream `params` is used, or a JAX key.

    Raises:
        SchemeError: the activation is not convex and non-decreasing, or an argument of `icnn` is out of range.
        InitaxError: no positivity map has that name.
        ModelError: a size is not positive, or an argument is one of klax's and not of ours.

    References:
        Amos et al. 2017, "Input Convex Neural Networks", arXiv 1609.07152, eq. 2.
    """

    layers: nnx.List[ConvexLinear]
    final_activation: Callable[[Any], Any] | None
    in_size: Size
    out_size: Size

    @built(fully_convex, NNX)
    def __init__(
        self,
        in_size: Size,
        out_size: Size,
        width_sizes: Sequence[int],
        *,
        use_passthrough: bool = True,
        non_decreasing: bool = False,
        activation: Activation = jax.nn.softplus,
        final_activation: Activation | None = None,
        positivity: str = "square",
        correlation: float = 0.5,
        k: float = 1.0,
        tau: float = 0.5,
        input_square: float = 1.0,
        dtype: Any = None,
        rngs: Any,
    ) -> None: ...

    def pre_activations(self, x: Any) -> tuple[Any, ...]:
        """Return what every layer gives before its activation, the last one's included.

        Args:
            x: the input, of shape (..., in_size).
        """
        return pre_activations(self, _rows(x, self.in_size, "the input"))

    def __call__(self, x: Any) -> Any:
        """Return the output, of shape (..., out_size), convex in the input.

        Args:
            x: the input, of shape (..., in_size).
        """
        return output_of(self, self.pre_activations(x)[-1], self.final_activation)


class PICNN(nnx.Module):
    """A partially input-convex network as an NNX module; see `ix.convex.PICNN` for what it is and what arguments mean.

    Args:
        in_size: size of the input in which the output is convex, or `"scalar"`.
        context_size: size of the other input, or `"scalar"`.
        out_size: size of the output, or `"scalar"`.
        width_sizes: sizes of the hidden layers of the convex path.
        context_width_sizes: sizes of the context's layers, one per hidden layer.
        non_decreasing: outputs rise with every convex input.
        activation: a convex, non-decreasing function, or its name.
        context_activation: the activation of the context's layers.
        positivity: how weights are kept positive, `"square"` unless you choose another map.
        k: sum of a unit's positive weights.
        tau: share of the variance that input and context bring together.
        input_square: mean square of the inputs.
        dtype: type of the arrays.
        rngs: `nnx.Rngs`, whose stream `params` is used, or a JAX key.

    Raises:
        SchemeError: the activation is not convex and non-decreasing, or an argument of `icnn` is out of range.
        InitaxError: no positivity map has that name.
        ModelError: a size is not positive, the two paths are not of the same length, or an argument is one of klax's
            and not of ours.

    References:
        Amos et al. 2017, "Input Convex Neural Networks", arXiv 1609.07152, eq. 3.
    """

    layers: nnx.List[ConvexLinear]
    in_size: Size
    context_size: Size
    out_size: Size

    @built(partially_convex, NNX)
    def __init__(
        self,
        in_size: Size,
        context_size: Size,
        out_size: Size,
        width_sizes: Sequence[int],
        context_width_sizes: Sequence[int] | None = None,
        *,
        non_decreasing: bool = False,
        activation: Activation = jax.nn.softplus,
        context_activation: Activation = jax.nn.softplus,
        positivity: str = "square",
        k: float = 1.0,
        tau: float = 0.5,
        input_square: float = 1.0,
        dtype: Any = None,
        rngs: Any,
    ) -> None: ...

    def __call__(self, x: Any, u: Any) -> Any:
        """Return the output, of shape (..., out_size), convex in `x`.

        Args:
            x: the convex input, of shape (..., in_size).
            u: the context, of shape (..., context_size).
        """
        rows = _rows(x, self.in_size, "the convex input")
        return partial_output(self, rows, _rows(u, self.context_size, "the context"))
