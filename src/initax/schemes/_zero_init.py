"""The scheme `zero_init`: ZerO, only zeros and ones, up to a Hadamard transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from initax._math._axes import Axes
from initax._model._parameter import Parameter
from initax.schemes._initializer import Recipe
from initax.schemes._named import scheme
from initax.schemes._scheme import Parts, weights_only
from initax.schemes._structured import Eye, OfMatrix, Structured, at_center


@dataclass(frozen=True, slots=True)
class HadamardKernel(Structured):
    """The first columns of a Hadamard matrix, at the center tap of a convolution; the number is their entry's size."""

    random: ClassVar[bool] = False

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        *_, inputs, outputs = self.axes.canonical_shape
        # Entry (i, o) of Sylvester's matrix is negative where i and o share an odd number of binary digits.
        shared = lax.population_count(jnp.arange(inputs)[:, None] & jnp.arange(outputs)[None, :])
        value = jnp.asarray(numbers[0], dtype)
        return self.axes.from_canonical(at_center(self.axes, jnp.where(shared % 2 == 1, -value, value)))

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return the negative entry."""
        return -numbers[0]


@dataclass(frozen=True, slots=True)
class ZeroInit(OfMatrix):
    """The identity, or where there are more outputs than inputs a normalized Hadamard matrix."""

    def of_matrix(self, axes: Axes, parameter: Parameter) -> Recipe:
        """Return the recipe for a parameter that has entries, inputs and outputs."""
        *_, inputs, outputs = axes.canonical_shape
        if outputs <= inputs:
            return Eye().of_matrix(axes, parameter)
        return Recipe(HadamardKernel(axes), (2.0 ** (-(outputs - 1).bit_length() / 2),), 0.0)


@scheme("zero_init")
def zero_init() -> Parts:
    """Return ZerO's deterministic weights, the identity or a Hadamard transform, and zero biases.

    With at most as many outputs as inputs a (partial) identity; with more, the first columns of the Hadamard matrix
    of the next power of two, divided by its square root. These are orthonormal where the number of outputs is itself
    a power of two, and have singular values of at most one elsewhere. A convolution has the matrix at its center tap,
    per group. The paper sets the last layer of each residual branch, and the classifier, to `zeros`.

    Raises:
        SchemeError: when a plan is made, a weight has no input or output axis.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("zero_init", jax.random.key(0), (4, 2), axes="o i").tolist()
        [[0.5, 0.5], [0.5, -0.5], [0.5, 0.5], [0.5, -0.5]]

    References:
        Zhao et al. 2022, arXiv 2110.12661, algorithm 1, normalized as in the authors' code.
    """
    return weights_only(ZeroInit())
