"""Spec files: local paths become uploads, and a path that is not there is said before anything is sent."""

import json
from pathlib import Path

import pytest

from app.spec_file import InvalidSpecFile, read_spec_file


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "bert").mkdir()
    for name in ("net.safetensors", "train.csv", "test.csv"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "list.json").write_text("[]")
    return tmp_path


def read(folder: Path, spec: object):
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return read_spec_file(path)


def test_a_model_is_a_file_or_a_folder(folder):
    found = read(folder, {"model": {"format": "huggingface", "path": "bert"}, "seed": 1})
    assert (found.model.path, found.model.manifest) == (folder / "bert", {"format": "huggingface"})
    assert found.spec == {"seed": 1}
    for word in ("path", "file"):
        assert read(folder, {"model": {word: "net.safetensors"}}).model.path == folder / "net.safetensors"


def test_an_architecture_may_be_the_file_that_a_job_left(folder):
    cut = {"library": "secateur", "name": "resnet8x8", "cut": {"padded": []}}
    (folder / "architecture.json").write_text(json.dumps(cut))
    model = {"file": "net.safetensors", "architecture": "architecture.json"}
    assert read(folder, {"model": model}).model.manifest == {"architecture": cut}


def test_splits_stand_by_themselves_or_together(folder):
    splits = {"train": "train.csv", "test": "test.csv"}
    manifest = {"task": "text-classification", "format": "csv", "name": "n"}
    for dataset in (manifest | splits, manifest | {"splits": splits}):
        found = read(folder, {"dataset": dataset}).dataset
        assert found.splits == {split: folder / name for split, name in splits.items()}
        assert found.manifest == manifest


def test_a_date_in_yaml_is_the_string_that_was_written(folder):
    path = folder / "spec.yaml"
    path.write_text("labels: {released: 2024-05-01, at: 2024-05-01T10:00:00Z, by: 1.5}")
    labels = {"released": "2024-05-01", "at": "2024-05-01T10:00:00Z", "by": 1.5}
    assert read_spec_file(path).spec == {"labels": labels}


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("spec.yaml", "recipe: {target: {value: .inf}}", "recipe.target.value"),
        ("spec.yaml", "gates: [{value: 1}, {value: -.inf}]", r"gates\.1\.value"),
        ("spec.yaml", "labels: {a: !!binary YQ==}", r"labels\.a"),
        ("spec.yaml", "labels: !!set {a, b}", "labels"),
        ("spec.yaml", "labels: {!!binary YQ==: a}", "labels"),
        ("spec.json", '{"recipe": {"target": {"value": NaN}}}', "recipe.target.value"),
    ],
)
def test_a_value_that_json_has_not_is_refused_with_its_place(folder, name, text, where):
    path = folder / name
    path.write_text(text)
    with pytest.raises(InvalidSpecFile, match=f"{name}: {where}: JSON has no "):
        read_spec_file(path)


def test_a_spec_that_holds_itself_is_refused(folder):
    path = folder / "spec.yaml"
    path.write_text("labels: &all {inner: *all}")
    with pytest.raises(InvalidSpecFile):
        read_spec_file(path)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"model": {"path": "nowhere"}}, "model.path: there is no file or folder"),
        ({"model": {}}, "model.path: expected the path"),
        ({"model": {"path": "bert", "file": "bert"}}, "either path or file"),
        ({"model": {"path": "bert", "architecture": "resnet-20"}}, "model.architecture: there is no file"),
        ({"model": {"path": "bert", "architecture": "list.json"}}, "expected a mapping with the name"),
        ({"dataset": {"test": "bert"}}, "dataset.test: there is no file"),
        ({"dataset": {"task": "regression"}}, "expected files under train, validation or test"),
        ({"dataset": {"test": "test.csv", "splits": {"test": "test.csv"}}}, "either splits or test"),
        ({"dataset": {"test": "test.csv"}, "dataset_id": "dst_1"}, "either dataset or dataset_id"),
    ],
)
def test_what_cannot_be_uploaded_is_said(folder, spec, says):
    with pytest.raises(InvalidSpecFile, match=says):
        read(folder, spec)
