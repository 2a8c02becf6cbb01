"""Read stored bytes and compare them with their digest on the way: wrong bytes are never a good answer."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from app.core.storage.errors import BlobDamaged
from app.core.storage.protocol import BlobStore
from app.core.storage.staging import room_needed

# Called between the pieces of what is read, gigabytes perhaps: it raises where the reader shall stop.
Look = Callable[[], None]
_CHUNK_BYTES = 1 << 20


def go_on() -> None:
    """Let a reader read to the end."""


def hash_file(path: Path, *, look: Look = go_on) -> str:
    """Return the SHA-256 of a file, in hex."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            found.update(chunk)
            look()
    return found.hexdigest()


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


def verify(store: BlobStore, sha256: str, *, look: Look = go_on) -> None:
    """Read a blob and compare; raises BlobMissing or BlobDamaged."""
    for _ in iter_verified(store, sha256):
        look()


def fetch(store: BlobStore, sha256: str, target: Path, *, look: Look = go_on) -> None:
    """Copy a blob to a local path, which appears only when its digest is right."""
    with room_needed():
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".fetch-")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in iter_verified(store, sha256):
                    file.write(chunk)
                    look()
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
