"""Cut the dense model of a job down to its structure's target, and say what came of it."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from app.core.report import HistoryRow, StructureGroup, StructureProbe, StructureReport
from app.core.spec import Structure
from worker.datasets.splits import Batch
from worker.formats.registry import LoadedModel
from worker.models.inputs import compute_logits, draw_inputs
from worker.pipeline.accuracy_drop import AccuracyDrop
from worker.pipeline.folder import StageFolder
from worker.pipeline.job import BATCHNORM_NAME, REMOVAL_NAME, Job
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.pruning import draw_calibration_batches, make_loss
from worker.pipeline.sizes import list_measures, time_again
from worker.pruning.layers import Layer, find_layers
from worker.pruning.plan import make_plan
from worker.pruning.recipe import read_recipe
from worker.pruning.removal.blocks import list_names
from worker.pruning.removal.bounds import find_makers
from worker.pruning.removal.groups import Group
from worker.pruning.removal.shrinking import Shrunk, shrink
from worker.pruning.removal.surgery import Removal, dump_removal
from worker.pruning.removal.tracer import Axis
from worker.training.batchnorm import read_statistics, refresh_if_better

_REPORT_NAME = "structure.json"
_JUDGED_ON_TEST = (
    "how much is cut out was chosen by the accuracy of the test split, since there is no validation split: "
    "its drop on other data may be larger"
)


def cut_structure(
    job: Job,
    structure: Structure,
    folder: StageFolder,
    loaded: LoadedModel,
    progress: ProgressReporter,
) -> list[str]:
    """Cut a model in place, keep what was cut in the stage's folder, and return warnings.

    What BatchNorm normalises by is measured anew on the cut network, where that lowers the loss on samples to
    train on: a channel less moves the statistics of all that it flowed into.
    Raises what the library finds: a pass that cannot be traced, a target that cannot be reached.
    """
    network = loaded.network
    layers = find_layers(network.module)
    if structure.cuts_blocks:
        # The recipe's rows speak of the uploaded model: what fits nothing there is refused while it is whole.
        make_plan(network.module, read_recipe(job.spec.recipe.model_dump(mode="json", exclude_none=True)))
    drawn = draw_calibration_batches(job, network) or []
    full = _list_full(drawn)
    measures = list_measures(job, loaded)
    accuracy_drop: AccuracyDrop | None = None
    if structure.target.metric == "accuracy_drop":
        settle = partial(_refresh_if_better, job, drawn=full)
        accuracy_drop = AccuracyDrop(job, folder, progress, network.module, settle)
        measures["accuracy_drop"] = accuracy_drop
    shrunk = shrink(
        network.module,
        structure.model_dump(mode="json", exclude_none=True),
        drawn or [(draw_inputs(network.inputs, job.device), torch.zeros(2, dtype=torch.int64))],
        make_loss(job),
        seed=job.spec.seed,
        measures=measures,
    )
    if structure.target.metric == "latency_ms":
        shrunk = time_again(job, network, shrunk)
    folder.write_json(REMOVAL_NAME, dump_removal(shrunk.removal))
    is_cut = bool(shrunk.removal.kept or shrunk.removal.depths)
    is_refreshed = is_cut and _refresh_if_better(job, network.module, full)
    folder.write_tensors(BATCHNORM_NAME, read_statistics(network.module))
    refreshed = sum(len(batch.targets) for batch in full) if is_refreshed else 0
    probe_steps = accuracy_drop.steps if accuracy_drop else 0
    report = _describe(structure, shrunk, layers, refreshed=refreshed, probe_steps=probe_steps)
    folder.write_json(_REPORT_NAME, report.model_dump(mode="json"))
    lost = accuracy_drop.warnings if accuracy_drop else []
    return [*lost, *warn_of_cut(report, has_validation="validation" in job.splits)]


def warn_of_cut(report: StructureReport, *, has_validation: bool) -> list[str]:
    """Say where a cut was chosen on the samples that judge it, or is slower than its target in the end."""
    warnings = []
    if report.metric == "accuracy_drop" and not has_validation:
        warnings.append(_JUDGED_ON_TEST)
    if report.metric == "latency_ms" and report.after > report.target:
        warnings.append(
            f"the cut model takes {report.after:.4g} ms, measured by turns with the whole one, and the "
            f"target is {report.target:g} ms: each size was chosen by one measurement, and these vary; aim "
            "lower, or give evaluation.latency more repeats"
        )
    return warnings


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


def _list_full(drawn: Sequence[Batch]) -> list[Batch]:
    """Return the batches as large as the first; none where that is one sample, which has no variance.

    In the mean over batches a smaller last one would count as much as a full one.
    """
    sizes = [len(batch.targets) for batch in drawn]
    return [batch for batch, size in zip(drawn, sizes, strict=True) if size == sizes[0] > 1]


def _refresh_if_better(job: Job, module: nn.Module, drawn: Sequence[Batch]) -> bool:
    if not drawn or job.task is None:
        return False
    objective = job.task.objective

    @torch.no_grad()
    def measure_loss() -> float:
        module.eval()
        losses = [objective.loss(compute_logits(module, one.inputs), one.targets) for one in drawn]
        return float(torch.stack(losses).mean())

    return refresh_if_better(module, [batch.inputs for batch in drawn], measure_loss)


def _describe(
    structure: Structure, shrunk: Shrunk, layers: Sequence[Layer], *, refreshed: int, probe_steps: int
) -> StructureReport:
    groups = [_describe_group(group, shrunk.removal, layers) for group in shrunk.groups]
    return StructureReport(
        metric=structure.target.metric,
        target=structure.target.value,
        before=shrunk.before,
        after=shrunk.after,
        batchnorm_samples=refreshed,
        probe_steps=probe_steps,
        groups=tuple(groups),
        probes=tuple(
            tuple(StructureProbe(removed=probe.removed, value=probe.value) for probe in round)
            for round in shrunk.probes
        ),
    )


def _describe_group(group: Group, removal: Removal, layers: Sequence[Layer]) -> StructureGroup:
    axes = [cut.where for cut in group.cuts if isinstance(cut.where, Axis)]
    blocks = list_names(group)
    within = [layer.name for layer in layers if any(layer.name.startswith(f"{one}.") for one in blocks)]
    gone = tuple(name for name in blocks if removal.rename(name) is None)
    return StructureGroup(
        name=group.name,
        kind=group.kind,
        tensors=tuple(dict.fromkeys([*(axis.tensor for axis in axes), *within])),
        made_by=tuple(dict.fromkeys([*find_makers(group, layers), *within])),
        units_before=group.units,
        units_after=_count_kept(group, removal) - len(gone),
        why_not=group.why_not,
        gone=gone,
    )


def _count_kept(group: Group, removal: Removal) -> int:
    """Count the units of which something stayed: a head that lost some of its queries is still there."""
    for cut in group.cuts:
        if isinstance(cut.where, Axis) and cut.where in removal.kept:
            kept = set(removal.kept[cut.where].tolist())
            return sum(not kept.isdisjoint(row) for row in cut.index.tolist())
    return group.units
