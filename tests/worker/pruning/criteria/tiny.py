"""Tiny networks and data for the tests of criteria and statistics."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from worker.pruning.statistics import Calibration, LayerStatistics, Statistic, gather

Batches = list[tuple[Tensor, Tensor]]


class Conv1D(nn.Module):
    """As in transformers: a linear layer whose weight is [in, out]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Net(nn.Module):
    """Every kind of layer that is pruned, each but the last with a BatchNorm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.bn1 = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.transposed = Conv1D(32, 10)
        self.bn3 = nn.BatchNorm1d(10)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv(x)).relu()
        x = self.bn2(self.grouped(x)).relu()
        x = self.bn3(self.transposed(x.flatten(1))).relu()
        return self.head(self.drop(x))


BEHIND_BATCHNORM = ("conv.weight", "grouped.weight", "transposed.weight")
LAYERS = (*BEHIND_BATCHNORM, "head.weight")


def net(seed: int = 0) -> Net:
    """Build a `Net` whose BatchNorms have seen data, so that their statistics are not 0 and 1."""
    torch.manual_seed(seed)
    model = Net()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        model(torch.randn(16, 3, 8, 8))
    return model


def images(*sizes: int, seed: int = 1) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=generator),
            torch.randint(0, 4, (size,), generator=generator),
        )
        for size in sizes
    ]


def vectors(size: int, features: int, classes: int = 3, seed: int = 1) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, features, generator=generator)
    return [(x, torch.randint(0, classes, (size,), generator=generator))]


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class Reads:
    """A criterion that only reads."""

    statistics: tuple[Statistic, ...]
    probes: int = 1

    def reads(self) -> tuple[Statistic, ...]:
        return self.statistics


def statistics_of(
    model: nn.Module, name: str, *statistics: Statistic, data: object = None, **calibration: object
) -> LayerStatistics:
    return gather(
        model,
        [name],
        criterion=Reads(statistics),
        calibration=Calibration(data=data, **calibration),
    )[name]
