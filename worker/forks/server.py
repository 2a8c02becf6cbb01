"""Fork processes that have imported what they need: `python -m worker.forks.server MODULE SOCKET`.

Importing torch takes seconds of CPU time; a fork has it at once, and shares its memory. The server does
nothing but fork and wait: it computes nothing, opens no file of a job, and has one thread, so that what it
forks is as good as new. It needs Linux, whose file descriptors of processes tell when one has ended.

A request is JSON, {"arguments": [...], "imports": [...]}, with four file descriptors: stdin, stdout, stderr,
and a socket that hears the process id, and the exit code later (as subprocess counts it: -n for signal n).
What is in its imports is imported before the fork, so that all later processes have it too.
"""

import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

MAX_REQUEST_BYTES = 1 << 16
_DESCRIPTORS = 4
_DIED = 1


def serve(control: socket.socket, module: str, *, leads: bool) -> None:
    """Fork `module.main(arguments)` for every request, until nobody can ask any more.

    Each process leads a group of its own, or (`leads` is False) stays in this one's.
    """
    _call_this_process("forks")
    server = _Server(control, module, leads=leads)
    with server.selector:
        server.run()


class _Server:
    def __init__(self, control: socket.socket, module: str, *, leads: bool) -> None:
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)
        self._control = control
        self._module = module
        self._leads = leads
        # By the descriptor of a process: its id, and who hears of its end.
        self._children: dict[int, tuple[int, socket.socket]] = {}

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is not self._control:
                    self._bury(key.fd)
                elif not self._answer():
                    return

    def _answer(self) -> bool:
        """Serve one request; returns whether there was one."""
        message, descriptors, _, _ = socket.recv_fds(self._control, MAX_REQUEST_BYTES, _DESCRIPTORS)
        if not message:
            return False
        *streams, report = descriptors
        request = json.loads(message)
        _import_all(request["imports"])
        pid = os.fork()
        if pid == 0:
            self._forget()
            os.close(report)
            _become(self._module, request["arguments"], streams, leads=self._leads)
        if self._leads:
            # Here too: whoever is told of the process may signal its group at once.
            with suppress(PermissionError, ProcessLookupError):
                os.setpgid(pid, pid)
        for stream in streams:
            os.close(stream)
        self._remember(pid, socket.socket(fileno=report))
        return True

    def _remember(self, pid: int, report: socket.socket) -> None:
        # Nobody else waits for the process: until it is buried, its id is its own.
        descriptor = os.pidfd_open(pid)
        self._children[descriptor] = (pid, report)
        self.selector.register(descriptor, selectors.EVENT_READ)
        if not _tell(report, pid):
            # Whoever asked has given up, and may have asked elsewhere.
            os.kill(pid, signal.SIGKILL)

    def _bury(self, descriptor: int) -> None:
        pid, report = self._children.pop(descriptor)
        self.selector.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        with report:
            _tell(report, os.waitstatus_to_exitcode(status))

    def _forget(self) -> None:
        """Close, in a forked process, what is the server's: an open end would keep others waiting."""
        self.selector.close()
        self._control.close()
        for descriptor, (_, report) in self._children.items():
            os.close(descriptor)
            report.close()


def _import_all(modules: list[str]) -> None:
    """Import what the process that was asked for would import, and after it many others."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception:
            # The process fails by it as well, and says so where its user reads it.
            traceback.print_exc()


def _tell(report: socket.socket, number: int) -> bool:
    """Send a number; returns whether somebody is there to hear it."""
    try:
        report.send(str(number).encode())
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _become(module: str, arguments: list[str], streams: list[int], *, leads: bool) -> NoReturn:
    """Be the process that was asked for, to its end; no frame above this one runs again."""
    status = _DIED
    try:
        if leads:
            os.setpgid(0, 0)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.argv = [module, *arguments]
        _call_this_process(module.rpartition(".")[2])
        status = importlib.import_module(module).main(arguments)
    except SystemExit as error:
        status = _read_exit(error)
    except BaseException:
        traceback.print_exc()
    finally:
        # Nobody may read any more.
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        # Everything is on disk and said; torch would take most of a second to take itself apart.
        os._exit(status)


def _read_exit(error: SystemExit) -> int:
    """Return the exit code as the interpreter understands it."""
    if isinstance(error.code, int):
        return error.code
    if error.code is None:
        return 0
    sys.stderr.write(f"{error.code}\n")
    return _DIED


def _call_this_process(what: str) -> None:
    """Set the name that ps and top show: the command line is the server's. The system keeps 15 characters."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"secateur-{what}")


def main() -> None:
    module, descriptor = sys.argv[1:]
    importlib.import_module(module)
    with socket.socket(fileno=int(descriptor)) as control:
        serve(control, module, leads=True)


if __name__ == "__main__":
    main()
