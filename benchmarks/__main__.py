"""Run the benchmarks: `python -m benchmarks [--only CASE,…] [--methods M,…] [--repeats N] [--quick] [--keep FILE]`.

`--write` writes the page; with `--repeats 2 --limit 30` that takes half an hour on two cores, and half of that without
the methods e, g and n. With `--keep` each case is kept in a file as soon as it is measured, and a later run with the
same file goes on from there; the rounds of a case are always of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks._layers import shapes_of
from benchmarks._methods import METHODS
from benchmarks._models import CALLS, CASES
from benchmarks._record import Measurement, Task
from benchmarks._report import LEAN_FROM, Results, Round, page, show
from benchmarks.floors import measured_apart

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
WIDTH = 160
"""Columns of the tables where the output is no terminal."""
LEAN = {"MALLOC_MMAP_THRESHOLD_": str(LEAN_FROM)}
"""Has glibc map every block of that size for itself and hand it back when it is freed."""
LEAN_CALLS = 3
"""Calls before the one that is watched: in the first of them what lives on still finds its place."""
WATCHED = ("ix", "ixd", "c")
"""The methods of which what a call holds is measured."""


def main() -> None:
    """Measure every method on every case asked for; print the tables and, if asked, write the page."""
    arguments = _arguments()
    cases = arguments.only
    repeats = arguments.repeats or (1 if arguments.quick else 5)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    rounds: dict[str, list[Round]] = _kept(arguments.keep) if arguments.keep else {}
    with Progress(console=console, transient=True) as progress:
        there = [name for name, method in METHODS.items() if method.is_there and name in arguments.methods]
        bar = progress.add_task("", total=len(cases) * repeats * len(there))

        def run(case: str, method: str, before: Measurement | None) -> Measurement | None:
            progress.update(bar, description=f"{case} ({method})")
            return _measured(
                Task(
                    case=case,
                    method=method,
                    quick=arguments.quick,
                    limit=arguments.limit,
                    calls=3 if arguments.quick else CASES[case].calls,
                ),
                before,
            )

        # The first process pays for cold disks and Python's bytecode; nobody counts it.
        _run(Task(case="linears", method="ix", quick=True, limit=arguments.limit, calls=1))
        for case in (each for each in cases if each not in rounds):
            rounds[case] = []
            given_up: set[str] = set()
            shapes = shapes_of(CASES[case].build(True))
            serve = [name for name in there if METHODS[name].serves(shapes)]
            for _ in range(repeats):
                one: Round = {}
                for method in serve:
                    before = rounds[case][0][method] if rounds[case] else None
                    one[method] = None if method in given_up else run(case, method, before)
                    if one[method] is None:
                        given_up.add(method)
                    progress.advance(bar)
                rounds[case].append(one)
            if arguments.keep:
                _keep(arguments.keep, rounds)
    rounds = {case: rounds[case] for case in cases}
    results = Results(rounds=rounds, limit=arguments.limit, calls=CALLS, quick=arguments.quick)
    show(results, console)
    if arguments.write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(results, measured_apart()), encoding="utf-8")
        console.print(f"wrote {PAGE.relative_to(ROOT)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Initax against its peers.")
    parser.add_argument("--only", type=_some(CASES), default=[*CASES], metavar="CASE,…", help=", ".join(CASES))
    parser.add_argument("--methods", type=_some(METHODS), default=[*METHODS], metavar="M,…", help=", ".join(METHODS))
    parser.add_argument("--repeats", type=_positive, help="processes per method and case (5, or 1 with --quick)")
    parser.add_argument("--limit", type=_positive, default=60, help="seconds a first call may take (60)")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that everything runs")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep what is measured there, and go on from it")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.write and (arguments.quick or len(arguments.only) < len(CASES)):
        parser.error("--write needs every case at full size: leave out --quick and --only")
    return arguments


def _some(known: Mapping[str, Any]) -> Callable[[str], list[str]]:
    """Return what reads some of these names, with commas between them."""

    def read(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: none of {', '.join(known)}")
        return [name for name in known if name in text.split(",")]

    return read


def _kept(path: Path) -> dict[str, list[Round]]:
    """Return the cases that were measured before, each with its rounds."""
    if not path.exists():
        return {}
    stored = json.loads(path.read_text("utf-8"))
    return {
        case: [{name: Measurement(**found) if found else None for name, found in one.items()} for one in every]
        for case, every in stored.items()
    }


def _keep(path: Path, rounds: Mapping[str, list[Round]]) -> None:
    """Write every case that is measured, each with its rounds."""
    stored = {
        case: [{name: asdict(found) if found else None for name, found in one.items()} for one in every]
        for case, every in rounds.items()
    }
    path.write_text(json.dumps(stored), "utf-8")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _measured(task: Task, before: Measurement | None) -> Measurement | None:
    """Return what fresh processes measure, or `None` where a first call took longer than the limit.

    One as processes are; what a call holds is measured in another, in which what is freed is resident no longer. It
    is the same every time, and measured once.

    Args:
        task: what to measure.
        before: what an earlier round measured of it.
    """
    found = _run(task)
    if found is None or task.method not in WATCHED:
        return found
    lean = before or _run(replace(task, calls=LEAN_CALLS, is_lean=True), LEAN)
    return replace(found, rise_again=lean.rise_again) if lean else None


def _run(task: Task, more: Mapping[str, str] = MappingProxyType({})) -> Measurement | None:
    """Return what a fresh process measures, or `None` where its first call took longer than the limit."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks._child", task.to_json()],
        cwd=ROOT,
        env=_environment() | more,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode == -signal.SIGALRM:
        return None
    if ended.returncode != 0:
        raise SystemExit(f"{task.case} ({task.method}) failed:\n{ended.stderr}")
    return Measurement.from_json(ended.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    """Return the environment of a child: no compilation cache, and the CPU unless the user asks for another device.

    Python's bytecode is kept, as wherever a package was installed: an import is not to compile its sources.
    """
    dropped = ("JAX_COMPILATION_CACHE", "PYTHONDONTWRITEBYTECODE", "MALLOC_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {"JAX_PLATFORMS": "cpu"} | kept | {"JAX_ENABLE_COMPILATION_CACHE": "false"}


if __name__ == "__main__":
    main()
