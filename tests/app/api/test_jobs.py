"""Jobs over HTTP: what is queued, what is refused and where, what a plan promises."""

import hashlib
import json

import pytest
from sqlalchemy import func, select

from app.core import jobs
from app.core.queue import RUN_JOB
from app.core.tables import Job, OutboxMessage
from tests.support import uploads
from tests.support.uploads import job_spec, npz_bytes

UNKNOWN = "0" * 26
TRAIN = {"epochs": 2}


def errors_of(answer) -> dict[str, str]:
    return {item["pointer"]: item["code"] for item in answer.json()["errors"]}


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
    ("value", "code"),
    [
        ("1.5", "value_error"),
        ("-0.1", "greater_than_equal"),
        ('"0.5"', "float_type"),
        ("NaN", "finite_number"),
        ("Infinity", "finite_number"),
        ("1e999", "finite_number"),
        ("true", "float_type"),
        ("null", "float_type"),
        ("[]", "float_type"),
    ],
)
def test_a_sparsity_that_is_none_is_refused_at_its_place(client, model_id, value, code):
    body = f'{{"model_id": "{model_id}", "recipe": {{"target": {{"metric": "sparsity", "value": {value}}}}}}}'
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert errors_of(answer) == {"/recipe/target/value": code}


@pytest.mark.parametrize(
    ("evaluation", "metrics"),
    [({}, ["accuracy", "f1", "mcc"]), ({"metrics": ["mcc"]}, ["mcc"])],
)
def test_the_metrics_that_are_measured_are_echoed(client, model_id, dataset_id, evaluation, metrics):
    gate = {"metric": "worst_class_drop", "op": "<=", "value": 0.1}
    spec = job_spec(model_id, dataset_id, evaluation=evaluation, gates=[gate])
    job = client.post("/v1/jobs", json=spec).json()
    assert job["resolved_spec"]["evaluation"]["metrics"] == metrics


def recipe(**changes):
    return {"recipe": {"target": {"value": 0.5}} | changes}


def structure(**changes):
    return {"structure": {"target": {"metric": "macs", "value": 100_000}} | changes}


@pytest.mark.parametrize(
    ("changes", "pointer", "code", "says"),
    [
        (recipe(criterion={"name": "magic"}), "/recipe/criterion/name", "unknown_criterion", "magnitude"),
        (
            structure(criterion={"name": "magic"}),
            "/structure/criterion/name",
            "unknown_criterion",
            "magnitude",
        ),
        (
            structure(criterion={"name": "movement"}),
            "/structure/criterion/name",
            "criterion_unavailable",
            "cannot come back",
        ),
        (
            structure(criterion={"name": "magnitude", "params": {"q": 1}}),
            "/structure/criterion/params/q",
            "extra_forbidden",
            "there are: p",
        ),
        (
            structure(criterion={"name": "block_influence"}),
            "/structure/criterion/name",
            "unknown_criterion",
            "scores whole blocks: it is for structure.criterion with kinds ['block']",
        ),
        (
            recipe(criterion={"name": "block_influence"}),
            "/recipe/criterion/name",
            "unknown_criterion",
            "scores whole blocks",
        ),
        (
            structure(kinds=["block", "head"]),
            "/structure",
            "value_error",
            "expected kinds ['block'], found ['block', 'head']",
        ),
        (
            structure(kinds=["block"], layers=[{"match": "*", "set": {"max_sparsity": 0.5}}]),
            "/structure",
            "value_error",
            "expected rows that set exclude",
        ),
        (structure(kinds=["block"], multiple_of=8), "/structure", "value_error", "expected multiple_of 1"),
        (
            structure(kinds=["block"]) | {"finetune": {"distillation": {"hidden_states": 1.0}}},
            "/finetune/distillation/hidden_states",
            "blocks_without_match",
            "expected null",
        ),
        (
            structure(target={"metric": "sparsity", "value": 0.5}),
            "/structure",
            "value_error",
            "leaves no zeros",
        ),
        (
            structure(layers=[{"match": "fc9*", "set": {"exclude": True}}]),
            "/structure/layers/0/match",
            "no_layer_matches",
            "closest",
        ),
        (
            structure(
                layers=[
                    {"match": "fc1", "set": {"min_sparsity": 0.5}},
                    {"match": "fc2", "set": {"exclude": True}},
                ]
            ),
            "/structure/layers",
            "contradictory_rows",
            "fc1.weight is to lose 0.5 of its neurons, but is cut together with fc2.weight, which is",
        ),
        (recipe(pattern={"name": "stripes"}), "/recipe/pattern/name", "unknown_pattern", "unstructured"),
        (recipe(allocation={"name": "x"}), "/recipe/allocation/name", "unknown_allocation", "global"),
        (recipe(schedule={"name": "x"}), "/recipe/schedule/name", "unknown_schedule", "one_shot"),
        (
            recipe(target={"metric": "latency_ms", "value": 1}),
            "/recipe/target/metric",
            "unknown_target",
            "sparsity",
        ),
        (
            recipe(criterion={"name": "magnitude", "params": {"q": 1}}),
            "/recipe/criterion/params/q",
            "extra_forbidden",
            "there are: p",
        ),
        (
            recipe(criterion={"name": "magnitude", "params": {"p": "1"}}),
            "/recipe/criterion/params/p",
            "schema_type",
            "",
        ),
        (
            recipe(criterion={"name": "magnitude", "params": {"p": 0}}),
            "/recipe/criterion/params/p",
            "schema_exclusiveMinimum",
            "",
        ),
        (
            recipe(layers=[{"match": "fc9*", "set": {"exclude": True}}]),
            "/recipe/layers/0/match",
            "no_layer_matches",
            "fc",
        ),
        (recipe(layers=[{"match": "fc1", "set": {}}]), "/recipe/layers/0/set", "value_error", "at least one"),
        (
            recipe(
                layers=[
                    {"match": "*", "set": {"min_sparsity": 0.6}},
                    {"match": "fc1", "set": {"max_sparsity": 0.5}},
                ]
            ),
            "/recipe/layers/1",
            "contradictory_rows",
            "at least 0.6 and at most 0.5 of fc1.weight",
        ),
        (
            recipe(layers=[{"match": "*", "set": {"min_sparsity": 0.6}}]),
            "/recipe/target/value",
            "sparsity_unreachable",
            "the rows let 0.6",
        ),
        (
            recipe(layers=[{"match": "*", "set": {"exclude": True}}]),
            "/recipe/layers",
            "nothing_to_prune",
            "no layer is left",
        ),
        (recipe(critereon={}), "/recipe/critereon", "extra_forbidden", ""),
        ({"finetune": {"epochs": 1, "max_steps": 1}}, "/finetune", "value_error", "either"),
        ({"finetune": TRAIN, "dataset_id": None}, "/finetune", "dataset_required", "dataset_id"),
        (
            {"gates": [{"metric": "accuracy", "op": ">=", "value": 0.9}], "dataset_id": None},
            "/gates/0/metric",
            "dataset_required",
            "dataset_id",
        ),
        (
            {"evaluation": {"metrics": ["f1"]}, "dataset_id": None},
            "/evaluation/metrics/0",
            "dataset_required",
            "dataset_id",
        ),
        (
            {"evaluation": {"metrics": ["accuracy", "perplexity"]}},
            "/evaluation/metrics/1",
            "unknown_metric",
            "there are: accuracy, f1, mcc",
        ),
        ({"evaluation": {"metrics": ["bleu"]}}, "/evaluation/metrics/0", "literal_error", "mcc"),
        ({"evaluation": {"metrics": ["f1", "f1"]}}, "/evaluation/metrics", "value_error", "once"),
        (
            {"gates": [{"metric": "mse_drop", "op": ">=", "value": 0.0}]},
            "/gates/0/metric",
            "metric_not_measured",
            "accuracy, f1, mcc",
        ),
        (
            {
                "evaluation": {"metrics": ["f1"]},
                "gates": [{"metric": "accuracy", "op": ">=", "value": 0.9}],
            },
            "/gates/0/metric",
            "metric_not_measured",
            "measures f1",
        ),
        ({"dataset_id": f"dst_{UNKNOWN}"}, "/dataset_id", "dataset_not_found", UNKNOWN),
        ({"model_id": f"mdl_{UNKNOWN}"}, "/model_id", "model_not_found", UNKNOWN),
        ({"model_id": "mdl_x"}, "/model_id", "string_pattern_mismatch", ""),
        ({"labels": {"a b": "x"}}, "/labels/a b", "string_pattern_mismatch", ""),
        ({"seed": 10**30}, "/seed", "less_than_equal", ""),
        ({"name": "a\0"}, "/name", "bad_text", ""),
        ({"outputs": ["onnx"]}, "/outputs/0", "literal_error", "safetensors"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_at_its_place(
    client, model_id, dataset_id, changes, pointer, code, says
):
    answer = client.post("/v1/jobs", json=job_spec(model_id, dataset_id) | changes)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert errors_of(answer) == {pointer: code}
    assert says in answer.json()["detail"]


def test_all_faults_are_told_at_once(client, model_id):
    spec = {"model_id": model_id, "x": 1, "recipe": {"target": {"value": 2}, "criterion": {"nam": "x"}}}
    answer = client.post("/v1/jobs", json=spec)
    assert set(errors_of(answer)) == {
        "/x",
        "/recipe/target/value",
        "/recipe/criterion/name",
        "/recipe/criterion/nam",
    }


def test_an_empty_finetune_becomes_that_of_the_task_with_a_gradual_schedule(client, model_id, dataset_id):
    resolved = client.post("/v1/jobs", json=job_spec(model_id, dataset_id, finetune={})).json()[
        "resolved_spec"
    ]
    finetune = resolved["finetune"]
    assert (finetune["epochs"], finetune["max_steps"], finetune["learning_rate"]) == (8, None, 0.02)
    assert finetune["distillation"] == {"alpha": 0.9, "temperature": 4.0, "hidden_states": None}
    assert resolved["recipe"]["schedule"]["name"] == "cubic"
    assert resolved["recipe"]["schedule"]["params"]["end_fraction"] == 1.0


def test_early_stopping_needs_a_validation_split(client, model_id, dataset_id):
    finetune = {**TRAIN, "early_stopping": {}}
    answer = client.post("/v1/jobs", json=job_spec(model_id, dataset_id, finetune=finetune))
    assert errors_of(answer) == {"/finetune/early_stopping": "validation_split_required"}


def test_a_dataset_without_a_train_split_cannot_fine_tune(client, model_id):
    dataset_id = uploads.upload_dataset(client, {"test": npz_bytes()}).json()["id"]
    answer = client.post("/v1/jobs", json=job_spec(model_id, dataset_id, finetune=TRAIN))
    assert errors_of(answer) == {"/finetune": "train_split_required"}
    assert client.post("/v1/jobs", json=job_spec(model_id, dataset_id)).status_code == 202


@pytest.mark.parametrize(
    ("split", "changes", "code"),
    [
        (npz_bytes(shape=(1, 5, 4)), {}, "dataset_mismatch"),
        (npz_bytes(shape=(4, 4, 1)), {}, "dataset_mismatch"),
        (npz_bytes(y=[i % 20 for i in range(40)]), {}, "dataset_mismatch"),
        (npz_bytes(y=[0] * 39 + [57]), {}, "labels_out_of_range"),
        (npz_bytes(shape=(4, 4, 1)), {"layout": "NHWC"}, None),
        (npz_bytes(y=[i % 3 for i in range(40)]), {}, None),
    ],
    ids=["shape", "layout", "classes", "label", "nhwc", "fewer-classes"],
)
def test_a_dataset_that_the_model_cannot_read_is_refused(client, model_id, split, changes, code):
    dataset_id = uploads.upload_dataset(client, {"test": split}, **changes).json()["id"]
    answer = client.post("/v1/jobs", json=job_spec(model_id, dataset_id))
    if code is None:
        assert answer.status_code == 202
    else:
        assert (answer.status_code, answer.json()["code"]) == (422, code)
        assert errors_of(answer) == {"/dataset_id": code}


def test_a_job_may_be_queued_while_its_model_is_checked(client):
    model_id = uploads.upload_model(client).json()["id"]
    answer = client.post(
        "/v1/jobs", json=job_spec(model_id, **recipe(layers=[{"match": "?", "set": {"sparsity": 0.1}}]))
    )
    assert answer.status_code == 202


def test_a_refused_spec_queues_nothing(client, parts, model_id):
    before = count_jobs(parts)
    client.post("/v1/jobs", json=job_spec(model_id, dataset_id=f"dst_{UNKNOWN}"))
    client.post("/v1/jobs/validate", json=job_spec(model_id))
    assert count_jobs(parts) == before


def count_jobs(parts) -> int:
    with parts.reading_sessions() as session:
        return session.scalar(select(func.count()).select_from(Job))


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


def test_a_job_for_a_device_that_no_worker_has_is_refused_at_once(serve):
    client = serve(devices=["cpu"])
    model_id = uploads.upload_model(client).json()["id"]
    for path in ("/v1/jobs", "/v1/jobs/validate"):
        answer = client.post(path, json=job_spec(model_id, resources={"device": "cuda"}))
        (error,) = answer.json()["errors"]
        assert (error["pointer"], error["code"]) == ("/resources/device", "device_not_there")
        assert "expected auto or cpu" in error["detail"]
    assert client.post("/v1/jobs", json=job_spec(model_id, resources={"device": "cpu"})).status_code == 202


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


def test_without_structure_and_recipe_the_recipe_is_missing(client, model_id, dataset_id):
    spec = job_spec(model_id, dataset_id)
    del spec["recipe"]
    answer = client.post("/v1/jobs", json=spec)
    assert answer.status_code == 422
    assert errors_of(answer) == {"/recipe": "missing"}


def test_a_latency_that_is_not_measured_cannot_be_aimed_at(client, model_id, dataset_id):
    changes = structure(target={"metric": "latency_ms", "value": 1.0}) | {"evaluation": {"latency": None}}
    answer = client.post("/v1/jobs", json=job_spec(model_id, dataset_id, **changes))
    assert errors_of(answer) == {"/evaluation/latency": "latency_required"}
