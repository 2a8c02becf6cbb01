"""Hold a work folder alone: two runners of one job never write side by side."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.core.errors import FolderBusy

_NAME = "lock"
_POLL_S = 0.1


@contextmanager
def hold_folder(work: Path, *, wait_s: float) -> Iterator[None]:
    """Hold the folder, waiting for an older runner that is still dying; raises FolderBusy after `wait_s`.

    The system gives the lock back when its holder dies, however it dies.
    """
    deadline_s = time.monotonic() + wait_s
    with (work / _NAME).open("w") as lock:
        while not try_lock(lock.fileno()):
            if time.monotonic() > deadline_s:
                raise FolderBusy(f"another runner has held the work folder for {wait_s:g} s")
            time.sleep(_POLL_S)
        yield


def try_lock(descriptor: int) -> bool:
    """Lock an open file unless another holds it; returns whether it is locked now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
