"""A jaxpr interpreter with hooks: observe or replace the results of chosen equations.

Loops stay loops and branches stay branches: what is carried from equation to equation goes through them too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from initax._trace._indices import evaluated
from initax._trace._interpret import Interpreter
from initax._trace._loops import loop_of
from initax._trace._uses import Place

State = dict[Any, Any]
"""What is carried from equation to equation, by key: arrays."""

Hook = Callable[[Place, Sequence[Any], Any, State], tuple[Any, State, Any]]
"""From an equation's place, its operands, its result and the state to the result to go on with, the new state, and what
to emit: a pytree of arrays, or `None`."""

TRIPS = "trips"
"""The key of the state under which steps of `while` loops are counted, by loop, where they are."""


class Player(Interpreter[Any]):
    """Evaluates a jaxpr.

    Args:
        hook: what to do at the places.
        places: equations of one result to call it at.
        fresh: for each loop, the keys of the state that start anew in each step, and with what; after the loop they
            hold what every step left, stacked.
        state: what is carried, at first.
        trips: for each `while` loop out of which something is emitted, how many steps there is room for.

    What is emitted in a loop comes out stacked, an entry for each step. A branch that is not taken, and a step that a
    `while` loop does not make, emit zeros.
    """

    def __init__(
        self,
        hook: Hook,
        places: Iterable[Place],
        fresh: Mapping[Place, State] | None = None,
        state: State | None = None,
        trips: Mapping[Place, int] | None = None,
    ) -> None:
        self.hook = hook
        self.places = frozenset(places)
        self.fresh = dict(fresh or {})
        self.state: State = dict(state or {})
        self.trips = dict(trips or {})
        self.emitted: dict[Place, Any] = {}
        self.around = {place[:depth] for place in self.places for depth in range(1, len(place))}

    def play(self, closed: Any, values: Sequence[Any]) -> list[Any]:
        """Return the results of a closed jaxpr.

        Args:
            closed: the jaxpr.
            values: values of its arguments.
        """
        return self.call(closed, values, ())

    def constant(self, atom: Any, number: Any) -> Any:
        """Return a constant, a literal with the type it stands for."""
        is_literal = isinstance(atom, Literal)
        return jnp.asarray(number, atom.aval.dtype) if is_literal else number

    def step(self, eqn: Any, values: list[Any], at: Place) -> list[Any]:
        """Go into an equation that holds one of the places, and evaluate any other."""
        return super().step(eqn, values, at) if at in self.around else self.equation(eqn, values, at)

    def equation(self, eqn: Any, values: list[Any], at: Place) -> list[Any]:
        """Return the results of an equation, as the hook leaves them where it is one of the places."""
        results = evaluated(eqn, values)
        if at in self.places:
            results[0], self.state, emitted = self.hook(at, values, results[0], self.state)
            if emitted is not None:
                self.emitted[at] = emitted
        return results

    def _run(self, closed: Any, at: Place, state: State, *values: Any) -> tuple[list[Any], State, dict[Place, Any]]:
        """Return the results of a jaxpr, the state behind it, and what is emitted in it."""
        inner = Player(self.hook, self.places, self.fresh, state, self.trips)
        return inner.call(closed, values, at), inner.state, inner.emitted

    def scan(self, eqn: Any, values: list[Any], at: Place) -> list[Any]:
        """Evaluate a scan, with the state among what it carries."""
        body, fixed, carry, rows = loop_of(eqn, values)
        carries, fresh = len(carry), self.fresh.get(at, {})

        def step(held: tuple[list[Any], State], row: list[Any]) -> tuple[Any, Any]:
            results, state, emitted = self._run(body, at, {**held[1], **fresh}, *fixed, *held[0], *row)
            carried = {key: state[key] for key in held[1]}
            stacked = {key: state[key] for key in fresh}
            return (results[:carries], carried), (results[carries:], stacked, emitted)

        kept = {key: value for key, value in self.state.items() if key not in fresh}
        (carry, state), (collected, stacked, emitted) = lax.scan(
            step, (carry, kept), rows, length=eqn.params["length"], reverse=eqn.params["reverse"]
        )
        self.state = {**state, **stacked}
        self.emitted |= emitted
        return [*carry, *collected]

    def while_loop(self, eqn: Any, values: list[Any], at: Place) -> list[Any]:
        """Evaluate a `while` loop, with the state among what it carries."""
        body, fixed, carry, _ = loop_of(eqn, values)
        test, asked = eqn.params["cond_jaxpr"], values[: eqn.params["cond_nconsts"]]

        def goes_on(held: tuple[list[Any], State, Any, Any]) -> Any:
            return jax.core.eval_jaxpr(test.jaxpr, test.consts, *asked, *held[0])[0]

        def onward(held: tuple[list[Any], State, Any, Any]) -> tuple[list[Any], State, Any, Any]:
            results, state, emitted = self._run(body, at, held[1], *fixed, *held[0])
            room = jax.tree_util.tree_map(lambda rows, row: rows.at[held[2]].set(row), held[3], emitted)
            return results, state, held[2] + 1, room

        rows = jax.eval_shape(functools.partial(self._run, body, at), self.state, *fixed, *carry)[2]
        room = jax.tree_util.tree_map(lambda row: jnp.zeros((max(self.trips[at], 1), *row.shape), row.dtype), rows)
        first = (carry, self.state, jnp.zeros((), jnp.int32), room)
        results, self.state, steps, emitted = lax.while_loop(goes_on, onward, first)
        self.emitted |= emitted
        if TRIPS in self.state:
            longest = jnp.maximum(self.state[TRIPS][at], steps)
            self.state = {**self.state, TRIPS: {**self.state[TRIPS], at: longest}}
        return list(results)

    def cond(self, eqn: Any, values: list[Any], at: Place) -> list[Any]:
        """Evaluate a branch."""
        which, operands = values[0], values[1:]
        branches = enumerate(eqn.params["branches"])
        runs = [functools.partial(self._run, closed, (*at, number)) for number, closed in branches]
        every: dict[Place, Any] = {}
        for run in runs:
            every |= jax.eval_shape(run, self.state, *operands)[2]

        def filled(run: Callable[..., Any], *arguments: Any) -> tuple[list[Any], State, dict[Place, Any]]:
            results, state, emitted = run(*arguments)
            return results, state, {**jax.tree_util.tree_map(_zeros, every), **emitted}

        which = jnp.asarray(which, jnp.int32)
        whole = [functools.partial(filled, run) for run in runs]
        results, self.state, emitted = lax.switch(which, whole, self.state, *operands)
        self.emitted |= emitted
        return list(results)


def _zeros(like: Any) -> jax.Array:
    return jnp.zeros(like.shape, like.dtype)


def longest_trips(
    closed: Any, values: Sequence[Any], places: Iterable[Place], loops: Iterable[Place]
) -> dict[Place, jax.Array]:
    """Return how many steps some `while` loops make at most, each time they are run.

    Args:
        closed: a closed jaxpr.
        values: values of its arguments.
        places: equations in the loops.
        loops: the loops.
    """
    counts = {loop: jnp.zeros((), jnp.int32) for loop in loops}
    player = Player(lambda place, operands, result, state: (result, state, None), places, state={TRIPS: counts})
    player.play(closed, values)
    return player.state[TRIPS]
