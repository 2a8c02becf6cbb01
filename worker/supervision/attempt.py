"""One attempt at one job, under one lease: prepare its folder, start its runner, follow it, end it."""

import logging
import math
import shutil
import time
from dataclasses import dataclass
from functools import partial

from sqlalchemy.orm import Session

from app.core import jobs
from app.core.errors import Blame, DeviceUnavailable, JobTimeout, Problem
from app.core.job_writes import Lease, StaleLease
from app.core.states import AttemptClass, AttemptEnd
from worker.protocol import (
    INPUT_NAME,
    OUTPUT_FOLDER,
    CheckpointWritten,
    Failed,
    Finished,
    MemoryRanOut,
    Progress,
    RunnerInput,
    RunnerMessage,
    StageFinished,
    StageStarted,
)
from worker.stopping import CANCELLED_NAME
from worker.supervision.context import WorkerContext
from worker.supervision.heartbeat import Heartbeat
from worker.supervision.keeper import CheckpointKeeper, Place
from worker.supervision.preparation import Given, make_input, read_given
from worker.supervision.process import RunnerProcess, end_predecessor
from worker.supervision.slots import Slot
from worker.supervision.verdict import Verdict
from worker.supervision.work_folder import Origin, clear_folder, prepare_folder

_log = logging.getLogger(__name__)
_POLL_S = 0.2


@dataclass(frozen=True)
class _Outcome:
    """How a runner ended: with a result, with a problem, or (neither) by dying."""

    finished: bool = False
    failed: Failed | None = None


class _Interrupted(Exception):
    """The attempt shall end, and has no runner yet."""


class _Stall:
    """Watches that steps go on: a process that lives and does nothing holds its device for ever."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._moved_s = time.monotonic()
        self._step: tuple[str, int] | None = None

    def hear(self, message: RunnerMessage) -> None:
        if isinstance(message, Progress):
            step = (message.stage, message.step)
            if step == self._step:
                return
            self._step = step
        self._moved_s = time.monotonic()

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self._moved_s > self._timeout_s


class Attempt:
    """Holds what one attempt needs; `run` returns when it has ended, or raises StaleLease."""

    def __init__(
        self, context: WorkerContext, lease: Lease, heartbeat: Heartbeat, *, slot: Slot, verdict: Verdict
    ) -> None:
        self._context = context
        self._settings = context.settings
        self._lease = lease
        self._heartbeat = heartbeat
        self._slot = slot
        self._verdict = verdict
        self._work = context.settings.work_dir / lease.job_id
        self._stall = _Stall(context.settings.stall_timeout_s)
        self._deadline_s = math.inf

    def run(self) -> None:
        with self._context.sessions() as session:
            given = read_given(session, self._lease.job_id)
        self._deadline_s = time.monotonic() + given.left_s
        try:
            runner_input = self._prepare(given)
        except _Interrupted:
            has_ended = self._conclude_stopped()
        else:
            has_ended = self._run_process(runner_input)
        if has_ended:
            clear_folder(self._work, epoch=self._lease.epoch)

    def _prepare(self, given: Given) -> RunnerInput:
        """Make the folder ready, with all that the runner reads; raises _Interrupted."""
        self._work.mkdir(parents=True, exist_ok=True)
        # Before anything is read from the folder: a runner that was left behind may still write there.
        end_predecessor(self._work)
        shutil.rmtree(self._work / OUTPUT_FOLDER, ignore_errors=True)
        (self._work / CANCELLED_NAME).unlink(missing_ok=True)
        warnings = prepare_folder(
            self._work,
            partial(self._context.store.fetch, look=self._look),
            given.checkpoints,
            origin=Origin(start=given.job.starts, version=self._context.version, epoch=self._lease.epoch),
            look=self._look,
        )
        if warnings:
            self._verdict.write(lambda session: jobs.note_warnings(session, self._lease, warnings))
        place = self._context.inputs.into(self._work, look=self._look)
        runner_input = make_input(given, place, slot=self._slot, threads=self._settings.runner_threads)
        (self._work / INPUT_NAME).write_text(runner_input.model_dump_json())
        return runner_input

    def _look(self) -> None:
        """Called while files are fetched; raises what ends that before there is a runner."""
        if self._heartbeat.lost.is_set():
            raise StaleLease(self._lease)
        if self._shall_stop() or self._is_late():
            raise _Interrupted

    def _run_process(self, runner_input: RunnerInput) -> bool:
        gpu = self._slot.gpu if runner_input.device == "cuda" else None
        starter, imports = self._context.starters[gpu], runner_input.model.imports
        process = RunnerProcess(self._work, starter, imports=imports)
        keeper = CheckpointKeeper(self._context, self._lease, self._work, version=self._context.version)
        self._heartbeat.guard(process.kill)
        try:
            return self._follow(process, keeper)
        finally:
            process.end(grace_s=self._settings.kill_grace_s)

    def _follow(self, process: RunnerProcess, keeper: CheckpointKeeper) -> bool:
        """Record what the runner says until it ends; returns whether the job has ended for good."""
        outcome = _Outcome()
        with keeper:
            while not process.is_done():
                outcome = self._hear_all(process, keeper, outcome, timeout_s=_POLL_S)
                self._require_lease(keeper)
                if self._shall_stop() or self._stall.is_over or self._is_late():
                    break
            is_done = process.is_done()
            outcome = self._end(process, keeper, outcome)
            if outcome.finished:
                keeper.drop()
        # The keeper is done: what the job is given back with can be had by whoever takes it next.
        self._require_lease(keeper)
        return self._conclude(process, outcome, is_done=is_done)

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline_s

    def _shall_stop(self) -> bool:
        heartbeat = self._heartbeat
        return (
            heartbeat.cancel_requested.is_set()
            or heartbeat.pause_requested.is_set()
            or self._context.draining.is_set()
        )

    def _end(self, process: RunnerProcess, keeper: CheckpointKeeper, outcome: _Outcome) -> _Outcome:
        """Ask a runner that still runs to stop, hear its last words, and see it gone."""
        if self._heartbeat.cancel_requested.is_set():
            (self._work / CANCELLED_NAME).touch()
        process.end(grace_s=self._settings.kill_grace_s)
        return self._hear_all(process, keeper, outcome, timeout_s=0.0)

    def _require_lease(self, keeper: CheckpointKeeper) -> None:
        if self._heartbeat.lost.is_set():
            keeper.drop()
            raise StaleLease(self._lease)

    def _hear_all(
        self, process: RunnerProcess, keeper: CheckpointKeeper, outcome: _Outcome, *, timeout_s: float
    ) -> _Outcome:
        for message in process.messages(timeout_s=timeout_s):
            self._stall.hear(message)
            outcome = self._hear(message, keeper, outcome)
        return outcome

    def _hear(self, message: RunnerMessage, keeper: CheckpointKeeper, outcome: _Outcome) -> _Outcome:
        match message:
            case Finished():
                return _Outcome(finished=True)
            case Failed():
                return _Outcome(failed=message)
            case CheckpointWritten():
                keeper.want(Place(message.stage, message.step))
            case MemoryRanOut():
                self._verdict.write(
                    lambda session: jobs.note_class(
                        session, self._lease, AttemptClass.RESOURCE, message.detail
                    )
                )
            case StageStarted() | StageFinished() | Progress():
                self._record(message)
                if isinstance(message, StageFinished) and not message.skipped:
                    keeper.want(Place(message.stage, None))
        return outcome

    def _record(self, message: StageStarted | StageFinished | Progress) -> None:
        data = message.model_dump(mode="json", exclude={"type", "stage", "data"})
        progress = data if isinstance(message, Progress) else None
        extra = {} if isinstance(message, StageStarted) else message.data
        resumed_at = extra.get("resumed_at")

        def change(session: Session) -> None:
            jobs.record(
                session, self._lease, message.type, data | extra, stage=message.stage, progress=progress
            )
            if isinstance(message, StageFinished) and message.skipped:
                jobs.note_resumed(session, self._lease, stage=message.stage, step=None)
            elif isinstance(resumed_at, int):
                jobs.note_resumed(session, self._lease, stage=message.stage, step=resumed_at)

        self._verdict.write(change)

    def _conclude(self, process: RunnerProcess, outcome: _Outcome, *, is_done: bool) -> bool:
        """Write the end of the attempt; returns whether the job has ended for good."""
        verdict = self._verdict
        if self._heartbeat.cancel_requested.is_set():
            return self._conclude_stopped()
        if outcome.finished:
            verdict.succeed(self._work)
            return True
        if outcome.failed is not None:
            fields = {"job_id": self._lease.job_id, "log": process.log_tail()}
            _log.warning("job failed", extra=fields)
            if outcome.failed.problem.code == DeviceUnavailable.code:
                # Or it would take the whole line, job after job, as the one that is free soonest.
                self._context.slots.doubt(self._slot)
            if outcome.failed.blame is Blame.TRANSIENT and process.memory_ran_out:
                # Not the runner died but a process that it had started.
                detail = f"{outcome.failed.problem.detail}, as memory ran out"
                verdict.crash(detail, ended=AttemptEnd.CRASHED, class_=AttemptClass.RESOURCE)
                return False
            return verdict.fail(outcome.failed.problem, outcome.failed.blame, artifacts=self._work)
        if is_done and not process.was_told_with(self._context.draining):
            self._tell_death(process, process.describe_exit())
            class_ = AttemptClass.RESOURCE if process.was_killed_for_memory else None
            verdict.crash(process.describe_exit(), ended=AttemptEnd.CRASHED, class_=class_)
        elif is_done or self._is_late() or self._shall_stop():
            return self._conclude_stopped()
        else:
            detail = f"no step for {self._settings.stall_timeout_s:g} s, though the process lived"
            self._tell_death(process, detail)
            verdict.crash(detail, ended=AttemptEnd.STALLED)
        return False

    def _conclude_stopped(self) -> bool:
        """Write the end of an attempt that was stopped, as it was asked to or for its time."""
        verdict = self._verdict
        if self._heartbeat.cancel_requested.is_set():
            verdict.cancel(self._work)
            return True
        if self._is_late():
            return verdict.fail(_timeout(), Blame.USER, artifacts=self._work)
        if self._heartbeat.pause_requested.is_set():
            verdict.pause()
        else:
            verdict.release()
        return False

    def _tell_death(self, process: RunnerProcess, detail: str) -> None:
        fields = {"job_id": self._lease.job_id, "detail": detail, "log": process.log_tail()}
        _log.warning("runner died", extra=fields)


def _timeout() -> Problem:
    return JobTimeout("the job ran longer than its resources.timeout_s").problem()
