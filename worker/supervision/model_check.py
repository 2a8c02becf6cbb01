"""Run the deep check of an uploaded model in a process of its own, and record the verdict."""

import logging
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session

from app.core import checks
from app.core.errors import Problem, SecateurError
from app.core.storage import BlobDamaged, BlobMissing
from app.core.tables import Model
from worker.protocol import INPUT_NAME, OUTPUT_FOLDER, OUTPUT_NAME, CheckInput, CheckOutput, Failed, Finished
from worker.supervision.context import WorkerContext
from worker.supervision.inputs import model_input
from worker.supervision.process import RunnerProcess

_log = logging.getLogger(__name__)
_POLL_S = 0.2


@dataclass(frozen=True)
class _NotNow:
    """No verdict, through no fault of the model: its check is due again after the pause, at no cost."""

    pause_s: float


_Verdict = CheckOutput | Problem | _NotNow


class _Drained(Exception):
    """The worker shuts down while the model is fetched."""


def check_hinted_model(context: WorkerContext, model_id: str) -> None:
    """Check a model that waits for it; a process that dies leaves it to the sweeper, which counts."""
    settings = context.settings
    with context.sessions.begin() as session:
        check = checks.begin(session, model_id, timeout_s=settings.check_timeout_s)
    if check is None:
        return
    work = settings.work_dir / f"{model_id}.{check}"
    try:
        verdict = _judge(context, model_id, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if verdict is not None:
        with context.sessions.begin() as session:
            _record(session, model_id, check, verdict)


def _record(session: Session, model_id: str, check: int, verdict: _Verdict) -> None:
    match verdict:
        case _NotNow():
            checks.give_back(session, model_id, check, pause_s=verdict.pause_s)
        case Problem():
            checks.reject(session, model_id, check, verdict)
        case CheckOutput():
            inspection = verdict.model_dump(mode="json", exclude={"kind"})
            checks.accept(session, model_id, check, inspection=inspection)


def _judge(context: WorkerContext, model_id: str, work: Path) -> _Verdict | None:
    """Return what the check came to; None when its process died or hung."""
    try:
        verdict = _run(context, model_id, work)
    except _Drained:
        return _NotNow(pause_s=0.0)
    except (BlobDamaged, BlobMissing) as error:
        return error.problem()
    except (SecateurError, OSError) as error:
        return _put_off(context, str(error))
    if isinstance(verdict, Problem) and verdict.retryable:
        return _put_off(context, verdict.detail)
    return verdict


def _put_off(context: WorkerContext, reason: str) -> _NotNow:
    """What the worker or the store lacks for a while says nothing about the model."""
    _log.warning("check put off", extra={"reason": reason})
    return _NotNow(context.settings.hint_again_s)


def _run(context: WorkerContext, model_id: str, work: Path) -> _Verdict | None:
    """Run the check's process. Raises OSError, what the store raises, and _Drained."""
    settings = context.settings
    with context.sessions() as session:
        row = session.get_one(Model, model_id)
    work.mkdir(parents=True, exist_ok=True)
    model = model_input(row, context.inputs.into(work, look=partial(_look, context)))
    check_input = CheckInput(model_id=model_id, model=model, threads=settings.runner_threads)
    (work / INPUT_NAME).write_text(check_input.model_dump_json())
    process = RunnerProcess(work, context.starters[None], imports=model.imports)
    try:
        return _follow(context, process, work)
    finally:
        process.end(grace_s=0)


def _look(context: WorkerContext) -> None:
    if context.draining.is_set():
        raise _Drained


def _follow(context: WorkerContext, process: RunnerProcess, work: Path) -> _Verdict | None:
    deadline = time.monotonic() + context.settings.check_timeout_s
    while not process.is_done():
        for message in process.messages(timeout_s=_POLL_S):
            if isinstance(message, Failed):
                return message.problem
            if isinstance(message, Finished):
                return CheckOutput.model_validate_json((work / OUTPUT_FOLDER / OUTPUT_NAME).read_bytes())
        if context.draining.is_set():
            return _NotNow(pause_s=0.0)
        if time.monotonic() > deadline:
            return None
    if process.was_told_with(context.draining):
        return _NotNow(pause_s=0.0)
    _log.warning("check died", extra={"log": process.log_tail()})
    return None
