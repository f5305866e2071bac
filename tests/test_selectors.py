"""Selectors that reach single arrays, in every framework: which are decided, by which rule, and what is drawn."""

import ast
import json
import math
import re
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
import pytest
from flax import linen, nnx

import initax as ix
from tests.tables import KEY

nn = eqx.nn
NORMAL = ("normal", {"stddev": 0.1})
NAMES = ("wq", "wo")


class Attn(eqx.Module):
    """Arrays of several axes that nobody declared."""

    wq: jax.Array
    wo: jax.Array

    def __init__(self):
        self.wq, self.wo = jnp.ones((4, 2, 3)), jnp.ones((2, 3, 4))


class Block(eqx.Module):
    attn: Attn
    norm: nn.LayerNorm

    def __init__(self):
        self.attn, self.norm = Attn(), nn.LayerNorm(4)


class Net(eqx.Module):
    blocks: list[Block]
    head: nn.Linear
    cls: jax.Array

    def __init__(self):
        self.blocks, self.head, self.cls = [Block(), Block()], nn.Linear(4, 3, key=KEY), jnp.ones(4)


class NnxAttn(nnx.Module):
    def __init__(self):
        self.wq, self.wo = nnx.Param(jnp.ones((4, 2, 3))), nnx.Param(jnp.ones((2, 3, 4)))


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.attn, self.norm = NnxAttn(), nnx.LayerNorm(4, rngs=rngs)


class NnxNet(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List([NnxBlock(rngs), NnxBlock(rngs)])
        self.head, self.cls = nnx.Linear(4, 3, rngs=rngs), nnx.Param(jnp.ones(4))


class LinenAttn(linen.Module):
    @linen.compact
    def __call__(self, x):
        wq = self.param("wq", linen.initializers.ones, (4, 2, 3))
        wo = self.param("wo", linen.initializers.ones, (2, 3, 4))
        return x + jnp.einsum("...hk,hkd->...d", jnp.tanh(jnp.einsum("...d,dhk->...hk", x, wq)), wo)


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.LayerNorm(name="norm")(LinenAttn(name="attn")(x))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = x + self.param("cls", linen.initializers.ones, (4,))[None]
        for place in range(2):
            x = LinenBlock(name=f"blocks_{place}")(x)
        return linen.Dense(3, name="head")(x)


def linen_net():
    x = jnp.ones((2, 4))
    return LinenNet().init(KEY, x), {"module": LinenNet(), "inputs": x}


def dict_net():
    def block():
        return {"attn": {"wq": jnp.ones((4, 2, 3)), "wo": jnp.ones((2, 3, 4))}, "norm": {"scale": jnp.ones(4)}}

    head = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    return {"blocks": [block(), block()], "head": head, "cls": jnp.ones(4)}, {}


MODELS = {
    "equinox": lambda: (Net(), {}),
    "nnx": lambda: (NnxNet(), {}),
    "linen": linen_net,
    "dict": dict_net,
}
FRAMEWORKS = pytest.mark.parametrize("framework", MODELS)
BLOCK = {"equinox": "blocks.{}", "nnx": "blocks.{}", "linen": "blocks_{}", "dict": "blocks.{}"}


def arrays_of(model, options):
    """Each array by its path."""
    return {each.path: each for layer in ix.layers(model, **options) for each in layer.parameters}


def planned(model, rules, options, **kwargs):
    """The plan, with the warnings that it notes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ix.InitaxWarning)
        return ix.plan(model, rules, **options, **kwargs)


def decided(plan):
    """What becomes of each array, and by which rule."""
    rows = {each.parameter.path: (str(each.initializer), each.rule) for each in plan.draws}
    return rows | {each.parameter.path: (None, each.rule) for each in plan.kept}


@FRAMEWORKS
def test_a_path_decides_that_array_alone(framework):
    model, options = MODELS[framework]()
    arrays = arrays_of(model, options)
    assert len(arrays) >= 8
    for path in arrays:
        plan = ix.plan(model, {path: NORMAL}, **options)
        assert [(each.parameter.path, each.rule, each.std) for each in plan.draws] == [(path, path, 0.1)]
        assert all(each.rule is None for each in plan.kept)
        assert ix.Plan.from_json(plan.to_json(), model, **options) == plan


@FRAMEWORKS
def test_the_last_match_wins_array_by_array(framework):
    model, options = MODELS[framework]()
    whole = {"*": NORMAL}
    alone = decided(planned(model, whole, options))
    for path in arrays_of(model, options):
        after = decided(planned(model, {**whole, path: "ones"}, options))
        assert after == {**alone, path: ("ones", path)}
        assert decided(planned(model, {path: "ones", **whole}, options)) == alone
        kept = decided(planned(model, {**whole, path: "ones"} | {path: None}, options))
        assert kept == {**alone, path: (None, path)}


@FRAMEWORKS
def test_a_key_of_a_scheme_decides_the_arrays_of_that_name(framework):
    model, options = MODELS[framework]()
    attentions = [BLOCK[framework].format(place) + ".attn" for place in range(2)]
    pattern = attentions[0].replace("0", "*")
    plan = ix.plan(model, {pattern: {"wq": NORMAL, "wo": "zeros"}}, **options)
    assert {each.parameter.path: str(each.initializer) for each in plan.draws} == {
        f"{path}.{name}": text for path in attentions for name, text in (("wq", "normal(stddev=0.1)"), ("wo", "zeros"))
    }
    assert ix.Plan.from_json(plan.to_json(), model, **options) == plan
    one = planned(model, {"*": NORMAL, pattern: {"wo": "ones"}}, options)
    both = planned(model, {"*": NORMAL, f"{pattern}.wo": "ones"}, options)
    assert [row[0] for row in decided(one).values()] == [row[0] for row in decided(both).values()]


@FRAMEWORKS
def test_the_bits_of_an_array_do_not_depend_on_how_it_is_selected(framework, key):
    model, options = MODELS[framework]()
    block = BLOCK[framework].format(0)
    path = f"{block}.attn.wo"
    ways = (
        {path: NORMAL},
        {path.replace("0", "*"): NORMAL},
        {"**.wo": NORMAL},
        {"**.attn": {"wo": NORMAL}},
        {f"{block}.attn": ix.Scheme(arrays={"wo": NORMAL})},
        {"*": "ones", f"{block}.attn": {"base": "zeros", "wo": NORMAL}},
    )[: 5 if framework == "dict" else 6]  # an array of a dict is a layer by itself, and its dict no layer
    drawn = [planned(model, rules, options).arrays(key)[path] for rules in ways]
    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0], other)
    np.testing.assert_array_equal(drawn[0], ix.draw(NORMAL, ix.parameter_key(key, path), (2, 3, 4), axes="i1 i2 o"))
    head = [path for path, each in arrays_of(model, options).items() if path.startswith("head.") and each.axes][0:1]
    whole = ix.plan(model, {"head": NORMAL}, **options).arrays(key)
    for each in head:
        np.testing.assert_array_equal(ix.plan(model, {each: NORMAL}, **options).arrays(key)[each], whole[each])


def test_what_no_rule_names_is_the_same_object(key):
    model = Net()
    new = ix.reinit(model, {"blocks.*.attn.wo": "zeros", "head.bias": NORMAL}, key)
    assert new.blocks[0].attn.wq is model.blocks[0].attn.wq
    assert new.head.weight is model.head.weight
    assert new.cls is model.cls
    assert not np.any(new.blocks[1].attn.wo)
    assert np.all(new.head.bias != model.head.bias)


PATTERNS = {
    "blocks.*.attn.wo": {"blocks.0.attn.wo", "blocks.1.attn.wo"},
    "blocks.[1].attn.wo": {"blocks.1.attn.wo"},
    "blocks.0.attn.w?": {"blocks.0.attn.wq", "blocks.0.attn.wo"},
    "**.wq": {"blocks.0.attn.wq", "blocks.1.attn.wq"},
    "**.w[qo]": {f"blocks.{place}.attn.{name}" for place in (0, 1) for name in NAMES},
    "Attn **.wo": {"blocks.0.attn.wo", "blocks.1.attn.wo"},
    "blocks.1 Attn **.wo": {"blocks.1.attn.wo"},
    "blocks.1 **.wo": {"blocks.1.attn.wo"},
    "**.cls": {"cls"},
    "cls": {"cls"},
    "c*": {"cls"},
    "**.bias": {"blocks.0.norm.bias", "blocks.1.norm.bias", "head.bias"},
    "Norm **.bias": {"blocks.0.norm.bias", "blocks.1.norm.bias"},
    "head.**": {"head.weight", "head.bias"},
    "head.*": {"head.weight", "head.bias"},
    "head.??????": {"head.weight"},
    "**.head": {"head.weight", "head.bias"},
    "blocks.0.*": {"blocks.0.attn.wq", "blocks.0.attn.wo", "blocks.0.norm.weight", "blocks.0.norm.bias"},
    "**h*": {"head.weight", "head.bias", "blocks.0.norm.weight", "blocks.1.norm.weight"},
}
"""Pattern → the arrays whose rule it is."""


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_selects_layers_and_arrays(pattern):
    assert {path for path, (_, rule) in decided(planned(Net(), {pattern: None}, {})).items() if rule} == PATTERNS[
        pattern
    ]


def test_a_pattern_that_ends_in_wildcards_draws_as_if_it_selected_the_layer():
    for pattern in ("head.**", "head.*"):
        plan = ix.plan(Net(), {pattern: "he_normal"})
        assert {each.parameter.path: str(each.initializer) for each in plan.draws} == {
            "head.weight": "he_normal",
            "head.bias": "zeros",
        }


ARRAYS: dict[str, tuple[Any, Any, str]] = {
    "arrays": (
        {"Attn": {"wq": "normal", "wo": None}},
        {"Attn": ix.Scheme(arrays={"wq": "normal", "wo": None})},
        'Attn = { wq = "normal", wo = "keep" }',
    ),
    "arrays beside a role": (
        {"Attn": {"wo": ("constant", {"value": 0.5}), "bias": None}},
        {"Attn": ix.Scheme(bias=None, arrays={"wo": ("constant", {"value": 0.5})})},
        '[Attn]\nwo = ["constant", { value = 0.5 }]\nbias = "keep"',
    ),
    "arrays beside a base": (
        {"Attn": {"base": "zeros", "wo": "ones"}},
        {"Attn": ix.Scheme("zeros", arrays={"wo": ix.schemes.ones()})},
        '[Attn]\nbase = "zeros"\nwo = "ones"',
    ),
    "axes of an array": (
        {"Attn": {"wq": {"base": "he_normal", "axes": "i o1 o2"}}},
        {"Attn": ix.Scheme(arrays={"wq": ix.Scheme("he_normal", axes="i o1 o2")})},
        '[Attn.wq]\nweight = "he_normal"\naxes = { weight = "i o1 o2" }',
    ),
    "path": (
        {"blocks.*.attn.wo": "zeros", "head.bias": ("normal", {"stddev": 0.1}), "cls": None},
        {"blocks.*.attn.wo": ix.schemes.zeros(), "head.bias": ix.schemes.normal(0.1), "cls": None},
        '"blocks.*.attn.wo" = "zeros"\n"head.bias" = ["normal", { stddev = 0.1 }]\ncls = "keep"',
    ),
}
"""Rules of plain data, the same in Python, and the same in TOML."""


@pytest.mark.parametrize("name", ARRAYS)
def test_plain_data_python_toml_and_json_say_the_same(name):
    data, python, toml = ARRAYS[name]
    plan = planned(Net(), data, {})
    assert planned(Net(), python, {}) == plan
    loaded = ix.load_rules(toml)
    assert planned(Net(), loaded, {}) == plan
    saved = json.dumps(dict(json.loads(plan.to_json())["rules"]))
    assert planned(Net(), ix.load_rules(saved), {}) == plan
    for selector, scheme in python.items():
        if scheme is not None:
            read = ix.Scheme(json.loads(json.dumps(scheme.spec()))) if scheme.parts else ix.Scheme(arrays=scheme.arrays)
            assert (read, hash(read)) == (scheme, hash(scheme)) == (ix.Scheme(data[selector]), hash(scheme))


def test_schemes_that_differ_in_an_array_differ():
    one, other = ix.Scheme("zeros", arrays={"wo": "ones"}), ix.Scheme("zeros", arrays={"wo": "normal"})
    assert one != other
    assert one != ix.Scheme("zeros")
    assert str(one) == "zeros, wo=ones"
    assert str(ix.Scheme(arrays={"wo": None})) == "wo=None"
    assert repr(ix.Scheme(bias=None, arrays={"wo": None})) == "Scheme(bias=None, arrays={'wo': None})"


def test_a_scheme_made_of_one_with_arrays_has_them_too():
    base = {"weight": "he_normal", "wo": NORMAL, "wq": None}
    scaled = ix.schemes.scaled(base, 0.5)
    shrunk = ix.schemes.shrink_perturb(0.5, base)
    ix.schemes.register("test_with_arrays", base)
    assert {name: str(each) for name, each in scaled.arrays.items()} == {
        "wo": "scaled(scheme=normal(stddev=0.1), factor=0.5)",
        "wq": "None",
    }
    assert list(shrunk.arrays) == ["wo", "wq"]
    assert ix.schemes.get("test_with_arrays").arrays == ix.Scheme(base).arrays
    for each in (scaled, shrunk, ix.schemes.get("test_with_arrays")):
        assert ix.Scheme(json.loads(json.dumps(each.spec()))) == each


NEEDS = {
    "centered": {"scheme": "he_normal"},
    "constant": {"value": 1.0},
    "scaled": {"scheme": "he_normal", "factor": 2.0},
    "shrink_perturb": {"shrink": 0.5, "scheme": "he_normal"},
    "mup_hidden": {"base_width": 64},
    "mup_readout": {"base_width": 64},
}
NO_AXES = {
    "biased_normal": "biased_normal",
    "constant": "constant(value=1)",
    "irnn": "normal(stddev=0.001)",
    "normal": "normal",
    "ones": "ones",
    "trunc_normal": "trunc_normal",
    "truncated_normal": "truncated_normal",
    "uniform": "uniform",
    "zeros": "zeros",
}
"""Schemes whose weights are drawn though nothing but shape and type is known, and what draws them."""
SILENT = {"forget_gate", "prior"}
"""Schemes that say nothing about a weight."""


@pytest.mark.parametrize("name", ix.schemes.names())
def test_an_array_nobody_declared_is_drawn_by_what_needs_no_axes(name):
    scheme = (name, NEEDS.get(name, {}))
    if name in NO_AXES:
        (draw,) = ix.plan(Net(), {"blocks.0.attn.wo": scheme}).draws
        shown = (draw.parameter.path, draw.parameter.role, str(draw.initializer))
        assert shown == ("blocks.0.attn.wo", None, NO_AXES[name])
        return
    with pytest.raises((ix.RuleError, ix.SchemeError)) as caught:
        ix.plan(Net(), {"blocks.0.attn.wo": scheme})
    if name in SILENT:
        assert str(caught.value).endswith('blocks.0.attn.wo: rule "blocks.0.attn.wo" keeps every weight')
    else:
        assert 'or restate its axes in the rule: ix.Scheme(..., axes="? ? ?")' in str(caught.value)


def test_an_array_is_drawn_by_its_own_role():
    def initializer(path, scheme):
        (draw,) = ix.plan(Net(), {path: scheme}).draws
        return str(draw.initializer)

    assert initializer("head.bias", "normal") == "normal"
    assert initializer("head.bias", "torch_default") == "torch_default"
    assert initializer("head.bias", {"weight": "he_normal", "bias": "ones"}) == "ones"
    assert initializer("head.bias", "uniform_fan_in") == "uniform_fan_in"
    assert initializer("head.weight", ("he_normal", "ones")) == "he_normal"
    assert initializer("blocks.0.norm.weight", "ones") == "ones"
    assert initializer("blocks.0.norm.bias", "normal") == "normal"
    assert initializer("head.weight", "default") == "default"


def test_a_rule_restates_the_axes_of_an_array_it_names(key):
    narrow = ix.Scheme("orthogonal", axes="i o1 o2")
    for rules in ({"**.wq": narrow}, {"Attn": {"wq": narrow}}):
        plan = ix.plan(Net(), rules)
        assert [(each.parameter.path, each.parameter.fan_in, each.parameter.fan_out) for each in plan.draws] == [
            (f"blocks.{place}.attn.wq", 4, 6) for place in (0, 1)
        ]
        drawn = plan.arrays(key)["blocks.0.attn.wq"].reshape(4, 6)
        np.testing.assert_allclose(drawn @ drawn.T, np.eye(4), atol=1e-5)
    each = ix.Scheme("he_normal", axes={"wq": "i o1 o2", "wo": "head i o"}, sizes={"head": 2})
    fans = {draw.parameter.name: draw.parameter.fan_in for draw in ix.plan(Net(), {"**.w[qo]": each}).draws}
    assert fans == {"wq": 4, "wo": 3}
    bias = ix.plan(Net(), {"head.bias": ix.Scheme("ones", axes="o")})
    assert [draw.parameter.path for draw in bias.draws] == ["head.bias"]


def adam():
    params = {"layer": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
    return (params, optax.adam(1e-3).init(params))


def pair():
    layer = nn.Linear(3, 3, key=KEY)
    return [layer, layer]


NEVER = {
    ix.Why.KEY: (lambda: {"key": KEY, "layer": nn.Linear(2, 2, key=KEY)}, "key"),
    ix.Why.NOT_FLOATING: (lambda: [nn.Linear(2, 2, key=KEY), {"n": jnp.arange(3)}], "1.n"),
    ix.Why.EMPTY: (lambda: [nn.Linear(2, 2, key=KEY), {"w": jnp.ones((0, 3)), "b": jnp.ones(3)}], "1.w"),
    ix.Why.STATISTICS: (lambda: nnx.BatchNorm(4, rngs=nnx.Rngs(0)), "mean"),
    ix.Why.OPTIMIZER: (adam, "1.0.mu.layer.kernel"),
    ix.Why.FROZEN: (
        lambda: [nn.Linear(2, 2, key=KEY), paramax.NonTrainable(nn.Linear(2, 2, key=KEY))],
        "1.tree.weight",
    ),
    ix.Why.TIED: (pair, "1.weight"),
    ix.Why.FOLLOWS: (lambda: nn.WeightNorm(nn.Linear(2, 3, key=KEY)), "g"),
}
"""Reasons why an array is never drawn, each with a model and the path of such an array."""


@pytest.mark.parametrize("why", NEVER)
def test_an_array_that_is_never_drawn_is_refused_by_its_path_and_may_be_kept(why):
    make, path = NEVER[why]
    model = make()
    (reason,) = (each.excluded for layer in ix.layers(model) for each in layer.parameters if each.path == path)
    assert reason.why is why
    with pytest.raises(ix.RuleError) as caught:
        ix.plan(model, {path: "zeros"})
    head, array, *_ = str(caught.value).splitlines()
    assert head == f'rule "{path}": it names an array that no scheme draws.'
    assert array.startswith(f"  {path} (")
    assert array.endswith(f": {reason}")
    assert [each.reason for each in ix.plan(model, {path: None}).kept if each.parameter.path == path] == [reason]


def test_a_rule_can_not_keep_what_is_set_with_another_array():
    model = nn.WeightNorm(nn.Linear(2, 3, key=KEY))
    with pytest.raises(ix.RuleError) as caught:
        ix.plan(model, {"*": "he_normal", "g": None})
    assert str(caught.value) == (
        'rule "g" keeps "g", which is set with "layer.weight" when that is drawn.\n  keep both: {"layer.weight": None}'
    )
    assert [each.parameter.path for each in ix.plan(model, {"*": "he_normal", "*.weight": None}).draws] == [
        "layer.bias"
    ]


def test_arrays_that_are_never_drawn_are_kept_where_a_pattern_names_others_too():
    tied = nn.Linear(3, 3, key=KEY)
    plan = ix.plan([tied, tied], {"**.weight": "zeros"})
    assert [each.parameter.path for each in plan.draws] == ["0.weight"]
    assert [(each.parameter.path, each.reason.why) for each in plan.kept if each.rule] == [("1.weight", ix.Why.TIED)]


def notes(rules, model=None):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = ix.plan(Net() if model is None else model, rules)
    assert [str(each.message) for each in caught] == list(plan.notes)
    return plan.notes


def test_what_a_rule_for_arrays_leaves_to_an_earlier_one_is_no_warning():
    declared = {"blocks.*.attn": ix.Scheme("he_normal", axes={"wq": "i o1 o2", "wo": "i1 i2 o"}), "head": "he_normal"}
    assert notes(declared | {"Attn": {"wo": "zeros"}}) == ()
    assert notes(declared | {"blocks.0.attn.wo": "zeros", "head.bias": None}) == ()
    assert notes({"cls": "zeros", "head": "he_normal", "head.weight": "zeros"}) == ()
    assert notes({"head": {"bias": "ones"}, "head.weight": "zeros"}) == ()


def test_a_rule_whose_arrays_are_all_decided_later_is_warned_of():
    later = ", which comes later; the last rule that matches wins"
    assert notes({"head.bias": "ones", "head": "zeros"}) == (
        f'rule "head.bias" decides nothing: every array it selects is decided by "head"{later}',
    )
    assert notes({"head": "ones", "head.bias": "zeros", "head.weight": "zeros"}) == (
        f'rule "head" decides nothing: every layer it selects is decided by "head.weight", "head.bias"{later}',
    )
    assert notes({"head": ("ones", None), "head.weight": "zeros"}) == (
        f'rule "head" draws nothing: every array that it could is decided by "head.weight"{later}',
    )
    assert notes({"head.weight": "ones", "Linear": {"bias": "ones"}})[0] == (
        'rule "Linear" speaks of bias only; what an earlier rule would draw is kept:\n'
        "  head.weight (3, 4) of Linear\n"
        '  write {"Linear": {"weight": ..., "bias": ...}}, with None for what is to be kept'
    )
    assert notes({"head.weight": None, "Linear": {"bias": "ones"}}) == (
        f'rule "head.weight" decides nothing: every array it selects is decided by "Linear"{later}',
    )


def test_a_model_of_which_no_layer_is_known_is_drawn_where_its_arrays_are_named():
    class Raw(eqx.Module):
        cls: jax.Array
        pos: jax.Array

    raw = Raw(jnp.ones(4), jnp.ones((5, 4)))
    plan = ix.plan(raw, {"cls": "zeros", "pos": ("normal", {"stddev": 0.02})}, default="error")
    assert [(each.parameter.path, each.std) for each in plan.draws] == [("cls", 0.0), ("pos", 0.02)]
    with pytest.raises(ix.ModelError):
        ix.plan(raw, {"*": "zeros"})
    with pytest.raises(ix.RuleError, match=r"^no rule covers 1 array"):
        ix.plan(raw, {"cls": "zeros"}, default="error")


def test_default_may_speak_of_arrays():
    plan = planned(Net(), {"head": "zeros"}, {}, default={"wo": "ones"})
    assert [each.parameter.path for each in plan.draws if each.rule == "default="] == [
        "blocks.0.attn.wo",
        "blocks.1.attn.wo",
    ]


class Attention(eqx.Module):
    """Attention as people write it by hand."""

    wq: jax.Array
    wk: jax.Array
    wv: jax.Array
    wo: jax.Array

    def __init__(self, width, heads, key):
        size = (width, heads, width // heads)
        self.wq, self.wk, self.wv = (jax.random.normal(each, size) for each in jax.random.split(key, 3))
        self.wo = jax.random.normal(key, (heads, width // heads, width))

    def __call__(self, x):
        q, k, v = (jnp.einsum("td,dhk->thk", x, w) for w in (self.wq, self.wk, self.wv))
        scores = jnp.einsum("thk,shk->hts", q, k) / math.sqrt(q.shape[-1])
        return jnp.einsum("hts,shk,hkd->td", jax.nn.softmax(scores), v, self.wo)


class GPTBlock(eqx.Module):
    attn: Attention
    up: nn.Linear
    down: nn.Linear
    norm: nn.LayerNorm

    def __init__(self, width, heads, key):
        self.attn = Attention(width, heads, key)
        self.up, self.down = nn.Linear(width, 4 * width, key=key), nn.Linear(4 * width, width, key=key)
        self.norm = nn.LayerNorm(width)

    def __call__(self, x):
        x = x + self.attn(jax.vmap(self.norm)(x))
        return x + jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.up)(x)))


class GPT(eqx.Module):
    cls: jax.Array
    pos: jax.Array
    blocks: list[GPTBlock]
    head: nn.Linear

    def __init__(self, width=64, heads=4, depth=2, length=16):
        self.cls, self.pos = jnp.ones((1, width)), jnp.ones((length + 1, width))
        self.blocks = [GPTBlock(width, heads, key) for key in jax.random.split(KEY, depth)]
        self.head = nn.Linear(width, 10, key=KEY)

    def __call__(self, x):
        x = jnp.concatenate([self.cls, x]) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(x[0])


def test_a_gpt_written_by_hand_in_one_rule_map(key):
    model, depth, width = GPT(), 2, 64
    rules = {
        "Linear": ("lecun_normal", None),
        "Attention": "lecun_normal",
        "Attention **.wo": ("scaled", {"scheme": "lecun_normal", "factor": 1 / math.sqrt(2 * depth)}),
        "cls": "zeros",
        "pos": ("normal", {"stddev": 0.02}),
    }
    x = jnp.ones((16, width))
    new = ix.reinit(model, rules, key, inputs=x)
    expected = {"cls": 0.0, "pos": 0.02, "head.weight": width**-0.5}
    for block in range(depth):
        at = f"blocks.{block}"
        expected |= {f"{at}.attn.{name}": width**-0.5 for name in ("wq", "wk", "wv")}
        expected |= {f"{at}.attn.wo": (2 * depth * width) ** -0.5}
        expected |= {f"{at}.up.weight": width**-0.5, f"{at}.down.weight": (4 * width) ** -0.5}
    plan = ix.plan(model, rules, inputs=x)
    assert {each.parameter.path: pytest.approx(each.std) for each in plan.draws} == expected
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(new)
    }
    old = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(model)
    }
    for path, std in expected.items():
        drawn = np.asarray(paths[path], np.float64)
        assert drawn.std() == pytest.approx(std, rel=6 / math.sqrt(2 * drawn.size)), path
        assert abs(drawn.mean()) <= 6 * std / math.sqrt(drawn.size), path
    assert all(paths[path] is old[path] for path in paths if path not in expected and eqx.is_array(paths[path]))


def linen_variables():
    head = {"kernel": np.ones((3, 4), np.float32), "bias": np.ones(4, np.float32)}
    norms = [{"scale": np.ones(4, np.float32), "bias": np.ones(4, np.float32)} for _ in range(2)]
    return {"params": {"head": head, "LayerNorm_0": norms[0], "LayerNorm_1": norms[1]}}


MEANT: dict[str, tuple[Any, str, set[str]]] = {
    "class and bias": (Net, "Linear.bias", {"head.bias"}),
    "kind and bias": (Net, "Norm.bias", {"blocks.0.norm.bias", "blocks.1.norm.bias"}),
    "class and weight": (
        lambda: nn.MLP(3, 2, 4, 2, key=KEY),
        "Linear.weight",
        {f"layers.{place}.weight" for place in range(3)},
    ),
    "misspelled class and weight": (Net, "Linaer.weigth", {"head.weight"}),
    "class and kernel": (NnxNet, "Linear.weights", {"head.kernel"}),
    "norm and weight": (NnxNet, "LayerNorm.weight", {"blocks.0.norm.scale", "blocks.1.norm.scale"}),
    "container's class": (Net, "Block.bias", {"blocks.0.norm.bias", "blocks.1.norm.bias"}),
    "class and path": (Net, "Block.norm.bias", {"blocks.0.norm.bias", "blocks.1.norm.bias"}),
    "class and a path that is not there": (Net, "Block.head.bias", set()),
    "path and weights": (linen_variables, "head.weights", {"head.kernel"}),
    "path and misspelled": (linen_variables, "head.kernl", {"head.kernel"}),
    "name of a Linen class": (
        linen_variables,
        "LayerNorm.weight",
        {"LayerNorm_0.scale", "LayerNorm_1.scale"},
    ),
    "misspelled container": (Net, "block.*.norm.bias", {"blocks.0.norm.bias", "blocks.1.norm.bias"}),
    "another framework's word": (lambda: dict_net()[0], "heads.kernel", {"head.w"}),
    "word alone": (linen_variables, "weights", {"head.kernel"}),
    "index that is not there": (Net, "blocks.2.norm.bias", set()),
    "array that is not there": (lambda: nn.Linear(2, 3, use_bias=False, key=KEY), "Linear.bias", set()),
    "path to a name near another": (Net, "block.0.mlp", set()),
    "class that a list is near": (lambda: [nn.Linear(2, 3, key=KEY)], "LSTM", set()),
    "the only array of a role": (lambda: nn.GRUCell(2, 3, key=KEY), "kernel", {"weight_ih"}),
    "misspelled weight beside a bias": (
        lambda: nnx.List([nnx.Linear(2, 3, rngs=nnx.Rngs(0))]),
        "0.wieght",
        {"0.kernel"},
    ),
}
"""Name → a model, a selector that selects nothing in it, and the arrays that the line selects that the error offers."""


def offered(call):
    """The rules that an error offers to write; none where it offers none."""
    with pytest.raises(ix.RuleError) as caught:
        call()
    found = re.search(r"write (\{.*\})", str(caught.value))
    return ast.literal_eval(found[1]) if found else {}


@pytest.mark.parametrize("name", MEANT)
def test_a_line_that_an_error_offers_works_and_selects_what_was_meant_alone(name):
    make, selector, meant = MEANT[name]
    model = make()
    rules = offered(lambda: ix.plan(model, {"*": None, selector: "ones"}))
    drawn = ix.plan(model, rules).draws if rules else ()
    assert {each.parameter.path: str(each.initializer) for each in drawn} == dict.fromkeys(meant, "ones")
    masked = offered(lambda: ix.mask(model, {"*": True, selector: False}))
    rows = ix.mask(model, masked).rows if masked else ()
    assert {row.parameter.path for row in rows if row.value is False} == meant or not meant


WORDS_FOR_ROLES = {
    "all of one name": (lambda: nn.MLP(3, 2, 4, 2, key=KEY), "bias", {"*": True, "**.bias": False}),
    "of several names": (lambda: [nn.GRUCell(2, 3, key=KEY)], "bias", {"*": True, "**": {"bias": False}}),
    "another framework's word": (lambda: [nn.Linear(2, 3, key=KEY), nn.LayerNorm(3)], "kernel", None),
}


@pytest.mark.parametrize("name", WORDS_FOR_ROLES)
def test_a_role_in_the_place_of_a_selector_is_answered_with_a_line_for_masks_and_labels(name):
    make, word, line = WORDS_FOR_ROLES[name]
    model = make()
    role = "bias" if word == "bias" else "weight"
    masked = offered(lambda: ix.mask(model, {"*": True, word: False}))
    labelled = offered(lambda: ix.labels(model, {"*": "adam", word: "sgd"}))
    assert masked == (line or {"*": True, "**": {"weight": False}})
    for rows in (ix.mask(model, masked).rows, ix.labels(model, labelled).rows):
        assert all((row.value in (False, "sgd")) == (row.parameter.role == role) for row in rows)
