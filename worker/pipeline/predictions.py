"""Run the test split for a stage and keep the records, one row a sample."""

import torch
from torch import nn

from worker.measure.records import record_split
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job

_NAME = "records.safetensors"


def predict_test_split(job: Job, folder: StageFolder, module: nn.Module) -> Data:
    """Run the test split, keep the records and return the accuracy, where the task has one."""
    if job.test_split is None or job.task is None:
        return {}
    records = record_split(
        module,
        job.test_split,
        job.task.objective,
        batch_size=job.spec.evaluation.batch_size,
        device=job.device,
    )
    folder.write_tensors(_NAME, records)
    if "accuracy" not in job.task.metrics:
        return {"n": len(job.test_split)}
    correct = int((records["prediction"] == records["truth"]).sum())
    return {"accuracy": correct / len(job.test_split), "correct": correct, "n": len(job.test_split)}


def read_records(folder: StageFolder) -> dict[str, torch.Tensor]:
    """Return the records that a stage kept of the test split."""
    return folder.read_tensors(_NAME)
