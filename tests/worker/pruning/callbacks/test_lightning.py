"""Pruning inside the Trainer of Lightning."""

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from worker.pruning.callbacks.lightning import PruningCallback

STEPS = 6
RECIPE = {"target": {"value": 0.75}, "schedule": {"name": "cubic"}}
# What reads the gradients of the training: at every other step, and at every step.
LEARNING = {
    "rigl": {**RECIPE, "schedule": {"name": "rigl", "params": {"interval_fraction": 0.34}}},
    "movement": {**RECIPE, "criterion": {"name": "movement"}},
}
# The cubic ramp over three of six steps: 0.75 (1 - (1 - t)^3) at t = 1/3, 2/3, 1, of 288 weights.
RAMP = [round(0.75 * 288 * (1 - (1 - t / 3) ** 3)) / 288 for t in (1, 2, 3, 3, 3, 3)]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)


def loader(batch_size: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 8, generator=generator)
    return DataLoader(TensorDataset(x, (x.sum(dim=1) > 0).long()), batch_size=batch_size)


def module(library: ModuleType = lightning.pytorch, *, metrics: tuple[float, ...] = ()) -> nn.Module:
    class Module(library.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1, bias=False))
            self.weights_at_forward: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            self.weights_at_forward.append(self.net[0].weight.detach().clone())
            return nn.functional.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1].float())

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            if not self.trainer.sanity_checking:
                self.log("chosen", metrics[self.trainer.global_step])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)

    return Module()


def make_trainer(
    folder: Path, *callbacks: object, library: ModuleType = lightning.pytorch, **arguments: Any
) -> lightning.pytorch.Trainer:
    given: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(hasattr(callback, "best_k_models") for callback in callbacks),
        **arguments,
    }
    return library.Trainer(default_root_dir=folder, callbacks=list(callbacks), **given)


def zeros(callback: PruningCallback) -> bool:
    weights = dict(callback.pruner.model.named_parameters())
    return all(not weights[name][~mask].any() for name, mask in callback.pruner.masks.items())


class Watch(Callback):
    """Note after every batch the sparsity, whether zeros are zero, and whether gradients are there."""

    def __init__(self, pruning: PruningCallback) -> None:
        self.pruning = pruning
        self.sparsities: list[float] = []
        self.all_zero = self.all_gradients = True

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *_: object) -> None:
        self.sparsities.append(self.pruning.pruner.masks.sparsity)
        self.all_zero &= zeros(self.pruning)
        self.all_gradients &= all(parameter.grad is not None for parameter in pl_module.parameters())


@pytest.mark.parametrize("library", [lightning.pytorch, pytorch_lightning])
def test_the_fitted_model_is_exactly_as_sparse_as_asked(tmp_path: Path, library: ModuleType) -> None:
    callback = PruningCallback(RECIPE)
    watch = Watch(callback)
    trainer = make_trainer(tmp_path, callback, watch, library=library)
    trainer.fit(module(library), loader())
    masks = callback.pruner.masks
    assert masks.numel - masks.kept == 0.75 * 288
    assert watch.sparsities == RAMP
    assert watch.all_zero
    assert watch.all_gradients
    assert trainer.callback_metrics["sparsity"].item() == 0.75
    assert zeros(callback)


def test_every_forward_pass_sees_the_zeros(tmp_path: Path) -> None:
    model = module()
    make_trainer(tmp_path, PruningCallback({"target": {"value": 0.75}}, submodule="net.0")).fit(
        model, loader()
    )
    assert [int((weight == 0).sum()) for weight in model.weights_at_forward] == [192] * STEPS


@pytest.mark.parametrize("batches", [2, 4])
def test_steps_of_the_optimizer_are_counted_not_batches(tmp_path: Path, batches: int) -> None:
    callback = PruningCallback(RECIPE)
    watch = Watch(callback)
    trainer = make_trainer(tmp_path, callback, watch, max_epochs=2, accumulate_grad_batches=batches)
    trainer.fit(module(), loader())
    # 2 epochs of 6 batches: 3 + 3 steps, or 2 + 2, since an epoch's last batch always steps.
    steps = 6 if batches == 2 else 4
    assert trainer.global_step == steps
    due = [round(216 * (1 - max(0, 1 - 2 * step / steps) ** 3)) / 288 for step in range(steps + 1)]
    stepped = {2: [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6], 4: [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4]}[batches]
    assert watch.sparsities == [due[step] for step in stepped]


def test_the_masks_of_a_part_have_the_names_of_the_part(tmp_path: Path) -> None:
    callback = PruningCallback(RECIPE, submodule="net")
    make_trainer(tmp_path, callback).fit(module(), loader())
    assert set(callback.pruner.masks) == {"0.weight", "2.weight"}


@pytest.mark.parametrize("recipe", [RECIPE, *LEARNING.values()], ids=["cubic", *LEARNING])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, recipe: dict[str, object]) -> None:
    whole, callback = module(), PruningCallback(recipe)
    # At the end of epochs, since Lightning starts an epoch anew that was left in its middle.
    every = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    make_trainer(tmp_path, callback, every, max_epochs=3).fit(whole, loader(24))
    resumed, other = module(), PruningCallback(recipe)
    trainer = make_trainer(tmp_path, other, max_epochs=3)
    trainer.fit(resumed, loader(24), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert trainer.global_step == STEPS
    assert len(resumed.weights_at_forward) == STEPS - 2
    assert other.pruner.masks == callback.pruner.masks
    assert other.pruner.masks.sparsity == 0.75
    assert len(other.pruner.history) >= 3
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))


def test_a_checkpoint_without_its_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dense.ckpt"
    dense = make_trainer(tmp_path)
    dense.fit(module(), loader())
    dense.save_checkpoint(path)
    trainer = make_trainer(tmp_path, PruningCallback(RECIPE), max_epochs=2)
    with pytest.raises(ValueError, match="holds no state of this callback"):
        trainer.fit(module(), loader(), ckpt_path=path, weights_only=True)


def test_endless_training_needs_to_be_told_its_steps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_steps or max_epochs"):
        make_trainer(tmp_path, PruningCallback(RECIPE), max_epochs=-1).fit(module(), loader())


def test_a_schedule_of_several_trainings_is_refused(tmp_path: Path) -> None:
    callback = PruningCallback({**RECIPE, "schedule": {"name": "lottery_ticket"}})
    with pytest.raises(ValueError, match=r"lottery_ticket trains \d+ times, and a callback serves one"):
        make_trainer(tmp_path, callback).fit(module(), loader())


def test_the_best_checkpoint_is_the_best_of_the_full_sparsity(tmp_path: Path) -> None:
    best = ModelCheckpoint(
        tmp_path, filename="{step}", monitor="chosen", mode="max", save_on_train_epoch_end=False
    )
    patience = EarlyStopping("chosen", mode="max", patience=2, check_on_train_epoch_end=False)
    callback = PruningCallback(RECIPE)
    # Accuracy falls while pruning and comes back: the dense start must neither win nor stop the training.
    model = module(metrics=(0, 0.9, 0.5, 0.3, 0.6, 0.7, 0.65))
    trainer = make_trainer(tmp_path, callback, best, patience, val_check_interval=1, num_sanity_val_steps=0)
    trainer.fit(model, loader(), loader())
    assert trainer.global_step == STEPS
    assert Path(best.best_model_path).name == "step=5.ckpt"
    weights = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    assert sum(int((weights[name] == 0).sum()) for name in callback.pruner.masks) == 216


def test_patience_begins_with_the_whole_target(tmp_path: Path) -> None:
    # Nothing is pruned before the third of six steps, and each is worse than the one before.
    recipe = {**RECIPE, "schedule": {"name": "one_shot", "params": {"start_fraction": 1.0}}}
    patience = EarlyStopping("chosen", mode="max", patience=1, check_on_train_epoch_end=False)
    callback = PruningCallback(recipe)
    model = module(metrics=(0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4))
    trainer = make_trainer(tmp_path, callback, patience, val_check_interval=1, num_sanity_val_steps=0)
    trainer.fit(model, loader(), loader())
    assert trainer.global_step == 4
    assert callback.pruner.masks.sparsity == pytest.approx(0.75, abs=0.001)


def test_fitting_again_starts_anew(tmp_path: Path) -> None:
    callback = PruningCallback(RECIPE)
    for _ in range(2):
        watch = Watch(callback)
        make_trainer(tmp_path, callback, watch).fit(module(), loader())
        assert watch.sparsities == RAMP
