"""Selectors, and which rule wins."""

import ast
import inspect
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initax as ix
from tests.tables import KEY

nn = eqx.nn


class Fancy(nn.Linear):
    """A user's subclass."""


class Block(eqx.Module):
    attn: nn.MultiheadAttention
    norm: nn.LayerNorm
    mlp: nn.MLP

    def __init__(self, key):
        self.attn = nn.MultiheadAttention(2, 4, key=key)
        self.norm = nn.LayerNorm(4)
        self.mlp = nn.MLP(4, 4, 8, depth=1, key=key)


class Net(eqx.Module):
    stem: nn.Conv2d
    blocks: list[Block]
    heads: dict[str, Fancy]

    def __init__(self, key=KEY):
        self.stem = nn.Conv2d(3, 4, 3, key=key)
        self.blocks = [Block(key), Block(key)]
        self.heads = {"policy": Fancy(4, 2, key=key), "value": Fancy(4, 1, key=key)}


ATTENTION = {f"blocks.{block}.attn.{name}_proj" for block in (0, 1) for name in ("query", "key", "value", "output")}
MLPS = {f"blocks.{block}.mlp.layers.{place}" for block in (0, 1) for place in (0, 1)}
HEADS = {"heads.policy", "heads.value"}
LINEAR = ATTENTION | MLPS | HEADS


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("Linear", LINEAR),
        (nn.Linear, LINEAR),
        ("Fancy", HEADS),
        (Fancy, HEADS),
        ("Conv", {"stem"}),
        ("Conv2d", {"stem"}),
        ("stem", {"stem"}),
        ("heads.value", {"heads.value"}),
        ("heads.*", HEADS),
        ("blocks.0.attn.query_proj", {"blocks.0.attn.query_proj"}),
        ("blocks.*.attn.query_proj", {f"blocks.{block}.attn.query_proj" for block in (0, 1)}),
        ("blocks.[0].attn.*", {path for path in ATTENTION if path.startswith("blocks.0")}),
        ("blocks.[!0].attn.*", {path for path in ATTENTION if path.startswith("blocks.1")}),
        ("blocks.?.mlp.**", MLPS),
        ("**.query_proj", {f"blocks.{block}.attn.query_proj" for block in (0, 1)}),
        ("**.stem", {"stem"}),
        ("**", LINEAR | {"stem"}),
        ("*", LINEAR | {"stem"}),
        ("MultiheadAttention Linear", ATTENTION),
        ("Block MLP Linear", MLPS),
        ("Block *", ATTENTION | MLPS),
        ("blocks.0 MLP *", {path for path in MLPS if path.startswith("blocks.0")}),
        (lambda layer: layer["weight"].fan_in == 8 and layer.kind == "Linear",
         {"blocks.0.mlp.layers.1", "blocks.1.mlp.layers.1"}),
    ],
    ids=lambda value: getattr(value, "__name__", value) if not isinstance(value, set) else "",
)  # fmt: skip
def test_a_selector_selects(selector, selected):
    plan = ix.plan(Net(), {selector: "he_normal"})
    drawn = {each.parameter.path.rpartition(".")[0] for each in plan.draws if each.parameter.role == "weight"}
    assert drawn == selected


def decided(rules, **kwargs):
    return {each.parameter.path: str(each.initializer) for each in ix.plan(Net(), rules, **kwargs).draws}


def test_the_last_rule_that_matches_wins():
    base = {"Linear": "he_normal"}
    assert decided(base)["heads.value.weight"] == "he_normal"
    assert decided(base | {"heads.value": "zeros"})["heads.value.weight"] == "zeros"
    assert decided(base | {"heads.value": "zeros"})["heads.policy.weight"] == "he_normal"


def test_none_keeps_a_layer():
    assert "heads.value.weight" not in decided({"Linear": "he_normal", "heads.value": None})


def test_a_rule_that_a_later_one_overrides_entirely_is_warned_of():
    with pytest.warns(ix.InitaxWarning) as caught:
        ix.plan(Net(), {"heads.value": "zeros", "Linear": "he_normal"})
    assert str(caught[0].message) == (
        'rule "heads.value" decides nothing: every layer it selects is decided by "Linear", which comes later; '
        "the last rule that matches wins"
    )
    assert caught[0].filename == __file__


def noted(model, rules):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = ix.plan(model, rules)
    assert [str(each.message) for each in caught] == list(plan.notes)
    return plan


def test_a_base_rule_left_with_what_it_cant_draw_is_warned_of():
    model = [nn.Linear(3, 4, key=KEY), nn.LayerNorm(4), nn.Conv1d(3, 3, 3, key=KEY)]
    plan = noted(model, {"*": "he_normal", "Linear": "zeros", "Conv": None})
    assert plan.notes == (
        'rule "*" draws nothing: every layer in which it could is decided by "Linear", "Conv", which comes later; '
        "the last rule that matches wins",
    )
    assert [each.parameter.path for each in plan.draws] == ["0.weight", "0.bias"]
    with pytest.raises(ix.RuleError, match=r'^rule "LayerNorm": he_normal draws nothing in the 1 layer it decides\.'):
        ix.plan(model, {"LayerNorm": "he_normal", "Linear": "zeros"})


def test_a_weight_that_a_later_rule_does_not_speak_of_is_warned_of():
    model = [nn.GRUCell(3, 4, key=KEY), nn.Linear(3, 4, key=KEY)]
    plan = noted(model, {"*": "he_normal", "GRUCell": {"recurrent": "orthogonal"}})
    assert plan.notes == (
        'rule "GRUCell" speaks of recurrent only; what an earlier rule would draw is kept:\n'
        "  0.weight_ih (12, 3) of GRUCell\n"
        '  write {"GRUCell": {"weight": ..., "recurrent": ...}}, with None for what is to be kept',
    )
    for whole in ({"weight": "he_normal", "recurrent": "orthogonal"}, {"weight": None, "recurrent": "orthogonal"}):
        assert noted(model, {"*": "he_normal", "GRUCell": whole}).notes == ()
    assert noted(model, {"GRUCell": {"recurrent": "orthogonal"}, "Linear": "zeros"}).notes == ()
    (shadowed,) = noted(model, {"*": "he_normal", "0": None, "GRUCell": {"recurrent": "orthogonal"}}).notes
    assert shadowed.startswith('rule "0" decides nothing')
    both = noted(model, {"*": "he_normal", "RNNCell": {"recurrent": "orthogonal"}, "0": {"bias": "ones"}})
    text = (
        'rule "0" speaks of bias only; what an earlier rule would draw is kept:\n'
        "  0.weight_ih (12, 3) of GRUCell\n"
        "  0.weight_hh (12, 4) of GRUCell\n"
        '  write {"0": {"weight": ..., "recurrent": ..., "bias": ...}}, with None for what is to be kept'
    )
    assert text in both.notes


def test_what_holds_random_state_alone_is_no_reason_to_refuse_a_base_rule():
    model = nnx.RNN(nnx.GRUCell(3, 8, rngs=nnx.Rngs(0)))
    plan = noted(model, {"*": "he_normal", "GRUCell": "glorot_normal"})
    assert plan.notes == (
        'rule "*" draws nothing: every layer in which it could is decided by "GRUCell", which comes later; '
        "the last rule that matches wins",
    )


def test_default_serves_what_no_rule_selects():
    found = decided({"heads.*": "zeros"}, default="default")
    assert found["heads.value.weight"] == "zeros"
    assert found["blocks.0.norm.weight"] == found["stem.weight"] == "default"
    assert "stem.weight" not in decided({"heads.*": "zeros"})


def test_roles_of_a_scheme():
    cell = nn.LSTMCell(3, 4, key=KEY)
    plan = ix.plan({"cell": cell, "table": nn.Embedding(5, 4, key=KEY), "norm": nn.LayerNorm(4)}, {
        "*": ix.Scheme("glorot_uniform", recurrent="orthogonal", bias="forget_gate", embedding="normal", scale="ones"),
        "norm": {"scale": "ones", "bias": "zeros"},
    })  # fmt: skip
    assert {each.parameter.path: str(each.initializer) for each in plan.draws} == {
        "cell.weight_ih": "glorot_uniform",
        "cell.weight_hh": "orthogonal",
        "cell.bias": "forget_gate",
        "table.weight": "normal",
        "norm.weight": "ones",
        "norm.bias": "zeros",
    }


def test_a_part_that_is_none_keeps_its_role(key):
    linear = nn.Linear(3, 4, key=KEY)
    weights = ix.reinit(linear, {"*": ("he_normal", None)}, key)
    assert weights.bias is linear.bias
    assert weights.weight is not linear.weight
    biases = ix.reinit(linear, {"*": (None, "zeros")}, key)
    assert biases.weight is linear.weight
    assert not np.any(biases.bias)


# Ways to write one scheme, each with what it must equal.
SAME = [
    ("he_normal", ix.schemes.he_normal()),
    (ix.schemes.he_normal, ix.schemes.he_normal()),
    ("kaiming_uniform", ix.schemes.he_uniform()),
    ("xavier_normal", ix.schemes.glorot_normal()),
    (("orthogonal", {"gain": 0.5}), ix.schemes.orthogonal(0.5)),
    (["orthogonal", {"gain": 0.5}], ix.schemes.orthogonal(gain=0.5)),
    ({"name": "orthogonal", "gain": 0.5}, ix.schemes.orthogonal(0.5)),
    (("he_normal", "zeros"), ix.schemes.he_normal()),
    ({"weight": "he_normal"}, ix.schemes.he_normal()),
    ({"weight": "he_normal", "bias": None}, ix.Scheme("he_normal", None)),
    (("he_normal", {"name": "constant", "value": 0.1}), ix.Scheme("he_normal", bias=("constant", {"value": 0.1}))),
    ({"base": "torch_default", "bias": "zeros"}, ix.Scheme("torch_default", bias="zeros")),
    (ix.schemes.orthogonal().parts["weight"], ix.schemes.orthogonal()),
    (("scaled", {"scheme": "he_normal", "factor": 0.5}), ix.schemes.scaled(ix.schemes.he_normal(), 0.5)),
]


@pytest.mark.parametrize(("written", "meant"), SAME, ids=[str(place) for place in range(len(SAME))])
def test_a_scheme_may_be_written_in_many_ways(written, meant):
    assert ix.plan(Net(), {"Linear": written}) == ix.plan(Net(), {"Linear": meant})
    assert ix.Scheme(written) == meant
    assert hash(ix.Scheme(written)) == hash(meant)


def required(name):
    """Arguments that a scheme can't do without."""
    arguments = inspect.signature(getattr(ix.schemes, name)).parameters.values()
    return [each.name for each in arguments if each.default is each.empty and each.kind is not each.VAR_KEYWORD]


def test_every_scheme_has_a_bias_of_its_own_or_zeros():
    with_own = {
        "biased_normal", "uniform_fan_in", "torch_default", "default", "hoedt", "icnn", "prior", "forget_gate",
        "shrink_perturb", "siren",
    }  # fmt: skip
    values = {"value": 1.0, "scheme": "he_normal", "factor": 2.0, "shrink": 0.5, "base_width": 64}
    for name in ix.schemes.names():
        scheme = ix.schemes.get(name, **{argument: values[argument] for argument in required(name)})
        assert (str(scheme.parts["bias"]) != "zeros") == (name in with_own), name


def test_restated_axes(key):
    model = {"qkv": nn.Linear(8, 12, use_bias=False, key=KEY), "out": nn.Linear(8, 8, key=KEY)}
    rules = {
        "*": "xavier_uniform",
        "**.qkv": ix.Scheme("xavier_uniform", axes={"weight": "(three o) i"}, sizes={"three": 3}),
    }
    plan = ix.plan(model, rules)
    rows = {each.parameter.path: each for each in plan.draws}
    assert (rows["qkv.weight"].parameter.fan_in, rows["qkv.weight"].parameter.fan_out) == (8, 4)
    assert rows["qkv.weight"].std == pytest.approx((2 / 12) ** 0.5)
    assert rows["out.weight"].parameter.fan_out == 8
    orthogonal = ix.reinit(model, {"qkv": ix.Scheme("orthogonal", axes="(three o) i", sizes={"three": 3})}, key)
    for part in np.asarray(orthogonal["qkv"].weight).reshape(3, 4, 8):
        np.testing.assert_allclose(part @ part.T, np.eye(4), atol=1e-5)


def test_the_bias_follows_restated_axes():
    model = {"w": (8, 12), "b": (8,)}
    plan = ix.plan(model, {"*": ix.Scheme(("he_normal", "uniform_fan_in"), axes="o i")})
    assert [each.parameter.fan_in for each in plan.draws] == [12, 12]
    assert plan.draws[1].std == pytest.approx((1 / 12 / 3) ** 0.5)


def test_a_registered_scheme_is_used_by_name():
    ix.schemes.register("test_narrow", ("normal", {"stddev": 1e-3}))
    ix.schemes.register("test_factory", lambda width=1.0: ("normal", {"stddev": 0.1 * width}))
    ix.schemes.register("test_callable", jax.nn.initializers.normal(0.5))
    found = ix.plan(Net(), {
        "Conv": "test_narrow", "heads.policy": ("test_factory", {"width": 2.0}), "heads.value": "test_callable",
    })  # fmt: skip
    assert [each.std for each in found.draws if each.parameter.role == "weight"] == [1e-3, 0.2, None]
    assert ix.Plan.from_json(found.to_json(), Net()) == found


def test_a_name_of_ones_own_may_be_given_anew():
    for stddev in (0.1, 0.2):
        ix.schemes.register("test_anew", ("normal", {"stddev": stddev}))
        assert ix.schemes.get("test_anew").parts["weight"].stddev == stddev


class Cell(eqx.Module):
    """A recurrence by hand, of whose matrices a trace can't tell which one stands between two steps."""

    wx: jax.Array
    wh: jax.Array

    def __init__(self):
        self.wx, self.wh = jnp.ones((4, 3)), jnp.ones((4, 4))

    def __call__(self, x, h):
        return jnp.tanh(self.wx @ x + self.wh @ h)


CALL = {"inputs": {"x": np.ones(3, np.float32), "h": np.ones(4, np.float32)}, "forward": lambda cell, at: cell(**at)}
ORTHOGONAL = {"orthogonal": "orthogonal", "with an argument": ("orthogonal", {"gain": 0.5})}


@pytest.mark.parametrize("name", ORTHOGONAL)
def test_a_scheme_for_another_role_of_an_array_that_a_rule_names_is_answered_with_it_alone(name):
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(Cell(), {"wh": {"recurrent": ORTHOGONAL[name]}}, **CALL)
    line = str(caught.value).splitlines()[-1]
    assert line.startswith("  it is a weight here and no recurrent: write {")
    plan = ix.plan(Cell(), ast.literal_eval(line.partition("write ")[2]), **CALL)
    assert plan == ix.plan(Cell(), {"wh": ORTHOGONAL[name]}, **CALL)
    assert [draw.parameter.path for draw in plan.draws] == ["wh"]


def test_a_role_that_no_array_has_which_a_rule_selects_is_noted():
    rules = {"*": {"weight": "glorot_normal", "recurrent": "orthogonal"}}
    text = 'rule "*" speaks of recurrent, and no array that it selects has this role; roles there: weight'
    assert ix.plan(Cell(), rules, **CALL).notes == (text,)
    assert ix.plan([nn.GRUCell(2, 3, key=KEY)], rules).notes == ()
    assert ix.plan(Cell(), {"*": "irnn"}, **CALL).notes == ()  # a name of initax speaks of all that it can draw
    assert ix.plan(Cell(), {"*": {"weight": "glorot_normal"}}, **CALL).notes == ()
    both = [nn.Linear(2, 3, key=KEY), nn.GRUCell(2, 3, key=KEY)]
    assert ix.plan(both, {"Linear": {"weight": "normal", "recurrent": "orthogonal"}}).notes == (
        'rule "Linear" speaks of recurrent, and no array that it selects has this role; roles there: weight, bias',
    )


def test_a_forget_gate_is_told_where_the_model_has_one():
    model = [nn.GRUCell(2, 3, key=KEY), nn.LSTMCell(2, 3, key=KEY)]
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(model, {"*": "forget_gate"})
    *_, has, own = str(caught.value).splitlines()
    assert has == '  select what has one: {"1": ...}'
    assert own == '  for values of your own: {"0.bias": ("constant", {"value": [...]})}, 9 numbers'
    plan = ix.plan(model, {"1": "forget_gate", "0.bias": ("constant", {"value": [0.0, 1.0, 2.0] * 3})})
    assert [draw.parameter.path for draw in plan.draws] == ["0.bias", "1.bias"]
