"""Moments, ensemble equations and stability against the reference, SciPy's integrals and simulation."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import initax as ix
from initax._math._gaussian import (
    ACTIVATIONS as NAMED,
)
from initax._math._gaussian import (
    NODES,
    SUITABLE,
    cross_moment,
    moments,
    refuse_unsuitable,
    samples,
)
from initax._math._positive_moments import ensemble, k_max, radius, with_passthrough

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu_0.1": functools.partial(jax.nn.leaky_relu, negative_slope=0.1),
    "softplus": jax.nn.softplus,
    "celu+1": lambda x: jax.nn.celu(x) + 1,
    "relu_squared": lambda x: jax.nn.relu(x) ** 2,
    "exp": jnp.exp,
}


def row_id(row):
    return "-".join(str(row[name]) for name in ("activation", "q", "rho", "tau", "k", "fan_in") if name in row)


@pytest.mark.parametrize("row", REFERENCE["icnn_general"]["rows"], ids=row_id)
def test_ensemble_equations_are_the_reference(row):
    activation = ACTIVATIONS[row["activation"]]
    found, own = ensemble(activation, row["fan_in"], row["q"], row["rho"]), moments(activation, row["q"])
    assert own.mean == pytest.approx(row["m1"], rel=1e-9)
    assert own.square == pytest.approx(row["m2"], rel=1e-9)
    assert cross_moment(activation, row["q"], row["rho"]) == pytest.approx(row["m11"], rel=1e-9)
    for name in ("weight_mean", "weight_var", "log_mean", "log_std", "bias_mean"):
        assert getattr(found, name) == pytest.approx(row[name], rel=1e-9), name


@pytest.mark.parametrize("row", REFERENCE["icnn_passthrough"]["rows"], ids=row_id)
def test_the_budget_with_passthrough_and_its_stability_are_the_reference(row):
    activation = ACTIVATIONS[row["activation"]]
    found = with_passthrough(activation, row["fan_in"], row["q"], row["tau"], row["k"])
    for name in ("weight_mean", "weight_var", "log_mean", "log_std", "bias_mean"):
        assert getattr(found, name) == pytest.approx(row[name], rel=1e-9), name
    assert radius(activation, row["k"], row["tau"], row["q"]) == pytest.approx(row["spectral_radius"], rel=1e-9)
    assert k_max(activation, row["tau"], row["q"]) == pytest.approx(row["k_max"], rel=1e-9)


def test_relu_constants_are_those_of_the_paper():
    """The general equations and the paper's closed form for ReLU were derived apart."""
    for row in REFERENCE["hoedt_reference"]["rows"]:
        if row["alpha"] == 0 and row["var"] == 1 and row["bias_noise"] == 0:
            found = ensemble("relu", row["fan_in"], 1.0, row["corr"])
            assert found.weight_mean == pytest.approx(row["weight_mean"], rel=1e-9)
            assert found.weight_var == pytest.approx(row["weight_var"], rel=1e-9)
            assert found.bias_mean == pytest.approx(row["bias_mean"], rel=1e-9)


@pytest.mark.parametrize("variance", [0.3, 2.0])
@pytest.mark.parametrize("place", [-1.7, 0.0, 0.4321])
def test_moments_of_a_kink_anywhere_are_those_of_scipy(place, variance):
    """SciPy's adaptive integral is told where the kink is; initax has to find it."""

    def hinge(x):
        return jnp.maximum(x - place, 0) + 0.25 * jnp.exp(0.3 * x)

    def numpy_hinge(x):
        return np.maximum(x - place, 0) + 0.25 * np.exp(0.3 * x)

    root = math.sqrt(variance)
    panels = samples(hinge, variance)[0].reshape(-1, NODES)
    around = panels[(panels[:, 0] < place / root) & (panels[:, -1] > place / root)]
    assert np.all(around[:, -1] - around[:, 0] < 1e-3)  # panels are halved around the kink
    found = moments(hinge, variance)
    for power, ours in ((1, found.mean), (2, found.square)):
        theirs, _ = integrate.quad(
            lambda z, power=power: numpy_hinge(root * z) ** power * stats.norm.pdf(z), -12, 12, points=[place / root]
        )
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_closed_forms_and_quadrature_agree():
    """A relu of another name has no closed form, so its moments come from the panels."""
    for correlation in (0.01, 0.5, 0.99, 0.9999, -0.5):
        by_panels = cross_moment(lambda x: jnp.maximum(x, 0), 1.0, correlation)
        assert by_panels == pytest.approx(cross_moment("relu", 1.0, correlation), rel=1e-11)
    assert moments(lambda x: jnp.maximum(x, 0.1 * x)).mean == pytest.approx(0.9 / math.sqrt(2 * math.pi), rel=1e-13)


@pytest.mark.parametrize("variance", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("slope", [0.0, 0.1, -0.4, 1.7])
def test_closed_forms_of_moments_are_those_of_the_panels(slope, variance):
    by_panels = moments(lambda x: jnp.where(x < 0, slope * x, x), variance)
    closed = moments(functools.partial(jax.nn.leaky_relu, negative_slope=slope), variance)
    assert dataclasses.asdict(closed) == pytest.approx(dataclasses.asdict(by_panels), rel=1e-11)


def test_derivatives_of_moments_are_their_differences():
    """Stein's identities against differences of shifted and widened normals."""
    own, step = moments("softplus", 1.5), 1e-4

    def shifted(mean, power):
        return integrate.quad(
            lambda z: np.logaddexp(0, mean + math.sqrt(1.5) * z) ** power * stats.norm.pdf(z), -12, 12
        )[0]

    assert own.slope == pytest.approx((shifted(step, 1) - shifted(-step, 1)) / (2 * step), rel=1e-6)
    assert own.square_by_mean == pytest.approx((shifted(step, 2) - shifted(-step, 2)) / (2 * step), rel=1e-6)
    wider, narrower = moments("softplus", 1.5 + step), moments("softplus", 1.5 - step)
    assert own.square_by_variance == pytest.approx((wider.square - narrower.square) / (2 * step), rel=1e-6)
    assert own.curvature / 2 == pytest.approx((wider.mean - narrower.mean) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("units", [8, 64])
@pytest.mark.slow(one_in=5)
def test_one_layer_keeps_mean_variance_and_correlation(name, units):
    """Inputs at the fixed point; weights and bias as the equations say. No code of a draw is used.

    Conditional on the inputs the log-normal weights have the stated moments, so mean and (co)variance over weights are
    known exactly and only the inputs are sampled: no heavy tail has to be met. What is left is a mean over 4e5 inputs.
    """
    correlation, samples = 0.5, 400_000
    activation, rng = ACTIVATIONS[name], np.random.default_rng(11)
    layer = ensemble(activation, units, 1.0, correlation)
    total, square = np.empty(samples), np.empty(samples)
    for start in range(0, samples, 50_000):
        rows = slice(start, start + 50_000)
        common, own = rng.standard_normal((50_000, 1)), rng.standard_normal((50_000, units))
        with jax.enable_x64(True):
            phi = np.asarray(
                activation(jnp.asarray(math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own))
            )
        total[rows], square[rows] = phi.sum(axis=1), (phi**2).sum(axis=1)
    mean = layer.weight_mean * total + layer.bias_mean
    second = mean**2 + layer.weight_var * square
    together = mean**2

    def within(values, expected):
        assert abs(values.mean() - expected) < 4.9 * values.std() / math.sqrt(samples)

    within(mean, 0.0)
    within(second, 1.0)
    within(together, correlation)


def test_k_max_separates_decay_from_growth():
    """The map of mean and variance itself, iterated from a small error, on both sides of the bound."""
    bound = k_max("relu", 0.5)
    z = np.linspace(-9, 9, 20_001)
    weights = stats.norm.pdf(z) / stats.norm.pdf(z).sum()

    def error_after(k, layers):
        mean, variance = 1e-3, 1.0
        for _ in range(layers):
            phi = np.maximum(mean + math.sqrt(variance) * z, 0)
            mean = k * (weights @ phi) - k / math.sqrt(2 * math.pi)
            variance = 0.5 * (weights @ phi**2) / 0.5 + 0.5
        return abs(mean)

    base = error_after(0.8 * bound, 1)
    assert error_after(0.8 * bound, 60) < base
    assert error_after(1.25 * bound, 60) > 10 * base


def test_the_names_of_suitable_activations_are_those_the_grid_accepts():
    accepted = set()
    for name in NAMED:
        try:
            refuse_unsuitable(name, 1.0)
        except ix.SchemeError:
            continue
        accepted.add(name)
    linear = {name for name in NAMED if name.startswith("conv")}
    assert accepted == {*SUITABLE, "identity"} | linear
