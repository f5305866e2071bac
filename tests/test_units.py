"""Units reset one by one: drawn as the whole layer would be, cut off where they are taken in, and nowhere else."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import initax as ix

KEY = jax.random.key(0)


@pytest.fixture
def optax_promotes():
    """Optax multiplies numbers of different types, which the tests forbid elsewhere."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def arrays(seed=0, **shapes):
    numbers = np.random.default_rng(seed)
    return {name: jnp.asarray(numbers.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def norm(x, axis=-1):
    return (x - x.mean(axis, keepdims=True)) / jnp.sqrt(x.var(axis, keepdims=True) + 1e-3)


def convolved(x, w, groups=1, padding="SAME"):
    return jax.lax.conv_general_dilated(x, w, (1, 1), padding, feature_group_count=groups)


def pooled(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def plain(p, x):
    return jnp.tanh(x @ p["a"] + p["bias"][None]) @ p["b"]


def gelu_and_dropout(p, x):
    keep = jax.random.bernoulli(jax.random.key(3), 0.5, (6,))
    return jnp.where(keep, jax.nn.gelu(p["a"] @ x), 0.0) @ p["b"]


def flattened(p, x):
    return pooled(jax.nn.relu(convolved(x, p["a"]))).reshape(len(x), -1) @ p["b"]


def averaged(p, x):
    return jax.nn.silu(convolved(x, p["a"])).mean((2, 3)) @ p["b"]


def depthwise(p, x):
    return convolved(jax.nn.relu(convolved(x, p["a"])), p["b"], groups=4)


def grouped(p, x):
    return convolved(jnp.tanh(convolved(x, p["a"])), p["b"], groups=2)


def from_groups(p, x):
    return convolved(jnp.tanh(convolved(x, p["a"], groups=2)), p["b"])


def upward(p, x):
    return jax.lax.conv_transpose(
        jax.nn.relu(convolved(x, p["a"])), p["b"], (2, 2), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
    )


def stacked_outputs(p, x):
    hidden = jnp.tanh(x @ p["a"])
    return jnp.einsum("nhs,hso->no", jnp.stack([hidden, jnp.zeros_like(hidden)], -1), p["b"])


def joined(p, x):
    y = jax.nn.relu(p["a"] @ x)
    return jnp.concatenate([x, jnp.concatenate([jnp.sin(x), y])]) @ p["b"]


def inside_a_branch(p, x):
    return x + jax.nn.relu(x @ p["a"]) @ p["b"]


def gated(p, x):
    return (jax.nn.silu(x @ p["a"]) * (x @ p["g"])) @ p["b"]


def split(p, x):
    one, other = jnp.split(x @ p["a"], 2, axis=-1)
    return (one * jax.nn.sigmoid(other)) @ p["b"]


def in_heads(p, x):
    y = jnp.tanh(x @ p["a"]).reshape(len(x), 2, 3)
    return jnp.einsum("nhd,hdo->no", y, p["b"])


def a_slice_of_one(p, x):
    y = jnp.tanh(x @ p["a"])
    return y @ p["b"][:6] + x @ p["b"][6:]


def values(p, x):
    mix = jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).T)
    return (mix @ (x @ p["a"])) @ p["b"]


def excited(p, x):
    y = jax.nn.relu(convolved(x, p["a"]))
    scale = jax.nn.sigmoid(y.mean((2, 3)) @ p["c"])
    return convolved(y * scale[:, :, None, None], p["b"])


def over_time(p, x):
    def step(h, y):
        h = jnp.tanh(p["b"].T @ y + p["h"] @ h)
        return h, h

    return jax.lax.scan(step, jnp.zeros(3), jax.lax.map(lambda row: jax.nn.relu(p["a"] @ row), x))[1]


def read_twice(p, x):
    hidden = jnp.tanh(x @ p["a"])
    return hidden @ p["b"] + jnp.sin(hidden) @ p["b"]


def chosen(p, x):
    y = jax.nn.relu(p["a"] @ x)
    return jax.lax.cond(x[0] > 0, lambda y: jnp.sin(y) @ p["b"], lambda y: y @ p["b"], y)


def ensemble(p, x):
    return jax.vmap(lambda a, b: jnp.tanh(x @ a) @ b)(p["a"], p["b"])


def rotary(p, x):
    y = jax.nn.relu(x @ p["a"])
    low, high = jnp.split(y, 2, axis=-1)
    return jnp.concatenate([low * jnp.cos(1.0), high * jnp.sin(1.0)], -1) @ p["b"]


def wrapped(p, x):
    @jax.checkpoint
    def inner(x):
        return jax.nn.softplus(x @ p["a"])

    return jax.jit(lambda y: y @ p["b"])(inner(x).astype(jnp.float32).T.T)


def stacked(p, x):
    def step(h, pair):
        return h + jnp.tanh(h @ pair[0]) @ pair[1], None

    return jax.lax.scan(step, x, (p["a"], p["b"]))[0]


def stacked_twice(p, x):
    def outer(h, pair):
        return jax.lax.scan(lambda h, pair: (h + jnp.tanh(h @ pair[0]) @ pair[1], None), h, pair)[0], None

    return jax.lax.scan(outer, x, (p["a"], p["b"]))[0]


def stacked_and_collected(p, x):
    hidden = jax.lax.scan(lambda _, a: (None, jnp.tanh(x @ a)), None, p["a"])[1]
    return jnp.einsum("snh,sho->no", hidden, p["b"])


def one_by_one(p, x):
    for at in range(3):
        x = x + jnp.tanh(x @ p["a"][at]) @ p["b"][at]
    return x


def every_layer_reads(p, x):
    hidden = jnp.tanh(x @ p["a"])
    return jax.lax.scan(lambda h, b: (jnp.tanh(h) + hidden @ b, None), x, p["b"])[0]


def shuffled(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"][ORDER]


def flipped(p, x):
    return jnp.tanh(x @ jnp.flip(p["a"], 1)) @ p["b"]


def beside_an_input(p, x):
    return jnp.concatenate([jnp.tanh(x @ p["a"]), x], 1) @ jnp.concatenate([p["b"], p["c"]])


def cut_unevenly(p, x):
    h = jnp.tanh(x @ p["a"])
    return jnp.concatenate([h[:, 4:], h[:, :4]], 1) @ p["b"]


ROWS = np.arange(6) % 3 == 0
ORDER = np.array([3, 0, 5, 1, 2, 4])
DEEP = np.stack([ROWS, np.arange(6) == 5, np.zeros(6, bool)])
FOUR = np.array([True, False, False, True])
MATRIX = {"a": (5, 6), "b": (6, 3)}
IMAGE = (2, 3, 4, 4)

FOLLOWED = {
    # forward: arrays, input, mask of the units, entries of `b` that are cut off
    plain: ({**MATRIX, "bias": (6,)}, (7, 5), ROWS, np.s_[ROWS, :]),
    gelu_and_dropout: ({"a": (6, 5), "b": (6, 3)}, (5,), ROWS, np.s_[ROWS, :]),
    flattened: ({"a": (4, 3, 3, 3), "b": (16, 3)}, IMAGE, FOUR, np.s_[np.repeat(FOUR, 4), :]),
    averaged: ({"a": (4, 3, 3, 3), "b": (4, 3)}, IMAGE, FOUR, np.s_[FOUR, :]),
    depthwise: ({"a": (4, 3, 3, 3), "b": (8, 1, 3, 3)}, IMAGE, FOUR, np.s_[np.repeat(FOUR, 2), :]),
    grouped: (
        {"a": (4, 3, 3, 3), "b": (6, 2, 1, 1)},
        IMAGE,
        FOUR,
        np.repeat(np.array([[1, 0], [0, 1]], bool), 3, 0)[:, :, None, None],
    ),
    from_groups: ({"a": (4, 2, 3, 3), "b": (5, 4, 3, 3)}, (2, 4, 4, 4), FOUR, np.s_[:, FOUR]),
    upward: ({"a": (4, 3, 3, 3), "b": (2, 4, 3, 3)}, IMAGE, FOUR, np.s_[:, FOUR]),
    stacked_outputs: ({"a": (5, 6), "b": (6, 2, 3)}, (7, 5), ROWS, np.s_[ROWS, :, :]),
    joined: ({"a": (6, 5), "b": (16, 3)}, (5,), ROWS, np.s_[np.r_[np.zeros(10, bool), ROWS], :]),
    inside_a_branch: ({"a": (5, 6), "b": (6, 5)}, (7, 5), ROWS, np.s_[ROWS, :]),
    gated: ({**MATRIX, "g": (5, 6)}, (7, 5), ROWS, np.s_[ROWS, :]),
    split: ({"a": (5, 12), "b": (6, 3)}, (7, 5), np.r_[ROWS, np.arange(6) == 1], np.s_[[0, 1, 3], :]),
    in_heads: ({"a": (5, 6), "b": (2, 3, 4)}, (7, 5), ROWS, ROWS.reshape(2, 3, 1)),
    a_slice_of_one: ({"a": (6, 6), "b": (12, 3)}, (7, 6), ROWS, np.s_[np.r_[ROWS, np.zeros(6, bool)], :]),
    values: ({**MATRIX, "q": (5, 4), "k": (5, 4)}, (7, 5), ROWS, np.s_[ROWS, :]),
    excited: ({"a": (4, 3, 3, 3), "b": (2, 4, 1, 1), "c": (4, 4)}, IMAGE, FOUR, np.s_[:, FOUR]),
    over_time: ({"a": (6, 5), "b": (6, 3), "h": (3, 3)}, (7, 5), ROWS, np.s_[ROWS, :]),
    read_twice: (MATRIX, (7, 5), ROWS, np.s_[ROWS, :]),
    chosen: ({"a": (6, 5), "b": (6, 3)}, (5,), ROWS, np.s_[ROWS, :]),
    ensemble: (
        {"a": (2, 5, 6), "b": (2, 6, 3)},
        (7, 5),
        np.stack([ROWS, np.arange(6) == 5]),
        np.stack([ROWS, np.arange(6) == 5])[..., None],
    ),
    stacked: ({"a": (3, 5, 6), "b": (3, 6, 5)}, (7, 5), DEEP, DEEP[..., None]),
    stacked_twice: (
        {"a": (3, 2, 5, 6), "b": (3, 2, 6, 5)},
        (7, 5),
        np.stack([DEEP, DEEP[::-1]], 1),
        np.stack([DEEP, DEEP[::-1]], 1)[..., None],
    ),
    stacked_and_collected: ({"a": (3, 5, 6), "b": (3, 6, 2)}, (7, 5), DEEP, DEEP[..., None]),
    one_by_one: ({"a": (3, 5, 6), "b": (3, 6, 5)}, (7, 5), DEEP, DEEP[..., None]),
    every_layer_reads: ({"a": (5, 6), "b": (3, 6, 5)}, (7, 5), ROWS, np.s_[:, ROWS]),
    rotary: (MATRIX, (7, 5), ROWS, np.s_[ROWS, :]),
    shuffled: (MATRIX, (7, 5), ROWS, np.s_[ORDER[ROWS], :]),
    flipped: (MATRIX, (7, 5), ROWS, np.s_[ROWS[::-1], :]),
    beside_an_input: ({**MATRIX, "c": (5, 3)}, (7, 5), ROWS, np.s_[ROWS, :]),
    cut_unevenly: (MATRIX, (7, 5), ROWS, np.s_[np.r_[ROWS[4:], ROWS[:4]], :]),
    wrapped: (MATRIX, (7, 5), ROWS, np.s_[ROWS, :]),
}


def net(params):
    """Each array a layer of its own, but a bias with its weight."""
    return {name: {"w": array} for name, array in params.items() if name != "bias"} | (
        {"a": {"w": params["a"], "bias": params["bias"]}} if "bias" in params else {}
    )


def called(forward):
    def call(model, x):
        params = {name: layer["w"] for name, layer in model.items()}
        return forward(params | ({"bias": model["a"]["bias"]} if "bias" in model["a"] else {}), x)

    return call


@pytest.mark.parametrize("forward", FOLLOWED, ids=lambda forward: forward.__name__)
@pytest.mark.slow(one_in=7)
def test_units_are_drawn_and_cut_off(forward):
    shapes, size, mask, entries = FOLLOWED[forward]
    params, x, call = arrays(**shapes), arrays(9, x=size)["x"], called(forward)
    model, run = net(params), jax.jit(call)
    one, other = (
        ix.reset_units(model, "a", mask, jax.random.key(seed), inputs=x, forward=call, scheme="he_normal")
        for seed in (1, 2)
    )
    # What is drawn does not reach the output, and would without the cut.
    np.testing.assert_array_equal(run(one, x), run(other, x))
    uncut = {**one, "b": model["b"]}
    assert np.abs(np.asarray(run(uncut, x)) - np.asarray(run({**other, "b": model["b"]}, x))).max() > 1e-3
    # What is cut off is what takes the units in.
    expected = np.zeros(params["b"].shape, bool)
    if isinstance(entries, np.ndarray):
        expected[:] = entries
    else:
        expected[entries] = True
    cut = np.asarray(one["b"]["w"])
    np.testing.assert_array_equal(cut == 0, expected)
    np.testing.assert_array_equal(cut[~expected], np.asarray(params["b"])[~expected])
    # What is drawn is what the layer as a whole would be.
    whole = ix.reinit(model, {"a": "he_normal"}, jax.random.key(1), inputs=x, forward=call)
    drawn, redrawn = np.asarray(one["a"]["w"]), np.asarray(whole["a"]["w"])
    changed = drawn != np.asarray(params["a"])
    np.testing.assert_array_equal(drawn[changed], redrawn[changed])
    assert changed.sum() == params["a"].size * mask.sum() // mask.size
    for name in set(model) - {"a", "b", "c"}:
        assert one[name]["w"] is params[name]


def test_a_norm_between_still_sees_them():
    params, x = arrays(**MATRIX), jax.random.normal(KEY, (7, 5))

    def call(p, x):
        return norm(jnp.tanh(x @ p["a"])) @ p["b"]

    one = ix.reset_units(net(params), "a", ROWS, KEY, inputs=x, forward=called(call), scheme="he_normal")
    np.testing.assert_array_equal((np.asarray(one["b"]["w"]) == 0).all(1), ROWS)


def skipped(p, x):
    return (x + x @ p["a"]) @ p["b"]


def asked(p, x):
    return jax.nn.softmax((x @ p["a"]) @ (x @ p["k"]).T) @ x @ p["b"]


def twice(p, x):
    return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["a"]) @ p["b"]


def shared(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"] + x @ p["b"]


def looped(p, x):
    return jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h) * 0.5, x @ p["a"]) @ p["b"]


def summed(p, x):
    return jnp.tanh(x @ p["a"]).sum(-1, keepdims=True) * x @ p["b"]


def picked(p, x):
    return jax.lax.fori_loop(0, 4, lambda at, h: h + jnp.tanh(h @ p["a"][at]) @ p["b"][at], x)


def one_for_all(p, x):
    return jax.lax.scan(lambda h, a: (h + jnp.tanh(h @ a) @ p["b"], None), x, p["a"])[0]


def per_head(p, x):
    return jnp.tanh(x @ p["a"]).reshape(-1, 2, 3) @ p["b"]


def two_halves(p, x):
    hidden = jnp.tanh(x @ p["a"])
    return hidden[:, :3] @ p["b"] + jnp.sin(hidden[:, 3:]) @ p["b"]


def low_rank(p, x):
    return jnp.tanh(x @ p["a"]) @ (p["b"] + p["u"] @ p["v"])


def sorted_units(p, x):
    return jnp.sort(x @ p["a"]) @ p["b"]


def with_a_token(p, x):
    return jnp.concatenate([x[:1] @ p["k"], jnp.tanh(x @ p["a"])]) @ p["b"]


REFUSED = {
    skipped: ({"a": (5, 5), "b": (5, 3)}, "they are added to another signal"),
    asked: ({"a": (5, 6), "k": (5, 6), "b": (5, 3)}, "they are contracted with something that is no weight"),
    twice: ({"a": (5, 5), "b": (5, 3)}, "it takes in its own outputs"),
    shared: ({"a": (5, 5), "b": (5, 3)}, "a weight that takes them in takes in another signal too"),
    looped: ({"a": (5, 6), "b": (6, 3)}, "they go round a loop"),
    summed: ({"a": (5, 6), "b": (5, 3)}, "they are summed"),
    picked: ({"a": (4, 5, 6), "b": (4, 6, 5)}, "a loop or a look-up takes parts of the weight one by one"),
    one_for_all: ({"a": (4, 5, 6), "b": (6, 5)}, "the same entries of a weight take in several of them"),
    per_head: ({"a": (5, 6), "b": (3, 2)}, "the same entries of a weight take in several of them"),
    two_halves: ({"a": (5, 6), "b": (3, 2)}, "the same entries of a weight take in several of them"),
    low_rank: (
        {"a": (5, 6), "b": (6, 3), "u": (6, 1), "v": (1, 3)},
        "they meet a weight that is made of others, or looked up",
    ),
    sorted_units: ({"a": (5, 6), "b": (6, 3)}, "sort makes one thing of several of them"),
    with_a_token: ({"a": (5, 6), "k": (5, 6), "b": (6, 3)}, "they are joined with another signal along another axis"),
}


@pytest.mark.parametrize("forward", REFUSED, ids=lambda forward: forward.__name__)
def test_what_cant_be_cut_off_alone_is_refused(forward):
    shapes, reason = REFUSED[forward]
    params = arrays(**shapes)
    mask = np.zeros(params["a"].shape[:-2] + params["a"].shape[-1:], bool)
    with pytest.raises(ix.ModelError) as caught:
        ix.reset_units(net(params), "a", mask, KEY, inputs=jnp.ones((7, 5)), forward=called(forward))
    lines = str(caught.value).splitlines()
    head = f"which weights take in the units of a.w can't be told, or can't be cut off from them alone: {reason}"
    assert lines[0].startswith(head)
    assert lines[0] == f"{head}." or "(test_units.py:" in lines[0]
    assert lines[1:] == ["  draw the layer as a whole with ix.reinit, or the units of a layer inside the branch"]


def test_units_that_the_forward_pass_does_not_use_are_refused():
    model = [eqx.nn.Linear(5, 6, key=KEY), eqx.nn.Linear(5, 3, key=KEY)]
    with pytest.raises(ix.ModelError, match=r"from them alone: the forward pass does not use it\.\n"):
        ix.reset_units(model, "0", np.zeros(6, bool), KEY, inputs=jnp.ones(5), forward=lambda model, x: model[1](x))


# Models of the frameworks.


class Cnn(eqx.Module):
    first: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    second: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(1, 8, 3, key=keys[0])
        self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")
        self.second = eqx.nn.Conv2d(8, 4, 3, key=keys[1])
        self.head = eqx.nn.Linear(16, 3, key=keys[2])

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        return self.head(jax.nn.relu(self.second(jax.nn.relu(x))).ravel()), state


def test_equinox():
    model, state = eqx.nn.make_with_state(Cnn)(KEY)
    images = jax.random.normal(KEY, (5, 1, 6, 6))

    def call(model, images):
        return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(images, state)[0]

    channels = np.arange(8) < 3
    one = ix.reset_units(model, "first", channels, KEY, inputs=images, forward=call)
    whole = ix.reinit(model, {"first": "default"}, KEY)
    np.testing.assert_array_equal(one.first.weight[:3], whole.first.weight[:3])
    np.testing.assert_array_equal(one.first.bias[:3], whole.first.bias[:3])
    np.testing.assert_array_equal(one.first.weight[3:], model.first.weight[3:])
    assert not one.second.weight[:, :3].any()
    assert one.second.weight[:, 3:].all()
    assert one.head.weight is model.head.weight
    assert one.norm.weight is model.norm.weight
    two = ix.reset_units(model, "second", np.array([True, False, False, True]), KEY, inputs=images, forward=call)
    zero = np.repeat([True, False, False, True], 4)
    np.testing.assert_array_equal((np.asarray(two.head.weight) == 0).all(0), zero)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.second(self.drop(nnx.relu(self.first(x))))


def test_nnx_and_its_optimizer(optax_promotes):
    net = NnxNet(nnx.Rngs(0))
    adam = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)
    x = jax.random.normal(KEY, (5, 4))
    adam.update(net, nnx.grad(lambda net: (net(x) ** 2).sum())(net))
    before = net.second.kernel[...]
    one, after = ix.reset_units(net, "first", ROWS, nnx.Rngs(1), inputs=x, opt_state=adam)
    assert net.second.kernel[...] is before
    np.testing.assert_array_equal((np.asarray(one.second.kernel[...]) == 0).all(1), ROWS)
    assert isinstance(after, nnx.Optimizer)
    mu, old = after.opt_state[0].mu, adam.opt_state[0].mu
    np.testing.assert_array_equal(
        np.asarray(mu["first"]["kernel"][...]), np.where(ROWS, 0, old["first"]["kernel"][...])
    )
    np.testing.assert_array_equal(
        np.asarray(mu["second"]["kernel"][...]), np.where(ROWS[:, None], 0, old["second"]["kernel"][...])
    )
    assert mu["second"]["bias"].get_value() is old["second"]["bias"].get_value()


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        return nn.Dense(2)(nn.avg_pool(x, (2, 2), (2, 2)).reshape((len(x), -1)))


def test_linen_and_its_train_state(optax_promotes):
    module, x = Linen(), jax.random.normal(KEY, (3, 4, 4, 1))
    variables = module.init(KEY, x)
    state = TrainState.create(apply_fn=module.apply, params=variables["params"], tx=optax.adam(1e-3))
    state = state.apply_gradients(grads=jax.tree.map(jnp.ones_like, variables["params"]))
    new, after = ix.reset_units(variables, "Conv_0", ROWS, KEY, inputs=x, module=module, opt_state=state)
    kernel = new["params"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal((np.asarray(kernel) == 0).all(1), np.tile(ROWS, 4))
    mu = after.opt_state[0].mu
    np.testing.assert_array_equal((np.asarray(mu["Conv_0"]["kernel"]) == 0).all((0, 1, 2)), ROWS)
    np.testing.assert_array_equal((np.asarray(mu["Dense_0"]["kernel"]) == 0).all(1), np.tile(ROWS, 4))


OPTIMIZERS = {
    "adam": optax.adam(1e-3),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "lion": optax.lion(1e-3),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(1e-3, 0.0, 10))),
    "labels": optax.multi_transform(
        {"w": optax.adam(1e-3), "b": optax.sgd(0.1, momentum=0.9)},
        lambda params: jax.tree.map(lambda each: "w" if each.ndim > 1 else "b", params),
    ),
}


def mlp():
    return eqx.nn.MLP(4, 3, 6, depth=2, key=KEY)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_forgets_those_entries_and_no_others(name, optax_promotes):
    model, optimizer = mlp(), OPTIMIZERS[name]
    params = eqx.filter(model, eqx.is_array)
    _, state = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    _, after = ix.reset_units(model, "layers.0", ROWS, KEY, inputs=jnp.ones(4), opt_state=state)
    forgotten = {
        ".layers[0].weight": np.broadcast_to(ROWS[:, None], (6, 4)),
        ".layers[0].bias": ROWS,
        ".layers[1].weight": np.broadcast_to(ROWS, (6, 6)),
    }
    seen = 0
    before = jax.tree_util.tree_leaves_with_path(state)
    for (path, old), new in zip(before, jax.tree.leaves(after), strict=True):
        owner = next((each for each in forgotten if jax.tree_util.keystr(path).endswith(each)), None)
        if owner is None:
            assert new is old
            continue
        seen += 1
        np.testing.assert_array_equal(new, np.where(forgotten[owner], 0, old))
    assert seen >= 3


def test_moments_that_are_not_of_each_entry_are_refused():
    model = eqx.nn.MLP(200, 3, 150, depth=1, key=KEY)
    state = optax.adafactor(1e-3).init(eqx.filter(model, eqx.is_array))
    with pytest.raises(ix.PlanError) as caught:
        ix.reset_units(model, "layers.0", np.arange(150) < 3, KEY, inputs=jnp.ones(200), opt_state=state)
    assert str(caught.value) == (
        '"0.v_row.layers.0.weight" (150,) does not remember each entry of its parameter (150, 200) alone.\n'
        "  reset the whole layer: ix.reset_optimizer(opt_state, plan)"
    )


def test_moments_that_may_start_anywhere_are_refused(optax_promotes):
    model = mlp()
    state = optax.rmsprop(1e-3).init(eqx.filter(model, eqx.is_array))
    with pytest.raises(ix.PlanError) as caught:
        ix.reset_units(model, "layers.0", ROWS, KEY, inputs=jnp.ones(4), opt_state=state)
    assert str(caught.value) == (
        "what belongs to what is drawn is not known to start at zero.\n"
        "  in the state: 0.nu.layers.0.weight, 0.nu.layers.0.bias, 0.nu.layers.1.weight\n"
        "  write ix.reset_optimizer(opt_state, plan, fresh=optimizer.init(new_params))"
    )


def test_inside_a_jitted_step_with_a_traced_mask():
    model, x = mlp(), jax.random.normal(KEY, (4,))
    optimizer = optax.adam(1e-3)
    state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, state, mask, key):
        return ix.reset_units(model, "layers.1", mask, key, inputs=x, scheme="he_normal", opt_state=state)

    inside = step(model, state, jnp.asarray(ROWS), KEY)
    outside = ix.reset_units(model, "layers.1", ROWS, KEY, inputs=x, scheme="he_normal", opt_state=state)
    jax.tree.map(np.testing.assert_array_equal, eqx.filter(inside, eqx.is_array), eqx.filter(outside, eqx.is_array))


def test_no_unit_is_reset_where_the_mask_is_false():
    model = mlp()
    same = ix.reset_units(model, "layers.0", np.zeros(6, bool), KEY, inputs=jnp.ones(4))
    assert eqx.tree_equal(model, same)


def test_units_the_model_returns_are_drawn_and_nothing_is_cut():
    model = mlp()
    new = ix.reset_units(model, "layers.2", np.array([True, False, False]), KEY, inputs=jnp.ones(4))
    assert (np.asarray(new.layers[2].weight) != np.asarray(model.layers[2].weight)).any(1).tolist() == [
        True,
        False,
        False,
    ]
    assert new.layers[1].weight is model.layers[1].weight


def refusal(error, *args, **kwargs):
    with pytest.raises(error) as caught:
        ix.reset_units(*args, **kwargs)
    return str(caught.value)


def test_a_frozen_weight_is_never_changed():
    first, second = (eqx.nn.Linear(4, 4, key=key) for key in jax.random.split(KEY))
    frozen = eqx.tree_at(lambda layer: layer.weight, second, replace_fn=paramax.NonTrainable)

    def call(model, x):
        return paramax.unwrap(model[1])(jnp.tanh(model[0](x)))

    args = ([first, frozen], "0", np.zeros(4, bool), KEY)
    assert refusal(ix.ModelError, *args, inputs=jnp.ones(4), forward=call) == (
        "1.weight.tree takes in units of 0.weight and is never changed.\n  frozen by NonTrainable"
    )


def test_errors():
    model, x, mask = mlp(), jnp.ones(4), np.zeros(6, bool)
    assert refusal(ix.ModelError, model, "layers.0", mask, KEY) == (
        "reset_units traces the forward pass to see which weights take the units in, and inputs= is missing.\n"
        "  give what the model is called on: inputs=x, arrays or jax.ShapeDtypeStruct((8, 3), jnp.float32)"
    )
    assert refusal(ix.RuleError, model, "layer.0", mask, KEY, inputs=x) == (
        'the model has no layer "layer.0".\n'
        "  layers: layers.0, layers.1, layers.2\n"
        '  did you mean "layers.0" or "layers.2" or "layers.1"?'
    )
    assert refusal(ix.RuleError, model, 0, mask, KEY, inputs=x) == (
        "a layer's path is a string, not 0.\n  layers: layers.0, layers.1, layers.2"
    )
    assert refusal(ix.RuleError, model, model.layers[1], mask, KEY, inputs=x) == (
        'a layer\'s path is a string, not a Linear.\n  write "layers.1"'
    )
    assert refusal(ix.RuleError, model, ix.layers(model)[2], mask, KEY, inputs=x) == (
        'a layer\'s path is a string, not a Layer.\n  write "layers.2"'
    )
    assert refusal(ix.RuleError, model, model, mask, KEY, inputs=x) == (
        'a layer\'s path is a string, not a MLP.\n  it holds 3 layers; name one: "layers.0", "layers.1", "layers.2"'
    )
    assert refusal(ix.RuleError, model, mlp(), mask, KEY, inputs=x) == (
        "a layer's path is a string, not a MLP.\n  layers: layers.0, layers.1, layers.2"
    )
    assert refusal(ix.RuleError, model, "layers", mask, KEY, inputs=x) == (
        '"layers" owns no units itself.\n  it holds 3 layers; name one: "layers.0", "layers.1", "layers.2"'
    )
    assert refusal(ix.RuleError, model, "layers.0.bias", mask, KEY, inputs=x) == (
        '"layers.0.bias" is an array of a layer.\n  name the layer: "layers.0"'
    )
    for indices in (np.array([0, 2]), [0, 2], jnp.arange(2), np.arange(6)):
        found = np.asarray(indices)
        assert refusal(ix.RuleError, model, "layers.0", indices, KEY, inputs=x) == (
            f'the mask is {found.dtype}[{found.size}], the units of "layers.0" are bool[6].\n'
            + (
                "  if these are indices, write jnp.zeros(6, bool).at[indices].set(True)"
                if found.size < 6
                else "  true means that a unit is reset: mask = score <= 0.025"
            )
        )
    assert refusal(ix.RuleError, model, "layers.0", mask[:4], KEY, inputs=x) == (
        'the mask is bool[4], the units of "layers.0" are bool[6].\n'
        '  one entry for each output of layers.0.weight (6, 4), "o i"'
    )
    assert refusal(ix.RuleError, model, "layers.0", np.ones(6), KEY, inputs=x) == (
        'the mask is float64[6], the units of "layers.0" are bool[6].\n'
        "  true means that a unit is reset: mask = score <= 0.025"
    )
    assert refusal(ix.KeyTypeError, model, "layers.0", mask, 0, inputs=x).startswith("key must be a JAX random key")
    cell = eqx.nn.GRUCell(4, 2, key=KEY)
    assert refusal(ix.ModelError, cell, "", mask, KEY, inputs=(x, jnp.ones(2))) == (
        '"(model)" (RNNCell) has no units that can be reset alone: one weight and its bias make units.\n'
        "  it has weight_ih (weight), weight_hh (recurrent), bias (bias), bias_n (bias)\n"
        '  draw the whole layer: ix.reinit(model, {"*": "default"}, key)'
    )
    state = optax.adam(1e-3).init({"other": jnp.ones(3)})
    assert refusal(ix.PlanError, model, "layers.0", mask, KEY, inputs=x, opt_state=state).startswith(
        "no array of the optimizer's state belongs to what is drawn."
    )
