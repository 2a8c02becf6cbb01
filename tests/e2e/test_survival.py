"""A job outlives its processes: a kill ends in the same bytes (of a worker on SQLite: test_embedded)."""

import psutil
import pytest

from tests.e2e.conftest import on_postgres
from tests.support.alive import is_alive
from tests.support.service import wait_for


@pytest.fixture(scope="module")
def undisturbed(bench):
    job_id = bench.submit()
    assert bench.finish(job_id)["status"] == "succeeded"
    return bench.digest(job_id)


def test_a_killed_runner_is_started_again_and_the_result_is_the_same(bench, undisturbed):
    job_id = bench.submit()
    bench.wait_for_event(job_id, "stage.started", stage="finetune")
    bench.service.kill_runner()
    job = bench.finish(job_id)
    assert job["status"] == "succeeded"
    assert sorted(bench.attempts_ended(job_id)) == ["crashed", "succeeded"]
    assert bench.digest(job_id) == undisturbed
    finished = [e for e in bench.events(job_id) if e["type"] == "stage.finished"]
    skipped = [e["stage"] for e in finished if e["data"]["skipped"]]
    assert skipped == ["load", "baseline", "prune"]


@on_postgres
def test_a_killed_worker_loses_no_job_and_its_runner_dies_with_it(bench, undisturbed):
    job_id = bench.submit()
    bench.wait_for_event(job_id, "stage.started", stage="finetune")
    runner = bench.service.runners()[0]
    bench.service.kill("worker")
    # Gone, or a zombie that its new parent has yet to collect.
    psutil.wait_procs([runner], timeout=60.0)
    assert not is_alive(runner)
    bench.service.start_one("worker")
    job = bench.finish(job_id)
    assert job["status"] == "succeeded"
    assert sorted(bench.attempts_ended(job_id)) == ["lost", "succeeded"]
    assert bench.digest(job_id) == undisturbed


@on_postgres
def test_a_cancelled_job_ends_and_leaves_no_process_but_its_weights(bench):
    job_id = bench.submit(epochs=500)
    bench.wait_for_event(job_id, "stage.started", stage="finetune")
    assert bench.http.post(f"/v1/jobs/{job_id}/cancel").json()["cancel_requested"] is True
    job = bench.finish(job_id, within_s=30.0)
    assert job["status"] == "cancelled"
    assert not bench.service.runners()
    artifacts = bench.http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    # None where the cancel came before the first round.
    assert {one["name"] for one in artifacts} <= {"best-so-far.safetensors"}
    # Deleted after the job's end is written, so that a worker that dies in between has done nothing wrong.
    wait_for(lambda: not (bench.service.settings.work_dir / job_id).exists(), "the work folder to go")
