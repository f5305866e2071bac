"""The scheme `siren`: weights for networks whose activations are sines."""

from __future__ import annotations

import math
from dataclasses import dataclass

from initax._model._parameter import Layer, Parameter
from initax.schemes._initializer import FanKind, Initializer, Recipe
from initax.schemes._kernels import UniformKernel
from initax.schemes._named import Positive, scheme
from initax.schemes._scheme import Parts, weights_only
from initax.schemes._variance import uniform_fan_in


@dataclass(frozen=True, slots=True)
class Siren(Initializer):
    """Uniform by fan_in: `1 / n` in the first layer, `sqrt(6 / n) / w0` in the others."""

    w0: float = 30.0
    first: bool = False
    fans: str = "nominal"

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        self.refuse_complex(parameter, 'for complex weights: ("variance_scaling", {"distribution": "uniform"})')
        fan_in = self.fan_in_of(parameter, self.fans)
        bound = 1 / fan_in if self.first else math.sqrt(6 / fan_in) / self.w0
        return Recipe(UniformKernel(), (bound,), bound / math.sqrt(3))


@scheme("siren")
def siren(w0: Positive = 30.0, first: bool = False, *, fans: FanKind = "nominal") -> Parts:
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
    return weights_only(Siren(w0, first, fans), uniform_fan_in(fans=fans).parts["bias"])
