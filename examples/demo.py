"""Two networks, five ways to draw their first weights, and handwritten digits: a plan, a table and a picture.

    python examples/demo.py            # about a minute on two cores; writes demo-output/

Neither network has a norm layer, so nothing repairs a bad start. Every scheme gets the same networks, the same
batches, the same optimizer and, seed by seed, the same key.
"""

import argparse
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.lib.stride_tricks import sliding_window_view
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import initax as ix

BATCH = 64
WINDOW = 5
TARGET = 0.5
"""A loss that a network reaches once it has begun to tell the digits apart; chance is log(10) = 2.3."""
OPTIMIZER = optax.adam(1e-3)

DEFAULT, HE, ORTHOGONAL = "Equinox default", "he_normal", "orthogonal(gain=relu)"
TUNED, NAIVE = "he_normal, small ends", "normal(stddev=1)"
LINES: dict[str, dict[str, Any]] = {
    DEFAULT: {"color": "#444444"},
    HE: {"color": "#0072B2"},
    ORTHOGONAL: {"color": "#009E73", "linestyle": "--"},
    TUNED: {"color": "#E69F00", "linestyle": (0, (1, 1))},
    NAIVE: {"color": "#D55E00", "linestyle": "-."},
}
"""Okabe and Ito's colors, which stay apart for color-blind readers; styles for lines that lie on each other."""


class ConvNet(eqx.Module):
    """A stack of 3 × 3 convolutions with relu between them."""

    convs: list[eqx.nn.Conv2d]
    head: eqx.nn.Linear

    def __init__(self, depth: int, width: int, key: jax.Array) -> None:
        *keys, last = jax.random.split(key, depth + 1)
        shapes = [(1, 1), (width, 1), (width, 2)] + [(width, 1)] * (depth - 3)
        self.convs = [
            eqx.nn.Conv2d(channels, width, 3, stride, padding=1, key=each)
            for each, (channels, stride) in zip(keys, shapes, strict=True)
        ]
        self.head = eqx.nn.Linear(16 * width, 10, key=last)

    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """Return the pre-activations of every layer; the last are the logits."""
        signal, found = image[None], []
        for conv in self.convs:
            found.append(conv(signal))
            signal = jax.nn.relu(found[-1])
        return [*found, self.head(signal.ravel())]


class AttentionNet(eqx.Module):
    """Attention and perceptrons in turn, each added to what comes in; a digit is read row by row."""

    embed: eqx.nn.Linear
    position: eqx.nn.Embedding
    attention: list[eqx.nn.MultiheadAttention]
    up: list[eqx.nn.Linear]
    down: list[eqx.nn.Linear]
    head: eqx.nn.Linear

    def __init__(self, depth: int, width: int, key: jax.Array) -> None:
        keys = iter(jax.random.split(key, 3 * depth + 3))
        self.embed = eqx.nn.Linear(8, width, key=next(keys))
        self.position = eqx.nn.Embedding(8, width, key=next(keys))
        self.attention = [eqx.nn.MultiheadAttention(4, width, key=next(keys)) for _ in range(depth)]
        self.up = [eqx.nn.Linear(width, 2 * width, key=next(keys)) for _ in range(depth)]
        self.down = [eqx.nn.Linear(2 * width, width, key=next(keys)) for _ in range(depth)]
        self.head = eqx.nn.Linear(width, 10, key=next(keys))

    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """Return the pre-activations of every layer; the last are the logits."""
        tokens = jax.vmap(self.embed)(image) + self.position.weight
        found = [tokens]
        for attention, up, down in zip(self.attention, self.up, self.down, strict=True):
            mixed = attention(tokens, tokens, tokens)
            hidden = jax.vmap(up)(tokens + mixed)
            out = jax.vmap(down)(jax.nn.relu(hidden))
            tokens = tokens + mixed + out
            found += [mixed, hidden, out]
        return [*found, self.head(tokens.mean(axis=0))]


def rule_maps(model: eqx.Module) -> dict[str, dict[str, Any]]:
    """Return the five rule maps of a network; only the fourth speaks of single layers."""
    small = ("scaled", {"scheme": "he_normal", "factor": 0.3})
    ends: dict[str, Any] = {"head": small}
    if isinstance(model, AttentionNet):
        # The last layer of each branch decides how much the branch adds to what passes by.
        ends |= {"position": "default", "attention.*.output_proj": small, "down.*": small}
    return {
        DEFAULT: {"*": "default"},
        HE: {"*": "he_normal"},
        ORTHOGONAL: {"*": ("orthogonal", {"gain": "relu"})},
        TUNED: {"*": "he_normal"} | ends,
        NAIVE: {"*": ("normal", {"stddev": 1.0})},
    }


@dataclass(frozen=True)
class Runs:
    """One network under one scheme: losses (seeds, steps), scales (seeds, layers), accuracies (seeds,)."""

    losses: np.ndarray
    scales: np.ndarray
    accuracies: np.ndarray

    @property
    def smooth(self) -> np.ndarray:
        """Losses averaged over windows of steps, in the logarithm: single batches are noisy."""
        return np.exp(sliding_window_view(np.log(self.losses), WINDOW, axis=1).mean(axis=2))

    @property
    def steps(self) -> float:
        """The step from which the median loss stays below the target, infinity where there is none."""
        above = np.median(self.smooth, axis=0) >= TARGET
        return np.inf if above[-1] else WINDOW + float(np.flatnonzero([True, *above])[-1])

    def __str__(self) -> str:
        return f"{self.steps:.0f}" if np.isfinite(self.steps) else "never"


def digits() -> list[np.ndarray]:
    """Return images to train on and to test on, then their labels."""
    images, labels = load_digits(return_X_y=True)
    images = ((images - images.mean()) / images.std()).reshape(-1, 8, 8).astype(np.float32)
    return train_test_split(images, labels, random_state=0, stratify=labels)


@eqx.filter_jit
def signal_scales(model: eqx.Module, images: jax.Array) -> jax.Array:
    """Return per layer how far its pre-activations differ between digits: their standard deviation over images."""
    return jnp.stack([jnp.sqrt(each.var(axis=0).mean()) for each in jax.vmap(model)(images)])


@eqx.filter_jit
def accuracy(model: eqx.Module, images: jax.Array, labels: jax.Array) -> jax.Array:
    return (jax.vmap(model)(images)[-1].argmax(axis=-1) == labels).mean()


# One step is compiled, not a scan over steps: XLA's convolutions inside a loop are ten times slower on a CPU. All
# schemes share the compiled step, since re-initialization keeps every shape.
@eqx.filter_jit
def train_step(model: Any, state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, Any, jax.Array]:
    def loss(model: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(images)[-1], labels).mean()

    value, gradient = eqx.filter_value_and_grad(loss)(model)
    updates, state = OPTIMIZER.update(gradient, state)
    return eqx.apply_updates(model, updates), state, value


def run(model: Any, rules: dict[str, Any], data: Any, steps: int, seeds: int, tick: Any) -> Runs:
    """Return what training shows from `seeds` initial models drawn by the rules."""
    images, test_images, labels, test_labels = data
    losses, scales, accuracies = [], [], []
    for seed in range(seeds):
        start = ix.reinit(model, rules, jax.random.key(seed))
        scales.append(signal_scales(start, images[:256]))
        trained, state, curve = start, OPTIMIZER.init(eqx.filter(start, eqx.is_inexact_array)), []
        # The batches depend on the seed alone: schemes are compared in pairs.
        for batch in np.random.default_rng(seed).integers(len(images), size=(steps, BATCH)):
            trained, state, loss = train_step(trained, state, images[batch], labels[batch])
            curve.append(float(loss))
            tick()
        losses.append(curve)
        accuracies.append(accuracy(trained, test_images, test_labels))
    return Runs(np.asarray(losses), np.asarray(scales), np.asarray(accuracies))


def summary(results: dict[str, dict[str, Runs]]) -> Table:
    """Return the medians over seeds as a table."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, title="Medians over seeds", title_justify="left")
    made.add_column("")
    for column in ("scale at|last layer", "loss at|start", "loss at|end", f"steps to|loss {TARGET}", "test|accuracy"):
        made.add_column(column.replace("|", "\n"), justify="right")
    for name, schemes in results.items():
        made.add_row(f"[bold]{name}")
        for scheme, runs in schemes.items():
            numbers = (np.median(each) for each in (runs.scales[:, -1], runs.losses[:, 0], runs.smooth[:, -1]))
            accuracy_text = f"{np.median(runs.accuracies):.1%}"
            made.add_row(scheme, *(f"{each:.2g}" for each in numbers), str(runs), accuracy_text)
        made.add_section()
    return made


def finding(name: str, schemes: dict[str, Runs]) -> str:
    """Return what a row of the picture shows: the fastest scheme, and what the two usual ones do."""
    best = min(schemes, key=lambda scheme: schemes[scheme].steps)
    first, *others = dict.fromkeys((best, DEFAULT, HE))
    words = [f"at loss {TARGET} after {schemes[first]} steps with “{first}”"]
    words += [f"{schemes[scheme]} with “{scheme}”" for scheme in others]
    return f"{name}: {', '.join(words)}"


def picture(results: dict[str, dict[str, Runs]], path: Path) -> None:
    """Draw a row per network: loss against steps, and the scale of the signal per layer; bands span the seeds."""
    figure = Figure(figsize=(12, 8.8), layout="constrained")
    top, *rows = figure.subfigures(1 + len(results), 1, height_ratios=[0.18] + [1] * len(results))
    top.suptitle(
        "Only the initial weights differ, and they decide whether a network learns", fontsize=16, weight="bold"
    )
    handles = [Line2D([], [], linewidth=2.5, label=scheme, **style) for scheme, style in LINES.items()]
    top.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=11, handlelength=2.6)
    for row, (name, schemes) in zip(rows, results.items(), strict=True):
        row.suptitle(finding(name, schemes), fontsize=12.5)
        left, right = row.subplots(1, 2)
        for scheme, runs in schemes.items():
            for axes, first, values in ((left, WINDOW, runs.smooth), (right, 1, runs.scales)):
                where, color = np.arange(first, first + values.shape[1]), LINES[scheme]["color"]
                axes.plot(where, np.median(values, axis=0), linewidth=2.2, **LINES[scheme])
                axes.fill_between(where, values.min(axis=0), values.max(axis=0), color=color, alpha=0.13, linewidth=0)
        # The naive scheme's loss is astronomic; a picture that held it would show nothing else.
        highest = max(runs.losses[:, 0].max() for scheme, runs in schemes.items() if scheme != NAIVE)
        left.set(yscale="log", ylim=(1e-2, 3 * highest), xlabel="step", ylabel="training loss")
        left.axhline(TARGET, color="0.6", linewidth=0.8, zorder=0)
        left.text(0.01, 0.93 * TARGET, f"{TARGET}", color="0.4", va="top", transform=left.get_yaxis_transform())
        note = f"{NAIVE} is above the picture, never below {schemes[NAIVE].losses.min():.0e}"
        left.text(0.98, 0.97, note, color=LINES[NAIVE]["color"], ha="right", va="top", transform=left.transAxes)
        right.set(yscale="log", xlabel="layer, from input to output", ylabel="std of pre-activations over digits")
        right.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=120, help="training steps of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each network under each scheme")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the picture and the table")
    parser.add_argument("--quick", action="store_true", help="toy size, to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.seeds = WINDOW, 2
    if options.steps < WINDOW or options.seeds < 1:
        parser.error(f"at least {WINDOW} steps and 1 seed are needed")
    convolutions, blocks, width = (3, 1, 4) if options.quick else (10, 3, 16)
    key = jax.random.key(0)
    attention = AttentionNet(blocks, 2 * width, key)
    models = {"Convolutional network": ConvNet(convolutions, width, key), "Attention model": attention}
    console, data = Console(), digits()
    print(ix.plan(attention, rule_maps(attention)[TUNED]))
    results: dict[str, dict[str, Runs]] = {}
    words = TextColumn("{task.fields[doing]:<9} {task.description:<44}")
    with Progress(words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=len(models) * len(LINES) * options.seeds * options.steps, doing="")
        for name, model in models.items():
            for scheme, rules in rule_maps(model).items():
                # The first draw of a scheme, and the first step of a network, are compiled before anything moves.
                progress.update(task, description=f"{name}: {scheme}", doing="compiling")
                tick = functools.partial(progress.update, task, advance=1, doing="training")
                results.setdefault(name, {})[scheme] = run(model, rules, data, options.steps, options.seeds, tick)
    options.out.mkdir(parents=True, exist_ok=True)
    picture(results, options.out / "initialization.png")
    with (options.out / "table.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=100).print(summary(results))
    console.print(summary(results))
    console.print(f"The picture and the table are in {options.out}/")


if __name__ == "__main__":
    main()
