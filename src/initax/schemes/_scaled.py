"""The scheme `scaled`: another scheme's weights times a factor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from initax._errors import SchemeError, message
from initax._model._parameter import Layer, Parameter, Role
from initax._model._reason import Reason
from initax.schemes._depth import depth_factor
from initax.schemes._initializer import Initializer, Kernel, Recipe, number, refuse_old
from initax.schemes._scheme import Scheme, as_scheme
from initax.schemes._table import made, row


@dataclass(frozen=True, slots=True)
class ScaledKernel(Kernel):
    """Another kernel's array times the last number."""

    inner: Kernel

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        """As the inner kernel."""
        return self.inner.elementwise

    def anywhere(self) -> ScaledKernel:
        """As the inner kernel."""
        return replace(self, inner=self.inner.anywhere())

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        return self.inner(key, numbers[:-1], shape, dtype) * jnp.asarray(numbers[-1], dtype)

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """As the inner kernel, where the factor keeps the sign."""
        return self.inner.lowest(numbers[:-1]) * numbers[-1] if numbers[-1] > 0 else -math.inf

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """As the inner kernel."""
        return self.inner.above(numbers[:-1], bound / numbers[-1]) if numbers[-1] > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Scaled(Initializer):
    """Another initializer's array times a factor."""

    inner: Initializer
    factor: float

    @property
    def needs_reach(self) -> bool:  # type: ignore[override]
        """As the inner initializer."""
        return self.inner.needs_reach

    def declines(self, parameter: Parameter) -> Reason | None:
        """As the inner initializer."""
        return self.inner.declines(parameter)

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        recipe = self.inner.recipe(parameter, layer)
        refuse_old("scaled", recipe, parameter)
        std = None if recipe.std is None else recipe.std * abs(self.factor)
        return replace(recipe, kernel=ScaledKernel(recipe.kernel), numbers=(*recipe.numbers, self.factor), std=std)

    def spec(self) -> Any:
        """Return what JSON keeps of it."""
        return [self.name, {"scheme": self.inner.spec(), "factor": self.factor}]

    def __str__(self) -> str:
        """Return it as one would call it."""
        return f"scaled({self.inner}, {self.factor:.6g})"


@row("scaled")
def scaled(scheme: Any, factor: float | tuple[str, Mapping[str, int]]) -> Scheme:
    """Return another scheme with its weights multiplied by a factor; its biases and scales stay as they are.

    Args:
        scheme: the scheme, written in any way a rule accepts.
        factor: multiplies the weights, and so their standard deviation: a number, or the recipe and sizes of a
            `depth_factor`, `("gpt2", {"layers": 12})`.

    Raises:
        SchemeError: the scheme or the factor is wrong.

    Examples:
        >>> import initax as ix
        >>> str(ix.schemes.scaled("glorot_normal", 0.5).parts["weight"])
        'scaled(glorot_normal, 0.5)'
        >>> str(ix.schemes.scaled("glorot_normal", ("gpt2", {"layers": 8})).parts["weight"])
        'scaled(glorot_normal, 0.25)'
    """
    base = as_scheme(scheme)
    by = _number(factor)
    args = (("scheme", base), ("factor", by))

    def of(part: Initializer | None, role: Role) -> Initializer | None:
        if part is None or role in ("bias", "scale"):
            return part
        return Scaled("scaled", (), part, by)

    whole = made("scaled", args, {role: of(part, role) for role, part in base.parts.items()})
    whole.axes, whole.sizes = dict(base.axes), dict(base.sizes)
    whole.arrays = {name: None if each is None else scaled(each, by) for name, each in base.arrays.items()}
    return whole


def _number(factor: Any) -> float:
    match factor:
        case [str() as recipe, Mapping() as sizes]:
            return depth_factor(recipe, **sizes)
        case str():
            raise SchemeError(
                message(
                    f"scaled: factor must be a number, or a recipe and its sizes, not {factor!r}.",
                    'write ("scaled", {"scheme": ..., "factor": ("gpt2", {"layers": 12})})',
                )
            )
    return number("scaled", "factor", factor)
