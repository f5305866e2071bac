"""Hints for arrays whose axes nobody declared: the line that declares them, as far as shapes and names tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from initax._model._evidence import LEARNED_INPUTS, TABLES, axes_line, patterns_text
from initax._model._parameter import WEIGHT_ROLES, Layer, Parameter
from initax._model._reason import Why, undeclared
from initax._model._register import ARGUMENTS, is_plain
from initax._text import mapping_text


def declaration(layer: Layer) -> tuple[str, ...]:
    """Return the lines that declare a layer, with a guess at the patterns for the user to put right."""
    if layer.cls.__name__ in ("ArrayImpl", "ndarray", "ShapeDtypeStruct"):
        return ("for a single array write ix.draw(scheme, key, shape)",)
    hints = [array.excluded.hint for array in layer.parameters if array.excluded is not None and array.excluded.hint]
    if hints:
        return (hints[0],)
    arrays = [array for array in layer.parameters if array.axes or (array.excluded and array.excluded.is_about_axes)]
    returned = [array for array in arrays if _why(array) is Why.RETURNED]
    arrays = [array for array in arrays if array not in returned]
    if returned and not any(array.excluded for array in arrays):
        path = returned[0].path
        return (f'it has no axes to declare; a rule can set it, {{"{path}": "zeros"}}, or keep it, {{"{path}": None}}',)
    misfits = any(_why(array) is Why.CONTRADICTED for array in arrays)
    if all(array.axes for array in arrays) and not misfits:
        weights = [array.name for array in arrays if array.role in WEIGHT_ROLES]
        if is_plain(layer.cls):
            return ('write a scheme in place of "default": "lecun_normal"; in reset_units scheme="lecun_normal"',)
        default = mapping_text(dict.fromkeys(weights, '"lecun_normal"'))
        return (f"declare it: ix.register_layer({layer.cls.__name__}, ..., default={default})",)
    patterns = _patterns(arrays, layer, misfits=misfits)
    if is_plain(layer.cls):
        return (axes_line(patterns),)
    embeddings = [array.name for array in arrays if is_learned_input(array) or is_table(array)]
    filled = ", each ? filled in" if any("?" in pattern for pattern in patterns.values()) else ""
    line = f"declare it, axes in stored order{filled}: {_register_call(layer, patterns, embeddings)}"
    kept = [array for array in arrays if array.excluded]
    if kept and all(map(is_learned_input, kept)):
        rules = mapping_text(dict.fromkeys((array.path for array in kept[:2]), '("normal", {"stddev": 0.02})'))
        them = "it by a rule that names it" if len(kept) == 1 else "them by rules that name them"
        return line, f"or draw {them}: {rules}"
    if any(array.excluded != undeclared() for array in arrays):
        return (line,)
    return ("let a trace find the axes: inputs=x, what the model is called on", f"or {line}")


def rules_for_each(layers: Sequence[Layer], scheme: str) -> str:
    """Return the line with a rule for each of some layers in plain containers, whose axes a rule for all can't say.

    Args:
        layers: the layers.
        scheme: what the rules draw, as it is written.
    """
    rules = {}
    for layer in layers[:4]:
        arrays = [array for array in layer.parameters if array.axes or array.excluded]
        misfits = any(_why(array) is Why.CONTRADICTED for array in arrays)
        axes = patterns_text(_patterns(arrays, layer, misfits=misfits))
        rules[layer.path] = f"ix.Scheme({scheme}, axes={axes})"
    filled = ", each ? filled in" if any("?" in rule for rule in rules.values()) else ""
    more = f", and so on for {len(layers) - 4} more" if len(layers) > 4 else ""
    own = "for each" if len(layers) > 1 else "of its own"
    return f"say what the axes are, in stored order, in a rule {own}{filled}: {mapping_text(rules)}{more}"


def may_have_a_rule(layer: Layer) -> bool:
    """Return whether a rule for a layer in a plain container says what its arrays are, and nothing else is to do."""
    reasons = [array.excluded for array in layer.parameters if array.excluded is not None]
    is_told = bool(_guess_column(layer.parameters)) or not any(reason.hint for reason in reasons)
    return is_plain(layer.cls) and bool(layer.path and reasons) and is_told


def _patterns(arrays: list[Parameter], layer: Layer, *, misfits: bool) -> dict[str, str]:
    """Axes that arrays may have, by name: those that are known, unless something contradicts them, and guesses."""
    patterns = {
        array.name: array.axes.pattern
        if array.axes and not misfits and array.role in WEIGHT_ROLES
        else guess_pattern(array, layer, arrays)
        for array in arrays
    }
    return patterns | (_guess_column(arrays) or _guess_wide(arrays)) if misfits else patterns


def _guess_column(arrays: Sequence[Parameter]) -> dict[str, str]:
    """Axes that a matrix and its bias may have that is a column, `(10, 1)` beside `(10, 6)`: outputs come first."""
    biases = [array for array in arrays if array.role == "bias"]
    weights = [array for array in arrays if len(array.shape) == 2 and array.role in WEIGHT_ROLES]
    if len(arrays) != 2 or len(biases) != 1 or len(weights) != 1:
        return {}
    shape = biases[0].shape
    if len(shape) < 2 or tuple(size for size in shape if size != 1) != weights[0].shape[:1]:
        return {}
    return {weights[0].name: "o i", biases[0].name: " ".join("o" if size != 1 else "1" for size in shape)}


def _register_call(layer: Layer, patterns: Mapping[str, str], learned: Sequence[str]) -> str:
    """The call that declares a layer with these axes, some of whose arrays are embeddings, positions or tokens."""
    args = 'kind="Embedding"' if len(learned) == len(patterns) else 'kind="Linear"'
    if learned and len(learned) < len(patterns):
        args += ", roles=" + mapping_text(dict.fromkeys(learned, '"embedding"'))
    if all(name.isidentifier() and name not in ARGUMENTS for name in patterns):
        args += "".join(f', {name}="{pattern}"' for name, pattern in patterns.items())
    else:
        args = f"{patterns_text(patterns)}, {args}"
    return f"ix.register_layer({layer.cls.__name__}, {args})"


def is_learned_input(array: Parameter) -> bool:
    """Return whether an array seems to stand where a signal does: a learned position, a token."""
    return LEARNED_INPUTS.search(array.name) is not None or _why(array) is Why.SIGNAL


def _guess_wide(arrays: list[Parameter]) -> dict[str, str]:
    """Axes that a weight and its bias of several axes may have: outputs of several axes, or stacked layers."""
    wide = [array for array in arrays if array.role == "bias" and len(array.shape) > 1]
    if not wide or len(arrays) != 2:
        return {}
    (weight, bias), size = (arrays if arrays[1] is wide[0] else arrays[::-1]), wide[0].shape
    if weight.shape[-len(size) :] == size:
        outputs = " ".join(f"o{axis + 1}" for axis in range(len(size)))
        inputs = [f"i{axis + 1}" for axis in range(len(weight.shape) - len(size))]
        return {weight.name: " ".join([*(inputs if len(inputs) > 1 else ["i"]), outputs]), bias.name: outputs}
    if len(weight.shape) == 3 and size[0] == weight.shape[0]:
        return {weight.name: "stack i o" if size[1] == weight.shape[2] else "stack o i", bias.name: "stack o"}
    return {bias.name: " ".join(f"o{axis + 1}" for axis in range(len(size)))}


def guess_pattern(array: Parameter, layer: Layer, others: Sequence[Parameter]) -> str:
    """Axes an array may have: a vector beside a matrix tells which of its sides are the outputs.

    Nothing can be told of a matrix that no vector goes with, nor of more than two axes of a layer that is not a
    convolution; `?` is refused when pasted.
    """
    shape, rank = array.shape, len(array.shape)
    if is_learned_input(array):
        return " ".join([*("n" if rank == 2 else f"n{axis}" for axis in range(1, rank)), "o"])
    if rank < 2:
        return "o"
    if is_table(array):
        return "o i"
    sizes = _sizes_of_vectors(array, others)
    first, last = shape[0] in sizes, shape[-1] in sizes
    if rank > 2 and "conv" in layer.cls.__name__.lower() and first != last:
        return "o i ..." if first else "... i o"
    if rank > 2 or (first == last and shape[0] != shape[1]):
        return " ".join("?" * rank)
    return "o i" if first and not last else "i o"


def is_table(array: Parameter) -> bool:
    """Return whether an array seems to be an embedding table by its name."""
    return len(array.shape) == 2 and not is_learned_input(array) and TABLES.search(array.name) is not None


def _sizes_of_vectors(array: Parameter, others: Sequence[Parameter]) -> set[int]:
    """The sizes of the vectors that go with a weight: of its own number, `b1` beside `w1`, or of its size alone."""
    weights = [other for other in others if len(other.shape) > 1 and other is not array and not is_learned_input(other)]
    return {
        vector.shape[0]
        for vector in others
        if len(vector.shape) == 1
        and not is_learned_input(vector)
        and (
            not any(vector.shape[0] in other.shape for other in weights)
            or (_number(vector) == _number(array) and all(_number(other) != _number(array) for other in weights))
        )
    }


def _number(array: Parameter) -> str:
    """The number or the word behind the first part of an array's name: `1` of `w1`, `hh` of `w_hh`."""
    found = re.search(r"\d+$|_\w+$", array.name)
    return found[0].strip("_") if found else ""


def _why(array: Parameter) -> Why | None:
    """Why an array is not drawn."""
    return array.excluded.why if array.excluded is not None else None
