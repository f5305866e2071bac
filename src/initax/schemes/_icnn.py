"""Weights and biases of input-convex networks for any activation, with and without passthrough."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from initax._errors import SchemeError
from initax._math._gaussian import ACTIVATIONS, Activation, activation_name, as_function, refuse_unsuitable
from initax._math._positive_moments import PositiveMoments, ensemble, refuse_unstable, with_passthrough
from initax._model._parameter import WEIGHT_ROLES, Layer, Parameter
from initax.schemes._constant import ZEROS, Constant
from initax.schemes._distributions import Normal
from initax.schemes._initializer import FanKind, Initializer, Recipe, array_name, number
from initax.schemes._kernels import HalfNormalKernel, LogNormalKernel, NormalKernel
from initax.schemes._named import Number, Positive, Share, scheme
from initax.schemes._scheme import Parts, weights_only

Part = Literal["auto", "first", "alone", "positive", "passthrough"]
"""What a weight is in its network: the first layer's, a positive one with or without passthrough beside it, or that."""
BiasAt = Literal["auto", "own", "elsewhere"]
PASSTHROUGH = "passthrough"
"""Name of a parameter that sees the network's input, whether it is constrained or not."""


def is_positive(parameter: Parameter) -> bool:
    """Whether a parameter is known to be kept positive."""
    return parameter.constraint is not None and parameter.constraint.positive


def weights_of(layer: Layer) -> tuple[Parameter, ...]:
    """Return the weights of a layer."""
    return tuple(parameter for parameter in layer.parameters if parameter.role in WEIGHT_ROLES)


def hidden_weight(layer: Layer) -> Parameter | None:
    """Return the weight of a layer that sees the layer before: the first positive one that is not a passthrough."""
    return next((weight for weight in weights_of(layer) if is_positive(weight) and weight.name != PASSTHROUGH), None)


def names_passthrough(layer: Layer) -> bool:
    """Whether a layer calls one of its weights a passthrough."""
    return any(weight.name == PASSTHROUGH for weight in weights_of(layer))


@dataclass(frozen=True, slots=True)
class _Icnn(Initializer):
    activation: Callable[[Any], Any]
    correlation: float = 0.5
    variance: float = 1.0
    bias_noise: float = 0.0
    k: float = 1.0
    tau: float = 0.5
    input_square: float = 1.0
    part: str = "auto"
    bias: str = "auto"
    fans: str = "nominal"
    alpha: float = 0.0
    """Slope of a leaky relu in `hoedt`, which the authors' code knows in the variance of a weight alone."""

    def _part_of(self, parameter: Parameter, layer: Layer) -> str:
        """Tell what a weight is, or what the weight is that a bias goes with."""
        if self.part != "auto":
            return self.part
        hidden = hidden_weight(layer)
        if hidden is None:
            if names_passthrough(layer):
                return "first"
            cls = "" if layer.cls is type(None) else f" of {layer.cls.__name__}"
            raise SchemeError(
                f"icnn can't tell what {array_name(parameter)}{cls} is: no weight beside it is known to be positive.",
                'say it: ("icnn", {"part": "first"}), "positive" (with a passthrough), "alone" (without) or '
                '"passthrough"',
                "or let it be found for a whole network: ix.convex.rules(model, activation)",
            )
        if parameter.role in WEIGHT_ROLES and parameter is not hidden:
            return "passthrough"
        return "positive" if len(weights_of(layer)) > 1 else "alone"

    def _fan_in(self, parameter: Parameter) -> float:
        self.refuse_complex(parameter, "input-convex networks have real weights")
        return self.fan_in_of(parameter, self.fans)

    def _positive(self, part: str, fan_in: float) -> PositiveMoments:
        if part == "alone":
            moments = ensemble(self.activation, fan_in, self.variance, self.correlation, self.bias_noise)
            return replace(moments, weight_var=moments.weight_var / (1 + self.alpha**2))
        refuse_unstable(self.activation, self.k, self.tau, self.variance)
        return with_passthrough(self.activation, fan_in, self.variance, self.tau, self.k)


@dataclass(frozen=True, slots=True)
class IcnnWeight(_Icnn):
    """Log-normal where it sees the layer before, normal where it sees the network's input."""

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        part, fan_in = self._part_of(parameter, layer), self._fan_in(parameter)
        if part in ("positive", "alone"):
            moments = self._positive(part, fan_in)
            # A single array, which has no class, and a look-up, which sums nothing, need none.
            needs_bias = self.bias != "elsewhere" and layer.cls is not type(None) and parameter.role != "embedding"
            if needs_bias and not any(array.role == "bias" for array in layer.parameters):
                raise SchemeError(
                    f"{self.name} needs a bias beside {array_name(parameter)} of {layer.cls.__name__}, and there is "
                    "none.",
                    f"positive weights shift the mean by {-moments.bias_mean:+.4g}; a bias has to take that off",
                    "build the layer with one, or say that another layer holds it: "
                    f'("{self.name}", {{"bias": "elsewhere"}})',
                )
            return Recipe(LogNormalKernel(), (moments.log_mean, moments.log_std), math.sqrt(moments.weight_var))
        if part == "passthrough":
            refuse_unstable(self.activation, self.k, self.tau, self.variance)
        share = self.tau if part == "passthrough" else 1.0
        # Several inputs at one layer, as in a partially convex network, share what is theirs.
        hidden = hidden_weight(layer) if self.part == "auto" else None
        several = max(sum(weight is not hidden for weight in weights_of(layer)), 1)
        std = math.sqrt(share * self.variance / (several * fan_in * self.input_square))
        if is_positive(parameter):
            return Recipe(HalfNormalKernel(), (std,), std * math.sqrt(1 - 2 / math.pi))
        return Recipe(NormalKernel(), (std,), std)


@dataclass(frozen=True, slots=True)
class IcnnBias(_Icnn):
    """The negative bias that takes the positive weights' mean off again; zero where there are none."""

    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        part = self._part_of(parameter, layer)
        is_elsewhere = self.bias == "elsewhere" or (self.bias == "auto" and part == "passthrough")
        if part == "first" or is_elsewhere or (part == "alone" and self.without_inputs(parameter, self.fans)):
            return ZEROS.recipe(parameter, layer)
        hidden = hidden_weight(layer) if self.part == "auto" else None
        # Only without a passthrough does the bias depend on the fan_in.
        fan_in = self._fan_in(hidden or parameter) if part == "alone" else 1.0
        moments = self._positive(part, fan_in)
        drawn = Normal(moments.bias_std, moments.bias_mean) if moments.bias_std else Constant(moments.bias_mean)
        return drawn.recipe(parameter, layer)


def _correlation(scheme: str, name: str, value: Any) -> float:
    correlation = number(scheme, name, value)
    if not 0 < correlation < 1:
        why = "units of a layer with positive weights agree: at 0 the weights vanish, at 1 so does their variance"
        raise SchemeError(
            f"{scheme}: correlation must be strictly between 0 and 1, not {value!r}.",
            why,
            f'write ("{scheme}", {{"correlation": 0.5}})',
        )
    return correlation


Correlation = Annotated[float, _correlation]
"""A correlation strictly between 0 and 1."""


def as_stored(activation: Activation) -> Activation:
    """Return an activation as a plan stores it: its name where it has one.

    Raises:
        SchemeError: no activation has that name, or it is not a function.
    """
    name = activation_name(activation)
    return name if ACTIVATIONS.get(name) is as_function(activation) else activation


Stored = Annotated[Activation, lambda _scheme, _name, value: as_stored(value)]
"""An activation, as a plan stores it: by its name where it has one."""


@scheme("icnn")
def icnn(
    activation: Stored = "relu",
    correlation: Correlation = 0.5,
    *,
    variance: Positive = 1.0,
    k: Positive = 1.0,
    tau: Number = 0.5,
    bias_noise: Share = 0.0,
    input_square: Positive = 1.0,
    part: Part = "auto",
    bias: BiasAt = "auto",
    fans: FanKind = "nominal",
) -> Parts:
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
    if not 0 < tau < 1:
        raise SchemeError(
            f"icnn: tau must be strictly between 0 and 1, not {tau!r}.",
            "it is the share of the variance that the passthrough brings",
            'write ("icnn", {"tau": 0.5})',
        )
    function = as_function(activation)
    refuse_unsuitable(function, variance)
    values = (function, correlation, variance, bias_noise, k, tau, input_square, part, bias, fans)
    return weights_only(IcnnWeight(*values), IcnnBias(*values))
