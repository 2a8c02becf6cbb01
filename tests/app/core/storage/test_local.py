"""The store: bytes are known by their digest, half an upload leaves nothing."""

import errno
import hashlib
import os

import pytest

from app.core.config import Settings
from app.core.errors import StorageFull
from app.core.storage import BlobMissing, LocalStore, StoreNotWritable, hash_file, open_store


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def files_of(store):
    return [p for p in store.root.rglob("*") if p.is_file() and p.name != "collector.lock"]


def test_committed_bytes_are_found_under_their_digest(store):
    with store.stage() as staged:
        staged.write(b"hello ")
        staged.write(b"world")
        sha256 = staged.commit()
    assert sha256 == hashlib.sha256(b"hello world").hexdigest()
    assert store.local_path(sha256).read_bytes() == b"hello world"
    assert files_of(store) == [store.local_path(sha256)]


def test_what_is_not_committed_is_gone(store):
    with store.stage() as staged:
        staged.write(b"half")
    assert files_of(store) == []


def test_equal_bytes_are_kept_once(store, tmp_path):
    source = tmp_path / "file"
    source.write_bytes(b"x" * 3_000_000)
    for _ in range(2):
        store.put_file(source, hash_file(source))
    assert len(files_of(store)) == 1


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc/passwd", "A" * 64, "", "0" * 63 + "/"])
def test_unknown_and_malformed_digests_are_missing(store, digest):
    with pytest.raises(BlobMissing):
        store.local_path(digest)


def test_a_full_disk_is_said_as_such_and_leaves_nothing(store):
    with store.stage() as staged:
        # /dev/full answers every write as a disk without room does.
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, staged._file.fileno())
        os.close(full)
        with pytest.raises(StorageFull):
            staged.write(b"data")
    assert files_of(store) == []


def test_other_write_errors_are_not_called_a_full_disk(store):
    with store.stage() as staged:
        # What may only be read; closed, its number would be another file's by the time it is closed again.
        read_only = os.open(os.devnull, os.O_RDONLY)
        os.dup2(read_only, staged._file.fileno())
        os.close(read_only)
        with pytest.raises(OSError) as caught:
            staged.write(b"data")
    assert caught.value.errno == errno.EBADF


def test_a_store_that_may_not_be_written_is_not_called_full(store):
    with store.stage() as staged:
        staged.write(b"data")
        staged._keep = lambda *_: store._keep(PathThatCannotMove(), staged.sha256)
        with pytest.raises(StoreNotWritable, match="Read-only file system"):
            staged.commit()


class PathThatCannotMove:
    """The operating system's answer on a file system that is mounted read-only."""

    def replace(self, _):
        raise OSError(errno.EROFS, "Read-only file system")


def test_only_old_bytes_are_listed_for_collection(store):
    with store.stage() as staged:
        staged.write(b"x")
        sha256 = staged.commit()
    assert list(store.list_older_than(60.0)) == []
    os.utime(store.local_path(sha256), (1, 1))
    assert [(b.sha256, b.size_bytes) for b in store.list_older_than(60.0)] == [(sha256, 1)]


def test_a_store_url_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected file:///folder or s3://bucket/prefix, found gs://bucket"):
        open_store(Settings(data_dir=tmp_path, store_url="gs://bucket"))


def test_one_collector_at_a_time_holds_a_folder(store):
    with store.collecting() as first, LocalStore(store.root).collecting() as second:
        assert (first, second) == (0.0, None)
    with store.collecting() as again:
        assert again == 0.0
