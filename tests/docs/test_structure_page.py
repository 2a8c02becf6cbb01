"""The page on cutting: its library example runs as printed, its job is one that the service takes."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from app.core.spec import JobSpec
from tests.support.huggingface import make_llama_folder
from worker.models.registry import build
from worker.pruning.removal.shrinking import shrink

PAGE = (Path(__file__).parents[2] / "docs" / "structure.md").read_text()


def test_the_library_s_example_runs_as_printed(capsys) -> None:
    *_, code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    model = build({"name": "resnet8x8", "params": {}}).module
    batches = [(torch.randn(8, 1, 8, 8), torch.arange(8))]
    exec(compile(code, "structure.md", "exec"), {"model": model, "batches": batches})
    before, after, tensors = re.match(r"(\S+) (\S+) (\(.*\))", capsys.readouterr().out).groups()  # type: ignore[union-attr]
    assert float(after) <= 40_000 < float(before)
    assert "conv1.weight" in tensors
    assert sum(parameter.numel() for parameter in model.parameters()) == float(after)


@pytest.mark.parametrize("is_tied", [False, True], ids=["untied", "tied"])
def test_the_lines_that_load_a_cut_folder_load_a_language_model(tmp_path: Path, is_tied: bool) -> None:
    folder = make_llama_folder(tmp_path / "llama", tie_word_embeddings=is_tied)
    names = load_file(folder / "model.safetensors").keys()
    assert ("lm_head.weight" in names) != is_tied
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    texts = {"input_ids": torch.tensor([[2, 3, 4, 5], [6, 7, 8, 9]])}
    target = {"metric": "parameters", "value": 0.9 * sum(one.numel() for one in model.parameters())}
    shrink(model, {"target": target, "kinds": ["neuron"]}, [(texts, None)])
    state = model.state_dict()
    save_file({name: state[name] for name in names}, folder / "model.safetensors")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "resize(" in code]
    scope = {"folder": folder}
    exec(compile(code, "structure.md", "exec"), scope)
    with torch.no_grad():
        assert torch.equal(scope["model"].eval()(**texts).logits, model(**texts).logits)


def read_jobs() -> list[JobSpec]:
    return [
        JobSpec.model_validate_json(json.dumps({"model_id": "mdl_" + "0" * 26, **json.loads(f"{{{spec}}}")}))
        for spec in re.findall(r"```\n(\"structure\".*?)```", PAGE, re.DOTALL)
    ]


def test_the_jobs_of_the_page_are_some() -> None:
    units, blocks = read_jobs()
    assert units.structure is not None
    assert blocks.structure is not None
    assert units.recipe.target.value == 0.5
    assert blocks.structure.cuts_blocks


def test_every_field_is_in_the_table() -> None:
    assert read_fields() == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))


def read_fields() -> set[str]:
    schema = JobSpec.model_json_schema()["$defs"]["Structure"]
    return set(schema["properties"])
