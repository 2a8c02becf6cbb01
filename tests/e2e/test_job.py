"""One job from upload to download, on both databases: what the report says is what the files hold."""

import hashlib
import zlib

import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.e2e.conftest import on_sqlite, settled_model
from tests.support import digits
from tests.support.service import wait_for

STAGES = ["load", "baseline", "prune", "finetune", "evaluate", "export", "verify"]


@pytest.fixture(scope="module")
def job(bench):
    job_id = bench.submit()
    done = bench.finish(job_id)
    assert done["status"] == "succeeded", (done["error"], bench.service.log("worker"))
    return done


@pytest.fixture(scope="module")
def report(bench, job):
    return bench.http.get(f"/v1/jobs/{job['id']}/report").json()


@pytest.fixture(scope="module")
def exported(bench, job):
    answer = bench.http.get(f"/v1/jobs/{job['id']}/artifacts/model.safetensors")
    assert answer.status_code == 200
    return answer.content


def test_events_are_gapless_and_pass_every_stage(bench, job):
    events = bench.events(job["id"])
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert [e["stage"] for e in events if e["type"] == "stage.finished"] == STAGES
    assert events[0]["type"] == "job.created"
    assert events[-1]["type"] == "job.succeeded"


def test_exactly_the_asked_share_of_the_prunable_weights_is_zero_in_the_file(report, exported):
    tensors = load(exported)
    prunable = [row for row in report["layers"] if row["prunable"]]
    weights = sum(row["parameters_before"] for row in prunable)
    zeros = sum(int((tensors[row["name"]] == 0).sum()) for row in prunable)
    assert zeros == round(0.7 * weights)
    assert report["summary"]["sparsity"]["prunable"] == zeros / weights


def test_the_report_counts_what_the_file_holds(report, exported):
    tensors = load(exported)
    summary = report["summary"]
    assert summary["size_bytes"]["artifact"] == len(exported)
    assert summary["size_bytes"]["compressed"] == len(zlib.compress(exported, 6))
    floats = {name: t for name, t in tensors.items() if "running" not in name and "num_batches" not in name}
    assert summary["parameters"]["after"] == sum(t.size for t in floats.values())
    assert summary["nonzero"]["after"] == sum(int(np.count_nonzero(t)) for t in floats.values())


def test_training_after_pruning_recovers_accuracy(report):
    metric = report["summary"]["metrics"][0]
    low, high = metric["drop_ci95"]
    assert low <= metric["drop"] <= high
    assert metric["drop"] == pytest.approx(metric["baseline"] - metric["final"])
    # The dense net of this test is untrained: three epochs must take it far beyond guessing one of ten.
    assert metric["final"] > 0.5


def test_artifacts_carry_their_digest_and_load_in_a_clean_process(bench, job, exported):
    artifacts = bench.http.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]
    by_name = {a["name"]: a for a in artifacts}
    assert {"model.safetensors", "masks.safetensors"} <= set(by_name)
    assert by_name["model.safetensors"]["sha256"] == hashlib.sha256(exported).hexdigest()
    assert all(a["loads_in_clean_process"] for a in artifacts)


def test_masks_over_http_are_the_zeros_of_the_file(bench, job, exported):
    tensors = load(exported)
    listed = bench.http.get(f"/v1/jobs/{job['id']}/masks").json()["data"]
    assert listed
    for row in listed:
        answer = bench.http.get(f"/v1/jobs/{job['id']}/masks/{row['name']}")
        shape = tuple(row["shape"])
        assert answer.headers["X-Mask-Shape"] == ",".join(map(str, shape))
        assert hashlib.sha256(answer.content).hexdigest() == row["sha256"]
        bits = np.unpackbits(np.frombuffer(answer.content, np.uint8), bitorder="little", count=np.prod(shape))
        mask = bits.reshape(shape).astype(bool)
        assert np.all(tensors[row["name"]][~mask] == 0)
        assert row["sparsity"] == pytest.approx(1.0 - mask.mean())


def test_layers_over_http_are_those_of_the_report(bench, job, report):
    rows = bench.http.get(f"/v1/jobs/{job['id']}/layers").json()["data"]
    assert rows == report["layers"]


def test_the_report_explains_why_zeros_bring_no_speed(report):
    [latency] = report["summary"]["latency"]
    low, high = latency["speedup_ci95"]
    assert low <= latency["speedup"] <= high
    assert "zeros" in latency["why"]


@on_sqlite
def test_the_same_job_again_gives_the_same_bytes(bench, job):
    again = bench.finish(bench.submit())
    assert again["status"] == "succeeded"
    assert again["spec_sha256"] == job["spec_sha256"]
    assert bench.digest(again["id"]) == bench.digest(job["id"])


def test_a_model_of_other_shapes_is_rejected_with_their_names(bench):
    answer = digits.upload_model(
        bench.http,
        architecture={"library": "secateur", "name": "resnet8x8", "params": {"width": 16}},
    )
    assert answer.status_code == 201
    model = _settle(bench, answer.json()["id"])
    assert model["rejection"]["code"] == "architecture_mismatch"
    assert "conv1.weight" in model["rejection"]["detail"]


def test_a_model_with_a_nan_is_rejected_with_the_tensor_s_name(bench):
    tensors = load(digits.model_bytes())
    tensors["linear.weight"][3, 3] = np.nan
    model = _settle(bench, digits.upload_model(bench.http, save(tensors)).json()["id"])
    assert model["rejection"]["code"] == "nonfinite_weights"
    assert "linear.weight" in model["rejection"]["detail"]
    refused = bench.http.post("/v1/jobs", json=digits.job_spec(model["id"], bench.dataset_id))
    assert refused.status_code == 422
    assert refused.json()["code"] == "model_rejected"


def _settle(bench, model_id: str) -> dict:
    model = wait_for(lambda: settled_model(bench.http, model_id), "the model check")
    assert model["status"] == "rejected"
    return model


@on_sqlite
def test_a_cut_model_is_smaller_and_its_artifacts_make_another_upload(bench):
    target = {"metric": "macs", "value": 150_000}
    job_id = bench.submit(structure={"target": target, "criterion": {"name": "taylor"}})
    done = bench.finish(job_id)
    assert done["status"] == "succeeded", (done["error"], bench.service.log("worker"))
    report = bench.http.get(f"/v1/jobs/{job_id}/report").json()
    assert report["summary"]["macs"]["after"] <= 150_000 < report["summary"]["macs"]["before"]
    base = f"/v1/jobs/{job_id}/artifacts"
    weights = bench.http.get(f"{base}/model.safetensors").content
    architecture = bench.http.get(f"{base}/architecture.json").json()
    answer = digits.upload_model(bench.http, weights, architecture=architecture)
    assert answer.status_code == 201, answer.text
    model = wait_for(lambda: settled_model(bench.http, answer.json()["id"]), "the model check")
    assert model["status"] == "ready", model
    assert model["parameters"] == report["summary"]["parameters"]["after"]
    assert model["macs"] == report["summary"]["macs"]["after"]


def test_every_layer_says_what_can_be_cut_with_it_or_why_it_stays(bench):
    rows = bench.http.get(f"/v1/models/{bench.model_id}/layers", params={"limit": 100}).json()["data"]
    by_name = {row["name"]: row for row in rows}
    first = by_name["conv1.weight"]
    assert first["group"] == "conv1.weight"
    assert "bn1.weight" in first["cut_with"]
    assert first["cut_why_not"] is None
    assert by_name["linear.weight"]["cut_why_not"] == "is what the model puts out"


@on_sqlite
@pytest.mark.parametrize(
    ("structure", "code", "said"),
    [
        (
            # A file's size is known when it is written.
            {"target": {"metric": "size_bytes", "value": 10}},
            "sparsity_unreachable",
            "even the smallest model is larger: asked for size_bytes 10, the nearest reachable is ",
        ),
    ],
)
def test_a_cut_that_cannot_be_ends_the_job_with_what_could_be(bench, structure, code, said):
    """A user's mistake: one attempt, and nothing to download."""
    job_id = bench.submit(structure=structure)
    job = bench.finish(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", code), job["error"]
    assert said in job["error"]["detail"]
    assert bench.http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"] == []


TIED = [
    {"match": "conv1", "set": {"min_sparsity": 0.5}},
    {"match": "layer1.0.conv2", "set": {"exclude": True}},
]


def test_rows_that_no_cut_could_keep_to_are_refused_before_anything_runs(bench):
    asked = {"target": {"metric": "macs", "value": 100_000}, "layers": TIED}
    spec = digits.job_spec(bench.model_id, bench.dataset_id, structure=asked)
    answer = bench.http.post("/v1/jobs", json=spec)
    assert answer.status_code == 422
    [fault] = answer.json()["errors"]
    assert (fault["pointer"], fault["code"]) == ("/structure/layers", "contradictory_rows")
    assert "but is cut together with layer1.0.conv2.weight, which is excluded" in fault["detail"]
