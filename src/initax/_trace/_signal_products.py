"""Products of two signals, such as attention's logits: how long the sums are, and which parameters make each signal."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from initax._model._survey import Traced
from initax._trace import _flow_rules as flow
from initax._trace._indices import LARGEST, Constant, constant_of
from initax._trace._interpreter import Interpreter
from initax._trace._jaxpr import Place, line_of, size_of
from initax._trace._loops import loop_of
from initax._trace._primitives import called, row_of

OTHER: Place = (-1,)
"""Stands for any equation with a signal that is not a contraction."""

MOVES = (flow.moved, flow.sliced, flow.looked_up, flow.joined, flow.selected, flow.written)
"""Rules of the equations that move entries of signals, or multiply all of them by one number."""

HOMOGENEOUS = ("abs", "reduce_max", "reduce_min", "cummax", "cummin", "sort", "reduce_window_max", "reduce_sum")
"""Functions of one signal that, where it is multiplied by a positive number, are multiplied by it."""


COMPARISONS = ("ge", "gt", "le", "lt", "eq", "ne")
"""Functions that, where one operand is zero, do not see which positive number the other is multiplied by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is known of one value.

    Attributes:
        data: whether it depends on the inputs.
        constant: its number, where it is a constant.
        parameters: the parameters it is made of, where it does not depend on the inputs.
        makers: the parameters in which the signal is linear: it scales with each of them.
        behind: all parameters that it depends on.
        factor: the constant that its parameters, or the signal since these made it, were multiplied with; `None` where
            it is not known.
        since: the constant that it was multiplied with since, behind a function such as ReLU.
        is_behind: whether it is a function such as ReLU of what its parameters make.
        products: the products of signals that are added up in it → the constant that each was multiplied with; `None`
            for one that is not known.
        pair: the two signals whose product entry by entry it is.
    """

    data: bool = False
    constant: Constant | None = None
    parameters: frozenset[int] = frozenset()
    makers: frozenset[int] = frozenset()
    behind: frozenset[int] = frozenset()
    factor: float | None = 1.0
    since: float | None = 1.0
    is_behind: bool = False
    products: Mapping[Place, float | None] = field(default_factory=dict)
    pair: tuple[Origin, Origin] | None = None

    @property
    def total(self) -> float | None:
        """The constant that its parameters, and the signal, were multiplied with in all."""
        return _product_of(self.factor, self.since)


@dataclass(slots=True, kw_only=True)
class SignalProduct:
    """A sum over products of two signals.

    Attributes:
        line: the line of the forward pass.
        size: over how many entries it sums.
        sides: for each signal the parameters in which it is linear.
        factor: the constant that it is multiplied with before any other function; `None` where it is not known.
        closed: whether another function was applied.
        temperatures: the parameters that it is multiplied with first.
    """

    line: str
    size: int
    sides: tuple[frozenset[int], frozenset[int]]
    factor: float | None
    closed: bool = False
    temperatures: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalProducts:
    """Every product of signals in a forward pass, and where else the signals go.

    Attributes:
        by_place: equation → the product.
        sinks: parameter → the equations that its signals go into: products of signals and contractions with another
            parameter; `OTHER` for anything else.
        factors: parameter → the constants that it, or its signals, are multiplied with before any sink but a product of
            signals; `None` for one that is not known.
        looked_up: parameters of which rows are looked up.
        read: parameter → its contractions with signals, and the parameters in which each signal is linear.
    """

    by_place: dict[Place, SignalProduct] = field(default_factory=dict)
    sinks: dict[int, set[Place]] = field(default_factory=dict)
    factors: dict[int, list[float | None]] = field(default_factory=dict)
    looked_up: set[int] = field(default_factory=set)
    read: dict[int, dict[Place, frozenset[int]]] = field(default_factory=dict)


def signal_products(traced: Traced, growing: Collection[Place] | None = None) -> SignalProducts:
    """Return the products of signals in a forward pass.

    Args:
        traced: the forward pass.
        growing: the sums over more entries than in the base; `None` where that is not known.
    """
    arrays = len(traced.paths)
    operands = [
        Origin(parameters=frozenset({index})) if index < arrays else Origin(data=index >= arrays + traced.constants)
        for index in range(len(traced.closed.jaxpr.invars))
    ]
    walk = _Walk(growing)
    for result in walk.call(traced.closed, operands, ()):
        walk.end([result], OTHER)
    return walk.products


class _Walk(Interpreter[Origin]):
    """Follows which parameters make each signal of a forward pass."""

    def __init__(self, growing: Collection[Place] | None) -> None:
        self.products = SignalProducts()
        self.growing = growing

    def constant(self, atom: Any, number: Any) -> Origin:
        """A literal or a constant, of which a single number is kept, or the one that every entry is."""
        constant = constant_of(atom, number) if size_of(atom) <= LARGEST else None
        return Origin(constant=None if constant is None else _one_number(constant))

    def scan(self, eqn: Any, values: list[Origin], place: Place) -> list[Origin]:
        """The results of a loop: a carried value that changes is a signal of which no more is known."""
        loop = loop_of(eqn, values)
        carry, handed_on = loop.carry, loop.handed_on
        rows = [replace(value, constant=None) for value in loop.rows]
        self.end([value for value, same in zip(carry, handed_on, strict=True) if not same], OTHER)
        before = [
            value if same else Origin(data=value.data or bool(value.parameters), behind=value.behind | value.parameters)
            for value, same in zip(carry, handed_on, strict=True)
        ]
        while True:
            results = self.call(loop.body, [*loop.fixed, *before, *rows], place)
            self.end([result for result, same in zip(results, handed_on, strict=False) if not same], OTHER)
            after = [
                old if same else Origin(data=old.data or new.data, behind=old.behind | new.behind)
                for old, new, same in zip(before, results, handed_on, strict=False)
            ]
            if after == before:
                return [*after, *(replace(result, constant=None) for result in results[len(carry) :])]
            before = after

    def while_loop(self, eqn: Any, values: list[Origin], place: Place) -> list[Origin]:
        return self.scan(eqn, values, place)

    def cond(self, eqn: Any, values: list[Origin], place: Place) -> list[Origin]:
        """The results of a branch: as the sum of the signals that the branches return."""
        return [
            cases[0] if all(case == cases[0] for case in cases) else self._chosen(cases)
            for cases in self.cases(eqn, values, place)
        ]

    def _chosen(self, cases: Sequence[Origin]) -> Origin:
        """One of several values."""
        signals = [case for case in cases if case.data]
        parameters = frozenset[int]().union(*(case.parameters for case in cases if not case.data))
        behind = parameters.union(*(case.behind for case in cases))
        if signals:
            return replace(self._sum(signals, parameters), behind=behind)
        factors = {case.factor for case in cases if case.parameters}
        return Origin(parameters=parameters, factor=factors.pop() if len(factors) == 1 else None)

    def equation(self, eqn: Any, values: list[Origin], place: Place) -> list[Origin]:
        """The results of an equation."""
        if not any(value.data for value in values):
            return [self._without_inputs(eqn, values, index) for index in range(len(eqn.outvars))]
        behind = frozenset[int]().union(*(value.behind | value.parameters for value in values))
        return [replace(result, behind=behind) for result in self._of_signals(eqn, values, place)]

    def _of_signals(self, eqn: Any, values: list[Origin], place: Place) -> list[Origin]:
        """The results of an equation with signals."""
        name, row = eqn.primitive.name, row_of(eqn)
        signals = [value for value in values if value.data]
        parameters = frozenset[int]().union(*(value.parameters for value in values if not value.data))
        if name in ("dot_general", "mul") and len(signals) == 2:
            return [self._product(eqn, values[0], values[1], place)]
        if name == "gather" and values[0].parameters:
            self.products.looked_up.update(values[0].parameters)
            return [Origin(data=True, makers=values[0].parameters, factor=values[0].factor)]
        is_contraction = row.moments == "contraction"
        if parameters and (is_contraction or name == "mul"):
            for parameter in parameters if is_contraction else ():
                self.products.read.setdefault(parameter, {})[place] = signals[0].makers
            if name == "mul":
                self._multiplied_by(parameters, signals)
            # What stands between a function and the next weight is made up for by that one.
            before = [replace(signal, since=1.0) for signal in signals] if is_contraction else signals
            self.end(before, place if is_contraction else OTHER)
            factor = next(value.factor for value in values if value.parameters)
            makers = parameters if len(parameters) == 1 else frozenset[int]()
            return [Origin(data=True, makers=makers, factor=factor) for _ in eqn.outvars]
        if name in ("mul", "div") and values[0].data:
            return [self._scaled(values[0], values[1], inverse=name == "div")]
        if name == "mul":
            return [self._scaled(values[1], values[0], inverse=False)]
        if name == "reduce_sum" and values[0].pair is not None:
            size = size_of(eqn.invars[0]) // max(size_of(eqn.outvars[0]), 1)
            return [self._summed(*values[0].pair, size, place, line_of(eqn))]
        is_choice = name == "select_n" and values[0].data and not parameters
        cases = [value for value in values[1:] if value.data] if is_choice else []
        if cases and cases[0].makers and all(case.makers == cases[0].makers for case in cases):
            return [_behind(cases[0], 1)]  # as a leaky ReLU of it is
        if name in COMPARISONS and _is_zero(values):
            return [Origin(data=True)]
        if self._is_homogeneous(name, values, place):
            size = size_of(eqn.invars[0]) // max(size_of(eqn.outvars[0]), 1) if name == "reduce_sum" else 1
            return [_behind(signals[0], size) for _ in eqn.outvars]
        if name in ("add", "add_any", "sub") or row.flow in MOVES:
            return [self._sum(signals, parameters) for _ in eqn.outvars]
        self.end(signals, OTHER)
        return [Origin(data=True) for _ in eqn.outvars]

    def _multiplied_by(self, parameters: frozenset[int], signals: Sequence[Origin]) -> None:
        """Note that products of signals are multiplied by parameters."""
        for place in {place for signal in signals for place in signal.products}:
            product = self.products.by_place[place]
            product.temperatures = product.temperatures | (frozenset() if product.closed else parameters)

    def _is_homogeneous(self, name: str, values: Sequence[Origin], place: Place) -> bool:
        """Whether the result is multiplied by the positive number that the signal is multiplied by, at every width."""
        if name == "reduce_sum":
            return self.growing is not None and place not in self.growing
        return name in HOMOGENEOUS or (name in ("max", "min") and _is_zero(values))

    def _without_inputs(self, eqn: Any, values: Sequence[Origin], result: int) -> Origin:
        """A result of an equation that does not depend on the inputs: it is made of parameters, or a constant."""
        parameters = frozenset[int]().union(*(value.parameters for value in values))
        operands = [value.constant for value in values if value.constant is not None]
        is_known = not parameters and len(operands) == len(values)
        is_single = row_of(eqn).control is None and called(eqn) is None and size_of(eqn.outvars[result]) == 1
        constant = Constant(None, eqn, operands, result) if is_known and is_single else None
        name, weights = eqn.primitive.name, [value for value in values if value.parameters]
        if name in ("broadcast_in_dim", "convert_element_type") and is_known and not is_single:
            constant = operands[0]  # every entry is this one number
        if name in ("mul", "div") and len(weights) == 1 and not (name == "div" and values[1].parameters):
            other = values[1] if values[0].parameters else values[0]
            return replace(_times(weights[0], other, inverse=name == "div"), constant=None)
        factor = weights[0].factor if len(weights) == 1 else 1.0
        return Origin(parameters=parameters, constant=constant, factor=factor)

    def _product(self, eqn: Any, left: Origin, right: Origin, place: Place) -> Origin:
        """A product of two signals, entry by entry or summed over some axes."""
        is_square = eqn.invars[0] is eqn.invars[1]
        if eqn.primitive.name == "mul" or is_square:
            # A gate, or the scale of a norm: the product is linear in the makers of one side, if not behind the other.
            sides = () if is_square else ((left, right), (right, left))
            linears = (side for side, other in sides if side.makers and not side.makers & other.behind)
            linear = next(linears, Origin(data=True))
            self.end([replace(side, makers=side.makers - linear.makers) for side in (left, right)], OTHER)
            return replace(linear, products={}, pair=None if is_square else (left, right))
        (summed, _), _ = eqn.params["dimension_numbers"]
        size = math.prod(eqn.invars[0].aval.shape[axis] for axis in summed)
        return self._summed(left, right, size, place, line_of(eqn))

    def _summed(self, left: Origin, right: Origin, size: int, place: Place, line: str) -> Origin:
        """A product of two signals, summed over a number of entries."""
        factor = _product_of(left.factor, left.since, right.factor, right.since)
        sides = (left.makers, right.makers)
        self.products.by_place[place] = SignalProduct(line=line, size=size, sides=sides, factor=factor)
        self.end([left, right], place)
        return Origin(data=True, products={place: factor})

    def _scaled(self, signal: Origin, other: Origin, *, inverse: bool) -> Origin:
        """A signal times another value, or divided by it."""
        if other.parameters or other.data:
            self.end([signal], OTHER)
            return Origin(data=True)
        return replace(_times(signal, other, inverse=inverse), pair=None)

    def _sum(self, signals: Sequence[Origin], parameters: frozenset[int]) -> Origin:
        """Signals that are added up or joined, with parameters or without."""
        if len(signals) == 1 and not parameters:
            return signals[0]
        factor = signals[0].total
        is_linear = all(signal.total == factor and signal.makers for signal in signals)
        is_linear = is_linear and (not parameters or factor == 1)
        if not is_linear:
            self.sink(signals, OTHER)
        makers = frozenset[int]().union(*(signal.makers for signal in signals))
        products: dict[Place, float | None] = {}
        for place, times in (item for signal in signals for item in signal.products.items()):
            products[place] = times if products.get(place, times) == times else None
        return Origin(
            data=True,
            makers=makers | parameters if is_linear else frozenset(),
            factor=factor if is_linear else 1.0,
            is_behind=is_linear and any(signal.is_behind for signal in signals),
            products=products,
            pair=signals[0].pair if len(signals) == 1 else None,
        )

    def sink(self, signals: Iterable[Origin], place: Place) -> None:
        """Note an equation that signals go into, and the constants that they were multiplied with."""
        products = self.products
        for signal in signals:
            for maker in signal.makers:
                products.sinks.setdefault(maker, set()).add(place)
                if place not in products.by_place:
                    products.factors.setdefault(maker, []).append(signal.total)

    def end(self, signals: Sequence[Origin], place: Place) -> None:
        """Note an equation in which signals end, and the constants that products of signals were multiplied with."""
        self.sink(signals, place)
        for signal in signals:
            for product_place, factor in signal.products.items():
                product = self.products.by_place[product_place]
                if not product.closed:
                    product.factor, product.closed = factor, True


def _one_number(constant: Constant) -> Constant | None:
    """The one number that every entry of a constant is, `None` where they differ."""
    number = constant.number
    if number is None or not number.size or not (number == number.flat[0]).all():
        return None
    return Constant(number.reshape(-1)[:1].reshape(()))


def _behind(signal: Origin, size: int) -> Origin:
    """A signal behind a function that is multiplied by what the signal is multiplied by, or sums over some entries."""
    products = {place: _product_of(factor, size) for place, factor in signal.products.items()}
    return replace(signal, pair=None, is_behind=True, since=_product_of(signal.since, size), products=products)


def _is_zero(values: Sequence[Origin]) -> bool:
    """Whether one of two values is zero, so that the larger of them is positively homogeneous in the other."""
    constants = [value.constant for value in values if value.constant is not None and not value.data]
    numbers = [constant.number for constant in constants]
    return len(values) == 2 and len(numbers) == 1 and numbers[0] is not None and not numbers[0].any()


def _product_of(*factors: float | None) -> float | None:
    """The product of some factors, `None` where one is not known."""
    return None if None in factors else math.prod(factor for factor in factors if factor is not None)


def _times(value: Origin, other: Origin, *, inverse: bool) -> Origin:
    """A value times a constant, or divided by it."""
    number = None if other.constant is None else other.constant.number
    if other.constant is None or (number is not None and number.size != 1):
        # Arrays, such as the sines by which positions rotate queries and keys, or masks, do not depend on the width.
        return value
    times = None if number is None else float(np.real(number.reshape(())))

    def scaled(factor: float | None) -> float | None:
        """The constant times the number, `None` where one of them is not known, or zero."""
        if factor is None or not times:
            return None
        return factor / times if inverse else factor * times

    products = {product: scaled(factor) for product, factor in value.products.items()}
    if value.is_behind:
        return replace(value, since=scaled(value.since), products=products)
    return replace(value, factor=scaled(value.factor), products=products)
