"""Contractions of a parameter with the signal (`dot_general`, convolutions): which axes are inputs and outputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from initax._model._reason import Why
from initax._trace._factors import FOREIGN, Axis, Factor, Slot, foreign, is_foreign, length, other_axes
from initax._trace._jaxpr import shapes_of
from initax._trace._sums import note_mixed, note_sum
from initax._trace._uses import CONSTANT_FIRST, INPUTS, MetAs, Part, Parts, Uses, Value, What, assign, parts_of
from initax._trace._views import Link, Stop, View, first_stop, kept_whole, opened, rearranged, reshaped, scaled


def settle(value: Value, uses: Uses, line: str, met_as: MetAs = "") -> Value:
    """Return a value as a signal, and enter the uses of its parameters.

    Look-ups are embeddings, what is contracted with a constant is a weight, and others are a signal of their own.

    Args:
        value: the value.
        uses: where uses are entered.
        line: the line.
        met_as: for look-ups, how they are used, see `Use.met_as`.
    """
    if not value.weights:
        return value
    outputs: list[View] = []
    for view in value.weights:
        entangled = first_stop(
            "",
            (view.times, "it is multiplied with another parameter"),
            (view.is_linked, "it is contracted with another parameter"),
        )
        stop = view.stop or entangled
        if view.looked or view.picked:
            parts = parts_of(("out", opened(view.looked)), ("in", view.factors), ("batch", (*view.batch, *view.tables)))
            stop = stop or first_stop(
                line,
                (view.picked and not view.looked, "rows of it are picked by constant indices"),
                (view.fixed and length(view.factors) == 1, "single entries of its rows are looked up"),
            )
            uses.enter(view, "embedding", line, parts, stop=stop, view=view, met_as=met_as)
        elif view.fed_by_constant:
            # A weight that was contracted with a constant, for example with a state of zeros.
            inputs = tuple(factor for link in view.links for factor in link.factors)
            parts = parts_of(("in", inputs), ("out", view.factors), ("batch", view.batch))
            stop = view.stop or first_stop(line, (view.is_linked, "it is contracted with a parameter and a constant"))
            outputs.append(uses.enter(view, "weight", line, parts, normalized=view.normalized, stop=stop))
        else:
            is_bias = value.fed_by_constant
            if not is_bias:
                stop = stop or Stop("it is a signal itself, no weight of one", line, Why.SIGNAL)
            parts = parts_of(("out", view.factors), ("batch", view.batch))
            uses.enter(view, "bias" if is_bias else "other", line, parts, stop=stop)
    return Value(
        shape=value.shape, data=True, inputless=not value.data, outputs=tuple(outputs), stretched=value.stretched
    )


def constants_met(left: Value, right: Value, uses: Uses, line: str) -> None:
    """Note weights that are contracted with a constant and then multiplied with a signal, without a function between.

    Such a weight may be one of that signal, whose entries the constant mixes first.

    Args:
        left: one signal.
        right: the other.
        uses: the uses so far.
        line: the line.
    """
    for value, other in ((left, right), (right, left)):
        if value.inputless and other.data and not other.inputless:
            for use in (uses.of(view) for view in value.outputs):
                if use.is_of_a_constant:
                    use.halt(CONSTANT_FIRST, line)


def consume(
    views: tuple[View, ...],
    roles: Sequence[Part],
    old_axes: Sequence[int | None],
    shape: Sequence[int],
    uses: Uses,
    line: str,
    what: What = "weight",
    strides: tuple[float, float] = (1, 1),
) -> tuple[View, ...]:
    """Enter the uses of every parameter in a value that is contracted with the signal.

    Args:
        views: the parameters in the value.
        roles: what each axis of the value does.
        old_axes: for each axis of the result, the axis of the value it comes from.
        shape: shape of the result.
        uses: where to enter.
        line: the line.
        what: contraction or convolution.
        strides: by how much strides divide the effective fans.

    Returns:
        The outputs of each parameter, as views of the result.
    """
    every_parts: list[Parts] = [{} for _ in views]
    for view, parts in zip(views, every_parts, strict=True):
        for axis, role in zip(view.axes, roles, strict=True):
            assign(parts, opened(axis), role)
    direct = ["in" in parts.values() for parts in every_parts]
    _resolve_links(views, every_parts)
    outputs = []
    for index, (view, parts) in enumerate(zip(views, every_parts, strict=True)):
        assign(parts, (*view.batch, *opened(view.looked)), "batch")
        assign(parts, view.added_up, "in")
        if view.fed_by_constant and not direct[index]:
            # The axis that is summed over is one of the constant: the inputs are the factors that the constant mixes.
            assign(parts, (factor for link in view.links if link.number < 0 for factor in link.factors), "in")
        kind, stop = _judged(index, views, every_parts, direct, roles)
        numbers = {link.number for link in view.links}
        through = {other.param for other in views if any(link.number in numbers for link in other.links)}
        inside = frozenset(factor for factor, part in parts.items() if part in INPUTS)
        output = uses.enter(
            rearranged(view, old_axes, shape),
            what if kind == "weight" else kind,
            line,
            {factor: "along" if kind == "scale" and factor in inside else part for factor, part in parts.items()},
            strides=(strides[0] / view.share, strides[1] / view.share) if kind == "weight" else (1, 1),
            inside=inside,
            through=frozenset(through - {view.param}),
            normalized=view.normalized,
            stop=stop if view.running and _is_whole_sum(view, parts) else view.stop or stop,
            view=view,
        )
        outputs.append(output)
    for (view, left), (_, right) in itertools.combinations(zip(views, outputs, strict=True), 2):
        if left.param == right.param and not view.paired:
            note_sum(left, right, uses, line)
    return tuple(outputs)


def _resolve_links(views: tuple[View, ...], every_parts: list[Parts]) -> None:
    """Set what linked factors do where parameters are contracted with each other before the signal.

    Of two linked parameters, the one with input axes comes first: the linked factors are its outputs, and inputs of the
    other. A link stays open where both have input axes, or neither has.

    Args:
        views: the parameters.
        every_parts: for each of them, what its factors do.
    """
    has_inputs = ["in" in parts.values() for parts in every_parts]
    open_links = {link.number for view in views for link in view.links if link.number > 0}
    is_new = True
    while is_new:
        is_new = False
        for number in sorted(open_links):
            linked = [index for index, view in enumerate(views) if any(link.number == number for link in view.links)]
            if len({has_inputs[index] for index in linked}) == 1:
                continue
            open_links.remove(number)
            is_new = True
            for index in linked:
                factors = (factor for link in views[index].links if link.number == number for factor in link.factors)
                assign(every_parts[index], factors, "out" if has_inputs[index] else "in")
                has_inputs[index] = True


def _is_whole_sum(view: View, parts: Parts) -> bool:
    """Return whether all entries of a running sum are summed over, and with them each entry of the parameter."""
    axes = {factor.axis for factor in view.running}
    cut = [*(f for slot in view.slots if slot.partial for f in slot.factors), *(factor for factor, _ in view.fixed)]
    return all(parts.get(factor) == "in" for factor in view.running) and all(factor.axis not in axes for factor in cut)


def _judged(
    number: int, views: tuple[View, ...], every_parts: list[Parts], direct: list[bool], roles: Sequence[Part]
) -> tuple[What, Stop | None]:
    """Return as what a contraction uses a parameter, and why that can't be told.

    Args:
        number: the number of the parameter's view.
        views: the parameters that are contracted with the signal together.
        every_parts: for each of them, what its factors do.
        direct: for each of them, whether the contraction sums over an axis of it.
        roles: what each axis of the operand does.
    """
    view, parts = views[number], every_parts[number]
    is_summed = not INPUTS.isdisjoint(roles)
    if view.picked:
        return "weight", Stop("rows of it are picked by constant indices")
    if view.fed_by_constant and (direct[number] or len(view.links) > 1 or not is_summed):
        return "weight", Stop("it is contracted with a constant first")
    if any(factor not in parts for link in view.links for factor in link.factors):
        return "weight", Stop("it is contracted with another parameter, and which comes first can't be told")
    if view.is_linked and not _is_low_rank(number, views, direct):
        return "weight", Stop(
            "it is contracted with another parameter, with no weight beside them; which comes first can't be told"
        )
    if view.times:
        is_matrix = [{"in", "out"} <= set(parts.values()) for parts in every_parts]
        is_by_matrix = any(is_matrix[index] for index, other in enumerate(views) if other.param in view.times)
        if is_matrix[number] != is_by_matrix:
            return "scale" if is_by_matrix else "weight", None
        return "weight", Stop(
            "it is multiplied entry by entry with another parameter; which is the weight can't be told"
        )
    if not view.factors and len(views) > 1:
        return "weight", Stop("it scales another parameter, and has no axes")
    if INPUTS.isdisjoint(parts.values()) or (view.added_up and not is_summed):
        return "weight", Stop("no axis of it is summed over")
    if not view.links and _is_repeated(view, roles):
        return "weight", Stop("it is repeated along what is summed over")
    if not view.links and "out" not in parts.values() and _is_same(view, roles):
        return "weight", Stop("it is the same for every output")
    if not view.links and len(views) > 1 and _is_broadcast(view, views):
        return "weight", Stop("it is added to a larger parameter before it meets the signal")
    return "weight", None


def _is_repeated(view: View, roles: Sequence[Part]) -> bool:
    """Return whether entries are repeated along an axis that is summed over, so that fans are not defined."""
    summed = (factor for axis, role in zip(view.axes, roles, strict=True) if role in INPUTS for factor in axis)
    return any((f.axis == FOREIGN and f.size > 1) or (isinstance(f, Slot) and f.repeats) for f in summed)


def _is_same(view: View, roles: Sequence[Part]) -> bool:
    """Return whether a parameter is broadcast along an axis of outputs."""
    pairs = zip(view.axes, roles, strict=True)
    return any(role == "out" and is_foreign(axis) and length(axis) > 1 for axis, role in pairs)


def _is_low_rank(number: int, views: tuple[View, ...], direct: list[bool]) -> bool:
    """Return whether a product of parameters is added to a weight, and so is a weight of low rank itself.

    Without the weight beside it `A @ B @ x` may also be learned queries times their weight, contracted with keys.
    """
    others = [view for index, view in enumerate(views) if index != number and direct[index]]
    return any(not view.links and len(view.factors) > 1 for view in others)


def _is_broadcast(view: View, views: tuple[View, ...]) -> bool:
    """Return whether a parameter is the same along an axis along which another one has different entries."""
    return any(is_foreign(view.axes[axis]) for other in views for axis in other.marked)


@dataclass(frozen=True, slots=True)
class Side:
    """An operand of a contraction.

    Attributes:
        value: the operand.
        summed: its axes that are summed over.
        batch: its axes that the other operand has, too.
        free: its other axes.
        old_axes: for each axis of the result, the axis of the operand it comes from.
    """

    value: Value
    summed: Sequence[int]
    batch: Sequence[int]
    free: Sequence[int]
    old_axes: Sequence[int | None]

    def summed_factors(self, view: View) -> Axis:
        """Return the factors of a view of the operand that are summed over."""
        return tuple(factor for axis in self.summed for factor in opened(view.axes[axis]))


def sides_of(eqn: Any, values: Sequence[Value]) -> tuple[Side, Side]:
    """Return the operands of a `dot_general`."""
    summed, batch = eqn.params["dimension_numbers"]
    left, right = (other_axes(len(values[side].shape), (*summed[side], *batch[side])) for side in (0, 1))
    first = Side(values[0], summed[0], batch[0], left, [*batch[0], *left, *[None] * len(right)])
    return first, Side(values[1], summed[1], batch[1], right, [*batch[1], *[None] * len(left), *right])


def dot_general(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value:
    """Follow a contraction: of a parameter with the signal, of two parameters, or of two signals."""
    shape = shapes_of(eqn)[0]
    left, right = _settled(*sides_of(eqn, values), uses, line)
    if left.value.weights and right.value.weights:
        number = next(uses.links)
        views = (view for side in (left, right) for view in _linked(side, side.value.weights, number, shape))
        return Value(shape=shape, weights=tuple(views))
    if not left.value.weights and not right.value.weights:
        return _of_signals(left, right, shape, uses, line)
    weight, signal = (left, right) if left.value.weights else (right, left)
    if not signal.value.data:
        checked = [_whole_or_halted(view, weight.summed, line) for view in weight.value.weights]
        return Value(shape=shape, data=weight.value.data, weights=_linked(weight, checked, -next(uses.links), shape))
    axes = range(len(weight.value.shape))
    roles: list[Part] = ["in" if axis in weight.summed else "batch" if axis in weight.batch else "out" for axis in axes]
    _confirm_batch(signal, weight, uses)
    for view in signal.value.outputs:
        uses.of(view).outputs.rejoined |= {factor for axis in signal.summed for factor in view.axes[axis]}
    outputs = uses.with_axes(consume(weight.value.weights, roles, weight.old_axes, shape, uses, line))
    _note_gates(signal, weight, uses)
    batch = len(weight.batch)
    flat = (axis for axis, old in enumerate(signal.old_axes) if axis >= batch and old in signal.value.stretched)
    return Value(shape=shape, data=True, outputs=outputs, stretched=frozenset(flat))


def _of_signals(left: Side, right: Side, shape: tuple[int, ...], uses: Uses, line: str) -> Value:
    """Follow a contraction of two signals, or of a signal with a constant."""
    constants_met(left.value, right.value, uses, line)
    outputs: list[View] = []
    for side, other in ((left, right), (right, left)):
        if other.value.data:
            _note_noise(side, uses, line)
        elif len(other.value.shape) == len(side.summed) + len(side.batch):
            note_mixed(side.value.outputs, side.summed, uses, line)  # weighted by constants, and added up
        _note_kernels(side.value, other.value, side.summed, side.free, uses)
        outputs += _beside_a_sum(side, other.value, shape, uses)
    flat = (
        axis
        for axis in range(len(shape))
        if all(side.old_axes[axis] is None or side.old_axes[axis] in side.value.stretched for side in (left, right))
    )
    data, batch = (left.value.data, right.value.data), len(left.batch)
    gates: tuple[View, ...] = ()
    if all(data) and batch and not left.summed and bool(left.free) != bool(right.free):
        # One signal has only the batch axes: it multiplies the other by a factor, constant along the last axes.
        axes = ((Factor(axis, 1, size),) if axis < batch else foreign(size) for axis, size in enumerate(shape))
        gates = (View(param=FOREIGN, axes=tuple(axes)),)
    return Value(shape=shape, data=any(data), outputs=tuple(outputs), gates=gates, stretched=frozenset(flat))


def _linked(side: Side, views: Sequence[View], number: int, shape: tuple[int, ...]) -> tuple[View, ...]:
    """Return the parameters of an operand in a contraction with others, or with a constant."""
    return tuple(
        replace(rearranged(view, side.old_axes, shape), links=(*view.links, Link(number, side.summed_factors(view))))
        for view in views
    )


def _beside_a_sum(side: Side, other: Value, shape: tuple[int, ...], uses: Uses) -> list[View]:
    """Return the outputs of one of two contracted signals in the result: those along axes that are not summed over.

    Args:
        side: the signal that holds them.
        other: the other one.
        shape: the shape of the result.
        uses: the uses so far.
    """
    outputs = []
    for view in side.value.outputs:
        use = uses.of(view)
        factors = view.along(*side.summed)
        is_by_constant = not other.data and all(use.parts.get(factor) == "out" for factor in factors)
        if is_by_constant or not factors or (side.value.inputless and use.is_of_a_constant):
            is_scaled, is_summed = view.scaled or other.data or side.value.inputless, view.summed or other.data
            outputs.append(replace(rearranged(view, side.old_axes, shape), scaled=is_scaled, summed=is_summed))
    return outputs


def _note_kernels(signal: Value, other: Value, summed: Sequence[int], free: Sequence[int], uses: Uses) -> None:
    """Note outputs that are contracted with the signal as a weight is: kernels that the data make, or mix.

    Args:
        signal: the signal that holds the outputs.
        other: the signal they are contracted with.
        summed: axes of the first signal that are summed over.
        free: axes of the first signal that are axes of the result, but not of the other signal.
        uses: the uses so far.
    """
    if not other.data or other.outputs:
        return
    for view in signal.outputs:
        use, axes = uses.of(view), set(view.marked)
        if use.what == "weight" and not view.scaled and axes & set(summed) and axes & set(free):
            use.makes_weights = True


def _note_noise(side: Side, uses: Uses, line: str) -> None:
    """Note weights to which noise was added before a signal is contracted with them; they look like biases of it."""
    for view in side.value.outputs:
        use = uses.of(view)
        is_alone = use.what == "bias" and not use.biased
        if is_alone and len(view.marked) > 1 and not set(view.marked).isdisjoint(side.summed):
            use.halt("a signal is added to it, and another is contracted with the sum", line)


def _note_gates(signal: Side, weight: Side, uses: Uses) -> None:
    """Note inputs along which a factor of the signal varies that is constant along others: it may weight a stack."""
    for gate in signal.value.gates:
        varies = [not is_foreign(gate.axes[axis]) for axis in signal.summed]
        if all(varies) or not any(length(gate.axes[axis]) > 1 for axis in signal.summed):
            continue
        gated = [axis for axis, is_gated in zip(weight.summed, varies, strict=True) if is_gated]
        for use in uses.all[-len(weight.value.weights) :]:
            if use.what == "weight":
                use.gated |= set(use.view.along(*gated))


def _whole_or_halted(view: View, summed: Sequence[int], line: str) -> View:
    """Return a view that is contracted with a constant, halted where only some entries of the axis take part."""
    if any(isinstance(factor, Slot) and factor.partial for axis in summed for factor in view.axes[axis]):
        return view.halted(Stop("some of its entries are contracted with a constant, and others are not", line))
    return view


def _confirm_batch(signal: Side, weight: Side, uses: Uses) -> None:
    """Note output axes that are batch axes of the next weight: they are batch axes of both weights.

    A part of a stored axis is not one: it is an output axis of a dense layer, even if the next weight is a stack.
    """
    for signal_axis, weight_axis in zip(signal.batch, weight.batch, strict=True):
        if not any(weight_axis in view.marked for view in weight.value.weights):
            continue
        for view in (view for view in signal.value.outputs if not view.summed):
            use = uses.of(view)
            for factor in view.axes[signal_axis]:
                if factor.size > 1 and any(piece.is_inside(factor) and piece.axis >= 0 for piece in use.parts):
                    is_part = any(piece.axis == factor.axis and not piece.is_inside(factor) for piece in use.parts)
                    use.outputs.members |= set() if is_part else {factor}


def _settled(left: Side, right: Side, uses: Uses, line: str) -> tuple[Side, Side]:
    """Return the operands, with look-ups and outputs for constants turned into signals where they are used as such."""

    def is_member(side: Side, other: Value) -> bool:
        """Return whether a look-up picks weights, such as experts, instead of rows of an embedding."""
        if not side.value.looked or other.weights or not other.data:
            return False
        summed = {factor for view in side.value.weights for factor in side.summed_factors(view)}
        factors = {factor for view in side.value.weights for factor in view.factors if factor.size > 1}
        return bool(factors & summed) and bool(factors - summed)

    def ready(side: Side, other: Value) -> Side:
        value = side.value
        met_as: MetAs = "factor" if other.weights and not other.looked else ""
        if value.looked and not is_member(side, other):
            return replace(side, value=settle(value, uses, line, met_as))
        if value.fed_by_constant and other.weights:
            return replace(side, value=settle(value, uses, line))
        return side

    first = ready(left, right.value)
    second = ready(right, first.value)
    return first if first is not left else ready(left, second.value), second


def convolution(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value:
    """Follow a convolution: plain, grouped, dilated, strided or transposed."""
    shape, numbers, groups = shapes_of(eqn)[0], eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    out_axis, in_axis, *_ = numbers.rhs_spec
    signal, kernel = settle(values[0], uses, line), values[1]
    kept_outputs = _beside_channels(signal, numbers, groups, shape)
    if kernel.looked and not signal.data:
        kernel = settle(kernel, uses, line)
    if not kernel.weights:
        constants_met(signal, kernel, uses, line)
        _note_kernels(kernel, signal, [in_axis], [out_axis], uses)
        return Value(shape=shape, data=signal.data or kernel.data, outputs=kept_outputs)
    kernel = _ungrouped(kernel, out_axis, groups, eqn.params["batch_group_count"], line)
    # The output axis of the kernel is split into two while its use is entered: groups, and outputs of one group.
    roles: list[Part] = ["in" if axis == in_axis else "field" for axis in range(len(kernel.shape))]
    roles[out_axis : out_axis + 1] = ["batch", "out"]
    grouped = tuple(filter(None, (_with_groups(view, out_axis, groups) for view in kernel.weights)))
    channels = numbers.out_spec[1]
    old_axes: list[int | None] = [None] * len(shape)
    old_axes[channels : channels + 1] = [out_axis, out_axis + 1]
    long = (*shape[:channels], groups, shape[channels] // groups, *shape[channels + 1 :])
    up, down = math.prod(eqn.params["lhs_dilation"]), math.prod(eqn.params["window_strides"])
    what: What = "transposed" if up > 1 else "conv"
    outputs = consume(grouped, roles, old_axes, long, uses, line, what, (up, down))
    joined = tuple(_without_groups(view, channels) for view in outputs)
    return Value(shape=shape, data=True, outputs=(*uses.with_axes(joined), *kept_outputs))


def _beside_channels(signal: Value, numbers: Any, groups: int, shape: tuple[int, ...]) -> tuple[View, ...]:
    """Return the outputs of a signal in the result of a depthwise convolution, in their channels."""
    (old_batch, old_channels, *_), (batch, channels, *_) = numbers.lhs_spec, numbers.out_spec
    if not groups == signal.shape[old_channels] == shape[channels] or shape[batch] != signal.shape[old_batch]:
        return ()
    old_axes: list[int | None] = [None] * len(shape)
    old_axes[batch], old_axes[channels] = old_batch, old_channels
    return scaled(kept_whole(signal.outputs, old_axes, shape))


def _ungrouped(kernel: Value, out_axis: int, groups: int, batch_groups: int, line: str) -> Value:
    """Return a kernel, halted where its groups can't be read."""
    if batch_groups > 1:
        stop = Stop("its convolution groups the batch", line)
    elif any(_with_groups(view, out_axis, groups) is None for view in kernel.weights):
        stop = Stop("the groups of its convolution cut an axis unevenly", line)
    else:
        return kernel
    whole = foreign(kernel.shape[out_axis])
    return kernel.with_weights(lambda view: view.halted(stop).with_axis(out_axis, whole))


def _with_groups(view: View, axis: int, groups: int) -> View | None:
    """Return a kernel whose output axis is split into groups and the outputs of one group."""
    if groups == 1:
        return replace(view, axes=(*view.axes[:axis], foreign(1), *view.axes[axis:]))
    sizes = [length(factors) for factors in view.axes]
    return reshaped(view, (*sizes[:axis], groups, sizes[axis] // groups, *sizes[axis + 1 :]))


def _without_groups(view: View, axis: int) -> View:
    """Return the outputs of a convolution with the groups and the outputs of one group as one axis."""
    factors = (*view.axes[axis], *view.axes[axis + 1])
    channels = tuple(factor for factor in factors if factor.size > 1) or factors[:1]
    return replace(view, axes=(*view.axes[:axis], channels, *view.axes[axis + 2 :]))
