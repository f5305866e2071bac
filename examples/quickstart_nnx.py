"""Other initial weights for a Flax NNX model: a rule map, its plan, a new module."""

import jax.numpy as jnp
from flax import nnx

import initax as ix


class Tagger(nnx.Module):
    """Reads tokens one after the other and tags each."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(1000, 32, rngs=rngs)
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(32, 64, rngs=rngs))
        self.attention = nnx.MultiHeadAttention(4, 64, decode=False, rngs=rngs)
        self.head = nnx.Linear(64, 12, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.attention(self.rnn(self.embed(tokens))))


RULES = {
    "Linear": "glorot_uniform",
    "RNNCell": ix.Scheme("glorot_uniform", recurrent="orthogonal", bias=("forget_gate", {"value": 1.0})),
    "Embedding": ("normal", {"stddev": 0.02}),
    "head": "zeros",
}

model = Tagger(nnx.Rngs(0))
plan = ix.plan(model, RULES)
print(plan)
new = plan.draw(nnx.Rngs(1))

tokens = jnp.zeros((2, 7), jnp.int32)
print("at the start every tag is equally likely:", bool((new(tokens) == 0).all()))
print("the old model is as it was:", bool((model(tokens) != 0).any()))
