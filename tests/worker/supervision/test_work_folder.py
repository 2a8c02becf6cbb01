"""A work folder takes up the newest checkpoint there is; what is wrong for the moment costs no work."""

import hashlib
import json
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.core.blobs import Blobs
from app.core.config import Settings
from app.core.errors import StorageFull
from app.core.storage import open_store
from app.core.storage.errors import StoreUnavailable
from app.core.tables import JobCheckpoint
from tests.support.s3 import KEYS
from worker.supervision.work_folder import Origin, clear_folder, list_kept, prepare_folder

NAME = "checkpoints/finetune/main/000000000001-a.json"


@contextmanager
def no_room():
    """No file of this process may grow for a while, which is what a full disk says, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def add_checkpoint(context, tmp_path, number: int, *, name: str = NAME) -> JobCheckpoint:
    path = tmp_path / f"{number}.json"
    path.write_text(f"step {number}")
    sha256 = context.store.add_file(path)
    files = {name: {"sha256": sha256, "size": path.stat().st_size}}
    given = {"job_id": "job_1", "stage": "finetune", "version": "1", "files": files}
    return JobCheckpoint(id=number, epoch=number, step=number, **given)


@pytest.fixture
def rows(context, tmp_path) -> list[JobCheckpoint]:
    """Two checkpoints, the newest first."""
    return [add_checkpoint(context, tmp_path, 2), add_checkpoint(context, tmp_path, 1)]


def prepare(context, tmp_path, rows, *, epoch: int = 3, start: int = 1, version: str = "1") -> list[str]:
    origin = Origin(start=start, version=version, epoch=epoch)
    return prepare_folder(tmp_path / "work", context.store.fetch, rows, origin=origin)


def read(tmp_path) -> str:
    return (tmp_path / "work" / NAME).read_text()


def test_the_newest_is_fetched(context, tmp_path, rows):
    assert prepare(context, tmp_path, rows) == []
    assert read(tmp_path) == "step 2"


def test_without_room_nothing_is_begun_anew_and_the_newest_counts_once_there_is(context, tmp_path, rows):
    (tmp_path / "work").mkdir()
    with pytest.raises(StorageFull), no_room():
        prepare(context, tmp_path, rows)
    assert prepare(context, tmp_path, rows) == []
    assert read(tmp_path) == "step 2"


def test_while_the_store_is_away_nothing_is_begun_anew(context, tmp_path, rows):
    nowhere = {"store_url": "s3://bucket", "store_s3_endpoint": "http://127.0.0.1:1", "store_s3_retry_s": 0.1}
    away = Blobs(context.sessions, open_store(Settings(data_dir=tmp_path / "data", **nowhere, **KEYS)))
    origin = Origin(start=1, version="1", epoch=3)
    with pytest.raises(StoreUnavailable):
        prepare_folder(tmp_path / "work", away.fetch, rows, origin=origin)
    assert prepare(context, tmp_path, rows) == []
    assert read(tmp_path) == "step 2"


def test_one_whose_bytes_are_gone_gives_way_to_the_one_before(context, tmp_path, rows):
    context.store.bytes.delete(rows[0].files[NAME]["sha256"])
    (warning,) = prepare(context, tmp_path, rows)
    assert "could not be used" in warning
    assert read(tmp_path) == "step 1"


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "input.json", "stages/../../escaped"])
def test_a_row_leads_to_nothing_outside_of_the_folder(context, tmp_path, name):
    row = add_checkpoint(context, tmp_path, 3, name=name)
    (warning,) = prepare(context, tmp_path, [row])
    assert "is no file of a checkpoint" in warning
    assert not list(tmp_path.rglob("escaped"))


def test_a_folder_is_further_than_what_its_own_epoch_gave(context, tmp_path, rows):
    """Its worker may have died between a checkpoint in the database and the next one on the disk."""
    prepare(context, tmp_path, [], epoch=2)
    target = tmp_path / "work" / NAME
    target.parent.mkdir(parents=True)
    target.write_text("step 9")
    assert prepare(context, tmp_path, rows, epoch=3) == []
    assert read(tmp_path) == "step 9"


@pytest.mark.parametrize("change", [{"start": 2}, {"version": "2"}, {}], ids=["start", "version", "behind"])
def test_a_folder_that_is_behind_or_of_another_start_or_code_is_emptied(context, tmp_path, rows, change):
    prepare(context, tmp_path, [], epoch=1)
    target = tmp_path / "work" / NAME
    target.parent.mkdir(parents=True)
    target.write_text("step 9")
    for row in rows:
        row.version = change.get("version", "1")
    warnings = prepare(context, tmp_path, rows, epoch=3, **change)
    assert read(tmp_path) == "step 2"
    assert len(warnings) == ("version" in change)


def test_a_folder_is_cleared_by_the_last_that_ran_in_it(context, tmp_path, rows):
    """A job may be retried before the worker that ended it has come to clear."""
    prepare(context, tmp_path, rows, epoch=3)
    clear_folder(tmp_path / "work", epoch=2)
    assert read(tmp_path) == "step 2"
    clear_folder(tmp_path / "work", epoch=3)
    assert not list(tmp_path.glob("work*"))


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_folder_that_was_never_ready_is_cleared_too(tmp_path, has_folder):
    if has_folder:
        (tmp_path / "work").mkdir()
    clear_folder(tmp_path / "work", epoch=2)
    assert not list(tmp_path.glob("work*"))


STAGE_FILE, MANIFEST = "stages/prune/masks.safetensors", "stages/prune/manifest.json"
TRAINING_FILES = "checkpoints/*/*/*"


def write_stage(work: Path, content: str) -> None:
    """Leave a finished stage of one file."""
    path = work / STAGE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    files = {path.name: digest(path)}
    (work / MANIFEST).write_text(json.dumps({"stage": "prune", "files": files}))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.fixture
def kept(context, tmp_path) -> JobCheckpoint:
    """The row of a folder that epoch 2 left: a stage, and a checkpoint of the next one's training."""
    work = tmp_path / "work"
    assert prepare(context, tmp_path, [], epoch=2) == []
    write_stage(work, "masks")
    training = work / "checkpoints/finetune/main"
    training.mkdir(parents=True)
    (training / "new").write_text("step 2")
    (training / "new").rename(training / f"000000000002-{digest(training / 'new')}.safetensors")
    files = {
        path.relative_to(work).as_posix(): {"sha256": context.store.add_file(path), "size": 1}
        for path in list_kept(work)
    }
    given = {"job_id": "job_1", "stage": "finetune", "version": "1", "files": files}
    return JobCheckpoint(id=1, epoch=2, step=2, **given)


def find_damaged(work: Path, row: JobCheckpoint) -> list[str]:
    return [name for name, file in row.files.items() if digest(work / name) != file["sha256"]]


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [(STAGE_FILE, flip), (STAGE_FILE, Path.unlink), (MANIFEST, flip), (TRAINING_FILES, flip)],
    ids=["stage", "stage's file gone", "manifest", "training"],
)
def test_a_file_that_the_disk_has_damaged_is_whole_again(context, tmp_path, kept, pattern, damage):
    work = tmp_path / "work"
    (path,) = work.glob(pattern)
    damage(path)
    assert prepare(context, tmp_path, [kept]) == []
    assert find_damaged(work, kept) == []


def test_damage_that_the_store_cannot_mend_is_told_and_left(context, tmp_path, kept):
    (path,) = (tmp_path / "work").glob(TRAINING_FILES)
    flip(path)
    context.store.bytes.delete(path.stem.partition("-")[2])
    (warning,) = prepare(context, tmp_path, [kept])
    assert f"{path.name} is damaged on this worker" in warning
    assert path.exists()


def test_without_room_damage_waits(context, tmp_path, kept):
    flip(tmp_path / "work" / STAGE_FILE)
    with pytest.raises(StorageFull), no_room():
        prepare(context, tmp_path, [kept])
    assert prepare(context, tmp_path, [kept]) == []
    assert find_damaged(tmp_path / "work", kept) == []


def test_what_was_made_again_since_is_not_taken_for_damage(context, tmp_path, kept):
    work = tmp_path / "work"
    write_stage(work, "other masks")
    assert prepare(context, tmp_path, [kept]) == []
    assert (work / STAGE_FILE).read_text() == "other masks"
    flip(work / STAGE_FILE)
    damaged = (work / STAGE_FILE).read_bytes()
    assert prepare(context, tmp_path, [kept], epoch=4) == []
    assert (work / STAGE_FILE).read_bytes() == damaged


def test_the_checkpoint_before_the_newest_is_whole_again_too(context, tmp_path, kept):
    newest = JobCheckpoint(id=2, epoch=2, step=3, job_id="job_1", stage="finetune", version="1", files={})
    flip(tmp_path / "work" / STAGE_FILE)
    assert prepare(context, tmp_path, [newest, kept]) == []
    assert find_damaged(tmp_path / "work", kept) == []


def test_whoever_reads_what_is_there_can_be_stopped(context, tmp_path, kept):
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    origin = Origin(start=1, version="1", epoch=3)
    with pytest.raises(Stopped):
        prepare_folder(tmp_path / "work", context.store.fetch, [kept], origin=origin, look=stop)
