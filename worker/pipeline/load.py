"""Stage load: check the uploads against the architecture and against each other."""

from app.core.errors import InvalidDataset
from worker.datasets.images import check_fit
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job
from worker.pipeline.progress import ProgressReporter


def run_load(job: Job, folder: StageFolder, progress: ProgressReporter) -> Data:
    """Read model and dataset once, with every check that they have.

    Raises what the readers find, and InvalidDataset when the spec needs a split that is not there.
    """
    network = job.read_dense().network
    for split in job.splits.values():
        check_fit(split, input_shape=network.input_shape, classes=network.classes)
    if job.spec.finetune and "train" not in job.splits:
        found = ", ".join(sorted(job.splits)) or "no dataset"
        raise InvalidDataset(f"fine-tuning needs the split train; found: {found}")
    return {
        "parameters": sum(p.numel() for p in network.module.parameters()),
        "input_shape": list(network.input_shape),
        "classes": network.classes,
        "samples": {name: len(split) for name, split in job.splits.items()},
    }
