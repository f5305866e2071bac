"""Sums of outputs: a batch axis whose outputs are added up is an input axis of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from initax._trace._factors import FOREIGN, Factor, pieces
from initax._trace._uses import CONTRACTIONS, Part, Place, Use, Uses, Value, assign
from initax._trace._views import Stop, View

SUMS = frozenset({"add", "add_any"})
SCALE_SUMMED = "it scales the signal, which is then summed: a scale or a weight"
SUMMED = "its products with the signal are added up: a scale or a weight"


def added_up(left: Value, right: Value, uses: Uses, line: str) -> None:
    """Note that outputs of one parameter, made by different uses, are added up.

    Uses that follow each other, as in a residual stream, are separate layers and are left alone.

    Args:
        left: one signal.
        right: the other.
        uses: the uses so far.
        line: the line.
    """
    for one, other in _twins(left.outputs, right.outputs, uses):
        first, second = uses.found[one.use], uses.found[other.use]
        if one.axes == other.axes:
            first.outputs.added_to.add(second.number)
            second.outputs.added_to.add(first.number)
        elif one.slots or other.slots:
            for use in (first, second):
                use.stop = use.stop or Stop("outputs of different entries of it are added up", line)
    # Products stay in sums with other signals; what is added there, too, is still added up.
    for one, other in _twins(left.products, right.products, uses):
        for use in (uses.found[one.use], uses.found[other.use]):
            views = [uses.found[each.use].view for each in (one, other)]
            if all(view is not None and view.fixed == (views[0] and views[0].fixed) for view in views):
                continue  # one scale of two signals
            use.stop = use.stop or Stop(SUMMED, line)


def _twins(left: Sequence[View], right: Sequence[View], uses: Uses) -> list[tuple[View, View]]:
    """Return pairs of different uses of one parameter, neither of which depends on the outputs of the other."""
    again = {view.param for view in left} & {view.param for view in right}
    return [
        (one, other)
        for one in left
        for other in right
        if one.param == other.param and one.param in again and one.use != other.use
        if uses.found[one.use].what == "scale" or not (one.scaled or other.scaled)
        if one.use not in uses.found[other.use].behind and other.use not in uses.found[one.use].behind
    ]


def sums(uses: Sequence[Use]) -> list[list[Use]]:
    """Return the uses in groups; the outputs of each group are added up."""
    groups: list[list[Use]] = []
    for use in uses:
        near = [group for group in groups if any(use.number in each.outputs.added_to for each in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(each for group in near for each in group), use])
    return groups


def as_inputs(uses: Sequence[Use]) -> list[Use] | str:
    """Return the uses with batch axes as inputs where the outputs of their entries are added up.

    Args:
        uses: the uses of one parameter.

    Returns:
        The uses, or why the sums of their outputs can't be read.
    """
    groups = [group for group in sums(uses) if len(group) > 1]
    if not groups:
        return list(uses)
    fixed = {use.number: dict(use.view.fixed) if use.view is not None else {} for use in uses}
    shared = set.intersection(*(set(each) for each in fixed.values()))
    inputs: set[Factor] = set()
    for factor in shared:
        if factor.size == 1 or any(use.parts.get(factor) != "batch" for use in uses):
            continue
        for group in groups:
            digits: dict[object, list[int]] = {}
            for use in group:
                digit_of = fixed[use.number]
                key = tuple(sorted((each, digit) for each, digit in digit_of.items() if each != factor))
                digits.setdefault(key, []).append(digit_of[factor])
            if all(sorted(each) == list(range(factor.size)) for each in digits.values()):
                inputs.add(factor)
            elif any(len(set(each)) > 1 for each in digits.values()):
                return "outputs of some of its entries are added up, of others they are not"
    if inputs and len(groups) < len(sums(uses)):
        return "outputs of some of its entries are added up, of others they are not"
    if not inputs:
        spread = any(len({tuple(sorted(fixed[use.number].items())) for use in group}) > 1 for group in groups)
        return "outputs of different entries of it are added up" if spread and not _is_cut_inside(uses) else list(uses)
    return [_with_inputs(use, inputs) for use in uses]


def _is_cut_inside(uses: Sequence[Use]) -> bool:
    """Return whether the uses take parts of an input axis."""
    inputs = {factor.axis for use in uses for factor, part in use.parts.items() if part in ("in", "field")}
    return any(factor.axis in inputs for use in uses if use.view is not None for factor, _ in use.view.fixed)


def _with_inputs(use: Use, inputs: set[Factor]) -> Use:
    parts: dict[Factor, Part] = {factor: "in" if factor in inputs else part for factor, part in use.parts.items()}
    return replace(use, parts=parts)


def summed(view: View, axes: Sequence[int], rest: Sequence[int], uses: Uses, line: str) -> View | None:
    """Follow outputs through a sum over axes: a batch axis that is summed over is an input axis.

    Args:
        view: the outputs.
        axes: the axes of the value that are summed over.
        rest: the others.
        uses: the uses so far.
        line: the line.

    Returns:
        The outputs after the sum, `None` where they are no outputs of one weight any more.
    """
    use, left = uses.found[view.use], tuple(view.axes[axis] for axis in rest)
    gone = [piece for axis in axes for factor in _own(view, axis) for piece in _within(factor, use)]
    if use.what == "scale" and any(use.parts.get(factor) != "batch" for factor in gone):
        use.stop = use.stop or Stop(SCALE_SUMMED, line)
        return None
    if use.is_of_a_constant:
        return replace(view, axes=left, scaled=True)
    if view.scaled or use.what not in CONTRACTIONS:
        return None
    if not gone:
        return replace(view, axes=left)  # a sum over axes of the signal, e.g. over tokens
    kinds = {use.parts.get(factor) for factor in gone}
    if "batch" not in kinds:
        return None
    if kinds != {"batch"} or any(factor.axis < FOREIGN for axis in axes for factor in view.axes[axis]):
        use.stop = use.stop or Stop("outputs of different entries of it are added up", line)
        return None
    for factor in gone:
        use.parts[factor] = "in"
    return replace(view, axes=left)


def summed_product(view: View, axes: Sequence[int], rest: Sequence[int], uses: Uses, line: str) -> View | None:
    """Follow a product with the signal through a sum over axes: a contraction, written out.

    Args:
        view: the product.
        axes: the axes of the value that are summed over.
        rest: the others.
        uses: the uses so far.
        line: the line.

    Returns:
        The outputs, `None` where it is the product of a scale.
    """
    use = uses.found[view.use]
    gone = [factor for axis in axes for factor in _own(view, axis)]
    if not gone or use.what != "scale" or view.scaled:
        return None
    if not any(use.parts.get(factor) == "out" for axis in rest for factor in _own(view, axis)):
        use.stop = use.stop or Stop(SCALE_SUMMED, line)
        return None
    assign(use.parts, gone, "in")
    use.parts = {factor: "batch" if part == "along" else part for factor, part in use.parts.items()}
    use.what = "weight"
    return replace(view, axes=tuple(view.axes[axis] for axis in rest))


def _own(view: View, axis: int) -> list[Factor]:
    """Return the factors of a parameter along an axis."""
    return [factor for factor in view.opened(view.axes[axis]) if factor.axis != FOREIGN and factor.size > 1]


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
    return pieces(factor, use.parts)


def accumulated(body: Any, consts: int, left: Sequence[Value], uses: Uses, at: Place) -> None:
    """Note what a loop adds up: the axis of which each step takes an entry is an input axis then.

    Args:
        body: the jaxpr of the loop.
        consts: how many of its arguments are the same in each step.
        left: what its body leaves in the places of what it carries.
        uses: the uses so far.
        at: the place of the loop.
    """
    jaxpr = getattr(body, "jaxpr", body)
    for place, value in enumerate(left):
        if not _is_accumulated(jaxpr, jaxpr.invars[consts + place], jaxpr.outvars[place]):
            continue
        for view in (*value.outputs, *value.products):
            use = uses.found[view.use]
            if use.at[: len(at)] != at or use.view is None or view.scaled:
                continue
            fixed = {factor for factor, _ in use.view.fixed}
            steps = [factor for factor in use.view.batch if factor not in fixed and factor.size > 1]
            if steps and use.what in CONTRACTIONS:
                for factor in steps:
                    use.parts[factor] = "in"
            elif steps and use.what == "scale":
                use.stop = use.stop or Stop(SUMMED, use.line)


def _is_accumulated(jaxpr: Any, start: Any, end: Any) -> bool:
    """Return whether a loop only adds to a value that it carries, and uses it for nothing else."""
    seen, var = False, start
    while var is not end:
        readers = [eqn for eqn in jaxpr.eqns if any(each is var for each in eqn.invars)]
        if len(readers) != 1 or any(each is var for each in jaxpr.outvars):
            return False
        (eqn,) = readers
        if eqn.primitive.name not in SUMS or sum(each is var for each in eqn.invars) != 1:
            return False
        var, seen = eqn.outvars[0], True
    return seen and not any(any(each is end for each in eqn.invars) for eqn in jaxpr.eqns)
