"""A recovery that is killed and resumed is the recovery that was not."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import DivergedTraining, SparsityLost
from app.core.finetune import Distillation, EarlyStopping
from tests.worker.training.recoveries import (
    GRADUAL,
    ONE_SHOT,
    VALIDATION,
    Killed,
    Outcome,
    make_model,
    make_split,
    recover,
)
from worker.training.checkpoint import Checkpoints
from worker.training.soundness import check_sparsity

STEPS = 8


def assert_same(one: Outcome, two: Outcome) -> None:
    ours, theirs = one.tensors(), two.tensors()
    differing = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert differing == []
    assert one.recovery.history.rows == two.recovery.history.rows


def recover_after_kills(kills: list[int], *, interval_s: float = 0.0, **given: Any) -> Outcome:
    with TemporaryDirectory() as folder:
        for kill_after in kills:
            # Its steps may be done already: then there is nothing left to kill.
            with suppress(Killed):
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
    assert resumed.resumed == 5
    assert [moment.step for moment in resumed.moments] == [6, 7, 8]


@pytest.mark.parametrize("interval_s", [0.0, 1e-4, 1e9])
def test_when_a_checkpoint_is_written_changes_nothing_in_what_comes_out(interval_s):
    given = {"max_steps": STEPS, "distillation": Distillation()}
    assert_same(recover_after_kills([3, 6], interval_s=interval_s, **given), recover(**given))


def test_the_best_weights_at_full_sparsity_are_those_that_come_out():
    kept = recover(validates=True, max_steps=24, learning_rate=0.3)
    assert kept.recovery.best is not None
    full_at = next(row.step for row in kept.recovery.history.rows if row.fraction == 1.0)
    assert kept.recovery.best["step"] >= full_at
    assert kept.recovery.best["value"] == pytest.approx(VALIDATION.measure(kept.module))
    assert kept.masks.sparsity == pytest.approx(0.5, abs=1e-3)


def test_the_last_weights_come_out_where_the_best_are_not_kept():
    last = recover(validates=True, max_steps=24, learning_rate=0.3, keep_best=False)
    assert last.recovery.best is None
    blind = recover(validates=False, max_steps=24, learning_rate=0.3)
    assert all(torch.equal(t, blind.tensors()[name]) for name, t in last.tensors().items())


def test_it_stops_early_and_never_before_the_whole_target_is_pruned():
    stopping = EarlyStopping(patience=1, min_delta=1.0)  # nothing is ever gained
    outcome = recover(validates=True, max_steps=None, epochs=12, early_stopping=stopping)
    assert outcome.recovery.steps_done < 36
    full_at = next(row.step for row in outcome.recovery.history.rows if row.fraction == 1.0)
    assert outcome.recovery.steps_done >= full_at
    assert outcome.masks.sparsity == pytest.approx(0.5, abs=1e-3)


def test_every_round_has_a_row_with_what_was_asked_and_reached():
    rows = recover(max_steps=24, validates=True).recovery.history.rows
    assert [row.round for row in rows] == list(range(1, len(rows) + 1))
    assert [row.fraction for row in rows] == sorted(row.fraction for row in rows)
    assert rows[-1].fraction == 1.0
    assert all(row.sparsity == pytest.approx(0.5 * row.fraction, abs=1e-3) for row in rows)
    assert all("validation_accuracy" in row.metrics for row in rows)


def test_rounds_too_many_to_be_validated_do_not_show_the_validation_of_an_earlier_model():
    recipe = {"target": {"value": 0.5}, "criterion": {"name": "movement"}, "schedule": {"name": "cubic"}}
    rows = recover(recipe=recipe, max_steps=60, validates=True).recovery.history.rows
    assert len(rows) > 25
    assert {name for row in rows for name in row.metrics} == {"train_loss", "train_accuracy"}


def test_the_metrics_of_a_round_are_those_of_the_steps_before_it_where_nothing_else_judges():
    rows = recover(max_steps=24).recovery.history.rows
    assert set(rows[-1].metrics) == {"train_loss", "train_accuracy"}


def test_a_sample_more_than_fills_the_batches_is_left_out_of_the_refreshed_statistics():
    # A batch of one has no variance in a layer without positions, and would weigh as much as 32.
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 3))
    split = make_split(samples=33)
    recover(module=module, split=split, max_steps=2, batchnorm_refresh=2)
    inputs = split.take(torch.arange(33)).inputs.flatten(1)
    means_without_one = (inputs.sum(dim=0) - inputs) / 32  # [33, 64]
    assert (means_without_one - module[1].running_mean).abs().amax(dim=1).min() < 1e-5


def test_diverging_names_the_step_the_rate_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(DivergedTraining, match=r"not finite after step 2 .* of step 1;.* below 1e\+30"):
        recover(tmp_path, learning_rate=1e30, warmup_fraction=0.5, clip_norm=1e-31)


@pytest.mark.parametrize("recipe", [GRADUAL, ONE_SHOT])
def test_broken_weights_that_a_validation_meets_first_are_a_divergence(tmp_path, recipe):
    module, factors = make_model(), iter([1.0, float("nan")])
    module.linear.bias.register_hook(lambda gradient: gradient * next(factors))
    # A step is an epoch, so that each is followed by an evaluation.
    with pytest.raises(DivergedTraining, match=r"answers NaN .* after step 2; .* of step 1;"):
        recover(tmp_path, module=module, recipe=recipe, validates=True, batch_size=96)
    assert Checkpoints(tmp_path, {}, interval_s=0.0).read()["steps_done"] == 1


def test_weights_that_are_broken_are_not_written_over_a_good_checkpoint(tmp_path):
    with pytest.raises(Killed):
        recover(tmp_path, kill_after=4)
    good = Checkpoints(tmp_path, {}, interval_s=0.0).read()
    module = make_model()
    module.linear.bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DivergedTraining, match="not finite"):
        recover(tmp_path, module=module)
    assert Checkpoints(tmp_path, {}, interval_s=0.0).read()["steps_done"] == good["steps_done"]


def test_a_weight_that_comes_back_is_named():
    module = make_model()
    masks = recover().masks
    masks.apply(module)
    with torch.no_grad():
        module.get_parameter("linear.weight")[~masks["linear.weight"]] = 1.0
    pruned = int((~masks["linear.weight"]).sum())
    with pytest.raises(SparsityLost, match=rf"linear.weight: expected {pruned} of 48 .* found 0"):
        check_sparsity(module, masks)
