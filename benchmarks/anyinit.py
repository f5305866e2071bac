"""Scheme `auto` against AnyInit's analytic mode, on the Linen networks that both can treat.

`python -m benchmarks.anyinit [--write]` prints the table of docs/calibration.md, or writes it there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
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


def ours(module: Network, variables: Any, x: jax.Array, draw: int, share: float = 0.0) -> Any:
    """Return the variables under `auto`."""
    rules = {"Linear": ("auto", {"bias_share": share})}
    return ix.reinit(variables, rules, jax.random.key(draw), module=module, inputs=x)


def theirs(module: Network, variables: Any, x: jax.Array, draw: int) -> Any:
    """Return the variables under AnyInit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return anyinit.initialize_params(module, variables, x.shape, seed=draw)[0]


def shared(module: Network, variables: Any, x: jax.Array, draw: int) -> Any:
    """Return the variables under `auto` with three tenths of each variance in the bias."""
    return ours(module, variables, x, draw, share=0.3)


def measure(method: Callable[..., Any], module: Network) -> tuple[str, float]:
    """Return the mean square of the output over draws, and the median of the seconds of one call."""
    x = jax.random.normal(jax.random.key(1), (BATCH, WIDTH))
    variables = module.init(jax.random.key(0), x)
    run = jax.jit(lambda variables: jnp.mean(module.apply(variables, x) ** 2))
    squares, taken = [], []
    for draw in range(DRAWS):
        start = time.perf_counter()
        new = method(module, variables, x, draw)
        taken.append(time.perf_counter() - start)
        squares.append(float(run(new)))
    low, middle, high = np.quantile(squares, [0.1, 0.5, 0.9])
    return f"{middle:.3g} ({low:.3g}–{high:.3g})", median(taken)


def table() -> Iterator[str]:
    """Return the rows."""
    peer = f"AnyInit {version('anyinit')}, analytic"
    yield f"| network | initax `auto` | with `bias_share=0.3` | {peer} | seconds (initax, AnyInit) |"
    yield "|---|---|---|---|---|"
    for name, residual in CASES:
        module = Network(ACTIVATIONS[name], residual)
        (own, took), (biased, _), (other, needed) = (measure(each, module) for each in (ours, shared, theirs))
        yield f"| {name}{', residual' if residual else ''} | {own} | {biased} | {other} | {took:.2f}, {needed:.2f} |"


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
