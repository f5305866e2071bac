"""The names of docs/coming_from.md held against the packages they come from: each exists, and draws the law beside it.

`nox -s peers` installs the packages and runs this. What a package draws is compared with the formula on the page and,
entry by entry, with what initax draws under the scheme of the same row. Lux and Flux are written in Julia and left out.
"""

import ast
import inspect
import math
import os
import re

os.environ.setdefault("KERAS_BACKEND", "jax")

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import klax
import numpy as np
import pytest
import torch
from flax import nnx
from scipy import stats

import initax as ix
from tests.test_coming_from import FAN_IN, FAN_OUT, SPAN, is_law, tables

KEY = jax.random.key(20261129)
SIZES = {"sqrt": math.sqrt, "max": max, "fan_in": FAN_IN, "fan_out": FAN_OUT}
NAMED = re.compile(r"(?P<name>\w+)=(True|False)?")


def by_torch(call):
    torch.manual_seed(20261129)
    w = torch.zeros(FAN_OUT, FAN_IN)
    eval(call, vars(torch.nn.init) | {"w": w})
    return w.numpy()


def by_keras(call):
    keras.utils.set_random_seed(20261129)
    return np.asarray(eval(call, vars(keras.initializers))((FAN_IN, FAN_OUT))).T


def by_flax(call):
    return np.asarray(eval(call, vars(nnx.initializers))(KEY, (FAN_IN, FAN_OUT), jnp.float32)).T


def by_haiku(call):
    drawn = hk.transform(lambda: eval(call, vars(hk.initializers))((FAN_IN, FAN_OUT), jnp.float32))
    return np.asarray(drawn.apply({}, KEY)).T


DRAWN_BY = {
    "torch.nn.init": by_torch,
    "keras.initializers": by_keras,
    "nnx.initializers": by_flax,
    "hk.initializers": by_haiku,
}
"""The first word in the head of a table → what draws a weight (outputs, inputs) as that package does."""
JULIA = {"WeightInitializers.jl", "Lux"}

LAWS = {
    f"{package}-{call}": (package, call, *row[1:])
    for head, rows in tables()
    if head[1] == "scheme"
    for package in [SPAN.findall(head[0])[0]]
    if package not in JULIA
    for row in rows
    for call in [SPAN.findall(row[0])[0]]
}


@pytest.mark.parametrize("name", LAWS)
def test_a_package_draws_the_law_beside_its_name_and_so_does_initax(name):
    package, call, scheme, law, std = LAWS[name]
    theirs = DRAWN_BY[package](call).astype(np.float64)
    layer = eqx.nn.Linear(FAN_IN, FAN_OUT, key=KEY)
    ours = np.asarray(ix.reinit(layer, {"Linear": eval(scheme.strip("`"))}, KEY).weight, np.float64)
    if law == "sparse":
        assert set((theirs == 0).sum(axis=0)) == {math.ceil(0.9 * FAN_OUT)}, "a share of what goes out of each input"
        theirs, ours = theirs[theirs != 0], ours[ours != 0]
        assert stats.kstest(theirs, stats.norm(0, eval(std, SIZES)).cdf).pvalue > 1e-6
    else:
        assert is_law(law, theirs, eval(std, SIZES))
    if law in ("constant", "identity"):
        assert np.array_equal(theirs, ours)
    else:
        assert stats.ks_2samp(theirs.ravel(), ours.ravel()).pvalue > 1e-6


def test_another_law_is_seen():
    """The test above can fail: PyTorch's own normal of He is not cut, and one cut at two deviations is told apart."""
    theirs = by_torch("kaiming_normal_(w)").astype(np.float64)
    assert is_law("normal", theirs, math.sqrt(2 / FAN_IN))
    assert not is_law("truncated normal", theirs, math.sqrt(2 / FAN_IN))
    assert not is_law("normal", theirs, 1.05 * math.sqrt(2 / FAN_IN))


KERAS = keras.layers
LINEAR = torch.nn.Linear(4, 4)
PACKAGES = {
    "PyTorch": ({"torch": torch, "nn": torch.nn, "m": LINEAR, "model": torch.nn.Sequential(LINEAR)}, ()),
    "Keras": (
        vars(KERAS) | vars(keras.initializers) | {"initializers": keras.initializers},
        (KERAS.Dense, KERAS.LSTM, KERAS.Embedding, KERAS.BatchNormalization),
    ),
    "Flax": ({"nn": nn, "nnx": nnx}, (nnx.Linear, nnx.OptimizedLSTMCell, nnx.Embed, nnx.LayerNorm)),
    "Haiku": ({"hk": hk}, (hk.Linear, hk.Conv2D)),
    "klax": ({"klax": klax}, (klax.nn.Linear, klax.nn.PICNN, klax.Initializer.__call__)),
}
"""Heads of the tables of names → what their roots are, and the layers and functions whose arguments they speak of."""
PYTHON = {'"attn" in name', "x"}
"""Spans that speak of no package."""


def arguments(layers):
    functions = [each.__init__ if isinstance(each, type) else each for each in layers]
    return {name for each in functions for name in inspect.signature(each).parameters}


def exists(span, known, layers):
    """Whether a package has what a span of the page names: an argument, a name, or a call that its signature takes."""
    if argument := NAMED.fullmatch(span):
        return argument["name"] in arguments(layers)
    if span in arguments(layers):
        return True
    found = False
    for node in ast.walk(ast.parse(span, mode="eval")):
        if isinstance(node, ast.Attribute) or (isinstance(node, ast.Name) and "." not in span and "(" not in span):
            eval(compile(ast.Expression(node), span, "eval"), known)
            found = True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            signature = inspect.signature(eval(compile(ast.Expression(node.func), span, "eval"), known))
            signature.bind_partial(*node.args, **{each.arg: each.value for each in node.keywords})
    return found


SPANS = [
    (head[0], span)
    for head, rows in tables()
    if head[1] == "initax" and head[0] not in JULIA
    for row in rows
    for span in SPAN.findall(row[0])
    if span not in PYTHON
]


@pytest.mark.parametrize(("package", "span"), SPANS)
def test_a_name_exists_in_its_package(package, span):
    assert exists(span, *PACKAGES[package])


@pytest.mark.parametrize(
    ("package", "span"),
    [("PyTorch", "nn.init.nosuch_(w)"), ("Keras", "kernel_init="), ("Flax", "nn.nosuch"), ("klax", "klax.hoedt")],
)
def test_a_name_that_does_not_exist_is_seen(package, span):
    with pytest.raises((AttributeError, AssertionError)):
        assert exists(span, *PACKAGES[package])


def test_klax_and_initax_draw_the_same_positive_weights():
    """Hoedt and Klambauer's weights; klax's bias has the other sign."""
    theirs = np.asarray(klax.hoedt_normal()(KEY, (FAN_IN, FAN_OUT), jnp.float32), np.float64)
    bias = klax.hoedt_bias()(KEY, (FAN_OUT,), FAN_IN, jnp.float32)
    ours = ix.reinit(eqx.nn.Linear(FAN_IN, FAN_OUT, key=KEY), {"Linear": "hoedt"}, KEY)
    assert stats.ks_2samp(np.log(theirs).ravel(), np.log(np.asarray(ours.weight, np.float64)).ravel()).pvalue > 1e-6
    assert np.allclose(bias, -ours.bias, rtol=1e-5)


@pytest.mark.parametrize("layer", [hk.Linear, hk.Conv2D], ids=["Linear", "Conv2D"])
def test_the_default_of_haiku_is_cut_and_not_made_up_for(layer):
    inputs, sizes = (jnp.ones((1, 512)), (256,)) if layer is hk.Linear else (jnp.ones((1, 8, 8, 64)), (256, 3))

    def forward(x):
        return layer(*sizes)(x)

    params = hk.transform(forward).init(KEY, inputs)
    (weights,) = (np.asarray(each["w"], np.float64) for each in params.values())
    weights = weights.reshape(-1, weights.shape[-1])
    assert is_law("truncated normal", weights, 0.87962566 / math.sqrt(len(weights)))
