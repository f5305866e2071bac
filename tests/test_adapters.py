"""A framework of a user's own: what `ix.register_adapter` is told of its objects, and what becomes of them."""

import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initax as ix
from initax import _adapters
from initax._adapters._nodes import Tie
from initax._model._constraint import Constraint
from initax._model._reason import state
from tests.tables import KEY

HERE = __name__


class Tensor:
    """An array that knows its axes; JAX takes it for a leaf."""

    def __init__(self, data, axes):
        self.data, self.axes = data, axes


class Affine:
    """A layer; JAX takes it for a leaf."""

    def __init__(self, w, b, label="affine"):
        self.w, self.b, self.label = w, b, label


class Model:
    """A module that holds layers, by names that are not those of its attributes."""

    def __init__(self, layers, head, average):
        self.layers, self.head, self.average = layers, head, average


class Average:
    def __init__(self, value):
        self.value = value


@jax.tree_util.register_pytree_node_class
class Backwards:
    """A pytree that JAX flattens in another order than its adapter tells."""

    def __init__(self, w, b):
        self.w, self.b = w, b

    def tree_flatten(self):
        return (self.b, self.w), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*reversed(children))


WEIGHT, BIAS = ix.Field(pattern="o i", role="weight", default="zeros"), ix.Field(pattern="o", role="bias", of="w")
FIELDS = {"w": WEIGHT, "b": BIAS}


def describe(node):
    match node:
        case Tensor():
            return ix.Node("box", value=node.data, rebuild=lambda data: Tensor(data, node.axes))
        case Affine():
            children = {"w": node.w, "b": node.b}
            return ix.Node(
                kind="Linear", fields=FIELDS, children=children, rebuild=lambda new: Affine(**new, label=node.label)
            )
        case Model():
            children = {f"layer{place}": each for place, each in enumerate(node.layers)}
            return ix.Node(
                children={**children, "head": node.head, "average": node.average},
                rebuild=lambda new: Model([new[name] for name in children], new["head"], new["average"]),
            )
        case Average():
            return ix.Node("box", value=node.value, reason=state("a running average"), rebuild=Average)
    return None


@pytest.fixture
def known():
    """Register what a test wants known, and forget it afterwards."""

    def register(function=describe, package=HERE):
        ix.register_adapter(package, function)

    before = dict(_adapters._REGISTERED)
    yield register
    _adapters._REGISTERED.clear()
    _adapters._REGISTERED.update(before)
    _adapters._described_by.cache_clear()


def affine(inputs, outputs):
    return Affine(Tensor(jnp.ones((outputs, inputs)), "oi"), Tensor(jnp.ones(outputs), "o"))


def model():
    return Model([affine(3, 64), affine(64, 64)], eqx.nn.Linear(64, 2, key=KEY), Average(jnp.ones(3)))


def test_a_model_of_objects_that_are_no_pytrees_is_drawn_and_written_back(known, key):
    known()
    old = [model(), jnp.int32(7)]
    plan = ix.plan(old, {"Linear": "he_normal"})
    assert {each.parameter.path: (each.kind, each.parameter.fan_in) for each in plan.draws} == {
        "0.layer0.w": ("Linear", 3),
        "0.layer0.b": ("Linear", 3),
        "0.layer1.w": ("Linear", 64),
        "0.layer1.b": ("Linear", 64),
        "0.head.weight": ("Linear", 64),
        "0.head.bias": ("Linear", 64),
    }
    assert {parameter.path: reason.text for parameter, reason in plan.kept} == {
        "0.average": "a running average",
        "1": "int32: only floating and complex arrays are drawn",
    }
    new = plan.draw(key)
    assert [type(each) for each in new[0].layers] == [Affine, Affine]
    assert new[0].layers[0].label == "affine"
    assert new[0].layers[1].w.axes == "oi"
    np.testing.assert_allclose(np.asarray(new[0].layers[1].w.data).std(), (2 / 64) ** 0.5, rtol=0.05)
    assert not np.any(new[0].layers[1].b.data)
    assert isinstance(new[0].head, eqx.nn.Linear)
    assert new[0].average.value is old[0].average.value
    assert new[1] is old[1]
    assert float(old[0].layers[0].w.data.sum()) == 192, "the model that was passed stays as it was"


def test_shared_objects_are_drawn_once(known, key):
    known()
    layer = affine(5, 5)
    plan = ix.plan(Model([layer, layer], None, None), {"*": "he_normal"})
    assert {each.parameter.path for each in plan.draws} == {"layer0.w", "layer0.b"}
    assert {parameter.path: reason.text for parameter, reason in plan.kept} == {
        "layer1.w": "tied to layer0.w",
        "layer1.b": "tied to layer0.b",
    }
    new = plan.draw(key)
    assert new.layers[0].w.data is new.layers[1].w.data


@pytest.mark.parametrize(("structure", "readings"), [(lambda layer: layer.label, 2), (lambda layer: None, 6)])
def test_modules_of_one_structure_are_read_once(known, structure, readings):
    read = []

    def sizes(layer):
        read.append(layer)
        return {"i": 3}

    def describe(node):
        if not isinstance(node, Affine):
            return None
        fields = {"w": ix.Field(pattern="i o", role="weight", sizes=sizes)}
        likeness = structure(node)
        children, rebuild = {"w": node.w}, lambda new: Affine(new["w"], None)
        return ix.Node("module", kind="Linear", fields=fields, children=children, rebuild=rebuild, structure=likeness)

    known(describe)
    found = ix.layers([Affine(jnp.ones((3, 4)), None, label) for label in "aabbab"])
    assert [each["w"].path for each in found] == [f"{place}.w" for place in range(6)]
    assert [each["w"].fan_in for each in found] == [3] * 6
    assert len(read) == readings


def test_a_rule_selects_by_class_path_and_kind(known):
    known()
    for selector, paths in {"Affine": 4, "layer1": 2, "Model head": 2, "Linear": 6}.items():
        assert len(ix.plan(model(), {selector: "zeros"}).draws) == paths, selector


def test_an_array_states_its_axes_and_the_layer_it_belongs_to(known):
    """No class is declared: the box says what a module is that holds it."""

    class Stated:
        def __init__(self, data, axes):
            self.data, self.axes = data, axes

    def holder(module):
        fields = {name: ix.Field(pattern=each.axes, role="weight") for name, each in vars(module).items()}
        return ix.Node(kind="Named", fields=fields)

    def say(node):
        if isinstance(node, Stated):
            return ix.Node("box", value=node.data, holder=holder, rebuild=lambda data: Stated(data, node.axes))
        return None

    class Mixer(eqx.Module):
        mix: Stated

    known(say)
    (layer,) = ix.layers([Mixer(Stated(jnp.ones((2, 3, 5)), "head o i"))])
    assert (layer.kind, layer.cls, layer.path) == ("Named", Mixer, "0")
    assert (layer["mix"].axes.pattern, layer["mix"].fan_in, layer["mix"].evidence) == (
        "head o i",
        5,
        ix.Evidence.DECLARED,
    )


def test_paths_of_a_node_are_relative_to_it(known, key):
    def say(node):
        if not isinstance(node, Affine):
            return None
        return ix.Node(
            kind="Linear",
            fields=FIELDS,
            children={"w": node.w, "b": node.b},
            constraints={"w": Constraint(name="halved", preimage=lambda w: (w / 2, w[:, 0]), companions=("b",))},
            rebuild=lambda new: Affine(**new),
        )

    known(say)
    old = {"a": Affine(jnp.ones((4, 4)), jnp.ones(4))}
    plan = ix.plan(old, {"*": ("constant", {"value": 3.0})})
    assert {each.parameter.path: each.follows for each in plan.draws} == {"a.w": None, "a.b": "a.w"}
    new = plan.draw(key)
    assert float(new["a"].w[0, 0]) == 1.5
    assert float(new["a"].b[0]) == 3.0


class Sealed(Model):
    """A pytree whose arrays can't be read."""


jax.tree_util.register_pytree_node(Sealed, lambda node: ([node.head], None), lambda _, new: Sealed(None, *new, None))


def test_ties_and_what_is_unread_are_kept(known):
    def say(node):
        if isinstance(node, Sealed):
            return ix.Node("unread", reason=ix.Reason(ix.Why.UNDECLARED, "sealed"))
        if isinstance(node, Model):
            shape = jax.ShapeDtypeStruct((5, 5), jnp.float32)
            children = {"head": node.head, "again": node.average}
            return ix.Node(children=children, ties={"again.w": Tie("head.w", shape)}, rebuild=lambda new: node)
        return describe(node)

    known(say)
    tied = Model(None, affine(5, 5), Affine("head.w", Tensor(jnp.ones(5), "o")))
    plan = ix.plan([tied, Sealed(None, jnp.ones((2, 2)), None)], {"0.**": "zeros"})
    assert {parameter.path: reason.text for parameter, reason in plan.kept} == {
        "0.again.w": "tied to 0.head.w",
        "1.0": "sealed",
    }
    assert [each.parameter.path for each in plan.draws] == ["0.head.w", "0.head.b", "0.again.b"]


def test_the_nearest_base_is_asked_first_and_initax_when_nobody_knows(known):
    class Mine(eqx.nn.Linear):
        pass

    mine = Mine(3, 4, key=KEY)
    known(lambda node: None)
    assert [each.kind for each in ix.layers(mine)] == ["Linear"]
    known(lambda node: ix.Node("state", reason=state("mine")) if isinstance(node, eqx.nn.Linear) else None, "equinox")
    assert [each.kind for each in ix.layers(mine)] == ["State"]
    turned = {"weight": ix.Field(pattern="i o", role="weight")}
    known(lambda node: ix.Node(kind="Turned", fields=turned) if isinstance(node, Mine) else None)
    assert [(each.kind, each["weight"].fan_in) for each in ix.layers(mine)] == [("Turned", 4)]
    assert [each.kind for each in ix.layers(eqx.nn.Linear(3, 4, key=KEY))] == ["State"]


def test_a_declared_class_stands_above_its_node(known):
    class Own(Affine):
        pass

    ix.register_layer(Own, kind="Mine", w="i o", b="o")
    known()
    (layer,) = ix.layers(Own(jnp.ones((4, 3)), jnp.ones(3)))
    assert (layer.kind, layer["w"].fan_in) == ("Mine", 4)


UNWRITABLE = {
    "a leaf to JAX": (
        lambda: Affine(jnp.ones((4, 3)), jnp.ones(4)),
        "leaves of the model: 1 as JAX flattens it, 2 as its nodes are described",
    ),
    "another order": (
        lambda: Backwards(jnp.ones((4, 3)), jnp.ones(4)),
        "leaves of the model: 2 as JAX flattens it, 2 as its nodes are described",
    ),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_node_that_can_not_be_written_back_is_refused(known, name):
    make, line = UNWRITABLE[name]
    known(
        lambda node: (
            ix.Node(kind="Linear", fields=FIELDS, children={"w": node.w, "b": node.b})
            if isinstance(node, Affine | Backwards)
            else None
        )
    )
    with pytest.raises(ix.ModelError) as caught:
        ix.plan(make(), {"*": "zeros"})
    assert str(caught.value) == (
        "an adapter describes a node otherwise than JAX flattens it, and does not say how to write it back.\n"
        f"  {line}\n"
        "  give the node a rebuild: ix.Node(..., children=children, rebuild=lambda new: type(node)(**new))"
    )


WRONG = {
    "no name": (
        (types, describe),
        f'register_adapter takes the name of a package, not {types!r}.\n  ix.register_adapter("mylib", describe)',
    ),
    "no package": (
        ("my-lib", describe),
        "register_adapter takes the name of a package, not 'my-lib'.\n  ix.register_adapter(\"mylib\", describe)",
    ),
    "no function": (
        ("mylib", "Linear"),
        "register_adapter(\"mylib\") takes a function from an object to an ix.Node, not 'Linear'.\n"
        '  ix.register_adapter("mylib", describe)',
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_adapter_is_refused(name):
    arguments, text = WRONG[name]
    with pytest.raises(ix.InitaxError) as caught:
        ix.register_adapter(*arguments)
    assert str(caught.value) == text
