"""Stored bytes with their account: announced before they come, checked when read, set aside when damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from app.core import accounts
from app.core.config import Settings
from app.core.db import Sessions
from app.core.states import BlobState
from app.core.storage import (
    BlobDamaged,
    BlobMissing,
    BlobStore,
    StagedBlob,
    hash_file,
    open_store,
    reading,
)
from app.core.storage.reading import Look, go_on

_REMEMBERED = 4096


class AnnouncedBlob:
    """A staged blob that is announced before it is written to the store."""

    def __init__(self, staged: StagedBlob, blobs: "Blobs") -> None:
        self._staged, self._blobs = staged, blobs

    @property
    def path(self) -> Path:
        return self._staged.path

    @property
    def size_bytes(self) -> int:
        return self._staged.size_bytes

    @property
    def sha256(self) -> str:
        return self._staged.sha256

    def write(self, data: bytes) -> None:
        self._staged.write(data)

    def commit(self) -> str:
        """Make the bytes durable under their digest, which is returned; no transaction may be open.

        Raises BlobGone when they were deleted meanwhile.
        """
        self._blobs.announce(self.sha256, self.size_bytes)
        sha256 = self._staged.commit()
        self._blobs.confirm(sha256)
        return sha256

    def __enter__(self) -> Self:
        self._staged.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._staged.__exit__(*error)


class Blobs:
    """What the service and its workers use as their store; `bytes` is the store below the account."""

    def __init__(self, sessions: Sessions, bytes_: BlobStore) -> None:
        self.bytes = bytes_
        self._sessions = sessions
        self._known_good: dict[str, tuple[int, int, int]] = {}

    def stage(self) -> AnnouncedBlob:
        return AnnouncedBlob(self.bytes.stage(), self)

    def add_file(self, path: Path) -> str:
        """Copy a local file in and return its digest; refer to it in the transaction that speaks of it.

        Raises BlobGone when it was deleted meanwhile.
        """
        sha256 = hash_file(path)
        self.announce(sha256, path.stat().st_size)
        self.bytes.put_file(path, sha256)
        self.confirm(sha256)
        return sha256

    def announce(self, sha256: str, size_bytes: int) -> None:
        """Say that bytes are about to be written; raises StoreUnavailable while they are being deleted."""
        accounts.announce(self._sessions, sha256, size_bytes)

    def confirm(self, sha256: str) -> None:
        """Say that announced bytes were written; raises BlobGone when they are no longer there."""
        with self._sessions.begin() as session:
            accounts.confirm(session, sha256, is_there=lambda: self._is_stored(sha256))

    def size(self, sha256: str) -> int:
        """Return the size; raises BlobMissing, or BlobDamaged for what was found damaged before."""
        with self._damage_noted(sha256):
            return self.bytes.size(sha256)

    def exists(self, sha256: str) -> bool:
        try:
            self.size(sha256)
        except (BlobMissing, BlobDamaged):
            return False
        return True

    def local_path(self, sha256: str) -> Path | None:
        """Return where the bytes lie on this machine, unchecked; None for a store elsewhere."""
        with self._damage_noted(sha256):
            return self.bytes.local_path(sha256)

    def verify(self, sha256: str, *, look: Look = go_on) -> None:
        """Read a blob and compare; raises BlobMissing or BlobDamaged.

        A local file is read once, for as long as it stays as it is. Bits that rot while the process runs are
        then not seen here: whoever reads all of a blob checks anew.
        """
        seen = self._fingerprint(sha256)
        if seen is not None and self._known_good.get(sha256) == seen:
            return
        with self._damage_noted(sha256):
            reading.verify(self.bytes, sha256, look=look)
        if seen is not None:
            if len(self._known_good) >= _REMEMBERED:
                self._known_good.clear()
            self._known_good[sha256] = seen

    def fetch(self, sha256: str, target: Path, *, look: Look = go_on) -> None:
        """Copy a blob to a local path, which appears only when its digest is right."""
        with self._damage_noted(sha256):
            reading.fetch(self.bytes, sha256, target, look=look)

    def read(self, sha256: str) -> bytes:
        """Return a small blob whole, checked."""
        with self._damage_noted(sha256):
            return b"".join(reading.iter_verified(self.bytes, sha256))

    def iter_verified(self, sha256: str) -> Iterator[bytes]:
        """Yield a whole blob; its last piece only when the digest is right, BlobDamaged otherwise."""
        with self._damage_noted(sha256):
            yield from reading.iter_verified(self.bytes, sha256)

    def iter_range(self, sha256: str, start: int, end: int) -> Iterator[bytes]:
        """Yield part of a blob that `verify` has passed."""
        with self._damage_noted(sha256):
            yield from self.bytes.iter_bytes(sha256, start, end)

    def signed_url(
        self, sha256: str, method: str, *, expires_s: int, filename: str, media_type: str
    ) -> str | None:
        return self.bytes.signed_url(
            sha256, method, expires_s=expires_s, filename=filename, media_type=media_type
        )

    def quarantine(self, sha256: str) -> bool:
        """Set damaged bytes aside and note it; not when they have been replaced by good ones meanwhile."""
        with self._sessions() as session:
            known = accounts.read_state(session, sha256)
        try:
            reading.verify(self.bytes, sha256)
        except BlobMissing:
            return False
        except BlobDamaged:
            if known is not None:
                with self._sessions.begin() as session:
                    if not accounts.change(session, sha256, BlobState.DAMAGED, touches=known[1]):
                        return False
            self.bytes.quarantine(sha256)
            return True
        return False

    def _is_stored(self, sha256: str) -> bool:
        try:
            self.bytes.size(sha256)
        except BlobMissing:
            return False
        return True

    def _fingerprint(self, sha256: str) -> tuple[int, int, int] | None:
        path = self.local_path(sha256)
        if path is None:
            return None
        stat = path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    @contextmanager
    def _damage_noted(self, sha256: str) -> Iterator[None]:
        try:
            yield
        except BlobDamaged:
            self.quarantine(sha256)
            raise
        except BlobMissing as error:
            with self._sessions() as session:
                known = accounts.read_state(session, sha256)
            if known is not None and known[0] == BlobState.DAMAGED:
                detail = f"the stored bytes {sha256} were found damaged and are set aside; upload them again"
                raise BlobDamaged(detail) from error
            raise


def open_blobs(settings: Settings, sessions: Sessions) -> Blobs:
    """Open the store that the settings name, with its account in the database of the sessions."""
    return Blobs(sessions, open_store(settings))
