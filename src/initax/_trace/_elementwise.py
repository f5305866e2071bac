"""Rules for elementwise primitives: where biases and scales enter, and which operations make a weight untraceable."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initax._model._reason import Why
from initax._trace._contract import constants_met, settle
from initax._trace._factors import FOREIGN, beside, foreign, is_foreign, pieces_of, regroup, stands
from initax._trace._jaxpr import shapes_of
from initax._trace._layout import broadcast
from initax._trace._sums import note_sums, scaled_by_sum
from initax._trace._uses import MetAs, Parts, Uses, Value, assign, parts_of
from initax._trace._views import Stop, View, first_stop, opened, scaled
from initax._trace._views import multiplied as with_factor


def fitted(value: Value, shape: tuple[int, ...]) -> Value:
    """Return an operand broadcast to the shape of the result, as elementwise equations broadcast scalars.

    The axes of an operand of any other rank are not known in the result.
    """
    if value.shape == shape:
        return value
    if len(value.shape) in (0, len(shape)):
        return broadcast(value, shape, range(len(shape)) if value.shape else ())
    views = (replace(view, axes=tuple(map(foreign, shape))) for view in value.weights)
    return Value(shape=shape, data=value.data, weights=tuple(views))


def halted(value: Value, stop: Stop) -> Value:
    """Return a value with its parameters halted, but for those that are a signal already."""
    return value.with_weights(lambda view: view if view.is_signal else view.halted(stop))


def nonlinear(
    name: str,
    values: Sequence[Value],
    shape: tuple[int, ...],
    uses: Uses,
    line: str,
    altered: Sequence[int] | None = None,
) -> Value:
    """Follow a function after which a parameter can't be read, and outputs of a weight are another signal.

    Args:
        name: the function.
        values: its operands.
        shape: the shape of the result.
        uses: where uses are entered.
        line: the line.
        altered: the axes along which entries are mixed, `None` where they are not known.
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
        return Value(shape=shape, data=True, outputs=outputs[:KEPT], stretched=_stretched(values))

    def stopped(view: View) -> View:
        why = Why.UNREADABLE if view.shifted or view.scaled else Why.TRANSFORMED
        return view.halted(Stop(f"{name} stands between it and the signal", line, why))

    views = tuple(stopped(view) for value in values for view in value.weights)
    return Value(shape=shape, weights=views)


def _stretched(values: Sequence[Value]) -> frozenset[int]:
    """Return the axes along which all operands are constant."""
    stretched = [value.stretched for value in values if value.data or value.weights]
    return frozenset.intersection(*stretched) if stretched else frozenset()


def added(name: str, left: Value, right: Value, shape: tuple[int, ...], uses: Uses, line: str) -> Value:
    """Follow a sum or a difference: of parameters, of signals, or of a signal and a bias."""
    left, right = (
        fitted(_as_signal(value, other, "bias", uses, line) if value.looked else value, shape)
        for value, other in ((left, right), (right, left))
    )
    if left.weights and right.weights:
        return _merged(left, right, line, product=False)
    if not left.weights and not right.weights:
        note_sums(left, right, uses, line)
        left, right = scaled_by_sum(left, right, uses)
        products = (*left.products, *right.products)
        if left.data and right.data:
            products = scaled(products)
        return replace(_both(left, right, shape), products=_first(products))
    params, signal = (left, right) if left.weights else (right, left)
    if not signal.data:
        turned = -1.0 if name == "sub" and params is right else 1.0
        shifted = params.with_weights(lambda view: replace(view, shifted=True))
        return replace(shifted, weights=with_factor(shifted.weights, turned)).beside(signal)
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


def _as_signal(value: Value, other: Value, met_as: MetAs, uses: Uses, line: str) -> Value:
    """Return an operand as a signal, but for a bias that is looked up together with the weight before it.

    Args:
        value: rows that were looked up, or the outputs of a weight for a constant.
        other: the other operand.
        met_as: how the rows are used where the other operand is a signal.
        uses: where uses are entered.
        line: the line.
    """
    if met_as == "bias" and _is_looked_up_with(value, other, uses):
        return value
    return settle(value, uses, line, met_as if other.data and not other.looked else "factor")


def _is_looked_up_with(bias: Value, signal: Value, uses: Uses) -> bool:
    """Return whether a bias is looked up by the same indices as the weight to whose outputs it is added."""
    by = {uses.of(view).view.by for view in signal.outputs if not view.scaled} - {0}
    return all(view.by in by and view.looked and not view.tables for view in bias.weights)


SUBTRACTED = "it is subtracted, as a running mean would be"
MINUEND = "a signal is subtracted from it"


def _bias(view: View, params: Value, signal: Value, uses: Uses, line: str, minus: str) -> tuple[View, ...]:
    """Enter the use of a parameter that is added to the signal, and return it as outputs that lie along its axes."""
    marked = view.marked
    if view.stop and len(params.stretched) == len(params.shape):
        return ()  # a regularizer added to a loss, a statistic of the weights
    if not view.factors and not params.shape and view.is_linked:
        return ()  # the same, as a contraction of the weights with each other
    before = (*signal.outputs, *signal.products)
    covered = all(any(not is_foreign(output.axes[axis]) for output in before) for axis in marked)
    # It is the bias of the weights whose outputs lie along each of its axes, or along the axis of its single entry.
    stored = (index for index, axis in enumerate(view.axes) if axis and all(f.axis != FOREIGN for f in axis))
    axes = marked or tuple(stored)
    unscaled = [output for output in signal.outputs if covered and axes and not output.scaled]
    weights = [output for output in unscaled if all(_overlap(output, view, axis) for axis in axes)]
    parts = parts_of(("out", view.factors))
    for axis in marked:
        lying = (output for output in before if not is_foreign(output.axes[axis]) and not output.scaled)
        _with_batch_axes(parts, view, next(lying, None), axis, uses)
    assign(parts, (*view.batch, *opened(view.looked)), "batch")
    stop = view.stop or first_stop(
        line,
        (minus, minus),
        (view.added_up, "a sum over its axes is added to the signal"),
        (view.times or view.is_linked, "it is combined with another parameter and then added to the signal"),
        (view.scaled and not covered, "it is scaled and mixed with the signal, as a running mean would be"),
    )
    if stop is None and not covered and len(marked) > 1:
        text = f"it is added to the signal along {len(marked)} axes that are no outputs of a weight"
        stop = Stop(text, line, Why.SIGNAL)
    biased = tuple(uses.of(weight) for weight in weights)
    return uses.with_axes((uses.enter(view, "bias", line, parts, biased=biased, stop=stop, view=view),))


def _with_batch_axes(parts: Parts, bias: View, outputs: View | None, axis: int, uses: Uses) -> None:
    """Give a bias the batch axes of its weight, such as groups of a convolution or members of a stack.

    Args:
        parts: what each factor of the bias does.
        bias: the bias.
        outputs: the outputs of the weight.
        axis: the axis of the value along which both lie.
        uses: the uses so far.
    """
    if outputs is None or is_foreign(outputs.axes[axis]):
        return
    weight_parts = uses.of(outputs).parts
    weight_axis, bias_axis = beside(outputs.axes[axis], bias.axes[axis])
    weight_pieces = [piece for factor in weight_axis for piece in pieces_of(factor, weight_parts)]
    bias_pieces = regroup(bias_axis, [piece.size for piece in weight_pieces])
    if bias_pieces is None or all(weight_parts.get(piece) != "batch" for piece in weight_pieces):
        return
    for factor in bias_axis:
        parts.pop(factor, None)
    for factors, piece in zip(bias_pieces, weight_pieces, strict=True):
        assign(parts, factors, "batch" if weight_parts.get(piece) == "batch" else "out")


def _overlap(outputs: View, bias: View, axis: int) -> bool:
    """Return whether a bias and the outputs of a weight have entries in common along an axis."""
    return not is_foreign(outputs.axes[axis]) and bool((stands(outputs.axes[axis]) & stands(bias.axes[axis])).any())


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
        stretched=_stretched([left, right]),
    )


def chosen(which: Value, cases: Sequence[Value], shape: tuple[int, ...]) -> Value:
    """Follow a choice between signals, entry by entry; a choice by the data scales their outputs.

    Args:
        which: the number of the chosen signal.
        cases: the signals.
        shape: the shape of the result.
    """
    result = functools.reduce(lambda left, right: _both(left, right, shape), cases)
    result = replace(result, data=result.data or which.data, stretched=frozenset())
    return _scaled(result) if which.data else result


KEPT = 64
"""How many outputs a value remembers at most; a residual stream is a sum of all outputs before it."""


def multiplied(
    left: Value, right: Value, shape: tuple[int, ...], uses: Uses, line: str, *, divides: bool = False
) -> Value:
    """Follow a product: of parameters, of signals, or of a signal and a scale; or a quotient by a constant."""
    constants = [not value.data and not value.weights for value in (left, right)]
    if any(constants):
        other, factor = (right, left) if constants[0] else (left, right)
        other = fitted(other, shape)
        number = factor.constant.number if factor.constant is not None and other.weights else None
        other = replace(other, weights=with_factor(scaled(other.weights), _one_number(number, divides=divides)))
        return other if number is None else other.with_weights(lambda view: masked(view, np.asarray(number) != 0))
    left, right = (
        fitted(_as_signal(value, other, "scale", uses, line) if value.is_signal else value, shape)
        for value, other in ((left, right), (right, left))
    )
    if left.weights and right.weights:
        return _merged(left, right, line)
    if not left.weights and not right.weights:
        constants_met(left, right, uses, line)
        _note_varying(left.products, right, uses)
        _note_varying(right.products, left, uses)
        return _scaled(_both(left, right, shape))
    params, signal = (left, right) if left.weights else (right, left)
    products = []
    for view in params.weights:
        parts: Parts = {}
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


def _one_number(number: np.ndarray[Any, Any] | None, *, divides: bool) -> float | None:
    """Return the number that all entries of a constant are, or its inverse; `None` where they differ, or are zero."""
    if number is None or not number.size or np.iscomplexobj(number) or not np.all(number == number.flat[0]):
        return None
    factor = float(number.flat[0])
    if factor == 0 or not np.isfinite(factor):
        return None
    return 1 / factor if divides else factor


def masked(view: View, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> View:
    """Return a view with the share of its entries that a constant mask keeps.

    Args:
        view: the view.
        mask: which entries of the value are kept, of a shape that broadcasts to the value's.
    """
    share = float(np.mean(mask)) if mask.size else 1.0
    repeats = any(factor.axis == FOREIGN and factor.size > 1 for axis in view.axes for factor in axis)
    return replace(view, share=view.share * share) if 0 < share < 1 and not repeats else view


def _note_varying(products: Sequence[View], other: Value, uses: Uses) -> None:
    """Note the axes of scales along which the signal varies once it is multiplied with another signal."""
    for view in products:
        use = uses.of(view)
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
        return multiplied(left, right, shape, uses, line, divides=True)
    left, right = fitted(left, shape), fitted(right, shape)
    if left.weights and right.weights and not (left.is_signal or right.is_signal):
        divisor = Stop("another parameter is divided by it", line)
        return _merged(left, right.with_weights(lambda view: view.halted(divisor)), line)
    if right.data and left.fed_by_constant:
        left = settle(left, uses, line)
    if right.data and not left.weights and not right.weights:
        constants_met(left, right, uses, line)
        return replace(_scaled(_both(left, right, shape)), data=True)
    if left.weights and right.weights and not (left.looked or right.looked):
        # A weight divided by a statistic of itself is not a signal yet, even where a constant is contracted with it.
        left, right = (value.with_weights(lambda view: replace(view, links=())) for value in (left, right))
    if left.data and not right.is_signal:
        stop = Stop("the signal is divided by it", line)
        right = right.with_weights(lambda view: view.halted(stop))
    return nonlinear("a division", [left, right], shape, uses, line, altered=())


def _merged(left: Value, right: Value, line: str, *, product: bool = True) -> Value:
    """Return the parameters of two operands; one that is combined with a statistic of itself is normalized."""
    views: list[View] = []
    for is_first, value, other in ((True, left, right), (False, right, left)):
        for view in value.weights:
            twins = [twin for twin in other.weights if twin.param == view.param]
            if twins:
                views += _with_twins(view, twins, product=product, is_first=is_first, line=line)
            else:
                factors = frozenset(weight.param for weight in other.weights) if product else frozenset()
                views.append(replace(view, times=view.times | factors))
    normalized = {view.param for view in views if view.normalized or view.quantized}
    views = [replace(view, times=view.times - normalized) if view.param in normalized else view for view in views]
    return Value(shape=left.shape, weights=tuple(dict.fromkeys(views)), data=left.data or right.data)


def _is_statistic(view: View) -> bool:
    """Return whether a view is a function of a parameter, or a sum of its entries."""
    return view.stop is not None or bool(view.added_up)


def _with_twins(view: View, twins: list[View], *, product: bool, is_first: bool, line: str) -> list[View]:
    """Return what the result of two operands that hold one parameter keeps of the view in one of them.

    Args:
        view: the view of one operand.
        twins: the views of the same parameter in the other operand.
        product: whether the operands are multiplied or divided, and not added.
        is_first: whether the view is of the first operand.
        line: the line.
    """
    changed = next((twin.stop for twin in twins if twin.is_changed), None)
    if changed is not None:
        return [view.halted(changed)]
    if _is_statistic(view) and any(not _is_statistic(twin) for twin in twins):
        return []
    if not _is_statistic(view) and all(_is_statistic(twin) and twin.fixed == view.fixed for twin in twins):
        is_rounding = not product and all(twin.frozen for twin in twins)  # `w + stop_gradient(round(w) - w)`
        return [replace(view, quantized=True) if is_rounding else replace(view, normalized=True)]
    if not product:
        return [replace(view, factor=None)]
    if view.stop:
        return [replace(view, running=())] if is_first else []
    if all(len(twin.factors) < len(view.factors) for twin in twins):
        return [replace(view, normalized=True)]
    if any(len(twin.factors) > len(view.factors) for twin in twins):
        return []
    return [view.halted(Stop("it is multiplied with itself", line))]
