"""Every schedule: from nothing to everything, never back."""

import itertools
import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pruning.protocols import Schedule
from worker.pruning.registry import InvalidParams, build, entries

NAMES = list(entries("schedule"))
GRADUAL = ["cubic", "exponential", "linear"]
PROGRESS = st.floats(0.0, 1.0)


def schedule(name: str, **params: float) -> Schedule:
    return cast(Schedule, build("schedule", name, params))


@pytest.mark.parametrize("name", NAMES)
@given(one=PROGRESS, other=PROGRESS)
def test_the_pruned_fraction_never_falls_and_stays_within_0_and_1(
    name: str, one: float, other: float
) -> None:
    fraction = schedule(name).fraction
    low, high = sorted((one, other))
    assert 0.0 <= fraction(low) <= fraction(high) <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_at_the_end_exactly_everything_is_due(name: str) -> None:
    assert schedule(name).fraction(1.0) == 1.0


@pytest.mark.parametrize("name", GRADUAL)
def test_at_the_start_exactly_nothing_is_due(name: str) -> None:
    assert schedule(name).fraction(0.0) == 0.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan])
def test_progress_outside_of_0_and_1_is_refused(name: str, progress: float) -> None:
    with pytest.raises(ValueError, match="progress is a fraction"):
        schedule(name).fraction(progress)


@pytest.mark.parametrize("name", GRADUAL)
@given(
    start=st.floats(0.0, 0.4),
    end=st.floats(0.5, 1.0),
    interval=st.floats(0.0, 1.0),
    initial=st.floats(0.0, 1.0),
    progress=PROGRESS,
)
def test_before_its_window_a_schedule_prunes_nothing_and_after_it_everything(
    name: str, start: float, end: float, interval: float, initial: float, progress: float
) -> None:
    fraction = schedule(
        name, start_fraction=start, end_fraction=end, interval_fraction=interval, initial_fraction=initial
    ).fraction(progress)
    if progress >= end:
        assert fraction == 1.0
    elif progress < start:
        assert fraction == 0.0
    else:
        assert initial <= fraction <= 1.0


@pytest.mark.parametrize("name", GRADUAL)
def test_between_two_prunings_nothing_more_is_due(name: str) -> None:
    fraction = schedule(name, interval_fraction=0.1).fraction
    assert fraction(0.3) == fraction(0.39) < fraction(0.4)


@pytest.mark.parametrize("name", GRADUAL)
def test_a_window_that_ends_before_it_starts_is_refused(name: str) -> None:
    with pytest.raises(InvalidParams, match=r"start_fraction 0.5 is not before 0.5"):
        schedule(name, start_fraction=0.5, end_fraction=0.5)


def test_cubic_follows_zhu_and_gupta() -> None:
    # s_f + (s_i - s_f)(1 - t)^3 with s_f = 1, s_i = 0.2, t = (0.5 - 0.2) / (0.8 - 0.2) = 1/2: 1 - 0.8 / 8
    found = schedule("cubic", start_fraction=0.2, end_fraction=0.8, initial_fraction=0.2).fraction(0.5)
    assert found == pytest.approx(0.9)


def test_exponential_prunes_the_same_share_of_what_is_left_every_time() -> None:
    # To a density of 0.1 in two rounds is to sqrt(0.1) = 0.316 after one: (1 - 0.316) / 0.9 of the target.
    fraction = schedule("exponential", final_density=0.1).fraction
    densities = [1 - 0.9 * fraction(i / 4) for i in range(5)]
    shares = [after / before for before, after in itertools.pairwise(densities)]
    assert shares == pytest.approx([0.1**0.25] * 4)
    assert fraction(0.5) == pytest.approx((1 - math.sqrt(0.1)) / 0.9)


def test_one_shot_can_wait() -> None:
    fraction = schedule("one_shot", start_fraction=0.5).fraction
    assert (fraction(0.0), fraction(0.49), fraction(0.5)) == (0.0, 0.0, 1.0)
