"""Faults of docs/faults.md one at a time, where a seeded schedule hits them rarely or cannot see enough."""

import json
import os
import random
import socket
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from sqlalchemy import func, select

from app.core.storage import open_store
from app.core.tables import IdempotencyKey, Job
from tests.chaos import broker_faults, light_job
from tests.support import digits
from tests.support.service import wait_for

CLOCK = Path(__file__).parent / "clock"
TEN_YEARS_S = 10 * 365 * 86_400
MANIFEST = json.dumps({"name": "digits net", "format": "safetensors", "architecture": digits.ARCHITECTURE})


@pytest.fixture
def key():
    return uuid.uuid4().hex


def address(bench):
    parts = urlsplit(bench.site.cluster.urls[0])
    return parts.hostname, parts.port


def count(bench, query):
    with bench.site.cluster.engine.connect() as connection:
        return connection.scalar(query)


def kill_api(bench):
    for api in bench.site.cluster.find("api"):
        api.kill()


@contextmanager
def clocks_off(bench, off_s):
    """Start the workers and the relays anew with a wrong clock, and once more with a right one afterwards."""
    cluster = bench.site.cluster
    changed = [member for member in cluster.members if member.name.startswith(("worker", "relay"))]
    path = changed[0].env["PYTHONPATH"]
    for off, import_path in ((off_s, f"{CLOCK}{os.pathsep}{path}"), (0, path)):
        for member in changed:
            member.env |= {"PYTHONPATH": import_path, "CHAOS_CLOCK_S": str(off)}
            member.process.kill()
        if off:
            yield [member for member in changed if member.name.startswith("worker")]


def test_f1_an_answer_that_was_lost_after_the_commit_is_given_again(chaos_bench, key):
    body = json.dumps(chaos_bench.spec(key)).encode()
    head = (
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(address(chaos_bench)) as raw:
        raw.sendall(head.encode() + body)
        committed = select(func.count()).where(IdempotencyKey.key == key)
        wait_for(lambda: count(chaos_bench, committed), "the commit")
        kill_api(chaos_bench)
    job_id = chaos_bench.submit(key)
    made = select(func.count()).where(Job.labels[light_job.KEY_LABEL].as_string() == key)
    assert count(chaos_bench, made) == 1
    assert chaos_bench.finish(job_id)["status"] == "succeeded"
    assert chaos_bench.judge() == []


def test_f3_an_api_that_dies_in_the_middle_of_an_upload_keeps_nothing_of_it(chaos_bench, key):
    # Much more than the API takes at once, and half of what is announced.
    boundary, data = "xyz", bytes(4 << 20)
    parts = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="manifest"\r\n\r\n{MANIFEST}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="m.safetensors"\r\n\r\n'
    ).encode()
    head = (
        "POST /v1/models HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\n"
        f"Content-Length: {len(parts) + 2 * len(data)}\r\n\r\n"
    )
    store = open_store(chaos_bench.site.cluster.settings)
    with socket.create_connection(address(chaos_bench)) as raw:
        raw.sendall(head.encode() + parts + data)
        wait_for(lambda: any((store.root / "incoming").iterdir()), "the upload to begin")
        kill_api(chaos_bench)
    whole = ("m.safetensors", digits.model_bytes())
    upload = {"data": {"manifest": MANIFEST}, "files": {"file": whole}}
    answer = chaos_bench.insist("POST", "/v1/models", headers={"Idempotency-Key": key}, **upload)
    assert answer.status_code == 201
    store.drop_abandoned(0.0)
    assert list((store.root / "incoming").iterdir()) == []
    assert chaos_bench.judge() == []


def test_f10_ten_hints_at_once_start_one_attempt(chaos_bench, key):
    job_id = chaos_bench.submit(key, steps=100)
    chaos_bench.wait_for_progress(job_id)
    assert broker_faults.duplicate_hints(chaos_bench.site, random.Random(0)) is not None
    job = chaos_bench.finish(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)


def test_f14_an_upload_without_room_is_507_and_works_when_there_is_room(chaos_bench, key):
    (api,) = chaos_bench.site.cluster.find("api")
    before = api.rlimit(psutil.RLIMIT_FSIZE)
    upload = {"data": {"manifest": MANIFEST}, "files": {"file": ("m.safetensors", digits.model_bytes())}}
    api.rlimit(psutil.RLIMIT_FSIZE, (1000, before[1]))
    full = chaos_bench.insist("POST", "/v1/models", **upload)
    api.rlimit(psutil.RLIMIT_FSIZE, before)
    again = chaos_bench.insist("POST", "/v1/models", **upload)
    assert (full.status_code, full.json()["code"]) == (507, "storage_full")
    assert again.status_code == 201


@pytest.mark.parametrize("off_s", [TEN_YEARS_S, -TEN_YEARS_S])
def test_f16_clocks_ten_years_off_change_nothing(chaos_bench, key, off_s):
    with clocks_off(chaos_bench, off_s) as workers:
        job_id = chaos_bench.submit(key)
        job = chaos_bench.finish(job_id)
        told = [json.loads(worker.log.read_text().splitlines()[-1])["at"] for worker in workers]
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    shown = [datetime.fromisoformat(moment) - datetime.now(UTC) for moment in told]
    assert all(abs(off.total_seconds() - off_s) < 86_400 for off in shown), told
    assert chaos_bench.judge() == []


@pytest.mark.parametrize("way", ["exit", "segfault", "nonsense"])
def test_f17_a_job_that_always_kills_its_process_ends_after_its_attempts(chaos_bench, key, way):
    job = chaos_bench.finish(chaos_bench.submit(key, way=way, max_attempts=2))
    assert (job["status"], job["error"]["code"], job["attempt"]) == ("failed", "crash_loop", 2)


def test_f26_an_api_without_descriptors_recovers_by_itself(chaos_bench, key):
    (api,) = chaos_bench.site.cluster.find("api")
    before = api.rlimit(psutil.RLIMIT_NOFILE)
    api.rlimit(psutil.RLIMIT_NOFILE, (3, before[1]))
    with socket.create_connection(address(chaos_bench)):
        api.rlimit(psutil.RLIMIT_NOFILE, before)
    assert chaos_bench.finish(chaos_bench.submit(key))["status"] == "succeeded"
    assert chaos_bench.site.cluster.find("api") == [api]
