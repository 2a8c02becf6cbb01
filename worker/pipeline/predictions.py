"""Run the test split for a stage and keep the records, one row a sample."""

from collections.abc import Mapping

from pydantic import JsonValue
from torch import Tensor, nn

from app.core.errors import DatasetMismatch
from worker.measure.comparison import read_answers
from worker.measure.metrics import METRICS, Answers, MetricKind, measure
from worker.measure.records import record_split
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job

_NAME = "records.safetensors"


def predict_test_split(job: Job, folder: StageFolder, module: nn.Module) -> Data:
    """Run the test split, keep the records and return every metric by name; nothing without a dataset."""
    if job.test_split is None or job.task is None:
        return {}
    records = record_split(
        module,
        job.test_split,
        job.task.objective,
        batch_size=job.evaluation.batch_size,
        device=job.device,
    )
    folder.write_tensors(_NAME, records)
    answers = take_answers(job, records)
    values: Data = {kind.name: measure(kind, answers) for kind in find_metrics(job)}
    return {**values, "n": len(job.test_split)}


def find_metrics(job: Job) -> tuple[MetricKind, ...]:
    """Return the metrics that the spec asks for, all of the task when it names none, none without a dataset.

    Raises DatasetMismatch for one that the task does not have.
    """
    if job.task is None:
        return ()
    asked = job.spec.evaluation.metrics or job.task.metrics
    for name in asked:
        if name not in job.task.metrics:
            raise DatasetMismatch(
                f"{job.task.name} is not measured by {name}; there are: {', '.join(job.task.metrics)}"
            )
    return tuple(METRICS[name] for name in asked)


def pick_metrics(data: Mapping[str, JsonValue]) -> dict[str, float]:
    """Return the metrics among what a stage said."""
    return {name: value for name, value in data.items() if name in METRICS and isinstance(value, float)}


def read_records(folder: StageFolder) -> dict[str, Tensor]:
    """Return the records that a stage kept of the test split."""
    return folder.read_tensors(_NAME)


def has_records(folder: StageFolder) -> bool:
    """Tell whether a stage has run the test split."""
    return (folder.path / _NAME).exists()


def take_answers(job: Job, records: Mapping[str, Tensor]) -> Answers:
    """Give records of this job's model the number of classes that it tells apart."""
    return read_answers(records, classes=job.outputs)
