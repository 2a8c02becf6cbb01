"""The pages on jobs and data name every part that there is, and their job files are ones that are taken."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.core.catalog import read_catalog
from app.core.spec import JobSpec
from app.services.manifests import DatasetManifest, ModelManifest

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECIPE, DATA = (DOCS / "recipe.md").read_text(), (DOCS / "data.md").read_text()
JobFile = Mapping[str, Any]  # Any: YAML as a user writes it


def read_job(page: str) -> JobFile:
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    found: JobFile = yaml.safe_load(text)
    return found


def read_spec(job: JobFile) -> JobSpec:
    given = {name: value for name, value in job.items() if name not in ("model", "dataset")}
    return JobSpec.model_validate_json(json.dumps({"model_id": "mdl_" + "0" * 26, **given}))


def read_rows(page: str) -> dict[str, str]:
    """Return the rows of a page's tables by their first column."""
    return dict(re.findall(r"^\| (.+?) \| (.*) \|$", page, re.MULTILINE))


@pytest.mark.parametrize("page", [RECIPE, DATA], ids=["recipe", "data"])
def test_the_job_of_a_page_is_a_spec(page):
    assert read_spec(read_job(page)).recipe.target.value == 0.5


def test_what_the_recipe_shows_as_defaults_are_they():
    shown = read_spec(read_job(RECIPE)).recipe
    given = read_spec({"recipe": {"target": {"metric": "sparsity", "value": 0.5}}}).recipe
    for part in ("criterion", "pattern", "allocation"):
        assert getattr(shown, part).name == getattr(given, part).name


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("criterion", "criteria"),
        ("pattern", "patterns"),
        ("allocation", "allocations"),
        ("schedule", "schedules"),
    ],
)
def test_every_part_is_named_and_no_other(row, kind):
    named = set(re.findall(r"`(\w+)`", read_rows(RECIPE)[row]))
    assert named == {entry.name for entry in getattr(read_catalog(), kind)}


def test_every_field_of_a_job_has_a_row():
    named = {name for row in read_rows(RECIPE) for name in re.findall(r"`(\w+)`", row)}
    assert named == set(JobSpec.model_fields) - {"recipe"}


def test_the_dataset_of_the_page_is_a_manifest():
    job = read_job(DATA)
    splits = {split: job["dataset"][split] for split in ("train", "test")}
    rest = {name: value for name, value in job["dataset"].items() if name not in splits}
    assert DatasetManifest(name="x", splits=splits, **rest).task == "text-classification"


def test_every_field_of_a_manifest_is_on_the_page():
    assert set(DatasetManifest.model_fields) - {"name", "splits"} <= set(re.findall(r"\w+", DATA))


def test_the_architecture_of_the_page_is_a_manifest_s():
    (architecture,) = re.findall(r"architecture: (\{.*?\}\})\}", DATA)
    manifest = {"name": "x", "format": "safetensors", "architecture": yaml.safe_load(architecture)}
    assert ModelManifest.model_validate(manifest).architecture is not None
