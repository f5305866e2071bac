"""How long the signal is behind 30 layers that `auto` scaled, by activation, width and share of the bias.

`python -m benchmarks.auto [--write]` prints the tables of docs/calibration.md, or writes them there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import initax as ix
from benchmarks._written import write

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": jax.nn.relu, "tanh": jnp.tanh, "softplus": jax.nn.softplus, "gelu": jax.nn.gelu, "silu": jax.nn.silu,
}  # fmt: skip
WIDTHS = (128, 512, 1024)
DEPTH, EARLY, EXAMPLES, DRAWS = 30, 10, 64, 20


def measure(activation: Callable[[Any], Any], width: int, share: float) -> tuple[np.ndarray, float]:
    """Return the mean square of each layer's pre-activations by draw, and how alike examples are behind the last."""
    model = eqx.nn.MLP(width, width, width, DEPTH - 1, activation=activation, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (EXAMPLES, width))
    inputs = jax.ShapeDtypeStruct((width,), jnp.float32)
    plan = ix.plan(model, {"*": ("auto", {"bias_share": share})}, inputs=inputs)

    @eqx.filter_jit
    def run(model: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        squares = []
        for layer in model.layers:
            y = x @ layer.weight.T + layer.bias
            squares.append(jnp.mean(y**2))
            x = activation(y)
        return jnp.stack(squares), jnp.mean(jnp.corrcoef(y)[jnp.triu_indices(EXAMPLES, 1)])

    found = [run(plan.draw(key), x) for key in jax.random.split(jax.random.key(2), DRAWS)]
    return np.array([squares for squares, _ in found]), float(np.mean([alike for _, alike in found]))


def spread(values: np.ndarray) -> str:
    """Return median and middle four fifths."""
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"


def table(share: float) -> Iterator[str]:
    """Return the rows of one share."""
    yield f"| `bias_share={share:g}` | width | {EARLY} layers | {DEPTH} layers | correlation |"
    yield "|---|---|---|---|---|"
    for name, activation in ACTIVATIONS.items():
        for width in WIDTHS:
            squares, alike = measure(activation, width, share)
            yield f"| {name} | {width} | {spread(squares[:, EARLY - 1])} | {spread(squares[:, -1])} | {alike:.2f} |"


def main() -> None:
    """Measure; print the tables and, if asked, write them into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.auto", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/calibration.md")
    arguments = parser.parse_args()
    made = "\n\n".join("\n".join(table(share)) for share in (0.3, 0.0))
    print(made)
    if arguments.write:
        write("calibration", "auto", made)


if __name__ == "__main__":
    main()
