"""Prune inside the Trainer of Lightning: `Trainer(..., callbacks=[PruningCallback(recipe)])`."""

from collections.abc import Mapping
from typing import Any

import torch

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer
    except ImportError as error:
        raise ImportError(
            "worker.pruning.callbacks.lightning needs the package lightning (or pytorch-lightning): "
            "pip install lightning"
        ) from error

from worker.pruning.callbacks.run import check_one_run, finish, is_full
from worker.pruning.decision import Data
from worker.pruning.pruner import Pruner
from worker.pruning.recipe import Recipe
from worker.pruning.statistics.calibration import Loss


class PruningCallback(Callback):  # type: ignore[misc]  # types of Lightning are not checked
    """Prune the module that a Trainer fits, by one recipe, as the schedule says; exact when training ends.

    Give it in a list; it serves the Trainer of `lightning` and that of `pytorch_lightning`. `submodule` names
    the part of the LightningModule to prune, whose own names the masks and the recipe then use; all of it
    by default. `steps` is the number of batches with an optimizer step in the whole run, where Lightning
    cannot know it. `data` and `loss` are those of the Pruner. `pruner` is there from the start of training;
    its state is part of Lightning's checkpoints. The sparsity is logged under that name.
    """

    def __init__(
        self,
        recipe: Recipe | Mapping[str, Any],  # Any: JSON, checked when read
        data: Data | None = None,
        loss: Loss | None = None,
        *,
        submodule: str = "",
        seed: int = 0,
        steps: int | None = None,
    ) -> None:
        self.pruner: Pruner | None = None
        self._recipe = recipe
        self._data = data
        self._loss = loss
        self._submodule = submodule
        self._seed = seed
        self._steps = steps
        self._restored: dict[str, Any] = {}  # Any: the state of a pruner
        self._steps_seen = 0
        self._sparsity = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pruner, restore it where a checkpoint was restored, prune what is due before any step."""
        model = pl_module.get_submodule(self._submodule)
        self.pruner = Pruner(
            model, self._recipe, self._data, self._loss, seed=self._seed, steps=self._count_steps(trainer)
        )
        check_one_run(self.pruner)
        if trainer.global_step > 0:
            if not self._restored:
                raise ValueError(
                    "the checkpoint that training resumes from holds no state of this callback: it was saved "
                    "without it; load its weights into the module and start training anew"
                )
            self.pruner.load_state_dict(self._restored)
        for optimizer in trainer.optimizers:
            self.pruner.attach(optimizer)
        self._steps_seen = trainer.global_step
        self._sparsity = self.pruner.masks.sparsity

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Keep pruned weights at zero, and prune when a round is due.

        Lightning zeroes gradients during the next batch, after its forward pass: so here they are still
        there, and a later hook would let that pass see weights that ought to be zero.
        """
        # A batch that only accumulates gradients takes no step; several optimizers take several in one batch.
        if trainer.global_step > self._steps_seen:
            self._steps_seen = trainer.global_step
            if self._pruner.step() is not None:
                sparsity = self._pruner.masks.sparsity
                if sparsity > self._sparsity:
                    _forget_best(trainer)
                self._sparsity = sparsity
            if not is_full(self._pruner):
                _be_patient(trainer)
        pl_module.log("sparsity", self._sparsity)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune to the full target, exactly."""
        self._sparsity = finish(self._pruner)
        self._restored = {}

    def state_dict(self) -> dict[str, Any]:  # Any: tensors and JSON values, nested
        """Return the pruner's state for Lightning's checkpoint."""
        return self.pruner.state_dict() if self.pruner is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # Any: what state_dict returned
        """Keep the state for the start of training: there is no pruner yet."""
        self._restored = state_dict

    @property
    def _pruner(self) -> Pruner:
        if self.pruner is None:
            raise RuntimeError("the pruner is made when training starts: call the Trainer's fit() first")
        return self.pruner

    def _count_steps(self, trainer: Trainer) -> int:
        steps = trainer.estimated_stepping_batches if self._steps is None else self._steps
        if steps == float("inf"):
            raise ValueError(
                "a schedule needs to know how long training lasts: give the Trainer max_steps or max_epochs, "
                "or PruningCallback(..., steps=...)"
            )
        return int(steps)


def _forget_best(trainer: Trainer) -> None:
    """Forget what was best with fewer zeros: only checkpoints as sparse as the model is now compare.

    Otherwise the best checkpoint would be one from before the pruning.
    """
    for callback in trainer.callbacks:
        # ModelCheckpoint; its files stay on the disk.
        if hasattr(callback, "best_k_models") and callback.monitor is not None:
            callback.best_k_models = {}
            callback.kth_best_model_path = callback.best_model_path = ""
            callback.best_model_score = None
    _be_patient(trainer)


def _be_patient(trainer: Trainer) -> None:
    """Let early stopping begin anew: it would take what a round costs for the end of learning."""
    for callback in trainer.callbacks:
        if hasattr(callback, "wait_count"):
            callback.wait_count = 0
            infinity = torch.tensor(torch.inf)
            callback.best_score = infinity if callback.mode == "min" else -infinity
