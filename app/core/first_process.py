"""Be the first process of a container: collect whoever ends without a parent, pass signals on, and no more.

`python -m app.core.first_process PID` stands before a child of its own process, which it became by exec.
"""

import os
import signal
import sys

FIRST = 1
_PASSED_ON = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
)
_AWAITED = _PASSED_ON | {signal.SIGCHLD}
_SIGNALLED = 128


def go_on_in_child() -> None:
    """Return in a child; this process stands before it, and ends as it ends. There must be one thread yet."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    pid = os.fork()
    if pid:
        # Anew, without what this program has imported. Blocked signals and children stay.
        os.execv(sys.executable, [sys.executable, "-m", "app.core.first_process", str(pid)])  # noqa: S606 - no shell
    # A terminal's Ctrl-C would reach it twice, and the second one means: at once.
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stand_before(pid: int) -> int:
    """Return how the child ended: its exit code, or 128 + n for signal n."""
    while True:
        number = signal.sigwait(_AWAITED)
        if number in _PASSED_ON:
            os.kill(pid, number)
        elif (status := _collect(pid)) is not None:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _SIGNALLED - code


def _collect(pid: int) -> int | None:
    """Collect all that have ended; returns the status of this one, once it has."""
    found = None
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if ended == 0:
            return found
        if ended == pid:
            found = status


if __name__ == "__main__":
    sys.exit(_stand_before(int(sys.argv[1])))
