"""The runner's way to its supervisor: one JSON message a line on the real stdout, and nothing else there."""

import os
import sys
import threading
from typing import TextIO

from worker.protocol import MESSAGE, RunnerMessage


class Channel:
    """Sends messages, whole lines only, from any thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: RunnerMessage) -> None:
        """Send one message; raises BrokenPipeError when the supervisor is gone."""
        line = MESSAGE.dump_json(message).decode() + "\n"
        with self._lock:
            self._stream.write(line)
            self._stream.flush()


def open_channel() -> Channel:
    """Take stdout for messages; whatever a library prints from here on, from C too, goes to stderr."""
    sys.stdout.flush()
    private = os.dup(1)
    os.dup2(2, 1)
    return Channel(os.fdopen(private, "w", encoding="utf-8"))
