"""Input-convex networks without a framework: sizes, rules for the first draw, and the forward pass."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal, TypeVar, cast

import jax
import jax.numpy as jnp

from initax._errors import ModelError, SchemeError, warn
from initax._math._gaussian import as_function, gain
from initax._model._constraint import Constraint, behind
from initax._model._declared import Declaration, bias, row, weight
from initax._verbs._reinit import reinit
from initax.convex._arguments import checked_arguments
from initax.schemes._icnn import icnn

Size = int | Literal["scalar"]
Given = SimpleNamespace
"""The arguments of a network by name; the `__init__` of `FICNN` and `PICNN` say their types and what they are."""

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


Shape = tuple[Mapping[str, int], int]
"""Inputs of each weight of a layer, zero where it has no such weight, and the units of the layer."""


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
        (dict(zip(WEIGHTS, (hidden, inputs if use_passthrough or hidden == 0 else 0, context), strict=True)), units)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """How a framework makes the modules of a network, with abstract arrays.

    Attributes:
        pattern: axes of a weight in the stored layout.
        layer: function from the arrays of a convex layer by name, and its settings, to the layer.
        linear: function from inputs, outputs and the type of the arrays to an ordinary linear layer.
        listed: what holds the modules under one attribute.
    """

    pattern: str
    layer: Callable[..., Any]
    linear: Callable[[int, int, Any], Any]
    listed: Callable[[Any], Any]

    def convex_layer(self, shape: Shape, given: Given) -> Any:
        """Return a convex layer of these sizes, with `None` where it has no such weight."""
        dtype = jax.dtypes.canonicalize_dtype(jnp.result_type(float) if given.dtype is None else given.dtype)
        inputs_of, outputs = shape
        arrays: dict[str, Any] = dict.fromkeys(inputs_of)
        for name, inputs in inputs_of.items():
            if inputs:
                sizes = {"i": inputs, "o": outputs}
                arrays[name] = jax.ShapeDtypeStruct(tuple(sizes[axis] for axis in self.pattern.split()), dtype)
        arrays["bias"] = jax.ShapeDtypeStruct((outputs,), dtype)
        return self.layer(**arrays, positivity=given.positivity, non_decreasing=given.non_decreasing)


def drawn_modules(
    framework: Framework,
    given: Given,
    key: Any,
    layers: Sequence[Shape],
    rules: Mapping[str, Any],
    linears: Mapping[str, Sequence[tuple[int, int]]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the modules of a network by attribute, drawn by rules.

    Args:
        framework: what makes them.
        given: the arguments of the network, of which the layers' settings and type count.
        key: a JAX random key, or a framework's source of keys.
        layers: sizes of the convex layers.
        rules: selector → scheme, for a mapping from attributes to modules.
        linears: attribute → inputs and outputs of each of the ordinary linear layers under it.

    Raises:
        SchemeError: a scheme can't serve an array; the message names no rule, as the user wrote none.
    """
    modules = {"layers": [framework.convex_layer(shape, given) for shape in layers]}
    modules |= {name: [framework.linear(*sizes, given.dtype) for sizes in linears[name]] for name in linears}
    try:
        drawn = reinit(modules, rules, key)
    except SchemeError as error:
        raise SchemeError(re.sub('^rule ".*?": ', "", str(error))) from error
    return {name: framework.listed(alike) for name, alike in drawn.items()}


Init = TypeVar("Init", bound=Callable[..., None])


def built(describe: Callable[[Framework, Given, Any], dict[str, Any]], framework: Framework) -> Callable[[Init], Init]:
    """Return a decorator that makes the `__init__` of a network from its signature.

    Args:
        describe: function from the framework, the arguments and the key to the attributes of the network.
        framework: what makes its modules.
    """

    def decorate(declared: Init) -> Init:
        signature = inspect.signature(declared)

        @functools.wraps(declared)
        def init(self: Any, /, *args: Any, **kwargs: Any) -> None:
            *arguments, (_, key) = checked_arguments(type(self), signature, args, kwargs).items()
            for name, value in describe(framework, Given(**dict(arguments)), key).items():
                setattr(self, name, value)

        return cast("Init", init)

    return decorate


def fully_convex(framework: Framework, given: Given, key: Any) -> dict[str, Any]:
    """Return the attributes of a fully convex network; the arguments given are those of `ix.convex.FICNN`.

    Raises:
        SchemeError: an activation is not convex and non-decreasing, or an argument of `icnn` is out of range.
        ModelError: a size is not positive.
    """
    scheme = icnn(given.activation, given.correlation, k=given.k, tau=given.tau, input_square=given.input_square)
    if given.final_activation is not None:
        icnn(given.final_activation)  # the same check: convex and non-decreasing
    layers = shapes(given.in_size, given.out_size, given.width_sizes, use_passthrough=given.use_passthrough)
    warn_if_too_deep(len(layers), use_passthrough=given.use_passthrough)
    return {
        **drawn_modules(framework, given, key, layers, {"*": scheme}),
        "activation": as_function(given.activation),
        "final_activation": None if given.final_activation is None else as_function(given.final_activation),
        "width_sizes": tuple(given.width_sizes),
        **{name: getattr(given, name) for name in ("in_size", "out_size", "use_passthrough", "non_decreasing")},
    }


def partially_convex(framework: Framework, given: Given, key: Any) -> dict[str, Any]:
    """Return the attributes of a partially convex network; the arguments given are those of `ix.convex.PICNN`.

    Its context path keeps the mean square of its units.

    Raises:
        SchemeError: the activation is not convex and non-decreasing, or an argument of `icnn` is out of range.
        ModelError: a size is not positive, or the two paths are not of the same length.
    """
    scheme = icnn(given.activation, k=given.k, tau=given.tau, input_square=given.input_square)
    widths, in_size = given.width_sizes, given.in_size
    context_widths = tuple(widths if given.context_width_sizes is None else given.context_width_sizes)
    if len(context_widths) != len(widths):
        raise ModelError(
            f"the context path has {len(context_widths)} layers, the convex path {len(widths)}.",
            f"context_width_sizes={list(context_widths)}, width_sizes={list(widths)}",
            "give one size of the context for every hidden layer",
        )
    contexts = (number_of(given.context_size), *context_widths)
    layers = shapes(in_size, given.out_size, widths, use_passthrough=True, contexts=contexts)
    linears = {
        "gates": list(zip(context_widths, widths, strict=True)),
        "input_gates": [(context, number_of(in_size)) for context in contexts],
        "context_layers": list(itertools.pairwise(contexts)),
    }
    rules: dict[str, Any] = {"*": GATE, "layers.*": scheme}
    if context_widths:
        scale = gain(as_function(given.context_activation)) ** 2
        rules["context_layers.*"] = ("variance_scaling", {"scale": scale, "distribution": "normal"})
    return {
        **drawn_modules(framework, given, key, layers, rules, linears),
        "activation": as_function(given.activation),
        "context_activation": as_function(given.context_activation),
        **{name: getattr(given, name) for name in ("in_size", "context_size", "out_size")},
    }


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
