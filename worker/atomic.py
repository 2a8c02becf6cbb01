"""Put files in their place whole or not at all, also after a power cut."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    place_atomically(path, lambda partial: _write(partial, content))


def place_atomically(path: Path, make: Callable[[Path], None]) -> None:
    """Let `make` write a file under another name, flush it, and move it into its place."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    make(partial)
    flush(partial)
    partial.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
