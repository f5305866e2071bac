"""Residual streams read off the forward pass: which weights end their branches, and how many there are."""

import functools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initax as ix
from initax._trace import _infer
from initax._trace._branch_weights import Inside
from initax._trace._branches import Search
from initax._trace._flow import flow_of
from initax._trace._replay import Player
from initax._trace._residual import residuals
from tests.residual_models import MODELS
from tests.residual_networks import FRAMEWORKS, LAST, NETWORKS


@pytest.fixture(autouse=True)
def _ranks_are_promoted():
    """The models add biases as people do."""
    with jax.numpy_rank_promotion("allow"):
        yield


BY_NAME = {each.name: each for each in MODELS}
NORMAL = ("normal", {"stddev": 0.02})


def forward(model):
    return lambda arrays, *inputs: model.forward(arrays, *inputs)


def surveyed(model):
    return ix.survey(model.arrays, inputs=model.inputs, forward=forward(model))


def parameters(survey):
    return {each.path: each for layer in survey.layers for each in layer.parameters}


@pytest.mark.parametrize("model", MODELS, ids=lambda each: each.name)
def test_streams_and_ends_are_those_by_hand(model):
    survey = surveyed(model)
    found = parameters(survey)
    streams = survey.residual_streams
    assert tuple(each.branches for each in streams) == model.counts
    ends = {path: found[path].residual.branches for each in streams for path in each.ends}
    assert ends == model.ends
    assert {path for path, each in found.items() if each.residual.part == "scores"} == model.scores
    assert {path: found[path].residual.layers for path in model.layers} == model.layers


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.slow(one_in=5)
def test_networks_of_three_frameworks_have_the_ends_that_are_listed(name, framework):
    network = NETWORKS[name]
    model, call = FRAMEWORKS[framework](network.architecture, *network.inputs)
    survey = ix.survey(model, **call)
    found = parameters(survey)
    assert tuple(each.branches for each in survey.residual_streams) == network.counts
    ends = {}
    for path in (path for each in survey.residual_streams for path in each.ends):
        parts = path.removeprefix("params.").removeprefix("layers.").split(".")
        if len(parts) == 3:  # within an attention of the framework's
            assert parts[1] == LAST[framework]
        (ends[parts[0]],) = found[path].residual.branches
    assert ends == network.ends


def test_streams_are_looked_for_once_and_only_where_somebody_asks(monkeypatch):
    asked = []

    def counted(closed, paths):
        asked.append(paths)
        return residuals(closed, paths)

    monkeypatch.setattr(_infer, "residuals", counted)
    model = BY_NAME["block"]
    survey, again = surveyed(model), surveyed(model)
    plan = ix.plan(survey, {"*": NORMAL})
    plan.lower()
    assert not asked
    assert "end of branch 1 of" in str(plan)
    assert survey.residual_streams == survey.residual_streams
    assert len(asked) == 1
    assert survey.layers == again.layers
    assert len(asked) == 2
    pending = next(iter(parameters(surveyed(model)).values()))
    known = next(iter(parameters(survey).values()))
    assert pickle.loads(pickle.dumps(pending)) == known
    assert (hash(pending.residual), repr(pending)) == (hash(known.residual), repr(known))
    with pytest.raises(AttributeError, match="'Residual' object has no attribute 'branch'"):
        _ = pending.residual.branch


# What the sums themselves say, with numbers.


def randomized(tree, seed=0):
    """Random numbers of the shapes of a tree; whole numbers are small."""
    leaves, structure = jax.tree.flatten(tree)
    random = np.random.default_rng(seed)

    def one(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(seed)
        if jnp.issubdtype(leaf.dtype, np.integer):
            return jnp.asarray(random.integers(0, 3, leaf.shape), leaf.dtype)
        return jnp.asarray(random.normal(size=leaf.shape) / 2, leaf.dtype)

    return jax.tree.unflatten(structure, [one(leaf) for leaf in leaves])


LINEAR = (
    "block", "gpt2", "vit with layer scale", "post norm", "parallel", "encoder and decoder", "bottlenecks", "highway",
    "experts", "dropout, masks and a choice", "modulated", "queries", "values of the first layer", "no output weight",
    "fixup",
)  # fmt: skip
"""Models whose sums can be looked at one by one, with no norm behind the ends, which are no longer linear there."""


def branches_of(model):
    """The contents of each branch, by name, and a function that gives its value, and the sum, for other arrays."""
    names = list(model.arrays)
    closed = jax.make_jaxpr(lambda values, inputs: model.forward(dict(zip(names, values, strict=True)), *inputs))(
        list(model.arrays.values()), list(model.inputs)
    )
    flow = flow_of(closed, len(names))
    found = Search(flow).accepted()
    by_sum = {each.sum.number: each for each in found}
    places = [each.sum.place for each in found]
    inputs = jax.tree.leaves(randomized(model.inputs, 7))
    arrays = randomized(model.arrays)

    @jax.jit
    def played(values):
        player = Player(lambda at, operands, result, state: (result, state, (operands, result)), places)
        player.play(closed, [*values, *inputs])
        return player.emitted

    def sum_of(each, **other):
        side = [operand for operand, _ in each.sum.operands].index(each.branch)
        operands, result = played([other.get(name, arrays[name]) for name in names])[each.sum.place]
        return np.asarray(operands[side]), np.asarray(result)

    return arrays, names, [(each, Inside(each, by_sum).contents()) for each in found], sum_of


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.slow(one_in=5)
def test_a_stream_gains_exactly_what_its_ends_put_out(name):
    """Without its ends a branch is zero, with each alone it is not, and the sum is linear in them and in no other."""
    model = BY_NAME[name]
    arrays, names, branches, sums = branches_of(model)
    change = randomized(model.arrays, 1)
    seen = set()
    for each, contents in branches:
        sum_of = functools.partial(sums, each)
        ends = {names[at] for at in contents.ends}
        seen |= ends

        # Biases behind the ends are zero with them; a scale of zero would hide everything.
        behind = {names[at] for at in contents.vectors}
        biases = {name for name in behind if name.endswith(("bias", ".shift"))}
        nothing = {name: jnp.zeros_like(arrays[name]) for name in ends | biases}
        assert np.abs(sum_of(**nothing)[0]).max() < 1e-6
        for end in ends:
            assert np.abs(sum_of(**nothing | {end: arrays[end]})[0]).max() > 1e-4

        def moved(weights, factor):
            return {name: arrays[name] + factor * change[name] for name in weights}

        start, total = sum_of()
        once, new_total = sum_of(**moved(ends, 1))
        twice, _ = sum_of(**moved(ends, 2))
        close = {"rtol": 1e-3, "atol": 1e-5 * np.abs(twice).max()}
        np.testing.assert_allclose(twice - start, 2 * (once - start), **close)
        np.testing.assert_allclose(new_total - total, once - start, **close)
        for weight in (names[at] for at in contents.inner):
            first, second = (sum_of(**moved([weight], factor))[0] - start for factor in (1, 2))
            if np.allclose(second, 2 * first, rtol=1e-3, atol=1e-4):
                # The branch is linear in it too, as in values, but a weight is behind it: without that it does nothing.
                assert np.abs(sum_of(**nothing | moved([weight], 1))[0]).max() < 1e-6
    assert seen == set(model.ends)


@pytest.mark.parametrize("name", ["ts mixer", "functions behind the ends"])
def test_a_branch_behind_relu_is_multiplied_if_its_ends_and_their_biases_are(name):
    """By any positive number; and by none if one of them is not."""
    arrays, names, branches, sum_of = branches_of(BY_NAME[name])
    for each, contents in branches:
        biases = {names[at] for at in contents.vectors if names[at].endswith("bias")}
        arrays_of_end = {names[at] for at in contents.ends} | biases
        assert not contents.unended
        before, _ = sum_of(each)
        halved, _ = sum_of(each, **{end: 0.5 * arrays[end] for end in arrays_of_end})
        np.testing.assert_allclose(halved, 0.5 * before, rtol=1e-4, atol=1e-5)
        for left in arrays_of_end:
            others = {end: 0.5 * arrays[end] for end in arrays_of_end - {left}}
            assert np.abs(sum_of(each, **others)[0] - 0.5 * before).max() > 1e-3


def test_a_branch_that_no_weight_ends_is_named_and_counts():
    survey = surveyed(BY_NAME["half of the ends"])
    residual = parameters(survey)["a"].residual
    assert (survey.residual_streams[0].branches, survey.residual_streams[0].ends) == (4, ("b",))
    assert (str(residual), residual.part) == ("branches 1, 3 of 4", "inner")
    (text,) = residual.without_end
    assert re.sub(r"\d+\)", "LINE)", text) == "a: a function that is not linear (residual_models.py:LINE)"


def block(p, x):
    return x + jax.nn.relu(x @ p["up"]) @ p["down"]


LOOPS = {
    "end of branch ? of 100000": lambda p, x: jax.lax.fori_loop(0, 100_000, lambda _, x: block(p, x), x),
    "end of branch 1 of an unknown number": lambda p, x: jax.lax.while_loop(
        lambda x: x.sum() < 3, lambda x: block(p, x), x
    ),
    "end of branches 1 to 3 of 3": lambda p, x: jax.lax.while_loop(
        lambda state: state[0] != 0, lambda state: (state[0] - 1, block(p, state[1])), (3, x)
    )[1],
    "end of branch 1 of 1": lambda p, x: block(p, jax.lax.fori_loop(5, 3, lambda _, x: block(p, x), x)),
}


@pytest.mark.parametrize("text", LOOPS)
def test_a_loop_adds_as_many_branches_as_it_has_steps(text):
    inputs = jax.ShapeDtypeStruct((5, 4), jnp.float32)
    survey = ix.survey({"up": (4, 8), "down": (8, 4)}, inputs=inputs, forward=LOOPS[text])
    (down,) = (array for layer in survey.layers for array in layer.parameters if array.path == "down")
    assert str(down.residual) == text
