"""Confidence intervals against published numbers and their laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.measure.intervals import (
    compute_drop_interval,
    compute_speedup_interval,
    compute_wilson_interval,
)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(hits, n, low, high):
    assert compute_wilson_interval(hits, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_proportion_and_stays_a_proportion(case):
    hits, n = case
    low, high = compute_wilson_interval(hits, n)
    assert 0.0 <= low <= hits / n <= high <= 1.0


@given(st.integers(1, 5_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_of_the_misses_is_the_mirror_image(case):
    hits, n = case
    low, high = compute_wilson_interval(hits, n)
    assert compute_wilson_interval(n - hits, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(
    ("became_wrong", "became_right", "n", "low", "high"),
    [
        # Fagerland, Lydersen and Laake 2014, "Recommended tests and confidence intervals for paired binomial
        # proportions", table V: 1 and 7 changes of 21.
        (1, 7, 21, -0.508, -0.013),
        # The manual of the R package statpsych, by Bonett: ci.prop.ps(.05, 12, 4, 26, 6).
        (26, 4, 48, 0.2548, 0.6252),
    ],
)
def test_the_drops_interval_is_the_published_one(became_wrong, became_right, n, low, high):
    assert compute_drop_interval(became_wrong, became_right, n) == pytest.approx((low, high), abs=5e-4)


changes = st.integers(1, 3_000).flatmap(
    lambda n: st.integers(0, n).flatmap(
        lambda wrong: st.tuples(st.just(wrong), st.integers(0, n - wrong), st.just(n))
    )
)


@given(changes)
def test_the_drop_lies_inside_of_its_interval_and_turns_with_the_models(case):
    became_wrong, became_right, n = case
    low, high = compute_drop_interval(became_wrong, became_right, n)
    assert -1.0 <= low <= (became_wrong - became_right) / n <= high <= 1.0
    assert low < high
    assert compute_drop_interval(became_right, became_wrong, n) == pytest.approx((-high, -low), abs=1e-12)


def test_the_same_answers_to_a_few_samples_are_no_certainty():
    # 1.96 * sqrt(2 / 22 / 22) = 0.126.
    assert compute_drop_interval(0, 0, 20) == pytest.approx((-0.126, 0.126), abs=5e-4)


@pytest.mark.parametrize(
    ("n", "wrong", "right"),
    [
        (20, 0.05, 0.0),
        (30, 0.3, 0.3),
        (100, 0.01, 0.0),
        (100, 0.02, 0.01),
        (100, 0.2, 0.1),
        (540, 0.005, 0.005),
        (872, 0.002, 0.0),
        (872, 0.02, 0.01),
        (2_000, 0.001, 0.0),
    ],
)
def test_at_least_94_of_a_hundred_intervals_hold_the_true_drop(n, wrong, right):
    """By the probability of every outcome, where so large shares of the samples become wrong and right."""
    covered = math.fsum(
        compute_probability(n, (lost, won), (wrong, right))
        for lost in range(n + 1)
        for won in range(n + 1 - lost if right else 1)
        if is_likely(n, lost, wrong) and is_likely(n, won, right) and holds(lost, won, n, wrong - right)
    )
    assert covered > 0.94


def is_likely(n: int, count: int, share: float) -> bool:
    """Leave out what comes up less than once in a million times."""
    return abs(count - n * share) <= 6 * math.sqrt(n * share) + 6


def holds(lost: int, won: int, n: int, drop: float) -> bool:
    low, high = compute_drop_interval(lost, won, n)
    return low <= drop <= high


def compute_probability(n: int, counts: tuple[int, int], shares: tuple[float, float]) -> float:
    """Return the probability of two counts of n samples (multinomial)."""
    rest = n - sum(counts)
    log = math.lgamma(n + 1) - math.lgamma(rest + 1) + rest * math.log1p(-sum(shares))
    for count, share in zip(counts, shares, strict=True):
        log += (count * math.log(share) if count else 0.0) - math.lgamma(count + 1)
    return math.exp(log)


def test_the_drops_interval_is_that_of_the_paired_difference():
    # 60 of 5,000 lost, 40 won: mean 0.004, variance (100/5000 - 0.004^2) / 5000, so the normal
    # approximation is 0.004 ± 1.96 · 0.0019984 = 0.00008 … 0.00792. An unpaired interval of two
    # accuracies near 0.9 would be four times as wide.
    low, high = compute_drop_interval(60, 40, 5_000)
    assert low == pytest.approx(0.00008, abs=1e-4)
    assert high == pytest.approx(0.00792, abs=1e-4)


def test_a_twice_as_slow_model_has_half_the_speed():
    times = np.random.default_rng(0).normal(10.0, 0.5, size=100)
    low, high = compute_speedup_interval(times, 2 * times)
    assert low == pytest.approx(0.5, abs=0.01)
    assert high == pytest.approx(0.5, abs=0.01)


def test_noise_widens_the_interval_of_the_speed():
    draw = np.random.default_rng(0).normal
    quiet = compute_speedup_interval(draw(10.0, 0.1, size=50), draw(10.0, 0.1, size=50))
    noisy = compute_speedup_interval(draw(10.0, 2.0, size=50), draw(10.0, 2.0, size=50))
    assert quiet[1] - quiet[0] < noisy[1] - noisy[0]
    assert noisy[0] < 1.0 < noisy[1]
