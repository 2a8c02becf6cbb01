"""The report's rows of layers: every parameter of the uploaded model, and what is left of it."""

from collections.abc import Collection, Iterator, Sequence

from app.core.report import LayerReport, StructureReport
from worker.export.reload import Measured
from worker.pipeline.job import Job
from worker.pipeline.pruning import read_sensitivity
from worker.pruning.layers import Layer, find_layers
from worker.pruning.removal.surgery import Removal

_GONE = "is left out with its block"


def describe_layers(
    job: Job,
    measured: Measured,
    *,
    layers: Sequence[Layer],
    prunable: Collection[str],
    structure: StructureReport | None,
) -> tuple[LayerReport, ...]:
    """Return a row for every layer of the pruned model, `layers`, and for those left out, sorted by name.

    Names are those of the uploaded model: with a block out, the ones behind it have other numbers. `prunable`
    are those that any recipe could prune.
    """
    removal = job.removal or Removal({}, {})
    groups = _name_groups(structure)
    rises = read_sensitivity(job.final_folder)
    rows = [
        _describe(
            layer,
            measured,
            name=name,
            group=groups.get(name),
            is_prunable=layer.name in prunable,
            sensitivity=rises.get(layer.name),
        )
        for layer in layers
        for name in [removal.original(layer.name)]
    ]
    if removal.depths:
        rows += _describe_gone(job, removal, measured, groups)
    return tuple(sorted(rows, key=lambda row: row.name))


def _name_groups(structure: StructureReport | None) -> dict[str, str]:
    """Return the group that a layer's outputs are in, by the name of its weight: the first, if several."""
    if structure is None:
        return {}
    return {name: group.name for group in reversed(structure.groups) for name in group.made_by}


def _describe(
    layer: Layer,
    measured: Measured,
    *,
    name: str,
    group: str | None,
    is_prunable: bool,
    sensitivity: float | None,
) -> LayerReport:
    before, after = measured.dense.tensors[name], measured.exported.tensors[layer.name]
    return LayerReport(
        name=name,
        name_after=layer.name,
        type=layer.type,
        group=group,
        shape_before=before.shape,
        shape_after=after.shape,
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        nonzero=after.nonzero,
        sparsity=1 - after.nonzero / after.parameters if after.parameters else 0.0,
        macs_before=before.macs,
        macs_after=after.macs,
        prunable=is_prunable,
        why_not=layer.why_not,
        sensitivity=sensitivity,
    )


def _describe_gone(
    job: Job, removal: Removal, measured: Measured, groups: dict[str, str]
) -> Iterator[LayerReport]:
    for layer in find_layers(job.read_dense().network.module):
        if removal.rename(layer.name) is None:
            before = measured.dense.tensors[layer.name]
            yield LayerReport(
                name=layer.name,
                name_after=None,
                type=layer.type,
                group=groups.get(layer.name),
                shape_before=before.shape,
                shape_after=(0,) * len(before.shape),
                parameters_before=before.parameters,
                parameters_after=0,
                nonzero=0,
                sparsity=0.0,
                macs_before=before.macs,
                macs_after=0,
                prunable=False,
                why_not=_GONE,
            )
