"""Sums of outputs: a batch axis is an input axis where the outputs of all its entries are added up."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initax._trace._factors import FOREIGN, Factor, Slot, length, other_axes, pieces_of, stands, unlike, without
from initax._trace._jaxpr import Place
from initax._trace._loops import Loop
from initax._trace._uses import CONTRACTIONS, INPUTS, Part, Parts, Taken, Use, Uses, Value, assign
from initax._trace._views import Step, View

SUMS = frozenset({"add", "add_any", "scatter-add"})
SHARED = "outputs of its entries are added up, and used one by one"
ENTRIES_SUMMED = "outputs of different entries of it are added up"
SOME_SUMMED = "outputs of some of its entries are added up, of others they are not"
SCALE_SUMMED = "it scales the signal, which is then summed: a scale or a weight"
SUMMED = "its products with the signal are added up: a scale or a weight"


def note_shared(left: Value, right: Value, uses: Uses, line: str) -> None:
    """Note that outputs of one parameter are added up, some of which are used elsewhere, too."""
    for first, second in _twins(left.outputs, right.outputs, uses):
        if not _of_same_entries(first, second, uses):
            _halt((first, second), SHARED, uses, line)


def _halt(views: Iterable[View], reason: str, uses: Uses, line: str) -> None:
    """Note why the uses that made some outputs can't be read."""
    for view in views:
        uses.of(view).halt(reason, line)


def note_sums(left: Value, right: Value, uses: Uses, line: str) -> None:
    """Note that outputs of one parameter, made by different uses, are added up.

    Uses that follow each other, as in a residual stream, are separate layers, and nothing is noted.

    Args:
        left: one signal.
        right: the other.
        uses: the uses so far.
        line: the line.
    """
    views, others = ((*value.outputs, *value.joined, *value.products) for value in (left, right))
    for first, second in _twins(views, others, uses):
        note_sum(first, second, uses, line)


def note_sum(first: View, second: View, uses: Uses, line: str) -> None:
    """Note that the outputs of two uses of a parameter are added up, where they have entries in common."""
    axes = zip(first.axes, second.axes, strict=True)
    if not all((stands(axis) & stands(other)).any() for axis, other in axes):
        return
    use, other_use = uses.of(first), uses.of(second)
    if use.what == "scale":
        # A scale may be added to itself entry by entry, and so may its products with other signals.
        if _of_same_entries(first, second, uses):
            return
        if use is not other_use and use.signal == other_use.signal and first.axes == second.axes:
            _add(first, second, uses)  # a convolution, window by window
        else:
            _halt((first, second), SUMMED, uses, line)
    elif first.axes == second.axes:
        _add(first, second, uses)
    elif first.slots or second.slots:
        _halt((first, second), ENTRIES_SUMMED, uses, line)


def _add(first: View, second: View, uses: Uses) -> None:
    """Note that two parts of outputs are added up, entry by entry."""
    part, other_part = ((view.use, _members(view, uses)) for view in (first, second))
    uses.of(first).outputs.added_to.add((part, other_part))
    uses.of(second).outputs.added_to.add((other_part, part))


def _of_same_entries(first: View, second: View, uses: Uses) -> bool:
    """Return whether two parts of outputs are the same part, of the same entries of a parameter."""
    return first.fixed == second.fixed and uses.of(first).view.fixed == uses.of(second).view.fixed


def _twins(left: Sequence[View], right: Sequence[View], uses: Uses) -> list[tuple[View, View]]:
    """Return pairs of outputs of one parameter, neither of which depends on the other.

    They are of different uses, or of different members of a stack in one use.
    """
    return [
        (first, second)
        for first in left
        for second in right
        if first.param == second.param
        if first.use != second.use or _is_sum_of_parts(first, second, uses.of(first))
        if uses.of(first).what == "scale" or not (first.scaled or second.scaled)
        if not uses.depends(first.use, second.use) and not uses.depends(second.use, first.use)
    ]


def _is_sum_of_parts(first: View, second: View, use: Use) -> bool:
    """Return whether two parts of the outputs of one use are of different members of a stack, or entries of a scale."""
    parts = _differ(first, second, use)
    if use.what == "scale":
        return bool(parts)
    return parts == {"batch"} or (not parts and first.axes != second.axes and _is_moved(first, second, use))


def _is_moved(first: View, second: View, use: Use) -> bool:
    """Return whether two copies of the outputs of a use hold members of a stack at different indices."""
    return any(
        isinstance(factor, Slot) and any(use.parts.get(piece) == "batch" for piece in factor.factors)
        for axis, other in zip(first.axes, second.axes, strict=True)
        for factor in (*axis, *other)
        if axis != other
    )


def _members(output: View, uses: Uses) -> frozenset[tuple[Factor, int]]:
    """Return the factors of a stack of which outputs hold one entry, and which."""
    use = uses.of(output)
    return frozenset(
        (factor, digit)
        for factor, digit in output.fixed
        if all(use.parts.get(piece) == "batch" for piece in _pieces(factor, use))
    )


def _differ(first: View, second: View, use: Use) -> set[Part | None]:
    """Return what those factors do of which two parts of the outputs of a use hold different entries."""
    return {use.parts.get(piece) for factor in unlike(first.fixed, second.fixed) for piece in _pieces(factor, use)}


def scaled_by_sum(left: Value, right: Value, uses: Uses) -> tuple[Value, Value]:
    """Return two signals that are added up, with outputs marked as scaled of which the sum is a signal of its own.

    These are different outputs of one weight that are added up, and outputs of which the other signal is a function.
    """
    scaled: set[View] = set()
    for view, twin in itertools.product(left.outputs, right.outputs):
        if view.use == twin.use and _differ(view, twin, uses.of(view)) - {"batch"}:
            scaled |= {view, twin}
    for value, other in ((left, right), (right, left)):
        same = {view.use for view in (*other.outputs, *other.joined) if not view.scaled}
        scaled |= {view for view in value.outputs if view.use not in same and other.behind & uses.bit(view.use)}
    if not scaled:
        return left, right
    marked = [
        replace(value, outputs=tuple(replace(view, scaled=view.scaled or view in scaled) for view in value.outputs))
        for value in (left, right)
    ]
    return marked[0], marked[1]


def sums(uses: Sequence[Use]) -> list[list[Use]]:
    """Return the uses in groups; the outputs of each group are added up."""
    numbers = [{number for number, _ in group} for group in _groups(uses)]
    return [[use for use in uses if use.number in group] for group in numbers]


def _groups(uses: Sequence[Use]) -> list[set[Taken]]:
    """Return parts of the outputs of uses in groups; those of each group are added up."""
    groups: list[set[Taken]] = []
    for use in uses:
        whole: Taken = (use.number, frozenset())
        pairs: Iterable[tuple[Taken, ...]] = use.outputs.added_to or [(whole,)]
        for pair in pairs:
            touching = [group for group in groups if not group.isdisjoint(pair)]
            groups = [group for group in groups if group not in touching]
            groups.append(set(pair).union(*touching))
    return groups


def as_inputs(uses: Sequence[Use]) -> list[Use] | str:
    """Return the uses with batch axes as inputs where the outputs of their entries are added up.

    Args:
        uses: the uses of one parameter.

    Returns:
        The uses, or why the sums of their outputs can't be read.
    """
    every_group = _groups(uses)
    groups = [group for group in every_group if len(group) > 1]
    if not groups:
        return list(uses)
    by_number = {use.number: use for use in uses}
    # Part of the outputs → the entries of factors that it is of, of the weight and of the outputs.
    fixed = {
        part: {**dict(by_number[part[0]].view.fixed), **dict(part[1])}
        for group in every_group
        for part in group
        if part[0] in by_number
    }
    inputs: set[Factor] = set()
    for factor in set.intersection(*map(set, fixed.values())):
        parts = [use.parts.get(piece) for use in uses for piece in _pieces(factor, use)]
        if factor.size == 1 or any(part != "batch" for part in parts):
            continue
        for group in groups:
            digits: dict[object, list[int]] = {}
            for part in group & fixed.keys():
                others = tuple(sorted((other, digit) for other, digit in fixed[part].items() if other != factor))
                digits.setdefault(others, []).append(fixed[part][factor])
            if all(sorted(indices) == list(range(factor.size)) for indices in digits.values()):
                inputs.add(factor)
            elif any(len(set(indices)) > 1 for indices in digits.values()):
                return SOME_SUMMED
    if inputs and len(groups) < len(every_group):
        return SOME_SUMMED
    others_fixed = {
        part: frozenset(entry for entry in entries.items() if entry[0] not in inputs) for part, entries in fixed.items()
    }
    is_mixed = any(len({others_fixed[part] for part in group & fixed.keys()}) > 1 for group in groups)
    if is_mixed and not _is_cut_inside(uses):
        return ENTRIES_SUMMED
    return [_with_inputs(use, inputs) for use in uses]


def _is_cut_inside(uses: Sequence[Use]) -> bool:
    """Return whether the uses take parts of an input axis."""
    inputs = {factor.axis for use in uses for factor, part in use.parts.items() if part in INPUTS}
    return any(factor.axis in inputs for use in uses for factor, _ in use.view.fixed)


def _with_inputs(use: Use, inputs: set[Factor]) -> Use:
    """Return a use with some batch factors as inputs, or as a window of the signal where it is a scale."""
    part: Part = "field" if use.what == "scale" else "in"
    pieces: Parts = {piece: part for factor in inputs for piece in _pieces(factor, use)}
    return _as_weight(replace(use, parts={**use.parts, **pieces})) if pieces else use


def _as_weight(use: Use) -> Use:
    """Return a scale whose products are added up as a weight; its axes in common with the signal are batch axes."""
    if use.what != "scale":
        return use
    parts: Parts = {factor: "batch" if part == "along" else part for factor, part in use.parts.items()}
    return replace(use, what="weight", parts=parts)


def summed(view: View, axes: Sequence[int], uses: Uses, line: str) -> View | None:
    """Follow outputs through a sum over axes: a batch axis that is summed over is an input axis.

    Args:
        view: the outputs.
        axes: the axes of the value that are summed over.
        uses: the uses so far.
        line: the line.

    Returns:
        The outputs after the sum, `None` where they are not outputs of one weight any more.
    """
    use, kept = uses.of(view), without(view.axes, *axes)
    pieces = _pieces_along(view, axes, use)
    if use.what == "scale" and any(use.parts.get(piece) != "batch" for piece in pieces):
        use.halt(SCALE_SUMMED, line)
        return None
    if use.is_of_a_constant:
        return replace(view, axes=kept, scaled=True)
    if view.scaled or use.what not in (*CONTRACTIONS, "scale") or (use.what == "scale" and pieces):
        return None
    if not pieces:
        return replace(view, axes=kept)  # a sum over axes of the signal, for example over tokens
    parts = {use.parts.get(piece) for piece in pieces}
    if "batch" not in parts:
        return None
    if parts != {"batch"} or any(factor.axis < FOREIGN for axis in axes for factor in view.axes[axis]):
        use.halt(ENTRIES_SUMMED, line)
        return None
    use.parts |= dict.fromkeys(pieces, "in")
    return replace(view, axes=kept)


def note_mixed(views: Sequence[View], axes: Sequence[int], uses: Uses, line: str, reason: str = ENTRIES_SUMMED) -> None:
    """Note that members of stacks are mixed otherwise than by a sum over all of them.

    Args:
        views: the outputs that hold them.
        axes: the axes along which they are mixed.
        uses: the uses so far.
        line: the line.
        reason: why they can't be read then.
    """
    for view in views:
        use = uses.of(view)
        pieces = _pieces_along(view, axes, use)
        if not view.scaled and any(use.parts.get(piece) == "batch" for piece in pieces):
            use.halt(reason, line)


def joined_summed(views: Sequence[View], axes: Sequence[int], uses: Uses, line: str) -> tuple[list[View], list[View]]:
    """Follow outputs that are joined along an axis through a sum over axes.

    Args:
        views: the outputs.
        axes: the axes of the value that are summed over.
        uses: the uses so far.
        line: the line.

    Returns:
        Those that are still joined with other values, and those that are not any more.
    """
    sums = [after for view in views if (after := summed(view, axes, uses, line)) is not None]
    for index, view in enumerate(sums):
        for first, second in _twins([view], sums[index + 1 :], uses):
            note_sum(first, second, uses, line)
    return [view for view in sums if view.slots], [view for view in sums if not view.slots]


def summed_product(view: View, axes: Sequence[int], uses: Uses, line: str) -> View | None:
    """Follow a product with the signal through a sum over axes: a contraction, written out.

    Args:
        view: the product.
        axes: the axes of the value that are summed over.
        uses: the uses so far.
        line: the line.

    Returns:
        The outputs, `None` where the parameter is not a weight but a scale.
    """
    use = uses.of(view)
    factors = _factors_along(view, axes)
    if not factors or use.what != "scale":
        return None
    if view.scaled:
        if use.outputs.added_to:  # windows of a convolution, whose channels are added up
            use.halt(SCALE_SUMMED, line)
        return None
    kept = other_axes(len(view.axes), axes)
    if not any(use.parts.get(factor) == "out" for factor in _factors_along(view, kept)):
        use.halt(SCALE_SUMMED, line)
        return None
    assign(use.parts, factors, "in")
    weight = _as_weight(use)
    use.parts, use.what = weight.parts, weight.what
    return replace(view, axes=without(view.axes, *axes))


def _factors_along(view: View, axes: Iterable[int]) -> list[Factor]:
    """Return the factors of a parameter along some axes, without those of size one."""
    return [factor for factor in view.along(*axes) if factor.size > 1]


def _pieces_along(view: View, axes: Iterable[int], use: Use) -> list[Factor]:
    """Return the factors of a parameter along some axes, as a use splits them."""
    return [piece for factor in _factors_along(view, axes) for piece in _pieces(factor, use)]


def _pieces(factor: Factor, use: Use) -> list[Factor]:
    """Return the factors into which a use splits a factor, after splitting a batch factor around it at its borders."""
    for whole, part in list(use.parts.items()):
        is_around = factor.is_inside(whole) and whole != factor
        if part == "batch" and is_around and factor.inner % whole.inner == 0 and whole.end % factor.end == 0:
            del use.parts[whole]
            inner = Factor(whole.axis, whole.inner, factor.inner // whole.inner)
            for piece in (Factor(whole.axis, factor.end, whole.end // factor.end), factor, inner):
                if piece.size > 1:
                    use.parts[piece] = part
    return pieces_of(factor, use.parts)


def accumulated(loop: Loop[Value], results: Sequence[Value], uses: Uses, line: str) -> list[Value]:
    """Return the outputs and the products in each carried value after a loop.

    An axis of which each step takes an entry is an input axis where the loop adds up the outputs.

    Args:
        loop: the current loop.
        results: the results of a step, carried values first.
        uses: the uses so far.
        line: the line.
    """
    totals: list[Value] = []
    for (start, end), first, step in zip(loop.carried_vars, loop.carry, results[: len(loop.carry)], strict=True):
        joined = tuple(after_loop(view, uses) for view in step.joined)
        if not _is_accumulated(loop.jaxpr, start, end):
            _note_added_to_state(step, uses, line)
            totals.append(Value(shape=step.shape, joined=joined))
            continue
        is_collected = any(var is start for var in loop.jaxpr.outvars)
        outputs, products = (
            (*before, *(_over_steps(view, uses, is_collected) for view in views))
            for before, views in ((first.outputs, step.outputs), (first.products, step.products))
        )
        products = tuple(replace(view, scaled=view.scaled and first.data) for view in products)
        note_sums(first, step, uses, line)
        joined_summed(step.joined, (), uses, line)
        totals.append(Value(shape=step.shape, outputs=outputs, products=products, joined=joined))
    return totals


def _note_added_to_state(result: Value, uses: Uses, line: str) -> None:
    """Note outputs that don't depend on the state of the loop, and that each step adds to a function of the state."""
    state = uses.loop_bit(uses.place)
    for view in result.outputs:
        use = uses.of(view)
        if not result.behind & state or use.behind & state or view.scaled:
            continue
        factors = [factor for step in taken_steps(view, uses, uses.place) for factor in step.factors]
        pieces = [piece for factor in factors for piece in _pieces(factor, use)]
        if any(use.parts.get(piece) == "batch" and piece.size > 1 for piece in pieces):
            use.halt(ENTRIES_SUMMED, line)


def _over_steps(output: View, uses: Uses, is_collected: bool) -> View:
    """Return outputs after a loop that adds them up; sums over members of a stack are noted.

    Args:
        output: the outputs of one step.
        uses: the uses so far, at the loop.
        is_collected: whether the sums before the last step are used, too.
    """
    use = uses.of(output)
    scaled = output.scaled
    # Products with a scale are marked as scaled wherever they are added to another signal.
    for step in taken_steps(output, uses, uses.place) if not scaled or use.what == "scale" else ():
        pieces = [piece for factor in step.factors for piece in _pieces(factor, use) if piece.size > 1]
        batch = [piece for piece in pieces if use.parts.get(piece) == "batch"]
        if len(batch) < len(pieces):
            scaled = True
            if use.what == "scale":
                use.halt(SCALE_SUMMED, use.line)
        if not batch:
            continue
        entries = step.entries()
        if entries is None or not np.array_equal(np.sort(entries), np.arange(length(step.factors))):
            use.halt(SOME_SUMMED, use.line)
        elif use.what == "scale":
            use.halt(SUMMED, use.line)
        elif use.what in CONTRACTIONS and (scaled or is_collected):
            use.halt(ENTRIES_SUMMED, use.line)  # different outputs are added up, or the sums are used one by one, too
        elif use.what in CONTRACTIONS:
            use.parts |= dict.fromkeys(batch, "in")
    return replace(after_loop(output, uses), scaled=scaled)


def taken_steps(output: View, uses: Uses, loop: Place) -> list[Step]:
    """Return the axes of which a loop takes entries: of the weight, or of its outputs where these are from outside.

    Args:
        output: the outputs of one step.
        uses: the uses so far.
        loop: the loop.
    """
    use = uses.of(output)
    view = use.view if use.place[: len(loop)] == loop else output
    return [step for step in view.steps if (step.is_in(loop) if step.loop is None else step.loop == loop)]


def after_loop(output: View, uses: Uses) -> View:
    """Return outputs of a step of the current loop as they are after it, without the steps that take entries."""
    factors = [factor for step in output.steps if step.is_in(uses.place) for factor in step.factors]
    batch = tuple(factor for factor in output.batch if factor not in factors)
    return replace(output, batch=batch, steps=tuple(step for step in output.steps if not step.is_in(uses.place)))


def _is_accumulated(jaxpr: Any, start: Any, end: Any) -> bool:
    """Return whether a loop only adds to a carried value, and uses it for nothing but its results."""
    is_added_to, var = False, start
    while var is not end:
        readers = [eqn for eqn in jaxpr.eqns if any(atom is var for atom in eqn.invars)]
        if len(readers) != 1:
            return False
        (eqn,) = readers
        if eqn.primitive.name not in SUMS or sum(atom is var for atom in eqn.invars) != 1:
            return False
        var, is_added_to = eqn.outvars[0], True
    return is_added_to and not any(atom is end for eqn in jaxpr.eqns for atom in eqn.invars)
