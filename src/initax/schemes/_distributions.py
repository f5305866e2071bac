"""Distributions without fans: constants, and uniform, normal and truncated normal entries of a given scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from initax._errors import SchemeError, warn
from initax._model._parameter import Layer, Parameter
from initax.schemes._constant import ZEROS, Constant
from initax.schemes._initializer import Initializer, Recipe, array_name, drawing_dtype, is_complex
from initax.schemes._kernels import IntervalKernel, NormalKernel, TruncatedNormalKernel, UniformKernel, truncated_std
from initax.schemes._named import NonNegative, Number, Positive, Values, scheme
from initax.schemes._scheme import Parts, weights_only

NARROW = 0.25
"""Standard deviations between two bounds below which a cut normal is as good as uniform, and tiny."""
FAR = 5.0
"""Standard deviations beyond which single precision does not tell the normal's tail any more."""


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
                    f"{self.name} has a complex mean, {self.mean}, and {array_name(parameter)} is "
                    f"{np.dtype(parameter.dtype).name}.",
                    "a real array has a real mean",
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
        self.refuse_complex(
            parameter,
            'a cut modulus is ("variance_scaling", {"distribution": "truncated_normal", ...})',
        )
        kernel = TruncatedNormalKernel(self.lower, self.upper)
        return Recipe(kernel, _with_mean(self.stddev, self.mean), self.stddev * truncated_std(self.lower, self.upper))


def _cut(name: str, stddev: float, mean: float, lower: float, upper: float, *, are_values: bool) -> Parts:
    """The parts of a cut normal, whose bounds are values or standard deviations from the mean.

    Warns where the bounds leave little of the normal.

    Raises:
        SchemeError: the bounds are not in order.
    """
    if not lower < upper:
        raise SchemeError(f"{name}: lower must be below upper, not lower={lower}, upper={upper}.")
    if are_values:
        lower, upper = (lower - mean) / stddev, (upper - mean) / stddev
    if not are_values and upper - lower < NARROW:
        warn(
            f"{name} is cut at {lower:g} and {upper:g} standard deviations; what is left has the standard "
            f"deviation {stddev * truncated_std(lower, upper):.2g}, where stddev is {stddev:g}.",
            "where the bounds are values of the weights, add absolute=True: "
            f'("{name}", {{"stddev": {stddev:g}, "lower": {lower:g}, "upper": {upper:g}, '
            '"absolute": True})',
        )
    elif lower > FAR or upper < -FAR:
        warn(
            f"{name} is cut at {lower:g} and {upper:g} standard deviations, all on one side of the mean, where "
            "float32 has no normal left: nearly all entries come out equal.",
            "bounds nearer to the mean leave a law to draw from"
            if are_values
            else "the bounds are in standard deviations; where they are values of the weights, add absolute=True",
        )
    return weights_only(TruncatedNormal(stddev, mean, lower, upper))


def _with_mean(stddev: float, mean: float) -> tuple[float, ...]:
    return (stddev,) if mean == 0.0 else (stddev, mean)


@scheme("zeros")
def zeros() -> Parts:
    """Return zero weights and zero biases.

    Examples:
        >>> import initax as ix, jax
        >>> float(ix.draw("zeros", jax.random.key(0), (4, 2)).sum())
        0.0
    """
    return weights_only(ZEROS)


@scheme("ones")
def ones() -> Parts:
    """Return weights of one and zero biases.

    Examples:
        >>> import initax as ix, jax
        >>> float(ix.draw("ones", jax.random.key(0), (4, 2)).sum())
        8.0
    """
    return weights_only(Constant(1.0))


@scheme("constant")
def constant(value: Values) -> Parts:
    """Return weights that are all `value`, and zero biases.

    Args:
        value: a number, complex for complex weights (also as a text, `"1+2j"`), or an array or nested list of them.
            That is broadcast as NumPy does, for weights in the layout `(*receptive, in, out)`: a vector has one entry
            for each output.

    Raises:
        SchemeError: `value` is neither a number nor an array of numbers; when a plan is made, it does not broadcast to
            an array, or is complex where that is real.

    Examples:
        >>> import initax as ix, jax
        >>> float(ix.draw(("constant", {"value": 0.5}), jax.random.key(0), (4, 2)).sum())
        4.0
        >>> ix.draw(("constant", {"value": [1.0, 2.0]}), jax.random.key(0), (3, 2), axes="i o")[0].tolist()
        [1.0, 2.0]
    """
    return weights_only(Constant(value))


@scheme("uniform")
def uniform(scale: Number = 0.01, *, lower: Number | None = None, upper: Number | None = None) -> Parts:
    """Return weights uniform between zero and `scale`, as `jax.nn.initializers.uniform` has it, and zero biases.

    With `lower` and `upper` they are uniform between these. Of a complex weight real and imaginary part are drawn
    so. An interval that follows from the fans is `variance_scaling(..., distribution="uniform")` or
    `uniform_fan_in`.

    Args:
        scale: upper end of the interval, which is never reached where it is 1.
        lower: lower end of the interval in place of zero.
        upper: upper end of the interval in place of `scale`.

    Raises:
        SchemeError: an argument is not a number, `lower` and `upper` are not in order, or one of them stands alone or
            beside `scale`.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("uniform", jax.random.key(0), (4, 2)).shape
        (4, 2)
        >>> w = ix.draw(("uniform", {"lower": -1.0, "upper": 2.0}), jax.random.key(0), (64, 64))
        >>> bool(w.min() < -0.9), bool(w.max() > 1.9)
        (True, True)
    """
    if (lower is None) != (upper is None) or (upper is not None and scale != 0.01):
        raise SchemeError(
            "uniform takes scale, or lower and upper together.",
            'between two numbers: ("uniform", {"lower": -0.1, "upper": 0.1})',
        )
    if lower is not None and upper is not None and not lower < upper:
        raise SchemeError(f"uniform: lower must be below upper, not lower={lower}, upper={upper}.")
    return weights_only(Uniform(scale, lower, upper))


@scheme("normal")
def normal(stddev: NonNegative = 0.01, mean: Values = 0.0) -> Parts:
    """Return normal weights and zero biases.

    Args:
        stddev: standard deviation; of a complex entry, of its modulus.
        mean: mean; of complex weights it may be complex.

    Raises:
        SchemeError: `stddev` is negative or no number, or `mean` no number; when a plan is made, `mean` is complex and
            a weight real.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw(ix.schemes.normal(0.02), jax.random.key(0), (4, 2)).shape
        (4, 2)
    """
    if isinstance(mean, tuple):
        raise SchemeError(f"normal: mean must be a number, not {mean!r}.")
    return weights_only(Normal(stddev, mean))


@scheme("biased_normal")
def biased_normal(stddev: NonNegative = 0.01, mean: Number = 0.0) -> Parts:
    """Return normal weights and normal biases of the same law.

    Args:
        stddev: standard deviation of both.
        mean: mean of both.

    Raises:
        SchemeError: `stddev` is negative or no number.

    Examples:
        >>> import initax as ix
        >>> ix.schemes.biased_normal(0.1).parts["bias"].stddev
        0.1
    """
    drawn = Normal(stddev, mean)
    return weights_only(drawn, drawn)


@scheme("truncated_normal")
def truncated_normal(
    stddev: NonNegative = 0.01, mean: Number = 0.0, lower: Number = -2.0, upper: Number = 2.0, *, absolute: bool = False
) -> Parts:
    """Return normal weights cut at two bounds, and zero biases.

    `stddev` is the standard deviation before the cut, as in JAX, PyTorch and Lux; at the default bounds the draw's own
    is 0.8796 of it.

    Args:
        stddev: standard deviation before the cut.
        mean: mean before the cut.
        lower: lower bound, in standard deviations from the mean.
        upper: upper bound, in standard deviations from the mean.
        absolute: bounds are values of the weights instead, as in `torch.nn.init.trunc_normal_` and Lux.

    Raises:
        SchemeError: `stddev` is not positive, or the bounds are not in order; when a plan is made, a weight is complex.

    Warns:
        InitaxWarning: the bounds stand a fourth of a standard deviation apart or less, as values given for standard
            deviations do, or both more than five standard deviations on one side of the mean.

    Examples:
        >>> import initax as ix, jax
        >>> scheme = ix.schemes.truncated_normal(0.02, lower=-0.03, upper=0.03, absolute=True)
        >>> bool(abs(ix.draw(scheme, jax.random.key(0), (64, 32))).max() <= 0.03)
        True
    """
    if absolute and stddev == 0:
        raise SchemeError("truncated_normal: stddev must be positive where bounds are absolute, not 0.")
    return _cut("truncated_normal", stddev, mean, lower, upper, are_values=absolute)


@scheme("trunc_normal")
def trunc_normal(stddev: Positive = 1.0, mean: Number = 0.0, lower: Number = -2.0, upper: Number = 2.0) -> Parts:
    """Return normal weights cut at two values, as `torch.nn.init.trunc_normal_` does, and zero biases.

    With the small `stddev` that one gives it, nothing is cut: 2 is a hundred standard deviations of 0.02. The scheme
    with bounds in standard deviations is `truncated_normal`.

    Args:
        stddev: standard deviation before the cut.
        mean: mean before the cut.
        lower: lowest value.
        upper: highest value.

    Raises:
        SchemeError: `stddev` is not positive, or the bounds are not in order; when a plan is made, a weight is complex.

    Examples:
        >>> import initax as ix, jax
        >>> w = ix.draw(("trunc_normal", {"stddev": 0.02}), jax.random.key(0), (64, 64))
        >>> bool(abs(float(w.std()) / 0.02 - 1) < 0.05)
        True
    """
    return _cut("trunc_normal", stddev, mean, lower, upper, are_values=True)
