"""A worker that has lost its lease, or cannot know, stops its runner and leaves no trace."""

import sqlite3
import threading

from sqlalchemy import select, update

from app.core import job_returns, jobs
from app.core.db import now_plus
from app.core.job_writes import Lease
from app.core.tables import Artifact, Job, JobAttempt, JobCheckpoint
from tests.support import digits
from tests.support.service import wait_for
from tests.worker.conftest import add_model
from worker.poller import start_poller
from worker.supervision.heartbeat import Heartbeat
from worker.supervision.process import PID_NAME
from worker.supervisor import run_waiting_jobs


def read(context, job_id) -> Job:
    with context.sessions() as session:
        return session.get_one(Job, job_id)


def test_a_runner_is_killed_while_its_lease_still_lives_when_no_beat_comes_through(context, submit):
    job_id = submit(add_model(context, digits.model_bytes()))
    with context.sessions.begin() as session:
        lease = jobs.claim(session, job_id, "w", lease_s=8.0)
    killed = threading.Event()
    seen = []

    def kill():
        with context.reading_sessions() as session:
            seen.append(session.get_one(Job, job_id).lease_until)
            seen.append(session.scalar(select(now_plus())))
        killed.set()

    # A writer that never ends: the beat hangs in the database, as it would in a dead network.
    writer = sqlite3.connect(context.settings.data_dir / "secateur.db", isolation_level=None)
    with Heartbeat(context.sessions, lease, lease_s=8.0, beat_s=0.1) as heartbeat:
        heartbeat.guard(kill)
        writer.execute("BEGIN IMMEDIATE")
        assert killed.wait(60)
        assert heartbeat.lost.is_set()
        writer.execute("ROLLBACK")
        writer.close()
    lease_until, now = seen
    assert now < lease_until


def test_a_guard_that_comes_after_the_loss_kills_at_once(context, submit):
    job_id = submit(add_model(context, digits.model_bytes()))
    killed = threading.Event()
    with Heartbeat(context.sessions, Lease(job_id, 1), lease_s=60.0, beat_s=0.05) as heartbeat:
        assert heartbeat.lost.wait(60)  # nobody has claimed the job
        heartbeat.guard(killed.set)
    assert killed.is_set()


def test_a_worker_whose_job_was_taken_over_ends_its_runner_and_writes_nothing(context, submit, in_background):
    job_id = submit(add_model(context, digits.model_bytes()), epochs=500, resources={"checkpoint_s": 0.0})
    thread = in_background(run_waiting_jobs, context)
    wait_for(lambda: read(context, job_id).stage == "finetune", "the fine-tune")
    pid_file = context.settings.work_dir / job_id / PID_NAME
    assert pid_file.exists()
    with context.sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=now_plus(-1.0)))
        job_returns.sweep(session, hint_again_s=30.0)
        assert jobs.claim(session, job_id, "w2", lease_s=3600.0) is not None
    taken = read(context, job_id)
    thread.join(60)
    assert not thread.is_alive()
    after = read(context, job_id)
    assert (after.status, after.epoch, after.last_seq) == ("running", 2, taken.last_seq)
    assert after.lease_until == taken.lease_until
    with context.sessions() as session:
        assert session.scalars(select(Artifact)).all() == []
        assert {row.epoch for row in session.scalars(select(JobCheckpoint))} <= {1}
        first, second = session.scalars(select(JobAttempt).order_by(JobAttempt.epoch)).all()
    assert (first.ended, first.class_) == ("lost", "lost")
    assert second.ended is None
    assert context.slots.take() is not None


def test_a_job_without_any_hint_is_found_by_polling(context, submit):
    polling = context.settings.model_copy(update={"worker_poll_s": 0.1})
    object.__setattr__(context, "settings", polling)
    job_id = submit(add_model(context, digits.model_bytes()), epochs=1)
    poller = start_poller(context)
    wait_for(lambda: read(context, job_id).status == "succeeded", "the job", within_s=120.0)
    context.draining.set()
    poller.join(30)
    assert not poller.is_alive()
