"""A runner that the kernel killed for want of memory is told from one that was killed by anybody else."""

import json
from functools import partial

import pytest
from sqlalchemy import select

from app.core import job_requests
from app.core.errors import Blame, Unavailable
from app.core.tables import Job, JobAttempt
from tests.support import digits
from tests.worker.conftest import add_model
from worker.protocol import Failed
from worker.supervision import process
from worker.supervision.memory import OomWatch
from worker.supervisor import run_waiting_jobs

EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {count}\noom_group_kill 0\n"
VMSTAT = "nr_free_pages 1024\noom_kill {count}\n"
# Notes whether its batches shall be halved, and ends; in the first attempt the kernel counts a kill.
DYING = """
import json, os, pathlib, signal
(given,) = pathlib.Path({work!r}).glob("*/job.json")
with open({noted!r}, "a") as noted:
    noted.write(json.dumps(json.loads(given.read_text())["is_halved"]) + "\\n")
pathlib.Path({vmstat!r}).write_text("oom_kill 1\\n")
{end}
"""
DIES = "os.kill(os.getpid(), signal.SIGKILL)"


def write(path, text, *, count):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(count=count))


@pytest.mark.parametrize(
    ("groups", "counted", "text"),
    [
        ("0::/\n", "sys/fs/cgroup/memory.events", EVENTS),
        ("0::/a.slice/b\n", "sys/fs/cgroup/a.slice/b/memory.events", EVENTS),
        ("4:memory:/x\n0::/x\n", "proc/vmstat", VMSTAT),
        ("4:memory:/x\n", "proc/vmstat", VMSTAT),
        (None, "proc/vmstat", VMSTAT),
    ],
    ids=["container", "unit", "both_versions", "version_1", "no_groups"],
)
def test_kills_are_counted_of_the_group_or_else_of_the_machine(tmp_path, groups, counted, text):
    if groups is not None:
        write(tmp_path / "proc/self/cgroup", groups, count=0)
    write(tmp_path / "proc/vmstat", VMSTAT, count=7)
    write(tmp_path / counted, text, count=7)
    watch = OomWatch(tmp_path)
    assert watch.sees
    assert not watch.has_killed()
    write(tmp_path / counted, text, count=8)
    assert watch.has_killed()


@pytest.mark.parametrize("vmstat", [None, "nr_free_pages 1024\n"], ids=["no_linux", "old_kernel"])
def test_a_kernel_that_does_not_count_has_killed_nobody(tmp_path, vmstat):
    if vmstat is not None:
        write(tmp_path / "proc/vmstat", vmstat, count=0)
    watch = OomWatch(tmp_path)
    assert not watch.sees
    assert not watch.has_killed()


def test_a_kill_of_more_than_a_minute_ago_was_that_of_another_process(tmp_path):
    times_s = iter([0.0, 0.5, 30.0, 59.0, 61.0])
    write(tmp_path / "proc/vmstat", VMSTAT, count=3)
    watch = OomWatch(tmp_path, clock=lambda: next(times_s))
    write(tmp_path / "proc/vmstat", VMSTAT, count=4)
    assert [watch.has_killed() for _ in range(4)] == [True, True, True, False]


@pytest.fixture
def dying(context, write_runner, tmp_path, monkeypatch):
    """Make each attempt end by a statement, the kernel counting in the first; returns what they were told."""
    vmstat, noted = tmp_path / "proc" / "vmstat", tmp_path / "noted"
    write(vmstat, VMSTAT, count=0)
    monkeypatch.setattr(process, "OomWatch", partial(OomWatch, tmp_path))

    def make(end):
        work = str(context.settings.work_dir)
        write_runner(DYING.format(work=work, noted=str(noted), vmstat=str(vmstat), end=end))
        return lambda: [json.loads(line) for line in noted.read_text().splitlines()]

    return make


def read(context, job_id) -> tuple[Job, list[tuple[str | None, str | None]]]:
    with context.sessions() as session:
        attempts = session.scalars(select(JobAttempt).order_by(JobAttempt.epoch)).all()
        return session.get_one(Job, job_id), [(one.ended, one.class_) for one in attempts]


def retry(context, job_id, start):
    with context.sessions.begin() as session:
        job_requests.request_retry(session, job_id, start=start, hint_again_s=30.0)
    run_waiting_jobs(context)


def test_after_a_kill_for_want_of_memory_all_attempts_have_smaller_batches(context, submit, dying):
    told = dying(DIES)
    job_id = submit(add_model(context, digits.model_bytes()))
    run_waiting_jobs(context)
    job, attempts = read(context, job_id)
    assert told() == [False, True, True]
    assert attempts == [("crashed", "resource"), ("crashed", "crash"), ("crashed", "crash_loop")]
    assert job.error["code"] == "crash_loop"
    retry(context, job_id, "checkpoint")
    assert told()[3:] == [True] * 3
    retry(context, job_id, "start")
    assert told()[6:] == [False] * 3


def test_a_child_that_the_kernel_killed_is_a_want_of_memory_too(context, submit, dying):
    problem = Unavailable("the process that checks the exported file was ended by SIGKILL").problem()
    failed = Failed(problem=problem, blame=Blame.TRANSIENT).model_dump_json()
    told = dying(
        f"print({failed!r}, flush=True) if not json.loads(given.read_text())['is_halved'] else {DIES}"
    )
    job_id = submit(add_model(context, digits.model_bytes()), resources={"max_attempts": 2})
    run_waiting_jobs(context)
    _, attempts = read(context, job_id)
    assert told() == [False, True]
    assert attempts == [("crashed", "resource"), ("crashed", "crash_loop")]


def test_a_job_whose_last_attempt_had_too_little_memory_says_so(context, submit, dying):
    dying(DIES)
    job_id = submit(add_model(context, digits.model_bytes()), resources={"max_attempts": 1})
    run_waiting_jobs(context)
    job, attempts = read(context, job_id)
    assert (job.status, job.error["code"]) == ("failed", "out_of_memory")
    assert attempts == [("crashed", "resource")]
    assert "memory" in job.error["detail"]
    assert "batch_size" in job.error["detail"]


def test_a_runner_that_is_killed_for_talking_nonsense_has_memory_enough(context, submit, dying):
    told = dying("print('nonsense', flush=True)\nimport time\ntime.sleep(60)")
    job_id = submit(add_model(context, digits.model_bytes()), resources={"max_attempts": 2})
    run_waiting_jobs(context)
    assert told() == [False, False]
    assert [class_ for _, class_ in read(context, job_id)[1]] == ["crash", "crash_loop"]
