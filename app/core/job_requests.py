"""What users ask of a job: cancel, pause, resume, retry; each may be asked twice.

A job that runs is only asked: its supervisor does it. What cannot be is refused by the condition of an
UPDATE, under the row's lock, and the refusal names what can.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.core import checkpoints
from app.core.db import now_plus
from app.core.errors import ErrorItem, NotFound, TransitionRefused
from app.core.job_writes import Data, append_event, count, hint
from app.core.jobs import EMPTY_GATES, EMPTY_PROGRESS
from app.core.states import ALLOWED, Action, JobStatus
from app.core.strict import Strict
from app.core.tables import Artifact, Dataset, Job, Model

RetryFrom = Literal["checkpoint", "start"]


class RetryRequest(Strict):
    """From where a job is done again; what its checkpoint holds is not done again."""

    start: RetryFrom = Field(default="checkpoint", alias="from")


@dataclass(frozen=True)
class _Found:
    """A job as it is while its row is locked."""

    id: str
    status: JobStatus
    cancel_requested: bool
    pause_requested: bool
    retries: int
    device: str


def request_cancel(session: Session, job_id: str) -> None:
    """Ask for a cancel: at once when nobody runs the job, otherwise its supervisor does it.

    Raises NotFound. A job that has ended stays as it is.
    """
    job = _lock(session, job_id)
    if job.status.is_terminal:
        return
    if not job.cancel_requested:
        _change(session, job, "cancel.requested", cancel_requested=True)
    if job.status != JobStatus.RUNNING:
        _change(session, job, "job.cancelled", status=JobStatus.CANCELLED, finished_at=now_plus())


def request_pause(session: Session, job_id: str) -> None:
    """Ask for a pause: at once when the job is queued. Raises NotFound or TransitionRefused."""
    job = _lock(session, job_id)
    if job.status == JobStatus.PAUSED:
        return
    if job.status == JobStatus.QUEUED:
        _change(session, job, "job.paused", status=JobStatus.PAUSED, next_run_at=None)
    elif job.status == JobStatus.RUNNING and not job.cancel_requested:
        if not job.pause_requested:
            _change(session, job, "pause.requested", pause_requested=True)
    else:
        raise _refuse(job, Action.PAUSE)


def request_resume(session: Session, job_id: str, *, hint_again_s: float) -> None:
    """Queue a paused job again, or withdraw a pause that was asked for.

    Raises NotFound or TransitionRefused.
    """
    job = _lock(session, job_id)
    if job.status == JobStatus.PAUSED:
        hint_at = now_plus(hint_again_s)
        _change(session, job, "job.resumed", status=JobStatus.QUEUED, next_run_at=None, hint_at=hint_at)
        hint(session, job_id, job.device)
    elif job.status == JobStatus.RUNNING and job.pause_requested:
        _change(session, job, "pause.withdrawn", pause_requested=False)
    elif job.status.is_terminal:
        raise _refuse(job, Action.RESUME)


def request_retry(session: Session, job_id: str, *, start: RetryFrom, hint_again_s: float) -> None:
    """Queue a job again that failed or was cancelled, with all of its attempts, and without its artifacts.

    One that was retried and has not ended yet stays as it is. Raises NotFound or TransitionRefused.
    """
    job = _lock(session, job_id)
    if not job.status.is_terminal and job.retries > 0:
        return
    if job.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
        raise _refuse(job, Action.RETRY)
    _require_uploads(session, job_id)
    values: Data = {
        "status": JobStatus.QUEUED,
        "finished_at": None,
        "error": None,
        "cancel_requested": False,
        "pause_requested": False,
        "attempt": 0,
        "setbacks": 0,
        "retries": Job.retries + 1,
        "retried_epoch": Job.epoch,
        "next_run_at": None,
        "hint_at": now_plus(hint_again_s),
        "gates": EMPTY_GATES,
    }
    if start == "start":
        values |= {"starts": Job.starts + 1, "is_halved": False, "stage": None, "progress": EMPTY_PROGRESS}
        checkpoints.drop(session, job_id)
    _change(session, job, "job.retried", {"from": start}, **values)
    session.execute(delete(Artifact).where(Artifact.job_id == job_id))
    hint(session, job_id, job.device)


def _lock(session: Session, job_id: str) -> _Found:
    row = session.execute(
        select(Job.id, Job.status, Job.cancel_requested, Job.pause_requested, Job.retries, Job.device)
        .where(Job.id == job_id)
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return _Found(row.id, JobStatus(row.status), *row[2:])


def _change(session: Session, job: _Found, event: str, data: Data | None = None, **values: object) -> None:
    """Change a job that is still as it was found, with its event."""
    changed = session.execute(update(Job).where(Job.id == job.id, Job.status == job.status).values(**values))
    if not count(changed):
        raise TransitionRefused(f"{job.id} is no longer {job.status}; ask again")
    append_event(session, job.id, event, data or {})


def _refuse(job: _Found, action: Action) -> TransitionRefused:
    allowed = [one for one in ALLOWED[job.status] if not (job.cancel_requested and one is Action.PAUSE)]
    status = "being cancelled" if job.cancel_requested and not job.status.is_terminal else job.status
    found = f"a job that is {status} cannot {action}; it can: {', '.join(allowed) or 'nothing'}"
    items = tuple(ErrorItem(pointer="", code="allowed", detail=one) for one in allowed)
    return TransitionRefused(found, errors=items)


def _require_uploads(session: Session, job_id: str) -> None:
    """A job that has ended no longer keeps its uploads from being deleted: until it is queued, locks do.

    Postgres locks no row of an outer join, so each is asked for by itself.
    """
    model = select(Model.deleted_at).join(Job, Job.model_id == Model.id).where(Job.id == job_id)
    dataset = select(Dataset.deleted_at).join(Job, Job.dataset_id == Dataset.id).where(Job.id == job_id)
    deleted = (
        session.scalar(model.with_for_update(read=True, of=Model)),
        session.scalar(dataset.with_for_update(read=True, of=Dataset)),
    )
    if any(at is not None for at in deleted):
        raise TransitionRefused("the job cannot be retried: its model or its dataset was deleted")
