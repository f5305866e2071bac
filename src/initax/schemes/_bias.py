"""Initializers for biases: log-odds of a prior, and the forget gate of an LSTM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from initax._errors import SchemeError, listing, message
from initax._math._axes import Axes
from initax._model._parameter import Layer, Parameter
from initax.schemes._distributions import Constant, filled
from initax.schemes._initializer import Initializer, Kernel, Recipe, known_axes, where


@dataclass(frozen=True, slots=True)
class Prior(Initializer):
    """What makes an output start at `p`: log-odds before a sigmoid, logarithms before a softmax."""

    p: float | tuple[float, ...] = 0.01
    link: str = "sigmoid"
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if isinstance(self.p, float):
            return Constant("constant", (), self._bias(self.p)).recipe(parameter, layer)
        return filled(self.name, tuple(map(self._bias, self.p)), parameter)

    def _bias(self, p: float) -> float:
        return math.log(p) if self.link == "softmax" else math.log(p / (1 - p))


@dataclass(frozen=True, slots=True)
class GateKernel(Kernel):
    """Zero but for one entry along the gate axis."""

    axes: Axes
    gate: int
    elementwise: ClassVar[bool] = False
    random: ClassVar[bool] = False

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        axis = self.axes.names.index("gate")
        at_gate = (slice(None),) * axis + (self.gate,)
        split = jnp.zeros(self.axes.split, dtype).at[at_gate].set(jnp.asarray(numbers[0]).astype(dtype))
        return jnp.reshape(split, shape)


@dataclass(frozen=True, slots=True)
class ForgetGate(Initializer):
    """`value` for the forget gate, zero for the others."""

    value: float = 1.0
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        known = tuple(dict.fromkeys(gate for each in layer.parameters for gate in each.gates))
        if "forget" not in known or not parameter.gates:
            gates = f"its gates: {listing(known)}" if known else "it has no gates"
            raise SchemeError(
                message(
                    f"forget_gate needs a forget gate; {where(parameter)} of {layer.cls.__name__} has none.",
                    gates,
                    'select the LSTM cells alone: {"LSTMCell": ...}',
                )
            )
        if len(parameter.gates) == 1:  # the gates stand in arrays of their own
            value = self.value if parameter.gates == ("forget",) else 0.0
            return Constant("constant", (), value).recipe(parameter, layer)
        kernel = GateKernel(known_axes(self.name, parameter), parameter.gates.index("forget"))
        return Recipe(kernel, (self.value,), 0.0)
