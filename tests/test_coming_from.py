"""What the page for newcomers says of other libraries' names: every scheme has the law beside it, every name exists."""

import ast
import inspect
import math
import re
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy import stats

import initax as ix

PAGE = (Path(__file__).parent.parent / "docs/coming_from.md").read_text("utf-8")
FAN_IN, FAN_OUT = 512, 256
CELLS = re.compile(r"(?<!\\)\|")
SPAN = re.compile(r"`([^`]+)`")


def tables():
    """Heads and rows of the tables of the page."""
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in CELLS.split(line)[1:-1]] for line in block.splitlines()]
        yield head, rows


SCHEMES = {
    f"{head[0].strip('`')}-{row[0].split('`')[1]}": row[1:]
    for head, rows in tables()
    if head[1] == "scheme"
    for row in rows
}
NAMES = [row[:2] for head, rows in tables() if head[1] == "initax" for row in rows]


def off(sample, law):
    """How far a sample is from a law of scipy: Kolmogorov and Smirnov's distance, in units of a bound at 1e-6."""
    return stats.kstest(sample, law.cdf).statistic / (2.693 / math.sqrt(sample.size))


def is_law(law, weight, std):
    """Whether a weight (outputs, inputs) has the law that the page names."""
    entries = weight.ravel()
    uniform = stats.uniform(-math.sqrt(3) * std, 2 * math.sqrt(3) * std)
    cut = stats.truncnorm(-2, 2, scale=std / 0.8796256610342398)
    gram = weight @ weight.T if weight.shape[0] < weight.shape[1] else weight.T @ weight
    nonzero = entries[entries != 0]
    laws = {
        "normal": lambda: off(entries, stats.norm(0, std)) < 1,
        "truncated normal": lambda: off(entries, cut) < 1,
        "uniform": lambda: off(entries, uniform) < 1,
        "from zero": lambda: off(entries, stats.uniform(0, math.sqrt(12) * std)) < 1,
        "orthogonal": lambda: np.allclose(gram, np.eye(len(gram)) * std**2 * FAN_IN, atol=1e-4),
        "sparse": lambda: (
            set((weight == 0).sum(axis=1)) == {math.ceil(0.9 * FAN_IN)} and off(nonzero, stats.norm(0, std)) < 1
        ),
        "identity": lambda: np.array_equal(weight, np.eye(*weight.shape)),
        "constant": lambda: np.ptp(weight) == 0,
    }
    return laws[law]()


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.slow(one_in=7)
def test_a_scheme_has_the_law_beside_it(name, key):
    text, law, std = SCHEMES[name]
    scheme = eval(text.strip("`"), {"jax": jax})
    known = {"sqrt": math.sqrt, "max": max, "fan_in": FAN_IN, "fan_out": FAN_OUT}
    layer = eqx.nn.Linear(FAN_IN, FAN_OUT, key=key)
    weight = np.asarray(ix.reinit(layer, {"Linear": scheme}, key).weight, np.float64)
    assert is_law(law, weight, eval(std, known))
    if law in ("constant", "identity"):
        assert eval(std, known) == 0


@pytest.mark.parametrize(
    ("law", "right", "wrong", "std"),
    [
        ("normal", ("normal", {"stddev": 0.1}), ("truncated_normal", {"stddev": 0.1 / 0.87962566}), 0.1),
        ("truncated normal", "lecun_normal", "lecun_uniform", FAN_IN**-0.5),
        ("uniform", "lecun_uniform", "lecun_normal", FAN_IN**-0.5),
        ("from zero", ("uniform", {"scale": 1.0}), ("normal", {"stddev": 12**-0.5, "mean": 0.5}), 12**-0.5),
    ],
    ids=["normal", "truncated normal", "uniform", "from zero"],
)
@pytest.mark.slow(one_in=2)
def test_a_wrong_law_or_a_wrong_deviation_is_seen(law, right, wrong, std, key):
    """The test above can fail: five percent of deviation, or another law of the same deviation, is enough."""
    good, bad = (np.asarray(ix.draw(each, key, (FAN_OUT, FAN_IN), axes="o i"), np.float64) for each in (right, wrong))
    assert is_law(law, good, std)
    assert not is_law(law, good, 1.05 * std)
    assert not is_law(law, bad, std)


def exists(span):
    """Whether a span of code speaks of what is there: names resolve, calls take the arguments they are given."""
    model = eqx.nn.Sequential([eqx.nn.MLP(4, 4, 4, 1, key=jax.random.key(0))])
    where = {"ix": ix, "jax": jax, "model": model, "eqx": eqx}
    found = False
    for node in ast.walk(ast.parse(span, mode="eval")):
        if isinstance(node, ast.Attribute) and ast.unparse(node).split(".")[0] in where:
            eval(compile(ast.Expression(node), span, "eval"), where)
            found = True
        if isinstance(node, ast.Call):
            signature = inspect.signature(eval(compile(ast.Expression(node.func), span, "eval"), where))
            signature.bind_partial(*node.args, **{each.arg: each.value for each in node.keywords})
        if isinstance(node, ast.Constant) and node.value in ix.schemes.names():
            found = True
    return found


ARGUMENTS = {"in_size", "context_size", "activation", "context_activation"}
SELECTORS = {'"Linear"', '"**.attn.**"'}


@pytest.mark.parametrize(("old", "ours"), NAMES, ids=[old.replace("`", "") for old, _ in NAMES])
def test_every_name_exists(old, ours, key):
    spans = SPAN.findall(ours)
    assert bool(spans) == (ours != "nothing to say")
    for span in spans:
        if span in SELECTORS:
            model = {"attn": eqx.nn.MLP(4, 4, 4, 1, key=key)}
            assert len(ix.plan({"blocks": [model]}, {span.strip('"'): "zeros"})) == 4
        elif span in ARGUMENTS:
            assert span in inspect.signature(ix.convex.PICNN.__init__).parameters
        else:
            assert exists(span), span


@pytest.mark.parametrize("span", ["ix.nosuch", "ix.schemes.get2('x')", 'ix.Scheme(kernel="zeros")', "ix.plan().run"])
def test_a_name_that_does_not_exist_is_seen(span):
    with pytest.raises((AttributeError, TypeError)):
        exists(span)


def test_gains_are_what_the_page_says():
    assert round(ix.gain("tanh"), 4) == 1.5925
    assert ix.gain("relu") == pytest.approx(math.sqrt(2))
