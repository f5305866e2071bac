"""What an array is: kinds of mistakes, each over a table of variants, and how the axes of an array are known.

A case says for every array of a model what is right: role and fans where it may be drawn, else the reason why it is
kept. Containers are tried abstract, as arrays of JAX and as arrays of NumPy.
"""

import dataclasses
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from flax import linen as nn
from flax import nnx

import initax as ix
from initax import Why
from tests.tables import KEY

KINDS = {
    "abstract": lambda leaf: leaf,
    "jax": lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)),
    "numpy": lambda leaf: np.zeros(leaf.shape, leaf.dtype),
}
EVERY_ROLE = ix.Scheme("he_normal", bias="zeros", recurrent="he_normal", embedding="he_normal", scale="ones")

BIAS, SCALE, STATE = ("bias",), ("scale",), ("state",)


def Z(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def W(fan_in, fan_out):
    return ("weight", fan_in, fan_out)


class Case(NamedTuple):
    """A model, what is right about its arrays, and how it is called.

    Attributes:
        model: the model, its arrays abstract.
        right: path → role and fans, `BIAS` and `SCALE` without, or the reason why the array is kept.
        options: what is said of the call.
    """

    model: Any
    right: dict[str, Any]
    options: dict[str, Any] = {}  # noqa: RUF012  a row of a table


def found(layers):
    """What initax says of every array, as the tables write it."""
    every = [each for layer in layers for each in layer.parameters]
    return {
        each.path: each.excluded.why
        if each.excluded
        else (each.role, each.fan_in, each.fan_out)
        if each.role in ("weight", "embedding", "recurrent")
        else (each.role,)
        for each in every
    }


def made(tree, kind):
    return jax.tree.map(lambda leaf: KINDS[kind](leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, tree)


def hold(case, kind="abstract"):
    """What initax says of a model is right, and a plan of every role draws exactly what may be drawn."""
    model = made(case.model, kind)
    assert found(ix.layers(model, **case.options)) == case.right
    drawn = {path for path, right in case.right.items() if isinstance(right, tuple)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "rule .* it can't draw", ix.InitaxWarning)
        try:
            plan = ix.plan(model, {"*": EVERY_ROLE}, **case.options)
        except (ix.RuleError, ix.ModelError):
            assert all(case.right[path] == BIAS for path in drawn)
            return
    assert {each.parameter.path for each in plan.draws} == drawn - {
        each.parameter.path for each in plan.kept if each.reason.why is Why.WEIGHT_KEPT
    }
    assert {path for path, right in case.right.items() if isinstance(right, Why)} <= {
        each.parameter.path for each in plan.kept
    }


def table(cases):
    """The cases of a table in every kind of arrays."""
    return [pytest.param(case, kind, id=f"{name}-{kind}") for name, case in cases.items() for kind in KINDS]


# An optimizer's state is known by its form


def two():
    return {"l0": {"w": Z(7, 5), "b": Z(5)}, "l1": {"w": Z(5, 3), "b": Z(3)}}


def flax_two():
    return {
        "Dense_0": {"kernel": Z(7, 5), "bias": Z(5)},
        "Dense_1": {"kernel": Z(5, 3), "bias": Z(3)},
    }


def pairs():
    return [{"w": Z(7, 5), "b": Z(5)}, {"w": Z(5, 3), "b": Z(3)}]


def boxed():
    return {"lin": {"kernel": {"value": Z(7, 5)}, "bias": {"value": Z(5)}}}


def paths(tree, *around):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [
        ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
        for path, leaf in leaves
        if hasattr(leaf, "dtype")
    ]


FORMS: dict[str, Callable[[], Any]] = {
    "one layer": lambda: {"W1": Z(11, 11), "b1": Z(11)},
    "plain": two,
    "flax": flax_two,
    "list": pairs,
    "boxed": boxed,
}
"""What parameters look like in a checkpoint."""

STATES: dict[str, Callable[[Callable[[], Any]], dict[str, Any]]] = {
    "adam in a list": lambda form: {"opt": [{"count": 0, "mu": form(), "nu": form()}]},
    "adam, named after nothing": lambda form: {"aux": [{"count": 0, "mu": form(), "nu": form()}, {}]},
    "adam as numbered keys": lambda form: {"aux": {"0": {"count": 0, "mu": form(), "nu": form()}, "1": {}}},
    "adam, without names": lambda form: {"aux": [0, form(), form()]},
    "adam, far down": lambda form: {"a": {"b": {"c": {"count": 0, "mu": form(), "nu": form()}}}},
    "adam of PyTorch": lambda form: {"aux": {"step": 3, "exp_avg": form(), "exp_avg_sq": form()}},
    "adam, m and v": lambda form: {"aux": {"t": 3, "m": form(), "v": form()}},
    "a count that is an array": lambda form: {"aux": {"count": jnp.zeros((), jnp.int32), "one": form()}},
    "momentum called mu": lambda form: {"aux": {"count": 0, "mu": form()}},
    "two moments without a count": lambda form: {"aux": [{"mu": form(), "nu": form()}, {"trace": form()}]},
    "momentum without a count": lambda form: {"aux": [{"trace": form()}, {}]},
    "named only": lambda form: {"opt_state": {"anything": {"else": form()}}},
    "a copy of the parameters": lambda form: {"ema": form()},
    "both": lambda form: {"aux": [{"count": 0, "mu": form(), "nu": form()}], "shadow": form()},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("state", STATES)
def test_an_optimizer_s_state_is_kept_whatever_it_is_called(state, form, kind):
    model = {"model": FORMS[form](), **STATES[state](FORMS[form])}
    own = set(paths({"model": FORMS[form]()}))
    right = found(ix.layers(made(model, kind)))
    floats = {path for path in paths(model) if not path.endswith("count")}
    assert floats <= set(right)
    assert {path for path, each in right.items() if isinstance(each, tuple)} == own
    assert {right[path] for path in floats - own} <= {Why.OPTIMIZER, Why.STATE}
    plan = ix.plan(made(model, kind), {"*": EVERY_ROLE})
    assert {each.parameter.path for each in plan.draws} == own


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [name for name in FORMS if name != "one layer"])
@pytest.mark.parametrize("number", [3.0, Z()], ids=["a float", "an array"])
@pytest.mark.filterwarnings("ignore:rule .* selects 1 array it can't draw:initax.InitaxWarning")
def test_two_copies_beside_a_number_that_is_not_whole_are_moments(number, form, kind):
    model = {"model": FORMS[form](), "aux": {"t": number, "one": FORMS[form](), "other": FORMS[form]()}}
    own = set(paths({"model": FORMS[form]()}))
    assert {each.parameter.path for each in ix.plan(made(model, kind), {"*": EVERY_ROLE}).draws} == own


NO_STATES = {
    "layers beside a temperature": (
        {"online": {"temperature": Z(), **two()}, "target": two()},
        8,
    ),
    "networks beside a temperature": ({"a": {"temperature": Z(), "net": two()}, "b": {"net": two()}}, 8),
    "two models": ({"actor": two(), "critic": two()}, 8),
    "two models with their steps": (
        {"a": {"step": 0, "model": two()}, "b": {"step": 0, "model": two()}},
        8,
    ),
    "two models with their steps, named after nothing": (
        {"a": {"step": 0, "thing": two()}, "b": {"step": 0, "thing": two()}},
        8,
    ),
    "layers that look alike": ({"steps": 0, "net": [two()["l0"] for _ in range(3)]}, 6),
    "the mean that an encoder puts out": (
        {"enc": two()["l0"], "mu": {"w": Z(5, 2), "b": Z(2)}, "logvar": {"w": Z(5, 2), "b": Z(2)}},
        6,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NO_STATES)
def test_what_only_looks_like_a_state_is_drawn(name, kind):
    model, count = NO_STATES[name]
    assert sum(isinstance(each, tuple) for each in found(ix.layers(made(model, kind))).values()) == count


# Whether an array is trainable


def stop(array):
    return jax.lax.stop_gradient(array)


BEHIND = {
    "as the documentation of Equinox writes it": lambda b, x: stop(b) @ x,
    "behind a view": lambda b, x: stop(b.T).T @ x,
    "before a view": lambda b, x: stop(b).T.T @ x,
    "scaled": lambda b, x: stop(2 * b) @ x,
    "before a nonlinearity": lambda b, x: jnp.sin(stop(b) @ x),
    "in a jitted function": lambda b, x: jax.jit(lambda own, y: stop(own) @ y)(b, x),
    "in a scan": lambda b, x: jax.lax.scan(lambda carry, _: (stop(b) @ carry, None), x, None, length=2)[0],
    "in a vmap": lambda b, x: jax.vmap(lambda row: stop(row) @ x)(b),
    "in a checkpoint": lambda b, x: jax.checkpoint(lambda own, y: stop(own) @ y)(b, x),
    "twice": lambda b, x: stop(b) @ (stop(b) @ x),
    "looked up": lambda b, x: stop(b[jnp.argmax(x)]) + x,
    "before a look-up": lambda b, x: stop(b)[jnp.argmax(x)] + x,
}
BESIDE = {
    "one use of two": lambda b, x: stop(b) @ x + b @ x,
    "on what comes out": lambda b, x: stop(b @ x),
    "on what comes in": lambda b, x: b @ stop(x),
}


class Buffer(eqx.Module):
    B: Any
    w: Any
    use: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.w @ self.use(self.B, x)


@pytest.mark.parametrize("kind", ["abstract", "jax"])
@pytest.mark.parametrize("form", ["module", "dict"])
@pytest.mark.parametrize("use", BEHIND | BESIDE)
def test_an_array_that_every_use_stops_the_gradient_of_is_kept(use, form, kind):
    function = (BEHIND | BESIDE)[use]
    right = {"B": Why.NOT_TRAINABLE if use in BEHIND else W(7, 7), "w": W(7, 5)}
    if form == "module":
        hold(Case(Buffer(Z(7, 7), Z(5, 7), function), right, {"inputs": Z(7)}), kind)
    else:
        forward = {"forward": lambda p, x: p["w"] @ function(p["B"], x)}
        hold(Case({"B": Z(7, 7), "w": Z(5, 7)}, right, {"inputs": Z(7), **forward}), kind)


class Constant(nnx.Variable):
    pass


class Weight(nnx.Param):
    pass


class Around(nnx.Module):
    def __init__(self, cls):
        self.w = cls(jnp.ones((7, 5)))
        self.head = nnx.Linear(5, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.head(x @ self.w[...])


# class of a Variable → what it is, with and without a trace
VARIABLES = {
    nnx.Param: (W(7, 5), Why.UNDECLARED),
    Weight: (W(7, 5), Why.UNDECLARED),
    nnx.LoRAParam: (W(7, 5), Why.UNDECLARED),
    nnx.Variable: (Why.NOT_TRAINABLE, Why.NOT_TRAINABLE),
    Constant: (Why.NOT_TRAINABLE, Why.NOT_TRAINABLE),
    nnx.BatchStat: (Why.STATISTICS, Why.STATISTICS),
    nnx.Cache: (Why.STATE, Why.STATE),
    nnx.Intermediate: (Why.STATE, Why.STATE),
}


@pytest.mark.parametrize("abstract", [True, False], ids=["abstract", "concrete"])
@pytest.mark.parametrize("traced", [True, False], ids=["traced", "untraced"])
@pytest.mark.parametrize("cls", VARIABLES, ids=lambda cls: cls.__name__)
def test_a_variable_that_is_no_param_is_kept(cls, traced, abstract):
    model = nnx.eval_shape(lambda: Around(cls)) if abstract else Around(cls)
    right = {"w": VARIABLES[cls][not traced], "head.kernel": W(5, 3), "head.bias": BIAS}
    hold(Case(model, right, {"inputs": Z(7)} if traced else {}))


@pytest.mark.parametrize("name", ["kernel", "bias"])
def test_a_variable_that_is_no_param_is_kept_in_a_layer_of_flax_too(name):
    layer = nnx.Linear(7, 5, rngs=nnx.Rngs(0))
    setattr(layer, name, Constant(getattr(layer, name)[...]))
    right = {"kernel": W(7, 5), "bias": BIAS} | {name: Why.NOT_TRAINABLE}
    hold(Case(layer, right))
    hold(Case({"a": [layer]}, {f"a.0.{own}": each for own, each in right.items()}))


def linear(weight):
    return eqx.tree_at(lambda layer: layer.weight, eqx.nn.Linear(7, 5, key=KEY), weight)


NUMPY = {
    "in a field nobody declared, traced": Case(
        Buffer(np.ones((7, 7), np.float32), Z(5, 7), lambda b, x: b @ x),
        {"B": Why.CONSTANT, "w": W(7, 5)},
        {"inputs": Z(7)},
    ),
    "in a field nobody declared": Case(
        Buffer(np.ones((7, 7), np.float32), Z(5, 7), lambda b, x: b @ x), {"B": Why.CONSTANT, "w": Why.UNDECLARED}
    ),
    "in a declared field": Case(linear(np.ones((5, 7), np.float32)), {"weight": W(7, 5), "bias": BIAS}),
    "in a container": Case({"w": np.ones((7, 5), np.float32)}, {"w": W(7, 5)}),
    "in a container, traced": Case(
        {"w": np.ones((7, 5), np.float32)}, {"w": W(7, 5)}, {"inputs": Z(7), "forward": lambda p, x: x @ p["w"]}
    ),
}


@pytest.mark.parametrize("name", NUMPY)
def test_an_array_of_numpy_is_a_constant_where_equinox_takes_it_for_one(name):
    hold(NUMPY[name])


# A vector behind a matrix may be its bias or a scale


def normed(p, x):
    h = x @ p[0]
    return jnp.tanh((h - h.mean()) / h.std() * p[1] + p[2]) @ p[3] + p[4]


BEHIND_A_MATRIX = {
    "Keras on JAX": Case(
        [Z(3, 3, 3, 8), Z(8), Z(8), Z(8, 5), Z(5)],
        {"0": W(27, 72), "1": Why.UNDECLARED, "2": Why.UNDECLARED, "3": W(8, 5), "4": Why.UNDECLARED},
    ),
    "Keras, the names as numbers": Case(
        {"0": Z(7, 5), "1": Z(5), "2": Z(5)}, {"0": W(7, 5), "1": Why.UNDECLARED, "2": Why.UNDECLARED}
    ),
    "a pair": Case([(Z(7, 5), Z(5))], {"0.0": W(7, 5), "0.1": Why.UNDECLARED}),
    "a pair in a tuple": Case((Z(7, 5), Z(5)), {"0": W(7, 5), "1": Why.UNDECLARED}),
    "a triple": Case([(Z(7, 5), Z(5), Z(5))], {"0.0": W(7, 5), "0.1": Why.UNDECLARED, "0.2": Why.UNDECLARED}),
    "a scale by name": Case({"w": Z(7, 5), "scale": Z(5)}, {"w": W(7, 5), "scale": Why.UNDECLARED}),
    "a gain": Case({"w": Z(7, 5), "g": Z(5)}, {"w": W(7, 5), "g": Why.UNDECLARED}),
    "a norm beside it": Case(
        {"w": Z(7, 5), "gamma": Z(5), "beta": Z(5)}, {"w": W(7, 5), "gamma": Why.UNDECLARED, "beta": Why.UNDECLARED}
    ),
    "a batch norm's": Case({"w": Z(7, 5), "bn_beta": Z(5)}, {"w": W(7, 5), "bn_beta": Why.UNDECLARED}),
    "a bias by name": Case({"w": Z(7, 5), "b": Z(5)}, {"w": W(7, 5), "b": BIAS}),
    "a trace tells": Case(
        [Z(7, 5), Z(5), Z(5), Z(5, 3), Z(3)],
        {"0": W(7, 5), "1": SCALE, "2": BIAS, "3": W(5, 3), "4": BIAS},
        {"inputs": Z(7), "forward": normed},
    ),
}

# Biases with several axes

WIDE = {
    "a row": Case({"W1": Z(64, 128), "b1": Z(1, 128)}, {"W1": W(64, 128), "b1": BIAS}),
    "a row, nested": Case({"l": {"weight": Z(7, 5), "bias": Z(1, 5)}}, {"l.weight": W(7, 5), "l.bias": BIAS}),
    "a row in a list": Case([Z(7, 5), Z(1, 5)], {"0": W(7, 5), "1": BIAS}),
    "stax": Case(
        [(Z(3, 3, 3, 8), Z(1, 1, 1, 8)), (), (Z(8, 5), Z(1, 5))],
        {"0.0": W(27, 72), "0.1": BIAS, "2.0": W(8, 5), "2.1": BIAS},
    ),
    "a column": Case({"W1": Z(256, 16), "b1": Z(256, 1)}, {"W1": Why.CONTRADICTED, "b1": Why.CONTRADICTED}),
    "a column of a square": Case({"W1": Z(8, 8), "b1": Z(8, 1)}, {"W1": Why.CONTRADICTED, "b1": Why.CONTRADICTED}),
    "a column, nested": Case(
        {"l": {"weight": Z(7, 5), "bias": Z(7, 1)}}, {"l.weight": Why.CONTRADICTED, "l.bias": Why.CONTRADICTED}
    ),
    "columns of two layers": Case(
        {"W1": Z(256, 16), "b1": Z(256, 1), "W2": Z(4, 256), "b2": Z(4, 1)},
        dict.fromkeys(("W1", "b1", "W2", "b2"), Why.CONTRADICTED),
    ),
    "a column, traced": Case(
        {"W1": Z(256, 16), "b1": Z(256, 1)},
        {"W1": W(16, 256), "b1": BIAS},
        {"inputs": Z(16, 9), "forward": lambda p, x: p["W1"] @ x + p["b1"]},
    ),
}

# Names of Flax are held against the bias

NAMED = {
    "a projection of GPT-2": Case(
        {"c_attn": {"kernel": Z(192, 64), "bias": Z(192)}},
        {"c_attn.kernel": Why.CONTRADICTED, "c_attn.bias": Why.CONTRADICTED},
    ),
    "a class with a number": Case(
        {"Dense_0": {"kernel": Z(5, 7), "bias": Z(5)}},
        {"Dense_0.kernel": Why.CONTRADICTED, "Dense_0.bias": Why.CONTRADICTED},
    ),
    "the right way round": Case(
        {"h": {"0": {"c_attn": {"kernel": Z(64, 192), "bias": Z(192)}}}},
        {"h.0.c_attn.kernel": W(64, 192), "h.0.c_attn.bias": BIAS},
    ),
    "an einsum": Case(
        {"Einsum_0": {"kernel": Z(5, 3), "bias": Z(5)}},
        {"Einsum_0.kernel": Why.CONTRADICTED, "Einsum_0.bias": Why.CONTRADICTED},
    ),
    "an einsum, the right way round": Case(
        {"Einsum_0": {"kernel": Z(5, 3), "bias": Z(3)}}, {"Einsum_0.kernel": W(5, 3), "Einsum_0.bias": BIAS}
    ),
    "a stack of convolutions": Case(
        {"scan": {"Conv_0": {"kernel": Z(6, 3, 4, 8), "bias": Z(6, 8)}}},
        {"scan.Conv_0.kernel": Why.CONTRADICTED, "scan.Conv_0.bias": Why.UNDECLARED},
    ),
    "a stack of matrices": Case(
        {"scan": {"Dense_0": {"kernel": Z(6, 4, 8), "bias": Z(6, 8)}}},
        {"scan.Dense_0.kernel": Why.UNDECLARED, "scan.Dense_0.bias": Why.UNDECLARED},
    ),
}

# Keys of boxes are no names

BOXED = {
    f"{name}, {box}": Case(
        jax.tree.map(lambda leaf, box=box: {box: leaf}, tree),
        {f"{path}.{box}": each for path, each in right.items()},
    )
    for box in ("value", "raw_value")
    for name, tree, right in (
        ("a projection", {"query": {"kernel": Z(64, 4, 16)}}, {"query.kernel": W(64, 64)}),
        (
            "attention",
            {
                "attn": {
                    "key": {"kernel": Z(64, 4, 16), "bias": Z(4, 16)},
                    "out": {"kernel": Z(4, 16, 64), "bias": Z(64)},
                }
            },
            {
                "attn.key.kernel": W(64, 64),
                "attn.key.bias": BIAS,
                "attn.out.kernel": W(64, 64),
                "attn.out.bias": BIAS,
            },
        ),
        ("a linear", {"lin": {"kernel": Z(7, 5), "bias": Z(5)}}, {"lin.kernel": W(7, 5), "lin.bias": BIAS}),
        ("a table", {"emb": {"embedding": Z(11, 5)}}, {"emb.embedding": ("embedding", 5, 11)}),
        ("names by hand", {"lin": {"w": Z(7, 5), "b": Z(5)}}, {"lin.w": W(7, 5), "lin.b": BIAS}),
    )
}

# A trace decides over names and guesses


@flax.struct.dataclass
class Heads:
    q: Any
    o: Any


class Named(NamedTuple):
    q: Any
    o: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Registered:
    q: Any
    o: Any


def attend(q, o, x):
    return jnp.einsum("thd,hdo->to", jnp.einsum("ti,ihd->thd", x, q), o)


BY_FIELD = {"inputs": Z(9, 64), "forward": lambda p, x: attend(p.q, p.o, x)}
READ = {"q": W(64, 64), "o": W(64, 64)}
KEPT = {"q": Why.CONTRADICTED, "o": Why.CONTRADICTED}

TRACED = {
    "flax.struct": Case(Heads(Z(64, 4, 16), Z(4, 16, 64)), READ, BY_FIELD),
    "a registered dataclass": Case(Registered(Z(64, 4, 16), Z(4, 16, 64)), READ, BY_FIELD),
    "a named tuple": Case(Named(Z(64, 4, 16), Z(4, 16, 64)), READ, BY_FIELD),
    "a dict": Case(
        {"q": Z(64, 4, 16), "o": Z(4, 16, 64)},
        READ,
        {"inputs": Z(9, 64), "forward": lambda p, x: attend(p["q"], p["o"], x)},
    ),
    "a name of a convolution": Case(
        {"Conv_0": {"kernel": Z(64, 4, 16)}, "Conv_1": {"kernel": Z(4, 16, 64)}},
        {"Conv_0.kernel": W(64, 64), "Conv_1.kernel": W(64, 64)},
        {"inputs": Z(9, 64), "forward": lambda p, x: attend(p["Conv_0"]["kernel"], p["Conv_1"]["kernel"], x)},
    ),
    "a name the other way round": Case(
        {"Dense_0": {"kernel": Z(5, 7)}},
        {"Dense_0.kernel": W(7, 5)},
        {"inputs": Z(7), "forward": lambda p, x: p["Dense_0"]["kernel"] @ x},
    ),
    "a guess the other way round": Case(
        [(Z(5, 7), Z(5))],
        {"0.0": W(7, 5), "0.1": BIAS},
        {"inputs": Z(7), "forward": lambda p, x: p[0][0] @ x + p[0][1]},
    ),
    "without a trace, flax.struct": Case(Heads(Z(64, 4, 16), Z(4, 16, 64)), KEPT),
    "without a trace, a registered dataclass": Case(Registered(Z(64, 4, 16), Z(4, 16, 64)), KEPT),
    "without a trace, a named tuple": Case(Named(Z(64, 4, 16), Z(4, 16, 64)), KEPT),
}

# Biases that fit nothing say that outputs come first


def rnn(h, x, o):
    return {"Wxh": Z(h, x), "Whh": Z(h, h), "Why": Z(o, h), "bh": Z(h), "by": Z(o)}


FIRST = {"Wxh": Why.CONTRADICTED, "Whh": W(16, 16), "Why": Why.CONTRADICTED, "bh": Why.UNDECLARED, "by": Why.UNDECLARED}


def run(p, x):
    def step(h, u):
        h = jnp.tanh(p["Wxh"] @ u + p["Whh"] @ h + p["bh"][:, 0])
        return h, p["Why"] @ h + p["by"][:, 0]

    return jax.lax.scan(step, jnp.zeros(16), x)[1]


UNFITTING = {
    "a recurrent net": Case(rnn(16, 8, 4), FIRST),
    "nested": Case({"cell": rnn(16, 8, 4)}, {f"cell.{path}": each for path, each in FIRST.items()}),
    "other names": Case(
        {"U": Z(16, 8), "V": Z(4, 16), "b": Z(16), "c_b": Z(4)},
        {"U": Why.CONTRADICTED, "V": Why.CONTRADICTED, "b": Why.UNDECLARED, "c_b": Why.UNDECLARED},
    ),
    "a list": Case([Z(16, 8), Z(16)], {"0": Why.CONTRADICTED, "1": Why.UNDECLARED}),
    "a cell alone": Case(
        {"Wxh": Z(16, 8), "Whh": Z(16, 16), "bh": Z(16)},
        {"Wxh": Why.CONTRADICTED, "Whh": W(16, 16), "bh": Why.UNDECLARED},
    ),
    "a bias and its weight": Case({"W": Z(16, 8), "b": Z(16)}, {"W": Why.CONTRADICTED, "b": Why.CONTRADICTED}),
    "inputs first": Case(
        {"Wxh": Z(8, 16), "Whh": Z(16, 16), "Why": Z(16, 4), "bh": Z(16), "by": Z(4)},
        {"Wxh": W(8, 16), "Whh": W(16, 16), "Why": W(16, 4), "bh": Why.UNDECLARED, "by": Why.UNDECLARED},
    ),
    "a square in front": Case(
        {"Wh": Z(16, 16), "Wo": Z(16, 4), "bh": Z(16), "bo": Z(4)},
        {"Wh": W(16, 16), "Wo": W(16, 4), "bh": BIAS, "bo": BIAS},
    ),
    "a square in front, biases of other names": Case(
        {"Uh": Z(16, 16), "Vo": Z(16, 4), "bh": Z(16), "bo": Z(4)},
        {"Uh": W(16, 16), "Vo": W(16, 4), "bh": Why.UNDECLARED, "bo": Why.UNDECLARED},
    ),
    "traced": Case(
        {"Wxh": Z(16, 8), "Whh": Z(16, 16), "Why": Z(4, 16), "bh": Z(16, 1), "by": Z(4, 1)},
        {"Wxh": W(8, 16), "Whh": W(16, 16), "Why": W(16, 4), "bh": BIAS, "by": BIAS},
        {"inputs": Z(5, 8), "forward": run},
    ),
}

# Three axes and more are a convolution only with evidence of a window


def deep(p, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), jnp.einsum("ti,ihd->thd", x, p["wq"]), p["w1"])[0]


WINDOWS = {
    "heads and a stack": Case(
        {"wq": Z(512, 8, 64), "w1": Z(12, 256, 256)}, {"wq": Why.CONTRADICTED, "w1": Why.CONTRADICTED}
    ),
    "nested": Case(
        {"attn": {"wq": Z(512, 8, 64)}, "mlp": {"w1": Z(12, 256, 256)}},
        {"attn.wq": Why.CONTRADICTED, "mlp.w1": Why.CONTRADICTED},
    ),
    "in a list": Case([Z(512, 8, 64), Z(12, 256, 256)], {"0": Why.CONTRADICTED, "1": Why.CONTRADICTED}),
    "a stack of heads": Case({"w": Z(12, 512, 8, 64)}, {"w": Why.CONTRADICTED}),
    "a short stack": Case({"w": Z(3, 8, 16)}, {"w": Why.CONTRADICTED}),
    "a name of a convolution": Case(
        {"conv": {"w": Z(3, 3, 3, 8)}, "filter": Z(3, 8, 16)}, {"conv.w": W(27, 72), "filter": W(24, 48)}
    ),
    "small axes in front": Case({"k": Z(3, 3, 4, 8)}, {"k": W(36, 72)}),
    "a bias": Case({"w": Z(5, 8, 16), "b": Z(16)}, {"w": W(40, 80), "b": BIAS}),
    "a bias, and sizes like a window's": Case({"w": Z(3, 3, 7, 5), "b": Z(5)}, {"w": W(63, 45), "b": BIAS}),
    "a bias that may be a first axis's": Case(
        {"w": Z(5, 3, 5), "b": Z(5)}, {"w": Why.CONTRADICTED, "b": Why.CONTRADICTED}
    ),
    "a trace tells": Case(
        {"wq": Z(512, 8, 64), "w1": Z(12, 64, 64)},
        {"wq": W(512, 512), "w1": W(64, 64)},
        {"inputs": Z(9, 512), "forward": deep},
    ),
}

CONTAINERS = BEHIND_A_MATRIX | {
    f"{title}: {name}": case
    for title, cases in {
        "wide": WIDE, "named": NAMED, "boxed": BOXED, "traced": TRACED, "unfitting": UNFITTING, "window": WINDOWS,
    }.items()
    for name, case in cases.items()
}  # fmt: skip


@pytest.mark.parametrize(("case", "kind"), table(CONTAINERS))
def test_an_array_in_a_container_is_what_it_is_or_kept(case, kind):
    hold(case, kind)


@pytest.mark.parametrize("around", [lambda model: {"net": model}, lambda model: [model]], ids=["dict", "list"])
@pytest.mark.parametrize("name", [name for name, case in CONTAINERS.items() if not case.options])
def test_it_is_the_same_inside_something_else(name, around):
    case = CONTAINERS[name]
    outer = around(case.model)
    prefix = next(iter(outer)) if isinstance(outer, dict) else "0"
    hold(Case(outer, {f"{prefix}.{path}": right for path, right in case.right.items()}))


LINES = {
    "a column": (
        WIDE["a column"].model,
        """say what the axes are, in stored order: ix.Scheme(..., axes={"W1": "o i", "b1": "o 1"})""",
    ),
    "a column, nested": (
        WIDE["a column, nested"].model,
        """say what the axes are, in stored order: ix.Scheme(..., axes={"weight": "o i", "bias": "o 1"})""",
    ),
    "a name of Flax": (
        NAMED["a projection of GPT-2"].model,
        "pass the Linen module and what it is called on: module=module, inputs=x",
    ),
    "a bias that fits nothing": (
        UNFITTING["other names"].model,
        """say what the axes are, in stored order: ix.Scheme(..., axes={"U": "o i"})""",
    ),
    "heads": (
        {"wq": Z(512, 8, 64)},
        """say what the axes are, in stored order: ix.Scheme(..., axes={"wq": "? ? ?"})""",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_what_is_kept_comes_with_the_line_to_write(name):
    model, line = LINES[name]
    with pytest.raises(ix.RuleError) as caught:
        ix.plan(model, {"*": "he_normal"})
    assert str(caught.value).splitlines()[-1].strip() == line


def test_the_line_for_a_column_is_right(key):
    model = made(WIDE["a column"].model, "jax")
    plan = ix.plan(model, {"*": ix.Scheme("he_normal", axes={"W1": "o i", "b1": "o 1"})})
    assert {each.parameter.path: each.parameter.fan_in for each in plan.draws} == {"W1": 16, "b1": 16}


# One array, several owners


class Twice(nnx.Module):
    """Two Params around one array, or one Param at two places."""

    def __init__(self, *, one):
        placeholder = jnp.zeros((7, 7))
        self.a = nnx.Param(placeholder)
        self.b = self.a if one else nnx.Param(placeholder)

    def __call__(self, x):
        return x @ self.a[...] @ self.b[...]


def shared(count, *, copies=False):
    """Layers around one array, or around copies of it."""
    placeholder = jnp.zeros((7, 7))
    return [{"w": placeholder + 0 if copies else placeholder} for _ in range(count)]


def linears(count):
    placeholder = jnp.zeros((7, 7))
    return [
        eqx.tree_at(lambda layer: layer.weight, eqx.nn.Linear(7, 7, use_bias=False, key=KEY), placeholder)
        for _ in range(count)
    ]


OWNERS = {
    "two Params around one array": (lambda: Twice(one=False), {"inputs": Z(7)}, ["a", "b"]),
    "one Param at two places": (lambda: Twice(one=True), {"inputs": Z(7)}, ["a"]),
    "dicts around one array": (lambda: shared(3), {}, ["0.w"]),
    "dicts around copies": (lambda: shared(3, copies=True), {}, ["0.w", "1.w", "2.w"]),
    "layers of Equinox around one array": (lambda: linears(3), {}, ["0.weight"]),
}


@pytest.mark.parametrize("name", OWNERS)
def test_an_array_belongs_to_what_its_framework_says(name, key):
    make, options, owners = OWNERS[name]
    plan = ix.plan(make(), {"*": "he_normal"}, **options)
    assert [each.parameter.path for each in plan.draws] == owners
    assert all(each.reason.why is Why.TIED and each.reason.owner == owners[0] for each in plan.kept)
    arrays = (
        [np.asarray(each) for each in jax.tree.leaves(nnx.state(made) if isinstance(made, nnx.Module) else made)]
        if (made := plan.draw(key))
        else []
    )
    assert len({each.tobytes() for each in arrays}) == len(owners)


TIED = (
    "tied, because one array stands at several paths: {}\n"
    "  to untie: jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf, model)"
)


@pytest.mark.parametrize(
    ("make", "pairs"),
    [
        (lambda: shared(3), "1.w is 0.w, 2.w is 0.w"),
        (lambda: linears(3), "1.weight is 0.weight, 2.weight is 0.weight"),
        (lambda: {"a": shared(2), "b": {"c": linears(2)}}, "a.1.w is a.0.w, b.c.1.weight is b.c.0.weight"),
    ],
    ids=["dicts", "Equinox", "both"],
)
def test_a_plan_says_how_to_untie(make, pairs):
    model = make()
    plan = ix.plan(model, {"*": "he_normal"})
    assert plan.notes == (TIED.format(pairs),)
    untied = ix.plan(
        jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf, model), {"*": "he_normal"}
    )
    assert (len(untied.draws), untied.kept, untied.notes) == (len(jax.tree.leaves(model)), (), ())


# Equal sizes hide the stack


def stack(make, out, count=8):
    return nnx.vmap(lambda key: make(nnx.Rngs(key)), in_axes=0, out_axes=out)(jax.random.split(KEY, count))


def over(axis):
    return lambda model, x: nnx.vmap(lambda each, own: each(own), in_axes=(axis, 0))(model, x)


PLACES = {0: "stack i o", 1: "i stack o", 2: "i o stack"}
UNPLACED = (
    "sizes do not tell which axis is the stack of kernel (8, 8, 8); the first is taken for it.\n"
    "  say what the model is called on, inputs=...; or restate the axes"
)


@pytest.mark.parametrize("axis", PLACES)
def test_a_trace_tells_which_axis_of_equal_ones_is_the_stack(axis, key):
    model = stack(lambda rngs: nnx.Linear(8, 8, use_bias=False, rngs=rngs), axis)
    plan = ix.plan(model, {"*": "orthogonal"}, inputs=Z(8, 3, 8), forward=over(axis))
    (draw,) = plan.draws
    assert (draw.parameter.axes.pattern, plan.notes) == (PLACES[axis], ())
    kernel = np.moveaxis(np.asarray(plan.draw(key).kernel[...]), axis, 0)
    np.testing.assert_allclose(np.einsum("sio,sjo->sij", kernel, kernel), np.tile(np.eye(8), (8, 1, 1)), atol=1e-5)


@pytest.mark.parametrize("axis", PLACES)
def test_members_that_see_the_same_input_leave_two_places(axis):
    """Stack or outputs first: one input times all entries of both; only the input's axis is told."""
    model = stack(lambda rngs: nnx.Linear(8, 8, use_bias=False, rngs=rngs), axis)
    together = {"forward": lambda own, x: nnx.vmap(lambda each, x: each(x), in_axes=(axis, None))(own, x)}
    plan = ix.plan(model, {"*": "orthogonal"}, inputs=Z(3, 8), **together)
    assert plan.draws[0].parameter.axes.pattern == ("stack i o" if axis == 0 else "i stack o")
    assert plan.notes == (() if axis == 0 else (UNPLACED,))


@pytest.mark.parametrize("axis", PLACES)
def test_without_a_trace_the_plan_says_that_sizes_do_not_tell(axis):
    model = stack(lambda rngs: nnx.Linear(8, 8, use_bias=False, rngs=rngs), axis)
    plan = ix.plan(model, {"*": "orthogonal"})
    assert (plan.draws[0].parameter.axes.pattern, plan.notes) == ("stack i o", (UNPLACED,))


BESIDE_BIASES = {  # where 8 or 12 layers of 8 x 12 are stacked -> the axes, and whether the biases tell them
    (0, 8): ("stack i o", "stack o", False),  # or in front of the outputs, axis -2
    (1, 8): ("i stack o", "o stack", True),
    (-1, 8): ("i o stack", "o stack", True),
    (0, 12): ("stack i o", "stack o", True),
    (-1, 12): ("i stack o", "o stack", False),  # or axis 1
}


@pytest.mark.parametrize(("axis", "count"), BESIDE_BIASES)
def test_sizes_of_biases_tell_which_axis_of_the_weights_is_the_stack(axis, count):
    plan = ix.plan(stack(lambda rngs: nnx.Linear(8, 12, rngs=rngs), axis, count), {"*": "he_normal"})
    *patterns, tells = BESIDE_BIASES[axis, count]
    assert [plan[name].parameter.axes.pattern for name in ("kernel", "bias")] == patterns
    shape = plan["kernel"].parameter.shape
    assert plan.notes == (() if tells else (UNPLACED.replace("(8, 8, 8)", str(shape)),))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_trace_tells_the_stack_of_weights_and_of_their_biases(axis):
    """A stack along -1 is axis 2 of the weights and axis 1 of the biases."""
    placed = eqx.if_array(axis)
    model = eqx.filter_vmap(lambda key: eqx.nn.Linear(8, 8, key=key), out_axes=placed)(jax.random.split(KEY, 8))
    together = {"forward": eqx.filter_vmap(lambda layer, x: layer(x), in_axes=(placed, 0))}
    plan = ix.plan(model, {"*": "orthogonal"}, inputs=Z(8, 8), **together)
    patterns = {0: ("stack o i", "stack o"), 1: ("o stack i", "o stack"), -1: ("o i stack", "o stack")}
    assert (plan["weight"].parameter.axes.pattern, plan["bias"].parameter.axes.pattern) == patterns[axis]
    assert plan.notes == ()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_matrix_of_a_pair_tells_the_stack_of_the_other(axis):
    """`lora_a` (4, 2, 3) may be a stack of 4 or of 3; `lora_b` (2, 5, 3) tells."""
    model = stack(lambda rngs: nnx.LoRA(4, 2, 5, rngs=rngs), axis, 3)
    (layer,) = ix.layers(model)
    assert [(layer[name].fan_in, layer[name].fan_out) for name in ("lora_a", "lora_b")] == [(4, 2), (2, 5)]


# Tables that are constant


TABLES = {
    "a Variable": (lambda: Constant(jnp.ones((9, 4))), Why.NOT_TRAINABLE),
    **(
        {"of nnx.RoPE": (lambda: nnx.RoPE(embedding_size=8, max_seq_len=9), Why.NOT_TRAINABLE)}
        if hasattr(nnx, "RoPE")
        else {}
    ),
}


class Holds(nnx.Module):
    def __init__(self, table):
        self.table = table
        self.head = nnx.Linear(5, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.head(x)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_constant_is_kept(name):
    make, why = TABLES[name]
    for options in ({}, {"inputs": Z(2, 5)}):
        plan = ix.plan(Holds(make()), {"*": EVERY_ROLE}, **options)
        assert [each.parameter.path for each in plan.draws] == ["head.kernel", "head.bias"]
        assert plan.kept
        assert {(each.reason.why, each.reason.hint) for each in plan.kept} == {(why, None)}


# Arrays of NumPy that are tied, or of a type that JAX has not

DRAWN_TYPES = ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2", "<c8", ">c8", jnp.bfloat16)


@pytest.mark.parametrize("dtype", DRAWN_TYPES, ids=str)
def test_an_array_of_numpy_is_drawn_in_its_own_type(dtype, key):
    old = np.zeros((7, 5), dtype)
    new = ix.reinit({"w": old}, {"*": "he_normal"}, key)["w"]
    assert (type(new), new.dtype, new.dtype.byteorder) == (np.ndarray, old.dtype, old.dtype.byteorder)
    assert new.flags.writeable
    assert 0.2 < np.asarray(np.abs(new), np.float64).std() + np.asarray(np.abs(new), np.float64).mean() < 2


@pytest.mark.parametrize("dtype", ["longdouble", "clongdouble"])
def test_a_type_that_jax_has_not_is_refused_with_the_line(dtype):
    ((parameter, reason),) = ix.plan({"w": np.zeros((7, 5), dtype), "v": Z(7, 5)}, {"v": "he_normal"}).kept
    assert (parameter.path, reason.why) == ("w", Why.NOT_FLOATING)
    assert reason.text == f"{np.dtype(dtype).name}: JAX has no such type"
    assert reason.hint == "convert it: array.astype(np.float64)"


@pytest.mark.parametrize("make", [lambda w: {"a": w, "b": w}, lambda w: [(w,), {"c": w}]], ids=["dict", "list"])
def test_tied_arrays_of_numpy_stay_one_array_that_can_be_written_to(make, key):
    model = make(np.zeros((7, 5), np.float32))
    for _ in range(2):
        model = ix.reinit(model, {"*": "he_normal"}, key)
        one, other = jax.tree.leaves(model)
        assert one is other
        one[0, 0] = 3


# Modules that are parts


def tied():
    table = eqx.nn.Embedding(11, 5, key=KEY)
    out = eqx.nn.Linear(5, 11, use_bias=False, key=KEY)
    return eqx.nn.Shared((table, out), lambda pair: pair[1].weight, lambda pair: pair[0].weight)


PARTS = {
    "whole": lambda model: model,
    "arrays": lambda model: eqx.partition(model, eqx.is_array)[0],
    "floating arrays": lambda model: eqx.partition(model, eqx.is_inexact_array)[0],
    "filtered": lambda model: eqx.filter(model, eqx.is_array),
    "abstract": lambda model: eqx.filter_eval_shape(lambda: model),
    "combined again": lambda model: eqx.combine(*eqx.partition(model, eqx.is_array)),
    "in a list": lambda model: [eqx.partition(model, eqx.is_array)[0]],
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_module_is_drawn(name, key):
    model = PARTS[name](tied())
    plan = ix.plan(model, {"*": EVERY_ROLE})
    assert [each.parameter.path.removeprefix("0.") for each in plan.draws] == ["pytree.0.weight"]
    assert jax.tree.structure(plan.draw(key)) == jax.tree.structure(model)


# fan_out of local convolutions

LOCAL = {
    "one window": (lambda: nn.ConvLocal(7, (3,)), (2, 8, 4), (12, 21)),
    "two": (lambda: nn.ConvLocal(7, (3, 2)), (2, 8, 8, 4), (24, 42)),
    "strided": (lambda: nn.ConvLocal(7, (3,), strides=2), (2, 8, 4), (12, 21)),
    "without a bias": (lambda: nn.ConvLocal(7, (5,), use_bias=False), (2, 8, 4), (20, 35)),
    "inside a module": (lambda: nn.Sequential([nn.ConvLocal(7, (3,))]), (2, 8, 4), (12, 21)),
}


@pytest.mark.parametrize("abstract", [True, False], ids=["abstract", "concrete"])
@pytest.mark.parametrize("name", LOCAL)
def test_a_local_convolution_counts_its_outputs_times_its_window(name, abstract):
    make, shape, fans = LOCAL[name]
    module, x = make(), jnp.ones(shape)
    init = jax.eval_shape if abstract else lambda function, *args: function(*args)
    variables = init(module.init, KEY, x)
    (layer,) = ix.layers(variables, module=module, inputs=x)
    assert (layer["kernel"].fan_in, layer["kernel"].fan_out) == fans


# How the axes of an array are known


class Swapped(eqx.Module):
    w: Any

    def __call__(self, x):
        return self.w @ x


class Declared(Swapped):
    pass


ix.register_layer(Declared, kind="Linear", w="i o")

EVIDENCE = {
    "a layer of Equinox": (linear(jnp.ones((5, 7))), {}, {"weight": "declared", "bias": "declared"}),
    "a class of one's own": (Declared(Z(5, 7)), {}, {"w": "declared"}),
    "a class nobody declared": (Swapped(Z(5, 7)), {}, {"w": None}),
    "traced": (Swapped(Z(5, 7)), {"inputs": Z(7)}, {"w": "traced"}),
    "names of Flax": (
        {"Dense_0": {"kernel": Z(7, 5), "bias": Z(5)}, "LayerNorm_0": {"scale": Z(5), "bias": Z(5)}},
        {},
        {"Dense_0.kernel": "named", "Dense_0.bias": "named", "LayerNorm_0.scale": "named", "LayerNorm_0.bias": "named"},
    ),
    "a table by name": ({"emb": Z(11, 5)}, {}, {"emb": "named"}),
    "a norm by name": ({"scale": Z(5), "offset": Z(5)}, {}, {"scale": "named", "offset": "named"}),
    "a container": ({"w": Z(7, 5), "b": Z(5), "g": Z(5)}, {}, {"w": "guessed", "b": "guessed", "g": None}),
    "vectors alone": ({"b": Z(5)}, {}, {"b": "guessed"}),
    "mixed": (
        {"a": linear(jnp.ones((5, 7))), "b": {"w": Z(7, 5)}, "c": {"kernel": Z(7, 5)}},
        {},
        {"a.weight": "declared", "a.bias": "declared", "b.w": "guessed", "c.kernel": "named"},
    ),
}


def evidence(layers):
    return {each.path: each.evidence for layer in layers for each in layer.parameters}


@pytest.mark.parametrize("name", EVIDENCE)
def test_a_parameter_says_how_its_axes_are_known(name):
    model, options, expected = EVIDENCE[name]
    assert evidence(ix.layers(model, **options)) == expected


def test_the_words_for_evidence_are_in_order():
    assert list(ix.Evidence) == ["restated", "declared", "traced", "named", "guessed"]


FORWARD = {"inputs": Z(7), "forward": lambda p, x: jax.tree.leaves(p)[0] @ x}

# Two sources that disagree about w (5, 7), which is used as "o i" → which one is believed, and fan_in
STRENGTH = {
    "a trace overrules a guess": ({"w": Z(5, 7)}, {}, "traced", 7),
    "a trace overrules a name": ({"Dense_0": {"kernel": Z(5, 7)}}, {}, "traced", 7),
    "a declaration stands against a trace": (Declared(Z(5, 7)), {}, "declared", 5),
    "a rule overrules a guess": ({"w": Z(5, 7)}, {"axes": "i o"}, "restated", 5),
    "a rule overrules a declaration": (Declared(Z(5, 7)), {"axes": "o i"}, "restated", 7),
    "a rule overrules a trace": (Swapped(Z(5, 7)), {"axes": "i o"}, "restated", 5),
}


@pytest.mark.parametrize("name", STRENGTH)
@pytest.mark.filterwarnings("ignore:the forward pass disagrees with the declared axes:initax.InitaxWarning")
def test_the_stronger_evidence_is_believed(name):
    model, restated, believed, fan_in = STRENGTH[name]
    plan = ix.plan(model, {"*": ix.Scheme("he_normal", **restated)}, **FORWARD)
    (draw,) = plan.draws
    assert (draw.parameter.evidence, draw.parameter.fan_in) == (believed, fan_in)


# A reason says which kind it is


class Scaled(eqx.Module):
    w: Any

    def __call__(self, x):
        return jnp.exp(self.w) @ x


HE = {"*": "he_normal"}
ONE = {"inputs": Z(7)}

# kind of reason → model, rules, options, and the array that is kept for it
REASONS = {
    Why.KEY: (lambda: {"k": jax.random.split(KEY, 3), "w": Z(7, 5)}, HE, {}, "k"),
    Why.NOT_FLOATING: (lambda: {"n": jnp.arange(3), "w": Z(7, 5)}, HE, {}, "n"),
    Why.EMPTY: (lambda: [{"n": Z(0, 5)}, {"w": Z(7, 5)}], HE, {}, "0.n"),
    Why.STATE: (lambda: {"model": two(), "ema": two()}, HE, {}, "ema.l0.w"),
    Why.STATISTICS: (lambda: [nnx.BatchNorm(5, rngs=nnx.Rngs(0)), {"w": Z(7, 5)}], HE, {}, "0.mean"),
    Why.OPTIMIZER: (lambda: {"w": Z(7, 5), "opt_state": {"m": Z(7, 5)}}, HE, {}, "opt_state.m"),
    Why.NOT_TRAINABLE: (lambda: Around(Constant), HE, {}, "w"),
    Why.CONSTANT: (lambda: [Swapped(np.ones((5, 7), np.float32)), {"w": Z(7, 5)}], HE, {}, "0.w"),
    Why.FROZEN: (
        lambda: [linear(paramax.NonTrainable(jnp.ones((5, 7)))), {"w": Z(7, 5)}],
        HE,
        {},
        "0.weight.tree",
    ),
    Why.TIED: (lambda: shared(2), HE, {}, "1.w"),
    Why.FOLLOWS: (lambda: eqx.nn.WeightNorm(eqx.nn.Linear(7, 5, key=KEY)), {"layer.bias": "zeros"}, {}, "g"),
    Why.RESERVED: (lambda: nnx.LoRA(4, 2, 5, rngs=nnx.Rngs(0)), HE, {}, "lora_b"),
    Why.UNDECLARED: (lambda: {"w": Z(7, 5), "g": Z(5)}, HE, {}, "g"),
    Why.MISFIT: (lambda: [linear(jnp.ones((5, 3))), {"w": Z(7, 5)}], HE, {}, "0.weight"),
    Why.CONTRADICTED: (lambda: [{"w": Z(5, 7), "b": Z(5)}, {"w": Z(7, 7)}], HE, {}, "0.w"),
    Why.SIGNAL: (lambda: {"pos": Z(9, 5), "w": Z(7, 7)}, HE, {}, "pos"),
    Why.RETURNED: (lambda: {"w": Z(5, 7), "u": Z(5)}, HE, ONE | {"forward": lambda p, x: (p["w"] @ x, p["u"])}, "u"),
    Why.UNUSED: (lambda: {"w": Z(5, 7), "u": Z(5, 7)}, HE, ONE | {"forward": lambda p, x: p["w"] @ x}, "u"),
    Why.UNREADABLE: (
        lambda: {"w": Z(5, 7), "u": Z(5, 5), "v": Z(3, 5)},
        HE,
        ONE | {"forward": lambda p, x: p["v"] @ jnp.tanh(p["u"] @ p["w"] @ x)},
        "u",
    ),
    Why.TRANSFORMED: (
        lambda: {"w": Z(5, 7), "u": Z(5, 5)},
        HE,
        ONE | {"forward": lambda p, x: jnp.exp(p["u"]) @ jnp.tanh(p["w"] @ x)},
        "u",
    ),
    Why.NO_RULE: (lambda: {"a": {"w": Z(7, 7)}, "c": {"w": Z(7, 5)}}, {"a": "he_normal"}, {}, "c.w"),
    Why.RULE: (lambda: {"a": {"w": Z(7, 7)}, "c": {"w": Z(7, 5)}}, HE | {"c": None}, {}, "c.w"),
    Why.SILENT: (lambda: linear(jnp.ones((5, 7))), {"*": ix.Scheme(bias="ones")}, {}, "weight"),
    Why.NORM: (lambda: [{"scale": Z(7), "offset": Z(7)}, {"w": Z(7, 5)}], HE, {}, "0.scale"),
    Why.WEIGHT_KEPT: (lambda: [linear(jnp.arange(35).reshape(5, 7)), {"w": Z(7, 5)}], HE, {}, "0.bias"),
    Why.NO_DEFAULT: (lambda: [linear(jnp.ones((5, 7))), {"w": Z(7, 5)}], {"*": "default"}, {}, "1.w"),
}


@pytest.mark.parametrize("why", REASONS)
@pytest.mark.filterwarnings("ignore:rule .* it can't draw:initax.InitaxWarning")
def test_a_kept_array_says_why(why):
    make, rules, options, path = REASONS[why]
    kept = ix.plan(make(), rules, **options).kept
    assert [each.reason.why for each in kept if each.parameter.path == path] == [why]
    for parameter, reason in kept:
        assert isinstance(reason, ix.Reason)
        assert str(reason) == reason.text
        assert reason.text, parameter.path


def test_every_kind_of_reason_is_tried():
    assert set(Why) - set(REASONS) == {Why.DECLINED}


# A survey goes wherever a model goes


def net():
    return eqx.nn.MLP(7, 3, 16, 2, key=KEY)


class Counted:
    """A forward function that counts how often it is traced."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model, x):
        self.calls += 1
        return jax.vmap(model)(x)


def same(one, other):
    leaves = [jax.tree.leaves(each) for each in (one, other)]
    assert len(leaves[0]) == len(leaves[1])
    for left, right in zip(*leaves, strict=True):
        assert left is right or np.array_equal(left, right)


X = jax.random.normal(KEY, (6, 7))
CALL = {"inputs": X, "forward": lambda model, x: jax.vmap(model)(x)}


def measured(model, key):
    return {"square": (jax.vmap(model)(X) ** 2).mean()}


MASK = np.arange(16) < 3

# verb → its result on a model, or a survey of it, and options
VERBS = {
    "plan": lambda model, **options: str(ix.plan(model, {"*": "he_normal"}, **options)),
    "layers": lambda model, **options: str(ix.layers(model, **options)),
    "reinit": lambda model, **options: ix.reinit(model, {"*": "he_normal"}, KEY, **options),
    "lsuv": lambda model, **options: ix.lsuv(model, **options)[0],
    "signal_propagation": lambda model, **options: str(ix.signal_propagation(model, **options)),
    "ablate": lambda model, **options: ix.ablate(
        model, {"he": {"*": "he_normal"}, "ones": {"*": "ones"}}, jax.random.split(KEY, 2), measured, **options
    ).values("square"),
    "reset_units": lambda model, **options: ix.reset_units(model, "layers.0", MASK, KEY, **options),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_survey_goes_where_a_model_goes(verb):
    function = VERBS[verb]
    direct = function(net(), **CALL)
    surveyed = function(ix.survey(net(), **CALL))
    if isinstance(direct, str):
        assert surveyed == direct
    else:
        same(surveyed, direct)


def test_a_survey_is_traced_once():
    forward = Counted()
    model = ix.survey(net(), inputs=X, forward=forward)
    assert forward.calls == 1
    ix.plan(model, {"*": "he_normal"})
    ix.layers(model)
    ix.reset_units(model, "layers.0", MASK, KEY)
    ix.lsuv(model)
    assert forward.calls == 1


def test_a_reset_of_units_traces_once():
    forward = Counted()
    ix.reset_units(net(), "layers.0", MASK, KEY, inputs=X, forward=forward)
    assert forward.calls == 1


@pytest.mark.parametrize("options", [{"inputs": X}, {"forward": lambda model, x: model(x)}, {"module": nn.Dense(3)}])
@pytest.mark.parametrize("verb", ["plan", "layers", "reinit", "ablate", "reset_units", "survey"])
def test_a_survey_knows_how_its_model_is_called(verb, options):
    function = (VERBS | {"survey": ix.survey})[verb]
    with pytest.raises(ix.ModelError) as caught:
        function(ix.survey(net(), **CALL), **options)
    assert str(caught.value) == (
        "a survey knows how its model is called; inputs=, forward= and module= are given to ix.survey.\n"
        "  ix.plan(ix.survey(model, inputs=x), rules)"
    )


@pytest.mark.parametrize("verb", ["lsuv", "signal_propagation"])
def test_what_measures_has_to_know_on_what(verb):
    for model in (net(), ix.survey(net())):
        with pytest.raises(ix.ModelError) as caught:
            VERBS[verb](model)
        assert str(caught.value) == (
            "nobody says what the model is called on.\n  give inputs=x, here or to ix.survey(model, inputs=x)"
        )
    same(jax.tree.leaves(VERBS[verb](ix.survey(net()), **CALL)), jax.tree.leaves(VERBS[verb](net(), **CALL)))


def test_a_survey_of_a_survey_is_itself():
    model = ix.survey(net())
    assert ix.survey(model) is model


def test_a_survey_is_printed_as_a_table():
    model = {
        "enc": eqx.nn.Linear(7, 5, key=KEY),
        "mix": {"w": Z(5, 4), "b": Z(4)},
        "steps": jnp.arange(2),
    }
    forward = {"inputs": Z(7), "forward": lambda p, x: p["enc"](x) @ p["mix"]["w"] + p["mix"]["b"]}
    shown = str(ix.survey(model, **forward))
    assert [re.sub(" {2,}", " | ", line.strip()) for line in shown.splitlines() if line.strip(" ─")] == [
        "dict: 5 arrays",
        "array | kind | role | shape | axes | fan_in | fan_out | known",
        "steps | Undeclared | (2,) | int32: only floating and complex arrays are drawn",
        "enc.weight | Linear | weight | (5, 7) | o i | 7 | 5 | declared",
        "enc.bias | Linear | bias | (5,) | o | 7 | 5 | declared",
        "mix.w | Linear | weight | (5, 4) | i o | 5 | 4 | traced",
        "mix.b | Linear | bias | (4,) | o | 5 | 4 | traced",
        "called: forward(model, ...) on float32[7]",
    ]


# Many arrays take as many times as long


def many(count):
    return {f"{name}{layer}": Z(*shape) for layer in range(count // 2) for name, shape in (("w", (7, 5)), ("b", (5,)))}


LARGE = {
    "one dict": many,
    "a list": lambda count: list(many(count).values()),
    "names nobody knows": lambda count: (
        {f"x{at}": Z(3, 7, 5) for at in range(count // 2)} | {f"s{at}": Z(5) for at in range(count // 2)}
    ),
    "layers of a checkpoint": lambda count: {
        "model": {f"l{at}": many(2) for at in range(count)},
        "aux": {"count": 0, **{name: {f"l{at}": many(2) for at in range(count)} for name in ("mu", "nu", "x")}},
    },
}


def calls_of(model):
    """How many functions, of Python and of C, are called while a model is read."""
    count = 0

    def counted(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        ix.layers(model)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", LARGE)
def test_the_work_of_reading_grows_with_the_number_of_arrays(name):
    calls_of(LARGE[name](20))
    few, many_more = (calls_of(LARGE[name](count)) for count in (200, 1600))
    assert many_more < 8 * few * 1.3


# Functions between a declared weight and the signal


@pytest.mark.parametrize(
    ("function", "reason", "head"),
    [
        (jnp.abs, "abs stands between it and the signal", "the forward pass applies a function to declared weights"),
        (
            jax.lax.stop_gradient,
            "no gradient reaches it: it stands behind stop_gradient",
            "no gradient reaches declared",
        ),
    ],
    ids=["abs", "stop_gradient"],
)
def test_a_function_that_a_declaration_does_not_know_is_noted(function, reason, head, key):
    layer = eqx.nn.Linear(8, 6, key=key)
    plan = ix.plan(layer, {"*": "he_normal"}, inputs=Z(8), forward=lambda layer, x: function(layer.weight) @ x)
    assert plan["weight"].parameter.evidence == "declared"
    (note,) = plan.notes
    assert note.startswith(head)
    assert f"\n  weight (6, 8): {reason}" in note


@pytest.mark.parametrize("wrap", [eqx.nn.WeightNorm, lambda layer: layer], ids=["weight norm", "plain"])
def test_a_function_that_is_known_is_not(wrap, key):
    plan = ix.plan(wrap(eqx.nn.Linear(8, 6, key=key)), {"*": "he_normal"}, inputs=Z(8))
    assert plan.notes == ()
