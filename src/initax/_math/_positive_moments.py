"""What positive weights do to mean, variance and correlation, and the weights and biases that keep all three.

For a layer `s = W phi(h) + b` whose weights are positive the mean of the pre-activations is not zero without a bias, as
it is for weights of zero mean: every unit adds `fan_in * E[w] * E[phi]`. So weight and bias have to be chosen together.
Two choices are here. `ensemble` keeps mean, variance and correlation over the ensemble of weights and data, through one
layer; that is Hoedt & Klambauer (2023) for any activation. `with_passthrough` keeps the mean and variance of a layer
that also sees the network's input, per sample, and `radius` says whether errors die out over many such layers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from initax._errors import SchemeError, with_line
from initax._math._gaussian import Activation, activation_name, cross_moment, hashable, moments

LARGEST_K = 64.0
"""Where the search for the largest stable `k` begins; no activation is stable there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PositiveMoments:
    """Moments of the positive weights of one layer and of its bias.

    Attributes:
        weight_mean: mean of a weight.
        weight_var: variance of a weight.
        bias_mean: mean of the bias.
        bias_std: standard deviation of the bias.
    """

    weight_mean: float
    weight_var: float
    bias_mean: float
    bias_std: float

    @property
    def log_mean(self) -> float:
        """Mean of the logarithm of a log-normal weight of these moments."""
        square = self.weight_mean**2
        return math.log(square) - math.log(square + self.weight_var) / 2

    @property
    def log_std(self) -> float:
        """Standard deviation of that logarithm."""
        return math.sqrt(math.log1p(self.weight_var / self.weight_mean**2))


def ensemble(
    activation: Activation, fan_in: float, variance: float = 1.0, correlation: float = 0.5, bias_noise: float = 0.0
) -> PositiveMoments:
    """Return what keeps mean zero, variance and correlation through one layer of positive weights.

    With `m1 = E[phi]`, `m2 = E[phi^2]`, `m11` the cross moment and `N` the fan_in, the mean of a weight is the root of
    `rho q / (N (m2 + (N - 1) m11 - N m1^2))`, its variance `(1 - noise) (1 - rho) q / (N m2)`, and the bias minus
    `N E[w] m1`.

    Args:
        activation: the activation in front of the layer.
        fan_in: inputs of one output, `N`.
        variance: variance `q` of the pre-activations.
        correlation: correlation `rho` between them, between 0 and 1.
        bias_noise: share of the unit's own variance given to a random bias.

    Examples:
        >>> found = ensemble("softplus", 64)
        >>> round(found.log_mean, 5), round(found.log_std, 5), round(found.bias_mean, 5)
        (-4.65668, 1.52421, -1.56552)

    References:
        Hoedt & Klambauer 2023, arXiv 2312.12474, whose equations these are with the moments of any activation.
    """
    phi = moments(activation, variance)
    cross = cross_moment(activation, variance, correlation)
    spread = phi.square + (fan_in - 1) * cross - fan_in * phi.mean**2
    mean = math.sqrt(correlation * variance / (fan_in * spread))
    return PositiveMoments(
        weight_mean=mean,
        weight_var=(1 - bias_noise) * (1 - correlation) * variance / (fan_in * phi.square),
        bias_mean=-fan_in * mean * phi.mean,
        bias_std=math.sqrt(bias_noise * (1 - correlation) * variance),
    )


def with_passthrough(
    activation: Activation, fan_in: float, variance: float = 1.0, tau: float = 0.5, k: float = 1.0
) -> PositiveMoments:
    """Return the positive weights and the bias of a layer that sees the network's input too.

    The weights of a unit sum to `k` on average, the bias takes off what they add to the mean, and the share `1 - tau`
    of the variance is theirs; `tau` is left to the passthrough.

    Args:
        activation: the activation in front of the layer.
        fan_in: inputs of one output on the positive path.
        variance: variance of the pre-activations.
        tau: share of the variance that comes from the passthrough.
        k: sum of a unit's weights.

    Examples:
        >>> found = with_passthrough("relu", 32)
        >>> found.weight_mean, round(found.weight_var, 6), round(found.bias_mean, 6)
        (0.03125, 0.03125, -0.398942)
    """
    phi = moments(activation, variance)
    return PositiveMoments(
        weight_mean=k / fan_in,
        weight_var=(1 - tau) * variance / (fan_in * phi.square),
        bias_mean=-k * phi.mean,
        bias_std=0.0,
    )


def radius(activation: Activation, k: float, tau: float, variance: float = 1.0) -> float:
    """Return by how much a layer multiplies a small error of mean and variance: its largest eigenvalue, in modulus.

    For one sample the units of a wide layer are normals of a mean `c` and a variance `v`. The next layer's are
    `k m1(c, v) + b` and `(1 - tau) q m2(c, v) / m2(0, q) + tau q`; this is the spectral radius of the derivative at
    the fixed point `(0, q)`.

    Args:
        activation: the activation.
        k: sum of a unit's positive weights.
        tau: share of the variance that comes from the passthrough.
        variance: variance `q` at the fixed point.

    Examples:
        >>> round(radius("relu", 1.0, 0.5), 4), round(radius("relu", 1.0, 0.0), 2)
        (0.8989, 1.37)
    """
    phi = moments(activation, variance)
    share = (1 - tau) * variance / phi.square
    step = [[k * phi.slope, k * phi.curvature / 2], [share * phi.square_by_mean, share * phi.square_by_variance]]
    return float(np.abs(np.linalg.eigvals(np.array(step))).max())


@with_line("ix.convex.k_max", 'write ix.convex.k_max("relu")')
def k_max(activation: Activation, tau: float = 0.5, variance: float = 1.0) -> float:
    """Return the largest sum of a unit's positive weights at which a deep network with passthrough is stable.

    Below it small errors of mean and variance die out from layer to layer; above it they grow. The scheme `icnn`
    refuses a `k` that is not below.

    Args:
        activation: the activation, a function or its name.
        tau: share of the variance that comes from the passthrough, between 0 and 1.
        variance: variance of the pre-activations.

    Returns:
        The bound; 0 where no `k` is stable.

    Raises:
        SchemeError: the activation is unknown, or `tau` or `variance` is out of range.

    Examples:
        >>> round(k_max("relu"), 4), round(k_max("softplus"), 4)
        (1.222, 1.7382)
    """
    if not 0 < tau < 1:
        raise SchemeError(f"k_max: tau must be strictly between 0 and 1, not {tau!r}.", "write tau=0.5")
    if not variance > 0:
        raise SchemeError(f"k_max: variance must be positive, not {variance!r}.", "write variance=1.0")
    return _k_max(hashable(activation), float(tau), float(variance))


@functools.lru_cache(maxsize=256)
def _k_max(activation: Callable[[Any], Any], tau: float, variance: float) -> float:
    low, high = 0.0, LARGEST_K
    if radius(activation, 1e-9, tau, variance) >= 1 - 1e-9:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if radius(activation, middle, tau, variance) < 1 else (low, middle)
    return low


def refuse_unstable(activation: Activation, k: float, tau: float, variance: float) -> None:
    """Raise where layers of these weights multiply errors.

    Raises:
        SchemeError: `k` is not below `k_max`.
    """
    bound = k_max(activation, tau, variance)
    if k < bound:
        return
    name = activation_name(activation)
    head = f"icnn: k must be below {bound:.4g} for {name} at tau={tau:g}, not {k:g}."
    why = "from there on an error of mean or variance grows from layer to layer"
    if bound > 0:
        raise SchemeError(head, why, f"write k={min(1.0, 0.8 * bound):.2g}, or a larger tau")
    raise SchemeError(f"icnn: no k is stable for {name} at tau={tau:g}.", why, f"write a larger tau, {(1 + tau) / 2:g}")
