"""The work folder of a job: what an earlier attempt left in it counts, or is fetched from the store.

WORK/origin.json says which epoch of the job ran in the folder last, by which code, and which start of the job
it belongs to. What that epoch and those before it gave to the database came from here, and the folder may be
further. A folder that is behind the database, of other code, or of an earlier start is emptied; then the
newest checkpoint that is whole is fetched, otherwise the one before it.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from app.core.storage.errors import BlobDamaged, BlobMissing
from app.core.tables import JobCheckpoint
from worker.atomic import write_atomically

_log = logging.getLogger(__name__)
_ORIGIN_NAME = "origin.json"
# What checkpoints are made of; the rest of the folder is made anew by every attempt.
KEPT_FOLDERS = ("stages", "checkpoints")
# Copies the bytes of a digest to a local path, checked.
Fetch = Callable[[str, Path], None]


class Origin(BaseModel):
    """Where what lies in a work folder comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int
    version: str
    epoch: int


def prepare_folder(
    work: Path, fetch: Fetch, rows: Sequence[JobCheckpoint], *, start: int, version: str, epoch: int
) -> list[str]:
    """Make the folder hold the newest state of a job that can be had; returns what its user should know.

    `rows` are the job's checkpoints, the newest first; `epoch` is that of the attempt that is about to run.
    Raises StorageFull or Unavailable where a checkpoint is good and cannot be fetched now.
    """
    work.mkdir(parents=True, exist_ok=True)
    found = _read_origin(work)
    newest_epoch = rows[0].epoch if rows else 0
    is_ours = found is not None and found.start == start and found.version == version
    origin = Origin(start=start, version=version, epoch=epoch)
    if found is not None and is_ours and newest_epoch <= found.epoch:
        _write_origin(work, origin)
        return []
    warnings = []
    if found is not None and found.version != version:
        warnings.append(f"what version {found.version} left on this worker was refused: it runs {version}")
    for name in KEPT_FOLDERS:
        shutil.rmtree(work / name, ignore_errors=True)
    warnings += _restore_newest(work, fetch, rows, version=version)
    _write_origin(work, origin)
    return warnings


def _restore_newest(work: Path, fetch: Fetch, rows: Sequence[JobCheckpoint], *, version: str) -> list[str]:
    warnings = []
    for row in rows:
        if row.version != version:
            warnings.append(
                f"the checkpoint of {_tell(row)} was refused: version {row.version} wrote it, this worker "
                f"runs {version}"
            )
            continue
        try:
            _restore(work, fetch, row)
        except (BlobMissing, BlobDamaged) as error:
            # Nothing else makes it unusable: for want of room, or while the store is away, the job waits.
            _log.warning("checkpoint unusable", extra={"job_id": row.job_id, "error": str(error)})
            warnings.append(f"the checkpoint of {_tell(row)} could not be used: {error}")
            for name in KEPT_FOLDERS:
                shutil.rmtree(work / name, ignore_errors=True)
            continue
        break
    return warnings


def _restore(work: Path, fetch: Fetch, row: JobCheckpoint) -> None:
    for name, file in row.files.items():
        target = work / _checked(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch(file["sha256"], target)


def _checked(name: str) -> PurePosixPath:
    """No row may lead out of the folder, whoever wrote it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.parts[0] not in KEPT_FOLDERS:
        raise BlobDamaged(f"{name!r} is no file of a checkpoint")
    return path


def list_kept(work: Path) -> Iterator[Path]:
    """List the files that make up a checkpoint now: stages that stand, the newest file of each training."""
    for manifest in sorted(work.glob("stages/*/manifest.json")):
        yield from sorted(manifest.parent.iterdir())
    for training in sorted(work.glob("checkpoints/*/*")):
        yield from sorted(training.glob("[0-9]*"))[-1:]


def _write_origin(work: Path, origin: Origin) -> None:
    write_atomically(work / _ORIGIN_NAME, origin.model_dump_json().encode())


def _read_origin(work: Path) -> Origin | None:
    try:
        return Origin.model_validate_json((work / _ORIGIN_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _tell(row: JobCheckpoint) -> str:
    return f"step {row.step} of {row.stage}" if row.step is not None else f"the end of {row.stage}"
