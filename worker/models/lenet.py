"""The two LeNets of the pruning literature.

LeNet-300-100: LeCun et al. 1998, "Gradient-based learning applied to document recognition", section III.B.
LeNet-5: the variant with 20 and 50 filters that Han et al. 2015 ("Learning both weights and connections")
prune; 431,080 parameters at 28x28 with ten classes.
"""

import torch
from pydantic import Field
from torch import nn

from worker.models.registry import Network, Params, image_network, register


class LeNetParams(Params):
    in_channels: int = Field(default=1, ge=1, le=64)
    image_size: int = Field(default=28, ge=4, le=512)
    classes: int = Field(default=10, ge=1, le=100_000)


class LeNet5Params(LeNetParams):
    """Two 5x5 convolutions, each followed by 2x2 pooling, need 16 pixels at least."""

    image_size: int = Field(default=28, ge=16, le=512)


class LeNet300(nn.Module):
    """[n, c, h, w] → [n, classes] through two hidden layers of 300 and 100 units."""

    def __init__(self, params: LeNetParams) -> None:
        super().__init__()
        self.fc1 = nn.Linear(params.in_channels * params.image_size**2, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, params.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.fc1(x.flatten(1)))  # [n, 300]
        x = torch.relu(self.fc2(x))  # [n, 100]
        return self.fc3(x)  # type: ignore[no-any-return]  # torch types a module's call as Any


class LeNet5(nn.Module):
    """[n, c, h, w] → [n, classes] through two convolutions and one hidden layer of 500 units."""

    def __init__(self, params: LeNet5Params) -> None:
        super().__init__()
        side = ((params.image_size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(params.in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, params.classes)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x))  # [n, 20, (h - 4) / 2, (w - 4) / 2]
        x = self.pool(self.conv2(x))  # [n, 50, side, side]
        x = torch.relu(self.fc1(x.flatten(1)))  # [n, 500]
        return self.fc2(x)  # type: ignore[no-any-return]  # torch types a module's call as Any


@register(
    "lenet-300-100",
    LeNetParams,
    source="LeCun et al. 1998, Gradient-based learning applied to document recognition, section III.B",
    summary="Two hidden layers of 300 and 100 units on flattened images.",
)
def build_lenet_300_100(params: LeNetParams) -> Network:
    return _network(LeNet300(params), params)


@register(
    "lenet-5",
    LeNet5Params,
    source="LeCun et al. 1998; with 20 and 50 filters as in Han et al. 2015, table 2",
    summary="Two 5x5 convolutions with 20 and 50 filters, then 500 units.",
)
def build_lenet_5(params: LeNet5Params) -> Network:
    return _network(LeNet5(params), params)


def _network(module: nn.Module, params: LeNetParams) -> Network:
    return image_network(module, (params.in_channels, params.image_size, params.image_size), params.classes)
