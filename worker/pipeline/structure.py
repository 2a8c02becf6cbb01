"""Cut the dense model of a job down to its structure's target, and say what came of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from app.core.errors import DatasetMismatch
from app.core.report import HistoryRow, StructureGroup, StructureProbe, StructureReport
from app.core.spec import Structure
from worker.measure.latency import measure_p50_ms
from worker.measure.macs import count_macs
from worker.measure.metrics import METRICS, measure
from worker.measure.records import record_split
from worker.models.inputs import Inputs
from worker.models.registry import Network
from worker.pipeline.folder import StageFolder
from worker.pipeline.job import REMOVAL_NAME, Job
from worker.pipeline.predictions import take_answers
from worker.pipeline.pruning import draw_calibration_batches, make_loss
from worker.pipeline.tracing import draw_inputs
from worker.pruning.removal.groups import Group
from worker.pruning.removal.shrinking import Measure, Shrunk, shrink
from worker.pruning.removal.surgery import Removal, dump_removal
from worker.pruning.removal.tracer import Axis

_REPORT_NAME = "structure.json"
_ACCURACY = "accuracy"
_JUDGED_ON_TEST = (
    "how much is cut out was chosen by the accuracy of the test split, since there is no validation split: "
    "its drop on other data may be larger"
)


def cut_structure(job: Job, structure: Structure, folder: StageFolder, network: Network) -> list[str]:
    """Cut a network in place, keep what was cut in the stage's folder, and return warnings.

    Raises what the library finds: a pass that cannot be traced, a target that cannot be reached.
    """
    data = _draw_batches(job, network)
    shrunk = shrink(
        network.module,
        structure.model_dump(mode="json", exclude_none=True),
        data,
        make_loss(job),
        seed=job.spec.seed,
        measures=_list_measures(job, structure, network),
    )
    folder.write_json(REMOVAL_NAME, dump_removal(shrunk.removal))
    folder.write_json(_REPORT_NAME, _describe(structure, shrunk).model_dump(mode="json"))
    is_judged = structure.target.metric == "accuracy_drop" and "validation" not in job.splits
    return [_JUDGED_ON_TEST] if is_judged else []


def read_structure_report(folder: StageFolder) -> StructureReport:
    """Read what the stage kept of the cut."""
    return StructureReport.model_validate(folder.read_json(_REPORT_NAME))


def list_probe_rows(report: StructureReport) -> tuple[HistoryRow, ...]:
    """Return the sizes that were tried as rows of the history."""
    return tuple(
        HistoryRow(
            round=number,
            step=0,
            target=0.0,
            sparsity=0.0,
            metrics={report.metric: probe.value},
            note=f"structure: {probe.removed} units cut out",
        )
        for number, round in enumerate(report.probes, start=1)
        for probe in round
    )


def _draw_batches(job: Job, network: Network) -> Sequence[tuple[Inputs, Any]]:  # Any: a task's targets
    batches = draw_calibration_batches(job, network)
    if batches:
        return batches
    return [(draw_inputs(network, job.device), torch.zeros(2, dtype=torch.int64))]


def _list_measures(job: Job, structure: Structure, network: Network) -> dict[str, Measure]:
    blank = network.inputs.blank(1, job.device)
    measures: dict[str, Measure] = {"macs": lambda module: float(count_macs(module, blank).total)}
    settings = job.spec.evaluation.latency
    if settings is not None:
        batch = network.inputs.blank(settings.batch_size, job.device)
        measures["latency_ms"] = lambda module: measure_p50_ms(module, batch, repeats=settings.repeats)
    if structure.target.metric == "accuracy_drop":
        dense = _measure_accuracy(job, network.module)
        measures["accuracy_drop"] = lambda module: dense - _measure_accuracy(job, module)
    return measures


def _measure_accuracy(job: Job, module: nn.Module) -> float:
    split = job.splits.get("validation") or job.test_split
    if split is None or job.task is None or _ACCURACY not in job.task.metrics:
        named = job.task.name if job.task else "no task"
        raise DatasetMismatch(f"a target of accuracy_drop needs a dataset with accuracy, found {named}")
    records = record_split(
        module,
        split,
        job.task.objective,
        batch_size=job.spec.evaluation.batch_size,
        device=job.device,
    )
    return measure(METRICS[_ACCURACY], take_answers(job, records))


def _describe(structure: Structure, shrunk: Shrunk) -> StructureReport:
    groups = []
    for group in shrunk.groups:
        groups.append(
            StructureGroup(
                name=group.name,
                kind=group.kind,
                tensors=tuple(
                    dict.fromkeys(cut.where.tensor for cut in group.cuts if isinstance(cut.where, Axis))
                ),
                units_before=group.units,
                units_after=_count_kept(group, shrunk.removal),
                why_not=group.why_not,
            )
        )
    return StructureReport(
        metric=structure.target.metric,
        target=structure.target.value,
        before=shrunk.before,
        after=shrunk.after,
        groups=tuple(groups),
        probes=tuple(
            tuple(StructureProbe(removed=probe.removed, value=probe.value) for probe in round)
            for round in shrunk.probes
        ),
    )


def _count_kept(group: Group, removal: Removal) -> int:
    for cut in group.cuts:
        if isinstance(cut.where, Axis) and cut.where in removal.kept:
            kept = set(removal.kept[cut.where].tolist())
            return sum(int(row[0]) in kept for row in cut.index)
    return group.units
