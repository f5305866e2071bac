"""Bad input to models of Flax: the whole text of every error, raised before anything is drawn."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

import initax as ix

KEY = jax.random.key(0)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(5)(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


NET = Net()
X = jnp.zeros((2, 3))
VARIABLES = {"params": {"Dense_0": {"kernel": jnp.ones((3, 5)), "bias": jnp.ones(5)}}}
CALL = {"forward": lambda module, x: module(x, train=False)}


def error(*args, **kwargs):
    with pytest.raises(ix.InitaxError) as caught:
        ix.reinit(*args, **kwargs)
    return type(caught.value), str(caught.value)


def test_a_module_instead_of_its_variables():
    assert error(NET, {"*": "zeros"}, KEY) == (
        ix.ModelError,
        "a Linen module holds no arrays: Net.\n"
        "  variables = Net(...).init(key, x); ix.reinit(variables, rules, key, module=module, inputs=x)",
    )


def test_a_class_instead_of_a_module():
    kind, text = error(VARIABLES, {"*": "zeros"}, KEY, module=Net, inputs=X)
    assert kind is ix.ModelError
    metaclass = type(Net).__name__
    assert text == f"module= takes a flax.linen module, not {Net!r} ({metaclass}).\n  make an instance: module=Net(...)"


def test_a_module_without_inputs():
    assert error(VARIABLES, {"*": "zeros"}, KEY, module=NET) == (
        ix.ModelError,
        "module=Net needs inputs=, what the module is called on.\n"
        "  shapes will do: inputs=jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)",
    )


def test_a_module_with_something_that_is_no_variables():
    assert error(jnp.ones(3), {"*": "zeros"}, KEY, module=NET, inputs=X) == (
        ix.ModelError,
        "module=Net goes with its variables, not with ArrayImpl.\n"
        "  variables = Net(...).init(key, x); ix.reinit(variables, rules, key, module=module, inputs=x)",
    )


def test_a_call_that_needs_more_arguments():
    kind, text = error(VARIABLES, {"*": "zeros"}, KEY, module=NET, inputs=X)
    assert kind is ix.ModelError
    assert text == (
        "Net can't be called on these inputs with these variables: TypeError: Net.__call__() missing 1 required "
        "positional argument: 'train'\n"
        "  inputs: float32[2, 3]\n"
        "  params: Dense_0\n"
        "  are the variables this module's, and the inputs what it is called on? for another call write "
        "forward=lambda module, x: module(x, train=False)"
    )


def test_inputs_that_are_flags_are_passed_as_they_are():
    new = ix.reinit(VARIABLES, {"*": "zeros"}, KEY, module=NET, inputs=(X, False))
    assert float(new["params"]["Dense_0"]["kernel"].sum()) == 0


def test_inputs_of_the_wrong_shape():
    kind, text = error(VARIABLES, {"*": "zeros"}, KEY, module=NET, inputs=jnp.zeros((2, 4)), **CALL)
    assert kind is ix.ModelError
    head, *lines = text.split("\n")
    assert head.startswith("Net can't be called on these inputs with these variables: ScopeParamShapeError: ")
    assert "(4, 5)" in head
    assert lines[0] == "  inputs: float32[2, 4]"


def test_params_that_do_not_fit_the_module():
    kind, text = error(
        {"params": {"Other": VARIABLES["params"]["Dense_0"]}}, {"*": "zeros"}, KEY, module=NET, inputs=X, **CALL
    )
    assert kind is ix.ModelError
    head, *lines = text.split("\n")
    assert 'ScopeParamNotFoundError: Could not find parameter named "kernel" in scope "/Dense_0".' in head
    assert lines[1] == "  params: Other"


def test_a_module_never_initialized():
    kind, text = error({}, {"*": "zeros"}, KEY, module=NET, inputs=X, **CALL)
    assert kind is ix.ModelError
    assert text.split("\n")[1:] == [
        "  inputs: float32[2, 3]",
        "  params: none",
        "  initialize it first: variables = Net(...).init(key, *inputs)",
    ]


def test_parameters_the_call_does_not_reach_are_kept_and_said():
    extra = {"params": VARIABLES["params"] | {"old": {"kernel": jnp.ones((3, 5))}}}
    with pytest.warns(ix.InitaxWarning, match="1 array"):
        plan = ix.plan(extra, {"*": "zeros"}, module=NET, inputs=X, **CALL)
    (kept,) = plan.kept
    assert (kept.parameter.path, kept.reason.text) == (
        "old.kernel",
        "undeclared: the forward pass does not use it",
    )


def test_a_key_that_is_no_key():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    assert error(model, {"*": "zeros"}, 0) == (
        ix.KeyTypeError,
        "key must be a JAX random key, not 0 (int).\n  write jax.random.key(0)",
    )
    kind, _ = error(model, {"*": "zeros"}, model)
    assert kind is ix.KeyTypeError


def test_an_rngs_without_a_stream_for_parameters():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    assert error(model, {"*": "zeros"}, nnx.Rngs(dropout=0)) == (
        ix.KeyTypeError,
        "the nnx.Rngs has no stream for parameters.\n  write nnx.Rngs(0), or nnx.Rngs(params=0)",
    )


def test_a_deleted_variable_is_an_error_only_where_it_would_stay():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    model.bias.get_raw_value().delete()
    assert error(model, {"*": ix.Scheme("zeros", bias=None)}, KEY) == (
        ix.ModelError,
        'the array at "bias" (2,) is deleted, and no rule draws a new one.\n'
        "  it was donated to a jitted function or deleted; keep what that function returned instead",
    )
    new = ix.reinit(model, {"*": "zeros"}, KEY)
    assert float(new.bias[...].sum()) == 0


def test_a_module_that_lacks_its_kernel():
    model = nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    (layer,) = model.layers
    delattr(layer, "kernel")
    kind, text = error(model, {"Linear": {"weight": "zeros"}}, KEY)
    assert kind is ix.RuleError
    assert text.startswith('rule "Linear": zeros draws nothing')


def test_names_of_linen_that_do_not_tell_axes_are_kept_and_said():
    params = {"Dense_0": {"kernel": jnp.ones((3, 5))}, "mix": {"kernel": jnp.ones((3, 5, 2))}}
    with pytest.warns(ix.InitaxWarning) as caught:
        plan = ix.plan(params, {"*": "he_normal"})
    assert [each.parameter.path for each in plan.draws] == ["Dense_0.kernel"]
    assert [str(each.message) for each in caught] == [
        'rule "*" selects 1 array it can\'t draw; kept as they are:\n'
        "  mix.kernel (3, 5, 2) of dict: undeclared: its name does not tell its axes\n"
        "  pass the Linen module and what it is called on: module=module, inputs=x"
    ]


TOLD = "pass the Linen module and what it is called on: module=module, inputs=x"


@pytest.mark.parametrize("selector", ["Dense", nn.Dense])
def test_a_class_where_only_names_are_known(selector):
    assert error(VARIABLES, {selector: "zeros"}, KEY) == (
        ix.RuleError,
        'selector "Dense" matches no layer.\n'
        "  layers: dict (1)\n"
        '  did you mean the kind "Linear"?\n'
        '  write {"Linear": "zeros"}\n'
        f"  only names are known here, not classes; {TOLD}",
    )


def test_a_path_where_only_names_are_known():
    assert error(VARIABLES, {"dense": "zeros"}, KEY) == (
        ix.RuleError,
        'selector "dense" matches no layer.\n'
        "  layers: dict (1)\n"
        '  did you mean "Dense_0"?\n'
        '  write {"Dense_0": "zeros"}',
    )


def test_a_class_in_a_train_state_without_inputs():
    state = TrainState.create(apply_fn=NET.apply, params=VARIABLES["params"], tx=optax.sgd(0.1))
    assert error(state, {"Dense": "zeros"}, KEY) == (
        ix.RuleError,
        'selector "Dense" matches no layer.\n'
        "  layers: dict (1)\n"
        '  did you mean the kind "Linear"?\n'
        '  write {"Linear": "zeros"}\n'
        "  only names are known here, not classes; pass what the Linen module is called on: inputs=x",
    )


def test_inputs_without_the_module():
    text = (
        "inputs= is given, but the model can't be called on them: it is no function.\n"
        f"  {TOLD}\n"
        "  or say how: forward=lambda model, x: ..."
    )
    assert error(VARIABLES, {"Linear": "zeros"}, KEY, inputs=X) == (ix.ModelError, text)
    with pytest.raises(ix.ModelError) as caught:
        ix.lsuv(VARIABLES, X)
    assert str(caught.value) == text


def test_a_weight_that_weight_norm_may_wrap_is_kept_where_only_names_are_known():
    module, x = nn.Sequential([nn.WeightNorm(nn.Dense(5)), nn.Dense(3)]), jnp.ones((2, 4))
    variables = module.init(KEY, x)
    with pytest.warns(ix.InitaxWarning):
        plan = ix.plan(variables, {"*": "he_normal"})
    drawn = {each.parameter.path for each in plan.draws if each.parameter.role == "weight"}
    full = ix.plan(variables, {"*": "he_normal"}, module=module, inputs=x)
    every = {each.parameter.path for each in full.draws if each.parameter.role == "weight"}
    assert drawn == {"layers_1.kernel"}
    assert len(every) == 2


def test_groups_that_names_can_not_tell_are_noted():
    params = {"Conv_0": {"kernel": jnp.ones((3, 3, 2, 6)), "bias": jnp.ones(6)}}
    assert ix.plan(params, {"*": "he_normal"}).notes == (
        "groups can't be told by name: fan_out of Conv_0.kernel is counted for one group; where there are more, pass "
        "module= and inputs=",
    )


class Positions(nnx.Module):
    def __init__(self, rngs):
        self.att = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.cell = nnx.GRUCell(8, 8, rngs=rngs)
        self.pos = nnx.Param(jnp.zeros((7, 8)))


UNREAD = "undeclared: a state of NNX does not tell its axes"


def test_a_state_of_nnx_is_no_model():
    _, state = nnx.split(Positions(nnx.Rngs(0)))
    assert error(state, {"*": "he_normal"}, KEY) == (
        ix.ModelError,
        "the model holds no layer that initax knows: State.\n"
        f"  att.key.bias (2, 4) of State: {UNREAD}\n"
        f"  att.key.kernel (8, 2, 4) of State: {UNREAD}\n"
        f"  att.out.bias (8,) of State: {UNREAD}\n"
        f"  att.out.kernel (2, 4, 8) of State: {UNREAD}\n"
        f"  att.query.bias (2, 4) of State: {UNREAD}\n"
        f"  att.query.kernel (8, 2, 4) of State: {UNREAD}\n"
        "  pass the module itself, or nnx.merge(graphdef, state)",
    )
    kind, text = error(nnx.to_flat_state(state), {"*": "he_normal"}, KEY)
    assert (kind, text.split("\n")[-1]) == (ix.ModelError, "  pass the module itself, or nnx.merge(graphdef, state)")


def test_a_state_of_nnx_beside_a_module_is_kept_and_said():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    _, state = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(1)))
    with pytest.warns(ix.InitaxWarning) as caught:
        new, same = ix.reinit((model, state), {"*": "ones"}, KEY)
    assert [str(each.message) for each in caught] == [
        'rule "*" selects 2 arrays it can\'t draw; kept as they are:\n'
        f"  1.bias (2,) of State: {UNREAD}\n"
        f"  1.kernel (3, 2) of State: {UNREAD}\n"
        "  pass the module itself, or nnx.merge(graphdef, state)"
    ]
    assert float(new.kernel[...].sum()) == 6
    assert same["kernel"].get_raw_value() is state["kernel"].get_raw_value()


def test_a_train_state_of_nnx_is_not_read_by_names():
    graph, state = nnx.split(Positions(nnx.Rngs(0)))
    trained = TrainState.create(apply_fn=graph.apply, params=state, tx=optax.sgd(0.1))
    kind, text = error(trained, {"*": "he_normal"}, KEY)
    assert (kind, text.split("\n")[-1]) == (ix.ModelError, "  pass the module itself, or nnx.merge(graphdef, state)")


def test_packed_gates_of_a_pure_dict_are_not_guessed_at():
    model = nnx.Dict(cell=nnx.GRUCell(8, 8, rngs=nnx.Rngs(0)), lin=nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    with pytest.warns(ix.InitaxWarning, match="3 arrays"):
        plan = ix.plan(nnx.to_pure_dict(nnx.state(model)), {"*": "he_normal"})
    assert [(each.parameter.path, each.parameter.fan_in) for each in plan.draws] == [("lin.bias", 3), ("lin.kernel", 3)]


def test_statistics_of_linen_stand_in_a_collection():
    """The line that a rule for the norm is answered with starts them anew."""
    norm = nn.Sequential([nn.BatchNorm(use_running_average=False)])
    variables = norm.init(KEY, X)
    variables = {**variables, "batch_stats": jax.tree.map(lambda leaf: leaf + 5, variables["batch_stats"])}
    call = {"module": norm, "inputs": X}
    assert error(variables, {"Norm": {"state": "default"}}, KEY, **call) == (
        ix.RuleError,
        'rule "Norm": state=default draws nothing in the 1 layer it decides.\n'
        "  layers_0.scale: state=default says nothing about a scale\n"
        "  layers_0.bias: state=default says nothing about a bias\n"
        '  running statistics stand elsewhere in this model: write {"batch_stats.**": {"state": "default"}}',
    )
    fresh = ix.reinit(variables, {"batch_stats.**": {"state": "default"}}, KEY, **call)
    assert [float(leaf.sum()) for leaf in jax.tree.leaves(fresh["batch_stats"])] == [0, 3]
