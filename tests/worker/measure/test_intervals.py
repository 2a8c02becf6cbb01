"""Confidence intervals against published numbers and their laws."""

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


def make_pair(lost: int, won: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Baseline and final, where `lost` samples were right before only and `won` after only."""
    baseline, final = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    final[:lost] = False
    baseline[lost : lost + won] = False
    return baseline, final


def test_the_same_answers_have_a_drop_of_exactly_zero():
    assert compute_drop_interval(*make_pair(0, 0, 500)) == (0.0, 0.0)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(100, 2_000))
def test_the_drop_lies_in_its_interval_and_comes_out_the_same_again(lost, won, n):
    pair = make_pair(lost, won, n)
    low, high = compute_drop_interval(*pair)
    assert low <= (lost - won) / n <= high
    assert compute_drop_interval(*pair) == (low, high)


def test_the_drops_interval_is_that_of_the_paired_difference():
    # 60 of 5,000 lost, 40 won: mean 0.004, variance (100/5000 - 0.004^2) / 5000, so the normal
    # approximation is 0.004 ± 1.96 · 0.0019984 = 0.00008 … 0.00792. An unpaired interval of two
    # accuracies near 0.9 would be four times as wide.
    low, high = compute_drop_interval(*make_pair(60, 40, 5_000))
    assert low == pytest.approx(0.00008, abs=2.5e-4)
    assert high == pytest.approx(0.00792, abs=2.5e-4)


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
