"""The access log: one line for every request, whatever became of it."""

import json
import logging

import pytest

from tests.support import uploads

DATABASES = ("sqlite",)


@pytest.fixture
def records(caplog):
    caplog.set_level(logging.INFO, logger="app.access")
    return lambda: [one for one in caplog.records if one.name == "app.access"]


def test_a_request_leaves_one_line_with_its_route_and_what_it_asked_about(client, job_id, records):
    answer = client.get(f"/v1/jobs/{job_id}", headers={"Request-Id": "ci-7"})
    (line,) = [one for one in records() if one.path.endswith(job_id)]
    assert (line.method, line.route, line.status) == ("GET", "/v1/jobs/{job_id}", 200)
    assert line.job_id == job_id
    assert line.sent_bytes == len(answer.content)
    assert line.elapsed_s >= 0


@pytest.mark.parametrize(
    ("path", "status", "route"),
    [
        ("/nowhere", 404, "(none)"),
        ("/v1/jobs/x", 404, "/v1/jobs/{job_id}"),
        ("/v1/jobs?x=1", 422, "/v1/jobs"),
    ],
)
def test_a_request_that_is_refused_leaves_one_too(client, records, path, status, route):
    assert client.get(path).status_code == status
    (line,) = records()
    assert (line.status, line.route) == (status, route)


def test_a_query_is_not_logged(client, records):
    client.get("/v1/jobs?cursor=secret")
    assert "secret" not in json.dumps([vars(one) for one in records()], default=str)


def test_an_error_that_nobody_expected_is_logged_as_500(serve, records):
    client = serve()

    @client.app.get("/boom")
    def boom() -> None:
        raise RuntimeError("boom")

    assert client.get("/boom").status_code == 500
    (line,) = records()
    assert (line.route, line.status) == ("/boom", 500)


def test_an_upload_counts_what_was_sent_back(client, records):
    answer = uploads.upload_model(client)
    (line,) = records()
    assert (line.method, line.status, line.sent_bytes) == ("POST", 201, len(answer.content))
