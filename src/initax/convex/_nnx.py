"""Input-convex networks as Flax NNX modules: the same networks as those of Equinox, under the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from initax._errors import ModelError, message
from initax._math._activation_moments import Activation, as_function
from initax._math._keys import parameter_key
from initax._math._positivity import positivity as positivity_of
from initax._model._parameter import declare
from initax._verbs._reinit import draw
from initax.convex._klax_names import answers_klax
from initax.convex._network import (
    GATE,
    Shape,
    Size,
    context_path,
    contexts_of,
    declaration,
    initial,
    number_of,
    shapes,
    warn_if_too_deep,
)
from initax.schemes._icnn import icnn
from initax.schemes._scheme import Scheme


def _key(rngs: Any) -> Any:
    """The key of the stream `params`, or a JAX key as it is."""
    return rngs.params() if isinstance(rngs, nnx.Rngs) else rngs


class ConvexLinear(nnx.Module):
    """`z map(weight) + x passthrough + u context + bias`, convex in `z` and `x` together; weights are (in, out)."""

    def __init__(
        self, shape: Shape, scheme: Scheme, *, path: str, positivity: str, non_decreasing: bool, key: Any, dtype: Any
    ) -> None:
        arrays = initial(
            shape,
            scheme,
            path=path,
            mapping=positivity_of(positivity),
            non_decreasing=non_decreasing,
            key=key,
            dtype=dtype,
            pattern="i o",
        )
        self.weight = nnx.Param(arrays["weight"]) if "weight" in arrays else None
        self.passthrough = nnx.Param(arrays["passthrough"]) if "passthrough" in arrays else None
        self.context = nnx.Param(arrays["context"]) if "context" in arrays else None
        self.bias = nnx.Param(arrays["bias"])
        self.positivity = positivity
        self.non_decreasing = non_decreasing

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


declare(ConvexLinear, declaration("i o"))


def _rows(x: Any, size: Size, what: str) -> Any:
    x = jnp.asarray(x)
    if size == "scalar":
        return x[..., None]
    if x.ndim < 1 or x.shape[-1] != size:
        raise ModelError(message(f"{what} has shape {x.shape}, and the network takes (..., {size})."))
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
        final_activation: likewise, applied to the output.
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

    @answers_klax
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
    ) -> None:
        key = _key(rngs)
        scheme = icnn(activation, correlation, k=k, tau=tau, input_square=input_square)
        if final_activation is not None:
            icnn(final_activation)  # the same check: convex and non-decreasing
        each = shapes(in_size, out_size, width_sizes, use_passthrough=use_passthrough)
        warn_if_too_deep(len(each), use_passthrough=use_passthrough)
        self.layers = nnx.List(
            ConvexLinear(
                shape,
                scheme,
                path=f"layers.{place}",
                positivity=positivity,
                non_decreasing=non_decreasing,
                key=key,
                dtype=dtype,
            )
            for place, shape in enumerate(each)
        )
        self.activation: Callable[[Any], Any] = as_function(activation)
        self.final_activation = None if final_activation is None else as_function(final_activation)
        self.in_size, self.out_size = in_size, out_size
        self.use_passthrough, self.non_decreasing = use_passthrough, non_decreasing

    def pre_activations(self, x: Any) -> tuple[Any, ...]:
        """Return what every layer gives before its activation, the last one's included.

        Args:
            x: the input, of shape (..., in_size).
        """
        rows = _rows(x, self.in_size, "the input")
        found = [self.layers[0](None, rows)]
        for layer in list(self.layers)[1:]:
            found.append(layer(self.activation(found[-1]), rows))
        return tuple(found)

    def __call__(self, x: Any) -> Any:
        """Return the output, of shape (..., out_size), convex in the input.

        Args:
            x: the input, of shape (..., in_size).
        """
        found = self.pre_activations(x)[-1]
        found = found if self.final_activation is None else self.final_activation(found)
        return found[..., 0] if self.out_size == "scalar" else found

    def with_arrays(self, arrays: Mapping[str, Any]) -> FICNN:
        """Return a copy with other arrays at these paths, `layers.0.weight`.

        Args:
            arrays: path → array.
        """
        copy = nnx.clone(self)
        for path, array in arrays.items():
            _, place, name = path.split(".")
            variable: Any = getattr(copy.layers[int(place)], name)
            variable[...] = array
        return copy


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

    @answers_klax
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
    ) -> None:
        key = _key(rngs)
        contexts = contexts_of(context_size, width_sizes, context_width_sizes)
        each = shapes(in_size, out_size, width_sizes, use_passthrough=True, contexts=contexts)
        scheme = icnn(activation, k=k, tau=tau, input_square=input_square)
        self.layers = nnx.List(
            ConvexLinear(
                shape,
                scheme,
                path=f"layers.{place}",
                positivity=positivity,
                non_decreasing=non_decreasing,
                key=key,
                dtype=dtype,
            )
            for place, shape in enumerate(each)
        )
        self.activation: Callable[[Any], Any] = as_function(activation)
        self.context_activation: Callable[[Any], Any] = as_function(context_activation)

        def linear(path: str, inputs: int, outputs: int, scheme: Any) -> Any:
            made: Any = nnx.Linear(inputs, outputs, param_dtype=dtype or jnp.result_type(float), rngs=nnx.Rngs(0))
            kernel, bias = (parameter_key(key, f"{path}.{name}") for name in ("kernel", "bias"))
            made.kernel[...] = draw(scheme, kernel, (inputs, outputs), dtype)
            made.bias[...] = draw(scheme, bias, (outputs,), dtype, role="bias")
            return made

        hidden = [(place, shape.hidden) for place, shape in enumerate(each) if shape.hidden]
        self.gates = nnx.List(linear(f"gates.{place - 1}", contexts[place], size, GATE) for place, size in hidden)
        self.input_gates = nnx.List(
            linear(f"input_gates.{place}", context, number_of(in_size), GATE) for place, context in enumerate(contexts)
        )
        self.context_layers = nnx.List(
            linear(f"context_layers.{place}", *row)
            for place, row in enumerate(context_path(contexts, self.context_activation))
        )
        self.in_size, self.context_size, self.out_size = in_size, context_size, out_size

    def __call__(self, x: Any, u: Any) -> Any:
        """Return the output, of shape (..., out_size), convex in `x`.

        Args:
            x: the convex input, of shape (..., in_size).
            u: the context, of shape (..., context_size).
        """
        rows = _rows(x, self.in_size, "the convex input")
        context = _rows(u, self.context_size, "the context")
        units: Any = None
        for place, layer in enumerate(self.layers):
            if place:
                context = self.context_activation(self.context_layers[place - 1](context))
                units = self.activation(units) * jax.nn.relu(self.gates[place - 1](context))
            gate = self.input_gates[place](context)
            units = layer(units, rows * (jax.nn.relu(gate) if layer.non_decreasing else gate), context)
        return units[..., 0] if self.out_size == "scalar" else units
