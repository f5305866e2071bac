"""Rows of the table of schemes for input-convex networks."""

from __future__ import annotations

from typing import Any, Literal

from initax._errors import SchemeError, message
from initax._math._activation_moments import Activation, refuse_unsuitable
from initax.schemes._convex import HoedtBias, HoedtWeight
from initax.schemes._icnn import BIAS_AT, PARTS, BiasAt, IcnnBias, IcnnWeight, Part, named
from initax.schemes._initializer import Fans, changed, choice, number, positive_number
from initax.schemes._scheme import Scheme, weights_only
from initax.schemes._table import made, row


def _correlation(scheme: str, value: Any) -> float:
    found = number(scheme, "correlation", value)
    if not 0 < found < 1:
        why = "units of a layer with positive weights agree: at 0 the weights vanish, at 1 so does their variance"
        raise SchemeError(
            message(
                f"{scheme}: correlation must be strictly between 0 and 1, not {value!r}.",
                why,
                f'write ("{scheme}", {{"correlation": 0.5}})',
            )
        )
    return found


@row("hoedt")
def hoedt(
    variance: float = 1.0,
    correlation: float = 0.5,
    alpha: float = 0.0,
    bias_noise: float = 0.0,
    *,
    fans: Fans = "nominal",
    bias: Literal["own", "elsewhere"] = "own",
) -> Scheme:
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
    variance = positive_number("hoedt", "variance", variance)
    correlation = _correlation("hoedt", correlation)
    alpha = number("hoedt", "alpha", alpha)
    bias_noise = number("hoedt", "bias_noise", bias_noise, least=0.0, most=1.0)
    choice("hoedt", "fans", fans, ("nominal", "effective"))
    choice("hoedt", "bias", bias, ("own", "elsewhere"))
    args = changed(
        variance=(variance, 1.0),
        correlation=(correlation, 0.5),
        alpha=(alpha, 0.0),
        bias_noise=(bias_noise, 0.0),
        fans=(fans, "nominal"),
        bias=(bias, "own"),
    )
    values = (variance, correlation, alpha, bias_noise, fans, bias)
    return made("hoedt", args, weights_only(HoedtWeight("hoedt", args, *values), HoedtBias("hoedt", args, *values)))


@row("icnn")
def icnn(
    activation: Activation = "relu",
    correlation: float = 0.5,
    *,
    variance: float = 1.0,
    k: float = 1.0,
    tau: float = 0.5,
    bias_noise: float = 0.0,
    input_square: float = 1.0,
    part: Part = "auto",
    bias: BiasAt = "auto",
    fans: Fans = "nominal",
) -> Scheme:
    """Return weights and biases for input-convex networks of any convex, non-decreasing activation.

    With a passthrough, a weight from the network's input into every layer, a unit's positive weights sum to `k`, its
    bias is `-k E[phi(z)]`, and the variance is split: `1 - tau` from the layer before, `tau` from the input. That holds
    at any depth as long as `k < ix.convex.k_max(activation, tau)`. Without a passthrough mean, variance and correlation
    are kept through one layer, and a deep network forgets its input: up to ten layers `ix.convex.standardize` helps.

    What a weight is can be told where positive weights are known to be positive, by a wrapper (paramax, klax), by
    `ix.register_layer(..., positivity=...)` or because the model is an `ix.convex.FICNN`. Elsewhere `part` says it.

    Args:
        activation: the activation in front of the positive weights, a function or its name.
        correlation: correlation between pre-activations, without a passthrough; between 0 and 1.
        variance: variance of the pre-activations.
        k: sum of a unit's positive weights, with a passthrough.
        tau: share of the variance from the passthrough, between 0 and 1.
        bias_noise: share of the variance given to a random bias, without a passthrough.
        input_square: mean square of the network's inputs; 1 where they are standardized.
        part: what the weights are: `"first"` (of the first layer), `"positive"` (beside a passthrough), `"alone"`
            (positive, without one), `"passthrough"`, or `"auto"`: whatever the layer shows.
        bias: whether the bias that goes with positive weights is the layer's `"own"`, or stands `"elsewhere"`, as where
            positive and passthrough weights are two layers whose outputs add up. `"auto"`: own, but for a passthrough.
        fans: `"nominal"` or `"effective"`.

    Raises:
        SchemeError: an argument is out of range, or the activation not convex and non-decreasing; when a plan is made,
            `k` is not stable, a weight's part can't be told, or there is no bias beside positive weights.

    Examples:
        >>> import initax as ix, jax
        >>> scheme = ix.schemes.icnn("softplus", part="positive")
        >>> weight = ix.draw(scheme, jax.random.key(0), (64, 64))
        >>> bool((weight > 0).all()), round(float(ix.draw(scheme, jax.random.key(0), (64,), role="bias")[0]), 6)
        (True, -0.806059)

    References:
        Amos et al. 2017, arXiv 1609.07152, for the networks; Hoedt & Klambauer 2023, arXiv 2312.12474, for the weights
        without a passthrough, here with the moments of any activation.
    """
    variance = positive_number("icnn", "variance", variance)
    k, input_square = positive_number("icnn", "k", k), positive_number("icnn", "input_square", input_square)
    correlation = _correlation("icnn", correlation)
    tau = number("icnn", "tau", tau)
    if not 0 < tau < 1:
        raise SchemeError(
            message(
                f"icnn: tau must be strictly between 0 and 1, not {tau!r}.",
                "it is the share of the variance that the passthrough brings",
                'write ("icnn", {"tau": 0.5})',
            )
        )
    bias_noise = number("icnn", "bias_noise", bias_noise, least=0.0, most=1.0)
    choice("icnn", "part", part, PARTS)
    choice("icnn", "bias", bias, BIAS_AT)
    choice("icnn", "fans", fans, ("nominal", "effective"))
    function, shown = named(activation)
    refuse_unsuitable("icnn", function, variance)
    args = changed(
        activation=(shown, "relu"),
        correlation=(correlation, 0.5),
        variance=(variance, 1.0),
        k=(k, 1.0),
        tau=(tau, 0.5),
        bias_noise=(bias_noise, 0.0),
        input_square=(input_square, 1.0),
        part=(part, "auto"),
        bias=(bias, "auto"),
        fans=(fans, "nominal"),
    )
    values = (function, correlation, variance, bias_noise, k, tau, input_square, part, bias, fans)
    return made("icnn", args, weights_only(IcnnWeight("icnn", args, *values), IcnnBias("icnn", args, *values)))
