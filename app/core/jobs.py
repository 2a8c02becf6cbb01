"""A job's life under a lease: created, claimed, running, ended; every change leaves an event.

queued → running → succeeded | failed | cancelled. How a job comes back to the line without having ended is in
job_returns, what users ask for in job_requests. A runner's write carries its lease (job id and epoch) and
changes nothing once another epoch has begun.
"""

from dataclasses import dataclass

from sqlalchemy import func, insert, or_, update
from sqlalchemy.orm import Session

from app.core import checkpoints
from app.core.db import now_plus
from app.core.errors import Problem
from app.core.job_writes import (
    Data,
    Lease,
    StaleLease,
    append_event,
    end_attempt,
    held,
    hint,
    note_attempt,
    read_held,
    require,
)
from app.core.states import AttemptClass, AttemptEnd, GateOutcome, JobStatus
from app.core.tables import Job, JobAttempt

EMPTY_PROGRESS: Data = {"fraction": 0.0, "step": 0, "total": 0, "eta_s": None}
EMPTY_GATES: Data = {"outcome": GateOutcome.NOT_EVALUATED, "results": []}


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
    tenant: str = "default"
    priority: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Asked:
    """What the users of a running job have asked for; a cancel comes before a pause."""

    cancel: bool
    pause: bool


def create(session: Session, new: NewJob, *, hint_again_s: float) -> Job:
    """Add the job, its first event and the hint to a worker: all or nothing, with the caller's commit."""
    job = Job(
        **vars(new),
        status=JobStatus.QUEUED,
        progress=EMPTY_PROGRESS,
        gates=EMPTY_GATES,
        hint_at=now_plus(hint_again_s),
    )
    session.add(job)
    session.flush()  # the event's sequence number is counted in the row
    append_event(session, job.id, "job.created", {"spec_sha256": new.spec_sha256})
    hint(session, job.id, new.device)
    return job


def claim(
    session: Session,
    job_id: str,
    owner: str,
    *,
    lease_s: float,
    device: str | None = None,
    version: str | None = None,
) -> Lease | None:
    """Take a queued job, which spends one of its attempts; None when it cannot be taken."""
    claimed = session.execute(
        update(Job)
        .where(
            Job.id == job_id,
            Job.status == JobStatus.QUEUED,
            Job.attempt < Job.max_attempts,
            or_(Job.next_run_at.is_(None), Job.next_run_at <= now_plus()),
        )
        .values(
            status=JobStatus.RUNNING,
            epoch=Job.epoch + 1,
            attempt=Job.attempt + 1,
            lease_owner=owner,
            lease_until=now_plus(lease_s),
            started_at=func.coalesce(Job.started_at, now_plus()),
            next_run_at=None,
        )
        .returning(Job.epoch, Job.attempt)
    ).one_or_none()
    if claimed is None:
        return None
    attempt = {"epoch": claimed.epoch, "attempt": claimed.attempt, "worker": owner}
    session.execute(
        insert(JobAttempt).values(
            job_id=job_id, device=device, version=version, last_beat_at=now_plus(), **attempt
        )
    )
    append_event(session, job_id, "attempt.started", attempt)
    return Lease(job_id, claimed.epoch)


def beat(session: Session, lease: Lease, *, lease_s: float) -> Asked:
    """Prolong the lease; returns what was asked of the job meanwhile. Raises StaleLease."""
    row = session.execute(
        update(Job)
        .where(held(lease))
        .values(lease_until=now_plus(lease_s))
        .returning(Job.cancel_requested, Job.pause_requested)
    ).one_or_none()
    if row is None:
        raise StaleLease(lease)
    note_attempt(session, lease, last_beat_at=now_plus())
    return Asked(cancel=bool(row.cancel_requested), pause=bool(row.pause_requested))


def record(
    session: Session, lease: Lease, event: str, data: Data, *, stage: str, progress: Data | None = None
) -> None:
    """Leave an event of the running attempt, with the job's stage and progress. Raises StaleLease."""
    values: Data = {"stage": stage} | ({} if progress is None else {"progress": progress})
    require(session, update(Job).where(held(lease)).values(**values), lease)
    append_event(session, lease.job_id, event, data, stage=stage)


def note_resumed(session: Session, lease: Lease, *, stage: str, step: int | None) -> None:
    """Note what the running attempt did not have to do again. Raises StaleLease."""
    read_held(session, lease)
    note_attempt(session, lease, resumed_from={"stage": stage, "step": step})


def note_class(session: Session, lease: Lease, class_: AttemptClass, detail: str) -> None:
    """Note what went wrong in an attempt that goes on nevertheless. Raises StaleLease."""
    read_held(session, lease)
    note_attempt(session, lease, class_=class_, detail=detail)


def note_warnings(session: Session, lease: Lease, warnings: list[str]) -> None:
    """Note what the user should know of the running attempt. Raises StaleLease."""
    read_held(session, lease)
    note_attempt(session, lease, warnings=warnings)


def succeed(session: Session, lease: Lease, *, gates: Data) -> None:
    """End the job as succeeded; its results are in the same transaction. Raises StaleLease."""
    done = {"fraction": 1.0, "step": 1, "total": 1, "eta_s": 0.0}
    end_attempt(
        session, lease, JobStatus.SUCCEEDED, AttemptEnd.SUCCEEDED, values={"gates": gates, "progress": done}
    )
    checkpoints.drop(session, lease.job_id)
    append_event(session, lease.job_id, "job.succeeded", {"gates": gates["outcome"]})


def fail(
    session: Session,
    lease: Lease,
    problem: Problem,
    *,
    ended: AttemptEnd = AttemptEnd.FAILED,
    class_: AttemptClass = AttemptClass.USER,
) -> None:
    """End the job as failed with a problem that its user can read. Raises StaleLease."""
    error = problem.model_dump(mode="json")
    end_attempt(
        session,
        lease,
        JobStatus.FAILED,
        ended,
        class_=class_,
        detail=problem.detail,
        values={"error": error},
    )
    append_event(session, lease.job_id, "job.failed", {"error": error})


def cancel(session: Session, lease: Lease) -> None:
    """End the job as cancelled, after its process is gone. Raises StaleLease."""
    end_attempt(session, lease, JobStatus.CANCELLED, AttemptEnd.CANCELLED)
    append_event(session, lease.job_id, "job.cancelled", {})
