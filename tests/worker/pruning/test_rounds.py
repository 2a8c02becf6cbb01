"""When a schedule prunes during a training run."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pruning.recipe import Choice
from worker.pruning.registry import UnknownPlugin, entries
from worker.pruning.rounds import PRUNING_FRACTION, plan_rounds

NAMES = sorted(entries("schedule"))
MOVING = ["rigl", "set"]
schedules = st.builds(Choice, name=st.sampled_from(NAMES))
rising = st.builds(Choice, name=st.sampled_from(sorted(set(NAMES) - set(MOVING))))
moving = st.builds(Choice, name=st.sampled_from(MOVING))
steps = st.integers(0, 3_000)


@given(schedules, steps)
def test_the_last_round_prunes_the_whole_target(schedule, training_steps):
    assert plan_rounds(schedule, training_steps)[-1].fraction == 1.0


@given(rising, steps)
def test_each_round_prunes_more_than_the_one_before(schedule, training_steps):
    rounds = plan_rounds(schedule, training_steps)
    assert all(a.fraction < b.fraction for a, b in pairwise(rounds))
    assert [planned.number for planned in rounds] == list(range(1, len(rounds) + 1))
    assert len(rounds) <= 21


@given(rising, st.integers(1, 3_000))
def test_the_rest_of_the_training_is_left_to_fixed_masks(schedule, training_steps):
    rounds = plan_rounds(schedule, training_steps)
    assert all(0 <= planned.step <= PRUNING_FRACTION * training_steps for planned in rounds)
    assert rounds[-1].step < training_steps


@given(moving, st.integers(1, 3_000))
def test_what_regrows_prunes_at_once_and_stops_at_three_quarters_of_the_run(schedule, training_steps):
    first, *others = plan_rounds(schedule, training_steps)
    assert (first.number, first.step, first.fraction) == (1, 0, 1.0)
    assert all(0 < planned.step < 0.75 * training_steps for planned in others)
    assert all(planned.progress == planned.step / training_steps for planned in others)
    assert all(a.step < b.step for a, b in pairwise([first, *others]))


def test_what_regrows_does_so_at_every_hundredth_of_the_run_or_as_told():
    assert [p.step for p in plan_rounds(Choice(name="rigl"), 1000)] == list(range(0, 750, 10))
    every = Choice(name="set", params={"interval_fraction": 0.25, "stop_fraction": 1.0})
    assert [p.step for p in plan_rounds(every, 1000)] == [0, 250, 500, 750]


@given(
    st.sampled_from(["cubic", "linear", "exponential"]),
    st.floats(0.001, 1.0),
    st.floats(0.0, 0.4),
    st.floats(0.5, 1.0),
    st.integers(0, 2_000),
)
def test_an_interval_makes_as_many_rounds_as_there_is_room_for(name, interval, start, end, training_steps):
    params = {"interval_fraction": interval, "start_fraction": start, "end_fraction": end}
    rounds = plan_rounds(Choice(name=name, params=params), training_steps)
    assert rounds[-1].fraction == 1.0
    assert all(a.fraction < b.fraction and a.step <= b.step for a, b in pairwise(rounds))
    assert len(rounds) <= (end - start) / interval + 2
    if training_steps:
        assert all(a.step < b.step for a, b in pairwise(rounds))


def test_an_interval_of_a_hundredth_makes_a_hundred_rounds():
    choice = Choice(name="linear", params={"interval_fraction": 0.01})
    assert [p.step for p in plan_rounds(choice, 1000)] == list(range(6, 601, 6))
    assert len(plan_rounds(choice, 0)) == 100


def test_scores_that_are_learned_want_more_rounds_and_a_longer_time():
    rounds = plan_rounds(Choice(name="cubic"), 200, learns_scores=True)
    assert [p.step for p in rounds] == list(range(2, 161, 2))
    warm = Choice(name="cubic", params={"start_fraction": 0.25, "end_fraction": 0.75})
    rounds = plan_rounds(warm, 1000, learns_scores=True)
    assert (rounds[0].step, rounds[-1].step) == (210, 600)


@pytest.mark.parametrize(
    ("name", "params", "steps"),
    [
        ("one_shot", {"start_fraction": 0.05}, 10),
        ("one_shot", {"start_fraction": 0.001}, 400),
        ("cubic", {"start_fraction": 0.01, "initial_fraction": 0.3}, 40),
    ],
)
def test_scores_that_are_learned_have_a_step_to_learn_in_however_early_it_starts(name, params, steps):
    rounds = plan_rounds(Choice(name=name, params=params), steps, learns_scores=True)
    assert rounds[0].step == 1
    assert all(a.step < b.step for a, b in pairwise(rounds))
    # Without learned scores it is pruned at once.
    assert plan_rounds(Choice(name=name, params=params), steps)[0].step == 0


@given(
    st.sampled_from(["cubic", "linear", "exponential"]),
    st.floats(0.0, 0.9),
    st.floats(0.05, 1.0),
    st.booleans(),
)
def test_a_window_however_narrow_is_pruned_in_little_by_little(name, start, width, learns_scores):
    end = min(1.0, start + width)
    choice = Choice(name=name, params={"start_fraction": start, "end_fraction": end})
    rounds = plan_rounds(choice, 10_000, learns_scores=learns_scores)
    fractions = [0.0, *(planned.fraction for planned in rounds)]
    # The steepest is the cubic one: 1 - (19/20)^3 of the target in the first of twenty rounds.
    most = 1 / (80 * (end - start)) if learns_scores else 1 / 20
    assert max(b - a for a, b in pairwise(fractions)) <= 3 * most + 1e-9
    last_step = 8_000 if learns_scores else 6_000
    assert round(start * last_step) <= rounds[0].step
    assert rounds[-1].step == round(end * last_step)


@given(st.floats(0.0, 1.0), st.integers(1, 3_000))
def test_one_shot_comes_exactly_when_it_was_asked_for(start, training_steps):
    (only,) = plan_rounds(Choice(name="one_shot", params={"start_fraction": start}), training_steps)
    assert only.step == round(start * int(PRUNING_FRACTION * training_steps))


@given(schedules)
def test_without_training_all_rounds_come_at_once(schedule):
    assert {planned.step for planned in plan_rounds(schedule, 0)} == {0}


@pytest.mark.parametrize("training_steps", [0, 1, 100])
def test_one_shot_is_one_round_before_the_first_step(training_steps):
    (only,) = plan_rounds(Choice(name="one_shot"), training_steps)
    assert (only.number, only.step, only.fraction) == (1, 0, 1.0)


def test_a_linear_schedule_of_200_steps_prunes_a_twentieth_every_six():
    rounds = plan_rounds(Choice(name="linear"), 200)
    assert [planned.step for planned in rounds] == list(range(6, 121, 6))
    assert [planned.fraction for planned in rounds] == pytest.approx([i / 20 for i in range(1, 21)])


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UnknownPlugin):
        plan_rounds(Choice(name="sometimes"), 100)
