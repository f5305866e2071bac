"""The ways to re-initialize: `he_normal` weights with the right axes, zero biases. One way = one row of `METHODS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Call = Callable[[Any, Any], Any]
"""A model and a key → what was drawn: a new model, or the new arrays alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to re-initialize a model.

    Attributes:
        text: what it is, in a few words.
        prepare: imports what the method needs and returns the call; draws and compiles nothing.
    """

    text: str
    prepare: Callable[[], Call]


def initax() -> Call:
    """Return the line this library is for."""
    import initax as ix

    return lambda model, key: ix.reinit(model, {"Linear": "he_normal"}, key)


def recipe() -> Call:
    """Return the recipe of Equinox's documentation ("Tricks": custom parameter initialization), for biases too."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    draw = jax.nn.initializers.he_normal(in_axis=1, out_axis=0)

    def call(model: Any, key: Any) -> Any:
        weights = _weights(model)
        keys = jax.random.split(key, len(weights))
        drawn = [draw(each, weight.shape, weight.dtype) for weight, each in zip(weights, keys, strict=True)]
        model = eqx.tree_at(_weights, model, drawn)
        return eqx.tree_at(_biases, model, [jnp.zeros_like(bias) for bias in _biases(model)])

    return call


def jitted_recipe() -> Call:
    """Return the same recipe as one compiled program."""
    import equinox as eqx

    call: Call = eqx.filter_jit(recipe())
    return call


def bare_draws() -> Call:
    """Return the draws alone, compiled once per distinct shape; no model comes out."""
    import jax
    import jax.numpy as jnp

    draw = jax.jit(jax.nn.initializers.he_normal(in_axis=1, out_axis=0), static_argnums=(1, 2))
    zeros = jax.jit(jnp.zeros, static_argnums=(0, 1))

    def call(model: Any, key: Any) -> Any:
        weights, biases = _weights(model), _biases(model)
        keys = jax.random.split(key, len(weights))
        drawn = [draw(each, weight.shape, weight.dtype) for weight, each in zip(weights, keys, strict=True)]
        return drawn, [zeros(bias.shape, bias.dtype) for bias in biases]

    return call


def _weights(model: Any) -> list[Any]:
    return [linear.weight for linear in _linears(model)]


def _biases(model: Any) -> list[Any]:
    return [linear.bias for linear in _linears(model)]


def _linears(model: Any) -> list[Any]:
    import equinox as eqx
    import jax

    def is_linear(node: Any) -> bool:
        return isinstance(node, eqx.nn.Linear)

    return [node for node in jax.tree.leaves(model, is_leaf=is_linear) if is_linear(node)]


METHODS = {
    "ix": Method(text="`ix.reinit`", prepare=initax),
    "a": Method(text="`tree_at` recipe", prepare=recipe),
    "b": Method(text="the recipe under `filter_jit`", prepare=jitted_recipe),
    "c": Method(text="bare draws, no surgery", prepare=bare_draws),
}
"""In the order in which they take turns."""
