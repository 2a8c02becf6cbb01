"""The command line: what it prints, and the exit code that a CI job reads."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from app.cli import app
from app.core import checks, jobs
from app.core.errors import JobTimeout, NonfiniteWeights
from app.core.tables import Artifact, JobReport
from tests.app.test_client import answer, flaky
from tests.support import uploads
from tests.support.reports import REPORT
from tests.support.uploads import job_spec

DATABASES = ("sqlite",)  # another one makes no difference here


@pytest.fixture
def secateur(live):
    """Run the command in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments: str, url: str | None = None):
        result = CliRunner().invoke(app, [*arguments, "--url", url or live.url])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def spec_file(tmp_path) -> Path:
    (tmp_path / "net.safetensors").write_bytes(uploads.model_bytes())
    (tmp_path / "test.npz").write_bytes(uploads.npz_bytes())
    spec = {
        "model": {"file": "net.safetensors", "architecture": uploads.ARCHITECTURE},
        "dataset": {"splits": {"test": "test.npz"}},
        "recipe": {"target": {"value": 0.7}},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.fixture
def worker(parts, tmp_path):
    """Do by hand, in a thread, what a worker does: check each model, run each job."""
    stop = threading.Event()
    ways: dict = {"check": lambda model_id: uploads.make_ready(parts, model_id), "run": None}

    def work() -> None:
        while not stop.wait(0.05):
            with parts.reading_sessions() as session:
                hints = session.connection().exec_driver_sql("SELECT id, task, ref FROM outbox").all()
            for number, task, ref in hints:
                if number in seen:
                    continue
                seen.add(number)
                if task.endswith("check_model"):
                    ways["check"](ref)
                elif ways["run"] is not None:
                    ways["run"](ref)

    with parts.reading_sessions() as session:
        seen = {row[0] for row in session.connection().exec_driver_sql("SELECT id FROM outbox").all()}
    thread = threading.Thread(target=work)
    thread.start()
    yield ways
    stop.set()
    thread.join(10)


def finish(parts, folder: Path, gates: str = "not_evaluated"):
    def run(job_id: str) -> None:
        lease = uploads.start_job(parts, job_id)
        with parts.sessions.begin() as session:
            jobs.record(session, lease, "progress", {"fraction": 0.5}, stage="prune")
            session.add(JobReport(job_id=job_id, report=REPORT))
            jobs.succeed(session, lease, gates={"outcome": gates, "results": []})

    return run


def fail(parts):
    def run(job_id: str) -> None:
        lease = uploads.start_job(parts, job_id)
        with parts.sessions.begin() as session:
            jobs.fail(session, lease, JobTimeout("it ran longer than 5 s").problem())

    return run


def test_run_goes_from_a_spec_to_a_report(secateur, spec_file, worker, parts, tmp_path):
    worker["run"] = finish(parts, tmp_path)
    code, out, err = secateur("run", str(spec_file), "-o", str(tmp_path / "out"))
    assert code == 0, err
    assert "succeeded" in out
    assert "0.9815" in out
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == REPORT


def test_run_can_print_nothing_but_json(secateur, spec_file, worker, parts, tmp_path):
    worker["run"] = finish(parts, tmp_path)
    code, out, _ = secateur("run", str(spec_file), "-o", str(tmp_path / "out"), "--json")
    assert (code, json.loads(out)["status"]) == (0, "succeeded")


@pytest.mark.parametrize(("outcome", "code"), [("passed", 0), ("warned", 0), ("failed", 1)])
def test_a_gate_decides_between_zero_and_one(secateur, spec_file, worker, parts, tmp_path, outcome, code):
    worker["run"] = finish(parts, tmp_path, outcome)
    assert secateur("run", str(spec_file), "-o", str(tmp_path / "out"))[0] == code


def test_a_job_that_failed_is_three_and_says_why(secateur, spec_file, worker, parts):
    worker["run"] = fail(parts)
    code, out, _ = secateur("run", str(spec_file))
    assert code == 3
    assert "it ran longer than 5 s" in out


def test_a_job_that_was_cancelled_is_four(secateur, job_id):
    assert secateur("cancel", job_id)[0] == 0
    assert secateur("wait", job_id)[0] == 4


def test_a_wait_that_is_over_is_five_and_names_the_job(secateur, job_id):
    code, _, err = secateur("wait", job_id, "--timeout", "0.5")
    assert code == 5
    assert job_id in err


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_six(secateur, status):
    with flaky(answer(status, b'{"code": "unauthorized", "detail": "no key"}')) as (url, _):
        assert secateur("catalog", url=url)[0] == 6


def test_a_service_that_is_not_there_is_seven(secateur):
    code, _, err = secateur("catalog", url="http://127.0.0.1:9")
    assert code == 7
    assert "does not answer" in err


@pytest.mark.parametrize("status", [429, 500, 507])
def test_a_service_that_cannot_now_is_seven_and_says_why(secateur, status):
    problem = b'{"code": "some_limit", "detail": "no room now"}'
    with flaky(answer(status, problem, Retry_After="0")) as (url, _):
        code, _, err = secateur("catalog", url=url)
    assert code == 7
    assert "some_limit: no room now" in err


def test_what_nobody_foresaw_is_seventy_with_a_sentence_below_its_traceback():
    with flaky(answer(200, b"{}")) as (url, _):
        command = [sys.executable, "-m", "app.cli", "cancel", "job_1", "--url", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("secateur: unforeseen KeyError: 'id'")


def test_a_spec_that_is_refused_is_two_and_each_fault_is_named(secateur, model_id, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(job_spec(model_id, recipe={"target": {"value": 1.5}}, x=1)))
    code, out, err = secateur("submit", str(path))
    assert (code, out) == (2, "")
    assert "/recipe/target/value" in err
    assert "/x" in err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "a: [",
        "model: {file: nowhere.bin}",
        "model: 3",
        "dataset: {splits: []}",
        "model: {}\nmodel_id: x",
        "recipe: {target: {value: .inf}}",
    ],
)
def test_a_spec_file_that_cannot_be_is_two(secateur, tmp_path, text):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    code, out, err = secateur("submit", str(path))
    assert (code, out) == (2, "")
    assert err


@pytest.mark.parametrize("url", ["nonsense", "ftp://x"])
def test_a_url_that_cannot_be_is_two(secateur, url):
    assert secateur("catalog", url=url)[0] == 2


def test_a_key_that_cannot_be_is_two(secateur):
    assert secateur("catalog", "--api-key", "two\nlines")[0] == 2


def test_a_model_that_is_refused_stops_the_run_before_the_job(secateur, spec_file, worker, parts):
    def reject(model_id: str) -> None:
        with parts.sessions.begin() as session:
            check = checks.begin(session, model_id, timeout_s=60.0)
            checks.reject(session, model_id, check, NonfiniteWeights("fc1.weight holds NaN").problem())

    worker["check"] = reject
    code, _, err = secateur("run", str(spec_file))
    assert code == 2
    assert "fc1.weight holds NaN" in err


def test_submit_prints_the_id_and_the_same_key_gives_the_same_job(secateur, spec_file, worker):
    first = secateur("submit", str(spec_file), "--idempotency-key", f"k-{time.monotonic_ns()}")
    assert first[0] == 0
    assert first[1].startswith("job_")
    key = f"k-{time.monotonic_ns()}"
    runs = [secateur("submit", str(spec_file), "--idempotency-key", key)[1] for _ in range(2)]
    assert runs[0] == runs[1] != first[1]


def test_report_and_download_of_a_finished_job(secateur, parts, job_id, tmp_path):
    finish(parts, tmp_path)(job_id)
    assert "0.9796" in secateur("report", job_id)[1]
    assert json.loads(secateur("report", job_id, "--json")[1]) == REPORT
    code, out, _ = secateur("download", job_id, "-o", str(tmp_path / "out"))
    assert (code, out.strip()) == (0, str(tmp_path / "out"))


def test_a_download_of_a_job_without_a_report_is_what_it_left(secateur, parts, job_id, tmp_path):
    fail(parts)(job_id)
    with parts.sessions.begin() as session:
        (tmp_path / "artifact").write_bytes(b"0123456789")
        kept = Artifact(
            job_id=job_id,
            name="last-good.safetensors",
            kind="model",
            media_type="application/octet-stream",
            sha256=parts.store.add_file(tmp_path / "artifact"),
            size_bytes=10,
            loads_in_clean_process=True,
        )
        session.add(kept)
    code, _, err = secateur("download", job_id, "-o", str(tmp_path / "out"))
    assert (code, [path.name for path in (tmp_path / "out").iterdir()]) == (0, ["last-good.safetensors"]), err


def test_a_run_without_a_worker_queues_its_job_and_ends_with_its_time(secateur, spec_file):
    code, _, err = secateur("run", str(spec_file), "--timeout", "0.5")
    assert code == 5
    assert "is still validating after 0.5 s; the job is queued all the same" in err
    assert "\njob job_" in err


def test_the_environment_says_where_the_service_is(live, job_id):
    env = os.environ | {"SECATEUR_URL": live.url}
    command = [sys.executable, "-m", "app.cli", "cancel", job_id, "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "cancelled")
