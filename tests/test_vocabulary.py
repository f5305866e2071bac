"""What users of PyTorch, Keras, Lux and klax say: it works here, or the error has the line to write."""

import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

import initax as ix

KEY = jax.random.key(20261129)
LINEAR = eqx.nn.Linear(4, 3, key=KEY)


def bias(scheme, shape=(3,), **options):
    return np.asarray(ix.draw(scheme, KEY, shape, role="bias", **options))


@pytest.mark.parametrize("axes", ["o i", "i o"])
def test_a_constant_vector_has_an_entry_for_each_output(axes):
    """Whatever the layout; an array of the canonical layout is put where it belongs."""
    value = [1.0, 2.0, 3.0]
    shape = (3, 4) if axes == "o i" else (4, 3)
    drawn = np.asarray(ix.draw(("constant", {"value": value}), KEY, shape, axes=axes))
    assert np.array_equal(drawn if axes == "i o" else drawn.T, np.broadcast_to(value, (4, 3)))


def stacked_linear(number, axis):
    """Linear layers of NNX, stacked along an axis."""

    @nnx.vmap(in_axes=0, out_axes=nnx.StateAxes({...: axis}))
    def made(key):
        return nnx.Linear(4, 3, rngs=nnx.Rngs(key))

    return made(jax.random.split(KEY, number))


P = np.array([0.1, 0.2, 0.7])


@pytest.mark.parametrize("scheme", [("prior", {"p": P, "link": "softmax"}), ("constant", {"value": np.log(P)})])
def test_a_vector_for_a_bias_has_an_entry_for_each_output_however_it_is_stored(scheme):
    """With ones behind the outputs, in groups, and in a stack whose axis comes last: as many members as outputs."""
    rules = {"*": ("zeros", scheme)}
    conv = ix.reinit(eqx.nn.Conv2d(4, 3, 3, key=KEY), rules, KEY)
    assert np.allclose(np.exp(conv.bias[:, 0, 0]), P)
    grouped = ix.reinit(eqx.nn.Conv1d(6, 3, 3, groups=3, key=KEY), rules, KEY)
    assert np.allclose(np.exp(grouped.bias[:, 0]), P)
    for axis in (0, 1):
        stacked = ix.reinit(stacked_linear(3, axis), rules, KEY)
        assert np.allclose(np.exp(np.moveaxis(stacked.bias[...], axis, 0)), P)


def test_a_vector_for_a_bias_is_not_laid_along_a_stack():
    with pytest.raises(ix.SchemeError) as raised:
        ix.plan(stacked_linear(2, 1), {"*": ("zeros", ("constant", {"value": [1.0, 2.0]}))})
    assert 'constant has values of shape (2,), which do not broadcast to "bias".' in str(raised.value)
    values = np.arange(6.0).reshape(3, 2)
    whole = ix.reinit(stacked_linear(2, 1), {"*": ("zeros", ("constant", {"value": values}))}, KEY)
    assert np.array_equal(whole.bias[...], values)


def test_the_lines_for_classes_of_one_output_work():
    labels = [0, 1, 1, 1]
    with pytest.raises(ix.SchemeError) as raised:
        bias(("prior", {"labels": labels}), (1,))
    head, *lines = str(raised.value).splitlines()
    assert head == "prior has the probabilities of 2 classes, and the array is of one output."
    for line in lines:
        written = eval(line[line.index('("') :], {"np": np, "labels": labels})
        assert np.allclose(jax.nn.sigmoid(bias(written, (1,))), 4 / 6)
    assert len(lines) == 2


def test_constants_of_a_stack_are_those_of_each_entry():
    value = np.arange(12.0).reshape(4, 3)
    drawn = ix.draw(("constant", {"value": value}), KEY, (2, 3, 4), axes="stack o i")
    assert np.array_equal(drawn, np.broadcast_to(value.T, (2, 3, 4)))


@pytest.mark.parametrize("value", [1 + 2j, "1+2j", [1j, 2.0, 3 - 1j], np.array([1j, 2, 3 - 1j], np.complex64)])
def test_complex_constants(value):
    drawn = ix.draw(("constant", {"value": value}), KEY, (4, 3), jnp.complex64, axes="i o")
    assert np.array_equal(
        drawn, np.broadcast_to(np.asarray(complex(value) if isinstance(value, str) else value), (4, 3))
    )


RULES = {
    "array": {"Linear": (("constant", {"value": [[1.0, 2.0, 3.0]]}), ("constant", {"value": [0.5, 0.25, 0.125]}))},
    "classes": {"Linear": ("he_normal", ("prior", {"p": [0.7, 0.2, 0.1]}))},
    "sigmoids": {"Linear": ("he_normal", ("prior", {"p": [0.7, 0.2, 0.1], "link": "sigmoid"}))},
    "interval": {"Linear": ("uniform", {"lower": -0.25, "upper": 0.75})},
    "uncut": {"Linear": ("he_normal", {"truncated": False})},
    "rolled": {"Linear": ("identity", {"shift": (1, 0)})},
    "values": {"Linear": ("trunc_normal", {"stddev": 0.02})},
}


@pytest.mark.parametrize("name", RULES)
def test_rules_survive_json_and_files(name):
    """As plain data, and in a stored plan."""
    plan = ix.plan(LINEAR, RULES[name])
    assert ix.plan(LINEAR, ix.load_rules(json.dumps(RULES[name]))) == plan
    assert ix.Plan.from_json(plan.to_json(), LINEAR) == plan


def test_a_prior_is_what_the_outputs_start_at():
    p = [0.7, 0.2, 0.1]
    assert np.allclose(jax.nn.softmax(bias(("prior", {"p": p}))), p)
    assert np.allclose(jax.nn.sigmoid(bias(("prior", {"p": p, "link": "sigmoid"}))), p)
    assert np.allclose(jax.nn.sigmoid(bias(("prior", {"p": [0.5, 0.9, 0.9]}))), [0.5, 0.9, 0.9])


def test_a_prior_from_labels_is_their_share_with_one_example_more():
    labels = np.array([0, 0, 0, 1, 1, 3])
    drawn = bias(("prior", {"labels": labels}), (4,))
    assert np.allclose(jax.nn.softmax(drawn), np.array([4, 3, 1, 2]) / 10)
    several = np.array([[1, 0, 1], [1, 0, 0]])
    assert np.allclose(jax.nn.sigmoid(bias(("prior", {"labels": several}))), np.array([3, 1, 2]) / 4)


def test_uniform_between_two_numbers():
    drawn = np.asarray(ix.draw(("uniform", {"lower": -0.25, "upper": 0.75}), KEY, (200, 100), axes="i o")).ravel()
    assert stats.kstest(drawn, stats.uniform(-0.25, 1.0).cdf).pvalue > 1e-3
    plan = ix.plan(LINEAR, RULES["interval"])
    assert math.isclose(plan.draws[0].std, 1 / math.sqrt(12))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_uniform_never_reaches_one(dtype):
    drawn = ix.draw(("uniform", {"scale": 1.0}), KEY, (1000, 1000), dtype, axes="i o")
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1


def test_complex_uniform_has_both_parts_uniform():
    drawn = np.asarray(ix.draw(("uniform", {"scale": 2.0}), KEY, (200, 100), jnp.complex64, axes="i o")).ravel()
    for part in (drawn.real, drawn.imag):
        assert stats.kstest(part, stats.uniform(0, 2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(drawn.real, drawn.imag)[0, 1]) < 4 / math.sqrt(drawn.size)


def test_a_complex_mean():
    drawn = np.asarray(ix.draw(("normal", {"stddev": 0.1, "mean": 1 - 2j}), KEY, (200, 100), jnp.complex64, axes="i o"))
    assert abs(drawn.mean() - (1 - 2j)) < 4 * 0.1 / math.sqrt(drawn.size)


def test_identity_is_rolled_along_each_axis():
    drawn = ix.draw(("identity", {"shift": (1, 0, 2)}), KEY, (3, 4, 4), axes="... i o")
    plain = np.asarray(ix.draw("identity", KEY, (3, 4, 4), axes="... i o"))
    assert np.array_equal(drawn, np.roll(plain, (1, 0, 2), (0, 1, 2)))


def test_gains_of_pytorch():
    """`calculate_gain("leaky_relu", a)` is √(2 / (1 + a²)); linear layers have gain one."""
    assert math.isclose(ix.gain("leaky_relu", 0.2), math.sqrt(2 / 1.04), rel_tol=1e-9)
    assert math.isclose(ix.gain(jax.nn.leaky_relu, 0.2), math.sqrt(2 / 1.04), rel_tol=1e-9)
    assert {ix.gain(name) for name in ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d")} == {1.0}


def test_a_slope_that_is_not_finite_has_no_gain():
    with pytest.raises(
        ix.SchemeError, match="the activation leaky_relu has second moment nan; its gain is not defined"
    ):
        ix.gain("leaky_relu", math.nan)


def test_a_module_that_holds_arrays_has_a_gain():
    """It can't be hashed, and its gain is that of its slope."""
    assert ix.gain(eqx.nn.PReLU(0.2)) == pytest.approx(ix.gain("leaky_relu", 0.2))


@pytest.mark.parametrize("name", ["he_normal", "xavier_normal", "lecun_normal"])
def test_uncut_normals_have_the_variance_of_the_cut_ones(name):
    shape = (400, 300)
    cut, uncut = (np.asarray(ix.draw((name, {"truncated": each}), KEY, shape)) for each in (True, False))
    std = ix.plan({"w": shape}, {"*": ix.Scheme(name, axes="i o")}).draws[0].std
    assert stats.kstest(uncut.ravel() / std, stats.norm.cdf).pvalue > 1e-3
    assert abs(uncut.std() / std - 1) < 4 / math.sqrt(2 * uncut.size)
    assert abs(cut).max() / std < 2.28 < abs(uncut).max() / std


def test_vectors_alone_are_drawn_where_a_scheme_asks_for_no_inputs():
    for scheme in ("zeros", "ones", ("constant", {"value": 2.0}), "normal", "uniform", "truncated_normal"):
        assert ix.draw(scheme, KEY, (10,)).shape == (10,)
    assert ix.reinit({"b_y": jnp.ones(10)}, {"*": "zeros"}, KEY)["b_y"].sum() == 0


def test_a_bias_alone_asks_for_its_fan_in_only():
    drawn = bias("uniform_fan_in", (1000,), fan_in=16)
    assert 0.24 < abs(drawn).max() <= 0.25


@pytest.mark.parametrize("name", ["orthogonal", "sparse", "identity"])
def test_empty_arrays_are_drawn(name):
    assert ix.draw(name, KEY, (0, 0)).shape == (0, 0)


def test_bounds_far_from_the_mean_do_not_crash():
    for lower, upper in ((6.0, 7.0), (10.0, 11.0), (50.0, math.inf), (-math.inf, -40.0)):
        with pytest.warns(ix.InitaxWarning, match="standard deviations, all on one side of the mean"):
            scheme = ix.schemes.truncated_normal(1.0, lower=lower, upper=upper)
        law = scheme.parts["weight"]
        std = law.recipe(ix.plan({"w": (4, 4)}, {"*": "zeros"}).draws[0].parameter, None).std
        exact = stats.truncnorm(lower, upper).std()
        assert 0.7 < std / exact < 1.4


def test_bounds_that_were_meant_as_values_are_spoken_of():
    with pytest.warns(ix.InitaxWarning) as caught:
        ix.schemes.truncated_normal(0.02, lower=-0.04, upper=0.04)
    assert str(caught[0].message) == (
        "truncated_normal is cut at -0.04 and 0.04 standard deviations; what is left has the standard deviation "
        "0.00046, where stddev is 0.02.\n"
        "  where the bounds are values of the weights, add absolute=True: "
        '("truncated_normal", {"stddev": 0.02, "lower": -0.04, "upper": 0.04, "absolute": True})'
    )


AXES = (
    "  a layer's axes are known; where only you know them they stand beside the scheme: "
    'ix.Scheme("{0}", axes="o i"), ix.draw("{0}", key, shape, axes="o i")'
)
ERRORS = {
    "axes as arguments": (
        lambda: ix.schemes.he_normal(in_axis=-2),
        'he_normal has no argument "in_axis".\n  arguments: fans, truncated\n' + AXES.format("he_normal"),
    ),
    "axes as arguments of a rule": (
        lambda: ix.draw(("orthogonal", {"column_axis": -2}), KEY, (3, 3)),
        'orthogonal has no argument "column_axis".\n  arguments: gain, method\n' + AXES.format("orthogonal"),
    ),
    "groups": (
        lambda: ix.schemes.dirac(groups=2),
        'dirac has no argument "groups".\n  arguments: gain\n'
        "  a layer's groups are known, and each is drawn alone; of a single array they are said by its axes: "
        'ix.draw("dirac", key, shape, axes="(g o) i ...", sizes={"g": 2})',
    ),
    "minval": (
        lambda: ix.schemes.get("uniform", minval=-1.0),
        'uniform has no argument "minval".\n  arguments: scale, lower, upper\n  here it is called "lower"',
    ),
    "b of PyTorch": (
        lambda: ix.schemes.uniform(b=1.0),
        'uniform has no argument "b".\n  arguments: scale, lower, upper\n  here it is called "upper"',
    ),
    "one end of an interval": (
        lambda: ix.schemes.uniform(lower=-1.0),
        "uniform takes scale, or lower and upper together.\n"
        '  between two numbers: ("uniform", {"lower": -0.1, "upper": 0.1})',
    ),
    "no name": (
        lambda: ix.schemes.get(None),
        "a scheme's name is a text, not None (NoneType).\n"
        '  what a rule selects is kept by None, written without quotes; in a file by "keep"',
    ),
    "a constant that does not fit": (
        lambda: ix.draw(("constant", {"value": [1.0, 2.0]}), KEY, (4, 3), axes="i o"),
        "constant has values of shape (2,), which do not broadcast to the array.\n"
        "  shape (4, 3) in the layout (*receptive, in, out)\n"
        "  a vector has one value for each output; a number is the same for all",
    ),
    "a complex constant of a real array": (
        lambda: ix.draw(("constant", {"value": 1j}), KEY, (4, 3)),
        "constant has complex values, and the array is float32.\n  a real array takes real values",
    ),
    "a complex mean of a real array": (
        lambda: ix.draw(("normal", {"mean": 1j}), KEY, (4, 3)),
        "normal has a complex mean, 1j, and the array is float32.\n  a real array has a real mean",
    ),
    "shifts of another rank": (
        lambda: ix.draw(("identity", {"shift": (1, 0, 0)}), KEY, (4, 3)),
        "identity has 3 shifts, one for each axis, and the array has 2 axes in the layout (*receptive, in, out).\n"
        '  shape (4, 3), axes "... i o"\n'
        "  a single number shifts the outputs",
    ),
    "labels that are none": (
        lambda: ix.schemes.prior(labels=[0.5, 1.5]),
        "prior: labels of shape (2,) and type float64 are neither classes nor zeros and ones.\n"
        "  classes are whole numbers from 0 on, of shape (examples,); several labels of an example are zeros and ones, "
        "of shape (examples, outputs)",
    ),
    "an argument of an activation that has none": (
        lambda: ix.gain("tanh", 0.2),
        "the activation tanh takes no argument, 0.2 here.\n"
        "  those that do: leaky_relu, elu, celu\n"
        "  of any other give the function: ix.gain(lambda x: f(x, 0.2))",
    ),
    "a bias alone": (
        lambda: ix.draw("uniform_fan_in", KEY, (5,), role="bias"),
        "uniform_fan_in needs the fans of the array, and they are not known.\n"
        "  shape (5,), role bias\n"
        '  give those of its weight: ix.draw("uniform_fan_in", key, shape, role="bias", fan_in=...)',
    ),
    "a complex type of half precision": (
        lambda: ix.draw("normal", KEY, (4, 3), "complex32"),
        "only floating and complex arrays are drawn, not complex32.\n"
        "  JAX has no complex type of half precision; draw jnp.complex64",
    ),
    "hoedt without a bias": (
        lambda: ix.plan(eqx.nn.Linear(4, 3, use_bias=False, key=KEY), {"*": "hoedt"}),
        'rule "*": hoedt needs a bias beside "weight" of Linear, and there is none.\n'
        "  positive weights shift the mean by +0.6401; a bias has to take that off\n"
        '  build the layer with one, or say that another layer holds it: ("hoedt", {"bias": "elsewhere"})',
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_has_the_line_to_write(name):
    do, text = ERRORS[name]
    with pytest.raises(ix.SchemeError) as caught:
        do()
    assert str(caught.value) == text


ELSEWHERE = {
    "zeros_init": "zeros",
    "ones_": "ones",
    "eye": "identity",
    "rand32": '("uniform", {"scale": 1.0})',
    "randC32": '("uniform", {"scale": 1.0})',
    "randnC64": '("normal", {"stddev": ...})',
    "zerosC16": "zeros",
    "UniformScaling": "lecun_uniform",
    "msra": "he_normal",
    "gpt2": '("gpt2", {"layers": 12})',
    "mup": "mup_hidden",
    "randn32": '("normal", {"stddev": ...})',
    "constant_": '("constant", {"value": ...})',
    "trunc_normal_": '("trunc_normal", {"stddev": ...})',
    "HeNormal": '"he_normal"',
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_names_of_other_packages_are_answered(name):
    with pytest.raises(ix.SchemeError) as caught:
        ix.schemes.get(name)
    assert ELSEWHERE[name] in str(caught.value).splitlines()[1]
