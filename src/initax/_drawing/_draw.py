"""A plan's rows → arrays.

Rows are grouped by what has to be compiled: kernel, shape, type, sharding and constraint. Each group has one cached
program; those that are new are compiled together, and each is then called once per row. A jit around the whole would
compile for minutes; this compiles once per distinct row, and on a CPU less than that: `_rows.py`. Inside somebody
else's jit a group becomes one `lax.map` instead, for the same reason.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from initax._drawing._job import Drawn, Groups, Job, Way
from initax._drawing._program import (
    Arrays,
    Need,
    Program,
    compile_together,
    drawing_implementation,
    failure,
    filler,
    run,
    sampler,
)
from initax._drawing._progress import bar
from initax._drawing._rows import MUCH, drawn_in_rows, may_join, serves
from initax._drawing._singly import core_programs, plainer_programs, singly
from initax._math._keys import CONFIG, as_key, fold_paths, fold_paths_on_host, vmap_is_exact
from initax._math._multihost import agree, meet
from initax._math._sharding import explicit_names, no_mesh, stated_spec
from initax._math._threefry import FUSED

MANY = 256
"""Equal arrays without random numbers from which a program costs less than bringing each from the host."""
SMALL = 16_384
"""Entries up to which an array without random numbers is made on the host, which compiles nothing."""
HANDS = 8
"""Small ones that one program gives back."""


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
    arguments = jax.random.key_data(typed), program.numbers(numbers)
    if isinstance(arguments[0], jax.core.Tracer):
        traced: Arrays = build(program).plain(*arguments)
        return traced[0]
    return run(build, program, "", *arguments)[0]


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
    seen = (jax.random.key_data(key), *(job.old for job in jobs if job.old is not None))
    return any(isinstance(each, jax.core.Tracer) for each in seen)


def _grouped(jobs: Sequence[Job]) -> dict[Program, list[int]]:
    same: dict[int, list[int]] = {}
    for index, job in enumerate(jobs):
        same.setdefault(id(job.program), []).append(index)
    groups: dict[Program, list[int]] = {}
    for rows in same.values():
        groups.setdefault(jobs[rows[0]].program, []).extend(rows)
    return groups


def _concrete(groups: Groups, jobs: Sequence[Job], key: jax.Array, progress: bool) -> dict[int, Arrays]:
    together = any(program.spans_processes for program in groups)
    if together:
        agree(_account(jobs, key))
    ways = _ways(groups, jobs, key)
    found: dict[int, Arrays] = {}
    with bar(sum(job.program.entries for job in jobs) if progress else 0, shown=progress) as step:
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
    try:
        jax.block_until_ready(list(found.values()))
    except (jax.errors.JaxRuntimeError, MemoryError):
        for row, arrays in found.items():
            _await(jobs[row], arrays)
        raise
    if together:
        meet()
    return found


def _ways(groups: Groups, jobs: Sequence[Job], key: jax.Array) -> list[Way]:
    """How each group is drawn: filled with one number, in rows together with others, or alone."""
    implementation = drawing_implementation(str(jax.random.key_impl(key)))
    data = _keys_on_host(key, jobs)
    exact = vmap_is_exact(key) and CONFIG.jax_threefry_partitionable
    drawing = core_programs(groups) | (plainer_programs(groups) if exact else {})
    much: Counter[Any] = Counter()
    for program, rows in groups.items():
        much[_size(program)] += len(rows) * program.entries
    filled: dict[Program, list[int]] = {}
    in_rows: dict[Program, list[int]] = {}
    ways = []
    for program, rows in groups.items():
        if not program.kernel.random and not program.kernel.sees_old:
            filled[program] = rows
        elif implementation == FUSED and much[_size(program)] < MUCH and serves(program, jobs[rows[0]].numbers):
            in_rows[program] = rows
        else:
            ways.append(singly(program, drawing.get(program, program), implementation, rows, data, jobs))
    if may_join(in_rows, filled, jobs):
        return [*ways, *drawn_in_rows(in_rows, jobs, data, filled)]
    apart = [_filled(program, rows, jobs) for program, rows in filled.items()]
    return [*apart, *ways, *drawn_in_rows(in_rows, jobs, data)]


def _keys_on_host(key: jax.Array, jobs: Sequence[Job]) -> np.ndarray:
    """The data of the key of each job, one row for each; no numbers in particular where it draws no random ones."""
    random = [row for row, job in enumerate(jobs) if job.program.kernel.random]
    folded = fold_paths_on_host(key, [jobs[row].paths[0] for row in random])
    data = np.zeros((len(jobs), *folded.shape[1:]), folded.dtype)
    data[random] = folded
    return data


def _size(program: Program) -> Any:
    return program.kernel, program.dtype, program.entries


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

    def count(row: int) -> int:
        return len(jobs[row].numbers)

    alike = ((each, list(found)) for each, rows in groups.items() for _, found in itertools.groupby(rows, count))
    for program, rows in alike:
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


def _filled(program: Program, rows: list[int], jobs: Sequence[Job]) -> Way:
    """Arrays without random numbers. A few small ones come from the host, which compiles nothing."""
    equal: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        equal.setdefault(jobs[row].numbers, []).append(row)
    values = {each: program.numbers(each) for each in equal}
    is_small = program.entries <= SMALL and program.preimage is None and not program.spans_processes
    if is_small and len(rows) < MANY:
        numbers = (values[jobs[row].numbers] for row in rows)
        made = (program.kernel.on_host(each, program.shape, program.dtype) for each in numbers)
        first = next(made)
        if first is not None:
            home, hosted = program.shardings[0], itertools.chain((first,), made)
            # All at once is ten times faster; one by one leaves room, where old arrays are to make it.
            frees = any(jobs[row].free for row in rows)
            arrays = (jax.device_put(each, home) for each in hosted) if frees else jax.device_put(list(hosted), home)
            return Way((), ((row, (array,)) for row, array in zip(rows, arrays, strict=True)))
    count = HANDS if is_small and len(rows) >= MANY else 1
    needs, ways = [], []
    for each, found in equal.items():
        if count > 1 or jobs[found[0]].donor is None:
            # Written as in `_filled_alike`: the cache tells arguments that are written otherwise apart.
            needs.append(Need(filler(program, numbers=values[each], count=count, donates=False), ()))
        ways.append(_filled_alike(program, values[each], found, jobs, count))
    return Way(tuple(needs), itertools.chain.from_iterable(ways))


def _filled_alike(program: Program, values: tuple[Any, ...], rows: list[int], jobs: Sequence[Job], count: int) -> Drawn:
    for start in range(0, len(rows), count):
        found = rows[start : start + count]
        donor = jobs[found[0]].donor if count == 1 else None
        build = functools.partial(filler, numbers=values, count=count, donates=donor is not None)
        made = run(build, program, jobs[found[0]].paths[0], *(() if donor is None else (donor,)))
        yield from (
            ((row, (array,)) for row, array in zip(found, made, strict=False)) if count > 1 else [(found[0], made)]
        )
