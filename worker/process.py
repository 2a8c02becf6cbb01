"""Start a runner in a process group of its own, read its messages, end it with its children."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil
from pydantic import ValidationError

from worker.protocol import MESSAGE, RunnerMessage

LOG_NAME = "runner.log"
PID_NAME = "runner.pid"
_MAX_LINE_BYTES = 1 << 20
_LOG_TAIL_BYTES = 4096


class RunnerProcess:
    """One `python -m worker.runner WORK`; its stdin stays open for as long as its supervisor lives."""

    def __init__(
        self, work: Path, *, threads: int, gpu: int | None = None, module: str = "worker.runner"
    ) -> None:
        self._work = work
        end_predecessor(work, module)
        self._messages: queue.SimpleQueue[RunnerMessage] = queue.SimpleQueue()
        with (work / LOG_NAME).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(work)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=runner_environment(threads=threads, gpu=gpu),
                start_new_session=True,
            )
        (work / PID_NAME).write_text(str(self._process.pid))
        self._reader = threading.Thread(target=self._read, name=f"read-{self._process.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def messages(self, *, timeout_s: float) -> Iterator[RunnerMessage]:
        """Yield what has arrived, waiting at most `timeout_s` for the first message."""
        try:
            yield self._messages.get(timeout=timeout_s)
            while True:
                yield self._messages.get_nowait()
        except queue.Empty:
            return

    def is_done(self) -> bool:
        """Tell whether the process has ended and everything it said has been read."""
        return not self._reader.is_alive() and self._process.poll() is not None and self._messages.empty()

    def describe_exit(self) -> str:
        """Say how the process ended, in words for the user of the job."""
        code = self._process.returncode
        if code is not None and code < 0:
            hint = "; the kernel does that when memory runs out" if code == -signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{hint}"
        return f"exit code {code} without a result"

    def log_tail(self) -> str:
        """Return the end of what the runner wrote to stderr."""
        with (self._work / LOG_NAME).open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")

    def kill(self) -> None:
        """SIGKILL the whole group, from any thread; `end` still has to follow."""
        if self._process.returncode is None:
            self._signal(signal.SIGKILL)

    def end(self, *, grace_s: float) -> None:
        """SIGTERM to the whole group, SIGKILL after the grace; returns when the process is gone."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        # The group may outlive its leader: what it started must not hold a device for ever.
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        stream: IO[bytes] | None = self._process.stdout
        assert stream is not None
        while line := stream.readline(_MAX_LINE_BYTES):
            try:
                self._messages.put(MESSAGE.validate_json(line))
            except ValidationError:
                # A runner that speaks nonsense is a crashed runner.
                self._signal(signal.SIGKILL)
                return


def end_predecessor(work: Path, module: str = "worker.runner") -> None:
    """Kill a runner that an earlier supervisor left in this folder: one that sleeps cannot do it itself."""
    with contextlib.suppress(FileNotFoundError, ValueError, psutil.Error, ProcessLookupError):
        pid = int((work / PID_NAME).read_text())
        # Process ids are used again: only a process that names this very folder is that runner.
        if psutil.Process(pid).cmdline()[-2:] == [module, str(work)]:
            os.killpg(pid, signal.SIGKILL)


def runner_environment(*, threads: int, gpu: int | None) -> dict[str, str]:
    """Pass on what Python needs, but none of the service's own settings: they hold credentials."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SECATEUR_", "AWS_"))}
    # Two processes with two threads each on two cores were measured five times slower than with one each.
    return kept | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Its own GPU and no other; none for a job on the CPU, which must not hold memory of one.
        "CUDA_VISIBLE_DEVICES": "" if gpu is None else str(gpu),
    }
