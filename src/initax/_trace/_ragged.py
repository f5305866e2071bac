"""Contractions of rows in groups of uneven sizes with a weight for each group: experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from initax._trace._contract import consume, settle
from initax._trace._jaxpr import shapes_of
from initax._trace._uses import Part, Uses, Value


def ragged_dot_general(eqn: Any, values: Sequence[Value], uses: Uses, line: str) -> Value | None:
    """Follow a contraction of each group of rows with the weight of the group; sums over groups are not followed.

    Args:
        eqn: the equation.
        values: the rows, the weights, and the sizes of the groups.
        uses: where uses are entered.
        line: its line.
    """
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (left_sum, right_sum), (left_batch, right_batch) = numbers.dot_dimension_numbers
    groups = tuple(numbers.rhs_group_dimensions)
    rows, weight, sizes = values
    rows = settle(rows, uses, line) if rows.looked else rows
    if not groups or rows.weights or sizes.weights or not weight.weights or weight.looked:
        return None
    if weight.fed_by_constant or not rows.data:
        return None
    shape = shapes_of(eqn)[0]
    axes = range(len(weight.shape))
    free_left = len(rows.shape) - len(left_sum) - len(left_batch)
    free_right = [axis for axis in axes if axis not in (*right_sum, *right_batch, *groups)]
    roles: list[Part] = ["in" if axis in right_sum else "out" if axis in free_right else "batch" for axis in axes]
    old_axes = [*right_batch, *[None] * free_left, *free_right]
    outputs = consume(weight.weights, roles, old_axes, shape, uses, line)
    return Value(shape=shape, data=True, outputs=uses.with_axes(outputs))
