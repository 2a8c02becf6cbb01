"""Allocations that give every layer a share: uniform and ERK."""

import pytest
from torch import nn

from worker.pruning import prune


def recipe(name: str, value: float) -> dict[str, object]:
    return {"allocation": {"name": name}, "target": {"value": value}}


def test_uniform_prunes_the_same_fraction_of_every_layer() -> None:
    model = nn.ModuleList([nn.Linear(10, 10), nn.Linear(10, 50), nn.Linear(5, 4)])
    assert prune(model, recipe("uniform", 0.7)).sparsities() == pytest.approx(
        {"0.weight": 0.7, "1.weight": 0.7, "2.weight": 0.7}
    )


def test_erk_keeps_in_proportion_to_the_sum_of_the_dimensions() -> None:
    # 10 + 10 + 3 + 3 = 26 and 100 + 4 = 104: of 1300 weights, 260 are kept, 52 and 208.
    model = nn.ModuleDict({"conv": nn.Conv2d(10, 10, 3), "fc": nn.Linear(100, 4)})
    masks = prune(model, recipe("erk", 0.8))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"conv.weight": 52, "fc.weight": 208}


def test_erk_leaves_a_layer_dense_that_would_keep_more_than_it_has() -> None:
    # Shares 4 + 4 = 8 and 100 + 100 = 200: of 5000 kept, 192 would be the small layer's, which has 16.
    model = nn.ModuleDict({"small": nn.Linear(4, 4), "wide": nn.Linear(100, 100)})
    masks = prune(model, recipe("erk", 1 - 5000 / 10016))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "small.weight": 16,
        "wide.weight": 4984,
    }
