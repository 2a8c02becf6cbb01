"""Prune inside the Trainer of transformers: `Trainer(..., callbacks=[PruningCallback(recipe)])`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError(
        "worker.pruning.callbacks.transformers needs the package transformers: "
        "pip install transformers accelerate"
    ) from error

from worker.pruning.callbacks.run import check_one_run, finish, is_full
from worker.pruning.callbacks.state import load_state, save_state
from worker.pruning.decision import Data
from worker.pruning.errors import MaskMismatch
from worker.pruning.pruner import Pruner
from worker.pruning.recipe import Recipe
from worker.pruning.statistics.calibration import Loss

STATE_FILE = "pruner.safetensors"


class PruningCallback(TrainerCallback):  # type: ignore[misc]  # types of transformers are not checked
    """Prune the model that a Trainer trains, by one recipe, as the schedule says; exact when training ends.

    `data` and `loss` are those of the Pruner, for criteria that read gradients or activations. The pruner's
    state lies beside each checkpoint, as `pruner.safetensors`, and is found there when training resumes;
    `resume_from` names the checkpoint's folder where it is not below the output folder. The sparsity is
    logged with everything else that the Trainer logs. `pruner` is there from the start of training.
    """

    def __init__(
        self,
        recipe: Recipe | Mapping[str, Any],  # Any: JSON, checked when read
        data: Data | None = None,
        loss: Loss | None = None,
        *,
        seed: int = 0,
        resume_from: str | Path | None = None,
    ) -> None:
        self.pruner: Pruner | None = None
        self._recipe = recipe
        self._data = data
        self._loss = loss
        self._seed = seed
        self._resume_from = resume_from
        self._sparsity = 0.0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        **_: object,
    ) -> None:
        """Make the pruner, restore it where a checkpoint was restored, prune what is due before any step."""
        self.pruner = Pruner(
            model, self._recipe, self._data, self._loss, seed=self._seed, steps=state.max_steps
        )
        check_one_run(self.pruner)
        if state.global_step > 0:
            self._restore(self._resume_from or _checkpoint(args, state.global_step))
        self.pruner.attach(_innermost(optimizer))
        self._sparsity = self.pruner.masks.sparsity

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Keep pruned weights at zero, and prune when a round is due; gradients are still there."""
        is_pruned = self._pruner.step() is not None
        sparsity = self._pruner.masks.sparsity if is_pruned else self._sparsity
        if sparsity > self._sparsity or not is_full(self._pruner):
            # The best model so far was best with fewer zeros: only those as sparse as the last compare, and
            # the patience of early stopping begins with the whole target.
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        self._sparsity = sparsity

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, Any] | None = None,  # Any: what the Trainer logs
        **_: object,
    ) -> None:
        """Add the sparsity to what is logged and to the Trainer's own history."""
        if logs is not None and self.pruner is not None:
            logs["sparsity"] = self._sparsity
            # The Trainer copied the logs into its history before it called.
            state.log_history[-1]["sparsity"] = self._sparsity

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Save the pruner's state into the checkpoint that was just written."""
        if args.should_save:
            save_state(_checkpoint(args, state.global_step) / STATE_FILE, self._pruner.state_dict())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Prune to the full target, exactly; where the best checkpoint was loaded, by its masks."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._restore(state.best_model_checkpoint)
        self._sparsity = finish(self._pruner)

    @property
    def _pruner(self) -> Pruner:
        if self.pruner is None:
            raise RuntimeError("the pruner is made when training begins: call the Trainer's train() first")
        return self.pruner

    def _restore(self, checkpoint: str | Path) -> None:
        path = Path(checkpoint) / STATE_FILE
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is expected in the checkpoint that training resumes from; if the checkpoint lies "
                "elsewhere, name its folder: PruningCallback(..., resume_from=FOLDER)"
            )
        pruner = self._pruner
        weights = dict(pruner.model.named_parameters())
        restored = {name: weights[name].detach().clone() for name in pruner.masks}
        pruner.load_state_dict(load_state(path))
        for name, weight in restored.items():
            if not torch.equal(weight, weights[name]):
                raise MaskMismatch(
                    f"{path} prunes weights of {name} that are not zero in the model: it belongs to another "
                    "checkpoint; name the right folder: PruningCallback(..., resume_from=FOLDER)"
                )


def _checkpoint(args: TrainingArguments, step: int) -> Path:
    """Return the folder of a step's checkpoint; a search of hyperparameters puts a trial's in between."""
    output, name = Path(args.output_dir), f"checkpoint-{step}"
    trials = [] if (output / name).is_dir() else list(output.glob(f"*/{name}"))
    return max(trials, key=lambda path: path.stat().st_mtime_ns, default=output / name)


def _innermost(optimizer: Any) -> torch.optim.Optimizer:  # Any: accelerate's wrapper has no hooks
    """Return the optimizer that takes the steps, out of what accelerate wraps around it."""
    while not hasattr(optimizer, "_optimizer_step_post_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer  # type: ignore[no-any-return]  # a chain of wrappers ends in an optimizer
