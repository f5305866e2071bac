"""Layers with undeclared axes, read off a trace of the forward pass; and declarations compared with it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from initax._errors import first_of, message, warn
from initax._math._axes import Axes, resolve
from initax._model._constraint import COMPLEX_PART
from initax._model._declared import declaration_of
from initax._model._evidence import may_be_traced
from initax._model._parameter import UNDECLARED, WEIGHT_ROLES, Evidence, Fans, Layer, Parameter, Placement, Role
from initax._model._reason import Reason, Why, undeclared, why_not_drawable
from initax._model._residual import asked_later
from initax._model._survey import Survey, Traced
from initax._trace._forward import trace
from initax._trace._reading import Reading
from initax._trace._residual import residuals
from initax._trace._walk import readings_of

T = TypeVar("T")


def completed(survey: Survey, inputs: Any, forward: Callable[..., Any] | None) -> Survey:
    """Return a survey with its forward pass, and with the arrays that are not declared as the pass uses them.

    Args:
        survey: the model.
        inputs: what it is called on.
        forward: function of the model and the inputs; a plain call if left out.

    Raises:
        ModelError: the model can't be called, or the call fails.
    """
    traced = trace(survey, inputs, forward)
    read, notes = with_readings(survey, readings_of(traced.closed, traced.paths, traced.constants))
    return replace(
        read,
        layers=_with_residuals(read.layers, traced),
        traced=traced,
        inputs=inputs,
        forward=forward,
        notes=(*survey.notes, *notes),
    )


def _with_residuals(layers: tuple[Layer, ...], traced: Traced) -> tuple[Layer, ...]:
    """Return the layers with the residual branches of each array, which are found when they are first needed."""
    known = functools.cache(lambda: residuals(traced.closed, traced.paths))
    pending = {path: asked_later(functools.partial(lambda path: known()[path], path)) for path in traced.paths}
    return tuple(
        _changed(layer, lambda parameter: replace(parameter, residual=pending.get(parameter.path))) for layer in layers
    )


def _changed(layer: Layer, change: Callable[[Parameter], Parameter]) -> Layer:
    """Return a layer with each of its parameters changed."""
    return replace(layer, parameters=tuple(map(change, layer.parameters)))


def with_readings(survey: Survey, readings: Mapping[str, Reading]) -> tuple[Survey, tuple[str, ...]]:
    """Return the survey with the axes of undeclared arrays read off the trace, and notes on the readings.

    Args:
        survey: the model.
        readings: path → reading.
    """
    notes: list[str] = []
    disagree: list[str] = []
    split: list[str] = []
    paths = list(readings)
    layers = []
    for unread in survey.layers:
        layer = _with_stack_axes(unread, readings)
        layers.append(_read_layer(layer, readings, paths, notes))
        for parameter in layer.parameters:
            reading = readings.get(parameter.path)
            if reading is not None and reading.pattern is not None and not may_be_traced(parameter):
                _note_difference(parameter, reading, disagree, split)
    layers = _with_biases(layers, readings, paths)
    if disagree:
        text = message(
            f"the forward pass disagrees with the declared axes of {len(disagree)} of the arrays; declarations stand:",
            *first_of(disagree, 6),
        )
        warn(text)
        notes.append(text)
    if split:
        notes.append(
            message(
                "outputs that the forward pass splits into equal parts are declared as one axis; declarations stand:",
                *first_of(split, 6),
                'to draw each part on its own restate the axes, ix.Scheme(..., axes="...", sizes={...})',
            )
        )
    notes += _behind_functions(layers, readings)
    return replace(survey, layers=tuple(layers)), tuple(notes)


def _behind_functions(layers: Iterable[Layer], readings: Mapping[str, Reading]) -> Iterator[str]:
    """Yield a note on declared weights that a function changes first, of which their declarations say nothing."""
    for why, head, line in (
        (
            Why.TRANSFORMED,
            "the forward pass applies a function to declared weights, which are drawn as if it did not:",
            'to draw what comes out of it: ix.register_layer(MyLayer, ..., positivity={"weight": "softplus"}), for a '
            "class of its own",
        ),
        (
            Why.NOT_TRAINABLE,
            "no gradient reaches declared weights, which are drawn all the same:",
            'a rule keeps one: {"its.path": None}',
        ),
    ):
        found = [
            f"{parameter.path or '(model)'} {parameter.shape}: {readings[parameter.path].reason}"
            for layer in layers
            for parameter in layer.parameters
            if parameter.role in WEIGHT_ROLES and not parameter.excluded and parameter.constraint is None
            if parameter.path in readings and not may_be_traced(parameter) and readings[parameter.path].why is why
        ]
        if found:
            yield message(head, *first_of(found, 6), line)


def _with_stack_axes(layer: Layer, readings: Mapping[str, Reading]) -> Layer:
    """Return a layer with the stack axes that the forward pass shows, of those that their sizes allow.

    Several are left where members of the stack all see the same input, and can't be told from outputs.
    """
    for weight in layer.parameters:
        reading = readings.get(weight.path)
        if not weight.placements or weight.role not in WEIGHT_ROLES or reading is None or reading.pattern is None:
            continue
        traced = resolve(reading.pattern, weight.shape, reading.sizes)
        outputs = _cells(traced, traced.out_axis)
        candidates = [(None, weight.axes), *weight.placements]
        agreeing = {
            placement: axes for placement, axes in candidates if compare(replace(weight, axes=axes), reading) == "agree"
        }
        exact = [placement for placement, axes in agreeing.items() if axes and _cells(axes, axes.out_axis) == outputs]
        chosen, *others = exact or agreeing or [None]
        return _changed(layer, functools.partial(_with_placement, chosen=chosen, others=others))
    return layer


def _with_placement(parameter: Parameter, chosen: Placement | None, others: Sequence[Placement | None]) -> Parameter:
    """Return a parameter with the chosen stack axes, and with the others that are possible, too.

    `None` stands for those that are assumed without a trace.
    """
    axes_of = dict(parameter.placements)
    left = tuple((placement, axes_of[placement]) for placement in others if placement in axes_of)
    axes = None if chosen is None else axes_of.get(chosen)
    if axes is None:
        return replace(parameter, placements=left) if parameter.placements else parameter
    constraint = parameter.constraint
    if constraint is not None and constraint.companions and axes != parameter.axes:
        text = f"{constraint.name} was read along other axes than those of which the forward pass shows the stack"
        hint = "stack it along the first axis, as nnx.vmap(..., out_axes=0) does"
        return replace(parameter, placements=left, excluded=undeclared(text, Why.CONTRADICTED, hint))
    fans = parameter.fans
    if fans is not None and parameter.role in WEIGHT_ROLES:
        fans = fans.restated(axes)
    return replace(parameter, axes=axes, fans=fans, placements=left)


def _read_layer(layer: Layer, readings: Mapping[str, Reading], paths: Sequence[str], notes: list[str]) -> Layer:
    """Return a layer with its parameters as they are read; notes on the readings are added to the list."""
    if not any(parameter.path in readings and _is_readable(parameter) for parameter in layer.parameters):
        return layer
    parameters: dict[str, Parameter] = {}
    for parameter in layer.parameters:
        reading = readings.get(parameter.path)
        if reading is None or not _is_readable(parameter):
            parameters[parameter.path] = parameter
            continue
        parameters[parameter.path] = read_parameter(parameter, reading)
        notes += [f"{parameter.path or '(model)'}: {note}" for note in reading.notes]
    weights = {path: parameter for path, parameter in parameters.items() if parameter.role in WEIGHT_ROLES}
    for path, parameter in parameters.items():
        if parameter.role == "bias" and path in readings:
            for weight in _biased(readings[path], weights, paths)[:1]:
                parameters[path] = replace(parameter, fans=weight.fans)
    if declaration_of(layer.cls) is not None:
        return replace(layer, parameters=tuple(parameters.values()))
    parameters |= _kept_beside_transformed(parameters)
    kinds = [(parameter.role, readings[path].kind) for path, parameter in parameters.items() if path in readings]
    kinds_of_weights = (kind for role, kind in kinds if role in WEIGHT_ROLES)
    kind = next(kinds_of_weights, "Norm" if any(role == "scale" for role, _ in kinds) else UNDECLARED)
    return replace(layer, kind=kind, parameters=tuple(parameters.values()))


def _with_biases(layers: list[Layer], readings: Mapping[str, Reading], paths: Sequence[str]) -> list[Layer]:
    """Return the layers with the fans of biases whose weights are in other layers.

    A bias in a plain container goes to the layer of its weight where that is in the same container.
    """
    weights = {
        parameter.path: (index, parameter)
        for index, layer in enumerate(layers)
        for parameter in layer.parameters
        if parameter.role in WEIGHT_ROLES and parameter.evidence is Evidence.TRACED
    }
    staying: list[list[Parameter]] = [[] for _ in layers]
    coming: list[list[Parameter]] = [[] for _ in layers]
    for layer, parameters in zip(layers, staying, strict=True):
        for parameter in layer.parameters:
            if parameter.role != "bias" or parameter.fans is not None or parameter.evidence is not Evidence.TRACED:
                parameters.append(parameter)
                continue
            reading = readings[parameter.path]
            for index, weight in _biased(reading, weights, paths)[:1]:
                if layer.path in (layers[index].path, *(ancestor.path for ancestor in layers[index].ancestors[-1:])):
                    coming[index].append(replace(parameter, fans=weight.fans))
                    break
            else:
                fans = reading.fans and Fans(reading.fans, (float(reading.fans[0]), float(reading.fans[1])))
                parameters.append(replace(parameter, fans=fans))
    triples = zip(layers, staying, coming, strict=True)
    return [
        replace(layer, parameters=(*parameters, *biases))
        for layer, parameters, biases in triples
        if parameters or biases or not layer.parameters
    ]


def _kept_beside_transformed(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Return the scales and biases of a layer that looks like a norm but is not one, kept.

    Such a layer has no weights, and a parameter to which a function is applied first, such as the logarithms of a
    state-space model.
    """
    transformed = (
        parameter
        for parameter in parameters.values()
        if parameter.excluded and parameter.excluded.why is Why.TRANSFORMED
    )
    other = next(transformed, None)
    if other is None or any(parameter.role in WEIGHT_ROLES for parameter in parameters.values()):
        return {}
    text = f"it stands beside {other.path}, to which a function is applied first, as in no norm"
    reason = undeclared(text, Why.CONTRADICTED)
    return {
        path: replace(parameter, role=None, axes=None, fans=None, evidence=None, excluded=reason)
        for path, parameter in parameters.items()
        if parameter.role in ("scale", "bias")
    }


def _is_readable(parameter: Parameter) -> bool:
    """Return whether the role and the axes of a parameter are those of the forward pass."""
    return why_not_drawable(parameter.shape, parameter.dtype) is None and may_be_traced(parameter)


def read_parameter(parameter: Parameter, reading: Reading) -> Parameter:
    """Return the parameter with the axes, role and fans of a reading, or kept for the reason why there are none."""
    if reading.pattern is None:
        text, is_frozen = reading.reason or "", reading.why is Why.NOT_TRAINABLE
        excluded = Reason(reading.why, text) if is_frozen else undeclared(text, reading.why)
        return replace(parameter, role=None, axes=None, fans=None, evidence=None, excluded=excluded)
    axes = resolve(reading.pattern, parameter.shape, reading.sizes)
    role = cast("Role", reading.role)
    fans = None
    if role in WEIGHT_ROLES:
        strided = (axes.fan_in / reading.strides[0], axes.fan_out / reading.strides[1])
        effective = (1.0, float(axes.fan_in)) if role == "embedding" else strided
        fans = Fans((axes.fan_in, axes.fan_out), effective).masked(parameter.constraint)
    constraint = parameter.constraint or (COMPLEX_PART if reading.paired else None)
    return replace(
        parameter, role=role, axes=axes, fans=fans, evidence=Evidence.TRACED, excluded=None, constraint=constraint
    )


def _biased(reading: Reading, weights: Mapping[str, T], paths: Sequence[str]) -> list[T]:
    """Return those of some weights to whose outputs a bias is added, the last one first."""
    return [weights[paths[index]] for index in reversed(reading.partners) if paths[index] in weights]


def _note_difference(parameter: Parameter, reading: Reading, disagree: list[str], split: list[str]) -> None:
    """Add a line to one of two lists where a declaration and a reading differ, see `compare`."""
    if parameter.axes is None or parameter.excluded or reading.pattern is None:
        return
    traced = resolve(reading.pattern, parameter.shape, reading.sizes)
    verdict = compare(parameter, reading)
    shown = f'{parameter.path or "(model)"} {parameter.shape}: declared "{parameter.axes.pattern}"'
    seen = f" at {reading.lines[0]}" if reading.lines else ""
    if verdict == "disagree":
        disagree.append(
            f'{shown} ({parameter.role}, fan_in {parameter.fan_in}), used as "{reading.pattern}" '
            f"({reading.role}, fan_in {traced.fan_in}){seen}"
        )
    elif verdict == "split":
        split.append(
            f'{shown} (fan_out {parameter.fan_out}), used as "{reading.pattern}" (fan_out {traced.fan_out}){seen}'
        )


def compare(parameter: Parameter, reading: Reading) -> str:
    """Return whether a declared parameter and a reading `agree`, `disagree`, or the reading finds a finer `split`.

    Inputs must be the same entries of the same axes. Outputs may differ, since members of an ensemble that all see the
    same input can't be told from outputs; the reading has a finer `split` where it has more members.
    """
    if parameter.axes is None or reading.pattern is None:
        return "agree"
    if parameter.role == "embedding" and not parameter.axes.in_axis and reading.role == "bias":
        return "agree"  # learned positions are added to a signal as a bias is
    if (parameter.role in WEIGHT_ROLES) != (reading.role in WEIGHT_ROLES):
        return "disagree"
    if parameter.role not in WEIGHT_ROLES:
        return "agree" if parameter.role == reading.role else "disagree"
    traced = resolve(reading.pattern, parameter.shape, reading.sizes)
    seen, declared = _cells(traced, traced.in_axis), _cells(parameter.axes, parameter.axes.in_axis)
    if seen != declared:
        # A declared stack may be read as inputs: its outputs are added up, weighted by a factor of the signal.
        is_summed_stack = declared < seen <= declared | _cells(parameter.axes, parameter.axes.batch_axis)
        return "agree" if is_summed_stack else "disagree"
    if _cells(parameter.axes, parameter.axes.receptive_axis) != _cells(traced, traced.receptive_axis):
        return "disagree"
    return "split" if traced.batch_size > parameter.axes.batch_size else "agree"


def _cells(axes: Axes, chosen: Iterable[int]) -> set[int]:
    """Return some axes of the split shape as the strides, in the stored array, of their prime factors."""
    strides = {axis: math.prod(axes.split[axis + 1 :]) for axis in chosen}
    return {stride * factor for axis, stride in strides.items() for factor in _strides_of_primes(axes.split[axis])}


def _strides_of_primes(size: int) -> list[int]:
    """Return the strides of the prime factors of a size, smallest factor innermost: 12 → 1, 2, 4."""
    strides, stride, prime = [], 1, 2
    while size > 1:
        if size % prime:
            prime += 1
            continue
        strides.append(stride)
        stride, size = stride * prime, size // prime
    return strides
