"""Measure one method on one case in this process: `python -m benchmarks._child TASK` prints one line of JSON.

Linux with glibc: resident memory is read from `/proc`, and what is free is handed back before one more call is watched.
A first call over the limit ends the process by SIGALRM, which stops even a compiler that never comes back to Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import math
import os
import signal
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import equinox as eqx
import jax
import jax.monitoring
import numpy as np

from benchmarks._layers import Shape, biases_of, shapes_of, weights_of
from benchmarks._methods import METHODS, Call
from benchmarks._models import CASES
from benchmarks._record import Measurement, Task
from benchmarks._report import ENOUGH

COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's event for one program compiled by XLA."""


def measure(task: Task) -> Measurement:
    """Return what the task's method costs on the task's case.

    Raises:
        RuntimeError: the method drew something else than weights of He's variance for every layer.
    """
    method = METHODS[task.method]
    model = CASES[task.case].build(task.quick)
    shapes = shapes_of(model)
    sizes = [array.nbytes for array in (*weights_of(model), *biases_of(model))]
    keys = [jax.random.key(seed) for seed in range(task.calls + 2)]
    _wait((model, keys))
    compilations = 0

    def count(event: str, *_: Any, **__: Any) -> None:
        nonlocal compilations
        compilations += event == COMPILED

    jax.monitoring.register_event_duration_secs_listener(count)
    start = time.perf_counter()
    if method.needs is not None:
        importlib.import_module(method.needs)
    imported = time.perf_counter() - start
    call = method.prepare(model)
    gc.collect()
    _forget_peak()
    before, compiled = _resident(), compilations
    signal.alarm(task.limit)
    first, drawn = _timed(call, model, keys[0])
    signal.alarm(0)
    peak, programs = _peak(), compilations - compiled
    _check(shapes, method.weights(drawn), has_gain=method.has_gain)
    del drawn
    signal.alarm(task.limit)
    warm = median(_later(call, model, keys[1:-1]))
    rise_again = _rise(call, model, keys[-1]) if task.is_lean else None
    signal.alarm(0)
    return Measurement(
        imported=imported,
        first=first,
        warm=warm,
        peak=peak,
        rise=peak - before,
        rise_again=rise_again,
        drawn=sum(sizes),
        arrays=len(sizes),
        one=_one(model) if method.needs == "initax" else None,
        compilations=programs,
        plan=_plan(model, task.calls) if task.method == "ix" else None,
        platform=jax.default_backend(),
    )


def _timed(call: Call, model: Any, key: jax.Array) -> tuple[float, Any]:
    gc.collect()
    start = time.perf_counter()
    drawn = call(model, key)
    _wait(drawn)
    return time.perf_counter() - start, drawn


def _later(call: Call, model: Any, keys: list[Any]) -> list[float]:
    """Return the seconds of one call for each key, or of as many as begin before enough time is spent."""
    seconds: list[float] = []
    for key in keys:
        seconds.append(_timed(call, model, key)[0])
        if sum(seconds) > ENOUGH:
            break
    return seconds


def _rise(call: Call, model: Any, key: jax.Array) -> int:
    """Return the bytes that one call adds at most to what is resident."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _forget_peak()
    before = _resident()
    _wait(call(model, key))
    return _peak() - before


def _one(model: Any) -> int:
    """Return the bytes of the largest array and of what its draw needs beside it, as XLA accounts for its program."""
    import initax as ix

    programs = ix.plan(model, {"*": "he_normal"}).lower().values()
    costs = [lowered.compile().memory_analysis() for lowered in programs]
    largest = max(costs, key=lambda cost: (cost.output_size_in_bytes, cost.temp_size_in_bytes))
    return int(largest.output_size_in_bytes + largest.temp_size_in_bytes)


def _plan(model: Any, calls: int) -> float:
    import initax as ix

    def once() -> float:
        start = time.perf_counter()
        ix.plan(model, {"*": "he_normal"})
        return time.perf_counter() - start

    return median(once() for _ in range(calls)) / len(ix.layers(model))


def _wait(tree: Any) -> None:
    for array in _arrays(tree):
        array.block_until_ready()


def _arrays(tree: Any) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]


def _check(shapes: list[Shape], weights: list[Any], *, has_gain: bool) -> None:
    """Refuse to compare methods that do different work."""
    sizes = sorted(math.prod(each.shape) for each in weights)
    if sizes != sorted(shape.entries for shape in shapes):
        raise RuntimeError(f"the method drew {len(sizes)} weights; the model has {len(shapes)}, or of other sizes")
    if not has_gain:
        return
    # He's variance is 2 / fan_in.
    entries = sum(sizes)
    square = sum(
        float(np.square(np.asarray(each), dtype=np.float64).sum()) * shape.fan_in / 2
        for shape, each in zip(shapes, weights, strict=True)
    )
    if not abs(square / entries - 1) < 5 * math.sqrt(2 / entries):
        raise RuntimeError(f"the weights' mean square is {square / entries:.4f} times what He's variance is")


def _resident() -> int:
    """Return the bytes resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    """Return the largest number of bytes that were resident at a time."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def _forget_peak() -> None:
    """Let the peak start from what is resident now, so that building the model is not counted; where Linux allows."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    print(measure(Task.from_json(sys.argv[1])).to_json())
