"""Bring checkpoints of a running job into the store, in a thread of its own: a slow store delays no beat."""

import logging
import os
import shutil
import threading
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from app.core import checkpoints
from app.core.checkpoints import NewCheckpoint
from app.core.errors import SecateurError
from app.core.job_writes import Lease, StaleLease
from app.core.states import Stage
from worker.supervision.context import WorkerContext
from worker.supervision.work_folder import list_kept

_log = logging.getLogger(__name__)
_SNAPSHOT_NAME = "snapshot"
_POLL_S = 0.2


@dataclass(frozen=True)
class Place:
    """Where the runner said that a checkpoint stands: a step, or None at the end of the stage."""

    stage: Stage
    step: int | None


class CheckpointKeeper:
    """Keeps the newest checkpoint that it was told of; one that came while it was busy replaces the last."""

    def __init__(self, context: WorkerContext, lease: Lease, work: Path, *, version: str) -> None:
        self._context = context
        self._lease = lease
        self._work = work
        self._version = version
        self._wanted: Place | None = None
        self._is_over = False
        self._changed = threading.Condition()
        # By path: what was in the newest row, so that its bytes are referred to and need not be sent again.
        self._known: dict[str, tuple[tuple[int, int, int], dict[str, str | int]]] = {}
        # A new thread would not know which job its log lines are about.
        run = partial(copy_context().run, self._run)
        self._thread = threading.Thread(target=run, name=f"keep-{lease.job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what was wanted last, then stop; a lease that was lost meanwhile writes nothing.

        A worker that shuts down waits no longer than its grace: it is killed soon after, and would lose the
        job instead of giving it back. The thread that is left behind then finds the lease stale.
        """
        with self._changed:
            self._is_over = True
            self._changed.notify()
        settings, draining = self._context.settings, self._context.draining
        grace_s = max(settings.shutdown_grace_s, settings.kill_grace_s)
        while self._thread.is_alive() and draining.left_s(grace_s) > 0.0:
            self._thread.join(_POLL_S)
        if self._thread.is_alive():
            _log.warning("checkpoint left behind", extra={"job_id": self._lease.job_id, "grace_s": grace_s})

    def want(self, place: Place) -> None:
        """Have the checkpoint kept that stands there now."""
        with self._changed:
            self._wanted = place
            self._changed.notify()

    def drop(self) -> None:
        """Forget what is wanted: the job has ended well, or another worker has it."""
        with self._changed:
            self._wanted = None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted is not None or self._is_over)
                place, self._wanted = self._wanted, None
            if place is None:
                return
            try:
                self._keep(place)
            except StaleLease:
                return
            except FileNotFoundError:
                # The runner has replaced a file meanwhile; it will say so.
                continue
            except (SecateurError, SQLAlchemyError, OSError) as error:
                # The local copy is still there; the next one may have more luck, and sends all anew.
                self._known = {}
                _log.warning("checkpoint not kept", extra={"job_id": self._lease.job_id, "error": str(error)})

    def _keep(self, place: Place) -> None:
        snapshot = self._work / _SNAPSHOT_NAME
        shutil.rmtree(snapshot, ignore_errors=True)
        # Links first, which takes no time: the runner goes on and deletes old checkpoints.
        links = {
            path.relative_to(self._work).as_posix(): _link(path, snapshot / path.relative_to(self._work))
            for path in list_kept(self._work)
        }
        known, files = {}, {}
        for name, link in links.items():
            file = self._store(name, link)
            known[name], files[name] = (_identify(link), file), file
        new = NewCheckpoint(place.stage, place.step, self._version, files)
        with self._context.sessions.begin() as session:
            checkpoints.save(session, self._lease, new)
        self._known = known
        shutil.rmtree(snapshot, ignore_errors=True)

    def _store(self, name: str, link: Path) -> dict[str, str | int]:
        identity, file = self._known.get(name, (None, None))
        if file is not None and identity == _identify(link):
            return file
        return {"sha256": self._context.store.add_file(link), "size": link.stat().st_size}


def _link(path: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(path, target)
    return target


def _identify(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
