"""Downloads out of either store: never wrong bytes, and large ones by a signed URL of the bucket."""

import base64
import hashlib
import uuid
from pathlib import Path

import httpx
import numpy as np
import obstore
import pytest
from sqlalchemy import select

from app.client import Client, DigestMismatch, Unreachable
from app.core.storage import reading
from app.core.tables import Blob
from app.main import create_app
from tests.app.conftest import make_settings
from tests.app.test_client import flaky
from tests.support import uploads
from tests.support.live import LiveServer
from tests.support.s3 import FailingProxy, answer_with

DATABASES = ("sqlite",)  # the account of bytes is tested on both
SMALL, LARGE = 1000, 9_000_001  # below and above what is read before it is sent


@pytest.fixture(params=["folder", "bucket"])
def served(request, tmp_path):
    """A service over a socket, on a folder or on a bucket; large files of the bucket are redirected."""
    given = {}
    if request.param == "bucket":
        given = request.getfixturevalue("s3").settings()
    made = make_settings(tmp_path, f"sqlite:///{tmp_path / 'secateur.db'}", **given)
    with LiveServer(create_app(made)) as server:
        yield server


@pytest.fixture
def job_id(served):
    with served.http() as http:
        model = uploads.upload_model(http).json()["id"]
        uploads.make_ready(served.app.state.parts, model)
        return http.post("/v1/jobs", json=uploads.job_spec(model)).json()["id"]


def finish(served, job_id: str, folder: Path, size: int) -> bytes:
    data = np.random.default_rng(size).bytes(size)
    uploads.finish_job(served.app.state.parts, job_id, folder, artifact=data)
    return data


def url(job_id: str) -> str:
    return f"/v1/jobs/{job_id}/artifacts/model.safetensors"


def is_bucket(served) -> bool:
    return served.app.state.parts.settings.store_url.startswith("s3:")


def spoil(served, data: bytes) -> str:
    """Flip the last bit of a blob behind the back of the service."""
    sha256 = hashlib.sha256(data).hexdigest()
    bad = data[:-1] + bytes([data[-1] ^ 1])
    store = served.app.state.parts.store.bytes
    if is_bucket(served):
        obstore.put(store._objects, f"blobs/{sha256[:2]}/{sha256}", bad)
    else:
        store.local_path(sha256).write_bytes(bad)
    return sha256


def state_of(served, sha256: str) -> str:
    with served.app.state.parts.sessions() as session:
        return session.scalars(select(Blob.state).where(Blob.sha256 == sha256)).one()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_the_client_gets_every_byte_whatever_the_store(served, job_id, tmp_path, size):
    data = finish(served, job_id, tmp_path, size)
    with Client(served.url, api_key="a-key") as client:
        [artifact] = client.artifacts(job_id)
        (tmp_path / "model.safetensors.part").write_bytes(data[: size // 2])
        path = client.download(job_id, artifact, tmp_path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_large_file_of_a_bucket_is_a_redirect_with_our_digest_on_it(served, job_id, tmp_path, method):
    data = finish(served, job_id, tmp_path, LARGE)
    with served.http() as http:
        answer = http.request(method, url(job_id), headers={"Authorization": "Bearer a-key"})
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"
        assert answer.status_code == (307 if is_bucket(served) else 200)
        if is_bucket(served):
            assert answer.headers["Cache-Control"] == "no-store"
            there = httpx.request(method, answer.headers["Location"], trust_env=False)
            assert there.status_code == 200
            assert there.headers["Content-Length"] == str(LARGE)
            assert there.content == (data if method == "GET" else b"")
        known = http.request(method, url(job_id), headers={"If-None-Match": answer.headers["ETag"]})
        assert known.status_code == 304


def test_a_range_of_a_small_file_comes_from_either_store(served, job_id, tmp_path):
    data = finish(served, job_id, tmp_path, SMALL)
    with served.http() as http:
        answer = http.get(url(job_id), headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (206, data[10:20])


def test_damaged_small_files_are_an_error_and_set_aside(served, job_id, tmp_path):
    data = finish(served, job_id, tmp_path, SMALL)
    sha256 = spoil(served, data)
    with served.http() as http:
        for headers in ({}, {"Range": "bytes=0-3"}, {}):
            answer = http.get(url(job_id), headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (500, "blob_damaged")
    assert state_of(served, sha256) == "damaged"
    # The same bytes, uploaded again, heal it.
    path = tmp_path / "again"
    path.write_bytes(data)
    served.app.state.parts.store.add_file(path)
    with served.http() as http:
        assert http.get(url(job_id)).content == data


def test_a_damaged_large_file_is_never_a_whole_answer(served, job_id, tmp_path):
    data = finish(served, job_id, tmp_path, LARGE)
    sha256 = spoil(served, data)
    with served.http() as http:
        if is_bucket(served):
            # Behind the redirect nobody but the client can compare: it does.
            with Client(served.url) as client, pytest.raises(DigestMismatch):
                client.download(job_id, client.artifacts(job_id)[0], tmp_path)
            return
        with pytest.raises(httpx.RemoteProtocolError):
            http.get(url(job_id))
        assert state_of(served, sha256) == "damaged"
        assert http.get(url(job_id)).json()["code"] == "blob_damaged"


def test_a_range_of_a_damaged_large_file_is_refused(served, job_id, tmp_path):
    data = finish(served, job_id, tmp_path, LARGE)
    if is_bucket(served):
        served.app.state.parts.settings.__dict__["download_redirect_bytes"] = LARGE + 1
    spoil(served, data)
    with served.http() as http:
        answer = http.get(url(job_id), headers={"Range": "bytes=0-3"})
    assert (answer.status_code, answer.json()["code"]) == (500, "blob_damaged")


def test_no_transaction_is_open_while_a_large_file_is_checked(served, job_id, tmp_path, monkeypatch):
    """Postgres would end it: to read a file of gigabytes takes longer than a session may be silent."""
    finish(served, job_id, tmp_path, LARGE)
    parts = served.app.state.parts
    parts.settings.__dict__["download_redirect_bytes"] = LARGE + 1
    in_use = []
    verify = parts.store.verify

    def watched(sha256):
        in_use.append(parts.engine.pool.checkedout())
        verify(sha256)

    monkeypatch.setattr(parts.store, "verify", watched)
    with served.http() as http:
        assert http.get(url(job_id), headers={"Range": "bytes=0-3"}).status_code == 206
    assert in_use == [0]


def test_a_file_of_another_size_than_its_row_says_is_damaged(served, job_id, tmp_path):
    data = finish(served, job_id, tmp_path, LARGE)
    sha256 = hashlib.sha256(data).hexdigest()
    store = served.app.state.parts.store.bytes
    if is_bucket(served):
        obstore.put(store._objects, f"blobs/{sha256[:2]}/{sha256}", data[:-1])
    else:
        store.local_path(sha256).write_bytes(data[:-1])
    with served.http() as http:
        assert http.get(url(job_id)).json()["code"] == "blob_damaged"
    assert state_of(served, sha256) == "damaged"


def test_an_upload_is_refused_while_the_store_is_full_and_taken_when_there_is_room(s3, tmp_path):
    with FailingProxy(s3.url) as proxy:
        given = s3.settings() | {"store_s3_endpoint": proxy.url}
        made = make_settings(tmp_path, f"sqlite:///{tmp_path / f'{uuid.uuid4().hex}.db'}", **given)
        with LiveServer(create_app(made)) as server, server.http() as http:
            proxy.fault = lambda h: h.command == "PUT" and answer_with(h, 507, "InsufficientStorage")
            refused = uploads.upload_model(http)
            assert (refused.status_code, refused.json()["code"]) == (507, "storage_full")
            assert refused.json()["retryable"] is True
            proxy.fault = lambda _: False
            assert uploads.upload_model(http).status_code == 201
            proxy.fault = lambda h: answer_with(h, 403, "AccessDenied")
            ready = http.get("/readyz")
            assert (ready.status_code, ready.json()["errors"][0]["pointer"]) == (503, "/store")
            proxy.fault = lambda _: False
            assert http.get("/readyz").status_code == 200


def test_a_url_that_ran_out_is_asked_for_again_and_no_key_goes_to_the_store(tmp_path):
    data = b"the file" * 1000
    sha256 = hashlib.sha256(data).hexdigest()
    artifact = {"name": "m", "sha256": sha256, "size_bytes": len(data)}

    def redirect_to(location):
        def answer(handler):
            handler.send_response(307)
            handler.send_header("Location", location)
            handler.end_headers()

        return answer

    def forbid(handler):
        handler.send_response(403)
        handler.end_headers()

    def send(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data)

    with (
        flaky(forbid, send) as (store_url, store_asked),
        flaky(redirect_to(store_url)) as (api_url, asked),
        Client(api_url, api_key="a-key") as client,
    ):
        path = client.download("job_x", artifact, tmp_path)
    assert path.read_bytes() == data
    assert [headers["Authorization"] for _, headers, _ in asked] == ["Bearer a-key"] * 2
    assert not any("Authorization" in headers for _, headers, _ in store_asked)


def test_a_redirect_to_something_else_than_http_is_not_followed(tmp_path):
    def to_a_file(handler):
        handler.send_response(302)
        handler.send_header("Location", "file:///etc/passwd")
        handler.end_headers()

    artifact = {"name": "m", "sha256": "0" * 64, "size_bytes": 1}
    with flaky(to_a_file) as (api_url, _), Client(api_url) as client, pytest.raises(Unreachable):
        client.download("job_x", artifact, tmp_path)


def test_reading_says_which_digest_was_found(served, job_id, tmp_path):
    data = finish(served, job_id, tmp_path, SMALL)
    sha256 = spoil(served, data)
    bad = hashlib.sha256(data[:-1] + bytes([data[-1] ^ 1])).hexdigest()
    with pytest.raises(Exception, match=f"{sha256} have the digest {bad}"):
        reading.verify(served.app.state.parts.store.bytes, sha256)
