"""What stands between the array a layer stores and the weight it computes with, and how such constraints compose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._math._positivity import Map, positivity

Preimage = Callable[[jax.Array], tuple[jax.Array, ...]]
"""Hashable function from the effective weight to the arrays to store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What stands between the stored arrays and the effective weight.

    Attributes:
        name: what it is called in a plan, `"weight norm"`.
        preimage: from the effective weight to the arrays to store: the parameter's own first, then one per path in
            `companions`; `None` where the effective weight is stored as it is.
        companions: paths of the further arrays that must change with the parameter.
        warning: what the user must know when the parameter is drawn.
        positive: no effective weight is negative.
        reaches_zero: an effective weight can be zero.
        most: bound that every effective weight is below.
        share: the share of the entries that a mask lets through; `None` where its entries are not known, because it is
            traced or abstract.
        scales: a multiple of what is stored is the same multiple of the effective weight.
    """

    name: str
    preimage: Preimage | None = None
    companions: tuple[str, ...] = ()
    warning: str | None = None
    positive: bool = False
    reaches_zero: bool = True
    most: float = math.inf
    share: float | None = 1.0
    scales: bool = False

    def then(self, inner: Constraint) -> Constraint:
        """Return the constraint of an array behind this constraint and behind another one inside it.

        Args:
            inner: what stands between the stored array and what this constraint is applied to.
        """
        outer = self.preimage
        return Constraint(
            name=" of ".join(filter(None, (self.name, inner.name))),
            preimage=Composed(outer, inner.preimage) if outer and inner.preimage else outer or inner.preimage,
            companions=(*inner.companions, *self.companions),
            warning=self.warning or inner.warning,
            positive=self.positive or inner.positive,
            reaches_zero=self.reaches_zero and inner.reaches_zero,
            most=min(self.most, inner.most),
            share=None if self.share is None or inner.share is None else self.share * inner.share,
            scales=self.scales and inner.scales,
        )

    def at(self, weight: str, companions: tuple[str, ...] | None = None) -> Constraint:
        """Return the constraint of the weight at a path, with that path in the warning.

        Args:
            weight: the path, which stands in the warning in place of `"{weight}"`.
            companions: full paths of the companions, if they were relative ones.
        """
        warning = self.warning and self.warning.replace("{weight}", weight)
        return replace(self, warning=warning, companions=self.companions if companions is None else companions)


STORED = Constraint(name="", scales=True)
"""What stands between an array and a weight that are the same: nothing."""


@dataclass(frozen=True, slots=True)
class Composed:
    """The preimage under two constraints, the one inside the other."""

    outer: Preimage
    inner: Preimage

    def __call__(self, effective: jax.Array) -> tuple[jax.Array, ...]:
        """Return what is stored inside, then the companions of the outer constraint."""
        stored, *companions = self.outer(effective)
        return (*self.inner(stored), *companions)


@dataclass(frozen=True, slots=True)
class MapPreimage:
    """The preimage under an elementwise map."""

    map: Map

    def __call__(self, effective: jax.Array) -> tuple[jax.Array, ...]:
        """Return the array to store."""
        return (self.map.inverse(effective),)


def behind(mapping: str | Map) -> Constraint:
    """Return the constraint of a weight behind a positivity map, given by name, or behind any other map."""
    of = positivity(mapping)
    preimage = MapPreimage(of)
    return Constraint(name=of.name, preimage=preimage, positive=of.positive, reaches_zero=of.reaches_zero, most=of.most)


def masked(mask: Any) -> Constraint:
    """Return the constraint of a weight of which a mask lets some entries through: all are drawn, the mask stays."""
    return Constraint(name="mask", share=share_of(mask), scales=True)


def share_of(mask: Any) -> float | None:
    """Return the share of the entries that a mask lets through; `None` where they are not known."""
    if isinstance(mask, jax.core.Tracer | jax.ShapeDtypeStruct):
        return None
    return float(np.mean(np.asarray(mask) != 0))  # on the host: inside jit JAX would trace it


@dataclass(frozen=True, slots=True)
class WeightNormPreimage:
    """Weight norm stores a direction and a magnitude: `w = g * v / |v|` (Salimans & Kingma 2016, eq. 2).

    Attributes:
        reduced: axes that the norm is taken over.
        order: order of the other axes in which `g` is stored without the reduced ones; if left out, `g` has the axes
            of `w`, and size 1 along the reduced ones.
        magnitude: preimage of `g`, where it is behind a constraint, too.
    """

    reduced: tuple[int, ...]
    order: tuple[int, ...] | None = None
    magnitude: Preimage | None = None

    def __call__(self, effective: jax.Array) -> tuple[jax.Array, ...]:
        """Return the direction and the magnitude.

        Where the effective weight is zero its direction is arbitrary; a zero direction would divide zero by zero.
        """
        magnitude = jnp.sqrt(jnp.sum(jnp.abs(effective) ** 2, axis=self.reduced, keepdims=True))
        direction = jnp.where(magnitude == 0, jnp.ones_like(effective), effective)
        stored = magnitude if self.order is None else jnp.transpose(jnp.squeeze(magnitude, self.reduced), self.order)
        return direction, *(self.magnitude(stored) if self.magnitude else (stored,))


def weight_norm(
    reduced: tuple[int, ...], scale: str | None, order: tuple[int, ...] | None = None, magnitude: Constraint = STORED
) -> Constraint:
    """Return the constraint of a weight under weight norm.

    Args:
        reduced: axes that the norm is taken over.
        scale: path of the magnitude; `None` where the norm is always 1.
        order: order of the other axes in the magnitude, where that is stored without the reduced ones.
        magnitude: what stands between the stored magnitude and the one that is used.
    """
    if scale is None:
        warning = "weight norm without a scale holds every norm of {weight} at 1, whatever is drawn"
        return Constraint(name="weight norm", warning=warning)
    preimage = WeightNormPreimage(reduced, order, magnitude.preimage)
    return Constraint(name="weight norm", preimage=preimage, companions=(scale,))


@dataclass(frozen=True, slots=True)
class PartPreimage:
    """The preimage of a complex weight of which one part is stored: that part, with half of the variance."""

    def __call__(self, effective: jax.Array) -> tuple[jax.Array, ...]:
        """Return the part to store."""
        return (effective * math.sqrt(0.5),)


COMPLEX_PART = Constraint(name="one part of a complex weight", preimage=PartPreimage(), scales=True)
"""What stands between a real array and the complex weight that it is the real or the imaginary part of."""
