"""Jobs that write a program of torch.export: it runs where there is torch alone, and holds no pickle."""

import json
import zipfile

import pytest
import torch

from app.core.errors import ExportMismatch
from tests.worker.pipeline.conftest import run_job
from tests.worker.pipeline.test_structure import STRUCTURE, make_spec
from worker.export.program import run_program, write_program
from worker.formats.registry import read_model
from worker.models.inputs import compute_logits
from worker.pipeline import export


@pytest.fixture(scope="module")
def finished(uploads, tmp_path_factory):
    """The digits' network cut to 4,000 parameters, written as a program too."""
    given = make_spec(uploads, structure=STRUCTURE, outputs=["safetensors", "pt2"])
    return run_job(tmp_path_factory.mktemp("program"), given)


def test_a_cut_model_runs_where_there_is_torch_alone(finished, tmp_path):
    artifacts = finished.output / "artifacts"
    described = json.loads((artifacts / "architecture.json").read_bytes())
    exported = finished.given.model.model_copy(
        update={"architecture": described, "files": {"weights": artifacts / "model.safetensors"}}
    )
    network = read_model(exported).network
    inputs = torch.rand(5, *network.inputs.shape)
    with torch.no_grad():
        expected = compute_logits(network.module.eval(), inputs)
    (found,) = run_program(artifacts / "model.pt2", [inputs], tmp_path)
    assert torch.allclose(found, expected, atol=1e-5)
    (listed,) = [one for one in finished.report.artifacts if one.name == "model.pt2"]
    assert (listed.kind, listed.loads_in_clean_process) == ("program", True)


def test_the_program_holds_no_pickle_and_says_nothing_of_the_machine(finished):
    with zipfile.ZipFile(finished.output / "artifacts" / "model.pt2") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert not [name for name, raw in content.items() if name.endswith((".pt", ".pkl")) and raw]
    weights = json.loads(content["model/data/weights/model_weights_config.json"])["config"]
    assert weights
    assert not any(one["use_pickle"] for one in weights.values())
    program = content["model/models/model.json"].decode()
    assert "stack_trace" not in program
    assert str(export.__file__).partition("worker")[0] not in program


def test_the_same_job_writes_the_same_bytes(finished, uploads, tmp_path):
    again = run_job(tmp_path / "again", finished.given)
    one, other = (run.output / "artifacts" / "model.pt2" for run in (finished, again))
    assert one.read_bytes() == other.read_bytes()


def test_a_program_that_answers_otherwise_ends_the_job(uploads, tmp_path, monkeypatch):
    def write_another(module, inputs, path):
        with torch.no_grad():
            next(module.parameters()).mul_(2.0)
        write_program(module, inputs, path)

    monkeypatch.setattr(export, "write_program", write_another)
    with pytest.raises(ExportMismatch, match=r"model\.pt2 answers 1 samples otherwise"):
        run_job(tmp_path / "work", make_spec(uploads, structure=STRUCTURE, outputs=["pt2"]))
