"""A recovery that is killed and resumed is the recovery that was not."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.spec import Distillation
from tests.worker.training.recoveries import GRADUAL, ONE_SHOT, Killed, Outcome, recover

STEPS = 8


def assert_same(one: Outcome, two: Outcome) -> None:
    ours, theirs = one.tensors(), two.tensors()
    differing = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert differing == []
    assert one.recovery.history.rows == two.recovery.history.rows


def recover_after_kills(kills: list[int], *, interval_s: float = 0.0, **given: Any) -> Outcome:
    with TemporaryDirectory() as folder:
        for kill_after in kills:
            with pytest.raises(Killed):
                recover(Path(folder), kill_after=kill_after, interval_s=interval_s, **given)
        return recover(Path(folder), interval_s=interval_s, **given)


@settings(max_examples=12, deadline=None)
@given(
    kills=st.lists(st.integers(1, STEPS - 1), min_size=1, max_size=3).map(sorted),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    recipe=st.sampled_from([GRADUAL, ONE_SHOT]),
    distillation=st.sampled_from([None, Distillation(), Distillation(hidden_states=1.0)]),
    augment=st.booleans(),
    validates=st.booleans(),
    accumulate=st.sampled_from([1, 2]),
)
def test_killed_at_any_step_it_ends_with_the_bits_of_an_undisturbed_one(kills, **given):
    given |= {"max_steps": STEPS, "batch_size": 16, "batchnorm_refresh": 2}
    assert_same(recover_after_kills(kills, **given), recover(**given))


def test_it_goes_on_after_the_step_of_its_last_checkpoint():
    resumed = recover_after_kills([5], max_steps=STEPS)
    # The kill came before the checkpoint of step 5 could help, or after: it was written first.
    assert [moment.step for moment in resumed.moments] == [6, 7, 8]


@pytest.mark.parametrize("interval_s", [0.0, 1e-4, 1e9])
def test_when_a_checkpoint_is_written_changes_nothing_in_what_comes_out(interval_s):
    given = {"max_steps": STEPS, "distillation": Distillation()}
    assert_same(recover_after_kills([3, 6], interval_s=interval_s, **given), recover(**given))
