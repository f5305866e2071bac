"""Orthogonal matrices against JAX and PyTorch, on a quiet machine and while another process holds a core.

Run where initax and torch are installed, on Linux: `python -m benchmarks.orthogonal`. Every row is a process of its
own; methods take turns. With `--cpu` it counts seconds of a core, LAPACK on one thread, which others that use the
machine hardly change.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

WIDTH = 768
STACK = [(48, WIDTH, WIDTH)]
TRANSFORMER = [(WIDTH, WIDTH)] * 48 + [(4 * WIDTH, WIDTH)] * 12 + [(WIDTH, 4 * WIDTH)] * 12
CASES: dict[str, list[tuple[int, ...]]] = {
    **{f"{size} × {size}": [(size, size)] for size in (512, 1024, 2048, 4096)},
    "a stack of 48, 768 × 768": STACK,
    "72 matrices: 48 of 768 × 768, 24 of 768 × 3,072": TRANSFORMER,
}
SECONDS, MOST = 2.0, 15
"""How long a warm call is repeated, and how often at most; at least three times."""
LIMIT, CPU_LIMIT = 60, 300
"""Seconds after which a process is ended, and the same where seconds of a core are counted."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def initax(shapes: list[tuple[int, ...]]) -> Callable[[int], Any]:
    """Return `ix.reinit`, with surgery and all, or `ix.draw` for a stack."""
    import jax
    import jax.numpy as jnp

    import initax as ix

    if shapes == STACK:
        return lambda seed: ix.draw("orthogonal", jax.random.key(seed), shapes[0], axes="stack o i")
    model = {str(place): jnp.zeros(shape) for place, shape in enumerate(shapes)}
    rules = {"*": ix.Scheme("orthogonal", axes="o i")}
    return lambda seed: ix.reinit(model, rules, jax.random.key(seed))


def nn_initializers(shapes: list[tuple[int, ...]]) -> Callable[[int], Any]:
    """Return `jax.nn.initializers.orthogonal`, compiled once per shape."""
    import jax
    import jax.numpy as jnp

    if shapes == STACK:
        one = jax.jit(lambda key: jax.random.orthogonal(key, WIDTH, shapes[0][:1]))
        return lambda seed: one(jax.random.key(seed))
    draw = jax.jit(jax.nn.initializers.orthogonal(), static_argnums=(1, 2))

    def call(seed: int) -> Any:
        keys = jax.random.split(jax.random.key(seed), len(shapes))
        return [draw(key, shape, jnp.float32) for key, shape in zip(keys, shapes, strict=True)]

    return call


def torch_init(shapes: list[tuple[int, ...]]) -> Callable[[int], Any]:
    """Return `torch.nn.init.orthogonal_` on tensors that exist."""
    import torch

    singles = [shape[1:] for shape in shapes for _ in range(shape[0])] if shapes == STACK else shapes
    tensors = [torch.empty(shape) for shape in singles]

    def call(seed: int) -> Any:
        torch.manual_seed(seed)
        for tensor in tensors:
            torch.nn.init.orthogonal_(tensor)
        return []

    return call


METHODS = {"initax": initax, "jax": nn_initializers, "torch": torch_init}


def measure(method: str, case: str) -> dict[str, float]:
    """Return seconds of a first call and the median of later ones, in this process; of the clock and of a core."""

    def timed(seed: int) -> tuple[float, float]:
        start, spent = time.perf_counter(), time.process_time()
        made = call(seed)
        for each in [] if method == "torch" else jax.tree.leaves(made):
            each.block_until_ready()
        return time.perf_counter() - start, time.process_time() - spent

    if method != "torch":
        import jax
    call = METHODS[method](CASES[case])
    first, first_cpu = timed(0)
    later: list[float] = []
    cpu: list[float] = []
    while len(later) < 3 or (sum(later) < SECONDS and len(later) < MOST):
        seconds, spent = timed(len(later) + 1)
        later.append(seconds)
        cpu.append(spent)
    found = {"first": first, "warm": median(later), "least": min(later), "most": max(later)}
    return found | {"first_cpu": first_cpu, "cpu": median(cpu)}


@contextmanager
def held_core(held: bool) -> Iterator[None]:
    """Keep the first core busy meanwhile."""
    if not held:
        yield
        return
    core = min(os.sched_getaffinity(0))
    loop = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", loop])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def run(method: str, case: str, *, limit: int = LIMIT, **more: str) -> dict[str, float] | None:
    """Return what a fresh process measures, with more in its environment, or `None` where it takes too long."""
    child = [sys.executable, "-m", "benchmarks.orthogonal", method, case]
    environment = os.environ | more
    try:
        ended = subprocess.run(child, env=environment, capture_output=True, text=True, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _shown(one: dict[str, float] | None, name: str) -> str:
    if one is None:
        return f"> {LIMIT / 4:.0f} s"
    unit, size = ("s", 1.0) if one[name] >= 1 else ("ms", 1e-3)
    middle, least, most = (f"{one[each] / size:.3g}" for each in (name, "least", "most"))
    return f"{middle} {unit}" if name == "first" else f"{middle} ({least}–{most}) {unit}"


def main_cpu() -> None:
    """Print the table of seconds of a core."""
    print("| matrices | initax | JAX | initax / JAX | first call: initax | JAX | initax / JAX |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in CASES:
        ours, jaxs = (run(method, case, limit=CPU_LIMIT, **ONE_THREAD) for method in ("initax", "jax"))
        if ours is None or jaxs is None:
            continue
        cells = [case]
        for name in ("cpu", "first_cpu"):
            cells += [f"{ours[name]:.3g} s", f"{jaxs[name]:.3g} s", f"{ours[name] / jaxs[name]:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the table."""
    print("| matrices | machine | initax | JAX | PyTorch | JAX / initax | first call: initax | JAX |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for held in (False, True):
        for case in CASES:
            with held_core(held):
                ours, jaxs, torchs = (run(method, case) for method in METHODS)
            ratio = f"{jaxs['warm'] / ours['warm']:.3g}" if ours and jaxs else ""
            cells = [case, "one core held" if held else "quiet", *(_shown(one, "warm") for one in (ours, jaxs, torchs))]
            cells += [ratio, _shown(ours, "first"), _shown(jaxs, "first")]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--cpu"]:
        main_cpu()
    elif len(sys.argv) == 3:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main()
