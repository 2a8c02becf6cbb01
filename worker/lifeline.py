"""Die with the parent: a thread that reads stdin, which ends when the parent's end of the pipe is gone.

A pipe needs no polling, works on every POSIX system, and also sees a parent that was killed -9.
"""

import os
import signal
import threading


def watch_stdin() -> None:
    """Kill this process group (this process, where it leads none) as soon as stdin ends."""
    threading.Thread(target=_wait_for_end, name="lifeline", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
