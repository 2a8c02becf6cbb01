"""The log lines of real processes: JSON with job_id, attempt and request_id, and nobody's password."""

import json
import os
import subprocess
import sys
from pathlib import Path

from app.embedded import environment
from tests.support.service import wait_for

PASSWORD = "hunter2secret"


def lines(bench, name: str) -> list[dict]:
    """Return what a process logged; each line must be a JSON object."""
    return [json.loads(line) for line in bench.service.log(name).splitlines() if line.startswith("{")]


def test_every_line_about_a_job_names_it_and_its_attempt(scaled_bench):
    job_id = scaled_bench.submit(epochs=500)
    scaled_bench.wait_for_event(job_id, "stage.started", stage="finetune")
    scaled_bench.service.kill_runner()
    scaled_bench.wait_for_event(job_id, "attempt.ended")
    scaled_bench.wait_for_event(job_id, "attempt.started", times=2)
    scaled_bench.http.post(f"/v1/jobs/{job_id}/cancel", headers={"Request-Id": "ci-42"})
    scaled_bench.finish(job_id)
    about = [line for line in lines(scaled_bench, "worker") if line["logger"].startswith("worker.")]
    about = [line for line in about if line.get("job_id") == job_id]
    assert {"job claimed", "runner died", "job left"} <= {line["message"] for line in about}
    died = next(line for line in about if line["message"] == "runner died")
    assert died["attempt"] == 1
    own = [json.loads(line) for line in died["log"].splitlines() if line.startswith("{")]
    assert any(line["service"] == "runner" for line in own)
    assert all((line["job_id"], line["attempt"]) == (job_id, 1) for line in own)
    cancelled = [line for line in lines(scaled_bench, "api") if line.get("request_id") == "ci-42"]
    assert [line["job_id"] for line in cancelled] == [job_id]


def test_each_process_logs_json_and_nothing_else_of_its_own(scaled_bench):
    for name in ("api", "relay", "worker"):
        found = scaled_bench.service.log(name).splitlines()
        assert all(json.loads(line)["service"] == name for line in found)


def test_passwords_and_keys_never_reach_a_log(scaled_bench, tmp_path):
    settings = scaled_bench.service.settings
    url = settings.database_url.replace("postgres@", f"postgres:{PASSWORD}@")
    path = settings.broker_url.removeprefix("redis+socket://")
    env = environment(settings.model_copy(update={"database_url": url, "port": 0}))
    env["SECATEUR_BROKER_URL"] = f"redis+socket://:{PASSWORD}@{path}"
    env["SECATEUR_START_WAIT_S"] = "0"
    for command in (["-m", "app.cli", "relay"], ["-m", "worker"], ["-m", "app.cli", "api"]):
        log = tmp_path / f"{command[-1]}.log"
        _run_briefly(command, env | {"SECATEUR_PULSE_DIR": str(tmp_path / command[-1])}, log)
        assert PASSWORD not in log.read_text()


def _run_briefly(command: list[str], env: dict[str, str], log: Path) -> None:
    """Run a process until it says something, turns without a word, or could not start; then end it."""
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, *command], env=os.environ | env, stdout=file, stderr=file)
    pulse = Path(env["SECATEUR_PULSE_DIR"])
    wait_for(
        lambda: log.stat().st_size or pulse.is_dir() or process.poll() is not None,
        f"{command} to say something",
    )
    process.terminate()
    process.wait(60)
