"""muP of a whole model: factors worked out by hand, in three frameworks, and what they are for."""

import inspect
import json
import re
import time

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
from tests.tables import KEY

BASE, WIDE = 8, 32
M = WIDE / BASE
TOKENS = jnp.arange(5)
X = jnp.linspace(-1, 1, 20).reshape(5, 4)
PICTURE = jnp.ones((6, 6, 3))

pytestmark = pytest.mark.usefixtures("optax_promotes")


# Models: the width is their only argument.


class Transformer(eqx.Module):
    """Two heads, whose size grows."""

    embed: eqx.nn.Embedding
    norm: eqx.nn.LayerNorm
    attn: eqx.nn.MultiheadAttention
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    head: eqx.nn.Linear
    divide: float = eqx.field(static=True)
    heads: int = eqx.field(static=True)

    def __init__(self, width, heads=2, divide=1.0):
        keys = jax.random.split(KEY, 5)
        self.embed = eqx.nn.Embedding(7, width, key=keys[0])
        self.norm = eqx.nn.LayerNorm(width)
        self.attn = eqx.nn.MultiheadAttention(heads, width, use_query_bias=True, key=keys[1])
        self.up = eqx.nn.Linear(width, 4 * width, key=keys[2])
        self.down = eqx.nn.Linear(4 * width, width, key=keys[3])
        self.head = eqx.nn.Linear(width, 7, key=keys[4])
        self.divide, self.heads = divide, heads

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens)
        inside = jax.vmap(self.norm)(x)
        x = x + self.attn(inside, inside, inside, process_heads=lambda q, k, v: (q / self.divide, k, v))
        x = x + jax.vmap(lambda x: self.down(jax.nn.relu(self.up(x))))(x)
        return jax.vmap(self.head)(x)


class NnxTransformer(nnx.Module):
    def __init__(self, width, normalize=False):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(7, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, width, decode=False, normalize_qk=normalize, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.head = nnx.Linear(width, 7, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x + self.attn(self.norm(x))
        return self.head(x + self.down(nnx.relu(self.up(x))))


class LinenTransformer(nn.Module):
    width: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, self.width, name="embed")(tokens)
        x = x + nn.MultiHeadDotProductAttention(2, name="attn")(nn.LayerNorm(name="norm")(x))
        inside = nn.relu(nn.Dense(4 * self.width, name="up")(x))
        return nn.Dense(7, name="head")(x + nn.Dense(self.width, name="down")(inside))


class Pictures(eqx.Module):
    """Convolutions, one of them depthwise, whose groups grow with the width."""

    stem: eqx.nn.Conv2d
    mix: eqx.nn.Conv2d
    deep: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, width):
        self.stem = eqx.nn.Conv2d(3, width, 3, key=KEY)
        self.mix = eqx.nn.Conv2d(width, 2 * width, 1, use_bias=False, key=KEY)
        self.deep = eqx.nn.Conv2d(2 * width, 2 * width, 3, groups=2 * width, key=KEY)
        self.head = eqx.nn.Linear(2 * width, 10, key=KEY)

    def __call__(self, x):
        x = self.deep(self.mix(jax.nn.relu(self.stem(jnp.moveaxis(x, -1, 0)))))
        return self.head(x.mean((1, 2)))


class Reader(eqx.Module):
    """A recurrent cell, and layers in one stack."""

    cell: eqx.nn.GRUCell
    stack: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, width):
        self.cell = eqx.nn.GRUCell(4, width, key=KEY)
        self.stack = eqx.filter_vmap(lambda key: eqx.nn.Linear(width, width, key=key))(jax.random.split(KEY, 3))
        self.head = eqx.nn.Linear(width, 2, use_bias=False, key=KEY)

    def __call__(self, x):
        state = jnp.zeros(self.cell.hidden_size)
        state, _ = jax.lax.scan(lambda state, row: (self.cell(row, state), None), state, x)
        arrays, static = eqx.partition(self.stack, eqx.is_array)
        state, _ = jax.lax.scan(lambda x, layer: (jnp.tanh(eqx.combine(layer, static)(x)), None), state, arrays)
        return self.head(state)


def plain(width):
    return {"w1": jnp.ones((4, width)), "b1": jnp.ones(width), "w2": jnp.ones((width, width)), "out": jnp.ones(width)}


def run_plain(model, x):
    return jnp.tanh(jnp.tanh(x @ model["w1"] + model["b1"]) @ model["w2"]) @ model["out"]


def linen(cls, inputs):
    def pair(*widths):
        modules = tuple(cls(width) for width in widths)
        return [jax.eval_shape(each.init, KEY, inputs) for each in modules], {"module": modules, "inputs": inputs}

    return pair


def of(make, **given):
    """Pairs of abstract models: nothing is computed."""
    abstract = nnx.eval_shape if isinstance(make, type) and issubclass(make, nnx.Module) else eqx.filter_eval_shape
    return lambda *widths: ([abstract(lambda width=width: make(width)) for width in widths], given)


IN, VECTOR, FIXED = (1, 1, 1), (1, 1, M), (1, 1, 1)
"""Factors of the standard deviation and of the learning rate of Adam and of SGD."""
EMBED = (1, 1, M)
HIDDEN = (M**-0.5, 1 / M, 1)
OUTPUT = (1 / M, 1 / M, 1 / M)
QUERY = (M**-0.5 * M**-0.5, 1 / M * M**-0.5, 1 / M)
QUERY_BIAS = (M**-0.5, M**-0.5, M / M)

BLOCK = {
    "embed.*": EMBED, "norm.*": VECTOR, "attn.out*": HIDDEN, "up.weight": HIDDEN, "up.bias": VECTOR,
    "down.weight": HIDDEN, "down.bias": VECTOR, "head.weight": OUTPUT, "head.bias": FIXED,
}  # fmt: skip


def of_flax(prefix, kernel="kernel", embedding="embedding"):
    hidden = [*(f"attn.{name}.{kernel}" for name in ("key", "value", "out")), f"up.{kernel}", f"down.{kernel}"]
    vectors = [*(f"attn.{name}.bias" for name in ("key", "value", "out")), "norm.scale", "norm.bias"]
    own = {
        f"embed.{embedding}": EMBED,
        f"attn.query.{kernel}": QUERY,
        "attn.query.bias": QUERY_BIAS,
        f"head.{kernel}": OUTPUT,
        "head.bias": FIXED,
    }
    own |= dict.fromkeys(hidden, HIDDEN) | dict.fromkeys([*vectors, "up.bias", "down.bias"], VECTOR)
    return {prefix + path: factors for path, factors in own.items()}


EQUINOX = {
    "embed.weight": EMBED, "norm.weight": VECTOR, "norm.bias": VECTOR, "attn.query_proj.weight": QUERY,
    "attn.query_proj.bias": QUERY_BIAS, "attn.key_proj.weight": HIDDEN, "attn.value_proj.weight": HIDDEN,
    "attn.output_proj.weight": HIDDEN, "up.weight": HIDDEN, "up.bias": VECTOR, "down.weight": HIDDEN,
    "down.bias": VECTOR, "head.weight": OUTPUT, "head.bias": FIXED,
}  # fmt: skip
# Name → the pair of models and what else is given, and the factors of each array, by hand.
MODELS = {
    "Equinox transformer": (of(Transformer, inputs=TOKENS), EQUINOX),
    "Equinox, arrays": (lambda *widths: ([Transformer(each) for each in widths], {"inputs": TOKENS}), EQUINOX),
    "NNX transformer": (of(NnxTransformer, inputs=TOKENS[None]), of_flax("")),
    "Linen transformer": (linen(LinenTransformer, TOKENS[None]), of_flax("")),
    "heads that keep their size": (
        of(lambda width: Transformer(width, heads=width // 4), inputs=TOKENS),
        EQUINOX | {"attn.query_proj.weight": HIDDEN, "attn.query_proj.bias": VECTOR},
    ),
    "attention with 1/d": (
        of(lambda width: Transformer(width, divide=(width // 2) ** 0.5), inputs=TOKENS),
        EQUINOX | {"attn.query_proj.weight": HIDDEN, "attn.query_proj.bias": VECTOR},
    ),
    "Equinox convolutions": (
        of(Pictures, inputs=PICTURE),
        {
            "stem.weight": EMBED, "stem.bias": VECTOR, "mix.weight": HIDDEN, "deep.weight": EMBED, "deep.bias": VECTOR,
            "head.weight": OUTPUT, "head.bias": FIXED,
        },
    ),
    "Equinox, recurrent": (
        of(Reader, inputs=X),
        {
            "cell.weight_ih": EMBED, "cell.weight_hh": HIDDEN, "cell.bias": VECTOR, "cell.bias_n": VECTOR,
            "stack.weight": HIDDEN, "stack.bias": VECTOR, "head.weight": OUTPUT,
        },
    ),
    "plain arrays": (
        of(plain, inputs=X, forward=run_plain),
        {"w1": EMBED, "b1": VECTOR, "w2": HIDDEN, "out": OUTPUT},
    ),
}  # fmt: skip


def made(name, optimizer="adam"):
    make, _ = MODELS[name]
    (base, model), given = make(BASE, WIDE)
    return model, given, ix.mup(base, model, optimizer=optimizer, **given)


@pytest.mark.parametrize("name", MODELS)
def test_the_factors_are_those_of_the_table(name):
    _, _, width = made(name)
    _, _, sgd = made(name, "sgd")
    own = {each.parameter.path: (each.std, each.learning_rate) for each in width.rows}
    steps = {each.parameter.path: (each.std, each.learning_rate) for each in sgd.rows}
    for path, (std, adam, plain_steps) in MODELS[name][1].items():
        assert own[path] == pytest.approx((std, adam)), path
        assert steps[path] == pytest.approx((std, plain_steps)), path
    assert set(own) == set(MODELS[name][1])
    rows = json.loads(width.to_json())["arrays"]
    names = ["kind", "role", "shape", "axes", "base_path", "base_shape", "grows", "use", "std", "learning_rate", "why"]
    assert all(list(row) == names for row in rows.values())
    assert [list(row.to_dict()) for row in width.rows] == [["path", *names]] * len(rows)


def test_a_model_that_is_narrower_than_its_base_is_noted():
    models = [eqx.nn.MLP(4, 2, width, depth=1, key=KEY) for width in (WIDE, BASE)]
    assert ix.mup(*models).notes == ("the model is narrower than the base: the base comes first, ix.mup(base, model)",)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_does_not_grow_needs_nothing(name):
    (base, model), given = MODELS[name][0](BASE, BASE)
    width = ix.mup(base, model, **given)
    assert {(each.use, each.std, each.learning_rate) for each in width.rows} == {("fixed", 1.0, 1.0)}
    assert width.rules({"*": "normal"}) == {"*": "normal"}
    assert width.notes == ("the two models have the same sizes: nothing grows, and every factor is one",)
    assert str(width).endswith(f"\n\nnote: {width.notes[0]}")


@pytest.mark.parametrize("name", MODELS)
def test_the_way_back_is_the_inverse(name):
    (base, model), given = MODELS[name][0](BASE, WIDE)
    if "module" in given:
        back = ix.mup(model, base, **given | {"module": given["module"][::-1]})
    else:
        back = ix.mup(model, base, **given)
    for each, other in zip(ix.mup(base, model, **given).rows, back.rows, strict=True):
        assert (each.std * other.std, each.learning_rate * other.learning_rate) == pytest.approx((1, 1))


# What is drawn

SCHEMES = ["default", "he_normal", "glorot_uniform", "torch_default", "orthogonal", ("normal", {"stddev": 0.02})]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("name", ["Equinox transformer", "Linen transformer", "Equinox, recurrent"])
@pytest.mark.slow(one_in=5)
def test_the_wide_model_is_drawn_as_the_base_times_the_factors(name, scheme):
    """Whatever the scheme itself does with the width, and with no warning of a rule that decides nothing."""
    make, factors = MODELS[name]
    (base, model), given = make(BASE, WIDE)
    width = ix.mup(base, model, **given)
    both = [{**given, "module": given["module"][at]} if "module" in given else given for at in (0, 1)]
    rules = {"*": scheme}
    before = {each.parameter.path: each.std for each in ix.plan(base, rules, **both[0]).draws}
    drawn = ix.plan(model, width.rules(rules), **both[1])
    after = {each.parameter.path: each.std for each in drawn.draws}
    assert set(after) == set(before)
    for path, std in after.items():
        if before[path] is not None:
            assert std == pytest.approx(before[path] * factors[path][0]), path
    assert not drawn.notes
    again = ix.Plan.from_json(drawn.to_json(), model, **both[1])
    assert again == drawn


def test_what_is_drawn_has_the_deviation_that_the_plan_says():
    _, given, width = made("Equinox transformer")
    rules = {"*": ("normal", {"stddev": 0.02}), "head": "zeros"}
    model = ix.reinit(Transformer(WIDE), width.rules(rules), KEY, **given)
    assert float(model.down.weight.std()) == pytest.approx(0.01, rel=0.05)
    assert float(model.attn.query_proj.weight.std()) == pytest.approx(0.005, rel=0.1)
    assert not model.head.weight.any()


def test_rules_for_alike_blocks_are_one():
    def make(width):
        return [eqx.nn.Linear(width, width, key=KEY) for _ in range(30)]

    rules = ix.mup(make(BASE), make(WIDE)).rules({"*": "normal"})
    assert list(rules) == ["*", "*.weight"]


def test_a_rule_that_is_taken_over_whole_is_left_out():
    base, model = eqx.nn.MLP(4, 2, BASE, 1, key=KEY), eqx.nn.MLP(4, 2, WIDE, 1, key=KEY)
    rules = ix.mup(base, model).rules({"*": "normal", "layers.1.weight": "he_normal"})
    assert list(rules) == ["*", "layers.1.weight"]
    assert str(rules["layers.1.weight"].parts["weight"]) == "scaled(he_normal, 0.5)"


def test_scales_take_over_what_queries_can_not():
    """Behind a norm a query's own deviation says nothing."""
    base, model = (nnx.eval_shape(lambda size=size: NnxTransformer(size, normalize=True)) for size in (BASE, WIDE))
    width = ix.mup(base, model, inputs=TOKENS[None])
    assert width["attn.query.kernel"].std == M**-0.5
    assert width["attn.query_ln.scale"].std == pytest.approx(M**-0.5)
    assert width["attn.key_ln.scale"].std == 1
    drawn = ix.plan(model, width.rules({"Linear": "lecun_normal"})).arrays(KEY)
    np.testing.assert_allclose(drawn["attn.query_ln.scale"], M**-0.5, rtol=1e-6)
    assert "attn.key_ln.scale" not in drawn


# Trees and steps


@pytest.mark.parametrize("name", ["Equinox transformer", "NNX transformer", "Linen transformer"])
def test_updates_are_multiplied_array_by_array(name):
    model, _, width = made(name)
    if name.startswith("Equinox"):
        parameters = eqx.filter(model, lambda leaf: hasattr(leaf, "dtype"))
    else:
        parameters = nnx.state(model, nnx.Param) if name.startswith("NNX") else model["params"]
    parameters = ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), parameters)
    transform = width.scale_updates()
    scaled, _ = transform.update(ones, transform.init(ones))
    rates = {path: adam for path, (_, adam, _) in MODELS[name][1].items()}
    leaves = jax.tree_util.tree_flatten_with_path(width.multipliers(parameters))[0]
    assert sorted(leaf for _, leaf in leaves) == pytest.approx(sorted(rates.values()))
    for leaf, (_, factor) in zip(jax.tree.leaves(scaled), leaves, strict=True):
        np.testing.assert_allclose(leaf, factor, rtol=1e-6)
    assert jax.tree.structure(width.multipliers.tree) == jax.tree.structure(parameters)
    by_label = optax.multi_transform(
        {label: optax.scale(rate) for label, rate in width.learning_rates.items()}, width.labels
    )
    labelled, _ = by_label.update(ones, by_label.init(ones))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), labelled, scaled)


@pytest.mark.slow
def test_optimizers_of_flax_take_it():
    _, _, width = made("NNX transformer")
    model = NnxTransformer(WIDE)
    grads = nnx.jit(nnx.grad(lambda model: model(TOKENS[None]).sum()))(model)
    before = nnx.clone(model)
    steps = optax.chain(optax.sign_sgd(0.5), width.scale_updates())
    nnx.Optimizer(model, steps, wrt=nnx.Param).update(model, grads)
    moved = np.abs(np.asarray(model.up.kernel[...] - before.up.kernel[...]))
    np.testing.assert_allclose(moved.max(), 0.5 / M, rtol=1e-5)
    variables, given, width = made("Linen transformer")
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables)
    module = given["module"][1]
    steps = optax.chain(optax.sign_sgd(0.5), width.scale_updates())
    state = TrainState.create(apply_fn=module.apply, params=variables["params"], tx=steps)
    after = state.apply_gradients(grads=variables["params"])
    np.testing.assert_allclose(after.params["down"]["kernel"], 1 - 0.5 / M, rtol=1e-6)


def train(model, width, rules, steps, optimizer):
    model = ix.reinit(model, width.rules(rules), KEY, inputs=TOKENS)
    optimizer = optax.chain(optimizer, width.scale_updates())
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(TOKENS), TOKENS[::-1]).mean()

        updates, state = optimizer.update(eqx.filter_grad(loss)(model), state)
        return eqx.apply_updates(model, updates), state

    for _ in range(steps):
        model, state = step(model, state)
    return eqx.filter_jit(model)(TOKENS)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("adam", optax.adam(1e-2, eps=1e-20)), ("sgd", optax.sgd(0.1))],
    ids=["adam", "sgd"],
)
@pytest.mark.slow(one_in=2)
def test_a_factor_taken_over_is_the_factor_in_the_forward_pass(name, optimizer):
    """Training with d^-1/2 and a query that takes over the rest is training with 1/d, step by step."""
    rules = {"*": ("normal", {"stddev": 0.3}), "head": ("normal", {"stddev": 1.0})}
    outputs = []
    for divide in (lambda width: 1.0, lambda width: (width / BASE) ** 0.5):
        base, model = (Transformer(width, divide=divide(width)) for width in (BASE, WIDE))
        width = ix.mup(base, model, optimizer=name, inputs=TOKENS)
        outputs.append(train(model, width, rules, 4, optimizer))
    np.testing.assert_allclose(*outputs, rtol=2e-3, atol=2e-4)


class Tied(eqx.Module):
    embed: eqx.nn.Embedding
    inside: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    divide: float = eqx.field(static=True)

    def __init__(self, width, divide=1.0):
        self.embed = eqx.nn.Embedding(7, width, key=KEY)
        self.inside = eqx.nn.Linear(width, width, key=KEY)
        self.norm = eqx.nn.LayerNorm(width)
        self.divide = divide

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens)
        x = jax.vmap(self.norm)(x + jax.nn.relu(jax.vmap(self.inside)(x)))
        return x @ self.embed.weight.T / self.divide


def test_the_norm_before_a_tied_head_takes_over_its_factor():
    """It is training with outputs that are divided by the width."""
    rules = {"*": ("normal", {"stddev": 0.3}), "Norm": "default"}
    outputs = []
    for word, divide in (("tied", lambda width: 1.0), ("input", lambda width: width / BASE)):
        base, model = (Tied(width, divide=divide(width)) for width in (BASE, WIDE))
        width = ix.mup(base, model, {"embed": word}, inputs=TOKENS)
        assert (width["embed.weight"].std, width["embed.weight"].learning_rate) == (1, 1)
        outputs.append(train(model, width, rules, 4, optax.adam(1e-2, eps=1e-20)))
    np.testing.assert_allclose(*outputs, rtol=2e-3, atol=2e-4)


class Scaled(eqx.Module):
    """A forward pass that multiplies by the width itself, as the package mup does, or divides weights by their fan."""

    first: eqx.nn.Linear
    inside: jax.Array
    head: eqx.nn.Linear

    def __init__(self, width):
        self.first = eqx.nn.Linear(4, width, use_bias=False, key=KEY)
        self.inside = jnp.ones((width, width))
        self.head = eqx.nn.Linear(width, 3, use_bias=False, key=KEY)

    def __call__(self, x):
        width = len(self.inside)
        x = self.first(x) * width**0.5
        return self.head(jax.nn.relu(self.inside / width**0.5 @ x)) / width


def test_what_the_forward_pass_multiplies_by_is_made_up_for():
    width = ix.mup(Scaled(BASE), Scaled(WIDE), inputs=X[0])
    found = {each.parameter.path: (each.std, each.learning_rate) for each in width.rows}
    assert found["first.weight"] == pytest.approx((M**-0.5, M**-0.5))
    assert found["inside"] == pytest.approx((1, M**-0.5))
    assert found["head.weight"] == pytest.approx((1, 1))
    sgd = ix.mup(Scaled(BASE), Scaled(WIDE), optimizer="sgd", inputs=X[0])
    rates = [sgd[path].learning_rate for path in ("first.weight", "inside", "head.weight")]
    assert rates == pytest.approx([M / M, M, M])


class Scores(eqx.Module):
    """Queries, keys and a second kind of keys, with scores of one head whose size is the width."""

    query: eqx.nn.Linear
    key: eqx.nn.Linear
    position: eqx.nn.Linear
    scores: object = eqx.field(static=True)

    def __init__(self, width, scores):
        self.query, self.key, self.position = (eqx.nn.Linear(4, width, use_bias=False, key=KEY) for _ in range(3))
        self.scores = scores

    def __call__(self, x):
        q, k, p = (jax.vmap(layer)(x) for layer in (self.query, self.key, self.position))
        return jax.nn.softmax(self.scores(q, k, p, q.shape[-1]))


def row_by_row(q, k, p, d):
    return jax.lax.fori_loop(0, 5, lambda i, scores: scores.at[i].set((q[i] * k).sum(-1) / d), jnp.zeros((5, 5)))


def added_up(q, k, p, d):
    return jax.lax.while_loop(
        lambda state: state[0] < 3, lambda state: (state[0] + 1, state[1] + q @ k.T / d), (0, jnp.zeros((5, 5)))
    )[1]


def carried(q, k, p, d):
    return jax.lax.while_loop(lambda scores: scores[0, 0] < 1, lambda scores: scores * 2, q @ k.T / d)


SCORES = {
    "one product": (lambda q, k, p, d: q @ k.T / d, 1),
    "the number first": (lambda q, k, p, d: (1 / d) * (q @ k.T), 1),
    "products summed": (lambda q, k, p, d: (q[:, None] * k).sum(-1) / d, 1),
    "an array of one number": (lambda q, k, p, d: q @ k.T * jnp.full((5, 5), 1 / d), 1),
    "a row at a time": (lambda q, k, p, d: jax.lax.map(lambda row: k @ row, q) / d, 1),
    "written row by row": (row_by_row, 1),
    "added up in a loop": (added_up, 1),
    "carried through a loop": (carried, 1),
    "scaled in a branch": (lambda q, k, p, d: jax.lax.cond(True, lambda: q @ k.T / d, lambda: jnp.ones((5, 5))), 1),
    "scaled behind a branch": (lambda q, k, p, d: jax.lax.cond(True, lambda: q @ k.T, lambda: jnp.ones((5, 5))) / d, 1),
    "a branch of queries": (lambda q, k, p, d: jax.lax.cond(k[0, 0] > 0, lambda: q, lambda: 2 * q) @ k.T / d, 1),
    "two products, scaled together": (lambda q, k, p, d: (q @ k.T + q @ p.T) / d, 1),
    "two products, one by its root": (lambda q, k, p, d: q @ k.T / d + q @ p.T / d**0.5, M**-0.5),
}


@pytest.mark.parametrize("name", SCORES)
def test_what_scores_are_divided_by_is_seen_however_they_are_written(name):
    """Where they are divided by the size of a head, nothing takes over a factor."""
    scores, position = SCORES[name]
    base, model = (eqx.filter_eval_shape(Scores, width, scores) for width in (BASE, WIDE))
    width = ix.mup(base, model, inputs=jax.ShapeDtypeStruct((5, 4), jnp.float32))
    factors = {row.parameter.path: row.std for row in width.rows}
    assert factors == pytest.approx({"query.weight": 1, "key.weight": 1, "position.weight": position})


def used_elsewhere(q, k, p, d):
    return q @ k.T / d**0.5 + jnp.tanh(q).sum() + jnp.tanh(k).sum()


def test_a_rule_says_which_side_takes_over_what_neither_can_alone():
    width = ix.mup(*two(lambda width: Scores(width, used_elsewhere)), {"key": "query"}, inputs=X)
    assert [row.std for row in width.rows] == pytest.approx([1, M**-0.5, 1])


def test_products_of_blocks_that_the_base_does_not_have_are_those_of_a_block_that_it_has():
    def forward(model, x):
        x = x @ model["first"]
        for q, k, v in model["blocks"]:
            scores = (x @ q) @ (x @ k).T / len(q) ** 0.5
            x = x + jax.nn.softmax(scores) @ x @ v
        return x.mean()

    base, model = (
        {"first": (4, width), "blocks": [[(width, width)] * 3 for _ in range(layers)]}
        for width, layers in ((BASE, 1), (WIDE, 2))
    )
    width = ix.mup(base, model, inputs=X, forward=forward, depth=1.0)
    assert [width[f"blocks.1.{index}"].std for index in range(3)] == pytest.approx([1 / M, M**-0.5, M**-0.5 / 2])


# What the forward pass multiplies by behind other functions


def with_weights(forward):
    def pair(*widths):
        models = [{"w1": (4, width), "w2": (width, width), "w3": (width, 3)} for width in widths]
        return models, lambda model, x: forward(x, *(model[name] for name in ("w1", "w2", "w3")), len(model["w2"]))

    return pair


def with_scores(forward):
    def pair(*widths):
        models = [{"q": (4, width), "k": (4, width)} for width in widths]
        return models, lambda model, x: forward(x @ model["q"], x @ model["k"], model["q"].shape[1])

    return pair


def looped(checkpointed):
    def forward(x, w1, w2, w3, d):
        def step(h, _):
            return jax.nn.relu(h @ w2) / d**0.5, None

        step = jax.checkpoint(step) if checkpointed else step
        return jax.lax.scan(step, x @ w1, None, length=3)[0] @ w3

    return forward


def unit(h):
    return h / jnp.sqrt((h**2).sum(-1, keepdims=True))


def logits(x, w1, w2, w3):
    return jax.nn.relu(jax.nn.relu(x @ w1) @ w2) @ w3


def centred(x):
    return x - x.mean()


relu, softmax = jax.nn.relu, jax.nn.softmax

# The forward pass → standard deviations of w1, w2 and w3, or of q and k, for 4 times the width, by hand.
FOLLOWED = {
    "nothing": (with_weights(lambda x, w1, w2, w3, d: logits(x, w1, w2, w3)), (1, 1 / 2, 1 / 4)),
    "inside of relu": (with_weights(lambda x, w1, w2, w3, d: relu(relu(x @ w1) @ w2 / d**0.5) @ w3), (1, 1, 1 / 4)),
    "behind relu, twice": (
        with_weights(lambda x, w1, w2, w3, d: relu(relu(x @ w1) / d**0.5 @ w2) / d**0.5 @ w3),
        (1, 1, 1 / 2),
    ),
    "before the readout": (with_weights(lambda x, w1, w2, w3, d: relu(relu(x @ w1) @ w2) / d @ w3), (1, 1 / 2, 1)),
    "behind tanh": (with_weights(lambda x, w1, w2, w3, d: jnp.tanh(jnp.tanh(x @ w1) @ w2) / d @ w3), (1, 1 / 2, 1)),
    "behind a norm": (with_weights(lambda x, w1, w2, w3, d: jax.nn.standardize(x @ w1 @ w2) / d @ w3), (1, 1 / 2, 1)),
    "a norm's own mean": (
        with_weights(lambda x, w1, w2, w3, d: jax.nn.standardize(x @ w1 @ w2) @ w3), (1, 1 / 2, 1 / 4),
    ),
    "behind a mean": (with_weights(lambda x, w1, w2, w3, d: logits(x, w1, w2, w3).mean(0) / d), (1, 1 / 2, 1)),
    "behind relu at the end": (with_weights(lambda x, w1, w2, w3, d: relu(logits(x, w1, w2, w3)) / d), (1, 1 / 2, 1)),
    "behind a leaky relu at the end": (
        with_weights(lambda x, w1, w2, w3, d: jax.nn.leaky_relu(logits(x, w1, w2, w3)) / d), (1, 1 / 2, 1),
    ),
    "behind a difference": (with_weights(lambda x, w1, w2, w3, d: centred(logits(x, w1, w2, w3)) / d), (1, 1 / 2, 1)),
    "in a residual branch": (
        with_weights(lambda x, w1, w2, w3, d: (x @ w1 + relu(x @ w1 @ w2) / d) @ w3), (1, 2, 1 / 4),
    ),
    "in a loop": (with_weights(looped(False)), (1, 1, 1 / 4)),
    "in a loop that is computed again": (with_weights(looped(True)), (1, 1, 1 / 4)),
    "shares of units": (with_weights(lambda x, w1, w2, w3, d: softmax(x @ w1 @ w2) @ w3), (1, 1 / 2, 1)),
    "units of norm one": (with_weights(lambda x, w1, w2, w3, d: unit(x @ w1 @ w2) @ w3), (1, 1 / 2, 1 / 2)),
    "scores without their maximum": (with_scores(lambda q, k, d: softmax(centred_rows(q @ k.T) / d)), (1, 1)),
    "scores behind relu": (with_scores(lambda q, k, d: relu(q @ k.T) / d), (1, 1)),
    "scores behind abs": (with_scores(lambda q, k, d: abs(q @ k.T) / d), (1, 1)),
    "scores and an array of one number": (
        with_scores(lambda q, k, d: softmax(q @ k.T * np.full((5, 1), 1 / d, np.float32))), (1, 1),
    ),
    "weights of norm one": (
        with_weights(lambda x, w1, w2, w3, d: x @ w1 @ (w2 / jnp.sqrt((w2 * w2).sum(0))) @ w3), (1, 1 / 2, 1 / 4),
    ),
    "a Fourier transform of the units": (
        with_weights(lambda x, w1, w2, w3, d: jnp.fft.fft(x @ w1).real @ w2 @ w3), (1, 1 / 4, 1 / 4),
    ),
    "a mean of the weights beside": (
        with_weights(lambda x, w1, w2, w3, d: (x @ w1 @ w2 @ w3, (w2**2).mean())), (1, 1 / 2, 1 / 4),
    ),
    "a mean over the width": (with_scores(lambda q, k, d: ((q[:, None] - k) ** 2).mean(-1)), (1, 1)),
}  # fmt: skip

DIVIDES = (
    "the forward pass divides by {} where the base divides by {} (test_mup.py:LINE), and no factor makes up for it"
)
SUMS = "the forward pass sums over 4 times as many entries (test_mup.py:LINE), and no factor makes up for it"
# The forward pass → how the note begins.
NOTED = {
    "clipped scores": (with_scores(lambda q, k, d: jnp.clip(q @ k.T, -1, 1) / d), DIVIDES.format(32, 8)),
    "squared scores": (with_scores(lambda q, k, d: (q @ k.T) ** 2 / d**2), DIVIDES.format(1024, 64)),
    "totals of scores": (
        with_scores(lambda q, k, d: jax.scipy.special.logsumexp(q @ k.T, -1) / d), DIVIDES.format(32, 8),
    ),
    "distances": (with_scores(lambda q, k, d: ((q[:, None] - k) ** 2).sum(-1)), SUMS),
    "absolute distances": (with_scores(lambda q, k, d: abs(q[:, None] - k).sum(-1)), SUMS),
    "products in two steps": (
        with_scores(lambda q, k, d: (q.reshape(5, 1, -1, 2) * k.reshape(5, -1, 2)).sum(-1).sum(-1)), SUMS,
    ),
    "one signal twice": (with_scores(lambda q, k, d: jnp.einsum("td,sd->ts", q, q) + 0 * k.mean()), SUMS),
    "a sum over units": (with_scores(lambda q, k, d: q.sum(-1) + k.mean(-1)), SUMS),
    "a product with ones": (with_scores(lambda q, k, d: q @ np.ones(d, np.float32) + k.mean(-1)), SUMS),
    "a sum of squares": (with_scores(lambda q, k, d: (q**2).sum(-1) + k.mean(-1)), SUMS),
}  # fmt: skip


def centred_rows(scores):
    return scores - scores.max(-1, keepdims=True)


def without_lines(text):
    return re.sub(r"test_mup.py:\d+", "test_mup.py:LINE", text)


@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.slow(one_in=4)
def test_what_the_forward_pass_multiplies_by_is_followed_through_functions(name):
    pair, stds = FOLLOWED[name]
    models, forward = pair(BASE, WIDE)
    width = ix.mup(*models, inputs=X, forward=forward)
    assert [width[path].std for path in models[0]] == pytest.approx(stds)
    assert width.notes == ()


@pytest.mark.parametrize("name", NOTED)
@pytest.mark.slow(one_in=4)
def test_what_no_factor_makes_up_for_is_noted_with_its_line(name):
    pair, start = NOTED[name]
    models, forward = pair(BASE, WIDE)
    (note,) = ix.mup(*models, inputs=X, forward=forward).notes
    assert without_lines(note).startswith(start)


@pytest.mark.parametrize("name", [*FOLLOWED, *NOTED])
@pytest.mark.slow(one_in=7)
def test_a_step_changes_the_outputs_alike_at_every_width_or_a_note_says_so(name):
    """Measured: the first output after a step of signs, times the learning rates' factors, at 8 and 256."""
    pair = {**FOLLOWED, **NOTED}[name][0]
    changes, noted = [], False
    for size in (BASE, 256):
        (base, model), forward = pair(BASE, size)
        width = ix.mup(base, model, inputs=X, forward=forward)
        noted = bool(width.notes)
        rows = {path: width[path] for path in model}

        @jax.jit
        def change(params, forward=forward, rows=rows):
            def loss(params):
                outputs = jax.tree.leaves(forward(params, X))[0]
                return (outputs * jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)).sum(), outputs

            gradients, outputs = jax.grad(loss, has_aux=True)(params)
            steps = {path: 1e-3 * rows[path].learning_rate * jnp.sign(gradients[path]) for path in params}
            after = jax.tree.leaves(forward({path: params[path] - steps[path] for path in params}, X))[0]
            return jnp.abs(after - outputs).mean()

        draws = [
            {
                path: np.float32(random.normal(0, base[path][0] ** -0.5 * rows[path].std, shape))
                for path, shape in model.items()
            }
            for random in map(np.random.default_rng, range(8))
        ]
        changes.append(np.mean([change(params) for params in draws]))
    slope = np.log(changes[1] / changes[0]) / np.log(256 / BASE)
    assert (abs(slope) > 0.4) == noted, slope


def test_a_weight_that_meets_another_number_at_each_use_is_left_and_noted():
    def forward(model, x):
        h = jnp.tanh(x @ model["w1"])
        return h @ model["w3"] + h / model["w1"].shape[1] @ model["w3"]

    notes = ix.mup({"w1": (4, BASE), "w3": (BASE, 3)}, {"w1": (4, WIDE), "w3": (WIDE, 3)}, inputs=X, forward=forward)
    assert without_lines(notes.notes[0]).startswith(DIVIDES.format(32, 8))


def test_weights_of_one_sign_are_noted():
    def forward(model, x):
        return jnp.tanh(x @ model["w1"]) @ jnp.abs(model["w3"])

    models = [{"w1": (4, width), "w3": (width, 3)} for width in (BASE, WIDE)]
    (note,) = ix.mup(*models, {"w3": "output"}, inputs=X, forward=forward).notes
    assert without_lines(note) == (
        "weights that have one sign add up over 4 times as many inputs (test_mup.py:LINE), and factors are those of "
        "weights around zero; ix.coordinate_check measures what comes out"
    )


def test_a_trained_temperature_is_noted():
    def forward(model, x):
        return softmax((x @ model["q"]) @ (x @ model["k"]).T * model["t"])

    models = [{"q": (4, width), "k": (4, width), "t": (1,)} for width in (BASE, WIDE)]
    (note,) = ix.mup(*models, inputs=X, forward=forward).notes
    assert without_lines(note) == (
        "a product of two signals is multiplied by t (test_mup.py:LINE), and is divided by 4 all the same: "
        "where t holds d^-1/2 itself, write attention=False"
    )
    assert ix.mup(*models, inputs=X, forward=forward, attention=False).notes == ()


@pytest.mark.parametrize("seen", [jax.lax.stop_gradient, lambda t: 1 + t], ids=["frozen", "added to one"])
def test_an_array_that_is_not_drawn_takes_over_no_factor(seen):
    def forward(model, x):
        return softmax((x @ model["q"] * seen(model["t"])) @ (x @ model["k"]).T / model["t"].size ** 0.5)

    models = [{"q": (4, width), "k": (4, width), "t": (width,)} for width in (BASE, WIDE)]
    width = ix.mup(*models, {"t": "input"}, inputs=X, forward=forward)
    assert (width["t"].std, width["k"].std) == pytest.approx((1, M**-0.5))
    assert width.notes == ()


def test_a_scale_that_takes_over_a_factor_starts_from_what_it_holds():
    def make(width, value):
        model = NnxTransformer(width, normalize=True)
        model.attn.query_ln.scale[...] = jnp.full(model.attn.query_ln.scale.shape, value)
        return model

    base, model = make(BASE, 5.0), make(WIDE, 5.0)
    width = ix.mup(base, model, inputs=TOKENS[None])
    drawn = ix.plan(model, width.rules({"Linear": "lecun_normal"})).arrays(KEY)
    np.testing.assert_allclose(drawn["attn.query_ln.scale"], 5 * M**-0.5, rtol=1e-6)
    uneven = make(WIDE, np.arange(1.0, 1 + WIDE // 2, dtype=np.float32))
    with pytest.raises(ix.RuleError, match="holds several numbers") as caught:
        ix.mup(base, uneven, inputs=TOKENS[None]).rules({"Linear": "lecun_normal"})
    assert str(caught.value) == (
        "mup: attn.query_ln.scale holds several numbers, and takes over a factor of 0.5.\n"
        '  multiply them yourself, and say that it stays: {"attn.query_ln.scale": None}\n'
        '  or start from one number: {"attn.query_ln.scale": "ones"}'
    )
    for line in (None, "ones"):
        rules = {"Linear": "lecun_normal", "attn.query_ln.scale": line}
        ix.mup(base, uneven, inputs=TOKENS[None]).rules(rules)


# Muon


@pytest.mark.slow
def test_an_update_of_muon_changes_outputs_alike_at_every_width():
    """Its spectral norm over (outputs / inputs)^1/2 is the same, with all of optax's scales, from an update."""
    base = [eqx.nn.Linear(4, BASE, key=KEY), eqx.nn.Linear(BASE, BASE, key=KEY), eqx.nn.Linear(BASE, 3, key=KEY)]
    wide = [eqx.nn.Linear(4, WIDE, key=KEY), eqx.nn.Linear(WIDE, WIDE, key=KEY), eqx.nn.Linear(WIDE, 3, key=KEY)]
    # The oldest optax has one scale.
    newer = "consistent_rms" in inspect.signature(optax.contrib.muon).parameters
    for options in ({}, {"consistent_rms": 0.2}) if newer else ({},):
        found = {}
        for model in (base, wide):
            width = ix.mup(base, model, optimizer=("muon", options))
            steps = ix.muon(1.0, model, ns_steps=8, **options)
            parameters = eqx.filter(model, eqx.is_inexact_array)
            grads = jax.tree.map(lambda leaf: np.random.default_rng(0).normal(size=leaf.shape), parameters)
            plain, _ = jax.jit(steps.update)(grads, steps.init(parameters), parameters)
            for name, after in (("muP", width.scale_updates()), ("standard", optax.identity())):
                updates, _ = after.update(plain, after.init(parameters), parameters)
                norms = [
                    np.linalg.norm(each.weight, 2) * (each.weight.shape[1] / len(each.weight)) ** 0.5
                    for each in updates
                ]
                found.setdefault(name, []).append([*norms, np.abs(updates[1].bias).max()])
        np.testing.assert_allclose(*found["muP"], rtol=0.25)
        assert max(np.log2(np.divide(*found["standard"][::-1]))) > 0.9


def test_what_muon_leaves_to_adam_is_as_for_adam():
    base, model = eqx.nn.MLP(4, 3, BASE, 2, key=KEY), eqx.nn.MLP(4, 3, WIDE, 2, key=KEY)
    rows = ix.mup(base, model, optimizer="muon").rows
    assert [each.learning_rate for each in rows] == pytest.approx([1, 1, 1, 1, M**-0.5, 1])
    rows = ix.mup(base, model, optimizer=("muon", {"rules": {"layers.2": False}})).rows
    assert [each.learning_rate for each in rows] == pytest.approx([1, 1, 1, 1, 1 / M, 1])
    rows = ix.mup(base, model, optimizer=("muon", {"consistent_rms": 0.2})).rows
    assert [each.learning_rate for each in rows] == pytest.approx([1, 1, M**-0.5, 1, 1 / M, 1])


# Depth


class Branch(eqx.Module):
    norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width, key):
        self.norm = eqx.nn.LayerNorm(width)
        self.up, self.down = eqx.nn.Linear(width, 2 * width, key=key), eqx.nn.Linear(2 * width, width, key=key)

    def __call__(self, x):
        return x + self.down(jax.nn.relu(self.up(self.norm(x))))


class Deep(eqx.Module):
    """Residual branches, one by one or in one stack."""

    first: eqx.nn.Linear
    blocks: list[Branch] | Branch
    head: eqx.nn.Linear

    def __init__(self, width, layers, scanned):
        self.first, self.head = eqx.nn.Linear(4, width, key=KEY), eqx.nn.Linear(width, 2, key=KEY)
        stack = eqx.filter_vmap(lambda key: Branch(width, key))
        self.blocks = stack(jax.random.split(KEY, layers)) if scanned else [Branch(width, KEY) for _ in range(layers)]

    def __call__(self, x):
        x = self.first(x)
        if isinstance(self.blocks, list):
            for block in self.blocks:
                x = block(x)
        else:
            arrays, static = eqx.partition(self.blocks, eqx.is_array)
            x, _ = jax.lax.scan(lambda x, layer: (eqx.combine(layer, static)(x), None), x, arrays)
        return self.head(x)


@pytest.mark.parametrize("exponent", [1.0, 0.5])
@pytest.mark.parametrize("scanned", [False, True], ids=["one by one", "one stack"])
def test_branches_take_over_the_depth(scanned, exponent):
    """Table 1 of CompleteP: L^-alpha for what a branch adds, L^(alpha - 1) for the learning rates inside."""
    base, model = (eqx.filter_eval_shape(Deep, *sizes, scanned) for sizes in ((BASE, 2), (WIDE, 6)))
    width = ix.mup(base, model, depth=exponent, inputs=X[0])
    end, inside = 3**-exponent, 3 ** (exponent - 1)
    block = "blocks" if scanned else "blocks.5"
    differ = [note for note in width.notes if note.startswith("the forward passes of the base and of the model differ")]
    assert len(differ) == len(width.notes) == (0 if scanned else 1)
    found = {each.parameter.path: (each.std, each.learning_rate) for each in width.rows}
    assert found["first.weight"] == (1, 1)
    assert found["head.weight"] == pytest.approx(OUTPUT[:2])
    assert found[f"{block}.norm.weight"] == pytest.approx((1, inside))
    assert found[f"{block}.up.weight"] == pytest.approx((M**-0.5, inside / M))
    assert found[f"{block}.up.bias"] == pytest.approx((1, inside))
    assert found[f"{block}.down.weight"] == pytest.approx((M**-0.5 * end, inside * end / M))
    assert found[f"{block}.down.bias"] == pytest.approx((end, inside * end))
    before = {each.parameter.path: each.std for each in ix.plan(base, {"Linear": "he_normal"}).draws}
    after = {each.parameter.path: each for each in ix.plan(model, width.rules({"Linear": "he_normal"})).draws}
    down = after[f"{block}.down.weight"].std
    assert down == pytest.approx(before["blocks.down.weight" if scanned else "blocks.0.down.weight"] * M**-0.5 * end)


class BehindRelu(eqx.Module):
    """As TSMixer has it: ReLU, and here a scale, between the last weight of a branch and the sum."""

    blocks: list[eqx.nn.Linear]
    scales: list[eqx.nn.LayerNorm]

    def __init__(self, width, layers):
        self.blocks = [eqx.nn.Linear(width, width, key=KEY) for _ in range(layers)]
        self.scales = [eqx.nn.LayerNorm(width, use_bias=False) for _ in range(layers)]

    def __call__(self, x):
        for block, scale in zip(self.blocks, self.scales, strict=True):
            x = x + scale.weight * jax.nn.relu(block(x))
        return x


def test_relu_behind_a_branch_hands_on_the_factor_of_its_weight():
    """Once: a scale behind the weight has none, or a branch would be divided by the square of the depth."""
    base, model = (eqx.filter_eval_shape(BehindRelu, WIDE, layers) for layers in (2, 64))
    x = np.random.default_rng(0).normal(size=WIDE).astype(np.float32)
    width = ix.mup(base, model, depth=1.0, inputs=x)
    paths = ("blocks.63.weight", "blocks.63.bias", "scales.63.weight")
    assert [width[path].std for path in paths] == [1 / 32, 1 / 32, 1]
    sizes = {}
    for how, rules in {"as it is": {"Linear": "he_normal"}, "divided": width.rules({"Linear": "he_normal"})}.items():
        weights = jax.tree.leaves(ix.plan(model, {"Norm": {"scale": "ones"}, **rules}).draw(KEY).blocks)
        y = x
        for weight, bias in zip(weights[::2], weights[1::2], strict=True):
            y = y + np.maximum(np.asarray(weight) @ y + np.asarray(bias), 0)
        sizes[how] = np.mean(y**2) / np.mean(x**2)
    assert sizes["as it is"] > 1e10
    assert sizes["divided"] < 1e3
    assert deepened(by_relu)["w"].std == M**-0.5 / 2


# Scale


@pytest.mark.slow
def test_seventy_billion_parameters_take_seconds():
    class Block(eqx.Module):
        attn: eqx.nn.MultiheadAttention
        up: eqx.nn.Linear
        gate: eqx.nn.Linear
        down: eqx.nn.Linear

        def __init__(self, width, heads):
            self.attn = eqx.nn.MultiheadAttention(heads, width, key=KEY)
            self.up, self.gate = (eqx.nn.Linear(width, 7 * width // 2, use_bias=False, key=KEY) for _ in range(2))
            self.down = eqx.nn.Linear(7 * width // 2, width, use_bias=False, key=KEY)

        def __call__(self, x):
            x = x + self.attn(x, x, x)
            inside = jax.vmap(self.up)(x) * jax.nn.silu(jax.vmap(self.gate)(x))
            return x + jax.vmap(self.down)(inside)

    class Llama(eqx.Module):
        embed: eqx.nn.Embedding
        blocks: list[Block]
        head: eqx.nn.Linear

        def __init__(self, width):
            self.embed = eqx.nn.Embedding(32000, width, key=KEY)
            self.blocks = [Block(width, 64) for _ in range(80)]
            self.head = eqx.nn.Linear(width, 32000, use_bias=False, key=KEY)

        def __call__(self, tokens):
            x = jax.vmap(self.embed)(tokens)
            for block in self.blocks:
                x = block(x)
            return jax.vmap(self.head)(x)

    base, model = (eqx.filter_eval_shape(Llama, width) for width in (256, 8192))
    assert sum(leaf.size for leaf in jax.tree.leaves(model) if hasattr(leaf, "size")) > 65e9
    started = time.process_time()
    width = ix.mup(base, model, inputs=jax.ShapeDtypeStruct((16,), jnp.int32))
    rules = width.rules({"*": ("normal", {"stddev": 0.02})})
    assert time.process_time() - started < 60
    assert width["blocks.79.attn.query_proj.weight"].std == pytest.approx(32**-1.0)
    assert len(rules) < 12


# What no axes are known of


def with_positions(p, x):
    return jax.nn.relu(x @ p["a"] + p["positions"][: len(x)]) @ p["out"]


def with_positions_read_out(p, x):
    return jax.nn.relu(x @ p["a"] + p["positions"][: len(x)]) @ p["positions"].T


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_learned_positions_are_an_input(optimizer):
    """Table 8: what comes in along axes that do not grow keeps its deviation, as the bias of a layer does."""
    base, model = ({"a": (4, width), "positions": (9, width), "out": (width, 3)} for width in (BASE, WIDE))
    width = ix.mup(base, model, inputs=X, forward=with_positions, optimizer=optimizer)
    row = width["positions"]
    assert (row.use, row.std, row.learning_rate) == ("input", 1, M if optimizer == "sgd" else 1)


def test_positions_that_are_read_out_too_are_refused():
    base, model = ({"a": (4, width), "positions": (9, width)} for width in (BASE, WIDE))
    with pytest.raises(ix.ModelError, match="the axes of positions"):
        ix.mup(base, model, inputs=X, forward=with_positions_read_out)


def scaled_and_summed(p, x):
    return (jax.nn.relu(x @ p["a"]) * p["scale"]).sum(-1)


def test_each_line_of_a_refused_array_works_when_it_is_pasted():
    """A vector that is multiplied and summed over reads out: 1/m by table 8, with the word or with its axis."""
    base, model = ({"a": (4, width), "scale": (width,)} for width in (BASE, WIDE))
    with pytest.raises(ix.ModelError) as caught:
        ix.mup(base, model, inputs=X, forward=scaled_and_summed)
    text = str(caught.value)
    assert "inputs=" not in text
    lines = re.findall(r"rules=(\{.*?\})", text)
    rows = [ix.mup(base, model, eval(line), inputs=X, forward=scaled_and_summed)["scale"] for line in lines]
    assert [(row.use, row.std, row.learning_rate) for row in rows] == [("output", 1 / M, 1 / M), ("input", 1, 1)]
    with pytest.raises(ix.ModelError, match=r"inputs=\.\.\."):
        ix.mup(base, model)
    pair = [{"w": (width, 2, width)} for width in (BASE, WIDE)]
    with pytest.raises(ix.ModelError) as caught:
        ix.mup(*pair, inputs=X, forward=lambda p, x: jnp.sort(p["w"]).mean() * x.mean())
    lines = re.findall(r"rules=(\{.*?\})", str(caught.value))
    assert [ix.mup(*pair, eval(line))["w"].std for line in lines] == [M**-0.5, 1]


def test_the_reason_of_an_embedding_speaks_of_its_rows():
    """Its pattern calls what comes out inputs, as those of the head that it may be tied to."""
    base, model = (eqx.filter_eval_shape(Transformer, width) for width in (BASE, WIDE))
    row = ix.mup(base, model, inputs=TOKENS)["embed.weight"]
    assert (dict(row.grows), row.why) == ({"i": M}, "input: rows are looked up, and what comes out grows")


# What is refused


def two(make):
    return [eqx.filter_eval_shape(make, width) for width in (BASE, WIDE)]


class Packed(eqx.Module):
    qkv: eqx.nn.Linear

    def __init__(self, width):
        self.qkv = eqx.nn.Linear(4, 3 * width, key=KEY)

    def __call__(self, x):
        q, k, v = jnp.split(jax.vmap(self.qkv)(x), 3, axis=-1)
        return (jax.nn.softmax(q @ k.T / q.shape[-1] ** 0.5) @ v).mean()


def cosine(model, x):
    one, other = (x @ model[name] for name in ("w1", "w2"))
    one, other = (each / jnp.linalg.norm(each, axis=-1, keepdims=True) for each in (one, other))
    return one @ other.T


def stacked(step):
    """A stack of two residual branches and a wider one of four, with the forward pass."""
    models = [{"w": (layers, width, width), "out": (width,)} for layers, width in ((2, BASE), (4, WIDE))]
    inputs = jax.ShapeDtypeStruct((4,), jnp.float32)
    return (
        *models,
        {"w": "stack i o"},
        inputs,
        lambda model, x: step(model["w"], jnp.tile(x, model["out"].size // 4)) @ model["out"],
    )


def by_norms(w, x):
    return jax.lax.scan(lambda x, w: (x + jax.nn.standardize(jnp.tanh(x) @ w), None), x, w)[0]


def by_tanh(w, x):
    return jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, w)[0]


def by_relu(w, x):
    return jax.lax.scan(lambda x, w: (x + jax.nn.relu(x @ w), None), x, w)[0]


def as_often_as_needed(w, x):
    return jax.lax.while_loop(
        lambda state: state[1].sum() < 9,
        lambda state: (state[0] + 1, state[1] + jnp.tanh(state[1]) @ w[state[0]]),
        (0, x),
    )[1]


def deepened(step):
    base, model, rules, inputs, forward = stacked(step)
    return ix.mup(base, model, rules, inputs=inputs, forward=forward, depth=1.0)


ERRORS = {
    "a norm behind a branch": lambda: deepened(by_norms),
    "a function behind a branch": lambda: deepened(by_tanh),
    "branches of a loop that ends somewhere": lambda: deepened(as_often_as_needed),
    "scores whose sides go elsewhere": lambda: ix.mup(*two(lambda width: Scores(width, used_elsewhere)), inputs=X),
    "another number of axes": lambda: ix.mup({"w": (4, 8)}, {"w": (4, 16, 2)}),
    "another number of outputs": lambda: ix.mup(
        {"w": (4, 8)},
        {"w": (4, 32)},
        inputs=X,
        forward=lambda model, x: [(x @ model["w"]).mean()] * (model["w"].size // 32),
    ),
    "widths for models": lambda: ix.mup(BASE, WIDE),
    "one model": lambda: ix.mup(eqx.nn.MLP(4, 2, BASE, depth=1, key=KEY)),
    "another depth": lambda: ix.mup(eqx.nn.MLP(4, 2, BASE, depth=1, key=KEY), eqx.nn.MLP(4, 2, WIDE, depth=3, key=KEY)),
    "a stack of another depth": lambda: ix.mup({"w": (2, 8, 8)}, {"w": (4, 8, 8)}, {"w": "stack i o"}),
    "more rows to look up": lambda: ix.mup(
        *two(lambda width: [eqx.nn.Embedding(width, width, key=KEY), eqx.nn.Linear(width, 2, key=KEY)])
    ),
    "a table that is padded": lambda: ix.mup(
        *two(lambda width: [eqx.nn.Linear(4, width, key=KEY), eqx.nn.Linear(width, 1000 + width // 8, key=KEY)])
    ),
    "a window": lambda: ix.mup(*two(lambda width: eqx.nn.Conv1d(4, 2, width, key=KEY))),
    "unknown axes": lambda: ix.mup(
        {"w": (4, 8)}, {"w": (4, 32)}, inputs=X, forward=lambda model, x: (x @ jnp.sort(model["w"])).mean()
    ),
    "axes that do not fit": lambda: ix.mup({"w": (4, 8)}, {"w": (4, 32)}, {"w": "o i n"}),
    "outputs that grow": lambda: ix.mup(*two(lambda width: eqx.nn.Linear(4, width, key=KEY)), inputs=X[0]),
    "inputs that grow": lambda: ix.mup(
        ix.survey(eqx.nn.Linear(4, 2, key=KEY), inputs=jnp.ones(4)),
        ix.survey(eqx.nn.Linear(8, 2, key=KEY), inputs=jnp.ones(8)),
    ),
    "attention without inputs": lambda: ix.mup(*two(lambda width: eqx.nn.MultiheadAttention(2, width, key=KEY))),
    "a tied head without inputs": lambda: ix.mup(*two(Tied)),
    "a tied head": lambda: ix.mup(*two(Tied), inputs=TOKENS),
    "a table with two multipliers": lambda: ix.mup(
        {"w": (4, 8)},
        {"w": (4, 32)},
        {"w": "input"},
        inputs=X,
        forward=lambda model, x: ((x @ model["w"] * model["w"].shape[1] ** 0.5).mean(), (x @ model["w"]).mean()),
    ),
    "packed projections": lambda: ix.mup(*two(Packed), inputs=X),
    "sides behind a norm": lambda: ix.mup(
        {"w1": (4, 8), "w2": (4, 8)}, {"w1": (4, 32), "w2": (4, 32)}, inputs=X, forward=cosine
    ),
    "one module": lambda: ix.mup(
        *MODELS["Linen transformer"][0](BASE, WIDE)[0], module=LinenTransformer(BASE), inputs=TOKENS[None]
    ),
    "depth without inputs": lambda: ix.mup(plain(BASE), plain(WIDE), depth=1.0),
    "depth for plain gradients": lambda: ix.mup(plain(BASE), plain(WIDE), optimizer="sgd", depth=1.0),
    "a depth that is none": lambda: ix.mup(plain(BASE), plain(WIDE), depth=12),
    "no such optimizer": lambda: ix.mup(plain(BASE), plain(WIDE), optimizer="lamb"),
    "a word that is none": lambda: ix.mup(plain(BASE), plain(WIDE), {"out": "readout"}),
    "an embedding for Muon": lambda: ix.mup(
        *two(lambda width: [eqx.nn.Embedding(7, width, key=KEY), eqx.nn.Linear(width, 7, key=KEY)]),
        optimizer=("muon", {"rules": {"0": True}}),
    ),
    "weights that no rule draws": lambda: ix.mup(plain(BASE), plain(WIDE), {"out": "output"}).rules({"w1": "normal"}),
    "a deviation that is not known": lambda: ix.mup(*two(lambda width: eqx.nn.MLP(4, 2, width, 1, key=KEY))).rules(
        {"*": lambda key, shape, dtype: jnp.ones(shape, dtype)}
    ),
    "no such array": lambda: ix.mup(plain(BASE), plain(WIDE), {"out": "output"})["w3"],
}

TEXTS = {
    "a norm behind a branch": (
        "ModelError: mup: a norm stands between w and the stream that its branch is added to.\n"
        "  its scale does not matter there; depth= is for norms at the beginning of a branch"
    ),
    "a function behind a branch": (
        "ModelError: mup: what a branch adds to its stream is a multiple of no weight, which could take over the "
        "factor.\n"
        "  w: a function that is not linear (test_mup.py:LINE)\n"
        "  depth= is for branches that end in a weight, or in ReLU, a maximum or an absolute value behind one; for "
        "others no rule is published"
    ),
    "branches of a loop that ends somewhere": (
        "ModelError: mup: how many branches w is one of is not known: a loop adds them."
    ),
    "scores whose sides go elsewhere": (
        "ModelError: mup: a product of two signals is summed over 4 times as many entries.\n"
        "  what makes either side, and nothing else, can't be told (test_mup.py:LINE)\n"
        "  the sides come from query.weight and key.weight\n"
        '  say which array takes over the factor: rules={"query.weight": "query"}\n'
        "  or divide by the size of a head in the forward pass, not by its root, and write attention=False"
    ),
    "another number of axes": "ModelError: mup: w (4, 8) → (4, 16, 2) has another number of axes in the two models.",
    "another number of outputs": (
        "ModelError: mup: the forward passes of the base and the model take, or return, other things."
    ),
    "another depth": (
        "ModelError: mup: the base and the model do not have the same arrays.\n"
        "  only the model has: layers.2.weight, layers.2.bias, layers.3.weight, layers.3.bias\n"
        "  make both by one function, with the same options: ix.mup(make(64), make(256))\n"
        "  or, where one has more residual branches: depth=1.0"
    ),
    "a stack of another depth": (
        'ModelError: mup: w (2, 8, 8) → (4, 8, 8): axis "stack" holds layers of their own, 2 → 4, which is not a '
        "width.\n"
        "  a size that is not a width is the same in both models\n"
        '  or say what the array is: rules={"w": "hidden"}'
    ),
    "more rows to look up": (
        "ModelError: mup: 0.weight (8, 8) → (32, 32): there are 8 → 32 rows to look up, which is not a width.\n"
        "  a size that is not a width is the same in both models\n"
        '  or say what the array is: rules={"0.weight": "input"}'
    ),
    "a table that is padded": (
        'ModelError: mup: 1.weight (1001, 8) → (1004, 32): axis "o" grows by 1.003, others by 4.\n'
        "  a size that is not a width is the same in both models\n"
        '  or say what the array is: rules={"1.weight": "output"}'
    ),
    "a window": (
        "ModelError: mup: weight (2, 4, 8) → (2, 4, 32): its window grows, which is not a width.\n"
        "  a size that is not a width is the same in both models"
    ),
    "unknown axes": (
        "ModelError: mup: the axes of w (4, 8) → (4, 32) are not known.\n"
        "  undeclared: sort stands between it and the signal (test_mup.py:LINE)\n"
        '  where the forward pass sums over the axis that grows: rules={"w": "output"}\n'
        '  where it sums over no such axis, as for positions and biases: rules={"w": "input"}'
    ),
    "axes that do not fit": (
        'AxesError: mup: rule "w": w: pattern "o i n" has 3 axes, the array of shape (4, 8) has 2.'
    ),
    "outputs that grow": (
        "ModelError: mup: what the model returns grows with the width, float32[8] → float32[32].\n"
        "  a size that is not a width, classes or features of the data, is the same in both models\n"
        "  where features are returned, say what becomes of them: forward=lambda model, x: model(x).mean(axis=-1)"
    ),
    "inputs that grow": (
        "ModelError: mup: the input grows with the width, float32[4] → float32[8].\n"
        "  a size that is not a width, classes or features of the data, is the same in both models"
    ),
    "attention without inputs": (
        "ModelError: mup: whether heads grow is seen in the forward pass, and what the models are called on is not "
        "known.\n"
        "  attention: (model) (MultiheadAttention)\n"
        "  give inputs=x; or, where heads keep their size, attention=False"
    ),
    "a tied head without inputs": (
        "ModelError: mup: nothing reads the model out; is embed.weight (7, 8) → (7, 32) tied to a head?\n"
        "  give inputs=x, which shows what is read out\n"
        '  or, where nothing is, say so: rules={"embed.weight": "input"}'
    ),
    "a tied head": (
        "ModelError: mup: embed.weight (7, 8) → (7, 32) is looked up and read out.\n"
        "  an embedding keeps its standard deviation and learning rate, an output divides both by 4\n"
        '  let norm.weight, norm.bias take over the factor: rules={"embed.weight": "tied"}\n'
        '  or divide the outputs by 4 in the forward pass, and say so: rules={"embed.weight": "input"}\n'
        "  or untie them: a head of its own"
    ),
    "a table with two multipliers": (
        "ModelError: mup: the forward pass multiplies w by numbers that go with the width, and not by one alone.\n"
        "  in the base: 2.828, 1; in the model: 5.657, 1\n"
        "  let each use of it have one multiplier, at every width the same; or say that nothing is to be done: "
        'rules={"w": "fixed"}'
    ),
    "packed projections": (
        "ModelError: mup: a product of two signals is summed over 4 times as many entries.\n"
        "  what makes either side, and nothing else, can't be told (test_mup.py:LINE)\n"
        "  both sides come out of one array: qkv.weight, qkv.bias\n"
        "  store queries, keys and values apart, or let heads keep their size and their number grow\n"
        "  or divide by the size of a head in the forward pass, not by its root, and write attention=False"
    ),
    "sides behind a norm": (
        "ModelError: mup: a product of two signals is summed over 4 times as many entries.\n"
        "  what makes either side, and nothing else, can't be told (test_mup.py:LINE)\n"
        "  or divide by the size of a head in the forward pass, not by its root, and write attention=False"
    ),
    "one module": (
        "ModelError: mup: two models have two modules, and module= is an object of class LinenTransformer.\n"
        "  module=(narrow, wide): the Linen modules that the variables of the base and of the model belong to"
    ),
    "depth without inputs": ("ModelError: mup: residual branches are read off the forward pass.\n  give inputs=x"),
    "depth for plain gradients": (
        "RuleError: mup: depth= is for Adam and Muon; for plain gradients no rule is published."
    ),
    "a depth that is none": (
        "RuleError: mup: depth is an exponent from 0 to 1, not 12 (int).\n  CompleteP's is depth=1.0"
    ),
    "no such optimizer": (
        "RuleError: mup: optimizer must be one of adam, adamw, sgd, muon, not 'lamb' (str).\n"
        '  what is updated entry by entry as Adam does, e.g. Lion, is "adam"; plain gradients are "sgd"\n'
        '  Muon with options: ("muon", {"rules": {"head": False}, "consistent_rms": 0.2})'
    ),
    "a word that is none": (
        "RuleError: mup: rule \"out\": 'readout' (str) is not a word for a weight or axes.\n"
        '  write one of input, hidden, output, query, tied, fixed; or axes, "i o"'
    ),
    "an embedding for Muon": (
        "RuleError: mup: Muon gets the embedding 0.weight (7, 32), for which there is no rule of width.\n"
        '  give it to Adam: optimizer=("muon", {"rules": {"0.weight": False}})'
    ),
    "widths for models": (
        "ModelError: mup: neither the base nor the model holds an array.\n"
        "  both are models, abstract or not: ix.mup(make(64), make(256)), where make(width) returns one"
    ),
    "one model": (
        "ArgumentError: ix.mup: missing a required argument: 'model'.\n"
        "  write ix.mup(make(64), make(256)): a narrow and a wide model of one function"
    ),
    "weights that no rule draws": (
        "RuleError: mup: no rule draws 2 arrays whose standard deviation goes with the width.\n"
        "  w2 (8, 8) → (32, 32): std × 0.5\n"
        "  out (8,) → (32,): std × 0.25\n"
        '  draw them, {"*": "default"} first; or say that one stays: {"w2": None}'
    ),
    "a deviation that is not known": (
        'RuleError: mup: the standard deviation of <lambda> at "layers.0.weight" is not known.\n'
        "  it grows, (8, 4) → (32, 4), and needs a factor relative to the base\n"
        '  name a scheme: {"layers.0.weight": ("normal", {"stddev": 0.02})}'
    ),
    "no such array": ("ModelError: mup: the model has no array w3.\n  it has: w1, b1, w2, out"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_to_write(name):
    with pytest.raises(ix.InitaxError) as caught:
        ERRORS[name]()
    text = re.sub(r"test_mup.py:\d+", "test_mup.py:LINE", f"{type(caught.value).__name__}: {caught.value}")
    assert text == TEXTS[name]
