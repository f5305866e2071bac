"""Haar's law: uniform on the Stiefel manifold, not merely orthogonal, by Householder and by polar factors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import initax as ix
from initax._math import _polar
from initax._math._haar import _one_by_one, _product, _reflectors, haar
from initax._math._polar import polar
from initax._math._threefry import FUSED
from tests.tables import compilations

LEAST = 1e-6
"""The p-value below which a law is rejected, at fixed seeds."""

METHODS = {"householder": haar, "polar": polar}
TYPES = {"real": jnp.float32, "complex": jnp.complex64}
SQUARES = {"4, one by one": (20_000, 4), "40, in blocks": (1_000, 40)}
ACCURACY = {jnp.float32: 1e-6, jnp.complex64: 2e-6}


def wide(array):
    return np.asarray(array, np.complex128 if np.iscomplexobj(array) else np.float64)


def gram_error(stack):
    tall = stack if stack.shape[-2] >= stack.shape[-1] else np.swapaxes(stack, -1, -2)
    return np.abs(np.conj(np.swapaxes(tall, -1, -2)) @ tall - np.eye(tall.shape[-1])).max()


# Orthogonality

SHAPES = [(1, 1), (40, 33), (33, 40), (2, 3, 7, 4)]


@pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.slow(one_in=5)
def test_the_shorter_side_is_orthonormal(shape, method, dtype, key):
    drawn = jax.jit(lambda each: method(each, shape, dtype))(key)
    assert (drawn.shape, drawn.dtype) == (shape, dtype)
    assert gram_error(wide(drawn)) < ACCURACY[dtype]


@pytest.mark.parametrize("shape", [(5, 1), (1030, 1027)], ids=str)
def test_one_column_and_four_panels_are_orthonormal(shape, key):
    assert gram_error(wide(jax.jit(lambda each: haar(each, shape, jnp.float32))(key))) < 1e-6


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_doubles_are_orthonormal_to_double_precision(method, key, x64):
    assert gram_error(wide(jax.jit(lambda each: method(each, (45, 40), jnp.float64))(key))) < 4e-15


@pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("shape", [(3, 50, 40), (530, 513)], ids=str)
@pytest.mark.slow(one_in=4)
def test_blocks_multiply_out_what_reflectors_do_one_by_one(shape, dtype, key):
    vectors = jnp.tril(jax.random.normal(key, shape, dtype))
    inputs = jax.jit(_reflectors)(vectors)
    np.testing.assert_allclose(jax.jit(_product)(*inputs), jax.jit(_one_by_one)(*inputs), atol=2e-6)


def test_the_product_is_the_unique_decomposition_of_what_the_reflectors_see(key):
    """Undoing the reflectors on a triangle of positive diagonal gives a matrix that LAPACK takes apart again."""
    q = wide(jax.jit(lambda each: haar(each, (7, 5), jnp.float32))(key))
    r = np.triu(np.random.default_rng(0).uniform(0.5, 1, (5, 5)))
    lapack_q, lapack_r = np.linalg.qr(q @ r)
    np.testing.assert_allclose(lapack_q * np.sign(np.diag(lapack_r)), q, atol=1e-5)


def test_columns_of_zeros_are_reflected_too():
    made = jax.jit(lambda zeros: _product(*_reflectors(zeros)))(jnp.zeros((5, 5)))
    assert gram_error(wide(made)) < 1e-6


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("shape", [(9, 6), (50, 40)], ids=str)
@pytest.mark.slow(one_in=4)
def test_values_do_not_depend_on_how_many_are_drawn_together(shape, method, key):
    draw = jax.jit(lambda each: method(each, shape, jnp.float32))
    keys = jax.random.split(key, 3)
    for each, drawn in zip(keys, jax.jit(jax.vmap(draw))(keys), strict=True):
        np.testing.assert_allclose(draw(each), drawn, atol=1e-6)


def test_half_precision_is_drawn_in_single(key):
    half = ix.draw("orthogonal", key, (40, 36), jnp.bfloat16)
    assert np.array_equal(half, ix.draw("orthogonal", key, (40, 36)).astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.slow(one_in=2)
def test_matrices_that_share_their_sides_share_a_program(dtype, key):
    shapes = {"tall": (71, 53), "wide": (53, 71), "stack": (1, 71, 53), "taps": (53, 71, 1)}
    axes = {"tall": "i o", "wide": "i o", "stack": "b o i", "taps": "i o ..."}
    rules = {name: ix.Scheme(("orthogonal", {"gain": 1.5}), axes=pattern) for name, pattern in axes.items()}

    def draw(key):
        return ix.reinit({name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}, rules, key)

    drawn = {}
    # One that draws matrices, one that draws a stack, and those that lay out.
    assert compilations(lambda: drawn.update(draw(key))) <= 2 + len(shapes)
    for name, together in jax.jit(draw)(key).items():
        np.testing.assert_allclose(drawn[name].astype(float), together.astype(float), atol=1e-6)
        assert drawn[name].shape == shapes[name]
        assert drawn[name].dtype == dtype


@pytest.mark.parametrize("shape", [(256, 256), (301, 263)], ids=str)
@pytest.mark.slow(one_in=2)
def test_numbers_drawn_in_rows_are_those_drawn_one_by_one(shape, key):
    faster = jax.random.wrap_key_data(jax.random.key_data(key), impl=FUSED)
    draw = jax.jit(lambda each: haar(each, shape, jnp.float32))
    np.testing.assert_allclose(draw(faster), draw(key), atol=1e-6)


# Uniformity: each law gives p-values


def entries(stack):
    """Mean, square and fourth power of every entry, as p-values of z-scores."""
    count, n = stack.shape[:2]
    size = np.abs(stack) ** 2
    if np.iscomplexobj(stack):
        second, fourth, eighth = 1 / n, 2 / (n * (n + 1)), 24 / (n * (n + 1) * (n + 2) * (n + 3))
    else:
        second, fourth, eighth = 1 / n, 3 / (n * (n + 2)), 105 / (n * (n + 2) * (n + 4) * (n + 6))
    parts = [stack.real] + ([stack.imag] if np.iscomplexobj(stack) else [])
    scores = [part.mean(0) / math.sqrt(second / len(parts) / count) for part in parts]
    scores.append((size.mean(0) - second) / math.sqrt((fourth - second**2) / count))
    scores.append(((size**2).mean(0) - fourth) / math.sqrt((eighth - fourth**2) / count))
    return 2 * stats.norm.sf(np.abs(np.concatenate([score.ravel() for score in scores])))


def one_entry(stack):
    """The distribution of an entry's square."""
    n = stack.shape[-1]
    law = stats.beta(1, n - 1) if np.iscomplexobj(stack) else stats.beta(0.5, (n - 1) / 2)
    return [
        stats.kstest(np.abs(stack[:, row, column]) ** 2, law.cdf).pvalue for row, column in ((0, 0), (1, 2), (-1, -1))
    ]


def traces(stack):
    """Diaconis & Shahshahani 1994: a trace has the moments of a normal number of variance one."""
    trace = np.trace(stack, axis1=1, axis2=2)
    count = len(trace)
    is_complex = np.iscomplexobj(stack)
    squares = np.abs(trace) ** 2
    scores = [trace.real.mean() * math.sqrt(count * (2 if is_complex else 1))]
    scores.append((squares.mean() - 1) * math.sqrt(count / (1 if is_complex else 2)))
    found = list(2 * stats.norm.sf(np.abs(scores)))
    if stack.shape[-1] >= 40:  # from there on the trace is normal to far below what can be seen
        found.append(stats.kstest(trace.real * math.sqrt(2 if is_complex else 1), "norm").pvalue)
        found.append(stats.kstest((trace / np.abs(trace)).real, stats.arcsine(-1, 2).cdf).pvalue if is_complex else 1)
    return found


def reference(stack, seed):
    group = stats.unitary_group if np.iscomplexobj(stack) else stats.ortho_group
    return group(stack.shape[-1], seed=seed)


def scipys(stack):
    """The same as SciPy's groups, in the trace and in a mix of entries."""
    theirs = reference(stack, 1).rvs(2_000 if stack.shape[-1] < 40 else 500)
    mix = np.random.default_rng(2).normal(size=stack.shape[1:])
    return [
        stats.ks_2samp(*(np.sum(weights * each, axis=(1, 2)).real for each in (stack, theirs))).pvalue
        for weights in (np.eye(len(mix)), mix)
    ]


def invariance(stack):
    """Turned from the left or the right by a fixed matrix, it is the same in law."""
    turn = reference(stack, 3).rvs(1)
    one, other = np.array_split(stack, 2)
    mix = np.random.default_rng(4).normal(size=stack.shape[1:])
    return [
        stats.ks_2samp(*(np.sum(weights * each, axis=(1, 2)).real for each in (one, turned))).pvalue
        for weights in (np.eye(len(mix)), mix)
        for turned in (turn @ other, other @ turn)
    ]


def determinants(stack):
    """Both signs equally often; a unitary one's is uniform on the circle."""
    determinant = np.linalg.det(stack)
    if np.iscomplexobj(stack):
        return [stats.kstest(np.angle(determinant), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue]
    return [stats.binomtest(int((determinant > 0).sum()), len(determinant)).pvalue]


LAWS = [entries, one_entry, traces, scipys, invariance, determinants]


@pytest.fixture(scope="module", params=SQUARES.values(), ids=SQUARES)
def size(request):
    return request.param


@pytest.fixture(scope="module", params=TYPES.values(), ids=TYPES)
def dtype(request):
    return request.param


@pytest.fixture(scope="module", params=METHODS.values(), ids=METHODS)
def sample(request, size, dtype):
    count, n = size
    return wide(jax.jit(lambda key: request.param(key, (count, n, n), dtype))(jax.random.key(7)))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.slow(one_in=16)
def test_square_matrices_are_uniform(law, sample):
    assert np.min(law(sample)) > LEAST


@pytest.mark.parametrize("law", [entries, traces, scipys, invariance, determinants])
def test_the_laws_reject_a_plain_decomposition(law, dtype):
    """Q of LAPACK, whose signs are those of its algorithm; nothing else is wrong with it (Mezzadri 2007)."""
    count, n = SQUARES["4, one by one"]
    plain = wide(jnp.linalg.qr(jax.random.normal(jax.random.key(7), (count, n, n), dtype))[0])
    assert gram_error(plain) < 3e-6
    assert np.min(law(plain)) < LEAST


SEMI = {"tall": (6, 3), "wide": (3, 6), "tall, in blocks": (45, 35), "column": (5, 1)}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("shape", SEMI.values(), ids=SEMI)
@pytest.mark.slow(one_in=5)
def test_rectangles_are_the_first_columns_of_squares(shape, method, dtype):
    """Uniform on the Stiefel manifold, held against SciPy's groups, and invariant on both sides."""
    longer, shorter = max(shape), min(shape)
    count = 2_000 if longer < 40 else 400
    group = stats.unitary_group if np.issubdtype(dtype, np.complexfloating) else stats.ortho_group
    theirs = group(longer, seed=5).rvs(count)[:, :, :shorter]
    ours = wide(jax.jit(lambda key: method(key, (count, *shape), dtype))(jax.random.key(8)))
    ours = ours if shape == (longer, shorter) else np.swapaxes(ours, -1, -2)
    left = group(longer, seed=6).rvs(1)
    mixes = [np.eye(longer, shorter), np.random.default_rng(9).normal(size=(longer, shorter))]
    for turned in (ours, left @ ours):
        for mix in mixes:
            pair = (np.sum(mix * each, axis=(1, 2)).real for each in (turned, theirs))
            assert stats.ks_2samp(*pair).pvalue > LEAST
    last = np.abs(ours[:, -1, -1]) ** 2
    unit, rest = (1, longer - 1) if np.iscomplexobj(ours) else (0.5, (longer - 1) / 2)
    assert stats.kstest(last, stats.beta(unit, rest).cdf).pvalue > LEAST


# Convergence


def test_a_polar_factor_that_does_not_converge_is_no_number(key, monkeypatch):
    monkeypatch.setattr(_polar, "ITERATIONS", 3)
    assert np.isnan(jax.jit(lambda each: polar(each, (12, 12), jnp.float32))(key)).all()


def test_the_polar_factor_is_that_of_the_gaussian(key):
    gaussian = wide(jax.random.normal(key, (30, 20), jnp.float32))
    left, _, right = np.linalg.svd(gaussian, full_matrices=False)
    drawn = jax.jit(lambda each: polar(each, (30, 20), jnp.float32))(key)
    np.testing.assert_allclose(drawn, left @ right, atol=1e-6)


@pytest.mark.parametrize(("shape", "most"), [((64, 64), 18), ((300, 40), 8)], ids=str)
def test_iterations_are_few(shape, most, key, monkeypatch):
    monkeypatch.setattr(_polar, "ITERATIONS", most)
    drawn = jax.jit(jax.vmap(lambda each: polar(each, shape, jnp.float32)))(jax.random.split(key, 50))
    assert np.isfinite(drawn).all()
