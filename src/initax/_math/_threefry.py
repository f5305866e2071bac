"""JAX's Threefry-2x32, written so that XLA fuses it into whatever uses the bits.

For the CPU JAX lowers the hash to a loop, which XLA can't fuse: the counters, both words and the bits are arrays in
memory, three times the size of what is drawn, and the draw takes more than twice as long. Written out, the same twenty
rounds are one fused pass over the output and need no memory beside it. The bits are the same, counter by counter
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

import functools
import operator
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
PARITY = 0x1BD11BDA
_WORDS = 2
"""Words of a key."""
ONES = (1 << 32) - 1
"""The largest word."""
COUNTERS = 1 << 32
"""Entries that one 32-bit counter tells apart."""


def hash_words(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the two words that Threefry-2x32 makes of a counter, for integers, NumPy's or JAX's arrays of words."""
    add, xor, rotated, word = _operations(counter[1])
    schedule = (key[0], key[1], xor(xor(key[0], key[1]), word(PARITY)))
    first, second = add(counter[0], schedule[0]), add(counter[1], schedule[1])
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            first = add(first, second)
            second = xor(rotated(second, rotation), first)
        first = add(first, schedule[(group + 1) % 3])
        second = add(add(second, schedule[(group + 2) % 3]), word(group + 1))
    return first, second


def _operations(words: Any) -> tuple[Any, Any, Any, Any]:
    """Sum, exclusive or, rotation to the left, and a constant, for words of a kind."""
    if isinstance(words, int):
        return _sum_of_integers, operator.xor, _rotated_integer, int
    # What stands behind the operators of JAX's arrays takes three times as long to trace.
    return (_sum_of_traced, _xor_of_traced, _rotated_traced, np.uint32) if isinstance(words, jax.Array) else _ARRAYS


def _sum_of_integers(word: int, other: int) -> int:
    return word + other & ONES


def _rotated_integer(word: int, by: int) -> int:
    return word << by & ONES | word >> 32 - by


def _rotated(words: Any, by: int) -> Any:
    return (words << np.uint32(by)) | (words >> np.uint32(32 - by))


_ARRAYS = (operator.add, operator.xor, _rotated, np.uint32)


def _sum_of_traced(words: Any, other: Any) -> jax.Array:
    return lax.add(*_of_one_shape(words, other))


def _xor_of_traced(words: Any, other: Any) -> jax.Array:
    return lax.bitwise_xor(*_of_one_shape(words, other))


def _rotated_traced(words: jax.Array, by: int) -> jax.Array:
    left, right = (lax.full(words.shape, shift, np.uint32) for shift in (by, 32 - by))
    return lax.bitwise_or(lax.shift_left(words, left), lax.shift_right_logical(words, right))


def _of_one_shape(*arrays: Any) -> list[Any]:
    shape = np.broadcast_shapes(*map(np.shape, arrays))
    last = {rank: range(len(shape) - rank, len(shape)) for rank in map(np.ndim, arrays)}
    return [
        words if np.shape(words) == shape else lax.broadcast_in_dim(words, shape, last[np.ndim(words)])
        for words in arrays
    ]


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
        return np.array([hash_words(tuple(data), (0, word)) for data, word in pairs], np.uint32).reshape(-1, _WORDS)
    with np.errstate(over="ignore"):
        halves = hash_words((key[..., 0], key[..., 1]), (np.zeros_like(words), words))
    return np.stack(halves, axis=-1)


FEW = 12
"""Words up to which Python's integers are faster than NumPy's arrays: they take 7 µs a word, and arrays 75 µs at
least, a twentieth of what re-initializing a small model takes."""


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
    key: Any, bit_width: int, places: tuple[jax.Array, jax.Array], first: tuple[Any, Any] | None = None
) -> jax.Array:
    """Return the bits of the entries at some places, counted from a first one; that carries nothing."""
    if first is not None:
        places = places[0] + first[0], places[1] + first[1]
    high, low = hash_words((key[0], key[1]), places)
    if bit_width == 64:
        return high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
    return (high ^ low).astype(np.dtype(f"uint{bit_width}"))


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


def _seed_placed(seed: Any) -> jax.Array:
    return jnp.concatenate([_IMPLEMENTATION.seed(seed), jnp.zeros(_WORDS, np.uint32)])


def _split_placed(key: Any, shape: tuple[int, ...]) -> jax.Array:
    return _like(key, _IMPLEMENTATION.split(key[:_WORDS], shape))


def _fold_in_placed(key: Any, word: Any) -> jax.Array:
    return _like(key, _IMPLEMENTATION.fold_in(key[:_WORDS], word))


PLACED: Any = jax.extend.random.define_prng_impl(
    key_shape=(2 * _WORDS,),
    seed=_seed_placed,
    split=_split_placed,
    fold_in=_fold_in_placed,
    random_bits=_random_bits_from_place,
    name="threefry2x32_placed",
    tag="fry",
)
"""The same, for a part of an array: draws begin at a place in row-major order that is known when the program runs."""


@functools.lru_cache(maxsize=16)
def placed_rows(count: int) -> Any:
    """Return the implementation of one key that is as many keys of `PLACED`, shape (count, 4).

    It draws arrays of shape (count, entries), each row from its own key. Under `vmap` over keys the same takes twice as
    long to trace, which every operation of the hash does for itself.
    """

    def random_bits(keys: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
        first, second, high, low = (lax.slice_in_dim(keys, word, word + 1, axis=1) for word in range(2 * _WORDS))
        along = lax.broadcasted_iota(np.uint32, shape, 1)
        return _bits((first, second), bit_width, (high, _sum_of_traced(low, along)))

    return jax.extend.random.define_prng_impl(
        key_shape=(count, 2 * _WORDS),
        seed=lambda seed: jnp.broadcast_to(_seed_placed(seed), (count, 2 * _WORDS)),
        split=lambda keys, shape: jnp.moveaxis(jax.vmap(lambda key: _split_placed(key, shape))(keys), 0, -2),
        fold_in=lambda keys, word: jax.vmap(lambda key: _fold_in_placed(key, word))(keys),
        random_bits=random_bits,
        name=f"threefry2x32_placed_{count}",
        tag="fry",
    )
