"""How a process that looks at an exported file ended, and whose fault that is.

Such a process says by its exit status, a number of the system's own errors, what its machine lacks; every
other failure is the file's.
"""

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from app.core.errors import ExportMismatch, OutOfMemory, StorageFull, Unavailable
from worker.numerics import is_out_of_memory

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# What a process brings upon itself, and would again; it ends by others for what its machine does to it.
_CRASHES = (signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)


@contextmanager
def exit_by_what_lacks() -> Iterator[None]:
    """End the process by what its machine lacks, memory or room on its disk; other errors pass."""
    try:
        yield
    except Exception as error:
        status = errno.ENOMEM if is_out_of_memory(error) else getattr(error, "errno", None)
        if status not in (errno.ENOMEM, *_NO_ROOM):
            raise
        sys.stderr.write(f"{error}\n")
        sys.exit(status)


def raise_for_exit(status: int, said: str, *, failure: str) -> None:
    """Raise what a status other than 0 means: Unavailable, OutOfMemory, StorageFull or ExportMismatch.

    `said` is what the process wrote to stderr; `failure` is what a fault of the file is called.
    """
    if status == 0:
        return
    last_line = said.strip().rpartition("\n")[2]
    if status < 0:
        ended_by = signal.Signals(-status)
        if ended_by == signal.SIGABRT and "bad_alloc" in last_line:
            status = errno.ENOMEM
        elif ended_by in _CRASHES:
            words = ": ".join(filter(None, (f"that process crashed with {ended_by.name}", last_line)))
            raise ExportMismatch(f"{failure}: {words}")
        else:
            raise Unavailable(f"the process that checks the exported file was ended by {ended_by.name}")
    if status == errno.ENOMEM:
        raise OutOfMemory(f"there was no memory left to check the exported file: {last_line}")
    if status in _NO_ROOM:
        raise StorageFull("the worker's disk is full; the job is tried again")
    raise ExportMismatch(f"{failure}: {last_line}")
