"""Which axes of each weight make a matrix, for optimizers of matrices."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from initax._adapters._nodes import holds_arrays
from initax._errors import AxesError, InitaxError, RuleError, count, did_you_mean, first_of, listing, warn, with_line
from initax._math._axes import Axes
from initax._model._parameter import WEIGHT_ROLES, Parameter
from initax._model._reason import Why
from initax._model._survey import Survey, arrays_of
from initax._planning._label_rules import ArrayLabel, decide_labels
from initax._planning._misuse import refuse_permuted
from initax._text import path_text
from initax._trace._take_survey import survey
from initax._verbs._labels import Label, Labels, never_trained, read_rules_of

READ_NOWHERE = frozenset({Why.UNDECLARED, Why.MISFIT, Why.CONTRADICTED, Why.UNREADABLE, Why.TRANSFORMED})
"""Reasons for which an array may be a matrix all the same."""


@with_line("ix.muon_dimensions", "write ix.muon_dimensions(model)")
def muon_dimensions(
    model: Any, rules: Any = None, *, inputs: Any = None, forward: Callable[..., Any] | None = None, module: Any = None
) -> Labels:
    """Return the axes of each weight for `optax.contrib.muon(muon_weight_dimension_numbers=...)`.

    A weight, or a recurrent weight, whose axes are known is a matrix: its inputs and its receptive field are the
    reduction axes, its outputs the output axes, and each entry of a batch axis (a layer of a stack, an expert) a matrix
    of its own. `None`, and so Adam, is for all else: embeddings, norms, biases, vectors, depthwise convolutions. The
    head is a matrix like others; give it to Adam by a rule.

    Args:
        model: an Equinox or NNX module, Linen variables, a train state, or any pytree of arrays, abstract or not.
        rules: selector → `False` for Adam; `True` for what is not treated as a matrix, e.g. an embedding; or the axes
            of each matrix where they are others than the layer's: `"i head o"` makes every head of attention a matrix
            of its own. A mapping is keyed by roles and names of arrays. Or the path of a file of such rules.
        inputs: what the model is called on, where axes are read off a trace.
        forward: function of the model and the inputs, where a plain call is not it.
        module: where the model is variables of Flax Linen, the module they belong to.

    Returns:
        The axes, `optax.contrib.MuonDimensionNumbers` of the stored arrays: a function from parameters to a tree, as
        optax takes it; `.tree` is the tree itself.

    Raises:
        AxesError: a matrix is a part of an axis, `(gate o)`, which optax can't be told; restated axes do not fit.
        RuleError: a selector matches nothing, or a rule asks for a matrix that the array is not.
        ModelError: the forward pass fails, or what was passed is not a model.

    Examples:
        >>> import equinox as eqx, jax, initax as ix, optax
        >>> model = eqx.nn.MLP(4, 2, 8, depth=1, key=jax.random.key(0))
        >>> dimensions = ix.muon_dimensions(model, {"layers.1": False})
        >>> optimizer = optax.contrib.muon(1e-3, muon_weight_dimension_numbers=dimensions)
        >>> dimensions["layers.0.weight"], dimensions["layers.1.weight"]
        (MuonDimensionNumbers(reduction_axis=(1,), output_axis=(0,)), None)

    References:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", for what goes to Adam.
    """
    surveyed = survey(model, inputs=inputs, forward=forward, module=module)
    matrices = matrices_of("muon_dimensions", surveyed, rules)
    axes = {row.parameter.path: row.value for row in matrices if row.value is not None}
    merged = [path for path in axes if axes[path].stored_sides is None]
    if merged:
        raise AxesError(
            "muon_dimensions: optax can't be told of matrices that share an axis.",
            *first_of(f'{path} {axes[path].shape}, "{axes[path].pattern}"' for path in merged),
            "ix.muon(learning_rate, model) shows optax each of them alone",
            f'or give them to Adam: ix.muon_dimensions(model, {{"{merged[0]}": False}})',
        )
    numbers = optax_transforms("ix.muon_dimensions").MuonDimensionNumbers
    dimensions = {path: numbers(*of_array.stored_sides) for path, of_array in axes.items()}
    return _labelled("muon_dimensions", surveyed, matrices, dimensions)


def _muon_line(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The call of `ix.muon` that may be meant: the learning rate first, whatever stood first or was named `lr`."""
    named = [kwargs[name] for name in ("learning_rate", "lr") if name in kwargs]
    rate = next((repr(value) for value in (*named, *args) if isinstance(value, int | float)), "learning_rate")
    options = {name: value for name, value in kwargs.items() if name not in ("learning_rate", "lr", "model")}
    rules = [repr(value) for value in args if isinstance(value, Mapping) and not holds_arrays(value)]
    return f"write ix.muon({', '.join([rate, 'model', *rules, *(f'{name}=...' for name in options)])})"


@with_line("ix.muon", _muon_line)
def muon(
    learning_rate: Any,
    model: Any,
    rules: Any = None,
    *,
    inputs: Any = None,
    forward: Callable[..., Any] | None = None,
    module: Any = None,
    **options: Any,
) -> Any:
    """Return `optax.contrib.muon` for a model: Muon for each matrix alone, Adam for all else.

    What is a matrix, `ix.muon_dimensions` says. Here matrices may share an axis: gates of a recurrent cell and groups
    of a convolution, `(gate o) i`, each have their own orthogonal update, as if they were stored apart. The state is
    that of optax, in the shapes of the parameters.

    Args:
        learning_rate: the learning rate of Muon, and of Adam unless `adam_learning_rate` is given; or a schedule.
        model: an Equinox or NNX module, Linen variables, a train state, or any pytree of arrays, abstract or not.
        rules: as for `ix.muon_dimensions`: `{"head": False}`, `{"**.qkv": {"axes": "(part o) i", "sizes": {"part":
            3}}}`.
        inputs: what the model is called on, where axes are read off a trace.
        forward: function of the model and the inputs, where a plain call is not it.
        module: where the model is variables of Flax Linen, the module they belong to.
        **options: further arguments of `optax.contrib.muon`: `weight_decay`, `consistent_rms`, `ns_steps`, ...

    Returns:
        An `optax.GradientTransformation`.

    Raises:
        AxesError: restated axes do not fit.
        RuleError: a selector matches nothing, or a rule asks for a matrix that the array is not.
        InitaxError: optax is missing, or `adaptive=True`, which would mix matrices, is asked for where an array holds
            several.
        ModelError: the forward pass fails, or what was passed is not a model.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> model = eqx.nn.LSTMCell(4, 8, key=jax.random.key(0))
        >>> optimizer = ix.muon(0.02, model, weight_decay=0.01)
        >>> state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    References:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is
        scalable for LLM training", arXiv 2502.16982, for `consistent_rms`.
    """
    refuse_permuted("ix.muon", learning_rate=learning_rate, model=model)
    surveyed = survey(model, inputs=inputs, forward=forward, module=module)
    if "muon_weight_dimension_numbers" in options:
        raise InitaxError(
            "muon: muon_weight_dimension_numbers is what ix.muon finds out.", "leave it out, or use rules"
        )
    adapter = optax_transforms("ix.muon")
    unknown = [name for name in options if name not in adapter.ARGUMENTS]
    if unknown:
        near = did_you_mean(unknown[0], adapter.ARGUMENTS)
        line = _muon_line((learning_rate, model), options) if unknown[0] == "lr" else ""
        raise InitaxError(f'muon: optax.contrib.muon has no argument "{unknown[0]}".', near, line)
    matrices = matrices_of("muon", surveyed, rules)
    axes = {row.parameter.path: row.value for row in matrices if row.value is not None}
    several = [path for path, of_array in axes.items() if of_array.batch_size > 1]
    if options.get("adaptive") and several:
        raise InitaxError(
            "muon: adaptive=True scales by one number for each array, and some hold several matrices.",
            f"arrays: {listing(several, 4)}",
            "leave adaptive out, or give these to Adam by a rule",
        )
    dimensions = {
        path: adapter.MuonDimensionNumbers((*of_array.receptive_axis, *of_array.in_axis), of_array.out_axis)
        for path, of_array in axes.items()
    }
    splits = {path: of_array.split for path, of_array in axes.items() if of_array.split != of_array.shape}
    trees = (_labelled("muon", surveyed, matrices, values) for values in (dimensions, splits))
    return adapter.muon(learning_rate, *trees, options)


def optax_transforms(verb: str, line: str = "pip install optax") -> ModuleType:
    """Return our transformations of optax, which import it.

    Args:
        verb: who asks, for the error.
        line: what to do without optax.

    Raises:
        InitaxError: optax is not installed.
    """
    try:
        return importlib.import_module("initax._adapters._optax_transforms")
    except ModuleNotFoundError as error:
        raise InitaxError(f"{verb} needs optax, which is not installed.", line) from error


def _labelled(verb: str, surveyed: Survey, matrices: list[Label], values: Mapping[str, Any]) -> Labels:
    return Labels(verb, surveyed, [replace(row, value=values.get(row.parameter.path)) for row in matrices])


def matrices_of(verb: str, surveyed: Survey, rules: Any) -> list[Label]:
    """Return each array of a model, labelled with its axes as a matrix; `None` where it is not one, with the reason.

    Args:
        verb: who asks, for errors.
        surveyed: the model.
        rules: as `ix.muon` takes them.

    Raises:
        RuleError: no array is a matrix, or a rule is wrong.
    """
    decided = decide_labels(read_rules_of("muon", rules, verb), surveyed) if rules is not None else {}
    matrices = []
    for layer, array in arrays_of(surveyed):
        axes, why = _matrix(verb, array, decided.get(array.path))
        parameter = array if axes is None else replace(array, axes=axes)
        matrices.append(Label(parameter=parameter, kind=layer.kind, value=axes, why=why))
    trace_line = "" if surveyed.traced is not None else "say what the model is called on, inputs=..."
    if all(row.value is None for row in matrices):
        head = f"{verb}: no array is a matrix of known axes, so that Adam would get all of them."
        raise RuleError(head, *map(_text, matrices[:6]), trace_line)
    blind = [row for row in matrices if row.value is None and _may_be_matrix(row.parameter, decided)]
    if blind:
        first = blind[0].parameter
        warn(
            f"{verb} can't tell the axes of {count(len(blind), 'array')}, and Adam gets them:",
            *first_of(map(_text, blind)),
            trace_line,
            f'or say their axes, {{"{first.path}": "{_example(first)}"}}, or False for Adam',
        )
    return matrices


def _text(row: Label) -> str:
    return f"{path_text(row.parameter.path)} {row.parameter.shape}: {row.why}"


def _example(parameter: Parameter) -> str:
    """A pattern of as many axes as an array has."""
    outputs = len(parameter.shape) - 1
    return "i o" if outputs == 1 else " ".join(["i", *(f"o{index}" for index in range(1, outputs + 1))])


def _may_be_matrix(parameter: Parameter, decided: Mapping[str, ArrayLabel]) -> bool:
    if parameter.path in decided or parameter.excluded is None or parameter.excluded.why not in READ_NOWHERE:
        return False
    return sum(size > 1 for size in parameter.shape) > 1 and parameter.role in (None, *WEIGHT_ROLES)


def _matrix(verb: str, parameter: Parameter, label: ArrayLabel | None) -> tuple[Axes | None, str]:
    """The axes of an array as a matrix, or stack of matrices, and the rule that says so; else why it is not one."""
    if never_trained(parameter):
        return None, str(parameter.excluded)
    if label is not None and label.value is False:
        return None, f'rule "{label.rule}"'
    asked = label is not None and (label.is_named or parameter.role in WEIGHT_ROLES)
    axes = parameter.axes
    if label is not None and asked and isinstance(label.value, Mapping):
        axes = label.axes(verb, parameter)
    elif parameter.excluded is not None and parameter.excluded.why is not Why.TIED:
        axes = None
    why = _why_none(parameter, axes, asked=asked)
    if why and label is not None and label.is_named:
        raise RuleError(
            f'{verb}: rule "{label.rule}" asks for a matrix, and {path_text(parameter.path)} is none: {why}.',
            f"shape {parameter.shape}" + (f', axes "{axes.pattern}"' if axes is not None else ""),
            'say its axes, "i o", or False for Adam',
        )
    by_rule = f'rule "{label.rule}"' if label is not None and asked else ""
    return (None, why) if why else (axes, by_rule)


def _why_none(parameter: Parameter, axes: Axes | None, *, asked: bool) -> str:
    """Why an array is not a matrix; nothing where it is one."""
    if not asked and parameter.role not in ("weight", "recurrent"):
        return parameter.role or str(parameter.excluded or "its role is not known")
    if axes is None:
        return str(parameter.excluded or "its axes are not known")
    *_, inputs, outputs = axes.canonical_shape
    if 0 in axes.shape:
        return "empty"
    if axes.receptive_axis and inputs == 1 and axes.batch_size > 1:
        return "depthwise"
    return "a vector" if axes.fan_in <= 1 or outputs <= 1 or not axes.in_axis or not axes.out_axis else ""
