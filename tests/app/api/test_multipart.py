"""Uploads as bytes on a wire: limits, broken bodies, clients that go away, a disk without room."""

import errno
import json
import os
import socket
import time
from uuid import uuid4

import pytest
from sqlalchemy import event

from tests.app.conftest import LIMIT_BYTES, make_settings
from tests.support import uploads
from tests.support.live import ApiProcess

DATABASES = ("sqlite",)  # another one makes no difference here

MANIFEST = json.dumps({"name": "n", "format": "safetensors", "architecture": uploads.ARCHITECTURE}).encode()
TYPE = {"Content-Type": "multipart/form-data; boundary=B"}


def part(name: str, data: bytes, *, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + data + b"\r\n"


MODEL = part("file", uploads.model_bytes(), filename="m")
GOOD = part("manifest", MANIFEST) + MODEL + b"--B--\r\n"


def incoming(parts) -> list:
    return list((parts.store.bytes.root / "incoming").iterdir())


def test_the_good_body_is_taken_whatever_the_pieces_it_comes_in(live):
    with live.http() as http:
        for size in (1_000, 65_537, len(GOOD)):
            pieces = (GOOD[i : i + size] for i in range(0, len(GOOD), size))
            answer = http.post("/v1/models", content=pieces, headers=TYPE)
            assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_multipart"),
        (b"hello", 400, "malformed_multipart"),
        (GOOD[:-20], 400, "malformed_multipart"),
        (part("manifest", MANIFEST) + b"--B--\r\n", 422, "invalid_upload"),
        (MODEL + b"--B--\r\n", 422, "invalid_upload"),
        (part("manifest", MANIFEST) * 2 + MODEL + b"--B--\r\n", 422, "invalid_upload"),
        (part("manifest", MANIFEST) + part("fiel", b"x", filename="m") + b"--B--\r\n", 422, "invalid_upload"),
        (part("manifest", MANIFEST) + MODEL * 2 + b"--B--\r\n", 422, "invalid_upload"),
        (part("manifest", MANIFEST) + part("file", b"x") + b"--B--\r\n", 422, "invalid_upload"),
        (
            part("manifest", MANIFEST) + part("file", b"x", filename="a\0") + b"--B--\r\n",
            422,
            "invalid_upload",
        ),
        (part("manifest", b"x" * 70_000) + MODEL + b"--B--\r\n", 413, "too_large"),
        (part("manifest", b"{") + MODEL + b"--B--\r\n", 400, "malformed_json"),
        (b"--B\r\n" + b"X: y\r\n" * 20 + b"\r\n\r\n--B--\r\n", 400, "malformed_multipart"),
    ],
)
def test_a_broken_body_is_refused_and_leaves_nothing(client, parts, body, status, code):
    answer = client.post("/v1/models", content=body, headers=TYPE)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert incoming(parts) == []


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 415),
        ("multipart/form-data", 400),
        (f"multipart/form-data; boundary={'x' * 71}", 400),
    ],
)
def test_another_media_type_is_refused(client, content_type, status):
    answer = client.post("/v1/models", content=GOOD, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_an_upload_over_the_limit_is_refused_by_its_length_before_it_is_sent(live):
    head = "POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as wire:
        wire.sendall(f"{head}Content-Length: {10**12}\r\nExpect: 100-continue\r\n\r\n".encode())
        answer = wire.recv(65_536).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert str(LIMIT_BYTES) in answer


def test_an_upload_over_the_limit_without_a_length_is_refused_on_the_way(live, parts):
    def body():
        yield part("manifest", MANIFEST) + part("file", b"", filename="m")[:-2]
        for _ in range(200):
            yield b"x" * 65_536

    with live.http() as http:
        answer = http.post("/v1/models", content=body(), headers=TYPE)
    assert answer.status_code == 413
    assert str(LIMIT_BYTES) in answer.json()["detail"]
    assert incoming(parts) == []


def test_a_client_that_goes_away_leaves_nothing(live, parts):
    head = "POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as wire:
        wire.sendall(f"{head}Content-Length: {3_000_000}\r\n\r\n".encode())
        wire.sendall(part("manifest", MANIFEST) + part("file", b"x" * 2_000_000, filename="m"))
        until(lambda: incoming(parts))
    until(lambda: not incoming(parts))
    with live.http() as http:
        assert http.get("/livez").status_code == 200


def until(question) -> None:
    deadline = time.monotonic() + 10.0
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_disk_is_507_and_leaves_nothing(client, parts, monkeypatch):
    # The edge is the operating system: its write is what says that there is no room.
    real_fdopen = os.fdopen

    class FullDisk:
        def __init__(self, file):
            self._file = file

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(self._file, name)

    monkeypatch.setattr(os, "fdopen", lambda *args, **kwargs: FullDisk(real_fdopen(*args, **kwargs)))
    answer = uploads.upload_model(client)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert (answer.json()["retryable"], answer.headers["Retry-After"]) == (True, "60")
    monkeypatch.undo()
    assert incoming(parts) == []
    assert uploads.upload_model(client).status_code == 201


def test_a_large_upload_is_never_held_in_memory(tmp_path):
    settings = make_settings(
        tmp_path, f"sqlite:///{tmp_path / 'secateur.db'}", max_upload_bytes=10**9, port=0
    )

    def body():
        yield part("manifest", MANIFEST) + part("file", b"", filename="m")[:-2]
        for _ in range(100):
            yield b"x" * 2_000_000
        yield b"\r\n--B--\r\n"

    with ApiProcess(settings) as api:
        before = api.peak_memory_bytes()
        answer = api.http.post("/v1/models", content=body(), headers=TYPE)
        assert answer.json()["code"] == "invalid_header"
        assert api.peak_memory_bytes() - before < 30_000_000


def test_no_transaction_is_open_while_an_upload_is_checked_and_made_durable(client, parts, monkeypatch):
    order = []
    real_fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("durable"), real_fsync(handle)))
    for name in ("begin", "commit", "rollback"):
        event.listen(parts.engine, name, lambda _, name=name: order.append(name))
    answer = uploads.upload_model(client, headers={"Idempotency-Key": uuid4().hex})
    assert answer.status_code == 201
    before = order[: order.index("durable")]
    # The bytes are announced first, in a short transaction of its own.
    assert before.count("begin") == before.count("commit") + before.count("rollback") == 1
    assert "begin" in order[order.index("durable") :]
