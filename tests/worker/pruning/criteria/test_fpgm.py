"""FPGM against distances written out."""

import torch

from tests.worker.pruning.criteria.tiny import Conv1D
from worker.pruning.criteria.fpgm import GeometricMedian
from worker.pruning.statistics import LayerStatistics


def test_it_is_the_sum_of_distances_to_the_other_filters():
    weight = torch.randn(6, 3, 2, 2)
    expected = [sum((weight[i] - weight[j]).square().sum() ** 0.5 for j in range(6)) for i in range(6)]
    scores = GeometricMedian().score(weight, LayerStatistics())
    torch.testing.assert_close(scores[:, 1, 0, 1], torch.stack(expected))


def test_a_large_filter_that_has_a_twin_goes_before_a_small_one_that_has_none():
    # On a line at 10, 10, 11 and 0: the distances sum to 11, 11, 13 and 31.
    weight = torch.tensor([[10.0], [10.0], [11.0], [0.0]])
    scores = GeometricMedian().score(weight, LayerStatistics())
    assert scores.flatten().tolist() == [11.0, 11.0, 13.0, 31.0]


def test_the_filters_of_a_transposed_layer_are_its_columns():
    weight = Conv1D(3, 5).weight.detach()
    scores = GeometricMedian().score(weight, LayerStatistics(input_dim=0))
    torch.testing.assert_close(scores, GeometricMedian().score(weight.t(), LayerStatistics()).t())


def test_layers_wider_than_a_chunk_are_scored_as_one():
    weight = torch.randn(600, 3)
    scores = GeometricMedian().score(weight, LayerStatistics())
    expected = (weight[:, None] - weight[None]).square().sum(-1).sqrt().sum(1)
    torch.testing.assert_close(scores[:, 0], expected)
