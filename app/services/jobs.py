"""Jobs: create, check without creating, find, ask something of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from app.core import ids, job_requests, jobs, line
from app.core.catalog import Catalog
from app.core.config import Device
from app.core.digests import sha256_of_json
from app.core.errors import ErrorItem, InvalidInput, LimitReached, NotFound
from app.core.job_requests import RetryFrom
from app.core.jobs import NewJob
from app.core.spec import JobSpec
from app.core.states import JobStatus
from app.core.tables import Job, JobAttempt, JsonObject
from app.services.pages import Page, highest_first, newest_first
from app.services.plans import make_plan
from app.services.specs import resolve


@dataclass(frozen=True)
class JobLimits:
    """`devices` are those that workers have, None where that is not known."""

    max_queued_jobs: int
    hint_again_s: float
    devices: Sequence[Device] | None = None


@dataclass(frozen=True)
class Validation:
    """What would happen to a spec; `plan` is None while the model is being validated."""

    errors: tuple[ErrorItem, ...]
    resolved_spec: JsonObject | None
    plan: JsonObject | None

    @property
    def is_valid(self) -> bool:
        return not self.errors


def create(session: Session, spec: JobSpec, sent: JsonObject, catalog: Catalog, *, limits: JobLimits) -> Job:
    """Add a job with its first event and the hint to a worker; `sent` is the spec as the client wrote it.

    Raises InvalidSpec or what is more specific, and LimitReached when too many jobs are queued.
    """
    resolved = resolve(session, spec, catalog, devices=limits.devices)
    queued = session.scalar(select(func.count()).where(Job.status == JobStatus.QUEUED)) or 0
    if queued >= limits.max_queued_jobs:
        raise LimitReached(
            f"{queued} jobs are queued, at most {limits.max_queued_jobs} may be; try again later"
        )
    new = NewJob(
        id=ids.new_id("job"),
        name=spec.name,
        model_id=spec.model_id,
        dataset_id=spec.dataset_id,
        spec=sent,
        resolved_spec=resolved.as_json,
        spec_sha256=sha256_of_json(resolved.as_json),
        labels=dict(spec.labels),
        max_attempts=spec.resources.max_attempts,
        priority=spec.resources.priority,
        device=spec.resources.device,
    )
    job = jobs.create(session, new, hint_again_s=limits.hint_again_s)
    session.flush()
    session.refresh(job)
    return job


def validate(session: Session, spec: JobSpec, catalog: Catalog, *, limits: JobLimits) -> Validation:
    """Say whether a spec would be taken, with its defaults and a plan; adds nothing."""
    try:
        resolved = resolve(session, spec, catalog, devices=limits.devices)
    except InvalidInput as error:
        return refused(error)
    return Validation(errors=(), resolved_spec=resolved.as_json, plan=make_plan(resolved))


def refused(error: InvalidInput) -> Validation:
    """Say that a spec is not valid, for at least one reason."""
    whole = ErrorItem(pointer="", code=error.code, detail=error.detail)
    return Validation(errors=error.errors or (whole,), resolved_spec=None, plan=None)


def get(session: Session, job_id: str) -> Job:
    """Return a job; raises NotFound."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def find(
    session: Session,
    *,
    status: JobStatus | None,
    model_id: str | None,
    labels: Mapping[str, str],
    limit: int,
    cursor: str | None,
) -> Page[Job]:
    """List jobs, newest first, those that match every filter."""
    query = select(Job)
    if status is not None:
        query = query.where(Job.status == status)
    if model_id is not None:
        query = query.where(Job.model_id == model_id)
    for key, value in labels.items():
        query = query.where(Job.labels[key].as_string() == value)
    return newest_first(session, query, Job, limit=limit, cursor=cursor)


def cancel(session: Session, job_id: str) -> Job:
    """Ask for a cancel and return the job as it is now; a job that has ended stays as it is."""
    job_requests.request_cancel(session, job_id)
    return _read_again(session, job_id)


def pause(session: Session, job_id: str) -> Job:
    """Ask for a pause and return the job as it is now; raises TransitionRefused."""
    job_requests.request_pause(session, job_id)
    return _read_again(session, job_id)


def resume(session: Session, job_id: str, *, limits: JobLimits) -> Job:
    """Queue a paused job again and return it as it is now; raises TransitionRefused."""
    job_requests.request_resume(session, job_id, hint_again_s=limits.hint_again_s)
    return _read_again(session, job_id)


def retry(session: Session, job_id: str, start: RetryFrom, *, limits: JobLimits) -> Job:
    """Queue a failed or cancelled job again and return it as it is now; raises TransitionRefused."""
    job_requests.request_retry(session, job_id, start=start, hint_again_s=limits.hint_again_s)
    return _read_again(session, job_id)


def queue_positions(session: Session, found: list[Job]) -> dict[str, int]:
    """Return for each queued job its place in the line, as workers take them: the next one is 1."""
    return line.find_positions(session, [job.id for job in found if job.status == JobStatus.QUEUED])


def read_attempts(session: Session, job_id: str, *, limit: int, cursor: str | None) -> Page[JobAttempt]:
    """List the attempts at a job, the newest first; raises NotFound."""
    get(session, job_id)
    query = select(JobAttempt).where(JobAttempt.job_id == job_id)
    return highest_first(
        session, query, JobAttempt.epoch, lambda attempt: attempt.epoch, limit=limit, cursor=cursor
    )


def read_status(session: Session, job_id: str) -> Row[str, int]:
    """Return status and the last event's number of a job, and nothing else; raises NotFound."""
    row = session.execute(select(Job.status, Job.last_seq).where(Job.id == job_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return row


def _read_again(session: Session, job_id: str) -> Job:
    job = get(session, job_id)
    session.refresh(job)
    return job
