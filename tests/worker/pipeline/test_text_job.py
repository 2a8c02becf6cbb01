"""Jobs on text in a work folder: a folder goes in, a folder that from_pretrained loads comes out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from app.core.errors import DatasetMismatch, ExportMismatch
from app.core.spec import JobSpec
from app.core.states import Stage
from tests.support.huggingface import (
    csv_bytes,
    make_bert_folder,
    make_folder,
    make_gpt2_folder,
    model_input,
    sentences,
)
from tests.worker.pipeline.conftest import Run, run_job
from worker.measure.size import digest_file
from worker.pipeline.check import check_model
from worker.pipeline.job import Job
from worker.pipeline.verify import run_verify
from worker.protocol import CheckInput, CheckOutput, DatasetInput, RunnerInput


def dataset_input(folder: Path, data: bytes, **changes) -> DatasetInput:
    files = {split: folder / split for split in ("train", "test")}
    for path in files.values():
        path.write_bytes(data)
    given = {
        "format": "csv",
        "task": "text-classification",
        "layout": None,
        "normalize": None,
        "files": files,
        "sha256": {split: digest_file(path) for split, path in files.items()},
    }
    return DatasetInput(**{**given, **changes})


def runner_input(model: Path, dataset: DatasetInput, **changes) -> RunnerInput:
    spec = {
        "model_id": "mdl_" + "0" * 26,
        "dataset_id": "dst_" + "0" * 26,
        "recipe": {"target": {"value": 0.5}},
        "evaluation": {"latency": None},
        "outputs": ["huggingface", "masks"],
    } | changes
    return RunnerInput(
        job_id="job_" + "0" * 26,
        spec_sha256="0" * 64,
        spec=JobSpec.model_validate_json(json.dumps(spec)),
        model=model_input(model),
        dataset=dataset,
        threads=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("bert")
    dataset = dataset_input(folder, csv_bytes(sentences()), max_tokens=8)
    finetune = {"max_steps": 15, "batch_size": 16, "optimizer": "adamw", "learning_rate": 3e-3}
    model = make_bert_folder(folder / "model", dtype=torch.float16)
    config = json.loads((model / "config.json").read_text())
    # Half of a pair of code units, which is no text that UTF-8 can hold.
    config["id2label"] = {"0": "\ud83d", "1": "gr\u00f6\u00dfe"}
    (model / "config.json").write_text(json.dumps(config))
    return run_job(folder / "work", runner_input(model, dataset, finetune=finetune))


def test_the_exported_folder_loads_with_its_zeros(finished):
    artifacts = finished.output / "artifacts"
    assert {path.name for path in artifacts.iterdir()} == {
        "config.json",
        "masks.safetensors",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model = AutoModelForSequenceClassification.from_pretrained(artifacts, local_files_only=True)
    state = model.state_dict()
    masked = [mask.name for mask in finished.index.masks]
    zeros = sum(int((state[name] == 0).sum()) for name in masked)
    total = sum(state[name].numel() for name in masked)
    assert abs(zeros - total / 2) <= 1
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_what_is_not_weights_comes_back_as_it_went_in(finished):
    artifacts, uploaded = finished.output / "artifacts", finished.given.model.files
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (artifacts / name).read_bytes() == uploaded[name].read_bytes()
    before, after = (json.loads(p.read_text()) for p in (uploaded["config.json"], artifacts / "config.json"))
    assert after == before | {"dtype": "float32"}


def test_tensors_keep_the_names_of_the_upload(finished):
    exported = load_file(finished.output / "artifacts" / "model.safetensors")
    assert set(exported) == set(load_file(finished.given.model.files["weights"]))


def test_what_was_converted_and_cut_is_said_while_loading(finished):
    load = next(m for m in finished.messages if m.type == "stage.finished" and m.stage == Stage.LOAD)
    converted, *cut = load.data["warnings"]
    assert "float16" in converted
    assert len(cut) == 2
    assert "more than 8 tokens" in cut[0]


def test_the_report_names_the_model_by_all_of_its_files(finished):
    model = finished.report.inputs.model
    assert model.sha256 == finished.given.model.digest
    assert model.format == "huggingface"


def test_the_same_job_gives_the_same_bytes(finished, tmp_path):
    again = run_job(tmp_path / "again", finished.given)
    assert [a.sha256 for a in again.index.artifacts] == [a.sha256 for a in finished.index.artifacts]


def test_a_tied_language_model_is_pruned_by_its_activations(tmp_path):
    text = "\n".join(text for text, _ in sentences(200)).encode()
    dataset = dataset_input(tmp_path, text, format="text", task="language-modeling", block_tokens=32)
    recipe = {
        "target": {"value": 0.5},
        "criterion": {"name": "wanda"},
        "allocation": {"name": "uniform"},
    }
    model = make_gpt2_folder(tmp_path / "model")
    run = run_job(tmp_path / "work", runner_input(model, dataset, recipe=recipe))
    loaded = AutoModelForCausalLM.from_pretrained(run.output / "artifacts", local_files_only=True)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    state = loaded.state_dict()
    for mask in run.index.masks:
        assert float((state[mask.name] == 0).float().mean()) == pytest.approx(0.5, abs=1e-3)
    rows = {row.name: row for row in run.report.layers}
    assert rows["transformer.wte.weight"].macs_before > 0
    assert rows["transformer.h.0.mlp.c_fc.weight"].sparsity == pytest.approx(0.5)


def test_shards_become_one_file(tmp_path):
    dataset = dataset_input(tmp_path, csv_bytes(sentences()))
    model = make_folder(tmp_path / "model", "llama", classes=2, max_shard_size="40KB")
    run = run_job(tmp_path / "work", runner_input(model, dataset))
    names = {path.name for path in (run.output / "artifacts").iterdir()}
    assert "model.safetensors" in names
    assert "model.safetensors.index.json" not in names
    assert run.report.summary.size_bytes.dense_before == sum(
        path.stat().st_size for path in model.glob("*.safetensors")
    )


def test_regression_ends_with_one_number_a_text(tmp_path):
    rows = [(text, label - 0.5) for text, label in sentences()]
    dataset = dataset_input(tmp_path, csv_bytes(rows), task="regression")
    model = make_bert_folder(tmp_path / "model", classes=1)
    run = run_job(tmp_path / "work", runner_input(model, dataset))
    records = load_file(run.work / "stages" / "evaluate" / "records.safetensors")
    assert (records["prediction"].shape, records["truth"].tolist()) == ((64,), [label for _, label in rows])


def test_a_task_that_the_model_does_not_serve_ends_the_job_while_loading(tmp_path):
    dataset = dataset_input(tmp_path, csv_bytes(sentences()))
    given = runner_input(make_gpt2_folder(tmp_path / "model"), dataset)
    with pytest.raises(DatasetMismatch, match="the model can serve language-modeling"):
        run_job(tmp_path / "work", given)


def test_a_folder_that_from_pretrained_reads_otherwise_is_found(finished, tmp_path):
    run = run_job(tmp_path / "work", finished.given)
    job = Job(run.work, run.given)
    config = job.folder(Stage.EXPORT).path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "electra"}))
    with pytest.raises(ExportMismatch, match="does not load in a clean process"):
        run_verify(job, job.folder(Stage.VERIFY), None)


def test_the_deep_check_tells_what_a_folder_takes_and_serves(tmp_path):
    model = make_gpt2_folder(tmp_path / "model", dtype=torch.bfloat16)
    given = CheckInput(model_id="mdl_" + "0" * 26, model=model_input(model), threads=1)
    (tmp_path / "work").mkdir()
    check_model(tmp_path / "work", given)
    found = CheckOutput.model_validate_json((tmp_path / "work" / "output" / "output.json").read_bytes())
    assert found.input_signature == {
        "kind": "text",
        "shape": [64],
        "dtype": "int64",
        "vocabulary": 300,
        "measured_tokens": 64,
        "classes": 300,
        "tasks": ["language-modeling"],
    }
    assert "bfloat16" in found.warnings[0]
    layers = {layer.name: layer for layer in found.layers}
    assert layers["transformer.h.0.attn.c_attn.weight"].prunable
    assert not layers["transformer.wte.weight"].prunable
    assert layers["transformer.wte.weight"].aliases == ("lm_head.weight",)
    assert found.macs > 0
    assert found.forward_ms > 0
