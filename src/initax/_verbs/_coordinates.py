"""The coordinate check: whether a few steps move every output alike at every width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._adapters import survey as found_by_adapters
from initax._errors import InitaxError, ModelError, listing, shown
from initax._model._survey import Traced
from initax._trace import uses_of
from initax._trace._infer import values_of
from initax._trace._replay import Player
from initax._trace._take_survey import called
from initax._trace._uses import Place
from initax._verbs._coordinate_report import CoordinateCheck
from initax._verbs._propagation import as_keys, operations_of


def coordinate_check(
    make: Callable[[int, Any], Any],
    widths: Sequence[int],
    keys: Any,
    step: Callable[[Any, int], Any],
    *,
    inputs: Any,
    steps: int = 5,
    forward: Callable[..., Any] | None = None,
    module: Callable[[int], Any] | None = None,
) -> CoordinateCheck:
    """Return how far the output of every weighted operation moves in a few steps, at several widths.

    If standard deviations and learning rates go with the width as they should, an entry of any output moves as far at
    every width; what moves further and further blows up, what moves less and less stops learning. The outputs, bias
    included, are those of the forward pass on fixed inputs, before the first step and after the last.

    Args:
        make: function of a width and a key to a state: a model, a train state, or a tuple that begins with a model.
        widths: two widths at least.
        keys: a key, or an array of keys, one for each model of a width.
        step: function of a state and its width to the state after one step of the optimizer. It may jit itself:
            `eqx.filter_jit`, or `jax.jit(..., static_argnums=1)`.
        inputs: what the model is called on, a tuple of arguments or one argument.
        steps: how many steps.
        forward: function of the model and the inputs, where a plain call is not it.
        module: for variables of Flax Linen, a function of a width to the module.

    Returns:
        The check: `print` it, `plot()` it, `assert_flat()` in a test.

    Raises:
        InitaxError: there are fewer than two widths, no steps, or no weighted operation.
        ModelError: a model can't be called, or models of different widths do different things.
        KeyTypeError: `keys` is no key.

    Examples:
        >>> import equinox as eqx, jax, jax.numpy as jnp, initax as ix
        >>> x = jax.random.normal(jax.random.key(0), (16, 4))
        >>> def make(width, key):
        ...     return eqx.nn.MLP(4, 1, width, depth=1, use_bias=False, use_final_bias=False, key=key)
        >>> def step(model, width):
        ...     grads = jax.grad(lambda model: jnp.mean((jax.vmap(model)(x) - 1) ** 2))(model)
        ...     return jax.tree.map(lambda leaf, grad: leaf - 0.1 * jnp.sign(grad), model, grads)
        >>> check = ix.coordinate_check(
        ...     lambda width, key: eqx.filter(make(width, key), eqx.is_array), [16, 64], jax.random.key(1), step,
        ...     inputs=x, steps=1, forward=lambda model, x: jax.vmap(model)(x))  # doctest: +SKIP

    References:
        Yang et al. 2022, arXiv 2203.03466, appendix D.1.
    """
    every = _widths(widths)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InitaxError(f"coordinate_check: steps is a number of steps, not {shown(steps)}.", "steps=5")
    changes: dict[str, list[list[float]]] = {}
    for width in every:
        rows = _at_width(make, width, as_keys(keys), step, inputs, steps, forward, module and module(width))
        if changes and list(changes) != list(rows):
            other = [path for path in {**changes, **rows} if (path in changes) != (path in rows)]
            raise ModelError(
                f"coordinate_check: the models of width {every[0]} and {width} do different things.",
                f"in one alone: {listing(other, 4)}" if other else "",
                "make both by one function, of one depth",
            )
        for path, row in rows.items():
            changes.setdefault(path, []).append(row)
    return CoordinateCheck.of(every, steps, {path: np.asarray(rows, float) for path, rows in changes.items()})


def _widths(widths: Any) -> tuple[int, ...]:
    every = tuple(widths) if isinstance(widths, Sequence) and not isinstance(widths, str) else ()
    numbers = all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in every)
    if len(set(every)) < 2 or not numbers:
        raise InitaxError(
            f"coordinate_check compares two widths at least, not {shown(widths)}.", "widths=[64, 128, 256]"
        )
    return every


def _at_width(
    make: Callable[[int, Any], Any],
    width: int,
    keys: jax.Array,
    step: Callable[[Any, int], Any],
    inputs: Any,
    steps: int,
    forward: Callable[..., Any] | None,
    module: Any,
) -> dict[str, list[float]]:
    """The mean change of each output, with each key."""
    found: dict[str, list[float]] = {}
    measure: Callable[[list[Any], list[Any]], dict[str, Any]] | None = None
    for key in keys:
        state = make(width, key)
        survey, traced, before = called(_model(state), inputs, forward, module)
        if any(isinstance(value, jax.ShapeDtypeStruct) for value in before):
            raise InitaxError(
                f"coordinate_check trains models; what make({width}, key) returns is abstract.",
                "draw it: ix.reinit(model, rules, key)",
            )
        if measure is None:
            measure = _measure(traced)
        for _ in range(steps):
            state = step(state, width)
        model = _model(state)
        after = found_by_adapters(model, module=module, inputs=inputs, forward=forward)
        if set(after.places) != set(survey.places):
            raise ModelError(
                "coordinate_check: what step returns holds another model than what it was given.",
                "step(state, width) returns a state of the same form: a model, or a tuple that begins with one",
            )
        for path, change in measure(before, values_of(after, inputs)).items():
            found.setdefault(path, []).append(float(change))
    return found


def _model(state: Any) -> Any:
    """The model in a state: its first entry, if it is a plain tuple."""
    return state[0] if type(state) is tuple and state else state


def _measure(traced: Traced) -> Callable[[list[Any], list[Any]], dict[str, Any]]:
    """A function from the arguments of a forward pass, before and after, to the mean change of each output."""
    uses = uses_of(traced.closed, len(traced.paths), traced.constants)
    inside = {place[:depth] for place in uses.whiles for depth in (len(place),)}
    operations = {
        place: operation
        for place, operation in operations_of(uses, None).items()
        if not any(place[: len(loop)] == loop for loop in inside)
    }
    if not operations:
        raise InitaxError("coordinate_check finds no contraction or convolution with a weight.")
    names: dict[Place, str] = {}
    for place, operation in operations.items():
        path, again = " + ".join(traced.paths[each] for each in operation.params), 2
        name = path
        while name in names.values():
            name, again = f"{path}#{again}", again + 1
        names[place] = name

    def outputs(values: list[Any]) -> dict[Place, Any]:
        player = Player(lambda place, operands, output, state: (output, state, output), operations)
        player.play(traced.closed, values)
        return player.emitted

    def change(before: list[Any], after: list[Any]) -> dict[str, Any]:
        old, new = outputs(before), outputs(after)
        wide = jnp.promote_types(jnp.float32, jnp.bfloat16)
        return {
            names[place]: jnp.mean(jnp.abs(new[place] - old[place]).astype(wide))
            for place in operations
            if place in new
        }

    return jax.jit(change)
