"""A job's events over real sockets: each once, whatever becomes of the streams, and to the job's end."""

import json

import httpx
import pytest

from app.client import Client
from app.client_errors import ApiError, Unreachable, WaitTimeout
from app.client_events import follow_events
from tests.app.test_client import answer, drop, flaky


def event(seq: int, kind: str = "progress") -> bytes:
    data = json.dumps({"seq": seq, "type": kind, "stage": None, "data": {}})
    return f"data: {data}\nid: {seq}\n\n".encode()


def stream(body: bytes, length: int | None = None):
    return answer(200, body, length, Content_Type="text/event-stream; charset=utf-8")


FIRST_HALF = event(1) + event(2)
REST = stream(event(3) + event(4, "job.succeeded"))
OVER = answer(204, b"")
BUSY = answer(503, b'{"detail": "wait"}')


@pytest.mark.parametrize(
    "between",
    [
        [stream(FIRST_HALF, length=10_000), drop],
        [stream(FIRST_HALF)],
        [stream(FIRST_HALF), stream(b""), stream(b": heartbeat\n\n")],
        [stream(FIRST_HALF), BUSY, answer(429, b"{}"), answer(502, b"<html>")],
    ],
    ids=["it broke", "it ended", "it ended again and again", "the service could not for a while"],
)
def test_a_stream_that_ends_before_the_job_is_resumed_without_a_gap_or_a_repetition(between):
    with flaky(*between, REST, OVER) as (url, asked), Client(url) as client:
        assert [e["seq"] for e in client.events("job_1")] == [1, 2, 3, 4]
    known = [headers["Last-Event-ID"] for _, headers, _ in asked]
    assert known == ["0", *["2"] * len(between), "4"]


def test_a_job_that_runs_on_after_its_events_is_waited_for():
    running = answer(200, b'{"is_terminal": false, "status": "running"}')
    ended = answer(200, b'{"is_terminal": true, "status": "succeeded"}')
    with flaky(REST, OVER, running, ended) as (url, _), Client(url) as client:
        assert client.wait("job_1", on_event=lambda _: None)["status"] == "succeeded"


def test_streams_that_end_at_once_are_followed_to_the_deadline():
    with flaky(stream(b"")) as (url, asked), Client(url) as client, pytest.raises(WaitTimeout):
        client.wait("job_1", timeout_s=0.5, on_event=lambda _: None)
    assert 1 < len(asked) < 5


@pytest.mark.parametrize("lost", [drop, BUSY], ids=["no answer", "503"])
def test_a_service_that_stays_away_is_unreachable(lost):
    with flaky(lost) as (url, asked), httpx.Client(base_url=url) as http, pytest.raises(Unreachable):
        list(follow_events(http, "job_1", patience_s=0.3))
    assert len(asked) > 1


def test_what_is_no_stream_of_events_is_told_at_once():
    page = answer(200, b"<html>Sign in</html>", Content_Type="text/html")
    with flaky(page) as (url, _), Client(url) as client, pytest.raises(Unreachable, match="no Secateur"):
        list(client.events("job_1"))


def test_a_job_that_is_not_there_is_refused_at_once():
    with flaky(answer(404, b'{"code": "not_found"}')) as (url, asked), Client(url) as client:
        with pytest.raises(ApiError):
            list(client.events("job_1"))
        assert len(asked) == 1
