"""What models of Flax are made of besides layers: shared variables, state, boxes, lifted transforms, random state."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict, freeze, unfreeze
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict

import initax as ix
from tests.flax_tables import LINEN_OTHERS, NNX_OTHERS, Fused, Held, named

pytestmark = pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated:DeprecationWarning")


def modules_of(package, base):
    """Names of the classes of modules that a package exports."""
    return sorted(name for name, each in vars(package).items() if isinstance(each, type) and issubclass(each, base))


@pytest.mark.parametrize("name", modules_of(nnx, nnx.Module))
def test_every_class_of_nnx_that_owns_parameters_has_a_row(name):
    """A new Flax with a new layer fails here, not in a user's experiment."""
    from initax._adapters._nnx import LAYERS

    cls = getattr(nnx, name)
    holds_layers = {
        "Bidirectional", "Dict", "Dropout", "List", "LoRALinear", "MultiHeadAttention", "Module", "ModelAndOptimizer",
        "Optimizer", "RNN", "RNNCellBase", "RoPE", "Sequential", "SpectralNorm",
    }  # fmt: skip
    assert any(issubclass(cls, row) for row in LAYERS) or name in holds_layers


@pytest.mark.parametrize("name", modules_of(nn, nn.Module))
def test_every_class_of_linen_that_owns_parameters_has_a_row(name):
    from initax._adapters._linen import LAYERS

    cls = getattr(nn, name)
    holds_none_or_layers = {
        "Bidirectional", "Dropout", "Module", "MultiHeadAttention", "MultiHeadDotProductAttention", "RNN",
        "RNNCellBase", "SelfAttention", "Sequential", "SpectralNorm",
    }  # fmt: skip
    quantized = "Fp8" in name  # products that hold scales of what they multiply, and no parameters
    assert any(issubclass(cls, row) for row in LAYERS) or name in holds_none_or_layers or quantized


def test_shared_variables_stay_shared_and_the_input_is_not_mutated(key):
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(11, 5, rngs=rngs)
            self.out = nnx.Linear(5, 11, use_bias=False, rngs=rngs)
            self.again = self.out
            self.own = nnx.Param(jnp.ones(3))
            self.alias = nnx.List([self.embed.embedding])

    model = Tied(nnx.Rngs(0))
    old = model.out.kernel.get_raw_value()
    plan = ix.plan(model, {"Linear": "he_normal", "Embedding": "normal"})
    new = plan.draw(key)
    assert new is not model
    assert new.again is new.out
    assert new.alias[0] is new.embed.embedding
    assert new.out.kernel is not model.out.kernel
    new.out.kernel[...] = jnp.zeros_like(old)
    assert model.out.kernel.get_raw_value() is old
    reasons = {parameter.path: str(reason) for parameter, reason in plan.kept}
    assert reasons["again.kernel"] == "tied to out.kernel"
    assert reasons["alias.0"] == "tied to embed.embedding"


def test_abstract_variables_that_are_shared_are_drawn_once(key):
    def make():
        linear = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        return nnx.Sequential(linear, linear)

    abstract = nnx.eval_shape(make)
    new = ix.reinit(abstract, {"*": "he_normal"}, key)
    assert new.layers[0] is new.layers[1]
    concrete = ix.reinit(make(), {"*": "he_normal"}, key)
    assert np.array_equal(new.layers[0].kernel[...], concrete.layers[0].kernel[...])
    assert isinstance(new.layers[0].kernel.get_raw_value(), jax.Array)


class Half(nnx.Module):
    """A Linear beside a module without arrays."""

    def __init__(self, activation, rngs):
        self.linear, self.activation = nnx.Linear(3, 3, rngs=rngs), activation


@pytest.mark.parametrize("shared", [False, True])
def test_modules_without_arrays_are_shared_as_before(shared, key):
    first, second = nnx.Sequential(jax.nn.relu), nnx.Sequential(jax.nn.relu)
    model = nnx.List([Half(each, nnx.Rngs(0)) for each in (first, first if shared else second)])
    new = ix.reinit(model, {"Linear": "he_normal"}, key)
    assert (new[0].activation is new[1].activation) == shared
    assert new[0].activation is not model[0].activation
    assert nnx.graphdef(new) == nnx.graphdef(model)
    assert vars(new[0].linear).keys() == vars(model[0].linear).keys()


def test_an_object_that_is_no_pytree_inside_a_module_is_new_too(key):
    class Closed(nnx.Module, pytree=False):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 3, rngs=rngs)

    class Open(nnx.Module):
        def __init__(self, rngs):
            self.closed, self.linear = Closed(rngs), nnx.Linear(3, 3, rngs=rngs)

    model = Open(nnx.Rngs(0))
    new = ix.reinit(model, {"*": "zeros"}, key)
    assert new.closed is not model.closed
    assert [float(jnp.abs(each.linear.kernel[...]).sum()) for each in (new, new.closed)] == [0, 0]
    assert float(jnp.abs(model.closed.linear.kernel[...]).sum()) > 0


def test_convolutions_of_equal_shapes_with_other_masks_have_fans_of_their_own():
    masks = (None, jnp.ones((3, 4, 4)), jnp.zeros((3, 4, 4)).at[0].set(1))
    convs = nnx.List([nnx.Conv(4, 4, 3, mask=mask, rngs=nnx.Rngs(0)) for mask in masks])
    assert [layer["kernel"].effective_fan_in for layer in ix.layers(convs) if layer.kind == "Conv"] == [12, 12, 4]


@pytest.mark.filterwarnings("ignore:Variable hooks are deprecated:UserWarning")
def test_type_and_metadata_of_variables_are_kept(key):
    class Frozen(nnx.Param):
        pass

    seen = []
    model = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    model.kernel = nnx.Param(jnp.ones((4, 6)), out_sharding=(None, "model"), eager_sharding=False)

    def note(variable, value):
        seen.append(1)
        return value

    model.bias = Frozen(jnp.ones(6), trainable=False, on_set_value=note)
    new = ix.reinit(model, {"*": "he_normal"}, key)
    assert new.kernel.get_metadata() == model.kernel.get_metadata()
    assert new.kernel.get_metadata()["out_sharding"] == (None, "model")
    assert type(new.bias) is Frozen
    assert new.bias.trainable is False
    assert seen == []
    new.bias.set_value(jnp.zeros(6))
    assert seen == [1]


def test_graphs_that_are_no_pytrees_and_have_cycles_are_read(key):
    class Node(nnx.Module, pytree=False):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 3, rngs=rngs)
            self.child = None
            self.parent = None

    root, child = Node(nnx.Rngs(0)), Node(nnx.Rngs(1))
    root.child, child.parent = child, root
    new = ix.reinit(root, {"*": "zeros"}, key)
    assert new.child.parent is new
    assert float(jnp.abs(new.child.linear.kernel[...]).sum()) == 0
    assert float(jnp.abs(root.child.linear.kernel[...]).sum()) > 0


def test_state_is_never_drawn(key):
    class Everything(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 5, rngs=rngs)
            self.norm = nnx.BatchNorm(5, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.cache = nnx.Cache(jnp.ones((2, 2)))
            self.seen = nnx.Intermediate(jnp.ones((2, 2)))
            self.loose = jnp.ones((2, 2))

    model = Everything(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    plan = ix.plan((model, optimizer), {"*": "he_normal"})
    assert {each.parameter.path for each in plan.draws} == {"0.linear.kernel", "0.linear.bias"}
    reasons = {parameter.path: str(reason) for parameter, reason in plan.kept}
    assert reasons["0.norm.mean"] == "running statistics"
    assert reasons["0.cache"] == "a cache"
    assert reasons["0.seen"] == "an intermediate value"
    assert reasons["0.drop.rngs.key"] == "random state"
    assert reasons["0.loose"] == "an array in no Variable, which NNX treats as a constant"
    new, _ = plan.draw(key)
    assert new.loose is model.loose
    assert new.norm.mean.get_raw_value() is model.norm.mean.get_raw_value()


# 2. Law of the draw, per batch entry


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stacks_of_nnx_on_any_axis_are_entries_of_their_own(axis, key):
    @nnx.vmap(in_axes=0, out_axes=axis)
    def stack(key):
        return nnx.Linear(5, 7, use_bias=False, rngs=nnx.Rngs(key))

    model = stack(jax.random.split(key, 3))
    (layer,) = ix.layers(model)
    assert (layer["kernel"].fan_in, layer["kernel"].fan_out) == (5, 7)
    new = ix.reinit(model, {"*": "orthogonal"}, key)
    for kernel in jnp.moveaxis(new.kernel[...], axis, 0):
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(5), atol=1e-5)


def test_a_scanned_stack_of_nnx_is_read(key):
    @nnx.split_rngs(splits=4)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make(rngs):
        return nnx.Sequential(nnx.Linear(5, 5, rngs=rngs), nnx.LayerNorm(5, rngs=rngs))

    plan = ix.plan(make(nnx.Rngs(0)), {"*": "he_normal"})
    assert {each.parameter.path: each.parameter.axes.pattern for each in plan.draws} == {
        "layers.0.kernel": "stack i o",
        "layers.0.bias": "stack o",
    }


def test_lifted_transforms_of_linen_tell_where_the_stack_axis_is(key):
    """All of these kernels are (5, 5, 5): sizes tell nothing."""
    module, x = Fused(), jnp.zeros(7)
    variables = module.init(key, x)
    for _ in range(2):  # the second time JAX's own caches are warm
        plan = ix.plan(variables, {"*": "orthogonal"}, module=module, inputs=x)
        axes = {each.parameter.path: each.parameter.axes.pattern for each in plan.draws}
        assert axes["layers.inner.kernel"] == "i stack o"
        assert axes["layers.inner.bias"] == "o stack"
        assert axes["heads.kernel"] == "i o stack"
        assert axes["out.kernel"] == "i o"
    new = plan.draw(key)["params"]
    for kernel in (*jnp.moveaxis(new["layers"]["inner"]["kernel"], 1, 0), *jnp.moveaxis(new["heads"]["kernel"], 2, 0)):
        np.testing.assert_allclose(kernel.T @ kernel, np.eye(5), atol=1e-5)


# 3. Stable keys, and the many ways to pass the same variables


def small():
    module = nn.Sequential([nn.Dense(5), nn.BatchNorm(use_running_average=True), nn.Dense(3)])
    x = jnp.zeros((2, 7))
    return module, x, module.init(jax.random.key(0), x)


def test_variables_params_frozen_dicts_and_train_states_draw_alike(key):
    module, x, variables = small()
    rules = {"Dense": "he_normal"}
    options = {"module": module, "inputs": x}
    whole = ix.reinit(variables, rules, key, **options)
    params = ix.reinit(variables["params"], rules, key, **options)
    frozen = ix.reinit(freeze(variables), rules, key, **options)
    unnamed = ix.reinit(variables, {"layers_[02]": "he_normal", "layers_1": None}, key)

    class State(TrainState):
        batch_stats: dict

    state = State.create(
        apply_fn=module.apply, params=variables["params"], tx=optax.adam(1e-3), batch_stats=variables["batch_stats"]
    )
    new = ix.reinit(state, rules, key, inputs=x)
    assert isinstance(frozen, FrozenDict)
    assert isinstance(new, State)
    assert new.opt_state[0].mu["layers_0"]["kernel"] is state.opt_state[0].mu["layers_0"]["kernel"]
    assert new.batch_stats["layers_1"]["mean"] is state.batch_stats["layers_1"]["mean"]
    for other in (params, frozen["params"], new.params, unnamed["params"]):
        jax.tree.map(np.testing.assert_array_equal, unfreeze(whole["params"]), unfreeze(other))
    assert whole["batch_stats"]["layers_1"]["mean"] is variables["batch_stats"]["layers_1"]["mean"]


class Positions(nn.Module):
    """An array of the module's own beside a module, as learned positions are."""

    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Sequential([self.inner])(x + self.param("pos", nn.initializers.zeros, x.shape[1:])[None])


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.LayerNorm()(x + self.param("pos", nn.initializers.zeros, x.shape[1:])[None])


class Own(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("w", nn.initializers.zeros, (x.shape[-1], 2, 4)).reshape(x.shape[-1], 8)


class Holder(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Own()(x)


BY_NAME = {
    "attention": nn.MultiHeadDotProductAttention(2, qkv_features=8),
    "attention beside positions": Positions(nn.MultiHeadDotProductAttention(2, qkv_features=8)),
    "general beside positions": Positions(nn.DenseGeneral((2, 4))),
    "norm beside positions": Normed(),
    "cell": nn.RNN(nn.LSTMCell(5)),
    "dense alone": nn.Dense(5),
    "general alone": nn.DenseGeneral((2, 4)),
    "general alone, no bias": nn.DenseGeneral((2, 4), use_bias=False),
    "convolution alone": nn.Conv(5, (3,)),
    "arrays of a module's own": Holder(),
}


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.filterwarnings("ignore:rule .* it can't draw:initax.InitaxWarning")
def test_params_without_the_module_read_as_the_whole_dict_of_variables(name):
    variables = BY_NAME[name].init(jax.random.key(0), jnp.ones((2, 7, 8)))

    def read(model):
        try:
            return str(ix.plan(model, {"*": "he_normal"}))
        except ix.InitaxError as error:
            return str(error)

    whole = read(variables)
    assert read(variables["params"]) == whole
    for each in (freeze(variables), freeze(variables)["params"]):
        assert read(each).replace("FrozenDict", "dict") == whole


def boxed(params):
    return jax.tree.map(lambda each: nn.Partitioned(each, (None,) * each.ndim), params)


def trained(params):
    return TrainState.create(apply_fn=None, params=params, tx=optax.adam(1e-3))


# where variables stand → the whole, made of them, and the path of their parameters in it
INSIDE = {
    "a list": (lambda variables: [variables["params"], jnp.ones(3)], "0"),
    "a list of whole dicts": (lambda variables: [variables], "0.params"),
    "a list of frozen dicts": (lambda variables: [freeze(variables["params"])], "0"),
    "a list of boxes": (lambda variables: [boxed(variables["params"])], "0"),
    "a list of train states": (lambda variables: [trained(variables["params"])], "0.params"),
    "beside an optimizer": (lambda variables: (variables["params"], optax.adam(1e-3).init(variables["params"])), "0"),
    "beside a list": (lambda variables: {"net": variables["params"], "rest": [jnp.ones(3)]}, "net"),
    "deep": (lambda variables: {"nets": ({"first": variables["params"]}, None)}, "nets.0.first"),
    "Variables of NNX": (lambda variables: jax.tree.map(nnx.Param, variables["params"]), ""),
    "flattened": (lambda variables: flatten_dict(variables["params"]), ""),
    "flattened whole": (lambda variables: flatten_dict(variables), "params"),
    "a list of flattened ones": (lambda variables: [flatten_dict(variables["params"])], "0"),
    "a list of Variables": (lambda variables: [jax.tree.map(nnx.Param, variables["params"])], "0"),
}


WITHOUT_WEIGHTS = {
    "norm beside positions", "arrays of a module's own", "general beside positions", "general alone",
    "general alone, no bias", "convolution alone",
}  # fmt: skip
"""Of these no array is drawn whose axes names tell."""


@pytest.mark.parametrize("name", [*BY_NAME, "embedding"])
@pytest.mark.parametrize("where", INSIDE)
@pytest.mark.slow(one_in=3)
def test_variables_inside_something_else_read_as_by_themselves(where, name, key):
    module, x = BY_NAME.get(name, nn.Embed(11, 5)), jnp.ones((2, 7, 8), int if name == "embedding" else float)
    variables = nn.meta.unbox(module.init(jax.random.key(0), x))
    make, path = INSIDE[where]
    model = make(variables)

    def read(layers, below=""):
        return {
            (
                each.path[len(below) :].lstrip("."),
                each.role,
                str(each.axes),
                each.fan_in,
                each.fan_out,
                str(each.excluded),
            )
            for layer in layers
            for each in layer.parameters
            if each.path.startswith(below)
        }

    alone = read(ix.layers(variables["params"]))
    assert read(ix.layers(model), path) == alone
    weights = [each for each in alone if each[1] in ("weight", "recurrent", "embedding") and each[-1] == "None"]
    assert (not weights) == (name in WITHOUT_WEIGHTS)
    if not weights:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ix.InitaxWarning)
        new = ix.reinit(model, {"*": ix.Scheme(("constant", {"value": 0.25}), bias=None)}, key)
    assert jax.tree.structure(new) == jax.tree.structure(model)
    old = dict(jax.tree_util.tree_flatten_with_path(model)[0])
    changed = [where for where, each in jax.tree_util.tree_flatten_with_path(new)[0] if np.any(each != old[where])]
    assert len(changed) == len(weights)


def test_a_box_inside_something_else_is_born_where_its_names_say(key):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("model",))
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"), mesh=mesh)
    module = nn.Dense(16, kernel_init=init)
    abstract = jax.eval_shape(lambda: module.init(key, jnp.zeros(7)))["params"]
    (new,) = ix.reinit([abstract], {"*": "he_normal"}, key)
    assert new["kernel"].value.sharding.spec == jax.sharding.PartitionSpec(None, "model")
    assert new["kernel"].names == (None, "model")


@pytest.mark.parametrize("sep", ["/", "."])
def test_joined_names_are_not_read_as_a_plain_pytree(sep):
    module = nn.MultiHeadDotProductAttention(2, qkv_features=8, use_bias=False)
    params = module.init(jax.random.key(0), jnp.ones((2, 7, 8)))["params"]
    with pytest.raises((ix.RuleError, ix.ModelError), match=rf'unflatten_dict\(params, sep="\{sep}"\)'):
        ix.plan(flatten_dict(params, sep=sep), {"*": "he_normal"})


def test_a_flattened_dict_goes_with_its_module(key):
    module, x = BY_NAME["cell"], jnp.ones((2, 7, 8))
    variables = module.init(jax.random.key(0), x)["params"]
    options = {"module": module, "inputs": x}
    flat = ix.reinit(flatten_dict(variables), {"*": "default"}, key, **options)
    whole = ix.reinit(variables, {"*": "default"}, key, **options)
    jax.tree.map(np.testing.assert_array_equal, flat, flatten_dict(whole))


def test_what_names_do_not_tell_of_variables_in_a_list_is_said(key):
    params = nn.Conv(8, (3,), feature_group_count=4).init(key, jnp.ones((1, 7, 8)))["params"]
    model = [{"Conv_0": params}]
    (note,) = (each for each in ix.plan(model, {"Conv": "he_normal"}).notes if "groups" in each)
    assert "pass each model alone, its Linen module with module= and inputs=" in note
    with pytest.raises(ix.RuleError, match="only names are known here, not classes; pass each model alone"):
        ix.plan(model, {nn.Conv: "he_normal"})


def test_positions_beside_an_attention_leave_its_axes_as_they_are():
    module = Positions(nn.MultiHeadDotProductAttention(2))
    params = nn.meta.unbox(module.init(jax.random.key(0), jnp.ones((2, 7, 8))))["params"]
    attention = {"MultiHeadDotProductAttention_0": params.pop("inner")}
    with pytest.warns(ix.InitaxWarning) as caught:
        plan = ix.plan(params | attention, {"*": "he_normal"})
    read = {each.parameter.path.split(".", 1)[1]: each.parameter for each in plan.draws}
    assert {name: (each.axes.pattern, each.fan_in) for name, each in read.items()} == {
        **dict.fromkeys(("query.kernel", "key.kernel", "value.kernel"), ("i o1 o2", 8)),
        **dict.fromkeys(("query.bias", "key.bias", "value.bias"), ("o1 o2", 8)),
        "out.kernel": ("i1 i2 o", 8),
        "out.bias": ("o", 8),
    }
    assert [str(each.message) for each in caught] == [
        'rule "*" selects 1 array it can\'t draw; kept as they are:\n'
        "  pos (7, 8) of dict: undeclared: its name does not tell its axes\n"
        "  pass the Linen module and what it is called on: module=module, inputs=x"
    ]


def test_an_embedding_alone_is_an_embedding():
    params = nn.Embed(11, 5).init(jax.random.key(0), jnp.zeros(2, int))["params"]
    (draw,) = ix.plan(params, {"Embedding": "normal"}).draws
    assert (draw.parameter.axes.pattern, draw.parameter.fan_in) == ("o i", 5)


def test_boxes_of_linen_are_kept(key):
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    module, x = nn.Dense(5, kernel_init=init), jnp.zeros(7)
    variables = module.init(key, x)
    new = ix.reinit(variables, {"*": "he_normal"}, key, module=module, inputs=x)
    box = new["params"]["kernel"]
    assert isinstance(box, nn.Partitioned)
    assert box.names == (None, "model")
    plain = ix.reinit(nn.meta.unbox(variables), {"*": "he_normal"}, key, module=module, inputs=x)
    assert np.array_equal(box.value, plain["params"]["kernel"])
    default = ix.reinit(variables, {"*": "default"}, key, module=module, inputs=x)
    assert isinstance(default["params"]["kernel"], nn.Partitioned)


def test_abstract_variables_of_linen_become_concrete(key):
    module, x, variables = small()
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    rules = {"*": "default", "Dense": "he_normal"}
    new = ix.reinit(abstract, rules, key, module=module, inputs=x)
    old = ix.reinit(variables, rules, key, module=module, inputs=x)
    jax.tree.map(np.testing.assert_array_equal, new["params"], old["params"])


def test_running_statistics_that_were_never_made_start_as_the_framework_starts_them(key):
    model = ix.reinit(nnx.eval_shape(lambda: nnx.BatchNorm(5, rngs=nnx.Rngs(0))), {"*": "default"}, key)
    module, x = nn.BatchNorm(use_running_average=True), jnp.zeros((2, 5))
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    variables = ix.reinit(abstract, {"*": "default"}, key, module=module, inputs=x)
    for got, start in (
        (model.mean[...], 0),
        (model.var[...], 1),
        (variables["batch_stats"]["mean"], 0),
        (variables["batch_stats"]["var"], 1),
    ):
        assert np.array_equal(got, np.full(5, start))
    assert model(x).shape == module.apply(variables, x).shape == x.shape


class Noisy(nnx.Module):
    """A model that needs random keys when it is called; two dropouts with streams of their own, one Rngs it shares."""

    def __init__(self, rngs):
        self.lin = nnx.Linear(3, 3, rngs=rngs)
        self.first = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Dropout(0.5, rngs=rngs)
        self.rnn = nnx.RNN(nnx.GRUCell(3, 5, rngs=rngs), rngs=rngs)
        self.rngs = rngs

    def __call__(self, x):
        return self.rnn(self.second(self.first(self.lin(x))))


def abstract_noisy():
    return nnx.eval_shape(lambda: Noisy(nnx.Rngs(0, dropout=1)))


@pytest.mark.parametrize("rules", [{"*": "default"}, {"Linear": "he_normal", "RNNCell": "orthogonal"}])
@pytest.mark.slow(one_in=2)
def test_random_state_that_was_never_made_starts_from_the_key_and_its_path(rules, key):
    abstract = abstract_noisy()
    model = ix.reinit(abstract, rules, key)
    assert model(jnp.ones((2, 4, 3))).shape == (2, 4, 5)
    assert not jax.tree.leaves(
        jax.tree.map(lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct) or None, nnx.state(model))
    )
    again = ix.reinit(abstract, rules, key)
    traced = jax.jit(lambda key: nnx.state(ix.reinit(abstract, rules, key)))(key)
    found = [each for each in ix.plan(abstract, rules).draws if each.follows == "the key"]
    assert {each.parameter.path for each in found} == {
        f"{at}.{name}"
        for at in ("first.rngs", "second.rngs", "rngs.default", "rngs.dropout", "rnn.rngs")
        for name in ("count", "key")
    }
    for stream, other, jitted in (
        (model.first.rngs, again.first.rngs, traced["first"]["rngs"]),
        (model.rngs.dropout, again.rngs.dropout, traced["rngs"]["dropout"]),
    ):
        assert stream.key[...] == other.key[...] == jitted["key"][...]
    assert model.first.rngs.key[...] == ix.parameter_key(key, "first.rngs.key")
    keys = [
        model.first.rngs.key[...],
        model.second.rngs.key[...],
        model.rngs.default.key[...],
        model.rngs.dropout.key[...],
    ]
    assert len({jax.random.key_data(each).tobytes() for each in keys}) == len(keys)


def test_random_state_of_a_model_that_is_there_or_that_a_rule_keeps_stays(key):
    model = Noisy(nnx.Rngs(0))
    new = ix.reinit(model, {"*": "default"}, key)
    assert new.first.rngs.key[...] == model.first.rngs.key[...]
    plan = ix.plan(abstract_noisy(), {"*": None, "lin": "he_normal"})
    assert [each.parameter.path for each in plan.draws] == ["lin.bias", "lin.kernel"]


@pytest.mark.parametrize("make", [abstract_noisy, lambda: Noisy(nnx.Rngs(0))])
def test_a_plan_with_random_state_can_be_stored(make):
    model = make()
    plan = ix.plan(model, {"*": "default"})
    assert ix.Plan.from_json(plan.to_json(), model) == plan


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_stacked_streams_get_a_key_each_of_their_own_kind(impl, key):
    def build():
        rngs = nnx.Rngs(jax.random.key(0, impl=impl))
        nnx.split_rngs(rngs, splits=4)
        return nnx.List([rngs, nnx.Linear(3, 2, rngs=nnx.Rngs(1))])

    (stream, _) = ix.reinit(nnx.eval_shape(build), {"*": "default"}, key)
    keys = stream.default.key[...]
    assert (keys.shape, str(jax.random.key_impl(keys))) == ((4,), impl)
    assert len({each.tobytes() for each in jax.random.key_data(keys)}) == 4
    assert np.array_equal(stream.default.count[...], np.zeros(4, np.uint32))


def test_an_rngs_gives_its_next_key_once(key):
    model = Held(nnx.Rngs(0))
    rngs = nnx.Rngs(params=3)
    first = ix.reinit(model, {"*": "he_normal"}, rngs)
    assert int(rngs.params.count[...]) == 1
    same = ix.reinit(model, {"*": "he_normal"}, nnx.Rngs(params=3).params())
    other = ix.reinit(model, {"*": "he_normal"}, rngs.params)
    kernel = first.blocks[0].kernel[...]
    assert np.array_equal(kernel, same.blocks[0].kernel[...])
    assert not np.array_equal(kernel, other.blocks[0].kernel[...])
    assert ix.draw("he_normal", nnx.Rngs(0), (4, 3)).shape == (4, 3)


# Companions that stay as they are


def test_lora_starts_at_zero_whatever_the_rule(key):
    model = nnx.LoRALinear(7, 5, lora_rank=2, rngs=nnx.Rngs(0))
    model.lora.lora_b[...] = jnp.ones((2, 5))
    new = ix.reinit(model, {"*": "he_normal"}, key)
    assert not np.array_equal(new.lora.lora_a[...], model.lora.lora_a[...])
    assert new.lora.lora_b.get_raw_value() is model.lora.lora_b.get_raw_value()
    linear = ix.plan(model, {"Linear": "he_normal"})
    assert {each.parameter.path for each in linear.draws} == {"kernel", "bias"}
    default = ix.reinit(model, {"*": "default"}, key)
    assert float(jnp.abs(default.lora.lora_b[...]).sum()) == 0


@pytest.mark.parametrize("name", ["nnx-lstm", "nnx-lstm-optimized", "linen-lstm", "linen-lstm-optimized"])
def test_the_forget_gate_is_found_where_gates_are_packed_and_where_they_are_not(name, key):
    case = next(each for each in NNX_OTHERS + LINEN_OTHERS if each.name == name)
    built = case.make()
    new = ix.reinit(built.model, {"RNNCell": ("he_normal", ("forget_gate", {"value": 2.0}))}, key, **built.options)
    biases = {path: leaf for path, leaf in named(new).items() if "bias" in str(path)}
    assert sum(float(leaf.sum()) for leaf in biases.values()) == 2.0 * 5
    if len(biases) > 1:
        (path,) = [path for path, leaf in biases.items() if float(leaf.sum())]
        assert "hf" in str(path)
    else:
        (packed,) = biases.values()
        assert np.array_equal(packed.reshape(4, 5)[1], np.full(5, 2.0))


def test_a_layer_of_ones_own_is_declared_and_drawn(key):
    class Mixer(nnx.Module):
        def __init__(self, rngs):
            self.w = nnx.Param(jnp.ones((3, 8, 4)))
            self.b = nnx.Param(jnp.ones((3, 4)))

    class Blend(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x @ self.param("w", nn.initializers.ones, (8, 4))

    ix.register_layer(Mixer, kind="Linear", w="expert i o", b="expert o")
    ix.register_layer(Blend, kind="Linear", w="i o")
    model = ix.reinit(Mixer(nnx.Rngs(0)), {"Linear": "orthogonal"}, key)
    for expert in model.w[...]:
        np.testing.assert_allclose(expert.T @ expert, np.eye(4), atol=1e-5)
    module, x = Blend(), jnp.ones((2, 8))
    variables = ix.reinit(module.init(key, x), {"Blend": "zeros"}, key, module=module, inputs=x)
    assert float(jnp.abs(variables["params"]["w"]).sum()) == 0


def test_the_numbers_of_an_einsum_with_its_equation_at_the_call_are_told(key):
    class Late(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Einsum((7, 3, 5), use_bias=False, name="mix")(x, "ld,dhk->lhk")

    module, x = Late(), jnp.ones((2, 7))
    plan = ix.plan(module.init(key, x), {"*": "he_normal"}, module=module, inputs=x)
    assert plan.draws[0].parameter.axes.pattern == "i o1 o2"
    assert plan.draws[0].std == pytest.approx(math.sqrt(2 / 7))
    late = nnx.Einsum(None, (7, 3, 5), rngs=nnx.Rngs(0)) if _takes_none() else None
    if late is not None:
        assert ix.layers(late)[0]["kernel"].excluded.why is ix.Why.UNDECLARED


def _takes_none():
    try:
        nnx.Einsum(None, (7, 3, 5), rngs=nnx.Rngs(0))
    except AttributeError:
        return False
    return True


class Normalized(nn.Module):
    use_bias: bool

    @nn.compact
    def __call__(self, x):
        return nn.SpectralNorm(nn.Dense(3, use_bias=self.use_bias))(x, update_stats=True)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_stack_under_spectral_norm_is_where_the_transform_puts_it(axis, use_bias, key):
    axes = {"params": axis, "batch_stats": 0}
    lifted = nn.vmap(Normalized, variable_axes=axes, split_rngs={"params": True}, in_axes=None, axis_size=2)
    module, inputs = lifted(use_bias), jax.ShapeDtypeStruct((5, 4), jnp.float32)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), jax.eval_shape(module.init, key, inputs))
    plan = ix.plan(variables, {"Linear": "he_normal"}, module=module, inputs=inputs)
    (kernel,) = (row.parameter for row in plan.draws if row.parameter.path.endswith("Dense_0.kernel"))
    assert (kernel.axes.batch_axis, kernel.fan_in) == ((axis % 3,), 4)
    drawn = plan.draw(key)
    vectors = drawn["batch_stats"]["SpectralNorm_0"]
    kernels = np.moveaxis(drawn["params"]["Dense_0"]["kernel"], axis, 0)
    np.testing.assert_allclose(
        vectors["Dense_0/kernel/sigma"], [np.linalg.norm(each, 2) for each in kernels], rtol=1e-5
    )
    assert vectors["Dense_0/kernel/u"].shape == (2, 1, 3)


def test_vectors_of_spectral_norm_that_are_not_stacked_in_front_are_left(key):
    axes = {"params": 0, "batch_stats": -1}
    lifted = nn.vmap(Normalized, variable_axes=axes, split_rngs={"params": True}, in_axes=None, axis_size=2)
    module, inputs = lifted(True), jax.ShapeDtypeStruct((5, 4), jnp.float32)
    variables = jax.eval_shape(module.init, key, inputs)
    with pytest.warns(ix.InitaxWarning, match="are not stacked along their first axes"):
        plan = ix.plan(variables, {"Linear": "he_normal"}, module=module, inputs=inputs)
    assert {row.parameter.path.rpartition(".")[2] for row in plan.draws} == {"kernel", "bias"}


class Rescaled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.WeightNorm(nn.Dense(3, use_bias=False))(x)


@pytest.mark.parametrize("axis", [1, -1])
def test_a_stack_under_weight_norm_has_the_norms_of_each_of_its_layers(axis, key):
    module = nn.vmap(Rescaled, variable_axes={"params": axis}, split_rngs={"params": True}, in_axes=None, axis_size=2)()
    inputs = jax.ShapeDtypeStruct((5, 4), jnp.float32)
    variables = jax.eval_shape(module.init, key, inputs)
    params = ix.reinit(variables, {"Linear": "he_normal"}, key, module=module, inputs=inputs)["params"]
    kernels = np.moveaxis(params["Dense_0"]["kernel"], axis, 0)
    norms = np.moveaxis(params["WeightNorm_0"]["Dense_0/kernel/scale"], -1, 0)
    np.testing.assert_allclose(norms, np.linalg.norm(kernels, axis=1), rtol=1e-5)


@pytest.mark.parametrize("wrapper", [nnx.WeightNorm, nnx.SpectralNorm])
def test_a_stack_of_nnx_behind_a_norm_is_where_the_transform_puts_it(wrapper, key):
    axes = nnx.StateAxes({nnx.Param: 1, ...: 0})

    def make(start):
        return wrapper(nnx.Linear(4, 3, rngs=nnx.Rngs(start)), rngs=nnx.Rngs(start))

    stack = nnx.eval_shape(lambda: nnx.vmap(make, out_axes=axes)(jax.random.split(key, 2)))
    new = ix.reinit(stack, {"Linear": "he_normal"}, key)
    kernels = np.moveaxis(new.layer_instance.kernel[...], 1, 0)
    if wrapper is nnx.WeightNorm:
        norms, expected = np.asarray(new.scales[("kernel",)]).T, np.linalg.norm(kernels, axis=1)
    else:
        norms, expected = new.batch_stats[("kernel", "sigma")], [np.linalg.norm(each, 2) for each in kernels]
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


def test_a_norm_along_other_axes_than_a_trace_shows_is_left_alone(key):
    """Three equal sizes: without the trace the first axis is taken for the stack, by the norm as well."""
    axes = nnx.StateAxes({nnx.Param: 1, ...: 0})

    def make(start):
        return nnx.WeightNorm(nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(start)), rngs=nnx.Rngs(start))

    stack = nnx.eval_shape(lambda: nnx.vmap(make, out_axes=axes)(jax.random.split(key, 2)))
    each = {"forward": lambda model, x: nnx.vmap(lambda one, x: one(x), in_axes=(axes, 0))(model, x)}
    with pytest.raises(ix.RuleError) as caught:
        ix.plan(stack, {"Linear": "he_normal"}, inputs=jax.ShapeDtypeStruct((2, 3, 2), jnp.float32), **each)
    assert str(caught.value).endswith(
        "undeclared: weight norm was read along other axes than those of which the forward pass shows the stack\n"
        "  stack it along the first axis, as nnx.vmap(..., out_axes=0) does"
    )
    with pytest.raises(ix.AxesError, match=r'is under weight norm, which was read for stacks as in "stack i o", not'):
        ix.plan(stack, {"Linear": ix.Scheme("he_normal", axes="i stack o")})
