"""A plan's rows → arrays.

Rows are grouped by what has to be compiled: kernel, shape, type, sharding and constraint. Each group has one cached
program; those that are new are compiled together, and each is then called once per row. A jit around the whole would
compile for minutes; this compiles once per distinct row. Inside somebody else's jit a group becomes one `lax.map`
instead, for the same reason.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from initax._drawing._program import (
    Arrays,
    Compiled,
    Need,
    Program,
    compile_together,
    default_platform,
    drawing_implementation,
    failure,
    filler,
    run,
    sampler,
)
from initax._drawing._progress import bar
from initax._math._keys import CONFIG, as_key, fold_paths, fold_paths_on_host, vmap_is_exact
from initax._math._multihost import agree, meet
from initax._math._sharding import explicit_names, no_mesh, stated_spec

BUCKET = 64
"""Rows of one bucket: many small equal arrays cost more to dispatch than to draw, so they are drawn together."""
BUCKET_LEAST = 256
"""Rows from which a bucket's longer compilation (0.6 s instead of 0.2 s) pays off within a few calls."""
BUCKET_ENTRIES = 16_384
"""Entries above which drawing costs more than dispatching, and a bucket would only cost memory."""
HANDS = 8
"""Arrays one program gives back. XLA's compile time grows with the number of outputs, some 7 ms each."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One array to be drawn.

    Attributes:
        paths: its path, and those its companions are stored at.
        program: what draws it.
        numbers: the program's run-time numbers.
        old: the array stored there now, where the program sees it.
        free: arrays that nothing needs once it is drawn.
        here: what is stored there now, an array or a shape.
    """

    paths: tuple[str, ...]
    program: Program
    numbers: tuple[Any, ...]
    old: Any = None
    free: tuple[Any, ...] = ()
    here: Any = None

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What the program is called on after key and numbers."""
        return () if self.old is None else (self.old,)


Groups = Mapping[Program, list[int]]
Drawn = Iterable[tuple[int, Arrays]]


@dataclass(frozen=True, slots=True)
class Way:
    """How one group is drawn: what it needs compiled, and its rows with their arrays, drawn one after the other."""

    needs: tuple[Need, ...]
    made: Drawn


def draw(jobs: Sequence[Job], key: Any, *, progress: bool = False) -> dict[str, jax.Array]:
    """Return the array of each path.

    Args:
        jobs: what to draw.
        key: the user's key; each job draws from `parameter_key(key, path)` of its first path.
        progress: whether to show how far it is, on the standard error stream.

    Raises:
        KeyTypeError: `key` is not one JAX key.
        DrawError: an array can't be drawn for want of memory, or processes were to draw different things.
    """
    typed = as_key(key)
    if not jobs:
        return {}
    groups = _grouped(jobs)
    if _is_traced(typed, jobs):
        found = _spread(groups, jobs, fold_paths(typed, [job.paths[0] for job in jobs]))
    else:
        with no_mesh():
            found = _concrete(groups, jobs, typed, progress)
    return {path: array for index, job in enumerate(jobs) for path, array in zip(job.paths, found[index], strict=True)}


def draw_one(program: Program, numbers: tuple[Any, ...], key: Any) -> jax.Array:
    """Return one array, drawn from the key itself."""
    typed = as_key(key)
    build = functools.partial(sampler, implementation=drawing_implementation(str(jax.random.key_impl(typed))))
    return run(build, program, "", jax.random.key_data(typed), program.numbers(numbers))[0]


def lower(jobs: Sequence[Job]) -> dict[tuple[str, ...], jax.stages.Lowered]:
    """Return each distinct program that draws large arrays one by one, lowered, by the paths that it draws."""
    implementation = str(CONFIG.jax_default_prng_impl)
    data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=implementation)))
    build = functools.partial(sampler, implementation=drawing_implementation(implementation))
    with no_mesh():
        return {
            tuple(path for row in rows for path in jobs[row].paths): build(program).jitted.lower(
                data, program.numbers(jobs[rows[0]].numbers), *jobs[rows[0]].inputs
            )
            for program, rows in _grouped(jobs).items()
        }


def _is_traced(key: jax.Array, jobs: Sequence[Job]) -> bool:
    """Whether this runs inside a transformation: there even what is made of a concrete key is traced."""
    seen = (jax.random.key_data(key), *(job.old for job in jobs))
    return any(isinstance(each, jax.core.Tracer) for each in seen)


def _grouped(jobs: Sequence[Job]) -> dict[Program, list[int]]:
    groups: dict[Program, list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault(job.program, []).append(index)
    return groups


def _concrete(groups: Groups, jobs: Sequence[Job], key: jax.Array, progress: bool) -> dict[int, Arrays]:
    together = any(program.spans_processes for program in groups)
    if together:
        agree(_account(jobs, key))
    implementation = drawing_implementation(str(jax.random.key_impl(key)))
    data = fold_paths_on_host(key, [job.paths[0] for job in jobs])
    exact = vmap_is_exact(key)
    flat = _sharing(groups) if exact and CONFIG.jax_threefry_partitionable else {}
    ways = []
    for program, rows in groups.items():
        numbers = [program.numbers(jobs[row].numbers) for row in rows]
        if not program.kernel.random and not program.kernel.sees_old:
            ways.append(_filled(program, rows, numbers, jobs))
        elif exact and default_platform() == "cpu" and _fits_bucket(program, len(rows)):
            ways.append(_bucketed(program, implementation, rows, data[rows], numbers))
        else:
            ways.append(_singly(program, flat.get(program, program), implementation, rows, data, numbers, jobs))
    found: dict[int, Arrays] = {}
    with bar(sum(job.program.entries for job in jobs), shown=progress) as step:
        step(f"compiling {len(groups)} programs", 0)
        compile_together(need for way in ways for need in way.needs)
        for row, arrays in (each for way in ways for each in way.made):
            found[row] = arrays
            if progress or jobs[row].free:
                _await(jobs[row], arrays)
            for old in jobs[row].free:
                old.delete()
            step(jobs[row].paths[0] or "drawing", jobs[row].program.entries)
    # Where memory is short, JAX says so when an array is asked for, not when it is ordered.
    for row, arrays in found.items():
        _await(jobs[row], arrays)
    if together:
        meet()
    return found


def _await(job: Job, arrays: Arrays) -> None:
    try:
        jax.block_until_ready(arrays)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        raise failure(error, job.program, job.paths[0]) from error


def _account(jobs: Sequence[Job], key: jax.Array) -> tuple[str, ...]:
    """What every process has to draw alike, one line each."""
    words = np.asarray(jax.random.key_data(key)).tolist()
    rows = (f"{job.paths} {job.program.kernel!r} {job.program.shape} {job.program.dtype} {job.numbers}" for job in jobs)
    return (f"key {jax.random.key_impl(key)} {words}", *rows)


def _sharing(programs: Iterable[Program]) -> dict[Program, Program]:
    """Programs that equal another but for the shape → the one program of that many entries they can share.

    An element-wise draw depends on an entry's place in row-major order alone, so a (768, 3072) and a (3072, 768) are
    the same numbers in another shape, and compiling one flat program is cheaper than compiling two.
    """
    flat = {
        program: replace(program, shape=(program.entries,))
        for program in programs
        if program.is_alone and program.kernel.random
    }
    uses = Counter(flat.values())
    return {program: one for program, one in flat.items() if uses[one] > 1}


def _singly(
    program: Program,
    compiled: Program,
    implementation: Any,
    rows: list[int],
    data: np.ndarray,
    numbers: list[tuple[Any, ...]],
    jobs: Sequence[Job],
) -> Way:
    """One call per row. `compiled` is the program, or a flat one whose arrays have to be shaped afterwards."""
    build = functools.partial(sampler, implementation=implementation)
    is_flat = compiled is not program
    shaped = _shaper(program.shape) if is_flat else None

    def made() -> Iterator[tuple[int, Arrays]]:
        for row, values in zip(rows, numbers, strict=True):
            drawn = run(build, compiled, jobs[row].paths[0], data[row], values, *jobs[row].inputs)
            yield row, drawn if shaped is None else (shaped(drawn[0]),)

    needs = [Need(build(compiled), (data[rows[0]], numbers[0], *jobs[rows[0]].inputs))]
    if shaped is not None:
        needs.append(Need(shaped, (jax.ShapeDtypeStruct(compiled.shape, compiled.dtype),)))
    return Way(tuple(needs), made())


@functools.lru_cache(maxsize=1024)
def _shaper(shape: tuple[int, ...]) -> Compiled:
    return Compiled(lambda flat: jnp.reshape(flat, shape), donate_argnums=0)


def _spread(groups: Groups, jobs: Sequence[Job], keys: jax.Array) -> dict[int, Arrays]:
    """What is drawn inside a transformation, with the shardings that are part of the arrays' types.

    They are drawn where the axes of the mesh are the compiler's, so that each device draws its own part.
    """
    stated = next((job for job in jobs if any(map(explicit_names, job.program.shardings))), None)
    if stated is None:
        return dict(_traced(groups, jobs, keys))
    mesh = jax.sharding.get_abstract_mesh()
    context: AbstractContextManager[Any] = nullcontext()
    data = jax.random.key_data(keys)
    if mesh.empty:
        if not isinstance(stated.here, jax.Array):
            return dict(_traced(groups, jobs, keys))
        home = next(each for each in stated.program.shardings if explicit_names(each))
        assert isinstance(home, NamedSharding)
        mesh = home.mesh.abstract_mesh
        context = jax.sharding.use_abstract_mesh(mesh)
        # The program would not know the mesh's devices if it used none of the old arrays.
        data, _ = lax.optimization_barrier((data, stated.here))
    if not mesh.explicit_axes:
        return dict(_traced(groups, jobs, keys))
    implementation = str(jax.random.key_impl(keys))

    def made(data: jax.Array, olds: dict[int, Any]) -> dict[int, Arrays]:
        own = [replace(job, old=olds.get(row)) for row, job in enumerate(jobs)]
        return dict(_traced(groups, own, jax.random.wrap_key_data(data, impl=implementation)))

    specs = {row: tuple(stated_spec(each, mesh) for each in job.program.shardings) for row, job in enumerate(jobs)}
    olds = {row: job.old for row, job in enumerate(jobs) if job.old is not None}
    with context:
        spread = jax.sharding.auto_axes(made, axes=mesh.explicit_axes, out_sharding=specs)
        found: dict[int, Arrays] = spread(data, olds)
    return found


def _traced(groups: Groups, jobs: Sequence[Job], keys: jax.Array) -> Drawn:
    implementation = drawing_implementation(str(jax.random.key_impl(keys)))
    faster: jax.Array = jax.random.wrap_key_data(jax.random.key_data(keys), impl=implementation)
    for program, rows in groups.items():
        if len(rows) == 1:
            row = rows[0]
            yield row, program(faster[row], program.numbers(jobs[row].numbers), *jobs[row].inputs)
            continue
        columns = zip(*(program.numbers(jobs[row].numbers) for row in rows), strict=True)
        stacked = tuple(jnp.asarray(np.array(column)) for column in columns)
        olds = tuple(jnp.stack(column) for column in zip(*(jobs[row].inputs for row in rows), strict=True))
        many = lax.map(lambda each, program=program: program(*each), (faster[np.array(rows)], stacked, *olds))
        for place, row in enumerate(rows):
            yield row, tuple(lax.index_in_dim(each, place, keepdims=False) for each in many)


def _filled(program: Program, rows: list[int], numbers: list[tuple[Any, ...]], jobs: Sequence[Job]) -> Way:
    """Arrays without random numbers. A few small ones come from the host, which compiles nothing."""
    if len(rows) < BUCKET_LEAST and program.entries <= BUCKET_ENTRIES and program.preimage is None:
        made = (program.kernel.on_host(each, program.shape, program.dtype) for each in numbers)
        first = next(made)
        if first is not None and not program.spans_processes:
            home, hosted = program.shardings[0], itertools.chain((first,), made)
            # All at once is ten times faster; one by one leaves room, where old arrays are to make it.
            frees = any(jobs[row].free for row in rows)
            arrays = (jax.device_put(each, home) for each in hosted) if frees else jax.device_put(list(hosted), home)
            return Way((), ((row, (array,)) for row, array in zip(rows, arrays, strict=True)))

    def each_of(values: tuple[Any, ...]) -> Callable[[Program], Compiled]:
        return functools.partial(filler, numbers=values)

    drawn = (
        (row, run(each_of(values), program, jobs[row].paths[0])) for row, values in zip(rows, numbers, strict=True)
    )
    return Way(tuple(Need(filler(program, values), ()) for values in dict.fromkeys(numbers)), drawn)


def _fits_bucket(program: Program, count: int) -> bool:
    return count >= BUCKET_LEAST and program.entries <= BUCKET_ENTRIES and program.is_alone


def _bucketed(
    program: Program, implementation: Any, rows: list[int], data: np.ndarray, numbers: list[tuple[Any, ...]]
) -> Way:
    count = len(rows)
    whole = -(-count // BUCKET) * BUCKET
    places = np.minimum(np.arange(whole), count - 1)  # the last bucket is filled up with repeats, which are dropped
    columns = tuple(np.array(column)[places] for column in zip(*numbers, strict=True))
    stack, unstack = _stack(program, implementation), _unstack(HANDS, program)

    def inputs(start: int) -> tuple[Any, ...]:
        taken = slice(start, start + BUCKET)
        return data[places[taken]], tuple(column[taken] for column in columns)

    def made() -> Iterator[tuple[int, Arrays]]:
        for start in range(0, whole, BUCKET):
            bucket = stack(*inputs(start))
            for first in range(start, min(start + BUCKET, count), HANDS):
                arrays = unstack(bucket, np.int32(first - start))
                yield from ((row, (array,)) for row, array in zip(rows[first:], arrays, strict=False))
            del bucket  # before the next is drawn

    bucket_shape = jax.ShapeDtypeStruct((BUCKET, *program.shape), program.dtype)
    return Way((Need(stack, inputs(0)), Need(unstack, (bucket_shape, np.int32(0)))), made())


@functools.lru_cache(maxsize=256)
def _stack(program: Program, implementation: Any) -> Compiled:
    def sample(data: jax.Array, numbers: tuple[Any, ...]) -> jax.Array:
        return program(jax.random.wrap_key_data(data, impl=implementation), numbers)[0]

    return Compiled(jax.vmap(sample))


@functools.lru_cache(maxsize=256)
def _unstack(hands: int, program: Program) -> Compiled:
    """From a bucket of a program to some of its arrays."""
    return Compiled(
        lambda stack, first: [lax.dynamic_index_in_dim(stack, first + place, keepdims=False) for place in range(hands)]
    )
