"""Arrays drawn one by one, each by one call of its program, or by two that compile or run faster than one.

What is drawn entry by entry may come in a shape of fewer axes, and what is drawn in a layout that several programs
share is laid out afterwards.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from initax._drawing._job import Job, Strategy
from initax._drawing._program import Arrays, Compilation, Program, finisher, run, sampler, shaper
from initax._math._sharding import folded
from initax._math._threefry import COUNTERS
from initax.schemes._initializer import drawing_dtype


def plainer_programs(programs: Iterable[Program]) -> dict[Program, Program]:
    """Programs that only draw entries → the ones that draw the same in a shape of fewer axes.

    An entry depends on its place in row-major order alone. On a CPU, XLA does not vectorize loops along short axes: a
    (512, 512, 3, 3) takes six times as long as a vector of as many entries, and no reshape within the program helps.
    Anywhere else a vector is taken only where several shapes can share it, which saves compiling.
    """
    replacing = {}
    for program in programs:
        if program.is_alone and program.entries and len(program.shape) > 1:
            shape, sharding = folded(program.shape, program.shardings[0])
            if max(shape) < COUNTERS:
                replacing[program] = replace(program, shape=shape, shardings=(sharding,))
    uses = Counter(replacing.values())
    return {program: other for program, other in replacing.items() if uses[other] > 1 or program.platform == "cpu"}


def singly(
    program: Program,
    compiled: Program,
    implementation: Any,
    indices: list[int],
    keys: np.ndarray,
    jobs: Sequence[Job],
) -> Strategy:
    """Return how a program's arrays are drawn, one call for each.

    Args:
        program: the program.
        compiled: the program, or one of fewer axes, whose arrays are shaped afterwards, or its core.
        implementation: the implementation of the keys.
        indices: the program's arrays, as places among the jobs.
        keys: data of the jobs' keys.
        jobs: all jobs.
    """
    if compiled.kernel is not program.kernel:
        return _laid_out_afterwards(program, compiled, implementation, indices, keys, jobs)
    build = functools.partial(sampler, implementation=implementation)
    giving = functools.partial(sampler, implementation=implementation, donates=True)
    sharding, is_plainer = program.shardings[0], compiled is not program
    shaped, plain = shaper(program.shape, sharding), shaper(compiled.shape, compiled.shardings[0])

    def drawn_arrays() -> Iterator[tuple[int, Arrays]]:
        for index in indices:
            job = jobs[index]
            inputs, donor = job.inputs, job.donor
            gives = donor is not None and (job.old is None or job.old is donor)
            if gives and job.old is None:
                inputs = (plain(donor) if is_plainer else donor,)
            drawn = run(
                giving if gives else build, compiled, job.paths[0], keys[index], program.numbers(job.numbers), *inputs
            )
            yield index, (shaped(drawn[0]),) if is_plainer else drawn

    first = jobs[indices[0]]
    compilations, inputs, donor = [], first.inputs, first.donor
    gives = donor is not None and (first.old is None or first.old is donor)
    there = jax.ShapeDtypeStruct(compiled.shape, compiled.dtype, sharding=compiled.shardings[0])
    if is_plainer:
        compilations.append(Compilation(shaped, (there,)))
    if gives and first.old is None:
        compilations += [Compilation(plain, (donor,))] if is_plainer else []
        inputs = (there,)
    build_first = giving if gives else build
    compilations.append(Compilation(build_first(compiled), (keys[indices[0]], program.numbers(first.numbers), *inputs)))
    return Strategy(tuple(compilations), drawn_arrays())


def core_programs(programs: Iterable[Program]) -> dict[Program, Program]:
    """Return programs whose arrays have only to be laid out → the ones that draw what is laid out.

    On a CPU each of them: a copy into another layout takes ten times as long where XLA fuses it with arithmetic.
    Anywhere else those that share one, which saves compiling.
    """
    replacing = {}
    for program in programs:
        core = program.kernel.core()
        if core is not None and program.device is not None and not program.spans_processes:
            kernel, shape = core
            sharding = program.shardings[0]
            whole = None if sharding is None else SingleDeviceSharding(program.device, memory_kind=sharding.memory_kind)
            replacing[program] = Program(kernel, shape, drawing_dtype(program.dtype), (whole,))
    uses = Counter([*replacing.values(), *programs])
    return {program: core for program, core in replacing.items() if uses[core] > 1 or program.platform == "cpu"}


def _laid_out_afterwards(
    program: Program, core: Program, implementation: Any, indices: list[int], keys: np.ndarray, jobs: Sequence[Job]
) -> Strategy:
    """One call of the core for each array, and one of a program that lays out what it drew."""
    build = functools.partial(sampler, implementation=implementation)

    def donors(index: int) -> list[Any]:
        return [] if (donor := jobs[index].donor) is None else [donor]

    def drawn_arrays() -> Iterator[tuple[int, Arrays]]:
        for index in indices:
            path, given = jobs[index].paths[0], donors(index)
            (drawn,) = run(build, core, path, keys[index], core.numbers(jobs[index].numbers))
            yield index, run(functools.partial(finisher, donates=bool(given)), program, path, drawn, *given)

    first, given = indices[0], donors(indices[0])
    drawn = jax.ShapeDtypeStruct(core.shape, core.dtype, sharding=core.shardings[0])
    compilations = (
        Compilation(build(core), (keys[first], core.numbers(jobs[first].numbers))),
        Compilation(finisher(program, donates=bool(given)), (drawn, *given)),
    )
    return Strategy(compilations, drawn_arrays())
