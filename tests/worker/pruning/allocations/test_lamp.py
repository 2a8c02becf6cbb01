"""Scores relative to the larger ones of their layer."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.worker.pruning.networks import ConvNet, batches, fill
from worker.pruning import prune
from worker.pruning.errors import UnsuitableScores

LAMP = {"allocation": {"name": "lamp"}, "target": {"value": 0.5}}


def test_the_worked_example() -> None:
    # a: 1 4 9 16 squared weights. LAMP: 1/30, 4/29, 9/25, 1. b: 1 1: LAMP 1/2, 1.
    # In order: 0.03, 0.14, 0.36, 0.5, so half of six are the three of a.
    model = nn.ModuleDict({"a": nn.Linear(4, 1, bias=False), "b": nn.Linear(2, 1, bias=False)})
    with torch.no_grad():
        model["a"].weight.copy_(torch.tensor([[4.0, -1, 3, 2]]))
        model["b"].weight.copy_(torch.tensor([[-1.0, 1]]))
    masks = prune(model, LAMP)
    assert masks["a.weight"].long().tolist() == [[1, 0, 0, 0]]
    assert masks["b.weight"].long().tolist() == [[1, 1]]


@given(st.integers(0, 1000), st.integers(1, 15))
def test_it_is_the_ranking_by_the_papers_formula(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    model = nn.ModuleDict({"a": nn.Linear(4, 2, bias=False), "b": nn.Linear(4, 3, bias=False)})
    scores = []
    for name, module in model.items():
        weight = random.normal(size=module.weight.shape).astype(np.float32)
        module.weight.data = torch.from_numpy(weight)
        squares = weight.astype(np.float64).reshape(-1) ** 2
        scores += [(square / squares[squares >= square].sum(), name, i) for i, square in enumerate(squares)]
    masks = prune(model, {**LAMP, "target": {"value": count / 20}})
    pruned = {(name, i) for _, name, i in sorted(scores)[:count]}
    found = {
        (name, i)
        for name in model
        for i in (~masks[f"{name}.weight"]).reshape(-1).nonzero().reshape(-1).tolist()
    }
    assert found == pruned


def test_negative_scores_are_refused() -> None:
    model = ConvNet().eval()
    fill(model, 0, tied=False)
    with pytest.raises(UnsuitableScores, match=r"lamp squares scores, but those of .* go down to -"):
        prune(model, {**LAMP, "criterion": {"name": "grasp"}}, batches(model))


def test_a_layer_of_zeros_does_not_break_it() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 1, bias=False), "b": nn.Linear(4, 1, bias=False)})
    nn.init.zeros_(model["a"].weight)
    assert prune(model, {**LAMP, "target": {"value": 3 / 8}}).sparsities() == {
        "a.weight": 0.75,
        "b.weight": 0.0,
    }
