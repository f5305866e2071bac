"""Muon for the gates of a recurrent network, each by itself; Adam and weight decay for what each of them is for."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import initax as ix

EPOCHS, BATCH = 6, 64


class Reader(eqx.Module):
    """Reads a picture line by line."""

    cell: eqx.nn.LSTMCell
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key)
        self.cell = eqx.nn.LSTMCell(8, 64, key=keys[0])
        self.norm = eqx.nn.LayerNorm(64)
        self.head = eqx.nn.Linear(64, 10, key=keys[1])

    def __call__(self, picture):
        start = (jnp.zeros(64), jnp.zeros(64))
        (last, _), _ = jax.lax.scan(lambda state, line: (self.cell(line, state), None), start, picture)
        return self.head(self.norm(last))


def main() -> None:
    pictures, digits = load_digits(return_X_y=True)
    pictures, digits = jnp.asarray(pictures.reshape(-1, 8, 8) / 16, "float32"), jnp.asarray(digits)
    model = Reader(jax.random.key(0))
    plan = ix.plan(model, {"*": "default", "RNNCell": ix.Scheme("glorot_uniform", recurrent="orthogonal")})
    print(plan, end="\n\n")
    model = plan.draw(jax.random.key(1))

    decay = ix.mask(model, ["weight", "recurrent"])
    optimizers = {
        "Adam": optax.adamw(3e-3, weight_decay=0.01, mask=decay),
        "Muon": ix.muon(
            0.02,
            model,
            {"head": False},
            weight_decay=0.01,
            weight_decay_mask=decay,
            adam_weight_decay=0.0,
        ),
    }
    print(decay, end="\n\n")

    def loss_of(model, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()

    for name, optimizer in optimizers.items():

        @eqx.filter_jit
        def step(model, state, x, y, optimizer=optimizer):
            loss, grads = eqx.filter_value_and_grad(loss_of)(model, x, y)
            updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
            return eqx.apply_updates(model, updates), state, loss

        trained, state = model, optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        for epoch in range(EPOCHS):
            order = jax.random.permutation(jax.random.key(epoch), 1500)
            for first in range(0, 1500 - BATCH, BATCH):
                rows = order[first : first + BATCH]
                trained, state, _ = step(trained, state, pictures[rows], digits[rows])
        right = (jax.vmap(trained)(pictures[1500:]).argmax(-1) == digits[1500:]).mean()
        print(f"{name}: {float(right):.1%} of 297 digits that it never saw")


if __name__ == "__main__":
    main()
