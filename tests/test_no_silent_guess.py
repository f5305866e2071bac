"""No silent guess: what a plan draws in a container is a parameter, with the role and fans of the model it comes from.

The containers are random; `tests/container_models.py` says what each array really is. Keeping an array is always right,
so a table of floors says what share of the weights must be drawn nevertheless. More cases than run here:
`INITAX_CASES=1000 pytest tests/test_no_silent_guess.py`, or `python -m tests.containers`.
"""

import dataclasses
import os
import warnings
from types import SimpleNamespace

import jax
import pytest
from flax import nnx

import initax as ix
from initax._model._parameter import Fans
from tests.container_models import FAMILIES, LINEN, NNX, Leaf, linen_piece, linen_variables, matrix, nnx_piece, state
from tests.containers import RULES, arrays, case, fault, judged, planned, share_drawn, truth_of, truths, violations

CASES = int(os.environ.get("INITAX_CASES", "40"))
"""Cases of each family; every other one is a checkpoint with an optimizer's state."""
KINDS = ("abstract", "abstract", "abstract", "numpy", "jax")


def made(family, seed):
    return case(family, seed, with_optimizer=seed % 2 == 1)


@pytest.mark.parametrize("seed", range(CASES))
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow(one_in=5)
def test_what_is_drawn_is_what_it_is_drawn_as(family, seed):
    one = made(family, seed)
    which = tuple(RULES)[seed // 2 % len(RULES)]
    wrong = judged(one.tree, RULES[which], KINDS[seed % len(KINDS)])
    lines = [f"{each.kind}\n    {each.text}" for each in wrong]
    assert not wrong, "\n".join([f"{one.form}, {which}", *lines])


# family → share of the weights that are drawn with their true fans: by itself, and in a checkpoint
FLOORS = {
    "linen": (0.65, 0.4),
    "nnx": (0.32, 0.4),
    "nnx-raw": (0.32, 0.25),
    "haiku": (0.65, 0.42),
    "pairs": (0.65, 0.7),
    "stax": (0.85, 0.7),
    "keras": (0.6, 0.5),
    "mlp": (0.36, 0.45),
    "rnn": (0.55, 0.35),
    "transformer": (0.35, 0.33),
    "convs": (0.55, 0.3),
    "dataclasses": (0.5, 0.25),
}
"""Nothing is asked of stacks and of what has its outputs first: few of these can be read without a forward pass."""


@pytest.mark.parametrize("family", FLOORS)
def test_what_is_readable_is_drawn(family):
    floors = FLOORS[family]
    shares = tuple(
        share_drawn((case(family, seed, with_optimizer=opt).tree for seed in range(16)), RULES["every role"])
        for opt in (False, True)
    )
    assert shares[0] >= floors[0], f"by itself: {shares[0]:.2f}"
    assert shares[1] >= floors[1], f"in a checkpoint: {shares[1]:.2f}"


# The truth is true, and what is false is found


@pytest.mark.parametrize("name", LINEN)
def test_the_truth_about_a_module_of_linen_is_what_the_module_itself_says(name):
    i, o = 7, 5
    row = LINEN[name]
    params, stats = linen_piece(name, i, o)
    every = truths({"params": params} | ({"batch_stats": stats} if stats else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ix.InitaxWarning)
        found = ix.layers(linen_variables(name, i, o), module=row.module(i, o), inputs=row.inputs(i, o))
    told = [each for layer in found for each in layer.parameters]
    assert {each.path for each in told} == {path.removeprefix("params.") for path in every}
    for parameter in told:
        leaf = truth_of(parameter.path, every)
        wrong = fault(leaf, SimpleNamespace(parameter=parameter, initializer="default"), ())
        assert wrong is None or (wrong == "wrong fan_out" and leaf.grouped == parameter.fan_out), wrong


@pytest.mark.parametrize("name", NNX)
def test_the_truth_about_a_module_of_nnx_is_what_the_module_itself_says(name):
    every = truths(nnx_piece(name, 7, 5))
    module = nnx.eval_shape(lambda: NNX[name][0](7, 5, nnx.Rngs(0)))
    for parameter in (each for layer in ix.layers(module) for each in layer.parameters):
        leaf = truth_of(parameter.path, every)
        assert leaf is not None, parameter.path
        if parameter.reserved:
            assert leaf.role == "other"
        elif leaf.role == "state":
            assert parameter.role == "state"
        else:
            assert fault(leaf, SimpleNamespace(parameter=parameter, initializer="default"), ()) is None


TREE = {
    "model": {"w": matrix("w", 7, 5), "b": Leaf(shape=(5,), role="bias", kind="b", fan_in=7)},
    "norm": {
        "scale": Leaf(shape=(5,), role="scale", kind="scale"),
        "offset": Leaf(shape=(5,), role="bias", kind="offset"),
    },
    "table": Leaf(shape=(11, 5), role="embedding", kind="table", fan_in=5, fan_out=11),
    "mu": state("mu", (7, 5)),
    "mean": state("mean", (5,), start="zeros"),
}
"""A container whose plans are written by hand below."""

# what the plan says → what is found
FALSE = {
    "a moment as a weight": (("mu", "weight", 7, 5, "he_normal"), "mu: drawn"),
    "a moment as state": (("mu", "state", None, None, "zeros"), "mu: drawn"),
    "a mean that starts with ones": (("mean", "state", None, None, "ones"), "mean: drawn"),
    "a mean as a bias": (("mean", "bias", None, None, "zeros"), "mean: drawn"),
    "a weight the other way round": (("model.w", "weight", 5, 7, "he_normal"), "w: wrong fan_in"),
    "a weight of another fan_out": (("model.w", "weight", 7, 10, "he_normal"), "w: wrong fan_out"),
    "a weight without fans": (("model.w", "weight", None, None, "he_normal"), "w: wrong fan_in"),
    "a weight as a bias": (("model.w", "bias", 7, 5, "zeros"), "w: drawn as bias"),
    "a bias as a weight": (("model.b", "weight", 1, 5, "he_normal"), "b: drawn as weight"),
    "a bias as a scale": (("model.b", "scale", None, None, "ones"), "b: drawn as scale"),
    "a bias of another weight": (("model.b", "bias", 5, 7, "zeros"), "b: fan_in of another weight"),
    "a scale as a bias": (("norm.scale", "bias", None, None, "zeros"), "scale: drawn as bias"),
    "an array of no role": (("norm.scale", None, None, None, "he_normal"), "scale: drawn as None"),
    "a table the other way round": (("table", "weight", 11, 5, "he_normal"), "table: wrong fan_in"),
    "no array at all": (("model.c", "weight", 7, 5, "he_normal"), "a path that no array has"),
}
TRUE = (
    ("model.w", "weight", 7, 5, "he_normal"),
    ("model.b", "bias", 7, 5, "zeros"),
    ("norm.scale", "scale", None, None, "ones"),
    ("norm.offset", "bias", None, None, "zeros"),
    ("table", "embedding", 5, 11, "he_normal"),
    ("mean", "state", None, None, "zeros"),
)


def written(*rows):
    """Return a plan of rows written by hand."""
    every = truths(TREE)
    draws = [
        SimpleNamespace(
            parameter=SimpleNamespace(path=path, role=role, fan_in=fan_in, fan_out=fan_out, shape=shape, default=None),
            initializer=initializer,
        )
        for path, role, fan_in, fan_out, initializer in rows
        for shape in [every[path].shape if path in every else (7, 5)]
    ]
    return SimpleNamespace(draws=draws, notes=())


@pytest.mark.parametrize("name", FALSE)
def test_a_false_plan_is_found_out(name):
    row, kind = FALSE[name]
    assert [each.kind for each in violations(TREE, written(*TRUE, row))] == [kind]


def test_a_true_plan_is_not():
    assert violations(TREE, written(*TRUE)) == []


def test_statistics_that_are_made_stay():
    assert [each.kind for each in violations(TREE, written(*TRUE), abstract=False)] == ["mean: drawn"]


def test_a_real_plan_with_one_number_changed_is_found_out():
    tree = {"w": matrix("w", 7, 5), "b": Leaf(shape=(5,), role="bias", kind="b", fan_in=7)}
    plan = planned(arrays(tree), RULES["one scheme"])
    assert violations(tree, plan) == []
    first, *others = plan.draws
    changed = dataclasses.replace(first, parameter=dataclasses.replace(first.parameter, fans=Fans((9, 5), (9, 5))))
    (found,) = violations(tree, SimpleNamespace(draws=[changed, *others], notes=()))
    assert found.kind == ("w: wrong fan_in" if first.parameter.role == "weight" else "b: fan_in of another weight")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cases_of_a_family_are_many_and_the_same_each_time(family):
    def shapes(seed):
        tree = made(family, seed).tree
        return [(path, leaf.shape) for path, leaf in truths(tree).items()], jax.tree.structure(arrays(tree))

    first = [shapes(seed) for seed in range(12)]
    assert first == [shapes(seed) for seed in range(12)]
    assert len({str(each) for each in first}) > 8
