"""SIGTERM: every process ends by itself with exit code 0, and cuts off nobody that it is serving."""

import threading
import time

import httpx
import pytest

from app.core.storage import open_store
from tests.support import digits
from tests.support.service import Service, wait_for


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    one = Service(folder, f"sqlite:///{folder / 'secateur.db'}")
    try:
        one.start()
        yield one
    finally:
        one.stop()


@pytest.fixture(scope="module")
def job_id(service) -> str:
    """A queued job that nobody runs, as the worker has been stopped, which is the first thing seen here."""
    with httpx.Client(base_url=service.url, timeout=60.0, trust_env=False) as http:
        model_id = digits.upload_model(http).json()["id"]
        wait_for(lambda: http.get(f"/v1/models/{model_id}").json()["status"] == "ready", "the check")
        assert service.terminate("worker") == 0
        dataset_id = digits.upload_dataset(http, service.folder).json()["id"]
        answer = http.post("/v1/jobs", json=digits.job_spec(model_id, dataset_id))
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]


def restart_api(service: Service) -> None:
    service.start_one("api")
    wait_for(lambda: service._is_ready(), "the API to be ready")


def test_a_stream_and_a_long_poll_end_in_order_when_the_api_stops(service, job_id):
    seen: dict[str, object] = {}

    def follow() -> None:
        headers = {"Accept": "text/event-stream"}
        with httpx.stream(
            "GET", f"{service.url}/v1/jobs/{job_id}/events", headers=headers, timeout=60.0
        ) as answer:
            for line in answer.iter_lines():
                seen.setdefault("stream began", line)
            seen["stream ended"] = True

    def poll() -> None:
        seen["polling"] = True
        url = f"{service.url}/v1/jobs/{job_id}"
        seen["polled"] = httpx.get(url, headers={"Prefer": "wait=60"}, timeout=90.0).json()["status"]

    threads = [threading.Thread(target=follow), threading.Thread(target=poll)]
    for thread in threads:
        thread.start()
    wait_for(lambda: "stream began" in seen and "polling" in seen, "the stream to begin")
    time.sleep(0.5)
    assert service.terminate("api") == 0
    for thread in threads:
        thread.join(30)
    assert seen["stream ended"] is True
    assert seen["polled"] == "queued"
    restart_api(service)


def test_an_upload_that_has_begun_is_finished_when_the_api_stops(service):
    over = threading.Event()
    answers: list[httpx.Response] = []

    def body():
        boundary = b"--b\r\n"
        yield boundary + b'Content-Disposition: form-data; name="manifest"\r\n\r\n{"name": "x"}\r\n'
        yield boundary + b'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        while not over.wait(0.1):
            yield b"x" * 65_536
        yield b"\r\n--b--\r\n"

    def upload() -> None:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        answers.append(httpx.post(f"{service.url}/v1/models", content=body(), headers=headers, timeout=60.0))

    thread = threading.Thread(target=upload)
    thread.start()
    # What only lies in the socket has not begun: an API that stops before it reads that hangs up.
    incoming = open_store(service.settings).root / "incoming"
    wait_for(lambda: any(incoming.iterdir()), "the upload to reach the store")
    threading.Timer(1.0, over.set).start()
    assert service.terminate("api") == 0
    thread.join(60)
    # The manifest is not valid, which is an answer: the request was read to its end and judged.
    assert answers[0].status_code == 422
    assert answers[0].headers["content-type"] == "application/problem+json"
    restart_api(service)


def test_relay_and_worker_end_with_zero_and_without_a_stack_trace(service, job_id):
    assert service.terminate("relay") == 0
    for name in ("relay", "worker"):
        assert "Traceback" not in service.log(name)
