"""Which entries of an array its uses take: parts of unequal size, single rows, padding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

import numpy as np

from initax._trace._factors import LARGEST, Factor, Index, Mask, Slot, digits, length
from initax._trace._sums import as_inputs, sums
from initax._trace._uses import INPUTS, Part, Parts, Use
from initax._trace._views import View


def taken(view: View, axis: int, size: int) -> Mask:
    """Return the entries of a stored axis of which a view holds any part.

    Args:
        view: the view.
        axis: the stored axis.
        size: its size.
    """
    entries = np.arange(size)
    mask = np.ones(size, bool)
    for factor, digit in view.fixed:
        if factor.axis == axis:
            mask &= entries // factor.inner % factor.size == digit
    for slot in view.slots:
        factors = [factor for factor in slot.factors if factor.axis == axis]
        if factors:
            indices = sum(entries // factor.inner % factor.size * factor.inner for factor in factors)
            mask &= np.isin(indices, along(slot, axis))
    return mask


def along(slot: Slot, axis: int) -> Index:
    """Return for each entry in a slot its index along a stored axis, by the factors of that axis in the slot."""
    pairs = zip(slot.factors, digits(slot.known, slot.factors), strict=True)
    return sum((digit * factor.inner for factor, digit in pairs if factor.axis == axis), np.zeros_like(slot.known))


def refused(use: Use) -> str:
    """Return why the fans of the entries that a use takes are not defined; empty where they are."""
    for step in use.view.steps:
        entries = step.entries() if any(isinstance(factor, Slot) for factor in step.axis) else None
        if entries is not None and (entries < 0).all():
            return "a loop takes no entry of it"
    for slot in use.view.slots:
        axes = sorted({factor.axis for factor in slot.factors})
        if slot.partial and len(slot.known) < math.prod(len(np.unique(along(slot, axis))) for axis in axes):
            total = length(slot.factors)
            return f"{len(slot.known)} of the {total} entries of its axes {_words(axes)} are picked one by one"
    return ""


def inputs(shape: Sequence[int], uses: Sequence[Use]) -> dict[int, str]:
    """Return input axis of which parts are used one by one → why that can't be read; empty where it can.

    It can where the outputs of all parts are added up: then they are one axis.

    Args:
        shape: the stored shape of the array.
        uses: its uses.
    """
    reasons: dict[int, str] = {}
    for axis, size in enumerate(shape):
        cut = [use for use in uses if _is_cut(use, axis) and _parts(use, axis) & INPUTS]
        if not cut or not all(link.plain for use in uses for link in use.view.links):
            continue
        masks = {use.number: taken(use.view, axis, size) for use in uses}
        unused_entries = ~np.any([*masks.values()], axis=0)
        if any(_parts(use, axis) - INPUTS for use in cut):
            reasons[axis] = f"parts of its axis {axis}, which is not only an input, are used one by one"
        elif unused_entries.any():
            reasons[axis] = _not_used(unused_entries, f"its axis {axis}, over which it is summed,")
        elif any((np.sum([masks[use.number] for use in added], axis=0) != 1).any() for added in sums(uses)):
            reasons[axis] = "parts of it along an input axis are used one by one"
        else:
            reasons[axis] = ""
    return reasons


def shares(uses: Sequence[Use]) -> dict[int, float]:
    """Return the fraction of the fan_in of an array that each use sums over, by the number of the use.

    It is less than one where outputs of parts, or of entries of a stack, are added up later.

    Args:
        uses: the uses of the array.
    """
    joined = as_inputs(uses)
    return {use.number: _share(use) for use in (uses if isinstance(joined, str) else joined)}


def _share(use: Use) -> float:
    """Return the fraction of the fan_in of its array that a use sums over."""
    if use.is_of_a_constant or use.view.links:
        return 1.0
    later = (factor for factor, part in use.parts.items() if part in INPUTS and factor not in use.inside)
    share = 1 / length(later)
    for factor, _ in use.view.fixed:
        is_summed_over = use.parts.get(factor) != "in" and _parts(use, factor.axis) & INPUTS
        share /= factor.size if is_summed_over else 1
    for slot in use.view.slots:
        if any(_parts(use, factor.axis) & INPUTS for factor in slot.factors):
            share *= len(slot.known) / length(slot.factors)
    return share


def with_whole_axes(shape: Sequence[int], uses: Sequence[Use], used_in_parts: Container[int]) -> list[Use]:
    """Return the uses as uses of whole axes where they take parts of an axis that all do the same.

    Args:
        shape: the stored shape of the array.
        uses: its uses.
        used_in_parts: its input axes of which parts are used one by one, and added up.
    """
    whole = list(uses)
    for axis, size in enumerate(shape):
        if axis in used_in_parts:
            whole = [_with_whole(use, Factor(axis, 1, size), "in") for use in whole]
            continue
        common = set.intersection(*(_fixed(use, axis) for use in uses))
        if not any(_takes_uneven(use, axis) or _fixed(use, axis) != common for use in uses):
            continue
        inner = min((factor.inner for factor in common), default=size)
        parts = {part for use in uses for part in _parts(use, axis)}
        if parts & INPUTS and not all(_parts(use, axis) for use in uses):
            continue  # one use sums over it, and another takes one entry of it
        # Outer factors of which all uses take one entry, such as layers of a stack, stay as they are.
        if len(parts) == 1 and inner * length(common) == size:
            whole = [_with_whole(use, Factor(axis, 1, inner), next(iter(parts))) for use in whole]
    return whole


def uneven(shape: Sequence[int], uses: Sequence[Use], used_in_parts: Container[int]) -> list[int]:
    """Return the output axes of which the uses take parts of unequal size.

    Args:
        shape: the stored shape of the array.
        uses: its uses.
        used_in_parts: its input axes of which parts are used one by one, and added up.
    """
    return [
        axis
        for axis in _cut(shape, uses)
        if axis not in used_in_parts
        and any(_takes_uneven(use, axis) for use in uses)
        and all(_parts(use, axis) <= {"out"} for use in uses)
        and len({taken(use.view, axis, shape[axis]).tobytes() for use in uses}) > 1
    ]


def _takes_uneven(use: Use, axis: int) -> bool:
    """Return whether a use takes entries of a stored axis that are not one of equal parts of it."""
    return any(slot.partial and any(f.axis == axis and f.size > 1 for f in slot.factors) for slot in use.view.slots)


def _fixed(use: Use, axis: int) -> set[Factor]:
    """Return the factors of a stored axis of which a use takes one entry."""
    return {factor for factor, _ in use.view.fixed if factor.axis == axis and factor.size > 1}


def _parts(use: Use, axis: int) -> set[Part]:
    """Return what a use does with an axis, without the factors of which it takes one entry."""
    fixed = _fixed(use, axis)
    return {part for f, part in use.parts.items() if f.axis == axis and f.size > 1 and f not in fixed}


def _with_whole(use: Use, whole: Factor, part: Part) -> Use:
    """Return a use with one factor instead of all factors inside of it.

    Args:
        use: the use.
        whole: the factor, which is the innermost one of its axis.
        part: what it does.
    """

    def is_outside(factor: Factor) -> bool:
        return factor.axis != whole.axis or factor.inner >= whole.size

    outer: Parts = {factor: role for factor, role in use.parts.items() if is_outside(factor)}
    entries = {entry for entry in use.outputs.entries if is_outside(entry[0])}
    members = {factor for factor in use.outputs.members if is_outside(factor)}
    return replace(use, parts={**outer, whole: part}, outputs=replace(use.outputs, entries=entries, members=members))


def apart(shape: Sequence[int], uses: Sequence[Use]) -> bool:
    """Return whether there are several uses and they take different entries along some axis."""
    for axis in _cut(shape, uses):
        masks = [taken(use.view, axis, shape[axis]) for use in uses]
        if len(uses) > 1 and int(np.max(np.sum(masks, axis=0))) == 1:
            return True
    return False


def unused(shape: Sequence[int], uses: Sequence[Use]) -> list[str]:
    """Return, in words, the entries along each axis that no use takes."""
    notes = []
    for axis in _cut(shape, uses):
        entries = ~np.any([taken(use.view, axis, shape[axis]) for use in uses], axis=0)
        if entries.any():
            notes.append(_not_used(entries, f"its axis {axis}"))
    return notes


def _cut(shape: Sequence[int], uses: Sequence[Use]) -> list[int]:
    """Return the axes of which every use takes a part."""
    return [axis for axis, size in enumerate(shape) if size <= LARGEST and all(_is_cut(use, axis) for use in uses)]


def _is_cut(use: Use, axis: int) -> bool:
    """Return whether a use takes a part of a stored axis."""
    return _takes_uneven(use, axis) or bool(_fixed(use, axis))


def _not_used(mask: Mask, axis: str) -> str:
    """Return in words which entries are not used: `entries 0 to 2 and 5 of its axis 1 are not used`."""
    groups = itertools.groupby(enumerate(np.flatnonzero(mask).tolist()), key=lambda pair: pair[1] - pair[0])
    runs = [[entry for _, entry in group] for _, group in groups]
    spans = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    entries = _words(spans if len(spans) < 5 else [*spans[:3], "others"])
    return f"entry {entries} of {axis} is not used" if mask.sum() == 1 else f"entries {entries} of {axis} are not used"


def _words(items: Iterable[object]) -> str:
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}" if first else last
