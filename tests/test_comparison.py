"""Several rule maps measured at once: each report is that of its rules alone, and one program measures all."""

import json

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initax as ix
from tests.tables import KEY, compilations

X = jax.random.normal(jax.random.key(3), (8, 6))
KEYS = jax.random.split(jax.random.key(9), 3)
HE, LECUN = {"Linear": "he_normal"}, {"Linear": "lecun_normal"}
MAPS = {"he": HE, "lecun": LECUN}


def mlp(depth=2):
    return eqx.nn.MLP(6, 6, 6, depth=depth, key=KEY)


def batched(model, x):
    return jax.vmap(model)(x)


def mean_square(outputs):
    return jnp.mean(outputs**2)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(6)(jnp.tanh(linen.Dense(6)(x)))


def of_linen():
    return Linen().init(KEY, X), {"module": Linen()}


def of_nnx():
    rngs = nnx.Rngs(0)
    model = nnx.List([nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)])
    return model, {"forward": lambda model, x: model[1](jnp.tanh(model[0](x)))}


FRAMEWORKS = {"equinox": lambda: (mlp(), {"forward": batched}), "nnx": of_nnx, "linen": of_linen}


@pytest.mark.parametrize("make", FRAMEWORKS.values(), ids=FRAMEWORKS)
@pytest.mark.slow(one_in=3)
def test_each_report_is_that_of_its_rules_alone(make):
    model, options = make()
    both = ix.signal_propagation(model, X, loss=mean_square, rules=MAPS, keys=KEYS, **options)
    assert list(both.reports) == ["he", "lecun"]
    for name, rules in MAPS.items():
        alone = ix.signal_propagation(model, X, loss=mean_square, rules=rules, keys=KEYS, **options)
        assert list(both[name].to_dict()) == list(alone.to_dict())
        for one, other in zip(both[name].signals, alone.signals, strict=True):
            np.testing.assert_allclose(one.mean_square, other.mean_square, rtol=1e-5)
            np.testing.assert_allclose(one.gradient_norm, other.gradient_norm, rtol=1e-4)
    assert both.to_dict() == {name: both[name].to_dict() for name in MAPS}
    assert json.loads(json.dumps(both.to_dict())) == both.to_dict()


def test_one_program_measures_all_rule_maps():
    """Counted by XLA: two rule maps more of the same structure compile nothing more."""
    model, options = mlp(3), {"forward": batched, "keys": KEYS}
    stds = {f"{std}": {"Linear": ("normal", {"stddev": std})} for std in (0.1, 0.2, 0.3, 0.4)}
    ix.signal_propagation(model, X, rules={"warm": {"Linear": ("normal", {"stddev": 0.5})}}, **options)
    two = compilations(lambda: ix.signal_propagation(model, X, rules=dict(list(stds.items())[:2]), **options))
    four = compilations(lambda: ix.signal_propagation(model, X, rules=stds, **options))
    assert two == four == 1


def test_rule_maps_that_draw_different_weights_are_measured_by_one_program_too():
    model, options = mlp(3), {"forward": batched, "keys": KEYS}
    maps = {"all": HE, "first": {"layers.0": "he_normal"}, "last": {"layers.3": "he_normal"}}
    both = ix.signal_propagation(model, X, rules=maps, **options)
    alone = ix.signal_propagation(model, X, rules=maps["last"], **options)
    np.testing.assert_allclose(both["last"].signals[-1].std, alone.signals[-1].std, rtol=1e-5)
    assert len(set(both["last"].signals[0].std.tolist())) == 1, "kept, and so the same with each key"
    ix.signal_propagation(model, X, rules={"all": HE}, **options)
    assert compilations(lambda: ix.signal_propagation(model, X, rules=maps, **options)) == 1


def test_the_table_stands_side_by_side():
    signs = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    maps = {
        "two": {"*": ix.Scheme(("constant", {"value": 2.0}), axes={"w": "i o"})},
        "three": {"*": ix.Scheme(("constant", {"value": 3.0}), axes={"w": "i o"})},
    }
    report = ix.signal_propagation(
        {"w": jnp.eye(2)}, signs, forward=lambda p, x: jnp.abs(x) @ p["w"], rules=maps, keys=KEYS
    )
    assert str(report) == (
        "1 operation, 2 rule maps, medians over 3 keys\n\n"
        " weight   mean square, two   mean square, three   correlation, two   correlation, three\n"
        " ──────────────────────────────────────────────────────────────────────────────────────\n"
        " w                      16                   36                  1                    1"
    )


def test_what_is_not_finite_is_said_by_name():
    maps = {"tame": {"*": ("normal", {"stddev": 0.1})}, "wild": {"*": ("normal", {"stddev": 1e5})}}
    forward = lambda p, x: jnp.exp(x @ p["a"]) @ p["b"]  # noqa: E731
    report = ix.signal_propagation({"a": jnp.eye(6), "b": jnp.eye(6)}, X, forward=forward, rules=maps, keys=KEYS)
    assert report["tame"].not_finite == ()
    assert str(report).endswith("\n\nwild: not finite: b first, of 1")
    report.plot()
    with pytest.raises(AssertionError) as caught:
        report.assert_healthy(mean_square=(0, 1e30), saturated=1.0)
    assert str(caught.value) == (
        'rules "wild": the signal does not stay within bounds.\n  b: mean_square nan, not in [0, 1e+30]'
    )


def test_the_plot_has_a_band_for_each_rule_map():
    report = ix.signal_propagation(mlp(), X, forward=batched, loss=mean_square, rules=MAPS, keys=KEYS)
    figure = report.plot()
    assert [panel.get_title() for panel in figure.axes] == ["mean square", "correlation", "gradient norm"]
    for panel in figure.axes:
        assert [line.get_label() for line in panel.lines] == ["he", "lecun"]
        assert [text.get_text() for text in panel.get_legend().get_texts()] == ["he", "lecun"]
    line = figure.axes[0].lines[1].get_ydata()
    assert np.allclose(line, [np.median(signal.mean_square) for signal in report["lecun"].signals])


ONE_MAP = {
    "a name": {"Linear": "he_normal"},
    "roles": {"Linear": {"weight": "he_normal", "bias": "zeros"}},
    "a name and arguments": {"Linear": {"name": "orthogonal", "gain": 0.5}},
    "a pair": {"Linear": ("he_normal", "zeros")},
    "none": {"*": "he_normal", "layers.1": None},
    "roles at a path": {"layers.0": {"weight": "he_normal"}, "layers.1": {"bias": "zeros"}},
    "axes": {"Linear": {"weight": "he_normal", "axes": {"weight": "o i"}}},
}


@pytest.mark.parametrize("rules", ONE_MAP.values(), ids=ONE_MAP)
def test_one_rule_map_is_one_as_before(rules):
    report = ix.signal_propagation(mlp(), X, forward=batched, rules=rules, keys=KEYS)
    assert isinstance(report, ix.SignalReport)


def test_names_of_arrays_are_roles_and_no_selectors():
    model = {"w": jnp.eye(6), "v": jnp.eye(6)}
    forward = lambda p, x: x @ p["w"] @ p["v"]  # noqa: E731
    report = ix.signal_propagation(model, X, forward=forward, rules={"*": {"w": "he_normal"}}, keys=KEYS)
    assert isinstance(report, ix.SignalReport)


SEVERAL = {
    "kinds": {"a": {"Linear": "he_normal"}, "b": {"*": "zeros"}},
    "a kind for a name": {"Linear": {"Linear": "he_normal"}},
    "roles inside": {"a": {"Linear": {"weight": "he_normal"}}},
    "one": {"a": {"**": "he_normal"}},
    "classes": {"a": {eqx.nn.Linear: "he_normal"}},
}


@pytest.mark.parametrize("rules", SEVERAL.values(), ids=SEVERAL)
def test_rule_maps_with_names_are_several(rules):
    report = ix.signal_propagation(mlp(), X, forward=batched, rules=rules, keys=KEYS)
    assert isinstance(report, ix.SignalComparison)
    assert list(report.reports) == list(rules)


ERRORS = {
    "a rule beside rule maps": (
        {"he": {"Linear": "he_normal"}, "Linear": "zeros"},
        'signal_propagation: "he" has a rule map for its value, and "Linear" a scheme: rules are one rule map, or '
        "several with a name each.\n"
        '  rules={"he": {"Linear": "he_normal"}, "other": {"Linear": "zeros"}}',
    ),
    "roles beside rule maps": (
        {"he": {"Linear": "he_normal"}, "Linear": {"weight": "zeros"}},
        'signal_propagation: "he" has a rule map for its value, and "Linear" a scheme: rules are one rule map, or '
        "several with a name each.\n"
        '  rules={"he": {"Linear": "he_normal"}, "other": {"Linear": {"weight": "zeros"}}}',
    ),
    "a selector of nothing in one": (
        {"he": {"Linear": "he_normal"}, "lecun": {"Linaer": "lecun_normal"}},
        'rules "lecun": selector "Linaer" matches no layer.\n  layers: Linear (3)\n  did you mean "Linear"?\n'
        '  write {"Linear": "lecun_normal"}',
    ),
    "a scheme that is none in one": (
        {"he": {"Linear": 3}, "lecun": {"Linear": "lecun_normal"}},
        'rules "he": rule "Linear": 3 (int) is not a scheme.\n  a fixed value is ("constant", {"value": 3})',
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_rule_map(name):
    rules, text = ERRORS[name]
    with pytest.raises(ix.InitaxError) as caught:
        ix.signal_propagation(mlp(), X, forward=batched, rules=rules, keys=KEYS)
    assert str(caught.value) == text
