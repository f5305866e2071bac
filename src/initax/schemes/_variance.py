"""Variance scaling: the standard deviation follows from the fans (LeCun, Glorot, He, PyTorch's uniform)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from initax._model._parameter import Layer, Parameter
from initax.schemes._constant import ZEROS
from initax.schemes._initializer import FanKind, Initializer, Kernel, Recipe, averages, is_complex, real_dtype
from initax.schemes._kernels import (
    ComplexTruncatedNormalKernel,
    DiskKernel,
    NormalKernel,
    TruncatedNormalKernel,
    UniformKernel,
)
from initax.schemes._named import NonNegative, scheme
from initax.schemes._scheme import Parts, weights_only

Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution = Literal["truncated_normal", "normal", "uniform"]

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
        fan_in, fan_out = self.fans_of(parameter, self.fans)
        variance = self.scale / self.positive_fan(parameter, self.mode, averages(fan_in, fan_out)[self.mode])
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
        if self.fan is None and self.without_inputs(parameter, self.fans):
            return ZEROS.recipe(parameter, layer)
        fan = self.fan if self.fan is not None else self.fans_of(parameter, self.fans)[0]
        bound = 1 / math.sqrt(self.positive_fan(parameter, "fan_in", fan))
        std = bound / math.sqrt(3) * (math.sqrt(2) if is_complex(parameter.dtype) else 1.0)
        return Recipe(UniformKernel(), (bound,), std)


@scheme("variance_scaling")
def variance_scaling(
    scale: NonNegative = 1.0,
    mode: Mode = "fan_in",
    distribution: Distribution = "truncated_normal",
    *,
    fans: FanKind = "nominal",
) -> Parts:
    """Return weights of zero mean and variance `scale / n`, zero biases.

    Args:
        scale: multiplies the variance.
        mode: what `n` is: `"fan_in"`, `"fan_out"`, `"fan_avg"` or `"fan_geo_avg"`.
        distribution: `"truncated_normal"` (cut at two standard deviations and corrected for the cut), `"normal"` or
            `"uniform"`; for complex weights the circular normal, the cut modulus and the uniform disk.
        fans: `"nominal"` as the field counts them, or `"effective"`: what an output really sums over.

    Raises:
        SchemeError: an argument is out of range; when a plan is made, a fan is zero or unknown.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw(ix.schemes.variance_scaling(2.0, "fan_out"), jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        `jax.nn.initializers.variance_scaling`, with which real draws agree bit for bit. Its complex truncated normal is
        1.87 % too wide in variance; this one is not.
    """
    return weights_only(VarianceScaling(scale, mode, distribution, fans))


@scheme("he_normal", "kaiming_normal")
def he_normal(*, fans: FanKind = "nominal", truncated: bool = True) -> Parts:
    """Return truncated normal weights of variance `2 / fan_in`, zero biases; also called `kaiming_normal`.

    PyTorch's `kaiming_normal_` does not truncate; that is `truncated=False`.

    Args:
        fans: `"nominal"` or `"effective"`.
        truncated: whether the normal is cut at two standard deviations, and corrected for it.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("he_normal", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        He et al. 2015, arXiv 1502.01852, eq. 10.
    """
    return weights_only(VarianceScaling(2.0, "fan_in", "truncated_normal" if truncated else "normal", fans))


@scheme("he_uniform", "kaiming_uniform")
def he_uniform(*, fans: FanKind = "nominal") -> Parts:
    """Return uniform weights of variance `2 / fan_in`, zero biases; also called `kaiming_uniform`.

    Args:
        fans: `"nominal"` or `"effective"`.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("he_uniform", jax.random.key(0), (3, 3, 16, 32)).shape
        (3, 3, 16, 32)

    References:
        He et al. 2015, arXiv 1502.01852, eq. 10.
    """
    return weights_only(VarianceScaling(2.0, "fan_in", "uniform", fans))


@scheme("glorot_normal", "xavier_normal")
def glorot_normal(*, fans: FanKind = "nominal", truncated: bool = True) -> Parts:
    """Return truncated normal weights of variance `2 / (fan_in + fan_out)`, zero biases; also called `xavier_normal`.

    PyTorch's `xavier_normal_` does not truncate; that is `truncated=False`.

    Args:
        fans: `"nominal"` or `"effective"`.
        truncated: whether the normal is cut at two standard deviations, and corrected for it.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("glorot_normal", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        Glorot & Bengio 2010, AISTATS, eq. 12.
    """
    return weights_only(VarianceScaling(1.0, "fan_avg", "truncated_normal" if truncated else "normal", fans))


@scheme("glorot_uniform", "xavier_uniform")
def glorot_uniform(*, fans: FanKind = "nominal") -> Parts:
    """Return uniform weights of variance `2 / (fan_in + fan_out)`, zero biases; also called `xavier_uniform`.

    Args:
        fans: `"nominal"` or `"effective"`.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("glorot_uniform", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        Glorot & Bengio 2010, AISTATS, eq. 16.
    """
    return weights_only(VarianceScaling(1.0, "fan_avg", "uniform", fans))


@scheme("lecun_normal")
def lecun_normal(*, fans: FanKind = "nominal", truncated: bool = True) -> Parts:
    """Return truncated normal weights of variance `1 / fan_in`, zero biases.

    Args:
        fans: `"nominal"` or `"effective"`.
        truncated: whether the normal is cut at two standard deviations, and corrected for it.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("lecun_normal", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        LeCun et al. 1998, "Efficient BackProp", eq. 16.
    """
    return weights_only(VarianceScaling(1.0, "fan_in", "truncated_normal" if truncated else "normal", fans))


@scheme("lecun_uniform")
def lecun_uniform(*, fans: FanKind = "nominal") -> Parts:
    """Return uniform weights of variance `1 / fan_in`, zero biases.

    Args:
        fans: `"nominal"` or `"effective"`.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("lecun_uniform", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        LeCun et al. 1998, "Efficient BackProp", eq. 16.
    """
    return weights_only(VarianceScaling(1.0, "fan_in", "uniform", fans))


@scheme("uniform_fan_in")
def uniform_fan_in(*, fans: FanKind = "nominal", fan: NonNegative | None = None) -> Parts:
    """Return weights and biases uniform between plus and minus `1 / sqrt(fan_in)`.

    As a bias beside other weights: `("he_normal", "uniform_fan_in")`.

    Args:
        fans: `"nominal"` or `"effective"`.
        fan: the number to use in place of fan_in, as PyTorch and Equinox use the hidden size in a recurrent cell.

    Raises:
        SchemeError: when a plan is made, a fan is zero or unknown.

    Examples:
        >>> import initax as ix
        >>> ix.Scheme("he_normal", bias="uniform_fan_in").parts["bias"].name
        'uniform_fan_in'
    """
    drawn = UniformFanIn(fans, fan)
    return weights_only(drawn, drawn)


kaiming_normal = he_normal
"""Another name of `he_normal`, and the same function."""
kaiming_uniform = he_uniform
"""Another name of `he_uniform`, and the same function."""
xavier_normal = glorot_normal
"""Another name of `glorot_normal`, and the same function."""
xavier_uniform = glorot_uniform
"""Another name of `glorot_uniform`, and the same function."""
