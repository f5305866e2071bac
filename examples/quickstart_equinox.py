"""Other initial weights for a model that already exists."""

import equinox as eqx
import jax
import jax.numpy as jnp

import initax as ix

# A model somebody else wrote. Its code stays as it is.
keys = jax.random.split(jax.random.key(0))
model = eqx.nn.Sequential(
    [
        eqx.nn.Conv2d(1, 4, 3, padding=1, key=keys[0]),
        eqx.nn.Lambda(jnp.ravel),
        eqx.nn.LayerNorm(4 * 8 * 8),
        eqx.nn.MLP(4 * 8 * 8, 10, 32, depth=2, key=keys[1]),
    ]
)

# Selector → scheme; the last rule that matches a layer wins.
rules = {
    eqx.nn.Linear: ix.Scheme("he_normal", bias=("constant", {"value": 0.01})),  # a class, a scheme by role
    "Conv": ("orthogonal", {"gain": "relu"}),  # a kind of layer
    "layers.3.layers.2": ("normal", {"stddev": 1e-3}),  # a path: the last layer of the perceptron
}
print(ix.plan(model, rules))

fresh = ix.reinit(model, rules, jax.random.key(1))
print("logits:", fresh(jnp.ones((1, 8, 8))))

# What no rule selects is not even copied: it is the same array.
assert fresh.layers[2].weight is model.layers[2].weight
assert fresh.layers[0].weight is not model.layers[0].weight
