"""What else can go wrong around a job, on Postgres: crash loops, timeouts, lost brokers, sleeping workers."""

import signal

from tests.support.service import wait_for


def test_a_job_whose_runner_always_dies_fails_after_max_attempts(scaled_bench):
    job_id = scaled_bench.submit(resources={"max_attempts": 2}, epochs=500)
    for attempt in (1, 2):
        wait_for(lambda n=attempt: scaled_bench.job(job_id)["attempt"] == n, f"attempt {attempt}")
        scaled_bench.service.kill_runner()
    job = scaled_bench.finish(job_id)
    assert job["status"] == "failed"
    assert job["error"]["code"] == "crash_loop"
    assert "SIGKILL" in job["error"]["detail"]
    assert scaled_bench.attempts_ended(job_id) == ["crashed", "crashed"]


def test_a_terminated_worker_gives_its_job_back_without_costing_an_attempt(scaled_bench):
    job_id = scaled_bench.submit(epochs=500)
    scaled_bench.wait_for_event(job_id, "stage.started", stage="finetune")
    scaled_bench.service.terminate("worker")
    job = scaled_bench.job(job_id)
    assert (job["status"], job["attempt"]) == ("queued", 0)
    assert not scaled_bench.service.runners()
    scaled_bench.service.start_one("worker")
    wait_for(lambda: scaled_bench.job(job_id)["status"] == "running", "the job to run again")
    scaled_bench.http.post(f"/v1/jobs/{job_id}/cancel")
    assert scaled_bench.finish(job_id)["status"] == "cancelled"


def test_a_job_over_its_time_fails_with_that_reason(scaled_bench):
    job_id = scaled_bench.submit(resources={"timeout_s": 8}, epochs=5000)
    job = scaled_bench.finish(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "timeout")
    assert not scaled_bench.service.runners()


def test_jobs_queue_up_behind_the_only_slot_and_all_end(scaled_bench):
    ids = [scaled_bench.submit(epochs=1) for _ in range(2)]
    assert [scaled_bench.finish(job_id)["status"] for job_id in ids] == ["succeeded"] * 2
    started = [scaled_bench.job(job_id)["started_at"] for job_id in ids]
    assert started == sorted(started)


def test_a_broker_that_is_emptied_and_restarted_loses_no_job(scaled_bench):
    scaled_bench.service.kill("valkey")
    job_id = scaled_bench.submit(epochs=1)
    for file in (scaled_bench.service.folder / "valkey").rglob("*"):
        if file.is_file():
            file.unlink()
    scaled_bench.service.restart_valkey()
    assert scaled_bench.finish(job_id)["status"] == "succeeded"


def test_a_stopped_relay_delays_a_job_but_does_not_lose_it(scaled_bench):
    scaled_bench.service.kill("relay")
    job_id = scaled_bench.submit(epochs=1)
    assert scaled_bench.job(job_id)["status"] == "queued"
    scaled_bench.service.start_one("relay")
    assert scaled_bench.finish(job_id)["status"] == "succeeded"


def test_a_worker_that_sleeps_through_its_lease_finds_itself_fenced(scaled_bench):
    # Long enough that it cannot end between the event and the signal.
    job_id = scaled_bench.submit(epochs=60)
    scaled_bench.wait_for_event(job_id, "stage.started", stage="finetune")
    sleeper = scaled_bench.service.processes.pop("worker")
    sleeper.send_signal(signal.SIGSTOP)
    try:
        scaled_bench.service.start_one("worker")
        scaled_bench.wait_for_event(job_id, "attempt.started", times=2)
    finally:
        sleeper.send_signal(signal.SIGCONT)
    job = scaled_bench.finish(job_id)
    assert job["status"] == "succeeded"
    assert sorted(scaled_bench.attempts_ended(job_id)) == ["lost", "succeeded"]
    sleeper.terminate()
    sleeper.wait(30)
