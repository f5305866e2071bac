"""`icnn` rules for any input-convex network: finds which weights are positive and which are passthroughs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

from initax._adapters import survey
from initax._adapters._nodes import holds_arrays
from initax._errors import RuleError, listing, with_line
from initax._math._gaussian import Activation
from initax._model._parameter import Layer
from initax._planning._misuse import refuse_permuted
from initax.convex._network import warn_if_too_deep
from initax.schemes._icnn import PASSTHROUGH, Part, as_stored, hidden_weight, is_positive, names_passthrough, weights_of

Rules = dict[str, tuple[str, dict[str, Any]]]


def _line(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The call of `ix.convex.rules` that may be meant, with the activation where it is known."""
    values = [*args, *(kwargs[name] for name in ("model", "activation") if name in kwargs)]
    known = [value for value in values if isinstance(value, str) or (callable(value) and not holds_arrays(value))]
    known += [value.activation for value in values if callable(getattr(value, "activation", None))]
    activation = as_stored(known[0]) if known else "relu"
    shown = f'"{activation}"' if isinstance(activation, str) else "activation"
    return f"write ix.convex.rules(model, {shown}); further arguments go by name, correlation=0.5"


@with_line("ix.convex.rules", _line)
def rules(
    model: Any,
    activation: Activation,
    *,
    parts: Mapping[str, str] | None = None,
    correlation: float = 0.5,
    variance: float = 1.0,
    k: float = 1.0,
    tau: float = 0.5,
    input_square: float = 1.0,
) -> Rules:
    """Return rules that give an input-convex network the weights and biases of `icnn`.

    What is positive is known from the model: klax's and paramax's wrappers, `ix.register_layer(..., positivity=...)`,
    or an `ix.convex.FICNN`. A layer with a positive weight and another one has a passthrough; so has a network whose
    positive layers come with as many unconstrained ones of the input's size beside the first. Layers in front of the
    network, e.g. an encoder, get no rule.

    Args:
        model: the model, or an abstract one.
        activation: the activation in front of the positive weights, a function or its name.
        parts: what layers are where the model does not show it, by path or pattern: `"first"`, `"positive"`, `"alone"`,
            `"passthrough"`, or `"none"` for a layer that has no part in it. Networks kept positive by a projection
            after each step need it.
        correlation: see `ix.schemes.icnn`, here and below.
        variance: variance of the pre-activations.
        k: sum of a unit's positive weights.
        tau: share of the variance from the passthrough.
        input_square: mean square of the network's inputs.

    Returns:
        Rules, one per layer, for `ix.reinit` and `ix.plan`; add your own with `|`.

    Raises:
        RuleError: no weight is known to be positive, what a layer is can't be told, or `parts` names no layer.

    Examples:
        >>> import initax as ix, jax
        >>> model = ix.convex.FICNN(3, 1, [8], key=jax.random.key(0))
        >>> for path, (scheme, arguments) in ix.convex.rules(model, "relu").items():
        ...     print(path, scheme, arguments["part"])
        layers.0 icnn auto
        layers.1 icnn auto

    References:
        Amos et al. 2017, arXiv 1609.07152, eq. 2, for the parts of such a network.
    """
    refuse_permuted("ix.convex.rules", model=model, activation=activation)
    layers = [layer for layer in survey(model).layers if weights_of(layer)]
    given_parts = _given_parts(layers, parts or {})
    rows = _parts_of([layer for layer in layers if given_parts.get(layer.path) != "none"], given_parts)
    stored = as_stored(activation)
    args = {"correlation": correlation, "variance": variance, "k": k, "tau": tau, "input_square": input_square}
    shared = {name: value for name, value in args.items() if value != (0.5 if name in ("correlation", "tau") else 1.0)}
    has_passthrough = any(part in ("positive", PASSTHROUGH) or _is_mixed(layer) for layer, part, _ in rows)
    warn_if_too_deep(len({layer.path for layer, _, _ in rows}), use_passthrough=has_passthrough)
    return {
        layer.path or "*": ("icnn", {"activation": stored, **shared, "part": part, "bias": bias})
        for layer, part, bias in rows
    }


PartRows = list[tuple[Layer, str, str]]
"""Layers, what they are, and where the bias of positive weights stands."""


def _is_mixed(layer: Layer) -> bool:
    """Whether a layer has a positive weight and another one: its passthrough."""
    return hidden_weight(layer) is not None and len(weights_of(layer)) > 1


def _given_parts(layers: list[Layer], parts: Mapping[str, str]) -> dict[str, str]:
    given_parts: dict[str, str] = {}
    options = (*get_args(Part), "none")
    for pattern, part in parts.items():
        if part not in options:
            raise RuleError(f'parts: "{part}" is not a part of a convex network.', f"parts: {', '.join(options)}")
        matching = [layer.path for layer in layers if fnmatchcase(layer.path, pattern)]
        if not matching:
            raise RuleError(f'parts: "{pattern}" matches no layer.', f"layers: {_paths(layers)}")
        given_parts |= dict.fromkeys(matching, part)
    return given_parts


def _paths(layers: list[Layer]) -> str:
    return listing(f'"{layer.path}"' for layer in layers)


def _parts_of(layers: list[Layer], given_parts: Mapping[str, str]) -> PartRows:
    shown = {layer.path: "positive" for layer in layers if hidden_weight(layer) is not None}
    part_of = {**shown, **given_parts}
    hidden = [layer for layer in layers if part_of.get(layer.path) in ("positive", "alone")]
    if not hidden:
        raise RuleError(
            "no weight of the model is known to be positive, so there is no convex network in it.",
            f"layers: {_paths(layers)}",
            "say how the layer makes it so, ix.register_layer(..., positivity={...}),",
            'or what its layers are: ix.convex.rules(..., parts={"first": "first", "hidden.*": "alone"})',
        )
    others = [layer for layer in layers if layer not in hidden]
    first = _first(layers, hidden, others, given_parts)
    hidden = [layer for layer in hidden if layer is not first]
    passthroughs = [layer for layer in others if layer is not first and given_parts.get(layer.path) == PASSTHROUGH]
    alone = [layer for layer in hidden if not _is_mixed(layer)]
    if not passthroughs and alone:
        passthroughs = _passthroughs(others, first, alone)
    # A layer that names its passthrough shows that it is the first, and whether it sees a context too.
    rows = {first.path: ("auto" if names_passthrough(first) else "first", "auto")}
    bias_is_own = all(any(array.role == "bias" for array in layer.parameters) for layer in alone)
    of_hidden, of_passthrough = ("own", "elsewhere") if bias_is_own else ("elsewhere", "own")
    rows |= {layer.path: ("auto", "auto") for layer in hidden}
    rows |= {layer.path: ("positive", of_hidden) if passthroughs else ("alone", "auto") for layer in alone}
    rows |= {layer.path: (PASSTHROUGH, of_passthrough) for layer in passthroughs}
    return [(layer, *rows[layer.path]) for layer in layers if layer.path in rows]


def _first(layers: list[Layer], hidden: list[Layer], others: list[Layer], given_parts: Mapping[str, str]) -> Layer:
    """The layer that sees the network's input alone."""
    named_so = [layer for layer in layers if given_parts.get(layer.path) == "first"]
    by_name = [layer for layer in others if names_passthrough(layer)]
    if named_so or by_name:
        return (named_so or by_name)[0]
    if not others:  # every weight is positive: a non-decreasing network
        return hidden[0]
    before = [layer for layer in others if layers.index(layer) < layers.index(hidden[0])]
    likely = before or others
    fan_in = weights_of(hidden[0])[0].fan_in
    likely = [layer for layer in likely if weights_of(layer)[0].fan_out == fan_in] or likely
    likely = [layer for layer in likely if _stem(layer) == _stem(hidden[0])] or likely
    # The layer just in front, unless it is one of a list that holds the first layer and all the passthroughs.
    alike = [layer for layer in others if _stem(layer) == _stem(likely[-1])]
    is_one_list = len(alike) == len(hidden) + 1 and not any(map(_is_mixed, hidden))
    return alike[0] if is_one_list else likely[-1] if before else likely[0]


def _stem(layer: Layer) -> str:
    """A layer's path without its numbers, which layers of one list share."""
    return re.sub(r"\d+", "", layer.path)


def _passthroughs(others: list[Layer], first: Layer, alone: list[Layer]) -> list[Layer]:
    """Unconstrained layers of the input's size beside the first: passthroughs that are layers of their own."""
    fan_in = weights_of(first)[0].fan_in
    candidates = [layer for layer in others if layer is not first and weights_of(layer)[0].fan_in == fan_in]
    candidates = [layer for layer in candidates if not any(is_positive(weight) for weight in weights_of(layer))]
    if len(candidates) not in (0, len(alone)):
        raise RuleError(
            f"what these layers are can't be told: {_paths(candidates)}.",
            f"as passthroughs they would have to be as many as the positive layers: {_paths(alone)}",
            'say it: ix.convex.rules(..., parts={"path": "passthrough"}), or "none" for a layer that has no part',
        )
    return candidates
