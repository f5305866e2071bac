"""Why a scheme keeps an array, and whether a rule would draw it if no later rule decided it."""

from __future__ import annotations

from collections.abc import Mapping

from initax._model._parameter import WEIGHT_ROLES, Layer, Parameter
from initax._model._reason import Reason, Why
from initax._planning._rules import Rule, rule_text
from initax.schemes._initializer import Initializer
from initax.schemes._scheme import UNSET, Scheme


def why_kept(parameter: Parameter, layer: Layer, scheme: Scheme, rule: Rule | None) -> Reason | None:
    """Return why a scheme leaves a parameter alone, or `None` where it draws it."""
    role = parameter.role or "weight"
    part = scheme.part(role)
    if part is UNSET:
        article = "an" if role == "embedding" else "a"
        why = Why.NORM if role == "scale" else Why.SILENT
        return Reason(why, f"{scheme} says nothing about {article} {role}")
    if part is None:
        return Reason(Why.RULE, f'rule "{rule_text(rule)}" keeps every {role}')
    weight = scheme.part("weight")
    if role == "bias" and weight is not UNSET and weight is not None:
        reason = _why_bias_is_kept(parameter, layer, scheme)
        if reason:
            return reason
    if parameter.reserved and not part.draws_reserved:
        return parameter.reserved
    return part.declines(parameter)


def would_draw(rule: Rule, selected: Mapping[str, bool], layer: Layer, parameter: Parameter) -> bool:
    """Return whether a rule would draw an array if it decided it."""
    scheme = rule.scheme
    if scheme is None or parameter.path not in selected:
        return False
    if not selected[parameter.path]:
        return parameter.excluded is None and why_kept(parameter, layer, scheme, rule) is None
    array_scheme = scheme.arrays.get(parameter.name, scheme)
    if array_scheme is None or parameter.excluded is None:
        return array_scheme is not None
    weight = array_scheme.part("weight")
    return parameter.excluded.is_about_axes and isinstance(weight, Initializer) and weight.fits_bias


def keeps_all(scheme: Scheme, selected: Mapping[str, bool]) -> bool:
    """Return whether a rule only says of arrays that they are kept."""
    return not scheme.parts and bool(selected) and all(part is None for part in scheme.arrays.values())


def why_named_is_kept(parameter: Parameter, initializer: Initializer | None, rule: str) -> Reason | None:
    """Return why an array that a rule names is left alone, or `None` where it is drawn."""
    if initializer is None:
        return Reason(Why.RULE, f'rule "{rule}" keeps every {parameter.role or "weight"}')
    if parameter.excluded is not None and not initializer.fits_bias:
        return parameter.excluded
    return initializer.declines(parameter)


def _why_bias_is_kept(bias: Parameter, layer: Layer, scheme: Scheme) -> Reason | None:
    """Why the bias of a layer stays under a scheme for weights: a bias goes with its weight.

    In a layer that has a norm's scale too, a bias that has no weight's fans is the norm's.
    """
    if layer.kind == "Norm" or (bias.fan_in is None and any(array.role == "scale" for array in layer.parameters)):
        silent = scheme.part("scale") is UNSET
        return Reason(Why.NORM, f"{scheme} says nothing about a scale") if silent else None
    weights = [array for array in layer.parameters if array.role in WEIGHT_ROLES]
    if not weights and all(array.role for array in layer.parameters):
        return Reason(Why.WEIGHT_KEPT, "it is a bias, and its layer holds no weight that it goes with")
    elsewhere = (Why.TIED, Why.EMPTY)
    if any(array.excluded is None or array.excluded.why in elsewhere for array in weights):
        return None
    return Reason(Why.WEIGHT_KEPT, "its weight is not drawn")
