"""Uses: the equations in which a parameter meets the signal, and what each of its axes does there."""

from __future__ import annotations

import functools
import itertools
import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from initax._trace._factors import Factor, is_foreign, length
from initax._trace._indices import Constant, Numbers
from initax._trace._views import Stop, View

Place = tuple[int, ...]
"""Where an equation stands: its number in each jaxpr on the way to it. A branch of a `cond` has a number of its own."""

Part = Literal["in", "out", "batch", "field", "along"]
"""What a factor does in a use; `along` is an axis that a scale shares with the signal, entry by entry."""
What = Literal["weight", "conv", "transposed", "scale", "bias", "embedding", "other"]
MetAs = Literal["", "bias", "scale", "factor"]
"""What rows that the data look up are to what they meet, see `Use.met_as`."""
CONSTANT_FIRST = "it is contracted with a constant first, and then multiplied with the signal"
"""Why a use is left out where others are read: a recurrence that starts with zeros has such a use."""
CONTRACTIONS: tuple[What, ...] = ("weight", "conv", "transposed")
"""Uses that make outputs from the signal."""


UNSEEN = View(param=-1, axes=())
"""Stands for a parameter in a use that tells nothing of its axes."""

Taken = tuple[int, frozenset[tuple[Factor, int]]]
"""A part of the outputs of a use: the number of the use, and the factors of which one entry was taken, and which."""


@dataclass(slots=True, kw_only=True)
class Outputs:
    """What later equations do with the outputs of a use.

    Attributes:
        axes: the axes of the use's result along which they lie.
        entries: factors of which single entries are taken, and which entries.
        members: factors along which the next weight is a stack.
        uneven: factors that are cut into parts of unequal size.
        rejoined: factors whose parts come together again, or are all contracted with the next weight.
        added_to: pairs of a part of them and a part of outputs of the same parameter that are added up, entry by entry.
    """

    axes: tuple[int, ...] = ()
    entries: set[tuple[Factor, int]] = field(default_factory=set)
    members: set[Factor] = field(default_factory=set)
    uneven: set[Factor] = field(default_factory=set)
    rejoined: set[Factor] = field(default_factory=set)
    added_to: set[tuple[Taken, Taken]] = field(default_factory=set)

    def gates(self) -> tuple[Factor, ...]:
        """Return the factors of which every entry is used on its own, such as gates."""
        taken: dict[Factor, set[int]] = {}
        for factor, digit in self.entries:
            taken.setdefault(factor, set()).add(digit)
        return tuple(
            factor
            for factor, digits in taken.items()
            if factor.size > 1
            and len(digits) == factor.size
            and not any(map(factor.is_inside, self.rejoined))
            and not any(factor.is_inside(each) or each.is_inside(factor) for each in self.uneven)
        )


@dataclass(slots=True, kw_only=True)
class Use:
    """One place where a parameter meets the signal. Later equations add to it what they do with its outputs.

    Attributes:
        param: the number of the parameter.
        what: what it is to the signal.
        line: the line of the forward pass.
        parts: what each factor does.
        inside: the factors that its equation sums over; sums of its outputs may follow.
        strides: by how much a convolution's strides divide the effective fan_in and fan_out.
        outputs: what later equations do with its outputs.
        biased: for a bias, the uses to whose outputs it is added, in the order of the forward pass.
        through: other parameters that it was contracted with before it met the signal.
        normalized: it is divided by a statistic of itself.
        stop: why it can't be read.
        view: the parameter as a contraction, a convolution or a sum takes it, `UNSEEN` where it meets no signal so.
        at: the equation: its place in the jaxpr, and in each jaxpr around it, outermost first.
        goes_back: it meets a cotangent, which a gradient inside the forward pass carries back, and no signal.
        met_as: for rows that the data look up, what they are to what they meet: `bias` or `scale` of a signal, or
            `factor` where they are combined with a parameter, or with themselves, before they meet one.
        product: it is multiplied with the signal, entry by entry.
        signal: for a product, the value of which the signal is a part, see `Uses.whole`.
        number: its number, in the order of the forward pass.
        behind: the uses on whose outputs the signal that it meets depends, and the loops whose state it depends on, as
            bits of a number.
        gated: factors that it is summed over, along which a factor of the signal varies that is the same along others.
        makes_weights: its outputs are contracted with another signal as a weight is.
    """

    param: int
    what: What
    line: str = ""
    parts: dict[Factor, Part] = field(default_factory=dict)
    inside: frozenset[Factor] = frozenset()
    strides: tuple[float, float] = (1, 1)
    outputs: Outputs = field(default_factory=Outputs)
    biased: tuple[Use, ...] = ()
    through: frozenset[int] = frozenset()
    normalized: bool = False
    stop: Stop | None = None
    view: View = UNSEEN
    at: Place = ()
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
        """Return the number of inputs of an output, and of outputs of an input, by this use alone."""
        inputs = length(factor for factor, part in self.parts.items() if part in ("in", "field"))
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
        """Note why it can't be read; the first reason stays."""
        self.stop = self.stop or Stop(reason, line)

    @property
    def is_summed_later(self) -> bool:
        """Whether it sums over inputs after its equation."""
        return any(part == "in" and factor not in self.inside for factor, part in self.parts.items())

    @property
    def is_of_a_constant(self) -> bool:
        """Whether the weight is contracted with a constant here, and with no signal."""
        return self.what == "weight" and self.view is UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What is known of one value of the forward pass.

    Attributes:
        shape: its shape.
        data: whether it depends on the inputs, or is a signal for another reason.
        inputless: it is a signal that is made of constants and parameters alone, as positions that a network takes in.
        weights: parameters in it that have not met the signal yet.
        outputs: weights whose outputs it holds, with nothing but sums, scalings and layout since.
        joined: weights whose outputs it holds beside other values along an axis, likewise.
        products: scales it was multiplied with, with nothing but layout since.
        gates: signals by which a contraction multiplied it, which have some of its axes, with nothing but layout since.
        stretched: axes along which it is constant because it was broadcast.
        constant: for a constant, what works it out where somebody asks.
        columns: for a signal that constants are joined with along its last axis, as indices are, what was joined.
        units: where units are followed, along which axes they lie.
        mixed: why there is something in it that was made of several units, and is no unit.
        behind: the uses on whose outputs it depends, and the loops whose state it depends on, as bits of a number.
        without: the uses of whose outputs an equation has just left every entry out, as bits of a number.
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
        """The numbers of a constant of integers; `None` where it is not one, or not known."""
        found = self.constant.number if self.constant is not None else None
        return found if found is not None and np.issubdtype(found.dtype, np.integer) else None

    @property
    def looked(self) -> bool:
        """Whether it holds entries that are looked up in a parameter."""
        return any(view.looked or view.picked for view in self.weights)

    @property
    def fed_by_constant(self) -> bool:
        """Whether it holds a parameter that was contracted with a constant."""
        return any(view.fed_by_constant for view in self.weights)

    @property
    def is_signal(self) -> bool:
        """Whether it holds something of a parameter that is a signal already."""
        return any(view.is_signal for view in self.weights)


class Uses:
    """The uses found so far, and what the walk knows of the place it is at.

    Attributes:
        found: the uses, in the order of the forward pass.
        links: numbers for contractions of parameters with each other.
        at: the equation the walk is at.
        loops: the equations that are loops → the parameters of which each step takes one entry.
        whiles: those of them whose number of steps is not known before they run.
        real: the parameters that are real.
        goes_back: whether the equation carries a cotangent back.
        own_gradient: whether it is of a function with a gradient of its own.
        backward: the uses in which a cotangent meets a parameter, once the walk is over.
        readers: the primitives that read each variable of the jaxpr that the walk is in, by its `id`.
        wholes: variable → the one of which it holds entries, moved; by their `id`s.
    """

    def __init__(self) -> None:
        self.found: list[Use] = []
        self.links = itertools.count(1)
        self.at: Place = ()
        self.loops: dict[Place, dict[int, tuple[Factor, ...]]] = {}
        self.whiles: set[Place] = set()
        self.real: frozenset[int] = frozenset()
        self.goes_back = False
        self.own_gradient = False
        self.backward: list[Use] = []
        self.readers: Mapping[int, Sequence[str]] = {}
        self.wholes: dict[int, int] = {}

    def enter(self, outputs: View, what: What, line: str, parts: dict[Factor, Part], **more: Any) -> View:
        """Enter a use of a parameter, and return its outputs.

        Args:
            outputs: its outputs, of which the parameter and the axes count.
            what: what the parameter is to the signal.
            line: the line of the forward pass.
            parts: what each factor does.
            more: other fields of the use.
        """
        number = len(self.found)
        use = Use(param=outputs.param, what=what, line=line, parts=parts, at=self.at, number=number, **more)
        use.goes_back = self.goes_back
        self.found.append(use)
        return View(param=outputs.param, axes=outputs.axes, use=number)

    def after(self, first: int, operands: Sequence[Value], results: Sequence[Value]) -> list[Value]:
        """Return the results of an equation with what they depend on: uses of parameters, and inputs.

        Args:
            first: how many uses there were before the equation.
            operands: what it takes in.
            results: what it leaves.
        """
        behind = functools.reduce(operator.or_, (value.behind for value in operands), 0)
        entered = self.found[first:]
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

    def loop_bit(self, at: Place) -> int:
        """Return the bit of the state of a loop."""
        return 2 << 2 * list(self.loops).index(at)

    def depends(self, use: int, other: int) -> bool:
        """Return whether the signal that a use meets depends on the outputs of another use."""
        return bool(self.found[use].behind & self.bit(other))

    def whole(self, atom: Any) -> int:
        """Return the `id` of the variable of which one holds entries, such as a window; its own where it is no part."""
        return self.wholes.get(id(atom), id(atom))

    def is_shared(self, atom: Any) -> bool:
        """Return whether more than one equation reads a variable of the jaxpr that the walk is in."""
        return len(self.readers[id(atom)]) > 1

    def is_centered(self, atom: Any) -> bool:
        """Return whether something is subtracted from a variable, or divides it, as a norm does with its mean."""
        return not {"sub", "div"}.isdisjoint(self.readers[id(atom)])

    def with_axes(self, views: tuple[View, ...]) -> tuple[View, ...]:
        """Note in the uses of some outputs along which axes they lie, and return the outputs."""
        for view in views:
            axes = tuple(index for index, axis in enumerate(view.axes) if not is_foreign(axis))
            self.found[view.use].outputs.axes = axes
        return views


def by_parameter(uses: Iterable[Use]) -> defaultdict[int, list[Use]]:
    """Return the uses of each parameter, by its number."""
    found: defaultdict[int, list[Use]] = defaultdict(list)
    for use in uses:
        found[use.param].append(use)
    return found


def parts_of(*said: tuple[Part, Iterable[Factor]]) -> dict[Factor, Part]:
    """Return what each of some factors does, as it is said last; those of no parameter are left out."""
    return {factor: part for part, factors in said for factor in factors if factor.axis >= 0}


def assign(parts: dict[Factor, Part], factors: Iterable[Factor], part: Part) -> None:
    """Set what some factors do; those of no parameter are left out."""
    for factor in factors:
        if factor.axis >= 0:
            parts[factor] = part


def resolve_links(views: tuple[View, ...], parts: list[dict[Factor, Part]]) -> None:
    """Follow the signal through contractions of parameters with each other: outputs of one are inputs of the next.

    Of two parameters contracted first, the one that meets the signal is upstream. A link with the signal on both
    sides, or on none, stays open.
    """
    fed = [any(part == "in" for part in each.values()) for each in parts]
    left = {link.number for view in views for link in view.links if link.number > 0}
    moved = True
    while moved:
        moved = False
        for number in sorted(left):
            linked = [place for place, view in enumerate(views) if any(link.number == number for link in view.links)]
            if len({fed[place] for place in linked}) == 1:
                continue
            left.remove(number)
            moved = True
            for place in linked:
                factors = (factor for link in views[place].links if link.number == number for factor in link.factors)
                assign(parts[place], factors, "out" if fed[place] else "in")
                fed[place] = True
