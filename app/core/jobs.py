"""The only place where a job changes its state; every change leaves an event.

queued → running → succeeded | failed | cancelled, and running → queued when an attempt is lost or released.
A runner's write carries its lease (job id and epoch) and changes nothing once another epoch has begun.
"""

from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Executable, Row, func, insert, select, update
from sqlalchemy.orm import Session

from app.core import outbox
from app.core.db import now_plus
from app.core.errors import JobCrashLoop, NotFound, Problem
from app.core.queue import RUN_JOB
from app.core.states import AttemptEnd, GateOutcome, JobStatus
from app.core.tables import Job, JobAttempt, JobEvent

Data = dict[str, Any]  # Any: JSON of an event


class StaleLease(Exception):
    """Another epoch of the job has begun, or it has ended: whoever holds this lease must stop."""


@dataclass(frozen=True)
class Lease:
    """The right to write for one attempt at a job."""

    job_id: str
    epoch: int


@dataclass(frozen=True)
class NewJob:
    id: str
    name: str | None
    model_id: str
    dataset_id: str | None
    spec: Data
    resolved_spec: Data
    spec_sha256: str
    labels: dict[str, str]
    max_attempts: int


def create(session: Session, new: NewJob, *, hint_again_s: float) -> Job:
    """Add the job, its first event and the hint to a worker: all or nothing, with the caller's commit."""
    job = Job(
        **vars(new),
        status=JobStatus.QUEUED,
        progress={"fraction": 0.0, "step": 0, "total": 0, "eta_s": None},
        gates={"outcome": GateOutcome.NOT_EVALUATED, "results": []},
        hint_at=now_plus(hint_again_s),
    )
    session.add(job)
    session.flush()  # the event's sequence number is counted in the row
    _append(session, job.id, "job.created", {"spec_sha256": new.spec_sha256})
    outbox.put(session, RUN_JOB, job.id)
    return job


def claim(session: Session, job_id: str, owner: str, *, lease_s: float) -> Lease | None:
    """Take a queued job, or one whose lease has run out; None when there is nothing to take."""
    _reclaim_expired(session, job_id)
    claimed = session.execute(
        update(Job)
        .where(
            Job.id == job_id,
            Job.status == JobStatus.QUEUED,
            Job.attempt < Job.max_attempts,
            ~Job.cancel_requested,
        )
        .values(
            status=JobStatus.RUNNING,
            epoch=Job.epoch + 1,
            attempt=Job.attempt + 1,
            lease_owner=owner,
            lease_until=now_plus(lease_s),
            started_at=func.coalesce(Job.started_at, now_plus()),
        )
        .returning(Job.epoch, Job.attempt)
    ).one_or_none()
    if claimed is None:
        return None
    attempt = {"epoch": claimed.epoch, "attempt": claimed.attempt, "worker": owner}
    session.execute(insert(JobAttempt).values(job_id=job_id, **attempt))
    _append(session, job_id, "attempt.started", attempt)
    return Lease(job_id, claimed.epoch)


def beat(session: Session, lease: Lease, *, lease_s: float) -> bool:
    """Prolong the lease; returns whether the job shall be cancelled. Raises StaleLease."""
    row = session.execute(
        update(Job).where(_held(lease)).values(lease_until=now_plus(lease_s)).returning(Job.cancel_requested)
    ).one_or_none()
    if row is None:
        raise StaleLease(lease)
    return bool(row.cancel_requested)


def record(
    session: Session, lease: Lease, event: str, data: Data, *, stage: str, progress: Data | None = None
) -> None:
    """Leave an event of the running attempt, with the job's stage and progress. Raises StaleLease."""
    values: Data = {"stage": stage} | ({} if progress is None else {"progress": progress})
    _require(session, update(Job).where(_held(lease)).values(**values), lease)
    _append(session, lease.job_id, event, data, stage=stage)


def succeed(session: Session, lease: Lease, *, gates: Data) -> None:
    """End the job as succeeded; its results are in the same transaction. Raises StaleLease."""
    done = {"fraction": 1.0, "step": 1, "total": 1, "eta_s": 0.0}
    _end(session, lease, JobStatus.SUCCEEDED, values={"gates": gates, "progress": done})
    _append(session, lease.job_id, "job.succeeded", {"gates": gates["outcome"]})


def fail(session: Session, lease: Lease, problem: Problem, *, ended: AttemptEnd = AttemptEnd.FAILED) -> None:
    """End the job as failed with a problem that its user can read. Raises StaleLease."""
    error = problem.model_dump(mode="json")
    _end(session, lease, JobStatus.FAILED, values={"error": error}, ended=ended)
    _append(session, lease.job_id, "job.failed", {"error": error})


def cancel(session: Session, lease: Lease) -> None:
    """End the job as cancelled, after its process is gone. Raises StaleLease."""
    _end(session, lease, JobStatus.CANCELLED, values={}, ended=AttemptEnd.CANCELLED)
    _append(session, lease.job_id, "job.cancelled", {})


def retry_after_crash(session: Session, lease: Lease, detail: str, *, ended: AttemptEnd) -> None:
    """Give a job whose process died back to the queue, or fail it when its attempts are used up."""
    job = _read_held(session, lease)
    if job.attempt >= job.max_attempts and not job.cancel_requested:
        problem = JobCrashLoop(
            f"the job's process died in each of {job.attempt} attempts, the most it may have; last: {detail}"
        ).problem()
        fail(session, lease, problem, ended=ended)
    else:
        _hand_back(session, lease, detail, ended=ended)


def release(session: Session, lease: Lease, detail: str) -> None:
    """Give a job back because its worker shuts down; this costs no attempt. Raises StaleLease."""
    _read_held(session, lease)
    session.execute(update(Job).where(_held(lease)).values(attempt=Job.attempt - 1))
    _hand_back(session, lease, detail, ended=AttemptEnd.RELEASED)


def request_cancel(session: Session, job_id: str) -> None:
    """Ask for a cancel: at once when nobody runs the job, otherwise its supervisor does it.

    Raises NotFound. A job that has ended stays as it is.
    """
    status = session.scalar(select(Job.status).where(Job.id == job_id).with_for_update())
    if status is None:
        raise NotFound(f"there is no job {job_id}")
    if JobStatus(status).is_terminal:
        return
    asked = session.execute(
        update(Job).where(Job.id == job_id, ~Job.cancel_requested).values(cancel_requested=True)
    )
    if _count(asked):
        _append(session, job_id, "cancel.requested", {})
    if status != JobStatus.RUNNING:
        session.execute(
            update(Job).where(Job.id == job_id).values(status=JobStatus.CANCELLED, finished_at=now_plus())
        )
        _append(session, job_id, "job.cancelled", {})


def sweep(session: Session, *, hint_again_s: float) -> int:
    """Take back jobs whose lease has run out, and hint again at queued jobs that nobody took."""
    expired = session.scalars(
        select(Job.id).where(Job.status == JobStatus.RUNNING, Job.lease_until < now_plus())
    ).all()
    for job_id in expired:
        _reclaim_expired(session, job_id)
    forgotten = session.scalars(
        update(Job)
        .where(Job.status == JobStatus.QUEUED, Job.hint_at < now_plus())
        .values(hint_at=now_plus(hint_again_s))
        .returning(Job.id)
    ).all()
    for job_id in forgotten:
        outbox.put(session, RUN_JOB, job_id)
    return len(expired)


def _reclaim_expired(session: Session, job_id: str) -> None:
    """End an attempt whose worker fell silent: requeue, fail when none is left, cancel when asked to."""
    row = session.execute(
        select(Job.epoch, Job.cancel_requested)
        .where(Job.id == job_id, Job.status == JobStatus.RUNNING, Job.lease_until < now_plus())
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if row is None:
        return
    lease = Lease(job_id, row.epoch)
    if row.cancel_requested:
        cancel(session, lease)
    else:
        retry_after_crash(session, lease, "the worker fell silent", ended=AttemptEnd.LOST)


def _hand_back(session: Session, lease: Lease, detail: str, *, ended: AttemptEnd) -> None:
    """Queue the job again, unless its user asked for a cancel in the meantime."""
    if _read_held(session, lease).cancel_requested:
        cancel(session, lease)
        return
    _end(session, lease, JobStatus.QUEUED, values={}, ended=ended, detail=detail)
    outbox.put(session, RUN_JOB, lease.job_id)


def _read_held(session: Session, lease: Lease) -> Row[int, int, bool]:
    row = session.execute(
        select(Job.attempt, Job.max_attempts, Job.cancel_requested).where(_held(lease)).with_for_update()
    ).one_or_none()
    if row is None:
        raise StaleLease(lease)
    return row


def _end(
    session: Session,
    lease: Lease,
    status: JobStatus,
    *,
    values: Data,
    ended: AttemptEnd = AttemptEnd.SUCCEEDED,
    detail: str | None = None,
) -> None:
    finished = now_plus() if status.is_terminal else None
    change = update(Job).where(_held(lease))
    _require(
        session,
        change.values(status=status, lease_until=None, lease_owner=None, finished_at=finished, **values),
        lease,
    )
    session.execute(
        update(JobAttempt)
        .where(JobAttempt.job_id == lease.job_id, JobAttempt.epoch == lease.epoch)
        .values(ended_at=now_plus(), ended=ended, detail=detail)
    )
    _append(session, lease.job_id, "attempt.ended", {"epoch": lease.epoch, "ended": ended, "detail": detail})


def _append(session: Session, job_id: str, event: str, data: Data, *, stage: str | None = None) -> None:
    """Number the event by the job's own counter: gapless, because both are in one transaction."""
    seq = session.execute(
        update(Job).where(Job.id == job_id).values(last_seq=Job.last_seq + 1).returning(Job.last_seq)
    ).scalar_one()
    session.execute(insert(JobEvent).values(job_id=job_id, seq=seq, type=event, stage=stage, data=data))


def _held(lease: Lease) -> ColumnElement[bool]:
    return (Job.id == lease.job_id) & (Job.epoch == lease.epoch) & (Job.status == JobStatus.RUNNING)


def _require(session: Session, statement: Executable, lease: Lease) -> None:
    if not _count(session.execute(statement)):
        raise StaleLease(lease)


def _count(result: object) -> int:
    return cast("CursorResult[Any]", result).rowcount  # Any: rows of an UPDATE without RETURNING
