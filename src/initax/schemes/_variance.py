"""Variance scaling: the standard deviation follows from the fans (LeCun, Glorot, He), and PyTorch's uniform."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from initax._model._parameter import Layer, Parameter
from initax.schemes._distributions import (
    ComplexTruncatedNormalKernel,
    Constant,
    DiskKernel,
    NormalKernel,
    TruncatedNormalKernel,
    UniformKernel,
)
from initax.schemes._initializer import (
    Initializer,
    Kernel,
    Recipe,
    fans_of,
    is_complex,
    positive_fan,
    real_dtype,
    without_inputs,
)

MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
DISTRIBUTIONS = ("truncated_normal", "normal", "uniform")

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut at two, as `jax.nn.initializers` rounds it."""

COMPLEX_TRUNCATED_STD = math.sqrt((1 - 5 * math.exp(-4)) / (1 - math.exp(-4)))
"""Root mean square modulus of a circular complex normal whose modulus is cut at two. JAX leaves out the normalization
`1 - exp(-4)`, which makes its complex draws 0.93 % too wide in standard deviation, 1.87 % in variance."""


@dataclass(frozen=True, slots=True)
class VarianceScaling(Initializer):
    """Zero mean and variance `scale / n`, with `n` a fan or an average of the fans."""

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    fans: str = "nominal"

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        fan_in, fan_out = fans_of(self.name, parameter, self.fans)
        divisor = {
            "fan_in": fan_in,
            "fan_out": fan_out,
            "fan_avg": (fan_in + fan_out) / 2,
            "fan_geo_avg": (fan_in * fan_out) ** 0.5,
        }[self.mode]
        variance = self.scale / positive_fan(self.name, parameter, self.mode, divisor)
        return of_variance(self.distribution, variance, parameter.dtype)


@functools.lru_cache(maxsize=4096)
def of_variance(distribution: str, variance: float, dtype: Any) -> Recipe:
    """Return the recipe of a distribution with zero mean and a given variance."""
    std = math.sqrt(variance)
    if is_complex(dtype):
        drawn: dict[str, tuple[Kernel, float]] = {
            "truncated_normal": (ComplexTruncatedNormalKernel(), std / COMPLEX_TRUNCATED_STD),
            "normal": (NormalKernel(), std),
            "uniform": (DiskKernel(), std),
        }
    else:
        # JAX rounds the variance to the parameter's type before it takes the root; so do we, for equal bits.
        real = real_dtype(dtype).type
        rounded = real(variance)
        drawn = {
            "truncated_normal": (TruncatedNormalKernel(), float(np.sqrt(rounded) / real(TRUNCATED_STD))),
            "normal": (NormalKernel(), float(np.sqrt(rounded))),
            "uniform": (UniformKernel(), float(np.sqrt(real(3) * rounded))),
        }
    kernel, number = drawn[distribution]
    return Recipe(kernel, (number,), std)


@dataclass(frozen=True, slots=True)
class Auto(Initializer):
    """Variance `1 / (n m)` with `n` the effective fan_in and `m` the mean square of what reaches the weight.

    Where a share of the variance is left to the layer's bias, the weight has the rest. A look-up in an embedding sums
    over one row; one that a signal reaches, as an output layer, sums over its features.
    """

    distribution: str = "truncated_normal"
    bias_share: float = 0.0
    needs_reach: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        is_output = parameter.role == "embedding" and parameter.reach is not None
        fan_in, _ = fans_of(self.name, parameter, "nominal" if is_output else "effective")
        reach = 1.0 if parameter.reach is None else parameter.reach
        has_bias = parameter.role != "embedding" and any(each.role == "bias" for each in layer.parameters)
        share = 1 - self.bias_share if has_bias else 1.0
        variance = share / (positive_fan(self.name, parameter, "fan_in", fan_in) * reach)
        return of_variance(self.distribution, variance, parameter.dtype)


@dataclass(frozen=True, slots=True)
class UniformFanIn(Initializer):
    """Uniform between plus and minus `1 / sqrt(fan_in)`, for weights and biases alike.

    `fan` restates the fan where a framework uses another one: PyTorch and Equinox use the hidden size for every array
    of a recurrent cell.
    """

    fans: str = "nominal"
    fan: float | None = None
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if self.fan is None and without_inputs(parameter, self.fans):
            return Constant("zeros", ()).recipe(parameter, layer)
        fan = self.fan if self.fan is not None else fans_of(self.name, parameter, self.fans)[0]
        bound = 1 / math.sqrt(positive_fan(self.name, parameter, "fan_in", fan))
        std = bound / math.sqrt(3) * (math.sqrt(2) if is_complex(parameter.dtype) else 1.0)
        return Recipe(UniformKernel(), (bound,), std)


@dataclass(frozen=True, slots=True)
class TorchUniform(Initializer):
    """PyTorch's default for weights and biases: uniform by fan_in, by the hidden size in a recurrent cell."""

    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if layer.kind == "Norm":
            return Constant("zeros", ()).recipe(parameter, layer)
        hidden = next((each.fan_in for each in layer.parameters if each.role == "recurrent"), None)
        return UniformFanIn(self.name, (), fan=hidden).recipe(parameter, layer)


@dataclass(frozen=True, slots=True)
class ScaleDefault(Initializer):
    """What a framework gives a norm's scale (one) and the slope of a PReLU."""

    slope: float = 0.25

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        value = self.slope if layer.kind == "PReLU" else 1.0
        return Constant("constant", (), value).recipe(parameter, layer)
