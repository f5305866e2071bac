"""The scheme `auto`: each weight by what reaches it."""

from __future__ import annotations

from initax.schemes._initializer import changed, choice
from initax.schemes._scheme import Scheme, weights_only
from initax.schemes._table import made, row
from initax.schemes._variance import DISTRIBUTIONS, Auto


@row("auto")
def auto(*, distribution: str = "truncated_normal") -> Scheme:
    """Return weights by what reaches them, so that variance one goes in and variance one comes out; zero biases.

    With `inputs=` the forward pass is followed from the inputs, taken for standard normal, through activations,
    residual sums, poolings and norms, and each weight has variance `1 / (fan_in m)` with `m` the mean square of the
    signal that reaches it; after a relu that is `he_normal`. Nothing is computed on data. Where the trace can't tell,
    behind attention say, `m` is taken for one, and the plan says so.

    Args:
        distribution: `"truncated_normal"`, `"normal"` or `"uniform"`.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> model = eqx.nn.MLP(8, 8, 50, depth=2, activation=jax.nn.relu, key=jax.random.key(0))
        >>> plan = ix.plan(model, {"Linear": "auto"}, inputs=jax.ShapeDtypeStruct((8,), "float32"))
        >>> [round(draw.std**2, 3) for draw in plan.draws if draw.std]
        [0.125, 0.04, 0.04]

    References:
        Bingham & Miikkulainen 2023, arXiv 2109.08958, section 3.
    """
    choice("auto", "distribution", distribution, DISTRIBUTIONS)
    args = changed(distribution=(distribution, "truncated_normal"))
    return made("auto", args, weights_only(Auto("auto", args, distribution)))
