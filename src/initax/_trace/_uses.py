"""Uses: the equations in which a parameter is combined with the signal, and what each of its axes does there."""

from __future__ import annotations

import functools
import itertools
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from initax._trace._factors import Factor, is_foreign, length
from initax._trace._indices import Constant, Numbers
from initax._trace._jaxpr import Place
from initax._trace._views import Stop, View

Part = Literal["in", "out", "batch", "field", "along"]
"""What a factor does in a use; `along` is an axis that a scale shares with the signal, entry by entry."""
INPUTS: frozenset[Part] = frozenset({"in", "field"})
"""What factors do over which an output sums."""
Parts = dict[Factor, Part]
What = Literal["weight", "conv", "transposed", "scale", "bias", "embedding", "other"]
MetAs = Literal["", "bias", "scale", "factor"]
"""How rows that the data look up are used, see `Use.met_as`."""
CONSTANT_FIRST = "it is contracted with a constant first, and then multiplied with the signal"
"""Why a use is left out where others are read: a recurrence that starts with zeros has such a use."""
CONTRACTIONS: tuple[What, ...] = ("weight", "conv", "transposed")
"""Uses that make outputs from the signal."""


UNSEEN = View(param=-1, axes=())
"""The view in a use from which no axes of the parameter can be read."""

Taken = tuple[int, frozenset[tuple[Factor, int]]]
"""A part of the outputs of a use: the number of the use, and the factors of which one entry was taken, and which."""


@dataclass(slots=True, kw_only=True)
class Outputs:
    """What later equations do with the outputs of a use.

    Attributes:
        axes: the axes of the use's result along which the outputs lie.
        entries: factors of which single entries are taken, and which entries.
        members: factors along which the next weight is a stack.
        uneven: factors that are cut into parts of unequal size.
        rejoined: factors whose parts are joined again later, or are all contracted with the next weight.
        added_to: pairs of parts of the outputs that are added up, entry by entry; the second part may be of another use
            of the same parameter.
    """

    axes: tuple[int, ...] = ()
    entries: set[tuple[Factor, int]] = field(default_factory=set)
    members: set[Factor] = field(default_factory=set)
    uneven: set[Factor] = field(default_factory=set)
    rejoined: set[Factor] = field(default_factory=set)
    added_to: set[tuple[Taken, Taken]] = field(default_factory=set)

    def gates(self) -> tuple[Factor, ...]:
        """Return the factors of which every entry is used on its own, such as gates."""
        digits_of: dict[Factor, set[int]] = {}
        for factor, digit in self.entries:
            digits_of.setdefault(factor, set()).add(digit)
        return tuple(
            factor
            for factor, digits in digits_of.items()
            if factor.size > 1
            and len(digits) == factor.size
            and not any(map(factor.is_inside, self.rejoined))
            and not any(factor.is_inside(other) or other.is_inside(factor) for other in self.uneven)
        )


@dataclass(slots=True, kw_only=True)
class Use:
    """One equation in which a parameter is combined with the signal, and what later ones do with the outputs.

    Attributes:
        param: the number of the parameter.
        what: as what the parameter is used.
        line: the line of the forward pass.
        parts: what each factor does.
        inside: the factors that the equation itself sums over; later sums of the outputs may add others.
        strides: by how much a convolution's strides divide the effective fan_in and fan_out.
        outputs: what later equations do with the outputs.
        biased: for a bias, the uses to whose outputs it is added, in the order of the forward pass.
        through: other parameters that the parameter was contracted with before.
        normalized: the parameter is divided by a statistic of itself.
        stop: why the use can't be read.
        view: the parameter as the operand of the equation; `UNSEEN` where it is not combined with a signal.
        place: the equation.
        goes_back: the parameter is combined with a cotangent of a gradient inside the forward pass, not with a signal.
        met_as: for rows that the data look up, how they are used: as the `bias` or the `scale` of a signal, or as a
            `factor` of a parameter, or of themselves.
        product: the parameter is multiplied with the signal, entry by entry.
        signal: for a product, the variable whose entries the signal holds, see `Uses.whole`.
        number: the number of the use, in the order of the forward pass.
        behind: a bit for each use, and for each loop's state, on which the signal depends.
        gated: factors summed over along which a factor of the signal varies that is constant along other factors.
        makes_weights: the outputs are contracted with another signal as a weight is.
    """

    param: int
    what: What
    line: str = ""
    parts: Parts = field(default_factory=dict)
    inside: frozenset[Factor] = frozenset()
    strides: tuple[float, float] = (1, 1)
    outputs: Outputs = field(default_factory=Outputs)
    biased: tuple[Use, ...] = ()
    through: frozenset[int] = frozenset()
    normalized: bool = False
    stop: Stop | None = None
    view: View = UNSEEN
    place: Place = ()
    goes_back: bool = False
    met_as: MetAs = ""
    product: bool = False
    signal: int = 0
    number: int = -1
    behind: int = 0
    gated: frozenset[Factor] = frozenset()
    makes_weights: bool = False

    @property
    def partners(self) -> tuple[int, ...]:
        """For a bias, the parameters to whose outputs it is added, in the order of the forward pass."""
        return tuple(dict.fromkeys(use.param for use in self.biased))

    def fans(self) -> tuple[int, int]:
        """Return the number of inputs of an output, and of outputs of an input, in this use alone."""
        inputs = length(factor for factor, part in self.parts.items() if part in INPUTS)
        outputs = length(factor for factor, part in self.parts.items() if part in ("out", "field"))
        return inputs, outputs // length(self.gates())

    def gates(self) -> tuple[Factor, ...]:
        """Return the output factors that are batch axes: of gates, and of a stack where other outputs are left."""
        outputs = self.outputs
        members = [factor for factor in outputs.members if not any(map(factor.is_inside, outputs.rejoined))]
        left = [
            factor
            for factor, part in self.parts.items()
            if part == "out" and factor.size > 1 and not any(map(factor.is_inside, members))
        ]
        return (*outputs.gates(), *(members if left else ()))

    def halt(self, reason: str, line: str) -> None:
        """Note why the use can't be read; the first reason stays."""
        self.stop = self.stop or Stop(reason, line)

    @property
    def is_summed_later(self) -> bool:
        """Whether later equations sum over more inputs."""
        return any(part == "in" and factor not in self.inside for factor, part in self.parts.items())

    @property
    def is_of_a_constant(self) -> bool:
        """Whether the weight is contracted with a constant here, not with a signal."""
        return self.what == "weight" and self.view is UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What is known of one value of the forward pass.

    Attributes:
        shape: its shape.
        data: whether it is a signal: it depends on the inputs, or is treated as if it did.
        inputless: it is a signal made of constants and parameters alone, such as learned positions.
        weights: the parameters it holds that have not been combined with the signal yet.
        outputs: the outputs of weights it holds, after nothing but sums, scalings and changes of layout.
        joined: the outputs of weights it holds beside other values along an axis, after the same.
        products: the products with scales it holds, after nothing but changes of layout.
        gates: for the product of a contraction of two signals, the signal that has only some of its axes.
        stretched: axes along which it is constant because it was broadcast.
        constant: for a constant, its numbers, evaluated on demand.
        columns: for a signal joined with constants along its last axis, as indices are, the values that were joined.
        units: where units are followed, along which axes they lie.
        mixed: why it holds something that was made of several units.
        behind: a bit for each use, and for each loop's state, on which it depends.
        without: a bit for each use of whose outputs the equation left every entry out.
    """

    shape: tuple[int, ...]
    data: bool = False
    inputless: bool = False
    weights: tuple[View, ...] = ()
    outputs: tuple[View, ...] = ()
    joined: tuple[View, ...] = ()
    products: tuple[View, ...] = ()
    gates: tuple[View, ...] = ()
    stretched: frozenset[int] = frozenset()
    constant: Constant | None = None
    columns: tuple[Value, ...] = ()
    units: tuple[View, ...] = ()
    mixed: Stop | None = None
    behind: int = 0
    without: int = 0

    @property
    def numbers(self) -> Numbers | None:
        """The numbers of a constant of integers; `None` for any other value, or where they are not known."""
        number = self.constant.number if self.constant is not None else None
        return number if number is not None and np.issubdtype(number.dtype, np.integer) else None

    @property
    def looked(self) -> bool:
        """Whether it holds entries that were looked up in a parameter."""
        return any(view.looked or view.picked for view in self.weights)

    @property
    def fed_by_constant(self) -> bool:
        """Whether it holds a parameter that was contracted with a constant."""
        return any(view.fed_by_constant for view in self.weights)

    @property
    def is_signal(self) -> bool:
        """Whether it holds something of a parameter that is a signal already."""
        return any(view.is_signal for view in self.weights)

    @property
    def is_zero(self) -> bool:
        """Whether it is a constant, all zeros."""
        return self.constant is not None and self.constant.is_zero

    def beside(self, *others: Value) -> Value:
        """Return the value with its parameters marked as offset where one of some other values is not zero.

        Args:
            others: what its parameters stand beside, or what is added to them; those that hold parameters don't count.
        """
        if all(other.weights or other.data or other.is_zero for other in others):
            return self
        return self.with_weights(lambda view: replace(view, offset=True))

    def with_weights(self, change: Callable[[View], View]) -> Value:
        """Return the value with each of its parameters changed."""
        return replace(self, weights=tuple(map(change, self.weights)))


class Uses:
    """The uses found so far, and the state of the walk.

    Attributes:
        all: the uses, in the order of the forward pass.
        links: numbers for contractions of parameters with each other.
        place: the current equation.
        loops: loop → the parameters of which each step takes one entry, and the factors of that entry.
        whiles: the `while` loops among them.
        real: the parameters that are real.
        goes_back: whether the current equation carries a cotangent back.
        own_gradient: whether the current equation is inside a function with a custom gradient.
        backward: the uses with cotangents, once the walk is over.
        readers: variable of the current jaxpr → the primitives that read it; by its `id`.
        wholes: variable → the variable whose entries it holds, moved; by their `id`s.
    """

    def __init__(self) -> None:
        self.all: list[Use] = []
        self.links = itertools.count(1)
        self.place: Place = ()
        self.loops: dict[Place, dict[int, tuple[Factor, ...]]] = {}
        self.whiles: set[Place] = set()
        self.real: frozenset[int] = frozenset()
        self.goes_back = False
        self.own_gradient = False
        self.backward: list[Use] = []
        self.readers: Mapping[int, Sequence[str]] = {}
        self.wholes: dict[int, int] = {}

    def enter(self, outputs: View, what: What, line: str, parts: Parts, **more: Any) -> View:
        """Enter a use of a parameter, and return its outputs.

        Args:
            outputs: a view of the result, of which the parameter and the axes are taken.
            what: as what the parameter is used.
            line: the line of the forward pass.
            parts: what each factor does.
            more: other fields of the use.
        """
        number = len(self.all)
        use = Use(param=outputs.param, what=what, line=line, parts=parts, place=self.place, number=number, **more)
        use.goes_back = self.goes_back
        self.all.append(use)
        return View(param=outputs.param, axes=outputs.axes, use=number)

    def of(self, outputs: View) -> Use:
        """Return the use that made some outputs."""
        return self.all[outputs.use]

    def with_dependencies(self, first: int, operands: Sequence[Value], results: Sequence[Value]) -> list[Value]:
        """Return the results of an equation with the uses and the inputs they depend on.

        Args:
            first: how many uses there were before the equation.
            operands: its operands.
            results: its results.
        """
        behind = functools.reduce(operator.or_, (value.behind for value in operands), 0)
        entered = self.all[first:]
        for use in entered:
            use.behind |= behind
        behind = functools.reduce(operator.or_, (self.bit(use.number) for use in entered), behind)
        if all(value.inputless for value in operands if value.data):
            results = [replace(result, inputless=True) if result.data else result for result in results]
        if not behind:
            return list(results)
        return [replace(result, behind=(result.behind | behind) & ~result.without, without=0) for result in results]

    def bit(self, number: int) -> int:
        """Return the bit of a use."""
        return 1 << 2 * number

    def loop_bit(self, place: Place) -> int:
        """Return the bit of the state of a loop."""
        return 2 << 2 * list(self.loops).index(place)

    def depends(self, use: int, other: int) -> bool:
        """Return whether the signal of a use depends on the outputs of another use."""
        return bool(self.all[use].behind & self.bit(other))

    def whole(self, atom: Any) -> int:
        """Return the `id` of the variable whose entries a variable holds, as a window does; else its own `id`."""
        return self.wholes.get(id(atom), id(atom))

    def is_shared(self, atom: Any) -> bool:
        """Return whether more than one equation reads a variable of the jaxpr that the walk is in."""
        return len(self.readers[id(atom)]) > 1

    def is_centered(self, atom: Any) -> bool:
        """Return whether a variable is read by a subtraction or a division, as a norm reads its mean."""
        return not {"sub", "div"}.isdisjoint(self.readers[id(atom)])

    def with_axes(self, views: tuple[View, ...]) -> tuple[View, ...]:
        """Note in the uses of some outputs along which axes they lie, and return the outputs."""
        for view in views:
            self.of(view).outputs.axes = tuple(index for index, axis in enumerate(view.axes) if not is_foreign(axis))
        return views


def by_parameter(uses: Iterable[Use]) -> defaultdict[int, list[Use]]:
    """Return the uses of each parameter, by its number."""
    uses_of: defaultdict[int, list[Use]] = defaultdict(list)
    for use in uses:
        uses_of[use.param].append(use)
    return uses_of


def parts_of(*pairs: tuple[Part, Iterable[Factor]]) -> Parts:
    """Return factor → what it does, by the last pair with the factor; foreign factors are left out."""
    return {factor: part for part, factors in pairs for factor in factors if factor.axis >= 0}


def assign(parts: Parts, factors: Iterable[Factor], part: Part) -> None:
    """Set what some factors do; foreign factors are left out."""
    parts |= parts_of((part, factors))
