"""A plan: every decision of a re-initialization, nothing drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from initax._adapters import survey as survey_model
from initax._adapters._pytree import Survey
from initax._draw import Job, Program, draw
from initax._errors import InitaxError, ModelError, PlanError, RuleError, SchemeError, count, listing, message, warn
from initax._layer import UNDECLARED, WEIGHT_ROLES, Layer, Parameter, with_axes
from initax._rules import Rule, match, read_rules
from initax._table import Row, render
from initax.schemes._initializer import NO_DEFAULT, Initializer, Recipe
from initax.schemes._scheme import UNSET, Scheme, as_scheme

FORMAT = 1
"""Version of the JSON form of a plan."""


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
    reason: str
    rule: str | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield parameter and reason, so that `for parameter, reason in plan.kept` works."""
        return iter((self.parameter, self.reason))


class Plan:
    """Every decision of a re-initialization: print it, compare it, store it, draw it.

    Attributes:
        draws: the arrays that will be drawn, in the order of the model.
        kept: the arrays that stay, each with the reason.
        notes: what the user may not have meant.
    """

    __slots__ = ("_default", "_rules", "_survey", "draws", "kept", "notes")

    def __init__(
        self,
        survey: Survey,
        rules: tuple[Rule, ...],
        default: Any,
        draws: tuple[Draw, ...],
        kept: tuple[Kept, ...],
        notes: tuple[str, ...],
    ) -> None:
        self._survey = survey
        self._rules = rules
        self._default = default
        self.draws = draws
        self.kept = kept
        self.notes = notes

    def draw(self, key: Any) -> Any:
        """Return the model with the planned arrays drawn; everything else is the same object as before.

        Args:
            key: a JAX random key.

        Raises:
            KeyTypeError: `key` is not one JAX key.

        Examples:
            >>> import equinox as eqx, jax, initax as ix
            >>> model = eqx.nn.Linear(3, 2, key=jax.random.key(0))
            >>> ix.plan(model, {"Linear": "he_normal"}).draw(jax.random.key(1)).weight.shape
            (2, 3)
        """
        return self._survey.write(draw(self._jobs(), key))

    def _jobs(self) -> list[Job]:
        jobs = []
        for each in self.draws:
            if each.recipe is None:
                continue
            parameter = each.parameter
            constraint = parameter.constraint
            program = Program(
                kernel=each.recipe.kernel,
                shape=parameter.shape,
                dtype=parameter.dtype,
                sharding=parameter.sharding,
                preimage=constraint.preimage if constraint else None,
            )
            paths = (parameter.path, *(constraint.companions if constraint else ()))
            jobs.append(Job(paths, program, each.recipe.numbers))
        return jobs

    def diff(self, other: Plan) -> tuple[str, ...]:
        """Return what differs between two plans, one line per parameter: `+` added, `-` gone, `~` changed.

        Args:
            other: the plan to compare with; lines say what changes from this one to that one.

        Examples:
            >>> import equinox as eqx, jax, initax as ix
            >>> model = eqx.nn.Linear(3, 2, use_bias=False, key=jax.random.key(0))
            >>> he, zero = (ix.plan(model, {"*": name}) for name in ("he_normal", "zeros"))
            >>> he.diff(zero)
            ('~ weight: scheme he_normal → zeros, initializer he_normal → zeros, std 0.816497 → 0.0',)
        """
        return _diff(self._rows(), other._rows())

    def __eq__(self, other: object) -> bool:
        """Whether both decide alike, row by row and reason by reason."""
        if not isinstance(other, Plan):
            return NotImplemented
        return self._rows() == other._rows()

    __hash__ = None  # type: ignore[assignment]

    def _rows(self) -> dict[str, dict[str, Any]]:
        rows = {each.parameter.path: _draw_row(each) for each in self.draws}
        return rows | {each.parameter.path: _kept_row(each) for each in self.kept}

    def to_json(self) -> str:
        """Return the plan as JSON: the rules, and every decision they led to.

        Raises:
            PlanError: a rule has a function for a selector or a callable for a scheme.

        Examples:
            >>> import equinox as eqx, jax, initax as ix
            >>> model = eqx.nn.Linear(3, 2, key=jax.random.key(0))
            >>> plan = ix.plan(model, {"Linear": ("orthogonal", {"gain": 0.5})})
            >>> ix.Plan.from_json(plan.to_json(), model) == plan
            True
        """
        stored = {
            "initax": FORMAT,
            "rules": [[_selector_spec(rule), _scheme_spec(rule)] for rule in self._rules],
            "default": self._default.spec() if isinstance(self._default, Scheme) else self._default,
            "decisions": self._rows(),
        }
        return json.dumps(stored, indent=1)

    @classmethod
    def from_json(cls, text: str, model: Any) -> Plan:
        """Return a stored plan for a model, after checking that it still decides the same.

        Args:
            text: what `to_json` returned.
            model: the model, or an abstract one of the same structure.

        Raises:
            PlanError: the text is no stored plan, or the plan decides otherwise on this model.
        """
        try:
            stored = json.loads(text)
            rules = dict(stored["rules"])
            decisions = stored["decisions"]
        except (ValueError, KeyError, TypeError) as error:
            raise PlanError(message(f"this is no stored plan: {type(error).__name__}: {error}")) from error
        if stored.get("initax") != FORMAT:
            raise PlanError(
                message(f"the plan is stored in format {stored.get('initax')!r}, this initax reads {FORMAT}.")
            )
        found = plan(model, rules, default=stored.get("default"))
        changes = _diff(decisions, json.loads(json.dumps(found._rows())))
        if changes:
            raise PlanError(message("the stored plan decides otherwise on this model.", *changes[:20]))
        return found

    def __len__(self) -> int:
        """Return the number of arrays that will be drawn."""
        return len(self.draws)

    def __repr__(self) -> str:
        """Return the plan in one line."""
        return f"Plan({len(self.draws)} drawn, {len(self.kept)} kept)"

    def __str__(self) -> str:
        """Return the plan as a table."""
        drawn = [
            Row(
                path=each.parameter.path,
                kind=each.kind,
                shape=each.parameter.shape,
                axes=_axes_text(each.parameter),
                fan_in=_fan_text(each.parameter.fan_in, each.parameter.effective_fan_in),
                fan_out=_fan_text(each.parameter.fan_out, each.parameter.effective_fan_out),
                scheme=str(each.initializer) if each.initializer else f"with {each.follows}",
                std="" if each.std is None else f"{each.std:.4g}",
                rule=each.rule,
            )
            for each in self.draws
        ]
        kept = [(each.parameter.path, each.kind, each.parameter.shape, each.reason) for each in self.kept]
        return render(drawn, kept, self.notes)


def plan(model: Any, rules: Mapping[Any, Any], *, default: Any = None) -> Plan:
    """Return every decision `reinit` would make, with nothing drawn.

    A plan depends on structure, shapes and types only: abstract models do, and so do traced ones inside `jax.jit`.

    Args:
        model: an Equinox module, or any pytree of arrays, `jax.ShapeDtypeStruct`s or shape tuples.
        rules: selector → scheme; the last rule that matches a layer decides it.
        default: the scheme of layers no rule selects; `None` keeps them, `"error"` refuses a model with any.

    Returns:
        The plan; `print` it for a table, `plan.draw(key)` for the model.

    Raises:
        RuleError: the rules are no mapping, select nothing, draw nothing, or leave something uncovered.
        SchemeError: a scheme is unknown or can't serve a parameter it was chosen for.
        AxesError: restated axes do not fit.
        ModelError: the model holds no layer initax knows.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> plan = ix.plan(eqx.nn.MLP(4, 2, 8, depth=1, key=jax.random.key(0)), {"Linear": "he_normal"})
        >>> [(draw.parameter.path, round(draw.std, 3)) for draw in plan.draws if draw.std]
        [('layers.0.weight', 0.707), ('layers.1.weight', 0.5)]
    """
    read = read_rules(rules)
    fallback = default if default is None or default == "error" else as_scheme(default)
    survey = survey_model(model)
    _refuse_without_layers(survey, model)
    matching = match(read, survey.layers, survey.aliases)
    decided = _Decided(survey)
    for layer, rule in zip(survey.layers, matching.winners, strict=True):
        decided.layer(layer, rule, fallback)
    decided.refuse_uncovered(default)
    decided.refuse_idle(read, matching.winners)
    for rule, winners in matching.shadowed:
        decided.note(
            f'rule "{rule.text}" decides nothing: every layer it selects is decided by '
            + listing(f'"{winner.text}"' for winner in winners)
            + ", which comes later; the last rule that matches wins"
        )
    return Plan(survey, read, fallback, tuple(decided.draws), tuple(decided.kept), tuple(decided.notes))


class _Decided:
    """The rows of a plan while they are decided."""

    def __init__(self, survey: Survey) -> None:
        self.draws: list[Draw] = []
        self.kept: list[Kept] = []
        self.notes: list[str] = []
        self.drew: dict[int, int] = {}
        self.uncovered: list[tuple[Layer, Parameter, str]] = []
        self.undeclared: dict[str, list[tuple[Layer, Parameter]]] = {}
        self.companions: dict[str, tuple[Parameter, str]] = {
            parameter.path: (parameter, layer.kind) for layer in survey.layers for parameter in layer.parameters
        }
        self.set_with: set[str] = set()
        self.texts: dict[int, str] = {}

    def note(self, text: str) -> None:
        self.notes.append(text)
        warn(text)

    def layer(self, layer: Layer, rule: Rule | None, fallback: Scheme | str | None) -> None:
        scheme = rule.scheme if rule is not None else fallback if isinstance(fallback, Scheme) else None
        text = rule.text if rule is not None else "default="
        if scheme is None:
            self._keep_all(layer, rule)
            return
        layer = _restated(layer, scheme, f'rule "{text}"')
        for parameter in layer.parameters:
            reason = parameter.kept or _why_kept(parameter, layer, scheme, text)
            if reason is None:
                self._draw(layer, parameter, scheme, rule, text)
                continue
            self._keep(layer, parameter, reason, rule)
            if reason.startswith(("undeclared", NO_DEFAULT)):
                self.undeclared.setdefault(text, []).append((layer, parameter))
                self.uncovered.append((layer, parameter, reason))

    def _keep_all(self, layer: Layer, rule: Rule | None) -> None:
        reason = "no rule selects it" if rule is None else f'rule "{rule.text}" keeps it'
        for parameter in layer.parameters:
            self._keep(layer, parameter, parameter.kept or reason, rule)
            if rule is None and (parameter.kept is None or parameter.kept.startswith("undeclared")):
                self.uncovered.append((layer, parameter, parameter.kept or reason))

    def _text(self, scheme: Scheme) -> str:
        if id(scheme) not in self.texts:
            self.texts[id(scheme)] = str(scheme)
        return self.texts[id(scheme)]

    def _keep(self, layer: Layer, parameter: Parameter, reason: str, rule: Rule | None) -> None:
        self.kept.append(Kept(parameter=parameter, kind=layer.kind, reason=reason, rule=rule.text if rule else None))

    def _draw(self, layer: Layer, parameter: Parameter, scheme: Scheme, rule: Rule | None, text: str) -> None:
        initializer: Initializer = scheme.part(parameter.role or "weight")
        try:
            recipe = initializer.recipe(parameter, layer)
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
                    'add a rule for them, or {"*": None} in front to keep what the others do not select',
                )
            )

    def refuse_idle(self, rules: tuple[Rule, ...], winners: tuple[Rule | None, ...]) -> None:
        for rule in rules:
            decided = any(winner is rule for winner in winners)
            if rule.scheme is None or not decided or self.drew.get(id(rule)):
                continue
            raise RuleError(self._idle(rule, winners))
        for text, found in self.undeclared.items():
            self.note(
                message(
                    f'rule "{text}" selects {count(len(found), "array")} it can\'t draw; kept as they are:',
                    *(_shown(layer, parameter, parameter.kept or NO_DEFAULT) for layer, parameter in found[:4]),
                    f"… {len(found) - 4} more" if len(found) > 4 else "",
                    _declaration(found[0][0]),
                )
            )

    def _idle(self, rule: Rule, winners: tuple[Rule | None, ...]) -> str:
        decided = count(sum(winner is rule for winner in winners), "layer")
        head = f'rule "{rule.text}": {rule.scheme} draws nothing in the {decided} it decides.'
        if rule.text in self.undeclared:
            found = self.undeclared[rule.text]
            shown = (_shown(layer, parameter, parameter.kept or NO_DEFAULT) for layer, parameter in found[:4])
            return message(head, *shown, _declaration(found[0][0]))
        own = [each for each in self.kept if each.rule == rule.text]
        lines = [f"{each.parameter.path or '(model)'}: {each.reason}" for each in own[:4]]
        more = f"… {len(own) - 4} more" if len(own) > 4 else ""
        return message(head, *lines, more, self._instead(rule, own))

    def _instead(self, rule: Rule, own: list[Kept]) -> str:
        if any(each.reason.endswith("says nothing about a scale") for each in own):
            return f'write {{"{rule.text}": {{"scale": "ones", "bias": "zeros"}}}}, or "default"'
        if any(each.reason.startswith("set with ") for each in own):
            return f'for the layers inside write {{"{rule.text} *": ...}}'
        tied = [each.reason.removeprefix("tied to ") for each in own if each.reason.startswith("tied to ")]
        return f'select the layer that owns it: "{tied[0].rpartition(".")[0] or "*"}"' if tied else ""


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


def _why_kept(parameter: Parameter, layer: Layer, scheme: Scheme, rule: str) -> str | None:
    """Why a scheme leaves a parameter alone, or `None` where it draws it."""
    role = parameter.role or "weight"
    part = scheme.part(role)
    weighed = any(each.role in WEIGHT_ROLES for each in layer.parameters)
    speaks_of_weights = scheme.part("weight") not in (UNSET, None)
    if part is UNSET or (role == "bias" and not weighed and speaks_of_weights and scheme.part("scale") is UNSET):
        return f"{scheme} says nothing about a {'scale' if not weighed else role}"
    if part is None:
        return f'rule "{rule}" keeps every {role}'
    silent: str | None = part.declines(parameter)
    return silent


def _refuse_without_layers(survey: Survey, model: Any) -> None:
    if any(layer.kind not in (UNDECLARED, "State") for layer in survey.layers):
        return
    arrays = [(layer, parameter) for layer in survey.layers for parameter in layer.parameters]
    if not arrays:
        raise ModelError(
            message(
                f"the model holds no array: {type(model).__name__}.",
                "a model is an Equinox module, or a pytree of arrays, jax.ShapeDtypeStruct or shape tuples",
            )
        )
    unknown = [layer for layer in survey.layers if layer.kind == UNDECLARED]
    raise ModelError(
        message(
            f"the model holds no layer that initax knows: {type(model).__name__}.",
            *(_shown(layer, parameter, parameter.kept or "") for layer, parameter in arrays[:6]),
            _declaration(unknown[0]) if unknown else "",
        )
    )


def _shown(layer: Layer, parameter: Parameter, reason: str) -> str:
    inside = f" of {layer.cls.__name__}"
    return f"{parameter.path or '(model)'} {parameter.shape}{inside}" + (f": {reason}" if reason else "")


def _declaration(layer: Layer) -> str:
    """The line that declares a layer, with a guess at the patterns for the user to put right."""
    if layer.cls.__name__ in ("ArrayImpl", "ndarray", "ShapeDtypeStruct"):
        return "for a single array write ix.draw(scheme, key, shape)"
    arrays = [each for each in layer.parameters if each.axes or (each.kept and each.kept.startswith("undeclared"))]
    shapes = [each.shape for each in arrays]
    patterns = {each.name: each.axes.pattern if each.axes else _guess(each.shape, shapes) for each in arrays}
    misfits = any("does not fit" in (each.kept or "") for each in arrays)
    if misfits:
        patterns = {each.name: _guess(each.shape, shapes) for each in arrays}
    if all(each.axes for each in arrays) and not misfits:
        default = ", ".join(f'"{each.name}": "lecun_normal"' for each in arrays if each.role in WEIGHT_ROLES)
        return f"declare it: ix.register_layer({layer.cls.__name__}, ..., default={{{default}}})"
    if layer.cls.__module__ == "builtins":
        axes = ", ".join(f'"{name}": "{pattern}"' for name, pattern in patterns.items())
        return f"say what the axes are, in stored order: ix.Scheme(..., axes={{{axes}}})"
    if all(name.isidentifier() for name in patterns):
        fields = ", ".join(f'{name}="{pattern}"' for name, pattern in patterns.items())
    else:
        fields = "**{" + ", ".join(f'"{name}": "{pattern}"' for name, pattern in patterns.items()) + "}"
    return f'declare it, axes in stored order: ix.register_layer({layer.cls.__name__}, kind="Linear", {fields})'


def _guess(shape: tuple[int, ...], others: list[tuple[int, ...]]) -> str:
    """Axes an array may have: a vector beside a matrix tells which of its sides are the outputs."""
    if len(shape) < 2:
        return "o"
    outputs_first = (shape[0],) in others and (shape[-1],) not in others
    if len(shape) == 2:
        return "o i" if outputs_first else "i o"
    return "o i ..." if outputs_first else "... i o"


def _axes_text(parameter: Parameter) -> str:
    return parameter.axes.pattern if parameter.axes else ""


def _fan_text(nominal: float | None, effective: float | None) -> str:
    if nominal is None:
        return ""
    if effective is None or effective == nominal:
        return f"{nominal:g}"
    return f"{nominal:g} (≈{effective:g})"


def _draw_row(each: Draw) -> dict[str, Any]:
    parameter = each.parameter
    return {
        "kind": each.kind,
        "role": parameter.role,
        "shape": list(parameter.shape),
        "dtype": _dtype_text(parameter),
        "axes": _axes_text(parameter),
        "fan_in": parameter.fan_in,
        "fan_out": parameter.fan_out,
        "scheme": each.scheme,
        "initializer": str(each.initializer) if each.initializer else f"with {each.follows}",
        "std": each.std,
        "rule": each.rule,
    }


def _kept_row(each: Kept) -> dict[str, Any]:
    return {
        "kind": each.kind,
        "shape": list(each.parameter.shape),
        "dtype": _dtype_text(each.parameter),
        "kept": each.reason,
    }


def _dtype_text(parameter: Parameter) -> str:
    return str(jnp.dtype(parameter.dtype)) if jnp.issubdtype(parameter.dtype, np.generic) else str(parameter.dtype)


def _diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    lines = []
    for path in {**before, **after}:
        shown = path or "(model)"
        if path not in before:
            lines.append(f"+ {shown}: {_row_text(after[path])}")
        elif path not in after:
            lines.append(f"- {shown}: {_row_text(before[path])}")
        elif before[path] != after[path]:
            lines.append(f"~ {shown}: {_changes(before[path], after[path])}")
    return tuple(lines)


def _row_text(row: Mapping[str, Any]) -> str:
    return f"kept, {row['kept']}" if "kept" in row else f"{row['initializer']}, shape {tuple(row['shape'])}"


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if ("kept" in before) != ("kept" in after):
        return f"{_row_text(before)} → {_row_text(after)}"

    def text(value: Any) -> str:
        return f"{value:.6}" if isinstance(value, float) else str(value)

    return ", ".join(
        f"{name} {text(before.get(name))} → {text(after.get(name))}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    )


def _selector_spec(rule: Rule) -> str:
    if isinstance(rule.selector, type):
        return rule.selector.__name__
    if isinstance(rule.selector, str):
        return rule.selector
    raise PlanError(
        message(
            f"a plan with the function {rule.text} for a selector can't be stored.",
            'select by class, name or path instead: {"Linear": ...}',
        )
    )


def _scheme_spec(rule: Rule) -> Any:
    try:
        return None if rule.scheme is None else rule.scheme.spec()
    except InitaxError as error:
        raise PlanError(f'rule "{rule.text}": {error}') from None
