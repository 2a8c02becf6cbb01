"""SNIP against the definition: the gradient of the loss in a switch on every connection."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.worker.pruning.criteria.tiny import Reads, mlp, vectors
from worker.pruning.criteria.snip import Snip
from worker.pruning.statistics import Calibration, gather

NAMES = ("0.weight", "2.weight")


def _scores(model: nn.Module, data: object) -> dict[str, torch.Tensor]:
    found = gather(model, NAMES, criterion=Snip(), calibration=Calibration(data=data))
    return {name: Snip().score(model.get_parameter(name), found[name]) for name in NAMES}


def test_it_is_the_normalised_gradient_of_the_switches():
    model, data = mlp(5, 4, 3), vectors(12, 5)
    x, y = data[0]
    switches = [torch.ones(4, 5, requires_grad=True), torch.ones(3, 4, requires_grad=True)]
    first, second = model[0], model[2]
    hidden = functional.linear(x, first.weight.detach() * switches[0], first.bias.detach()).tanh()
    logits = functional.linear(hidden, second.weight.detach() * switches[1], second.bias.detach())
    sensitivities = [g.abs() for g in torch.autograd.grad(functional.cross_entropy(logits, y), switches)]
    total = sum(s.sum() for s in sensitivities)

    scores = _scores(model, data)

    for name, sensitivity in zip(NAMES, sensitivities, strict=True):
        torch.testing.assert_close(scores[name], sensitivity / total)


def test_the_scores_of_all_layers_sum_to_one():
    scores = _scores(mlp(5, 4, 3), vectors(12, 5))
    assert sum(s.sum().item() for s in scores.values()) == pytest.approx(1.0)


def test_a_network_without_any_gradient_scores_zero_and_not_nan():
    found = gather(
        mlp(5, 4, 3),
        NAMES,
        criterion=Reads(("gradient", "connection_total")),
        calibration=Calibration(data=vectors(4, 5), loss=lambda outputs, targets: outputs.sum() * 0.0),
    )
    assert not Snip().score(torch.ones(4, 5), found["0.weight"]).any()
