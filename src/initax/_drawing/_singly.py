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

from initax._drawing._job import Job, Way
from initax._drawing._program import Arrays, Need, Program, finisher, run, sampler, shaper
from initax._math._sharding import folded
from initax._math._threefry import COUNTERS
from initax.schemes._initializer import drawing_dtype


def plainer_programs(programs: Iterable[Program]) -> dict[Program, Program]:
    """Programs that only draw entries → the ones that draw the same in a shape of fewer axes.

    An entry depends on its place in row-major order alone. On a CPU, XLA does not vectorize loops along short axes: a
    (512, 512, 3, 3) takes six times as long as a vector of as many entries, and no reshape within the program helps.
    Anywhere else a vector is taken only where several shapes can share it, which saves compiling.
    """
    found = {}
    for program in programs:
        if program.is_alone and program.entries and len(program.shape) > 1:
            shape, home = folded(program.shape, program.shardings[0])
            if max(shape) < COUNTERS:
                found[program] = replace(program, shape=shape, shardings=(home,))
    uses = Counter(found.values())
    return {program: one for program, one in found.items() if uses[one] > 1 or program.platform == "cpu"}


def singly(
    program: Program,
    compiled: Program,
    implementation: Any,
    rows: list[int],
    keys: np.ndarray,
    jobs: Sequence[Job],
) -> Way:
    """Return how a program's arrays are drawn, one call for each.

    Args:
        program: the program.
        compiled: the program, or one of fewer axes, whose arrays are shaped afterwards, or its core.
        implementation: the implementation of the keys.
        rows: the program's arrays, as places among the jobs.
        keys: data of the jobs' keys.
        jobs: all jobs.
    """
    if compiled.kernel is not program.kernel:
        return _laid_out_afterwards(program, compiled, implementation, rows, keys, jobs)
    build = functools.partial(sampler, implementation=implementation)
    giving = functools.partial(sampler, implementation=implementation, donates=True)
    home, is_plainer = program.shardings[0], compiled is not program
    shaped, plain = shaper(program.shape, home), shaper(compiled.shape, compiled.shardings[0])

    def made() -> Iterator[tuple[int, Arrays]]:
        for row in rows:
            job = jobs[row]
            inputs, donor = job.inputs, job.donor
            gives = donor is not None and (job.old is None or job.old is donor)
            if gives and job.old is None:
                inputs = (plain(donor) if is_plainer else donor,)
            drawn = run(
                giving if gives else build, compiled, job.paths[0], keys[row], program.numbers(job.numbers), *inputs
            )
            yield row, (shaped(drawn[0]),) if is_plainer else drawn

    first = jobs[rows[0]]
    needs, inputs, donor = [], first.inputs, first.donor
    gives = donor is not None and (first.old is None or first.old is donor)
    there = jax.ShapeDtypeStruct(compiled.shape, compiled.dtype, sharding=compiled.shardings[0])
    if is_plainer:
        needs.append(Need(shaped, (there,)))
    if gives and first.old is None:
        needs += [Need(plain, (donor,))] if is_plainer else []
        inputs = (there,)
    build_first = giving if gives else build
    needs.append(Need(build_first(compiled), (keys[rows[0]], program.numbers(first.numbers), *inputs)))
    return Way(tuple(needs), made())


def core_programs(programs: Iterable[Program]) -> dict[Program, Program]:
    """Return programs whose arrays have only to be laid out → the ones that draw what is laid out.

    On a CPU each of them: a copy into another layout takes ten times as long where XLA fuses it with arithmetic.
    Anywhere else those that share one, which saves compiling.
    """
    found = {}
    for program in programs:
        core = program.kernel.core()
        if core is not None and program.device is not None and not program.spans_processes:
            kernel, shape = core
            home = program.shardings[0]
            whole = None if home is None else SingleDeviceSharding(program.device, memory_kind=home.memory_kind)
            found[program] = Program(kernel, shape, drawing_dtype(program.dtype), (whole,))
    uses = Counter([*found.values(), *programs])
    return {program: core for program, core in found.items() if uses[core] > 1 or program.platform == "cpu"}


def _laid_out_afterwards(
    program: Program, core: Program, implementation: Any, rows: list[int], keys: np.ndarray, jobs: Sequence[Job]
) -> Way:
    """One call of the core for each array, and one of a program that lays out what it drew."""
    build = functools.partial(sampler, implementation=implementation)

    def donors(row: int) -> list[Any]:
        return [] if (donor := jobs[row].donor) is None else [donor]

    def made() -> Iterator[tuple[int, Arrays]]:
        for row in rows:
            path, given = jobs[row].paths[0], donors(row)
            (drawn,) = run(build, core, path, keys[row], core.numbers(jobs[row].numbers))
            yield row, run(functools.partial(finisher, donates=bool(given)), program, path, drawn, *given)

    first, given = rows[0], donors(rows[0])
    drawn = jax.ShapeDtypeStruct(core.shape, core.dtype, sharding=core.shardings[0])
    needs = (
        Need(build(core), (keys[first], core.numbers(jobs[first].numbers))),
        Need(finisher(program, donates=bool(given)), (drawn, *given)),
    )
    return Way(needs, made())
