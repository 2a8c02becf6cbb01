"""Any order of requests, claims, kills and late writes does to the database what it does to the reference."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from app.core import accounts, checkpoints, job_requests, job_returns, jobs
from app.core.checkpoints import NewCheckpoint
from app.core.errors import JobTimeout, TransitionRefused
from app.core.job_returns import Backoff
from app.core.job_writes import Lease, StaleLease
from app.core.states import AttemptClass, AttemptEnd, Stage
from app.core.tables import Job, JobAttempt, JobEvent
from tests.app.core.conftest import new_job
from tests.app.core.reference import TERMINAL, ReferenceJob, Refused, Stale

GATES = {"outcome": "not_evaluated", "results": []}
PROBLEM = JobTimeout("late").problem()
AT_ONCE = Backoff(first_s=0.0, most_s=0.0)
CHECKPOINT = NewCheckpoint("finetune", 1, "v", {"a": {"sha256": "0" * 64, "size": 1}})
any_job = st.integers(0, 2)
# How far back the lease lies that a write comes with: 0 is the newest one.
any_lease = st.sampled_from([0, 0, 0, 0, 0, 1])


class JobMachine(RuleBasedStateMachine):
    def __init__(self, sessions, model_id):
        super().__init__()
        self.sessions, self.model_id = sessions, model_id
        self.ids: list[str] = []
        self.references: list[ReferenceJob] = []
        self.before: dict[str, tuple[int, int]] = {}
        with sessions.begin() as session:
            accounts.adopt(session, "0" * 64, 1, age_s=0.0)
        for max_attempts in (1, 2, 3):
            self._create(max_attempts)

    def _create(self, max_attempts):
        with self.sessions.begin() as session:
            new = new_job(self.model_id, max_attempts=max_attempts)
            self.ids.append(jobs.create(session, new, hint_again_s=30.0).id)
        self.references.append(ReferenceJob(max_attempts))

    @rule(
        job=any_job,
        asked=st.sampled_from(["cancel", "pause", "pause", "resume", "resume", "retry", "retry", "retry"]),
        start=st.booleans(),
    )
    def ask(self, job, asked, start):
        job_id = self.ids[job]
        requests = {
            "cancel": lambda s: job_requests.request_cancel(s, job_id),
            "pause": lambda s: job_requests.request_pause(s, job_id),
            "resume": lambda s: job_requests.request_resume(s, job_id, hint_again_s=30.0),
            "retry": lambda s: job_requests.request_retry(
                s, job_id, start="start" if start else "checkpoint", hint_again_s=30.0
            ),
        }
        self._both(requests[asked], getattr(self.references[job], asked), (TransitionRefused, Refused))

    @rule(job=any_job)
    def hear_a_hint_perhaps_again(self, job):
        job = self._prefer(job, lambda model: model.status == "queued")
        with self.sessions.begin() as session:
            lease = jobs.claim(session, self.ids[job], "w", lease_s=3600.0)
        assert (lease is not None) == self.references[job].claim()
        if lease is not None:
            assert lease.epoch == self.references[job].epoch

    @rule(job=any_job, back=any_lease)
    def beat(self, job, back):
        job = self._prefer(job, lambda model: model.status == "running")

        def real(session, lease):
            asked = jobs.beat(session, lease, lease_s=3600.0)
            assert asked == jobs.Asked(cancel=model.cancel_requested, pause=model.pause_requested)

        def expected(epoch):
            model.check(epoch)
            model.is_expired = False

        model = self.references[job]
        self._write(job, back, real, expected)

    @rule(
        job=any_job,
        back=any_lease,
        kind=st.sampled_from(["event", "checkpoint", "resumed"]),
        step=st.integers(1, 3),
    )
    def write(self, job, back, kind, step):
        job = self._prefer(job, lambda model: model.status == "running")
        model = self.references[job]
        real, expected = {
            "event": (lambda s, x: jobs.record(s, x, "progress", {}, stage=Stage.PRUNE), model.check),
            "checkpoint": (
                lambda s, x: checkpoints.save(s, x, replace(CHECKPOINT, step=step)),
                lambda e: model.checkpoint(e, step),
            ),
            "resumed": (
                lambda s, x: jobs.note_resumed(s, x, stage="finetune", step=step),
                lambda e: model.resume_from(e, step),
            ),
        }[kind]
        self._write(job, back, real, expected)

    @rule(
        job=any_job,
        back=any_lease,
        way=st.sampled_from(
            [
                "succeed",
                "fail",
                "cancel",
                "pause",
                "release",
                "crash",
                "crash",
                "stall",
                "set_back",
                "pass_on",
            ]
        ),
    )
    def end_attempt(self, job, back, way):
        job = self._prefer(job, lambda model: model.status == "running")
        model = self.references[job]
        real, expected = {
            "succeed": (
                lambda s, x: jobs.succeed(s, x, gates=GATES),
                lambda e: model.end(e, "succeeded", "succeeded"),
            ),
            "fail": (lambda s, x: jobs.fail(s, x, PROBLEM), lambda e: model.end(e, "failed", "failed")),
            "cancel": (jobs.cancel, lambda e: model.end(e, "cancelled", "cancelled")),
            "pause": (job_returns.pause, lambda e: model.give_back(e, "paused", refund=True)),
            "release": (
                lambda s, x: job_returns.release(s, x, "shutdown"),
                lambda e: model.give_back(e, "released", refund=True),
            ),
            "crash": (
                lambda s, x: job_returns.retry_after_crash(s, x, "died", ended=AttemptEnd.CRASHED),
                lambda e: model.crash(e, "crashed"),
            ),
            "stall": (
                lambda s, x: job_returns.retry_after_crash(s, x, "hung", ended=AttemptEnd.STALLED),
                lambda e: model.crash(e, "stalled"),
            ),
            "set_back": (
                lambda s, x: job_returns.set_back(s, x, PROBLEM, AttemptClass.TRANSIENT, backoff=AT_ONCE),
                model.set_back,
            ),
            "pass_on": (
                lambda s, x: job_returns.pass_on(s, x, PROBLEM, AttemptClass.TRANSIENT, backoff=AT_ONCE),
                model.pass_on,
            ),
        }[way]
        self._write(job, back, real, expected)

    @rule(job=any_job)
    def kill_its_worker(self, job):
        job = self._prefer(job, lambda model: model.status == "running")
        if self.references[job].status == "running":
            with self.sessions.begin() as session:
                jobs.beat(session, Lease(self.ids[job], self.references[job].epoch), lease_s=-1.0)
            self.references[job].is_expired = True

    @rule()
    def sweep(self):
        with self.sessions.begin() as session:
            job_returns.sweep(session, hint_again_s=30.0)
        for model in self.references:
            if model.status == "running" and model.is_expired:
                model.crash(model.epoch, "lost")

    @invariant()
    def every_job_is_as_the_reference_says(self):
        for job_id, model in zip(self.ids, self.references, strict=True):
            with self.sessions() as session:
                job = session.get_one(Job, job_id)
                attempts = session.scalars(
                    select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(JobAttempt.epoch)
                ).all()
                events = session.scalars(
                    select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)
                ).all()
            for name in ("status", "attempt", "epoch", "setbacks", "retries"):
                assert getattr(job, name) == getattr(model, name), name
            assert job.cancel_requested == model.cancel_requested
            assert job.pause_requested == model.pause_requested
            self._check_laws(job, attempts, events, model)

    def _check_laws(self, job, attempts, events, model):
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert job.last_seq == len(events)
        assert 0 <= job.attempt <= job.max_attempts
        assert [one.epoch for one in attempts] == list(range(1, job.epoch + 1))
        # At most one lease lives, and that is the newest.
        alive = [one.epoch for one in attempts if one.ended_at is None]
        assert alive == ([job.epoch] if job.status == "running" else [])
        assert [one.ended for one in attempts if one.ended_at is not None] == model.ended
        if job.status in TERMINAL:
            assert events[-1].type == f"job.{job.status}"
        epoch, last_seq = self.before.get(job.id, (0, 0))
        assert job.epoch >= epoch
        assert job.last_seq >= last_seq
        self.before[job.id] = (job.epoch, job.last_seq)

    def _prefer(self, job, condition):
        """Take another job for which something happens, where there is one; all or most would be refusals."""
        candidates = [i for i, model in enumerate(self.references) if condition(model)]
        return candidates[job % len(candidates)] if candidates else job

    def _write(self, job, back, real, expected):
        """Write under some lease of a job, which may be over."""
        if self.references[job].epoch - back < 1:
            return
        epoch = self.references[job].epoch - back
        lease = Lease(self.ids[job], epoch)
        self._both(lambda s: real(s, lease), lambda: expected(epoch), (StaleLease, Stale))

    def _both(self, real, expected, errors):
        """Do the same to both; they refuse it together."""
        their_error, our_error = errors
        refused = False
        try:
            expected()
        except our_error:
            refused = True
        try:
            with self.sessions.begin() as session:
                real(session)
        except their_error:
            assert refused
        else:
            assert not refused


def test_the_database_and_the_reference_agree_on_every_course(sessions, model_id):
    run_state_machine_as_test(
        lambda: JobMachine(sessions, model_id),
        settings=settings(max_examples=25, stateful_step_count=60, deadline=None),
    )
