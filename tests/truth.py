"""What each array of a program is for, measured: the law that readings of the forward pass are held against.

A program runs in NumPy (`tests/numpy_jax.py`), with each entry of the array changed in turn. Where the array meets the
signal, the entries that move one output are its S; which entry of the signal meets which of the array is seen, too.
A reading is right if all outputs agree with it:

- the entries that move one output are one batch entry's inputs and window for one output, all of them;
- entries of one batch entry hang together: they share an output or an entry of the signal, by way of others;
- products entry by entry are scales where the array is a vector, sums are biases, look-ups are embeddings.

Sums of outputs, later on, of entries that met different entries of the signal make inputs of what were batch entries.
What can't be told from outputs is listed in `Truth.open`: there every reading that fits one way to see it is right.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from initax._math._axes import Axes, resolve
from initax._trace._reading import Reading
from tests import numpy_jax
from tests.numpy_jax import NAMES, Meeting, V, World

WEIGHTS = ("weight", "embedding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A forward pass as text.

    Attributes:
        lines: lines of the body of `forward(p, x)`, the last of which is a `return`.
        shapes: shapes of the arrays by name.
        inputs: shapes of the inputs by name; a number is how many rows integers are drawn from.
        truth: lines with the same results in which products of arrays stand in the order of the signal.
        kinds: what the program is made of.
    """

    lines: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    inputs: Mapping[str, tuple[int, ...]]
    picks: Mapping[str, int] = field(default_factory=dict)
    truth: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the program as Python source."""
        p = ", ".join(f"{name}: {shape}" for name, shape in self.shapes.items())
        x = ", ".join(
            f"{name}: {shape}" + (f" < {self.picks[name]}" if name in self.picks else "")
            for name, shape in self.inputs.items()
        )
        return f"# {p}; inputs {x}\n" + self.source(self.lines)

    def source(self, lines: Sequence[str]) -> str:
        """Return a function of the parameters and the inputs."""
        return f"def forward(p, {', '.join(self.inputs)}):\n" + "".join(f"    {line}\n" for line in lines)

    def function(self, names: Mapping[str, Any], *, truth: bool = False) -> Any:
        """Return the function, with `jnp`, `lax` and `jax` as given."""
        space = dict(names)
        exec(self.source(self.truth if truth and self.truth else self.lines), space)
        return space["forward"]

    def values(self, seed: int = 0) -> tuple[dict[str, Any], list[Any]]:
        """Return arrays and inputs."""
        numbers = np.random.default_rng(seed)
        p = {name: numbers.normal(size=shape) + 0.1 for name, shape in self.shapes.items()}
        inputs = [
            numbers.integers(self.picks[name], size=shape) if name in self.picks else numbers.normal(size=shape) + 0.3
            for name, shape in self.inputs.items()
        ]
        return p, inputs


@dataclass(slots=True, kw_only=True)
class Truth:
    """What one array is for.

    Attributes:
        shape: its shape.
        role: `weight`, `scale`, `bias`, `embedding`, `unused`, or `none` where it is no one thing everywhere.
        levels: meetings by which readings are judged; where there are several, any will do.
        open: why more than one reading may be right.
        pieces: entries that stand in one part of the array, or of its outputs: parts that go different ways may be
            batch entries, even where they meet the same signal.
        other: the same where constants are signals, as positions that a small network takes in.
        reached: gives the entries that move a result; entries whose outputs are left out later move none.
    """

    shape: tuple[int, ...]
    role: str
    levels: list[list[Meeting]]
    open: frozenset[str]
    pieces: list[Any]
    flags: frozenset[str]
    groups: Any = None
    other: Truth | None = None
    reached: Callable[[], Any] | None = None


def run(
    program: Program,
    name: str,
    values: tuple[dict[str, Any], list[Any]],
    *,
    truth: bool = True,
    masks: bool = True,
    single: bool = False,
) -> tuple[World, Any]:
    """Run a program with one array followed, and return what was seen and the result.

    Args:
        program: the program.
        name: the array.
        values: arrays and inputs.
        masks: constants that leave entries of the array out do so; they don't change what it is for.
        single: a constant matrix behind the outputs takes one of them, so that they are followed further.
        truth: run the lines in which products of arrays stand in the order of the signal.
    """
    arrays, inputs = values
    function = program.function(NAMES, truth=truth)
    world = World(name=name)
    result = None
    for atoms in (None, True):
        world = World(
            name=name,
            atoms=None if atoms is None else {n: at for at, n in enumerate(world.met)},
            masks=masks,
            single=single,
        )
        numpy_jax.start(world)
        p = {}
        for each, array in arrays.items():
            if each != name:
                p[each] = V(array[None, None], "const", other=True)
                continue
            if atoms is None:
                p[each] = V(array[None, None], "pure")
                continue
            n = array.size
            many = np.repeat(array.ravel()[None], n + 4, axis=0)
            many[np.arange(1, n + 1), np.arange(n)] += 1.3
            numbers = np.random.default_rng(1)
            one, two = numbers.normal(size=(2, n)) * 3
            many[n + 1] += one
            many[n + 2] += two
            many[n + 3] += one + two
            p[each] = V(many.reshape(n + 4, 1, *array.shape), "pure")
            world.width = n + 4
        found = function(p, *(V(x[None, None], "data", lin=world.fresh(x.shape)) for x in inputs))
        if atoms is None:
            result = tuple(numpy_jax.V_of(each).base() for each in (found if isinstance(found, tuple) else (found,)))
        else:
            for each in found if isinstance(found, tuple) else (found,):
                numpy_jax.settle(numpy_jax.V_of(each)) if numpy_jax.V_of(each).kind == "pure" else None
    return world, result


def truth_of(program: Program, name: str, values: tuple[dict[str, Any], list[Any]] | None = None) -> Truth:
    """Return what an array of a program is for."""
    values = values or program.values()
    shape = tuple(program.shapes[name])
    world, _ = run(program, name, values, masks=False)
    truth = judged(world, shape)
    truth.reached = functools.cache(lambda: reached(program, name, values))
    if "constant behind" in world.flags:
        further, _ = run(program, name, values, masks=False, single=True)
        truth.other = judged(further, shape)
    constants = [each for each in world.meetings if each.kind == "contraction with a constant" and each.is_affine]
    if constants and truth.role not in ("weight", "scale", "product"):
        # Constants may be a signal, as positions that a small network takes in. All entries meet them.
        together = np.zeros(constants[0].moved.shape[1], int)
        truth.other = replace(
            truth, role="weight", levels=[[each] for each in constants], groups=[together for _ in constants]
        )
    return truth


def reached(program: Program, name: str, values: tuple[dict[str, Any], list[Any]]) -> Any:
    """Return which entries of an array move a result."""
    arrays, inputs = values
    function = program.function(NAMES)

    def results(array: Any) -> list[Any]:
        numpy_jax.start(World(quiet=1))
        p = {each: V((array if each == name else own)[None, None], "const") for each, own in arrays.items()}
        found = function(p, *(V(x[None, None], "const") for x in inputs))
        return [numpy_jax.V_of(each).base() for each in (found if isinstance(found, tuple) else (found,))]

    before = results(arrays[name])
    moves = []
    for number in range(arrays[name].size):
        changed = arrays[name].copy()
        changed.flat[number] += 1.3
        moves.append(any((one != other).any() for one, other in zip(before, results(changed), strict=True)))
    return np.array(moves)


def judged(world: World, shape: tuple[int, ...]) -> Truth:
    """Return what was seen of an array."""
    seen = world.meetings
    first = [each for each in seen if each.kind in ("product", "sum of both", "look-up")]
    open_ = {
        each for each in ("constant", "tangled", "member", "residual", "normed", "two signals") if each in world.flags
    }
    roles = set()
    for each in first:
        if not each.moved.any():
            continue
        if each.kind == "look-up":
            roles.add("embedding")
        elif each.added.any() and each.met.any():
            roles.add("none")
        elif each.added.any():
            roles.add("bias")
        else:
            roles.add("weight" if each.is_affine else "none")
        if not each.is_affine:
            roles.add("none")
    if "signal" in world.flags:
        roles.add("none")
    role = roles.pop() if len(roles) == 1 else "none" if roles else "unused"
    truth = Truth(
        shape=shape,
        role=role,
        levels=[first],
        open=frozenset(open_),
        pieces=[*world.pieces.values()],
        flags=frozenset(world.flags),
    )
    if role not in WEIGHTS:
        return truth
    truth.groups = components(first)
    summed, mixed, absorbed_ = sums(seen, first)
    if summed and absorbed_ & world.apart:
        # The outputs go on beside their sum: a mean that is taken off, say. What they are for can be said in two ways.
        mixed = [*mixed, *summed, *(seen[number] for number in absorbed_ & world.apart if seen[number].kind == "sum")]
        if all((each.moved.sum(1) <= 1).all() for each in first):
            truth.other = replace(truth, role="scale", open=frozenset(), groups=[components(first)])
    if summed and not mixed:  # members that the data pick are weighted by data, or not
        truth.levels = [first, summed] if "member" in world.flags else [summed]
    elif summed or mixed:
        truth.levels = [first, *([summed] if summed else []), *([each] for each in mixed)]
        truth.open |= {"outputs are mixed"}
    truth.groups = [components(each) for each in truth.levels]
    if role == "weight" and all((each.moved.sum(1) <= 1).all() for each in truth.levels[0]):
        truth.role = "scale" if sum(size > 1 for size in shape) <= 1 else "product"
        if mixed:
            truth.role = "weight"
        later = [each for each in seen if each.kind == "contraction of products"]
        if truth.role == "product" and later:
            # A weight that the data modulate before it meets the signal, as styles do, is the weight it was.
            truth.open |= {"modulated"}
            truth.levels.append(later)
            truth.groups.append(components(later))
    again = any((each.met.sum(2) > 1).any() for each in truth.levels[0])
    if truth.role == "weight" and again and "two signals" not in world.flags:
        # An entry meets several entries of the signal on the way to one output, as under a cumulative sum.
        truth.open |= {"entries are used again"}
    return truth


def sums(seen: Sequence[Meeting], first: Sequence[Meeting]) -> tuple[list[Meeting], list[Meeting], set[int]]:
    """Return the meetings after sums that make inputs, the sums that only mix outputs, and what the first add up.

    Entries that an output adds up for the first time are inputs if each met an entry of the signal of its own.
    """
    share = np.zeros((seen[0].moved.shape[1],) * 2, bool) if seen else np.zeros((0, 0), bool)
    for each in first:
        share |= each.moved.T.astype(np.float32) @ each.moved.astype(np.float32) > 0
    making, mixing, gone = [], [], set()
    for number, each in enumerate(seen):
        if each.kind != "sum":
            continue
        new = False
        mixes = False
        for row, met in zip(each.moved, each.met, strict=True):
            at = np.flatnonzero(row)
            fresh = ~share[np.ix_(at, at)]
            if not fresh.any():
                continue
            rows = met[at].astype(np.float32)
            overlap = (rows @ rows.T > 0) & fresh
            mixes |= bool(overlap.any())
            new |= not overlap.any()
        if mixes:
            mixing.append(each)
        elif new:
            making.append(number)
    for number in making:
        gone |= absorbed(seen, number)
    left = [each for number, each in enumerate(seen) if number not in gone and (each.kind != "sum" or number in making)]
    kept = [each for each in left if each.kind != "contraction with a constant"]  # no signal meets them there
    return (kept if making else []), mixing, gone


def absorbed(seen: Sequence[Meeting], number: int) -> set[int]:
    """The meetings whose outputs a sum holds."""
    found: set[int] = set()
    left = [*seen[number].sources]
    while left:
        at = left.pop()
        if at in found or at < 0 or at >= len(seen) or at == number:
            continue
        found.add(at)
        left += seen[at].sources if seen[at].kind == "sum" else ()
    return found


def components(meetings: Sequence[Meeting]) -> Any:
    """For each entry the number of the layer it belongs to: those that share an output or an entry of the signal."""
    n = meetings[0].moved.shape[1]
    edges = [each.moved for each in meetings]
    edges.append(np.logical_or.reduce([each.met.any(0) for each in meetings]).T)
    label = np.arange(n)
    rows = np.concatenate([each for each in edges if each.size] or [np.zeros((0, n), bool)])
    rows = np.unique(rows, axis=0)
    changed = True
    while changed:
        changed = False
        for row in rows:
            at = np.flatnonzero(row)
            if len(at) > 1 and (label[at] != label[at].min()).any():
                old = set(label[at].tolist())
                label[np.isin(label, list(old))] = label[at].min()
                changed = True
    return label


@dataclass(frozen=True, slots=True)
class Claim:
    """A reading, as numbers of entries."""

    role: str
    outputs: Any
    batch: Any
    fan_in: int
    batch_size: int
    is_vector: bool
    is_paired: bool = False
    is_uneven: bool = False


def claimed(role: str, axes: Axes) -> Claim:
    """Return what axes say of each entry: of which output of which batch entry it is."""
    places = np.indices(axes.split).reshape(len(axes.split), -1)

    def label(which: Sequence[int]) -> Any:
        number = np.zeros(places.shape[1], int)
        for axis in which:
            number = number * axes.split[axis] + places[axis]
        return number

    is_vector = sum(axes.split[axis] > 1 for axis in axes.out_axis) <= 1
    if (
        role == "embedding"
    ):  # its inputs are the features, as for one-hot rows and the weight stored the other way round
        rows = label([*axes.batch_axis, *axes.in_axis])
        return Claim(role, rows, label(axes.batch_axis), axes.fan_out, axes.batch_size, is_vector)
    outputs = label([*axes.batch_axis, *axes.out_axis])
    return Claim(role, outputs, label(axes.batch_axis), axes.fan_in, axes.batch_size, is_vector)


def fault(truth: Truth, claim: Claim) -> str:
    """Return what is wrong with a reading; empty where it is right."""
    if truth.other is not None and not fault(truth.other, claim):
        return ""
    if truth.role == "unused":
        if "padded" in truth.flags:
            return ""  # nothing but padding meets it
        return "" if claim.role == "bias" else f"role: {claim.role}, but nothing meets it"
    if truth.role == "none":
        return f"role: {claim.role}, but it is no one thing"
    if truth.role in ("scale", "bias"):
        if truth.role == "bias" or claim.role != "weight":
            return "" if claim.role == truth.role else f"role: {claim.role} for {truth.role}"
    elif truth.role == "product":
        if (
            claim.role == "scale"
            and claim.is_vector
            and apart(truth, claim, np.zeros(len(claim.batch), int), used_by(truth))
        ):
            return ""  # entries of a stack that are used one by one, each a scale
        if claim.role == "embedding" and "member" in truth.open:
            return ""  # members that the data pick, with one input each
        if claim.role != "weight":
            return f"role: {claim.role} for a matrix multiplied entry by entry"
    elif "member" in truth.open and claim.role == "embedding":
        return ""  # the data pick what is contracted whole: a table, of which each output is one entry
    elif claim.role != truth.role and not ("member" in truth.open and claim.role in WEIGHTS):
        return f"role: {claim.role} for {truth.role}"
    if "tangled" in truth.open:
        return ""
    faults = [fault_at(truth, level, groups, claim) for level, groups in zip(truth.levels, truth.groups, strict=True)]
    if "" in faults:
        return ""
    if "constant" in truth.open and all(
        (each.met.any(1).sum(1) == claim.fan_in).all() for each in truth.levels[0] if each.met.size
    ):
        return ""
    return faults[0]


def fault_at(truth: Truth, meetings: Sequence[Meeting], groups: Any, claim: Claim) -> str:
    used = np.zeros(len(claim.outputs), bool)
    lenient = any(each.lenient for each in meetings)
    for each in meetings:
        for row in each.moved:
            at = np.flatnonzero(row)
            if not len(at):
                continue
            used |= row
            labels = np.unique(claim.outputs[at])
            if len(labels) > 1:
                one, counts = np.unique(claim.batch[at], return_counts=True)
                if claim.is_paired and len(one) == len(labels) == 2 and (counts == claim.fan_in).all():
                    continue  # the real and the imaginary part, each drawn with half of the variance
                if "two signals" in truth.flags and len(one) == len(labels) and (counts == claim.fan_in).all():
                    continue  # one signal weighs what comes of the other and each batch entry
                what = "batch entries" if len(one) > 1 else "outputs"
                return f"fan_in: {len(at)} entries move an output, of {len(labels)} {what}"
            # Rows of a table that nothing can pick are rows of it still.
            if len(at) != claim.fan_in and not lenient and each.kind != "look-up":
                return f"fan_in: {claim.fan_in}, but {len(at)} entries move an output"
    own = np.unique(claim.batch[used])
    for label in own if not claim.is_uneven else ():  # said: its fan_out counts all parts, whatever signals they meet
        if len(np.unique(groups[used & (claim.batch == label)])) > 1:
            return f"batch: {claim.batch_size}, but entries of one never meet"
    true = len(np.unique(groups[used]))
    if (
        len(own) > true
        and not {"two signals", "member", "later parts"} & truth.flags
        and not apart(truth, claim, groups, used & truth.reached() if truth.reached is not None else used)
    ):
        return f"batch: {claim.batch_size}, but all meet"
    return ""


def apart(truth: Truth, claim: Claim, groups: Any, used: Any) -> bool:
    """Whether some part of the program holds each batch entry and no other one of those that hang together with it."""
    alone = set()
    for piece in truth.pieces:
        for group in np.unique(groups[piece & used]):
            labels = np.unique(claim.batch[piece & used & (groups == group)])
            if len(labels) == 1:
                alone.add((int(group), int(labels[0])))
    own = set(zip(groups[used].tolist(), claim.batch[used].tolist(), strict=True))
    several = {group for group in groups[used].tolist() if len({b for g, b in own if g == group}) > 1}
    return alone >= {(group, label) for group, label in own if group in several}


def used_by(truth: Truth) -> Any:
    """Which entries move anything."""
    return np.logical_or.reduce([each.moved.any(0) for level in truth.levels for each in level])


def factorings(size: int) -> list[tuple[int, ...]]:
    """The ways to see an axis as one or two."""
    return [(size,), *((size // n, n) for n in range(2, size) if size % n == 0)]


def patterns(shape: Sequence[int]) -> Iterator[Axes]:
    """Return every reading of a weight there is, each axis as one or two."""
    for parts in itertools.product(*(factorings(size) for size in shape)):
        flat = [size for axis in parts for size in axis]
        if len(flat) > 6:
            continue
        for letters in itertools.product("iob", repeat=len(flat)):
            if "i" not in letters:
                continue
            if any(size == 1 and letter != "i" for size, letter in zip(flat, letters, strict=True)):
                continue
            names, at = [], 0
            sizes: dict[str, int] = {}
            for axis in parts:
                own = [f"{letters[at + k]}{at + k}" for k in range(len(axis))]
                sizes |= dict(zip(own, axis, strict=True)) if len(axis) > 1 else {}
                names.append(f"({' '.join(own)})" if len(axis) > 1 else own[0])
                at += len(axis)
            yield resolve(" ".join(names), tuple(shape), sizes)


def right(truth: Truth) -> Axes | str | None:
    """Return one right reading of an array; `None` where there is none, and keeping it is right."""
    if truth.role in ("scale", "bias"):
        return truth.role
    if truth.role not in ("weight", "embedding"):
        return None
    for axes in patterns(truth.shape):
        if not fault(truth, claimed(truth.role, axes)):
            return axes
    return None


VERDICTS = ("right", "refused", "wrong", "crash")


def verdict(truth: Truth, reading: Reading) -> tuple[str, str]:
    """Return what a reading is worth, and why."""
    if reading.pattern is None:
        return "refused", reading.reason or ""
    axes = resolve(reading.pattern, truth.shape, reading.sizes)
    found = fault(
        truth, replace(claimed(str(reading.role), axes), is_paired=reading.paired, is_uneven=bool(reading.uneven))
    )
    return ("wrong", found) if found else ("right", "")
