"""Events of a job: a gapless sequence from 1."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.tables import JobEvent

TERMINAL_EVENTS = frozenset({"job.succeeded", "job.failed", "job.cancelled"})


def read_events(session: Session, job_id: str, *, after: int, limit: int) -> Sequence[JobEvent]:
    """Return up to `limit` events with a number over `after`, in order."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after)
    return session.scalars(query.order_by(JobEvent.seq).limit(limit)).all()
