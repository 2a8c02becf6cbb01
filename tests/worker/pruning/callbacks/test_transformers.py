"""Pruning inside the Trainer of transformers."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from worker.pruning.callbacks.state import load_state
from worker.pruning.callbacks.transformers import STATE_FILE, PruningCallback
from worker.pruning.errors import MaskMismatch

STEPS = 6
RECIPE = {"target": {"value": 0.75}, "schedule": {"name": "cubic"}}
# What reads the gradients of the training: at every other step, and at every step.
LEARNING = {
    "rigl": {**RECIPE, "schedule": {"name": "rigl", "params": {"interval_fraction": 0.34}}},
    "movement": {**RECIPE, "criterion": {"name": "movement"}},
}
SAMPLES = [
    {"input_ids": torch.randint(20, (8,), generator=torch.Generator().manual_seed(i)), "labels": i % 2}
    for i in range(32)
]


def bert() -> nn.Module:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=8,
        )
    )


def make_trainer(
    folder: Path, callback: PruningCallback, *, more: tuple[TrainerCallback, ...] = (), **arguments: Any
) -> Trainer:
    given: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_steps": 2,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        **arguments,
    }
    return Trainer(
        bert(),
        TrainingArguments(str(folder), **given),
        train_dataset=SAMPLES,
        eval_dataset=SAMPLES[:8],
        callbacks=[callback, *more],
    )


def zeros(model: nn.Module, callback: PruningCallback) -> bool:
    weights = dict(model.named_parameters())
    return all(not weights[name][~mask].any() for name, mask in callback.pruner.masks.items())


def parameters(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


class Watch(TrainerCallback):
    """Note, after every step and after every substep, the sparsity and whether gradients were there."""

    def __init__(self, pruning: PruningCallback) -> None:
        self.pruning = pruning
        self.sparsities: list[float] = []
        self.substeps = 0
        self.all_zero = True

    def on_step_end(self, *_: object, model: nn.Module, **__: object) -> None:
        self.sparsities.append(self.pruning.pruner.masks.sparsity)
        self.all_zero &= zeros(model, self.pruning)

    def on_substep_end(self, *_: object, **__: object) -> None:
        self.substeps += 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer, PruningCallback]:
    """One whole run that other runs are compared with."""
    folder = tmp_path_factory.mktemp("run")
    callback = PruningCallback(RECIPE)
    trainer = make_trainer(folder, callback)
    trainer.train()
    return folder, trainer, callback


def test_the_trained_model_is_exactly_as_sparse_as_asked(
    run: tuple[Path, Trainer, PruningCallback],
) -> None:
    _, trainer, callback = run
    masks = callback.pruner.masks
    assert masks.numel - masks.kept == round(0.75 * masks.numel)
    assert zeros(trainer.model, callback)


def test_the_sparsity_is_logged_with_every_step(run: tuple[Path, Trainer, PruningCallback]) -> None:
    _, trainer, _ = run
    logged = [row["sparsity"] for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == STEPS
    assert logged == sorted(logged)
    assert logged[2:] == pytest.approx([0.75] * 4, abs=0.01)


@pytest.mark.parametrize("resume", [True, "path", "elsewhere"])
def test_a_resumed_run_ends_with_the_same_bits(
    run: tuple[Path, Trainer, PruningCallback], tmp_path: Path, resume: str | bool
) -> None:
    folder, trainer, callback = run
    shutil.copytree(folder / "checkpoint-2", tmp_path / "checkpoint-2")
    other = PruningCallback(RECIPE)
    if resume == "elsewhere":
        other = PruningCallback(RECIPE, resume_from=tmp_path / "checkpoint-2")
    resumed = make_trainer(tmp_path / "new" if resume == "elsewhere" else tmp_path, other)
    resumed.train(resume_from_checkpoint=True if resume is True else str(tmp_path / "checkpoint-2"))
    assert other.pruner.masks == callback.pruner.masks
    assert all(map(torch.equal, parameters(resumed.model), parameters(trainer.model)))


@pytest.mark.parametrize("recipe", LEARNING.values(), ids=LEARNING)
def test_a_resumed_run_that_reads_its_gradients_ends_with_the_same_bits(
    tmp_path: Path, recipe: dict[str, object]
) -> None:
    callback, other = PruningCallback(recipe), PruningCallback(recipe)
    whole = make_trainer(tmp_path, callback)
    whole.train()
    resumed = make_trainer(tmp_path, other)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert len(other.pruner.history) >= 3
    assert other.pruner.masks.sparsity == pytest.approx(0.75, abs=0.001)
    assert other.pruner.masks == callback.pruner.masks
    assert all(map(torch.equal, parameters(resumed.model), parameters(whole.model)))


def test_a_schedule_of_several_trainings_is_refused(tmp_path: Path) -> None:
    callback = PruningCallback({**RECIPE, "schedule": {"name": "lottery_ticket"}})
    with pytest.raises(ValueError, match=r"lottery_ticket trains \d+ times, and a callback serves one"):
        make_trainer(tmp_path, callback).train()


def test_a_checkpoint_without_its_state_says_where_it_was_looked_for(
    run: tuple[Path, Trainer, PruningCallback], tmp_path: Path
) -> None:
    folder, *_ = run
    with pytest.raises(FileNotFoundError, match="resume_from=FOLDER"):
        make_trainer(tmp_path, PruningCallback(RECIPE)).train(
            resume_from_checkpoint=str(folder / "checkpoint-2")
        )


def test_the_state_is_saved_with_the_checkpoints_of_a_trial(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, PruningCallback(RECIPE))
    # Where a search of hyperparameters lets each trial write.
    trainer._get_output_dir = lambda trial: str(tmp_path / "run-1")
    trainer.train()
    assert {path.parent.name for path in tmp_path.glob(f"run-1/*/{STATE_FILE}")} == {
        f"checkpoint-{step}" for step in (2, 4, 6)
    }


def test_the_state_of_another_checkpoint_is_refused(
    run: tuple[Path, Trainer, PruningCallback], tmp_path: Path
) -> None:
    folder, *_ = run
    callback = PruningCallback(RECIPE, resume_from=folder / "checkpoint-6")
    with pytest.raises(MaskMismatch, match="belongs to another checkpoint"):
        make_trainer(tmp_path, callback).train(resume_from_checkpoint=str(folder / "checkpoint-2"))


def test_steps_of_the_optimizer_are_counted_not_batches(tmp_path: Path) -> None:
    callback = PruningCallback(RECIPE)
    watch = Watch(callback)
    make_trainer(tmp_path, callback, more=(watch,), gradient_accumulation_steps=2, save_strategy="no").train()
    assert watch.substeps == STEPS
    # The cubic ramp from 0 to 0.75 over three of six steps: 1 - (1 - t)^3 at t = 1/3, 2/3, 1.
    assert watch.sparsities == pytest.approx(
        [0.75 * (1 - (1 - t / 3) ** 3) for t in (1, 2, 3, 3, 3, 3)], abs=0.01
    )
    assert watch.all_zero


def test_clipping_weight_decay_and_bf16_autocast_bring_nothing_back(tmp_path: Path) -> None:
    callback = PruningCallback(RECIPE)
    watch = Watch(callback)
    make_trainer(
        tmp_path, callback, more=(watch,), max_grad_norm=0.1, weight_decay=0.1, bf16=True, save_strategy="no"
    ).train()
    assert watch.all_zero


class Prefer(TrainerCallback):
    """Give every evaluation a metric by the step: the lower the better."""

    def __init__(self, metrics: dict[int, float]) -> None:
        self.metrics = metrics

    def on_evaluate(self, args, state, control, *, metrics: dict[str, float], **_: object) -> None:
        metrics["eval_chosen"] = self.metrics[state.global_step]


def test_the_best_model_is_the_best_of_the_full_sparsity_and_keeps_its_masks(tmp_path: Path) -> None:
    callback = PruningCallback(RECIPE)
    trainer = make_trainer(
        tmp_path,
        callback,
        more=(Prefer({2: 0.0, 4: 1.0, 6: 2.0}),),
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="chosen",
        greater_is_better=False,
    )
    trainer.train()
    best = tmp_path / "checkpoint-4"
    assert Path(trainer.state.best_model_checkpoint) == best
    saved = load_state(best / STATE_FILE)["masks"]
    assert all(
        torch.equal(saved[name], packed) for name, packed in callback.pruner.state_dict()["masks"].items()
    )
    assert callback.pruner.masks.sparsity == pytest.approx(0.75, abs=0.001)
    assert zeros(trainer.model, callback)


def test_patience_begins_with_the_whole_target(tmp_path: Path) -> None:
    # Nothing is pruned before the third of six steps, and each is worse than the one before.
    recipe = {**RECIPE, "schedule": {"name": "one_shot", "params": {"start_fraction": 1.0}}}
    callback = PruningCallback(recipe)
    trainer = make_trainer(
        tmp_path,
        callback,
        more=(Prefer({step: float(step) for step in range(1, 7)}), EarlyStoppingCallback(1)),
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="chosen",
        greater_is_better=False,
    )
    trainer.train()
    assert trainer.state.global_step == 4
    assert callback.pruner.masks.sparsity == pytest.approx(0.75, abs=0.001)


def test_training_that_stops_before_its_schedule_ends_exact_and_warns(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_: object) -> None:
            control.should_training_stop = True

    callback = PruningCallback(RECIPE)
    trainer = make_trainer(tmp_path, callback, more=(Stop(),), save_strategy="no")
    with pytest.warns(UserWarning, match="without training after it"):
        trainer.train()
    masks = callback.pruner.masks
    assert masks.numel - masks.kept == round(0.75 * masks.numel)
    assert zeros(trainer.model, callback)
