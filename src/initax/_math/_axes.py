"""Patterns such as `"(g o) i ..."`: which axes of an array are inputs, outputs, batch or receptive field.

A pattern and a shape become an immutable `Axes`, cached, which sees no data. Everything else in initax asks it
for fans, the canonical layout and batch entries.
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

from initax._errors import AxesError
from initax._math import _hints
from initax._math._axis_names import RECEPTIVE, STACK_NAMES, Groups, late_side, meaning, written

Array = TypeVar("Array")


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
    def stored_names(self) -> tuple[tuple[str, ...], ...]:
        """The names merged in each axis of the stored array."""
        return _along(parse(self.pattern), len(self.receptive_axis))

    @property
    def stack_axis(self) -> tuple[int, ...]:
        """Axes of the stored array that `vmap` or a scan put there: each entry is a module of its own."""
        return self._stored_axes(lambda names: names[0] in STACK_NAMES)

    @property
    def entry_axis(self) -> tuple[int, ...]:
        """Axes of the stored array along which every entry is a layer of its own, and that hold nothing else."""
        return self._stored_axes(lambda names: all(meaning(name) == "batch" for name in names))

    @property
    def unit_axis(self) -> tuple[int, ...]:
        """Axes of the stored array along which every entry is an output, or one of a group, gate or stack of them."""
        return self._stored_axes(lambda names: all(meaning(name) in ("out", "batch") for name in names))

    def _stored_axes(self, are_chosen: Callable[[tuple[str, ...]], bool]) -> tuple[int, ...]:
        """The axes of the stored array whose names are chosen."""
        return tuple(axis for axis, names in enumerate(self.stored_names) if names and are_chosen(names))

    @property
    def stored_sides(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Axes of the stored array that one output sums over, and those that are outputs; the rest are batch axes.

        `None` where the entries of a stored axis are not all of one kind, as in `(gate o)`.
        """
        sides: dict[str, list[int]] = {"in": [], "out": [], "batch": [], "receptive": []}
        sizes = dict(zip(self.names, self.split, strict=True))
        for axis, names in enumerate(self.stored_names):
            # One group is as good as none.
            kinds = {meaning(name) for name in names if len(names) == 1 or sizes[name] > 1} or {"batch"}
            if len(kinds) > 1:
                return None
            sides[kinds.pop()].append(axis)
        return tuple(sorted(sides["in"] + sides["receptive"])), tuple(sides["out"])

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
        return einops.rearrange(array, f"{stored} -> {canonical}", **self._sizes())

    def from_canonical(self, array: Array) -> Array:
        """Return `array` of shape `(batch entries, *receptive, in, out)` in the stored layout."""
        stored, canonical = self._patterns()
        return einops.rearrange(array, f"{canonical} -> {stored}", **self._sizes())

    def _sizes(self) -> dict[str, int]:
        return {_for_einops(name): size for name, size in zip(self.names, self.split, strict=True) if name != RECEPTIVE}

    def _patterns(self) -> tuple[str, str]:
        """The stored and the canonical layout, as einops reads them."""
        merged = (self.batch_axis, self.in_axis, self.out_axis)
        batch, inputs, outputs = (f"({' '.join(self.names[axis] for axis in axes)})" for axes in merged)
        field = RECEPTIVE if self.receptive_axis else ""
        return _for_einops(self.pattern.replace(RECEPTIVE, field)), _for_einops(f"{batch} {field} {inputs} {outputs}")


_WORD = re.compile(r"[^\W\d]\w*")
_PREFIX = "axis_called_"
"""What stands before a word of Python's, such as `in`, where einops reads it: it warns of these."""


def _for_einops(pattern: str) -> str:
    return _WORD.sub(lambda word: _PREFIX * keyword.iskeyword(word[0]) + word[0], pattern)


def _along(groups: Groups, receptive: int) -> Groups:
    """The names merged in each axis of an array, so many of whose axes are the receptive field."""
    return tuple(group for group in groups for _ in range(receptive if group == (RECEPTIVE,) else 1))


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
    receptive = len(shape) - sum(group != (RECEPTIVE,) for group in groups)
    if receptive < 0 or (receptive and (RECEPTIVE,) not in groups):
        raise AxesError(_hints.wrong_rank(pattern, shape, groups))
    names: list[str] = []
    split: list[int] = []
    for axis, group in enumerate(_along(groups, receptive)):
        names += group
        split += _split_one(pattern, shape, axis, group, known)
    kinds: dict[str, list[int]] = {"in": [], "out": [], "batch": [], "receptive": []}
    for axis, name in enumerate(names):
        kinds[meaning(name)].append(axis)
    field = math.prod(split[axis] for axis in kinds["receptive"])
    return Axes(
        pattern=pattern,
        shape=shape,
        split=tuple(split),
        names=tuple(names),
        in_axis=tuple(kinds["in"]),
        out_axis=tuple(kinds["out"]),
        batch_axis=tuple(kinds["batch"]),
        receptive_axis=tuple(kinds["receptive"]),
        fan_in=math.prod(split[axis] for axis in kinds["in"]) * field,
        fan_out=math.prod(split[axis] for axis in kinds["out"]) * field,
    )


def _split_one(
    pattern: str, shape: tuple[int, ...], axis: int, group: tuple[str, ...], sizes: Mapping[str, int]
) -> list[int]:
    """The sizes of the names merged in one axis."""
    is_known = [name in sizes for name in group]
    product = math.prod(sizes[name] for name in group if name in sizes)
    whole = product == shape[axis] if all(is_known) else product > 0 and shape[axis] % product == 0
    if is_known.count(False) > 1 or not whole:
        raise AxesError(_hints.wrong_split(pattern, shape, axis, group, sizes))
    return [sizes[name] if name in sizes else shape[axis] // product for name in group]


def _refuse_unknown_sizes(pattern: str, groups: Groups, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if not any(name in group for group in groups):
            raise AxesError(_hints.unknown_size(pattern, groups, name))
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise AxesError(f'the size of axis "{name}" must be a whole number, not {size!r}.')


@functools.lru_cache(maxsize=1024)
def parse(pattern: str) -> Groups:
    """Return the pattern's axes, each a tuple of the names merged in it; `("...",)` is the receptive field.

    Raises:
        AxesError: `pattern` is not a string, is malformed, repeats a name, or names a receptive axis.
    """
    if not isinstance(pattern, str):
        raise AxesError(f'an axis pattern is a string such as "o i", not {pattern!r}.')
    if "?" in pattern:
        raise AxesError(
            f'axis pattern "{pattern}" leaves an axis open.',
            'write "i" for an axis one output sums over, "o" for outputs, '
            '"..." for the receptive field of a convolution,',
            'and any other name for a batch axis: "i o1 o2" for heads, "expert i o"',
        )
    try:
        expression = ParsedExpression(_for_einops(pattern))
    except Exception as error:  # einops raises EinopsError, and plain ones for a few malformed expressions
        why, line = str(error).replace(_PREFIX, ""), 'write it as in "o i", "(g o) i ..." or "... i o"'
        raise AxesError(f'axis pattern "{pattern}" is malformed: {why}', line) from None
    if expression.has_ellipsis_parenthesized:
        raise AxesError(f'axis pattern "{pattern}" has "..." inside parentheses.', 'write "..." on its own')
    groups = tuple(
        (RECEPTIVE,) if isinstance(axis, str) else tuple(str(name).removeprefix(_PREFIX) for name in axis)
        for axis in expression.composition
    )
    names = [name for group in groups for name in group]
    wrong = next(filter(None, (_hints.wrong_name(pattern, groups, name) for name in names)), None)
    if wrong is not None:
        raise AxesError(wrong)
    if any(map(late_side, names)):
        raise AxesError(_hints.without_sides(pattern, groups))
    return groups


def names_in(pattern: str) -> frozenset[str]:
    """Return the names of a pattern's axes."""
    return frozenset(name for group in parse(pattern) for name in group)


def refuse_unsided(pattern: str) -> None:
    """Raise where a weight's pattern names no input, no output and no receptive field: every entry were a layer.

    Raises:
        AxesError: it names none.
    """
    if parse(pattern) and all(meaning(name) == "batch" for name in names_in(pattern)):
        raise AxesError(_hints.without_sides(pattern, parse(pattern)))


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
    layer_shape = own_shape(groups, dict(sizes), receptive)
    extra = len(shape) - len(layer_shape)
    if (RECEPTIVE,) in groups and receptive is None and extra >= 0:
        if not stacks:
            return _resolve(pattern, shape, sizes)
        return _resolve(_with_stacks(groups, stacks, extra - len(stacks)), shape, sizes)
    for axes in _placements(layer_shape, shape):
        if stacks is None or axes == stacks:
            return _resolve(_with_stacks(groups, axes, len(receptive or ())) if axes else pattern, shape, sizes)
    text = ", ".join("?" if size is None else str(size) for size in layer_shape)
    raise AxesError(f'shape {shape} does not fit the layer\'s own ({text}), pattern "{pattern}".')


def placements_of(
    pattern: str, shape: tuple[int, ...], sizes: tuple[tuple[str, int], ...], receptive: tuple[int, ...] | None
) -> dict[tuple[int, ...], Axes]:
    """Return every place at which stack axes fit a shape, the one that `fit` takes first, and the axes that each gives.

    Args:
        pattern: the pattern of one layer, without stack axes.
        shape: the stored shape.
        sizes: sizes of named axes the layer knows.
        receptive: sizes of its receptive field, where the pattern has one.
    """
    groups = parse(pattern)
    if (RECEPTIVE,) in groups and receptive is None:
        return {}
    found = {}
    for axes in _placements(own_shape(groups, dict(sizes), receptive), shape):
        with contextlib.suppress(AxesError):  # a merged axis may not divide there
            found[axes] = _resolve(_with_stacks(groups, axes, len(receptive or ())), shape, sizes)
    return found


def _placements(layer_shape: Sequence[int | None], shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the axes of a shape that can be stack axes because the others have a layer's own sizes."""
    extra = len(shape) - len(layer_shape)
    for axes in itertools.combinations(range(len(shape)), extra) if extra >= 0 else ():
        rest = [size for axis, size in enumerate(shape) if axis not in axes]
        if all(size is None or size == stored for size, stored in zip(layer_shape, rest, strict=True)):
            yield axes


def own_shape(groups: Groups, sizes: Mapping[str, int], receptive: tuple[int, ...] | None) -> list[int | None]:
    """Return the shape that a layer's own sizes give a parsed pattern, `None` along the axes it does not know."""
    sizes_of_axes: list[int | None] = []
    for group in groups:
        if group == (RECEPTIVE,):
            sizes_of_axes += receptive or ()
        elif all(name in sizes for name in group):
            sizes_of_axes.append(math.prod(sizes[name] for name in group))
        else:
            sizes_of_axes.append(None)
    return sizes_of_axes


def _with_stacks(groups: Groups, stacks: tuple[int, ...], receptive: int) -> str:
    """Write a pattern with stack axes at these axes of the stored array, so many of which are the receptive field."""
    axes = list(_along(groups, receptive))
    for name, axis in zip(STACK_NAMES, stacks, strict=False):
        axes.insert(axis, (name,))
    field = (RECEPTIVE,)
    once = [axis for before, axis in itertools.pairwise(((), *axes)) if (before, axis) != (field, field)]
    if once.count(field) > 1:
        raise AxesError(f'a stack axis stands inside the receptive field: "{written(axes)}".')
    return written(once)
