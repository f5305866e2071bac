"""Ablations: every scheme starts from the same random numbers, in one program, and no failure spoils another run."""

import functools
import logging
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import initax as ix
from tests.tables import KEY

KEYS = jax.random.split(jax.random.key(7), 3)
WAYS = ("vmap", "jit", "python")
SCHEMES: dict[str, Any] = {
    "one": {"*": ("variance_scaling", {"scale": 1.0, "distribution": "normal"})},
    "four": {"*": ("variance_scaling", {"scale": 4.0, "distribution": "normal"})},
    "orthogonal": {"*": "orthogonal"},
}
X = jax.random.normal(jax.random.key(8), (16, 4))


class Net(eqx.Module):
    first: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, key=KEY):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(4, 8, key=one)
        self.last = eqx.nn.Linear(8, 2, key=two)

    def __call__(self, x):
        return self.last(jax.nn.relu(self.first(x)))


class NnxNet(nnx.Module):
    def __init__(self, seed=0):
        self.first = nnx.Linear(4, 8, rngs=nnx.Rngs(seed))
        self.norm = nnx.BatchNorm(8, rngs=nnx.Rngs(seed))
        self.last = nnx.Linear(8, 2, rngs=nnx.Rngs(seed + 1))

    def __call__(self, x):
        return self.last(jax.nn.relu(self.norm(self.first(x))))


LINEN = linen.Sequential([linen.Dense(8), linen.relu, linen.Dense(2)])

# model, what goes with it, its two weights, and how to call it
MODELS = {
    "equinox": (Net, {}, lambda model: (model.first.weight, model.last.weight), lambda model, x: jax.vmap(model)(x)),
    "nnx": (
        NnxNet,
        {},
        lambda model: (model.first.kernel[...], model.last.kernel[...]),
        lambda model, x: model(x),
    ),
    "linen": (
        lambda: LINEN.init(KEY, X),
        {"module": LINEN, "inputs": X},
        lambda model: (model["params"]["layers_0"]["kernel"], model["params"]["layers_2"]["kernel"]),
        lambda model, x: LINEN.apply(model, x),
    ),
    "pytree": (
        lambda: {"a": {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}, "z": {"w": np.ones((8, 2), np.float32)}},
        {},
        lambda model: (model["a"]["w"], model["z"]["w"]),
        lambda model, x: (x @ model["a"]["w"] + model["a"]["b"][None]) @ model["z"]["w"],
    ),
}


def weights(pick):
    def run(model, key):
        first, last = pick(model)
        return {"last": last, "first": first, "draw": jax.random.normal(key)}

    return run


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("framework", MODELS)
@pytest.mark.slow(one_in=5)
def test_each_run_has_the_model_of_reinit_and_its_key(framework, how):
    """Surgery: bit for bit, in every framework and way to run, and with the metrics in the order of the run."""
    make, kwargs, pick, _ = MODELS[framework]
    ablation = ix.ablate(make(), SCHEMES, KEYS, weights(pick), how=how, **kwargs)
    assert ablation.metrics == ("last", "first", "draw")
    assert [(run.scheme, run.seed, run.error) for run in ablation.runs] == [
        (name, seed, None) for name in SCHEMES for seed in range(3)
    ]
    for run in ablation.runs:
        first, last = pick(ix.reinit(make(), SCHEMES[run.scheme], KEYS[run.seed], **kwargs))
        np.testing.assert_array_equal(run.metrics["first"], np.asarray(first, np.float64))
        np.testing.assert_array_equal(run.metrics["last"], np.asarray(last, np.float64))
        assert run.metrics["draw"] == float(jax.random.normal(KEYS[run.seed]))
        assert run.key == tuple(jax.random.key_data(KEYS[run.seed]).tolist())


@pytest.mark.parametrize("framework", MODELS)
def test_schemes_are_paired(framework):
    """Every scheme sees the same normals: weights of twice the deviation are twice the weights, seed by seed."""
    make, kwargs, pick, _ = MODELS[framework]
    ablation = ix.ablate(make(), SCHEMES, KEYS, weights(pick), **kwargs)
    for name in ("first", "last"):
        values = ablation.values(name)
        np.testing.assert_array_equal(values["four"], 2 * values["one"])
        assert not np.array_equal(values["one"][0], values["one"][1])


@pytest.mark.parametrize("how", ["vmap", "jit"])
def test_one_compilation_serves_every_scheme(how, caplog):
    """The function is traced once and compiled once, for four schemes and three seeds; one scheme keeps a layer."""
    schemes = SCHEMES | {"part": {"last": "zeros"}}
    traces = []

    def run(model, key):
        traces.append(key)
        return {"mean": jax.vmap(model)(X).mean()}

    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        ix.ablate(Net(), schemes, KEYS, run, how=how)
    compiled = [each.getMessage() for each in caplog.records if "Finished XLA compilation" in each.getMessage()]
    assert len(traces) == 1
    assert sum("ablated" in each for each in compiled) == 1


@pytest.mark.parametrize("framework", MODELS)
def test_the_three_ways_agree(framework):
    make, kwargs, _, call = MODELS[framework]

    def run(model, key):
        y = call(model, X)
        return {"loss": (y**2).mean(), "sorted": jnp.sort(y.ravel()), "wide": y.argmax() > 3}

    found = {how: ix.ablate(make(), SCHEMES, KEYS, run, how=how, **kwargs) for how in WAYS}
    for name in ("loss", "sorted", "wide"):
        for scheme in SCHEMES:
            for how in ("vmap", "jit"):
                np.testing.assert_allclose(
                    found[how].values(name)[scheme], found["python"].values(name)[scheme], rtol=2e-5, atol=1e-6
                )


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.slow(one_in=3)
def test_an_nnx_module_is_trained_in_place_and_the_skeleton_stays(how):
    """Batch statistics and weights that a run changes in place are the run's own."""
    skeleton = NnxNet()
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(skeleton)))

    def run(model, key):
        optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
        for _ in range(2):
            loss, gradients = nnx.value_and_grad(lambda model: (model(X) ** 2).mean())(model)
            optimizer.update(model, gradients)
        return {"loss": loss, "mean": model.norm.mean[...], "weight": model.first.kernel[...]}

    ablation = ix.ablate(skeleton, SCHEMES, KEYS, run, how=how)
    expected = run(ix.reinit(NnxNet(), SCHEMES["four"], KEYS[1]), KEYS[1])
    found = next(each for each in ablation.runs if (each.scheme, each.seed) == ("four", 1))
    assert found.error is None
    for name, value in expected.items():
        np.testing.assert_allclose(found.metrics[name], value, rtol=1e-4, atol=1e-6)
    after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(skeleton)))
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("how", WAYS)
def test_a_builder_gives_each_seed_a_model_of_its_own(how):
    """What no rule draws is what the builder makes under the seed's key, the same for every scheme."""

    def run(model, key):
        return {"kept": model.first.weight, "drawn": model.last.weight}

    schemes = {"zeros": {"last": "zeros"}, "he": {"last": "he_normal"}}
    ablation = ix.ablate(Net, schemes, KEYS, run, how=how)
    kept, drawn = ablation.values("kept"), ablation.values("drawn")
    for seed, key in enumerate(KEYS):
        model = ix.reinit(Net(key), schemes["he"], key)
        for scheme in schemes:
            np.testing.assert_array_equal(kept[scheme][seed], np.asarray(model.first.weight, np.float64))
        np.testing.assert_array_equal(drawn["he"][seed], np.asarray(model.last.weight, np.float64))
    assert not drawn["zeros"].any()


def test_linen_takes_a_builder_too():
    ablation = ix.ablate(
        lambda key: LINEN.init(key, X),
        {"zeros": {"layers_2": "zeros"}},
        KEYS,
        lambda model, key: {"kept": model["params"]["layers_0"]["kernel"]},
        module=LINEN,
        inputs=X,
    )
    for seed, key in enumerate(KEYS):
        kept = LINEN.init(key, X)["params"]["layers_0"]["kernel"]
        np.testing.assert_array_equal(ablation.values("kept")["zeros"][seed], np.asarray(kept, np.float64))


def test_a_failed_run_is_recorded_and_stops_no_other():
    def run(model, key):
        if model.last.weight.std() > 0.9 and (key == KEYS[1]).all():
            raise ValueError("diverged")
        return {"std": float(model.last.weight.std())}

    schemes = {"small": {"*": "lecun_normal"}, "large": {"*": ("normal", {"stddev": 1.5})}}
    ablation = ix.ablate(Net(), schemes, KEYS, run, how="python")
    assert [run.error for run in ablation.runs] == [None] * 4 + ["ValueError: diverged", None]
    assert dict(ablation.runs[4].metrics) == {}
    values = ablation.values("std")["large"]
    assert np.isnan(values).tolist() == [False, True, False]
    small, large = ablation.summary("std")
    assert (small.runs, small.failed, large.runs, large.failed) == (3, 0, 2, 1)
    assert large.mean == values[[0, 2]].mean()
    assert large.difference == (values - ablation.values("std")["small"])[[0, 2]].mean()
    assert str(ablation).endswith("failed: 1 run\n  large, seed 1: ValueError: diverged")


def test_a_failure_among_seeds_that_run_together_is_the_failing_seeds_own():
    """Where the call for all seeds fails they are run one at a time; the others' numbers are kept."""

    def run(model, key):
        std = eqx.error_if(model.last.weight.std(), (model.last.weight > 2.9).any(), "too large")
        return {"std": std}

    schemes = {"small": {"*": "lecun_normal"}, "large": {"*": ("normal", {"stddev": 1.5})}}
    ablation = ix.ablate(Net(), schemes, KEYS, run)
    fails = [bool((ix.reinit(Net(), schemes[name], key).last.weight > 2.9).any()) for name in schemes for key in KEYS]
    assert not any(fails[:3])
    assert any(fails[3:])
    assert not all(fails[3:])
    assert [run.error is not None for run in ablation.runs] == fails
    assert all("too large" in run.error for run in ablation.runs if run.error)


@pytest.mark.parametrize("how", WAYS)
def test_what_is_not_finite_is_recorded_as_it_is(how):
    def run(model, key):
        low = (key == KEYS[0]).all()
        return {"loss": jnp.where(low, jnp.nan, 1.0), "curve": jnp.where(low, jnp.array([1.0, jnp.inf]), 2.0)}

    ablation = ix.ablate(Net(), {"one": SCHEMES["one"]}, KEYS, run, how=how)
    assert [run.error for run in ablation.runs] == [None] * 3
    np.testing.assert_array_equal(ablation.values("loss")["one"], [np.nan, 1, 1])
    (loss,) = ablation.summary("loss")
    assert (loss.runs, loss.failed, loss.diverged) == (3, 0, 1)
    assert np.isnan(loss.mean)
    assert np.isnan(loss.low)
    (curve,) = ablation.summary("curve")
    np.testing.assert_allclose(curve.mean, [5 / 3, np.inf])
    assert np.isfinite(curve.low).tolist() == [True, False]
    assert "3 (1 diverged)" in str(ablation)


def test_a_run_may_donate_its_model():
    @jax.jit
    def total(model):
        return sum(leaf.sum() for leaf in jax.tree.leaves(model))

    def run(model, key):
        arrays = eqx.filter(model, eqx.is_array)
        found = total(arrays)
        for leaf in jax.tree.leaves(arrays):
            leaf.delete()
        return {"total": found}

    model = Net()
    ablation = ix.ablate(model, {"last": {"last": "zeros"}, "first": {"first": "zeros"}}, KEYS, run, how="python")
    assert [run.error for run in ablation.runs] == [None] * 6
    assert not model.first.weight.is_deleted()


@pytest.mark.parametrize("how", ["vmap", "jit"])
def test_arrays_stay_where_they_live(how):
    """Sharded models are drawn and run sharded, in one program for schemes that draw different layers."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d", None))
    model = eqx.tree_at(lambda net: net.first.weight, Net(), jax.device_put(Net().first.weight, spread))
    schemes = {"all": {"*": "he_normal"}, "last": {"last": "he_normal"}}
    run = weights(MODELS["equinox"][2])
    found, plain = (ix.ablate(each, schemes, KEYS, run, how=how) for each in (model, Net()))
    for name in ("first", "last"):
        for scheme in schemes:
            np.testing.assert_array_equal(found.values(name)[scheme], plain.values(name)[scheme])


def test_keys_may_be_legacy_a_list_or_one():
    run = weights(MODELS["equinox"][2])
    typed = ix.ablate(Net(), SCHEMES, KEYS, run).values("first")["one"]
    legacy = ix.ablate(Net(), SCHEMES, jax.random.key_data(KEYS), run).values("first")["one"]
    listed = ix.ablate(Net(), SCHEMES, list(KEYS), run).values("first")["one"]
    single = ix.ablate(Net(), SCHEMES, KEYS[0], run).values("first")["one"]
    np.testing.assert_array_equal(typed, legacy)
    np.testing.assert_array_equal(typed, listed)
    np.testing.assert_array_equal(typed[:1], single)


def test_a_bar_is_shown_on_the_standard_error_if_asked_for(capsys):
    run = weights(MODELS["equinox"][2])
    ix.ablate(Net(), SCHEMES, KEYS, run, progress=True)
    shown = capsys.readouterr()
    assert "9/9" in shown.err
    ix.ablate(Net(), SCHEMES, KEYS, run)
    silent = capsys.readouterr()
    assert (shown.out, silent.out, silent.err) == ("", "", "")


def mean(model, key):
    return {"mean": model.first.weight.mean()}


def ablated(**changes):
    arguments = {"model": Net(), "schemes": SCHEMES, "keys": KEYS, "run": mean} | changes
    return lambda: ix.ablate(**arguments)


def with_key_by_name(model, *, key):
    return {"mean": model.first.weight.mean()}


# name → what is done, the error, its whole text
ERRORS = {
    "a rule of one scheme": (
        ablated(schemes={"he": {"*": "he_normal"}, "conv": {"Conv2d": "he_normal"}}),
        ix.RuleError,
        """\
scheme "conv": selector "Conv2d" matches no layer.
  layers: Linear (2)
  paths: first, last""",
    ),
    "rules for schemes": (
        ablated(schemes="he_normal"),
        ix.InitaxError,
        """\
schemes must be a mapping from names to rules, not str.
  write {"he": {"*": "he_normal"}, "orthogonal": {"*": "orthogonal"}}""",
    ),
    "no schemes": (
        ablated(schemes={}),
        ix.InitaxError,
        """\
schemes must be a mapping from names to rules, not {}.
  write {"he": {"*": "he_normal"}, "orthogonal": {"*": "orthogonal"}}""",
    ),
    "unknown way": (
        ablated(how="vmaped"),
        ix.InitaxError,
        """\
how can't be 'vmaped'.
  ways: vmap, jit, python
  did you mean "vmap"?""",
    ),
    "unknown baseline": (
        ablated(baseline="ones"),
        ix.InitaxError,
        """\
baseline: no scheme is called "ones".
  schemes: one, four, orthogonal
  did you mean "one"?""",
    ),
    "a seed for keys": (
        ablated(keys=10),
        ix.KeyTypeError,
        """\
keys must be an array of JAX random keys: 10.
  write jax.random.split(jax.random.key(0), 10)""",
    ),
    "two seeds for keys": (
        ablated(keys=2),
        ix.KeyTypeError,
        """\
keys must be an array of JAX random keys: 2.
  write jax.random.split(jax.random.key(0), 2)""",
    ),
    "no keys": (
        ablated(keys=[]),
        ix.InitaxError,
        """\
an ablation needs at least one key.
  write jax.random.split(jax.random.key(0), 10)""",
    ),
    "a key twice": (
        ablated(keys=[KEYS[0], KEYS[1], KEYS[0]]),
        ix.InitaxError,
        """\
keys 0 and 2 are the same: a run counted twice narrows the intervals.
  write jax.random.split(jax.random.key(0), 10)""",
    ),
    "no metrics": (
        ablated(run=lambda model, key: model.first.weight.mean()),
        ix.InitaxError,
        """\
run must return a mapping from names to numbers, not an array.
  return {"loss": loss, "accuracy": accuracy}""",
    ),
    "a complex metric": (
        ablated(run=lambda model, key: {"mean": jax.lax.complex(model.first.weight, model.first.weight)}),
        ix.InitaxError,
        """\
the metric "mean" must be a real number or an array of them, not an array of type complex64.
  take it apart: one name for each number or array""",
    ),
    "a text for a metric": (
        ablated(run=lambda model, key: {"mean": "small"}),
        ix.InitaxError,
        """\
the metric "mean" must be a real number or an array of them, not str.
  take it apart: one name for each number or array""",
    ),
    "a function of a model alone": (
        ablated(run=lambda model: {"mean": model.first.weight.mean()}, keys=10),
        ix.InitaxError,
        """\
run is called as run(model, key), and can't be: too many positional arguments.
  it is <lambda>(model)
  write def run(model, key): ... return {"loss": loss}""",
    ),
    "a compiled function with a key by name": (
        ablated(run=jax.jit(with_key_by_name), how="python"),
        ix.InitaxError,
        """\
run is called as run(model, key), and can't be: too many positional arguments.
  it is with_key_by_name(model, *, key)
  write def run(model, key): ... return {"loss": loss}""",
    ),
    "a function of a model alone in a wrapper": (
        ablated(run=eqx.filter_jit(lambda model: {"mean": model.first.weight.mean()})),
        ix.InitaxError,
        """\
run fails while JAX traces and compiles it: TypeError: too many positional arguments
  write def run(model, key): ... return {"loss": loss}""",
    ),
    "no function": (
        ablated(run=0.5),
        ix.InitaxError,
        """\
run must be a function of a model and a key, not 0.5 (float).
  write def run(model, key): ... return {"loss": loss}""",
    ),
    "no pure function": (
        ablated(run=lambda model, key: {"mean": float(model.first.weight.mean())}),
        ix.InitaxError,
        """\
run fails while JAX traces and compiles it: ConcretizationTypeError: Abstract tracer value encountered where \
concrete value is expected: traced array with shape float32[]
  if it is not a pure JAX function, write how="python\"""",
    ),
    "an abstract array that stays": (
        ablated(model=eqx.filter_eval_shape(Net), schemes={"he": {"last": "he_normal"}}),
        ix.ModelError,
        """\
scheme "he" draws no first.weight, and the model has only its shape.
  without arrays: first.weight, first.bias
  draw them too, or pass a function that makes the model: ix.ablate(lambda key: ..., ...)""",
    ),
    "a builder of different models": (
        ablated(
            model=lambda key: eqx.nn.Linear(4 if (key == KEYS[0]).all() else 5, 2, key=key),
            run=lambda model, key: {"mean": model.weight.mean()},
        ),
        ix.ModelError,
        """\
the function that makes the model makes another one for another key.
  weight: float32[2, 4] for key 0, float32[2, 5] for key 1""",
    ),
}


def with_data(function):
    """A decorator that passes one more argument; by its signature the function that comes back takes it, too."""
    return functools.wraps(function)(lambda model, key: function(model, key, X))


@pytest.mark.parametrize("wrapped", [lambda run: run, jax.jit], ids=["plain", "jit"])
def test_what_a_decorator_passes_is_no_argument_of_the_call(wrapped):
    run = wrapped(with_data(lambda model, key, x: {"mean": jax.vmap(model)(x).mean()}))
    assert all(done.error is None for done in ix.ablate(Net(), {"one": SCHEMES["one"]}, KEYS, run).runs)


@pytest.mark.parametrize("name", ERRORS)
def test_the_whole_text_of_every_error(name):
    do, error, expected = ERRORS[name]
    with pytest.raises(error) as raised:
        do()
    assert str(raised.value) == expected
    assert type(raised.value) is error


def test_metrics_that_are_none_fail_their_run_in_python():
    ablation = ix.ablate(Net(), {"one": SCHEMES["one"]}, KEYS[:1], cast("Any", lambda model, key: 0.5), how="python")
    assert ablation.runs[0].error == (
        "InitaxError: run must return a mapping from names to numbers, not float.\n"
        '  return {"loss": loss, "accuracy": accuracy}'
    )


def test_an_abstract_model_is_drawn_as_a_whole():
    values = ix.ablate(eqx.filter_eval_shape(Net), {"he": {"*": "he_normal"}}, KEYS, mean).values("mean")
    expected = [float(ix.reinit(Net(), {"*": "he_normal"}, key).first.weight.mean()) for key in KEYS]
    np.testing.assert_allclose(values["he"], expected, rtol=1e-5)
