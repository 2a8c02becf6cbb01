"""The poller outlasts a machine that has no thread left for a while."""

import threading
from contextlib import contextmanager

from app.core.tables import Job
from tests.support import digits
from tests.support.service import wait_for
from tests.worker.conftest import add_model
from worker.poller import start_poller

LARGER_THAN_ANY_ADDRESS_SPACE = 1 << 60


@contextmanager
def no_threads():
    """No thread of this process can be started for a while, as when the system has none left."""
    before = threading.stack_size(LARGER_THAN_ANY_ADDRESS_SPACE)
    try:
        yield
    finally:
        threading.stack_size(before)


def read_status(context, job_id) -> str:
    with context.sessions() as session:
        return session.get_one(Job, job_id).status


def test_a_poll_that_gets_no_thread_is_not_the_last(context, submit, write_runner, caplog):
    write_runner("raise SystemExit(9)")
    model_id = add_model(context, digits.model_bytes())
    object.__setattr__(context, "settings", context.settings.model_copy(update={"worker_poll_s": 0.01}))
    thread = start_poller(context)
    try:
        with no_threads():
            job_id = submit(model_id, resources={"max_attempts": 1})
            wait_for(lambda: "poll failed" in caplog.text or not thread.is_alive(), "a poll without a thread")
        assert thread.is_alive()
        wait_for(lambda: read_status(context, job_id) == "failed", "the job to be run")
    finally:
        context.draining.set()
        thread.join()
