"""Gaussian moments of an activation: closed forms where there are any, quadrature split at the kinks elsewhere.

Plain Gauss-Hermite quadrature is 0.65 % off for the mean of a relu: a kink amid its nodes costs it all accuracy.
So the kinks are found first and made borders of Gauss-Legendre panels; the two-dimensional moment is taken over the
same panels in both variables, with the density of correlated normals as its weight.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import SchemeError, listing, message
from initax._math._gain import named_activation

Activation = str | Callable[[Any], Any]

REACH = 12.0
"""Standard deviations up to which is integrated; the mass beyond is 4e-33."""
NODES = 40
"""Gauss-Legendre nodes of one panel."""
GRID = 4801
"""Points of the grid on which an activation is looked at: for kinks, and for being convex and non-decreasing."""
JUMP = 1e-3
"""Change of slope within one step of bisection's last interval that counts as a kink."""
SUITABLE = ("celu", "elu", "exp", "leaky_relu", "linear", "relu", "softplus", "sparse_plus", "squareplus")
"""Names of convex, non-decreasing activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Moments of `phi(sqrt(q) z)` for standard normal `z`.

    Attributes:
        mean: `E[phi]`.
        square: `E[phi^2]`.
        slope: `E[phi']`, by Stein's identity `E[phi z] / sqrt(q)`.
        curvature: `E[phi'']`, likewise `E[phi (z^2 - 1)] / q`.
        square_by_mean: derivative of `E[phi^2]` by the mean of the normal.
        square_by_variance: derivative of `E[phi^2]` by its variance.
    """

    mean: float
    square: float
    slope: float
    curvature: float
    square_by_mean: float
    square_by_variance: float


def activation_name(activation: Activation) -> str:
    """Return what an activation is called."""
    if isinstance(activation, str):
        return activation
    inner = activation.func if isinstance(activation, functools.partial) else activation
    return str(getattr(inner, "__name__", type(inner).__name__))


def as_function(activation: Activation) -> Callable[[Any], Any]:
    """Return an activation given by name or as a function.

    Raises:
        SchemeError: no activation has that name, or it is no function.
    """
    if isinstance(activation, str):
        return named_activation(activation)
    if not callable(activation):
        raise SchemeError(
            message(
                f"an activation is a function or the name of one, not {activation!r}.", 'write activation="softplus"'
            )
        )
    return activation


def moments(activation: Activation, variance: float = 1.0) -> Moments:
    """Return the one-dimensional Gaussian moments of an activation.

    Args:
        activation: a function of one array, or the name of one.
        variance: variance `q` of the normal it is applied to.

    Raises:
        SchemeError: the activation is unknown, not elementwise, or its moments are not finite.

    Examples:
        >>> found = moments("relu")
        >>> round(found.mean, 12), round(found.square, 12)
        (0.398942280401, 0.5)
    """
    return _moments(as_function(activation), float(variance))


@functools.lru_cache(maxsize=256)
def _moments(function: Callable[[Any], Any], variance: float) -> Moments:
    z, weights = _nodes(_borders(function, variance, 1.0))
    phi = _values(function, math.sqrt(variance) * z)
    density = weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    root = math.sqrt(variance)

    def expect(values: np.ndarray) -> float:
        return float(np.sum(density * values))

    slope, leak = expect(phi * z) / root, _leak_of(function)
    mean, square = expect(phi), expect(phi**2)
    if leak is not None:
        mean, square = (1 - leak) * root / math.sqrt(2 * math.pi), (1 + leak**2) * variance / 2
    found = Moments(
        mean=mean,
        square=square,
        slope=slope,
        curvature=expect(phi * (z**2 - 1)) / variance,
        square_by_mean=expect(phi**2 * z) / root,
        square_by_variance=expect(phi**2 * (z**2 - 1)) / (2 * variance),
    )
    if not math.isfinite(found.square) or found.square <= 0:
        name = activation_name(function)
        raise SchemeError(message(f"the activation {name} has second moment {found.square}; no scheme can use it."))
    return found


def cross_moment(activation: Activation, variance: float, correlation: float) -> float:
    """Return `E[phi(sqrt(q) z1) phi(sqrt(q) z2)]` for standard normals of a given correlation.

    Args:
        activation: a function of one array, or the name of one.
        variance: variance `q` of both.
        correlation: correlation between the two, strictly between -1 and 1.

    Examples:
        >>> round(cross_moment("relu", 1.0, 0.5), 12), round(cross_moment("softplus", 1.0, 0.5), 12)
        (0.304498890522, 0.780078165207)
    """
    return _cross_moment(as_function(activation), float(variance), float(correlation))


@functools.lru_cache(maxsize=256)
def _cross_moment(function: Callable[[Any], Any], variance: float, correlation: float) -> float:
    leak, spread = _leak_of(function), math.sqrt(1 - correlation**2)
    if leak is not None:
        even = 2 * variance / math.pi * (spread + correlation * math.asin(correlation))
        return ((1 + leak) / 2) ** 2 * variance * correlation + ((1 - leak) / 2) ** 2 * even
    z, weights = _nodes(_borders(function, variance, min(1.0, 6 * spread)))
    weighted = weights * _values(function, math.sqrt(variance) * z)
    total = 0.0
    # Rows panel by panel, and of the columns those in reach only: near a correlation of one the density is a thin band.
    for start in range(0, len(z), NODES):
        rows = slice(start, start + NODES)
        near = (correlation * z[rows].min() - REACH * spread, correlation * z[rows].max() + REACH * spread)
        columns = slice(*np.searchsorted(z, (min(near), max(near))))
        one, other = z[rows, None], z[None, columns]
        exponent = -(one**2 - 2 * correlation * one * other + other**2) / (2 * spread**2)
        total += float(weighted[rows] @ np.exp(exponent) @ weighted[columns])
    return total / (2 * math.pi * spread)


def _leak_of(function: Callable[[Any], Any]) -> float | None:
    """The slope left of zero where the activation is a relu or a leaky relu, whose moments have closed forms."""
    if function is jax.nn.relu:
        return 0.0
    if function is jax.nn.leaky_relu:
        return 0.01
    if isinstance(function, functools.partial) and function.func is jax.nn.leaky_relu and not function.args:
        slope = function.keywords.get("negative_slope", 0.01)
        return float(slope) if isinstance(slope, int | float) else None
    return None


def _values(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    name = activation_name(function)
    try:
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            values = np.asarray(function(jnp.asarray(x, jnp.float64)), dtype=np.float64)
    except Exception as error:
        first = str(error).split("\n")[0]
        raise SchemeError(message(f"the activation {name} can't be applied to an array of reals: {first}")) from error
    if values.shape != x.shape:
        raise SchemeError(message(f"the activation {name} is not elementwise: {x.shape} became {values.shape}."))
    return values


def _slopes(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """Right-hand difference quotients, over a step small against every interval they are asked for."""
    step = 1e-7
    found: np.ndarray = (_values(function, x + step) - _values(function, x)) / step
    return found


@functools.lru_cache(maxsize=256)
def kinks(function: Callable[[Any], Any], reach: float) -> tuple[float, ...]:
    """Return where the slope of an activation jumps, by bisection of every grid interval in which it changes much.

    Examples:
        >>> import jax
        >>> kinks(jax.nn.relu, 12.0), kinks(jax.nn.softplus, 12.0)
        ((0.0,), ())
    """
    grid = np.linspace(-reach, reach, GRID)
    slopes = _slopes(function, grid)
    with np.errstate(invalid="ignore"):
        change = np.abs(np.diff(slopes))
    # A kink changes the slope far more than its neighbors do, a smooth function about as much.
    around = np.maximum(np.roll(change, 2), np.roll(change, -2))
    found: list[float] = []
    for place in np.flatnonzero((change > JUMP) & (change > 4 * around)):
        low, high = grid[place], grid[place + 1]
        for _ in range(30):
            middle = (low + high) / 2
            left, center, right = _slopes(function, np.array([low, middle, high]))
            low, high = (low, middle) if abs(center - left) > abs(right - center) else (middle, high)
            if high - low < 4e-7:
                break
        middle = (low + high) / 2
        whole = round(middle, 5)
        found.append(float(whole if abs(whole - middle) < 1e-6 else middle) + 0.0)
    return tuple(dict.fromkeys(found))


def _borders(function: Callable[[Any], Any], variance: float, length: float) -> np.ndarray:
    root = math.sqrt(variance)
    inner = [each / root for each in kinks(function, REACH * root)]
    cuts = np.array(sorted({-REACH, 0.0, REACH, *inner}))
    panels = [
        np.linspace(low, high, 1 + math.ceil((high - low) / length))[:-1] for low, high in itertools.pairwise(cuts)
    ]
    return np.concatenate([*panels, cuts[-1:]])


def _nodes(borders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    panel, panel_weights = np.polynomial.legendre.leggauss(NODES)
    low, width = borders[:-1, None], np.diff(borders)[:, None]
    return (low + width * (panel + 1) / 2).ravel(), (width * panel_weights / 2).ravel()


def refuse_unsuitable(scheme: str, activation: Activation, variance: float = 1.0) -> None:
    """Raise where an activation is not convex and non-decreasing, looked at on a grid.

    A network with it is not convex, whatever its weights: a sum of convex functions under it need not be one.

    Raises:
        SchemeError: it falls, or its slope does, somewhere within twelve standard deviations.
    """
    problem = _problem(as_function(activation), float(variance))
    if problem:
        raise SchemeError(
            message(
                f"{scheme}: the activation {activation_name(activation)} is not {problem}.",
                f"convex and non-decreasing are: {listing(SUITABLE, limit=20)}",
                f'write ("{scheme}", {{"activation": "softplus"}})',
            )
        )


@functools.lru_cache(maxsize=256)
def _problem(function: Callable[[Any], Any], variance: float) -> str | None:
    reach = REACH * math.sqrt(variance)
    x = np.linspace(-reach, reach, GRID)
    values = _values(function, x)
    rises = np.diff(values) / np.diff(x)
    noise = 1e-12 * np.maximum(np.abs(values[1:]), 1) / (x[1] - x[0])
    falling = np.flatnonzero(~(rises >= -noise))
    if len(falling):
        at = int(falling[len(falling) // 2])
        return f"non-decreasing: it falls at {x[at]:.4g}, from {values[at]:.6g} to {values[at + 1]:.6g}"
    bending = np.flatnonzero(~(np.diff(rises) >= -(noise[1:] + noise[:-1])))
    if len(bending):
        at = int(bending[len(bending) // 2])
        return f"convex: at {x[at + 1]:.4g} its slope falls from {rises[at]:.6g} to {rises[at + 1]:.6g}"
    return None
