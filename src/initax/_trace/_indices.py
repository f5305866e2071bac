"""Constants of the forward pass, worked out when an equation asks which entries they number."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

Numbers = np.ndarray[tuple[int, ...], np.dtype[Any]]

LARGEST = 1 << 20
"""Constants with more entries are not worked out."""

DEEPEST = 100
"""Constants that a longer chain of equations leads to are not worked out either."""


class Constant:
    """A constant of the forward pass, worked out when it is first needed.

    Args:
        number: what it is, where that is known.
        eqn: the equation it comes from, otherwise.
        operands: the constants that the equation works on.
        place: which of its results it is.
    """

    __slots__ = ("_asked", "_eqn", "_number", "_operands", "_place", "depth")

    def __init__(self, number: Any = None, eqn: Any = None, operands: Sequence[Constant] = (), place: int = 0) -> None:
        self._number, self._eqn, self._operands, self._place = number, eqn, tuple(operands), place
        self._asked = eqn is None
        self.depth: int = 1 + max((operand.depth for operand in operands), default=0)

    @property
    def number(self) -> Numbers | None:
        """Its numbers; `None` where they are too many, or can't be worked out now."""
        if not self._asked:
            self._asked = True
            self._number = self._worked_out()
        return None if self._number is None else np.asarray(self._number)

    def _worked_out(self) -> Any:
        eqn = self._eqn
        small = all(math.prod(getattr(var.aval, "shape", ())) <= LARGEST for var in (*eqn.invars, *eqn.outvars))
        if not small or self.depth > DEEPEST or eqn.effects:
            return None
        try:
            with jax.ensure_compile_time_eval():
                found = self._evaluated(eqn)
            return None if isinstance(found, jax.core.Tracer) else found  # a call inside `jax.jit` is not worked out
        except Exception:
            return None  # what JAX can't work out here, for whatever reason, is not known

    def _evaluated(self, eqn: Any) -> Any:
        numbers = [operand.number for operand in self._operands]
        if any(number is None for number in numbers):
            return None
        operands = [jnp.asarray(each, atom.aval.dtype) for each, atom in zip(numbers, eqn.invars, strict=True)]
        return evaluated(eqn, operands)[self._place]


class Series(Constant):
    """A number that changes from step to step of a loop, and depends on nothing but the step.

    Args:
        loop: the place of the loop.
        numbers: what gives its numbers in the order of the steps, along a first axis; `None` where an equation does.
        eqn: the equation it comes from, otherwise.
        operands: the constants and series that the equation works on.
        place: which of its results it is.
    """

    __slots__ = ("_numbers", "loop")

    def __init__(
        self,
        loop: tuple[int, ...],
        numbers: Callable[[], Numbers | None] | None = None,
        eqn: Any = None,
        operands: Sequence[Constant] = (),
        place: int = 0,
    ) -> None:
        super().__init__(None, eqn, operands, place)
        self.loop, self._numbers = loop, numbers

    @property
    def number(self) -> None:
        """There is no one number."""

    @property
    def steps(self) -> Numbers | None:
        """The numbers, in the order of the steps, along a first axis; `None` where they can't be worked out."""
        found = self._numbers() if self._numbers is not None else super().number
        return None if found is None else np.asarray(found)

    def indices(self, which: int, size: int) -> Numbers | None:
        """Return an entry of it at each step as an index of an axis of some size; `None` where it is not always one."""
        steps = self.steps
        if steps is None:
            return None
        entries = steps.reshape(len(steps), -1)[:, which]
        return entries.astype(np.intp) if ((entries >= 0) & (entries < size)).all() else None

    def _evaluated(self, eqn: Any) -> Any:
        each = [operand.steps if isinstance(operand, Series) else operand.number for operand in self._operands]
        if any(number is None or number.size > LARGEST for number in each):
            return None
        operands = [jnp.asarray(number, atom.aval.dtype) for number, atom in zip(each, eqn.invars, strict=True)]
        axes = [0 if isinstance(operand, Series) else None for operand in self._operands]
        return jax.vmap(lambda *values: evaluated(eqn, values)[self._place], axes)(*operands)


def constant_of(atom: Any, number: Any) -> Constant | None:
    """Return a literal, or a constant of a jaxpr; `None` where its numbers are not known.

    Args:
        atom: the literal, or the variable of the constant.
        number: what it is.
    """
    is_literal = isinstance(atom, Literal)
    if is_literal:
        return Constant(np.asarray(number, atom.aval.dtype))
    is_known = isinstance(getattr(number, "dtype", None), np.dtype) and not isinstance(number, jax.core.Tracer)
    return Constant(number) if is_known else None


def after(eqn: Any, operands: Sequence[Constant], place: int) -> Constant | None:
    """Return a result of an equation of constants; `None` where its operands change with different loops.

    Args:
        eqn: the equation.
        operands: what it works on.
        place: which of its results.
    """
    loops = {operand.loop for operand in operands if isinstance(operand, Series)}
    if len(loops) > 1:
        return None
    loop = next(iter(loops), None)
    return Constant(None, eqn, operands, place) if loop is None else Series(loop, None, eqn, operands, place)


def shapes_of(eqn: Any) -> list[tuple[int, ...]]:
    """Return the shapes of an equation's results."""
    return [tuple(getattr(var.aval, "shape", ())) for var in eqn.outvars]


def evaluated(eqn: Any, values: Sequence[Any], *, in_context: bool = True) -> list[Any]:
    """Return the results of one equation.

    Args:
        eqn: the equation.
        values: values of its operands.
        in_context: whether it is evaluated under the mesh and the settings that it was traced under.
    """
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = ((), found) if isinstance(found, dict) else found  # a pair before JAX 0.10
    with eqn.ctx.manager if in_context else contextlib.nullcontext():
        results = eqn.primitive.bind(*functions, *values, **params)
    return list(results) if eqn.primitive.multiple_results else [results]
