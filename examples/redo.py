"""ReDo: units that have gone dormant are drawn anew while the network trains (Sokar et al. 2023, algorithm 1).

The labels of handwritten digits are shuffled again and again, so that what was learned has to be unlearned; under Adam
with a high learning rate more and more units then give nothing on any digit. `python examples/redo.py` trains the same
network with and without ReDo.
"""

import argparse
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import initax as ix

WIDTH, DEPTH, BATCH, EVERY, TAU = 128, 3, 64, 50, 0.025
OPTIMIZER = optax.adam(3e-3)


def batched(model, x):
    return jax.vmap(model)(x)


def dormant(layers, x):
    """Which units of each hidden layer give less than a share TAU of what units there give on average."""
    found = []
    for layer in layers:
        x = jax.nn.relu(jax.vmap(layer)(x))
        score = jnp.abs(x).mean(0)
        found.append(score <= TAU * score.mean())
    return found


@eqx.filter_jit
def redo(model, state, x, key):
    """Return the model and the optimizer's state with dormant units as new."""
    for at, mask in enumerate(dormant(model.layers[:-1], x)):
        model, state = ix.reset_units(
            model, f"layers.{at}", mask, jax.random.fold_in(key, at), inputs=x, forward=batched, opt_state=state
        )
    return model, state


def loss(model, x, labels):
    return optax.softmax_cross_entropy_with_integer_labels(batched(model, x), labels).mean()


@eqx.filter_jit
def step(model, state, x, labels):
    """Return the model and the state after a step."""
    updates, state = OPTIMIZER.update(eqx.filter_grad(loss)(model, x, labels), state)
    return eqx.apply_updates(model, updates), state


def train(model, images, labels, key, tasks, steps, recycle):
    """Return the loss on all digits at the end of each task, and the share of dormant units at the end of the last."""
    state = OPTIMIZER.init(eqx.filter(model, eqx.is_array))
    ends = []
    for task in range(tasks):
        shuffled = jax.random.permutation(jax.random.fold_in(key, task), labels)
        for number in range(steps):
            at = jax.random.fold_in(key, tasks + task * steps + number)
            batch = jax.random.randint(at, (BATCH,), 0, len(images))
            model, state = step(model, state, images[batch], shuffled[batch])
            if recycle and number % EVERY == EVERY - 1:
                model, state = redo(model, state, images[:BATCH], at)
        ends.append(float(loss(model, images, shuffled)))
    masks = dormant(model.layers[:-1], images)
    return ends, float(jnp.concatenate(masks).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few tasks and steps")
    quick = parser.parse_args().quick
    tasks, steps = (2, 60) if quick else (10, 800)
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    model = eqx.nn.MLP(64, 10, WIDTH, DEPTH, key=jax.random.key(0))
    plan = ix.plan(model, {"Linear": "he_normal"})
    print(plan, end="\n\n")
    run = functools.partial(train, plan.draw(jax.random.key(1)), images, labels, jax.random.key(2), tasks, steps)
    for name, recycle in (("alone", False), ("ReDo", True)):
        ends, share = run(recycle)
        shown = " ".join(f"{value:.2f}" for value in ends)
        print(f"{name:5}  loss at the end of each task: {shown}   dormant at the end: {share:.0%}")


if __name__ == "__main__":
    main()
