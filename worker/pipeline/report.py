"""Compose the report from what was counted on the exported file."""

import platform
from typing import cast

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from app.core.report import (
    BeforeAfter,
    Environment,
    LayerReport,
    Macs,
    MemoryBytes,
    Metric,
    Report,
    ReportArtifact,
    ReportDataset,
    ReportInputs,
    ReportJob,
    ReportModel,
    SizeBytes,
    Sparsity,
    Summary,
)
from app.core.states import Stage
from worker.export.files import MODEL_FILE, list_files
from worker.export.reload import Measured
from worker.measure.intervals import compute_drop_interval, compute_wilson_interval
from worker.measure.size import measure_file
from worker.pipeline.gates import judge_gates
from worker.pipeline.job import Job, describe_device, describe_versions
from worker.pipeline.predictions import read_records
from worker.pipeline.pruning import make_pruner, read_history, read_masks
from worker.pruning.layers import Layer, find_layers

_SAMPLES_FOR_A_POINT = 1000


def compose_report(job: Job, measured: Measured) -> Report:
    """Put together the report of a job whose stages up to export stand."""
    dense = job.read_dense().network
    prunable = {layer.name for layer in find_layers(dense.module) if layer.is_prunable}
    summary = _summarise(job, measured, prunable)
    return Report(
        job=ReportJob(
            id=job.given.job_id,
            spec_sha256=job.given.spec_sha256,
            resolved_spec=cast(dict[str, JsonValue], job.spec.model_dump(mode="json")),
        ),
        inputs=_describe_inputs(job),
        environment=_describe_environment(job),
        summary=summary,
        layers=_describe_layers(make_pruner(job, dense).layers, measured, prunable),
        history=read_history(job.final_folder),
        gates=judge_gates(job.spec.gates, summary, masked=read_masks(job.final_folder).numel),
        artifacts=list_artifacts(job),
        warnings=(*measured.warnings, *_warn(job)),
    )


def list_artifacts(job: Job) -> tuple[ReportArtifact, ...]:
    """List the exported files that the spec asks for; they load, or verify would have ended the job."""
    folder = job.folder(Stage.EXPORT).path
    artifacts = []
    for exported in list_files(job.given.model, job.spec.outputs):
        size = measure_file(folder / exported.name)
        artifacts.append(
            ReportArtifact(
                name=exported.name,
                kind=exported.kind,
                media_type=exported.media_type,
                sha256=size.sha256,
                size_bytes=size.size_bytes,
                loads_in_clean_process=True,
            )
        )
    return tuple(artifacts)


def _summarise(job: Job, measured: Measured, prunable: set[str]) -> Summary:
    before, after = measured.dense, measured.exported
    uploaded = [measure_file(path) for path in job.given.model.weight_files]
    artifact = measure_file(job.folder(Stage.EXPORT).path / MODEL_FILE)
    return Summary(
        parameters=BeforeAfter(before=before.parameters, after=after.parameters),
        nonzero=BeforeAfter(before=before.nonzero, after=after.nonzero),
        sparsity=Sparsity(
            masked=_count_sparsity(measured, set(read_masks(job.final_folder))),
            prunable=_count_sparsity(measured, prunable),
            total=_count_sparsity(measured, set(after.tensors)),
        ),
        size_bytes=SizeBytes(
            dense_before=sum(size.size_bytes for size in uploaded),
            artifact=artifact.size_bytes,
            compressed_before=sum(size.compressed_bytes for size in uploaded),
            compressed=artifact.compressed_bytes,
        ),
        macs=Macs(before=before.macs, after=after.macs, effective=after.effective_macs),
        memory_bytes=MemoryBytes(
            weights_before=before.weights_bytes,
            weights_after=after.weights_bytes,
            peak_inference_before=before.peak_inference_bytes,
            peak_inference_after=after.peak_inference_bytes,
        ),
        metrics=_compare_accuracy(job),
        latency=measured.latency,
    )


def _count_sparsity(measured: Measured, names: set[str]) -> float:
    tensors = [measured.exported.tensors[name] for name in names]
    total = sum(tensor.parameters for tensor in tensors)
    return sum(tensor.parameters - tensor.nonzero for tensor in tensors) / total if total else 0.0


def _compare_accuracy(job: Job) -> tuple[Metric, ...]:
    if job.test_split is None or job.task is None or "accuracy" not in job.task.metrics:
        return ()
    baseline, pruned, final = (
        _read_correct(job, stage) for stage in (Stage.BASELINE, Stage.PRUNE, Stage.EVALUATE)
    )
    n = len(final)
    return (
        Metric(
            name="accuracy",
            split="test",
            n=n,
            baseline=_share(baseline),
            baseline_ci95=compute_wilson_interval(int(baseline.sum()), n),
            pruned=_share(pruned),
            final=_share(final),
            final_ci95=compute_wilson_interval(int(final.sum()), n),
            drop=(int(baseline.sum()) - int(final.sum())) / n,
            drop_ci95=compute_drop_interval(baseline, final),
        ),
    )


def _read_correct(job: Job, stage: Stage) -> npt.NDArray[np.bool_]:
    records = read_records(job.folder(stage))
    return cast(npt.NDArray[np.bool_], (records["prediction"] == records["truth"]).numpy())


def _share(correct: npt.NDArray[np.bool_]) -> float:
    return int(correct.sum()) / len(correct)


def _describe_layers(
    layers: tuple[Layer, ...], measured: Measured, prunable: set[str]
) -> tuple[LayerReport, ...]:
    rows = []
    for layer in layers:
        before, after = measured.dense.tensors[layer.name], measured.exported.tensors[layer.name]
        rows.append(
            LayerReport(
                name=layer.name,
                type=layer.type,
                group=None,
                shape_before=before.shape,
                shape_after=after.shape,
                parameters_before=before.parameters,
                parameters_after=after.parameters,
                nonzero=after.nonzero,
                sparsity=1 - after.nonzero / after.parameters if after.parameters else 0.0,
                macs_before=before.macs,
                macs_after=after.macs,
                prunable=layer.name in prunable,
                why_not=layer.why_not,
            )
        )
    return tuple(rows)


def _describe_inputs(job: Job) -> ReportInputs:
    model, dataset = job.given.model, job.given.dataset
    return ReportInputs(
        model=ReportModel(sha256=model.digest, format=model.format, architecture=model.architecture),
        dataset=ReportDataset(
            sha256=dataset.sha256, splits={name: len(split) for name, split in job.splits.items()}
        )
        if dataset
        else None,
    )


def _describe_environment(job: Job) -> Environment:
    return Environment(
        versions={"python": platform.python_version(), **describe_versions()},
        device=describe_device(job.given.device),
        threads=job.given.threads,
        determinism="bitwise" if job.given.device == "cpu" else "tolerance",
    )


def _warn(job: Job) -> list[str]:
    warnings = []
    if job.test_split is None:
        warnings.append("there is no dataset: the accuracy of the pruned model is not known")
    elif len(job.test_split) < _SAMPLES_FOR_A_POINT:
        warnings.append(
            f"the test split has {len(job.test_split)} samples: one of them is "
            f"{1 / len(job.test_split):.2%} of accuracy, so read the intervals"
        )
    if job.spec.finetune is None:
        warnings.append("the spec asks for no fine-tuning: nothing recovers what pruning costs")
    return warnings
