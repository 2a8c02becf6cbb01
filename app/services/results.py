"""Results of a job: report, layers, masks, artifacts."""

import zlib
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from app.core.errors import NotFound, NotReady
from app.core.states import JobStatus
from app.core.tables import Artifact, JobLayer, JobMask, JobReport, JsonObject
from app.services import jobs


def read_report(session: Session, job_id: str) -> JsonObject:
    """Return the report; raises NotReady before the job has ended, NotFound when it left none."""
    job = jobs.get(session, job_id)
    report = session.get(JobReport, job_id)
    if report is not None:
        return report.report
    status = JobStatus(job.status)
    if not status.is_terminal:
        raise NotReady(f"{job_id} is {status}; its report is there when it has succeeded")
    raise NotFound(f"{job_id} {status} and left no report")


def read_layers(session: Session, job_id: str) -> list[JsonObject]:
    """Return the report's row of each layer, in the model's order; none before the job has succeeded."""
    jobs.get(session, job_id)
    query = select(JobLayer.row).where(JobLayer.job_id == job_id).order_by(JobLayer.position)
    return list(session.scalars(query))


def read_masks(session: Session, job_id: str) -> Sequence[JobMask]:
    """Return the masks without their bits, in the model's order; none before the job has succeeded."""
    jobs.get(session, job_id)
    query = select(JobMask).options(defer(JobMask.bits_zlib, raiseload=True))
    return session.scalars(query.where(JobMask.job_id == job_id).order_by(JobMask.position)).all()


def read_mask(session: Session, job_id: str, name: str) -> tuple[JobMask, bytes]:
    """Return one mask and its packed bits; raises NotFound."""
    jobs.get(session, job_id)
    mask = session.scalar(select(JobMask).where(JobMask.job_id == job_id, JobMask.name == name))
    if mask is None:
        raise NotFound(f"{job_id} has no mask {name!r}; the list is at /v1/jobs/{job_id}/masks")
    return mask, zlib.decompress(mask.bits_zlib)


def read_artifacts(session: Session, job_id: str) -> Sequence[Artifact]:
    """Return the artifacts by name; none before the job has ended, and of a failed one what could be kept."""
    jobs.get(session, job_id)
    return session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)).all()


def read_artifact(session: Session, job_id: str, name: str) -> Artifact:
    """Return one artifact; raises NotFound."""
    jobs.get(session, job_id)
    artifact = session.get(Artifact, (job_id, name))
    if artifact is None:
        raise NotFound(f"{job_id} has no artifact {name!r}; the list is at /v1/jobs/{job_id}/artifacts")
    return artifact
