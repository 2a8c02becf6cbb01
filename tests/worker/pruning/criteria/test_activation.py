"""Activation: worked numbers for both measures, with a BatchNorm behind the layer and without."""

import torch
from torch import nn

from tests.worker.pruning.criteria.tiny import Conv1D, statistics_of
from worker.pruning.criteria.activation import Activation


def _identity(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
        layer.bias.zero_()
    return layer


X = torch.tensor([[1.0, -1.0], [3.0, -2.0], [-2.0, 0.0], [0.0, 4.0]])


def _scores(model: nn.Module, name: str, measure: str, x: torch.Tensor = X) -> torch.Tensor:
    criterion = Activation(measure=measure)
    stats = statistics_of(model, name, *criterion.reads(), data=[(x, None)])
    return criterion.score(model.get_parameter(name), stats)


def test_every_weight_of_an_output_has_its_mean_magnitude():
    # (1 + 3 + 2 + 0) / 4 and (1 + 2 + 0 + 4) / 4, one output a row.
    scores = _scores(_identity(nn.Linear(2, 2)), "weight", "magnitude")
    torch.testing.assert_close(scores, torch.tensor([[1.5, 1.5], [1.75, 1.75]]))


def test_apoz_counts_what_a_relu_makes_zero():
    # Two of four are zero or less in the first output, three in the second.
    scores = _scores(_identity(nn.Linear(2, 2)), "weight", "apoz")
    torch.testing.assert_close(scores, torch.tensor([[0.5, 0.5], [0.25, 0.25]]))


def test_outputs_of_a_transposed_layer_are_its_columns():
    scores = _scores(_identity(Conv1D(2, 2)), "weight", "magnitude")
    torch.testing.assert_close(scores, torch.tensor([[1.5, 1.75], [1.5, 1.75]]))


def test_zeros_are_counted_behind_the_batchnorm_and_magnitudes_before_it():
    # The BatchNorm shifts every output over zero; the layer's own are those of the first test.
    model = nn.Sequential(_identity(nn.Linear(2, 2)), nn.BatchNorm1d(2, eps=0.0), nn.ReLU())
    with torch.no_grad():
        model[1].bias.fill_(10.0)
    assert bool((_scores(model, "0.weight", "apoz") == 1.0).all())
    scores = _scores(model, "0.weight", "magnitude")
    torch.testing.assert_close(scores, torch.tensor([[1.5, 1.5], [1.75, 1.75]]))


def test_a_convolution_is_averaged_over_positions():
    conv = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1))
        conv.bias.zero_()
    image = torch.tensor([[1.0, 0.0], [3.0, -4.0]]).view(1, 1, 2, 2)
    scores = _scores(conv, "weight", "magnitude", image)
    torch.testing.assert_close(scores.flatten(), torch.tensor([2.0, 4.0]))
