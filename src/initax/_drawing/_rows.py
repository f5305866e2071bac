"""Element-wise draws on a CPU: one program draws rows of entries, others put rows into arrays.

XLA compiles a program for every shape, which takes 0.25 s of a core where random numbers are drawn. But an entry
depends on its key and its place in row-major order alone. So one program per kernel and type draws some rows of
entries, each from a key, a place and a standard deviation that it is given when it runs. The rows of all arrays follow
one another, and the programs that put them into arrays do nothing but copy: without a loop in them 32 arrays compile in
15 ms of a core, and a copy takes 0.3 ns an entry of the 6.5 ns in which it is drawn. They write into old arrays that
are given up.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import lax

from initax._drawing._job import Drawn, Groups, Job, Way
from initax._drawing._program import Arrays, Compiled, Need, Program, failure
from initax._math._threefry import PLACED, placed
from initax.schemes._initializer import number_type

MOST = 1 << 22
"""Entries of an array from which a program of its own pays off: it needs no memory beside the array."""
HANDS = 32
"""Arrays that one program puts rows into; what they hold is held twice meanwhile."""
HELD = 1 << 19
"""Entries that several such arrays have at most; one alone may have more."""


@dataclass(frozen=True, slots=True)
class Size:
    """What one call draws: a number of rows, and the entries of each."""

    rows: int
    entries: int


LONG = Size(64, 4096)
"""A megabyte of float32. Smaller calls cost more to dispatch, larger ones only memory."""
FEW = Size(8, 4096)
"""For a small network, which would else wait for rows that nobody needs."""
SHORT = Size(256, 256)
"""For many arrays of few entries."""
SHORT_MOST = 1024
"""Entries of an array up to which short rows serve it better."""
MANY = 256
"""Arrays from which short rows are worth a program of their own."""

Form = tuple[tuple[int, ...], tuple[int, ...]]
"""The shape of an array, and the lengths of the pieces it is put together from."""


def serves(program: Program, numbers: tuple[Any, ...]) -> bool:
    """Whether rows serve a program: it draws entries alone, of an array that is whole on one device of a CPU."""
    if not program.is_alone or not 0 < program.entries <= MOST or any(map(np.ndim, numbers)):
        return False
    device = program.device
    return device is not None and device.platform == "cpu" and not program.spans_processes


def drawn_in_rows(groups: Groups, jobs: Sequence[Job], keys: np.ndarray) -> Iterator[Way]:
    """Yield how to draw jobs of programs that rows serve, one way for each stream of rows.

    Args:
        groups: the rows of each program, as places among the jobs.
        jobs: all jobs.
        keys: data of their keys, one row for each.
    """
    streams: dict[Any, list[int]] = {}
    for program, found in groups.items():
        for row in found:
            what = (program.kernel, program.dtype, program.shardings, len(jobs[row].numbers))
            streams.setdefault(what, []).append(row)
    for stream in streams.values():
        # Equal arrays after one another, which the same programs put together.
        stream.sort(key=lambda row: (jobs[row].program.entries, jobs[row].program.shape), reverse=True)
        small = [row for row in stream if jobs[row].program.entries <= SHORT_MOST]
        if len(small) < MANY:
            small = []
        large = stream[: len(stream) - len(small)]
        if large:
            count = sum(-(-jobs[row].program.entries // LONG.entries) for row in large)
            yield _Stream(large, jobs, keys, LONG if 2 * count > LONG.rows else FEW).way()
        if small:
            yield _Stream(small, jobs, keys, SHORT).way()


class _Stream:
    """Arrays of one kernel, type and home, whose rows follow one another."""

    def __init__(self, rows: list[int], jobs: Sequence[Job], keys: np.ndarray, size: Size) -> None:
        self.rows, self.jobs, self.size = rows, jobs, size
        self.program: Program = jobs[rows[0]].program
        self.counts = [jobs[row].program.entries for row in rows]
        each = -(-np.array(self.counts) // size.entries)
        ends = np.cumsum(each)
        self.starts: list[int] = ((ends - each) * size.entries).tolist()
        calls = -(-int(ends[-1]) // size.rows)
        # The last call draws some rows for nobody.
        owner = np.minimum(np.repeat(np.arange(len(rows) + 1), [*each, calls * size.rows - ends[-1]]), len(rows) - 1)
        within = np.arange(len(owner)) - (ends - each)[owner]
        self.keys = placed(keys[np.array(rows)[owner]], within * size.entries)
        one = number_type(self.program.dtype, bool(jax.config.jax_enable_x64))
        columns = zip(*(jobs[row].numbers for row in rows), strict=True)
        self.numbers = tuple(np.array(list(map(one, column)))[owner] for column in columns)
        self.draw = _drawer(self.program.kernel, self.program.dtype, size.entries)
        self.groups = list(self._grouped())

    def way(self) -> Way:
        """Return how it is drawn."""
        needs = [] if self.draw.is_ready else [Need(self.draw, self._inputs(0))]
        for group in self.groups:
            if not (assembler := self._assembler(group)).is_ready:
                needs.append(Need(assembler, (self._donors(group), self._abstract(group))))
        return Way(tuple(needs), self._made())

    def _grouped(self) -> Iterator[list[int]]:
        """Yield the arrays that are put together at a time, as places in the stream."""
        group: list[int] = []
        held = 0
        for place, count in enumerate(self.counts):
            if group and (len(group) == HANDS or held + count > HELD):
                yield group
                group, held = [], 0
            group.append(place)
            held += count
        yield group

    def _made(self) -> Drawn:
        chunks: dict[int, Any] = {}
        length = self.size.rows * self.size.entries
        for group in self.groups:
            last = self.starts[group[-1]] + self.counts[group[-1]] - 1
            called = range(self.starts[group[0]] // length, last // length + 1)
            chunks = {call: chunks[call] if call in chunks else self.draw(*self._inputs(call)) for call in called}
            chunks = {call: np.asarray(chunk).reshape(-1) for call, chunk in chunks.items()}
            parts = [
                _column(chunks[call][begin:end], self.jobs[self.rows[place]].program.shape)
                for place in group
                for call, begin, end in self._pieces(place)
            ]
            for place, array in zip(group, self._assembled(group, parts), strict=True):
                yield self.rows[place], (array,)
            chunks = {called[-1]: chunks[called[-1]]}  # where the next array may begin

    def _inputs(self, call: int) -> tuple[Any, ...]:
        taken = slice(call * self.size.rows, (call + 1) * self.size.rows)
        return self.keys[taken], tuple(column[taken] for column in self.numbers)

    def _pieces(self, place: int) -> Iterator[tuple[int, int, int]]:
        """Yield the pieces of an array: the call that draws each, and where in it the piece begins and ends."""
        length = self.size.rows * self.size.entries
        begin, end = self.starts[place], self.starts[place] + self.counts[place]
        while begin < end:
            call, inside = divmod(begin, length)
            taken = min(end - begin, length - inside)
            yield call, inside, inside + taken
            begin += taken

    def _assembler(self, group: list[int]) -> Compiled:
        forms = tuple(
            (self.jobs[self.rows[place]].program.shape, tuple(end - begin for _, begin, end in self._pieces(place)))
            for place in group
        )
        return _assembler(forms, self.program.dtype, self.program.shardings[0])

    def _donors(self, group: list[int]) -> list[Any]:
        donors = (self.jobs[self.rows[place]].donor for place in group)
        return [each for each in donors if each is not None]

    def _abstract(self, group: list[int]) -> list[Any]:
        return [
            jax.ShapeDtypeStruct(
                _column_shape(end - begin, self.jobs[self.rows[place]].program.shape), self.program.dtype
            )
            for place in group
            for _, begin, end in self._pieces(place)
        ]

    def _assembled(self, group: list[int], parts: list[Any]) -> Arrays:
        try:
            return tuple(self._assembler(group)(self._donors(group), parts))
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            first = self.jobs[self.rows[group[0]]]
            raise failure(error, first.program, first.paths[0]) from error


@functools.lru_cache(maxsize=256)
def _drawer(kernel: Any, dtype: Any, entries: int) -> Compiled:
    """Return what draws rows of entries, from each row's key, place and numbers."""
    program = Program(kernel, (entries,), dtype)

    def row(data: jax.Array, numbers: tuple[Any, ...]) -> jax.Array:
        return program(jax.random.wrap_key_data(data, impl=PLACED), numbers)[0]

    return Compiled(jax.vmap(row))


@functools.lru_cache(maxsize=1024)
def _assembler(forms: tuple[Form, ...], dtype: Any, home: Any) -> Compiled:
    """Return what puts pieces together to arrays, in the memory of old ones that are given up."""

    def put(old: list[jax.Array], parts: list[jax.Array]) -> list[jax.Array]:
        left = iter(parts)
        pieces = [list(itertools.islice(left, len(lengths))) for _, lengths in forms]
        whole = [each[0] if len(each) == 1 else lax.concatenate(each, 0) for each in pieces]
        return [lax.reshape(each, shape) for each, (shape, _) in zip(whole, forms, strict=True)]

    return Compiled(put, donate_argnums=0, keep_unused=True, **({} if home is None else {"out_shardings": home}))


def _column(piece: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a piece in another shape than the array's: JAX hands back an input that nothing is done to."""
    return piece.reshape(_column_shape(len(piece), shape))


def _column_shape(length: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (length, 1) if len(shape) == 1 else (length,)
