"""The idempotency keys of requests that this process is answering right now."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.core.errors import RequestInFlight


class KeysInFlight:
    """A set of (path, key); other processes wait in the database instead, for the short time of a commit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[tuple[str, str]] = set()

    @contextmanager
    def hold(self, path: str, key: str) -> Iterator[None]:
        """Hold a key while its request is answered; raises RequestInFlight when somebody does already."""
        with self._lock:
            if (path, key) in self._held:
                raise RequestInFlight(
                    f"the first request with the key {key!r} is still running; ask again soon"
                )
            self._held.add((path, key))
        try:
            yield
        finally:
            with self._lock:
                self._held.discard((path, key))
