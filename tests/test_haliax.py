"""Haliax: arrays that name their axes, read without a table of classes and without inputs. It needs Python 3.12."""

import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import initax as ix
from tests.tables import KEY

with warnings.catch_warnings():  # on import Haliax asks JAX for a name that JAX deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    import haliax as hax
    from haliax import nn as hnn

In, Out, Heads, Size, Block, Mid = hax.make_axes(In=48, Out=64, Heads=4, Size=16, Block=3, Mid=32)
Vocab = hax.Axis("Vocab", 100)
X, Y = "X", "Y"


class Projection(eqx.Module):
    """A module of a user, with arrays of its own."""

    In: hax.Axis = eqx.field(static=True)
    Out: tuple[hax.Axis, ...] = eqx.field(static=True)
    kernel: hax.NamedArray
    b: hax.NamedArray
    temperature: hax.NamedArray | None = None

    def __call__(self, x):
        return x.dot(self.kernel, axis=self.In) + self.b


def projection():
    heads = (Heads, Size)
    return Projection(In, heads, hax.random.normal(KEY, (Heads, In, Size)), hax.zeros(heads))


class Residual(eqx.Module):
    norm: hnn.LayerNorm
    up: hnn.Linear
    down: hnn.Linear

    @staticmethod
    def init(*, key):
        return Residual(hnn.LayerNorm.init(In), hnn.Linear.init(In, Mid, key=key), hnn.Linear.init(Mid, In, key=key))

    def __call__(self, x):
        return x + self.down(hnn.relu(self.up(self.norm(x))))


class Attention(eqx.Module):
    """Attention as it is written with Haliax: heads are axes of the projections."""

    q: hnn.Linear
    o: hnn.Linear

    @staticmethod
    def init():
        return Attention(
            hnn.Linear.init(In, (Heads, Size), key=KEY), hnn.Linear.init((Heads, Size), In, key=KEY, out_first=False)
        )

    def __call__(self, x):
        return self.o(self.q(x))


def stacked():
    return hnn.Stacked.init(Block, Residual)(key=jax.random.split(KEY, Block.size))


def conv(kind, **further):
    return kind.init((X, Y), In, Out, (3, 5), key=KEY, **further)


def image():
    return hax.ones((In, hax.Axis(X, 8), hax.Axis(Y, 8)))


# model, what it is called on, and path of each array → kind, role, axes, fans, effective fans
MODELS: dict[str, Any] = {
    "linear": (
        lambda: hnn.Linear.init(In, Out, key=KEY),
        lambda: hax.ones(In),
        {
            "weight": ("Linear", "weight", "o i", (48, 64), (48, 64)),
            "bias": ("Linear", "bias", "o", (48, 64), (48, 64)),
        },
    ),
    "inputs first, two axes each": (
        lambda: hnn.Linear.init((In, Mid), (Heads, Size), key=KEY, out_first=False, use_bias=False),
        lambda: hax.ones((In, Mid)),
        {"weight": ("Linear", "weight", "i1 i2 o1 o2", (1536, 64), (1536, 64))},
    ),
    "attention": (
        Attention.init,
        lambda: hax.ones(In),
        {
            "q.weight": ("Linear", "weight", "o1 o2 i", (48, 64), (48, 64)),
            "q.bias": ("Linear", "bias", "o1 o2", (48, 64), (48, 64)),
            "o.weight": ("Linear", "weight", "i1 i2 o", (64, 48), (64, 48)),
            "o.bias": ("Linear", "bias", "o", (64, 48), (64, 48)),
        },
    ),
    "a module of a user": (
        projection,
        lambda: hax.ones(In),
        {
            "kernel": ("Linear", "weight", "o1 i o2", (48, 64), (48, 64)),
            "b": ("Linear", "bias", "o1 o2", (48, 64), (48, 64)),
        },
    ),
    "stacked": (
        stacked,
        lambda: hax.ones(In),
        {
            "stacked.norm.weight": ("Norm", "scale", "stack o", None, None),
            "stacked.norm.bias": ("Norm", "bias", "stack o", None, None),
            "stacked.up.weight": ("Linear", "weight", "stack o i", (48, 32), (48, 32)),
            "stacked.up.bias": ("Linear", "bias", "stack o", (48, 32), (48, 32)),
            "stacked.down.weight": ("Linear", "weight", "stack o i", (32, 48), (32, 48)),
            "stacked.down.bias": ("Linear", "bias", "stack o", (32, 48), (32, 48)),
        },
    ),
    "convolution": (
        lambda: conv(hnn.Conv, groups=2, stride=(1, 2)),
        image,
        {
            "weight": ("Conv", "weight", "(g o) i ...", (360, 480), (360, 240)),
            "bias": ("Conv", "bias", "(g o)", (360, 480), (360, 240)),
        },
    ),
    "transposed convolution": (
        lambda: conv(hnn.ConvTranspose, stride=2),
        image,
        {
            "weight": ("ConvTranspose", "weight", "(g o) i ...", (720, 960), (180, 960)),
            "bias": ("ConvTranspose", "bias", "(g o)", (720, 960), (180, 960)),
        },
    ),
    "embedding": (
        lambda: hnn.Embedding.init(Vocab, (Heads, Size), key=KEY),
        lambda: hax.arange(hax.Axis("Position", 7)),
        {"weight": ("Embedding", "embedding", "o i1 i2", (64, 100), (1, 64))},
    ),
    "norm over two axes": (
        lambda: hnn.RmsNorm.init((Heads, Size), dtype=jnp.float32),
        lambda: hax.ones((Heads, Size)),
        {
            "weight": ("Norm", "scale", "o1 o2", None, None),
            "bias": ("Norm", "bias", "o1 o2", None, None),
        },
    ),
    "experts": (
        lambda: hnn.MoELinear.init(Block, In, Out, key=KEY),
        None,  # JAX has no rule for its product on a CPU
        {
            "weight": ("Linear", "weight", "expert i o", (48, 64), (48, 64)),
            "bias": ("Linear", "bias", "o", (48, 64), (48, 64)),
        },
    ),
    "MLP": (
        lambda: hnn.MLP.init(In, Out, 32, 1, key=KEY),
        lambda: hax.ones(In),
        {
            "layers.0.weight": ("Linear", "weight", "o i", (48, 32), (48, 32)),
            "layers.0.bias": ("Linear", "bias", "o", (48, 32), (48, 32)),
            "layers.1.weight": ("Linear", "weight", "o i", (32, 64), (32, 64)),
            "layers.1.bias": ("Linear", "bias", "o", (32, 64), (32, 64)),
        },
    ),
}
SCHEME = ix.Scheme("he_normal", scale="ones")
RULES = {"*": SCHEME}


def found_in(model):
    return {
        each.path: (
            layer.kind,
            each.role,
            each.axes.pattern,
            each.fans and each.fans.nominal,
            each.fans and each.fans.effective,
        )
        for layer in ix.layers(model)
        for each in layer.parameters
        if each.excluded is None
    }


def called(model, x):
    model = model.fold if isinstance(model, hnn.Stacked) else model
    return model(x)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("is_abstract", [False, True])
@pytest.mark.slow(one_in=5)
def test_named_axes_are_read_without_inputs(name, is_abstract):
    make, _, expected = MODELS[name]
    assert found_in(eqx.filter_eval_shape(make) if is_abstract else make()) == expected


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow(one_in=5)
def test_the_new_model_is_a_model_of_haliax_with_everything_else_the_same(name, key):
    make, inputs, expected = MODELS[name]
    model = make()
    new = ix.reinit(model, RULES, key)
    assert jax.tree.structure(new) == jax.tree.structure(model)
    drawn = ix.plan(model, RULES)
    paths = {each.parameter.path for each in drawn.draws}
    assert paths == set(expected)
    kept = [array for path, array in by_path(new).items() if path not in paths]
    assert all(any(array is old for old in by_path(model).values()) for array in kept)
    if inputs is not None:
        outputs = [called(each, inputs()) for each in (model, new)]
        assert outputs[0].axes == outputs[1].axes
        assert bool(jnp.all(jnp.isfinite(outputs[1].array)))


def by_path(model):
    found, _ = jax.tree_util.tree_flatten_with_path(model)
    return {
        ".".join(str(getattr(key, "name", getattr(key, "idx", ""))) for key in keys).rstrip("."): leaf
        for keys, leaf in found
    }


@pytest.mark.parametrize("name", MODELS)
def test_weights_have_the_deviation_of_their_fans(name, key):
    make, _, expected = MODELS[name]
    arrays = ix.plan(make(), RULES).arrays(key)
    for path, (_, role, _, fans, _) in expected.items():
        if role in ("weight", "embedding"):
            drawn = np.asarray(arrays[path], np.float64)
            z = (drawn.std() / math.sqrt(2 / fans[0]) - 1) * math.sqrt(2 * drawn.size)
            assert abs(z) < 4.5, path
            entries = drawn.reshape(Block.size, -1).std(axis=1) if name == "stacked" else drawn.std()
            np.testing.assert_allclose(entries, math.sqrt(2 / fans[0]), rtol=0.12)
        elif role == "bias":
            assert not np.any(arrays[path])


@pytest.mark.parametrize(
    "name", ["linear", "attention", "stacked", "convolution", "transposed convolution", "embedding"]
)
def test_default_is_what_haliax_draws(name, key):
    make, _, expected = MODELS[name]
    model, new = make(), ix.reinit(make(), {"*": "default"}, key)
    theirs, ours = by_path(model), by_path(new)
    for path, (_, role, _, _, _) in expected.items():
        if role in ("weight", "embedding"):
            one, other = np.ravel(theirs[path]), np.ravel(ours[path])
            limit = 1.95 * math.sqrt(2 / one.size)
            assert stats.ks_2samp(one, other).statistic < limit, path
        else:
            np.testing.assert_allclose(np.ptp(theirs[path]), np.ptp(ours[path]), rtol=0.1)


PAIRS = {
    "linear": (MODELS["linear"][0], lambda: eqx.nn.Linear(48, 64, key=KEY)),
    "convolution": (
        MODELS["convolution"][0],
        lambda: eqx.nn.Conv2d(48, 64, (3, 5), stride=(1, 2), groups=2, key=KEY),
    ),
    "transposed convolution": (
        MODELS["transposed convolution"][0],
        lambda: eqx.nn.ConvTranspose2d(48, 64, (3, 5), stride=2, key=KEY),
    ),
    "embedding": (lambda: hnn.Embedding.init(Vocab, In, key=KEY), lambda: eqx.nn.Embedding(100, 48, key=KEY)),
    "norm": (lambda: hnn.LayerNorm.init(In), lambda: eqx.nn.LayerNorm(48)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("scheme", [SCHEME, "orthogonal", "default"], ids=["he_normal", "orthogonal", "default"])
def test_a_layer_has_the_plan_of_the_same_layer_in_equinox(name, scheme):
    if name == "norm" and scheme == "orthogonal":
        scheme = ix.Scheme("orthogonal", scale="ones")
    plans = [ix.plan(make(), {"*": scheme}) for make in PAIRS[name]]
    own_law = scheme == "default" and name in ("linear", "embedding")  # the two draw these weights by different laws
    rows = [
        [(each.parameter.path, each.kind, each.parameter.fans, None if own_law else each.std) for each in plan.draws]
        for plan in plans
    ]
    assert rows[0]
    assert rows[0] == rows[1]


class Gated(eqx.Module):
    """Two weights with the same axes, of which one may well lead back."""

    In: hax.Axis = eqx.field(static=True)
    Out: hax.Axis = eqx.field(static=True)
    there: hax.NamedArray
    back: hax.NamedArray

    def __call__(self, x):
        return x.dot(self.there, axis=self.In).dot(self.back, axis=self.Out)


def test_what_axes_do_not_tell_is_kept_and_a_trace_tells():
    model = Gated(In, Out, hax.random.normal(KEY, (In, Out)), hax.random.normal(KEY, (Out, In)))
    reasons = [each.excluded.why for layer in ix.layers(model) for each in layer.parameters]
    assert reasons == [ix.Why.UNDECLARED] * 2
    plan = ix.plan(model, {"*": "he_normal"}, inputs=hax.ones(In))
    assert {each.parameter.path: each.parameter.fan_in for each in plan.draws} == {"there": 48, "back": 64}


def test_a_declared_class_stands_above_its_axes():
    class Own(Projection):
        pass

    ix.register_layer(Own, kind="Mine", kernel="head i o", b="head o")
    made = projection()
    layers = ix.layers(Own(In, made.Out, made.kernel, made.b))
    assert [each.kind for each in layers] == ["Mine"]
    assert layers[0]["kernel"].axes.pattern == "head i o"


def test_an_array_over_the_outputs_is_a_bias_by_its_name_alone():
    made = projection()
    (layer,) = ix.layers(Projection(In, made.Out, made.kernel, made.b, hax.ones(made.Out)))
    assert {each.name: each.excluded and each.excluded.why for each in layer.parameters} == {
        "kernel": None,
        "b": None,
        "temperature": ix.Why.UNDECLARED,
    }


@pytest.mark.parametrize("name", [name for name, (_, inputs, _) in MODELS.items() if inputs is not None])
def test_a_trace_agrees_with_the_names(name):
    """Else a plan warns, and warnings are errors."""
    make, inputs, _ = MODELS[name]
    ix.plan(make(), RULES, inputs=inputs(), forward=called)


def test_a_trace_that_disagrees_with_the_names_is_told():
    model = projection()
    with pytest.warns(ix.InitaxWarning, match="the forward pass disagrees with the declared axes of 1 of the arrays"):
        ix.plan(
            model, RULES, inputs=hax.ones((Heads, Size)), forward=lambda model, x: x.dot(model.kernel, axis=model.Out)
        )
