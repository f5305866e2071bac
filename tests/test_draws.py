"""The law of the draw: every array has the distribution its scheme states, per group, gate and stack entry.

Bounds are those of a false alarm of one in a million at a fixed seed: Kolmogorov-Smirnov D < 2.693 / sqrt(n), z < 4.9.
"""

import ast
import json
import math
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import initax as ix
from initax._math._haar import haar
from tests.tables import KEY, scheme_id

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())

# Layers large enough to test, with the number of batch entries and the fans of one entry.
LARGE = {
    "linear": (lambda: eqx.nn.Linear(300, 200, key=KEY), 1, 300, 200),
    "conv2d-groups": (lambda: eqx.nn.Conv2d(64, 96, 5, groups=2, key=KEY), 2, 32 * 25, 48 * 25),
    "transpose2d": (lambda: eqx.nn.ConvTranspose2d(48, 32, 5, key=KEY), 1, 48 * 25, 32 * 25),
    "stack": (
        lambda: eqx.filter_vmap(lambda key: eqx.nn.Linear(200, 100, key=key))(jax.random.split(KEY, 3)), 3, 200, 100
    ),
    "lstm": (lambda: eqx.nn.LSTMCell(120, 150, key=KEY), 4, 120, 150),
    "embedding": (lambda: eqx.nn.Embedding(400, 90, key=KEY), 1, 90, 400),
}  # fmt: skip

TRUNCATION = 0.8796256610342398


def cut(std):
    return stats.truncnorm(-2, 2, scale=std / TRUNCATION)


def symmetric(bound):
    return stats.uniform(-bound, 2 * bound)


def width_of(fan_in):
    """Inputs without the window, which muP counts; the windows here have 25 places."""
    return {800: 32, 1200: 48}.get(fan_in, fan_in)


def positive(fan_in, mean, square, cross):
    """The log-normal weights of a layer without passthrough, from the moments of its activation.

    Hoedt & Klambauer 2023 at variance one and correlation 1/2: mean and variance of a weight. A log-normal's logarithm
    has the variance log(1 + var / mean^2), and its median is the mean over the root of 1 + var / mean^2.
    """
    weight_mean = math.sqrt(0.5 / (fan_in * (square + (fan_in - 1) * cross - fan_in * mean**2)))
    ratio = 1 + 0.5 / (fan_in * square) / weight_mean**2
    return stats.lognorm(s=math.sqrt(math.log(ratio)), scale=weight_mean / math.sqrt(ratio))


def moments_by_sums(activation, correlation=0.5):
    """Mean, mean square and cross moment of an activation of standard normals, by Gauss and Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    one, other = np.meshgrid(nodes, nodes)
    phi = activation(one) * activation(correlation * one + math.sqrt(1 - correlation**2) * other)
    return weights @ activation(nodes), weights @ activation(nodes) ** 2, weights @ phi @ weights


RELU = (1 / math.sqrt(2 * math.pi), 1 / 2, (math.sqrt(3) / 2 + 0.5 * (math.pi - math.acos(0.5))) / (2 * math.pi))
"""Mean, mean square and, for normals of correlation 1/2, cross moment of a relu (Cho & Saul 2009, eq. 6)."""
SOFTPLUS = moments_by_sums(lambda x: np.logaddexp(0, x))

# scheme → its distribution, given fan_in and fan_out
LAWS = {
    "he_normal": lambda i, o: cut(math.sqrt(2 / i)),
    "he_uniform": lambda i, o: symmetric(math.sqrt(6 / i)),
    "glorot_normal": lambda i, o: cut(math.sqrt(2 / (i + o))),
    "glorot_uniform": lambda i, o: symmetric(math.sqrt(6 / (i + o))),
    "lecun_normal": lambda i, o: cut(math.sqrt(1 / i)),
    "lecun_uniform": lambda i, o: symmetric(math.sqrt(3 / i)),
    ("variance_scaling", ("scale", 0.5), ("mode", "fan_out"), ("distribution", "normal")): lambda i, o: stats.norm(
        scale=math.sqrt(0.5 / o)
    ),
    ("variance_scaling", ("mode", "fan_geo_avg"), ("distribution", "uniform")): lambda i, o: symmetric(
        math.sqrt(3 / math.sqrt(i * o))
    ),
    "uniform_fan_in": lambda i, o: symmetric(math.sqrt(1 / i)),
    "siren": lambda i, o: symmetric(math.sqrt(6 / i) / 30),
    ("siren", ("w0", 5.0), ("first", True)): lambda i, o: symmetric(1 / i),
    "uniform": lambda i, o: stats.uniform(0, 0.01),
    ("normal", ("stddev", 0.3), ("mean", 1.5)): lambda i, o: stats.norm(1.5, 0.3),
    ("truncated_normal", ("stddev", 0.5), ("lower", -1.0), ("upper", 2.0)): lambda i, o: stats.truncnorm(
        -1, 2, scale=0.5
    ),
    ("truncated_normal", ("stddev", 0.5), ("mean", 1.0), ("lower", 0.8), ("upper", 2.0), ("absolute", True)): (
        lambda i, o: stats.truncnorm(-0.4, 2, loc=1, scale=0.5)
    ),
    ("trunc_normal", ("stddev", 0.5), ("mean", 1.0), ("lower", 0.8), ("upper", 2.0)): (
        lambda i, o: stats.truncnorm(-0.4, 2, loc=1, scale=0.5)
    ),
    ("biased_normal", ("stddev", 0.3), ("mean", 1.5)): lambda i, o: stats.norm(1.5, 0.3),
    "irnn": lambda i, o: stats.norm(scale=0.001),
    ("mup_hidden", ("base_width", 50), ("stddev", 0.3), ("distribution", "uniform")): lambda i, o: symmetric(
        0.3 * math.sqrt(3 / (width_of(i) / 50))
    ),
    ("mup_readout", ("base_width", 50), ("stddev", 0.3)): lambda i, o: stats.norm(scale=0.3 / (width_of(i) / 50)),
    "hoedt": lambda i, o: positive(i, *RELU),
    ("icnn", ("activation", "softplus"), ("part", "alone"), ("bias", "elsewhere")): lambda i, o: positive(i, *SOFTPLUS),
    ("scaled", ("scheme", "lecun_normal"), ("factor", 3.0)): lambda i, o: cut(3 * math.sqrt(1 / i)),
}  # fmt: skip


def spelled(scheme):
    return scheme if isinstance(scheme, str) else (scheme[0], dict(scheme[1:]))


def entries(plan, key):
    """The drawn weights, one row per batch entry, in no particular order within a row."""
    (each,) = [each for each in plan.draws if each.parameter.role in ("weight", "embedding")]
    leaf = plan.arrays(key)[each.parameter.path]
    return np.asarray(each.parameter.axes.to_canonical(leaf)).reshape(each.parameter.axes.batch_size, -1)


def in_words(scheme):
    return scheme if isinstance(scheme, str) else "-".join([scheme[0], *(str(value) for _, value in scheme[1:])])


def abstract(layer):
    return eqx.filter_eval_shape(LARGE[layer][0])


# Every law where inputs, outputs, window and groups differ, and every other layer with each way to draw.
DRAWN = [("conv2d-groups", scheme) for scheme in LAWS] + [
    (layer, scheme)
    for layer in LARGE
    if layer != "conv2d-groups"
    for scheme in ("he_normal", "glorot_uniform", ("normal", ("stddev", 0.3), ("mean", 1.5)), "hoedt")
]
# The schemes of muP draw no embeddings.
STATED = [
    (layer, scheme)
    for layer in LARGE
    for scheme in LAWS
    if layer != "embedding" or not scheme_id(scheme).startswith("mup")
]

HELD_BY = {
    "auto": "test_auto.py::test_lengths_are_what_the_closed_form_says",
    "centered": "test_centered.py::test_each_output_has_mean_zero_and_the_variance_stays",
    "constant": "test_bits.py::PLAIN",
    "default": "test_draws.py::test_default_and_torch_default_have_the_law_of_equinox",
    "delta_orthogonal": "test_draws.py::test_delta_orthogonal_keeps_the_norm_of_a_circular_convolution",
    "dirac": "test_draws.py::test_dirac_taps_are_the_reference",
    "flax_default": "test_draws.py::test_flax_default_has_the_law_of_flax",
    "forget_gate": "test_draws.py::test_the_forget_gate_is_the_one_the_cell_forgets_with",
    "identity": "test_draws.py::test_identity_is_the_reference",
    "ones": "test_bits.py::PLAIN",
    "orthogonal": "test_draws.py::test_orthogonal_matrices_are_haar_distributed",
    "prior": "test_draws.py::test_bias_initializers",
    "shrink_perturb": "test_shrink.py::test_each_array_is_the_sum_of_the_old_one_and_the_drawn_one",
    "sparse": "test_draws.py::test_sparse_chooses_its_zeros_uniformly_and_the_rest_are_normal",
    "torch_default": "test_draws.py::test_default_and_torch_default_have_the_law_of_equinox",
    "zero_init": "test_papers.py::test_zero_init_is_the_reference",
    "zeros": "test_bits.py::PLAIN",
}
"""Scheme whose entries are not independent draws of one law → the test that knows what it draws."""


def test_every_scheme_has_a_law():
    """A scheme that nobody wrote a law for fails here; other names of a scheme share its function."""
    with_law = {getattr(ix.schemes, scheme_id(scheme)) for scheme in LAWS}
    shipped = {name for name in ix.schemes.names() if not name.startswith(("test_", "doc_"))}
    without = {name for name in shipped if getattr(ix.schemes, name) not in with_law}
    assert not (missing := without - HELD_BY.keys()), f"add to LAWS, or to HELD_BY with the test that has it: {missing}"
    assert not (needless := HELD_BY.keys() - without), f"these are in LAWS or gone, take them off HELD_BY: {needless}"


@pytest.mark.parametrize("scheme", HELD_BY)
def test_laws_that_stand_elsewhere_are_there(scheme):
    file, _, name = HELD_BY[scheme].partition("::")
    source = (Path(__file__).parent / file).read_text()
    names = [getattr(node, "name", "") for node in ast.parse(source).body]
    names += [ast.unparse(node.targets[0]) for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    assert name in names
    assert scheme in source


@pytest.mark.parametrize(("layer", "scheme"), STATED, ids=in_words)
def test_plans_state_mean_and_standard_deviation_of_each_entry(layer, scheme):
    _, batch, fan_in, fan_out = LARGE[layer]
    plan = ix.plan(abstract(layer), {"*": ix.Scheme(spelled(scheme), recurrent=None)})
    (each,) = [each for each in plan.draws if each.parameter.role in ("weight", "embedding")]
    assert each.parameter.axes.batch_size == batch
    law = LAWS[scheme](fan_in, fan_out)
    if math.isnan(law.std()):
        assert each.std is each.recipe.moments is None, "a law without moments has a recipe without them"
        return
    assert each.std == pytest.approx(law.std(), rel=1e-6)
    assert each.recipe.moments == pytest.approx((law.mean(), law.var() + law.mean() ** 2), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("layer", "scheme"), DRAWN, ids=in_words)
def test_draws_have_the_distribution_of_their_scheme(layer, scheme, key):
    _, batch, fan_in, fan_out = LARGE[layer]
    plan = ix.plan(abstract(layer), {"*": ix.Scheme(spelled(scheme), recurrent=None, bias=None)})
    rows = entries(plan, key)
    assert len(rows) == batch
    law = LAWS[scheme](fan_in, fan_out)
    for row in rows:
        assert stats.kstest(row, law.cdf).statistic < 2.693 / math.sqrt(row.size)
    low, high = law.support()
    assert rows.min() >= low - 1e-6
    assert rows.max() <= high + 1e-6


@pytest.mark.parametrize("distribution", ["truncated_normal", "normal", "uniform"])
def test_complex_draws_have_the_stated_variance_and_no_preferred_phase(distribution, key):
    drawn = np.asarray(ix.draw(("variance_scaling", {"distribution": distribution}), key, (500, 400), jnp.complex64))
    power = np.abs(drawn) ** 2 * 500
    assert abs(power.mean() - 1) < 4.9 * power.std() / math.sqrt(power.size)
    phase = np.angle(drawn).ravel()
    assert stats.kstest(phase, stats.uniform(-math.pi, 2 * math.pi).cdf).statistic < 2.693 / math.sqrt(phase.size)


def test_jax_itself_draws_complex_truncated_normals_too_wide(key):
    # The day this fails JAX has been mended, and the remark in the docs can go.
    drawn = jax.nn.initializers.lecun_normal()(key, (500, 400), jnp.complex64)
    assert float(jnp.mean(jnp.abs(drawn) ** 2) * 500) == pytest.approx(1.0187, abs=0.006)


def test_complex_truncation_constant_is_the_reference():
    from initax.schemes._variance import COMPLEX_TRUNCATED_STD

    assert REFERENCE["truncated"]["complex_bug"]["correct_value"] == pytest.approx(COMPLEX_TRUNCATED_STD, rel=1e-12)


@pytest.mark.parametrize("row", REFERENCE["variance_scaling"]["rows"], ids=lambda row: row["layer"])
def test_standard_deviations_are_the_reference(row):
    names = ["batch"] * len(row["shape"])
    as_axes = {"in_axis": "i", "out_axis": "o"}
    for field, letter in as_axes.items():
        axes = row[field] if isinstance(row[field], list) else [row[field]]
        for axis in axes:
            names[axis] = f"{letter}{axis % len(names)}"
    batch = row["batch_axis"] if isinstance(row["batch_axis"], list) else [row["batch_axis"]]
    pattern = " ".join(
        name if name != "batch" else f"b{axis}" if axis in batch else "..." for axis, name in enumerate(names)
    )
    while "... ..." in pattern:
        pattern = pattern.replace("... ...", "...")
    specs = {
        "lecun": "lecun_normal",
        "he": "he_normal",
        "glorot": "glorot_normal",
        "he_out": ("variance_scaling", {"scale": 2.0, "mode": "fan_out"}),
        "geo": ("variance_scaling", {"mode": "fan_geo_avg"}),
    }
    for name, std in row["std"].items():
        model = {"w": jax.ShapeDtypeStruct(tuple(row["shape"]), jnp.float32)}
        plan = ix.plan(model, {"*": ix.Scheme(specs[name], axes=pattern)})
        assert plan.draws[0].std == pytest.approx(std, rel=1e-9)


# Orthogonal

ORTHOGONAL = {
    "square": ((64, 64), "o i", None),
    "tall": ((80, 33), "o i", None),
    "wide": ((33, 80), "o i", None),
    "conv": ((24, 6, 3, 3), "o i ...", None),
    "conv-groups": ((24, 6, 3, 3), "(g o) i ...", {"g": 4}),
    "gates": ((60, 15), "(gate o) i", {"gate": 4}),
    "stack": ((3, 20, 30), "stack o i", None),
    "attention-heads": ((64, 4, 16), "i (o1) o2", None),
}


def gram_error(array, axes, gain=1.0):
    """Largest deviation of the smaller Gram matrix from gain² times the identity, over batch entries."""
    canonical = np.asarray(axes.to_canonical(array), np.complex128 if np.iscomplexobj(array) else np.float64)
    matrices = canonical.reshape(canonical.shape[0], -1, canonical.shape[-1])
    worst = 0.0
    for matrix in matrices:
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        worst = max(worst, np.abs(tall.conj().T @ tall - gain**2 * np.eye(tall.shape[1])).max())
    return worst


# Every layout in single precision; complex ones of both sides and groups, and more sizes of them in test_haar.py.
@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, jnp.float32) for case in ORTHOGONAL] + [(case, jnp.complex64) for case in ("tall", "wide", "conv-groups")],
)
@pytest.mark.slow(one_in=5)
def test_orthogonal_is_orthogonal_per_batch_entry(case, dtype, key):
    from initax._math._axes import resolve

    shape, pattern, sizes = ORTHOGONAL[case]
    drawn = ix.draw(("orthogonal", {"gain": 0.7}), key, shape, dtype, axes=pattern, sizes=sizes)
    assert gram_error(drawn, resolve(pattern, shape, sizes), 0.7) < 2e-6 * 0.7**2


def test_orthogonal_is_a_haar_matrix_in_the_canonical_layout(key):
    ours = ix.draw(("orthogonal", {"gain": 1.3}), key, (24, 6, 3, 3), axes="o i ...")
    matrix = jnp.reshape(haar(key, (3 * 3 * 6, 24), jnp.float32), (3, 3, 6, 24))
    np.testing.assert_allclose(ours, 1.3 * jnp.transpose(matrix, (3, 2, 0, 1)), atol=1e-6)


def test_orthogonal_matrices_are_haar_distributed(key):
    draws = 20_000
    stack = np.asarray(ix.draw("orthogonal", key, (draws, 4, 4), axes="stack o i"), np.float64)
    trace = np.trace(stack, axis1=1, axis2=2)
    assert abs(trace.mean()) < 0.035
    assert abs((trace**2).mean() - 1) < 0.05
    assert abs((trace**4).mean() - 3) < 0.35
    assert abs((np.linalg.det(stack) > 0).mean() - 0.5) < 0.018
    assert stats.kstest(stack[:, 1, 2] ** 2, stats.beta(0.5, 1.5).cdf).statistic < 0.019


def test_a_real_gate_of_a_recurrent_cell_is_orthogonal(key):
    cell = ix.reinit(eqx.nn.LSTMCell(9, 16, key=KEY), {"LSTMCell": "orthogonal"}, key)
    for gate in np.asarray(cell.weight_hh, np.float64).reshape(4, 16, 16):
        assert np.abs(gate @ gate.T - np.eye(16)).max() < 1e-5


def test_delta_orthogonal_keeps_the_norm_of_a_circular_convolution(key):
    layer = eqx.nn.Conv2d(5, 8, 3, padding="SAME", padding_mode="CIRCULAR", use_bias=False, key=KEY)
    layer = ix.reinit(layer, {"*": "delta_orthogonal"}, key)
    assert np.count_nonzero(layer.weight) == 5 * 8
    x = jax.random.normal(key, (5, 7, 7))
    assert float(jnp.linalg.norm(layer(x))) == pytest.approx(float(jnp.linalg.norm(x)), rel=1e-5)


def test_delta_orthogonal_taps_where_the_one_of_jax_does(key):
    for rank in (1, 2, 3):
        shape = (3,) * rank + (4, 6)
        ours = np.asarray(ix.draw("delta_orthogonal", key, shape))
        theirs = np.asarray(jax.nn.initializers.delta_orthogonal()(key, shape))
        assert np.array_equal(ours != 0, theirs != 0)
        np.testing.assert_allclose(ours[(1,) * rank], ix.draw("orthogonal", key, (4, 6)), atol=1e-6)


# Dirac, identity, sparse


@pytest.mark.parametrize("row", REFERENCE["dirac"]["rows"], ids=lambda row: f"{row['shape_OIHW']}-g{row['groups']}")
def test_dirac_taps_are_the_reference(row, key):
    shape, groups = tuple(row["shape_OIHW"]), row["groups"]
    drawn = ix.draw("dirac", key, shape, axes="(g o) i ...", sizes={"g": groups})
    stored = ix.draw("dirac", key, tuple(row["shape_HWIO"]), axes="... i (g o)", sizes={"g": groups})
    if not row["even_kernel"]:
        assert np.argwhere(np.asarray(drawn)).tolist() == sorted(row["torch_nonzero_OIHW"])
    assert np.argwhere(np.asarray(stored)).tolist() == sorted(row["jax_nonzero_HWIO"])
    assert set(np.unique(drawn)) == {0.0, 1.0}


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_a_dirac_convolution_is_the_identity_for_odd_and_even_kernels(kernel, key):
    layer = eqx.nn.Conv2d(6, 6, kernel, padding="SAME", groups=2, key=KEY)
    x = jax.random.normal(key, (6, 7, 7))
    np.testing.assert_array_equal(ix.reinit(layer, {"*": "dirac"}, key)(x), x)


@pytest.mark.parametrize("row", REFERENCE["eye"], ids=lambda row: str(row["shape"]))
def test_identity_is_the_reference(row, key):
    assert np.argwhere(np.asarray(ix.draw("identity", key, tuple(row["shape"])))).tolist() == row["nonzero"]


def test_a_shifted_identity_sends_each_input_to_the_next_output(key):
    layer = ix.reinit(eqx.nn.Linear(5, 5, key=KEY), {"*": ("identity", {"shift": 2, "gain": 3.0})}, key)
    np.testing.assert_array_equal(layer(jnp.arange(5.0)), 3 * np.roll(np.arange(5.0), 2))


@pytest.mark.parametrize("row", REFERENCE["sparse_num_zeros"]["rows"], ids=lambda row: f"{row['n']}-{row['sparsity']}")
def test_sparse_zeroes_the_reference_count_of_incoming_weights(row, key):
    drawn = np.asarray(ix.draw(("sparse", {"sparsity": row["sparsity"]}), key, (40, row["n"]), axes="o i"))
    assert (drawn == 0).sum(axis=1).tolist() == [row["zeros"]] * 40


def test_sparse_chooses_its_zeros_uniformly_and_the_rest_are_normal(key):
    layer = ix.reinit(
        eqx.nn.Conv2d(8, 400, 3, groups=2, key=KEY), {"*": ("sparse", {"sparsity": 0.75, "stddev": 2.0})}, key
    )
    weight = np.asarray(layer.weight)
    assert ((weight == 0).reshape(400, -1).sum(axis=1) == 27).all()
    kept = weight[weight != 0]
    assert stats.kstest(kept, stats.norm(scale=2).cdf).statistic < 2.693 / math.sqrt(kept.size)
    share = (weight == 0).mean(axis=0).ravel()  # of 400 units each zeroes a position with probability 3/4
    assert np.abs(share - 0.75).max() < 4.9 * math.sqrt(0.75 * 0.25 / 400)


# Hoedt


@pytest.mark.parametrize(
    "row",
    REFERENCE["hoedt_reference"]["rows"],
    ids=lambda row: "-".join(f"{row[name]:g}" for name in ("fan_in", "var", "corr", "bias_noise", "alpha")),
)
def test_hoedt_constants_are_those_of_the_authors_code(row):
    layer = eqx.filter_eval_shape(eqx.nn.Linear, row["fan_in"], 3, key=KEY)
    args = {"variance": row["var"], "correlation": row["corr"], "alpha": row["alpha"], "bias_noise": row["bias_noise"]}
    weight, bias = ix.plan(layer, {"*": ("hoedt", args)}).draws
    assert weight.recipe.numbers == pytest.approx((row["log_mean"], row["log_std"]), rel=1e-9)
    assert weight.recipe.moments[0] == pytest.approx(row["weight_mean"], rel=1e-9)
    assert weight.std**2 == pytest.approx(row["weight_var"], rel=1e-9)
    assert bias.recipe.moments[0] == pytest.approx(row["bias_mean"], rel=1e-9)
    assert bias.std == pytest.approx(row["bias_std"], rel=1e-9)


def test_hoedt_keeps_mean_variance_and_correlation_through_one_layer(key):
    """Inputs at the fixed point: relu of normals with variance 1 and correlation 1/2 between units."""
    units, draws, samples = 8, 4000, 64
    stack = eqx.filter_eval_shape(
        eqx.filter_vmap(lambda each: eqx.nn.Linear(units, 2, key=each)), jax.random.split(KEY, draws)
    )
    layer = ix.reinit(stack, {"*": "hoedt"}, key)
    assert (layer.bias < 0).all()
    common, own = jax.random.normal(key, (draws, samples, 1)), jax.random.normal(KEY, (draws, samples, units))
    inputs = jax.nn.relu(math.sqrt(0.5) * common + math.sqrt(0.5) * own)
    outputs = jnp.einsum("doi,dsi->dso", layer.weight, inputs) + layer.bias[:, None, :]
    assert abs(float(outputs.mean())) < 0.05
    assert float(outputs.var()) == pytest.approx(1, abs=0.1)
    assert np.corrcoef(*np.asarray(outputs).reshape(-1, 2).T)[0, 1] == pytest.approx(0.5, abs=0.05)


# Biases


def test_bias_initializers(key):
    linear = eqx.nn.Linear(16, 3000, key=KEY)
    uniform = ix.reinit(linear, {"*": ("he_normal", "uniform_fan_in")}, key).bias
    assert stats.kstest(np.asarray(uniform), symmetric(0.25).cdf).statistic < 2.693 / math.sqrt(3000)
    prior = ix.reinit(linear, {"*": ("prior", {"p": 0.2})}, key)
    assert prior.weight is linear.weight
    np.testing.assert_allclose(jax.nn.sigmoid(prior.bias), 0.2, rtol=1e-6)
    biased = ix.reinit(linear, {"*": ("biased_normal", {"stddev": 0.5})}, key).bias
    assert stats.kstest(np.asarray(biased), stats.norm(scale=0.5).cdf).statistic < 2.693 / math.sqrt(3000)


def test_the_forget_gate_is_the_one_the_cell_forgets_with(key):
    cell = eqx.nn.LSTMCell(3, 4, key=KEY)
    open_gate = ix.reinit(cell, {"*": ("zeros", ("forget_gate", {"value": 50.0}))}, key)
    _, memory = open_gate(jnp.ones(3), (jnp.zeros(4), jnp.arange(4.0)))
    np.testing.assert_allclose(memory, jnp.arange(4.0), rtol=1e-6)  # forgets nothing; the other gates are half open
    stack = eqx.filter_vmap(lambda each: eqx.nn.LSTMCell(3, 4, key=each))(jax.random.split(KEY, 2))
    bias = ix.reinit(stack, {"*": ("forget_gate", {"value": 2.0})}, key).bias
    assert np.asarray(bias).reshape(2, 4, 4).sum(axis=-1).tolist() == [[0, 8, 0, 0]] * 2


# Defaults

OWN = {
    "linear": lambda key: eqx.nn.Linear(64, 900, key=key),
    "conv2d-groups": lambda key: eqx.nn.Conv2d(8, 600, 3, groups=2, key=key),
    "transpose2d": lambda key: eqx.nn.ConvTranspose2d(12, 600, 3, key=key),
    "gru": lambda key: eqx.nn.GRUCell(9, 300, key=key),
    "lstm": lambda key: eqx.nn.LSTMCell(9, 300, key=key),
    "embedding": lambda key: eqx.nn.Embedding(300, 40, key=key),
    "layernorm": lambda key: eqx.nn.LayerNorm(50),
    "prelu": lambda key: eqx.nn.PReLU(),
    "complex": lambda key: eqx.nn.Linear(64, 900, dtype=jnp.complex64, key=key),
}


@pytest.mark.parametrize("scheme", ["default", "torch_default"])
@pytest.mark.parametrize("case", OWN)
@pytest.mark.slow(one_in=5)
def test_default_and_torch_default_have_the_law_of_equinox(case, scheme, key):
    own = OWN[case](key)
    new = ix.reinit(own, {"*": scheme}, jax.random.fold_in(key, 1))
    for ours, theirs in zip(jax.tree.leaves(new), jax.tree.leaves(own), strict=True):
        ours, theirs = (np.asarray(each).ravel() for each in (ours, theirs))
        if np.iscomplexobj(theirs):
            ours, theirs = (np.concatenate([each.real, each.imag]) for each in (ours, theirs))
        if len(set(theirs)) == 1:
            assert np.array_equal(ours, theirs)
            continue
        assert not np.array_equal(ours, theirs)
        # Two samples of n: the bound of one sample, sqrt(2) as wide.
        assert stats.ks_2samp(ours, theirs).statistic < 2.693 * math.sqrt(2 / ours.size)
        if case != "embedding":
            assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.02)


def test_flax_default_has_the_law_of_flax(key):
    cell = ix.reinit(eqx.nn.LSTMCell(200, 60, key=KEY), {"*": "flax_default"}, key)
    gates = np.asarray(cell.weight_hh, np.float64).reshape(4, 60, 60)
    assert max(np.abs(gate @ gate.T - np.eye(60)).max() for gate in gates) < 1e-5
    assert stats.kstest(np.ravel(cell.weight_ih), cut(math.sqrt(1 / 200)).cdf).statistic < 2.693 / math.sqrt(48_000)
    table = ix.reinit(eqx.nn.Embedding(500, 64, key=KEY), {"*": "flax_default"}, key).weight
    assert stats.kstest(np.ravel(table), stats.norm(scale=1 / 8).cdf).statistic < 2.693 / math.sqrt(32_000)
    assert float(ix.reinit(eqx.nn.PReLU(), {"*": "flax_default"}, key).negative_slope) == pytest.approx(0.01)


# Callables


@pytest.mark.parametrize("case", LARGE)
def test_any_initializer_of_jax_is_right_on_every_layer_with_its_default_axes(case, key):
    _, _, fan_in, fan_out = LARGE[case]
    plan = ix.plan(abstract(case), {"*": ix.Scheme(jax.nn.initializers.glorot_uniform(), recurrent=None, bias=None)})
    for row in entries(plan, key):
        law = symmetric(math.sqrt(6 / (fan_in + fan_out)))
        assert stats.kstest(row, law.cdf).statistic < 2.693 / math.sqrt(row.size)


def test_an_initializer_that_takes_fan_in_is_given_it(key):
    seen = []

    def klax_style(key, shape, dtype, *, fan_in):
        seen.append((shape, fan_in))
        return jnp.full(shape, -1 / fan_in, dtype)

    layer = ix.reinit(eqx.nn.Conv2d(6, 9, 2, groups=3, key=KEY), {"*": (klax_style, klax_style)}, key)
    np.testing.assert_allclose(layer.weight, -1 / 8)
    np.testing.assert_allclose(layer.bias, -1 / 8)
    assert set(seen) == {((2, 2, 2, 3), 8), ((3,), 8)}


# Gain


@pytest.mark.parametrize("name", REFERENCE["activation_gaussian_moments"]["table"])
def test_gains_are_the_reference(name):
    names = {"gelu_erf": lambda x: jax.nn.gelu(x, approximate=False), "leaky_relu_0_01": jax.nn.leaky_relu}
    expected = REFERENCE["activation_gaussian_moments"]["table"][name]["gain"]
    assert ix.gain(names.get(name, name)) == pytest.approx(expected, rel=1e-8)


TORCH_IS_EXACT = {
    "linear": "linear",
    "relu": "relu",
    "leaky_relu": jax.nn.leaky_relu,
    "leaky_relu(0.2)": lambda x: jax.nn.leaky_relu(x, 0.2),
}


@pytest.mark.parametrize("name", TORCH_IS_EXACT)
def test_gains_agree_with_pytorch_where_it_is_exact(name):
    assert ix.gain(TORCH_IS_EXACT[name]) == pytest.approx(REFERENCE["torch_calculate_gain"][name], rel=1e-9)


@pytest.mark.parametrize("kink", [0.3, -1.237, math.pi / 4, 2.5])
def test_gains_are_exact_for_kinks_and_jumps_anywhere(kink):
    """Of max(x - k, 0) and of x where x > k: both moments in closed form, from the normal's tail and density."""
    tail = math.erfc(kink / math.sqrt(2)) / 2
    density = math.exp(-(kink**2) / 2) / math.sqrt(2 * math.pi)
    ramp = (1 + kink**2) * tail - kink * density
    jump = tail + kink * density
    assert ix.gain(lambda x: jnp.maximum(x - kink, 0)) == pytest.approx(ramp**-0.5, rel=1e-12)
    assert ix.gain(lambda x: jnp.where(x > kink, x, 0)) == pytest.approx(jump**-0.5, rel=1e-11)


def test_a_gain_may_be_an_activation_or_its_name(key):
    named, function, number = (
        ix.draw(("orthogonal", {"gain": gain}), key, (8, 8)) for gain in ("relu", jax.nn.relu, math.sqrt(2))
    )
    assert np.array_equal(named, function)
    np.testing.assert_allclose(named, number, rtol=1e-6)


def test_a_gain_works_inside_jit(key):
    jitted = jax.jit(lambda each: ix.draw(("orthogonal", {"gain": jax.nn.silu}), each, (8, 8)))(key)
    np.testing.assert_allclose(jitted, ix.draw(("orthogonal", {"gain": "silu"}), key, (8, 8)), atol=1e-6)


# A device that can't


@pytest.mark.slow
def test_what_a_backend_cannot_run_is_drawn_on_the_cpu_and_brought_back(key, monkeypatch):
    from initax._drawing import _program

    expected = ix.draw("orthogonal", key, (12, 7))

    def unsupported(*args, **kwargs):
        if jax.config.jax_default_device is None:
            raise NotImplementedError("MLIR translation rule for primitive 'while' not found for METAL")
        return haar(*args, **kwargs)

    monkeypatch.setattr("initax.schemes._structured.haar", unsupported)
    monkeypatch.setattr(_program, "_only_on_cpu", set())
    _program.sampler.cache_clear()
    drawn = ix.draw("orthogonal", key, (12, 7))
    assert np.array_equal(drawn, expected)
    assert drawn.devices() == {jax.devices()[0]}
    assert len(_program._only_on_cpu) == 1
    model = jax.device_put(eqx.nn.Linear(7, 12, use_bias=False, key=KEY), jax.devices()[3])
    new = ix.reinit(model, {"*": "orthogonal"}, key)
    assert new.weight.devices() == {jax.devices()[3]}
    half = ix.draw("orthogonal", key, (12, 7), jnp.bfloat16)
    assert np.array_equal(half, expected.astype(jnp.bfloat16))
    home = jax.sharding.NamedSharding(jax.make_mesh((4,), ("stack",)), jax.sharding.PartitionSpec("stack"))
    for scheme in ("orthogonal", ("scaled", {"scheme": "orthogonal", "factor": 0.5})):
        rules = {"*": {"weight": scheme, "axes": "l o i"}}
        one = ix.reinit({"w": jnp.ones((4, 12, 7))}, rules, key)["w"]
        spread = ix.reinit({"w": jax.device_put(jnp.ones((4, 12, 7)), home)}, rules, key)["w"]
        assert spread.sharding == home
        assert np.array_equal(spread, one)
    _program.sampler.cache_clear()
