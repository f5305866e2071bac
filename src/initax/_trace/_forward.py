"""The forward pass of a surveyed model: its jaxpr, and the values of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import InitaxError, ModelError, listing, message
from initax._model._survey import Survey, Traced, shape_text


def trace(survey: Survey, inputs: Any, forward: Callable[..., Any] | None) -> Traced:
    """Return the forward pass of a surveyed model on inputs; nothing is computed and no array is made.

    Args:
        survey: the model.
        inputs: a tuple of what the model is called on, arrays or `jax.ShapeDtypeStruct`s; one array alone will do.
        forward: function of the model and the inputs; a plain call if left out.

    Raises:
        ModelError: the model can't be called, or the call fails.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    call = forward or _called
    if forward is None and not callable(survey.rebuild(list(survey.leaves))):
        raise ModelError(
            message(
                "inputs= is given, but the model can't be called on them: it is no function.",
                survey.hint,
                f"{'or ' if survey.hint else ''}say how: forward=lambda model, x: ...",
            )
        )
    arrays = _arguments(survey, inputs)

    def run(weights: list[Any], constants: list[Any], moving: list[Any]) -> Any:
        leaves = list(survey.leaves)
        count = len(arrays.others)
        for path, value in zip([*arrays.weights, *arrays.others], [*weights, *constants[:count]], strict=True):
            for place in survey.places[path]:
                leaves[place] = value
        values = list(arrays.given)
        for index, value in zip([*arrays.keys, *arrays.moving], [*constants[count:], *moving], strict=True):
            values[index] = value
        result = call(survey.rebuild(leaves), *jax.tree_util.tree_unflatten(arrays.structure, values))
        return jax.tree_util.tree_map(lambda leaf: leaf if isinstance(leaf, jax.Array) else None, result)

    values = arrays.values(survey)
    try:
        closed, shape = jax.make_jaxpr(run, return_shape=True)(*jax.tree_util.tree_map(_abstract, values))
    except InitaxError:
        raise
    except Exception as error:
        raise ModelError(
            message(
                ": ".join(
                    ["the forward pass fails on these inputs", type(error).__name__, *str(error).splitlines()[:1]]
                ),
                f"inputs: {listing(map(_shown_whole, arguments))}",
                _how_to_call(survey, inputs)
                if forward is None
                else "forward takes the model, then the inputs: forward=lambda model, x: ...",
            )
        ) from error
    structure = jax.tree_util.tree_structure(shape)
    return Traced(closed=closed, paths=arrays.weights, constants=len(values[1]), structure=structure)


def values_of(survey: Survey, inputs: Any) -> list[Any]:
    """Return the values of a forward pass's arguments: arrays that may be weights, then constants, then inputs."""
    return [value for values in _arguments(survey, inputs).values(survey) for value in values]


@dataclass(frozen=True, slots=True)
class _Arguments:
    """The arrays of a model and of its inputs, as arguments of a forward pass.

    Attributes:
        weights: paths of the arrays that may be weights.
        others: paths of those that can't be.
        given: the leaves of the inputs.
        structure: the structure of the inputs.
        keys: the indices of random keys among the leaves.
        moving: the indices of other arrays among the leaves.
    """

    weights: tuple[str, ...]
    others: tuple[str, ...]
    given: list[Any]
    structure: Any
    keys: tuple[int, ...]
    moving: tuple[int, ...]

    def values(self, survey: Survey) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the arrays that may be weights, the constants and the inputs."""

        def array_at(path: str) -> Any:
            return _array(survey.at(path))

        constants = [*map(array_at, self.others), *(self.given[index] for index in self.keys)]
        return [*map(array_at, self.weights)], constants, [self.given[index] for index in self.moving]


def _arguments(survey: Survey, inputs: Any) -> _Arguments:
    """Return the arguments of a forward pass."""
    given, structure = jax.tree_util.tree_flatten(inputs if isinstance(inputs, tuple) else (inputs,))
    arrays = [
        index for index, leaf in enumerate(given) if isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)
    ]
    keys = tuple(index for index in arrays if jnp.issubdtype(given[index].dtype, jax.dtypes.prng_key))
    inexact = {path: jnp.issubdtype(_array(survey.at(path)).dtype, np.inexact) for path in survey.places}
    return _Arguments(
        weights=tuple(path for path, is_inexact in inexact.items() if is_inexact),
        others=tuple(path for path, is_inexact in inexact.items() if not is_inexact),
        given=given,
        structure=structure,
        keys=keys,
        moving=tuple(index for index in arrays if index not in keys),
    )


def _called(model: Any, *inputs: Any) -> Any:
    return model(*inputs)


def _how_to_call(survey: Survey, inputs: Any) -> str:
    """Return the line that says how to call the model, after trying other calls abstractly."""
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    if isinstance(inputs, list) and _is_traced(survey, tuple(inputs), _called):
        return "a list is one argument, and several are a tuple: inputs=" + ("x" if len(inputs) == 1 else "(x, y)")
    if isinstance(inputs, tuple) and inputs and all(isinstance(size, int) for size in inputs):
        return f"a shape is written jax.ShapeDtypeStruct({inputs}, jnp.float32)"
    if _is_traced(survey, arguments, lambda model, *given: jax.vmap(model)(*given)):
        x = "x" if len(arguments) == 1 else "*x"
        return f"for a whole batch write forward=lambda model, {x}: jax.vmap(model)({x})"
    return "say how the model is called: forward=lambda model, x: ..."


def _is_traced(survey: Survey, inputs: tuple[Any, ...], forward: Callable[..., Any]) -> bool:
    """Return whether a model can be called so."""
    try:
        trace(survey, inputs, forward)
    except Exception:
        return False
    return True


def _array(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf, jnp.result_type(float)) if type(leaf) is tuple else leaf


def _abstract(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


class _Word:
    """A text whose representation is the text itself: no dataclass, whose fields Equinox would print."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _shown_whole(argument: Any) -> str:
    """Return an argument as text, with its lists and mappings."""
    shown = repr(jax.tree_util.tree_map(lambda leaf: _Word(shape_text(leaf)), argument))
    return shown if len(shown) <= 200 else f"{shown[:200]}…"
