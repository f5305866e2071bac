"""One random key per parameter path.

A parameter's key depends on the user's key and the parameter's path and on nothing else: not on other layers, on the
order of traversal, on devices or on jit. That is what makes a draw reproducible when the model around it changes.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from initax._errors import KeyTypeError, shown, with_line
from initax._math import _threefry

CONFIG: Any = jax.config
"""JAX's configuration, whose options its type stubs do not list."""


@with_line("ix.parameter_key", 'write ix.parameter_key(key, "layers.0.weight")')
def parameter_key(key: jax.Array, path: str) -> jax.Array:
    """Return the key from which the parameter at `path` is drawn.

    The path's 64-bit BLAKE2b digest is folded into the key, 32 bits at a time, so that ten thousand parameters share a
    key with probability below 1e-11.

    Args:
        key: a JAX key, typed (`jax.random.key`) or legacy (`jax.random.PRNGKey`).
        path: the parameter's dotted path, `"blocks.0.attn.query_proj.weight"`.

    Returns:
        A key of the same kind as `key`.

    Raises:
        KeyTypeError: `key` is not one JAX key.

    Examples:
        >>> import jax
        >>> key = parameter_key(jax.random.key(0), "layers.0.weight")
        >>> jax.random.normal(key, (2, 3)).shape
        (2, 3)
    """
    typed = as_key(key)
    high, low = _words([path])[0]
    folded = jax.random.fold_in(jax.random.fold_in(typed, high), low)
    return folded if is_typed(key) else jax.random.key_data(folded)


@functools.lru_cache(maxsize=65536)
def _digest(path: str) -> bytes:
    return hashlib.blake2b(path.encode(), digest_size=8).digest()


def is_typed(key: Any) -> bool:
    """Whether `key` is a typed key array."""
    return isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def as_key(key: Any) -> jax.Array:
    """Return `key` as one typed key.

    Raises:
        KeyTypeError: `key` is a seed, a batch of keys, or no key at all.
    """
    if is_typed(key):
        return _single(key, key.shape, ())
    if isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32:
        # The trailing axis of a legacy key is its data; how long it is depends on the default implementation.
        array = _single(key, key.shape, _legacy_shape(str(CONFIG.jax_default_prng_impl)))
        return jax.random.wrap_key_data(jnp.asarray(array))
    seed = isinstance(key, int | np.integer) and not isinstance(key, bool)
    is_array = isinstance(key, jax.Array | np.ndarray)
    seen = f"an array of shape {key.shape} and type {key.dtype}" if is_array else shown(key)
    raise KeyTypeError(
        f"key must be a JAX random key, not {seen}.",
        f"write jax.random.key({key})" if seed else "write jax.random.key(0)",
    )


@functools.lru_cache(maxsize=8)
def _legacy_shape(implementation: str) -> tuple[int, ...]:
    return tuple(jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=implementation))).shape)


def _single(key: Any, shape: tuple[int, ...], expected: tuple[int, ...]) -> Any:
    if tuple(shape) == expected:
        return key
    raise KeyTypeError(
        f"key must be one key, not an array of keys of shape {tuple(shape)}.",
        "for an ensemble write eqx.filter_vmap(lambda key: ix.reinit(model, rules, key))(keys)",
        "or the same with jax.vmap where the model is a plain pytree of arrays",
    )


def fold_paths(key: jax.Array, paths: Sequence[str]) -> jax.Array:
    """Return one typed key per path, stacked, equal to `parameter_key(key, path)` for each; what follows is padding.

    One compiled program serves every count up to the next power of two.
    """
    words = _words(paths)
    padded = np.zeros((1 << max(len(paths) - 1, 0).bit_length(), 2), dtype=np.uint32)
    padded[: len(paths)] = words
    return _fold(key, padded)


def fold_paths_on_host(key: jax.Array, paths: Sequence[str]) -> np.ndarray:
    """Return the data of these keys as a NumPy array. For Threefry nothing is compiled."""
    if str(jax.random.key_impl(key)) == _threefry.NAME:
        data, words = np.asarray(jax.random.key_data(key)), _words(paths)
        return _threefry.fold_in(_threefry.fold_in(data, words[:, 0]), words[:, 1])
    return np.asarray(jax.random.key_data(fold_paths(key, paths)))[: len(paths)]


def _words(paths: Sequence[str]) -> np.ndarray:
    """The two 32-bit words that stand for each path, shape (paths, 2)."""
    return np.frombuffer(b"".join(map(_digest, paths)), dtype=">u4").astype(np.uint32).reshape(-1, 2)


@jax.jit
def _fold(key: jax.Array, words: jax.Array) -> jax.Array:
    def fold_pair(pair: jax.Array) -> jax.Array:
        return lax.fori_loop(0, 2, lambda index, key: jax.random.fold_in(key, pair[index]), key)

    # Loops compile four times faster than the same folds vectorized and written out, and there is little to compute.
    return lax.map(fold_pair, words)


def vmap_is_exact(key: jax.Array) -> bool:
    """Whether draws under `vmap` over keys equal the single draws bit for bit."""
    return "fry" in str(key.dtype)


def as_others_know_it(key: jax.Array) -> jax.Array:
    """Return a key of the faster Threefry as one of JAX's own, for code that may look at what kind of key it gets."""
    if jax.random.key_impl(key) != _threefry.FUSED:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_threefry.NAME)
