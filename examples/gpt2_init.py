"""GPT-2's initial weights: normal 0.02, residual projections scaled by depth, the head tied to the embedding."""

import equinox as eqx
import jax
import jax.numpy as jnp

import initax as ix

LAYERS, WIDTH, HEADS, VOCABULARY, CONTEXT = 4, 64, 4, 500, 32


class Block(eqx.Module):
    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        biases = {f"use_{each}_bias": True for each in ("query", "key", "value", "output")}
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, **biases, key=keys[0])
        self.up = eqx.nn.Linear(WIDTH, 4 * WIDTH, key=keys[1])
        self.down = eqx.nn.Linear(4 * WIDTH, WIDTH, key=keys[2])
        self.norm1, self.norm2 = eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)

    def __call__(self, x):
        normed = jax.vmap(self.norm1)(x)
        x = x + self.attention(normed, normed, normed, mask=jnp.tril(jnp.ones((len(x), len(x)), bool)))
        return x + jax.vmap(lambda each: self.down(jax.nn.gelu(self.up(self.norm2(each)))))(x)


class GPT2(eqx.Module):
    tokens: eqx.nn.Shared
    positions: eqx.nn.Embedding
    blocks: list[Block]
    norm: eqx.nn.LayerNorm

    def __init__(self, key):
        keys = jax.random.split(key, LAYERS + 3)
        table = eqx.nn.Embedding(VOCABULARY, WIDTH, key=keys[0])
        head = eqx.nn.Linear(WIDTH, VOCABULARY, use_bias=False, key=keys[1])
        self.tokens = eqx.nn.Shared((table, head), lambda pair: pair[1].weight, lambda pair: pair[0].weight)
        self.positions = eqx.nn.Embedding(CONTEXT, WIDTH, key=keys[2])
        self.blocks = [Block(each) for each in keys[3:]]
        self.norm = eqx.nn.LayerNorm(WIDTH)

    def __call__(self, tokens):
        table, head = self.tokens()
        x = jax.vmap(table)(tokens) + jax.vmap(self.positions)(jnp.arange(len(tokens)))
        for block in self.blocks:
            x = block(x)
        return jax.vmap(lambda each: head(self.norm(each)))(x)


NORMAL = ("normal", {"stddev": 0.02})
RULES = {
    "Linear": NORMAL,
    "Embedding": NORMAL,
    "residual:end": ix.schemes.scaled(NORMAL, "gpt2"),
    "Norm": "default",
}

model = GPT2(jax.random.key(0))
plan = ix.plan(model, RULES, inputs=jax.ShapeDtypeStruct((CONTEXT,), jnp.int32))
print(plan, end="\n\n")
model = plan.draw(jax.random.key(1))

drawn = plan.arrays(jax.random.key(1))
for draw in plan.draws:
    if draw.std:
        path = draw.parameter.path
        print(f"{path:38} std {float(drawn[path].std()):.5f}, wanted {draw.std:.5f}")

table, head = model.tokens()
print("the head is the embedding:", head.weight is table.weight)
tokens = jax.random.randint(jax.random.key(2), (CONTEXT,), 0, VOCABULARY)
loss = -jnp.mean(jax.nn.log_softmax(model(tokens))[jnp.arange(CONTEXT - 1), tokens[1:]])
print(f"loss of the first step {float(loss):.2f}, of a uniform guess {float(jnp.log(VOCABULARY)):.2f}")
