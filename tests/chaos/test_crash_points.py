"""Every named crash point is hit once, and the oracle finds nothing wrong afterwards."""

import json
import os
import uuid
from pathlib import Path

import pytest

from tests.chaos.crash_points import POINTS, asleep, crash_at
from tests.support import digits
from tests.support.service import wait_for
from worker.protocol import INPUT_NAME

MANIFEST = json.dumps({"name": "digits net", "format": "safetensors", "architecture": digits.ARCHITECTURE})


def crash(bench, name, trigger):
    victim = crash_at(bench.site, POINTS[name], trigger)
    assert victim.startswith(POINTS[name].role)


@pytest.fixture
def key():
    return uuid.uuid4().hex


def test_a_request_whose_api_died_before_the_commit_makes_one_job(chaos_bench, key):
    crash(chaos_bench, "api: job inserted, not committed", lambda: chaos_bench.submit(key))
    assert chaos_bench.finish(chaos_bench.submit(key))["status"] == "succeeded"
    assert chaos_bench.judge() == []


def test_an_upload_whose_api_died_before_the_row_leaves_no_bytes_behind(chaos_bench, key):
    upload = {"data": {"manifest": MANIFEST}, "headers": {"Idempotency-Key": key}}
    data = digits.model_bytes()

    def send():
        files = {"file": ("model.safetensors", data)}
        answer = chaos_bench.insist("POST", "/v1/models", files=files, **upload)
        assert answer.status_code == 201, answer.text

    crash(chaos_bench, "api: bytes in the store, no row yet", send)
    assert chaos_bench.judge() == []


def test_a_cancel_whose_api_died_before_the_commit_is_done_when_asked_again(chaos_bench, key):
    with asleep(chaos_bench.site, "worker"):
        job_id = chaos_bench.submit(key)
        point = "api: cancel noted, not committed"
        crash(chaos_bench, point, lambda: chaos_bench.insist("POST", f"/v1/jobs/{job_id}/cancel"))
    assert chaos_bench.finish(job_id)["status"] == "cancelled"
    assert chaos_bench.judge() == []


def test_a_hint_that_was_published_and_not_marked_is_only_published_again(chaos_bench, key):
    with asleep(chaos_bench.site, "relay") as wake:
        job_id = chaos_bench.submit(key)
        crash(chaos_bench, "relay: published, not marked", wake)
    assert chaos_bench.finish(job_id)["status"] == "succeeded"
    assert chaos_bench.judge() == []


def test_a_sweep_that_died_half_way_is_done_by_the_next(chaos_bench, key):
    job_id = chaos_bench.submit(key, steps=400)
    chaos_bench.wait_for_progress(job_id)

    def fall_silent():
        for worker in chaos_bench.site.cluster.find("worker"):
            worker.kill()

    # Asleep, so that on a slow machine the job does not come to its end before it is left alone.
    with chaos_bench.site.cluster.held("worker"), asleep(chaos_bench.site, "worker"):
        crash(chaos_bench, "relay: lease taken back, not committed", fall_silent)
    assert chaos_bench.finish(job_id)["status"] == "succeeded"
    assert chaos_bench.judge() == []


def test_a_claim_that_was_not_committed_costs_no_attempt(chaos_bench, key):
    crash(chaos_bench, "worker: claimed, not committed", lambda: chaos_bench.submit(key))
    (job_id,) = [f["job_id"] for f in chaos_bench.journal.read("created") if f["key"] == key]
    job = chaos_bench.finish(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert chaos_bench.judge() == []


def test_a_worker_that_died_between_claim_and_runner_costs_one_attempt(chaos_bench, key):
    with asleep(chaos_bench.site, "worker") as wake:
        job_id = chaos_bench.submit(key)
        # The runner's input is written after the claim: whoever opens a pipe to write waits for a reader.
        pipe = chaos_bench.site.cluster.settings.work_dir / job_id / INPUT_NAME
        pipe.parent.mkdir(parents=True)
        os.mkfifo(pipe)
        wake()
        wait_for(lambda: chaos_bench.job(job_id)["status"] == "running", "the claim")
        (owner,) = [w for w in chaos_bench.site.cluster.find("worker") if chaos_bench.site.running_jobs(w)]
        owner.kill()
        pipe.unlink()
    job = chaos_bench.finish(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    assert chaos_bench.judge() == []


def test_an_event_that_was_not_written_leaves_no_gap(chaos_bench, key):
    job_id = chaos_bench.submit(key, steps=200)
    chaos_bench.wait_for_progress(job_id)
    crash(chaos_bench, "worker: heard an event, not written", lambda: None)
    assert chaos_bench.finish(job_id)["status"] == "succeeded"
    assert chaos_bench.judge() == []


def test_artifacts_stored_without_a_result_are_stored_once_in_the_end(chaos_bench, key):
    ids = []
    point = "worker: artifacts stored, no result yet"
    crash(chaos_bench, point, lambda: ids.append(chaos_bench.submit(key)))
    # Whether the attempt had left a checkpoint by then, and so costs nothing, is for the oracle to judge.
    assert chaos_bench.finish(ids[0])["status"] == "succeeded"
    assert chaos_bench.judge() == []


def test_a_verdict_that_was_not_committed_is_found_again(chaos_bench):
    ids = []

    def send():
        with chaos_bench.http() as http:
            ids.append(digits.upload_model(http).raise_for_status().json()["id"])

    with asleep(chaos_bench.site, "worker") as wake:
        send()
        crash(chaos_bench, "worker: model checked, verdict not committed", wake)
    url = f"/v1/models/{ids[0]}"
    wait_for(lambda: chaos_bench.insist("GET", url).json()["status"] == "ready", "the check", within_s=120.0)
    assert chaos_bench.judge() == []


def test_every_crash_point_has_its_test():
    # crash() fails where the point is not reached, so a point that is named is a point that was hit.
    source = Path(__file__).read_text()
    assert [name for name in POINTS if source.count(f'"{name}"') != 1] == []
