"""What a light runner leaves: a report that validates, one artifact, the verdict of a model check."""

import hashlib
from pathlib import Path

from app.core import report
from tests.chaos import light_job
from worker.atomic import write_atomically
from worker.protocol import (
    OUTPUT_FOLDER,
    OUTPUT_NAME,
    CheckInput,
    CheckOutput,
    ModelLayer,
    RunnerInput,
    RunnerOutput,
)


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def write_check(work: Path, given: CheckInput) -> None:
    """Find every model good: what is checked here is the service, not the model."""
    layer = ModelLayer(
        name="fc.weight",
        type="Linear",
        shape=(10, 10),
        parameters=100,
        macs=100,
        prunable=True,
        group=None,
        why_not=None,
    )
    found = CheckOutput(
        parameters=100,
        prunable_parameters=100,
        macs=100,
        input_signature={},
        forward_ms=1.0,
        layers=(layer,),
    )
    output = work / OUTPUT_FOLDER
    output.mkdir(exist_ok=True)
    write_atomically(output / OUTPUT_NAME, found.model_dump_json().encode())


def write_job(work: Path, given: RunnerInput, data: bytes) -> None:
    """Write artifact, report, and the index last, as worker.pipeline.publish does."""
    output = work / OUTPUT_FOLDER
    (output / "artifacts").mkdir(parents=True, exist_ok=True)
    artifact = report.ReportArtifact(
        name=light_job.ARTIFACT_NAME,
        kind="model",
        media_type="application/octet-stream",
        sha256=digest(data),
        size_bytes=len(data),
        loads_in_clean_process=False,
    )
    write_atomically(output / "artifacts" / artifact.name, data)
    write_atomically(output / "report.json", _report(given, artifact).model_dump_json().encode())
    index = RunnerOutput(artifacts=(artifact,), masks=(), report="report.json")
    write_atomically(output / OUTPUT_NAME, index.model_dump_json().encode())


def _report(given: RunnerInput, artifact: report.ReportArtifact) -> report.Report:
    one = report.BeforeAfter(before=1, after=1)
    return report.Report(
        job=report.ReportJob(id=given.job_id, spec_sha256=given.spec_sha256, resolved_spec={}),
        inputs=report.ReportInputs(
            model=report.ReportModel(sha256=given.model.digest, format=given.model.format, architecture={}),
            dataset=None,
        ),
        environment=report.Environment(versions={}, device="cpu", threads=1, determinism="bitwise"),
        summary=report.Summary(
            parameters=one,
            nonzero=one,
            sparsity=report.Sparsity(masked=0.0, prunable=0.0, total=0.0),
            size_bytes=report.SizeBytes(dense_before=1, artifact=1, compressed_before=1, compressed=1),
            macs=report.Macs(before=1, after=1, effective=1),
            memory_bytes=report.MemoryBytes(
                weights_before=1, weights_after=1, peak_inference_before=1, peak_inference_after=1
            ),
            metrics=(),
            worst_class=None,
            latency=(),
        ),
        classes=(),
        controls=(),
        layers=(),
        history=(),
        gates=(),
        artifacts=(artifact,),
        warnings=(),
    )
