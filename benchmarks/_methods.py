"""The ways to re-initialize: He's variance with the right fan_in, zero biases. One way = one row of `METHODS`."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks._layers import Shape, biases_of, layers_of, shapes_of, weights_of

Call = Callable[[Any, Any], Any]
"""A model and a key → what was drawn: a new model, or the new arrays alone, the weights in the model's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to re-initialize a model.

    Attributes:
        text: what it is, in a few words.
        prepare: from a model to the call; draws and compiles nothing.
        weights: from what a call returns to the weights in it.
        needs: the package it needs beyond JAX and Equinox.
        has_gain: whether the weights have He's variance; a tool may know better.
        serves: whether it can treat a model of these layers.
    """

    text: str
    prepare: Callable[[Any], Call]
    weights: Callable[[Any], list[Any]] = weights_of
    needs: str | None = None
    has_gain: bool = True
    serves: Callable[[list[Shape]], bool] = lambda shapes: True

    @property
    def is_there(self) -> bool:
        """Whether what it needs is installed."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


def initax(_: Any) -> Call:
    """Return the line this library is for."""
    import initax as ix

    return lambda model, key: ix.reinit(model, {"*": "he_normal"}, key)


def donating(_: Any) -> Call:
    """Return the same where each old array goes as soon as its successor is there."""
    import initax as ix

    latest: list[Any] = []

    def call(model: Any, key: Any) -> Any:
        latest[:] = [ix.reinit(latest.pop() if latest else model, {"*": "he_normal"}, key, donate=True)]
        return latest[0]

    return call


@functools.cache
def _he(rank: int, stacked: bool) -> Any:
    """JAX's initializer with the axes of a stored weight of that rank."""
    import jax

    first = int(stacked)
    return jax.nn.initializers.he_normal(in_axis=first + 1, out_axis=first, batch_axis=(0,) if stacked else ())


def _initializers(model: Any) -> list[Any]:
    return [_he(layer.weight.ndim, shape.stack is not None) for layer, shape in zip(
        layers_of(model), shapes_of(model), strict=True)]  # fmt: skip


def recipe(_: Any) -> Call:
    """Return the recipe of Equinox's documentation ("Tricks": custom parameter initialization), for biases too."""
    import equinox as eqx
    import jax.numpy as jnp

    drawn = by_hand(None)

    def call(model: Any, key: Any) -> Any:
        weights, _ = drawn(model, key)
        model = eqx.tree_at(weights_of, model, weights)
        biases = biases_of(model)
        return eqx.tree_at(biases_of, model, [jnp.zeros_like(bias) for bias in biases]) if biases else model

    return call


def jitted_recipe(_: Any) -> Call:
    """Return the same recipe as one compiled program."""
    import equinox as eqx

    call: Call = eqx.filter_jit(recipe(None))
    return call


def by_hand(_: Any) -> Call:
    """Return JAX's initializers, called for each array; no model comes out."""
    import jax
    import jax.numpy as jnp

    def call(model: Any, key: Any) -> Any:
        weights, initializers = weights_of(model), _initializers(model)
        keys = jax.random.split(key, len(weights))
        drawn = [
            draw(each, weight.shape, weight.dtype)
            for draw, weight, each in zip(initializers, weights, keys, strict=True)
        ]
        return drawn, [jnp.zeros_like(bias) for bias in biases_of(model)]

    return call


def bare_draws(_: Any) -> Call:
    """Return the draws alone, compiled once per distinct shape; no model comes out."""
    import jax
    import jax.numpy as jnp

    jitted = functools.cache(lambda draw: jax.jit(draw, static_argnums=(1, 2)))
    zeros = jax.jit(jnp.zeros, static_argnums=(0, 1))

    def call(model: Any, key: Any) -> Any:
        weights, initializers = weights_of(model), _initializers(model)
        keys = jax.random.split(key, len(weights))
        drawn = [
            jitted(draw)(each, weight.shape, weight.dtype)
            for draw, weight, each in zip(initializers, weights, keys, strict=True)
        ]
        return drawn, [zeros(bias.shape, bias.dtype) for bias in biases_of(model)]

    return call


def flax_modules(model: Any) -> Call:
    """Return the construction of NNX modules of the same shapes, drawn by Flax with He's initializer."""
    from flax import nnx

    he, shapes = nnx.initializers.he_normal(), shapes_of(model)

    def layer(shape: Shape, rngs: Any) -> Any:
        told = {"kernel_init": he, "use_bias": shape.biased, "rngs": rngs}
        if shape.kernel:
            return nnx.Conv(shape.inputs, shape.outputs, shape.kernel, **told)
        return nnx.Linear(shape.inputs, shape.outputs, **told)

    def made(shape: Shape, rngs: Any) -> Any:
        if shape.stack is None:
            return layer(shape, rngs)
        return nnx.vmap(lambda rngs: layer(shape, rngs))(rngs.fork(split=shape.stack))

    def call(model: Any, key: Any) -> Any:
        rngs = nnx.Rngs(key)
        return [made(shape, rngs) for shape in shapes]

    return call


def jitted_flax_modules(model: Any) -> Call:
    """Return the same under one `nnx.jit`."""
    from flax import nnx

    made = flax_modules(model)
    jitted = nnx.jit(lambda key: made(None, key))
    return lambda model, key: jitted(key)


def torch_in_place(model: Any) -> Call:
    """Return PyTorch's initializer, which overwrites what tensors of the same shapes hold."""
    import torch

    shapes = shapes_of(model)
    weights = [
        torch.full((shape.stack or 1, shape.outputs, shape.inputs, *shape.kernel), 0.5, requires_grad=False)
        for shape in shapes
    ]
    biases = [torch.full((shape.stack or 1, shape.outputs), 0.5) for shape in shapes if shape.biased]

    def call(model: Any, key: Any) -> Any:
        for weight in weights:
            for one in weight:
                torch.nn.init.kaiming_normal_(one)
        for bias in biases:
            torch.nn.init.zeros_(bias)
        return weights, biases

    return call


def anyinit_chain(model: Any) -> Call:
    """Return anyinit on a Flax chain of the same Linears, with the axes it finds by itself."""
    import anyinit
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    shapes = shapes_of(model)
    chain = nn.Sequential([nn.Dense(shape.outputs) for shape in shapes])
    abstract = jax.eval_shape(chain.init, jax.random.key(0), jax.ShapeDtypeStruct((1, shapes[0].inputs), jnp.float32))
    params = jax.tree.map(lambda leaf: jnp.asarray(np.full(leaf.shape, 0.5, leaf.dtype)), abstract)

    def call(model: Any, key: Any) -> Any:
        return anyinit.initialize_params(chain, params, (1, shapes[0].inputs))[0]

    return call


def _is_chain(shapes: list[Shape]) -> bool:
    plain = all(shape.stack is None and not shape.kernel for shape in shapes)
    return plain and all(one.outputs == other.inputs for one, other in itertools.pairwise(shapes))


def _first(drawn: Any) -> list[Any]:
    weights: list[Any] = drawn[0]
    return weights


def _kernels(modules: Any) -> list[Any]:
    return [module.kernel.get_value() for module in modules]


def _leaves(params: Any) -> list[Any]:
    import jax

    return [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]


METHODS = {
    "ix": Method(text="`ix.reinit`", prepare=initax, needs="initax"),
    "ixd": Method(text="`ix.reinit(..., donate=True)`", prepare=donating, needs="initax"),
    "a": Method(text="`tree_at` recipe", prepare=recipe),
    "b": Method(text="the recipe under `filter_jit`", prepare=jitted_recipe),
    "c": Method(text="compiled draws, no surgery", prepare=bare_draws, weights=_first),
    "e": Method(text="`jax.nn.initializers` by hand, no surgery", prepare=by_hand, weights=_first),
    "f": Method(text="Flax NNX modules", prepare=flax_modules, weights=_kernels, needs="flax"),
    "g": Method(text="Flax NNX modules under `nnx.jit`", prepare=jitted_flax_modules, weights=_kernels, needs="flax"),
    "t": Method(text="`torch.nn.init`, in place", prepare=torch_in_place, weights=_first, needs="torch"),
    "n": Method(
        text="`anyinit`", prepare=anyinit_chain, weights=_leaves, needs="anyinit", has_gain=False, serves=_is_chain
    ),
}
"""In the order in which they take turns."""
