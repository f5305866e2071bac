"""Standardization on data, layer by layer: for input-convex networks without passthrough, up to ten layers."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from initax._adapters import survey
from initax._errors import ModelError, with_line
from initax._math._positivity import positivity
from initax.convex._network import warn_if_too_deep

Model = TypeVar("Model")


@with_line("ix.convex.standardize", "write ix.convex.standardize(model, inputs)")
def standardize(model: Model, inputs: Any) -> Model:
    """Return a convex network whose every layer has pre-activations of mean zero and unit variance on data.

    Layer by layer, from the first: the weights are divided by the root of the variance over the data, averaged over
    the units, and the bias takes off the mean over data and units. A positive factor keeps positive weights positive.
    Without passthrough the data's share of the variance shrinks from layer to layer whatever the draw, and this puts it
    back; at ten layers that is enough to train, at twenty nothing is.

    Args:
        model: an `ix.convex.FICNN`, of Equinox or NNX.
        inputs: data, of shape (samples, in_size); a batch of some hundred does.

    Returns:
        A new network.

    Raises:
        ModelError: the model is not such a network, the inputs are not a batch for it, or a layer is constant on them.

    Examples:
        >>> import initax as ix, jax
        >>> x = jax.random.normal(jax.random.key(0), (256, 4))
        >>> model = ix.convex.FICNN(4, 1, [32, 32], use_passthrough=False, key=jax.random.key(1))
        >>> last = jax.vmap(ix.convex.standardize(model, x).pre_activations)(x)[-1]
        >>> round(abs(float(last.mean())), 3), round(float(last.var()), 3)
        (0.0, 1.0)

    References:
        Hoedt & Klambauer 2023, arXiv 2312.12474, for the empirical initializer this follows.
    """
    network: Any = model
    if not hasattr(network, "pre_activations"):
        raise ModelError(
            f"standardize takes an ix.convex.FICNN, not {type(model).__name__}.",
            "for another network write its layers as one: ix.convex.FICNN(in_size, out_size, width_sizes, key=key)",
        )
    data = jnp.asarray(inputs)
    if data.ndim < 1 or data.shape[0] < 2:
        raise ModelError(f"standardize needs a batch of inputs, not an array of shape {data.shape}.")
    warn_if_too_deep(len(network.layers), use_passthrough=network.use_passthrough)
    for index in range(len(network.layers)):
        network = _with_layer(network, index, data)
    return network


def _with_layer(network: Any, index: int, data: jax.Array) -> Any:
    """The network with one layer standardized, those before it being so already."""
    seen = jax.vmap(network.pre_activations)(data)[index]
    scale = jnp.sqrt(jnp.mean(jnp.var(seen, axis=0)))
    if not isinstance(scale, jax.core.Tracer) and not float(scale) > 0:
        raise ModelError(
            f"layer {index} gives the same output for every input, so that there is nothing to standardize.",
            "draw the network anew, ix.convex.FICNN(...), or pass more inputs",
        )
    layer = network.layers[index]
    mapping = positivity(layer.positivity)
    arrays = {f"layers.{index}.bias": (_value(layer.bias) - jnp.mean(seen)) / scale}
    for name in ("weight", "passthrough"):
        stored = _value(getattr(layer, name))
        if stored is None:
            continue
        is_positive = name == "weight" or layer.non_decreasing
        changed = mapping.inverse(mapping.forward(stored) / scale) if is_positive else stored / scale
        arrays[f"layers.{index}.{name}"] = changed.astype(stored.dtype)
    return survey(network).write(arrays)


def _value(array: Any) -> Any:
    """An array, or what a framework's variable holds."""
    return array if array is None or isinstance(array, jax.Array) else array[...]
