"""Start processes of one module, by a fork server or one interpreter each, and follow them to their end."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.core.errors import Unavailable
from worker.forks.server import serve

# Nobody saw how the process ended, since its server was gone.
LOST = 255
_START_S = 120.0
_MESSAGE_BYTES = 64


class Child(Protocol):
    """A process that was started: what subprocess.Popen and Forked have in common."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None:
        """Return the exit code once the process has ended, None before."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; raises subprocess.TimeoutExpired after `timeout` seconds."""
        ...


class Starter(Protocol):
    """Starts processes that run the `main` of one module."""

    def prepare(self) -> None:
        """Begin with what the first process would wait for."""
        ...

    def start(
        self, arguments: Sequence[str], *, imports: Sequence[str] = (), stdin: int, stdout: int, stderr: int
    ) -> Child:
        """Start one process with these file descriptors; raises Unavailable or OSError.

        `imports` are modules that it will need and that take long to import: what is shared may have them.
        """
        ...


@dataclass(frozen=True)
class Spawner:
    """Starts each process in an interpreter of its own, which leads a session, or stays in this group."""

    module: str
    environment: Mapping[str, str] | None = None
    leads: bool = True

    def prepare(self) -> None:
        """Do nothing: nothing is shared."""

    def start(
        self, arguments: Sequence[str], *, imports: Sequence[str] = (), stdin: int, stdout: int, stderr: int
    ) -> Child:
        """Start one process with these file descriptors; it imports by itself. Raises OSError."""
        return subprocess.Popen(
            [sys.executable, "-m", self.module, *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=self.environment,
            start_new_session=self.leads,
        )


class Forked:
    """A process that a fork server forked; an exit code of -n says signal n, LOST that nobody saw it."""

    def __init__(self, pid: int, report: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._report: socket.socket | None = report
        try:
            self._descriptor: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            # It has ended already; the report says how.
            self._descriptor = None

    def poll(self) -> int | None:
        """Return the exit code once the process has ended, None before."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; raises subprocess.TimeoutExpired after `timeout` seconds."""
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while True:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            code = self._look(left_s)
            if code is not None:
                return code
            if left_s == 0.0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)

    def _look(self, timeout_s: float | None) -> int | None:
        """Look for the end, waiting at most so long for it to come."""
        if self.returncode is None and self._report is not None and _is_readable(self._report, timeout_s):
            said = self._report.recv(_MESSAGE_BYTES)
            self._report.close()
            self._report = None
            if said:
                self._end(int(said))
        # Without a server the process lives on: its end can be seen, and no longer how it came.
        is_alone = self.returncode is None and self._report is None
        if is_alone and (self._descriptor is None or _is_readable(self._descriptor, timeout_s)):
            self._end(LOST)
        return self.returncode

    def _end(self, code: int) -> None:
        self.returncode = code
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@dataclass(frozen=True)
class _Server:
    """The way to a server, and its process where that is ours to end."""

    control: socket.socket
    process: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        self.control.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class ForkServer:
    """Forks each process from a server, which starts when it is first wanted, and anew when it is gone."""

    def __init__(self, connect: Callable[[], _Server]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._server: _Server | None = None

    def prepare(self) -> None:
        """Start the server, which imports while others wait for nothing."""
        with self._lock:
            # What fails here fails again, and is told, when a process is asked for.
            if self._server is None:
                with contextlib.suppress(OSError):
                    self._server = self._connect()

    def start(
        self, arguments: Sequence[str], *, imports: Sequence[str] = (), stdin: int, stdout: int, stderr: int
    ) -> Child:
        """Start one process with these file descriptors; raises Unavailable when none can be had."""
        request = json.dumps({"arguments": list(arguments), "imports": list(imports)}).encode()
        streams = [stdin, stdout, stderr]
        with self._lock:
            if self._server is not None:
                # It may have ended since the last request: whoever is short of memory may have chosen it.
                with contextlib.suppress(ConnectionError):
                    return self._ask(self._server, request, streams)
                self._drop()
            try:
                self._server = self._connect()
                return self._ask(self._server, request, streams)
            except OSError as error:
                raise Unavailable(f"no process could be forked: {error}") from error

    def close(self) -> None:
        """End the server; what it forked goes on."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _ask(self, server: _Server, request: bytes, streams: Sequence[int]) -> Forked:
        """Ask for one process; raises ConnectionError when the server is gone, Unavailable when it hangs."""
        ours, theirs = _make_pair()
        try:
            with theirs:
                socket.send_fds(server.control, [request], [*streams, theirs.fileno()])
            # The first request waits for what the server imports, and the first with other imports again.
            ours.settimeout(_START_S)
            said = ours.recv(_MESSAGE_BYTES)
            ours.settimeout(None)
            if not said:
                raise ConnectionResetError("its server has ended; the worker's log says how")
            return Forked(int(said), ours)
        except TimeoutError as error:
            ours.close()
            self._drop()
            raise Unavailable(f"no process could be forked within {_START_S:g} s") from error
        except BaseException:
            ours.close()
            raise


def can_fork() -> bool:
    """Tell whether this system tells when a process that is no child of ours has ended."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        # An old kernel, or a container that forbids it.
        return False
    return True


def spawn_server(module: str, environment: Mapping[str, str]) -> ForkServer:
    """Return a server in an interpreter of its own, which imports `module`; each process leads a group."""

    def connect() -> _Server:
        ours, theirs = _make_pair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker.forks.server", module, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return _Server(ours, process)

    return ForkServer(connect)


def fork_server(module: str) -> ForkServer:
    """Fork a server from this very process, which must have one thread; it has seen what this has seen.

    It and all that it forks stay in this process group, and it ends with this process.
    """
    ours, theirs = _make_pair()
    if os.fork() == 0:
        ours.close()
        # Whoever reads what this process says must see it end, and not wait for the server.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        try:
            serve(theirs, module, leads=False)
        finally:
            os._exit(0)
    theirs.close()
    return ForkServer(lambda: _Server(ours))


def _make_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _is_readable(what: socket.socket | int, timeout_s: float | None) -> bool:
    """Tell whether there is something to read, waiting at most so long; select refuses large numbers."""
    poll = select.poll()
    poll.register(what, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
