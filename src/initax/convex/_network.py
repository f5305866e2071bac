"""Input-convex networks without a framework: sizes, rules for the first draw, and the forward pass."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from initax._errors import ModelError, SchemeError, warn
from initax._math._gaussian import Activation, as_function, gain
from initax._model._constraint import Constraint, behind
from initax._model._parameter import Declaration, bias, row, weight
from initax._verbs._reinit import reinit
from initax.schemes._icnn import icnn
from initax.schemes._scheme import Scheme

Size = int | Literal["scalar"]

KIND = "ConvexLinear"
"""Kind of a layer that sums functions of the layer before, of the network's input and of a context."""
WEIGHTS = ("weight", "passthrough", "context")
DEEP = 10
"""Largest number of layers of a network without passthrough that can be trained; a deeper one forgets its input."""
GATE = ("zeros", ("constant", {"value": 1.0}))
"""Scheme of a gate: open for every context, until training changes it."""


def number_of(size: Size) -> int:
    """Return a size as a number, one for a scalar."""
    return 1 if size == "scalar" else size


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of one layer; zero where it has no such weight.

    Attributes:
        hidden: units of the layer before.
        inputs: inputs of the network that the layer sees.
        context: context that the layer sees.
        outputs: units of the layer.
    """

    hidden: int
    inputs: int
    context: int = 0
    outputs: int

    def sizes(self) -> dict[str, int]:
        """Return the inputs of each weight there is."""
        sizes = zip(WEIGHTS, (self.hidden, self.inputs, self.context), strict=True)
        return {name: size for name, size in sizes if size}


def declaration(pattern: str) -> Declaration:
    """Return the row of a layer in the table of layers.

    Args:
        pattern: axes of a weight in the stored layout.
    """

    def of_passthrough(module: Any) -> Constraint | None:
        return behind(module.positivity) if module.non_decreasing else None

    declared = row(
        KIND,
        weight=weight(pattern, constraint=lambda module: behind(module.positivity)),
        passthrough=weight(pattern, constraint=of_passthrough),
        context=weight(pattern),
        bias=bias("o", "weight"),
    )
    return replace(declared, static=True)


def shapes(
    in_size: Size,
    out_size: Size,
    width_sizes: Sequence[int],
    *,
    use_passthrough: bool,
    contexts: Sequence[int] | None = None,
) -> tuple[Shape, ...]:
    """Return the sizes of the layers of a network, from the first to the last.

    Args:
        in_size: size of the convex input.
        out_size: size of the output.
        width_sizes: sizes of the hidden layers.
        use_passthrough: every layer sees the input, not the first alone.
        contexts: size of the context that each layer sees.

    Raises:
        ModelError: a size is not positive.
    """
    inputs, outputs = number_of(in_size), (*width_sizes, number_of(out_size))
    if min(*outputs, inputs) < 1:
        sizes = f"in_size={in_size!r}, out_size={out_size!r}, width_sizes={list(width_sizes)}"
        raise ModelError(f"every size of a convex network must be positive: {sizes}.")
    sides = zip((0, *width_sizes), contexts or (0,) * len(outputs), outputs, strict=True)
    return tuple(
        Shape(hidden=hidden, inputs=inputs if use_passthrough or hidden == 0 else 0, context=context, outputs=units)
        for hidden, context, units in sides
    )


def warn_if_too_deep(layers: int, *, use_passthrough: bool) -> None:
    """Warn where a network without passthrough is too deep to be trained."""
    if use_passthrough or layers <= DEEP:
        return
    warn(
        f"an input-convex network of {layers} layers without passthrough forgets its input.",
        "with positive weights alone its units agree ever more, and no initialization has trained it at 20 layers",
        "use_passthrough=True shows every layer the input, and trains at any depth",
        "or put a normalization between the layers",
    )


def arrays_of(shape: Shape, pattern: str, dtype: Any) -> dict[str, Any]:
    """Return the abstract arrays of one layer by name, `None` where it has no such weight.

    Args:
        shape: sizes of the layer.
        pattern: axes of a weight in the stored layout.
        dtype: type of the arrays; JAX's default float if `None`.
    """
    dtype = jax.dtypes.canonicalize_dtype(jnp.result_type(float) if dtype is None else dtype)
    arrays: dict[str, Any] = dict.fromkeys(WEIGHTS)
    for name, inputs in shape.sizes().items():
        sizes = {"i": inputs, "o": shape.outputs}
        arrays[name] = jax.ShapeDtypeStruct(tuple(sizes[axis] for axis in pattern.split()), dtype)
    return arrays | {"bias": jax.ShapeDtypeStruct((shape.outputs,), dtype)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The modules of a network, the rules that draw them, and what else it holds.

    Attributes:
        layers: sizes of the convex layers.
        linears: attribute → inputs and outputs of each of the ordinary linear layers under it.
        rules: selector → scheme, for a mapping from attributes to modules.
        settings: attribute → sizes and functions of the network.
    """

    layers: tuple[Shape, ...]
    linears: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    rules: dict[str, Any]
    settings: dict[str, Any]

    def drawn(self, layer: Callable[[Shape], Any], linear: Callable[[int, int], Any], key: Any) -> dict[str, Any]:
        """Return the modules, attribute by attribute, drawn by the rules.

        Args:
            layer: makes an abstract convex layer.
            linear: makes an abstract linear layer.
            key: a JAX random key.

        Raises:
            SchemeError: a scheme can't serve an array; the message names no rule, as the user wrote none.
        """
        modules: dict[str, Any] = {"layers": tuple(map(layer, self.layers))}
        modules |= {name: tuple(linear(*sizes) for sizes in layers) for name, layers in self.linears.items()}
        try:
            return reinit(modules, self.rules, key)
        except SchemeError as error:
            raise SchemeError(re.sub('^rule ".*?": ', "", str(error))) from error


def fully_convex(
    in_size: Size,
    out_size: Size,
    width_sizes: Sequence[int],
    scheme: Scheme,
    activation: Activation,
    final_activation: Activation | None,
    *,
    use_passthrough: bool,
) -> Network:
    """Return a fully convex network; the arguments are those of `ix.convex.FICNN`, and the scheme of its layers.

    Raises:
        SchemeError: `final_activation` is not convex and non-decreasing.
        ModelError: a size is not positive.
    """
    if final_activation is not None:
        icnn(final_activation)  # the same check: convex and non-decreasing
    layers = shapes(in_size, out_size, width_sizes, use_passthrough=use_passthrough)
    warn_if_too_deep(len(layers), use_passthrough=use_passthrough)
    settings = {
        "activation": as_function(activation),
        "final_activation": None if final_activation is None else as_function(final_activation),
        "in_size": in_size,
        "out_size": out_size,
        "use_passthrough": use_passthrough,
    }
    return Network(layers=layers, rules={"*": scheme}, settings=settings)


def partially_convex(
    in_size: Size,
    context_size: Size,
    out_size: Size,
    width_sizes: Sequence[int],
    context_width_sizes: Sequence[int] | None,
    scheme: Scheme,
    activation: Activation,
    context_activation: Activation,
) -> Network:
    """Return a partially convex network, whose context path keeps the mean square of its units.

    The arguments are those of `ix.convex.PICNN`, and the scheme of its convex layers.

    Raises:
        ModelError: a size is not positive, or the two paths are not of the same length.
    """
    context_sizes = tuple(context_width_sizes if context_width_sizes is not None else width_sizes)
    if len(context_sizes) != len(width_sizes):
        raise ModelError(
            f"the context path has {len(context_sizes)} layers, the convex path {len(width_sizes)}.",
            f"context_width_sizes={list(context_sizes)}, width_sizes={list(width_sizes)}",
            "give one size of the context for every hidden layer",
        )
    contexts = (number_of(context_size), *context_sizes)
    layers = shapes(in_size, out_size, width_sizes, use_passthrough=True, contexts=contexts)
    linears = {
        "gates": list(zip(context_sizes, width_sizes, strict=True)),
        "input_gates": [(context, number_of(in_size)) for context in contexts],
        "context_layers": list(itertools.pairwise(contexts)),
    }
    rules: dict[str, Any] = {"*": GATE, "layers.*": scheme}
    if context_sizes:
        scale = gain(as_function(context_activation)) ** 2
        rules["context_layers.*"] = ("variance_scaling", {"scale": scale, "distribution": "normal"})
    settings = {
        "activation": as_function(activation),
        "context_activation": as_function(context_activation),
        "in_size": in_size,
        "context_size": context_size,
        "out_size": out_size,
    }
    return Network(layers=layers, linears=linears, rules=rules, settings=settings)


def pre_activations(network: Any, x: Any) -> tuple[Any, ...]:
    """Return the pre-activations of every layer of a fully convex network for an input of shape (..., inputs)."""
    units: list[Any] = []
    for layer in network.layers:
        units.append(layer(network.activation(units[-1]) if units else None, x))
    return tuple(units)


def output_of(network: Any, units: Any, final_activation: Callable[[Any], Any] | None = None) -> Any:
    """Return the output of a network, given the pre-activations of its last layer."""
    units = units if final_activation is None else final_activation(units)
    return units[..., 0] if network.out_size == "scalar" else units


def partial_output(network: Any, x: Any, context: Any) -> Any:
    """Return the output of a partially convex network for inputs of shape (..., inputs) and (..., context)."""
    units: Any = None
    for index, layer in enumerate(network.layers):
        if index:
            context = network.context_activation(network.context_layers[index - 1](context))
            units = network.activation(units) * jax.nn.relu(network.gates[index - 1](context))
        gate = network.input_gates[index](context)
        units = layer(units, x * (jax.nn.relu(gate) if layer.non_decreasing else gate), context)
    return output_of(network, units)
