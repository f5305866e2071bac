"""Deep input-convex networks under four initializations: regression, and a potential known by its gradient only.

`python examples/ficnn.py` trains 4 draws x 2 tasks x 5 seeds in a few minutes and leaves ficnn-output/ficnn.png.
"""

import argparse
import functools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import initax as ix

OUTPUT = Path("ficnn-output")
SIZE = 4


def potential(x):
    """A convex function whose gradient is known in closed form and has both signs."""
    return jax.nn.logsumexp(2 * x) / 2 + 0.1 * jnp.sum(x**2) - 1.3


def by_hand(weight, bias, model, key):
    """Draw the positive weights of every layer by one scheme and the others by He's, with `bias(fan_in)`."""
    layers = []
    for place in range(len(model.layers)):
        layer = model.layers[place]
        one, other = jax.random.split(jax.random.fold_in(key, place))
        passthrough = ix.draw("he_normal", one, layer.passthrough.shape, axes="o i")
        layer = eqx.tree_at(lambda each: (each.passthrough, each.bias), layer, (passthrough, 0 * layer.bias))
        if layer.weight is not None:
            drawn = jnp.maximum(ix.draw(weight, other, layer.weight.shape, axes="o i"), 0)
            shift = layer.bias + bias(layer.weight.shape[1])
            layer = eqx.tree_at(lambda each: (each.weight, each.bias), layer, (drawn, shift))
        layers.append(layer)
    return eqx.tree_at(lambda each: each.layers, model, tuple(layers))


def shift(fan_in):
    """The bias of Hoedt & Klambauer for a correlation of one half, without its sign."""
    return (0.5475114234402735 * fan_in / (fan_in + 1.3450928843923602)) ** 0.5


def ours(model, key):
    return ix.reinit(model, ix.convex.rules(model, model.activation), key)


DRAWS = {
    "default, clipped": functools.partial(by_hand, "uniform_fan_in", lambda fan_in: 0.0),
    "klax-style (bias +)": functools.partial(by_hand, "hoedt", shift),
    "authors' bias (−)": functools.partial(by_hand, "hoedt", lambda fan_in: -shift(fan_in)),
    "initax": ours,
}


def regression(model, x):
    return (model(x) - potential(x)) ** 2


def gradient_matching(model, x):
    return jnp.mean((jax.grad(model)(x) - jax.grad(potential)(x)) ** 2)


TASKS = {"regression": regression, "gradient of a potential": gradient_matching}


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def train(task, static, arrays, key, steps):
    """Return the loss at every step."""
    optimizer = optax.adam(1e-3)

    def loss(arrays, x):
        model = eqx.combine(arrays, static)
        return jnp.mean(jax.vmap(functools.partial(task, model))(x))

    def positive(layer):
        """What klax does after each step; the map of the network would give clipped weights no gradient."""
        if layer.weight is None:
            return layer
        return eqx.tree_at(lambda each: each.weight, layer, jnp.maximum(layer.weight, 0))

    def step(carry, key):
        arrays, state = carry
        value, gradients = jax.value_and_grad(loss)(arrays, jax.random.normal(key, (64, SIZE)))
        updates, state = optimizer.update(gradients, state)
        arrays = optax.apply_updates(arrays, updates)
        arrays = eqx.tree_at(lambda each: each.layers, arrays, tuple(map(positive, arrays.layers)))
        return (arrays, state), value

    return jax.lax.scan(step, (arrays, optimizer.init(arrays)), jax.random.split(key, steps))[1]


def main(width, depth, seeds, steps):
    sizes = [width] * depth
    model = ix.convex.FICNN(SIZE, "scalar", sizes, positivity="clip", key=jax.random.key(0))
    shallow = ix.convex.FICNN(SIZE, "scalar", sizes[:2], positivity="clip", key=jax.random.key(0))
    print(ix.plan(shallow, ix.convex.rules(shallow, shallow.activation)))
    models = {name: [draw(model, jax.random.key(10 + seed)) for seed in range(seeds)] for name, draw in DRAWS.items()}
    x = jax.random.normal(jax.random.key(1), (256, SIZE))
    picture = Figure(figsize=(13, 8), layout="constrained")
    panels = picture.subplots(2, 2)
    print(f"\n{'median loss at the end':<26}" + "".join(f"{task:>26}" for task in TASKS))
    for name, drawn in models.items():
        every = [jax.vmap(each.pre_activations)(x)[:-1] for each in drawn]
        layers = np.arange(1, depth + 1)
        for panel, statistic in zip(panels[0], (jnp.mean, jnp.var), strict=True):
            values = np.median([[abs(float(statistic(layer))) for layer in each] for each in every], axis=0)
            panel.semilogy(layers, values, label=name)
        ends = []
        for panel, task in zip(panels[1], TASKS.values(), strict=True):
            curves = []
            for seed, each in enumerate(drawn):
                arrays, static = eqx.partition(each, eqx.is_array)
                curves.append(np.asarray(train(task, static, arrays, jax.random.key(50 + seed), steps)))
            curve = np.median(np.array(curves), axis=0)
            panel.semilogy(curve, label=name)
            ends.append(np.median(curve[-max(steps // 20, 1) :]))
        print(f"{name:<26}" + "".join(f"{end:>26.3g}" for end in ends))
    panels[0, 0].set(title="modulus of the mean of pre-activations", xlabel="layer")
    panels[0, 1].set(title="their variance", xlabel="layer")
    for panel, title in zip(panels[1], TASKS, strict=True):
        panel.set(title=f"loss: {title}", xlabel="step")
    panels[0, 0].legend()
    OUTPUT.mkdir(exist_ok=True)
    picture.savefig(OUTPUT / "ficnn.png", dpi=110)
    print(f"\npicture: {OUTPUT / 'ficnn.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="toy size: shows that it runs, not what it shows")
    quick = parser.parse_args().quick
    full = {"width": 64, "depth": 20, "seeds": 5, "steps": 2000}
    main(**({"width": 6, "depth": 3, "seeds": 2, "steps": 5} if quick else full))
