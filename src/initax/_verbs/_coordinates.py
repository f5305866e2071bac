"""The coordinate check: whether a few steps move every output alike at every width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initax._adapters import survey as found_by_adapters
from initax._errors import InitaxError, ModelError, listing, shown, with_line
from initax._model._survey import Survey, Traced
from initax._trace._forward import values_of
from initax._trace._jaxpr import Place
from initax._trace._replay import Player
from initax._trace._signal_products import signal_products
from initax._trace._take_survey import called
from initax._trace._walk import uses_of
from initax._verbs._coordinate_report import CoordinateCheck
from initax._verbs._propagation import as_keys, operations_of
from initax._verbs._signal_report import numbered


@with_line(
    "ix.coordinate_check",
    "write ix.coordinate_check(make, [64, 128], keys, step, inputs=x), with make(width, key) and step(model, width)",
)
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
    included, are those of the forward pass on fixed inputs, before the first step and after the last. Of queries and
    keys the products are measured, attention's logits as the forward pass scales them.

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
        KeyTypeError: `keys` is not a JAX key, or several.

    Examples:
        >>> import equinox as eqx, jax, jax.numpy as jnp, initax as ix
        >>> x = jax.random.normal(jax.random.key(0), (16, 4))
        >>> def net(width):
        ...     return eqx.nn.MLP(4, 1, width, depth=2, key=jax.random.key(0))
        >>> def make(width, key):
        ...     return ix.reinit(net(width), ix.mup(net(16), net(width)).rules({"*": "lecun_normal"}), key)
        >>> def step(model, width):
        ...     grads = eqx.filter_grad(lambda model: jnp.mean((jax.vmap(model)(x) - 1) ** 2))(model)
        ...     rates = ix.mup(net(16), net(width)).multipliers(grads)
        ...     return eqx.apply_updates(model, jax.tree.map(lambda g, rate: -0.01 * rate * jnp.sign(g), grads, rates))
        >>> check = ix.coordinate_check(
        ...     make, [16, 64], jax.random.split(jax.random.key(1), 4), step, inputs=x, steps=2,
        ...     forward=lambda model, x: jax.vmap(model)(x))
        >>> check.assert_flat(tolerance=0.3)

    References:
        Yang et al. 2022, arXiv 2203.03466, appendix D.1.
    """
    widths = _widths(widths)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InitaxError(f"coordinate_check: steps is a number of steps, not {shown(steps)}.", "steps=5")
    changes: dict[str, list[list[float]]] = {}
    products: set[str] = set()
    for width in widths:
        call = {"inputs": inputs, "forward": forward, "module": module and module(width)}
        rows, products = _at_width(make, width, as_keys(keys), step, steps, call)
        if changes and list(changes) != list(rows):
            in_one = [name for name in {**changes, **rows} if (name in changes) != (name in rows)]
            raise ModelError(
                f"coordinate_check: the models of width {widths[0]} and {width} do different things.",
                f"in one alone: {listing(in_one, 4)}" if in_one else "",
                "make both by one function, of one depth",
            )
        for name, row in rows.items():
            changes.setdefault(name, []).append(row)
    arrays = {name: np.asarray(rows, float) for name, rows in changes.items()}
    return CoordinateCheck.of(widths, steps, arrays, products)


def _widths(widths: Any) -> tuple[int, ...]:
    several = tuple(widths) if isinstance(widths, Sequence) and not isinstance(widths, str) else ()
    are_sizes = all(isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in several)
    if len(set(several)) < 2 or not are_sizes:
        raise InitaxError(
            f"coordinate_check compares two widths at least, not {shown(widths)}.", "widths=[64, 128, 256]"
        )
    return several


def _at_width(
    make: Callable[[int, Any], Any],
    width: int,
    keys: jax.Array,
    step: Callable[[Any, int], Any],
    steps: int,
    call: Mapping[str, Any],
) -> tuple[dict[str, list[float]], set[str]]:
    """The mean change of each output by its name, with each key, and which of them are products of two signals."""
    changes: dict[str, list[float]] = {}
    places: Mapping[Place, _Measured] = {}
    for key in keys:
        state = make(width, key)
        survey, traced, before = called(_model(state), **call)
        if any(isinstance(value, jax.ShapeDtypeStruct) for value in before):
            raise InitaxError(
                f"coordinate_check trains models; what make({width}, key) returns is abstract.",
                "draw it: ix.reinit(model, rules, key)",
            )
        if not changes:
            places = _measured(traced)
            change = _change(traced, places)
        for _ in range(steps):
            state = step(state, width)
        after = found_by_adapters(_model(state), **call)
        if set(after.places) != set(survey.places):
            raise ModelError(
                "coordinate_check: what step returns holds another model than what it was given.",
                "step(state, width) returns a state of the same form: a model, or a tuple that begins with one",
            )
        moved = change(before, values_of(_moved(survey, after), call["inputs"]))
        for place, output in places.items():
            if place in moved:
                changes.setdefault(output.name, []).append(float(moved[place]))
    return changes, {output.name for output in places.values() if output.is_product}


def _moved(before: Survey, after: Survey) -> Survey:
    """A model with the arrays of another one, in its own order; a module that is changed may change its order."""
    leaves = list(before.leaves)
    for path, indices in before.places.items():
        for index in indices:
            leaves[index] = after.at(path)
    return replace(before, leaves=leaves)


def _model(state: Any) -> Any:
    """The model in a state: its first entry, if it is a plain tuple."""
    return state[0] if type(state) is tuple and state else state


class _Measured(NamedTuple):
    """An output that is measured: its name, what the forward pass multiplies it with, whether it is a product."""

    name: str
    factor: float
    is_product: bool


def _measured(traced: Traced) -> dict[Place, _Measured]:
    """What is measured: outputs of weights; of queries and keys, whose sizes mean nothing alone, their products.

    Raises:
        InitaxError: there is nothing.
    """
    uses = uses_of(traced.closed, len(traced.paths), traced.constants)
    products = signal_products(traced)
    measured: dict[Place, _Measured] = {}
    taken: set[int] = set()
    for place, product in products.by_place.items():
        if all(product.sides):
            taken |= {param for side in product.sides for param in side if products.sinks.get(param) == {place}}
            name = " × ".join(traced.paths[min(side)] for side in product.sides)
            measured[place] = _Measured(name, 1.0 if product.factor is None else product.factor, is_product=True)
    for place, operation in operations_of(uses).items():
        # How many steps a `while` loop makes is not known before it runs, and what happens in it is left out.
        in_loop = any(place[: len(loop)] == loop for loop in uses.whiles)
        if not in_loop and not set(operation.params) <= taken:
            name = " + ".join(traced.paths[param] for param in operation.params)
            measured[place] = _Measured(name, 1.0, is_product=False)
    if not measured:
        raise InitaxError("coordinate_check finds no contraction or convolution with a weight.")
    places = sorted(measured)
    names = numbered(measured[place].name for place in places)
    return {place: measured[place]._replace(name=name) for place, name in zip(places, names, strict=True)}


def _change(traced: Traced, places: Mapping[Place, _Measured]) -> Callable[[list[Any], list[Any]], dict[Place, Any]]:
    """The function from the arrays before and after some steps to the mean change of each output."""

    def outputs(values: list[Any]) -> dict[Place, Any]:
        player = Player(lambda place, operands, output, state: (output, state, output), places)
        player.play(traced.closed, values)
        return player.emitted

    @jax.jit
    def change(before: list[Any], after: list[Any]) -> dict[Place, Any]:
        old, new = outputs(before), outputs(after)
        return {
            place: jnp.mean(jnp.abs(new[place] - old[place]).astype(jnp.float32)) * places[place].factor
            for place in new
        }

    return change
