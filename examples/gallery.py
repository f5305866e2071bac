"""The pictures of the documentation: what schemes do to signals, spectra and training.

`python examples/gallery.py` takes a minute or two on two cores and leaves gallery-output/: each picture twice, for
light and for dark pages.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import ablation
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import initax as ix

Drawing = Callable[[], Figure]
INKS = {"light": "#222222", "dark": "#e6e6e6"}
LINES = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"]
"""Okabe and Ito's colors, which stay apart for color-blind readers and on both grounds."""


def forward(model, x):
    return jax.vmap(model)(x)


def some(options, quick):
    """Return all of them, or the first two where it is only to be shown that it runs."""
    return dict(list(options.items())[:2]) if quick else options


def bands(panel, values, label):
    """Draw the median over the last axis and the band of four fifths of the draws."""
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=1)
    depth = np.arange(1, len(middle) + 1)
    panel.fill_between(depth, low, high, alpha=0.25, linewidth=0)
    panel.plot(depth, middle, label=label)


def signal(quick: bool) -> Drawing:
    """Length of the signal, and likeness of two examples, in a deep network of relus."""
    depth, width, draws = (6, 16, 3) if quick else (50, 128, 16)
    schemes = {
        "Equinox default": "default",
        "lecun_normal": "lecun_normal",
        "he_normal": "he_normal",
        "orthogonal(relu)": ("orthogonal", {"gain": "relu"}),
    }
    model = eqx.nn.MLP(width, width, width, depth - 1, scan=True, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (64, width))
    keys = jax.random.split(jax.random.key(2), draws)
    reports = {
        name: ix.signal_propagation(model, x, forward=forward, rules={"Linear": scheme}, keys=keys)
        for name, scheme in some(schemes, quick).items()
    }
    print(ix.plan(model, {"Linear": "he_normal"}))

    def drawing() -> Figure:
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        for panel, number in zip(figure.subplots(1, 2), ("mean_square", "correlation"), strict=True):
            for name, report in reports.items():
                bands(panel, np.stack([getattr(each, number) for each in report.signals]), name)
            panel.set(xlabel="layer", title=number.replace("_", " "))
        figure.axes[0].set_yscale("log")
        figure.axes[1].legend()
        return figure

    return drawing


def spectra(quick: bool) -> Drawing:
    """Singular values of one weight, and of the product of ten."""
    size = 32 if quick else 256
    schemes = {
        "lecun_normal": "lecun_normal",
        "orthogonal": "orthogonal",
        "sparse": ("sparse", {"sparsity": 0.9, "stddev": (10 / size) ** 0.5}),
    }
    keys = jax.random.split(jax.random.key(0), 10)
    values = {}
    for name, scheme in schemes.items():
        weights = [ix.draw(scheme, key, (size, size), axes="o i") for key in keys]
        product = np.linalg.multi_dot([np.asarray(each, float) for each in weights])
        values[name] = [np.linalg.svd(np.asarray(each, float), compute_uv=False) for each in (weights[0], product)]

    def drawing() -> Figure:
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        one, ten = figure.subplots(1, 2)
        rank = np.arange(1, size + 1) / size
        for name, (single, product) in values.items():
            one.plot(rank, single, label=name)
            ten.plot(rank, product, label=name)
        at = np.linspace(0, 2, 400)
        share = 1 - (at * np.sqrt(4 - at**2) / 2 + 2 * np.arcsin(at / 2)) / np.pi
        one.plot(share, at, color=mpl.rcParams["text.color"], linestyle=":", linewidth=1, label="quarter circle")
        one.set(xlabel="share of the singular values", title="singular values of one weight")
        ten.set(xlabel="share of the singular values", title="of the product of ten", yscale="log", ylim=(1e-9, 1e2))
        one.legend()
        return figure

    return drawing


def densities(quick: bool) -> Drawing:
    """Densities of the entries of a weight, in units of 1 / √fan_in."""
    inputs, outputs = (16, 64) if quick else (256, 4096)
    schemes = ["lecun_normal", "lecun_uniform", "torch_default", "hoedt"]
    drawn = {
        name: np.asarray(ix.draw(name, jax.random.key(0), (inputs, outputs), axes="i o")).ravel() * inputs**0.5
        for name in schemes
    }

    def drawing() -> Figure:
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        panel = figure.subplots()
        for name, entries in drawn.items():
            heights, edges = np.histogram(entries, bins=np.linspace(-3, 3, 121), density=True)
            panel.stairs(heights * np.mean(np.abs(entries) < 3), edges, linewidth=1.5, label=name)
        panel.set(xlabel="entry · √fan_in", title="density of the entries of a weight", ylim=(0, 1.4))
        panel.legend()
        return figure

    return drawing


def by_hand(quick: bool) -> Drawing:
    """Variance of JAX's he_normal() with its default axes on weights as they are stored, relative to He's."""
    shapes = {
        "eqx Linear(1024, 16)": ((16, 1024), "o i"),
        "eqx Linear(16, 1024)": ((1024, 16), "o i"),
        "eqx Conv2d(64, 256, 3)": ((256, 64, 3, 3), "o i ..."),
        "four stacked Linear(128, 128)": ((4, 128, 128), "stack o i"),
        "attention query (512, 8, 64)": ((512, 8, 64), "i o1 o2"),
        "nnx Conv(64, 256, (3, 3))": ((3, 3, 64, 256), "... i o"),
    }
    names = list(some(shapes, quick))
    key = jax.random.key(0)
    ratios = []
    for name in names:
        shape, axes = shapes[name]
        ours = ix.draw("he_normal", key, shape, axes=axes)
        ratios.append(float(jnp.var(jax.nn.initializers.he_normal()(key, shape)) / jnp.var(ours)))

    def drawing() -> Figure:
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        panel = figure.subplots()
        panel.hlines(names, 1, ratios, color=LINES[4], linewidth=3)
        panel.plot(ratios, names, "o", color=LINES[4], label="JAX, default axes")
        panel.plot([1] * len(names), names, "s", color=LINES[0], label="initax")
        panel.axvline(1, color=LINES[0], linewidth=1)
        for name, ratio in zip(names, ratios, strict=True):
            shown = f"×{ratio:.0f}" if ratio > 1.5 else f"1/{1 / ratio:.0f}" if ratio < 0.7 else "right"
            place = {"xytext": (8 if ratio > 1 else -8, 0), "ha": "left" if ratio > 1 else "right"}
            panel.annotate(shown, (ratio, name), textcoords="offset points", va="center", **place)
        panel.set(xscale="log", xlim=(1e-3, 1e3), title="variance of the weights, over the one He asks for")
        panel.legend(loc="lower right")
        panel.invert_yaxis()
        return figure

    return drawing


def calibration(quick: bool) -> Drawing:
    """Variance of the output of each layer before and after one pass of lsuv."""
    depth, width = (6, 16) if quick else (40, 64)
    x = jax.random.normal(jax.random.key(1), (256, width))
    variances = {}
    for activation in (jnp.tanh,) if quick else (jnp.tanh, jax.nn.silu, jax.nn.relu):
        model = eqx.nn.MLP(width, width, width, depth - 1, activation=activation, scan=True, key=jax.random.key(0))
        model = ix.reinit(model, {"Linear": "lecun_normal"}, jax.random.key(2))
        calibrated, _ = ix.lsuv(model, x, forward=forward)
        reports = [ix.signal_propagation(each, x, forward=forward) for each in (model, calibrated)]
        variances[activation.__name__] = [[float(each.std[0]) ** 2 for each in report.signals] for report in reports]

    def drawing() -> Figure:
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        panel = figure.subplots()
        layers = np.arange(1, depth + 1)
        for color, (name, (before, after)) in zip(LINES, variances.items(), strict=False):
            panel.plot(layers, before, color=color, label=f"{name}, lecun_normal")
            panel.plot(layers, after, "o", markersize=3, color=color, label=f"{name}, after lsuv")
        panel.set(xlabel="layer", yscale="log", title="variance of the output")
        panel.legend(ncols=3, fontsize="small")
        return figure

    return drawing


def convex(quick: bool) -> Drawing:
    """What positive weights and their biases add up to, in an input-convex network of softplus units."""
    depth, width, draws = (3, 16, 2) if quick else (20, 64, 8)
    model = ix.convex.FICNN(8, "scalar", [width] * depth, activation="softplus", key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (64, 8))
    keys = jax.random.split(jax.random.key(2), draws)
    rules = {
        "ix.convex.rules": ix.convex.rules(model, "softplus"),
        "hoedt, as for relu": {"*": ("hoedt", {}), "layers.0": "lecun_normal"},
        "uniform, zero bias": {"*": ("uniform", {"scale": 2 / width}), "layers.0": "lecun_normal"},
    }
    reports = {
        name: ix.signal_propagation(model, x, forward=forward, rules=each, keys=keys)
        for name, each in some(rules, quick).items()
    }

    def drawing() -> Figure:
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        panel = figure.subplots()
        for name, report in reports.items():
            rows = [each.mean_square for each in report.signals if each.path.endswith(".weight")]
            bands(panel, np.stack(rows), name)
        panel.set(xlabel="layer", yscale="log", title="mean square behind the positive weights")
        panel.legend()
        return figure

    return drawing


def training(quick: bool) -> Drawing:
    """Six initializations of one network on handwritten digits, as `examples/ablation.py` trains them."""
    seeds, steps = (2, 5) if quick else (10, 100)
    keys = jax.random.split(jax.random.key(1), seeds)
    model = ablation.ConvNet(jax.random.key(0))
    result = ix.ablate(model, some(ablation.SCHEMES, quick), keys, ablation.experiment(steps), progress=False)
    return result.plot


PICTURES = {each.__name__: each for each in (signal, spectra, densities, by_hand, calibration, convex, training)}


def main(output: Path, quick: bool, only: list[str]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name in only or PICTURES:
        picture = PICTURES[name]
        drawing = picture(quick)
        for ground, ink in INKS.items():
            style = {
                **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink),
                "axes.facecolor": "none",
                "axes.prop_cycle": mpl.cycler(color=LINES),
                "axes.spines.right": False,
                "axes.spines.top": False,
                "axes.titlesize": "medium",
                "legend.frameon": False,
                "svg.hashsalt": name,
            }
            with mpl.rc_context(style):
                file = output / f"{name}-{ground}.svg"
                drawing().savefig(file, transparent=True, metadata={"Date": None})
        print(f"{name}: {picture.__doc__}")
    print(f"\npictures: {output}/")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("gallery-output"), help="where the pictures go")
    parser.add_argument("--quick", action="store_true", help="toy size: shows that it runs, not what it shows")
    parser.add_argument("--only", nargs="+", default=[], choices=PICTURES, help="these pictures and no others")
    arguments = parser.parse_args()
    main(arguments.output, arguments.quick, arguments.only)
