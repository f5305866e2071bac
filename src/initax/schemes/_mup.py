"""The schemes `mup_hidden` and `mup_readout`: variances that let hyperparameters transfer from a narrow base model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from initax._errors import SchemeError
from initax._model._parameter import Layer, Parameter
from initax.schemes._constant import ZEROS
from initax.schemes._initializer import Initializer, Recipe, array_name
from initax.schemes._named import Positive, scheme
from initax.schemes._scheme import Parts
from initax.schemes._variance import Distribution, of_variance


@dataclass(frozen=True, slots=True)
class Mup(Initializer):
    """A standard deviation at the base width, divided by a power of the width relative to it."""

    base_width: float
    stddev: float | None = None
    distribution: str = "normal"
    power: float = 0.5

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        axes = self.known_axes(parameter)
        if not axes.in_axis:
            raise SchemeError(
                f"{self.name} needs an input axis; {array_name(parameter)} has shape {parameter.shape}, "
                f'axes "{axes.pattern}".',
                "its variance follows from the number of inputs",
            )
        *receptive, inputs, _ = axes.canonical_shape
        multiplier = self.positive_fan(parameter, "fan_in", inputs) / self.base_width
        at_base = 1 / (self.base_width * math.prod(receptive)) if self.stddev is None else self.stddev**2
        return of_variance(self.distribution, at_base / multiplier ** (2 * self.power), parameter.dtype)


def _parts(base_width: float, stddev: float | None, distribution: str, power: float) -> Parts:
    drawn = Mup(base_width, stddev, distribution, power)
    # Nothing for embeddings: a look-up sums over one row, so their variance must not go with the width.
    return {"weight": drawn, "recurrent": drawn, "bias": ZEROS}


@scheme("mup_hidden")
def mup_hidden(base_width: Positive, stddev: Positive | None = None, *, distribution: Distribution = "normal") -> Parts:
    """Return weights of muP's hidden layers: variance `stddev**2 * base_width / width`; zero biases.

    `width` is the number of the layer's inputs, without the receptive field, per group. Left out, `stddev` is
    `1 / sqrt(fan_in)` at the base width, and the variance `1 / fan_in` at every width. Embeddings and layers that see
    data, whose inputs do not grow with the model, take any scheme that does not depend on its width. muP needs learning
    rates by width as well; those are the optimizer's.

    Args:
        base_width: how many inputs the layer has in the base model, per group.
        stddev: standard deviation in the base model.
        distribution: `"normal"`, `"truncated_normal"` or `"uniform"`.

    Raises:
        SchemeError: an argument is not positive, or no such distribution; when a plan is made, a weight has no inputs.

    Examples:
        >>> import initax as ix, equinox as eqx, jax
        >>> layer = eqx.nn.Linear(1024, 1024, key=jax.random.key(0))
        >>> ix.plan(layer, {"*": ix.schemes.mup_hidden(base_width=256, stddev=0.02)}).draws[0].std
        0.01

    References:
        Yang et al. 2022, arXiv 2203.03466, table 8; the package `mup`, `mup.init`.
    """
    return _parts(base_width, stddev, distribution, 0.5)


@scheme("mup_readout")
def mup_readout(
    base_width: Positive, stddev: Positive | None = None, *, distribution: Distribution = "normal"
) -> Parts:
    """Return weights of muP's readout: variance `stddev**2 * (base_width / width)**2`; zero biases.

    `width` is the number of the layer's inputs, without the receptive field, per group. Left out, `stddev` is
    `1 / sqrt(fan_in)` at the base width. The paper's other choice is `zeros`. Where the forward pass itself multiplies
    the readout by `base_width / width`, as the package `mup` does, its weights are those of `mup_hidden`.

    Args:
        base_width: how many inputs the layer has in the base model, per group.
        stddev: standard deviation in the base model.
        distribution: `"normal"`, `"truncated_normal"` or `"uniform"`.

    Raises:
        SchemeError: an argument is not positive, or no such distribution; when a plan is made, a weight has no inputs.

    Examples:
        >>> import initax as ix, equinox as eqx, jax
        >>> layer = eqx.nn.Linear(1024, 10, key=jax.random.key(0))
        >>> ix.plan(layer, {"*": ix.schemes.mup_readout(base_width=256, stddev=0.02)}).draws[0].std
        0.005

    References:
        Yang et al. 2022, arXiv 2203.03466, table 8; the package `mup`, `mup.layer.MuReadout`.
    """
    return _parts(base_width, stddev, distribution, 1.0)
