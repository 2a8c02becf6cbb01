"""GraSP against a Hessian written out by autograd, and its sign against the gradient flow itself."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tests.worker.pruning.criteria.tiny import Batches, mlp, vectors
from worker.pruning.criteria.grasp import Grasp
from worker.pruning.statistics import Calibration, gather

NAMES = ("0.weight", "2.weight")


def _loss_in(model: nn.Module, data: Batches, flat: Tensor) -> Tensor:
    """The mean loss as a function of all weights in NAMES, in one vector."""
    shapes = [model.get_parameter(name).shape for name in NAMES]
    parts = flat.split([shape.numel() for shape in shapes])
    weights = {name: part.view(shape) for name, part, shape in zip(NAMES, parts, shapes, strict=True)}
    x, y = (torch.cat(tensors) for tensors in zip(*data, strict=True))
    return functional.cross_entropy(functional_call(model, weights, (x,)), y)


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([model.get_parameter(name).detach().flatten() for name in NAMES])


def _scores(model: nn.Module, data: Batches) -> Tensor:
    found = gather(model, NAMES, criterion=Grasp(), calibration=Calibration(data=data))
    return torch.cat([Grasp().score(model.get_parameter(n), found[n]).flatten() for n in NAMES])


def test_it_is_the_weight_times_hessian_times_gradient():
    model = mlp(5, 4, 3).double()
    data = [(x.double(), y) for x, y in vectors(7, 5) + vectors(4, 5, seed=2)]
    flat = _flat(model)
    hessian = torch.autograd.functional.hessian(lambda w: _loss_in(model, data, w), flat)
    gradient = torch.func.grad(lambda w: _loss_in(model, data, w))(flat)
    torch.testing.assert_close(_scores(model, data), (flat * (hessian @ gradient)).float())


def test_shrinking_a_weight_of_positive_score_weakens_the_gradient_flow():
    # d‖g‖² = 2 (Hg)·dw, so dw = -ε w changes it by -2ε w·(Hg): down where the score is positive.
    model, data = mlp(5, 4, 3).double(), [(x.double(), y) for x, y in vectors(9, 5)]
    flat, scores = _flat(model), _scores(model, data)

    def flow(weights: Tensor) -> Tensor:
        return torch.func.grad(lambda w: _loss_in(model, data, w))(weights).square().sum()

    before = flow(flat)
    for index in (int(scores.argmax()), int(scores.argmin())):
        shrunk = flat.clone()
        shrunk[index] *= 1 - 1e-6
        change = (flow(shrunk) - before) / 1e-6
        torch.testing.assert_close(change.float(), -2 * scores[index], rtol=1e-3, atol=1e-8)
    assert scores.max() > 0 > scores.min()
