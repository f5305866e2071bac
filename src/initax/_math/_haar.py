"""Haar-distributed (semi-)orthogonal and unitary matrices, by Stewart's construction.

Householder's QR decomposition of a Gaussian matrix reflects one column after another onto an axis, and each column it
meets is again Gaussian, independent of those before and one entry shorter. So nothing has to be decomposed: draw those
columns, take their reflectors, multiply the reflectors out. The product is made of matrix products alone, in blocks.

References:
    Stewart 1980, SIAM J. Numer. Anal. 17(3), 403. Mezzadri 2007, arXiv math-ph/0609050, for the phases. Schreiber & Van
    Loan 1989, SIAM J. Sci. Stat. Comput. 10(1), 53, and Puglisi 1992, SIAM J. Sci. Stat. Comput. 13(3), 723, for
    `I - W T Wᴴ` and its `T`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from initax._math._sharding import Split
from initax._math._threefry import FUSED, PLACED, placed

# How reflectors are multiplied out was chosen by measuring prototypes; medians in float32, JAX 0.10.2, two quiet cores:
#
#     n                                   64       512      1024     2048
#     JAX's QR of a Gaussian              0.42 ms  15.3 ms  93.6 ms  410 ms
#     these reflectors, LAPACK's orgqr    0.29 ms  11.1 ms  60.5 ms  276 ms
#     panels, triangles solved by BLAS    0.26 ms   7.8 ms  44.5 ms  238 ms
#     panels, products alone              0.24 ms   5.6 ms  21.6 ms  123 ms
#
# With the cores taken by other processes LAPACK's threads wait for XLA's and both for a core: QR at n = 1024 took
# seconds, products 50 ms. So products alone it is, on every backend. None of it was measured on an accelerator.

BLOCK = 16
"""Columns of `T` found at a time."""
FEW = 32
"""Columns up to which reflectors are applied one by one."""
PANEL = 256
"""Columns from which a matrix is worth another panel."""
PANELS = 4
"""Panels at most. Their updates are written out, one shape each, so compilation grows with them and with nothing else:
on two cores 0.9 s for one panel, 1.5 s for four, 2.0 s for eight, which are no faster up to n = 2048."""
ROW = 4096
"""Random numbers that are drawn in a row, each row from a key and a place of its own."""


def haar(key: jax.Array, shape: tuple[int, ...], dtype: Any, split: Split | None = None) -> jax.Array:
    """Return matrices whose shorter side is orthonormal, uniformly distributed, one per leading index.

    Args:
        key: a typed key.
        shape: `(*batch, rows, columns)`.
        dtype: float32, float64, complex64 or complex128.
        split: where the matrices live. Each is made whole where a part of it lives, so that devices have nothing to
            tell each other; values don't depend on it but for rounding.

    Examples:
        >>> q = haar(jax.random.key(0), (8, 5), jnp.float32)
        >>> bool(jnp.allclose(q.mT @ q, jnp.eye(5), atol=1e-5))
        True
    """
    *batch, rows, columns = shape
    if 0 in shape:
        return jnp.zeros(shape, dtype)
    if rows < columns:
        return jnp.swapaxes(haar(key, (*batch, columns, rows), dtype, split), -1, -2)
    vectors = _trapezoid(key, tuple(batch), rows, columns, dtype, in_rows=split is None)
    if split is None:
        return _product(*_reflectors(vectors))
    spec = split.spec(None, None)
    vectors = split.constrain(vectors, None, None)
    return jax.shard_map(
        lambda part: _product(*_reflectors(part)), mesh=split.mesh, in_specs=spec, out_specs=spec, check_vma=False
    )(vectors)


def _trapezoid(
    key: jax.Array, batch: tuple[int, ...], rows: int, columns: int, dtype: Any, *, in_rows: bool
) -> jax.Array:
    """Return a Gaussian matrix that is zero above its diagonal.

    Of a large one hardly a number more is drawn than it has entries: the two triangles of its upper square are cut from
    one rectangle, along the diagonal. In a square matrix that saves half the random numbers, a fifth of all the time.
    """
    if columns < PANEL:
        return jnp.tril(jax.random.normal(key, (*batch, rows, columns), dtype))
    left = -(-columns // 2)
    right = columns - left
    shapes = [(*batch, left, left + 1), (*batch, right, left), (*batch, rows - columns, columns)]
    triangles, square, rest = _normals(jax.random.split(key, 3), shapes, dtype, in_rows=in_rows)
    upper = jnp.concatenate([jnp.tril(triangles[..., :left]), jnp.zeros((*batch, left, right), dtype)], axis=-1)
    other = jnp.swapaxes(jnp.triu(triangles[..., :right, 1 : right + 1]), -1, -2)
    return jnp.concatenate([upper, jnp.concatenate([square, other], axis=-1), rest], axis=-2)


def _normals(keys: jax.Array, shapes: Sequence[tuple[int, ...]], dtype: Any, *, in_rows: bool) -> list[jax.Array]:
    """Return `jax.random.normal` of each key and shape.

    In rows all of them are drawn by one loop, which compiles in a third of the time of three, and once, however many
    operations read them. They can't be told where the arrays are spread over devices.
    """
    if not in_rows or jax.random.key_impl(keys) != FUSED:
        return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]
    counts = np.array([math.prod(shape) for shape in shapes])
    ends = np.cumsum(-(-counts // ROW))
    starts = np.concatenate([[0], ends[:-1]])
    owner = np.repeat(np.arange(len(shapes)), ends - starts)
    places = (np.arange(ends[-1]) - starts[owner]) * ROW
    data = placed(jax.random.key_data(keys)[owner], places)

    def draw(row: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.wrap_key_data(row, impl=PLACED), (ROW,), dtype)

    drawn = lax.optimization_barrier(jnp.reshape(jax.vmap(draw)(data), -1))
    first = starts * ROW
    return [
        jnp.reshape(drawn[begin : begin + count], shape)
        for begin, count, shape in zip(first, counts, shapes, strict=True)
    ]


def _reflectors(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return `w` of every column's reflector `I - w wᴴ`, and the phases that make their product Haar.

    A reflector sends its column `x` to `-phase(x₁) |x| e₁`, so that nothing cancels in `x₁ + phase(x₁) |x|`. The
    diagonal of R has those phases; dividing by them makes the decomposition unique, and its Q uniform (Mezzadri 2007).
    One column of all zeros, which a last column of one entry is once in 2²⁴, is treated as `e₁`.
    """
    shape = vectors.shape
    on_diagonal = is_diagonal(shape)
    head = jnp.diagonal(vectors, axis1=-2, axis2=-1)
    size = jnp.abs(head)
    below = jnp.sum(jnp.square(jnp.abs(jnp.where(on_diagonal, 0, vectors))), axis=-2)
    empty = (size == 0) & (below == 0)
    head, size = jnp.where(empty, 1, head), jnp.where(empty, 1, size)
    norm = jnp.sqrt(below + size**2)
    phase = jnp.where(size == 0, 1, head / jnp.where(size == 0, 1, size).astype(head.dtype))
    first = head + phase * norm.astype(head.dtype)
    scale = jnp.sqrt(2 / (below + jnp.square(jnp.abs(first)))).astype(head.dtype)
    return jnp.where(on_diagonal, _each_row(first, shape), vectors) * _each_row(scale, shape), -phase


def _product(reflectors: jax.Array, phases: jax.Array) -> jax.Array:
    """Return the first columns of the product of all reflectors, each column times its phase.

    From the last panel to the first: `I - W T Wᴴ` of a panel's reflectors is multiplied with the product of the panels
    behind it, which is the identity but for the lower right corner.
    """
    *batch, rows, columns = reflectors.shape
    if columns <= FEW:
        return _one_by_one(reflectors, phases)
    count = max(1, min(PANELS, columns // PANEL))
    blocks = -(-columns // (BLOCK * count))
    block = -(-columns // (blocks * count))
    width = blocks * block
    # Columns of zeros are reflectors that change nothing; they fill up the last panel.
    padded = jnp.pad(reflectors, _margins(len(batch), (0, 0), (0, count * width - columns)))
    panels = [padded[..., start:, start : start + width] for start in range(0, count * width, width)]
    factors = _triangular_factors(jnp.stack([times(adjoint(panel), panel) for panel in panels], axis=-3), block)
    product = jnp.zeros((*batch, rows - columns, 0), reflectors.dtype)
    for index in reversed(range(count)):
        start, end = index * width, min((index + 1) * width, columns)
        panel, phase = panels[index], phases[..., None, start:end]
        head, tail = panel[..., : end - start, :], panel[..., end - start :, :]
        projected = jnp.concatenate([adjoint(head) * phase, times(adjoint(tail), product)], axis=-1)
        product = jnp.pad(product, _margins(len(batch), (end - start, 0), (end - start, 0)))
        diagonal = jnp.pad(phase, _margins(len(batch), (0, 0), (0, columns - end)))
        product += jnp.where(is_diagonal(product.shape), diagonal, 0)
        product -= times(panel, times(factors[..., index, :, :], projected))
    return product


def _one_by_one(reflectors: jax.Array, phases: jax.Array) -> jax.Array:
    """Return the same for a few columns, where a matrix product costs more to call than to compute."""
    columns = reflectors.shape[-1]

    def reflect(turn: Any, product: jax.Array) -> jax.Array:
        reflector = lax.dynamic_index_in_dim(reflectors, columns - 1 - turn, -1)
        return product - reflector * jnp.sum(jnp.conj(reflector) * product, axis=-2, keepdims=True)

    start = jnp.where(is_diagonal(reflectors.shape), _each_row(phases, reflectors.shape), 0)
    return lax.fori_loop(0, columns, reflect, start)


def _triangular_factors(grams: jax.Array, block: int) -> jax.Array:
    """Return `T` of each panel `W`: the inverse of the upper triangle of `Wᴴ W` with ones on the diagonal.

    By substitution: the diagonal blocks first, all at once and column by column, then block column by block column.
    Two loops of one shape each, so that compilation doesn't grow with the panel.
    """
    shape, width = grams.shape, grams.shape[-1]
    count = width // block
    grams = jnp.reshape(grams, (-1, width, width))
    grid = jnp.reshape(grams, (-1, count, block, count, block))
    on_diagonal = is_diagonal(grid.shape, -4, -2)
    corners = jnp.sum(jnp.where(on_diagonal, grid, 0), axis=-2)
    above = lax.broadcasted_iota(jnp.int32, corners.shape[:-1], corners.ndim - 2)

    def column(index: Any, inverse: jax.Array) -> jax.Array:
        entries = lax.dynamic_index_in_dim(corners, index, -1, keepdims=False)
        entries = _each_row(jnp.where(above < index, entries, 0), inverse.shape)
        solved = jnp.where(above == index, 1, -jnp.sum(inverse * entries, axis=-1))
        return lax.dynamic_update_index_in_dim(inverse, solved, index, inverse.ndim - 1)

    inverses = lax.fori_loop(0, block, column, jnp.zeros_like(corners))
    start = jnp.reshape(jnp.where(on_diagonal, inverses[..., None, :], 0), grams.shape)
    rows = lax.broadcasted_iota(jnp.int32, (*grams.shape[:-1], block), grams.ndim - 2)

    def block_column(index: Any, inverse: jax.Array) -> jax.Array:
        first = index * block
        entries = jnp.where(rows < first, lax.dynamic_slice_in_dim(grams, first, block, -1), 0)
        columns = lax.dynamic_slice_in_dim(inverse, first, block, -1)
        corner = lax.dynamic_slice_in_dim(columns, first, block, -2)
        solved = columns - times(times(inverse, entries), corner)
        return lax.dynamic_update_slice_in_dim(inverse, solved, first, -1)

    return jnp.reshape(lax.fori_loop(1, count, block_column, start), shape)


def is_diagonal(shape: tuple[int, ...], row: int = -2, column: int = -1) -> jax.Array:
    """Return which entries of a stack of matrices lie on the diagonal."""
    rank = len(shape)
    rows, columns = (lax.broadcasted_iota(jnp.int32, shape, axis % rank) for axis in (row, column))
    return rows == columns


def _each_row(entries: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(entries[..., None, :], shape)


def times(left: jax.Array, right: jax.Array) -> jax.Array:
    """Return the matrix product."""
    # In full precision: an accelerator's default would leave an error of 1e-3.
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def adjoint(matrix: jax.Array) -> jax.Array:
    """Return the conjugate transpose."""
    return jnp.conj(jnp.swapaxes(matrix, -1, -2))


def _margins(batch: int, rows: tuple[int, int], columns: tuple[int, int]) -> list[tuple[int, int]]:
    return [(0, 0)] * batch + [rows, columns]
