"""LSUV against the PyTorch package of that name: the same networks, one process, and how time grows with depth.

`python -m benchmarks.lsuv [--depths 10 25 50 100] [--write]` prints the table of docs/calibration.md, or writes it
there. It is a timing: let nothing else run. PyTorch has one thread: with two, and anything else on the cores, its
threads wait for each other in these small operations, and it took a hundred times as long.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version

import equinox as eqx
import jax
import lsuv
import torch

import initax as ix
from benchmarks._written import write

WIDTH, BATCH, TIMES = 128, 256, 3
DEPTHS = (10, 25, 50, 100)


def median(run: Callable[[], object]) -> float:
    """Return the median of the seconds that a call takes after a first one."""
    run()
    taken = []
    for _ in range(TIMES):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def ours(depth: int, scan: bool) -> tuple[float, float]:
    """Return seconds, compilation included, and the largest distance of a variance from one."""
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
    """Return the same with the package's own tolerance and orthonormal start."""
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


def table(depths: Sequence[int]) -> Iterator[str]:
    """Return the rows: one for each depth, and by how much time grows from the first to the last."""
    yield "| layers | initax, unrolled | initax, scanned | torch `lsuv` | torch / unrolled | off by (ours, theirs) |"
    yield "|---|---|---|---|---|---|"
    every = []
    for depth in depths:
        (plain, off), (scanned, _), (other, far) = ours(depth, False), ours(depth, True), theirs(depth)
        every.append((plain, scanned, other))
        times = " | ".join(f"{seconds:.3g} s" for seconds in every[-1])
        yield f"| {depth} | {times} | {other / plain:.2g} | {off:.1e}, {far:.1e} |"
    if len(depths) > 1:
        grown = " | ".join(f"× {last / first:.2g}" for first, last in zip(every[0], every[-1], strict=True))
        yield f"| {depths[0]} → {depths[-1]}, × {depths[-1] / depths[0]:.2g} | {grown} | | |"


def main() -> None:
    """Measure; print the table and, if asked, write it into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lsuv", description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS, help="numbers of layers")
    parser.add_argument("--write", action="store_true", help="write the table into docs/calibration.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    packages = {"`lsuv`": "lsuv", "PyTorch": "torch", "JAX": "jax"}
    named = ", ".join(f"{name} {version(package)}" for name, package in packages.items())
    rows = [f"{named}; {os.cpu_count()} cores, of which PyTorch uses one.", ""]
    print(*rows, sep="\n")
    for row in table(arguments.depths):
        print(row, flush=True)
        rows.append(row)
    if arguments.write:
        write("calibration", "lsuv", "\n".join(rows))


if __name__ == "__main__":
    main()
