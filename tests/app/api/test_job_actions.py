"""Pause, resume, retry over HTTP: each may be sent twice, what cannot be is a 409 that names what can."""

import pytest

from app.core import job_returns, jobs
from app.core.errors import JobTimeout
from app.core.states import AttemptEnd
from tests.support import uploads

PROBLEM = JobTimeout("too long").problem()


def ask(client, job_id, action, **how):
    return client.post(f"/v1/jobs/{job_id}/{action}", **how)


def events_of(client, job_id) -> list[str]:
    return [event["type"] for event in client.get(f"/v1/jobs/{job_id}/events").json()["data"]]


@pytest.fixture
def failed_job_id(parts, job_id) -> str:
    lease = uploads.start_job(parts, job_id)
    with parts.sessions.begin() as session:
        jobs.fail(session, lease, PROBLEM)
    return job_id


def test_a_queued_job_is_paused_at_once_and_resumed(client, job_id):
    for _ in range(2):
        job = ask(client, job_id, "pause").json()
        assert (job["status"], job["queue_position"]) == ("paused", None)
    for _ in range(2):
        job = ask(client, job_id, "resume").json()
        assert job["status"] == "queued"
        assert job["queue_position"] >= 1
    assert events_of(client, job_id) == ["job.created", "job.paused", "job.resumed"]


def test_a_pause_of_a_running_job_is_a_flag_that_a_resume_withdraws(client, parts, job_id):
    lease = uploads.start_job(parts, job_id)
    job = ask(client, job_id, "pause").json()
    assert (job["status"], job["pause_requested"]) == ("running", True)
    assert ask(client, job_id, "resume").json()["pause_requested"] is False
    with parts.sessions.begin() as session:
        job_returns.pause(session, lease)
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["status"], job["attempt"]) == ("queued", 0)


def test_a_failed_job_is_retried_with_all_its_attempts(client, failed_job_id):
    for _ in range(2):
        job = ask(client, failed_job_id, "retry").json()
        assert (job["status"], job["attempt"], job["error"], job["finished_at"]) == ("queued", 0, None, None)
    assert events_of(client, failed_job_id)[-1] == "job.retried"


def test_a_retry_says_from_where_and_takes_nothing_else(client, failed_job_id):
    assert ask(client, failed_job_id, "retry", json={"from": "middle"}).status_code == 422
    assert ask(client, failed_job_id, "retry", json={"form": "start"}).status_code == 422
    assert ask(client, failed_job_id, "retry", json={"from": "start"}).status_code == 200
    event = client.get(f"/v1/jobs/{failed_job_id}/events").json()["data"][-1]
    assert event["data"] == {"from": "start"}


@pytest.mark.parametrize("action", ["pause", "resume", "retry"])
def test_a_job_that_has_succeeded_can_do_nothing_more(client, done_job_id, action):
    answer = ask(client, done_job_id, action)
    assert answer.status_code == 409
    assert answer.json()["code"] == "transition_refused"
    assert answer.json()["errors"] == []


def test_a_refusal_names_what_can_be(client, failed_job_id, parts):
    assert [item["detail"] for item in ask(client, failed_job_id, "pause").json()["errors"]] == ["retry"]
    ask(client, failed_job_id, "retry")
    uploads.start_job(parts, failed_job_id)
    ask(client, failed_job_id, "cancel")
    answer = ask(client, failed_job_id, "pause")
    assert answer.status_code == 409
    assert [item["detail"] for item in answer.json()["errors"]] == ["cancel"]


@pytest.mark.parametrize("action", ["pause", "resume", "retry"])
def test_an_unknown_job_is_not_found(client, action):
    assert ask(client, "job_" + "0" * 26, action).status_code == 404


def test_attempts_come_newest_first_in_pages_with_their_class(client, parts, job_id):
    for _ in range(2):
        lease = uploads.start_job(parts, job_id)
        with parts.sessions.begin() as session:
            job_returns.retry_after_crash(session, lease, "died", ended=AttemptEnd.CRASHED)
    url = f"/v1/jobs/{job_id}/attempts"
    page = client.get(url, params={"limit": 1}).json()
    assert [one["epoch"] for one in page["data"]] == [2]
    assert page["has_more"] is True
    rest = client.get(url, params={"limit": 1, "cursor": page["next_cursor"]}).json()
    assert [(one["epoch"], one["class"], one["detail"]) for one in rest["data"]] == [(1, "crash", "died")]
    assert rest["has_more"] is False


def test_a_stream_goes_on_past_the_end_that_a_retry_has_undone(client, parts, failed_job_id):
    ask(client, failed_job_id, "retry")
    ask(client, failed_job_id, "cancel")
    headers = {"Accept": "text/event-stream"}
    text = client.get(f"/v1/jobs/{failed_job_id}/events", headers=headers).text
    assert '"job.failed"' in text
    assert '"job.cancelled"' in text.split('"job.retried"')[1]
