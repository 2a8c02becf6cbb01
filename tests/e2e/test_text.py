"""Text over HTTP, from a folder of transformers to one that from_pretrained loads again."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pyarrow
import pyarrow.parquet
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from app.client import Client
from tests.e2e.conftest import settled_model
from tests.support.huggingface import (
    csv_bytes,
    make_bert_folder,
    make_gpt2_folder,
    sentences,
    upload_folder,
    upload_texts,
)
from tests.support.service import Service, wait_for


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    service = Service(folder, f"sqlite:///{folder / 'secateur.db'}")
    try:
        service.start()
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def http(service):
    with httpx.Client(base_url=service.url, timeout=60.0, trust_env=False) as http:
        yield http


def upload(http, folder: Path) -> str:
    answer = upload_folder(http, folder)
    assert answer.status_code == 201, answer.text
    model_id = answer.json()["id"]
    model = wait_for(lambda: settled_model(http, model_id), "the model check")
    assert model["status"] == "ready", model
    return model_id


def run(http, spec: dict) -> dict:
    answer = http.post("/v1/jobs", json=spec | {"evaluation": {"latency": {"repeats": 10}}})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    wait_for(lambda: http.get(f"/v1/jobs/{job_id}").json()["is_terminal"], job_id, within_s=200.0)
    job = http.get(f"/v1/jobs/{job_id}").json()
    assert job["status"] == "succeeded", job["error"]
    return job


def download(service, http, job_id: str, folder: Path) -> Path:
    folder.mkdir()
    with Client(service.url) as client:
        for artifact in client.artifacts(job_id):
            assert artifact["loads_in_clean_process"]
            client.download(job_id, artifact, folder)
    return folder


def count_zeros(http, job_id: str, state) -> tuple[int, int]:
    masks = http.get(f"/v1/jobs/{job_id}/masks").json()["data"]
    tensors = [state[mask["name"]] for mask in masks]
    return sum(int((t == 0).sum()) for t in tensors), sum(t.numel() for t in tensors)


@pytest.mark.timeout(400)
def test_a_classifier_of_texts_is_pruned_by_half_and_loads_again(service, http, tmp_path):
    texts, labels = zip(*sentences(96), strict=True)
    parquet = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"sentence": list(texts), "label": list(labels)}), parquet)
    files = {"train": parquet.getvalue(), "test": parquet.getvalue()}
    dataset = upload_texts(http, files, format="parquet")
    assert dataset.status_code == 201, dataset.text
    spec = {
        "model_id": upload(http, make_bert_folder(tmp_path / "bert")),
        "dataset_id": dataset.json()["id"],
        "recipe": {"target": {"value": 0.5}, "schedule": {"name": "cubic"}},
        "finetune": {"max_steps": 20, "batch_size": 16, "optimizer": "adamw", "learning_rate": 3e-3},
    }
    job = run(http, spec)
    folder = download(service, http, job["id"], tmp_path / "pruned")
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    zeros, total = count_zeros(http, job["id"], model.state_dict())
    assert abs(zeros - total / 2) <= 1
    report = http.get(f"/v1/jobs/{job['id']}/report").json()
    accuracy = next(metric for metric in report["summary"]["metrics"] if metric["name"] == "accuracy")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    answers = model(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits.argmax(1)
    correct = sum(int(a == b) for a, b in zip(answers.tolist(), labels, strict=True))
    assert correct / len(labels) == pytest.approx(accuracy["final"])


@pytest.mark.timeout(400)
def test_a_language_model_is_pruned_at_once_by_its_activations(service, http, tmp_path):
    text = "\n".join(text for text, _ in sentences(300)).encode()
    changes = {"format": "text", "task": "language-modeling", "block_tokens": 32}
    dataset = upload_texts(http, {"train": text, "test": text}, **changes)
    assert dataset.status_code == 201, dataset.text
    spec = {
        "model_id": upload(http, make_gpt2_folder(tmp_path / "gpt2")),
        "dataset_id": dataset.json()["id"],
        "recipe": {
            "target": {"value": 0.5},
            "criterion": {"name": "wanda"},
            "allocation": {"name": "uniform"},
        },
    }
    job = run(http, spec)
    folder = download(service, http, job["id"], tmp_path / "pruned")
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["GPT2LMHeadModel"]
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    zeros, total = count_zeros(http, job["id"], model.state_dict())
    assert abs(zeros - total / 2) <= len(model.transformer.h) * 4


@pytest.mark.timeout(400)
def test_a_spec_file_names_a_folder_and_tables_by_their_paths(service, tmp_path):
    make_bert_folder(tmp_path / "bert")
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_bytes(csv_bytes(sentences()))
    spec = {
        "model": {"format": "huggingface", "path": "bert"},
        "dataset": {
            "task": "text-classification",
            "format": "csv",
            "train": "train.csv",
            "test": "test.csv",
        },
        "recipe": {"target": {"value": 0.5}},
        "evaluation": {"latency": None},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "app.cli", "run", "spec.json", "--url", service.url, "-o", "out"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", local_files_only=True)
