"""The scheme `scaled`: another scheme's weights times a factor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from initax._errors import SchemeError, count
from initax._math._axes import Axes
from initax._model._parameter import Layer, Parameter, Role
from initax.schemes._depth import DepthFactor, KnownFactor, depth_factor
from initax.schemes._initializer import Initializer, InitializerAround, KernelAround, Recipe, array_name, number
from initax.schemes._named import SchemeLike
from initax.schemes._named import scheme as named
from initax.schemes._scheme import Scheme

Factor = float | tuple[float, ...] | DepthFactor
"""A factor of a whole array, one for each entry of a stack, or one that a forward pass tells."""


@dataclass(frozen=True, slots=True)
class ScaledKernel(KernelAround):
    """Another kernel's array times the last number, or times the last numbers along one of its axes.

    Attributes:
        axis: the axis, where there are several numbers.
    """

    axis: int | None = None

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        """As the inner kernel, where all entries have one factor."""
        return self.inner.elementwise and self.axis is None

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        drawn, factor = self.inner(key, numbers[:-1], shape, dtype), jnp.asarray(numbers[-1], dtype)
        if self.axis is None:
            return drawn * factor
        # Without the barrier XLA may merge the factors with the kernel's own, and a layer differs in its last bit.
        along = jnp.expand_dims(factor, [axis for axis in range(len(shape)) if axis != self.axis])
        return lax.optimization_barrier(drawn) * along

    def moments(self, numbers: tuple[Any, ...], std: float | None) -> tuple[float, float] | None:
        """Return those of the inner kernel, times the mean factor and the mean square of the factors."""
        factors = _all(numbers[-1])
        root = _root_mean_square(factors)
        inner = self.inner.moments(numbers[:-1], std if std is None or root == 0 else std / root)
        if inner is None:
            return (0.0, 0.0) if root == 0 else None
        return inner[0] * sum(factors) / len(factors), inner[1] * root**2

    def lowest(self, numbers: tuple[Any, ...]) -> float:
        """As the inner kernel, where the factors keep the sign."""
        factors = _all(numbers[-1])
        lowest = self.inner.lowest(numbers[:-1])
        return min(lowest * factor for factor in factors) if min(factors) > 0 else -math.inf

    def above(self, numbers: tuple[Any, ...], bound: float) -> float:
        """As the inner kernel."""
        factors = _all(numbers[-1])
        if min(factors) <= 0:
            return 1.0
        return sum(self.inner.above(numbers[:-1], bound / factor) for factor in factors) / len(factors)


@dataclass(frozen=True, slots=True)
class Scaled(InitializerAround):
    """Another initializer's array times a factor, or each entry of a stack times one of its own."""

    factor: Factor

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        recipe = self.inner_recipe(parameter, layer)
        factor = self.factor.of(parameter) if isinstance(self.factor, DepthFactor) else self.factor
        std = None if recipe.std is None else recipe.std * _root_mean_square(_all(factor))
        axis = _stack_of(parameter, self.known_axes(parameter), factor) if isinstance(factor, tuple) else None
        numbers = (*recipe.numbers, factor if isinstance(factor, tuple) else float(factor))
        return replace(recipe, kernel=ScaledKernel(recipe.kernel, axis), numbers=numbers, std=std)

    @property
    def depth_recipe(self) -> str:
        """The recipe of its depth factor; nothing where it has none."""
        return self.factor.recipe if isinstance(self.factor, DepthFactor | KnownFactor) else ""

    def __str__(self) -> str:
        """Return the initializer as a call: name and arguments."""
        if isinstance(self.factor, DepthFactor):
            return f"scaled({self.inner}, {self.factor})"
        shown = ", ".join(f"{value:.6g}" for value in _all(self.factor))
        return f"scaled({self.inner}, {f'[{shown}]' if isinstance(self.factor, tuple) else shown})"


def _factor(_scheme: str, _name: str, factor: Any) -> Factor:
    match factor:
        case DepthFactor() | KnownFactor():
            return factor
        case [str() as recipe, Mapping() as sizes]:
            return depth_factor(recipe, **sizes)
        case str():
            return depth_factor(factor)
        case list() | tuple() if factor:
            return tuple(number("scaled", "each factor", value) for value in factor)
        case np.ndarray() | jax.Array() if not isinstance(factor, jax.core.Tracer) and factor.ndim == 1 and factor.size:
            return tuple(number("scaled", "each factor", value) for value in np.asarray(factor).tolist())
    return number("scaled", "factor", factor)


ByFactor = Annotated[Any, _factor]
"""A number, one for each layer of a stack, or the recipe of a depth factor, with or without its sizes."""


@named("scaled")
def scaled(scheme: SchemeLike, factor: ByFactor, *, biases: bool = False) -> Scheme:
    """Return another scheme with its weights multiplied by a factor; its biases and scales stay as they are.

    Args:
        scheme: the scheme, written in any way a rule accepts.
        factor: multiplies the weights, and so their standard deviation: a number, or the recipe and sizes of a
            `depth_factor`, `("gpt2", {"layers": 12})`, or `"gpt2"` alone for the sizes that the forward pass tells; or
            a list of numbers, one for each layer of a stack, as `vmap` and scans make them. A plan shows the standard
            deviation over all of the stack then.
        biases: whether biases and norms' scales are multiplied, too.

    Raises:
        SchemeError: the scheme or the factor is wrong; when a plan is made, a weight is not a stack, or one of another
            number of layers than there are factors.

    Examples:
        >>> import initax as ix, jax
        >>> str(ix.schemes.scaled("glorot_normal", 0.5).parts["weight"])
        'scaled(glorot_normal, 0.5)'
        >>> str(ix.schemes.scaled("glorot_normal", ("gpt2", {"layers": 8})).parts["weight"])
        'scaled(glorot_normal, 0.25)'
        >>> each = ix.schemes.scaled("ones", [1, 2])
        >>> ix.draw(each, jax.random.key(0), (2, 3, 1), axes="stack i o")[..., 0].tolist()
        [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    """

    def of_part(part: Initializer, role: Role) -> Initializer:
        args = (("scheme", part), ("factor", factor))
        return part if role in ("bias", "scale") and not biases else Scaled(part, factor, name="scaled", args=args)

    return scheme.changed(of_part, lambda array: scaled(array, factor, biases=biases))


def _all(factor: float | tuple[float, ...]) -> tuple[float, ...]:
    return factor if isinstance(factor, tuple) else (factor,)


def _root_mean_square(factors: tuple[float, ...]) -> float:
    return math.sqrt(sum(factor**2 for factor in factors) / len(factors)) if len(factors) > 1 else abs(factors[0])


def _stack_of(parameter: Parameter, axes: Axes, factors: tuple[float, ...]) -> int:
    """The stored axis with one layer for each factor: the first axis of a stack, or of what a rule says is one."""
    axis = next(iter(axes.stack_axis), next(iter(axes.entry_axis), None))
    many = f"{len(factors)} factors" if len(factors) > 1 else "one factor in a list"
    seen = f'shape {parameter.shape}, axes "{axes.pattern}"'
    if axis is None:
        raise SchemeError(
            f"scaled has {many}, one for each layer of a stack; {array_name(parameter)} is not a stack.",
            seen,
            f'write one number, ("scaled", {{"scheme": ..., "factor": {factors[0]:g}}}), or select the stack alone',
        )
    if parameter.shape[axis] != len(factors):
        raise SchemeError(
            f"scaled has {many}; {array_name(parameter)} is a stack of {parameter.shape[axis]}.",
            f"{seen}: one factor for each entry of axis {axis}",
            f'write "factor": [{factors[0]:g}, ...] with {count(parameter.shape[axis], "number")}, or one number',
        )
    return axis
