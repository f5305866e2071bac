"""Patterns such as `"(g o) i ..."`: which axes of an array are inputs, outputs, batch or receptive field.

A pattern and a shape become an immutable `Axes`, cached, which sees no data. Everything else in initax that speaks of
fans, of the canonical layout or of batch entries asks it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import keyword
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import einops
from einops.parsing import ParsedExpression

from initax._errors import AxesError, did_you_mean, listing, message

Array = TypeVar("Array")

RECEPTIVE = "..."
RESERVED = frozenset({"h", "w", "d", "k", "kh", "kw", "kd", "height", "width", "depth", "kernel", "spatial"})
"""Names people give to the axes of a receptive field. As batch axes they would silently shrink every fan."""
SIDED = re.compile(r"(i|in|inputs?|o|out|outputs?)(\d*|_\w+)")
"""Names of inputs and outputs: `i`, `i1`, `in`, `in_features`, `outputs`, but not `instance` or `order`."""
SIDED_LATE = re.compile(r"(?:\w*_|[cdn])(i(?:n|nputs?)|o(?:ut|utputs?))\d*")
"""Names of inputs and outputs that begin with other letters: `d_in`, `c_out`. Patterns go by the first letter."""


@dataclass(frozen=True, slots=True)
class Axes:
    """The axes of one array, read off a pattern.

    `in_axis`, `out_axis`, `batch_axis` and `receptive_axis` index `split`, the shape after merged axes such as
    `(g o)` are taken apart; that is a reshape without a copy. Where nothing is merged, `split` is `shape`.
    Fans are those of one batch entry: a group, a gate, a member of a stack.

    Attributes:
        pattern: the pattern as written, with stack axes in front where there are any.
        shape: the stored shape.
        split: the shape with merged axes taken apart.
        names: the name of each axis of `split`, `"..."` for the receptive field.
        in_axis: axes of `split` one output sums over.
        out_axis: axes of `split` that are outputs.
        batch_axis: axes of `split` along which every entry is a layer of its own.
        receptive_axis: the remaining axes, those of a convolution's kernel.
        fan_in: inputs times receptive field.
        fan_out: outputs times receptive field.
    """

    pattern: str
    shape: tuple[int, ...]
    split: tuple[int, ...]
    names: tuple[str, ...]
    in_axis: tuple[int, ...]
    out_axis: tuple[int, ...]
    batch_axis: tuple[int, ...]
    receptive_axis: tuple[int, ...]
    fan_in: int
    fan_out: int

    @property
    def batch_size(self) -> int:
        """Number of batch entries, one where there is no batch axis."""
        return math.prod(self.split[axis] for axis in self.batch_axis)

    @property
    def stack_axis(self) -> tuple[int, ...]:
        """Axes of the stored array that `vmap` or a scan put there: each entry is a module of its own."""
        return self._stored(lambda group: group[0] in STACK_NAMES)

    @property
    def entry_axis(self) -> tuple[int, ...]:
        """Axes of the stored array along which every entry is a layer of its own, and that hold nothing else."""
        return self._stored(lambda group: all(_meaning(name) == "batch" for name in group))

    @property
    def unit_axis(self) -> tuple[int, ...]:
        """Axes of the stored array along which every entry is an output, or one of a group, gate or stack of them."""
        return self._stored(lambda group: all(_meaning(name) in ("out", "batch") for name in group))

    @property
    def stored_sides(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Axes of the stored array that one output sums over, and those that are outputs; the rest are batch axes.

        `None` where the entries of a stored axis are not all of one kind, as in `(gate o)`.
        """
        sides: dict[str, list[int]] = {"in": [], "out": [], "batch": []}
        sizes = dict(zip(self.names, self.split, strict=True))
        index = 0
        for group in parse(self.pattern):
            many = len(self.receptive_axis) if group == (RECEPTIVE,) else 1
            telling = [name for name in group if len(group) == 1 or sizes[name] > 1]  # one group is as good as none
            kinds = {_meaning(name) for name in telling} or {"batch"}
            if len(kinds) > 1:
                return None
            (kind,) = kinds
            sides["in" if kind == "receptive" else kind] += range(index, index + many)
            index += many
        return tuple(sides["in"]), tuple(sides["out"])

    def _stored(self, asked: Callable[[tuple[str, ...]], bool]) -> tuple[int, ...]:
        """The axes of the stored array whose names are asked for."""
        found: list[int] = []
        index = 0
        for group in parse(self.pattern):
            if group and asked(group):
                found.append(index)
            index += len(self.receptive_axis) if group == (RECEPTIVE,) else 1
        return tuple(found)

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """Shape `(*receptive, in, out)` of one batch entry."""
        receptive = tuple(self.split[axis] for axis in self.receptive_axis)
        inputs = math.prod(self.split[axis] for axis in self.in_axis)
        outputs = math.prod(self.split[axis] for axis in self.out_axis)
        return (*receptive, inputs, outputs)

    def to_canonical(self, array: Any) -> Any:
        """Return `array` of the stored shape as `(batch entries, *receptive, in, out)`."""
        stored, canonical = self._patterns()
        return einops.rearrange(array, f"{_spoken(stored)} -> {_spoken(canonical)}", **self._sizes())

    def from_canonical(self, array: Array) -> Array:
        """Return `array` of shape `(batch entries, *receptive, in, out)` in the stored layout."""
        stored, canonical = self._patterns()
        made: Array = einops.rearrange(array, f"{_spoken(canonical)} -> {_spoken(stored)}", **self._sizes())
        return made

    def _sizes(self) -> dict[str, int]:
        return {_spoken(name): size for name, size in zip(self.names, self.split, strict=True) if name != RECEPTIVE}

    def _patterns(self) -> tuple[str, str]:
        def group(axes: tuple[int, ...]) -> str:
            return "(" + " ".join(self.names[axis] for axis in axes) + ")"

        field = f"{RECEPTIVE} " if self.receptive_axis else ""
        stored = self.pattern if self.receptive_axis else self.pattern.replace(RECEPTIVE, "")
        return stored, f"{group(self.batch_axis)} {field}{group(self.in_axis)} {group(self.out_axis)}"


_WORD = re.compile(r"[^\W\d]\w*")
_BESIDE = "axis_called_"
"""What stands before a word of Python's, such as `in`, where einops reads it: it warns of these."""


def _spoken(pattern: str) -> str:
    return _WORD.sub(lambda found: _BESIDE * keyword.iskeyword(found[0]) + found[0], pattern)


def resolve(pattern: str, shape: tuple[int, ...], sizes: Mapping[str, int] | None = None) -> Axes:
    """Return the axes that `pattern` gives an array of shape `shape`.

    Args:
        pattern: axis names in the stored order. `i`, `i1`, `in`, … are inputs, `o`, `o1`, `out`, … outputs, `...` is
            the receptive field, any other name a batch axis; `(g o)` is an axis that holds both.
        shape: the stored shape.
        sizes: sizes of named axes, needed where a merged axis can't be told apart.

    Raises:
        AxesError: the pattern is malformed, has another rank than the array, or its sizes do not divide.

    Examples:
        >>> axes = resolve("(g o) i ...", (32, 4, 3, 3), {"g": 4})
        >>> axes.fan_in, axes.fan_out, axes.canonical_shape
        (36, 72, (3, 3, 4, 8))
    """
    return _resolve(pattern, tuple(shape), tuple(sorted((sizes or {}).items())))


@functools.lru_cache(maxsize=4096)
def _resolve(pattern: str, shape: tuple[int, ...], sizes: tuple[tuple[str, int], ...]) -> Axes:
    groups = parse(pattern)
    known = dict(sizes)
    _refuse_unknown_sizes(pattern, groups, known)
    fixed = sum(group != (RECEPTIVE,) for group in groups)
    if len(shape) != fixed and not ((RECEPTIVE,) in groups and len(shape) > fixed):
        raise AxesError(_wrong_rank(pattern, shape, fixed, (RECEPTIVE,) in groups))
    spatial = len(shape) - fixed
    names: list[str] = []
    split: list[int] = []
    axis = 0
    for group in groups:
        if group == (RECEPTIVE,):
            names += [RECEPTIVE] * spatial
            split += shape[axis : axis + spatial]
            axis += spatial
            continue
        split += _split_one(pattern, shape, axis, group, known)
        names += group
        axis += 1
    return _axes(pattern, shape, tuple(split), tuple(names))


def _axes(pattern: str, shape: tuple[int, ...], split: tuple[int, ...], names: tuple[str, ...]) -> Axes:
    where: dict[str, list[int]] = {"in": [], "out": [], "batch": [], "receptive": []}
    for axis, name in enumerate(names):
        where[_meaning(name)].append(axis)
    receptive = math.prod(split[axis] for axis in where["receptive"])
    return Axes(
        pattern=pattern,
        shape=shape,
        split=split,
        names=names,
        in_axis=tuple(where["in"]),
        out_axis=tuple(where["out"]),
        batch_axis=tuple(where["batch"]),
        receptive_axis=tuple(where["receptive"]),
        fan_in=math.prod(split[axis] for axis in where["in"]) * receptive,
        fan_out=math.prod(split[axis] for axis in where["out"]) * receptive,
    )


def _meaning(name: str) -> str:
    if name == RECEPTIVE:
        return "receptive"
    return {"i": "in", "o": "out"}.get(name[0], "batch")


@functools.lru_cache(maxsize=1024)
def parse(pattern: str) -> tuple[tuple[str, ...], ...]:
    """Return the pattern's axes, each a tuple of the names merged in it; `("...",)` is the receptive field.

    Raises:
        AxesError: `pattern` is not a string, is malformed, repeats a name, or names a receptive axis.
    """
    if not isinstance(pattern, str):
        raise AxesError(f'an axis pattern is a string such as "o i", not {pattern!r}.')
    if "?" in pattern:
        raise AxesError(
            f'axis pattern "{pattern}" leaves an axis open.',
            'write "i" for an axis one output sums over, "o" for outputs, "..." for the receptive field of a '
            "convolution,",
            'and any other name for a batch axis: "i o1 o2" for heads, "expert i o"',
        )
    try:
        expression = ParsedExpression(_spoken(pattern))
    except Exception as error:  # einops raises EinopsError, and plain ones for a few malformed expressions
        why = str(error).replace(_BESIDE, "")
        raise AxesError(
            f'axis pattern "{pattern}" is malformed: {why}', 'write it as in "o i", "(g o) i ..." or "... i o"'
        ) from None
    if expression.has_ellipsis_parenthesized:
        raise AxesError(f'axis pattern "{pattern}" has "..." inside parentheses.', 'write "..." on its own')
    groups: list[tuple[str, ...]] = []
    for part in expression.composition:
        names = (RECEPTIVE,) if isinstance(part, str) else tuple(str(each).removeprefix(_BESIDE) for each in part)
        groups.append(names)
    for name in itertools.chain.from_iterable(groups):
        if name.lower() in RESERVED:
            raise AxesError(
                f'axis pattern "{pattern}" names the axis "{name}".',
                'axes of a receptive field are written "..."; any other name is a batch axis, outside the fans',
                _without_reserved(groups),
            )
        _refuse_name(pattern, name)
    if any(_sided_late(name) for name in itertools.chain.from_iterable(groups)):
        raise AxesError(_without_sides(pattern, groups))
    return tuple(groups)


def _refuse_name(pattern: str, name: str) -> None:
    """Raise where an axis has a name that would be read as something else than it says."""
    if name != RECEPTIVE and not name.isidentifier():
        raise AxesError(
            f'axis pattern "{pattern}" has a number for an axis.',
            'axes have names, "stack o i"; their sizes are read off the array, or given: sizes={"stack": 3}',
        )
    letter = name[0].lower()
    if letter in "io" and not SIDED.fullmatch(name):
        side = "inputs" if letter == "i" else "outputs"
        raise AxesError(
            f'axis pattern "{pattern}" names the axis "{name}", and names with "{letter}" are for {side}.',
            f'if it is one, write "{letter}" or "{letter}1"; a batch axis needs another first letter',
        )


def _sided_late(name: str) -> str:
    """The letter that a name should begin with, where it says only later that it is an input or an output."""
    found = SIDED_LATE.fullmatch(name)
    return found[1][0] if found and _meaning(name) == "batch" else ""


def _without_sides(pattern: str, groups: Sequence[tuple[str, ...]]) -> str:
    """What to say of a pattern whose inputs or outputs have names that begin with other letters."""
    names = [name for group in groups for name in group]
    sides = [_meaning(name) for name in names]
    lacks = " and ".join(f"no {word} axis" for word, side in (("input", "in"), ("output", "out")) if side not in sides)
    batch = [name for name in names if _meaning(name) == "batch"]
    meant = [_sided_late(name) or name for name in names]
    counted = {letter: itertools.count(1) for letter in "io"}
    unique = iter(
        f"{each}{next(counted[each])}" if each in counted and meant.count(each) > 1 else each for each in meant
    )
    line = " ".join(_write(tuple(next(unique) for _ in group)) for group in groups)
    if meant == names:
        line = 'i o", or, with outputs stored first, "o i' if len(names) == 2 else "o"
    return message(
        f'axis pattern "{pattern}" has {lacks or "both an input and an output axis"}: '
        + listing(f'"{name}"' for name in batch)
        + (" are batch axes." if len(batch) > 1 else " is a batch axis."),
        'names of inputs begin with "i", those of outputs with "o"; any other is outside the fans',
        f'write "{line}"',
    )


def refuse_unsided(pattern: str) -> None:
    """Raise where a weight's pattern names no input, no output and no receptive field: every entry were a layer.

    Raises:
        AxesError: it is so.
    """
    groups = parse(pattern)
    if groups and all(_meaning(name) == "batch" for group in groups for name in group):
        raise AxesError(_without_sides(pattern, groups))


def _without_reserved(groups: list[tuple[str, ...]]) -> str:
    """A line with the pattern of a convolution, and where only `h` is reserved, with those of heads."""
    line = f'write "{pattern_without(groups)}"'
    reserved = [name.lower() for group in groups for name in group if name.lower() in RESERVED]
    if reserved == ["h"]:
        return f'{line} for a convolution; heads are outputs, "i o1 o2", or inputs, "i1 i2 o"'
    return f"{line}, or give a batch axis another name"


def pattern_without(groups: list[tuple[str, ...]]) -> str:
    """Return the pattern with runs of reserved names replaced by `...`."""
    shown = [RECEPTIVE if any(name.lower() in RESERVED for name in group) else _write(group) for group in groups]
    return " ".join(name for name, _ in itertools.groupby(shown))


def _write(group: tuple[str, ...]) -> str:
    if len(group) == 1:
        return group[0]
    return f"({' '.join(group)})" if group else "1"


def _split_one(
    pattern: str, shape: tuple[int, ...], axis: int, group: tuple[str, ...], known: Mapping[str, int]
) -> Iterator[int]:
    size = shape[axis]
    free = [name for name in group if name not in known]
    given = math.prod(known[name] for name in group if name in known)
    where = f'axis {axis} of shape {shape}, "{_write(group)}" in pattern "{pattern}",'
    if len(free) > 1:
        raise AxesError(
            f"{where} can't be told apart.",
            f"its size {size} is the product of {listing(group)}",
            f'give all but one: sizes={{"{free[0]}": ...}}',
        )
    if not free and given != size:
        raise AxesError(f"{where} has size {size}, not {given}.", f"sizes given: {dict(known)}")
    if free and (given == 0 or size % given):
        raise AxesError(f"{where} has size {size}, which {given} does not divide.", f"sizes given: {dict(known)}")
    for name in group:
        yield known[name] if name in known else size // given


def _refuse_unknown_sizes(pattern: str, groups: tuple[tuple[str, ...], ...], known: Mapping[str, int]) -> None:
    names = [name for group in groups for name in group if name != RECEPTIVE]
    for name, size in known.items():
        if name not in names:
            raise AxesError(
                f'sizes name the axis "{name}", which pattern "{pattern}" does not have.',
                f"axes: {listing(names)}",
                did_you_mean(name, names),
            )
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise AxesError(f'the size of axis "{name}" must be a whole number, not {size!r}.')


def _wrong_rank(pattern: str, shape: tuple[int, ...], fixed: int, open_ended: bool) -> str:
    least = "at least " if open_ended else ""
    lines = [f'pattern "{pattern}" has {least}{fixed} axes, the array of shape {shape} has {len(shape)}.']
    if not open_ended and len(shape) > fixed:
        lines.append(f'a receptive field is written "...": "{pattern} ..."; a stack is named: "stack {pattern}"')
    return message(*lines)


STACK_NAMES = ("stack", "stack2", "stack3", "stack4")


@functools.lru_cache(maxsize=4096)
def fit(
    pattern: str,
    shape: tuple[int, ...],
    sizes: tuple[tuple[str, int], ...] = (),
    receptive: tuple[int, ...] | None = None,
    stacks: tuple[int, ...] | None = None,
) -> Axes:
    """Return the axes of an array whose layer knows its own shape, with any further axes taken as stack axes.

    Modules made with `vmap` or scanned hold arrays of higher rank than their own. The further axes are looked for from
    the front, where vmap puts them, and may stand anywhere that the layer's own sizes allow.

    Args:
        pattern: the pattern of one layer, without stack axes.
        shape: the stored shape.
        sizes: sizes of named axes the layer knows.
        receptive: sizes of its receptive field, where the pattern has one.
        stacks: where the stack axes stand, if that is known.

    Raises:
        AxesError: no placement of stack axes makes the shape fit.
    """
    groups = parse(pattern)
    own = own_shape(groups, dict(sizes), receptive)
    extra = len(shape) - len(own)
    if (RECEPTIVE,) in groups and receptive is None and extra >= 0:
        if not stacks:
            return _resolve(pattern, shape, sizes)
        receptive = (0,) * (extra - len(stacks))
        return _resolve(_with_stacks(groups, stacks, receptive), shape, sizes)
    everywhere = itertools.combinations(range(len(shape)), extra) if extra >= 0 else ()
    for places in everywhere if stacks is None else (stacks,) if len(stacks) == extra else ():
        rest = [size for axis, size in enumerate(shape) if axis not in places]
        if all(want is None or want == have for want, have in zip(own, rest, strict=True)):
            return _resolve(_with_stacks(groups, places, receptive) if places else pattern, shape, sizes)
    wanted = ", ".join("?" if size is None else str(size) for size in own)
    raise AxesError(f'shape {shape} does not fit the layer\'s own ({wanted}), pattern "{pattern}".')


def other_placements(
    pattern: str, shape: tuple[int, ...], sizes: tuple[tuple[str, int], ...], receptive: tuple[int, ...] | None
) -> tuple[tuple[tuple[int, ...], Axes], ...]:
    """Return the further places at which stack axes fit a shape, beside the one that `fit` takes, with the axes.

    Args:
        pattern: the pattern of one layer, without stack axes.
        shape: the stored shape.
        sizes: sizes of named axes the layer knows.
        receptive: sizes of its receptive field, where the pattern has one.
    """
    groups = parse(pattern)
    own = own_shape(groups, dict(sizes), receptive)
    extra = len(shape) - len(own)
    if extra <= 0 or ((RECEPTIVE,) in groups and receptive is None):
        return ()
    found = []
    for places in itertools.combinations(range(len(shape)), extra):
        rest = [size for axis, size in enumerate(shape) if axis not in places]
        if all(want is None or want == have for want, have in zip(own, rest, strict=True)):
            with contextlib.suppress(AxesError):  # a merged axis may not divide there
                found.append((places, _resolve(_with_stacks(groups, places, receptive), shape, sizes)))
    return tuple(found[1:])


def own_shape(
    groups: tuple[tuple[str, ...], ...], sizes: Mapping[str, int], receptive: tuple[int, ...] | None
) -> list[int | None]:
    """Return the shape that a layer's own sizes give a parsed pattern, `None` along the axes it does not know."""
    own: list[int | None] = []
    for group in groups:
        if group == (RECEPTIVE,):
            own += receptive or ()
        elif all(name in sizes for name in group):
            own.append(math.prod(sizes[name] for name in group))
        else:
            own.append(None)
    return own


def _with_stacks(
    groups: tuple[tuple[str, ...], ...], places: tuple[int, ...], receptive: tuple[int, ...] | None
) -> str:
    """Write a pattern with stack axes at these places of the stored array."""
    parts: list[str] = []
    for group in groups:
        parts += [RECEPTIVE] * len(receptive or ()) if group == (RECEPTIVE,) else [_write(group)]
    for name, index in zip(STACK_NAMES, places, strict=False):
        parts.insert(index, name)
    written: list[str] = []
    for part in parts:
        if part != RECEPTIVE or written[-1:] != [RECEPTIVE]:
            written.append(part)
    if written.count(RECEPTIVE) > 1:
        raise AxesError(f'a stack axis stands inside the receptive field: "{" ".join(parts)}".')
    return " ".join(written)
