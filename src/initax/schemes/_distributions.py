"""Element-wise initializers: constants, and distributions with a given scale.

Each draws a unit variate with JAX's own sampler and scales it by a run-time number, so results equal those of
`jax.nn.initializers` bit for bit, eager and jitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from initax._model._parameter import Layer, Parameter
from initax.schemes._initializer import Initializer, Kernel, Recipe, is_complex, real_dtype, refuse_complex

SCALES_AFTERWARDS = jax.__version_info__ < (0, 12)
"""Up to JAX 0.11 `initializers.normal` multiplies a finished normal; XLA, given both in one program, merges the two
constant factors and changes the last bit of a third of the entries. A barrier keeps jitted draws equal to eager ones.
From 0.12 on JAX merges the factors itself, and XLA keeps a barrier for so long that what stands on its two sides is no
longer fused: a bfloat16 array would need twice its own memory beside it."""


def scaled_normal(key: jax.Array, scale: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Return a centered normal array of standard deviation `scale`, with the bits of `jax.nn.initializers.normal`.

    Args:
        key: the key.
        scale: the standard deviation, a number or a scalar array.
        shape: shape of the array.
        dtype: its type, floating or complex.
    """
    scale = jnp.asarray(scale, dtype)
    scaled: jax.Array
    if SCALES_AFTERWARDS:
        scaled = lax.optimization_barrier(jax.random.normal(key, shape, dtype)) * scale
    else:
        scaled = jax.nn.initializers.normal(scale)(key, shape, dtype)
    return scaled


@dataclass(frozen=True, slots=True)
class Full(Kernel):
    """Every entry the same number."""

    random: ClassVar[bool] = False

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        return jnp.full(shape, jnp.asarray(numbers[0]).astype(dtype), dtype)

    def on_host(self, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return the array made without JAX."""
        return np.full(shape, numbers[0], dtype)

    def mean(self, numbers: tuple[float, ...]) -> float:
        """Return the number."""
        return numbers[0]

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return the number."""
        return numbers[0]

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """Return whether the number is."""
        return float(numbers[0] >= bound)


@dataclass(frozen=True, slots=True)
class NormalKernel(Kernel):
    """Normal, real or circular complex; numbers are the standard deviation and, if not zero, the mean."""

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        return _shifted(scaled_normal(key, numbers[0], shape, dtype), numbers, dtype)

    def mean(self, numbers: tuple[float, ...]) -> float:
        """Return the second number."""
        return numbers[1] if len(numbers) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class TruncatedNormalKernel(Kernel):
    """Standard normal cut at `lower` and `upper`, scaled afterwards."""

    lower: float = -2.0
    upper: float = 2.0

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        unit = jax.random.truncated_normal(key, self.lower, self.upper, shape, dtype)
        return _shifted(unit * jnp.asarray(numbers[0], dtype), numbers, dtype)

    def mean(self, numbers: tuple[float, ...]) -> float:
        """Return the second number, and what is cut off more on one side than on the other."""
        shift = numbers[1] if len(numbers) > 1 else 0.0
        return shift + numbers[0] * truncated_mean(self.lower, self.upper)


@dataclass(frozen=True, slots=True)
class ComplexTruncatedNormalKernel(Kernel):
    """Circular complex normal with its modulus cut at `upper`, by inversion of the modulus' distribution."""

    upper: float = 2.0

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        real = real_dtype(dtype)
        for_modulus, for_phase = jax.random.split(key)
        inside = jax.random.uniform(for_modulus, shape, real) * (1 - math.exp(-(self.upper**2)))
        phase = 2 * np.pi * jax.random.uniform(for_phase, shape, real)
        modulus = jnp.sqrt(-jnp.log1p(-inside)) * numbers[0]
        return lax.complex(modulus * jnp.cos(phase), modulus * jnp.sin(phase))


@dataclass(frozen=True, slots=True)
class UniformKernel(Kernel):
    """Uniform between `lower` and 1, scaled afterwards; complex entries have independent uniform parts."""

    lower: float = -1.0

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        if not is_complex(dtype):
            return jax.random.uniform(key, shape, dtype, self.lower) * jnp.asarray(numbers[0], dtype)
        parts = [jax.random.uniform(each, shape, real_dtype(dtype), self.lower) for each in jax.random.split(key)]
        return lax.complex(*parts) * jnp.asarray(numbers[0], dtype)

    def mean(self, numbers: tuple[float, ...]) -> float:
        """Return the middle of the interval."""
        return (self.lower + 1) / 2 * numbers[0]

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return the lower end of the interval."""
        return min(self.lower * numbers[0], numbers[0])

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """Return the share of the interval beyond the bound."""
        low, high = sorted((self.lower * numbers[0], numbers[0]))
        return min(max((high - bound) / (high - low), 0.0), 1.0) if high > low else float(low >= bound)


@dataclass(frozen=True, slots=True)
class DiskKernel(Kernel):
    """Uniform on a complex disk of unit variance, scaled afterwards: what `jax.nn.initializers` calls uniform."""

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        for_modulus, for_phase = jax.random.split(key)
        modulus = jnp.sqrt(2 * jax.random.uniform(for_modulus, shape, real_dtype(dtype))) * numbers[0]
        phase = 2 * np.pi * jax.random.uniform(for_phase, shape, real_dtype(dtype))
        return lax.complex(modulus * jnp.cos(phase), modulus * jnp.sin(phase))


def _shifted(scaled: jax.Array, numbers: tuple[Any, ...], dtype: Any) -> jax.Array:
    return scaled + jnp.asarray(numbers[1], dtype) if len(numbers) > 1 else scaled


@dataclass(frozen=True, slots=True)
class Constant(Initializer):
    """Every entry `value`."""

    value: float = 0.0
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        return Recipe(Full(), (self.value,), 0.0)


@dataclass(frozen=True, slots=True)
class Normal(Initializer):
    """Normal with a given standard deviation and mean."""

    stddev: float = 0.01
    mean: float = 0.0
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        return Recipe(NormalKernel(), _with_mean(self.stddev, self.mean), self.stddev)


@dataclass(frozen=True, slots=True)
class Uniform(Initializer):
    """Uniform between zero and `scale`, as JAX has it."""

    scale: float = 0.01
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        refuse_complex("uniform", parameter, 'a uniform disk is ("variance_scaling", {"distribution": "uniform", ...})')
        return Recipe(UniformKernel(0.0), (self.scale,), abs(self.scale) / math.sqrt(12))


@dataclass(frozen=True, slots=True)
class TruncatedNormal(Initializer):
    """Normal cut at bounds in units of `stddev`, which is the standard deviation before the cut."""

    stddev: float = 0.01
    mean: float = 0.0
    lower: float = -2.0
    upper: float = 2.0
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        refuse_complex(
            "truncated_normal",
            parameter,
            'a cut modulus is ("variance_scaling", {"distribution": "truncated_normal", ...})',
        )
        kernel = TruncatedNormalKernel(self.lower, self.upper)
        return Recipe(kernel, _with_mean(self.stddev, self.mean), self.stddev * truncated_std(self.lower, self.upper))


def _with_mean(stddev: float, mean: float) -> tuple[float, ...]:
    return (stddev,) if mean == 0.0 else (stddev, mean)


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _mass(lower: float, upper: float) -> float:
    return (math.erf(upper / math.sqrt(2)) - math.erf(lower / math.sqrt(2))) / 2


def truncated_mean(lower: float, upper: float) -> float:
    """Return the mean of a standard normal cut at `lower` and `upper`.

    Examples:
        >>> round(truncated_mean(0.0, math.inf), 10)
        0.7978845608
    """
    return (_density(lower) - _density(upper)) / _mass(lower, upper)


def truncated_std(lower: float, upper: float) -> float:
    """Return the standard deviation of a standard normal cut at `lower` and `upper`.

    Examples:
        >>> round(truncated_std(-2.0, 2.0), 10)
        0.879625661
    """

    def edge(x: float) -> float:
        return 0.0 if math.isinf(x) else x * _density(x)

    mass, mean = _mass(lower, upper), truncated_mean(lower, upper)
    return math.sqrt(1 + (edge(lower) - edge(upper)) / mass - mean**2)
