"""Stage load: check the uploads against the architecture and against each other."""

from app.core.errors import DatasetMismatch, InvalidDataset, InvalidSpec
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job
from worker.pipeline.progress import ProgressReporter


def run_load(job: Job, folder: StageFolder, progress: ProgressReporter) -> Data:
    """Read model and dataset once, with every check that they have.

    Raises what the readers find, and InvalidDataset when the spec needs a split that is not there.
    """
    loaded = job.read_dense()
    network = loaded.network
    if job.task is not None and job.task.name not in network.tasks:
        raise DatasetMismatch(
            f"the dataset is for {job.task.name}, the model can serve {', '.join(network.tasks)}"
        )
    for split in job.splits.values():
        split.check_fit(network)
    if job.spec.finetune and "train" not in job.splits:
        found = ", ".join(sorted(job.splits)) or "no dataset"
        raise InvalidDataset(f"fine-tuning needs the split train; found: {found}")
    _check_stopping(job)
    return {
        "parameters": sum(p.numel() for p in network.module.parameters()),
        "inputs": network.inputs.describe(),
        "classes": network.outputs,
        "samples": {name: len(split) for name, split in job.splits.items()},
        "warnings": [*loaded.warnings, *(warning for s in job.splits.values() for warning in s.warnings)],
    }


def _check_stopping(job: Job) -> None:
    stopping = job.spec.finetune.early_stopping if job.spec.finetune else None
    if stopping is None or job.task is None:
        return
    if "validation" not in job.splits:
        found = ", ".join(sorted(job.splits))
        raise InvalidSpec(
            f"finetune.early_stopping is judged on the split validation; the dataset has only: {found}"
        )
    if stopping.metric is not None and stopping.metric not in job.task.metrics:
        raise InvalidSpec(
            f"finetune.early_stopping: {job.task.name} is not measured by {stopping.metric}; "
            f"there are: {', '.join(job.task.metrics)}"
        )
