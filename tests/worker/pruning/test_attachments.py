"""A pruner that is copied with its optimizer goes along with the copy."""

import copy
from typing import Any

import pytest
import torch

from tests.worker.pruning.loop import network, train, zeros
from worker.pruning import Pruner

CUBIC = {"target": {"value": 0.7}, "schedule": {"name": "cubic"}}
RECIPES = {"magnitude": CUBIC, "movement": {**CUBIC, "criterion": {"name": "movement"}}}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_copy_of_all_that_trains_goes_on_to_the_same_bits(recipe: dict[str, Any]) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    pruner = Pruner(model, recipe, steps=20)
    pruner.attach(optimizer)
    train(model, optimizer, pruner, steps=range(8))

    twin, other, keeper = copy.deepcopy((model, optimizer, pruner))
    train(twin, other, keeper, steps=range(8, 20))
    assert len(pruner.history) < len(keeper.history)

    train(model, optimizer, pruner, steps=range(8, 20))
    assert keeper.history == pruner.history
    final = model.state_dict()
    assert all(torch.equal(tensor, final[name]) for name, tensor in twin.state_dict().items())


def test_the_copy_of_an_optimizer_is_held_and_let_go_by_the_copy_of_the_pruner() -> None:
    model = network()
    pruner = Pruner(model, {"target": {"value": 0.7}}, steps=20)
    pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.1))
    twin, other, keeper = copy.deepcopy((model, optimizer, pruner))
    train(twin, other, steps=range(2))
    assert zeros(twin, keeper)
    keeper.detach()
    train(twin, other, steps=range(2))
    assert not zeros(twin, keeper)
    train(model, optimizer, steps=range(2))
    assert zeros(model, pruner)
