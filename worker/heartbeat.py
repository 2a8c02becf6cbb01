"""Keep a job's lease alive while its runner works, and hear when it shall end."""

import logging
import threading
import time
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from app.core import jobs
from app.core.db import Sessions

_log = logging.getLogger(__name__)
# Stop well before the lease can run out: another worker may start the job at that very moment.
_SAFE_FRACTION = 0.7


class Heartbeat:
    """A thread that beats every `beat_s`; it outlasts slow uploads of results and long commits."""

    def __init__(self, sessions: Sessions, lease: jobs.Lease, *, lease_s: float, beat_s: float) -> None:
        self._sessions = sessions
        self._lease = lease
        self._lease_s = lease_s
        self._beat_s = beat_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"beat-{lease.job_id}", daemon=True)
        self.cancel_requested = threading.Event()
        self.lost = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        last_beat = time.monotonic()
        while not self._stop.wait(self._beat_s):
            try:
                with self._sessions.begin() as session:
                    if jobs.beat(session, self._lease, lease_s=self._lease_s):
                        self.cancel_requested.set()
                last_beat = time.monotonic()
            except jobs.StaleLease:
                self.lost.set()
                return
            except SQLAlchemyError as error:
                _log.warning("beat failed", extra={"job_id": self._lease.job_id, "error": str(error)})
                if time.monotonic() - last_beat > self._lease_s * _SAFE_FRACTION:
                    self.lost.set()
                    return
