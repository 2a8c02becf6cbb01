"""Run the deep check of an uploaded model in a process of its own, and record the verdict."""

import logging
import shutil
import time
from pathlib import Path

from app.core import checks
from app.core.errors import Problem
from app.core.storage import BlobDamaged, BlobMissing
from app.core.tables import Model
from worker.context import WorkerContext
from worker.inputs import model_input
from worker.process import RunnerProcess
from worker.protocol import INPUT_NAME, OUTPUT_FOLDER, OUTPUT_NAME, CheckInput, CheckOutput, Failed, Finished

_log = logging.getLogger(__name__)
_POLL_S = 0.2


def check_hinted_model(context: WorkerContext, model_id: str) -> None:
    """Check a model that waits for it; a process that dies leaves it to the sweeper, which counts."""
    settings = context.settings
    with context.sessions.begin() as session:
        check = checks.begin(session, model_id, timeout_s=settings.check_timeout_s)
    if check is None:
        return
    work = settings.work_dir / f"{model_id}.{check}"
    work.mkdir(parents=True, exist_ok=True)
    try:
        verdict = _run(context, model_id, work)
        if verdict is None:
            return
        with context.sessions.begin() as session:
            if isinstance(verdict, Problem):
                checks.reject(session, model_id, check, verdict)
            else:
                inspection = verdict.model_dump(mode="json", exclude={"kind"})
                checks.accept(session, model_id, check, inspection=inspection)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(context: WorkerContext, model_id: str, work: Path) -> CheckOutput | Problem | None:
    """Return what the check found, the problem that it ended with, or None when its process died."""
    settings = context.settings
    with context.sessions() as session:
        row = session.get_one(Model, model_id)
    try:
        model = model_input(row, context.inputs.into(work))
    except (BlobDamaged, BlobMissing) as error:
        return error.problem()
    check_input = CheckInput(model_id=model_id, model=model, threads=settings.runner_threads)
    (work / INPUT_NAME).write_text(check_input.model_dump_json())
    process = RunnerProcess(work, threads=settings.runner_threads, module=settings.runner_module)
    deadline = time.monotonic() + settings.check_timeout_s
    try:
        while not process.is_done():
            for message in process.messages(timeout_s=_POLL_S):
                if isinstance(message, Failed):
                    return message.problem
                if isinstance(message, Finished):
                    return CheckOutput.model_validate_json((work / OUTPUT_FOLDER / OUTPUT_NAME).read_bytes())
            if time.monotonic() > deadline or context.draining.is_set():
                return None
    finally:
        process.end(grace_s=0)
    _log.warning("check died", extra={"model_id": model_id, "log": process.log_tail()})
    return None
