"""One learning rate for every width: a small transformer on Python's own documentation, with muP and without.

Each width is trained with several learning rates, under standard parametrization and under muP with the narrowest model
for its base. The losses are printed and drawn: under muP the best learning rate stays where it is. `--full` takes wider
models, nine rates, more steps and five seeds; `--quick` takes two widths and few steps. `--muon` does something else:
it prints how far the outputs of a residual network move in five steps of Muon, from width 64 to 1,024.
"""

import argparse
import time
from pathlib import Path
from pydoc_data.topics import topics

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import initax as ix

OUTPUT = Path("mup-output")
TEXT = "\n".join(topics.values())
LETTERS = sorted(set(TEXT))
DATA = np.searchsorted(LETTERS, list(TEXT)).astype(np.int32)
CONTEXT, BATCH, HEADS, LAST = 16, 4, 2, 10
RULES = {"Linear": "lecun_normal", "Embedding": ("normal", {"stddev": 1.0}), "Norm": "default"}


class Block(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    rotary: eqx.nn.RotaryPositionalEmbedding
    norms: list[eqx.nn.LayerNorm]
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width, key):
        keys = jax.random.split(key, 3)
        self.attention = eqx.nn.MultiheadAttention(HEADS, width, key=keys[0])
        self.rotary = eqx.nn.RotaryPositionalEmbedding(width // HEADS)
        self.norms = [eqx.nn.LayerNorm(width) for _ in range(2)]
        self.up = eqx.nn.Linear(width, 4 * width, key=keys[1])
        self.down = eqx.nn.Linear(4 * width, width, key=keys[2])

    def turned(self, query, key, value):
        return jax.vmap(self.rotary, 1, 1)(query), jax.vmap(self.rotary, 1, 1)(key), value

    def __call__(self, x):
        inside = jax.vmap(self.norms[0])(x)
        past = jnp.tril(jnp.ones((len(x), len(x)), bool))
        x = x + self.attention(inside, inside, inside, mask=past, process_heads=self.turned)
        return x + jax.vmap(lambda x: self.down(jax.nn.gelu(self.up(self.norms[1](x)))))(x)


class Transformer(eqx.Module):
    embed: eqx.nn.Embedding
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, width, layers, key):
        keys = jax.random.split(key, layers + 2)
        self.embed = eqx.nn.Embedding(len(LETTERS), width, key=keys[0])
        self.blocks = [Block(width, each) for each in keys[2:]]
        self.norm = eqx.nn.LayerNorm(width)
        self.head = eqx.nn.Linear(width, len(LETTERS), key=keys[1])

    def __call__(self, letters):
        x = jax.vmap(self.embed)(letters)
        for block in self.blocks:
            x = block(x)
        return jax.vmap(lambda x: self.head(self.norm(x)))(x)


def abstract(width, layers):
    """The model without its arrays: shapes are all that is asked for."""
    return eqx.filter_eval_shape(Transformer, width, layers, jax.random.key(0))


@eqx.filter_jit
def train(models, multipliers, rates, starts):
    """Mean loss over the last steps, for each model of a stack and each learning rate."""
    batches = jnp.asarray(DATA)[starts[..., None] + jnp.arange(CONTEXT + 1)]
    arrays, static = eqx.partition(models, eqx.is_inexact_array)
    optimizer = optax.scale_by_adam()

    def loss(arrays, rows):
        logits = jax.vmap(eqx.combine(arrays, static))(rows[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()

    def one(arrays, rate):
        def step(held, rows):
            arrays, state = held
            value, grads = jax.value_and_grad(loss)(arrays, rows)
            updates, state = optimizer.update(grads, state)
            updates = jax.tree.map(lambda update, factor: -rate * factor * update, updates, multipliers)
            return (optax.apply_updates(arrays, updates), state), value

        return jax.lax.scan(step, (arrays, optimizer.init(arrays)), batches)[1][-LAST:].mean()

    return jax.lax.map(lambda arrays: jax.lax.map(lambda rate: one(arrays, rate), rates), arrays)


def losses_at(width, base, layers, rates, seeds, steps):
    """Parametrization → losses, of shape (seeds, rates); and the plan and the factors of muP."""
    model = abstract(width, layers)
    factors = ix.mup(abstract(base, layers), model, inputs=jax.ShapeDtypeStruct((CONTEXT,), jnp.int32))
    multipliers = jax.tree.map(jnp.asarray, factors.multipliers.tree)
    starts = np.random.default_rng(0).integers(len(DATA) - CONTEXT - 1, size=(steps, BATCH))
    plan, found = ix.plan(model, factors.rules(RULES)), {}
    for name, own, scaled in (
        ("standard", ix.plan(model, RULES), jax.tree.map(jnp.ones_like, multipliers)),
        ("muP", plan, multipliers),
    ):
        models = [own.draw(jax.random.key(seed)) for seed in range(seeds)]
        stacked = jax.tree.map(lambda *each: jnp.stack(each) if eqx.is_array(each[0]) else each[0], *models)
        found[name] = np.asarray(train(stacked, scaled, jnp.asarray(rates), jnp.asarray(starts)))
    return found, plan, factors


def best(rates, losses):
    """The learning rate of the lowest median loss, between those of the sweep: the vertex of a parabola."""
    curve = np.where(np.isfinite(losses), losses, np.inf)
    middle = np.median(curve, axis=0)
    at = int(np.clip(np.argmin(middle), 1, len(rates) - 2))
    left, here, right = middle[at - 1 : at + 2]
    bend = left - 2 * here + right
    shift = 0.5 * (left - right) / bend if np.isfinite(bend) and bend > 0 else 0.0
    return 2 ** (np.log2(rates[at]) + float(np.clip(shift, -1, 1)) * np.log2(rates[1] / rates[0]))


def drawn(found, rates):
    """A panel for each parametrization, in it a line for each width, with a band over the seeds."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for panel, name in zip(figure.subplots(1, 2, sharey=True), ("standard", "muP"), strict=True):
        for width, losses in found.items():
            low, middle, high = np.quantile(losses[name], (0.0, 0.5, 1.0), axis=0)
            (line,) = panel.plot(rates, middle, marker=".", label=f"width {width}")
            panel.fill_between(rates, low, high, alpha=0.2, linewidth=0, color=line.get_color())
            panel.axvline(best(rates, losses[name]), color=line.get_color(), linestyle=":", linewidth=1)
        panel.set_xscale("log", base=2)
        panel.set_title(name)
        panel.set_xlabel("learning rate")
        panel.legend()
    lowest = min(losses["muP"].min() for losses in found.values())
    figure.axes[0].set_ylim(lowest - 0.05, lowest + 1.5)
    figure.axes[0].set_ylabel(f"loss, last {LAST} steps")
    return figure


class Residual(eqx.Module):
    first: eqx.nn.Linear
    norms: list[eqx.nn.LayerNorm]
    blocks: list[eqx.nn.MLP]
    head: eqx.nn.Linear

    def __init__(self, width, key):
        keys = jax.random.split(key, 4)
        self.first = eqx.nn.Linear(8, width, key=keys[0])
        self.norms = [eqx.nn.LayerNorm(width) for _ in range(3)]
        self.blocks = [eqx.nn.MLP(width, width, width, depth=1, key=each) for each in keys[2:]]
        self.head = eqx.nn.Linear(width, 4, key=keys[1])

    def __call__(self, x):
        x = self.first(x)
        for norm, block in zip(self.norms, self.blocks, strict=False):
            x = x + block(norm(x))
        return self.head(self.norms[-1](x))


def moved_by_muon(widths, use_mup):
    """How far each output of a residual network with a head of zeros moves in five steps of Muon."""
    rules = {"Linear": "lecun_normal", "Norm": "default", "head": "zeros"}
    x, target = jax.random.normal(jax.random.key(0), (32, 8)), jax.random.normal(jax.random.key(1), (32, 4))
    models = {width: eqx.filter_eval_shape(Residual, width, jax.random.key(0)) for width in widths}
    factors = {width: ix.mup(models[widths[0]], models[width], optimizer="muon") for width in widths}
    optimizers = {width: ix.muon(0.02, models[width], adam_learning_rate=0.002) for width in widths}
    if use_mup:
        optimizers = {width: optax.chain(optimizers[width], factors[width].scale_updates()) for width in widths}

    def make(width, key):
        model = ix.reinit(models[width], factors[width].rules(rules) if use_mup else rules, key)
        return model, optimizers[width].init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(held, width):
        model, state = held
        gradients = eqx.filter_grad(lambda model: ((jax.vmap(model)(x) - target) ** 2).mean())(model)
        updates, state = optimizers[width].update(gradients, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    keys = jax.random.split(jax.random.key(2), 3)
    return ix.coordinate_check(make, widths, keys, step, inputs=x, forward=lambda model, x: jax.vmap(model)(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="five seeds, 16 times the width, nine learning rates")
    parser.add_argument("--quick", action="store_true", help="toy size: shows that it runs, not what it shows")
    parser.add_argument("--muon", action="store_true", help="the coordinate check of a residual network under Muon")
    arguments = parser.parse_args()
    if arguments.muon:
        for name in ("standard", "muP"):
            print(f"{name}: {moved_by_muon((64, 128, 256, 512, 1024), name == 'muP')}", end="\n\n")
        return
    full = arguments.full
    widths, layers, seeds, steps = ((16, 64, 256), 2, 5, 60) if full else ((16, 32, 64), 1, 1, 30)
    if arguments.quick:
        widths, steps = widths[:2], LAST
    rates = 2.0 ** np.arange(-11, -2) if full else 2.0 ** np.arange(-9, -1, 2)
    found = {}
    for width in widths:
        started = time.perf_counter()
        found[width], plan, factors = losses_at(width, widths[0], layers, rates, seeds, steps)
        print(f"width {width}: {time.perf_counter() - started:.0f} s", flush=True)
    print(factors, end="\n\n")
    print(plan, end="\n\n")
    for name in ("standard", "muP"):
        chosen = [best(rates, losses[name]) for losses in found.values()]
        shown = ", ".join(f"{rate:.2g} at width {width}" for width, rate in zip(widths, chosen, strict=True))
        octaves = np.log2(chosen[-1] / chosen[0])
        print(f"{name}: the best learning rate is {shown}; it moves by {octaves:+.1f} octaves")
        for width, losses in found.items():
            print(f"  {width:5}", *(f"{loss:.2f}" for loss in np.median(losses[name], axis=0)))
    OUTPUT.mkdir(exist_ok=True)
    drawn(found, rates).savefig(OUTPUT / "mup.png", dpi=150)


if __name__ == "__main__":
    main()
