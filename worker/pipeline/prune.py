"""Stage prune: the cut, the masks at the full target, and what the model can do before any recovery."""

from pydantic import JsonValue

from app.core.report import HistoryRow
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job
from worker.pipeline.predictions import pick_metrics, predict_test_split
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.pruning import find_full_sparsity, make_history_row, make_pruner, write_pruned
from worker.pipeline.structure import cut_structure
from worker.pruning import MaskSet
from worker.pruning.rounds import Round, plan_rounds


def run_prune(job: Job, folder: StageFolder, progress: ProgressReporter) -> Data:
    """Cut the dense model, then prune it to its target at once, or by rounds where no training follows.

    Where the training that follows has to find out what to prune, there is nothing to be done yet.
    """
    loaded = job.read_dense()
    network = loaded.network
    warnings: list[JsonValue] = []
    if job.spec.structure is not None:
        warnings += cut_structure(job, job.spec.structure, folder, loaded, progress)
    pruner = make_pruner(job, network)
    if job.spec.finetune is not None and pruner.learns_scores:
        reason = f"{job.spec.recipe.criterion.name} learns from the training what to prune"
        return {"reason": reason, "warnings": warnings}
    rounds = _plan(job)
    reached: list[MaskSet] = []
    for planned in rounds:
        reached.append(pruner.update(planned.progress))
        progress.report(planned.number, len(rounds))
    masks = reached[-1]
    measured = predict_test_split(job, folder, network.module)
    write_pruned(folder, pruner, masks, _describe_rounds(job, rounds, reached, measured))
    counts = {"sparsity": masks.sparsity, "pruned": masks.numel - masks.kept, "masked": masks.numel}
    return {**measured, **counts, "warnings": warnings}


def _plan(job: Job) -> tuple[Round, ...]:
    if job.spec.finetune is None:
        return plan_rounds(job.spec.recipe.schedule, 0)
    return (Round(number=1, step=0, progress=1.0, fraction=1.0),)


def _describe_rounds(
    job: Job, rounds: tuple[Round, ...], reached: list[MaskSet], measured: Data
) -> list[HistoryRow]:
    """Say what each round reached; only the last was measured."""
    full_sparsity = find_full_sparsity(job, reached[-1])
    metrics = pick_metrics(measured)
    return [
        make_history_row(
            planned,
            masks,
            full_sparsity=full_sparsity,
            metrics=metrics if planned is rounds[-1] else {},
        )
        for planned, masks in zip(rounds, reached, strict=True)
    ]
