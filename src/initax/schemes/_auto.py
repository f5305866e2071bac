"""The scheme `auto`: each weight scaled by the second moment of its input."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from initax._errors import SchemeError
from initax._model._parameter import Layer, Parameter
from initax.schemes._centered import Centered
from initax.schemes._distributions import Normal
from initax.schemes._initializer import Initializer, Recipe
from initax.schemes._named import Share, scheme
from initax.schemes._scheme import Parts, weights_only
from initax.schemes._variance import Distribution, of_variance


@dataclass(frozen=True, slots=True)
class Auto(Initializer):
    """Variance `1 / (n m)` with `n` the effective fan_in and `m` the mean square of what reaches the weight.

    Where a share of the variance is left to the layer's bias, the weight has the rest. A look-up in an embedding sums
    over one row; one that a signal reaches, as an output layer, sums over its features.
    """

    distribution: str = "truncated_normal"
    bias_share: float = 0.0
    needs_input_second_moment: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        is_output = parameter.role == "embedding" and parameter.input_second_moment is not None
        fan_in, _ = self.fans_of(parameter, "nominal" if is_output else "effective")
        input_second_moment = 1.0 if parameter.input_second_moment is None else parameter.input_second_moment
        has_bias = parameter.role != "embedding" and any(array.role == "bias" for array in layer.parameters)
        share = 1 - self.bias_share if has_bias else 1.0
        variance = share / (self.positive_fan(parameter, "fan_in", fan_in) * input_second_moment)
        return of_variance(self.distribution, variance, parameter.dtype)


@scheme("auto")
def auto(*, distribution: Distribution = "truncated_normal", bias_share: Share = 0.0, center: bool = False) -> Parts:
    """Return weights scaled by the second moment of their input, so that variance one in gives variance one out.

    With `inputs=` the forward pass is followed from the inputs, assumed standard normal, through activations,
    residual sums, poolings and norms, and each weight has variance `1 / (fan_in m)` with `m` the mean square of the
    signal that reaches it; after a relu that is `he_normal`. Nothing is computed on data. Where the trace can't tell,
    e.g. behind attention, `m` is assumed to be one, and the plan says so.

    What other rules draw is followed with its own law. Weights that are kept, or whose law is not known, are assumed to
    give length one, biases to be zero and scales one, and the plan names them; norms are taken to be as their framework
    makes them. A table that is looked up and is also the output layer is drawn for the output layer.

    Args:
        distribution: `"truncated_normal"`, `"normal"` or `"uniform"`.
        bias_share: share of each layer's variance that a normal bias has, at least 0 and below 1; where a layer has no
            bias, its weight has it all. A chance deviation of the length grows from layer to layer by the slope of the
            activation's length map, which is above one for gelu (1.14) and silu (1.17); a share `b` makes that
            `1 - b` times as much, so that with 0.3 a deep network keeps its length. Examples grow more alike.
        center: take the mean of each output's weights off, as `centered` does, and scale by the variance of what
            reaches them. Examples stay apart, and gelu keeps its length. Weights with fewer than eight inputs,
            depthwise and positive ones need a rule of their own.

    Raises:
        SchemeError: an argument is wrong.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> model = eqx.nn.MLP(8, 8, 50, depth=2, activation=jax.nn.relu, key=jax.random.key(0))
        >>> plan = ix.plan(model, {"Linear": "auto"}, inputs=jax.ShapeDtypeStruct((8,), "float32"))
        >>> [round(draw.std**2, 3) for draw in plan.draws if draw.std]
        [0.125, 0.04, 0.04]

    References:
        Bingham & Miikkulainen 2023, arXiv 2109.08958, section 3. Schoenholz et al. 2017, arXiv 1611.01232, section 3,
        for the slope of the length map and what a bias does to it.
    """
    if bias_share == 1:
        raise SchemeError(
            "auto: a bias_share of one leaves weights of zero, through which no signal passes.",
            'to keep the length of a deep network: ("auto", {"bias_share": 0.3})',
        )
    bias = Normal(math.sqrt(bias_share)) if bias_share else None
    drawn = Auto(distribution, bias_share)
    parts = weights_only(drawn, bias)
    if not center:
        return parts
    return {**parts, **dict.fromkeys(("weight", "recurrent"), Centered(replace(drawn, name="auto")))}
