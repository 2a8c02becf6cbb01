"""Taylor: per sample and over the batch are two criteria."""

import torch
from torch import nn

from tests.worker.pruning.criteria.tiny import statistics_of
from worker.pruning.criteria.taylor import Taylor


def _one_weight() -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(2.0)
    return layer


def test_effects_that_cancel_over_the_batch_count_per_sample():
    # loss = mean of w·x with w = 2 and x = +3, -1: g is 3 and -1, so
    # E|w·g| = 2 · (3 + 1) / 2 = 4, and |w · E g| = 2 · (3 - 1) / 2 = 2.
    data = [(torch.tensor([[3.0], [-1.0]]), torch.zeros(2))]
    loss = lambda outputs, targets: outputs.mean()  # noqa: E731
    layer = _one_weight()
    stats = statistics_of(layer, "weight", "absolute_gradient", "gradient", data=data, loss=loss)
    assert Taylor(form="per_sample").score(layer.weight, stats).item() == 4.0
    assert Taylor(form="batch").score(layer.weight, stats).item() == 2.0


def test_batches_weigh_as_many_samples_as_they_hold():
    # x = 1, 1, 1 in one batch and 5 in another: E g = 8 / 4, not (1 + 5) / 2.
    data = [(torch.ones(3, 1), torch.zeros(3)), (torch.full((1, 1), 5.0), torch.zeros(1))]
    loss = lambda outputs, targets: outputs.mean()  # noqa: E731
    layer = _one_weight()
    stats = statistics_of(layer, "weight", "gradient", data=data, loss=loss)
    assert Taylor(form="batch").score(layer.weight, stats).item() == 4.0
