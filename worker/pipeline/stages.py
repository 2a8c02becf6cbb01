"""Run the stages in their order, each skipped when its manifest stands from an earlier attempt."""

from collections.abc import Callable, Mapping

from app.core.states import Stage
from worker.measure.size import digest_file
from worker.numerics import seed_everything
from worker.pipeline.baseline import run_baseline
from worker.pipeline.evaluate import run_evaluate
from worker.pipeline.export import run_export
from worker.pipeline.finetune import run_finetune
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job
from worker.pipeline.load import run_load
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.prune import run_prune
from worker.pipeline.verify import run_verify
from worker.protocol import RunnerMessage, StageFinished, StageStarted
from worker.pruning.removal.shrinking import ACCURACY_PROBES

RunStage = Callable[[Job, StageFolder, ProgressReporter], Data]
_STAGES: Mapping[Stage, RunStage] = {
    Stage.LOAD: run_load,
    Stage.BASELINE: run_baseline,
    Stage.PRUNE: run_prune,
    Stage.FINETUNE: run_finetune,
    Stage.EVALUATE: run_evaluate,
    Stage.EXPORT: run_export,
    Stage.VERIFY: run_verify,
}


def run_stages(job: Job, send: Callable[[RunnerMessage], None]) -> None:
    """Run or skip every stage; each manifest names the one before it, so a change is seen down the line."""
    # Also on a resumed run: the local copies may have been fetched anew.
    job.check_uploads()
    inputs = {"job": job.digest}
    for stage, run in _STAGES.items():
        folder = job.folder(stage)
        if stage is Stage.EVALUATE:
            # What the exported file answers is compared with this, sample by sample, in the same batches.
            inputs["batch_size"] = str(job.evaluation.batch_size)
        send(StageStarted(stage=stage))
        standing = folder.read_standing(inputs)
        if standing is None:
            data = _run_stage(job, run, folder, inputs, _make_progress(job, send, stage))
        else:
            data = standing.data
        folder.drop_checkpoints()
        send(StageFinished(stage=stage, skipped=standing is not None, data=data))
        inputs = {"job": job.digest, "before": digest_file(folder.manifest_path)}


def _make_progress(job: Job, send: Callable[[RunnerMessage], None], stage: Stage) -> ProgressReporter:
    finetune, structure = job.spec.finetune, job.spec.structure
    probes = 0
    if structure and structure.target.metric == "accuracy_drop":
        probes = ACCURACY_PROBES * structure.rounds
    return ProgressReporter(
        send,
        stage,
        has_finetune=finetune is not None,
        probe_trainings=finetune.probe_fraction * probes if finetune else 0.0,
    )


def _run_stage(
    job: Job, run: RunStage, folder: StageFolder, inputs: Mapping[str, str], progress: ProgressReporter
) -> Data:
    folder.begin(inputs)
    # Seeded anew, so that a stage does the same whether those before it ran or were skipped.
    seed_everything(job.spec.seed)
    data = run(job, folder, progress)
    folder.finish(inputs, data)
    return data
