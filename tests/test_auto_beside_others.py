"""The scheme `auto` beside other rules: mean squares of the forward pass, measured over draws, in three frameworks."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initax as ix
from tests.tables import KEY
from tests.traced import S

WIDTH = 48
DRAWS = 40
BATCH = 24


class Equinox(eqx.Module):
    """Two layers of a residual network behind a first one, and a head."""

    dense: list
    head: eqx.nn.Linear

    def __init__(self, bias=True):
        self.dense = [eqx.nn.Linear(WIDTH, WIDTH, use_bias=bias, key=KEY) for _ in range(3)]
        self.head = eqx.nn.Linear(WIDTH, WIDTH, use_bias=bias, key=KEY)

    def __call__(self, x):
        one = jax.vmap(self.dense[0])(x)
        two = one + jax.vmap(self.dense[1])(jax.nn.relu(one))
        three = two + jax.vmap(self.dense[2])(jax.nn.relu(two))
        return jax.vmap(self.head)(three)


class Nnx(nnx.Module):
    def __init__(self, bias=True):
        rngs = nnx.Rngs(0)
        self.dense = nnx.List([nnx.Linear(WIDTH, WIDTH, use_bias=bias, rngs=rngs) for _ in range(3)])
        self.head = nnx.Linear(WIDTH, WIDTH, use_bias=bias, rngs=rngs)

    def __call__(self, x):
        one = self.dense[0](x)
        two = one + self.dense[1](jax.nn.relu(one))
        three = two + self.dense[2](jax.nn.relu(two))
        return self.head(three)


class Linen(nn.Module):
    bias: bool = True

    def setup(self):
        self.dense = [nn.Dense(WIDTH, use_bias=self.bias) for _ in range(3)]
        self.head = nn.Dense(WIDTH, use_bias=self.bias)

    def __call__(self, x):
        one = self.dense[0](x)
        two = one + self.dense[1](jax.nn.relu(one))
        three = two + self.dense[2](jax.nn.relu(two))
        return self.head(three)


FRAMEWORKS = ("equinox", "nnx", "linen")
WEIGHTS = {"equinox": "weight", "nnx": "kernel", "linen": "kernel"}


def made(framework, bias):
    """A model, the options of a plan, and how what is drawn is called."""
    x = S(BATCH, WIDTH)
    if framework == "linen":
        module = Linen(bias=bias)
        variables = module.init(KEY, jnp.zeros((1, WIDTH)))
        return variables, {"module": module, "inputs": x}, module.apply
    model = Equinox(bias) if framework == "equinox" else Nnx(bias)
    return model, {"inputs": x}, lambda model, x: model(x)


def names(framework):
    """Paths of the layers, first to last."""
    return (
        ("dense_0", "dense_1", "dense_2", "head") if framework == "linen" else ("dense.0", "dense.1", "dense.2", "head")
    )


def outputs(framework, rules, *, bias=True):
    """The plan, and the outputs for random inputs over draws."""
    model, options, call = made(framework, bias)
    layers = dict(zip(("first", "second", "third", "head"), names(framework), strict=True))
    plan = ix.plan(model, {layers.get(name, name): rule for name, rule in rules.items()}, **options)
    keys = jax.random.split(jax.random.key(2), DRAWS)
    x, call = jax.random.normal(jax.random.key(1), (DRAWS, BATCH, WIDTH)), eqx.filter_jit(call)
    return plan, np.array([call(plan.draw(key), each) for key, each in zip(keys, np.asarray(x), strict=True)])


def assert_length_one(found):
    """Mean squares over draws are one within four of their standard errors."""
    squares = np.mean(found**2, axis=tuple(range(1, found.ndim)))
    error = np.std(squares) / np.sqrt(len(squares))
    assert error < 0.1
    assert abs(np.mean(squares) - 1) < 4 * error + 0.02, (np.mean(squares), error)


class GatedEquinox(eqx.Module):
    """A packed gate, and a layer that is called twice."""

    into: eqx.nn.Linear
    again: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self):
        self.into = eqx.nn.Linear(WIDTH, 2 * WIDTH, key=KEY)
        self.again, self.out = (eqx.nn.Linear(WIDTH, WIDTH, key=KEY) for _ in range(2))

    def __call__(self, x):
        return gated(*(jax.vmap(layer) for layer in (self.into, self.again, self.out)), x)


class GatedNnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.into = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.again, self.out = (nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2))

    def __call__(self, x):
        return gated(self.into, self.again, self.out, x)


class GatedLinen(nn.Module):
    def setup(self):
        self.into = nn.Dense(2 * WIDTH)
        self.again, self.out = nn.Dense(WIDTH), nn.Dense(WIDTH)

    def __call__(self, x):
        return gated(self.into, self.again, self.out, x)


def gated(into, again, out, x):
    gate, value = jnp.split(into(x), 2, axis=-1)
    h = jax.nn.silu(gate) * value
    return out(again(h) + jax.nn.relu(again(h)))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_behind_a_packed_gate_and_a_layer_called_twice_the_output_has_length_one(framework):
    """A gate is independent of the other half: `E silu(z)^2` reaches the next; a layer and its relu: 1 + 1 / 2 + 1."""
    x = S(BATCH, WIDTH)
    if framework == "linen":
        module = GatedLinen()
        model: Any = module.init(KEY, jnp.zeros((1, WIDTH)))
        options: dict[str, Any] = {"module": module, "inputs": x}
    else:
        model, options = (GatedEquinox() if framework == "equinox" else GatedNnx()), {"inputs": x}
    plan = ix.plan(model, {"*": "auto"}, **options)
    found = {
        layer: draw.parameter.input_second_moment
        for draw in plan.draws
        for layer in ("into", "again", "out")
        if layer in draw.parameter.path and draw.parameter.role == "weight"
    }
    assert found == pytest.approx({"into": 1.0, "again": ix.gain("silu") ** -2, "out": 2.5}, rel=1e-4)
    assert not any("can't tell" in note for note in plan.notes)


OTHERS: dict[str, dict[str, Any]] = {
    "a normal that is too wide": {"first": ("normal", {"stddev": 2 / WIDTH**0.5})},
    "one inside": {"second": ("normal", {"stddev": 0.5})},
    "zeros at the end of a branch": {"second": "zeros", "third": "zeros"},
    "the framework's own": {"first": "default", "second": "default"},
    "one of JAX's": {"second": jax.nn.initializers.variance_scaling(9.0, "fan_in", "uniform")},
    "orthogonal": {"first": ("orthogonal", {"gain": 3.0}), "third": ("orthogonal", {"gain": 0.5})},
    "uniform from zero": {"head": "auto", "first": ("uniform", {"scale": 0.3})},
    "a constant bias": {"first": ("auto", ("constant", {"value": 2.0}))},
    "a random bias": {"second": ("he_normal", ("normal", {"stddev": 3.0}))},
    "a scaled one": {"third": ("scaled", {"scheme": "he_normal", "factor": 4.0})},
    "a scaled auto": {"second": ("scaled", {"scheme": "auto", "factor": 4.0})},
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.slow(one_in=7)
def test_the_output_has_length_one_whatever_other_rules_draw(name, framework):
    plan, found = outputs(framework, {"*": "auto", **OTHERS[name]})
    assert_length_one(found)
    assert not any("auto assumes" in note for note in plan.notes)


def test_what_another_rule_draws_reaches_the_next_weight():
    model = [eqx.nn.Linear(32, 32, key=KEY) for _ in range(2)]
    rules = {"*": "auto", "0": ("normal", {"stddev": 2 / 32**0.5})}
    plan = ix.plan(model, rules, inputs=S(32), forward=lambda model, x: model[1](model[0](x)))
    found = {each.parameter.path: each for each in plan.draws}
    assert found["1.weight"].parameter.input_second_moment == pytest.approx(4)
    assert found["1.weight"].std == pytest.approx(1 / 128**0.5)


def test_the_order_of_the_rules_and_the_size_of_a_share_do_not_matter():
    share = {"*": ("auto", {"bias_share": 0.3}), "second": ("normal", {"stddev": 0.5})}
    assert_length_one(outputs("equinox", share)[1])


def test_what_is_kept_is_assumed_and_named():
    plan, _ = outputs("nnx", {"head": "auto"})
    assert plan.notes == (
        "auto assumes what it does not know of 6 arrays on the way to what it scales: dense.0.kernel, dense.0.bias, "
        "dense.1.kernel, dense.1.bias, dense.2.kernel, dense.2.bias\n"
        "  weights give length one, biases are zero and scales are one; a plan sees no values",
    )


def test_what_is_kept_behind_all_that_auto_draws_is_not_named():
    plan, _ = outputs("nnx", {"first": "auto"})
    assert plan.notes == ()


def test_values_of_what_is_kept_are_not_looked_at():
    model = Equinox()
    wide = eqx.tree_at(lambda each: each.dense[0].weight, model, 100 * model.dense[0].weight)
    plans = [ix.plan(each, {"head": "auto"}, inputs=S(BATCH, WIDTH)) for each in (model, wide)]
    assert plans[0] == plans[1]


class TiedNnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(200, WIDTH, rngs=rngs)
        self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, tokens, way):
        return self.embed.attend(through(way, self.embed(tokens), self.dense))


class TiedLinen(nn.Module):
    way: str

    def setup(self):
        self.embed = nn.Embed(200, WIDTH)
        self.dense = nn.Dense(WIDTH)

    def __call__(self, tokens):
        return self.embed.attend(through(self.way, self.embed(tokens), self.dense))


class TiedEquinox(eqx.Module):
    shared: eqx.nn.Shared
    dense: eqx.nn.Linear

    def __init__(self):
        pair = (eqx.nn.Embedding(200, WIDTH, key=KEY), eqx.nn.Linear(WIDTH, 200, use_bias=False, key=KEY))
        self.shared = eqx.nn.Shared(pair, lambda pair: pair[1].weight, lambda pair: pair[0].weight)
        self.dense = eqx.nn.Linear(WIDTH, WIDTH, key=KEY)

    def __call__(self, tokens, way):
        embed, head = self.shared()
        return jax.vmap(head)(through(way, jax.vmap(embed)(tokens), jax.vmap(self.dense)))


def through(way, x, dense):
    return {"dense": dense, "a residual sum": lambda x: x + dense(x), "relu": lambda x: dense(jax.nn.relu(x))}[way](x)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("way", ["dense", "a residual sum", "relu"])
@pytest.mark.slow(one_in=4)
def test_a_table_that_is_looked_up_and_read_out_gives_logits_of_length_one(way, framework):
    tokens = jnp.arange(0, 200, 8)
    if framework == "linen":
        module = TiedLinen(way=way)
        model: Any = module.init(KEY, tokens)
        options, call = {"module": module, "inputs": tokens}, module.apply
    else:
        model = TiedNnx() if framework == "nnx" else TiedEquinox()

        def call(model, tokens):
            return model(tokens, way)

        options = {"inputs": tokens, "forward": call}
    plan = ix.plan(model, {"*": "auto"}, **options)
    found = np.array([call(plan.draw(key), tokens) for key in jax.random.split(jax.random.key(2), DRAWS)])
    others = np.arange(200)[None] != np.array(tokens)[:, None]  # the logit of the token itself is no sum by chance
    assert_length_one(found[:, others])
    assert not any("can't tell" in note for note in plan.notes)


def test_a_table_that_is_looked_up_alone_has_length_one():
    model = {"embed": eqx.nn.Embedding(300, WIDTH, key=KEY), "dense": eqx.nn.Linear(WIDTH, 5, key=KEY)}
    plan = ix.plan(
        model, {"*": "auto"}, inputs=jnp.arange(3), forward=lambda p, t: jax.vmap(p["dense"])(jax.vmap(p["embed"])(t))
    )
    found = {each.parameter.path: each for each in plan.draws}
    assert found["embed.weight"].std == 1
    assert found["dense.weight"].parameter.input_second_moment == pytest.approx(1)


def test_a_table_of_another_rule_has_the_length_that_this_gives_it():
    model = {"embed": eqx.nn.Embedding(300, WIDTH, key=KEY), "dense": eqx.nn.Linear(WIDTH, 5, key=KEY)}
    plan = ix.plan(
        model,
        {"*": "auto", "embed": ("normal", {"stddev": 0.02})},
        inputs=jnp.arange(3),
        forward=lambda p, t: jax.vmap(p["dense"])(jax.vmap(p["embed"])(t)),
    )
    found = {each.parameter.path: each.parameter.input_second_moment for each in plan.draws}
    assert found["dense.weight"] == pytest.approx(0.0004)


class Positions(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(200, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(8, WIDTH, rngs=rngs)
        self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, tokens):
        return self.dense(self.embed(tokens) + self.positions.embedding[: tokens.shape[0]])


def test_learned_positions_that_are_added_are_a_signal():
    plan = ix.plan(Positions(), {"*": "auto", "positions": ("normal", {"stddev": 0.5})}, inputs=jnp.arange(5))
    found = {each.parameter.path: each.parameter.input_second_moment for each in plan.draws}
    assert found["dense.kernel"] == pytest.approx(1.25)


def test_a_loop_that_changes_the_length_is_followed_step_by_step():
    """Weights of a known law: after seven steps of variance two the length is 2**7, after seventy it is unknown."""
    for steps, reach in ((7, 2.0**7), (70, None)):

        def forward(p, x):
            x, _ = jax.lax.scan(lambda x, w: (x @ w, None), x, p["steps"])
            return x @ p["last"]

        rules = {"last": "auto", "steps": ("variance_scaling", {"scale": 2.0})}
        params = {"steps": S(steps, 6, 6), "last": S(6, 6)}
        if reach is None:
            with pytest.warns(ix.InitaxWarning, match="auto can't tell what reaches 1 weight and uses gain 1: last"):
                plan = ix.plan(params, rules, inputs=S(8, 6), forward=forward)
        else:
            plan = ix.plan(params, rules, inputs=S(8, 6), forward=forward)
        found = {each.parameter.path: each.parameter.input_second_moment for each in plan.draws}
        assert found["last"] == (None if reach is None else pytest.approx(reach, rel=1e-5))


def test_what_the_steps_of_a_loop_give_has_the_length_of_all_of_them():
    """Outputs of variance two, four, …, 2**7, and of a state of zeros none."""

    def forward(p, x):
        _, each = jax.lax.scan(lambda x, w: (x @ w, x @ w), x, p["steps"])
        _, before = jax.lax.scan(lambda state, w: (x @ w, state), jnp.zeros((8, 6)), p["steps"])
        return each @ p["last"], before @ p["behind"]

    rules = {"last": "auto", "behind": "auto", "steps": ("variance_scaling", {"scale": 2.0})}
    params = {"steps": S(7, 6, 6), "last": S(6, 6), "behind": S(6, 6)}
    plan = ix.plan(params, rules, inputs=S(8, 6), forward=forward)
    found = {each.parameter.path: each.parameter.input_second_moment for each in plan.draws}
    assert found["last"] == pytest.approx(np.mean(2.0 ** np.arange(1, 8)))
    assert found["behind"] == pytest.approx(2 * 6 / 7)


LAWS = {
    "normal": ("normal", {"stddev": 0.3}),
    "uniform": ("uniform", {"scale": 0.4}),
    "truncated": ("truncated_normal", {"stddev": 0.5, "lower": -1.0, "upper": 3.0}),
    "constant": ("constant", {"value": 0.7}),
    "he_uniform": "he_uniform",
    "orthogonal": "orthogonal",
    "sparse": ("sparse", {"sparsity": 0.5, "stddev": 0.3}),
    "hoedt": "hoedt",
    "scaled": ("scaled", {"scheme": ("uniform", {"scale": 0.4}), "factor": -2.0}),
    "jax normal": jax.nn.initializers.normal(0.2),
    "jax uniform": jax.nn.initializers.uniform(0.2),
    "jax constant": jax.nn.initializers.constant(0.2),
    "jax ones": jax.nn.initializers.ones,
    "jax he": jax.nn.initializers.he_uniform(in_axis=-1, out_axis=-2),
    "jax orthogonal": jax.nn.initializers.orthogonal(2.0),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.slow(one_in=5)
def test_the_law_that_auto_is_told_is_the_law_of_what_is_drawn(name):
    plan = ix.plan(eqx.nn.Linear(60, 40, key=KEY), {"*": LAWS[name]})
    draw = next(each for each in plan.draws if each.parameter.role == "weight")
    mean, square = draw.recipe.moments
    found = np.array([plan.arrays(key)["weight"] for key in jax.random.split(KEY, 30)], np.float64)
    error = np.std(found) / np.sqrt(found.size) + 1e-6
    assert abs(np.mean(found) - mean) < 4 * error
    error = np.std(found**2) / np.sqrt(found.size) + 1e-6
    assert abs(np.mean(found**2) - square) < 4 * error


@pytest.mark.parametrize("scheme", ["identity", lambda key, shape, dtype: jnp.ones(shape, dtype)])
def test_of_what_has_no_known_law_nothing_is_said(scheme):
    plan = ix.plan(eqx.nn.Linear(6, 6, key=KEY), {"*": scheme})
    assert plan.draws[0].recipe.moments is None
