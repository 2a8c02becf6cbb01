"""Write how an attempt ended, waiting for a database that is away as long as the lease lives."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.core import job_returns, jobs
from app.core.errors import Blame, Problem
from app.core.job_returns import Backoff
from app.core.job_writes import Data, Lease, StaleLease
from app.core.report import Report
from app.core.states import AttemptClass, AttemptEnd, GateOutcome
from worker.supervision import results
from worker.supervision.context import WorkerContext
from worker.supervision.heartbeat import Heartbeat

_log = logging.getLogger(__name__)
_PAUSE_S = 0.2
_CLASSES = {
    Blame.USER: AttemptClass.USER,
    Blame.BUG: AttemptClass.BUG,
    Blame.TRANSIENT: AttemptClass.TRANSIENT,
    Blame.RESOURCE: AttemptClass.RESOURCE,
    # To users it is the same: it passes by itself. A class of its own would break APIs of an older version.
    Blame.WORKER: AttemptClass.TRANSIENT,
}


class Verdict:
    """The ends that an attempt can have; each is one transaction under its lease, with what it leaves."""

    def __init__(self, context: WorkerContext, lease: Lease, heartbeat: Heartbeat) -> None:
        self._context = context
        self._lease = lease
        self._heartbeat = heartbeat

    def write(self, change: Callable[[Session], object]) -> None:
        """Commit a change, however often that must be tried; raises StaleLease once the lease is lost."""
        while not self._heartbeat.lost.is_set():
            try:
                with self._context.sessions.begin() as session:
                    change(session)
                return
            except OperationalError as error:
                fields = {"job_id": self._lease.job_id, "error": str(error)}
                _log.warning("database away; trying again", extra=fields)
                time.sleep(_PAUSE_S)
        raise StaleLease(self._lease)

    def succeed(self, work: Path) -> None:
        """Put the results into the store, then end the job with them."""
        output, report = results.read_output(work)
        results.store_artifacts(self._context.store, work, output)
        gates = _sum_up_gates(report)
        rows = results.make_rows(self._lease.job_id, work, output=output, report=report)

        def change(session: Session) -> None:
            # The fence first: rows of an attempt that has lost its lease must not be written.
            jobs.succeed(session, self._lease, gates=gates)
            results.insert_rows(session, rows)
            results.insert_artifacts(session, self._lease.job_id, output)

        self.write(change)

    def fail(self, problem: Problem, blame: Blame, *, artifacts: Path | None) -> bool:
        """End the job, or give it back where the problem passes by itself; returns whether it has ended.

        What the runner left in the work folder `artifacts` becomes artifacts of a job that failed.
        """
        class_ = _CLASSES[blame]
        if problem.retryable:
            settings = self._context.settings
            backoff = Backoff(settings.backoff_first_s, settings.backoff_most_s)
            give_back = job_returns.pass_on if blame is Blame.WORKER else job_returns.set_back
            self.write(lambda session: give_back(session, self._lease, problem, class_, backoff=backoff))
            return False
        self._end_with_artifacts(
            artifacts, lambda session: jobs.fail(session, self._lease, problem, class_=class_)
        )
        return True

    def cancel(self, work: Path) -> None:
        """End the job as cancelled, with its best weights so far where the runner left them."""
        self._end_with_artifacts(work, lambda session: jobs.cancel(session, self._lease))

    def crash(self, detail: str, *, ended: AttemptEnd, class_: AttemptClass | None = None) -> None:
        """Give the job back, an attempt spent, or fail it when that was its last.

        Its class is that of such an end, unless another one is known.
        """
        self.write(
            lambda session: job_returns.retry_after_crash(
                session, self._lease, detail, ended=ended, class_=class_
            )
        )

    def pause(self) -> None:
        self.write(lambda session: job_returns.pause(session, self._lease))

    def release(self) -> None:
        self.write(lambda session: job_returns.release(session, self._lease, "the worker shuts down"))

    def _end_with_artifacts(self, work: Path | None, end: Callable[[Session], None]) -> None:
        kept = results.read_kept(work) if work is not None else None
        if kept is not None and work is not None:
            results.store_artifacts(self._context.store, work, kept)

        def change(session: Session) -> None:
            end(session)
            if kept is not None:
                results.insert_artifacts(session, self._lease.job_id, kept)

        self.write(change)


def _sum_up_gates(report: Report) -> Data:
    """Sum the gates up: the worst of them decides."""
    outcomes = {gate.outcome for gate in report.gates}
    worst = (GateOutcome.FAILED, GateOutcome.WARNED, GateOutcome.NOT_EVALUATED, GateOutcome.PASSED)
    outcome = next((o for o in worst if o in outcomes), GateOutcome.NOT_EVALUATED)
    return {"outcome": outcome, "results": [gate.model_dump(mode="json") for gate in report.gates]}
