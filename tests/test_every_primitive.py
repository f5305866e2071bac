"""Every primitive of the installed JAX through every pass of the trace: it is read, or a reason names it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initax._trace._primitives import PRIMITIVES, UNKNOWN
from initax._trace._replay import Player
from initax._trace._second_moments import Law, Lengths
from initax._trace._units import LostError
from initax._trace._uses import CONTRACTIONS
from initax._trace._walk import readers_of, readings_of, uses_of
from tests.primitives import UNBUILT, built, holds_one, of, primitives, use

HELD = ("parameter", "units", "biased")
"""What one operand is: a parameter, outputs of a weight, or the sum of both where it has fractions."""

REST = ("constant", "signal", "parameter")
"""What all other operands are."""


def cast(array, dtype):
    if array.dtype == dtype:
        return array
    if dtype.name == "bool":
        return array > 0
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jax.lax.complex(array, array)
    return array.astype(dtype)


def program(function, operands, place, held, rest):
    """Return a forward pass in which one operand of a function holds something, and the others something else.

    Returns:
        The forward pass, its parameters and its inputs. What comes out of the function is multiplied with a signal and
        goes into a weight behind it.
    """
    arrays, inputs = {}, {}

    def shaped(kind, name, shape, dtype):
        if kind in ("parameter", "biased"):
            arrays[f"{name} array"] = of(*shape, dtype="float32" if jnp.issubdtype(dtype, jnp.inexact) else dtype)
        if kind in ("units", "biased"):
            arrays[f"{name} weight"] = of(3, *shape)
            inputs[name] = of(3)
        if kind == "signal":
            inputs[name] = of(*shape)

    kinds = [held if at == place else rest for at in range(len(operands))]
    for at, (kind, operand) in enumerate(zip(kinds, operands, strict=True)):
        shaped(kind, str(at), operand.shape, operand.dtype)
    results = jax.tree_util.tree_leaves(jax.eval_shape(function, *operands))
    for at, each in enumerate(results):
        arrays[f"behind {at}"] = of(each.size, 2)
        inputs[f"beside {at}"] = of(each.size)

    def value(p, x, kind, name, operand):
        if kind == "parameter":
            return cast(p[f"{name} array"], operand.dtype)
        if kind == "signal":
            return cast(x[name], operand.dtype)
        if kind == "constant":
            return jnp.ones(operand.shape, operand.dtype)
        signal = jnp.tensordot(x[name], p[f"{name} weight"], 1)
        return cast(signal + p[f"{name} array"] if kind == "biased" else signal, operand.dtype)

    def forward(p, x):
        values = [value(p, x, kind, str(at), each) for at, (kind, each) in enumerate(zip(kinds, operands, strict=True))]
        found = jax.tree_util.tree_leaves(use(function, values))
        numbers = [jnp.abs(each) if jnp.iscomplexobj(each) else each.astype(jnp.float32) for each in found]
        return [(each.ravel() * x[f"beside {at}"]) @ p[f"behind {at}"] for at, each in enumerate(numbers)]

    return forward, arrays, inputs


def traced(forward, arrays, inputs):
    def flat(values, signals):
        return forward(dict(zip(arrays, values, strict=True)), dict(zip(inputs, signals, strict=True)))

    return jax.make_jaxpr(flat)(list(arrays.values()), list(inputs.values()))


def reaches(jaxpr):
    """Return the variables that some result of a jaxpr is made of."""
    live = {var for var in jaxpr.outvars if not hasattr(var, "val")}
    for eqn in reversed(jaxpr.eqns):
        if live & set(eqn.outvars):
            live |= {var for var in eqn.invars if not hasattr(var, "val")}
    return live


def names_it(text, names):
    """Return whether a text names a primitive, or the line of a program that uses it."""
    return "primitives.py:" in text or any(name in text for name in names)


def check_readings(closed, names, stands):
    live = reaches(closed.jaxpr)
    for var, (path, reading) in zip(closed.jaxpr.invars, readings_of(closed, names).items(), strict=False):
        told = reading.pattern is not None or names_it(reading.reason, stands)
        # What comes through as it was is multiplied with a signal behind the primitive, along all its axes.
        assert told or var not in live or "a weight or a scale" in reading.reason, (path, reading)


def check_second_moments(closed, names, uses):
    drawn = Law(mean=0.0, square=1 / 3, inputs=3.0)
    added = Law(mean=0.1, square=1.0)
    laws = {at: added if path.endswith("array") else drawn for at, path in enumerate(names)}
    for known, tables in ((laws, frozenset()), ({}, frozenset(laws))):
        lengths = Lengths(uses, known, tables).of(closed, len(names), 0)
        assert all(each is None or each > 0 for each in lengths.values())


def lost(closed, names, at):
    """Return why the units of a weight can't be followed; `None` where they can."""
    try:
        readers_of(closed, len(names), 0, at, range(1, len(closed.jaxpr.invars[at].aval.shape)))
    except LostError as error:
        return str(error)
    return None


def check_units(closed, names, stands):
    for at, path in enumerate(names):
        reason = lost(closed, names, at) if path.endswith("weight") else None
        assert reason is None or names_it(reason, stands), (path, reason)


def check_replay(closed, uses):
    places = {use.place for use in uses.all if use.what in CONTRACTIONS and use.view is not None}
    seen = set()

    def hook(place, operands, result, state):
        seen.add(place)
        return result, state, None

    def played(*values):
        return Player(hook, places).play(closed, values)

    results = jax.eval_shape(played, *(of(*var.aval.shape, dtype=var.aval.dtype) for var in closed.jaxpr.invars))
    assert [(each.shape, each.dtype) for each in results] == [(each.shape, each.dtype) for each in closed.out_avals]
    assert seen == places


def stands_for(name, closed):
    """Return what a reason may name for a primitive: itself, or what holds it.

    A primitive that has a rule is read, and what its rule hands on may stop at any equation behind it.
    """
    row = PRIMITIVES.get(name, UNKNOWN)
    if row.read or row.calls or row.control or row.hands_on:
        return ("",)
    return (name, *(eqn.primitive.name for eqn in closed.jaxpr.eqns if holds_one(eqn, name)))


@pytest.mark.parametrize("name", sorted(primitives()))
@pytest.mark.slow(one_in=7)
def test_every_pass_ends_with_a_reading_or_a_reason(name):
    made = built(name)
    assert (made is None) == (name in UNBUILT)
    function, *operands = made or (None,)
    for place, held, rest in itertools.product(range(len(operands)), HELD, REST if len(operands) > 1 else REST[:1]):
        if held == "biased" and not jnp.issubdtype(operands[place].dtype, jnp.inexact):
            continue
        forward, arrays, inputs = program(function, operands, place, held, rest)
        closed, names = traced(forward, arrays, inputs), list(arrays)
        stands, uses = stands_for(name, closed), uses_of(closed, len(names))
        check_readings(closed, names, stands)
        check_second_moments(closed, names, uses)
        check_units(closed, names, stands)
        check_replay(closed, uses)


@pytest.mark.parametrize("name", sorted(name for name in primitives() if PRIMITIVES.get(name, UNKNOWN).calls))
def test_a_call_is_read_and_replayed_as_what_it_calls(name):
    function, *operands = built(name)
    closed = jax.make_jaxpr(lambda w, x: function(x, w))(*operands)
    reading = readings_of(closed, ["w"])["w"]
    assert (reading.pattern, reading.role) == ("i o", "weight")
    (use,) = uses_of(closed, 1).all
    assert len(use.place) > 1
    w, x = jnp.eye(4) * 3, jnp.ones((4, 4))
    player = Player(lambda place, operands, result, state: (result + 1, state, None), [use.place])
    (result,) = player.play(closed, [w, x])
    assert np.array_equal(result, np.full((4, 4), 4))
