"""Where values go in a forward pass: a graph of its floating-point values, with what each equation does to them.

Loops are opened twice, as if two steps were written out: what holds between these two holds between any two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal as Number

from initax._trace import _equations as equations
from initax._trace._backward import carries_back
from initax._trace._interpret import Interpreter
from initax._trace._primitives import UNKNOWN, Primitive, row_of, scan_parts
from initax._trace._quantized import cast
from initax._trace._ragged import ragged_dot_general
from initax._trace._uses import Place

Label = Literal[
    "carry", "part", "join", "add", "scale", "norm", "gate", "linear", "mix", "weight", "function", "statistic", "row"
]
"""What becomes of an operand in a result.

- `carry`: its entries are there, moved at most; `part`: less than half of them; `join`: among those of others.
- `add`: it is added to something.
- `scale`: it is multiplied with constants or parameters; `norm`: with a statistic of data; `gate`: with another signal.
- `linear`: sums of its entries; `mix`: contracted with another signal; `weight`: with a weight.
- `function`: anything that is not linear; `statistic`: it is a statistic that another operand is multiplied with.
- `row`: what a loop runs over, or collects.
"""

COLLECTIVES = frozenset(
    {
        "psum", "psum2", "psum_invariant", "pmean", "all_gather", "all_gather_invariant", "all_to_all", "ppermute",
        "pbroadcast", "reduce_scatter", "pgather", "collective_permute", "unreduced_psum",
    }
)  # fmt: skip
"""Primitives that move or add up entries between devices."""
SHRINKS = 2
"""A slice with less than one in this many entries is a part, and no longer the value itself."""
MANY = 8
"""Values of which an activation may be made, entry by entry, before it is taken for a value of its own."""


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """One floating-point value of the forward pass, or one of whole numbers or truth values.

    Attributes:
        number: its number, larger than those of its operands.
        operands: its operands and what becomes of them.
        place: where its equation stands.
        inexact: whether it is of a floating-point type: of others no gradient comes.
        params: the parameters it is made of, where it is made of nothing else.
        plain: whether it is made of parameters and constants alone.
        looked: whether entries of a parameter were taken that data decide.
        contracted: whether two parameters were contracted with each other to make it.
        constant: whether it is made of constants alone.
        statistic: whether it is a sum or a maximum over entries of a signal, or a function of such.
        roots: the values of which it is a function entry by entry.
        backward: whether it carries a cotangent.
    """

    number: int
    operands: tuple[tuple[Node, Label], ...] = ()
    place: Place = ()
    inexact: bool = True
    params: frozenset[int] = frozenset()
    plain: bool = False
    looked: bool = False
    contracted: bool = False
    constant: bool = False
    statistic: bool = False
    roots: frozenset[int] = frozenset()
    backward: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """What a loop leaves of what it carries.

    Attributes:
        first: the value behind the first step.
        last: the value behind the second one; the same where there is one step.
        steps: how many steps there are, infinitely many where that is not known.
    """

    first: Node
    last: Node
    steps: float


@dataclass(slots=True)
class Loop:
    """The steps of a loop around the equation that is looked at.

    Attributes:
        place: the loop.
        step: which of the two steps that are opened.
        steps: how many there are.
    """

    place: Place
    step: int
    steps: float


@dataclass(slots=True)
class Flow:
    """The graph.

    Attributes:
        nodes: every value, operands before results.
        sums: the additions of two signals.
        exits: number of a value that a loop leaves → what it is.
        loops: number of an addition → the loops around it, outermost first.
    """

    nodes: list[Node] = field(default_factory=list)
    sums: list[Node] = field(default_factory=list)
    exits: dict[int, Exit] = field(default_factory=dict)
    loops: dict[int, tuple[Loop, ...]] = field(default_factory=dict)


def flow_of(closed: Any, arrays: int) -> Flow:
    """Return the graph of a forward pass.

    Args:
        closed: its closed jaxpr.
        arrays: how many of its arguments are parameters; the rest are constants and inputs.
    """
    walk = _Flowing()
    operands = [
        walk.new((), (), var.aval, plain=at < arrays, params=frozenset({at} if at < arrays else ()))
        for at, var in enumerate(closed.jaxpr.invars)
    ]
    walk.call(closed, operands, ())
    return walk.flow


class _Flowing(Interpreter[Node]):
    """Makes the graph, equation by equation."""

    def __init__(self) -> None:
        self.flow = Flow()
        self.loops: tuple[Loop, ...] = ()
        self.goes_back = False

    def new(self, operands: Sequence[tuple[Node, Label]], place: Place, aval: Any, **facts: Any) -> Node:
        """Return a new value."""
        inexact = jnp.issubdtype(getattr(aval, "dtype", bool), np.inexact)
        node = Node(
            number=len(self.flow.nodes),
            operands=tuple(operands),
            place=place,
            inexact=bool(inexact),
            backward=self.goes_back or any(each.backward for each, _ in operands),
            **facts,
        )
        node.roots = node.roots or frozenset({node.number})
        self.flow.nodes.append(node)
        return node

    def literal(self, literal: Number) -> Node:
        """Return a constant."""
        return self.new((), (), literal.aval, constant=True)

    def constants(self, jaxpr: Any, numbers: Sequence[Any]) -> list[Node]:
        """Return constants."""
        return [self.new((), (), var.aval, constant=True) for var in jaxpr.constvars]

    def step(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Return the results of an equation; those of the backward part of a gradient are known as such."""
        around = self.goes_back
        self.goes_back = around or carries_back(eqn)
        results = super().step(eqn, values, at)
        self.goes_back = around
        return results

    def cond(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Return what either branch leaves."""
        branches = [self.call(each, values[1:], (*at, number)) for number, each in enumerate(eqn.params["branches"])]
        return [self._chosen(results, var, at) for results, var in zip(zip(*branches, strict=True), eqn.outvars, strict=True)]

    def _chosen(self, cases: Sequence[Node], var: Any, at: Place) -> Node:
        facts = _shared(cases)
        return self.new([(each, "carry") for each in cases], at, var.aval, **facts)

    def scan(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Open two steps of a scan."""
        consts, carries = scan_parts(eqn.params)
        body, length = eqn.params["jaxpr"], eqn.params["length"]
        invars = getattr(body, "jaxpr", body).invars
        carry = values[consts : consts + carries]
        if length == 0:
            return [*carry, *(self.new((), at, var.aval, constant=True) for var in eqn.outvars[carries:])]
        stacked = list(zip(values[consts + carries :], invars[consts + carries :], strict=True))

        def operands(carried: Sequence[Node]) -> list[Node]:
            rows = [self.new([(each, "row")], at, var.aval, **_same(each)) for each, var in stacked]
            return [*values[:consts], *carried, *rows]

        return self._twice(body, operands, carry, eqn.outvars, length, at)

    def while_loop(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Open two steps of a `while` loop."""
        tests, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carry = values[tests + consts :]
        given = values[tests : tests + consts]
        steps = steps_of(eqn)
        if steps == 0:
            return carry
        return self._twice(eqn.params["body_jaxpr"], lambda carried: [*given, *carried], carry, eqn.outvars, steps, at)

    def _twice(self, body: Any, operands: Any, carry: Sequence[Node], outvars: Any, steps: float, at: Place) -> list[Node]:
        around, carries, opened = self.loops, len(carry), []
        for step in range(min(2, math.ceil(min(steps, 2)))):
            self.loops = (*around, Loop(at, step, steps))
            opened.append(self.call(body, operands(carry), at))
            carry = opened[-1][:carries]
        self.loops = around
        first, last = opened[0], opened[-1]
        results = []
        for place, var in enumerate(outvars):
            if place >= carries:
                own = [(each[place], "row") for each in opened]
                results.append(self.new(own, at, var.aval, **_shared([each[place] for each in opened])))
                continue
            node = self.new([(last[place], "carry")], at, var.aval, **_same(last[place]))
            self.flow.exits[node.number] = Exit(first[place], last[place], steps)
            results.append(node)
        return results

    def equation(self, eqn: Any, values: list[Node], at: Place) -> list[Node]:
        """Return the results of any other equation."""
        inner = _one_jaxpr(eqn)
        if inner is not None:
            return self.call(inner, values, at)
        if all(value.constant for value in values):
            return [self.new((), at, var.aval, constant=True) for var in eqn.outvars]
        return [self._result(eqn, values, var, at) for var in eqn.outvars]

    def _result(self, eqn: Any, values: list[Node], var: Any, at: Place) -> Node:
        row = row_of(eqn)
        plain = all(value.plain or value.constant for value in values)
        params = frozenset[int]().union(*(value.params for value in values)) if plain else frozenset[int]()
        facts: dict[str, Any] = {"plain": plain, "params": params, "looked": any(value.looked for value in values)}
        if not plain:
            facts["looked"] = False
        facts["contracted"] = plain and any(value.contracted for value in values)
        size, entries = math.prod(getattr(var.aval, "shape", ())), [_entries(atom) for atom in eqn.invars]
        if row.read in (equations.contract, equations.convolve, ragged_dot_general):
            return self._contracted(values, var, at, facts)
        if row.read is equations.add and len(values) == 2:
            return self._added(values, var, at, facts)
        if row.read in (equations.mul, equations.div) and len(values) == 2:
            return self._multiplied(eqn, row, values, var, at, facts)
        if row.read is equations.select:
            return self._selected(values, var, at, facts)
        if eqn.primitive.name == "gather" or eqn.primitive.name == "dynamic_slice":
            first, *indices = values
            if first.plain and not all(each.constant for each in indices):
                # A table stays one, and which of its entries are taken is data's.
                taken = any(not each.plain and not each.constant for each in indices)
                facts |= {"plain": True, "params": first.params, "looked": first.looked or taken}
                facts["contracted"] = first.contracted
            return self.new([(first, _cut(size, entries[0]))], at, var.aval, **facts)
        if eqn.primitive.name == "slice":
            return self.new([(values[0], _sliced(eqn))], at, var.aval, **facts)
        if row.read is equations.scatter and len(values) == 3:
            under, _, over = values
            if eqn.primitive.name == "scatter-add":
                return self._added([under, over], var, at, facts)
            return self.new([(under, "join"), (over, "join")], at, var.aval, **facts)
        if row.read is equations.dynamic_update_slice:
            return self.new([(each, "join") for each in values[:2]], at, var.aval, **facts)
        if row.read in (equations.concatenate, equations.stack):
            signals = [value for value in values if not value.constant]
            label: Label = "carry" if len(signals) == 1 else "join"
            return self.new([(each, label) for each in signals], at, var.aval, **facts)
        if row.read is equations.pad:
            return self.new([(values[0], "carry")], at, var.aval, **facts)
        if row.unchanged or row.moments in ("layout", "parts") or row.read in (equations.rev, equations.tile):
            label = "carry" if row.read is cast else _cut(size, entries[0])
            roots = values[0].roots if size >= entries[0] else frozenset[int]()
            facts |= {"statistic": values[0].statistic, "roots": roots}
            return self.new([(values[0], label)], at, var.aval, **facts)
        if row.read is equations.keep and len(values) == 1:
            facts |= {"statistic": values[0].statistic, "roots": values[0].roots}
            return self.new([(values[0], "scale")], at, var.aval, **facts)
        if eqn.primitive.name in COLLECTIVES:
            facts |= {"statistic": all(value.statistic for value in values)}
            return self.new([(each, "carry") for each in values], at, var.aval, **facts)
        if row.moments == "sum" or row.read is equations.cumsum or eqn.primitive.name == "fft":
            # A sum of products is a contraction that is written out, and no statistic.
            products = any(how in ("gate", "scale", "mix") for _, how in values[0].operands)
            facts |= {"statistic": row.moments == "sum" and not plain and not products}
            return self.new([(values[0], "linear")], at, var.aval, **facts)
        if row is UNKNOWN:
            return self.new([(each, "function") for each in values], at, var.aval, **facts)
        facts |= {"statistic": all(each.statistic or each.constant for each in values), "roots": _roots(values)}
        if row.moments == "largest" or not _is_entrywise(row):
            facts |= {"statistic": not plain, "roots": frozenset()}
        return self.new([(each, "function") for each in values], at, var.aval, **facts)

    def _contracted(self, values: list[Node], var: Any, at: Place, facts: dict[str, Any]) -> Node:
        left, right = values[:2]
        if left.constant or right.constant:
            other = right if left.constant else left
            return self.new([(other, "linear")], at, var.aval, **facts)
        if facts["looked"]:
            facts = {}  # what is looked up in a table is a signal where a weight takes it in
        elif facts["plain"]:
            facts["contracted"] = True
        labels: tuple[Label, Label] = ("weight" if right.plain else "linear", "weight" if left.plain else "linear")
        if not left.plain and not right.plain:
            labels = ("mix", "mix")
        return self.new(zip((left, right), labels, strict=True), at, var.aval, **facts)

    def _added(self, values: list[Node], var: Any, at: Place, facts: dict[str, Any]) -> Node:
        signals = [value for value in values if not value.constant]
        roots = [value.roots for value in signals]
        alike = len(roots) == 2 and roots[0] & roots[1]
        if len(signals) == 1 or alike or any(value.plain for value in signals):
            facts["roots"] = _roots([each for each in signals if not each.plain] or signals)
        facts["statistic"] = all(value.statistic or value.plain for value in signals) and not facts["plain"]
        if len(signals) == 1:
            return self.new([(signals[0], "scale")], at, var.aval, **facts)
        node = self.new([(each, "add") for each in signals], at, var.aval, **facts)
        if node.inexact and not node.backward:
            self.flow.sums.append(node)
            self.flow.loops[node.number] = self.loops
        return node

    def _multiplied(
        self, eqn: Any, row: Primitive, values: list[Node], var: Any, at: Place, facts: dict[str, Any]
    ) -> Node:
        left, right = values
        is_div = row.read is equations.div
        facts["statistic"] = all(value.statistic or value.plain or value.constant for value in values)
        facts["statistic"] = facts["statistic"] and not facts["plain"]
        facts["roots"] = _roots([value for value in values if not value.constant and not value.plain] or values)
        if right.constant or (left.constant and not is_div):
            return self.new([(left if right.constant else right, "scale")], at, var.aval, **facts)
        if left.constant:
            return self.new([(right, "function")], at, var.aval, **facts)
        if right.plain or (left.plain and not is_div):
            return self.new([(left, "scale"), (right, "scale")], at, var.aval, **facts)
        if right.statistic:
            return self.new([(left, "norm"), (right, "statistic")], at, var.aval, **facts)
        if left.statistic and not is_div:
            return self.new([(left, "statistic"), (right, "norm")], at, var.aval, **facts)
        if left.roots & right.roots:
            return self.new([(left, "function"), (right, "function")], at, var.aval, **facts)
        facts["roots"] = frozenset()
        return self.new([(left, "gate"), (right, "function" if is_div else "gate")], at, var.aval, **facts)

    def _selected(self, values: list[Node], var: Any, at: Place, facts: dict[str, Any]) -> Node:
        which, *cases = values
        signals = [case for case in cases if not case.constant]
        itself = any(which.roots & case.roots for case in signals) and not which.constant
        facts["roots"] = _roots(signals or [which]) if itself or len(signals) == 1 else frozenset()
        facts["statistic"] = bool(signals) and all(case.statistic for case in signals)
        if not all(case.plain for case in signals):
            facts |= {"plain": False, "params": frozenset()}
        elif signals:
            facts |= {"plain": True, "params": frozenset().union(*(case.params for case in signals))}
        label: Label = "function" if itself else "carry"
        return self.new([(case, label) for case in signals] or [(which, "function")], at, var.aval, **facts)


def _is_entrywise(row: Primitive) -> bool:
    return row.units in ("function", "product") or row.moments == "function"


def _entries(atom: Any) -> int:
    return math.prod(getattr(atom.aval, "shape", ()))


def _cut(size: int, entries: int) -> Label:
    return "part" if size * SHRINKS < entries else "carry"


def _sliced(eqn: Any) -> Label:
    """Whether a slice takes less than half of a value, from first to last entry."""
    params, shape = eqn.params, eqn.invars[0].aval.shape
    ends = zip(params["start_indices"], params["limit_indices"], strict=True)
    return _cut(math.prod(last - first for first, last in ends), math.prod(shape))


def _roots(values: Sequence[Node]) -> frozenset[int]:
    found = frozenset[int]().union(*(value.roots for value in values if not value.constant))
    return found if len(found) <= MANY else frozenset()


def _same(node: Node) -> dict[str, Any]:
    names = ("plain", "params", "looked", "contracted", "constant")
    return {name: getattr(node, name) for name in names}


def _shared(nodes: Sequence[Node]) -> dict[str, Any]:
    plain = all(each.plain or each.constant for each in nodes)
    params = frozenset[int]().union(*(each.params for each in nodes)) if plain else frozenset[int]()
    constant = all(each.constant for each in nodes)
    return {
        "plain": plain and not constant,
        "params": params,
        "looked": plain and any(each.looked for each in nodes),
        "contracted": plain and any(each.contracted for each in nodes),
        "constant": constant,
    }


def _one_jaxpr(eqn: Any) -> Any:
    """The one jaxpr that an equation of a primitive without a row runs on its operands, as `shard_map` does."""
    if row_of(eqn) is not UNKNOWN:
        return None
    found = [value for value in eqn.params.values() if hasattr(getattr(value, "jaxpr", value), "eqns")]
    inner = getattr(found[0], "jaxpr", found[0]) if len(found) == 1 else None
    fits = inner is not None and (len(inner.invars), len(inner.outvars)) == (len(eqn.invars), len(eqn.outvars))
    alike = fits and all(hasattr(var.aval, "dtype") for var in (*inner.invars, *inner.outvars))
    return found[0] if alike and eqn.primitive.name != "pallas_call" else None


BOUNDS: dict[str, Any] = {
    "lt": lambda gap, step: math.ceil(gap / step),
    "le": lambda gap, step: math.floor(gap / step) + 1,
    "gt": lambda gap, step: math.ceil(gap / step),
    "ge": lambda gap, step: math.floor(gap / step) + 1,
    "ne": lambda gap, step: gap / step,
}
"""Comparison of a counter with its bound → how many steps of a length it takes to bridge a gap."""


def steps_of(eqn: Any) -> float:
    """Return how often a `while` loop runs that counts from one number to another, infinity where that is not known.

    Args:
        eqn: the loop's equation.
    """
    tests, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond, body = eqn.params["cond_jaxpr"].jaxpr, eqn.params["body_jaxpr"].jaxpr
    carried = eqn.invars[tests + consts :]
    if len(cond.eqns) != 1 or cond.eqns[0].primitive.name not in BOUNDS or cond.outvars[0] is not cond.eqns[0].outvars[0]:
        return math.inf
    compared = cond.eqns[0]
    around = dict(zip(cond.invars, [*eqn.invars[:tests], *carried], strict=True))
    steps = {var: _moved(body, consts + place) for place, var in enumerate(cond.invars[tests:])}
    starts, moves = [], []
    for atom in compared.invars:
        fixed = isinstance(atom, Number)
        start = atom if fixed else around[atom]
        starts.append(float(start.val) if isinstance(start, Number) and np.ndim(start.val) == 0 else None)
        moves.append(0.0 if fixed or atom not in steps else steps[atom])
    if None in starts or None in moves:
        return math.inf
    gap, step = starts[1] - starts[0], moves[0] - moves[1]
    if compared.primitive.name in ("gt", "ge"):
        gap, step = -gap, -step
    if gap < 0 or (gap == 0 and compared.primitive.name != "le" and compared.primitive.name != "ge"):
        return 0
    if step <= 0:
        return math.inf
    found = BOUNDS[compared.primitive.name](gap, step)
    return found if found == int(found) else math.inf


def _moved(body: Any, place: int) -> float | None:
    """By what a step changes a number that a loop carries, `None` where that is not known."""
    start = body.invars[place]
    end = body.outvars[place - (len(body.invars) - len(body.outvars))]
    if end is start:
        return 0.0
    for eqn in body.eqns:
        if eqn.outvars[0] is not end or eqn.primitive.name not in ("add", "sub"):
            continue
        left, right = eqn.invars
        if left is start and isinstance(right, Number):
            return float(right.val) if eqn.primitive.name == "add" else -float(right.val)
        if right is start and isinstance(left, Number) and eqn.primitive.name == "add":
            return float(left.val)
    return None
