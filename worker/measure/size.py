"""Measure files: bytes, bytes after compression, digest, in one pass and a constant amount of memory."""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

_CHUNK_BYTES = 1 << 20
_ZLIB_LEVEL = 6


@dataclass(frozen=True)
class FileSize:
    size_bytes: int
    compressed_bytes: int
    sha256: str


def measure_file(path: Path) -> FileSize:
    """Count a file's bytes, as they are and after zlib level 6."""
    digest, compressor = hashlib.sha256(), zlib.compressobj(_ZLIB_LEVEL)
    size_bytes = compressed_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
            compressed_bytes += len(compressor.compress(chunk))
    compressed_bytes += len(compressor.flush())
    return FileSize(size_bytes, compressed_bytes, digest.hexdigest())


def digest_file(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
