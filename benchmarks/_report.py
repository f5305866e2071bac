"""Measurements → tables, on the terminal and as a page of the documentation."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks._methods import METHODS
from benchmarks._models import CASES
from benchmarks._record import Measurement
from benchmarks.floors import DRAW, Floors, cold, warm
from benchmarks.floors import shown as spread_in_ms

Unit = Callable[[float], tuple[str, float, int]]
"""A number → how numbers of that size are written: the pattern around them, the size of the unit, the decimals."""

Round = dict[str, Measurement | None]
"""The measurements of one repeat by method; `None` where the first call took longer than the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What initax may cost, as a multiple of a peer's cost; without `most` the ratio is only shown.

    Attributes:
        cost: the number that is compared, an attribute of `Measurement`.
        peer: the peer's key in `METHODS`.
        most: the largest ratio, by case.
        own: the key in `METHODS` of the way in which initax does it.
    """

    cost: str
    peer: str
    most: dict[str, float]
    own: str = "ix"

    @property
    def label(self) -> str:
        """What the ratio is called."""
        return f"{self.cost.replace('_', ' ')}, {self.own} / {self.peer}"


SHALLOW, DEEP = "transformer", "deep transformer"

SMALL = {"lenet": 1.0, "mlp": 1.0}
FEW = {"resnet": 0.08, SHALLOW: 0.25, "linears": 0.25}

GOALS = (
    Goal(cost="cold", peer="a", most=dict.fromkeys(CASES, 0.6) | {DEEP: 0.5} | FEW | SMALL),
    Goal(cost="cold", peer="b", most={}),
    Goal(cost="preparation", peer="b", most=dict.fromkeys(CASES.keys() - SMALL.keys(), 0.05)),
    *(Goal(cost="cold", peer=peer, most={}) for peer in "cefg"),
    Goal(cost="cold", peer="t", most={"resnet": 0.6}),
    Goal(cost="cold", peer="n", most={}),
    Goal(cost="warm", peer="a", most={"resnet": 0.4, "linears": 0.12} | SMALL),
    *(Goal(cost="warm", peer=peer, most={}) for peer in "befgn"),
    Goal(cost="warm", peer="t", most={"resnet": 1.0, "linears": 1.5}),
    Goal(cost="warm", peer="t", most={"resnet": 0.8, SHALLOW: 0.85}, own="ixd"),
    Goal(cost="warm", peer="c", most=dict.fromkeys(CASES.keys() - SMALL.keys(), 1.05)),
    Goal(cost="peak", peer="c", most=dict.fromkeys(CASES, 1.0)),
    *(Goal(cost=cost, peer="c", most={}) for cost in ("rise", "rise_again")),
)

ENOUGH = 5.0
"""Seconds of later calls after which none begins any more."""
LEAN_FROM = 16_384
"""Bytes from which blocks are handed back when they are freed, where what a call holds is measured."""

PLAN_MOST = 0.2e-3
"""Seconds per layer that deciding may take."""

FLOORS: dict[str, Callable[[Floors, int, int, bool], float]] = {
    "warm": lambda floors, entries, arrays, in_place: warm(floors, entries, arrays, in_place=in_place),
    "cold": lambda floors, entries, arrays, in_place: cold(floors, entries, arrays, in_place=in_place),
    "preparation": lambda floors, *_: median(floors[DRAW]),
}
"""A cost → its floor in seconds, of the floors, the entries and the arrays that are drawn, and whether in place."""

COSTS = ("method", "import", "first call", "cold", "warm", "peak", "rise", "rise again", "compiled")
RATIOS = ("ratio", "median", "goal", "met")


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything one run of the benchmarks found.

    Attributes:
        rounds: per case, one entry per repeat.
        limit: seconds after which a first call was given up.
        calls: later calls per process.
        quick: toy sizes, for which no goal is judged.
    """

    rounds: dict[str, list[Round]]
    limit: int
    calls: int
    quick: bool

    def costs(self, case: str) -> list[tuple[str, ...]]:
        """Return one row per method: medians over the repeats, with the smallest and largest."""
        return [self._costs(case, name) for name in METHODS if any(name in one for one in self.rounds[case])]

    def _costs(self, case: str, name: str) -> tuple[str, ...]:
        label = f"({name}) {METHODS[name].text}"
        found = [each for each in (one.get(name) for one in self.rounds[case]) if each is not None]
        if not found:
            return (label, "", "", f"> {self.limit} s", "", "", "", "", "")
        return (
            label,
            _spread([each.imported for each in found], _time) if METHODS[name].needs else "",
            _spread([each.first for each in found], _time),
            _spread([each.cold for each in found], _time),
            _spread([each.warm for each in found], _time),
            _spread([each.peak for each in found], _memory),
            _spread([each.rise for each in found], _memory),
            _spread([each.rise_again for each in found if each.rise_again is not None], _memory),
            f"{median(each.compilations for each in found):g}",
        )

    def ratios(self, case: str) -> list[tuple[str, ...]]:
        """Return one row per ratio, each the median of the ratios within one repeat, and whether its goal is met."""
        there = [goal for goal in GOALS if any(goal.peer in one for one in self.rounds[case])]
        depth = [self._depth()] if case == DEEP and SHALLOW in self.rounds else []
        return [*(self._ratio(case, goal) for goal in there), self._room(case), *depth, self._plan(case)]

    def _values(self, case: str, goal: Goal) -> tuple[list[float], bool]:
        """Return the ratio of each repeat, and whether one of them is only an upper bound."""
        values, bounded = [], False
        for one in self.rounds[case]:
            own, peer = one.get(goal.own), one.get(goal.peer)
            if own is None or (peer is None and goal.cost != "cold"):
                continue
            ours, theirs = getattr(own, goal.cost), self.limit if peer is None else getattr(peer, goal.cost)
            # What a call holds is not measured of everybody, and of a small model it may be nothing.
            if ours is None or not theirs:
                continue
            bounded |= peer is None
            values.append(ours / theirs)
        return values, bounded

    def _ratio(self, case: str, goal: Goal) -> tuple[str, ...]:
        values, bounded = self._values(case, goal)
        label, unit = goal.label, _below if bounded else _plain
        most = goal.most.get(case)
        if most is None:
            return self._judged(label, values, unit, "", "")
        met = not values or median(values) <= most
        # A bound above the goal says nothing: a longer limit might bring it below.
        verdict = "yes" if met else "unknown" if bounded else "no"
        return self._judged(label, values, unit, f"≤ {most:g}", verdict)

    def unmet(self, floors: Floors) -> list[tuple[str, ...]]:
        """Return one row per ratio of times that misses its goal, with the ratio that the floors alone would have."""
        rows = []
        for case, goal in itertools.product(self.rounds, GOALS):
            values, _ = self._values(case, goal)
            most, floor = goal.most.get(case), FLOORS.get(goal.cost)
            if most is None or floor is None or not values or median(values) <= most:
                continue
            pairs = [(one.get(goal.own), one.get(goal.peer)) for one in self.rounds[case]]
            least = [
                floor(floors, own.drawn // 4, own.arrays, goal.own == "ixd") / getattr(peer, goal.cost)
                for own, peer in pairs
                if own is not None and peer is not None
            ]
            reached = f"{median(values):.3f}"
            rows.append((case, goal.label, f"≤ {most:g}", reached, f"{median(least):.3f}" if least else ""))
        return rows

    def _room(self, case: str) -> tuple[str, ...]:
        found = [
            (each.drawn + each.rise_again) / (each.drawn + each.one)
            for one in self.rounds[case]
            if (each := one.get("ixd")) is not None and each.one is not None and each.rise_again is not None
        ]
        # To a thousandth: Python's own objects are resident too, and are most of what a small model holds.
        met = not found or round(median(found), 3) <= 1
        goal = "" if case in SMALL else "≤ 1"
        return self._judged("held, ixd / model and one draw", found, _plain, goal, "yes" if met else "no")

    def _depth(self) -> tuple[str, ...]:
        pairs = [(one["ix"], other["ix"]) for one, other in zip(self.rounds[DEEP], self.rounds[SHALLOW], strict=True)]
        found = [deep.compilations / shallow.compilations for deep, shallow in pairs if deep and shallow]
        met = max(found, default=1) <= 1
        return self._judged("compiled, 48 / 12 blocks", found, _plain, "≤ 1", "yes" if met else "no")

    def _plan(self, case: str) -> tuple[str, ...]:
        found = [
            each.plan for one in self.rounds[case] if (each := one.get("ix")) is not None and each.plan is not None
        ]
        met = not found or median(found) <= PLAN_MOST
        return self._judged("`ix.plan`, per layer", found, _time, f"≤ {PLAN_MOST * 1e3:g} ms", "yes" if met else "no")

    def _judged(self, label: str, values: Sequence[float], unit: Unit, goal: str, verdict: str) -> tuple[str, ...]:
        if not values:
            return (label, "", "", "")
        if self.quick or not goal:
            return (label, _spread(values, unit), "", "")
        return (label, _spread(values, unit), goal, verdict)

    def platform(self) -> str:
        """Return the device the arrays were drawn on."""
        found = {each.platform for rounds in self.rounds.values() for one in rounds for each in one.values() if each}
        return ", ".join(sorted(found))


def show(results: Results, console: Console) -> None:
    """Print the tables."""
    for line in _left_out():
        console.print(line)
    for case, rounds in results.rounds.items():
        size = "toy size" if results.quick else CASES[case].text
        title = f"{case}: {size} (repeats: {len(rounds)})"
        for names, rows in ((COSTS, results.costs(case)), (RATIOS, results.ratios(case))):
            table = Table(*names, title=title if names is COSTS else None, title_justify="left")
            for row in rows:
                table.add_row(*(cell.replace("`", "") for cell in row))
            console.print(table)


def page(results: Results, floors: Floors) -> str:
    """Return the page of the documentation."""
    repeats = max(len(rounds) for rounds in results.rounds.values())
    parts = [
        _HEAD.format(
            repeats=repeats,
            calls=results.calls,
            few=CASES[DEEP].calls,
            many=CASES["lenet"].calls,
            limit=results.limit,
            lean=LEAN_FROM,
            enough=ENOUGH,
        ),
        _machine(results),
        *_left_out(),
        *_not_asked_for(results),
    ]
    for case in results.rounds:
        parts += [
            f"## {case.capitalize()}",
            CASES[case].text[0].upper() + CASES[case].text[1:] + ".",
            _markdown(COSTS, results.costs(case)),
            _markdown(RATIOS, results.ratios(case)),
        ]
    parts += [
        _FLOORS,
        _markdown(("floor", "median"), [(name, spread_in_ms(seconds)) for name, seconds in floors.items()]),
        _UNMET,
        _markdown(("case", "ratio", "goal", "reached", "floor"), results.unmet(floors)),
    ]
    return "\n\n".join(parts) + "\n"


_HEAD = """\
# Benchmarks

<!-- Written by `python -m benchmarks --write`. -->

What it costs to re-initialize a model that already exists: weights of He's variance and zero biases for every Linear
and convolution. The ways to do it:

- **(ix)** `ix.reinit(model, {{"*": "he_normal"}}, key)`; **(ixd)** the same with `donate=True`.
- **(a)** the `tree_at` recipe of
  [Equinox's documentation](https://docs.kidger.site/equinox/tricks/#custom-parameter-initialisation) with
  `jax.nn.initializers.he_normal` and the right axes, the biases set to zero the same way.
- **(b)** the same recipe under one `eqx.filter_jit`.
- **(c)** the draws alone: keys by `jax.random.split`, one compiled sampler per distinct shape, called once per array.
  No model comes out.
- **(e)** `jax.nn.initializers` by hand, called for each array. No model comes out.
- **(f)** Flax NNX modules of the same shapes, made anew; **(g)** the same under one `nnx.jit`.
- **(t)** `torch.nn.init.kaiming_normal_` on tensors of the same shapes, in place.
- **(n)** `anyinit` on a chain of the same Linears in Flax, where they make a chain. It traces the network and chooses
  the variances itself.

## How it is measured

Every measurement is a process of its own. The methods take turns, in {repeats} rounds, so that a drift of the machine
hits all alike. JAX and Equinox are imported, the model is built from NumPy arrays, and all of it is ready before the
clock starts. No compilation cache is kept between processes. Each call ends when its arrays are ready.

- **import**: importing what the method needs, with JAX and Equinox loaded already.
- **first call**: the first call in the process, with everything JAX traces and XLA compiles for it. It is given up
  after {limit} s.
- **cold**: import and first call.
- **warm**: median of {calls} later calls ({few} for the deep transformer, {many} for the smallest), each with another
  key, or of as many as begin within {enough:g} s.
- **peak**: largest resident memory of the process up to the end of the first call; **rise**: the same above what was
  resident with the model built. The old model stays alive, except under (ixd), so the new one comes on top.
- **rise again**: the same for one more call after some, with nothing left to import or compile. glibc keeps much of
  what is freed, and what it keeps is resident; so this is measured in a process of its own, once for (ix), (ixd) and
  (c), under `MALLOC_MMAP_THRESHOLD_={lean}`: larger blocks are handed back when they are freed, and what is resident is
  what is held. Handing back takes time, so nothing is timed in it.
- **held**: the arrays that are drawn and (ixd)'s rise again, next to those arrays, the largest of them and what its
  draw needs beside it, as XLA accounts for its program. It is told to a thousandth. Python's objects count as held,
  some 1 KiB a layer, and so do the rows that are drawn for several arrays, a megabyte or two.
- **compiled**: programs that XLA compiled in the first call.

Each number is the median over the repeats, with the smallest and the largest in brackets. A ratio is taken within each
repeat; its median counts. **preparation** is cold less warm: importing, deciding, tracing and compiling without the
drawing, which a large model spends most of its cold call on, however it is compiled. After its first call each method's
result is checked: every weight was drawn, with He's variance. The resident model of (t) and (n) comes beside
Equinox's; look at the rise there.

What bounds a call: cold, importing initax (the column import) and compiling one program for each kernel and size
class; warm, random bits and fresh pages where arrays are large, and Python's work on each layer where they are small,
for which (t) has nothing but a call into C++. [The floors](#floors) are measured in the same run.

Orthogonal draws are [measured by themselves](orthogonal.md), decoders of up to 405 billion parameters
[are only planned](scale.md)."""


_FLOORS = """\
## Floors

What no program goes below on this machine, measured by `python -m benchmarks.floors`: each the median of up to 15, with
the smallest and the largest in brackets. The draws are initax's own programs, the fastest that are known, in place: in
memory whose pages are there already."""

_UNMET = """\
The ratios of times that miss their goal, and what they would be if nothing but the floors were paid. Warm, that is
every entry drawn in one program, in fresh pages unless in place, and one call that gives all arrays back; cold, also
compiling one draw; of the preparation, compiling one draw alone. Where a floor stands above its goal, no program that
draws these bits meets it on this machine. Where it stands below, the rest is importing initax, deciding, more programs
than one, and Python's work on each array. What is held beyond the model and one draw is Python's own objects and a
megabyte or two of rows."""


def _machine(results: Results) -> str:
    packages = ", ".join(
        f"{name} {version(name)}"
        for name in _installed("jax", "jaxlib", "equinox", "flax", "torch", "anyinit", "initax")
    )
    cores = len(os.sched_getaffinity(0))
    return f"Machine: {_processor()}, {cores} cores, drawing on {results.platform()}; Python " + (
        f"{platform.python_version()}, {packages}."
    )


def _left_out() -> list[str]:
    """Return a line about the methods whose package is not installed; none where all are."""
    absent = [f"({name}) {method.text}" for name, method in METHODS.items() if not method.is_there]
    return [f"Left out, because not installed: {', '.join(absent)}."] if absent else []


def _not_asked_for(results: Results) -> list[str]:
    """Return a line about the methods that this run left out; none where it left out none."""
    measured = {name for rounds in results.rounds.values() for one in rounds for name in one}
    absent = [f"({name}) {method.text}" for name, method in METHODS.items() if method.is_there and name not in measured]
    return [f"Left out of this run: {', '.join(absent)}."] if absent else []


def _installed(*names: str) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is not None]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] + ["---:"] * (len(names) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _spread(values: Sequence[float], unit: Unit) -> str:
    """Return the median, with the smallest and largest in brackets, in one unit and with equally many decimals."""
    if not values:
        return ""
    pattern, size, decimals = unit(median(values))
    middle, least, most = (f"{value / size:.{decimals}f}" for value in (median(values), min(values), max(values)))
    return pattern.format(middle if least == most else f"{middle} ({least}–{most})")


def _time(seconds: float) -> tuple[str, float, int]:
    for name, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            # Three significant digits.
            return f"{{}} {name}", size, 2 - math.floor(math.log10(seconds / size)) if seconds < 1e3 * size else 0
    return "{} ns", 1e-9, 0


def _memory(_: float) -> tuple[str, float, int]:
    return "{} MiB", 2.0**20, 0


def _plain(_: float) -> tuple[str, float, int]:
    return "{}", 1.0, 3


def _below(_: float) -> tuple[str, float, int]:
    return "< {}", 1.0, 3
