"""A runner that the kernel killed for want of memory is told from one that was killed by anybody else."""

import json

import pytest
from sqlalchemy import select

from app.core import job_requests
from app.core.tables import Job, JobAttempt
from tests.support import digits
from tests.worker.conftest import add_model
from worker.supervision import process
from worker.supervision.memory import count_oom_kills
from worker.supervisor import run_waiting_jobs

EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
VMSTAT = "nr_free_pages 1024\noom_kill 7\n"
# Notes whether its batches shall be smaller, and dies by SIGKILL; the first time, as the kernel's count says,
# because memory ran out.
DYING = """
import json, os, pathlib, signal
(given,) = pathlib.Path({work!r}).glob("*/job.json")
with open({noted!r}, "a") as noted:
    noted.write(json.dumps(json.loads(given.read_text())["is_halved"]) + "\\n")
pathlib.Path({killed!r}).touch()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": EVENTS}, 2),
        ({"proc/self/cgroup": "0::/a.slice/b\n", "sys/fs/cgroup/a.slice/b/memory.events": EVENTS}, 2),
        ({"proc/self/cgroup": "4:memory:/x\n0::/x\n", "proc/vmstat": VMSTAT}, 7),
        ({"proc/self/cgroup": "4:memory:/x\n", "proc/vmstat": VMSTAT}, 7),
        ({"proc/vmstat": VMSTAT}, 7),
        ({"proc/vmstat": "nr_free_pages 1024\n"}, None),
        ({}, None),
    ],
    ids=["container", "unit", "both_versions", "version_1", "no_groups", "old_kernel", "no_linux"],
)
def test_kills_are_counted_of_the_group_or_else_of_the_machine(tmp_path, files, count):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert count_oom_kills(tmp_path) == count


@pytest.fixture
def dying(context, write_runner, tmp_path, monkeypatch):
    """A runner that dies in each attempt, in the first for want of memory; returns what it was told."""
    killed, noted = tmp_path / "killed", tmp_path / "noted"
    monkeypatch.setattr(process, "count_oom_kills", lambda: int(killed.exists()))
    write_runner(DYING.format(work=str(context.settings.work_dir), noted=str(noted), killed=str(killed)))
    return lambda: [json.loads(line) for line in noted.read_text().splitlines()]


def read(context, job_id) -> tuple[Job, list[tuple[str | None, str | None]]]:
    with context.sessions() as session:
        attempts = session.scalars(select(JobAttempt).order_by(JobAttempt.epoch)).all()
        return session.get_one(Job, job_id), [(one.ended, one.class_) for one in attempts]


def test_after_a_kill_for_want_of_memory_all_attempts_have_smaller_batches(context, submit, dying):
    job_id = submit(add_model(context, digits.model_bytes()))
    run_waiting_jobs(context)
    job, attempts = read(context, job_id)
    assert dying() == [False, True, True]
    assert attempts == [("crashed", "resource"), ("crashed", "crash"), ("crashed", "crash_loop")]
    assert job.error["code"] == "crash_loop"


def test_a_retry_that_its_user_asks_for_begins_as_asked(context, submit, dying):
    job_id = submit(add_model(context, digits.model_bytes()))
    run_waiting_jobs(context)
    with context.sessions.begin() as session:
        job_requests.request_retry(session, job_id, start="checkpoint", hint_again_s=30.0)
    run_waiting_jobs(context)
    assert dying() == [False, True, True, False, False, False]  # its memory may be another now


def test_a_job_whose_last_attempt_had_too_little_memory_says_so(context, submit, dying):
    job_id = submit(add_model(context, digits.model_bytes()), resources={"max_attempts": 1})
    run_waiting_jobs(context)
    job, attempts = read(context, job_id)
    assert (job.status, job.error["code"], attempts) == (
        "failed",
        "out_of_memory",
        [("crashed", "resource")],
    )
    assert "memory" in job.error["detail"]
    assert "batch_size" in job.error["detail"]
