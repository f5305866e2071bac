"""optax: updates multiplied by a number for each array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax


def scale_by(multipliers: Callable[[Any], Any]) -> Any:
    """Return an `optax.GradientTransformation` without a state that multiplies updates.

    Args:
        multipliers: function from a tree of updates to a tree of numbers of its structure.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        factors = multipliers(updates)
        return jax.tree.map(lambda update, factor: update * factor, updates, factors), state

    return optax.GradientTransformation(optax.init_empty_state, update)
