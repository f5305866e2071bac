"""Readings of random forward passes, held against what is measured; and the measure, held against wrong readings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import initax as ix
from initax._math._axes import resolve
from tests.programs import MEETINGS, Recorded, Report, abstract, agrees, check, jax_names, program, read, seeded
from tests.truth import Program, claimed, fault, patterns, right, truth_of


def of(shape: tuple[int, ...], line: str, **inputs: tuple[int, ...]) -> Program:
    """Return a program of one array `w`; integers are inputs whose names begin with `n`, and are below 3."""
    picks = {name: 3 for name in inputs if name.startswith("n")}
    lines = ('w = p["w"]', *line.split("; "))
    return Program(lines=(*lines[:-1], f"return {lines[-1]}"), shapes={"w": shape}, inputs=inputs, picks=picks)


ROWS: list[tuple[Program, str, str]] = [
    (of((3, 4), "jnp.tanh(x @ w)", x=(5, 3)), "i o", "o i|stack o|i stack|i1 i2|scale|bias|embedding"),
    (of((4, 3), "x @ w.T", x=(5, 3)), "o i", "i o|i1 i2|stack i"),
    (of((2, 3, 4), "jax.vmap(lambda a, w: a @ w)(x, w)", x=(2, 3)), "stack i o", "o1 i o2|i1 i2 o|stack o i|i o1 o2"),
    (of((2, 3, 4), "jax.vmap(lambda a, w: a @ w)(x, w).sum(0)", x=(2, 3)), "i1 i2 o", "stack i o|o1 i o2"),
    (of((2, 3, 4), 'jnp.einsum("thd,hdo->to", x, w)', x=(5, 2, 3)), "i1 i2 o", "stack i o|o1 i o2"),
    (of((2, 3, 4), "sum(x[k:k + 4] @ w[k] for k in range(2))", x=(5, 3)), "i1 i2 o", "stack i o|o1 i o2|i o1 o2"),
    (of((2, 3, 4), "jax.vmap(lambda a, w: a @ w)(x, w).sum(1).sum(0)", x=(2, 5, 3)), "i1 i2 o", "stack i o|o1 i o2"),
    (of((2, 3), "sum(x[k:k + 4] * w[k] for k in range(2))", x=(5, 3)), "i stack", "scale|i o|stack i|stack1 stack2"),
    (of((2, 3, 4), "lax.scan(lambda c, m: (c + m[0] @ m[1], None), jnp.zeros((4, 4)), (x, w))[0]", x=(2, 4, 3)),
     "i1 i2 o", "stack i o|o1 i o2"),
    (of((2, 3, 3), "lax.scan(lambda c, w: (c + c @ w, None), x, w)[0]", x=(4, 3)), "stack i o",
     "i1 i2 o|stack o i|o1 i o2"),
    (of((2, 3, 4), 'jnp.einsum("te,teo->to", x, jnp.einsum("tei,eio->teo", y, w))', x=(5, 2), y=(5, 2, 3)),
     "stack i o", "i1 i2 o|o1 i o2"),
    (of((2, 3, 4), 'jnp.einsum("te,tei,eio->to", x, y, w)', x=(5, 2), y=(5, 2, 3)), "i1 i2 o",
     "o1 i o2|i o1 o2|i1 o i2"),
    (of((3,), "x * w", x=(5, 3)), "scale", "bias|i|embedding"),
    (of((3,), "(x * w).sum(-1)", x=(5, 3)), "i", "scale|bias|stack"),
    (of((3, 2), "x * w", x=(5, 3, 2)), "stack1 stack2", "scale|i o|o1 o2"),
    (of((3,), "x + w", x=(5, 3)), "bias", "scale|i|embedding"),
    (of((3, 4), "w[n]", n=(5,)), "embedding o i", "embedding i o|i o|bias|scale"),
    (of((2, 3, 4), "jax.vmap(lambda w, n: w[n])(w, n)", n=(2, 5)), "embedding stack o i",
     "embedding o1 o2 i|embedding i1 o i2"),
    (of((3, 2, 4), "lax.conv_general_dilated(x, w, (1,), 'VALID', dimension_numbers=('NWC', 'WIO', 'NWC'))",
        x=(1, 6, 2)), "... i o", "... o i|stack i o|i stack o|i o1 o2"),
    (of((3, 2, 4), "lax.conv_general_dilated(x, w, (2,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC'))",
        x=(1, 6, 2)), "... i o", "... o i|stack i o"),
    (of((3, 2, 4), "lax.conv_general_dilated(x, w, (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC'), "
        "feature_group_count=2)", x=(1, 6, 4)), "... i (group o)", "... i o|... i (o group)"),
    (of((2, 6), 'w = w.reshape(2, 2, 3); jnp.einsum("ti,igo->tgo", x, w)', x=(5, 2)), "i o", "o i|(i1 o) i2"),
    (of((2, 6), "w = x @ w; w[:, :3] * jnp.tanh(w[:, 3:])", x=(5, 2)), "i (stack o)", "stack o|o i"),
    (of((2, 6), 'w = w.reshape(2, 2, 3); jnp.einsum("tgi,igo->tgo", x, w)', x=(5, 2, 2)), "i (stack o)",
     "i o|i (o stack)"),
    (of((4, 3), "x @ w[:2] + y @ w[2:]", x=(5, 2), y=(5, 2)), "i o", "(stack i) o|o i"),
    (of((4, 3), "jnp.concatenate([x @ w[:2], y @ w[2:]], -1)", x=(5, 2), y=(5, 2)), "(stack i) o",
     "i o|(o1 i) o2|(i stack) o"),
    (of((4, 3), "x @ jnp.concatenate([w[1:], w[:1]], 0)", x=(5, 4)), "i o", "o i|stack o|i stack"),
    (of((4, 3), "x @ w.sum(0)", x=(5, 3)), "i1 i2", "i o|o i|stack i"),
    (of((4, 3), "x @ jnp.tril(w)", x=(5, 4)), "i o", "i1 i2|stack o|o i"),
    (of((4, 3), "jax.grad(lambda x: jnp.sum(jnp.tanh(x @ w)))(x)", x=(5, 4)), "i o", "o i"),
    (of((4, 3), "x @ (w / jnp.linalg.norm(w))", x=(5, 4)), "i o", "o i|i1 i2"),
    (of((4, 4), "jnp.tanh(x @ w) @ w.T", x=(5, 4)), "", "i o|o i"),
    (of((4, 3), "x @ jnp.exp(w)", x=(5, 4)), "", "i o|o i"),
    (of((4, 3), "x @ (w * w)", x=(5, 4)), "", "i o|scale"),
    (of((3,), "jnp.concatenate([x, w[None]], 0)", x=(5, 3)), "", "bias|scale|i"),
    (of((5, 3), "jnp.concatenate([x @ w[:2], y @ w[2:]], -1)", x=(4, 2), y=(4, 3)), "", "i o|o i|stack o"),
]  # fmt: skip
"""A program, the right reading where there is one, and wrong ones."""


def claim_of(shape: tuple[int, ...], text: str) -> Any:
    role, _, axes = text.partition(" ") if text.startswith("embedding ") else ("weight", "", text)
    if text in ("scale", "bias", "embedding"):
        role, axes = text, " ".join(f"o{at}" for at in range(len(shape)))
    sizes = {"group": 2} if "group" in axes else {"stack": 2} if "(" in axes and "stack" in axes else {}
    sizes = sizes or ({"o1": 2, "i1": 2} if "(" in axes else {})
    sizes = {name: size for name, size in sizes.items() if name in axes}
    return claimed(role, resolve(axes, shape, sizes))


@pytest.mark.parametrize(("made", "good", "bad"), ROWS, ids=[row[0].lines[-1] for row in ROWS])
def test_the_measure_tells_right_from_wrong(made: Program, good: str, bad: str) -> None:
    truth, shape = truth_of(made, "w"), made.shapes["w"]
    if good:
        assert fault(truth, claim_of(shape, good)) == ""
    else:
        assert right(truth) is None
    faults = {text: fault(truth, claim_of(shape, text)) for text in bad.split("|") if len(text.split()) >= 1}
    assert [text for text, found in faults.items() if not found] == []


def test_a_constant_in_front_is_noticed_behind_norms_and_broadcasts() -> None:
    dense = "a = jnp.array([[1.0, 2.0], [3.0, 1.0]]) @ w"
    lines = (
        "x @ (a / jnp.linalg.norm(a)).T",
        "x @ (a / (jnp.linalg.norm(a, axis=0, keepdims=True) + 0.1)).T",
        "sum(x[k:k + 4] * a[k] for k in range(2))",
        'jnp.einsum("ti,t,io->tio", x, x[:, 0], a)',
    )
    results = [result for line in lines for result in check(of((2, 2), f"{dense}; {line}", x=(5, 2)))]
    assert [(result.verdict, "constant" in result.why) for result in results] == [("refused", True)] * len(lines)
    (result,) = check(of((2, 2), f"{dense}; jnp.tanh(a)", x=(5, 2)))
    assert result.said == "weight i o"


REFUSED = (
    "(x * w).sum(-1)",
    "x * w",
    "jnp.concatenate([x @ w[:2], y @ w[2:]], -1)",
)
"""Lines that are kept though there is a right reading."""


@pytest.mark.parametrize(("made", "good"), [row[:2] for row in ROWS], ids=[row[0].lines[-1] for row in ROWS])
def test_what_can_be_told_is_read(made: Program, good: str) -> None:
    (result,) = check(made)
    line = made.lines[-1].removeprefix("return ")
    kept = not good or (line in REFUSED and good != "scale")
    assert result.verdict == ("refused" if kept else "right"), result.why


def test_the_measure_leaves_one_fan_in() -> None:
    several: list[Program] = []
    number = 0
    for made in map(seeded, range(500_000, 500_200)):
        name, shape = next(iter(made.shapes.items()))
        truth = truth_of(made, name)
        if len(shape) > 3 or truth.role != "weight" or truth.open:
            continue
        fans = {axes.fan_in for axes in patterns(shape) if not fault(truth, claimed("weight", axes))}
        number += bool(fans)
        # Padding leaves entries out, and with them what would tell.
        assert len(fans) <= 1 or "padded" in truth.flags
        several += [made] * (len(fans) > 1)
    assert number > 80
    assert len(several) < number / 20


@pytest.mark.parametrize("meeting", dict.fromkeys(MEETINGS), ids=lambda each: each.__name__)
@pytest.mark.slow(one_in=7)
def test_both_implementations_of_jax_agree(meeting: Callable[..., str]) -> None:
    made = next(each for each in map(seeded, range(2000)) if meeting.__name__ in each.kinds)
    assert agrees(made) == ""


@pytest.mark.slow
def test_readings_of_random_programs_are_right_or_refused() -> None:
    report = Report(seeds=[0])
    for seed in range(400):
        report.add(seed, with_jax=False)
    jax.clear_caches()
    if report.failed:
        report.show(0)
    found = {name: dict(kinds) for name, kinds in report.kinds.items() if kinds and not name.startswith("refused")}
    assert found == {}
    assert report.read > 0.8


def test_a_survey_says_what_was_read() -> None:
    for made in map(seeded, range(900_000, 900_060)):
        readings = read(made)
        arrays, inputs = abstract(made)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            survey = ix.survey(arrays, inputs=tuple(inputs), forward=made.function(jax_names()))
        for parameter in (each for layer in survey.layers for each in layer.parameters):
            reading, shape = readings[parameter.path], made.shapes[parameter.path]
            assert (parameter.axes is None) == (reading.pattern is None)
            if parameter.axes is not None and reading.pattern is not None:
                found = resolve(reading.pattern, shape, reading.sizes)
                assert (parameter.role, parameter.axes) == (reading.role, found)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(st.data())
def test_no_small_program_is_read_wrong(data: st.DataObject) -> None:
    made = program(Recorded(source=lambda below: data.draw(st.integers(0, below - 1))))
    faults = [(each.name, each.said, each.why) for each in check(made) if each.verdict in ("wrong", "crash")]
    assert faults == [], made.text()
