"""What each equation does to its operands: rules that label them, for the graph of values.

A rule returns the operands that a result depends on, each with a label, and what is known of the result. The table in
`_primitives.py` has the rule of each primitive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from initax._trace._flow_graph import Label, Node
from initax._trace._jaxpr import size_of

Facts = dict[str, Any]
"""Fields of a node."""
Labelled = tuple[list[tuple[Node, Label]], Facts]
"""Operands and what becomes of them, and what is known of the result."""
FlowRule = Callable[[Any, list[Node], Any, Facts], Labelled]
"""From an equation, its operands, the variable of a result and what its operands tell of it, see `made_of`."""

SHRINKS = 2
"""A slice with less than one in this many entries is a part, not the value itself."""
MANY = 8
"""Number of values of which a value may be a function entry by entry; with more it counts as a value of its own."""


def unknown(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operands of a primitive without a row."""
    return [(value, "function") for value in values], facts


def reduced(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operands of a function of several entries of one value, as a maximum is."""
    return [(value, "function") for value in values], facts | {"statistic": not facts["plain"]}


def entrywise(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operands of a function entry by entry."""
    facts["statistic"] = all(value.statistic or value.constant for value in values)
    return [(value, "function") for value in values], facts | {"roots": _roots(values)}


def largest(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operands of a maximum over entries of one value, or of another choice of some of them."""
    operands, facts = reduced(eqn, values, var, facts)
    return operands, facts | {"homogeneous": True}


def larger(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operands of a maximum entry by entry, as ReLU is, or of an absolute value."""
    operands, facts = entrywise(eqn, values, var, facts)
    return operands, facts | {"homogeneous": _is_of_signals_and_zero(values)}


def compared(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operands of a comparison."""
    operands, facts = entrywise(eqn, values, var, facts)
    return operands, facts | {"signs": _is_of_signals_and_zero(values)}


def _is_of_signals_and_zero(values: Sequence[Node]) -> bool:
    return all(value.zero or not value.constant for value in values)


def contracted(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operands of a contraction or a convolution."""
    left, right = values[:2]
    if left.constant or right.constant:
        return [(right if left.constant else left, "linear")], facts
    if not left.plain and not right.plain:
        return [(left, "mix"), (right, "mix")], facts
    if facts["looked"]:
        facts = {}  # rows of a table are a signal when they are contracted with a weight
    elif facts["plain"]:
        facts["contracted"] = True
    return [(left, "weight" if right.plain else "linear"), (right, "weight" if left.plain else "linear")], facts


def added(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operands of a sum or a difference."""
    signals = [value for value in values if not value.constant]
    facts["shifted"] = any(value.constant and not value.zero for value in values)
    roots = [value.roots for value in signals]
    has_common_root = len(roots) == 2 and bool(roots[0] & roots[1])
    if len(signals) == 1 or has_common_root or any(value.plain for value in signals):
        facts["roots"] = _roots([signal for signal in signals if not signal.plain] or signals)
    facts["statistic"] = all(value.statistic or value.plain for value in signals) and not facts["plain"]
    return [(signal, "add" if len(signals) > 1 else "scale") for signal in signals], facts


def multiplied(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operands of a product or a quotient."""
    left, right = values
    is_div = eqn.primitive.name == "div"
    is_fixed = all(value.statistic or value.plain or value.constant for value in values)
    facts |= {"statistic": is_fixed and not facts["plain"]}
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


def selected(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operands of a choice entry by entry."""
    which, *cases = values
    signals = [case for case in cases if not case.constant]
    if not signals:
        return [(which, "function")], facts
    is_by_itself = not which.constant and any(which.roots & case.roots for case in signals)
    facts = made_of(signals) | {"statistic": all(case.statistic for case in signals)}
    facts["homogeneous"] = is_by_itself and which.signs and _is_of_signals_and_zero(cases)
    if is_by_itself or len(signals) == 1:
        facts["roots"] = _roots(signals)
    return [(case, "function" if is_by_itself else "carry") for case in signals], facts


def looked_up(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operands of a look-up."""
    first, *indices = values
    if first.plain:
        # Entries of a parameter are made of that parameter, even if the data decide which entries.
        by_data = any(not index.plain and not index.constant for index in indices)
        facts |= {"plain": True, "params": first.params, "contracted": first.contracted}
        facts["looked"] = first.looked or by_data
    shapes = (eqn.invars[0].aval.shape, var.aval.shape)
    if len(shapes[0]) == len(shapes[1]):
        is_part = any(after * SHRINKS < before for before, after in zip(*shapes, strict=True))
        return [(first, "part" if is_part else "carry")], facts
    return [(first, _carry_or_part(size_of(var), size_of(eqn.invars[0])))], facts


def sliced(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operand of a slice: a part if its ends are close enough, whatever the strides are."""
    ends = zip(eqn.params["start_indices"], eqn.params["limit_indices"], strict=True)
    size = math.prod(last - first for first, last in ends)
    return [(values[0], _carry_or_part(size, size_of(eqn.invars[0])))], facts


def joined(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label operands that are joined along an axis."""
    signals = [value for value in values if not value.constant]
    return [(signal, "carry" if len(signals) == 1 else "join") for signal in signals], facts


def written(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label a value and entries that are written over some of its own, or added to them."""
    name = eqn.primitive.name
    under, over = values[:2] if name == "dynamic_update_slice" else (values[0], values[2])
    return (added if name == "scatter-add" else joined)(eqn, [under, over], var, facts)


def moved(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operand whose entries are moved, repeated, left out or multiplied by one number."""
    size, old_size = size_of(var), size_of(eqn.invars[0])
    facts |= {"statistic": values[0].statistic, "signs": values[0].signs}
    if size >= old_size:
        facts["roots"] = values[0].roots
    return [(values[0], _carry_or_part(size, old_size))], facts


def mixed(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operand of sums that are not a statistic: of a running sum, or of a Fourier transform."""
    return [(values[0], "linear")], facts


def summed(eqn: Any, values: list[Node], var: Any, facts: Facts) -> Labelled:
    """Label the operand of a sum over axes; a sum of products is not a statistic but a contraction."""
    is_statistic = not facts["plain"] and not values[0].by("gate", "scale", "mix")
    return [(values[0], "linear")], facts | {"statistic": is_statistic}


def _carry_or_part(size: int, old_size: int) -> Label:
    """Return the label of an operand by the numbers of its entries that are left, and that there were."""
    return "part" if size * SHRINKS < old_size else "carry"


def _roots(values: Sequence[Node]) -> frozenset[int]:
    """Return the values of which a function of some values is one entry by entry; none where they are too many."""
    roots = frozenset[int]().union(*(value.roots for value in values if not value.constant))
    return roots if len(roots) <= MANY else frozenset()


def made_of(nodes: Sequence[Node]) -> Facts:
    """Return what is known of a value from the values it is made of."""
    is_constant = all(node.constant for node in nodes)
    is_plain = all(node.plain or node.constant for node in nodes) and not is_constant
    return {
        "plain": is_plain,
        "params": frozenset[int]().union(*(node.params for node in nodes)) if is_plain else frozenset[int](),
        "looked": is_plain and any(node.looked for node in nodes),
        "contracted": is_plain and any(node.contracted for node in nodes),
        "constant": is_constant,
    }
