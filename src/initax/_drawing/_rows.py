"""Element-wise draws on a CPU: one program draws rows of entries, others put rows into arrays.

XLA compiles a program for every shape, which takes 0.25 s of a core where random numbers are drawn. But an entry
depends on its key and its place in row-major order alone. So one program per kernel and type draws some rows of
entries, each from a key, a place and a standard deviation that it is given when it runs. The rows of all arrays follow
one another, and the programs that put them into arrays do nothing but copy: without a loop in them 32 arrays compile in
30 ms of a core, and a copy takes 0.3 ns an entry of the 6.5 ns in which it is drawn. They write into old arrays that
are given up.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax import lax

from initax._drawing._job import Drawn, Groups, Job, Strategy
from initax._drawing._program import COPYING, WIDE, Arrays, Compilation, Compiled, Program, failure
from initax._math._keys import CONFIG
from initax._math._threefry import placed, placed_rows
from initax.schemes._initializer import number_type
from initax.schemes._kernels import Full

MAX_ENTRIES = 1 << 22
"""Entries of an array from which a program of its own pays off: it needs no memory beside the array."""
MAX_OF_ONE_SIZE = 1 << 24
"""Entries of all arrays of one size from which a program of its own pays off: it saves a fifth of the time."""
MAX_OUTPUTS = 32
"""Arrays that one program puts rows into; what they hold is held twice meanwhile."""
MAX_TOGETHER = 1 << 19
"""Entries that such arrays have together at most, or as many as the largest array has."""


@dataclass(frozen=True, slots=True)
class Size:
    """What one call draws.

    Attributes:
        rows: number of rows.
        entries: entries of each row.
        cut: rows after which arrays are cut into pieces, a divisor of `rows`.
    """

    rows: int
    entries: int
    cut: int


LONG = Size(16, 4096, cut=16)
"""A quarter of a megabyte of float32."""
LONGER = Size(64, 4096, cut=16)
"""A megabyte, for models with many entries: larger calls are dispatched less often, which saves a sixth of the time.
Arrays are cut as by long calls. Cut where these calls end, equal arrays would come in more pieces that differ, each of
which needs a program: a ViT took 27."""
LONGER_MIN = 1 << 21
"""Entries of all arrays from which longer calls serve them better."""
SHORT = Size(256, 256, cut=256)
"""For many arrays of few entries."""
FEW = Size(32, 1024, cut=32)
"""For what a long call or two would draw, of which half would be for nobody."""
FEW_MAX = 1 << 17
"""Entries of all arrays up to which these calls serve them better."""
SHORT_MAX = 1024
"""Entries of an array up to which short rows serve it better."""
MIN_SHORT = 256
"""Arrays from which short rows are worth a program of their own."""

NO_GROUPS: Groups = MappingProxyType({})

Form = tuple[tuple[int, ...], tuple[int, ...]]
"""The shape of an array, and the lengths of the pieces it is put together from."""
Fill = tuple[tuple[int, ...], Any]
"""Shape and type of an array that is one number."""


def serves(program: Program, numbers: tuple[Any, ...]) -> bool:
    """Return whether rows serve a program: it draws entries alone, of an array that is whole on one device of a CPU."""
    holds_arrays = any(isinstance(number, tuple) for number in numbers)
    if holds_arrays or not program.is_alone or not 0 < program.entries <= MAX_ENTRIES:
        return False
    device = program.device
    return device is not None and device.platform == "cpu" and not program.spans_processes


def may_join(groups: Groups, constants: Groups, jobs: Sequence[Job]) -> bool:
    """Return whether one program puts together all arrays of a small model, those that are one number among them.

    An array from the host takes 30 µs, one more that such a program gives back 1 µs.

    Args:
        groups: the programs that rows serve, with their jobs.
        constants: the programs without random numbers, with their jobs.
        jobs: all jobs.
    """
    programs = [*groups, *constants]
    together = [jobs[index] for index in itertools.chain(*groups.values(), *constants.values())]
    return (
        bool(groups)
        and len(together) <= MAX_OUTPUTS
        and sum(job.program.entries for job in together) <= MAX_TOGETHER
        and all(isinstance(program.kernel, Full) and program.preimage is None for program in constants)
        and len({program.shardings for program in programs}) == 1
        and len({(program.kernel, program.dtype) for program in groups}) == 1
        and len({len(jobs[index].numbers) for index in itertools.chain(*groups.values())}) == 1
    )


def drawn_in_rows(
    groups: Groups, jobs: Sequence[Job], keys: np.ndarray, constants: Groups = NO_GROUPS
) -> Iterator[Strategy]:
    """Yield how to draw jobs of programs that rows serve, one strategy for each stream of rows.

    Args:
        groups: the programs, with their jobs.
        jobs: all jobs.
        keys: data of their keys, one row for each.
        constants: programs of one number that are made beside them, with their jobs; `may_join` says whether they can.
    """
    streams: dict[Any, list[int]] = {}
    for program, indices in groups.items():
        for index in indices:
            alike = (program.kernel, program.dtype, program.shardings, len(jobs[index].numbers))
            streams.setdefault(alike, []).append(index)
    for stream in streams.values():
        # Equal arrays after one another, which the same programs put together.
        stream.sort(key=lambda index: (jobs[index].program.entries, jobs[index].program.shape), reverse=True)
        small = [index for index in stream if jobs[index].program.entries <= SHORT_MAX]
        if len(small) < MIN_SHORT:
            small = []
        large = stream[: len(stream) - len(small)]
        if large:
            total = sum(jobs[index].program.entries for index in large)
            size = FEW if total <= FEW_MAX else LONG if total < LONGER_MIN else LONGER
            yield _Stream(large, jobs, keys, size, constants).strategy()
        if small:
            yield _Stream(small, jobs, keys, SHORT).strategy()


class _Stream:
    """Arrays of one kernel, type and sharding, whose rows follow one another; and constants, where these join."""

    def __init__(
        self, indices: list[int], jobs: Sequence[Job], keys: np.ndarray, size: Size, constants: Groups = NO_GROUPS
    ) -> None:
        self.indices, self.size = indices, size
        self.filled = list(itertools.chain(*constants.values()))
        self.fills = [program for program, alike in constants.items() for _ in alike]
        self.values = [
            program.numbers(jobs[index].numbers)[0] for program, index in zip(self.fills, self.filled, strict=True)
        ]
        self.jobs = [jobs[index] for index in indices]
        self.program = self.jobs[0].program
        entries = np.array([job.program.entries for job in self.jobs])
        rows = -(-entries // size.entries)
        ends = np.cumsum(rows)
        calls = -(-int(ends[-1]) // size.rows)
        # The last call draws some rows for nobody.
        rows[-1] += calls * size.rows - ends[-1]
        owner = np.repeat(np.arange(len(indices)), rows)
        starts = np.concatenate([[0], ends[:-1]])
        self.keys = placed(keys[np.array(indices)[owner]], (np.arange(len(owner)) - starts[owner]) * size.entries)
        kind: Any = number_type(self.program.dtype, bool(CONFIG.jax_enable_x64))
        self.numbers = tuple(np.array([job.numbers for job in self.jobs], kind).T[:, owner, None])
        self.draw = _drawer(self.program.kernel, self.program.dtype, size)
        self.pieces = list(map(self._pieces, (starts * size.entries).tolist(), entries.tolist()))
        self.groups = list(self._grouped(entries.tolist()))

    def strategy(self) -> Strategy:
        """Return how it is drawn."""
        compilations = [Compilation(self.draw, self._inputs(0))]
        for group in self.groups:
            if not (assembler := self._assembler(group)).is_ready:
                compilations.append(Compilation(assembler, (self._donors(group), self._abstract(group), self.values)))
        return Strategy(tuple(compilations), self._drawn())

    def _pieces(self, begin: int, count: int) -> list[tuple[int, int, int]]:
        """Return the pieces of an array: the part of the stream each is in, and where in that it begins and ends."""
        length = self.size.cut * self.size.entries
        part, inside = divmod(begin, length)
        pieces = []
        while inside + count > length:
            pieces.append((part, inside, length))
            part, inside, count = part + 1, 0, count - (length - inside)
        return [*pieces, (part, inside, inside + count)]

    def _grouped(self, counts: list[int]) -> Iterator[range]:
        """Yield the arrays that are put together at a time."""
        first, held, most = 0, 0, max(MAX_TOGETHER, *counts)
        for position, count in enumerate(counts):
            if position > first and (position - first == MAX_OUTPUTS or held + count > most):
                yield range(first, position)
                first, held = position, 0
            held += count
        yield range(first, len(counts))

    def _drawn(self) -> Drawn:
        parts_of_call = self.size.rows // self.size.cut
        parts: dict[int, np.ndarray] = {}
        for group, following in itertools.zip_longest(self.groups, self.groups[1:]):
            first, last = self.pieces[group[0]][0][0], self.pieces[group[-1]][-1][0]
            calls = sorted({part // parts_of_call for part in range(first, last + 1) if part not in parts})
            drawn = [self.draw(*self._inputs(call)) for call in calls]  # all are under way before one is awaited
            of_calls = [np.asarray(rows).reshape(parts_of_call, -1) for rows in drawn]
            if calls:
                parts |= enumerate(itertools.chain(*of_calls), calls[0] * parts_of_call)
            del drawn, of_calls
            arrays = self._assembled(group, list(self._cut(group, parts)))
            # Where the last array ends, the next may begin. The others go before more is drawn.
            needed = self.pieces[following[0]][0][0] if following else last + 1
            parts = {part: entries for part, entries in parts.items() if part >= needed}
            indices = itertools.chain((self.indices[position] for position in group), self.filled)
            yield from ((index, (array,)) for index, array in zip(indices, arrays, strict=True))
            del arrays

    def _cut(self, group: range, parts: dict[int, np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the pieces of a group of arrays."""
        for position in group:
            is_vector = len(self.jobs[position].program.shape) == 1
            for part, begin, end in self.pieces[position]:
                piece = parts[part][begin:end]
                yield piece[:, None] if is_vector else piece

    def _inputs(self, call: int) -> tuple[Any, ...]:
        taken = slice(call * self.size.rows, (call + 1) * self.size.rows)
        return self.keys[taken], tuple(column[taken] for column in self.numbers)

    def _assembler(self, group: range) -> Compiled:
        forms = tuple(
            (self.jobs[position].program.shape, tuple([end - begin for _, begin, end in self.pieces[position]]))
            for position in group
        )
        fills = tuple([(program.shape, program.dtype) for program in self.fills])
        return _assembler(forms, self.program.dtype, self.program.shardings[0], fills)

    def _donors(self, group: range) -> list[Any]:
        return [donor for position in group if (donor := self.jobs[position].donor) is not None]

    def _abstract(self, group: range) -> list[Any]:
        lengths = (
            (end - begin, len(self.jobs[position].program.shape))
            for position in group
            for _, begin, end in self.pieces[position]
        )
        shapes = ((length, 1) if rank == 1 else (length,) for length, rank in lengths)
        return [jax.ShapeDtypeStruct(shape, self.program.dtype) for shape in shapes]

    def _assembled(self, group: range, parts: list[Any]) -> Arrays:
        try:
            return tuple(self._assembler(group)(self._donors(group), parts, self.values))
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            first = self.jobs[group[0]]
            raise failure(error, first.program, first.paths[0]) from error


@functools.lru_cache(maxsize=256)
def _drawer(kernel: Any, dtype: Any, size: Size) -> Compiled:
    """Return what draws rows of entries, from each row's key, place and numbers, which are columns."""
    program, implementation = Program(kernel, (size.rows, size.entries), dtype), placed_rows(size.rows)

    def draw(data: jax.Array, numbers: tuple[Any, ...]) -> jax.Array:
        return program(jax.random.wrap_key_data(data, impl=implementation), numbers)[0]

    return Compiled(draw, WIDE)


@functools.lru_cache(maxsize=1024)
def _assembler(forms: tuple[Form, ...], dtype: Any, sharding: Any, fills: tuple[Fill, ...]) -> Compiled:
    """Return what puts pieces together to arrays, in the memory of old ones that are given up, and fills others.

    A piece comes in another rank than the array it belongs to: JAX would hand back an input that nothing is done to.
    """

    def put(old: list[jax.Array], parts: list[jax.Array], values: list[jax.Array]) -> list[jax.Array]:
        left = iter(parts)
        pieces = [list(itertools.islice(left, len(lengths))) for _, lengths in forms]
        whole = [parts[0] if len(parts) == 1 else lax.concatenate(parts, 0) for parts in pieces]
        shaped = [lax.reshape(vector, shape) for vector, (shape, _) in zip(whole, forms, strict=True)]
        filled = [
            lax.broadcast(lax.convert_element_type(value, dtype), shape)
            for value, (shape, dtype) in zip(values, fills, strict=True)
        ]
        return shaped + filled

    placement = {} if sharding is None else {"out_shardings": sharding}
    return Compiled(put, COPYING, donate_argnums=0, keep_unused=True, **placement)
