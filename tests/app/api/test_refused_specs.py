"""Specs that cannot be: refused when they are sent, with the place, a code and what was expected."""

import pytest
from sqlalchemy import func, select

from app.core.tables import Job
from tests.app.api.specs import TRAIN, errors_of, recipe, structure
from tests.support import uploads
from tests.support.uploads import job_spec, npz_bytes

UNKNOWN = "0" * 26


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
            structure(target={"metric": "macs", "value": 1}),
            "/structure/target/value",
            "sparsity_unreachable",
            "even the smallest model",
        ),
        (structure(kinds=["head"]), "/structure/kinds", "nothing_to_prune", "asked for head"),
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
        (
            recipe(criterion={"name": "fpgm"}, pattern={"name": "channel"}),
            "/recipe/pattern/name",
            "unsuitable_pattern",
            "take a pattern of outputs (filter, neuron)",
        ),
        (
            recipe(criterion={"name": "movement"}, schedule={"name": "rigl"}) | {"finetune": TRAIN},
            "/recipe/schedule",
            "unsuitable_schedule",
            "movement learns its scores in training, and rigl prunes before the first step",
        ),
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
        (
            {
                "evaluation": {"latency": None},
                "gates": [{"metric": "speedup", "op": ">=", "value": 1.5}],
            },
            "/gates/0/metric",
            "metric_not_measured",
            "nothing is timed",
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


def test_early_stopping_needs_a_validation_split(client, model_id, dataset_id):
    finetune = {**TRAIN, "early_stopping": {}}
    answer = client.post("/v1/jobs", json=job_spec(model_id, dataset_id, finetune=finetune))
    assert errors_of(answer) == {"/finetune/early_stopping": "validation_split_required"}


@pytest.mark.parametrize("metric", ["perplexity", "beauty"])
def test_early_stopping_is_judged_by_a_metric_of_the_task(client, model_id, metric):
    splits = {name: npz_bytes() for name in ("train", "validation", "test")}
    dataset_id = uploads.upload_dataset(client, splits).json()["id"]
    finetune = {**TRAIN, "early_stopping": {"metric": metric}}
    answer = client.post("/v1/jobs", json=job_spec(model_id, dataset_id, finetune=finetune))
    assert errors_of(answer) == {"/finetune/early_stopping/metric": "unknown_metric"}
    assert "accuracy" in answer.json()["errors"][0]["detail"]


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


def test_a_refused_spec_queues_nothing(client, parts, model_id):
    before = count_jobs(parts)
    client.post("/v1/jobs", json=job_spec(model_id, dataset_id=f"dst_{UNKNOWN}"))
    client.post("/v1/jobs/validate", json=job_spec(model_id))
    assert count_jobs(parts) == before


def count_jobs(parts) -> int:
    with parts.reading_sessions() as session:
        return session.scalar(select(func.count()).select_from(Job))


def test_a_job_for_a_device_that_no_worker_has_is_refused_at_once(serve):
    client = serve(devices=["cpu"])
    model_id = uploads.upload_model(client).json()["id"]
    for path in ("/v1/jobs", "/v1/jobs/validate"):
        answer = client.post(path, json=job_spec(model_id, resources={"device": "cuda"}))
        (error,) = answer.json()["errors"]
        assert (error["pointer"], error["code"]) == ("/resources/device", "device_not_there")
        assert "expected auto or cpu" in error["detail"]
    assert client.post("/v1/jobs", json=job_spec(model_id, resources={"device": "cpu"})).status_code == 202


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
