"""What initialization does to input-convex networks: signals by depth, training, and standardization on data.

`python -m benchmarks.convex` measures all of it in a quarter of an hour on two cores and prints the tables of
docs/convex.md; `python -m benchmarks.convex depth` (or `training`, `maps`, `klaxs_own`, `alone`) one of them.
`klaxs_own` needs klax, and so Python 3.12.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import initax as ix

ACTIVATIONS = {"relu": "relu", "leaky relu": jax.tree_util.Partial(jax.nn.leaky_relu, negative_slope=0.1)}
Model = Any
Draw = Callable[[Model, jax.Array], Model]


def by_hand(hidden: Any, hidden_bias: Callable[[int], float], clipped: bool = False) -> Draw:
    """Return what draws a FICNN the way klax does: `hidden` and its bias, He for everything that sees the input."""

    def draw(model: Model, key: jax.Array) -> Model:
        for place in range(len(model.layers)):
            layer = model.layers[place]
            keys = jax.random.split(jax.random.fold_in(key, place))
            if layer.passthrough is not None:
                drawn = ix.draw("he_normal", keys[0], layer.passthrough.shape, axes="o i")
                layer = eqx.tree_at(lambda each: each.passthrough, layer, drawn)
            bias = jnp.zeros_like(layer.bias)
            if layer.weight is not None:
                drawn = ix.draw(hidden, keys[1], layer.weight.shape, axes="o i")
                drawn = jnp.maximum(drawn, 0) if clipped else drawn
                layer = eqx.tree_at(lambda each: each.weight, layer, drawn)
                bias = jnp.full_like(bias, hidden_bias(layer.weight.shape[1]))
            layer = eqx.tree_at(lambda each: each.bias, layer, bias)
            model = eqx.tree_at(lambda each, place=place: each.layers[place], model, layer)
        return model

    return draw


def hoedt_shift(fan_in: int) -> float:
    """Return the modulus of the paper's bias at correlation one half."""
    return math.sqrt(0.5475114234402735 * fan_in / (fan_in + 1.3450928843923602))


def ours(model: Model, key: jax.Array) -> Model:
    """Return the model with the weights and biases of `icnn`."""
    return ix.reinit(model, ix.convex.rules(model, model.activation), key)


METHODS: dict[str, Draw] = {
    "klax 0.2.0": by_hand("hoedt", hoedt_shift),
    "sign flipped": by_hand("hoedt", lambda fan_in: -hoedt_shift(fan_in)),
    "zero bias": by_hand("hoedt", lambda fan_in: 0.0),
    "He, clipped": by_hand("he_normal", lambda fan_in: 0.0, clipped=True),
    "initax": ours,
}
"""How a network is drawn. The first is klax's default: ReLU's constants, the bias with a plus, He for the passthrough;
the second has the bias of the paper's authors."""


def network(activation: Any, widths: Sequence[int], size: int = 8, **options: Any) -> Model:
    """Return a network whose positive weights are stored as they are, and clipped at zero after each step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ix.InitaxWarning)  # depth without passthrough is what is measured
        return ix.convex.FICNN(
            size, "scalar", widths, activation=activation, positivity="clip", key=jax.random.key(0), **options
        )


@eqx.filter_jit
def moments(model: Model, x: jax.Array) -> jax.Array:
    """Return mean and variance of every layer's pre-activations but the output's, of shape (2, layers)."""
    layers = jax.vmap(model.pre_activations)(x)[:-1]
    return jnp.stack([jnp.stack([statistic(each) for each in layers]) for statistic in (jnp.mean, jnp.var)])


def signals(model: Model, draw: Draw, seeds: int, samples: int = 256) -> np.ndarray:
    """Return mean and variance of every layer's pre-activations, of shape (2, layers), medians over seeds."""
    found = []
    for seed in range(seeds):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ix.InitaxWarning)
            drawn = draw(model, jax.random.key(100 + seed))
        x = jax.random.normal(jax.random.key(seed), (samples, model.in_size))
        found.append(moments(drawn, x))
    return np.median(np.array(found), axis=0)


def target(x: jax.Array) -> jax.Array:
    """Return a convex function of eight inputs, of mean about zero and variance about one."""
    return (jax.nn.logsumexp(1.5 * x, axis=-1) + 0.15 * jnp.sum(x**2, axis=-1) - 4.1) / 1.25


def project(model: Model) -> Model:
    """Return the model with every positive weight clipped at zero, as klax does after each step."""

    def layer(each: Any) -> Any:
        if each.weight is None or each.positivity != "clip":
            return each
        return eqx.tree_at(lambda one: one.weight, each, jnp.maximum(each.weight, 0))

    return eqx.tree_at(lambda each: each.layers, model, tuple(map(layer, model.layers)))


def train(
    models: Sequence[Model],
    steps: int,
    rate: float = 1e-3,
    batch: int = 64,
    project: Callable[[Model], Model] = project,
    unwrap: Callable[[Model], Model] = lambda model: model,
) -> tuple[np.ndarray, list[Model]]:
    """Return the test error of each model after training, relative to predicting the mean, and the models.

    Args:
        models: networks of one structure, one per seed; each sees batches of its own.
        steps: steps of Adam.
        rate: its learning rate.
        batch: samples of one step.
        project: what happens to the model after each step.
        unwrap: what makes the model one that can be called.
    """
    optimizer = optax.adam(rate)
    test_x = jax.random.normal(jax.random.key(999), (4096, models[0].in_size))
    test_y = target(test_x)

    def loss(arrays: Any, static: Any, x: jax.Array) -> jax.Array:
        return jnp.mean((jax.vmap(unwrap(eqx.combine(arrays, static)))(x) - target(x)) ** 2)

    @eqx.filter_jit
    def run(model: Model, key: jax.Array) -> tuple[jax.Array, Model]:
        arrays, static = eqx.partition(model, eqx.is_array)

        def step(carry: Any, each: jax.Array) -> Any:
            arrays, state = carry
            x = jax.random.normal(each, (batch, model.in_size))
            updates, state = optimizer.update(jax.grad(loss)(arrays, static, x), state)
            arrays = eqx.filter(project(eqx.combine(optax.apply_updates(arrays, updates), static)), eqx.is_array)
            return (arrays, state), None

        (arrays, _), _ = jax.lax.scan(step, (arrays, optimizer.init(arrays)), jax.random.split(key, steps))
        return loss(arrays, static, test_x) / jnp.var(test_y), eqx.combine(arrays, static)

    found = [run(model, jax.random.key(7 + seed)) for seed, model in enumerate(models)]
    return np.array([float(error) for error, _ in found]), [model for _, model in found]


def drawn(model: Model, method: str, seeds: int) -> list[Model]:
    """Return a model drawn by a method, once per seed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ix.InitaxWarning)
        return [METHODS[method](model, jax.random.key(100 + seed)) for seed in range(seeds)]


def show(value: float) -> str:
    """Return a number as a table shows it."""
    return f"{value:.2g}" if abs(value) < 1000 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def depth(seeds: int = 5, layers: int = 30) -> str:
    """Return mean and variance at some layers of deep networks with passthrough."""
    rows = []
    for name in ("relu", "leaky relu", "softplus"):
        activation = ACTIVATIONS.get(name, name)
        for width in (64, 256, 1024):
            for method, draw in METHODS.items():
                if method == "zero bias" or (method != "initax" and width == 256):
                    continue
                found = signals(network(activation, [width] * layers), draw, 3 if width == 1024 else seeds)
                cells = [f"{show(found[0, at])} / {show(found[1, at])}" for at in (0, 4, 9, layers - 1)]
                worst = (
                    f"{show(found[0].min())} … {show(found[0].max())}; {show(found[1].min())} … {show(found[1].max())}"
                )
                rows.append([name, str(width), method, *cells, worst])
                print(rows[-1], file=sys.stderr)
    head = ["activation", "width", "drawn by", "layer 1", "layer 5", "layer 10", f"layer {layers}", "over all layers"]
    return table(head, rows)


TRAINED = (("softplus", [32] * 2), ("softplus", [64] * 20), ("relu", [64] * 10))
"""Activation and widths of the networks that are trained."""
MAPS = ("square", "abs", "softplus", "exp")


def training(seeds: int = 5, steps: int = 3000) -> str:
    """Return test errors of networks with passthrough."""
    rows = []
    for name, widths in TRAINED:
        model = network(name, widths)
        cells = []
        for method in METHODS:
            started = time.perf_counter()
            errors, _ = train(drawn(model, method, seeds), steps)
            cells.append(f"{show(float(np.median(errors)))} ({show(errors.min())} … {show(errors.max())})")
            print(name, len(widths), method, cells[-1], f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
        rows.append([f"{len(widths)} × {widths[0]} {name}", *cells])
    return table(["network", *METHODS], rows)


def maps(seeds: int = 5, steps: int = 3000) -> str:
    """Return test errors of the same networks, drawn by initax and stored behind positivity maps."""
    rows = []
    for name, widths in TRAINED:
        cells = []
        for positivity in MAPS:
            options = {"activation": name, "positivity": positivity}
            keys = [jax.random.key(100 + seed) for seed in range(seeds)]
            errors, _ = train([ix.convex.FICNN(8, "scalar", widths, key=key, **options) for key in keys], steps)
            cells.append(f"{show(float(np.median(errors)))} ({show(errors.min())} … {show(errors.max())})")
            print(name, len(widths), positivity, cells[-1], file=sys.stderr)
        rows.append([f"{len(widths)} × {widths[0]} {name}", *cells])
    return table(["network", *MAPS], rows)


def klaxs_own(seeds: int = 5, steps: int = 3000) -> str:
    """Return test errors of klax's own networks, trained as `klax.fit` does: as klax draws them and under our rules."""
    if importlib.util.find_spec("klax") is None:
        return "klax is not installed; it needs Python 3.12"
    klax: Any = importlib.import_module("klax")
    rows = []
    for name, widths in TRAINED:
        activation = getattr(jax.nn, name)
        theirs = [
            klax.nn.FICNN(8, "scalar", widths, activation=activation, key=jax.random.key(100 + seed))
            for seed in range(seeds)
        ]
        repaired = [
            ix.reinit(model, ix.convex.rules(model, name), jax.random.key(100 + seed))
            for seed, model in enumerate(theirs)
        ]
        cells = []
        for models in (theirs, repaired):
            errors, _ = train(models, steps, project=klax.apply, unwrap=klax.unwrap)
            cells.append(f"{show(float(np.median(errors)))} ({show(errors.min())} … {show(errors.max())})")
            print(name, len(widths), "klax.nn.FICNN", cells[-1], file=sys.stderr)
        rows.append([f"{len(widths)} × {widths[0]} {name}", *cells])
    return table(["`klax.nn.FICNN`", "as klax 0.2.0 draws it", "under `ix.convex.rules`"], rows)


def alone(seeds: int = 5, steps: int = 2000) -> str:
    """Return test errors of networks without passthrough, with and without standardization on data."""
    rows = []
    for name, widths in (("softplus", [64] * 5), ("relu", [64] * 10), ("softplus", [64] * 10), ("softplus", [64] * 20)):
        model = network(name, widths, use_passthrough=False)
        x = jax.random.normal(jax.random.key(5), (512, model.in_size))
        cells = []
        for method, standardized in (("sign flipped", False), ("initax", False), ("initax", True)):
            models = drawn(model, method, seeds)
            if standardized:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ix.InitaxWarning)
                    models = [ix.convex.standardize(each, x) for each in models]
            errors, _ = train(models, steps)
            cells.append(f"{show(float(np.median(errors)))} ({show(errors.min())} … {show(errors.max())})")
            print(name, len(widths), method, standardized, cells[-1], file=sys.stderr)
        rows.append([f"{len(widths)} × {widths[0]} {name}", *cells])
    return table(["network without passthrough", "sign flipped", "initax", "initax, standardized on data"], rows)


def main(names: Sequence[str]) -> None:
    """Print the tables."""
    for each in (depth, training, maps, klaxs_own, alone):
        if not names or each.__name__ in names:
            print(f"{each.__doc__}\n\n{each()}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
