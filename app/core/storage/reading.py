"""Read stored bytes and compare them with their digest on the way: wrong bytes are never a good answer."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from app.core.storage.errors import BlobDamaged
from app.core.storage.protocol import BlobStore
from app.core.storage.staging import room_needed


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def iter_verified(store: BlobStore, sha256: str) -> Iterator[bytes]:
    """Yield a whole blob; the last piece comes only when all of it has the right digest.

    Raises BlobMissing before the first piece, BlobDamaged before the last.
    """
    found, held = hashlib.sha256(), b""
    for chunk in store.iter_bytes(sha256, 0, store.size(sha256)):
        found.update(chunk)
        if held:
            yield held
        held = chunk
    if found.hexdigest() != sha256:
        raise BlobDamaged(
            f"the stored bytes {sha256} have the digest {found.hexdigest()}; they are set aside: "
            "upload the file again, or run the job again that made it"
        )
    if held:
        yield held


def verify(store: BlobStore, sha256: str) -> None:
    """Read a blob and compare; raises BlobMissing or BlobDamaged."""
    for _ in iter_verified(store, sha256):
        pass


def fetch(store: BlobStore, sha256: str, target: Path) -> None:
    """Copy a blob to a local path, which appears only when its digest is right."""
    with room_needed():
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".fetch-")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in iter_verified(store, sha256):
                    file.write(chunk)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
