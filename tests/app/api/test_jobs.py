"""Jobs over HTTP: what is queued, how its spec is filled in, what a plan promises."""

import hashlib
import json

import pytest
from sqlalchemy import select

from app.core import jobs
from app.core.queue import RUN_JOB
from app.core.tables import OutboxMessage
from tests.app.api.specs import TRAIN, errors_of, recipe, structure
from tests.support import uploads
from tests.support.uploads import job_spec


def test_a_job_is_queued_with_its_first_event_and_its_hint(client, parts, model_id, dataset_id):
    answer = client.post(
        "/v1/jobs", json=job_spec(model_id, dataset_id, name="first", labels={"ref": "main"})
    )
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["is_terminal"], job["labels"]) == ("queued", False, {"ref": "main"})
    assert job["queue_position"] >= 1
    assert client.get(f"/v1/jobs/{job['id']}").json() == job
    events = client.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert [(e["seq"], e["type"]) for e in events] == [(1, "job.created")]
    with parts.reading_sessions() as session:
        assert session.scalars(select(OutboxMessage.task).where(OutboxMessage.ref == job["id"])).all() == [
            RUN_JOB
        ]


def test_every_default_is_echoed_and_hashed(client, model_id, dataset_id):
    sent = job_spec(model_id, dataset_id)
    job = client.post("/v1/jobs", json=sent).json()
    assert job["spec"] == sent
    resolved = job["resolved_spec"]
    assert resolved["recipe"]["criterion"] == {"name": "magnitude", "params": {"p": 1.0}}
    assert resolved["resources"] == {
        "device": "auto",
        "timeout_s": 86_400,
        "max_attempts": 3,
        "checkpoint_s": 60.0,
        "priority": 0,
    }
    canonical = json.dumps(resolved, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert job["spec_sha256"] == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_spec_with_its_defaults_spelt_out_is_the_same_job(client, model_id, dataset_id):
    rows = [{"match": "fc3*", "set": {"exclude": True}}, {"match": "fc1*", "set": {"max_sparsity": 0.9}}]
    changes = recipe(layers=rows) | {"finetune": TRAIN}
    first = client.post("/v1/jobs", json=job_spec(model_id, dataset_id, **changes)).json()
    second = client.post("/v1/jobs", json=first["resolved_spec"]).json()
    assert second["spec_sha256"] == first["spec_sha256"]
    other = client.post("/v1/jobs", json=job_spec(model_id, dataset_id, seed=1)).json()
    assert other["spec_sha256"] != first["spec_sha256"]


@pytest.mark.parametrize(
    ("evaluation", "metrics"),
    [({}, ["accuracy", "f1", "mcc"]), ({"metrics": ["mcc"]}, ["mcc"])],
)
def test_the_metrics_that_are_measured_are_echoed(client, model_id, dataset_id, evaluation, metrics):
    gate = {"metric": "worst_class_drop", "op": "<=", "value": 0.1}
    spec = job_spec(model_id, dataset_id, evaluation=evaluation, gates=[gate])
    job = client.post("/v1/jobs", json=spec).json()
    assert job["resolved_spec"]["evaluation"]["metrics"] == metrics


def test_an_empty_finetune_becomes_that_of_the_task_with_a_gradual_schedule(client, model_id, dataset_id):
    resolved = client.post("/v1/jobs", json=job_spec(model_id, dataset_id, finetune={})).json()[
        "resolved_spec"
    ]
    finetune = resolved["finetune"]
    assert (finetune["epochs"], finetune["max_steps"], finetune["learning_rate"]) == (8, None, 0.02)
    assert finetune["distillation"] == {"alpha": 0.9, "temperature": 4.0, "hidden_states": None}
    assert resolved["recipe"]["schedule"]["name"] == "cubic"
    assert resolved["recipe"]["schedule"]["params"]["end_fraction"] == 1.0


def test_a_job_may_be_queued_while_its_model_is_checked(client):
    model_id = uploads.upload_model(client).json()["id"]
    answer = client.post(
        "/v1/jobs", json=job_spec(model_id, **recipe(layers=[{"match": "?", "set": {"sparsity": 0.1}}]))
    )
    assert answer.status_code == 202


def test_too_many_queued_jobs_are_refused_with_the_number(serve):
    client = serve(max_queued_jobs=2)
    model_id = uploads.upload_model(client).json()["id"]
    for _ in range(2):
        assert client.post("/v1/jobs", json=job_spec(model_id)).status_code == 202
    answer = client.post("/v1/jobs", json=job_spec(model_id))
    assert (answer.status_code, answer.json()["code"]) == (429, "limit_reached")
    assert "at most 2" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    queued = client.get("/v1/jobs").json()["data"]
    client.post(f"/v1/jobs/{queued[0]['id']}/cancel")
    assert client.post("/v1/jobs", json=job_spec(model_id)).status_code == 202


def test_validation_answers_like_creation_would(client, model_id, dataset_id):
    good = client.post("/v1/jobs/validate", json=job_spec(model_id, dataset_id))
    job = client.post("/v1/jobs", json=job_spec(model_id, dataset_id)).json()
    assert (good.status_code, good.json()["valid"], good.json()["errors"]) == (200, True, [])
    assert good.json()["resolved_spec"] == job["resolved_spec"]
    for spec in (job_spec(model_id, x=1), job_spec(model_id, **recipe(criterion={"name": "magic"}))):
        bad = client.post("/v1/jobs/validate", json=spec)
        refused = client.post("/v1/jobs", json=spec)
        assert (bad.status_code, bad.json()["valid"], bad.json()["plan"]) == (200, False, None)
        assert bad.json()["errors"] == refused.json()["errors"]
    malformed = client.post("/v1/jobs/validate", content="{", headers={"Content-Type": "application/json"})
    assert (malformed.status_code, malformed.json()["code"]) == (400, "malformed_json")


def test_a_cancel_ends_a_queued_job_and_repeating_it_changes_nothing(client, job_id):
    first = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (first.status_code, first.json()["status"], first.json()["is_terminal"]) == (
        200,
        "cancelled",
        True,
    )
    assert client.post(f"/v1/jobs/{job_id}/cancel").json() == first.json()
    events = [e["type"] for e in client.get(f"/v1/jobs/{job_id}/events").json()["data"]]
    assert events == ["job.created", "cancel.requested", "job.cancelled"]


def test_a_cancel_of_a_running_job_is_a_flag_until_it_ends(client, parts, job_id):
    lease = uploads.start_job(parts, job_id)
    job = client.post(f"/v1/jobs/{job_id}/cancel").json()
    assert (job["status"], job["cancel_requested"]) == ("running", True)
    with parts.sessions.begin() as session:
        jobs.cancel(session, lease)
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"


def test_a_cancel_of_an_ended_job_leaves_it_as_it_is(client, done_job_id):
    job = client.post(f"/v1/jobs/{done_job_id}/cancel").json()
    assert (job["status"], job["cancel_requested"]) == ("succeeded", False)


def test_attempts_tell_who_ran_a_job_and_how_that_ended(client, done_job_id):
    [attempt] = client.get(f"/v1/jobs/{done_job_id}/attempts").json()["data"]
    assert (attempt["attempt"], attempt["worker"], attempt["ended"]) == (1, "test", "succeeded")


def test_the_queue_position_counts_the_jobs_in_front(serve):
    client = serve()
    model_id = uploads.upload_model(client).json()["id"]
    ids = [client.post("/v1/jobs", json=job_spec(model_id)).json()["id"] for _ in range(3)]
    assert [client.get(f"/v1/jobs/{i}").json()["queue_position"] for i in ids] == [1, 2, 3]
    assert [job["queue_position"] for job in client.get("/v1/jobs").json()["data"]] == [3, 2, 1]
    client.post(f"/v1/jobs/{ids[0]}/cancel")
    assert [client.get(f"/v1/jobs/{i}").json()["queue_position"] for i in ids] == [None, 1, 2]


def test_a_structure_alone_zeroes_nothing_and_its_defaults_are_echoed(client, model_id, dataset_id):
    spec = job_spec(model_id, dataset_id, **structure())
    del spec["recipe"]
    resolved = client.post("/v1/jobs", json=spec).json()["resolved_spec"]
    assert resolved["recipe"]["target"] == {"metric": "sparsity", "value": 0.0}
    assert resolved["structure"]["criterion"] == {"name": "magnitude", "params": {"p": 2.0}}
    assert resolved["structure"]["ranking"] == "isomorphic"
    again = client.post("/v1/jobs", json=resolved).json()
    assert again["resolved_spec"] == resolved


def test_whole_blocks_have_a_criterion_of_their_own_which_needs_data(client, model_id, dataset_id):
    asked = structure(kinds=["block"], criterion={"name": "block_influence"})
    resolved = client.post("/v1/jobs", json=job_spec(model_id, dataset_id, **asked)).json()["resolved_spec"]
    assert resolved["structure"]["criterion"] == {"name": "block_influence", "params": {}}
    spec = {
        name: value for name, value in job_spec(model_id, dataset_id, **asked).items() if name != "dataset_id"
    }
    assert "/structure/criterion/name" in errors_of(client.post("/v1/jobs", json=spec))
