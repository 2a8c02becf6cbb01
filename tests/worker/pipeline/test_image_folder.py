"""Jobs on a folder of transformers that takes images: what comes out has the names that went in."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from tests.support.huggingface import make_vit_folder, model_input
from tests.worker.pipeline.conftest import run_job
from worker.export.program import run_program
from worker.formats.registry import read_model
from worker.pipeline.check import check_model
from worker.protocol import CheckInput, CheckOutput

FINETUNE = {"max_steps": 6, "batch_size": 32, "optimizer": "adamw", "learning_rate": 1e-3}


@pytest.fixture
def folder(tmp_path):
    return make_vit_folder(tmp_path / "vit")


def run(uploads, folder, work, **spec):
    spec = {"finetune": FINETUNE, "outputs": ["huggingface", "pt2", "masks"]} | spec
    return run_job(work, uploads.runner_input(spec, model=model_input(folder)))


def test_its_check_says_what_it_takes_and_which_heads_can_go(folder, tmp_path):
    given = CheckInput(model_id="mdl_" + "0" * 26, model=model_input(folder), threads=1)
    (tmp_path / "work").mkdir()
    check_model(tmp_path / "work", given)
    found = CheckOutput.model_validate_json((tmp_path / "work" / "output" / "output.json").read_bytes())
    assert found.input_signature["shape"] == [1, 8, 8]
    assert found.input_signature["tasks"] == ["image-classification"]
    kinds = {group.kind for group in found.groups if group.why_not is None}
    assert {"head", "neuron"} <= kinds
    assert len(found.blocks) == 2


def test_pruned_it_is_read_by_transformers_and_runs_without_it(uploads, folder, tmp_path):
    recipe = {"target": {"value": 0.5}, "schedule": {"name": "cubic"}}
    done = run(uploads, folder, tmp_path / "work", recipe=recipe)
    artifacts = done.output / "artifacts"
    before, after = (load_file(path / "model.safetensors") for path in (folder, artifacts))
    assert before.keys() == after.keys()
    assert (artifacts / "preprocessor_config.json").read_bytes() == (
        folder / "preprocessor_config.json"
    ).read_bytes()
    loaded = AutoModelForImageClassification.from_pretrained(artifacts, attn_implementation="eager").eval()
    masks = load_file(artifacts / "masks.safetensors")
    state = loaded.state_dict()
    assert masks.keys() <= state.keys()
    zeros = sum(int((state[name] == 0).sum()) for name in masks)
    assert zeros == round(0.5 * sum(state[name].numel() for name in masks))
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        expected = loaded(images).logits
    (found,) = run_program(artifacts / "model.pt2", [images], tmp_path)
    assert torch.allclose(found, expected, atol=1e-5)


def test_cut_it_has_a_config_that_says_so(uploads, folder, tmp_path):
    asked = {"target": {"metric": "macs", "value": 25_000}, "kinds": ["head", "neuron"], "ranking": "uniform"}
    done = run(uploads, folder, tmp_path / "work", structure=asked, recipe={"target": {"value": 0.0}})
    artifacts = done.output / "artifacts"
    summary = done.report.summary
    assert summary.macs.after <= 25_000 < summary.macs.before
    loaded = AutoModelForImageClassification.from_pretrained(artifacts)
    assert sum(p.numel() for p in loaded.parameters()) == summary.parameters.after
    config = json.loads((artifacts / "config.json").read_bytes())
    assert config["intermediate_size"] < 64
    assert config["num_attention_heads"] < 4


def test_a_folder_under_the_names_of_the_network_keeps_those(folder):
    named = read_model(model_input(folder))
    path = folder / "model.safetensors"
    own = {in_file: name for name, in_file in named.names_in_file.items()}
    save_file({own.get(name, name): tensor for name, tensor in load_file(path).items()}, path)
    again = read_model(model_input(folder))
    assert again.names_in_file == {}
    assert again.tensor_names == named.tensor_names
    state = again.network.module.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in named.network.module.state_dict().items())
