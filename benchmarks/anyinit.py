"""Scheme `auto` against AnyInit's analytic mode, on the Linen networks that both can treat.

Run where initax, Flax and anyinit are installed: `python -m benchmarks.anyinit`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import anyinit
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import initax as ix

WIDTH, DEPTH, BATCH, DRAWS = 256, 30, 64, 10
ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "softplus": nn.softplus, "gelu": nn.gelu, "silu": nn.silu}


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


def main() -> None:
    print("| network | initax `auto` | AnyInit analytic | seconds (initax, AnyInit) |\n|---|---|---|---|")
    x = jax.random.normal(jax.random.key(1), (BATCH, WIDTH))
    cases = [(name, False) for name in ACTIVATIONS] + [("relu", True)]
    for name, residual in cases:
        module = Network(ACTIVATIONS[name], residual)
        variables = module.init(jax.random.key(0), x)
        run = jax.jit(module.apply)
        found: dict[str, list[float]] = {"ours": [], "theirs": []}
        taken: dict[str, list[float]] = {"ours": [], "theirs": []}
        for draw in range(DRAWS):
            start = time.perf_counter()
            ours = ix.reinit(variables, {"Linear": "auto"}, jax.random.key(draw), module=module, inputs=x)
            taken["ours"].append(time.perf_counter() - start)
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs, _ = anyinit.initialize_params(module, variables, x.shape, seed=draw)
            taken["theirs"].append(time.perf_counter() - start)
            for who, params in (("ours", ours), ("theirs", theirs)):
                found[who].append(float(jnp.mean(run(params, x) ** 2)))
        spans = ["{1:.3g} ({0:.3g}–{2:.3g})".format(*np.quantile(each, (0.1, 0.5, 0.9))) for each in found.values()]
        seconds = ", ".join(f"{np.median(each):.2f}" for each in taken.values())
        print(f"| {name}{', residual' if residual else ''} | {spans[0]} | {spans[1]} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
