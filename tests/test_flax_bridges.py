"""Flax's bridges: a Linen module in an NNX one, and an NNX module in a Linen one, are read like the module alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import initax as ix
from tests.tables import KEY

RULES = {"*": ix.Scheme("he_normal", recurrent="orthogonal", scale="ones")}


class Net(nn.Module):
    """Modules of several kinds, one of them shared, one behind weight norm, one mapped over."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.WeightNorm(nn.Dense(6, name="inside"))(x)
        many = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3)
        x = many(5, name="many")(x).mean(axis=0)
        _, x = nn.GRUCell(4)(jnp.zeros((*x.shape[:-1], 4)), x)
        return nn.DenseGeneral((2, 3), name="heads")(x)


X = jnp.ones((2, 12))
# module → arguments of a call
LINEN = {
    "dense": (nn.Dense(11), (X,)),
    "no bias": (nn.Dense(11, use_bias=False, kernel_init=nn.initializers.orthogonal()), (X,)),
    "grouped convolution": (nn.Conv(8, (3, 3), strides=2, feature_group_count=2), (jnp.ones((1, 8, 8, 4)),)),
    "transposed convolution": (nn.ConvTranspose(6, (3, 3), strides=(2, 2)), (jnp.ones((1, 8, 8, 4)),)),
    "embedding": (nn.Embed(50, 6), (jnp.arange(3),)),
    "general": (nn.DenseGeneral((2, 3), axis=(-2, -1)), (jnp.ones((5, 3, 4)),)),
    "norm": (nn.LayerNorm(), (X,)),
    "cell": (nn.LSTMCell(4), ((jnp.zeros((2, 4)), jnp.zeros((2, 4))), X)),
}
NETWORKS = {"sequence": (nn.Sequential([nn.Dense(5), nn.tanh, nn.Dense(3)]), (X,)), "network": (Net(), (X,))}


def in_nnx(module, inputs):
    return nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(*inputs)


def dotted(path):
    """A path without the slashes that weight norm of Linen has in the name of a scale."""
    return path.replace("/", ".")


def rows(plan):
    """What a plan says of each array that is drawn, by path."""
    return {
        dotted(each.parameter.path): (
            each.kind,
            each.parameter.role,
            each.parameter.axes and each.parameter.axes.pattern,
            each.parameter.fans,
            each.std,
            str(each.initializer),
            each.follows,
        )
        for each in plan.draws
    }


def assert_same_plan(one, other, key):
    """The same rows, and so the same arrays to the last bit."""
    assert rows(one)
    assert rows(one) == rows(other)
    arrays = other.arrays(key)
    for path, array in one.arrays(key).items():
        np.testing.assert_array_equal(array, arrays[dotted(path)], err_msg=path)


@pytest.mark.parametrize("rules", [RULES, {"*": "default"}], ids=["he_normal", "default"])
@pytest.mark.parametrize("name", [*LINEN, *NETWORKS])
@pytest.mark.slow(one_in=5)
def test_a_linen_module_in_an_nnx_one_has_the_plan_of_its_own(name, rules, key):
    module, inputs = (LINEN | NETWORKS)[name]
    alone = ix.plan(module.init(KEY, *inputs), rules, module=module, inputs=inputs)
    assert_same_plan(ix.plan(in_nnx(module, inputs), rules, inputs=inputs), alone, key)
    if name in LINEN:
        assert_same_plan(ix.plan(in_nnx(module, inputs), rules), alone, key)


@pytest.mark.parametrize("name", [*LINEN, *NETWORKS])
def test_the_module_runs_with_the_arrays_of_the_plan_and_the_old_one_stays(name, key):
    module, inputs = (LINEN | NETWORKS)[name]
    old = in_nnx(module, inputs)
    before = jax.tree.leaves(nnx.state(old))
    plan = ix.plan(old, RULES, inputs=inputs)
    new = plan.draw(key)
    assert type(new) is nnx.bridge.ToNNX
    kept = {id(leaf) for leaf in before} & {id(leaf) for leaf in jax.tree.leaves(nnx.state(new))}
    assert len(kept) == len(before) - len(plan.draws)
    for one, other in zip(before, jax.tree.leaves(nnx.state(old)), strict=True):
        assert one is other
    alone = ix.reinit(module.init(KEY, *inputs), RULES, key, module=module, inputs=inputs)
    outputs = [new(*inputs), module.apply(alone, *inputs)]
    jax.tree.map(np.testing.assert_array_equal, *outputs)


def test_forward_says_how_the_module_inside_is_called():
    model = in_nnx(Net(), (X,))
    plan = ix.plan(model, RULES, inputs=X, forward=lambda model, x: model(x, train=False))
    assert rows(plan) == rows(ix.plan(model, RULES, inputs=X))


def test_without_inputs_names_tell_of_modules_inside():
    model = in_nnx(nn.Sequential([nn.Dense(5), nn.BatchNorm(use_running_average=True)]), (X,))
    layers = {each.path: each for each in ix.layers(model)}
    kernel, mean = layers["layers_0"]["kernel"], layers["layers_1"]["mean"]
    assert (kernel.fan_in, kernel.evidence) == (12, ix.Evidence.NAMED)
    assert mean.excluded.text == "running statistics"


class Around(nnx.Module):
    """A network of NNX with modules of Linen in it."""

    def __init__(self):
        self.first = in_nnx(nn.Dense(8), (X,))
        self.rest = nnx.List([in_nnx(nn.Conv(6, (3,), feature_group_count=2), (jnp.ones((2, 5, 8)),))])
        self.last = nnx.Linear(6, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.last(self.rest[0](self.first(x)))


@pytest.mark.parametrize("is_abstract", [False, True])
def test_modules_of_linen_are_known_wherever_they_are(is_abstract, key):
    model = nnx.eval_shape(Around) if is_abstract else Around()
    plan = ix.plan(model, RULES)
    assert {
        each.parameter.path: (each.kind, each.parameter.fan_in) for each in plan.draws if each.parameter.role != "state"
    } == {
        "first.kernel": ("Linear", 12),
        "first.bias": ("Linear", 12),
        "rest.0.kernel": ("Conv", 12),
        "rest.0.bias": ("Conv", 12),
        "last.kernel": ("Linear", 6),
        "last.bias": ("Linear", 6),
    }
    assert {layer.path: layer.cls for layer in ix.layers(model) if layer.kind != "State"} == {
        "first": nn.Dense,
        "rest.0": nn.Conv,
        "last": nnx.Linear,
    }
    if not is_abstract:
        assert plan.draw(key)(jnp.ones((2, 5, 12))).shape == (2, 5, 3)


@pytest.mark.parametrize("selector", ["Dense", "ToNNX Linear", "Around Dense", nn.Dense, "first"], ids=str)
def test_selectors_mean_the_module_inside_and_what_is_around_it(selector):
    plan = ix.plan(Around(), {selector: "zeros"})
    assert "first.kernel" in {each.parameter.path for each in plan.draws}


class Mixed(nnx.Module):
    """Modules in a list, running statistics and weight norm, whose scale stands beside the weight."""

    def __init__(self, rngs):
        self.inner = nnx.List([nnx.Linear(12, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)])
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.last = nnx.WeightNorm(nnx.Linear(8, 3, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.last(self.norm(self.inner[1](self.inner[0](x))))


# module as it is made, without rngs → arguments of a call
NNX = {
    "linear": ((nnx.Linear, 12, 7), {}, (X,)),
    "grouped convolution": (
        (nnx.Conv, 4, 8, (3, 3)),
        {"strides": 2, "feature_group_count": 2},
        (jnp.ones((1, 8, 8, 4)),),
    ),
    "embedding": ((nnx.Embed, 50, 6), {}, (jnp.arange(3),)),
    "cell": ((nnx.LSTMCell, 12, 4), {}, ((jnp.zeros((2, 4)), jnp.zeros((2, 4))), X)),
    "norm": ((nnx.LayerNorm, 12), {}, (X,)),
    "attention": ((nnx.MultiHeadAttention, 2, 12), {"decode": False}, (jnp.ones((2, 5, 12)),)),
    "network": ((Mixed,), {}, (X,)),
}


@pytest.mark.filterwarnings("ignore:Found unknown module paths in incoming state")  # Flax's, at every call with a list
@pytest.mark.parametrize("rules", [RULES, {"*": "default"}], ids=["he_normal", "default"])
@pytest.mark.parametrize("name", NNX)
@pytest.mark.slow(one_in=5)
def test_an_nnx_module_in_a_linen_one_has_the_plan_of_its_own(name, rules, key):
    (cls, *arguments), keywords, inputs = NNX[name]
    module = nnx.bridge.to_linen(cls, *arguments, **keywords)
    variables = module.init(KEY, *inputs)
    plan = ix.plan(variables, rules, module=module, inputs=inputs)
    alone = ix.plan(cls(*arguments, **keywords, rngs=nnx.Rngs(0)), rules)
    by_rule = [
        {path: row for path, row in rows(each).items() if row[-1] is None} for each in (plan, alone)
    ]  # where what follows a weight stands in the variables, differs between releases of Flax
    assert by_rule[0] == by_rule[1]
    assert [each.follows for each in plan.draws if each.follows] == [
        each.follows for each in alone.draws if each.follows
    ]
    new = plan.draw(key)
    assert jax.tree.structure(new) == jax.tree.structure(variables)
    own = ix.reinit(cls(*arguments, **keywords, rngs=nnx.Rngs(0)), rules, key)
    jax.tree.map(np.testing.assert_array_equal, module.apply(new, *inputs), own(*inputs))


class Outer(nn.Module):
    """A network of Linen with modules of NNX in it, one of them stacked."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        x = nnx.bridge.to_linen(nnx.Linear, 8, 6, name="inside")(x)
        stacked = nn.vmap(
            nnx.bridge.ToLinen, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3
        )
        x = stacked(nnx.Linear, args=(6, 5), name="stacked")(x).mean(axis=0)
        return nn.Dense(2)(x)


def test_modules_of_nnx_are_known_inside_networks_of_linen_and_stacked(key):
    module = Outer()
    variables = module.init(KEY, X)
    plan = ix.plan(variables, RULES, module=module, inputs=X)
    layers = ix.layers(variables, module=module, inputs=X)
    assert {each["kernel"].path: (each.cls, each["kernel"].axes.pattern) for each in layers} == {
        "Dense_0.kernel": (nn.Dense, "i o"),
        "inside.kernel": (nnx.Linear, "i o"),
        "stacked.kernel": (nnx.Linear, "stack i o"),
        "Dense_1.kernel": (nn.Dense, "i o"),
    }
    assert module.apply(plan.draw(key), X).shape == (2, 2)


def test_bridges_may_stand_inside_one_another(key):
    model = in_nnx(Outer(), (X,))
    layers = [each for each in ix.layers(model, inputs=X) if each.kind == "Linear"]
    assert [(each.path, each.cls, each["kernel"].axes.pattern, each["kernel"].evidence) for each in layers] == [
        ("Dense_0", nn.Dense, "i o", ix.Evidence.DECLARED),
        ("inside", nnx.Linear, "i o", ix.Evidence.DECLARED),
        ("stacked", nnx.Linear, "stack i o", ix.Evidence.DECLARED),
        ("Dense_1", nn.Dense, "i o", ix.Evidence.DECLARED),
    ]
    assert ix.reinit(model, RULES, key, inputs=X)(X).shape == (2, 2)


class Spectral(nnx.Module):
    def __init__(self, rngs):
        self.normed = nnx.SpectralNorm(nnx.Linear(12, 4, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.normed(x, update_stats=False)


@pytest.mark.filterwarnings("ignore:Found unknown module paths in incoming state")
def test_a_weight_is_kept_whose_companions_were_not_passed():
    module = nnx.bridge.to_linen(Spectral)
    variables = module.init(KEY, X)
    whole = ix.plan(variables, RULES, module=module, inputs=X)
    weight = "normed.layer_instance.kernel"
    assert weight in {each.parameter.path for each in whole.draws}
    assert {each.follows for each in whole.draws if each.follows} == {weight}
    (layer,) = (each for each in ix.layers(variables["params"], module=module, inputs=X) if each.kind == "Linear")
    assert layer["kernel"].excluded.text == "undeclared: behind spectral norm, whose other arrays are not here"
