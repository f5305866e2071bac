"""Plans: printed, compared, stored, and made without data."""

import dataclasses
import gc
import sys
import weakref
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initax as ix
from tests.tables import KEY, SMALL_SCHEMES, scheme_id, tied

nn = eqx.nn


def model():
    return {
        "conv": nn.Conv2d(4, 6, 3, stride=2, groups=2, key=KEY),
        "norm": nn.LayerNorm(6),
        "out": nn.Linear(6, 2, key=KEY),
        "steps": jnp.arange(3),
    }


def test_the_table_shows_every_decision():
    lines = str(ix.plan(model(), {"Conv": "he_normal", "out": ("orthogonal", {"gain": 0.5})})).splitlines()
    assert [" ".join(line.split()) for line in lines if line.strip(" ─")] == [
        "drawn: 4",
        "parameter kind shape axes fan_in fan_out scheme std rule",
        "conv.weight Conv (6, 2, 3, 3) (g o) i ... 18 27 (≈6.75) he_normal 0.3333 Conv",
        "conv.bias Conv (6, 1, 1) (g o) 1 1 18 27 (≈6.75) zeros 0 Conv",
        "out.weight Linear (2, 6) o i 6 2 orthogonal(gain=0.5) 0.2041 out",
        "out.bias Linear (2,) o 6 2 zeros 0 out",
        "kept: 3",
        "array kind shape why",
        "steps Undeclared (3,) int32: only floating and complex arrays are drawn",
        "norm.weight Norm (6,) no rule selects it",
        "norm.bias Norm (6,) no rule selects it",
    ]


def test_a_plan_is_short_in_a_list():
    assert repr(ix.plan(model(), {"Conv": "he_normal"})) == "Plan(2 drawn, 5 kept)"


def test_a_plan_is_asked_for_one_array():
    plan = ix.plan(model(), {"Conv": "he_normal"})
    assert plan["conv.weight"] is plan.draws[0]
    assert plan["steps"] is plan.kept[0]
    assert "steps" in plan
    assert "step" not in plan
    shared = jnp.ones((3, 3))
    tied = ix.plan({"up": {"w": shared}, "down": {"w": shared}}, {"*": "he_normal"})
    assert [tied[f"{name}.w"].parameter.path for name in ("down", "up")] == ["down.w", "up.w"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "conv.wieght",
            'the model has no array "conv.wieght".\n  did you mean "conv.weight" or "out.weight" or "norm.weight"?',
        ),
        ("conv", 'the model has no array "conv".\n  it holds: conv.weight, conv.bias'),
        (
            "x",
            'the model has no array "x".\n'
            "  arrays: conv.weight, conv.bias, steps, norm.weight, norm.bias, out.weight, … (1 more)",
        ),
        (
            0,
            "plan[...] takes the path of an array, not 0 (int).\n"
            "  write plan.draws or plan.kept for all of them, in the order of the model",
        ),
    ],
)
def test_what_is_not_an_array_of_a_plan_is_answered(path, text):
    with pytest.raises(ix.PlanError) as error:
        ix.plan(model(), {"Conv": "he_normal"})[path]
    assert str(error.value) == text


def test_diff_says_what_changes():
    before = ix.plan(model(), {"Conv": "he_normal"})
    after = ix.plan(model(), {"Conv": "lecun_normal", "out": "zeros"})
    assert before.diff(before) == ()
    assert before.diff(after) == (
        "~ conv.weight: scheme he_normal → lecun_normal, initializer he_normal → lecun_normal, std 0.333333 → 0.235702",
        "~ conv.bias: scheme he_normal → lecun_normal",
        "~ out.weight: kept, no rule selects it → zeros, shape (2, 6)",
        "~ out.bias: kept, no rule selects it → zeros, shape (2,)",
    )
    smaller = ix.plan({"out": model()["out"]}, {"out": "zeros"})
    assert "- conv.weight: lecun_normal, shape (6, 2, 3, 3)" in after.diff(smaller)
    assert "+ conv.weight: lecun_normal, shape (6, 2, 3, 3)" in smaller.diff(after)


@pytest.mark.parametrize("scheme", SMALL_SCHEMES, ids=scheme_id)
def test_json_and_back_draws_the_same(scheme, key):
    plan = ix.plan(model(), {"conv": scheme, "norm": None}, default="default")
    again = ix.Plan.from_json(plan.to_json(), model())
    assert again == plan
    assert again.to_json() == plan.to_json()
    for one, other in zip(jax.tree.leaves(plan.draw(key)), jax.tree.leaves(again.draw(key)), strict=True):
        assert one is other or np.array_equal(one, other)


def test_json_keeps_classes_restated_axes_and_role_mappings():
    rules = {
        nn.Conv2d: {"weight": "he_normal", "bias": ("constant", {"value": 0.1})},
        "out": ix.Scheme("normal", axes={"weight": "o i"}),
        "norm": {"scale": "ones", "bias": None},
    }
    plan = ix.plan(model(), rules)
    assert ix.Plan.from_json(plan.to_json(), model()) == plan


def test_a_plan_can_be_made_inside_jit_and_drawn_outside(key):
    seen = []

    @eqx.filter_jit
    def look(inside):
        seen.append(ix.plan(inside, {"Linear": "he_normal"}))
        return 0

    look(model())
    assert seen[0] == ix.plan(model(), {"Linear": "he_normal"})


def of_equinox(count):
    return [nn.Linear(3, 3, key=KEY) for _ in range(count)]


def of_nnx(count):
    return nnx.List([nnx.Linear(3, 3, rngs=nnx.Rngs(0)) for _ in range(count)])


def of_linen(count):
    return {f"Dense_{place}": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)} for place in range(count)}


def python_calls(model):
    """How many functions of Python a plan calls."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        ix.plan(model, {"Linear": "he_normal"})
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    ("make", "most"), [(of_equinox, 120), (of_nnx, 210), (of_linen, 190)], ids=["eqx", "nnx", "nn"]
)
def test_one_more_equal_layer_costs_a_plan_few_calls(make, most):
    """Time is another on every machine; calls are the same. Reading each layer anew would take twice as many."""
    ix.plan(make(1), {"Linear": "he_normal"})
    few, many = (python_calls(make(count)) for count in (10, 30))
    assert (many - few) / 20 <= most


def test_a_plan_keeps_no_static_field_alive():
    class Activation:
        pass

    class Activated(nn.Linear):
        activation: Any = eqx.field(static=True, default=None)

    activation = Activation()
    seen = weakref.ref(activation)
    layer = Activated(3, 2, key=KEY)
    object.__setattr__(layer, "activation", activation)
    assert len(ix.plan(layer, {"*": "he_normal"})) == 2
    del layer, activation
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("cls", [ix.Draw, ix.Layer, ix.Parameter])
def test_records_made_at_once_are_those_that_the_class_makes(cls):
    layers = ix.layers(model())
    plan = ix.plan(model(), {"*": "he_normal"})
    for record in {ix.Draw: plan.draws, ix.Layer: layers, ix.Parameter: [each.parameter for each in plan.draws]}[cls]:
        made = cls(**{field.name: getattr(record, field.name) for field in dataclasses.fields(cls)})
        assert made == record
        assert repr(made) == repr(record)
        assert dataclasses.replace(record) == record
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, dataclasses.fields(cls)[0].name, None)


def test_kept_and_draws_cover_every_array_once():
    plan = ix.plan(model(), {"*": "he_normal"})
    rows: list[Any] = [*plan.draws, *plan.kept]
    paths = [each.parameter.path for each in rows]
    assert sorted(paths) == sorted(set(paths))
    assert len(paths) == len([leaf for leaf in jax.tree.leaves(model()) if eqx.is_array(leaf)])
    for parameter, reason in plan.kept:
        assert parameter.path
        assert reason


LEFT = {
    "not selected": (
        {"layers.0": "he_normal"},
        "4 arrays of the model stay abstract:\n"
        "  layers.1.weight (8, 8): no rule selects it\n"
        "  layers.1.bias (8,): no rule selects it\n"
        "  layers.2.weight (2, 8): no rule selects it\n"
        "  layers.2.bias (2,): no rule selects it\n"
        '  what no rule selects is drawn as its framework draws it: add {"*": "default"} first',
    ),
    "kept by a rule": (
        {"*": "he_normal", "layers.0": ("he_normal", None)},
        '1 array of the model stays abstract:\n  layers.0.bias (8,): rule "layers.0" keeps every bias',
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_an_abstract_model_drawn_in_part_is_said(name, key):
    rules, text = LEFT[name]
    abstract = eqx.filter_eval_shape(eqx.nn.MLP, 4, 2, 8, 2, key=KEY)
    plan = ix.plan(abstract, rules)
    with pytest.warns(ix.InitaxWarning) as caught:
        plan.draw(key)
    assert [str(each.message) for each in caught] == [text]
    whole = ix.reinit(abstract, {"*": "default", "layers.0": "he_normal"}, key)
    assert whole(jnp.ones(4)).shape == (2,)


def test_a_tied_array_of_an_abstract_model_is_there_with_its_owner(key):
    abstract = eqx.filter_eval_shape(tied)
    first, second = ix.reinit(abstract, {"*": "lecun_normal"}, key)()
    assert second.weight is first.weight
