"""A jaxpr interpreter with hooks: observe or replace the results of chosen equations.

Loops stay loops and branches stay branches; the state of the hooks is carried through them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from initax._trace._interpreter import Interpreter
from initax._trace._jaxpr import Place, array_of, evaluated
from initax._trace._loops import loop_of

State = dict[Any, Any]
"""The state of the hooks, carried from equation to equation: key → arrays."""

Hook = Callable[[Place, Sequence[Any], Any, State], tuple[Any, State, Any]]
"""From an equation's place, its operands, its result and the state to the result to go on with, the new state, and what
to emit: a pytree of arrays, or `None`."""

TRIPS = "trips"
"""The key of the state that holds the numbers of steps of `while` loops, by loop, where these are counted."""


class Player(Interpreter[Any]):
    """Evaluates a jaxpr.

    Args:
        hook: the function to call.
        places: the equations to call it at, which have one result.
        fresh: for each loop, the keys of the state that start anew in each step, and with what; after the loop they
            hold the values of every step, stacked.
        state: the first state.
        trips: for each `while` loop in which something is emitted, how many steps there is room for.

    What is emitted in a loop is stacked, an entry for each step. A branch that is not taken, and a step that a `while`
    loop does not make, emit zeros.
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
        """Return a constant as an array, a literal with the type it stands for."""
        return array_of(atom, number)

    def step(self, eqn: Any, values: list[Any], place: Place) -> list[Any]:
        """Go into an equation that contains one of the places, and evaluate any other."""
        return super().step(eqn, values, place) if place in self.around else self.equation(eqn, values, place)

    def equation(self, eqn: Any, values: list[Any], place: Place) -> list[Any]:
        """Return the results of an equation, as the hook leaves them where it is one of the places."""
        results = evaluated(eqn, values)
        if place in self.places:
            results[0], self.state, emitted = self.hook(place, values, results[0], self.state)
            if emitted is not None:
                self.emitted[place] = emitted
        return results

    def _run(self, closed: Any, place: Place, state: State, *values: Any) -> tuple[list[Any], State, dict[Place, Any]]:
        """Return the results of a jaxpr, the state after it, and what is emitted in it."""
        inner = Player(self.hook, self.places, self.fresh, state, self.trips)
        return inner.call(closed, values, place), inner.state, inner.emitted

    def scan(self, eqn: Any, values: list[Any], place: Place) -> list[Any]:
        """Evaluate a scan, with the state among what it carries."""
        body, fixed, carry, rows = loop_of(eqn, values)
        carries, fresh = len(carry), self.fresh.get(place, {})

        def step(before: tuple[list[Any], State], row: list[Any]) -> tuple[Any, Any]:
            carry, carried_state = before
            results, state, emitted = self._run(body, place, {**carried_state, **fresh}, *fixed, *carry, *row)
            carried_state, stacked = ({key: state[key] for key in keys} for keys in (carried_state, fresh))
            return (results[:carries], carried_state), (results[carries:], stacked, emitted)

        carried_state = {key: value for key, value in self.state.items() if key not in fresh}
        (carry, state), (collected, stacked, emitted) = lax.scan(
            step, (carry, carried_state), rows, length=eqn.params["length"], reverse=eqn.params["reverse"]
        )
        self.state = {**state, **stacked}
        self.emitted |= emitted
        return [*carry, *collected]

    def while_loop(self, eqn: Any, values: list[Any], place: Place) -> list[Any]:
        """Evaluate a `while` loop, with the state among what it carries."""
        body, fixed, carry, _ = loop_of(eqn, values)
        test, test_fixed = eqn.params["cond_jaxpr"], values[: eqn.params["cond_nconsts"]]

        def goes_on(before: tuple[list[Any], State, Any, Any]) -> Any:
            return jax.core.eval_jaxpr(test.jaxpr, test.consts, *test_fixed, *before[0])[0]

        def step(before: tuple[list[Any], State, Any, Any]) -> tuple[list[Any], State, Any, Any]:
            carry, state, number, emitted = before
            results, state, rows = self._run(body, place, state, *fixed, *carry)
            emitted = jax.tree_util.tree_map(lambda all_rows, row: all_rows.at[number].set(row), emitted, rows)
            return results, state, number + 1, emitted

        rows = jax.eval_shape(functools.partial(self._run, body, place), self.state, *fixed, *carry)[2]
        room = jax.tree_util.tree_map(lambda row: jnp.zeros((max(self.trips[place], 1), *row.shape), row.dtype), rows)
        first = (carry, self.state, jnp.zeros((), jnp.int32), room)
        results, self.state, steps, emitted = lax.while_loop(goes_on, step, first)
        self.emitted |= emitted
        if TRIPS in self.state:
            longest = jnp.maximum(self.state[TRIPS][place], steps)
            self.state = {**self.state, TRIPS: {**self.state[TRIPS], place: longest}}
        return list(results)

    def cond(self, eqn: Any, values: list[Any], place: Place) -> list[Any]:
        """Evaluate a branch."""
        which, *operands = values
        branches = enumerate(eqn.params["branches"])
        runs = [functools.partial(self._run, closed, (*place, number)) for number, closed in branches]
        shapes: dict[Place, Any] = {}
        for run in runs:
            shapes |= jax.eval_shape(run, self.state, *operands)[2]

        def with_zeros(run: Callable[..., Any], *arguments: Any) -> tuple[list[Any], State, dict[Place, Any]]:
            results, state, emitted = run(*arguments)
            zeros = jax.tree_util.tree_map(lambda array: jnp.zeros(array.shape, array.dtype), shapes)
            return results, state, {**zeros, **emitted}

        padded = [functools.partial(with_zeros, run) for run in runs]
        results, self.state, emitted = lax.switch(jnp.asarray(which, jnp.int32), padded, self.state, *operands)
        self.emitted |= emitted
        return list(results)


def longest_trips(
    closed: Any, values: Sequence[Any], places: Iterable[Place], loops: Iterable[Place]
) -> dict[Place, jax.Array]:
    """Return the largest number of steps that some `while` loops make when they run.

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
