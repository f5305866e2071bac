"""Transformations of optax: Muon, applied to every matrix alone, and updates times a number for each array."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers as MuonDimensionNumbers  # noqa: PLC0414  taken from here

Trees = Callable[[Any], Any]
"""Function from parameters to a tree of their structure, with one thing for each array."""

ARGUMENTS = tuple(inspect.signature(optax.contrib.muon).parameters)
"""The arguments of optax's Muon."""


def muon(learning_rate: Any, dimensions: Trees, splits: Trees, options: dict[str, Any]) -> Any:
    """Return `optax.contrib.muon` of arrays whose merged axes are split for the step and merged again after it.

    The state is that of optax, in the shapes in which the parameters are stored: it can be sharded, stored and reset
    like them. Muon's own start, zeros, is the same in any shape.

    Args:
        learning_rate: the learning rate, or a schedule.
        dimensions: axes of each array, split, that optax is told.
        splits: the shape of each array with merged axes apart; `None` where there are none.
        options: further arguments of `optax.contrib.muon`.
    """
    inner = optax.with_extra_args_support(
        optax.contrib.muon(learning_rate, muon_weight_dimension_numbers=dimensions, **options)
    )

    def split(tree: Any, shapes: Any) -> Any:
        return jax.tree.map(lambda leaf, shape: leaf if shape is None else leaf.reshape(shape), tree, shapes)

    def merge(tree: Any, like: Any) -> Any:
        return jax.tree.map(lambda leaf, old: leaf.reshape(old.shape), tree, like)

    def in_momentum(state: Any, change: Callable[[Any], Any]) -> Any:
        def changed(node: Any) -> Any:
            return node._replace(mu=change(node.mu)) if is_momentum(node) else node

        return jax.tree.map(changed, state, is_leaf=is_momentum)

    def is_momentum(node: Any) -> bool:
        return isinstance(node, optax.contrib.MuonState)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        shapes = splits(updates)
        apart = None if params is None else split(params, shapes)
        opened = in_momentum(state, lambda momentum: split(momentum, splits(momentum)))
        new, state_after = inner.update(split(updates, shapes), opened, apart, **extra)
        moments = iter(jax.tree.leaves(state, is_leaf=is_momentum))
        stored = iter([node.mu for node in moments if is_momentum(node)])
        closed = in_momentum(state_after, lambda momentum: merge(momentum, next(stored)))
        return merge(new, updates), closed

    return optax.GradientTransformationExtraArgs(inner.init, update)


def scale_by(multipliers: Trees) -> Any:
    """Return an `optax.GradientTransformation` without a state that multiplies updates.

    Args:
        multipliers: function from a tree of updates to a tree of numbers of its structure.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree.map(lambda update, factor: update * factor, updates, multipliers(updates)), state

    return optax.GradientTransformation(optax.init_empty_state, update)
