"""Text over HTTP: folders of models, tables of texts, and which of them fit each other."""

import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.core import checks
from app.core.tables import Dataset, Model
from tests.support import uploads
from tests.support.huggingface import (
    csv_bytes,
    make_bert_folder,
    make_gpt2_folder,
    sentences,
    upload_folder,
    upload_texts,
)

DATABASES = ("sqlite",)
ROWS = csv_bytes(sentences())


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return make_bert_folder(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture
def folder(bert, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(bert, tmp_path / "copy"))


def kept(parts) -> tuple[int, int, int]:
    with parts.reading_sessions() as session:
        rows = sum(session.scalar(select(func.count()).select_from(table)) for table in (Model, Dataset))
    blobs = len(list((parts.store.bytes.root / "blobs").glob("??/*")))
    return rows, blobs, len(list((parts.store.bytes.root / "incoming").iterdir()))


def test_a_folder_is_kept_file_by_file_under_its_roles(client, parts, bert):
    answer = upload_folder(client, bert)
    model = answer.json()
    assert (answer.status_code, model["status"], model["format"]) == (201, "validating", "huggingface")
    assert model["architecture"] == {
        "library": "transformers",
        "name": "BertForSequenceClassification",
        "params": {"model_type": "bert"},
    }
    assert model["size_bytes"] == sum(path.stat().st_size for path in bert.iterdir())
    with parts.reading_sessions() as session:
        files = session.get_one(Model, model["id"]).files
    assert set(files) == {"weights", "config.json", "tokenizer.json", "tokenizer_config.json"}
    for role, file in files.items():
        assert file["name"] == ("model.safetensors" if role == "weights" else role)
        assert parts.store.local_path(file["sha256"]).read_bytes() == (bert / file["name"]).read_bytes()


def test_shards_are_kept_under_their_names(client, parts, tmp_path):
    folder = make_gpt2_folder(tmp_path / "sharded", max_shard_size="40KB")
    model_id = upload_folder(client, folder).json()["id"]
    with parts.reading_sessions() as session:
        assert set(session.get_one(Model, model_id).files) == {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "invalid_upload"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickle_refused"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x02}q\0."), "pickle_refused"),
        (lambda f: (f / "modeling.py").write_text("import os"), "invalid_upload"),
        (lambda f: _edit(f, auto_map={"AutoModel": "m.M"}), "invalid_model"),
        (lambda f: _edit(f, model_type="t5"), "unknown_architecture"),
        (lambda f: _edit(f, hidden_size=2**40), "invalid_model"),
        (lambda f: (f / "config.json").write_text('{"a":' * 50_000), "invalid_model"),
        (lambda f: (f / "config.json").write_text('{"a": 1, "a": 1}'), "duplicate_keys"),
    ],
)
def test_a_folder_that_cannot_be_is_refused_and_nothing_is_kept(client, parts, folder, spoil, code):
    before = kept(parts)
    spoil(folder)
    answer = upload_folder(client, folder)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert kept(parts) == before


def _edit(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_architecture_beside_a_config_is_refused(client, bert):
    answer = upload_folder(client, bert, architecture=uploads.ARCHITECTURE)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/architecture")


def test_what_the_deep_check_says_of_the_weights_is_shown(client, parts, bert):
    model_id = upload_folder(client, bert).json()["id"]
    assert client.get(f"/v1/models/{model_id}").json()["warnings"] == []
    make_ready(parts, model_id, warnings=["converted"])
    assert client.get(f"/v1/models/{model_id}").json()["warnings"] == ["converted"]


def make_ready(parts, model_id: str, *, task: str = "text-classification", classes: int = 2, **more) -> None:
    signature = {"kind": "text", "shape": [64], "dtype": "int64", "classes": classes, "tasks": [task]}
    with parts.sessions.begin() as session:
        check = checks.begin(session, model_id, timeout_s=60.0)
        found = uploads.inspection() | {"input_signature": signature} | more
        checks.accept(session, model_id, check, inspection=found)


def test_a_table_tells_what_each_split_holds(client):
    dataset = upload_texts(client, {"train": ROWS, "test": ROWS}, max_tokens=32).json()
    test = dataset["splits"]["test"]
    assert (test["n"], test["label_min"], test["label_max"], test["classes"]) == (64, 0, 1, 2)
    assert (test["shape"], test["dtype"], dataset["layout"], dataset["max_tokens"]) == (None, None, None, 32)
    assert client.get(f"/v1/datasets/{dataset['id']}").json() == dataset


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"format": "text"}, "unsupported_format", "/format"),
        ({"task": "image-classification"}, "unsupported_format", "/format"),
        ({"layout": "NCHW"}, "invalid_manifest", "/layout"),
        ({"normalize": {"mean": [0.0], "std": [1.0]}}, "invalid_manifest", "/normalize"),
        ({"block_tokens": 16}, "invalid_manifest", "/block_tokens"),
        ({"max_tokens": 1}, "invalid_manifest", "/max_tokens"),
        ({"columns": {"txet": "a"}}, "invalid_manifest", "/columns/txet"),
        ({"task": "language-modeling", "max_tokens": 8}, "invalid_manifest", "/max_tokens"),
        ({"task": "language-modeling", "columns": {"label": "label"}}, "invalid_manifest", "/columns/label"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_at_its_place(client, changes, code, pointer):
    answer = upload_texts(client, {"test": ROWS}, **changes)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("data", "changes", "code", "says"),
    [
        (b"text,label\na,1\nb,x\n", {}, "invalid_dataset", "split test, line 3, column 'label'"),
        (b"text,label\na,-1\n", {}, "labels_out_of_range", "split test, line 2"),
        (b"text,label\n", {}, "empty_dataset", "split test"),
        (ROWS, {"columns": {"label": "gold"}}, "invalid_dataset", "no column 'gold'"),
        (b'{"text": "a"}', {"format": "jsonl"}, "invalid_dataset", "no column 'label'"),
        (b"PAR1", {"format": "parquet"}, "truncated_file", "split test"),
        (b"a\0b", {"format": "text", "task": "language-modeling"}, "invalid_dataset", "NUL"),
        (b"text,label\na,inf\n", {"task": "regression"}, "invalid_dataset", "finite"),
    ],
)
def test_a_split_that_cannot_be_is_refused_and_nothing_is_kept(client, parts, data, changes, code, says):
    before = kept(parts)
    answer = upload_texts(client, {"test": data}, **changes)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert says in answer.json()["detail"]
    assert kept(parts) == before


@pytest.fixture(scope="module")
def bert_id(client, parts, bert) -> str:
    model_id = upload_folder(client, bert).json()["id"]
    make_ready(parts, model_id)
    return model_id


def test_a_folder_is_given_back_whole_unless_other_outputs_are_named(client, bert_id, model_id):
    def outputs(model: str, **changes):
        answer = client.post("/v1/jobs/validate", json=uploads.job_spec(model, **changes)).json()
        return answer["errors"] or answer["resolved_spec"]["outputs"]

    assert outputs(bert_id) == ["huggingface", "safetensors", "masks"]
    assert outputs(bert_id, outputs=["masks"]) == ["masks"]
    assert outputs(model_id) == ["safetensors", "masks"]
    (fault,) = outputs(model_id, outputs=["masks", "huggingface"])
    assert (fault["pointer"], fault["code"]) == ("/outputs/1", "output_unavailable")


@pytest.mark.parametrize(
    ("data", "changes", "code", "says"),
    [
        (b"text,label\na,0.5\n", {"task": "regression"}, "dataset_mismatch", "is for regression"),
        (ROWS, {"task": "language-modeling"}, "dataset_mismatch", "is for language-modeling"),
        (b"text,label\n" + b"a,0\nb,1\nc,2\n" * 2, {}, "dataset_mismatch", "3 classes, the model tells 2"),
        (b"text,label\na,0\nb,7\n", {}, "labels_out_of_range", "the label 7"),
    ],
)
def test_a_dataset_that_the_model_cannot_serve_is_refused_with_the_job(
    client, bert_id, data, changes, code, says
):
    dataset = upload_texts(client, {"test": data}, **changes).json()
    answer = client.post("/v1/jobs", json=uploads.job_spec(bert_id, dataset["id"]))
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert says in answer.json()["detail"]


def test_images_are_no_text_for_a_job_either(client, bert_id, dataset_id):
    answer = client.post("/v1/jobs", json=uploads.job_spec(bert_id, dataset_id))
    assert answer.json()["code"] == "dataset_mismatch"
    assert "is for image-classification" in answer.json()["detail"]


def test_numbers_for_images_do_not_serve_a_model_of_texts(client, parts, bert):
    model_id = upload_folder(client, bert).json()["id"]
    make_ready(parts, model_id, task="regression", classes=1)
    dataset = uploads.upload_dataset(client, task="regression").json()
    answer = client.post("/v1/jobs", json=uploads.job_spec(model_id, dataset["id"]))
    assert (answer.json()["code"], "holds images" in answer.json()["detail"]) == ("dataset_mismatch", True)


def test_the_time_of_a_job_on_uncounted_samples_is_left_open(client, bert_id):
    files = {"train": b"PAR1" + b"\0" * 8 + b"\x04\0\0\0PAR1"} | {
        "test": b"PAR1" + b"\0" * 8 + b"\x04\0\0\0PAR1"
    }
    dataset = upload_texts(client, files, format="parquet").json()
    answer = client.post("/v1/jobs/validate", json=uploads.job_spec(bert_id, dataset["id"])).json()
    assert answer["valid"], answer["errors"]
    assert answer["plan"]["time"]["seconds"] is None
