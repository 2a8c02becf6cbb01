"""Digests that the service and its workers must compute alike."""

import hashlib
import json
from collections.abc import Mapping


def sha256_of_json(value: object) -> str:
    """Hash a JSON value in its canonical form: sorted names, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_files(sha256: Mapping[str, str]) -> str:
    """Return the digest of a single file, or one over the digests of several by role."""
    return next(iter(sha256.values())) if len(sha256) == 1 else sha256_of_json(dict(sha256))
