"""Expectations of an activation under a normal: its gain, its moments, and its cross moment for two correlated normals.

Plain Gauss-Hermite quadrature is 0.65 % off for a relu: a kink between its nodes costs all accuracy. Here the nodes are
those of Gauss-Legendre on panels, and a panel is halved until its two halves agree with it, so that panels end at kinks
and jumps. The cross moment uses the same panels in both variables. A relu has closed forms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import SchemeError, alternatives, listing, with_line

Activation = str | Callable[[Any], Any]

IN_JAX = (
    *("celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "leaky_relu", "log_sigmoid"),
    *("mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softplus", "sparse_plus", "sparse_sigmoid"),
    *("squareplus", "swish", "tanh"),
)
"""The elementwise activations of `jax.nn`."""
LINEAR = ("linear", "identity", *(f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)))
ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    **{name: getattr(jax.nn, name) for name in IN_JAX},
    **dict.fromkeys(LINEAR, jnp.positive),
    "sin": jnp.sin,
    "exp": jnp.exp,
}
"""Name of an activation → its function."""

REACH = 12
"""Standard deviations up to which is integrated; the mass beyond is 4e-33."""

NODES = 24
"""Gauss-Legendre nodes of one panel."""

HALVINGS = 44
"""Largest number of times that a panel with a kink or a jump is halved."""

MAX_PANELS = 4096
"""Largest number of panels that are halved at once; an activation computed in low precision asks for more, in vain."""

AGREE = 1e-14
"""Largest difference between a panel and its two halves, relative to the whole integral."""

GRID = 4801
"""Points at which an activation is checked for being convex and non-decreasing."""

SUITABLE = ("celu", "elu", "exp", "leaky_relu", "linear", "relu", "softplus", "sparse_plus", "squareplus")
"""Names of convex, non-decreasing activations."""


@with_line("ix.gain", 'write ix.gain("leaky_relu", 0.2)')
def gain(activation: str | Callable[[Any], Any], param: float | None = None) -> float:
    """Return the exact gain of an activation, `1 / sqrt(E[phi(z)^2])` for standard normal `z`.

    A layer of unit-variance pre-activations followed by `activation` and a weight of standard deviation
    `gain / sqrt(fan_in)` has unit-variance pre-activations again (He et al. 2015, eq. 10, for any activation).
    PyTorch's table agrees for relu and leaky_relu and differs for tanh (5/3 there, 1.5925 exactly), sigmoid (1 there,
    1.8462 exactly) and selu (3/4 there, 1 exactly).

    Args:
        activation: a function of one array, or the name of one: `"relu"`, `"tanh"`, any in `jax.nn`; or, as in PyTorch,
            the name of a linear layer, `"conv2d"`, after which nothing is to be made up for.
        param: the activation's own argument, as PyTorch has it: the slope of `"leaky_relu"`, the alpha of `"elu"` and
            `"celu"`.

    Returns:
        The gain; it multiplies a standard deviation.

    Raises:
        SchemeError: no activation has that name, it takes no such argument, or the function is not a finite elementwise
            one.

    Examples:
        >>> round(gain("relu"), 6), round(gain("tanh"), 6)
        (1.414214, 1.592537)
        >>> round(gain("leaky_relu", 0.2), 6)
        1.38675

    References:
        He et al. 2015, arXiv 1502.01852, eq. 10.
    """
    if not isinstance(activation, str) and not callable(activation):
        raise SchemeError(f"gain takes an activation or its name, not {activation!r}.", 'ix.gain("relu")')
    function = hashable(activation)
    function = function if param is None else _with_argument(activation, function, param)
    return _moments(function, 1.0, "its gain is not defined").square ** -0.5


TAKES_ARGUMENT = {"leaky_relu": "negative_slope", "elu": "alpha", "celu": "alpha"}
"""Activations that take an argument → its name in `jax.nn`."""


def _with_argument(activation: Any, function: Callable[[Any], Any], param: float) -> Callable[[Any], Any]:
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", "")
    if name not in TAKES_ARGUMENT:
        raise SchemeError(
            f"the activation {name or repr(activation)} takes no argument, {param!r} here.",
            f"those that do: {listing(TAKES_ARGUMENT)}",
            f"of any other give the function: ix.gain(lambda x: f(x, {param!r}))",
        )
    if isinstance(param, bool) or not isinstance(param, int | float):
        raise SchemeError(f"gain: param must be a number, not {param!r}.", f'ix.gain("{name}", 0.2)')
    return _partial(function, TAKES_ARGUMENT[name], float(param))


@functools.lru_cache(maxsize=256)
def _partial(function: Callable[[Any], Any], argument: str, value: float) -> Callable[[Any], Any]:
    """The same function each time, so that its gain is worked out once."""
    return functools.partial(function, **{argument: value})


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Moments of `phi(sqrt(q) z)` for standard normal `z`.

    Attributes:
        mean: `E[phi]`.
        square: `E[phi^2]`.
        slope: `E[phi']`, by Stein's identity `E[phi z] / sqrt(q)`.
        curvature: `E[phi'']`, by the same identity `E[phi (z^2 - 1)] / q`.
        square_by_mean: derivative of `E[phi^2]` by the mean of the normal.
        square_by_variance: derivative of `E[phi^2]` by its variance.
    """

    mean: float
    square: float
    slope: float
    curvature: float
    square_by_mean: float
    square_by_variance: float


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
    return _moments(hashable(activation), float(variance), "no scheme can use it")


@functools.lru_cache(maxsize=256)
def _moments(function: Callable[[Any], Any], variance: float, otherwise: str) -> Moments:
    """Moments of an activation; `otherwise` says what an error says where its mean square can't be divided by."""
    root, leak = math.sqrt(variance), _leak_of(function)
    if leak is not None:
        half = (1 + leak**2) / 2
        step = (1 - leak) / math.sqrt(2 * math.pi)
        return Moments(
            mean=step * root,
            square=half * variance,
            slope=(1 + leak) / 2,
            curvature=step / root,
            square_by_mean=2 * (1 + leak) * step * root,
            square_by_variance=half,
        )
    z, weights, phi = samples(function, variance)

    def expect(values: np.ndarray) -> float:
        return float(np.sum(weights * values))

    square = expect(phi**2)
    if not math.isfinite(square) or square <= 0:
        raise SchemeError(f"the activation {activation_name(function)} has second moment {square}; {otherwise}.")
    return Moments(
        mean=expect(phi),
        square=square,
        slope=expect(phi * z) / root,
        curvature=expect(phi * (z**2 - 1)) / variance,
        square_by_mean=expect(phi**2 * z) / root,
        square_by_variance=expect(phi**2 * (z**2 - 1)) / (2 * variance),
    )


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
    return _cross_moment(hashable(activation), float(variance), float(correlation))


@functools.lru_cache(maxsize=256)
def _cross_moment(function: Callable[[Any], Any], variance: float, correlation: float) -> float:
    leak, spread = _leak_of(function), math.sqrt(1 - correlation**2)
    if leak is not None:
        even = 2 * variance / math.pi * (spread + correlation * math.asin(correlation))
        return ((1 + leak) / 2) ** 2 * variance * correlation + ((1 - leak) / 2) ** 2 * even
    z, weights, values = samples(function, variance, min(1.0, 6 * spread))
    weighted = weights * values
    total = 0.0
    # The density of both, divided by that of each; rows panel by panel, and of the columns those in reach only: near a
    # correlation of one it is a thin band.
    for start in range(0, len(z), NODES):
        rows = slice(start, start + NODES)
        near = (correlation * z[rows].min() - REACH * spread, correlation * z[rows].max() + REACH * spread)
        columns = slice(*np.searchsorted(z, (min(near), max(near))))
        z1, z2 = z[rows, None], z[None, columns]
        exponent = correlation * (2 * z1 * z2 - correlation * (z1**2 + z2**2)) / (2 * spread**2)
        total += float(weighted[rows] @ np.exp(exponent) @ weighted[columns])
    return total / spread


def _leak_of(function: Callable[[Any], Any]) -> float | None:
    """The slope left of zero where the activation is a relu or a leaky relu, whose moments have closed forms."""
    if function is jax.nn.relu:
        return 0.0
    if function is jax.nn.leaky_relu:
        return 0.01
    if isinstance(function, functools.partial) and function.func is jax.nn.leaky_relu and not function.args:
        slope = function.keywords.get("negative_slope", 0.01)
        return float(slope) if isinstance(slope, int | float) and math.isfinite(float(slope) * slope) else None
    return None


@functools.lru_cache(maxsize=256)
def samples(
    function: Callable[[Any], Any], variance: float = 1.0, width: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return nodes in ascending order, the standard normal's weights at them, and `phi(sqrt(variance) z)` there.

    Args:
        function: the activation `phi`.
        variance: variance of the normal it is applied to.
        width: largest width of a panel.

    Raises:
        SchemeError: the activation is not an elementwise function of reals.
    """
    count = math.ceil(REACH / width)
    width = REACH / count
    panels = _sampled(function, variance, np.arange(-count, count) * width, width)
    scale = np.sum(np.abs(_integrals(panels)), axis=1, keepdims=True)
    finished = []
    for _ in range(HALVINGS):
        left, right = (_sampled(function, variance, panels[0] + shift, width / 2) for shift in (0, width / 2))
        differs = np.abs(_integrals(panels) - _integrals(left) - _integrals(right)) > AGREE * scale
        apart = differs.any(axis=0)
        finished.append([array[~apart] for array in panels])
        panels = [np.concatenate([halves[0][apart], halves[1][apart]]) for halves in zip(left, right, strict=True)]
        width /= 2
        if not 0 < len(panels[0]) <= MAX_PANELS:
            break
    starts, *arrays = (np.concatenate(parts) for parts in zip(*finished, panels, strict=True))
    order = np.argsort(starts)
    z, weights, values = (array[order].ravel() for array in arrays)
    return z, weights, values


def _sampled(function: Callable[[Any], Any], variance: float, starts: np.ndarray, width: float) -> list[np.ndarray]:
    """Return the starts of panels and their nodes, weights and values, each of shape (panels, `NODES`)."""
    z, weights = _nodes(starts, width)
    values = _values(function, math.sqrt(variance) * z.ravel()).reshape(z.shape)
    return [starts, z, weights, values]


def _integrals(panels: list[np.ndarray]) -> np.ndarray:
    """Return the expectations of an activation and of its square over each panel, shape (2, panels)."""
    _, _, weights, values = panels
    return np.stack([np.sum(weights * values, axis=1), np.sum(weights * values**2, axis=1)])


def _nodes(starts: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes of panels of one width, and the standard normal's weights there, of shape (panels, `NODES`)."""
    panel, weights = np.polynomial.legendre.leggauss(NODES)
    z = starts[:, None] + (panel + 1) / 2 * width
    return z, weights * (width / 2) * (np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))


@functools.cache
def quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes on [-12, 12] and the standard normal's weights at them; kinks at whole numbers cost no accuracy."""
    z, weights = _nodes(np.arange(-REACH, REACH), 1.0)
    return z.ravel(), weights.ravel()


def _values(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    name = activation_name(function)
    try:
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            values = np.asarray(function(jnp.asarray(x, jnp.float64)), dtype=np.float64)
    except Exception as error:
        first = str(error).split("\n")[0]
        raise SchemeError(f"the activation {name} can't be applied to an array of reals: {first}") from error
    if values.shape != x.shape:
        raise SchemeError(f"the activation {name} is not elementwise: {x.shape} became {values.shape}.")
    return values


def refuse_unsuitable(activation: Activation, variance: float) -> None:
    """Raise where an activation is not convex and non-decreasing, looked at on a grid.

    A network with it is not convex, whatever its weights: a sum of convex functions under it need not be one.

    Raises:
        SchemeError: it falls, or its slope does, somewhere within twelve standard deviations.
    """
    problem = _problem(hashable(activation), float(variance))
    if problem:
        raise SchemeError(
            f"icnn: the activation {activation_name(activation)} is not {problem}.",
            f"convex and non-decreasing are: {listing(SUITABLE, limit=20)}",
            'write ("icnn", {"activation": "softplus"})',
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
        index = int(falling[len(falling) // 2])
        return f"non-decreasing: it falls at {x[index]:.4g}, from {values[index]:.6g} to {values[index + 1]:.6g}"
    bending = np.flatnonzero(~(np.diff(rises) >= -(noise[1:] + noise[:-1])))
    if len(bending):
        index = int(bending[len(bending) // 2])
        return f"convex: at {x[index + 1]:.4g} its slope falls from {rises[index]:.6g} to {rises[index + 1]:.6g}"
    return None


def activation_name(activation: Activation) -> str:
    """Return what an activation is called."""
    if isinstance(activation, str):
        return activation
    inner = activation.func if isinstance(activation, functools.partial) else activation
    return str(getattr(inner, "__name__", type(inner).__name__))


def as_function(activation: Activation) -> Callable[[Any], Any]:
    """Return an activation given as a function or by its name: `linear`, `sin`, or a function of `jax.nn`.

    Raises:
        SchemeError: no activation has that name, or it is not a function.
    """
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise SchemeError(
                f'no activation is called "{activation}".',
                *alternatives("activations", activation, sorted(ACTIVATIONS), 40),
            )
        return ACTIVATIONS[activation]
    if not callable(activation):
        raise SchemeError(
            f"an activation is a function or the name of one, not {activation!r}.", 'write activation="softplus"'
        )
    return activation


def hashable(activation: Activation) -> Callable[[Any], Any]:
    """Return an activation as a function by whose hash results are kept: of a module that holds arrays a new one.

    Raises:
        SchemeError: no activation has that name, or it is not a function.
    """
    function = as_function(activation)
    try:
        hash(function)
    except TypeError:
        return functools.partial(function)
    return function
