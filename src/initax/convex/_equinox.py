"""Input-convex networks as Equinox modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

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
    number_of,
    output_of,
    partial_output,
    partially_convex,
    pre_activations,
)


class ConvexLinear(eqx.Module):
    """`map(weight) z + passthrough x + context u + bias`, convex in `z` and `x` together.

    Attributes:
        weight: stored weights on the layer before; `None` in the first layer.
        passthrough: weights on the network's input; `None` where there is no passthrough.
        context: weights on the context of a partially convex network.
        bias: the bias.
        positivity: the map that makes `weight` positive.
        non_decreasing: whether `passthrough` is made positive too.
    """

    weight: jax.Array | None
    passthrough: jax.Array | None
    context: jax.Array | None
    bias: jax.Array
    positivity: str = eqx.field(static=True)
    non_decreasing: bool = eqx.field(static=True)

    def __call__(self, z: jax.Array | None, x: jax.Array, u: jax.Array | None = None) -> jax.Array:
        """Return the pre-activations.

        Args:
            z: activations of the layer before, shape (hidden,); `None` in the first layer.
            x: the network's input, shape (inputs,).
            u: the context, shape (context,).
        """
        mapping = positivity_of(self.positivity).forward
        total = self.bias
        if self.weight is not None and z is not None:
            total = total + mapping(self.weight) @ z
        if self.passthrough is not None:
            total = total + (mapping(self.passthrough) if self.non_decreasing else self.passthrough) @ x
        if self.context is not None and u is not None:
            total = total + self.context @ u
        return total


def _linear(inputs: int, outputs: int, dtype: Any) -> Any:
    return eqx.filter_eval_shape(eqx.nn.Linear, inputs, outputs, dtype=dtype, key=jax.random.key(0))


EQUINOX = Framework(pattern="o i", layer=ConvexLinear, linear=_linear, listed=tuple)
declare(ConvexLinear, declaration(EQUINOX.pattern))


def _vector(x: Any, size: Size, what: str) -> jax.Array:
    expected = () if size == "scalar" else (size,)
    if jnp.shape(x) != expected:
        raise ModelError(
            f"{what} has shape {jnp.shape(x)}, and the network takes {expected}.",
            "for a batch write jax.vmap(model)(x)",
        )
    return jnp.reshape(x, (number_of(size),))


class FICNN(eqx.Module):
    """A fully input-convex network, every output a convex function of the input, initialized so that it trains.

    The first layer is linear in the input; every further one adds positive weights times the activations before, any
    weights times the input (the passthrough) and a bias. Sums of convex functions with positive weights under a convex,
    non-decreasing activation are convex. Weights and biases are those of `icnn` for the activation.

    A positive weight is stored as its inverse image under `positivity`. Behind the default, `"square"`, networks learn
    about as well as with weights stored as they are. `"softplus"` and `"exp"` have little slope where weights are
    small, as most of a log-normal's are, and end at up to twice the error. A weight stored as exactly zero has no slope
    under `"square"`, and so stays zero; what `icnn` draws is never that small.

    Args:
        in_size: size of the input, or `"scalar"`.
        out_size: size of the output, or `"scalar"`.
        width_sizes: sizes of the hidden layers.
        use_passthrough: every layer sees the input. Without, deep networks can't be trained.
        non_decreasing: the weights on the input are positive too, so that outputs rise with every input.
        activation: a convex, non-decreasing function, or its name.
        final_activation: convex and non-decreasing, too; applied to the output; the identity if left out.
        positivity: how weights are kept positive: `"square"`, `"abs"`, `"softplus"`, `"exp"`, `"elu_plus_one"`,
            `"negative_exp"`, `"clip"`, or one that was registered.
        correlation: correlation between units that `icnn` aims at where there is no passthrough.
        k: sum of a unit's positive weights.
        tau: share of the variance that the passthrough brings.
        input_square: mean square of the inputs; 1 where they are standardized.
        dtype: type of the arrays; JAX's default float if left out.
        key: a JAX random key.

    Raises:
        SchemeError: the activation is not convex and non-decreasing, or an argument of `icnn` is out of range.
        InitaxError: no positivity map has that name.
        ModelError: a size is not positive, or an argument is one of klax's and not of ours.

    Examples:
        >>> import initax as ix, jax, jax.numpy as jnp
        >>> model = ix.convex.FICNN(3, "scalar", [16, 16], key=jax.random.key(0))
        >>> model(jnp.ones(3)).shape, jax.vmap(model)(jnp.ones((5, 3))).shape
        ((), (5,))

    References:
        Amos et al. 2017, "Input Convex Neural Networks", arXiv 1609.07152, eq. 2.
    """

    layers: tuple[ConvexLinear, ...]
    activation: Callable[[Any], Any] = eqx.field(static=True)
    final_activation: Callable[[Any], Any] | None = eqx.field(static=True)
    in_size: Size = eqx.field(static=True)
    out_size: Size = eqx.field(static=True)
    width_sizes: tuple[int, ...] = eqx.field(static=True)
    use_passthrough: bool = eqx.field(static=True)
    non_decreasing: bool = eqx.field(static=True)

    @built(fully_convex, EQUINOX)
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
        key: Any,
    ) -> None: ...

    def pre_activations(self, x: Any) -> tuple[jax.Array, ...]:
        """Return what every layer gives before its activation, the last one's included.

        Args:
            x: the input, of shape (in_size,).
        """
        return pre_activations(self, _vector(x, self.in_size, "the input"))

    def __call__(self, x: Any) -> jax.Array:
        """Return the output, of shape (out_size,), convex in the input.

        Args:
            x: the input, of shape (in_size,); for a batch use `jax.vmap`.
        """
        return output_of(self, self.pre_activations(x)[-1], self.final_activation)


class PICNN(eqx.Module):
    """A partially input-convex network: convex in one input, anything in the other, initialized so that it trains.

    The context runs through an ordinary network beside the convex one. Each of its layers opens and closes, by factors
    that are positive on the convex path, what the convex layer sees, and adds to it. The gates start open, so that the
    network begins as a fully convex one of its input with the context as a second, unconstrained passthrough.

    Args:
        in_size: size of the input in which the output is convex, or `"scalar"`.
        context_size: size of the other input, or `"scalar"`.
        out_size: size of the output, or `"scalar"`.
        width_sizes: sizes of the hidden layers of the convex path.
        context_width_sizes: sizes of the context's layers, one per hidden layer; `width_sizes` if left out.
        non_decreasing: outputs rise with every convex input.
        activation: a convex, non-decreasing function, or its name.
        context_activation: the activation of the context's layers, any function or its name.
        positivity: how weights are kept positive, as in `FICNN`.
        k: sum of a unit's positive weights.
        tau: share of the variance that input and context bring together.
        input_square: mean square of the inputs.
        dtype: type of the arrays; JAX's default float if left out.
        key: a JAX random key.

    Raises:
        SchemeError: the activation is not convex and non-decreasing, or an argument of `icnn` is out of range.
        InitaxError: no positivity map has that name.
        ModelError: a size is not positive, the two paths are not of the same length, or an argument is one of klax's
            and not of ours.

    Examples:
        >>> import initax as ix, jax, jax.numpy as jnp
        >>> model = ix.convex.PICNN(3, 2, "scalar", [16, 16], key=jax.random.key(0))
        >>> model(jnp.ones(3), jnp.ones(2)).shape
        ()

    References:
        Amos et al. 2017, "Input Convex Neural Networks", arXiv 1609.07152, eq. 3.
    """

    layers: tuple[ConvexLinear, ...]
    gates: tuple[eqx.nn.Linear, ...]
    input_gates: tuple[eqx.nn.Linear, ...]
    context_layers: tuple[eqx.nn.Linear, ...]
    activation: Callable[[Any], Any] = eqx.field(static=True)
    context_activation: Callable[[Any], Any] = eqx.field(static=True)
    in_size: Size = eqx.field(static=True)
    context_size: Size = eqx.field(static=True)
    out_size: Size = eqx.field(static=True)

    @built(partially_convex, EQUINOX)
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
        key: Any,
    ) -> None: ...

    def __call__(self, x: Any, u: Any) -> jax.Array:
        """Return the output, of shape (out_size,), convex in `x`.

        Args:
            x: the convex input, of shape (in_size,); for a batch use `jax.vmap`.
            u: the context, of shape (context_size,).
        """
        row = _vector(x, self.in_size, "the convex input")
        return partial_output(self, row, _vector(u, self.context_size, "the context"))
