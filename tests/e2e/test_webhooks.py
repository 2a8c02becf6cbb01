"""Webhooks of real jobs, sent by real relays: each end of a job arrives, whatever dies on the way."""

import contextlib
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from app.core.db import make_engine, make_sessions, now_plus
from app.core.tables import WebhookDelivery
from tests.support import digits
from tests.support.receiver import Receiver
from tests.support.service import Service, wait_for

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Site:
    """A service without a worker, whose jobs end by being cancelled; two relays, and a client."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.http = httpx.Client(base_url=service.url, timeout=60.0, trust_env=False)
        self.model_id = ""

    def prepare(self, folder: Path) -> None:
        self.model_id = digits.upload_model(self.http).json()["id"]
        url = f"/v1/models/{self.model_id}"
        wait_for(lambda: self.http.get(url).json()["status"] == "ready", "the model check")
        self.service.terminate("worker")
        self.dataset_id = digits.upload_dataset(self.http, folder).json()["id"]

    def end_a_job(self, **changes) -> str:
        spec = digits.job_spec(self.model_id, self.dataset_id, **changes)
        job_id = self.http.post("/v1/jobs", json=spec).json()["id"]
        assert self.http.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"
        return job_id

    def make_all_due(self) -> None:
        """Move the schedule on, as hours would."""
        engine = make_engine(self.service.settings.database_url)
        with make_sessions(engine).begin() as session:
            rows = session.query(WebhookDelivery).filter_by(state="pending").all()
            for row in rows:
                row.next_try_at = now_plus()
        engine.dispose()


@pytest.fixture(scope="module")
def site(postgres, tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    url = postgres.create_database(f"w{time.monotonic_ns()}")
    service = Service(folder, url, webhook_allow_loopback=True, webhook_timeout_s=2.0)
    made = Site(service)
    try:
        service.start()
        service.start_one("relay")  # the first one goes on, known to nobody but the database
        made.prepare(folder)
        yield made
    finally:
        made.http.close()
        service.stop()
        for relay in relays(service):
            with contextlib.suppress(psutil.NoSuchProcess):
                relay.kill()


def relays(service: Service) -> list[psutil.Process]:
    """Return the live relays of this service."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-1:] != ["relay"] or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get("SECATEUR_DATA_DIR") == str(service.settings.data_dir):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def receiver():
    with Receiver() as one:
        yield one


def test_two_relays_deliver_every_end_once_and_signed(site, receiver):
    assert len(relays(site.service)) == 2
    hook = site.http.post("/v1/webhooks", json={"url": receiver.url}).json()
    jobs = [site.end_a_job() for _ in range(10)]
    wait_for(lambda: len(receiver.got("job.cancelled")) >= 10, "ten messages")
    got = receiver.got("job.cancelled")
    assert sorted(one.data["job_id"] for one in got) == sorted(jobs)
    assert all(one.is_signed_with(hook["secret"]) for one in got)
    for one in got:
        events = site.http.get(f"/v1/jobs/{one.data['job_id']}/events").json()["data"]
        assert events[-1]["seq"] == one.data["seq"]
        assert one.data["status"] == "cancelled"
    site.http.delete(f"/v1/webhooks/{hook['id']}")


def test_a_callback_tells_of_its_own_job_alone(site, receiver):
    callbacks = [{"url": receiver.url, "secret": SECRET}]
    job_id = site.end_a_job(callbacks=callbacks)
    site.end_a_job()
    wait_for(lambda: receiver.got("job.cancelled"), "the message")
    (got,) = receiver.got()
    assert got.data["job_id"] == job_id
    assert got.is_signed_with(SECRET)
    for name in ("api", "relay"):
        assert SECRET.removeprefix("whsec_") not in site.service.log(name)


def test_a_relay_that_is_killed_while_it_sends_loses_nothing_and_keeps_the_ids(site, receiver):
    answering = [False]
    receiver.answer = lambda _: 204 if answering[0] else 500
    hook = site.http.post("/v1/webhooks", json={"url": f"{receiver.url}/hang"}).json()
    jobs = [site.end_a_job() for _ in range(4)]
    wait_for(lambda: receiver.received, "a message to be on its way")
    site.service.kill("relay")
    for one in relays(site.service):
        one.kill()
    first_ids = {one.message_id for one in receiver.received}
    site.http.patch(f"/v1/webhooks/{hook['id']}", json={"url": f"{receiver.url}/now"})
    answering[0] = True
    site.make_all_due()
    site.service.start_one("relay")

    def arrived() -> bool:
        site.make_all_due()
        return {one.data["job_id"] for one in receiver.got() if one.path == "/now"} >= set(jobs)

    wait_for(arrived, "every message to arrive")
    second = {one.message_id for one in receiver.got() if one.path == "/now"}
    assert first_ids <= second
    assert len(second) == 4
    site.http.delete(f"/v1/webhooks/{hook['id']}")


def test_a_receiver_that_hangs_delays_no_hint_to_the_broker(site, receiver):
    hook = site.http.post("/v1/webhooks", json={"url": f"{receiver.url}/drip", "events": ["*"]}).json()
    if not relays(site.service):
        site.service.start_one("relay")
    for _ in range(5):
        site.end_a_job()
    wait_for(lambda: receiver.received, "the receiver to hang")
    site.end_a_job()

    def outbox_is_empty() -> bool:
        # Asked while the receiver still holds every connection that it can get.
        assert not receiver.closing.is_set()
        text = site.http.get("/metrics").text
        return "secateur_outbox_messages 0.0" in text

    wait_for(outbox_is_empty, "the hints to be published")
    site.http.delete(f"/v1/webhooks/{hook['id']}")


def test_two_relays_sweep_and_publish_without_harm(site, receiver):
    if len(relays(site.service)) < 2:
        site.service.start_one("relay")
    hook = site.http.post("/v1/webhooks", json={"url": receiver.url}).json()
    job_ids = [site.end_a_job() for _ in range(5)]
    wait_for(lambda: len(receiver.got()) >= 5, "the messages")
    for job_id in job_ids:
        events = site.http.get(f"/v1/jobs/{job_id}/events").json()["data"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["type"] for event in events].count("job.cancelled") == 1
    for name in ("relay",):
        assert "Traceback" not in site.service.log(name)
    site.http.delete(f"/v1/webhooks/{hook['id']}")


def test_a_relay_that_stops_finishes_what_it_is_sending(site, receiver):
    asked, answer = threading.Event(), threading.Event()

    def take_time(_: object) -> int:
        asked.set()
        answer.wait(60)
        return 200

    receiver.answer = take_time
    if "relay" in site.service.processes:
        site.service.terminate("relay")
    for one in relays(site.service):
        one.kill()
    site.service.start_one("relay")
    hook = site.http.post("/v1/webhooks", json={"url": receiver.url}).json()
    site.end_a_job()
    assert asked.wait(60)
    process = site.service.processes.pop("relay")
    process.terminate()
    answer.set()
    assert process.wait(60) == 0
    (delivery,) = site.http.get(f"/v1/webhooks/{hook['id']}/deliveries").json()["data"]
    assert (delivery["state"], delivery["tries"]) == ("delivered", 1)
