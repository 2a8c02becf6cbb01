"""Idempotency keys: however often a request is sent, it creates one thing."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from app.core.db import now_plus
from app.core.tables import IdempotencyKey, Job
from app.main import create_app
from tests.support import uploads
from tests.support.uploads import job_spec


@pytest.fixture
def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid4().hex}


def test_the_same_request_gets_the_first_answer_again(client, model_id, key):
    first = client.post("/v1/jobs", json=job_spec(model_id), headers=key)
    client.post(f"/v1/jobs/{first.json()['id']}/cancel")
    again = client.post("/v1/jobs", json=job_spec(model_id), headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"


def test_another_body_under_the_same_key_is_refused(client, model_id, key):
    client.post("/v1/jobs", json=job_spec(model_id), headers=key)
    other = client.post("/v1/jobs", json=job_spec(model_id, seed=1), headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_the_order_of_names_and_spaces_in_a_body_do_not_matter(client, model_id, key):
    first = client.post("/v1/jobs", json=job_spec(model_id), headers=key)
    text = f'{{ "recipe": {{"target": {{"value": 0.7, "metric": "sparsity"}}}}, "model_id": "{model_id}" }}'
    again = client.post("/v1/jobs", content=text, headers=key | {"Content-Type": "application/json"})
    assert again.json()["id"] == first.json()["id"]


def test_the_same_key_elsewhere_is_another_key(client, model_id, key):
    job = client.post("/v1/jobs", json=job_spec(model_id), headers=key)
    model = uploads.upload_model(client, headers=key)
    assert (job.status_code, model.status_code) == (202, 201)


def test_a_refused_request_leaves_its_key_free(client, model_id, key):
    assert client.post("/v1/jobs", json=job_spec(model_id, x=1), headers=key).status_code == 422
    gone = job_spec("mdl_" + "0" * 26)
    assert client.post("/v1/jobs", json=gone, headers=key).status_code == 422
    assert client.post("/v1/jobs", json=job_spec(model_id), headers=key).status_code == 202


def test_an_upload_is_known_again_by_its_manifest_and_its_bytes(client, key):
    first = uploads.upload_model(client, headers=key)
    again = uploads.upload_model(client, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    renamed = uploads.upload_model(client, name="other", headers=key)
    assert (renamed.status_code, renamed.json()["code"]) == (422, "idempotency_key_reused")
    other = uploads.upload_model(client, uploads.model_bytes()[:-4] + b"\0\0\0\0", headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_an_expired_key_counts_as_new(client, parts, model_id, key):
    first = client.post("/v1/jobs", json=job_spec(model_id), headers=key)
    with parts.sessions.begin() as session:
        long_ago = now_plus(-parts.settings.idempotency_ttl_s - 1.0)
        mine = IdempotencyKey.key == key["Idempotency-Key"]
        session.execute(update(IdempotencyKey).where(mine).values(created_at=long_ago))
    again = client.post("/v1/jobs", json=job_spec(model_id), headers=key)
    assert again.json()["id"] != first.json()["id"]


def test_the_key_of_a_request_that_still_runs_is_refused_for_now(client, parts, model_id, key):
    with parts.keys_in_flight.hold("/v1/jobs", key["Idempotency-Key"]):
        answer = client.post("/v1/jobs", json=job_spec(model_id), headers=key)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_in_flight")
    assert (answer.json()["retryable"], answer.headers["Retry-After"]) == (True, "1")
    assert client.post("/v1/jobs", json=job_spec(model_id), headers=key).status_code == 202


def test_many_at_once_create_one_job(live, parts, model_id, key):
    label = {"run": key["Idempotency-Key"]}
    with live.http() as http, ThreadPoolExecutor(20) as pool:
        spec = job_spec(model_id, labels=label)
        sent = [pool.submit(http.post, "/v1/jobs", json=spec, headers=key) for _ in range(40)]
        answers = [one.result() for one in sent]
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    with parts.reading_sessions() as session:
        query = select(func.count()).where(Job.labels["run"].as_string() == label["run"])
        assert session.scalar(query) == 1


def test_two_processes_with_one_key_create_one_job(client, settings, model_id, key):
    # Another process knows nothing of our keys in flight: the database has to decide.
    with (
        TestClient(create_app(settings), raise_server_exceptions=False) as other,
        ThreadPoolExecutor(8) as pool,
    ):
        spec = job_spec(model_id)
        services = [client, other] * 4
        answers = list(pool.map(lambda one: one.post("/v1/jobs", json=spec, headers=key), services))
    created = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len(created) == 1


@pytest.mark.parametrize("value", ["", "a b", "x" * 256, "é".encode(), "a\tb"])
def test_a_key_that_cannot_be_is_refused(client, model_id, value):
    answer = client.post("/v1/jobs", json=job_spec(model_id), headers={"Idempotency-Key": value})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
