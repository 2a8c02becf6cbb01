"""A tiny training loop for the tests: the same steps with the same seed, with a pruner going along."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.worker.pruning.networks import Batches, ConvNet, batches, fill
from worker.pruning import MaskSet, Pruner, prune
from worker.pruning.protocols import LearnsScores
from worker.pruning.registry import entries
from worker.pruning.rounds import Round


def network(seed: int = 0) -> ConvNet:
    model = ConvNet()
    fill(model, seed, tied=False)
    return model


def compute_gradients(model: nn.Module, seed: int) -> None:
    """Leave the gradients of one batch in the parameters."""
    model.zero_grad()
    (x, y), *_ = batches(model, seed)
    nn.functional.cross_entropy(model(x), y).backward()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pruner: Pruner | None = None,
    *,
    steps: range,
) -> list[Round]:
    """Train, one batch a step; return the rounds that the pruner's steps pruned."""
    rounds = []
    for step in steps:
        compute_gradients(model, step)
        optimizer.step()
        pruned = pruner.step() if pruner is not None else None
        if pruned is not None:
            rounds.append(pruned)
    return rounds


def zeros(model: nn.Module, pruner: Pruner) -> bool:
    """Say whether every pruned weight is exactly zero."""
    weights = dict(model.named_parameters())
    return all(not weights[name][~mask].any() for name, mask in pruner.masks.items())


def learns_scores(recipe: Mapping[str, Any]) -> bool:
    name = recipe.get("criterion", {"name": "magnitude"})["name"]
    return "training" in entries("criterion")[name].needs


def prune_any(
    model: nn.Module, recipe: Mapping[str, Any], data: Batches | None = None, **changes: Any
) -> MaskSet:
    """Prune as `prune` does; a criterion that learns takes a step on each batch first.

    The steps have real gradients and a learning rate of zero, so that all laws see the weights as they were.
    """
    if not learns_scores(recipe):
        return prune(model, recipe, data, **changes)
    pruner = Pruner(model, recipe, data, **changes)
    pruner.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.0))
    for x, y in data or ():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    pruner.update(1.0)
    return pruner.finish()


def learn_scores(
    model: nn.Module, names: Sequence[str], criterion: LearnsScores, data: Batches
) -> dict[str, Tensor]:
    """Return what a criterion learns from a step on each batch, computed on a copy, by parameter name."""
    twin = copy.deepcopy(model).eval()
    weights = {name: twin.get_parameter(name).requires_grad_() for name in names}
    memories = {name: criterion.start(weight.detach()) for name, weight in weights.items()}
    for x, y in data:
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(twin(x).float(), y)
        gradients = torch.autograd.grad(loss, list(weights.values()))
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            criterion.learn(memories[name], weight.detach(), gradient, pressure=0.0)
    return {name: memory["scores"] for name, memory in memories.items()}
