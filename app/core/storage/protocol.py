"""What every store of bytes promises, whether a folder or a bucket."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from app.core.storage.errors import BlobMissing

# Where a store says which installation it is of.
OWNER_KEY = "installation"


class StagedBlob(Protocol):
    """Bytes on their way in; gone at the end of the `with` block unless committed."""

    @property
    def path(self) -> Path: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    def write(self, data: bytes) -> None: ...
    def commit(self) -> str: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class StoredBlob:
    sha256: str
    size_bytes: int
    age_s: float  # since it was last written, by the store's clock


class BlobStore(Protocol):
    """Bytes under their digests. None of them is ever seen half written.

    Reads raise BlobMissing, and whatever speaks to a server raises StoreUnavailable. Nothing here checks
    digests: app.core.storage.reading does.
    """

    def stage(self) -> StagedBlob: ...
    def put_file(self, path: Path, sha256: str) -> None:
        """Copy a local file in, whose digest is known."""

    def size(self, sha256: str) -> int: ...
    def iter_bytes(self, sha256: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to, but not with, `end`."""

    def local_path(self, sha256: str) -> Path | None:
        """Return where the bytes lie on this machine's disk; None for a store elsewhere."""

    def signed_url(
        self, sha256: str, method: str, *, expires_s: int, filename: str, media_type: str
    ) -> str | None:
        """Return a URL that gives the bytes to whoever has it; None for a store that cannot."""

    def delete(self, sha256: str) -> None: ...
    def quarantine(self, sha256: str) -> None:
        """Set damaged bytes aside, where nobody reads them by their digest."""

    def list_older_than(self, age_s: float) -> Iterator[StoredBlob]:
        """Yield the blobs that were last written more than `age_s` seconds ago; all when it is negative."""

    def count_abandoned(self, age_s: float) -> int:
        """Count uploads on this machine that nobody has written to for `age_s` seconds."""

    def drop_abandoned(self, age_s: float) -> None: ...
    def collecting(self) -> AbstractContextManager[float | None]:
        """Hold the right to delete; None when another process has it.

        The number says after how many seconds a deletion that another collector began is surely not going
        on any more, so that this one may finish it.
        """

    def read_owner(self) -> str | None:
        """Return the installation that the store is marked with; None before it was."""

    def write_owner(self, installation: str) -> None: ...
    def check(self, *, write: bool) -> None:
        """Raise a sentence that says what is wrong with the store; with `write`, write and delete a byte."""

    @property
    def location(self) -> str:
        """Say where the store is, without any secret."""


def blob_key(sha256: str) -> str:
    """Return the path of a blob inside a store; raises BlobMissing for what is no digest."""
    if len(sha256) != 64 or not all(c in "0123456789abcdef" for c in sha256):
        raise BlobMissing("a digest has 64 hexadecimal digits")
    return f"blobs/{sha256[:2]}/{sha256}"
