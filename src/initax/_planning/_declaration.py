"""The lines that declare a layer whose arrays nothing tells the axes of, with a guess for the user to put right."""

from __future__ import annotations

from initax._model._evidence import LEARNED_INPUTS, axes_line
from initax._model._parameter import WEIGHT_ROLES, Layer, Parameter
from initax._model._reason import Reason, Why, undeclared
from initax._model._register import ARGUMENTS


def shown(layer: Layer, parameter: Parameter, reason: Reason | None = None) -> str:
    """Return an array as errors list it."""
    inside = f" of {layer.cls.__name__}"
    return f"{parameter.path or '(model)'} {parameter.shape}{inside}" + (f": {reason}" if reason else "")


def declaration(layer: Layer) -> tuple[str, ...]:
    """Return the lines that declare a layer, with a guess at the patterns for the user to put right."""
    if layer.cls.__name__ in ("ArrayImpl", "ndarray", "ShapeDtypeStruct"):
        return ("for a single array write ix.draw(scheme, key, shape)",)
    hints = [each.excluded.hint for each in layer.parameters if each.excluded is not None and each.excluded.hint]
    if hints:
        return (hints[0],)
    arrays = [each for each in layer.parameters if each.axes or (each.excluded and each.excluded.is_about_axes)]
    returned = [each for each in arrays if each.excluded and each.excluded.why is Why.RETURNED]
    arrays = [each for each in arrays if each not in returned]
    if returned and not any(each.excluded for each in arrays):
        path = returned[0].path
        return (f'it has no axes to declare; a rule can set it, {{"{path}": "zeros"}}, or keep it, {{"{path}": None}}',)
    misfits = any(each.excluded and each.excluded.why is Why.CONTRADICTED for each in arrays)
    if all(each.axes for each in arrays) and not misfits:
        default = ", ".join(f'"{each.name}": "lecun_normal"' for each in arrays if each.role in WEIGHT_ROLES)
        return (f"declare it: ix.register_layer({layer.cls.__name__}, ..., default={{{default}}})",)
    shapes = [each.shape for each in arrays]
    patterns = {
        each.name: each.axes.pattern
        if each.axes and not misfits and each.role in WEIGHT_ROLES
        else guess_pattern(each, layer, shapes)
        for each in arrays
    }
    if misfits:
        patterns |= _guess_wide(arrays)
    if layer.cls.__module__ == "builtins":
        return (axes_line(patterns),)
    learned = [each.name for each in arrays if is_learned_input(each)]
    said = 'kind="Embedding"' if len(learned) == len(patterns) else 'kind="Linear"'
    if learned and len(learned) < len(patterns):
        said += ", roles={" + ", ".join(f'"{name}": "embedding"' for name in learned) + "}"
    if all(name.isidentifier() and name not in ARGUMENTS for name in patterns):
        said += "".join(f', {name}="{pattern}"' for name, pattern in patterns.items())
    else:
        pairs = ", ".join(f'"{name}": "{pattern}"' for name, pattern in patterns.items())
        said = f"{{{pairs}}}, {said}"
    line = f"declare it, axes in stored order: ix.register_layer({layer.cls.__name__}, {said})"
    if len(learned) == len(patterns) or any(each.excluded != undeclared() for each in arrays):
        return (line,)
    return ("let a trace find the axes: inputs=x, what the model is called on", f"or {line}")


def is_learned_input(array: Parameter) -> bool:
    """Return whether an array seems to stand where a signal does: a learned position, a token."""
    return LEARNED_INPUTS.search(array.name) is not None or (
        array.excluded is not None and array.excluded.why is Why.SIGNAL
    )


def _guess_wide(arrays: list[Parameter]) -> dict[str, str]:
    """Axes that a weight and its bias of several axes may have: outputs of several axes, or stacked layers."""
    wide = [each for each in arrays if each.role == "bias" and len(each.shape) > 1]
    if not wide or len(arrays) != 2:
        return {}
    (weight, bias), size = (arrays if arrays[1] is wide[0] else arrays[::-1]), wide[0].shape
    if weight.shape[-len(size) :] == size:
        outputs = " ".join(f"o{place + 1}" for place in range(len(size)))
        inputs = [f"i{place + 1}" for place in range(len(weight.shape) - len(size))]
        return {weight.name: " ".join([*(inputs if len(inputs) > 1 else ["i"]), outputs]), bias.name: outputs}
    if len(weight.shape) == 3 and size[0] == weight.shape[0]:
        return {weight.name: "stack i o" if size[1] == weight.shape[2] else "stack o i", bias.name: "stack o"}
    return {bias.name: " ".join(f"o{place + 1}" for place in range(len(size)))}


def guess_pattern(array: Parameter, layer: Layer, others: list[tuple[int, ...]]) -> str:
    """Axes an array may have: a vector beside a matrix tells which of its sides are the outputs.

    Of more than two axes of a layer that is no convolution nothing can be told, and `?` is refused when pasted.
    """
    shape, rank = array.shape, len(array.shape)
    if is_learned_input(array):
        return " ".join([*("n" if rank == 2 else f"n{axis}" for axis in range(1, rank)), "o"])
    if rank < 2:
        return "o"
    if rank > 2 and "conv" not in layer.cls.__name__.lower():
        return " ".join("?" * rank)
    outputs_first = (shape[0],) in others and (shape[-1],) not in others
    if rank == 2:
        return "o i" if outputs_first else "i o"
    return "o i ..." if outputs_first else "... i o"
