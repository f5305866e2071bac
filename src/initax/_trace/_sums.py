"""Sums of outputs: a batch axis whose outputs are added up is an input axis of one layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initax._trace._factors import FOREIGN, Factor, Slot, length, pieces_of, stands, without
from initax._trace._uses import CONTRACTIONS, Part, Place, Taken, Use, Uses, Value, assign
from initax._trace._views import Step, View

SUMS = frozenset({"add", "add_any", "scatter-add"})
SHARED = "outputs of its entries are added up, and used one by one"
ENTRIES_SUMMED = "outputs of different entries of it are added up"
SOME_SUMMED = "outputs of some of its entries are added up, of others they are not"
SCALE_SUMMED = "it scales the signal, which is then summed: a scale or a weight"
SUMMED = "its products with the signal are added up: a scale or a weight"


def shared(left: Value, right: Value, uses: Uses, line: str) -> None:
    """Note that outputs of one parameter are added up, some of which are used elsewhere, too."""
    for one, other in _twins(left.outputs, right.outputs, uses):
        if not _of_same_entries(one, other, uses):
            _halt((one, other), SHARED, uses, line)


def _halt(views: Iterable[View], reason: str, uses: Uses, line: str) -> None:
    """Note why the uses that made some outputs can't be read."""
    for view in views:
        uses.found[view.use].halt(reason, line)


def added_up(left: Value, right: Value, uses: Uses, line: str) -> None:
    """Note that outputs of one parameter, made by different uses, are added up.

    Uses that follow each other, as in a residual stream, are separate layers and are left alone.

    Args:
        left: one signal.
        right: the other.
        uses: the uses so far.
        line: the line.
    """
    every = [(*value.outputs, *value.joined, *value.products) for value in (left, right)]
    for one, other in _twins(every[0], every[1], uses):
        note_sum(one, other, uses, line)


def note_sum(one: View, other: View, uses: Uses, line: str) -> None:
    """Note that the outputs of two uses of a parameter are added up, where they stand in the same places."""
    first, second = uses.found[one.use], uses.found[other.use]
    if not all((stands(here) & stands(there)).any() for here, there in zip(one.axes, other.axes, strict=True)):
        return
    if first.what == "scale":
        # One scale of two signals may be added up, entry by entry, and its products with other signals.
        if _of_same_entries(one, other, uses):
            return
        if first is not second and first.signal == second.signal and one.axes == other.axes:
            _add(one, other, uses)  # a convolution, window by window
        else:
            _halt((one, other), SUMMED, uses, line)
    elif one.axes == other.axes:
        _add(one, other, uses)
    elif one.slots or other.slots:
        _halt((one, other), ENTRIES_SUMMED, uses, line)


def _add(one: View, other: View, uses: Uses) -> None:
    """Note that two parts of outputs are added up, entry by entry."""
    parts: list[Taken] = [(view.use, _members(view, uses)) for view in (one, other)]
    uses.found[one.use].outputs.added_to.add((parts[0], parts[1]))
    uses.found[other.use].outputs.added_to.add((parts[1], parts[0]))


def _of_same_entries(one: View, other: View, uses: Uses) -> bool:
    """Return whether two parts of outputs are the same part, of the same entries of a parameter."""
    first, second = (uses.found[view.use].view for view in (one, other))
    return one.fixed == other.fixed and first.fixed == second.fixed


def _twins(left: Sequence[View], right: Sequence[View], uses: Uses) -> list[tuple[View, View]]:
    """Return pairs of outputs of one parameter, neither of which depends on the other.

    They are of different uses, or of different members of a stack in one use.
    """
    return [
        (one, other)
        for one in left
        for other in right
        if one.param == other.param
        if one.use != other.use or _adds(one, other, uses.found[one.use])
        if uses.found[one.use].what == "scale" or not (one.scaled or other.scaled)
        if not uses.depends(one.use, other.use) and not uses.depends(other.use, one.use)
    ]


def _adds(one: View, other: View, use: Use) -> bool:
    """Return whether two parts of what a use makes are told by their sum: members of a stack, products of a scale."""
    unlike = _differ(one, other, use)
    if use.what == "scale":
        return bool(unlike)
    return unlike == {"batch"} or (not unlike and one.axes != other.axes and _is_moved(one, other, use))


def _is_moved(one: View, other: View, use: Use) -> bool:
    """Return whether two copies of the outputs of a use hold members of a stack in different places."""
    return any(
        isinstance(factor, Slot) and any(use.parts.get(piece) == "batch" for piece in factor.factors)
        for here, there in zip(one.axes, other.axes, strict=True)
        for factor in (*here, *there)
        if here != there
    )


def _members(output: View, uses: Uses) -> frozenset[tuple[Factor, int]]:
    """Return the factors of a stack of which outputs hold one entry, and which."""
    use = uses.found[output.use]
    return frozenset(
        (factor, digit)
        for factor, digit in output.fixed
        if all(use.parts.get(piece) == "batch" for piece in _within(factor, use))
    )


def _differ(one: View, other: View, use: Use) -> set[Part | None]:
    """Return what the factors do of which two parts of the outputs of a use hold different entries."""
    others = dict(other.fixed)
    unlike = [factor for factor, digit in one.fixed if others.get(factor, digit) != digit]
    return {use.parts.get(piece) for factor in unlike for piece in _within(factor, use)}


def apart(left: Value, right: Value, uses: Uses) -> tuple[Value, Value]:
    """Return two signals that are added up.

    Of different outputs of one weight, or where one is a function of the other, the sum is a signal like any other.
    """
    pairs = [(one, other) for one in left.outputs for other in right.outputs if one.use == other.use]
    mixed: set[View] = set()
    for view, twin in pairs:
        use = uses.found[view.use]
        if _differ(view, twin, use) - {"batch"}:
            mixed |= {view, twin}
    for value, other in ((left, right), (right, left)):
        same = {view.use for view in (*other.outputs, *other.joined) if not view.scaled}
        mixed |= {view for view in value.outputs if view.use not in same and other.behind & uses.bit(view.use)}
    if not mixed:
        return left, right
    one, other = (
        replace(value, outputs=tuple(replace(view, scaled=view.scaled or view in mixed) for view in value.outputs))
        for value in (left, right)
    )
    return one, other


def sums(uses: Sequence[Use]) -> list[list[Use]]:
    """Return the uses in groups; the outputs of each group are added up."""
    numbers = [{number for number, _ in group} for group in _groups(uses)]
    return [[use for use in uses if use.number in group] for group in numbers]


def _groups(uses: Sequence[Use]) -> list[set[Taken]]:
    """Return parts of the outputs of uses in groups; those of each group are added up."""
    groups: list[set[Taken]] = []
    for use in uses:
        alone: Taken = (use.number, frozenset())
        pairs: Iterable[tuple[Taken, ...]] = use.outputs.added_to or [(alone,)]
        for pair in pairs:
            near = [group for group in groups if not group.isdisjoint(pair)]
            groups = [group for group in groups if group not in near]
            groups.append(set(pair).union(*near))
    return groups


def as_inputs(uses: Sequence[Use]) -> list[Use] | str:
    """Return the uses with batch axes as inputs where the outputs of their entries are added up.

    Args:
        uses: the uses of one parameter.

    Returns:
        The uses, or why the sums of their outputs can't be read.
    """
    every = _groups(uses)
    groups = [group for group in every if len(group) > 1]
    if not groups:
        return list(uses)
    by_number = {use.number: use for use in uses}
    of_weights = {use.number: dict(use.view.fixed) for use in uses}
    fixed = {
        part: {**of_weights[part[0]], **dict(part[1])} for group in every for part in group if part[0] in by_number
    }
    inputs: set[Factor] = set()
    for factor in set.intersection(*(set(each) for each in fixed.values())):
        pieces = {number: _within(factor, use) for number, use in by_number.items()}
        if factor.size == 1 or any(by_number[n].parts.get(piece) != "batch" for n in pieces for piece in pieces[n]):
            continue
        for group in groups:
            digits: dict[object, list[int]] = {}
            for part in group & fixed.keys():
                rest = tuple(sorted((each, digit) for each, digit in fixed[part].items() if each != factor))
                digits.setdefault(rest, []).append(fixed[part][factor])
            if all(sorted(each) == list(range(factor.size)) for each in digits.values()):
                inputs.add(factor)
            elif any(len(set(each)) > 1 for each in digits.values()):
                return SOME_SUMMED
    if inputs and len(groups) < len(every):
        return SOME_SUMMED
    left = {
        part: frozenset(each for each in entries.items() if each[0] not in inputs) for part, entries in fixed.items()
    }
    spread = any(len({left[part] for part in group & left.keys()}) > 1 for group in groups)
    if spread and not _is_cut_inside(uses):
        return ENTRIES_SUMMED
    return [_with_inputs(use, inputs) for use in uses]


def _is_cut_inside(uses: Sequence[Use]) -> bool:
    """Return whether the uses take parts of an input axis."""
    inputs = {factor.axis for use in uses for factor, part in use.parts.items() if part in ("in", "field")}
    return any(factor.axis in inputs for use in uses for factor, _ in use.view.fixed)


def _with_inputs(use: Use, inputs: set[Factor]) -> Use:
    part: Part = "field" if use.what == "scale" else "in"  # windows of a signal
    pieces: dict[Factor, Part] = {piece: part for factor in inputs for piece in _within(factor, use)}
    return _contracting(replace(use, parts={**use.parts, **pieces})) if pieces else use


def _contracting(use: Use) -> Use:
    """Return a scale whose products are added up as the weight that it is, with entries of its own for each channel."""
    if use.what != "scale":
        return use
    parts: dict[Factor, Part] = {factor: "batch" if part == "along" else part for factor, part in use.parts.items()}
    return replace(use, what="weight", parts=parts)


def summed(view: View, axes: Sequence[int], uses: Uses, line: str) -> View | None:
    """Follow outputs through a sum over axes: a batch axis that is summed over is an input axis.

    Args:
        view: the outputs.
        axes: the axes of the value that are summed over.
        uses: the uses so far.
        line: the line.

    Returns:
        The outputs after the sum, `None` where they are no outputs of one weight any more.
    """
    use, left = uses.found[view.use], without(view.axes, *axes)
    gone = [piece for axis in axes for factor in _own(view, axis) for piece in _within(factor, use)]
    if use.what == "scale" and any(use.parts.get(factor) != "batch" for factor in gone):
        use.halt(SCALE_SUMMED, line)
        return None
    if use.is_of_a_constant:
        return replace(view, axes=left, scaled=True)
    if view.scaled or use.what not in (*CONTRACTIONS, "scale") or (use.what == "scale" and gone):
        return None
    if not gone:
        return replace(view, axes=left)  # a sum over axes of the signal, e.g. over tokens
    kinds = {use.parts.get(factor) for factor in gone}
    if "batch" not in kinds:
        return None
    if kinds != {"batch"} or any(factor.axis < FOREIGN for axis in axes for factor in view.axes[axis]):
        use.halt(ENTRIES_SUMMED, line)
        return None
    use.parts |= dict.fromkeys(gone, "in")
    return replace(view, axes=left)


def mixed(views: Sequence[View], axes: Sequence[int], uses: Uses, line: str, reason: str = ENTRIES_SUMMED) -> None:
    """Note that members of stacks are mixed in another way than by a sum over them.

    Args:
        views: the outputs that hold them.
        axes: the axes along which they are mixed.
        uses: the uses so far.
        line: the line.
        reason: why they can't be read then.
    """
    for view in views:
        use = uses.found[view.use]
        pieces = [piece for axis in axes for factor in _own(view, axis) for piece in _within(factor, use)]
        if not view.scaled and any(use.parts.get(piece) == "batch" for piece in pieces):
            use.halt(reason, line)


def joined_summed(views: Sequence[View], axes: Sequence[int], uses: Uses, line: str) -> tuple[list[View], list[View]]:
    """Follow outputs that stand beside each other through a sum over axes.

    Args:
        views: the outputs.
        axes: the axes of the value that are summed over.
        uses: the uses so far.
        line: the line.

    Returns:
        Those that still stand beside others, and those that do not any more.
    """
    left = [after for view in views if (after := summed(view, axes, uses, line)) is not None]
    for place, view in enumerate(left):
        for one, other in _twins([view], left[place + 1 :], uses):
            note_sum(one, other, uses, line)
    return [view for view in left if view.slots], [view for view in left if not view.slots]


def summed_product(view: View, axes: Sequence[int], uses: Uses, line: str) -> View | None:
    """Follow a product with the signal through a sum over axes: a contraction, written out.

    Args:
        view: the product.
        axes: the axes of the value that are summed over.
        uses: the uses so far.
        line: the line.

    Returns:
        The outputs, `None` where it is the product of a scale.
    """
    use = uses.found[view.use]
    gone = [factor for axis in axes for factor in _own(view, axis)]
    if not gone or use.what != "scale":
        return None
    rest = (axis for axis in range(len(view.axes)) if axis not in axes)
    if view.scaled:
        if use.outputs.added_to:  # windows of a convolution, whose channels are added up
            use.halt(SCALE_SUMMED, line)
        return None
    if not any(use.parts.get(factor) == "out" for axis in rest for factor in _own(view, axis)):
        use.halt(SCALE_SUMMED, line)
        return None
    assign(use.parts, gone, "in")
    weight = _contracting(use)
    use.parts, use.what = weight.parts, weight.what
    return replace(view, axes=without(view.axes, *axes))


def _own(view: View, axis: int) -> list[Factor]:
    """Return the factors of a parameter along an axis."""
    return [factor for factor in view.along(axis) if factor.size > 1]


def _within(factor: Factor, use: Use) -> list[Factor]:
    """Return the factors into which a use splits one, after a batch axis around it is split at its borders."""
    for whole, part in list(use.parts.items()):
        is_around = factor.is_inside(whole) and whole != factor
        if part == "batch" and is_around and factor.inner % whole.inner == 0 and whole.end % factor.end == 0:
            del use.parts[whole]
            inner = Factor(whole.axis, whole.inner, factor.inner // whole.inner)
            for piece in (Factor(whole.axis, factor.end, whole.end // factor.end), factor, inner):
                if piece.size > 1:
                    use.parts[piece] = part
    return pieces_of(factor, use.parts)


def accumulated(
    jaxpr: Any, consts: int, carry: Sequence[Value], results: Sequence[Value], uses: Uses, line: str
) -> list[Value]:
    """Note what a loop adds up: the axis of which each step takes an entry is an input axis then.

    Args:
        jaxpr: the body of the loop, which the walk is at.
        consts: how many of its arguments are the same in each step.
        carry: what the loop carries, before the first step.
        results: what the body leaves, in the places of what it carries first.
        uses: the uses so far.
        line: the line.

    Returns:
        For each value that the loop carries, what it holds of outputs and of products after the last step.
    """
    found: list[Value] = []
    for place, (first, left) in enumerate(zip(carry, results, strict=False)):
        start, end = jaxpr.invars[consts + place], jaxpr.outvars[place]
        joined = tuple(after_loop(view, uses) for view in left.joined)
        if not _is_accumulated(jaxpr, start, end):
            _onto_state(left, uses, line)
            found.append(Value(shape=left.shape, joined=joined))
            continue
        collected = any(var is start for var in jaxpr.outvars)
        outputs, products = (
            (*before, *(_over_steps(view, uses, collected) for view in views))
            for before, views in ((first.outputs, left.outputs), (first.products, left.products))
        )
        products = tuple(replace(view, scaled=view.scaled and first.data) for view in products)
        added_up(first, left, uses, line)
        joined_summed(left.joined, (), uses, line)
        found.append(Value(shape=left.shape, outputs=outputs, products=products, joined=joined))
    return found


def _onto_state(left: Value, uses: Uses, line: str) -> None:
    """Note outputs that do not depend on the state of the loop, and that each step adds to a function of the state."""
    state = uses.loop_bit(uses.at)
    for view in left.outputs:
        use = uses.found[view.use]
        if not left.behind & state or use.behind & state or view.scaled:
            continue
        pieces = [piece for step in taken_steps(view, uses, uses.at) for f in step.factors for piece in _within(f, use)]
        if any(use.parts.get(piece) == "batch" and piece.size > 1 for piece in pieces):
            use.halt(ENTRIES_SUMMED, line)


def _over_steps(output: View, uses: Uses, collected: bool) -> View:
    """Return outputs as a loop leaves them that adds them up; sums over members of a stack are noted.

    Args:
        output: the outputs of one step.
        uses: the uses so far, at the loop.
        collected: the sums before the last step are used, too.
    """
    use = uses.found[output.use]
    scaled = output.scaled
    # The products of a scale count as scaled beside any other signal.
    for step in taken_steps(output, uses, uses.at) if not scaled or use.what == "scale" else ():
        pieces = [piece for factor in step.factors for piece in _within(factor, use) if piece.size > 1]
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
        elif use.what in CONTRACTIONS and (scaled or collected):
            use.halt(ENTRIES_SUMMED, use.line)  # with different outputs of each of them, or used one by one, too
        elif use.what in CONTRACTIONS:
            use.parts |= dict.fromkeys(batch, "in")
    return replace(after_loop(output, uses), scaled=scaled)


def taken_steps(output: View, uses: Uses, loop: Place) -> list[Step]:
    """Return the axes of which a loop takes entries: of a weight, or of its outputs.

    Args:
        output: the outputs of one step.
        uses: the uses so far.
        loop: the place of the loop.
    """
    use = uses.found[output.use]
    is_inside = use.at[: len(loop)] == loop
    taken = use.view if is_inside else output
    return [step for step in taken.steps if (step.at[: len(loop)] == loop if step.loop is None else step.loop == loop)]


def after_loop(output: View, uses: Uses) -> View:
    """Return outputs of a step as what the loop that the walk is at leaves, without the entries that it takes."""
    inside = [step for step in output.steps if step.at[: len(uses.at)] == uses.at]
    gone = [factor for step in inside for factor in step.factors]
    batch = tuple(factor for factor in output.batch if factor not in gone)
    return replace(output, batch=batch, steps=tuple(step for step in output.steps if step not in inside))


def _is_accumulated(jaxpr: Any, start: Any, end: Any) -> bool:
    """Return whether a loop only adds to a value that it carries, and uses it for nothing but its results."""
    seen, var = False, start
    while var is not end:
        readers = [eqn for eqn in jaxpr.eqns if any(each is var for each in eqn.invars)]
        if len(readers) != 1:
            return False
        (eqn,) = readers
        if eqn.primitive.name not in SUMS or sum(each is var for each in eqn.invars) != 1:
            return False
        var, seen = eqn.outvars[0], True
    return seen and not any(any(each is end for each in eqn.invars) for eqn in jaxpr.eqns)
