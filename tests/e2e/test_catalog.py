"""Everything in the catalog that needs no training runs end to end over HTTP."""

import json
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from app.core import catalog
from tests.e2e.conftest import settled_model
from tests.support import digits
from tests.support.service import Service, wait_for

CATALOG = json.loads(Path(catalog.__file__).with_name("catalog.json").read_text())
NAMES = {
    kind: [entry["name"] for entry in CATALOG[kind] if "training" not in entry["needs"]]
    for kind in ("criteria", "patterns", "allocations", "schedules")
}
SPARSITY = 0.5
# Each job stands for one criterion and, where it is named here, one pattern; allocations and schedules are
# dealt out. (Every pair of them is tried, without HTTP, in tests/worker/pipeline.)
PATTERNS = {
    "activation": "filter",
    "bn_scale": "filter",
    "fisher": "layer",
    "fpgm": "neuron",
    "gradient": "block",
    "random": "n_m",
    "snip": "head",
    "taylor": "channel",
}


def _recipes() -> dict[str, dict]:
    allocations, schedules = cycle(NAMES["allocations"]), cycle(NAMES["schedules"])
    recipes = {}
    for criterion in NAMES["criteria"]:
        pattern = PATTERNS.get(criterion, "unstructured")
        # Groups of a fixed size, and whole layers, leave an allocation nothing to choose.
        is_free = pattern == "unstructured" and criterion != "sparsegpt"
        allocation = next(allocations) if is_free else "uniform"
        recipes[criterion] = _recipe(criterion, pattern, allocation, next(schedules))
    return recipes


def _recipe(criterion: str, pattern: str, allocation: str, schedule: str) -> dict:
    choices = {"criterion": criterion, "pattern": pattern, "allocation": allocation, "schedule": schedule}
    return {kind: {"name": name} for kind, name in choices.items()} | {"target": {"value": SPARSITY}}


RECIPES = _recipes()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Submit every recipe at once and return the jobs, ended, with their reports."""
    folder = tmp_path_factory.mktemp("service")
    service = Service(folder, f"sqlite:///{folder / 'secateur.db'}")
    try:
        service.start()
        with httpx.Client(base_url=service.url, timeout=60.0, trust_env=False) as http:
            models = {
                name: _upload(http, net) for name, net in (("cnn", digits.ARCHITECTURE), ("vit", digits.VIT))
            }
            dataset_id = digits.upload_dataset(http, folder).json()["id"]
            ids = {name: _submit(http, models, dataset_id, recipe) for name, recipe in RECIPES.items()}
            for job_id in ids.values():
                wait_for(lambda i=job_id: _has_ended(http, i), job_id, within_s=250.0)
            yield {name: _read(http, job_id) for name, job_id in ids.items()}
    finally:
        service.stop()


def _upload(http, architecture) -> str:
    data = digits.model_bytes(architecture)
    model_id = digits.upload_model(http, data, architecture=architecture).json()["id"]
    assert wait_for(lambda: settled_model(http, model_id), "the model check")["status"] == "ready"
    return model_id


def _submit(http, models, dataset_id, recipe) -> str:
    model_id = models["vit" if recipe["pattern"]["name"] == "head" else "cnn"]
    spec = {"model_id": model_id, "dataset_id": dataset_id, "recipe": recipe, "evaluation": {"latency": None}}
    answer = http.post("/v1/jobs", json=spec)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def _has_ended(http, job_id) -> bool:
    return http.get(f"/v1/jobs/{job_id}").json()["is_terminal"]


def _read(http, job_id) -> dict:
    job = http.get(f"/v1/jobs/{job_id}").json()
    report = http.get(f"/v1/jobs/{job_id}/report").json() if job["status"] == "succeeded" else None
    return job | {"report": report}


def test_every_registered_name_has_a_job():
    for kind, field in (("criteria", "criterion"), ("patterns", "pattern"), ("schedules", "schedule")):
        assert {recipe[field]["name"] for recipe in RECIPES.values()} == set(NAMES[kind])
    assert {recipe["allocation"]["name"] for recipe in RECIPES.values()} == set(NAMES["allocations"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_of_the_catalog_reaches_its_sparsity_over_http(jobs, name):
    job = jobs[name]
    assert job["status"] == "succeeded", job["error"]
    masked = job["report"]["summary"]["sparsity"]["masked"]
    # Whole groups cannot always add up to half of the weights; a single weight can.
    tolerance = 1e-3 if job["resolved_spec"]["recipe"]["pattern"]["name"] == "unstructured" else 0.13
    assert masked == pytest.approx(SPARSITY, abs=tolerance)


def test_the_allocation_that_measures_the_layers_says_what_each_costs(jobs):
    for name, recipe in RECIPES.items():
        rows = jobs[name]["report"]["layers"]
        costs = {row["name"]: row["sensitivity"] for row in rows if row["sensitivity"] is not None}
        is_measured = recipe["allocation"]["name"] == "sensitivity"
        assert set(costs) == (
            {row["name"] for row in rows if row["why_not"] is None} if is_measured else set()
        )
        # Two layers that cost the same to the last digit would not have been measured.
        assert len(set(costs.values())) == len(costs)
