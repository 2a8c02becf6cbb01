"""Webhooks over HTTP: create, change, rotate, test, redeliver; a secret is shown once."""

import json
import uuid

import pytest
from sqlalchemy import select

from app.core.tables import IdempotencyKey, Job, Webhook, WebhookDelivery
from tests.app.api.test_problems import check_problem
from tests.support import uploads

URL = "https://hooks.example.org/secateur"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def create(client, **changes):
    answer = client.post("/v1/webhooks", json={"url": URL} | changes)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_the_secret_is_in_the_answer_that_creates_and_in_no_other(client):
    made = create(client, events=["job.failed"], description="CI")
    assert made["secret"].startswith("whsec_")
    assert (made["url"], made["events"], made["enabled"]) == (URL, ["job.failed"], True)
    path = f"/v1/webhooks/{made['id']}"
    for answer in (client.get(path), client.get("/v1/webhooks"), client.patch(path, json={"enabled": True})):
        assert answer.status_code == 200
        assert made["secret"] not in answer.text
        assert "secret" not in answer.json()
    assert client.get("/v1/webhooks").json()["data"][0]["id"] == made["id"]


def test_the_ends_of_jobs_are_sent_unless_one_asks_for_more(client):
    assert create(client)["events"] == ["job.succeeded", "job.failed", "job.cancelled"]


def test_a_repeated_creation_gives_the_same_webhook(client):
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first, second = (client.post("/v1/webhooks", json={"url": URL}, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    assert second.headers["Idempotency-Replayed"] == "true"
    other = client.post("/v1/webhooks", json={"url": URL + "2"}, headers=headers)
    check_problem(other, 422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/url"),
        ({"url": "http://example.org"}, "/url"),
        ({"url": "https://169.254.169.254/latest"}, "/url"),
        ({"url": "https://user:pass@example.org"}, "/url"),
        ({"url": URL, "events": []}, "/events"),
        ({"url": URL, "events": ["job.exploded"]}, "/events/0"),
        ({"url": URL, "secret": SECRET}, "/secret"),
        ({"url": URL, "description": "x" * 300}, "/description"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused(client, body, pointer):
    problem = check_problem(client.post("/v1/webhooks", json=body), 422, "invalid_webhook")
    assert problem["errors"][0]["pointer"] == pointer
    if "url" in body:
        made = create(client)
        check_problem(client.patch(f"/v1/webhooks/{made['id']}", json=body), 422, "invalid_webhook")


def test_changes_touch_only_what_they_name(client):
    made = create(client, description="old")
    path = f"/v1/webhooks/{made['id']}"
    assert client.patch(path, json={"events": ["*"]}).json()["description"] == "old"
    off = client.patch(path, json={"enabled": False, "description": None}).json()
    assert (off["enabled"], off["disabled_reason"], off["description"]) == (
        False,
        "disabled by request",
        None,
    )
    on = client.patch(path, json={"enabled": True}).json()
    assert (on["enabled"], on["disabled_reason"], on["events"]) == (True, None, ["*"])


@pytest.mark.parametrize("name", ["url", "events", "enabled"])
def test_null_is_no_change(client, name):
    made = create(client)
    answer = client.patch(f"/v1/webhooks/{made['id']}", json={name: None, "description": "new"})
    problem = check_problem(answer, 422, "invalid_webhook")
    assert problem["errors"][0]["pointer"] == f"/{name}"
    assert client.get(f"/v1/webhooks/{made['id']}").json()["description"] is None


def test_a_rotated_secret_is_new_and_the_old_one_signs_along(client, parts):
    made = create(client)
    rotated = client.post(f"/v1/webhooks/{made['id']}/rotate_secret").json()
    assert rotated["secret"] != made["secret"]
    with parts.reading_sessions() as session:
        hook = session.get_one(Webhook, made["id"])
        assert (hook.secret, hook.old_secret) == (rotated["secret"], made["secret"])


def test_a_test_message_is_queued_and_listed(client):
    path = f"/v1/webhooks/{create(client)['id']}"
    made = client.post(f"{path}/test")
    assert made.status_code == 202
    (listed,) = client.get(f"{path}/deliveries").json()["data"]
    assert listed["id"] == made.json()["id"]
    assert (listed["type"], listed["state"], listed["tries"]) == ("webhook.test", "pending", 0)


def test_a_repeated_rotation_gives_the_same_secret_and_a_repeated_test_sends_one_message(client):
    made = create(client)
    for action in ("rotate_secret", "test"):
        key = {"Idempotency-Key": uuid.uuid4().hex}
        first, again = (client.post(f"/v1/webhooks/{made['id']}/{action}", headers=key) for _ in range(2))
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers["Idempotency-Replayed"] == "true"
    assert len(client.get(f"/v1/webhooks/{made['id']}/deliveries").json()["data"]) == 1


def test_deliveries_come_in_pages_newest_first(client):
    path = f"/v1/webhooks/{create(client)['id']}"
    made = [client.post(f"{path}/test").json()["id"] for _ in range(3)]
    page = client.get(f"{path}/deliveries", params={"limit": 2}).json()
    rest = client.get(f"{path}/deliveries", params={"cursor": page["next_cursor"]}).json()
    assert [one["id"] for one in page["data"] + rest["data"]] == made[::-1]


def test_a_delivery_can_be_sent_again_but_only_one_of_this_webhook(client):
    path = f"/v1/webhooks/{create(client)['id']}"
    made = client.post(f"{path}/test").json()["id"]
    again = client.post(f"{path}/deliveries/{made}/redeliver")
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (202, made, "pending")
    other = f"/v1/webhooks/{create(client)['id']}"
    check_problem(client.post(f"{other}/deliveries/{made}/redeliver"), 404, "not_found")


def test_a_deleted_webhook_is_gone_with_its_deliveries(client, parts):
    made = create(client)
    path = f"/v1/webhooks/{made['id']}"
    client.post(f"{path}/test")
    assert client.delete(path).status_code == 204
    check_problem(client.get(path), 404, "not_found")
    check_problem(client.delete(path), 404, "not_found")
    with parts.reading_sessions() as session:
        query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == made["id"])
        assert session.scalars(query).all() == []


def test_an_unknown_webhook_is_404_everywhere(client):
    for path in ("whk_00000000000000000000000000", "x"):
        for method, end in (("GET", ""), ("PATCH", ""), ("POST", "/test"), ("GET", "/deliveries")):
            answer = client.request(
                method, f"/v1/webhooks/{path}{end}", json={} if method == "PATCH" else None
            )
            check_problem(answer, 404, "not_found")


def test_a_job_with_callbacks_keeps_their_secret_to_itself(client, parts, model_id, dataset_id):
    callbacks = [{"url": URL, "events": ["job.failed"], "secret": SECRET}]
    spec = uploads.job_spec(model_id, dataset_id, callbacks=callbacks)
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    made = client.post("/v1/jobs", json=spec, headers=headers)
    assert made.status_code == 202, made.text
    job = made.json()
    assert job["spec"]["callbacks"] == [{"url": URL, "events": ["job.failed"]}]
    assert job["resolved_spec"]["callbacks"] == [{"url": URL, "events": ["job.failed"]}]
    assert client.post("/v1/jobs", json=spec, headers=headers).json() == job
    assert client.post("/v1/jobs/validate", json=spec).json()["valid"]
    with parts.reading_sessions() as session:
        hook = session.scalars(select(Webhook).where(Webhook.job_id == job["id"])).one()
        assert (hook.url, hook.events, hook.secret) == (URL, ["job.failed"], SECRET)
        rows = [session.get_one(Job, job["id"]), *session.scalars(select(IdempotencyKey))]
        assert SECRET not in json.dumps([vars(row) for row in rows], default=str)
    assert hook.id not in client.get("/v1/webhooks", params={"limit": 100}).text
    check_problem(client.get(f"/v1/webhooks/{hook.id}"), 404, "not_found")
    # What differs only in its secret is another request.
    other = spec | {"callbacks": [callbacks[0] | {"secret": SECRET[:-4] + "aaaa"}]}
    check_problem(client.post("/v1/jobs", json=other, headers=headers), 422, "idempotency_key_reused")


@pytest.mark.parametrize(
    "secret", ["correct-horse-battery", SECRET[:-4] + "!!!!", SECRET[6:], "whsec_" + "a" * 33, 8125550100]
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/validate"])
def test_a_secret_that_is_refused_is_not_in_the_answer(client, model_id, path, secret):
    spec = uploads.job_spec(model_id, callbacks=[{"url": URL, "secret": secret}])
    answer = client.post(path, json=spec)
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/callbacks/0/secret"]
    assert str(secret) not in answer.text


@pytest.mark.parametrize(
    ("callback", "pointer"),
    [
        ({"url": "http://10.0.0.1/"}, "/callbacks/0/url"),
        ({"url": URL, "secret": "short"}, "/callbacks/0/secret"),
        ({"url": URL, "secret": "whsec_" + "a" * 33}, "/callbacks/0/secret"),
        ({"url": URL, "secret": "whsec_" + "a" * 41}, "/callbacks/0/secret"),
        ({"url": URL, "events": ["progress"]}, "/callbacks/0/events/0"),
        ({}, "/callbacks/0/url"),
    ],
)
def test_a_callback_that_cannot_be_is_refused(client, model_id, callback, pointer):
    spec = uploads.job_spec(model_id, callbacks=[callback])
    problem = check_problem(client.post("/v1/jobs", json=spec), 422, "invalid_spec")
    assert problem["errors"][0]["pointer"] == pointer
    found = client.post("/v1/jobs/validate", json=spec).json()
    assert (found["valid"], found["errors"][0]["pointer"]) == (False, pointer)


def test_there_is_an_end_to_how_many_webhooks_one_may_have(serve):
    client = serve()
    for _ in range(100):
        create(client)
    check_problem(client.post("/v1/webhooks", json={"url": URL}), 429, "limit_reached")
