"""Log-normal weights and a negative bias for input-convex networks (Hoedt & Klambauer 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from initax._errors import SchemeError
from initax._math._positive_moments import PositiveMoments
from initax._model._parameter import Layer, Parameter
from initax.schemes._constant import ZEROS, Constant
from initax.schemes._distributions import Normal
from initax.schemes._initializer import (
    FanKind,
    Initializer,
    Kernel,
    Recipe,
    fans_of,
    number,
    positive_fan,
    refuse_complex,
    where,
    without_inputs,
)
from initax.schemes._kernels import scaled_normal
from initax.schemes._named import Check, Number, Positive, Share, scheme
from initax.schemes._scheme import Parts, weights_only


@dataclass(frozen=True, slots=True)
class LogNormalKernel(Kernel):
    """The exponential of a normal with mean `numbers[0]` and standard deviation `numbers[1]`."""

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        return jnp.exp(numbers[0] + scaled_normal(key, numbers[1], shape, dtype))

    def mean(self, numbers: tuple[float, ...]) -> float:
        """Return the mean of the exponential."""
        return math.exp(numbers[0] + numbers[1] ** 2 / 2)

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return zero, which no entry quite is."""
        return 0.0

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """Return the normal's tail beyond the bound's logarithm."""
        if numbers[1] == 0:
            return float(numbers[0] >= math.log(bound))
        return math.erfc((math.log(bound) - numbers[0]) / (numbers[1] * math.sqrt(2))) / 2


def hoedt_constants(
    fan_in: float, variance: float = 1.0, correlation: float = 0.5, alpha: float = 0.0, bias_noise: float = 0.0
) -> PositiveMoments:
    """Return the moments that keep mean, variance and correlation through one positive-weight ReLU layer.

    Args:
        fan_in: inputs of one output.
        variance: target variance of the pre-activations.
        correlation: target correlation between them.
        alpha: slope of a leaky ReLU; as in the authors' code it rescales the weight variance only.
        bias_noise: share of the variance given to a random bias.

    Examples:
        >>> constants = hoedt_constants(64)
        >>> round(constants.log_std, 4), round(constants.bias_mean, 4)
        (1.7307, -0.7323)

    References:
        Hoedt & Klambauer 2023, "Principled Weight Initialisation for Input-Convex Neural Networks", NeurIPS,
        arXiv 2312.12474; the bias has the sign of the authors' code.
    """
    mix = math.sqrt(1 - correlation**2) + correlation * math.acos(-correlation)
    shared = fan_in * (math.pi - fan_in + (fan_in - 1) * mix) / (2 * math.pi)
    mean = math.sqrt(correlation / shared)
    return PositiveMoments(
        weight_mean=mean,
        weight_var=2 * (1 - correlation) / fan_in / (1 + alpha**2) * (1 - bias_noise),
        bias_mean=-fan_in * mean * math.sqrt(variance / (2 * math.pi)),
        bias_std=math.sqrt(bias_noise * (1 - correlation) * variance),
    )


def refuse_without_bias(scheme: str, parameter: Parameter, layer: Layer, moments: PositiveMoments) -> None:
    """Raise where no bias stands beside positive weights, whose mean it has to take off.

    Raises:
        SchemeError: the layer has none; a single array, drawn by `ix.draw`, needs none.
    """
    if layer.cls is not type(None) and not any(array.role == "bias" for array in layer.parameters):
        raise SchemeError(
            f"{scheme} needs a bias beside {where(parameter)} of {layer.cls.__name__}, and there is none.",
            f"positive weights shift the mean by {-moments.bias_mean:+.4g}; a bias has to take that off",
            f'build the layer with one, or say that another layer holds it: ("{scheme}", {{"bias": "elsewhere"}})',
        )


def bias_of(moments: PositiveMoments) -> Initializer:
    """Return what draws the bias beside positive weights."""
    return Normal(moments.bias_std, moments.bias_mean) if moments.bias_std else Constant(moments.bias_mean)


@dataclass(frozen=True, slots=True)
class _Hoedt(Initializer):
    variance: float = 1.0
    correlation: float = 0.5
    alpha: float = 0.0
    bias_noise: float = 0.0
    fans: str = "nominal"
    bias: str = "own"

    def _constants(self, parameter: Parameter) -> PositiveMoments:
        refuse_complex("hoedt", parameter, "input-convex networks have real weights")
        fan_in = positive_fan("hoedt", parameter, "fan_in", fans_of("hoedt", parameter, self.fans)[0])
        return hoedt_constants(fan_in, self.variance, self.correlation, self.alpha, self.bias_noise)


@dataclass(frozen=True, slots=True)
class HoedtWeight(_Hoedt):
    """Log-normal weights, all positive."""

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        constants = self._constants(parameter)
        if self.bias == "own" and parameter.role != "embedding":  # of a look-up nothing is summed
            refuse_without_bias("hoedt", parameter, layer, constants)
        return Recipe(LogNormalKernel(), (constants.log_mean, constants.log_std), math.sqrt(constants.weight_var))


@dataclass(frozen=True, slots=True)
class HoedtBias(_Hoedt):
    """The negative bias that takes the positive weights' mean off again."""

    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if without_inputs(parameter, self.fans):
            return ZEROS.recipe(parameter, layer)
        return bias_of(self._constants(parameter)).recipe(parameter, layer)


def _correlation(scheme: str, name: str, value: Any) -> float:
    correlation = number(scheme, name, value)
    if not 0 < correlation < 1:
        why = "units of a layer with positive weights agree: at 0 the weights vanish, at 1 so does their variance"
        raise SchemeError(
            f"{scheme}: correlation must be strictly between 0 and 1, not {value!r}.",
            why,
            f'write ("{scheme}", {{"correlation": 0.5}})',
        )
    return correlation


Correlation = Annotated[float, Check(_correlation)]
"""A correlation strictly between 0 and 1."""


@scheme("hoedt")
def hoedt(
    variance: Positive = 1.0,
    correlation: Correlation = 0.5,
    alpha: Number = 0.0,
    bias_noise: Share = 0.0,
    *,
    fans: FanKind = "nominal",
    bias: Literal["own", "elsewhere"] = "own",
) -> Parts:
    """Return log-normal weights and the negative bias that goes with them, for input-convex ReLU networks.

    The two preserve mean, variance and correlation of the pre-activations through one layer of non-negative weights.
    klax 0.2.0 returns the bias with the opposite sign, which makes activations grow 1.85-fold per layer.

    Args:
        variance: target variance of the pre-activations.
        correlation: target correlation between them, between 0 and 1.
        alpha: slope of a leaky ReLU.
        bias_noise: share of the variance given to a random bias, between 0 and 1.
        fans: `"nominal"` or `"effective"`.
        bias: whether the bias that takes the weights' mean off is the layer's `"own"`, or another layer holds it,
            `"elsewhere"`.

    Raises:
        SchemeError: an argument is out of range; when a plan is made, a weight is complex, a fan zero or unknown, or a
            layer has no bias.

    Examples:
        >>> import initax as ix, jax
        >>> bool((ix.draw("hoedt", jax.random.key(0), (64, 64)) > 0).all())
        True

    References:
        Hoedt & Klambauer 2023, NeurIPS, arXiv 2312.12474.
    """
    values = (variance, correlation, alpha, bias_noise, fans, bias)
    return weights_only(HoedtWeight(*values), HoedtBias(*values))
