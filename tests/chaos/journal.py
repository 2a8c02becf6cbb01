"""What the clients were told, line by line, in a file that is only appended to."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """One line a fact; the oracle believes these and nothing that a client merely remembers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file = path.open("a", buffering=1)

    def write(self, what: str, **facts: Any) -> None:
        line = json.dumps({"what": what, "at": time.time(), **facts})
        with self._lock:
            self._file.write(line + "\n")

    def read(self, what: str) -> Iterator[dict[str, Any]]:
        """Yield the facts of one kind, oldest first."""
        for line in self._path.read_text().splitlines():
            fact = json.loads(line)
            if fact["what"] == what:
                yield fact

    def close(self) -> None:
        self._file.close()
