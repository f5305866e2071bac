"""Patterns: every axis is read as it is written, and the canonical layout is a round trip."""

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initax._math._axes import fit, parse, resolve

# pattern, shape, sizes → in_axis, out_axis, batch_axis of the split shape, fan_in, fan_out, canonical shape
READINGS = {
    "eqx linear": ("o i", (5, 7), {}, (1,), (0,), (), 7, 5, (7, 5)),
    "eqx conv": ("o i ...", (5, 7, 3, 2), {}, (1,), (0,), (), 42, 30, (3, 2, 7, 5)),
    "eqx conv groups": ("(g o) i ...", (15, 7, 3, 2), {"g": 3}, (2,), (1,), (0,), 42, 30, (3, 2, 7, 5)),
    "flax conv groups": ("... i (g o)", (3, 2, 7, 15), {"g": 3}, (2,), (4,), (3,), 42, 30, (3, 2, 7, 5)),
    "interleaved groups": ("... i (o g)", (3, 2, 7, 15), {"g": 3}, (2,), (3,), (4,), 42, 30, (3, 2, 7, 5)),
    "gates": ("(gate o) i", (20, 7), {"gate": 4}, (2,), (1,), (0,), 7, 5, (7, 5)),
    "linear general": ("i1 i2 o1 o2", (2, 3, 5, 7), {}, (0, 1), (2, 3), (), 6, 35, (6, 35)),
    "attention out": ("i1 i2 o", (8, 16, 5), {}, (0, 1), (2,), (), 128, 5, (128, 5)),
    "stack": ("stack o i", (4, 5, 7), {}, (2,), (1,), (0,), 7, 5, (7, 5)),
    "stack last": ("o i stack", (5, 7, 4), {}, (1,), (0,), (2,), 7, 5, (7, 5)),
    "bias": ("(gate o)", (20,), {"gate": 4}, (), (1,), (0,), 1, 5, (1, 5)),
    "conv bias": ("(g o) 1 1", (15, 1, 1), {"g": 3}, (), (1,), (0,), 1, 5, (1, 5)),
    "no receptive field": ("o i ...", (5, 7), {}, (1,), (0,), (), 7, 5, (7, 5)),
}


@pytest.mark.parametrize("name", READINGS)
def test_a_pattern_is_read_as_it_is_written(name):
    pattern, shape, sizes, in_axis, out_axis, batch_axis, fan_in, fan_out, canonical = READINGS[name]
    axes = resolve(pattern, shape, sizes)
    assert (axes.in_axis, axes.out_axis, axes.batch_axis) == (in_axis, out_axis, batch_axis)
    assert (axes.fan_in, axes.fan_out, axes.canonical_shape) == (fan_in, fan_out, canonical)


@pytest.mark.parametrize("name", [name for name in READINGS if "bias" not in name])
@pytest.mark.slow(one_in=4)
def test_fans_are_those_of_jax_for_the_split_shape(name):
    pattern, shape, sizes, *_ = READINGS[name]
    axes = resolve(pattern, shape, sizes)
    key, std = jax.random.key(0), {}
    for mode in ("fan_in", "fan_out"):
        initializer = jax.nn.initializers.variance_scaling(
            1.0, mode, "normal", in_axis=axes.in_axis, out_axis=axes.out_axis, batch_axis=axes.batch_axis
        )
        unit = jax.nn.initializers.normal(1.0)(key, axes.split)
        std[mode] = float(np.max(initializer(key, axes.split)) / np.max(unit))
    assert std["fan_in"] == pytest.approx(axes.fan_in**-0.5, rel=1e-5)
    assert std["fan_out"] == pytest.approx(axes.fan_out**-0.5, rel=1e-5)


@pytest.mark.parametrize("name", READINGS)
def test_the_canonical_layout_is_a_round_trip(name):
    pattern, shape, sizes, *_ = READINGS[name]
    axes = resolve(pattern, shape, sizes)
    array = np.arange(math.prod(shape)).reshape(shape)
    canonical = axes.to_canonical(array)
    assert canonical.shape == (axes.batch_size, *axes.canonical_shape)
    np.testing.assert_array_equal(axes.from_canonical(canonical), array)


def test_the_canonical_layout_of_grouped_gates_is_what_slicing_gives():
    array = np.arange(12 * 3 * 2).reshape(12, 3, 2)
    canonical = resolve("(g o) i ...", array.shape, {"g": 4}).to_canonical(array)
    for group, (tap, i, o) in itertools.product(range(4), itertools.product(range(2), range(3), range(3))):
        assert canonical[group, tap, i, o] == array[group * 3 + o, i, tap]


names = st.lists(st.sampled_from(["i", "i2", "o", "o2", "g", "stack"]), unique=True, min_size=1)


@settings(max_examples=200, deadline=None)
@given(names, st.data())
def test_any_order_and_any_grouping_is_a_round_trip(order, data):
    sizes = {name: data.draw(st.integers(1, 4)) for name in order}
    cuts = data.draw(st.lists(st.booleans(), min_size=len(order) - 1, max_size=len(order) - 1))
    groups, current = [], [order[0]]
    for name, merge in zip(order[1:], cuts, strict=True):
        if merge:
            current.append(name)
        else:
            groups.append(current)
            current = [name]
    groups.append(current)
    spatial = data.draw(st.none() | st.integers(0, len(groups)))
    written = [f"({' '.join(group)})" if len(group) > 1 else group[0] for group in groups]
    shape = [math.prod(sizes[name] for name in group) for group in groups]
    if spatial is not None:
        written.insert(spatial, "...")
        shape[spatial:spatial] = [3, 2]
    axes = resolve(" ".join(written), tuple(shape), sizes)
    fan = 1 if spatial is None else 6
    assert axes.fan_in == fan * math.prod(size for name, size in sizes.items() if name[0] == "i")
    assert axes.fan_out == fan * math.prod(size for name, size in sizes.items() if name[0] == "o")
    array = np.arange(math.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(axes.from_canonical(axes.to_canonical(array)), array)


@pytest.mark.parametrize(
    ("shape", "written"),
    [
        ((5, 7), "o i"),
        ((3, 5, 7), "stack o i"),
        ((5, 3, 7), "o stack i"),
        ((5, 7, 3), "o i stack"),
        ((2, 3, 5, 7), "stack stack2 o i"),
        ((5, 5, 7), "stack o i"),  # where two places fit, vmap's own
    ],
)
def test_stack_axes_are_found_wherever_vmap_put_them(shape, written):
    assert fit("o i", shape, (("i", 7), ("o", 5))).pattern == written


def test_a_stack_of_convolutions_knows_its_receptive_field():
    axes = fit("(g o) i ...", (4, 6, 2, 3, 3), (("g", 2), ("i", 2), ("o", 3)), (3, 3))
    assert (axes.pattern, axes.fan_in, axes.batch_size) == ("stack (g o) i ...", 18, 8)


def test_parsing_is_cached():
    assert parse("(g o) i ...") is parse("(g o) i ...")
    assert resolve("o i", (2, 3)) is resolve("o i", (2, 3))
