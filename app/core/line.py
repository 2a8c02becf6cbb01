"""The line of queued jobs: who is next, and who stands where.

Highest priority first; of those, the tenant with the fewest running jobs; of its jobs, the oldest. So a
tenant with ten thousand jobs delays another's one by as many as run at a time, and not by ten thousand.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlalchemy.orm import Session, aliased

from app.core.config import Device
from app.core.db import now_plus
from app.core.states import JobStatus
from app.core.tables import Job

_RUNNABLE: dict[Device, tuple[str, ...]] = {"cpu": ("auto", "cpu"), "cuda": ("auto", "cuda")}


def find_next(session: Session, devices: Iterable[Device]) -> str | None:
    """Return the id of the job that a worker with these devices should take next; None when none waits.

    A few steps through the index for each tenant, however many jobs wait.
    """
    kinds = tuple({kind for device in devices for kind in _RUNNABLE[device]})
    waits = _waits(Job, kinds)
    priority = session.scalar(select(func.max(Job.priority)).where(waits))
    if priority is None:
        return None
    tenants = _list_tenants(session, kinds, priority)
    running = _count_running(session, tenants)
    fewest = min(running.values(), default=0)
    oldest = [
        session.execute(
            select(Job.created_at, Job.id)
            .where(waits, Job.priority == priority, Job.tenant == tenant)
            .order_by(Job.created_at, Job.id)
            .limit(1)
        ).one_or_none()
        for tenant in tenants
        if running[tenant] == fewest
    ]
    # Another worker may have been quicker with a tenant's last job.
    found = [(row.created_at, row.id) for row in oldest if row is not None]
    return min(found)[1] if found else None


def find_positions(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """Return the place of each of these jobs, when it is queued, in the line of its device: the next is 1.

    It is the order in which they would be taken if no running job ended; those that pause come last.
    """
    if not job_ids:
        return {}
    running = (
        select(Job.tenant, func.count().label("n"))
        .where(Job.status == JobStatus.RUNNING)
        .group_by(Job.tenant)
        .subquery()
    )
    needs_cuda = case((Job.device == "cuda", 1), else_=0)
    pauses = case((Job.next_run_at > now_plus(), 1), else_=0)
    # Counted over all priorities: those of a higher one run by the time that this one's turn comes.
    own_place = func.row_number().over(
        partition_by=(needs_cuda, Job.tenant),
        order_by=(pauses, Job.priority.desc(), Job.created_at, Job.id),
    )
    queued = (
        select(
            Job.id,
            Job.created_at,
            Job.priority,
            needs_cuda.label("needs_cuda"),
            pauses.label("pauses"),
            (own_place + func.coalesce(running.c.n, 0)).label("turn"),
        )
        .outerjoin(running, running.c.tenant == Job.tenant)
        .where(Job.status == JobStatus.QUEUED)
        .subquery()
    )
    place = func.row_number().over(
        partition_by=queued.c.needs_cuda,
        order_by=(
            queued.c.pauses,
            queued.c.priority.desc(),
            queued.c.turn,
            queued.c.created_at,
            queued.c.id,
        ),
    )
    line = select(queued.c.id, place.label("place")).subquery()
    rows = session.execute(select(line.c.id, line.c.place).where(line.c.id.in_(job_ids)))
    return {row.id: row.place for row in rows}


def _waits(job: type[Job], kinds: Sequence[str]) -> ColumnElement[bool]:
    return and_(
        job.status == JobStatus.QUEUED,
        job.device.in_(kinds),
        or_(job.next_run_at.is_(None), job.next_run_at <= now_plus()),
    )


def _list_tenants(session: Session, kinds: Sequence[str], priority: int) -> list[str]:
    """List the tenants with a waiting job: from one to the next through the index, not over all jobs."""
    first = (
        select(func.min(Job.tenant).label("tenant"))
        .where(_waits(Job, kinds), Job.priority == priority)
        .cte("tenants", recursive=True)
    )
    later = aliased(Job)
    following = (
        select(func.min(later.tenant))
        .where(_waits(later, kinds), later.priority == priority, later.tenant > first.c.tenant)
        .correlate(first)
        .scalar_subquery()
    )
    tenants = first.union_all(select(following).where(first.c.tenant.is_not(None)))
    return list(session.scalars(select(tenants.c.tenant).where(tenants.c.tenant.is_not(None))))


def _count_running(session: Session, tenants: Sequence[str]) -> dict[str, int]:
    rows = session.execute(
        select(Job.tenant, func.count().label("n"))
        .where(Job.status == JobStatus.RUNNING)
        .group_by(Job.tenant)
    )
    running = {row.tenant: row.n for row in rows}
    return {tenant: running.get(tenant, 0) for tenant in tenants}
