"""The preimage under spectral norm: from the effective weight to the arrays that a layer under it stores."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

POWER_ITERATIONS = 50
"""Equinox itself iterates 15 times at construction; a Gaussian matrix has a small spectral gap and needs more."""


@dataclass(frozen=True, slots=True)
class SpectralNormPreimage:
    """Spectral norm divides by the largest singular value, which it estimates with vectors `u` and `v` it keeps.

    Attributes:
        eps: the least norm a vector is divided by.
        stacks: axes of the stored weight that are those of a stack; those of the vectors stand in front.
    """

    eps: float
    stacks: tuple[int, ...] = ()

    def __call__(self, effective: jax.Array) -> tuple[jax.Array, ...]:
        """Return the weight and its leading singular vectors, so that the first call divides by the right value."""
        vectors = self._leading
        for _ in self.stacks:
            vectors = jax.vmap(vectors)
        return effective, *vectors(jnp.moveaxis(effective, self.stacks, range(len(self.stacks))))

    def _leading(self, effective: jax.Array) -> tuple[jax.Array, ...]:
        return leading_pair(jnp.reshape(effective, (effective.shape[0], -1)), self.eps)


@dataclass(frozen=True, slots=True)
class FlaxSpectralNormPreimage(SpectralNormPreimage):
    """Flax keeps the right singular vector `u` of the weight as `(everything else, out)`, and the singular value."""

    def _leading(self, effective: jax.Array) -> tuple[jax.Array, ...]:
        matrix = jnp.reshape(effective, (-1, effective.shape[-1]))
        left, right = leading_pair(matrix, self.eps)
        return right[None], left @ matrix @ right


def leading_pair(matrix: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
    """Return the left and right singular vectors of a matrix that go with its largest singular value."""

    def unit(vector: jax.Array) -> jax.Array:
        return vector / jnp.maximum(eps, jnp.sqrt(jnp.sum(vector**2)))

    def step(_: int, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left = unit(matrix @ pair[1])
        return left, unit(matrix.T @ left)

    # The row of largest norm is never orthogonal to the leading direction of a matrix that is not zero.
    start = unit(matrix[jnp.argmax(jnp.sum(matrix**2, axis=1))])
    start = jnp.where(jnp.sum(start**2) > 0, start, jnp.full_like(start, matrix.shape[1] ** -0.5))
    return lax.fori_loop(0, POWER_ITERATIONS, step, (unit(matrix @ start), start))
