"""A process with pipes for its streams, however it is started."""

import os
from collections.abc import Sequence

import psutil

from worker.forks.client import Child, Starter

WITHIN_S = 60.0


class Started:
    """A process with pipes for its streams."""

    def __init__(self, starter: Starter, *arguments: str, imports: Sequence[str] = ()) -> None:
        (stdin, self._lifeline), (self._out, stdout), (self._err, stderr) = os.pipe(), os.pipe(), os.pipe()
        try:
            self.child: Child = starter.start(
                arguments, imports=imports, stdin=stdin, stdout=stdout, stderr=stderr
            )
        finally:
            for number in (stdin, stdout, stderr):
                os.close(number)

    def read(self) -> tuple[str, str, int]:
        """Return what it wrote to stdout and to stderr until it ended, and how that was."""
        with os.fdopen(self._out) as out, os.fdopen(self._err) as err, os.fdopen(self._lifeline, "wb"):
            return out.read(), err.read(), self.child.wait(WITHIN_S)

    def sleep(self) -> psutil.Process:
        """Return it as soon as it sleeps."""
        assert os.read(self._out, 100) == b"sleeping"
        return psutil.Process(self.child.pid)
