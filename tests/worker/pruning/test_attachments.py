"""The optimizers that a pruner goes along with: copied with it, along a line, one inside of another."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.loop import compute_gradients, network, train, zeros
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


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_steps_along_a_line_go_down_with_pruned_weights_too(line_search) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 5))
    x, y = torch.randn(200, 20), torch.randint(5, (200,))
    pruner = Pruner(model, {"target": {"value": 0.9}}, steps=30)
    pruner.attach(optimizer := torch.optim.LBFGS(model.parameters(), line_search_fn=line_search))
    losses = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(10):
        losses.append(float(optimizer.step(closure).detach()))
        pruner.step()
    assert losses[-1] < losses[0]
    assert zeros(model, pruner)


def test_scores_are_learned_once_a_step_where_a_step_calls_that_of_its_base_class() -> None:
    class Mine(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    def learn(kind: type[torch.optim.SGD]) -> Tensor:
        model = network()
        pruner = Pruner(model, {**CUBIC, "criterion": {"name": "movement"}}, steps=10)
        pruner.attach(optimizer := kind(model.parameters(), lr=0.1))
        train(model, optimizer, pruner, steps=range(6))
        return pruner.state_dict()["memory"]["fc1.weight"]["scores"]

    assert torch.equal(learn(torch.optim.SGD), learn(Mine))


def test_gradients_of_pruned_weights_are_zero_in_the_step_and_stay_where_they_are_read() -> None:
    for schedule, is_read in ({"name": "one_shot"}, False), ({"name": "rigl"}, True):
        model = network()
        pruner = Pruner(model, {"target": {"value": 0.7}, "schedule": schedule}, steps=10)
        pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.05))
        compute_gradients(model, 0)
        optimizer.step()
        mask = pruner.masks["fc1.weight"]
        assert bool(model.fc1.weight.grad[~mask].any()) is is_read
        assert model.fc1.weight.grad[mask].any()
