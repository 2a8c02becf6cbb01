"""A tiny training loop for the tests: the same steps with the same seed, with a pruner going along."""

import torch
from torch import nn

from tests.worker.pruning.networks import ConvNet, batches, fill
from worker.pruning import Pruner
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
