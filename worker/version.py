"""Name the code that runs jobs: the release, and a digest of its sources, which decide what comes out."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


@cache
def code_version() -> str:
    """Return a name that differs as soon as anything does that a job computes with."""
    digest = hashlib.sha256()
    for path in sorted([*(_ROOT / "worker").rglob("*.py"), *(_ROOT / "app" / "core").rglob("*.py")]):
        digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{version('secateur')}+{digest.hexdigest()[:12]}"
