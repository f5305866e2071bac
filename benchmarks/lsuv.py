"""LSUV against the PyTorch package of that name: the same networks, one process, and how time grows with depth.

Run where initax, Equinox, torch and lsuv are installed: `python -m benchmarks.lsuv`.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable

import equinox as eqx
import jax
import lsuv
import torch

import initax as ix

WIDTH, BATCH = 128, 256
DEPTHS = (10, 25, 50, 100)


def median(run: Callable[[], object], times: int = 3) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def ours(depth: int, scan: bool) -> tuple[float, float]:
    """Seconds, compilation included, and the largest distance of a variance from one."""
    model = eqx.nn.MLP(WIDTH, WIDTH, WIDTH, depth - 1, scan=scan, key=jax.random.key(0))
    model = ix.reinit(model, {"Linear": "orthogonal"}, jax.random.key(1))
    x = jax.random.normal(jax.random.key(2), (BATCH, WIDTH))
    reports = []

    def run() -> None:
        jax.clear_caches()
        reports.append(ix.lsuv(model, x, forward=lambda model, x: jax.vmap(model)(x))[1])

    seconds = median(run)
    return seconds, max(float(abs(row.after - 1).max()) for row in reports[-1].layers)


def theirs(depth: int) -> tuple[float, float]:
    """The same with the package's own tolerance and orthonormal start."""
    x = torch.randn(BATCH, WIDTH)
    networks = []

    def run() -> None:
        layers = [each for _ in range(depth) for each in (torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU())]
        with contextlib.redirect_stdout(io.StringIO()):
            networks.append(lsuv.lsuv_with_singlebatch(torch.nn.Sequential(*layers[:-1]), x, verbose=False))

    seconds = median(run)
    off = 0.0
    with torch.no_grad():
        for layer in networks[-1]:
            x = layer(x)
            if isinstance(layer, torch.nn.Linear):
                off = max(off, abs(float(x.var()) - 1))
    return seconds, off


def main() -> None:
    print("| layers | initax, unrolled | initax, scanned | torch `lsuv` | torch / unrolled | off by (ours, theirs) |")
    print("|---|---|---|---|---|---|")
    for depth in DEPTHS:
        (plain, off), (scanned, _), (other, far) = ours(depth, False), ours(depth, True), theirs(depth)
        times = f"{plain:.2f} s | {scanned:.2f} s | {other:.2f} s | {other / plain:.1f}"
        print(f"| {depth} | {times} | {off:.1e}, {far:.1e} |", flush=True)


if __name__ == "__main__":
    main()
