"""What stands between the array a layer stores and the weight it computes with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from initax._math._positivity import Map, MapsPreimage, positivity


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What stands between the stored arrays and the effective weight.

    Attributes:
        name: what it is called in a plan, `"weight norm"`.
        preimage: hashable function from the effective weight to the arrays to store: the parameter's own first, then
            one per path in `companions`.
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
    preimage: Callable[[jax.Array], tuple[jax.Array, ...]]
    companions: tuple[str, ...] = ()
    warning: str | None = None
    positive: bool = False
    reaches_zero: bool = True
    most: float = math.inf
    share: float | None = 1.0
    scales: bool = False

    def left_of(self, fan: float | None) -> float | None:
        """Return what its mask leaves of an effective fan; `None` where that is not known."""
        return None if fan is None or self.share is None else fan * self.share


def share_of(mask: Any) -> float | None:
    """Return the share of the entries that a mask lets through; `None` where they are not known."""
    if isinstance(mask, jax.core.Tracer | jax.ShapeDtypeStruct):
        return None
    return float(np.mean(np.asarray(mask) != 0))  # on the host: inside jit JAX would trace it


def positive(mapping: str | Map) -> Constraint:
    """Return the constraint of a weight behind a positivity map."""
    found = positivity(mapping)
    return Constraint(
        name=found.name,
        preimage=MapsPreimage((found,)),
        positive=True,
        reaches_zero=found.reaches_zero,
        most=found.most,
    )


@dataclass(frozen=True, slots=True)
class PartPreimage:
    """From a complex weight, of which one part is drawn, to that part, which has half of its variance."""

    def __call__(self, effective: jax.Array) -> tuple[jax.Array, ...]:
        """Return the part to store."""
        return (effective * math.sqrt(0.5),)


COMPLEX_PART = Constraint(name="one part of a complex weight", preimage=PartPreimage(), scales=True)
"""What stands between a real array and the complex weight that it is the real or the imaginary part of."""
