"""Second moment of each weight's input, estimated without data: first and second moments followed along the jaxpr.

A signal is a function of a standard normal, held as its values at the nodes of a quadrature; so an activation is as
exact in ten equations as in one. The output of a weight is assumed to be normal and independent of all others. Its mean
square, the length, follows from the law of the weight where that is known. It is the length asked for where the weight
is scaled by the length of its input. Otherwise it is assumed to be one, and the assumption is noted. A signal that is
made of an unknown one is unknown.

Equal equations with equal operands have one result, so that a layer that is called twice on one input gives one signal.
Different entries of one signal, such as the two halves of its units, are independent, and so are any two other signals;
their sum is assumed to be normal.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from initax._math._gaussian import quadrature
from initax._trace._arrangement import Entries, whole
from initax._trace._coverage import shares
from initax._trace._indices import Constant, computed, constant_of
from initax._trace._interpreter import Interpreter
from initax._trace._jaxpr import Place, size_of
from initax._trace._loops import Loop, loop_of
from initax._trace._moment import Moment, constant, function_of, moments_of_two
from initax._trace._primitives import row_of
from initax._trace._uses import CONTRACTIONS, Uses, by_parameter

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
class Weight:
    """Stands for a value that is made of weights only.

    Attributes:
        param: the parameter whose entries it holds, moved at most; `None` for any other value.
    """

    param: int | None = None


WEIGHT = Weight()
Known = Moment | Weight | None


@dataclass(frozen=True, slots=True)
class Numbered:
    """What is known of a value.

    Attributes:
        number: the number of the value; values of one number are equal.
        known: what is known of it.
        constant: its numbers, where they depend on no input and no array.
    """

    number: int
    known: Known
    constant: Constant | None = None


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


class Lengths(Interpreter[Numbered]):
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
        self.constants: list[Any] = []
        self.numbers: dict[Hashable, int] = {}
        self.results: dict[Hashable, list[Numbered]] = {}

    def of(self, closed: Any, arrays: int, constants: int) -> dict[int, float | None]:
        """Return parameter → second moment of the signal that reaches it, `None` where that is not known."""
        operands: list[Known] = []
        for index, var in enumerate(closed.jaxpr.invars):
            if index < arrays:
                law = self.laws.get(index)
                operands.append(Weight(index) if law is None or law.inputs is not None else self.entry(index, var))
            elif index < arrays + constants or not jnp.issubdtype(var.aval.dtype, np.floating):
                operands.append(None)
            else:
                operands.append(self.normal(0.0, 1.0 if self.nudged is None else 1 + NUDGE, var))
        self.call(closed, [Numbered(self.number(), known) for known in operands], ())
        return {param: _agreed(lengths) for param, lengths in self.reached.items()}

    def number(self, key: Hashable = None) -> int:
        """Return the number of what a key stands for, a new one without a key."""
        return self.numbers.setdefault(object() if key is None else key, len(self.numbers))

    def entry(self, param: int, atom: Any) -> Moment | None:
        """Return the entries of a parameter as a signal, of length one where the law is not known.

        Args:
            param: the parameter.
            atom: the variable that holds them.
        """
        law = self.laws.get(param)
        if law is None:
            return self.normal(0.0, 1.0, atom, frozenset({param}))
        assumed = frozenset({param} if law.assumed else ())
        variance = max(law.square - law.mean**2, 0.0)
        if variance <= 1e-12 * law.square:
            return replace(constant(law.mean), assumed=assumed)
        return self.normal(law.mean, variance, atom, assumed)

    def normal(self, mean: float, variance: float, atom: Any, assumed: frozenset[int] = frozenset()) -> Moment | None:
        """Return a normal signal that is independent of all others, in an array like that of a variable."""
        if not (math.isfinite(mean) and math.isfinite(variance) and variance >= 0):
            return None
        of = whole(self.number(), atom.aval.shape)
        return Moment(mean + math.sqrt(variance) * quadrature()[0], of, assumed)

    def constant(self, atom: Any, number: Any) -> Numbered:
        """Return a literal as a constant signal; the numbers of other constants are not used."""
        fixed = constant_of(atom, number)
        if not isinstance(atom, Literal):
            self.constants.append(number)  # so that no other one has its id
            return Numbered(self.number(None if number is None else ("constant", id(number))), None, fixed)
        key = ("literal", str(atom.aval), np.asarray(number).tobytes())
        return Numbered(self.number(key), constant(float(number)) if np.isrealobj(number) else None, fixed)

    def equation(self, eqn: Any, values: list[Numbered], place: Place) -> list[Numbered]:
        """Return what is known of the results of an equation, those of an equal one where there was one before."""
        if row_of(eqn).moments == "contraction":
            self._note_reached([value.known for value in values], place)
        key = self._key(eqn, values, place)
        if key not in self.results:
            constants = [value.constant for value in values if value.constant is not None]
            are_constant = len(constants) == len(values)
            self.results[key] = [
                Numbered(self.number(), known, computed(eqn, constants, result) if are_constant else None)
                for result, known in enumerate(self._results(eqn, values, place))
            ]
        return self.results[key]

    def _key(self, eqn: Any, values: Sequence[Numbered], place: Place) -> Hashable:
        """Return what two equations have in common whose results are equal; where that can't be told, a new object."""
        used = tuple(self.places.get(place, ())), self.shares.get(place)
        try:
            params = frozenset(eqn.params.items())
        except TypeError:  # one of them is an array, or holds one
            return object()
        return object() if eqn.effects else (eqn.primitive, params, tuple(value.number for value in values), used)

    def _results(self, eqn: Any, numbered: Sequence[Numbered], place: Place) -> list[Known]:
        """Return what is known of the results of an equation that had no equal one before."""
        values, signal = [value.known for value in numbered], next((value.known for value in numbered), None)
        is_moved = row_of(eqn).moments in ("layout", "parts") and not any(isinstance(each, Weight) for each in values)
        if is_moved and isinstance(signal, Moment) and signal.of is not None:
            unknown, *_ = [self.number() for _ in eqn.outvars]
            moved = signal.of.moved(eqn, [value.constant for value in numbered[1:]], unknown)
            return [replace(signal, of=of) for of in moved]
        if row_of(eqn).moments == "parts":
            return [signal] * len(eqn.outvars)
        if len(eqn.outvars) != 1:
            return [None] * len(eqn.outvars)
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
            return self._contracted(eqn, values, place)
        if rule == "function" and any(isinstance(value, Moment) and value.of is not None for value in values):
            values = [self._as_signal(value, atom) for value, atom in zip(values, eqn.invars, strict=True)]
        signals = [value for value in values if isinstance(value, Moment)]
        weights = [value for value in values if isinstance(value, Weight)]
        if weights and self._is_look_up(name, values):
            return self._looked_up(weights[0], eqn.outvars[0])
        if weights and len(values) - len(signals) == 1 and (rule == "layout" or row.unchanged):
            return weights[0]
        if weights:
            return WEIGHT if not any(signal.of is not None for signal in signals) and None not in values else None
        match rule:
            case "layout":
                return values[0]
            case "function":
                return None if None in values else self._entrywise(name, eqn, signals)
            case "join":
                return self._joined(eqn, signals) if len(signals) == len(values) else None
            case "sum":
                return self._summed(eqn, signals[0]) if signals and signals[0].of is not None else None
            case "largest":
                return self._largest(eqn, signals[0]) if signals else None
        return None

    def _contracted(self, eqn: Any, values: Sequence[Known], place: Place) -> Known:
        """Return the outputs of a contraction."""
        params = self.places.get(place)
        if not params:
            return WEIGHT if all(isinstance(value, Weight) for value in values) else None
        signal = next((value for value in values if isinstance(value, Moment)), None)
        return self._weighed(params[0], signal, self.shares[place], eqn.outvars[0]) if len(params) == 1 else None

    def _note_reached(self, values: Sequence[Known], place: Place) -> None:
        """Note what reaches the weights of a contraction."""
        signal = next((value for value in values if isinstance(value, Moment)), None)
        for param in self.places.get(place, ()):
            self.reached.setdefault(param, []).append(self._felt(param, signal) if signal is not None else None)
            if signal is not None:
                self.slopes[param] = max(self.slopes.get(param, 0.0), signal.slope)
            self.leaning[param] = self.leaning.get(param, frozenset()) | (signal.assumed if signal else frozenset())

    def _weighed(self, param: int, signal: Moment | None, part: float, atom: Any) -> Moment | None:
        """Return the outputs of a weight, or of a part of it: sums of independent entries times its inputs."""
        law = self.laws.get(param)
        if law is None:
            return self.normal(0.0, part, atom, frozenset({param}))
        if law.length is not None:
            return self.normal(0.0, law.length * part * self._deviating(param, signal), atom)
        if signal is None or law.inputs is None:
            return None
        variance = law.square * self._felt(param, signal) - (law.mean * signal.mean) ** 2
        inputs = law.inputs * part
        return self.normal(inputs * law.mean * signal.mean, max(inputs * variance, 0.0), atom)

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

    def _looked_up(self, table: Weight, atom: Any) -> Moment | None:
        """Return rows of a table as a signal."""
        if table.param is None:
            return self.normal(0.0, 1.0, atom)
        self.looked.add(table.param)
        return self.entry(table.param, atom)

    def _as_signal(self, value: Known, atom: Any) -> Known:
        """Return an embedding that is added without a look-up, such as learned positions, as a signal."""
        param = value.param if isinstance(value, Weight) else None
        return value if param is None or param not in self.tables else self.entry(param, atom)

    def _entrywise(self, name: str, eqn: Any, signals: Sequence[Moment]) -> Known:
        """Return a function of some signals, entry by entry."""
        statistic = any(signal.statistic for signal in signals)
        if name in ("sqrt", "rsqrt") and statistic:
            # The signal it is a statistic of is divided by it, and then has length one; so it counts as a constant.
            return function_of(eqn, [constant(signals[0].mean)], None)
        shape = eqn.outvars[0].aval.shape
        signals = [replace(signal, of=signal.of and signal.of.over(shape)) for signal in signals]
        variables = list(dict.fromkeys(signal.of for signal in signals if signal.of is not None))
        in_common = variables[0].in_common(variables[1]) if len(variables) == 2 else None
        if len(variables) <= 1 or in_common == 1:
            result = function_of(eqn, signals, variables[0] if variables else None)
        elif in_common is None:
            result = None
        else:
            result = self._of_two(eqn, signals, in_common)
        return result and replace(result, statistic=statistic)

    def _of_two(self, eqn: Any, signals: Sequence[Moment], in_common: float) -> Moment | None:
        """Return a function of signals that hold the same entry at some positions and independent ones elsewhere."""
        moments = moments_of_two(eqn, signals)
        if moments is None:
            return None
        mean, square = moments
        if in_common:
            same = function_of(eqn, signals, next(signal.of for signal in signals if signal.of is not None))
            if same is None:
                return None
            mean = in_common * same.mean + (1 - in_common) * mean
            square = in_common * same.square + (1 - in_common) * square
        return self.normal(mean, max(square - mean**2, 0.0), eqn.outvars[0])

    def _joined(self, eqn: Any, signals: Sequence[Moment]) -> Known:
        """Return joined signals, as entries drawn from one of them."""
        sizes = np.array([size_of(atom) for atom in eqn.invars], float)
        share = sizes / sizes.sum()
        mean = float(share @ [signal.mean for signal in signals])
        return self.normal(mean, float(share @ [signal.square for signal in signals]) - mean**2, eqn.outvars[0])

    def _summed(self, eqn: Any, signal: Moment) -> Known:
        """Return a sum of independent entries of a signal."""
        count = _count(eqn)
        result = self.normal(count * signal.mean, count * (signal.square - signal.mean**2), eqn.outvars[0])
        return result and replace(result, statistic=bool(np.all(signal.values >= 0)))

    def _largest(self, eqn: Any, signal: Moment) -> Known:
        """Return the largest of independent copies, from the distribution function of one."""
        order = np.argsort(signal.values)
        below = np.cumsum(quadrature()[1][order])
        mass = np.diff(np.concatenate([[0.0], np.clip(below / below[-1], 0, 1) ** _count(eqn)]))
        values = signal.values[order].astype(float)
        mean = float(mass @ values)
        return self.normal(mean, float(mass @ values**2) - mean**2, eqn.outvars[0])

    def scan(self, eqn: Any, values: list[Numbered], place: Place) -> list[Numbered]:
        """Follow the steps of a scan until the lengths of the carried values no longer change."""
        loop = loop_of(eqn, values)
        body, fixed, carry, rows = loop
        carries, length, before = len(carry), eqn.params["length"], self.reached
        steps: list[dict[int, list[float | None]]] = []
        made: list[list[Numbered]] = []
        is_steady = False
        while len(steps) < min(length, STEPS) and not is_steady:
            self.reached = {}
            taken = [self._row(row, _index(eqn, len(steps))) for row in rows]
            results = self.call(body, [*fixed, *carry, *taken], place)
            is_steady = all(_is_same(old.known, new.known) for old, new in zip(carry, results, strict=False))
            carry = results[:carries]
            made.append(results[carries:])
            steps.append(self.reached)
            if len(steps) >= FEW and self._is_torn(steps):
                break
        self.reached = before
        for param in {param for step in steps for param in step}:
            lengths = [_agreed(step.get(param, [None])) for step in steps]
            self.reached.setdefault(param, []).append(_agreed(lengths))
        is_whole = (is_steady or len(steps) == length) and not self._is_torn(steps)
        if is_whole and made:
            stacks = zip(eqn.outvars[carries:], zip(*made, strict=True), strict=True)
            return [*carry, *(self._stacked(eqn, loop, each, atom) for atom, each in stacks)]
        kept = [each if is_whole or _is_constant(each.known) else self._unknown() for each in carry]
        return [*kept, *(self._unknown() for _ in eqn.outvars[carries:])]

    def _unknown(self) -> Numbered:
        """Return a value of which nothing is known."""
        return Numbered(self.number(), None)

    def _row(self, rows: Numbered, index: int) -> Numbered:
        """Return the entry of an array that a step of a scan takes."""
        number, known = self.number(("row", rows.number, index)), rows.known
        if isinstance(known, Moment) and known.of is not None:
            known = replace(known, of=known.of.row(index, number))
        return Numbered(number, known)

    def _stacked(self, eqn: Any, loop: Loop[Numbered], each: Sequence[Numbered], atom: Any) -> Numbered:
        """Return the array of what the steps of a scan give, as far as they were followed.

        Args:
            eqn: the scan.
            loop: its operands.
            each: what each step gives.
            atom: the variable that holds the array.
        """
        length = eqn.params["length"]
        number = self.number(("stacked", length, eqn.params["reverse"], tuple(step.number for step in each)))
        known = each[-1].known
        if isinstance(known, Moment) and not all(_is_same(step.known, known) for step in each):
            return Numbered(
                number, _of_all_steps([step.known for step in each], length, whole(number, atom.aval.shape))
            )
        if not isinstance(known, Moment) or known.of is None:
            return Numbered(number, known)
        of = known.of
        row_entries, whole_entries = map(_entries, loop.rows), map(_entries, [*loop.fixed, *loop.carry])
        strides = {rows.first_stride for rows in row_entries if rows is not None and rows.array == of.array}
        strides |= {0 for other in whole_entries if other is not None and other.array == of.array}
        if not strides:  # made in the loop: other entries in each step
            array = self.number(("steps", length, of.array))
            of = Entries(array, of.size * length, of.arrangement)
            return Numbered(number, replace(known, of=of.stacked(length, of.size // length, 0, number)))
        stride = strides.pop() if len(strides) == 1 else None
        if stride is None:  # of an array from outside, and which entries is not known
            return Numbered(number, replace(known, of=replace(of, arrangement=number)))
        offset = -stride * _index(eqn, len(each) - 1)
        return Numbered(number, replace(known, of=of.stacked(length, stride, offset, number)))

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


def _of_all_steps(each: Sequence[Known], length: int, of: Entries) -> Moment | None:
    """Return the array of what steps of different lengths give, as entries drawn from one of them.

    Args:
        each: what each step gives; those that were not followed give what the last one does.
        length: how many steps there are.
        of: the entries it is made of.
    """
    signals = [step for step in each if isinstance(step, Moment)]
    if len(signals) < len(each):
        return None
    share = np.array([1.0] * (len(each) - 1) + [length - len(each) + 1]) / length
    mean = float(share @ [signal.mean for signal in signals])
    variance = float(share @ [signal.square for signal in signals]) - mean**2
    assumed = frozenset[int]().union(*(signal.assumed for signal in signals))
    return Moment(mean + math.sqrt(max(variance, 0.0)) * quadrature()[0], of, assumed)


def _entries(value: Numbered) -> Entries | None:
    """Return the normal entries that a value is a function of, `None` where it is none of such."""
    return value.known.of if isinstance(value.known, Moment) else None


def _is_constant(value: Known) -> bool:
    return isinstance(value, Moment) and value.of is None


def _index(eqn: Any, step: int) -> int:
    """Return which entry of its rows a step of a scan takes."""
    return eqn.params["length"] - 1 - step if eqn.params["reverse"] else step


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
