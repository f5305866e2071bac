"""What an optimizer is told: masks and labels by the selectors of rules, in every framework's own tree."""

import functools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

import initax as ix
from tests.tables import KEY, filled

X = jnp.ones((3, 4))

pytestmark = pytest.mark.usefixtures("optax_promotes")


class Net(eqx.Module):
    """A module that can be called, as optax calls what it takes for a function; with an array of integers."""

    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear
    seen: jax.Array

    def __init__(self):
        self.first = eqx.nn.Linear(4, 8, key=KEY)
        self.norm = eqx.nn.LayerNorm(8)
        self.head = eqx.nn.Linear(8, 2, key=KEY)
        self.seen = jnp.zeros(3, jnp.int32)

    def __call__(self, x):
        return self.head(self.norm(self.first(x)))


class NnxNet(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(self.first(x)))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="first")(x)
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        return nn.Dense(2, name="head")(x)


LINEN = LinenNet()
VARIABLES = filled(jax.eval_shape(LINEN.init, jax.random.key(0), X))
STATE = TrainState.create(apply_fn=LINEN.apply, params=VARIABLES["params"], tx=optax.sgd(0.1))
PLAIN = {
    "first": {"w": jnp.ones((4, 8)), "b": jnp.ones(8)},
    "head": {"w": jnp.ones((8, 2)), "b": jnp.ones(2)},
    "count": jnp.zeros((), jnp.int32),
}
WITH_MODULE = {"module": LINEN, "inputs": X}
# Model, what else is given, and trees of its parameters as optimizers are given them.
MODELS = {
    "Equinox": (Net(), {}, [eqx.filter(Net(), eqx.is_inexact_array), eqx.filter(Net(), eqx.is_array)]),
    "Equinox, abstract": (eqx.filter_eval_shape(Net), {}, [eqx.filter(Net(), eqx.is_inexact_array)]),
    "NNX": (NnxNet(), {}, [nnx.state(NnxNet(), nnx.Param), nnx.to_pure_dict(nnx.state(NnxNet(), nnx.Param))]),
    "NNX, abstract": (nnx.eval_shape(NnxNet), {}, [nnx.state(NnxNet(), nnx.Param)]),
    "Linen": (VARIABLES, WITH_MODULE, [VARIABLES["params"], {"params": VARIABLES["params"]}]),
    "Linen, params": (VARIABLES["params"], {}, [VARIABLES["params"]]),
    "Linen, train state": (STATE, {"inputs": X}, [STATE.params]),
    "plain": (PLAIN, {}, [PLAIN]),
}
CASES = [(name, place) for name, (_, _, trees) in MODELS.items() for place in range(len(trees))]


def told(labels, parameters):
    """Path → what is said, where there is an array."""
    leaves = jax.tree_util.tree_flatten_with_path(labels(parameters), is_leaf=lambda each: each is None)[0]
    named = {}
    for path, leaf in leaves:
        parts = [str(getattr(each, "name", getattr(each, "key", getattr(each, "idx", None)))) for each in path]
        named[".".join(part for part in parts if part not in ("params", "value"))] = leaf
    return {path: leaf for path, leaf in named.items() if leaf is not None}


@pytest.mark.parametrize(("name", "place"), CASES)
def test_the_last_rule_that_matches_says_it_in_the_tree_of_the_parameters(name, place):
    model, given, trees = MODELS[name]
    decay = ix.mask(model, {"*": True, "**.b*": False, "head": {"bias": True}}, **given)
    for path, value in told(decay, trees[place]).items():
        is_bias = path.endswith((".b", ".bias"))
        is_weight = path.endswith((".w", ".weight", ".kernel"))
        assert value is (path.startswith("head") or (not is_bias and (is_weight or "norm" in path))), path


@pytest.mark.parametrize(("name", "place"), CASES)
def test_a_role_is_one_whatever_the_array_is_called(name, place):
    """The scale of Equinox's norms is called weight."""
    model, given, trees = MODELS[name]
    for path, value in told(ix.mask(model, "weight", **given), trees[place]).items():
        assert value is ("norm" not in path and path.endswith((".w", ".weight", ".kernel"))), path


@pytest.mark.parametrize(("name", "place"), CASES)
def test_optax_takes_it_where_it_takes_a_tree(name, place):
    """Weight decay moves what the mask is true for, and each label's own optimizer what has that label."""
    model, given, trees = MODELS[name]
    parameters = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), trees[place])
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    decay = ix.mask(model, "weight", **given)
    optimizer = optax.adamw(0.5, weight_decay=0.5, mask=decay)
    moved, _ = jax.jit(optimizer.update)(zeros, optimizer.init(parameters), parameters)
    for update, value in zip(jax.tree.leaves(moved), jax.tree.leaves(decay(parameters)), strict=True):
        np.testing.assert_allclose(update, -0.25 * value)
    labels = ix.labels(model, {"*": "half", "first": "whole"}, **given)
    optimizer = optax.multi_transform({"half": optax.scale(0.5), "whole": optax.scale(1.0)}, labels)
    floating = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), parameters)
    moved, _ = optimizer.update(floating, optimizer.init(floating), floating)
    for update, value in zip(jax.tree.leaves(moved), jax.tree.leaves(labels(floating)), strict=True):
        np.testing.assert_allclose(update, {"half": 0.5, "whole": 1.0}[value])


@pytest.mark.parametrize("name", MODELS)
def test_its_own_tree_is_that_of_what_is_trained(name):
    model, given, (parameters, *_) = MODELS[name]
    own = ix.mask(model, {"*": True, "head": {"bias": False}}, **given).tree
    if name == "plain":
        parameters = {**parameters, "count": None}
    assert jax.tree.structure(own) == jax.tree.structure(parameters)
    assert all(isinstance(leaf, bool) for leaf in jax.tree.leaves(own))
    assert sum(not leaf for leaf in jax.tree.leaves(own)) == 1


def test_an_optimizer_of_nnx_is_masked_and_labelled():
    model = NnxNet()
    grads = nnx.grad(lambda model: model(X).sum())(model)
    labels = ix.labels(model, {"*": "none", "head": "sgd"})
    optimizer = nnx.Optimizer(
        model, optax.multi_transform({"none": optax.set_to_zero(), "sgd": optax.sgd(1.0)}, labels), wrt=nnx.Param
    )
    before = nnx.clone(model)
    optimizer.update(model, grads)
    assert np.array_equal(model.first.kernel[...], before.first.kernel[...])
    np.testing.assert_allclose(model.head.bias[...], before.head.bias[...] - grads.head.bias[...], rtol=1e-6)


def test_the_inverse_of_a_mask_freezes_what_the_mask_leaves_out():
    model = eqx.nn.MLP(4, 2, 8, depth=1, key=jax.random.key(0))
    trained = ix.mask(model, {"layers.1": True})
    params = eqx.filter(model, eqx.is_inexact_array)
    optimizer = optax.chain(optax.adamw(1e-3), optax.masked(optax.set_to_zero(), ~trained))
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    assert [bool(jnp.any(layer.weight)) for layer in updates.layers] == [False, True]


def test_the_truth_of_a_mask_is_not_that_of_its_arrays():
    """`jax.tree.map(lambda each: not each, mask)` would be one value, and freeze nothing without a word."""
    mask = ix.mask({"w": jnp.ones((3, 4))}, {"*": True})
    with pytest.raises(ix.InitaxError) as caught:
        jax.tree.map(lambda each: not each, mask)
    assert str(caught.value) == (
        "mask: there is a value for each array, and no truth value of them all.\n"
        "  ~mask is true where the mask is false\n"
        "  for jax.tree.map there is a tree: mask.tree"
    )
    with pytest.raises(ix.InitaxError, match="labels: only a mask has an inverse"):
        ~ix.labels({"w": jnp.ones((3, 4))}, {"*": "adam"})


def test_state_and_what_is_frozen_is_never_true():
    variables = {"params": VARIABLES["params"], "batch_stats": VARIABLES["batch_stats"]}
    decay = ix.mask(variables, {"*": True}, **WITH_MODULE)
    assert jax.tree.leaves(decay(variables)["batch_stats"]) == [False, False]
    assert decay["head.kernel"] is True
    assert "head.kernel" in decay
    assert "head.weight" not in decay
    assert decay["params.head.kernel"] is True


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("weight", {"*": {"weight": True}}),
        (["weight", "bias"], {"*": {"weight": True, "bias": True}}),
        (["bias", "Norm"], {"*": {"bias": True}, "Norm": True}),
        (eqx.nn.Linear, {"Linear": True}),
        (lambda layer: layer.path == "head", {"head": True}),
        ("**.bias", {"**.bias": True}),
    ],
)
def test_a_mask_may_be_written_as_what_it_is_true_for(short, long):
    model = MODELS["Equinox"][0]
    mask = ix.mask(model, short)
    assert [each.value for each in mask.rows] == [each.value for each in ix.mask(model, long).rows]


def test_what_no_rule_selects_has_the_default_label():
    model = MODELS["Equinox"][0]
    labels = ix.labels(model, {"head": "head"}, default="body")
    assert (labels["first.weight"], labels["head.weight"], labels["seen"]) == ("body", "head", "body")
    assert repr(labels) == "Labels(body: 5, head: 2)"


def test_rules_come_from_files(tmp_path):
    model = MODELS["Equinox"][0]
    toml, other = tmp_path / "decay.toml", tmp_path / "labels.json"
    toml.write_text('"*" = true\n"**.bias" = false\n[Norm]\nscale = false\n')
    other.write_text(json.dumps({"*": "adam", "Linear": {"weight": "muon"}}))
    decay = ix.mask(model, str(toml))
    assert [decay[path] for path in ("first.weight", "first.bias", "norm.weight")] == [True, False, False]
    labels = ix.labels(model, other)
    assert (labels["first.weight"], labels["first.bias"]) == ("muon", "adam")
    assert ix.load_rules(toml, of="mask") == {"*": True, "**.bias": False, "Norm": {"scale": False}}
    toml.write_text('"*" = true\nLinear = "no"\n')
    assert error(lambda: ix.mask(model, toml)) == (
        f"RuleError: {toml}, line 2: rule \"Linear\": 'no' (str) is not true or false.\n  write True or False"
    )


def test_it_prints_what_is_said_and_by_which_rule():
    lines = str(ix.mask(MODELS["plain"][0], {"*": True, "**.b": False})).splitlines()
    assert "\n".join(lines[:3] + lines[4:]) == (
        "mask: 5 arrays\n"
        "\n"
        " parameter   kind         role     shape    axes      mask    why\n"
        " count       Undeclared            ()                 False   "
        "int32: only floating and complex arrays are drawn\n"
        " first.w     Linear       weight   (4, 8)   ... i o   True    *\n"
        " first.b     Linear       bias     (8,)     o         False   **.b\n"
        " head.w      Linear       weight   (8, 2)   ... i o   True    *\n"
        " head.b      Linear       bias     (2,)     o         False   **.b"
    )


def test_a_rule_that_decides_nothing_is_warned_of():
    with pytest.warns(ix.InitaxWarning) as caught:
        ix.labels(MODELS["Equinox"][0], {"head": "a", "*": "b"})
    assert [str(each.message) for each in caught] == [
        'rule "head" decides nothing: every array it selects is decided by "*", which comes later; the last rule that '
        "matches wins"
    ]


def test_arrays_of_unknown_role_that_go_unsaid_are_warned_of():
    class Mine(eqx.Module):
        own: jax.Array
        first: eqx.nn.Linear

    model = Mine(jnp.ones((8, 4)), eqx.nn.Linear(4, 8, key=KEY))
    with pytest.warns(ix.InitaxWarning) as caught:
        ix.mask(model, "weight")
    assert [str(each.message) for each in caught] == [
        'rule "*" goes by roles, and those of 1 array are not known: own\n'
        '  name them, {"own": ...}; or say what the model is called on, inputs=...'
    ]
    assert ix.mask(model, ["weight", "own"])["own"] is True


def error(call):
    with pytest.raises(ix.InitaxError) as caught:
        call()
    return f"{type(caught.value).__name__}: {caught.value}"


ERRORS = {
    "a selector that matches nothing": (
        lambda model: ix.mask(model, {"Lineer": True}),
        'RuleError: selector "Lineer" matches no layer.\n'
        "  layers: Net (1), Linear (2), LayerNorm (1)\n"
        '  did you mean "Linear"?\n'
        '  write {"Linear": True}',
    ),
    "the same, with an apostrophe in a label": (
        lambda model: ix.labels(model, {"*": "adam", "Lineer": "Adam's"}),
        'RuleError: selector "Lineer" matches no layer.\n'
        "  layers: Net (1), Linear (2), LayerNorm (1)\n"
        '  did you mean "Linear"?\n'
        '  write {"*": "adam", "Linear": "Adam\'s"}',
    ),
    "a key that is no array": (
        lambda model: ix.labels(model, {"*": "adam", "Linear": {"wieght": "muon"}}),
        'RuleError: rule "Linear": "wieght" is neither a role nor an array of what the rule selects.\n'
        '  did you mean "weight"?\n'
        "  arrays: weight, bias\n"
        "  roles: weight, recurrent, bias, embedding, scale, state",
    ),
    "a key of another framework": (
        lambda model: ix.labels(model, {"*": "adam", "Linear": {"kernel": "muon"}}),
        'RuleError: rule "Linear": "kernel" is neither a role nor an array of what the rule selects.\n'
        '  an array "kernel" has the role "weight"\n'
        "  arrays: weight, bias\n"
        "  roles: weight, recurrent, bias, embedding, scale, state",
    ),
    "arrays without a label": (
        lambda model: ix.labels(model, {"Linear": "adam"}),
        "RuleError: labels: no rule says anything of 2 arrays: norm.weight, norm.bias\n"
        '  a label for all others goes first: {"*": "adam", ...}; or give default="adam"',
    ),
    "nothing is true": (
        lambda model: ix.mask(model, {"Norm": False, "**.bias": False}),
        "RuleError: mask: no array is true, so that the mask would switch everything off.\n"
        "  rules: Norm, **.bias\n"
        '  what no rule selects is false; write {"*": True, ...} first',
    ),
    "a value that is none": (
        lambda model: ix.mask(model, {"Linear": 0.1}),
        'RuleError: mask: rule "Linear": 0.1 (float) is not true or false.\n  write True or False',
    ),
    "a label that is none": (
        lambda model: ix.labels(model, {"Linear": {"weight": None}}),
        'RuleError: labels: rule "Linear", key "weight": None (NoneType) is not a label.\n'
        '  a label is a string, as the keys of optax.multi_transform: "adam"',
    ),
    "a pair for a selector": (
        lambda model: ix.labels(model, {"*": "adam", ("Linear", "weight"): "muon"}),
        "RuleError: labels: a selector can't be a pair, ('Linear', 'weight').\n"
        '  write {"Linear": {"weight": \'muon\'}}',
    ),
    "rules that are none": (
        lambda model: ix.labels(model, "adam"),
        "RuleError: labels: rules must be a mapping from selectors to labels, not 'adam' (str).\n"
        '  write {"*": "adam", "Linear": {"weight": "muon"}}',
    ),
    "another model's parameters": (
        lambda model: ix.mask(model, "weight")({"last": jnp.ones((2, 3))}),
        "ModelError: ix.mask was given another model, without an array last (2, 3).\n"
        "  it has: seen, first.weight, first.bias, norm.weight, norm.bias, head.weight, … (1 more)\n"
        "  make it of the model that is trained: ix.mask(model, ...)",
    ),
    "one array without its path": (
        lambda model: eqx.partition(model, ix.mask(model, "weight")),
        "ModelError: ix.mask was given one array (8, 4) without its path, and takes the tree of all parameters.\n"
        "  write eqx.partition(model, mask(model))",
    ),
    "a kind of rules that is none": (
        lambda model: ix.load_rules('"*" = "x"', of="masks"),
        "RuleError: load_rules: of must be one of schemes, labels, mask, muon, mup, not 'masks'.",
    ),
}


def test_masks_are_combined():
    """Array by array, and the table says by which selectors."""
    model = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    weights, last = ix.mask(model, "weight"), ix.mask(model, "layers.1")
    both, either, others = weights & last, weights | last, weights & ~last
    assert [row.value for row in both.rows] == [False, False, True, False]
    assert [row.value for row in either.rows] == [True, False, True, True]
    assert [row.value for row in others.rows] == [True, False, False, False]
    assert both.rows[2].why == f"{weights.rows[2].why} & layers.1"
    assert eqx.partition(model, others(model))[0].layers[0].weight is model.layers[0].weight
    with pytest.raises(ix.InitaxError, match="only masks are combined by &"):
        weights & ix.labels(model, {"*": "adam"})
    with pytest.raises(ix.ModelError, match="masks of different models, of 4 arrays and 2 arrays"):
        weights | ix.mask(eqx.nn.Linear(3, 2, key=KEY), "weight")
    with pytest.raises(TypeError, match="unsupported operand"):
        weights & True


def test_a_mask_is_a_filter_of_nnx():
    """NNX calls a filter with a path and what stands there: gradients, states and an optimizer for some arrays only."""
    first = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    net = nnx.Sequential(first, nnx.BatchNorm(4, rngs=nnx.Rngs(0)), nnx.Dropout(0.5))
    mask = ix.mask(net, {"layers.0": {"weight": True}, "Norm": {"scale": True}})
    true = {("layers", 0, "kernel"), ("layers", 1, "scale")}
    assert set(nnx.to_flat_state(nnx.state(net, mask)).paths) == true
    _, chosen, rest = nnx.split(net, mask, ...)
    assert set(nnx.to_flat_state(chosen).paths) == true
    assert not true & set(nnx.to_flat_state(rest).paths)

    def loss(net):
        return (net.layers[0](jnp.ones((2, 3))) ** 2).sum()

    gradients = nnx.grad(loss, argnums=nnx.DiffState(0, mask))(net)
    assert set(nnx.to_flat_state(gradients).paths) == true
    optimizer = nnx.Optimizer(net, optax.sgd(1.0), wrt=mask)
    kernel, bias = first.kernel[...], first.bias[...]
    optimizer.update(net, gradients)
    assert bool((first.kernel[...] != kernel).all())
    assert bool((first.bias[...] == bias).all())


def test_equinox_splits_a_whole_model_by_a_mask():
    model = eqx.nn.MLP(4, 2, 8, depth=1, key=KEY)
    mask = ix.mask(model, "layers.1")
    trained = jax.tree.map(lambda leaf: leaf + 1 if eqx.is_array(leaf) else leaf, model)
    head, rest = eqx.partition(trained, mask(trained))
    assert jax.tree.leaves(head) == [trained.layers[1].weight, trained.layers[1].bias]
    assert rest.activation is trained.activation
    assert eqx.combine(head, rest).layers[0].weight is trained.layers[0].weight
    assert eqx.filter(trained, (~mask)(trained)).layers[1].weight is None


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_to_write(name):
    call, text = ERRORS[name]
    assert error(functools.partial(call, MODELS["Equinox"][0])) == text
