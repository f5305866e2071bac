"""Resets of single units: incoming weights are drawn, outgoing ones become zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np

from initax._adapters import check_key
from initax._errors import ModelError, RuleError, count, did_you_mean, listing, with_line
from initax._model._parameter import WEIGHT_ROLES, Layer, Parameter
from initax._model._survey import Survey, parameters_by_path
from initax._planning._misuse import refuse_permuted
from initax._planning._plan import plan
from initax._text import path_text
from initax._trace._take_survey import Call
from initax._trace._take_survey import survey as take_survey
from initax._trace._units import LostError
from initax._trace._walk import readers_of
from initax._verbs._optimizer import forget_entries

Model = TypeVar("Model")
State = TypeVar("State")


@overload
def reset_units(
    model: Model, layer: str, mask: Any, key: Any, *, inputs: Any = None, scheme: Any = "default", **call: Unpack[Call]
) -> Model: ...


@overload
def reset_units(
    model: Model,
    layer: str,
    mask: Any,
    key: Any,
    *,
    inputs: Any = None,
    scheme: Any = "default",
    opt_state: State,
    **call: Unpack[Call],
) -> tuple[Model, State]: ...


@with_line(
    "ix.reset_units",
    'write ix.reset_units(model, "layers.0", mask, key, inputs=x), with a key: jax.random.key(0)',
)
def reset_units(
    model: Any,
    layer: str,
    mask: Any,
    key: Any,
    *,
    inputs: Any = None,
    forward: Callable[..., Any] | None = None,
    module: Any = None,
    scheme: Any = "default",
    opt_state: Any = None,
) -> Any:
    """Return the model with some units of a layer reset: incoming weights are drawn, outgoing ones become zero.

    Which weights take the units in is read off a trace of the forward pass, through activations, norms, pooling,
    reshapes, concatenations and residual branches. So the reset changes the model's output by what the old units gave
    and by nothing that is drawn; only a norm over the units still sees them.

    Args:
        model: an Equinox or NNX module, Linen variables, or any pytree of arrays.
        layer: path of the layer whose outputs are the units, `"layers.0"`.
        mask: which units, booleans of the layer's output axes: `(features,)` for a Linear, `(channels,)` for a Conv,
            `(stack, features)` for a stack of Linears. It may be traced.
        key: a JAX random key, or an `nnx.Rngs`.
        inputs: what the model is called on, a tuple of arguments or one argument, abstract or not.
        forward: function of the model and the inputs, where a plain call `model(*inputs)` is not it; for Linen, of the
            module and the inputs.
        module: where the model is variables of Flax Linen, the module they belong to.
        scheme: what draws weight and bias, anything that a rule accepts; what the framework gives if left out.
        opt_state: the optimizer's state, if its memory of what is drawn and of what is cut off is to be zero too.

    Returns:
        The model; with `opt_state` the model and the state. What is drawn are the entries that `ix.reinit` with the
        same key would draw for the whole layer; arrays without such entries are the same objects as before.

    Raises:
        RuleError: there is no such layer, or the mask is not of its units.
        ModelError: the layer has no units that can be reset alone, the trace can't tell which weights take them in,
            these take in something else with them, or the forward pass fails.
        SchemeError: the scheme is unknown or can't serve the layer.
        PlanError: nothing of the optimizer's state belongs to the layer.
        KeyTypeError: `key` is not one JAX key.

    Examples:
        >>> import equinox as eqx, jax, jax.numpy as jnp, initax as ix
        >>> model = eqx.nn.MLP(4, 2, 3, depth=1, key=jax.random.key(0))
        >>> dormant = jnp.array([True, False, False])
        >>> model = ix.reset_units(model, "layers.0", dormant, jax.random.key(1), inputs=jnp.ones(4))
        >>> (model.layers[1].weight == 0).tolist()
        [[True, False, False], [True, False, False]]

    References:
        Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning", arXiv 2302.12902, alg. 1.
    """
    refuse_permuted("ix.reset_units", model=model, layer=layer, mask=mask, key=key)
    check_key(key)
    if inputs is None and not (isinstance(model, Survey) and model.traced is not None):
        raise ModelError(
            "reset_units traces the forward pass to see which weights take the units in, and inputs= is missing.",
            "give what the model is called on: inputs=x, arrays or jax.ShapeDtypeStruct((8, 3), jnp.float32)",
        )
    survey = take_survey(model, inputs=inputs, forward=forward, module=module)
    chosen = _layer_of(survey, layer)
    weight = _weight_of(chosen)
    units = _mask_of(mask, weight, chosen)
    cut = _cut_off(survey, weight, units)
    new = plan(survey, {_only(chosen.path): scheme}).arrays(key)
    entries = {array.path: _spread(units, array) for array in chosen.parameters if array.path in new}
    arrays = {path: jnp.where(entries[path], array, survey.at(path)) for path, array in new.items()}
    for path, is_cut in cut.items():
        arrays[path] = jnp.where(is_cut, np.zeros((), survey.at(path).dtype), survey.at(path))
    new_model = survey.write(arrays)
    return new_model if opt_state is None else (new_model, forget_entries(opt_state, survey, {**entries, **cut}))


def _only(path: str) -> Callable[[Layer], bool]:
    def is_it(layer: Layer) -> bool:
        return layer.path == path

    is_it.__name__ = path_text(path)
    return is_it


def _layer_of(survey: Survey, path: Any) -> Layer:
    by_path = {layer.path: layer for layer in survey.layers}
    all_layers = f"layers: {listing(map(path_text, by_path))}"
    if not isinstance(path, str):
        held = _held_by(survey, path)
        shown = repr(path) if isinstance(path, int | float | None) else f"a {type(path).__name__}"
        hint = f'write "{held[0]}"' if len(held) == 1 else _name_one(held) if held else all_layers
        raise RuleError(f"a layer's path is a string, not {shown}.", hint)
    owner = survey.aliases.get(path, path)
    if owner in by_path:
        return by_path[owner]
    inside = [layer_path for layer_path in by_path if layer_path.startswith(f"{path}.")]
    if inside:
        raise RuleError(f'"{path}" owns no units itself.', _name_one(inside))
    for layer in survey.layers:
        if any(array.path == path for array in layer.parameters):
            raise RuleError(f'"{path}" is an array of a layer.', f'name the layer: "{layer.path}"')
    raise RuleError(f'the model has no layer "{path}".', all_layers, did_you_mean(path, by_path))


def _name_one(paths: list[str]) -> str:
    quoted = listing(f'"{path}"' for path in paths)
    return f"it holds {count(len(paths), 'layer')}; name one: {quoted}"


def _held_by(survey: Survey, value: Any) -> list[str]:
    """The layers in what was passed in place of a path: a layer's description, or a module of the model."""
    if isinstance(value, Layer):
        return [value.path]
    inside = {id(leaf) for leaf in jax.tree.leaves(value)}
    arrays = {path: id(survey.at(path)) for path in survey.places}
    return [
        layer.path for layer in survey.layers if any(arrays.get(array.path) in inside for array in layer.parameters)
    ]


def _weight_of(layer: Layer) -> Parameter:
    """The one weight whose outputs are the layer's units."""
    weights = [parameter for parameter in layer.parameters if parameter.role in WEIGHT_ROLES]
    shown = f'"{path_text(layer.path)}" ({layer.kind})'
    if len(weights) != 1 or weights[0].role != "weight" or weights[0].axes is None:
        roles = listing(f"{array.name} ({array.role or 'undeclared'})" for array in layer.parameters)
        raise ModelError(
            f"{shown} has no units that can be reset alone: one weight and its bias make units.",
            f"it has {roles or 'no arrays'}",
            f'draw the whole layer: ix.reinit(model, {{"{layer.path or "*"}": "default"}}, key)',
        )
    (weight,) = weights
    behind = f"it is stored behind {weight.constraint.name}" if weight.constraint else ""
    reason = weight.excluded or weight.reserved or behind
    others = [array.name for array in layer.parameters if array is not weight and array.role not in ("bias", "state")]
    if reason or others:
        raise ModelError(
            f"units of {shown} can't be reset alone.",
            f"{weight.path}: {reason}" if reason else f"it has more than a weight and a bias: {listing(others)}",
        )
    return weight


def _mask_of(mask: Any, weight: Parameter, layer: Layer) -> Any:
    mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
    axes = weight.axes
    units = tuple(weight.shape[axis] for axis in axes.unit_axis) if axes is not None else ()
    if mask.shape == units and mask.dtype == np.bool_:
        return mask
    hint = "true means that a unit is reset: mask = score <= 0.025"
    if mask.shape != units and axes is not None:
        hint = f'one entry for each output of {weight.path} {weight.shape}, "{axes.pattern}"'
        if len(units) == mask.ndim == 1 and np.issubdtype(mask.dtype, np.integer):
            hint = f"if these are indices, write jnp.zeros({units[0]}, bool).at[indices].set(True)"
    shown = f"{mask.dtype.name}{list(mask.shape)}"
    raise RuleError(f'the mask is {shown}, the units of "{path_text(layer.path)}" are bool{list(units)}.', hint)


def _spread(mask: Any, parameter: Parameter) -> Any:
    """The mask of the units as a mask of a parameter's entries."""
    axes = parameter.axes.unit_axis if parameter.axes is not None else ()
    if tuple(parameter.shape[axis] for axis in axes) != mask.shape:
        raise ModelError(
            f"{parameter.path} {parameter.shape} has no entry of its own for each unit.", f"units: {mask.shape}"
        )
    sizes = [size if axis in axes else 1 for axis, size in enumerate(parameter.shape)]
    return (jnp if isinstance(mask, jax.Array) else np).broadcast_to(mask.reshape(sizes), parameter.shape)


def _cut_off(survey: Survey, weight: Parameter, mask: Any) -> dict[str, Any]:
    """Path of each weight that takes units in → which of its entries take in one that is reset."""
    traced = survey.traced
    assert traced is not None
    parameters = parameters_by_path(survey)
    axes = weight.axes.unit_axis if weight.axes is not None else ()
    try:
        readers = readers_of(traced.closed, len(traced.paths), traced.constants, traced.paths.index(weight.path), axes)
    except LostError as error:
        raise ModelError(
            f"which weights take in the units of {weight.path} can't be told, "
            f"or can't be cut off from them alone: {error}.",
            "draw the layer as a whole with ix.reinit, or the units of a layer inside the branch",
        ) from None
    flat = mask.reshape(-1)
    taking_in: dict[str, Any] = {}
    for reader in readers:
        parameter = parameters[traced.paths[reader.param]]
        if parameter.excluded is not None and not parameter.excluded.is_about_axes:
            raise ModelError(
                f"{parameter.path} takes in units of {weight.path} and is never changed.", parameter.excluded.text
            )
        is_cut = (reader.units >= 0) & flat[np.maximum(reader.units, 0)]
        is_cut = (jnp if isinstance(is_cut, jax.Array) else np).broadcast_to(is_cut, parameter.shape)
        taking_in[parameter.path] = taking_in.get(parameter.path, False) | is_cut
    return taking_in
