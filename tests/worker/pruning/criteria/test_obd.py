"""Optimal Brain Damage against exact Hessians."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from tests.worker.pruning.criteria.tiny import Reads, mlp, vectors
from worker.pruning.criteria.obd import OptimalBrainDamage
from worker.pruning.statistics import Calibration, gather


def _squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().sum(dim=1).mean()


def test_a_diagonal_hessian_is_found_exactly_by_one_probe():
    # Inputs are single features, so L = mean over n of (W_:,j x_j - y)² has the Hessian 2 E[x_j²] on its
    # diagonal and nothing beside it: x = diag(1, 2, 3) gives h = 2/3, 8/3, 18/3, and s = w² h / 2.
    layer = nn.Linear(3, 2, bias=False)
    data = [(torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.zeros(3, 2))]
    criterion = OptimalBrainDamage(probes=1)
    stats = gather(
        layer, ["weight"], criterion=criterion, calibration=Calibration(data=data, loss=_squared_error)
    )["weight"]
    expected = layer.weight.detach() ** 2 * torch.tensor([1.0, 4.0, 9.0]) / 3
    torch.testing.assert_close(criterion.score(layer.weight, stats), expected)


def test_the_score_of_a_quadratic_is_the_rise_of_the_loss_when_the_weight_goes():
    layer = nn.Linear(3, 2, bias=False)
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    data = [(x, layer(x).detach())]  # at the minimum, so that there is no first order
    criterion = OptimalBrainDamage(probes=1)
    stats = gather(
        layer, ["weight"], criterion=criterion, calibration=Calibration(data=data, loss=_squared_error)
    )["weight"]
    scores = criterion.score(layer.weight, stats)
    with torch.no_grad():
        layer.weight[1, 2] = 0.0
    torch.testing.assert_close(_squared_error(layer(x), data[0][1]).detach(), scores[1, 2])


def test_the_estimate_goes_to_the_exact_diagonal():
    # The estimate's variance is 2 Σ_{j≠i} H_ij² / probes or less; here that is a standard error of 0.005.
    model, data = mlp(3, 3, 3), vectors(10, 3)
    flat = model[0].weight.detach().flatten()

    def loss(weight: torch.Tensor) -> torch.Tensor:
        outputs = functional_call(model, {"0.weight": weight.view(3, 3)}, (data[0][0],))
        return functional.cross_entropy(outputs, data[0][1])

    hessian = torch.autograd.functional.hessian(loss, flat)
    off_diagonal = hessian - hessian.diag().diag()
    bound = 5 * (2 * off_diagonal.square().sum(1).max() / 400).sqrt()
    stats = gather(
        model,
        ["0.weight"],
        criterion=Reads(("hessian_diagonal",), probes=400),
        calibration=Calibration(data=data),
    )["0.weight"]
    error = (stats.hessian_diagonal.flatten() - hessian.diag()).abs().max()
    assert error < bound
    assert bound < 0.5 * hessian.diag().abs().max()


def test_negative_curvature_is_scored_by_its_size():
    # L = mean of -x² w² in one weight: h = -2, s = w² · 2 / 2.
    layer = nn.Linear(1, 1, bias=False)
    criterion = OptimalBrainDamage(probes=1)
    stats = gather(
        layer,
        ["weight"],
        criterion=criterion,
        calibration=Calibration(data=[(torch.ones(2, 1), None)], loss=lambda out, _: -out.square().mean()),
    )["weight"]
    assert stats.hessian_diagonal.item() == -2.0
    torch.testing.assert_close(criterion.score(layer.weight, stats), layer.weight.detach() ** 2)
