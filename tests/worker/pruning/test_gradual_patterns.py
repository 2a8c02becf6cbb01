"""Patterns that fix places or sizes, pruned little by little while the weights move."""

import pytest
import torch

from tests.worker.pruning.loop import network, train, zeros
from tests.worker.pruning.networks import ConvNet
from worker.pruning import Pruner

GRADUAL = ["linear", "cubic", "exponential"]
every_schedule = pytest.mark.parametrize("schedule", GRADUAL)


def trained_pruner(
    pattern: dict[str, object], schedule: str
) -> tuple[ConvNet, Pruner, torch.optim.Optimizer]:
    model = network()
    recipe = {"pattern": pattern, "target": {"value": 0.5}, "schedule": {"name": schedule}}
    pruner = Pruner(model, recipe, steps=40)
    pruner.attach(optimizer := torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1))
    return model, pruner, optimizer


@every_schedule
def test_n_of_m_fills_up_to_exactly_n_and_no_group_ever_has_fewer(schedule: str) -> None:
    model, pruner, optimizer = trained_pruner({"name": "n_m", "params": {"keep": 2, "of": 4}}, schedule)
    seen = 0
    for step in range(40):
        planned = train(model, optimizer, pruner, steps=range(step, step + 1))
        groups = [mask.movedim(1, -1).reshape(-1, 4).sum(dim=1) for mask in pruner.masks.values()]
        assert all(bool((kept >= 2).all()) for kept in groups)
        assert zeros(model, pruner)
        for one in planned:
            seen += 1
            # Each layer has its share of what is due, rounded.
            counts = [int((~mask).sum()) for mask in pruner.masks.values()]
            assert counts == [round(one.fraction * mask.numel() / 2) for mask in pruner.masks.values()]
    assert seen == 20
    assert all(bool((kept == 2).all()) for kept in groups)


@every_schedule
def test_blocks_go_whole_and_stay_gone(schedule: str) -> None:
    model, pruner, optimizer = trained_pruner({"name": "block", "params": {"shape": [2, 4]}}, schedule)
    before = pruner.masks
    for step in range(40):
        train(model, optimizer, pruner, steps=range(step, step + 1))
        masks = pruner.masks
        for mask in masks.values():
            tiles = mask.flatten(2) if mask.dim() > 2 else mask[..., None]  # [out, in, kernel]
            outputs, inputs, kernel = tiles.shape
            tiles = tiles.reshape(outputs // 2, 2, inputs // 4, 4, kernel).sum(dim=(1, 3))
            assert bool(((tiles == 0) | (tiles == 8)).all())
        assert (masks - before).kept == 0
        assert zeros(model, pruner)
        before = masks
    assert before.kept == before.numel // 2
    due = [round(reached.round.fraction * 384) for reached in pruner.history]
    reached = [round(reached.sparsity * 768) for reached in pruner.history]
    assert all(abs(one - other) <= 4 for one, other in zip(due, reached, strict=True))
