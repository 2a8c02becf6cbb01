"""Write the catalog: everything registered, with its JSON Schema, for an API that loads no torch.

`python -m worker.catalog` writes app/core/catalog.json; with `--check` it exits 1 when that file is stale.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, JsonValue
from pydantic_core import to_jsonable_python

from worker.datasets.registry import dataset_formats
from worker.formats.registry import model_formats
from worker.models.registry import LIBRARY, architectures
from worker.objectives.registry import tasks
from worker.pruning.registry import Kind, entries

CATALOG_PATH = Path(__file__).resolve().parents[1] / "app" / "core" / "catalog.json"
_TARGETS: Mapping[str, str] = {
    "sparsity": "The fraction of the weights in all layers not excluded that becomes zero.",
    "parameters": "The most parameters that are left and not zero.",
    "macs": "The most multiply-accumulates of one sample that are left with weights that are not zero.",
    "size_bytes": "The most bytes of tensors when zeros are not stored but one bit a weight, to say where.",
}
Rows = list[JsonValue]


def main(arguments: list[str], path: Path = CATALOG_PATH) -> int:
    """Write or check the catalog at `path`; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker.catalog", description="Write the catalog.")
    parser.add_argument("--check", action="store_true", help="exit 1 when the file is stale")
    fresh = json.dumps(build_catalog(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if not parser.parse_args(arguments).check:
        path.write_text(fresh)
        return 0
    if path.is_file() and path.read_text() == fresh:
        return 0
    sys.stderr.write(f"{path} is stale: run `make catalog` and commit it\n")
    return 1


def build_catalog() -> dict[str, JsonValue]:
    """Describe everything that a spec or a manifest may name."""
    return {
        "criteria": _describe_plugins("criterion"),
        "block_criteria": _describe_plugins("block_criterion"),
        "patterns": _describe_plugins("pattern"),
        "allocations": _describe_plugins("allocation"),
        "schedules": _describe_plugins("schedule"),
        "architectures": _describe_architectures(),
        "model_formats": [{"name": f.name, "summary": f.summary} for f in model_formats().values()],
        "dataset_formats": [
            {"name": f.name, "summary": f.summary, "tasks": list(f.tasks)} for f in dataset_formats().values()
        ],
        "tasks": [
            {"name": task.name, "summary": task.summary, "metrics": list(task.metrics)}
            for task in tasks().values()
        ],
        "targets": _describe_names(_TARGETS),
    }


def _describe_plugins(kind: Kind) -> Rows:
    return [
        {
            "name": entry.name,
            "summary": entry.summary,
            "needs": list(entry.needs),
            "source": entry.source,
            **_describe_params(entry.cls),
        }
        for entry in entries(kind).values()
    ]


def _describe_architectures() -> Rows:
    return [
        {
            "library": LIBRARY,
            "name": entry.name,
            "summary": entry.summary,
            "source": entry.source,
            **_describe_params(entry.params),
        }
        for entry in architectures().values()
    ]


def _describe_params(model: type[BaseModel]) -> dict[str, JsonValue]:
    defaults = {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in model.model_fields.items()
        if not field.is_required()
    }
    return {"params_schema": model.model_json_schema(), "defaults": to_jsonable_python(defaults)}


def _describe_names(summaries: Mapping[str, str]) -> Rows:
    return [{"name": name, "summary": summaries[name]} for name in sorted(summaries)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
