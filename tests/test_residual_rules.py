"""Rules for residual branches: selectors without names, depth factors without sizes, and where they miss."""

import json
import re
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import initax as ix
from tests.residual_models import BLOCK, MODELS, block, layers, part
from tests.residual_networks import FRAMEWORKS, NETWORKS
from tests.tables import KEY

NORMAL = ("normal", {"stddev": 0.02})
BY_NAME = {each.name: each for each in MODELS}


@pytest.fixture(autouse=True)
def _ranks_are_promoted():
    """The models add biases as people do."""
    with jax.numpy_rank_promotion("allow"):
        yield


def call(name):
    model = BY_NAME[name]
    return model.arrays, {"inputs": model.inputs, "forward": lambda arrays, *inputs: model.forward(arrays, *inputs)}


def planned(name, rules):
    arrays, how = call(name)
    return ix.plan(arrays, rules, **how)


def stds(plan):
    return {each.parameter.path: each.std for each in plan.draws if each.std is not None}


def drawn(name, selector, scheme="zeros"):
    return {each.parameter.path for each in planned(name, {selector: scheme}).draws}


def by_depth(recipe, scheme="glorot_normal"):
    return ("scaled", {"scheme": scheme, "factor": recipe})


# Selectors.


def test_ends_are_selected_with_their_biases():
    assert drawn("gpt2", "residual:end") == {
        f"{at}.{name}" for at in range(2) for name in ("o", "o_bias", "down", "down_bias")
    }


def test_inner_weights_are_all_others_of_a_branch_and_scores_are_some_of_these():
    inner, scores = drawn("vit with layer scale", "residual:inner"), drawn("vit with layer scale", "residual:scores")
    assert inner == {f"{at}.{name}" for at in range(2) for name in ("q", "k", "v", "up", "bias")}
    assert scores == {f"{at}.{name}" for at in range(2) for name in "qk"}


def test_a_scale_behind_the_end_is_selected_where_the_rule_speaks_of_scales():
    gammas = {f"{at}.gamma{number}" for at in range(2) for number in (1, 2)}
    assert not gammas & drawn("vit with layer scale", "residual:end")
    assert drawn("vit with layer scale", "residual:end", {"scale": "zeros"}) == gammas
    both = drawn("vit with layer scale", "residual:end", {"weight": NORMAL, "scale": "zeros"})
    assert both == gammas | {f"{at}.{name}" for at in range(2) for name in ("o", "down")}


def test_a_rule_for_scales_leaves_weights_to_the_rules_before_it():
    plan = planned("vit with layer scale", {"Linear": NORMAL, "residual:end": {"scale": "zeros"}})
    assert {each.rule for each in plan.draws if each.parameter.path.endswith((".o", ".down"))} == {"Linear"}


def test_words_in_front_say_inside_of_what():
    network = NETWORKS["t5"]
    model, how = FRAMEWORKS["equinox"](network.architecture, *network.inputs)

    def ends(selector):
        return {each.parameter.path for each in ix.plan(model, {selector: "zeros"}, **how).draws}

    names = ("encoder0", "encoder1", "self2", "cross2", "self3", "cross3")
    assert ends("MultiheadAttention residual:end") == {f"layers.{name}.output_proj.weight" for name in names}
    assert ends("layers.cross* Linear residual:end") == {f"layers.cross{at}.output_proj.weight" for at in (2, 3)}


def test_zero_ends_make_every_branch_the_identity():
    arrays = {name: jnp.ones(each.shape) for name, each in layers(2, BLOCK).items()}

    def forward(arrays, x):
        return block(part(arrays, "1."), block(part(arrays, "0."), x))

    x = jax.random.normal(jax.random.key(3), (5, 8))
    for rules in ({"*": "lecun_normal"}, {"*": "lecun_normal", "residual:end": "zeros"}):
        new = ix.reinit(arrays, rules, jax.random.key(0), inputs=x, forward=forward)
        assert bool((forward(new, x) == x).all()) is (len(rules) == 2)


def test_a_rule_file_and_a_stored_plan_keep_the_selector(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(
        'Linear = ["normal", { stddev = 0.02 }]\n'
        '"residual:end" = ["scaled", { scheme = ["normal", { stddev = 0.02 }], factor = "gpt2" }]\n'
    )
    arrays, how = call("gpt2")
    plan = ix.plan(arrays, ix.load_rules(path), **how)
    assert stds(plan)["1.down"] == pytest.approx(0.02 / 2)
    assert plan == planned("gpt2", {"Linear": NORMAL, "residual:end": by_depth(("gpt2", {}), NORMAL)})
    assert ix.Plan.from_json(plan.to_json(), arrays, **how) == plan
    rows = json.loads(plan.to_json())["decisions"]
    assert (rows["1.down"]["residual"], rows["1.up"]["residual"]) == ("end of branch 4 of 4", "branch 4 of 4")
    assert "residual" not in rows["table"]


def test_masks_labels_and_experiments_take_the_selector():
    arrays, how = call("gpt2")
    ends = {f"{at}.{name}" for at in range(2) for name in ("o", "o_bias", "down", "down_bias")}
    mask = ix.mask(arrays, "residual:end", **how)
    assert {each.parameter.path for each in mask.rows if each.value} == ends
    labels = ix.labels(arrays, {"*": "a", "residual:end": {"weight": "b"}}, default="c", **how)
    assert {each.parameter.path for each in labels.rows if each.value == "b"} == {e for e in ends if "bias" not in e}


def test_a_plan_says_which_branch():
    text = str(planned("llama, scanned and computed again", {"*": NORMAL}))
    assert "end of branches 1, 3, …, 11 of 12" in text
    assert " branches 2, 4, …, 12 of 12 " in text
    assert "residual" not in str(planned("plain mlp with one bias", {"*": NORMAL}))
    assert "end of branch 9 of 9, stream 2" in str(
        ix.survey(call("encoder and decoder")[0], **call("encoder and decoder")[1])
    )


# Depth factors.


def test_gpt2_counts_the_branches():
    assert stds(planned("llama, scanned and computed again", {"residual:end": by_depth("gpt2", NORMAL)})) == {
        "layers.o": pytest.approx(0.02 * 12**-0.5),
        "layers.down": pytest.approx(0.02 * 12**-0.5),
    }


PAIR = {"encoder_layers": 2, "decoder_layers": 3}
FACTORS = {
    "t_fixup": ({"encoder_layers": 2}, {"decoder_layers": 3}),
    "deepnet": (PAIR, {"decoder_layers": 3}),
    "sub_ln": (PAIR, {"decoder_layers": 3}),
}


def ratios(name, rules):
    """By what the rules multiply the standard deviations of weights drawn by Glorot's."""
    plain = stds(planned(name, {"Linear": "glorot_normal"}))
    return {path: std / plain[path] for path, std in stds(planned(name, rules)).items() if plain[path]}


@pytest.mark.parametrize("recipe", FACTORS)
def test_factors_without_sizes_are_those_of_the_stream(recipe):
    """Of an encoder with two blocks and a decoder with three, held against factors with sizes."""
    found = ratios("encoder and decoder", {"residual:inner": by_depth(recipe), "residual:end": by_depth(recipe)})
    for stream, sizes in zip(("encoder", "decoder"), FACTORS[recipe], strict=True):
        wanted = ix.schemes.depth_factor(f"{recipe}_{stream}", **sizes)
        own = [ratio for path, ratio in found.items() if path.startswith(stream)]
        assert len(own) > 10
        assert own == pytest.approx([wanted] * len(own), rel=1e-6)


@pytest.mark.parametrize("recipe", ["deepnet", "t_fixup", "sub_ln"])
def test_a_stream_alone_has_the_factor_of_an_encoder_alone(recipe):
    sizes = {"t_fixup": ("t_fixup_encoder", {"encoder_layers": 2})}.get(recipe, (recipe, {"layers": 2}))
    wanted = ix.schemes.depth_factor(sizes[0], **sizes[1])
    assert list(ratios("post norm", {"residual:end": by_depth(recipe)}).values()) == pytest.approx([wanted] * 4)


def test_fixup_counts_branches_and_weights_in_each():
    plain, found = (
        stds(planned("bottlenecks", {"residual:inner": scheme}))
        for scheme in ("he_normal", by_depth("fixup", "he_normal"))
    )
    wanted = ix.schemes.depth_factor("fixup", branches=3, branch_layers=3)
    assert {path: std / plain[path] for path, std in found.items()} == {
        f"{name}.conv{at}": pytest.approx(wanted) for name in "abc" for at in (1, 2)
    }


def test_complete_p_takes_the_branches_of_the_base_alone():
    factor = ix.schemes.depth_factor("complete_p", base_branches=2)
    found = stds(planned("shared blocks", {"residual:end": by_depth(factor, NORMAL)}))
    assert found == {"o": pytest.approx(0.02 / 6), "down": pytest.approx(0.02 / 6)}
    assert ix.schemes.depth_factor("complete_p", branches=12, base_branches=2) == pytest.approx(1 / 6)


def test_embeddings_of_t_fixup_go_by_the_decoder():
    found = stds(planned("encoder and decoder", {"table": by_depth("t_fixup", NORMAL)}))
    assert found == {"table": pytest.approx(0.02 * 27**-0.25)}


def test_a_factor_without_sizes_survives_json():
    scheme = ix.schemes.scaled(NORMAL, ix.schemes.depth_factor("complete_p", base_branches=4))
    assert ix.schemes.scaled(NORMAL, ("complete_p", {"base_branches": 4})) == scheme
    spec = json.loads(json.dumps(scheme.spec()))
    assert spec == ["scaled", {"scheme": ["normal", {"stddev": 0.02}], "factor": ["complete_p", {"base_branches": 4}]}]
    assert ix.schemes.get(spec[0], **spec[1]) == scheme


# What is said where they miss.


def missing(name, rules, **other):
    def fail():
        arrays, how = call(name)
        ix.plan(arrays, rules, **{**how, **other})

    return fail


SIZES = 'or write the sizes: ("gpt2", {"layers": 12})'
ERRORS = {
    "no forward pass": (
        ix.RuleError,
        lambda: ix.plan({"w": (3, 3)}, {"residual:end": "zeros"}),
        'selector "residual:end" needs the forward pass, which tells what is added to a residual stream.\n'
        "  say what the model is called on: inputs=..., or a survey, ix.survey(model, inputs=...)",
    ),
    "no stream": (
        ix.RuleError,
        missing("u-net", {"residual:end": "zeros"}),
        'selector "residual:end" matches no array: weights whose output is added to a stream.\n'
        "  the forward pass adds to no residual stream\n"
        "  name the arrays, or their layers",
    ),
    "inside of something else": (
        ix.RuleError,
        missing("block", {"Conv residual:end": "zeros"}),
        'selector "Conv residual:end" matches no array: weights whose output is added to a stream.\n'
        "  residual:end: down, o\n"
        '  nothing of these is inside "Conv"',
    ),
    "no scores": (
        ix.RuleError,
        missing("reversible", {"residual:scores": "zeros"}),
        'selector "residual:scores" matches no array: those of the inner ones of which nothing but the scores of an '
        "attention are made: queries and keys.\n"
        "  weights that end a branch: g2, f2",
    ),
    "no such word": (
        ix.RuleError,
        lambda: ix.plan({"w": (3, 3)}, {"residual:ends": "zeros"}),
        '"residual:ends" selects nothing: it is one of residual:end, residual:inner, residual:scores.\n'
        '  did you mean "residual:end"?\n'
        "  residual:end: weights whose output is added to a stream\n"
        "  residual:inner: the other weights of a branch\n"
        "  residual:scores: those of the inner ones of which nothing but the scores of an attention are made: queries "
        "and keys",
    ),
    "factor without a forward pass": (
        ix.SchemeError,
        lambda: ix.plan({"w": (3, 3)}, {"*": by_depth("gpt2")}),
        'rule "*": the depth factor "gpt2" takes the number of residual branches from the forward pass, which is not '
        f"known.\n  say what the model is called on, inputs=...\n  {SIZES}",
    ),
    "factor without a stream": (
        ix.SchemeError,
        missing("u-net", {"*": by_depth("gpt2")}),
        'rule "*": the depth factor "gpt2" takes the number of residual branches from the forward pass, which has '
        f"none.\n  {SIZES}",
    ),
    "factor of what is in no branch": (
        ix.SchemeError,
        missing("gpt2", {"table": by_depth("gpt2")}),
        'rule "table": the depth factor "gpt2" takes the number of residual branches from the stream of an array, and '
        f'"table" is in none.\n  select what is in one: "residual:end", "residual:inner"\n  {SIZES}',
    ),
    "unknown number": (
        ix.SchemeError,
        missing("unknown length", {"residual:end": by_depth("gpt2")}),
        'rule "residual:end": the depth factor "gpt2" needs the number of residual branches, and how often '
        f"the loop that adds them runs is not known.\n  {SIZES}",
    ),
    "no decoder": (
        ix.SchemeError,
        missing("block", {"residual:end": by_depth("deepnet_decoder")}),
        'rule "residual:end": the depth factor "deepnet_decoder" needs the stream of a decoder, and none goes with '
        'that of "down".\n  or write the sizes: ("deepnet_decoder", {"decoder_layers": 6})',
    ),
    "one weight in a branch": (
        ix.SchemeError,
        missing("highway", {"residual:end": by_depth("fixup")}),
        'rule "residual:end": the depth factor "fixup" needs two weights in a branch, and that of "0.transform" '
        'has one.\n  or write the sizes: ("fixup", {"branches": 8, "branch_layers": 2})',
    ),
    "sizes of a recipe that has none": (
        ix.SchemeError,
        lambda: ix.schemes.depth_factor("t_fixup", layers=3),
        'the depth factor "t_fixup" takes its sizes from the forward pass; it was given layers.\n'
        '  write ix.schemes.depth_factor("t_fixup_encoder", encoder_layers=6) or '
        'ix.schemes.depth_factor("t_fixup_decoder", decoder_layers=6)',
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_these(case):
    kind, fail, text = ERRORS[case]
    with pytest.raises(kind) as caught:
        fail()
    assert str(caught.value) == text


ASTRAY = (
    'rule "**.v": the depth factor "gpt2" is for weights that end a residual branch, and the rule draws none of '
    "these.\n"
    "  it draws 0.v, 1.v\n"
    "  weights that end a branch: 0.down, 0.o, 1.down, 1.o\n"
    '  write {"residual:end": ...}'
)


@pytest.mark.parametrize(
    "factor", [("gpt2", {"layers": 2}), "gpt2", ix.schemes.depth_factor("gpt2", layers=2)], ids=str
)
def test_a_depth_factor_that_hits_no_end_is_a_warning(factor):
    with pytest.warns(ix.InitaxWarning) as caught:
        plan = planned("long skip", {"**.v": by_depth(factor)})
    assert [str(each.message) for each in caught] == [ASTRAY]
    assert plan.notes == (ASTRAY,)


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("long skip", {"**.o": by_depth(("gpt2", {"layers": 2})), "**.down": by_depth("gpt2")}),
        ("bottlenecks", {"**.conv1": by_depth("fixup")}),
        ("long skip", {"**.v": by_depth("deepnet")}),
        ("long skip", {"**.v": by_depth(0.5)}),
    ],
)
def test_no_warning_where_the_recipe_is_for_it(name, rules):
    assert planned(name, rules).notes == ()


def test_no_warning_without_a_forward_pass():
    assert ix.plan({"v": (3, 3)}, {"v": by_depth(("gpt2", {"layers": 2}))}).notes == ()


def test_more_than_the_ends_is_a_note():
    plan = planned("long skip", {"*": by_depth(("gpt2", {"layers": 2}))})
    assert plan.notes == (
        'rule "*": the depth factor "gpt2" multiplies 8 weights that end no residual branch: 0.k, 0.q, 0.up, 0.v, … '
        "(4 more)",
    )


def without_lines(notes):
    return tuple(re.sub(r"\.py:\d+", ".py:LINE", note) for note in notes)


@pytest.mark.parametrize("scheme", [by_depth("gpt2"), NORMAL], ids=["gpt2", "normal"])
@pytest.mark.slow(one_in=3)
def test_a_branch_without_an_end_is_a_note(scheme):
    plan = planned("half of the ends", {"residual:end": scheme})
    assert without_lines(plan.notes) == (
        'rule "residual:end" does not reach what is a multiple of no weight, and is added to a stream:\n'
        "  a: a function that is not linear (residual_models.py:LINE)",
    )


def test_zeros_in_front_of_relu_are_a_note():
    plan = planned("ts mixer", {"*": NORMAL, "residual:end": "zeros"})
    assert plan.notes == (
        'rule "residual:end": a function such as ReLU stands between 2 arrays and the stream, through which zeros may '
        "have no gradient, and stay zero: 0.time, 1.time\n"
        '  draw them small instead: {"residual:end": ("normal", {"stddev": 1e-3})}',
    )
    _, how = call("ts mixer")
    x = jax.random.normal(KEY, (5, 8))
    gradient = jax.grad(lambda arrays: (how["forward"](arrays, x) ** 2).sum())(plan.draw(KEY))
    assert not gradient["0.time"].any()
    assert gradient["0.down"].any()
    assert planned("ts mixer", {"residual:end": ("normal", {"stddev": 1e-3})}).notes == ()


def test_a_scale_of_zeros_in_front_of_relu_is_a_note_and_one_behind_it_is_none():
    arrays = {"w": (8, 8), "gamma": (8,)}
    how = {"inputs": jax.ShapeDtypeStruct((5, 8), jnp.float32)}
    rules = {"residual:end": {"scale": "zeros"}}
    before = ix.plan(arrays, rules, forward=lambda p, x: x + jax.nn.relu(x @ p["w"] * p["gamma"]), **how)
    behind = ix.plan(arrays, rules, forward=lambda p, x: x + jax.nn.relu(x @ p["w"]) * p["gamma"], **how)
    assert [draw.parameter.path for draw in (*before.draws, *behind.draws)] == ["gamma", "gamma"]
    assert [note.partition("\n")[0][-5:] for note in before.notes if "ReLU" in note] == ["gamma"]
    assert not any("ReLU" in note for note in behind.notes)


def test_a_product_of_signals_is_named_where_a_stream_has_no_end():
    inputs = jax.ShapeDtypeStruct((5, 8), jnp.float32)
    with pytest.raises(ix.RuleError, match="is a multiple of no weight:\n  v, w: a product of signals"):
        ix.plan(
            {"v": (8, 8), "w": (8, 8)},
            {"residual:end": "zeros"},
            inputs=inputs,
            forward=lambda p, x: x + jnp.tanh(x @ p["v"]) * jax.nn.sigmoid(x @ p["w"]),
        )


def ended_by(function):
    """Three branches that end in a function of their weights, and no other."""

    def forward(arrays, x):
        for weight in arrays["w"]:
            x = x + function(x @ weight)
        return x

    return {"w": [(8, 8)] * 3}, {"inputs": jax.ShapeDtypeStruct((5, 8), jnp.float32), "forward": forward}


def test_a_branch_that_jax_has_traced_before_is_named_by_the_line_that_calls():
    for function in (jax.nn.silu, jax.nn.silu, jnp.tanh):
        arrays, how = ended_by(function)
        with pytest.raises(ix.RuleError) as caught:
            ix.plan(arrays, {"residual:end": "zeros"}, **how)
        assert without_lines([str(caught.value)]) == (
            'selector "residual:end" matches no array: weights whose output is added to a stream.\n'
            "  what it adds to a residual stream is a multiple of no weight:\n"
            "  w.0, w.1, w.2: a function that is not linear (test_residual_rules.py:LINE)\n"
            "  name the arrays, or their layers",
        )


def test_a_depth_factor_without_an_end_says_what_stands_behind_the_weights():
    arrays, how = ended_by(jnp.tanh)
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(arrays, {"*": by_depth("gpt2")}, **how)
    assert without_lines([str(caught.value)]) == (
        'rule "*": the depth factor "gpt2" takes the number of residual branches from the forward pass, which has none '
        "with a weight as its end:\n"
        "  w.0, w.1, w.2: a function that is not linear (test_residual_rules.py:LINE)\n"
        f"  {SIZES}",
    )
    with pytest.warns(ix.InitaxWarning, match="is a multiple of no weight:\n  w.0, w.1, w.2: a function"):
        ix.plan(arrays, {"*": by_depth(("gpt2", {"layers": 3}))}, **how)


def test_a_norm_behind_the_end_is_a_note():
    plan = planned("norms at the end", {"residual:end": by_depth("gpt2")})
    assert plan.notes == (
        'rule "residual:end": a norm stands between 4 weights and the stream, so that the depth factor "gpt2" does not '
        "change what is added: 0.down, 0.o, 1.down, 1.o\n"
        '  the scale of the norm does: {"residual:end": {"scale": ("constant", {"value": ...})}}',
    )


def test_seventy_billion_parameters_take_seconds():
    """Eighty layers of width 8,192, each with arrays of its own, abstract."""
    width, wide = 8192, 28672

    class Block(eqx.Module):
        norm: eqx.nn.RMSNorm
        q: eqx.nn.Linear
        o: eqx.nn.Linear
        gate: eqx.nn.Linear
        up: eqx.nn.Linear
        down: eqx.nn.Linear

        def __init__(self, key):
            def linear(inputs, outputs):
                return eqx.nn.Linear(inputs, outputs, use_bias=False, key=key)

            self.norm = eqx.nn.RMSNorm(width)
            self.q, self.o = linear(width, width), linear(width, width)
            self.gate, self.up, self.down = linear(width, wide), linear(width, wide), linear(wide, width)

        def __call__(self, x):
            x = x + self.o(jax.nn.sigmoid(self.q(self.norm(x))))
            h = self.norm(x)
            return x + self.down(jax.nn.silu(self.gate(h)) * self.up(h))

    one = eqx.filter_eval_shape(Block, jax.random.key(0))
    model = [one for _ in range(80)]

    def forward(model, x):
        for each in model:
            x = each(x)
        return x

    start = time.process_time()
    plan = ix.plan(
        jax.tree.map(lambda leaf: leaf, model),
        {"*": NORMAL, "residual:end": by_depth("gpt2", NORMAL)},
        inputs=jax.ShapeDtypeStruct((width,), jnp.float32),
        forward=forward,
    )
    assert time.process_time() - start < 60
    assert sum(each.parameter.shape[0] * each.parameter.shape[1] for each in plan.draws) > 65e9
    last = next(each for each in plan.draws if each.parameter.path == "79.down.weight")
    assert str(last.parameter.residual) == "end of branch 160 of 160"
    assert last.std == pytest.approx(0.02 * 160**-0.5)


class Normalized(nnx.Module):
    """A branch that ends in a norm of NNX, whose scale is multiplied with the statistic before the signal is."""

    def __init__(self, norm):
        self.first, self.linear, self.norm = (
            nnx.LayerNorm(8, rngs=nnx.Rngs(0)),
            nnx.Linear(8, 8, rngs=nnx.Rngs(0)),
            norm,
        )

    def __call__(self, x):
        return x + self.norm(self.linear(self.first(x)))


NORMS = {
    "layer norm": nnx.LayerNorm(8, rngs=nnx.Rngs(0)),
    "rms norm": nnx.RMSNorm(8, rngs=nnx.Rngs(0)),
    "group norm": nnx.GroupNorm(8, num_groups=2, rngs=nnx.Rngs(0)),
    "batch norm": nnx.BatchNorm(8, rngs=nnx.Rngs(0)),
    "batch norm that runs": nnx.BatchNorm(8, use_running_average=True, rngs=nnx.Rngs(0)),
}


@pytest.mark.parametrize("name", NORMS)
def test_the_scale_of_a_norm_of_flax_ends_a_branch(name):
    """Zero, as of Goyal et al. 2017, it makes the branch the identity; the norm before the weight is not selected."""
    model, x = Normalized(NORMS[name]), jax.random.normal(KEY, (4, 8))
    plan = ix.plan(model, {"residual:end": {"scale": "zeros"}}, inputs=x)
    assert [draw.parameter.path for draw in plan.draws] == ["norm.scale"]
    assert bool((plan.draw(KEY)(x) == x).all())
