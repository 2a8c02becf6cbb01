"""What a structure cannot reach is refused when it is asked for, and nothing else is."""

import json

import pytest
import torch

from app.core.spec import JobSpec, Structure
from app.services.cut_plans import find_target_faults
from tests.app.services.inspections import inspect
from worker.measure.macs import count_macs
from worker.pruning.errors import UnreachableTarget
from worker.pruning.removal.shrinking import shrink

SHAPES = {"resnet8x8": (1, 8, 8), "vit-small-images": (1, 8, 8), "lenet-300-100": (28, 28)}
METRICS = ("parameters", "macs")


def structure(metric: str, value: float, **changes) -> Structure:
    asked = {"target": {"metric": metric, "value": value}, **changes}
    spec = JobSpec.model_validate_json(json.dumps({"model_id": "mdl_" + "0" * 26, "structure": asked}))
    assert spec.structure is not None
    return spec.structure


def find_smallest(name: str, metric: str, **changes) -> float:
    """Return what the run itself says is the smallest size."""
    network, _, _ = inspect(name)
    data = [(torch.randn(4, *SHAPES[name]), torch.zeros(4).long())]
    measures = {"macs": lambda module: float(count_macs(module, data[0][0][:1]).total)}
    asked = {"target": {"metric": metric, "value": 1}, **changes}
    with pytest.raises(UnreachableTarget) as raised:
        shrink(network, asked, data, measures=measures)
    return raised.value.nearest


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("ranking", ["global", "isomorphic", "local", "uniform"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_size_below_the_smallest_is_refused_and_the_smallest_is_not(name, ranking, metric):
    smallest = find_smallest(name, metric, ranking=ranking)
    _, _, model = inspect(name)
    [fault] = find_target_faults(structure(metric, 0.98 * smallest, ranking=ranking), model)
    assert (fault.pointer, fault.code) == ("/structure/target/value", "sparsity_unreachable")
    assert f"{metric} of {smallest:,.0f}" in fault.detail
    assert find_target_faults(structure(metric, smallest, ranking=ranking), model) == []


@pytest.mark.parametrize("metric", METRICS)
def test_bounds_of_the_structure_are_counted(metric):
    bounds = {"ranking": "local", "max_fraction": 0.5, "multiple_of": 4}
    smallest = find_smallest("resnet8x8", metric, **bounds)
    _, _, model = inspect("resnet8x8")
    assert find_target_faults(structure(metric, 0.98 * smallest, **bounds), model)
    assert find_target_faults(structure(metric, smallest, **bounds), model) == []
    assert find_target_faults(structure(metric, 0.98 * smallest, ranking="local"), model) == []


@pytest.mark.parametrize("metric", METRICS)
def test_blocks_of_one_size_are_counted(metric):
    asked = {"kinds": ["block"], "criterion": {"name": "magnitude"}}
    smallest = find_smallest("vit-small-images", metric, **asked)
    _, _, model = inspect("vit-small-images")
    assert find_target_faults(structure(metric, 0.98 * smallest, **asked), model)
    assert find_target_faults(structure(metric, smallest, **asked), model) == []


@pytest.mark.parametrize(
    ("asked", "pointer", "said"),
    [
        ({"kinds": ["head"]}, "/structure/kinds", "asked for head, and what can be cut of it is: channel"),
        (
            {"layers": [{"match": "*", "set": {"exclude": True}}]},
            "/structure/layers",
            "rows exclude every group",
        ),
    ],
)
def test_where_nothing_may_be_cut_the_reason_is_said(asked, pointer, said):
    _, _, model = inspect("resnet8x8")
    [fault] = find_target_faults(structure("macs", 100_000, **asked), model)
    assert (fault.pointer, fault.code) == (pointer, "nothing_to_prune")
    assert said in fault.detail


def test_where_no_graph_was_found_the_check_says_why():
    _, _, model = inspect("resnet8x8")
    layers = [layer | {"cut_why_not": "branches in line 7"} for layer in model.inspection["layers"]]
    model.inspection = model.inspection | {"groups": [], "layers": layers}
    [fault] = find_target_faults(structure("macs", 100_000), model)
    assert "what can be cut of it is: nothing (branches in line 7)" in fault.detail


def test_what_takes_a_run_to_tell_is_left_to_it():
    _, _, model = inspect("resnet8x8")
    for metric in ("size_bytes", "latency_ms", "accuracy_drop"):
        assert find_target_faults(structure(metric, 0.5), model) == []
    model.inspection = {name: value for name, value in model.inspection.items() if name != "groups"}
    assert find_target_faults(structure("latency_ms", 1.0), model) == []
