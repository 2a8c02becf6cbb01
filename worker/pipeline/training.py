"""What a job trains with, from its spec: the training, its teacher, and what judges it on the way."""

from app.core.finetune import Finetune
from worker.objectives.registry import Task
from worker.pipeline.job import Job
from worker.training.loop import Training
from worker.training.metric import Metric
from worker.training.teacher import Teacher
from worker.training.validation import Validation


def make_training(job: Job, settings: Finetune, task: Task, *, is_halved: bool) -> Training:
    """Return the training that a job's settings ask for, in batches of half the size where memory ran out."""
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


def make_teacher(job: Job, training: Training) -> Teacher | None:
    """Return the dense model as the teacher; None without distillation."""
    if training.settings.distillation is None:
        return None
    return Teacher(
        job.read_dense().network.module,
        training.split,
        settings=training.settings,
        device=training.device,
        blocks=[part for block in training.plan.first_epoch() for part in training.split.cut(block)],
    )


def make_validation(job: Job, training: Training) -> Validation | None:
    """Return what judges the model while it is trained; None without a split for it."""
    split = job.splits.get("validation")
    if split is None:
        return None
    # Which of the two ran out of memory is not known: what judges halves its batches too.
    batch_size = job.spec.evaluation.batch_size
    batch_size = max(1, batch_size // 2) if training.is_halved else batch_size
    return Validation(split, training.objective, training.metric, batch_size, training.device)
