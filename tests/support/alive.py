"""Whether a process that somebody else started still lives."""

import psutil


def is_alive(process: psutil.Process) -> bool:
    """Tell whether `process` is there and not a zombie; it may end at any moment, also while it is asked."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
