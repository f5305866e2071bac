"""One vocabulary: the same layer, and the same network, in Equinox, NNX and Linen under one rule map."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import initax as ix
from tests.flax_tables import SAME, of_linen, weights
from tests.tables import KEY, Built, cases


@pytest.mark.parametrize("row", cases(SAME))
@pytest.mark.parametrize("scheme", ["he_normal", "glorot_uniform", "orthogonal"])
def test_the_same_layer_has_the_same_kind_fans_scheme_and_deviation_in_three_frameworks(row, scheme):
    found = [weights(make(abstract=True), {"*": scheme}) for make in (row.equinox, row.nnx, row.linen)]
    assert found[0]
    assert found[0] == found[1] == found[2]


class InEquinox(eqx.Module):
    embed: eqx.nn.Embedding
    conv: eqx.nn.Conv1d
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    cell: eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.embed = eqx.nn.Embedding(11, 6, key=keys[0])
        self.conv = eqx.nn.Conv1d(6, 6, 3, groups=3, padding="SAME", key=keys[1])
        self.norm = eqx.nn.LayerNorm(6)
        self.attention = eqx.nn.MultiheadAttention(
            2, 6, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True, key=keys[2]
        )
        self.cell = eqx.nn.LSTMCell(6, 5, key=keys[3])
        self.head = eqx.nn.Linear(5, 3, key=keys[4])


class InNNX(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 6, rngs=rngs)
        self.conv = nnx.Conv(6, 6, (3,), feature_group_count=3, rngs=rngs)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
        self.cell = nnx.LSTMCell(6, 5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)


class InLinen(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 6, name="embed")(tokens)
        x = nn.Conv(6, (3,), feature_group_count=3, name="conv")(x)
        x = nn.LayerNorm(name="norm")(x)
        x = nn.MultiHeadDotProductAttention(2, name="attention")(x)
        x = nn.RNN(nn.LSTMCell(5, name="cell"))(x)
        return nn.Dense(3, name="head")(x)


NETWORKS = {
    "equinox": lambda: Built(InEquinox(KEY), None),
    "nnx": lambda: Built(InNNX(nnx.Rngs(0)), None),
    "linen": of_linen(InLinen(), (2, 4), jnp.int32),
}
RULES = {
    "Linear": "glorot_uniform",
    "RNNCell": ix.Scheme("lecun_normal", recurrent="orthogonal", bias=("forget_gate", {"value": 1.0})),
    "Embedding": ("normal", {"stddev": 0.02}),
    "Conv": ("variance_scaling", {"mode": "fan_out"}),
    "head": "zeros",
    "Norm": "default",
}


def by_layer(built):
    """What a plan says layer by layer, free of names, layout and of how many arrays hold the gates."""
    plan = ix.plan(built.model, RULES, **built.options)
    found: dict[str, set[Any]] = {}
    for each in plan.draws:
        parameter = each.parameter
        place = parameter.path.split(".")[0]
        weighs = parameter.role in ("weight", "recurrent", "embedding")
        fans = (parameter.fan_in, parameter.fan_out) if weighs else ()
        entry = (each.kind, parameter.role, fans, each.scheme, each.rule, round(each.std, 9))
        found.setdefault(place, set()).add(entry)
    return found


def test_the_same_network_has_the_same_plan_in_three_frameworks():
    plans = {name: by_layer(make()) for name, make in NETWORKS.items()}
    assert set(plans["equinox"]) == {"embed", "conv", "norm", "attention", "cell", "head"}
    assert plans["equinox"] == plans["nnx"]
    assert plans["equinox"] == plans["linen"]


@pytest.mark.parametrize("framework", NETWORKS)
def test_element_wise_draws_of_the_network_are_jax_initializers_in_its_own_layout(framework, key):
    built = NETWORKS[framework]()
    plan = ix.plan(built.model, {"*": "he_normal"}, **built.options)
    leaves = [leaf for leaf in jax.tree.leaves(plan.draw(key)) if getattr(leaf, "ndim", 0) > 1]
    drawn = {(leaf.shape, np.asarray(leaf).tobytes()) for leaf in leaves}
    seen = 0
    for each in plan.draws:
        parameter, axes = each.parameter, each.parameter.axes
        if parameter.role not in ("weight", "recurrent", "embedding"):
            continue
        init = jax.nn.initializers.he_normal(axes.in_axis, axes.out_axis, axes.batch_axis)
        own = init(ix.parameter_key(key, parameter.path), axes.split).reshape(axes.shape)
        assert (own.shape, np.asarray(own).tobytes()) in drawn, parameter.path
        seen += 1
    assert seen == {"equinox": 9, "nnx": 15, "linen": 15}[framework]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("Linear", "dense general"),
        ("Dense", "dense"),
        ("DenseGeneral", "general"),
        (nn.Dense, "dense"),
        ("dense", "dense"),
        ("gen*", "general"),
        ("Pair Linear", "dense general"),
    ],
    ids=str,
)
def test_selectors_mean_in_linen_what_they_mean_elsewhere(selector, names):
    class Pair(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="dense")(nn.DenseGeneral(5, name="general")(x))

    module, x = Pair(), jnp.ones(2)
    plan = ix.plan(module.init(KEY, x), {selector: "he_normal"}, module=module, inputs=x)
    assert {each.parameter.path.split(".")[0] for each in plan.draws} == set(names.split())


def test_linear_selects_the_linear_layers_of_every_framework_in_one_model(key):
    model = (eqx.nn.Linear(3, 4, key=KEY), nnx.LinearGeneral(3, (4, 2), rngs=nnx.Rngs(0)), {"w": jnp.ones((3, 2))})
    plan = ix.plan(model, {"Linear": "he_normal"})
    assert [each.parameter.path for each in plan.draws if each.parameter.role == "weight"] == [
        "0.weight",
        "1.kernel",
        "2.w",
    ]
    new = plan.draw(key)
    assert isinstance(new[0], eqx.nn.Linear)
    assert isinstance(new[1], nnx.LinearGeneral)


def test_dicts_of_haiku_need_no_adapter():
    params = {"mlp/~/linear_0": {"w": jnp.ones((7, 5)), "b": jnp.ones(5)}, "conv": {"w": jnp.ones((3, 3, 2, 4))}}
    plan = ix.plan(params, {"*": "he_normal"})
    assert {each.parameter.path: each.parameter.fan_in for each in plan.draws} == {
        "conv.w": 18,
        "mlp/~/linear_0.b": 7,
        "mlp/~/linear_0.w": 7,
    }
