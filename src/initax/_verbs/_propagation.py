"""Signal propagation: statistics of the output of every weighted operation, for one draw of the weights or many."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import InitaxError, KeyTypeError, with_line
from initax._math._keys import is_typed
from initax._model._survey import Survey, Traced
from initax._planning._misuse import refuse_permuted
from initax._planning._plan import Plan
from initax._trace._jaxpr import Place
from initax._trace._replay import Player, longest_trips
from initax._trace._take_survey import Call, called, survey
from initax._trace._uses import CONTRACTIONS, Use, Uses
from initax._trace._walk import uses_of
from initax._verbs._finite import refuse_not_finite, widened
from initax._verbs._named_rules import named_plans, named_rules
from initax._verbs._signal_report import NUMBERS, Signal, SignalComparison, SignalReport

SATURATED = 3.0
"""Beyond it the slope of tanh is below 1 % and that of the sigmoid below 5 %."""


@overload
def signal_propagation(
    model: Any, inputs: Any = None, *, loss: Callable[[Any], Any] | None = None, **call: Unpack[Call]
) -> SignalReport: ...


@overload
def signal_propagation(
    model: Any, inputs: Any = None, *, rules: Any, keys: Any, loss: Any = None, **call: Unpack[Call]
) -> Any: ...


@with_line("ix.signal_propagation", "write ix.signal_propagation(model, inputs)")
def signal_propagation(
    model: Any,
    inputs: Any = None,
    *,
    forward: Callable[..., Any] | None = None,
    module: Any = None,
    loss: Callable[[Any], Any] | None = None,
    rules: Mapping[Any, Any] | None = None,
    keys: Any = None,
) -> SignalReport | SignalComparison:
    """Return statistics of the signal after each weighted operation, for any architecture.

    The forward pass is evaluated on real inputs, and the output of every contraction or convolution with a weight, with
    its bias, is measured. With rules and several keys the model is re-initialized with each, and measured all at once
    under `jax.vmap`. Several rule maps with a name each are compared: the program that measures is compiled once for
    all of them, and a `SignalComparison` holds a report for each.

    Args:
        model: an Equinox or NNX module, Linen variables, or any pytree of arrays.
        inputs: a tuple of what the model is called on, a whole batch whose first axis is the examples; one array alone
            will do. A survey knows its own.
        forward: function of the model and the inputs, e.g. `lambda model, x: jax.vmap(model)(x)`; a plain call if left
            out.
        module: where the model is variables of Flax Linen, the module they belong to.
        loss: function of what `forward` returns to a number; with it the gradient of every weight is measured too.
        rules: rules under which the model is re-initialized before it is measured; or several of them,
            `{"he": {"Linear": "he_normal"}, "lecun": {"Linear": "lecun_normal"}}`. A mapping with roles, or names of
            arrays, for keys is a scheme, so that `{"Linear": {"weight": "he_normal", "bias": "zeros"}}` is one.
        keys: a key, or an array of keys, `jax.random.split(key, 16)`, one for each re-initialization; goes with
            `rules`.

    Raises:
        InitaxError: there is no weighted operation, something is abstract, the inputs or the model hold nan or inf, or
            rules come without keys.
        RuleError: the rules are wrong, or some are rule maps with a name and others rules.
        KeyTypeError: `keys` is not a key.
        ModelError: the model can't be called, or the call fails.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> model = eqx.nn.MLP(16, 16, 64, depth=3, key=jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (32, 16))
        >>> report = ix.signal_propagation(
        ...     model, x, forward=lambda model, x: jax.vmap(model)(x),
        ...     rules={"Linear": "he_normal"}, keys=jax.random.split(jax.random.key(2), 8))
        >>> [signal.mean_square.shape for signal in report.signals]
        [(8,), (8,), (8,), (8,)]
        >>> both = ix.signal_propagation(
        ...     model, x, forward=lambda model, x: jax.vmap(model)(x), keys=jax.random.split(jax.random.key(2), 8),
        ...     rules={"he": {"Linear": "he_normal"}, "lecun": {"Linear": "lecun_normal"}})
        >>> bool(both["he"].signals[-1].median("mean_square") > both["lecun"].signals[-1].median("mean_square"))
        True

    References:
        Poole et al. 2016, arXiv 1606.05340, eq. 3 (length of the signal) and eq. 5 (correlation).
    """
    if (rules is None) != (keys is None):
        raise InitaxError(
            "signal_propagation takes rules and keys together: the rules say what is drawn, the keys how often.",
            'rules={"*": "he_normal"}, keys=jax.random.split(jax.random.key(0), 16)',
        )
    refuse_permuted("ix.signal_propagation", model=model, inputs=inputs)
    if rules is not None:
        refuse_permuted("ix.signal_propagation", rules=rules, keys=keys)
    if rules is not None and not isinstance(model, Survey):
        model, inputs, forward, module = survey(model, inputs=inputs, forward=forward, module=module), None, None, None
    surveyed, traced, values = called(model, inputs, forward, module)
    inputs = surveyed.inputs if inputs is None else inputs
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in values):
        raise InitaxError("signal_propagation measures on real inputs; some are abstract.", "pass arrays")
    uses = uses_of(traced.closed, len(traced.paths), traced.constants)
    operations = operations_of(uses)
    if not operations:
        raise InitaxError("signal_propagation finds no contraction or convolution with a weight.")
    named = None if rules is None else named_rules("signal_propagation", rules, surveyed)
    plans = {} if rules is None else named_plans("rules", surveyed, {"": rules} if named is None else named)
    drawn = _drawn(plans, keys, traced, values) if plans else {"": {}}

    def every(measure: Callable[[Sequence[Any]], Any]) -> dict[str, Any]:
        """What is measured with each key, stacked, by rule map: one program for all of them."""

        def run(fresh: Mapping[int, Any], values: Sequence[Any]) -> Any:
            return measure([fresh.get(param, value) for param, value in enumerate(values)])

        compiled = jax.jit(run if not plans else jax.vmap(run, in_axes=(0, None)))
        measured = {name: compiled(fresh, values) for name, fresh in drawn.items()}
        return measured if plans else jax.tree.map(lambda number: number[None], measured)

    trips = _trips(traced, operations, uses, every)
    examples = _examples(inputs)
    measured = every(lambda arrays: _measured(traced, operations, trips, examples, loss, arrays))
    reports = {}
    for name, numbers in measured.items():
        reports[name] = _reported(traced, operations, uses, numbers)
        if reports[name].not_finite:
            redrawn = {draw.parameter.path for draw in plans[name].draws} if plans else ()
            refuse_not_finite("signal_propagation", surveyed, inputs, redrawn)
    return reports[""] if named is None else SignalComparison(reports=reports)


def _drawn(plans: Mapping[str, Plan], keys: Any, traced: Traced, values: Sequence[Any]) -> dict[str, dict[int, Any]]:
    """Each weight that some rule map draws, with each key, stacked; by rule map.

    They are drawn here, by the programs that draw one model: those are compiled once for all keys and rule maps, and
    what measures has no draw in it.
    """
    by_key = {name: [plan.arrays(key) for key in as_keys(keys)] for name, plan in plans.items()}
    drawn = {path for models in by_key.values() for path in models[0]}
    params = [param for param, path in enumerate(traced.paths) if path in drawn]

    def stacked(models: Sequence[Mapping[str, Any]], param: int) -> jax.Array:
        return jnp.stack([arrays.get(traced.paths[param], values[param]) for arrays in models])

    return {name: {param: stacked(models, param) for param in params} for name, models in by_key.items()}


def as_keys(keys: Any) -> jax.Array:
    """Return one key or several as an array of keys.

    Raises:
        KeyTypeError: they are not JAX keys.
    """
    if not is_typed(keys):
        raise KeyTypeError(f"keys must be JAX random keys, not {keys!r}.", "jax.random.split(jax.random.key(0), 16)")
    return keys.ravel()


def _examples(inputs: Any) -> int | None:
    """The number of examples: the first axis of the first array among the inputs."""
    shapes = (leaf.shape for leaf in jax.tree.leaves(inputs) if hasattr(leaf, "shape") and leaf.shape)
    return next((int(shape[0]) for shape in shapes), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An output that is measured, and the weights that it comes from."""

    params: tuple[int, ...]
    units: tuple[int, ...]
    loops: tuple[Place, ...]
    use: Use
    stack: tuple[int, ...] | None


def operations_of(uses: Uses) -> dict[Place, Operation]:
    """Return the places at which outputs of weights are complete, bias included, in the order of the forward pass."""
    biases: defaultdict[int, list[Use]] = defaultdict(list)
    for use in uses.all:
        if use.what == "bias" and len(use.partners) == 1 and not use.stop:
            biases[use.partners[0]].append(use)
    operations: dict[Place, Operation] = {}
    for use in uses.all:
        if use.what not in CONTRACTIONS or use.is_of_a_constant or not use.place:
            continue
        complete = use
        bias = next((bias for bias in biases[use.param] if _follows(bias, use)), None)
        if bias is not None and use.place not in operations:
            biases[use.param] = [other for other in biases[use.param] if other is not bias]
            complete = bias
        place = complete.place
        params = (*operations[place].params, use.param) if place in operations else (use.param,)
        around = [place[:depth] for depth in range(1, len(place))]
        operations[place] = Operation(
            params=tuple(dict.fromkeys(params)),
            units=complete.outputs.axes,
            loops=tuple(outer for outer in around if outer in uses.loops),
            use=use,
            stack=_stack_axes(use, around, uses),
        )
    return dict(sorted(operations.items()))


def _stack_axes(use: Use, around: Sequence[Place], uses: Uses) -> tuple[int, ...] | None:
    """The stored axes that the loops around run over, outermost first; `None` where one runs over none or a part."""
    axes: list[int] = []
    for loop in around:
        factors = uses.loops.get(loop, {}).get(use.param, ())
        if not factors:
            if loop in uses.loops:
                return None  # every step uses the whole weight, and its gradient belongs to all of them
            continue
        if len(factors) > 1 or factors[0].inner > 1:
            return None
        axes.append(factors[0].axis)
    return tuple(axes) if axes == sorted(axes) else None


def _follows(bias: Use, weight: Use) -> bool:
    """Whether the bias of a weight is added to the output of this use: later in the same jaxpr, along all its units."""
    is_later = bias.place[:-1] == weight.place[:-1] and bias.place > weight.place
    return is_later and len(bias.outputs.axes) == len(weight.outputs.axes)


def _trips(
    traced: Traced, operations: Mapping[Place, Operation], uses: Uses, every: Callable[[Any], dict[str, Any]]
) -> dict[Place, int]:
    """The largest number of steps of the `while` loops around the operations, with any rules and key: they are run."""
    loops = {place[:depth] for place in operations for depth in range(1, len(place))} & uses.whiles
    if not loops:
        return {}
    trips = every(lambda arrays: longest_trips(traced.closed, list(arrays), operations, loops))
    return {loop: max(int(np.max(steps[loop])) for steps in trips.values()) for loop in loops}


def _measured(
    traced: Traced,
    operations: Mapping[Place, Operation],
    trips: Mapping[Place, int],
    examples: int | None,
    loss: Callable[[Any], Any] | None,
    values: Sequence[Any],
) -> dict[Place, Any]:
    def hook(place: Place, operands: Any, output: Any, state: dict[Any, Any]) -> tuple[Any, dict[Any, Any], Any]:
        return output, state, _statistics(output, operations[place], examples) if output.size else None

    player = Player(hook, operations, trips=trips)
    player.play(traced.closed, list(values))
    measured = player.emitted
    if loss is None:
        return measured
    number = len(traced.paths)

    def total(arrays: list[Any]) -> Any:
        leaves = jax.core.eval_jaxpr(traced.closed.jaxpr, traced.closed.consts, *arrays, *values[number:])
        return loss(jax.tree_util.tree_unflatten(traced.structure, leaves))

    try:
        gradients = jax.grad(total)(list(values[:number]))
    except ValueError as error:
        if "Reverse-mode differentiation" not in str(error):
            raise
        raise InitaxError(
            "signal_propagation: JAX can't differentiate the loss: a loop of the forward pass has no fixed number "
            "of steps.",
            "leave out loss=, or write the loop as jax.lax.scan",
        ) from error
    for place, operation in operations.items():
        if place in measured:
            measured[place] |= _gradient(gradients[operation.params[0]], operation)
    return measured


def _statistics(output: Any, operation: Operation, examples: int | None) -> dict[str, jax.Array]:
    wide = widened(output)
    size, mean = jnp.abs(wide), jnp.mean(wide)
    others = tuple(axis for axis in range(wide.ndim) if axis not in operation.units)
    return {
        "mean": jnp.real(mean),
        "std": jnp.sqrt(jnp.mean(jnp.abs(wide - mean) ** 2)),
        "mean_square": jnp.mean(size**2),
        "dead": jnp.mean((jnp.max(jnp.real(wide), axis=others) < 0).astype(jnp.float32)),
        "saturated": jnp.mean((size > SATURATED).astype(jnp.float32)),
        "correlation": _correlation(wide, others, examples),
        "ran": jnp.ones((), bool),
    }


def _correlation(output: jax.Array, others: Sequence[int], examples: int | None) -> jax.Array:
    """The mean cosine between two different examples, from the length of the sum of their directions."""
    axis = next((axis for axis in others if output.shape[axis] == examples), None)
    if axis is None or examples is None or examples < 2:
        return jnp.full((), jnp.nan)
    rows = jnp.moveaxis(output, axis, 0).reshape(examples, -1)
    length = jnp.sqrt(jnp.sum(jnp.abs(rows) ** 2, axis=1, keepdims=True))
    directions = rows / jnp.where(length > 0, length, 1)
    together = jnp.sum(jnp.abs(jnp.sum(directions, axis=0)) ** 2)
    return (together - jnp.sum((length > 0).astype(together.dtype))) / (examples * (examples - 1))


def _gradient(gradient: Any, operation: Operation) -> dict[str, jax.Array]:
    """Norm and variance of a weight's gradient, of each entry of a stack on its own; `nan` where that can't be had."""
    axes, alone = operation.stack, operation.use.view.fixed
    inner = any(factor.size != gradient.shape[factor.axis] for factor, _ in alone)
    if axes is None or inner or (axes and alone) or len(operation.params) > 1:
        return {}
    for factor, digit in sorted(alone, key=lambda entry: -entry[0].axis):
        gradient = jnp.take(gradient, digit, axis=factor.axis)
    rest = tuple(axis for axis in range(gradient.ndim) if axis not in axes)
    wide = widened(gradient)
    square = jnp.mean(jnp.abs(wide) ** 2, axis=rest)
    size = math.prod(gradient.shape[axis] for axis in rest)
    return {
        "gradient_norm": jnp.sqrt(square * size),
        "gradient_variance": square - jnp.abs(jnp.mean(wide, axis=rest)) ** 2,
    }


def _reported(
    traced: Traced, operations: Mapping[Place, Operation], uses: Uses, measured: Mapping[Place, Any]
) -> SignalReport:
    rows: list[tuple[tuple[int, ...], Signal]] = []
    seen: set[int] = set()
    without_gradient: list[str] = []
    for place, operation in operations.items():
        if place not in measured:
            continue
        numbers = {name: np.asarray(value) for name, value in measured[place].items()}
        keys, *steps = numbers["ran"].shape
        path = " + ".join(traced.paths[param] for param in operation.params)
        alone = operation.use.view.fixed
        path += f"[{', '.join(str(digit) for _, digit in alone)}]" if alone else ""
        for step in itertools.product(*map(range, steps)):
            ran = _entry(numbers["ran"], step, keys)
            if not ran.any():
                continue
            seen |= set(operation.params)
            values = {name: np.where(ran, _entry(numbers.get(name), step, keys), np.nan) for name in NUMBERS}
            label = path + (f"[{', '.join(map(str, step))}]" if step else "")
            if "gradient_norm" not in numbers:
                without_gradient.append(label)
            rows.append((tuple(_order(place, operation.loops, step)), Signal(path=label, ran=ran, **values)))
    weights = {use.param for use in uses.all if use.what in CONTRACTIONS}
    rows.sort(key=lambda row: row[0])
    return SignalReport(
        signals=tuple(signal for _, signal in rows),
        unmeasured=tuple(traced.paths[param] for param in sorted(weights - seen)),
        without_gradient=tuple(without_gradient),
    )


def _entry(values: np.ndarray | None, step: tuple[int, ...], keys: int) -> np.ndarray:
    if values is None:
        return np.full(keys, np.nan, np.float32)
    index: tuple[Any, ...] = (slice(None), *step)
    return np.asarray(values[index]) if values.ndim > 1 else values


def _order(place: Place, loops: Sequence[Place], step: Sequence[int]) -> Iterator[int]:
    """Sort steps of a loop one after the other: the step stands behind the loop's own number."""
    steps = dict(zip(loops, step, strict=False))
    for depth, number in enumerate(place, 1):
        yield number
        if place[:depth] in steps:
            yield steps[place[:depth]]
