"""Functions behind which no length is steady: `auto` says so where deviations grow, and of no other."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initax as ix
from tests.tables import KEY
from tests.traced import S

nn = eqx.nn

STEADY = {
    "identity": lambda x: x,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "relu6": jax.nn.relu6,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "hard_swish": jax.nn.hard_swish,
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "celu": jax.nn.celu,
    "sin": jnp.sin,
    "abs": jnp.abs,
    "bump": lambda x: jnp.exp(-jnp.square(x)),
}
UNSTEADY = {
    "square": jnp.square,
    "squared relu": lambda x: jnp.square(jax.nn.relu(x)),
    "cubed relu": lambda x: jax.nn.relu(x) ** 3,
    "cube": lambda x: x**3,
    "exp": jnp.exp,
    "sinh": jnp.sinh,
}
SLOPES = {"square": "2", "squared relu": "2", "cubed relu": "3", "cube": "3", "exp": "2", "sinh": "2.3"}
SHARES = {"2": "0.5", "3": "0.67", "2.3": "0.57"}


def mlp(function, depth):
    return nn.MLP(8, 8, 16, depth=depth, activation=function, key=KEY)


def noted(model, x=None, scheme="auto", **options):
    x = S(8) if x is None else x
    return ix.plan(model, {"*": scheme}, inputs=x, **options).notes


@pytest.mark.parametrize("depth", [1, 3, 30])
@pytest.mark.parametrize("name", STEADY)
@pytest.mark.slow(one_in=7)
def test_functions_in_use_are_steady(name, depth):
    assert noted(mlp(STEADY[name], depth)) == ()


def unstable(slope, *paths):
    """The note on a model whose weights at these paths have such a function in front."""
    functions = f"{len(paths)} functions" if len(paths) > 1 else "1 function"
    return (
        f"auto can't keep the length of the signal behind {functions}, and what is off grows from layer to layer: "
        f"1 % too much in front becomes {', '.join(f'{slope} % at {path}' for path in paths)}\n"
        "  put a norm in front of each, or where layers have biases write "
        f'{{"*": ("auto", {{"bias_share": {SHARES[slope]}}})}}'
    )


@pytest.mark.parametrize("name", UNSTEADY)
def test_functions_that_enlarge_every_deviation_are_named_with_their_slope(name):
    with pytest.warns(ix.InitaxWarning) as caught:
        notes = noted(mlp(UNSTEADY[name], 3))
    text = unstable(SLOPES[name], *(f"layers.{at}.weight" for at in (1, 2, 3)))
    assert notes == (text,)
    assert [str(each.message) for each in caught] == [text]


@pytest.mark.parametrize("name", UNSTEADY)
def test_the_slope_is_that_of_the_length_map(name):
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)

    def length(q):
        return float(weights @ np.asarray(UNSTEADY[name](jnp.asarray(q**0.5 * nodes))).astype(float) ** 2)

    with jax.enable_x64(True):
        slope = (np.log(length(1.01)) - np.log(length(0.99))) / (np.log(1.01) - np.log(0.99))
    assert f"{slope:.2g}" == SLOPES[name]


@pytest.mark.parametrize("name", UNSTEADY)
def test_the_share_of_the_biases_that_is_named_makes_it_steady(name):
    share = float(SHARES[SLOPES[name]])
    assert noted(mlp(UNSTEADY[name], 6), scheme=("auto", {"bias_share": share})) == ()


def test_one_function_of_slope_two_is_told_only_where_deviations_grow():
    assert noted(mlp(jnp.square, 1)) == ()
    with pytest.warns(ix.InitaxWarning):
        assert noted(mlp(jnp.square, 2)) == (unstable("2", "layers.1.weight", "layers.2.weight"),)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        for at in range(3):
            x = UNSTEADY["cubed relu"](linen.Dense(8, name=f"d{at}")(x))
        return x


def test_frameworks_agree():
    def forward(model, x):
        for layer in model:
            x = UNSTEADY["cubed relu"](layer(x))
        return x

    rngs = nnx.Rngs(0)
    model = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(3)])
    variables = jax.eval_shape(Linen().init, KEY, S(4, 8))
    with pytest.warns(ix.InitaxWarning):
        assert noted(model, S(4, 8), forward=forward) == (unstable("3", "1.kernel", "2.kernel"),)
    with pytest.warns(ix.InitaxWarning):
        assert noted(variables, S(4, 8), module=Linen()) == (unstable("3", "d1.kernel", "d2.kernel"),)


def layers(names, depth=6):
    return {f"{name}{at}": S(6, 6) for name in names for at in range(depth)}


def test_gates_are_steady():
    def forward(p, x):
        for at in range(6):
            x = (jax.nn.silu(x @ p[f"gate{at}"]) * (x @ p[f"up{at}"])) @ p[f"down{at}"]
        return x

    assert noted(layers(["gate", "up", "down"]), S(8, 6), forward=forward) == ()


def test_squares_in_a_residual_stream_are_told_and_those_behind_norms_are_not():
    class Block(eqx.Module):
        norm: nn.LayerNorm | None
        up: nn.Linear
        down: nn.Linear

        def __call__(self, x, key=None):
            return x + self.down(jnp.square(jax.nn.relu(self.up(x if self.norm is None else self.norm(x)))))

    def blocks(has_norm):
        def block():
            return Block(nn.LayerNorm(6) if has_norm else None, nn.Linear(6, 6, key=KEY), nn.Linear(6, 6, key=KEY))

        return nn.Sequential([block() for _ in range(8)])

    paths = [f"layers.{at}.down.weight" for at in range(6)]
    with pytest.warns(ix.InitaxWarning):
        (note,) = noted(blocks(False), S(6))
    assert note.splitlines()[0] == unstable("2", *paths).splitlines()[0].replace("6 func", "8 func") + ", … (2 more)"
    assert ix.plan(blocks(True), {"Linear": "auto"}, inputs=S(6)).notes == ()


def test_weights_that_auto_does_not_draw_are_not_its_matter():
    notes = ix.plan(mlp(UNSTEADY["cube"], 3), {"*": "he_normal"}, inputs=S(8)).notes
    assert notes == ()
