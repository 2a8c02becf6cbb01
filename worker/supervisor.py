"""Take waiting jobs as long as a slot is free, and turn whatever ends an attempt into its end. No torch."""

import errno
import logging

from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app.core import job_returns, jobs, line
from app.core.errors import SecateurError, StorageFull, Unavailable
from app.core.job_writes import Lease, StaleLease
from app.core.logs import log_fields
from app.core.states import AttemptEnd
from app.core.tables import Job
from worker.supervision.attempt import Attempt
from worker.supervision.context import WorkerContext
from worker.supervision.heartbeat import Heartbeat
from worker.supervision.slots import Slot
from worker.supervision.verdict import Verdict

_log = logging.getLogger(__name__)
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def run_waiting_jobs(context: WorkerContext) -> None:
    """Take whoever is first in the line, again and again, as long as a slot is free and somebody waits.

    A hint that finds no free slot is dropped: whoever holds the slot looks into the database when done,
    and once more after giving the slot back, so that no hint falls in between.
    """
    while not context.draining.is_set() and has_waiting_job(context):
        slot = context.slots.take()
        if slot is None:
            return
        try:
            while _may_run(context, slot) and (job_id := _find_next(context)) is not None:
                _run_if_free(context, job_id, slot)
        finally:
            context.slots.give(slot)


def has_waiting_job(context: WorkerContext) -> bool:
    """Tell whether a job waits that this worker can run."""
    return _find_next(context) is not None


def _may_run(context: WorkerContext, slot: Slot) -> bool:
    return not context.draining.is_set() and context.slots.is_trusted(slot)


def _find_next(context: WorkerContext) -> str | None:
    if context.schema.is_outdated():
        return None
    with context.reading_sessions() as session:
        return line.find_next(session, context.devices)


def _run_if_free(context: WorkerContext, job_id: str, slot: Slot) -> None:
    settings = context.settings
    if context.schema.is_outdated():
        return
    with context.sessions.begin() as session:
        lease = jobs.claim(
            session,
            job_id,
            context.owner,
            lease_s=settings.lease_s,
            device=slot.name,
            version=context.version,
        )
        attempt = session.scalar(select(Job.attempt).where(Job.id == job_id))
    if lease is None:
        return
    with log_fields(job_id=job_id, epoch=lease.epoch, attempt=attempt):
        _run_claimed(context, lease, slot)


def _run_claimed(context: WorkerContext, lease: Lease, slot: Slot) -> None:
    _log.info("job claimed")
    settings = context.settings
    try:
        with Heartbeat(
            context.sessions, lease, lease_s=settings.lease_s, beat_s=settings.beat_s
        ) as heartbeat:
            _run(context, lease, heartbeat, slot)
    except StaleLease:
        _log.warning("lease lost; leaving the job to its new owner")
    except OperationalError:
        # Not even the end could be written; the lease runs out, and the sweeper gives the job back.
        _log.exception("database away; leaving the job to the sweeper")
    _log.info("job left")


def _run(context: WorkerContext, lease: Lease, heartbeat: Heartbeat, slot: Slot) -> None:
    """Run the attempt; what the supervisor itself meets ends it too."""
    verdict = Verdict(context, lease, heartbeat)
    try:
        Attempt(context, lease, heartbeat, slot=slot, verdict=verdict).run()
    except (StaleLease, OperationalError):
        raise
    except SecateurError as error:
        _log.exception("attempt failed")
        verdict.fail(error.problem(), error.blame, artifacts=None)
    except OSError as error:
        _log.exception("attempt failed")
        known = _translate(error)
        verdict.fail(known.problem(), known.blame, artifacts=None)
    except Exception as error:  # a bug of ours must not keep the job for ever, nor end the worker
        _log.exception("supervisor failed")
        detail = f"an unexpected {type(error).__name__} in the worker"
        verdict.write(
            lambda session: job_returns.retry_after_crash(session, lease, detail, ended=AttemptEnd.CRASHED)
        )


def _translate(error: OSError) -> SecateurError:
    if error.errno in _NO_ROOM:
        return StorageFull("the worker's disk is full; the job is tried again")
    reason = error.strerror or type(error).__name__
    return Unavailable(f"the worker's disk or the store failed: {reason}; the job is tried again")
