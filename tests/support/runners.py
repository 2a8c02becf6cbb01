"""Runners as the system shows them."""

from collections.abc import Iterator
from pathlib import Path

import psutil

from worker.supervision.process import LOG_NAME

FORK_SERVER = "secateur-forks"
_CLEAN = "secateur-clean"
_STDERR = 2


def find_runners(work_dir: Path) -> Iterator[tuple[psutil.Process, Path]]:
    """Find the live runners in folders of `work_dir`, with their folders, wherever in the tree they are."""
    for process in psutil.process_iter():
        folder = find_folder(process)
        if folder is not None and folder.is_relative_to(work_dir):
            yield process, folder


def find_folder(process: psutil.Process) -> Path | None:
    """Return the folder of a runner that lives: its stderr is that folder's log. None for other processes."""
    try:
        is_runner = process.name() not in (FORK_SERVER, _CLEAN)
        log = Path(f"/proc/{process.pid}/fd/{_STDERR}").readlink()
    except (psutil.Error, OSError):
        return None
    return log.parent if is_runner and log.name == LOG_NAME else None
