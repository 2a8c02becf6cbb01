"""The store: bytes are known by their digest, half an upload leaves nothing."""

import errno
import hashlib
import os

import pytest

from app.core.errors import StorageFull
from app.core.storage import BlobMissing, LocalStore, make_store


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def files_of(store):
    return [p for p in store.root.rglob("*") if p.is_file()]


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
    assert store.add_file(source) == store.add_file(source)
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
    staged = store.stage()
    os.close(staged._file.fileno())
    with pytest.raises(OSError) as caught:
        staged.write(b"data")
    assert caught.value.errno == errno.EBADF


def test_only_old_bytes_are_listed_for_collection(store):
    with store.stage() as staged:
        staged.write(b"x")
        sha256 = staged.commit()
    assert list(store.list_older_than(60.0)) == []
    os.utime(store.local_path(sha256), (1, 1))
    assert list(store.list_older_than(60.0)) == [sha256]


def test_a_store_url_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="expected file:///folder, found s3"):
        make_store("s3://bucket")
