"""Ordered rows of globs: the later wins, contradictions are errors."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.pruning.networks import Attention
from worker.pruning import Pruner, prune
from worker.pruning.errors import ContradictoryRows, NoMatch, UnreachableTarget, UnsuitableLayer
from worker.pruning.recipe import InvalidRecipe


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    layers = {name: nn.Linear(20, 10) for name in ("fc1", "fc2", "head")}
    return nn.ModuleDict({**layers, "norm": nn.LayerNorm(3)})


def sparsities(*rows: tuple[str, dict[str, Any]], value: float = 0.5) -> dict[str, float]:
    layers = [{"match": match, "set": setting} for match, setting in rows]
    found = prune(network(), {"target": {"value": value}, "layers": layers}).sparsities()
    return {name.removesuffix(".weight"): sparsity for name, sparsity in found.items()}


def test_a_fixed_sparsity_is_exact_and_the_others_make_up_for_it() -> None:
    found = sparsities(("fc1", {"sparsity": 0.9}))
    assert found["fc1"] == 0.9
    assert sum(found.values()) == pytest.approx(1.5)


def test_a_minimum_and_a_maximum_hold() -> None:
    found = sparsities(("fc1", {"min_sparsity": 0.8}), ("fc2", {"max_sparsity": 0.1}))
    assert found["fc1"] >= 0.8
    assert found["fc2"] <= 0.1
    assert sum(found.values()) == pytest.approx(1.5)


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "lamp"])
def test_every_allocation_keeps_to_the_rows(allocation: str) -> None:
    rows = [
        {"match": "fc1", "set": {"sparsity": 0.15}},
        {"match": "fc2", "set": {"min_sparsity": 0.6}},
        {"match": "head", "set": {"max_sparsity": 0.7}},
    ]
    recipe = {"allocation": {"name": allocation}, "target": {"value": 0.5}, "layers": rows}
    masks = prune(network(), recipe)
    found = masks.sparsities()
    assert found["fc1.weight"] == pytest.approx(0.15)
    assert found["fc2.weight"] >= 0.6
    assert found["head.weight"] <= 0.7
    assert masks.kept == 300


def test_an_excluded_layer_is_not_masked_and_does_not_count() -> None:
    found = sparsities(("head", {"exclude": True}))
    assert set(found) == {"fc1", "fc2"}
    assert sum(found.values()) == pytest.approx(1.0)


def test_the_later_row_wins() -> None:
    assert set(sparsities(("*", {"exclude": True}), ("fc*", {"min_sparsity": 0.0}))) == {"fc1", "fc2"}
    assert sparsities(("fc*", {"sparsity": 0.9}), ("fc2", {"sparsity": 0.2}), value=0.5)[
        "fc2"
    ] == pytest.approx(0.2)


def test_taking_a_layer_in_again_leaves_what_other_rows_ask_of_it() -> None:
    rows = [
        {"match": "0.weight", "set": {"sparsity": 0.1}},
        {"match": "*.weight", "set": {"exclude": False}},
    ]
    masks = prune(
        nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10)), {"target": {"value": 0.3}, "layers": rows}
    )
    assert masks.sparsities() == {"0.weight": pytest.approx(0.1), "1.weight": pytest.approx(0.5)}


def test_rows_of_one_layer_are_merged_field_by_field() -> None:
    found = sparsities(("fc1", {"min_sparsity": 0.7}), ("fc*", {"max_sparsity": 0.8}), value=0.4)
    assert 0.7 <= found["fc1"] <= 0.8
    assert found["fc2"] <= 0.8


def test_a_glob_matches_the_parameter_the_module_or_an_alias() -> None:
    model = network()
    model["tied"] = nn.Linear(20, 10)
    model["tied"].weight = model["fc1"].weight
    for glob in ("fc1", "fc1.weight", "tied", "tied.weight", "f?1"):
        pruner = Pruner(
            model, {"target": {"value": 0.5}, "layers": [{"match": glob, "set": {"exclude": True}}]}
        )
        assert "fc1.weight" not in pruner.masks


def test_a_glob_that_matches_nothing_names_the_closest_layers() -> None:
    with pytest.raises(NoMatch, match=r"'fc3\.weight' matches no layer; the closest are fc[12]\.weight"):
        sparsities(("fc3.weight", {"exclude": True}))


def test_a_sparsity_for_what_cannot_be_pruned_says_why_not() -> None:
    with pytest.raises(
        UnsuitableLayer, match=r"'norm\*' matches only layers that cannot be pruned: norm.* belongs to"
    ):
        sparsities(("norm*", {"sparsity": 0.5}))
    with pytest.raises(UnsuitableLayer, match=r"norm.* is a bias|belongs to a normalisation"):
        sparsities(("norm.bias", {"min_sparsity": 0.5}))


def test_a_sparsity_for_a_layer_that_the_pattern_refuses_says_why_not() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(4, 4), "conv": nn.Conv2d(4, 4, 1)})
    rows = [{"match": "conv", "set": {"sparsity": 0.5}}]
    with pytest.raises(UnsuitableLayer, match=r"conv.* is a convolution: its outputs are filters"):
        prune(model, {"pattern": {"name": "neuron"}, "target": {"value": 0.5}, "layers": rows})


def test_a_minimum_over_a_maximum_is_a_contradiction_wherever_they_stand() -> None:
    with pytest.raises(
        ContradictoryRows, match=r"at least 0\.9 and at most 0\.1 of fc1\.weight; the last is 'fc\*'"
    ):
        sparsities(("fc1", {"min_sparsity": 0.9}), ("fc*", {"max_sparsity": 0.1}))


def test_excluding_and_pruning_by_one_glob_is_a_contradiction() -> None:
    with pytest.raises(ContradictoryRows, match="two rows match 'fc1': one excludes it, the other prunes it"):
        sparsities(("fc1", {"exclude": True}), ("fc1", {"sparsity": 0.5}))


def test_contradictory_rows_for_layers_that_go_together_are_an_error() -> None:
    rows = [
        {"match": "self.query", "set": {"min_sparsity": 0.8}},
        {"match": "self.key", "set": {"max_sparsity": 0.2}},
    ]
    with pytest.raises(ContradictoryRows, match="which go together"):
        Pruner(Attention(), {"pattern": {"name": "head"}, "target": {"value": 0.5}, "layers": rows})


def test_rows_that_contradict_the_target_name_the_nearest_reachable() -> None:
    with pytest.raises(
        UnreachableTarget, match=r"asked for sparsity 0\.9, the nearest reachable is 0\.3"
    ) as raised:
        sparsities(("*", {"max_sparsity": 0.3}), value=0.9)
    assert raised.value.nearest == pytest.approx(0.3)
    with pytest.raises(UnreachableTarget, match=r"asked for sparsity 0\.1, the nearest reachable is 0\.6"):
        sparsities(("*", {"min_sparsity": 0.6}), value=0.1)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({}, "set at least one of"),
        ({"exclude": True, "sparsity": 0.5}, "an excluded layer cannot have a sparsity"),
        ({"sparsity": 0.5, "min_sparsity": 0.1}, "leaves no room"),
        ({"min_sparsity": 0.5, "max_sparsity": 0.1}, "is over max_sparsity"),
        ({"sparsity": 1.5}, "less than or equal to 1"),
        ({"speed": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(setting: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidRecipe, match=complaint):
        sparsities(("fc1", setting))
