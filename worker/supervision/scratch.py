"""Clear away work folders of jobs and checks that have ended: a worker that died left them behind.

So did one whose job another worker finished, or the sweeper ended. The folder of a job that lives stays: its
checkpoints are what the next attempt goes on from.
"""

import logging
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.exc import SQLAlchemyError

from app.core.db import Sessions, now_plus
from app.core.errors import FolderBusy
from app.core.states import TERMINAL, ModelStatus
from app.core.tables import Job, Model
from worker.lock import hold_folder
from worker.supervision.context import WorkerContext

_log = logging.getLogger(__name__)
_AT_ONCE = 500


def keep_clear(context: WorkerContext) -> None:
    """Clear now, and again and again in a thread that ends with the process."""
    threading.Thread(target=_clear_for_ever, args=(context,), name="scratch", daemon=True).start()


def clear_ended(sessions: Sessions, work_dir: Path, *, settled_s: float) -> int:
    """Delete the work folders of jobs and checks that ended over `settled_s` ago; returns how many.

    Whoever ended the job deletes its folder at that moment, which is not to be raced.
    """
    cleared = 0
    for pattern, find_ended in (("job_*", _ended), ("mdl_*.*", _ended_checks)):
        folders = {path.name: path for path in work_dir.glob(pattern)}
        names = sorted(folders)
        for start in range(0, len(names), _AT_ONCE):
            for name in find_ended(sessions, names[start : start + _AT_ONCE], settled_s):
                cleared += _clear(folders[name])
    return cleared


def _clear_for_ever(context: WorkerContext) -> None:
    settings = context.settings
    while not context.draining.is_set():
        try:
            cleared = clear_ended(context.sessions, settings.work_dir, settled_s=settings.lease_s)
            if cleared:
                _log.info("work folders cleared", extra={"cleared": cleared})
        except (SQLAlchemyError, OSError) as error:
            _log.warning("work folders not cleared", extra={"error": str(error)})
        context.draining.wait(settings.scratch_sweep_s)


def _ended(sessions: Sessions, names: Sequence[str], settled_s: float) -> list[str]:
    """Return which of these jobs are over; one that the database does not know was never ours to keep."""
    with sessions() as session:
        living = session.scalars(
            select(Job.id).where(
                Job.id.in_(names), or_(Job.status.not_in(TERMINAL), Job.finished_at > now_plus(-settled_s))
            )
        ).all()
    return sorted(set(names) - set(living))


def _ended_checks(sessions: Sessions, names: Sequence[str], settled_s: float) -> list[str]:
    """Return which of these checks, MODEL.NUMBER each, are over: judged, overtaken, or out of time."""
    with sessions() as session:
        waiting = session.execute(
            select(Model.id, Model.checks).where(
                Model.id.in_({name.partition(".")[0] for name in names}),
                Model.status == ModelStatus.VALIDATING,
                Model.hint_at > now_plus(-settled_s),
            )
        ).all()
    # One that was given back is begun again under the same number.
    living = {f"{model_id}.{number}" for model_id, checks in waiting for number in (checks, checks + 1)}
    return sorted(set(names) - living)


def _clear(folder: Path) -> bool:
    try:
        # A runner that is still dying holds its folder.
        with hold_folder(folder, wait_s=0.0):
            shutil.rmtree(folder, ignore_errors=True)
    except (FolderBusy, FileNotFoundError):
        return False
    return True
