"""The client against a real socket: it resumes, repeats what is safe, and believes no byte unchecked."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest

from app.client import Client
from app.client_errors import (
    ApiError,
    DigestMismatch,
    DownloadRefused,
    InvalidApiKey,
    Unreachable,
    WaitTimeout,
)
from app.client_retries import send_until_answered
from app.core import jobs
from tests.support import uploads
from tests.support.huggingface import make_bert_folder
from tests.support.uploads import MASK_NAME, job_spec

DATABASES = ("sqlite",)  # another one makes no difference here


@pytest.fixture
def api(live) -> Iterator[Client]:
    with Client(live.url) as client:
        yield client


@pytest.fixture
def files(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(uploads.model_bytes())
    for name in ("train", "test"):
        (tmp_path / f"{name}.npz").write_bytes(uploads.npz_bytes())
    return tmp_path


@contextmanager
def flaky(*answers) -> Iterator[tuple[str, list]]:
    """Serve canned answers, one a request, the last for ever; yields the URL and what was asked."""
    asked: list = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            length = int(self.headers.get("Content-Length", 0))
            asked.append((self.path, dict(self.headers), self.rfile.read(length)))
            answers[min(len(asked), len(answers)) - 1](self)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def answer(status: int, body: bytes, length: int | None = None, **headers: str):
    def send(handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return send


def drop(handler) -> None:
    handler.close_connection = True


def test_of_a_folder_only_what_belongs_to_a_model_is_sent(api, tmp_path):
    folder = make_bert_folder(tmp_path / "bert")
    (folder / "README.md").write_text("about it")
    (folder / "pytorch_model.bin").write_bytes(b"")
    (folder / "model-00001-of-00001.safetensors").write_bytes(b"")
    model = api.upload_model(folder, {})
    assert (model["name"], model["format"], model["status"]) == ("bert", "huggingface", "validating")


def test_everything_from_upload_to_download(api, parts, files, tmp_path):
    model = api.upload_model(files / "net.safetensors", {"architecture": uploads.ARCHITECTURE})
    assert (model["name"], model["status"]) == ("net", "validating")
    splits = {"train": files / "train.npz", "test": files / "test.npz"}
    dataset = api.upload_dataset(splits, {"name": "digits"})
    uploads.make_ready(parts, model["id"])
    assert api.wait_for_model(model["id"])["status"] == "ready"
    assert api.validate(job_spec(model["id"], dataset["id"]))["valid"] is True
    job = api.create_job(job_spec(model["id"], dataset["id"]))
    uploads.finish_job(parts, job["id"], tmp_path)
    events: list[dict] = []
    assert api.wait(job["id"], on_event=events.append)["status"] == "succeeded"
    assert [e["type"] for e in events][-1] == "job.succeeded"
    assert api.wait(job["id"])["status"] == "succeeded"
    assert api.report(job["id"])["report_schema"] == "1.0"
    assert [mask["name"] for mask in api.masks(job["id"])] == [MASK_NAME]
    assert len(api.mask(job["id"], MASK_NAME)) == 300 * 16 // 8
    assert [layer["name"] for layer in api.layers(job["id"])] == [MASK_NAME]
    [artifact] = api.artifacts(job["id"])
    assert api.download(job["id"], artifact, tmp_path).read_bytes() == b"0123456789"
    assert "magnitude" in [entry["name"] for entry in api.catalog()["criteria"]]
    assert api.cancel(job["id"])["status"] == "succeeded"


def test_a_refusal_is_an_error_with_its_problem(api):
    with pytest.raises(ApiError) as caught:
        api.create_job({"recipe": {}})
    assert (caught.value.status, caught.value.code) == (422, "invalid_spec")
    assert {item["pointer"] for item in caught.value.problem["errors"]} == {"/model_id", "/recipe/target"}


def test_one_key_gives_one_job(api, model_id):
    first = api.create_job(job_spec(model_id), idempotency_key="client-key-1")
    assert api.create_job(job_spec(model_id), idempotency_key="client-key-1")["id"] == first["id"]
    assert api.create_job(job_spec(model_id))["id"] != first["id"]


def test_a_wait_ends_with_the_job_or_with_the_time(api, parts, job_id):
    for on_event in (None, lambda _: None):
        with pytest.raises(WaitTimeout):
            api.wait(job_id, timeout_s=0.5, on_event=on_event)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.wait, job_id, timeout_s=20)
        time.sleep(0.2)
        lease = uploads.start_job(parts, job_id)
        with parts.sessions.begin() as session:
            jobs.succeed(session, lease, gates={"outcome": "not_evaluated", "results": []})
        assert waiting.result(10)["status"] == "succeeded"


def test_a_request_that_got_no_answer_is_sent_again_under_the_same_key():
    job = json.dumps({"id": "job_1"}).encode()
    busy = answer(503, b'{"detail": "wait"}', Retry_After="0")
    with flaky(drop, busy, answer(202, job)) as (url, asked), Client(url) as client:
        assert client.create_job({"a": 1})["id"] == "job_1"
    assert len(asked) == 3
    assert len({headers["Idempotency-Key"] for _, headers, _ in asked}) == 1
    assert {body for _, _, body in asked} == {b'{"a":1}'}


def test_an_upload_that_got_no_answer_is_sent_again_whole(files):
    with flaky(drop, answer(201, b'{"id": "mdl_1"}')) as (url, asked), Client(url) as client:
        client.upload_model(files / "net.safetensors", {})
    assert all(uploads.model_bytes() in body for _, _, body in asked)


IN_FLIGHT = answer(409, b'{"code":"idempotency_in_flight","detail":"it still runs"}', Retry_After="0")


def test_a_request_still_in_flight_is_waited_for_however_often_that_is_said():
    made = answer(202, b'{"id": "job_1"}')
    with flaky(drop, *[IN_FLIGHT] * 10, made) as (url, asked), Client(url) as client:
        assert client.create_job({})["id"] == "job_1"
    assert len({headers["Idempotency-Key"] for _, headers, _ in asked}) == 1


def test_a_request_that_stays_in_flight_is_one_that_got_no_answer():
    with flaky(IN_FLIGHT) as (url, asked), pytest.raises(Unreachable, match="it still runs"):
        send_until_answered(lambda: httpx.post(url), url, in_flight_s=0.2)
    assert len(asked) > 1


@pytest.mark.parametrize("when", ["Wed, 21 Oct 2015 07:28:00 GMT", "-1", "nan", "0.1", "soon", ""])
def test_a_retry_after_may_be_a_date_or_nonsense(when):
    busy = answer(503, b"{}", Retry_After=when)
    with flaky(busy, answer(200, b'{"id": "job_1"}')) as (url, _), Client(url) as client:
        assert client.job("job_1")["id"] == "job_1"


@pytest.mark.parametrize(
    "other",
    [answer(200, b"<html>Sign in</html>"), answer(200, b'["a"]'), answer(204, b"")],
    ids=["a page", "other JSON", "nothing"],
)
def test_an_answer_that_no_service_gives_is_told_as_such(other):
    with (
        flaky(other) as (url, _),
        Client(url) as client,
        pytest.raises(Unreachable, match=f"{url}/v1/catalog answers, but is no Secateur service"),
    ):
        client.catalog()


def test_a_redirect_is_told_with_where_it_leads():
    away = answer(302, b"", Location="https://login.example.com/start?token=secret")
    with flaky(away) as (url, _), Client(url) as client, pytest.raises(Unreachable) as caught:
        client.catalog()
    assert "https://login.example.com/start" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_another_conflict_is_not_waited_for():
    conflict = answer(409, b'{"code":"not_ready"}', Retry_After="1")
    with flaky(conflict) as (url, asked), Client(url) as client, pytest.raises(ApiError):
        client.report("job_1")
    assert len(asked) == 1


def test_a_service_that_is_not_there_is_unreachable():
    with Client("http://127.0.0.1:9") as client, pytest.raises(Unreachable):
        client.job("job_1")


def test_a_service_that_cannot_now_is_unreachable_after_some_attempts():
    busy = answer(503, b"{}", Retry_After="0")
    with flaky(busy) as (url, asked), Client(url) as client, pytest.raises(Unreachable):
        client.catalog()
    assert len(asked) > 2


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", ""])
def test_a_url_that_is_none_is_said_to_be_none(url):
    with pytest.raises(httpx.InvalidURL):
        Client(url)


DATA = np.random.default_rng(0).bytes(3_000_000)
ARTIFACT = {"name": "model.safetensors", "sha256": hashlib.sha256(DATA).hexdigest(), "size_bytes": len(DATA)}


@pytest.mark.parametrize("between", [[], [answer(503, b"<html>")]], ids=["", "503"])
def test_a_download_that_broke_off_goes_on_where_it_stopped(tmp_path, between):
    first = answer(200, DATA[:1_000_000], length=len(DATA))
    rest = answer(206, DATA[1_000_000:], Content_Range="bytes 1000000-2999999/3000000")
    with flaky(first, *between, rest) as (url, asked), Client(url) as client:
        assert client.download("job_1", ARTIFACT, tmp_path).read_bytes() == DATA
    for _, headers, _ in asked[1:]:
        assert headers["Range"] == "bytes=1000000-"
        assert headers["If-Range"] == f'"{ARTIFACT["sha256"]}"'


def test_a_download_that_broke_off_yesterday_goes_on_today(api, parts, job_id, tmp_path):
    uploads.finish_job(parts, job_id, tmp_path, artifact=DATA)
    [artifact] = api.artifacts(job_id)
    (tmp_path / "model.safetensors.part").write_bytes(DATA[:1_234_567])
    assert api.download(job_id, artifact, tmp_path).read_bytes() == DATA
    assert not (tmp_path / "model.safetensors.part").exists()


def test_a_download_of_other_bytes_is_refused_and_deleted(tmp_path):
    with (
        flaky(answer(200, DATA[:-1] + b"?")) as (url, _),
        Client(url) as client,
        pytest.raises(DigestMismatch),
    ):
        client.download("job_1", ARTIFACT, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "..", "", "a/b", "a\\b", ".bashrc"])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path, name):
    with Client("http://127.0.0.1:9") as client, pytest.raises(DownloadRefused):
        client.download("job_1", ARTIFACT | {"name": name}, tmp_path)


def test_the_key_goes_with_every_request():
    refuse = answer(401, b'{"code": "unauthorized"}')
    with flaky(refuse) as (url, asked), Client(url, "secret") as client, pytest.raises(ApiError) as caught:
        client.catalog()
    assert caught.value.status == 401
    assert asked[0][1]["Authorization"] == "Bearer secret"


def test_a_key_out_of_a_file_goes_without_its_last_newline():
    with flaky(answer(200, b"{}")) as (url, asked), Client(url, "secret\n") as client:
        client.catalog()
    assert asked[0][1]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("key", ["sec\nret", "sec ret", "s\u00e9cret"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_told(key):
    with pytest.raises(InvalidApiKey) as caught:
        Client("http://127.0.0.1:9", key)
    assert "ret" not in str(caught.value)
