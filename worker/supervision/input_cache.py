"""The worker's own copies of what lies in a remote store: bounded, least recently used first out.

A runner is given a hard link in its work folder, so that evicting a file never takes it from a job that reads
it. With a store on this machine nothing is copied.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.core.blobs import Blobs
from app.core.storage import hash_file
from app.core.storage.reading import Look, go_on
from worker.lock import try_lock

_POLL_S = 0.1


class InputCache:
    """A folder of blobs that any number of workers on one machine share.

    Who has waited `patience_s` for another worker goes on without the cache: that one may be asleep for ever.
    """

    def __init__(self, blobs: Blobs, folder: Path, *, max_bytes: int, patience_s: float = 60.0) -> None:
        self._blobs = blobs
        self._files = folder / "blobs"
        self._locks = folder / "locks"
        self._max_bytes = max_bytes
        self._patience_s = patience_s

    def into(self, work: Path, *, look: Look = go_on) -> Callable[[str], Path]:
        """Return what gives the local path of a digest to the runner in a work folder.

        It calls `look` again and again while it waits and reads, and stops where that raises.
        """
        return lambda sha256: self._place(sha256, work / "inputs", look)

    def _place(self, sha256: str, inputs: Path, look: Look) -> Path:
        """Raises BlobMissing or BlobDamaged; nothing that has another digest is ever handed out."""
        local = self._blobs.local_path(sha256)
        if local is not None:
            self._blobs.verify(sha256, look=look)
            return local
        inputs.mkdir(parents=True, exist_ok=True)
        self._files.mkdir(parents=True, exist_ok=True)
        target, cached = inputs / sha256, self._files / sha256
        with self._lock(sha256[:2], look) as is_held:
            target.unlink(missing_ok=True)
            if not (is_held and _link_if_sound(cached, target, sha256, look)):
                self._blobs.fetch(sha256, target, look=look)
                if is_held:
                    self._keep(target, cached, look)
        return target

    def _keep(self, target: Path, cached: Path, look: Look) -> None:
        """Take a file in, dropping what was not used for longest; one larger than the cache is not kept."""
        size_bytes = target.stat().st_size
        if size_bytes > self._max_bytes:
            return
        # Room and link under one lock: two that made room side by side would fill it twice.
        with self._lock("room", look) as is_held:
            if is_held:
                self._make_room(size_bytes)
                os.link(target, cached)

    def _make_room(self, size_bytes: int) -> None:
        files = sorted(_sizes(self._files), key=lambda file: file[1])
        excess = sum(size for _, _, size in files) + size_bytes - self._max_bytes
        for path, _, size in files:
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size

    @contextmanager
    def _lock(self, name: str, look: Look) -> Iterator[bool]:
        """Keep other threads and processes out; False when one of them has kept this one out for too long.

        The kernel frees what a dead one held; one that was stopped holds it on.
        """
        self._locks.mkdir(parents=True, exist_ok=True)
        deadline_s = time.monotonic() + self._patience_s
        with (self._locks / name).open("w") as lock:
            while not (is_held := try_lock(lock.fileno())) and time.monotonic() < deadline_s:
                look()
                time.sleep(_POLL_S)
            yield is_held


def _link_if_sound(cached: Path, target: Path, sha256: str, look: Look) -> bool:
    """Link first and hash then: what is linked can no longer be evicted under our hands."""
    try:
        os.link(cached, target)
        os.utime(cached)  # used now
    except FileNotFoundError:
        target.unlink(missing_ok=True)
        return False
    if hash_file(target, look=look) == sha256:
        return True
    for path in (cached, target):
        path.unlink(missing_ok=True)
    return False


def _sizes(folder: Path) -> Iterator[tuple[Path, float, int]]:
    for path in folder.iterdir():
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        yield path, stat.st_mtime, stat.st_size
