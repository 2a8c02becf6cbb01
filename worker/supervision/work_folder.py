"""The work folder of a job: what an earlier attempt left in it counts, or is fetched from the store.

WORK/origin.json says which epoch of the job ran in the folder last, by which code, and which start of the job
it belongs to. What that epoch and those before it gave to the database came from here, and the folder may be
further; a file that this disk has damaged is fetched again where the store has it. A folder that is behind
the database, of other code, or of an earlier start is emptied; then the newest checkpoint that is whole is
fetched, otherwise the one before it.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from app.core.storage import hash_file
from app.core.storage.errors import BlobDamaged, BlobMissing
from app.core.storage.reading import Look, go_on
from app.core.tables import JobCheckpoint
from worker.atomic import write_atomically

_log = logging.getLogger(__name__)
_ORIGIN_NAME = "origin.json"
# What checkpoints are made of; the rest of the folder is made anew by every attempt.
KEPT_FOLDERS = ("stages", "checkpoints")
# Copies the bytes of a digest to a local path, checked.
Fetch = Callable[[str, Path], None]
_FILES = TypeAdapter(dict[str, str])


class Origin(BaseModel):
    """Where what lies in a work folder comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int
    version: str
    epoch: int


def prepare_folder(
    work: Path, fetch: Fetch, rows: Sequence[JobCheckpoint], *, origin: Origin, look: Look = go_on
) -> list[str]:
    """Make the folder hold the newest state of a job that can be had; returns what its user should know.

    `rows` are the job's checkpoints, the newest first; `origin` is that of the attempt that is about to run.
    Raises StorageFull or Unavailable where a checkpoint is good and cannot be fetched now, and what `look`
    raises, which is called while files are read.
    """
    work.mkdir(parents=True, exist_ok=True)
    found, version = _read_origin(work), origin.version
    newest_epoch = rows[0].epoch if rows else 0
    is_ours = found is not None and found.start == origin.start and found.version == version
    warnings = []
    if found is not None and is_ours and newest_epoch <= found.epoch:
        warnings += _mend(work, fetch, [row for row in rows if row.version == version], look=look)
    else:
        if found is not None and found.version != version:
            warnings.append(
                f"what version {found.version} left on this worker was refused: it runs {version}"
            )
        for name in KEPT_FOLDERS:
            shutil.rmtree(work / name, ignore_errors=True)
        warnings += _restore_newest(work, fetch, rows, version=version)
    _write_origin(work, origin)
    return warnings


def clear_folder(work: Path, *, epoch: int) -> None:
    """Delete the folder of a job that this epoch ended, unless the job was retried and runs here again."""
    found = _read_origin(work)
    if found is not None and found.epoch > epoch:
        return
    # Gone at once: to delete gigabytes takes seconds, in which a retry would begin among them.
    gone = work.with_name(f"{work.name}.{epoch}.gone")
    with contextlib.suppress(OSError):
        work.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _mend(work: Path, fetch: Fetch, rows: Sequence[JobCheckpoint], *, look: Look) -> list[str]:
    """Fetch again what the disk has damaged, where the store has the very bytes; returns what it could not.

    What a file must be is written beside it and not in a row: a stage that was run again since may differ.
    """
    stored: dict[str, str] = {}
    for row in reversed(rows):
        stored |= {name: file["sha256"] for name, file in row.files.items()}
    warnings = []
    for manifest in sorted(work.glob("stages/*/manifest.json")):
        name = manifest.relative_to(work).as_posix()
        if name in stored and _read_files(manifest) is None:
            warnings += _fetch_again(work, fetch, name, stored[name])
    for name, sha256 in _list_expected(work):
        if stored.get(name) == sha256 and not _is_whole(work / name, sha256, look):
            warnings += _fetch_again(work, fetch, name, sha256)
    return warnings


def _list_expected(work: Path) -> Iterator[tuple[str, str]]:
    """List files of the folder by name, with the SHA-256 that a manifest or their own name says they have."""
    for manifest in sorted(work.glob("stages/*/manifest.json")):
        for name, sha256 in (_read_files(manifest) or {}).items():
            yield f"stages/{manifest.parent.name}/{name}", sha256
    for path in sorted(work.glob("checkpoints/*/*/[0-9]*-*.safetensors")):
        yield path.relative_to(work).as_posix(), path.stem.partition("-")[2]


def _read_files(manifest: Path) -> dict[str, str] | None:
    """Read which files a stage has, by SHA-256; None where the manifest is damaged."""
    try:
        return _FILES.validate_python(json.loads(manifest.read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_whole(path: Path, sha256: str, look: Look) -> bool:
    try:
        return hash_file(path, look=look) == sha256
    except OSError:
        # Gone, or where the disk cannot be read any more.
        return False


def _fetch_again(work: Path, fetch: Fetch, name: str, sha256: str) -> list[str]:
    try:
        fetch(sha256, work / _checked(name))
    except (BlobMissing, BlobDamaged) as error:
        _log.warning("damaged file not mended", extra={"file": name, "error": str(error)})
        return [f"{name} is damaged on this worker, and the store cannot replace it: {error}"]
    _log.warning("damaged file mended", extra={"file": name})
    return []


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
