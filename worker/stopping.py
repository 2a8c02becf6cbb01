"""Stop a training at the end of its step when SIGTERM asks for it, with a checkpoint; else, stop at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

# The supervisor writes it before it sends SIGTERM for a cancel: then what is there becomes an artifact.
CANCELLED_NAME = "cancelled"
# The exit code of a runner that stopped after a checkpoint, as it was asked to.
STOPPED = 3


class Stopped(Exception):
    """The training has written its checkpoint and ends, as it was asked to."""


class StopRequest:
    """Whether SIGTERM has come since the training began."""

    def __init__(self) -> None:
        self.is_made = False

    def make(self, *_: object) -> None:
        self.is_made = True


@contextmanager
def stops_gracefully() -> Iterator[StopRequest]:
    """Within the block SIGTERM only sets a flag; a flag that nobody heeded ends the process after it."""
    request = StopRequest()
    was_heeded = False
    before = signal.signal(signal.SIGTERM, request.make)
    try:
        yield request
    except Stopped:
        was_heeded = True
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if request.is_made and not was_heeded:
            os.kill(os.getpid(), signal.SIGTERM)
