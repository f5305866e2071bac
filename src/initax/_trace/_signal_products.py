"""Products of two signals, such as attention's logits: what is summed over, and which parameters make either side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from initax._model._survey import Traced
from initax._trace import _flow_rules as flow
from initax._trace._indices import Constant, constant_of, shapes_of
from initax._trace._interpret import Interpreter, line_of
from initax._trace._loops import loop_of
from initax._trace._primitives import called, row_of
from initax._trace._uses import Place

OTHER: Place = (-1,)
"""Stands for whatever else than a contraction takes a signal in."""

MOVES = (flow.moved, flow.sliced, flow.looked_up, flow.joined, flow.selected, flow.written)
"""What becomes of signals whose entries stand elsewhere in a result, or are multiplied by one number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is known of one value.

    Attributes:
        data: whether it depends on the inputs.
        constant: what works it out, where it is a constant.
        parameters: parameters in it that have not met a signal yet.
        makers: parameters such that it is multiplied by whatever they are multiplied with; empty where there are none.
        behind: parameters that it depends on, in whatever way.
        factor: what it was multiplied with since they made it, or they before; `None` where that is not known.
        product: the product of signals that it is, times `factor`.
        pair: the two signals whose product entry by entry it is.
    """

    data: bool = False
    constant: Constant | None = None
    parameters: frozenset[int] = frozenset()
    makers: frozenset[int] = frozenset()
    behind: frozenset[int] = frozenset()
    factor: float | None = 1.0
    product: Place | None = None
    pair: tuple[Origin, Origin] | None = None


@dataclass(slots=True, kw_only=True)
class SignalProduct:
    """A sum over products of two signals.

    Attributes:
        line: the line of the forward pass.
        size: over how many entries it sums.
        sides: the parameters that make either signal.
        factor: what the forward pass multiplies it with, before it applies another function; `None` where that is not
            known.
        closed: whether a function was applied.
    """

    line: str
    size: int
    sides: tuple[frozenset[int], frozenset[int]]
    factor: float | None
    closed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalProducts:
    """Every product of signals in a forward pass, and where else the signals go.

    Attributes:
        found: place of the equation → the product.
        sinks: parameter → the equations that take in what it makes, products of signals and contractions with a
            parameter; `OTHER` for anything else.
        factors: parameter → what it, or what it makes, is multiplied with on the way to any sink but a product of
            signals; `None` for what is not known.
        looked_up: parameters of which rows are looked up.
        read: parameter → the contractions with a signal that it is in, and what makes the signal.
    """

    found: dict[Place, SignalProduct] = field(default_factory=dict)
    sinks: dict[int, set[Place]] = field(default_factory=dict)
    factors: dict[int, list[float | None]] = field(default_factory=dict)
    looked_up: set[int] = field(default_factory=set)
    read: dict[int, dict[Place, frozenset[int]]] = field(default_factory=dict)


def signal_products(traced: Traced) -> SignalProducts:
    """Return the products of signals in a forward pass.

    Args:
        traced: the forward pass.
    """
    arrays = len(traced.paths)
    operands = [
        Origin(parameters=frozenset({index})) if index < arrays else Origin(data=index >= arrays + traced.constants)
        for index in range(len(traced.closed.jaxpr.invars))
    ]
    walk = _Walk()
    for result in walk.call(traced.closed, operands, ()):
        walk.end([result], OTHER)
    return walk.products


class _Walk(Interpreter[Origin]):
    """Follows what makes every signal of a forward pass."""

    def __init__(self) -> None:
        self.products = SignalProducts()

    def constant(self, atom: Any, number: Any) -> Origin:
        return Origin(constant=constant_of(atom, number) if math.prod(atom.aval.shape) == 1 else None)

    def scan(self, eqn: Any, values: list[Origin], at: Place) -> list[Origin]:
        """What a loop leaves: what it hands on stays what it was, and what changes is a signal that nobody knows."""
        loop = loop_of(eqn, values)
        carry, handed_on = loop.carry, loop.handed_on
        rows = [replace(value, constant=None) for value in loop.rows]
        self.sink([value for value, same in zip(carry, handed_on, strict=True) if not same], OTHER)
        entered = [
            value if same else Origin(data=value.data or bool(value.parameters))
            for value, same in zip(carry, handed_on, strict=True)
        ]
        while True:
            results = self.call(loop.body, [*loop.fixed, *entered, *rows], at)
            left = [
                before if same else Origin(data=before.data or after.data)
                for before, after, same in zip(entered, results, handed_on, strict=False)
            ]
            if left == entered:
                return [*left, *(replace(result, constant=None) for result in results[len(carry) :])]
            entered = left

    def while_loop(self, eqn: Any, values: list[Origin], at: Place) -> list[Origin]:
        return self.scan(eqn, values, at)

    def cond(self, eqn: Any, values: list[Origin], at: Place) -> list[Origin]:
        return [
            cases[0] if all(case == cases[0] for case in cases) else Origin(data=any(case.data for case in cases))
            for cases in self.cases(eqn, values, at)
        ]

    def equation(self, eqn: Any, values: list[Origin], at: Place) -> list[Origin]:
        shapes = shapes_of(eqn)
        if not any(value.data for value in values):
            return [self._still(eqn, values, place) for place in range(len(shapes))]
        behind = frozenset[int]().union(*(value.behind | value.parameters for value in values))
        return [replace(result, behind=behind) for result in self._moved(eqn, values, at, shapes)]

    def _moved(self, eqn: Any, values: list[Origin], at: Place, shapes: Sequence[tuple[int, ...]]) -> list[Origin]:
        """What an equation leaves of signals."""
        name, row = eqn.primitive.name, row_of(eqn)
        signals = [value for value in values if value.data]
        parameters = frozenset[int]().union(*(value.parameters for value in values if not value.data))
        if name in ("dot_general", "mul") and len(signals) == 2:
            return [self._product(eqn, values[0], values[1], at)]
        if name == "gather" and values[0].parameters:
            self.products.looked_up.update(values[0].parameters)
            return [Origin(data=True, makers=values[0].parameters, factor=values[0].factor)]
        is_contraction = row.moments == "contraction"
        if parameters and (is_contraction or name == "mul"):
            for parameter in parameters if is_contraction else ():
                self.products.read.setdefault(parameter, {})[at] = signals[0].makers
            self.end(signals, at if is_contraction else OTHER)
            factor = next(value.factor for value in values if value.parameters)
            makers = parameters if len(parameters) == 1 else frozenset[int]()
            return [Origin(data=True, makers=makers, factor=factor) for _ in shapes]
        if name in ("mul", "div") and values[0].data:
            return [self._scaled(values[0], values[1], inverse=name == "div")]
        if name == "mul":
            return [self._scaled(values[1], values[0], inverse=False)]
        if name == "reduce_sum" and values[0].pair is not None:
            size = math.prod(eqn.invars[0].aval.shape) // max(math.prod(shapes[0]), 1)
            return [self._summed(*values[0].pair, size, at, line_of(eqn))]
        if name in ("add", "add_any", "sub") or row.flow in MOVES:
            return [self._sum(signals, parameters) for _ in shapes]
        self.end(signals, OTHER)
        return [Origin(data=True) for _ in shapes]

    def _still(self, eqn: Any, values: Sequence[Origin], place: int) -> Origin:
        """What no input reaches: parameters, or a constant."""
        parameters = frozenset[int]().union(*(value.parameters for value in values))
        operands = [value.constant for value in values if value.constant is not None]
        plain = not parameters and len(operands) == len(values) and row_of(eqn).control is None and called(eqn) is None
        small = math.prod(eqn.outvars[place].aval.shape) == 1
        constant = Constant(None, eqn, operands, place) if plain and small else None
        name, held = eqn.primitive.name, [value for value in values if value.parameters]
        if name in ("mul", "div") and len(held) == 1 and not (name == "div" and values[1].parameters):
            other = values[1] if values[0].parameters else values[0]
            return replace(_times(held[0], other, inverse=name == "div"), constant=None)
        factor = held[0].factor if len(held) == 1 else 1.0
        return Origin(parameters=parameters, constant=constant, factor=factor)

    def _product(self, eqn: Any, left: Origin, right: Origin, at: Place) -> Origin:
        """A product of two signals, entry by entry or summed over some axes."""
        is_square = eqn.invars[0] is eqn.invars[1]
        if eqn.primitive.name == "mul" or is_square:
            # A gate, or the scale of a norm: it is linear in what makes one side where the other has nothing of it.
            sides = [(left, right), (right, left)]
            whole = (one for one, other in sides if one.makers and not one.makers & other.behind and not is_square)
            linear = next(whole, Origin(data=True))
            self.end([replace(side, makers=side.makers - linear.makers) for side in (left, right)], OTHER)
            return replace(linear, product=None, pair=None if is_square else (left, right))
        (summed, _), _ = eqn.params["dimension_numbers"]
        size = math.prod(eqn.invars[0].aval.shape[axis] for axis in summed)
        return self._summed(left, right, size, at, line_of(eqn))

    def _summed(self, left: Origin, right: Origin, size: int, at: Place, line: str) -> Origin:
        factor = None if left.factor is None or right.factor is None else left.factor * right.factor
        sides = (left.makers, right.makers)
        self.products.found[at] = SignalProduct(line=line, size=size, sides=sides, factor=factor)
        self.end([left, right], at)
        return Origin(data=True, product=at, factor=factor)

    def _scaled(self, signal: Origin, other: Origin, *, inverse: bool) -> Origin:
        """A signal times something that is none, or divided by it."""
        if other.parameters or other.data:
            self.end([signal], OTHER)
            return Origin(data=True)
        return replace(_times(signal, other, inverse=inverse), pair=None)

    def _sum(self, signals: Sequence[Origin], parameters: frozenset[int]) -> Origin:
        """Signals that are added up or put beside each other, with parameters or without."""
        products = {signal.product for signal in signals if signal.product is not None}
        leading = next((signal for signal in signals if signal.product is not None), signals[0])
        alike = all(signal.factor == leading.factor and signal.makers for signal in signals)
        alike = alike and (not parameters or leading.factor == 1)
        if not alike:
            self.sink(signals, OTHER)
        makers = frozenset[int]().union(*(signal.makers for signal in signals))
        return Origin(
            data=True,
            makers=makers | parameters if alike else frozenset(),
            factor=leading.factor if alike or products else 1.0,
            product=products.pop() if len(products) == 1 else None,
            pair=signals[0].pair if len(signals) == 1 else None,
        )

    def sink(self, signals: Iterable[Origin], place: Place) -> None:
        """Note where signals go, and what they were multiplied with."""
        products = self.products
        for signal in signals:
            for maker in signal.makers:
                products.sinks.setdefault(maker, set()).add(place)
                if place not in products.found:
                    products.factors.setdefault(maker, []).append(signal.factor)

    def end(self, signals: Sequence[Origin], place: Place) -> None:
        """Note where signals go and are no more what they were, and what products of signals were multiplied with."""
        self.sink(signals, place)
        for signal in signals:
            product = None if signal.product is None else self.products.found[signal.product]
            if product is not None and not product.closed:
                product.factor, product.closed = signal.factor, True


def _times(value: Origin, other: Origin, *, inverse: bool) -> Origin:
    """A value times a constant, or divided by it."""
    number = None if other.constant is None else other.constant.number
    if number is None or number.size != 1:
        # Positions turn queries and keys by arrays of sines; a mask is an array, too. Neither goes with the width.
        is_array = other.constant is None or number is not None
        return value if is_array else replace(value, factor=None)
    times = float(np.real(number.reshape(())))
    if value.factor is None or times == 0:
        return replace(value, factor=None)
    return replace(value, factor=value.factor / times if inverse else value.factor * times)
