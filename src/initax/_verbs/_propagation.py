"""Signal propagation: what comes out of every weighted operation of a model, for one draw of its weights or many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import InitaxError, KeyTypeError, count, message, shown
from initax._math._keys import is_typed
from initax._model._survey import Survey, Traced
from initax._planning._misuse import refuse_permuted
from initax._planning._plan import plan
from initax._text import table
from initax._trace import uses_of
from initax._trace._replay import Player, longest_trips
from initax._trace._take_survey import called, survey
from initax._trace._uses import CONTRACTIONS, Place, Use, Uses

SATURATED = 3.0
"""Beyond it the slope of tanh is below 1 % and that of the sigmoid below 5 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """The output of one weighted operation, bias included; each number is an array with one entry per key.

    Attributes:
        path: the path of the weight; the step of a loop stands behind, `layers.w[2]`.
        mean: mean over examples, units and positions.
        std: standard deviation over the same.
        mean_square: mean of the square: the length of the signal.
        dead: fraction of units that are negative for every example, which a relu would never let through.
        saturated: fraction of entries beyond 3 in size.
        correlation: mean over pairs of examples of the cosine between their outputs; `nan` for one example, or where
            the examples can't be told from other axes.
        gradient_norm: norm of the loss's gradient for the weight; `nan` without a loss, and for a weight that several
            steps of a loop share.
        gradient_variance: variance of the entries of that gradient.
        ran: for each key, whether the operation ran: a branch may not be taken, and a `while` loop end before. Where it
            did not, the other numbers are `nan`.
    """

    path: str
    mean: np.ndarray
    std: np.ndarray
    mean_square: np.ndarray
    dead: np.ndarray
    saturated: np.ndarray
    correlation: np.ndarray
    gradient_norm: np.ndarray
    gradient_variance: np.ndarray
    ran: np.ndarray

    def median(self, number: str) -> float:
        """Return the median of a number over the keys with which the operation ran."""
        return float(np.median(getattr(self, number)[self.ran]))


NUMBERS = tuple(each.name for each in fields(Signal) if each.name not in ("path", "ran"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalReport:
    """What `ix.signal_propagation` measured: print it for a table of medians over keys.

    Attributes:
        signals: one per weighted operation, in the order of the forward pass, steps of a loop one by one.
        unmeasured: paths of weights none of whose operations was seen: they did not run, or are written out.
    """

    signals: tuple[Signal, ...]
    unmeasured: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, dict[str, list[float]]]:
        """Return path → number → values, one per key; a weight used again has `#2` behind its path."""
        found: dict[str, dict[str, list[float]]] = {}
        for signal in self.signals:
            path, again = signal.path, 2
            while path in found:
                path, again = f"{signal.path}#{again}", again + 1
            found[path] = {name: np.asarray(getattr(signal, name), float).tolist() for name in NUMBERS}
        return found

    def __str__(self) -> str:
        """Return the medians as a table; columns that hold nothing are left out."""
        shown = [name for name in NUMBERS if any(np.isfinite(getattr(signal, name)).any() for signal in self.signals)]
        rows = [(signal.path, *(f"{signal.median(name):.4g}" for name in shown)) for signal in self.signals]
        heads = [name.replace("_", " ") for name in shown]
        keys = self.signals[0].mean.size if self.signals else 0
        title = count(len(self.signals), "operation") + (f", medians over {keys} keys" if keys > 1 else "")
        below = f"\n\nnot measured: {', '.join(self.unmeasured)}" if self.unmeasured else ""
        if not rows:
            return title + below
        return table(title, ("weight", *heads), rows) + below

    def assert_healthy(
        self,
        *,
        mean_square: tuple[float, float] = (0.1, 10.0),
        dead: float = 0.5,
        saturated: float = 0.5,
        correlation: float = 1.0,
        gradient_ratio: float = math.inf,
    ) -> None:
        """Raise unless every signal stays within bounds, in the median over keys. For use in tests.

        Args:
            mean_square: the least and the largest mean square.
            dead: the largest fraction of dead units.
            saturated: the largest fraction of saturated entries.
            correlation: the largest mean correlation between examples.
            gradient_ratio: the largest ratio between two gradient norms; needs a loss.

        Raises:
            AssertionError: a number is out of bounds, or not finite; the message lists each.
            InitaxError: a bound is none, or `gradient_ratio` is given and no gradient was measured.

        Examples:
            >>> import equinox as eqx, jax, initax as ix
            >>> model = eqx.nn.MLP(16, 16, 64, depth=3, key=jax.random.key(0))
            >>> x = jax.random.normal(jax.random.key(1), (32, 16))
            >>> report = ix.signal_propagation(model, x, forward=lambda model, x: jax.vmap(model)(x))
            >>> report.assert_healthy(mean_square=(0.001, 10))
        """
        bounds = {
            "mean_square": _interval("mean_square", mean_square),
            "dead": (0.0, _largest("dead", dead)),
            "saturated": (0.0, _largest("saturated", saturated)),
            "correlation": (-math.inf, _largest("correlation", correlation)),
        }
        _largest("gradient_ratio", gradient_ratio)
        wrong = []
        for signal in self.signals:
            for name, (low, high) in bounds.items():
                value = signal.median(name)
                if name == "correlation" and math.isnan(value):
                    continue
                if not low <= value <= high:
                    wrong.append(f"{signal.path}: {name} {value:.4g}, not in [{low:g}, {high:g}]")
        norms = [signal.median("gradient_norm") for signal in self.signals]
        if math.isfinite(gradient_ratio):
            if np.all(np.isnan([each for signal in self.signals for each in np.ravel(signal.gradient_norm)])):
                raise InitaxError(
                    message(
                        "assert_healthy: gradient_ratio compares gradients, and none was measured.",
                        "ix.signal_propagation(model, inputs, loss=lambda output: (output**2).mean())",
                    )
                )
            ratio = max(norms) / min(norms) if min(norms) > 0 else math.inf
            if not ratio <= gradient_ratio:
                wrong.append(f"gradient norms: largest over smallest {ratio:.4g}, not at most {gradient_ratio:g}")
        if wrong:
            more = f"… {len(wrong) - 8} more" if len(wrong) > 8 else ""
            raise AssertionError(message("the signal does not stay within bounds.", *wrong[:8], more))

    def plot(self) -> Any:
        """Return a matplotlib figure: mean square, correlation and gradient norm by depth, as bands over the keys.

        Raises:
            InitaxError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise InitaxError(
                message("plot() draws with matplotlib, which is missing.", "pip install initax[plot]")
            ) from (error)
        shown = [
            name
            for name in ("mean_square", "correlation", "gradient_norm")
            if any(np.isfinite(getattr(signal, name)).any() for signal in self.signals)
        ]
        figure = Figure(figsize=(4.5 * len(shown), 3.2), layout="constrained")
        depth = np.arange(1, len(self.signals) + 1)
        for panel, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            values = [np.asarray(getattr(signal, name), float)[signal.ran] for signal in self.signals]
            low, middle, high = np.array([np.quantile(each, (0.1, 0.5, 0.9)) for each in values]).T
            panel.fill_between(depth, low, high, alpha=0.25, linewidth=0)
            panel.plot(depth, middle)
            panel.set_xlabel("weighted operation")
            panel.set_title(name.replace("_", " "))
            if name != "correlation" and np.nanmin(np.concatenate(values)) > 0:
                panel.set_yscale("log")
        return figure


def _largest(name: str, value: Any) -> float:
    """A bound as a number.

    Raises:
        InitaxError: it is none.
    """
    if _is_number(value):
        return float(value)
    line = f"assert_healthy({name}=0.6)"
    if isinstance(value, tuple | list) and len(value) == 2 and _is_number(value[1]):
        line = f"assert_healthy({name}={value[1]})"
    raise InitaxError(message(f"assert_healthy: {name} is one number, the largest, not {shown(value)}.", line))


def _interval(name: str, value: Any) -> tuple[float, float]:
    """Two bounds as numbers.

    Raises:
        InitaxError: they are none.
    """
    if isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value)):
        return float(value[0]), float(value[1])
    line = f"assert_healthy({name}=(0.1, {value if _is_number(value) else 10.0}))"
    head = f"assert_healthy: {name} is two numbers, the least and the largest, not {shown(value)}."
    raise InitaxError(message(head, line))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def signal_propagation(
    model: Any,
    inputs: Any = None,
    *,
    forward: Callable[..., Any] | None = None,
    module: Any = None,
    loss: Callable[[Any], Any] | None = None,
    rules: Mapping[Any, Any] | None = None,
    keys: Any = None,
) -> SignalReport:
    """Return how the signal fares from one weighted operation to the next, for any architecture.

    The forward pass is played on real inputs, and the output of every contraction or convolution with a weight, with
    its bias, is measured. With rules and several keys the model is re-initialized with each, all at once under
    `jax.vmap`.

    Args:
        model: an Equinox or NNX module, Linen variables, or any pytree of arrays.
        inputs: a tuple of what the model is called on, a whole batch whose first axis is the examples; one array alone
            will do. A survey knows its own.
        forward: function of the model and the inputs, `lambda model, x: jax.vmap(model)(x)` say; a plain call if left
            out.
        module: where the model is variables of Flax Linen, the module they belong to.
        loss: function of what `forward` returns to a number; with it the gradient of every weight is measured too.
        rules: rules under which the model is re-initialized before it is measured.
        keys: a key, or an array of keys, `jax.random.split(key, 16)`, one for each re-initialization; goes with
            `rules`.

    Raises:
        InitaxError: there is no weighted operation, something is abstract, or rules come without keys.
        KeyTypeError: `keys` is no key.
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

    References:
        Poole et al. 2016, arXiv 1606.05340, eq. 3 (length of the signal) and eq. 5 (correlation).
    """
    if (rules is None) != (keys is None):
        raise InitaxError(
            message(
                "signal_propagation takes rules and keys together: the rules say what is drawn, the keys how often.",
                'rules={"*": "he_normal"}, keys=jax.random.split(jax.random.key(0), 16)',
            )
        )
    refuse_permuted("ix.signal_propagation", model=model, inputs=inputs)
    if rules is not None:
        refuse_permuted("ix.signal_propagation", rules=rules, keys=keys)
    if rules is not None and not isinstance(model, Survey):
        model, inputs, forward, module = survey(model, inputs=inputs, forward=forward, module=module), None, None, None
    found, traced, values = called(model, inputs, forward, module)
    inputs = found.inputs if inputs is None else inputs
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in values):
        raise InitaxError(message("signal_propagation measures on real inputs; some are abstract.", "pass arrays"))
    uses = uses_of(traced.closed, len(traced.paths), traced.constants)
    examples = _examples(inputs)
    operations = _operations(uses, examples)
    if not operations:
        raise InitaxError(message("signal_propagation finds no contraction or convolution with a weight."))
    weights = values[: len(traced.paths)]
    drawn = None if rules is None else plan(found, rules)

    def every(measure: Callable[[Sequence[Any]], Any]) -> Any:
        """What is measured with each key, stacked."""
        if drawn is None:
            return jax.tree_util.tree_map(lambda each: each[None], jax.jit(measure)(values))

        def redrawn(key: Any) -> Any:
            fresh = drawn.arrays(key)
            own = [fresh.get(path, old) for path, old in zip(traced.paths, weights, strict=True)]
            return measure([*own, *values[len(own) :]])

        return jax.jit(jax.vmap(redrawn))(_as_keys(keys))

    trips = _trips(traced, operations, uses, every)
    measured = every(lambda arrays: _measured(traced, operations, trips, loss, arrays))
    return _reported(traced, operations, uses, measured)


def _as_keys(keys: Any) -> jax.Array:
    if not is_typed(keys):
        raise KeyTypeError(
            message(f"keys must be JAX random keys, not {keys!r}.", "jax.random.split(jax.random.key(0), 16)")
        )
    typed: jax.Array = keys[None] if keys.ndim == 0 else keys.ravel()
    return typed


def _examples(inputs: Any) -> int | None:
    """The number of examples: the first axis of the first array among the inputs."""
    shapes = [each.shape for each in jax.tree_util.tree_leaves(inputs) if hasattr(each, "shape") and each.shape]
    return int(shapes[0][0]) if shapes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    """Where an output is measured, and what it is the output of."""

    place: Place
    params: tuple[int, ...]
    units: tuple[int, ...]
    examples: int | None
    loops: tuple[Place, ...]
    use: Use
    stack: tuple[int, ...] | None


def _operations(uses: Uses, examples: int | None) -> dict[Place, _Operation]:
    biases = [use for use in uses.found if use.what == "bias" and len(use.partners) == 1 and not use.stop and use.view]
    taken: set[int] = set()
    found: dict[Place, _Operation] = {}
    for use in uses.found:
        if use.what not in CONTRACTIONS or use.view is None or not use.at:
            continue
        place, units = use.at, use.units
        own = (at for at, bias in enumerate(biases) if _follows(bias, use) and at not in taken)
        bias = next(own, None)
        if bias is not None and use.at not in found:
            taken.add(bias)
            place, units = biases[bias].at, biases[bias].units
        before = next((each for each in found.values() if each.place == place), None)
        params = (*before.params, use.param) if before else (use.param,)
        around = [place[:depth] for depth in range(1, len(place))]
        found[place] = _Operation(
            place=place,
            params=tuple(dict.fromkeys(params)),
            units=units,
            examples=examples,
            loops=tuple(each for each in around if each in uses.loops),
            use=use,
            stack=_stack_axes(use, around, uses),
        )
    return dict(sorted(found.items()))


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
    """Whether a bias is added to the output of this use of a weight: later in the same jaxpr, along all its units."""
    same = bias.at[:-1] == weight.at[:-1] and bias.at > weight.at
    return same and bias.partners == (weight.param,) and len(bias.units) == len(weight.units)


def _trips(
    traced: Traced, operations: Mapping[Place, _Operation], uses: Uses, every: Callable[[Any], Any]
) -> dict[Place, int]:
    """How many steps the `while` loops around the operations make at most, with any key: they are played to see."""
    loops = {place[:depth] for place in operations for depth in range(1, len(place))} & uses.whiles
    if not loops:
        return {}
    closed = traced.closed
    found = every(lambda arrays: longest_trips(closed, list(arrays), operations, loops))
    return {loop: int(np.max(steps)) for loop, steps in found.items()}


def _measured(
    traced: Traced,
    operations: Mapping[Place, _Operation],
    trips: Mapping[Place, int],
    loss: Callable[[Any], Any] | None,
    values: Sequence[Any],
) -> dict[Place, Any]:
    def hook(place: Place, operands: Any, output: Any, state: dict[Any, Any]) -> tuple[Any, dict[Any, Any], Any]:
        return output, state, _statistics(output, operations[place])

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
            message(
                "signal_propagation: JAX can't differentiate the loss: a loop of the forward pass has no fixed number "
                "of steps.",
                "leave out loss=, or write the loop as jax.lax.scan",
            )
        ) from error
    for place, operation in operations.items():
        if place in measured:
            measured[place] |= _gradient(gradients[operation.params[0]], operation)
    return measured


def _statistics(output: Any, operation: _Operation) -> dict[str, jax.Array]:
    wide = output.astype(jnp.complex64 if jnp.iscomplexobj(output) else jnp.float32)
    size, mean = jnp.abs(wide), jnp.mean(wide)
    others = tuple(axis for axis in range(wide.ndim) if axis not in operation.units)
    return {
        "mean": jnp.real(mean),
        "std": jnp.sqrt(jnp.mean(jnp.abs(wide - mean) ** 2)),
        "mean_square": jnp.mean(size**2),
        "dead": jnp.mean((jnp.max(jnp.real(wide), axis=others) < 0).astype(jnp.float32)),
        "saturated": jnp.mean((size > SATURATED).astype(jnp.float32)),
        "correlation": _correlation(wide, others, operation.examples),
        "ran": jnp.ones((), bool),
    }


def _correlation(output: jax.Array, others: Sequence[int], examples: int | None) -> jax.Array:
    """The mean cosine between two different examples, from the length of the sum of their directions."""
    axis = next((each for each in others if output.shape[each] == examples), None)
    if axis is None or examples is None or examples < 2:
        return jnp.full((), jnp.nan)
    rows = jnp.moveaxis(output, axis, 0).reshape(examples, -1)
    length = jnp.sqrt(jnp.sum(jnp.abs(rows) ** 2, axis=1, keepdims=True))
    directions = rows / jnp.where(length > 0, length, 1)
    together = jnp.sum(jnp.abs(jnp.sum(directions, axis=0)) ** 2)
    return (together - jnp.sum((length > 0).astype(together.dtype))) / (examples * (examples - 1))


def _gradient(gradient: Any, operation: _Operation) -> dict[str, jax.Array]:
    """Norm and variance of a weight's gradient, of each entry of a stack on its own; `nan` where that can't be had."""
    axes, view = operation.stack, operation.use.view
    alone = view.fixed if view is not None else ()
    inner = any(factor.size != gradient.shape[factor.axis] for factor, _ in alone)
    if axes is None or inner or (axes and alone) or len(operation.params) > 1:
        return {}
    for factor, digit in sorted(alone, key=lambda each: -each[0].axis):
        gradient = jnp.take(gradient, digit, axis=factor.axis)
    rest = tuple(axis for axis in range(gradient.ndim) if axis not in axes)
    wide = gradient.astype(jnp.complex64 if jnp.iscomplexobj(gradient) else jnp.float32)
    square = jnp.mean(jnp.abs(wide) ** 2, axis=rest)
    size = math.prod(gradient.shape[axis] for axis in rest)
    return {
        "gradient_norm": jnp.sqrt(square * size),
        "gradient_variance": square - jnp.abs(jnp.mean(wide, axis=rest)) ** 2,
    }


def _reported(
    traced: Traced, operations: Mapping[Place, _Operation], uses: Uses, measured: Mapping[Place, Any]
) -> SignalReport:
    rows: list[tuple[tuple[int, ...], Signal]] = []
    seen: set[int] = set()
    for place, operation in operations.items():
        if place not in measured:
            continue
        numbers = {name: np.asarray(value) for name, value in measured[place].items()}
        keys, *steps = numbers["ran"].shape
        path = " + ".join(traced.paths[each] for each in operation.params)
        alone = operation.use.view.fixed if operation.use.view else ()
        path += f"[{', '.join(str(digit) for _, digit in alone)}]" if alone else ""
        for step in itertools.product(*map(range, steps)):
            ran = _entry(numbers["ran"], step, keys)
            if not ran.any():
                continue
            seen |= set(operation.params)
            here = {name: np.where(ran, _entry(numbers.get(name), step, keys), np.nan) for name in NUMBERS}
            label = path + (f"[{', '.join(map(str, step))}]" if step else "")
            rows.append((tuple(_order(place, operation.loops, step)), Signal(path=label, ran=ran, **here)))
    weights = {use.param for use in uses.found if use.what in CONTRACTIONS}
    rows.sort(key=lambda row: row[0])
    return SignalReport(
        signals=tuple(signal for _, signal in rows),
        unmeasured=tuple(traced.paths[each] for each in sorted(weights - seen)),
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
