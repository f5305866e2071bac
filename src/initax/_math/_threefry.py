"""JAX's Threefry-2x32, written so that XLA fuses it into whatever uses the bits.

For the CPU JAX lowers the hash to a loop, which XLA can't fuse: the counters, both words and the bits are arrays in
memory, three times the size of what is drawn, and the draw takes more than twice as long. Written out, the same twenty
rounds are one fused pass over the output and need no memory beside it. The bits are the same, counter by counter
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
from jax import lax

NAME = "threefry2x32"
"""What JAX calls the implementation whose bits these are."""

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)
_WORDS = 2
"""Words of a key."""
ONES = (1 << 32) - 1
"""The largest word."""
COUNTERS = 1 << 32
"""Entries that one 32-bit counter tells apart."""


def hash_words(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the two words that Threefry-2x32 makes of a counter, for NumPy or JAX arrays of 32-bit words."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    first, second = counter[0] + schedule[0], counter[1] + schedule[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            first = first + second
            second = ((second << np.uint32(rotation)) | (second >> np.uint32(32 - rotation))) ^ first
        first = first + schedule[(group + 1) % 3]
        second = second + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return first, second


def fold_in(key: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return the keys `jax.random.fold_in` makes of a key and each of the words, on the host.

    Args:
        key: data of a key, or of one key per word, shape (2,) or (count, 2).
        words: 32-bit words, shape (count,).
    """
    # Folding in hashes the seed that the word alone would give, whose high half is zero.
    if len(words) <= FEW:
        keys = np.broadcast_to(key, (len(words), _WORDS)).tolist()
        pairs = zip(keys, words.tolist(), strict=True)
        return np.array([_hash_integers(tuple(each), (0, word)) for each, word in pairs], np.uint32).reshape(-1, _WORDS)
    with np.errstate(over="ignore"):
        halves = hash_words((key[..., 0], key[..., 1]), (np.zeros_like(words), words))
    return np.stack(halves, axis=-1)


FEW = 12
"""Words up to which Python's integers are faster than NumPy's arrays: they take 6 µs a word, and arrays 75 µs at
least, a twentieth of what re-initializing a small model takes."""


def _hash_integers(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """The same as `hash_words` makes of Python's integers, which do not wrap around by themselves."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ int(PARITY))
    first, second = counter[0] + schedule[0] & ONES, counter[1] + schedule[1] & ONES
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            first = first + second & ONES
            second = (second << rotation & ONES | second >> 32 - rotation) ^ first
        first = first + schedule[(group + 1) % 3] & ONES
        second = second + schedule[(group + 2) % 3] + group + 1 & ONES
    return first, second


def counters(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Return each entry's place in row-major order, as high and low 32-bit words.

    Raises:
        OverflowError: one axis alone is longer than a word can count.
    """
    if max(shape, default=0) >= COUNTERS:
        raise OverflowError(f"an axis of {max(shape)} entries")
    along = [lax.broadcasted_iota(np.uint32, shape, axis) for axis in range(len(shape))]
    high, low = place_of(along, shape)
    return jnp.broadcast_to(high, shape), jnp.broadcast_to(low, shape)


def place_of(index: Sequence[Any], shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return the place in row-major order that an index has, as high and low 32-bit words.

    Args:
        index: the index along each axis, NumPy or JAX arrays of 32-bit words.
        shape: the shape of the array that is indexed.
    """
    low = high = np.zeros((), np.uint32)
    stride = 1
    for along, size in zip(reversed(index), reversed(shape), strict=True):
        if stride * size <= COUNTERS:
            low = low + along * _low(stride)
        else:
            more_high, more_low = _times(along, stride)
            low = low + more_low
            high = high + more_high + (low < more_low).astype(np.uint32)
        stride *= size
    return high, low


def _low(stride: int) -> np.uint32:
    return np.uint32(stride % COUNTERS)


def _times(words: Any, factor: int) -> tuple[Any, Any]:
    """The 64-bit product of words and a number, as high and low words."""
    top, half, mask = factor // COUNTERS, np.uint32(16), np.uint32(0xFFFF)
    below, above = np.uint32(factor % COUNTERS & 0xFFFF), np.uint32(factor % COUNTERS >> 16)
    right, left = words & mask, words >> half
    middle = right * above + (right * below >> half)
    other = left * below + (middle & mask)
    high = left * above + (middle >> half) + (other >> half)
    return high + words * np.uint32(top % COUNTERS), words * _low(factor)


def random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    """Return the bits that JAX draws from the key data of one partitionable Threefry key."""
    return _bits(key, bit_width, counters(shape))


def _bits(
    key: jax.Array, bit_width: int, places: tuple[jax.Array, jax.Array], first: tuple[Any, Any] | None = None
) -> jax.Array:
    """Return the bits of the entries at some places, counted from a first one; that carries nothing."""
    if first is not None:
        places = places[0] + first[0], places[1] + first[1]
    high, low = hash_words((key[0], key[1]), places)
    if bit_width == 64:
        wide: jax.Array = high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
        return wide
    both: jax.Array = high ^ low
    return both.astype(np.dtype(f"uint{bit_width}"))


_IMPLEMENTATION: Any = jax.extend.random.threefry_prng_impl
FUSED: Any = jax.extend.random.define_prng_impl(
    key_shape=(2,),
    seed=_IMPLEMENTATION.seed,
    split=_IMPLEMENTATION.split,
    fold_in=_IMPLEMENTATION.fold_in,
    random_bits=random_bits,
    name="threefry2x32_fused",
    tag="fry",
)
"""The implementation of JAX's keys that draws the same bits in one pass."""


def placed(keys: Any, places: np.ndarray) -> Any:
    """Return the data of keys of `PLACED`, shape (count, 4), as NumPy's or JAX's array.

    Args:
        keys: data of the keys, shape (count, 2), NumPy's or JAX's array.
        places: the place in row-major order at which each begins to draw, shape (count,): a multiple of how many
            entries are drawn from there, a power of two.
    """
    wide = places.astype(np.uint64)
    words = np.stack([wide >> np.uint64(32), wide & np.uint64(COUNTERS - 1)], axis=-1).astype(np.uint32)
    joined = np.concatenate if isinstance(keys, np.ndarray) else jnp.concatenate
    return joined([keys, words], axis=-1)


def _random_bits_from_place(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    return _bits(key, bit_width, counters(shape), (key[_WORDS], key[_WORDS + 1]))


def _like(key: jax.Array, derived: jax.Array) -> jax.Array:
    """Return keys derived from a placed one, which begin at its place."""
    place = jnp.broadcast_to(key[_WORDS:], (*derived.shape[:-1], _WORDS))
    return jnp.concatenate([derived, place], axis=-1)


PLACED: Any = jax.extend.random.define_prng_impl(
    key_shape=(2 * _WORDS,),
    seed=lambda seed: jnp.concatenate([_IMPLEMENTATION.seed(seed), jnp.zeros(_WORDS, np.uint32)]),
    split=lambda key, shape: _like(key, _IMPLEMENTATION.split(key[:_WORDS], shape)),
    fold_in=lambda key, word: _like(key, _IMPLEMENTATION.fold_in(key[:_WORDS], word)),
    random_bits=_random_bits_from_place,
    name="threefry2x32_placed",
    tag="fry",
)
"""The same, for a part of an array: draws begin at a place in row-major order that is known when the program runs."""
