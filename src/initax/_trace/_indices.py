"""Constants of the forward pass, evaluated when they are needed, for example as indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from initax._trace._jaxpr import Place, evaluated, size_of

Numbers = np.ndarray[tuple[int, ...], np.dtype[Any]]

LARGEST = 1 << 20
"""Constants with more entries are not evaluated."""

DEEPEST = 100
"""Constants that more equations in a row lead to are not evaluated either."""


REPEATED = frozenset({"broadcast_in_dim", "convert_element_type", "copy", "reshape", "slice", "squeeze", "transpose"})
"""Primitives whose results hold no other numbers than their first operand."""


class Constant:
    """A constant of the forward pass, evaluated when it is first needed.

    Args:
        number: its numbers, where they are known.
        eqn: the equation it comes from, otherwise.
        operands: the operands of the equation.
        result: which of the results of the equation it is.
    """

    __slots__ = ("_eqn", "_is_evaluated", "_number", "_operands", "_result", "depth")

    def __init__(self, number: Any = None, eqn: Any = None, operands: Sequence[Constant] = (), result: int = 0) -> None:
        self._number, self._eqn, self._operands, self._result = number, eqn, tuple(operands), result
        self._is_evaluated = eqn is None
        self.depth: int = 1 + max((operand.depth for operand in operands), default=0)

    @property
    def number(self) -> Numbers | None:
        """Its numbers; `None` where they are too many, or can't be evaluated now."""
        if not self._is_evaluated:
            self._is_evaluated = True
            self._number = self._evaluate()
        return None if self._number is None else np.asarray(self._number)

    @property
    def is_zero(self) -> bool:
        """Whether all of its numbers are known to be zero; one that was broadcast may be of any size."""
        if self._eqn is not None and self._eqn.primitive.name in REPEATED:
            return self._operands[0].is_zero
        number = self.number
        return number is not None and not np.any(number)

    def _evaluate(self) -> Any:
        """Return the numbers, `None` where they are too many, or can't be evaluated now."""
        eqn = self._eqn
        is_small = all(size_of(atom) <= LARGEST for atom in (*eqn.invars, *eqn.outvars))
        if not is_small or self.depth > DEEPEST or eqn.effects:
            return None
        try:
            with jax.ensure_compile_time_eval():
                result = self._evaluate_equation(eqn)
            return None if isinstance(result, jax.core.Tracer) else result  # inside of `jax.jit`
        except Exception:
            return None  # JAX can't evaluate it here, for whatever reason

    def _evaluate_equation(self, eqn: Any) -> Any:
        """Return the result of the equation; of a series those of all steps, along a first axis."""
        numbers = [operand.steps if isinstance(operand, Series) else operand.number for operand in self._operands]
        if any(number is None or number.size > LARGEST for number in numbers):
            return None
        operands = [jnp.asarray(number, atom.aval.dtype) for number, atom in zip(numbers, eqn.invars, strict=True)]
        if not isinstance(self, Series):
            return evaluated(eqn, operands)[self._result]
        axes = [0 if isinstance(operand, Series) else None for operand in self._operands]
        return jax.vmap(lambda *values: evaluated(eqn, values)[self._result], axes)(*operands)


class Series(Constant):
    """A number that changes from step to step of a loop, and depends on nothing but the step.

    Args:
        loop: the loop.
        numbers: gives its numbers in the order of the steps, along a first axis; `None` where an equation does.
        eqn: that equation.
        operands: the operands of the equation.
        result: which of the results of the equation it is.
    """

    __slots__ = ("_numbers", "loop")

    def __init__(
        self,
        loop: Place,
        numbers: Callable[[], Numbers | None] | None = None,
        eqn: Any = None,
        operands: Sequence[Constant] = (),
        result: int = 0,
    ) -> None:
        super().__init__(None, eqn, operands, result)
        self.loop, self._numbers = loop, numbers

    @property
    def number(self) -> None:
        """`None`: the number is not the same in each step."""

    @property
    def steps(self) -> Numbers | None:
        """The numbers, in the order of the steps, along a first axis; `None` where they can't be evaluated."""
        numbers = self._numbers() if self._numbers is not None else super().number
        return None if numbers is None else np.asarray(numbers)

    def indices(self, column: int, size: int) -> Numbers | None:
        """Return at each step one of its entries as an index of an axis; `None` where one is out of range.

        Args:
            column: which of its entries.
            size: the size of the axis.
        """
        steps = self.steps
        if steps is None:
            return None
        entries = steps.reshape(len(steps), -1)[:, column]
        return entries.astype(np.intp) if ((entries >= 0) & (entries < size)).all() else None


def constant_of(atom: Any, number: Any) -> Constant | None:
    """Return a literal, or a constant of a jaxpr; `None` where its numbers are not known.

    Args:
        atom: the literal, or the variable of the constant.
        number: its numbers.
    """
    is_literal = isinstance(atom, Literal)
    if is_literal:
        return Constant(np.asarray(number, atom.aval.dtype))
    is_known = isinstance(getattr(number, "dtype", None), np.dtype) and not isinstance(number, jax.core.Tracer)
    return Constant(number) if is_known else None


def computed(eqn: Any, operands: Sequence[Constant], result: int) -> Constant | None:
    """Return a result of an equation of constants; `None` where its operands change with different loops.

    Args:
        eqn: the equation.
        operands: its operands.
        result: which of its results.
    """
    loops = {operand.loop for operand in operands if isinstance(operand, Series)}
    if len(loops) > 1:
        return None
    loop = next(iter(loops), None)
    return Constant(None, eqn, operands, result) if loop is None else Series(loop, None, eqn, operands, result)
