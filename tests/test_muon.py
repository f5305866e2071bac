"""Muon: which axes of each weight make a matrix, and one step of each matrix by itself in every framework's layout."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from optax.contrib import MuonDimensionNumbers

import initax as ix
from initax._math._axes import resolve
from tests.tables import KEY, filled

pytestmark = pytest.mark.usefixtures("optax_promotes")


# Which axes


class Gated(nn.Module):
    """A gated feed-forward layer, as Llama, Gemma, Qwen and DeepSeek have it."""

    width: int = 6

    @nn.compact
    def __call__(self, x):
        inside = nn.silu(nn.Dense(self.width, use_bias=False, name="wi_0")(x))
        return nn.Dense(x.shape[-1], use_bias=False, name="wo")(
            inside * nn.Dense(self.width, use_bias=False, name="wi_1")(x)
        )


def heads(name):
    return nn.DenseGeneral((2, 4), use_bias=False, name=name)


class Attention(nn.Module):
    """Attention with norms of queries and keys, or with the low-rank keys and values of DeepSeek."""

    latent: bool = False

    @nn.compact
    def __call__(self, x):
        if self.latent:
            low = nn.RMSNorm(name="kv_norm")(nn.Dense(3, use_bias=False, name="wkv_a")(x))
            query = heads("wq_b")(nn.RMSNorm(name="q_norm")(nn.Dense(3, use_bias=False, name="wq_a")(x)))
            key = value = heads("wkv_b")(low)
        else:
            query, key, value = (heads(name)(x) for name in ("query", "key", "value"))
            query, key = nn.RMSNorm(name="query_norm")(query), nn.RMSNorm(name="key_norm")(key)
        mixed = nn.dot_product_attention(query, key, value)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), use_bias=False, name="out")(mixed)


class Experts(nn.Module):
    """Experts whose kernels are plain parameters, with a gate that has a bias."""

    @nn.compact
    def __call__(self, x):
        gate = nn.softmax(nn.Dense(3, name="gate")(x))
        wi = self.param("wi_0", nn.initializers.lecun_normal(), (3, x.shape[-1], 6))
        wo = self.param("wo", nn.initializers.lecun_normal(), (3, 6, x.shape[-1]))
        inside = jax.nn.silu(jnp.einsum("bte,xef->btxf", x, wi))
        return jnp.einsum("btx,btxe->bte", gate, jnp.einsum("btxf,xfe->btxe", inside, wo))


class Block(nn.Module):
    latent: bool = False
    experts: bool = False

    @nn.compact
    def __call__(self, x, _):
        x = x + Attention(self.latent, name="self_attention")(nn.RMSNorm(name="pre_self_attention_norm")(x))
        inside = nn.RMSNorm(name="post_self_attention_norm")(x)
        if self.experts:
            return x + Experts(name="moe")(inside) + Gated(name="shared_experts")(inside), None
        return x + Gated(name="mlp")(inside), None


class Decoder(nn.Module):
    """A decoder whose layers are stacked along their second axis, as MaxText stores them, or stand one by one."""

    latent: bool = False
    experts: bool = False
    scanned: bool = True

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 8, name="token_embedder")(tokens)
        if self.scanned:
            every = nn.scan(Block, variable_axes={"params": 1}, split_rngs={"params": True}, length=5)
            x, _ = every(self.latent, self.experts, name="layers")(x, None)
        else:
            for layer in range(2):
                x, _ = Block(self.latent, self.experts, name=f"layers_{layer}")(x, None)
        x = nn.RMSNorm(name="decoder_norm")(x)
        return nn.Dense(11, use_bias=False, name="logits_dense")(x)


# What MaxText expects of the kernels in its Llama, Gemma, Qwen and DeepSeek: axes that are summed over, and outputs.
EXPECTED = {
    "wi_0": ((0,), (-1,)),
    "wi_1": ((0,), (-1,)),
    "wo": ((0,), (-1,)),
    "query": ((0,), (-2, -1)),
    "key": ((0,), (-2, -1)),
    "value": ((0,), (-2, -1)),
    "out": ((0, -2), (-1,)),
    "wkv_a": ((0,), (-1,)),
    "wkv_b": ((0,), (-2, -1)),
    "wq_a": ((0,), (-1,)),
    "wq_b": ((0,), (-2, -1)),
    "gate": ((0,), (-1,)),
}
OF_EXPERTS = {"wi_0": ((-2,), (-1,)), "wo": ((-2,), (-1,))}
DECODERS = {
    "attention, scanned": Decoder(),
    "attention, one by one": Decoder(scanned=False),
    "latent attention, scanned": Decoder(latent=True),
    "experts, scanned": Decoder(latent=True, experts=True),
    "experts, one by one": Decoder(experts=True, scanned=False),
}
TOKENS = jax.ShapeDtypeStruct((2, 7), jnp.int32)


def from_the_front(dimensions, rank):
    return tuple(tuple(sorted(axis % rank for axis in axes)) for axes in dimensions)


@pytest.mark.parametrize("name", DECODERS)
def test_the_axes_are_those_that_maxtext_expects(name):
    """Embeddings, norms, biases and the head go to Adam; a stack's axis and that of experts are nobody's."""
    decoder = DECODERS[name]
    variables = jax.eval_shape(decoder.init, jax.random.key(0), TOKENS)
    found = ix.muon_dimensions(variables, {"logits_dense": False}, module=decoder, inputs=TOKENS)
    flat = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
    own = jax.tree.leaves(found(variables)["params"], is_leaf=lambda each: each is None or not isinstance(each, dict))
    assert len(flat) == len(own)
    matrices = 0
    for (path, leaf), value in zip(flat, own, strict=True):
        names = [each.key for each in path]
        kernel = names[-2] if names[-1] == "kernel" else names[-1]
        table = OF_EXPERTS if "moe" in names and names[-1] != "kernel" else EXPECTED
        if kernel not in table:
            assert value is None, names
            continue
        matrices += 1
        assert isinstance(value, MuonDimensionNumbers)
        rank = len(leaf.shape)
        assert from_the_front(value, rank) == from_the_front(table[kernel], rank), names
    assert matrices >= 7


class Tower(eqx.Module):
    table: eqx.nn.Embedding
    stack: eqx.nn.Linear
    mixer: eqx.nn.Conv1d
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear
    one: eqx.nn.Linear

    def __init__(self):
        self.table = eqx.nn.Embedding(11, 8, key=KEY)
        self.stack = eqx.filter_vmap(lambda key: eqx.nn.Linear(8, 6, key=key))(jax.random.split(KEY, 3))
        self.mixer = eqx.nn.Conv1d(8, 8, 4, groups=8, key=KEY)
        self.norm = eqx.nn.LayerNorm(8)
        self.head = eqx.nn.Linear(6, 11, key=KEY)
        self.one = eqx.nn.Linear(6, 1, key=KEY)


def test_what_is_no_matrix_goes_to_adam_and_the_table_says_why():
    found = ix.muon_dimensions(Tower(), {"head": False})
    values = {each.parameter.path: (each.value, each.why) for each in found.rows if each.parameter.role != "bias"}
    assert values == {
        "table.weight": (None, "embedding"),
        "stack.weight": (MuonDimensionNumbers((2,), (1,)), ""),
        "mixer.weight": (None, "depthwise"),
        "norm.weight": (None, "scale"),
        "head.weight": (None, 'rule "head"'),
        "one.weight": (None, "a vector"),
    }
    assert found.tree.stack.weight == MuonDimensionNumbers((2,), (1,))
    assert found.tree.stack.bias is None


def test_rules_make_matrices_of_heads_and_of_embeddings():
    model = nnx.MultiHeadAttention(2, 8, rngs=nnx.Rngs(0))
    found = ix.muon_dimensions(model, {"query": "i head o", "out": "head i o"})
    assert found["query.kernel"] == MuonDimensionNumbers((0,), (2,))
    assert found["out.kernel"] == MuonDimensionNumbers((1,), (2,))
    assert found["value.kernel"] == MuonDimensionNumbers((0,), (1, 2))
    assert ix.muon_dimensions(Tower(), {"Embedding": True})["table.weight"] == MuonDimensionNumbers((1,), (0,))


def test_rules_of_muon_come_from_a_file(tmp_path):
    path = tmp_path / "muon.toml"
    path.write_text('head = false\n"stack" = {weight = "stack o i"}\n')
    assert ix.muon_dimensions(Tower(), path)["head.weight"] is None


def llama():
    """The parameters of Llama 3 70B by names of Flax, abstract."""

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.bfloat16)

    block = {
        "attn": {
            "query": {"kernel": shape(8192, 64, 128)},
            "key": {"kernel": shape(8192, 8, 128)},
            "value": {"kernel": shape(8192, 8, 128)},
            "out": {"kernel": shape(64, 128, 8192)},
        },
        "gate": {"kernel": shape(8192, 28672)},
        "up": {"kernel": shape(8192, 28672)},
        "down": {"kernel": shape(28672, 8192)},
        "norm_1": {"scale": shape(8192)},
        "norm_2": {"scale": shape(8192)},
    }
    ends = {"embed": {"embedding": shape(128256, 8192)}, "head": {"kernel": shape(8192, 128256)}}
    return {**ends, **{f"layers_{layer}": block for layer in range(80)}}


def test_an_abstract_model_of_seventy_billion_takes_seconds():
    model = llama()
    assert sum(leaf.size for leaf in jax.tree.leaves(model)) > 70e9
    before = time.perf_counter()
    rules = {"head": False, "**.attn.*.kernel": "i o1 o2", "**.out.kernel": "i1 i2 o"}
    found = ix.muon_dimensions(model, rules)
    optimizer = ix.muon(0.02, model, rules)
    state = jax.eval_shape(optimizer.init, model)
    decay = ix.mask(model, {"**.kernel": True})
    assert time.perf_counter() - before < 20
    assert sum(each.value is not None for each in found.rows) == 80 * 7
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) > 70e9
    assert repr(decay) == "Labels(False: 161, True: 561)"


# One step


def grads_like(parameters, seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), parameters)


def trained(optimizer, parameters, steps=2):
    state = optimizer.init(parameters)
    update = jax.jit(optimizer.update)
    for seed in range(steps):
        updates, state = update(grads_like(parameters, seed), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return parameters, state


def nnx_parameters(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def linen_conv():
    module = nn.Conv(8, (3, 3), feature_group_count=2)
    inputs = np.ones((1, 5, 5, 4), np.float32)
    variables = filled(jax.eval_shape(module.init, jax.random.key(0), inputs))
    return variables["params"], variables, {"module": module, "inputs": inputs}


LSTM = filled(eqx.filter_eval_shape(eqx.nn.LSTMCell, 5, 6, key=KEY))
GRU = filled(nnx.eval_shape(lambda: nnx.GRUCell(5, 6, rngs=nnx.Rngs(0))))
CONV = filled(eqx.filter_eval_shape(lambda: eqx.nn.Conv2d(4, 8, 3, groups=2, key=KEY)))
QKV = filled(
    {name: {"w": jax.ShapeDtypeStruct(shape, "float32")} for name, shape in (("qkv", (24, 8)), ("out", (8, 8)))}
)
ATTENTION = filled(nnx.eval_shape(lambda: nnx.MultiHeadAttention(2, 8, use_bias=False, rngs=nnx.Rngs(0))))
LINEN_CONV = linen_conv()
TOWER = filled(eqx.filter_eval_shape(Tower))
BY_PART = {"qkv": {"axes": "(part o) i", "sizes": {"part": 3}}, "out": "o i"}
# Parameters as an optimizer has them, the model, what else is given, and a weight with its axes, written out.
LAYOUTS = {
    "gates of Equinox": (eqx.filter(LSTM, eqx.is_inexact_array), LSTM, {}, "weight_ih", "(gate o) i", {"gate": 4}),
    "recurrent gates": (eqx.filter(LSTM, eqx.is_inexact_array), LSTM, {}, "weight_hh", "(gate o) i", {"gate": 4}),
    "gates of NNX": (nnx_parameters(GRU), GRU, {}, "dense_i.kernel", "i (gate o)", {"gate": 3}),
    "groups": (eqx.filter(CONV, eqx.is_inexact_array), CONV, {}, "weight", "(g o) i ...", {"g": 2}),
    "groups of Linen": (*LINEN_CONV, "kernel", "... i (g o)", {"g": 2}),
    "parts that a rule names": (QKV, QKV, {"rules": BY_PART}, "qkv.w", "(part o) i", {"part": 3}),
    "heads that a rule names": (
        nnx_parameters(ATTENTION),
        ATTENTION,
        {"rules": {"query": "i head o"}},
        "query.kernel",
        "i head o",
        {},
    ),
    "heads together": (nnx_parameters(ATTENTION), ATTENTION, {}, "out.kernel", "i1 i2 o", {}),
    "a stack": (eqx.filter(TOWER, eqx.is_inexact_array), TOWER, {}, "stack.weight", "stack o i", {}),
}
OPTIONS = {"weight_decay": 0.1, "ns_steps": 5, "nesterov": True}
ALONE = optax.contrib.muon(0.1, muon_weight_dimension_numbers={"w": MuonDimensionNumbers((0,), (1,))}, **OPTIONS)


def at(tree, path):
    for name in path.split("."):
        tree = tree[name] if isinstance(tree, dict) else getattr(tree, name)
    return tree


@jax.jit
def step_alone(grads, state, matrix):
    return ALONE.update(grads, state, matrix)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.slow(one_in=4)
def test_a_step_in_the_stored_layout_is_a_step_of_each_matrix_by_itself(name):
    parameters, model, given, path, pattern, sizes = LAYOUTS[name]
    axes = resolve(pattern, at(parameters, path).shape, sizes)
    new, state = trained(ix.muon(0.1, model, **given, **OPTIONS), parameters)
    canonical, stored, *grads = (
        np.asarray(axes.to_canonical(at(tree, path)))
        for tree in (parameters, new, grads_like(parameters, 0), grads_like(parameters, 1))
    )
    for entry in range(axes.batch_size):
        matrix = {"w": canonical[entry].reshape(-1, canonical.shape[-1])}
        own = ALONE.init(matrix)
        for each in grads:
            updates, own = step_alone({"w": each[entry].reshape(matrix["w"].shape)}, own, matrix)
            matrix = optax.apply_updates(matrix, updates)
        np.testing.assert_allclose(stored[entry].reshape(matrix["w"].shape), matrix["w"], atol=2e-5)
    momentum = state.inner_states["muon"].inner_state[0].mu
    assert at(momentum, path).shape == at(parameters, path).shape


@pytest.mark.parametrize("name", ["gates of Equinox", "groups of Linen", "parts that a rule names"])
@pytest.mark.slow(one_in=3)
def test_a_step_of_matrices_together_is_another_one(name):
    """What the test above would not see if the wrapper did nothing."""
    parameters, model, given, path, *_ = LAYOUTS[name]
    new, _ = trained(ix.muon(0.1, model, **given, **OPTIONS), parameters)
    whole = jax.tree.map(lambda leaf: MuonDimensionNumbers((1,), (0,)) if leaf.ndim > 1 else None, parameters)
    together, _ = trained(optax.contrib.muon(0.1, muon_weight_dimension_numbers=lambda _: whole, **OPTIONS), parameters)
    assert np.abs(at(new, path) - at(together, path)).max() > 0.01


def test_without_shared_axes_it_is_muon_of_optax():
    model = eqx.nn.MLP(4, 3, 8, depth=2, key=KEY)
    parameters = eqx.filter(model, eqx.is_inexact_array)
    dimensions = ix.muon_dimensions(model, {"layers.2": False})
    theirs, _ = trained(optax.contrib.muon(0.1, muon_weight_dimension_numbers=dimensions, **OPTIONS), parameters)
    ours, _ = trained(ix.muon(0.1, model, {"layers.2": False}, **OPTIONS), parameters)
    for left, right in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True):
        np.testing.assert_array_equal(left, right)


def test_it_drives_an_optimizer_of_nnx():
    model = nnx.OptimizedLSTMCell(4, 8, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, ix.muon(0.1, model), wrt=nnx.Param)
    before = np.asarray(model.dense_i.kernel[...])
    carry = model.initialize_carry((2, 4), nnx.Rngs(1))
    grads = nnx.grad(lambda model: model(carry, jnp.ones((2, 4)))[1].sum())(model)
    optimizer.update(model, grads)
    assert not np.array_equal(model.dense_i.kernel[...], before)


def test_its_memory_of_what_is_drawn_anew_is_forgotten():
    parameters = eqx.filter(LSTM, eqx.is_inexact_array)
    _, state = trained(ix.muon(0.1, LSTM), parameters)
    reset = ix.reset_optimizer(state, ix.plan(LSTM, {"*": {"weight": "he_normal", "recurrent": None, "bias": None}}))
    momentum = reset.inner_states["muon"].inner_state[0].mu
    assert not np.any(momentum.weight_ih)
    assert np.any(momentum.weight_hh)


# What it refuses, and what it warns of


def error(call):
    with pytest.raises(ix.InitaxError) as caught:
        call()
    return f"{type(caught.value).__name__}: {caught.value}"


class OneMatrix(eqx.Module):
    own: jax.Array


ERRORS = {
    "matrices that share an axis": (
        lambda: ix.muon_dimensions(LSTM),
        "AxesError: muon_dimensions: optax can't be told of matrices that share an axis.\n"
        '  weight_ih (24, 5), "(gate o) i"\n'
        '  weight_hh (24, 6), "(gate o) i"\n'
        "  ix.muon(learning_rate, model) shows optax each of them alone\n"
        '  or give them to Adam: ix.muon_dimensions(model, {"weight_ih": False})',
    ),
    "a rule that asks for a vector": (
        lambda: ix.muon(0.1, LSTM, {"bias": True}),
        'RuleError: muon: rule "bias" asks for a matrix, and bias is none: a vector.\n'
        '  shape (24,), axes "(gate o)"\n'
        '  say its axes, "i o", or False for Adam',
    ),
    "axes that do not fit": (
        lambda: ix.muon_dimensions(QKV, {"qkv": "i head o"}),
        'AxesError: muon_dimensions: rule "qkv": qkv.w: pattern "i head o" has 3 axes, the array of shape '
        "(24, 8) has 2.",
    ),
    "a value that is none": (
        lambda: ix.muon(0.1, QKV, {"qkv": 3}),
        'RuleError: muon: rule "qkv": 3 (int) is not true, false or axes.\n'
        '  write True, False, or the axes of each matrix: "i head o", '
        '{"axes": "(head o) i", "sizes": {"head": 8}}',
    ),
    "one number for several matrices": (
        lambda: ix.muon(0.1, LSTM, adaptive=True),
        "InitaxError: muon: adaptive=True scales by one number for each array, and some hold several matrices.\n"
        "  arrays: weight_ih, weight_hh\n"
        "  leave adaptive out, or give these to Adam by a rule",
    ),
    "axes twice": (
        lambda: ix.muon(0.1, QKV, muon_weight_dimension_numbers=None),
        "InitaxError: muon: muon_weight_dimension_numbers is what ix.muon finds out.\n  leave it out, or use rules",
    ),
    "the learning rate behind the model": (
        lambda: ix.muon(LSTM, learning_rate=0.1),
        "ArgumentError: ix.muon: multiple values for argument 'learning_rate'.\n  write ix.muon(0.1, model)",
    ),
    "the learning rate behind model and rules": (
        lambda: ix.muon(LSTM, {"bias": False}, learning_rate=0.1, ns_steps=3),
        "ArgumentError: ix.muon: multiple values for argument 'learning_rate'.\n"
        "  write ix.muon(0.1, model, {'bias': False}, ns_steps=...)",
    ),
    "no learning rate": (
        lambda: ix.muon(LSTM),
        "ArgumentError: ix.muon: missing a required argument: 'model'.\n  write ix.muon(learning_rate, model)",
    ),
    "a learning rate of another name": (
        lambda: ix.muon(model=LSTM, lr=0.1),
        "ArgumentError: ix.muon: missing a required argument: 'learning_rate'.\n  write ix.muon(0.1, model)",
    ),
    "two learning rates": (
        lambda: ix.muon(0.1, LSTM, lr=0.2),
        'InitaxError: muon: optax.contrib.muon has no argument "lr".\n  write ix.muon(0.2, model)',
    ),
    "a misspelled option": (
        lambda: ix.muon(0.1, LSTM, adaptiv=True),
        'InitaxError: muon: optax.contrib.muon has no argument "adaptiv".\n  did you mean "adaptive"?',
    ),
    "a rule that says nothing": (
        lambda: ix.muon_dimensions(LSTM, {"*": {}}),
        'RuleError: muon_dimensions: rule "*" says nothing.\n  write {"head": False}',
    ),
    "axes that are no text": (
        lambda: ix.muon_dimensions(LSTM, {"*": {"axes": 3}}),
        "RuleError: muon_dimensions: rule \"*\": {'axes': 3} (dict) is not true, false or axes.\n"
        '  write True, False, or the axes of each matrix: "i head o", {"axes": "(head o) i", "sizes": {"head": 8}}',
    ),
    "a matrix of unknown axes": (
        lambda: ix.muon_dimensions(OneMatrix(jnp.ones((8, 4))), {"own": True}),
        'RuleError: muon_dimensions: rule "own" asks for a matrix, and own is none: undeclared.\n'
        "  shape (8, 4)\n"
        '  say its axes, "i o", or False for Adam',
    ),
    "nothing but vectors": (
        lambda: ix.muon(0.1, eqx.nn.LayerNorm(4)),
        "RuleError: muon: no array is a matrix of known axes, so that Adam would get all of them.\n"
        "  weight (4,): scale\n"
        "  bias (4,): bias\n"
        "  say what the model is called on, inputs=...",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_to_write(name):
    call, text = ERRORS[name]
    assert error(call) == text


def test_weights_of_unknown_axes_are_named():
    class Mine(eqx.Module):
        first: eqx.nn.Linear
        own: jax.Array

    model = Mine(eqx.nn.Linear(4, 8, key=KEY), jnp.ones((8, 4)))
    with pytest.warns(ix.InitaxWarning) as caught:
        ix.muon(0.1, model)
    assert [str(each.message) for each in caught] == [
        "muon can't tell the axes of 1 array, and Adam gets them:\n"
        "  own (8, 4): undeclared\n"
        "  say what the model is called on, inputs=...\n"
        '  or say their axes, {"own": "i o"}, or False for Adam'
    ]
    assert ix.muon_dimensions(model, {"own": "i o"})["own"] == MuonDimensionNumbers((0,), (1,))
    assert ix.muon_dimensions(model, {"own": False})["own"] is None
