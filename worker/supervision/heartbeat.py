"""Keep a job's lease alive while its runner works, and hear when it shall end.

Two threads: one beats, and may hang with the database; the other only looks at the clock, and ends the runner
before the lease can run out, when another worker may start the job. Time is this machine's monotonic clock: a
wall clock that is years off changes nothing.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from app.core import jobs
from app.core.db import Sessions
from app.core.job_writes import Lease, StaleLease

_log = logging.getLogger(__name__)
_SAFE_FRACTION = 0.7
_WATCH_S = 0.1


class Heartbeat:
    """Beats every `beat_s`; it outlasts slow uploads of results and long commits."""

    def __init__(self, sessions: Sessions, lease: Lease, *, lease_s: float, beat_s: float) -> None:
        self._sessions = sessions
        self._lease = lease
        self._lease_s = lease_s
        self._beat_s = beat_s
        self._stop = threading.Event()
        self._lost_lock = threading.Lock()
        self._on_lost: Callable[[], None] | None = None
        self._last_beat_s = time.monotonic()
        # A new thread would not know which job its log lines are about.
        self._threads = [
            threading.Thread(
                target=partial(copy_context().run, target), name=f"{name}-{lease.job_id}", daemon=True
            )
            for name, target in (("beat", self._run), ("watch", self._watch))
        ]
        self.cancel_requested = threading.Event()
        self.pause_requested = threading.Event()
        self.lost = threading.Event()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; a beat that hangs in a dead connection is left behind, and does nothing more."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=self._lease_s)

    def guard(self, kill: Callable[[], None]) -> None:
        """Call `kill` as soon as the lease is lost, from whatever thread finds out; now, when it is."""
        with self._lost_lock:
            self._on_lost = kill
            is_late = self.lost.is_set()
        if is_late:
            kill()

    def _run(self) -> None:
        while not self._stop.wait(self._beat_s):
            # The lease counts from when the database wrote it, which is not before this moment.
            began_s = time.monotonic()
            try:
                with self._sessions.begin() as session:
                    asked = jobs.beat(session, self._lease, lease_s=self._lease_s)
            except StaleLease:
                self._lose()
                return
            except SQLAlchemyError as error:
                _log.warning("beat failed", extra={"job_id": self._lease.job_id, "error": str(error)})
                continue
            self._last_beat_s = began_s
            if asked.cancel:
                self.cancel_requested.set()
            if asked.pause:
                self.pause_requested.set()

    def _watch(self) -> None:
        while not self._stop.wait(min(_WATCH_S, self._lease_s / 10)) and not self.lost.is_set():
            if time.monotonic() - self._last_beat_s > self._lease_s * _SAFE_FRACTION:
                self._lose()

    def _lose(self) -> None:
        with self._lost_lock:
            self.lost.set()
            kill = self._on_lost
        if kill is not None:
            kill()
