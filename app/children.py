"""Keep child processes alive: start them, restart those that die, stop them all."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_MAX_DELAY_S = 30.0
_STABLE_S = 60.0


@dataclass
class Child:
    """One program that must run for as long as its parent; its output goes to a log file."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    started_at: float = 0.0
    start_after: float = field(default=0.0)
    # Told the process id of one that has died.
    on_death: Callable[[int], None] = lambda _: None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        self.started_at = time.monotonic()

    def restart_if_dead(self) -> None:
        """Start the program again if it has ended, later and later when it keeps dying."""
        if self.process is None or self.process.poll() is None:
            return
        now = time.monotonic()
        if self.start_after <= self.started_at:
            self.restarts = 0 if now - self.started_at > _STABLE_S else self.restarts + 1
            delay_s = self._wait_longer(now)
            fields = {"child": self.name, "exit_code": self.process.returncode, "delay_s": delay_s}
            _log.warning("child ended; starting it again", extra=fields)
            self.on_death(self.process.pid)
        if now >= self.start_after:
            self._start_or_wait(now)

    def stop(self, *, grace_s: float) -> None:
        """SIGTERM, then SIGKILL to whatever of its group is left."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _start_or_wait(self, now: float) -> None:
        """A machine without memory, processes or descriptors has some later; the other children live on."""
        try:
            self.start()
        except (OSError, subprocess.SubprocessError) as error:
            self.restarts += 1
            fields = {"child": self.name, "error": str(error), "delay_s": self._wait_longer(now)}
            _log.warning("child not started; trying again", extra=fields)

    def _wait_longer(self, now: float) -> float:
        """Put the next start off, the longer the more there were; returns the pause in seconds."""
        delay_s: float = min(_MAX_DELAY_S, 0.25 * 2.0 ** min(self.restarts, 10))
        self.start_after = now + delay_s
        return delay_s


def _die_with_parent() -> None:
    """Ask the kernel to end this process when its parent is gone, even by SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
