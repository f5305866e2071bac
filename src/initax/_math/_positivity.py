"""Maps that make a stored number a positive weight, and their inverses in forms that float32 survives.

A layer under such a map stores `s` and computes with `map(s)`. A scheme draws the effective weight, so what has to be
stored is its inverse image. The obvious formulas fail: `log(exp(w) - 1)` is minus infinity in float32 for every weight
below 6e-8, which a layer of 4,096 log-normal weights has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import InitaxError, alternatives, with_line

Elementwise = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Map:
    """One map from stored numbers to effective weights.

    Attributes:
        name: what a plan calls it.
        forward: from stored to effective.
        inverse: from effective to stored.
        positive: no effective weight is negative.
        reaches_zero: zero is the image of a number that can be stored.
        most: bound that no effective weight reaches.
    """

    name: str
    forward: Elementwise
    inverse: Elementwise
    positive: bool = True
    reaches_zero: bool = True
    most: float = math.inf


LIMITS: Any = jnp.finfo
"""The limits of a type, untyped in JAX's stubs."""


def _at_least_tiny(weight: Any) -> Any:
    return jnp.maximum(weight, LIMITS(weight.dtype).tiny)


def inverse_softplus(weight: Any) -> Any:
    """Return `s` with `softplus(s) = weight`, accurate from 1e-30 to 1e30."""
    weight = _at_least_tiny(weight)
    return weight + jnp.log(-jnp.expm1(-weight))


def inverse_exp(weight: Any) -> Any:
    """Return the logarithm; of zero that of the smallest positive number."""
    return jnp.log(_at_least_tiny(weight))


def inverse_sigmoid(weight: Any) -> Any:
    """Return the log-odds, of at most the largest number below one."""
    weight = jnp.minimum(_at_least_tiny(weight), 1 - LIMITS(weight.dtype).eps)
    return jnp.log(weight) - jnp.log1p(-weight)


def elu_plus_one(stored: Any) -> Any:
    """Return `elu(s) + 1`, without the cancellation of adding one to minus almost one."""
    return jnp.where(stored > 0, stored + 1, jnp.exp(jnp.minimum(stored, 0)))


def inverse_elu_plus_one(weight: Any) -> Any:
    """Return `s` with `elu(s) + 1 = weight`."""
    return jnp.where(weight > 1, weight - 1, jnp.log(jnp.minimum(_at_least_tiny(weight), 1)))


def negative_exp(stored: Any) -> Any:
    """Return `exp(s)` below zero and `s` from zero on (Sivaprasad et al. 2021)."""
    return jnp.where(stored < 0, jnp.exp(jnp.minimum(stored, 0)), stored)


def clip(stored: Any) -> Any:
    """Return the positive part."""
    return jnp.maximum(stored, 0)


POSITIVITY: dict[str, Map] = {
    "softplus": Map("softplus", jax.nn.softplus, inverse_softplus, reaches_zero=False),
    "exp": Map("exp", jnp.exp, inverse_exp, reaches_zero=False),
    "square": Map("square", jnp.square, jnp.sqrt),
    "abs": Map("abs", jnp.abs, jnp.positive),
    "clip": Map("clip", clip, jnp.positive),
    "relu": Map("relu", jax.nn.relu, jnp.positive),
    "sigmoid": Map("sigmoid", jax.nn.sigmoid, inverse_sigmoid, reaches_zero=False, most=1.0),
    "elu_plus_one": Map("elu_plus_one", elu_plus_one, inverse_elu_plus_one, reaches_zero=False),
    "negative_exp": Map("negative_exp", negative_exp, jnp.positive),
}
"""Maps by the name a model is built with."""

_BY_FUNCTION: dict[Any, Map] = {mapping.forward: mapping for mapping in POSITIVITY.values()}


def map_of(function: Any) -> Map | None:
    """Return the map that a function is, or `None` where it is not known."""
    try:
        return _BY_FUNCTION.get(function)
    except TypeError:
        return None


def positivity(name: str | Map) -> Map:
    """Return the map of that name.

    Raises:
        InitaxError: there is none.
    """
    if isinstance(name, Map):
        return name
    if name not in POSITIVITY:
        raise InitaxError(
            f"no positivity map is called {name!r}.",
            *alternatives("maps", name, POSITIVITY),
            'for one of your own: ix.convex.register_positivity("name", forward, inverse=...)',
        )
    return POSITIVITY[name]


CHECKED = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.5, 0.9)
"""Effective weights at which a map and its inverse are held against each other."""


@with_line("ix.convex.register_positivity", 'write ix.convex.register_positivity("cube", forward, inverse=inverse)')
def register_positivity(name: str, forward: Elementwise, *, inverse: Elementwise) -> None:
    """Make a positivity map of your own known, by its name and wherever its function is met.

    From then on a weight behind it, e.g. `paramax.Parameterize(forward, ...)`, is drawn so that the effective weight
    has the scheme's law, and `inverse` of it is what is stored.

    Args:
        name: what plans and errors call it, and what `positivity=` takes.
        forward: elementwise function from stored numbers to positive weights.
        inverse: its inverse on positive weights.

    Raises:
        InitaxError: the name is taken, a value of `forward` is negative, or `forward(inverse(w))` is not `w`.

    Examples:
        >>> import initax as ix, jax.numpy as jnp
        >>> ix.convex.register_positivity("doc_fourth", lambda s: s**4, inverse=lambda w: w**0.25)
        >>> ix.convex.FICNN(3, 1, [8], positivity="doc_fourth", key=jax.random.key(0)).layers[1].positivity
        'doc_fourth'
    """
    if name in _SHIPPED:
        raise InitaxError(f'"{name}" is a positivity map of initax and keeps its meaning.', "choose another name")
    weights = np.array(CHECKED, np.float32)
    back = np.asarray(forward(inverse(jnp.asarray(weights))))
    wrong = np.flatnonzero(~(np.abs(back - weights) <= 1e-4 * weights))
    if len(wrong):
        index = int(wrong[0])
        raise InitaxError(
            f'register_positivity("{name}"): forward(inverse(w)) is not w.',
            f"at w={weights[index]:g} it is {back[index]:g}",
            "pass the inverse of the map: forward=jnp.exp, inverse=jnp.log",
        )
    grid = np.linspace(-5, 5, 101, dtype=np.float32)
    image = np.asarray(forward(jnp.asarray(grid)))
    negative = np.flatnonzero(image < 0)
    if len(negative):
        index = int(negative[0])
        raise InitaxError(f'register_positivity("{name}"): forward({grid[index]:g}) is {image[index]:g}, not positive.')
    POSITIVITY[name] = _BY_FUNCTION[forward] = Map(name, forward, inverse, reaches_zero=bool((image == 0).any()))


_SHIPPED = frozenset(POSITIVITY)
