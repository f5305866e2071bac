"""A layer of your own: say once which axes of its arrays are inputs and which are outputs."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp

import initax as ix


class SelfAttention(eqx.Module):
    qkv: jax.Array  # three matrices in one: (3 × outputs, inputs)
    out: jax.Array  # (inputs, outputs)
    bias: jax.Array


mix = SelfAttention(jnp.ones((24, 8)), jnp.ones((8, 8)), jnp.ones(8))
model = {"embed": eqx.nn.Linear(4, 8, key=jax.random.key(0)), "mix": mix}

# Nobody said what the arrays mean: initax keeps them, and warns with the line that is missing.
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(ix.plan(model, {"*": "orthogonal"}), end="\n\n")
assert [each.category for each in caught] == [ix.InitaxWarning]

# A rule can say it. "three" is neither an input nor an output, so each of the matrices is drawn on its own.
axes = {"qkv": "(three o) i", "out": "i o", "bias": "o"}
rules = {"*": "orthogonal", "mix": ix.Scheme("orthogonal", axes=axes, sizes={"three": 3})}
by_rule = ix.reinit(model, rules, jax.random.key(1))

# Or say it once for every model: from now on the layer is like any other.
ix.register_layer(SelfAttention, kind="Attention", **axes, sizes={"three": 3})
print(ix.plan(model, {"*": "orthogonal"}))
by_class = ix.reinit(model, {"*": "orthogonal"}, jax.random.key(1))
assert (by_class["mix"].qkv == by_rule["mix"].qkv).all()
query, _, _ = jnp.split(by_class["mix"].qkv, 3)
assert jnp.allclose(query @ query.T, jnp.eye(8), atol=1e-5)
