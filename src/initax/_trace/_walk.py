"""From a forward pass to what each of its arrays is for: the walk, from its start to its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from initax._model._reason import Why
from initax._trace._contract import settle
from initax._trace._entries import Reader
from initax._trace._interpret import Walk
from initax._trace._picked import tell_members
from initax._trace._reading import Reading, read
from initax._trace._units import Following
from initax._trace._uses import Uses, Value, by_parameter
from initax._trace._views import Stop, whole


def readings(forward: Callable[..., Any], arrays: Mapping[str, Any], inputs: Sequence[Any]) -> dict[str, Reading]:
    """Return the reading of each array in a forward pass.

    Args:
        forward: function of a mapping from name to array, and of the inputs.
        arrays: name → array or `jax.ShapeDtypeStruct`.
        inputs: pytrees of arrays or `jax.ShapeDtypeStruct`s.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> found = readings(lambda p, x: jnp.tanh(p["w"] @ x) + p["b"], {"w": jnp.ones((5, 3)), "b": jnp.ones(5)},
        ...                  [jnp.ones(3)])
        >>> found["w"].pattern, found["w"].role, found["b"].role
        ('o i', 'weight', 'bias')
    """
    names = list(arrays)
    closed = jax.make_jaxpr(lambda values, args: forward(dict(zip(names, values, strict=True)), *args))(
        [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays.values()], list(inputs)
    )
    return readings_of(closed, names)


def readings_of(closed: Any, names: Sequence[str], constants: int = 0) -> dict[str, Reading]:
    """Return the readings of the first arguments of a closed jaxpr.

    Args:
        closed: the jaxpr.
        names: names of the arrays.
        constants: how many arguments behind them are constants; the rest are inputs.
    """
    uses = uses_of(closed, len(names), constants)
    forward, backward = by_parameter(uses.all), by_parameter(uses.backward)
    return {
        name: read(tuple(var.aval.shape), forward[index] or backward[index], names)
        for index, (name, var) in enumerate(zip(names, closed.jaxpr.invars, strict=False))
    }


def uses_of(closed: Any, arrays: int, constants: int = 0) -> Uses:
    """Return every use of the first arguments of a closed jaxpr.

    Args:
        closed: the jaxpr.
        arrays: how many arguments are arrays that may be weights.
        constants: how many arguments behind them are constants; the rest are inputs.
    """
    walk = Walk(Uses())
    _walked(closed, arrays, constants, walk)
    return walk.uses


def readers_of(closed: Any, arrays: int, constants: int, param: int, axes: Sequence[int]) -> list[Reader]:
    """Return the weights that take in the outputs of a weight, and which of their entries take in which.

    Args:
        closed: the jaxpr.
        arrays: how many arguments are arrays that may be weights.
        constants: how many arguments behind them are constants; the rest are inputs.
        param: the number of the weight.
        axes: its stored axes that are outputs.

    Raises:
        LostError: the outputs can't be followed everywhere.
    """
    walk = Following(param, [tuple(var.aval.shape) for var in closed.jaxpr.invars[:arrays]], axes)
    return walk.finish(_walked(closed, arrays, constants, walk))


def _walked(closed: Any, arrays: int, constants: int, walk: Walk) -> list[Value]:
    """Walk over a closed jaxpr, enter every use, and return what the results hold."""
    uses = walk.uses
    shapes: list[tuple[int, ...]] = [tuple(var.aval.shape) for var in closed.jaxpr.invars]
    operands = [
        Value(shape=shape, weights=(whole(index, shape),))
        if index < arrays
        else Value(shape=shape, data=index >= arrays + constants)
        for index, shape in enumerate(shapes)
    ]
    uses.real = frozenset(
        index for index, var in enumerate(closed.jaxpr.invars[:arrays]) if not jnp.iscomplexobj(var.aval)
    )
    results = walk.call(closed, operands, ())
    for result in results:
        if result.data or result.fed_by_constant:
            settle(result, uses, "")
    used = {use.param for use in uses.all}
    for view in (view for result in results for view in result.weights):
        if view.param not in used:
            stop = Stop("the forward pass returns it, and no signal meets it", why=Why.RETURNED)
            uses.enter(view, "other", "", {}, stop=view.stop or stop)
    tell_members(uses.all)
    uses.backward = [use for use in uses.all if use.goes_back]
    uses.all = [use for use in uses.all if not use.goes_back]
    return results
