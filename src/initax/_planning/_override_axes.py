"""Axes that a rule restates for the layers it selects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from initax._errors import AxesError, alternatives
from initax._math._axes import Axes, names_in, refuse_unsided, resolve
from initax._model._constraint import COMPLEX_PART
from initax._model._parameter import WEIGHT_ROLES, Evidence, Fans, Layer, Parameter
from initax._model._reason import Reason
from initax._model._register import guess_role
from initax._text import path_text
from initax.schemes._initializer import array_name
from initax.schemes._scheme import Scheme


def restated(layer: Layer, scheme: Scheme, rule: str) -> Layer:
    """Return a layer with the axes restated that a scheme has patterns for."""
    names = {parameter.name for parameter in layer.parameters}
    weights = [array.name for array in layer.parameters if array.role in WEIGHT_ROLES]
    # One pattern, given as a string, is for the layer's weight, whatever that is called here.
    patterns = {
        weights[0] if name == "weight" and name not in names and weights else name: pattern
        for name, pattern in scheme.axes.items()
    }
    return with_axes(layer, patterns, scheme.sizes, rule)


def restated_alone(
    layer: Layer, parameter: Parameter, scheme: Scheme, rule: str, selected: Mapping[str, bool]
) -> Layer:
    """Return the layer with the axes of one array restated; one pattern, given as a string, is for that array."""
    names = {array.name for array in layer.parameters if array.path in selected}
    patterns = {parameter.name if name == "weight" else name: pattern for name, pattern in scheme.axes.items()}
    for name, pattern in patterns.items():
        if name not in names:
            raise AxesError(
                f'{rule}: axes are given for "{name}", and the rule names {array_name(parameter)}.',
                f'one pattern is for the array itself: axes="{pattern}"',
            )
    if parameter.name not in patterns:
        return layer
    # Sizes of axes that only the other arrays have are theirs.
    elsewhere = {axis for name, text in patterns.items() if name != parameter.name for axis in names_in(text)}
    inside = names_in(patterns[parameter.name])
    sizes = {axis: size for axis, size in scheme.sizes.items() if axis in inside or axis not in elsewhere}
    alone = replace(layer, parameters=(parameter,))
    (new,) = with_axes(alone, {parameter.name: patterns[parameter.name]}, sizes, rule).parameters
    return replace(layer, parameters=tuple(new if array.path == new.path else array for array in layer.parameters))


def with_axes(layer: Layer, patterns: Mapping[str, str], sizes: Mapping[str, int], rule: str) -> Layer:
    """Return the layer with the axes of some parameters restated.

    Args:
        layer: the layer.
        patterns: name within the layer → pattern.
        sizes: sizes of named axes, each used where a pattern has it.
        rule: the rule, for errors.

    Raises:
        AxesError: a name is not in the layer, or a pattern does not fit the array.
    """
    names = [parameter.name for parameter in layer.parameters]
    for name in patterns:
        if name not in names:
            raise AxesError(
                f'{rule}: axes are given for "{name}", which layer "{layer.path}" ({layer.cls.__name__}) lacks.',
                *alternatives("it has", name, names),
            )
    axes = set().union(*map(names_in, patterns.values())) - {"..."}
    for axis in sizes:
        if axis not in axes:
            raise AxesError(
                f'{rule}: sizes name the axis "{axis}", which no pattern has.',
                *alternatives("axes", axis, sorted(axes)),
            )
    restated = {name: _restated(layer[name], pattern, sizes, layer, rule) for name, pattern in patterns.items()}
    weight = next((array for array in restated.values() if array.role in WEIGHT_ROLES), None)
    return replace(
        layer,
        parameters=tuple(
            _following(restated.get(old.name, old), weight, rule) if weight else restated.get(old.name, old)
            for old in layer.parameters
        ),
    )


def _following(bias: Parameter, weight: Parameter, rule: str) -> Parameter:
    """The parameter, with the fans of the restated weight if it is its bias."""
    if bias.role != "bias" or weight.axes is None:
        return bias
    outputs = weight.axes.canonical_shape[-1]
    if math.prod(bias.shape) not in (outputs, outputs * weight.axes.batch_size):
        raise AxesError(
            f'{rule}: {bias.path} of shape {bias.shape} does not fit {weight.path} read as "{weight.axes.pattern}".',
            f"{weight.path} of shape {weight.shape} would have {outputs} outputs",
        )
    return replace(bias, fans=weight.fans, excluded=_unless_about_axes(bias.excluded))


def _unless_about_axes(reason: Reason | None) -> Reason | None:
    return None if reason is not None and reason.may_be_restated else reason


def _restated(old: Parameter, pattern: str, sizes: Mapping[str, int], layer: Layer, rule: str) -> Parameter:
    names = names_in(pattern)
    try:
        if old.role in WEIGHT_ROLES or (old.role is None and len(names) > 1):
            refuse_unsided(pattern)
        axes = resolve(pattern, old.shape, {name: size for name, size in sizes.items() if name in names})
    except AxesError as error:
        raise AxesError(f"{rule}: {path_text(old.path)}: {error}") from None
    constraint = old.constraint
    elsewhere = any(axes.split == other.split and axes.batch_axis == other.batch_axis for _, other in old.placements)
    if constraint is not None and constraint.companions and old.axes and elsewhere:
        raise AxesError(
            f"{rule}: {path_text(old.path)} is under {constraint.name}, which was read for stacks as in "
            f'"{old.axes.pattern}", not "{pattern}".',
            "stack it along the first axis, as nnx.vmap(..., out_axes=0) does",
        )
    role = old.role or guess_role(old.name, names, layer.kind)
    fans = _fans(axes, old) if role in WEIGHT_ROLES else old.fans
    return replace(
        old,
        role=role,
        axes=axes,
        fans=fans,
        evidence=Evidence.RESTATED,
        excluded=_unless_about_axes(old.excluded),
        constraint=None if constraint is COMPLEX_PART else constraint,  # which the forward pass said
    )


def _fans(axes: Axes, old: Parameter) -> Fans:
    """Return the fans of restated axes: strides and masks take away the same share as before."""
    if old.fans is None or not old.fans.nominal[0] or old.role == "embedding":
        return Fans.of(axes).masked(old.constraint)
    return old.fans.restated(axes)
