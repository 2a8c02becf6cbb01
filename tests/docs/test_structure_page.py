"""The page on cutting: its library example runs as printed, its job is one that the service takes."""

import json
import re
from pathlib import Path

import torch

from app.core.spec import JobSpec
from worker.models.registry import build

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


def test_the_job_of_the_page_is_one() -> None:
    (spec,) = re.findall(r"```\n(\"structure\".*?)```", PAGE, re.DOTALL)
    read = JobSpec.model_validate_json(
        json.dumps({"model_id": "mdl_" + "0" * 26, **json.loads(f"{{{spec}}}".replace("20e6", "20000000"))})
    )
    assert read.structure is not None
    assert read.recipe.target.value == 0.5


def test_every_field_is_in_the_table() -> None:
    assert read_fields() == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))


def read_fields() -> set[str]:
    schema = JobSpec.model_json_schema()["$defs"]["Structure"]
    return set(schema["properties"])
