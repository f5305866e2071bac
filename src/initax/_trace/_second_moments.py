"""How long the signal is that reaches each weight, with no data: first and second moments followed along the jaxpr.

A signal is a function of a standard normal, held as its values at the nodes of a quadrature; so an activation written
in ten equations is as exact as one. What comes out of a weight is taken for a standard normal of its own, which is what
a weight scaled by the length of its input makes of it. Where two signals meet they are taken for independent, and the
sum for normal. What is not known stays unknown, and so does everything behind it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from initax._trace._elementwise import ENTRYWISE
from initax._trace._interpret import CALLS, SAME, scan_parts
from initax._trace._uses import CONTRACTIONS, Place, Uses

MOVES = frozenset(
    {"reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "slice", "dynamic_slice", "gather"}
    | {"reduce_precision"}
)
NORMAL = 0
"""Stands for the numbers that are constants: they vary with no signal."""

STEADY = 0.02
"""Relative change of a length from one step of a loop to the next, below which a loop is taken for steady."""


@functools.cache
def quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes on [-12, 12] and the standard normal's weights at them."""
    panel, weights = np.polynomial.legendre.leggauss(24)
    starts = np.arange(-12, 12)
    nodes = (starts[:, None] + (panel + 1) / 2).ravel()
    density = np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)
    return nodes, np.tile(weights / 2, len(starts)) * density


@dataclass(frozen=True, slots=True)
class Moment:
    """A signal: its values at the nodes of the normal variable it is a function of, `NORMAL` for a constant."""

    values: np.ndarray
    of: int

    @property
    def mean(self) -> float:
        """Its mean."""
        return float(quadrature()[1] @ self.values.astype(float))

    @property
    def square(self) -> float:
        """The mean of its square."""
        return float(quadrature()[1] @ self.values.astype(float) ** 2)


class Weight:
    """Stands for a weight, and for whatever is made of weights only."""


WEIGHT = Weight()
Known = Moment | Weight | None


class Lengths:
    """The second moments of what reaches the weights.

    Args:
        uses: where the weights are used.
        constants: values that biases and scales are taken to have, by parameter.
    """

    def __init__(self, uses: Uses, constants: Mapping[int, float]) -> None:
        self.constants = constants
        self.places: dict[Place, list[int]] = {}
        for use in uses.found:
            if use.what in CONTRACTIONS and use.view is not None and not use.stop:
                self.places.setdefault(use.at, []).append(use.param)
        self.reached: dict[int, list[float | None]] = {}
        self.normals = 0

    def of(self, closed: Any, arrays: int, constants: int) -> dict[int, float | None]:
        """Return parameter → second moment of the signal that reaches it, `None` where that is not known."""
        operands: list[Known] = []
        for at, var in enumerate(closed.jaxpr.invars):
            if at < arrays:
                operands.append(_constant(self.constants[at]) if at in self.constants else WEIGHT)
            elif at < arrays + constants or not jnp.issubdtype(var.aval.dtype, np.floating):
                operands.append(None)
            else:
                operands.append(self.normal(0.0, 1.0))
        self.walk(closed.jaxpr, [None] * len(closed.jaxpr.constvars), operands, ())
        return {param: _agreed(lengths) for param, lengths in self.reached.items()}

    def normal(self, mean: float, variance: float) -> Moment | None:
        """Return a normal signal that is independent of all others."""
        if not (math.isfinite(mean) and math.isfinite(variance) and variance >= 0):
            return None
        self.normals += 1
        return Moment(mean + math.sqrt(variance) * quadrature()[0], self.normals)

    def walk(self, jaxpr: Any, consts: Sequence[Known], operands: Sequence[Known], at: Place) -> list[Known]:
        """Follow every equation of a jaxpr."""
        known: dict[Any, Known] = dict(zip(jaxpr.constvars, consts, strict=True))
        known |= zip(jaxpr.invars, operands, strict=True)

        def read(atom: Any) -> Known:
            if isinstance(atom, Literal):
                return _constant(float(atom.val)) if np.isrealobj(atom.val) else None
            return known[atom]

        for number, eqn in enumerate(jaxpr.eqns):
            results = self._step(eqn, [read(atom) for atom in eqn.invars], (*at, number))
            known |= zip(eqn.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _step(self, eqn: Any, values: list[Known], place: Place) -> list[Known]:
        name, count = eqn.primitive.name, len(eqn.outvars)
        if name in CALLS and CALLS[name] in eqn.params:
            inner = eqn.params[CALLS[name]]
            jaxpr = getattr(inner, "jaxpr", inner)
            return self.walk(jaxpr, [None] * len(jaxpr.constvars), values, place)
        if name in SAME:
            return values
        if name == "scan":
            return self._scan(eqn, values, place)
        if name in ("split", "unstack"):
            return [values[0]] * count
        if count > 1:
            return [None] * count
        return [self._one(name, eqn, values, place)]

    def _one(self, name: str, eqn: Any, values: list[Known], place: Place) -> Known:
        if name in ("dot_general", "conv_general_dilated"):
            return self._contracted(values, place)
        signals = [value for value in values if isinstance(value, Moment)]
        held = [value for value in values if isinstance(value, Weight)]
        if held and name == "gather" and len(values) == 2:
            return (
                self.normal(0.0, 1.0) if values[1] is None else WEIGHT
            )  # a look-up in an embedding, drawn to length one
        if held:
            return WEIGHT if not any(each.of != NORMAL for each in signals) and None not in values else None
        if name in MOVES:
            return values[0]
        if name in ENTRYWISE:
            return None if None in values else self._entrywise(name, eqn, signals)
        if name == "concatenate":
            return self._joined(eqn, signals) if len(signals) == len(values) else None
        if name in ("reduce_sum", "reduce_window_sum") and signals and signals[0].of != NORMAL:
            return self._summed(eqn, signals[0])
        if name in ("reduce_max", "reduce_window_max") and signals:
            return self._largest(eqn, signals[0])
        return None

    def _contracted(self, values: Sequence[Known], place: Place) -> Known:
        params = self.places.get(place)
        if not params:
            return WEIGHT if all(isinstance(value, Weight) for value in values) else None
        signal = next((value for value in values if isinstance(value, Moment)), None)
        for param in params:
            self.reached.setdefault(param, []).append(signal.square if signal is not None else None)
        return self.normal(0.0, 1.0) if len(params) == 1 else None

    def _entrywise(self, name: str, eqn: Any, signals: Sequence[Moment]) -> Known:
        of = {signal.of for signal in signals} - {NORMAL}
        if len(of) <= 1:
            return _evaluated(eqn, signals, next(iter(of), NORMAL))
        means, squares = [each.mean for each in signals], [each.square for each in signals]
        variances = [square - mean**2 for mean, square in zip(means, squares, strict=True)]
        if name in ("add", "add_any", "sub"):
            return self.normal(means[0] + (means[1] if name != "sub" else -means[1]), sum(variances))
        if name == "mul":
            mean = means[0] * means[1]
            return self.normal(mean, squares[0] * squares[1] - mean**2)
        return None

    def _joined(self, eqn: Any, signals: Sequence[Moment]) -> Known:
        sizes = np.array([math.prod(atom.aval.shape) for atom in eqn.invars], float)
        share = sizes / sizes.sum()
        mean = float(share @ [each.mean for each in signals])
        return self.normal(mean, float(share @ [each.square for each in signals]) - mean**2)

    def _summed(self, eqn: Any, signal: Moment) -> Known:
        count = _count(eqn)
        return self.normal(count * signal.mean, count * (signal.square - signal.mean**2))

    def _largest(self, eqn: Any, signal: Moment) -> Known:
        """The largest of independent copies, from the distribution function of one."""
        order = np.argsort(signal.values)
        below = np.cumsum(quadrature()[1][order])
        mass = np.diff(np.concatenate([[0.0], np.clip(below / below[-1], 0, 1) ** _count(eqn)]))
        values = signal.values[order].astype(float)
        mean = float(mass @ values)
        return self.normal(mean, float(mass @ values**2) - mean**2)

    def _scan(self, eqn: Any, values: list[Known], place: Place) -> list[Known]:
        params = eqn.params
        consts, carries = scan_parts(params)
        body = params["jaxpr"]
        carry, before = values[consts : consts + carries], self.reached
        steps: list[dict[int, list[float | None]]] = []
        results: list[Known] = []
        for _ in range(min(params["length"], 4)):
            self.reached = {}
            operands = [*values[:consts], *carry, *values[consts + carries :]]
            results = self.walk(body.jaxpr, [None] * len(body.consts), operands, place)
            carry = results[:carries]
            steps.append(self.reached)
        self.reached = before
        for param in {param for step in steps for param in step}:
            lengths = [_agreed(step.get(param, [None])) for step in steps]
            self.reached.setdefault(param, []).append(_agreed(lengths))
        moved = [value if isinstance(value, Moment) and value.of == NORMAL else None for value in carry]
        steady = len(steps) < 4 or all(each is not None for step in steps for each in _flat(step))
        return results if steady else [*moved, *[None] * (len(results) - carries)]


def _flat(step: Mapping[int, list[float | None]]) -> list[float | None]:
    return [length for lengths in step.values() for length in lengths]


def _constant(number: float) -> Moment:
    return Moment(np.full(quadrature()[0].size, number), NORMAL)


def _agreed(lengths: Sequence[float | None]) -> float | None:
    """The one length all uses agree on."""
    known = [length for length in lengths if length is not None and math.isfinite(length) and length > 0]
    if len(known) < len(lengths) or not known or max(known) > (1 + STEADY) * min(known):
        return None
    return known[-1]


def _count(eqn: Any) -> int:
    return (
        max(math.prod(eqn.invars[0].aval.shape) // max(math.prod(eqn.outvars[0].aval.shape), 1), 1)
        if ("window_dimensions" not in eqn.params)
        else math.prod(eqn.params["window_dimensions"])
    )


def _evaluated(eqn: Any, signals: Sequence[Moment], of: int) -> Moment | None:
    """An equation applied entry by entry to the values at the nodes."""
    with jax.ensure_compile_time_eval():
        operands = [
            jnp.asarray(signal.values).astype(atom.aval.dtype) for signal, atom in zip(signals, eqn.invars, strict=True)
        ]
        found = eqn.primitive.get_bind_params(eqn.params)
        result = eqn.primitive.bind(*operands, **(found if isinstance(found, dict) else found[1]))
        values = np.asarray(result)
    if values.shape != quadrature()[0].shape or not np.all(np.isfinite(values)):
        return None
    return Moment(values, of)
