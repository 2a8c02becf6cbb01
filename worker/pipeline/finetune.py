"""Stage finetune: train the model while its schedule prunes it, then with its masks fixed."""

from pydantic import JsonValue

from app.core.errors import DivergedTraining, NonfiniteAnswers
from app.core.report import HistoryRow
from worker.numerics import is_out_of_memory
from worker.pipeline.controls import Ticket, plan_control, train_control
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.pruning import find_full_sparsity, make_pruner, write_pruned
from worker.pipeline.salvage import weights_salvaged
from worker.pipeline.training import make_teacher, make_training, make_validation
from worker.pipeline.watch import StageWatch
from worker.pruning import MaskSet
from worker.stopping import stops_gracefully
from worker.training.checkpoint import Checkpoints
from worker.training.cycles import plan_phases
from worker.training.history import Row
from worker.training.loop import Training
from worker.training.precision import computes_in_bfloat16
from worker.training.recovery import Recovery

_CHECKPOINTS = "training"


def run_finetune(job: Job, folder: StageFolder, progress: ProgressReporter) -> Data:
    """Fine-tune from the dense weights, or go on where an attempt before this one stopped.

    When memory runs out, it is done again from the start in batches of half the size; where the kernel
    killed the attempt before, it goes on in such batches. Raises DivergedTraining, whose last good
    checkpoint becomes an artifact, or SparsityLost.
    """
    settings = job.spec.finetune
    if settings is None:
        return {"reason": "no finetune in the spec"}
    checkpoints = folder.checkpoints(_CHECKPOINTS, interval_s=job.spec.resources.checkpoint_s)
    is_halved = job.given.is_halved or _was_halved(checkpoints)
    with weights_salvaged(job, checkpoints):
        try:
            return _Attempt(job, folder, progress, is_halved=is_halved).run()
        except (MemoryError, RuntimeError) as error:
            if is_halved or settings.batch_size == 1 or not is_out_of_memory(error):
                raise
        # Behind the handler: the error's trace would keep the tensors of the attempt alive.
        folder.drop_checkpoints()
        progress.tell_halved(settings.batch_size)
        return _Attempt(job, folder, progress, is_halved=True).run()


def _was_halved(checkpoints: Checkpoints) -> bool:
    newest = checkpoints.read()
    return newest is not None and newest["is_halved"]


class _Attempt:
    """One attempt at the stage: the recipe's trainings, then those of its controls."""

    def __init__(self, job: Job, folder: StageFolder, progress: ProgressReporter, *, is_halved: bool) -> None:
        # Fine-tuning needs a dataset, which has a task.
        assert job.spec.finetune is not None
        assert job.task is not None
        self._job = job
        self._folder = folder
        self._progress = progress
        self._training = make_training(job, job.spec.finetune, job.task, is_halved=is_halved)
        self._teacher = make_teacher(job, self._training)
        self._validation = make_validation(job, self._training)

    def run(self) -> Data:
        """Train from the start or from the newest checkpoint; returns what the stage has to say."""
        job = self._job
        network = job.read_start().network
        pruner = make_pruner(job, network, steps=self._training.steps)
        phases = plan_phases(self._training, pruner.cycles)
        recovery = Recovery(
            network.module,
            pruner,
            phases,
            checkpoints=self._folder.checkpoints(_CHECKPOINTS, interval_s=job.spec.resources.checkpoint_s),
            teacher=self._teacher,
            validation=self._validation,
        )
        controls = pruner.cycles.controls if pruner.cycles else ()
        lengths = [plan_control(control, self._training, phases).length for control in controls]
        total = recovery.total + sum(lengths)
        with stops_gracefully() as stop:
            masks = recovery.run(StageWatch(self._progress, 0, total, stop))
        write_pruned(self._folder, pruner, masks, _make_history(job, recovery, masks))
        ticket = Ticket(
            training=self._training,
            phases=phases,
            teacher=self._teacher,
            validation=self._validation,
            masks=masks,
            pruner_state=pruner.state_dict(),
            rewind_state=recovery.rewind_state,
        )
        files: list[JsonValue] = []
        warnings = _warn(self._training)
        for number, control in enumerate(controls):
            with stops_gracefully() as stop:
                watch = StageWatch(self._progress, recovery.total + sum(lengths[:number]), total, stop)
                # The ticket is what was asked for, and it stands.
                try:
                    name = train_control(job, self._folder, control, ticket=ticket, watch=watch)
                except (DivergedTraining, NonfiniteAnswers) as error:
                    warnings.append(f"the control {control} is missing: {error.detail}")
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    warnings.append(f"the control {control} is missing: memory ran out")
                else:
                    files.append({"name": control, "records": name})
        told = _describe(recovery, masks, self._training)
        return {**told, "warnings": warnings, "controls": files}


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


def _warn(training: Training) -> list[JsonValue]:
    warnings: list[JsonValue] = []
    settings = training.settings
    if training.is_halved and settings.batch_size > 1:
        warnings.append(
            f"memory ran out: the fine-tune, or what was left of it, was computed in batches of half of "
            f"{settings.batch_size}, twice as many a step, so that a step sees as many samples"
        )
    if settings.precision == "bfloat16" and not computes_in_bfloat16(training.device):
        warnings.append(
            f"this {training.device.type} has no instructions for bfloat16, and standing in for them takes "
            "many times as long: the fine-tune was computed in float32"
        )
    return warnings


def _describe(recovery: Recovery, masks: MaskSet, training: Training) -> Data:
    return {
        "steps": recovery.steps_done,
        "planned_steps": recovery.total,
        "rounds": len(recovery.history.rows),
        "sparsity": masks.sparsity,
        "loss": recovery.metrics.get("train_loss"),
        "best_step": recovery.best["step"] if recovery.best else None,
        "is_halved": training.is_halved,
    }
