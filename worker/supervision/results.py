"""Bring a runner's output into the store and the database."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from app.core import accounts
from app.core.blobs import Blobs
from app.core.errors import JobError
from app.core.report import Report
from app.core.tables import Artifact, JobLayer, JobMask, JobReport
from worker.protocol import KEPT_NAME, OUTPUT_FOLDER, OUTPUT_NAME, KeptOutput, OutputMask, RunnerOutput

# By table: the rows that a finished job leaves in it.
Rows = Mapping[type, list[dict[str, Any]]]  # Any: columns


class ResultDamaged(JobError):
    """A file that the runner left has another digest than it said."""

    code, title = "result_damaged", "A result file is damaged"


def read_output(work: Path) -> tuple[RunnerOutput, Report]:
    """Read what a finished runner left under WORK/output."""
    folder = work / OUTPUT_FOLDER
    output = RunnerOutput.model_validate_json((folder / OUTPUT_NAME).read_bytes())
    return output, Report.model_validate_json((folder / output.report).read_bytes())


def read_kept(work: Path) -> KeptOutput:
    """Read what a runner left that failed; nothing for most."""
    path = work / OUTPUT_FOLDER / KEPT_NAME
    return KeptOutput.model_validate_json(path.read_bytes()) if path.exists() else KeptOutput(artifacts=())


def store_artifacts(store: Blobs, work: Path, output: RunnerOutput | KeptOutput) -> None:
    """Copy the artifacts into the store; raises ResultDamaged. Doing it twice is harmless."""
    for artifact in output.artifacts:
        sha256 = store.add_file(work / OUTPUT_FOLDER / "artifacts" / artifact.name)
        if sha256 != artifact.sha256:
            raise ResultDamaged(f"{artifact.name}: expected {artifact.sha256}, found {sha256}")


def make_rows(job_id: str, work: Path, *, output: RunnerOutput, report: Report) -> Rows:
    """Make the rows of report, layers and masks; no transaction may be open.

    Masks are compressed here, which takes a second for 34 MB of bits: SQLite's only writer would wait.
    """
    folder = work / OUTPUT_FOLDER
    return {
        JobReport: [{"job_id": job_id, "report": report.model_dump(mode="json")}],
        JobLayer: [
            {"job_id": job_id, "position": i, "name": layer.name, "row": layer.model_dump(mode="json")}
            for i, layer in enumerate(report.layers)
        ],
        JobMask: [_mask_row(job_id, i, mask, folder) for i, mask in enumerate(output.masks)],
    }


def insert_rows(session: Session, rows: Rows) -> None:
    """Add what `make_rows` made to the caller's transaction."""
    for table, values in rows.items():
        if values:
            session.execute(insert(table), values)


def insert_artifacts(session: Session, job_id: str, output: RunnerOutput | KeptOutput) -> None:
    """Add the artifacts of a job to the caller's transaction."""
    accounts.refer(session, (artifact.sha256 for artifact in output.artifacts))
    insert_rows(session, {Artifact: [{"job_id": job_id, **a.model_dump()} for a in output.artifacts]})


def _mask_row(job_id: str, position: int, mask: OutputMask, folder: Path) -> dict[str, Any]:  # Any: columns
    columns = mask.model_dump(exclude={"file", "shape"})
    bits = (folder / mask.file).read_bytes()
    return {
        "job_id": job_id,
        "position": position,
        "shape": list(mask.shape),
        "bits_zlib": zlib.compress(bits),
        **columns,
    }
