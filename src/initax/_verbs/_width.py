"""What `ix.mup` returns: factors for every array, as rules, as trees, as an optax transformation and as a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from initax._errors import ModelError, RuleError, count, first_of, listing, nearest, with_line
from initax._model._parameter import Parameter, leading_cells
from initax._model._reason import Why
from initax._model._survey import Survey
from initax._planning._plan import Plan, plan
from initax._planning._records import Draw, Kept
from initax._planning._rules import match, read_rules
from initax._text import table, tally
from initax._verbs._labels import Label, Labels, never_trained
from initax._verbs._muon import optax_transforms
from initax._verbs._width_factors import Optimizer, WidthFactor, glob_of
from initax.schemes._initializer import Initializer
from initax.schemes._scaled import scaled
from initax.schemes._scheme import Scheme, as_initializer

COLUMNS = ("array", "kind", "role", "shape", "grows", "std", "lr", "why")

CLOSE = 1e-6
"""Factors that differ by less are one."""


class Width:
    """What every array needs so that one learning rate, and one standard deviation, are right at every width.

    Print it for a table. Draw the model with `ix.reinit(model, width.rules(rules), key)`, and chain
    `width.scale_updates()` behind the optimizer.

    Attributes:
        rows: the arrays, in the order of the model, each an `ix.WidthFactor`.
        notes: what the factors leave to the user.
    """

    __slots__ = ("_base", "_by_path", "_model", "_optimizer", "notes", "rows")

    def __init__(
        self, base: Survey, model: Survey, rows: Iterable[WidthFactor], optimizer: Optimizer, notes: tuple[str, ...]
    ) -> None:
        self._base, self._model, self._optimizer = base, model, optimizer
        self.rows = tuple(rows)
        self.notes = notes
        self._by_path = {row.parameter.path: row for row in self.rows}

    def __getitem__(self, path: str) -> WidthFactor:
        """Return what the array at a path needs.

        Raises:
            ModelError: the model has no such array.
        """
        owner = self._model.aliases.get(path, path)
        if owner not in self._by_path:
            near = nearest(path, self._by_path, 6) or list(self._by_path)
            raise ModelError(f"mup: the model has no array {path}.", f"it has: {listing(near, 6)}")
        return self._by_path[owner]

    def __contains__(self, path: object) -> bool:
        """Return whether the model has an array at a path."""
        return self._model.aliases.get(path, path) in self._by_path  # type: ignore[call-overload]

    @property
    def multipliers(self) -> Labels:
        """What each learning rate is multiplied with: a function from parameters to a tree; `.tree` is the tree."""
        return self._labelled(lambda row: row.learning_rate)

    @property
    def labels(self) -> Labels:
        """A label for each array, the same for the same learning rate, for `optax.multi_transform`."""
        names = self._names()
        return self._labelled(lambda row: names[row.use, row.learning_rate])

    @property
    def learning_rates(self) -> dict[str, float]:
        """Each label → what the learning rate of the arrays that have it is multiplied with."""
        return {name: rate for (_, rate), name in self._names().items()}

    def _names(self) -> dict[tuple[str, float], str]:
        different = dict.fromkeys((row.use, row.learning_rate) for row in self.rows)
        uses = [use for use, _ in different]
        return {(use, rate): use if uses.count(use) == 1 else f"{use} ×{rate:.4g}" for use, rate in different}

    def _labelled(self, value: Callable[[WidthFactor], Any]) -> Labels:
        rows = (Label(parameter=row.parameter, kind=row.kind, value=value(row), why=row.why) for row in self.rows)
        return Labels("mup", self._model, rows)

    def scale_updates(self) -> Any:
        """Return an `optax.GradientTransformation` that multiplies each array's update by its factor.

        It stands behind what makes the updates, `optax.chain(optax.adam(1e-3), width.scale_updates())`. What should not
        be multiplied, e.g. weight decay, stands behind it: `optax.chain(optax.scale_by_adam(), width.scale_updates(),
        optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(1e-3))`.

        Raises:
            InitaxError: optax is not installed.
        """
        line = "pip install optax, or multiply updates by width.multipliers(updates)"
        return optax_transforms("scale_updates", line).scale_by(self.multipliers)

    @with_line("width.rules", 'write width.rules({"*": "he_normal"}), or width.rules()')
    def rules(self, rules: Any = None) -> dict[Any, Any]:
        """Return rules that draw the wide model as other rules draw the base, times the factors.

        Where the rules give an array another standard deviation in the wide model than in the base, as `he_normal`
        does, the factor is relative to the base all the same. Arrays with a factor of one are left to the rules.

        Args:
            rules: selector → scheme, as `ix.reinit` takes them; each framework's own, `{"*": "default"}`, if left out.

        Raises:
            RuleError: the rules are wrong, or leave an array that needs a factor as it is; `{"path": None}` says that
                it should stay.
            SchemeError: the standard deviation of what a rule draws is not known.

        Examples:
            >>> import equinox as eqx, jax, initax as ix
            >>> def make(width):
            ...     return eqx.nn.MLP(8, 4, width, depth=2, key=jax.random.key(0))
            >>> width = ix.mup(make(64), make(256))
            >>> drawn = ix.plan(make(256), width.rules({"Linear": ("normal", {"stddev": 0.02})})).draws
            >>> [draw.std for draw in drawn if draw.std]
            [0.02, 0.01, 0.005]
        """
        rules = {"*": "default"} if rules is None else rules
        before, after = plan(self._base, rules), plan(self._model, rules)
        at_base = {draw.parameter.path: draw for draw in before.draws}
        self._refuse_kept(after)
        scaled_ones = self._of_kept_scales(after)
        for draw in after.draws:
            path = draw.parameter.path
            factor = self._factor(at_base.get(self._by_path[path].base_path), draw)
            if abs(factor - 1) > CLOSE and draw.initializer is not None:
                scaled_ones[path] = _scaled(draw.parameter, draw.initializer, factor)
        deciding: list[Draw | Kept] = [*after.draws, *after.kept]
        rest = {row.rule for row in deciding if row.parameter.path not in scaled_ones}
        drawing = {draw.rule for draw in after.draws}
        # A rule is left out where everything that it draws gets a rule of its own.
        given = zip((rule.text for rule in read_rules(rules)), rules.items(), strict=True)
        stay = dict(rule for text, rule in given if text in rest or text not in drawing)
        return {**stay, **self._grouped(scaled_ones)}

    def _factor(self, before: Draw | None, after: Draw) -> float:
        """What the scheme's own standard deviation in the wide model is multiplied with."""
        row = self._by_path[after.parameter.path]
        if before is None or after.initializer is None:
            return 1.0
        old, new = _deviation(before), _deviation(after)
        if old is None or new is None:
            if row.parameter.shape == row.base_shape:
                return row.std
            raise RuleError(
                f'mup: the standard deviation of {after.initializer} at "{after.parameter.path}" is not known.',
                f"it grows, {row.base_shape} → {row.parameter.shape}, and needs a factor relative to the base",
                f'name a scheme: {{"{after.parameter.path}": ("normal", {{"stddev": 0.02}})}}',
            )
        return row.std * (old / new if old > 0 and new > 0 else 1.0)

    def _refuse_kept(self, after: Plan) -> None:
        left = [
            self._by_path[kept.parameter.path]
            for kept in after.kept
            if kept.rule is None and not never_trained(kept.parameter)
            if kept.reason.why is Why.NO_RULE or kept.reason.is_about_axes
            if abs(self._by_path[kept.parameter.path].std - 1) > CLOSE
            if kept.kind != "Norm"  # scales are seen to, and biases are zeros
        ]
        if left:
            raise RuleError(
                f"mup: no rule draws {count(len(left), 'array')} whose standard deviation goes with the width.",
                *first_of(f"{row.parameter.path} {_shapes(row)}: std × {row.std:.4g}" for row in left),
                f'draw them, {{"*": "default"}} first; or say that one stays: {{"{left[0].parameter.path}": None}}',
            )

    def _of_kept_scales(self, after: Plan) -> dict[str, Scheme]:
        """Schemes of norms' scales that take over a factor; schemes of weights have no initializer for them."""
        return {
            kept.parameter.path: _scaled(kept.parameter, self._held(kept.parameter), row.std)
            for kept in after.kept
            if kept.parameter.role == "scale" and kept.reason.why in (Why.NORM, Why.NO_RULE, Why.SILENT)
            if abs((row := self._by_path[kept.parameter.path]).std - 1) > CLOSE
        }

    def _held(self, scale: Parameter) -> Initializer | None:
        """An initializer that gives a scale the number it holds; ones, as frameworks make it, where it is abstract.

        Raises:
            RuleError: it holds several numbers.
        """
        value = self._model.leaves[self._model.places[scale.path][0]]
        if isinstance(value, jax.core.Tracer) or not isinstance(value, jax.Array | np.ndarray):
            return as_initializer("ones", "scale")
        numbers = np.unique(np.asarray(value, float))
        if len(numbers) == 1:
            return as_initializer("ones" if numbers[0] == 1 else ("constant", {"value": float(numbers[0])}), "scale")
        raise RuleError(
            f"mup: {scale.path} holds several numbers, and takes over a factor of {self._by_path[scale.path].std:.4g}.",
            f'multiply them yourself, and say that it stays: {{"{scale.path}": None}}',
            f'or start from one number: {{"{scale.path}": "ones"}}',
        )

    def _grouped(self, schemes: Mapping[str, Scheme]) -> dict[str, Scheme]:
        """Rules for some arrays, one for all those of a list of blocks that get the same."""
        alike: dict[str, list[str]] = {}
        for path in self._by_path:
            alike.setdefault(glob_of(path), []).append(path)
        rules: dict[str, Scheme] = {}
        for glob, paths in alike.items():
            of_paths = {path: schemes[path] for path in paths if path in schemes}
            is_whole = (
                len(of_paths) == len(paths)
                and "*" in glob
                and all(of_paths[path] == of_paths[paths[0]] for path in paths)
            )
            rules |= {glob: of_paths[paths[0]]} if is_whole and self._selects(glob) == set(paths) else of_paths
        return rules

    def _selects(self, glob: str) -> set[str]:
        """The arrays that a path with wildcards names."""
        selected = match(read_rules({glob: None}), self._model.layers, self._model.aliases).selected[0]
        return {path for path, is_named in selected.items() if is_named}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data: the optimizer, and what each array needs, by path."""
        return {
            "optimizer": self._optimizer.to_dict(),
            "arrays": {row.pop("path"): row for row in map(WidthFactor.to_dict, self.rows)},
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """Return `to_dict()` as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        """Return a table of the arrays: which axes grow, both factors, and why."""
        rows = [
            (
                *leading_cells(row.parameter, row.kind)[:3],
                _shapes(row),
                ", ".join(f"{name} ×{ratio:.4g}" for name, ratio in row.grows.items()),
                f"{row.std:.4g}",
                f"{row.learning_rate:.4g}",
                row.why,
            )
            for row in self.rows
        ]
        title = f"{self._model.model.__name__}, {self._optimizer.name}: {count(len(rows), 'array')}"
        notes = "\n".join(f"note: {note}" for note in self.notes)
        return "\n\n".join(filter(None, (table(title, COLUMNS, rows, right=("std", "lr")), notes)))

    def __repr__(self) -> str:
        """Return it in one line, with how many arrays are of each use."""
        return f"Width({tally(row.use for row in self.rows)})"


def _deviation(draw: Draw) -> float | None:
    """The standard deviation of what is drawn; a framework's own function may be one of JAX's that says it."""
    if draw.std is not None or draw.recipe is None:
        return draw.std
    known = draw.recipe.moments
    return None if known is None else max(known[1] - known[0] ** 2, 0.0) ** 0.5


def _shapes(row: WidthFactor) -> str:
    new = row.parameter.shape
    return str(new) if new == row.base_shape else f"{row.base_shape} → {new}"


def _scaled(parameter: Parameter, initializer: Initializer | None, factor: float) -> Scheme:
    """A scheme for one array: an initializer of its role, times a factor."""
    role = parameter.role or "weight"
    return scaled(Scheme.of({role: initializer}), factor, biases=role in ("bias", "scale"))
