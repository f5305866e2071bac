"""The scheme `siren`: weights for networks whose activations are sines."""

from __future__ import annotations

import math
from dataclasses import dataclass

from initax._errors import SchemeError, message
from initax._model._parameter import Layer, Parameter
from initax.schemes._distributions import UniformKernel
from initax.schemes._initializer import (
    Fans,
    Initializer,
    Recipe,
    changed,
    choice,
    fans_of,
    positive_fan,
    positive_number,
    refuse_complex,
)
from initax.schemes._scheme import Scheme, weights_only
from initax.schemes._table import made, row
from initax.schemes._variance import UniformFanIn


@dataclass(frozen=True, slots=True)
class Siren(Initializer):
    """Uniform by fan_in: `1 / n` in the first layer, `sqrt(6 / n) / w0` in the others."""

    w0: float = 30.0
    first: bool = False
    fans: str = "nominal"

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        refuse_complex("siren", parameter, 'for complex weights: ("variance_scaling", {"distribution": "uniform"})')
        fan_in = positive_fan("siren", parameter, "fan_in", fans_of("siren", parameter, self.fans)[0])
        bound = 1 / fan_in if self.first else math.sqrt(6 / fan_in) / self.w0
        return Recipe(UniformKernel(), (bound,), bound / math.sqrt(3))


@row("siren")
def siren(w0: float = 30.0, first: bool = False, *, fans: Fans = "nominal") -> Scheme:
    """Return weights for layers followed by `sin(w0 * x)`, uniform between plus and minus `sqrt(6 / fan_in) / w0`.

    With `first=True` those of the layer that sees the coordinates, uniform between plus and minus `1 / fan_in`. Biases
    are uniform between plus and minus `1 / sqrt(fan_in)`, as in the authors' code; `("siren", "zeros")` has none.
    A sine of normal `x` of variance `v` has variance `(1 - exp(-2 v)) / 2`: without biases pre-activations
    `w0 * (W h)` have variance one behind the first layer and settle at 0.797; biases add `w0**2 / (3 fan_in)`.

    Args:
        w0: the frequency by which the activation multiplies its input.
        first: whether it is the first layer.
        fans: `"nominal"` or `"effective"`.

    Raises:
        SchemeError: `w0` is not positive, `first` neither true nor false; when a plan is made, a weight is complex or
            has no fan_in.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> model = eqx.nn.MLP(2, 1, 64, depth=3, key=jax.random.key(0))
        >>> rules = {"Linear": "siren", "layers.0": ("siren", {"first": True})}
        >>> [round(draw.std, 4) for draw in ix.plan(model, rules).draws if draw.parameter.role == "weight"]
        [0.2887, 0.0059, 0.0059, 0.0059]

    References:
        Sitzmann et al. 2020, arXiv 2006.09661, section 3.2 and theorem 1.8; biases and first layer as in the authors'
        code.
    """
    w0 = positive_number("siren", "w0", w0)
    if not isinstance(first, bool):
        raise SchemeError(message(f"siren: first must be True or False, not {first!r}."))
    choice("siren", "fans", fans, ("nominal", "effective"))
    args = changed(w0=(w0, 30.0), first=(first, False), fans=(fans, "nominal"))
    bias = UniformFanIn("uniform_fan_in", changed(fans=(fans, "nominal")), fans)
    return made("siren", args, weights_only(Siren("siren", args, w0, first, fans), bias))
