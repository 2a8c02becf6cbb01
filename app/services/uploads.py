"""What an upload brings to the services: the manifest's bytes and staged files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.digests import sha256_of_files
from app.core.errors import InvalidUpload
from app.core.storage import StagedBlob


@dataclass(frozen=True)
class UploadedFile:
    """A file part: the name that the client gave it, which is never used as a path, and its staged bytes."""

    name: str
    staged: StagedBlob


@dataclass(frozen=True)
class Upload:
    """Everything of one multipart request; the files vanish at the end of the request unless committed."""

    manifest: bytes
    files: tuple[UploadedFile, ...]

    def sha256(self) -> str:
        """Identify the request by its manifest and the digests of its files, in their order."""
        parts = [hashlib.sha256(self.manifest).hexdigest()]
        parts += [f"{file.name}={file.staged.sha256}" for file in self.files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def by_name(self) -> dict[str, UploadedFile]:
        """Return the files by name; raises InvalidUpload when two share one."""
        named = {file.name: file for file in self.files}
        if len(named) < len(self.files):
            raise InvalidUpload(
                f"two files share a name; the files are: {', '.join(f.name for f in self.files)}"
            )
        return named


Files = dict[str, Any]  # Any: role → {name, sha256, size_bytes}, the JSON of a row


def commit_files(roles: Mapping[str, UploadedFile]) -> Files:
    """Make the files durable in the store and describe them for their row; one file may have two roles."""
    digests = {file: file.staged.commit() for file in dict.fromkeys(roles.values())}
    return {
        role: {"name": file.name, "sha256": digests[file], "size_bytes": file.staged.size_bytes}
        for role, file in roles.items()
    }


def digests_of(files: Files) -> list[str]:
    """Return the digests of the files."""
    return [str(file["sha256"]) for file in files.values()]


def digest_of(files: Files) -> str:
    """Return the digest of a single file, or one over the digests of several by role."""
    return sha256_of_files({role: str(file["sha256"]) for role, file in files.items()})
