"""The job's states: one owner at a time, gapless events, stale leases change nothing."""

import itertools
import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from app.core import checkpoints, job_requests, job_returns, jobs, outbox
from app.core.checkpoints import NewCheckpoint
from app.core.errors import JobTimeout, NotFound, WorkerUnfit
from app.core.job_returns import MAX_SETBACKS, Backoff
from app.core.jobs import Asked
from app.core.states import AttemptClass, AttemptEnd, Stage
from app.core.tables import Job, JobAttempt, JobEvent, OutboxMessage
from tests.app.core.conftest import new_job

GATES = {"outcome": "not_evaluated", "results": []}
BACKOFF = Backoff(first_s=5.0, most_s=600.0)
CHECKPOINT = NewCheckpoint(
    stage="finetune", step=1, version="v", files={"a": {"sha256": "0" * 64, "size": 1}}
)


def claim(sessions, job_id, *, lease_s=30.0, owner="w1"):
    with sessions.begin() as session:
        return jobs.claim(session, job_id, owner, lease_s=lease_s)


def read(sessions, job_id) -> Job:
    with sessions() as session:
        return session.get_one(Job, job_id)


def events(sessions, job_id) -> list[JobEvent]:
    with sessions() as session:
        query = select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)
        return list(session.scalars(query))


def test_job_event_and_hint_appear_together_or_not_at_all(sessions, model_id):
    def boom():
        with sessions.begin() as session:
            jobs.create(session, new_job(model_id), hint_again_s=30.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        boom()
    with sessions() as session:
        counts = [session.scalar(select(func.count()).select_from(t)) for t in (Job, JobEvent, OutboxMessage)]
    assert counts == [0, 0, 0]
    with sessions.begin() as session:
        jobs.create(session, new_job(model_id), hint_again_s=30.0)
    with sessions() as session:
        counts = [session.scalar(select(func.count()).select_from(t)) for t in (Job, JobEvent, OutboxMessage)]
    assert counts == [1, 1, 1]


def test_a_queued_job_is_claimed_once(sessions, job_id):
    lease = claim(sessions, job_id)
    assert lease is not None
    assert lease.epoch == 1
    assert claim(sessions, job_id, owner="w2") is None
    assert read(sessions, job_id).status == "running"


def test_of_many_concurrent_claims_exactly_one_wins(sessions, job_id):
    leases, barrier = [], threading.Barrier(6)

    def contend():
        barrier.wait()
        leases.append(claim(sessions, job_id))

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in leases) == 1
    assert read(sessions, job_id).attempt == 1


def test_an_expired_lease_is_taken_over_and_fences_the_old_owner(sessions, job_id):
    old = claim(sessions, job_id, lease_s=0.05)
    time.sleep(0.15)
    assert claim(sessions, job_id, owner="w2") is None
    with sessions.begin() as session:
        job_returns.sweep(session, hint_again_s=30.0)
    new = claim(sessions, job_id, owner="w2")
    assert new is not None
    assert new.epoch == old.epoch + 1
    before = events(sessions, job_id)
    problem = JobTimeout("late").problem()
    for write in (
        lambda s: jobs.beat(s, old, lease_s=30.0),
        lambda s: jobs.record(s, old, "progress", {}, stage=Stage.LOAD),
        lambda s: jobs.succeed(s, old, gates=GATES),
        lambda s: jobs.fail(s, old, problem),
        lambda s: jobs.cancel(s, old),
        lambda s: job_returns.release(s, old, "x"),
        lambda s: jobs.note_resumed(s, old, stage="finetune", step=1),
        lambda s: jobs.note_warnings(s, old, ["late"]),
        lambda s: jobs.note_class(s, old, AttemptClass.RESOURCE, "late"),
        lambda s: checkpoints.save(s, old, CHECKPOINT),
        lambda s: job_returns.pause(s, old),
        lambda s: job_returns.set_back(s, old, problem, AttemptClass.TRANSIENT, backoff=BACKOFF),
        lambda s: job_returns.pass_on(s, old, problem, AttemptClass.TRANSIENT, backoff=BACKOFF),
        lambda s: job_returns.retry_after_crash(s, old, "x", ended=AttemptEnd.CRASHED),
    ):
        with pytest.raises(jobs.StaleLease), sessions.begin() as session:
            write(session)
    assert len(events(sessions, job_id)) == len(before)
    with sessions.begin() as session:
        jobs.succeed(session, new, gates=GATES)
    assert read(sessions, job_id).status == "succeeded"


def test_events_are_numbered_without_gaps_under_concurrency(sessions, job_id):
    lease = claim(sessions, job_id)

    def write():
        for _ in range(10):
            with sessions.begin() as session:
                jobs.record(session, lease, "progress", {}, stage=Stage.PRUNE)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [event.seq for event in events(sessions, job_id)]
    assert found == list(range(1, len(found) + 1))
    assert len(found) == 32  # job.created, attempt.started, 3 threads of 10


def _cut_off(sessions, job_id, *, resumed=None, reached=None):
    """Run an attempt that goes on from one place, leaves a checkpoint at another, and dies."""
    lease = claim(sessions, job_id)
    assert lease is not None
    with sessions.begin() as session:
        if resumed is not None:
            jobs.note_resumed(session, lease, stage=resumed[0], step=resumed[1])
        if reached is not None:
            checkpoints.save(session, lease, replace(CHECKPOINT, stage=reached[0], step=reached[1], files={}))
        job_returns.retry_after_crash(session, lease, "killed by SIGKILL", ended=AttemptEnd.CRASHED)
    return read(sessions, job_id)


def test_a_job_that_comes_further_each_time_may_be_cut_off_any_number_of_times(sessions, job_id):
    places = [("baseline", None), *(("finetune", step) for step in range(10, 60, 10)), ("finetune", None)]
    for before, after in itertools.pairwise([None, *places, ("evaluate", None)]):
        job = _cut_off(sessions, job_id, resumed=before, reached=after)
        assert (job.status, job.attempt) == ("queued", 0), (before, after)


@pytest.mark.parametrize(
    ("resumed", "reached"),
    [
        (("finetune", 10), None),
        (("finetune", 10), ("finetune", 10)),
        (("finetune", 10), ("baseline", None)),
        (("finetune", None), ("finetune", 10)),
        (None, ("finetune", 20)),
    ],
)
def test_an_attempt_over_old_ground_is_spent(sessions, job_id, resumed, reached):
    assert _cut_off(sessions, job_id, reached=("finetune", 10)).attempt == 0
    for spent in (1, 2):
        job = _cut_off(sessions, job_id, resumed=resumed, reached=reached)
        assert (job.status, job.attempt) == ("queued", spent)
    job = _cut_off(sessions, job_id, resumed=resumed, reached=reached)
    assert (job.status, job.error["code"]) == ("failed", "crash_loop")


def test_a_job_whose_process_keeps_dying_fails_after_its_last_attempt(sessions, job_id):
    for attempt in range(1, 4):
        lease = claim(sessions, job_id)
        assert lease is not None, attempt
        with sessions.begin() as session:
            job_returns.retry_after_crash(session, lease, "killed by SIGKILL", ended=AttemptEnd.CRASHED)
    job = read(sessions, job_id)
    assert (job.status, job.error["code"]) == ("failed", "crash_loop")
    assert "SIGKILL" in job.error["detail"]
    assert claim(sessions, job_id) is None
    with sessions() as session:
        ended = session.scalars(select(JobAttempt.ended).order_by(JobAttempt.epoch)).all()
    assert ended == ["crashed"] * 3


def test_a_released_job_costs_no_attempt(sessions, job_id):
    for _ in range(5):
        lease = claim(sessions, job_id)
        with sessions.begin() as session:
            job_returns.release(session, lease, "the worker shuts down")
    job = read(sessions, job_id)
    assert (job.status, job.attempt) == ("queued", 0)


def test_a_job_that_no_worker_here_can_run_waits_longer_and_longer_and_never_fails(sessions, job_id):
    problem = WorkerUnfit("no GPU").problem()
    for _ in range(2 * MAX_SETBACKS):
        lease = claim(sessions, job_id)
        with sessions.begin() as session:
            job_returns.pass_on(
                session, lease, problem, AttemptClass.TRANSIENT, backoff=Backoff(first_s=0.0, most_s=0.0)
            )
    job = read(sessions, job_id)
    assert (job.status, job.attempt) == ("queued", 0)
    # What another worker then meets has its own patience.
    assert 0 < job.setbacks < MAX_SETBACKS


def test_cancelling_a_queued_job_ends_it_at_once(sessions, job_id):
    for _ in range(2):
        with sessions.begin() as session:
            job_requests.request_cancel(session, job_id)
    assert read(sessions, job_id).status == "cancelled"
    assert claim(sessions, job_id) is None
    assert [e.type for e in events(sessions, job_id)] == ["job.created", "cancel.requested", "job.cancelled"]


def test_cancelling_a_running_job_asks_its_supervisor(sessions, job_id):
    lease = claim(sessions, job_id)
    with sessions.begin() as session:
        assert jobs.beat(session, lease, lease_s=30.0) == Asked(cancel=False, pause=False)
        job_requests.request_cancel(session, job_id)
    assert read(sessions, job_id).status == "running"
    with sessions.begin() as session:
        assert jobs.beat(session, lease, lease_s=30.0) == Asked(cancel=True, pause=False)
        jobs.cancel(session, lease)
    assert read(sessions, job_id).status == "cancelled"


@pytest.mark.parametrize("hand_back", ["release", "crash", "expire"])
def test_a_cancel_is_not_lost_when_the_attempt_ends_otherwise(sessions, job_id, hand_back):
    lease = claim(sessions, job_id, lease_s=0.05 if hand_back == "expire" else 30.0)
    with sessions.begin() as session:
        job_requests.request_cancel(session, job_id)
    time.sleep(0.1)
    with sessions.begin() as session:
        if hand_back == "release":
            job_returns.release(session, lease, "shutdown")
        elif hand_back == "crash":
            job_returns.retry_after_crash(session, lease, "died", ended=AttemptEnd.CRASHED)
        else:
            job_returns.sweep(session, hint_again_s=30.0)
    assert read(sessions, job_id).status == "cancelled"


def test_cancelling_an_ended_job_changes_nothing(sessions, job_id):
    lease = claim(sessions, job_id)
    with sessions.begin() as session:
        jobs.succeed(session, lease, gates=GATES)
    before = len(events(sessions, job_id))
    with sessions.begin() as session:
        job_requests.request_cancel(session, job_id)
    assert read(sessions, job_id).status == "succeeded"
    assert len(events(sessions, job_id)) == before


def test_cancelling_an_unknown_job_is_not_found(sessions):
    with pytest.raises(NotFound), sessions.begin() as session:
        job_requests.request_cancel(session, "job_00000000000000000000000000")


def test_the_sweeper_takes_back_silent_attempts_and_hints_again(sessions, job_id):
    claim(sessions, job_id, lease_s=0.05)
    time.sleep(0.1)
    with sessions.begin() as session:
        assert job_returns.sweep(session, hint_again_s=30.0) == 1
    assert read(sessions, job_id).status == "queued"
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(OutboxMessage)) == 2


def test_the_sweeper_hints_again_at_a_job_that_nobody_took(sessions, model_id):
    with sessions.begin() as session:
        job_id = jobs.create(session, new_job(model_id), hint_again_s=0.0).id
    sent: list[tuple[str, str]] = []
    outbox.publish_pending(sessions, lambda *m: sent.append(m))
    time.sleep(0.01)
    with sessions.begin() as session:
        job_returns.sweep(session, hint_again_s=30.0)
        job_returns.sweep(session, hint_again_s=30.0)
    outbox.publish_pending(sessions, lambda *m: sent.append(m))
    assert sent == [("secateur.run_job", job_id)] * 2


def test_the_database_refuses_states_that_cannot_be(sessions, job_id):
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.get_one(Job, job_id).status = "running"  # running without a lease
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.get_one(Job, job_id).status = "failed"  # failed without an error
