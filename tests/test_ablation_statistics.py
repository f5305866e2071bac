"""Means, intervals, paired differences, tables and pictures of an ablation, against SciPy and closed forms."""

import math
import sys

import jax
import numpy as np
import pytest
import scipy.stats

import initax as ix
from initax._ablation._bootstrap import interval

KEYS = jax.random.split(jax.random.key(0), 8)
RNG = np.random.default_rng(5)

# Those with ties are multiples of powers of two, whose sums are exact: SciPy has no tolerance for equal means.
SAMPLES = {
    "normal": RNG.normal(size=10),
    "skewed": RNG.exponential(size=12),
    "four": np.array([0.25, 0.5, 1.0, 3.0]),
    "fractions": RNG.binomial(32, 0.9, size=16) / 32,
    "far from zero": 1e6 + RNG.normal(size=10),
}
RESAMPLES = 99_999


@pytest.mark.parametrize("confidence", [0.5, 0.95])
@pytest.mark.parametrize("name", SAMPLES)
def test_intervals_are_those_of_scipy(name, confidence):
    """Both ends agree with SciPy's BCa interval, up to a z-score of 4 of the noise that so many resamples leave."""
    values = SAMPLES[name]
    ours = interval(values, confidence=confidence, resamples=RESAMPLES)
    theirs = scipy.stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        method="BCa",
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(1),
        batch=10_000,
    ).confidence_interval
    # Two quantiles of a mean at level p differ by sqrt(2 p (1 - p) / resamples) / density, taken at a level twice as
    # far out as asked for, because the skewness moves it.
    level = (1 - confidence) / 4
    density = scipy.stats.norm.pdf(scipy.stats.norm.ppf(level))
    noise = math.sqrt(2 * level * (1 - level) / RESAMPLES) / density * values.std() / math.sqrt(len(values))
    np.testing.assert_allclose(ours, (theirs.low, theirs.high), rtol=0, atol=4 * noise)


def test_a_band_is_the_intervals_of_its_entries():
    values = RNG.normal(size=(9, 3, 300))
    low, high = interval(values)
    assert low.shape == high.shape == (3, 300)
    for place in ((0, 0), (1, 120), (2, 299)):
        np.testing.assert_allclose((low[place], high[place]), interval(values[:, *place]))


def test_an_interval_follows_shift_and_scale():
    values = SAMPLES["skewed"]
    low, high = interval(values)
    np.testing.assert_allclose(interval(3 - 2 * values), (3 - 2 * high, 3 - 2 * low), rtol=0.02)
    np.testing.assert_allclose(interval(1e-8 * values), (1e-8 * low, 1e-8 * high))


def test_intervals_of_known_width():
    """For many normal seeds the bootstrap's interval is the normal one, within a z-score of 4 of its own noise."""
    values = np.random.default_rng(3).normal(size=2000)
    low, high = interval(values)
    expected = scipy.stats.norm.interval(0.95, values.mean(), values.std() / math.sqrt(2000))
    # The density at the 2.5 % quantile is 0.058, so 9999 resamples know it up to sqrt(0.025 * 0.975 / 9999) / 0.058.
    noise = math.sqrt(0.025 * 0.975 / 9999) / 0.058 * values.std() / math.sqrt(2000)
    np.testing.assert_allclose((low, high), expected, rtol=0, atol=4 * noise)


@pytest.mark.parametrize(("seeds", "share"), [(5, 0.84), (10, 0.89), (20, 0.93)])
@pytest.mark.slow
def test_how_often_intervals_of_few_seeds_hold_the_mean(seeds, share):
    """The shares that the page on ablations names, within a z-score of 4 over 4000 columns and half a percent."""
    low, high = interval(np.random.default_rng(0).normal(size=(seeds, 4000)))
    held = np.mean((low < 0) & (high > 0))
    assert abs(held - share) < 0.005 + 4 * math.sqrt(share * (1 - share) / 4000)


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros((0, 3)), np.ones(1), np.array([1.0, np.nan, 2.0])], ids=repr)
def test_no_interval_where_there_is_none(values):
    for end in interval(values):
        assert np.shape(end) == values.shape[1:]
        assert np.isnan(end).all()


def test_the_interval_of_equal_numbers_is_the_number():
    assert interval(np.full(5, 0.1)) == (0.1, 0.1)


def run(scheme, seed, **metrics):
    return ix.Run(scheme=scheme, seed=seed, key=(0, seed), plan=scheme, metrics=metrics, error=None, seconds=0.0)


def failed(scheme, seed, error="ValueError: too large\nsecond line"):
    return ix.Run(scheme=scheme, seed=seed, key=(0, seed), plan=scheme, metrics={}, error=error, seconds=0.0)


def ablation(runs, baseline=None, names=("a", "b")):
    return ix.Ablation.of(runs, {name: {} for name in names}, KEYS, baseline)


SHARED = RNG.normal(size=8)
OWN = 0.01 * RNG.normal(size=8)


def paired():
    """Two schemes that share most of their noise, as they do where they see the same normals."""
    runs = [run("a", seed, loss=float(SHARED[seed])) for seed in range(8)]
    return ablation(runs + [run("b", seed, loss=float(SHARED[seed] + 0.1 + OWN[seed])) for seed in range(8)])


def test_the_difference_is_that_of_pairs():
    first, second = paired().summary("loss")
    assert (first.difference, first.difference_low, first.difference_high) == (0, 0, 0)
    np.testing.assert_allclose(second.difference, 0.1 + OWN.mean())
    np.testing.assert_allclose((second.difference_low, second.difference_high), interval(0.1 + OWN))
    assert second.difference_low > 0
    assert second.low < first.high  # unpaired, the two can't be told apart


def test_another_baseline_turns_the_sign():
    turned = ix.Ablation.of(paired().runs, paired().plans, KEYS, "b").summary("loss")
    np.testing.assert_allclose(turned[0].difference, -paired().summary("loss")[1].difference)


def test_statistics_are_the_same_each_time_and_follow_their_arguments():
    summary = paired().summary("loss")
    assert paired().summary("loss") == summary
    assert paired().summary("loss", seed=1) != summary
    wide = paired().summary("loss", confidence=0.99)[0]
    assert wide.low < summary[0].low < summary[0].high < wide.high
    with pytest.raises(ix.InitaxError, match=r"^confidence must be strictly between 0 and 1, not 95\.$"):
        paired().summary("loss", confidence=95)


def test_only_seeds_that_both_schemes_have_are_paired():
    runs = [run("a", 0, loss=1.0), failed("a", 1), run("a", 2, loss=3.0), run("b", 1, loss=9.0), run("b", 2, loss=4.0)]
    second = ablation(runs).summary("loss")[1]
    assert (second.runs, second.failed, second.mean, second.difference) == (2, 0, 6.5, 1.0)
    assert np.isnan(second.difference_low)


def test_the_table():
    curves = [
        run(name, seed, loss=float(10 * seed + place), curve=np.array([9.0, 5.0, place + seed]), image=np.ones((2, 2)))
        for place, name in enumerate("ab")
        for seed in range(2)
    ]
    lines = str(ablation([*curves, failed("b", 3)])).splitlines()
    assert [" ".join(line.split()) for line in lines if line.strip(" ─")] == [
        "loss",
        "scheme runs mean 95 % interval difference from a 95 % interval",
        "a 2 5 0 … 10",
        "b 2 6 1 … 11 +1 +1 … +1",
        "curve, last of 3",
        "scheme runs mean 95 % interval difference from a 95 % interval",
        "a 2 0.5 0 … 1",
        "b 2 1.5 1 … 2 +1 +1 … +1",
        "not in a table: image",
        "failed: 1 run",
        "b, seed 3: ValueError: too large",
    ]


def test_a_table_of_nothing_but_failures():
    text = str(ablation([failed(name, seed, "OSError") for name in "ab" for seed in range(8)]))
    assert text.splitlines()[0] == "failed: 16 runs"
    assert text.splitlines()[-1] == "  … 4 more"


# name → what is asked of which runs, the whole text of the error
ERRORS = {
    "a misspelled metric": (
        lambda: paired().values("los"),
        'no run has a metric "los".\n  metrics: loss\n  did you mean "loss"?',
    ),
    "a metric where every run failed": (
        lambda: ablation([failed("a", 0)]).summary("loss"),
        'no run has a metric "loss".\n  every run failed',
    ),
    "curves of different lengths": (
        lambda: ablation([run("a", 0, c=np.ones(3)), run("a", 1, c=np.ones(4))]).values("c"),
        'runs have the metric "c" in different shapes: (3,), (4,).',
    ),
    "a picture of matrices": (
        lambda: ablation([run("a", 0, image=np.ones((2, 2)))]).plot("image"),
        '"image" has 2 axes; plot() shows numbers and curves.',
    ),
    "a picture of nothing": (
        lambda: ablation([failed("a", 0)]).plot(),
        "plot() finds no metric to show: every run failed, or returned larger arrays.",
    ),
    "an unknown baseline": (
        lambda: ablation([], "c"),
        'baseline: no scheme is called "c".\n  schemes: a, b',
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_whole_text_of_every_error(name):
    do, expected = ERRORS[name]
    with pytest.raises(ix.InitaxError) as raised:
        do()
    assert str(raised.value) == expected


def test_the_picture_shows_means_and_intervals():
    runs = [
        run(
            name, seed, loss=float(SHARED[seed] + place), curve=np.exp(SHARED[seed] + np.arange(5.0)), m=np.ones((2, 2))
        )
        for place, name in enumerate("ab")
        for seed in range(8)
    ]
    made = ablation(runs)
    figure = made.plot()
    points, curves = figure.axes
    assert (points.get_title(), curves.get_title()) == ("loss", "curve")
    for place, summary in enumerate(made.summary("loss")):
        bar, point = points.lines[2 * place : 2 * place + 2]
        np.testing.assert_allclose(bar.get_xdata(), (summary.low, summary.high))
        np.testing.assert_allclose(point.get_xdata(), summary.mean)
    assert [text.get_text() for text in points.get_yticklabels()] == ["a", "b"]
    for summary, line, band in zip(made.summary("curve"), curves.lines, curves.collections, strict=True):
        np.testing.assert_allclose(line.get_ydata(), summary.mean)
        edges = band.get_paths()[0].vertices
        np.testing.assert_allclose((edges[:, 1].min(), edges[:, 1].max()), (summary.low.min(), summary.high.max()))
    assert (points.get_xscale(), curves.get_yscale()) == ("linear", "log")
    figure.canvas.draw()


def test_a_picture_with_runs_that_diverged():
    """What is not finite leaves a gap, and nothing warns."""
    curve = np.array([1.0, np.inf, np.nan])
    runs = [run("a", seed, curve=curve if seed else np.ones(3), loss=float(curve[seed])) for seed in range(2)]
    ablation([*runs, run("b", 0, curve=np.ones(3), loss=1.0)]).plot().canvas.draw()


def test_curves_of_different_lengths_are_left_out():
    runs = [run("a", seed, c=np.ones(3 + seed), loss=1.0) for seed in range(2)]
    assert "not in a table: c" in str(ablation(runs))
    assert [panel.get_title() for panel in ablation(runs).plot().axes] == ["loss"]


def test_one_metric_alone():
    assert [panel.get_title() for panel in paired().plot("loss").axes] == ["loss"]


def test_a_picture_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ix.InitaxError) as raised:
        paired().plot()
    assert str(raised.value) == "plot() draws with matplotlib, which is missing.\n  pip install initax[plot]"
