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

from initax._drawing._job import Drawn, Groups, Job, Way
from initax._drawing._program import COPYING, WIDE, Arrays, Compiled, Need, Program, failure
from initax._math._keys import CONFIG
from initax._math._threefry import placed, placed_rows
from initax.schemes._initializer import number_type
from initax.schemes._kernels import Full

MOST = 1 << 22
"""Entries of an array from which a program of its own pays off: it needs no memory beside the array."""
MUCH = 1 << 24
"""Entries of all arrays of one size from which a program of its own pays off: it saves a fifth of the time."""
HANDS = 32
"""Arrays that one program puts rows into; what they hold is held twice meanwhile."""
HELD = 1 << 19
"""Entries that such arrays have together at most, or as many as the largest array has."""


@dataclass(frozen=True, slots=True)
class Size:
    """What one call draws: a number of rows, and the entries of each."""

    rows: int
    entries: int


LONG = Size(16, 4096)
"""A quarter of a megabyte of float32. A larger call is dispatched less often, but cuts equal arrays in more ways, each
a program: with 64 rows a ViT took 27."""
SHORT = Size(256, 256)
"""For many arrays of few entries."""
LITTLE = Size(32, 1024)
"""For what a long call or two would draw, of which half would be for nobody."""
LITTLE_MOST = 1 << 17
"""Entries of all arrays up to which little calls serve them better."""
SHORT_MOST = 1024
"""Entries of an array up to which short rows serve it better."""
MANY = 256
"""Arrays from which short rows are worth a program of their own."""

NO_GROUPS: Groups = MappingProxyType({})

Form = tuple[tuple[int, ...], tuple[int, ...]]
"""The shape of an array, and the lengths of the pieces it is put together from."""
Fill = tuple[tuple[int, ...], Any]
"""Shape and type of an array that is one number."""


def serves(program: Program, numbers: tuple[Any, ...]) -> bool:
    """Whether rows serve a program: it draws entries alone, of an array that is whole on one device of a CPU."""
    if not program.is_alone or not 0 < program.entries <= MOST or any(isinstance(each, tuple) for each in numbers):
        return False
    device = program.device
    return device is not None and device.platform == "cpu" and not program.spans_processes


def may_join(groups: Groups, constants: Groups, jobs: Sequence[Job]) -> bool:
    """Return whether one program puts together all arrays of a small model, those that are one number among them.

    An array from the host takes 30 µs, one more that such a program gives back 1 µs.

    Args:
        groups: the rows of each program that rows serve, as places among the jobs.
        constants: the rows of each program without random numbers.
        jobs: all jobs.
    """
    programs, rows = [*groups, *constants], list(itertools.chain(*groups.values(), *constants.values()))
    return (
        bool(groups)
        and len(rows) <= HANDS
        and sum(jobs[row].program.entries for row in rows) <= HELD
        and all(isinstance(each.kernel, Full) and each.preimage is None for each in constants)
        and len({each.shardings for each in programs}) == 1
        and len({(each.kernel, each.dtype) for each in groups}) == 1
        and len({len(jobs[row].numbers) for found in groups.values() for row in found}) == 1
    )


def drawn_in_rows(
    groups: Groups, jobs: Sequence[Job], keys: np.ndarray, constants: Groups = NO_GROUPS
) -> Iterator[Way]:
    """Yield how to draw jobs of programs that rows serve, one way for each stream of rows.

    Args:
        groups: the rows of each program, as places among the jobs.
        jobs: all jobs.
        keys: data of their keys, one row for each.
        constants: the rows of each program of one number that are made beside them; `may_join` says whether they can.
    """
    streams: dict[Any, list[int]] = {}
    for program, found in groups.items():
        for count, rows in itertools.groupby(found, lambda row: len(jobs[row].numbers)):
            streams.setdefault((program.kernel, program.dtype, program.shardings, count), []).extend(rows)
    for stream in streams.values():
        # Equal arrays after one another, which the same programs put together.
        stream.sort(key=lambda row: (jobs[row].program.entries, jobs[row].program.shape), reverse=True)
        small = [row for row in stream if jobs[row].program.entries <= SHORT_MOST]
        if len(small) < MANY:
            small = []
        large = stream[: len(stream) - len(small)]
        if large:
            is_little = sum(jobs[row].program.entries for row in large) <= LITTLE_MOST
            yield _Stream(large, jobs, keys, LITTLE if is_little else LONG, constants).way()
        if small:
            yield _Stream(small, jobs, keys, SHORT).way()


class _Stream:
    """Arrays of one kernel, type and home, whose rows follow one another; and constants, where these join."""

    def __init__(
        self, rows: list[int], jobs: Sequence[Job], keys: np.ndarray, size: Size, constants: Groups = NO_GROUPS
    ) -> None:
        self.rows, self.size = rows, size
        self.filled = list(itertools.chain(*constants.values()))
        self.fills = [program for program, found in constants.items() for _ in found]
        self.values = [each.numbers(jobs[row].numbers)[0] for each, row in zip(self.fills, self.filled, strict=True)]
        self.jobs = [jobs[row] for row in rows]
        self.program = self.jobs[0].program
        counts = np.array([job.program.entries for job in self.jobs])
        each = -(-counts // size.entries)
        ends = np.cumsum(each)
        calls = -(-int(ends[-1]) // size.rows)
        # The last call draws some rows for nobody.
        each[-1] += calls * size.rows - ends[-1]
        owner = np.repeat(np.arange(len(rows)), each)
        starts = np.concatenate([[0], ends[:-1]])
        self.keys = placed(keys[np.array(rows)[owner]], (np.arange(len(owner)) - starts[owner]) * size.entries)
        kind: Any = number_type(self.program.dtype, bool(CONFIG.jax_enable_x64))
        self.numbers = tuple(np.array([job.numbers for job in self.jobs], kind).T[:, owner, None])
        self.draw = _drawer(self.program.kernel, self.program.dtype, size)
        begin = (starts * size.entries).tolist()
        self.pieces = list(map(self._pieces, begin, counts.tolist()))
        self.groups = list(self._grouped(counts.tolist()))

    def way(self) -> Way:
        """Return how it is drawn."""
        needs = [Need(self.draw, self._inputs(0))]
        for group in self.groups:
            if not (assembler := self._assembler(group)).is_ready:
                needs.append(Need(assembler, (self._donors(group), self._abstract(group), self.values)))
        return Way(tuple(needs), self._made())

    def _pieces(self, begin: int, count: int) -> list[tuple[int, int, int]]:
        """Return the pieces of an array: the call that draws each, and where in it the piece begins and ends."""
        length = self.size.rows * self.size.entries
        call, inside = divmod(begin, length)
        found = []
        while inside + count > length:
            found.append((call, inside, length))
            call, inside, count = call + 1, 0, count - (length - inside)
        return [*found, (call, inside, inside + count)]

    def _grouped(self, counts: list[int]) -> Iterator[range]:
        """Yield the arrays that are put together at a time."""
        first, held, most = 0, 0, max(HELD, *counts)
        for place, count in enumerate(counts):
            if place > first and (place - first == HANDS or held + count > most):
                yield range(first, place)
                first, held = place, 0
            held += count
        yield range(first, len(counts))

    def _made(self) -> Drawn:
        chunks: dict[int, Any] = {}
        for group, following in itertools.zip_longest(self.groups, self.groups[1:]):
            called = range(self.pieces[group[0]][0][0], self.pieces[group[-1]][-1][0] + 1)
            drawn = {call: self.draw(*self._inputs(call)) for call in called if call not in chunks}
            chunks |= {call: np.asarray(chunk).reshape(-1) for call, chunk in drawn.items()}
            del drawn
            arrays = self._assembled(group, list(self._parts(group, chunks)))
            # Where the last array ends, the next may begin. The others go before more is drawn.
            needed = self.pieces[following[0]][0][0] if following else None
            chunks = {call: chunk for call, chunk in chunks.items() if call == needed}
            rows = itertools.chain((self.rows[place] for place in group), self.filled)
            yield from ((row, (array,)) for row, array in zip(rows, arrays, strict=True))
            del arrays

    def _parts(self, group: range, chunks: dict[int, Any]) -> Iterator[np.ndarray]:
        for place in group:
            is_vector = len(self.jobs[place].program.shape) == 1
            for call, begin, end in self.pieces[place]:
                piece = chunks[call][begin:end]
                yield piece[:, None] if is_vector else piece

    def _inputs(self, call: int) -> tuple[Any, ...]:
        taken = slice(call * self.size.rows, (call + 1) * self.size.rows)
        return self.keys[taken], tuple(column[taken] for column in self.numbers)

    def _assembler(self, group: range) -> Compiled:
        forms = tuple(
            (self.jobs[place].program.shape, tuple([end - begin for _, begin, end in self.pieces[place]]))
            for place in group
        )
        fills = tuple([(each.shape, each.dtype) for each in self.fills])
        return _assembler(forms, self.program.dtype, self.program.shardings[0], fills)

    def _donors(self, group: range) -> list[Any]:
        return [donor for place in group if (donor := self.jobs[place].donor) is not None]

    def _abstract(self, group: range) -> list[Any]:
        lengths = (
            (end - begin, len(self.jobs[place].program.shape))
            for place in group
            for _, begin, end in self.pieces[place]
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
def _assembler(forms: tuple[Form, ...], dtype: Any, home: Any, fills: tuple[Fill, ...]) -> Compiled:
    """Return what puts pieces together to arrays, in the memory of old ones that are given up, and fills others.

    A piece comes in another rank than the array it belongs to: JAX would hand back an input that nothing is done to.
    """

    def put(old: list[jax.Array], parts: list[jax.Array], values: list[jax.Array]) -> list[jax.Array]:
        left = iter(parts)
        pieces = [list(itertools.islice(left, len(lengths))) for _, lengths in forms]
        whole = [each[0] if len(each) == 1 else lax.concatenate(each, 0) for each in pieces]
        shaped = [lax.reshape(each, shape) for each, (shape, _) in zip(whole, forms, strict=True)]
        filled = [
            lax.broadcast(lax.convert_element_type(value, dtype), shape)
            for value, (shape, dtype) in zip(values, fills, strict=True)
        ]
        return shaped + filled

    placed = {} if home is None else {"out_shardings": home}
    return Compiled(put, COPYING, donate_argnums=0, keep_unused=True, **placed)
