"""Look for waiting jobs now and then without being told: a deaf broker then costs time, and nothing else."""

import logging
import threading

from sqlalchemy.exc import SQLAlchemyError

from worker.supervision.context import WorkerContext
from worker.supervisor import has_waiting_job, run_waiting_jobs

_log = logging.getLogger(__name__)


def start_poller(context: WorkerContext) -> threading.Thread:
    """Start the thread that polls until the worker drains."""
    thread = threading.Thread(target=_poll, args=(context,), name="poll")
    thread.start()
    return thread


def _poll(context: WorkerContext) -> None:
    while not context.draining.wait(context.settings.worker_poll_s):
        try:
            if has_waiting_job(context):
                # Not daemons: a worker that ends waits for each, as it waits for what hints started.
                threading.Thread(target=run_waiting_jobs, args=(context,), name="polled").start()
        except (SQLAlchemyError, OSError, RuntimeError) as error:
            # RuntimeError: the system has no thread left. That passes, and a poller that is gone does not.
            _log.warning("poll failed", extra={"error": str(error)})
