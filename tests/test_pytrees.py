"""Plain pytrees, and what a user's own classes look like to initax."""

import ast
import collections
import re
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import initax as ix
from initax._adapters._equinox import LAYERS as EQUINOX
from initax._adapters._linen import LAYERS as LINEN
from initax._adapters._nnx import LAYERS as NNX
from initax._model._kinds import KINDS
from tests.tables import KEY

nn = eqx.nn


class Affine(NamedTuple):
    w: jax.Array
    b: jax.Array


def weight(*shape):
    return jnp.ones(shape)


# model → path of each drawn array and the fan_in it is drawn with
MODELS = {
    "shape tuples": ({"w_yx": (256, 10), "b_y": (10,)}, {"w_yx": 256, "b_y": 256}),
    "structs": ({"w": jax.ShapeDtypeStruct((7, 5), jnp.float32)}, {"w": 7}),
    "nested dicts": (
        {"enc": {"kernel": weight(7, 5), "bias": weight(5)}, "dec": {"kernel": weight(5, 3), "bias": weight(3)}},
        {"dec.kernel": 5, "dec.bias": 5, "enc.kernel": 7, "enc.bias": 7},
    ),
    "flat dict": (
        {"w1": weight(7, 5), "b1": weight(5), "w2": weight(5, 3), "b2": weight(3)},
        {"w1": 7, "b1": 7, "w2": 5, "b2": 5},
    ),
    "flat dict of words": (
        {"in_weight": weight(7, 5), "in_bias": weight(5), "out_weight": weight(5, 3), "out_bias": weight(3)},
        {"in_weight": 7, "in_bias": 7, "out_weight": 5, "out_bias": 5},
    ),
    "list of pairs": ([(weight(7, 5), weight(5)), (weight(5, 3), weight(3))], {"0.0": 7, "1.0": 5}),
    "flat list": ([weight(7, 5), weight(5), weight(5, 3), weight(3)], {"0": 7, "2": 5}),
    "rows of as many axes": (
        [(weight(3, 3, 7, 5), weight(1, 1, 1, 5)), (weight(5, 3), weight(1, 3))],
        {"0.0": 63, "0.1": 63, "1.0": 5, "1.1": 5},
    ),
    "named tuples": ([Affine(weight(7, 5), weight(5))], {"0.w": 7, "0.b": 7}),
    "convolution": ({"conv": {"w": weight(3, 3, 7, 5), "b": weight(5)}}, {"conv.w": 63, "conv.b": 63}),
    "a single matrix": (weight(7, 5), {"": 7}),
    "numpy": ({"w": np.ones((7, 5), np.float32)}, {"w": 7}),
    "norm beside a layer": (
        {"norm": {"scale": weight(5), "bias": weight(5)}, "w": weight(7, 5)},
        {"w": 7},
    ),
    "a vector that is no bias": ({"A_log": weight(7, 5), "D": weight(5), "b": weight(5)}, {"A_log": 7, "b": 7}),
    "names of Flax in lists": (
        {"blocks": [{"kernel": weight(7, 5), "bias": weight(5)}], "head": weight(5, 3)},
        {"head": 5, "blocks.0.kernel": 7, "blocks.0.bias": 7},
    ),
    "shape tuples named as in Flax": ({"enc": {"kernel": (7, 5), "bias": (5,)}}, {"enc.kernel": 7, "enc.bias": 7}),
    "numbered by hand": (
        {"layer_0": {"w": weight(7, 5), "b": weight(5)}, "W_1": weight(5, 3)},
        {"W_1": 5, "layer_0.w": 7, "layer_0.b": 7},
    ),
    "integers beside a layer": ({"w": weight(7, 5), "steps": jnp.arange(3)}, {"w": 7}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:rule .* it can't draw:initax.InitaxWarning")
def test_a_container_with_a_weight_and_a_bias_is_a_layer(name, key):
    model, fans = MODELS[name]
    plan = ix.plan(model, {"*": ("he_normal", "uniform_fan_in")})
    assert {each.parameter.path: each.parameter.fan_in for each in plan.draws} == fans
    new = plan.draw(key)
    assert jax.tree.structure(new) == jax.tree.structure(
        model, is_leaf=lambda leaf: name.startswith("shape tuples") and (isinstance(leaf, tuple))
    )


WIDE = {
    "heads": ({"w": weight(8, 2, 4), "b": weight(2, 4)}, '{"w": "i o1 o2", "b": "o1 o2"}'),
    "stacked": ({"w": weight(3, 8, 5), "b": weight(3, 5)}, '{"w": "stack i o", "b": "stack o"}'),
    "stacked, outputs first": ({"w": weight(3, 5, 8), "b": weight(3, 5)}, '{"w": "stack o i", "b": "stack o"}'),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_bias_of_several_axes_is_never_a_matrix(name):
    own, axes = WIDE[name]
    with pytest.warns(ix.InitaxWarning) as caught:
        plan = ix.plan([own, weight(2, 2)], {"*": "he_normal"})
    assert [each.parameter.path for each in plan.draws] == ["1"]
    (first, size), (second, other) = ((each, own[each].shape) for each in own)
    reason = f'undeclared: {second} {other} does not fit {first} {size} read as "... i o"'
    assert [str(each.message) for each in caught] == [
        'rule "*" selects 2 arrays it can\'t draw; kept as they are:\n'
        f"  0.{first} {size} of dict: {reason}\n"
        f"  0.{second} {other} of dict: {reason}\n"
        "  say what the axes are, in stored order, in a rule of its own: "
        f'{{"0": ix.Scheme("he_normal", axes={axes})}}'
    ]
    told = ix.plan([own], {"0": ix.Scheme("he_normal", axes=ast.literal_eval(axes))})
    assert {each.parameter.path: (each.parameter.fan_in, str(each.initializer)) for each in told.draws} == {
        f"0.{first}": (8, "he_normal"),
        f"0.{second}": (8, "zeros"),
    }


PYTORCH = "a weight that PyTorch or a path calls conv.weight has its outputs first"
TOLD = "1.w has its outputs first, by its bias, so this one may, too"

# model → the weights that are kept, each with the reason, the axes to write, and the fan_in they then have
OUTPUTS_FIRST: dict[str, tuple[Any, dict[str, Any]]] = {
    "a state dict": (
        {"conv.weight": weight(64, 3, 7, 7), "head.weight": weight(4, 4)},
        {"conv.weight": (PYTORCH, 147)},
    ),
    "a state dict with a bias": (
        {"conv.weight": weight(64, 3, 7, 7), "fc.weight": weight(10, 512), "fc.bias": weight(10)},
        {"conv.weight": (PYTORCH, 147), "fc.weight": (None, 512)},
    ),
    "told by another's bias": (
        [{"w": weight(5, 3)}, {"w": weight(10, 256), "b": weight(10)}, {"w": weight(4, 4)}],
        {"0.w": (TOLD, 3), "1.w": (None, 256)},
    ),
    "told by none": ([{"w": weight(5, 3)}, {"w": weight(256, 10), "b": weight(10)}], {}),
}


@pytest.mark.parametrize("name", OUTPUTS_FIRST)
@pytest.mark.filterwarnings("ignore:rule .* it can't draw:initax.InitaxWarning")
def test_weights_that_may_have_their_outputs_first_are_not_read_the_other_way(name):
    model, expected = OUTPUTS_FIRST[name]
    reasons = {
        each.path: each.excluded and each.excluded.text
        for layer in ix.layers(model)
        for each in layer.parameters
        if len(each.shape) > 1
    }
    assert {path for path, kept in reasons.items() if kept} == set(expected)
    assert {path: reasons[path] for path, (reason, _) in expected.items() if reason} == {
        path: f"undeclared: {reason}" for path, (reason, _) in expected.items() if reason
    }
    if not expected:
        return
    plan = ix.plan(model, {"*": ix.Scheme("he_normal", axes="o i ...")})
    fans = {each.parameter.path: each.parameter.fan_in for each in plan.draws}
    assert {path: fans[path] for path in expected} == {path: fan for path, (_, fan) in expected.items()}


def test_the_line_for_outputs_first_is_given():
    with pytest.raises(ix.RuleError) as caught:
        ix.plan([{"conv.weight": weight(64, 3, 7, 7)}], {"*": "he_normal"})
    line = """say what the axes are, in stored order: ix.Scheme(..., axes={"conv.weight": "o i ..."})"""
    assert str(caught.value).splitlines()[-1].strip() == line


def test_numpy_stays_numpy(key):
    new = ix.reinit({"w": np.ones((7, 5))}, {"*": "he_normal"}, key)
    assert isinstance(new["w"], np.ndarray)
    assert new["w"].dtype == np.float64


def test_the_default_pattern_can_be_changed(key):
    plan = ix.plan({"w": weight(10, 256), "b": weight(10)}, {"*": ix.Scheme("he_normal", axes="o i")})
    assert [each.parameter.fan_in for each in plan.draws] == [256, 256]


def test_parameters_of_haiku_are_layers_by_module(key):
    model = {"mlp/~/0": {"w": weight(7, 5), "b": weight(5)}, "mlp/~/1": {"w": weight(5, 3), "b": weight(3)}}
    plan = ix.plan(model, {"*": "he_normal", "mlp/~/1": "zeros"})
    assert {each.parameter.path: str(each.initializer) for each in plan.draws} == {
        "mlp/~/0.w": "he_normal",
        "mlp/~/0.b": "zeros",
        "mlp/~/1.w": "zeros",
        "mlp/~/1.b": "zeros",
    }


def test_optimizer_state_is_never_drawn(key):
    model = eqx.filter(nn.MLP(3, 2, 5, 1, key=KEY), eqx.is_array)
    state = optax.adam(1e-3).init(model)
    new, new_state = ix.reinit((model, state), {"*": "ones"}, key)
    assert float(new.layers[0].weight.sum()) == 15
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(new_state), strict=True):
        assert before is after
    reasons = {reason.text for _, reason in ix.plan((model, state), {"*": "ones"}).kept}
    assert reasons == {"optimizer state", "int32: only floating and complex arrays are drawn"}


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        (jnp.int8, "int8: only floating and complex arrays are drawn"),
        (jnp.bool_, "bool: only floating and complex arrays are drawn"),
        ("key", "a random key"),
    ],
)
def test_what_is_no_float_is_kept_and_listed(dtype, reason, key):
    odd = jax.random.split(KEY, (5, 7)) if dtype == "key" else jnp.ones((5, 7), dtype)
    model = [eqx.tree_at(lambda each: each.weight, nn.Linear(7, 5, key=KEY), odd), nn.Linear(2, 2, key=KEY)]
    plan = ix.plan(model, {"*": "he_normal"})
    # A bias goes with its weight: where that stays, it stays.
    assert [(each.path, why.text) for each, why in plan.kept] == [
        ("0.weight", reason),
        ("0.bias", "its weight is not drawn"),
    ]
    assert plan.draw(key)[0].weight is odd
    only_biases = ix.plan(model, {"*": (None, "zeros")})
    assert [each.parameter.path for each in only_biases.draws] == ["0.bias", "1.bias"]


class Experts(eqx.Module):
    """A user's layer: raw arrays, a merged axis, two weights."""

    up: jax.Array
    down: jax.Array
    bias: jax.Array
    heads: int = eqx.field(static=True)

    def __init__(self):
        self.up, self.down, self.bias, self.heads = weight(4, 7, 15), weight(4, 15, 7), weight(4, 7), 3


def test_a_declared_layer_is_drawn_like_a_built_in_one(key):
    class Declared(Experts):
        pass

    ix.register_layer(
        Declared,
        kind="Experts",
        up="expert i (head o)",
        down="expert i o",
        bias="expert o",
        sizes={"head": "heads"},
        of={"bias": "down"},
        default={"up": "lecun_normal", "bias": ("constant", {"value": 0.5})},
    )
    (layer,) = ix.layers(Declared())
    assert (layer.kind, layer["up"].fan_out, layer["up"].axes.batch_size) == ("Experts", 5, 12)
    assert layer["bias"].fan_in == 15
    new = ix.reinit(Declared(), {"Experts": "orthogonal"}, key)
    for matrix in np.asarray(new.down):
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(7), atol=1e-5)
    with pytest.warns(ix.InitaxWarning, match="down .* its layer declares no default"):
        plan = ix.plan(Declared(), {"*": "default"})
    assert [each.parameter.path for each in plan.draws] == ["up", "bias"]

    class Derived(Declared):
        extra: jax.Array

        def __init__(self):
            super().__init__()
            self.extra = weight(3)

    assert ix.layers(Derived())[0].kind == "Experts"
    assert ix.layers(Derived())[0]["extra"].excluded.text == "undeclared"
    stack = eqx.filter_vmap(lambda _: Declared())(jnp.arange(2))
    assert ix.layers(stack)[0]["up"].axes.pattern == "stack expert i (head o)"


def test_a_bias_of_several_weights_has_no_fans_until_told():
    class Untold(Experts):
        pass

    ix.register_layer(
        Untold, kind="Experts", up="expert i (head o)", down="expert i o", bias="expert o", sizes={"head": 3}
    )
    assert ix.layers(Untold())[0]["bias"].fan_in is None
    assert len(ix.plan(Untold(), {"*": "he_normal"}).draws) == 3
    with pytest.raises(ix.SchemeError, match=r"of several it has to be told: ix.register_layer\(..., of="):
        ix.plan(Untold(), {"*": "uniform_fan_in"})


def test_learned_positions_are_embeddings_whatever_they_are_called(key):
    class Tokens(eqx.Module):
        cls: jax.Array
        kind: jax.Array
        pos: jax.Array
        head: nn.Linear

        def __call__(self, x):
            return jax.vmap(self.head)(jnp.concatenate([self.cls[None], self.kind[None], x]) + self.pos)

    tokens = Tokens(weight(8), weight(8), weight(5, 8), nn.Linear(8, 3, key=KEY))
    with pytest.warns(ix.InitaxWarning) as caught:
        ix.plan(tokens, {"*": "he_normal"}, inputs=jnp.ones((3, 8)))
    assert str(caught[0].message).splitlines()[-2:] == [
        "  declare it, axes in stored order: "
        'ix.register_layer(Tokens, {"cls": "o", "kind": "o", "pos": "n o"}, kind="Embedding")',
        "  or draw them by rules that name them: "
        '{"cls": ("normal", {"stddev": 0.02}), "kind": ("normal", {"stddev": 0.02})}',
    ]
    ix.register_layer(Tokens, {"kind": "o"}, kind="Embedding", cls="o", pos="n o")
    rules = {"Linear": "he_normal", "Embedding": ("normal", {"stddev": 0.02})}
    plan = ix.plan(tokens, rules, inputs=jnp.ones((3, 8)))  # that the positions are added is no disagreement
    stds = {draw.parameter.path: draw.std for draw in plan.draws}
    assert stds == {"cls": 0.02, "kind": 0.02, "pos": 0.02, "head.weight": 0.5, "head.bias": 0.0}
    assert 0.01 < float(ix.reinit(tokens, rules, key).pos.std()) < 0.03


def offered(caught):
    """The call that a warning or an error offers, to declare a layer."""
    return re.search(r"ix\.register_layer\(.*\)", str(caught))[0]


@pytest.mark.parametrize("is_traced", [False, True])
def test_the_line_for_tables_and_positions_declares_both(is_traced):
    class GPT(eqx.Module):
        wte: jax.Array
        wpe: jax.Array
        head: nn.Linear

        def __call__(self, tokens):
            return jax.vmap(self.head)(self.wte[tokens] + self.wpe[: tokens.shape[0]])

    gpt = GPT(weight(50, 8), weight(16, 8), nn.Linear(8, 50, key=KEY))
    inputs = {"inputs": np.arange(5, dtype=np.int32)} if is_traced else {}
    with pytest.warns(ix.InitaxWarning) as caught:
        ix.plan(gpt, {"*": "he_normal"}, **inputs)
    eval(offered(caught[0].message), {"ix": ix, "GPT": GPT})
    arrays = {array.name: array for array in ix.layers(gpt, **inputs)[0].parameters}
    known = {name: (array.role, array.fans.nominal) for name, array in arrays.items()}
    table = ix.layers(nn.Embedding(50, 8, key=KEY))[0]["weight"]
    assert known == {"wte": ("embedding", table.fans.nominal), "wpe": ("embedding", (1, 8))}


class Open(eqx.Module):
    first: jax.Array
    second: jax.Array
    bias: jax.Array | None = None


@pytest.mark.parametrize("shapes", [((2, 4), (6, 2)), ((4, 5), (5, 3)), ((4, 5), (5, 3), (5,))], ids=str)
def test_where_nothing_tells_the_sides_of_a_matrix_the_line_leaves_them_open(shapes):
    with pytest.raises(ix.ModelError) as caught:
        ix.plan(Open(*(weight(*shape) for shape in shapes)), {"*": "he_normal"})
    assert "axes in stored order, each ? filled in: " in str(caught.value)
    with pytest.raises(ix.AxesError, match="leaves an axis open"):
        eval(offered(caught.value), {"ix": ix, "Open": Open})


def test_a_bias_tells_the_sides_of_the_weight_of_its_number_alone():
    class Two(eqx.Module):
        w1: jax.Array
        b1: jax.Array
        w2: jax.Array
        b2: jax.Array

    two = Two(weight(4, 5), weight(5), weight(3, 5), weight(3))
    with pytest.raises(ix.ModelError) as caught:
        ix.plan(two, {"*": "he_normal"})
    eval(offered(caught.value), {"ix": ix, "Two": Two})
    assert {array.name: array.fan_in for array in ix.layers(two)[0].parameters if array.role == "weight"} == {
        "w1": 4,
        "w2": 5,
    }


@pytest.mark.parametrize("cls", [dict, list, tuple, collections.OrderedDict, jax.Array], ids=str)
def test_a_class_of_any_models_containers_is_not_declared(cls):
    with pytest.raises(ix.InitaxError) as caught:
        ix.register_layer(cls, kind="Linear", w="i o", default={"w": "lecun_normal"})
    assert str(caught.value) == (
        f"register_layer takes a class of your own; what is in a {cls.__name__} differs from model to model.\n"
        '  say it in the rule for one: {"path.of.it": ix.Scheme("he_normal", axes={"w": "i o"})}'
    )
    assert ix.layers({"w": weight(3, 5)})[0]["w"].fan_in == 3


def test_a_plain_container_without_defaults_is_answered_with_a_scheme():
    model = {"w": weight(3, 5), "b": weight(5)}
    with pytest.raises(ix.RuleError) as caught:
        ix.plan(model, {"*": "default"})
    line = str(caught.value).splitlines()[-1]
    assert line == '  write a scheme in place of "default": "lecun_normal"; in reset_units scheme="lecun_normal"'
    assert len(ix.plan(model, {"*": "lecun_normal"}).draws) == 2


HEAD = {"head": {"w": weight(5, 3), "b": weight(3)}}


@pytest.mark.parametrize(
    ("scheme", "beside"),
    [("he_normal", {}), ("default", {}), ("he_normal", HEAD), (("glorot_normal", {"truncated": False}), HEAD)],
)
def test_axes_that_one_rule_for_all_can_not_say_are_said_in_a_rule_for_each(scheme, beside):
    experts = {"w1": weight(4, 12, 20), "b1": weight(4, 20), "w2": weight(4, 20, 12), "b2": weight(4, 12)}
    model = {"layers": [experts], **beside}
    if beside:
        with pytest.warns(ix.InitaxWarning) as warned:
            ix.plan(model, {"*": scheme})
        text = str(warned[0].message)
    else:
        with pytest.raises(ix.RuleError) as caught:
            ix.plan(model, {"*": scheme})
        text = str(caught.value)
    rules = eval(re.search(r"in a rule for each: (\{.*\})", text)[1], {"ix": ix})
    plan = ix.plan({"layers": [experts]}, rules)
    drawn = {draw.parameter.name: (draw.parameter.axes.pattern, draw.parameter.fan_in) for draw in plan.draws}
    assert drawn == {
        "w1": ("stack i o", 12),
        "b1": ("stack o", 12),
        "w2": ("stack i o", 20),
        "b2": ("stack o", 20),
    }


def test_columns_beside_matrices_are_said_in_a_rule_for_each():
    model = {"a": {"w1": weight(10, 6), "b1": weight(10, 1)}, "c": {"w2": weight(4, 10), "b2": weight(4, 1)}}
    with pytest.raises(ix.RuleError) as caught:
        ix.plan(model, {"*": "he_normal"})
    rules = eval(re.search(r"in a rule for each: (\{.*\})", str(caught.value))[1], {"ix": ix})
    fans = {draw.parameter.path: draw.parameter.fan_in for draw in ix.plan(model, rules).draws}
    assert fans == {"a.w1": 6, "a.b1": 6, "c.w2": 10, "c.b2": 10}


@pytest.mark.parametrize("table", [EQUINOX, LINEN, NNX], ids=["equinox", "linen", "nnx"])
def test_the_kinds_of_the_frameworks_are_all_known(table):
    assert {row.kind for row in table.values()} <= {*KINDS, "State", "Wrapper"}


def test_a_subclass_of_linear_is_a_linear(key):
    class Scaled(nn.Linear):
        gate: jax.Array

        def __init__(self):
            super().__init__(7, 5, key=KEY)
            self.gate = jnp.ones(())

    with pytest.warns(ix.InitaxWarning, match="gate"):
        plan = ix.plan(Scaled(), {"Linear": "he_normal"})
    assert [each.parameter.fan_in for each in plan.draws] == [7, 7]


def test_arrays_that_do_not_fit_their_layer_are_not_guessed_at():
    narrow = eqx.tree_at(lambda each: each.weight, nn.Linear(7, 5, key=KEY), jnp.ones((5, 3)))
    (layer,) = ix.layers(narrow)
    assert (
        layer["weight"].excluded.text == 'undeclared: shape (5, 3) does not fit the layer\'s own (5, 7), pattern "o i".'
    )
    uneven = eqx.tree_at(lambda each: each.weight, nn.Linear(7, 5, key=KEY), jnp.ones((2, 5, 7)))
    assert "do not have the same stack axes" in ix.layers(uneven)[0]["weight"].excluded.text


def test_a_weight_inside_a_wrapper_is_listed_and_not_drawn(key):
    class Softplus(eqx.Module):
        original: jax.Array

    wrapped = eqx.tree_at(lambda each: each.weight, nn.Linear(7, 5, key=KEY), Softplus(weight(5, 7)))
    with pytest.warns(ix.InitaxWarning, match=r"weight.original \(5, 7\) of Softplus: undeclared"):
        new = ix.reinit([wrapped, nn.Linear(2, 2, key=KEY)], {"*": "zeros"}, key)
    assert float(new[0].weight.original.sum()) == 35
    assert new[0].bias is wrapped.bias


def test_tied_tables_are_drawn_once_by_their_owner(key):
    from tests.tables import tied

    shared = tied()
    plan = ix.plan(shared, {"*": "lecun_normal"})
    assert [each.parameter.path for each in plan.draws] == ["pytree.0.weight", "pytree.1.bias"]
    assert [(parameter.path, why.text) for parameter, why in plan.kept] == [
        ("pytree.1.weight", "tied to pytree.0.weight")
    ]
    assert plan.draws[1].parameter.fan_in == 5
    embedding, linear = plan.draw(key)()
    assert linear.weight is embedding.weight


def test_a_tie_that_computes_is_listed(key):
    pair = (nn.Linear(5, 11, key=KEY), nn.Linear(11, 5, key=KEY))
    shared = nn.Shared(pair, lambda pair: pair[1].weight, lambda pair: pair[0].weight.T)
    plan = ix.plan(shared, {"*": "he_normal"})
    assert [(each.path, why.text) for each, why in plan.kept] == [
        ("pytree.1.weight", "tied to what Shared at (model) computes")
    ]
    first, second = plan.draw(key)()
    np.testing.assert_array_equal(second.weight, first.weight.T)


def test_whole_modules_may_be_tied(key):
    pair = (nn.Linear(5, 5, key=KEY), nn.Linear(5, 5, key=KEY))
    shared = nn.Shared(pair, lambda pair: pair[1], lambda pair: pair[0])
    first, second = ix.reinit(shared, {"Linear": "he_normal"}, key)()
    assert first.weight is second.weight
    with pytest.raises(ix.RuleError, match=r'"pytree\.1" is tied to "pytree\.0", which owns it'):
        ix.plan(shared, {"pytree.1": "zeros"})


def test_a_number_may_be_tied(key):
    class Tempered(eqx.Module):
        linear: nn.Linear
        temperature: float

    pair = (Tempered(nn.Linear(5, 5, key=KEY), 0.5), Tempered(nn.Linear(5, 5, key=KEY), 0.5))
    shared = nn.Shared(pair, lambda pair: pair[1].temperature, lambda pair: pair[0].temperature)
    plan = ix.plan(shared, {"Linear": "he_normal"})
    assert [each.parameter.path for each in plan.draws][::2] == ["pytree.0.linear.weight", "pytree.1.linear.weight"]
    assert plan.draw(key)()[1].temperature == 0.5


def test_the_owner_of_tied_modules_holds_all_of_their_arrays():
    pair = [nn.Sequential([nn.Linear(5, 5, key=KEY), nn.Linear(5, 5, key=KEY)]) for _ in range(2)]
    shared = nn.Shared(pair, lambda pair: pair[1], lambda pair: pair[0])
    assert ix.survey(shared).aliases == {"pytree.1": "pytree.0.layers"}


def test_batch_norm_state_is_kept(key):
    model, state = nn.make_with_state(
        lambda: nn.Sequential([nn.Linear(3, 5, key=KEY), nn.BatchNorm(5, "b", mode="batch")])
    )()
    new, new_state = ix.reinit((model, state), {"*": "default"}, key)
    first: list[Any] = [new[0], model[0]]
    assert first[0].weight is not first[1].weight
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(new_state), strict=True):
        assert before is after


def test_static_fields_that_cannot_be_compared_do_no_harm():
    class Tagged(nn.Linear):
        tags: list = eqx.field(static=True)

        def __init__(self, size):
            super().__init__(size, 2, key=KEY)
            self.tags = [{"size": size}]

    fans = [layer["weight"].fan_in for layer in ix.layers([Tagged(3), Tagged(4), Tagged(3)])]
    assert fans == [3, 4, 3]


def test_state_that_holds_a_weight_itself_does_not_own_it(key):
    params = {"w": jnp.ones((7, 5)), "b": jnp.ones(5)}
    state = optax.lookahead(optax.sgd(0.1), sync_period=2, slow_step_size=0.5).init(
        optax.LookaheadParams(params, params)
    )
    trace = optax.TraceState(trace=params)
    new_trace, _, new = ix.reinit((trace, state, params), {"*": "zeros"}, key)
    assert float(new["w"].sum()) == 0
    assert new_trace.trace["w"] is params["w"]
