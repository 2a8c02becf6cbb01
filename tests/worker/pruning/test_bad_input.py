"""Every mistake is answered by one kind of error that says what was expected and what to do."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.networks import ConvNet, batches
from worker.pruning import Pruner, prune
from worker.pruning.errors import (
    MissingData,
    NonfiniteScores,
    NothingToPrune,
    PruningError,
    UnsuitableScores,
)
from worker.pruning.recipe import InvalidRecipe
from worker.pruning.registry import InvalidParams, UnknownPlugin, entries

HALF = {"target": {"value": 0.5}}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("pattern", ["unstructured", "n_m", "neuron"])
def test_weights_that_are_no_numbers_are_refused_by_name_and_nothing_changes(
    bad: float, pattern: str
) -> None:
    model = nn.ModuleDict({"fc1": nn.Linear(4, 4), "fc2": nn.Linear(4, 4)})
    with torch.no_grad():
        model["fc2"].weight[1, 1] = bad
    before = model["fc1"].weight.clone()
    with pytest.raises(NonfiniteScores, match=r"fc2\.weight hold .* at flat index 5"):
        prune(model, {**HALF, "pattern": {"name": pattern}})
    assert torch.equal(model["fc1"].weight, before)


def needs_data() -> list[dict[str, Any]]:
    found = []
    for kind, axis in (("criterion", "criterion"), ("allocation", "allocation")):
        for name, entry in entries(kind).items():
            if {"gradients", "activations"} & set(entry.needs):
                found.append({**HALF, axis: {"name": name}})
    return found


@pytest.mark.parametrize("recipe", needs_data(), ids=str)
def test_what_needs_data_refuses_to_go_without(recipe: dict[str, Any]) -> None:
    with pytest.raises(MissingData, match="needs data"):
        prune(ConvNet(), recipe)


def test_what_needs_data_says_so_before_the_training() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = {"name": "cubic", "params": {"start_fraction": 0.5}}
    for recipe in ({"criterion": {"name": "taylor"}}, {"allocation": {"name": "owl"}}):
        pruner = Pruner(model, {"target": {"value": 0.5}, "schedule": schedule} | recipe, steps=1_000)
        with pytest.raises(MissingData, match="needs data"):
            pruner.attach(optimizer)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ([], "the data given holds no batch"),
        ([torch.ones(2, 4, 6, 6)], r"a pair \(inputs, targets\)"),
        ([("text", "label")], "found str"),
    ],
)
def test_data_that_is_no_data_is_refused(data: list[Any], complaint: str) -> None:
    with pytest.raises(PruningError, match=complaint):
        prune(ConvNet(), {**HALF, "criterion": {"name": "taylor"}}, data)


@pytest.mark.parametrize("axis", ["criterion", "pattern", "allocation", "schedule"])
def test_an_unknown_plugin_names_all_that_exist(axis: str) -> None:
    with pytest.raises(UnknownPlugin, match=f"there is no {axis} 'best'; there are: ") as raised:
        prune(ConvNet(), {**HALF, axis: {"name": "best"}})
    assert all(name in str(raised.value) for name in entries(axis))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("axis", "name", "params"),
    [
        ("criterion", "magnitude", {"p": 0}),
        ("criterion", "magnitude", {"p": "2"}),
        ("criterion", "magnitude", {"q": 2}),
        ("pattern", "n_m", {"keep": 3, "of": 2}),
        ("pattern", "n_m", {"keep": 0, "of": 2}),
        ("pattern", "n_m", {"keep": 1.5, "of": 4}),
        ("pattern", "block", {"shape": [0, 4]}),
        ("pattern", "block", {"shape": []}),
        ("pattern", "block", {"shape": 4}),
        ("allocation", "global", {"normalisation": "fastest"}),
        ("allocation", "sensitivity", {"levels": [1.5]}),
        ("schedule", "cubic", {"start_fraction": 2}),
        ("schedule", "exponential", {"final_density": 0}),
        ("schedule", "lottery_ticket", {"controls": ["random_mask", "random_mask"]}),
    ],
)
def test_parameters_out_of_range_are_refused(axis: str, name: str, params: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams, match=f"{axis} {name}"):
        prune(ConvNet(), {**HALF, axis: {"name": name, "params": params}})


@pytest.mark.parametrize("value", [1.5, -0.1, "0.5", None, math.nan, math.inf, True])
def test_a_sparsity_that_is_no_fraction_is_refused(value: object) -> None:
    with pytest.raises(InvalidRecipe, match="the recipe is not valid"):
        prune(ConvNet(), {"target": {"metric": "sparsity", "value": value}})


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"target": {"value": 0.5}, "speed": 9},
        {"target": {"metric": "beauty", "value": 1}},
        {"target": {1}},
    ],
)
def test_a_recipe_that_breaks_its_schema_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecipe):
        prune(ConvNet(), recipe)


@pytest.mark.parametrize(
    "model",
    [
        nn.ReLU(),
        nn.BatchNorm1d(4),
        nn.Embedding(4, 4),
        nn.Linear(0, 4),
        nn.Linear(4, 0),
        nn.Sequential(nn.ReLU(), nn.LayerNorm(4)),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_model_without_anything_to_prune_is_refused(model: nn.Module) -> None:
    with pytest.raises(NothingToPrune, match="no layer is left to prune by unstructured"):
        prune(model, HALF)


@pytest.mark.parametrize("pattern", ["filter", "channel", "head"])
def test_a_pattern_that_fits_no_layer_says_why_for_each(pattern: str) -> None:
    model = nn.ModuleDict({"fc1": nn.Linear(4, 4), "fc2": nn.Linear(4, 4)})
    with pytest.raises(NothingToPrune, match=r"fc1\.weight is .*; fc2\.weight is "):
        prune(model, {**HALF, "pattern": {"name": pattern}})


def test_excluding_everything_leaves_nothing_to_prune() -> None:
    with pytest.raises(NothingToPrune, match="is excluded by the recipe"):
        prune(ConvNet(), {**HALF, "layers": [{"match": "*", "set": {"exclude": True}}]})


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_an_empty_layer_is_reported_and_the_others_are_pruned() -> None:
    pruner = Pruner(nn.ModuleDict({"empty": nn.Linear(0, 3), "full": nn.Linear(4, 4)}), HALF)
    assert pruner.update().sparsity == 0.5
    (empty,) = [layer for layer in pruner.layers if layer.name == "empty.weight"]
    assert empty.why_not == "is empty: its shape is (3, 0)"


def test_a_loss_that_is_no_number_stops_the_pruning_before_anything_changes() -> None:
    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * math.nan

    model = ConvNet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PruningError, match="NaN or infinity"):
        prune(model, {**HALF, "criterion": {"name": "taylor"}}, batches(model), broken)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("pattern", ["channel", "n_m"])
@pytest.mark.parametrize("criterion", ["activation", "bn_scale", "fpgm"])
def test_a_criterion_of_outputs_cannot_choose_among_the_inputs_of_one(criterion: str, pattern: str) -> None:
    recipe = {"criterion": {"name": criterion}, "pattern": {"name": pattern}, "target": {"value": 0.5}}
    with pytest.raises(UnsuitableScores, match=f"{criterion} scores .* {pattern} chooses among the inputs"):
        Pruner(nn.Conv2d(4, 8, 3), recipe)
