"""One compiled program: what is the same for every array it draws, and how it is compiled and run.

Programs are lowered in the caller's thread and compiled in others, as many at a time as there are cores.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import DrawError, message
from initax._math._keys import CONFIG
from initax._math._threefry import FUSED, NAME
from initax.schemes._initializer import Kernel, drawing_dtype, number_type

Preimage = Callable[[jax.Array], tuple[jax.Array, ...]]
Arrays = tuple[jax.Array, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """What is compiled once: everything about a job that is not a number or a key.

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

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], old: jax.Array | None = None) -> Arrays:
        """Return the array to store, and those that go with it, from one typed key.

        Args:
            key: the key.
            numbers: the kernel's run-time numbers.
            old: the array that is stored now, for a kernel that sees it.
        """
        wide = drawing_dtype(self.dtype)
        effective = self.kernel(key, numbers, self.shape, wide)
        if old is not None:
            effective = self.kernel.blend(old.astype(wide), effective, numbers)
        return self.stored(effective)

    def stored(self, effective: jax.Array) -> Arrays:
        """Return the arrays to store of an effective weight."""
        stored = (effective,) if self.preimage is None else self.preimage(effective)
        return tuple(array.astype(self.dtype) for array in stored)

    def numbers(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the run-time numbers in the type that scales the drawn array; a tuple becomes an array."""
        scalar = number_type(self.dtype, bool(CONFIG.jax_enable_x64))
        return tuple(map(scalar, values))

    @property
    def entries(self) -> int:
        """Number of entries of the array."""
        return math.prod(self.shape)

    @property
    def is_alone(self) -> bool:
        """Whether it does nothing but draw entries, each from its own place."""
        return self.is_entrywise and self.kernel.random and not self.kernel.sees_old

    @property
    def is_entrywise(self) -> bool:
        """Whether it computes every entry by itself."""
        return self.kernel.elementwise and self.preimage is None

    @property
    def may_round(self) -> bool:
        """Whether its arrays are the same but for rounding from one program to another."""
        return self.kernel.may_round and self.preimage is None

    @property
    def device(self) -> Any:
        """The device its arrays live on whole, `None` where they live on several."""
        (sharding, *others) = self.shardings
        if others or (sharding is not None and len(sharding.device_set) > 1):
            return None
        return _first_device(sharding)

    @property
    def platform(self) -> str:
        """What kind of device its arrays live on."""
        return str(_first_device(self.shardings[0]).platform)

    @property
    def spans_processes(self) -> bool:
        """Whether some device it draws on belongs to another process."""
        return any(sharding is not None and not sharding.is_fully_addressable for sharding in self.shardings)


def _first_device(sharding: jax.sharding.Sharding | None) -> Any:
    return default_device() if sharding is None else next(iter(sharding.device_set))


WIDE: dict[str, Any] = {"xla_cpu_prefer_vector_width": 512, "xla_cpu_enable_fast_min_max": True}
"""Options for what a CPU computes entry by entry (JAX 0.12).

A CPU that has wider vectors is given 256 bits all the same. In 512 a normal is drawn in half the time: 2.4 ns an entry
for 4.4. In sums the width may change rounding errors.

The draws hold no NaN, of which alone fast minima and maxima know nothing. Behind the twenty rounds of Threefry any
other keeps LLVM's vectorizer going in circles: a program of normals compiles in 150 ms of a core, with them in 70.
Orthogonal matrices compile in a tenth less than without both, and tall ones are drawn in 6 % less.
"""
COPYING: dict[str, Any] = {"xla_disable_hlo_passes": "fusion", "xla_backend_optimization_level": 0}
"""Options for what does nothing but copy: a copy that is not fused needs no loop, and there is nothing to optimize."""


class Compiled:
    """A jitted function that can be compiled ahead of its first call.

    Attributes:
        jitted: the function as it is compiled.
        plain: the same without options for XLA, which no function inside another one may have.
        is_ready: whether it is compiled.
    """

    __slots__ = ("is_ready", "jitted", "plain")

    def __init__(self, function: Callable[..., Any], xla: dict[str, Any] | None = None, **options: Any) -> None:
        self.plain = jax.jit(function, **options)
        self.jitted = jax.jit(function, compiler_options=xla, **options) if xla else self.plain
        self.is_ready = False

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        try:
            result = self.jitted(*arguments)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):
                raise
            self.jitted = self.plain
            result = self.jitted(*arguments)
        self.is_ready = True
        return result


@dataclass(frozen=True, slots=True)
class Compilation:
    """A function to be compiled, and arguments of the shapes it will be called with."""

    compiled: Compiled
    arguments: tuple[Any, ...]


def compile_together(compilations: Iterable[Compilation]) -> None:
    """Compile what is not compiled yet, several at a time.

    What can't be compiled is left to its call, which knows what to do about it.
    """
    waiting = {id(new.compiled): new for new in compilations if not new.compiled.is_ready}
    if len(waiting) < 2:
        return
    with ThreadPoolExecutor(max_workers=min(len(waiting), os.cpu_count() or 1)) as pool:
        # One compiles while the next is still lowered.
        futures = [
            (compilation.compiled, pool.submit(_compile, lowered))
            for compilation in waiting.values()
            if (lowered := _lowered(compilation)) is not None
        ]
        for compiled, future in futures:
            compiled.is_ready = future.result()


def _lowered(compilation: Compilation) -> Any:
    try:
        return compilation.compiled.jitted.lower(*compilation.arguments)
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None


def _compile(lowered: Any) -> bool:
    try:
        lowered.compile()
    except Exception:
        return False
    return True


def drawing_implementation(name: str) -> Any:
    """Return the implementation of keys to draw with: for JAX's Threefry the one that draws its bits faster."""
    return FUSED if name == NAME and CONFIG.jax_threefry_partitionable else name


@functools.lru_cache(maxsize=1024)
def sampler(program: Program, implementation: Any, *, donates: bool = False) -> Compiled:
    """Return the program as a compiled function of a key's data, the numbers, and an old array.

    Args:
        program: the program.
        implementation: the implementation of the key.
        donates: whether it is given an old array whose memory the new one takes; else only if it sees one.
    """

    def sample(data: jax.Array, numbers: tuple[Any, ...], *old: jax.Array) -> Arrays:
        key = jax.random.wrap_key_data(data, impl=implementation)
        return program(key, numbers, *(old if program.kernel.sees_old else ()))

    is_wide = program.platform == "cpu" and (program.is_entrywise or program.may_round)
    return Compiled(sample, WIDE if is_wide else None, **_placement(program), **(_donating(2) if donates else {}))


@functools.lru_cache(maxsize=1024)
def constant_program(program: Program, numbers: tuple[Any, ...], *, count: int = 1, donates: bool = False) -> Compiled:
    """Return the program, which uses no key, as a function of nothing: a call costs a tenth of one with a key.

    Args:
        program: the program.
        numbers: its numbers.
        count: how many equal arrays it makes.
        donates: whether it is given an old array whose memory the new one takes.
    """

    def fill(*old: jax.Array) -> Arrays:
        return program(jax.random.key(0), numbers) * count

    return Compiled(fill, **_placement(program), **(_donating(0) if donates else {}))


@functools.lru_cache(maxsize=1024)
def finisher(program: Program, *, donates: bool = False) -> Compiled:
    """Return what makes a program's arrays of what its kernel's core drew.

    Args:
        program: the program.
        donates: whether it is given an old array whose memory the new one takes.
    """

    def finish(drawn: jax.Array, *old: jax.Array) -> Arrays:
        return program.stored(program.kernel.laid_out(drawn))

    return Compiled(finish, **_placement(program), **(_donating(1) if donates else {}))


@functools.lru_cache(maxsize=1024)
def shaper(shape: tuple[int, ...], sharding: Any) -> Compiled:
    """Return what gives an array another shape without a copy."""
    placement = {} if sharding is None else {"out_shardings": sharding}
    return Compiled(lambda array: jnp.reshape(array, shape), donate_argnums=0, **placement)


def _donating(argument: int) -> dict[str, Any]:
    """Return options for a function that is handed an old array for its memory alone."""
    return {"donate_argnums": argument, "keep_unused": True}


def _placement(program: Program) -> dict[str, Any]:
    placed = any(sharding is not None for sharding in program.shardings)
    return {"out_shardings": program.shardings} if placed else {}


def run(build: Callable[[Program], Compiled], program: Program, path: str, *arguments: Any) -> Arrays:
    """Build and call a compiled program, on the CPU where the default device can't run its kernel.

    Args:
        build: from a program to its compiled function.
        program: the program.
        path: path of the parameter, for an error.
        arguments: what the compiled function is called on.

    Raises:
        DrawError: there is not enough memory for the array.
    """
    kernel = (type(program.kernel), default_platform())
    try:
        if kernel not in _only_on_cpu:
            try:
                return tuple(build(program)(*arguments))
            except (NotImplementedError, jax.errors.JaxRuntimeError) as error:
                if not (isinstance(error, NotImplementedError) or "UNIMPLEMENTED" in str(error)):
                    raise
                _only_on_cpu.add(kernel)
        return _run_on_cpu(build, program, arguments)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        raise failure(error, program, path) from error


def _run_on_cpu(build: Callable[[Program], Compiled], program: Program, arguments: tuple[Any, ...]) -> Arrays:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        anywhere = replace(program, kernel=program.kernel.anywhere(), shardings=(None,) * len(program.shardings))
        hosted = (np.asarray(value) if isinstance(value, jax.Array) else value for value in arguments)
        drawn = build(anywhere)(*hosted)
    # Through the host, and back to where the parameter lives.
    return tuple(_placed(np.asarray(array), sharding) for array, sharding in zip(drawn, program.shardings, strict=True))


def _placed(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def failure(error: Exception, program: Program, path: str) -> DrawError:
    """Return the error that says which parameter could not be drawn, and whether it was for want of memory."""
    name = f'"{path}"' if path else "the array"
    size = program.entries * np.dtype(program.dtype).itemsize
    what = f"{size / 2**20:,.1f} MiB as {np.dtype(program.dtype).name} of shape {program.shape}"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "ut of memory" in str(error):
        return DrawError(
            message(
                f"there is not enough memory to draw {name}: {what}.",
                "to give up old arrays one by one write donate=True; to draw shard by shard, a model with shardings",
            )
        )
    return DrawError(message(f"drawing {name} failed, {what}.", str(error).split("\n", maxsplit=1)[0]))


_only_on_cpu: set[tuple[type[Kernel], str]] = set()
"""Kernels that a platform was found unable to run."""


def default_device() -> Any:
    """Return the device that arrays without a sharding are drawn on."""
    device = CONFIG.jax_default_device
    if device is None or isinstance(device, str):
        return jax.local_devices(backend=device)[0]
    return device


def default_platform() -> str:
    """Return the platform that arrays without a sharding are drawn on."""
    return str(default_device().platform)
