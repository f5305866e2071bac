"""The laws of initax, each over one table of layers of three frameworks, and over the schemes."""

import dataclasses
import functools
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initax as ix
from initax._planning import _plan
from initax.schemes._initializer import Kernel
from tests.flax_tables import FLAX_EVERY, FLAX_WEIGHTED, LINEN_OTHERS, NNX_OTHERS, named
from tests.tables import (
    EVERY,
    KEY,
    NORMS,
    SMALL_SCHEMES,
    arrays,
    cases,
    compilations,
    filled,
    refused,
    scheme_id,
)

pytestmark = pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated:DeprecationWarning")

LAYERS = {case.name: case for case in EVERY + FLAX_EVERY}
NORM_NAMES = {case.name for case in NORMS} | {
    f"{framework}-{name}"
    for framework in ("nnx", "linen")
    for name in ("batchnorm", "layernorm", "layernorm-2d", "rmsnorm", "groupnorm", "instancenorm", "prelu")
}
WITH_WEIGHTS = [case for case in LAYERS.values() if case.name not in NORM_NAMES]
TRIED = (
    "linear", "conv2d-groups", "lstm", "stacked", "weightnorm-conv", "nnx-einsum-in-in-out", "linen-einsum-out-in-out",
)  # fmt: skip
"""Layers that every scheme really draws: rectangular, grouped, gated, stacked, behind a constraint, of many axes."""
CONSTANT = ix.Scheme(
    ("constant", {"value": 0.25}),
    bias="ones",
    recurrent=("constant", {"value": 0.5}),
    embedding=("constant", {"value": 0.75}),
    scale="ones",
)
"""A scheme of every role for which nothing is compiled."""


def drawn_paths(plan):
    return {each.parameter.path for each in plan.draws}


def structure(model):
    return nnx.graphdef(model) if isinstance(model, nnx.Pytree) else jax.tree.structure(model)


# 1. Surgery


def hold_surgery(built, scheme, key):
    before = named(built.model)
    plan = ix.plan(built.model, {"*": scheme}, **built.options)
    after = plan.draw(key)
    assert structure(after) == structure(built.model)
    drawn = drawn_paths(plan)
    assert drawn
    assert set(before) >= drawn
    for path, leaf in named(after).items():
        old = before[path]
        if path in drawn:
            assert leaf is not old
            assert (leaf.shape, leaf.dtype, leaf.sharding) == (old.shape, old.dtype, old.sharding)
        else:
            assert leaf is old
    assert all(leaf is before[path] for path, leaf in named(built.model).items()), "the model was mutated"


@pytest.mark.parametrize("case", cases(LAYERS.values()))
def test_surgery_changes_the_planned_arrays_and_nothing_else(case, key):
    hold_surgery(case.filled(), CONSTANT, key)


SERVED = {"centered": ("conv2d-groups", "nnx-einsum-in-in-out")}
"""Scheme → those of them that it serves, where these are not all."""


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        pytest.param(scheme, name, id=f"{scheme_id(scheme)}-{name}")
        for scheme in SMALL_SCHEMES
        for name in SERVED.get(scheme_id(scheme), TRIED)
    ],
)
def test_every_scheme_changes_what_it_plans_and_nothing_else(scheme, name, key):
    hold_surgery(LAYERS[name].filled(), scheme, key)


def kernels_in(kernel):
    """A kernel and those that it draws with, by name."""
    inside = (getattr(kernel, field.name) for field in dataclasses.fields(kernel))
    return {type(kernel).__name__}.union(*(kernels_in(part) for part in inside if isinstance(part, Kernel)))


def kernels_of(kind):
    """Every class of initax that is a kernel, by name."""
    own = {kind.__name__} if kind.__module__.startswith("initax.") else set()
    return own.union(*map(kernels_of, kind.__subclasses__()))


def test_every_way_to_draw_is_under_the_laws():
    """Every kernel draws for a scheme in `SMALL_SCHEMES`, or is in `OTHER_KERNELS` if not all layers can have it."""
    for module in pkgutil.iter_modules(ix.schemes.__path__, "initax.schemes."):
        importlib.import_module(module.name)
    drawn = set()
    for scheme in SMALL_SCHEMES:
        for name in SERVED.get(scheme_id(scheme), TRIED):
            built = LAYERS[name].abstract()
            plan = ix.plan(built.model, {"*": scheme}, **built.options)
            drawn = drawn.union(*(kernels_in(draw.recipe.kernel) for draw in plan.draws if draw.recipe is not None))
    others = kernels_of(Kernel) - {"Kernel", "KernelAround", "_Between", "Structured"} - drawn
    assert others == OTHER_KERNELS.keys(), (
        f"give {others - OTHER_KERNELS.keys()} a scheme in SMALL_SCHEMES of tests/tables.py, where all laws are held; "
        f"take {OTHER_KERNELS.keys() - others} off OTHER_KERNELS"
    )
    here = Path(__file__).parent
    assert all((here / f"{tests}.py").exists() for tests in OTHER_KERNELS.values())


OTHER_KERNELS = {
    "CallingKernel": "test_initializer",
    "ComplexTruncatedNormalKernel": "test_draws",
    "DeltaHaarKernel": "test_draws",
    "DiskKernel": "test_draws",
    "FilledKernel": "test_draws",
    "CanonicalKernel": "test_initializer",
    "GateKernel": "test_draws",
    "HalfNormalKernel": "test_convex_equations",
    "IntervalKernel": "test_draws",
    "ShrinkPerturbKernel": "test_shrink",
}


@pytest.mark.parametrize("case", cases(WITH_WEIGHTS))
def test_every_scheme_plans_every_weighted_layer_and_lists_every_array(case):
    built = case.abstract()
    survey = ix.survey(built.model, **built.options)
    known = {path for path, leaf in named(built.model).items() if hasattr(leaf, "shape")}
    parameters = [each for layer in survey.layers for each in layer.parameters]
    for scheme in SMALL_SCHEMES:
        if refused(scheme, parameters):
            with pytest.raises(ix.SchemeError, match="centered can't serve"):
                ix.plan(survey, {"*": scheme})
            continue
        plan = ix.plan(survey, {"*": scheme})
        assert any(each.parameter.role in ("weight", "recurrent", "embedding") for each in plan.draws), scheme
        assert known <= drawn_paths(plan) | {each.parameter.path for each in plan.kept}, scheme


@pytest.mark.parametrize("case", cases(LAYERS.values()))
def test_every_array_of_every_layer_is_known_and_default_covers_it(case):
    built = case.abstract()
    survey = ix.survey(built.model, **built.options)
    for layer in survey.layers:
        for parameter in layer.parameters:
            assert parameter.role is not None or parameter.excluded.why is ix.Why.FOLLOWS, parameter.path
    ix.plan(survey, {"*": "default"}, default="error")


@pytest.mark.parametrize("name", sorted(NORM_NAMES & set(LAYERS)))
def test_a_weight_scheme_never_hits_a_norm(name):
    built = LAYERS[name].filled()
    if name.startswith("linen-"):
        with pytest.raises(ix.RuleError, match="he_normal says nothing about a scale"):
            ix.plan(built.model, {"*": "he_normal"}, **built.options)
    else:
        model = (built.model, eqx.filter_eval_shape(eqx.nn.Linear, 3, 4, key=KEY))
        assert drawn_paths(ix.plan(model, {"*": "he_normal"})) == {"1.weight", "1.bias"}


def test_tied_weights_stay_tied_and_are_drawn_by_their_owner(key):
    linear = eqx.nn.Linear(4, 4, key=key)
    model: dict[str, Any] = {"first": linear, "again": [linear]}
    new = ix.reinit(model, {"*": "he_normal"}, key)
    assert new["again"][0].weight is new["first"].weight
    assert new["again"][0].bias is new["first"].bias
    reasons = {parameter.path: str(reason) for parameter, reason in ix.plan(model, {"*": "he_normal"}).kept}
    assert reasons == {"first.weight": "tied to again.0.weight", "first.bias": "tied to again.0.bias"}


# 2. Stable keys


def chain(width: int, depth: int) -> list[Any]:
    return [filled(eqx.filter_eval_shape(eqx.nn.Linear, width, width, key=KEY)) for _ in range(depth)]


def test_different_paths_and_stack_entries_are_drawn_independently(key):
    width = 128
    a, b = ix.reinit(chain(width, 2), {"*": "normal"}, key)
    stack = ix.reinit(
        eqx.filter_vmap(lambda each: eqx.nn.Linear(width, width, key=each))(jax.random.split(KEY, 2)),
        {"*": "normal"},
        key,
    )
    for one, other in ((a.weight, b.weight), stack.weight):
        correlation = np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]
        assert abs(correlation) < 4.9 / np.sqrt(width * width)


# 3. Parity


@functools.cache
def of_jax(name, in_axis, out_axis, batch_axis, split, shape):
    """An initializer of JAX with these axes, compiled once for all arrays that have them."""
    initializer = getattr(jax.nn.initializers, name)(in_axis, out_axis, batch_axis)
    return jax.jit(lambda key: initializer(key, split).reshape(shape))


FLAX_AXES = cases(FLAX_WEIGHTED, NNX_OTHERS[1:8], LINEN_OTHERS[1:9])


@pytest.mark.parametrize(
    ("case", "name"),
    [
        *(pytest.param(*case.values, "he_normal", id=case.id) for case in FLAX_AXES),
        *(
            pytest.param(LAYERS[layer], name, id=f"{layer}-{name}")
            for layer in ("nnx-general-batch", "linen-conv2d-groups", "linen-local")
            for name in ("glorot_uniform", "lecun_normal")
        ),
    ],
)
@pytest.mark.slow(one_in=3)
def test_element_wise_draws_of_flax_layers_are_jax_initializers_with_the_right_axes(case, name, key):
    built = case.abstract()
    plan = ix.plan(built.model, {"*": name}, **built.options)
    new, compared = plan.arrays(key), 0
    for each in plan.draws:
        parameter, axes = each.parameter, each.parameter.axes
        if parameter.role not in ("weight", "recurrent"):
            continue
        if name == "glorot_uniform" and parameter.fan_out != axes.fan_out:
            # JAX has no word for a window that stands among the inputs.
            assert each.kind == "ConvLocal"
            continue
        own = of_jax(name, axes.in_axis, axes.out_axis, axes.batch_axis, axes.split, axes.shape)
        assert np.array_equal(own(ix.parameter_key(key, parameter.path)), new[parameter.path]), parameter.path
        compared += 1
    assert compared or (name, case.name) == ("glorot_uniform", "linen-local")


# 4. Constraint


@eqx.filter_jit
def seen_through(normed, x):
    """The weight behind a weight norm, and the output."""
    return normed.layer.weight * normed.g / normed._norm(normed.layer.weight), normed(x)


def test_under_weight_norm_the_effective_weight_is_the_plain_draw(key):
    for make in (lambda: eqx.nn.Linear(7, 5, key=KEY), lambda: eqx.nn.Conv2d(4, 6, 3, key=KEY)):
        for scheme in ("he_normal", "orthogonal", "zeros", "identity"):
            normed = ix.reinit(eqx.nn.WeightNorm(make()), {"*": scheme}, key)
            seen = np.ones((7,) if normed.layer.weight.ndim == 2 else (4, 5, 5), np.float32)
            plain = ix.reinit({"layer": make()}, {"*": scheme}, key)["layer"]
            effective, output = seen_through(normed, seen)
            np.testing.assert_allclose(effective, plain.weight, rtol=3e-6, atol=1e-7)
            assert np.isfinite(output).all()


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weight_norm_along_any_axis_and_in_a_stack(axis, key):
    def make(each):
        return eqx.nn.WeightNorm(eqx.nn.Linear(7, 5, key=each), axis=axis)

    abstract = eqx.filter_eval_shape(make, KEY)
    one = ix.reinit(filled(abstract), {"*": "normal"}, key)
    assert one.g.shape == abstract.g.shape
    norm = jax.jit(one._norm)
    np.testing.assert_allclose(one.g, norm(one.layer.weight), rtol=1e-6)
    stack = filled(eqx.filter_eval_shape(eqx.filter_vmap(make), jax.random.split(KEY, 3)))
    new = ix.reinit(stack, {"*": "normal"}, key)
    for g, weight in zip(np.asarray(new.g), np.asarray(new.layer.weight), strict=True):
        np.testing.assert_allclose(g, norm(weight), rtol=1e-6)


@pytest.mark.parametrize("split", [False, True], ids=["init-inside", "with-state"])
def test_spectral_norm_divides_by_the_new_singular_value_at_once(split, key):
    def make():
        return eqx.nn.SpectralNorm(eqx.nn.Linear(70, 50, use_bias=False, key=KEY), "weight", key=KEY, inference=True)

    if split:
        model, state = eqx.nn.make_with_state(make)()
        model, state = ix.reinit((model, state), {"Linear": ("normal", {"stddev": 3.0})}, key)
    else:
        model = ix.reinit(make(), {"Linear": ("normal", {"stddev": 3.0})}, key)
        _, state = eqx.nn.make_with_state(lambda: model)()
        model, _ = eqx.nn.make_with_state(lambda: model)()
    effective = jax.jit(jax.vmap(lambda row: model(row, state)[0]))(np.eye(70, dtype=np.float32))
    assert float(jnp.linalg.norm(effective, 2)) == pytest.approx(1, abs=0.02)


def test_spectral_norm_without_its_state_warns(key):
    model, _ = eqx.nn.make_with_state(lambda: eqx.nn.SpectralNorm(eqx.nn.Linear(7, 5, key=KEY), "weight", key=KEY))()
    with pytest.warns(ix.InitaxWarning, match=r"write model, state = ix.reinit\(\(model, state\), ...\)"):
        ix.reinit(model, {"Linear": "normal"}, key)


@pytest.mark.parametrize("name", ["nnx-weightnorm", "linen-weightnorm"])
def test_behind_weight_norm_the_effective_weight_has_the_law(name, key):
    built = LAYERS[name].make()
    new = ix.reinit(built.model, {"Linear": "orthogonal"}, key, **built.options)
    inputs = jnp.eye(7)
    effective = built.call(new, inputs)
    np.testing.assert_allclose(effective.T @ effective, np.eye(5), atol=1e-5)
    np.testing.assert_allclose(built.call(new, inputs), effective, atol=1e-6)  # NNX stores the product at each call


@pytest.mark.parametrize("name", ["nnx-spectralnorm", "linen-spectralnorm"])
def test_behind_spectral_norm_the_first_call_divides_by_the_right_value(name, key):
    built = LAYERS[name].make()
    new = ix.reinit(built.model, {"Linear": ("normal", {"stddev": 3.0})}, key, **built.options)
    effective = built.call(new, jnp.eye(7))
    assert float(jnp.linalg.norm(effective, 2)) == pytest.approx(1, abs=1e-4)


def test_weight_norm_in_a_stack_is_right_for_every_entry(key):
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make(rngs):
        return nnx.WeightNorm(nnx.Linear(7, 5, rngs=rngs), rngs=rngs)

    new = ix.reinit(make(nnx.Rngs(0)), {"Linear": "he_normal"}, key)
    kernel = new.layer_instance.kernel[...]
    norms = jnp.sqrt(jnp.sum(kernel**2, axis=1))
    np.testing.assert_allclose(new.scales[("kernel",)], norms, rtol=1e-6)


# 5. Transforms


def in_words(draw):
    """What a row of a plan says; a default of NNX is another function each time a layer is made."""
    parameter = draw.parameter
    fans = (parameter.fan_in, parameter.fan_out)
    return parameter.path, parameter.role, str(parameter.axes), fans, str(draw.initializer), draw.std, draw.rule


@pytest.mark.parametrize("case", cases(LAYERS.values()))
def test_an_abstract_model_has_the_plan_of_a_concrete_one(case):
    abstract, concrete = case.abstract(), case.filled()
    rules = {"*": "default"}
    plan = ix.plan(abstract.model, rules, **abstract.options)
    expected = ix.plan(concrete.model, rules, **concrete.options)
    assert expected.draws
    there = drawn_paths(expected)
    assert [in_words(each) for each in plan.draws if each.parameter.path in there] == list(
        map(in_words, expected.draws)
    )
    # What has to start somewhere, running statistics and random state.
    assert {each.parameter.role for each in plan.draws if each.parameter.path not in there} <= {"state"}


@pytest.mark.parametrize("name", [*TRIED, "nnx-lstm", "linen-lifted"])
def test_abstract_models_become_concrete_with_the_same_values(name, key):
    abstract, concrete = LAYERS[name].abstract(), LAYERS[name].filled()
    rules = {"*": "default"}
    born = named(ix.reinit(abstract.model, rules, key, **abstract.options))
    drawn = named(ix.reinit(concrete.model, rules, key, **concrete.options))
    for path in drawn_paths(ix.plan(concrete.model, rules, **concrete.options)):
        assert np.array_equal(born[path], drawn[path])


def test_eval_shape_draws_nothing(key):
    model = eqx.nn.MLP(3, 2, 5, depth=2, key=KEY)
    shapes = eqx.filter_eval_shape(ix.reinit, model, {"Linear": "orthogonal"}, key)
    assert not arrays(shapes)
    assert jax.tree.structure(eqx.filter(shapes, lambda leaf: hasattr(leaf, "shape"))) == jax.tree.structure(
        eqx.filter(model, eqx.is_array)
    )


def test_reinit_is_pure(key):
    model = eqx.nn.MLP(3, 2, 5, depth=2, key=KEY)
    before = [np.array(leaf) for leaf in arrays(model)]
    first = ix.reinit(model, {"Linear": "he_normal"}, key)
    second = ix.reinit(model, {"Linear": "he_normal"}, key)
    for old, kept in zip(before, arrays(model), strict=True):
        assert np.array_equal(old, kept)
    for one, other in zip(arrays(first), arrays(second), strict=True):
        assert np.array_equal(one, other)


def test_legacy_and_typed_keys_draw_alike():
    model = eqx.nn.Linear(7, 5, key=KEY)
    typed = ix.reinit(model, {"*": "he_normal"}, jax.random.key(5))
    legacy = ix.reinit(model, {"*": "he_normal"}, jax.random.PRNGKey(5))
    assert np.array_equal(typed.weight, legacy.weight)
    assert jnp.issubdtype(ix.parameter_key(jax.random.PRNGKey(5), "a").dtype, jnp.uint32)


# 6. Nothing half done


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        pytest.param({"Linear": "he_normal", "Conv2D": "he_normal"}, ix.RuleError, id="selector"),
        pytest.param({"Linear": "he_normal", "*": "he_norml"}, ix.SchemeError, id="scheme"),
        pytest.param({"Linear": "he_normal", "layers.1": "dirac"}, ix.SchemeError, id="shape"),
        pytest.param({"Linear": "he_normal", "layers.1": ix.Scheme("zeros", axes="i o k2 j")}, ix.AxesError, id="axes"),
    ],
)
def test_nothing_is_drawn_when_anything_is_wrong(rules, error, key, monkeypatch):
    def refuse(*_):
        raise AssertionError("something was drawn")

    monkeypatch.setattr(_plan, "draw", refuse)
    with pytest.raises(error):
        ix.reinit(eqx.nn.MLP(3, 2, 5, depth=2, key=KEY), rules, key)


def test_a_wrong_key_is_refused_before_the_plan(monkeypatch):
    monkeypatch.setattr("initax._verbs._reinit.plan", lambda *_, **__: pytest.fail("planned"))
    with pytest.raises(ix.KeyTypeError):
        ix.reinit(eqx.nn.Linear(3, 2, key=KEY), {"*": "zeros"}, 0)


# 7. Cost


def test_compilation_does_not_grow_with_depth(key):
    rules = {"Linear": "he_normal"}
    models = {depth: chain(29, depth) for depth in (2, 12)}
    ix.reinit(chain(31, 16), rules, key)  # the program that folds 32 paths into the key
    shallow = compilations(lambda: ix.reinit(models[2], rules, key))
    deep = compilations(lambda: ix.reinit(models[12], rules, key))
    assert shallow <= 3  # one for weights, one for biases, one for the keys of few paths
    assert deep <= 1  # the keys of more paths


@pytest.mark.parametrize(
    "scheme", ["he_normal", jax.nn.initializers.he_normal, "orthogonal"], ids=["name", "closure", "qr"]
)
def test_a_second_call_compiles_nothing(scheme, key):
    model = chain(27, 3)

    def run():
        ix.reinit(model, {"Linear": scheme() if callable(scheme) else scheme}, key)

    run()
    assert compilations(run) == 0


def test_schemes_of_one_distribution_share_their_programs(key):
    model = chain(26, 3)
    ix.reinit(model, {"Linear": "he_normal"}, key)
    assert compilations(lambda: ix.reinit(model, {"Linear": "glorot_normal", "1": "lecun_normal"}, key)) == 0


# 8. Nobody pays for what they don't use

LOADED = """
import json, sys

def report():
    heavy = ["equinox", "flax", "optax", "matplotlib", "rich", "sklearn", "initax._adapters._equinox"]
    print(json.dumps([name for name in heavy if name in sys.modules]))

import initax
report()
import jax
initax.reinit({"w": (3, 4), "b": (4,)}, {"*": "he_normal"}, jax.random.key(0))
report()
import equinox
initax.plan(equinox.nn.Linear(3, 4, key=jax.random.key(0)), {"*": "zeros"})
report()
"""


def test_only_a_model_of_equinox_loads_equinox_and_its_adapter():
    """In a fresh interpreter: after the import, after a plain pytree, after a model of Equinox."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    imported, plain, model = map(json.loads, done.stdout.splitlines()[-3:])
    assert imported == plain == []
    assert set(model) == {"equinox", "initax._adapters._equinox"}
