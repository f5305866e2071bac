"""Scheme `auto` against AnyInit's analytic mode, on the Linen networks that both can treat.

`python -m benchmarks.anyinit [--write]` prints the table of docs/calibration.md, or writes it there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from statistics import median
from typing import Any

import anyinit
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import initax as ix
from benchmarks._written import write

WIDTH, DEPTH, BATCH, DRAWS = 256, 30, 64, 10
ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "softplus": nn.softplus, "gelu": nn.gelu, "silu": nn.silu}
CASES = [*((name, False) for name in ACTIVATIONS), ("relu", True)]


class Network(nn.Module):
    """A multilayer perceptron, with residual sums if wanted."""

    activation: Callable[[Any], Any]
    residual: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(WIDTH)(x)
        for _ in range(DEPTH - 1):
            y = nn.Dense(WIDTH)(self.activation(x))
            x = x + y if self.residual else y
        return x


def ours(module: Network, variables: Any, x: jax.Array, draw: int, **options: Any) -> Any:
    """Return the variables under `auto`."""
    rules = {"Linear": ("auto", options)}
    return ix.reinit(variables, rules, jax.random.key(draw), module=module, inputs=x)


def theirs(module: Network, variables: Any, x: jax.Array, draw: int, **options: Any) -> Any:
    """Return the variables under AnyInit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return anyinit.initialize_params(module, variables, x.shape, seed=draw, **options)[0]


PEER = f"AnyInit {version('anyinit')}"
METHODS: dict[str, Callable[..., Any]] = {
    "initax `auto`": ours,
    "`bias_share=0.3`": partial(ours, bias_share=0.3),
    "`center=True`": partial(ours, center=True),
    f"{PEER}, analytic": theirs,
    f"{PEER}, `center=True`": partial(theirs, center=True),
}
TIMED = ("initax `auto`", f"{PEER}, analytic")


def measure(method: Callable[..., Any], module: Network) -> tuple[str, float]:
    """Return length and correlation of the output over draws, and the median of the seconds of one call.

    The length is the mean square, the correlation the mean cosine between the outputs of two examples.
    """
    x = jax.random.normal(jax.random.key(1), (BATCH, WIDTH))
    variables = module.init(jax.random.key(0), x)

    @jax.jit
    def run(variables: Any) -> tuple[jax.Array, jax.Array]:
        y = module.apply(variables, x)
        unit = y / jnp.linalg.norm(y, axis=1, keepdims=True)
        return jnp.mean(y**2), (jnp.sum(unit @ unit.T) - BATCH) / (BATCH * (BATCH - 1))

    squares, correlations, taken = [], [], []
    for draw in range(DRAWS):
        start = time.perf_counter()
        new = method(module, variables, x, draw)
        taken.append(time.perf_counter() - start)
        square, correlation = run(new)
        squares.append(float(square))
        correlations.append(float(correlation))
    low, middle, high = np.quantile(squares, [0.1, 0.5, 0.9])
    return f"{middle:.3g} ({low:.3g}–{high:.3g}), {median(correlations):.2f}".replace("-0.00", "0.00"), median(taken)


def table() -> Iterator[str]:
    """Return the rows."""
    yield f"| network | {' | '.join(METHODS)} | seconds (initax, AnyInit) |"
    yield f"|{'---|' * (len(METHODS) + 2)}"
    for name, residual in CASES:
        module = Network(ACTIVATIONS[name], residual)
        cells = {method: measure(function, module) for method, function in METHODS.items()}
        seconds = ", ".join(f"{cells[method][1]:.2f}" for method in TIMED)
        texts = " | ".join(text for text, _ in cells.values())
        yield f"| {name}{', residual' if residual else ''} | {texts} | {seconds} |"


def main() -> None:
    """Measure; print the table and, if asked, write it into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anyinit", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/calibration.md")
    arguments = parser.parse_args()
    rows = []
    for row in table():
        print(row, flush=True)
        rows.append(row)
    if arguments.write:
        write("calibration", "anyinit", "\n".join(rows))


if __name__ == "__main__":
    main()
