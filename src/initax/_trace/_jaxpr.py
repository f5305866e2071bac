"""What every pass asks of a jaxpr and of its equations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

T = TypeVar("T")

Place = tuple[int, ...]
"""An equation: its number in each jaxpr from the outermost one in. A branch of a `cond` has a number of its own."""

JAX_ROOT = str(Path(jax.__file__).parent)
OWN_ROOT = str(Path(__file__).parent.parent)


def open_jaxpr(jaxpr: Any) -> Any:
    """Return the open jaxpr of a jaxpr, closed or open."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def shapes_of(eqn: Any) -> list[tuple[int, ...]]:
    """Return the shapes of an equation's results."""
    return [tuple(getattr(var.aval, "shape", ())) for var in eqn.outvars]


def size_of(atom: Any) -> int:
    """Return the number of entries of a variable or a literal."""
    return math.prod(getattr(atom.aval, "shape", ()))


def line_of(eqn: Any) -> str:
    """Return the line of the forward pass an equation comes from, `file.py:12`; empty where it is not known."""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if not frame.file_name.startswith((JAX_ROOT, OWN_ROOT, contextlib.__file__, "<")):
            return f"{Path(frame.file_name).name}:{frame.line_num}"
    return ""


def interpret(
    jaxpr: Any,
    values: Sequence[T],
    constant: Callable[[Any, Any], T],
    step: Callable[[int, Any, list[T]], Sequence[T]],
) -> list[T]:
    """Return what the results of a jaxpr hold, closed or open.

    Args:
        jaxpr: the jaxpr.
        values: what its arguments hold.
        constant: from a literal, or the variable of a constant, and its number to what it holds; the number of a
            constant of an open jaxpr is `None`.
        step: from the number of an equation, the equation and what its operands hold to what its results hold.
    """
    numbers = getattr(jaxpr, "consts", ())
    jaxpr = open_jaxpr(jaxpr)
    numbers = numbers or [None] * len(jaxpr.constvars)
    known = {var: constant(var, number) for var, number in zip(jaxpr.constvars, numbers, strict=True)}
    known |= zip(jaxpr.invars, values, strict=True)

    def read(atom: Any) -> T:
        return constant(atom, atom.val) if isinstance(atom, Literal) else known[atom]

    for number, eqn in enumerate(jaxpr.eqns):
        results = step(number, eqn, [read(atom) for atom in eqn.invars])
        known |= zip(eqn.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def array_of(atom: Any, number: Any) -> Any:
    """Return a constant as an array, a literal with the type it stands for."""
    is_literal = isinstance(atom, Literal)
    return jnp.asarray(number, atom.aval.dtype) if is_literal else number


def evaluated(eqn: Any, values: Sequence[Any], *, in_context: bool = True) -> list[Any]:
    """Return the results of one equation.

    Args:
        eqn: the equation.
        values: values of its operands.
        in_context: whether it is evaluated under the mesh and the settings that it was traced under.
    """
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = ((), bound) if isinstance(bound, dict) else bound  # a pair before JAX 0.10
    with eqn.ctx.manager if in_context else contextlib.nullcontext():
        results = eqn.primitive.bind(*functions, *values, **params)
    return list(results) if eqn.primitive.multiple_results else [results]
