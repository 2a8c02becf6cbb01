"""A bucket behind a network that fails: what is retried, what is told, and what is never half there."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from app.core import schema
from app.core.config import Settings
from app.core.db import make_engine
from app.core.errors import StorageFull
from app.core.storage import (
    BlobMissing,
    StoreMisconfigured,
    StoreNotWritable,
    StoreUnavailable,
    hash_file,
    open_store,
    reading,
)
from app.core.storage.presign import Credentials, presign
from tests.support.s3 import KEYS, FailingProxy, answer_with

PART = 8 << 20


@pytest.fixture
def proxy(s3):
    with FailingProxy(s3.url) as proxy:
        yield proxy


@pytest.fixture
def store(s3, proxy, tmp_path):
    given = s3.settings() | {"store_s3_endpoint": proxy.url, "store_s3_retry_s": 20.0}
    return open_store(Settings(data_dir=tmp_path / "data", **given))


def put(store, data: bytes) -> str:
    with store.stage() as staged:
        staged.write(data)
        return staged.commit()


def fails(*, times: int, status: int = 503, code: str = "SlowDown", methods=("GET", "PUT", "HEAD", "POST")):
    left = [times]

    def fault(handler) -> bool:
        if handler.command not in methods or left[0] == 0:
            return False
        left[0] -= 1
        return answer_with(handler, status, code)

    return fault


def test_errors_of_the_server_are_tried_again_until_they_are_over(store, proxy):
    proxy.fault = fails(times=2)
    sha256 = put(store, b"in the end")
    proxy.fault = fails(times=3, status=500, code="InternalError")
    assert b"".join(reading.iter_verified(store, sha256)) == b"in the end"


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (507, "InsufficientStorage", StorageFull),
        (403, "AccessDenied", StoreNotWritable),
        (404, "NoSuchBucket", StoreMisconfigured),
        (400, "XMinioStorageFull", StorageFull),
    ],
)
def test_a_refusal_is_told_as_what_it_is_leaves_nothing_and_is_over_when_it_is_over(
    store, proxy, status, code, error
):
    proxy.fault = fails(times=-1, status=status, code=code, methods=("PUT", "POST"))
    with pytest.raises(error):
        put(store, b"refused")
    assert list(store._incoming.iterdir()) == []
    proxy.fault = lambda _: False
    sha256 = hashlib.sha256(b"refused").hexdigest()
    with pytest.raises(BlobMissing):
        store.size(sha256)
    assert put(store, b"refused") == sha256


def test_a_server_that_never_answers_well_is_given_up(s3, proxy, tmp_path):
    given = s3.settings() | {"store_s3_endpoint": proxy.url, "store_s3_retry_s": 0.5}
    store = open_store(Settings(data_dir=tmp_path / "data", **given))
    proxy.fault = fails(times=-1)
    with pytest.raises(StoreUnavailable):
        put(store, b"never")


def test_equal_bytes_are_sent_once(store, proxy):
    put(store, b"once")
    put(store, b"once")
    assert [method for method, _ in proxy.asked].count("PUT") == 1


def test_a_large_upload_that_breaks_between_its_parts_is_not_there(store, proxy, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"z" * (3 * PART))
    done = []

    def fault(handler) -> bool:
        if handler.command == "PUT" and "partNumber" in handler.path:
            done.append(handler.path)
            return len(done) > 1 and answer_with(handler, 403, "AccessDenied")
        return False

    proxy.fault = fault
    with pytest.raises(StoreNotWritable):
        store.put_file(path, hash_file(path))
    proxy.fault = lambda _: False
    assert len(done) > 1
    with pytest.raises(BlobMissing):
        store.size(hash_file(path))
    assert list(store.list_older_than(-1.0)) == []


_UPLOADER = """
import sys
from pathlib import Path
from app.core.config import Settings
from app.core.storage import open_store
store = open_store(Settings())
with store.stage() as staged:
    for _ in range(24):
        staged.write(b"q" * (1 << 20))
    print("staged", flush=True)
    staged.commit()
"""


@pytest.mark.parametrize("kind", ["bucket", "folder"])
def test_a_process_killed_in_the_middle_of_an_upload_leaves_no_half_blob(kind, s3, proxy, tmp_path):
    bucket = s3.make_bucket()
    given = {"data_dir": str(tmp_path / "data")}
    if kind == "bucket":
        given |= s3.settings(bucket) | {"store_s3_endpoint": proxy.url}
    parts = []

    def fault(handler) -> bool:
        if "partNumber" in handler.path:
            parts.append(handler.path)
            if len(parts) > 1:
                time.sleep(1.0)  # long enough to be killed in
        return False

    proxy.fault = fault
    env = os.environ | {f"SECATEUR_{name.upper()}": str(value) for name, value in given.items()}
    process = subprocess.Popen([sys.executable, "-c", _UPLOADER], env=env, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"staged\n"
    deadline = time.monotonic() + 60.0
    while kind == "bucket" and len(parts) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = open_store(Settings(**given))
    sha256 = hashlib.sha256(b"q" * (24 << 20)).hexdigest()
    # Whole or not at all: a folder may have been quicker than the kill.
    for blob in store.list_older_than(-1.0):
        assert (blob.sha256, blob.size_bytes, kind) == (sha256, 24 << 20, "folder")
        reading.verify(store, blob.sha256)
    store.drop_abandoned(-1.0)
    assert store.count_abandoned(-1.0) == 0


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"store_url": "s3://nobody-made-this/x"}, "NoSuchBucket"),
        ({"store_s3_endpoint": "http://127.0.0.1:1"}, "error sending request"),
    ],
)
def test_a_store_that_cannot_be_used_is_named_with_what_was_found(s3, tmp_path, changes, found):
    made = Settings(data_dir=tmp_path, **(s3.settings() | changes))
    with pytest.raises((StoreMisconfigured, StoreUnavailable)) as caught:
        open_store(made).check(write=True)
    for word in (f"store {made.store_url}", "expected a bucket", found, "SECATEUR_STORE_URL"):
        assert word in str(caught.value)
    assert KEYS["store_s3_secret_access_key"] not in str(caught.value)


def test_keys_that_are_refused_are_told_at_the_start(s3, proxy, tmp_path):
    proxy.fault = fails(times=-1, status=403, code="InvalidAccessKeyId")
    made = Settings(data_dir=tmp_path, **(s3.settings() | {"store_s3_endpoint": proxy.url}))
    with pytest.raises(StoreNotWritable, match="InvalidAccessKeyId"):
        open_store(made).check(write=True)


@pytest.mark.parametrize("program", [["-m", "app.cli", "api"], ["-m", "app.cli", "relay"], ["-m", "worker"]])
def test_every_program_ends_with_a_sentence_when_its_store_is_wrong(s3, tmp_path, program):
    given = s3.settings() | {"data_dir": tmp_path, "store_url": "s3://nobody-made-this"}
    env = os.environ | {f"SECATEUR_{name.upper()}": str(value) for name, value in given.items()}
    schema.upgrade(make_engine(Settings(**given).database_url))
    done = subprocess.run([sys.executable, *program], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "expected a bucket" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_half_a_key_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found only one of them"):
        Settings(data_dir=tmp_path, store_s3_access_key_id="key")


def test_the_standard_variables_of_aws_are_read(tmp_path, monkeypatch):
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "eu-west-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    made = Settings(data_dir=tmp_path)
    assert (made.store_s3_access_key_id, made.store_s3_region) == ("a", "eu-west-1")
    assert made.store_s3_secret_access_key.get_secret_value() == "b"


def test_a_signed_url_gives_the_bytes_under_a_name_and_runs_out(store):
    sha256 = put(store, b"signed")
    url = store.signed_url(sha256, "GET", expires_s=60, filename="model one.safetensors", media_type="a/b")
    answer = httpx.get(url, trust_env=False)
    assert (answer.status_code, answer.content) == (200, b"signed")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="model one.safetensors"'
    assert answer.headers["Content-Type"].startswith("a/b")
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == ["60"]


def test_the_signature_is_that_of_the_documentation_of_aws():
    """The example of "Authenticating Requests: Using Query Parameters", Amazon S3 API Reference."""
    keys = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
    url = presign(
        "https://examplebucket.s3.amazonaws.com/test.txt",
        keys,
        method="GET",
        expires_s=86_400,
        now=datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert url.endswith("X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")
