"""Run one job: claim it, start its runner, follow it, end it, record what came of it. Never imports torch."""

import json
import logging
import shutil
import time
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app.core import jobs
from app.core.config import Device, Settings
from app.core.db import now_plus
from app.core.errors import JobTimeout, Problem, SecateurError
from app.core.report import Report
from app.core.spec import JobSpec
from app.core.states import AttemptEnd, GateOutcome, JobStatus, Stage
from app.core.tables import Dataset, Job, Model
from worker import results
from worker.context import WorkerContext
from worker.heartbeat import Heartbeat
from worker.inputs import dataset_input, model_input
from worker.process import RunnerProcess
from worker.protocol import INPUT_NAME, Failed, Finished, Progress, RunnerInput, RunnerMessage, StageStarted

_log = logging.getLogger(__name__)
_POLL_S = 0.2


@dataclass(frozen=True)
class _Outcome:
    """How a runner ended: with a result, with a problem, or (neither) by dying."""

    finished: bool = False
    problem: Problem | None = None


def run_hinted_job(context: WorkerContext, job_id: str) -> None:
    """Take the job that the hint names, then whatever else waits, as long as a slot is free.

    A hint that finds no free slot is dropped: whoever holds the slot looks into the database when done,
    and once more after giving the slot back, so that no hint falls in between.
    """
    next_id: str | None = job_id
    while next_id is not None and not context.draining.is_set():
        if not context.slots.acquire(blocking=False):
            return
        try:
            while next_id is not None and not context.draining.is_set():
                _run_if_free(context, next_id)
                next_id = _oldest_waiting(context)
        finally:
            context.slots.release()
        next_id = _oldest_waiting(context)


def _oldest_waiting(context: WorkerContext) -> str | None:
    with context.sessions() as session:
        return session.scalar(
            select(Job.id).where(Job.status == JobStatus.QUEUED).order_by(Job.created_at, Job.id).limit(1)
        )


def _run_if_free(context: WorkerContext, job_id: str) -> None:
    with context.sessions.begin() as session:
        lease = jobs.claim(session, job_id, context.owner, lease_s=context.settings.lease_s)
    if lease is None:
        return
    fields = {"job_id": job_id, "epoch": lease.epoch}
    _log.info("job claimed", extra=fields)
    settings = context.settings
    try:
        with Heartbeat(
            context.sessions, lease, lease_s=settings.lease_s, beat_s=settings.beat_s
        ) as heartbeat:
            _Attempt(context, lease, heartbeat).run()
    except jobs.StaleLease:
        _log.warning("lease lost; leaving the job to its new owner", extra=fields)
    except SecateurError as error:
        _log.exception("attempt failed", extra=fields)
        _try_to_fail(context, lease, error.problem())
    _log.info("job left", extra=fields)


def _try_to_fail(context: WorkerContext, lease: jobs.Lease, problem: Problem) -> None:
    try:
        with context.sessions.begin() as session:
            jobs.fail(session, lease, problem)
    except jobs.StaleLease:
        _log.warning("lease lost while failing the job", extra={"job_id": lease.job_id})


class _Attempt:
    """One attempt at one job, under one lease."""

    def __init__(self, context: WorkerContext, lease: jobs.Lease, heartbeat: Heartbeat) -> None:
        self._context = context
        self._lease = lease
        self._heartbeat = heartbeat
        self._work = context.settings.work_dir / lease.job_id

    def run(self) -> None:
        runner_input, deadline = self._prepare()
        process = RunnerProcess(self._work, threads=runner_input.threads)
        try:
            outcome = self._follow(process, deadline)
        finally:
            process.end(grace_s=self._context.settings.kill_grace_s)
        if outcome is not None and self._conclude(process, outcome):
            shutil.rmtree(self._work, ignore_errors=True)

    def _prepare(self) -> tuple[RunnerInput, float]:
        """Write the runner's input; returns it with the monotonic time at which the job must have ended."""
        with self._context.sessions() as session:
            job = session.get_one(Job, self._lease.job_id)
            now = session.scalar(select(now_plus()))
            spec = JobSpec.model_validate_json(json.dumps(job.resolved_spec))
            model = session.get_one(Model, job.model_id)
            dataset = session.get(Dataset, job.dataset_id) if job.dataset_id else None
            runner_input = RunnerInput(
                job_id=job.id,
                spec_sha256=job.spec_sha256,
                spec=spec,
                model=model_input(model, self._context.store),
                dataset=dataset_input(dataset, self._context.store) if dataset else None,
                threads=self._context.settings.runner_threads,
                device=_device(spec, self._context.settings),
            )
            assert now is not None
            assert job.started_at is not None
            used_s = (now - job.started_at).total_seconds()
        self._work.mkdir(parents=True, exist_ok=True)
        (self._work / INPUT_NAME).write_text(runner_input.model_dump_json())
        return runner_input, time.monotonic() + spec.resources.timeout_s - used_s

    def _follow(self, process: RunnerProcess, deadline: float) -> _Outcome | None:
        """Record what the runner says until it ends; None when the job was settled on the way."""
        outcome = _Outcome()
        grace_s = self._context.settings.kill_grace_s
        while not process.is_done():
            for message in process.messages(timeout_s=_POLL_S):
                outcome = self._hear(message, outcome)
            if self._heartbeat.lost.is_set():
                process.end(grace_s=0)
                raise jobs.StaleLease(self._lease)
            if self._heartbeat.cancel_requested.is_set():
                process.end(grace_s=grace_s)
                self._settle_cancelled()
                return None
            if time.monotonic() > deadline:
                process.end(grace_s=grace_s)
                self._fail(JobTimeout("the job ran longer than its resources.timeout_s").problem())
                return None
            if self._context.draining.is_set():
                process.end(grace_s=grace_s)
                with self._context.sessions.begin() as session:
                    jobs.release(session, self._lease, "the worker shuts down")
                return None
        return outcome

    def _hear(self, message: RunnerMessage, outcome: _Outcome) -> _Outcome:
        if isinstance(message, Finished):
            return _Outcome(finished=True)
        if isinstance(message, Failed):
            return _Outcome(problem=message.problem)
        data = message.model_dump(mode="json", exclude={"type", "stage", "data"})
        progress = data if isinstance(message, Progress) else None
        extra = {} if isinstance(message, StageStarted) else message.data
        self._record(message.type, data | extra, stage=message.stage, progress=progress)
        return outcome

    def _record(self, event: str, data: jobs.Data, *, stage: Stage, progress: jobs.Data | None) -> None:
        """Write an event, waiting for a database that is away as long as the heartbeat does."""
        while not self._heartbeat.lost.is_set():
            try:
                with self._context.sessions.begin() as session:
                    jobs.record(session, self._lease, event, data, stage=stage, progress=progress)
                return
            except OperationalError:
                _log.warning("event not recorded yet", extra={"job_id": self._lease.job_id})
                time.sleep(_POLL_S)

    def _conclude(self, process: RunnerProcess, outcome: _Outcome) -> bool:
        """Write the end of the attempt; returns whether the job has ended for good."""
        if outcome.finished:
            self._succeed()
            return True
        if outcome.problem is not None:
            _log.warning("job failed", extra={"job_id": self._lease.job_id, "log": process.log_tail()})
            self._fail(outcome.problem)
            return True
        detail = process.describe_exit()
        fields = {"job_id": self._lease.job_id, "detail": detail, "log": process.log_tail()}
        _log.warning("runner died", extra=fields)
        with self._context.sessions.begin() as session:
            jobs.retry_after_crash(session, self._lease, detail, ended=AttemptEnd.CRASHED)
        return False

    def _succeed(self) -> None:
        output, report = results.read_output(self._work)
        results.store_artifacts(self._context.store, self._work, output)
        gates = _gates(report)
        with self._context.sessions.begin() as session:
            # The fence first: rows of an attempt that has lost its lease must not be written.
            jobs.succeed(session, self._lease, gates=gates)
            results.insert_rows(session, self._lease.job_id, self._work, output=output, report=report)

    def _fail(self, problem: Problem) -> None:
        kept = results.read_kept(self._work)
        results.store_artifacts(self._context.store, self._work, kept)
        with self._context.sessions.begin() as session:
            jobs.fail(session, self._lease, problem)
            results.insert_artifacts(session, self._lease.job_id, kept)
        shutil.rmtree(self._work, ignore_errors=True)

    def _settle_cancelled(self) -> None:
        with self._context.sessions.begin() as session:
            jobs.cancel(session, self._lease)
        shutil.rmtree(self._work, ignore_errors=True)


def _device(spec: JobSpec, settings: Settings) -> Device:
    return settings.worker_device if spec.resources.device == "auto" else spec.resources.device


def _gates(report: Report) -> jobs.Data:
    """Sum the gates up: the worst of them decides."""
    outcomes = {gate.outcome for gate in report.gates}
    worst = (GateOutcome.FAILED, GateOutcome.WARNED, GateOutcome.NOT_EVALUATED, GateOutcome.PASSED)
    outcome = next((o for o in worst if o in outcomes), GateOutcome.NOT_EVALUATED)
    return {"outcome": outcome, "results": [gate.model_dump(mode="json") for gate in report.gates]}
