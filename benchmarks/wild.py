"""Models of other people's packages: every floating array is drawn with axes and fans that were checked, or kept.

`nox -s wild` installs the packages and runs this; nothing is downloaded, weights are random. `CHECKED` says what the
axes are of what no class declares, and why an array is kept. Where a class is declared (the frameworks' own, and what
subclasses it), the forward pass must not disagree, but may find equal parts that the declaration does not know of.
Packages whose pins hold JAX back are marked `held`, and have an environment of their own.
"""

import functools
import re
import warnings
from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp
import pytest

import initax as ix
from benchmarks import _wild_models as models
from benchmarks._wild_fans import FANS

WEIGHT_ROLES = ("weight", "recurrent", "embedding")
BEHIND = "{} stands between it and the signal"
SIGNAL = "it is a signal itself, no weight of one"
CENTERED = "a constant is added to it before it scales the signal"
STOPPED = "no gradient reaches it: it stands behind stop_gradient"
BESIDE = "it stands beside *.A_log, to which a function is applied first, as in no norm"
FACTOR = "it is contracted with another parameter, with no weight beside them; which comes first can't be told"
PRODUCT = "it is multiplied with the signal entry by entry along 2 of its axes: a weight or a scale"
SWIN = {"*norm*.weight": "o", "*norm*.bias": "o", "features.layers.0.layers.2.*": "o"} | {
    f"*.{name}.{array}": axes
    for name in ("mlp.layers.?", "reduction")
    for array, axes in {"weight": "o i", "bias": "o"}.items()
    if (name, array) != ("reduction", "bias")
}
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
        "blocks.proj_in.weight": "stack o i",
        "blocks.proj_out.weight": "stack (group o) i",  # a shift and the logarithm of a scale
        "blocks.proj_in.bias": "stack o",
        "blocks.proj_out.bias": "stack (group o)",
        "*.attn_bias": "stack stack2 1 o",
        "*.net.layers.*.weight": "stack stack2 o i",
        "*.net.layers.*.bias": "stack stack2 o",
    },
    models.equimo_vssd: {"*.A_log": BEHIND.format("exp"), "*.dt_bias": BESIDE, "*.D": BESIDE},
    models.jaxonmodels: SWIN | {"*.relative_position_bias_table": "a reshape cuts its axes unevenly"},
    models.jaxonmodels_v2: SWIN
    | {"*.logit_scale": BEHIND.format("min"), "*.cpb_mlp_ln?.weight": "o i", "*.cpb_mlp_ln1.bias": "o"},
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
        "*.cema.omega": BESIDE.replace("A_log", "cema.alpha"),
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
    models.mamba2: {"*norm.weight": "o", "*.A_log": BEHIND.format("exp"), "*.dt_bias": BESIDE, "*.D": BESIDE},
    models.memax_lru: {"[BC]_*": "o i", "D": "o", "*_log": BEHIND.format("exp")},
    models.memax_ffm: {"*.params.0": BEHIND.format("abs"), "*.params.1": BEHIND.format("exp")},
    models.noxton: {
        "?gate.weight": "stack o i",
        "slstm_cell.recurrent_kernel": "stack i stack2 o",
        "slstm_cell.bias": "stack stack2 o",
        "outnorm.weight": CENTERED,
    },
    models.eqx_zoo: {"*norm.weight": "o"},
    models.nequix: {
        "atom_energies": STOPPED,
        "layers.0.radial_mlp.layers.2.weights": "i (group o)",
        "*.radial_mlp.layers.?.weights": "i o",
        "*.skip._weights.*": "stack i o",
        "*._weights.*": "i o",
        "*.affine_weight.?": "o",
    },
    models.e3x: {
        "*Embed_0.embedding": "o i1 i2 i3",
        "*MessagePass_?.tensor.kernel": "it is contracted with a constant first",
        "*SelfAttention_0.tensor.kernel": "it is repeated along what is summed over",
    },
    models.jraphx_attention: {
        "att_*": "it scales the signal, which is then summed: a scale or a weight",
        "bias": "o",
    },
    models.jraphx_transformer: {},
    models.norax: {"*.weight": "o i", "*.bias": "o", "*.weights_*": "o i stack stack2"},
    models.neojax: {
        "*.core_tensors.?": FACTOR,
        "*.factor_matrices.[04]": "o i",
        "*.factor_matrices.[15]": "i o",
        "*.factor_matrices.[26]": "no axis of it is summed over",
        "*.factor_matrices.[37]": FACTOR,
        "*.channel_mlp_residuals.?.weight": "o 1 1",
        "*.weights.?": "o i",
        "*.biases.?": "o",
    },
    models.jaxkan_splines: {"c_basis": "o i1 i2", "c_res": "o i", "bias": "o"},
    models.jaxkan_edges: {"c_basis": "(group i1) i2", "c_res": PRODUCT, "bias": "stack"},
    models.jaxkan_weighted: {
        "c_spl": "it is multiplied entry by entry with another parameter; which is the weight can't be told",
        "c_basis": "it is multiplied entry by entry with another parameter; which is the weight can't be told",
        "c_res": "o i",
        "bias": "o",
    },
    models.jaxkan_fourier: {"c_*": "o i1 i2", "bias": "o"},
    models.flaxdiff: {},
    models.flaxdiff_unet: {},
}
"""For each model: path → the axes of an array that no class declares, or the reason why an array is kept; the first
that matches holds."""
KNOWN = {ix.Why.STATE, ix.Why.STATISTICS, ix.Why.TIED, ix.Why.FOLLOWS, ix.Why.FROZEN, ix.Why.CONSTANT}
HELD = (models.megalodon_jax,)
"""Models of packages whose pins hold JAX back."""


def each(makes):
    return [pytest.param(make, id=make.__name__, marks=pytest.mark.held if make in HELD else ()) for make in makes]


@functools.cache
def planned(make):
    """The inputs of a model, how it is called, its survey, a plan for all of it, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ix.InitaxWarning)
        model, inputs, forward, module = (*make(), None)[:4]
        survey = ix.survey(model, inputs=inputs, forward=forward, module=module)
        plan = ix.plan(survey, {"*": "lecun_normal"})
    call = forward or (module.apply if module is not None else lambda model, *own: model(*own))
    return inputs, call, survey, plan, [str(warning.message) for warning in caught]


def floating(survey):
    return [
        parameter
        for layer in survey.layers
        for parameter in layer.parameters
        if jnp.issubdtype(parameter.dtype, jnp.inexact)
    ]


def some(leaf, place):
    """An input: a normal signal, or small indices that no other input has in the same places."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jax.random.normal(jax.random.key(place), leaf.shape, leaf.dtype)
    return ((jnp.arange(leaf.size).reshape(leaf.shape) + place) % 3).astype(leaf.dtype)


def is_known(parameter):
    """Whether it is kept for what its class says, whatever its axes are."""
    return parameter.excluded is not None and parameter.excluded.why in KNOWN


def of(path, table):
    return next((rule for rule in table if fnmatchcase(path, rule)), None)


@pytest.mark.parametrize("make", each(FANS))
def test_every_matrix_is_drawn_with_the_fans_of_the_package_s_own_code_or_listed(make):
    _, _, survey, plan, _ = planned(make)
    drawn = [draw.parameter for draw in plan.draws if draw.parameter.role in WEIGHT_ROLES]
    found = {parameter.path: (parameter.fan_in, parameter.fan_out) for parameter in drawn}
    rules = {path: of(path, FANS[make]) for path in found}
    assert {path: fans for path, fans in found.items() if FANS[make].get(rules[path]) != fans} == {}
    assert set(rules.values()) == set(FANS[make])
    matrices = [parameter for parameter in floating(survey) if len(parameter.shape) > 1]
    assert matrices
    left = {each.parameter.path for each in plan.kept} - found.keys()
    for parameter in matrices:
        is_vector = parameter.role in ("scale", "bias")  # a norm's, stacked
        is_listed = of(parameter.path, CHECKED[make]) is not None or is_known(parameter)
        assert parameter.path in found or is_vector or (parameter.path in left and is_listed), parameter.path


@pytest.mark.parametrize("make", each(CHECKED))
def test_every_array_is_read_as_a_person_reads_it(make):
    _, _, survey, _, warned = planned(make)
    assert [text for text in warned if "disagrees" in text] == []
    used = set()
    for parameter in floating(survey):
        kept = parameter.excluded
        if is_known(parameter) or (kept is None and parameter.evidence is not ix.Evidence.TRACED):
            continue
        said = parameter.axes.pattern if kept is None else kept.text.removeprefix("undeclared: ")
        rule = of(parameter.path, CHECKED[make])
        assert rule is not None, f"nobody checked {parameter.path} {parameter.shape}: {said}"
        used.add(rule)
        assert fnmatchcase(re.sub(r" \([^()]*\.py:\d+\)$", "", said), CHECKED[make][rule]), (parameter.path, said)
    assert used == set(CHECKED[make])


@pytest.mark.parametrize("make", each(CHECKED))
def test_the_model_is_drawn_and_runs(make):
    inputs, call, _, plan, _ = planned(make)
    new = plan.draw(jax.random.key(1))
    assert plan.draws
    leaves, structure = jax.tree.flatten(inputs)
    concrete = jax.tree.unflatten(structure, [some(leaf, place) for place, leaf in enumerate(leaves)])
    results = jax.tree.leaves(call(new, *concrete))
    assert results
    assert all(bool(jnp.all(jnp.isfinite(each))) for each in results if jnp.issubdtype(each.dtype, jnp.inexact))
