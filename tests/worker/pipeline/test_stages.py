"""The stages one after the other: skipping, repeating, and what ends a job."""

import shutil
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.core.errors import (
    ArchitectureMismatch,
    DatasetMismatch,
    DivergedTraining,
    ExportMismatch,
    InvalidDataset,
    LabelsOutOfRange,
    NonfiniteWeights,
    Unavailable,
)
from app.core.report import Report
from app.core.states import Stage
from tests.worker.pipeline.conftest import run_job
from worker.measure.size import digest_file
from worker.pipeline.export import run_export
from worker.pipeline.folder import StageFolder
from worker.pipeline.job import Job
from worker.pipeline.predictions import read_records
from worker.pipeline.verify import run_verify
from worker.pruning.errors import PruningError

QUICK = {"finetune": None, "evaluation": {"latency": None}}


def digests(run) -> dict[str, str]:
    return {artifact.name: artifact.sha256 for artifact in run.index.artifacts}


@pytest.fixture
def copied(finished, tmp_path):
    """A work folder in which everything is done already."""
    shutil.copytree(finished.work, tmp_path / "work")
    return tmp_path / "work"


def test_a_finished_job_that_runs_again_skips_every_stage(finished, copied):
    again = run_job(copied, finished.given)
    assert all(again.skipped.values())
    assert again.report == finished.report


def test_a_lost_output_is_made_again_from_the_stages(finished, copied):
    shutil.rmtree(copied / "output")
    assert digests(run_job(copied, finished.given)) == digests(finished)


def test_a_damaged_stage_runs_again_and_those_after_it_still_stand(finished, copied):
    # The repeated stage gives the same bytes, so what was made of them is still true.
    state = copied / "stages" / "finetune" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\x01")
    again = run_job(copied, finished.given)
    assert [stage for stage, is_skipped in again.skipped.items() if not is_skipped] == ["finetune"]
    assert digests(again) == digests(finished)


def test_another_seed_runs_everything_again_and_gives_another_model(finished, copied, uploads):
    again = run_job(copied, uploads.runner_input({"seed": 1, **QUICK, "finetune": {"max_steps": 2}}))
    assert not any(again.skipped.values())
    assert digests(again)["model.safetensors"] != digests(finished)["model.safetensors"]


def test_the_same_job_in_another_folder_gives_the_same_bytes(finished, tmp_path):
    assert digests(run_job(tmp_path / "other", finished.given)) == digests(finished)


def test_without_finetune_the_schedules_rounds_follow_each_other(uploads, tmp_path):
    run = run_job(tmp_path / "work", uploads.runner_input(QUICK))
    finished = {m.stage: m.data for m in run.messages if m.type == "stage.finished"}
    assert finished[Stage.FINETUNE] == {"reason": "no finetune in the spec"}
    metrics = run.report.summary.metrics
    assert [metric.name for metric in metrics] == ["accuracy", "f1", "mcc"]
    assert all(metric.pruned == metric.final for metric in metrics)
    assert len(run.report.history) == 20
    assert run.report.history[-1].metrics == {metric.name: metric.final for metric in metrics}
    assert run.report.summary.latency == ()
    assert any("no fine-tuning" in warning for warning in run.report.warnings)


def test_only_the_metrics_asked_for_are_measured(uploads, tmp_path):
    spec = {**QUICK, "evaluation": {"metrics": ["mcc"], "latency": None}}
    run = run_job(tmp_path / "work", uploads.runner_input(spec))
    (metric,) = run.report.summary.metrics
    said = {m.stage: m.data for m in run.messages if m.type == "stage.finished"}
    assert said[Stage.EVALUATE] == {"mcc": metric.final, "n": 539}
    assert said[Stage.BASELINE] == {"mcc": metric.baseline, "n": 539}
    assert said[Stage.VERIFY]["mcc"] == metric.final
    assert len(run.report.classes) == 10


def test_a_metric_that_the_task_does_not_have_ends_the_job(uploads, tmp_path):
    spec = {**QUICK, "evaluation": {"metrics": ["perplexity"]}}
    with pytest.raises(DatasetMismatch, match="there are: accuracy, f1, mcc"):
        run_job(tmp_path / "work", uploads.runner_input(spec))


def test_controls_that_the_fine_tune_left_are_compared_with_the_dense_model_too(finished, copied):
    job = Job(copied, finished.given)
    records = read_records(job.folder(Stage.EVALUATE))
    guessed = {**records, "prediction": torch.zeros_like(records["prediction"])}
    job.folder(Stage.FINETUNE).write_tensors("control-zeros.safetensors", guessed)
    job.folder(Stage.FINETUNE).write_tensors("control-again.safetensors", records)
    report = make_report_again(job)
    again, zeros = report.controls
    assert (again.name, zeros.name) == ("again", "zeros")
    assert [m.model_copy(update={"pruned": None}) for m in report.summary.metrics] == list(again.metrics)
    share = float((records["truth"] == 0).float().mean())
    assert zeros.metrics[0].final == pytest.approx(share)
    assert zeros.metrics[0].baseline == report.summary.metrics[0].baseline
    assert report.summary == finished.report.summary.model_copy(update={"latency": report.summary.latency})


def test_what_stages_warn_of_is_in_the_report_once(finished, copied):
    job = Job(copied, finished.given)
    for stage, warnings in (
        (Stage.LOAD, ["two texts are cut"]),
        (Stage.FINETUNE, ["two texts are cut", "x"]),
    ):
        folder = job.folder(stage)
        folder.finish({}, {**folder.read_data(), "warnings": warnings})
    warnings = make_report_again(job).warnings
    assert warnings[:2] == ("two texts are cut", "x")
    assert warnings[2:] == finished.report.warnings


def make_report_again(job: Job) -> Report:
    run_verify(job, job.folder(Stage.VERIFY), None)
    return Report.model_validate_json((job.folder(Stage.VERIFY).path / "report.json").read_bytes())


def test_without_a_dataset_the_weights_are_pruned_and_nothing_is_claimed(uploads, tmp_path):
    spec = {**QUICK, "dataset_id": None, "gates": [{"metric": "accuracy", "op": ">=", "value": 0.5}]}
    report = run_job(tmp_path / "work", uploads.runner_input(spec, dataset=None)).report
    assert (report.summary.metrics, report.classes, report.controls) == ((), (), ())
    assert report.inputs.dataset is None
    assert report.gates[0].outcome == "not_evaluated"
    assert any("not known" in warning for warning in report.warnings)


def test_each_file_is_compressed_once_to_know_its_size(uploads, tmp_path, monkeypatch):
    levels: list[int] = []
    make = zlib.compressobj
    monkeypatch.setattr(zlib, "compressobj", lambda level: levels.append(level) or make(level))
    run = run_job(tmp_path / "work", uploads.runner_input(QUICK))
    exported = Job(run.work, run.given).folder(Stage.EXPORT).read_data()
    assert "model.safetensors" in exported
    # One more is the upload.
    assert len(levels) == len(exported) + 1


def test_layers_that_the_recipe_excludes_stay_dense(uploads, tmp_path):
    rows = [{"match": "linear*", "set": {"exclude": True}}]
    spec = {**QUICK, "recipe": {"target": {"value": 0.5}, "layers": rows}, "outputs": ["safetensors"]}
    run = run_job(tmp_path / "work", uploads.runner_input(spec))
    linear = next(row for row in run.report.layers if row.name == "linear.weight")
    assert (linear.sparsity, linear.prunable) == (0.0, True)
    assert linear.why_not is not None
    assert "linear.weight" not in {mask.name for mask in run.index.masks}
    sparsity = run.report.summary.sparsity
    assert sparsity.masked > sparsity.prunable > sparsity.total
    assert list(digests(run)) == ["model.safetensors"]


def test_a_model_without_batch_counters_is_exported_without_them(uploads, tmp_path):
    tensors = {n: t for n, t in load_file(uploads.model).items() if "num_batches" not in n}
    model = uploads.model_input(**write_model(tmp_path, tensors))
    run = run_job(tmp_path / "work", uploads.runner_input(QUICK, model=model))
    assert set(load_file(run.output / "artifacts" / "model.safetensors")) == set(tensors)


def write_model(folder, tensors) -> dict:
    path = folder / "other.safetensors"
    save_file(tensors, path)
    return {"files": {"weights": path}, "sha256": {"weights": digest_file(path)}}


def write_split(folder, **arrays) -> dict:
    path = folder / "other.npz"
    np.savez(path, **arrays)
    return {"files": {"test": path}, "sha256": {"test": digest_file(path)}}


def check_that_load_raises(error, match, folder, given):
    with pytest.raises(error, match=match):
        run_job(folder / "work", given)
    assert not (folder / "work" / "stages" / "load" / "manifest.json").exists()
    assert not (folder / "work" / "output").exists()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda t: t.pop("conv1.weight"), ArchitectureMismatch, "conv1.weight"),
        (lambda t: t.update(more=torch.zeros(1)), ArchitectureMismatch, "more"),
        (lambda t: t["bn1.bias"].fill_(float("nan")), NonfiniteWeights, "bn1.bias"),
    ],
)
def test_a_model_that_does_not_fit_ends_the_job_while_loading(uploads, tmp_path, change, error, match):
    tensors = load_file(uploads.model)
    change(tensors)
    model = uploads.model_input(**write_model(tmp_path, tensors))
    check_that_load_raises(error, match, tmp_path, uploads.runner_input(QUICK, model=model))


@pytest.mark.parametrize(
    ("arrays", "error", "match"),
    [
        ({"x": np.zeros((4, 3, 32, 32), np.uint8), "y": np.arange(4)}, DatasetMismatch, "32"),
        ({"x": np.zeros((40, 1, 8, 8), np.uint8), "y": np.arange(40) % 20}, DatasetMismatch, "20 classes"),
        (
            {"x": np.zeros((4, 1, 8, 8), np.uint8), "y": np.array([0, 1, 2, 10])},
            LabelsOutOfRange,
            "10 at index 3",
        ),
        ({"x": np.full((4, 1, 8, 8), np.nan), "y": np.arange(4)}, InvalidDataset, "NaN"),
    ],
)
def test_a_dataset_that_does_not_fit_ends_the_job_while_loading(uploads, tmp_path, arrays, error, match):
    dataset = uploads.dataset_input(**write_split(tmp_path, **arrays))
    check_that_load_raises(error, match, tmp_path, uploads.runner_input(QUICK, dataset=dataset))


def test_fine_tuning_without_a_train_split_ends_the_job_while_loading(uploads, tmp_path):
    dataset = uploads.dataset_input(files={"test": uploads.test})
    given = uploads.runner_input(dataset=dataset)
    check_that_load_raises(InvalidDataset, "needs the split train", tmp_path, given)


@pytest.mark.parametrize("role", ["weights", "train", "test"])
def test_a_local_copy_that_differs_from_the_upload_is_no_fault_of_the_user(uploads, tmp_path, role):
    if role == "weights":
        given = uploads.runner_input(model=uploads.model_input(sha256={role: "0" * 64}))
    else:
        sha256 = {**uploads.dataset_input().sha256, role: "0" * 64}
        given = uploads.runner_input(dataset=uploads.dataset_input(sha256=sha256))
    with pytest.raises(Unavailable, match=role):
        run_job(tmp_path / "work", given)


def test_a_diverging_fine_tune_ends_the_job_and_keeps_the_stages_before_it(uploads, tmp_path):
    given = uploads.runner_input({"finetune": {"max_steps": 5, "learning_rate": 1e30}})
    with pytest.raises(DivergedTraining):
        run_job(tmp_path / "work", given)
    assert (tmp_path / "work" / "stages" / "prune" / "manifest.json").exists()
    assert not (tmp_path / "work" / "stages" / "finetune" / "manifest.json").exists()


def test_a_recipe_that_matches_nothing_ends_the_job(uploads, tmp_path):
    rows = [{"match": "fc9*", "set": {"exclude": True}}]
    given = uploads.runner_input({**QUICK, "recipe": {"target": {"value": 0.5}, "layers": rows}})
    with pytest.raises(PruningError, match="fc9"):
        run_job(tmp_path / "work", given)


def export_with(copied, given, change) -> tuple[Job, StageFolder]:
    """Export again, and change the file behind the job's back."""
    job = Job(copied, given)
    path = job.folder(Stage.EXPORT).path / "model.safetensors"
    run_export(job, job.folder(Stage.EXPORT), None)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return job, job.folder(Stage.VERIFY)


def test_an_export_that_answers_otherwise_is_found(finished, copied):
    job, folder = export_with(copied, finished.given, lambda t: t["linear.bias"].add_(torch.arange(10.0)))
    with pytest.raises(ExportMismatch, match=r"answers \d+ of 539 test samples otherwise \(prediction\)"):
        run_verify(job, folder, None)


def test_an_export_with_revived_weights_is_found(finished, copied):
    def revive(tensors):
        weight = tensors["layer3.0.conv2.weight"]
        weight[weight == 0] = 1e-30

    job, folder = export_with(copied, finished.given, revive)
    with pytest.raises(ExportMismatch, match=r"layer3.0.conv2.weight has 0 zeros"):
        run_verify(job, folder, None)


def test_an_export_that_does_not_load_is_found(finished, copied):
    job, folder = export_with(copied, finished.given, lambda t: t.pop("linear.bias"))
    with pytest.raises(ExportMismatch, match=r"does not load in a clean process.*linear.bias"):
        run_verify(job, folder, None)
