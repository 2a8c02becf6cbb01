"""Prune the model of a job: its recipe, its seed, batches of its train split, and what each round reached."""

from collections.abc import Mapping
from typing import cast

import torch

from app.core.report import HistoryRow
from worker.datasets.splits import Batch
from worker.datasets.windows import WindowSplit
from worker.measure.macs import count_macs
from worker.models.inputs import TextInput, move
from worker.models.registry import Network
from worker.pipeline.folder import StageFolder
from worker.pipeline.job import MASKS_NAME, STATE_NAME, Job
from worker.pipeline.row_names import follow_blocks
from worker.pruning import MaskSet, Pruner
from worker.pruning.layers import find_layers
from worker.pruning.measured import Measured
from worker.pruning.rounds import Round
from worker.pruning.statistics.calibration import Loss, logits_of

_HISTORY_NAME, _SENSITIVITY_NAME = "history.json", "sensitivity.json"
_CALIBRATION_IMAGES, _IMAGES_A_BATCH = 512, 128
# Gradients of 128 texts of a large vocabulary would take gigabytes.
_CALIBRATION_TEXTS, _TEXTS_A_BATCH = 256, 16


def make_pruner(job: Job, network: Network, *, steps: int | None = None) -> Pruner:
    """Make the pruner of a job's recipe for a network and a training of `steps`."""
    asked = job.spec.recipe
    rows = follow_blocks(asked.layers, find_layers(network.module), job.removal) if asked.layers else ()
    given = asked.model_copy(update={"layers": rows}).model_dump(mode="json", exclude_none=True)
    counts_macs = asked.target.metric == "macs"
    macs = count_macs(network.module, network.inputs.blank(1, job.device)) if counts_macs else None
    return Pruner(
        network.module,
        given,
        data=draw_calibration_batches(job, network),
        loss=make_loss(job),
        seed=job.spec.seed,
        measured=Measured(macs.by_weight, macs.rest) if macs else Measured(),
        steps=steps,
    )


def find_full_sparsity(job: Job, masks: MaskSet) -> float:
    """Return the sparsity of the full target, whose masks these are, in whatever metric it was asked for."""
    target = job.spec.recipe.target
    return target.value if target.metric == "sparsity" else masks.sparsity


def make_history_row(
    pruned: Round, masks: MaskSet, *, full_sparsity: float, metrics: Mapping[str, float]
) -> HistoryRow:
    """Say what a round was asked for and what it reached."""
    return HistoryRow(
        round=pruned.number,
        step=pruned.step,
        target=pruned.fraction * full_sparsity,
        sparsity=masks.sparsity,
        metrics=dict(metrics),
    )


def write_pruned(folder: StageFolder, pruner: Pruner, masks: MaskSet, history: list[HistoryRow]) -> None:
    """Keep a pruned model, its masks, its rounds and what its layers cost in a stage's folder."""
    folder.write_tensors(STATE_NAME, pruner.model.state_dict())
    masks.save(folder.path / MASKS_NAME)
    folder.write_json(_HISTORY_NAME, [row.model_dump(mode="json") for row in history])
    folder.write_json(_SENSITIVITY_NAME, dict(pruner.sensitivity()))


def read_masks(folder: StageFolder) -> MaskSet:
    """Read the masks that a stage kept."""
    return MaskSet.load(folder.path / MASKS_NAME)


def read_history(folder: StageFolder) -> tuple[HistoryRow, ...]:
    """Read the rounds that a stage kept."""
    rows = folder.read_json(_HISTORY_NAME)
    assert isinstance(rows, list)  # written by write_pruned
    return tuple(HistoryRow.model_validate(row) for row in rows)


def read_sensitivity(folder: StageFolder) -> dict[str, float]:
    """Read what a stage kept of how much each layer alone raises the loss, by name."""
    rises = folder.read_json(_SENSITIVITY_NAME)
    assert isinstance(rises, dict)  # written by write_pruned
    return cast(dict[str, float], rises)


def draw_calibration_batches(job: Job, network: Network) -> list[Batch] | None:
    """Draw the batches of the train split that criteria read, the same for every call; None without any."""
    split = job.splits.get("train")
    if split is None:
        return None
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(job.spec.seed))
    samples, size = _CALIBRATION_IMAGES, _IMAGES_A_BATCH
    if isinstance(network.inputs, TextInput):
        samples, size = _CALIBRATION_TEXTS, _TEXTS_A_BATCH
    if isinstance(split, WindowSplit):
        size = min(size, split.most_at_once)
    picks = torch.split(order[:samples], size)
    batches = map(split.take, picks)
    return [Batch(move(batch.inputs, job.device), batch.targets.to(job.device)) for batch in batches]


def make_loss(job: Job) -> Loss | None:
    """Return the loss of the job's task, over whatever the model returns; None without a dataset."""
    if job.task is None:
        return None
    objective = job.task.objective
    return lambda outputs, targets: objective.loss(logits_of(outputs), targets)
