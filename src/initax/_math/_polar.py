"""Haar-distributed matrices too large for one device: the orthogonal polar factor of a Gaussian matrix.

A Gaussian matrix has the same law after any rotation, and so has its polar factor `U Vᴴ`, which therefore is uniform.
It is the limit of `X (3 I - Xᴴ X) / 2`, which takes products alone. Over a mesh every device keeps some rows, and
products go around in a ring, so that no device ever holds more than a few times its share.

References:
    Chen & Chow 2014, "A stable scaling of Newton-Schulz for improving the sign function computation of a Hermitian
    matrix", preprint ANL/MCS-P5059-0114, for the scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from initax._math._haar import adjoint, times
from initax._math._sharding import Split

ITERATIONS = 60
"""Iterations after which a matrix is given up, and made all NaN. A square one takes 15 at n = 64, 21 at n = 16,384; one
three times as tall as wide takes 6."""
LARGEST_SCALE = 1.69770248526
"""Chen & Chow 2014: a larger one would bring the largest singular values down to rounding errors."""
DEVIATION = 7.0
"""A Gaussian matrix' extreme singular values are farther than this from `√rows ± √columns` once in 10¹⁰ draws."""
UNLIKELY = 0.01
"""Share of square matrices whose smallest singular value is below the bound scaling starts from. They take longer."""


def polar(key: jax.Array, shape: tuple[int, ...], dtype: Any, split: Split | None = None) -> jax.Array:
    """Return matrices whose shorter side is orthonormal, uniformly distributed, one per leading index.

    Some thirty times the work of `haar` for a square matrix, ten for a tall one, spread over all devices that share a
    matrix. Iterations end when the Frobenius norm of `I - Xᴴ X` is below the square root of the type's precision, one
    quadratic step from its end; where that isn't reached within `ITERATIONS`, every entry is NaN.

    Args:
        key: a typed key.
        shape: `(*batch, rows, columns)`.
        dtype: float32, float64, complex64 or complex128.
        split: where the matrices live; values don't depend on it but for rounding.

    Examples:
        >>> q = polar(jax.random.key(0), (8, 5), jnp.float32)
        >>> bool(jnp.allclose(q.mT @ q, jnp.eye(5), atol=1e-5))
        True
    """
    *batch, rows, columns = shape
    if rows < columns:
        return jnp.swapaxes(polar(key, (*batch, columns, rows), dtype, split), -1, -2)
    count = 1 if split is None else split.devices
    top = math.sqrt(rows) + math.sqrt(columns) + DEVIATION
    tight = math.sqrt(rows) - math.sqrt(columns) - DEVIATION
    bottom = max(tight, UNLIKELY * (math.sqrt(rows) - math.sqrt(columns - 1)))
    start = jax.random.normal(key, shape, dtype) / jnp.asarray(top, dtype)
    # Rows and columns of zeros stay zeros.
    margins = [(0, 0)] * len(batch) + [(0, -rows % count), (0, -columns % count)]
    start = jnp.pad(start, margins)

    def factor(rows: jax.Array) -> jax.Array:
        return _factor(rows, columns, bottom / top, () if split is None else split.matrix)

    if split is None:
        return factor(start)
    spec = split.spec(split.matrix or None, None)
    start = split.constrain(start, split.matrix or None, None)
    spread = jax.shard_map(factor, mesh=split.mesh, in_specs=spec, out_specs=spec, check_vma=False)(start)
    return spread[..., :rows, :columns]


_State = tuple[jax.Array, Any, Any, Any]
"""A matrix, a lower bound of its singular values, its distance from orthogonality a turn ago, and the turn."""


def _factor(start: jax.Array, columns: int, bound: float, names: tuple[str, ...]) -> jax.Array:
    """Return this device's rows of the polar factor.

    Args:
        start: its rows of a matrix with singular values up to one.
        columns: columns that aren't padding.
        bound: what few singular values are below.
        names: the mesh axes over which rows are spread.
    """
    width = start.shape[-1]
    goal = math.sqrt(np.finfo(start.dtype).eps)
    index = lax.axis_index(names) if names else 0
    count = lax.axis_size(names) if names else 1
    block = width // count
    shape = (*start.shape[:-2], block, width)
    rows, across = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (len(shape) - 2, len(shape) - 1))
    identity = ((rows + index * block == across) & (across < columns)).astype(start.dtype)

    def gram(matrix: jax.Array) -> jax.Array:
        def add(total: jax.Array, share: jax.Array, _: Any) -> jax.Array:
            return total + times(adjoint(lax.dynamic_slice_in_dim(share, index * block, block, -1)), share)

        return _around(add, jnp.zeros(shape, matrix.dtype), matrix, names)

    def times_rows(matrix: jax.Array, rows: jax.Array) -> jax.Array:
        def add(total: jax.Array, share: jax.Array, origin: Any) -> jax.Array:
            return total + times(lax.dynamic_slice_in_dim(matrix, origin * block, block, -1), share)

        return _around(add, jnp.zeros_like(matrix), rows, names)

    def is_unfinished(state: _State) -> Any:
        _, _, error, turn = state
        return (error > goal) & (turn < ITERATIONS)

    def iterate(state: _State) -> _State:
        matrix, lower, _, turn = state
        rows = gram(matrix)
        squares = jnp.sum(jnp.square(jnp.abs(rows - identity)), axis=(-2, -1))
        error = jnp.sqrt(jnp.max(lax.psum(squares, names) if names else squares))
        # No singular value is farther from one than this; where they are near, scaling must end.
        lower = jnp.maximum(lower, jnp.sqrt(jnp.maximum(1 - error, 0)))
        scale = jnp.minimum(LARGEST_SCALE, jnp.sqrt(3 / (1 + lower + lower**2)))
        factor, square = (value.astype(start.dtype) for value in (scale / 2, scale**2))
        matrix = factor * (3 * matrix - square * times_rows(matrix, rows))
        lower = jnp.minimum(_cubic(scale * lower), _cubic(scale))
        return matrix, lower, error, turn + 1

    real = np.finfo(start.dtype).dtype
    initial = (start, np.asarray(bound, real), np.asarray(np.inf, real), 0)
    matrix, _, error, _ = lax.while_loop(is_unfinished, iterate, initial)
    return jnp.where(error <= goal, matrix, jnp.nan)


def _cubic(value: Any) -> Any:
    return value * (3 - value**2) / 2


def _around(
    add: Callable[[jax.Array, jax.Array, Any], jax.Array], start: jax.Array, share: jax.Array, names: tuple[str, ...]
) -> jax.Array:
    """Return a total to which every device's share is added, as the shares go around in a ring.

    `add` takes the total so far, a share, and the index of the device it comes from.
    """
    if not names:
        return add(start, share, 0)
    count = lax.axis_size(names)
    index = lax.axis_index(names)
    ring = [(device, (device - 1) % count) for device in range(count)]

    def step(turn: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        total, share = state
        return add(total, share, (index + turn) % count), lax.ppermute(share, names, ring)

    return lax.fori_loop(0, count, step, (start, share))[0]
