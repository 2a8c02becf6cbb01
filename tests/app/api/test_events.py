"""Following a job: events as pages and as a stream, long polls, validators."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from sqlalchemy import event

from app.core import jobs
from tests.support import uploads

STREAM = {"Accept": "text/event-stream"}


def record(parts, lease, number: int) -> None:
    with parts.sessions.begin() as session:
        jobs.record(session, lease, "progress", {"number": number}, stage="prune")


def succeed(parts, lease) -> None:
    with parts.sessions.begin() as session:
        jobs.succeed(session, lease, gates={"outcome": "not_evaluated", "results": []})


@contextmanager
def statements(parts, actions: dict[int, Callable[[], object]]) -> Iterator[list[str]]:
    """Collect what is asked of the database; before the statement of a number its action runs."""
    seen: list[str] = []

    def watch(_connection, _cursor, statement: str, *_) -> None:
        seen.append(statement)
        if act := actions.get(len(seen)):
            act()

    event.listen(parts.engine, "before_cursor_execute", watch)
    try:
        yield seen
    finally:
        event.remove(parts.engine, "before_cursor_execute", watch)


def read_stream(http: httpx.Client, job_id: str, **headers: str) -> tuple[list[dict], list[str]]:
    """Read a stream to its end: the events, and every line of it."""
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM | headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        lines = list(answer.iter_lines())
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")], lines


def test_events_are_numbered_without_a_gap_and_come_in_pages(client, parts, job_id):
    lease = uploads.start_job(parts, job_id)
    for number in range(5):
        record(parts, lease, number)
    everything = client.get(f"/v1/jobs/{job_id}/events").json()
    assert [e["seq"] for e in everything["data"]] == list(range(1, 8))
    assert (everything["has_more"], everything["next_cursor"]) == (False, None)
    first = client.get(f"/v1/jobs/{job_id}/events?limit=3").json()
    rest = client.get(f"/v1/jobs/{job_id}/events?after={first['next_cursor']}").json()
    assert first["data"] + rest["data"] == everything["data"]
    assert client.get(f"/v1/jobs/{job_id}/events?after=7").json()["data"] == []


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "after=99999999999999999999", "limit=0", "cursor=1"]
)
def test_a_place_that_cannot_be_is_refused(client, job_id, query):
    assert client.get(f"/v1/jobs/{job_id}/events?{query}").status_code == 422


def test_a_stream_brings_what_was_and_what_comes_and_then_ends(live, parts, job_id):
    lease = uploads.start_job(parts, job_id)

    def work():
        for number in range(3):
            time.sleep(0.05)
            record(parts, lease, number)
        succeed(parts, lease)

    with live.http() as http, ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        events, lines = read_stream(http, job_id)
        done.result()
        listed = http.get(f"/v1/jobs/{job_id}/events").json()["data"]
    assert events == listed
    assert [line[4:] for line in lines if line.startswith("id: ")] == [str(e["seq"]) for e in listed]
    assert events[-1]["type"] == "job.succeeded"


def test_a_stream_resumes_after_the_last_event_that_was_seen(live, parts, job_id, tmp_path):
    uploads.finish_job(parts, job_id, tmp_path)
    with live.http() as http:
        events, _ = read_stream(http, job_id)
        rest, _ = read_stream(http, job_id, **{"Last-Event-ID": "2"})
        assert rest == events[2:]
        over = http.get(f"/v1/jobs/{job_id}/events", headers=STREAM | {"Last-Event-ID": str(len(events))})
        assert (over.status_code, over.content) == (204, b"")
        wrong = http.get(f"/v1/jobs/{job_id}/events", headers=STREAM | {"Last-Event-ID": "x"})
        assert wrong.status_code == 422


def test_a_stream_from_beyond_the_last_event_ends_with_the_job(live, parts, job_id):
    lease = uploads.start_job(parts, job_id)
    beyond = f"/v1/jobs/{job_id}/events?after=1000"
    with live.http() as http, http.stream("GET", beyond, headers=STREAM) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": heartbeat"
        succeed(parts, lease)
        assert not [line for line in lines if line.startswith("data: ")]


def test_a_silent_stream_beats(live, parts, job_id):
    with ThreadPoolExecutor(1) as pool, live.http() as http:
        reading = pool.submit(read_stream, http, job_id)
        time.sleep(3 * parts.settings.sse_heartbeat_s)
        live.http().post(f"/v1/jobs/{job_id}/cancel")
        events, lines = reading.result(10)
    assert ": heartbeat" in lines
    assert events[-1]["type"] == "job.cancelled"


def test_open_streams_hold_no_connection_of_the_database(live, parts, model_id):
    """More streams and long polls than the pool has connections or threads, and requests still pass."""
    with ExitStack() as stack:
        http = stack.enter_context(live.http())
        job_id = http.post("/v1/jobs", json=uploads.job_spec(model_id)).json()["id"]
        url = f"/v1/jobs/{job_id}"
        many = stack.enter_context(live.http())
        pool = stack.enter_context(ThreadPoolExecutor(80))
        streams = [pool.submit(read_stream, many, job_id) for _ in range(40)]
        polls = [pool.submit(many.get, url, headers={"Prefer": "wait=20"}) for _ in range(40)]
        time.sleep(0.5)
        started = time.monotonic()
        assert http.get("/v1/jobs?limit=1").status_code == 200
        assert time.monotonic() - started < 5.0
        http.post(f"{url}/cancel")
        assert {one.result(20)[0][-1]["type"] for one in streams} == {"job.cancelled"}
        assert {one.result(20).json()["status"] for one in polls} == {"cancelled"}


def test_a_client_that_leaves_a_stream_ends_it(live, parts, job_id):
    with live.http() as http:
        with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as answer:
            next(answer.iter_lines())
        assert http.get("/livez").status_code == 200


def test_a_long_poll_answers_when_the_status_changes(live, parts, job_id):
    with live.http() as http, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(http.get, f"/v1/jobs/{job_id}", headers={"Prefer": "wait=20"})
        time.sleep(0.2)
        assert not waiting.done()
        uploads.start_job(parts, job_id)
        answer = waiting.result(10)
    assert answer.json()["status"] == "running"
    assert answer.headers["Preference-Applied"] == "wait=20"


def test_a_long_poll_answers_when_its_time_is_over(client, job_id):
    started = time.monotonic()
    answer = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "respond-async, wait=1"})
    assert 0.9 < time.monotonic() - started < 3.0
    assert answer.json()["status"] == "queued"


def test_a_long_poll_counts_the_line_of_queued_jobs_once(client, parts, job_id):
    with statements(parts, {20: lambda: uploads.start_job(parts, job_id)}) as seen:
        answer = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=20"})
    assert answer.json()["status"] == "running"
    assert len(seen) > 20
    assert sum("row_number" in statement.lower() for statement in seen) == 1


def test_a_long_poll_whose_time_is_over_tells_the_job_as_it_is_then(client, parts, job_id):
    lease = uploads.start_job(parts, job_id)
    progress = {"fraction": 0.5, "step": 1, "total": 2, "eta_s": 3.0}

    def move_on() -> None:
        with parts.sessions.begin() as session:
            jobs.record(session, lease, "progress", {}, stage="prune", progress=progress)

    with statements(parts, {2: move_on}):
        told = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=1"}).json()
    assert (told["status"], told["stage"], told["progress"]) == ("running", "prune", progress)


def test_a_long_poll_on_an_ended_job_answers_at_once(client, done_job_id):
    started = time.monotonic()
    assert client.get(f"/v1/jobs/{done_job_id}", headers={"Prefer": "wait=60"}).status_code == 200
    assert time.monotonic() - started < 2.0


def test_a_long_poll_does_not_wait_for_a_change_that_the_client_missed(client, parts, job_id):
    tag = client.get(f"/v1/jobs/{job_id}").headers["ETag"]
    uploads.start_job(parts, job_id)
    started = time.monotonic()
    answer = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=60", "If-None-Match": tag})
    assert time.monotonic() - started < 2.0
    assert answer.json()["status"] == "running"


@pytest.mark.parametrize("prefer", ["wait", "wait=", "wait=x", "wait=-1", "wait=²", "return=minimal"])
def test_a_preference_that_cannot_be_read_is_ignored(client, job_id, prefer):
    answer = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": prefer.encode()})
    assert (answer.status_code, "Preference-Applied" in answer.headers) == (200, False)


def test_one_resource_has_a_validator_and_is_not_sent_twice(client, parts, model_id, dataset_id, job_id):
    urls = (f"/v1/models/{model_id}", f"/v1/datasets/{dataset_id}", f"/v1/jobs/{job_id}", "/v1/catalog")
    for url in urls:
        tag = client.get(url).headers["ETag"]
        for condition in (tag, f'"x", {tag}', f"W/{tag}", "*"):
            answer = client.get(url, headers={"If-None-Match": condition})
            assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
        assert client.get(url, headers={"If-None-Match": '"x"'}).status_code == 200
    before = client.get(f"/v1/jobs/{job_id}").headers["ETag"]
    uploads.start_job(parts, job_id)
    assert client.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": before}).status_code == 200


def test_no_thread_is_left_behind_by_streams(live, job_id):
    with live.http() as http:
        for _ in range(3):
            with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as answer:
                next(answer.iter_lines())
        counts = []
        for _ in range(2):
            http.get(f"/v1/jobs/{job_id}")
            counts.append(threading.active_count())
    assert counts[1] <= counts[0]
