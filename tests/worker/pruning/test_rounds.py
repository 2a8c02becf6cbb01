"""When a schedule prunes during a training run."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pruning.recipe import Choice
from worker.pruning.registry import UnknownPlugin, entries
from worker.pruning.rounds import PRUNING_FRACTION, plan_rounds

schedules = st.builds(Choice, name=st.sampled_from(sorted(entries("schedule"))))
steps = st.integers(0, 3_000)


@given(schedules, steps)
def test_the_last_round_prunes_the_whole_target(schedule, training_steps):
    assert plan_rounds(schedule, training_steps)[-1].fraction == 1.0


@given(schedules, steps)
def test_each_round_prunes_more_than_the_one_before(schedule, training_steps):
    rounds = plan_rounds(schedule, training_steps)
    assert all(a.fraction < b.fraction for a, b in pairwise(rounds))
    assert [planned.number for planned in rounds] == list(range(1, len(rounds) + 1))
    assert len(rounds) <= 21


@given(schedules, st.integers(1, 3_000))
def test_the_rest_of_the_training_is_left_to_fixed_masks(schedule, training_steps):
    rounds = plan_rounds(schedule, training_steps)
    assert all(0 <= planned.step <= PRUNING_FRACTION * training_steps for planned in rounds)
    assert rounds[-1].step < training_steps


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
