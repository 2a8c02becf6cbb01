"""Fisher against a loop over samples."""

import torch
from torch.nn import functional

from tests.worker.pruning.criteria.tiny import mlp, statistics_of, vectors
from worker.pruning.criteria.fisher import Fisher


def test_it_is_the_squared_weight_times_the_mean_squared_gradient_of_single_samples():
    model, data = mlp(5, 4, 3), vectors(11, 5)
    weight = model[0].weight
    squares = torch.zeros_like(weight)
    for x, y in zip(*data[0], strict=True):
        model.zero_grad()
        functional.cross_entropy(model(x[None]), y[None]).backward()
        squares += weight.grad**2
    expected = weight.detach() ** 2 * squares / 11
    stats = statistics_of(model, "0.weight", "squared_gradient", data=data)
    torch.testing.assert_close(Fisher().score(weight, stats), expected)


def test_it_differs_from_the_squared_gradient_of_the_batch():
    model, data = mlp(5, 4, 3), vectors(11, 5)
    stats = statistics_of(model, "0.weight", "squared_gradient", "gradient", data=data)
    assert bool((stats.squared_gradient >= stats.gradient**2).all())
    assert stats.squared_gradient.sum() > 1.5 * (stats.gradient**2).sum()
