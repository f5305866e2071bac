"""The defaults of frameworks: PyTorch's, Flax's, and each layer's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from initax._errors import SchemeError
from initax._model._parameter import FrameworkInit, Layer, Parameter
from initax._model._reason import Reason
from initax.schemes._callables import Framework
from initax.schemes._constant import ZEROS, Constant
from initax.schemes._distributions import normal
from initax.schemes._initializer import NO_DEFAULT, Initializer, Recipe
from initax.schemes._named import scheme
from initax.schemes._scheme import Parts, as_initializer, weights_only
from initax.schemes._structured import orthogonal
from initax.schemes._variance import UniformFanIn, lecun_normal, variance_scaling


@dataclass(frozen=True, slots=True)
class TorchUniform(Initializer):
    """PyTorch's default for weights and biases: uniform by fan_in, by the hidden size in a recurrent cell."""

    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if layer.kind == "Norm":
            return ZEROS.recipe(parameter, layer)
        hidden = next((array.fan_in for array in layer.parameters if array.role == "recurrent"), None)
        return UniformFanIn(fan=hidden, name=self.name).recipe(parameter, layer)


@dataclass(frozen=True, slots=True)
class ScaleDefault(Initializer):
    """What a framework gives a norm's scale (one) and the slope of a PReLU."""

    slope: float = 0.25

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        value = self.slope if layer.kind == "PReLU" else 1.0
        return Constant(value).recipe(parameter, layer)


@scheme("torch_default")
def torch_default() -> Parts:
    """Return what PyTorch gives its layers: `U(-1/sqrt(fan_in), 1/sqrt(fan_in))` for weights and biases alike.

    The hidden size in recurrent cells, a standard normal for embeddings, one and zero in norms, 0.25 for PReLU.
    For a transposed convolution PyTorch counts the outputs as fan_in; this takes the true one, as Equinox does.

    Examples:
        >>> import initax as ix
        >>> ix.schemes.torch_default().parts["scale"].slope
        0.25

    References:
        `torch.nn.Linear.reset_parameters`: `kaiming_uniform_` with `a=sqrt(5)`, which is the bound above.
    """
    drawn = TorchUniform()
    return {**weights_only(drawn, drawn), "embedding": normal(1.0).parts["weight"], "scale": ScaleDefault()}


@scheme("flax_default")
def flax_default() -> Parts:
    """Return what Flax gives its layers: LeCun normal weights, orthogonal recurrent ones, zero biases.

    Embeddings are normal of variance `1 / features`, scales of norms one, a PReLU's slope 0.01.

    Examples:
        >>> import initax as ix
        >>> ix.schemes.flax_default().parts["recurrent"].name
        'orthogonal'
    """
    return {
        **weights_only(lecun_normal().parts["weight"]),
        "recurrent": orthogonal().parts["weight"],
        "embedding": variance_scaling(distribution="normal").parts["weight"],
        "scale": ScaleDefault(0.01),
    }


@dataclass(frozen=True, slots=True)
class Default(Initializer):
    """What the layer's own framework gives the parameter."""

    fits_bias: ClassVar[bool] = True
    draws_reserved: ClassVar[bool] = True

    def declines(self, parameter: Parameter) -> Reason | None:
        """Return why it does not draw a parameter: its layer declares no default."""
        return NO_DEFAULT if parameter.default is None else None

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if isinstance(parameter.default, FrameworkInit):
            return Framework(parameter.default, name=self.name).recipe(parameter, layer)
        role = "bias" if parameter.role == "state" else parameter.role or "weight"
        initializer = as_initializer(parameter.default, role)
        if initializer is None:
            raise SchemeError(f'the default of "{parameter.path}", {parameter.default!r}, draws nothing.')
        return initializer.recipe(parameter, layer)


@scheme("default")
def default() -> Parts:
    """Return what each layer's own framework gives it, biases and norms included.

    Examples:
        >>> import initax as ix, equinox as eqx, jax
        >>> model = eqx.nn.MLP(2, 3, 8, depth=1, key=jax.random.key(0))
        >>> [draw.initializer.name for draw in ix.plan(model, {"*": "default"}).draws][:2]
        ['default', 'default']
    """
    drawn = Default()
    return {**weights_only(drawn, drawn), "scale": drawn}
