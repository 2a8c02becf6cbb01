"""Files on their way into a store: on the local disk, hashed while they are written."""

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from app.core.errors import StorageFull
from app.core.storage.errors import StoreNotWritable

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_CHUNK_BYTES = 1 << 20


class room_needed:
    """Turn "no space left" into StorageFull, and "read-only" into StoreNotWritable."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in _NO_ROOM:
            raise StorageFull("the store has no room left; nothing of this upload was kept") from error
        if error.errno in _NOT_WRITABLE:
            detail = f"the store cannot be written ({error.strerror}); nothing of this upload was kept"
            raise StoreNotWritable(detail) from error


class StagedFile:
    """A temporary file; `keep` is given it, closed and durable, when it is committed."""

    def __init__(self, folder: Path, keep: Callable[[Path, str], None]) -> None:
        self._keep = keep
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        with room_needed():
            handle, name = tempfile.mkstemp(dir=folder)
        self.path = Path(name)
        self._file: BinaryIO = os.fdopen(handle, "wb", buffering=0)

    @property
    def sha256(self) -> str:
        """The digest of what was written so far, in hex."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Append bytes; raises StorageFull when the disk has no room."""
        with room_needed():
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._hash.update(data)
        self.size_bytes += len(data)

    def write_file(self, path: Path) -> None:
        """Append the bytes of a file."""
        with path.open("rb") as source:
            while chunk := source.read(_CHUNK_BYTES):
                self.write(chunk)

    def commit(self) -> str:
        """Make the bytes durable under their digest, which is returned."""
        with room_needed():
            os.fsync(self._file.fileno())
            self._file.close()
        self._keep(self.path, self.sha256)
        return self.sha256

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


def _now(folder: Path) -> float:
    """Return the time by the clock that stamps the folder's files: another machine's, where it is shared."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as fresh:
            return os.fstat(fresh.fileno()).st_mtime
    except OSError:  # full, or read-only
        return time.time()


def abandoned(folder: Path, age_s: float) -> Iterator[Path]:
    """Yield the files of uploads that nobody has written to for `age_s` seconds."""
    limit = _now(folder) - age_s
    for path in folder.iterdir():
        try:
            if path.stat().st_mtime < limit:
                yield path
        except FileNotFoundError:
            continue  # committed or given up between the listing and the question
