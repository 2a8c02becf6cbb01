"""Every number of a report, counted again from the downloaded files by other means."""

import hashlib
import math
import shutil
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import f1_score, matthews_corrcoef

from app.core.states import Stage
from tests.support.digits import ARCHITECTURE
from worker.models.registry import build
from worker.pipeline.comparisons import compare_answers
from worker.pipeline.job import Job


@pytest.fixture(scope="module")
def dense(uploads) -> dict[str, np.ndarray]:
    return load_file(uploads.model)


@pytest.fixture(scope="module")
def pruned(finished) -> dict[str, np.ndarray]:
    return load_file(finished.output / "artifacts" / "model.safetensors")


@pytest.fixture(scope="module")
def report(finished):
    return finished.report


def is_parameter(name: str) -> bool:
    return "running" not in name and "num_batches" not in name


def is_layer_weight(name: str) -> bool:
    return "conv" in name or name == "linear.weight"


def read_correct(uploads, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Which test samples a plain module gets right."""
    return predict(uploads, tensors) == np.load(uploads.test)["y"]


def predict(uploads, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """What a plain module answers to the test samples, in plain torch."""
    module = build(ARCHITECTURE).module
    module.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    test = np.load(uploads.test)
    with torch.no_grad():
        return module(torch.from_numpy(test["x"]).float() / 255).argmax(1).numpy()


def test_zeros_and_parameters_are_those_of_the_file(report, dense, pruned):
    parameters = [value for name, value in pruned.items() if is_parameter(name)]
    total, nonzero = sum(p.size for p in parameters), sum(int(np.count_nonzero(p)) for p in parameters)
    assert (report.summary.parameters.after, report.summary.nonzero.after) == (total, nonzero)
    assert report.summary.sparsity.total == pytest.approx(1 - nonzero / total)
    before = sum(int(np.count_nonzero(v)) for name, v in dense.items() if is_parameter(name))
    assert report.summary.nonzero.before == before


def test_exactly_the_requested_number_of_weights_is_zero(report, pruned):
    weights = [value for name, value in pruned.items() if is_layer_weight(name)]
    total = sum(w.size for w in weights)
    zeros = sum(int((w == 0).sum()) for w in weights)
    assert zeros == round(0.7 * total)
    assert report.summary.sparsity.masked == report.summary.sparsity.prunable == pytest.approx(zeros / total)


def test_each_layers_row_is_that_of_its_tensor(report, dense, pruned):
    rows = {row.name: row for row in report.layers}
    assert set(rows) == {name for name in pruned if is_parameter(name)}
    for name, row in rows.items():
        assert row.shape_before == dense[name].shape
        assert row.shape_after == pruned[name].shape
        assert row.nonzero == np.count_nonzero(pruned[name])
        assert row.sparsity == pytest.approx(1 - row.nonzero / pruned[name].size)
        assert row.prunable == is_layer_weight(name)
        assert (row.why_not is None) == row.prunable


def test_sizes_are_those_of_the_files(report, uploads, finished):
    before = uploads.model.read_bytes()
    after = (finished.output / "artifacts" / "model.safetensors").read_bytes()
    sizes = report.summary.size_bytes
    assert (sizes.dense_before, sizes.artifact) == (len(before), len(after))
    assert sizes.compressed_before == len(zlib.compress(before, 6))
    assert sizes.compressed == len(zlib.compress(after, 6)) < sizes.compressed_before


def test_accuracies_are_those_of_a_plain_module_with_the_files_weights(report, uploads, dense, pruned):
    metric = report.summary.metrics[0]
    baseline, final = read_correct(uploads, dense), read_correct(uploads, pruned)
    assert metric.n == len(final)
    assert metric.baseline == pytest.approx(baseline.mean())
    assert metric.final == pytest.approx(final.mean())
    assert metric.drop == pytest.approx(baseline.mean() - final.mean())
    assert metric.baseline_ci95[0] < metric.baseline < metric.baseline_ci95[1]
    assert metric.drop_ci95[0] <= metric.drop <= metric.drop_ci95[1]


def test_f1_and_mcc_are_scikit_learns_on_the_answers_of_a_plain_module(report, uploads, dense, pruned):
    truth, before, after = np.load(uploads.test)["y"], predict(uploads, dense), predict(uploads, pruned)
    _, f1, mcc = report.summary.metrics
    assert (f1.name, f1.average, mcc.name) == ("f1", "macro", "mcc")
    for metric, measure in ((f1, partial(f1_score, average="macro")), (mcc, matthews_corrcoef)):
        assert metric.baseline == pytest.approx(measure(truth, before))
        assert metric.final == pytest.approx(measure(truth, after))
        assert metric.drop == pytest.approx(measure(truth, before) - measure(truth, after))


def test_what_changed_is_counted_by_answer_and_by_class(report, uploads, dense, pruned):
    truth, before, after = (
        np.load(uploads.test)["y"],
        read_correct(uploads, dense),
        read_correct(uploads, pruned),
    )
    flips = report.summary.metrics[0].flips
    assert (flips.became_wrong, flips.became_right) == ((before & ~after).sum(), (~before & after).sum())
    assert [row.label for row in report.classes] == list(range(10))
    for row in report.classes:
        members = truth == row.label
        assert row.n == members.sum()
        assert row.baseline == pytest.approx(before[members].mean())
        assert row.final == pytest.approx(after[members].mean())
    worst = report.summary.worst_class
    assert worst.drop == max(row.drop for row in report.classes)
    assert worst.drop_ci95 == report.classes[worst.label].drop_ci95


def test_the_accuracy_before_recovery_is_that_of_the_dense_weights_with_the_smallest_gone(
    report, uploads, dense
):
    weights = {name: value for name, value in dense.items() if is_layer_weight(name)}
    magnitudes = np.sort(np.concatenate([np.abs(w).ravel() for w in weights.values()]))
    threshold = magnitudes[round(0.7 * len(magnitudes))]  # no two weights are as large, here
    one_shot = {n: np.where(np.abs(v) < threshold, 0, v) if n in weights else v for n, v in dense.items()}
    assert report.summary.metrics[0].pruned == pytest.approx(read_correct(uploads, one_shot).mean())


def test_effective_macs_leave_out_the_zeros(report, pruned):
    # Positions of each layer at 8x8 with one block a group: 64, then 16, then 4; the last layer has one.
    positions = {"conv1": 64, "layer1": 64, "layer2": 16, "layer3": 4, "linear": 1}
    weights = {name: value for name, value in pruned.items() if is_layer_weight(name)}
    by_layer = {name: positions[name.split(".")[0]] for name in weights}
    macs = report.summary.macs
    assert macs.before == macs.after == sum(by_layer[n] * w.size for n, w in weights.items())
    assert macs.effective == sum(by_layer[n] * int(np.count_nonzero(w)) for n, w in weights.items())


def test_weights_take_their_bytes_and_inference_takes_more(report, pruned):
    memory = report.summary.memory_bytes
    assert memory.weights_before == memory.weights_after == sum(v.nbytes for v in pruned.values())
    assert memory.peak_inference_before == memory.peak_inference_after > memory.weights_after


def test_latency_says_what_was_measured(report):
    (latency,) = report.summary.latency
    assert (latency.device, latency.batch_size, latency.repeats, latency.threads) == ("cpu", 1, 10, 1)
    assert latency.speedup == pytest.approx(latency.baseline_ms.p50 / latency.final_ms.p50)
    assert "parameters are zero" in latency.why


def test_masks_are_the_zeros_of_the_file(finished, pruned):
    masks = finished.index.masks
    assert {mask.name for mask in masks} == {name for name in pruned if is_layer_weight(name)}
    for mask in masks:
        packed = (finished.output / mask.file).read_bytes()
        assert hashlib.sha256(packed).hexdigest() == mask.sha256
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=math.prod(mask.shape), bitorder="little")
        kept = bits.astype(bool).reshape(mask.shape)
        assert not pruned[mask.name][~kept].any()
        assert pruned[mask.name][kept].all()
        assert mask.sparsity == pytest.approx(1 - kept.mean())


def test_artifacts_are_listed_with_their_digests(finished, report):
    assert [artifact.name for artifact in report.artifacts] == ["model.safetensors", "masks.safetensors"]
    assert report.artifacts == finished.index.artifacts
    for artifact in report.artifacts:
        content = (finished.output / "artifacts" / artifact.name).read_bytes()
        assert (artifact.size_bytes, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert artifact.loads_in_clean_process


def test_the_export_keeps_the_names_of_the_upload(dense, pruned):
    assert {name: value.shape for name, value in pruned.items()} == {n: v.shape for n, v in dense.items()}


def test_history_climbs_to_the_target(report):
    sparsities = [row.sparsity for row in report.history]
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] == pytest.approx(report.summary.sparsity.masked)
    for row in report.history:
        assert row.sparsity == pytest.approx(row.target, abs=1e-3)


def test_inputs_and_environment_say_what_ran(report, uploads):
    assert report.inputs.model.sha256 == hashlib.sha256(uploads.model.read_bytes()).hexdigest()
    assert report.inputs.dataset.splits == {"train": 1258, "test": 539}
    assert report.environment.versions["torch"] == torch.__version__
    assert (report.environment.threads, report.environment.determinism) == (1, "bitwise")


def test_every_stage_starts_and_finishes_in_order(finished):
    said = [(m.type, m.stage) for m in finished.messages if m.type.startswith("stage.")]
    assert said == [(type_, s) for s in Stage for type_ in ("stage.started", "stage.finished")]


def test_intervals_without_width_are_no_certainty(finished, tmp_path):
    shutil.copytree(finished.work, tmp_path / "work")
    baseline, evaluated = (tmp_path / "work" / "stages" / stage for stage in ("baseline", "evaluate"))
    shutil.copyfile(baseline / "records.safetensors", evaluated / "records.safetensors")
    compared = compare_answers(Job(tmp_path / "work", finished.given))
    (warning,) = compared.warnings
    assert "alike for f1, mcc" in warning
    assert {one.drop for one in compared.metrics} == {0.0}
