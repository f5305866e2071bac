"""Rules for elementwise primitives: where biases and scales enter, and which operations make a weight untraceable."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initax._model._reason import Why
from initax._trace._contract import constants_met, settle
from initax._trace._factors import FOREIGN, Factor, beside, foreign, is_foreign, pieces_of, regroup, stands
from initax._trace._indices import shapes_of
from initax._trace._layout import broadcast
from initax._trace._sums import added_up, apart
from initax._trace._uses import MetAs, Part, Uses, Value, assign, parts_of
from initax._trace._views import Stop, View, first_stop, opened, scaled


def fitted(value: Value, shape: tuple[int, ...]) -> Value:
    """Return an operand broadcast to the shape of the result, as elementwise equations broadcast scalars.

    Of an operand of another rank the axes are not known there.
    """
    if value.shape == shape:
        return value
    if len(value.shape) in (0, len(shape)):
        return broadcast(value, shape, range(len(shape)) if value.shape else ())
    views = (replace(view, axes=tuple(map(foreign, shape))) for view in value.weights)
    return Value(shape=shape, data=value.data, weights=tuple(views))


def halted(value: Value, stop: Stop) -> Value:
    """Return parameters halted for a reason; look-ups and weights of constants are signals already."""
    return replace(value, weights=tuple(view if view.is_signal else view.halted(stop) for view in value.weights))


def nonlinear(
    name: str,
    values: Sequence[Value],
    shape: tuple[int, ...],
    uses: Uses,
    line: str,
    altered: Sequence[int] | None = None,
) -> Value:
    """Follow a function behind which a parameter can't be read, and outputs of a weight are another signal.

    Args:
        name: the function.
        values: its operands.
        shape: the shape of the result.
        uses: where uses are entered.
        line: the line.
        altered: the axes along which entries are mixed; `None` where nothing is known of them.
    """
    values = [fitted(value, shape) for value in values]
    if any(value.data or value.fed_by_constant for value in values):
        for value in values:
            settle(value, uses, line, "factor")
        outputs = tuple(
            replace(view, scaled=True, bent=True)
            for value in values
            if altered is not None
            for view in value.outputs
            if all(is_foreign(view.axes[axis]) for axis in altered)
        )
        return Value(shape=shape, data=True, outputs=outputs[:KEPT], stretched=_shared(values))

    def stopped(view: View) -> View:
        why = Why.UNREADABLE if view.shifted or view.scaled else Why.TRANSFORMED
        return view.halted(Stop(f"{name} stands between it and the signal", line, why))

    views = tuple(stopped(view) for value in values for view in value.weights)
    return Value(shape=shape, weights=views)


def _shared(values: Sequence[Value]) -> frozenset[int]:
    """Return the axes along which all operands are constant."""
    full = [value for value in values if value.data or value.weights]
    return frozenset.intersection(*(value.stretched for value in full)) if full else frozenset()


def added(name: str, left: Value, right: Value, shape: tuple[int, ...], uses: Uses, line: str) -> Value:
    """Follow a sum or a difference: of parameters, of signals, or of a signal and a bias."""
    left, right = (
        fitted(_met(value, other, "bias", uses, line) if value.looked else value, shape)
        for value, other in ((left, right), (right, left))
    )
    if left.weights and right.weights:
        return _merged(left, right, line, product=False)
    if not left.weights and not right.weights:
        added_up(left, right, uses, line)
        left, right = apart(left, right, uses)
        return replace(_both(left, right, shape), products=_added_products(left, right))
    params, signal = (left, right) if left.weights else (right, left)
    if not signal.data:
        return replace(params, weights=tuple(replace(view, shifted=True) for view in params.weights))
    if params.fed_by_constant:
        return _both(settle(params, uses, line), signal, shape)
    minus = "" if name != "sub" else MINUEND if params is left else SUBTRACTED
    outputs = list(signal.outputs)
    for view in params.weights:
        outputs += _bias(view, params, signal, uses, line, minus)
    flat = signal.stretched & params.stretched
    return Value(
        shape=shape, data=True, outputs=tuple(outputs), joined=signal.joined, products=signal.products, stretched=flat
    )


def _met(value: Value, other: Value, met_as: MetAs, uses: Uses, line: str) -> Value:
    """Return what is looked up as a signal; a bias that is looked up together with the weight before it stays one.

    Args:
        value: what is looked up, or comes out of a weight with a constant.
        other: what it is combined with.
        met_as: what it is to a signal.
        uses: where uses are entered.
        line: the line.
    """
    if met_as == "bias" and _goes_with(value, other, uses):
        return value
    return settle(value, uses, line, met_as if other.data and not other.looked else "factor")


def _goes_with(looked_up: Value, signal: Value, uses: Uses) -> bool:
    """Return whether the indices that look a bias up looked up the weight, too, to whose outputs it is added."""
    by = {uses.found[view.use].view.by for view in signal.outputs if not view.scaled} - {0}
    return all(view.by in by and view.looked and not view.tables for view in looked_up.weights)


SUBTRACTED = "it is subtracted, as a running mean would be"
MINUEND = "a signal is subtracted from it"


def _bias(view: View, params: Value, signal: Value, uses: Uses, line: str, minus: str) -> tuple[View, ...]:
    own = view.marked
    if view.stop and len(params.stretched) == len(params.shape):
        return ()  # a regularizer added to a loss, a statistic of the weights
    if not view.own and not params.shape and view.is_linked:
        return ()  # the same, as a contraction of the weights with each other
    before = (*signal.outputs, *signal.products)
    covered = all(any(not is_foreign(each.axes[index]) for each in before) for index in own)
    # Of the weights before it, the nearest are those that reach along every axis of the bias, or of its only entry.
    places = own or [at for at, axis in enumerate(view.axes) if axis and all(f.axis != FOREIGN for f in axis)]
    nearest = [output for output in signal.outputs if covered and places and not output.scaled]
    weights = [each for each in nearest if all(_meets(each, view, at) for at in places)]
    parts = parts_of(("out", view.own))
    for index in own:
        weight = next((each for each in before if not is_foreign(each.axes[index]) and not each.scaled), None)
        _like_the_weight(parts, view, weight, index, uses)
    assign(parts, (*view.batch, *opened(view.looked)), "batch")
    stop = view.stop or first_stop(
        line,
        (minus, minus),
        (view.added_up, "a sum over its axes is added to the signal"),
        (view.times or view.is_linked, "it is combined with another parameter and then added to the signal"),
        (view.scaled and not covered, "it is scaled and mixed with the signal, as a running mean would be"),
        (
            not covered and len(own) > 1,
            f"it is added to the signal along {len(own)} axes that are no outputs of a weight",
        ),
    )
    biased = tuple(uses.found[weight.use] for weight in weights)
    return uses.with_axes((uses.enter(view, "bias", line, parts, biased=biased, stop=stop, view=view),))


def _like_the_weight(parts: dict[Factor, Part], view: View, before: View | None, at: int, uses: Uses) -> None:
    """Give a bias the batch axes of its weight, such as groups of a convolution or members of a stack."""
    if before is None or is_foreign(before.axes[at]):
        return
    theirs = uses.found[before.use].parts
    first, second = beside(before.axes[at], view.axes[at])
    split = [piece for factor in first for piece in pieces_of(factor, theirs)]
    mine = regroup(second, [piece.size for piece in split])
    if mine is None or all(theirs.get(piece) != "batch" for piece in split):
        return
    for factor in second:
        parts.pop(factor, None)
    for factors, piece in zip(mine, split, strict=True):
        assign(parts, factors, "batch" if theirs.get(piece) == "batch" else "out")


def _meets(weight: View, bias: View, axis: int) -> bool:
    """Return whether a bias and the outputs of a weight share entries along an axis."""
    return not is_foreign(weight.axes[axis]) and bool((stands(weight.axes[axis]) & stands(bias.axes[axis])).any())


def _added_products(left: Value, right: Value) -> tuple[View, ...]:
    """Return the products that a sum holds; beside another signal they count as scaled."""
    products = (*left.products, *right.products)
    return _first(scaled(products) if left.data and right.data else products)


def _first(views: Sequence[View]) -> tuple[View, ...]:
    """Return the first of some outputs, each once."""
    return tuple(dict.fromkeys(views))[:KEPT]


def _both(left: Value, right: Value, shape: tuple[int, ...]) -> Value:
    """Return the sum of two signals, which holds the outputs of both."""
    return Value(
        shape=shape,
        data=left.data or right.data,
        outputs=_first((*left.outputs, *right.outputs)),
        joined=_first((*left.joined, *right.joined)),
        stretched=_shared([left, right]),
    )


def chosen(which: Value, cases: Sequence[Value], shape: tuple[int, ...]) -> Value:
    """Follow a choice between signals, entry by entry; outputs that the data choose from are weighed by it.

    Args:
        which: what says which one is chosen.
        cases: the signals.
        shape: the shape of the result.
    """
    result = functools.reduce(lambda left, right: _both(left, right, shape), cases)
    weighed = _scaled(result) if which.data else result
    return replace(weighed, data=result.data or which.data, stretched=frozenset())


KEPT = 64
"""How many outputs a value remembers at most; a residual stream is a sum of all outputs before it."""


def multiplied(left: Value, right: Value, shape: tuple[int, ...], uses: Uses, line: str) -> Value:
    """Follow a product: of parameters, of signals, or of a signal and a scale."""
    constants = [not value.data and not value.weights for value in (left, right)]
    if any(constants):
        other, factor = (right, left) if constants[0] else (left, right)
        other = fitted(other, shape)
        number = factor.constant.number if factor.constant is not None and other.weights else None
        views = scaled(other.weights)
        if number is not None:
            views = tuple(masked(view, np.asarray(number) != 0) for view in views)
        return replace(other, weights=views)
    left, right = (
        fitted(_met(value, other, "scale", uses, line) if value.is_signal else value, shape)
        for value, other in ((left, right), (right, left))
    )
    if left.weights and right.weights:
        return _merged(left, right, line)
    if not left.weights and not right.weights:
        constants_met(left, right, uses, line)
        _vary(left.products, right, uses)
        _vary(right.products, left, uses)
        return _scaled(_both(left, right, shape))
    params, signal = (left, right) if left.weights else (right, left)
    products = []
    for view in params.weights:
        parts: dict[Factor, Part] = {}
        for index, axis in enumerate(view.axes):
            assign(parts, opened(axis), "out" if index in signal.stretched else "along")
        assign(parts, view.batch, "batch")
        stop = view.stop or first_stop(
            line,
            (view.shifted, "a constant is added to it before it scales the signal"),
            (view.added_up, "a sum over its axes scales the signal"),
            (view.times or view.links, "it is combined with another parameter and then scales the signal"),
        )
        products.append(
            uses.enter(view, "scale", line, parts, normalized=view.normalized, stop=stop, view=view, product=True)
        )
    return Value(
        shape=shape,
        data=True,
        outputs=scaled(signal.outputs),
        joined=scaled(signal.joined),
        products=tuple(products),
        stretched=signal.stretched & params.stretched,
    )


def masked(view: View, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> View:
    """Return a view with the share of its entries that a constant mask leaves.

    Args:
        view: the view.
        mask: which entries of the value are left, of a shape that broadcasts to it.
    """
    share = float(np.mean(mask)) if mask.size else 1.0
    repeats = any(factor.axis == FOREIGN and factor.size > 1 for axis in view.axes for factor in axis)
    return replace(view, share=view.share * share) if 0 < share < 1 and not repeats else view


def _vary(products: Sequence[View], other: Value, uses: Uses) -> None:
    """Note the axes of scales along which the signal varies, after it is multiplied with another signal."""
    for view in products:
        use = uses.found[view.use]
        for index, axis in enumerate(view.axes):
            for factor in opened(axis):
                if index not in other.stretched and use.product and use.parts.get(factor) == "out":
                    use.parts[factor] = "along"


def _scaled(value: Value) -> Value:
    """Return a signal with its outputs marked as scaled: a bias that is added now does not belong to their weight."""
    return replace(value, outputs=scaled(value.outputs), joined=scaled(value.joined))


def div(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value:
    """Follow a quotient: by a constant, by a signal, or by a statistic of the weight, which normalizes it."""
    (left, right), shape = values, shapes_of(eqn)[0]
    if not right.data and not right.weights:
        return multiplied(left, right, shape, uses, line)
    left, right = fitted(left, shape), fitted(right, shape)
    if left.weights and right.weights and not (left.is_signal or right.is_signal):
        below = tuple(view.halted(Stop("another parameter is divided by it", line)) for view in right.weights)
        return _merged(left, replace(right, weights=below), line)
    if right.data and left.fed_by_constant:
        left = settle(left, uses, line)
    if right.data and not left.weights and not right.weights:
        constants_met(left, right, uses, line)
        return replace(_scaled(_both(left, right, shape)), data=True)
    if left.weights and right.weights and not (left.looked or right.looked):
        # What a constant is contracted with is no outputs yet where it is divided by a statistic of itself.
        left, right = (
            replace(each, weights=tuple(replace(view, links=()) for view in each.weights)) for each in (left, right)
        )
    if left.data and not right.is_signal:
        stop = Stop("the signal is divided by it", line)
        right = replace(right, weights=tuple(view.halted(stop) for view in right.weights))
    return nonlinear("a division", [left, right], shape, uses, line, altered=())


def _merged(left: Value, right: Value, line: str, *, product: bool = True) -> Value:
    """Return the parameters of two operands; one that is combined with a statistic of itself is normalized."""
    kept: list[View] = []
    for place, (value, other) in enumerate(((left, right), (right, left))):
        for view in value.weights:
            twins = [each for each in other.weights if each.param == view.param]
            if not twins:
                met = frozenset(each.param for each in other.weights) if product else frozenset()
                kept.append(replace(view, times=view.times | met))
                continue
            kept += _with_twins(view, twins, place, product, line)
    own = {view.param for view in kept if view.normalized or view.quantized}
    kept = [replace(view, times=view.times - own) if view.param in own else view for view in kept]
    return Value(shape=left.shape, weights=tuple(dict.fromkeys(kept)), data=left.data or right.data)


def _is_statistic(view: View) -> bool:
    """Return whether a view is a function of a parameter, or a sum of its entries."""
    return view.stop is not None or bool(view.added_up)


def _with_twins(view: View, twins: list[View], place: int, product: bool, line: str) -> list[View]:
    """Return what is left of a view when the other operand holds the same parameter."""
    changed = next((twin.stop for twin in twins if twin.is_changed), None)
    if changed is not None:
        return [view.halted(changed)]
    if _is_statistic(view) and any(not _is_statistic(twin) for twin in twins):
        return []  # the statistic; its twin is marked below
    own = all(_is_statistic(twin) and twin.fixed == view.fixed for twin in twins)
    if not _is_statistic(view) and own:
        past = not product and all(twin.frozen for twin in twins)
        return [replace(view, quantized=True) if past else replace(view, normalized=True)]
    if not product:
        return [view]
    if view.stop:
        return [replace(view, running=())] if place == 0 else []
    if all(len(twin.own) < len(view.own) for twin in twins):
        return [replace(view, normalized=True)]
    if any(len(twin.own) > len(view.own) for twin in twins):
        return []
    return [view.halted(Stop("it is multiplied with itself", line))]
