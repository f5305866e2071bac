"""Rules from TOML and JSON mean what they mean in Python, and errors say in which line they are."""

import json
from pathlib import Path

import equinox as eqx
import jax
import pytest

import initax as ix
from tests.tables import KEY

nn = eqx.nn


class Block(eqx.Module):
    attn: nn.MultiheadAttention
    norm: nn.LayerNorm
    mlp: nn.MLP

    def __init__(self, key):
        self.attn = nn.MultiheadAttention(2, 8, key=key)
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.MLP(8, 8, 16, depth=1, key=key)


class Net(eqx.Module):
    embed: nn.Embedding
    conv: nn.Conv2d
    blocks: list[Block]
    cell: nn.LSTMCell
    qkv: nn.Linear
    head: nn.Linear

    def __init__(self):
        keys = jax.random.split(KEY, 4)
        self.embed = nn.Embedding(50, 8, key=keys[0])
        self.conv = nn.Conv2d(4, 6, 3, key=keys[0])
        self.blocks = [Block(keys[1]), Block(keys[2])]
        self.cell = nn.LSTMCell(8, 8, key=keys[3])
        self.qkv = nn.Linear(8, 24, key=keys[3])
        self.head = nn.Linear(8, 50, key=keys[3])


# The rules of the README and of the pages on rules and schemes, in Python and in TOML.
RULES = {
    "names": (
        {"Linear": "he_normal", "head": ("normal", {"stddev": 0.01})},
        """
        Linear = "he_normal"
        head = ["normal", { stddev = 0.01 }]
        """,
    ),
    "general first": (
        {
            "*": "glorot_uniform",
            "Embedding": ("normal", {"stddev": 0.02}),
            "blocks.*.attn.output_proj": "zeros",
            "head": None,
        },
        """
        "*" = "glorot_uniform"
        Embedding = ["normal", { stddev = 0.02 }]  # a pair is a list
        "blocks.*.attn.output_proj" = "zeros"
        head = "keep"
        """,
    ),
    "arguments as a table": (
        {"Embedding": ("normal", {"stddev": 0.02, "mean": 0.1}), "Linear": ("orthogonal", {"gain": "relu"})},
        """
        [Embedding]
        name = "normal"
        stddev = 0.02
        mean = 0.1

        [Linear]
        name = "orthogonal"
        gain = "relu"
        """,
    ),
    "sequence": ({"MultiheadAttention Linear": "zeros"}, '"MultiheadAttention Linear" = "zeros"'),
    "glob": ({"**.mlp.**": "he_normal"}, '"**.mlp.**" = "he_normal"'),
    "weight and bias": (
        {"Linear": ("he_normal", "uniform_fan_in"), "Conv": ("ones", None)},
        """
        Linear = ["he_normal", "uniform_fan_in"]
        Conv = ["ones", "keep"]
        """,
    ),
    "roles": (
        {"RNNCell": {"weight": "glorot_uniform", "recurrent": "orthogonal", "bias": ("forget_gate", {"value": 1.0})}},
        """
        [RNNCell]
        weight = "glorot_uniform"
        recurrent = "orthogonal"
        bias = ["forget_gate", { value = 1.0 }]
        """,
    ),
    "a role kept": (
        {"Linear": {"weight": "zeros", "bias": None}},
        """
        ["Linear"]
        weight = "zeros"
        bias = "keep"
        """,
    ),
    "norms": (
        {"Norm": {"scale": "ones", "bias": "zeros"}},
        'Norm = { scale = "ones", bias = "zeros" }',
    ),
    "framework's own": ({"*": "default", "Norm": "default"}, '"*" = "default"\nNorm = "default"'),
    "scheme inside a scheme": (
        {"*": ("scaled", {"scheme": "he_normal", "factor": 0.3})},
        '"*" = ["scaled", { scheme = "he_normal", factor = 0.3 }]',
    ),
    "scheme with arguments inside": (
        {"Linear": ("scaled", {"scheme": ("orthogonal", {"gain": 2.0}), "factor": 0.3})},
        'Linear = { name = "scaled", scheme = ["orthogonal", { gain = 2.0 }], factor = 0.3 }',
    ),
    "restated axes": (
        {"qkv": ix.Scheme("glorot_uniform", axes={"weight": "(three o) i"}, sizes={"three": 3})},
        """
        [qkv]
        weight = "glorot_uniform"
        axes = { weight = "(three o) i" }
        sizes = { three = 3 }
        """,
    ),
}


def plain(rules):
    """Rules of Python as JSON says them."""
    return {selector: scheme.spec() if isinstance(scheme, ix.Scheme) else scheme for selector, scheme in rules.items()}


@pytest.mark.parametrize("name", RULES)
def test_rules_of_toml_are_the_rules_of_python(name, tmp_path):
    rules, text = RULES[name]
    expected = ix.plan(Net(), rules)
    path = tmp_path / "rules.toml"
    path.write_text(text, "utf-8")
    for source in (text, path, str(path)):
        loaded = ix.load_rules(source)
        assert list(loaded) == list(rules)
        assert ix.plan(Net(), loaded) == expected


@pytest.mark.parametrize("name", RULES)
def test_rules_of_json_are_the_rules_of_python(name, tmp_path):
    rules, _ = RULES[name]
    text = json.dumps(plain(rules), indent=1)
    path = tmp_path / "rules.json"
    path.write_text(text, "utf-8")
    for source in (text, path):
        assert ix.plan(Net(), ix.load_rules(source)) == ix.plan(Net(), rules)


def test_the_last_rule_of_a_file_wins():
    loaded = ix.load_rules('head = "ones"\n"*" = "zeros"')
    with pytest.warns(ix.InitaxWarning, match='rule "head" decides nothing'):
        plan = ix.plan(Net(), loaded | {"qkv": "ones"})
    drawn = {draw.parameter.path: str(draw.initializer) for draw in plan.draws}
    assert (drawn["head.weight"], drawn["qkv.weight"]) == ("zeros", "ones")


def test_keep_is_a_word_of_files_only():
    with pytest.raises(ix.SchemeError, match='no scheme is called "keep"'):
        ix.plan(Net(), {"head": "keep"})


SCHEMES = "<every scheme>"

# name → text, the error, its whole text
ERRORS = {
    "misspelled scheme in a role": (
        '# the base\n"*" = "he_normal"\n\n[RNNCell]\nweight = "glorot_uniform"\n# a remark\nbias = "forgt_gate"',
        ix.SchemeError,
        f"""\
the text, line 7, key "bias": rule "RNNCell": no scheme is called "forgt_gate".
  did you mean "forget_gate"?
  schemes: {SCHEMES}""",
    ),
    "misspelled scheme": (
        'Linear = "he_normal"\nConv = "he_norml"',
        ix.SchemeError,
        f"""\
the text, line 2: rule "Conv": no scheme is called "he_norml".
  did you mean "he_normal" or "he_uniform" or "normal"?
  schemes: {SCHEMES}""",
    ),
    "misspelled argument in a table": (
        '[Linear]\nname = "normal"\nstdev = 0.1',
        ix.SchemeError,
        """\
the text, line 3, key "stdev": rule "Linear": normal has no argument "stdev".
  arguments: stddev, mean
  did you mean "stddev"?""",
    ),
    "argument of the wrong type": (
        '[Linear]\nname = "normal"\n\nstddev = "0.1"',
        ix.SchemeError,
        """\
the text, line 4, key "stddev": rule "Linear": normal: stddev must be a number, not '0.1'.""",
    ),
    "misspelled argument in JSON": (
        '{\n "Conv": ["normal", {"stddev": 0.1}],\n "Linear": ["normal", {\n  "mean": 0,\n  "stdev": 0.1\n }]\n}',
        ix.SchemeError,
        """\
the text, line 5, key "stdev": rule "Linear": normal has no argument "stdev".
  arguments: stddev, mean
  did you mean "stddev"?""",
    ),
    "path without quotes": (
        '"*" = "he_normal"\nblocks.0.attn = "zeros"',
        ix.SchemeError,
        """\
the text, line 2, key "0": rule "blocks": a scheme has no role "0".
  roles: weight, recurrent, bias, embedding, scale; also axes, sizes, or name with arguments
  a path is written with quotes: "blocks.0.attn\"""",
    ),
    "table without quotes": (
        '[layers.0]\nweight = "zeros"',
        ix.SchemeError,
        """\
the text, line 1, key "0": rule "layers": a scheme has no role "0".
  roles: weight, recurrent, bias, embedding, scale; also axes, sizes, or name with arguments
  a path is written with quotes: "layers.0\"""",
    ),
    "index for an array": (
        '"*" = "he_normal"\nlayers.0 = "zeros"',
        ix.SchemeError,
        """\
the text, line 2, key "0": rule "layers": a scheme has no role "0".
  roles: weight, recurrent, bias, embedding, scale; also axes, sizes, or name with arguments
  a path is written with quotes: "layers.0\"""",
    ),
    "misspelled scheme of an array": (
        '[Attn]\nwq = "zeros"\nwo = "zeroes"',
        ix.SchemeError,
        """\
the text, line 3, key "wo": rule "Attn": array "wo": no scheme is called "zeroes".
  did you mean "zeros" or "ones"?
  schemes: """
        + ", ".join(ix.schemes.names()),
    ),
    "misspelled argument of an array in JSON": (
        '{\n "Attn": {\n  "wq": "keep",\n  "wo": ["normal", {"stdev": 0.1}]\n }\n}',
        ix.SchemeError,
        """\
the text, line 4, key "wo.stdev": rule "Attn": array "wo": normal has no argument "stdev".
  arguments: stddev, mean
  did you mean "stddev"?""",
    ),
    "malformed axes": (
        '[qkv]\nweight = "he_normal"\naxes = { weight = "(three o i" }',
        ix.AxesError,
        """\
the text, line 1: rule "qkv": axis pattern "(three o i" is malformed: Imbalanced parentheses in expression: "(three o i"
  write it as in "o i", "(g o) i ..." or "... i o\"""",
    ),
    "number for a scheme": (
        'Linear = "he_normal"\nConv = 0.5',
        ix.SchemeError,
        """\
the text, line 2: rule "Conv": 0.5 (float) is not a scheme.
  a fixed value is ("constant", {"value": 0.5})""",
    ),
    "no TOML": (
        'Linear = "he_normal"\nConv = he_normal\n',
        ix.RuleError,
        """\
the text, line 2: this is not TOML: Invalid value.
  Conv = he_normal
  write Conv = "he_normal\"""",
    ),
    "no quotes in TOML": (
        '* = "he_normal"\n',
        ix.RuleError,
        """\
the text, line 1: this is not TOML: Invalid statement.
  * = "he_normal"
  write "*" = "he_normal\"""",
    ),
    "a table around all rules": (
        '[rules]\nLinear = "he_normal"\n',
        ix.SchemeError,
        """\
the text, line 2, key "Linear": rule "rules": a scheme has no role "Linear".
  roles: weight, recurrent, bias, embedding, scale; also axes, sizes, or name with arguments
  rules stand at the top, with no table [rules] around them""",
    ),
    "twice in TOML": (
        'Linear = "he_normal"\nLinear = "zeros"\n',
        ix.RuleError,
        """\
the text, line 2: this is not TOML: Cannot overwrite a value.
  Linear = "zeros\"""",
    ),
    "no JSON": (
        '{\n "Linear": "he_normal",\n "Conv": he_normal\n}',
        ix.RuleError,
        """\
the text, line 3: this is not JSON: Expecting value.
  "Conv": he_normal""",
    ),
    "twice in JSON": (
        '{\n "Linear": "he_normal",\n "Conv": {"weight": "ones"},\n "Linear": "zeros"\n}',
        ix.RuleError,
        """\
the text, line 4: this is not JSON: "Linear" stands there twice.
  "Linear": "zeros\"""",
    ),
    "nothing": ("", ix.RuleError, 'the text holds no rules.\n  "Linear" = "he_normal"'),
    "nothing in JSON": ("{}", ix.RuleError, 'the text holds no rules.\n  {"Linear": "he_normal"}'),
    "a scheme for rules": (
        "he_normal",
        ix.RuleError,
        """\
rules are loaded from a file .toml or .json, or from a text, not from 'he_normal'.
  ix.load_rules("rules.toml")""",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_whole_text_of_every_error(name):
    text, error, expected = ERRORS[name]
    with pytest.raises(error) as raised:
        ix.load_rules(text)
    schemes = ", ".join(ix.schemes.names())
    assert str(raised.value) == expected.replace(SCHEMES, schemes)
    assert type(raised.value) is error


def test_an_error_of_a_file_names_the_file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text("\nLinear = 1\n")
    with pytest.raises(ix.SchemeError) as raised:
        ix.load_rules(path)
    assert str(raised.value).startswith(f'{path}, line 2: rule "Linear": 1 (int) is not a scheme.')


def test_a_file_of_another_format_is_refused():
    with pytest.raises(ix.RuleError) as raised:
        ix.load_rules(Path("rules.yaml"))
    assert str(raised.value) == "rules are loaded from a file .toml or .json, not 'rules.yaml'."
