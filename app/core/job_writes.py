"""What every change of a job is made of: the fence that a stale lease does not pass, and its event."""

import socket
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Executable, Row, insert, select, update
from sqlalchemy.orm import Session

from app.core import outbox, webhooks
from app.core.db import now_plus
from app.core.queue import RUN_CUDA_JOB, RUN_JOB
from app.core.states import AttemptClass, AttemptEnd, JobStatus
from app.core.tables import Job, JobAttempt, JobEvent

Data = dict[str, Any]  # Any: JSON of an event


class StaleLease(Exception):
    """Another epoch of the job has begun, or it has ended: whoever holds this lease must stop."""


@dataclass(frozen=True)
class Lease:
    """The right to write for one attempt at a job."""

    job_id: str
    epoch: int


def name_owner(pid: int) -> str:
    """Return the name under which a process of this machine holds its leases."""
    return f"{socket.gethostname()}:{pid}"


def append_event(session: Session, job_id: str, event: str, data: Data, *, stage: str | None = None) -> None:
    """Number the event by the job's own counter: gapless, because both are in one transaction."""
    seq, status = session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(last_seq=Job.last_seq + 1)
        .returning(Job.last_seq, Job.status)
    ).one()
    row = insert(JobEvent).values(job_id=job_id, seq=seq, type=event, stage=stage, data=data)
    at = session.scalars(row.returning(JobEvent.at)).one()
    webhooks.put(session, webhooks.JobNotice(job_id, seq, event, status, stage, at, data))


def hint(session: Session, job_id: str, device: str) -> None:
    """Tell the workers that can run it that a job waits, with the caller's commit."""
    outbox.put(session, RUN_CUDA_JOB if device == "cuda" else RUN_JOB, job_id)


def held(lease: Lease) -> ColumnElement[bool]:
    """The condition that a write under a lease carries."""
    return (Job.id == lease.job_id) & (Job.epoch == lease.epoch) & (Job.status == JobStatus.RUNNING)


def require(session: Session, statement: Executable, lease: Lease) -> None:
    """Execute a fenced UPDATE; raises StaleLease when it changed nothing."""
    if not count(session.execute(statement)):
        raise StaleLease(lease)


def count(result: object) -> int:
    """Return how many rows an UPDATE without RETURNING changed."""
    return cast("CursorResult[Any]", result).rowcount  # Any: it has no rows


def read_held(session: Session, lease: Lease) -> Row[int, int, bool, bool, int, str]:
    """Lock the row of a job that is held, and read what its end depends on. Raises StaleLease."""
    row = session.execute(
        select(
            Job.attempt,
            Job.max_attempts,
            Job.cancel_requested,
            Job.pause_requested,
            Job.setbacks,
            Job.device,
        )
        .where(held(lease))
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise StaleLease(lease)
    return row


def end_attempt(
    session: Session,
    lease: Lease,
    status: JobStatus,
    ended: AttemptEnd,
    *,
    class_: AttemptClass | None = None,
    detail: str | None = None,
    values: Data | None = None,
) -> None:
    """End an attempt, and leave the job in a state. Raises StaleLease."""
    finished = now_plus() if status.is_terminal else None
    change = update(Job).where(held(lease))
    require(
        session,
        change.values(
            status=status, lease_until=None, lease_owner=None, finished_at=finished, **(values or {})
        ),
        lease,
    )
    # What was noted on the way stays: an attempt that ended well may have met something.
    noted = {"class_": class_, "detail": detail}
    told = {name: value for name, value in noted.items() if value is not None}
    note_attempt(session, lease, ended_at=now_plus(), ended=ended, **told)
    data = {"epoch": lease.epoch, "ended": ended, "class": class_, "detail": detail}
    append_event(session, lease.job_id, "attempt.ended", data)


def note_attempt(session: Session, lease: Lease, **values: object) -> None:
    """Write into the row of an attempt, under a fence that the caller has passed."""
    session.execute(
        update(JobAttempt)
        .where(JobAttempt.job_id == lease.job_id, JobAttempt.epoch == lease.epoch)
        .values(**values)
    )
