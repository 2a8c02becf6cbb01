"""Datasets over HTTP: splits by file name, every split checked, labels known."""

import numpy as np
import pytest
from sqlalchemy import func, select

from app.core.tables import Dataset
from tests.support import uploads
from tests.support.uploads import npz_bytes


def test_an_upload_tells_what_each_split_holds(client, parts):
    files = {"train": npz_bytes(40), "validation": npz_bytes(30), "test": npz_bytes(20)}
    answer = uploads.upload_dataset(client, files)
    dataset = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/datasets/{dataset['id']}"
    assert {name: split["n"] for name, split in dataset["splits"].items()} == {
        "train": 40,
        "validation": 30,
        "test": 20,
    }
    test = dataset["splits"]["test"]
    assert (test["shape"], test["dtype"], test["label_min"], test["label_max"]) == ([1, 4, 4], "u1", 0, 9)
    assert parts.store.local_path(test["sha256"]).read_bytes() == files["test"]
    assert client.get(f"/v1/datasets/{dataset['id']}").json() == dataset
    assert client.get("/v1/datasets?limit=1").json()["data"] == [dataset]


def test_one_file_may_serve_two_splits(client):
    answer = uploads.upload_dataset(
        client, {"test": npz_bytes()}, splits={"validation": "test.npz", "test": "test.npz"}
    )
    assert answer.status_code == 201
    splits = answer.json()["splits"]
    assert splits["validation"] == splits["test"]


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"x": np.array([{}] * 40, object)}, "object_array_refused"),
        ({"x": np.zeros((0, 1, 4, 4), np.uint8), "y": np.zeros(0, np.int64)}, "empty_dataset"),
        ({"y": np.full(40, -1)}, "labels_out_of_range"),
        ({"y": np.zeros(39, np.int64)}, "invalid_dataset"),
        ({"y": None}, "invalid_dataset"),
    ],
)
def test_a_split_that_is_no_dataset_is_refused_and_nothing_is_kept(client, parts, arrays, code):
    before = _kept(parts)
    answer = uploads.upload_dataset(client, {"train": npz_bytes(), "test": npz_bytes(**arrays)})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert "split test" in answer.json()["detail"]
    assert _kept(parts) == before


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"format": "csv"}, "unsupported_format", "/format"),
        ({"task": "text-classification"}, "unsupported_format", "/format"),
        ({"task": "translation"}, "unsupported_format", "/task"),
        ({"format": "hdf5"}, "unsupported_format", "/format"),
        ({"max_tokens": 8}, "invalid_manifest", "/max_tokens"),
        ({"block_tokens": 8}, "invalid_manifest", "/block_tokens"),
        ({"splits": {"test": "other.npz"}}, "invalid_upload", "/splits/test"),
        ({"splits": {"train": "train.npz"}}, "invalid_manifest", "/splits/test"),
        ({"splits": {"test": "test.npz", "dev": "train.npz"}}, "invalid_manifest", "/splits/dev"),
        ({"layout": "HWC"}, "invalid_manifest", "/layout"),
        ({"normalize": {"mean": [0.5, 0.5], "std": [1.0, 1.0]}}, "invalid_manifest", "/normalize/mean"),
        ({"normalize": {"mean": [0.5], "std": [0.0]}}, "invalid_manifest", "/normalize/std/0"),
        ({"normalize": {"mean": [0.5], "std": [1.0, 1.0]}}, "invalid_manifest", "/normalize"),
        ({"columns": {}}, "invalid_manifest", "/columns"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_at_its_place(client, changes, code, pointer):
    answer = uploads.upload_dataset(client, **changes)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_a_file_that_no_split_names_is_refused(client):
    answer = uploads.upload_dataset(client, splits={"test": "test.npz"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_upload")
    assert "train.npz" in answer.json()["detail"]


def test_splits_of_different_shapes_are_refused(client):
    answer = uploads.upload_dataset(
        client, {"train": npz_bytes(shape=(1, 4, 4)), "test": npz_bytes(shape=(1, 5, 5))}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_dataset")


def test_a_dataset_in_use_cannot_be_deleted(client, parts, model_id, tmp_path):
    dataset_id = uploads.upload_dataset(client).json()["id"]
    job_id = client.post("/v1/jobs", json=uploads.job_spec(model_id, dataset_id)).json()["id"]
    assert client.delete(f"/v1/datasets/{dataset_id}").json()["code"] == "resource_in_use"
    uploads.finish_job(parts, job_id, tmp_path)
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    assert client.get(f"/v1/datasets/{dataset_id}").status_code == 404


def _kept(parts) -> tuple[int, int, int]:
    with parts.reading_sessions() as session:
        rows = session.scalar(select(func.count()).select_from(Dataset))
    blobs = len(list((parts.store.bytes.root / "blobs").glob("??/*")))
    return rows, blobs, len(list((parts.store.bytes.root / "incoming").iterdir()))
