"""Whatever goes wrong, the answer is a problem (RFC 9457) and the service lives on."""

import json
import logging
import os
import resource
import socket

import pytest
from sqlalchemy import event
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.services import health
from tests.support import uploads
from tests.support.uploads import job_spec

FIELDS = {"type", "title", "status", "detail", "instance", "code", "request_id", "retryable", "errors"}
JSON = {"Content-Type": "application/json"}


def check_problem(answer, status: int, code: str) -> dict:
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert set(problem) == FIELDS
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"].endswith(code)
    assert problem["request_id"] == answer.headers["Request-Id"]
    return problem


@pytest.mark.parametrize(
    ("method", "url", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/jobs/", 404, "not_found"),
        ("GET", "/v1/jobs/job_x", 404, "not_found"),
        ("GET", f"/v1/jobs/job_{'0' * 26}", 404, "not_found"),
        ("GET", "/v1/jobs/job_%00", 404, "not_found"),
        ("GET", "/v1/jobs/job_%ed%a0%80", 404, "not_found"),
        ("GET", f"/v1/models/job_{'0' * 26}", 404, "not_found"),
        ("GET", f"/v1/datasets/dst_{'0' * 26}", 404, "not_found"),
        ("GET", f"/v1/jobs/job_{'0' * 26}/events", 404, "not_found"),
        ("GET", f"/v1/jobs/job_{'0' * 26}/report", 404, "not_found"),
        ("GET", f"/v1/jobs/job_{'0' * 26}/masks/a%00b", 404, "not_found"),
        ("POST", f"/v1/jobs/job_{'0' * 26}/cancel", 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("PUT", "/livez", 405, "method_not_allowed"),
        ("POST", "/v1/jobs", 415, "unsupported_media_type"),
        ("POST", "/v1/models", 415, "unsupported_media_type"),
        ("GET", "/livez?x=1", 422, "invalid_parameter"),
    ],
)
def test_each_kind_of_refusal_is_a_problem(client, method, url, status, code):
    problem = check_problem(client.request(method, url), status, code)
    assert problem["instance"].startswith("/")


def test_a_method_that_is_not_there_names_those_that_are(client, job_id):
    assert client.delete("/v1/jobs").headers["Allow"] == "GET, POST"
    assert client.put(f"/v1/jobs/{job_id}").headers["Allow"] == "GET"
    assert client.put(f"/v1/jobs/{job_id}/artifacts/x").headers["Allow"] == "GET, HEAD"
    assert client.put(f"/v1/jobs/{job_id}/artifacts/huggingface/config.json").headers["Allow"] == "GET, HEAD"
    assert client.put(f"/v1/jobs/{job_id}/masks/a/b").headers["Allow"] == "GET"
    assert "GET" in client.put("/openapi.json").headers["Allow"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json; charset=latin-1", "application/jsonx"]
)
def test_a_body_of_another_type_is_refused(client, content_type):
    answer = client.post("/v1/jobs", content=b"{}", headers={"Content-Type": content_type})
    check_problem(answer, 415, "unsupported_media_type")


def test_a_compressed_body_is_refused_and_not_unpacked(client):
    check_problem(
        client.post("/v1/jobs", content=b"\x1f\x8b", headers=JSON | {"Content-Encoding": "gzip"}),
        415,
        "unsupported_media_type",
    )


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b"[" * 19_000, 400, "malformed_json"),
        (b"[" * 100_000, 422, "invalid_spec"),
        (b'{"a":' * 19_000 + b"1" + b"}" * 19_000, 400, "malformed_json"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 422, "invalid_spec"),
        (b'{"seed": ' + b"9" * 100_000 + b"}", 400, "malformed_json"),
        ('{"name": "x"}'.encode("utf-16"), 400, "malformed_json"),
        (b'{"name": "\xff"}', 400, "malformed_json"),
        (b"[]", 422, "invalid_spec"),
        (b"null", 422, "invalid_spec"),
        (b'"text"', 422, "invalid_spec"),
        (b'{"name": "\\ud800"}', 422, "invalid_spec"),
        (b'{"name": "\\u0000"}', 422, "invalid_spec"),
        (b'{"\\ud800": 1}', 422, "invalid_spec"),
        (b'{"name": "a", "name": "b"}', 422, "invalid_spec"),
        (b'{"seed": ' + b"9" * 4_000 + b"}", 422, "invalid_spec"),
        (b'{"seed": 1e400}', 422, "invalid_spec"),
        (b"[" * 40 + b"]" * 40, 422, "invalid_spec"),
        (b'{"x": "' + b"a" * 1_100_000 + b'"}', 413, "too_large"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else str(value),
)
@pytest.mark.parametrize("url", ["/v1/jobs", "/v1/jobs/validate"])
def test_a_hostile_body_is_refused_and_the_service_lives_on(client, url, body, status, code):
    answer = client.post(url, content=body, headers=JSON)
    if url.endswith("validate") and status == 422:
        assert (answer.status_code, answer.json()["valid"]) == (200, False)
    else:
        check_problem(answer, status, code)
    assert client.get("/livez").status_code == 200


def test_texts_that_only_look_dangerous_come_back_as_they_were(client, model_id):
    name = "'; DROP TABLE jobs; -- \u202e <script> 𝕏 \x1b[31m"
    job = client.post("/v1/jobs", json=job_spec(model_id, name=name, labels={"x": name})).json()
    found = client.get(f"/v1/jobs/{job['id']}").json()
    assert (found["name"], found["labels"]["x"]) == (name, name)


def test_a_request_id_of_the_client_is_kept_and_another_one_is_replaced(client):
    assert client.get("/livez", headers={"Request-Id": "ci.42:a-b"}).headers["Request-Id"] == "ci.42:a-b"
    for bad in ("a b", "x" * 200, "a\x7fb", ""):
        assert client.get("/livez", headers={"Request-Id": bad}).headers["Request-Id"].startswith("req_")
    assert client.get("/livez").headers["Request-Id"] != client.get("/livez").headers["Request-Id"]


def test_a_commit_that_fails_is_an_error_and_not_a_promise(client, parts, model_id, caplog):
    def fail(_):
        raise RuntimeError("the disk is gone")

    event.listen(parts.engine, "commit", fail)
    try:
        with caplog.at_level(logging.ERROR):
            answer = client.post("/v1/jobs", json=job_spec(model_id), headers={"Request-Id": "lost"})
    finally:
        event.remove(parts.engine, "commit", fail)
    problem = check_problem(answer, 500, "internal_error")
    assert "disk" not in problem["detail"]
    assert any(getattr(record, "request_id", None) == "lost" for record in caplog.records)
    assert client.post("/v1/jobs", json=job_spec(model_id)).status_code == 202


def test_a_database_that_does_not_answer_is_503_and_may_be_tried_again(client, parts):
    def fail(*_):
        raise OperationalError("SELECT", {}, Exception("database is locked"))

    event.listen(parts.engine, "before_cursor_execute", fail)
    try:
        answer = client.get("/v1/jobs")
        ready = client.get("/readyz")
    finally:
        event.remove(parts.engine, "before_cursor_execute", fail)
    assert check_problem(answer, 503, "unavailable")["retryable"] is True
    assert answer.headers["Retry-After"] == "1"
    problem = check_problem(ready, 503, "unavailable")
    assert [item["code"] for item in problem["errors"]] == ["database_unreachable"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PoolTimeout("QueuePool limit of size 10 overflow 20 reached"), 503, "unavailable"),
        (InterfaceError("SELECT", {}, Exception("the connection is closed")), 503, "unavailable"),
        (OperationalError("INSERT", {}, Exception("database or disk is full")), 507, "storage_full"),
    ],
)
def test_each_way_in_which_a_database_is_away_may_be_tried_again(client, parts, error, status, code):
    def fail(*_):
        raise error

    event.listen(parts.engine, "before_cursor_execute", fail)
    try:
        answer = client.get("/v1/jobs")
    finally:
        event.remove(parts.engine, "before_cursor_execute", fail)
    assert check_problem(answer, status, code)["retryable"] is True


def test_a_server_without_descriptors_is_503_and_takes_the_same_upload_later(client):
    assert client.get("/v1/models").status_code == 200  # its connection to the database is open
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        answer = uploads.upload_model(client)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    problem = check_problem(answer, 503, "unavailable")
    assert "file descriptors" in problem["detail"]
    assert answer.headers["Retry-After"] == "1"
    assert uploads.upload_model(client).status_code == 201


def test_a_job_is_visible_before_its_creation_is_answered(client, parts, model_id):
    """The order on the wire: the commit, then the first byte of the answer."""
    order = []
    event.listen(parts.engine, "commit", lambda _: order.append("commit"), once=True)
    app = client.app

    async def watch(scope, receive, send):
        async def watched(message):
            if message["type"] == "http.response.start" and scope["path"] == "/v1/jobs":
                order.append("answer")
            await send(message)

        await app(scope, receive, watched)

    client._transport.app = watch
    try:
        assert client.post("/v1/jobs", json=job_spec(model_id)).status_code == 202
    finally:
        client._transport.app = app
    assert order == ["commit", "answer"]


def test_a_service_is_ready_with_database_schema_and_store(client, parts, monkeypatch):
    assert client.get("/readyz").json() == {"status": "ok"}
    incoming = parts.store.bytes.root / "incoming"
    incoming.rename(parts.store.bytes.root / "away")
    try:
        problem = check_problem(client.get("/readyz"), 503, "unavailable")
    finally:
        (parts.store.bytes.root / "away").rename(incoming)
    assert [item["pointer"] for item in problem["errors"]] == ["/store"]
    assert client.get("/livez").status_code == 200


def test_a_service_over_an_old_schema_is_not_ready(serve):
    client = serve()
    with client.app.state.parts.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    problem = check_problem(client.get("/readyz"), 503, "unavailable")
    assert [item["pointer"] for item in problem["errors"]] == ["/schema"]


def test_the_wire_itself_may_be_broken(live):
    broken = b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for request in (b"GET / HTTP/9.9\r\n\r\n", b"\0\0\0\r\n\r\n", broken):
        with socket.create_connection(("127.0.0.1", live.port), timeout=5) as wire:
            wire.sendall(request)
            wire.recv(4096)
    with live.http() as http:
        assert http.get("/livez").status_code == 200


def test_two_lengths_of_a_body_are_refused(live):
    with socket.create_connection(("127.0.0.1", live.port), timeout=5) as wire:
        head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        wire.sendall(head + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert wire.recv(4096).startswith(b"HTTP/1.1 400")


def test_health_says_ready_only_when_the_store_takes_a_byte(parts):
    health.check_ready(parts.engine, parts.store, parts.broker)
    assert not list((parts.store.bytes.root / "incoming").iterdir())


def test_an_upload_may_not_be_json(client):
    answer = client.post("/v1/models", content=json.dumps({"name": "x"}), headers=JSON)
    check_problem(answer, 415, "unsupported_media_type")
    assert uploads.upload_model(client).status_code == 201
