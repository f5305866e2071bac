"""Hints for errors about axis patterns: what is wrong with a pattern, and the pattern that may be meant."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from initax._errors import alternatives, listing, message
from initax._math._axis_names import RECEPTIVE, RESERVED, SIDED, Groups, late_side, meaning, written


def wrong_name(pattern: str, groups: Groups, name: str) -> str:
    """Return the message for a name that would be read as something else than it says; nothing of any other name.

    Args:
        pattern: the pattern.
        groups: its axes.
        name: a name in it.
    """
    if name.lower() in RESERVED:
        return message(
            f'axis pattern "{pattern}" names the axis "{name}".',
            'axes of a receptive field are written "..."; any other name is a batch axis, outside the fans',
            _without_reserved(groups),
        )
    if name != RECEPTIVE and not name.isidentifier():
        return message(
            f'axis pattern "{pattern}" has a number for an axis.',
            'axes have names, "stack o i"; their sizes are read off the array, or given: sizes={"stack": 3}',
        )
    letter = name[0].lower()
    if letter in "io" and not SIDED.fullmatch(name):
        side = "inputs" if letter == "i" else "outputs"
        return message(
            f'axis pattern "{pattern}" names the axis "{name}", and names with "{letter}" are for {side}.',
            f'if it is one, write "{letter}" or "{letter}1"; a batch axis needs another first letter',
        )
    return ""


def _without_reserved(groups: Groups) -> str:
    """The pattern of a convolution, and where only `h` is reserved, those of heads."""
    is_reserved = [any(name.lower() in RESERVED for name in group) for group in groups]
    shown = [(RECEPTIVE,) if reserved else group for group, reserved in zip(groups, is_reserved, strict=True)]
    line = f'write "{written(group for group, _ in itertools.groupby(shown))}"'
    if [name.lower() for group in groups for name in group if name.lower() in RESERVED] == ["h"]:
        return f'{line} for a convolution; heads are outputs, "i o1 o2", or inputs, "i1 i2 o"'
    return f"{line}, or give a batch axis another name"


def without_sides(pattern: str, groups: Groups) -> str:
    """Return the message for a pattern whose inputs or outputs have names that begin with other letters."""
    names = [name for group in groups for name in group]
    sides = [meaning(name) for name in names]
    lacks = " and ".join(f"no {word} axis" for word, side in (("input", "in"), ("output", "out")) if side not in sides)
    batch = [name for name, side in zip(names, sides, strict=True) if side == "batch"]
    meant = [late_side(name) or name for name in names]
    counters = {letter: itertools.count(1) for letter in "io" if meant.count(letter) > 1}
    numbered = iter(f"{name}{next(counters[name])}" if name in counters else name for name in meant)
    line = written(tuple(next(numbered) for _ in group) for group in groups)
    if meant == names:
        line = 'i o", or, with outputs stored first, "o i' if len(names) == 2 else "o"
    return message(
        f'axis pattern "{pattern}" has {lacks or "both an input and an output axis"}: '
        + listing(f'"{name}"' for name in batch)
        + (" are batch axes." if len(batch) > 1 else " is a batch axis."),
        'names of inputs begin with "i", those of outputs with "o"; any other is outside the fans',
        f'write "{line}"',
    )


def wrong_split(
    pattern: str, shape: tuple[int, ...], axis: int, group: tuple[str, ...], sizes: Mapping[str, int]
) -> str:
    """Return the message for a merged axis that its named sizes do not divide, or do not tell apart.

    Args:
        pattern: the pattern.
        shape: shape of the array.
        axis: the axis.
        group: the names merged in it.
        sizes: the sizes that are known.
    """
    axis_text = f'axis {axis} of shape {shape}, "{written([group])}" in pattern "{pattern}",'
    open_names = [name for name in group if name not in sizes]
    if len(open_names) > 1:
        return message(
            f"{axis_text} can't be told apart.",
            f"its size {shape[axis]} is the product of {listing(group)}",
            f'give all but one: sizes={{"{open_names[0]}": ...}}',
        )
    product = math.prod(sizes[name] for name in group if name in sizes)
    wrong = f"which {product} does not divide" if open_names else f"not {product}"
    return message(f"{axis_text} has size {shape[axis]}, {wrong}.", f"sizes given: {dict(sizes)}")


def unknown_size(pattern: str, groups: Groups, name: str) -> str:
    """Return the message for a size for an axis that a pattern does not have."""
    names = [known for group in groups for known in group if known != RECEPTIVE]
    head = f'sizes name the axis "{name}", which pattern "{pattern}" does not have.'
    return message(head, *alternatives("axes", name, names))


def wrong_rank(pattern: str, shape: tuple[int, ...], groups: Groups) -> str:
    """Return the message for a pattern that has another number of axes than the array."""
    fixed = sum(group != (RECEPTIVE,) for group in groups)
    least = "at least " if fixed < len(groups) else ""
    head = f'pattern "{pattern}" has {least}{fixed} axes, the array of shape {shape} has {len(shape)}.'
    if least or len(shape) < fixed:
        return head
    return message(head, f'a receptive field is written "...": "{pattern} ..."; a stack is named: "stack {pattern}"')
