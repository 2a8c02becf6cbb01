"""Stage finetune: train the model while its schedule prunes it, then with its masks fixed."""

from pydantic import JsonValue

from app.core.report import HistoryRow
from app.core.spec import Finetune
from worker.numerics import is_out_of_memory
from worker.objectives.registry import Task
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.pruning import find_full_sparsity, make_pruner, write_pruned
from worker.pruning import MaskSet
from worker.training.checkpoint import Checkpoints, Tree
from worker.training.cycles import plan_phases
from worker.training.history import Row
from worker.training.loop import Training
from worker.training.metric import Metric
from worker.training.recovery import Moment, Recovery
from worker.training.teacher import Teacher
from worker.training.validation import Validation

_CHECKPOINTS = "training"


def run_finetune(job: Job, folder: StageFolder, progress: ProgressReporter) -> Data:
    """Fine-tune from the dense weights, or go on where an attempt before this one stopped.

    When memory runs out, it is done again from the start in batches of half the size. Raises
    DivergedTraining or SparsityLost.
    """
    settings = job.spec.finetune
    if settings is None:
        return {"reason": "no finetune in the spec"}
    checkpoints = folder.checkpoints(_CHECKPOINTS, interval_s=job.spec.resources.checkpoint_s)
    resumed = checkpoints.read()
    is_halved = bool(resumed and resumed["is_halved"])
    try:
        return _recover(job, folder, progress, checkpoints, resumed, is_halved=is_halved)
    except (MemoryError, RuntimeError) as error:
        if is_halved or settings.batch_size == 1 or not is_out_of_memory(error):
            raise
    # Behind the handler: the error's trace would keep the tensors of the attempt alive.
    checkpoints.clear()
    return _recover(job, folder, progress, checkpoints, None, is_halved=True)


def _recover(
    job: Job,
    folder: StageFolder,
    progress: ProgressReporter,
    checkpoints: Checkpoints,
    resumed: Tree | None,
    *,
    is_halved: bool,
) -> Data:
    settings, task = job.spec.finetune, job.task
    # Fine-tuning needs a dataset, which has a task.
    assert settings is not None
    assert task is not None
    training = _make_training(job, settings, task, is_halved=is_halved)
    network = job.read_dense().network
    pruner = make_pruner(job, network, steps=training.steps)
    recovery = Recovery(
        network.module,
        pruner,
        plan_phases(training, pruner.cycles),
        checkpoints=checkpoints,
        teacher=_make_teacher(job, training),
        validation=_make_validation(job, training),
    )
    watch = _Watch(recovery, progress)
    if resumed is not None:
        progress.resume(resumed["steps_done"], recovery.total)
    masks = recovery.run(watch, resumed)
    write_pruned(folder, network.module, masks, _make_history(job, recovery, masks))
    return _describe(job, recovery, masks, is_halved=is_halved)


def _make_training(job: Job, settings: Finetune, task: Task, *, is_halved: bool) -> Training:
    return Training(
        settings=settings,
        split=job.splits["train"],
        objective=task.objective,
        metric=_choose_metric(job, settings, task),
        seed=job.spec.seed,
        device=job.device,
        is_halved=is_halved,
    )


def _choose_metric(job: Job, settings: Finetune, task: Task) -> Metric:
    """Take the metric that early stopping names, or the first one of the task."""
    named = settings.early_stopping.metric if settings.early_stopping else None
    return Metric(named or task.metrics[0], job.outputs)


def _make_teacher(job: Job, training: Training) -> Teacher | None:
    if training.settings.distillation is None:
        return None
    return Teacher(
        job.read_dense().network.module,
        training.split,
        settings=training.settings,
        device=training.device,
        blocks=training.plan.first_epoch(),
    )


def _make_validation(job: Job, training: Training) -> Validation | None:
    split = job.splits.get("validation")
    if split is None:
        return None
    return Validation(
        split, training.objective, training.metric, job.spec.evaluation.batch_size, training.device
    )


class _Watch:
    """Reports where a recovery stands."""

    def __init__(self, recovery: Recovery, progress: ProgressReporter) -> None:
        self._recovery = recovery
        self._progress = progress

    def __call__(self, moment: Moment) -> None:
        def describe() -> dict[str, JsonValue]:
            return {
                **moment.metrics,
                "sparsity": moment.sparsity,
                "learning_rate": moment.result.learning_rate,
            }

        self._progress.report(moment.step, moment.total, describe)


def _make_history(job: Job, recovery: Recovery, masks: MaskSet) -> list[HistoryRow]:
    full_sparsity = find_full_sparsity(job, masks)
    return [_make_row(row, full_sparsity) for row in recovery.history.rows]


def _make_row(row: Row, full_sparsity: float) -> HistoryRow:
    return HistoryRow(
        round=row.round,
        step=row.step,
        target=row.fraction * full_sparsity,
        sparsity=row.sparsity,
        metrics=row.metrics,
        note=row.note,
    )


def _describe(job: Job, recovery: Recovery, masks: MaskSet, *, is_halved: bool) -> Data:
    settings = job.spec.finetune
    warnings: list[JsonValue] = []
    if is_halved and settings is not None:
        warnings.append(
            f"memory ran out at a batch size of {settings.batch_size}: the fine-tune was done again in "
            "batches of half the size, twice as many a step, so that a step sees as many samples"
        )
    return {
        "steps": recovery.steps_done,
        "rounds": len(recovery.history.rows),
        "sparsity": masks.sparsity,
        "loss": recovery.metrics.get("train_loss"),
        "best_step": recovery.best["step"] if recovery.best else None,
        "warnings": warnings,
    }
