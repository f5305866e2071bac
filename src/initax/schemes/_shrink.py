"""The scheme `shrink_perturb`: a part of what an array holds, and a part of what another scheme draws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from initax._errors import SchemeError
from initax._model._parameter import Layer, Parameter, Role
from initax.schemes._initializer import Initializer, InitializerAround, KernelAround, Recipe, array_name
from initax.schemes._named import Number, SchemeLike
from initax.schemes._named import scheme as named
from initax.schemes._scheme import Scheme


@dataclass(frozen=True, slots=True)
class ShrinkPerturbKernel(KernelAround):
    """The old array times the last number, plus another kernel's array times the one before it."""

    sees_old: ClassVar[bool] = True

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return what is added to the old array."""
        return self.inner(key, numbers[:-2], shape, dtype) * jnp.asarray(numbers[-2], dtype)

    def blend(self, old: jax.Array, drawn: jax.Array, numbers: tuple[Any, ...]) -> jax.Array:
        """Return the sum."""
        return old * jnp.asarray(numbers[-1], old.dtype) + drawn


@dataclass(frozen=True, slots=True)
class ShrinkPerturb(InitializerAround):
    """`shrink` times the old array plus `perturb` times what another initializer draws."""

    shrink: float
    perturb: float
    needs_input_second_moment: ClassVar[bool] = False

    @property
    def fits_bias(self) -> bool:  # type: ignore[override]
        """As the inner initializer."""
        return self.inner.fits_bias

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if parameter.constraint is not None:
            raise SchemeError(
                f"shrink_perturb adds to what is stored; {array_name(parameter)} is stored behind "
                f"{parameter.constraint.name}.",
                "the sum would not be the effective weight's",
                "draw it anew, or keep it",
            )
        recipe = self.inner_recipe(parameter, layer)
        numbers = (*recipe.numbers, self.perturb, self.shrink)
        return replace(recipe, kernel=ShrinkPerturbKernel(recipe.kernel), numbers=numbers, std=None)

    def __str__(self) -> str:
        """Return the initializer as a call: name and arguments."""
        return f"{self.name}({self.shrink:.6g}, {self.inner}, {self.perturb:.6g})"


@named("shrink_perturb")
def shrink_perturb(shrink: Number, scheme: SchemeLike, perturb: Number = 1.0) -> Scheme:
    """Return weights and biases that are partly what they were: `shrink * old + perturb * drawn`.

    Training that goes on with more data from the old weights generalizes worse than training from new ones; from
    shrunken and perturbed ones it does not. What the other scheme keeps, e.g. the scale of norms, stays as it is.

    Args:
        shrink: multiplies the old arrays; 0 draws anew, 1 adds noise.
        scheme: what draws the rest, written in any way a rule accepts. Where it makes zeros, as for biases, the old
            array only shrinks.
        perturb: multiplies what is drawn.

    Raises:
        SchemeError: a number or the scheme is wrong, or the stored array is not the effective weight. A model without
            values, an abstract one, is a `PlanError` when it is drawn.

    Examples:
        >>> import equinox as eqx, initax as ix, jax
        >>> layer = eqx.nn.Linear(200, 300, key=jax.random.key(0))
        >>> new = ix.reinit(layer, {"*": ix.schemes.shrink_perturb(0.5, "zeros")}, jax.random.key(1))
        >>> bool((new.weight == layer.weight / 2).all())
        True

    References:
        Ash & Adams 2020, "On warm-starting neural network training", arXiv 1910.08475, section 4.
    """

    def of_part(part: Initializer, _: Role) -> Initializer:
        args = (("shrink", shrink), ("scheme", part), ("perturb", perturb))
        return ShrinkPerturb(part, shrink, perturb, name="shrink_perturb", args=args)

    if any(part is not None and part.needs_input_second_moment for part in scheme.parts.values()):
        raise SchemeError(
            "shrink_perturb can't add to what auto draws: auto scales a whole weight to what reaches it.",
            'name a scheme that needs no inputs, "he_normal"',
        )
    return scheme.changed(of_part, lambda array: shrink_perturb(shrink, array, perturb))
