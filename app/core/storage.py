"""The content-addressed store: a file is known by the SHA-256 of its bytes."""

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self
from urllib.parse import unquote, urlsplit

from app.core.errors import SecateurError, StorageFull

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CHUNK_BYTES = 1 << 20


class BlobMissing(SecateurError):
    code, title = "blob_missing", "Stored bytes are missing"


class StagedBlob(Protocol):
    """Bytes on their way in; gone at the end of the `with` block unless committed."""

    path: Path
    size_bytes: int

    @property
    def sha256(self) -> str: ...
    def write(self, data: bytes) -> None: ...
    def commit(self) -> str: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class BlobStore(Protocol):
    """Where models, datasets and artifacts lie."""

    def stage(self) -> StagedBlob: ...
    def add_file(self, path: Path) -> str: ...
    def local_path(self, sha256: str) -> Path: ...
    def delete(self, sha256: str) -> None: ...
    def list_older_than(self, age_s: float) -> Iterator[str]: ...


class LocalStagedBlob:
    """A temporary file in the store's own file system, hashed while it is written."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        with _room_needed():
            handle, name = tempfile.mkstemp(dir=root / "incoming")
        self.path = Path(name)
        self._file: BinaryIO = os.fdopen(handle, "wb", buffering=0)

    @property
    def sha256(self) -> str:
        """The digest of what was written so far, in hex."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Append bytes; raises StorageFull when the disk has no room."""
        with _room_needed():
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._hash.update(data)
        self.size_bytes += len(data)

    def commit(self) -> str:
        """Make the bytes durable under their digest, which is returned."""
        sha256 = self.sha256
        target = _blob_path(self._root, sha256)
        with _room_needed():
            os.fsync(self._file.fileno())
            self._file.close()
            target.parent.mkdir(exist_ok=True)
            # Replacing an equal blob renews its age, which keeps the garbage collector away from it.
            self.path.replace(target)
            _fsync_folder(target.parent)
        return sha256

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class LocalStore:
    """A folder: blobs/ab/abcdef…, incoming/ for what is being written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "incoming").mkdir(parents=True, exist_ok=True)
        (root / "blobs").mkdir(exist_ok=True)

    def stage(self) -> LocalStagedBlob:
        return LocalStagedBlob(self.root)

    def add_file(self, path: Path) -> str:
        """Copy a local file in and return its digest."""
        with self.stage() as staged, path.open("rb") as source:
            while chunk := source.read(_CHUNK_BYTES):
                staged.write(chunk)
            return staged.commit()

    def local_path(self, sha256: str) -> Path:
        """Return where the bytes lie; raises BlobMissing."""
        path = _blob_path(self.root, sha256)
        if not path.is_file():
            raise BlobMissing(f"the store has no bytes with the digest {sha256}")
        return path

    def delete(self, sha256: str) -> None:
        _blob_path(self.root, sha256).unlink(missing_ok=True)

    def list_older_than(self, age_s: float) -> Iterator[str]:
        """Yield the digests of blobs last written more than `age_s` seconds ago."""
        limit = time.time() - age_s
        for path in sorted((self.root / "blobs").glob("??/*")):
            if path.stat().st_mtime < limit:
                yield path.name

    def drop_abandoned(self, age_s: float) -> None:
        """Delete uploads that nobody has written to for `age_s` seconds."""
        limit = time.time() - age_s
        for path in (self.root / "incoming").iterdir():
            if path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)


def make_store(url: str) -> LocalStore:
    """Open the store behind a `file://` URL."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise ValueError(f"store_url: expected file:///folder, found {parts.scheme}://")
    return LocalStore(Path(unquote(parts.path)))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _room_needed:
    """Turn "no space left" into StorageFull."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise StorageFull("the store has no room left; nothing of this upload was kept") from error


def _blob_path(root: Path, sha256: str) -> Path:
    if len(sha256) != 64 or not all(c in "0123456789abcdef" for c in sha256):
        raise BlobMissing("a digest has 64 hexadecimal digits")
    return root / "blobs" / sha256[:2] / sha256


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
