"""Kernels that draw entry by entry: one number, normal, log-normal and uniform variates, cut and complex ones.

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

from initax.schemes._initializer import Kernel, is_complex, real_dtype

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
    if SCALES_AFTERWARDS:
        return lax.optimization_barrier(jax.random.normal(key, shape, dtype)) * scale
    return jax.nn.initializers.normal(scale)(key, shape, dtype)


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

    lowest = mean

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """Return whether the number is."""
        return float(numbers[0] >= bound)


@dataclass(frozen=True, slots=True)
class NormalKernel(Kernel):
    """Normal, real or circular complex; numbers are the standard deviation and, if not zero, the mean.

    The mean of complex entries is two numbers, its parts.
    """

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        return _shifted(scaled_normal(key, numbers[0], shape, dtype), numbers, dtype)

    def mean(self, numbers: tuple[float, ...]) -> float | None:
        """Return the second number; `None` for a complex mean."""
        return numbers[1] if len(numbers) == 2 else None if len(numbers) == 3 else 0.0


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
        return _shift(numbers) + numbers[0] * truncated_mean(self.lower, self.upper)

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return the lower cut."""
        return _shift(numbers) + (numbers[0] * self.lower if numbers[0] else 0.0)

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """Return the share of the mass between the cuts that is beyond the bound."""
        if not numbers[0]:
            return float(_shift(numbers) >= bound)
        start = max((bound - _shift(numbers)) / numbers[0], self.lower)
        whole = _mass(self.lower, self.upper)
        return _mass(start, self.upper) / whole if start < self.upper and whole else float(start < self.upper)


@dataclass(frozen=True, slots=True)
class ComplexTruncatedNormalKernel(Kernel):
    """Circular complex normal with its modulus cut at `upper`, by inversion of the modulus' distribution."""

    upper: float = 2.0

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        for_modulus, for_phase = jax.random.split(key)
        inside = jax.random.uniform(for_modulus, shape, real_dtype(dtype)) * (1 - math.exp(-(self.upper**2)))
        return _with_phases(for_phase, jnp.sqrt(-jnp.log1p(-inside)) * numbers[0])


@dataclass(frozen=True, slots=True)
class _Between(Kernel):
    """Uniform between two numbers."""

    def ends(self, numbers: tuple[float, ...]) -> tuple[float, float]:
        """Return the lower and the upper end of the interval."""
        return numbers[0], numbers[1]

    def mean(self, numbers: tuple[float, ...]) -> float:
        """Return the middle of the interval."""
        return sum(self.ends(numbers)) / 2

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return the lower end of the interval."""
        return self.ends(numbers)[0]

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """Return the share of the interval beyond the bound."""
        low, high = self.ends(numbers)
        return min(max((high - bound) / (high - low), 0.0), 1.0) if high > low else float(low >= bound)


@dataclass(frozen=True, slots=True)
class UniformKernel(_Between):
    """Uniform between `lower` and 1, scaled afterwards; complex entries have independent uniform parts.

    Attributes:
        lower: lower end of the interval before it is scaled.
        below: largest number below 1 of the narrow type that is stored, so that rounding reaches no upper end.
    """

    lower: float = -1.0
    below: float | None = None

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        if not is_complex(dtype):
            unit = jax.random.uniform(key, shape, dtype, self.lower)
            unit = unit if self.below is None else jnp.minimum(unit, jnp.asarray(self.below, dtype))
            return unit * jnp.asarray(numbers[0], dtype)
        parts = [jax.random.uniform(part, shape, real_dtype(dtype), self.lower) for part in jax.random.split(key)]
        return lax.complex(*parts) * jnp.asarray(numbers[0], dtype)

    def ends(self, numbers: tuple[float, ...]) -> tuple[float, float]:
        """Return both ends, scaled; the scale may be negative."""
        scaled = (self.lower * numbers[0], numbers[0])
        return min(scaled), max(scaled)


@dataclass(frozen=True, slots=True)
class IntervalKernel(_Between):
    """Uniform between two numbers; complex entries have independent uniform parts."""

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        lower, upper = (jnp.asarray(end, real_dtype(dtype)) for end in numbers)
        keys = jax.random.split(key) if is_complex(dtype) else [key]
        parts = [jax.random.uniform(part, shape, real_dtype(dtype)) * (upper - lower) + lower for part in keys]
        return lax.complex(*parts) if len(parts) == 2 else parts[0]


@dataclass(frozen=True, slots=True)
class DiskKernel(Kernel):
    """Uniform on a complex disk of unit variance, scaled afterwards: what `jax.nn.initializers` calls uniform."""

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        for_modulus, for_phase = jax.random.split(key)
        modulus = jnp.sqrt(2 * jax.random.uniform(for_modulus, shape, real_dtype(dtype)))
        return _with_phases(for_phase, modulus * numbers[0])


def _with_phases(key: jax.Array, modulus: jax.Array) -> jax.Array:
    """Complex entries of these moduli, with uniform phases."""
    phase = 2 * np.pi * jax.random.uniform(key, modulus.shape, modulus.dtype)
    return lax.complex(modulus * jnp.cos(phase), modulus * jnp.sin(phase))


@dataclass(frozen=True, slots=True)
class HalfNormalKernel(Kernel):
    """The modulus of a normal of standard deviation `numbers[0]`."""

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        return jnp.abs(scaled_normal(key, numbers[0], shape, dtype))

    def mean(self, numbers: tuple[float, ...]) -> float:
        """Return the mean of the modulus."""
        return numbers[0] * math.sqrt(2 / math.pi)

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return zero."""
        return 0.0

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """Return the normal's two tails."""
        return math.erfc(bound / (numbers[0] * math.sqrt(2)))


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


def _shift(numbers: tuple[float, ...]) -> float:
    return numbers[1] if len(numbers) > 1 else 0.0


def _shifted(scaled: jax.Array, numbers: tuple[Any, ...], dtype: Any) -> jax.Array:
    if len(numbers) == 3:
        mean = (jnp.asarray(part, real_dtype(dtype)) for part in numbers[1:])
        return scaled + lax.complex(*mean).astype(dtype)
    return scaled + jnp.asarray(numbers[1], dtype) if len(numbers) > 1 else scaled


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


LAST = 37.0
"""Beyond so many standard deviations doubles hold no mass of a normal."""


def _mass(lower: float, upper: float) -> float:
    if upper < 0:
        return _mass(-upper, -lower)
    return (math.erfc(lower / math.sqrt(2)) - math.erfc(upper / math.sqrt(2))) / 2


def truncated_mean(lower: float, upper: float) -> float:
    """Return the mean of a standard normal cut at `lower` and `upper`.

    Examples:
        >>> round(truncated_mean(0.0, math.inf), 10)
        0.7978845608
    """
    if lower > LAST or upper < -LAST:
        return lower + 1 / lower if lower > 0 else upper + 1 / upper  # the tail is exponential so far out
    return (_density(lower) - _density(upper)) / _mass(lower, upper)


def truncated_std(lower: float, upper: float) -> float:
    """Return the standard deviation of a standard normal cut at `lower` and `upper`.

    Examples:
        >>> round(truncated_std(-2.0, 2.0), 10)
        0.879625661
    """

    def edge(x: float) -> float:
        return 0.0 if math.isinf(x) else x * _density(x)

    if lower > LAST or upper < -LAST:
        return min(1 / min(abs(lower), abs(upper)), (upper - lower) / math.sqrt(12))
    mass, mean = _mass(lower, upper), truncated_mean(lower, upper)
    return math.sqrt(max(1 + (edge(lower) - edge(upper)) / mass - mean**2, 0.0))
