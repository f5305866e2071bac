"""A plan's rows → arrays.

Rows are grouped by what has to be compiled: kernel, shape, type, sharding and constraint. Each group has one cached
sampler, called once per row. A jit around the whole would compile for minutes; this compiles once per distinct row.
Inside somebody else's jit a group becomes one `lax.map` instead, for the same reason.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from initax._keys import CONFIG, as_key, fold_paths, vmap_is_exact
from initax.schemes._initializer import Kernel, drawing_dtype, real_dtype

Preimage = Callable[[jax.Array], tuple[jax.Array, ...]]

BUCKET = 64
"""Rows of one bucket: many small equal arrays cost more to dispatch than to draw, so they are drawn together."""
BUCKET_LEAST = 256
"""Rows from which a bucket's longer compilation (0.6 s instead of 0.2 s) pays off within a few calls."""
BUCKET_ENTRIES = 16_384
"""Entries above which drawing costs more than dispatching, and a bucket would only cost memory."""
HANDS = 8
"""Arrays one program gives back. XLA's compile time grows with the number of outputs, some 7 ms each."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is compiled once: everything about a row that is not a number or a key.

    Attributes:
        kernel: what draws the effective weight.
        shape: its shape.
        dtype: the type it is stored in.
        shardings: where the array lives, and those that go with it; `None` where JAX may choose.
        preimage: from the effective weight to the stored arrays, where a constraint stands between.
    """

    kernel: Kernel
    shape: tuple[int, ...]
    dtype: Any
    shardings: tuple[jax.sharding.Sharding | None, ...] = (None,)
    preimage: Preimage | None = None

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...]) -> tuple[jax.Array, ...]:
        """Return the array to store, and those that go with it, from one typed key."""
        wide = drawing_dtype(self.dtype)
        effective = self.kernel(key, numbers, self.shape, wide)
        stored = (effective,) if self.preimage is None else self.preimage(effective)
        return tuple(each.astype(self.dtype) for each in stored)

    def numbers(self, values: tuple[float, ...]) -> tuple[Any, ...]:
        """Return the run-time numbers in the type that scales the drawn array."""
        scalar = _scalar(self.dtype, bool(CONFIG.jax_enable_x64))
        return tuple(map(scalar, values))

    @property
    def entries(self) -> int:
        """Number of entries of the array."""
        return int(np.prod(self.shape, dtype=np.int64))


@functools.lru_cache(maxsize=256)
def _scalar(dtype: Any, x64: bool) -> Callable[[float], Any]:
    scalar: Callable[[float], Any] = np.dtype(jax.dtypes.canonicalize_dtype(real_dtype(dtype))).type
    return scalar


@dataclass(frozen=True, slots=True)
class Job:
    """One array to be drawn, with the paths it and its companions are stored at."""

    paths: tuple[str, ...]
    program: Program
    numbers: tuple[float, ...]


def draw(jobs: Sequence[Job], key: Any) -> dict[str, jax.Array]:
    """Return the array of each path.

    Args:
        jobs: what to draw.
        key: the user's key; each job draws from `parameter_key(key, path)` of its first path.

    Raises:
        KeyTypeError: `key` is not one JAX key.
    """
    typed = as_key(key)
    if not jobs:
        return {}
    keys = fold_paths(typed, [job.paths[0] for job in jobs])
    groups: dict[Program, list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault(job.program, []).append(index)
    make = _traced if isinstance(keys, jax.core.Tracer) else _concrete
    found = dict(make(groups, jobs, keys))
    return {path: array for index, job in enumerate(jobs) for path, array in zip(job.paths, found[index], strict=True)}


def draw_one(program: Program, numbers: tuple[float, ...], key: Any) -> jax.Array:
    """Return one array, drawn from the key itself."""
    typed = as_key(key)
    sampler = functools.partial(_sampler, implementation=str(jax.random.key_impl(typed)))
    return _run(sampler, program, jax.random.key_data(typed), program.numbers(numbers))[0]


Drawn = Iterable[tuple[int, tuple[jax.Array, ...]]]


def _concrete(groups: dict[Program, list[int]], jobs: Sequence[Job], keys: jax.Array) -> Drawn:
    implementation = str(jax.random.key_impl(keys))
    data = np.asarray(jax.random.key_data(keys))
    sampler = functools.partial(_sampler, implementation=implementation)
    exact = vmap_is_exact(keys)
    on_cpu = _default_platform() == "cpu"
    flat = _sharing(groups) if exact and CONFIG.jax_threefry_partitionable else {}
    for program, rows in groups.items():
        numbers = [program.numbers(jobs[row].numbers) for row in rows]
        if not program.kernel.random:
            yield from zip(rows, _filled(program, numbers), strict=True)
            continue
        if exact and on_cpu and _fits_bucket(program, len(rows)):
            yield from zip(rows, _bucketed(program, implementation, data[rows], numbers), strict=True)
        else:
            compiled = flat.get(program, program)
            for row, values in zip(rows, numbers, strict=True):
                drawn = _run(sampler, compiled, data[row], values)
                yield row, drawn if compiled is program else (_shaped(drawn[0], program.shape),)


def _sharing(programs: Iterable[Program]) -> dict[Program, Program]:
    """Programs that equal another but for the shape → the one program of that many entries they can share.

    An element-wise draw depends on an entry's place in row-major order alone, so a (768, 3072) and a (3072, 768) are
    the same numbers in another shape, and compiling one flat program is cheaper than compiling two.
    """
    flat = {
        program: replace(program, shape=(program.entries,))
        for program in programs
        if _is_alone(program) and program.kernel.random
    }
    uses = Counter(flat.values())
    return {program: one for program, one in flat.items() if uses[one] > 1}


def _is_alone(program: Program) -> bool:
    """Whether a program does nothing but draw entries, each from its own place."""
    return program.kernel.elementwise and program.shardings == (None,) and program.preimage is None


@functools.partial(jax.jit, static_argnums=1, donate_argnums=0)
def _shaped(flat: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.reshape(flat, shape)


def _traced(groups: dict[Program, list[int]], jobs: Sequence[Job], keys: jax.Array) -> Drawn:
    for program, rows in groups.items():
        if len(rows) == 1:
            yield rows[0], program(keys[rows[0]], program.numbers(jobs[rows[0]].numbers))
            continue
        columns = zip(*(program.numbers(jobs[row].numbers) for row in rows), strict=True)
        stacked = tuple(jnp.asarray(np.array(column)) for column in columns)
        many = lax.map(lambda each, program=program: program(*each), (keys[np.array(rows)], stacked))
        for place, row in enumerate(rows):
            yield row, tuple(lax.index_in_dim(each, place, keepdims=False) for each in many)


@functools.lru_cache(maxsize=1024)
def _sampler(program: Program, implementation: str) -> Any:
    def sample(data: jax.Array, numbers: tuple[Any, ...]) -> tuple[jax.Array, ...]:
        return program(jax.random.wrap_key_data(data, impl=implementation), numbers)

    return _jitted(sample, program)


def _filled(program: Program, numbers: list[tuple[Any, ...]]) -> Iterable[tuple[jax.Array, ...]]:
    """Arrays without random numbers. A few small ones come from the host, which compiles nothing."""
    if len(numbers) < BUCKET_LEAST and program.entries <= BUCKET_ENTRIES and program.preimage is None:
        made = [program.kernel.on_host(each, program.shape, program.dtype) for each in numbers]
        if made[0] is not None:
            return ((array,) for array in jax.device_put(made, program.shardings[0]))
    return (_run(functools.partial(_filler, numbers=each), program) for each in numbers)


@functools.lru_cache(maxsize=1024)
def _filler(program: Program, numbers: tuple[Any, ...]) -> Any:
    """A program without arguments: calling it costs a tenth of calling one with a key."""
    return _jitted(lambda: program(jax.random.key(0), numbers), program)


def _jitted(function: Callable[..., tuple[jax.Array, ...]], program: Program) -> Any:
    placed = any(sharding is not None for sharding in program.shardings)
    return jax.jit(function, out_shardings=program.shardings) if placed else jax.jit(function)


def _run(build: Callable[[Program], Any], program: Program, *arguments: Any) -> tuple[jax.Array, ...]:
    """Build and call a compiled program, on the CPU where the default device can't run its kernel."""
    kernel = (type(program.kernel), _default_platform())
    if kernel not in _only_on_cpu:
        try:
            return tuple(build(program)(*arguments))
        except (NotImplementedError, jax.errors.JaxRuntimeError) as error:
            if not (isinstance(error, NotImplementedError) or "UNIMPLEMENTED" in str(error)):
                raise
            _only_on_cpu.add(kernel)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        anywhere = replace(program, shardings=(None,) * len(program.shardings))
        drawn = build(anywhere)(*map(np.asarray, arguments[:1]), *arguments[1:])
    # Through the host, and back to where the parameter lives.
    return tuple(
        jax.device_put(np.asarray(each), sharding) for each, sharding in zip(drawn, program.shardings, strict=True)
    )


_only_on_cpu: set[tuple[type[Kernel], str]] = set()
"""Kernels that a platform was found unable to run."""


def _default_platform() -> str:
    device = CONFIG.jax_default_device
    if device is None:
        return str(jax.default_backend())
    return device if isinstance(device, str) else str(device.platform)


def _fits_bucket(program: Program, count: int) -> bool:
    return count >= BUCKET_LEAST and program.entries <= BUCKET_ENTRIES and _is_alone(program)


def _bucketed(
    program: Program, implementation: str, data: np.ndarray, numbers: list[tuple[Any, ...]]
) -> Iterable[tuple[jax.Array, ...]]:
    count = len(data)
    whole = -(-count // BUCKET) * BUCKET
    places = np.minimum(np.arange(whole), count - 1)  # the last bucket is filled up with repeats, which are dropped
    columns = tuple(np.array(column)[places] for column in zip(*numbers, strict=True))
    made: list[jax.Array] = []
    for start in range(0, whole, BUCKET):
        rows = slice(start, start + BUCKET)
        stack = _stack(program, implementation)(data[places[rows]], tuple(column[rows] for column in columns))
        for first in range(0, BUCKET, HANDS):
            made += _unstack(stack, np.int32(first))
    return ((array,) for array in made[:count])


@functools.lru_cache(maxsize=256)
def _stack(program: Program, implementation: str) -> Any:
    def sample(data: jax.Array, numbers: tuple[Any, ...]) -> jax.Array:
        return program(jax.random.wrap_key_data(data, impl=implementation), numbers)[0]

    return jax.jit(jax.vmap(sample))


@jax.jit
def _unstack(stack: jax.Array, first: jax.Array) -> list[jax.Array]:
    return [lax.dynamic_index_in_dim(stack, first + place, keepdims=False) for place in range(HANDS)]
