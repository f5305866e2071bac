"""Resets of an optimizer's state for parameters that were drawn anew.

An optimizer's state holds trees of the parameters' own structure, somewhere inside: moments, traces, accumulated
gradients. So an array of the state belongs to the parameter whose path its own path goes through, whatever its shape:
some optimizers hold one number for each parameter, or one array for each of its axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten_with_path

from initax._adapters._nodes import entry_name
from initax._errors import PlanError, listing, message, with_line
from initax._math._sharding import placement
from initax._model._survey import Survey
from initax._planning._plan import Plan

State = TypeVar("State")
Counts = Literal["keep", "reset"]

STARTS_AT_ZERO: Mapping[str, tuple[str, ...]] = {
    "ApplyEvery": ("grad_acc",),
    "DAdaptAdamWState": ("exp_avg", "exp_avg_sq", "grad_sum"),
    "EmaState": ("ema",),
    "FactoredState": ("v_row", "v_col", "v"),
    "MomoAdamState": ("exp_avg", "exp_avg_sq"),
    "MomoState": ("exp_avg",),
    "MultiStepsState": ("acc_grads",),
    "MuonState": ("mu",),
    "ScaleByAdaDeltaState": ("e_g", "e_x"),
    "ScaleByAdamState": ("mu", "nu"),
    "ScaleByAdanState": ("m", "v", "n", "g"),
    "ScaleByAdemamixState": ("m1", "m2", "nu"),
    "ScaleByAmsgradState": ("mu", "nu", "nu_max"),
    "ScaleByBeliefState": ("mu", "nu"),
    "ScaleByLionState": ("mu",),
    "ScaleByNovogradState": ("mu", "nu"),
    "ScaleByOptimisticGradientState": ("previous_gradient",),
    "ScaleBySM3State": ("mu", "nu"),
    "ScaleBySimplifiedAdEMAMixState": ("m", "n"),
    "SophiaState": ("mu", "nu"),
    "TraceState": ("trace",),
    "ZeroNansState": ("found_nan",),
}
"""Optax's states → the fields, trees of the parameters' structure, that `init` fills with zeros whatever its arguments.

Not here, because the state does not show where they start: those of RMSProp, RProp and Adagrad, which an argument sets,
and copies of the parameters. Nor where a zero means something only while a count or a value beside it is new: L-BFGS,
line searches, GaLore's projector. Yogi's moments are in Adam's state: their start, 1e-6, can't be told from zero.
"""

SETTINGS = ("InjectHyperparamsState.hyperparams", "InjectStatefulHyperparamsState.hyperparams")
"""Fields by name of a hyperparameter, which may be a parameter's name too: `b1`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _StateArray:
    """Where an array is in an optimizer's state.

    Attributes:
        path: the parts of its path.
        field: the class and field of the innermost of optax's states around it, `"TraceState.trace"`; empty if none is.
        below: the parts of its path below that field.
        leaf: the array.
    """

    path: tuple[str, ...]
    field: str
    below: tuple[str, ...]
    leaf: Any

    @property
    def starts_at_zero(self) -> bool:
        """Whether the array is known to be zero at the start."""
        state, _, field = self.field.partition(".")
        return field in STARTS_AT_ZERO.get(state, ())


@with_line("ix.reset_optimizer", "write ix.reset_optimizer(opt_state, ix.plan(model, rules))")
def reset_optimizer(opt_state: State, plan: Plan, *, fresh: Any = None, counts: Counts = "keep") -> State:
    """Return an optimizer's state with the entries of the parameters that a plan draws reset.

    Reset a layer and keep its moments, and the first updates push the new weights where the old ones were going.

    Args:
        opt_state: any optax state, an `nnx.Optimizer`, or a `TrainState`; chains, masks, labels and injected
            hyperparameters included. It is not mutated.
        plan: the plan of what is drawn anew, made with `ix.plan` on the model or its parameters.
        fresh: what `optimizer.init` gives for the new parameters, from which the arrays are taken; needed where they
            are not known to start at zero, or where a new layer has other sizes than the old one.
        counts: `"keep"` leaves counts and schedules where they are. Adam's bias correction then no longer helps the
            new moments, and its first updates are up to three times the learning rate. `"reset"` starts them all over,
            for every parameter.

    Returns:
        The state. Arrays of parameters that the plan does not draw are the same objects as before.

    Raises:
        PlanError: `plan` is not a plan, nothing in the state belongs to what it draws, or what does is not known to
            start at zero, or is for parameters of other sizes, and `fresh` is missing, or is not a state of the same
            optimizer.

    Examples:
        >>> import equinox as eqx, initax as ix, jax, optax
        >>> model = eqx.nn.MLP(2, 1, 4, depth=1, key=jax.random.key(0))
        >>> state = optax.adam(1e-3).init(eqx.filter(model, eqx.is_array))
        >>> state = jax.tree.map(lambda array: array + 1, state)
        >>> state = reset_optimizer(state, ix.plan(model, {"layers.1": "zeros"}))
        >>> float(state[0].mu.layers[0].bias.sum()), float(state[0].mu.layers[1].bias.sum()), int(state[0].count)
        (4.0, 0.0, 1)

    References:
        Nikishin et al. 2022, "The primacy bias in deep reinforcement learning", arXiv 2205.07802, resets both.
    """
    if counts not in ("keep", "reset"):
        raise PlanError(f'counts must be "keep" or "reset", not {counts!r}.')
    if not isinstance(plan, Plan):
        raise PlanError(_no_plan(opt_state, plan))
    shapes = {tuple(draw.parameter.path.split(".")): draw.parameter.shape for draw in plan.draws}
    return _forgetful(opt_state, _drawn(plan), fresh, counts, shapes)


def forget_entries(opt_state: State, survey: Survey, entries: Mapping[str, Any]) -> State:
    """Return an optimizer's state with some entries of some parameters reset.

    Args:
        opt_state: any optax state, an `nnx.Optimizer`, or a `TrainState`.
        survey: the model.
        entries: path of a parameter → which of its entries, of its shape, true or false.

    Raises:
        PlanError: nothing in the state belongs to these parameters, or what does is not known to start at zero, or is
            no array of their shape.
    """
    owned = {path: entries.get(path, False) for path in survey.places}
    owned |= {path: owned[owner] for path, owner in survey.aliases.items() if owner in owned}
    return _forgetful(opt_state, {tuple(path.split(".")): reset for path, reset in owned.items()}, None, "keep")


Path = tuple[str, ...]


def _forgetful(
    opt_state: State,
    drawn: Mapping[Path, Any],
    fresh: Any,
    counts: Counts,
    shapes: Mapping[Path, tuple[int, ...]] = MappingProxyType({}),
) -> State:
    """The state with what belongs to some parameters, or to some entries of them, as it was at the start.

    Args:
        opt_state: the state.
        drawn: the parts of every parameter's path → whether it is forgotten; or which of its entries are.
        fresh: a state to take the start from.
        counts: what becomes of counts.
        shapes: the parts of a parameter's path → its shape, which may be another than the state is for.
    """
    inner = getattr(opt_state, "opt_state", None)
    if inner is not None and hasattr(opt_state, "replace") and hasattr(opt_state, "apply_fn"):
        started = getattr(fresh, "opt_state", fresh)
        return opt_state.replace(opt_state=_forgetful(inner, drawn, started, counts, shapes))
    arrays = list(_state_arrays(opt_state))
    owners = [_owner(array, drawn) for array in arrays]
    resets = [False if owner is None else drawn[owner] for owner in owners]
    if all(reset is False for reset in resets):
        raise PlanError(_nothing(drawn, arrays))
    forgotten = [
        (array, shapes.get(owner or ()))
        for array, owner, reset in zip(arrays, owners, resets, strict=True)
        if reset is not False
    ]
    starts = {} if fresh is None else _starts(fresh, forgotten, len(arrays))
    unknown = [array for array, _ in forgotten if not array.starts_at_zero]
    outgrown = [array for array, shape in forgotten if shape is not None and _is_of_other_sizes(array, shape)]
    if fresh is None and (unknown or outgrown):
        raise PlanError(_fresh_needed(opt_state, outgrown, unknown))
    if counts == "reset":
        counting = [owner is None and _is_count(array) for array, owner in zip(arrays, owners, strict=True)]
        resets = [reset or is_count for reset, is_count in zip(resets, counting, strict=True)]
    leaves = [_restarted(array, reset, starts.get(array.path)) for array, reset in zip(arrays, resets, strict=True)]
    # Modules in a state know their sizes.
    return jax.tree_util.tree_unflatten(jax.tree.structure(fresh if outgrown else opt_state), leaves)


def _no_plan(opt_state: Any, plan: Any) -> str:
    shown = repr(plan) if isinstance(plan, str) else f"a {type(plan).__name__}"
    head = f"plan must be what ix.plan returns, not {shown}."
    if isinstance(opt_state, Plan):
        return message(head, "the state comes first: ix.reset_optimizer(opt_state, plan)")
    rules = f'{{"{plan}": "default"}}' if isinstance(plan, str) else "rules"
    return message(head, f"write ix.reset_optimizer(opt_state, ix.plan(model, {rules}))")


def _drawn(plan: Plan) -> dict[tuple[str, ...], bool]:
    """The parts of every parameter's path → whether the plan draws it; a tied one goes with its owner."""
    drawn = dict.fromkeys(draw.parameter.path for draw in plan.draws)
    every = [*drawn, *(kept.parameter.path for kept in plan.kept)]
    aliases: Mapping[str, str] = plan.aliases
    return {tuple(path.split(".")): aliases.get(path, path) in drawn for path in (*every, *aliases)}


def _state_arrays(tree: Any, field: str = "", around: tuple[str, ...] = ()) -> Iterator[_StateArray]:
    """Where each array of a state is, in the order in which JAX flattens them."""
    for path, node in tree_flatten_with_path(tree, is_leaf=_is_state)[0]:
        below = tuple(part for entry in path for part in entry_name(entry).split("."))
        if not _is_state(node):
            yield _StateArray(path=(*around, *below), field=field, below=below, leaf=node)
            continue
        for name in node._fields:
            yield from _state_arrays(getattr(node, name), f"{type(node).__name__}.{name}", (*around, *below, name))


def _is_state(node: Any) -> bool:
    """Whether this is one of optax's states; the pair that stands for a complex parameter is not."""
    cls = type(node)
    named = isinstance(node, tuple) and hasattr(node, "_fields") and cls.__name__ != "SplitRealAndImaginaryArrays"
    return named and cls.__module__.partition(".")[0] == "optax"


def _owner(array: _StateArray, drawn: Mapping[tuple[str, ...], Any]) -> tuple[str, ...] | None:
    """The parameter whose path this path goes through; where the model is a single array, it owns all that has axes.

    A field that holds a tree of the parameters' structure holds a parameter's path first, and what is below, as numbers
    of axes, after it. Elsewhere, as in a state that is not optax's, numbers of a chain come first.
    """
    if array.field in SETTINGS:
        return None
    if ("",) in drawn:
        has_axes = getattr(array.leaf, "ndim", 0) > 0 and jnp.issubdtype(array.leaf.dtype, np.inexact)
        return ("",) if array.starts_at_zero or has_axes else None
    names = array.below
    spans = [
        (first, last)
        for first in range(len(names))
        for last in range(first + 1, len(names) + 1)
        if names[first:last] in drawn
    ]
    if not spans:
        return None
    if array.starts_at_zero:
        first, last = min(spans, key=lambda span: (span[0], -span[1]))
    else:
        first, last = max(spans, key=lambda span: (span[1], -span[0]))
    return names[first:last]


def _is_count(array: _StateArray) -> bool:
    leaf, setting = array.leaf, array.field in SETTINGS
    return not setting and getattr(leaf, "ndim", None) == 0 and jnp.issubdtype(leaf.dtype, np.integer)


def _restarted(array: _StateArray, reset: Any, started: Any) -> Any:
    """An array of the state as at the start, where it is known, else with zeros; a placeholder for an array stays.

    Args:
        array: the array.
        reset: whether it starts again, or which of its entries do.
        started: the array at the start.
    """
    leaf = array.leaf
    if reset is False or (reset is True and started is not None):
        return started if reset else leaf
    if not isinstance(leaf, np.ndarray | jax.Array):
        return leaf
    xp = np if isinstance(leaf, np.ndarray) else jnp
    if reset is True:
        return np.zeros_like(leaf) if xp is np else jnp.zeros(leaf.shape, leaf.dtype, device=placement(leaf))
    if leaf.size <= 1 < reset.size:
        return leaf
    if leaf.shape != reset.shape:
        raise PlanError(
            f'"{".".join(array.path)}" {leaf.shape} does not remember each entry of its parameter {reset.shape} alone.',
            "reset the whole layer: ix.reset_optimizer(opt_state, plan)",
        )
    return xp.where(reset, xp.zeros((), leaf.dtype), leaf)


def _is_of_other_sizes(array: _StateArray, shape: tuple[int, ...]) -> bool:
    """Return whether an array of the state has as many axes as this shape, and others of its sizes; one fits any."""
    sizes = np.shape(array.leaf)
    return len(sizes) == len(shape) and any(size not in (1, own) for size, own in zip(sizes, shape, strict=True))


def _starts(
    fresh: Any, forgotten: list[tuple[_StateArray, tuple[int, ...] | None]], number: int
) -> dict[tuple[str, ...], Any]:
    """Path → array of a fresh state, which has to have those that are forgotten; what it measures may come later.

    Args:
        fresh: the fresh state.
        forgotten: the arrays that are forgotten, with the shape of the parameter that each belongs to.
        number: number of arrays of the old state.

    Raises:
        PlanError: it has not, or one that fits its parameter has another shape.
    """
    starts = {array.path: array.leaf for array in _state_arrays(fresh)}
    for array, shape in forgotten:
        fits = shape is None or np.shape(array.leaf) == shape
        if array.path not in starts or (fits and np.shape(starts[array.path]) != np.shape(array.leaf)):
            raise PlanError(
                "fresh is not a state of the same optimizer and parameters.",
                f"the state has {number} arrays, fresh has {len(starts)}",
                "write fresh=optimizer.init(params) with the optimizer and the parameters that the state is for",
            )
    return starts


def _fresh_needed(opt_state: Any, outgrown: list[_StateArray], unknown: list[_StateArray]) -> str:
    is_nnx = hasattr(opt_state, "tx") and hasattr(opt_state, "wrt")
    fresh = "nnx.Optimizer(new_model, optimizer.tx, wrt=optimizer.wrt)" if is_nnx else "optimizer.init(new_params)"
    heads = {
        "what belongs to what is drawn is for parameters of other sizes.": [
            f"{'.'.join(array.path)} {np.shape(array.leaf)}" for array in outgrown
        ],
        "what belongs to what is drawn is not known to start at zero.": [".".join(array.path) for array in unknown],
    }
    head, arrays = next(each for each in heads.items() if each[1])
    return message(
        head,
        f"in the state: {listing(arrays, 4)}",
        f"write ix.reset_optimizer(opt_state, plan, fresh={fresh})",
    )


def _nothing(drawn: Mapping[tuple[str, ...], Any], arrays: list[_StateArray]) -> str:
    asked = [".".join(path) for path, reset in drawn.items() if reset is not False]
    return message(
        "no array of the optimizer's state belongs to what is drawn.",
        f"drawn: {listing(asked, 4)}",
        f"the state holds: {listing(('.'.join(array.path) for array in arrays), 4)}",
        "pass the state of this model's optimizer: optimizer.init(eqx.filter(model, eqx.is_array)), an nnx.Optimizer, "
        "a TrainState",
    )
