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

from initax._errors import SchemeError, message, warn
from initax._math._axes import Axes
from initax._model._parameter import WEIGHT_ROLES, Layer, Parameter
from initax.schemes._initializer import (
    Initializer,
    Kernel,
    Recipe,
    drawing_dtype,
    is_complex,
    real_dtype,
    refuse_complex,
    where,
)

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


Entries = float | complex | tuple["Entries", ...]
"""A number, or the entries of an array, nested as its axes are."""


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
class FilledKernel(Kernel):
    """Given entries, broadcast to the array.

    Attributes:
        given: the entries.
        axes: the axes of a weight, whose entries are given in the canonical layout `(*receptive, in, out)`.
    """

    given: Entries
    axes: Axes | None = None
    elementwise: ClassVar[bool] = False
    random: ClassVar[bool] = False

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        entries = jnp.asarray(np.asarray(self.given).astype(dtype))
        if self.axes is None:
            return jnp.broadcast_to(entries, shape)
        canonical = (self.axes.batch_size, *self.axes.canonical_shape)
        made: jax.Array = self.axes.from_canonical(jnp.broadcast_to(entries, canonical))
        return made


@dataclass(frozen=True, slots=True)
class NormalKernel(Kernel):
    """Normal, real or circular complex; numbers are the standard deviation and, if not zero, the mean.

    The mean of complex entries is two numbers, its parts.
    """

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        return _shifted(scaled_normal(key, numbers[0], shape, dtype), numbers, dtype)

    def mean(self, numbers: tuple[float, ...]) -> float | None:
        """Return the second number; nothing is said of a complex mean."""
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
class IntervalKernel(Kernel):
    """Uniform between two numbers; complex entries have independent uniform parts."""

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        lower, upper = (jnp.asarray(each, real_dtype(dtype)) for each in numbers)
        keys = jax.random.split(key) if is_complex(dtype) else [key]
        parts = [jax.random.uniform(each, shape, real_dtype(dtype)) * (upper - lower) + lower for each in keys]
        return lax.complex(*parts) if len(parts) == 2 else parts[0]

    def mean(self, numbers: tuple[float, ...]) -> float:
        """Return the middle of the interval."""
        return (numbers[0] + numbers[1]) / 2

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return the lower end of the interval."""
        return numbers[0]

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """Return the share of the interval beyond the bound."""
        return min(max((numbers[1] - bound) / (numbers[1] - numbers[0]), 0.0), 1.0)


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
    if len(numbers) == 3:
        return scaled + lax.complex(*(jnp.asarray(each, real_dtype(dtype)) for each in numbers[1:])).astype(dtype)
    return scaled + jnp.asarray(numbers[1], dtype) if len(numbers) > 1 else scaled


@dataclass(frozen=True, slots=True)
class Constant(Initializer):
    """Every entry `value`, or the entries of an array, which is broadcast."""

    value: Entries = 0.0
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if isinstance(self.value, float):
            return Recipe(Full(), (self.value,), 0.0)
        return filled(self.name, self.value, parameter)


def filled(scheme: str, value: Entries, parameter: Parameter) -> Recipe:
    """Return the recipe that fills an array with entries, broadcast as NumPy does.

    Those of a weight are in the canonical layout `(*receptive, in, out)`, so a vector has one entry for each output.

    Raises:
        SchemeError: they do not broadcast to the array, or are complex where it is real.
    """
    entries = np.asarray(value)
    axes = parameter.axes if parameter.role in WEIGHT_ROLES else None
    target = parameter.shape if axes is None else axes.canonical_shape
    if np.iscomplexobj(entries) and not is_complex(parameter.dtype):
        raise SchemeError(
            message(
                f"{scheme} has complex values, and {where(parameter)} is {np.dtype(parameter.dtype).name}.",
                "a real array takes real values",
            )
        )
    try:
        fits = np.broadcast_shapes(entries.shape, target) == tuple(target)
    except ValueError:
        fits = False
    if not fits:
        layout = "" if axes is None else " in the layout (*receptive, in, out)"
        raise SchemeError(
            message(
                f"{scheme} has values of shape {entries.shape}, which do not broadcast to {where(parameter)}.",
                f"shape {tuple(target)}{layout}",
                "a vector has one value for each output; a number is the same for all",
            )
        )
    return Recipe(FilledKernel(value, axes), (), 0.0)


@dataclass(frozen=True, slots=True)
class Normal(Initializer):
    """Normal with a given standard deviation and mean."""

    stddev: float = 0.01
    mean: float | complex = 0.0
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if isinstance(self.mean, complex):
            if not is_complex(parameter.dtype):
                raise SchemeError(
                    message(
                        f"{self.name} has a complex mean, {self.mean}, and {where(parameter)} is "
                        f"{np.dtype(parameter.dtype).name}.",
                        "a real array has a real mean",
                    )
                )
            return Recipe(NormalKernel(), (self.stddev, self.mean.real, self.mean.imag), self.stddev)
        return Recipe(NormalKernel(), _with_mean(self.stddev, self.mean), self.stddev)


@dataclass(frozen=True, slots=True)
class Uniform(Initializer):
    """Uniform between zero and `scale`, as JAX has it, or between two numbers; both parts of complex entries are."""

    scale: float = 0.01
    lower: float | None = None
    upper: float | None = None
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        parts = 2 if is_complex(parameter.dtype) else 1
        if self.lower is not None and self.upper is not None:
            std = (self.upper - self.lower) * math.sqrt(parts / 12)
            return Recipe(IntervalKernel(), (self.lower, self.upper), std)
        kernel = UniformKernel(0.0, largest_below_one(parameter.dtype))
        return Recipe(kernel, (self.scale,), abs(self.scale) * math.sqrt(parts / 12))


def largest_below_one(dtype: Any) -> float | None:
    """Return the largest number below one of a type that is drawn in a wider one, `None` of any other."""
    if drawing_dtype(dtype) == dtype or is_complex(dtype):
        return None
    info: Any = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(1 - info.epsneg)


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


def warn_of_bounds(law: TruncatedNormal, are_values: bool) -> None:
    """Warn where what the bounds leave is not what one asks a normal for.

    Args:
        law: the cut normal.
        are_values: whether the bounds were given as values, not as standard deviations.
    """
    lower, upper = law.lower, law.upper
    if not are_values and upper - lower < NARROW:
        warn(
            message(
                f"{law.name} is cut at {lower:g} and {upper:g} standard deviations; what is left has the standard "
                f"deviation {law.stddev * truncated_std(lower, upper):.2g}, where stddev is {law.stddev:g}.",
                "where the bounds are values of the weights, add absolute=True: "
                f'("{law.name}", {{"stddev": {law.stddev:g}, "lower": {lower:g}, "upper": {upper:g}, '
                '"absolute": True})',
            )
        )
    elif lower > FAR or upper < -FAR:
        warn(
            message(
                f"{law.name} is cut at {lower:g} and {upper:g} standard deviations, all on one side of the mean, where "
                "float32 has no normal left: nearly all entries come out equal.",
                "bounds nearer to the mean leave a law to draw from"
                if are_values
                else "the bounds are in standard deviations; where they are values of the weights, add absolute=True",
            )
        )


NARROW = 0.25
"""Standard deviations between two bounds below which a cut normal is as good as uniform, and tiny."""
FAR = 5.0
"""Standard deviations beyond which single precision does not tell the normal's tail any more."""


def _with_mean(stddev: float, mean: float) -> tuple[float, ...]:
    return (stddev,) if mean == 0.0 else (stddev, mean)


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _mass(lower: float, upper: float) -> float:
    if upper < 0:
        return _mass(-upper, -lower)
    return (math.erfc(lower / math.sqrt(2)) - math.erfc(upper / math.sqrt(2))) / 2


LAST = 37.0
"""Beyond so many standard deviations doubles hold no mass of a normal."""


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
