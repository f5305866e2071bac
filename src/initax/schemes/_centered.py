"""The scheme `centered`: another scheme's weights, less the mean of each output's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import SchemeError
from initax._math._axes import Axes
from initax._model._parameter import Layer, Parameter, Role
from initax.schemes._constant import FilledKernel
from initax.schemes._initializer import Initializer, InitializerAround, KernelAround, Recipe, array_name
from initax.schemes._named import SchemeLike
from initax.schemes._named import scheme as named
from initax.schemes._scheme import Scheme

FEWEST = 8
"""Inputs of one output below which a centered weight has too few free entries left to be called by its law."""


@dataclass(frozen=True, slots=True)
class CenteredKernel(KernelAround):
    """Another kernel's array less the mean over the inputs of each output, scaled so that the variance stays."""

    axes: Axes
    elementwise: ClassVar[bool] = False

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        split = jnp.reshape(self.inner(key, numbers, shape, dtype), self.axes.split)
        centered = split - jnp.mean(split, (*self.axes.receptive_axis, *self.axes.in_axis), keepdims=True)
        freed = math.sqrt(self.axes.fan_in / (self.axes.fan_in - 1))
        return jnp.reshape(centered * jnp.asarray(freed, dtype), shape)

    def mean(self, numbers: tuple[Any, ...]) -> float:
        """Return zero."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Centered(InitializerAround):
    """Another initializer's array with the mean of each output's weights taken off."""

    centers: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        axes = self.known_axes(parameter)
        if why := _why_unsuited(parameter, axes):
            raise _unsuited(parameter, axes, why, "he_normal")
        recipe = self.inner_recipe(parameter, layer)
        # What a framework itself starts with zeros, a last layer, stays zero under `default`.
        starts_at_zero = self.inner.draws_reserved and recipe.moments == (0, 0)
        if _is_constant(recipe) and not starts_at_zero:
            why = f"{self.inner} gives each output equal weights, and less their mean these are zero"
            raise _unsuited(parameter, axes, why, "zeros")
        return replace(recipe, kernel=CenteredKernel(recipe.kernel, axes))

    def __str__(self) -> str:
        """Return the initializer as a call: name and arguments."""
        return f"centered({self.inner})" if self.name == "centered" else Initializer.__str__(self)


@named("centered")
def centered(scheme: SchemeLike) -> Scheme:
    """Return another scheme with the mean of each output's weights taken off; biases and scales stay as they are.

    What comes out of a weight then no longer depends on the mean of what goes in, which after relu, gelu or silu is
    what examples have in common: deep networks keep examples apart. The mean is taken over inputs and receptive field,
    for each group, gate and stack entry alone, and the rest is scaled by n / (n - 1) in variance for the degree of
    freedom that is lost. What the signal's own mean gave to the length is missing: with `("auto", {"center": True})`
    the weights are scaled by the variance of what reaches them, and not by its mean square. Embeddings stay as they
    are.

    Args:
        scheme: the scheme, written in any way a rule accepts.

    Raises:
        SchemeError: the scheme is wrong; when a plan is made, a weight is positive, depthwise, has fewer than eight
            inputs, or is a constant.

    Examples:
        >>> import initax as ix, jax
        >>> w = ix.draw(("centered", {"scheme": "he_normal"}), jax.random.key(0), (64, 32))
        >>> bool(abs(w.mean(0)).max() < 1e-6)
        True

    References:
        Brock et al. 2021, "Characterizing signal propagation to close the performance gap in unnormalized ResNets",
        arXiv 2101.08692, section 4, for the idea; there the stored weight is standardized in every forward pass.
    """

    def of_part(part: Initializer, role: Role) -> Initializer:
        is_centered = role in ("weight", "recurrent")
        return Centered(part, name="centered", args=(("scheme", part),)) if is_centered else part

    return scheme.changed(of_part, centered)


def _is_constant(recipe: Recipe) -> bool:
    """Whether all weights of an output are known to be one number."""
    if isinstance(recipe.kernel, FilledKernel):
        return np.ndim(recipe.kernel.values) < 2
    return recipe.std == 0 and recipe.moments is not None


def _why_unsuited(parameter: Parameter, axes: Axes) -> str:
    """Why a weight can't be centered, whatever draws it; nothing where it can."""
    *_, inputs, _ = axes.canonical_shape
    if parameter.constraint is not None and not parameter.constraint.scales:
        return f"it is stored behind {parameter.constraint.name}, and its mean may have to stay"
    if axes.receptive_axis and axes.batch_size > 1 and inputs == 1:
        return "it is depthwise: its mean is the channel itself"
    return f"one output has {axes.fan_in} inputs, fewer than {FEWEST}" if axes.fan_in < FEWEST else ""


def _unsuited(parameter: Parameter, axes: Axes, why: str, scheme: str) -> SchemeError:
    """The error for a weight that can't be centered, with a scheme that serves it."""
    return SchemeError(
        f"centered can't serve {array_name(parameter)}: {why}.",
        f'shape {parameter.shape}, axes "{axes.pattern}"',
        f'for it write a rule of its own: {{"{parameter.path or "*"}": "{scheme}"}}',
    )
