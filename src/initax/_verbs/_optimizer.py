"""What an optimizer remembers of parameters that were drawn anew.

An optimizer's state holds trees of the parameters' own structure, somewhere inside: moments, traces, accumulated
gradients. So an array of the state belongs to the parameter whose path its own path ends with, the longest if several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, tree_flatten_with_path

from initax._adapters._nodes import entry_name
from initax._errors import PlanError, listing, message
from initax._math._sharding import placement
from initax._model._survey import Survey
from initax._planning._plan import Plan

State = TypeVar("State")
Counts = Literal["keep", "reset"]

STARTS_ELSEWHERE = frozenset(
    {"LookaheadState", "ScaleByLBFGSState", "ScaleByRssState", "ScheduleFreeState", "SnapshotState"}
)
"""States whose arrays do not start at zero: sums that start above it, and copies of the parameters."""


def reset_optimizer(opt_state: State, plan: Plan, *, fresh: Any = None, counts: Counts = "keep") -> State:
    """Return an optimizer's state that remembers nothing of the parameters a plan draws.

    Reset a layer and keep its moments, and the first updates push the new weights where the old ones were going.

    Args:
        opt_state: any optax state, an `nnx.Optimizer`, or a `TrainState`; chains, masks, labels and injected
            hyperparameters included. It is not mutated.
        plan: the plan of what is drawn anew, made with `ix.plan` on the model or its parameters.
        fresh: what `optimizer.init` gives for the new parameters, from which the arrays are taken; needed where they do
            not start at zero.
        counts: `"keep"` leaves counts and schedules where they are. Adam's bias correction then no longer helps the
            new moments, and its first updates are up to three times the learning rate. `"reset"` starts them all over,
            for every parameter.

    Returns:
        The state. Arrays of parameters that the plan does not draw are the same objects as before.

    Raises:
        PlanError: `plan` is none, nothing in the state belongs to what it draws, or what starts elsewhere needs
            `fresh`.

    Examples:
        >>> import equinox as eqx, initax as ix, jax, optax
        >>> model = eqx.nn.MLP(2, 1, 4, depth=1, key=jax.random.key(0))
        >>> state = optax.adam(1e-3).init(eqx.filter(model, eqx.is_array))
        >>> state = jax.tree.map(lambda each: each + 1, state)
        >>> state = reset_optimizer(state, ix.plan(model, {"layers.1": "zeros"}))
        >>> float(state[0].mu.layers[0].bias.sum()), float(state[0].mu.layers[1].bias.sum()), int(state[0].count)
        (4.0, 0.0, 1)

    References:
        Nikishin et al. 2022, "The primacy bias in deep reinforcement learning", arXiv 2205.07802, resets both.
    """
    if counts not in ("keep", "reset"):
        raise PlanError(message(f'counts must be "keep" or "reset", not {counts!r}.'))
    if not isinstance(plan, Plan):
        raise PlanError(_no_plan(opt_state, plan))
    return _forgetful(opt_state, _drawn(plan), fresh, counts)


def forget_entries(opt_state: State, survey: Survey, entries: Mapping[str, Any]) -> State:
    """Return an optimizer's state that remembers nothing of some entries of some parameters.

    Args:
        opt_state: any optax state, an `nnx.Optimizer`, or a `TrainState`.
        survey: the model.
        entries: path of a parameter → which of its entries, of its shape, true or false.

    Raises:
        PlanError: nothing in the state belongs to these parameters, or what does starts elsewhere than at zero, or is
            no array of their shape.
    """
    owned = {path: entries.get(path, False) for path in survey.places}
    owned |= {path: owned[owner] for path, owner in survey.aliases.items() if owner in owned}
    return _forgetful(opt_state, {tuple(path.split(".")): which for path, which in owned.items()}, None, "keep")


def _forgetful(opt_state: State, drawn: Mapping[tuple[str, ...], Any], fresh: Any, counts: Counts) -> State:
    """The state with what belongs to some parameters, or to some entries of them, as it was at the start.

    Args:
        opt_state: the state.
        drawn: the parts of every parameter's path → whether it is forgotten; or which of its entries are.
        fresh: a state to take the start from.
        counts: what becomes of counts.
    """
    inner = getattr(opt_state, "opt_state", None)
    if inner is not None and hasattr(opt_state, "replace") and hasattr(opt_state, "apply_fn"):
        started = getattr(fresh, "opt_state", fresh)
        made: State = opt_state.replace(opt_state=_forgetful(inner, drawn, started, counts))
        return made
    found, structure = tree_flatten_with_path(opt_state)
    started_leaves = _leaves_of(fresh, structure) if fresh is not None else [None] * len(found)
    belongs = [_owner(tuple(path), leaf, drawn) for path, leaf in found]
    resets = [False if owner is None else drawn[owner] for owner in belongs]
    if all(reset is False for reset in resets):
        raise PlanError(_nothing(drawn, [".".join(map(entry_name, path)) for path, _ in found]))
    if fresh is None:
        _refuse_elsewhere(opt_state)
    leaves = []
    for (path, leaf), started, owner, reset in zip(found, started_leaves, belongs, resets, strict=True):
        starts_over = counts == "reset" and owner is None and _is_count(leaf)
        if reset is False and not starts_over:
            leaves.append(leaf)
        elif reset is True or starts_over:
            leaves.append(_restarted(leaf, started))
        else:
            leaves.append(_restarted_in_part(leaf, reset, path))
    result: State = jax.tree_util.tree_unflatten(structure, leaves)
    return result


def _no_plan(opt_state: Any, plan: Any) -> str:
    shown = repr(plan) if isinstance(plan, str) else f"a {type(plan).__name__}"
    head = f"plan must be what ix.plan returns, not {shown}."
    if isinstance(opt_state, Plan):
        return message(head, "the state comes first: ix.reset_optimizer(opt_state, plan)")
    rules = f'{{"{plan}": "default"}}' if isinstance(plan, str) else "rules"
    return message(head, f"write ix.reset_optimizer(opt_state, ix.plan(model, {rules}))")


def _drawn(plan: Plan) -> dict[tuple[str, ...], bool]:
    """The parts of every parameter's path → whether the plan draws it; a tied one goes with its owner."""
    drawn = dict.fromkeys(each.parameter.path for each in plan.draws)
    every = [*drawn, *(kept.parameter.path for kept in plan.kept)]
    aliases: Mapping[str, str] = plan.aliases
    return {tuple(path.split(".")): aliases.get(path, path) in drawn for path in (*every, *aliases)}


def _owner(path: tuple[Any, ...], leaf: Any, drawn: Mapping[tuple[str, ...], Any]) -> tuple[str, ...] | None:
    """The parameter whose path this path ends with; where the model is a single array, it owns all that has axes."""
    for entries in _spellings(path):
        names = tuple(part for entry in entries for part in entry_name(entry).split("."))
        for first in range(len(names)):
            if names[first:] in drawn:
                return names[first:]
    return ("",) if ("",) in drawn and getattr(leaf, "ndim", 0) > 0 else None


def _spellings(path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The path, and the path of the box that the array is the value of."""
    yield path
    if path and isinstance(path[-1], GetAttrKey) and path[-1].name in ("value", "raw_value"):
        yield path[:-1]


def _is_count(leaf: Any) -> bool:
    return getattr(leaf, "ndim", None) == 0 and jnp.issubdtype(leaf.dtype, np.integer)


def _restarted(leaf: Any, started: Any) -> Any:
    if started is not None:
        return started
    if isinstance(leaf, np.ndarray):
        return np.zeros_like(leaf)
    if not isinstance(leaf, jax.Array):
        return leaf
    return jnp.zeros(leaf.shape, leaf.dtype, device=placement(leaf))


def _restarted_in_part(leaf: Any, entries: Any, path: Any) -> Any:
    """An array of the state with zeros at these entries; a placeholder for one stays."""
    if not hasattr(leaf, "shape") or leaf.size <= 1 < np.size(entries):
        return leaf
    if leaf.shape != np.shape(entries):
        raise PlanError(
            message(
                f'"{".".join(map(entry_name, path))}" {leaf.shape} does not remember each entry of its parameter '
                f"{np.shape(entries)} alone.",
                "reset the whole layer: ix.reset_optimizer(opt_state, plan)",
            )
        )
    return (
        np.where(entries, np.zeros((), leaf.dtype), leaf)
        if isinstance(leaf, np.ndarray)
        else jnp.where(entries, jnp.zeros((), leaf.dtype), leaf)
    )


def _leaves_of(fresh: Any, structure: Any) -> list[Any]:
    leaves, found = jax.tree_util.tree_flatten(fresh)
    other: Any = found
    if other != structure:
        raise PlanError(
            message(
                "fresh is no state of the same optimizer and parameters.",
                f"the state has {structure.num_leaves} arrays, fresh has {other.num_leaves}",
                "write fresh=optimizer.init(params) with the optimizer and the parameters that the state is for",
            )
        )
    return leaves


def _refuse_elsewhere(opt_state: Any) -> None:
    """Raise where an array that is reset would not start at zero.

    Raises:
        PlanError: there is such a state.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=_starts_elsewhere)
    for node in filter(_starts_elsewhere, nodes):
        raise PlanError(
            message(
                f"{type(node).__name__} holds arrays that do not start at zero.",
                "write reset_optimizer(..., fresh=optimizer.init(new_params))",
            )
        )


def _starts_elsewhere(node: Any) -> bool:
    return type(node).__name__ in STARTS_ELSEWHERE


def _nothing(drawn: Mapping[tuple[str, ...], Any], paths: list[str]) -> str:
    asked = [".".join(path) for path, reset in drawn.items() if reset is not False]
    return message(
        "no array of the optimizer's state belongs to what is drawn.",
        f"drawn: {listing(asked, 4)}",
        f"the state holds: {listing(paths, 4)}",
        "pass the state of this model's optimizer: optimizer.init(eqx.filter(model, eqx.is_array)), an nnx.Optimizer, "
        "a TrainState",
    )
