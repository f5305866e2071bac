"""The coordinate check: outputs move alike at every width under muP, and further and further without."""

import functools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import initax as ix
from tests.tables import KEY

WIDTHS, KEYS = (16, 64, 256), jax.random.split(KEY, 2)
X = jax.random.normal(jax.random.key(1), (8, 4))
Y = jnp.arange(8) % 3
RULES = {"*": "lecun_normal"}

pytestmark = pytest.mark.usefixtures("optax_promotes")


class Net(eqx.Module):
    """Attention over the examples, whose one head grows, between two layers."""

    first: eqx.nn.Linear
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, width):
        self.first = eqx.nn.Linear(4, width, key=KEY)
        self.query, self.key, self.value = (eqx.nn.Linear(width, width, use_bias=False, key=KEY) for _ in range(3))
        self.head = eqx.nn.Linear(width, 3, key=KEY)

    def __call__(self, x):
        x = jax.nn.relu(jax.vmap(self.first)(x))
        query, key, value = (jax.vmap(layer)(x) for layer in (self.query, self.key, self.value))
        x = x + jax.nn.softmax(query @ key.T / x.shape[-1] ** 0.5) @ value
        return jax.vmap(self.head)(x)


@functools.cache
def abstract(width):
    return eqx.filter_eval_shape(Net, width)


@functools.cache
def factors(width, optimizer="adam"):
    return ix.mup(abstract(WIDTHS[0]), abstract(width), optimizer=optimizer, inputs=X)


def check(optimizer, *, name="adam", mup=True, widths=WIDTHS, steps=3):
    def full(width):
        return optax.chain(optimizer, factors(width, name).scale_updates()) if mup else optimizer

    def make(width, key):
        model = ix.reinit(abstract(width), factors(width).rules(RULES) if mup else RULES, key)
        return model, full(width).init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(state, width):
        model, state = state
        grads = eqx.filter_grad(lambda model: optax.softmax_cross_entropy_with_integer_labels(model(X), Y).mean())(
            model
        )
        updates, state = full(width).update(grads, state)
        return eqx.apply_updates(model, updates), state

    return ix.coordinate_check(make, widths, KEYS, step, inputs=X, steps=steps)


CASES = {"adam": optax.adam(0.02), "sgd": optax.sgd(0.1)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_outputs_move_alike_under_mup_and_not_without(name):
    """The check that passes is one that can fail: slopes of .5 and more are what it is for."""
    flat = check(CASES[name], name=name)
    assert list(flat.slopes) == ["first.weight", "value.weight", "query.weight × key.weight", "head.weight"]
    print(flat)
    flat.assert_flat(tolerance=0.15)
    steep = check(CASES[name], name=name, mup=False)
    print(steep)
    if name == "adam":
        assert max(steep.slopes.values()) > 0.5
    with pytest.raises(AssertionError, match="outputs do not move alike at every width"):
        steep.assert_flat(tolerance=0.15)


def test_it_is_a_table_a_dict_and_a_picture():
    both = ix.CoordinateCheck.of(
        [16, 64], 3, {"w": np.array([[1.0, 2.0], [2.0, 4.0]]), "v": np.array([[1.0, 1], [1, 0]])}
    )
    assert str(both) == (
        "3 steps, 2 keys\n"
        "\n"
        " weight    16    64   slope\n"
        " ──────────────────────────\n"
        " w        1.5     3   +0.50\n"
        " v          1   0.5    +nan"
    )
    assert repr(both) == "CoordinateCheck(2 operations, steepest slope +0.50)"
    stored = json.loads(json.dumps(both.to_dict()))
    assert stored["layers"]["w"] == {
        "change": [[1.0, 2.0], [2.0, 4.0]],
        "slope": pytest.approx(0.5),
        "is_product": False,
    }
    assert len(both.plot().axes[0].lines) == 2
    with pytest.raises(AssertionError) as caught:
        both.assert_flat()
    assert str(caught.value) == (
        "outputs do not move alike at every width.\n  w: slope +0.50, not within 0.1\n  v: slope +nan, not within 0.1"
    )


def test_slopes_are_those_of_what_is_put_in():
    """A model whose weights are moved by a power of its width."""

    def make(width, key):
        return {"w": jnp.zeros((4, 2)), "s": jnp.ones(2)}

    def step(model, width):
        return {**model, "w": model["w"] + width**0.75}

    found = ix.coordinate_check(
        make, (2, 4, 8), KEY, step, inputs=X, steps=2, forward=lambda model, x: x @ model["w"] * model["s"]
    )
    assert found.slopes == {"w": pytest.approx(0.75, abs=1e-5)}
    assert found.layers[0].change.shape == (3, 1)
    moved = 2 * 4**0.75 * np.abs(np.asarray(X).sum(1)).mean()
    np.testing.assert_allclose(found.layers[0].change[1], moved, rtol=1e-5)


class NnxNet(nnx.Module):
    def __init__(self, width):
        self.up = nnx.Linear(4, width, rngs=nnx.Rngs(0))
        self.down = nnx.Linear(width, 1, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.down(nnx.relu(self.up(x)))


class LinenNet(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, name="down")(nn.relu(nn.Dense(self.width, name="up")(x)))


@pytest.mark.slow
def test_states_of_flax_are_states():
    """A pair of a module of NNX and its optimizer, which steps change; variables of Linen with their module."""

    def step(state, width):
        model, optimizer = state
        optimizer.update(model, nnx.grad(lambda model: model(X).mean())(model))
        return state

    def make(width, key):
        model = NnxNet(width)
        return model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    found = ix.coordinate_check(make, (8, 32), KEY, step, inputs=X, steps=1)
    assert list(found.slopes) == ["up.kernel", "down.kernel"]
    assert all((each.change > 0).all() for each in found.layers)

    def move(variables, width):
        grads = jax.grad(lambda variables: LinenNet(width).apply(variables, X).mean())(variables)
        return jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, variables, grads)

    found = ix.coordinate_check(
        lambda width, key: LinenNet(width).init(key, X), (8, 32), KEY, move, inputs=X, steps=1, module=LinenNet
    )
    assert list(found.slopes) == ["up.kernel", "down.kernel"]


def run(widths=(2, 4), *, make=None, step=None, **given):
    make = make or (lambda width, key: {"w": jnp.ones((4, 2))})
    forward = given.pop("forward", lambda model, x: x @ model["w"])
    return ix.coordinate_check(
        make, widths, KEY, step or (lambda model, width: model), inputs=X, forward=forward, **given
    )


ERRORS = {
    "one width": (
        lambda: run([4]),
        "InitaxError: coordinate_check compares two widths at least, not [4] (list).\n  widths=[64, 128, 256]",
    ),
    "no steps": (
        lambda: run(steps=0),
        "InitaxError: coordinate_check: steps is a number of steps, not 0 (int).\n  steps=5",
    ),
    "no weights": (
        lambda: run(forward=lambda model, x: x + model["w"].sum()),
        "InitaxError: coordinate_check finds no contraction or convolution with a weight.",
    ),
    "an abstract model": (
        lambda: run(make=lambda width, key: {"w": jax.ShapeDtypeStruct((4, 2), jnp.float32)}),
        "InitaxError: coordinate_check trains models; what make(2, key) returns is abstract.\n"
        "  draw it: ix.reinit(model, rules, key)",
    ),
    "another model behind a step": (
        lambda: run(step=lambda model, width: {**model, "v": model["w"]}),
        "ModelError: coordinate_check: what step returns holds another model than what it was given.\n"
        "  step(state, width) returns a state of the same form: a model, or a tuple that begins with one",
    ),
    "models of another depth": (
        lambda: run(
            make=lambda width, key: [jnp.ones((4, 4))] * width if width < 3 else [jnp.ones((4, 4)) for _ in range(3)],
            forward=lambda model, x: functools.reduce(jnp.matmul, model, x),
        ),
        "ModelError: coordinate_check: the models of width 2 and 4 do different things.\n"
        "  in one alone: 2\n"
        "  make both by one function, of one depth",
    ),
    "no tolerance": (
        lambda: ix.CoordinateCheck.of([2, 4], 1, {}).assert_flat(tolerance=-1),
        "InitaxError: assert_flat: tolerance is a positive number, not -1.\n  assert_flat(tolerance=0.1)",
    ),
    "no key": (
        lambda: ix.coordinate_check(lambda width, key: {}, (2, 4), 0, lambda model, width: model, inputs=X),
        "KeyTypeError: keys must be JAX random keys, not 0.\n  jax.random.split(jax.random.key(0), 16)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_to_write(name):
    call, text = ERRORS[name]
    with pytest.raises(ix.InitaxError) as caught:
        call()
    assert f"{type(caught.value).__name__}: {caught.value}" == text
