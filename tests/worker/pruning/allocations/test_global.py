"""One ranking over all layers, normalised or not."""

import pytest
import torch
from torch import nn

from worker.pruning import prune


def two_layers() -> nn.ModuleDict:
    """A layer of small weights and one of large: 1 2 3 4, and 10 20 30 40."""
    model = nn.ModuleDict({"small": nn.Linear(4, 1, bias=False), "large": nn.Linear(4, 1, bias=False)})
    with torch.no_grad():
        model["small"].weight.copy_(torch.tensor([[1.0, 2, 3, 4]]))
        model["large"].weight.copy_(torch.tensor([[10.0, 20, 30, 40]]))
    return model


def recipe(value: float, **params: object) -> dict[str, object]:
    return {"allocation": {"name": "global", "params": params}, "target": {"value": value}}


def test_without_normalisation_the_small_layer_goes_first() -> None:
    assert prune(two_layers(), recipe(3 / 8)).sparsities() == {"large.weight": 0.0, "small.weight": 0.75}


@pytest.mark.parametrize("normalisation", ["mean", "l2", "max"])
def test_with_normalisation_the_scale_of_a_layer_is_irrelevant(normalisation: str) -> None:
    masks = prune(two_layers(), recipe(0.5, normalisation=normalisation))
    assert masks.sparsities() == {"large.weight": 0.5, "small.weight": 0.5}


@pytest.mark.parametrize("normalisation", ["mean", "l2", "max"])
def test_a_layer_of_zeros_cannot_be_normalised_and_goes_first(normalisation: str) -> None:
    model = two_layers()
    nn.init.zeros_(model["small"].weight)
    masks = prune(model, recipe(3 / 8, normalisation=normalisation))
    assert masks.sparsities() == {"large.weight": 0.0, "small.weight": 0.75}


def test_a_layer_keeps_its_last_weight_and_the_others_make_up_for_it() -> None:
    assert prune(two_layers(), recipe(0.5)).sparsities() == {"large.weight": 0.25, "small.weight": 0.75}


def test_a_layer_may_lose_its_last_weight_when_asked() -> None:
    masks = prune(two_layers(), recipe(0.5, may_empty_layers=True))
    assert masks.sparsities() == {"large.weight": 0.0, "small.weight": 1.0}


def test_equal_weights_go_in_the_order_of_their_layers_names() -> None:
    model = two_layers()
    for module in model.values():
        nn.init.ones_(module.weight)
    masks = prune(model, recipe(0.5))
    assert masks["large.weight"].long().tolist() == [[0, 0, 0, 1]]
    assert masks["small.weight"].long().tolist() == [[0, 1, 1, 1]]
