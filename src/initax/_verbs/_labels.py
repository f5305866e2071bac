"""Masks and labels of parameters for an optimizer, chosen by the selectors of rules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten_with_path, tree_unflatten

from initax._adapters import parameters_of
from initax._adapters._nodes import entry_name
from initax._errors import InitaxError, ModelError, RuleError, count, listing, message, nearest, with_line
from initax._model._parameter import ROLES, Parameter, leading_cells
from initax._model._reason import Why
from initax._model._survey import Survey, arrays_of
from initax._planning._label_rules import decide_labels, read_label_rules
from initax._planning._misuse import LABEL_ARGUMENTS, refuse_permuted
from initax._planning._rule_file import load_rules
from initax._planning._rule_file_hints import is_rule_file
from initax._planning._rules import Rule
from initax._text import path_text, table, tally
from initax._trace._take_survey import survey

NEVER_TRAINED = frozenset(
    {Why.KEY, Why.NOT_FLOATING, Why.STATE, Why.STATISTICS, Why.OPTIMIZER, Why.NOT_TRAINABLE, Why.CONSTANT, Why.FROZEN}
)
"""Reasons for which an array is changed by no optimizer, whatever a mask says."""

_NO_VALUE = object()
"""Stands for a value that is not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """The label of one parameter.

    Attributes:
        parameter: the parameter.
        kind: kind of its layer.
        value: what the optimizer is told.
        why: the selector that decided, or why none did.
    """

    parameter: Parameter
    kind: str
    value: Any
    why: str


class Labels:
    """A label for each parameter: pass it to optax as it is, print it for a table.

    Wherever optax takes a tree of the parameters' structure (`mask=`, `param_labels`,
    `muon_weight_dimension_numbers=`) it takes a function from the parameters to such a tree, too. This is one, so it
    goes with the whole model, with what `eqx.filter` leaves of it, with an `nnx.State`, with `variables` of Linen or
    their `"params"`: arrays are known by their paths.

    Attributes:
        rows: the label of each array, in the order of the model.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> model = eqx.nn.MLP(4, 2, 8, depth=1, key=jax.random.key(0))
        >>> decay = ix.mask(model, {"Linear": True, "**.bias": False})
        >>> decay["layers.0.weight"], decay["layers.0.bias"]
        (True, False)
        >>> decay.tree.layers[1].weight
        True
    """

    __slots__ = ("_by_path", "_model", "_verb", "rows")

    def __init__(self, verb: str, surveyed: Survey, rows: Iterable[Label]) -> None:
        self._verb = verb
        self._model = surveyed
        self.rows = tuple(rows)
        self._by_path = {row.parameter.path: row.value for row in self.rows}

    def __call__(self, parameters: Any, value: Any = _NO_VALUE) -> Any:
        """Return the labels as a tree of the structure of these parameters.

        A mask is false for what is not a parameter, e.g. an activation function, so that Equinox splits a whole model
        by it, `eqx.partition(model, mask(model))`. NNX calls its filters with a path and what stands there, so a mask
        is a filter, too: `nnx.DiffState(0, mask)`, `wrt=mask`.

        Args:
            parameters: the model's parameters, or a part of them, as an optimizer holds them; or the path of one.
            value: what stands at the path; with it the label of that one comes back.

        Raises:
            ModelError: they hold an array that the model did not have, or are one of its arrays alone.
        """
        if value is not _NO_VALUE:
            return self._of(tuple(map(str, parameters)), value)
        leaves, structure = tree_flatten_with_path(parameters)
        return tree_unflatten(structure, [self._of(tuple(map(entry_name, path)), leaf) for path, leaf in leaves])

    @property
    def tree(self) -> Any:
        """The tree for all that is trained: the model with its floating arrays alone, an `nnx.State`, `params`."""
        return self(parameters_of(self._model.rebuild(list(self._model.leaves))))

    def __invert__(self) -> Labels:
        """Return the mask of what this one leaves out: `optax.masked(optax.set_to_zero(), ~mask)` freezes it.

        Raises:
            InitaxError: these are labels, not a mask.
        """
        if not all(isinstance(row.value, bool) for row in self.rows):
            raise InitaxError(f"{self._verb}: only a mask has an inverse.", "make one by ix.mask(model, rules)")
        return Labels(self._verb, self._model, [replace(row, value=not row.value) for row in self.rows])

    def __and__(self, other: Labels) -> Labels:
        """Return the mask that is true where both are: `ix.mask(model, "weight") & ~ix.mask(model, "head")`.

        Raises:
            InitaxError: these are labels, not masks, or masks of different models.
        """
        return self._with(other, "&", operator.and_)

    def __or__(self, other: Labels) -> Labels:
        """Return the mask that is true where one of the two is.

        Raises:
            InitaxError: these are labels, not masks, or masks of different models.
        """
        return self._with(other, "|", operator.or_)

    def _with(self, other: Labels, sign: str, combine: Callable[[bool, bool], bool]) -> Labels:
        if not isinstance(other, Labels):
            return NotImplemented
        rows = list(zip(self.rows, other.rows, strict=False))
        if not all(isinstance(row.value, bool) for pair in rows for row in pair):
            raise InitaxError(f"{self._verb}: only masks are combined by {sign}.", "make one by ix.mask(model, rules)")
        if self._by_path.keys() != other._by_path.keys():
            raise ModelError(
                f"{self._verb}: these are masks of different models, of {count(len(self.rows), 'array')} and "
                f"{count(len(other.rows), 'array')}."
            )
        combined = (
            replace(row, value=combine(row.value, with_row.value), why=f"{row.why} {sign} {with_row.why}")
            for row, with_row in rows
        )
        return Labels(self._verb, self._model, combined)

    def __bool__(self) -> bool:
        """Raise, since there is a value for each array: `not mask` would silently be one value for all.

        Raises:
            InitaxError: always.
        """
        raise InitaxError(
            f"{self._verb}: there is a value for each array, and no truth value of them all.",
            "~mask is true where the mask is false" if self._verb == "mask" else "",
            f"for jax.tree.map there is a tree: {self._verb}.tree",
        )

    def __getitem__(self, path: str) -> Any:
        """Return the label of the array at a path.

        Raises:
            ModelError: the model has no such array.
        """
        key = self._known(tuple(path.split(".")))
        if key is not None:
            return self._by_path[key]
        inside = [known for known in self._by_path if known.startswith(f"{path}.")]
        if not inside:
            raise ModelError(_unknown(self._verb, path, self._by_path))
        raise ModelError(
            f'"{path}" is not an array, and {self._verb}[...] takes the path of one.',
            f"it holds: {listing(inside, 6)}",
        )

    def __contains__(self, path: str) -> bool:
        """Return whether the model has an array at a path."""
        return self._known(tuple(path.split("."))) is not None

    def __str__(self) -> str:
        """Return a table."""
        rows = [(*leading_cells(row.parameter, row.kind), value_text(row.value), row.why) for row in self.rows]
        columns = ("parameter", "kind", "role", "shape", "axes", self._verb, "why")
        return table(f"{self._verb}: {count(len(rows), 'array')}", columns, rows, right=())

    def __repr__(self) -> str:
        """Return it in one line, with how many arrays have each value."""
        return f"Labels({tally(value_text(row.value) for row in self.rows)})"

    def _of(self, parts: tuple[str, ...], leaf: Any) -> Any:
        key = self._known(tuple(name for part in parts for name in part.split(".")))
        if key is not None:
            return self._by_path[key]
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, np.inexact):
            if not parts:  # eqx.partition(model, mask) calls a function with one leaf after the other
                tree = f"{self._verb}(model)"
                raise ModelError(
                    f"ix.{self._verb} was given one array {tuple(leaf.shape)} without its path, and takes the tree of "
                    "all parameters.",
                    f"write eqx.partition(model, {tree})" if self._verb == "mask" else f"write {tree}",
                )
            raise ModelError(_unknown(self._verb, f"{'.'.join(parts)} {tuple(leaf.shape)}", self._by_path))
        return False if self._verb == "mask" else None

    def _known(self, parts: tuple[str, ...]) -> str | None:
        """The array at a path: below `params` or not, in a box or not, and behind what it is tied to."""
        for first in (0, 1) if parts[:1] == ("params",) else (0,):
            for last in range(len(parts), first - 1, -1):
                path = ".".join(parts[first:last])
                if path in self._by_path:
                    return path
                if path in self._model.aliases:
                    return self._known((*self._model.aliases[path].split("."), *parts[last:]))
        return None


def value_text(value: Any) -> str:
    """Return a label as a cell of a table."""
    if hasattr(value, "reduction_axis"):
        return f"{value.reduction_axis} → {value.output_axis}"
    return str(value)


def _unknown(verb: str, path: str, known: Iterable[str]) -> str:
    paths = list(known)
    near = nearest(path.partition(" ")[0], paths, 6) or paths
    return message(
        f"ix.{verb} was given another model, without an array {path_text(path)}.",
        f"it has: {listing(near, 6)}",
        f"make it of the model that is trained: ix.{verb}(model, ...)",
    )


@with_line("ix.labels", 'write ix.labels(model, {"*": "adam"}); what follows the rules goes by name')
def labels(
    model: Any,
    rules: Any,
    *,
    default: Hashable = None,
    inputs: Any = None,
    forward: Callable[..., Any] | None = None,
    module: Any = None,
) -> Labels:
    """Return a label for each parameter, for `optax.multi_transform` and whatever else wants a tree of labels.

    Args:
        model: an Equinox or NNX module, Linen variables, a train state, or any pytree of arrays, abstract or not.
        rules: selector → label; the last rule that matches an array decides it. A mapping in the place of a label is
            keyed by roles and names of arrays: `{"*": "adam", "Linear": {"weight": "muon"}}`. Or the path of a file of
            such rules, TOML or JSON.
        default: the label of arrays that no rule selects; there must be none if left out.
        inputs: what the model is called on, where roles and kinds are read off a trace.
        forward: function of the model and the inputs, where a plain call is not it.
        module: where the model is variables of Flax Linen, the module they belong to.

    Returns:
        The labels: a function from parameters to a tree, as optax takes it. `labels.tree` is the tree itself.

    Raises:
        RuleError: a selector matches nothing, a key is neither a role nor an array, or an array has no label.
        ModelError: the forward pass fails, or what was passed is not a model.

    Examples:
        >>> import equinox as eqx, jax, initax as ix, optax
        >>> model = eqx.nn.MLP(4, 2, 8, depth=1, key=jax.random.key(0))
        >>> labels = ix.labels(model, {"*": "sgd", "layers.1": {"weight": "adam"}})
        >>> optimizer = optax.multi_transform({"adam": optax.adam(1e-3), "sgd": optax.sgd(1e-2)}, labels)
        >>> state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        >>> labels
        Labels(sgd: 3, adam: 1)
    """
    refuse_permuted("ix.labels", LABEL_ARGUMENTS, model=model, rules=rules)
    label_rules = read_rules_of("labels", rules)
    surveyed = survey(model, inputs=inputs, forward=forward, module=module)
    rows = _labelled(label_rules, surveyed, default, "" if default is None else "default=")
    left = [path_text(row.parameter.path) for row in rows if row.value is None and not never_trained(row.parameter)]
    if left:
        raise RuleError(
            f"labels: no rule says anything of {count(len(left), 'array')}: {listing(left, 6)}",
            'a label for all others goes first: {"*": "adam", ...}; or give default="adam"',
        )
    return Labels("labels", surveyed, rows)


@with_line("ix.mask", 'write ix.mask(model, "weight"); what follows the rules goes by name')
def mask(
    model: Any, rules: Any, *, inputs: Any = None, forward: Callable[..., Any] | None = None, module: Any = None
) -> Labels:
    """Return true or false for each parameter: whether weight decay, or any other transform, applies to it.

    Args:
        model: an Equinox or NNX module, Linen variables, a train state, or any pytree of arrays, abstract or not.
        rules: a role (`"weight"`), a selector, or a list of these: true for what one of them selects. Or a mapping from
            selectors to true or false, in which the last rule that matches an array decides it, and what none selects
            is false: `{"*": True, "Norm": False, "**.bias": False}`. A mapping in the place of a truth value is keyed
            by roles and names of arrays: `{"*": {"weight": True}}`. Or the path of a file of such rules, TOML or JSON.
        inputs: what the model is called on, where roles and kinds are read off a trace.
        forward: function of the model and the inputs, where a plain call is not it.
        module: where the model is variables of Flax Linen, the module they belong to.

    Returns:
        The mask: a function from parameters to a tree, as optax takes it. `mask.tree` is the tree itself. State and
        what is frozen is never true, so that weight decay never shrinks running statistics.

    Raises:
        RuleError: a selector matches nothing, a key is neither a role nor an array, a value is not true or false, or no
            array is true.
        ModelError: the forward pass fails, or what was passed is not a model.

    Examples:
        >>> import equinox as eqx, jax, initax as ix, optax
        >>> model = eqx.nn.MLP(4, 2, 8, depth=1, key=jax.random.key(0))
        >>> optimizer = optax.adamw(1e-3, weight_decay=0.1, mask=ix.mask(model, "weight"))
        >>> state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        >>> ix.mask(model, {"*": True, "**.bias": False})
        Labels(True: 2, False: 2)
    """
    refuse_permuted("ix.mask", LABEL_ARGUMENTS, model=model, rules=rules)
    if isinstance(rules, list | tuple):
        rules = _of_roles(rules)
    elif not isinstance(rules, Mapping) and not is_rule_file(rules) and (isinstance(rules, str) or callable(rules)):
        rules = _of_roles([rules])
    label_rules = read_rules_of("mask", rules)
    surveyed = survey(model, inputs=inputs, forward=forward, module=module)
    rows = [
        replace(row, value=False, why=str(row.parameter.excluded))
        if row.value and never_trained(row.parameter)
        else row
        for row in _labelled(label_rules, surveyed, False, "no rule selects it")
    ]
    if not any(row.value for row in rows):
        raise RuleError(
            "mask: no array is true, so that the mask would switch everything off.",
            f"rules: {listing(rule.text for rule in label_rules)}",
            'what no rule selects is false; write {"*": True, ...} first',
        )
    return Labels("mask", surveyed, rows)


def _labelled(rules: Sequence[Rule], surveyed: Survey, default: Any, why: str) -> list[Label]:
    """The label of each array: that of the last matching rule, else the default with why, or why it is never drawn."""
    decided = decide_labels(rules, surveyed)
    rows = []
    for layer, array in arrays_of(surveyed):
        label = decided.get(array.path)
        value, reason = (default, why or str(array.excluded)) if label is None else (label.value, label.rule)
        rows.append(Label(parameter=array, kind=layer.kind, value=value, why=reason))
    return rows


def never_trained(parameter: Parameter) -> bool:
    """Return whether no optimizer changes an array."""
    return parameter.excluded is not None and parameter.excluded.why in NEVER_TRAINED


def _of_roles(selectors: Sequence[Any]) -> dict[Any, Any]:
    """Rules that are true for the arrays that one of several roles and selectors selects."""
    roles = {selector: True for selector in selectors if isinstance(selector, str) and selector in ROLES}
    return {**({"*": roles} if roles else {}), **{selector: True for selector in selectors if selector not in roles}}


def read_rules_of(of: str, rules: Any, verb: str = "") -> tuple[Rule, ...]:
    """Return rules whose values are not schemes, as they are written, or from a file.

    Args:
        of: the kind of rules.
        rules: the rules, or the path of a file with them.
        verb: who asks, for errors.
    """
    return read_label_rules(of, load_rules(rules, of=of) if is_rule_file(rules) else rules, verb)
