"""The scheme `irnn`: recurrent networks of ReLUs that start as the identity."""

from __future__ import annotations

from dataclasses import dataclass

from initax._errors import SchemeError
from initax._model._parameter import Layer, Parameter
from initax.schemes._distributions import normal
from initax.schemes._initializer import Initializer, Recipe, array_name
from initax.schemes._named import NonNegative, Number, scheme
from initax.schemes._scheme import Parts, weights_only
from initax.schemes._structured import Eye


@dataclass(frozen=True, slots=True)
class RecurrentIdentity(Initializer):
    """`gain` times the identity from hidden state to hidden state, per gate."""

    gain: float = 1.0

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        axes = self.known_axes(parameter)
        *_, inputs, outputs = axes.canonical_shape
        if inputs != outputs:
            raise SchemeError(
                f"irnn needs square recurrent weights; {array_name(parameter)} has {inputs} inputs, {outputs} outputs.",
                f'shape {parameter.shape}, axes "{axes.pattern}"',
                'for a partial identity: ix.Scheme("irnn", recurrent="identity")',
            )
        return Eye(self.gain, name="irnn").recipe(parameter, layer)


@scheme("irnn")
def irnn(gain: Number = 1.0, stddev: NonNegative = 0.001) -> Parts:
    """Return identity matrices for recurrent weights, small normal ones for all others, zero biases.

    For plain recurrent cells with ReLUs, which then carry their state on unchanged. A cell with gates gets an identity
    per gate.

    Args:
        gain: the value on the diagonal; the paper uses 0.01 where long memory does not help.
        stddev: standard deviation of the other weights.

    Raises:
        SchemeError: an argument is not a number, or `stddev` negative; when a plan is made, a recurrent weight is not
            square.

    Examples:
        >>> import initax as ix
        >>> ix.schemes.irnn()
        Scheme(weight=normal(stddev=0.001), recurrent=irnn, bias=zeros, embedding=normal(stddev=0.001))

    References:
        Le et al. 2015, arXiv 1504.00941, section 3; 0.01 in section 4.4.
    """
    others = normal(stddev).parts["weight"]
    recurrent = RecurrentIdentity(gain, name="irnn", args=() if gain == 1.0 else (("gain", gain),))
    return {**weights_only(others), "recurrent": recurrent}
