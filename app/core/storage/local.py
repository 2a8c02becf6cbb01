"""A store that is a folder: blobs/ab/abcdef…, incoming/ for what comes, quarantine/ for what is damaged."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.core.errors import SecateurError
from app.core.storage.errors import BlobDamaged, BlobMissing
from app.core.storage.protocol import OWNER_KEY, StoredBlob, blob_key
from app.core.storage.staging import StagedFile, abandoned, room_needed

_CHUNK_BYTES = 1 << 20


class LocalStore:
    """A folder that every process of the service sees."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "incoming").mkdir(parents=True, exist_ok=True)
        for name in ("blobs", "quarantine"):
            (root / name).mkdir(exist_ok=True)

    @property
    def location(self) -> str:
        return f"file://{self.root}"

    def stage(self) -> StagedFile:
        return StagedFile(self.root / "incoming", self._keep)

    def put_file(self, path: Path, sha256: str) -> None:
        with self.stage() as staged:
            staged.write_file(path)
            if staged.sha256 != sha256:
                raise BlobDamaged(f"{path.name} changed while it was copied into the store")
            staged.commit()

    def size(self, sha256: str) -> int:
        return self.local_path(sha256).stat().st_size

    def iter_bytes(self, sha256: str, start: int, end: int) -> Iterator[bytes]:
        with self.local_path(sha256).open("rb") as file:
            file.seek(start)
            while start < end and (chunk := file.read(min(_CHUNK_BYTES, end - start))):
                start += len(chunk)
                yield chunk

    def local_path(self, sha256: str) -> Path:
        """Return where the bytes lie; raises BlobMissing."""
        path = self.root / blob_key(sha256)
        if not path.is_file():
            raise BlobMissing(f"the store has no bytes with the digest {sha256}")
        return path

    def signed_url(
        self, sha256: str, method: str, *, expires_s: int, filename: str, media_type: str
    ) -> str | None:
        return None

    def delete(self, sha256: str) -> None:
        (self.root / blob_key(sha256)).unlink(missing_ok=True)

    def quarantine(self, sha256: str) -> None:
        target = self.root / "quarantine" / f"{sha256}.{time.time_ns()}"
        try:
            (self.root / blob_key(sha256)).rename(target)
        except FileNotFoundError:
            return  # another reader was first

    def list_older_than(self, age_s: float) -> Iterator[StoredBlob]:
        now = time.time()
        for path in sorted((self.root / "blobs").glob("??/*")):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # collected between the listing and the question
            if age_s < 0 or now - stat.st_mtime > age_s:
                yield StoredBlob(path.name, stat.st_size, now - stat.st_mtime)

    def count_abandoned(self, age_s: float) -> int:
        return sum(1 for _ in abandoned(self.root / "incoming", age_s))

    def drop_abandoned(self, age_s: float) -> None:
        for path in abandoned(self.root / "incoming", age_s):
            path.unlink(missing_ok=True)

    @contextmanager
    def collecting(self) -> Iterator[float | None]:
        """Hold the folder's lock, which the kernel takes from a dead collector and from no sleeping one."""
        with (self.root / "collector.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield 0.0

    def read_owner(self) -> str | None:
        try:
            return (self.root / OWNER_KEY).read_text()
        except FileNotFoundError:
            return None

    def write_owner(self, installation: str) -> None:
        with StagedFile(self.root / "incoming", self._keep_owner) as staged:
            staged.write(installation.encode())
            staged.commit()

    def check(self, *, write: bool) -> None:
        try:
            with self.stage() as staged:
                staged.write(b"\0")
        except SecateurError as error:
            raise type(error)(
                f"store {self.location}: expected a folder with room that can be written, "
                f"found: {error.__cause__}; free or mount it, or set SECATEUR_STORE_URL"
            ) from error

    def _keep(self, path: Path, sha256: str) -> None:
        target = self.root / blob_key(sha256)
        with room_needed():
            target.parent.mkdir(exist_ok=True)
            # Replacing an equal blob heals one that has rotted since.
            path.replace(target)
            _fsync_folder(target.parent)

    def _keep_owner(self, path: Path, _: str) -> None:
        with room_needed():
            path.replace(self.root / OWNER_KEY)
            _fsync_folder(self.root)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
