"""BatchNorm scale: found by tracing and by running alike, refused where there is none."""

import pytest
import torch
from torch import nn

from tests.worker.pruning.criteria.tiny import BEHIND_BATCHNORM, images, net
from worker.pruning.criteria.bn_scale import BatchNormScale
from worker.pruning.statistics import Calibration, NoBatchNorm, gather


@pytest.mark.parametrize("data", [None, images(2)], ids=["traced", "run"])
def test_the_channels_have_the_magnitude_of_their_own_batchnorms_scale(data):
    model = net()
    with torch.no_grad():
        model.bn1.weight.neg_()
    found = gather(model, BEHIND_BATCHNORM, criterion=BatchNormScale(), calibration=Calibration(data=data))
    scores = BatchNormScale().score(model.conv.weight, found["conv.weight"])
    torch.testing.assert_close(scores[:, 2, 1, 0], model.bn1.weight.detach().abs())
    transposed = BatchNormScale().score(model.transposed.weight, found["transposed.weight"])
    torch.testing.assert_close(transposed[5], model.bn3.weight.detach())


@pytest.mark.parametrize("data", [None, images(2)], ids=["traced", "run"])
def test_a_layer_without_a_batchnorm_behind_it_is_refused_by_name(data):
    with pytest.raises(NoBatchNorm, match=r"takes the output of head\.weight"):
        gather(
            net(),
            ["conv.weight", "head.weight"],
            criterion=BatchNormScale(),
            calibration=Calibration(data=data),
        )


def test_a_batchnorm_behind_something_else_is_not_taken():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3))
    with pytest.raises(NoBatchNorm):
        gather(model, ["0.weight"], criterion=BatchNormScale())


def test_a_batchnorm_without_a_scale_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False))
    with pytest.raises(NoBatchNorm, match="with a scale"):
        gather(model, ["0.weight"], criterion=BatchNormScale())


def test_a_model_that_cannot_be_traced_asks_for_data():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(x if x.sum() > 0 else -x))

    with pytest.raises(NoBatchNorm, match="give data"):
        gather(Branches(), ["conv.weight"], criterion=BatchNormScale())
    calibration = Calibration(data=images(2))
    found = gather(Branches(), ["conv.weight"], criterion=BatchNormScale(), calibration=calibration)
    assert found["conv.weight"].batchnorm_scale.shape == (4,)
