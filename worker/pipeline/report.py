"""Compose the report from what was counted on the exported file."""

import platform
from collections.abc import Iterator
from typing import cast

from pydantic import JsonValue

from app.core.report import (
    BeforeAfter,
    Environment,
    FinetuneReport,
    Macs,
    MemoryBytes,
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
from worker.measure.size import digest_file, measure_file
from worker.pipeline.comparisons import Comparisons, compare_answers
from worker.pipeline.gates import judge_gates
from worker.pipeline.job import Job, describe_device, describe_versions
from worker.pipeline.layer_rows import describe_layers
from worker.pipeline.pruning import make_pruner, read_history, read_masks
from worker.pipeline.structure import list_probe_rows, read_structure_report
from worker.pruning.layers import find_layers

_SAMPLES_FOR_A_POINT = 1000
_STAGES_BEFORE_THE_REPORT = tuple(stage for stage in Stage if stage is not Stage.VERIFY)


def compose_report(job: Job, measured: Measured) -> Report:
    """Put together the report of a job whose stages up to export stand."""
    start = job.read_start().network
    structure = read_structure_report(job.folder(Stage.PRUNE)) if job.spec.structure else None
    prunable = {layer.name for layer in find_layers(start.module) if layer.is_prunable}
    compared = compare_answers(job)
    summary = _summarise(job, measured, compared, prunable=prunable)
    return Report(
        job=ReportJob(
            id=job.given.job_id,
            spec_sha256=job.given.spec_sha256,
            resolved_spec=cast(dict[str, JsonValue], job.spec.model_dump(mode="json")),
        ),
        inputs=_describe_inputs(job),
        environment=_describe_environment(job),
        summary=summary,
        classes=compared.classes,
        controls=compared.controls,
        structure=structure,
        finetune=_describe_finetune(job),
        layers=describe_layers(
            job,
            measured,
            layers=make_pruner(job, start).layers,
            prunable=prunable,
            structure=structure,
        ),
        history=(*(list_probe_rows(structure) if structure else ()), *read_history(job.final_folder)),
        gates=judge_gates(job.spec.gates, summary, masked=read_masks(job.final_folder).numel),
        artifacts=list_artifacts(job),
        warnings=_collect_warnings(job, measured, compared),
    )


def list_artifacts(job: Job) -> tuple[ReportArtifact, ...]:
    """List the exported files that the spec asks for; they load, or verify would have ended the job."""
    folder = job.folder(Stage.EXPORT).path
    artifacts = []
    for exported in list_files(job.exported_model, job.spec.outputs):
        path = folder / exported.name
        artifacts.append(
            ReportArtifact(
                name=exported.name,
                kind=exported.kind,
                media_type=exported.media_type,
                sha256=digest_file(path),
                size_bytes=path.stat().st_size,
                loads_in_clean_process=True,
            )
        )
    return tuple(artifacts)


def _summarise(job: Job, measured: Measured, compared: Comparisons, *, prunable: set[str]) -> Summary:
    before, after = measured.dense, measured.exported
    uploaded = [measure_file(path) for path in job.given.model.weight_files]
    # Measured when it was written: to compress gigabytes takes minutes.
    artifact = cast(dict[str, int], job.folder(Stage.EXPORT).read_data()[MODEL_FILE])
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
            artifact=artifact["size_bytes"],
            compressed_before=sum(size.compressed_bytes for size in uploaded),
            compressed=artifact["compressed_bytes"],
        ),
        macs=Macs(before=before.macs, after=after.macs, effective=after.effective_macs),
        memory_bytes=MemoryBytes(
            weights_before=before.weights_bytes,
            weights_after=after.weights_bytes,
            peak_inference_before=before.peak_inference_bytes,
            peak_inference_after=after.peak_inference_bytes,
        ),
        metrics=compared.metrics,
        worst_class=compared.worst_class,
        latency=measured.latency,
    )


def _count_sparsity(measured: Measured, names: set[str]) -> float:
    tensors = [measured.exported.tensors[name] for name in names]
    total = sum(tensor.parameters for tensor in tensors)
    return sum(tensor.parameters - tensor.nonzero for tensor in tensors) / total if total else 0.0


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
        determinism="bitwise" if job.given.device == "cpu" and not _was_halved(job) else "tolerance",
    )


def _was_halved(job: Job) -> bool:
    """Tell whether the batches depended on how much memory there was."""
    told = job.folder(Stage.FINETUNE).read_data()
    return job.given.is_halved or told.get("is_halved") is True


def _describe_finetune(job: Job) -> FinetuneReport | None:
    if job.spec.finetune is None:
        return None
    told = job.folder(Stage.FINETUNE).read_data()
    return FinetuneReport.model_validate({name: told[name] for name in FinetuneReport.model_fields})


def _collect_warnings(job: Job, measured: Measured, compared: Comparisons) -> tuple[str, ...]:
    """Put together what the stages, the clean process and the comparison warn of, each sentence once."""
    warnings = [
        *_read_stage_warnings(job),
        *measured.warnings,
        *compared.warnings,
        *_warn_of_the_job(job),
    ]
    return tuple(dict.fromkeys(warnings))


def _read_stage_warnings(job: Job) -> Iterator[str]:
    for stage in _STAGES_BEFORE_THE_REPORT:
        warnings = job.folder(stage).read_data().get("warnings")
        yield from map(str, warnings if isinstance(warnings, list) else ())


def _warn_of_the_job(job: Job) -> Iterator[str]:
    if job.test_split is None:
        yield "there is no dataset: what pruning costs is not known"
    elif len(job.test_split) < _SAMPLES_FOR_A_POINT:
        share = f": one of them is {1 / len(job.test_split):.2%} of accuracy"
        is_counted = job.task is not None and "accuracy" in job.task.metrics
        samples = "sample" if len(job.test_split) == 1 else "samples"
        yield (
            f"the test split has {len(job.test_split)} {samples}{share if is_counted else ''}, "
            "so read the intervals"
        )
    if job.given.is_halved and job.spec.evaluation.batch_size > 1:
        yield (
            "an attempt at this job was killed because memory ran out; since then the model was judged in "
            f"batches of {job.evaluation.batch_size}, half of what was asked for"
        )
    if job.spec.finetune is None:
        yield "the spec asks for no fine-tuning: nothing recovers what pruning costs"
