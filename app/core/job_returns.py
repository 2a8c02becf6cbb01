"""A job that comes back to the line without having ended: paused, released, set back, crashed, silent."""

import random
from dataclasses import dataclass

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.core import checkpoints
from app.core.db import now_plus
from app.core.errors import JobCrashLoop, OutOfMemory, Problem
from app.core.job_writes import Data, Lease, append_event, end_attempt, held, hint, read_held, require
from app.core.jobs import cancel, fail
from app.core.states import AttemptClass, AttemptEnd, JobStatus
from app.core.tables import Job

# Setbacks in a row after which it is no longer believed that it passes by itself: with the pauses between
# them, about a quarter of an hour.
MAX_SETBACKS = 10
# What is wrong with one worker alone lengthens the pauses up to here, far from what ends the job.
_PASSED_ON_AT_MOST = 5
_HINTS_AT_ONCE = 50


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts: by chance up to `first_s`, doubled with each setback, up to `most_s`."""

    first_s: float
    most_s: float

    def draw_s(self, setbacks: int) -> float:
        """Draw the pause after so many setbacks; by chance, so that not all jobs come back at once."""
        most_s: float = min(self.most_s, self.first_s * 2.0**setbacks)
        return random.uniform(0.0, most_s)  # noqa: S311 - no secret


def pause(session: Session, lease: Lease) -> None:
    """Leave the job paused, after its process is gone, at no cost; queued, when that was withdrawn."""
    _refund(session, lease)
    _hand_back(session, lease, "a pause was asked for", ended=AttemptEnd.PAUSED)


def release(session: Session, lease: Lease, detail: str) -> None:
    """Give a job back because its worker shuts down; this costs no attempt. Raises StaleLease."""
    _refund(session, lease)
    _hand_back(session, lease, detail, ended=AttemptEnd.RELEASED, class_=AttemptClass.RELEASED)


def set_back(
    session: Session, lease: Lease, problem: Problem, class_: AttemptClass, *, backoff: Backoff
) -> None:
    """Give a job back that met what passes by itself, for a later attempt; this one costs nothing.

    After `MAX_SETBACKS` in a row it fails with the problem. Raises StaleLease.
    """
    job = read_held(session, lease)
    if job.setbacks >= MAX_SETBACKS and not job.cancel_requested:
        fail(session, lease, problem, class_=class_)
        return
    _put_off(session, lease, problem, class_, setbacks=job.setbacks + 1, delay_s=backoff.draw_s(job.setbacks))


def pass_on(
    session: Session, lease: Lease, problem: Problem, class_: AttemptClass, *, backoff: Backoff
) -> None:
    """Give a job back that this worker cannot run, for another one, after a pause.

    It costs nothing and never ends the job, however many such workers take it. Raises StaleLease.
    """
    job = read_held(session, lease)
    setbacks = max(job.setbacks, min(job.setbacks + 1, _PASSED_ON_AT_MOST))
    _put_off(session, lease, problem, class_, setbacks=setbacks, delay_s=backoff.draw_s(job.setbacks))


_CLASS_OF_END = {
    AttemptEnd.CRASHED: AttemptClass.CRASH,
    AttemptEnd.LOST: AttemptClass.LOST,
    AttemptEnd.STALLED: AttemptClass.STALLED,
}


def retry_after_crash(
    session: Session,
    lease: Lease,
    detail: str,
    *,
    ended: AttemptEnd,
    class_: AttemptClass | None = None,
) -> None:
    """Give a job whose process died back to the queue, or fail it when its attempts are used up.

    An attempt that came further than those before costs nothing: its job will end, however often it is cut
    off. The class `resource` says that memory ran out: batches are of half the size from then on.
    """
    job = read_held(session, lease)
    if class_ == AttemptClass.RESOURCE:
        session.execute(update(Job).where(held(lease)).values(is_halved=True))
    gets_on = checkpoints.has_come_further(session, lease)
    if job.attempt >= job.max_attempts and not gets_on and not job.cancel_requested:
        died = (
            f"the job's process died in each of {job.attempt} attempts without a new checkpoint, the most it "
            f"may have; last: {detail}"
        )
        if class_ == AttemptClass.RESOURCE:
            problem = OutOfMemory(f"{died}; a smaller batch_size may help").problem()
        else:
            problem, class_ = JobCrashLoop(died).problem(), AttemptClass.CRASH_LOOP
        fail(session, lease, problem, ended=ended, class_=class_)
        return
    if gets_on:
        _refund(session, lease)
    _hand_back(session, lease, detail, ended=ended, class_=class_ or _CLASS_OF_END[ended])


def end_leases_of(session: Session, owner: str) -> None:
    """Let the leases of a worker that is known to be dead run out now: the next sweep takes its jobs back."""
    owned = (Job.status == JobStatus.RUNNING) & (Job.lease_owner == owner)
    session.execute(update(Job).where(owned).values(lease_until=now_plus(-1.0)))


def sweep(session: Session, *, hint_again_s: float) -> int:
    """Take back jobs whose lease has run out, and hint again at queued jobs that nobody took.

    A few hints at a time: they only wake workers, which find the others by themselves.
    """
    expired = session.scalars(
        select(Job.id).where(Job.status == JobStatus.RUNNING, Job.lease_until < now_plus())
    ).all()
    for job_id in expired:
        _reclaim_expired(session, job_id)
    forgotten = session.execute(
        select(Job.id, Job.device)
        .where(
            Job.status == JobStatus.QUEUED,
            Job.hint_at < now_plus(),
            or_(Job.next_run_at.is_(None), Job.next_run_at <= now_plus()),
        )
        .order_by(Job.hint_at)
        .limit(_HINTS_AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    for job_id, device in forgotten:
        session.execute(update(Job).where(Job.id == job_id).values(hint_at=now_plus(hint_again_s)))
        hint(session, job_id, device)
    return len(expired)


def _reclaim_expired(session: Session, job_id: str) -> None:
    """End an attempt whose worker fell silent: requeue, fail when none is left, cancel when asked to."""
    epoch = session.scalar(
        select(Job.epoch)
        .where(Job.id == job_id, Job.status == JobStatus.RUNNING, Job.lease_until < now_plus())
        .with_for_update(skip_locked=True)
    )
    if epoch is not None:
        retry_after_crash(session, Lease(job_id, epoch), "the worker fell silent", ended=AttemptEnd.LOST)


def _put_off(
    session: Session, lease: Lease, problem: Problem, class_: AttemptClass, *, setbacks: int, delay_s: float
) -> None:
    _refund(session, lease)
    session.execute(update(Job).where(held(lease)).values(setbacks=setbacks))
    _hand_back(session, lease, problem.detail, ended=AttemptEnd.FAILED, class_=class_, delay_s=delay_s)


def _refund(session: Session, lease: Lease) -> None:
    require(session, update(Job).where(held(lease)).values(attempt=Job.attempt - 1), lease)


def _hand_back(
    session: Session,
    lease: Lease,
    detail: str,
    *,
    ended: AttemptEnd,
    class_: AttemptClass | None = None,
    delay_s: float = 0.0,
) -> None:
    """Queue the job again, unless its user asked for something else in the meantime."""
    job = read_held(session, lease)
    if job.cancel_requested:
        cancel(session, lease)
        return
    if job.pause_requested:
        values: Data = {"pause_requested": False}
        end_attempt(session, lease, JobStatus.PAUSED, ended, class_=class_, detail=detail, values=values)
        append_event(session, lease.job_id, "job.paused", {})
        return
    later = {"next_run_at": now_plus(delay_s), "hint_at": now_plus(delay_s)} if delay_s else {}
    end_attempt(session, lease, JobStatus.QUEUED, ended, class_=class_, detail=detail, values=later)
    if not delay_s:
        hint(session, lease.job_id, job.device)
