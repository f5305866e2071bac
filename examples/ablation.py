"""Six initializations of a small convolutional network on handwritten digits, ten seeds each, with intervals.

`python examples/ablation.py` takes a minute or two on two cores and leaves ablation-output/: the runs, to which a
second call adds nothing, the tables and a picture. All sixty networks are trained by one compiled function.
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import initax as ix

OUTPUT = Path("ablation-output")
BATCH, WIDTH = 32, 16
OPTIMIZER = optax.sgd(0.05, momentum=0.9)

SCHEMES = {
    "Equinox default": {"*": "default"},
    "lecun_normal": {"*": "lecun_normal"},
    "he_normal": {"*": "he_normal"},
    "orthogonal": {"*": ("orthogonal", {"gain": "relu"})},
    "he, head zero": {"*": "he_normal", "head": "zeros"},
    "normal(0.02)": {"*": ("normal", {"stddev": 0.02})},
}


class ConvNet(eqx.Module):
    """Four convolutions without a norm layer, which would repair a bad start."""

    convs: list[eqx.nn.Conv2d]
    head: eqx.nn.Linear

    def __init__(self, key):
        *keys, last = jax.random.split(key, 5)
        shapes = [(1, 2), (WIDTH, 1), (WIDTH, 2), (WIDTH, 1)]
        self.convs = [
            eqx.nn.Conv2d(channels, WIDTH, 3, stride, padding=1, key=each)
            for each, (channels, stride) in zip(keys, shapes, strict=True)
        ]
        self.head = eqx.nn.Linear(4 * WIDTH, 10, key=last)

    def __call__(self, image):
        signal = image[None]
        for conv in self.convs:
            signal = jax.nn.relu(conv(signal))
        return self.head(signal.ravel())


def experiment(steps):
    """Return the function of a model and a key that trains the model and measures it."""
    images, labels = load_digits(return_X_y=True)
    images = jnp.asarray(images.reshape(-1, 8, 8) / 16, jnp.float32)
    train_x, test_x, train_y, test_y = map(
        jnp.asarray, train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)
    )

    def loss(arrays, static, x, y):
        logits = jax.vmap(eqx.combine(arrays, static))(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def run(model, key):
        arrays, static = eqx.partition(model, eqx.is_array)

        def step(carry, key):
            arrays, state = carry
            rows = jax.random.randint(key, (BATCH,), 0, len(train_x))
            value, gradients = jax.value_and_grad(loss)(arrays, static, train_x[rows], train_y[rows])
            updates, state = OPTIMIZER.update(gradients, state)
            return (optax.apply_updates(arrays, updates), state), value

        keys = jax.random.split(key, steps)
        (arrays, _), losses = jax.lax.scan(step, (arrays, OPTIMIZER.init(arrays)), keys)
        answers = jax.vmap(eqx.combine(arrays, static))(test_x).argmax(axis=1)
        return {"test error": (answers != test_y).mean(), "training loss": losses.reshape(-1, 5).mean(axis=1)}

    return run


def main(seeds, steps):
    model = ConvNet(jax.random.key(0))
    print(ix.plan(model, SCHEMES["he, head zero"]), end="\n\n")
    keys = jax.random.split(jax.random.key(1), seeds)
    ablation = ix.ablate(model, SCHEMES, keys, experiment(steps), path=OUTPUT / "runs.jsonl")
    print(ablation)
    (OUTPUT / "table.txt").write_text(f"{ablation}\n", "utf-8")
    ablation.plot().savefig(OUTPUT / "ablation.png", dpi=110)
    print(f"\nruns, table and picture: {OUTPUT}/")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="toy size: shows that it runs, not what it shows")
    quick = parser.parse_args().quick
    main(**({"seeds": 2, "steps": 5} if quick else {"seeds": 10, "steps": 250}))
