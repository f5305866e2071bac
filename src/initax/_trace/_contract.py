"""Contractions of a parameter with the signal (`dot_general`, convolutions), and what they say of its axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from initax._model._reason import Why
from initax._trace._entries import marked
from initax._trace._factors import FOREIGN, Factor, Slot, foreign
from initax._trace._sums import mixed, note_sum
from initax._trace._uses import CONSTANT_FIRST, MetAs, Part, Use, Uses, Value, What, assign, resolve_links, size
from initax._trace._views import Link, Stop, View, placed, reshaped


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
        parts: dict[Factor, Part] = {}
        if view.looked or view.picked:
            assign(parts, view.opened(view.looked), "out")
            assign(parts, view.own, "in")
            assign(parts, (*view.batch, *view.tables), "batch")
            stop = view.stop or _entangled(view)
            if view.picked and not view.looked:
                stop = stop or Stop("rows of it are picked by constant indices", line)
            if view.fixed and all(factor.size == 1 for factor in view.own):
                stop = stop or Stop("single entries of its rows are looked up", line)
            use = Use(param=view.param, what="embedding", line=line, parts=parts, stop=stop, view=view, met_as=met_as)
            uses.add(use)
        elif view.fed_by_constant:
            outputs.append(_fed(view, value, uses, line))
        else:
            others = any(weight.fed_by_constant for weight in value.weights)
            assign(parts, view.own, "out")
            assign(parts, view.batch, "batch")
            stop = view.stop or _entangled(view)
            if not others:
                stop = stop or Stop("it is a signal itself, no weight of one", line, Why.SIGNAL)
            uses.add(Use(param=view.param, what="bias" if others else "other", line=line, parts=parts, stop=stop))
    return Value(
        shape=value.shape, data=True, inputless=not value.data, outputs=tuple(outputs), stretched=value.stretched
    )


def _fed(view: View, value: Value, uses: Uses, line: str) -> View:
    """Return the outputs of a weight that was contracted with a constant, e.g. with a state of zeros."""
    parts: dict[Factor, Part] = {}
    for link in view.links:
        assign(parts, link.factors, "in")
    assign(parts, view.own, "out")
    assign(parts, view.batch, "batch")
    tangled = any(link.number > 0 for link in view.links)
    stop = view.stop or (Stop("it is contracted with a parameter and a constant", line) if tangled else None)
    use = Use(param=view.param, what="weight", line=line, parts=parts, normalized=view.normalized, stop=stop)
    return View(param=view.param, axes=view.axes, use=uses.add(use))


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
                    use.stop = use.stop or Stop(CONSTANT_FIRST, line)


def _entangled(view: View) -> Stop | None:
    if view.times:
        return Stop("it is multiplied with another parameter")
    if any(link.number > 0 for link in view.links):
        return Stop("it is contracted with another parameter")
    return None


def consume(
    value: Value,
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
        value: the value that holds them.
        roles: what each axis of it does.
        places: for each axis of the result, the axis of `value` it comes from.
        shape: shape of the result.
        uses: where to enter.
        line: the line.
        what: contraction or convolution.
        strides: by how much strides divide the effective fans.

    Returns:
        The outputs of each parameter, as views of the result.
    """
    views = value.weights
    parts: list[dict[Factor, Part]] = [{} for _ in views]
    for view, own in zip(views, parts, strict=True):
        for axis, role in zip(view.axes, roles, strict=True):
            assign(own, view.opened(axis), role)
    direct = [any(part == "in" for part in own.values()) for own in parts]
    resolve_links(views, parts)
    outputs = []
    for place, (view, own) in enumerate(zip(views, parts, strict=True)):
        assign(own, (*view.batch, *view.opened(view.looked)), "batch")
        assign(own, view.added_up, "in")
        if view.fed_by_constant and not direct[place]:
            # What the signal meets is an axis of the constant: an output sums over what the constant mixes there.
            assign(own, (factor for link in view.links if link.number < 0 for factor in link.factors), "in")
        kind, stop = _judged(place, views, parts, direct, roles)
        through = {each.param for each in views if {a.number for a in each.links} & {b.number for b in view.links}}
        use = Use(
            param=view.param,
            what=what if kind == "weight" else kind,
            line=line,
            parts=own,
            strides=(strides[0] / view.share, strides[1] / view.share) if kind == "weight" else (1, 1),
            inside=frozenset(factor for factor, part in own.items() if part in ("in", "field")),
            through=frozenset(through - {view.param}),
            normalized=view.normalized,
            stop=stop if view.running and _is_whole_sum(view, own) else view.stop or stop,
            view=view,
        )
        if kind == "scale":
            use.parts = {factor: "along" if part in ("in", "field") else part for factor, part in own.items()}
        result = placed(view, places, shape)
        outputs.append(View(param=view.param, axes=result.axes, use=uses.add(use)))
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
    if view.picked:
        return "weight", Stop("rows of it are picked by constant indices")
    if view.fed_by_constant and (direct[place] or len(view.links) > 1 or not {"in", "field"} & set(roles)):
        return "weight", Stop("it is contracted with a constant first")
    if any(factor not in own for link in view.links for factor in link.factors):
        return "weight", Stop("it is contracted with another parameter, and which comes first can't be told")
    if any(link.number > 0 for link in view.links) and not _is_low_rank(place, views, direct):
        return "weight", Stop(
            "it is contracted with another parameter, with no weight beside them; which comes first can't be told"
        )
    if view.times:
        full = [_is_full(part) for part in parts]
        others = [full[index] for index, each in enumerate(views) if each.param in view.times]
        if full[place] and not any(others):
            return "weight", None
        if not full[place] and any(others):
            return "scale", None
        return "weight", Stop(
            "it is multiplied entry by entry with another parameter; which is the weight can't be told"
        )
    if not view.own and len(views) > 1:
        return "weight", Stop("it scales another parameter, and has no axes")
    if not {"in", "field"} & set(own.values()) or (view.added_up and not {"in", "field"} & set(roles)):
        return "weight", Stop("no axis of it is summed over")
    if not view.links and (repeated := _repeated(view, own, roles)):
        return "weight", Stop(repeated)
    if not view.links and len(views) > 1 and _is_broadcast(place, views):
        return "weight", Stop("it is added to a larger parameter before it meets the signal")
    return "weight", None


def _repeated(view: View, own: dict[Factor, Part], roles: Sequence[Part]) -> str:
    """Return why the fans of repeated entries are not defined; empty where no entries are repeated."""
    alone = [index for index, axis in enumerate(view.axes) if all(f.axis == FOREIGN for f in axis) and size(axis) > 1]
    if any(
        (f.axis == FOREIGN and f.size > 1) or (isinstance(f, Slot) and f.repeats)
        for index, r in enumerate(roles)
        if r in ("in", "field")
        for f in view.axes[index]
    ):
        return "it is repeated along what is summed over"
    if "out" not in own.values() and any(roles[index] == "out" for index in alone):
        return "it is the same for every output"
    return ""


def _is_full(own: dict[Factor, Part]) -> bool:
    return "in" in own.values() and "out" in own.values()


def _is_low_rank(place: int, views: tuple[View, ...], direct: list[bool]) -> bool:
    """Return whether a product of parameters is read in the order in which the signal goes through them.

    `A @ B @ x` may be two factors of one weight, or learned queries times their own weight that meet keys. Another
    weight that is added to them says that it is the first.
    """
    return any(
        index != place and direct[index] and not each.links and len(each.own) > 1 for index, each in enumerate(views)
    )


def _is_broadcast(place: int, views: tuple[View, ...]) -> bool:
    own = views[place]
    for index in range(len(own.axes)):
        if all(factor.axis == FOREIGN for factor in own.axes[index]) and any(
            factor.axis != FOREIGN and factor.size > 1 for view in views for factor in view.axes[index]
        ):
            return True
    return False


def dot_general(left: Value, right: Value, eqn: Any, uses: Uses, line: str) -> Value:
    """Follow a contraction: of a parameter with the signal, of two parameters, or of two signals."""
    (left_sum, right_sum), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    shape = tuple(eqn.outvars[0].aval.shape)
    left, right = _settled(left, right, left_sum, left_batch, right_sum, uses, line)
    free_left = [axis for axis in range(len(left.shape)) if axis not in (*left_sum, *left_batch)]
    free_right = [axis for axis in range(len(right.shape)) if axis not in (*right_sum, *right_batch)]
    batch = len(left_batch)
    from_left = [*left_batch, *free_left, *[None] * len(free_right)]
    from_right = [*right_batch, *[None] * len(free_left), *free_right]
    if left.weights and right.weights:
        return _linked(left, right, left_sum, right_sum, from_left, from_right, shape, uses)
    if not left.weights and not right.weights:
        constants_met(left, right, uses, line)
        flat = _moved(left, right, from_left, from_right)
        is_gate = left.data and right.data and batch and not left_sum and bool(free_left) != bool(free_right)
        gates = (_gate(shape, batch),) if is_gate else ()
        for signal, other, axes in ((left, right, left_sum), (right, left, right_sum)):
            if other.data:
                _noisy(signal, axes, uses, line)
            if signal.outputs and not other.data and len(other.shape) == len(axes) + batch:
                mixed(signal.outputs, axes, uses, line)  # weighed by constants, and added up
        _note_mixed(left, right, left_sum, free_left, uses)
        _note_mixed(right, left, right_sum, free_right, uses)
        outputs = (
            *_beside_a_sum(left, right, left_sum, from_left, shape, uses),
            *_beside_a_sum(right, left, right_sum, from_right, shape, uses),
        )
        return Value(shape=shape, data=left.data or right.data, outputs=outputs, gates=gates, stretched=flat)
    one, other, summed, batched, places = (
        (left, right, left_sum, left_batch, from_left)
        if left.weights
        else (right, left, right_sum, right_batch, from_right)
    )
    if not other.data:
        number = -uses.link()
        views = tuple(
            replace(
                placed(view, places, shape),
                links=(*view.links, Link(number, tuple(f for axis in summed for f in view.opened(view.axes[axis])))),
            )
            for view in (_whole_or_halted(view, summed, line) for view in one.weights)
        )
        return Value(shape=shape, data=one.data, weights=views)
    roles: list[Part] = [
        "in" if axis in summed else "batch" if axis in batched else "out" for axis in range(len(one.shape))
    ]
    other_sum, other_batch = (right_sum, right_batch) if left.weights else (left_sum, left_batch)
    _confirm_batch(other, other_batch, one, batched, uses)
    for view in other.outputs:
        uses.found[view.use].outputs.rejoined |= {factor for axis in other_sum for factor in view.axes[axis]}
    outputs = uses.with_axes(consume(one, roles, places, shape, uses, line))
    if other.gates:
        _note_gates(other.gates, other_sum, one, summed, uses)
    other_places = from_right if left.weights else from_left
    return Value(shape=shape, data=True, outputs=outputs, stretched=_stretched(other, other_places, batch))


def _beside_a_sum(
    signal: Value, other: Value, summed: Sequence[int], places: Sequence[int | None], shape: tuple[int, ...], uses: Uses
) -> tuple[View, ...]:
    """Return the outputs that a contraction of two signals leaves, along the axes over which it does not sum.

    Args:
        signal: the signal that holds them.
        other: the other one.
        summed: axes of the signal that are summed over.
        places: for each axis of the result, the axis of the signal it comes from.
        shape: the shape of the result.
        uses: the uses so far.
    """
    found = []
    for view in signal.outputs:
        use = uses.found[view.use]
        own = [factor for axis in summed for factor in view.opened(view.axes[axis]) if factor.axis != FOREIGN]
        constant = not other.data and all(use.parts.get(factor) == "out" for factor in own)
        if constant or not own or (signal.inputless and use.is_of_a_constant):
            scaled, added_up = view.scaled or other.data or signal.inputless, view.summed or other.data
            found.append(replace(placed(view, places, shape), scaled=scaled, summed=added_up))
    return tuple(found)


def _note_mixed(signal: Value, other: Value, summed: Sequence[int], free: Sequence[int], uses: Uses) -> None:
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
        use, own = uses.found[view.use], set(marked(view))
        if use.what == "weight" and not view.scaled and own & set(summed) and own & set(free):
            use.makes_weights = True


def _noisy(signal: Value, axes: Sequence[int], uses: Uses, line: str) -> None:
    """Note that what looks like a bias is a weight with noise added to it, which another signal is contracted with."""
    for view in signal.outputs:
        use = uses.found[view.use]
        own = marked(view)
        alone = use.what == "bias" and not use.biased.params
        if alone and len(own) > 1 and not set(own).isdisjoint(axes):
            use.stop = use.stop or Stop("a signal is added to it, and another is contracted with the sum", line)


def _gate(shape: Sequence[int], batch: int) -> View:
    """Return the view of a signal that multiplies another one, and is the same along its last axes."""
    axes = ((Factor(axis, 1, length),) if axis < batch else foreign(length) for axis, length in enumerate(shape))
    return View(param=FOREIGN, axes=tuple(axes))


def _note_gates(
    gates: Sequence[View], signal_sum: Sequence[int], weight: Value, weight_sum: Sequence[int], uses: Uses
) -> None:
    """Note along which inputs a factor of the signal varies that is the same along others: it may weigh a stack."""
    for gate in gates:
        varies = [any(factor.axis != FOREIGN for factor in gate.axes[axis]) for axis in signal_sum]
        if all(varies) or not any(size(gate.axes[axis]) > 1 for axis in signal_sum):
            continue
        gated = [axis for axis, own in zip(weight_sum, varies, strict=True) if own]
        for use in uses.found[-len(weight.weights) :]:
            if use.view is not None and use.what == "weight":
                use.gated |= {factor for axis in gated for factor in use.view.opened(use.view.axes[axis])}


def _whole_or_halted(view: View, summed: Sequence[int], line: str) -> View:
    """Return a view that is contracted with a constant, halted where only some entries of the axis take part."""
    if any(isinstance(factor, Slot) and factor.partial for axis in summed for factor in view.axes[axis]):
        return view.halted(Stop("some of its entries are contracted with a constant, and others are not", line))
    return view


def _stretched(signal: Value, places: Sequence[int | None], batch: int) -> frozenset[int]:
    return frozenset(
        index for index, old in enumerate(places) if index >= batch and old is not None and old in signal.stretched
    )


def _moved(
    left: Value, right: Value, from_left: Sequence[int | None], from_right: Sequence[int | None]
) -> frozenset[int]:
    broadcast = set()
    for index, (one, other) in enumerate(zip(from_left, from_right, strict=True)):
        flat = [side for side, old in ((left, one), (right, other)) if old is not None]
        olds = [old for old in (one, other) if old is not None]
        if all(old in side.stretched for side, old in zip(flat, olds, strict=True)):
            broadcast.add(index)
    return frozenset(broadcast)


def _confirm_batch(
    signal: Value, signal_batch: Sequence[int], weight: Value, weight_batch: Sequence[int], uses: Uses
) -> None:
    """Note output axes along which the next weight has members: they are batch axes of both weights.

    A part of a stored axis is none: the outputs of a dense layer are that, whatever takes them in.
    """
    for there, here in zip(signal_batch, weight_batch, strict=True):
        if not any(factor.axis != FOREIGN and factor.size > 1 for view in weight.weights for factor in view.axes[here]):
            continue
        for view in (view for view in signal.outputs if not view.summed):
            use = uses.found[view.use]
            for factor in view.axes[there]:
                if factor.size > 1 and any(each.is_inside(factor) and each.axis >= 0 for each in use.parts):
                    is_part = any(each.axis == factor.axis and not each.is_inside(factor) for each in use.parts)
                    use.outputs.members |= set() if is_part else {factor}


def _settled(
    left: Value,
    right: Value,
    left_sum: Sequence[int],
    left_batch: Sequence[int],
    right_sum: Sequence[int],
    uses: Uses,
    line: str,
) -> tuple[Value, Value]:
    """Return the operands, with look-ups and weights of constants turned into signals where they are used as such."""

    def is_member(value: Value, other: Value, summed: Sequence[int]) -> bool:
        """Return whether a look-up picks weights, such as experts, and not rows of an embedding."""
        if not value.looked or other.weights or not other.data:
            return False
        taken = {factor for axis in summed for view in value.weights for factor in view.opened(view.axes[axis])}
        own = {factor for view in value.weights for factor in view.own if factor.size > 1}
        return bool(own & taken) and bool(own - taken)

    def ready(value: Value, other: Value, summed: Sequence[int]) -> Value:
        if value.looked and not is_member(value, other, summed):
            return settle(value, uses, line, "factor" if other.weights and not other.looked else "")
        if value.weights and other.weights and any(view.fed_by_constant for view in value.weights):
            return settle(value, uses, line)
        return value

    first = ready(left, right, left_sum)
    second = ready(right, first, right_sum)
    return first if first is not left else ready(left, second, left_sum), second


def _linked(
    left: Value,
    right: Value,
    left_sum: Sequence[int],
    right_sum: Sequence[int],
    from_left: Sequence[int | None],
    from_right: Sequence[int | None],
    shape: tuple[int, ...],
    uses: Uses,
) -> Value:
    number = uses.link()
    views = []
    for value, axes, places in ((left, left_sum, from_left), (right, right_sum, from_right)):
        for view in value.weights:
            gone = tuple(factor for axis in axes for factor in view.opened(view.axes[axis]))
            views.append(replace(placed(view, places, shape), links=(*view.links, Link(number, gone))))
    return Value(shape=shape, weights=tuple(views))


def convolution(signal: Value, kernel: Value, eqn: Any, uses: Uses, line: str) -> Value:
    """Follow a convolution: plain, grouped, dilated, strided or transposed."""
    shape = tuple(eqn.outvars[0].aval.shape)
    signal = settle(signal, uses, line)
    if kernel.looked and not signal.data:
        kernel = settle(kernel, uses, line)
    if not kernel.weights:
        constants_met(signal, kernel, uses, line)
        out_axis, in_axis, *_ = eqn.params["dimension_numbers"].rhs_spec
        _note_mixed(kernel, signal, [in_axis], [out_axis], uses)
        outputs = _beside_channels(signal, eqn, shape)
        return Value(shape=shape, data=signal.data or kernel.data, outputs=outputs)
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    out_axis, in_axis, *_ = numbers.rhs_spec
    kernel = _ungrouped(kernel, out_axis, groups, eqn.params["batch_group_count"], line)
    # The output axis of the kernel counts for two while its use is entered: groups, and outputs of one group.
    wide = (*kernel.shape[:out_axis], groups, kernel.shape[out_axis] // groups, *kernel.shape[out_axis + 1 :])
    roles: list[Part] = []
    for axis in range(len(kernel.shape)):
        if axis == out_axis:
            roles += ["batch", "out"]
        else:
            roles.append("in" if axis == in_axis else "field")
    cut = tuple(each for view in kernel.weights if (each := _cut(view, out_axis, groups)) is not None)
    places: list[int | None] = [None] * len(shape)
    places.insert(numbers.out_spec[1], out_axis)
    places[numbers.out_spec[1] + 1] = out_axis + 1
    long = list(shape)
    long[numbers.out_spec[1] : numbers.out_spec[1] + 1] = [groups, shape[numbers.out_spec[1]] // groups]
    up, down = math.prod(eqn.params["lhs_dilation"]), math.prod(eqn.params["window_strides"])
    outputs = consume(
        Value(shape=wide, weights=cut, data=kernel.data),
        roles,
        places,
        long,
        uses,
        line,
        what="transposed" if up > 1 else "conv",
        strides=(up, down),
    )
    joined = tuple(_uncut(view, numbers.out_spec[1]) for view in outputs)
    return Value(shape=shape, data=True, outputs=(*uses.with_axes(joined), *_beside_channels(signal, eqn, shape)))


def _beside_channels(signal: Value, eqn: Any, shape: tuple[int, ...]) -> tuple[View, ...]:
    """Return the outputs that a convolution leaves where they are, channel by channel."""
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    before, after = numbers.lhs_spec, numbers.out_spec
    if not groups == signal.shape[before[1]] == shape[after[1]]:
        return ()
    places: list[int | None] = [None] * len(shape)
    places[after[0]], places[after[1]] = before[0], before[1]
    return tuple(
        replace(placed(view, places, shape), scaled=True)
        for view in signal.outputs
        if not set(marked(view)) & set(before[2:]) and shape[after[0]] == signal.shape[before[0]]
    )


def _ungrouped(kernel: Value, out_axis: int, groups: int, batch_groups: int, line: str) -> Value:
    stop = None
    if batch_groups > 1:
        stop = Stop("its convolution groups the batch", line)
    elif any(_cut(view, out_axis, groups) is None for view in kernel.weights):
        stop = Stop("the groups of its convolution cut an axis unevenly", line)
    if stop is None:
        return kernel
    views = (
        replace(
            view.halted(stop), axes=(*view.axes[:out_axis], foreign(kernel.shape[out_axis]), *view.axes[out_axis + 1 :])
        )
        for view in kernel.weights
    )
    return replace(kernel, weights=tuple(views))


def _cut(view: View, axis: int, groups: int) -> View | None:
    if groups == 1:
        return replace(view, axes=(*view.axes[:axis], foreign(1), *view.axes[axis:]))
    sizes = [size(each) for each in view.axes]
    return reshaped(view, (*sizes[:axis], groups, sizes[axis] // groups, *sizes[axis + 1 :]))


def _uncut(view: View, axis: int) -> View:
    both = (*view.axes[axis], *view.axes[axis + 1])
    kept = tuple(factor for factor in both if factor.size > 1) or both[:1]
    return replace(view, axes=(*view.axes[:axis], kept, *view.axes[axis + 2 :]))
