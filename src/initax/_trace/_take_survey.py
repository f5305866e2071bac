"""Taking a survey: what an adapter finds in a model, completed by its forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from initax._adapters import survey as found_by_adapters
from initax._errors import ModelError, listing, message, with_line
from initax._model._parameter import WEIGHT_ROLES
from initax._model._survey import Survey, Traced


class Call(TypedDict, total=False):
    """How a model is called, in signatures that are there for type checkers."""

    forward: Callable[..., Any] | None
    module: Any


@with_line("ix.survey", "write ix.survey(model), or ix.survey(model, inputs=x)")
def survey(model: Any, *, inputs: Any = None, forward: Callable[..., Any] | None = None, module: Any = None) -> Survey:
    """Return what initax sees of a model: its layers, how each array is known, what is tied, how the model is called.

    A survey goes wherever a model goes: `ix.plan(survey, rules)`, `ix.reinit`, `ix.layers`, `ix.lsuv`,
    `ix.signal_propagation`, `ix.reset_units`, `ix.ablate`. The model is then read, and its forward pass traced, once.

    Args:
        model: an Equinox or NNX module, Linen variables, or any pytree of arrays, `jax.ShapeDtypeStruct`s or
            shape tuples; or a survey, which comes back as it is.
        inputs: what the model is called on, a tuple of arguments or one argument, abstract or not. Axes that are not
            declared are then read off a trace of the call, in which nothing is computed.
        forward: function of the model and the inputs, where a plain call `model(*inputs)` is not it; for Linen, of the
            module and the inputs.
        module: where the model is variables of Flax Linen, the module they belong to.

    Returns:
        The survey; `print` it for a table.

    Raises:
        ModelError: two arrays have the same path, the module does not go with the model and the inputs, the forward
            pass fails, or a survey is given together with what it already knows.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> found = ix.survey(eqx.nn.MLP(4, 2, 8, depth=1, key=jax.random.key(0)))
        >>> [(each.path, str(each.evidence), each.fan_in) for layer in found.layers for each in layer.parameters][:2]
        [('layers.0.weight', 'declared', 4), ('layers.0.bias', 'declared', 4)]
    """
    if isinstance(model, Survey):
        if inputs is not None or forward is not None or module is not None:
            raise ModelError(
                message(
                    "a survey knows how its model is called; inputs=, forward= and module= are given to ix.survey.",
                    "ix.plan(ix.survey(model, inputs=x), rules)",
                )
            )
        return model
    read = found_by_adapters(model, module=module, inputs=inputs, forward=forward)
    read.model = type(model)
    call = read.call or forward
    if inputs is not None:
        from initax._trace._infer import completed  # what follows a forward pass is a third of what there is to load

        read = completed(read, inputs, call)
    elif call is not None:
        raise ModelError(
            message(
                "forward= says how the model is called, but not on what.",
                "give inputs=, arrays or jax.ShapeDtypeStruct((8, 3), jnp.float32); () where it takes none",
            )
        )
    read.notes = (*read.notes, *_unplaced(read))
    return read


def _unplaced(read: Survey) -> tuple[str, ...]:
    """Return a note on stacks whose sizes do not show which axis is the stack."""
    open_paths = [
        f"{parameter.path} {parameter.shape}"
        for layer in read.layers
        for parameter in layer.parameters
        if parameter.role in WEIGHT_ROLES and any(axes != parameter.axes for _, axes in parameter.placements)
    ]
    if not open_paths:
        return ()
    return (
        message(
            f"sizes do not tell which axis is the stack of {listing(open_paths, 3)}; the first is taken for it.",
            "say what the model is called on, inputs=...; or restate the axes",
        ),
    )


def called(
    model: Any, inputs: Any, forward: Callable[..., Any] | None, module: Any
) -> tuple[Survey, Traced, list[Any]]:
    """Return a survey of a model, its forward pass, and the values of that pass's arguments.

    Args:
        model: the model, or a survey of it.
        inputs: what it is called on; a survey's own inputs if left out.
        forward: how it is called; as a survey says if left out.
        module: the module of Linen variables.

    Raises:
        ModelError: the model can't be called, or it is not known on what.
    """
    from initax._trace._forward import trace, values_of

    if not isinstance(model, Survey):
        model = found_by_adapters(model, module=module, inputs=inputs, forward=forward)
        forward = model.forward = model.call or forward
    elif inputs is None and forward is None and model.traced is not None:
        return model, model.traced, values_of(model, model.inputs)
    inputs = model.inputs if inputs is None else inputs
    if inputs is None:
        raise ModelError(
            message("nobody says what the model is called on.", "give inputs=x, here or to ix.survey(model, inputs=x)")
        )
    return model, trace(model, inputs, forward or model.forward), values_of(model, inputs)
