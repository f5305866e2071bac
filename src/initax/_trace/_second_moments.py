"""Second moment of each weight's input, estimated without data: first and second moments followed along the jaxpr.

A signal is a function of a standard normal, held as its values at the nodes of a quadrature; so an activation is as
exact in ten equations as in one. The output of a weight is assumed to be normal and independent of all others. Its mean
square, the length, follows from the law of the weight where that is known. It is the length asked for where the weight
is scaled by the length of its input. Otherwise it is assumed to be one, and the assumption is noted. Two signals are
assumed to be independent, and their sum to be normal. A signal that is made of an unknown one is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from initax._math._gaussian import quadrature
from initax._trace._coverage import shares
from initax._trace._interpreter import Interpreter
from initax._trace._jaxpr import Place, evaluated, size_of
from initax._trace._loops import loop_of
from initax._trace._primitives import row_of
from initax._trace._uses import CONTRACTIONS, Uses, by_parameter

NORMAL = 0
"""Stands for the variable of a constant."""

STEADY = 0.02
"""Relative difference of the lengths that reach a weight, below which they count as equal."""
SAME_LENGTH = 1e-4
"""Relative change of a length from one step of a loop to the next, below which a loop counts as steady."""
STEPS = 64
"""Steps of a loop that are followed one by one."""
NUDGE = 1e-3
"""Relative deviation of the length of the inputs, whose growth along the forward pass is followed."""
FEW = 4
"""Steps of a loop after which lengths are compared."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A signal.

    Attributes:
        values: its values at the nodes of a normal variable.
        of: which variable it is a function of, `NORMAL` for a constant.
        assumed: the parameters of which a law was assumed for it.
        statistic: whether it is made of a sum of numbers that are never negative, as the variance in a norm is.
    """

    values: np.ndarray
    of: int
    assumed: frozenset[int] = frozenset()
    statistic: bool = False

    @property
    def mean(self) -> float:
        """Its mean."""
        return float(quadrature()[1] @ self.values.astype(float))

    @property
    def square(self) -> float:
        """The mean of its square."""
        return float(quadrature()[1] @ self.values.astype(float) ** 2)

    @property
    def slope(self) -> float:
        """How much its length deviates, relative to how much that of its variable does: 1 for a relu, 3 for its cube.

        The derivative of `log E f(sqrt(q) z)**2` by `log q` at 1, which is `E f**2 (z**2 - 1) / 2 E f**2`.
        """
        nodes, weights = quadrature()
        squares = weights * self.values.astype(float) ** 2
        return float(squares @ (nodes**2 - 1) / (2 * squares.sum())) if squares.sum() > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Weight:
    """Stands for a value that is made of weights only.

    Attributes:
        param: the parameter whose entries it holds, moved at most; `None` for any other value.
    """

    param: int | None = None


WEIGHT = Weight()
Known = Moment | Weight | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """What is known of the entries of a parameter before they are drawn.

    Attributes:
        mean: the mean of an entry.
        square: the mean of its square.
        inputs: how many entries of a weight one output sums over; `None` for biases and scales.
        length: the mean square of the outputs of a weight that is scaled by the length of its input; `None` for others.
        assumed: whether the law is not known but assumed.
        centered: whether the entries of each output have mean zero, so that the mean of the signal has no effect.
    """

    mean: float
    square: float
    inputs: float | None = None
    length: float | None = None
    assumed: bool = False
    centered: bool = False


class Lengths(Interpreter[Known]):
    """The second moments of the signals that reach the weights.

    Branches and `while` loops are not followed: which one is taken, and how often they run, is not known.

    Args:
        uses: where the weights are used.
        laws: the law of each parameter.
        tables: the parameters that are embeddings.
        nudged: the second moment that reaches each parameter, from a first pass; if given, the inputs and the outputs
            of weights deviate from their lengths by `NUDGE`, and the results show how the deviation grows.

    Attributes:
        leaning: parameter → the parameters whose laws were assumed for the signal that reaches it.
        looked: the parameters that are looked up.
        slopes: parameter → the steepest slope of the functions in front of it.
    """

    def __init__(
        self,
        uses: Uses,
        laws: Mapping[int, Law],
        tables: frozenset[int] = frozenset(),
        nudged: Mapping[int, float | None] | None = None,
    ) -> None:
        self.nudged = nudged
        self.slopes: dict[int, float] = {}
        self.laws = laws
        self.tables = tables
        self.places: dict[Place, list[int]] = {}
        self.shares: dict[Place, float] = {}
        for use in uses.all:
            if use.what in CONTRACTIONS and not use.is_of_a_constant and not (use.stop and use.stop.hides):
                self.places.setdefault(use.place, []).append(use.param)
        for uses_of_parameter in by_parameter(uses.all).values():
            share_of = shares(uses_of_parameter)
            self.shares |= {use.place: share_of[use.number] for use in uses_of_parameter}
        self.reached: dict[int, list[float | None]] = {}
        self.leaning: dict[int, frozenset[int]] = {}
        self.looked: set[int] = set()
        self.normals = 0

    def of(self, closed: Any, arrays: int, constants: int) -> dict[int, float | None]:
        """Return parameter → second moment of the signal that reaches it, `None` where that is not known."""
        operands: list[Known] = []
        for index, var in enumerate(closed.jaxpr.invars):
            if index < arrays:
                law = self.laws.get(index)
                operands.append(Weight(index) if law is None or law.inputs is not None else self.entry(index))
            elif index < arrays + constants or not jnp.issubdtype(var.aval.dtype, np.floating):
                operands.append(None)
            else:
                operands.append(self.normal(0.0, 1.0 if self.nudged is None else 1 + NUDGE))
        self.call(closed, operands, ())
        return {param: _agreed(lengths) for param, lengths in self.reached.items()}

    def entry(self, param: int) -> Moment | None:
        """Return an entry of a parameter as a signal; one of length one where the law is not known."""
        law = self.laws.get(param)
        if law is None:
            return self.normal(0.0, 1.0, frozenset({param}))
        assumed = frozenset({param} if law.assumed else ())
        variance = max(law.square - law.mean**2, 0.0)
        if variance <= 1e-12 * law.square:
            return replace(_constant(law.mean), assumed=assumed)
        return self.normal(law.mean, variance, assumed)

    def normal(self, mean: float, variance: float, assumed: frozenset[int] = frozenset()) -> Moment | None:
        """Return a normal signal that is independent of all others."""
        if not (math.isfinite(mean) and math.isfinite(variance) and variance >= 0):
            return None
        self.normals += 1
        return Moment(mean + math.sqrt(variance) * quadrature()[0], self.normals, assumed)

    def constant(self, atom: Any, number: Any) -> Known:
        """Return a literal as a constant signal; the numbers of other constants are not used."""
        return _constant(float(number)) if isinstance(atom, Literal) and np.isrealobj(number) else None

    def equation(self, eqn: Any, values: list[Known], place: Place) -> list[Known]:
        """Return what is known of the results of an equation."""
        count = len(eqn.outvars)
        if row_of(eqn).moments == "parts":
            return [values[0]] * count
        if count != 1:
            return [None] * count
        result = self._result(eqn, values, place)
        if isinstance(result, Moment):
            assumed = result.assumed.union(*(value.assumed for value in values if isinstance(value, Moment)))
            result = replace(result, assumed=assumed)
        return [result]

    def _result(self, eqn: Any, values: list[Known], place: Place) -> Known:
        """Return what is known of the only result of an equation."""
        name, row = eqn.primitive.name, row_of(eqn)
        rule = row.moments
        if rule == "contraction":
            return self._contracted(values, place)
        if rule == "function" and any(isinstance(value, Moment) and value.of != NORMAL for value in values):
            values = [self._as_signal(value) for value in values]
        signals = [value for value in values if isinstance(value, Moment)]
        weights = [value for value in values if isinstance(value, Weight)]
        if weights and self._is_look_up(name, values):
            return self._looked_up(weights[0])
        if weights and len(values) - len(signals) == 1 and (rule == "layout" or row.unchanged):
            return weights[0]
        if weights:
            return WEIGHT if not any(signal.of != NORMAL for signal in signals) and None not in values else None
        match rule:
            case "layout":
                return values[0]
            case "function":
                return None if None in values else self._entrywise(name, eqn, signals)
            case "join":
                return self._joined(eqn, signals) if len(signals) == len(values) else None
            case "sum":
                return self._summed(eqn, signals[0]) if signals and signals[0].of != NORMAL else None
            case "largest":
                return self._largest(eqn, signals[0]) if signals else None
        return None

    def _contracted(self, values: Sequence[Known], place: Place) -> Known:
        """Return the outputs of a contraction, and note what reaches its weights."""
        params = self.places.get(place)
        if not params:
            return WEIGHT if all(isinstance(value, Weight) for value in values) else None
        signal = next((value for value in values if isinstance(value, Moment)), None)
        for param in params:
            self.reached.setdefault(param, []).append(self._felt(param, signal) if signal is not None else None)
            if signal is not None:
                self.slopes[param] = max(self.slopes.get(param, 0.0), signal.slope)
            self.leaning[param] = self.leaning.get(param, frozenset()) | (signal.assumed if signal else frozenset())
        return self._weighed(params[0], signal, self.shares[place]) if len(params) == 1 else None

    def _weighed(self, param: int, signal: Moment | None, part: float) -> Moment | None:
        """Return the outputs of a weight, or of a part of it: sums of independent entries times its inputs."""
        law = self.laws.get(param)
        if law is None:
            return self.normal(0.0, part, frozenset({param}))
        if law.length is not None:
            return self.normal(0.0, law.length * part * self._deviating(param, signal))
        if signal is None or law.inputs is None:
            return None
        variance = law.square * self._felt(param, signal) - (law.mean * signal.mean) ** 2
        inputs = law.inputs * part
        return self.normal(inputs * law.mean * signal.mean, max(inputs * variance, 0.0))

    def _deviating(self, param: int, signal: Moment | None) -> float:
        """The factor by which the length of a weight's output deviates, if the weight is scaled by the first length."""
        if self.nudged is None:
            return 1.0
        length = self.nudged.get(param)
        return max(self._felt(param, signal) / length if signal is not None and length else 1.0, 1 + NUDGE)

    def _felt(self, param: int, signal: Moment) -> float:
        """The mean square of a signal, or the variance, on which alone the outputs of a centered weight depend."""
        law = self.laws.get(param)
        return signal.square - signal.mean**2 if law is not None and law.centered else signal.square

    def _is_look_up(self, name: str, values: Sequence[Known]) -> bool:
        """Return whether the data decide which entries of a parameter are taken; a slice may be the step of a loop."""
        first, *indices = values
        if not isinstance(first, Weight) or not indices or any(isinstance(index, Weight) for index in indices):
            return False
        return None in indices and (name == "gather" or (name == "dynamic_slice" and first.param in self.tables))

    def _looked_up(self, table: Weight) -> Moment | None:
        """Return rows of a table as a signal."""
        if table.param is None:
            return self.normal(0.0, 1.0)
        self.looked.add(table.param)
        return self.entry(table.param)

    def _as_signal(self, value: Known) -> Known:
        """Return an embedding that is added without a look-up, such as learned positions, as a signal."""
        return self.entry(value.param) if isinstance(value, Weight) and value.param in self.tables else value

    def _entrywise(self, name: str, eqn: Any, signals: Sequence[Moment]) -> Known:
        """Return a function of some signals, entry by entry."""
        variables = {signal.of for signal in signals} - {NORMAL}
        statistic = any(signal.statistic for signal in signals)
        if name in ("sqrt", "rsqrt") and statistic:
            # The signal it is a statistic of is divided by it, and then has length one; so it counts as a constant.
            return _evaluated(eqn, [_constant(signals[0].mean)], NORMAL)
        if len(variables) <= 1:
            result = _evaluated(eqn, signals, next(iter(variables), NORMAL))
            return result and replace(result, statistic=statistic)
        means, squares = [signal.mean for signal in signals], [signal.square for signal in signals]
        variances = [square - mean**2 for mean, square in zip(means, squares, strict=True)]
        if name in ("add", "add_any", "sub"):
            total = self.normal(means[0] + (means[1] if name != "sub" else -means[1]), sum(variances))
            return total and replace(total, statistic=statistic)
        if name == "mul":
            mean = means[0] * means[1]
            return self.normal(mean, squares[0] * squares[1] - mean**2)
        return None

    def _joined(self, eqn: Any, signals: Sequence[Moment]) -> Known:
        """Return joined signals, as entries drawn from one of them."""
        sizes = np.array([size_of(atom) for atom in eqn.invars], float)
        share = sizes / sizes.sum()
        mean = float(share @ [signal.mean for signal in signals])
        return self.normal(mean, float(share @ [signal.square for signal in signals]) - mean**2)

    def _summed(self, eqn: Any, signal: Moment) -> Known:
        """Return a sum of independent entries of a signal."""
        count = _count(eqn)
        result = self.normal(count * signal.mean, count * (signal.square - signal.mean**2))
        return result and replace(result, statistic=bool(np.all(signal.values >= 0)))

    def _largest(self, eqn: Any, signal: Moment) -> Known:
        """Return the largest of independent copies, from the distribution function of one."""
        order = np.argsort(signal.values)
        below = np.cumsum(quadrature()[1][order])
        mass = np.diff(np.concatenate([[0.0], np.clip(below / below[-1], 0, 1) ** _count(eqn)]))
        values = signal.values[order].astype(float)
        mean = float(mass @ values)
        return self.normal(mean, float(mass @ values**2) - mean**2)

    def scan(self, eqn: Any, values: list[Known], place: Place) -> list[Known]:
        """Follow the steps of a scan until the lengths of the carried values no longer change."""
        body, fixed, carry, rows = loop_of(eqn, values)
        carries, length, before = len(carry), eqn.params["length"], self.reached
        steps: list[dict[int, list[float | None]]] = []
        results: list[Known] = [*carry, *[None] * (len(eqn.outvars) - carries)]  # the results of no steps
        is_steady = False
        while len(steps) < min(length, STEPS) and not is_steady:
            self.reached = {}
            results = self.call(body, [*fixed, *carry, *rows], place)
            is_steady = all(map(_is_same, carry, results[:carries]))
            carry = results[:carries]
            steps.append(self.reached)
            if len(steps) >= FEW and self._is_torn(steps):
                break
        self.reached = before
        for param in {param for step in steps for param in step}:
            lengths = [_agreed(step.get(param, [None])) for step in steps]
            self.reached.setdefault(param, []).append(_agreed(lengths))
        constants = [value if isinstance(value, Moment) and value.of == NORMAL else None for value in carry]
        is_whole = (is_steady or len(steps) == length) and not self._is_torn(steps)
        return results if is_whole else [*constants, *[None] * (len(results) - carries)]

    def _is_torn(self, steps: Sequence[Mapping[int, list[float | None]]]) -> bool:
        """Whether steps need different scales of a weight, so that no single scale keeps the length."""
        asking = {param for step in steps for param in step if (law := self.laws.get(param)) and law.length is not None}
        return any(_agreed([_agreed(step.get(param, [None])) for step in steps]) is None for param in asking)


def _is_same(before: Known, after: Known) -> bool:
    """Return whether a step of a loop keeps the length of a signal."""
    if not (isinstance(before, Moment) and isinstance(after, Moment)):
        return before == after
    close = math.isclose(before.square, after.square, rel_tol=SAME_LENGTH)
    return close and math.isclose(before.mean, after.mean, rel_tol=SAME_LENGTH, abs_tol=SAME_LENGTH * after.square**0.5)


def _constant(number: float) -> Moment:
    return Moment(np.full(quadrature()[0].size, number), NORMAL)


def _agreed(lengths: Sequence[float | None]) -> float | None:
    """Return the length on which all uses agree."""
    known = [length for length in lengths if length is not None and math.isfinite(length) and length > 0]
    if len(known) < len(lengths) or not known or max(known) > (1 + STEADY) * min(known):
        return None
    return known[-1]


def _count(eqn: Any) -> int:
    """Return how many entries of its operand an entry of an equation's result is made of."""
    if "window_dimensions" in eqn.params:
        return math.prod(eqn.params["window_dimensions"])
    return max(size_of(eqn.invars[0]) // max(size_of(eqn.outvars[0]), 1), 1)


def _evaluated(eqn: Any, signals: Sequence[Moment], of: int) -> Moment | None:
    """Return an equation applied entry by entry to the values at the nodes of the quadrature."""
    with jax.ensure_compile_time_eval():
        operands = [
            jnp.asarray(signal.values).astype(atom.aval.dtype) for signal, atom in zip(signals, eqn.invars, strict=True)
        ]
        values = np.asarray(evaluated(eqn, operands, in_context=False)[0])
    # A constant may be nan, as in JAX's variance of no entries, which then chooses another value.
    finite = of == NORMAL or bool(np.all(np.isfinite(values)))
    if values.shape != quadrature()[0].shape or not np.isrealobj(values) or not finite:
        return None
    return Moment(values, of)
