"""`ix.mup` beside the package `mup` of the authors, on PyTorch: `nox -s mup`.

The same MLP and transformer in PyTorch and in three frameworks of JAX. For every tensor the standard deviation that the
package draws is the one that a plan says, within sampling error, and so is the learning rate of MuAdam and MuSGD. The
package's readout divides by the width in the forward pass; here its tensors count as what they are times that.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import torch
from flax import linen as nn
from flax import nnx
from mup import MuAdam, MuReadout, MuSGD, set_base_shapes
from mup import init as mup_init

import initax as ix

BASE, WIDE, HEADS, WORDS, CLASSES = 32, 128, 4, 50, 10
KEY = jax.random.key(0)
TOKENS = jax.ShapeDtypeStruct((6,), jnp.int32)
X = jax.ShapeDtypeStruct((8,), jnp.float32)
NAMES = ("query", "key", "value", "out")


class TorchMLP(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = torch.nn.Linear(8, width)
        self.inside = torch.nn.Linear(width, 2 * width)
        self.head = MuReadout(2 * width, CLASSES)


class TorchTransformer(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = torch.nn.Embedding(WORDS, width)
        self.norm = torch.nn.LayerNorm(width)
        for name in NAMES:
            setattr(self, name, torch.nn.Linear(width, width))
        self.up = torch.nn.Linear(width, 4 * width)
        self.down = torch.nn.Linear(4 * width, width)
        self.head = MuReadout(width, WORDS)


def attend(query, key, value, scale):
    """Attention with 1/d, as the package asks for: `scale` is that of the base over how many times d has grown."""
    split = (query.shape[0], HEADS, -1)
    query, key, value = (each.reshape(split) for each in (query, key, value))
    logits = jnp.einsum("shd,thd->hst", query, key) * scale
    return jnp.einsum("hst,thd->shd", jax.nn.softmax(logits), value).reshape(query.shape[0], -1)


def scale_of(width):
    return (BASE // HEADS) ** -0.5 * BASE / width


class EquinoxMLP(eqx.Module):
    first: eqx.nn.Linear
    inside: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, width):
        self.first = eqx.nn.Linear(8, width, key=KEY)
        self.inside = eqx.nn.Linear(width, 2 * width, key=KEY)
        self.head = eqx.nn.Linear(2 * width, CLASSES, key=KEY)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.inside(jax.nn.relu(self.first(x)))))


class EquinoxTransformer(eqx.Module):
    embed: eqx.nn.Embedding
    norm: eqx.nn.LayerNorm
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    head: eqx.nn.Linear
    scale: float = eqx.field(static=True)

    def __init__(self, width):
        self.embed = eqx.nn.Embedding(WORDS, width, key=KEY)
        self.norm = eqx.nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (eqx.nn.Linear(width, width, key=KEY) for _ in range(4))
        self.up = eqx.nn.Linear(width, 4 * width, key=KEY)
        self.down = eqx.nn.Linear(4 * width, width, key=KEY)
        self.head = eqx.nn.Linear(width, WORDS, key=KEY)
        self.scale = scale_of(width)

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens)
        y = jax.vmap(self.norm)(x)
        x = x + jax.vmap(self.out)(
            attend(*(jax.vmap(each)(y) for each in (self.query, self.key, self.value)), self.scale)
        )
        return jax.vmap(lambda x: self.head(x + self.down(jax.nn.relu(self.up(x)))))(x)


class NnxMLP(nnx.Module):
    def __init__(self, width):
        self.first, self.inside, self.head = (
            nnx.Linear(*sizes, rngs=nnx.Rngs(0)) for sizes in ((8, width), (width, 2 * width), (2 * width, CLASSES))
        )

    def __call__(self, x):
        return self.head(nnx.relu(self.inside(nnx.relu(self.first(x)))))


class NnxTransformer(nnx.Module):
    def __init__(self, width):
        rngs = nnx.Rngs(0)
        self.embed, self.norm = nnx.Embed(WORDS, width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        for name in NAMES:
            setattr(self, name, nnx.Linear(width, width, rngs=rngs))
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)
        self.head = nnx.Linear(width, WORDS, rngs=rngs)
        self.scale = scale_of(width)

    def __call__(self, tokens):
        x = self.embed(tokens)
        y = self.norm(x)
        x = x + self.out(attend(self.query(y), self.key(y), self.value(y), self.scale))
        return self.head(x + self.down(nnx.relu(self.up(x))))


class LinenMLP(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width, name="first")(x))
        return nn.Dense(CLASSES, name="head")(nn.relu(nn.Dense(2 * self.width, name="inside")(x)))


class LinenTransformer(nn.Module):
    width: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(WORDS, self.width, name="embed")(tokens)
        y = nn.LayerNorm(name="norm")(x)
        query, key, value = (nn.Dense(self.width, name=name)(y) for name in NAMES[:3])
        x = x + nn.Dense(self.width, name="out")(attend(query, key, value, scale_of(self.width)))
        return nn.Dense(WORDS, name="head")(
            x + nn.Dense(self.width, name="down")(nn.relu(nn.Dense(4 * self.width, name="up")(x)))
        )


MODELS = {
    "MLP": (TorchMLP, {"Equinox": EquinoxMLP, "NNX": NnxMLP, "Linen": LinenMLP}, X),
    "transformer": (
        TorchTransformer,
        {"Equinox": EquinoxTransformer, "NNX": NnxTransformer, "Linen": LinenTransformer},
        TOKENS,
    ),
}
SCHEMES = {
    "normal": (("normal", {"stddev": 0.02}), lambda tensor: mup_init.normal_(tensor, std=0.02)),
    "xavier": ("xavier_normal", mup_init.xavier_normal_),
    "kaiming": ("kaiming_uniform", lambda tensor: mup_init.kaiming_uniform_(tensor, nonlinearity="relu")),
}


def of_jax(framework, make, inputs, optimizer):
    if framework == "Linen":
        modules = make(BASE), make(WIDE)
        base, model = (jax.eval_shape(each.init, KEY, inputs) for each in modules)
        width = ix.mup(base, model, optimizer=optimizer, inputs=inputs, module=modules)
        return width, model, {"module": modules[1], "inputs": inputs}
    abstract = nnx.eval_shape if framework == "NNX" else eqx.filter_eval_shape
    base, model = abstract(lambda: make(BASE)), abstract(lambda: make(WIDE))
    return ix.mup(base, model, optimizer=optimizer, inputs=inputs), model, {}


def same_name(path):
    """The name of an array in PyTorch."""
    layer, _, array = path.rpartition(".")
    return f"{layer}.{'weight' if array in ('kernel', 'scale', 'embedding') else array}"


@pytest.fixture(params=MODELS)
def pair(request):
    torch.manual_seed(0)
    make, frameworks, inputs = MODELS[request.param]
    model = make(WIDE)
    set_base_shapes(model, make(BASE), delta=make(2 * BASE))
    return model, frameworks, inputs


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("framework", ["Equinox", "NNX", "Linen"])
def test_standard_deviations_are_those_of_the_package(pair, framework, scheme):
    model, frameworks, inputs = pair
    ours, theirs = SCHEMES[scheme]
    width, abstract, given = of_jax(framework, frameworks[framework], inputs, "adam")
    plan = ix.plan(abstract, width.rules({"*": ours}), **given)
    weights = {same_name(each.parameter.path): each.std for each in plan.draws if each.parameter.role != "bias"}
    compared = 0
    for name, tensor in model.named_parameters():
        # The package counts the rows of a table as its inputs, and initax, as Flax does, its features.
        if name not in weights or (name.startswith("embed") and scheme != "normal"):
            continue
        theirs(tensor)
        times = 1 / model.head.width_mult() if name == "head.weight" else 1.0
        drawn = float(tensor.detach().std()) * times
        assert drawn == pytest.approx(weights[name], rel=5 / (2 * tensor.numel()) ** 0.5), name
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize(("optimizer", "made"), [("adam", MuAdam), ("sgd", MuSGD)], ids=["adam", "sgd"])
@pytest.mark.parametrize("framework", ["Equinox", "NNX", "Linen"])
def test_learning_rates_are_those_of_the_package(pair, framework, optimizer, made):
    model, frameworks, inputs = pair
    width, _, _ = of_jax(framework, frameworks[framework], inputs, optimizer)
    ours = {same_name(each.parameter.path): each.learning_rate for each in width.rows}
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    groups = made(model.parameters(), lr=1.0).param_groups
    theirs = {names[id(tensor)]: group["lr"] for group in groups for tensor in group["params"]}
    # A factor in the forward pass is one of Adam's learning rate, and the square of it one of plain gradients'.
    theirs["head.weight"] *= model.head.width_mult() ** (-1 if optimizer == "adam" else -2)
    assert ours == pytest.approx(theirs)
