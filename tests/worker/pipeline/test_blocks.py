"""Jobs that leave whole blocks out: artifacts that load again, reports that name what went, zeros on top."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from app.core.errors import ArchitectureMismatch, InvalidSpec
from app.core.spec import JobSpec, Recipe
from app.services.manifests import Cut
from tests.support.huggingface import (
    csv_bytes,
    make_bert_folder,
    make_folder,
    make_gpt2_folder,
    model_input,
    sentences,
)
from tests.worker.pipeline.conftest import Run, run_job
from tests.worker.pipeline.digits_job import Uploads
from tests.worker.pipeline.test_structure import exported_input, make_spec
from tests.worker.pipeline.test_text_job import dataset_input
from tests.worker.pipeline.test_text_job import runner_input as text_input
from worker.formats.registry import read_model
from worker.measure.macs import count_macs
from worker.measure.size import digest_file
from worker.models.registry import build
from worker.pipeline.check import check_model
from worker.pipeline.row_names import follow_blocks
from worker.protocol import CheckInput, CheckOutput, DatasetInput, ModelInput
from worker.pruning.errors import NoMatch
from worker.pruning.layers import find_layers
from worker.pruning.removal.depth import Depth
from worker.pruning.removal.surgery import Removal, remove

LAYERS = 4
STACK = "bert.encoder.layer"
TRAINING = {"max_steps": 6, "batch_size": 16, "optimizer": "adamw", "learning_rate": 1e-3}


def structure(value: float, **given: Any) -> dict[str, Any]:
    return {"kinds": ["block"], "target": {"metric": "parameters", "value": value}, **given}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def cut_folder(tmp_path: Path, folder: Path, stack: str, gone: int = 2, **changes: Any) -> Run:
    """Leave `gone` blocks out of a folder's model."""
    module = read_model(model_input(folder)).network.module
    target = count(module) - gone * count(module.get_submodule(f"{stack}.0"))
    asked = structure(target) | changes.pop("structure", {})
    dataset = changes.pop("dataset", None) or dataset_input(tmp_path, csv_bytes(sentences()), max_tokens=8)
    return run_job(tmp_path / "work", text_input(folder, dataset, structure=asked, **changes))


def language(tmp_path: Path) -> DatasetInput:
    text = "\n".join(text for text, _ in sentences(200)).encode()
    return dataset_input(tmp_path, text, format="text", task="language-modeling", block_tokens=16)


def uploaded_again(run: Run) -> ModelInput:
    """Describe what a job left as somebody who uploads it."""
    files = {path.name: path for path in (run.output / "artifacts").iterdir()}
    del files["masks.safetensors"]
    files["weights"] = files.pop("model.safetensors")
    sha256 = {role: digest_file(path) for role, path in files.items()}
    return ModelInput(
        format="huggingface", architecture=run.given.model.architecture, files=files, sha256=sha256
    )


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Run:
    """A BERT of four layers without two of the last three, half of the rest zero, trained for a moment."""
    tmp_path = tmp_path_factory.mktemp("bert")
    folder = make_bert_folder(tmp_path / "model", num_hidden_layers=LAYERS)
    return cut_folder(
        tmp_path,
        folder,
        STACK,
        structure={
            "criterion": {"name": "block_influence"},
            "layers": [{"match": f"{STACK}.0.*", "set": {"exclude": True}}],
        },
        recipe={
            "target": {"value": 0.5},
            "layers": [{"match": f"{STACK}.0.*", "set": {"exclude": True}}],
        },
        finetune={**TRAINING, "distillation": {"alpha": 0.5}},
    )


def test_from_pretrained_loads_a_folder_with_fewer_layers(bert):
    artifacts = bert.output / "artifacts"
    config = json.loads((artifacts / "config.json").read_bytes())
    assert config["num_hidden_layers"] == 2
    assert "secateur_cut" not in config
    loaded = AutoModelForSequenceClassification.from_pretrained(artifacts)
    tensors = load_file(artifacts / "model.safetensors")
    assert set(loaded.state_dict()) == set(tensors)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in tensors.items())
    assert not any("from_pretrained" in warning for warning in bert.report.warnings)


def test_the_report_says_which_blocks_went_and_why_others_could_not(bert):
    report = bert.report
    free, stays = report.structure.groups
    assert (free.name, free.kind, free.units_before, free.units_after) == (STACK, "block", 3, 1)
    assert len(free.gone) == 2
    assert set(free.gone) < {f"{STACK}.{number}" for number in (1, 2, 3)}
    assert (stays.name, stays.units_after, stays.gone) == (f"{STACK}[0]", 1, ())
    assert stays.why_not == "is excluded by the recipe"
    assert report.structure.after <= report.structure.target < report.structure.before
    assert report.summary.parameters.after == report.structure.after
    assert report.summary.macs.after < report.summary.macs.before
    assert [row.metrics["parameters"] for row in report.history if row.note and "units cut out" in row.note]


def test_every_layer_of_the_upload_has_a_row_those_gone_too(bert):
    tensors = load_file(bert.output / "artifacts" / "model.safetensors")
    rows = {row.name: row for row in bert.report.layers}
    uploaded = read_model(bert.given.model).network.module
    assert set(rows) == {layer.name for layer in find_layers(uploaded)}
    gone = bert.report.structure.groups[0].gone
    for name, row in rows.items():
        is_gone = any(name.startswith(f"{block}.") for block in gone)
        assert (row.name_after is None) == is_gone == (row.parameters_after == 0)
        if is_gone:
            assert (row.macs_after, row.why_not) == (0, "is left out with its block")
            assert row.parameters_before > 0
        else:
            assert row.shape_after == tuple(tensors[row.name_after].shape)
        assert (row.group == STACK) == name.startswith((f"{STACK}.1", f"{STACK}.2", f"{STACK}.3"))
    assert sum(row.parameters_after for row in rows.values()) == bert.report.summary.parameters.after


def test_zeros_and_training_come_on_top(bert):
    summary = bert.report.summary
    assert summary.sparsity.masked == pytest.approx(0.5, abs=1e-3)
    assert summary.metrics[0].pruned is not None
    stages = {one.stage.value: one.data for one in bert.messages if one.type == "stage.finished"}
    assert stages["finetune"]["steps"] == TRAINING["max_steps"]


def test_rows_of_the_recipe_mean_the_layers_of_the_upload(tmp_path):
    folder = make_bert_folder(tmp_path / "model", num_hidden_layers=LAYERS)
    last = {"match": f"{STACK}.3.*", "set": {"exclude": True}}
    run = cut_folder(
        tmp_path,
        folder,
        STACK,
        gone=3,
        structure={"layers": [last], "max_fraction": 1.0},
        recipe={"target": {"value": 0.5}, "layers": [last]},
    )
    tensors = load_file(run.output / "artifacts" / "model.safetensors")
    kept = tensors[f"{STACK}.0.output.dense.weight"]
    dense = read_model(run.given.model).network.module.get_parameter(f"{STACK}.3.output.dense.weight")
    assert torch.equal(kept, dense)
    assert any((tensor == 0).float().mean() > 0.3 for tensor in tensors.values())


def test_rows_are_followed_to_new_numbers_and_dropped_with_what_is_gone():
    asked = [
        ("blocks.1.*", {"sparsity": 0.1}),
        ("blocks.2.*", {"sparsity": 0.2}),
        ("*", {"max_sparsity": 0.9}),
    ]
    recipe = {
        "target": {"value": 0.5},
        "layers": [{"match": match, "set": setting} for match, setting in asked],
    }
    rows = Recipe.model_validate_json(json.dumps(recipe)).layers
    module = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(2)])})
    removal = Removal({}, {}, (Depth("blocks", (0, 2), 3),))
    found = follow_blocks(rows, find_layers(module), removal)
    assert [(row.match, row.set.sparsity) for row in found] == [("blocks.1.weight", 0.2), ("*", None)]
    assert follow_blocks(rows, find_layers(module), None) == rows


def test_a_row_of_the_recipe_that_matches_nothing_is_refused_before_anything_is_cut(tmp_path):
    folder = make_bert_folder(tmp_path / "model", num_hidden_layers=LAYERS)
    rows = [{"match": f"{STACK}.7.*", "set": {"exclude": True}}]
    with pytest.raises(NoMatch):
        cut_folder(tmp_path, folder, STACK, recipe={"target": {"value": 0.5}, "layers": rows})


def test_a_cut_folder_uploads_again_and_loses_units_and_more_blocks(bert, tmp_path):
    again = bert.given.model_copy(update={"model": uploaded_again(bert)})
    spec = again.spec.model_dump(mode="json")
    spec["recipe"] = {"target": {"value": 0.0}}
    spec["structure"] = {
        "target": {"metric": "parameters", "value": 0.9 * bert.report.summary.parameters.after},
        "kinds": ["head", "neuron"],
    }
    spec["finetune"] = None
    again = again.model_copy(update={"spec": JobSpec.model_validate_json(json.dumps(spec))})
    second = run_job(tmp_path / "second", again)
    assert second.report.summary.parameters.before == bert.report.summary.parameters.after
    config = json.loads((second.output / "artifacts" / "config.json").read_bytes())
    assert config["num_hidden_layers"] == 2
    assert config["secateur_cut"] == {"padded": []}
    spec["structure"] = structure(0.9 * second.report.summary.parameters.after)
    third = run_job(
        tmp_path / "third",
        again.model_copy(
            update={
                "model": uploaded_again(second),
                "spec": JobSpec.model_validate_json(json.dumps(spec)),
            }
        ),
    )
    config = json.loads((third.output / "artifacts" / "config.json").read_bytes())
    assert config["num_hidden_layers"] == 1
    assert count(read_model(uploaded_again(third)).network.module) == third.report.summary.parameters.after


def test_a_gpt_loses_layers_and_its_tied_embeddings_hold(tmp_path):
    folder = make_gpt2_folder(tmp_path / "model", n_layer=3)
    dataset = language(tmp_path)
    structure = {"criterion": {"name": "block_loss"}}
    run = cut_folder(tmp_path, folder, "transformer.h", gone=1, dataset=dataset, structure=structure)
    loaded = AutoModelForCausalLM.from_pretrained(run.output / "artifacts")
    assert (loaded.config.n_layer, count(loaded)) == (2, run.report.summary.parameters.after)
    assert run.report.summary.metrics[0].name == "perplexity"


def test_a_target_in_bytes_is_one_of_the_file_without_the_blocks(tmp_path):
    folder = make_gpt2_folder(tmp_path / "model", n_layer=3)
    target = {"metric": "size_bytes", "value": 0.8 * (folder / "model.safetensors").stat().st_size}
    run = cut_folder(
        tmp_path, folder, "transformer.h", dataset=language(tmp_path), structure={"target": target}
    )
    size = (run.output / "artifacts" / "model.safetensors").stat().st_size
    assert size == run.report.structure.after <= target["value"]


@pytest.mark.parametrize("model_type", ["distilbert", "roberta", "electra", "qwen3"])
def test_each_family_says_its_depth_in_its_own_words(tmp_path, model_type):
    classes = None if model_type == "qwen3" else 2
    name = {"distilbert": "n_layers"}.get(model_type, "num_hidden_layers")
    folder = make_folder(tmp_path / "model", model_type, classes=classes, **{name: 3})
    stacks = {"distilbert": "distilbert.transformer.layer", "qwen3": "model.layers"}
    stack = stacks.get(model_type, f"{model_type}.encoder.layer")
    dataset = language(tmp_path) if classes is None else None
    run = cut_folder(tmp_path, folder, stack, gone=1, dataset=dataset)
    config = json.loads((run.output / "artifacts" / "config.json").read_bytes())
    assert config[name] == 2
    assert "secateur_cut" not in config


RESNET = {"name": "resnet-20", "params": {"in_channels": 1, "image_size": 8, "classes": 10}}
VIT = {"name": "vit-small-images", "params": {"width": 16, "depth": 3}}


def cut_images(tmp_path: Path, uploads: Uploads, architecture: dict[str, Any], share: float) -> Run:
    """Leave blocks out of a built-in network until that share of its parameters is left."""
    torch.manual_seed(0)
    module = build(architecture).module
    path = tmp_path / "model.safetensors"
    save_file(module.state_dict(), path)
    model = uploads.model_input(
        architecture={"library": "secateur", **architecture},
        files={"weights": path},
        sha256={"weights": digest_file(path)},
    )
    given = make_spec(uploads, structure=structure(share * count(module)))
    return run_job(tmp_path / "work", given.model_copy(update={"model": model}))


@pytest.fixture(scope="module")
def resnet(uploads: Uploads, tmp_path_factory) -> Run:
    return cut_images(tmp_path_factory.mktemp("resnet"), uploads, RESNET, 0.9)


def test_a_built_in_network_says_as_data_which_blocks_stayed(resnet):
    cut = exported_input(resnet).architecture["cut"]
    (row,) = cut["blocks"]
    assert (row["name"], row["blocks"], len(row["kept"])) == ("layer3", 3, 2)
    assert row["kept"][0] == 0
    assert Cut.model_validate_json(json.dumps(cut))
    loaded = read_model(exported_input(resnet))
    assert count(loaded.network.module) == resnet.report.summary.parameters.after
    assert count(loaded.build().module) == resnet.report.summary.parameters.after
    assert resnet.report.structure.batchnorm_samples > 0
    reasons = {group.name: group.why_not for group in resnet.report.structure.groups}
    assert "makes hidden states of the shape" in reasons["layer2[0]"]


@pytest.mark.parametrize("kinds", [["block"], ["channel"]])
def test_a_built_in_network_without_blocks_uploads_again_and_is_cut_further(resnet, tmp_path, uploads, kinds):
    before = resnet.report.summary.parameters.after
    given = make_spec(uploads, structure=structure(0.8 * before, kinds=kinds))
    again = run_job(tmp_path / "work", given.model_copy(update={"model": exported_input(resnet)}))
    assert again.report.summary.metrics[0].baseline == resnet.report.summary.metrics[0].final
    assert again.report.summary.parameters.after <= 0.8 * before
    loaded = read_model(exported_input(again))
    assert count(loaded.network.module) == again.report.summary.parameters.after
    assert count(loaded.build().module) == again.report.summary.parameters.after


def test_a_vision_transformer_loses_layers(tmp_path, uploads):
    run = cut_images(tmp_path, uploads, VIT, 0.7)
    assert len(read_model(exported_input(run)).network.module.get_submodule("blocks")) == 2
    assert run.report.structure.groups[0].gone


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"name": "layer9", "kept": [0], "blocks": 3}, "has other blocks: 'layer9' matches no"),
        ({"name": "layer1", "kept": [0], "blocks": 9}, "has 3 blocks in layer1, its cut is one of 9"),
        ({"name": "layer1", "kept": [0], "blocks": 3}, "missing|unexpected|no tensor|does not"),
    ],
)
def test_an_architecture_with_other_blocks_than_its_tensors_is_refused(resnet, row, said):
    architecture = exported_input(resnet).architecture
    with pytest.raises(ArchitectureMismatch, match=said):
        read_model(exported_input(resnet, architecture=architecture | {"cut": {"blocks": [row]}}))


@pytest.mark.parametrize("kept", [[], [1, 0], [0, 0], [0, 3], [-1]])
def test_kept_blocks_are_some_of_the_blocks_in_their_order(kept):
    with pytest.raises(ValidationError):
        Cut.model_validate({"blocks": ({"name": "layer1", "kept": tuple(kept), "blocks": 3},)})


def test_hidden_states_of_other_blocks_are_refused_with_what_to_do(tmp_path):
    folder = make_bert_folder(tmp_path / "model", num_hidden_layers=LAYERS)
    finetune = {**TRAINING, "distillation": {"hidden_states": 1.0}}
    with pytest.raises(InvalidSpec, match="2, of 4 in the whole model; leave hidden_states out"):
        cut_folder(tmp_path, folder, STACK, finetune=finetune)


def test_the_deep_check_names_the_block_of_every_layer_and_what_goes_with_it(tmp_path):
    folder = make_bert_folder(tmp_path / "model", num_hidden_layers=3)
    given = CheckInput(model_id="mdl_" + "0" * 26, model=model_input(folder), threads=1)
    check_model(tmp_path, given)
    found = CheckOutput.model_validate_json((tmp_path / "output" / "output.json").read_bytes())
    assert [block.name for block in found.blocks] == [f"{STACK}.{number}" for number in range(3)]
    assert all(block.why_not is None for block in found.blocks)
    rows = {layer.name: layer for layer in found.layers}
    assert rows[f"{STACK}.2.output.dense.weight"].block == f"{STACK}.2"
    assert rows["classifier.weight"].block is None
    module = read_model(model_input(folder)).network
    blank = module.inputs.blank(1, torch.device("cpu"))
    remove(module.module, Removal({}, {}, (Depth(STACK, (0, 2), 3),)))
    assert count(module.module) == found.parameters - found.blocks[1].parameters
    assert count_macs(module.module, blank).total == found.macs - found.blocks[1].macs


def test_a_block_that_changes_the_width_says_so_in_its_layers(tmp_path, uploads):
    path = tmp_path / "model.safetensors"
    save_file(build(RESNET).module.state_dict(), path)
    model = uploads.model_input(
        architecture={"library": "secateur", **RESNET},
        files={"weights": path},
        sha256={"weights": digest_file(path)},
    )
    check_model(tmp_path, CheckInput(model_id="mdl_" + "0" * 26, model=model, threads=1))
    found = CheckOutput.model_validate_json((tmp_path / "output" / "output.json").read_bytes())
    rows = {layer.name: layer for layer in found.layers}
    assert "makes hidden states of the shape" in rows["layer2.0.conv1.weight"].block_why_not
    assert rows["layer2.1.conv1.weight"].block_why_not is None
