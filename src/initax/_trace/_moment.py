"""A signal as its values at the nodes of a quadrature, and functions of such signals entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._math._gaussian import quadrature
from initax._trace._arrangement import Entries
from initax._trace._jaxpr import evaluated

BOUNDED = ("max", "min", "select_n", "clamp")
"""Functions of two signals that are never larger than the larger one, so that their moments are finite."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A signal.

    Attributes:
        values: its values at the nodes of a normal variable.
        of: the normal entries it is a function of, entry by entry; `None` for a constant.
        assumed: the parameters of which a law was assumed for it.
        statistic: whether it is made of a sum of numbers that are never negative, as the variance in a norm is.
    """

    values: np.ndarray
    of: Entries | None
    assumed: frozenset[int] = frozenset()
    statistic: bool = False

    @property
    def mean(self) -> float:
        """Its mean."""
        return float(quadrature()[1] @ self.values.astype(float))

    @property
    def square(self) -> float:
        """The mean of its square."""
        return float(quadrature()[1] @ self.values.astype(float) ** 2)

    @property
    def slope(self) -> float:
        """How much its length deviates, relative to how much that of its variable does: 1 for a relu, 3 for its cube.

        The derivative of `log E f(sqrt(q) z)**2` by `log q` at 1, which is `E f**2 (z**2 - 1) / 2 E f**2`.
        """
        nodes, weights = quadrature()
        squares = weights * self.values.astype(float) ** 2
        return float(squares @ (nodes**2 - 1) / (2 * squares.sum())) if squares.sum() > 0 else 0.0


def constant(number: float) -> Moment:
    """Return a number as a signal."""
    return Moment(np.full(quadrature()[0].size, number), None)


def moments_of_two(eqn: Any, signals: Sequence[Moment]) -> tuple[float, float] | None:
    """Return mean and mean square of a function of two independent signals; `None` where they are not known."""
    name = eqn.primitive.name
    means, squares = [signal.mean for signal in signals], [signal.square for signal in signals]
    if name == "mul":
        return means[0] * means[1], squares[0] * squares[1]
    if name in ("add", "add_any", "sub"):
        mean = means[0] + (means[1] if name != "sub" else -means[1])
        return mean, sum(squares) - sum(each**2 for each in means) + mean**2
    if name not in BOUNDED:
        return None
    first = next(signal.of for signal in signals if signal.of is not None)
    nodes, weights = quadrature()
    values = _applied(
        eqn,
        [
            np.repeat(each.values, nodes.size) if each.of == first else np.tile(each.values, nodes.size)
            for each in signals
        ],
    )
    if values is None or not np.all(np.isfinite(values)):
        return None
    both = np.outer(weights, weights).ravel()
    return float(both @ values), float(both @ values.astype(float) ** 2)


def function_of(eqn: Any, signals: Sequence[Moment], of: Entries | None) -> Moment | None:
    """Return an equation applied entry by entry to the values at the nodes of the quadrature."""
    values = _applied(eqn, [signal.values for signal in signals])
    # A constant may be nan, as in JAX's variance of no entries, which then chooses another value.
    is_known = values is not None and (of is None or bool(np.all(np.isfinite(values))))
    return Moment(values, of) if values is not None and is_known else None


def _applied(eqn: Any, values: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return an equation applied entry by entry to vectors; `None` where no real vector comes out."""
    with jax.ensure_compile_time_eval():
        operands = [jnp.asarray(each).astype(atom.aval.dtype) for each, atom in zip(values, eqn.invars, strict=True)]
        result = np.asarray(evaluated(eqn, operands, in_context=False)[0])
    return result if result.shape == values[0].shape and np.isrealobj(result) else None
