"""The gradient criterion against backward()."""

import torch
from torch.nn import functional

from tests.worker.pruning.criteria.tiny import mlp, statistics_of, vectors
from worker.pruning.criteria.gradient import Gradient


def test_it_is_the_magnitude_of_what_backward_gives():
    model, data = mlp(5, 4, 3), vectors(11, 5)
    stats = statistics_of(model, "2.weight", "gradient", data=data)
    scores = Gradient().score(model[2].weight, stats)
    functional.cross_entropy(model(data[0][0]), data[0][1]).backward()
    torch.testing.assert_close(scores, model[2].weight.grad.abs())
