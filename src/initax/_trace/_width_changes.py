"""How much more an update changes each value of a wide model than of the base, and where nothing makes up for it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax.extend.core import Literal

from initax._model._survey import Traced
from initax._trace import _flow_rules as flow
from initax._trace._indices import Constant, Numbers, constant_of
from initax._trace._jaxpr import Place, line_of, open_jaxpr, size_of
from initax._trace._loops import loop_of
from initax._trace._primitives import called, row_of

ODD = 0.1
"""A change that goes with less than this power of the width is none: a variance may divide by one entry less."""

NEGLIGIBLE = 0.01
"""A smaller number is there to keep a quotient finite."""

POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "cbrt": 1 / 3, "square": 2.0}
"""Primitives that are a power of their operand → the exponent."""

SAME = (flow.moved, flow.sliced, flow.looked_up, flow.joined, flow.selected, flow.written)
"""Rules of the equations whose results change as their operands do."""

HOMOGENEOUS = ("abs", "max", "min", "reduce_max", "reduce_min", "cummax", "cummin", "sort", "reduce_window_max")
"""Functions that, of operands that are multiplied by a positive number, are multiplied by it."""

SUMS = ("reduce_sum", "cumsum", "reduce_window_sum", "psum")

STEPS = ("sign", "is_finite", "argmax", "argmin", "eq", "ne", "gt", "ge", "lt", "le")
"""Functions that do not see by which positive number their operands are multiplied."""

POSITIVE = ("abs", "square", "exp", "exp2", "logistic", "sqrt", "rsqrt")


Weights = Mapping[int, tuple[float, float] | None]
"""Parameter → the factors of its learning rate and of its standard deviation; `None` for one that is not trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is known of one value in the two models.

    Attributes:
        param: the parameter that it is, of a weight.
        kind: `"signal"` where it depends on the inputs, `"weight"` where on parameters alone, `"constant"`.
        is_vector: whether that parameter has no more than one axis.
        times: how many times as much an update changes it as in the base; `None` where the user leaves it.
        size: how many times as large its entries are, of a weight.
        numbers: its numbers in the two models, of a constant.
        positive: whether its entries have one sign, of a weight.
        trained: whether updates change it, of a weight.
        sources: what it was multiplied with since it changed as in the base, in words.
    """

    kind: str
    param: int | None = None
    is_vector: bool = False
    times: float | None = 1.0
    size: float = 1.0
    numbers: tuple[Constant, Constant] | None = None
    positive: bool = False
    trained: bool = True
    sources: tuple[str, ...] = ()


def made_up_for(
    both: tuple[Traced, Traced], weights: Weights, takers: Collection[int], **options: Any
) -> dict[int, float]:
    """Return weights that can make up for what signals were multiplied by → how many times as much these change.

    Args:
        both: the forward pass of the base and of the wide model.
        weights: parameter → what its learning rate under Adam, and its standard deviation, are multiplied with; `None`
            for one that is not trained.
        takers: the parameters that may take over a factor.
        options: `growth`, how many times as wide the model is; `products`, whether products of two signals count.
    """
    allowed = set(takers)
    while True:
        walk = _walked(both, weights, allowed, **options)
        refused = {param for param, times in walk.met.items() if len(_different(times)) > 1}
        if not refused:
            met = {param: times[0] for param, times in walk.met.items()}
            return {param: times for param, times in met.items() if not walk.is_one(times)}
        allowed -= refused


def unmade(both: tuple[Traced, Traced], weights: Weights, **options: Any) -> list[str]:
    """Return where an update changes something otherwise than in the base, in words.

    Args:
        both: the forward pass of the base and of the wide model.
        weights: as `made_up_for` takes them.
        options: as `made_up_for` takes them.
    """
    return list(dict.fromkeys(_walked(both, weights, (), **options).notes))


def _walked(both: tuple[Traced, Traced], weights: Weights, takers: Collection[int], **options: Any) -> _Walk:
    """Go through both forward passes."""
    before, after = both
    walk = _Walk(takers, **options)
    arrays = len(after.paths)
    data = len(after.closed.jaxpr.invars) - arrays - after.constants
    values = [
        replace(_weight(param, weights.get(param)), is_vector=len(variable.aval.shape) <= 1)
        for param, variable in enumerate(after.closed.jaxpr.invars[:arrays])
    ]
    values += [Change(kind="constant")] * after.constants + [Change(kind="signal")] * data
    try:
        for result in walk.call(before.closed, after.closed, values):
            if result.kind == "signal":
                walk.expect(result, "what the model returns")
    except _DifferError as error:
        line = f" from {error} on" if str(error) else ""
        walk.met.clear()
        walk.notes.append(
            f"the forward passes of the base and of the model differ{line}, and numbers that go with the width were "
            "not looked for behind other functions: give two models of one depth, or measure, ix.coordinate_check"
        )
    return walk


def _different(numbers: Sequence[float]) -> list[float]:
    """Some numbers, each once, whatever rounding does."""
    different: list[float] = []
    for number in numbers:
        if not any(math.isclose(number, other, rel_tol=1e-4) for other in different):
            different.append(number)
    return different


def growing_sums(before: Traced, after: Traced) -> set[Place] | None:
    """Return the sums over axes that are longer than in the base; `None` where the forward passes differ."""
    try:
        return set(_growing(before.closed, after.closed, ()))
    except _DifferError:
        return None


def _growing(old: Any, new: Any, place: Place) -> Iterator[Place]:
    """Yield the sums over axes that are longer than in the base."""
    for number, (narrow, wide) in enumerate(_paired(old, new)):
        at = (*place, number)
        inner = (called(narrow), called(wide))
        if inner[0] is not None and inner[1] is not None:
            yield from _growing(*inner, at)
        elif wide.primitive.name == "cond":
            branches = zip(narrow.params["branches"], wide.params["branches"], strict=True)
            for branch, both in enumerate(branches):
                yield from _growing(*both, (*at, branch))
        elif wide.primitive.name in ("scan", "while"):
            yield from _growing(loop_of(narrow, narrow.invars).body, loop_of(wide, wide.invars).body, at)
        elif wide.primitive.name in SUMS and _summed(narrow) != _summed(wide):
            yield at


def _paired(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """The equations of two jaxprs, one beside the other.

    Raises:
        _DifferError: they do not have the same equations.
    """
    narrow, wide = open_jaxpr(old).eqns, open_jaxpr(new).eqns
    for one, other in zip(narrow, wide, strict=False):
        if one.primitive.name != other.primitive.name or len(one.invars) != len(other.invars):
            raise _DifferError(line_of(other))
    if len(narrow) != len(wide):
        rest = max(narrow, wide, key=len)[min(len(narrow), len(wide)) :]
        raise _DifferError(line_of(rest[0]))
    return list(zip(narrow, wide, strict=True))


def _weight(param: int, factors: tuple[float, float] | None) -> Change:
    if factors is None:
        return Change(kind="weight", trained=False)
    return Change(kind="weight", param=param, times=factors[0], size=factors[1])


class _DifferError(Exception):
    """The two forward passes do not have the same equations."""


class _Walk:
    """Goes through the forward passes of the base and of the wide model side by side.

    Attributes:
        takers: the weights that make up for what the signals before them were multiplied by.
        notes: where an update changes something otherwise than in the base.
        met: weight → how many times as much as in the base the signals change that are multiplied with it.
    """

    def __init__(self, takers: Collection[int], *, growth: float, products: bool) -> None:
        self.takers = takers
        self.notes: list[str] = []
        self.met: defaultdict[int, list[float]] = defaultdict(list)
        self.products = products
        self.tolerance = ODD * abs(math.log(growth)) if growth != 1 else ODD

    def is_one(self, times: float | None) -> bool:
        """Whether a change is as large as in the base."""
        return times is None or (times > 0 and abs(math.log(times)) < self.tolerance)

    def expect(self, value: Change, where: str) -> None:
        """Note a value that an update changes otherwise than in the base."""
        if value.kind == "constant" or self.is_one(value.times):
            return
        sources = " and ".join(value.sources) or "multiplies weights whose factors do not fit there"
        sums = any(source.startswith("sums") for source in value.sources)
        advice = (
            "take the mean, .mean(-1), not the sum" if sums else "divide a weight by it, x @ (w / d), or leave it out"
        )
        self.notes.append(
            f"the forward pass {sources}, and no factor makes up for it: {where} changes {value.times:.4g} times as "
            f"much as in the base; {advice}"
        )

    def call(self, old: Any, new: Any, values: Sequence[Change]) -> list[Change]:
        """Return what is known of the results of a jaxpr in both models, closed or open."""
        known: dict[Any, Change] = {}
        bodies = [open_jaxpr(old), open_jaxpr(new)]
        numbers = [
            getattr(jaxpr, "consts", ()) or [None] * len(body.constvars)
            for jaxpr, body in zip((old, new), bodies, strict=True)
        ]
        equations = _paired(old, new)
        if len(bodies[0].constvars) != len(bodies[1].constvars):
            raise _DifferError
        for var, other, *both in zip(bodies[1].constvars, bodies[0].constvars, *numbers, strict=True):
            known[var] = _constant(constant_of(other, both[0]), constant_of(var, both[1]))
        known |= zip(bodies[1].invars, values, strict=True)

        def read(narrow: Any, wide: Any) -> Change:
            if not isinstance(wide, Literal):
                return known[wide]
            is_known = isinstance(narrow, Literal)
            return _constant(constant_of(narrow, narrow.val) if is_known else None, constant_of(wide, wide.val))

        for narrow, wide in equations:
            operands = [read(*atoms) for atoms in zip(narrow.invars, wide.invars, strict=True)]
            results = [self._settled(result) for result in self.step(narrow, wide, operands)]
            known |= zip(wide.outvars, results, strict=True)
        return [read(*atoms) for atoms in zip(bodies[0].outvars, bodies[1].outvars, strict=True)]

    def _settled(self, result: Change) -> Change:
        """A result; what made it change otherwise is forgotten where it changes as in the base."""
        return replace(result, sources=()) if result.sources and self.is_one(result.times) else result

    def step(self, old: Any, new: Any, values: list[Change]) -> list[Change]:
        """Return what is known of the results of an equation."""
        row, inner = row_of(new), (called(old), called(new))
        if inner[0] is not None and inner[1] is not None:
            return self.call(*inner, values)
        if row.hands_on and len(values) == len(new.outvars):
            if new.primitive.name == "stop_gradient":
                return [replace(value, trained=False) for value in values]
            return values
        if all(value.kind == "constant" for value in values):
            return _constants(old, new, values)
        match row.control:
            case "scan" | "while":
                return self._loop(old, new, values)
            case "cond":
                branches = zip(old.params["branches"], new.params["branches"], strict=True)
                cases = zip(*(self.call(*branch, values[1:]) for branch in branches), strict=True)
                return [self._joined(case, line_of(new)) for case in cases]
        result = self._equation(old, new, values)
        kind = "signal" if any(value.kind == "signal" for value in values) else "weight"
        trained = any(value.trained for value in values if value.kind == "weight")
        return [replace(result, kind=kind, numbers=None, trained=trained) for _ in new.outvars]

    def _loop(self, old: Any, new: Any, values: list[Change]) -> list[Change]:
        """The results of a loop: each step should change what it carries as the step before did."""
        loop, body = loop_of(new, values), loop_of(old, old.invars).body
        before, kept = list(loop.carry), len(self.notes)
        for _ in range(4):
            del self.notes[kept:]
            results = self.call(body, loop.body, [*loop.fixed, *before, *loop.rows])
            after = results[: len(before)]
            joined = [
                new if old.kind == "constant" and new.kind != "constant" else replace(old, numbers=None)
                for old, new in zip(before, after, strict=True)
            ]
            if joined == before:
                break
            before = joined
        for first, last in zip(before, after, strict=True):
            if last.kind != "constant" and first.times is not None and last.times is not None:
                self.expect(
                    replace(last, times=last.times / first.times),
                    f"what each step of a loop{_at(line_of(new))} carries",
                )
        return [*before, *(replace(result, numbers=None) for result in results[len(before) :])]

    def _equation(self, old: Any, new: Any, values: list[Change]) -> Change:
        """The result of an equation without an inner jaxpr, of which some operand is no constant."""
        name, row, line = new.primitive.name, row_of(new), line_of(new)
        changing = [value for value in values if value.kind != "constant"]
        if name in ("dot_general", "ragged_dot_general", "conv_general_dilated"):
            return self._contraction(old, new, values)
        if name in ("mul", "div"):
            result = self._product(values, inverse=name == "div", line=line)
            is_square = name == "mul" and new.invars[0] is new.invars[1]
            return replace(result, positive=result.positive or is_square)
        if name in POWERS or name in ("integer_pow", "pow"):
            exponent = POWERS.get(name, new.params.get("y"))
            return self._power(values, exponent, name, line)
        if name in SUMS:
            growth = 1.0 if name == "psum" else _summed(new) / _summed(old)
            if changing[0].kind == "weight" and not changing[0].positive:
                size = changing[0].size * growth**0.5
            else:
                size = changing[0].size * growth
            return replace(_multiplied(changing[0], growth, _sums_text(growth, line)), size=size)
        if name == "fft":
            lengths = [math.prod(eqn.params["fft_lengths"]) for eqn in (old, new)]
            is_inverse = new.params["fft_type"].name in ("IFFT", "IRFFT")
            growth = (lengths[1] / lengths[0]) ** (-0.5 if is_inverse else 0.5)
            return _multiplied(changing[0], growth, _sums_text(lengths[1] / lengths[0], line))
        if name in ("add", "add_any", "sub") or name in HOMOGENEOUS or row.flow in SAME:
            cases = values[1:] if name == "select_n" else values[:1] if row.flow is flow.looked_up else values
            result = self._joined([case for case in cases if case.kind != "constant"] or cases, line)
            if name in ("add", "sub"):
                self._expect_no_start(values, line)
            is_positive = name in POSITIVE or (name == "max" and len(changing) == 1)
            is_sum = name in ("add", "add_any") and all(value.positive for value in changing)
            return replace(result, positive=is_positive or is_sum or (name in HOMOGENEOUS and result.positive))
        if name not in STEPS:
            for value in changing:
                is_odd = value.kind == "weight" and value.trained and not self.is_one(value.size)
                self.expect(replace(value, times=value.size) if is_odd else value, f"what goes into {name}{_at(line)}")
        return Change(kind="signal", positive=name in POSITIVE)

    def _expect_no_start(self, values: Sequence[Change], line: str) -> None:
        """Note a number that is added to a vector with a factor, which does not reach it."""
        vectors = [value for value in values if value.param is not None and value.is_vector]
        numbers = [value.numbers[1].number for value in values if value.numbers is not None]
        is_start = len(numbers) == 1 and numbers[0] is not None and _magnitude(numbers[0]) > NEGLIGIBLE
        if is_start and vectors and not self.is_one(vectors[0].size):
            self.notes.append(
                f"a number is added to a vector before it multiplies{_at(line)}: its factor of "
                f"{vectors[0].size:.4g} does not reach the number; let the weight before it take over the factor"
            )

    def _product(self, values: Sequence[Change], *, inverse: bool, line: str) -> Change:
        """The result of a product or a quotient, entry by entry."""
        left, right = values
        if left.kind == "constant" and not inverse:
            left, right = right, left
        if right.kind == "constant":
            times, text = _ratio(right, inverse=inverse, line=line)
            result = _multiplied(left, times, text)
            return replace(result, size=result.size * times)
        if left.kind == "constant":  # of a quotient
            times, text = _ratio(left, inverse=False, line=line)
            return replace(_multiplied(self._power([right], -1, "div", line), times, text), positive=False)
        divided = self._power([right], -1, "div", line) if inverse else right
        return _both(left, divided)

    def _power(self, values: Sequence[Change], exponent: float | None, name: str, line: str) -> Change:
        """A power of a value."""
        value = values[0]
        if exponent is None and len(values) == 2 and values[1].numbers is not None and value.kind != "constant":
            number = values[1].numbers[1].number
            exponent = float(number.reshape(-1)[0]) if number is not None and number.size else None
        if exponent is None:
            for each in values:
                self.expect(each, f"what goes into {name}{_at(line)}")
            return Change(kind="signal")
        # A quotient by a weight's norm sees its entries, not by how much they change.
        times = value.size if value.kind == "weight" and exponent < 0 else value.times
        return replace(
            value,
            param=None,
            times=None if times is None else times**exponent,
            size=value.size**exponent,
            positive=value.positive or exponent % 2 == 0,
        )

    def _contraction(self, old: Any, new: Any, values: list[Change]) -> Change:
        """The result of a sum over products."""
        left, right = values[:2]
        line = line_of(new)
        growth = _contracted(new) / _contracted(old)
        if left.kind == "constant" or right.kind == "constant":
            side = 0 if left.kind == "constant" else 1
            changing, fixed = (values[1 - side], values[side])
            times = _fibers(fixed, new, side, is_random=changing.kind == "signal")
            text = _sums_text(growth, line)
            if times is None:
                times, text = _ratio(fixed, inverse=False, line=line)
                times *= growth if changing.kind == "weight" else 1.0
            return replace(_multiplied(changing, times, text), size=changing.size * times)
        result = _both(left, right)
        if left.kind == right.kind == "signal":
            if not self.products:
                return replace(result, times=None)
            return _multiplied(result, growth, _sums_text(growth, line))
        weights = [value for value in (left, right) if value.kind == "weight"]
        signal = left if left.kind == "signal" else right
        param = weights[0].param if len(weights) == 1 else None
        if param is not None and param in self.takers and signal.times is not None:
            self.met[param].append(signal.times)
            result = replace(result, times=weights[0].times, sources=())
        if not all(weight.trained for weight in weights):
            return result  # numbers that are not trained are left to the user
        if growth != 1 and any(weight.positive for weight in weights):
            self.notes.append(
                f"weights that have one sign add up over {growth:.4g} times as many inputs{_at(line)}, and factors are "
                "those of weights around zero; ix.coordinate_check measures what comes out"
            )
            return replace(result, times=1.0, sources=())
        # An update adds up over the inputs; the learning rate's factor is there for it.
        return _multiplied(result, growth, "")

    def _joined(self, values: Sequence[Change], line: str) -> Change:
        """The result of a sum, or of a choice: its operands should change alike."""
        changing = [value for value in values if value.kind != "constant"]
        if not changing:
            return replace(values[0], numbers=None)
        if any(value.times is None for value in changing):
            return replace(changing[0], times=None)
        trained = [value for value in changing if value.kind == "signal" or value.trained] or changing
        times = [value.times for value in trained if value.times is not None]
        if self.is_one(max(times) / min(times)):
            result = next((value for value in trained if value.kind == "signal"), trained[0])
            return result if len(changing) == 1 else replace(result, param=None)
        for value in trained:
            self.expect(value, f"what is added or joined{_at(line)}")
        return Change(kind="signal")


def _both(left: Change, right: Change) -> Change:
    """A product of two values that both change."""
    times = None if left.times is None or right.times is None else left.times * right.times
    return Change(
        kind="signal",
        times=times,
        size=left.size * right.size,
        positive=left.positive and right.positive,
        sources=tuple(dict.fromkeys((*left.sources, *right.sources))),
    )


def _multiplied(value: Change, times: float, text: str) -> Change:
    """A value that the forward pass multiplies, in words where it says so."""
    product = None if value.times is None else value.times * times
    sources = (*value.sources, text) if text and abs(times - 1) > 1e-6 and text not in value.sources else value.sources
    return replace(value, times=product, sources=sources)


def _constant(old: Constant | None, new: Constant | None) -> Change:
    return Change(kind="constant", numbers=None if old is None or new is None else (old, new))


def _constants(old: Any, new: Any, values: Sequence[Change]) -> list[Change]:
    """The results of an equation of constants."""
    known = [value.numbers for value in values if value.numbers is not None]
    if len(known) < len(values) or row_of(new).control is not None or new.effects:
        return [Change(kind="constant") for _ in new.outvars]
    narrow, wide = ([numbers[model] for numbers in known] for model in (0, 1))
    return [
        Change(kind="constant", numbers=(Constant(None, old, narrow, result), Constant(None, new, wide, result)))
        for result in range(len(new.outvars))
    ]


def _magnitude(number: Numbers | None, measure: Callable[[Numbers], Any] = np.max) -> float:
    """How large the entries of a constant are, without zeros and what masks; one where that is not known."""
    if number is None or number.dtype == bool or not np.issubdtype(number.dtype, np.number):
        return 1.0
    entries = np.abs(number).astype(float)
    entries = entries[np.isfinite(entries) & (entries > 0)]
    return float(measure(entries)) if entries.size else 1.0


def _ratio(constant: Change, *, inverse: bool, line: str) -> tuple[float, str]:
    """How many times as large a constant is as in the base, and what the forward pass does with it, in words."""
    if constant.numbers is None:
        return 1.0, ""
    old, new = (_magnitude(each.number) for each in constant.numbers)
    times = old / new if inverse else new / old
    if not inverse and max(old, new) <= 1:
        old, new, inverse = 1 / old, 1 / new, True
    verb = "divides" if inverse else "multiplies"
    return times, f"{verb} by {new:.4g} where the base {verb} by {old:.4g}{_at(line)}"


def _fibers(constant: Change, eqn: Any, side: int, *, is_random: bool) -> float | None:
    """How many times as large the sums over a constant are that a contraction is with; `None` where not known."""
    if constant.numbers is None or eqn.primitive.name != "dot_general":
        return None
    axes = tuple(eqn.params["dimension_numbers"][0][side])
    numbers = [each.number for each in constant.numbers]
    sums = [_fiber(number, axes, is_random=is_random) for number in numbers if number is not None]
    return sums[1] / sums[0] if len(sums) == 2 and all(sums) else None


def _fiber(number: Numbers, axes: tuple[int, ...], *, is_random: bool) -> float:
    """The largest sum over entries of one sign, or norm of others, along some axes."""
    if number.dtype != bool and np.issubdtype(number.dtype, np.complexfloating):
        number = np.abs(number)
    entries = number.astype(float)
    has_one_sign = not is_random or (entries >= 0).all() or (entries <= 0).all()
    sums = np.abs(entries).sum(axes) if has_one_sign else np.sqrt((entries**2).sum(axes))
    return float(np.max(sums)) if sums.size else 0.0


def _summed(eqn: Any) -> float:
    """Over how many entries an equation sums."""
    if eqn.primitive.name == "cumsum":
        return float(eqn.invars[0].aval.shape[eqn.params["axis"]])
    if eqn.primitive.name == "reduce_window_sum":
        return float(math.prod(eqn.params["window_dimensions"]))
    return size_of(eqn.invars[0]) / max(size_of(eqn.outvars[0]), 1) or 1.0


def _contracted(eqn: Any) -> float:
    """Over how many products a contraction sums."""
    shapes = [atom.aval.shape for atom in eqn.invars[:2]]
    if eqn.primitive.name == "conv_general_dilated":
        out_axis = eqn.params["dimension_numbers"].rhs_spec[0]
        return float(math.prod(size for axis, size in enumerate(shapes[1]) if axis != out_axis))
    numbers = eqn.params.get("dimension_numbers")
    if numbers is None:
        numbers = eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    return float(math.prod(shapes[0][axis] for axis in numbers[0][0])) or 1.0


def _sums_text(growth: float, line: str) -> str:
    return f"sums over {growth:.4g} times as many entries{_at(line)}"


def _at(line: str) -> str:
    """A line of the forward pass, to put behind a text; nothing where it is not known."""
    return f" ({line})" if line else ""
