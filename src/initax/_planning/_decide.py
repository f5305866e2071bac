"""Decides which arrays are drawn and which are kept, from layers, rules and schemes; it sees no data."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from initax._errors import ModelError, RuleError, SchemeError, count, first_of, listing, message, warn
from initax._model._parameter import FROM_KEY, ROLES, UNDECLARED, WEIGHT_ROLES, Layer, Parameter
from initax._model._reason import Reason, Why
from initax._planning._declaration_hints import may_have_a_rule, rules_for_each
from initax._planning._depth_rules import misplaced
from initax._planning._hints import (
    alone,
    array_text,
    cover,
    decided_later,
    instead,
    no_layers,
    remedy,
    selector_of,
    without_gate,
)
from initax._planning._override_axes import restated, restated_alone
from initax._planning._records import Decisions, Draw, Kept, new_draw
from initax._planning._rules import Matching, Rule, decided_arrays, match, rule_text
from initax._planning._silence import keeps_all, why_kept, why_named_is_kept, would_draw
from initax._text import mapping_text, path_text, written
from initax.schemes._initializer import NO_DEFAULT, Initializer, array_name
from initax.schemes._positive import refuse_unfitting
from initax.schemes._scheme import UNSET, Scheme, as_initializer, as_scheme, spoken_of


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
    is_known = any(layer.kind not in (UNDECLARED, "State") for layer in layers)
    is_known = is_known or any(rule.scheme is not None and bool(rule.scheme.axes) for rule in rules)
    if not is_known and not any(_names_arrays(rule, layers) for rule in rules):
        raise ModelError(no_layers(layers, model))
    matching = match(rules, layers, aliases, hint)
    decided = _Deciding(layers, rules, matching, default if isinstance(default, Scheme) else None)
    for layer in layers:
        decided.layer(layer)
    decided.refuse_uncovered(default)
    decided.refuse_excluded()
    decided.refuse_idle()
    decided.note_silent()
    decided.note_roles()
    decided.note_statistics()
    decided.note_depth()
    for rule, winners in matching.shadowed:
        what = "layer" if not any(matching.selected[rules.index(rule)].values()) else "array"
        texts = [winner.text for winner in winners]
        decided.note(decided_later(rule.text, f"decides nothing: every {what} it selects", texts))
    return Decisions(tuple(decided.draws), tuple(decided.kept), tuple(decided.notes))


NO_RULE = Reason(Why.NO_RULE, "no rule selects it")


class _Deciding:
    """The rows of a plan while they are decided."""

    def __init__(
        self, layers: Sequence[Layer], rules: tuple[Rule, ...], matching: Matching, default: Scheme | None
    ) -> None:
        self.layers = layers
        self.rules = rules
        self.matching = matching
        self.default = default
        self.by_default = _by_default(default, layers, matching)
        self.draws: list[Draw] = []
        self.kept: list[Kept] = []
        self.notes: list[str] = []
        self.drew: set[Rule | None] = set()
        self.uncovered: list[tuple[Layer, Parameter, Reason]] = []
        self.undeclared: dict[str, list[tuple[Layer, Parameter]]] = {}
        self.set_with: set[str] = set()
        self.silent: dict[Rule | None, list[tuple[Layer, Parameter]]] = {}
        self.excluded: dict[tuple[str, str], list[tuple[Layer, Parameter, Reason]]] = {}
        self.served: set[tuple[str, str]] = set()
        self.texts: dict[Rule | None, str] = {}

    @functools.cached_property
    def companions(self) -> dict[str, tuple[Parameter, str]]:
        """Path of an array → the array and the kind of its layer."""
        return {array.path: (array, layer.kind) for layer in self.layers for array in layer.parameters}

    def note(self, head: str, *lines: str) -> None:
        self.notes.append(warn(head, *lines))

    def layer(self, layer: Layer) -> None:
        """Decide the arrays of a layer, each by the rule that is for it."""
        with_axes: dict[Rule | None, Layer] = {}
        for index, parameter in enumerate(layer.parameters):
            choice = self.matching.choices.get(parameter.path)
            rule = scheme = None
            is_named = False
            if choice is not None:
                rule, is_named, scheme = choice.rule, choice.is_named, choice.rule.scheme
            elif parameter.path in self.by_default:
                scheme, is_named = self.default, self.by_default[parameter.path]
            if parameter.default == FROM_KEY and parameter.excluded is None and (rule is None or scheme is not None):
                # Random state that was never made starts whatever the scheme: no rule is for it.
                self._follow(parameter, layer.kind, "default", rule_text(rule) if scheme else "", "the key")
            elif scheme is None:
                self._keep_anyway(layer, parameter, rule)
            elif is_named:
                self._named(layer, parameter, scheme, rule)
            elif not scheme.axes:
                self._by_role(layer, parameter, scheme, rule)
            else:
                if rule not in with_axes:
                    with_axes[rule] = restated(layer, scheme, f'rule "{rule_text(rule)}"')
                self._by_role(with_axes[rule], with_axes[rule].parameters[index], scheme, rule)

    def _by_role(self, layer: Layer, parameter: Parameter, scheme: Scheme, rule: Rule | None) -> None:
        """Decide an array whose layer a rule selects."""
        role, excluded = parameter.role, parameter.excluded
        if role == "state" and excluded is None:
            self._draw(layer, parameter, as_scheme("default"), as_scheme("default").part("weight"), rule)
            return
        if excluded is not None and excluded.why is Why.STATISTICS:
            start = scheme.part("state")
            if isinstance(start, Initializer) and parameter.default is not None:
                self._draw(layer, replace(parameter, excluded=None), scheme, start, rule)
                return
        reason = excluded or why_kept(parameter, layer, scheme, rule)
        if reason is None:
            self._draw(layer, parameter, scheme, scheme.part(role or "weight"), rule)
            return
        self._keep(layer, parameter, reason, rule)
        if role in WEIGHT_ROLES and not excluded and scheme.part(role) is UNSET:
            self.silent.setdefault(rule, []).append((layer, parameter))
        self._leave(layer, parameter, reason, rule)

    def _named(self, layer: Layer, parameter: Parameter, scheme: Scheme, rule: Rule | None) -> None:
        """Decide an array that a rule names: its own role's initializer draws it, whatever its layer is."""
        text = rule_text(rule)
        is_key = parameter.name in scheme.arrays
        array_scheme = scheme.arrays[parameter.name] if is_key else scheme
        key = (text, parameter.name if is_key else "")
        by = f'rule "{text}"' + (f', array "{parameter.name}"' if is_key else "")
        if array_scheme is None:
            self._keep(layer, parameter, parameter.excluded or Reason(Why.RULE, f'rule "{text}" keeps it'), rule)
            return
        if is_key and scheme.axes:
            layer = restated(layer, scheme, f'rule "{text}"')
            parameter = layer[parameter.name]
        if array_scheme.axes:
            selected = self.matching.selected[self.rules.index(rule)] if rule and not is_key else {parameter.path: True}
            layer = restated_alone(layer, parameter, array_scheme, by, selected)
            parameter = layer[parameter.name]
        if parameter.excluded is not None and not parameter.excluded.is_about_axes:
            self.excluded.setdefault(key, []).append((layer, parameter, parameter.excluded))
            self._keep(layer, parameter, parameter.excluded, rule)
            return
        try:
            initializer = as_initializer(array_scheme, parameter.role or "weight")
        except SchemeError as error:
            if text == parameter.path:
                line = alone(text, array_scheme, parameter) if not is_key else ""
                raise SchemeError(f"{by}: {error}", line) from None
            selector = "Norm" if layer.kind == "Norm" else parameter.path
            later = f'to keep {"norms" if layer.kind == "Norm" else "it"} add a later rule: {{"{selector}": None}}'
            raise SchemeError(f"{by}, {array_name(parameter)}: {error}", later) from None
        reason = why_named_is_kept(parameter, initializer, text)
        if reason is None and initializer is not None:
            self.served.add(key)
            self._draw(layer, parameter, array_scheme, initializer, rule)
        elif reason is not None:
            self._keep(layer, parameter, reason, rule)
            self._leave(layer, parameter, reason, rule)

    def _leave(self, layer: Layer, parameter: Parameter, reason: Reason, rule: Rule | None) -> None:
        if reason.is_about_axes or reason.why is Why.NO_DEFAULT:
            self.undeclared.setdefault(rule_text(rule), []).append((layer, parameter))
            self.uncovered.append((layer, parameter, reason))

    def _keep_anyway(self, layer: Layer, parameter: Parameter, rule: Rule | None) -> None:
        reason = parameter.excluded or (NO_RULE if rule is None else Reason(Why.RULE, f'rule "{rule.text}" keeps it'))
        self._keep(layer, parameter, reason, rule)
        if rule is None and (parameter.excluded is None or parameter.excluded.is_about_axes):
            self.uncovered.append((layer, parameter, reason))

    def _text(self, scheme: Scheme, rule: Rule | None) -> str:
        """Return a scheme that a rule chose in words; those of the whole rule are put together once."""
        if scheme is not (self.default if rule is None else rule.scheme):
            return str(scheme)
        if rule not in self.texts:
            self.texts[rule] = str(scheme)
        return self.texts[rule]

    def _keep(self, layer: Layer, parameter: Parameter, reason: Reason, rule: Rule | None) -> None:
        self.kept.append(Kept(parameter=parameter, kind=layer.kind, reason=reason, rule=rule.text if rule else None))

    def _draw(
        self, layer: Layer, parameter: Parameter, scheme: Scheme, initializer: Initializer, rule: Rule | None
    ) -> None:
        text, shown = rule_text(rule), self._text(scheme, rule)
        # An array without a role is read as a weight, so that an initializer that needs a weight's axes refuses it.
        read = replace(parameter, role="weight") if parameter.role is None else parameter
        try:
            recipe = initializer.recipe(read, layer)
            if parameter.constraint is not None:
                refuse_unfitting(initializer, recipe, parameter, parameter.constraint)
        except SchemeError as error:
            remedy = self._remedy(layer, parameter) if parameter.excluded is not None else ()
            gate = without_gate(parameter, initializer.needs_gate, self.layers) if initializer.needs_gate else ()
            raise SchemeError(f'rule "{text}": {error}', *remedy, *gate) from error.__cause__
        self.draws.append(new_draw(parameter, layer.kind, shown, text, initializer, recipe, None))
        self.drew.add(rule)
        constraint = parameter.constraint
        if constraint is None:
            return
        if constraint.warning:
            self.note(constraint.warning)
        for path in constraint.companions:
            self._refuse_kept_companion(path, parameter)
            self.set_with.add(path)
            self._follow(*self.companions[path], shown, text, parameter.path)

    def _refuse_kept_companion(self, path: str, owner: Parameter) -> None:
        """Raise where a rule names an array to keep it, and another array's draw sets it."""
        choice = self.matching.choices.get(path)
        if choice is None or not choice.is_named:
            return
        scheme = choice.rule.scheme
        if scheme is None or scheme.arrays.get(self.companions[path][0].name, scheme) is None:
            raise RuleError(
                f'rule "{choice.rule.text}" keeps "{path}", which is set with {array_name(owner)} when that is drawn.',
                f'keep both: {{"{owner.path}": None}}',
            )

    def _follow(self, parameter: Parameter, kind: str, scheme: str, rule: str, owner: str) -> None:
        self.draws.append(Draw(parameter=parameter, kind=kind, scheme=scheme, rule=rule, follows=owner))

    def refuse_uncovered(self, default: Any) -> None:
        self.kept = [row for row in self.kept if row.parameter.path not in self.set_with]
        left = [entry for entry in self.uncovered if entry[1].path not in self.set_with]
        if default == "error" and left:
            raise RuleError(
                f'no rule covers {count(len(left), "array")}, and default="error" asks for all of them.',
                *first_of((array_text(*entry) for entry in left), 8),
                cover(
                    left,
                    {row.parameter.path for row in self.kept if row.rule is not None},
                    {draw.parameter.path for draw in self.draws},
                ),
            )

    def refuse_excluded(self) -> None:
        """Raise where a rule names arrays none of which is ever drawn."""
        for (text, key), entries in self.excluded.items():
            if (text, key) in self.served:
                continue
            owners = [reason.owner for _, _, reason in entries if reason.why is Why.TIED]
            known = [owner for owner in owners if owner is not None and owner in self.companions]
            names = f'{{"{key}": ...}} names' if key else "it names"
            raise RuleError(
                f'rule "{text}": {names} {"an array" if len(entries) == 1 else "arrays"} that no scheme draws.',
                *first_of(array_text(*entry) for entry in entries),
                f'name the array that owns it: "{known[0]}"' if known else "",
            )

    def refuse_idle(self) -> None:
        """Raise where a rule draws nothing; note it where later rules leave it nothing that it could draw."""
        shadowed = {rule for rule, _ in self.matching.shadowed}
        for rule, selected in zip(self.rules, self.matching.selected, strict=True):
            if rule.scheme is None or rule in self.drew or rule in shadowed or keeps_all(rule.scheme, selected):
                continue
            taken = [
                choice
                for layer in self.layers
                for parameter in layer.parameters
                if (choice := self.matching.choices.get(parameter.path)) is not None
                and choice.rule is not rule
                and would_draw(rule, selected, layer, parameter)
            ]
            if not taken:
                raise RuleError(self._idle(rule, selected))
            what = "array that" if any(choice.is_named for choice in taken) else "layer in which"
            winners = dict.fromkeys(choice.rule.text for choice in taken)
            self.note(decided_later(rule.text, f"draws nothing: every {what} it could", winners))
        for text, arrays in self.undeclared.items():
            self.note(
                f'rule "{text}" selects {count(len(arrays), "array")} it can\'t draw; kept as they are:',
                *first_of(map(_undrawn_text, arrays)),
                *self._remedies(text, arrays),
            )

    def _remedies(self, text: str, arrays: Sequence[tuple[Layer, Parameter]]) -> tuple[str, ...]:
        """What to write for the arrays that a rule can't draw: a rule for each where one for all would not fit."""
        rule = next((rule for rule in self.rules if rule.text == text), None)
        paths = self.matching.selected[self.rules.index(rule)] if rule is not None else {}
        selected = [layer for layer in self.layers if any(array.path in paths for array in layer.parameters)]
        kept = list({layer.path: layer for layer, _ in arrays}.values())
        if rule is None or len(selected) < 2 or any(paths.values()) or not all(map(may_have_a_rule, kept)):
            return self._remedy(*arrays[0])
        return (rules_for_each(kept, '"lecun_normal"' if str(rule.scheme) == "default" else written(rule.value)),)

    def _remedy(self, layer: Layer, parameter: Parameter) -> tuple[str, ...]:
        choice = self.matching.choices.get(parameter.path)
        return remedy(layer, parameter, is_named=choice is not None and choice.is_named)

    def note_statistics(self) -> None:
        """Note running statistics that stay as the old weights left them, beside weights that are drawn."""
        stale = [row for row in self.kept if row.reason.why is Why.STATISTICS]
        if not stale or not any(draw.parameter.role in WEIGHT_ROLES for draw in self.draws):
            return
        known = {row.parameter.path for row in stale if row.parameter.default is not None}
        layers = [layer for layer in self.layers if any(array.path in known for array in layer.parameters)]
        hints = dict.fromkeys(row.reason.hint for row in stale if row.reason.hint and row.parameter.path not in known)
        self.notes.append(
            message(
                "running statistics stay as the old weights left them: "
                + listing((row.parameter.path for row in stale), 4),
                f"to start them anew say so in the rule that decides them: {_start_anew(layers)}" if layers else "",
                *(hint or "" for hint in hints),
            )
        )

    def note_depth(self) -> None:
        """Warn of depth factors that hit no residual branch."""
        warnings, notes = misplaced(self.draws)
        for text in warnings:
            self.note(text)
        self.notes += notes

    def note_roles(self) -> None:
        """Note roles that a rule speaks of and that no array has which it selects."""
        for rule, selected in zip(self.rules, self.matching.selected, strict=True):
            if rule.scheme is None or rule.scheme.is_named or any(selected.values()):
                continue
            there = {self.companions[path][0].role for path in selected}
            missing = [role for role in spoken_of(rule.scheme) if role not in there]
            if missing and None not in there:
                known = listing(role for role in ROLES if role in there)
                self.notes.append(
                    f'rule "{rule.text}" speaks of {listing(missing)}, and no array that it selects has this role; '
                    f"roles there: {known}"
                )

    def note_silent(self) -> None:
        """Note weights for which a rule has no initializer and an earlier one would have drawn."""
        for index, rule in enumerate(self.rules):
            arrays = [array for array in self.silent.get(rule, ()) if self._is_drawn_before(index, *array)]
            if not arrays or rule.scheme is None:
                continue
            parts = list(rule.scheme.parts)
            roles = [role for role in ROLES if role in {*parts, *(parameter.role for _, parameter in arrays)}]
            whole = mapping_text(dict.fromkeys((*roles, *rule.scheme.arrays), "..."))
            self.note(
                f'rule "{rule.text}" speaks of {" and ".join((*parts, *rule.scheme.arrays))} only; what an '
                "earlier rule would draw is kept:",
                *first_of(array_text(*array) for array in arrays),
                f'write {{"{rule.text}": {whole}}}, with None for what is to be kept',
            )

    def _is_drawn_before(self, index: int, layer: Layer, parameter: Parameter) -> bool:
        """Whether one of the rules before an index would draw an array, and none after that one keeps it."""
        for rule, selected in reversed(list(zip(self.rules[:index], self.matching.selected[:index], strict=True))):
            keeps = rule.scheme is None or rule.scheme.arrays.get(parameter.name, ...) is None
            if keeps and parameter.path in selected:
                return False
            if would_draw(rule, selected, layer, parameter):
                return True
        return False

    def _idle(self, rule: Rule, selected: Mapping[str, bool]) -> str:
        decided = {path for path in selected if self.matching.choices[path].rule is rule}
        layers = sum(any(array.path in decided for array in layer.parameters) for layer in self.layers)
        what = count(len(decided), "array") if any(selected.values()) else count(layers, "layer")
        head = f'rule "{rule.text}": {rule.scheme} draws nothing in the {what} it decides.'
        if rule.text in self.undeclared:
            arrays = self.undeclared[rule.text]
            return message(head, *map(_undrawn_text, arrays[:4]), *self._remedies(rule.text, arrays))
        rows = [row for row in self.kept if row.rule == rule.text]
        lines = first_of(f"{path_text(row.parameter.path)}: {row.reason}" for row in rows)
        elsewhere = self._statistics_elsewhere(rule)
        if elsewhere:
            return message(head, *lines, elsewhere)
        zeros = str(rule.scheme) == "zeros"
        return message(head, *lines, instead(rule.text, rows, self.companions, zeros=zeros))

    def _statistics_elsewhere(self, rule: Rule) -> str:
        """The line for a rule that starts state anew and selects none, where a model keeps it apart, as Linen does."""
        if rule.scheme is None or rule.scheme.parts.keys() != {"state"}:
            return ""
        layers = [layer for layer in self.layers if any(array.role == "state" for array in layer.parameters)]
        return f"running statistics stand elsewhere in this model: write {_start_anew(layers)}" if layers else ""


def _start_anew(layers: Iterable[Layer]) -> str:
    """Rules that start the running statistics of layers anew."""
    return mapping_text(dict.fromkeys(map(selector_of, layers), '{"state": "default"}'))


def _undrawn_text(array: tuple[Layer, Parameter]) -> str:
    """An array that a rule can't draw, as errors list it with the reason."""
    return array_text(*array, array[1].excluded or NO_DEFAULT)


def _by_default(default: Scheme | None, layers: Sequence[Layer], matching: Matching) -> dict[str, bool]:
    """The arrays that `default=` decides, each with whether it names it."""
    if default is None:
        return {}
    paths = {array.path: False for layer in layers for array in layer.parameters if array.path not in matching.choices}
    return decided_arrays("default=", default, layers, paths)


def _names_arrays(rule: Rule, layers: Sequence[Layer]) -> bool:
    """Whether a rule is for single arrays, which it may draw though nobody declared their layers."""
    names = rule.selector.names
    if rule.scheme is None or names is None or rule.selector.ends_open:
        return rule.scheme is not None and bool(rule.scheme.arrays)
    return bool(rule.scheme.arrays) or any(names(layer, array) for layer in layers for array in layer.parameters)
