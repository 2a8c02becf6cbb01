"""Jobs that cut transformers of folders: what went, who can read what is left, and what was predicted."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from app.core.spec import JobSpec, Structure
from app.services.structure_plans import predict
from tests.support.huggingface import csv_bytes, make_folder, model_input, sentences
from tests.worker.pipeline.conftest import run_job
from tests.worker.pipeline.test_text_job import dataset_input
from tests.worker.pipeline.test_text_job import runner_input as text_input
from tests.worker.pruning.removal.drawing import halve
from worker.export.program import run_program
from worker.formats.registry import read_model
from worker.measure.size import digest_file
from worker.pipeline.check import check_model
from worker.protocol import OUTPUT_FOLDER, OUTPUT_NAME, CheckInput, ModelInput
from worker.pruning.removal.recipe import read_structure
from worker.pruning.removal.shrinking import find_removable
from worker.pruning.removal.surgery import remove

PAGE = Path(__file__).parents[3] / "docs" / "structure.md"


def cut_folder(tmp_path, family="bert", changes=None, outputs=("huggingface", "masks"), **structure):
    """Cut a small model to 70 % of its products, and describe what came out as an upload."""
    dataset = dataset_input(tmp_path, csv_bytes(sentences()), max_tokens=8)
    model = make_folder(tmp_path / "model", family, classes=2, **(changes or {}))
    dense = run_job(tmp_path / "dense", text_input(model, dataset)).report.summary
    asked = {"target": {"metric": "macs", "value": 0.7 * dense.macs.before}, **structure}
    finetune = {"max_steps": 4, "batch_size": 16, "optimizer": "adamw", "learning_rate": 1e-3}
    given = text_input(model, dataset)
    spec = given.spec.model_dump(mode="json") | {"structure": asked, "finetune": finetune}
    spec |= {"outputs": outputs}
    spec["recipe"]["target"]["value"] = 0.0
    given = given.model_copy(update={"spec": JobSpec.model_validate_json(json.dumps(spec))})
    run = run_job(tmp_path / "work", given)
    assert run.report.summary.macs.after <= asked["target"]["value"]
    others = ("masks.safetensors", "model.pt2")
    files = {path.name: path for path in (run.output / "artifacts").iterdir() if path.name not in others}
    files["weights"] = files.pop("model.safetensors")
    exported = ModelInput(
        format="huggingface",
        architecture=given.model.architecture,
        files=files,
        sha256={role: digest_file(path) for role, path in files.items()},
    )
    return run, exported


def test_heads_of_a_folder_are_cut_and_the_report_says_who_can_read_it(tmp_path):
    outputs = ("huggingface", "pt2", "masks")
    run, exported = cut_folder(tmp_path, kinds=["head", "neuron"], outputs=outputs)
    kinds = {group.kind for group in run.report.structure.groups if group.units_after < group.units_before}
    assert kinds == {"head", "neuron"}
    loaded = read_model(exported)
    assert sum(p.numel() for p in loaded.network.module.parameters()) == run.report.summary.parameters.after
    assert any("from_pretrained of transformers does not load" in warning for warning in run.report.warnings)
    # The lines of the page load it all the same.
    (code,) = re.findall(r"```python\n(import transformers.*?)```", PAGE.read_text(), re.DOTALL)
    scope = {"folder": run.output / "artifacts"}
    exec(compile(code, "structure.md", "exec"), scope)
    state = loaded.network.module.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in scope["model"].state_dict().items())
    # And the program runs without transformers.
    ids = torch.tensor([[1, 2, 3, 4]])
    texts = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": ids * 0}
    with torch.no_grad():
        expected = scope["model"].eval()(**texts).logits
    (found,) = run_program(run.output / "artifacts" / "model.pt2", [texts], tmp_path)
    assert torch.allclose(found, expected, atol=1e-5)


def test_equal_widths_are_written_into_the_config_and_from_pretrained_loads_them(tmp_path):
    pooler = {"match": "bert.pooler.dense", "set": {"exclude": True}}
    run, exported = cut_folder(
        tmp_path, kinds=["neuron"], ranking="uniform", max_fraction=0.95, layers=[pooler]
    )
    config = json.loads(exported.files["config.json"].read_bytes())
    assert "secateur_cut" not in config
    loaded = AutoModelForSequenceClassification.from_pretrained(run.output / "artifacts")
    assert loaded.config.intermediate_size == config["intermediate_size"] < 64
    tensors = load_file(run.output / "artifacts" / "model.safetensors")
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in tensors.items())
    assert not any("from_pretrained" in warning for warning in run.report.warnings)
    read_model(exported)


def test_a_second_cut_that_the_config_can_say_leaves_nothing_of_the_first_there(tmp_path):
    model = make_folder(tmp_path / "model", "bert", classes=2)
    config = model / "config.json"
    first = {"secateur_cut": {"padded": []}, "secateur_cut_because": "heads are no field of it"}
    config.write_text(json.dumps(json.loads(config.read_bytes()) | first))
    given = text_input(model, dataset_input(tmp_path, csv_bytes(sentences()), max_tokens=8))
    # One of two blocks, of 8,544 of the 21,218 parameters.
    blocks = {"kinds": ["block"], "target": {"metric": "parameters", "value": 13_000}}
    spec = given.spec.model_dump(mode="json") | {"structure": blocks}
    given = given.model_copy(update={"spec": JobSpec.model_validate_json(json.dumps(spec))})
    run = run_job(tmp_path / "work", given)
    written = json.loads((run.output / "artifacts" / "config.json").read_bytes())
    assert written["num_hidden_layers"] == 1
    assert not [name for name in written if name.startswith("secateur_cut")]
    assert not any("from_pretrained" in warning for warning in run.report.warnings)


def test_queries_of_a_single_key_are_cut_where_they_are_asked_for(tmp_path):
    keys = {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 4, "hidden_size": 48}
    run, exported = cut_folder(
        tmp_path, "llama", keys, kinds=["query", "neuron"], ranking="uniform", multiple_of=2
    )
    groups = {group.name: group for group in run.report.structure.groups}
    queries = [group for group in groups.values() if group.kind == "query"]
    heads = [group for group in groups.values() if group.kind == "head"]
    assert queries
    assert all(1 <= group.units_after < group.units_before == 8 for group in queries)
    assert all(group.units_after == group.units_before for group in heads)
    loaded = AutoModelForSequenceClassification.from_pretrained(run.output / "artifacts")
    assert loaded.config.num_attention_heads == queries[0].units_after
    assert loaded.config.num_key_value_heads == 1
    rows = {layer.name: layer for layer in run.report.layers}
    row = rows["model.layers.0.self_attn.q_proj.weight"]
    assert row.shape_after[0] == queries[0].units_after * 4
    read_model(exported)


def test_heads_and_queries_go_together_and_each_is_counted_by_itself(tmp_path):
    keys = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4, "hidden_size": 32}
    run, _ = cut_folder(tmp_path, "llama", keys, kinds=["query", "head"], ranking="local")
    groups = run.report.structure.groups
    tensors = load_file(run.output / "artifacts" / "model.safetensors")
    for number in (0, 1):
        name = f"model.layers.{number}.self_attn.q_proj.weight"
        (query,) = [group for group in groups if group.kind == "query" and group.name.startswith(name)]
        (head,) = [group for group in groups if group.kind == "head" and name in group.tensors]
        assert tensors[name].shape[0] == query.units_after * head.units_after * 4


def test_what_heads_and_queries_leave_is_predicted(tmp_path):
    keys = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}
    folder = make_folder(tmp_path / "model", "llama", classes=2, **keys)
    (tmp_path / "work").mkdir()
    given = CheckInput(model_id="mdl_" + "0" * 26, model=model_input(folder), threads=1)
    check_model(tmp_path / "work", given)
    found = json.loads((tmp_path / "work" / OUTPUT_FOLDER / OUTPUT_NAME).read_bytes())
    # Half of each is the most that may go, and the target asks for more.
    asked = {"target": {"metric": "parameters", "value": 1}, "kinds": ["head", "query"], "max_fraction": 0.5}
    structure = Structure.model_validate_json(json.dumps(asked))
    predicted = predict(structure, found, parameters=found["parameters"], macs=found["macs"])
    model = AutoModelForSequenceClassification.from_pretrained(folder, pad_token_id=0)
    tokens = torch.randint(0, 300, (2, 8))
    groups = [
        g for g in find_removable(model, read_structure(asked), {"input_ids": tokens}) if g.is_removable
    ]
    assert {group.kind for group in groups} == {"head", "query"}
    remove(model, halve(model, groups))
    assert predicted.parameters == sum(parameter.numel() for parameter in model.parameters())
