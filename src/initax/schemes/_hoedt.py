"""The scheme `hoedt`: log-normal weights and a negative bias for input-convex ReLU networks."""

from __future__ import annotations

from typing import Any, Literal

import jax

from initax.schemes._icnn import Correlation, IcnnBias, IcnnWeight
from initax.schemes._initializer import FanKind
from initax.schemes._named import Number, Positive, Share, scheme
from initax.schemes._scheme import Parts, weights_only


@scheme("hoedt")
def hoedt(
    variance: Positive = 1.0,
    correlation: Correlation = 0.5,
    alpha: Number = 0.0,
    bias_noise: Share = 0.0,
    *,
    fans: FanKind = "nominal",
    bias: Literal["own", "elsewhere"] = "own",
) -> Parts:
    """Return log-normal weights and the negative bias that goes with them, for input-convex ReLU networks.

    The two preserve mean, variance and correlation of the pre-activations through one layer of non-negative weights.
    klax 0.2.0 returns the bias with the opposite sign, which makes activations grow 1.85-fold per layer.

    Args:
        variance: target variance of the pre-activations.
        correlation: target correlation between them, between 0 and 1.
        alpha: slope of a leaky ReLU.
        bias_noise: share of the variance given to a random bias, between 0 and 1.
        fans: `"nominal"` or `"effective"`.
        bias: whether the bias that takes the weights' mean off is the layer's `"own"`, or another layer holds it,
            `"elsewhere"`.

    Raises:
        SchemeError: an argument is out of range; when a plan is made, a weight is complex, a fan zero or unknown, or a
            layer has no bias.

    Examples:
        >>> import initax as ix, jax
        >>> bool((ix.draw("hoedt", jax.random.key(0), (64, 64)) > 0).all())
        True

    References:
        Hoedt & Klambauer 2023, NeurIPS, arXiv 2312.12474.
    """
    chosen: dict[str, Any] = {"correlation": correlation, "variance": variance, "bias_noise": bias_noise}
    chosen |= {"activation": jax.nn.relu, "alpha": alpha, "part": "alone", "fans": fans}
    return weights_only(IcnnWeight(**chosen, bias=bias), IcnnBias(**chosen, bias="own"))
