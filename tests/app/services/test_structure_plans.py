"""What is predicted of a structure is what a run with equal shares leaves."""

import json

import pytest
import torch

from app.core.spec import JobSpec
from app.core.tables import Model
from app.services.plans import make_plan
from app.services.specs import ResolvedSpec
from tests.app.services.inspections import inspect
from worker.measure.macs import count_macs
from worker.pruning.removal.file_size import count_file_bytes
from worker.pruning.removal.shrinking import shrink

MODEL_ID = "mdl_" + "0" * 26


def plan(model: Model, metric: str, value: float, **structure) -> dict:
    asked = {"target": {"metric": metric, "value": value}, **structure}
    spec = JobSpec.model_validate_json(json.dumps({"model_id": MODEL_ID, "structure": asked}))
    planned = make_plan(ResolvedSpec(spec, model, None))
    assert planned is not None
    return planned


def cut(network: torch.nn.Module, shape: tuple[int, ...], metric: str, value: float, **structure) -> None:
    asked = {"target": {"metric": metric, "value": value}, "ranking": "local", **structure}
    data = [(torch.randn(4, *shape), torch.zeros(4).long())]
    measures = {"macs": lambda module: float(count_macs(module, data[0][0][:1]).total)}
    shrink(network, asked, data, measures=measures)


def count_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


SHAPES = {"resnet8x8": (1, 8, 8), "vit-small-images": (1, 8, 8), "lenet-300-100": (28, 28)}
ROWS = {
    "resnet8x8": [
        {"match": "layer1.0.conv2", "set": {"max_sparsity": 0.25}},
        {"match": "layer3.0.conv1", "set": {"sparsity": 0.75}},
        {"match": "layer2.*", "set": {"exclude": True}},
        {"match": "layer2.0.conv1", "set": {"exclude": False}},
    ],
    "vit-small-images": [
        {"match": "blocks.0.*", "set": {"max_sparsity": 0.25}},
        {"match": "blocks.[12].*", "set": {"min_sparsity": 0.5}},
    ],
    "lenet-300-100": [
        {"match": "fc1", "set": {"min_sparsity": 0.5}},
        {"match": "fc2", "set": {"sparsity": 0.1}},
    ],
}


@pytest.mark.parametrize("structure", ["plain", "rows", "multiple"])
@pytest.mark.parametrize("metric", ["parameters", "macs"])
@pytest.mark.parametrize("name", SHAPES)
def test_sizes_are_predicted_exactly_as_the_local_ranking_leaves_them(name, metric, structure):
    network, _, model = inspect(name)
    given = {"plain": {}, "rows": {"layers": ROWS[name]}, "multiple": {"multiple_of": 8}}[structure]
    target = 0.6 * getattr(model, metric)
    planned = plan(model, metric, target, ranking="local", **given)
    cut(network, SHAPES[name], metric, target, **given)
    blank = torch.zeros(1, *SHAPES[name])
    assert planned["parameters"]["after"] == count_parameters(network)
    assert planned["macs"]["after"] == count_macs(network, blank).total
    assert planned[metric]["after"] <= target
    assert "estimated: as if every group lost" in planned["macs"]["why"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_target_in_bytes_is_one_of_the_file(name):
    network, _, model = inspect(name)
    target = 0.5 * model.size_bytes
    planned = plan(model, "size_bytes", target, ranking="local")
    cut(network, SHAPES[name], "size_bytes", target)
    # Headers and the statistics of BatchNorm are taken to stay as they are.
    assert planned["parameters"]["after"] == pytest.approx(count_parameters(network), rel=0.02)
    assert planned["size_bytes"]["after"] == pytest.approx(count_file_bytes(network.state_dict()), rel=0.02)
    assert planned["size_bytes"]["after"] <= target


@pytest.mark.parametrize("metric", ["parameters", "macs"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_target_out_of_reach_is_said_to_be_and_the_smallest_size_is_shown(name, metric):
    network, _, model = inspect(name)
    planned = plan(model, metric, 1)
    assert "the target will not be reached" in planned["macs"]["why"]
    smallest = planned[metric]["after"]
    cut(network, SHAPES[name], metric, smallest)
    assert plan(model, metric, smallest)[metric]["after"] == smallest
    assert "will not be reached" not in plan(model, metric, smallest)["macs"]["why"]


def test_what_only_a_run_can_tell_of_a_structure_is_said_to_be_open():
    _, _, model = inspect("lenet-300-100")
    planned = plan(model, "latency_ms", 1.0)
    assert planned["macs"]["after"] is None
    assert "target on latency_ms" in planned["macs"]["why"]
    rows = [{"match": "fc1", "set": {"max_sparsity": 0.5}}]
    assert "keeps at one size" in plan(model, "macs", 1.0, layers=rows, ranking="uniform")["macs"]["why"]


def test_without_anything_to_cut_nothing_is_predicted():
    _, _, model = inspect("lenet-300-100")
    rows = [{"match": "fc*", "set": {"exclude": True}}]
    planned = plan(model, "parameters", 100, layers=rows)
    assert planned["parameters"]["after"] is None
    assert "nothing of the model may be cut" in planned["parameters"]["why"]


def test_a_later_row_that_excludes_no_more_wins():
    _, _, model = inspect("lenet-300-100")
    rows = [{"match": "fc*", "set": {"exclude": True}}, {"match": "fc[12]", "set": {"exclude": False}}]
    whole, some = plan(model, "parameters", 50_000), plan(model, "parameters", 50_000, layers=rows)
    # fc3 is excluded and with it the second hidden layer, whose neurons it reads.
    assert whole["parameters"]["after"] < some["parameters"]["after"] <= 50_000
