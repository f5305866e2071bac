"""What no program goes below on this machine: `python -m benchmarks.floors` prints one line for each floor.

Each number is a median, with the smallest and the largest in brackets. `python -m benchmarks --write` sets them beside
the goals that are not met. Draws are initax's own programs, the fastest known; all of it runs on the CPU.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

ENTRIES = 1 << 24
"""Entries that are drawn, four bytes each."""
TIMES, ENOUGH = 15, 3.0
"""How often each is timed, and the seconds after which it is not timed again."""
OUTPUTS = 2000
"""Arrays that one call gives back, as many as 1,000 Linears have."""

IMPORT_JAX = "`import jax`"
PAGES = f"touching fresh pages of {4 * ENTRIES >> 20} MiB, all cores"
BITS = f"random bits of {ENTRIES:,} entries, in place"
FROM_BITS = "normals from as many bits, in place"
NORMALS = "both in one program, in place"
TRIVIAL = "tracing and compiling a sum"
DRAW = "tracing and compiling a draw"
ONE = "a jitted call, one array back"
MANY = f"a jitted call, {OUTPUTS:,} arrays back"
SQUARE = "QR by LAPACK, 768 × 768"
TALL = "QR by LAPACK, 3,072 × 768"

Floors = dict[str, list[float]]
"""What is measured → the seconds it took, again and again."""


def measure() -> Floors:
    """Return the seconds of every floor."""
    found = {IMPORT_JAX: _again(_import_jax), PAGES: _again(_pages)}
    found |= _draws() | {TRIVIAL: _later(_sum), DRAW: _later(_draw)}
    found |= {ONE: _called(1), MANY: _called(OUTPUTS), SQUARE: _qr(768), TALL: _qr(3072)}
    return found


def measured_apart() -> Floors:
    """Return what a fresh process measures, on the CPU and without a compilation cache."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    child = [sys.executable, "-m", "benchmarks.floors", "--json"]
    ended = subprocess.run(child, env=environment, capture_output=True, text=True, check=True)
    floors: Floors = json.loads(ended.stdout.splitlines()[-1])
    return floors


def warm(floors: Floors, entries: int, arrays: int, *, in_place: bool) -> float:
    """Return the seconds below which no call draws normals, in one program that gives back all arrays.

    Args:
        floors: what was measured.
        entries: entries of all arrays.
        arrays: number of arrays.
        in_place: whether they are written into old arrays.
    """
    middle = {name: median(seconds) for name, seconds in floors.items()}
    each = (middle[MANY] - middle[ONE]) / (OUTPUTS - 1)
    drawn = (middle[NORMALS] + (0 if in_place else middle[PAGES])) * entries / ENTRIES
    return drawn + middle[ONE] + (arrays - 1) * each


def cold(floors: Floors, entries: int, arrays: int, *, in_place: bool) -> float:
    """Return the same for a first call, which compiles a draw; without importing initax."""
    return median(floors[DRAW]) + warm(floors, entries, arrays, in_place=in_place)


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _again(seconds: Callable[[], float]) -> list[float]:
    """Return what several calls report, which end once enough time is spent."""
    found: list[float] = []
    while len(found) < TIMES and sum(found) < ENOUGH:
        found.append(seconds())
    return found


def _later(call: Callable[[], Any]) -> list[float]:
    """Return the seconds of all calls but the first, for which JAX and XLA prepare what the others need too."""
    call()
    return _again(lambda: _timed(call))


def _import_jax() -> float:
    code = "import time; start = time.perf_counter(); import jax; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def _pages() -> float:
    import numpy as np

    cores = len(os.sched_getaffinity(0))
    memory = np.frombuffer(mmap.mmap(-1, 4 * ENTRIES), np.uint8)
    parts = np.array_split(memory[:: mmap.PAGESIZE], cores)
    with ThreadPoolExecutor(cores) as pool:
        return _timed(lambda: list(pool.map(lambda part: part.fill(1), parts)))


def _draws() -> Floors:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax import lax

    from initax._drawing._program import WIDE
    from initax._math._threefry import FUSED, random_bits

    def bits(_: Any, key: Any) -> Any:
        return random_bits(key, 32, (ENTRIES,))

    def from_bits(_: Any, drawn: Any) -> Any:
        # As `jax.random.normal` has it.
        least = np.nextafter(np.float32(-1), np.float32(0))
        unit = lax.bitcast_convert_type(drawn >> np.uint32(9) | np.uint32(0x3F800000), np.float32) - 1
        return np.float32(np.sqrt(2)) * lax.erf_inv(lax.max(least, unit * (1 - least) + least))

    def normals(_: Any, key: Any) -> Any:
        return jax.random.normal(jax.random.wrap_key_data(key, impl=FUSED), (ENTRIES,))

    def in_place(function: Callable[[Any, Any], Any], old: Any, given: Any) -> tuple[list[float], Any]:
        compiled = jax.jit(function, donate_argnums=0, keep_unused=True, compiler_options=WIDE)
        latest = [old]
        found = _later(lambda: latest.append(compiled(latest.pop(), given).block_until_ready()))
        return found, latest[0]

    key = np.array([0, 1], np.uint32)
    drawing, drawn = in_place(bits, jnp.zeros(ENTRIES, jnp.uint32), key)
    shaping, old = in_place(from_bits, jnp.zeros(ENTRIES, jnp.float32), drawn)
    del drawn
    return {BITS: drawing, FROM_BITS: shaping, NORMALS: in_place(normals, old, key)[0]}


def _sum() -> None:
    import jax
    import numpy as np

    jax.jit(lambda x: x + 1).lower(np.zeros(8, np.float32)).compile()


def _draw() -> None:
    """Compile what initax draws rows of entries with."""
    import jax.numpy as jnp
    import numpy as np

    from initax._drawing._rows import LONG, _drawer
    from initax.schemes._kernels import NormalKernel

    rows = _drawer.__wrapped__(NormalKernel(), jnp.dtype(jnp.float32), LONG)
    rows.jitted.lower(np.zeros((LONG.rows, 4), np.uint32), (np.ones((LONG.rows, 1), np.float32),)).compile()


def _called(count: int) -> list[float]:
    import jax
    import numpy as np

    one = np.zeros(8, np.float32)
    give = jax.jit(lambda x: (x + 1,) * count)
    return _later(lambda: jax.block_until_ready(give(one)))


def _qr(rows: int) -> list[float]:
    import jax
    import numpy as np

    drawn = np.random.default_rng(0).normal(size=(rows, 768)).astype(np.float32)
    decompose = jax.jit(lambda matrix: jax.numpy.linalg.qr(matrix)[0])
    return _later(lambda: decompose(drawn).block_until_ready())


def shown(seconds: list[float]) -> str:
    """Return a median with the smallest and the largest, in milliseconds."""
    return "{:.3g} ({:.3g}–{:.3g}) ms".format(*(1e3 * each for each in (median(seconds), min(seconds), max(seconds))))


if __name__ == "__main__":
    floors = measure()
    if "--json" in sys.argv:
        print(json.dumps(floors))
    else:
        for name, seconds in floors.items():
            print(f"{name}: {shown(seconds)}")
