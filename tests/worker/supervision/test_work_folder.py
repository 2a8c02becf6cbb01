"""A work folder takes up the newest checkpoint there is; what is wrong for the moment costs no work."""

import resource
from contextlib import contextmanager

import pytest

from app.core.blobs import Blobs
from app.core.config import Settings
from app.core.errors import StorageFull
from app.core.storage import open_store
from app.core.storage.errors import StoreUnavailable
from app.core.tables import JobCheckpoint
from tests.support.s3 import KEYS
from worker.supervision.work_folder import prepare_folder

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
    given = {"start": start, "version": version, "epoch": epoch}
    return prepare_folder(tmp_path / "work", context.store.fetch, rows, **given)


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
    with pytest.raises(StoreUnavailable):
        prepare_folder(tmp_path / "work", away.fetch, rows, start=1, version="1", epoch=3)
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
