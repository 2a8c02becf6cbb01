"""The pulse of a process that nobody can ask over HTTP: a file that it touches while its loop turns."""

import time
from pathlib import Path
from typing import Literal

Beating = Literal["relay", "worker"]
# Longer than any single wait in those loops: a broker or a database that is away for a moment is no death.
STALE_AFTER_S = 60.0


def beat(folder: Path, name: Beating) -> None:
    """Say that the process is alive; a folder that cannot be written must not stop what works."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _path(folder, name).touch()
    except OSError:
        return


def age_s(folder: Path, name: Beating) -> float | None:
    """Return how long ago the last beat was, None when there was none."""
    try:
        return max(0.0, time.time() - _path(folder, name).stat().st_mtime)
    except OSError:
        return None


def _path(folder: Path, name: Beating) -> Path:
    return folder / f"secateur-{name}.pulse"
