"""Deciding: layers, rules and schemes → what is drawn, what is kept, and what is wrong. Nothing here sees data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from initax._errors import ModelError, RuleError, SchemeError, count, listing, message, warn
from initax._model._parameter import FROM_KEY, ROLES, UNDECLARED, WEIGHT_ROLES, Layer, Parameter
from initax._model._reason import Reason, Why, undeclared
from initax._model._register import ARGUMENTS
from initax._planning._misuse import cover
from initax._planning._override_axes import with_axes
from initax._planning._rules import Rule, match
from initax.schemes._initializer import NO_DEFAULT, Initializer, Recipe
from initax.schemes._positive import refuse_misfit
from initax.schemes._scheme import UNSET, Scheme, as_scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One row of a plan: a parameter that will be drawn.

    Attributes:
        parameter: the parameter, with the axes the draw uses.
        kind: kind of its layer.
        scheme: the scheme the rule names, in words.
        rule: the selector that decided.
        initializer: what draws it; `None` for an array that is set with another one, as weight norm's magnitude is.
        recipe: what will run; `None` likewise.
        std: standard deviation of one entry of the effective weight over draws; `None` where it is not known.
        follows: path of the parameter it is set with.
    """

    parameter: Parameter
    kind: str
    scheme: str
    rule: str
    initializer: Initializer | None
    recipe: Recipe | None
    std: float | None
    follows: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One array that stays as it is.

    Attributes:
        parameter: the parameter.
        kind: kind of its layer.
        reason: why it is kept.
        rule: the selector that decided its layer; `None` where none did.
    """

    parameter: Parameter
    kind: str
    reason: Reason
    rule: str | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield parameter and reason, so that `for parameter, reason in plan.kept` works."""
        return iter((self.parameter, self.reason))


@dataclass(frozen=True, slots=True)
class Decisions:
    """The rows of a plan, and what the user may not have meant."""

    draws: tuple[Draw, ...]
    kept: tuple[Kept, ...]
    notes: tuple[str, ...]


def decide(
    layers: Sequence[Layer],
    aliases: Mapping[str, str],
    rules: tuple[Rule, ...],
    default: Scheme | str | None,
    model: type,
    hint: str = "",
) -> Decisions:
    """Return what happens to every array.

    Args:
        layers: the layers of the model.
        aliases: path at which something is reached again → path of its owner.
        rules: the rules, in order.
        default: the scheme of layers no rule selects; `None` keeps them, `"error"` refuses a model with any.
        model: class of the model, for errors.
        hint: where only names are known of the layers, what to pass for their classes, for errors.

    Raises:
        RuleError: a rule selects or draws nothing, or something is left uncovered that must not be.
        SchemeError: a scheme can't serve a parameter it was chosen for.
        AxesError: restated axes do not fit.
        ModelError: there is no layer initax knows.
    """
    _refuse_without_layers(layers, model)
    matching = match(rules, layers, aliases, hint)
    decided = _Deciding(layers)
    for layer, rule in zip(layers, matching.winners, strict=True):
        decided.layer(layer, rule, default)
    decided.refuse_uncovered(default)
    decided.refuse_idle(rules, matching.winners, layers)
    decided.note_unspoken(rules)
    for rule, winners in matching.shadowed:
        decided.note(
            f'rule "{rule.text}" decides nothing: every layer it selects is decided by '
            + listing(f'"{winner.text}"' for winner in winners)
            + ", which comes later; the last rule that matches wins"
        )
    return Decisions(tuple(decided.draws), tuple(decided.kept), tuple(decided.notes))


NO_RULE = Reason(Why.NO_RULE, "no rule selects it")


class _Deciding:
    """The rows of a plan while they are decided."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.draws: list[Draw] = []
        self.kept: list[Kept] = []
        self.notes: list[str] = []
        self.drew: dict[int, int] = {}
        self.uncovered: list[tuple[Layer, Parameter, Reason]] = []
        self.undeclared: dict[str, list[tuple[Layer, Parameter]]] = {}
        self.companions: dict[str, tuple[Parameter, str]] = {
            parameter.path: (parameter, layer.kind) for layer in layers for parameter in layer.parameters
        }
        self.set_with: set[str] = set()
        self.unspoken: dict[int, list[tuple[Layer, Parameter]]] = {}
        self.texts: dict[int, str] = {}

    def note(self, text: str) -> None:
        self.notes.append(text)
        warn(text)

    def layer(self, layer: Layer, rule: Rule | None, fallback: Scheme | str | None) -> None:
        scheme = rule.scheme if rule is not None else fallback if isinstance(fallback, Scheme) else None
        text = rule.text if rule is not None else "default="
        if rule is None or scheme is not None:
            layer = self._started(layer, "" if rule is None and scheme is None else text)
        if scheme is None:
            self._keep_all(layer, rule)
            return
        layer = _restated(layer, scheme, f'rule "{text}"')
        for parameter in layer.parameters:
            starts_anew = parameter.role == "state" and parameter.excluded is None
            if starts_anew:
                self._draw(layer, parameter, as_scheme("default"), rule, text)
                continue
            reason = parameter.excluded or _why_kept(parameter, layer, scheme, text)
            if reason is None:
                self._draw(layer, parameter, scheme, rule, text)
                continue
            self._keep(layer, parameter, reason, rule)
            if parameter.role in WEIGHT_ROLES and not parameter.excluded and scheme.part(parameter.role) is UNSET:
                self.unspoken.setdefault(id(rule), []).append((layer, parameter))
            if reason.is_about_axes or reason.why is Why.NO_DEFAULT:
                self.undeclared.setdefault(text, []).append((layer, parameter))
                self.uncovered.append((layer, parameter, reason))

    def _keep_all(self, layer: Layer, rule: Rule | None) -> None:
        reason = NO_RULE if rule is None else Reason(Why.RULE, f'rule "{rule.text}" keeps it')
        for parameter in layer.parameters:
            self._keep(layer, parameter, parameter.excluded or reason, rule)
            if rule is None and (parameter.excluded is None or parameter.excluded.is_about_axes):
                self.uncovered.append((layer, parameter, parameter.excluded or reason))

    def _started(self, layer: Layer, text: str) -> Layer:
        """The layer without random state that was never made, which starts whatever the scheme: no rule is for it."""
        streams = [each for each in layer.parameters if each.excluded is None and each.default == FROM_KEY]
        for each in streams:
            self.draws.append(
                Draw(
                    parameter=each,
                    kind=layer.kind,
                    scheme="default",
                    rule=text,
                    initializer=None,
                    recipe=None,
                    std=None,
                    follows="the key",
                )
            )
        others = tuple(each for each in layer.parameters if each not in streams) if streams else layer.parameters
        return replace(layer, parameters=others)

    def _text(self, scheme: Scheme) -> str:
        if id(scheme) not in self.texts:
            self.texts[id(scheme)] = str(scheme)
        return self.texts[id(scheme)]

    def _keep(self, layer: Layer, parameter: Parameter, reason: Reason, rule: Rule | None) -> None:
        self.kept.append(Kept(parameter=parameter, kind=layer.kind, reason=reason, rule=rule.text if rule else None))

    def _draw(self, layer: Layer, parameter: Parameter, scheme: Scheme, rule: Rule | None, text: str) -> None:
        role = "weight" if parameter.role in (None, "state") else parameter.role
        initializer: Initializer = scheme.part(role)
        try:
            recipe = initializer.recipe(parameter, layer)
            if parameter.constraint is not None:
                refuse_misfit(initializer, recipe, parameter, parameter.constraint)
        except SchemeError as error:
            raise SchemeError(f'rule "{text}": {error}') from error.__cause__
        self.draws.append(
            Draw(
                parameter=parameter,
                kind=layer.kind,
                scheme=self._text(scheme),
                rule=text,
                initializer=initializer,
                recipe=recipe,
                std=recipe.std,
            )
        )
        self.drew[id(rule)] = self.drew.get(id(rule), 0) + 1
        constraint = parameter.constraint
        if constraint is None:
            return
        if constraint.warning:
            self.note(constraint.warning)
        for path in constraint.companions:
            companion, kind = self.companions[path]
            self.set_with.add(path)
            self.draws.append(
                Draw(
                    parameter=companion,
                    kind=kind,
                    scheme=self._text(scheme),
                    rule=text,
                    initializer=None,
                    recipe=None,
                    std=None,
                    follows=parameter.path,
                )
            )

    def refuse_uncovered(self, default: Any) -> None:
        self.kept = [each for each in self.kept if each.parameter.path not in self.set_with]
        left = [each for each in self.uncovered if each[1].path not in self.set_with]
        if default == "error" and left:
            raise RuleError(
                message(
                    f'no rule covers {count(len(left), "array")}, and default="error" asks for all of them.',
                    *(_shown(layer, parameter, reason) for layer, parameter, reason in left[:8]),
                    f"… {len(left) - 8} more" if len(left) > 8 else "",
                    cover(
                        left,
                        {each.parameter.path for each in self.kept if each.rule is not None},
                        {each.parameter.path for each in self.draws},
                    ),
                )
            )

    def refuse_idle(self, rules: tuple[Rule, ...], winners: tuple[Rule | None, ...], layers: Sequence[Layer]) -> None:
        for rule in rules:
            decided = any(winner is rule for winner in winners)
            if rule.scheme is None or not decided or self.drew.get(id(rule)):
                continue
            taken = (
                winner.text
                for layer, winner in zip(layers, winners, strict=True)
                if winner is not None and winner is not rule and _would_draw(rule, layer, layer.parameters)
            )
            later = listing(f'"{text}"' for text in dict.fromkeys(taken))
            if not later:
                raise RuleError(self._idle(rule, winners))
            self.note(
                f'rule "{rule.text}" draws nothing: every layer in which it could is decided by {later}, which comes '
                "later; the last rule that matches wins"
            )
        for text, found in self.undeclared.items():
            self.note(
                message(
                    f'rule "{text}" selects {count(len(found), "array")} it can\'t draw; kept as they are:',
                    *(_shown(layer, parameter, parameter.excluded or NO_DEFAULT) for layer, parameter in found[:4]),
                    f"… {len(found) - 4} more" if len(found) > 4 else "",
                    *_declaration(found[0][0]),
                )
            )

    def note_unspoken(self, rules: tuple[Rule, ...]) -> None:
        """Note weights that a rule says nothing about and an earlier one would have drawn."""
        for at, rule in enumerate(rules):
            found = [
                (layer, parameter)
                for layer, parameter in self.unspoken.get(id(rule), ())
                if any(_would_draw(each, layer, (parameter,)) for each in _until_kept(rules[:at], layer))
            ]
            if not found or rule.scheme is None:
                continue
            spoken = list(rule.scheme.parts)
            roles = [role for role in ROLES if role in {*spoken, *(parameter.role for _, parameter in found)}]
            whole = ", ".join(f'"{role}": ...' for role in roles)
            self.note(
                message(
                    f'rule "{rule.text}" speaks of {" and ".join(spoken)} only; what an earlier rule would draw '
                    "is kept:",
                    *(_shown(layer, parameter) for layer, parameter in found[:4]),
                    f"… {len(found) - 4} more" if len(found) > 4 else "",
                    f'write {{"{rule.text}": {{{whole}}}}}, with None for what is to be kept',
                )
            )

    def _idle(self, rule: Rule, winners: tuple[Rule | None, ...]) -> str:
        decided = count(sum(winner is rule for winner in winners), "layer")
        head = f'rule "{rule.text}": {rule.scheme} draws nothing in the {decided} it decides.'
        if rule.text in self.undeclared:
            found = self.undeclared[rule.text]
            shown = (_shown(layer, parameter, parameter.excluded or NO_DEFAULT) for layer, parameter in found[:4])
            return message(head, *shown, *_declaration(found[0][0]))
        own = [each for each in self.kept if each.rule == rule.text]
        lines = [f"{each.parameter.path or '(model)'}: {each.reason}" for each in own[:4]]
        more = f"… {len(own) - 4} more" if len(own) > 4 else ""
        return message(head, *lines, more, self._instead(rule, own))

    def _instead(self, rule: Rule, own: list[Kept]) -> str:
        if any(each.reason.why is Why.NORM for each in own):
            return f'write {{"{rule.text}": {{"scale": "ones", "bias": "zeros"}}}}, or "default"'
        learned = [each.parameter.name for each in own if _is_learned_input(each.parameter)]
        if learned:
            roles = ", ".join(f'"{name}": "embedding"' for name in learned)
            return f"learned positions and tokens are no bias: ix.register_layer(..., roles={{{roles}}})"
        if any(each.reason.why is Why.FOLLOWS for each in own):
            return f'for the layers inside write {{"{rule.text} *": ...}}'
        owners = [each.reason.owner for each in own if each.reason.why is Why.TIED]
        known = [owner for owner in owners if owner is not None and owner in self.companions]
        return f'select the layer that owns it: "{known[0].rpartition(".")[0] or "*"}"' if known else ""


def _restated(layer: Layer, scheme: Scheme, where: str) -> Layer:
    if not scheme.axes:
        return layer
    names = {parameter.name for parameter in layer.parameters}
    weights = [each.name for each in layer.parameters if each.role in WEIGHT_ROLES]
    # One pattern, given as a string, is for the layer's weight, whatever that is called here.
    patterns = {
        weights[0] if name == "weight" and name not in names and weights else name: pattern
        for name, pattern in scheme.axes.items()
    }
    return with_axes(layer, patterns, scheme.sizes, where)


def _why_kept(parameter: Parameter, layer: Layer, scheme: Scheme, rule: str) -> Reason | None:
    """Why a scheme leaves a parameter alone, or `None` where it draws it."""
    role = parameter.role or "weight"
    part = scheme.part(role)
    if part is UNSET:
        article = "an" if role == "embedding" else "a"
        why = Why.NORM if role == "scale" else Why.SILENT
        return Reason(why, f"{scheme} says nothing about {article} {role}")
    if part is None:
        return Reason(Why.RULE, f'rule "{rule}" keeps every {role}')
    if role == "bias" and scheme.part("weight") not in (UNSET, None):
        reason = _why_bias_stays(parameter, layer, scheme)
        if reason:
            return reason
    if parameter.reserved and not part.draws_reserved:
        return parameter.reserved
    declined: Reason | None = part.declines(parameter)
    return declined


def _would_draw(rule: Rule, layer: Layer, parameters: Sequence[Parameter]) -> bool:
    """Whether a rule selects a layer and would draw one of these parameters of it, if it decided the layer."""
    scheme = rule.scheme
    if scheme is None or not rule.matches(layer):
        return False
    return any(each.excluded is None and _why_kept(each, layer, scheme, rule.text) is None for each in parameters)


def _until_kept(rules: Sequence[Rule], layer: Layer) -> Iterator[Rule]:
    """The rules, last first, up to one that keeps the layer."""
    for rule in reversed(rules):
        if rule.scheme is None and rule.matches(layer):
            return
        yield rule


def _why_bias_stays(bias: Parameter, layer: Layer, scheme: Scheme) -> Reason | None:
    """Why the bias of a layer stays under a scheme for weights: a bias goes with its weight.

    In a layer that has a norm's scale too, a bias that has no weight's fans is the norm's.
    """
    if layer.kind == "Norm" or (bias.fan_in is None and any(each.role == "scale" for each in layer.parameters)):
        silent = scheme.part("scale") is UNSET
        return Reason(Why.NORM, f"{scheme} says nothing about a scale") if silent else None
    weights = [each for each in layer.parameters if each.role in WEIGHT_ROLES]
    elsewhere = (Why.TIED, Why.EMPTY)
    if any(each.excluded is None or each.excluded.why in elsewhere for each in weights):
        return None
    return Reason(Why.WEIGHT_KEPT, "its weight is not drawn")


def _refuse_without_layers(layers: Sequence[Layer], model: type) -> None:
    if any(layer.kind not in (UNDECLARED, "State") for layer in layers):
        return
    arrays = [(layer, parameter) for layer in layers for parameter in layer.parameters]
    if not arrays:
        raise ModelError(
            message(
                f"the model holds no array: {model.__name__}.",
                "a model is an Equinox module, or a pytree of arrays, jax.ShapeDtypeStruct or shape tuples",
            )
        )
    unknown = [layer for layer in layers if layer.kind == UNDECLARED]
    raise ModelError(
        message(
            f"the model holds no layer that initax knows: {model.__name__}.",
            *(_shown(layer, parameter, parameter.excluded) for layer, parameter in arrays[:6]),
            *(_declaration(unknown[0]) if unknown else ()),
        )
    )


def _shown(layer: Layer, parameter: Parameter, reason: Reason | None = None) -> str:
    inside = f" of {layer.cls.__name__}"
    return f"{parameter.path or '(model)'} {parameter.shape}{inside}" + (f": {reason}" if reason else "")


def _declaration(layer: Layer) -> tuple[str, ...]:
    """Return the lines that declare a layer, with a guess at the patterns for the user to put right."""
    if layer.cls.__name__ in ("ArrayImpl", "ndarray", "ShapeDtypeStruct"):
        return ("for a single array write ix.draw(scheme, key, shape)",)
    hints = [each.excluded.hint for each in layer.parameters if each.excluded is not None and each.excluded.hint]
    if hints:
        return (hints[0],)
    arrays = [each for each in layer.parameters if each.axes or (each.excluded and each.excluded.is_about_axes)]
    misfits = any(each.excluded and each.excluded.why is Why.CONTRADICTED for each in arrays)
    if all(each.axes for each in arrays) and not misfits:
        default = ", ".join(f'"{each.name}": "lecun_normal"' for each in arrays if each.role in WEIGHT_ROLES)
        return (f"declare it: ix.register_layer({layer.cls.__name__}, ..., default={{{default}}})",)
    shapes = [each.shape for each in arrays]
    patterns = {
        each.name: each.axes.pattern
        if each.axes and not misfits and each.role in WEIGHT_ROLES
        else _guess(each, layer, shapes)
        for each in arrays
    }
    if misfits:
        patterns |= _guess_wide(arrays)
    pairs = ", ".join(f'"{name}": "{pattern}"' for name, pattern in patterns.items())
    if layer.cls.__module__ == "builtins":
        return (f"say what the axes are, in stored order: ix.Scheme(..., axes={{{pairs}}})",)
    learned = [each.name for each in arrays if _is_learned_input(each)]
    said = 'kind="Embedding"' if len(learned) == len(patterns) else 'kind="Linear"'
    if learned and len(learned) < len(patterns):
        said += ", roles={" + ", ".join(f'"{name}": "embedding"' for name in learned) + "}"
    if all(name.isidentifier() and name not in ARGUMENTS for name in patterns):
        said += "".join(f', {name}="{pattern}"' for name, pattern in patterns.items())
    else:
        said = f"{{{pairs}}}, {said}"
    line = f"declare it, axes in stored order: ix.register_layer({layer.cls.__name__}, {said})"
    if len(learned) == len(patterns) or any(each.excluded != undeclared() for each in arrays):
        return (line,)
    return ("let a trace find the axes: inputs=x, what the model is called on", f"or {line}")


LEARNED_INPUTS = re.compile(
    r"(^|[._])(pos|position(al|s)?|cls|class|tok|tokens?|latents?|prompts?)\d*($|_)", re.IGNORECASE
)
"""Names of what stands in the place of a signal: learned positions, a class token. No axis of theirs is summed over."""


def _is_learned_input(array: Parameter) -> bool:
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


def _guess(array: Parameter, layer: Layer, others: list[tuple[int, ...]]) -> str:
    """Axes an array may have: a vector beside a matrix tells which of its sides are the outputs.

    Of more than two axes of a layer that is no convolution nothing can be told, and `?` is refused when pasted.
    """
    shape, rank = array.shape, len(array.shape)
    if _is_learned_input(array):
        return " ".join([*("n" if rank == 2 else f"n{axis}" for axis in range(1, rank)), "o"])
    if rank < 2:
        return "o"
    if rank > 2 and "conv" not in layer.cls.__name__.lower():
        return " ".join("?" * rank)
    outputs_first = (shape[0],) in others and (shape[-1],) not in others
    if rank == 2:
        return "o i" if outputs_first else "i o"
    return "o i ..." if outputs_first else "... i o"
