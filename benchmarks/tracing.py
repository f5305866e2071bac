"""What it costs to read a model off its forward pass, beside tracing it: `python -m benchmarks.tracing`.

All models are abstract: no weight is made. A pair is `jax.make_jaxpr` of the forward pass, and `ix.survey`, which
traces it, too, and reads it; the ratio of a pair is what is compared, for other work on the machine slows both.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from typing import Any

import jax
import jax.numpy as jnp

import initax as ix

Forward = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A model, what it is called on, and both ways to trace it.

    Attributes:
        text: what it is.
        arrays: its arrays, as `jax.make_jaxpr` takes them.
        run: the forward pass as a function of these and of the input.
        model: the model as initax takes it.
        forward: how it is called.
        x: the input.
    """

    text: str
    arrays: Any
    run: Forward
    model: Any
    forward: Forward
    x: Any


def array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def of_arrays(text: str, arrays: Any, run: Forward, x: Any) -> Program:
    """Return a program whose model is a plain container of arrays."""
    return Program(text=text, arrays=arrays, run=run, model=arrays, forward=run, x=x)


def block(own: dict[str, Any], x: jax.Array) -> jax.Array:
    """Return the residual stream behind one block of a transformer."""
    query, key, value = (jnp.einsum("td,dhk->htk", x, own[name]) for name in ("query", "key", "value"))
    scores = jax.nn.softmax(query @ jnp.swapaxes(key, -1, -2) / query.shape[-1] ** 0.5)
    x = x + jnp.einsum("htk,hkd->td", scores @ value, own["out"])
    return x + jax.nn.gelu(x @ own["up"]) @ own["down"]


def block_arrays(width: int, heads: int) -> dict[str, Any]:
    split = dict.fromkeys(("query", "key", "value"), array(width, heads, width // heads))
    rest = {"out": array(heads, width // heads, width), "up": array(width, 4 * width), "down": array(4 * width, width)}
    return split | rest


def transformer(depth: int = 48, width: int = 3072) -> Program:
    """Return blocks of raw arrays in einsums, one after the other."""

    def run(blocks: list[dict[str, Any]], x: jax.Array) -> jax.Array:
        for own in blocks:
            x = block(own, x)
        return x

    arrays = [block_arrays(width, 24) for _ in range(depth)]
    return of_arrays(f"transformer of {depth} blocks of einsums, in a Python loop", arrays, run, array(16, width))


def scanned(depth: int = 48, width: int = 3072) -> Program:
    """Return the same blocks, stacked, in a scan."""

    def run(blocks: dict[str, Any], x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, own: (block(own, carry), None), x, blocks)[0]

    arrays = {name: array(depth, *each.shape) for name, each in block_arrays(width, 24).items()}
    return of_arrays(f"the same {depth} blocks, stacked, in a scan", arrays, run, array(16, width))


def experts(depth: int = 12, width: int = 512) -> Program:
    """Return layers of eight experts, of which the data picks one for each token."""

    def run(layers: list[dict[str, Any]], x: jax.Array) -> jax.Array:
        for own in layers:
            chosen = jnp.argmax(x @ own["router"], axis=-1)
            hidden = jax.nn.gelu(jnp.einsum("td,tdh->th", x, own["up"][chosen]) + own["bias"][chosen])
            x = x + jnp.einsum("th,thd->td", hidden, own["down"][chosen])
        return x

    own = {
        "router": array(width, 8),
        "up": array(8, width, 4 * width),
        "bias": array(8, 4 * width),
        "down": array(8, 4 * width, width),
    }
    return of_arrays(f"{depth} layers of 8 experts, looked up", [own] * depth, run, array(16, width))


def resnet() -> Program:
    """Return the convolutions of ResNet-50, with a scale and a shift behind each."""

    def conv(own: dict[str, Any], x: jax.Array, stride: int = 1) -> jax.Array:
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, own["w"], (stride, stride), "SAME", dimension_numbers=dimensions)
        return (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * own["scale"] + own["shift"]

    def run(arrays: dict[str, Any], x: jax.Array) -> jax.Array:
        x = jax.nn.relu(conv(arrays["stem"], x, 2))
        for at, own in enumerate(arrays["blocks"]):
            stride = 2 if at in (3, 7, 13) else 1
            hidden = jax.nn.relu(conv(own["down"], x))
            hidden = jax.nn.relu(conv(own["middle"], hidden, stride))
            shortcut = conv(own["shortcut"], x, stride) if "shortcut" in own else x
            x = jax.nn.relu(conv(own["up"], hidden) + shortcut)
        return x.mean((1, 2)) @ arrays["head"]

    def kernel(size: int, inputs: int, outputs: int) -> dict[str, Any]:
        return {"w": array(size, size, inputs, outputs), "scale": array(outputs), "shift": array(outputs)}

    blocks, inputs = [], 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for place in range(depth):
            own = {
                "down": kernel(1, inputs, width),
                "middle": kernel(3, width, width),
                "up": kernel(1, width, 4 * width),
            }
            blocks.append(own | ({"shortcut": kernel(1, inputs, 4 * width)} if place == 0 else {}))
            inputs = 4 * width
    arrays = {"stem": kernel(7, 3, 64), "blocks": blocks, "head": array(inputs, 1000)}
    return of_arrays("ResNet-50 of plain convolutions", arrays, run, array(2, 64, 64, 3))


def equinox_transformer(depth: int = 12, width: int = 256) -> Program:
    """Return blocks of Equinox's own layers."""
    import equinox as eqx

    class Block(eqx.Module):
        norms: list[eqx.nn.LayerNorm]
        attention: eqx.nn.MultiheadAttention
        mlp: eqx.nn.MLP

        def __init__(self, key: jax.Array) -> None:
            first, second = jax.random.split(key)
            self.norms = [eqx.nn.LayerNorm(width) for _ in range(2)]
            self.attention = eqx.nn.MultiheadAttention(8, width, key=first)
            self.mlp = eqx.nn.MLP(width, width, 4 * width, 1, jax.nn.gelu, key=second)

        def __call__(self, x: jax.Array) -> jax.Array:
            own = jax.vmap(self.norms[0])(x)
            x = x + self.attention(own, own, own)
            return x + jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))

    model = eqx.filter_eval_shape(lambda key: [Block(key) for _ in range(depth)], jax.random.key(0))
    arrays, static = eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def forward(blocks: list[Any], x: jax.Array) -> jax.Array:
        for own in blocks:
            x = own(x)
        return x

    def run(arrays: Any, x: jax.Array) -> jax.Array:
        return forward(eqx.combine(arrays, static), x)

    text = f"transformer of {depth} blocks of Equinox's layers"
    return Program(text=text, arrays=arrays, run=run, model=model, forward=forward, x=array(16, width))


def nnx_recurrent(depth: int = 4, width: int = 128) -> Program:
    """Return LSTMs of Flax NNX, one behind the other."""
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.layers = nnx.List([nnx.RNN(nnx.LSTMCell(width, width, rngs=rngs)) for _ in range(depth)])
            self.head = nnx.Linear(width, 10, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers:
                x = layer(x)
            return self.head(x)

    model = nnx.eval_shape(lambda: Network(nnx.Rngs(0)))
    graph, arrays = nnx.split(model)

    def run(arrays: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, arrays)(x)

    return Program(
        text=f"{depth} LSTMs of Flax NNX",
        arrays=arrays,
        run=run,
        model=model,
        forward=lambda model, x: model(x),
        x=array(2, 16, width),
    )


PROGRAMS = (transformer, scanned, experts, resnet, equinox_transformer, nnx_recurrent)


def seconds(call: Callable[[], Any]) -> float:
    """Return the processor time of a call: what else the machine does is not counted."""
    start = time.process_time()
    call()
    return time.process_time() - start


def pairs(program: Program, times: int) -> Iterator[tuple[float, float]]:
    """Yield the time of tracing alone and of tracing and reading, in pairs, after a first pair that is not counted.

    JAX keeps the trace of a function that it has seen, so each call alone gets a function of its own, as within initax.
    """

    def alone() -> Any:
        return jax.make_jaxpr(lambda arrays, x: program.run(arrays, x))(program.arrays, program.x)  # noqa: PLW0108

    def read() -> Any:
        return ix.survey(program.model, inputs=program.x, forward=program.forward)

    for place in range(times + 1):
        pair = seconds(alone), seconds(read)
        if place:
            yield pair


def deepest() -> str:
    """Return what a plan of the deepest program with `auto` takes, in time and memory, in words."""
    deep = transformer()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = partial(ix.plan, deep.model, {"*": "auto"}, inputs=deep.x, forward=deep.forward)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ix.InitaxWarning)  # auto can't tell what attention makes of a signal
        taken = median(seconds(plan) for _ in range(3))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    parameters = sum(leaf.size for leaf in jax.tree.leaves(deep.arrays)) / 1e9
    return f"{parameters:.1f} billion parameters: plan with auto {taken:.2f} s, {grown:.0f} MiB more"


def main() -> None:
    """Print a table: tracing alone, tracing and reading, their ratio; and what the deepest takes in memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=9, help="pairs a model")
    times = parser.parse_args().times
    print(deepest(), flush=True)  # first, while the process is small
    print("\n| model | arrays | `jax.make_jaxpr` | `ix.survey` | ratio | quartiles |")
    print("|---|---:|---:|---:|---:|---:|")
    for make in PROGRAMS:
        program = make()
        found = list(pairs(program, times))
        ratios = [read / alone for alone, read in found]
        low, middle, high = quantiles(ratios, n=4)
        alone, read = (median(each) for each in zip(*found, strict=True))
        count = sum(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(program.arrays))
        row = f"| {program.text} | {count} | {alone:.2f} s | {read:.2f} s | {middle:.1f} | {low:.1f} to {high:.1f} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
