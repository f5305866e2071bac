"""The file of an ablation: nothing is lost when it is cut short, and another ablation's file is refused."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import initax as ix
from initax._ablation._file import RunFile, header_of, read_file
from tests import ablation_script
from tests.tables import KEY

KEYS = jax.random.split(jax.random.key(7), 2)
SCHEMES = {"he": {"Linear": "he_normal"}, "lecun": {"Linear": "lecun_normal", "layers.1": "zeros"}}
HEADER = header_of({"he": {"fingerprint": "f", "rules": [["*", "he_normal"]], "decisions": {}}}, {"data": [[0, 1]]})

numbers = st.floats(width=64) | arrays(np.float64, st.sampled_from([(), (3,), (2, 2), (0,)]), elements=st.floats())
runs = st.builds(
    ix.Run,
    scheme=st.text(),
    seed=st.integers(0, 100),
    key=st.tuples(*[st.integers(0, 2**32 - 1)] * 2),
    plan=st.text("0123456789abcdef", min_size=16, max_size=16),
    metrics=st.dictionaries(st.text(), numbers, max_size=3),
    error=st.none() | st.text(),
    seconds=st.floats(0, 1e6),
)


def mlp(width=4):
    return eqx.nn.MLP(3, 2, width, depth=1, key=KEY)


def mean(model, key):
    return {"mean": model.layers[0].weight.mean(), "row": model.layers[0].bias + 1}


def timeless(path):
    """The lines of a file in order of scheme and seed, without the seconds, which no two runs share."""
    first, *lines = Path(path).read_text("utf-8").splitlines()
    rows = sorted((json.loads(line) for line in lines), key=lambda row: (row["scheme"], row["seed"]))
    return [first, *(json.dumps(row | {"seconds": 0}) for row in rows)]


@settings(max_examples=200, deadline=None)
@given(runs)
def test_a_run_survives_its_line(run):
    line = run.to_json()
    again = ix.Run.from_json(line)
    assert "\n" not in line
    assert again.to_json() == line
    assert (again.scheme, again.seed, again.key, again.error) == (run.scheme, run.seed, run.key, run.error)
    for name, value in run.metrics.items():
        np.testing.assert_array_equal(again.metrics[name], value)
    json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def some_runs(count):
    measured = {"ä": 1 / 3, "c": np.arange(2.0)}
    return [
        ix.Run(scheme="he", seed=seed, key=(0, seed), plan="f", metrics=measured, error=None, seconds=0.5)
        for seed in range(count)
    ]


def test_a_file_cut_anywhere_keeps_every_whole_line(tmp_path):
    """Enumerated over every length: the header is written again, a torn run is dropped, and the next run fits."""
    whole = tmp_path / "whole.jsonl"
    every = some_runs(3)
    RunFile(whole, HEADER).append(every)
    content = whole.read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) == 4
    for length in range(len(content) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(content[:length])
        file = RunFile(path, HEADER)
        complete = max(sum(end <= length for end in ends) - 1, 0)
        assert [run.to_json() for run in file.runs] == [run.to_json() for run in every[:complete]]
        file.append(every[complete:])
        assert path.read_bytes() == content


@pytest.mark.parametrize("how", ["vmap", "jit", "python"])
def test_what_is_recorded_is_not_run_again(how, tmp_path):
    path, calls = tmp_path / "deep" / "runs.jsonl", []

    def run(model, key):
        calls.append(key)
        return mean(model, key)

    first = ix.ablate(mlp(), SCHEMES, KEYS, run, path=path, how=how)
    before, count = path.read_bytes(), len(calls)
    again = ix.ablate(mlp(), SCHEMES, KEYS, run, path=path, how=how)
    assert (path.read_bytes(), len(calls)) == (before, count)
    loaded = ix.Ablation.load(path, baseline="lecun")
    for other in (again, loaded):
        assert [each.to_json() for each in other.runs] == [each.to_json() for each in first.runs]
        assert other.plans == first.plans
        assert (other.keys == first.keys).all()
    assert loaded.baseline == "lecun"
    assert str(again) == str(first)


@pytest.mark.parametrize("how", ["vmap", "jit", "python"])
@pytest.mark.parametrize("lines", [1, 2, 4])
def test_a_rest_is_done_as_if_it_had_not_been_a_rest(how, lines, tmp_path):
    path, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    ix.ablate(mlp(), SCHEMES, KEYS, mean, path=path, how=how)
    part.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]) + b'{"scheme": "h')
    ix.ablate(mlp(), SCHEMES, KEYS, mean, path=part, how=how)
    assert timeless(part) == timeless(path)


@pytest.mark.parametrize("how", ["vmap", "python"])
@pytest.mark.slow
def test_killed_and_restarted_it_ends_with_the_same_records(how, tmp_path):
    """A process is killed at a random moment while it runs, twice; the third goes through."""
    undisturbed, path = tmp_path / "undisturbed.jsonl", tmp_path / "killed.jsonl"
    ablation_script.main(str(undisturbed), how)
    command = [sys.executable, ablation_script.__file__, str(path), how]
    total = len(ablation_script.SCHEMES) * ablation_script.SEEDS * ablation_script.SECONDS
    kept = 0
    for share in (0.25, 0.5):
        wait = random.uniform(0, share * total / 2)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            give_up = time.monotonic() + 60
            while not (path.exists() and path.read_bytes().count(b"\n") > kept) and process.poll() is None:
                assert time.monotonic() < give_up
                time.sleep(0.005)
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, f"it was over before it was killed, after {wait} s"
        kept = path.read_bytes().count(b"\n")
        assert kept < len(timeless(undisturbed)), f"nothing was left to do after {wait} s"
    subprocess.run(command, check=True, timeout=120)
    assert timeless(path) == timeless(undisturbed)


def test_failed_runs_are_done_again_if_asked_for(tmp_path):
    path, broken = tmp_path / "runs.jsonl", [True]

    def run(model, key):
        if broken[0] and (key == KEYS[1]).all():
            raise OSError("no space")
        return {"mean": float(model.layers[0].weight.mean())}

    def errors(**kwargs):
        return [each.error for each in ix.ablate(mlp(), SCHEMES, KEYS, run, path=path, how="python", **kwargs).runs]

    failed = [None, "OSError: no space"] * 2
    assert errors() == failed
    broken[0] = False
    assert errors() == failed
    assert errors(retry=True) == [None] * 4
    assert errors() == [None] * 4
    assert [each.error for each in ix.Ablation.load(path).runs] == [None] * 4
    assert len(path.read_bytes().splitlines()) == 1 + 4 + 2


def test_an_interrupt_leaves_what_was_done(tmp_path):
    path, calls = tmp_path / "runs.jsonl", []

    def run(model, key):
        calls.append(key)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"mean": float(model.layers[0].weight.mean())}

    with pytest.raises(KeyboardInterrupt):
        ix.ablate(mlp(), SCHEMES, KEYS, run, path=path, how="python")
    so_far = ix.Ablation.load(path)
    assert [(each.scheme, each.seed) for each in so_far.runs] == [("he", 0), ("lecun", 0)]
    assert np.isnan(so_far.values("mean")["he"]).tolist() == [False, True]
    ix.ablate(mlp(), SCHEMES, KEYS, run, path=path, how="python")
    assert len(calls) == 5


def noisy(key, shape, dtype=jnp.float32):
    return 0.1 * jax.random.normal(key, shape, dtype)


def noisier(key, shape, dtype=jnp.float32):
    return 0.2 * jax.random.normal(key, shape, dtype)


def std_of(function):
    return f"{float(ix.reinit(mlp(), {'Linear': function}, KEYS[0]).layers[0].weight.std()):.3g}"


noisier.__qualname__ = noisy.__qualname__


def level(key, shape, dtype=jnp.float32, *, value):
    return jnp.full(shape, value, dtype)


def later(key, shape, dtype=jnp.float32):
    return noisy(key, shape, dtype)[::-1]


def registered(function):
    """Register a scheme anew under the same name, as a second run of an edited script does."""
    ix.schemes.register("test_ablation_file", function)
    return {"own": {"Linear": "test_ablation_file"}}


ONES, TWOS = (jax.nn.initializers.constant(value) for value in (1.0, 2.0))
SQUARE = eqx.nn.MLP(4, 4, 4, depth=1, key=KEY)
SAME_TEXTS: dict[str, tuple[Any, Any]] = {
    "a partial": (functools.partial(level, value=1.0), functools.partial(level, value=2.0)),
    "a closure of JAX": (ONES, TWOS),
    "a registered function": (lambda: registered(ONES), lambda: registered(TWOS)),
    "a registered list": (
        lambda: registered(("constant", {"value": list(range(40))})),
        lambda: registered(("constant", {"value": [*range(39), 0]})),
    ),
    "a function inside another scheme": (
        ("scaled", {"scheme": ONES, "factor": 2.0}),
        ("scaled", {"scheme": TWOS, "factor": 2.0}),
    ),
    "axes": (jax.nn.initializers.he_normal(), jax.nn.initializers.he_normal(in_axis=-1, out_axis=-2)),
    "an order": (noisy, later),
}
"""Pairs of schemes that no text tells from each other, and whose entries have one standard deviation."""


@pytest.mark.parametrize("name", SAME_TEXTS)
@pytest.mark.slow(one_in=3)
def test_the_file_of_another_function_is_refused(name, tmp_path):
    first, second = SAME_TEXTS[name]
    model = eqx.nn.Linear(4, 40, key=KEY) if name == "a registered list" else SQUARE
    path = tmp_path / "runs.jsonl"

    def rules(scheme):
        return scheme() if name.startswith("a registered") else {"own": {"Linear": scheme}}

    ix.ablate(model, rules(first), KEYS, lambda model, key: {"one": 1.0}, path=path, how="python")
    ix.ablate(model, rules(first), KEYS, lambda model, key: pytest.fail("it ran"), path=path, how="python")
    before = path.read_bytes()
    with pytest.raises(ix.InitaxError, match=f"{path} holds another ablation"):
        ix.ablate(model, rules(second), KEYS, lambda model, key: pytest.fail("it ran"), path=path, how="python")
    assert path.read_bytes() == before


# name → how the ablation changes, what the error says of it
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "a scheme": (
        {"schemes": SCHEMES | {"he": {"Linear": "lecun_normal"}}},
        'scheme "he": its rules have "Linear": "he_normal", now "Linear": "lecun_normal"',
    ),
    "an argument": (
        {"schemes": {"he": {"Linear": ("normal", {"stddev": 0.1})}}, "before": {"he": {"Linear": "he_normal"}}},
        'scheme "he": its rules have "Linear": "he_normal", now "Linear": ["normal", {"stddev": 0.1}]',
    ),
    "another rule": (
        {"schemes": SCHEMES | {"he": {"Linear": "he_normal", "layers.0": "zeros"}}},
        'scheme "he": it has 1 rules, now there are 2',
    ),
    "one more scheme": (
        {"schemes": SCHEMES | {"more": {"Linear": "zeros"}}},
        "its schemes: he, lecun; now: he, lecun, more",
    ),
    "the keys": ({"keys": jax.random.split(jax.random.key(8), 2)}, "its 2 keys are not these 2"),
    "how many keys": ({"keys": jax.random.split(jax.random.key(7), 3)}, "it has 2 keys, now there are 3"),
    "the model's width": (
        {"model": mlp(5), "schemes": {"he": SCHEMES["he"]}, "before": {"he": SCHEMES["he"]}},
        'scheme "he": layers.0.weight: shape [4, 3] → [5, 3]',
    ),
    "the model's depth": (
        {
            "model": eqx.nn.MLP(3, 2, 4, depth=2, key=KEY),
            "schemes": {"he": {"layers.0": "zeros"}},
            "before": {"he": {"layers.0": "zeros"}},
        },
        'scheme "he": layers.1.weight: shape [2, 4] → [4, 4]',
    ),
    "a kept layer": (
        {
            "model": eqx.nn.MLP(3, 2, 4, depth=1, use_final_bias=False, key=KEY),
            "schemes": {"he": {"layers.0": "zeros"}},
            "before": {"he": {"layers.0": "zeros"}},
        },
        'scheme "he": layers.1.bias (2,) is gone',
    ),
    "what a function of the same name draws": (
        {"schemes": {"own": {"Linear": noisier}}, "before": {"own": {"Linear": noisy}}},
        f'scheme "own": layers.0.weight: std {std_of(noisy)} → {std_of(noisier)}',
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_file_of_another_ablation_is_refused(name, tmp_path):
    """Nothing is run, the file stays as it is, and the error says what differs."""
    changes, line = CHANGES[name]
    path = tmp_path / "runs.jsonl"
    arguments: dict[str, Any] = {
        "model": mlp(),
        "schemes": changes.get("before", SCHEMES),
        "keys": KEYS,
        "run": mean,
        "path": path,
    }
    ix.ablate(**arguments, how="python")
    before = path.read_bytes()
    now = {key: value for key, value in changes.items() if key != "before"}
    with pytest.raises(ix.InitaxError) as raised:
        ix.ablate(**(arguments | now | {"run": lambda model, key: pytest.fail("it ran")}), how="python")
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{path} holds another ablation."
    assert lines[1] == f"  {line}"
    assert lines[-1] == "  pass another path, or delete the file"
    assert path.read_bytes() == before


def test_the_last_digits_of_what_a_function_draws_may_differ(tmp_path):
    """Another machine or version of JAX rounds them otherwise; the fingerprints in the file stay those of the file."""
    path = tmp_path / "runs.jsonl"
    rules = {"own": {"Linear": noisy}}
    ix.ablate(mlp(), rules, KEYS[:1], mean, path=path, how="python")
    first, *runs = path.read_text("utf-8").splitlines()
    header = json.loads(first)
    for row in header["schemes"]["own"]["decisions"].values():
        if "drawn" in row:
            row["drawn"] = [f"{float(number) * (1 + 2e-4):.4g}" for number in row["drawn"]]
    header["schemes"]["own"]["fingerprint"] = "of another machine"
    path.write_text("\n".join([json.dumps(header), *runs]) + "\n", "utf-8")
    before = path.read_bytes()
    again = ix.ablate(mlp(), rules, KEYS[:1], lambda model, key: pytest.fail("it ran"), path=path, how="python")
    assert path.read_bytes() == before
    assert again.plans["own"]["fingerprint"] == "of another machine"


def test_a_file_that_does_not_say_what_a_function_drew_is_refused(tmp_path):
    """Files of an older initax held the standard deviation alone."""
    path = tmp_path / "runs.jsonl"
    rules = {"own": {"Linear": noisy}}
    ix.ablate(mlp(), rules, KEYS, mean, path=path, how="python")
    first, *runs = path.read_text("utf-8").splitlines()
    header = json.loads(first)
    for row in header["schemes"]["own"]["decisions"].values():
        row.pop("drawn", None)
    path.write_text("\n".join([json.dumps(header), *runs]) + "\n", "utf-8")
    with pytest.raises(ix.InitaxError) as raised:
        ix.ablate(mlp(), rules, KEYS, mean, path=path, how="python")
    assert str(raised.value).splitlines()[1:] == [
        '  scheme "own": layers.0.weight: what its function draws is not in the file, which is of an older initax',
        "  pass another path, or delete the file",
    ]
    assert len(ix.Ablation.load(path).runs) == 2


def test_a_function_that_draws_the_same_is_the_same(tmp_path):
    path = tmp_path / "runs.jsonl"
    for _ in range(2):
        schemes = {"own": {"Linear": jax.nn.initializers.normal(0.1)}}
        ix.ablate(mlp(), schemes, KEYS, mean, path=path)
    assert len(path.read_bytes().splitlines()) == 3


FOREIGN = {
    "text": b"lecture notes\n",
    "text without an end": b"lecture notes",
    "other JSON": b'{"loss": 0.1}\n',
    "a list": b"[1, 2]\n",
    "a number": b"7\n",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_something_else_is_left_alone(name, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(FOREIGN[name])
    with pytest.raises(ix.InitaxError) as raised:
        ix.ablate(mlp(), SCHEMES, KEYS, mean, path=path)
    assert str(raised.value) == f"{path} is not a file of an ablation.\n  it is left as it is; pass another path"
    assert path.read_bytes() == FOREIGN[name]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "runs.jsonl"
    RunFile(path, HEADER).append(some_runs(2))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"scheme": "he"}\n' + lines[2])
    with pytest.raises(ix.InitaxError) as raised:
        read_file(path)
    assert str(raised.value) == f"{path}, line 2 is not a run: KeyError: 'seed'\n  mend or delete the line"


def test_a_file_of_a_later_format_is_refused(tmp_path):
    path = tmp_path / "runs.jsonl"
    RunFile(path, {**HEADER, "format": 9})
    with pytest.raises(ix.InitaxError) as raised:
        ix.Ablation.load(path)
    assert str(raised.value) == f"{path} is in format 9, this initax reads 1."


def test_what_is_appended_is_on_the_disk(tmp_path, monkeypatch):
    """A line is synced before the next run begins."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    path = tmp_path / "runs.jsonl"
    file = RunFile(path, HEADER)
    file.append([replace(some_runs(1)[0], seed=3)])
    assert synced == [path.read_bytes().find(b"\n") + 1, path.stat().st_size]
