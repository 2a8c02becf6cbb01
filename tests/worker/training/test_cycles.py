"""Several trainings: what each starts from, what it sees, and that a kill in any of them changes nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.training.recoveries import make_model, make_settings, make_training, recover
from tests.worker.training.test_recovery import assert_same, recover_after_kills
from worker.pruning import Pruner
from worker.training.cycles import plan_phases

STEPS = 4
TARGET = {"target": {"value": 0.75}}
ITERATIVE = {**TARGET, "schedule": {"name": "iterative", "params": {"rounds": 2}}}


def lottery(rewind_fraction: float = 0.5, **params) -> dict:
    params = {"rounds": 2, "rewind_fraction": rewind_fraction, **params}
    return {**TARGET, "schedule": {"name": "lottery_ticket", "params": params}}


def plan(recipe, steps=STEPS):
    training = make_training(make_settings(max_steps=steps))
    return plan_phases(training, Pruner(make_model(), recipe, steps=steps).cycles)


@settings(max_examples=8, deadline=None)
@given(
    kills=st.lists(st.integers(1, 3 * STEPS - 5), min_size=1, max_size=3).map(sorted),
    recipe=st.sampled_from([ITERATIVE, lottery(), lottery(0.0)]),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    augment=st.booleans(),
)
def test_killed_in_any_training_it_ends_with_the_bits_of_an_undisturbed_one(kills, recipe, **given):
    given |= {"max_steps": STEPS, "batch_size": 16, "recipe": recipe, "validates": True}
    assert_same(recover_after_kills(kills, **given), recover(**given))


def test_a_ticket_is_trained_dense_first_and_then_again_from_the_step_that_it_is_rewound_to():
    phases = plan(lottery(), steps=10)
    assert [(phase.round, phase.first_step, phase.length) for phase in phases] == [
        (None, 0, 10),
        (1, 5, 5),
        (2, 5, 5),
    ]
    assert len({phase.training.seed for phase in phases}) == 1


def test_an_iterative_recovery_trains_whole_after_every_round_on_data_in_a_new_order():
    phases = plan(ITERATIVE)
    assert [(phase.round, phase.first_step, phase.length) for phase in phases] == [(1, 0, 4), (2, 0, 4)]
    orders = [torch.cat(phase.training.plan.batches(0)).tolist() for phase in phases]
    assert orders[0] != orders[1]


def test_without_cycles_there_is_one_training():
    (phase,) = plan({"target": {"value": 0.5}})
    assert (phase.round, phase.first_step) == (None, 0)


@pytest.mark.parametrize("rewind_fraction", [0.0, 0.5])
def test_a_ticket_of_no_sparsity_repeats_the_end_of_the_dense_training_to_the_bit(rewind_fraction):
    # Weights, statistics, data, rate and draws are all back where they were; only momentum starts anew,
    # so there is none here.
    recipe = {**lottery(rewind_fraction), "target": {"value": 0.0}}
    plain = {"max_steps": 6, "momentum": 0.0, "nesterov": False, "augment": True}
    ticket, dense = recover(recipe=recipe, **plain), recover(recipe={"target": {"value": 0.0}}, **plain)
    expected = dense.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ticket.module.state_dict().items())
    losses = [moment.result.loss for moment in ticket.moments]
    repeated = 6 - round(6 * rewind_fraction)
    assert losses[-repeated:] == losses[6 - repeated : 6]


def test_the_ticket_is_trained_from_the_rewound_weights_under_its_mask():
    killed_after_round_one = recover_after_kills([STEPS], recipe=lottery(), max_steps=STEPS)
    rows = killed_after_round_one.recovery.history.rows
    assert [row.round for row in rows] == [0, 1, 2]
    assert rows[0].note == "trained dense"
    assert all("rewound to those of step 2" in row.note for row in rows[1:])
    assert [row.step for row in rows] == [4, 4, 6]
    assert rows[2].sparsity == pytest.approx(0.75, abs=1e-3)
    assert rows[1].sparsity == pytest.approx(0.5, abs=1e-3)  # the same share of what is left: 1 - 0.25^(1/2)


def test_iterative_rounds_are_measured_when_their_training_ends():
    rows = recover(recipe=ITERATIVE, max_steps=STEPS, validates=True).recovery.history.rows
    assert [row.round for row in rows] == [1, 2]
    assert all(set(row.metrics) == {"train_loss", "train_accuracy", "validation_accuracy"} for row in rows)
    assert all(row.note is None for row in rows)
