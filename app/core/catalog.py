"""The catalog: everything that can be named in a spec, as generated from the worker's registries."""

import json
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from app.core.spec import MetricName

_FILE = Path(__file__).with_name("catalog.json")

Kind = Literal["criterion", "block_criterion", "pattern", "allocation", "schedule"]


class _Frozen(BaseModel):
    # More may be written there by a newer worker; what is here is what the service reads.
    model_config = ConfigDict(frozen=True, extra="allow")


class Entry(_Frozen):
    """Something with parameters: their JSON Schema, their defaults, and where it comes from."""

    name: str
    summary: str
    source: str
    needs: tuple[str, ...] = ()
    params_schema: dict[str, JsonValue]
    defaults: dict[str, JsonValue]


class Architecture(Entry):
    library: str


class Named(_Frozen):
    name: str
    summary: str = ""


class Task(Named):
    """What a dataset is for, and what its models are measured by; the first metric is the default."""

    metrics: tuple[MetricName, ...]


class DatasetFormat(Named):
    tasks: tuple[str, ...]


class Catalog(_Frozen):
    criteria: tuple[Entry, ...]
    block_criteria: tuple[Entry, ...]
    patterns: tuple[Entry, ...]
    allocations: tuple[Entry, ...]
    schedules: tuple[Entry, ...]
    architectures: tuple[Architecture, ...]
    model_formats: tuple[Named, ...]
    dataset_formats: tuple[DatasetFormat, ...]
    tasks: tuple[Task, ...]
    targets: tuple[Named, ...]

    def plugins(self, kind: Kind) -> dict[str, Entry]:
        """Return what exists of one kind, by name."""
        lists = {
            "criterion": self.criteria,
            "block_criterion": self.block_criteria,
            "pattern": self.patterns,
            "allocation": self.allocations,
            "schedule": self.schedules,
        }
        return {entry.name: entry for entry in lists[kind]}


@cache
def read_catalog() -> Catalog:
    """Read catalog.json, which `python -m worker.catalog` writes."""
    return Catalog.model_validate(json.loads(_FILE.read_text("utf-8")))
