"""Comparing two models on the same samples: laws of the intervals, their coverage, worked numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from worker.measure.comparison import Pair, compare, read_answers
from worker.measure.intervals import compute_mcnemar_p
from worker.measure.metrics import METRICS, Answers

CLASSIFIED = ("accuracy", "f1", "mcc")


def classify(n: int, *, accuracy: float, seed: int, classes: int = 4) -> Answers:
    """The same truth for every seed, answered right with a probability."""
    truth = np.random.default_rng(0).integers(0, classes, n)
    generator = np.random.default_rng(seed)
    prediction = np.where(generator.random(n) < accuracy, truth, generator.integers(0, classes, n))
    records = {"prediction": torch.from_numpy(prediction), "truth": torch.from_numpy(truth)}
    return read_answers(records, classes=classes)


def model_language(n: int, *, harder: float, seed: int) -> Answers:
    """Windows of some tokens; how hard each is, is the same for every seed."""
    base = np.random.default_rng(0)
    tokens, hardness = base.integers(50, 100, n), base.normal(3.0, 0.5, n)
    noise = np.random.default_rng(seed).normal(0.0, 0.05, n)
    nll = tokens * (hardness + harder + noise)
    return read_answers({"nll": torch.from_numpy(nll), "tokens": torch.from_numpy(tokens)}, classes=0)


def regress(n: int, *, noise: float, seed: int) -> Answers:
    truth = np.random.default_rng(0).normal(size=n)
    prediction = truth + noise * np.random.default_rng(seed).normal(size=n)
    records = {"prediction": torch.from_numpy(prediction), "truth": torch.from_numpy(truth)}
    return read_answers(records, classes=1)


def make_pair(name: str, n: int, *, seed: int = 1) -> Pair:
    """A dense model and a worse one."""
    if name == "perplexity":
        return Pair(model_language(n, harder=0.0, seed=seed), model_language(n, harder=0.1, seed=seed + 1))
    if name == "mse":
        return Pair(regress(n, noise=0.1, seed=seed), regress(n, noise=0.3, seed=seed + 1))
    return Pair(classify(n, accuracy=0.9, seed=seed), classify(n, accuracy=0.7, seed=seed + 1))


def compare_one(name: str, pair: Pair):
    (metric,) = compare([METRICS[name]], pair, split="test", pruned=pair.final)
    return metric


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 120), st.integers(0, 1_000))
def test_every_interval_holds_its_number(name, n, seed):
    metric = compare_one(name, make_pair(name, n, seed=seed))
    assert metric.baseline_ci95[0] <= metric.baseline <= metric.baseline_ci95[1]
    assert metric.final_ci95[0] <= metric.final <= metric.final_ci95[1]
    assert metric.drop_ci95[0] <= metric.drop <= metric.drop_ci95[1]
    assert metric.drop == pytest.approx(metric.baseline - metric.final)
    assert metric.n == n


@pytest.mark.parametrize("name", METRICS)
def test_a_model_compared_with_itself_has_lost_exactly_nothing(name):
    dense = make_pair(name, 200).baseline
    metric = compare_one(name, Pair(dense, dense))
    low, high = metric.drop_ci95
    assert (metric.drop, low) == (0.0, -high)
    # Of right and wrong answers few samples without a change say little of the next ones.
    assert (high > 0.0) is (name == "accuracy")
    assert metric.p_value in (None, 1.0)


@pytest.mark.parametrize("name", METRICS)
def test_swapping_the_models_turns_the_drop_around(name):
    pair = make_pair(name, 300)
    there, back = compare_one(name, pair), compare_one(name, Pair(pair.final, pair.baseline))
    assert back.drop == pytest.approx(-there.drop)
    low, high = there.drop_ci95
    assert back.drop_ci95 == pytest.approx((-high, -low), abs=0.1 * (high - low))


@pytest.mark.parametrize("name", METRICS)
def test_comparing_again_gives_the_same_numbers_alone_and_together(name):
    pair = make_pair(name, 300)
    assert compare_one(name, pair) == compare_one(name, pair)
    if name in CLASSIFIED:
        together = compare([METRICS[one] for one in CLASSIFIED], pair, split="test", pruned=pair.final)
        assert compare_one(name, pair) in together


@pytest.mark.parametrize("name", METRICS)
def test_a_clearly_worse_model_is_found_to_be_one(name):
    metric = compare_one(name, make_pair(name, 2_000))
    worse = metric.drop if metric.higher_is_better else -metric.drop
    assert worse > 0
    assert metric.drop_ci95[0] > 0 or metric.drop_ci95[1] < 0


@pytest.mark.parametrize("name", ["perplexity", "mcc"])
def test_pairing_narrows_the_interval(name):
    """Both models find the same windows hard; the interval of the drop does not pay for that twice."""
    if name == "mcc":
        dense = classify(1_000, accuracy=0.8, seed=1)
        flipped = dense.arrays["prediction"].copy()
        flipped[:20] = (flipped[:20] + 1) % 4
        pair = Pair(dense, Answers({**dense.arrays, "prediction": flipped}, 4))
    else:
        pair = make_pair(name, 1_000)
    metric = compare_one(name, pair)
    unpaired = np.hypot(np.diff(metric.baseline_ci95), np.diff(metric.final_ci95))
    assert np.diff(metric.drop_ci95) < unpaired / 2


def test_grouping_same_answers_changes_no_draw():
    """Kept as floats the answers form no groups, so every sample is its own cell."""
    pair = make_pair("mcc", 300)
    loose = Pair(
        *(
            Answers({name: array.astype(np.float64) for name, array in one.arrays.items()}, 4)
            for one in (pair.baseline, pair.final)
        )
    )
    assert compare_one("mcc", loose) == compare_one("mcc", pair)


def test_the_interval_of_a_drop_in_mse_covers_the_truth_as_often_as_it_says():
    # Errors of standard deviation 0.5 and 1: the expected drop is 0.25 - 1 = -0.75. Of 200 intervals a true
    # 95 % interval holds it 190 times; 180 is over three standard deviations (3.1) below.
    held = 0
    for seed in range(200):
        pair = Pair(regress(100, noise=0.5, seed=2 * seed + 1), regress(100, noise=1.0, seed=2 * seed + 2))
        low, high = compare_one("mse", pair).drop_ci95
        held += low <= -0.75 <= high
    assert held >= 180


def test_the_interval_of_a_mean_is_the_normal_one():
    # Differences of squared errors with mean m and deviation s of 2,000 samples: m ± 1.96 s / sqrt(2000).
    pair = make_pair("mse", 2_000)
    of_both = [np.square(a.floats("prediction") - a.floats("truth")) for a in (pair.baseline, pair.final)]
    differences = of_both[0] - of_both[1]
    half = 1.96 * differences.std() / np.sqrt(2_000)
    low, high = compare_one("mse", pair).drop_ci95
    assert low == pytest.approx(differences.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(differences.mean() + half, abs=0.1 * half)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemars_p_is_that_of_a_fair_coin(became_wrong, became_right):
    changed = became_wrong + became_right
    expected = binomtest(became_wrong, changed).pvalue if changed else 1.0
    assert compute_mcnemar_p(became_wrong, became_right) == pytest.approx(expected, rel=1e-9)


def test_the_answers_that_changed_are_counted():
    truth = torch.zeros(10, dtype=torch.int64)
    before = torch.tensor([0] * 8 + [1, 1])
    after = torch.tensor([1, 1, 1, 1, 1, 0, 0, 0, 0, 1])
    pair = Pair(
        *(read_answers({"prediction": given, "truth": truth}, classes=2) for given in (before, after))
    )
    metric = compare_one("accuracy", pair)
    # Five became wrong, one right. P(at most one of six heads) = 7/64, twice that is 0.21875.
    assert (metric.flips.became_wrong, metric.flips.became_right) == (5, 1)
    assert metric.p_value == pytest.approx(0.21875)
    assert metric.drop == 0.4


def test_the_report_says_which_f1_and_which_method_it_is():
    of_two = Pair(*(classify(50, accuracy=0.8, seed=seed, classes=2) for seed in (1, 2)))
    accuracy, f1, mcc = compare([METRICS[name] for name in CLASSIFIED], of_two, split="test")
    assert (f1.average, accuracy.average, mcc.average) == ("binary", None, None)
    assert compare_one("f1", make_pair("f1", 50)).average == "macro"
    assert accuracy.method == "adjusted Wald of Bonett and Price 2012, paired"
    assert f1.method == mcc.method == "paired bootstrap, 2000 draws"
    assert accuracy.pruned is None
