"""Stage folders and their manifests."""

import json

import pytest
import torch
from safetensors.torch import load_file

from app.core.states import Stage
from worker.pipeline.folder import StageFolder, write_tensors

INPUTS = {"job": "a", "before": "b"}


@pytest.fixture
def folder(tmp_path) -> StageFolder:
    """A finished stage with two files."""
    folder = StageFolder(tmp_path, Stage.PRUNE)
    folder.clear()
    folder.write_json("rows.json", [1, 2])
    folder.write_tensors("weights.safetensors", {"w": torch.arange(3.0)})
    folder.finish(INPUTS, {"accuracy": 0.5})
    return folder


def test_a_finished_stage_stands_with_what_it_said(folder):
    standing = folder.read_standing(INPUTS)
    assert standing is not None
    assert standing.data == {"accuracy": 0.5}
    assert set(standing.files) == {"rows.json", "weights.safetensors"}


def test_what_was_written_is_what_is_read(folder):
    assert folder.read_json("rows.json") == [1, 2]
    assert torch.equal(folder.read_tensors("weights.safetensors")["w"], torch.arange(3.0))


@pytest.mark.parametrize("inputs", [{"job": "a"}, {"job": "a", "before": "c"}, {**INPUTS, "more": "d"}])
def test_a_stage_made_from_other_inputs_does_not_stand(folder, inputs):
    assert folder.read_standing(inputs) is None


def test_a_changed_file_does_not_stand(folder):
    (folder.path / "rows.json").write_text("[1, 3]")
    assert folder.read_standing(INPUTS) is None


def test_a_missing_file_does_not_stand(folder):
    (folder.path / "rows.json").unlink()
    assert folder.read_standing(INPUTS) is None


def test_a_stage_killed_before_its_manifest_does_not_stand(folder):
    folder.manifest_path.unlink()
    assert folder.read_standing(INPUTS) is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"stage": "prune"}'])
def test_a_broken_manifest_does_not_stand(folder, content):
    folder.manifest_path.write_bytes(content)
    assert folder.read_standing(INPUTS) is None


def test_a_manifest_of_another_stage_does_not_stand(folder):
    manifest = json.loads(folder.manifest_path.read_bytes())
    folder.manifest_path.write_text(json.dumps({**manifest, "stage": "export"}))
    assert folder.read_standing(INPUTS) is None


def test_clearing_leaves_nothing_of_an_earlier_attempt(folder):
    folder.clear()
    assert list(folder.path.iterdir()) == []


def test_the_same_tensors_give_the_same_bytes_in_any_order(tmp_path):
    tensors = {"b": torch.arange(4.0).reshape(2, 2).t(), "a": torch.ones(1)}
    write_tensors(tmp_path / "one", tensors)
    write_tensors(tmp_path / "two", dict(reversed(tensors.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_tensors_that_share_memory_are_each_written_whole(tmp_path):
    weight = torch.rand(3, 4)
    write_tensors(tmp_path / "a", {"one": weight, "two": weight, "part": weight[1:]})
    found = load_file(tmp_path / "a")
    assert torch.equal(found["one"], weight)
    assert torch.equal(found["two"], weight)
    assert torch.equal(found["part"], weight[1:])
