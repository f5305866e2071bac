"""Schemes of single papers against reference numbers and closed forms, and the rules of the page on deep networks."""

import functools
import json
import math
import re
import sys
import types
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

import initax as ix
from tests.tables import KEY
from tests.test_docs import ROOT, blocks_of, run

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())
DEPTH = REFERENCE["depth_scaling"]

# Depth factors


def factors():
    """Every depth factor of the reference: recipe, sizes and number."""
    for sizes, row in DEPTH.items():
        encoder, decoder = map(int, re.fullmatch(r"N=(\d+),M=(\d+)", sizes).groups())
        both = {"encoder_layers": encoder, "decoder_layers": decoder}
        pair = row["deepnet_encdec"]
        yield "gpt2", {"layers": encoder}, row["gpt2_residual"]
        yield "t_fixup_encoder", {"encoder_layers": encoder}, row["tfixup_enc"]
        yield "t_fixup_decoder", {"decoder_layers": decoder}, row["tfixup_dec"]
        for layers, name in ((encoder, "deepnet_enc_only"), (decoder, "deepnet_dec_only")):
            yield "deepnet", {"layers": layers}, row[name]["beta"]
            yield "deepnet_alpha", {"layers": layers}, row[name]["alpha"]
        yield "deepnet_encoder", both, pair["enc_beta"]
        yield "deepnet_encoder_alpha", both, pair["enc_alpha"]
        yield "deepnet_decoder", {"decoder_layers": decoder}, pair["dec_beta"]
        yield "deepnet_decoder_alpha", {"decoder_layers": decoder}, pair["dec_alpha"]
        for layers in (2, 3, 4):
            fixup = {"branches": encoder, "branch_layers": layers}
            yield "fixup", fixup, row["fixup"][f"m={layers}"]


@pytest.mark.parametrize(("recipe", "sizes", "number"), list(factors()), ids=str)
def test_depth_factors_are_the_reference(recipe, sizes, number):
    assert ix.schemes.depth_factor(recipe, **sizes) == pytest.approx(number, rel=1e-9)


def test_the_factors_of_sub_ln_are_those_of_the_paper():
    """Squared, they are logarithms of 2N and 3M; where the two are equal, the encoder's is that over the root of 3."""
    for layers in (1, 6, 100):
        assert math.exp(ix.schemes.depth_factor("sub_ln", layers=layers) ** 2) == pytest.approx(2 * layers)
        assert math.exp(ix.schemes.depth_factor("sub_ln_decoder", decoder_layers=layers) ** 2) == pytest.approx(
            3 * layers
        )
    encoder = ix.schemes.depth_factor("sub_ln_encoder", encoder_layers=9, decoder_layers=6)
    assert encoder * math.sqrt(3) == pytest.approx(math.log(18), rel=1e-12)


RECIPES = (
    "gpt2(layers), fixup(branches, branch_layers), t_fixup_encoder(encoder_layers), t_fixup_decoder(decoder_layers), "
    "deepnet(layers), deepnet_encoder(encoder_layers, decoder_layers), deepnet_decoder(decoder_layers), "
    "deepnet_alpha(layers), deepnet_encoder_alpha(encoder_layers, decoder_layers), "
    "deepnet_decoder_alpha(decoder_layers), sub_ln(layers), sub_ln_encoder(encoder_layers, decoder_layers), "
    "sub_ln_decoder(decoder_layers), complete_p(branches, base_branches)"
)
PAIR = 'write ix.schemes.depth_factor("deepnet_encoder", encoder_layers=6, decoder_layers=6)'


def planned(scheme, model=None):
    return lambda: ix.plan(model or {"l": eqx.nn.Linear(4, 4, key=KEY)}, {"*": scheme})


ERRORS = {
    "recipe": (
        lambda: ix.schemes.depth_factor("gpt3", layers=1),
        f'depth_factor has no recipe \'gpt3\'.\n  did you mean "gpt2"?\n  recipes: {RECIPES}',
    ),
    "size missing": (
        lambda: ix.schemes.depth_factor("deepnet_encoder", layers=3),
        'the depth factor "deepnet_encoder" needs the sizes encoder_layers, decoder_layers.\n'
        f"  it was given layers\n  {PAIR}",
    ),
    "size broken": (
        lambda: ix.schemes.depth_factor("gpt2", layers=2.5),
        'the depth factor "gpt2": layers must be a whole number of at least 1, not 2.5.\n'
        '  write ix.schemes.depth_factor("gpt2", layers=12)',
    ),
    "branch of one layer": (
        lambda: ix.schemes.depth_factor("fixup", branches=3, branch_layers=1),
        'the depth factor "fixup": branch_layers must be a whole number of at least 2, not 1.\n'
        '  write ix.schemes.depth_factor("fixup", branches=8, branch_layers=2)',
    ),
    "siren w0": (
        planned(("siren", {"w0": 0})),
        'rule "*": siren: w0 must be positive, not 0.\n  write ("siren", {"w0": 1.0})',
    ),
    "siren first": (planned(("siren", {"first": 1})), 'rule "*": siren: first must be True or False, not 1.'),
    "siren complex": (
        planned("siren", {"l": eqx.nn.Linear(4, 4, dtype=jnp.complex64, key=KEY)}),
        'rule "*": siren is defined for real arrays; "l.weight" is complex64.\n'
        '  for complex weights: ("variance_scaling", {"distribution": "uniform"})',
    ),
    "zero_init of a vector": (
        lambda: ix.draw("zero_init", KEY, (4,), axes="o"),
        'zero_init needs input and output axes; the array has shape (4,), axes "o".\n'
        '  for a vector use "normal" or "zeros"',
    ),
    "mup of a vector": (
        lambda: ix.draw(ix.schemes.mup_hidden(base_width=2), KEY, (4,), axes="o"),
        'mup_hidden needs an input axis; the array has shape (4,), axes "o".\n'
        "  its variance follows from the number of inputs",
    ),
    "mup base": (
        planned(("mup_readout", {"base_width": 0})),
        'rule "*": mup_readout: base_width must be positive, not 0.\n  write ("mup_readout", {"base_width": 1.0})',
    ),
    "irnn": (
        planned(ix.Scheme("irnn", axes={"weight_hh": "o i"}), eqx.nn.GRUCell(3, 4, use_bias=False, key=KEY)),
        'rule "*": irnn needs square recurrent weights; "weight_hh" has 4 inputs, 12 outputs.\n'
        '  shape (12, 4), axes "o i"\n  for a partial identity: ix.Scheme("irnn", recurrent="identity")',
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_these(case):
    fail, text = ERRORS[case]
    with pytest.raises(ix.SchemeError) as caught:
        fail()
    assert str(caught.value) == text


# Scaled


def test_scaled_auto_still_finds_out_what_reaches_its_weights(key):
    model = eqx.nn.MLP(8, 8, 50, depth=2, activation=jax.nn.relu, key=KEY)
    x = jax.ShapeDtypeStruct((8,), "float32")
    half = ("scaled", {"scheme": "auto", "factor": 0.5})
    plans = [
        ix.plan(model, {"Linear": scheme}, inputs=x)
        for scheme in ("auto", half, ("scaled", {"scheme": half, "factor": 4}))
    ]
    whole, scaled, twice = ([each.std for each in plan.draws] for plan in plans)
    assert whole[2] == pytest.approx(math.sqrt(2 / 50), rel=1e-6)
    # Behind a weight that is half as large what reaches the next is, too, which it makes up for before it is halved.
    assert scaled == pytest.approx([whole[0] / 2, *whole[1:]], rel=1e-9)
    assert twice == pytest.approx([whole[0] * 2, *whole[1:]], rel=1e-9)
    drawn, shrunk = (jax.tree.leaves(eqx.filter(plan.draw(key), eqx.is_array)) for plan in plans[:2])
    for place, (one, other) in enumerate(zip(drawn, shrunk, strict=True)):
        np.testing.assert_allclose(np.asarray(one) / (1 if place else 2), other, rtol=1e-6)


# SIREN


@pytest.mark.parametrize("row", REFERENCE["siren"], ids=lambda row: str(row["fan_in"]))
def test_bounds_of_siren_are_the_reference(row, key):
    for first, bound in ((True, row["first_bound"]), (False, row["hidden_bound"])):
        scheme = ("siren", {"w0": row["omega0"], "first": first})
        plan = ix.plan(eqx.filter_eval_shape(eqx.nn.Linear, row["fan_in"], 3, key=KEY), {"*": scheme})
        assert plan.draws[0].std == pytest.approx(bound / math.sqrt(3), rel=1e-9)
        drawn = np.abs(ix.draw(scheme, key, (400, row["fan_in"]), axes="o i"))
        assert 0.97 * bound < drawn.max() <= bound * (1 + 3e-6)


@pytest.mark.parametrize("w0", [1.0, 30.0])
def test_sines_keep_their_variance_at_any_depth(w0, key):
    """Pre-activations have variance one behind a fast first sine, then v -> 1 - exp(-2 v), which settles at 0.797."""
    width, depth = 512, 12
    stack = jnp.stack([ix.draw(("siren", {"w0": w0}), each, (width, width)) for each in jax.random.split(key, depth)])
    hidden = jnp.sin(jax.random.uniform(KEY, (512, width), maxval=2 * jnp.pi))  # arcsine distributed
    expected = 1.0
    for layer in stack:
        before = w0 * hidden @ layer
        assert float(before.var()) == pytest.approx(expected, rel=0.06)
        expected, hidden = 1 - math.exp(-2 * expected), jnp.sin(before)
    assert expected == pytest.approx(0.7968, abs=1e-3)


# ZerO


@pytest.mark.parametrize("row", REFERENCE["zero_init_out_in"], ids=lambda row: str(row["shape"]))
def test_zero_init_is_the_reference(row, key):
    shape = tuple(row["shape"])
    np.testing.assert_allclose(ix.draw("zero_init", key, shape, axes="o i"), row["matrix"], rtol=3e-6)
    stacked = ix.draw("zero_init", key, (3, *shape[::-1]), jnp.bfloat16, axes="stack i o")
    assert np.array_equal(stacked, np.stack([np.asarray(row["matrix"], jnp.bfloat16).T] * 3))
    conv = np.asarray(ix.draw("zero_init", key, (2 * shape[0], shape[1], 3, 4), axes="(g o) i ...", sizes={"g": 2}))
    np.testing.assert_allclose(conv[:, :, 1, 1], np.concatenate([row["matrix"]] * 2), rtol=3e-6)
    assert np.count_nonzero(conv) == 2 * np.count_nonzero(row["matrix"])


@pytest.mark.parametrize(("outputs", "inputs"), [(5, 5), (3, 7), (8, 5), (64, 64), (64, 10), (100, 60)])
def test_zero_init_is_sylvesters_hadamard_matrix_or_the_identity(outputs, inputs, key):
    drawn = np.asarray(ix.draw("zero_init", key, (outputs, inputs), axes="o i"), np.float64)
    singular = np.linalg.svd(drawn, compute_uv=False)
    if outputs <= inputs:
        assert np.array_equal(drawn, np.eye(outputs, inputs))
        return
    power = 2 ** math.ceil(math.log2(outputs))
    np.testing.assert_allclose(drawn, linalg.hadamard(power)[:outputs, :inputs] / math.sqrt(power), rtol=1e-6)
    assert singular.max() < 1 + 1e-6
    if outputs == power:
        np.testing.assert_allclose(singular, 1, rtol=1e-6)


# IRNN


def test_an_irnn_carries_its_state_on(key):
    plan = ix.plan(eqx.nn.GRUCell(30, 20, key=KEY), {"*": ("irnn", {"gain": 0.5})})
    cell = plan.draw(key)
    assert np.array_equal(np.asarray(cell.weight_hh).reshape(3, 20, 20), np.stack([np.eye(20) / 2] * 3))
    assert float(cell.weight_ih.std()) == pytest.approx(0.001, rel=4.9 / math.sqrt(2 * 1800))
    assert not np.asarray(cell.bias).any()
    assert ix.Scheme("irnn") == ix.Scheme(json.loads(json.dumps(ix.schemes.irnn().spec())))


# muP


@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
@pytest.mark.parametrize("width", [64, 256])
def test_variances_of_mup_follow_the_width(width, distribution, key):
    kwargs = {"base_width": 64, "distribution": distribution}
    made = {name: ix.schemes.get(name, **kwargs) for name in ("mup_hidden", "mup_readout")}
    linear = eqx.filter_eval_shape(eqx.nn.Linear, width, 50, key=KEY)
    conv = eqx.filter_eval_shape(eqx.nn.Conv2d, 2 * width, 50, 3, groups=2, key=KEY)
    for model, fan_in in ((linear, width), (conv, 9 * width)):
        hidden, readout = (ix.plan(model, {"*": scheme}).draws[0].std for scheme in made.values())
        assert hidden == pytest.approx(1 / math.sqrt(fan_in), rel=1e-9)  # as lecun at every width
        assert readout == pytest.approx(hidden / math.sqrt(width / 64), rel=1e-9)
    drawn = np.asarray(ix.draw(made["mup_readout"], key, (width, 400), jnp.bfloat16), np.float64)
    assert drawn.std() == pytest.approx(8 / width, rel=4.9 / math.sqrt(2 * drawn.size) + 1e-3)


def test_mup_leaves_embeddings_alone():
    model = {"e": eqx.nn.Embedding(5, 4, key=KEY), "l": eqx.nn.Linear(4, 4, key=KEY)}
    (kept,) = ix.plan(model, {"*": ix.schemes.mup_hidden(base_width=2)}).kept
    assert (kept.parameter.path, kept.reason.text) == (
        "e.weight",
        "mup_hidden(base_width=2.0) says nothing about an embedding",
    )


# The rules on the page


@pytest.fixture(scope="module")
def page():
    """What stands on the page on deep networks."""
    module = sys.modules["depth_page"] = types.ModuleType("depth_page")
    module.__dict__["__name__"] = "depth_page"
    for block in blocks_of((ROOT / "docs/depth.md").read_text("utf-8")):
        run(block, module.__dict__, "docs/depth.md")
    yield module
    del sys.modules["depth_page"]


D = 32
ROW = DEPTH["N=6,M=6"]
LOGS = (math.sqrt(math.log(18) * math.log(12) / 3), math.sqrt(math.log(18)))


def wanted(paper, path):
    """Standard deviation of a weight of the page's transformer, by the paper; `None` where that is silent."""
    name = path.split(".")[-2]
    xavier = math.sqrt(2 / (5 * D)) if name in ("up", "down") else math.sqrt(1 / D)
    scaled, encoder = name in ("up", "down", "value_proj", "output_proj"), path.startswith("encoder")
    if paper == "gpt2":
        return ROW["gpt2_std"] if name in ("output_proj", "down") else 0.02
    if paper == "t_fixup":
        if name in ("source", "target"):
            return ROW["tfixup_dec"] / math.sqrt(D)
        if name == "head":
            return math.sqrt(2 / (D + 100))
        return xavier * ((ROW["tfixup_enc"] if encoder else ROW["tfixup_dec"]) if scaled else 1)
    if name in ("source", "target", "head"):
        return None
    pair = ROW["deepnet_encdec"]
    gains = {"deepnet": (pair["enc_beta"], pair["dec_beta"]), "sub_ln": LOGS}[paper]
    return xavier * ((gains[0] if encoder else gains[1]) if scaled else 1)


def in_turn(blocks, x):
    return functools.reduce(lambda x, block: block(x), blocks, x)


@pytest.mark.parametrize("paper", ["gpt2", "t_fixup", "deepnet", "sub_ln"])
def test_rules_on_the_page_draw_what_the_paper_says(paper, page, key):
    whole = page.transformer(D)
    if paper == "gpt2":
        x = jax.ShapeDtypeStruct((10, D), "float32")
        model = ix.survey(whole.encoder, inputs=x, forward=in_turn)
    else:
        model = ix.survey(whole, inputs=(page.tokens, page.tokens))
    plan = ix.plan(model, getattr(page, paper))
    drawn = plan.arrays(key)
    weights = [each.path for layer in model.layers for each in layer.parameters if each.role != "bias"]
    for path in weights:
        std = wanted(paper, path)
        assert (path in drawn) == (std is not None), path
        if std is not None:
            # The widest bound is that of a normal's standard deviation.
            assert float(jnp.std(drawn[path])) == pytest.approx(std, rel=4.9 / math.sqrt(2 * drawn[path].size)), path
    assert {each.parameter.path: each.std for each in plan.draws if each.parameter.path in weights} == pytest.approx(
        {path: wanted(paper, path) for path in weights if wanted(paper, path) is not None}, rel=1e-9
    )


def test_rules_of_mup_on_the_page_are_table_eight(page):
    base, wide = (page.stds(page.transformer(width), page.mup(32)) for width in (32, 128))
    for path, std in base.items():
        expected = 1 if path.startswith(("source", "target")) else 4 if path.startswith("head") else 2
        assert std == 0.02
        assert std / wide[path] == pytest.approx(expected, rel=1e-9), path


def test_fixup_on_the_page_is_the_papers(page, key):
    arrays, rest = eqx.partition(page.ResNet(16, KEY), eqx.is_array)
    spoilt = eqx.combine(jax.tree.map(lambda leaf: leaf + 3, arrays), rest)
    new = ix.reinit(spoilt, page.fixup, key, inputs=page.x)
    he = math.sqrt(2 / (9 * 16))
    for block in new.blocks:
        bound = 4.9 / math.sqrt(2 * block.conv1.weight.size)
        assert float(block.conv1.weight.std()) == pytest.approx(he * 8**-0.5, rel=bound)
        assert not block.conv2.weight.any()
        assert [float(each.value) for each in block.shifts] == [0.0] * 4
        assert float(block.multiplier.value) == 1.0
    assert float(new.stem.weight.std()) == pytest.approx(he, rel=4.9 / math.sqrt(2 * new.stem.weight.size))
    assert not new(jax.random.normal(key, (3, 6, 6))).any()
