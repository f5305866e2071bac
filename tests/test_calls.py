"""Calls that Python can't bind: every public function answers with what it takes and the line to write."""

import inspect
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import initax as ix
from tests.tables import KEY

RULES = {"Linear": "he_normal"}
MLP = eqx.nn.MLP(3, 2, 8, 1, key=KEY)
X = jnp.ones(3)

FUNCTIONS = {
    f"{module.__name__}.{name}".replace("initax", "ix"): getattr(module, name)
    for module in (ix, ix.schemes, ix.convex)
    for name in dir(module)
    if not name.startswith("_") and inspect.isfunction(getattr(module, name))
}
OPEN = {"ix.register_layer", "ix.muon", "ix.schemes.depth_factor", "ix.schemes.get"}
"""Functions that take arguments of any name."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_too_many_arguments_are_answered_by_every_function(name):
    with pytest.raises(ix.ArgumentError) as caught:
        FUNCTIONS[name](*[1] * 30)
    module = name.rpartition(".")[0]
    assert str(caught.value).startswith(f"{module}.{FUNCTIONS[name].__name__}: too many positional arguments.\n  ")


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - OPEN))
def test_an_argument_that_no_function_has_is_answered_by_every_function(name):
    """By those of schemes as an argument of the scheme."""
    with pytest.raises((ix.ArgumentError, ix.SchemeError)) as caught:
        FUNCTIONS[name](no_such_argument=1)
    head, *lines = str(caught.value).splitlines()
    assert head.endswith(' has no argument "no_such_argument".')
    assert head.partition(" ")[0] in (name, FUNCTIONS[name].__name__)
    assert lines


METHODS = {
    "report.assert_healthy": ix.SignalReport.assert_healthy,
    "report.plot": ix.SignalReport.plot,
    "comparison.plot": ix.SignalComparison.plot,
    "check.assert_flat": ix.CoordinateCheck.assert_flat,
    "check.plot": ix.CoordinateCheck.plot,
    "ablation.values": ix.Ablation.values,
    "ablation.summary": ix.Ablation.summary,
    "ablation.plot": ix.Ablation.plot,
    "plan.diff": ix.Plan.diff,
    "width.rules": ix.Width.rules,
}
MAKERS = {"ix.Ablation.load": ix.Ablation.load, "ix.Plan.from_json": ix.Plan.from_json}


@pytest.mark.parametrize("name", METHODS | MAKERS)
def test_a_method_says_which_argument_it_does_not_have_and_how_it_is_called(name):
    with pytest.raises(ix.ArgumentError) as caught:
        MAKERS[name](foo=1) if name in MAKERS else METHODS[name](None, foo=1)
    head, *_, line = str(caught.value).splitlines()
    assert head == f'{name} has no argument "foo".'
    assert line.startswith(f"  write {name}(")


def test_a_comparison_says_which_bound_there_is_not():
    maps = {"he": RULES, "lecun": {"*": "lecun_normal"}}
    comparison = ix.signal_propagation(MLP, X, rules=maps, keys=jax.random.split(KEY, 1))
    with pytest.raises(ix.ArgumentError, match=r'^report.assert_healthy has no argument "foo"'):
        comparison.assert_healthy(foo=1)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, each in FUNCTIONS.items()
        if name.startswith("ix.")
        and any(
            parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            for parameter in inspect.signature(each).parameters.values()
        )
    ],
)
def test_a_call_with_nothing_is_answered_by_every_function_that_needs_something(name):
    with pytest.raises(ix.ArgumentError, match=f"^{name}: missing a required argument: '"):
        FUNCTIONS[name]()


def test_an_error_inside_a_call_that_binds_is_the_callers_own():
    def forward(model, x):
        return x + "1"

    with pytest.raises(ix.ModelError, match="the forward pass fails"):
        ix.plan(MLP, {"*": "auto"}, inputs=X, forward=forward)

    def describe(key, shape, dtype):
        raise TypeError("mine")

    with pytest.raises(ix.SchemeError, match="TypeError: mine"):
        ix.reinit(MLP, {"*": describe}, KEY)

    def make(width, key):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine") as caught:
        ix.coordinate_check(make, [4, 8], KEY, lambda model, width: model, inputs=X)
    assert type(caught.value) is TypeError


CALLS = {
    "seed for a key": (
        lambda: ix.reinit(MLP, RULES, seed=0),
        """\
ix.reinit has no argument "seed".
  arguments: model, rules, key, inputs, forward, module, default, donate, progress
  here it is called "key"
  write ix.reinit(model, {"Linear": "he_normal"}, jax.random.key(0))""",
    ),
    "key twice": (
        lambda: ix.reinit(MLP, RULES, KEY, rngs=nnx.Rngs(0)),
        """\
ix.reinit has no argument "rngs".
  arguments: model, rules, key, inputs, forward, module, default, donate, progress
  write ix.reinit(model, {"Linear": "he_normal"}, jax.random.key(0))""",
    ),
    "type of the weights": (
        lambda: ix.reinit(MLP, RULES, KEY, dtype=jnp.bfloat16),
        """\
ix.reinit has no argument "dtype".
  arguments: model, rules, key, inputs, forward, module, default, donate, progress
  an array keeps its type: cast the model, before or after
  write ix.reinit(model, {"Linear": "he_normal"}, jax.random.key(0))""",
    ),
    "module and inputs behind the key": (
        lambda: ix.reinit(MLP, RULES, KEY, None, X),
        """\
ix.reinit: too many positional arguments.
  what follows the key goes by name: ix.reinit(model, rules, key, inputs=x)""",
    ),
    "input": (
        lambda: ix.survey(MLP, input=X),
        """\
ix.survey has no argument "input".
  arguments: model, inputs, forward, module
  here it is called "inputs"
  write ix.survey(model), or ix.survey(model, inputs=x)""",
    ),
    "misspelt": (
        lambda: ix.plan(MLP, RULES, fowrard=None),
        """\
ix.plan has no argument "fowrard".
  arguments: model, rules, inputs, forward, module, default
  did you mean "forward"?
  write ix.plan(model, rules); a plan takes the key: plan.draw(key)""",
    ),
    "inputs behind the rules": (
        lambda: ix.plan(MLP, RULES, jnp.ones((4, 3))),
        """\
ix.plan: too many positional arguments.
  what follows the rules goes by name: ix.plan(model, rules, inputs=x)""",
    ),
    "plan that draws without a key": (
        lambda: ix.plan(MLP, RULES).draw(),
        """\
plan.draw: missing a required argument: 'key'.
  write plan.draw(jax.random.key(0)); it gives the plan's own model""",
    ),
    "plan that draws a model": (
        lambda: ix.plan(MLP, RULES).draw(MLP, KEY),
        """\
plan.draw: too many positional arguments.
  write plan.draw(jax.random.key(0)); it gives the plan's own model""",
    ),
    "argument of a scheme beside its name": (
        lambda: ix.draw("normal", KEY, (3, 3), stddev=0.02),
        """\
ix.draw has no argument "stddev".
  arguments: scheme, key, shape, dtype, axes, sizes, role, fan_in, fan_out
  arguments of a scheme go with its name: ix.draw(("normal", {"stddev": 0.02}), key, shape)""",
    ),
    "axis of JAX": (
        lambda: ix.draw("orthogonal", KEY, (3, 3), column_axis=0),
        """\
ix.draw has no argument "column_axis".
  arguments: scheme, key, shape, dtype, axes, sizes, role, fan_in, fan_out
  the axes are said by a pattern: ix.draw("orthogonal", key, shape, axes="o i")""",
    ),
    "number behind a scheme's name": (
        lambda: ix.schemes.get("normal", 0.02),
        """\
ix.schemes.get: too many positional arguments.
  write ix.schemes.get("normal", stddev=0.02)""",
    ),
    "function of a scheme as an initializer": (
        lambda: ix.schemes.he_normal(KEY, (3, 3)),
        """\
ix.schemes.he_normal: too many positional arguments.
  arguments: fans, truncated
  a single array is drawn by ix.draw("he_normal", key, shape)""",
    ),
    "layer without a kind": (
        lambda: ix.register_layer(eqx.nn.MLP, w="o i"),
        """\
ix.register_layer: missing a required argument: 'kind'.
  write ix.register_layer(MyLayer, kind="Linear", weight="o i", bias="o")""",
    ),
    "state of an optimizer by another name": (
        lambda: ix.reset_units(MLP, "layers.0", jnp.arange(8) < 2, KEY, inputs=X, optimizer_state=None),
        """\
ix.reset_units has no argument "optimizer_state".
  arguments: model, layer, mask, key, inputs, forward, module, scheme, opt_state
  here it is called "opt_state"
  write ix.reset_units(model, "layers.0", mask, key, inputs=x), with a key: jax.random.key(0)""",
    ),
    "reset without a plan": (
        lambda: ix.reset_optimizer(()),
        """\
ix.reset_optimizer: missing a required argument: 'plan'.
  write ix.reset_optimizer(opt_state, ix.plan(model, rules))""",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_answered_with_the_line(name):
    do, text = CALLS[name]
    with pytest.raises(ix.ArgumentError) as caught:
        do()
    assert str(caught.value) == text


def test_lines_about_single_arrays_draw_one():
    names = {"ix": ix, "key": jax.random.key(0), "shape": (4, 3)}
    for _, text in itertools.islice(CALLS.values(), 9, 12):
        line = text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1].partition("write ")[2]
        assert eval(line, names) is not None
