"""Contractions of a parameter with the signal (`dot_general`, convolutions), and what they say of its axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from initax._model._reason import Why
from initax._trace._factors import FOREIGN, Axis, Factor, Slot, foreign, is_foreign, length
from initax._trace._indices import shapes_of
from initax._trace._sums import mixed, note_sum
from initax._trace._uses import CONSTANT_FIRST, MetAs, Part, Uses, Value, What, assign, parts_of, resolve_links
from initax._trace._views import Link, Stop, View, first_stop, in_place, opened, placed, reshaped, scaled


def settle(value: Value, uses: Uses, line: str, met_as: MetAs = "") -> Value:
    """Return a value as a signal: look-ups are embeddings, weights of constants are weights, others are the signal.

    Args:
        value: the value.
        uses: where uses are entered.
        line: the line.
        met_as: for look-ups, what they are to what they meet.
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
            looked = opened(view.looked)
            parts = parts_of(("out", looked), ("in", view.own), ("batch", (*view.batch, *view.tables)))
            stop = stop or first_stop(
                line,
                (view.picked and not view.looked, "rows of it are picked by constant indices"),
                (view.fixed and length(view.own) == 1, "single entries of its rows are looked up"),
            )
            uses.enter(view, "embedding", line, parts, stop=stop, view=view, met_as=met_as)
        elif view.fed_by_constant:
            # A weight that was contracted with a constant, e.g. with a state of zeros.
            parts = parts_of(*(("in", link.factors) for link in view.links), ("out", view.own), ("batch", view.batch))
            stop = view.stop or first_stop(line, (view.is_linked, "it is contracted with a parameter and a constant"))
            outputs.append(uses.enter(view, "weight", line, parts, normalized=view.normalized, stop=stop))
        else:
            others = value.fed_by_constant
            if not others:
                stop = stop or Stop("it is a signal itself, no weight of one", line, Why.SIGNAL)
            parts = parts_of(("out", view.own), ("batch", view.batch))
            uses.enter(view, "bias" if others else "other", line, parts, stop=stop)
    return Value(
        shape=value.shape, data=True, inputless=not value.data, outputs=tuple(outputs), stretched=value.stretched
    )


def constants_met(left: Value, right: Value, uses: Uses, line: str) -> None:
    """Note weights that are contracted with a constant and then multiplied with a signal, without a function between.

    Such a weight may belong to that signal; the constant only mixes its entries first.

    Args:
        left: one signal.
        right: the other.
        uses: the uses so far.
        line: the line.
    """
    for value, other in ((left, right), (right, left)):
        if value.inputless and other.data and not other.inputless:
            for use in (uses.found[view.use] for view in value.outputs):
                if use.is_of_a_constant:
                    use.halt(CONSTANT_FIRST, line)


def consume(
    views: tuple[View, ...],
    roles: Sequence[Part],
    places: Sequence[int | None],
    shape: Sequence[int],
    uses: Uses,
    line: str,
    what: What = "weight",
    strides: tuple[float, float] = (1, 1),
) -> tuple[View, ...]:
    """Enter the uses of every parameter in a value that is contracted with the signal.

    Args:
        views: the parameters in the value.
        roles: what each axis of it does.
        places: for each axis of the result, the axis of the value it comes from.
        shape: shape of the result.
        uses: where to enter.
        line: the line.
        what: contraction or convolution.
        strides: by how much strides divide the effective fans.

    Returns:
        The outputs of each parameter, as views of the result.
    """
    parts: list[dict[Factor, Part]] = [{} for _ in views]
    for view, own in zip(views, parts, strict=True):
        for axis, role in zip(view.axes, roles, strict=True):
            assign(own, opened(axis), role)
    direct = [any(part == "in" for part in own.values()) for own in parts]
    resolve_links(views, parts)
    outputs = []
    for place, (view, own) in enumerate(zip(views, parts, strict=True)):
        assign(own, (*view.batch, *opened(view.looked)), "batch")
        assign(own, view.added_up, "in")
        if view.fed_by_constant and not direct[place]:
            # What the signal meets is an axis of the constant: an output sums over what the constant mixes there.
            assign(own, (factor for link in view.links if link.number < 0 for factor in link.factors), "in")
        kind, stop = _judged(place, views, parts, direct, roles)
        through = {each.param for each in views if {a.number for a in each.links} & {b.number for b in view.links}}
        inside = frozenset(factor for factor, part in own.items() if part in ("in", "field"))
        output = uses.enter(
            placed(view, places, shape),
            what if kind == "weight" else kind,
            line,
            {factor: "along" if kind == "scale" and factor in inside else part for factor, part in own.items()},
            strides=(strides[0] / view.share, strides[1] / view.share) if kind == "weight" else (1, 1),
            inside=inside,
            through=frozenset(through - {view.param}),
            normalized=view.normalized,
            stop=stop if view.running and _is_whole_sum(view, own) else view.stop or stop,
            view=view,
        )
        outputs.append(output)
    for (view, output), (_, other) in itertools.combinations(zip(views, outputs, strict=True), 2):
        if output.param == other.param and not view.paired:
            note_sum(output, other, uses, line)
    return tuple(outputs)


def _is_whole_sum(view: View, own: dict[Factor, Part]) -> bool:
    """Return whether all entries of a running sum are summed over, and with them each entry of the parameter."""
    axes = {each.axis for each in view.running}
    cut = [*(f for slot in view.slots if slot.partial for f in slot.factors), *(factor for factor, _ in view.fixed)]
    return all(own.get(each) == "in" for each in view.running) and all(factor.axis not in axes for factor in cut)


def _judged(
    place: int, views: tuple[View, ...], parts: list[dict[Factor, Part]], direct: list[bool], roles: Sequence[Part]
) -> tuple[What, Stop | None]:
    """Return what a parameter is in a contraction, in which others may take part, or why that can't be told."""
    view, own = views[place], parts[place]
    is_summed = not {"in", "field"}.isdisjoint(roles)
    if view.picked:
        return "weight", Stop("rows of it are picked by constant indices")
    if view.fed_by_constant and (direct[place] or len(view.links) > 1 or not is_summed):
        return "weight", Stop("it is contracted with a constant first")
    if any(factor not in own for link in view.links for factor in link.factors):
        return "weight", Stop("it is contracted with another parameter, and which comes first can't be told")
    if view.is_linked and not _is_low_rank(place, views, direct):
        return "weight", Stop(
            "it is contracted with another parameter, with no weight beside them; which comes first can't be told"
        )
    if view.times:
        full = [{"in", "out"} <= set(part.values()) for part in parts]
        is_by_weight = any(full[index] for index, each in enumerate(views) if each.param in view.times)
        if full[place] != is_by_weight:
            return "scale" if is_by_weight else "weight", None
        return "weight", Stop(
            "it is multiplied entry by entry with another parameter; which is the weight can't be told"
        )
    if not view.own and len(views) > 1:
        return "weight", Stop("it scales another parameter, and has no axes")
    if {"in", "field"}.isdisjoint(own.values()) or (view.added_up and not is_summed):
        return "weight", Stop("no axis of it is summed over")
    if not view.links and _is_repeated(view, roles):
        return "weight", Stop("it is repeated along what is summed over")
    if not view.links and "out" not in own.values() and _is_same(view, roles):
        return "weight", Stop("it is the same for every output")
    if not view.links and len(views) > 1 and _is_broadcast(place, views):
        return "weight", Stop("it is added to a larger parameter before it meets the signal")
    return "weight", None


def _is_repeated(view: View, roles: Sequence[Part]) -> bool:
    """Return whether entries are repeated along what is summed over, so that its fans are not defined."""
    summed = (factor for axis, role in zip(view.axes, roles, strict=True) if role in ("in", "field") for factor in axis)
    return any((f.axis == FOREIGN and f.size > 1) or (isinstance(f, Slot) and f.repeats) for f in summed)


def _is_same(view: View, roles: Sequence[Part]) -> bool:
    """Return whether a parameter is broadcast along an axis of outputs."""
    pairs = zip(view.axes, roles, strict=True)
    return any(role == "out" and is_foreign(axis) and length(axis) > 1 for axis, role in pairs)


def _is_low_rank(place: int, views: tuple[View, ...], direct: list[bool]) -> bool:
    """Return whether a product of parameters is read in the order in which the signal goes through them.

    `A @ B @ x` may be two factors of one weight, or learned queries times their own weight that meet keys. Another
    weight that is added to them says that it is the first.
    """
    return any(
        index != place and direct[index] and not each.links and len(each.own) > 1 for index, each in enumerate(views)
    )


def _is_broadcast(place: int, views: tuple[View, ...]) -> bool:
    """Return whether another parameter has entries along an axis along which one is the same."""
    return any(is_foreign(views[place].axes[axis]) for view in views for axis in view.marked)


@dataclass(frozen=True, slots=True)
class Side:
    """An operand of a contraction.

    Attributes:
        value: what it holds.
        summed: its axes that are summed over.
        batch: its axes that the other operand has, too.
        free: its other axes.
        places: for each axis of the result, the one of its axes that it comes from.
    """

    value: Value
    summed: Sequence[int]
    batch: Sequence[int]
    free: Sequence[int]
    places: Sequence[int | None]

    def goes(self, view: View) -> Axis:
        """Return the factors of a parameter in it that are summed over."""
        return tuple(factor for axis in self.summed for factor in opened(view.axes[axis]))


def sides_of(eqn: Any, values: Sequence[Value]) -> tuple[Side, Side]:
    """Return the operands of a `dot_general`."""
    summed, batch = eqn.params["dimension_numbers"]
    left, right = (
        [axis for axis in range(len(value.shape)) if axis not in (*gone, *kept)]
        for value, gone, kept in zip(values, summed, batch, strict=True)
    )
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
    one, other = (left, right) if left.value.weights else (right, left)
    if not other.value.data:
        whole = [_whole_or_halted(view, one.summed, line) for view in one.value.weights]
        return Value(shape=shape, data=one.value.data, weights=_linked(one, whole, -next(uses.links), shape))
    roles: list[Part] = [
        "in" if axis in one.summed else "batch" if axis in one.batch else "out" for axis in range(len(one.value.shape))
    ]
    _confirm_batch(other, one, uses)
    for view in other.value.outputs:
        uses.found[view.use].outputs.rejoined |= {factor for axis in other.summed for factor in view.axes[axis]}
    outputs = uses.with_axes(consume(one.value.weights, roles, one.places, shape, uses, line))
    _note_gates(other, one, uses)
    batch = len(one.batch)
    flat = (index for index, old in enumerate(other.places) if index >= batch and old in other.value.stretched)
    return Value(shape=shape, data=True, outputs=outputs, stretched=frozenset(flat))


def _of_signals(left: Side, right: Side, shape: tuple[int, ...], uses: Uses, line: str) -> Value:
    """Follow a contraction of two signals, or of a signal with a constant."""
    constants_met(left.value, right.value, uses, line)
    outputs: list[View] = []
    for side, other in ((left, right), (right, left)):
        if other.value.data:
            _noisy(side, uses, line)
        elif len(other.value.shape) == len(side.summed) + len(side.batch):
            mixed(side.value.outputs, side.summed, uses, line)  # weighed by constants, and added up
        _note_kernels(side.value, other.value, side.summed, side.free, uses)
        outputs += _beside_a_sum(side, other.value, shape, uses)
    is_flat = (
        all(side.places[axis] is None or side.places[axis] in side.value.stretched for side in (left, right))
        for axis in range(len(shape))
    )
    data, batch = (left.value.data, right.value.data), len(left.batch)
    gates: tuple[View, ...] = ()
    if all(data) and batch and not left.summed and bool(left.free) != bool(right.free):
        # One of them is a factor, the same along the last axes of the result.
        axes = ((Factor(axis, 1, size),) if axis < batch else foreign(size) for axis, size in enumerate(shape))
        gates = (View(param=FOREIGN, axes=tuple(axes)),)
    return Value(
        shape=shape,
        data=any(data),
        outputs=tuple(outputs),
        gates=gates,
        stretched=frozenset(axis for axis, flat in enumerate(is_flat) if flat),
    )


def _linked(side: Side, views: Sequence[View], number: int, shape: tuple[int, ...]) -> tuple[View, ...]:
    """Return the parameters of an operand in a contraction with others, or with a constant."""
    return tuple(
        replace(placed(view, side.places, shape), links=(*view.links, Link(number, side.goes(view)))) for view in views
    )


def _beside_a_sum(side: Side, other: Value, shape: tuple[int, ...], uses: Uses) -> list[View]:
    """Return the outputs that a contraction of two signals leaves, along the axes over which it does not sum.

    Args:
        side: the signal that holds them.
        other: the other one.
        shape: the shape of the result.
        uses: the uses so far.
    """
    found = []
    for view in side.value.outputs:
        use = uses.found[view.use]
        own = [factor for axis in side.summed for factor in view.along(axis)]
        constant = not other.data and all(use.parts.get(factor) == "out" for factor in own)
        if constant or not own or (side.value.inputless and use.is_of_a_constant):
            is_scaled, is_summed = view.scaled or other.data or side.value.inputless, view.summed or other.data
            found.append(replace(placed(view, side.places, shape), scaled=is_scaled, summed=is_summed))
    return found


def _note_kernels(signal: Value, other: Value, summed: Sequence[int], free: Sequence[int], uses: Uses) -> None:
    """Note outputs that are contracted with the signal as a weight is: kernels that the data make, or mix.

    Args:
        signal: the signal that holds the outputs.
        other: what they are contracted with.
        summed: axes of the signal that are summed over.
        free: axes of the signal that stay, and that the other one does not have.
        uses: the uses so far.
    """
    if not other.data or other.outputs:
        return
    for view in signal.outputs:
        use, own = uses.found[view.use], set(view.marked)
        if use.what == "weight" and not view.scaled and own & set(summed) and own & set(free):
            use.makes_weights = True


def _noisy(side: Side, uses: Uses, line: str) -> None:
    """Note that what looks like a bias is a weight with noise added to it, which another signal is contracted with."""
    for view in side.value.outputs:
        use = uses.found[view.use]
        alone = use.what == "bias" and not use.biased
        if alone and len(view.marked) > 1 and not set(view.marked).isdisjoint(side.summed):
            use.halt("a signal is added to it, and another is contracted with the sum", line)


def _note_gates(signal: Side, weight: Side, uses: Uses) -> None:
    """Note along which inputs a factor of the signal varies that is the same along others: it may weigh a stack."""
    for gate in signal.value.gates:
        varies = [not is_foreign(gate.axes[axis]) for axis in signal.summed]
        if all(varies) or not any(length(gate.axes[axis]) > 1 for axis in signal.summed):
            continue
        gated = [axis for axis, own in zip(weight.summed, varies, strict=True) if own]
        for use in uses.found[-len(weight.value.weights) :]:
            if use.what == "weight":
                use.gated |= {factor for axis in gated for factor in use.view.along(axis)}


def _whole_or_halted(view: View, summed: Sequence[int], line: str) -> View:
    """Return a view that is contracted with a constant, halted where only some entries of the axis take part."""
    if any(isinstance(factor, Slot) and factor.partial for axis in summed for factor in view.axes[axis]):
        return view.halted(Stop("some of its entries are contracted with a constant, and others are not", line))
    return view


def _confirm_batch(signal: Side, weight: Side, uses: Uses) -> None:
    """Note output axes along which the next weight has members: they are batch axes of both weights.

    A part of a stored axis is none: the outputs of a dense layer are that, whatever takes them in.
    """
    for there, here in zip(signal.batch, weight.batch, strict=True):
        if not any(here in view.marked for view in weight.value.weights):
            continue
        for view in (view for view in signal.value.outputs if not view.summed):
            use = uses.found[view.use]
            for factor in view.axes[there]:
                if factor.size > 1 and any(each.is_inside(factor) and each.axis >= 0 for each in use.parts):
                    is_part = any(each.axis == factor.axis and not each.is_inside(factor) for each in use.parts)
                    use.outputs.members |= set() if is_part else {factor}


def _settled(left: Side, right: Side, uses: Uses, line: str) -> tuple[Side, Side]:
    """Return the operands, with look-ups and weights of constants turned into signals where they are used as such."""

    def is_member(side: Side, other: Value) -> bool:
        """Return whether a look-up picks weights, such as experts, and not rows of an embedding."""
        if not side.value.looked or other.weights or not other.data:
            return False
        taken = {factor for view in side.value.weights for factor in side.goes(view)}
        own = {factor for view in side.value.weights for factor in view.own if factor.size > 1}
        return bool(own & taken) and bool(own - taken)

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
    beside = _beside_channels(signal, numbers, groups, shape)
    if kernel.looked and not signal.data:
        kernel = settle(kernel, uses, line)
    if not kernel.weights:
        constants_met(signal, kernel, uses, line)
        _note_kernels(kernel, signal, [in_axis], [out_axis], uses)
        return Value(shape=shape, data=signal.data or kernel.data, outputs=beside)
    kernel = _ungrouped(kernel, out_axis, groups, eqn.params["batch_group_count"], line)
    # The output axis of the kernel counts for two while its use is entered: groups, and outputs of one group.
    roles: list[Part] = []
    for axis in range(len(kernel.shape)):
        if axis == out_axis:
            roles += ["batch", "out"]
        else:
            roles.append("in" if axis == in_axis else "field")
    cut = tuple(each for view in kernel.weights if (each := _cut(view, out_axis, groups)) is not None)
    channels = numbers.out_spec[1]
    places: list[int | None] = [None] * len(shape)
    places[channels : channels + 1] = [out_axis, out_axis + 1]
    long = (*shape[:channels], groups, shape[channels] // groups, *shape[channels + 1 :])
    up, down = math.prod(eqn.params["lhs_dilation"]), math.prod(eqn.params["window_strides"])
    what: What = "transposed" if up > 1 else "conv"
    outputs = consume(cut, roles, places, long, uses, line, what, (up, down))
    joined = tuple(_uncut(view, channels) for view in outputs)
    return Value(shape=shape, data=True, outputs=(*uses.with_axes(joined), *beside))


def _beside_channels(signal: Value, numbers: Any, groups: int, shape: tuple[int, ...]) -> tuple[View, ...]:
    """Return the outputs that a convolution leaves where they are, channel by channel."""
    before, after = numbers.lhs_spec, numbers.out_spec
    if not groups == signal.shape[before[1]] == shape[after[1]] or shape[after[0]] != signal.shape[before[0]]:
        return ()
    places: list[int | None] = [None] * len(shape)
    places[after[0]], places[after[1]] = before[0], before[1]
    return scaled(in_place(signal.outputs, places, shape))


def _ungrouped(kernel: Value, out_axis: int, groups: int, batch_groups: int, line: str) -> Value:
    """Return a kernel, halted where its groups can't be read."""
    if batch_groups > 1:
        stop = Stop("its convolution groups the batch", line)
    elif any(_cut(view, out_axis, groups) is None for view in kernel.weights):
        stop = Stop("the groups of its convolution cut an axis unevenly", line)
    else:
        return kernel
    whole = foreign(kernel.shape[out_axis])
    return replace(kernel, weights=tuple(view.halted(stop).with_axis(out_axis, whole) for view in kernel.weights))


def _cut(view: View, axis: int, groups: int) -> View | None:
    """Return a kernel whose output axis is split into groups and the outputs of one."""
    if groups == 1:
        return replace(view, axes=(*view.axes[:axis], foreign(1), *view.axes[axis:]))
    sizes = [length(each) for each in view.axes]
    return reshaped(view, (*sizes[:axis], groups, sizes[axis] // groups, *sizes[axis + 1 :]))


def _uncut(view: View, axis: int) -> View:
    """Return the outputs of a convolution with groups and outputs of one as one axis."""
    both = (*view.axes[axis], *view.axes[axis + 1])
    kept = tuple(factor for factor in both if factor.size > 1) or both[:1]
    return replace(view, axes=(*view.axes[:axis], kept, *view.axes[axis + 2 :]))
