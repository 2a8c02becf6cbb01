"""What every store promises: the same laws over a folder and over a bucket."""

import hashlib
import threading
from itertools import pairwise
from pathlib import Path

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.config import Settings
from app.core.storage import BlobDamaged, BlobMissing, hash_file, open_store, reading
from tests.support.s3 import KEYS

LARGE = b"0123456789abcdef" * (20 << 16)  # 20 MiB: three parts


@pytest.fixture(params=["folder", "bucket"], scope="module")
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    given = request.getfixturevalue("s3").settings() if request.param == "bucket" else {}
    return open_store(Settings(data_dir=folder, **given))


def put(store, data: bytes) -> str:
    with store.stage() as staged:
        staged.write(data)
        return staged.commit()


def read(store, sha256: str) -> bytes:
    return b"".join(reading.iter_verified(store, sha256))


@settings(max_examples=30)
@given(data=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=4))
def test_what_was_written_in_any_pieces_is_read_whole_and_in_any_part(store, data, cuts):
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    with store.stage() as staged:
        for start, end in pairwise(edges):
            staged.write(data[start:end])
        sha256 = staged.commit()
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert read(store, sha256) == data
    assert store.size(sha256) == len(data)
    for start, end in pairwise(edges):
        assert b"".join(store.iter_bytes(sha256, start, end)) == data[start:end]


def test_a_large_blob_goes_up_in_parts_and_comes_back_in_pieces(store, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    sha256 = hash_file(path)
    store.put_file(path, sha256)
    pieces = list(reading.iter_verified(store, sha256))
    assert len(pieces) > 1
    assert b"".join(pieces) == LARGE
    reading.fetch(store, sha256, tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == LARGE


def test_what_is_not_committed_is_never_there(store):
    with store.stage() as staged:
        staged.write(b"given up")
        sha256, path = staged.sha256, staged.path
    with pytest.raises(BlobMissing):
        store.size(sha256)
    assert not path.exists()


def test_deleted_bytes_are_missing_and_deleting_them_again_is_harmless(store):
    sha256 = put(store, b"soon gone")
    for _ in range(2):
        store.delete(sha256)
    for ask in (store.size, lambda sha256: list(store.iter_bytes(sha256, 0, 1)), lambda s: read(store, s)):
        with pytest.raises(BlobMissing, match=sha256):
            ask(sha256)


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc/passwd", "A" * 64, "", "0" * 63 + "/"])
def test_unknown_and_malformed_digests_are_missing(store, digest):
    with pytest.raises(BlobMissing):
        store.size(digest)


def test_bytes_are_listed_with_size_and_age(store):
    sha256 = put(store, b"listed")
    [row] = [blob for blob in store.list_older_than(-1.0) if blob.sha256 == sha256]
    assert row.size_bytes == 6
    assert row.age_s < 3600
    assert sha256 not in {blob.sha256 for blob in store.list_older_than(3600.0)}


def test_the_same_bytes_written_by_many_at_once_are_there_once_and_whole(store):
    data = b"the same" * 1000
    threads = [threading.Thread(target=put, args=(store, data)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sha256 = hashlib.sha256(data).hexdigest()
    assert read(store, sha256) == data
    assert [b.sha256 for b in store.list_older_than(-1.0)].count(sha256) == 1


def test_quarantined_bytes_are_read_by_nobody_and_heal_when_they_come_again(store):
    sha256 = put(store, b"was damaged")
    for _ in range(2):
        store.quarantine(sha256)
    with pytest.raises(BlobMissing):
        store.size(sha256)
    assert sha256 not in {blob.sha256 for blob in store.list_older_than(-1.0)}
    assert put(store, b"was damaged") == sha256
    assert read(store, sha256) == b"was damaged"


@pytest.mark.parametrize("size", [5, 3_000_000])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_flipped_bit_is_found_before_the_last_piece(store, tmp_path, size, where):
    good = bytes(hashlib.shake_256(f"{size} {where}".encode()).digest(size))
    sha256 = put(store, good)
    spoil(store, sha256, flip(good, int(where * (size - 1))))
    got: list[bytes] = []
    with pytest.raises(BlobDamaged, match=sha256):
        got.extend(reading.iter_verified(store, sha256))
    assert sum(map(len, got)) < size
    with pytest.raises(BlobDamaged):
        reading.fetch(store, sha256, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_the_mark_of_an_installation_is_read_back_and_no_blob(store):
    assert store.read_owner() is None
    for name in ("ins_1", "ins_2"):
        store.write_owner(name)
        assert store.read_owner() == name
    assert all(len(blob.sha256) == 64 for blob in store.list_older_than(-1.0))


def test_the_store_says_that_it_can_be_used(store):
    store.check(write=True)
    store.check(write=False)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def spoil(store, sha256: str, data: bytes) -> None:
    """Put other bytes where a blob lies, behind the back of the store."""
    path = store.local_path(sha256)
    if path is not None:
        Path(path).write_bytes(data)
    else:
        obstore.put(store._objects, f"blobs/{sha256[:2]}/{sha256}", data)


def test_no_key_is_shown_by_the_store_or_its_settings(s3, tmp_path):
    made = Settings(data_dir=tmp_path, **s3.settings())
    for shown in (repr(made), made.model_dump_json(), repr(open_store(made)), open_store(made).location):
        assert KEYS["store_s3_secret_access_key"] not in shown
