"""A plan: every decision of a re-initialization, nothing drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from initax._adapters import check_key, key_of
from initax._drawing._draw import draw, lower
from initax._drawing._job import Job
from initax._drawing._program import Program
from initax._errors import InitaxError, PlanError, count, first_of, warn, with_line
from initax._math._sharding import refuse_undivided
from initax._model._survey import Survey
from initax._planning._decide import decide
from initax._planning._hints import no_plan_to_compare, no_row, no_stored_plan
from initax._planning._misuse import is_key, refuse_flattened, refuse_no_rules, refuse_permuted
from initax._planning._plan_text import render
from initax._planning._records import Decisions, Draw, Kept
from initax._planning._rules import Rule, read_rules
from initax._text import differing, path_text
from initax._trace._take_survey import survey
from initax.schemes._scheme import Scheme, as_scheme

FORMAT = 1
"""Version of the JSON form of a plan."""


class Plan:
    """Every decision of a re-initialization: print it, compare it, store it, draw it.

    Attributes:
        draws: the arrays that will be drawn, in the order of the model.
        kept: the arrays that stay, each with the reason.
        notes: what the user may not have meant.
    """

    __slots__ = ("_by_path", "_default", "_rules", "_survey", "draws", "kept", "notes")

    def __init__(self, survey: Survey, rules: tuple[Rule, ...], default: Any, decisions: Decisions) -> None:
        self._survey = survey
        self._rules = rules
        self._default = default
        self.draws = decisions.draws
        self.kept = decisions.kept
        self.notes = (*survey.notes, *decisions.notes)
        self._by_path: dict[Any, Draw | Kept] = {}

    @with_line("plan.draw", "write plan.draw(jax.random.key(0)); it gives the plan's own model")
    def draw(self, key: Any, *, donate: bool = False, progress: bool = False) -> Any:
        """Return the model with the planned arrays drawn; everything else is the same object as before.

        Where arrays of an abstract model are left without values, a warning says which.

        Args:
            key: a JAX random key.
            donate: whether each old array may be deleted as soon as its successor is there. The old model is lost
                then, and no more memory is needed than for the model and its largest array, and a few megabytes.
            progress: whether to show a bar, on the standard error stream.

        Raises:
            KeyTypeError: `key` is not one JAX key.
            PlanError: a scheme needs the old values of an abstract model, or a mesh does not divide an axis.
            DrawError: there is not enough memory for an array, or processes were to draw different things.

        Examples:
            >>> import equinox as eqx, jax, initax as ix
            >>> model = eqx.nn.Linear(3, 2, key=jax.random.key(0))
            >>> ix.plan(model, {"Linear": "he_normal"}).draw(jax.random.key(1)).weight.shape
            (2, 3)
        """
        arrays = self.arrays(key, donate=donate, progress=progress)
        self._warn_of_shapes(arrays)
        return self._survey.write(arrays)

    @with_line("plan.arrays", "write plan.arrays(jax.random.key(0))")
    def arrays(self, key: Any, *, donate: bool = False, progress: bool = False) -> dict[str, jax.Array]:
        """Return the planned arrays by path, without the model around them.

        Args:
            key: a JAX random key.
            donate: whether each old array may be deleted as soon as its successor is there.
            progress: whether to show a bar, on the standard error stream.

        Raises:
            KeyTypeError: `key` is not one JAX key.
            ModelError: an array that would stay is deleted.
            PlanError: a scheme needs the old values of an abstract model, or a mesh does not divide an axis.
            DrawError: there is not enough memory for an array, or processes were to draw different things.

        Examples:
            >>> import equinox as eqx, jax, initax as ix
            >>> model = eqx.nn.Linear(3, 2, key=jax.random.key(0))
            >>> {path: array.shape for path, array in ix.plan(model, {"*": "zeros"}).arrays(jax.random.key(1)).items()}
            {'weight': (2, 3), 'bias': (2,)}
        """
        check_key(key)
        jobs = self._jobs(donate=donate)
        self._survey.refuse_deleted(path for job in jobs for path in job.paths)
        next_key = key_of(key)
        streams = {row.parameter.path: self._survey.streams.get(row.parameter.path) for row in self.draws}
        started = {path: start(next_key) for path, start in streams.items() if start is not None}
        return draw(jobs, next_key, progress=progress) | started

    def lower(self) -> dict[tuple[str, ...], jax.stages.Lowered]:
        """Return the programs that draw this plan, lowered and not compiled, each by the paths of what it draws.

        Each is a function of one key's data and a few numbers. `compile()` one to see what it costs:
        `memory_analysis()` gives bytes per device, `as_text()` the program and its collectives, of which an
        element-wise draw has none. On a CPU arrays of up to four million entries are drawn entry by entry with other
        arrays, by a program that is not here.

        Examples:
            >>> import equinox as eqx, jax, initax as ix
            >>> model = [eqx.nn.Linear(3, 3, key=jax.random.key(0)) for _ in range(2)]
            >>> [paths for paths in ix.plan(model, {"*": ("he_normal", None)}).lower()]
            [('0.weight', '1.weight')]
        """
        return lower(self._jobs())

    def _jobs(self, *, donate: bool = False) -> list[Job]:
        placed = [row.parameter for row in self.draws if row.parameter.sharding is not None]
        sharding_of = {array.path: array.sharding for array in placed}
        for parameter in placed:
            if not isinstance(self._survey.at(parameter.path), jax.core.Tracer):  # a tracer's type has one
                refuse_undivided(parameter.path, parameter.shape, parameter.sharding)
        drawn = [row for row in self.draws if row.recipe is not None]
        free = self._survey.replaced(path for row in drawn for path in _paths(row)) if donate else {}
        programs: dict[Any, Program] = {}
        jobs = []
        for row in drawn:
            parameter, recipe, paths = row.parameter, row.recipe, _paths(row)
            assert recipe is not None
            preimage = parameter.constraint.preimage if parameter.constraint else None
            shardings = tuple(map(sharding_of.get, paths))
            known = (recipe.kernel, parameter.shape, parameter.dtype, shardings, preimage)
            program = programs.get(known)
            if program is None:
                dtype = jax.dtypes.canonicalize_dtype(_native(parameter.dtype))
                program = programs[known] = Program(recipe.kernel, parameter.shape, dtype, shardings, preimage)
            old = self._old(row) if recipe.kernel.sees_old else None
            frees = tuple([array for path in paths for array in free.get(path, ())]) if free else ()
            jobs.append(Job(paths, program, recipe.numbers, old, frees, self._survey.at(parameter.path)))
        return jobs

    def _warn_of_shapes(self, drawn: Mapping[str, Any]) -> None:
        """Warn of the arrays that stay shapes, where an abstract model is drawn in part."""
        shapes = self._survey.shapes_without(drawn)
        left = [row for row in self.kept if row.parameter.path in shapes and 0 not in row.parameter.shape]
        if not left:
            return
        unselected = any(row.rule is None and row.parameter.excluded is None for row in left)
        warn(
            f"{count(len(left), 'array')} of the model {'stay' if len(left) > 1 else 'stays'} abstract:",
            *first_of(f"{path_text(row.parameter.path)} {row.parameter.shape}: {row.reason}" for row in left),
            'what no rule selects is drawn as its framework draws it: add {"*": "default"} first' if unselected else "",
        )

    def _old(self, row: Draw) -> Any:
        old = self._survey.at(row.parameter.path)
        if isinstance(old, jax.Array | np.ndarray):
            return old
        raise PlanError(
            f'{row.initializer} keeps a part of what "{row.parameter.path}" holds, and the model is abstract.',
            "draw the model first, then call it on what comes back",
        )

    @property
    def aliases(self) -> Mapping[str, str]:
        """Path at which a tied array is reached again → path of its owner."""
        return {path: owner for path, owner in self._survey.aliases.items() if owner in self._survey.places}

    @with_line("plan.diff", "write plan.diff(ix.plan(model, rules))")
    def diff(self, other: Plan) -> tuple[str, ...]:
        """Return what differs between two plans, one line per parameter: `+` added, `-` gone, `~` changed.

        Args:
            other: the plan to compare with; lines say what changes from this one to that one.

        Raises:
            PlanError: `other` is not a plan.

        Examples:
            >>> import equinox as eqx, jax, initax as ix
            >>> model = eqx.nn.Linear(3, 2, use_bias=False, key=jax.random.key(0))
            >>> he, zero = (ix.plan(model, {"*": name}) for name in ("he_normal", "zeros"))
            >>> he.diff(zero)
            ('~ weight: scheme he_normal → zeros, initializer he_normal → zeros, std 0.816497 → 0.0',)
        """
        if not isinstance(other, Plan):
            raise PlanError(no_plan_to_compare(other))
        return _diff(self._rows(), other._rows())

    def __eq__(self, other: object) -> bool:
        """Whether both decide alike, row by row and reason by reason."""
        if not isinstance(other, Plan):
            return NotImplemented
        return self._rows() == other._rows()

    __hash__ = None  # type: ignore[assignment]

    def _rows(self) -> dict[str, dict[str, Any]]:
        rows = [*map(Draw.to_dict, self.draws), *map(Kept.to_dict, self.kept)]
        return {row.pop("path"): row for row in rows}

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
    @with_line("ix.Plan.from_json", "write ix.Plan.from_json(text, model)")
    def from_json(
        cls, text: str, model: Any, *, inputs: Any = None, forward: Callable[..., Any] | None = None, module: Any = None
    ) -> Plan:
        """Return a stored plan for a model, after checking that it still decides the same.

        Args:
            text: what `to_json` returned.
            model: the model, or an abstract one of the same structure.
            inputs: what the model is called on, where the plan was made with it.
            forward: how it is called, where the plan was made with it.
            module: the module of Linen variables, where the plan was made with it.

        Raises:
            PlanError: the text is not a stored plan, or the plan decides otherwise on this model.
        """
        refuse_permuted("ix.Plan.from_json", text=text, model=model)
        try:
            stored = json.loads(text)
            rules = dict(stored["rules"])
            decisions = stored["decisions"]
        except (ValueError, KeyError, TypeError) as error:
            raise PlanError(no_stored_plan(text, error)) from error
        if stored.get("initax") != FORMAT:
            raise PlanError(f"the plan is stored in format {stored.get('initax')!r}, this initax reads {FORMAT}.")
        planned = plan(model, rules, inputs=inputs, forward=forward, module=module, default=stored.get("default"))
        changes = _diff(decisions, json.loads(json.dumps(planned._rows())))
        if changes:
            raise PlanError("the stored plan decides otherwise on this model.", *changes[:20])
        return planned

    def __getitem__(self, path: str) -> Draw | Kept:
        """Return what is decided for the array at a path: its row of `draws` or of `kept`.

        Raises:
            PlanError: the model has no such array.

        Examples:
            >>> import equinox as eqx, jax, initax as ix
            >>> plan = ix.plan(eqx.nn.Linear(3, 2, key=jax.random.key(0)), {"*": "he_normal"})
            >>> plan["weight"].rule, plan["bias"].std
            ('*', 0.0)
        """
        row = self._row(path)
        if row is None:
            raise PlanError(no_row(path, tuple(self._by_path)))
        return row

    def __contains__(self, path: object) -> bool:
        """Return whether the model has an array at a path."""
        return self._row(path) is not None

    def _row(self, path: Any) -> Draw | Kept | None:
        if not self._by_path:
            rows: list[Draw | Kept] = [*self.draws, *self.kept]
            self._by_path = {row.parameter.path: row for row in rows}
        return self._by_path.get(path if path in self._by_path else self._survey.aliases.get(path))

    def __len__(self) -> int:
        """Return the number of arrays that will be drawn."""
        return len(self.draws)

    def __repr__(self) -> str:
        """Return the plan in one line."""
        return f"Plan({len(self.draws)} drawn, {len(self.kept)} kept)"

    def __str__(self) -> str:
        """Return the plan as a table."""
        return render(self.draws, self.kept, self.notes)


def _plan_line(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    if args[2:] and not is_key(args[2]):
        return "what follows the rules goes by name: ix.plan(model, rules, inputs=x)"
    return "write ix.plan(model, rules); a plan takes the key: plan.draw(key)"


@with_line("ix.plan", _plan_line)
def plan(
    model: Any,
    rules: Mapping[Any, Any],
    *,
    inputs: Any = None,
    forward: Callable[..., Any] | None = None,
    module: Any = None,
    default: Any = None,
) -> Plan:
    """Return every decision `reinit` would make, with nothing drawn.

    A plan depends on structure, shapes and types only: abstract models do, and so do traced ones inside `jax.jit`.

    Args:
        model: an Equinox or NNX module, Linen variables, or any pytree of arrays, `jax.ShapeDtypeStruct`s or
            shape tuples.
        rules: selector → scheme; the last rule that matches an array decides it.
        inputs: what the model is called on, a tuple of arguments or one argument, abstract or not. The
            axes of arrays nobody declared are then read off a trace of the call, in which nothing is computed.
        forward: function of the model and the inputs, where a plain call `model(*inputs)` is not it; for Linen, of the
            module and the inputs.
        module: where the model is variables of Flax Linen, the module they belong to.
        default: the scheme of layers no rule selects; `None` keeps them, `"error"` refuses a model with any.

    Returns:
        The plan; `print` it for a table, `plan.draw(key)` for the model.

    Raises:
        RuleError: the rules are not a mapping, select nothing, draw nothing, or leave something uncovered.
        SchemeError: a scheme is unknown or can't serve a parameter it was chosen for.
        AxesError: restated axes do not fit.
        ModelError: the model holds no layer initax knows, or its forward pass fails.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> plan = ix.plan(eqx.nn.MLP(4, 2, 8, depth=1, key=jax.random.key(0)), {"Linear": "he_normal"})
        >>> [(draw.parameter.path, round(draw.std, 3)) for draw in plan.draws if draw.std]
        [('layers.0.weight', 0.707), ('layers.1.weight', 0.5)]
    """
    refuse_permuted("ix.plan", model=model, rules=rules)
    refuse_no_rules(model, rules, default)
    read = read_rules(rules)
    fallback = default if default is None or default == "error" else as_scheme(default)
    schemes = [rule.scheme for rule in read] + [fallback]
    if module is None:
        refuse_flattened(model, (scheme for scheme in schemes if isinstance(scheme, Scheme)))
    needs_moments = any(_asks_for_input_moments(scheme) for scheme in schemes if isinstance(scheme, Scheme))
    surveyed = survey(model, inputs=inputs, forward=forward, module=module)
    decisions = decide(surveyed.layers, surveyed.aliases, read, fallback, surveyed.model, surveyed.hint)
    if needs_moments:
        from initax._planning._input_moments import with_input_moments  # loads what follows a forward pass

        decisions = with_input_moments(decisions, surveyed, surveyed.traced)
    return Plan(surveyed, read, fallback, decisions)


def _native(dtype: Any) -> Any:
    """Return a type in this machine's order of bytes, in which NumPy arrays need not be."""
    return dtype.newbyteorder("=") if isinstance(dtype, np.dtype) and not dtype.isnative else dtype


def _paths(row: Draw) -> tuple[str, ...]:
    """The path of a drawn array, and those of what has to change with it."""
    constraint = row.parameter.constraint
    return (row.parameter.path, *(constraint.companions if constraint else ()))


def _asks_for_input_moments(scheme: Scheme) -> bool:
    asks = any(part is not None and part.needs_input_second_moment for part in scheme.parts.values())
    return asks or any(part is not None and _asks_for_input_moments(part) for part in scheme.arrays.values())


def _diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    lines = []
    for path in differing(before, after):
        shown = path_text(path)
        if path not in before:
            lines.append(f"+ {shown}: {_row_text(after[path])}")
        elif path not in after:
            lines.append(f"- {shown}: {_row_text(before[path])}")
        else:
            lines.append(f"~ {shown}: {_changes(before[path], after[path])}")
    return tuple(lines)


def _row_text(row: Mapping[str, Any]) -> str:
    return f"kept, {row['kept']}" if "kept" in row else f"{row['initializer']}, shape {tuple(row['shape'])}"


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if ("kept" in before) != ("kept" in after):
        return f"{_row_text(before)} → {_row_text(after)}"

    def text(value: Any) -> str:
        return f"{value:.6}" if isinstance(value, float) else str(value)

    names = differing(before, after)
    return ", ".join(f"{name} {text(before.get(name))} → {text(after.get(name))}" for name in names)


def _selector_spec(rule: Rule) -> str:
    selector = rule.selector.value
    if isinstance(selector, type):
        return selector.__name__
    if isinstance(selector, str):
        return selector
    raise PlanError(
        f"a plan with the function {rule.text} for a selector can't be stored.",
        'select by class, name or path instead: {"Linear": ...}',
    )


def _scheme_spec(rule: Rule) -> Any:
    try:
        return None if rule.scheme is None else rule.scheme.spec()
    except InitaxError as error:
        raise PlanError(f'rule "{rule.text}": {error}') from None
