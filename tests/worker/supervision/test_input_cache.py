"""The worker's copies of remote bytes: checked, bounded, and never taken from a job that reads them."""

import fcntl
import os
import threading
from contextlib import contextmanager

import pytest

from app.core import schema
from app.core.blobs import open_blobs
from app.core.config import Settings
from app.core.db import make_engine, make_sessions
from app.core.storage import BlobDamaged, BlobMissing, hash_file
from tests.support.s3 import FailingProxy
from worker.supervision.input_cache import InputCache

SIZE = 1000


@pytest.fixture
def proxy(s3):
    with FailingProxy(s3.url) as proxy:
        yield proxy


@pytest.fixture
def blobs(s3, proxy, tmp_path):
    given = s3.settings() | {"store_s3_endpoint": proxy.url}
    made = Settings(data_dir=tmp_path / "data", **given)
    engine = make_engine(made.database_url)
    schema.upgrade(engine)
    return open_blobs(made, make_sessions(engine))


@pytest.fixture
def cache(blobs, tmp_path):
    return InputCache(blobs, tmp_path / "cache", max_bytes=2 * SIZE)


def add(blobs, letter: str) -> str:
    with blobs.stage() as staged:
        staged.write(letter.encode() * SIZE)
        return staged.commit()


def fetched(proxy) -> int:
    return sum(method == "GET" for method, _ in proxy.asked)


def cached(tmp_path) -> set[str]:
    return {path.name for path in (tmp_path / "cache" / "blobs").iterdir()}


class Stop(Exception):
    """What the caller of the cache stops with."""


def stop() -> None:
    raise Stop


@contextmanager
def another_holds(folder, name):
    """Another worker holds a lock of the cache, and does nothing more."""
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    with (folder / "locks" / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_bytes_are_fetched_once_for_all_jobs_of_a_machine(blobs, cache, proxy, tmp_path):
    sha256 = add(blobs, "a")
    paths = [cache.into(tmp_path / name)(sha256) for name in ("job1", "job2", "job1")]
    assert {path.read_bytes() for path in paths} == {b"a" * SIZE}
    assert fetched(proxy) == 1


def test_what_was_not_used_for_longest_goes_first_and_no_job_loses_its_copy(blobs, cache, tmp_path):
    digests = {letter: add(blobs, letter) for letter in "abc"}
    paths = {}
    for moment, letter in enumerate("abac"):
        paths[letter] = cache.into(tmp_path / f"job {moment}")(digests[letter])
        os.utime(tmp_path / "cache" / "blobs" / digests[letter], (moment, moment))
    assert cached(tmp_path) == {digests["a"], digests["c"]}
    assert paths["b"].read_bytes() == b"b" * SIZE


def test_what_is_larger_than_the_cache_is_the_jobs_alone(blobs, tmp_path):
    cache = InputCache(blobs, tmp_path / "cache", max_bytes=SIZE - 1)
    path = cache.into(tmp_path / "job")(add(blobs, "a"))
    assert path.read_bytes() == b"a" * SIZE
    assert cached(tmp_path) == set()


def test_a_copy_that_rotted_is_fetched_again(blobs, cache, proxy, tmp_path):
    sha256 = add(blobs, "a")
    cache.into(tmp_path / "job1")(sha256).write_bytes(b"x" * SIZE)  # the same file as the cache's
    assert hash_file(cache.into(tmp_path / "job2")(sha256)) == sha256
    assert fetched(proxy) == 2


def test_bytes_that_are_damaged_in_the_store_reach_no_job(blobs, cache, proxy, tmp_path):
    sha256 = add(blobs, "a")
    proxy.change = lambda method, _, body: body.replace(b"aaa", b"aab", 1) if method == "GET" else body
    with pytest.raises(BlobDamaged):
        cache.into(tmp_path / "job")(sha256)
    assert list((tmp_path / "job" / "inputs").iterdir()) == []
    assert cached(tmp_path) == set()
    with pytest.raises(BlobMissing):
        cache.into(tmp_path / "job")("0" * 64)


def test_runners_that_start_at_once_share_a_copy(blobs, tmp_path):
    digests = [add(blobs, letter) for letter in "abcd"]
    faults = []

    def start(number: int) -> None:
        cache = InputCache(blobs, tmp_path / "cache", max_bytes=2 * SIZE)
        for sha256 in digests[number % 4 :] + digests[: number % 4]:
            path = cache.into(tmp_path / f"job{number}")(sha256)
            if hash_file(path) != sha256:
                faults.append(path)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(cached(tmp_path)) <= 2


def test_who_waits_for_another_worker_stops_when_told_to(blobs, cache, tmp_path):
    sha256 = add(blobs, "a")
    with another_holds(tmp_path / "cache", sha256[:2]), pytest.raises(Stop):
        cache.into(tmp_path / "job", look=stop)(sha256)


def test_who_fetches_stops_when_told_to_and_leaves_nothing(blobs, cache, tmp_path):
    with pytest.raises(Stop):
        cache.into(tmp_path / "job", look=stop)(add(blobs, "a"))
    assert list((tmp_path / "job" / "inputs").iterdir()) == []
    assert cached(tmp_path) == set()


def test_who_hashes_a_copy_stops_when_told_to(blobs, cache, proxy, tmp_path):
    sha256 = add(blobs, "a")
    cache.into(tmp_path / "job1")(sha256)
    with pytest.raises(Stop):
        cache.into(tmp_path / "job2", look=stop)(sha256)
    assert fetched(proxy) == 1


def test_a_worker_that_sleeps_over_a_lock_keeps_nobody_from_the_bytes(blobs, tmp_path):
    sha256 = add(blobs, "a")
    cache = InputCache(blobs, tmp_path / "cache", max_bytes=2 * SIZE, patience_s=0.2)
    for name in (sha256[:2], "room"):
        with another_holds(tmp_path / "cache", name):
            assert hash_file(cache.into(tmp_path / name)(sha256)) == sha256
    assert cached(tmp_path) == set()
