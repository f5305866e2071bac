"""Draws the arrays of a plan.

Jobs are grouped by what has to be compiled: kernel, shape, type, sharding and constraint. Each group has one cached
program; those that are new are compiled together, and each is then called once per job. A jit around the whole would
compile for minutes; this compiles once per group, and on a CPU less than that: `_rows.py`. Inside somebody else's jit a
group becomes one `lax.map` instead, for the same reason.
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

from initax._drawing._job import Drawn, Groups, Job, Strategy
from initax._drawing._program import (
    Arrays,
    Compilation,
    Program,
    compile_together,
    constant_program,
    drawing_implementation,
    failure,
    run,
    sampler,
)
from initax._drawing._progress import bar
from initax._drawing._rows import MAX_OF_ONE_SIZE, drawn_in_rows, may_join, serves
from initax._drawing._singly import core_programs, plainer_programs, singly
from initax._math._keys import CONFIG, as_key, fold_paths, fold_paths_on_host, vmap_is_exact
from initax._math._multihost import agree, meet
from initax._math._sharding import explicit_names, no_mesh, stated_spec
from initax._math._threefry import FUSED

MANY_EQUAL = 256
"""Equal arrays without random numbers from which a program costs less than bringing each from the host."""
MAX_ON_HOST = 16_384
"""Entries up to which an array without random numbers is made on the host, which compiles nothing."""
MAX_OUTPUTS = 8
"""Equal small arrays that one program gives back."""


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
        drawn = _drawn_in_a_transformation(groups, jobs, fold_paths(typed, [job.paths[0] for job in jobs]))
    else:
        with no_mesh():
            drawn = _concrete(groups, jobs, typed, progress)
    return {path: array for index, job in enumerate(jobs) for path, array in zip(job.paths, drawn[index], strict=True)}


def draw_one(program: Program, numbers: tuple[Any, ...], key: Any) -> jax.Array:
    """Return one array, drawn from the key itself."""
    typed = as_key(key)
    build = functools.partial(sampler, implementation=drawing_implementation(str(jax.random.key_impl(typed))))
    arguments = jax.random.key_data(typed), program.numbers(numbers)
    if isinstance(arguments[0], jax.core.Tracer):
        return build(program).plain(*arguments)[0]
    return run(build, program, "", *arguments)[0]


def lower(jobs: Sequence[Job]) -> dict[tuple[str, ...], jax.stages.Lowered]:
    """Return each distinct program that draws large arrays one by one, lowered, by the paths that it draws."""
    implementation = str(CONFIG.jax_default_prng_impl)
    data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=implementation)))
    build = functools.partial(sampler, implementation=drawing_implementation(implementation))
    with no_mesh():
        return {
            tuple(path for index in indices for path in jobs[index].paths): build(program).jitted.lower(
                data, program.numbers(jobs[indices[0]].numbers), *jobs[indices[0]].inputs
            )
            for program, indices in _grouped(jobs).items()
        }


def _is_traced(key: jax.Array, jobs: Sequence[Job]) -> bool:
    """Return whether this runs inside a transformation: there even what is made of a concrete key is traced."""
    olds = (job.old for job in jobs if job.old is not None)
    return any(isinstance(array, jax.core.Tracer) for array in (jax.random.key_data(key), *olds))


def _grouped(jobs: Sequence[Job]) -> dict[Program, list[int]]:
    """Return each program with its jobs, by their index. Programs are hashed once for each object."""
    by_identity: dict[int, list[int]] = {}
    for index, job in enumerate(jobs):
        by_identity.setdefault(id(job.program), []).append(index)
    groups: dict[Program, list[int]] = {}
    for indices in by_identity.values():
        groups.setdefault(jobs[indices[0]].program, []).extend(indices)
    return groups


def _concrete(groups: Groups, jobs: Sequence[Job], key: jax.Array, progress: bool) -> dict[int, Arrays]:
    spans_processes = any(program.spans_processes for program in groups)
    if spans_processes:
        agree(_account(jobs, key))
    strategies = _strategies(groups, jobs, key)
    drawn: dict[int, Arrays] = {}
    with bar(sum(job.program.entries for job in jobs) if progress else 0, shown=progress) as step:
        step(f"compiling {len(groups)} programs", 0)
        compile_together(itertools.chain.from_iterable(strategy.compilations for strategy in strategies))
        for index, arrays in itertools.chain.from_iterable(strategy.drawn for strategy in strategies):
            drawn[index] = arrays
            job = jobs[index]
            if progress or job.free:
                _await(job, arrays)
                for old in job.free:
                    old.delete()
                step(job.paths[0] or "drawing", job.program.entries)
    # Where memory is short, JAX says so when an array is asked for, not when it is ordered.
    try:
        jax.block_until_ready(list(drawn.values()))
    except (jax.errors.JaxRuntimeError, MemoryError):
        for index, arrays in drawn.items():
            _await(jobs[index], arrays)
        raise
    if spans_processes:
        meet()
    return drawn


def _strategies(groups: Groups, jobs: Sequence[Job], key: jax.Array) -> list[Strategy]:
    """Return how each group is drawn: filled with one number, in rows together with others, or alone."""
    implementation = drawing_implementation(str(jax.random.key_impl(key)))
    keys = _keys_on_host(key, jobs)
    exact = vmap_is_exact(key) and CONFIG.jax_threefry_partitionable
    replacing = core_programs(groups) | (plainer_programs(groups) if exact else {})
    of_one_size: Counter[Any] = Counter()
    for program, indices in groups.items():
        of_one_size[_size(program)] += len(indices) * program.entries
    filled: dict[Program, list[int]] = {}
    in_rows: dict[Program, list[int]] = {}
    strategies = []
    for program, indices in groups.items():
        if not program.kernel.random and not program.kernel.sees_old:
            filled[program] = indices
        elif (
            implementation == FUSED
            and of_one_size[_size(program)] < MAX_OF_ONE_SIZE
            and serves(program, jobs[indices[0]].numbers)
        ):
            in_rows[program] = indices
        else:
            strategies.append(singly(program, replacing.get(program, program), implementation, indices, keys, jobs))
    if may_join(in_rows, filled, jobs):
        return [*strategies, *drawn_in_rows(in_rows, jobs, keys, filled)]
    apart = [_filled(program, indices, jobs) for program, indices in filled.items()]
    return [*apart, *strategies, *drawn_in_rows(in_rows, jobs, keys)]


def _keys_on_host(key: jax.Array, jobs: Sequence[Job]) -> np.ndarray:
    """Return the data of the key of each job, one row for each; zeros where it draws no random numbers."""
    random = [index for index, job in enumerate(jobs) if job.program.kernel.random]
    folded = fold_paths_on_host(key, [jobs[index].paths[0] for index in random])
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
    """Return what every process has to draw alike, one line each."""
    words = np.asarray(jax.random.key_data(key)).tolist()
    lines = (
        f"{job.paths} {job.program.kernel!r} {job.program.shape} {job.program.dtype} {job.numbers}" for job in jobs
    )
    return (f"key {jax.random.key_impl(key)} {words}", *lines)


def _drawn_in_a_transformation(groups: Groups, jobs: Sequence[Job], keys: jax.Array) -> dict[int, Arrays]:
    """Return what is drawn inside a transformation, with the shardings that are part of the arrays' types.

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
        sharding = next(sharding for sharding in stated.program.shardings if explicit_names(sharding))
        assert isinstance(sharding, NamedSharding)
        mesh = sharding.mesh.abstract_mesh
        context = jax.sharding.use_abstract_mesh(mesh)
        # The program would not know the mesh's devices if it used none of the old arrays.
        data, _ = lax.optimization_barrier((data, stated.here))
    if not mesh.explicit_axes:
        return dict(_traced(groups, jobs, keys))
    implementation = str(jax.random.key_impl(keys))

    def drawn(data: jax.Array, olds: dict[int, Any]) -> dict[int, Arrays]:
        with_olds = [replace(job, old=olds.get(index)) for index, job in enumerate(jobs)]
        return dict(_traced(groups, with_olds, jax.random.wrap_key_data(data, impl=implementation)))

    specs = {
        index: tuple(stated_spec(sharding, mesh) for sharding in job.program.shardings)
        for index, job in enumerate(jobs)
    }
    olds = {index: job.old for index, job in enumerate(jobs) if job.old is not None}
    with context:
        return jax.sharding.auto_axes(drawn, axes=mesh.explicit_axes, out_sharding=specs)(data, olds)


def _traced(groups: Groups, jobs: Sequence[Job], keys: jax.Array) -> Drawn:
    implementation = drawing_implementation(str(jax.random.key_impl(keys)))
    faster = jax.random.wrap_key_data(jax.random.key_data(keys), impl=implementation)

    def count(index: int) -> int:
        return len(jobs[index].numbers)

    for program, grouped in groups.items():
        for _, with_as_many_numbers in itertools.groupby(grouped, count):
            indices = list(with_as_many_numbers)
            if len(indices) == 1:
                index = indices[0]
                yield index, program(faster[index], program.numbers(jobs[index].numbers), *jobs[index].inputs)
                continue
            columns = zip(*(program.numbers(jobs[index].numbers) for index in indices), strict=True)
            stacked = tuple(jnp.asarray(np.array(column)) for column in columns)
            olds = tuple(jnp.stack(column) for column in zip(*(jobs[index].inputs for index in indices), strict=True))
            arrays = lax.map(lambda row, program=program: program(*row), (faster[np.array(indices)], stacked, *olds))
            for row, index in enumerate(indices):
                yield index, tuple(lax.index_in_dim(array, row, keepdims=False) for array in arrays)


def _filled(program: Program, indices: list[int], jobs: Sequence[Job]) -> Strategy:
    """Return how arrays without random numbers are drawn. A few small ones come from the host, compiling nothing."""
    equal: dict[tuple[Any, ...], list[int]] = {}
    for index in indices:
        equal.setdefault(jobs[index].numbers, []).append(index)
    values = {numbers: program.numbers(numbers) for numbers in equal}
    is_small = program.entries <= MAX_ON_HOST and program.preimage is None and not program.spans_processes
    if is_small and len(indices) < MANY_EQUAL:
        on_host = (program.kernel.on_host(values[jobs[i].numbers], program.shape, program.dtype) for i in indices)
        first = next(on_host)
        if first is not None:
            sharding, hosted = program.shardings[0], itertools.chain((first,), on_host)
            # All at once is ten times faster; one by one leaves room, where old arrays are to make it.
            frees = any(jobs[index].free for index in indices)
            put = functools.partial(jax.device_put, device=sharding)
            arrays = map(put, hosted) if frees else put([*hosted])
            return Strategy((), ((index, (array,)) for index, array in zip(indices, arrays, strict=True)))
    count = MAX_OUTPUTS if is_small and len(indices) >= MANY_EQUAL else 1
    compilations = [
        # Written as in `_filled_alike`: the cache tells arguments that are written otherwise apart.
        Compilation(constant_program(program, numbers=values[numbers], count=count, donates=False), ())
        for numbers, alike in equal.items()
        if count > 1 or jobs[alike[0]].donor is None
    ]
    drawn = (_filled_alike(program, values[numbers], alike, jobs, count) for numbers, alike in equal.items())
    return Strategy(tuple(compilations), itertools.chain.from_iterable(drawn))


def _filled_alike(
    program: Program, values: tuple[Any, ...], indices: list[int], jobs: Sequence[Job], count: int
) -> Drawn:
    """Yield equal arrays, as many at a time as one program makes."""
    for start in range(0, len(indices), count):
        together = indices[start : start + count]
        first = jobs[together[0]]
        donor = first.donor if count == 1 else None
        build = functools.partial(constant_program, numbers=values, count=count, donates=donor is not None)
        arrays = run(build, program, first.paths[0], *(() if donor is None else (donor,)))
        if count == 1:
            yield together[0], arrays
        else:
            yield from ((index, (array,)) for index, array in zip(together, arrays, strict=False))
