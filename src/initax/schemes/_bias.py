"""Initializers for biases: log-odds of a prior, and the forget gate of an LSTM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import SchemeError, listing
from initax._math._axes import Axes
from initax._model._parameter import Layer, Parameter
from initax.schemes._constant import Constant, filled
from initax.schemes._initializer import Initializer, Kernel, Recipe, array_name, plain
from initax.schemes._named import Number, Values, scheme
from initax.schemes._scheme import Parts, Scheme, weights_only


@dataclass(frozen=True, slots=True)
class Prior(Initializer):
    """Biases with which outputs start at `p`: log-odds before a sigmoid, logarithms before a softmax."""

    p: float | tuple[float, ...] = 0.01
    link: str = "sigmoid"
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if isinstance(self.p, float):
            return Constant(self._bias(self.p)).recipe(parameter, layer)
        if len(self.p) == 2 and math.prod(parameter.shape) == 1:
            raise SchemeError(
                f"{self.name} has the probabilities of 2 classes, and {array_name(parameter)} is of one output.",
                f'one output before a sigmoid has that of class 1: write ("prior", {{"p": {self.p[1]:.6g}}})',
                'or give labels of shape (examples, 1): ("prior", {"labels": np.asarray(labels)[:, None]})',
            )
        return filled(self.name, tuple(map(self._bias, self.p)), parameter)

    def _bias(self, p: float) -> float:
        return math.log(p) if self.link == "softmax" else math.log(p / (1 - p))


@dataclass(frozen=True, slots=True)
class GateKernel(Kernel):
    """Zero but for one entry along the gate axis."""

    axes: Axes
    gate: int
    elementwise: ClassVar[bool] = False
    random: ClassVar[bool] = False

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        axis = self.axes.names.index("gate")
        at_gate = (slice(None),) * axis + (self.gate,)
        split = jnp.zeros(self.axes.split, dtype).at[at_gate].set(jnp.asarray(numbers[0]).astype(dtype))
        return jnp.reshape(split, shape)


@dataclass(frozen=True, slots=True)
class ForgetGate(Initializer):
    """`value` for the forget gate, zero for the others."""

    value: float = 1.0
    fits_bias: ClassVar[bool] = True
    needs_gate: ClassVar[str] = "forget"

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        known = tuple(dict.fromkeys(gate for array in layer.parameters for gate in array.gates))
        if "forget" not in known or not parameter.gates:
            gates = f"its gates: {listing(known)}" if known else "it has no gates"
            raise SchemeError(
                f"forget_gate needs a forget gate; {array_name(parameter)} of {layer.cls.__name__} has none.",
                gates,
            )
        if len(parameter.gates) == 1:  # the gates stand in arrays of their own
            value = self.value if parameter.gates == ("forget",) else 0.0
            return Constant(value).recipe(parameter, layer)
        kernel = GateKernel(self.known_axes(parameter), parameter.gates.index("forget"))
        return Recipe(kernel, (self.value,), 0.0)


@scheme("prior")
def prior(
    p: Values = 0.01, *, labels: Any = None, link: Literal["auto", "sigmoid", "softmax"] = "auto"
) -> Parts | Scheme:
    """Return biases with which an output starts at a probability; weights are kept.

    Before a sigmoid that is `log(p / (1 - p))`, before a softmax `log(p)`.

    Args:
        p: the probability, strictly between 0 and 1, or one for each output.
        labels: training labels in place of `p`: classes as whole numbers, of shape (examples,), or zeros and ones of
            shape (examples, outputs). The probabilities are their shares, with one example more of each class (of each
            value), so that none is 0 or 1.
        link: what follows the layer. `"auto"`: a softmax where the probabilities are several and add up to one, or
            labels are classes; else a sigmoid.

    Raises:
        SchemeError: `p` is out of range, or there are labels beside it, or labels are of another kind; when a plan is
            made, there are not as many probabilities as outputs.

    Examples:
        >>> import initax as ix, jax
        >>> ix.Scheme("normal", bias=("prior", {"p": 0.1})).parts["bias"].p
        0.1
        >>> bias = ix.draw(("prior", {"p": [0.7, 0.2, 0.1]}), jax.random.key(0), (3,), role="bias")
        >>> [round(float(each), 4) for each in jax.nn.softmax(bias)]
        [0.7, 0.2, 0.1]
        >>> ix.schemes.prior(labels=[0, 0, 0, 1]).parts["bias"].p
        (0.6666666666666666, 0.3333333333333333)

    References:
        Lin et al. 2017, arXiv 1708.02002, section 4.1.
    """
    if labels is not None:
        if p != 0.01:
            raise SchemeError("prior takes p or labels, not both.")
        shares, follows = _shares(labels, link)
        return prior(shares, link=follows)
    several = p if isinstance(p, tuple) else (p,)
    if not several or not all(isinstance(share, float) and 0 < share < 1 for share in several):
        raise SchemeError(f"prior: p must be strictly between 0 and 1, not {plain(p)!r}.")
    is_distribution = isinstance(p, tuple) and math.isclose(sum(p), 1.0, rel_tol=1e-4)
    follows = ("softmax" if is_distribution else "sigmoid") if link == "auto" else link
    return weights_only(None, Prior(p, follows))


def _shares(labels: Any, link: Any) -> tuple[tuple[float, ...], Any]:
    """The share of each class among labels, each seen once more, and what follows the layer."""
    classes = np.asarray(labels)
    if classes.ndim == 1 and classes.size and classes.dtype.kind in "iu" and classes.min() >= 0:
        counts = np.bincount(classes) + 1
        return tuple(map(float, counts / counts.sum())), "softmax" if link == "auto" else link
    if classes.ndim == 2 and classes.size and np.isin(classes, (0, 1)).all():
        return tuple(map(float, (classes.sum(axis=0) + 1) / (len(classes) + 2))), "sigmoid" if link == "auto" else link
    raise SchemeError(
        f"prior: labels of shape {classes.shape} and type {classes.dtype} are neither classes nor zeros and ones.",
        "classes are whole numbers from 0 on, of shape (examples,); several labels of an example are zeros and "
        "ones, of shape (examples, outputs)",
    )


@scheme("forget_gate")
def forget_gate(value: Number = 1.0) -> Parts:
    """Return LSTM biases of `value` for the forget gate and zero for the others; weights are kept.

    Args:
        value: bias of the forget gate.

    Raises:
        SchemeError: `value` is not a number; when a plan is made, a layer has no forget gate.

    Examples:
        >>> import initax as ix
        >>> ix.Scheme("orthogonal", bias="forget_gate").parts["bias"].value
        1.0

    References:
        Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent Network Architectures", section 2.2.
    """
    return weights_only(None, ForgetGate(value))
