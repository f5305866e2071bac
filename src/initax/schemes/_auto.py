"""The scheme `auto`: each weight by what reaches it."""

from __future__ import annotations

import math

from initax.schemes._distributions import Normal
from initax.schemes._initializer import changed, choice, number
from initax.schemes._scheme import Scheme, weights_only
from initax.schemes._table import made, row
from initax.schemes._variance import DISTRIBUTIONS, Auto


@row("auto")
def auto(*, distribution: str = "truncated_normal", bias_share: float = 0.0) -> Scheme:
    """Return weights by what reaches them, so that variance one goes in and variance one comes out.

    With `inputs=` the forward pass is followed from the inputs, taken for standard normal, through activations,
    residual sums, poolings and norms, and each weight has variance `1 / (fan_in m)` with `m` the mean square of the
    signal that reaches it; after a relu that is `he_normal`. Nothing is computed on data. Where the trace can't tell,
    behind attention say, `m` is taken for one, and the plan says so.

    What other rules draw is followed with its own law. Weights that are kept, or whose law is not known, are assumed to
    give length one, biases to be zero and scales one, and the plan names them; norms are taken to be as their framework
    makes them. A table that is looked up and is also the output layer is drawn for the output layer.

    Args:
        distribution: `"truncated_normal"`, `"normal"` or `"uniform"`.
        bias_share: share of each layer's variance that a normal bias has, between 0 and 1; where a layer has no bias,
            its weight has it all. A chance deviation of the length grows from layer to layer by the slope of the
            activation's length map, which is above one for gelu (1.14) and silu (1.17); a share `b` makes that
            `1 - b` times as much, so that with 0.3 a deep network keeps its length. Examples grow more alike.

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
    choice("auto", "distribution", distribution, DISTRIBUTIONS)
    share = number("auto", "bias_share", bias_share, least=0.0, most=1.0)
    args = changed(distribution=(distribution, "truncated_normal"), bias_share=(share, 0.0))
    bias = Normal("auto", args, math.sqrt(share)) if share else None
    return made("auto", args, weights_only(Auto("auto", args, distribution, share), bias))
