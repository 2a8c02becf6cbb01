"""Start a runner in a process group of its own, read its messages, end it with its children."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from pydantic import ValidationError

from worker.forks.client import LOST, Spawner, Starter, can_fork, spawn_server
from worker.protocol import MESSAGE, RunnerMessage
from worker.stopping import STOPPED
from worker.supervision.memory import OomWatch

LOG_NAME = "runner.log"
PID_NAME = "runner.pid"
_MAX_LINE_BYTES = 1 << 20
_LOG_TAIL_BYTES = 4096
# The clock may be set between two looks at when a process began.
_CLOCK_SLACK_S = 1.0
# From this size on malloc maps a block of its own; below, it keeps this much that is free at its end.
_MAPPED_FROM_BYTES = 1 << 28
_KEPT_FREE_BYTES = 1 << 30
# What was sent to both may reach the runner first.
_TOLD_WITHIN_S = 2.0


class RunnerProcess:
    """One runner in a folder; its stdin stays open for as long as its supervisor lives."""

    def __init__(self, work: Path, starter: Starter, *, imports: Sequence[str] = ()) -> None:
        self._work = work
        end_predecessor(work)
        self._memory = OomWatch()
        self._memory_ran_out: bool | None = None
        self._talks_nonsense = False
        self._messages: queue.SimpleQueue[RunnerMessage] = queue.SimpleQueue()
        (stdin, lifeline), (messages, stdout) = os.pipe(), os.pipe()
        self._lifeline, self._stdout = os.fdopen(lifeline, "wb"), os.fdopen(messages, "rb")
        try:
            with (work / LOG_NAME).open("ab") as log:
                self._process = starter.start(
                    [str(work)], imports=imports, stdin=stdin, stdout=stdout, stderr=log.fileno()
                )
        except BaseException:
            self._lifeline.close()
            self._stdout.close()
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
        (work / PID_NAME).write_text(json.dumps(_identify(self.pid)))
        self._reader = threading.Thread(target=self._read, name=f"read-{self.pid}", daemon=True)
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
        if self._process.poll() is None:
            self._memory.look()
        elif self._memory_ran_out is None:
            self._memory_ran_out = self._memory.has_killed()
        return not self._reader.is_alive() and self._process.poll() is not None and self._messages.empty()

    def was_told_with(self, draining: threading.Event) -> bool:
        """Tell whether a SIGTERM ended it that its worker got too: systemd sends it to all at once.

        It ends by that at once or after a checkpoint, or its server was told as well, and nobody saw how.
        """
        may_be = self._process.returncode in (-signal.SIGTERM, STOPPED, LOST)
        return may_be and draining.wait(_TOLD_WITHIN_S)

    @property
    def memory_ran_out(self) -> bool:
        """Whether the kernel killed it, or a process beside it, for want of memory within its last minute."""
        return bool(self._memory_ran_out)

    @property
    def was_killed_for_memory(self) -> bool:
        """Whether it died of that."""
        is_killed = self._process.returncode == -signal.SIGKILL and not self._talks_nonsense
        return is_killed and self.memory_ran_out

    def describe_exit(self) -> str:
        """Say how the process ended, in words for the user of the job."""
        code = self._process.returncode
        if self.was_killed_for_memory:
            return "killed by the kernel, as the machine's memory, or the worker's share of it, ran out"
        if code is not None and code < 0:
            hints = code == -signal.SIGKILL and not self._memory.sees
            hint = "; the kernel does that when memory runs out" if hints else ""
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
        self._lifeline.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        with self._stdout:
            while line := self._stdout.readline(_MAX_LINE_BYTES):
                try:
                    self._messages.put(MESSAGE.validate_json(line))
                except ValidationError:
                    # A runner that speaks nonsense is a crashed runner.
                    self._talks_nonsense = True
                    self._signal(signal.SIGKILL)
                    return


def end_predecessor(work: Path) -> None:
    """Kill a runner that an earlier supervisor left in this folder: one that sleeps cannot do it itself."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError, psutil.Error, ProcessLookupError):
        pid, began_s = json.loads((work / PID_NAME).read_bytes())
        # Process ids are used again: only one that began when it did is that runner.
        if abs(psutil.Process(pid).create_time() - began_s) < _CLOCK_SLACK_S:
            os.killpg(pid, signal.SIGKILL)


def _identify(pid: int) -> tuple[int, float]:
    """Name a process by its id and when it began (s since 1970); one that has ended already, by no time."""
    try:
        return pid, psutil.Process(pid).create_time()
    except psutil.Error:
        return pid, 0.0


def make_starter(module: str, *, threads: int, gpu: int | None = None) -> Starter:
    """Return what starts runners: by fork where that is sound.

    CUDA is not to be had in a process that was forked from one that has touched it, so a runner on a GPU has
    an interpreter of its own.
    """
    environment = runner_environment(threads=threads, gpu=gpu)
    if gpu is None and can_fork():
        return spawn_server(module, environment)
    return Spawner(module, environment)


def runner_environment(*, threads: int, gpu: int | None) -> dict[str, str]:
    """Pass on what Python needs, but none of the service's own settings: they hold credentials."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SECATEUR_", "AWS_"))}
    # By its own settings glibc gives the memory of a training step back to the system after each, and gets it
    # again page by page, filled with zeros (`python -m benchmarks.malloc`). What the operator has set counts.
    malloc = {
        "MALLOC_MMAP_THRESHOLD_": str(_MAPPED_FROM_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(_KEPT_FREE_BYTES),
    }
    # Two processes with two threads each on two cores were measured five times slower than with one each.
    return (
        malloc
        | kept
        | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            # numpy's products are none of ours; its threads begin when it is imported, and forks want none.
            "OPENBLAS_NUM_THREADS": "1",
            # Its own GPU and no other; none for a job on the CPU, which must not hold memory of one.
            "CUDA_VISIBLE_DEVICES": "" if gpu is None else str(gpu),
            # Read when huggingface_hub is imported, which the fork server does before there is a runner.
            "HF_HUB_OFFLINE": "1",
        }
    )
