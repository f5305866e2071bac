"""What is passed in another's place: every answer names what was seen and gives the line, and the line works."""

import functools
import io
import itertools
import json
import pathlib
import re
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import initax as ix
from tests.tables import KEY

nn = eqx.nn
RULES = {"Linear": "he_normal"}
MLP = nn.MLP(3, 2, 8, 1, key=KEY)
X = jax.random.normal(KEY, (16, 3))
PARAMS = eqx.filter(MLP, eqx.is_array)
STATE = {
    "fc.weight": np.ones((4, 3)),
    "fc.bias": np.ones(4),
    "conv.weight": np.ones((5, 2, 3, 3)),
    "bn.weight": np.ones(4),
    "bn.bias": np.ones(4),
    "bn.num_batches_tracked": np.array(3),
}
BATCHED = {"forward": lambda model, x: jax.vmap(model)(x)}


def fake(name, module, *bases, **own):
    """A class of a package that is not installed."""
    return type(name, bases, {"__module__": module, **own})


Tensor = fake("Tensor", "torch", shape=(3, 4))
TorchParameter = fake("Parameter", "torch.nn.parameter", Tensor)
TorchNet = fake("Net", "__main__", fake("Module", "torch.nn.modules.module"))
KerasModel = fake("Sequential", "keras.src.models.sequential", fake("Model", "keras.src.models.model"))
OldKerasModel = fake("Functional", "tensorflow.python.keras.engine.functional")
KerasVariable = fake("Variable", "keras.src.backend.jax.core")
TensorFlowVariable = fake("ResourceVariable", "tensorflow.python.ops.resource_variable_ops")


class NoPytree:
    """A class that JAX does not look into."""

    def __init__(self):
        self.w, self.b = jnp.ones((3, 4)), jnp.ones(4)


TORCH_DICT = 'PyTorch stores outputs first; then write {"Linear": ix.Scheme("he_normal", axes="o i ...")}'
ORDER = "model, rules, key in this order, and was given"
ONE_BY_ONE = """\
draw its arrays one by one, under the JAX backend: layer.kernel.assign(ix.draw("he_normal", key, layer.kernel.shape))"""
WHAT_A_STATE_IS = """
  pass what it optimizes: plan = ix.plan(params, rules); params = plan.draw(key)
  what the state remembers of it is forgotten by ix.reset_optimizer(opt_state, plan)"""


def around(name, cls="MLP"):
    return f"""\
the model is a function around a module: {name} of {cls}.
  pass the {cls} itself, and wrap what comes back: model = ix.reinit(model, rules, key)"""


# what is passed for a model → the whole text
NO_MODELS = {
    "filter_jit": (lambda: eqx.filter_jit(MLP), around("_JitWrapper")),
    "jit": (lambda: jax.jit(MLP), around("PjitFunction")),
    "vmap": (lambda: jax.vmap(MLP), around("function")),
    "nnx.jit": (lambda: nnx.jit(nnx.Linear(2, 3, rngs=nnx.Rngs(0))), around("JitWrapped", "Linear")),
    "method": (lambda: MLP.__call__, around("method")),
    "partial": (lambda: functools.partial(MLP), around("partial")),
    "jit of vmap": (lambda: jax.jit(jax.vmap(MLP)), around("PjitFunction")),
    "function": (
        lambda: lambda x: x,
        """\
the model is a function, <lambda>, and holds no array.
  pass the module or the arrays that it takes; forward= says how they are called""",
    ),
    "class": (
        lambda: nn.Linear,
        """\
the model is the class Linear, and no Linear yet.
  write model = Linear(...)""",
    ),
    "Linen class": (
        lambda: linen.Dense,
        """\
the model is the class Dense, and no Dense yet.
  write model = Dense(...)""",
    ),
    "pair of functions": (
        lambda: type("Transformed", (), {"init": len, "apply": len})(),
        """\
the model is a pair of functions, init and apply: Transformed.
  pass the parameters: params = ix.reinit(model.init(key, x), rules, key)""",
    ),
    "optimizer": (
        lambda: optax.sgd(1e-3),
        """\
the model is an optimizer of optax: GradientTransformationExtraArgs.
  pass what it optimizes: params = ix.reinit(params, rules, key), then optimizer.init(params)""",
    ),
    "state of an optimizer": (
        lambda: optax.adam(1e-3).init(PARAMS),
        "the model is an optimizer's state: ScaleByAdamState, EmptyState." + WHAT_A_STATE_IS,
    ),
    "state of a chain": (
        lambda: optax.chain(optax.clip(1.0), optax.chain(optax.trace(0.9), optax.scale(2.0))).init(PARAMS),
        "the model is an optimizer's state: EmptyState, TraceState, EmptyState." + WHAT_A_STATE_IS,
    ),
    "state inside a state": (
        lambda: optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2).init(PARAMS),
        "the model is an optimizer's state: MultiStepsState." + WHAT_A_STATE_IS,
    ),
    "nnx.Optimizer": (
        lambda: nnx.Optimizer(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), optax.sgd(1e-3), wrt=nnx.Param),
        "the model is an optimizer's state: Optimizer." + WHAT_A_STATE_IS,
    ),
    "tensor": (
        Tensor,
        f"""\
the model is a tensor of PyTorch: Tensor. initax takes arrays of JAX and NumPy.
  model = model.detach().cpu().numpy()
  {TORCH_DICT}""",
    ),
    "state dict of tensors": (
        lambda: {"fc.weight": TorchParameter(), "fc.bias": TorchParameter()},
        f"""\
the model is a tensor of PyTorch: Parameter, in a dict. initax takes arrays of JAX and NumPy.
  model = {{name: each.detach().cpu().numpy() for name, each in model.items()}}
  {TORCH_DICT}""",
    ),
    "tensor among arrays": (
        lambda: [jnp.ones((3, 4)), Tensor()],
        f"""\
the model is a tensor of PyTorch: Tensor, in a list. initax takes arrays of JAX and NumPy.
  model = jax.tree.map(lambda each: each.detach().cpu().numpy(), model)
  {TORCH_DICT}""",
    ),
    "module of PyTorch": (
        TorchNet,
        """\
the model is a module of PyTorch: Net.
  state = {name: each.detach().cpu().numpy() for name, each in model.state_dict().items()}
  state = ix.reinit(state, {"Linear": ix.Scheme("he_normal", axes="o i ...")}, key)
  model.load_state_dict({name: torch.as_tensor(each) for name, each in state.items()})""",
    ),
    "Keras model": (
        KerasModel,
        f"the model is a Keras model: Sequential. Keras models are not supported.\n  {ONE_BY_ONE}",
    ),
    "Keras model inside TensorFlow": (
        OldKerasModel,
        f"the model is a Keras model: Functional. Keras models are not supported.\n  {ONE_BY_ONE}",
    ),
    "Keras model in a list": (
        lambda: [KerasModel()],
        f"the model is a Keras model: Sequential, in a list. Keras models are not supported.\n  {ONE_BY_ONE}",
    ),
    "variable of Keras": (
        lambda: [KerasVariable()],
        f"the model is a variable of Keras: Variable, in a list. Keras models are not supported.\n  {ONE_BY_ONE}",
    ),
    "variable of TensorFlow": (
        lambda: [TensorFlowVariable()],
        """\
the model is a tensor of TensorFlow: ResourceVariable, in a list. initax takes arrays of JAX and NumPy.
  model = jax.tree.map(lambda each: each.numpy(), model)""",
    ),
    "no pytree": (
        NoPytree,
        """\
NoPytree is not a pytree: JAX sees no array in it.
  it holds: w, b
  pass these, model.w, or all of them, vars(model); or make NoPytree a pytree: an eqx.Module, or \
jax.tree_util.register_dataclass""",
    ),
    "mapping that is no dict": (
        lambda: __import__("types").MappingProxyType({"w": jnp.ones((3, 4))}),
        "JAX does not look into a mappingproxy, and sees no array.\n  pass dict(model)",
    ),
    "path": (
        lambda: "model.eqx",
        """\
the model is a text, 'model.eqx', and no model yet.
  load it first; a model is a module, or a pytree of arrays: model = eqx.tree_deserialise_leaves(path, like)""",
    ),
    "open file": (
        lambda: io.BytesIO(b"weights"),
        """\
the model is an open file (BytesIO), and no model yet.
  load it first; a model is a module, or a pytree of arrays: model = eqx.tree_deserialise_leaves(path, like)""",
    ),
}


@pytest.mark.parametrize("name", NO_MODELS)
def test_what_is_no_model_is_named(name, key):
    make, text = NO_MODELS[name]
    with pytest.raises(ix.ModelError) as caught:
        ix.reinit(make(), RULES, key)
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["filter_jit", "state of an optimizer", "state dict of tensors", "Keras model"])
def test_every_verb_names_what_is_no_model(name, key):
    make, text = NO_MODELS[name]
    verbs = (
        lambda model: ix.layers(model),
        lambda model: ix.plan(model, RULES),
        lambda model: ix.lsuv(model, X),
        lambda model: ix.signal_propagation(model, X),
        lambda model: ix.reset_units(model, "0", jnp.ones(3, bool), key, inputs=X),
        lambda model: ix.Plan.from_json(ix.plan(MLP, RULES).to_json(), model),
    )
    for verb in verbs:
        with pytest.raises(ix.ModelError) as caught:
            verb(make())
        assert str(caught.value) == text


WORKING = {
    "module and state": lambda: (MLP, optax.adam(1e-3).init(PARAMS)),
    "vmapped module": lambda: eqx.filter_vmap(MLP),
    "module with functions": lambda: [jax.nn.relu, MLP],
    "module that trains itself": lambda: Trainer(),
    "state dict with an order": lambda: STATE,
}


class Trainer(nnx.Module):
    """A module of its own that holds an optimizer's state."""

    def __init__(self):
        self.net = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        self.opt_state = nnx.data(optax.sgd(0.1).init(jnp.ones(3)))


@pytest.mark.parametrize("name", WORKING)
def test_what_holds_a_model_is_one(name, key):
    rules = {"Linear": ix.Scheme("he_normal", axes="o i ...")} if name.startswith("state") else RULES
    plan = ix.plan(WORKING[name](), rules)
    assert any(each.parameter.role == "weight" for each in plan.draws)


def test_a_flattened_state_dict_asks_for_the_order_of_its_axes_and_the_line_is_right(key):
    with pytest.raises(ix.ModelError) as caught:
        ix.reinit(STATE, {"*": "he_normal"}, key)
    line = '{"Linear": ix.Scheme("he_normal", axes="o i ..."), "Conv": ix.Scheme("he_normal", axes="o i ...")}'
    assert (
        str(caught.value)
        == f"""\
the model is a flattened state dict, 6 arrays under names with dots: fc.weight, fc.bias, conv.weight, … (3 more).
  PyTorch's have their outputs first, and a rule has to say so
  write {line}"""
    )
    plan = ix.plan(STATE, eval(line, {"ix": ix}))
    assert {each.parameter.path: each.parameter.fan_in for each in plan.draws} == {
        "fc.weight": 3,
        "fc.bias": 3,
        "conv.weight": 18,
    }
    assert plan.draw(key)["bn.weight"] is STATE["bn.weight"]


def test_flattened_names_of_flax_are_taken_apart():
    model = {"Dense_0.kernel": np.ones((3, 4)), "Dense_0.bias": np.ones(4)}
    with pytest.raises(ix.ModelError) as caught:
        ix.plan(model, {"*": "he_normal"})
    assert (
        str(caught.value)
        == """\
the model is a flattened state dict, 2 arrays under names with dots: Dense_0.kernel, Dense_0.bias.
  take the names apart: flax.traverse_util.unflatten_dict(params, sep=".")"""
    )


DENSE = {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}
# verb → its arguments, in its order
VERBS = {
    "ix.reinit": (ix.reinit, {"model": MLP, "rules": RULES, "key": KEY}),
    "ix.plan": (ix.plan, {"model": {"w": jnp.ones((3, 4))}, "rules": {"*": ("orthogonal", {"gain": 0.5})}}),
    "ix.draw": (ix.draw, {"scheme": "he_normal", "key": KEY, "shape": (3, 4)}),
    "ix.draw with a type": (ix.draw, {"scheme": "he_normal", "key": KEY, "shape": (3, 4), "dtype": jnp.float32}),
    "ix.lsuv": (functools.partial(ix.lsuv, **BATCHED), {"model": MLP, "inputs": X}),
    "ix.signal_propagation": (functools.partial(ix.signal_propagation, **BATCHED), {"model": MLP, "inputs": X}),
    "ix.reset_units": (
        functools.partial(ix.reset_units, inputs=X[0]),
        {"model": MLP, "layer": "layers.0", "mask": jnp.arange(8) < 2, "key": KEY},
    ),
    "ix.ablate": (
        functools.partial(ix.ablate, how="python"),
        {
            "model": MLP,
            "schemes": {"he": RULES, "zero": {"*": {"weight": "zeros"}}},
            "keys": jax.random.split(KEY, 2),
            "run": lambda model, key: {"sum": model.layers[0].weight.sum()},
        },
    ),
    "ix.mask": (ix.mask, {"model": MLP, "rules": {nn.Linear: True, "**.bias": False}}),
    "ix.mask of a selector": (ix.mask, {"model": MLP, "rules": "layers.1"}),
    "ix.mask of roles": (ix.mask, {"model": eqx.filter_eval_shape(lambda: MLP), "rules": ["weight", "embedding"]}),
    "ix.labels": (ix.labels, {"model": {"w": jnp.ones((3, 4))}, "rules": {"*": "adam"}}),
    "ix.muon": (ix.muon, {"learning_rate": 0.02, "model": MLP}),
    "ix.muon schedule": (ix.muon, {"learning_rate": lambda step: 0.02 / (step + 1), "model": {"Dense_0": DENSE}}),
    "ix.Plan.from_json": (ix.Plan.from_json, {"text": ix.plan(MLP, RULES).to_json(), "model": MLP}),
}
KINDS = {ix.KeyTypeError: {"key", "keys"}, ix.RuleError: {"rules", "schemes"}, ix.PlanError: {"text"}}


@pytest.mark.parametrize("verb", VERBS)
def test_arguments_in_their_order_are_taken(verb):
    function, given = VERBS[verb]
    function(*given.values())


@pytest.mark.parametrize(
    ("verb", "order"),
    [
        pytest.param(verb, order, id=f"{verb}: {', '.join(order)}")
        for verb, (_, given) in VERBS.items()
        for order in itertools.permutations(given)
        if order != tuple(given)
    ],
)
def test_arguments_in_any_other_order_are_named(verb, order):
    function, given = VERBS[verb]
    with pytest.raises(ix.InitaxError) as caught:
        function(*(given[name] for name in order))
    head, *seen, line = str(caught.value).splitlines()
    name = verb.partition(" ")[0]
    assert head == f"{name} takes {', '.join(given)} in this order, and was given {', '.join(order)}."
    moved = [one for one, other in zip(given, order, strict=True) if one != other]
    assert [each.split(" is ")[0].strip() for each in seen] == moved
    assert line == f"  write {name}({', '.join(given)})"
    for kind, names in KINDS.items():
        if names & set(moved):
            assert type(caught.value) is kind
            break


SWAPPED = {
    "model and rules": (
        lambda: ix.reinit(RULES, MLP, KEY),
        ix.RuleError,
        f"""\
ix.reinit takes {ORDER} rules, model, key.
  model is {{'Linear': 'he_normal'}} (dict)
  rules is an object of class MLP
  write ix.reinit(model, rules, key)""",
    ),
    "key and rules": (
        lambda: ix.reinit(MLP, KEY, RULES),
        ix.KeyTypeError,
        f"""\
ix.reinit takes {ORDER} model, key, rules.
  rules is an object of class PRNGKeyArray
  key is {{'Linear': 'he_normal'}} (dict)
  write ix.reinit(model, rules, key)""",
    ),
    "seed and rules": (
        lambda: ix.reinit(MLP, 0, RULES),
        ix.KeyTypeError,
        f"""\
ix.reinit takes {ORDER} model, key, rules.
  rules is 0 (int)
  key is {{'Linear': 'he_normal'}} (dict)
  write ix.reinit(model, rules, key)""",
    ),
    "rules and keys by name": (
        lambda: ix.signal_propagation(MLP, X, rules=KEY, keys=RULES, **BATCHED),
        ix.KeyTypeError,
        """\
ix.signal_propagation takes rules, keys in this order, and was given keys, rules.
  rules is an object of class PRNGKeyArray
  keys is {'Linear': 'he_normal'} (dict)
  write ix.signal_propagation(rules, keys)""",
    ),
    "plan for rules": (
        lambda: ix.reinit(MLP, ix.plan(MLP, RULES), KEY),
        ix.RuleError,
        "the rules are a plan already: Plan(4 drawn, 0 kept) (Plan).\n  write plan.draw(key)",
    ),
    "plan for a model": (
        lambda: ix.reinit(ix.plan(MLP, RULES), RULES, KEY),
        ix.ModelError,
        "the model is a plan: Plan(4 drawn, 0 kept) (Plan).\n  write model = plan.draw(key)",
    ),
    "model for a key": (
        lambda: ix.plan(MLP, RULES).draw(MLP),
        ix.KeyTypeError,
        "key must be a JAX random key, not an object of class MLP.\n  write jax.random.key(0)",
    ),
    "no rules": (
        lambda: ix.reinit(MLP, {}, KEY),
        ix.RuleError,
        """\
the rules are empty, so nothing would be drawn.
  write {"*": "he_normal"} for every layer, or {"*": None} to keep the model as it is""",
    ),
    "text to compare with": (
        lambda: ix.plan(MLP, RULES).diff("plan.json"),
        ix.PlanError,
        """\
a plan is compared with another plan, not with 'plan.json' (str).
  read it first: plan.diff(ix.Plan.from_json(text, model))""",
    ),
    "model to compare with": (
        lambda: ix.plan(MLP, RULES).diff(MLP),
        ix.PlanError,
        """\
a plan is compared with another plan, not with an object of class MLP.
  plan.diff(ix.plan(model, rules))""",
    ),
    "path of a stored plan": (
        lambda: ix.Plan.from_json("plans/file.json", MLP),
        ix.PlanError,
        """\
this is not a stored plan: 'plans/file.json' (str).
  from_json takes the text and not its path
  ix.Plan.from_json(pathlib.Path("plans/file.json").read_text(), model)""",
    ),
    "Path of a stored plan": (
        lambda: ix.Plan.from_json(pathlib.PurePosixPath("file.json"), MLP),
        ix.PlanError,
        """\
this is not a stored plan: PurePosixPath('file.json') (PurePosixPath).
  from_json takes the text and not its path
  ix.Plan.from_json(pathlib.Path("file.json").read_text(), model)""",
    ),
    "open stored plan": (
        lambda: ix.Plan.from_json(io.StringIO("{}"), MLP),
        ix.PlanError,
        """\
this is not a stored plan: an object of class StringIO.
  from_json takes the text and not the file: ix.Plan.from_json(file.read(), model)""",
    ),
    "stored plan that was parsed": (
        lambda: ix.Plan.from_json(json.loads(ix.plan(MLP, RULES).to_json()), MLP),
        ix.PlanError,
        """\
this is not a stored plan: an object of class dict.
  from_json takes the text: ix.Plan.from_json(json.dumps(stored), model)""",
    ),
    "rules for a stored plan": (
        lambda: ix.Plan.from_json('{"Linear": "he_normal"}', MLP),
        ix.PlanError,
        """\
this is not a stored plan: '{"Linear": "he_normal"}' (str).
  KeyError: 'rules'
  from_json takes what plan.to_json() returned: ix.Plan.from_json(plan.to_json(), model)""",
    ),
    "whole number for a shape": (
        lambda: ix.draw("he_normal", KEY, 8),
        ix.AxesError,
        """\
a shape is a tuple, not 8 (int).
  for a bias write (8,), role="bias"; for a weight both of its axes, inputs first: (4, 8)""",
    ),
    "array for a shape": (
        lambda: ix.draw("he_normal", KEY, jnp.ones((300, 4))),
        ix.AxesError,
        "a shape is a tuple, not an object of class ArrayImpl.\n  write array.shape",
    ),
    "broken numbers in a shape": (
        lambda: ix.draw("he_normal", KEY, (2.5, 4)),
        ix.AxesError,
        "a shape is a tuple of whole numbers, not (2.5, 4) (tuple).\n  write (4, 8)",
    ),
    "open file of rules": (
        lambda: ix.load_rules(io.StringIO('"*" = "zeros"')),
        ix.RuleError,
        """\
rules are loaded from the path of a file or from a text, not from an open file: StringIO.
  ix.load_rules(file.read())""",
    ),
    "bytes of rules": (
        lambda: ix.load_rules(b'"*" = 1'),
        ix.RuleError,
        """\
rules are loaded from the path of a file .toml or .json, or from a text, not from b'"*" = 1' (bytes).
  ix.load_rules(source.decode())""",
    ),
    "rules for a file of rules": (
        lambda: ix.load_rules(RULES),
        ix.RuleError,
        """\
rules are loaded from the path of a file .toml or .json, or from a text, not from {'Linear': 'he_normal'} (dict).
  a mapping is rules already: ix.reinit(model, rules, key)""",
    ),
    "nothing for a file of rules": (
        lambda: ix.load_rules(None),
        ix.RuleError,
        """\
rules are loaded from the path of a file .toml or .json, or from a text, not from None (NoneType).
  ix.load_rules("rules.toml")""",
    ),
    "interval for a bound": (
        lambda: report().assert_healthy(dead=(0, 0.6)),
        ix.InitaxError,
        """\
assert_healthy: dead is one number, the largest, not (0, 0.6) (tuple).
  assert_healthy(dead=0.6)""",
    ),
    "text for a bound": (
        lambda: report().assert_healthy(gradient_ratio="10"),
        ix.InitaxError,
        """\
assert_healthy: gradient_ratio is one number, the largest, not '10' (str).
  assert_healthy(gradient_ratio=0.6)""",
    ),
    "number for an interval": (
        lambda: report().assert_healthy(mean_square=20.0),
        ix.InitaxError,
        """\
assert_healthy: mean_square is two numbers, the least and the largest, not 20.0 (float).
  assert_healthy(mean_square=(0.1, 20.0))""",
    ),
    "gradients without a loss": (
        lambda: report().assert_healthy(gradient_ratio=10),
        ix.InitaxError,
        """\
assert_healthy: gradient_ratio compares gradients, and none was measured.
  ix.signal_propagation(model, inputs, loss=lambda output: (output**2).mean())""",
    ),
    "ablation with a number of seeds": (
        lambda: ix.ablate(MLP, {"he": RULES}, run=lambda model, key: {}, seeds=2),
        ix.ArgumentError,
        """\
ix.ablate has no argument "seeds".
  arguments: model, schemes, keys, run, path, how, baseline, retry, progress, inputs, forward, module, … (1 more)
  here it is called "keys"
  write ix.ablate(model, schemes, keys, run), with keys = jax.random.split(jax.random.key(0), 2)""",
    ),
    "ablation without keys": (
        lambda: ix.ablate(MLP, {"he": RULES}, lambda model, key: {}),
        ix.ArgumentError,
        """\
ix.ablate: missing a required argument: 'run'.
  write ix.ablate(model, schemes, keys, run), with keys = jax.random.split(jax.random.key(0), 10)""",
    ),
    "reinit without a key": (
        lambda: ix.reinit(MLP, RULES),
        ix.ArgumentError,
        """\
ix.reinit: missing a required argument: 'key'.
  write ix.reinit(model, {"Linear": "he_normal"}, jax.random.key(0))""",
    ),
    "plan with a key": (
        lambda: ix.plan(MLP, RULES, KEY),
        ix.ArgumentError,
        """\
ix.plan: too many positional arguments.
  write ix.plan(model, rules); a plan takes the key: plan.draw(key)""",
    ),
    "mask without rules": (
        lambda: ix.mask(MLP),
        ix.ArgumentError,
        """\
ix.mask: missing a required argument: 'rules'.
  write ix.mask(model, "weight"); what follows the rules goes by name""",
    ),
    "labels with inputs in their place": (
        lambda: ix.labels(MLP, {"*": "adam"}, X),
        ix.ArgumentError,
        """\
ix.labels: too many positional arguments.
  write ix.labels(model, {"*": "adam"}); what follows the rules goes by name""",
    ),
    "units without a key": (
        lambda: ix.reset_units(MLP, "layers.0", jnp.arange(8) < 2, inputs=X[0]),
        ix.ArgumentError,
        """\
ix.reset_units: missing a required argument: 'key'.
  write ix.reset_units(model, "layers.0", mask, key, inputs=x), with a key: jax.random.key(0)""",
    ),
    "convex network without a key": (
        lambda: ix.convex.FICNN(2, 1, 64),
        ix.ArgumentError,
        """\
FICNN: missing a required argument: 'key'.
  write ix.convex.FICNN(2, 1, [64], key=jax.random.key(0))""",
    ),
    "convex network of one size": (
        lambda: ix.convex.FICNN(in_size=2, out_size="scalar", width_sizes=64, use_passthrough=False, key=KEY),
        ix.ModelError,
        """\
FICNN: width_sizes is a list, one size for each hidden layer, not 64 (int).
  write ix.convex.FICNN(2, 'scalar', [64], use_passthrough=False, key=jax.random.key(0))""",
    ),
    "convex network with a key in its place": (
        lambda: ix.convex.FICNN(2, 1, [64], KEY),
        ix.ArgumentError,
        """\
FICNN: too many positional arguments.
  write ix.convex.FICNN(2, 1, [64], key=jax.random.key(0))""",
    ),
    "convex network of sizes in a row": (
        lambda: ix.convex.FICNN(2, 1, 64, 32, key=KEY),
        ix.ArgumentError,
        """\
FICNN: too many positional arguments.
  write ix.convex.FICNN(2, 1, [64, 32], key=jax.random.key(0))""",
    ),
    "partially convex network without sizes": (
        lambda: ix.convex.PICNN(2, 3, 1, key=KEY),
        ix.ArgumentError,
        """\
PICNN: missing a required argument: 'width_sizes'.
  write ix.convex.PICNN(2, 3, 1, [64, 64], key=jax.random.key(0))""",
    ),
    "convex network of NNX without a key": (
        lambda: ix.convex.nnx.FICNN(2, 1, 64),
        ix.ArgumentError,
        """\
FICNN: missing a required argument: 'rngs'.
  write ix.convex.nnx.FICNN(2, 1, [64], rngs=nnx.Rngs(0))""",
    ),
    "convex network with an unknown argument": (
        lambda: ix.convex.FICNN(2, 1, [64], width=3, key=KEY),
        ix.ArgumentError,
        """\
FICNN: got an unexpected keyword argument 'width'.
  write ix.convex.FICNN(2, 1, [64], key=jax.random.key(0))""",
    ),
}


@functools.cache
def report():
    return ix.signal_propagation(MLP, X, **BATCHED)


@pytest.mark.parametrize("name", SWAPPED)
def test_what_stands_in_anothers_place_is_named(name):
    do, error, text = SWAPPED[name]
    with pytest.raises(error) as caught:
        do()
    assert type(caught.value) is error
    assert str(caught.value) == text


@pytest.mark.parametrize("name", [name for name in SWAPPED if "convex network" in name])
def test_the_line_for_a_convex_network_makes_one(name):
    text = SWAPPED[name][2]
    network = eval(text.partition("write ")[2], {"ix": ix, "jax": jax, "nnx": nnx})
    assert ix.layers(network)


def test_an_open_file_is_answered_with_its_path(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text('"*" = "zeros"')
    for mode in ("r", "rb"):
        with path.open(mode) as file, pytest.raises(ix.RuleError, match="not from an open file") as caught:
            ix.load_rules(file)
        line = str(caught.value).splitlines()[1].strip()
        assert line == f'ix.load_rules("{path}")'
        assert eval(line, {"ix": ix}) == {"*": "zeros"}


def test_no_rule_but_a_default_is_enough():
    assert len(ix.plan(MLP, {}, default="he_normal")) == 4


@pytest.mark.parametrize(
    ("model", "rules", "text"),
    [
        (
            [nn.Linear(2, 3, key=KEY), {"q": jnp.ones(3)}],
            {"*": "he_normal"},
            """\
no rule covers 1 array, and default="error" asks for all of them.
  1.q (3,) of dict: undeclared: no weight beside it
  keep them with rules behind the others: {"1": None}; or say what their axes are: ix.Scheme(..., axes=...), \
inputs=... or ix.register_layer(...)""",
        ),
        (
            [nn.Linear(2, 3, key=KEY), {"q": jnp.ones(3)}],
            {"Linear": "he_normal"},
            """\
no rule covers 1 array, and default="error" asks for all of them.
  1.q (3,) of dict: undeclared: no weight beside it
  add a rule for them, or {"*": None} in front to keep what the others do not select""",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:rule .* it can't draw:initax.InitaxWarning")
def test_what_covers_a_model_is_a_line_that_does(model, rules, text):
    with pytest.raises(ix.RuleError) as caught:
        ix.plan(model, rules, default="error")
    assert str(caught.value) == text
    (line,) = re.findall(r"\{.*?\}", text)
    more = eval(line)
    ix.plan(model, rules | more if "behind" in text else more | rules, default="error")


KEPT = """
  what a rule selects is kept by None, written without quotes; in a file by "keep\""""


@pytest.mark.parametrize("name", ["none", "None", "null", "keep", "skip", "freeze"])
def test_a_name_that_means_keep_is_answered_with_it(name):
    for rule in (name, ("he_normal", name), {"weight": "he_normal", "bias": name}):
        with pytest.raises(ix.SchemeError) as caught:
            ix.plan(MLP, {"*": rule})
        assert str(caught.value).startswith(f'rule "*": no scheme is called "{name}".{KEPT}\n  schemes: ')


def test_a_file_that_means_keep_is_answered_with_it():
    with pytest.raises(ix.SchemeError) as caught:
        ix.load_rules('"*" = "zeros"\nhead = "none"')
    assert str(caught.value).startswith(f'the text, line 2: rule "head": no scheme is called "none".{KEPT}\n')
    with pytest.raises(ix.SchemeError) as caught:
        ix.load_rules("head = false")
    assert str(caught.value) == f'the text, line 1: rule "head": False (bool) is not a scheme.{KEPT}'


LATE = '\n  names of inputs begin with "i", those of outputs with "o"; any other is outside the fans'
NO_SIDE = "no input axis and no output axis"

# pattern → shape, sizes, what is said, the pattern to write
SIDES = {
    "d_out d_in": ((24, 8), None, f'{NO_SIDE}: "d_out", "d_in" are batch axes.', '"o i"'),
    "nin nout": ((24, 8), None, f'{NO_SIDE}: "nin", "nout" are batch axes.', '"i o"'),
    "(g c_out) c_in ...": ((24, 8, 3), {"g": 2}, f'{NO_SIDE}: "g", "c_out", "c_in" are batch axes.', '"(g o) i ..."'),
    "d_in h_out d_out": ((8, 2, 3), None, f'{NO_SIDE}: "d_in", "h_out", "d_out" are batch axes.', '"i o1 o2"'),
    "i fan_out": ((8, 2), None, 'no output axis: "fan_out" is a batch axis.', '"i o"'),
    "o i n_input": ((8, 2, 3), None, 'both an input and an output axis: "n_input" is a batch axis.', '"o i1 i2"'),
    "rows columns": (
        (24, 8),
        None,
        f'{NO_SIDE}: "rows", "columns" are batch axes.',
        '"i o", or, with outputs stored first, "o i"',
    ),
}


@pytest.mark.parametrize("pattern", SIDES)
def test_a_weight_has_inputs_or_outputs(pattern, key):
    shape, sizes, said, line = SIDES[pattern]
    text = f'axis pattern "{pattern}" has {said}{LATE}\n  write {line}'
    with pytest.raises(ix.AxesError) as caught:
        ix.draw("he_normal", key, shape, axes=pattern, sizes=sizes)
    assert str(caught.value) == text
    with pytest.raises(ix.AxesError) as caught:
        ix.register_layer(Undeclared, kind="Linear", w=pattern, sizes=sizes)
    assert str(caught.value) == text
    with pytest.raises(ix.AxesError) as caught:
        ix.plan(Undeclared(shape), {"*": ix.Scheme("he_normal", axes={"w": pattern}, sizes=sizes)})
    assert str(caught.value).removeprefix('rule "*": w: ') == text
    told = ix.draw("he_normal", key, shape, axes=re.findall('"(.*?)"', line)[0], sizes=sizes)
    assert told.shape == shape


class Undeclared(eqx.Module):
    """A layer that nobody declared."""

    w: jax.Array
    l: nn.Linear

    def __init__(self, shape):
        self.w, self.l = jnp.ones(shape), nn.Linear(2, 3, key=KEY)


def test_batch_axes_and_a_receptive_field_are_enough(key):
    assert ix.draw("he_normal", key, (512, 8), axes="c ...").std() == pytest.approx((2 / 8) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("pattern", "plain", "sizes"),
    [("in out", "i o", None), ("(class o) in", "(g o) i", {"class": 2}), ("in out ...", "i o ...", None)],
)
@pytest.mark.parametrize("scheme", ["he_normal", "orthogonal"])
def test_words_of_python_name_axes_like_any_other(pattern, plain, sizes, scheme, key):
    plain_sizes = sizes and {"g": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = ix.draw(scheme, key, (6, 4), axes=pattern, sizes=sizes)
    assert (drawn == ix.draw(scheme, key, (6, 4), axes=plain, sizes=plain_sizes)).all()
    with pytest.raises(ix.AxesError, match=r'malformed: Imbalanced parentheses in expression: "\(in out"'):
        ix.draw(scheme, key, (6, 4), axes="(in out")


@pytest.mark.parametrize(
    ("scheme", "shape"),
    [
        (scheme, shape)
        for scheme, shapes in {
            "orthogonal": ((0, 0), (0, 3), (3, 0), (2, 0, 0)),
            "delta_orthogonal": ((3, 0, 0), (0, 3, 3), (3, 0, 3), (3, 3, 0)),
            "sparse": ((0, 0), (0, 3), (3, 0)),
            "identity": ((0, 0), (0, 3)),
            "dirac": ((3, 0, 0), (0, 3, 3)),
        }.items()
        for shape in shapes
    ],
)
def test_structure_of_nothing_is_an_empty_array(scheme, shape, key):
    drawn = ix.draw(scheme, key, shape)
    assert drawn.shape == shape
    assert drawn.dtype == jnp.float32


@pytest.mark.parametrize("scheme", ["torch_default", "uniform_fan_in", "siren", "hoedt", ("zeros", "uniform_fan_in")])
def test_a_bias_without_inputs_is_zero(scheme, key):
    layer = eqx.tree_at(lambda each: each.bias, nn.Linear(0, 4, key=key), jnp.ones(4))
    new = ix.reinit(layer, {"*": scheme}, key)
    assert new.bias.tolist() == [0, 0, 0, 0]
    assert new.weight is layer.weight
