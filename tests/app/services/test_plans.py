"""A plan is a promise: what it counts is what pruning then does."""

import json

import pytest
import torch

from app.core.catalog import read_catalog
from app.core.spec import JobSpec
from app.core.tables import Dataset, Model
from app.services.plans import make_plan
from app.services.specs import ResolvedSpec
from tests.app.services.inspections import inspect
from worker.measure.macs import count_macs
from worker.models.registry import build
from worker.pruning import prune
from worker.pruning.layers import find_layers
from worker.pruning.removal.shrinking import shrink

MODEL_ID, DATASET_ID = "mdl_" + "0" * 26, "dst_" + "0" * 26
DATASET = Dataset(id=DATASET_ID, splits={"train": {"n": 1000}, "test": {"n": 200}})


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build({"library": "secateur", "name": "lenet-300-100", "params": {"image_size": 4}}).module


def plan(network: torch.nn.Module, recipe: dict, **changes) -> dict:
    layers = [
        {
            "name": layer.name,
            "parameters": layer.numel,
            "prunable": layer.is_prunable,
            "why_not": layer.why_not,
            "shape": list(layer.shape),
        }
        for layer in find_layers(network)
    ]
    inspection = {"layers": layers, "forward_ms": 0.5}
    model = Model(status="ready", inspection=inspection, parameters=35_810, macs=35_800, size_bytes=145_288)
    spec = JobSpec.model_validate_json(
        json.dumps({"model_id": MODEL_ID, "dataset_id": DATASET_ID, "recipe": recipe} | changes)
    )
    found = make_plan(ResolvedSpec(spec, model, DATASET))
    assert found is not None
    return found


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.905, 1.0])
@pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "lamp"])
def test_the_planned_count_is_the_count_after_pruning(network, sparsity, allocation):
    recipe = {
        "target": {"metric": "sparsity", "value": sparsity},
        "allocation": {"name": allocation},
        "layers": [{"match": "fc3*", "set": {"exclude": True}}] if sparsity < 1.0 else [],
    }
    weights = plan(network, recipe)["weights"]
    masks = prune(network, recipe)
    assert weights["prunable"] == sum(mask.numel() for mask in masks.values())
    assert weights["kept"] == sum(int(mask.sum()) for mask in masks.values())


def test_a_planned_sparsity_of_a_layer_is_what_it_gets(network):
    recipe = {
        "target": {"metric": "sparsity", "value": 0.6},
        "layers": [
            {"match": "fc1*", "set": {"sparsity": 0.25}},
            {"match": "fc3*", "set": {"exclude": True}},
        ],
    }
    planned = {row["name"]: row for row in plan(network, recipe)["layers"]}
    masks = prune(network, recipe)
    assert planned["fc1.weight"]["sparsity"] == 0.25 == 1.0 - masks["fc1.weight"].float().mean().item()
    assert planned["fc3.weight"]["sparsity"] == 0.0
    assert "excluded" in planned["fc3.weight"]["why"]
    assert "fc3.weight" not in masks
    assert planned["fc2.weight"]["sparsity"] is None
    assert "global" in planned["fc2.weight"]["why"]
    assert "bias" in planned["fc1.bias"]["why"]


def test_uniform_gives_every_layer_the_target(network):
    recipe = {"target": {"metric": "sparsity", "value": 0.5}, "allocation": {"name": "uniform"}}
    planned = {row["name"]: row["sparsity"] for row in plan(network, recipe)["layers"]}
    for name, mask in prune(network, recipe).items():
        assert planned[name] == pytest.approx(1.0 - mask.float().mean().item(), abs=1.0 / mask.numel())


@pytest.mark.parametrize("pattern", [p.name for p in read_catalog().patterns if p.name != "unstructured"])
def test_what_a_pattern_leaves_open_is_said_to_be_open(network, pattern):
    found = plan(network, {"target": {"metric": "sparsity", "value": 0.5}, "pattern": {"name": pattern}})
    assert found["weights"]["kept"] is None
    assert pattern in found["weights"]["why"]


def test_the_time_is_estimated_from_the_measured_forward_pass(network):
    recipe = {"target": {"metric": "sparsity", "value": 0.5}}
    changes = {"finetune": {"epochs": 2, "distillation": {}}, "evaluation": {"latency": None}}
    found = plan(network, recipe, **changes)["time"]
    # Three evaluations of 200; two epochs of 1,000 at three forward passes and one of the teacher.
    assert found["seconds"] == (3 * 200 + 2 * 1000 * 4) * 0.5 / 1000
    assert "estimated" in found["basis"]


@pytest.mark.parametrize(
    ("schedule", "trainings"),
    [
        ({"name": "cubic"}, 1.0),
        ({"name": "iterative", "params": {"rounds": 3}}, 3.0),
        ({"name": "lottery_ticket", "params": {"rounds": 2, "rewind_fraction": 0.5}}, 2.0),
        (
            {
                "name": "lottery_ticket",
                "params": {"rounds": 2, "rewind_fraction": 0.5, "controls": ["random_mask", "random_reinit"]},
            },
            3.5,
        ),
    ],
)
def test_every_training_of_a_schedule_is_estimated(network, schedule, trainings):
    recipe = {"target": {"metric": "sparsity", "value": 0.5}, "schedule": schedule}
    changes = {
        "finetune": {"max_steps": 10, "batch_size": 8, "accumulate": 2},
        "evaluation": {"latency": None},
    }
    found = plan(network, recipe, **changes)["time"]
    assert found["seconds"] == pytest.approx((3 * 200 + 10 * 8 * 2 * 3 * trainings) * 0.5 / 1000)


def test_nothing_is_planned_for_a_model_that_is_still_checked():
    spec = JobSpec.model_validate({"model_id": MODEL_ID, "recipe": {"target": {"value": 0.5}}})
    assert make_plan(ResolvedSpec(spec, Model(status="validating"), None)) is None


def plan_blocks(model: Model, metric: str, value: float, **structure) -> dict:
    asked = {"kinds": ["block"], "target": {"metric": metric, "value": value}, **structure}
    spec = JobSpec.model_validate_json(json.dumps({"model_id": MODEL_ID, "structure": asked}))
    planned = make_plan(ResolvedSpec(spec, model, None))
    assert planned is not None
    return planned


@pytest.mark.parametrize("share", [0.95, 0.7, 0.4])
@pytest.mark.parametrize("metric", ["parameters", "macs", "size_bytes"])
def test_sizes_without_equal_blocks_are_predicted_exactly(metric, share):
    network, _, model = inspect("vit-small-images")
    whole = getattr(model, metric)
    planned = plan_blocks(model, metric, share * whole)
    structure = {"kinds": ["block"], "target": {"metric": metric, "value": share * whole}}
    blank = torch.zeros(1, 1, 8, 8)
    measures = {"macs": lambda module: float(count_macs(module, blank).total)}
    shrink(network, structure, [(torch.randn(4, 1, 8, 8), torch.zeros(4).long())], measures=measures)
    assert planned["parameters"]["after"] == sum(parameter.numel() for parameter in network.parameters())
    assert planned["macs"]["after"] == count_macs(network, blank).total
    assert "of 4 blocks go, all of one size" in planned["macs"]["why"]


def test_excluded_blocks_and_the_largest_share_bound_what_is_predicted():
    _, found, model = inspect("vit-small-images")
    size = found["blocks"][0]["parameters"]
    rows = [{"match": "blocks.[01].*", "set": {"exclude": True}}]
    planned = plan_blocks(model, "parameters", 1, layers=rows)
    assert planned["parameters"]["after"] == model.parameters - 2 * size
    assert "the target will not be reached" in planned["parameters"]["why"]
    planned = plan_blocks(model, "parameters", 1, max_fraction=1.0)
    assert planned["parameters"]["after"] == model.parameters - 3 * size
    planned = plan_blocks(model, "parameters", 1, max_fraction=0.5)
    assert planned["parameters"]["after"] == model.parameters - 2 * size


def test_blocks_of_several_sizes_and_measured_targets_are_left_to_the_run():
    _, found, model = inspect("resnet-20")
    planned = plan_blocks(model, "parameters", 200_000)
    assert planned["macs"]["after"] is None
    assert "the blocks that may go differ" in planned["macs"]["why"]
    assert {block["name"] for block in found["blocks"] if block["why_not"]} == {"layer2.0", "layer3.0"}
    assert "target on latency_ms" in plan_blocks(model, "latency_ms", 1.0)["macs"]["why"]
    del found["blocks"]
    assert "checked before its blocks were counted" in plan_blocks(model, "macs", 1.0)["macs"]["why"]
