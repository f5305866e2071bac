"""Models of other people's packages: every floating array is drawn with axes and fans that were checked, or kept.

`nox -s wild` installs the packages and runs this; nothing is downloaded, weights are random. `CHECKED` says what the
axes are of what no class declares, and why an array is kept. Where a class is declared (Equinox's own, and what
subclasses it), declaration and trace must agree, or the trace may find equal parts that the declaration does not know
of.
"""

import re
import warnings
from fnmatch import fnmatch

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import initax as ix
from benchmarks import _wild_models as models
from benchmarks._wild_fans import FANS
from initax._adapters import survey
from initax._model._parameter import WEIGHT_ROLES
from initax._trace import readings_of
from initax._trace._infer import compare, trace

BEHIND = "{} stands between it and the signal"
SIGNAL = "it is a signal itself, no weight of one"
CENTERED = "a constant is added to it before it scales the signal"
CHECKED = {
    models.flowjax: {
        "base_dist.bijection.loc": "it is subtracted, as a running mean would be",
        "base_dist.bijection.scale.args.0": BEHIND.format("max"),
    },
    models.flowjax_coupling: {
        "base_dist.bijection.loc": "it is subtracted, as a running mean would be",
        "base_dist.bijection.scale.args.0": BEHIND.format("max"),
    },
    models.pdequinox: {"*.spectral_conv.weights_*": "stack o i stack2 stack3"},
    models.pdequinox_unet: {"*.weight": "o i ...", "*.bias": "o 1 1"},
    models.equimo: {
        "*_token*": SIGNAL,
        "global_pos_embed.weight": "it is added to the signal along 2 axes that are no outputs of a weight",
    },
    models.equimo_convnext: {"*.norm.weight": "o", "*.norm.bias": "o", "*.gamma": "o"},
    models.transformer_flows: {
        "blocks.pos_embed": "it is added to the signal along 2 axes that are no outputs of a weight",
        "blocks.proj_*.weight": "stack o i",
        "blocks.proj_*.bias": "stack o",
        "*.attn_bias": "stack stack2 1 o",
        "*.net.layers.*.weight": "stack stack2 o i",
        "*.net.layers.*.bias": "stack stack2 o",
    },
    models.jaxonmodels: {"*.A_log": BEHIND.format("exp"), "*.ssm.D": "o"},
    models.megalodon_jax: {
        "*.attn.gamma": CENTERED,
        "*.attn.beta": "stack o",
        "*norm.weight": CENTERED,
        "*norm.bias": "o",
        "*rmsnorm.gamma": CENTERED,
        "*.cema.alpha": BEHIND.format("logistic"),
        "*.cema.delta": BEHIND.format("logistic"),
        "*.cema.theta": BEHIND.format("logistic"),
        "*.cema.gamma_*": BEHIND.format("a sum over its axes"),
        "*.cema.omega": "o",
    },
    models.esm2quinox: {},
    models.jraph: {"*.w": "i o", "*.b": "o"},
    models.ott: {
        "*.diag_kernel": BEHIND.format("max"),
        "*.lin_kernel": "i o",
        "*.quad_kernel": "o1 i o2",
        "w_zs_*.kernel": "i o",
        "*.bias": "o",
    },
    models.haiku_resnet: {
        "*batchnorm*.offset": "1 1 1 o",
        "*batchnorm*.scale": "1 1 1 o",
        "*conv*.w": "... i o",
        "*logits.w": "i o",
        "*.b": "o",
    },
    models.haiku_lstm: {"lstm/linear.w": "i (group o)", "lstm/linear.b": "(group o)"},
    models.evosax: {"*.kernel": "i o", "*.bias": "o"},
}
"""For each model: path → the axes of an array that no class declares, or the reason why it is kept; the first that
matches holds."""


@pytest.mark.parametrize("make", FANS, ids=lambda make: make.__name__)
def test_every_matrix_is_drawn_with_the_fans_of_the_package_s_own_code_or_listed(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs, forward = make()
        plan = ix.plan(model, {"*": "lecun_normal"}, inputs=inputs, forward=forward)
    drawn = [draw.parameter for draw in plan.draws if draw.parameter.role in WEIGHT_ROLES]
    rules = [next((rule for rule in FANS[make] if fnmatch(each.path, rule)), None) for each in drawn]
    wrong = [
        (each.path, each.fan_in, each.fan_out)
        for each, rule in zip(drawn, rules, strict=True)
        if rule is None or FANS[make][rule] != (each.fan_in, each.fan_out)
    ]
    assert wrong == []
    assert set(rules) == set(FANS[make])
    seen = {draw.parameter.path for draw in plan.draws} | {kept.parameter.path for kept in plan.kept}
    matrices = [
        parameter.path
        for layer in ix.layers(model, inputs=inputs, forward=forward)
        for parameter in layer.parameters
        if len(parameter.shape) > 1 and jnp.issubdtype(parameter.dtype, jnp.inexact)
    ]
    assert matrices
    assert set(matrices) <= seen


@pytest.mark.parametrize("make", CHECKED, ids=lambda make: make.__name__)
def test_every_array_is_read_as_a_person_reads_it(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs, forward = make()
    found = survey(model)
    traced = trace(found, inputs, forward)
    readings = readings_of(traced.closed, traced.paths, traced.constants)
    expected, used = CHECKED[make], set()
    for layer in ix.layers(model, inputs=inputs, forward=forward):
        declared = {each.path: each for known in found.layers for each in known.parameters}
        for parameter in layer.parameters:
            reading, before = readings.get(parameter.path), declared[parameter.path]
            if reading is None or parameter.role == "state" or (before.excluded and not before.excluded.is_about_axes):
                continue
            if before.axes is not None and isinstance(model, eqx.Module):
                assert compare(before, reading) in ("agree", "split"), (parameter.path, reading)
                continue
            rule = next((each for each in expected if fnmatch(parameter.path, each)), None)
            assert rule is not None, f"nobody checked {parameter.path} {parameter.shape}: {reading}"
            used.add(rule)
            seen = reading.pattern or re.sub(r" \([^()]*\.py:\d+\)$", "", reading.reason)
            assert seen == expected[rule], parameter.path
    assert used == set(expected)


@pytest.mark.parametrize("make", CHECKED, ids=lambda make: make.__name__)
def test_the_model_is_drawn_and_runs(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs, forward = make()
        plan = ix.plan(model, {"*": "lecun_normal"}, inputs=inputs, forward=forward)
        new = plan.draw(jax.random.key(1))
    assert plan.draws
    concrete = jax.tree.map(
        lambda each: jnp.zeros(each.shape, each.dtype) if isinstance(each, jax.ShapeDtypeStruct) else each, inputs
    )
    result = (forward or (lambda model, *own: model(*own)))(new, *concrete)
    assert all(bool(jnp.all(jnp.isfinite(each))) for each in jax.tree.leaves(result) if eqx.is_inexact_array(each))
