"""Clear away work folders of jobs that have ended: a worker that died after the end left them behind.

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
from app.core.states import TERMINAL
from app.core.tables import Job
from worker.lock import hold_folder
from worker.supervision.context import WorkerContext

_log = logging.getLogger(__name__)
_AT_ONCE = 500


def keep_clear(context: WorkerContext) -> None:
    """Clear now, and again and again in a thread that ends with the process."""
    threading.Thread(target=_clear_for_ever, args=(context,), name="scratch", daemon=True).start()


def clear_ended(sessions: Sessions, work_dir: Path, *, settled_s: float) -> int:
    """Delete the work folders of jobs that ended over `settled_s` ago; returns how many.

    Whoever ended the job deletes its folder at that moment, which is not to be raced.
    """
    folders = {path.name: path for path in work_dir.glob("job_*")}
    names = sorted(folders)
    cleared = 0
    for start in range(0, len(names), _AT_ONCE):
        for name in _ended(sessions, names[start : start + _AT_ONCE], settled_s):
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


def _clear(folder: Path) -> bool:
    try:
        # A runner that is still dying holds its folder.
        with hold_folder(folder, wait_s=0.0):
            shutil.rmtree(folder, ignore_errors=True)
    except (FolderBusy, FileNotFoundError):
        return False
    return True
