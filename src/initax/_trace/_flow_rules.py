"""What each equation does to its operands: a table from the rule that reads weights to one that labels operands.

A rule returns the operands that a result depends on, each with a label, and what is known of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from initax._trace import _equations as equations
from initax._trace._flow_graph import Label, Node
from initax._trace._primitives import UNKNOWN, Primitive, row_of
from initax._trace._quantized import cast
from initax._trace._ragged import ragged_dot_general

Facts = dict[str, Any]
"""Fields of a node."""
Labelled = tuple[list[tuple[Node, Label]], Facts]
"""Operands and what becomes of them, and what is known of the result."""
FlowRule = Callable[[Any, list[Node], Any, Facts], Labelled]
"""From an equation, its operands, the variable of its result and what follows from what they are made of."""

SHRINKS = 2
"""A slice with less than one in this many entries is a part, and no longer the value itself."""
MANY = 8
"""Values of which an activation may be made, entry by entry, before it is taken for a value of its own."""


def labelled(eqn: Any, values: list[Node], var: Any) -> Labelled:
    """Return what becomes of the operands of an equation in one of its results.

    Args:
        eqn: the equation.
        values: its operands.
        var: the variable of the result.
    """
    facts = shared(values)
    facts["constant"] = False
    row = row_of(eqn)
    rule = RULES.get(row.read) if row.read is not None else None
    if rule is not None:
        return rule(eqn, values, var, facts)
    if row.unchanged or row.moments in ("layout", "parts"):
        return _moved(eqn, values, var, facts)
    if row.moments == "sum" or eqn.primitive.name == "fft":
        return _summed(eqn, values, var, facts)
    return [(value, "function") for value in values], facts if row is UNKNOWN else _function(row, values, facts)


def _function(row: Primitive, values: list[Node], facts: Facts) -> Facts:
    is_entrywise = row.units in ("function", "product") or row.moments == "function"
    if row.moments == "largest" or not is_entrywise:
        return facts | {"statistic": not facts["plain"]}
    statistic = all(value.statistic or value.constant for value in values)
    return facts | {"statistic": statistic, "roots": _roots(values)}


def _contracted(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    left, right = values[:2]
    if left.constant or right.constant:
        return [(right if left.constant else left, "linear")], facts
    if not left.plain and not right.plain:
        return [(left, "mix"), (right, "mix")], facts
    if facts["looked"]:
        facts = {}  # what is looked up in a table is a signal where a weight takes it in
    elif facts["plain"]:
        facts["contracted"] = True
    return [(left, "weight" if right.plain else "linear"), (right, "weight" if left.plain else "linear")], facts


def _added(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    signals = [value for value in values if not value.constant]
    roots = [value.roots for value in signals]
    alike = len(roots) == 2 and bool(roots[0] & roots[1])
    if len(signals) == 1 or alike or any(value.plain for value in signals):
        facts["roots"] = _roots([each for each in signals if not each.plain] or signals)
    facts["statistic"] = all(value.statistic or value.plain for value in signals) and not facts["plain"]
    return [(each, "add" if len(signals) > 1 else "scale") for each in signals], facts


def _multiplied(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    left, right = values
    is_div = row_of(eqn).read is equations.div
    fixed = all(value.statistic or value.plain or value.constant for value in values)
    facts |= {"statistic": fixed and not facts["plain"]}
    facts["roots"] = _roots([value for value in values if not value.constant and not value.plain] or values)
    if right.constant or (left.constant and not is_div):
        return [(left if right.constant else right, "scale")], facts
    if left.constant:
        return [(right, "function")], facts
    if right.plain or (left.plain and not is_div):
        return [(left, "scale"), (right, "scale")], facts
    if right.statistic:
        return [(left, "norm"), (right, "statistic")], facts
    if left.statistic and not is_div:
        return [(left, "statistic"), (right, "norm")], facts
    if left.roots & right.roots:
        return [(left, "function"), (right, "function")], facts
    return [(left, "gate"), (right, "function" if is_div else "gate")], facts | {"roots": frozenset()}


def _selected(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    which, *cases = values
    signals = [case for case in cases if not case.constant]
    if not signals:
        return [(which, "function")], facts
    itself = not which.constant and any(which.roots & case.roots for case in signals)
    facts = shared(signals) | {"statistic": all(case.statistic for case in signals), "constant": False}
    if itself or len(signals) == 1:
        facts["roots"] = _roots(signals)
    return [(case, "function" if itself else "carry") for case in signals], facts


def _looked_up(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    first, *indices = values
    if first.plain:
        # A table stays one, and which of its entries are taken is data's.
        taken = any(not each.plain and not each.constant for each in indices)
        facts |= {"plain": True, "params": first.params, "contracted": first.contracted}
        facts["looked"] = first.looked or taken
    shapes = (eqn.invars[0].aval.shape, var.aval.shape)
    if len(shapes[0]) == len(shapes[1]):
        is_part = any(after * SHRINKS < before for before, after in zip(*shapes, strict=True))
        return [(first, "part" if is_part else "carry")], facts
    return [(first, _cut(_entries(var), _entries(eqn.invars[0])))], facts


def _sliced(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Strides leave a value what it is: a slice takes less than half of it where its ends say so."""
    ends = zip(eqn.params["start_indices"], eqn.params["limit_indices"], strict=True)
    return [(values[0], _cut(math.prod(last - first for first, last in ends), _entries(eqn.invars[0])))], facts


def _joined(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    signals = [value for value in values if not value.constant]
    return [(signal, "carry" if len(signals) == 1 else "join") for signal in signals], facts


def _written(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Entries of one value written over those of another, or added to them, at indices that come last."""
    under, over = values[:2] if row_of(eqn).read is equations.dynamic_update_slice else (values[0], values[2])
    is_sum = eqn.primitive.name == "scatter-add"
    return (_added if is_sum else _joined)(eqn, [under, over], var, facts)


def _moved(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    size, entries = _entries(var), _entries(eqn.invars[0])
    facts["statistic"] = values[0].statistic
    if size >= entries:
        facts["roots"] = values[0].roots
    return [(values[0], _cut(size, entries))], facts


def _summed(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """A sum of products is a contraction that is written out, and no statistic."""
    products = any(how in ("gate", "scale", "mix") for _, how in values[0].operands)
    is_statistic = row_of(eqn).moments == "sum" and not facts["plain"] and not products
    return [(values[0], "linear")], facts | {"statistic": is_statistic}


RULES: dict[Any, FlowRule] = {
    equations.contract: _contracted,
    equations.convolve: _contracted,
    ragged_dot_general: _contracted,
    equations.add: _added,
    equations.complex_of: _added,
    equations.mul: _multiplied,
    equations.div: _multiplied,
    equations.select: _selected,
    equations.gather: _looked_up,
    equations.dynamic_slice: _looked_up,
    equations.cut: _sliced,
    equations.scatter: _written,
    equations.dynamic_update_slice: _written,
    equations.concatenate: _joined,
    equations.stack: _joined,
    equations.pad: _moved,
    equations.rev: _moved,
    equations.tile: _moved,
    equations.keep: _moved,
    equations.cumsum: _summed,
    equations.reduce_sum: _summed,
    cast: _moved,
}
"""Rule that reads weights in an equation → rule that labels its operands."""


def _entries(atom: Any) -> int:
    return math.prod(getattr(atom.aval, "shape", ()))


def _cut(size: int, entries: int) -> Label:
    return "part" if size * SHRINKS < entries else "carry"


def _roots(values: Sequence[Node]) -> frozenset[int]:
    found = frozenset[int]().union(*(value.roots for value in values if not value.constant))
    return found if len(found) <= MANY else frozenset()


def shared(nodes: Sequence[Node]) -> Facts:
    """Return what follows for a value from what it is made of."""
    constant = all(each.constant for each in nodes)
    plain = all(each.plain or each.constant for each in nodes) and not constant
    return {
        "plain": plain,
        "params": frozenset[int]().union(*(each.params for each in nodes)) if plain else frozenset[int](),
        "looked": plain and any(each.looked for each in nodes),
        "contracted": plain and any(each.contracted for each in nodes),
        "constant": constant,
    }
