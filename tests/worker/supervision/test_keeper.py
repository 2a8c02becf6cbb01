"""Keeping checkpoints in the store: what is slow there costs no attempt."""

import contextlib
import os
import threading

from sqlalchemy import select

from app.core.tables import Job, JobCheckpoint
from tests.support import digits
from tests.support.service import wait_for
from tests.worker.conftest import add_model
from worker.supervisor import run_waiting_jobs

# It leaves a checkpoint with a file that is read for as long as nobody writes into it.
RUNNER = """
import os, pathlib, sys
stage = pathlib.Path(sys.argv[1]) / "stages" / "load"
stage.mkdir(parents=True)
(stage / "manifest.json").write_text("a stage")
os.mkfifo(stage / "slow")
print('{"type": "stage.finished", "stage": "load"}', flush=True)
sys.stdin.read()
"""


def let_go(slow, job_id) -> bool:
    """Let whoever reads the slow file come to its end; returns whether the keeper has ended."""
    with contextlib.suppress(OSError):  # nobody reads, or it is gone
        os.close(os.open(slow, os.O_WRONLY | os.O_NONBLOCK))
    return all(thread.name != f"keep-{job_id}" for thread in threading.enumerate())


def test_a_worker_that_drains_gives_its_job_back_before_a_slow_upload_has_ended(
    context, submit, write_runner, in_background
):
    write_runner(RUNNER)
    hurried = context.settings.model_copy(update={"shutdown_grace_s": 1})
    object.__setattr__(context, "settings", hurried)
    job_id = submit(add_model(context, digits.model_bytes()))
    slow = context.settings.work_dir / job_id / "snapshot" / "stages" / "load" / "slow"
    thread = in_background(run_waiting_jobs, context)
    wait_for(slow.exists, "the upload to begin")
    context.draining.set()
    try:
        thread.join(30)
        assert not thread.is_alive()
    finally:
        wait_for(lambda: let_go(slow, job_id), "the keeper to end")
    # What the keeper has uploaded since is no checkpoint: the job may have another worker by now.
    with context.sessions() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.attempt) == ("queued", 0)
        assert session.scalars(select(JobCheckpoint)).all() == []
