"""Models over HTTP: what is taken, what is refused, what stays when one is deleted."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from sqlalchemy import select

from app.core import checks
from app.core.errors import NonfiniteWeights
from app.core.queue import CHECK_MODEL
from app.core.tables import Model, OutboxMessage
from tests.support import uploads


def test_an_upload_is_kept_under_its_digest_and_waits_for_its_deep_check(client, parts):
    answer = uploads.upload_model(client)
    model = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/models/{model['id']}"
    assert model["status"] == "validating"
    assert model["architecture"]["params"] == {"classes": 10, "image_size": 4, "in_channels": 1}
    assert parts.store.local_path(model["sha256"]).read_bytes() == uploads.model_bytes()
    with parts.reading_sessions() as session:
        hints = session.scalars(select(OutboxMessage.task).where(OutboxMessage.ref == model["id"])).all()
    assert hints == [CHECK_MODEL]


def test_a_model_is_found_again_as_it_was_answered(client):
    made = uploads.upload_model(client).json()
    assert client.get(f"/v1/models/{made['id']}").json() == made
    assert client.get("/v1/models?limit=1").json()["data"] == [made]


def test_the_deep_check_makes_a_model_ready_and_shows_its_layers(client, parts):
    model_id = uploads.upload_model(client).json()["id"]
    early = client.get(f"/v1/models/{model_id}/layers")
    assert (early.status_code, early.json()["code"], early.headers["Retry-After"]) == (409, "not_ready", "1")
    uploads.make_ready(parts, model_id)
    model = client.get(f"/v1/models/{model_id}").json()
    assert (model["status"], model["input_signature"]["shape"]) == ("ready", [1, 4, 4])
    layers = client.get(f"/v1/models/{model_id}/layers").json()
    assert layers["data"] == uploads.inspection()["layers"]
    assert model["parameters"] == sum(layer["parameters"] for layer in layers["data"])


def test_layers_come_in_pages_when_asked(client, model_id):
    first = client.get(f"/v1/models/{model_id}/layers?limit=4").json()
    rest = client.get(f"/v1/models/{model_id}/layers", params={"cursor": first["next_cursor"]}).json()
    assert (len(first["data"]), first["has_more"], rest["has_more"]) == (4, True, False)
    assert first["data"] + rest["data"] == uploads.inspection()["layers"]


def test_a_rejected_model_says_why_and_cannot_be_used(client, parts):
    model_id = uploads.upload_model(client).json()["id"]
    problem = NonfiniteWeights("tensor fc1.weight holds 1 NaN").problem()
    with parts.sessions.begin() as session:
        check = checks.begin(session, model_id, timeout_s=60.0)
        checks.reject(session, model_id, check, problem)
    model = client.get(f"/v1/models/{model_id}").json()
    assert (model["status"], model["rejection"]["code"]) == ("rejected", "nonfinite_weights")
    layers = client.get(f"/v1/models/{model_id}/layers")
    assert (layers.status_code, layers.json()["code"]) == (422, "model_rejected")
    job = client.post("/v1/jobs", json=uploads.job_spec(model_id))
    assert (job.status_code, job.json()["code"]) == (422, "model_rejected")
    assert "fc1.weight" in job.json()["detail"]


def _torch_file(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "model.pt")
    return (tmp_path / "model.pt").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda good: good[:-10], "truncated_file"),
        (lambda good: b"\xff" * 8 + good[8:], "invalid_header"),
        (lambda good: good + b"x", "overlapping_tensors"),
        (lambda good: good[:8] + good[8:].replace(b'"fc2.bias"', b'"fc1.bias"', 1), "duplicate_keys"),
        (lambda _: b"", "truncated_file"),
    ],
)
def test_a_damaged_file_is_refused_and_nothing_of_it_is_kept(client, parts, spoil, code):
    before = kept(parts)
    answer = uploads.upload_model(client, spoil(uploads.model_bytes()))
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert kept(parts) == before


def test_a_pickle_under_another_name_is_refused(client, parts, tmp_path):
    before = kept(parts)
    answer = uploads.upload_model(client, _torch_file(tmp_path))
    assert (answer.status_code, answer.json()["code"]) == (422, "pickle_refused")
    assert kept(parts) == before


@pytest.mark.parametrize(
    ("changes", "code", "pointer", "says"),
    [
        ({"format": "onnx"}, "unsupported_format", "/format", "safetensors"),
        ({"format": 3}, "invalid_manifest", "/format", ""),
        ({"architecture": None}, "invalid_manifest", "/architecture", ""),
        ({"architecture": {"name": "vgg"}}, "unknown_architecture", "/architecture/name", "lenet-5"),
        (
            {"architecture": {"library": "timm", "name": "lenet-5"}},
            "unknown_architecture",
            "/architecture/library",
            "secateur",
        ),
        (
            {"architecture": {"name": "lenet-5", "params": {"clases": 3}}},
            "invalid_manifest",
            "/architecture/params/clases",
            "classes",
        ),
        (
            {"architecture": {"name": "lenet-5", "params": {"classes": 1.0}}},
            "invalid_manifest",
            "/architecture/params/classes",
            "",
        ),
        ({"name": ""}, "invalid_manifest", "/name", ""),
        ({"name": "a\0b"}, "invalid_manifest", "/name", ""),
        ({"nmae": "x"}, "invalid_manifest", "/nmae", ""),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_at_its_place(client, changes, code, pointer, says):
    answer = uploads.upload_model(client, **changes)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code)
    assert problem["errors"][0]["pointer"] == pointer
    assert says in problem["detail"]


def test_a_manifest_may_come_as_a_file_after_the_model(client):
    manifest = json.dumps({"name": "n", "format": "safetensors", "architecture": uploads.ARCHITECTURE})
    parts = [("file", ("m", uploads.model_bytes())), ("manifest", ("m.json", manifest, "application/json"))]
    assert client.post("/v1/models", files=parts).status_code == 201


def test_a_model_in_use_cannot_be_deleted_and_afterwards_its_history_stays(client, parts, tmp_path):
    model_id = uploads.upload_model(client).json()["id"]
    job_id = client.post("/v1/jobs", json=uploads.job_spec(model_id)).json()["id"]
    refused = client.delete(f"/v1/models/{model_id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "resource_in_use")
    assert job_id in refused.json()["detail"]
    uploads.finish_job(parts, job_id, tmp_path)
    deleted = client.delete(f"/v1/models/{model_id}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert client.get(f"/v1/models/{model_id}").status_code == 404
    assert client.delete(f"/v1/models/{model_id}").status_code == 404
    assert model_id not in client.get("/v1/models?limit=100").text
    assert client.get(f"/v1/jobs/{job_id}").json()["model_id"] == model_id
    assert client.get(f"/v1/jobs/{job_id}/report").status_code == 200
    again = client.post("/v1/jobs", json=uploads.job_spec(model_id))
    assert again.json()["errors"][0] == {
        "pointer": "/model_id",
        "code": "model_not_found",
        "detail": f"there is no model {model_id}",
    }


def kept(parts) -> tuple[int, int, int]:
    """Count rows, stored blobs and files that are being written."""
    with parts.reading_sessions() as session:
        rows = len(session.scalars(select(Model.id)).all())
    blobs = len(list((parts.store.bytes.root / "blobs").glob("??/*")))
    return rows, blobs, len(list((parts.store.bytes.root / "incoming").iterdir()))


def test_a_model_is_never_deleted_under_a_job_that_is_being_created(live, client):
    def race(model_id: str) -> tuple[int, int]:
        with live.http() as http, ThreadPoolExecutor(2) as pool:
            deleting = pool.submit(http.delete, f"/v1/models/{model_id}")
            creating = pool.submit(http.post, "/v1/jobs", json=uploads.job_spec(model_id))
            return deleting.result().status_code, creating.result().status_code

    ids = [uploads.upload_model(client).json()["id"] for _ in range(8)]
    assert {race(model_id) for model_id in ids} <= {(204, 422), (409, 202)}
