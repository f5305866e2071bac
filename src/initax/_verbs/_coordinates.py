"""The coordinate check: whether a few steps move every output alike at every width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._adapters import survey as found_by_adapters
from initax._errors import InitaxError, ModelError, listing, shown, with_line
from initax._model._survey import Survey, Traced
from initax._trace._infer import values_of
from initax._trace._replay import Player
from initax._trace._signal_products import signal_products
from initax._trace._take_survey import called
from initax._trace._uses import Place
from initax._trace._walk import uses_of
from initax._verbs._coordinate_report import CoordinateCheck
from initax._verbs._propagation import as_keys, operations_of


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
    products: dict[str, bool] = {}
    for width in widths:
        rows, products = _at_width(make, width, as_keys(keys), step, inputs, steps, forward, module and module(width))
        if changes and list(changes) != list(rows):
            in_one = [path for path in {**changes, **rows} if (path in changes) != (path in rows)]
            raise ModelError(
                f"coordinate_check: the models of width {widths[0]} and {width} do different things.",
                f"in one alone: {listing(in_one, 4)}" if in_one else "",
                "make both by one function, of one depth",
            )
        for path, row in rows.items():
            changes.setdefault(path, []).append(row)
    arrays = {path: np.asarray(rows, float) for path, rows in changes.items()}
    return CoordinateCheck.of(widths, steps, arrays, [path for path, is_product in products.items() if is_product])


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
    inputs: Any,
    steps: int,
    forward: Callable[..., Any] | None,
    module: Any,
) -> tuple[dict[str, list[float]], dict[str, bool]]:
    """The mean change of each output, with each key; and which are products of signals."""
    changes: dict[str, list[float]] = {}
    products: dict[str, bool] = {}
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
            products, measure = _measure(traced)
        for _ in range(steps):
            state = step(state, width)
        model = _model(state)
        after = found_by_adapters(model, module=module, inputs=inputs, forward=forward)
        if set(after.places) != set(survey.places):
            raise ModelError(
                "coordinate_check: what step returns holds another model than what it was given.",
                "step(state, width) returns a state of the same form: a model, or a tuple that begins with one",
            )
        for path, change in measure(before, values_of(_moved(survey, after), inputs)).items():
            changes.setdefault(path, []).append(float(change))
    return changes, products


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


@dataclass(frozen=True, slots=True)
class _Measured:
    """An output that is measured: where, under which name, and what the forward pass multiplies it with."""

    name: str
    factor: float = 1.0
    is_product: bool = False


def _measured(traced: Traced) -> dict[Place, _Measured]:
    """What is measured: outputs of weights; of queries and keys, whose sizes mean nothing alone, their products."""
    uses = uses_of(traced.closed, len(traced.paths), traced.constants)
    products = signal_products(traced)
    measured: dict[Place, tuple[str, float, bool]] = {}
    taken: set[int] = set()
    for place, product in products.found.items():
        if all(product.sides):
            taken |= {param for side in product.sides for param in side if products.sinks.get(param) == {place}}
            name = " × ".join(traced.paths[min(side)] for side in product.sides)
            measured[place] = name, 1.0 if product.factor is None else product.factor, True
    for place, operation in operations_of(uses, None).items():
        # How many steps a `while` loop makes is not known before it runs, and what happens in it is left out.
        in_loop = any(place[: len(loop)] == loop for loop in uses.whiles)
        if not in_loop and not set(operation.params) <= taken:
            measured[place] = " + ".join(traced.paths[param] for param in operation.params), 1.0, False
    named: dict[Place, _Measured] = {}
    seen: dict[str, int] = {}
    for place, (name, factor, is_product) in sorted(measured.items()):
        seen[name] = seen.get(name, 0) + 1
        named[place] = _Measured(name if seen[name] == 1 else f"{name}#{seen[name]}", factor, is_product)
    return named


def _measure(traced: Traced) -> tuple[dict[str, bool], Callable[[list[Any], list[Any]], dict[str, Any]]]:
    """Names of what is measured, each with whether it is a product; and the function that measures the mean changes."""
    places = _measured(traced)
    if not places:
        raise InitaxError("coordinate_check finds no contraction or convolution with a weight.")

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

    def measure(before: list[Any], after: list[Any]) -> dict[str, Any]:
        changes = change(before, after)
        return {output.name: changes[place] for place, output in places.items() if place in changes}

    return {output.name: output.is_product for output in places.values()}, measure
