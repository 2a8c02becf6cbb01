"""Every schedule: from nothing to everything, never back."""

import itertools
import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pruning.protocols import CountsOnDensity, Cycles, Regrows, Schedule
from worker.pruning.registry import InvalidParams, build, entries
from worker.pruning.schedules.window import Window

NAMES = list(entries("schedule"))
GRADUAL = ["cubic", "exponential", "linear"]
PROGRESS = st.floats(0.0, 1.0)


def schedule(name: str, **params: object) -> Schedule:
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


def test_exponential_is_aimed_at_the_target_unless_it_is_told_otherwise() -> None:
    free, told = schedule("exponential"), schedule("exponential", final_density=0.3)
    assert isinstance(free, CountsOnDensity)
    assert isinstance(told, CountsOnDensity)
    assert free.aimed_at(0.2).fraction(0.5) == pytest.approx((1 - math.sqrt(0.2)) / 0.8)
    assert told.aimed_at(0.2).fraction(0.5) == pytest.approx((1 - math.sqrt(0.3)) / 0.7)
    assert free.fraction(0.5) == pytest.approx((1 - math.sqrt(0.1)) / 0.9)


def test_one_shot_can_wait() -> None:
    fraction = schedule("one_shot", start_fraction=0.5).fraction
    assert (fraction(0.0), fraction(0.49), fraction(0.5)) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("name", ["iterative", "lottery_ticket"])
@given(rounds=st.integers(1, 50), density=st.floats(0.001, 0.999))
def test_the_rounds_of_cycles_are_the_stairs_of_the_whole_run(name: str, rounds: int, density: float) -> None:
    cycles = schedule(name, rounds=rounds, final_density=density)
    assert isinstance(cycles, Cycles)
    after = [cycles.fraction_after(number) for number in range(rounds + 1)]
    assert (after[0], after[-1]) == (0.0, 1.0)
    assert all(one < other for one, other in itertools.pairwise(after))
    trainings = rounds + int(cycles.trains_dense_first)
    begun = [cycles.fraction(i / trainings) for i in range(trainings)]
    assert begun == after[1 - int(cycles.trains_dense_first) :]


def test_cycles_prune_the_same_share_of_what_is_left_every_time() -> None:
    # To a density of 0.2 in three rounds: 0.2^(1/3) = 0.5848 is left after the first.
    ticket = schedule("lottery_ticket", rounds=3, final_density=0.2)
    assert isinstance(ticket, Cycles)
    densities = [1 - 0.8 * ticket.fraction_after(i) for i in range(4)]
    assert densities == pytest.approx([1.0, 0.5848, 0.3420, 0.2], abs=1e-4)


def test_linear_spacing_prunes_as_much_every_time() -> None:
    iterative = schedule("iterative", rounds=4, spacing="linear")
    assert isinstance(iterative, Cycles)
    assert [iterative.fraction_after(i) for i in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("number", [-1, 6])
def test_a_round_that_there_is_not_is_refused(number: int) -> None:
    cycles = schedule("iterative")
    assert isinstance(cycles, Cycles)
    with pytest.raises(ValueError, match="a number from 0 to 5"):
        cycles.fraction_after(number)


def test_a_schedule_says_what_it_promises() -> None:
    promises = {
        name: [kind.__name__ for kind in (Window, Cycles, Regrows, CountsOnDensity) if isinstance(one, kind)]
        for name in NAMES
        for one in [schedule(name)]
    }
    assert promises == {
        "cubic": ["Window"],
        "exponential": ["Window", "CountsOnDensity"],
        "iterative": ["Cycles", "CountsOnDensity"],
        "linear": ["Window"],
        "lottery_ticket": ["Cycles", "CountsOnDensity"],
        "one_shot": [],
        "rigl": ["Regrows"],
        "set": ["Regrows"],
    }
