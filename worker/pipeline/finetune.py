"""Stage finetune: train the model while its schedule prunes it, then with its masks fixed."""

import torch
from pydantic import JsonValue
from torch import nn

from app.core.report import HistoryRow
from app.core.spec import Finetune
from app.core.states import Stage
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.pruning import (
    find_full_sparsity,
    make_history_row,
    make_pruner,
    read_masks,
    write_pruned,
)
from worker.pruning import Pruner
from worker.pruning.rounds import Round, plan_rounds
from worker.training.finetune import StepResult, Training, finetune

# How much a new batch moves the running loss and accuracy.
_SMOOTHING = 0.05


def run_finetune(job: Job, folder: StageFolder, progress: ProgressReporter) -> Data:
    """Fine-tune from the dense weights, pruning before the steps that the schedule says.

    Raises DivergedTraining.
    """
    settings = job.spec.finetune
    if settings is None:
        return {"reason": "no finetune in the spec"}
    network = job.read_dense().network
    assert job.task is not None  # fine-tuning needs a dataset, which has a task
    training = Training(settings, job.splits["train"], job.task.objective, job.spec.seed, job.device)
    run = _Run(job, make_pruner(job, network), training, progress)
    finetune(network.module, training, companion=run, dense=_read_teacher(job, settings))
    masks = run.pruner.masks
    write_pruned(folder, network.module, masks, run.history)
    return {"steps": training.steps, "rounds": len(run.history), "sparsity": masks.sparsity, "loss": run.loss}


def _read_teacher(job: Job, settings: Finetune) -> nn.Module | None:
    return job.read_dense().network.module if settings.distillation else None


class _Run:
    """Goes along with a fine-tune: prunes by the schedule, keeps the history, reports the progress."""

    def __init__(self, job: Job, pruner: Pruner, training: Training, progress: ProgressReporter) -> None:
        self.pruner = pruner
        self.history: list[HistoryRow] = []
        self.loss: float | None = None
        self._accuracy: float | None = None
        self._full_sparsity = find_full_sparsity(job, read_masks(job.folder(Stage.PRUNE)))
        self._steps = training.steps
        self._progress = progress
        self._rounds: dict[int, list[Round]] = {}
        for planned in plan_rounds(job.spec.recipe.schedule, training.steps):
            self._rounds.setdefault(planned.step, []).append(planned)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        self.pruner.attach(optimizer)

    def before_step(self, step: int) -> None:
        for planned in self._rounds.get(step, ()):
            masks = self.pruner.update(planned.progress)
            row = make_history_row(planned, masks, full_sparsity=self._full_sparsity, metrics=self._metrics())
            self.history.append(row)

    def after_step(self, result: StepResult) -> None:
        self.pruner.step()
        self.loss = _smooth(self.loss, result.loss)
        self._accuracy = _smooth(self._accuracy, result.accuracy)
        self._progress.report(result.step + 1, self._steps, self._describe)

    def _metrics(self) -> dict[str, float]:
        if self.loss is None or self._accuracy is None:
            return {}
        return {"train_loss": self.loss, "train_accuracy": self._accuracy}

    def _describe(self) -> dict[str, JsonValue]:
        sparsity = self.history[-1].sparsity if self.history else 0.0
        return {**self._metrics(), "sparsity": sparsity}


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else before + _SMOOTHING * (now - before)
