"""What an array is: the strength of each source of evidence, and what contradicts a name or a guess.

A declaration is believed. What a name or a shape alone suggests is believed only while nothing else in the model
contradicts it: the bias beside a weight, the layout of another pair, a rank that may mean something else. Then the
array is kept, with the line that says what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from initax._math._axes import Axes
from initax._model._parameter import UNDECLARED, WEIGHT_ROLES, Evidence, Layer, Parameter
from initax._model._reason import Reason, Why, undeclared
from initax._model._states import parts_of, states_by_form
from initax._text import mapping_text

WEAK = (Evidence.NAMED, Evidence.GUESSED)
"""Evidence that a contradiction outweighs."""

LEARNED_INPUTS = re.compile(
    r"(^|[._])(wpe|pos|position(al|s)?|cls|class|tok|tokens?|latents?|prompts?)\d*($|_)", re.IGNORECASE
)
"""Names of what stands in the place of a signal: learned positions, a class token. No axis of theirs is summed over."""

TABLES = re.compile(r"(^|[._/])(wte|wpe|emb(ed(ding)?s?)?|vocab(ulary)?|lookup)(_?(table|matrix|weights?))?$", re.I)
"""Names of embedding tables, whose rows are looked up."""

STATES = re.compile(r"(^|[._/])(running|moving|mean|var(iance)?|ema|stats?|statistics|cache|buffers?|mask)($|_)", re.I)
"""Names of statistics, caches and masks."""

WINDOWS = re.compile(r"conv|filter|kernel", re.IGNORECASE)
"""Names of convolutions and what they hold."""

VECTORS = re.compile("scale|bias|gamma")
"""Names of what has one entry for each output."""

LARGEST_WINDOW = 11
"""The largest window that is recognized without a name or a bias."""


def may_be_traced(parameter: Parameter) -> bool:
    """Return whether a trace of the forward pass decides what a parameter is: only declarations stand against one."""
    if parameter.role == "state" or (parameter.excluded is not None and not parameter.excluded.is_about_axes):
        return False
    return parameter.evidence not in (Evidence.DECLARED, Evidence.RESTATED)


def settled(layers: Sequence[Layer], leaves: Iterable[tuple[str, Any]], hint: str = "") -> tuple[Layer, ...]:
    """Return the layers with arrays kept whose names or guesses something in the model contradicts.

    Args:
        layers: the layers of a model, as names, shapes and declarations describe them.
        leaves: path and leaf, arrays and numbers alike; looked at only where names or guesses are.
        hint: what to pass where only names are known.
    """
    layers = _vectors_alone(layers)
    if not any(map(_is_weak, layers)):
        return tuple(layers)
    states = states_by_form(leaves)
    layers = [_without_states(layer, states) if _is_weak(layer) else layer for layer in layers]
    weak = [layer for layer in layers if _is_weak(layer)]
    unfitting = _containers_whose_biases_fit_nothing(layers)
    outputs_first = next((path for layer in weak if (path := _stored_outputs_first(layer, unfitting))), None)
    judge = _Judge(_stacked_vectors(weak), outputs_first, hint or None)
    judged = [judge.layer(layer) if _is_weak(layer) else layer for layer in layers]
    return tuple(_doubt_container(layer, unfitting) for layer in judged)


def _vectors_alone(layers: Sequence[Layer]) -> Sequence[Layer]:
    """Return the layers of a model of vectors in plain containers, which are what there is to draw."""
    if any(layer.kind != UNDECLARED for layer in layers):
        return layers
    arrays = [array for layer in layers for array in layer.parameters]
    if any(len(array.shape) > 1 or re.search("scale|gamma|norm|bn", array.path, re.IGNORECASE) for array in arrays):
        return layers
    known = {"role": "weight", "evidence": Evidence.GUESSED, "excluded": None}
    return [
        _changed(layer, {array.path: known for array in layer.parameters if _is_vector(array)}, "Vector")
        if issubclass(layer.cls, dict | list | tuple)
        else layer
        for layer in layers
    ]


def _changed(layer: Layer, changes: Mapping[str, Mapping[str, Any]], kind: str | None = None) -> Layer:
    """Return a layer with other fields of some parameters, by their paths, and of another kind if there are any."""
    if not changes:
        return layer
    parameters = (
        replace(array, **changes[array.path]) if array.path in changes else array for array in layer.parameters
    )
    return replace(layer, kind=kind or layer.kind, parameters=tuple(parameters))


def _is_vector(parameter: Parameter) -> bool:
    """Return whether a vector may be drawn alone: its name is not a statistic's."""
    reason = parameter.excluded
    if len(parameter.shape) != 1 or reason is None or reason.why is not Why.UNDECLARED:
        return False
    return STATES.search(parts_of(parameter.path)[-1]) is None


def _is_weak(layer: Layer) -> bool:
    return any(array.evidence in WEAK for array in layer.parameters)


def _without_states(layer: Layer, states: Mapping[str, Reason]) -> Layer:
    """Return a layer with the arrays that are state by their form kept."""
    state = {"role": "state", "axes": None, "fans": None, "evidence": None}
    changes = {
        array.path: {**state, "excluded": array.excluded or states[array.path]}
        for array in layer.parameters
        if array.path in states
    }
    return _changed(layer, changes, "State" if len(changes) == len(layer.parameters) else None)


@dataclass(frozen=True, slots=True)
class _Judge:
    """What is known of a whole model, with which each layer is compared.

    Attributes:
        stacked: path around layers, and a number → the first vector in one of them that has so many rows.
        outputs_first: path of a weight that has its outputs first, by its bias, if there is one.
        hint: what to pass where only names are known.
    """

    stacked: Mapping[tuple[str, int], Parameter]
    outputs_first: str | None
    hint: str | None

    def layer(self, layer: Layer) -> Layer:
        """Return a layer with the arrays that something contradicts kept."""
        doubts: dict[str, Reason] = {}
        for weight in layer.parameters:
            if weight.evidence not in WEAK or weight.role not in WEIGHT_ROLES or weight.axes is None:
                continue
            bias = _bias_of(weight, layer)
            reason = self._contradiction(weight, weight.axes, bias, layer)
            if reason is not None:
                doubts |= {array.path: reason for array in (weight, bias) if array is not None}
        return _with_reasons(layer, doubts)

    def _module_hint(self, weight: Parameter) -> str | None:
        return self.hint if weight.evidence is Evidence.NAMED else None

    def _contradiction(self, weight: Parameter, axes: Axes, bias: Parameter | None, layer: Layer) -> Reason | None:
        """Return what contradicts the axes that a name or a guess gives a weight."""
        name, shape = weight.name, weight.shape
        if bias is not None and not _fits(bias, axes):
            text = f'{bias.name} {bias.shape} does not fit {name} {shape} read as "{axes.pattern}"'
            return undeclared(text, Why.CONTRADICTED, self._module_hint(weight) or _layout_hint(weight, bias))
        is_square = len(shape) == 2 and shape[0] == shape[1]
        if weight.evidence is Evidence.GUESSED:
            if bias is None and LEARNED_INPUTS.search(name):
                return undeclared("its name says that it stands where a signal does", Why.SIGNAL)
            if bias is None and STATES.search(name):
                return undeclared("its name says that it is state, a statistic or a mask", Why.CONTRADICTED)
            if name.endswith(".weight") and not is_square and (bias is None or len(shape) > 2):
                text = f"a weight that PyTorch or a path calls {name} has its outputs first"
                return undeclared(text, Why.CONTRADICTED, axes_line({name: "o i ..."}))
        is_alone = bias is None and weight.role == "weight" and not is_square
        if self.outputs_first is not None and is_alone and not _is_typed(layer):
            text = f"{self.outputs_first} has its outputs first, by its bias, so this one may, too"
            return undeclared(text, Why.CONTRADICTED, self._module_hint(weight) or axes_line({name: "o i ..."}))
        return self._stack_or_window(weight, bias, layer) if axes.receptive_axis else None

    def _stack_or_window(self, weight: Parameter, bias: Parameter | None, layer: Layer) -> Reason | None:
        """Return why three axes and more may be something else than a window, inputs and outputs."""
        # A scale or bias near it that has an axis of its own for each entry of the weight's first one.
        stacked = self.stacked.get((layer.path.rpartition(".")[0], weight.shape[0]))
        if stacked is not None:
            text = f"{stacked.path} {stacked.shape} says that its first axis may be a stack of {weight.shape[0]} layers"
            return undeclared(text, Why.CONTRADICTED, self._module_hint(weight))
        shape, rank = weight.shape, len(weight.shape) - 2
        by_name = WINDOWS.search(weight.path) is not None
        if weight.evidence is Evidence.NAMED:
            if bias is not None or rank == 1 or (rank == 2 and (_is_window(shape[:2]) or shape[0] == shape[1])):
                return None
        elif bias is not None:
            if not (shape[-1] in shape[:2] and _is_window(shape[-rank:])):
                return None
        elif rank < 3 and _is_window(shape[:rank]) and not _is_window(shape[-rank:]) and (rank == 2 or by_name):
            return None
        text = f"{len(weight.shape)} axes may be a window, heads, or a stack of layers"
        return undeclared(text, Why.CONTRADICTED, self._module_hint(weight))


def _stacked_vectors(layers: Sequence[Layer]) -> dict[tuple[str, int], Parameter]:
    """Return scales and biases with two axes by the path around their layers and the size of the first axis."""
    vectors: dict[tuple[str, int], Parameter] = {}
    for layer in layers:
        for array in layer.parameters:
            is_vector = array.role in ("scale", "bias") or (array.role is None and VECTORS.match(array.name))
            if is_vector and len(array.shape) == 2 and array.shape[0] > 1:
                vectors.setdefault((layer.path.rpartition(".")[0], array.shape[0]), array)
    return vectors


def _is_window(sizes: Sequence[int]) -> bool:
    """Return whether axes may be those of a window: odd and small."""
    return all(size % 2 and size <= LARGEST_WINDOW for size in sizes)


def _with_reasons(layer: Layer, reasons: Mapping[str, Reason]) -> Layer:
    """Return a layer some of whose arrays are excluded for these reasons."""
    kept = (array.path for array in layer.parameters if array.path in reasons and array.excluded is None)
    return _changed(layer, {path: {"excluded": reasons[path]} for path in kept})


def _bias_of(weight: Parameter, layer: Layer) -> Parameter | None:
    """Return the bias that stands beside a weight, by name or as the only one, whether or not it fits."""
    before, kernel, after = weight.name.rpartition("kernel")
    if kernel and not after:
        named = next((array for array in layer.parameters if array.name == f"{before}bias"), None)
        if named is not None:
            return named
    weights = [array for array in layer.parameters if array.role in WEIGHT_ROLES]
    biases = [array for array in layer.parameters if array.role == "bias"]
    return biases[0] if len(weights) == len(biases) == 1 else None


def _fits(bias: Parameter, axes: Axes) -> bool:
    """Return whether a bias has one entry for each output: its outputs last, and axes of size 1 in front of them."""
    if bias.shape == ():
        return True
    outputs = tuple(axes.split[axis] for axis in axes.out_axis)
    count = len(outputs)
    return bias.shape[-count:] == outputs and all(size == 1 for size in bias.shape[:-count])


def _is_typed(layer: Layer) -> bool:
    """Return whether a layer's own name is that of a class and a number, which tells its layout."""
    return re.fullmatch(r"[A-Z][a-z]\w*_\d+", layer.path.rpartition(".")[2]) is not None


def _stored_outputs_first(layer: Layer, unfitting: Mapping[str, Parameter]) -> str | None:
    """Return the path of a layer's weight if its bias, or a vector beside it, fits its first axis and not its last."""
    vector = unfitting.get(layer.path)
    for weight in layer.parameters:
        if weight.evidence not in WEAK or weight.role != "weight" or _is_typed(layer):
            continue
        bias = _bias_of(weight, layer) or vector
        outputs = tuple(size for size in bias.shape if size != 1) if bias is not None else ()
        if bias is not None and outputs == weight.shape[:1] != weight.shape[-1:]:
            return weight.path
    return None


def _containers_whose_biases_fit_nothing(layers: Sequence[Layer]) -> dict[str, Parameter]:
    """Return path of a container → its first bias that fits the inputs of a weight and the outputs of none.

    That a square fits says nothing where the other weights have that size first, and no bias there says otherwise.
    """
    weights: dict[str, list[tuple[int, ...]]] = {}
    for layer in layers:
        for around in _around(layer):
            for parameter in layer.parameters:
                if parameter.evidence is Evidence.GUESSED and parameter.role == "weight":
                    weights.setdefault(around, []).append(parameter.shape)
    unfitting: dict[str, Parameter] = {}
    for holder in layers:
        if holder.kind != UNDECLARED or holder.path not in weights:
            continue
        shapes = weights[holder.path]
        firsts, lasts = ({shape[index] for shape in shapes} for index in (0, -1))
        ahead, behind = ({shape[index] for shape in shapes if shape[0] != shape[-1]} for index in (0, -1))
        vectors = [array for array in holder.parameters if len(array.shape) == 1]
        named = [array for array in vectors if may_be_bias(array.name)]
        are_told = any(array.shape[0] in behind - ahead for array in named)
        for array in vectors:
            size, is_named = array.shape[0], may_be_bias(array.name)
            by_squares = is_named and not are_told and size in ahead - behind
            if by_squares or ((is_named or array.name.isdecimal()) and size in firsts - lasts):
                unfitting.setdefault(holder.path, array)
    return unfitting


def _around(layer: Layer) -> tuple[str, ...]:
    """Return the path of a layer and that of the container around it, which may be the same."""
    return tuple({layer.path: None} | ({layer.ancestors[-1].path: None} if layer.ancestors else {}))


def _doubt_container(layer: Layer, unfitting: Mapping[str, Parameter]) -> Layer:
    """Return a layer with its weights kept if a bias in its container says that they may have their outputs first."""
    vector = next((unfitting[path] for path in _around(layer) if path in unfitting), None)
    if vector is None:
        return layer
    text = (
        f"{vector.path} {vector.shape} fits the first axis of a weight beside it and the last of none, "
        "so that this one may have its outputs first"
    )
    reasons = {
        array.path: undeclared(text, Why.CONTRADICTED, axes_line({array.name: "o i"}))
        for array in layer.parameters
        if array.evidence is Evidence.GUESSED and array.role == "weight" and len(set(array.shape)) > 1
    }
    return _with_reasons(layer, reasons)


def may_be_bias(name: str) -> bool:
    """Return whether a vector may be a bias by its name: `b`, `b_y`, `bias`, `beta`, `fc1_bias`, `offset`.

    A vector of another name beside a matrix (the `D` of a state-space model, a `log_scale`) is not to be zeroed, nor is
    one without a name: behind a matrix it may be a bias or a scale.
    """
    lower = name.rpartition(".")[2].lower()
    if lower.startswith(("bn", "batch")):
        return False
    if lower.startswith("b") or "bias" in lower or lower in ("offset", "intercept"):
        return True
    return re.search(r"_b\d*($|_)", lower) is not None


def _layout_hint(weight: Parameter, bias: Parameter) -> str | None:
    """Return the line that says that outputs come first, where a bias with axes of size 1 shows it."""
    outputs = tuple(size for size in bias.shape if size != 1)
    if len(weight.shape) != 2 or len(bias.shape) < 2 or outputs != weight.shape[:1]:
        return None
    pattern = " ".join("o" if size != 1 else "1" for size in bias.shape)
    return axes_line({weight.name: "o i", bias.name: pattern})


def axes_line(patterns: Mapping[str, str]) -> str:
    """Return the line that states the axes of arrays, name → pattern."""
    return f"say what the axes are, in stored order: ix.Scheme(..., axes={patterns_text(patterns)})"


def patterns_text(patterns: Mapping[str, str]) -> str:
    """Return axis patterns by the names of arrays, as one writes them."""
    return mapping_text({name: f'"{pattern}"' for name, pattern in patterns.items()})
